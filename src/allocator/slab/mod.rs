//! Cells of fixed lengths, without a lock
//!
//! Small objects live in cells: blocks of fixed lengths, in chunks of 64 KiB. Whether a cell is free is told by the
//! state in its header and by nothing else, so a compare-and-swap of that one word allocates, and a
//! store frees. Everything else that leads to a free cell is a hint, and may be lost or wrong. Larger objects take
//! whole pages, under the heap's lock.
//!
//! # Layout
//!
//! | | what | length |
//! |---|---|---|
//! | 0 | control words: [`page`] | 256 bytes |
//! | 256 | the page table, a word for each page of the capacity | 8 bytes a page |
//! | | the summaries, a word for each place of a chunk: [`chunk`] | 8 bytes a place |
//! | the next page | chunks, runs and free pages | |
//!
//! | capacity | chunk | page | tables |
//! |---|---|---|---|
//! | 8 KiB | 1 KiB | 256 bytes | 4 % |
//! | 1 MiB to 1 GiB | 64 KiB | 4 KiB | 0.2 % |
//! | 16 GiB | 64 KiB | 64 KiB | 0.02 % |
//!
//! A chunk is a sixteenth of the capacity, from 1 to 64 KiB. A page is a sixteenth of that and no less than 256 bytes;
//! where the heap would have more than half a million pages, they are larger. The length in use must hold the tables,
//! which are for the whole capacity.
//!
//! | object | lies in | costs beside it |
//! |---|---|---|
//! | up to 648 bytes, aligned to 32; up to 552 to 64 | a cell, of 32 to 672 bytes | 24 bytes, and at most 95 more |
//! | others, up to 64 GiB, aligned to 4096 | a run of pages | 24 bytes, and less than a page more |
//!
//! An object of 700 bytes takes a page of 4 KiB; who has many such is better served by [`Tlsf`](super::Tlsf). A small
//! object goes to a run as well when there is no place for another chunk.
//!
//! # The life of a cell
//!
//! | | steps; **the one that decides** | killed before | killed after |
//! |---|---|---|---|
//! | allocate | **state: free → exclusive(me)**, compare-and-swap; extent; tag; state again | free | the dead one's: the sweep frees it |
//! | free | **state := free**; magazine or bitmap | in use | free, perhaps without a hint |
//!
//! The extent and the tag are written after the state, because before it the cell may be another's. A sweep that
//! finds the cell between reads the tag of a former object and what that left over; it frees the cell all the same,
//! for which it needs neither. How long the cell is stands in the extent from its formatting on, always the same.
//!
//! # Where free cells are found
//! 1. In the [magazine] of the process, private memory: nothing shared is written but the cell itself.
//! 2. In a bitmap word: swapped to zero, it gives up to 64 cells at once, and a magazine that is full gives 32 back.
//!    A word for each class says where to look first.
//! 3. In a new chunk, under the lock.
//! 4. In the states of all cells of the class. So a cell that no hint leads to any more, because a process died with
//!    its magazine, is found before memory is said to be out, and one in the magazine of another is taken from there.
//!
//! A cell may be in two magazines, or be in one and in use: whoever pops it compares and swaps its state, and
//! forgets it if it is not free. That is all the protection that is needed, because a cell stays a cell: **a chunk
//! keeps its class as long as anybody is attached**, even when all its cells are free. If it were made into
//! something else, then a process that has read its place from a magazine, and was stopped before the
//! compare-and-swap, would later find the word of some object there; if that were 1, it would overwrite it.
//! No check before the swap helps, and waiting for such a process could be for ever. Chunks that are all
//! free are given back by an attachment that is alone on the segment, when it begins
//! ([`begin_alone`](super::RegionAllocator::begin_alone)).
//!
//! # Locks
//! Allocating and freeing cells waits for nobody, but for the lock when a new chunk is made; a process that is stopped
//! or killed anywhere in steps 1, 2 and 4 keeps no other from going on. All loops are bounded by the number of
//! cells, and a compare-and-swap that fails means that another one has succeeded. Threads of one process share its
//! magazines: one that finds a magazine open in another's hands goes to the bitmaps instead of waiting.
//!
//! The page table changes under the lock: [`locked`]. What looks at all blocks holds it too, so that runs stay where
//! they are meanwhile; cells come and go.
//!
//! # Safety
//! Implements an unsafe trait, in safe code. The promises in its order: blocks are cells, whose places follow from the
//! class of their chunk, and the blocks of runs, which lie within pages that are theirs alone. A cell is handed
//! out by whoever makes its state exclusive, a run by the holder of the lock. Neither changes before it is freed; the
//! state is the first to change then. What a kill leaves is in the tables above and in [`locked`].
#![allow(unsafe_code)]

