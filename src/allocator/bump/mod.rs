//! The bump allocator
//!
//! Blocks lie one behind the other, up to a frontier that only moves forward. A block is claimed by one
//! compare-and-swap, so nobody waits for anybody, and a process that is killed holds nobody up. What is freed is
//! not used again before somebody is alone with the heap; then the frontier moves back over the free blocks
//! before it.
//!
//! # Layout
//!
//! | offset | word | meaning |
//! |---|---|---|
//! | 0 | frontier | below |
//! | 8 | high water | most bytes in blocks, up to when the frontier moved back last |
//! | 16 | | not used |
//! | 24 | | the first block; each block ends where the next begins |
//!
//! | bits of the frontier | field |
//! |---|---|
//! | 0 | LOOKED: the next bit says what was there |
//! | 1 | COLOUR of the extent word at the frontier when it was in no block; zero if not LOOKED |
//! | 2..=63 | where the next block begins, which is 8 more than a multiple of 16 |
//!
//! | own bits of an extent | field |
//! |---|---|
//! | 0..=5 | slot that claimed the block |
//! | 6 | RAW: the state word is not written yet, so whatever it says, the block is void |
//! | 7 | COLOUR: the other one than was found here |
//!
//! # Claiming
//! Memory at the frontier holds anything: it is never cleared, neither when the heap is formatted, which may be
//! large and have no pages yet, nor when the frontier moves back. An extent word in it that nobody has written looks
//! like one of a block. A colour tells them apart:
//!
//! | step | word | from | to | by |
//! |---|---|---|---|---|
//! | look | frontier | at *f* | at *f*, LOOKED, colour of the word found | anybody |
//! | claim | extent at *f* | a word of this colour | size, slot, RAW, the other colour | the claimer |
//! | advance | frontier | at *f*, LOOKED | at *f* + size | anybody |
//! | void | state, then extent | RAW | state 0, not RAW | the claimer |
//! | hand out | tag, then state | 0 | the requester's | the claimer |
//!
//! All but the last two lines are compare-and-swaps. An extent at which the frontier has ever been changes its colour
//! once, by the claim, and never back, and the frontier never returns to an offset; so whoever is late fails and
//! looks again. Only [`begin_alone`](RegionAllocator::begin_alone) moves the frontier back, when nobody can be late.
//!
//! An object with a large alignment may need a gap before its block. Gap and block are claimed as one. Once the
//! frontier has passed, the claimer writes the header of the block inside, and then cuts off the gap in one store, to
//! the extent in front; it stays as a free block.
//!
//! # What a kill leaves
//! - Between claim and advance: the next one who allocates advances.
//! - Between claim and hand out: a void block with the claimer's slot. It is in use by nobody; `retain` asks about it
//!   as one that this slot has, and makes it a free block if the answer is no. So does `begin_alone`.
//! - Everywhere else each store by itself leads from a sound heap to another.
//!
//! # Safety
//! Implements an unsafe trait.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use super::RegionAllocator;
use crate::allocator_id::AllocatorId;
use crate::error::HeapError;
use crate::heap::{Block, Demand, Heap, Request, Usage, Visit};
use crate::object::{BLOCK_HEADER_LEN, BlockState, EXTENT_OFFSET, Extent, GRANULE, MIN_BLOCK_LEN};
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;

/// Offset of the frontier word.
const FRONTIER: u64 = 0;
/// Offset of the high-water word.
const HIGH_WATER: u64 = 8;
/// Offset of the first block.
const FIRST: u64 = 24;

/// In the own bits of an extent.
const SLOT: u64 = 0x3f;
const RAW: u64 = 1 << 6;
const COLOUR: u64 = 1 << 7;

/// Hands out memory in one direction, and takes it back only when an attachment is alone with the heap.
///
/// For what is built once and then only read. Allocating and freeing take no lock; only growing does. An object
/// costs its header of 24 bytes and what it takes to make the block a multiple of 16 bytes.
///
/// Freed blocks are not used again until [`begin_alone`](RegionAllocator::begin_alone), which gives back those at the
/// end. [`Usage::largest_free`] is what is left beyond them; a block that was freed counts in [`Usage::free`]
/// all the same.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
/// use shmem_bind::{Bump, RegionAllocator};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..32).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(256);
/// let heap = plain.heap(&memory, &[], 0);
/// Bump::format(&heap)?;
/// let first = Bump::allocate(&heap, &plain.request(100, 1, 0))?;
/// let second = Bump::allocate(&heap, &plain.request(8, 8, 0))?;
/// assert_eq!(second, first + 128);
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Debug)]
pub enum Bump {}

/// The frontier word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frontier(u64);

