//! The page table
//!
//! One word for each page of the heap says what it belongs to. A span, which is one or more pages in a row, has a head
//! that says all about it; the other pages are its parts. Spans come and go under the heap's lock.
//!
//! # The word of a page
//!
//! | bits | field |
//! |---|---|
//! | 0..=7 | kind |
//! | 8..=39 | pages of the span; 0 in a page that is no head, and in the head of a chunk |
//! | 40..=55 | run: where its block begins, in granules from 8 after the start of the span. Chunk: its class |
//! | 56..=63 | zero |
//!
//! | kind | meaning |
//! |---|---|
//! | 1 free | |
//! | 2 part | of the span whose head is the next one before |
//! | 3 own | head of the pages of the control words and tables |
//! | 4 run | head of a run: one block |
//! | 5 chunk | head of a chunk of cells |
//!
//! # Commit order, and what a kill leaves
//!
//! | | steps | killed between |
//! |---|---|---|
//! | reserve | parts; what is in the span; **head** | parts without a head |
//! | release | **head**; parts | parts without a head |
//!
//! So a head stands for a whole span at every instant, and a part without a head is a free page: recovery makes it
//! one.

use super::class::{CLASSES, Class, MAX_CELL_ALIGN};
use crate::error::HeapError;
use crate::heap::Heap;
use crate::object::{BLOCK_HEADER_LEN, GRANULE};
use core::sync::atomic::Ordering;

/// Control word: pages in spans now. Under the lock.
pub(super) const TAKEN: u64 = 0;
/// Control word: most pages that ever were in spans at once. Under the lock.
pub(super) const HIGH_WATER: u64 = 8;
/// Control word: no page before this one is free. Under the lock.
pub(super) const PAGE_HINT: u64 = 16;
/// Control word: no place for a chunk before this one is free. Under the lock.
pub(super) const CHUNK_HINT: u64 = 24;
/// Control word: all chunks have been before this place. Changed under the lock, on a cache line that is read without.
pub(super) const EDGE: u64 = 64;
/// Control words: for each class, at which place to look for free cells first.
pub(super) const ROVERS: u64 = 72;
/// The page table.
const TABLE: u64 = 256;

static_assertions::const_assert!(ROVERS.wrapping_add((CLASSES as u64).wrapping_mul(8)) <= TABLE);

const MIN_CHUNK_SHIFT: u64 = 10;
const MAX_CHUNK_SHIFT: u64 = 16;
const MIN_PAGE_SHIFT: u64 = 8;
/// A chunk is of 16 pages, where neither is at its limit.
const CHUNK_PAGES_SHIFT: u64 = 4;
/// Beyond so many pages they become larger instead.
const MANY_PAGES_SHIFT: u64 = 18;

/// Where things are, which follows from the capacity alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Binary logarithm of the length of a chunk, 10 to 16.
    pub(super) chunk_shift: u64,
    /// Binary logarithm of the length of a page, 8 to 16, and no more than that of a chunk.
    pub(super) page_shift: u64,
    /// Where the first cell of a chunk begins, from the start of the chunk.
    pub(super) first_cell: u64,
    capacity: u64,
}

impl Layout {
    /// That of a heap; the process computes it once.
    pub(super) fn of(heap: &Heap<'_>) -> Self {
        Self::known(heap).unwrap_or_else(|| {
            let layout = Self::new(heap.capacity());
            if let Some(word) = heap.private().first() {
                let shifts = layout.chunk_shift << 8 | layout.page_shift;
                word.store(layout.first_cell << 16 | shifts, Ordering::Relaxed);
            }
            layout
        })
    }

    /// That of a heap, if this process has computed it.
    #[inline]
    pub(super) fn known(heap: &Heap<'_>) -> Option<Self> {
        match heap.private().first()?.load(Ordering::Relaxed) {
            0 => None,
            known => Some(Self {
                first_cell: known >> 16,
                chunk_shift: known >> 8 & 63,
                page_shift: known & 63,
                capacity: heap.capacity(),
            }),
        }
    }

