//! Free lists
//!
//! Which list a block stands in follows from its size alone: below 32 granules each size has a list, and from there on
//! each doubling has 16. Groups of 64 lists, each with a bitmap, make the second level.
//! Everything here repeats what the chain of blocks says, so no store is a commit.

use super::edge::{Edge, link_to, links_of};
use super::{MAX_HEAP, bins, damaged};
use crate::error::HeapError;
use crate::heap::{Heap, Word};
use crate::object::GRANULE;

/// Lists for each doubling of the size.
const PER_DOUBLING: u64 = 16;
/// Lists whose bits are in one word.
const GROUP_LISTS: u64 = 64;
/// Which groups have free blocks.
const FIRST_LEVEL: u64 = 0;
/// Groups that the largest heap has.
const GROUPS: u64 = 8;
/// Where the bitmaps of the groups begin.
const BITMAPS: u64 = 24;
/// Where they end.
pub(super) const BITMAPS_END: u64 = BITMAPS + GROUPS * 8;
/// No heap has its first block before this: there are two words of heads at least.
pub(super) const LEAST_FIRST: u64 = BITMAPS_END + 16;

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

    /// Offset of the word with the head, two of which are in a word.
    #[inline(always)]
    const fn head_at(self, capacity: u64) -> u64 {
        bins::end(capacity) + self.0 / 2 * 8
    }

    /// How far up in it the head is.
    #[inline(always)]
    const fn head_shift(self) -> u64 {
        self.0 % 2 * 32
    }

    /// Where the heads end of a heap of this capacity, which has the lists before this one.
    pub(super) const fn heads_end(self, capacity: u64) -> u64 {
        bins::end(capacity) + self.0.div_ceil(2) * 8
    }
}

// Groups are below 64, also if a damaged bitmap names them.
#[allow(clippy::arithmetic_side_effects)]
#[inline(always)]
const fn bitmap_at(group: u64) -> u64 {
    BITMAPS + group * 8
}

/// The head of a list.
#[derive(Clone, Copy, Debug)]
struct Head<'h, 'a> {
    word: Word<'h, 'a>,
    shift: u64,
}

impl Head<'_, '_> {
    #[inline(always)]
    fn link(self) -> u64 {
        self.word.load_relaxed() >> self.shift & LINK_MASK
    }

    #[inline(always)]
    fn set(self, link: u64) {
        let others = self.word.load_relaxed() & !(LINK_MASK << self.shift);
        self.word.store(others | link << self.shift);
    }
}

/// The free lists of a heap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lists<'h, 'a>(pub(super) &'h Heap<'a>);

impl<'h, 'a> Lists<'h, 'a> {
    /// One more than the last list.
    #[inline(always)]
    pub(super) const fn end(self) -> Class {
        Class::end(self.0.capacity())
    }

