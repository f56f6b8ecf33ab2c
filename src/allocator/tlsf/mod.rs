//! Two-level segregated fit
//!
//! Free blocks stand in lists by size, and bitmaps say which lists have any. So a block is found, cut, freed and
//! joined with its neighbours in constant time, whatever else the heap holds. One [robust lock](Heap::lock)
//! protects all of it.
//!
//! **The chain of blocks is the truth.** From the first block on, each says by its extent where the next one begins,
//! and by its state whether it is free. One store changes the chain: it can be walked at any instant, and each block
//! in it is either free or in use. Lists, bins, bitmaps, footers, the bits about a free predecessor and the count of
//! bytes only repeat what the chain says. Who takes the lock over from one that died walks the chain and writes them
//! anew.
//!
//! In front of the lists are [bins], where blocks of small objects wait, as they are, for the next object of their
//! size: so the usual way to free and to allocate touches nothing but the block itself.
//!
//! # The heap
//!
//! | offset | word | meaning |
//! |---|---|---|
//! | 0 | first level | bit *g*: group *g* has free blocks |
//! | 8 | used | bytes of all blocks that stand in no list |
//! | 16 | high water | most that `used` ever was |
//! | 24 + 8 *g* | bitmap of group *g*, of 8 | bit *l*: list 64 *g* + *l* has free blocks |
//! | 88 | bins | a word for each length from 32 to 544; only if the capacity is 64 KiB or more |
//! | | heads | of 32 bits: the first block in the list; 0: none |
//! | 8 mod 16 | blocks | the first lies behind the last head; each begins where the one before it ends |
//! | | end mark | 24 bytes at the end of the heap, rounded down to 16: the header of no block |
//!
//! There are 16 lists for each doubling of the size. How many doublings there are follows from [`Heap::capacity`]: a
//! heap of 4 KiB has 80 lists, which take 320 bytes, one of 64 GiB has 464.
//!
//! # A block
//!
//! | offset | in use | free |
//! |---|---|---|
//! | 0 | state | `FREE` |
//! | 8 | tag | links: next in the list (bits 0..=31), previous (32..=63; in a bin zero) |
//! | 16 | extent | extent, no slack |
//! | 24 | object | anything |
//! | last 8 | object | footer: where the block begins |
//!
//! Heads and links are offsets in granules of 16 bytes, rounded down. Bit 0 of the extent's own bits is `AFTER_FREE`:
//! the block before stands in a list, so its footer stands right before this header. A block in a list never has it,
//! since such neighbours are joined. Bit 1 is `BINNED`: the block is free and in a bin, and has no footer. The end
//! mark has the state 7, which no block can have, and the size 0.
//!
//! # Commit order
//!
//! | operation | stores in order | killed after it, recovery finds |
//! |---|---|---|
//! | allocate | link of the bin, or links of the lists | the block free |
//! | (aligned) | header of the block behind the gap | the block free, the header in its memory |
//! | (aligned) | **extent of the gap** | two free blocks; joins them |
//! | (split) | header of the remainder | the block free, the header in its memory |
//! | | **extent** | free blocks; joins them |
//! | | tag | the same |
//! | | **state: the requester's** | the block in use |
//! | free | **state: free** | free blocks, maybe side by side; joins them |
//! | (into a bin) | extent, tag, bin | the same |
//! | (joined) | **extent of the joined block** | one free block |
//! | | lists, footer, bits | one free block |
//! | empty a bin | bin, extent; then as in free | the same |
//! | grow | new end mark | the old end mark; the new one lies behind it |
//! | | **extent of the old one** | the old end mark; its size means nothing |
//! | | **its state: free** | the new end mark, and one more free block; sets the new length |
//! | | as in free | the same |
//! | | **length** | the new length |
//! | recover | **state: free**, of blocks popped or not kept | the same, with fewer of them |
//! | | **extent of joined blocks** | the same, with fewer blocks |
//! | | everything else | the same |
//!
//! Stores in bold are [commits](Heap::commit).
//!
//! # Fit
//! A request takes the block on top of the bin of its length; if there is none, the first block of the first list in
//! which every block is large enough. Only if there is none, at most [`SEARCH`] blocks are looked at that may be
//! large enough, then the bins are emptied, a thousand blocks at most, and it is tried once more. So the answer may
//! be [`HeapError::OutOfMemory`] although a block would fit; [`Usage::largest_free`] knows of this.
//!
//! # References
//!  - M. Masmano, I. Ripoll, A. Crespo, J. Real: *TLSF: a New Dynamic Memory Allocator for Real-Time Systems*,
//!    ECRTS 2004
//!
//! # Safety
//! Implements an unsafe trait, by safe code.
#![allow(unsafe_code)]

