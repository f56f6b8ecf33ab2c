//! A segment far longer than its memory is looked at in proportion to its memory, whatever its words say of lengths
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::unwrap_used)]
// On machines of 32 bits nothing can be far longer than its memory.
#![cfg(target_pointer_width = "64")]

#[macro_use]
mod common;

use common::TestName;
use common::arena::Allocator;
use nix::sys::resource::{UsageWho, getrusage};
use shmem_bind::inspect::{BlockKind, Damage, Named, Part, Snapshot, Unchecked, Verdict};
use shmem_bind::{Arena, Builder, Bump, HEADER_LEN, RegionAllocator, ReservePolicy, ShmemBox, Slab, Tlsf};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Length of the segments: of their bitmaps alone, 130,000 pages would be touched.
const LONG: u64 = 64 << 30;
const PAYLOAD: u64 = 72;
const HEAP_LEN: u64 = 144;
const DIRECTORY: u64 = 200;
/// Copies of a segment in which something is wrong.
const STILL: u64 = 12;

with_each_allocator! {
    a_long_arena_that_is_nearly_empty_is_looked_at_at_once,
    a_length_that_is_wrong_costs_nothing,
}

fn open<A: Allocator>(name: &TestName, len: u64) -> Arena<A> {
    let builder = Builder::new(name).reserve_policy(ReservePolicy::Lazy);
    builder.with_size(len).max_size(LONG).create().unwrap().arena().unwrap()
}

/// The words of a segment.
struct Words(File);

impl Words {
    fn of(name: &TestName) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(name.path()).unwrap())
    }

    fn get(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.0.read_exact_at(&mut word, at).unwrap();
        u64::from_ne_bytes(word)
    }

    fn put(&self, at: u64, word: u64) {
        self.0.write_all_at(&word.to_ne_bytes(), at).unwrap();
    }

    /// Bytes of memory that it has.
    fn memory(&self) -> u64 {
        self.0.metadata().unwrap().blocks() * 512
    }
}

/// A snapshot, for which no more pages are touched than so many copies have, and their tables.
#[track_caller]
fn look(name: &TestName, copies: u64) -> Snapshot {
    let memory = Words::of(name).memory();
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults();
    let before = faults();
    let snapshot = Snapshot::take(name).unwrap();
    let touched = faults() - before;
    let most = (memory / 4096 * 2 + 1000) * copies;
    assert!((touched as u64) < most, "{touched} pages, of {memory} bytes");
    snapshot
}

fn a_long_arena_that_is_nearly_empty_is_looked_at_at_once<A: Allocator>() {
    let name = TestName::new("long");
    let arena = open::<A>(&name, LONG);
    let _one = arena.alloc(7_u64).unwrap();
    arena.publish("two", &ShmemBox::into_arc(arena.alloc(8_u64).unwrap())).unwrap();
    let snapshot = look(&name, 1);
    assert_eq!(snapshot.verdict(), Verdict::Sound);
    let inside = snapshot.arena().unwrap();
    assert!(inside.heap_len() > LONG / 100 * 99);
    assert_eq!(inside.names().len(), 1);
}

fn a_length_that_is_wrong_costs_nothing<A: Allocator>() {
    let name = TestName::new("length");
    let arena = open::<A>(&name, 1 << 30);
    ShmemBox::leak(arena.alloc(7_u64).unwrap());
    arena.publish("two", &ShmemBox::into_arc(arena.alloc(8_u64).unwrap())).unwrap();
    let capacity = look(&name, 1).arena().unwrap().heap_capacity();
    let words = Words::of(&name);
    words.put(HEAP_LEN, capacity);
    // What is damaged is copied and checked again and again.
    match look(&name, STILL).verdict() {
        // There the length is not written down anywhere else.
        Verdict::Sound => assert_ne!(A::ID, Tlsf::ID),
        verdict => assert!(matches!(verdict, Verdict::Damaged(Damage::Words { .. })), "{verdict:?}"),
    }
    // And of one that is looked at from outside, the bitmap is all that there is to go by.
    words.put(PAYLOAD, words.get(PAYLOAD) & 0xff | 0x12_3456 << 8);
    let snapshot = look(&name, 1);
    assert!(matches!(snapshot.verdict(), Verdict::Unchecked(Unchecked::Allocator(_))));
    let inside = snapshot.arena().unwrap();
    assert_eq!((inside.blocks().len(), inside.names().len()), (2, 1));
    // The same with bits that lead into nothing.
    let bitmap = HEADER_LEN as u64 + capacity;
    (0..1 << 16).step_by(8).for_each(|at| words.put(bitmap + (LONG >> 9) + at, !0));
    assert_eq!(look(&name, 1).arena().unwrap().blocks().len(), 2);
}

#[test]
fn a_table_that_nobody_has_written_is_not_read() {
    let name = TestName::new("table");
    let arena = open::<Tlsf>(&name, LONG);
    let _object = arena.alloc_uninit_slice::<u64>(1 << 32).unwrap();
    let words = Words::of(&name);
    let block = look(&name, 1).arena().unwrap().blocks()[0].offset();
    let at = HEADER_LEN as u64 + block;
    // The arena's own, a table, of so many places, as far as it goes.
    words.put(at, 6);
    words.put(at + 8, u64::from_be_bytes(*b"dirTable"));
    words.put(at + 24, 31);
    words.put(DIRECTORY, block);
    let snapshot = look(&name, 1);
    assert_eq!(snapshot.verdict(), Verdict::Unchecked(Unchecked::Hole(Part::Directory)));
    assert_eq!(snapshot.arena().unwrap().names(), []);
    assert!(
        snapshot
            .verdict()
            .to_string()
            .ends_with("the directory is said to be far longer than the segment has memory")
    );
}

#[test]
fn names_take_no_more_memory_than_the_segment_has() {
    let name = TestName::new("names");
    let arena = open::<Tlsf>(&name, 64 << 20);
    let publish = |name: &str| {
        arena.publish(name, &ShmemBox::into_arc(arena.alloc(7_u64).unwrap())).unwrap();
    };
    let long = "x".repeat(255);
    publish(&long);
    (0..3000).for_each(|number| publish(&number.to_string()));
    let snapshot = look(&name, 1);
    let inside = snapshot.arena().unwrap();
    assert_eq!((snapshot.verdict(), inside.names().len()), (Verdict::Sound, 3001));
    let own = || inside.blocks().iter().filter(|block| block.kind() == BlockKind::Internal);
    let table = own().max_by_key(|block| block.len()).unwrap().offset() + HEADER_LEN as u64 + 24;
    let entry = own().find(|block| (256..400).contains(&block.len())).unwrap().offset();
    // Every place is the long one's, but for the one before its search begins.
    let words = Words::of(&name);
    let places = 1 << words.get(table);
    let hash = words.get(entry + HEADER_LEN as u64 + 24);
    let place = (entry / 16) | (hash << 41);
    let home = hash >> (64 - words.get(table));
    let at = |index: u64| table + 8 + index % places * 8;
    assert!((0..places).any(|index| words.get(at(index)) == place));
    (0..places).for_each(|index| words.put(at(home + index), if index == places - 1 { 0 } else { place }));
    let snapshot = look(&name, STILL);
    assert!(matches!(snapshot.verdict(), Verdict::Damaged(Damage::Words { part: Part::Directory, .. })));
    let names = snapshot.arena().unwrap().names();
    let taken: usize = names.iter().map(|named| size_of::<Named>() + named.name().len()).sum();
    assert!(names.len() > 100 && (taken as u64) < words.memory(), "{} names", names.len());
}
