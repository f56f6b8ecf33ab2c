//! A heap of any words, and a holder of its lock that died: what is put right is sound, or it is refused
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | which allocator; bit 6: somebody has died with the lock; bit 7: the heap begins with any words |
//! | 1 | length of the heap |
//! | then 8 each | a [`Step`] |
//!
//! If the survivor says that it has put the heap right, all blocks that are kept stay as they are, nothing that is allocated
//! afterwards overlaps them or each other, and the heap checks clean before and after.

use super::{rest, state};
use arbitrary::{Arbitrary, Unstructured};
use shmem_bind::allocator::{BLOCK_HEADER_LEN, BlockState, Extent, GRANULE, Heap, HeapError, PlainHeap};
use shmem_bind::{Bump, RegionAllocator, Slab, Tlsf};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const LENGTHS: [u64; 8] = [512, 1000, 2048, 4096, 6000, 8192, 16 << 10, 32 << 10];
/// Of one that lives, of three that have died, and of the one that puts it right.
const LIVING: u64 = 0;
const DEAD: [u64; 3] = [1, 2, 3];
const SURVIVOR: u64 = 4;

/// What happened before; in eight bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Step {
    what: u8,
    by: u8,
    index: u16,
    operand: u32,
}

pub fn run(bytes: &[u8]) {
    match bytes.first().map_or(0, |first| first % 3) {
        0 => run_with::<Tlsf>(bytes),
        1 => run_with::<Slab>(bytes),
        _ => run_with::<Bump>(bytes),
    }
}

fn memory(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn run_with<A: RegionAllocator>(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (Ok(first), Ok(len)) = (input.arbitrary::<u8>(), input.arbitrary::<u8>()) else { return };
    let len = LENGTHS[usize::from(len) % LENGTHS.len()];
    let plain = PlainHeap::new(len);
    // It may grow by a quarter.
    let words = memory((len + len / 4) as usize / 8);
    let private: Vec<_> = (0..=SURVIVOR).map(|_| memory(A::PRIVATE_WORDS)).collect();
    let heap = |slot: u64| plain.heap(&words, &private[slot as usize], slot);
    let steps: Vec<Step> = rest(&mut input);
    if first & 0x80 == 0 && A::format(&heap(LIVING)).is_err() {
        return;
    }
    let mut world = World { words: &words, offsets: Vec::new(), condemned: None, len: None };
    for step in steps {
        step.make::<A>(&plain, &heap(u64::from(step.by % 4)), &mut world);
    }
    if world.condemned.is_some() || world.len.is_some() {
        plain.damage(world.len.unwrap_or(len), world.condemned.unwrap_or(0));
    }
    if first & 0x40 != 0 {
        plain.die_locked(&heap(DEAD[0]));
    }
    DEAD.into_iter().for_each(|slot| plain.kill(slot));
    recover::<A>(&heap(SURVIVOR));
}

struct World<'a> {
    words: &'a [AtomicU64],
    /// Blocks that were handed out.
    offsets: Vec<u64>,
    condemned: Option<u64>,
    len: Option<u64>,
}

impl Step {
    fn make<A: RegionAllocator>(self, plain: &PlainHeap, heap: &Heap<'_>, world: &mut World<'_>) {
        let Self { what, by, index, operand } = self;
        let block =
            |which: usize| world.offsets.get(which % world.offsets.len().max(1)).copied().unwrap_or(8);
        let chosen = block(usize::from(index));
        match what % 16 {
            0..=4 => {
                let len = match by >> 4 {
                    0..=9 => u64::from(operand % 100),
                    10..=13 => u64::from(operand % 1000),
                    _ => u64::from(operand % 20_000),
                };
                let align = 1 << if what % 8 == 4 { index % 13 } else { index % 5 };
                if let Ok(offset) = A::allocate(heap, &plain.request(len, align, heap.slot())) {
                    world.offsets.push(offset);
                }
            }
            5 => {
                let _ = heap
                    .block(chosen)
                    .map(|block| heap.replace_state(chosen, block.state, owned_by(heap.slot())));
                let _ = A::free(heap, chosen);
            }
            6 => {
                let _ = heap
                    .block(chosen)
                    .map(|block| heap.replace_state(chosen, block.state, owned_by(heap.slot())));
                let _ = plain.condemn(heap, chosen);
            }
            7 => world.condemned = Some(if by & 0x80 == 0 { chosen } else { operand.into() }),
            8 => {
                world.len = Some(if by & 0x80 == 0 { operand.into() } else { u64::MAX - u64::from(operand) })
            }
            what => {
                // Any word, one of the allocator's own, or one of a block's header.
                let word = match what {
                    9 | 10 => usize::from(index),
                    11 | 12 => usize::from(index) % 96,
                    _ => chosen as usize / 8 + (by >> 2) as usize % 4,
                } % world.words.len();
                let old = world.words[word].load(Relaxed);
                let (value, at) = (u64::from(operand), word as u64 * 8);
                let other = block(operand as usize);
                let new = match by % 20 {
                    0 => 0,
                    1 => u64::MAX,
                    2 => value,
                    3 => old.wrapping_add(i64::from(operand as i32) as u64),
                    4 => old ^ 1 << (value % 64),
                    5 => at,
                    6 => at / 16 | value << 32,
                    7 => other,
                    8 => other / 16 | (chosen / 16) << 32,
                    9 => state(value),
                    10 => Extent::new(value >> 8 << 4, value).bits(),
                    11 => Extent::new(value & 0xfff0, value >> 16).with_own(value >> 24).bits(),
                    12 => owned_by(value % 56).bits(),
                    13 => value << 32 | value,
                    14 => 1 << (value % 64) | 1 << (value >> 8 & 63),
                    // Popped, and leading to itself or to another block.
                    15 => 5 | 63 << 8,
                    16 => chosen,
                    17 => world.words[operand as usize % world.words.len()].load(Relaxed),
                    18 => old.rotate_left(operand % 64),
                    _ => 1 << 63 | value,
                };
                world.words[word].store(new, Relaxed);
            }
        }
    }
}

