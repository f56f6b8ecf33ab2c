//! Every operation is killed at every access to the heap, and so is the recovery from that; then sequences of them, at
//! random.

use super::*;

/// The operation that is killed, by slot 0; what it takes away is not remembered any more before.
type Operation = fn(&World, &Request, &[Object]);

struct Kind {
    name: &'static str,
    prepare: fn(&mut World) -> Vec<Object>,
    len: u64,
    align: u64,
    operation: Operation,
}

fn allocate(world: &World, request: &Request, _: &[Object]) {
    Tlsf::allocate(&world.heap(0), request).unwrap();
}

fn free(world: &World, _: &Request, doomed: &[Object]) {
    doomed.iter().for_each(|object| Tlsf::free(&world.heap(0), object.offset).unwrap());
}

/// Takes the objects with these numbers out, which are to be freed.
fn doomed(world: &mut World, indices: &[usize]) -> Vec<Object> {
    let objects: Vec<_> = indices.iter().map(|&index| world.objects[index]).collect();
    objects.iter().for_each(|&object| world.forget(object));
    objects
}

/// Objects of slot 0 whose neighbours are both in use, or free before, after, or both.
fn with_neighbours(world: &World, free: [bool; 2]) -> usize {
    let heap = world.heap(0);
    let position = world.objects.iter().position(|object| {
        let block = heap.block(object.offset).unwrap();
        let is_after_free = block.extent.own() & AFTER_FREE != 0;
        let is_before_free = heap.load(block.end().unwrap()).unwrap() == BlockState::FREE.bits();
        object.slot == 0 && [is_after_free, is_before_free] == free
    });
    position.unwrap()
}

/// Makes an object of slot 0 that has these neighbours, and takes it out.
fn free_with(world: &mut World, neighbours: [bool; 2]) -> Vec<Object> {
    let objects: Vec<_> = (0..3).map(|_| world.allocate(0, 200, 16).unwrap()).collect();
    for (index, is_free) in [(0, neighbours[0]), (2, neighbours[1])] {
        if is_free {
            world.free(objects[index]);
        }
    }
    let index = with_neighbours(world, neighbours);
    doomed(world, &[index])
}

fn condemn_some(world: &mut World) -> Vec<Object> {
    for index in [10, 7, 6, 3, 0] {
        let object = world.objects.get(index).copied();
        object.into_iter().for_each(|object| world.condemn(object));
    }
    Vec::new()
}

/// Slot 7 dies with objects in use and others condemned.
fn die_with_some(world: &mut World) -> Vec<Object> {
    condemn_some(world);
    world.allocate(7, 50, 8).unwrap();
    world.allocate(7, 80, 8).unwrap();
    world.condemn(*world.objects.last().unwrap());
    world.objects.pop();
    world.kill(7);
    Vec::new()
}

const fn kind(name: &'static str, len: u64, align: u64, prepare: fn(&mut World) -> Vec<Object>) -> Kind {
    Kind { name, prepare, len, align, operation: if len == 0 { free } else { allocate } }
}

fn kinds() -> Vec<Kind> {
    let nothing: fn(&mut World) -> Vec<Object> = |_| Vec::new();
    let mut kinds = std::vec![
        kind("allocate, split", 100, 8, nothing),
        kind("allocate, exact", 72, 8, nothing),
        kind("allocate, with slack", 60, 8, nothing),
        kind("allocate, the last block", 0x400, 8, nothing),
        kind("allocate, aligned to 64", 60, 64, nothing),
        kind("allocate, aligned to 256", 100, 256, nothing),
        kind("allocate, aligned to 512 by a search", 200, 512, |world| {
            let len = Tlsf::usage(&world.heap(0)).unwrap().largest_free;
            world.allocate(0, len - 600, 8).unwrap();
            Vec::new()
        }),
        kind("allocate all", 1, 8, |world| {
            let len = Tlsf::usage(&world.heap(0)).unwrap().largest_free;
            world.allocate(0, len - 128, 8).unwrap();
            Vec::new()
        }),
        kind("allocate, freeing the condemned", 30, 8, condemn_some),
        kind("free between objects", 0, 8, |world| free_with(world, [false, false])),
        kind("free after a hole", 0, 8, |world| free_with(world, [true, false])),
        kind("free before a hole", 0, 8, |world| free_with(world, [false, true])),
        kind("free between holes", 0, 8, |world| free_with(world, [true, true])),
        kind("free everything", 0, 8, |world| {
            let mine: Vec<_> = (0..world.objects.len()).filter(|i| world.objects[*i].slot == 0).collect();
            doomed(world, &mine)
        }),
    ];
    kinds.push(Kind {
        name: "retain",
        prepare: die_with_some,
        len: 1,
        align: 8,
        operation: |world, _, _| {
            Tlsf::retain(&world.heap(0), &mut |block| World::keep(world.dead)(block)).unwrap();
        },
    });
    let grow: Operation = |world, _, _| Tlsf::grow(&world.heap(0), 5003).unwrap();
    kinds.push(Kind { name: "grow after a hole", prepare: nothing, len: 1, align: 8, operation: grow });
    kinds.push(Kind {
        name: "grow after an object",
        prepare: |world| {
            let len = Tlsf::usage(&world.heap(0)).unwrap().largest_free;
            world.allocate(1, len, 8).unwrap();
            Vec::new()
        },
        len: 1,
        align: 8,
        operation: grow,
    });
    kinds.push(Kind {
        name: "recover",
        prepare: |world| {
            die_with_some(world);
            world.plain.die_locked(&world.heap(9));
            Vec::new()
        },
        len: 1,
        align: 8,
        operation: |world, _, _| Tlsf::walk(&world.heap(0), &mut |_| ControlFlow::Continue(())).unwrap(),
    });
    kinds.push(Kind {
        name: "usage, check",
        prepare: nothing,
        len: 1,
        align: 8,
        operation: |world, _, _| {
            Tlsf::usage(&world.heap(0)).unwrap();
            Tlsf::check(&world.heap(0)).unwrap();
        },
    });
    kinds
}

