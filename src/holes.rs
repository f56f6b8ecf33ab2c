//! Holes: where a forked child has nothing
//!
//! A child does not get the arenas of its parent, but it gets boxes and references that lead to where they are. Were
//! something else mapped there, touching such a box would change that. So a process keeps a list of its arenas in memory that
//! its children do get, and a child, before it maps anything, puts a barrier into each hole: an inaccessible
//! range, for as long as it lives. Touching what was inherited is then a fault, and never anything else; and what lies
//! in a segment of the child is never taken for what was inherited.
//!
//! A range stands in the list from the time when children do not get it until it is unmapped, whose length is stored
//! last and taken back first.
//!
//! # Safety
//! Makes references to pages of its own, which are atomics alone, and are never unmapped.
#![allow(unsafe_code)]

use crate::sys::Failure;
use crate::sys::shm::{self, Mapping};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use rustix::io::Errno;
use static_assertions::const_assert;

const PAGE_LEN: usize = 4096;
const RANGES: usize = 255;

/// The first page of the list; after `fork`, that of the parent.
static FIRST: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());

#[repr(C)]
struct Page {
    /// INVARIANT 1: null, or a page that is never unmapped.
    next: AtomicPtr<Page>,
    ranges: [Range; RANGES],
}

const_assert!(size_of::<Page>() <= PAGE_LEN);

struct Range {
    start: AtomicUsize,
    /// 0: none.
    len: AtomicUsize,
}

/// Says that children will not get `len` bytes from `start`.
pub(crate) fn remember(start: usize, len: usize) -> Result<(), Failure> {
    let mut place = &FIRST;
    loop {
        let page = page_at(place)?;
        // Taken by its start, which is no address of anything, until it has a length.
        let free = page.ranges.iter().find(|range| {
            range.len.load(Ordering::Relaxed) == 0
                && range.start.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        if let Some(range) = free {
            range.len.store(len, Ordering::Release);
            return Ok(());
        }
        place = &page.next;
    }
}

/// Takes that back, before the range is unmapped.
pub(crate) fn forget(start: usize) {
    for range in ranges().filter(|range| range.start.load(Ordering::Relaxed) == start) {
        range.len.store(0, Ordering::Release);
        range.start.store(0, Ordering::Release);
    }
}

/// In a child, before it maps anything: bars what it did not get of its parent's.
pub(crate) fn bar() {
    for range in ranges() {
        let len = range.len.swap(0, Ordering::Acquire);
        let start = range.start.swap(0, Ordering::Relaxed);
        if len != 0 {
            // Fails if something lies there: then the child has mapped it by other means, and it is not for this crate to
            // judge. Without memory for a mapping, nothing can be attached either.
            let _: Result<(), Errno> = shm::bar(start, len);
        }
    }
}

/// All entries of the list.
fn ranges() -> impl Iterator<Item = &'static Range> {
    let mut page = existing(&FIRST);
    core::iter::from_fn(move || {
        let this = page?;
        page = existing(&this.next);
        Some(this.ranges.iter())
    })
    .flatten()
}

fn existing(place: &AtomicPtr<Page>) -> Option<&'static Page> {
    let page = NonNull::new(place.load(Ordering::Acquire))?;
    // SAFETY: by invariant 1 (and because `FIRST` is treated the same) it is mapped for good; it consists of atomics.
    Some(unsafe { page.as_ref() })
}

/// The page that `place` leads to; a new one if there is none.
fn page_at(place: &AtomicPtr<Page>) -> Result<&'static Page, Failure> {
    if let Some(page) = existing(place) {
        return Ok(page);
    }
    let mapping = Mapping::private(PAGE_LEN)?;
    let new = mapping.base().cast::<Page>();
    // SYNC: Release here, Acquire in `existing`. Zeros are an empty page.
    if place
        .compare_exchange(core::ptr::null_mut(), new.as_ptr(), Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
    {
        mapping.leak();
    }
    // Another thread may have been quicker; ours is unmapped again then.
    existing(place).ok_or(Failure::new("mmap", Errno::NOMEM))
}