    /// Makes all of them empty, and the bins.
    pub(super) fn clear(self) -> Result<(), HeapError> {
        self.0.store(FIRST_LEVEL, 0)?;
        let mut at = BITMAPS;
        while at < self.end().heads_end(self.0.capacity()) {
            self.0.store(at, 0)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    #[inline(always)]
    fn word(self, offset: u64) -> Result<Word<'h, 'a>, HeapError> {
        Ok(self.0.words::<1>(offset)?.get::<0>())
    }

    #[inline(always)]
    fn bits(self, group: u64) -> Result<u64, HeapError> {
        Ok(self.word(bitmap_at(group))?.load_relaxed())
    }

    #[inline(always)]
    fn head(self, class: Class) -> Result<Head<'h, 'a>, HeapError> {
        Ok(Head { word: self.word(class.head_at(self.0.capacity()))?, shift: class.head_shift() })
    }

    /// The first list from `class` on that has blocks.
    #[inline(always)]
    pub(super) fn first_from(self, class: Class) -> Result<Option<Class>, HeapError> {
        let group = class.group();
        if group >= GROUPS {
            return Ok(None);
        }
        let bits = self.bits(group)? & !0 << class.index();
        if bits != 0 {
            return Ok(Some(Class::new(group, bits.trailing_zeros())));
        }
        let groups = self.word(FIRST_LEVEL)?.load_relaxed() & !1 << group;
        if groups == 0 {
            return Ok(None);
        }
        let group = u64::from(groups.trailing_zeros());
        match self.bits(group)? {
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
    pub(super) fn first(self, class: Class) -> Result<Edge<'h, 'a>, HeapError> {
        Edge::linked(self.0, self.head(class)?.link())
    }

    /// Takes the first block out of a list, as [`first`](Self::first) has given it.
    #[inline(always)]
    pub(super) fn remove_first(self, class: Class, block: &Edge<'h, 'a>) -> Result<(), HeapError> {
        let next = block.tag().load_relaxed();
        // Nothing is before it, and the head is no word of a block.
        if next > LINK_MASK || class.head_at(self.0.capacity()) >= block.offset {
            return Err(damaged(block.offset));
        }
        self.head(class)?.set(next);
        if next == 0 { self.clear_bit(class) } else { self.put_previous(next, link_to(block.offset), 0) }
    }

    /// Puts a free block of `len` bytes in front of its list.
    #[inline(always)]
    pub(super) fn insert(self, block: &Edge<'h, 'a>, len: u64) -> Result<(), HeapError> {
        let class = Class::of(len);
        let head = self.head(class)?;
        let (me, next) = (link_to(block.offset), head.link());
        block.tag().store(next);
        if next == 0 {
            let bitmap = self.word(bitmap_at(class.group()))?;
            let bits = bitmap.load_relaxed();
            bitmap.store(bits | class.bit());
            if bits == 0 {
                let groups = self.word(FIRST_LEVEL)?;
                groups.store(groups.load_relaxed() | 1 << class.group());
            }
        } else {
            self.put_previous(next, 0, me)?;
        }
        head.set(me);
        Ok(())
    }

    /// Takes a free block of `len` bytes out of its list.
    #[inline(always)]
    pub(super) fn remove(self, block: &Edge<'h, 'a>, len: u64) -> Result<(), HeapError> {
        let me = link_to(block.offset);
        let links = block.tag().load_relaxed();
        let (next, previous) = (links & LINK_MASK, links >> PREVIOUS_SHIFT);
        if next != 0 {
            self.put_previous(next, me, previous)?;
        }
        if previous != 0 {
            let links_before = self.word(links_of(previous))?;
            let links = links_before.load_relaxed();
            if links & LINK_MASK != me {
                return Err(damaged(links_of(previous)));
            }
            links_before.store(links & !LINK_MASK | next);
            return Ok(());
        }
        let class = Class::of(len);
        let head = self.head(class)?;
        if head.link() != me {
            return Err(damaged(block.offset));
        }
        head.set(next);
        if next == 0 { self.clear_bit(class) } else { Ok(()) }
    }

    /// Changes the link to the block before, which is `old` still.
    #[inline(always)]
    fn put_previous(self, link: u64, old: u64, new: u64) -> Result<(), HeapError> {
        let links_behind = self.word(links_of(link))?;
        let links = links_behind.load_relaxed();
        if links >> PREVIOUS_SHIFT != old {
            return Err(damaged(links_of(link)));
        }
        links_behind.store(links & LINK_MASK | new << PREVIOUS_SHIFT);
        Ok(())
    }

    /// Says that a list has no blocks.
    #[inline(always)]
    fn clear_bit(self, class: Class) -> Result<(), HeapError> {
        let bitmap = self.word(bitmap_at(class.group()))?;
        let bits = bitmap.load_relaxed() & !class.bit();
        bitmap.store(bits);
        if bits == 0 {
            let groups = self.word(FIRST_LEVEL)?;
            groups.store(groups.load_relaxed() & !(1 << class.group()));
        }
        Ok(())
    }

    /// Size of the largest block that the list's first [`SEARCH`] have; these are all that a search looks at.
    pub(super) fn largest(self, class: Class) -> Result<u64, HeapError> {
        let mut block = self.first(class)?;
        let mut largest = block.listed_len()?;
        for _ in 1..SEARCH {
            match block.tag().load_relaxed() & LINK_MASK {
                0 => break,
                next => block = Edge::linked(self.0, next)?,
            }
            largest = largest.max(block.listed_len()?);
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
            let bitmap = bitmap_at(class.group());
            let bits = heap.load(bitmap)?;
            groups |= u64::from(bits != 0) << class.group();
            let mut link = self.head(class)?.link();
            if (link != 0) != (bits & class.bit() != 0) {
                return Err(damaged(class.head_at(heap.capacity())));
            }
            // Bits beyond the last list.
            if class.next() == self.end() && bits & !(class.bit() | class.bit().wrapping_sub(1)) != 0 {
                return Err(damaged(bitmap));
            }
            let mut previous = 0;
            while link != 0 {
                let block = Edge::linked(heap, link)?;
                let (len, links) = (block.listed_len()?, block.tag().load_relaxed());
                count = count.saturating_add(1);
                if Class::of(len) != class || links >> PREVIOUS_SHIFT != previous || count > most {
                    return Err(damaged(block.offset));
                }
                previous = link;
                link = links & LINK_MASK;
            }
        }
        if groups == heap.load(FIRST_LEVEL)? { Ok(count) } else { Err(damaged(FIRST_LEVEL)) }
    }
}
