//! What an arena refuses, and with which error: types, names, handles, sizes, other sorts of segments
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::TestName;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use shmem_bind::allocator::{BlockState, Extent, HeapError};
use shmem_bind::{
    AllocError, Arena, ArenaError, BoxError, Builder, Bump, DirectoryError, Handle, HandleError, OwnedFd,
    Payload, RegionAllocator, Shareable, ShmemArc, ShmemBox, ShmemConf, ShmemError, SizeError, Slab, Tlsf,
    TypeTag, Usage, shareable,
};
use std::fmt::{Debug, Display};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SIZE: usize = 64 * 1024;

fn memfd(size: usize) -> (ShmemConf, OwnedFd) {
    Builder::memfd().create(size).unwrap()
}

fn arena() -> Arena<Tlsf> {
    memfd(SIZE).0.arena().unwrap()
}

/// That an error says this, and no error of an arena leaves a trace.
#[track_caller]
fn says(error: &(impl Display + Debug), keywords: &[&str]) {
    let message = error.to_string();
    assert!(message.len() > 20 && !message.contains("Error"), "{error:?}: {message}");
    for keyword in keywords {
        assert!(message.contains(keyword), "{keyword:?} is not in: {message}");
    }
}

/// Runs what must not work, and checks that it changes nothing.
#[track_caller]
fn refused<R, E: Debug>(arena: &Arena<Tlsf>, operation: impl FnOnce() -> Result<R, E>) -> E {
    let before = arena.usage().unwrap();
    let Err(error) = operation() else { panic!("not refused") };
    arena.check().unwrap();
    let after = arena.usage().unwrap();
    let high_water = |usage: Usage| (usage.used, usage.free, usage.blocks, usage.free_blocks);
    assert_eq!(high_water(after), high_water(before), "{error:?} left something behind");
    error
}

mod first {
    use super::*;
    shareable! {
        #[derive(Debug)]
        #[repr(C)]
        pub struct Limits { pub low: u32, pub high: u32 }
    }
}

mod second {
    use super::*;
    shareable! {
        version = 2;
        #[derive(Debug)]
        #[repr(C)]
        pub struct Limits { pub low: u32, pub high: u32 }
    }
}

mod third {
    use super::*;
    shareable! {
        #[derive(Debug)]
        #[repr(C, align(16))]
        pub struct Limits { pub low: u32, pub high: u32 }
    }
}

mod fourth {
    use super::*;
    shareable! {
        #[derive(Debug)]
        #[repr(C)]
        pub struct Limits { pub high: u32, pub low: u32 }
    }
}

#[test]
fn an_object_of_another_type_is_refused_and_the_error_says_in_what_it_differs() {
    let arena = arena();
    let limits = ShmemBox::into_arc(arena.alloc(first::Limits { low: 1, high: 2 }).unwrap());
    arena.publish("limits", &limits).unwrap();
    let mismatch = |error| match error {
        DirectoryError::Mismatch(mismatch) => mismatch,
        error => panic!("{error:?}"),
    };
    let by_version = mismatch(refused(&arena, || arena.find::<second::Limits>("limits")));
    says(&by_version, &["its version is 0 and not 2"]);
    let by_align = mismatch(refused(&arena, || arena.find::<third::Limits>("limits")));
    says(&by_align, &["its size is 8 bytes and not 16", "its alignment is 4 and not 16"]);
    let by_fields = mismatch(refused(&arena, || arena.find::<fourth::Limits>("limits")));
    says(&by_fields, &["its fingerprint is"]);
    assert_eq!((by_fields.asked.size(), by_fields.found.size()), (8, 8));
    assert_ne!(by_fields.asked.fingerprint(), by_fields.found.fingerprint());
    let by_align = mismatch(refused(&arena, || arena.find::<[u16; 4]>("limits")));
    says(&by_align, &["its alignment is 4 and not 2"]);
    let slice = mismatch(refused(&arena, || arena.find::<[u32]>("limits")));
    assert_ne!(slice.asked.fingerprint(), slice.found.fingerprint());
    mismatch(refused(&arena, || arena.unpublish::<u64>("limits")));
    assert_eq!(arena.find::<first::Limits>("limits").unwrap().high, 2);

    let handle = ShmemBox::leak(arena.alloc([1_u8; 8]).unwrap());
    let error = refused(&arena, || arena.claim(Handle::<[u8; 9]>::from_bits(handle.to_bits())));
    says(&error, &["its size is 8 bytes and not 9"]);
    let error = refused(&arena, || arena.claim(Handle::<str>::from_bits(handle.to_bits())));
    assert!(matches!(error, HandleError::Mismatch(_)), "{error:?}");
    assert_eq!(*arena.claim(handle).unwrap(), [1; 8], "the object stays where it is");
}