    pub(super) fn new(capacity: u64) -> Self {
        let log = |value: u64| u64::from(value.checked_ilog2().unwrap_or(0));
        let chunk_shift = log(capacity / 16).clamp(MIN_CHUNK_SHIFT, MAX_CHUNK_SHIFT);
        let page_shift = chunk_shift
            .saturating_sub(CHUNK_PAGES_SHIFT)
            .max(MIN_PAGE_SHIFT)
            .max(log(capacity >> MANY_PAGES_SHIFT))
            .min(chunk_shift);
        let bitmaps = bitmap_words(chunk_shift).wrapping_mul(8);
        // Its object is aligned.
        let object = bitmaps.wrapping_add(BLOCK_HEADER_LEN).next_multiple_of(MAX_CELL_ALIGN);
        Self { chunk_shift, page_shift, first_cell: object.wrapping_sub(BLOCK_HEADER_LEN), capacity }
    }

    /// Pages in `len` bytes.
    #[inline]
    pub(super) const fn pages_in(self, len: u64) -> u64 {
        len >> self.page_shift
    }

    /// Places for chunks in `len` bytes.
    #[inline]
    pub(super) const fn places_in(self, len: u64) -> u64 {
        len >> self.chunk_shift
    }

    pub(super) const fn page_len(self) -> u64 {
        1 << self.page_shift
    }

    pub(super) const fn chunk_len(self) -> u64 {
        1 << self.chunk_shift
    }

    /// Cells of a chunk of this class.
    pub(super) fn cells_of(self, class: Class) -> u64 {
        self.chunk_len().saturating_sub(self.first_cell).checked_div(class.len()).unwrap_or(0)
    }

    /// Pages of a chunk.
    pub(super) const fn chunk_pages(self) -> u64 {
        1 << self.chunk_shift.wrapping_sub(self.page_shift)
    }

    /// The first page of place number `place`.
    #[inline]
    pub(super) const fn page_of_place(self, place: u64) -> u64 {
        place << self.chunk_shift.wrapping_sub(self.page_shift)
    }

    /// The place in which page number `page` is.
    pub(super) const fn place_of_page(self, page: u64) -> u64 {
        page >> self.chunk_shift.wrapping_sub(self.page_shift)
    }

    /// Words of free bitmaps at the start of a chunk: a bit for each of the shortest cells.
    pub(super) const fn bitmap_words(self) -> u64 {
        bitmap_words(self.chunk_shift)
    }

    /// Offset of the word of page number `page`.
    #[inline]
    pub(super) const fn page_word(self, page: u64) -> u64 {
        TABLE.wrapping_add(page.wrapping_mul(8))
    }

    /// Offset of the word that says which bitmap words of the chunk in this place may have bits.
    pub(super) const fn summary_word(self, place: u64) -> u64 {
        self.page_word(self.pages_in(self.capacity)).wrapping_add(place.wrapping_mul(8))
    }

    /// Pages of the control words and tables.
    pub(super) const fn own_pages(self) -> u64 {
        self.summary_word(self.places_in(self.capacity)).div_ceil(self.page_len())
    }
}

const fn bitmap_words(chunk_shift: u64) -> u64 {
    let words = (1_u64 << chunk_shift) >> 11;
    if words == 0 { 1 } else { words }
}

/// What the word of a page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Free,
    Part,
    Own {
        pages: u64,
    },
    Run {
        pages: u64,
        /// In granules.
        distance: u64,
    },
    Chunk(Class),
}

impl Page {
    const PAGES_SHIFT: u32 = 8;
    const PAGES_MASK: u64 = u32::MAX as u64;
    const VALUE_SHIFT: u32 = 40;

