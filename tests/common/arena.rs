//! What the tests share in which several processes use an arena: objects that are counted outside of it, bytes
//! that show whose they are, and a place to meet

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

use shmem_bind::{
    Arena, Builder, BuilderWithSize, Bump, Handle, RegionAllocator, ShmemBox, Slab, Tlsf, UnlinkPolicy,
    Usage, shareable,
};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// An allocator with a name that a child can be told.
pub trait Allocator: RegionAllocator {
    const NAME: &'static str;
    /// Whether a small object is allocated under a lock.
    const HAS_LOCK: bool;
    /// Whether memory that is given back is used again wherever it lies.
    const HOLES_ARE_USED: bool;
}

impl Allocator for Tlsf {
    const NAME: &'static str = "tlsf";
    const HAS_LOCK: bool = true;
    const HOLES_ARE_USED: bool = true;
}

impl Allocator for Slab {
    const NAME: &'static str = "slab";
    const HAS_LOCK: bool = false;
    const HOLES_ARE_USED: bool = true;
}

impl Allocator for Bump {
    const NAME: &'static str = "bump";
    const HAS_LOCK: bool = false;
    const HOLES_ARE_USED: bool = false;
}

/// Waiting for a lock does not fail because the machine is busy, and does not hang for ever either.
pub fn builder(name: &str, size: usize) -> BuilderWithSize {
    Builder::new(name).timeout(Duration::from_secs(50)).unlink_policy(UnlinkPolicy::Never).with_size(size)
}

pub fn open<A: RegionAllocator>(name: &str, size: usize) -> Arena<A> {
    builder(name, size).open().unwrap().arena().unwrap()
}

/// A small generator of pseudo-random numbers (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Another sequence for each process and salt.
    pub fn new(salt: u64) -> Self {
        Self::seeded(u64::from(std::process::id()) << 20 ^ salt)
    }

    /// The same sequence whenever the seed is.
    pub fn seeded(seed: u64) -> Self {
        let mut random = Self(seed << 1 | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    pub fn index(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }
}

/// Most objects that a ledger counts.
const OBJECTS: usize = 1 << 20;
/// In the ledger: not made as yet is zero.
const LIVING: u8 = 1;
const DESTROYED: u8 = 2;

/// What the processes of a test share besides the arena: a segment that stays.
#[repr(C)]
pub struct Control {
    pub stop: AtomicBool,
    pub failed: AtomicBool,
    arrived: AtomicU32,
    meetings: AtomicU32,
    pub operations: AtomicU64,
    /// How often both were at the same thing, as far as that shows.
    pub contested: AtomicU64,
    made: AtomicU64,
    destroyed: AtomicU64,
    twice: AtomicU64,
    /// What one process tells the others.
    pub words: [AtomicU64; 256],
    pub mailboxes: [Mailbox; 16],
    ledger: [AtomicU8; OBJECTS],
}

thread_local! {
    /// Where the objects that this thread destroys are counted.
    static CONTROL: Cell<Option<&'static Control>> = const { Cell::new(None) };
}

impl Control {
    /// Opens the one of this name, for as long as the process lives. Objects that this thread destroys are counted
    /// there.
    pub fn open(name: &str) -> &'static Self {
        let control = unsafe { Builder::new(name).with_size(size_of::<Self>()).open().unwrap().boxed() };
        let control: &'static ShmemBox<Self> = Box::leak(Box::new(control));
        CONTROL.set(Some(control));
        control
    }

    /// Waits for all others.
    pub fn meet(&self, processes: usize) {
        let meeting = self.meetings.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) as usize + 1 == processes {
            self.arrived.store(0, SeqCst);
            self.meetings.store(meeting.wrapping_add(1), SeqCst);
        }
        let mut looks = 0_u32;
        while self.meetings.load(SeqCst) == meeting {
            assert!(!self.failed.load(SeqCst), "another process has failed");
            looks += 1;
            if looks < 200 { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }

    /// How many objects are made and not destroyed.
    pub fn living(&self) -> u64 {
        self.made.load(SeqCst) - self.destroyed.load(SeqCst)
    }

    /// How many objects were destroyed more than once.
    pub fn twice(&self) -> u64 {
        self.twice.load(SeqCst)
    }

    pub fn made(&self) -> u64 {
        self.made.load(SeqCst)
    }

    pub fn is_destroyed(&self, id: u64) -> bool {
        self.ledger[id as usize].load(SeqCst) == DESTROYED
    }

    fn make(&self) -> u64 {
        let id = self.made.fetch_add(1, SeqCst);
        self.ledger[id as usize].store(LIVING, SeqCst);
        id
    }

    fn destroy(&self, id: u64) {
        if self.ledger[id as usize].swap(DESTROYED, SeqCst) != LIVING {
            self.twice.fetch_add(1, SeqCst);
            panic!("object {id} was destroyed twice");
        }
        self.destroyed.fetch_add(1, SeqCst);
    }
}

/// Tells the others when this process fails.
pub struct Alarm(pub &'static Control);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, SeqCst);
        }
    }
}

