//! Chunks of cells
//!
//! A chunk begins with free bitmaps, a bit for each cell; cells of one length follow. Whether a cell is free is told
//! by its state alone. The bitmaps are hints where to look, and so are the summaries, one word for each
//! place that a chunk can have. A hint that is lost or wrong costs time, never a cell.
//!
//! # The summary word
//!
//! | bits | field |
//! |---|---|
//! | 0..=31 | bitmap words of the chunk that may have bits |
//! | 32..=55 | zero |
//! | 56..=63 | class, counted from one; 0: no chunk is known to be here |

use super::class::Class;
use super::page::{EDGE, Layout, Page, Pages, ROVERS};
use crate::error::HeapError;
use crate::heap::{Heap, Request};
use crate::object::{BlockState, EXTENT_OFFSET, Extent};
use core::sync::atomic::Ordering;

const CLASS_SHIFT: u32 = 56;
/// All bitmap words of a chunk, in its summary.
const ALL_WORDS: u64 = u32::MAX as u64;
/// Places that are looked at before a new chunk is made. The search goes on from there next time, so in one round
/// through a heap of `n` places at most `1 + n / LOOK` chunks are made that a full search would have spared.
pub(super) const LOOK: u64 = 256;

/// A chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'h, 'a> {
    pages: Pages<'h, 'a>,
    pub(super) place: u64,
    pub(super) class: Class,
}

/// Cells of one bitmap word that looked free.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'h, 'a> {
    pub(super) chunk: Chunk<'h, 'a>,
    pub(super) word: u64,
    /// One bit for each cell.
    pub(super) mask: u64,
}

impl<'h, 'a> Chunk<'h, 'a> {
    pub(super) const fn new(pages: Pages<'h, 'a>, place: u64, class: Class) -> Self {
        Self { pages, place, class }
    }

    /// The chunk in this place, if there is one.
    #[inline]
    pub(super) fn in_place(pages: Pages<'h, 'a>, place: u64) -> Result<Option<Self>, HeapError> {
        let class = pages.class(pages.layout.page_of_place(place))?;
        Ok(class.map(|class| Self { pages, place, class }))
    }

    /// The chunk in which `offset` is, and which cell begins there; `None` if it is in no chunk.
    #[inline]
    pub(super) fn containing(pages: Pages<'h, 'a>, offset: u64) -> Result<Option<(Self, u64)>, HeapError> {
        match Self::in_place(pages, pages.layout.places_in(offset))? {
            Some(chunk) => Ok(Some((chunk, chunk.cell_at(offset)?))),
            None => Ok(None),
        }
    }

    /// The number of the cell that begins at `offset`.
    #[inline]
    pub(super) fn cell_at(self, offset: u64) -> Result<u64, HeapError> {
        let layout = self.pages.layout;
        let into = offset.wrapping_sub(self.start());
        match into.checked_sub(layout.first_cell).and_then(|distance| self.class.cell_at(distance)) {
            Some(cell) if into.saturating_add(self.class.len()) <= layout.chunk_len() => Ok(cell),
            _ => Err(HeapError::Damaged { at: offset }),
        }
    }

    /// Where the chunk begins.
    const fn start(self) -> u64 {
        self.place << self.pages.layout.chunk_shift
    }

    /// Its first page.
    pub(super) const fn first_page(self) -> u64 {
        self.pages.layout.page_of_place(self.place)
    }

    /// Offset of cell number `cell`.
    #[inline]
    pub(super) fn offset(self, cell: u64) -> u64 {
        let distance = cell.wrapping_mul(self.class.len());
        self.start().wrapping_add(self.pages.layout.first_cell).wrapping_add(distance)
    }

    /// How many cells it has.
    pub(super) fn cells(self) -> u64 {
        self.pages.layout.cells_of(self.class)
    }

    /// The bitmap words that stand for cells.
    pub(super) fn words(self) -> core::ops::Range<u64> {
        0..self.cells().div_ceil(64)
    }

    /// The bits of a bitmap word that stand for cells.
    fn full_mask(self, word: u64) -> u64 {
        match self.cells().saturating_sub(word.wrapping_mul(64)) {
            0 => 0,
            cells @ 1..=63 => !(!0 << cells),
            _ => !0,
        }
    }

    const fn bitmap_word(self, word: u64) -> u64 {
        self.start().wrapping_add(word.wrapping_mul(8))
    }

    const fn summary_word(self) -> u64 {
        self.pages.layout.summary_word(self.place)
    }

