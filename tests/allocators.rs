//! Every allocator against the same shadow
//!
//! Random actions, with deaths among them, are done with a heap and with a shadow of it, and compared after each
//! step; `allocators/shadow.rs` says what must hold. The same code is behind the fuzz target `allocator`.
//!
//! Longer: `cargo test --release --test allocators -- --ignored --nocapture`.

#[allow(dead_code)] // Of the example, the allocator is of interest here.
#[path = "../examples/custom-allocator.rs"]
mod custom_allocator;
#[allow(dead_code)] // It is for the fuzz target, too.
#[path = "allocators/shadow.rs"]
mod shadow;

use custom_allocator::Pool;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shadow::{Action, World, is_empty};
use shmem_bind::allocator::{BLOCK_HEADER_LEN, BlockState, GRANULE, Heap, HeapError, PlainHeap};
use shmem_bind::{Bump, RegionAllocator, Slab, Tlsf};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// A generator of numbers; the same ones for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Sequences of actions, shrunk to the shortest that fails.
fn follows_the_shadow<A: RegionAllocator>(cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let actions = vec(any::<[u8; 8]>().prop_map(Action::decode), 0..90);
    TestRunner::new(config)
        .run(&(any::<u8>(), actions), |(choice, actions)| {
            if let Some(mut world) = World::<A>::new(choice, false) {
                actions.into_iter().for_each(|action| world.step(action));
                world.finish(choice & 0x80 != 0);
            }
            Ok(())
        })
        .unwrap();
}

/// The same with damaged words: calls end, without a panic.
fn survives_damage<A: RegionAllocator>(cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let actions = vec(any::<[u8; 8]>().prop_map(Action::decode), 0..60);
    TestRunner::new(config)
        .run(&(any::<u8>(), actions), |(choice, actions)| {
            if let Some(mut world) = World::<A>::new(choice, true) {
                actions.into_iter().for_each(|action| world.step(action));
                world.finish(false);
            }
            Ok(())
        })
        .unwrap();
}

