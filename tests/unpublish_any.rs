//! Who destroys an object whose name goes without its type: whoever drops it last, also while the name goes
#![allow(missing_docs, clippy::unwrap_used)]

use shmem_bind::allocator::{Block, Demand, Heap, HeapError, Request, Usage, Visit};
use shmem_bind::{AllocatorId, Arena, Builder, RegionAllocator, ShmemArc, ShmemBox, Tlsf, shareable};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

thread_local! {
    /// What this thread does when it is about to free a block next.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// `Tlsf`, and something else meanwhile.
enum Hooked {}

// SAFETY: all is done by `Tlsf`.
unsafe impl RegionAllocator for Hooked {
    const ID: AllocatorId = AllocatorId::new("hooked", 1);
    const PRIVATE_WORDS: usize = Tlsf::PRIVATE_WORDS;

    fn format(heap: &Heap<'_>) -> Result<(), HeapError> {
        Tlsf::format(heap)
    }
    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
        Tlsf::allocate(heap, request)
    }
    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        if let Some(work) = MEANWHILE.take() {
            work();
        }
        Tlsf::free(heap, offset)
    }
    fn walk(heap: &Heap<'_>, visit: &mut Visit<'_>) -> Result<(), HeapError> {
        Tlsf::walk(heap, visit)
    }
    fn retain(heap: &Heap<'_>, keep: &mut dyn FnMut(&Block) -> bool) -> Result<u64, HeapError> {
        Tlsf::retain(heap, keep)
    }
    fn check(heap: &Heap<'_>) -> Result<(), HeapError> {
        Tlsf::check(heap)
    }
    fn hold_still(heap: &Heap<'_>, work: &mut dyn FnMut()) -> Result<(), HeapError> {
        Tlsf::hold_still(heap, work)
    }
    fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError> {
        Tlsf::usage(heap)
    }
    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError> {
        Tlsf::grow(heap, len)
    }
    fn required_len(demand: &Demand<'_>) -> Option<u64> {
        Tlsf::required_len(demand)
    }
}

shareable! {
    /// Counts its destructions.
    #[repr(C)]
    struct Counted {
        number: u64,
    }
}

thread_local! {
    static DESTROYED: AtomicU64 = const { AtomicU64::new(0) };
}

impl Drop for Counted {
    fn drop(&mut self) {
        DESTROYED.with(|destroyed| destroyed.fetch_add(1, Relaxed));
    }
}

#[test]
fn who_drops_it_last_destroys_it_also_while_the_name_goes() {
    let (segment, fd) = Builder::memfd().create(64 * 1024).unwrap();
    let arena: Arena<Hooked> = segment.arena().unwrap();
    let other: Arena<Hooked> = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
    let before = arena.usage().unwrap().blocks;
    // Held by another attachment, and by this one.
    for (round, holder) in [(1, &other), (2, &arena)] {
        let object = arena.alloc(Counted { number: 7 }).unwrap();
        arena.publish("name", &ShmemBox::into_arc(object)).unwrap();
        let held: ShmemArc<Counted> = holder.find("name").unwrap();
        MEANWHILE.set(Some(Box::new(move || drop(held))));
        arena.unpublish_any("name").unwrap();
        assert!(MEANWHILE.take().is_none(), "it was not dropped meanwhile");
        assert_eq!(DESTROYED.with(|destroyed| destroyed.load(Relaxed)), round);
    }
    arena.check().unwrap();
    assert_eq!(arena.usage().unwrap().blocks, before + 1, "the table");
}