    /// The cells in `mask`, each with its bit.
    pub(super) fn cells_of(self, word: u64, mask: u64) -> impl Iterator<Item = (u64, u64)> {
        (0..64_u64)
            .filter(move |bit| mask >> bit & 1 != 0)
            .map(move |bit| (self.offset(word.wrapping_mul(64).wrapping_add(bit)), 1 << bit))
    }

    /// All cells of a bitmap word, each with its bit.
    pub(super) fn cells_of_word(self, word: u64) -> impl Iterator<Item = (u64, u64)> {
        self.cells_of(word, self.full_mask(word))
    }

    /// Makes all cells free, in pages that nobody can see yet. The first word's cells are left out of the hints:
    /// they are for the caller.
    pub(super) fn format(self) -> Result<Batch<'h, 'a>, HeapError> {
        let heap = self.pages.heap;
        let extent = Extent::new(self.class.len(), 0).bits();
        for cell in 0..self.cells() {
            let offset = self.offset(cell);
            heap.store(offset, BlockState::FREE.bits())?;
            heap.store(offset.wrapping_add(EXTENT_OFFSET), extent)?;
        }
        for word in 0..self.pages.layout.bitmap_words() {
            let mask = if word == 0 { 0 } else { self.full_mask(word) };
            heap.store(self.bitmap_word(word), mask)?;
        }
        Ok(Batch { chunk: self, word: 0, mask: self.full_mask(0) })
    }

    /// Lets the searches find the chunk. After its head, since whoever finds it allocates from it.
    pub(super) fn announce(self) -> Result<(), HeapError> {
        let class = (self.class.index() as u64).wrapping_add(1) << CLASS_SHIFT;
        self.pages.heap.commit(self.summary_word(), class | ALL_WORDS)
    }

    /// Hides the chunk from the searches, before its pages are released.
    pub(super) fn hide(self) -> Result<(), HeapError> {
        self.pages.heap.commit(self.summary_word(), 0)
    }

    /// Whether the searches can find it.
    pub(super) fn is_announced(self) -> Result<bool, HeapError> {
        let summary = self.pages.heap.load(self.summary_word())?;
        Ok(class_of_summary(summary) == Some(self.class))
    }

