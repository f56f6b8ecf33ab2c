//! What an arena does for one process: objects of all sorts, names, handles, growing
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::TestName;
use shmem_bind::{
    AllocError, Arena, Builder, Bump, DirectoryError, Handle, Object, RegionAllocator, Shareable, ShmemArc,
    ShmemBox, Slab, Tlsf, TypeTag, shareable,
};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::{MaybeUninit, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

fn arena_of<A: RegionAllocator>(size: usize) -> Arena<A> {
    Builder::memfd().create(size).unwrap().0.arena().unwrap()
}

fn arena() -> Arena<Tlsf> {
    arena_of(256 * 1024)
}

with_each_allocator! {
    values_of_all_sizes_and_alignments,
    slices_and_strings,
    what_is_dropped_is_not_in_use,
    objects_travel_by_handle,
    objects_are_shared_and_found,
    a_full_arena_says_how_full_it_is,
    an_arena_grows_while_it_is_used,
}

shareable! {
    /// Counts its destructions in an object of the arena, which all tests of a process may do at once.
    #[repr(C)]
    struct Counted {
        id: u64,
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DESTROYED.with(|destroyed| destroyed.set(destroyed.get() + self.id));
    }
}

thread_local! {
    /// Sum of the ids of what this thread has destroyed.
    static DESTROYED: Cell<u64> = const { Cell::new(0) };
}

fn destroyed() -> u64 {
    DESTROYED.with(Cell::get)
}

fn values_of_all_sizes_and_alignments<A: RegionAllocator>() {
    fn check<A: RegionAllocator, T: Shareable + Copy + PartialEq + std::fmt::Debug>(
        arena: &Arena<A>,
        value: T,
    ) {
        let mut boxed = arena.alloc(value).unwrap();
        assert_eq!(*boxed, value);
        *boxed = value;
        assert_eq!((&raw const *boxed).addr() % align_of::<T>(), 0);
        let other = arena.alloc(value).unwrap();
        assert!(size_of::<T>() == 0 || !std::ptr::eq(&*boxed, &*other));
    }
    shareable! {
        #[derive(Clone, Copy, PartialEq, Debug)]
        #[repr(C, align(64))]
        struct Line(u8);
    }
    shareable! {
        #[derive(Clone, Copy, PartialEq, Debug)]
        #[repr(C, align(4096))]
        struct Page([u64; 512]);
    }
    let arena = arena_of::<A>(1 << 20);
    check(&arena, ());
    check(&arena, 7_u8);
    check(&arena, 'x');
    check(&arena, 1.5_f64);
    check(&arena, [3_u16; 1000]);
    check(&arena, Line(5));
    check(&arena, Page([9; 512]));
    check(&arena, u128::MAX);
    arena.check().unwrap();
}

fn slices_and_strings<A: RegionAllocator>() {
    let arena = arena_of::<A>(256 * 1024);
    let mut slice = arena.alloc_slice(1000, 7_u32).unwrap();
    slice[999] = 8;
    assert_eq!((slice.len(), slice.iter().sum::<u32>()), (1000, 7001));
    assert_eq!(&*arena.alloc_slice_with(5, |index| index as u64 * 2).unwrap(), [0, 2, 4, 6, 8]);
    assert_eq!(arena.alloc_slice(0, 1_u64).unwrap().len(), 0);
    assert_eq!(arena.alloc_slice(123, ()).unwrap().len(), 123);
    assert_eq!(&*arena.alloc_str("grün").unwrap(), "grün");
    assert_eq!(&*arena.alloc_str("").unwrap(), "");
    let mut uninit = arena.alloc_uninit_slice::<u16>(3).unwrap();
    uninit.iter_mut().for_each(|element| {
        element.write(5);
    });
    assert_eq!(*unsafe { uninit.assume_init() }, [5; 3]);

    // Their types and lengths are found again.
    let handle = ShmemBox::leak(slice);
    assert!(arena.claim(Handle::<[u64]>::from_bits(handle.to_bits())).is_err());
    assert!(arena.claim(Handle::<[u8]>::from_bits(handle.to_bits())).is_err());
    assert!(arena.claim(Handle::<u32>::from_bits(handle.to_bits())).is_err());
    assert_eq!(arena.claim(handle).unwrap()[999], 8);
    let handle = ShmemBox::leak(arena.alloc_slice(77, ()).unwrap());
    assert_eq!(arena.claim(handle).unwrap().len(), 77);
    let handle = ShmemBox::leak(arena.alloc_str("a string").unwrap());
    assert!(arena.claim(Handle::<[u8]>::from_bits(handle.to_bits())).is_err());
    assert_eq!(&*arena.claim(handle).unwrap(), "a string");
    arena.check().unwrap();
}

fn what_is_dropped_is_not_in_use<A: RegionAllocator>() {
    let arena = arena_of::<A>(256 * 1024);
    let before = arena.usage().unwrap().blocks;
    let boxes: Vec<_> = (0..100).map(|id| arena.alloc(Counted { id }).unwrap()).collect();
    assert_eq!(arena.usage().unwrap().blocks, before + 100);
    drop(boxes);
    assert_eq!(arena.usage().unwrap().blocks, before);
    assert_eq!(destroyed(), (0..100).sum());
    // Boxes outlive the arena.
    let boxed = arena.alloc(Counted { id: 5 }).unwrap();
    drop(arena);
    assert_eq!(boxed.id, 5);
}

fn objects_travel_by_handle<A: RegionAllocator>() {
    let arena = arena_of::<A>(256 * 1024);
    let start = arena.usage().unwrap().blocks;
    let handles: Vec<_> = (0..50).map(|id| ShmemBox::leak(arena.alloc(Counted { id }).unwrap())).collect();
    assert_eq!(destroyed(), 0);
    assert_eq!(arena.leaked().count(), 50);
    assert_eq!(handles.iter().collect::<std::collections::HashSet<_>>().len(), 50);
    // Handles may lie in the arena themselves.
    let list = arena.alloc_slice_with(50, |index| handles[index]).unwrap();
    for handle in list.iter() {
        let bits = handle.to_bits();
        drop(arena.claim(Handle::<Counted>::from_bits(bits)).unwrap());
        assert!(arena.claim(*handle).is_err());
    }
    assert_eq!((destroyed(), arena.leaked().count()), ((0..50).sum(), 0));
    drop(list);
    assert_eq!(arena.usage().unwrap().blocks, start);
    arena.check().unwrap();
}

fn objects_are_shared_and_found<A: RegionAllocator>() {
    let arena = arena_of::<A>(256 * 1024);
    for index in 0..100_u64 {
        let object = ShmemBox::into_arc(arena.alloc(AtomicU64::new(index)).unwrap());
        arena.publish(&format!("object {index}"), &object).unwrap();
        assert!(ShmemArc::is_published(&object));
    }
    arena.check().unwrap();
    let names: BTreeMap<_, _> = arena
        .names()
        .map(|entry| entry.map(|entry| (entry.name().to_owned(), (entry.is::<AtomicU64>(), entry.holders()))))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(names.len(), 100);
    assert!(names.values().all(|value| *value == (true, 0)));
    for index in 0..100 {
        let name = format!("object {index}");
        let found = arena.find::<AtomicU64>(&name).unwrap();
        let clone = arena.find::<AtomicU64>(&name).unwrap().clone();
        assert!(std::ptr::eq(&*found, &*clone));
        assert_eq!((found.load(Relaxed), ShmemArc::holders(&found)), (index, 1));
        drop(arena.unpublish::<AtomicU64>(&name).unwrap());
        let found = ShmemArc::into_box(found).expect_err("there is another reference");
        drop(clone);
        let mut boxed = ShmemArc::into_box(found).unwrap();
        *boxed.get_mut() += 1;
    }
    assert_eq!(arena.names().count(), 0);
    arena.check().unwrap();
}

fn a_full_arena_says_how_full_it_is<A: RegionAllocator>() {
    let arena = arena_of::<A>(64 * 1024);
    let mut boxes = Vec::new();
    let error = loop {
        match arena.alloc([1_u64; 10]) {
            Ok(boxed) => boxes.push(boxed),
            Err(rejected) => {
                assert_eq!(rejected.value, [1; 10]);
                break rejected.error;
            }
        }
    };
    let AllocError::OutOfMemory { asked: 80, free, largest_free } = error else { panic!("{error:?}") };
    assert!(largest_free < 80 && free < 16 * 1024, "{error}");
    assert!(boxes.len() > 300, "{}", boxes.len());
    let usage = arena.usage().unwrap();
    assert!(matches!(
        arena.alloc_slice(1 << 20, 0_u8).unwrap_err(),
        AllocError::OutOfMemory { asked: 1_048_576, .. }
    ));
    assert_eq!(arena.usage().unwrap(), usage, "nothing changes by an error");
    arena.check().unwrap();
}

fn an_arena_grows_while_it_is_used<A: RegionAllocator>() {
    let (segment, fd) = Builder::memfd().max_size(1 << 20).create(64 * 1024).unwrap();
    assert_eq!((segment.payload_size(), segment.max_size()), (64 * 1024, 1 << 20));
    let arena = segment.arena::<A>().unwrap();
    let other = Builder::memfd().attach(&fd).unwrap().arena::<A>().unwrap();
    let kept = arena.alloc(7_u32).unwrap();
    assert!(other.alloc_slice(100_000, 1_u8).is_err());
    arena.grow(512 * 1024).unwrap();
    assert_eq!(*kept, 7);
    let large = other.alloc_slice(100_000, 1_u8).unwrap();
    arena.grow(1000).unwrap();
    assert!((510 * 1024..=512 * 1024).contains(&other.size()), "{}", other.size());
    other.grow(1 << 20).unwrap();
    assert_eq!(other.alloc_slice(400_000, 1_u8).unwrap().len() + large.len(), 500_000);
    arena.check().unwrap();
}

#[test]
fn a_value_is_built_in_its_place() {
    let arena = arena();
    let array = arena
        .alloc_with(|slot: &mut MaybeUninit<[AtomicU32; 1000]>| {
            let start = slot.as_mut_ptr().cast::<AtomicU32>();
            for index in 0..1000 {
                unsafe { start.add(index).write(AtomicU32::new(index as u32)) };
            }
            unsafe { slot.assume_init_mut() }
        })
        .unwrap();
    assert_eq!(array[999].load(Relaxed), 999);

    let elsewhere: &'static mut u32 = Box::leak(Box::new(5));
    let before = arena.usage().unwrap();
    assert_eq!(arena.alloc_with(|_| elsewhere).unwrap_err(), AllocError::NotInPlace);
    assert_eq!(arena.usage().unwrap().used, before.used);
}

#[test]
fn what_unwinds_is_freed() {
    struct Unwinding(u64);
    unsafe impl Shareable for Unwinding {
        const TAG: TypeTag = TypeTag::new::<Self>("Unwinding", 0).with_field("0", 0, u64::TAG);
        const FROZEN: bool = true;
    }
    impl Drop for Unwinding {
        fn drop(&mut self) {
            assert!(self.0 == 0, "unwinds");
        }
    }
    let arena = arena();
    let before = arena.usage().unwrap().used;
    let boxed = arena.alloc(Unwinding(1)).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(boxed))).is_err());
    assert_eq!(arena.usage().unwrap().used, before, "after a destructor");

    let result = catch_unwind(AssertUnwindSafe(|| arena.alloc_with::<u64>(|_| panic!("no value"))));
    assert!(result.is_err());
    let result = catch_unwind(AssertUnwindSafe(|| {
        arena.alloc_slice_with(10, |index| {
            assert!(index < 4, "no element");
            Counted { id: 1 }
        })
    }));
    assert!(result.is_err());
    assert_eq!((arena.usage().unwrap().used, destroyed()), (before, 4), "after a closure");
}

