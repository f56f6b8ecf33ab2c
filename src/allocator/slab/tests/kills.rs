//! A process is killed at every access to a word of the heap
//!
//! A scene is set up by several attachments; then number 0 does something and is killed at its first access, in the next
//! run at its second, and so on until it gets through. Each time, number 1 goes on: what it and number 2 hold is as it
//! was, and no cell and no page is lost.

use super::super::Slab;
use super::RegionAllocator;
use super::world::{Random, World, words};
use crate::allocator::slab::magazine::PRIVATE_WORDS;
use crate::error::HeapError;
use crate::heap::{Heap, PlainHeap};
use core::ops::ControlFlow;
use std::string::String;
use std::vec::Vec;

const KIB: u64 = 1 << 10;

/// What the victim does; it is given an object of its own.
type Work = fn(&PlainHeap, &Heap<'_>, u64);

struct Scene {
    name: &'static str,
    prepare: fn(&mut World),
    /// Length of the object that the victim has before.
    len: u64,
    work: Work,
}

fn allocate(plain: &PlainHeap, heap: &Heap<'_>, len: u64, align: u64) {
    let result = Slab::allocate(heap, &plain.request(len, align, heap.slot()));
    assert!(matches!(result, Ok(_) | Err(HeapError::OutOfMemory)), "{result:?}");
}

fn nothing(_: &mut World) {}

/// Number 2 has died with the lock, in the middle of allocating a run, and has left condemned runs.
fn a_dead_holder(world: &mut World) {
    for _ in 0..3 {
        let offset = world.allocate(2, 1500, 1).unwrap();
        world.plain.condemn(&world.heap(2), offset).unwrap();
        world.objects.remove(&offset);
    }
    let heap = world.heap(2);
    let request = world.plain.request(1200, 1, 2);
    assert!(world.plain.kill_after(35, || Slab::allocate(&heap, &request)).is_none());
    world.plain.kill(2);
    world.objects.retain(|_, object| object.slot != 2);
}

/// Number 1 holds all but a few cells of 48 bytes, which are in its magazine.
fn almost_full(world: &mut World) {
    world.fill(1, 20);
    let some: Vec<_> = world.objects.keys().copied().step_by(7).collect();
    for offset in some {
        if world.objects[&offset].slot == 1 {
            world.free(1, offset);
        }
    }
}

fn condemned_runs(world: &mut World) {
    world.fill(2, 1500);
    let runs: Vec<_> = world.objects.iter().filter(|(_, object)| object.len == 1500).collect();
    let runs: Vec<_> = runs.into_iter().map(|(offset, _)| *offset).collect();
    for offset in runs {
        world.plain.condemn(&world.heap(2), offset).unwrap();
        world.objects.remove(&offset);
    }
}

fn a_full_magazine(world: &mut World) {
    let offsets: Vec<_> = (0..64).map(|_| world.allocate(1, 1, 1).unwrap()).collect();
    for offset in offsets {
        world.free(0, offset);
    }
}

fn only_bitmaps(world: &mut World) {
    Slab::settle(&world.heap(0));
    Slab::settle(&world.heap(1));
    world.private[0] = words(PRIVATE_WORDS);
}

fn no_private_memory(world: &mut World) {
    Slab::settle(&world.heap(0));
    world.private[0] = Vec::new();
}

fn a_dead_one_to_sweep(world: &mut World) {
    for len in [20, 20, 100, 1000, 2000] {
        world.allocate(2, len, 1).unwrap();
    }
    world.plain.kill(2);
    world.objects.retain(|_, object| object.slot != 2);
}

/// Number 1 has left as well, so nobody but the victim is attached.
fn the_victim_is_alone(world: &mut World) {
    for len in [50, 200, 400] {
        world.allocate(1, len, 1).unwrap();
    }
    world.free_all(1, |offset| offset % 3 == 0);
    Slab::settle(&world.heap(1));
    world.private[0] = words(PRIVATE_WORDS);
    world.private[1] = words(PRIVATE_WORDS);
}

const SCENES: &[Scene] = &[
    Scene {
        name: "cell from the magazine",
        prepare: nothing,
        len: 20,
        work: |p, h, _| allocate(p, h, 20, 1),
    },
    Scene {
        name: "cell from a bitmap",
        prepare: only_bitmaps,
        len: 20,
        work: |p, h, _| allocate(p, h, 20, 1),
    },
    Scene { name: "cell alone", prepare: no_private_memory, len: 20, work: |p, h, _| allocate(p, h, 20, 1) },
    Scene { name: "new chunk", prepare: nothing, len: 20, work: |p, h, _| allocate(p, h, 300, 1) },
    Scene { name: "cell of another", prepare: almost_full, len: 20, work: |p, h, _| allocate(p, h, 20, 1) },
    Scene { name: "nothing left", prepare: almost_full, len: 20, work: |p, h, _| allocate(p, h, 300, 1) },
    Scene { name: "run", prepare: nothing, len: 20, work: |p, h, _| allocate(p, h, 1500, 1) },
    Scene { name: "aligned run", prepare: nothing, len: 20, work: |p, h, _| allocate(p, h, 100, 4096) },
    Scene { name: "free a cell", prepare: nothing, len: 20, work: |_, h, at| Slab::free(h, at).unwrap() },
    Scene {
        name: "free into a bitmap",
        prepare: no_private_memory,
        len: 20,
        work: |_, h, at| Slab::free(h, at).unwrap(),
    },
    Scene {
        name: "free into a full magazine",
        prepare: a_full_magazine,
        len: 1,
        work: |_, h, at| Slab::free(h, at).unwrap(),
    },
    Scene { name: "free a run", prepare: nothing, len: 1500, work: |_, h, at| Slab::free(h, at).unwrap() },
    Scene {
        name: "drain for a run",
        prepare: condemned_runs,
        len: 20,
        work: |p, h, _| allocate(p, h, 1500, 1),
    },
    Scene {
        name: "drain for a chunk",
        prepare: condemned_runs,
        len: 20,
        work: |p, h, _| allocate(p, h, 300, 1),
    },
    Scene { name: "recover", prepare: a_dead_holder, len: 20, work: |_, h, _| Slab::check(h).unwrap() },
    Scene {
        name: "recover, then a chunk",
        prepare: a_dead_holder,
        len: 20,
        work: |p, h, _| allocate(p, h, 300, 1),
    },
    Scene {
        name: "sweep",
        prepare: a_dead_one_to_sweep,
        len: 20,
        work: |_, h, _| {
            Slab::retain(h, &mut |block| block.state != super::world::exclusive(2)).unwrap();
        },
    },
    Scene { name: "grow", prepare: nothing, len: 20, work: |_, h, _| Slab::grow(h, 16 * KIB).unwrap() },
    Scene { name: "settle", prepare: a_full_magazine, len: 20, work: |_, h, _| Slab::settle(h) },
    Scene {
        name: "begin alone",
        prepare: the_victim_is_alone,
        len: 20,
        work: |_, h, _| Slab::begin_alone(h).unwrap(),
    },
    Scene {
        name: "look",
        prepare: nothing,
        len: 20,
        work: |_, h, _| {
            Slab::walk(h, &mut |_| ControlFlow::Continue(())).unwrap();
            Slab::usage(h).unwrap();
        },
    },
];

/// The heap as the victim finds it, and its own object.
fn set_up(scene: &Scene) -> (World, u64) {
    let mut world = World::new(12 * KIB, 16 * KIB, 5);
    for (slot, len) in [(1, 20), (0, 20), (1, 100), (2, 300), (1, 900)] {
        world.allocate(slot, len, 1).unwrap();
    }
    let freed = world.allocate(1, 20, 1).unwrap();
    let mine = world.allocate(0, scene.len, 1).unwrap();
    world.free(1, freed);
    (scene.prepare)(&mut world);
    (world, mine)
}

/// How many objects of each length a new heap of this length holds.
fn fresh(len: u64) -> [u64; 3] {
    [20, 300, 1500].map(|size| World::new(len, 16 * KIB, 1).fill(0, size))
}

/// Number 1 goes on after the death of others.
fn go_on(mut world: World, dead: &[u64], steps: u64, fresh: &[[u64; 3]; 2]) {
    dead.iter().for_each(|slot| world.plain.kill(*slot));
    Slab::check(&world.heap(1)).unwrap();
    world.sweep(1, dead);
    world.verify(1);
    let which = (steps % 3) as usize;
    let len = [20, 300, 1500][which];
    world.fill_whole(1, len);
    world.verify(1);
    world.empty(4);
    let has_grown = usize::from(world.heap(4).len() > 12 * KIB);
    assert_eq!(world.fill(4, len), fresh[has_grown][which], "objects of {len} bytes");
}

/// Runs the scene, killing the victim at every access; says what failed where.
fn run(scene: &Scene, fresh: &[[u64; 3]; 2]) {
    for steps in 1.. {
        let (world, mine) = set_up(scene);
        let context = Context(std::format!("{}, killed at access {steps}", scene.name));
        let done = world.plain.kill_after(steps, || (scene.work)(&world.plain, &world.heap(0), mine));
        if done.is_none() || steps == 1 {
            go_on(world, &[0, 2], steps, fresh);
            // Its successor is killed too, somewhere in the recovery.
            for again in (1 + steps % 23..).step_by(23) {
                let (world, mine) = set_up(scene);
                let context = Context(std::format!("{}, and again at {again}", context.0));
                world.plain.kill_after(steps, || (scene.work)(&world.plain, &world.heap(0), mine));
                world.plain.kill(0);
                let recovered = world.plain.kill_after(again, || Slab::check(&world.heap(3)));
                assert_ne!(recovered.map(|result| result.is_ok()), Some(false), "{}", context.0);
                go_on(world, &[0, 2, 3], again, fresh);
                if recovered.is_some() {
                    break;
                }
            }
        }
        if done.is_some() {
            assert!(steps > 1, "{} does nothing", scene.name);
            return;
        }
    }
}

/// Is said if the test fails.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("{}", self.0);
        }
    }
}

