//! What is done under the heap's lock
//!
//! Runs, new chunks, and putting right what a holder of the lock left that was killed.
//!
//! # Commit order, and what a kill leaves
//!
//! | | steps | killed between |
//! |---|---|---|
//! | allocate a run | reserve pages; block free, extent; head; **hand out** | parts without a head, or a run whose block is free |
//! | free a run | **block free**; release pages | a run whose block is free, or parts without a head |
//! | new chunk | reserve pages; cells; edge; **head**; announce | parts without a head, or a chunk not announced |
//! | give a chunk back | hide; **release pages** | a chunk not announced, or parts without a head |
//!
//! [`recover`] frees parts without a head and runs whose block is free, announces chunks, frees blocks that have been
//! popped, and counts pages anew. It changes nothing that is whole, so it can be killed and begun again.

use super::chunk::{Batch, Chunk};
use super::class::Class;
use super::page::{CHUNK_HINT, EDGE, HIGH_WATER, PAGE_HINT, Page, Pages, Span, TAKEN};
use crate::error::HeapError;
use crate::heap::{Block, Heap, HeapGuard, Request};
use crate::object::BlockState;

/// The pages of a heap whose lock is held.
#[derive(Debug)]
pub(super) struct Locked<'h, 'a> {
    pub(super) pages: Pages<'h, 'a>,
    guard: HeapGuard<'h, 'a>,
}

impl<'h, 'a> Locked<'h, 'a> {
    /// Waits for the lock.
    pub(super) fn lock(heap: &'h Heap<'a>) -> Result<Self, HeapError> {
        let pages = Pages::new(heap);
        let guard = heap.lock(|guard| recover(guard, pages))?;
        Ok(Self { pages, guard })
    }

    /// Does not wait for it.
    pub(super) fn try_lock(heap: &'h Heap<'a>) -> Option<Self> {
        Some(Self { pages: Pages::new(heap), guard: heap.try_lock()? })
    }

    /// Frees the blocks that wait for it.
    pub(super) fn drain(&self) -> Result<(), HeapError> {
        if self.guard.has_condemned() { drain(&self.guard, self.pages) } else { Ok(()) }
    }

    /// Finds pages for an object, and hands the block out.
    pub(super) fn allocate_run(&self, request: &Request) -> Result<u64, HeapError> {
        self.drain()?;
        let (pages, heap) = (self.pages, self.pages.heap);
        let len = request.block_len().ok_or(HeapError::OutOfMemory)?;
        let extent = request.extent(len).ok_or(HeapError::OutOfMemory)?;
        let fit = pages.find(len, request.align())?.ok_or(HeapError::OutOfMemory)?;
        pages.reserve(fit.first, fit.pages)?;
        heap.commit_state(fit.block, BlockState::FREE)?;
        heap.commit_extent(fit.block, extent)?;
        pages.commit_head(fit.first, fit.pages, pages.run(fit))?;
        heap.hand_out(fit.block, request)?;
        Ok(fit.block)
    }

    /// Frees the run whose block is at `offset`.
    pub(super) fn free_run(&self, offset: u64) -> Result<(), HeapError> {
        free_run(self.pages, offset)
    }

    /// Makes a chunk, if there is a place. Its first cells are for the caller alone to know.
    pub(super) fn new_chunk(&self, class: Class) -> Result<Option<Batch<'h, 'a>>, HeapError> {
        self.drain()?;
        let pages = self.pages;
        let Some(place) = pages.find_place()? else { return Ok(None) };
        let chunk = Chunk::new(pages, place, class);
        let (first, count) = (chunk.first_page(), pages.layout.chunk_pages());
        pages.reserve(first, count)?;
        let batch = chunk.format()?;
        pages.raise(EDGE, place.wrapping_add(1))?;
        pages.commit_head(first, count, Page::Chunk(class))?;
        chunk.announce()?;
        Ok(Some(batch))
    }

    /// Gives the pages of a chunk back. Safe only while nobody else uses the heap, for a process that has seen a
    /// cell free a moment ago may be about to take it.
    pub(super) fn release_chunk(&self, chunk: Chunk<'h, 'a>) -> Result<(), HeapError> {
        chunk.hide()?;
        self.pages.release(chunk.first_page(), self.pages.layout.chunk_pages())
    }

    /// Makes the heap longer.
    pub(super) fn set_len(&self, len: u64) {
        self.guard.set_len(len);
    }
}

