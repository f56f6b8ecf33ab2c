//! A heap over plain memory, the attachments to it, and what they hold

use super::super::Slab;
use super::RegionAllocator;
use crate::allocator::slab::class::Class;
use crate::allocator::slab::magazine::PRIVATE_WORDS;
use crate::allocator::slab::page::{Page, Pages};
use crate::error::HeapError;
use crate::heap::{Heap, PlainHeap};
use crate::membership::Slot;
use crate::object::BlockState;
use core::ops::ControlFlow;
use core::sync::atomic::AtomicU64;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Random numbers: xorshift.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

pub(super) fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// An object: its length, its alignment, and what its words say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) slot: u64,
    pub(super) len: u64,
    pub(super) stamp: u64,
}

pub(super) struct World {
    pub(super) words: Vec<AtomicU64>,
    pub(super) plain: PlainHeap,
    /// The private memory of each slot.
    pub(super) private: Vec<Vec<AtomicU64>>,
    /// What is in use, by the offset of its block.
    pub(super) objects: BTreeMap<u64, Object>,
    stamps: u64,
}

impl World {
    /// Of `len` bytes with garbage in them, which may grow to `capacity`, where there are zeros; with `slots` slots.
    pub(super) fn new(len: u64, capacity: u64, slots: usize) -> Self {
        let garbage = (0..capacity / 8).map(|at| if at < len / 8 { at << 40 | 1 } else { 0 });
        let world = Self {
            words: garbage.map(AtomicU64::new).collect(),
            plain: PlainHeap::new(len),
            private: (0..slots).map(|_| words(PRIVATE_WORDS)).collect(),
            objects: BTreeMap::new(),
            stamps: 0,
        };
        Slab::format(&world.heap(0)).unwrap();
        world
    }