#[test]
fn the_last_reference_destroys() {
    let arena = arena();
    let first = ShmemBox::into_arc(arena.alloc(Counted { id: 3 }).unwrap());
    let second: ShmemArc<Counted> = first.clone();
    drop(first);
    assert_eq!(destroyed(), 0);
    drop(second);
    assert_eq!(destroyed(), 3);

    let named = ShmemArc::from(arena.alloc(Counted { id: 4 }).unwrap());
    arena.publish("named", &named).unwrap();
    drop(named);
    assert_eq!(destroyed(), 3, "the name keeps it");
    drop(arena.unpublish::<Counted>("named").unwrap());
    assert_eq!(destroyed(), 7);
}

#[test]
fn a_name_goes_without_the_type() {
    let arena = arena();
    let publish = |name, id| {
        let object = ShmemBox::into_arc(arena.alloc(Counted { id }).unwrap());
        arena.publish(name, &object).unwrap();
        object
    };
    drop(publish("unused", 1));
    let held = publish("held", 2);
    arena.publish("text", &ShmemBox::into_arc(arena.alloc_str("any length").unwrap())).unwrap();
    arena.publish_pinned("pinned", &ShmemBox::into_arc(arena.alloc(7_u32).unwrap())).unwrap();
    let before = arena.usage().unwrap().blocks;
    for name in ["unused", "held", "text"] {
        arena.unpublish_any(name).unwrap();
        assert_eq!(arena.unpublish_any(name).unwrap_err(), DirectoryError::NotFound);
    }
    assert_eq!(arena.unpublish_any("pinned").unwrap_err(), DirectoryError::Pinned);
    assert_eq!(arena.unpublish_any("").unwrap_err(), DirectoryError::Empty);
    assert_eq!(arena.usage().unwrap().blocks, before - 5, "three entries, and two objects");
    assert_eq!(destroyed(), 0, "nobody who knew the type was the last");
    drop(held);
    assert_eq!(destroyed(), 2);
    assert_eq!(*arena.find::<u32>("pinned").unwrap(), 7);
    arena.check().unwrap();
}