mod class;
mod page;
mod chunk;
mod magazine;
mod locked;
mod room;
#[cfg(test)]
mod tests;

use super::RegionAllocator;
use crate::allocator_id::AllocatorId;
use crate::error::HeapError;
use crate::heap::{Block, Demand, Heap, Request, Usage, Visit};
use crate::object::{BLOCK_HEADER_LEN, BlockState, Extent};
use chunk::{Batch, Chunk};
use class::Class;
use locked::Locked;
use magazine::Magazine;
use page::{CHUNK_HINT, HIGH_WATER, PAGE_HINT, Page, Pages, TAKEN};

/// Is passed each block, and its chunk if it is a cell; the answer says whether to go on.
type VisitBlock<'v, 'h, 'a> = dyn FnMut(Option<Chunk<'h, 'a>>, &Block) -> Result<bool, HeapError> + 'v;

/// How often an allocation looks for cells that are all taken from under its hands before it gives up.
const ROUNDS: u32 = 64;
/// Bytes at the start of a run that no object can have: up to its block, the header, and what rounding takes.
const RUN_OVERHEAD: u64 = BLOCK_HEADER_LEN + 16;

/// Fixed lengths, without a lock: for objects up to 640 bytes that several processes allocate at once.
///
/// A cell is allocated by one compare-and-swap and freed by one store, and each process keeps free cells at hand, so
/// processes do not wait for each other, and hardly ever write to the same cache line. Larger objects take whole
/// pages of (mostly) 4 KiB, under a robust lock.
///
/// The heap must hold tables for all that it may grow to, 0.2 % of that. Memory that was once cut into cells of a
/// length is for objects of about that length as long as anybody is attached.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
/// use shmem_bind::{RegionAllocator, Slab};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// let memory: Vec<AtomicU64> = (0..1 << 15).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(1 << 18);
/// let private: Vec<AtomicU64> = (0..Slab::PRIVATE_WORDS).map(|_| AtomicU64::new(0)).collect();
/// let heap = plain.heap(&memory, &private, 0);
/// Slab::format(&heap)?;
/// let small = Slab::allocate(&heap, &plain.request(24, 8, 0))?;
/// assert_eq!(heap.block(small)?.extent.len(), 48, "the smallest class");
/// Slab::free(&heap, small)?;
/// Slab::check(&heap)?;
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Debug)]
pub enum Slab {}

// SAFETY: see the end of the module's header.
unsafe impl RegionAllocator for Slab {
    const ID: AllocatorId = AllocatorId::SLAB;
    const PRIVATE_WORDS: usize = magazine::PRIVATE_WORDS;

    fn format(heap: &Heap<'_>) -> Result<(), HeapError> {
        Pages::new(heap).format()
    }