/// Four attachments at once, for a while; then nothing is lost and nothing is left over.
fn is_shared_by_threads<A: RegionAllocator>() {
    const THREADS: u64 = 4;
    const LEN: u64 = 4 << 20;
    const STEPS: u64 = 4000;
    let plain = PlainHeap::new(LEN);
    let words: Vec<_> = (0..LEN / 8).map(|_| AtomicU64::new(u64::MAX)).collect();
    let private: Vec<Vec<_>> =
        (0..THREADS).map(|_| (0..A::PRIVATE_WORDS).map(|_| AtomicU64::new(0)).collect()).collect();
    let heap_of = |slot: u64| plain.heap(&words, &private[slot as usize], slot);
    A::format(&heap_of(0)).unwrap();

    let stamp = |slot: u64, offset: u64| slot << 56 | offset;
    let free = |heap: &Heap<'_>, offset: u64, len: u64| {
        for word in 0..len / 8 {
            let found = heap.load(offset + BLOCK_HEADER_LEN + word * 8).unwrap();
            assert_eq!(found, stamp(heap.slot(), offset), "somebody else has written to {offset}");
        }
        match A::free(heap, offset) {
            Err(HeapError::Busy) => plain.condemn(heap, offset).unwrap(),
            result => result.unwrap(),
        }
    };
    let work = |slot: u64| {
        let heap = heap_of(slot);
        let mut random = Random(slot);
        let mut mine = BTreeMap::new();
        for step in 0..STEPS {
            if random.below(9) < 5 {
                let len = if random.below(8) == 0 { random.below(3000) } else { random.below(300) };
                let align = if random.below(20) == 0 { 1 << random.below(13) } else { 8 };
                match A::allocate(&heap, &plain.request(len, align, slot)) {
                    Ok(offset) => {
                        assert_eq!((offset + BLOCK_HEADER_LEN) % align.max(GRANULE), 0);
                        for word in 0..len / 8 {
                            heap.store(offset + BLOCK_HEADER_LEN + word * 8, stamp(slot, offset)).unwrap();
                        }
                        assert_eq!(mine.insert(offset, len), None);
                    }
                    Err(HeapError::OutOfMemory) => {}
                    Err(error) => panic!("{error:?}"),
                }
            } else if let Some((offset, len)) = mine.range(random.below(LEN)..).next().map(|(o, l)| (*o, *l))
            {
                mine.remove(&offset);
                free(&heap, offset, len);
            }
            match step % 512 {
                128 => A::check(&heap).unwrap(),
                256 => assert_eq!(A::retain(&heap, &mut |_| true).map(|_| ()), Ok(())),
                384 => assert!(A::usage(&heap).unwrap().used <= LEN),
                _ => {}
            }
        }
        mine
    };
    let mine: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|slot| scope.spawn(move || work(slot))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });

    let heap = heap_of(0);
    A::retain(&heap, &mut |_| true).unwrap();
    A::check(&heap).unwrap();
    let mut expected: BTreeMap<_, _> = (0..)
        .zip(&mine)
        .flat_map(|(slot, mine)| mine.iter().map(move |(offset, len)| (*offset, (slot, *len))))
        .collect();
    A::walk(&heap, &mut |block| {
        if !block.state.is_free() {
            let (slot, len) = expected.remove(&block.offset).expect("somebody has it");
            assert_eq!(block.extent.object_len(), Some(len));
            assert_eq!(Some(block.state), BlockState::owned_by(slot));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(expected.is_empty(), "lost: {expected:?}");

    for (slot, mine) in (0..).zip(mine) {
        let heap = heap_of(slot);
        mine.into_iter().for_each(|(offset, len)| free(&heap, offset, len));
        A::settle(&heap);
    }
    let now = A::retain(&heap, &mut |_| true)
        .and_then(|_| A::begin_alone(&heap))
        .and_then(|()| A::check(&heap))
        .and_then(|()| A::usage(&heap))
        .unwrap();
    A::format(&heap).unwrap();
    let fresh = A::usage(&heap).unwrap();
    assert!(is_empty::<A>(&now, &fresh), "everything is freed: {now:?}, and not {fresh:?}");
}

/// Millions of steps, in heaps that live longer than those above.
fn long<A: RegionAllocator>(name: &str, cases: u32) {
    let wanted = u64::from(cases) * 1000;
    let mut random = Random(0);
    let mut steps = 0;
    while steps < wanted {
        let choice = random.next() as u8;
        let Some(mut world) = World::<A>::new(choice, false) else { continue };
        for _ in 0..random.below(2000) {
            world.step(Action::decode(random.next().to_le_bytes()));
        }
        steps += world.steps();
        world.finish(choice & 0x80 != 0);
    }
    // The first violation would have ended this.
    println!("allocators {name}: steps {steps}, violations 0");
}

/// What the table says of its own pages is damage if it is not that, and no reason to give them to somebody.
#[test]
fn own_pages_of_a_slab_heap_are_never_free() {
    // The word of the first page: free, or a part of a span without a head, which a recovery makes free.
    const FIRST_PAGE: usize = 256 / 8;
    for (word, died) in [(1, false), (2, false), (2, true)] {
        let words: Vec<_> = (0..2048).map(|_| AtomicU64::new(0)).collect();
        let plain = PlainHeap::new(2048 * 8);
        let private: Vec<_> = (0..Slab::PRIVATE_WORDS).map(|_| AtomicU64::new(0)).collect();
        let [dead, heap] = [0, 1].map(|slot| plain.heap(&words, &private, slot));
        Slab::format(&heap).unwrap();
        Slab::check(&heap).unwrap();
        words[FIRST_PAGE].store(word, Ordering::Relaxed);
        if died {
            plain.die_locked(&dead);
        }
        let result = Slab::check(&heap);
        assert_eq!(result, Err(HeapError::Damaged { at: 256 }), "{word}");
    }
}

macro_rules! for_each_allocator {
    ($($name:ident: $A:ty, $cases:literal;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn follows_the_shadow() {
                super::follows_the_shadow::<$A>($cases);
            }

            #[test]
            fn survives_damage() {
                super::survives_damage::<$A>($cases);
            }

            #[test]
            fn is_shared_by_threads() {
                super::is_shared_by_threads::<$A>();
            }

            #[test]
            #[ignore = "minutes"]
            fn long_shadow() {
                long::<$A>(stringify!($name), $cases);
            }
        }
    )*};
}

for_each_allocator! {
    bump: Bump, 4000;
    tlsf: Tlsf, 4000;
    slab: Slab, 4000;
    // Its heaps are full of cells, and each is looked at after each step.
    pool: Pool<64>, 300;
}
