//! This crate's allocators, bare
//!
//! The code is the same as in a segment. The words that stand in the header of one (the lock above all) are in the mapping as
//! well, before the heap, so that processes share them. Each process has a number and private memory of its own, as
//! an attachment would; its threads have them in common.

use super::{Heap, Mapping, Place};
use shmem_bind::RegionAllocator;
use shmem_bind::allocator::{BLOCK_HEADER_LEN, HeapError, PlainHeap};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What lies before the heap, which begins with a page.
const BEFORE: usize = 4096;

/// A heap of the allocator `A`.
pub struct Ours<A> {
    /// INVARIANT: refers to the next two, which live as long, and do not move. So it is the first to be dropped, and nobody
    /// gets it for longer.
    heap: shmem_bind::allocator::Heap<'static>,
    private: Arc<[AtomicU64]>,
    mapping: Arc<Mapping>,
    plain: &'static PlainHeap,
    slot: u64,
    allocator: PhantomData<fn() -> A>,
}

// SAFETY: a heap may be used by any number of threads; it lacks this only because of its `dyn` reference into the mapping.
unsafe impl<A> Send for Ours<A> {}

impl<A: RegionAllocator> Ours<A> {
    /// Over `len` bytes, a multiple of 8.
    pub fn new(len: usize) -> Self {
        const { assert!(size_of::<PlainHeap>() <= BEFORE) };
        let mapping = Arc::new(Mapping::new(BEFORE + len));
        let plain = mapping.base().cast::<PlainHeap>();
        // SAFETY: aligned to a page, long enough, and nobody uses it yet.
        unsafe { plain.write(PlainHeap::new(len as u64)) };
        // SAFETY: written just now, and not longer used than `mapping` lives: see the invariant.
        let plain = unsafe { plain.as_ref() };
        let ours = Self::attach(mapping, plain, private::<A>(), 0);
        A::format(&ours.heap).expect("too little memory");
        ours
    }

    fn attach(
        mapping: Arc<Mapping>,
        plain: &'static PlainHeap,
        private: Arc<[AtomicU64]>,
        slot: u64,
    ) -> Self {
        let words: *const [AtomicU64] = &raw const mapping.words()[BEFORE / 8..];
        // SAFETY: mapped as long as `mapping` lives, which is beside it.
        let words = unsafe { &*words };
        // SAFETY: they live as long as `private`, which is beside it, and do not move with it.
        let stock = unsafe { &*Arc::as_ptr(&private) };
        let heap = plain.heap(words, stock, slot);
        Self { heap, private, mapping, plain, slot, allocator: PhantomData }
    }

    fn payload(&self, place: Place) -> &AtomicU64 {
        self.heap.word(place + BLOCK_HEADER_LEN).unwrap()
    }
}

fn private<A: RegionAllocator>() -> Arc<[AtomicU64]> {
    (0..A::PRIVATE_WORDS).map(|_| AtomicU64::new(0)).collect()
}

impl<A: RegionAllocator> Heap for Ours<A> {
    #[inline]
    fn allocate(&self, len: usize, value: u64) -> Option<Place> {
        let request = self.plain.request(len as u64, super::ALIGN as u64, self.slot);
        let place = A::allocate(&self.heap, &request).ok()?;
        self.payload(place).store(value, Ordering::Relaxed);
        Some(place)
    }

    fn read(&self, place: Place) -> u64 {
        self.payload(place).load(Ordering::Relaxed)
    }

    #[inline]
    fn free(&self, place: Place, _len: usize) {
        match A::free(&self.heap, place) {
            // The lock is taken: the block is left to the next holder.
            Err(HeapError::Busy) => self.plain.condemn(&self.heap, place).unwrap(),
            result => result.unwrap(),
        }
    }

    fn check(&self) {
        A::check(&self.heap).unwrap();
    }

    fn for_process(&self, number: u64) -> Self {
        Self::attach(Arc::clone(&self.mapping), self.plain, private::<A>(), number)
    }

    fn for_thread(&self) -> Self {
        Self::attach(Arc::clone(&self.mapping), self.plain, Arc::clone(&self.private), self.slot)
    }
}
