//! The oracle is a list of what was handed out, with the bytes that were written into each object; after every step
//! the whole heap is checked. Deaths are simulated at single accesses, hostile memory by writing words at random.

mod kills;

use super::*;
use crate::heap::PlainHeap;
use crate::membership::Slot;
use crate::object::{Event, Next};
use core::sync::atomic::{AtomicU64, Ordering};
extern crate std;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::println;
use std::vec::Vec;

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }
}

/// What was handed out.
#[derive(Clone, Copy, Debug)]
struct Object {
    offset: u64,
    len: u64,
    slot: u64,
    tag: u64,
}

/// A heap, and what should be in it.
struct World {
    words: Vec<AtomicU64>,
    plain: PlainHeap,
    objects: Vec<Object>,
    /// One bit each.
    dead: u64,
    tags: u64,
}

impl World {
    fn new(capacity: usize, len: u64) -> Self {
        // A killed format may have left anything.
        let words: Vec<_> = (0..capacity / 8).map(|i| AtomicU64::new(0x0101_0101 * i as u64)).collect();
        let world = Self { words, plain: PlainHeap::new(len), objects: Vec::new(), dead: 0, tags: 0 };
        Tlsf::format(&world.heap(0)).unwrap();
        world
    }

    fn heap(&self, slot: u64) -> Heap<'_> {
        self.plain.heap(&self.words, &[], slot)
    }

    fn words_of(&self, object: Object) -> impl Iterator<Item = (&AtomicU64, u64)> {
        (0..object.len / 8).map(move |i| {
            (
                &self.words[((object.offset + BLOCK_HEADER_LEN) / 8 + i) as usize],
                object.tag << 8 ^ i << 40 | 7,
            )
        })
    }

    /// Like the arena: tags differ, and are never 0.
    fn request(&mut self, slot: u64, len: u64, align: u64) -> Request {
        self.tags += 1;
        Request::new(len, align, self.tags | 0x5a << 56, Slot::new(slot).unwrap())
    }

    /// Fills an object and remembers it.
    fn adopt(&mut self, offset: u64, request: &Request, slot: u64) -> Object {
        let object = Object { offset, len: request.len(), slot, tag: self.tags | 0x5a << 56 };
        let payload = offset + BLOCK_HEADER_LEN;
        assert_eq!(payload % request.align(), 0);
        self.words_of(object).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        self.objects.push(object);
        object
    }

    fn allocate(&mut self, slot: u64, len: u64, align: u64) -> Result<Object, HeapError> {
        let request = self.request(slot, len, align);
        let offset = Tlsf::allocate(&self.heap(slot), &request)?;
        Ok(self.adopt(offset, &request, slot))
    }

    fn forget(&mut self, object: Object) {
        self.objects.retain(|other| other.offset != object.offset);
    }

    fn free(&mut self, object: Object) {
        self.forget(object);
        Tlsf::free(&self.heap(object.slot), object.offset).unwrap();
    }

    fn condemn(&mut self, object: Object) {
        self.forget(object);
        self.plain.condemn(&self.heap(object.slot), object.offset).unwrap();
    }

    /// What an arena keeps when it sweeps.
    fn keep(dead: u64) -> impl Fn(&Block) -> bool {
        move |block| {
            !(0..56)
                .filter(|slot| dead >> slot & 1 != 0)
                .any(|slot| block.state.step(Event::Sweep(Slot::new(slot).unwrap())) == Ok(Next::Free))
        }
    }

    fn kill(&mut self, slot: u64) {
        self.dead |= 1 << slot;
        self.plain.kill(slot);
    }

    /// The heap is sound, and all objects are as they were handed out. Takes the lock over from the dead.
    fn check(&self, slot: u64) {
        Tlsf::check(&self.heap(slot)).unwrap();
        self.check_objects();
    }

    fn check_objects(&self) {
        let heap = self.heap(0);
        let mut spans = Vec::new();
        for &object in &self.objects {
            let block = heap.block(object.offset).unwrap();
            assert_eq!(block.extent.object_len(), Some(object.len));
            assert_eq!(block.tag, object.tag);
            assert_eq!(block.state, BlockState::exclusive(Slot::new(object.slot).unwrap()));
            spans.push((block.offset, block.end().unwrap()));
            assert!(self.words_of(object).all(|(word, value)| word.load(Ordering::Relaxed) == value));
        }
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert!(spans.last().is_none_or(|last| last.1 <= heap.len()));
    }

    /// Frees what the dead had; then nothing is in use but what is remembered.
    fn sweep(&mut self, slot: u64) {
        let dead = self.dead;
        self.objects.retain(|object| dead >> object.slot & 1 == 0);
        Tlsf::retain(&self.heap(slot), &mut |block| Self::keep(dead)(block)).unwrap();
        self.check(slot);
        self.check_usage(slot);
    }

    fn check_usage(&self, slot: u64) {
        let heap = self.heap(slot);
        let usage = Tlsf::usage(&heap).unwrap();
        let used = self.objects.iter().map(|o| heap.block(o.offset).unwrap().extent.len()).sum::<u64>();
        assert_eq!((usage.used, usage.blocks), (used, self.objects.len() as u64));
        let whole = chain::find_end_mark(&heap).unwrap() - chain::first(&heap);
        assert_eq!(usage.used + usage.free, whole);
        assert!(usage.high_water >= usage.used && usage.high_water <= whole);
    }

    /// Blocks of `slot`, which died: at most one is new, and it is as it was requested. It may have died freeing the
    /// `doomed`: these are free, or as they were.
    fn check_half_done(&self, slot: u64, request: &Request, doomed: &[Object]) {
        let mut found = 0;
        let exclusive = BlockState::exclusive(Slot::new(slot).unwrap());
        Tlsf::walk(&self.heap(55), &mut |block| {
            let is_known = self.objects.iter().any(|object| object.offset == block.offset);
            let doomed = doomed.iter().find(|object| object.offset == block.offset);
            if let (Some(&object), true) = (doomed, block.state == exclusive) {
                assert_eq!((block.tag, block.extent.object_len()), (object.tag, Some(object.len)));
                assert!(self.words_of(object).all(|(word, value)| word.load(Ordering::Relaxed) == value));
                return ControlFlow::Continue(());
            }
            if block.state == exclusive && !is_known {
                found += 1;
                assert_eq!(block.tag, self.tags | 0x5a << 56);
                assert_eq!(block.extent.object_len(), Some(request.len()));
                assert_eq!(block.payload() % request.align(), 0);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(found <= 1);
    }

    /// Runs `work`, and kills it at access number `steps`; other panics go on.
    fn kill_at<R>(&self, steps: u64, work: impl FnOnce(&Self) -> R) -> Option<R> {
        let mut failure = None;
        let result = self.plain.kill_after(steps, || {
            catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
                if panic.downcast_ref() != Some(&"killed") {
                    failure = Some(panic);
                }
                resume_unwind(Box::new(()))
            })
        });
        match failure {
            Some(panic) => resume_unwind(panic),
            None => result,
        }
    }
}