#[test]
fn names_that_cannot_be_and_names_that_are_taken() {
    let arena = arena();
    let object = ShmemBox::into_arc(arena.alloc(1_u8).unwrap());
    let other = ShmemBox::into_arc(arena.alloc(2_u8).unwrap());
    let long = "x".repeat(256);
    assert_eq!(refused(&arena, || arena.publish("", &object)), DirectoryError::Empty);
    assert_eq!(refused(&arena, || arena.publish(&long, &object)), DirectoryError::TooLong { len: 256 });
    assert_eq!(refused(&arena, || arena.find::<u8>("")), DirectoryError::Empty);
    assert_eq!(refused(&arena, || arena.unpublish::<u8>(&long)), DirectoryError::TooLong { len: 256 });
    assert_eq!(refused(&arena, || arena.find::<u8>("nobody")), DirectoryError::NotFound);
    assert_eq!(refused(&arena, || arena.unpublish::<u8>("nobody")), DirectoryError::NotFound);
    arena.publish(&long[1..], &object).unwrap();
    assert_eq!(refused(&arena, || arena.publish(&long[1..], &other)), DirectoryError::Taken);
    assert_eq!(refused(&arena, || arena.publish("second", &object)), DirectoryError::Published);
    assert_eq!(refused(&arena, || arena.publish_pinned("second", &object)), DirectoryError::Published);
    arena.publish("\0 ☃ /", &other).unwrap();
    assert_eq!(*arena.find::<u8>("\0 ☃ /").unwrap(), 2);
    assert_eq!(*arena.find::<u8>(&long[1..]).unwrap(), 1);
    for error in [
        DirectoryError::Empty,
        DirectoryError::TooLong { len: 256 },
        DirectoryError::NotFound,
        DirectoryError::Taken,
        DirectoryError::Published,
        DirectoryError::Pinned,
        DirectoryError::Foreign,
        DirectoryError::Forked,
        DirectoryError::Busy,
        DirectoryError::NotRecoverable,
        DirectoryError::Damaged { at: 5 },
    ] {
        says(&error, &[]);
    }
}

#[test]
fn an_object_of_another_arena_gets_no_name() {
    let (arena, other) = (arena(), arena());
    let object = ShmemBox::into_arc(other.alloc(1_u8).unwrap());
    assert_eq!(refused(&arena, || arena.publish("object", &object)), DirectoryError::Foreign);
    let segment = memfd(8).0;
    let value = ShmemBox::into_arc(unsafe { segment.boxed::<u64>() });
    assert_eq!(refused(&arena, || arena.publish("value", &value)), DirectoryError::Foreign);
    assert_eq!(ShmemArc::into_box(value).map(|_| ()).map_err(|arc| *arc), Err(0), "others may box it");
}

