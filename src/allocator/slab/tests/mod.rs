//! Tests over plain memory: a model, threads, and hostile words; in [`kills`], deaths at every access
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
extern crate std;

mod world;
mod kills;

use super::RegionAllocator;
use super::Slab;
use super::chunk::Chunk;
use super::class::Class;
use super::magazine::{Magazine, PRIVATE_WORDS};
use super::page::Pages;
use crate::error::HeapError;
use crate::heap::PlainHeap;
use crate::object::{BLOCK_HEADER_LEN, BlockState};
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;
use world::{Object, Random, World, exclusive, words};

const KIB: u64 = 1 << 10;

/// Small ones mostly, some of several pages.
fn random_len(random: &mut Random) -> u64 {
    match random.below(16) {
        0..=11 => random.below(160),
        12..=14 => random.below(700),
        _ => random.below(4 * KIB),
    }
}

#[test]
fn a_random_workload_agrees_with_a_model() {
    for (seed, len, capacity) in [
        (1, 8 * KIB, 8 * KIB),
        (2, 20 * KIB, 64 * KIB),
        (3, 64 * KIB, 64 * KIB),
        (4, 130 * KIB, 700 * KIB),
        (5, 2048 * KIB, 3000 * KIB),
    ] {
        let mut random = Random(seed);
        let mut world = World::new(len, capacity, 4);
        let mut refused = 0;
        for step in 0..1500 {
            let slot = random.below(3);
            let held: Vec<_> = world.objects.iter().filter(|(_, object)| object.slot == slot).collect();
            let wants_more = random.below(1000) < if step / 300 % 2 == 0 { 700 } else { 400 };
            if held.is_empty() || wants_more {
                let aligns = if random.below(4) == 0 { 13 } else { 5 };
                match world.allocate(slot, random_len(&mut random), 1 << random.below(aligns)) {
                    Ok(_) => {}
                    Err(HeapError::OutOfMemory) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            } else {
                let offset = *held[random.below(held.len() as u64) as usize].0;
                world.free(slot, offset);
            }
            if random.below(300) == 0 {
                let heap = world.heap(0);
                Slab::grow(&heap, (heap.len() + 3 * KIB).min(heap.capacity())).unwrap();
            }
            if capacity <= 64 * KIB || step % 50 == 0 {
                world.verify(slot);
            }
        }
        assert!(capacity > 64 * KIB || refused > 0, "the heap was never full");
        for slot in 0..3 {
            world.free_all(slot, |_| false);
            Slab::settle(&world.heap(slot));
        }
        world.verify(0);
        world.empty(3);
    }
}

#[test]
fn a_heap_without_private_memory_works_as_well() {
    let mut world = World::new(16 * KIB, 16 * KIB, 0);
    for round in 0..3 {
        let count = world.fill(0, 40);
        assert!(count > 100 || round > 0, "{count}");
        world.verify(0);
        world.free_all(0, |_| false);
    }
}

#[test]
fn more_cells_than_a_magazine_and_a_chunk_hold() {
    for len in [0, 8, 100, 640] {
        let mut world = World::new(1024 * KIB, 1024 * KIB, 2);
        let offsets: Vec<_> =
            (0..3000.min(200_000 / (len + 1))).map(|_| world.allocate(0, len, 1).unwrap()).collect();
        for offset in offsets {
            world.free(1, offset);
        }
        // What the other one has freed is in its magazine, or comes back by the bitmaps.
        world.fill_whole(0, len);
        world.verify(0);
        world.empty(1);
    }
}

#[test]
fn what_cannot_be_had_is_refused() {
    let world = World::new(16 * KIB, 16 * KIB, 1);
    let heap = world.heap(0);
    for len in [16 * KIB, 1 << 40, u64::MAX - 24, u64::MAX] {
        for align in [1, 4096] {
            let request = world.plain.request(len, align, 0);
            assert_eq!(Slab::allocate(&heap, &request), Err(HeapError::OutOfMemory));
        }
    }
    let (plain, memory) = (PlainHeap::new(512), words(1 << 10));
    let error = Slab::format(&plain.heap(&memory, &[], 0)).unwrap_err();
    assert_eq!(error, HeapError::TooSmall { len: 512, needed: 1024 });
    let error = Slab::grow(&heap, 16 * KIB + 1).unwrap_err();
    assert_eq!(error, HeapError::TooSmall { len: 16 * KIB, needed: 16 * KIB + 1 });
}

#[test]
fn only_the_start_of_a_block_in_use_is_freed() {
    let mut world = World::new(64 * KIB, 64 * KIB, 1);
    let cell = world.allocate(0, 100, 1).unwrap();
    let run = world.allocate(0, 3000, 1).unwrap();
    let heap = world.heap(0);
    for offset in (0..heap.capacity() + 64).chain([u64::MAX, u64::MAX - 7, 1 << 40]) {
        if offset != cell && offset != run {
            let result = Slab::free(&heap, offset);
            assert!(matches!(result, Err(HeapError::Damaged { .. })), "{offset}: {result:?}");
        }
    }
    // What is left of a chunk behind its last cell is no cell, whatever it looks like.
    let (chunk, _) = Chunk::containing(Pages::new(&heap), cell).unwrap().unwrap();
    let tail = chunk.offset(chunk.cells());
    heap.commit_state(tail, exclusive(0)).unwrap();
    assert_eq!(Slab::free(&heap, tail), Err(HeapError::Damaged { at: tail }));
    world.verify(0);
    world.free_all(0, |_| false);
    world.verify(0);
}

#[test]
fn the_largest_object_that_is_said_to_fit_fits_and_no_larger_one() {
    let mut random = Random(11);
    let mut world = World::new(64 * KIB, 64 * KIB, 2);
    loop {
        let largest = Slab::usage(&world.heap(0)).unwrap().largest_free;
        let class = Class::fit(&world.plain.request(largest, 1, 0));
        if class.is_some() {
            break;
        }
        assert_eq!(world.allocate(0, largest + 1, 1), Err(HeapError::OutOfMemory));
        let offset = world.allocate(0, largest, 1).unwrap();
        world.free(0, offset);
        world.allocate(0, random.below(2000).min(largest), 1).unwrap();
    }
}

#[test]
fn a_small_object_goes_to_pages_when_there_is_no_place_for_a_chunk() {
    // Three pages more than whole chunks.
    let mut world = World::new(16 * KIB + 768, 16 * KIB + 768, 2);
    world.fill(0, 600);
    let blocks = world.objects.len();
    let last = *world.objects.keys().next_back().unwrap();
    assert_eq!((last, world.heap(0).block(last).unwrap().extent.len()), (16 * KIB + 8, 624));
    world.verify(0);
    world.free_all(0, |_| false);
    world.empty(1);
    assert_eq!(world.fill(1, 600), blocks as u64);
}

#[test]
fn condemned_runs_are_freed_by_who_needs_memory() {
    let mut world = World::new(64 * KIB, 64 * KIB, 3);
    let count = world.fill(0, 3000);
    let runs: Vec<_> = world.objects.keys().copied().collect();
    for (number, offset) in runs.into_iter().enumerate() {
        let guard_holder = world.heap(1);
        let guard = guard_holder.try_lock().unwrap();
        assert_eq!(Slab::free(&world.heap(0), offset), Err(HeapError::Busy));
        drop(guard);
        world.plain.condemn(&world.heap(0), offset).unwrap();
        world.objects.remove(&offset);
        if number % 3 == 0 {
            world.allocate(2, if number % 2 == 0 { 3000 } else { 100 }, 1).unwrap();
            Slab::check(&world.heap(2)).unwrap();
        }
    }
    // The last ones wait for this.
    world.sweep(2, &[]);
    world.verify(2);
    world.free_all(2, |_| false);
    world.empty(2);
    assert_eq!(world.fill(2, 3000), count);
}

#[test]
fn condemned_runs_make_place_for_a_chunk() {
    let mut world = World::new(64 * KIB, 64 * KIB, 2);
    world.fill(0, 1000);
    let runs: Vec<_> = world.objects.keys().copied().collect();
    for offset in runs {
        world.plain.condemn(&world.heap(0), offset).unwrap();
        world.objects.remove(&offset);
    }
    let offset = world.allocate(1, 140, 1).unwrap();
    assert_eq!(world.heap(1).block(offset).unwrap().extent.len(), 192, "the length of a cell, not 176");
}

#[test]
fn a_chunk_that_is_free_goes_to_another_class_once_its_user_is_alone() {
    let mut world = World::new(64 * KIB, 64 * KIB, 2);
    let count = world.fill(0, 40);
    world.free_all(0, |_| false);
    assert!(world.fill(0, 600) < 10, "chunks keep their class");
    world.free_all(0, |_| false);
    world.empty(1);
    assert!(world.fill(1, 600) > 50);
    world.free_all(1, |_| false);
    world.empty(1);
    assert_eq!(world.fill(1, 40), count);
}

/// Allocates and frees at random as slot number `slot`, and looks whether anybody else writes into its objects.
fn churn(world: &World, slot: u64, seed: u64, rounds: u64) {
    let mut random = Random(seed);
    let heap = world.heap(slot);
    let mut held: Vec<(u64, Object)> = Vec::new();
    let free = |offset, object: Object| {
        assert_eq!(heap.block(offset).unwrap().extent.object_len(), Some(object.len));
        for word in 0..object.len / 8 {
            assert_eq!(heap.load(offset + BLOCK_HEADER_LEN + word * 8).unwrap(), object.stamp ^ word);
        }
        match Slab::free(&heap, offset) {
            Ok(()) => {}
            Err(HeapError::Busy) => world.plain.condemn(&heap, offset).unwrap(),
            Err(error) => panic!("{error}"),
        }
    };
    for round in 0..rounds {
        let is_growing = round / 512 % 2 == 0;
        if random.below(8) < if is_growing { 5 } else { 3 } {
            let len = if random.below(64) == 0 { random.below(3000) } else { random.below(300) };
            match Slab::allocate(&heap, &world.plain.request(len, 1, slot)) {
                Ok(offset) => {
                    let object = Object { slot, len, stamp: seed << 48 | round << 16 };
                    World::stamp(&heap, offset, &object);
                    held.push((offset, object));
                }
                Err(HeapError::OutOfMemory) => {}
                Err(error) => panic!("{error}"),
            }
        } else if !held.is_empty() {
            let (offset, object) = held.swap_remove(random.below(held.len() as u64) as usize);
            free(offset, object);
        }
    }
    for (offset, object) in held {
        free(offset, object);
    }
}

#[test]
fn threads_do_not_get_in_each_others_way() {
    for len in [32 * KIB, 256 * KIB] {
        let mut world = World::new(len, len, 4);
        thread::scope(|scope| {
            // Two threads share the slot and the private memory of one process.
            for (number, slot) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
                let world = &world;
                scope.spawn(move || churn(world, slot, number, 300_000));
            }
        });
        Slab::check(&world.heap(0)).unwrap();
        // What was condemned last waits for somebody who needs memory.
        world.sweep(3, &[]);
        for slot in 0..3 {
            Slab::settle(&world.heap(slot));
        }
        world.verify(3);
        world.fill_whole(3, 100);
        world.empty(3);
    }
}

