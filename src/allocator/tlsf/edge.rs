//! Where a block begins
//!
//! The words on both sides of an edge between two blocks are checked for at once: the last one of the block before, its
//! footer if that is free, and the header of the block behind.

use super::lists::LEAST_FIRST;
use super::{AFTER_FREE, BINNED, MAX_HEAP, damaged};
use crate::error::HeapError;
use crate::heap::{Heap, Word, Words};
use crate::object::{BlockState, Extent, GRANULE, MIN_BLOCK_LEN, TAG_OFFSET};

/// Length of a footer.
const FOOTER_LEN: u64 = 8;
/// What a link to the first block of the smallest heap is.
const LEAST_LINK: u64 = link_to(LEAST_FIRST);
/// What a link is less than.
const END_LINK: u64 = link_to(MAX_HEAP);

/// Where a block begins, or the end mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge<'h, 'a> {
    /// Of the header, in bytes from the start of the heap.
    pub(super) offset: u64,
    words: Words<'h, 'a, 4>,
}

impl<'h, 'a> Edge<'h, 'a> {
    /// Where a header is at `offset`, if one of this allocator's can be there.
    #[inline(always)]
    pub(super) fn at(heap: &'h Heap<'a>, offset: u64) -> Result<Self, HeapError> {
        // Offsets that are not 8 more than a multiple of 16 become links beyond all others.
        Self::in_place(heap, offset.wrapping_sub(GRANULE / 2).rotate_right(GRANULE.trailing_zeros()), offset)
    }

    /// Where a head or a link leads to.
    #[inline(always)]
    pub(super) fn linked(heap: &'h Heap<'a>, link: u64) -> Result<Self, HeapError> {
        Self::in_place(heap, link, offset_of(link))
    }

    #[inline(always)]
    fn in_place(heap: &'h Heap<'a>, link: u64, offset: u64) -> Result<Self, HeapError> {
        // Both bounds at once: what is below the lower one wraps.
        if link.wrapping_sub(LEAST_LINK) >= END_LINK.wrapping_sub(LEAST_LINK) {
            return Err(damaged(offset));
        }
        let offset = offset_of(link);
        Ok(Self { offset, words: heap.words(offset.wrapping_sub(FOOTER_LEN))? })
    }

    /// The last word of the block before.
    #[inline(always)]
    pub(super) fn footer(&self) -> Word<'h, 'a> {
        self.words.get::<0>()
    }

    #[inline(always)]
    pub(super) fn state(&self) -> Word<'h, 'a> {
        self.words.get::<1>()
    }

    #[inline(always)]
    pub(super) fn tag(&self) -> Word<'h, 'a> {
        self.words.get::<2>()
    }

    #[inline(always)]
    pub(super) fn extent(&self) -> Word<'h, 'a> {
        self.words.get::<3>()
    }

    /// Where the block ends that begins here and has `len` bytes.
    #[inline(always)]
    pub(super) fn end(&self, heap: &'h Heap<'a>, len: u64) -> Result<Self, HeapError> {
        Self::at(heap, self.offset.wrapping_add(len))
    }

    #[inline(always)]
    pub(super) fn is_free(&self) -> bool {
        BlockState::from_bits(self.state().load_relaxed()).is_free()
    }

    /// What the extent says now.
    #[inline(always)]
    pub(super) fn size(&self) -> Extent {
        Extent::from_bits(self.extent().load_relaxed())
    }

    /// Length of the block, which must be free, and stand in a list.
    #[inline(always)]
    pub(super) fn listed_len(&self) -> Result<u64, HeapError> {
        let extent = self.size();
        if self.is_free() && extent.own() & BINNED == 0 && extent.len() >= MIN_BLOCK_LEN {
            Ok(extent.len())
        } else {
            Err(damaged(self.offset))
        }
    }

    /// Says whether the block before stands in a list.
    #[inline(always)]
    pub(super) fn put_after_free(&self, is_after_free: bool) {
        let extent = self.size();
        let own = extent.own() & !AFTER_FREE | if is_after_free { AFTER_FREE } else { 0 };
        self.extent().store(extent.with_own(own).bits());
    }

    /// Writes a header to which the chain does not lead yet.
    #[inline(always)]
    pub(super) fn put_header(&self, state: BlockState, extent: Extent) {
        self.state().store(state.bits());
        self.extent().store(extent.bits());
    }
}

/// Offset of the block that a head or link leads to.
#[inline(always)]
const fn offset_of(link: u64) -> u64 {
    link.wrapping_mul(GRANULE).wrapping_add(GRANULE / 2)
}

#[inline(always)]
pub(super) const fn link_to(offset: u64) -> u64 {
    offset / GRANULE
}

/// Offset of the links of the block that a link leads to.
#[inline(always)]
pub(super) const fn links_of(link: u64) -> u64 {
    offset_of(link).wrapping_add(TAG_OFFSET)
}