#[test]
fn handles_that_lead_nowhere() {
    let arena = arena();
    let foreign = self::arena();
    let claim = |bits: u128| refused(&arena, || arena.claim(Handle::<u64>::from_bits(bits)));
    let foreign_handle = ShmemBox::leak(foreign.alloc(1_u64).unwrap());
    assert_eq!(claim(foreign_handle.to_bits()), HandleError::Foreign);
    assert_eq!(claim(0), HandleError::Nothing);
    assert_eq!(claim(u128::MAX), HandleError::Foreign);

    // Freed, claimed twice, out of range, elsewhere.
    let handle = ShmemBox::leak(arena.alloc(1_u64).unwrap());
    let bits = handle.to_bits();
    let granule_of = |granule: u128| bits & !((1 << 40) - 1) | granule;
    let here = bits & ((1 << 40) - 1);
    for granule in [(1 << 40) - 1, SIZE as u128 / 16, 1 << 39, 0, 1] {
        let error = claim(granule_of(granule));
        assert!(matches!(error, HandleError::OutOfBounds { .. } | HandleError::Gone { .. }), "{error:?}");
    }
    for granule in [here + 1, here - 1, here + 100] {
        assert!(matches!(claim(granule_of(granule)), HandleError::Gone { .. }));
    }
    let other_serial = bits ^ 2 << 64;
    assert!(matches!(claim(other_serial), HandleError::Stale { .. }));
    drop(arena.claim(handle).unwrap());
    assert!(matches!(claim(bits), HandleError::Gone { .. }), "freed");

    // The place is used again, by something exclusive, leaked, shared.
    let reused = arena.alloc(2_u64).unwrap();
    assert!(matches!(claim(bits), HandleError::Gone { .. }), "used again");
    let later = ShmemBox::leak(reused);
    assert_eq!(later.to_bits() & ((1 << 40) - 1), here, "the allocator uses the place again");
    assert!(matches!(claim(bits), HandleError::Stale { .. }));
    let shared = ShmemBox::into_arc(arena.claim(later).unwrap());
    assert!(matches!(claim(bits), HandleError::Stale { .. }));
    assert_eq!(*shared, 2);
    for error in [
        HandleError::Nothing,
        HandleError::Foreign,
        HandleError::Busy,
        HandleError::NotRecoverable,
        HandleError::OutOfBounds { offset: 7 },
        HandleError::Gone { offset: 7 },
        HandleError::Stale { offset: 7 },
        HandleError::Forked,
        HandleError::Damaged { at: 7 },
    ] {
        says(&error, &[]);
    }
}

#[test]
fn a_block_header_made_of_a_users_own_bytes_is_no_block() {
    let arena = arena();
    let genuine = ShmemBox::leak(arena.alloc(1_u64).unwrap());
    // The header of the genuine object, as it lies before it, in the middle of another object.
    let object = arena.claim(genuine).unwrap();
    let header = unsafe { (&raw const *object).cast::<[u64; 3]>().sub(1).read() };
    let handle = ShmemBox::leak(object);
    let here = handle.to_bits() & ((1 << 40) - 1);
    let leaked_state = {
        let claimed = arena.claim(handle).unwrap();
        let handle = ShmemBox::leak(claimed);
        let claimed = arena.claim(handle).unwrap();
        let bytes = unsafe { (&raw const *claimed).cast::<u64>().sub(3).read() };
        assert!(BlockState::from_bits(bytes).is_valid());
        drop(claimed);
        // Leaked by slot 0 with serial 4: what the next leak of a genuine object would have.
        3 | 4 << 14
    };
    let mut forged = arena.alloc([0_u64; 32]).unwrap();
    for granule in 0..15 {
        // State, tag and extent where a block could begin: 8 bytes after a multiple of 16.
        forged[granule * 2 + 1] = leaked_state;
        forged[granule * 2 + 2] = header[1];
    }
    forged[3] = header[2];
    let start = (&raw const *forged).addr();
    let segment = start - forged_offset(&arena, &forged);
    for word in (1..28).step_by(2) {
        let payload = start - segment + (word + 3) * 8;
        if payload % 16 != 0 {
            continue;
        }
        let bits = handle.to_bits() & !((1 << 40) - 1) & !(((1_u128 << 50) - 1) << 64)
            | (payload / 16) as u128
            | 4_u128 << 64;
        assert_ne!(bits & ((1 << 40) - 1), here);
        let error = refused(&arena, || arena.claim(Handle::<u64>::from_bits(bits)));
        assert!(matches!(error, HandleError::Gone { .. }), "{error:?}");
    }
}

/// How far an object is from the start of the heap: by a handle, which says so.
fn forged_offset<T: shmem_bind::Shareable>(arena: &Arena<Tlsf>, object: &ShmemBox<T>) -> usize {
    let probe = arena.alloc(0_u64).unwrap();
    let address = (&raw const *probe).addr();
    let granule = (ShmemBox::leak(probe).to_bits() & ((1 << 40) - 1)) as usize;
    for leaked in arena.leaked() {
        if let Ok(handle) = leaked.handle::<u64>() {
            drop(arena.claim(handle).unwrap());
        }
    }
    (&raw const **object).addr() - (address - granule * 16)
}