    /// Says that these cells are free.
    pub(super) fn give(self, word: u64, mask: u64) -> Result<(), HeapError> {
        let heap = self.pages.heap;
        // SYNC: pairs with `grab`. If that has taken this word before the bits came, then it has cleared the bit in the
        // summary before, and that is seen here.
        heap.word(self.bitmap_word(word))?.fetch_or(mask, Ordering::AcqRel);
        let summary = heap.word(self.summary_word())?;
        let bit = 1_u64.checked_shl(word as u32).unwrap_or(0);
        if summary.load(Ordering::Acquire) & bit == 0 {
            summary.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Says that these cells are free, unless that stands there already.
    pub(super) fn give_again(self, word: u64, mask: u64) -> Result<(), HeapError> {
        let heap = self.pages.heap;
        let bit = 1_u64.checked_shl(word as u32).unwrap_or(0);
        let is_known = heap.load(self.bitmap_word(word))? & mask == mask;
        if mask == 0 || is_known && heap.load(self.summary_word())? & bit != 0 {
            return Ok(());
        }
        self.give(word, mask)
    }

    /// Takes all bits of a bitmap word.
    fn grab(self, word: u64) -> Result<u64, HeapError> {
        let heap = self.pages.heap;
        let bit = 1_u64.checked_shl(word as u32).unwrap_or(0);
        // SYNC: in this order; see `give`.
        heap.word(self.summary_word())?.fetch_and(!bit, Ordering::AcqRel);
        let mask = heap.word(self.bitmap_word(word))?.swap(0, Ordering::AcqRel);
        Ok(mask & self.full_mask(word))
    }

    /// The cells of a bitmap word that are free now.
    pub(super) fn free_cells(self, word: u64) -> Result<u64, HeapError> {
        let mut mask = 0;
        for (offset, bit) in self.cells_of_word(word) {
            if BlockState::from_bits(self.pages.heap.load(offset)?).is_free() {
                mask |= bit;
            }
        }
        Ok(mask)
    }

    /// Checks the hints. They may be wrong, but not such as no chunk can have.
    pub(super) fn check_hints(self) -> Result<(), HeapError> {
        let damaged = |at| Err(HeapError::Damaged { at });
        let heap = self.pages.heap;
        if !self.is_announced()? || heap.load(EDGE)? <= self.place {
            return damaged(self.summary_word());
        }
        for word in 0..self.pages.layout.bitmap_words() {
            let at = self.bitmap_word(word);
            if heap.load(at)? & !self.full_mask(word) != 0 {
                return damaged(at);
            }
        }
        Ok(())
    }
}

/// The class that a summary tells, if any.
fn class_of_summary(summary: u64) -> Option<Class> {
    Class::new((summary >> CLASS_SHIFT).checked_sub(1)?)
}

/// The class of the cell at `offset`; `None` if that is no cell, or only the slow way can tell.
#[inline]
pub(super) fn class_of_cell(heap: &Heap<'_>, offset: u64) -> Option<Class> {
    let layout = Layout::known(heap)?;
    let place = layout.places_in(offset);
    if offset >= heap.capacity() {
        return None;
    }
    let class = Page::class(heap.load(layout.page_word(layout.page_of_place(place))).ok()?)?;
    let into = offset & layout.chunk_len().wrapping_sub(1);
    let is_cell = class.cell_at(into.wrapping_sub(layout.first_cell)).is_some();
    if is_cell && into.wrapping_add(class.len()) <= layout.chunk_len() { Some(class) } else { None }
}

/// Makes the cell at `offset` the requester's, if it is free.
///
/// The compare-and-swap decides; whoever is killed after it has the cell. What the object leaves over and its tag
/// come after it, for before it the words may be another's. Nobody but the requester looks at them
/// until it passes the object on, and the length of the block in the extent never changes.
#[inline]
pub(super) fn take(
    heap: &Heap<'_>,
    offset: u64,
    extent: Extent,
    request: &Request,
) -> Result<bool, HeapError> {
    let state = heap.word(offset)?;
    // SYNC: Acquire; pairs with the commit of FREE, after which the former user touches the cell no more.
    let (free, mine) = (BlockState::FREE.bits(), request.state().bits());
    if state.compare_exchange(free, mine, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return Ok(false);
    }
    let header = heap.words::<3>(offset)?;
    header.get::<2>().store(extent.bits());
    request.hand_out(header.get::<0>(), header.get::<1>());
    Ok(true)
}

/// Cells of this class that the hints say are free, if any are found soon.
pub(super) fn find<'h, 'a>(pages: Pages<'h, 'a>, class: Class) -> Result<Option<Batch<'h, 'a>>, HeapError> {
    let (heap, layout) = (pages.heap, pages.layout);
    let edge = heap.load(EDGE)?.min(layout.places_in(heap.capacity()));
    let rover = ROVERS.wrapping_add((class.index() as u64).wrapping_mul(8));
    let start = heap.load(rover)?;
    let mut place = if start < edge { start } else { 0 };
    for _ in 0..edge.min(LOOK) {
        let summary = heap.load(layout.summary_word(place))?;
        if summary & ALL_WORDS != 0 && class_of_summary(summary) == Some(class) {
            let Some(chunk) = Chunk::in_place(pages, place)?.filter(|chunk| chunk.class == class) else {
                return Err(HeapError::Damaged { at: layout.summary_word(place) });
            };
            for word in (0..layout.bitmap_words()).filter(|word| summary >> word & 1 != 0) {
                let mask = chunk.grab(word)?;
                if mask != 0 {
                    if place != start {
                        heap.store(rover, place)?;
                    }
                    return Ok(Some(Batch { chunk, word, mask }));
                }
            }
        }
        place = place.wrapping_add(1);
        if place >= edge {
            place = 0;
        }
    }
    if place != start {
        heap.store(rover, place)?;
    }
    Ok(None)
}

/// Cells of this class that are free, whatever the hints say: some whose hints died with a process, or are in the
/// magazine of another.
pub(super) fn search<'h, 'a>(pages: Pages<'h, 'a>, class: Class) -> Result<Option<Batch<'h, 'a>>, HeapError> {
    let (heap, layout) = (pages.heap, pages.layout);
    for place in 0..heap.load(EDGE)?.min(layout.places_in(heap.capacity())) {
        let Some(chunk) = Chunk::in_place(pages, place)?.filter(|chunk| chunk.class == class) else {
            continue;
        };
        for word in chunk.words() {
            let mask = chunk.free_cells(word)?;
            if mask != 0 {
                return Ok(Some(Batch { chunk, word, mask }));
            }
        }
    }
    Ok(None)
}