#[test]
fn a_reference_that_is_alone_gives_the_value() {
    let arena = arena();
    let mut arc = ShmemBox::into_arc(arena.alloc(1_u64).unwrap());
    *ShmemArc::get_mut(&mut arc).unwrap() = 2;
    let clone = arc.clone();
    assert_eq!(ShmemArc::get_mut(&mut arc), None);
    drop(clone);
    arena.publish("name", &arc).unwrap();
    assert_eq!(ShmemArc::get_mut(&mut arc), None, "others may find it");
    drop(arena.unpublish::<u64>("name").unwrap());
    assert_eq!(*ShmemArc::into_box(arc).unwrap(), 2);
    assert_eq!(arena.usage().unwrap().blocks, 1, "the directory's table");
}

#[test]
fn a_reference_is_not_alone_while_another_thread_gives_its_object_a_name() {
    let arena = arena();
    let mut own = ShmemBox::into_arc(arena.alloc(AtomicU64::new(0)).unwrap());
    arena.publish("name", &own).unwrap();
    let stop = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            // At each moment there is this reference or the name, beside the other one.
            for _ in 0..20_000 {
                let object = arena.unpublish::<AtomicU64>("name").unwrap();
                arena.publish("name", &object).unwrap();
            }
            stop.store(1, Relaxed);
        });
        while stop.load(Relaxed) == 0 {
            assert!(ShmemArc::get_mut(&mut own).is_none());
        }
    });
}