#[test]
#[allow(clippy::result_large_err)]
fn what_is_too_much() {
    let arena = arena();
    let error = refused(&arena, || arena.alloc_slice(usize::MAX, 0_u64));
    assert_eq!(error, AllocError::TooLong { len: usize::MAX, size: 8 });
    says(&error, &["8 bytes"]);
    let error = refused(&arena, || arena.alloc_uninit_slice::<u8>(isize::MAX as usize + 1));
    assert!(matches!(error, AllocError::TooLong { .. }));
    let error = refused(&arena, || arena.alloc_uninit_slice::<u8>(isize::MAX as usize));
    assert!(matches!(error, AllocError::OutOfMemory { .. }), "{error:?}");
    shareable! {
        #[repr(C, align(8192))]
        struct Coarse(u8);
    }
    let error = refused(&arena, || arena.alloc(Coarse(1))).error;
    assert_eq!(error, AllocError::OverAligned { align: 8192, max: 4096 });
    says(&error, &["8192", "4096"]);
    let error = refused(&arena, || arena.alloc_slice(SIZE, 0_u8));
    let AllocError::OutOfMemory { asked, free, largest_free } = error else { panic!("{error:?}") };
    assert_eq!(asked, SIZE as u64);
    assert!(largest_free <= free && free < SIZE as u64);
    says(
        &error,
        &[&format!("{asked} bytes"), &format!("{free} are free"), &format!("{largest_free} in one")],
    );
    assert_eq!(arena.alloc_slice(largest_free as usize, 0_u8).unwrap().len() as u64, largest_free);
}

#[test]
fn a_name_that_finds_no_memory_says_how_much_there_is() {
    let arena = arena();
    let object = ShmemBox::into_arc(arena.alloc(1_u8).unwrap());
    let usage = arena.usage().unwrap();
    let _rest = arena.alloc_slice(usage.largest_free as usize, 0_u8).unwrap();
    let error = refused(&arena, || arena.publish("name", &object));
    let DirectoryError::Alloc(AllocError::OutOfMemory { asked, free, .. }) = error else {
        panic!("{error:?}")
    };
    assert!(asked > 24 && free < asked, "{error}");
    let error = refused(&arena, || arena.find_or_alloc("name", || 5_u64));
    assert!(matches!(error, DirectoryError::Alloc(_)), "{error:?}");
}

