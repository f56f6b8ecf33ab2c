//! Free lists
//!
//! Which list a block stands in follows from its size alone: below 32 granules each size has a list, and from there on
//! each doubling has 16. Groups of 64 lists, with the bitmap that belongs to them, make the second level.
//! Everything here repeats what the chain of blocks says, so no store is a commit.

use super::{LEAST_FIRST, MAX_HEAP, damaged, free_block_at};
use crate::error::HeapError;
use crate::heap::{Block, Heap};
use crate::object::{GRANULE, TAG_OFFSET};

/// Lists for each doubling of the size.
const PER_DOUBLING: u64 = 16;
/// Lists whose bits are in one word.
const GROUP_LISTS: u64 = 64;
/// Which groups have free blocks.
const FIRST_LEVEL: u64 = 0;
/// Where the first group begins.
const GROUPS: u64 = 24;
/// Length of a bitmap.
const BITMAP_LEN: u64 = 8;
/// Length of a group: its bitmap, and two heads a word.
const GROUP_LEN: u64 = BITMAP_LEN + GROUP_LISTS / 2 * 8;

/// A head or a link.
pub(super) const LINK_MASK: u64 = u32::MAX as u64;
const PREVIOUS_SHIFT: u32 = 32;

/// Blocks that are looked at, when no list is certain to have one that is large enough.
pub(super) const SEARCH: u64 = 64;

/// Number of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class(u64);

// Sizes are below 2^37, so lists are below 480; damaged bitmaps name some below 4096.
#[allow(clippy::arithmetic_side_effects)]
impl Class {
    /// By how much sizes are shifted so that what is left is the list within the doubling.
    #[inline(always)]
    const fn shift(granules: u64) -> u32 {
        (granules | PER_DOUBLING).ilog2() - PER_DOUBLING.ilog2()
    }

    #[inline(always)]
    const fn of_granules(granules: u64) -> Self {
        let shift = Self::shift(granules);
        Self(shift as u64 * PER_DOUBLING + (granules >> shift))
    }

    /// The list of blocks of `len` bytes.
    #[inline(always)]
    pub(super) const fn of(len: u64) -> Self {
        Self::of_granules(len / GRANULE)
    }

    /// The first list whose blocks all have `len` bytes or more.
    #[inline(always)]
    pub(super) const fn holding(len: u64) -> Self {
        let granules = len / GRANULE;
        Self::of_granules(granules + (1 << Self::shift(granules)) - 1)
    }

    /// One more than the last list of a heap that can become `capacity` bytes long.
    #[inline(always)]
    pub(super) const fn end(capacity: u64) -> Self {
        let capacity = if capacity < MAX_HEAP { capacity } else { MAX_HEAP };
        Self::of(capacity.saturating_sub(LEAST_FIRST)).next()
    }

    #[inline(always)]
    const fn new(group: u64, index: u32) -> Self {
        Self(group * GROUP_LISTS + index as u64)
    }

    #[inline(always)]
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// All lists from the first to the one before `end`.
    pub(super) fn all(end: Self) -> impl Iterator<Item = Self> {
        (0..end.0).map(Self)
    }

    #[inline(always)]
    const fn group(self) -> u64 {
        self.0 / GROUP_LISTS
    }

    /// Number in its group.
    #[inline(always)]
    const fn index(self) -> u64 {
        self.0 % GROUP_LISTS
    }

    #[inline(always)]
    const fn bit(self) -> u64 {
        1 << self.index()
    }

    /// Offset of the word with the head, and how far up it is in it.
    #[inline(always)]
    const fn head(self) -> (u64, u64) {
        let index = self.index();
        (bitmap_at(self.group()) + BITMAP_LEN + index / 2 * 8, index % 2 * 32)
    }

    /// Where the heads of a heap end that has the lists before this one.
    pub(super) const fn heads_end(self) -> u64 {
        let index = self.index();
        let last = if index == 0 { 0 } else { BITMAP_LEN + index.div_ceil(2) * 8 };
        bitmap_at(self.group()) + last
    }
}

// Groups are below 64, also if a damaged bitmap names them.
#[allow(clippy::arithmetic_side_effects)]
#[inline(always)]
const fn bitmap_at(group: u64) -> u64 {
    GROUPS + group * GROUP_LEN
}

