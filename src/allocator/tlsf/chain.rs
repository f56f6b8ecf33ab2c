//! The chain of blocks
//!
//! What is true of a heap: where each block begins and ends, and whether it is free. Walks go from the first block
//! to the end mark, at least 32 bytes at a step.

use super::bins::Bin;
use super::edge::Edge;
use super::lists::{Class, Lists};
use super::{AFTER_FREE, BINNED, END_MARK, HIGH_WATER, MAX_HEAP, USED, damaged, enlist};
use crate::error::HeapError;
use crate::heap::{Block, Heap, HeapGuard, Usage};
use crate::object::{BLOCK_HEADER_LEN, BlockState, EXTENT_OFFSET, Extent, GRANULE, MIN_BLOCK_LEN};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};

/// Where the first block begins.
pub(super) const fn first(heap: &Heap<'_>) -> u64 {
    first_of(heap.capacity())
}

/// Where the first block of a heap of this capacity begins.
pub(super) const fn first_of(capacity: u64) -> u64 {
    let end = Class::end(capacity).heads_end(capacity);
    if end % GRANULE == 0 { end.wrapping_add(GRANULE / 2) } else { end }
}

/// Where the end mark of a heap of `len` bytes would best stand.
pub(super) const fn end_mark(len: u64) -> u64 {
    let len = if len < MAX_HEAP { len } else { MAX_HEAP };
    (len & !(GRANULE - 1)).saturating_sub(BLOCK_HEADER_LEN)
}

/// Where the end mark stands: up to 16 bytes earlier, if the heap has grown by too little for a block.
pub(super) fn find_end_mark(heap: &Heap<'_>) -> Result<u64, HeapError> {
    let best = end_mark(heap.len());
    for at in [best, best.wrapping_sub(GRANULE)] {
        if heap.load(at)? == END_MARK.bits() {
            return Ok(at);
        }
    }
    Err(damaged(best))
}

/// A walk along the chain.
#[derive(Debug)]
pub(super) struct Chain<'h, 'a> {
    heap: &'h Heap<'a>,
    at: u64,
}

impl<'h, 'a> Chain<'h, 'a> {
    pub(super) const fn new(heap: &'h Heap<'a>) -> Self {
        Self { heap, at: first(heap) }
    }

    /// The next block, which has a valid state and, if it is in use, an object; `None` at the end mark.
    pub(super) fn next_block(&mut self) -> Result<Option<Block>, HeapError> {
        let at = self.at;
        if self.heap.load(at)? == END_MARK.bits() {
            // One that comes too early would hide blocks.
            let is_early = end_mark(self.heap.len()).saturating_sub(at) >= MIN_BLOCK_LEN;
            return if is_early { Err(damaged(at)) } else { Ok(None) };
        }
        Edge::at(self.heap, at)?;
        let block = self.heap.block(at)?;
        let has_object = block.state.is_free() || block.extent.object_len().is_some();
        #[cfg(planted)]
        let has_object = has_object || is_planted(Mistake::WalkOnTheSpot);
        match block.end() {
            Some(end) if has_object && block.state.is_valid() => self.at = end,
            _ => return Err(damaged(at)),
        }
        Ok(Some(block))
    }
}