#[test]
fn a_segment_that_is_too_small() {
    fn smallest<A: RegionAllocator>() -> usize {
        let mut size = 1;
        loop {
            match memfd(size).0.arena::<A>() {
                Ok(arena) => {
                    arena.check().unwrap();
                    return size;
                }
                Err(error @ ArenaError::TooSmall { len, needed }) => {
                    assert!(len < needed, "{error}");
                    says(&error, &["larger"]);
                    // The failure leaves the segment as it was.
                    size += 16;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    let sizes = [smallest::<Tlsf>(), smallest::<Bump>(), smallest::<Slab>()];
    println!("smallest payloads of Tlsf, Bump, Slab: {sizes:?}");
    assert!(sizes[0] <= 4096 && sizes[1] <= 512 && sizes[2] <= 16 * 1024, "{sizes:?}");
    // What could not be an arena can be a value still.
    let (segment, fd) = memfd(8);
    assert!(matches!(segment.arena::<Tlsf>(), Err(ArenaError::TooSmall { .. })));
    assert_eq!(Builder::memfd().attach(&fd).unwrap_err(), ShmemError::NotFound, "its owner has dropped it");
    let (_kept, fd) = memfd(8);
    let second = Builder::memfd().attach(&fd).unwrap();
    assert!(matches!(second.arena::<Tlsf>(), Err(ArenaError::TooSmall { .. })));
    let third = Builder::memfd().attach(&fd).unwrap();
    assert_eq!(third.payload(), Ok(Payload::Unset));
    assert_eq!(*unsafe { third.boxed::<u64>() }, 0);
}

#[test]
fn another_allocator_is_refused() {
    fn check<A: RegionAllocator, B: RegionAllocator>(found: &str, asked: &str) {
        let (segment, fd) = memfd(SIZE);
        let arena = segment.arena::<A>().unwrap();
        let boxed = arena.alloc(7_u32).unwrap();
        let error = Builder::memfd().attach(&fd).unwrap().arena::<B>().unwrap_err();
        assert_eq!(error, ArenaError::Allocator { found: A::ID, asked: B::ID });
        says(&error, &[found, asked]);
        assert_eq!(*boxed, 7);
        arena.check().unwrap();
    }
    check::<Tlsf, Slab>("Tlsf", "Slab");
    check::<Slab, Bump>("Slab", "Bump");
    check::<Bump, Tlsf>("Bump", "Tlsf");
}

#[test]
fn an_arena_is_no_value_and_a_value_is_no_arena() {
    let (segment, fd) = memfd(SIZE);
    let arena = segment.arena::<Tlsf>().unwrap();
    let error = unsafe { Builder::memfd().attach(&fd).unwrap().try_boxed::<u64>() }.unwrap_err();
    assert_eq!(error, BoxError::Arena { allocator: Tlsf::ID });
    says(&error, &["arena", "Tlsf"]);
    let error = unsafe { Builder::memfd().attach(&fd).unwrap().read_ref::<u64>() }.unwrap_err();
    assert_eq!(error, BoxError::Arena { allocator: Tlsf::ID });
    arena.check().unwrap();

    let (segment, fd) = memfd(SIZE);
    let value = unsafe { segment.boxed::<[u32; 3]>() };
    let error = Builder::memfd().attach(&fd).unwrap().arena::<Tlsf>().unwrap_err();
    assert_eq!(error, ArenaError::Value { size: 12, align: 4 });
    says(&error, &["12 bytes"]);
    assert_eq!(*value, [0; 3]);
    let observer = Builder::memfd().attach_read_only(&fd).unwrap();
    assert_eq!(observer.find_pinned::<u32>("name").unwrap_err(), DirectoryError::NotFound);
    assert_eq!(observer.arena::<Tlsf>().unwrap_err(), ArenaError::ReadOnly);
    for error in [
        ArenaError::AboveMaximum { asked: 1, max: 0 },
        ArenaError::NoSpace { asked: 1 },
        ArenaError::ReadOnly,
        ArenaError::Forked,
        ArenaError::Busy,
        ArenaError::NotRecoverable,
        ArenaError::Damaged { at: 1 },
        HeapError::OutOfMemory.into(),
        HeapError::Busy.into(),
    ] {
        says(&error, &[]);
        says(&ShmemError::from(error), &[]);
    }
}

#[test]
fn sizes_to_grow_to() {
    let below = Builder::memfd().max_size(4096).create(8192).map(|_| ()).unwrap_err();
    assert_eq!(below, SizeError::AboveMaximum { asked: 8192, max: 4096 }.into());
    says(&below, &["8192", "4096"]);
    assert_eq!(
        Builder::memfd().max_size(-1).create(1).map(|_| ()).unwrap_err(),
        SizeError::Negative { asked: -1 }.into()
    );
    let (segment, _fd) = Builder::memfd().max_size(SIZE * 2).create(SIZE).unwrap();
    let arena = segment.arena::<Tlsf>().unwrap();
    let error = refused(&arena, || arena.grow(SIZE * 2 + 1));
    assert_eq!(error, ArenaError::AboveMaximum { asked: SIZE as u64 * 2 + 1, max: SIZE as u64 * 2 });
    let before = arena.usage().unwrap();
    arena.grow(1).unwrap();
    assert_eq!(arena.usage().unwrap(), before);
    // A single value has what the segment started with.
    let (segment, _fd) = Builder::memfd().max_size(SIZE).create(8).unwrap();
    assert!(matches!(
        unsafe { segment.try_boxed::<[u64; 2]>() },
        Err(BoxError::TooLarge { size: 16, payload: 8 })
    ));
}

#[test]
fn an_extent_cannot_lie_about_its_block() {
    let arena = arena();
    let handle = ShmemBox::leak(arena.alloc([5_u8; 100]).unwrap());
    let granule = (handle.to_bits() & ((1 << 40) - 1)) as usize;
    let probe = arena.alloc(0_u64).unwrap();
    let start = (&raw const *probe).addr() - forged_offset(&arena, &probe);
    let extent = std::ptr::with_exposed_provenance::<AtomicU64>(start + granule * 16 - 8);
    let extent = unsafe { &*extent };
    let was = extent.load(Relaxed);
    for bits in
        [0, !0, Extent::new(1 << 35, 0).bits(), Extent::new(32, 255).bits(), Extent::new(48, 0).bits()]
    {
        extent.store(bits, Relaxed);
        assert!(arena.claim(handle).is_err(), "{bits:#x}");
    }
    extent.store(was, Relaxed);
    assert_eq!(*arena.claim(handle).unwrap(), [5; 100]);
}

#[test]
fn what_a_child_inherits_is_inert() {
    let name = TestName::new("forked-arena");
    let arena = Builder::new(&name).with_size(SIZE).create().unwrap().arena::<Tlsf>().unwrap();
    let boxed = arena.alloc(1_u64).unwrap();
    let arc = ShmemBox::into_arc(arena.alloc(2_u64).unwrap());
    arena.publish("shared", &arc).unwrap();
    let handle = ShmemBox::leak(arena.alloc(3_u64).unwrap());
    let usage = arena.usage().unwrap();
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let is_inert = arena.alloc(1_u8).unwrap_err().error == AllocError::Forked
                && arena.claim(handle).unwrap_err() == HandleError::Forked
                && arena.find::<u64>("shared").unwrap_err() == DirectoryError::Forked
                && arena.publish("other", &arc).unwrap_err() == DirectoryError::Forked
                && arena.usage().unwrap_err() == ArenaError::Forked
                && arena.sweep().unwrap_err() == ArenaError::Forked
                && arena.leaked().count() == 0
                && arena.size() == 0
                && ShmemArc::holders(&arc) == 0
                && ShmemBox::leak(boxed).to_bits() == 0;
            drop((arc.clone(), arc, arena.clone(), arena));
            // Opened anew it can be used, beside the parent.
            let own = Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap();
            let sees = *own.find::<u64>("shared").unwrap() == 2 && own.alloc(1_u8).is_ok();
            drop(own);
            unsafe { nix::libc::_exit(if is_inert && sees { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!((*boxed, *arc, ShmemArc::holders(&arc)), (1, 2, 1));
    assert_eq!(*arena.claim(handle).unwrap(), 3);
    arena.check().unwrap();
    assert_eq!(arena.usage().unwrap().blocks, usage.blocks - 1);
}

#[test]
fn the_objects_of_an_arena_are_not_mapped_in_a_child() {
    let arena = arena();
    let boxed = arena.alloc(1_u64).unwrap();
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let value = unsafe { std::ptr::read_volatile(&raw const *boxed) };
            unsafe { nix::libc::_exit(value as i32) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            assert!(
                matches!(status, WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGSEGV, _)),
                "{status:?}"
            );
        }
    }
}

/// An enum with fields, which `shareable!` does not make. Its size is none that a number has.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, u32)]
enum Shape {
    Circle([u32; 3]),
    Line([u32; 5]),
}

unsafe impl Shareable for Shape {
    const TAG: TypeTag = TypeTag::new::<Self>("Shape", 1)
        .with_variant("Circle", 0)
        .with_field("circle", 4, <[u32; 3]>::TAG)
        .with_variant("Line", 1)
        .with_field("line", 4, <[u32; 5]>::TAG);
    const FROZEN: bool = true;
}

#[test]
fn an_enum_with_fields_is_no_damage() {
    let arena = arena();
    assert_eq!((size_of::<Shape>(), Shape::TAG.align()), (24, 4));
    let shape = arena.find_or_alloc("shape", || Shape::Line([1, 2, 3, 4, 5])).unwrap();
    assert_eq!(*arena.find::<Shape>("shape").unwrap(), *shape);
    assert_ne!(*shape, Shape::Circle([1, 2, 3]));
    drop(shape);
    arena.check().unwrap();
}