#[test]
fn sizes_and_lists_fit_each_other() {
    let mut last = Class::of(0);
    for granules in 0..5000_u64 {
        let class = Class::of(granules * 16);
        assert!(class == last || class == last.next(), "{granules}");
        assert_eq!(class != last || granules == 0, Class::holding(granules * 16) == class, "{granules}");
        last = class;
    }
    for bit in 5..32 {
        for granules in [(1 << bit) - 1, 1 << bit, (1 << bit) + 1, (1 << bit) * 3 / 2] {
            let class = Class::of(granules * 16);
            assert!([class, class.next()].contains(&Class::holding(granules * 16)), "{granules}");
        }
    }
    assert_eq!(Class::end(1 << 36), Class::of(Extent::MAX_LEN).next());
    assert_eq!(Class::end(u64::MAX), Class::end(1 << 36));
    let end = Class::end(4096);
    assert_eq!(Class::all(end).count(), 80);
    assert_eq!(end.heads_end(4096), 408);
}

#[test]
fn the_smallest_heap_holds_one_object() {
    let words: Vec<_> = (0..40).map(|_| AtomicU64::new(0)).collect();
    let plain = PlainHeap::new(100);
    let Err(HeapError::TooSmall { len: 100, needed }) = Tlsf::format(&plain.heap(&words, &[], 0)) else {
        panic!("it cannot hold a block")
    };
    let plain = PlainHeap::new(needed);
    let heap = plain.heap(&words, &[], 0);
    Tlsf::format(&heap).unwrap();
    Tlsf::check(&heap).unwrap();
    assert_eq!(Tlsf::usage(&heap).unwrap().largest_free, 8);
    let offset = Tlsf::allocate(&heap, &plain.request(8, 1, 0)).unwrap();
    assert_eq!(Tlsf::allocate(&heap, &plain.request(0, 1, 0)), Err(HeapError::OutOfMemory));
    Tlsf::check(&heap).unwrap();
    Tlsf::free(&heap, offset).unwrap();
    assert_eq!(Tlsf::free(&heap, offset), Err(HeapError::Damaged { at: offset }));
    assert_eq!(Tlsf::allocate(&heap, &plain.request(9, 1, 0)), Err(HeapError::OutOfMemory));
    assert_eq!(Tlsf::allocate(&heap, &plain.request(u64::MAX, 1, 0)), Err(HeapError::OutOfMemory));
}

