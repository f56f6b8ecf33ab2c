use super::*;
use crate::allocator::Tlsf;
use crate::error::AllocError;
use crate::header::SegmentId;
use crate::heap::{PlainHeap, Usage};
use crate::membership::Slot;
use crate::object::{Kind, Next};
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

const LEN: u64 = 64 * 1024;

/// A heap, a directory and an export bitmap, over plain memory.
struct World {
    plain: PlainHeap,
    heap: Vec<AtomicU64>,
    exports: Vec<AtomicU64>,
    words: DirectoryWords,
}

impl World {
    fn new() -> Self {
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        let world = Self {
            plain: PlainHeap::new(LEN),
            heap: zeros(LEN / 8),
            exports: zeros(LEN / 1024 + 1),
            words: DirectoryWords::default(),
        };
        Tlsf::format(&world.heap(0)).unwrap();
        world
    }

    fn heap(&self, slot: u64) -> Heap<'_> {
        self.plain.heap(&self.heap, &[], slot)
    }

    fn exports(&self) -> Exports<'_> {
        Exports::new(&self.exports)
    }

    /// A shared object of attachment number `slot`.
    fn object(&self, slot: u64) -> u64 {
        let heap = self.heap(slot);
        let block = Tlsf::allocate(&heap, &self.plain.request(40, 8, slot)).unwrap();
        self.exports().set(block);
        heap.change(block, Event::Share(Slot::new(slot).unwrap())).unwrap().unwrap();
        block
    }

    fn with<R>(&self, slot: u64, work: impl FnOnce(&Entered<'_, Tlsf>) -> R) -> Result<R, HeapError> {
        let heap = self.heap(slot);
        let entered = Directory::<Tlsf>::new(&heap, &self.words, self.exports()).enter()?;
        Ok(work(&entered))
    }

    fn publish(&self, slot: u64, name: &str, object: u64) -> Result<(), DirectoryError> {
        self.with(slot, |entered| entered.publish(&key(name), object, false))?
    }

    fn unpublish(&self, slot: u64, name: &str) -> Result<u64, DirectoryError> {
        self.with(slot, |entered| {
            let found = entered.find(&key(name))?.ok_or(DirectoryError::NotFound)?;
            let heap = self.heap(slot);
            heap.change(found.object, Event::Hold(Slot::new(slot).unwrap()))?.unwrap();
            entered.unpublish(&found).map(|()| found.object)
        })?
    }

    fn names(&self, slot: u64) -> BTreeMap<String, u64> {
        self.with(slot, |entered| {
            entered.check().unwrap();
            let (mut names, mut after) = (BTreeMap::new(), None);
            while let Some((found, order)) = entered.next(after).unwrap() {
                let name = entered.name(&found).unwrap();
                assert_eq!(names.insert(name.as_str().to_string(), found.object), None, "a name twice");
                let by_name = entered.find(&key(name.as_str())).unwrap().unwrap();
                assert_eq!(by_name.object, found.object);
                after = Some(order);
            }
            names
        })
        .unwrap()
    }

    /// Gives up what `slot` holds of an object, and frees it if that was the last.
    fn release(&self, slot: u64, object: u64) {
        let heap = self.heap(slot);
        let (_, next) = heap.change(object, Event::Release(Slot::new(slot).unwrap())).unwrap().unwrap();
        if matches!(next.unwrap().kind(), Ok(Kind::Exclusive(_))) {
            self.exports().clear(object);
            Tlsf::free(&heap, object).unwrap();
        }
    }

    /// Gives back what the dead tenant of `dead` held, as a sweep by `slot` does.
    fn sweep(&self, slot: u64, dead: u64) {
        self.with(slot, |_| ()).unwrap();
        let dead = Slot::new(dead).unwrap();
        let keep = &mut |block: &crate::heap::Block| {
            let keep = match block.state.step(Event::Sweep(dead)).unwrap_or(Next::State(block.state)) {
                Next::State(next) => {
                    self.heap[block.offset as usize / 8].store(next.bits(), Ordering::Relaxed);
                    true
                }
                Next::Free => false,
            };
            if !keep {
                self.exports().clear(block.offset);
            }
            keep
        };
        Tlsf::retain(&self.heap(slot), keep).unwrap();
    }

    fn usage(&self, slot: u64) -> Usage {
        let heap = self.heap(slot);
        Tlsf::check(&heap).unwrap();
        Tlsf::usage(&heap).unwrap()
    }
}