    #[inline]
    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
        if let Some((class, extent)) = Class::fit_any(request) {
            if let Some(cell) = Magazine::open(heap, class).and_then(|mut magazine| magazine.pop()) {
                if chunk::take(heap, cell, extent, request)? {
                    return Ok(cell);
                }
            }
        }
        allocate_elsewhere(heap, request)
    }

    #[inline]
    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        if let Some(class) = chunk::class_of_cell(heap, offset) {
            let state = heap.words::<1>(offset)?.get::<0>();
            // Before the cell is written: the processor waits for what it has written when the gate is shut.
            if let Some(mut magazine) = Magazine::open(heap, class) {
                if magazine.has_room() && BlockState::from_bits(state.load()).is_exclusive() {
                    state.commit(BlockState::FREE.bits());
                    magazine.push(offset);
                    return Ok(());
                }
            }
        }
        free_elsewhere(heap, offset)
    }

    fn walk(heap: &Heap<'_>, visit: &mut Visit<'_>) -> Result<(), HeapError> {
        let locked = Locked::lock(heap)?;
        each_block(locked.pages, &mut |_, block| Ok(visit(block).is_continue()))
    }

    fn hold_still(heap: &Heap<'_>, work: &mut dyn FnMut()) -> Result<(), HeapError> {
        let _locked = Locked::lock(heap)?;
        work();
        Ok(())
    }

    fn retain(heap: &Heap<'_>, keep: &mut dyn FnMut(&Block) -> bool) -> Result<u64, HeapError> {
        let locked = Locked::lock(heap)?;
        locked.drain()?;
        let mut freed = 0_u64;
        each_block(locked.pages, &mut |chunk, block| {
            if !block.state.is_free() {
                if keep(block) {
                    return Ok(true);
                }
                match chunk {
                    None => locked.free_run(block.offset)?,
                    Some(_) => {
                        // `keep` may have changed it; nobody else does, or it would be in use.
                        let state = locked::in_use(heap, block.offset)?;
                        if !heap.replace_state(block.offset, state, BlockState::FREE)? {
                            return Err(HeapError::Damaged { at: block.offset });
                        }
                    }
                }
                freed = freed.saturating_add(block.extent.len());
            }
            // The hints that died with a magazine come back in this way. Some of them are of cells in the magazine of
            // one who lives, which is no harm.
            if let Some(chunk) = chunk {
                let cell = chunk.cell_at(block.offset)?;
                chunk.give_again(cell / 64, 1 << (cell % 64))?;
            }
            Ok(true)
        })?;
        Ok(freed)
    }

    fn check(heap: &Heap<'_>) -> Result<(), HeapError> {
        let locked = Locked::lock(heap)?;
        check_pages(locked.pages)?;
        each_block(locked.pages, &mut |chunk, block| {
            let is_sound = block.extent.object_len().is_some() && (chunk.is_some() || !block.state.is_free());
            if is_sound { Ok(true) } else { Err(HeapError::Damaged { at: block.offset }) }
        })
    }

    fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError> {
        let locked = Locked::lock(heap)?;
        // What waits to be freed is not in use.
        locked.drain()?;
        let pages = locked.pages;
        let page_len = pages.layout.page_len();
        let high_water = heap.load(HIGH_WATER)?.saturating_sub(pages.layout.own_pages());
        let mut usage = Usage { high_water: high_water.saturating_mul(page_len), ..Usage::default() };
        each_block(pages, &mut |_, block| {
            let len = block.extent.len();
            let (bytes, blocks) = if block.state.is_free() {
                usage.largest_free = usage.largest_free.max(len.saturating_sub(BLOCK_HEADER_LEN));
                (&mut usage.free, &mut usage.free_blocks)
            } else {
                (&mut usage.used, &mut usage.blocks)
            };
            *bytes = bytes.saturating_add(len);
            *blocks = blocks.saturating_add(1);
            Ok(true)
        })?;
        let mut gap = 0_u64;
        for span in pages.spans() {
            if span?.page != Page::Free {
                gap = 0;
                continue;
            }
            if gap == 0 {
                usage.free_blocks = usage.free_blocks.saturating_add(1);
            }
            gap = gap.saturating_add(page_len);
            usage.free = usage.free.saturating_add(page_len);
            let most = Extent::MAX_LEN.saturating_sub(BLOCK_HEADER_LEN);
            usage.largest_free = usage.largest_free.max(gap.saturating_sub(RUN_OVERHEAD).min(most));
        }
        Ok(usage)
    }

    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError> {
        heap.check_growth(len)?;
        let locked = Locked::lock(heap)?;
        // All pages of the capacity are in the table, and those beyond the length are free.
        if heap.len() < len {
            locked.set_len(len);
        }
        Ok(())
    }

    fn required_len(demand: &Demand<'_>) -> Option<u64> {
        room::required_len(demand)
    }

    fn begin_alone(heap: &Heap<'_>) -> Result<(), HeapError> {
        for class in Class::all() {
            // Whatever is in it may be no cell any more.
            while Magazine::open(heap, class).and_then(|mut magazine| magazine.pop()).is_some() {}
        }
        let locked = Locked::lock(heap)?;
        locked.drain()?;
        for span in locked.pages.spans() {
            let span = span?;
            let Page::Chunk(class) = span.page else { continue };
            let chunk = locked::chunk_of_span(locked.pages, span, class)?;
            let mut free = 0_u64;
            for word in chunk.words() {
                let mask = chunk.free_cells(word)?;
                chunk.give_again(word, mask)?;
                free = free.saturating_add(u64::from(mask.count_ones()));
            }
            if free == chunk.cells() {
                locked.release_chunk(chunk)?;
            }
        }
        Ok(())
    }

    fn settle(heap: &Heap<'_>) {
        for class in Class::all() {
            while let Some(cell) = Magazine::open(heap, class).and_then(|mut magazine| magazine.pop()) {
                // Lost, it is found by its state.
                let _ = give_cell(Pages::new(heap), class, cell);
            }
        }
    }
}