#[test]
fn threads_that_need_the_last_cells_share_them() {
    // One chunk's cells for four threads: most are in magazines of others.
    let mut world = World::new(8 * KIB, 8 * KIB, 4);
    let kept = world.fill(0, 1000);
    let offsets: Vec<_> = world.objects.keys().copied().collect();
    world.free(0, offsets[0]);
    let cells = world.fill(1, 40);
    world.free_all(1, |_| false);
    thread::scope(|scope| {
        for slot in 0..3 {
            let world = &world;
            scope.spawn(move || {
                let heap = world.heap(slot);
                let request = world.plain.request(40, 1, slot);
                for _ in 0..3000 {
                    let taken: Vec<_> = (0..cells / 3)
                        .map(|_| Slab::allocate(&heap, &request).expect("there are enough for all"))
                        .collect();
                    taken.into_iter().for_each(|offset| Slab::free(&heap, offset).unwrap());
                }
            });
        }
    });
    assert!(kept > 1 && cells >= 3, "{kept} {cells}");
    world.verify(3);
}

#[test]
fn cells_in_two_magazines_are_handed_out_once() {
    let mut world = World::new(64 * KIB, 64 * KIB, 2);
    let cells: Vec<_> = (0..64).map(|_| world.allocate(0, 40, 1).unwrap()).collect();
    let request = |slot| world.plain.request(40, 1, slot);
    let (class, _) = Class::fit(&request(0)).unwrap();
    for cell in &cells {
        world.heap(0).commit_state(*cell, BlockState::FREE).unwrap();
    }
    for _ in 0..300 {
        for slot in 0..2 {
            let heap = world.heap(slot);
            let mut magazine = Magazine::open(&heap, class).unwrap();
            while magazine.pop().is_some() {}
            for cell in &cells {
                assert!(magazine.has_room());
                magazine.push(*cell);
            }
        }
        // Not asleep: both shall begin in the same instant.
        let ready = AtomicU64::new(0);
        let allocate = |slot| {
            let heap = world.heap(slot);
            ready.fetch_add(1, Ordering::Relaxed);
            while ready.load(Ordering::Relaxed) < 2 {
                core::hint::spin_loop();
            }
            (0..30).map(|_| Slab::allocate(&heap, &request(slot)).unwrap()).collect::<Vec<_>>()
        };
        let (mine, others) = thread::scope(|scope| {
            let other = scope.spawn(|| allocate(1));
            (allocate(0), other.join().unwrap())
        });
        for (slot, taken) in [(0, &mine), (1, &others)] {
            let heap = world.heap(slot);
            for offset in taken {
                assert_eq!(
                    heap.block(*offset).unwrap().state,
                    exclusive(slot),
                    "{offset} was handed out twice"
                );
                Slab::free(&heap, *offset).unwrap();
            }
        }
    }
}