fn key(name: &str) -> Key<'_> {
    Key::new(name, SegmentId::NIL).unwrap()
}

#[test]
fn names_are_found_until_they_are_taken_away() {
    let world = World::new();
    let objects: Vec<_> = (0..60).map(|_| world.object(0)).collect();
    for (index, object) in objects.iter().enumerate() {
        world.publish(0, &format!("name {index}"), *object).unwrap();
        assert_eq!(world.names(1).len(), index + 1);
    }
    assert_eq!(world.publish(1, "name 7", objects[8]), Err(DirectoryError::Taken));
    assert_eq!(world.publish(1, "other", objects[8]), Err(DirectoryError::Published));
    assert_eq!(world.unpublish(1, "other"), Err(DirectoryError::NotFound));
    for (index, object) in objects.iter().enumerate() {
        assert_eq!(world.unpublish(1, &format!("name {index}")), Ok(*object));
        assert_eq!(world.names(0).len(), objects.len() - index - 1);
    }
}

#[test]
fn the_table_does_not_grow_with_what_was_taken_away() {
    let world = World::new();
    let object = world.object(0);
    let before = world.usage(0);
    let mut most = 0;
    for index in 0..1000 {
        let name = format!("{index}");
        world.publish(0, &name, object).unwrap();
        assert_eq!(world.unpublish(0, &name), Ok(object));
        most = most.max(world.usage(0).used);
    }
    // Two of the smallest tables at a time, and an entry.
    assert!(most < before.used + 2 * 192 + 64, "{most} after {before:?}");
}

#[test]
fn names_of_all_lengths_are_told_apart() {
    let world = World::new();
    let mut names = BTreeSet::new();
    for len in 1..=64 {
        names.insert("x".repeat(len));
        names.insert("x".repeat(len - 1) + "y");
    }
    let longest = "é".repeat(127) + "z";
    names.insert(longest.clone());
    assert_eq!(longest.len(), 255);
    for name in &names {
        world.publish(0, name, world.object(0)).unwrap();
    }
    assert_eq!(world.names(0).into_keys().collect::<BTreeSet<_>>(), names);
    assert!(matches!(Key::new("", SegmentId::NIL), Err(DirectoryError::Empty)));
    assert!(matches!(Key::new(&"x".repeat(256), SegmentId::NIL), Err(DirectoryError::TooLong { len: 256 })));
}

#[test]
fn without_memory_nothing_changes() {
    let world = World::new();
    world.publish(0, "first", world.object(0)).unwrap();
    let object = world.object(0);
    while Tlsf::allocate(&world.heap(0), &world.plain.request(8, 8, 0)).is_ok() {}
    let before = world.usage(0);
    let error = world.publish(0, "second", object).unwrap_err();
    assert!(matches!(error, DirectoryError::Alloc(AllocError::OutOfMemory { .. })), "{error:?}");
    assert_eq!((world.usage(0), world.names(0).len()), (before, 1));
}

/// Kills attachment 0 at each access of an operation, and lets attachment 1 go on.
fn kill_everywhere(prepare: impl Fn(&World), operation: impl Fn(&World), check: impl Fn(&World, u64)) {
    let mut steps = 0;
    loop {
        steps += 1;
        let world = World::new();
        prepare(&world);
        let is_done = world.plain.kill_after(steps, || operation(&world)).is_some();
        world.plain.kill(0);
        // Its successor may be killed too, in its recovery.
        for again in 1..200 {
            let recovered = world.plain.kill_after(again, || world.with(2, |_| ()).unwrap()).is_some();
            if recovered {
                break;
            }
            world.plain.kill(2);
            if again > steps % 7 {
                break;
            }
        }
        world.sweep(1, 0);
        world.sweep(1, 2);
        check(&world, steps);
        if is_done {
            break;
        }
    }
    assert!(steps > 20, "{steps}");
}