mod bins;
mod chain;
mod edge;
mod lists;
mod room;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;

use super::RegionAllocator;
use crate::allocator_id::AllocatorId;
use crate::error::HeapError;
use crate::heap::{Block, Demand, Heap, HeapGuard, Request, Usage, Visit};
use crate::object::{BLOCK_HEADER_LEN, BlockState, Extent, GRANULE, MIN_BLOCK_LEN};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use bins::Bin;
use chain::Chain;
use core::mem;
use core::ops::ControlFlow;
use edge::Edge;
use lists::{Class, LINK_MASK, Lists, SEARCH};

/// Bytes of all blocks in use, and in bins.
const USED: u64 = 8;
/// Most bytes that were in use at once.
const HIGH_WATER: u64 = 16;

/// Own bits of an extent: the block before is free, and stands in a list.
const AFTER_FREE: u64 = 1;
/// Own bits of an extent: the block is free, and in a bin.
const BINNED: u64 = 2;
/// State of the end mark.
const END_MARK: BlockState = BlockState::from_bits(7);

/// More than this is not used: links cannot reach it.
const MAX_HEAP: u64 = 1 << 36;

/// Two-level segregated fit: allocates and frees in constant time, and joins free neighbours, those of small objects when
/// memory is short. The default.
///
/// `usage` joins first what waits to be used again as it is; the high water counts that as in use.
///
/// For heaps from some hundred bytes to 64 GiB; a heap may be larger, but what lies beyond is not used. A block
/// costs its header of 24 bytes, and up to 31 that are left over.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
/// use shmem_bind::{RegionAllocator, Tlsf};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// Tlsf::format(&heap)?;
/// let first = Tlsf::allocate(&heap, &plain.request(100, 8, 0))?;
/// let second = Tlsf::allocate(&heap, &plain.request(100, 8, 0))?;
/// Tlsf::free(&heap, first)?;
/// Tlsf::free(&heap, second)?;
/// // What is large is cut from a piece that is joined again.
/// let largest = Tlsf::usage(&heap)?.largest_free;
/// Tlsf::free(&heap, Tlsf::allocate(&heap, &plain.request(largest, 8, 0))?)?;
/// Tlsf::check(&heap)?;
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Debug)]
pub enum Tlsf {}

// SAFETY: by number of the promises:
// 1. `format` lays one block that is 8 more than a multiple of 16 and ends at the mark. Afterwards blocks come from
//    cutting one at such an offset, into parts of at least 32 bytes, or from joining neighbours.
// 2. `take` gives only a free block in which the object fits behind the gap that aligns it, and a bin only a free one of
//    just the length, under the lock; the last thing that happens to either is `hand_out`. The chain leads to the block
//    before that.
// 3. State, tag and payload are written of free blocks only; `put_after_free` keeps size and slack.
// 4. The first store in `release` and in `bins::put` is the commit of the state, and `mend` does the same for those not kept.
// 5. All but `free`, which does not wait, lock with `recover`. Loops go along the chain, where each block is
//    at least 32 bytes, or count down.
unsafe impl RegionAllocator for Tlsf {
    const ID: AllocatorId = AllocatorId::TLSF;