/// The state of the block at `offset`, which must be in use.
#[inline]
pub(super) fn in_use(heap: &Heap<'_>, offset: u64) -> Result<BlockState, HeapError> {
    let state = BlockState::from_bits(heap.load(offset)?);
    if state.is_in_use() { Ok(state) } else { Err(HeapError::Damaged { at: offset }) }
}

/// The block of a run, which must lie within its pages.
pub(super) fn block_of_run(pages: Pages<'_, '_>, span: Span, distance: u64) -> Result<Block, HeapError> {
    let layout = pages.layout;
    let block = pages.heap.block(pages.block_of_run(span.first, distance))?;
    // As many pages as it takes, from the one in which it begins.
    let last = block.end().map_or(0, |end| end.div_ceil(layout.page_len()));
    if layout.pages_in(block.offset) == span.first && last == span.first.wrapping_add(span.pages) {
        Ok(block)
    } else {
        Err(HeapError::Damaged { at: layout.page_word(span.first) })
    }
}

/// Which chunk a span is, if it is one, which must be in its place.
pub(super) fn chunk_of_span<'h, 'a>(
    pages: Pages<'h, 'a>,
    span: Span,
    class: Class,
) -> Result<Chunk<'h, 'a>, HeapError> {
    let chunk = Chunk::new(pages, pages.layout.place_of_page(span.first), class);
    if chunk.first_page() == span.first {
        Ok(chunk)
    } else {
        Err(HeapError::Damaged { at: pages.layout.page_word(span.first) })
    }
}

fn free_run(pages: Pages<'_, '_>, offset: u64) -> Result<(), HeapError> {
    let (page, count) = pages.span(pages.layout.pages_in(offset))?;
    let span = Span { first: pages.layout.pages_in(offset), pages: count, page };
    match page {
        Page::Run { distance, .. } if pages.block_of_run(span.first, distance) == offset => {
            in_use(pages.heap, offset)?;
            pages.heap.commit_state(offset, BlockState::FREE)?;
            pages.release(span.first, span.pages)
        }
        _ => Err(HeapError::Damaged { at: offset }),
    }
}

/// Frees a block that has been condemned, cell or run.
fn free_any(pages: Pages<'_, '_>, offset: u64) -> Result<(), HeapError> {
    let Some((chunk, cell)) = Chunk::containing(pages, offset)? else { return free_run(pages, offset) };
    in_use(pages.heap, offset)?;
    pages.heap.commit_state(offset, BlockState::FREE)?;
    chunk.give(cell / 64, 1 << (cell % 64))
}

fn drain(guard: &HeapGuard<'_, '_>, pages: Pages<'_, '_>) -> Result<(), HeapError> {
    guard.take_condemned(|offset| free_any(pages, offset))
}

/// Puts right what a dead holder of the lock left.
fn recover(guard: &HeapGuard<'_, '_>, pages: Pages<'_, '_>) -> Result<(), HeapError> {
    let heap = pages.heap;
    for span in pages.spans() {
        let span = span?;
        match span.page {
            Page::Free | Page::Own { .. } => {}
            Page::Part => pages.free_part(span.first)?,
            Page::Run { distance, .. } => {
                if block_of_run(pages, span, distance)?.state.is_free() {
                    pages.release(span.first, span.pages)?;
                }
            }
            Page::Chunk(class) => {
                let chunk = chunk_of_span(pages, span, class)?;
                if !chunk.is_announced()? {
                    chunk.announce()?;
                }
            }
        }
    }
    drain(guard, pages)?;
    // What was popped and is not on the stack any more.
    let free_popped = |offset| {
        if BlockState::from_bits(heap.load(offset)?).is_popped() { free_any(pages, offset) } else { Ok(()) }
    };
    for span in pages.spans() {
        let span = span?;
        match span.page {
            Page::Run { distance, .. } => free_popped(pages.block_of_run(span.first, distance))?,
            Page::Chunk(class) => {
                let chunk = chunk_of_span(pages, span, class)?;
                for word in chunk.words() {
                    for (offset, _) in chunk.cells_of_word(word) {
                        free_popped(offset)?;
                    }
                }
            }
            _ => {}
        }
    }
    let mut taken = 0_u64;
    for span in pages.spans() {
        let span = span?;
        if span.page != Page::Free {
            taken = taken.saturating_add(span.pages);
        }
    }
    heap.store(TAKEN, taken)?;
    pages.raise(HIGH_WATER, taken)?;
    heap.store(PAGE_HINT, 0)?;
    heap.store(CHUNK_HINT, 0)
}