/// What is left, when all names are unpublished and all objects released by attachment 1: a table, perhaps.
fn nothing_is_lost(world: &World, steps: u64) {
    for (name, object) in world.names(1) {
        assert_eq!(world.unpublish(1, &name), Ok(object), "killed at {steps}");
        world.release(1, object);
    }
    let usage = world.usage(1);
    assert!(usage.blocks <= 1, "killed at {steps}: {usage:?}");
    assert!(world.exports.iter().all(|word| word.load(Ordering::Relaxed) == 0), "killed at {steps}");
}

#[test]
fn killed_while_publishing() {
    // The first name makes a table, the thirteenth a larger one.
    for before in [0, 1, 12] {
        kill_everywhere(
            |world| {
                for index in 0..before {
                    let object = world.object(0);
                    world.publish(0, &format!("{index}"), object).unwrap();
                    world.release(0, object);
                }
            },
            |world| {
                let object = world.object(0);
                world.publish(0, "new", object).unwrap();
                world.release(0, object);
            },
            |world, steps| {
                let names = world.names(1);
                assert!((before..=before + 1).contains(&names.len()), "killed at {steps}");
                nothing_is_lost(world, steps);
            },
        );
    }
}

#[test]
fn killed_while_unpublishing() {
    for others in [0, 3] {
        kill_everywhere(
            |world| {
                for index in 0..=others {
                    let object = world.object(0);
                    world.publish(0, &format!("{index}"), object).unwrap();
                    world.release(0, object);
                }
            },
            |world| {
                let object = world.unpublish(0, "0").unwrap();
                world.release(0, object);
            },
            |world, steps| {
                assert!((others..=others + 1).contains(&world.names(1).len()), "killed at {steps}");
                nothing_is_lost(world, steps);
            },
        );
    }
}

#[test]
fn an_object_of_the_living_survives_the_death_of_the_one_that_publishes_it() {
    kill_everywhere(
        |world| {
            let object = world.object(0);
            world.publish(0, "shared", object).unwrap();
            let heap = world.heap(1);
            heap.change(object, Event::Hold(Slot::new(1).unwrap())).unwrap().unwrap();
        },
        |world| {
            let object = world.unpublish(0, "shared").unwrap();
            world.publish(0, "again", object).unwrap();
        },
        |world, steps| {
            let held = Exports::new(&world.exports).next(0, LEN).expect("the object is exported still");
            let state = BlockState::from_bits(world.heap(1).load(held).unwrap());
            assert!(matches!(state.kind(), Ok(Kind::Shared(0b10))), "killed at {steps}: {state:?}");
            let names = world.names(1);
            assert_eq!(names.len(), usize::from(state.is_published()), "killed at {steps}");
            if !state.is_published() {
                world.release(1, held);
            }
            nothing_is_lost_but(world, steps, state.is_published().then_some(held));
        },
    );
}

fn nothing_is_lost_but(world: &World, steps: u64, held: Option<u64>) {
    match held {
        Some(object) => {
            let name = world.names(1).into_keys().next().unwrap();
            assert_eq!(world.unpublish(1, &name), Ok(object));
            world.release(1, object);
            nothing_is_lost(world, steps);
        }
        None => nothing_is_lost(world, steps),
    }
}

#[test]
fn damaged_words_are_errors() {
    let mut state = 12345_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..3000 {
        let world = World::new();
        let objects: Vec<_> = (0..4).map(|_| world.object(0)).collect();
        for (index, object) in objects.iter().enumerate() {
            world.publish(0, &format!("{index}"), *object).unwrap();
        }
        let values = [0, 1, !0, 8, LEN, random(), random() % LEN, objects[0]];
        for _ in 0..3 {
            let value = values[random() as usize % values.len()];
            let table = (world.words.table.load(Ordering::Relaxed) & TABLE_MASK) / 8;
            let words = &world.words;
            match random() % 6 {
                0 => words.table.store(value, Ordering::Relaxed),
                1 => words.names.store(value, Ordering::Relaxed),
                2 => words.occupied.store(value, Ordering::Relaxed),
                3 => words.intent_object.store(value, Ordering::Relaxed),
                4 => world.heap[(table + random() % 24) as usize % world.heap.len()]
                    .store(value, Ordering::Relaxed),
                _ => world.heap[random() as usize % world.heap.len()].store(value, Ordering::Relaxed),
            }
        }
        // Whatever the answers are, they come.
        if random() % 2 == 0 {
            let _: Option<()> = world.plain.kill_after(1 + random() % 40, || {
                let _: Result<(), DirectoryError> = world.publish(0, "killed", objects[1]);
            });
            world.plain.kill(0);
        }
        let _: Result<_, HeapError> = world.with(1, |entered| {
            let _: Result<(), HeapError> = entered.check();
            let _: Result<_, HeapError> = entered.find(&key("1"));
            let _: Result<_, DirectoryError> = entered.publish(&key("other"), objects[2], false);
            let mut after = None;
            for _ in 0..10_000 {
                match entered.next(after) {
                    Ok(Some((_, order))) => after = Some(order),
                    _ => return,
                }
            }
            panic!("names without end");
        });
        let _: Result<_, DirectoryError> = world.unpublish(1, "1");
        let table = &world.words.table;
        let _: Result<_, HeapError> = find_pinned(&|offset| world.heap(1).load(offset), table, &key("2"));
    }
}

