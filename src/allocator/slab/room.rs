//! How large a heap must be

use super::class::{CLASSES, Class};
use super::page::Layout;
use crate::heap::{Demand, Request};
use crate::object::{BLOCK_HEADER_LEN, Extent, GRANULE};

/// No heap is longer than its largest block and the words before it.
const MAX_HEAP: u64 = Extent::MAX_LEN;
/// Where the first object of a page lies, at the least.
const FIRST_OBJECT: u64 = BLOCK_HEADER_LEN + GRANULE / 2;

/// Where things lie follows from the length, so lengths are tried, each at least what the one before has been found to
/// need.
pub(super) fn required_len(demand: &Demand<'_>) -> Option<u64> {
    let mut len = 0_u64;
    while len <= MAX_HEAP {
        let needed = needed(demand, Layout::new(len))?;
        if needed <= len {
            return Some(len);
        }
        len = needed;
    }
    None
}

/// Bytes that all of it takes in a heap laid out like this.
///
/// Each class may have a chunk that is not full, and for each 256 places one more that a search would have
/// spared. Runs are packed from the front, but before a chunk, or at the end, there may be a gap that the next one does
/// not fit into.
fn needed(demand: &Demand<'_>, layout: Layout) -> Option<u64> {
    let mut cells = [0_u64; CLASSES];
    let (mut run_pages, mut longest_run) = (0_u64, 0_u64);
    let mut is_possible = true;
    demand.each(|request, count| {
        if count == 0 {
            return;
        }
        is_possible &= request.block_len().is_some();
        let place = Class::fit(request).and_then(|(class, _)| cells.get_mut(class.index()));
        if let Some(cells) = place {
            *cells = cells.saturating_add(count);
        } else {
            let pages = pages_of_run(request, layout);
            run_pages = run_pages.saturating_add(pages.saturating_mul(count));
            longest_run = longest_run.max(pages);
        }
    });
    let mut chunks = 0_u64;
    for class in Class::all() {
        let wanted = cells.get(class.index()).copied().unwrap_or(0);
        let each = layout.cells_of(class);
        // A chunk of the smallest heaps holds one of the longest cells.
        chunks = chunks.saturating_add(wanted.div_ceil(each.max(1)));
    }
    if chunks != 0 {
        let classes = cells.iter().filter(|cells| **cells != 0).count() as u64;
        chunks = chunks.saturating_add(classes.saturating_mul(chunks.div_ceil(super::chunk::LOOK)));
    }
    let (own, chunk_pages) = (layout.own_pages(), layout.chunk_pages());
    let mut pages = own.saturating_add(run_pages);
    if chunks != 0 {
        let gap = longest_run.min(chunk_pages).saturating_sub(1);
        pages = own
            .next_multiple_of(chunk_pages)
            .saturating_add(chunks.saturating_mul(chunk_pages))
            .saturating_add(run_pages)
            .saturating_add(chunks.saturating_mul(gap))
            .next_multiple_of(chunk_pages);
    }
    let pages = pages.max(own.saturating_add(1));
    is_possible.then(|| pages.saturating_mul(layout.page_len()))
}

/// Pages that a run takes, with those that are left out before it for the sake of its alignment.
fn pages_of_run(request: &Request, layout: Layout) -> u64 {
    let len = request.block_len().unwrap_or(u64::MAX);
    let align = request.align();
    let page = layout.page_len();
    // How far into its page the block begins at most.
    let into = align.max(FIRST_OBJECT).min(page).saturating_sub(BLOCK_HEADER_LEN);
    len.saturating_add(into).div_ceil(page).saturating_add(align >> layout.page_shift)
}
