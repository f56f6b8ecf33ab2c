//! A kill at every access, threads, late ones, and words that are not as they must be
#![allow(clippy::arithmetic_side_effects)] // An overflow fails the test.

use super::*;
use crate::heap::PlainHeap;
extern crate std;
use core::sync::atomic::AtomicU64;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::vec::Vec;

/// What memory holds before the heap is formatted.
const FILLS: [u64; 4] = [0, !0, (COLOUR | RAW | 3) << 40 | 4, 0x0102_0304_0506_0708];
const LEN: u64 = 16 << 10;

fn memory(len: u64, fill: u64) -> Vec<AtomicU64> {
    (0..len / 8).map(|_| AtomicU64::new(fill)).collect()
}

/// The blocks in use: extent by offset.
fn in_use(heap: &Heap<'_>) -> BTreeMap<u64, Extent> {
    let mut found = BTreeMap::new();
    Bump::walk(heap, &mut |block| {
        if !block.state.is_free() {
            found.insert(block.offset, block.extent);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn owned_by(slot: u64) -> BlockState {
    BlockState::owned_by(slot).unwrap()
}

#[test]
fn every_gap_is_a_block_or_nothing() {
    for align in (4..=12).map(|log| 1 << log) {
        for at in (FIRST..3 * 4096).step_by(GRANULE as usize) {
            let gap = gap(at, align).unwrap();
            assert_eq!((at + gap + BLOCK_HEADER_LEN) % align, 0);
            assert!(gap == 0 || gap >= MIN_BLOCK_LEN && gap < MIN_BLOCK_LEN + align);
        }
    }
    assert_eq!(gap(u64::MAX - 7, 16), None);
}

#[test]
fn the_smallest_heap_holds_one_block() {
    let plain = PlainHeap::new(FIRST + MIN_BLOCK_LEN);
    let words = memory(128, !0);
    let heap = plain.heap(&words, &[], 0);
    Bump::format(&heap).unwrap();
    assert_eq!(Bump::usage(&heap).unwrap().largest_free, 8);
    assert_eq!(Bump::allocate(&heap, &plain.request(9, 1, 0)), Err(HeapError::OutOfMemory));
    assert_eq!(Bump::allocate(&heap, &plain.request(8, 1, 0)), Ok(FIRST));
    assert_eq!(Bump::allocate(&heap, &plain.request(0, 1, 0)), Err(HeapError::OutOfMemory));
    Bump::grow(&heap, 128).unwrap();
    assert_eq!(Bump::allocate(&heap, &plain.request(0, 1, 0)), Ok(FIRST + MIN_BLOCK_LEN));
    Bump::grow(&heap, 64).unwrap();
    assert_eq!(heap.len(), 128);
    assert!(matches!(Bump::grow(&heap, 129), Err(HeapError::TooSmall { .. })));
    Bump::check(&heap).unwrap();

    let plain = PlainHeap::new(FIRST + MIN_BLOCK_LEN - 1);
    let too_small = HeapError::TooSmall { len: 55, needed: 56 };
    assert_eq!(Bump::format(&plain.heap(&words, &[], 0)), Err(too_small));
}

#[test]
fn the_frontier_moves_back_to_the_last_block_in_use() {
    let plain = PlainHeap::new(LEN);
    let words = memory(LEN, !0);
    let heap = plain.heap(&words, &[], 0);
    Bump::format(&heap).unwrap();
    let fresh = Bump::usage(&heap).unwrap();
    let offsets: Vec<u64> =
        (0..5).map(|_| Bump::allocate(&heap, &plain.request(100, 256, 0)).unwrap()).collect();
    let high_water = Bump::usage(&heap).unwrap().high_water;
    for index in [4, 1, 3] {
        Bump::free(&heap, offsets[index]).unwrap();
        assert_eq!(
            Bump::free(&heap, offsets[index]),
            Err(HeapError::Damaged { at: offsets[index] }),
            "freed twice"
        );
    }
    assert_eq!(Bump::usage(&heap).unwrap().high_water, high_water);
    Bump::begin_alone(&heap).unwrap();
    Bump::check(&heap).unwrap();
    assert!(in_use(&heap).into_keys().eq([offsets[0], offsets[2]]));
    assert_eq!(Bump::allocate(&heap, &plain.request(100, 256, 0)), Ok(offsets[3]));
    Bump::retain(&heap, &mut |_| false).unwrap();
    Bump::begin_alone(&heap).unwrap();
    assert_eq!(Bump::usage(&heap).unwrap(), Usage { high_water, ..fresh });
}

/// One process does `work` as slot 1 and is killed at each access in turn. Before, there are blocks of slot 0
/// and of slot 1; afterwards all must be as if it had been done or not been done.
fn killed_everywhere(work: impl Fn(&PlainHeap, &Heap<'_>, &[u64])) {
    for (fill, is_swept_first) in FILLS.into_iter().flat_map(|fill| [(fill, true), (fill, false)]) {
        for steps in 1.. {
            let plain = PlainHeap::new(LEN / 2);
            let words = memory(LEN, fill);
            let (mine, other) = (plain.heap(&words, &[], 1), plain.heap(&words, &[], 0));
            Bump::format(&other).unwrap();
            let kept = Bump::allocate(&other, &plain.request(40, 64, 0)).unwrap();
            let own: Vec<u64> =
                (0..3).map(|_| Bump::allocate(&mine, &plain.request(16, 8, 1)).unwrap()).collect();
            let before = in_use(&other);
            let ended = plain.kill_after(steps, || work(&plain, &mine, &own)).is_some();
            plain.kill(1);

            Bump::check(&other).unwrap();
            let after = in_use(&other);
            assert!(after.iter().all(|(offset, extent)| before.get(offset).is_none_or(|e| e == extent)));
            assert_eq!(other.block(kept).unwrap().state, owned_by(0));
            // The dead one is swept, or somebody goes on and sweeps it later.
            let sweep = || {
                let mut asked = BTreeSet::new();
                Bump::retain(&other, &mut |block| {
                    assert!(asked.insert(block.offset), "asked twice");
                    block.state != owned_by(1)
                })
                .unwrap();
                Bump::check(&other).unwrap();
            };
            if is_swept_first {
                sweep();
            }
            let next = Bump::allocate(&other, &plain.request(100, 512, 0)).unwrap();
            assert!(after.iter().all(|(offset, extent)| offset + extent.len() <= next || next < *offset));
            if !is_swept_first {
                sweep();
            }
            assert!(in_use(&other).into_keys().eq([kept, next]), "at {steps}: {:?}", in_use(&other));
            let usage = Bump::usage(&other).unwrap();
            assert_eq!(usage.used + usage.free, (other.len() - FIRST) & !15, "nothing is void any more");
            // One who is alone gets all of it back.
            Bump::free(&other, kept).unwrap();
            Bump::free(&other, next).unwrap();
            Bump::begin_alone(&other).unwrap();
            Bump::check(&other).unwrap();
            assert_eq!(Frontier::load(&other), Ok(Frontier::at(FIRST)));
            if ended {
                assert!(steps > 3, "nothing was done");
                break;
            }
        }
    }
}

#[test]
fn killed_while_it_allocates() {
    killed_everywhere(|plain, heap, _| {
        Bump::allocate(heap, &plain.request(100, 16, 1)).unwrap();
    });
}

#[test]
fn killed_while_it_allocates_behind_a_gap() {
    killed_everywhere(|plain, heap, _| {
        Bump::allocate(heap, &plain.request(100, 1024, 1)).unwrap();
        Bump::allocate(heap, &plain.request(100, 64, 1)).unwrap();
    });
}

#[test]
fn killed_while_it_frees() {
    killed_everywhere(|_, heap, own| own.iter().for_each(|offset| Bump::free(heap, *offset).unwrap()));
}

#[test]
fn killed_while_it_sweeps() {
    killed_everywhere(|_, heap, _| {
        Bump::retain(heap, &mut |block| block.state != owned_by(1)).unwrap();
    });
}

#[test]
fn killed_while_it_grows() {
    killed_everywhere(|plain, heap, _| {
        Bump::grow(heap, LEN).unwrap();
        Bump::allocate(heap, &plain.request(LEN / 2, 16, 1)).unwrap();
    });
}

#[test]
fn killed_while_it_is_alone() {
    killed_everywhere(|plain, heap, own| {
        Bump::free(heap, own[2]).unwrap();
        // One more that died before, with a block that is void.
        for steps in [4, 9] {
            let _ = plain.kill_after(steps, || Bump::allocate(heap, &plain.request(8, 8, 1)));
        }
        Bump::begin_alone(heap).unwrap();
    });
    // And the same, with the kill in `begin_alone` itself.
    for steps in 1..100 {
        let plain = PlainHeap::new(LEN);
        let words = memory(LEN, !0);
        let heap = plain.heap(&words, &[], 1);
        Bump::format(&heap).unwrap();
        let kept = Bump::allocate(&heap, &plain.request(8, 8, 1)).unwrap();
        let freed = Bump::allocate(&heap, &plain.request(8, 8, 1)).unwrap();
        Bump::free(&heap, freed).unwrap();
        assert_eq!(plain.kill_after(9, || Bump::allocate(&heap, &plain.request(8, 8, 1))), None);
        let ended = plain.kill_after(steps, || Bump::begin_alone(&heap).unwrap()).is_some();
        Bump::check(&heap).unwrap();
        assert!(in_use(&heap).into_keys().eq([kept]));
        Bump::begin_alone(&heap).unwrap();
        assert_eq!(Bump::allocate(&heap, &plain.request(8, 8, 1)), Ok(freed));
        assert!(!ended || steps > 3);
    }
}

#[test]
fn a_void_block_is_asked_about_as_its_claimers() {
    let plain = PlainHeap::new(LEN);
    for fill in FILLS {
        for (align, steps) in [16, 1024].into_iter().flat_map(|align| (1..30).map(move |at| (align, at))) {
            let words = memory(LEN, fill);
            let heap = plain.heap(&words, &[], 7);
            Bump::format(&heap).unwrap();
            if plain
                .kill_after(steps, || Bump::allocate(&heap, &plain.request(8, align, 7)).unwrap())
                .is_some()
            {
                continue;
            }
            assert!(in_use(&heap).is_empty());
            let used = |keep: bool| {
                Bump::retain(&heap, &mut |block| {
                    assert_eq!(block.state, owned_by(7));
                    keep
                })
                .unwrap()
            };
            assert_eq!(used(true), 0);
            let freed = used(false);
            assert_eq!(used(false), 0);
            let usage = Bump::usage(&heap).unwrap();
            assert_eq!((usage.used, usage.free), (0, (LEN - FIRST) & !15));
            assert!(freed == 0 || usage.free_blocks >= 2);
        }
    }
}

/// Whoever acts on a frontier that has moved on changes nothing.
#[test]
fn who_is_late_changes_nothing() {
    for fill in FILLS {
        let plain = PlainHeap::new(LEN);
        let words = memory(LEN, fill);
        let heap = plain.heap(&words, &[], 0);
        Bump::format(&heap).unwrap();
        for align in [16, 2048, 64] {
            let start = Frontier::load(&heap).unwrap();
            let extent = heap.word(start.offset() + EXTENT_OFFSET).unwrap();
            let found = Extent::from_bits(extent.load(Ordering::Relaxed));
            let looked = start.looked(found);
            Bump::allocate(&heap, &plain.request(8, align, 0)).unwrap();
            let frontier = Frontier::load(&heap).unwrap();
            let now = Extent::from_bits(extent.load(Ordering::Relaxed));
            assert_ne!(now.own() & COLOUR, looked.unclaimed_colour().unwrap(), "a late claim would succeed");
            assert!(!start.replace(&heap, start.looked(now)).unwrap());
            looked.advance(&heap, now).unwrap();
            start.advance(&heap, now).unwrap();
            assert_eq!(Frontier::load(&heap), Ok(frontier));
            let from = found.bits();
            assert!(extent.compare_exchange(from, 0, Ordering::AcqRel, Ordering::Relaxed).is_err());
        }
    }
}

#[test]
fn threads_get_blocks_of_their_own() {
    const THREADS: u64 = 4;
    const EACH: u64 = 2000;
    for fill in FILLS {
        let len = THREADS * EACH * 512;
        let plain = PlainHeap::new(len);
        let words = memory(len, fill);
        Bump::format(&plain.heap(&words, &[], 0)).unwrap();
        let offsets: Vec<(u64, u64, u64)> = thread::scope(|scope| {
            let worker = |slot: u64| {
                let (plain, heap) = (&plain, plain.heap(&words, &[], slot));
                let mut mine = Vec::new();
                for number in 0..EACH {
                    let request = plain.request(number * 7 % 90, 16 << (number % 4), slot);
                    let offset = Bump::allocate(&heap, &request).unwrap();
                    assert_eq!(heap.block(offset).unwrap().state, owned_by(slot));
                    assert_eq!((offset + BLOCK_HEADER_LEN) % request.align(), 0);
                    for word in 0..request.len() / 8 {
                        heap.store(offset + BLOCK_HEADER_LEN + word * 8, !number).unwrap();
                    }
                    mine.push((offset, number, slot));
                    if number % 3 == 0 {
                        let (freed, ..) = mine.swap_remove(mine.len() / 2);
                        Bump::free(&heap, freed).unwrap();
                    }
                    if number % 100 == 0 {
                        Bump::check(&heap).unwrap();
                        Bump::retain(&heap, &mut |_| true).unwrap();
                        Bump::usage(&heap).unwrap();
                    }
                }
                mine
            };
            let workers: Vec<_> = (0..THREADS).map(|slot| scope.spawn(move || worker(slot))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        let heap = plain.heap(&words, &[], 0);
        Bump::check(&heap).unwrap();
        assert!(in_use(&heap).into_keys().eq(BTreeSet::from_iter(offsets.iter().map(|found| found.0))));
        for (offset, number, slot) in offsets {
            let block = heap.block(offset).unwrap();
            assert_eq!(block.state, owned_by(slot));
            let len = block.extent.object_len().unwrap();
            assert!((0..len / 8).all(|word| heap.load(block.payload() + word * 8) == Ok(!number)));
        }
    }
}

/// A block at the frontier that is claimed, by its colour, and has no size that it can have.
#[test]
fn a_damaged_claim_is_not_passed() {
    let plain = PlainHeap::new(LEN);
    let words = memory(LEN, 0);
    let heap = plain.heap(&words, &[], 0);
    for len in [0, 16, LEN, Extent::MAX_LEN] {
        let frontier = Frontier::at(FIRST).looked(Extent::from_bits(0));
        heap.store(FRONTIER, frontier.0).unwrap();
        heap.commit_extent(FIRST, Extent::new(len, 0).with_own(COLOUR)).unwrap();
        let damaged = HeapError::Damaged { at: FIRST };
        assert_eq!(Bump::allocate(&heap, &plain.request(8, 8, 0)), Err(damaged));
        assert_eq!(Bump::retain(&heap, &mut |_| true), Err(damaged));
        assert_eq!(Frontier::load(&heap), Ok(frontier));
    }
}

#[test]
fn damaged_words_end_in_errors() {
    const LEN: u64 = 1024;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..20_000 {
        let plain = PlainHeap::new(LEN);
        let words = memory(LEN, 0);
        let heap = plain.heap(&words, &[], 0);
        Bump::format(&heap).unwrap();
        for number in 0..next(8) {
            let _ = Bump::allocate(&heap, &plain.request(next(60), 16 << next(4), number));
        }
        for _ in 0..=next(3) {
            let offset = [FRONTIER, HIGH_WATER, next(LEN / 8) * 8, next(LEN / 8) * 8][next(4) as usize];
            let value = match next(4) {
                0 => next(LEN * 2),
                1 => heap.load(offset).unwrap() ^ 1 << next(64),
                2 => !next(64),
                _ => next(u64::MAX),
            };
            heap.store(offset, value).unwrap();
        }
        let _ = Bump::check(&heap);
        let _ = Bump::allocate(&heap, &plain.request(next(100), 16 << next(9), 0));
        let _ = Bump::free(&heap, next(LEN + 64));
        let _ = Bump::walk(&heap, &mut |_| ControlFlow::Continue(()));
        let _ = Bump::retain(&heap, &mut |block| block.offset % 64 == 8);
        let _ = Bump::usage(&heap);
        let _ = Bump::begin_alone(&heap);
        let _ = Bump::grow(&heap, LEN);
    }
}
