//! Two-level segregated fit
//!
//! Free blocks stand in lists by size, and bitmaps say which lists have any. So a block is found, cut, freed and
//! joined with its neighbours in constant time, whatever else the heap holds. One [robust lock](Heap::lock)
//! protects all of it.
//!
//! **The chain of blocks is the truth.** From the first block on, each says by its extent where the next one begins,
//! and by its state whether it is free. One store changes the chain: it can be walked at any instant, and each block
//! in it is either free or in use. Lists, bitmaps, footers, the bits about a free predecessor and the count of bytes
//! only repeat what the chain says. Who takes the lock over from one that died walks the chain and writes them anew.
//!
//! # The heap
//!
//! | offset | word | meaning |
//! |---|---|---|
//! | 0 | first level | bit *g*: group *g* has free blocks |
//! | 8 | used | bytes of all blocks in use |
//! | 16 | high water | most that `used` ever was |
//! | 24 + 264 *g* | bitmap of group *g* | bit *l*: its list *l* has free blocks |
//! | + 8 | heads of group *g* | 64 of 32 bits: the first block in the list; 0: none |
//! | 8 mod 16 | blocks | the first lies behind the last head; each begins where the one before it ends |
//! | | end mark | 24 bytes at the end of the heap, rounded down to 16: the header of no block |
//!
//! There are 16 lists for each doubling of the size. How many doublings there are follows from [`Heap::capacity`]: a
//! heap of 4 KiB has 80 lists, which take 336 bytes, one of 64 GiB has 464.
//!
//! # A block
//!
//! | offset | in use | free |
//! |---|---|---|
//! | 0 | state | `FREE` |
//! | 8 | tag | links: next in the list (bits 0..=31), previous (32..=63) |
//! | 16 | extent | extent, no slack |
//! | 24 | object | anything |
//! | last 8 | object | footer: where the block begins |
//!
//! Heads and links are offsets in granules of 16 bytes, rounded down. Bit 0 of the extent's own bits is
//! `AFTER_FREE`: the block before is free, so its footer stands right before this header. A free block never has it,
//! since free neighbours are joined. The end mark has the state 7, which no block can have, and the size 0.
//!
//! # Commit order
//!
//! | operation | stores in order | killed after it, recovery finds |
//! |---|---|---|
//! | allocate | links of the lists | the block free |
//! | (aligned) | header of the block behind the gap | the block free, the header in its memory |
//! | (aligned) | **extent of the gap** | two free blocks; joins them |
//! | (split) | header of the remainder | the block free, the header in its memory |
//! | | **extent** | free blocks; joins them |
//! | | tag | the same |
//! | | **state: the requester's** | the block in use |
//! | free | **state: free** | free blocks, maybe side by side; joins them |
//! | | **extent of the joined block** | one free block |
//! | | lists, footer, bits | one free block |
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
//! A request takes the first block of the first list in which every block is large enough. Only if there is none, at
//! most [`SEARCH`] blocks are looked at that may be large enough. So the answer may be
//! [`HeapError::OutOfMemory`] although a block would fit; [`Usage::largest_free`] knows of this.
//!
//! # References
//!  - M. Masmano, I. Ripoll, A. Crespo, J. Real: *TLSF: a New Dynamic Memory Allocator for Real-Time Systems*,
//!    ECRTS 2004
//!
//! # Safety
//! Implements an unsafe trait, by safe code.
#![allow(unsafe_code)]

mod chain;
mod lists;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;

use super::RegionAllocator;
use crate::allocator_id::AllocatorId;
use crate::error::HeapError;
use crate::heap::{Block, Heap, HeapGuard, Request, Usage, Visit};
use crate::object::{BLOCK_HEADER_LEN, BlockState, EXTENT_OFFSET, Extent, GRANULE, MIN_BLOCK_LEN};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use chain::Chain;
use core::ops::ControlFlow;
use lists::{Class, LINK_MASK, Lists, SEARCH};

/// Bytes of all blocks in use.
const USED: u64 = 8;
/// Most bytes that were in use at once.
const HIGH_WATER: u64 = 16;

/// Length of a footer.
const FOOTER_LEN: u64 = 8;
/// Own bits of an extent: the block before is free.
const AFTER_FREE: u64 = 1;
/// State of the end mark.
const END_MARK: BlockState = BlockState::from_bits(7);

/// More than this is not used: links cannot reach it.
const MAX_HEAP: u64 = 1 << 36;
/// In no heap does a block begin before this: there are three words, a bitmap and two words of heads at least.
const LEAST_FIRST: u64 = 56;

/// Two-level segregated fit: allocates and frees in constant time, and joins free neighbours at once. The
/// default.
///
/// For heaps from some hundred bytes to 64 GiB; a heap may be larger, but what lies beyond is not used. A block
/// costs its header of 24 bytes, and up to 31 that are left over.
#[derive(Debug)]
pub enum Tlsf {}