    /// `None` if no page has such a word.
    #[inline]
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let pages = bits >> Self::PAGES_SHIFT & Self::PAGES_MASK;
        let value = bits >> Self::VALUE_SHIFT;
        let page = match bits & 0xff {
            1 => Self::Free,
            2 => Self::Part,
            3 => Self::Own { pages },
            4 => Self::Run { pages, distance: value },
            5 => Self::Chunk(Self::class(bits)?),
            _ => return None,
        };
        if page.bits() == bits && value <= 0xffff { Some(page) } else { None }
    }

    /// The class, if the page is the head of a chunk.
    #[inline]
    pub(super) const fn class(bits: u64) -> Option<Class> {
        // With another kind, or other bits, it is larger than all classes.
        Class::new(bits.wrapping_sub(5).rotate_right(Self::VALUE_SHIFT))
    }

    fn bits(self) -> u64 {
        match self {
            Self::Free => 1,
            Self::Part => 2,
            Self::Own { pages } => 3 | pages << Self::PAGES_SHIFT,
            Self::Run { pages, distance } => 4 | pages << Self::PAGES_SHIFT | distance << Self::VALUE_SHIFT,
            Self::Chunk(class) => 5 | (class.index() as u64) << Self::VALUE_SHIFT,
        }
    }
}

/// A span, or a free page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Its first page.
    pub(super) first: u64,
    pub(super) pages: u64,
    /// What its head says.
    pub(super) page: Page,
}

/// A place for a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// Its first page.
    pub(super) first: u64,
    pub(super) pages: u64,
    /// Offset of its block.
    pub(super) block: u64,
}

/// The pages of a heap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'h, 'a> {
    pub(super) heap: &'h Heap<'a>,
    pub(super) layout: Layout,
}

impl<'h, 'a> Pages<'h, 'a> {
    #[inline]
    pub(super) fn new(heap: &'h Heap<'a>) -> Self {
        Self { heap, layout: Layout::of(heap) }
    }

    /// How many pages there are now.
    pub(super) fn count(&self) -> u64 {
        self.layout.pages_in(self.heap.len())
    }

    /// Makes all pages free but those of the control words and tables.
    pub(super) fn format(&self) -> Result<(), HeapError> {
        let (heap, layout) = (self.heap, self.layout);
        let own = layout.own_pages();
        let needed = own.saturating_add(1).saturating_mul(layout.page_len());
        if heap.len() < needed {
            return Err(HeapError::TooSmall { len: heap.len(), needed });
        }
        for word in 0..TABLE / 8 {
            heap.store(word.wrapping_mul(8), 0)?;
        }
        for page in 0..layout.pages_in(heap.capacity()) {
            let entry = match page {
                0 => Page::Own { pages: own },
                _ if page < own => Page::Part,
                _ => Page::Free,
            };
            heap.store(layout.page_word(page), entry.bits())?;
        }
        for place in 0..layout.places_in(heap.capacity()) {
            heap.store(layout.summary_word(place), 0)?;
        }
        heap.store(TAKEN, own)?;
        heap.store(HIGH_WATER, own)?;
        heap.commit(PAGE_HINT, own)
    }

    /// What page number `page` is now.
    #[inline]
    pub(super) fn get(&self, page: u64) -> Result<Page, HeapError> {
        let at = self.layout.page_word(page);
        if page >= self.layout.pages_in(self.heap.capacity()) {
            return Err(HeapError::Damaged { at });
        }
        Page::from_bits(self.heap.load(at)?).ok_or(HeapError::Damaged { at })
    }

    /// The class of the chunk that begins with page number `page`, if one does.
    #[inline]
    pub(super) fn class(&self, page: u64) -> Result<Option<Class>, HeapError> {
        let at = self.layout.page_word(page);
        if page >= self.layout.pages_in(self.heap.capacity()) {
            return Err(HeapError::Damaged { at });
        }
        let bits = self.heap.load(at)?;
        match Page::class(bits) {
            Some(class) => Ok(Some(class)),
            None if Page::from_bits(bits).is_some() => Ok(None),
            None => Err(HeapError::Damaged { at }),
        }
    }

    fn commit(&self, page: u64, entry: Page) -> Result<(), HeapError> {
        self.heap.commit(self.layout.page_word(page), entry.bits())
    }