/// A world with so many names, and the table that they are in.
fn crowded(names: u64) -> (World, Table) {
    let world = World::new();
    for name in 0..names {
        let object = world.object(0);
        world.publish(0, &format!("{name}"), object).unwrap();
    }
    let table = world.with(0, |entered| entered.table().unwrap().unwrap()).unwrap();
    (world, table)
}

#[test]
fn a_table_without_an_empty_place_is_damaged_and_not_searched_for_each_name() {
    let (world, table) = crowded(20);
    for index in 0..table.capacity() {
        let place = &world.heap[table.place(index) as usize / 8];
        let _: Result<u64, u64> =
            place.compare_exchange(EMPTY, REMOVED, Ordering::Relaxed, Ordering::Relaxed);
    }
    let damaged = HeapError::Damaged { at: table.place(0) };
    assert_eq!(world.with(0, |entered| entered.check()), Ok(Err(damaged)));
    assert_eq!(world.with(0, |entered| entered.find(&key("none"))), Ok(Err(damaged)));
    let last = Order { hash: !0, entry: !0 };
    assert_eq!(world.with(0, |entered| entered.next(Some(last))), Ok(Err(damaged)));
}

#[test]
fn an_entry_whose_hash_grows_is_not_the_next_name_again() {
    let (world, _) = crowded(1);
    let (first, order) = world.with(0, |entered| entered.next(None).unwrap().unwrap()).unwrap();
    world.heap[(first.entry + ENTRY_HASH) as usize / 8].fetch_add(1, Ordering::Relaxed);
    let damaged = HeapError::Damaged { at: first.entry };
    assert_eq!(world.with(0, |entered| entered.next(Some(order))), Ok(Err(damaged)));
}

#[test]
fn an_entry_that_no_search_gets_to_is_damage() {
    let (world, table) = crowded(20);
    let place = |index: u64| &world.heap[table.place(index) as usize / 8];
    let bits = |index: u64| place(index).load(Ordering::Relaxed);
    // One that stands alone, with nothing behind it either, is moved on by two.
    let index = (0..table.capacity())
        .find(|index| [1, 2].into_iter().all(|next| bits(index + next) == EMPTY) && bits(*index) != EMPTY)
        .unwrap();
    place(index + 2).store(place(index).swap(EMPTY, Ordering::Relaxed), Ordering::Relaxed);
    let entry = Place::from_bits(bits(index + 2)).entry().unwrap();
    assert_eq!(world.with(0, |entered| entered.check()), Ok(Err(HeapError::Damaged { at: entry })));
}

#[test]
fn hashes_that_were_made_to_collide_do_not_take_the_square_of_their_number() {
    let (world, table) = crowded(192);
    assert_eq!(table.capacity(), 256, "the next name replaces the table");
    let free = world.usage(0).free;
    for index in 0..table.capacity() {
        let place = Place::from_bits(world.heap[table.place(index) as usize / 8].load(Ordering::Relaxed));
        if let Some(entry) = place.entry() {
            world.heap[(entry + ENTRY_HASH) as usize / 8].store(1 << 63, Ordering::Relaxed);
        }
    }
    let object = world.object(0);
    let result = world.publish(0, "one more", object);
    assert!(matches!(result, Err(DirectoryError::Damaged { .. })), "{result:?}");
    world.release(0, object);
    assert_eq!(world.usage(0).free, free, "the new table was not given back");
}