#[test]
fn a_kill_at_any_access_loses_nothing() {
    let fresh = [fresh(12 * KIB), fresh(16 * KIB)];
    std::thread::scope(|scope| {
        for scenes in SCENES.chunks(SCENES.len().div_ceil(2)) {
            let fresh = &fresh;
            scope.spawn(move || scenes.iter().for_each(|scene| run(scene, fresh)));
        }
    });
}

#[test]
fn a_killed_format_is_done_again() {
    for steps in 1.. {
        let world = World::new(12 * KIB, 16 * KIB, 1);
        let done = world.plain.kill_after(steps, || Slab::format(&world.heap(0)));
        Slab::format(&world.heap(0)).unwrap();
        world.verify(0);
        if done.is_some() {
            return;
        }
    }
}

#[test]
fn random_kills_in_random_work() {
    for seed in 1..=100 {
        let mut random = Random(seed);
        let mut world = World::new(40 * KIB, 64 * KIB, 54);
        let mut attached = std::vec![0, 1, 2];
        for slot in 3..53 {
            for _ in 0..40 {
                let who = attached[random.below(3) as usize];
                let held: Vec<_> = world.objects.iter().filter(|(_, object)| object.slot == who).collect();
                let held: Vec<_> = held.into_iter().map(|(offset, _)| *offset).collect();
                if random.below(5) < 3 || held.is_empty() {
                    let _ = world.allocate(who, super::random_len(&mut random), 1 << random.below(9));
                } else {
                    world.free(who, held[random.below(held.len() as u64) as usize]);
                }
            }
            let victim = random.below(3) as usize;
            let dead = attached[victim];
            let held: Vec<_> = world.objects.iter().filter(|(_, object)| object.slot == dead).collect();
            let held: Vec<_> = held.into_iter().map(|(offset, _)| *offset).collect();
            let heap = world.heap(dead);
            let most = [20, 200, 2000][random.below(3) as usize];
            let steps = 1 + random.below(most);
            world.plain.kill_after(steps, || {
                for offset in held {
                    let len = super::random_len(&mut random);
                    let _ = Slab::allocate(&heap, &world.plain.request(len, 1, dead));
                    if Slab::free(&heap, offset) == Err(HeapError::Busy) {
                        world.plain.condemn(&heap, offset).unwrap();
                    }
                }
                let _ = Slab::grow(&heap, heap.len() + 256);
                Slab::settle(&heap);
            });
            attached[victim] = slot;
            let survivor = attached[(victim + 1) % 3];
            world.plain.kill(dead);
            Slab::check(&world.heap(survivor)).unwrap();
            world.sweep(survivor, &[dead]);
            world.verify(survivor);
        }
        world.empty(53);
        let len = world.heap(0).len();
        assert_eq!(world.fill(53, 100), World::new(len, 64 * KIB, 1).fill(0, 100));
    }
}