/// The same where there are bins: all that the scene has freed is in them.
fn kinds_with_bins() -> Vec<Kind> {
    let nothing: fn(&mut World) -> Vec<Object> = |_| Vec::new();
    let new = [
        kind("allocate from a bin", 72, 8, nothing),
        kind("allocate from a bin, with slack", 60, 8, nothing),
        kind("allocate beside bins", 100, 8, nothing),
        kind("allocate beside bins, aligned", 60, 64, nothing),
        kind("allocate what bins have, joined", 120, 8, |world| {
            let len = Tlsf::usage(&world.heap(0)).unwrap().largest_free;
            world.allocate(0, len, 8).unwrap();
            while world.allocate(1, 40, 8).is_ok() {}
            for index in [4, 3, 2, 1] {
                world.free(world.objects[index]);
            }
            Vec::new()
        }),
        kind("free into a bin", 0, 8, |world| doomed(world, &[0])),
        kind("free beside a full bin", 0, 8, |world| {
            let objects: Vec<_> = (0..34).map(|_| world.allocate(0, 8, 8).unwrap()).collect();
            objects[1..33].iter().for_each(|&object| world.free(object));
            let last = world.objects.len() - 1;
            doomed(world, &[last])
        }),
    ];
    let same = ["allocate, freeing the condemned", "free everything", "retain", "grow", "recover", "usage"];
    let kinds = kinds().into_iter().filter(|kind| same.iter().any(|name| kind.name.starts_with(name)));
    new.into_iter().chain(kinds).collect()
}

/// All that is killed, and the capacity of the heap that it happens in.
fn everywhere() -> impl Iterator<Item = (Kind, usize)> {
    let with_bins = kinds_with_bins().into_iter().map(|kind| (kind, BINNED_CAPACITY));
    kinds().into_iter().map(|kind| (kind, 8192)).chain(with_bins)
}

/// Prepares, and kills the operation at access number `steps`, or after it; gives whether it had fewer.
fn kill_operation(kind: &Kind, capacity: usize, steps: u64) -> (World, Request, Vec<Object>, bool) {
    let mut world = scene_in(capacity);
    let doomed = (kind.prepare)(&mut world);
    let request = world.request(0, kind.len, kind.align);
    let is_done = world.kill_at(steps, |world| (kind.operation)(world, &request, &doomed)).is_some();
    world.kill(0);
    (world, request, doomed, is_done)
}

#[test]
fn killed_at_every_access() {
    for (kind, capacity) in everywhere() {
        let mut kills = 0;
        for steps in 1.. {
            let (mut world, request, doomed, is_done) = kill_operation(&kind, capacity, steps);
            if !is_done && world.heap(1).len() != 4096 {
                // The length is the last store of growing, but for the lock.
                assert!(kind.name.starts_with("grow"));
            }
            world.check(1);
            world.check_half_done(0, &request, &doomed);
            world.sweep(1);
            // It can be used.
            let object = world.allocate(1, 24, 64).unwrap();
            world.check(1);
            world.free(object);
            world.check(1);
            if is_done {
                break;
            }
            kills += 1;
        }
        println!("{}: {kills} kills", kind.name);
        assert!(kills > 6, "{}", kind.name);
    }
}