#[test]
fn hostile_words_lead_to_errors_only() {
    let mut random = Random(77);
    for round in 0..10_000 {
        let mut world = World::new(12 * KIB, 16 * KIB, 3);
        for _ in 0..20 {
            let _ = world.allocate(random.below(2), random_len(&mut random), 1 << random.below(9));
        }
        let offsets: Vec<_> = world.objects.keys().copied().collect();
        for offset in offsets.iter().filter(|offset| *offset % 3 == 0) {
            world.free(0, *offset);
        }
        if round % 4 == 0 {
            world.plain.die_locked(&world.heap(2));
        }
        for _ in 0..=random.below(6) {
            // Control words and tables mostly.
            let end = if random.below(3) == 0 { world.words.len() as u64 } else { 120 };
            let word = &world.words[random.below(end) as usize];
            let old = word.load(Ordering::Relaxed);
            let values = [
                0,
                1,
                2,
                u64::MAX,
                old ^ 1 << random.below(64),
                old.wrapping_add(1),
                random.below(1 << 20),
                random.below(16) << 40 | random.below(64) << 8 | random.below(6),
                5 | 63 << 8,
            ];
            word.store(values[random.below(values.len() as u64) as usize], Ordering::Relaxed);
        }
        let heap = world.heap(0);
        for _ in 0..30 {
            let len = random_len(&mut random);
            let _ = Slab::allocate(&heap, &world.plain.request(len, 1 << random.below(13), 0));
            let _ = Slab::free(&heap, offsets[random.below(offsets.len() as u64) as usize]);
            let _ = Slab::free(&heap, random.below(2048) * 8);
        }
        let _ = Slab::check(&heap);
        let _ = Slab::usage(&heap);
        let _ = Slab::walk(&heap, &mut |_| ControlFlow::Continue(()));
        let _ = Slab::retain(&heap, &mut |block| block.offset % 64 == 8);
        let _ = Slab::grow(&heap, 16 * KIB);
        Slab::settle(&heap);
        let _ = Slab::begin_alone(&heap);
        let _ = Slab::check(&heap);
        world.private[0] = words(PRIVATE_WORDS);
    }
}
