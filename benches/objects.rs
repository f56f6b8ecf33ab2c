//! What an object costs beside the memory that it takes: boxes, references, handles
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench objects [-- ROUNDS FILTER]`
//!
//! - **alloc, drop**: `Arena::alloc` and the drop of the `ShmemBox`, beside `allocate`, a write of the value, and `free` of the
//!   bare allocator over the same kind of memory: a shared mapping. One object again and again; and with a thousand alive,
//!   of which a random one gives way to the new one. `Box`, with the allocator of the system, is there to see what
//!   private memory costs.
//! - **clone, drop** of a reference, beside `std::sync::Arc`.
//! - **look**: eight numbers are added up through a box, a reference and their relatives of `std`. These are compared
//!   by instructions, which are to be the same.
//! - **pass on**: what it takes to hand an object to somebody, by a handle or a name.

use shmem_bind::allocator::{BLOCK_HEADER_LEN, Heap, PlainHeap};
use shmem_bind::{Arena, Builder, RegionAllocator, Shareable, ShmemArc, ShmemBox, Slab, Tlsf};
use shmem_bind_benches::{Comparison, Report, Shared};
use std::hint::black_box;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the memory that all of them have.
const LEN: usize = 4 << 20;
const ALIVE: usize = 1000;

/// What objects are made of here: `N` words, all the same.
type Words<const N: usize> = [u64; N];

/// Memory shared like that of a segment.
type Memory = [AtomicU64; LEN / 8];

/// An allocator without an arena.
struct Bare {
    mapping: Shared<Memory>,
    plain: PlainHeap,
    private: Vec<AtomicU64>,
}

impl Bare {
    fn new<A: RegionAllocator>() -> Self {
        let private = (0..A::PRIVATE_WORDS).map(|_| AtomicU64::new(0)).collect();
        // SAFETY: zeros are atomics, and used as such, or by whom an allocator has given some.
        let mapping = unsafe { Shared::zeros() };
        let this = Self { mapping, plain: PlainHeap::new(LEN as u64), private };
        A::format(&this.heap()).unwrap();
        this
    }

    fn heap(&self) -> Heap<'_> {
        self.plain.heap(&*self.mapping, &self.private, 0)
    }

    /// Allocates, and writes the value; gives the block.
    fn alloc<A: RegionAllocator, const N: usize>(&self, heap: &Heap<'_>, value: Words<N>) -> u64 {
        let request = self.plain.request(size_of_val(&value) as u64, 8, 0);
        let block = A::allocate(heap, &request).unwrap();
        let place = self.mapping.as_ptr().cast::<u8>().wrapping_add((block + BLOCK_HEADER_LEN) as usize);
        // SAFETY: allocated for it just now, by the contract of allocators.
        unsafe { place.cast::<Words<N>>().write(value) };
        block
    }
}

fn arena<A: RegionAllocator>() -> Arena<A> {
    Builder::memfd().create(LEN).unwrap().0.arena().unwrap()
}

fn used<A: RegionAllocator>(arena: &Arena<A>) -> u64 {
    arena.usage().unwrap().blocks
}

/// One object again and again.
fn alloc_one<A: RegionAllocator, const N: usize>(report: &mut Report, name: &str)
where
    Words<N>: Shareable,
{
    let title = format!("alloc, drop: {name}, one of {} bytes", size_of::<Words<N>>());
    if !report.wants(&title) {
        return;
    }
    let (arena, bare) = (arena::<A>(), Bare::new::<A>());
    let heap = bare.heap();
    report.compare(
        Comparison::new(title)
            .with("bare allocator", || {
                let block = bare.alloc::<A, N>(&heap, black_box([1; N]));
                A::free(&heap, black_box(block)).unwrap();
            })
            .with("shmem-bind", || drop(black_box(arena.alloc(black_box([1_u64; N])).unwrap())))
            .with("Box", || drop(black_box(Box::new(black_box([1_u64; N])))))
            .goal("shmem-bind", 1.3, &["bare allocator"])
            .counted(),
    );
    assert_eq!(used(&arena), 0);
    assert_eq!(A::usage(&heap).unwrap().blocks, 0);
    arena.check().unwrap();
    A::check(&heap).unwrap();
}

/// Puts a new one where a random one was, which is then what is left over.
fn replace<T>(alive: &mut [T], random: &mut fastrand::Rng, new: T) -> T {
    std::mem::replace(&mut alive[random.usize(..ALIVE)], new)
}

/// One of a thousand.
fn alloc_many<A: RegionAllocator, const N: usize>(report: &mut Report, name: &str)
where
    Words<N>: Shareable,
{
    let title = format!("alloc, drop: {name}, one of a thousand of {} bytes", size_of::<Words<N>>());
    if !report.wants(&title) {
        return;
    }
    let (arena, bare) = (arena::<A>(), Bare::new::<A>());
    let heap = bare.heap();
    let mut in_arena: Vec<_> = (0..ALIVE).map(|_| arena.alloc([1_u64; N]).unwrap()).collect();
    let mut in_heap: Vec<_> = (0..ALIVE).map(|_| bare.alloc::<A, N>(&heap, [1; N])).collect();
    let mut boxes: Vec<_> = (0..ALIVE).map(|_| Box::new([1_u64; N])).collect();
    let random = || fastrand::Rng::with_seed(7);
    let (mut first, mut second, mut third) = (random(), random(), random());
    report.compare(
        Comparison::new(title)
            .with("bare allocator", || {
                let new = bare.alloc::<A, N>(&heap, black_box([1; N]));
                A::free(&heap, replace(&mut in_heap, &mut first, new)).unwrap();
            })
            .with("shmem-bind", || {
                let new = arena.alloc(black_box([1_u64; N])).unwrap();
                drop(replace(&mut in_arena, &mut second, new));
            })
            .with("Box", || drop(replace(&mut boxes, &mut third, Box::new(black_box([1_u64; N])))))
            .goal("shmem-bind", 1.3, &["bare allocator"])
            .counted(),
    );
    assert_eq!(used(&arena), ALIVE as u64);
    assert_eq!(A::usage(&heap).unwrap().blocks, ALIVE as u64);
    assert!(in_arena.iter().all(|object| **object == [1; N]));
    arena.check().unwrap();
    A::check(&heap).unwrap();
}

fn alloc<A: RegionAllocator>(report: &mut Report, name: &str) {
    alloc_one::<A, 1>(report, name);
    alloc_one::<A, 8>(report, name);
    alloc_one::<A, 64>(report, name);
    alloc_many::<A, 1>(report, name);
    alloc_many::<A, 8>(report, name);
    alloc_many::<A, 64>(report, name);
}

fn references(report: &mut Report) {
    let arena = arena::<Tlsf>();
    let shared = ShmemBox::into_arc(arena.alloc(AtomicU64::new(5)).unwrap());
    let of_std = Arc::new(AtomicU64::new(5));
    report.compare(
        Comparison::new("clone, drop of a reference")
            .with("std::sync::Arc", || drop(black_box(Arc::clone(black_box(&of_std)))))
            .with("ShmemArc", || drop(black_box(ShmemArc::clone(black_box(&shared)))))
            .goal("ShmemArc", 1.2, &["std::sync::Arc"])
            .counted(),
    );
    // None is left over: the object is its last reference's again, and there are others while there are clones.
    let clone = shared.clone();
    let mut shared = shared;
    assert!(ShmemArc::get_mut(&mut shared).is_none());
    drop(clone);
    assert_eq!(ShmemArc::get_mut(&mut shared).unwrap().load(Ordering::Relaxed), 5);
    assert_eq!(Arc::strong_count(&of_std), 1);
}

/// Adds up what is behind something.
#[inline]
fn sum(holder: &impl Deref<Target = Words<8>>) -> u64 {
    black_box(holder).iter().sum()
}

fn look(report: &mut Report) {
    let (arena, numbers) = (arena::<Tlsf>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let boxed = arena.alloc(numbers).unwrap();
    let shared = ShmemBox::into_arc(arena.alloc(numbers).unwrap());
    let (of_std, arc, reference) = (Box::new(numbers), Arc::new(numbers), &numbers);
    for found in [sum(&boxed), sum(&shared), sum(&of_std), sum(&arc), sum(&reference)] {
        assert_eq!(found, 36);
    }
    let outcome = report.compare(
        Comparison::new("look at eight numbers")
            .with("a reference", || sum(&reference))
            .with("Box", || sum(&of_std))
            .with("ShmemBox", || sum(&boxed))
            .with("Arc", || sum(&arc))
            .with("ShmemArc", || sum(&shared))
            .counted(),
    );
    let counts = |name| outcome?.row(name)?.instructions;
    if let (Some(found), Some(of_std), Some(reference)) =
        (counts("ShmemBox"), counts("Box"), counts("a reference"))
    {
        // A difference of one instruction is one in each run.
        let is_same = (found - of_std).abs() < 0.5 && (found - reference).abs() < 0.5;
        let verdict = if is_same { "met" } else { "MISSED" };
        println!(
            "  {verdict}: a ShmemBox takes {found:.0} instructions, a Box {of_std:.0}, a reference {reference:.0}"
        );
    }
}

fn pass_on(report: &mut Report) {
    let title = "pass an object on";
    if !report.wants(title) {
        return;
    }
    let arena = arena::<Tlsf>();
    let mut boxed = Some(arena.alloc([1_u64; 8]).unwrap());
    let mut shared = Some(arena.alloc([1_u64; 8]).unwrap());
    arena.publish("named", &ShmemBox::into_arc(arena.alloc([1_u64; 8]).unwrap())).unwrap();
    let held = ShmemBox::into_arc(arena.alloc([1_u64; 8]).unwrap());
    arena.publish("held", &held).unwrap();
    report.compare(
        Comparison::new(title)
            .with("alloc, drop", || drop(black_box(arena.alloc([1_u64; 8]).unwrap())))
            .with("leak, claim", || {
                let handle = ShmemBox::leak(boxed.take().unwrap());
                boxed = Some(arena.claim(black_box(handle)).unwrap());
            })
            .with("into_arc, into_box", || {
                let arc = black_box(ShmemBox::into_arc(shared.take().unwrap()));
                shared = Some(ShmemArc::into_box(arc).unwrap());
            })
            .with("find, drop: nobody else", || drop(black_box(arena.find::<Words<8>>("named").unwrap())))
            .with("find, drop: held besides", || drop(black_box(arena.find::<Words<8>>("held").unwrap())))
            .counted(),
    );
    assert_eq!(boxed.as_deref(), Some(&[1; 8]));
    assert_eq!(shared.as_deref(), Some(&[1; 8]));
    assert_eq!(arena.leaked().count(), 0);
    arena.check().unwrap();
}

fn main() {
    let mut report = Report::new("objects", 101);
    alloc::<Tlsf>(&mut report, "Tlsf");
    alloc::<Slab>(&mut report, "Slab");
    references(&mut report);
    look(&mut report);
    pass_on(&mut report);
    report.finish();
}