#[test]
fn references_are_counted_over_threads() {
    let arena = arena();
    let counter = ShmemBox::into_arc(arena.alloc(AtomicU64::new(0)).unwrap());
    arena.publish("counter", &counter).unwrap();
    drop(counter);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    // Many times the first, and many times the last one of the process.
                    let found = arena.find::<AtomicU64>("counter").unwrap();
                    found.clone().fetch_add(1, Relaxed);
                }
            });
        }
    });
    let counter = arena.unpublish::<AtomicU64>("counter").unwrap();
    assert_eq!(*ShmemArc::into_box(counter).unwrap().get_mut(), 20_000);
    arena.check().unwrap();
}

#[test]
fn boxes_and_arenas_may_go_to_other_threads() {
    let arena = arena();
    let threads: Vec<_> = (0..4_u64)
        .map(|id| {
            let arena = arena.clone();
            thread::spawn(move || {
                let mut boxes = Vec::new();
                for index in 0..2000 {
                    boxes.push(arena.alloc([id, index]).unwrap());
                    if index % 3 == 0 {
                        boxes.swap_remove(index as usize / 3 % boxes.len());
                    }
                    if boxes.len() > 200 {
                        boxes.truncate(100);
                    }
                }
                boxes
            })
        })
        .collect();
    for (id, thread) in threads.into_iter().enumerate() {
        for boxed in thread.join().unwrap() {
            assert_eq!(boxed[0], id as u64);
        }
    }
    arena.check().unwrap();
    assert_eq!(arena.usage().unwrap().used, 0);
}