impl Frontier {
    const LOOKED: u64 = 1;
    const COLOUR: u64 = 2;
    /// What the bits below the granule are, without the two flags, in every offset where a block can begin.
    const LOW: u64 = FIRST % GRANULE;

    /// At this offset, where nobody has looked yet.
    const fn at(offset: u64) -> Self {
        Self(offset)
    }

    fn load(heap: &Heap<'_>) -> Result<Self, HeapError> {
        let frontier = Self(heap.load(FRONTIER)?);
        let flags = frontier.0 & (Self::LOOKED | Self::COLOUR);
        let is_place = frontier.offset() % GRANULE == Self::LOW && frontier.offset() >= FIRST;
        let fits = frontier.offset() <= heap.capacity();
        if is_place && fits && flags != Self::COLOUR {
            Ok(frontier)
        } else {
            Err(HeapError::Damaged { at: FRONTIER })
        }
    }

    const fn offset(self) -> u64 {
        self.0 & !(Self::LOOKED | Self::COLOUR)
    }

    /// The colour of the extent here before it is claimed, as far as somebody has looked.
    const fn unclaimed_colour(self) -> Option<u64> {
        match (self.0 & Self::LOOKED != 0, self.0 & Self::COLOUR != 0) {
            (true, true) => Some(COLOUR),
            (true, false) => Some(0),
            (false, _) => None,
        }
    }

    /// The same, with what was found.
    const fn looked(self, found: Extent) -> Self {
        let colour = if found.own() & COLOUR != 0 { Self::COLOUR } else { 0 };
        Self(self.offset() | Self::LOOKED | colour)
    }

