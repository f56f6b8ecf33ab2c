//! Bins: free blocks that are kept as they are
//!
//! Programs free objects of a size and soon allocate that size again. So the block of a small object that is freed is
//! not joined with its neighbours at once: it goes into the bin of blocks of exactly its size, on top, and the next
//! object of that size takes it from there. Neither of the two touches anything but the block itself.
//!
//! To its neighbours such a block looks like one in use: the block behind it is not told, and `BINNED` in its own
//! extent keeps it from being joined. It is among the bytes in use that are counted, too. A bin holds at most
//! [`MOST`] blocks; further ones are joined as they are freed. When an allocation finds nothing, all bins are
//! emptied, which joins what is in them, before it looks again.
//!
//! # The word of a bin
//!
//! | bits | field |
//! |---|---|
//! | 0..=31 | link to the block on top; 0: none. Each block's tag is the link to the one below |
//! | 32..=63 | number of blocks |
//!
//! Heaps below [`LEAST_CAPACITY`] have no bins, since these would take too much of them.

use super::edge::{Edge, link_to};
use super::lists::{BITMAPS_END, LINK_MASK};
use super::{AFTER_FREE, BINNED, damaged};
use crate::error::HeapError;
use crate::heap::{Heap, Word};
use crate::object::{BlockState, Extent, GRANULE, MIN_BLOCK_LEN};

/// Blocks that a bin holds.
const MOST: u64 = 32;
/// The longest block that has a bin: that of an object of 512 bytes and a few more.
const LONGEST: u64 = 544;
/// Bytes of all bins: a word for each multiple of 16 from the shortest block on.
#[allow(clippy::arithmetic_side_effects)] // By the compiler.
const BINS_LEN: u64 = ((LONGEST - MIN_BLOCK_LEN) / GRANULE + 1) * 8;
/// Heaps that may become so long have bins.
const LEAST_CAPACITY: u64 = 64 * 1024;

/// Frees the block at `offset` by putting it on top of its bin. Gives whether that was possible: if not, nothing has
/// been done, and perhaps the block is none that can be freed.
#[inline(always)]
pub(super) fn put(heap: &Heap<'_>, offset: u64) -> Result<bool, HeapError> {
    let block = Edge::at(heap, offset)?;
    let extent = block.size();
    let is_sound = extent.object_len().is_some() && offset.wrapping_add(extent.len()) < heap.capacity();
    if !is_sound || !BlockState::from_bits(block.state().load()).is_exclusive() {
        return Ok(false);
    }
    let Some(bin) = Bin::of(heap, extent.len()) else { return Ok(false) };
    let bits = bin.word.load_relaxed();
    if bits >= MOST << 32 {
        return Ok(false);
    }
    block.state().commit(BlockState::FREE.bits());
    let own = extent.own() & AFTER_FREE | BINNED;
    block.extent().store(Extent::new(extent.len(), 0).with_own(own).bits());
    let link = bits & LINK_MASK;
    block.tag().store(link);
    // One more, and another link.
    bin.word.store(bits.wrapping_sub(link).wrapping_add(1 << 32 | link_to(offset)));
    Ok(true)
}

/// Where the bins of a heap of this capacity end.
#[inline(always)]
pub(super) const fn end(capacity: u64) -> u64 {
    if capacity < LEAST_CAPACITY { BITMAPS_END } else { BITMAPS_END.wrapping_add(BINS_LEN) }
}

/// The bin of blocks of one length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bin<'h, 'a> {
    heap: &'h Heap<'a>,
    word: Word<'h, 'a>,
    len: u64,
}

impl<'h, 'a> Bin<'h, 'a> {
    /// The bin of blocks of `len` bytes, at least 32; `None` if they have none.
    #[inline(always)]
    pub(super) fn of(heap: &'h Heap<'a>, len: u64) -> Option<Self> {
        let distance = len.wrapping_sub(MIN_BLOCK_LEN);
        if distance > LONGEST - MIN_BLOCK_LEN || heap.capacity() < LEAST_CAPACITY {
            return None;
        }
        let words = heap.words::<1>(BITMAPS_END.wrapping_add((distance / GRANULE).wrapping_mul(8))).ok()?;
        Some(Self { heap, word: words.get::<0>(), len })
    }

    /// All bins of a heap.
    pub(super) fn all(heap: &'h Heap<'a>) -> impl Iterator<Item = Self> {
        let lens = (MIN_BLOCK_LEN..=LONGEST).step_by(GRANULE as usize);
        lens.filter_map(|len| Self::of(heap, len))
    }

    /// Takes each block in turn that is in it, and passes on what [`pop`](Self::pop) gives; says whether there was any.
    pub(super) fn empty(
        self,
        work: &mut dyn FnMut(Edge<'h, 'a>, u64) -> Result<(), HeapError>,
    ) -> Result<bool, HeapError> {
        // However the blocks may overlap that somebody has damaged.
        for count in 0..=MOST {
            match self.pop()? {
                Some((block, own)) => work(block, own)?,
                None => return Ok(count != 0),
            }
        }
        Err(damaged(BITMAPS_END))
    }

    /// Takes the block on top; gives what its extent says of the block before, too.
    #[inline(always)]
    pub(super) fn pop(self) -> Result<Option<(Edge<'h, 'a>, u64)>, HeapError> {
        let bits = self.word.load_relaxed();
        let link = bits & LINK_MASK;
        if link == 0 {
            return Ok(None);
        }
        let block = Edge::linked(self.heap, link)?;
        if bits < 1 << 32 {
            return Err(damaged(block.offset));
        }
        let own = self.own(&block)?;
        // One less, and another link.
        let next = block.tag().load_relaxed() & LINK_MASK;
        self.word.store(bits.wrapping_sub(1 << 32 | link) | next);
        Ok(Some((block, own)))
    }

    /// What the extent of a block, which must be one of this bin, says of the block before.
    #[inline(always)]
    fn own(self, block: &Edge<'h, 'a>) -> Result<u64, HeapError> {
        let extent = block.size();
        let own = extent.own() & AFTER_FREE;
        let expected = Extent::new(self.len, 0).with_own(own | BINNED);
        if block.is_free() && extent == expected { Ok(own) } else { Err(damaged(block.offset)) }
    }

    /// Checks what is in it; gives how many blocks.
    pub(super) fn check(self) -> Result<u64, HeapError> {
        let bits = self.word.load_relaxed();
        let (mut link, count) = (bits & LINK_MASK, bits >> 32);
        if count > MOST {
            return Err(damaged(BITMAPS_END));
        }
        let mut left = count;
        while link != 0 && left != 0 {
            let block = Edge::linked(self.heap, link)?;
            self.own(&block)?;
            link = block.tag().load_relaxed();
            left = left.wrapping_sub(1);
        }
        if link == 0 && left == 0 { Ok(count) } else { Err(damaged(BITMAPS_END)) }
    }
}