    fn format(heap: &Heap<'_>) -> Result<(), HeapError> {
        let first = chain::first(heap);
        let needed = first.saturating_add(MIN_BLOCK_LEN).saturating_add(BLOCK_HEADER_LEN);
        let len = heap.len();
        if len < needed {
            return Err(HeapError::TooSmall { len, needed });
        }
        let mark = chain::end_mark(len);
        Lists(heap).clear()?;
        heap.store(USED, 0)?;
        heap.store(HIGH_WATER, 0)?;
        let (first, mark) = (Edge::at(heap, first)?, Edge::at(heap, mark)?);
        mark.put_header(END_MARK, Extent::new(0, 0).with_own(AFTER_FREE));
        let len = mark.offset.wrapping_sub(first.offset);
        first.put_header(BlockState::FREE, Extent::new(len, 0));
        enlist(heap, &first, &mark)
    }

    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
        let need = request.block_len().ok_or(HeapError::OutOfMemory)?;
        let guard = heap.lock(|guard| recover(heap, guard))?;
        if guard.has_condemned() {
            drain(heap, &guard)?;
        }
        if request.align() == GRANULE {
            if let Some((block, own)) = pop(heap, need)? {
                return hand_out(&block, request, need, own);
            }
        }
        allocate_listed(heap, need, request)
    }

    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        let _guard = heap.try_lock().ok_or(HeapError::Busy)?;
        if bins::put(heap, offset)? { Ok(()) } else { release(heap, offset) }
    }

    fn walk(heap: &Heap<'_>, visit: &mut Visit<'_>) -> Result<(), HeapError> {
        let _guard = heap.lock(|guard| recover(heap, guard))?;
        let mut chain = Chain::new(heap);
        while let Some(block) = chain.next_block()? {
            if let ControlFlow::Break(()) = visit(&block) {
                break;
            }
        }
        Ok(())
    }

    fn hold_still(heap: &Heap<'_>, work: &mut dyn FnMut()) -> Result<(), HeapError> {
        let _guard = heap.lock(|guard| recover(heap, guard))?;
        work();
        Ok(())
    }

    fn retain(heap: &Heap<'_>, keep: &mut dyn FnMut(&Block) -> bool) -> Result<u64, HeapError> {
        let guard = heap.lock(|guard| recover(heap, guard))?;
        chain::mend(heap, &guard, keep)
    }

    fn check(heap: &Heap<'_>) -> Result<(), HeapError> {
        let _guard = heap.lock(|guard| recover(heap, guard))?;
        chain::check(heap)
    }

    fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError> {
        let guard = heap.lock(|guard| recover(heap, guard))?;
        // What waits to be freed is not in use, and what is in bins is joined when memory is short.
        if guard.has_condemned() {
            drain(heap, &guard)?;
        }
        empty_bins(heap)?;
        chain::usage(heap)
    }

    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError> {
        heap.check_growth(len)?;
        let guard = heap.lock(|guard| recover(heap, guard))?;
        if len <= heap.len() {
            return Ok(());
        }
        let old = Edge::at(heap, chain::find_end_mark(heap)?)?;
        let new = Edge::at(heap, chain::end_mark(len))?;
        let added = new.offset.wrapping_sub(old.offset);
        if new.offset > old.offset && added >= MIN_BLOCK_LEN {
            let before = free_before(heap, &old, old.size())?;
            new.put_header(END_MARK, Extent::new(0, 0).with_own(AFTER_FREE));
            old.extent().commit(Extent::new(added, 0).bits());
            old.state().commit(BlockState::FREE.bits());
            Neighbours { after: None, before, end: new }.join(heap, &old, 0)?;
        }
        guard.set_len(len);
        Ok(())
    }

    fn required_len(demand: &Demand<'_>) -> Option<u64> {
        room::required_len(demand)
    }
}

/// What `lock` is to do after a death.
#[cold]
fn recover(heap: &Heap<'_>, guard: &HeapGuard<'_, '_>) -> Result<(), HeapError> {
    chain::mend(heap, guard, &mut |_| true).map(drop)
}

/// Frees what waits to be freed.
#[cold]
fn drain(heap: &Heap<'_>, guard: &HeapGuard<'_, '_>) -> Result<(), HeapError> {
    guard.take_condemned(|offset| release(heap, offset))
}

#[cold]
const fn damaged(at: u64) -> HeapError {
    HeapError::Damaged { at }
}

/// Allocates what is in no bin.
#[inline(never)]
fn allocate_listed(heap: &Heap<'_>, need: u64, request: &Request) -> Result<u64, HeapError> {
    let mut is_again = false;
    let found = loop {
        match take(heap, need, request.align()) {
            Err(HeapError::OutOfMemory) if !mem::replace(&mut is_again, true) && empty_bins(heap)? => {}
            found => break found?,
        }
    };
    carve(heap, &found, need, request)
}

/// A free block that an object's block fits into.
#[derive(Debug)]
struct Found<'h, 'a> {
    block: Edge<'h, 'a>,
    end: Edge<'h, 'a>,
    /// How far into it the object's block begins: nothing, or enough for a block.
    gap: u64,
}