    pub(super) fn heap(&self, slot: u64) -> Heap<'_> {
        let private = self.private.get(slot as usize).map_or(&[][..], Vec::as_slice);
        self.plain.heap(&self.words, private, slot)
    }

    /// Writes into every whole word of an object.
    pub(super) fn stamp(heap: &Heap<'_>, offset: u64, object: &Object) {
        for word in 0..object.len / 8 {
            heap.store(offset + 24 + word * 8, object.stamp ^ word).unwrap();
        }
    }

    /// Allocates, checks all that is promised of the block, and writes the object.
    pub(super) fn allocate(&mut self, slot: u64, len: u64, align: u64) -> Result<u64, HeapError> {
        let heap = self.heap(slot);
        let offset = Slab::allocate(&heap, &self.plain.request(len, align, slot))?;
        let stamp = (self.stamps + 1) << 20;
        let object = Object { slot, len, stamp };
        let block = heap.block(offset).unwrap();
        assert_eq!(block.extent.object_len(), Some(len));
        assert_eq!(block.payload() % align.max(16), 0, "{len} aligned to {align} at {offset}");
        assert_eq!(block.state, exclusive(slot));
        let end = block.end().unwrap();
        assert!(end <= heap.len());
        if let Some((before, _)) = self.objects.range(..end).next_back() {
            assert!(heap.block(*before).unwrap().end().unwrap() <= offset, "{before} and {offset} overlap");
        }
        Self::stamp(&heap, offset, &object);
        self.stamps += 1;
        self.objects.insert(offset, object);
        Ok(offset)
    }

    /// Allocates until nothing is left; gives how many objects that were.
    pub(super) fn fill(&mut self, slot: u64, len: u64) -> u64 {
        for count in 0.. {
            match self.allocate(slot, len, 1) {
                Ok(_) => {}
                Err(HeapError::OutOfMemory) => return count,
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!()
    }

    /// Checks that all objects are as they were written, and no other block is in use.
    pub(super) fn verify(&self, slot: u64) {
        let heap = self.heap(slot);
        Slab::check(&heap).unwrap();
        let mut in_use = Vec::new();
        let mut last = 0;
        Slab::walk(&heap, &mut |block| {
            assert!(block.offset >= last, "{} is within another block", block.offset);
            last = block.end().unwrap();
            if !block.state.is_free() {
                in_use.push(block.offset);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(in_use, self.objects.keys().copied().collect::<Vec<_>>());
        let mut used = 0;
        for (offset, object) in &self.objects {
            let block = heap.block(*offset).unwrap();
            assert_eq!((block.state, block.extent.object_len()), (exclusive(object.slot), Some(object.len)));
            for word in 0..object.len / 8 {
                assert_eq!(heap.load(offset + 24 + word * 8).unwrap(), object.stamp ^ word, "in {offset}");
            }
            used += block.extent.len();
        }
        let usage = Slab::usage(&heap).unwrap();
        assert_eq!((usage.used, usage.blocks), (used, self.objects.len() as u64));
        assert!(usage.used + usage.free <= heap.len() && usage.high_water >= usage.used);
    }

    /// Frees an object; one whose run cannot be freed at once is condemned, as a box does.
    pub(super) fn free(&mut self, slot: u64, offset: u64) {
        let heap = self.heap(slot);
        match Slab::free(&heap, offset) {
            Ok(()) => assert!(Slab::free(&heap, offset).is_err(), "freed twice"),
            Err(HeapError::Busy) => self.plain.condemn(&heap, offset).unwrap(),
            Err(error) => panic!("{error}"),
        }
        self.objects.remove(&offset);
    }

    /// Frees all that this slot holds, except what `keep` says.
    pub(super) fn free_all(&mut self, slot: u64, keep: impl Fn(u64) -> bool) {
        let held: Vec<_> = self.objects.iter().filter(|(_, object)| object.slot == slot).collect();
        let held: Vec<_> = held.into_iter().map(|(offset, _)| *offset).filter(|at| !keep(*at)).collect();
        for offset in held {
            self.free(slot, offset);
        }
    }

    /// Slot number `dead` has died and `slot` sweeps it.
    pub(super) fn sweep(&mut self, slot: u64, dead: &[u64]) {
        for slot in dead {
            self.plain.kill(*slot);
            self.objects.retain(|_, object| object.slot != *slot);
        }
        let is_dead = |state: BlockState| {
            dead.iter().any(|slot| state == exclusive(*slot) || state == condemned(*slot))
        };
        Slab::retain(&self.heap(slot), &mut |block| !is_dead(block.state)).unwrap();
    }

    /// Fills the heap, and makes sure that not one cell of the class and no page was overlooked.
    pub(super) fn fill_whole(&mut self, slot: u64, len: u64) {
        let before: Vec<_> = self.objects.keys().copied().collect();
        self.fill(slot, len);
        let heap = self.heap(slot);
        let cell_len = Class::fit(&self.plain.request(len, 1, slot)).map_or(0, |(class, _)| class.len());
        Slab::walk(&heap, &mut |block| {
            assert!(!block.state.is_free() || block.extent.len() != cell_len, "{block:?} was overlooked");
            ControlFlow::Continue(())
        })
        .unwrap();
        if len + 40 <= Pages::new(&heap).layout.page_len() {
            for span in Pages::new(&heap).spans() {
                let span = span.unwrap();
                assert_ne!(span.page, Page::Free, "page {} was overlooked", span.first);
            }
        }
        self.free_all(slot, |offset| before.contains(&offset));
    }

    /// All but the last attachment leave; that one frees everything, and finds a heap like a new one.
    pub(super) fn empty(&mut self, last: u64) {
        for slot in 0..last {
            Slab::settle(&self.heap(slot));
        }
        self.private[last as usize] = words(PRIVATE_WORDS);
        self.objects.clear();
        let heap = self.heap(last);
        Slab::retain(&heap, &mut |_| false).unwrap();
        Slab::begin_alone(&heap).unwrap();
        self.verify(last);
        let usage = Slab::usage(&self.heap(last)).unwrap();
        assert_eq!((usage.used, usage.free_blocks), (0, 1), "one gap is left, and nothing else");
    }
}

pub(super) fn exclusive(slot: u64) -> BlockState {
    BlockState::exclusive(Slot::new(slot).unwrap())
}

/// Condemned by this slot.
fn condemned(slot: u64) -> BlockState {
    BlockState::from_bits(5 | slot << 8)
}