/// Allocates what is not on top of the magazine.
#[cold]
#[inline(never)]
fn allocate_elsewhere(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
    if let Some((class, extent)) = Class::fit(request) {
        let mut magazine = Magazine::open(heap, class);
        while let Some(cell) = magazine.as_mut().and_then(Magazine::pop) {
            if chunk::take(heap, cell, extent, request)? {
                return Ok(cell);
            }
        }
        if let Some(cell) = refill(heap, request, class, extent, magazine)? {
            return Ok(cell);
        }
    }
    // Ends the lock before anything else may take it.
    let run = Locked::lock(heap)?.allocate_run(request);
    match run {
        Err(HeapError::OutOfMemory) => take_longer(heap, request)?.ok_or(HeapError::OutOfMemory),
        result => result,
    }
}

/// Takes a cell that is in no magazine of this process, and fills the magazine with what lies beside it.
#[cold]
#[inline(never)]
fn refill(
    heap: &Heap<'_>,
    request: &Request,
    class: Class,
    extent: Extent,
    mut magazine: Option<Magazine<'_>>,
) -> Result<Option<u64>, HeapError> {
    let pages = Pages::new(heap);
    for _ in 0..ROUNDS {
        let found = match chunk::find(pages, class)? {
            Some(batch) => Some(batch),
            None => match Locked::lock(heap)?.new_chunk(class)? {
                Some(batch) => Some(batch),
                None => chunk::search(pages, class)?,
            },
        };
        let Some(Batch { chunk, word, mask }) = found else { return Ok(None) };
        let mut left = mask;
        let mut taken = None;
        for (cell, bit) in chunk.cells_of(word, mask) {
            left &= !bit;
            if chunk::take(heap, cell, extent, request)? {
                taken = Some(cell);
                break;
            }
        }
        if let Some(magazine) = &mut magazine {
            // The first of them shall be popped first.
            while left != 0 && magazine.has_room() {
                let bit = u64::from(left.ilog2());
                magazine.push(chunk.offset(word.wrapping_mul(64).wrapping_add(bit)));
                left &= !(1 << bit);
            }
        }
        // There is no magazine, or it was not empty.
        if left != 0 {
            chunk.give(word, left)?;
        }
        if taken.is_some() {
            return Ok(taken);
        }
    }
    Ok(None)
}

/// Where nothing else is left, a cell that is longer than need be.
#[cold]
#[inline(never)]
fn take_longer(heap: &Heap<'_>, request: &Request) -> Result<Option<u64>, HeapError> {
    let Some((class, _)) = Class::fit(request) else { return Ok(None) };
    for (class, extent) in class.longer(request) {
        let cell = refill(heap, request, class, extent, Magazine::open(heap, class))?;
        if cell.is_some() {
            return Ok(cell);
        }
    }
    Ok(None)
}