#[test]
fn recovery_killed_at_every_access() {
    for (kind, capacity) in everywhere() {
        let mut kills = 0;
        'operation: for steps in 1.. {
            // Every access of operations that have few, and some of the others, which are mostly reads.
            let steps = if steps > 80 { steps * steps / 80 } else { steps };
            for recovery_steps in 1.. {
                // Most of it is clearing heads and bins, of which there are more here.
                let stride = if capacity == BINNED_CAPACITY { 23 } else { 1 };
                let stride = if kind.name == "free everything" { 3 } else { stride };
                let recovery_steps = recovery_steps * stride;
                let (mut world, request, doomed, is_done) = kill_operation(&kind, capacity, steps);
                if is_done {
                    break 'operation;
                }
                let recover = |world: &World| Tlsf::walk(&world.heap(2), &mut |_| ControlFlow::Break(()));
                match world.kill_at(recovery_steps, recover) {
                    Some(result) => {
                        result.unwrap();
                        break;
                    }
                    None => world.kill(2),
                }
                kills += 1;
                world.check(3);
                world.check_half_done(0, &request, &doomed);
                world.sweep(3);
            }
        }
        println!("{}: {kills} kills of the recovery", kind.name);
        assert!(kills > 50, "{}", kind.name);
    }
}

/// One random operation by `slot`, killed at a random access; what it may have freed is forgotten before.
fn random_operation(world: &mut World, random: &mut Random, slot: u64, steps: u64) -> bool {
    let mine: Vec<_> = world.objects.iter().copied().filter(|object| object.slot == slot).collect();
    match random.below(20) {
        0..9 => {
            let most = random.pick(&[20, 100, 300]);
            let len = random.below(most) as u64;
            let align = if random.below(3) == 0 { 1 << random.below(10) } else { 8 };
            let request = world.request(slot, len, align);
            match world.kill_at(steps, |world| Tlsf::allocate(&world.heap(slot), &request)) {
                Some(Ok(offset)) => {
                    world.adopt(offset, &request, slot);
                    true
                }
                Some(Err(error)) => {
                    assert_eq!(error, HeapError::OutOfMemory);
                    true
                }
                None => false,
            }
        }
        9..15 if !mine.is_empty() => {
            let object = random.pick(&mine);
            world.forget(object);
            match world.kill_at(steps, |world| Tlsf::free(&world.heap(slot), object.offset)) {
                Some(Ok(())) => true,
                // The dead hold the lock.
                Some(Err(error)) => {
                    assert_eq!(error, HeapError::Busy);
                    world.plain.condemn(&world.heap(slot), object.offset).unwrap();
                    true
                }
                None => false,
            }
        }
        15..17 if !mine.is_empty() => {
            let object = random.pick(&mine);
            world.forget(object);
            let condemn = |world: &World| world.plain.condemn(&world.heap(slot), object.offset);
            world.kill_at(steps, condemn).is_some_and(|result| result.is_ok())
        }
        17 => {
            let dead = world.dead;
            let retain =
                |world: &World| Tlsf::retain(&world.heap(slot), &mut |block| World::keep(dead)(block));
            world.kill_at(steps, retain).is_some_and(|result| result.is_ok())
        }
        18 => {
            let len = world.heap(slot).len() + random.below(100) as u64;
            let len = len.min(world.heap(slot).capacity());
            let grow = |world: &World| Tlsf::grow(&world.heap(slot), len);
            world.kill_at(steps, grow).is_some_and(|result| result.is_ok())
        }
        _ => {
            let check = |world: &World| Tlsf::check(&world.heap(slot));
            world.kill_at(steps, check).is_some_and(|result| result.is_ok())
        }
    }
}

#[test]
fn random_operations_killed_at_random() {
    let mut random = Random(42);
    let mut kills = 0;
    for _ in 0..4000 {
        let (capacity, least) =
            random.pick(&[(8192, 1000), (8192, 1000), (8192, 1000), (BINNED_CAPACITY, 2000)]);
        let mut world = World::new(capacity, least + 200 * random.below(20) as u64);
        // Slot 55 lives, and looks at it all.
        let mut slots: Vec<u64> = (0..55).collect();
        while slots.len() > 3 {
            let slot = slots[random.below(slots.len().min(4))];
            let steps = if random.below(3) == 0 { 1 + random.below(200) as u64 } else { 0 };
            // The objects of one that dies may be freed by anybody from then on.
            let before: Vec<_> = world.objects.iter().copied().filter(|object| object.slot != slot).collect();
            if !random_operation(&mut world, &mut random, slot, steps) {
                assert_ne!(steps, 0);
                kills += 1;
                world.objects = before;
                world.kill(slot);
                slots.retain(|other| *other != slot);
                world.check_objects();
            }
            match random.below(8) {
                0 => world.check(55),
                1 => world.sweep(55),
                _ => {}
            }
        }
        world.sweep(55);
    }
    println!("{kills} kills");
}

#[test]
fn killed_while_the_condemned_are_freed() {
    // The dead have marked some of those on the stack, and others are pushed on top.
    for steps in 1.. {
        let mut world = scene();
        condemn_some(&mut world);
        let request = world.request(0, 30, 8);
        let is_done =
            world.kill_at(steps, |world| Tlsf::allocate(&world.heap(0), &request).unwrap()).is_some();
        if is_done {
            break;
        }
        world.kill(0);
        let object = *world.objects.iter().find(|object| object.slot == 1).unwrap();
        world.condemn(object);
        world.check(1);
        world.sweep(1);
    }
}