impl<'h, 'a> Found<'h, 'a> {
    /// `None` if a block of `need` bytes, whose object is to be aligned, does not fit.
    #[inline(always)]
    fn new(
        heap: &'h Heap<'a>,
        block: Edge<'h, 'a>,
        need: u64,
        align: u64,
    ) -> Result<Option<Self>, HeapError> {
        let len = block.listed_len()?;
        let payload = block.offset.wrapping_add(BLOCK_HEADER_LEN);
        let gap = payload.wrapping_neg() & align.wrapping_sub(1);
        let gap = if gap != 0 && gap < MIN_BLOCK_LEN { gap.wrapping_add(align) } else { gap };
        if need.wrapping_add(gap) > len {
            return Ok(None);
        }
        Ok(Some(Self { block, end: block.end(heap, len)?, gap }))
    }
}

/// The free block before the one at `edge`, and its length, if the extent says that there is one.
#[inline(always)]
fn free_before<'h, 'a>(
    heap: &'h Heap<'a>,
    edge: &Edge<'h, 'a>,
    extent: Extent,
) -> Result<Listed<'h, 'a>, HeapError> {
    if extent.own() & AFTER_FREE == 0 {
        return Ok(None);
    }
    let before = Edge::at(heap, edge.footer().load_relaxed())?;
    let len = before.listed_len()?;
    if before.offset.wrapping_add(len) == edge.offset {
        Ok(Some((before, len)))
    } else {
        Err(damaged(before.offset))
    }
}

/// Makes the free block from `start` to `end` one that is found.
#[inline(always)]
fn enlist<'h, 'a>(heap: &'h Heap<'a>, start: &Edge<'h, 'a>, end: &Edge<'h, 'a>) -> Result<(), HeapError> {
    end.footer().store(start.offset);
    Lists(heap).insert(start, end.offset.wrapping_sub(start.offset))
}

/// Takes a free block out of its list.
#[inline(always)]
fn take<'h, 'a>(heap: &'h Heap<'a>, need: u64, align: u64) -> Result<Found<'h, 'a>, HeapError> {
    // `need` is at most 2^36, and an alignment 4096.
    let most = if align == GRANULE { need } else { need.wrapping_add(align).wrapping_add(GRANULE) };
    let Some(class) = Lists(heap).first_from(Class::holding(most))? else {
        return search(heap, need, align);
    };
    let block = Lists(heap).first(class)?;
    let found = Found::new(heap, block, need, align)?.ok_or(damaged(block.offset))?;
    Lists(heap).remove_first(class, &block)?;
    Ok(found)
}

/// Looks closely: at blocks that may be too small, or lie badly.
#[cold]
fn search<'h, 'a>(heap: &'h Heap<'a>, need: u64, align: u64) -> Result<Found<'h, 'a>, HeapError> {
    let mut left = SEARCH;
    let mut class = Class::of(need);
    while let Some(list) = Lists(heap).first_from(class)? {
        let mut block = Lists(heap).first(list)?;
        loop {
            if let Some(found) = Found::new(heap, block, need, align)? {
                Lists(heap).remove(&block, block.listed_len()?)?;
                return Ok(found);
            }
            left = left.saturating_sub(1);
            if left == 0 {
                return Err(HeapError::OutOfMemory);
            }
            match block.tag().load_relaxed() & LINK_MASK {
                0 => break,
                next => block = Edge::linked(heap, next)?,
            }
        }
        class = list.next();
    }
    Err(HeapError::OutOfMemory)
}

/// Cuts the object's block out of a free one that stands in no list, and hands it out.
#[inline(always)]
fn carve(heap: &Heap<'_>, found: &Found<'_, '_>, need: u64, request: &Request) -> Result<u64, HeapError> {
    let end = &found.end;
    let (block, own) = if found.gap == 0 { (found.block, 0) } else { (cut_gap(heap, found)?, AFTER_FREE) };
    let mut len = end.offset.wrapping_sub(block.offset);
    let rest = len.wrapping_sub(need);
    #[cfg(planted)]
    if is_planted(Mistake::SizeBeforeRemainder) && rest >= MIN_BLOCK_LEN {
        let extent = request.extent(need).ok_or(damaged(block.offset))?;
        block.extent().commit(extent.with_own(own).bits());
    }
    if rest >= MIN_BLOCK_LEN {
        len = need;
        let remainder = block.end(heap, need)?;
        remainder.put_header(BlockState::FREE, Extent::new(rest, 0));
        enlist(heap, &remainder, end)?;
    } else {
        end.put_after_free(false);
    }
    let counts = heap.words::<2>(USED)?;
    let (used, high_water) = (counts.get::<0>(), counts.get::<1>());
    let now = used.load_relaxed().wrapping_add(len);
    used.store(now);
    if now > high_water.load_relaxed() {
        high_water.store(now);
    }
    hand_out(&block, request, len, own)
}