#[test]
fn the_value_of_a_segment_can_be_shared_within_the_process() {
    let name = TestName::new("root-arc");
    let segment = Builder::new(&name).with_size(8).create().unwrap();
    let mut boxed = unsafe { segment.boxed::<Counted>() };
    boxed.id = 9;
    let arc = ShmemBox::into_arc(boxed);
    let clone = arc.clone();
    drop(arc);
    assert!(name.exists());
    assert_eq!((clone.id, destroyed()), (9, 0));
    drop(clone);
    assert_eq!(destroyed(), 9);
    assert!(!name.exists());
}

#[test]
fn waiting_for_a_name_ends_when_it_comes_or_in_time() {
    let arena = arena();
    let start = Instant::now();
    let error = arena.wait_for::<u32>("late", Duration::from_millis(30)).unwrap_err();
    assert_eq!(error, DirectoryError::NotFound);
    assert!(start.elapsed() >= Duration::from_millis(30));

    let other = arena.clone();
    let waiter = thread::spawn(move || *other.wait_for::<u32>("late", Duration::from_secs(60)).unwrap());
    thread::sleep(Duration::from_millis(20));
    arena.publish("late", &ShmemBox::into_arc(arena.alloc(5_u32).unwrap())).unwrap();
    assert_eq!(waiter.join().unwrap(), 5);
}

#[test]
fn names_are_each_seen_once_while_others_come_and_go() {
    let arena = arena();
    let publish = |name: &str| arena.publish(name, &ShmemBox::into_arc(arena.alloc(0_u8).unwrap())).unwrap();
    (0..40).for_each(|index| publish(&format!("stays {index}")));
    let mut seen = BTreeSet::new();
    for (index, entry) in arena.names().enumerate() {
        let entry = entry.unwrap();
        assert!(seen.insert(entry.name().to_owned()), "{entry:?} twice");
        // The table grows meanwhile.
        if index < 200 {
            publish(&format!("comes {index}"));
        }
    }
    assert_eq!(seen.iter().filter(|name| name.starts_with("stays")).count(), 40);
}

#[test]
fn a_read_only_attachment_looks_at_what_is_pinned() {
    shareable! {
        #[repr(C)]
        struct Counters {
            hits: AtomicU64,
            misses: [AtomicU32; 3],
        }
    }
    let name = TestName::new("pinned");
    let arena = Builder::new(&name).with_size(64 * 1024).create().unwrap().arena::<Tlsf>().unwrap();
    let observer = Builder::new(&name).attach_read_only().unwrap();
    assert_eq!(observer.find_pinned::<u64>("limit").unwrap_err(), DirectoryError::NotFound);
    let limit = ShmemBox::into_arc(arena.alloc(100_u64).unwrap());
    arena.publish_pinned("limit", &limit).unwrap();
    let table = ShmemBox::into_arc(arena.alloc_slice(10, 3_u16).unwrap());
    arena.publish_pinned("table", &table).unwrap();
    let counters = Counters { hits: AtomicU64::new(1), misses: [const { AtomicU32::new(0) }; 3] };
    let counters = ShmemBox::into_arc(arena.alloc(counters).unwrap());
    arena.publish_pinned("counters", &counters).unwrap();
    arena.publish("ordinary", &ShmemBox::into_arc(arena.alloc(1_u64).unwrap())).unwrap();
    drop((limit, table));

    assert_eq!(*observer.find_pinned::<u64>("limit").unwrap(), 100);
    assert_eq!(*observer.find_pinned::<[u16]>("table").unwrap(), [3; 10]);
    let words = observer.find_pinned_words::<Counters>("counters").unwrap();
    counters.hits.fetch_add(1, Relaxed);
    counters.misses[2].store(7, Relaxed);
    let misses = offset_of!(Counters, misses);
    assert_eq!(unsafe { words.load::<AtomicU64>(offset_of!(Counters, hits)) }, Some(2));
    assert_eq!(unsafe { words.load::<AtomicU32>(misses + 8) }, Some(7));
    assert_eq!(unsafe { words.load::<AtomicU64>(misses) }, Some(0));
    assert_eq!(unsafe { words.load::<AtomicU64>(misses + 4) }, None, "not aligned");
    assert_eq!(unsafe { words.load::<AtomicU64>(misses + 16) }, None, "not in it");
    assert_eq!(unsafe { words.load::<AtomicU32>(usize::MAX) }, None);
    assert_eq!(observer.find_pinned::<u64>("ordinary").unwrap_err(), DirectoryError::NotFound);
    assert!(matches!(observer.find_pinned::<u32>("limit"), Err(DirectoryError::Mismatch(_))));
    assert_eq!(arena.unpublish::<u64>("limit").unwrap_err(), DirectoryError::Pinned);
    // It lives as long as the segment, whoever holds it.
    let mut found = arena.find::<u64>("limit").unwrap();
    assert_eq!(ShmemArc::get_mut(&mut found), None);
    arena.check().unwrap();
}

