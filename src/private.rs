//! What a process keeps to itself about an arena
//!
//! Each attachment that has opened an arena has memory that no other process sees: the functions of the arena's
//! allocator, the allocator's private words, and how often this process holds each shared object. All of it is
//! lost with the process, without harm, and wiped in a child after `fork`.
//!
//! # Safety
//! Makes references to mappings of its own, which are atomics alone, and stay until the attachment ends.
#![allow(unsafe_code)]

use crate::allocator::Functions;
use crate::object::{GRANULE, MIN_BLOCK_LEN};
use crate::sys::Failure;
use crate::sys::clock::Deadline;
use crate::sys::shm::Mapping;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use rustix::io::Errno;

/// The private memory of one attachment.
#[derive(Debug)]
pub(crate) struct PrivateMemory {
    /// INVARIANT 1: null, or a `&'static Functions`.
    functions: AtomicPtr<Functions>,
    stock: LazyWords,
    /// First the stripes, then the counts.
    counts: LazyWords,
    /// How often this process holds the value of a segment that is no arena.
    root_count: AtomicU64,
}

impl PrivateMemory {
    pub(crate) const fn new() -> Self {
        Self {
            functions: AtomicPtr::new(ptr::null_mut()),
            stock: LazyWords::new(),
            counts: LazyWords::new(),
            root_count: AtomicU64::new(0),
        }
    }

    /// Maps the memory for an arena that has these functions, and whose heap may grow to `heap_words`.
    pub(crate) fn map(&self, functions: &'static Functions, heap_words: usize) -> Result<(), Failure> {
        self.stock.map(functions.private_words)?;
        // One for each 32 bytes of heap, of which each block takes at least as many.
        self.counts.map(heap_words.div_ceil(WORDS_A_COUNT).saturating_add(STRIPES))
    }

    /// Says that the segment is an arena that has these functions.
    pub(crate) fn open(&self, functions: &'static Functions) {
        // SYNC: Release here, Acquire in `functions`: whoever finds an open arena finds its memory.
        self.functions.store(ptr::from_ref(functions).cast_mut(), Ordering::Release);
    }

    /// The functions of the allocator, if an arena has been opened.
    #[inline]
    pub(crate) fn functions(&self) -> Option<&'static Functions> {
        let functions = NonNull::new(self.functions.load(Ordering::Acquire))?;
        // SAFETY: by invariant 1.
        Some(unsafe { functions.as_ref() })
    }

    /// The allocator's private words.
    #[inline]
    pub(crate) fn stock(&self) -> &[AtomicU64] {
        self.stock.get()
    }

    /// How often this process holds the value of the segment.
    pub(crate) const fn root_count(&self) -> &AtomicU64 {
        &self.root_count
    }

    /// How often this process holds the object whose block is at `offset` of the heap.
    #[inline]
    pub(crate) fn count(&self, offset: u64) -> Option<&AtomicU64> {
        let index = usize::try_from(offset / BYTES_A_COUNT).ok()?;
        self.counts.get().get(index.checked_add(STRIPES)?)
    }

    /// Locks the stripe of the object whose block is at `offset`, against other threads of this process.
    #[inline]
    pub(crate) fn stripe(&self, offset: u64) -> Option<Stripe<'_>> {
        // All but a few of the low bits tell one object from the next.
        let index = usize::try_from(offset / GRANULE).ok()? & (STRIPES - 1);
        let word = self.counts.get().get(index)?;
        // Held for the time of one compare-and-swap.
        let mut deadline = Deadline::new(Duration::MAX);
        while word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Sleeps after a while, so that a thread of lower priority gets to its end.
            deadline.wait();
        }
        Some(Stripe(word))
    }
}

/// A stripe, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct Stripe<'a>(&'a AtomicU64);

impl Drop for Stripe<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Number of stripes.
const STRIPES: usize = 64;
static_assertions::const_assert!(STRIPES.is_power_of_two());
/// Bytes and words of heap for each count.
const BYTES_A_COUNT: u64 = MIN_BLOCK_LEN;
const WORDS_A_COUNT: usize = BYTES_A_COUNT as usize / size_of::<AtomicU64>();

/// Words that are mapped when they are first needed; zero at first.
#[derive(Debug)]
struct LazyWords {
    /// INVARIANT 2: null, or a leaked mapping of `len` words that only `drop` takes over. Null for good if `len` is 0.
    base: AtomicPtr<AtomicU64>,
    len: AtomicUsize,
}

impl LazyWords {
    const fn new() -> Self {
        Self { base: AtomicPtr::new(ptr::null_mut()), len: AtomicUsize::new(0) }
    }

    /// Maps `len` words; called once, by the one who opens the arena.
    fn map(&self, len: usize) -> Result<(), Failure> {
        if len == 0 || self.len.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        let bytes = len.checked_mul(size_of::<AtomicU64>()).ok_or(Failure::new("mmap", Errno::NOMEM))?;
        let mapping = Mapping::private_sparse(bytes)?;
        self.len.store(len, Ordering::Relaxed);
        self.base.store(mapping.base().as_ptr().cast(), Ordering::Release);
        mapping.leak();
        Ok(())
    }

    #[inline]
    fn get(&self) -> &[AtomicU64] {
        let base = self.base.load(Ordering::Acquire);
        if base.is_null() {
            return &[];
        }
        // SAFETY: by invariant 2 a mapping of so many words, aligned to a page, of zeros or of what was stored as
        // atomics; it stays at least as long as `self`.
        unsafe { core::slice::from_raw_parts(base, self.len.load(Ordering::Relaxed)) }
    }
}

impl Drop for LazyWords {
    fn drop(&mut self) {
        let len = self.get().len().wrapping_mul(size_of::<AtomicU64>());
        if let Some(base) = NonNull::new(self.base.load(Ordering::Acquire)) {
            // SAFETY: by invariant 2; nobody refers to it any more.
            drop(unsafe { Mapping::from_raw(base.cast(), len) });
        }
    }
}