/// Writes anew all that repeats what the chain says, and frees blocks that were popped or are not to be kept.
/// Gives how many bytes the latter had.
///
/// It relies on nothing but the chain, and may be killed anywhere and run again.
pub(super) fn mend(
    heap: &Heap<'_>,
    guard: &HeapGuard<'_, '_>,
    keep: &mut dyn FnMut(&Block) -> bool,
) -> Result<u64, HeapError> {
    // They become popped; the walk frees them.
    guard.take_condemned(|_| Ok(()))?;
    Lists(heap).clear()?;
    let (mut used, mut freed) = (0_u64, 0_u64);
    // Where the free blocks begin that end at the block in hand.
    let mut run = None;
    let mut chain = Chain::new(heap);
    while let Some(block) = chain.next_block()? {
        let is_freed = !block.state.is_free() && !block.state.is_popped() && !keep(&block);
        if is_freed {
            freed = freed.wrapping_add(block.extent.len());
        }
        if is_freed || block.state.is_popped() {
            heap.commit_state(block.offset, BlockState::FREE)?;
        }
        if is_freed || block.state.is_popped() || block.state.is_free() {
            run = run.or(Some(block.offset));
            continue;
        }
        let own = end_run(heap, run.take(), block.offset)?;
        if block.extent.own() != own {
            heap.store(block.offset.wrapping_add(EXTENT_OFFSET), block.extent.with_own(own).bits())?;
        }
        used = used.wrapping_add(block.extent.len());
    }
    let own = end_run(heap, run, chain.at)?;
    heap.store(chain.at.wrapping_add(EXTENT_OFFSET), Extent::new(0, 0).with_own(own).bits())?;
    heap.store(USED, used)?;
    let high_water = heap.load(HIGH_WATER)?.min(heap.capacity());
    heap.store(HIGH_WATER, high_water.max(used))?;
    // One that grew the heap died before it said so.
    let len = chain.at.wrapping_add(BLOCK_HEADER_LEN);
    if len > heap.len() {
        guard.set_len(len);
    }
    Ok(freed)
}

/// Makes one block of the free ones from `run` to `end`; gives what the block at `end` says of it.
fn end_run(heap: &Heap<'_>, run: Option<u64>, end: u64) -> Result<u64, HeapError> {
    let Some(start) = run else { return Ok(0) };
    let (start, end) = (Edge::at(heap, start)?, Edge::at(heap, end)?);
    start.extent().commit(Extent::new(end.offset.wrapping_sub(start.offset), 0).bits());
    enlist(heap, &start, &end)?;
    Ok(AFTER_FREE)
}

/// Checks that everything repeats what the chain says.
pub(super) fn check(heap: &Heap<'_>) -> Result<(), HeapError> {
    let (mut used, mut listed, mut binned) = (0_u64, 0_u64, 0_u64);
    let mut own = 0;
    let mut chain = Chain::new(heap);
    while let Some(block) = chain.next_block()? {
        if block.extent.own() & !BINNED != own || block.state.is_popped() {
            return Err(damaged(block.offset));
        }
        if block.extent.own() & BINNED != 0 {
            if !block.state.is_free() || block.extent.slack() != 0 {
                return Err(damaged(block.offset));
            }
            own = 0;
            binned = binned.wrapping_add(1);
            used = used.wrapping_add(block.extent.len());
        } else if block.state.is_free() {
            let footer = Edge::at(heap, chain.at)?.footer().load_relaxed();
            if own != 0 || block.extent.slack() != 0 || footer != block.offset {
                return Err(damaged(block.offset));
            }
            own = AFTER_FREE;
            listed = listed.wrapping_add(1);
        } else {
            own = 0;
            used = used.wrapping_add(block.extent.len());
        }
    }
    let mark = Extent::new(0, 0).with_own(own);
    if heap.load(chain.at.wrapping_add(EXTENT_OFFSET))? != mark.bits() || chain.at > end_mark(heap.len()) {
        return Err(damaged(chain.at));
    }
    for bin in Bin::all(heap) {
        binned = binned.wrapping_sub(bin.check()?);
    }
    if binned != 0 || Lists(heap).check()? != listed {
        return Err(damaged(0));
    }
    if heap.load(USED)? != used {
        return Err(damaged(USED));
    }
    if heap.load(HIGH_WATER)? < used { Err(damaged(HIGH_WATER)) } else { Ok(()) }
}

/// Says how much is in use.
pub(super) fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError> {
    let mut usage = Usage { high_water: heap.load(HIGH_WATER)?, ..Usage::default() };
    let mut chain = Chain::new(heap);
    while let Some(block) = chain.next_block()? {
        let (bytes, blocks) = if block.state.is_free() {
            (&mut usage.free, &mut usage.free_blocks)
        } else {
            (&mut usage.used, &mut usage.blocks)
        };
        *bytes = bytes.wrapping_add(block.extent.len());
        *blocks = blocks.wrapping_add(1);
    }
    if let Some(class) = Lists(heap).last()? {
        usage.largest_free = Lists(heap).largest(class)?.saturating_sub(BLOCK_HEADER_LEN);
    }
    Ok(usage)
}