    /// The span or the free page that begins at page number `page`, and of how many pages it is: one at least, and
    /// no more than there are. Under the lock.
    pub(super) fn span(&self, page: u64) -> Result<(Page, u64), HeapError> {
        let entry = self.get(page)?;
        let pages = match entry {
            Page::Free | Page::Part => 1,
            Page::Own { pages } | Page::Run { pages, .. } => pages,
            Page::Chunk(_) => self.layout.chunk_pages(),
        };
        // The control words and tables are always in front of all, and nothing else is like them.
        let is_own = matches!(entry, Page::Own { pages } if pages == self.layout.own_pages());
        let is_placed = if page == 0 { is_own } else { !matches!(entry, Page::Own { .. }) };
        match page.checked_add(pages) {
            Some(end) if pages != 0 && end <= self.count() && is_placed => Ok((entry, pages)),
            _ => Err(HeapError::Damaged { at: self.layout.page_word(page) }),
        }
    }

    /// All spans and free pages, in order. Under the lock. The one that was passed on last may be released.
    pub(super) fn spans(self) -> impl Iterator<Item = Result<Span, HeapError>> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let first = next;
            if first >= self.count() {
                return None;
            }
            let span = self.span(first).map(|(page, pages)| Span { first, pages, page });
            // After an error there is no more.
            next = span.map_or(u64::MAX, |span| first.wrapping_add(span.pages));
            Some(span)
        })
    }

    /// Offset of the block of a run.
    pub(super) const fn block_of_run(&self, first: u64, distance: u64) -> u64 {
        (first << self.layout.page_shift).wrapping_add(distance.wrapping_mul(GRANULE)).wrapping_add(8)
    }

    /// The first free pages that hold a block of `len` bytes whose object is aligned to `align`. Under the lock.
    pub(super) fn find(&self, len: u64, align: u64) -> Result<Option<Fit>, HeapError> {
        let shift = self.layout.page_shift;
        let count = self.count();
        let mut page = self.heap.load(PAGE_HINT)?;
        let mut lowest = None;
        let mut gap: Option<(Fit, u64)> = None;
        while page < count {
            let (entry, pages) = self.span(page)?;
            let next = page.wrapping_add(pages);
            if entry != Page::Free {
                gap = None;
            } else {
                lowest.get_or_insert(page);
                // Where the block would lie if the gap that begins here were long enough.
                let (fit, end) = match gap {
                    Some(gap) => gap,
                    None => self.place(page, len, align)?,
                };
                gap = Some((fit, end));
                if end <= next << shift {
                    self.heap.store(PAGE_HINT, lowest.unwrap_or(page))?;
                    return Ok(Some(fit));
                }
            }
            page = next;
        }
        self.heap.store(PAGE_HINT, lowest.unwrap_or(count))?;
        Ok(None)
    }

    /// Where a block lies in a gap that begins at page number `page`, and where it ends.
    fn place(&self, page: u64, len: u64, align: u64) -> Result<(Fit, u64), HeapError> {
        let shift = self.layout.page_shift;
        let damaged = HeapError::Damaged { at: self.layout.page_word(page) };
        // The first block that a page can have begins 8 bytes after its start.
        let least = (page << shift).wrapping_add(8).wrapping_add(BLOCK_HEADER_LEN);
        let object = least.checked_next_multiple_of(align).ok_or(damaged)?;
        let block = object.wrapping_sub(BLOCK_HEADER_LEN);
        let end = block.checked_add(len).ok_or(damaged)?;
        let first = block >> shift;
        let pages = end.div_ceil(self.layout.page_len()).wrapping_sub(first);
        Ok((Fit { first, pages, block }, end))
    }

    /// The entry for the head of a run that lies so.
    pub(super) const fn run(&self, fit: Fit) -> Page {
        let into = fit.block.wrapping_sub(fit.first << self.layout.page_shift);
        Page::Run { pages: fit.pages, distance: into / GRANULE }
    }

    /// The first place for a chunk that is free. Under the lock.
    pub(super) fn find_place(&self) -> Result<Option<u64>, HeapError> {
        let places = self.layout.places_in(self.heap.len());
        let mut place = self.heap.load(CHUNK_HINT)?.min(places);
        while place < places {
            let first = self.layout.page_of_place(place);
            let mut is_free = true;
            for page in first..first.wrapping_add(self.layout.chunk_pages()) {
                is_free = self.get(page)? == Page::Free;
                if !is_free {
                    break;
                }
            }
            if is_free {
                break;
            }
            place = place.wrapping_add(1);
        }
        self.heap.store(CHUNK_HINT, place)?;
        Ok((place < places).then_some(place))
    }

    /// The first step towards a span: its parts. Under the lock.
    pub(super) fn reserve(&self, first: u64, pages: u64) -> Result<(), HeapError> {
        for page in first.wrapping_add(1)..first.saturating_add(pages) {
            self.heap.store(self.layout.page_word(page), Page::Part.bits())?;
        }
        Ok(())
    }

    /// The last step: its head. Under the lock.
    pub(super) fn commit_head(&self, first: u64, pages: u64, head: Page) -> Result<(), HeapError> {
        let taken = self.heap.load(TAKEN)?.wrapping_add(pages);
        self.commit(first, head)?;
        self.heap.store(TAKEN, taken)?;
        self.raise(HIGH_WATER, taken)
    }

    /// Makes the pages of a span free. Under the lock.
    pub(super) fn release(&self, first: u64, pages: u64) -> Result<(), HeapError> {
        let taken = self.heap.load(TAKEN)?.wrapping_sub(pages);
        self.commit(first, Page::Free)?;
        for page in first.wrapping_add(1)..first.saturating_add(pages) {
            // Spans that overlap, as only damaged ones do, would be gone through again for each.
            if self.get(page)? != Page::Part {
                return Err(HeapError::Damaged { at: self.layout.page_word(page) });
            }
            self.heap.store(self.layout.page_word(page), Page::Free.bits())?;
        }
        self.heap.store(TAKEN, taken)?;
        self.lower(PAGE_HINT, first)?;
        self.lower(CHUNK_HINT, self.layout.place_of_page(first))
    }

    /// Makes a part that has no head a free page, in recovery.
    pub(super) fn free_part(&self, page: u64) -> Result<(), HeapError> {
        self.commit(page, Page::Free)
    }

    /// Makes a control word at least so much. Under the lock.
    pub(super) fn raise(&self, word: u64, value: u64) -> Result<(), HeapError> {
        if self.heap.load(word)? < value { self.heap.store(word, value) } else { Ok(()) }
    }

    fn lower(&self, word: u64, value: u64) -> Result<(), HeapError> {
        if self.heap.load(word)? > value { self.heap.store(word, value) } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_follows_from_the_capacity() {
        let layout = |capacity: u64| {
            let layout = Layout::new(capacity);
            assert!(layout.own_pages() << layout.page_shift < capacity);
            assert!(layout.first_cell % 16 == 8 && layout.first_cell >= layout.bitmap_words() * 8);
            (layout.chunk_len(), layout.page_len())
        };
        assert_eq!(layout(8 << 10), (1 << 10, 256));
        assert_eq!(layout(64 << 10), (4 << 10, 256));
        assert_eq!(layout(1 << 20), (64 << 10, 4 << 10));
        assert_eq!(layout(1 << 30), (64 << 10, 4 << 10));
        assert_eq!(layout(4 << 30), (64 << 10, 16 << 10));
        assert_eq!(layout(64 << 30), (64 << 10, 64 << 10));
    }

    #[test]
    fn the_word_of_a_page_is_read_as_it_was_written_or_not_at_all() {
        let class = Class::new(16).unwrap();
        let pages = (1 << 32) - 1;
        for page in [
            Page::Free,
            Page::Part,
            Page::Own { pages: 3 },
            Page::Run { pages, distance: 4095 },
            Page::Chunk(class),
        ] {
            let bits = page.bits();
            assert_eq!(Page::from_bits(bits), Some(page));
            for bit in 0..64 {
                let other = bits ^ 1 << bit;
                assert_ne!(Page::from_bits(other), Some(page));
                assert!(Page::from_bits(other).is_none_or(|page| page.bits() == other));
            }
        }
        assert_eq!(Page::from_bits(0), None, "a hole in the memory");
    }
}