/// Makes a free block that stands nowhere any more, and has `len` bytes, the object's.
#[inline(always)]
fn hand_out(block: &Edge<'_, '_>, request: &Request, len: u64, own: u64) -> Result<u64, HeapError> {
    let extent = request.extent(len).ok_or(damaged(block.offset))?;
    block.extent().commit(extent.with_own(own).bits());
    request.hand_out(block.state(), block.tag());
    Ok(block.offset)
}

/// Takes a block of exactly `len` bytes from its bin; gives what its extent says of the block before, too.
#[inline(always)]
fn pop<'h, 'a>(heap: &'h Heap<'a>, len: u64) -> Result<Option<(Edge<'h, 'a>, u64)>, HeapError> {
    match Bin::of(heap, len) {
        Some(bin) => bin.pop(),
        None => Ok(None),
    }
}

/// Joins all that is in bins; gives whether there was anything.
#[cold]
fn empty_bins(heap: &Heap<'_>) -> Result<bool, HeapError> {
    let mut is_any = false;
    for bin in Bin::all(heap) {
        is_any |= bin.empty(&mut |block, own| {
            let extent = block.size().with_own(own);
            block.extent().store(extent.bits());
            Neighbours::of(heap, &block, extent)?.join(heap, &block, extent.len())
        })?;
    }
    Ok(is_any)
}

/// Cuts off what is before the object's block, which makes that aligned.
#[cold]
fn cut_gap<'h, 'a>(heap: &'h Heap<'a>, found: &Found<'h, 'a>) -> Result<Edge<'h, 'a>, HeapError> {
    let block = found.block.end(heap, found.gap)?;
    let len = found.end.offset.wrapping_sub(block.offset);
    block.put_header(BlockState::FREE, Extent::new(len, 0).with_own(AFTER_FREE));
    found.block.extent().commit(Extent::new(found.gap, 0).bits());
    enlist(heap, &found.block, &block)?;
    Ok(block)
}

/// A free block that stands in a list, and its length.
type Listed<'h, 'a> = Option<(Edge<'h, 'a>, u64)>;

/// Frees a block in use by joining it with those beside it.
#[inline(never)]
fn release(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
    let block = Edge::at(heap, offset)?;
    let (state, extent) = (BlockState::from_bits(block.state().load()), block.size());
    if !state.is_in_use() || extent.object_len().is_none() || extent.len() < MIN_BLOCK_LEN {
        return Err(damaged(offset));
    }
    // All that can be wrong shows before anything is changed.
    let neighbours = Neighbours::of(heap, &block, extent)?;
    block.state().commit(BlockState::FREE.bits());
    neighbours.join(heap, &block, extent.len())
}

/// What is around a block that becomes free.
struct Neighbours<'h, 'a> {
    /// The block behind it, if that stands in a list.
    after: Listed<'h, 'a>,
    before: Listed<'h, 'a>,
    /// Where the block ends, or the one behind it that it is joined with.
    end: Edge<'h, 'a>,
}

impl<'h, 'a> Neighbours<'h, 'a> {
    #[inline(always)]
    fn of(heap: &'h Heap<'a>, block: &Edge<'h, 'a>, extent: Extent) -> Result<Self, HeapError> {
        let mut end = block.end(heap, extent.len())?;
        let mut after = None;
        if end.is_free() && end.size().own() & BINNED == 0 {
            let len = end.listed_len()?;
            after = Some((end, len));
            end = end.end(heap, len)?;
        }
        Ok(Self { after, before: free_before(heap, block, extent)?, end })
    }

    /// Makes one block, which is found, of `block`, which is free, and those that stand in lists beside it. So many bytes
    /// are in use no more.
    #[inline(always)]
    fn join(self, heap: &'h Heap<'a>, block: &Edge<'h, 'a>, freed: u64) -> Result<(), HeapError> {
        match self.after {
            Some((after, len)) => Lists(heap).remove(&after, len)?,
            None => self.end.put_after_free(true),
        }
        let mut start = *block;
        if let Some((before, len)) = self.before {
            Lists(heap).remove(&before, len)?;
            start = before;
        }
        let len = self.end.offset.wrapping_sub(start.offset);
        start.extent().commit(Extent::new(len, 0).bits());
        enlist(heap, &start, &self.end)?;
        let used = heap.words::<1>(USED)?.get::<0>();
        used.store(used.load_relaxed().wrapping_sub(freed));
        Ok(())
    }
}