/// What `usage` says is the largest object can be allocated, and nothing larger.
fn check_largest(world: &mut World) {
    // A first request frees what is condemned.
    let _ = world.allocate(0, 1 << 30, 8);
    let largest = Tlsf::usage(&world.heap(0)).unwrap().largest_free;
    assert_eq!(world.allocate(0, largest + 1, 16).err(), Some(HeapError::OutOfMemory));
    if largest != 0 {
        let object = world.allocate(0, largest, 16).unwrap();
        world.free(object);
    }
}

fn churn(capacity: usize, steps: u32, check_every: u32, seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(capacity, capacity as u64);
    let whole = Tlsf::usage(&world.heap(0)).unwrap();
    let mut failures = 0;
    for step in 0..steps {
        // Waves: for a while more is allocated than freed, then the other way round.
        let is_rising = step / (steps / 8) % 2 == 0;
        if random.below(100) < if is_rising { 70 } else { 30 } || world.objects.is_empty() {
            let most = random.pick(&[40, 200, 600, capacity / 4]);
            let align = if random.below(4) == 0 { 1 << random.below(13) } else { 8 };
            let len = random.below(most) as u64;
            match world.allocate(random.below(5) as u64, len, align) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error, HeapError::OutOfMemory);
                    failures += 1;
                }
            }
        } else {
            let object = random.pick(&world.objects);
            if random.below(10) == 0 { world.condemn(object) } else { world.free(object) }
        }
        if step % check_every == 0 {
            world.check(5);
            check_largest(&mut world);
            // That allocated, and so freed what was condemned.
            world.check_usage(5);
        }
    }
    assert!(failures != 0 || capacity > 100_000, "it never got full");
    while let Some(object) = world.objects.pop() {
        world.free(object);
    }
    Tlsf::retain(&world.heap(0), &mut |_| true).unwrap();
    world.check(0);
    let usage = Tlsf::usage(&world.heap(0)).unwrap();
    assert_eq!((usage.free, usage.free_blocks, usage.used), (whole.free, 1, 0));
    assert_eq!(usage.largest_free, whole.largest_free);
}

#[test]
fn random_workloads_agree_with_the_shadow() {
    for seed in 1..=10 {
        churn(600, 3_000, 1, seed);
        churn(4000, 3_000, 1, seed);
        churn(4096, 3_000, 1, seed);
    }
    churn(1 << 16, 10_000, 1, 1);
    churn(1 << 20, 100_000, 500, 1);
}

#[test]
fn a_heap_is_filled_by_nine_tenths() {
    for (capacity, seed) in [(1 << 20, 1), (1 << 20, 2), (1 << 20, 3), (1 << 16, 4), (4096, 5), (4000, 6)] {
        let mut random = Random(seed);
        let words: Vec<_> = (0..capacity / 8).map(|_| AtomicU64::new(0)).collect();
        let plain = PlainHeap::new(capacity);
        let heap = plain.heap(&words, &[], 0);
        Tlsf::format(&heap).unwrap();
        let mut objects = Vec::new();
        let mut steps = 0;
        // For each one freed, two are allocated; at half the heap, they change places for a long time.
        loop {
            steps += 1;
            let used = heap.load(USED).unwrap();
            let free_share = if used > capacity / 2 && steps < 100_000 { 60 } else { 33 };
            if random.below(100) < free_share && !objects.is_empty() {
                let index = random.below(objects.len());
                Tlsf::free(&heap, objects.swap_remove(index)).unwrap();
                continue;
            }
            let len = 16 + random.below(497.min(capacity as usize / 128)) as u64;
            match Tlsf::allocate(&heap, &plain.request(len, 8, 0)) {
                Ok(offset) => objects.push(offset),
                Err(error) => {
                    assert_eq!(error, HeapError::OutOfMemory);
                    break;
                }
            }
        }
        let usage = Tlsf::usage(&heap).unwrap();
        let percent = usage.used as f64 * 100.0 / capacity as f64;
        println!("{capacity} bytes: {percent:.1} % full at the first failure; {usage:?}");
        assert!(percent >= if capacity > 10_000 { 90.0 } else { 80.0 });
    }
}