/// Offset of the block that a head or link leads to.
#[inline(always)]
const fn offset_of(link: u64) -> u64 {
    (link & LINK_MASK).wrapping_mul(GRANULE).wrapping_add(GRANULE / 2)
}

#[inline(always)]
const fn link_to(offset: u64) -> u64 {
    offset / GRANULE
}

/// Offset of the links of the block that a link leads to.
#[inline(always)]
const fn links_of(link: u64) -> u64 {
    offset_of(link).wrapping_add(TAG_OFFSET)
}

/// The free lists of a heap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lists<'h, 'a>(pub(super) &'h Heap<'a>);

impl Lists<'_, '_> {
    /// One more than the last list.
    #[inline(always)]
    pub(super) const fn end(self) -> Class {
        Class::end(self.0.capacity())
    }

    /// Makes all of them empty.
    pub(super) fn clear(self) -> Result<(), HeapError> {
        self.0.store(FIRST_LEVEL, 0)?;
        let mut at = GROUPS;
        while at < self.end().heads_end() {
            self.0.store(at, 0)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    /// The first list from `class` on that has blocks.
    #[inline(always)]
    pub(super) fn first_from(self, class: Class) -> Result<Option<Class>, HeapError> {
        // Groups that the heap is too small for have no bits here, so nothing is read where they would be.
        let groups = self.0.load(FIRST_LEVEL)?;
        let group = class.group();
        if group >= u64::from(u64::BITS) {
            return Ok(None);
        }
        if groups & 1 << group != 0 {
            let bits = self.0.load(bitmap_at(group))? & !0 << class.index();
            if bits != 0 {
                return Ok(Some(Class::new(group, bits.trailing_zeros())));
            }
        }
        let groups = groups & !1 << group;
        if groups == 0 {
            return Ok(None);
        }
        let group = u64::from(groups.trailing_zeros());
        match self.0.load(bitmap_at(group))? {
            0 => Err(damaged(bitmap_at(group))),
            bits => Ok(Some(Class::new(group, bits.trailing_zeros()))),
        }
    }

    /// The last list that has blocks: the largest.
    pub(super) fn last(self) -> Result<Option<Class>, HeapError> {
        let Some(group) = self.0.load(FIRST_LEVEL)?.checked_ilog2() else { return Ok(None) };
        let bitmap = bitmap_at(group.into());
        let index = self.0.load(bitmap)?.checked_ilog2().ok_or(damaged(bitmap))?;
        Ok(Some(Class::new(group.into(), index)))
    }

    /// The first block of a list that has some.
    #[inline(always)]
    pub(super) fn head(self, class: Class) -> Result<Block, HeapError> {
        let (at, shift) = class.head();
        self.entry(self.0.load(at)? >> shift)
    }

    /// The block that a head or link leads to.
    #[inline(always)]
    pub(super) fn entry(self, link: u64) -> Result<Block, HeapError> {
        free_block_at(self.0, offset_of(link))
    }

    /// Takes the first block out of a list, as [`head`](Self::head) has given it.
    #[inline(always)]
    pub(super) fn remove_head(self, class: Class, block: &Block) -> Result<(), HeapError> {
        let (at, shift) = class.head();
        // Nothing is before it, and the head is no word of a block.
        let next = block.tag;
        if next > LINK_MASK || at >= block.offset {
            return Err(damaged(block.offset));
        }
        let heads = self.0.load(at)?;
        self.0.store(at, heads & !(LINK_MASK << shift) | next << shift)?;
        if next == 0 { self.clear_bit(class) } else { self.put_previous(next, link_to(block.offset), 0) }
    }

    /// Puts a free block in front of its list.
    #[inline(always)]
    pub(super) fn insert(self, offset: u64, len: u64) -> Result<(), HeapError> {
        let class = Class::of(len);
        let (at, shift) = class.head();
        let heads = self.0.load(at)?;
        let next = heads >> shift & LINK_MASK;
        let me = link_to(offset);
        self.0.store(offset.wrapping_add(TAG_OFFSET), next)?;
        if next == 0 {
            let bitmap = bitmap_at(class.group());
            let bits = self.0.load(bitmap)?;
            self.0.store(bitmap, bits | class.bit())?;
            if bits == 0 {
                self.0.store(FIRST_LEVEL, self.0.load(FIRST_LEVEL)? | 1 << class.group())?;
            }
        } else {
            self.put_previous(next, 0, me)?;
        }
        self.0.store(at, heads & !(LINK_MASK << shift) | me << shift)
    }

    /// Takes a free block out of its list.
    #[inline(always)]
    pub(super) fn remove(self, offset: u64, len: u64) -> Result<(), HeapError> {
        let me = link_to(offset);
        let links = self.0.load(offset.wrapping_add(TAG_OFFSET))?;
        let (next, previous) = (links & LINK_MASK, links >> PREVIOUS_SHIFT);
        if next != 0 {
            self.put_previous(next, me, previous)?;
        }
        if previous != 0 {
            let links = self.0.load(links_of(previous))?;
            if links & LINK_MASK != me {
                return Err(damaged(links_of(previous)));
            }
            return self.0.store(links_of(previous), links & !LINK_MASK | next);
        }
        let class = Class::of(len);
        let (at, shift) = class.head();
        let heads = self.0.load(at)?;
        if heads >> shift & LINK_MASK != me {
            return Err(damaged(at));
        }
        self.0.store(at, heads & !(LINK_MASK << shift) | next << shift)?;
        if next == 0 { self.clear_bit(class) } else { Ok(()) }
    }

    /// Changes the link to the block before, which is `old` still.
    #[inline(always)]
    fn put_previous(self, link: u64, old: u64, new: u64) -> Result<(), HeapError> {
        let at = links_of(link);
        let links = self.0.load(at)?;
        if links >> PREVIOUS_SHIFT != old {
            return Err(damaged(at));
        }
        self.0.store(at, links & LINK_MASK | new << PREVIOUS_SHIFT)
    }

    /// Says that a list has no blocks.
    #[inline(always)]
    fn clear_bit(self, class: Class) -> Result<(), HeapError> {
        let bitmap = bitmap_at(class.group());
        let bits = self.0.load(bitmap)? & !class.bit();
        self.0.store(bitmap, bits)?;
        if bits == 0 {
            let groups = self.0.load(FIRST_LEVEL)?;
            self.0.store(FIRST_LEVEL, groups & !(1 << class.group()))?;
        }
        Ok(())
    }

    /// Size of the largest block that the list's first [`SEARCH`] have; these are all that a search looks at.
    pub(super) fn largest(self, class: Class) -> Result<u64, HeapError> {
        let mut block = self.head(class)?;
        let mut largest = block.extent.len();
        for _ in 1..SEARCH {
            match block.tag & LINK_MASK {
                0 => break,
                next => block = self.entry(next)?,
            }
            largest = largest.max(block.extent.len());
        }
        Ok(largest)
    }

    /// Checks heads, links and bitmaps; gives how many blocks stand in the lists.
    pub(super) fn check(self) -> Result<u64, HeapError> {
        let heap = self.0;
        let most = heap.capacity() / GRANULE;
        let mut count = 0_u64;
        let mut groups = 0;
        for class in Class::all(self.end()) {
            let (at, shift) = class.head();
            let bitmap = bitmap_at(class.group());
            let bits = heap.load(bitmap)?;
            groups |= u64::from(bits != 0) << class.group();
            let mut link = heap.load(at)? >> shift & LINK_MASK;
            if (link != 0) != (bits & class.bit() != 0) {
                return Err(damaged(at));
            }
            // Bits beyond the last list.
            if class.next() == self.end() && bits & !(class.bit() | class.bit().wrapping_sub(1)) != 0 {
                return Err(damaged(bitmap));
            }
            let mut previous = 0;
            while link != 0 {
                let block = self.entry(link)?;
                count = count.saturating_add(1);
                let is_here = Class::of(block.extent.len()) == class;
                if !is_here || block.tag >> PREVIOUS_SHIFT != previous || count > most {
                    return Err(damaged(block.offset));
                }
                previous = link;
                link = block.tag & LINK_MASK;
            }
        }
        if groups == heap.load(FIRST_LEVEL)? { Ok(count) } else { Err(damaged(FIRST_LEVEL)) }
    }
}
