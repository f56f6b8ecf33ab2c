//! The shadow of a heap: what must be in it, kept outside of it
//!
//! A [`World`] is a heap over plain memory with several attachments, of which some die. It takes any sequence of
//! [`Action`]s; after each (in a large heap after every eighth) the whole heap is compared with the shadow:
//! - Each object lies where it was handed out, with its exact length and its owner, aligned, and with its contents.
//! - No two blocks overlap, and a walk finds the objects and no others, in the order of their offsets.
//! - The allocator's own check passes, and what it says about usage is what the shadow adds up.
//! - Memory is refused only if the allocator says that nothing so large is free.
//!
//! An action is made of any eight bytes, so that property tests, fuzzing and seeds have the same ones. Once a
//! [`Scribble`](Action::Scribble) has damaged the heap, nothing is expected of it but that each call returns.

use shmem_bind::allocator::{
    BLOCK_HEADER_LEN, Block, BlockState, GRANULE, Heap, HeapError, MIN_BLOCK_LEN, PlainHeap,
};
use shmem_bind::{Bump, MAX_ATTACHMENTS, RegionAllocator, Slab, Tlsf, Usage};
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::mem::take;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Attachments at a time.
const ATTACHED: usize = 4;
/// Lengths of heaps before they grow.
pub const LENGTHS: [u64; 8] = [128, 336, 1000, 2048, 4096, 8192, 32 << 10, 128 << 10];

/// Words of memory up to which the heap is compared after each step, and not after every eighth.
const EACH_STEP: usize = 2048;

/// What happens in a heap. Attachments, objects and lengths are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Allocate {
        len: u64,
        align: u64,
        by: u8,
    },
    /// An object that is passed on to another attachment, if need be, and freed; while somebody else holds the
    /// lock, if so said.
    Free {
        which: u16,
        by: u8,
        locked: bool,
    },
    /// Frees the objects of the dead, and of the others about as many as so many of 256.
    Retain {
        share: u8,
        by: u8,
        salt: u16,
    },
    Grow {
        len: u32,
        by: u8,
    },
    /// Detaches, and another one attaches as the same number.
    Leave {
        who: u8,
    },
    /// Is killed, holding the lock or not. Its objects stay until the next `Retain`.
    Die {
        who: u8,
        locked: bool,
    },
    /// All leave, and one comes back.
    Alone {
        who: u8,
    },
    /// Changes any word to anything, but only if the heap is one that may be damaged.
    Scribble {
        word: u16,
        value: u64,
        flip: bool,
    },
}

impl Action {
    /// The action that these bytes stand for.
    pub fn decode(bytes: [u8; 8]) -> Self {
        let [kind, by, x0, x1, y @ ..] = bytes;
        let (x, y) = (u16::from_le_bytes([x0, x1]), u32::from_le_bytes(y));
        let align = match by >> 4 {
            log @ 5..=12 => 1 << log,
            log => 1 << (log % 5),
        };
        let allocate = |len| Self::Allocate { len, align, by };
        let locked = by & 0x10 != 0;
        match kind % 32 {
            0..=7 => allocate(u64::from(x % 96)),
            8..=11 => allocate(u64::from(x % 1024)),
            12..=13 => allocate(u64::from(x)),
            14 if x % 2 == 0 => allocate(u64::from(y)),
            14 => allocate(u64::MAX - u64::from(y)),
            15..=22 => Self::Free { which: x, by, locked },
            23 => Self::Retain { share: y as u8, by, salt: x },
            24 => Self::Retain { share: 0, by, salt: x },
            25 => Self::Grow { len: y, by },
            26 => Self::Leave { who: by },
            27 => Self::Die { who: by, locked },
            28 => Self::Alone { who: by },
            _ => {
                let value = match by >> 5 {
                    0 => u64::from(y),
                    1 => u64::from(y) << 32,
                    2 => u64::from(y % 4096) * 8,
                    3 => 1 << (y % 64),
                    4 => 1 << (y % 64) | 1 << (y >> 8 & 63),
                    5 => u64::MAX,
                    6 => u64::from(y) | u64::from(y) << 32,
                    _ => 0,
                };
                Self::Scribble { word: x, value, flip: locked }
            }
        }
    }
}

/// An object as it must be.
#[derive(Clone, Copy, Debug)]
struct Object {
    block_len: u64,
    len: u64,
    owner: u64,
    stamp: u64,
}