/// Frees what cannot go into the magazine as it is.
#[cold]
#[inline(never)]
fn free_elsewhere(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
    let pages = Pages::new(heap);
    let Some((chunk, cell)) = Chunk::containing(pages, offset)? else {
        return Locked::try_lock(heap).ok_or(HeapError::Busy)?.free_run(offset);
    };
    let magazine = Magazine::open(heap, chunk.class);
    locked::in_use(heap, offset)?;
    heap.commit_state(offset, BlockState::FREE)?;
    let Some(mut magazine) = magazine else { return chunk.give(cell / 64, 1 << (cell % 64)) };
    if !magazine.has_room() {
        for cell in magazine.take_half() {
            give_cell(pages, chunk.class, cell)?;
        }
    }
    magazine.push(offset);
    Ok(())
}

/// Lets the bitmaps have a cell.
fn give_cell(pages: Pages<'_, '_>, class: Class, offset: u64) -> Result<(), HeapError> {
    let chunk = Chunk::new(pages, pages.layout.places_in(offset), class);
    let cell = chunk.cell_at(offset)?;
    chunk.give(cell / 64, 1 << (cell % 64))
}

/// Passes on each cell with its chunk, and the block of each run, until that says `false`. Under the lock.
fn each_block<'h, 'a>(pages: Pages<'h, 'a>, visit: &mut VisitBlock<'_, 'h, 'a>) -> Result<(), HeapError> {
    let check = |block: Block| {
        if block.state.is_valid() { Ok(block) } else { Err(HeapError::Damaged { at: block.offset }) }
    };
    for span in pages.spans() {
        let span = span?;
        match span.page {
            Page::Run { distance, .. } => {
                let block = check(locked::block_of_run(pages, span, distance)?)?;
                if !visit(None, &block)? {
                    return Ok(());
                }
            }
            Page::Chunk(class) => {
                let chunk = locked::chunk_of_span(pages, span, class)?;
                for cell in 0..chunk.cells() {
                    let block = check(pages.heap.block(chunk.offset(cell))?)?;
                    if block.extent.len() != class.len() {
                        return Err(HeapError::Damaged { at: block.offset });
                    }
                    if !visit(Some(chunk), &block)? {
                        return Ok(());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the page table and the control words. Under the lock.
fn check_pages(pages: Pages<'_, '_>) -> Result<(), HeapError> {
    let (heap, layout) = (pages.heap, pages.layout);
    let ensure = |holds, at| if holds { Ok(()) } else { Err(HeapError::Damaged { at }) };
    let (page_hint, place_hint) = (heap.load(PAGE_HINT)?, heap.load(CHUNK_HINT)?);
    let mut taken = 0_u64;
    // Free pages in a row, up to the end of the span.
    let mut gap = 0_u64;
    for span in pages.spans() {
        let span = span?;
        let at = layout.page_word(span.first);
        let end = span.first.wrapping_add(span.pages);
        if span.page == Page::Free {
            gap = gap.wrapping_add(1);
            ensure(span.first >= page_hint, PAGE_HINT)?;
            let is_place_end = end & layout.chunk_pages().wrapping_sub(1) == 0 && gap >= layout.chunk_pages();
            ensure(!is_place_end || layout.place_of_page(span.first) >= place_hint, CHUNK_HINT)?;
            continue;
        }
        gap = 0;
        taken = taken.wrapping_add(span.pages);
        ensure(span.page != Page::Part, at)?;
        for page in span.first.wrapping_add(1)..end {
            ensure(pages.get(page)? == Page::Part, layout.page_word(page))?;
        }
        if let Page::Chunk(class) = span.page {
            locked::chunk_of_span(pages, span, class)?.check_hints()?;
        }
    }
    ensure(heap.load(TAKEN)? == taken, TAKEN)?;
    ensure(heap.load(HIGH_WATER)? >= taken, HIGH_WATER)?;
    for page in pages.count()..layout.pages_in(heap.capacity()) {
        ensure(pages.get(page)? == Page::Free, layout.page_word(page))?;
    }
    for place in 0..layout.places_in(heap.capacity()) {
        let at = layout.summary_word(place);
        ensure(heap.load(at)? == 0 || Chunk::in_place(pages, place)?.is_some(), at)?;
    }
    Ok(())
}