shareable! {
    /// An object whose destructions are counted in the control segment.
    #[derive(Debug)]
    #[repr(C)]
    pub struct Counted {
        id: u64,
        mark: u64,
        seal: u64,
    }
}

/// A word that shows that an object is whole and lives; never 0.
pub const fn seal(id: u64, mark: u64) -> u64 {
    (id ^ mark.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Counted {
    pub fn new(mark: u64) -> Self {
        let id = CONTROL.get().unwrap().make();
        Self { id, mark, seal: seal(id, mark) }
    }

    /// Number of the object; of all that a test makes, no other has it.
    pub fn id(&self) -> u64 {
        self.check();
        self.id
    }

    pub fn mark(&self) -> u64 {
        self.check();
        self.mark
    }

    fn check(&self) {
        assert_eq!(
            self.seal,
            seal(self.id, self.mark),
            "not a living object: {:#x} {:#x}",
            self.id,
            self.mark
        );
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.check();
        self.seal = 0;
        CONTROL.get().unwrap().destroy(self.id);
    }
}

/// A slice full of bytes that follow from a number, which shows when another object gets into its memory.
pub struct Stamped {
    bytes: ShmemBox<[u8]>,
    number: u64,
}

impl Stamped {
    pub fn stamp(mut bytes: ShmemBox<[u8]>, number: u64) -> Self {
        for (byte, expected) in bytes.iter_mut().zip(Self::pattern(number)) {
            *byte = expected;
        }
        Self { bytes, number }
    }

    /// One that has come by handle.
    pub fn received(bytes: ShmemBox<[u8]>, number: u64) -> Self {
        Self { bytes, number }
    }

    fn pattern(number: u64) -> impl Iterator<Item = u8> {
        (0_u64..).flat_map(move |word| number.wrapping_add(word.wrapping_mul(0x0101_0101_0101)).to_le_bytes())
    }

    pub fn check(&self) {
        assert!(
            self.bytes.iter().copied().eq(Self::pattern(self.number).take(self.bytes.len())),
            "not its own"
        );
    }

    pub fn into_parts(self) -> (ShmemBox<[u8]>, u64) {
        (self.bytes, self.number)
    }
}

/// The length of a random object: mostly below 2000 bytes, and now and then up to 50,000.
pub fn random_len(random: &mut Random) -> usize {
    if random.below(50) == 0 { random.index(50_001) } else { random.index(2000) }
}

/// Passes a handle from one process to another.
#[repr(C)]
pub struct Mailbox {
    /// 0 empty, 1 full, 2 somebody is at it.
    state: AtomicU32,
    words: [AtomicU64; 3],
}

impl Mailbox {
    fn turn(&self, from: u32) -> bool {
        self.state.compare_exchange(from, 2, SeqCst, SeqCst).is_ok()
    }

    /// Puts an object in; gives it back if the mailbox is full.
    pub fn send(&self, object: Stamped) -> Option<Stamped> {
        if !self.turn(0) {
            return Some(object);
        }
        let (bytes, number) = object.into_parts();
        let bits = ShmemBox::leak(bytes).to_bits();
        for (word, value) in self.words.iter().zip([bits as u64, (bits >> 64) as u64, number]) {
            word.store(value, SeqCst);
        }
        self.state.store(1, SeqCst);
        None
    }

    /// Takes an object out, if there is one.
    pub fn receive<A: RegionAllocator>(&self, arena: &Arena<A>) -> Option<Stamped> {
        if !self.turn(1) {
            return None;
        }
        let [low, high, number] = self.words.each_ref().map(|word| word.load(SeqCst));
        self.state.store(0, SeqCst);
        let handle = Handle::from_bits(u128::from(low) | u128::from(high) << 64);
        Some(Stamped::received(arena.claim(handle).unwrap(), number))
    }
}

/// What an arena holds when nobody holds anything: the table of its directory.
#[track_caller]
pub fn prepare<A: RegionAllocator>(arena: &Arena<A>) -> Usage {
    arena.find_or_alloc("first", || 0_u64).unwrap();
    drop(arena.unpublish::<u64>("first").unwrap());
    arena.usage().unwrap()
}

/// The arena holds as much as in the beginning; only the directory's table may have another size.
#[track_caller]
pub fn assert_empty<A: RegionAllocator>(arena: &Arena<A>, start: &Usage) {
    arena.check().unwrap();
    let usage = arena.usage().unwrap();
    assert_eq!((arena.leaked().count(), arena.names().count()), (0, 0));
    assert_eq!(usage.blocks, start.blocks, "{usage:?} after {start:?}");
    assert!(usage.used.abs_diff(start.used) <= 4096, "{usage:?} after {start:?}");
}