/// The memory, and who is attached to it.
#[derive(Debug)]
struct Place {
    plain: PlainHeap,
    words: Vec<AtomicU64>,
    /// Of each slot, its private memory.
    private: Vec<Vec<AtomicU64>>,
    /// The slots of the living.
    slots: [u64; ATTACHED],
}

fn memory(words: usize, fill: u64) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(fill)).collect()
}

impl Place {
    fn heap(&self, slot: u64) -> Heap<'_> {
        self.plain.heap(&self.words, &self.private[slot as usize], slot)
    }

    fn slot(&self, number: u8) -> u64 {
        self.slots[usize::from(number) % ATTACHED]
    }

    /// Gives the slot anew, with private memory as it is at first.
    fn attach<A: RegionAllocator>(&mut self, slot: u64) {
        let slot = slot as usize;
        self.private.resize_with(self.private.len().max(slot + 1), Vec::new);
        self.private[slot] = memory(A::PRIVATE_WORDS, 0);
    }
}

/// A heap and its shadow.
#[derive(Debug)]
pub struct World<A> {
    place: Place,
    objects: BTreeMap<u64, Object>,
    /// Lengths of blocks that may or may not have been freed by now.
    waiting: BTreeMap<u64, u64>,
    dead: BTreeSet<u64>,
    /// Whether a dead one may have the lock still, for whom `free` does not wait either.
    is_orphaned: bool,
    may_be_damaged: bool,
    is_damaged: bool,
    steps: u64,
    allocator: PhantomData<A>,
}