    /// Changes the word, unless somebody else has.
    fn replace(self, heap: &Heap<'_>, next: Self) -> Result<bool, HeapError> {
        // SYNC: Release here, Acquire in `load`: who finds the frontier behind a block finds its extent.
        let frontier = heap.word(FRONTIER)?;
        Ok(frontier.compare_exchange(self.0, next.0, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// Moves behind the block here, which somebody has claimed with this extent; or somebody else does.
    fn advance(self, heap: &Heap<'_>, extent: Extent) -> Result<(), HeapError> {
        let at = self.offset();
        match at.checked_add(extent.len()) {
            Some(next) if extent.len() >= MIN_BLOCK_LEN && next <= heap.capacity() => {
                self.replace(heap, Self::at(next))?;
                Ok(())
            }
            _ => Err(HeapError::Damaged { at }),
        }
    }
}

/// What a block below the frontier is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    InUse,
    Free,
    /// Claimed and not handed out, by this slot.
    Void(u64),
}

/// Bytes between `at` and a block whose payload is aligned: none, or as many as a block can have.
fn gap(at: u64, align: u64) -> Option<u64> {
    let payload = at.checked_add(BLOCK_HEADER_LEN)?;
    let gap = payload.checked_next_multiple_of(align)?.checked_sub(payload)?;
    match gap {
        0 | MIN_BLOCK_LEN.. => Some(gap),
        _ => gap.checked_add(align),
    }
}

/// Claims as much at the frontier as the request needs; gives the offset, the length of the gap, and the extent of
/// both together.
fn claim(heap: &Heap<'_>, request: &Request) -> Result<(u64, u64, Extent), HeapError> {
    let len = request.block_len().ok_or(HeapError::OutOfMemory)?;
    // Whenever an exchange fails, somebody else's has succeeded, of which there are three for each block.
    let attempts = (heap.capacity() / MIN_BLOCK_LEN).saturating_add(1).saturating_mul(3);
    for _ in 0..attempts {
        let frontier = Frontier::load(heap)?;
        let at = frontier.offset();
        let room = heap.len().saturating_sub(at);
        if room < MIN_BLOCK_LEN {
            return Err(HeapError::OutOfMemory);
        }
        let found = Extent::from_bits(heap.load(at.wrapping_add(EXTENT_OFFSET))?);
        let unclaimed = frontier.unclaimed_colour();
        if unclaimed.is_some_and(|colour| found.own() & COLOUR != colour) {
            frontier.advance(heap, found)?;
            continue;
        }
        let gap = gap(at, request.align()).ok_or(HeapError::OutOfMemory)?;
        let total = gap.checked_add(len).ok_or(HeapError::OutOfMemory)?;
        if total > room || total > Extent::MAX_LEN {
            return Err(HeapError::OutOfMemory);
        }
        let Some(colour) = unclaimed else {
            frontier.replace(heap, frontier.looked(found))?;
            continue;
        };
        let whole = if gap == 0 { request.extent(len) } else { Some(Extent::new(total, 0)) };
        let whole = whole.ok_or(HeapError::OutOfMemory)?.with_own(colour ^ COLOUR | RAW | heap.slot());
        // SYNC: Release here, Acquire in `load`s of the extent.
        let claimed = heap.word(at.wrapping_add(EXTENT_OFFSET))?.compare_exchange(
            found.bits(),
            whole.bits(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if claimed.is_ok() {
            // Nobody has the block cut in two before the frontier is behind it: it would end up between them.
            frontier.advance(heap, whole)?;
            return Ok((at, gap, whole));
        }
    }
    Err(HeapError::Damaged { at: FRONTIER })
}

/// Passes on each block below the frontier.
fn blocks(
    heap: &Heap<'_>,
    mut each: impl FnMut(&Block, Status) -> Result<ControlFlow<()>, HeapError>,
) -> Result<(), HeapError> {
    let frontier = Frontier::load(heap)?.offset();
    let mut at = FIRST;
    while at < frontier {
        // Before the state: if this one is not RAW, the state word was written before it is read.
        let first = Extent::from_bits(heap.load(at.wrapping_add(EXTENT_OFFSET))?);
        let block = heap.block(at)?;
        // Forward by `MIN_BLOCK_LEN` or more each time, so this comes to an end.
        let end = block.end().filter(|end| *end <= frontier).ok_or(HeapError::Damaged { at })?;
        let status = if first.own() & RAW != 0 || block.state.bits() == 0 {
            Status::Void(first.own() & SLOT)
        } else if block.state.is_free() {
            Status::Free
        } else if block.state.is_valid() {
            Status::InUse
        } else {
            return Err(HeapError::Damaged { at });
        };
        if each(&block, status)?.is_break() {
            break;
        }
        at = end;
    }
    Ok(())
}

/// Makes a block a free one, also one that was never handed out.
fn discard(heap: &Heap<'_>, block: &Block) -> Result<(), HeapError> {
    heap.commit_state(block.offset, BlockState::FREE)?;
    if block.extent.own() & RAW != 0 {
        let own = block.extent.own() & !RAW;
        heap.commit_extent(block.offset, block.extent.with_own(own))?;
    }
    Ok(())
}

// SAFETY:
// 1. `claim` makes blocks of whole granules, which begin at the frontier and end where it goes next, not beyond the
//    heap's end; or they are cut from one such, behind a gap of whole granules. `FIRST` is behind the own words, and
//    8 more than a multiple of 16.
// 2. Of all that claim at one offset one succeeds, since the colour changes once. `block_len` is long enough for
//    the object, and `gap` makes its offset a multiple of the alignment. `hand_out` comes last, when the frontier is
//    behind the block; until then it is void.
// 3. After that, its header is written by `free` and `retain` alone; the colour, which is compared by those who
//    are late, stays, and so they change nothing.
// 4. `discard` and `free` begin with the state. Memory below the frontier is not handed out again before nobody else
//    uses the heap.
// 5. See the head of this file; no lock is needed but in `grow`, where it protects one store.
unsafe impl RegionAllocator for Bump {
    const ID: AllocatorId = AllocatorId::BUMP;

    fn format(heap: &Heap<'_>) -> Result<(), HeapError> {
        let needed = FIRST.wrapping_add(MIN_BLOCK_LEN);
        if heap.len() < needed {
            return Err(HeapError::TooSmall { len: heap.len(), needed });
        }
        heap.commit(HIGH_WATER, 0)?;
        heap.commit(FRONTIER, Frontier::at(FIRST).0)
    }

    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
        let (at, gap, whole) = claim(heap, request)?;
        let kept = whole.with_own(whole.own() & !RAW);
        if gap == 0 {
            heap.commit_state(at, BlockState::from_bits(0))?;
            heap.commit_extent(at, kept)?;
            heap.hand_out(at, request)?;
            return Ok(at);
        }
        let block = at.wrapping_add(gap);
        let extent = whole.len().checked_sub(gap).and_then(|len| request.extent(len));
        let extent = extent.ok_or(HeapError::Damaged { at })?.with_own(heap.slot());
        heap.commit_state(block, BlockState::from_bits(0))?;
        heap.commit_extent(block, extent)?;
        heap.commit_state(at, BlockState::FREE)?;
        heap.commit_extent(at, Extent::new(gap, 0).with_own(kept.own()))?;
        heap.hand_out(block, request)?;
        Ok(block)
    }

    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        let block = heap.block(offset)?;
        let frontier = Frontier::load(heap)?.offset();
        let is_below = offset >= FIRST && block.end().is_some_and(|end| end <= frontier);
        let is_in_use = block.state.is_in_use() && block.extent.own() & RAW == 0;
        if is_below && is_in_use { discard(heap, &block) } else { Err(HeapError::Damaged { at: offset }) }
    }

    fn walk(heap: &Heap<'_>, visit: &mut Visit<'_>) -> Result<(), HeapError> {
        blocks(heap, |block, status| {
            Ok(if matches!(status, Status::Void(_)) { ControlFlow::Continue(()) } else { visit(block) })
        })
    }

    fn retain(heap: &Heap<'_>, keep: &mut dyn FnMut(&Block) -> bool) -> Result<u64, HeapError> {
        // Nothing waits to be freed, since `free` never fails for want of a lock. But a block may have been claimed
        // by one that died before the frontier moved.
        let frontier = Frontier::load(heap)?;
        if let Some(colour) = frontier.unclaimed_colour() {
            let found = Extent::from_bits(heap.load(frontier.offset().wrapping_add(EXTENT_OFFSET))?);
            if found.own() & COLOUR != colour {
                frontier.advance(heap, found)?;
            }
        }
        let mut freed = 0_u64;
        blocks(heap, |block, status| {
            let kept = match status {
                Status::Free => true,
                Status::InUse => keep(block),
                Status::Void(slot) => {
                    let state = BlockState::owned_by(slot).ok_or(HeapError::Damaged { at: block.offset })?;
                    keep(&block.with_state(state))
                }
            };
            if !kept {
                discard(heap, block)?;
                freed = freed.saturating_add(block.extent.len());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(freed)
    }

    fn check(heap: &Heap<'_>) -> Result<(), HeapError> {
        let frontier = Frontier::load(heap)?;
        if frontier.offset() > heap.len() {
            return Err(HeapError::Damaged { at: FRONTIER });
        }
        if heap.load(HIGH_WATER)? > heap.capacity() {
            return Err(HeapError::Damaged { at: HIGH_WATER });
        }
        blocks(heap, |block, status| {
            let is_sound = match status {
                Status::InUse => block.extent.object_len().is_some(),
                Status::Free => true,
                Status::Void(slot) => BlockState::owned_by(slot).is_some(),
            };
            if is_sound {
                Ok(ControlFlow::Continue(()))
            } else {
                Err(HeapError::Damaged { at: block.offset })
            }
        })
    }

    fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError> {
        let frontier = Frontier::load(heap)?.offset();
        let in_blocks = frontier.saturating_sub(FIRST);
        let high_water = heap.load(HIGH_WATER)?.max(in_blocks);
        let mut usage = Usage { high_water, ..Usage::default() };
        blocks(heap, |block, status| {
            let (bytes, number) = match status {
                Status::InUse => (&mut usage.used, &mut usage.blocks),
                Status::Free => (&mut usage.free, &mut usage.free_blocks),
                Status::Void(_) => return Ok(ControlFlow::Continue(())),
            };
            *bytes = bytes.saturating_add(block.extent.len());
            *number = number.saturating_add(1);
            Ok(ControlFlow::Continue(()))
        })?;
        let rest = heap.len().saturating_sub(frontier) & !GRANULE.wrapping_sub(1);
        if rest >= MIN_BLOCK_LEN {
            usage.free = usage.free.saturating_add(rest);
            usage.free_blocks = usage.free_blocks.saturating_add(1);
            usage.largest_free = rest.min(Extent::MAX_LEN).saturating_sub(BLOCK_HEADER_LEN);
        }
        Ok(usage)
    }

    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError> {
        heap.check_growth(len)?;
        // Of two that grow it at once, neither makes it shorter again. The lock protects nothing else, so one who
        // dies with it leaves nothing to put right.
        let guard = heap.lock(|_| Ok(()))?;
        if len > heap.len() {
            guard.set_len(len);
        }
        Ok(())
    }

    fn required_len(demand: &Demand<'_>) -> Option<u64> {
        FIRST.checked_add(demand.row()?.bytes.max(MIN_BLOCK_LEN)).filter(|len| *len <= Extent::MAX_LEN)
    }

    fn begin_alone(heap: &Heap<'_>) -> Result<(), HeapError> {
        let frontier = Frontier::load(heap)?.offset();
        let mut end_of_used = FIRST;
        blocks(heap, |block, status| {
            match status {
                Status::InUse => end_of_used = block.offset.saturating_add(block.extent.len()),
                Status::Free => {}
                // Nobody is left who could hand it out.
                Status::Void(_) => discard(heap, block)?,
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let high_water = heap.load(HIGH_WATER)?.max(frontier.saturating_sub(FIRST));
        heap.commit(HIGH_WATER, high_water)?;
        // One store gives everything back: what is beyond may be anything.
        heap.commit(FRONTIER, Frontier::at(end_of_used).0)
    }
}