/// A heap with objects of slots 0 and 1, and holes between them, for operations of each kind.
/// A capacity with bins.
const BINNED_CAPACITY: usize = 1 << 16;

fn scene() -> World {
    scene_in(8192)
}

fn scene_in(capacity: usize) -> World {
    let mut world = World::new(capacity, 4096);
    for index in 0..14 {
        world.allocate(index % 2, 40 + 16 * (index % 3), 16).unwrap();
    }
    // Holes of one size, so that lists or bins have a first, a middle and a last block, and one at the end.
    for index in [12, 9, 5, 2] {
        world.free(world.objects[index]);
    }
    world
}

#[test]
fn a_heap_grows_to_its_capacity() {
    let mut random = Random(3);
    for seed in 0..30 {
        let mut world = World::new(8192, 700 + seed);
        loop {
            let heap = world.heap(0);
            let len = heap.len() + [1, 8, 16, 17, 24, 32, 100][random.below(7)];
            if len > heap.capacity() {
                assert!(matches!(Tlsf::grow(&heap, len), Err(HeapError::TooSmall { .. })));
                Tlsf::grow(&heap, heap.capacity()).unwrap();
                break;
            }
            Tlsf::grow(&heap, len).unwrap();
            assert_eq!(heap.len(), len);
            Tlsf::grow(&heap, 600).unwrap();
            assert_eq!(heap.len(), len);
            world.check(0);
            if random.below(2) == 0 {
                let _ = world.allocate(0, random.below(200) as u64, 8);
                world.check(0);
            }
            world.check_usage(0);
        }
        world.check(0);
        while let Some(object) = world.objects.pop() {
            world.free(object);
        }
        world.check(0);
        assert_eq!(Tlsf::usage(&world.heap(0)).unwrap().free_blocks, 1);
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn offsets_up_to_64_gib_fit_into_links() {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    // Pages that nobody touches cost nothing. What lies beyond 64 GiB is not used.
    let len = (1 << 36) + (1 << 30);
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the kernel chooses where.
    let memory =
        unsafe { mmap_anonymous(core::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) };
    let Ok(memory) = memory else {
        println!("this machine has not so many addresses");
        return;
    };
    // SAFETY: `len` bytes are mapped there until `munmap` below, and are atomics from here on.
    let words = unsafe { core::slice::from_raw_parts(memory.cast::<AtomicU64>(), len / 8) };
    let plain = PlainHeap::new(1 << 20);
    let heap = plain.heap(words, &[], 0);
    Tlsf::format(&heap).unwrap();
    Tlsf::grow(&heap, len as u64).unwrap();
    Tlsf::check(&heap).unwrap();
    let whole = Tlsf::usage(&heap).unwrap();
    assert!(whole.free > (1 << 36) - 3000 && whole.free_blocks == 1);
    let allocate = |len| Tlsf::allocate(&heap, &plain.request(len, 4096, 0)).unwrap();
    let first = allocate((1 << 36) - 40_000);
    let last: Vec<_> = [100, 3000, 50, 700].map(allocate).into();
    assert!(last.iter().all(|offset| (1 << 36) - 40_000 < *offset && *offset < 1 << 36));
    Tlsf::check(&heap).unwrap();
    for offset in [last[2], last[0], first, last[1], last[3]] {
        Tlsf::free(&heap, offset).unwrap();
        Tlsf::check(&heap).unwrap();
    }
    plain.die_locked(&plain.heap(words, &[], 1));
    Tlsf::check(&heap).unwrap();
    assert_eq!(Tlsf::usage(&heap).unwrap().largest_free, whole.largest_free);
    // SAFETY: nothing refers to it any more.
    unsafe { munmap(memory, len) }.unwrap();
}

#[test]
fn what_is_not_in_use_is_not_freed() {
    let mut world = scene();
    let objects = world.objects.clone();
    let heap = world.heap(0);
    for offset in (0..4200).filter(|offset| objects.iter().all(|object| object.offset != *offset)) {
        // Objects hold words that are no state; free blocks are free.
        assert!(matches!(Tlsf::free(&heap, offset), Err(HeapError::Damaged { .. })), "{offset}");
    }
    for offset in [u64::MAX, u64::MAX - 7, u64::MAX - 23, 1 << 36, (1 << 36) + 8] {
        assert!(Tlsf::free(&heap, offset).is_err());
    }
    world.check(0);
    let object = objects[1];
    world.free(object);
    assert!(Tlsf::free(&world.heap(1), object.offset).is_err());
    world.check(0);
    let guard = world.heap(0);
    let guard = guard.try_lock().unwrap();
    assert_eq!(Tlsf::free(&world.heap(1), objects[0].offset), Err(HeapError::Busy));
    drop(guard);
    world.check(0);
}

#[test]
fn a_damaged_chain_is_given_up_for_good() {
    let mut world = scene();
    let object = world.objects[4];
    let heap = world.heap(1);
    heap.store(object.offset, 0).unwrap();
    assert_eq!(Tlsf::check(&heap), Err(HeapError::Damaged { at: object.offset }));
    world.plain.die_locked(&world.heap(0));
    assert_eq!(Tlsf::check(&heap), Err(HeapError::Damaged { at: object.offset }));
    assert_eq!(Tlsf::check(&heap), Err(HeapError::NotRecoverable));
    assert_eq!(world.allocate(1, 8, 8).err(), Some(HeapError::NotRecoverable));
}

#[test]
fn any_words_are_answered() {
    let mut random = Random(99);
    let (mut errors, mut total) = (0, 0);
    for round in 0..12_000 {
        let mut world = match round % 3 {
            0 => World::new(1024, 1024),
            1 => scene(),
            _ => scene_in(BINNED_CAPACITY),
        };
        if round % 3 == 0 {
            for index in 0..6 {
                world.allocate(index % 2, 30 + 8 * index, 16).unwrap();
            }
            world.free(world.objects[1]);
            world.free(world.objects[2]);
        }
        let words = world.words.len();
        // All words, or a few.
        let count = if random.below(8) == 0 { words } else { 1 + random.below(6) };
        for index in 0..count {
            let index = if count == words { index } else { random.below(words) };
            let old = world.words[index].load(Ordering::Relaxed);
            let near = 8 * random.below(words) as u64;
            let block = random.pick(&world.objects).offset;
            let small = random.below(64) as u64;
            let value = random.pick(&[
                0,
                !0,
                small,
                near,
                block,
                near / 16,
                (block / 16) * (1 << 32 | 1),
                (near / 16) << 32 | small,
                old ^ (1 << (random.0 % 64)),
                old.wrapping_add(small),
                world.words[near as usize / 8].load(Ordering::Relaxed),
                random.0,
            ]);
            world.words[index].store(value, Ordering::Relaxed);
        }
        if random.below(3) == 0 {
            world.plain.die_locked(&world.heap(9));
        }
        let mut objects = world.objects.clone();
        for _ in 0..20 {
            let heap = world.heap(1);
            let request = world.plain.request(random.below(200) as u64, 1 << random.below(13), 1);
            let result = match random.below(10) {
                0 => Tlsf::check(&heap),
                1 => Tlsf::usage(&heap).map(drop),
                2 => Tlsf::walk(&heap, &mut |_| ControlFlow::Continue(())),
                3 => Tlsf::retain(&heap, &mut |_| random.below(2) == 0).map(drop),
                4 => Tlsf::grow(&heap, heap.len() + random.below(300) as u64),
                5 => match objects.pop() {
                    Some(object) => world.plain.condemn(&world.heap(object.slot), object.offset),
                    None => Ok(()),
                },
                6 | 7 => Tlsf::allocate(&heap, &request).map(drop),
                _ => Tlsf::free(&heap, random.pick(&world.objects).offset),
            };
            total += 1;
            errors += u32::from(result.is_err());
        }
    }
    println!("{errors} errors of {total}");
    assert!(errors != 0 && errors != total);
}

/// Both have the same name in the words of locks, so the lock tells them apart by who has got it alone.
#[test]
fn two_threads_of_a_process_do_not_meet_in_the_heap() {
    let world = World::new(1 << 20, 1 << 20);
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for seed in 1..=2 {
            let (world, barrier) = (&world, &barrier);
            scope.spawn(move || {
                let (heap, mut random) = (world.heap(3), Random(seed));
                let mut objects = Vec::new();
                barrier.wait();
                for _ in 0..1_000_000 {
                    if objects.len() < 100 {
                        let request = world.plain.request(random.below(600) as u64, 8, 3);
                        objects.push(Tlsf::allocate(&heap, &request).unwrap());
                    } else {
                        let offset = objects.swap_remove(random.below(objects.len()));
                        heap.free_or_defer(offset, Tlsf::free).unwrap();
                    }
                }
                objects.into_iter().for_each(|offset| heap.free_or_defer(offset, Tlsf::free).unwrap());
            });
        }
    });
    assert_eq!(Tlsf::usage(&world.heap(0)).unwrap().blocks, 0);
    world.check(0);
}