impl<A: RegionAllocator> World<A> {
    /// A heap of one of the [`LENGTHS`], with anything in its memory; `None` if it is too small for the allocator.
    pub fn new(choice: u8, may_be_damaged: bool) -> Option<Self> {
        let len = LENGTHS[usize::from(choice % 8)];
        // What a longer one has beyond is zero.
        let (used, capacity) = (len as usize / 8, len as usize / 4);
        let mut words =
            memory(used, [0, u64::MAX, 0x0000_0100_0000_0003, 0x4142][usize::from(choice >> 3 & 3)]);
        words.resize_with(capacity, AtomicU64::default);
        let plain = PlainHeap::new(len);
        let mut place = Place { plain, words, private: Vec::new(), slots: [0, 1, 2, 3] };
        for slot in place.slots {
            place.attach::<A>(slot);
        }
        match A::format(&place.heap(0)) {
            Ok(()) => {}
            Err(HeapError::TooSmall { len: told, needed }) if told == len && needed > len => return None,
            Err(error) => panic!("format: {error:?}"),
        }
        let world = Self {
            place,
            objects: BTreeMap::new(),
            waiting: BTreeMap::new(),
            dead: BTreeSet::new(),
            is_orphaned: false,
            may_be_damaged,
            is_damaged: false,
            steps: 0,
            allocator: PhantomData,
        };
        world.compare();
        Some(world)
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Does it, and compares.
    pub fn step(&mut self, action: Action) {
        self.steps += 1;
        if let Action::Scribble { word, value, flip } = action {
            if self.may_be_damaged {
                self.is_damaged = true;
                // Half of the damage is where the allocator's own words are.
                let range = if word % 2 == 0 { 64 } else { self.place.words.len() };
                let word = &self.place.words[usize::from(word / 2) % range.min(self.place.words.len())];
                let old = word.load(Ordering::Relaxed);
                word.store(if flip { old ^ value } else { value }, Ordering::Relaxed);
            }
            return;
        }
        if self.is_damaged {
            return self.step_damaged(action);
        }
        match action {
            Action::Allocate { len, align, by } => self.allocate(len, align, by),
            Action::Free { which, by, locked } => self.free(which, by, locked),
            Action::Retain { share, by, salt } => self.retain(share, by, salt),
            Action::Grow { len, by } => {
                let heap = self.place.heap(self.place.slot(by));
                let (old, capacity) = (heap.len(), heap.capacity());
                let len = u64::from(len) % (capacity + 64);
                let result = A::grow(&heap, len);
                if len > capacity {
                    assert!(matches!(result, Err(HeapError::TooSmall { .. })), "grow to {len}: {result:?}");
                } else {
                    assert_eq!(result, Ok(()), "grow to {len}");
                }
                assert_eq!(heap.len(), if len <= capacity { old.max(len) } else { old });
            }
            Action::Leave { who } => {
                let slot = self.place.slot(who);
                A::settle(&self.place.heap(slot));
                self.place.attach::<A>(slot);
            }
            Action::Die { who, locked } => self.die(usize::from(who) % ATTACHED, locked),
            Action::Alone { who } => {
                for slot in self.place.slots {
                    A::settle(&self.place.heap(slot));
                    self.place.attach::<A>(slot);
                }
                A::begin_alone(&self.place.heap(self.place.slot(who))).unwrap();
            }
            Action::Scribble { .. } => {}
        }
        // All of a large heap takes so long to look at that more is found by doing more instead.
        if self.place.words.len() <= EACH_STEP || self.steps % 8 == 0 {
            self.compare();
            self.is_orphaned = false;
        }
    }

    fn allocate(&mut self, len: u64, align: u64, by: u8) {
        let slot = self.place.slot(by);
        let heap = self.place.heap(slot);
        let before = A::usage(&heap).unwrap();
        let request = self.place.plain.request(len, align, slot);
        let offset = match A::allocate(&heap, &request) {
            Ok(offset) => offset,
            Err(HeapError::OutOfMemory) => {
                if self.waiting.is_empty() && align <= GRANULE {
                    let most = before.largest_free;
                    // What is free may be cut for objects of other lengths; and of 0 it cannot be told what fits.
                    let refused = if A::ID == Slab::ID { len == most } else { len <= most };
                    assert!(!refused || most == 0, "{len} bytes refused: {before:?}");
                }
                return;
            }
            Err(error) => panic!("allocate {len} aligned to {align}: {error:?}"),
        };
        if self.waiting.is_empty() {
            assert!(len <= before.largest_free, "{len} bytes found: {before:?}");
        }
        let block = heap.block(offset).unwrap();
        let end = block.end().unwrap();
        assert!(end <= heap.len(), "beyond the end: {block:?}");
        assert_eq!(block.extent.object_len(), Some(len));
        assert_eq!(block.payload() % align.max(GRANULE), 0, "{block:?}");
        assert_eq!(block.state, owned_by(slot));
        assert_eq!(block.tag, 0);
        let neighbour = self.objects.range(..end).next_back();
        if let Some((other, object)) = neighbour {
            assert!(other + object.block_len <= offset, "{block:?} overlaps {object:?} at {other}");
        }
        self.waiting.retain(|other, len| *other >= end || *other + *len <= offset);
        let object = Object { block_len: block.extent.len(), len, owner: slot, stamp: self.steps << 32 };
        for (at, value) in contents(offset, &object) {
            heap.store(at, value).unwrap();
        }
        self.objects.insert(offset, object);
    }

    fn free(&mut self, which: u16, by: u8, locked: bool) {
        let Some((offset, object)) = pick(&self.objects, which) else { return };
        if self.dead.contains(&object.owner) {
            return;
        }
        let slot = self.place.slot(by);
        let heap = self.place.heap(slot);
        verify(&heap, offset, &object, true);
        // It has been leaked and claimed, perhaps.
        heap.commit_state(offset, owned_by(slot)).unwrap();
        self.objects.remove(&offset);
        let holder = self.place.heap(self.place.slot(by.wrapping_add(1)));
        let guard = if locked { holder.try_lock() } else { None };
        match A::free(&heap, offset) {
            Ok(()) => {}
            Err(HeapError::Busy) if locked || self.is_orphaned => {
                assert_eq!(heap.block(offset).unwrap().state, owned_by(slot), "Busy, and changed");
                self.place.plain.condemn(&heap, offset).unwrap();
                self.waiting.insert(offset, object.block_len);
            }
            Err(error) => panic!("free {offset}: {error:?}"),
        }
        drop(guard);
    }

    fn retain(&mut self, share: u8, by: u8, salt: u16) {
        let dead = take(&mut self.dead);
        let is_kept = |offset: u64, owner: u64| {
            let hash = (offset ^ u64::from(salt) << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
            !dead.contains(&owner) && hash >= u64::from(share)
        };
        let heap = self.place.heap(self.place.slot(by));
        for (offset, object) in &self.objects {
            verify(&heap, *offset, object, true);
        }
        let mut asked = BTreeSet::new();
        let freed = A::retain(&heap, &mut |block| {
            assert!(asked.insert(block.offset), "asked twice about {block:?}");
            let object = self.objects.get(&block.offset).expect("no object is there");
            assert_is(block, object);
            is_kept(block.offset, object.owner)
        })
        .unwrap();
        assert!(asked.iter().eq(self.objects.keys()), "not asked about all");
        let mut expected = 0;
        self.objects.retain(|offset, object| {
            let kept = is_kept(*offset, object.owner);
            expected += if kept { 0 } else { object.block_len };
            kept
        });
        let waited: u64 = take(&mut self.waiting).values().sum();
        assert!((expected..=expected + waited).contains(&freed), "{expected} bytes, and not {freed}");
    }

    fn die(&mut self, index: usize, locked: bool) {
        let Some(successor) = self.place.slots.iter().max().map(|slot| slot + 1) else { return };
        if successor >= u64::from(MAX_ATTACHMENTS) {
            return;
        }
        let slot = self.place.slots[index];
        if locked {
            self.place.plain.die_locked(&self.place.heap(slot));
            self.is_orphaned = true;
        }
        self.place.plain.kill(slot);
        self.dead.insert(slot);
        self.place.slots[index] = successor;
        self.place.attach::<A>(successor);
    }

    /// Compares all of the heap with the shadow.
    fn compare(&self) {
        let heap = self.place.heap(self.place.slot(self.steps as u8));
        A::check(&heap).unwrap();

        let (mut end, mut found, mut waiting, mut free) = (0, 0, 0, 0);
        A::walk(&heap, &mut |block| {
            assert!(block.offset >= end, "{block:?} begins before {end}");
            assert!(block.offset % GRANULE == 8 && block.extent.len() >= MIN_BLOCK_LEN, "{block:?}");
            end = block.end().unwrap();
            assert!(end <= heap.len(), "{block:?}");
            if block.state.is_free() {
                assert!(self.objects.range(block.offset..end).next().is_none(), "an object within {block:?}");
                free += block.extent.len();
            } else if let Some(object) = self.objects.get(&block.offset) {
                assert_is(block, object);
                found += 1;
            } else {
                assert_eq!(self.waiting.get(&block.offset), Some(&block.extent.len()), "what is {block:?}");
                waiting += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found, self.objects.len(), "a walk leaves out objects");
        assert!(waiting <= self.waiting.len());
        let mut number = 0;
        A::walk(&heap, &mut |_| {
            number += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert!(number <= 1, "a walk goes on when it is told not to");

        for (offset, object) in &self.objects {
            verify(&heap, *offset, object, false);
        }

        let usage = A::usage(&heap).unwrap();
        let used: u64 = self.objects.values().map(|object| object.block_len).sum();
        let waiting: u64 = self.waiting.values().sum();
        assert!((used..=used + waiting).contains(&usage.used), "used are {used} bytes: {usage:?}");
        let blocks = self.objects.len() as u64;
        assert!((blocks..=blocks + self.waiting.len() as u64).contains(&usage.blocks), "{blocks}: {usage:?}");
        assert!(usage.used + usage.free <= heap.len(), "{usage:?}");
        assert!(usage.free >= free, "a walk finds {free} bytes free: {usage:?}");
        assert!(usage.largest_free <= usage.free && usage.high_water >= usage.used, "{usage:?}");
    }

    /// Frees everything, in one way or another, and sees that the heap is as at first.
    pub fn finish(mut self, by_retain: bool) {
        if self.is_damaged {
            return;
        }
        self.compare();
        if by_retain {
            self.step(Action::Retain { share: 255, by: 0, salt: 0 });
        }
        while !self.objects.is_empty() {
            let before = self.objects.len();
            self.step(Action::Free { which: self.steps as u16, by: self.steps as u8, locked: false });
            if self.objects.len() == before {
                // It was a dead one's.
                self.step(Action::Retain { share: 0, by: 0, salt: 0 });
            }
        }
        self.step(Action::Retain { share: 0, by: 0, salt: 0 });
        self.step(Action::Alone { who: 0 });
        let now = A::usage(&self.place.heap(self.place.slot(0))).unwrap();

        let heap = self.place.heap(0);
        let plain = PlainHeap::new(heap.len());
        let (words, private) = (memory(self.place.words.len(), 0), memory(A::PRIVATE_WORDS, 0));
        let fresh_heap = plain.heap(&words, &private, 0);
        A::format(&fresh_heap).unwrap();
        let fresh = A::usage(&fresh_heap).unwrap();
        assert!(is_empty::<A>(&now, &fresh), "everything is freed: {now:?}, and not {fresh:?}");
    }

    /// Calls with a damaged heap whatever the action is about, and expects that it returns.
    fn step_damaged(&mut self, action: Action) {
        let by = |number: u8| self.place.heap(self.place.slot(number));
        match action {
            Action::Allocate { len, align, by: slot } => {
                let request = self.place.plain.request(len, align, self.place.slot(slot));
                if let Ok(offset) = A::allocate(&by(slot), &request) {
                    let _ = by(slot).block(offset);
                }
            }
            Action::Free { which, by: slot, locked } => {
                let heap = by(slot);
                let offset = match pick(&self.objects, which) {
                    Some((offset, _)) if !locked => offset,
                    _ => u64::from(which) * 8,
                };
                if A::free(&heap, offset) == Err(HeapError::Busy) {
                    let _ = self.place.plain.condemn(&heap, offset);
                }
            }
            Action::Retain { share, by: slot, .. } => {
                let _ = A::retain(&by(slot), &mut |block| block.offset / 16 % 256 >= u64::from(share));
            }
            Action::Grow { len, by: slot } => {
                let _ = A::grow(&by(slot), u64::from(len) % (by(slot).capacity() + 64));
            }
            Action::Leave { who } => A::settle(&by(who)),
            Action::Die { who, locked } => {
                let _ = A::usage(&by(who));
                self.die(usize::from(who) % ATTACHED, locked);
            }
            Action::Alone { who } => {
                let _ = A::begin_alone(&by(who));
            }
            Action::Scribble { .. } => {}
        }
        let heap = self.place.heap(self.place.slot(self.steps as u8));
        let _ = A::check(&heap);
        let _ = A::walk(&heap, &mut |_| ControlFlow::Continue(()));
        let _ = A::usage(&heap);
    }
}

/// Whether a heap from which all was freed is as good as a new one.
pub fn is_empty<A: RegionAllocator>(now: &Usage, fresh: &Usage) -> bool {
    let nothing = now.used == 0 && now.blocks == 0;
    // What a heap grew by may have been too short for a block. Pages that were cut up for small objects may stay so.
    let as_large =
        now.largest_free <= fresh.largest_free && fresh.largest_free - now.largest_free < MIN_BLOCK_LEN;
    let whole = now.free_blocks == fresh.free_blocks && as_large;
    nothing && (whole || A::ID == Slab::ID)
}

fn owned_by(slot: u64) -> BlockState {
    BlockState::owned_by(slot).expect("there is such a slot")
}

fn assert_is(block: &Block, object: &Object) {
    assert_eq!(block.extent.object_len(), Some(object.len), "{block:?} is not {object:?}");
    assert_eq!(block.extent.len(), object.block_len, "{block:?} is not {object:?}");
    assert_eq!(block.state, owned_by(object.owner), "{block:?} is not {object:?}");
    assert_eq!(block.tag, 0, "{block:?} is not {object:?}");
}

/// The words of an object, and what is in them; the last one has bytes that are nobody's, and is left out then.
fn contents(offset: u64, object: &Object) -> impl DoubleEndedIterator<Item = (u64, u64)> + use<> {
    let (words, stamp) = (object.len / 8, object.stamp);
    (0..words).map(move |word| (offset + BLOCK_HEADER_LEN + word * 8, !(stamp | word)))
}

/// Compares an object with its block: all of it, or both ends.
fn verify(heap: &Heap<'_>, offset: u64, object: &Object, all: bool) {
    assert_is(&heap.block(offset).unwrap(), object);
    let most = if all { usize::MAX } else { 4 };
    for (at, value) in contents(offset, object).take(most).chain(contents(offset, object).rev().take(most)) {
        assert_eq!(heap.load(at), Ok(value), "byte {} of {object:?} at {offset} has changed", at - offset);
    }
}

/// One of the objects.
fn pick(objects: &BTreeMap<u64, Object>, which: u16) -> Option<(u64, Object)> {
    let index = usize::from(which).checked_rem(objects.len())?;
    objects.iter().nth(index).map(|(offset, object)| (*offset, *object))
}

/// Runs an input of the fuzz target: which allocator (low bits) and whether the heap may be damaged (bit 7), which
/// heap, and then eight bytes for each action.
pub fn run(input: &[u8]) {
    let [allocator, choice, actions @ ..] = input else { return };
    let may_be_damaged = allocator & 0x80 != 0;
    match allocator % 4 {
        0 => run_with::<Bump>(*choice, may_be_damaged, actions),
        1 => run_with::<Tlsf>(*choice, may_be_damaged, actions),
        _ => run_with::<Slab>(*choice, may_be_damaged, actions),
    }
}

fn run_with<A: RegionAllocator>(choice: u8, may_be_damaged: bool, actions: &[u8]) {
    let Some(mut world) = World::<A>::new(choice, may_be_damaged) else { return };
    for action in actions.chunks_exact(8) {
        world.step(Action::decode(action.try_into().unwrap()));
    }
    world.finish(choice & 0x80 != 0);
}