// SAFETY: by number of the promises:
// 1. `format` lays one block that is 8 more than a multiple of 16 and ends at the mark. Afterwards blocks come from
//    cutting one at such an offset, into parts of at least 32 bytes, or from joining neighbours.
// 2. `take` gives only a free block in which the object fits behind the gap that aligns it, under the lock; the
//    last thing in `carve` is `hand_out`. The chain leads to the block before that.
// 3. State, tag and payload are written of free blocks only; `put_after_free` keeps size and slack.
// 4. The first store in `release` is `commit_state`, and `mend` does the same for those not kept.
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
        put_header(heap, mark, END_MARK, Extent::new(0, 0).with_own(AFTER_FREE))?;
        put_header(heap, first, BlockState::FREE, Extent::new(mark.wrapping_sub(first), 0))?;
        enlist(heap, first, mark)
    }

    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
        let need = request.block_len().ok_or(HeapError::OutOfMemory)?;
        let guard = heap.lock(|guard| recover(heap, guard))?;
        if guard.has_condemned() {
            drain(heap, &guard)?;
        }
        // While the links are there: the tag takes their place.
        let (block, gap) = take(heap, need, request.align())?;
        carve(heap, &block, gap, need, request)
    }

    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        let _guard = heap.try_lock().ok_or(HeapError::Busy)?;
        release(heap, offset)
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
        // What waits to be freed is not in use.
        if guard.has_condemned() {
            drain(heap, &guard)?;
        }
        chain::usage(heap)
    }

    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError> {
        heap.check_growth(len)?;
        let guard = heap.lock(|guard| recover(heap, guard))?;
        if len <= heap.len() {
            return Ok(());
        }
        let old = chain::find_end_mark(heap)?;
        let new = chain::end_mark(len);
        if new.saturating_sub(old) >= MIN_BLOCK_LEN {
            let extent = Extent::from_bits(heap.load(old.wrapping_add(EXTENT_OFFSET))?);
            let before = free_before(heap, old, extent)?;
            put_header(heap, new, END_MARK, Extent::new(0, 0).with_own(AFTER_FREE))?;
            heap.commit_extent(old, Extent::new(new.wrapping_sub(old), 0))?;
            heap.commit_state(old, BlockState::FREE)?;
            join(heap, old, new, before.as_ref())?;
        }
        guard.set_len(len);
        Ok(())
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

/// The block at `offset`, if it can be one of this allocator.
#[inline(always)]
fn block_at(heap: &Heap<'_>, offset: u64) -> Result<Block, HeapError> {
    // Both bounds at once: what is below the lower one wraps.
    if offset.wrapping_sub(LEAST_FIRST) < MAX_HEAP.wrapping_sub(LEAST_FIRST) {
        heap.block(offset)
    } else {
        Err(damaged(offset))
    }
}

/// The block at `offset`, which must be free.
#[inline(always)]
fn free_block_at(heap: &Heap<'_>, offset: u64) -> Result<Block, HeapError> {
    let block = block_at(heap, offset)?;
    if block.state.is_free() { Ok(block) } else { Err(damaged(offset)) }
}

/// The free block before the one at `offset`, if its extent says that there is one.
#[inline(always)]
fn free_before(heap: &Heap<'_>, offset: u64, extent: Extent) -> Result<Option<Block>, HeapError> {
    if extent.own() & AFTER_FREE == 0 {
        return Ok(None);
    }
    let before = free_block_at(heap, heap.load(offset.wrapping_sub(FOOTER_LEN))?)?;
    if before.end() == Some(offset) { Ok(Some(before)) } else { Err(damaged(before.offset)) }
}

/// Writes a header to which the chain does not lead yet.
#[inline(always)]
fn put_header(heap: &Heap<'_>, offset: u64, state: BlockState, extent: Extent) -> Result<(), HeapError> {
    heap.store(offset, state.bits())?;
    heap.store(offset.wrapping_add(EXTENT_OFFSET), extent.bits())
}

/// Says in a header whether the block before it is free.
#[inline(always)]
fn put_after_free(heap: &Heap<'_>, offset: u64, own: u64) -> Result<(), HeapError> {
    let at = offset.wrapping_add(EXTENT_OFFSET);
    let extent = Extent::from_bits(heap.load(at)?);
    heap.store(at, extent.with_own(own).bits())
}

/// Makes the free block from `offset` to `end` one that is found.
#[inline(always)]
fn enlist(heap: &Heap<'_>, offset: u64, end: u64) -> Result<(), HeapError> {
    heap.store(end.wrapping_sub(FOOTER_LEN), offset)?;
    Lists(heap).insert(offset, end.wrapping_sub(offset))
}

/// Takes a free block out of its list.
#[inline(always)]
fn delist(heap: &Heap<'_>, block: &Block) -> Result<(), HeapError> {
    Lists(heap).remove(block.offset, block.extent.len())
}

/// How far into `block` an object's block of `need` bytes begins; `None` if it does not fit. What is cut off before it
/// is nothing, or large enough for a block.
#[inline(always)]
fn gap(block: &Block, need: u64, align: u64) -> Option<u64> {
    let gap = block.payload().wrapping_neg() & align.wrapping_sub(1);
    let gap = if gap != 0 && gap < MIN_BLOCK_LEN { gap.wrapping_add(align) } else { gap };
    let fits = need.wrapping_add(gap) <= block.extent.len();
    if fits { Some(gap) } else { None }
}

/// Takes a free block out of its list, and says how far into it the object's block begins.
#[inline(always)]
fn take(heap: &Heap<'_>, need: u64, align: u64) -> Result<(Block, u64), HeapError> {
    // `need` is at most 2^36, and an alignment 4096.
    let most = if align == GRANULE { need } else { need.wrapping_add(align).wrapping_add(GRANULE) };
    let Some(class) = Lists(heap).first_from(Class::holding(most))? else {
        return search(heap, need, align);
    };
    let block = Lists(heap).head(class)?;
    let gap = gap(&block, need, align).ok_or(damaged(block.offset))?;
    Lists(heap).remove_head(class, &block)?;
    Ok((block, gap))
}

/// Looks closely: at blocks that may be too small, or lie badly.
#[cold]
fn search(heap: &Heap<'_>, need: u64, align: u64) -> Result<(Block, u64), HeapError> {
    let mut left = SEARCH;
    let mut class = Class::of(need);
    while let Some(found) = Lists(heap).first_from(class)? {
        let mut block = Lists(heap).head(found)?;
        loop {
            if let Some(gap) = gap(&block, need, align) {
                delist(heap, &block)?;
                return Ok((block, gap));
            }
            left = left.saturating_sub(1);
            if left == 0 {
                return Err(HeapError::OutOfMemory);
            }
            match block.tag & LINK_MASK {
                0 => break,
                next => block = Lists(heap).entry(next)?,
            }
        }
        class = found.next();
    }
    Err(HeapError::OutOfMemory)
}

/// Cuts the object's block out of a free one that stands in no list, and hands it out.
#[inline(always)]
fn carve(heap: &Heap<'_>, block: &Block, gap: u64, need: u64, request: &Request) -> Result<u64, HeapError> {
    let end = block.offset.wrapping_add(block.extent.len());
    let offset = block.offset.wrapping_add(gap);
    let mut own = 0;
    if gap != 0 {
        own = AFTER_FREE;
        let extent = Extent::new(end.wrapping_sub(offset), 0).with_own(own);
        put_header(heap, offset, BlockState::FREE, extent)?;
        heap.commit_extent(block.offset, Extent::new(gap, 0))?;
        enlist(heap, block.offset, offset)?;
    }
    let mut len = end.wrapping_sub(offset);
    let rest = len.wrapping_sub(need);
    #[cfg(planted)]
    if is_planted(Mistake::SizeBeforeRemainder) && rest >= MIN_BLOCK_LEN {
        heap.commit_extent(offset, request.extent(need).ok_or(damaged(offset))?.with_own(own))?;
    }
    if rest >= MIN_BLOCK_LEN {
        len = need;
        let remainder = offset.wrapping_add(need);
        put_header(heap, remainder, BlockState::FREE, Extent::new(rest, 0))?;
        enlist(heap, remainder, end)?;
    } else {
        put_after_free(heap, end, 0)?;
    }
    let extent = request.extent(len).ok_or(damaged(offset))?;
    heap.commit_extent(offset, extent.with_own(own))?;
    let used = heap.load(USED)?.wrapping_add(len);
    heap.store(USED, used)?;
    if used > heap.load(HIGH_WATER)? {
        heap.store(HIGH_WATER, used)?;
    }
    heap.hand_out(offset, request)?;
    Ok(offset)
}

/// Frees a block in use.
#[inline(always)]
fn release(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
    let block = block_at(heap, offset)?;
    let in_use = !block.state.is_free() && block.state.is_valid() && block.extent.object_len().is_some();
    let Some(end) = block.end().filter(|_| in_use) else { return Err(damaged(offset)) };
    // All that can be wrong shows before anything is changed.
    let after =
        if BlockState::from_bits(heap.load(end)?).is_free() { Some(free_block_at(heap, end)?) } else { None };
    let before = free_before(heap, offset, block.extent)?;
    heap.commit_state(offset, BlockState::FREE)?;
    let mut free_end = end;
    if let Some(after) = &after {
        delist(heap, after)?;
        free_end = end.wrapping_add(after.extent.len());
    } else {
        put_after_free(heap, end, AFTER_FREE)?;
    }
    join(heap, offset, free_end, before.as_ref())?;
    heap.store(USED, heap.load(USED)?.wrapping_sub(block.extent.len()))
}

/// Makes one block, which is found, of the free memory from `offset` to `end`, and the free block before it.
#[inline(always)]
fn join(heap: &Heap<'_>, offset: u64, end: u64, before: Option<&Block>) -> Result<(), HeapError> {
    let mut start = offset;
    if let Some(before) = before {
        delist(heap, before)?;
        start = before.offset;
    }
    heap.commit_extent(start, Extent::new(end.wrapping_sub(start), 0))?;
    enlist(heap, start, end)
}