#[test]
fn an_arena_outlives_its_processes() {
    let name = TestName::new("outlives");
    let open = || {
        let builder = Builder::new(&name).unlink_policy(shmem_bind::UnlinkPolicy::Never).with_size(64 * 1024);
        builder.open().unwrap().arena::<Tlsf>().unwrap()
    };
    let arena = open();
    arena.publish("kept", &ShmemBox::into_arc(arena.alloc_str("here").unwrap())).unwrap();
    let handle = ShmemBox::leak(arena.alloc(5_u64).unwrap());
    drop(arena);
    let arena = open();
    assert_eq!(&*arena.find::<str>("kept").unwrap(), "here");
    assert_eq!(*arena.claim(handle).unwrap(), 5);
    arena.check().unwrap();
    shmem_bind::unlink(&name).unwrap();
}

#[test]
fn a_leaked_arena_is_found_again_by_a_restart() {
    let name = TestName::new("leaked-arena");
    let open = || Builder::new(&name).with_size(64 * 1024).open().unwrap().arena::<Tlsf>().unwrap();
    let arena = open();
    let boxed = arena.alloc(1_u64).unwrap();
    let handle = ShmemBox::leak(arena.alloc(5_u64).unwrap());
    arena.clone().leak();
    assert_eq!(arena.conf().attachment_count(), 1, "it is used still");
    drop(arena);
    drop(boxed);
    let arena = open();
    assert_eq!(*arena.claim(handle).unwrap(), 5);
    assert_eq!(arena.usage().unwrap().blocks, 0);
    assert_eq!(arena.conf().owner_pid(), None);
    arena.conf().try_own().unwrap();
    drop(arena);
    assert!(!name.exists());
}

#[test]
fn a_value_is_moved_out_and_its_place_is_free() {
    let arena = arena();
    let moved = ShmemBox::into_inner(arena.alloc(Counted { id: 3 }).unwrap()).ok().unwrap();
    assert_eq!((arena.usage().unwrap().blocks, destroyed(), moved.id), (0, 0, 3));
    drop(moved);
    assert_eq!(destroyed(), 3);
    assert_eq!(&*arena.alloc_slice_copy(&[1_u16, 2, 3]).unwrap(), [1, 2, 3]);
    let segment = Builder::memfd().create(8).unwrap().0;
    assert!(ShmemBox::into_inner(unsafe { segment.boxed::<u64>() }).is_err(), "others may have it");
}

#[test]
fn an_object_costs_at_most_32_bytes_more_than_its_size() {
    fn overhead<T: Object + ?Sized>(arena: &Arena<Tlsf>, make: impl Fn(&Arena<Tlsf>) -> ShmemBox<T>) -> f64 {
        let before = arena.usage().unwrap().used;
        let boxes: Vec<_> = (0..100).map(|_| make(arena)).collect();
        let used = arena.usage().unwrap().used - before;
        (used as f64 - boxes.iter().map(|boxed| size_of_val(&**boxed)).sum::<usize>() as f64) / 100.0
    }
    let arena = arena();
    let mut sum = 0.0;
    for len in 0..256 {
        let of_len = overhead(&arena, |arena| arena.alloc_slice(len, 0_u8).unwrap());
        assert!(of_len <= 39.0, "{len} bytes: {of_len}");
        sum += of_len;
    }
    // The export bitmap takes one byte in 128.
    println!("bytes beyond the payload, mean over 0..256 bytes: {:.1}, and 1/128 of the arena", sum / 256.0);
    assert!(sum / 256.0 <= 32.0);
    assert_eq!(overhead(&arena, |arena| arena.alloc(0_u64).unwrap()), 24.0);
}