fn owned_by(slot: u64) -> BlockState {
    BlockState::owned_by(slot).unwrap()
}

/// What one does that finds the dead.
fn recover<A: RegionAllocator>(heap: &Heap<'_>) {
    let keep = |state: BlockState| !DEAD.into_iter().any(|slot| state == owned_by(slot));
    let retained = A::retain(heap, &mut |block| keep(block.state) && !block.state.is_popped());
    // Also those that are refused give an answer.
    let checked = A::check(heap);
    if retained.is_err() || checked.is_err() {
        let plain = PlainHeap::new(heap.len());
        let _ = A::walk(heap, &mut |_| ControlFlow::Continue(()));
        let _ = A::usage(heap);
        for len in [0, 40, 900] {
            if let Ok(offset) = A::allocate(heap, &plain.request(len, 16, SURVIVOR)) {
                let _ = A::free(heap, offset);
            }
        }
        let _ = A::grow(heap, heap.capacity());
        let _ = A::check(heap);
        let _ = A::begin_alone(heap);
        A::settle(heap);
        return;
    }
    let kept = blocks::<A>(heap, |state| assert!(keep(state), "it was the dead's: {state:?}"));
    let contents: Vec<Vec<u64>> = kept.iter().map(|block| words(heap, *block).collect()).collect();
    let made = fill::<A>(heap, &kept);
    for (block, contents) in kept.iter().zip(contents) {
        assert!(words(heap, *block).eq(contents), "a block that was kept has changed: {block:x?}");
    }
    for block in &made {
        let is_whole = objects(heap, *block).all(|at| heap.load(at) == Ok(stamp(*block, at)));
        assert!(is_whole, "an object has changed: {block:x?}");
        A::free(heap, block.0).unwrap();
    }
    A::check(heap).unwrap();
    A::settle(heap);
}

/// Where the blocks in use begin and end, which do not overlap.
fn blocks<A: RegionAllocator>(heap: &Heap<'_>, look: impl Fn(BlockState)) -> Vec<(u64, u64)> {
    let (mut found, mut last) = (Vec::new(), 0);
    A::walk(heap, &mut |block| {
        let end = block.end().unwrap();
        assert!(last <= block.offset && end <= heap.capacity(), "{block:?} after {last}");
        last = end;
        if !block.state.is_free() {
            look(block.state);
            found.push((block.offset, end));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

/// Allocates until there is no more, or enough.
fn fill<A: RegionAllocator>(heap: &Heap<'_>, kept: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let plain = PlainHeap::new(heap.len());
    let mut made: Vec<(u64, u64)> = Vec::new();
    for (number, len) in [0, 8, 24, 40, 100, 200, 500, 1000, 3000].into_iter().cycle().take(45).enumerate() {
        let align = if number % 7 == 6 { 64 } else { GRANULE };
        let offset = match A::allocate(heap, &plain.request(len, align, SURVIVOR)) {
            Ok(offset) => offset,
            Err(HeapError::OutOfMemory) => continue,
            Err(error) => panic!("a heap that was put right: {error:?}"),
        };
        let block = heap.block(offset).unwrap();
        let new = (offset, block.end().unwrap());
        assert!(new.1 <= heap.len() && block.payload() % align == 0, "{block:?}");
        assert_eq!(block.extent.object_len(), Some(len));
        let other = kept.iter().chain(&made).find(|other| new.0 < other.1 && other.0 < new.1);
        assert_eq!(other, None, "{block:?} overlaps");
        objects(heap, new).for_each(|at| heap.store(at, stamp(new, at)).unwrap());
        made.push(new);
    }
    made
}

/// What is in the word at an offset, in the object of a block.
fn stamp(block: (u64, u64), at: u64) -> u64 {
    !(block.0 << 32 | at)
}

/// The words of an object.
fn objects(heap: &Heap<'_>, (offset, end): (u64, u64)) -> impl Iterator<Item = u64> + use<> {
    let slack = heap.block(offset).map_or(0, |block| block.extent.slack());
    let end = end.saturating_sub(slack).max(offset + BLOCK_HEADER_LEN);
    (offset + BLOCK_HEADER_LEN..end).step_by(8).filter(move |at| at + 8 <= end)
}

/// What is in a block that nobody may change: state, tag and object.
fn words(heap: &Heap<'_>, block: (u64, u64)) -> impl Iterator<Item = u64> {
    [block.0, block.0 + 8].into_iter().chain(objects(heap, block)).map(|at| heap.load(at).unwrap())
}
