//! What a segment is, and what a process holds of it

use crate::common::arena::{self, Allocator, assert_empty, prepare};
use shmem_bind::{
    AllocError, Arena, Builder, DirectoryError, Reclaimed, ShmemArc, ShmemBox, ShmemConf, Usage,
};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const SIZE: usize = 1 << 20;
/// How long it is asked for a lock that somebody alive has.
const SHORT: Duration = Duration::from_millis(1);

/// Where a victim is in the middle of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pose {
    /// It has the allocator's lock.
    Allocating,
    /// It has the directory's lock.
    Publishing,
}

/// What has been taken from the dead, as the segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub swept: u64,
    reclaimed: Reclaimed,
}

/// A process's part in a segment, of one kind or the other.
pub trait Kind: Sized {
    const NAME: &'static str;
    /// The operations in the middle of which a victim can be.
    const POSES: &'static [Pose];
    /// What a victim holds beside its attachment.
    type Property;

    /// Makes the segment, for one that asks.
    fn create(name: &str) -> Self;
    /// Comes to the segment, and asks by that.
    fn open(name: &str) -> Self;
    /// Comes to the segment, and may know nothing of its kind.
    fn visit(name: &str) -> ShmemConf;
    /// Attaches, and holds all that a process can hold.
    fn hold(name: &str, number: u64) -> (Self, Self::Property);
    fn conf(&self) -> &ShmemConf;
    /// How many attachments it is itself.
    fn attachments(&self) -> u32;
    /// Asks who has died.
    fn ask(&self);
    fn state(&self) -> State;
    /// Uses what is held.
    fn work(&self, property: &Self::Property);
    /// Checks what was given back of so many dead since the last time. One that was in the middle of an operation had
    /// a little more.
    fn settle(&self, dead: u64, was_posing: bool) -> Result<(), String>;
    /// Detaches, and knows nothing of the segment any more but what it has been.
    fn leave(&mut self);
    /// Comes back.
    fn come_back(&mut self, name: &str);
    /// Checks that nothing is left of so many victims.
    fn end(&self, victims: u64);

    /// The operation of a pose.
    fn operate(&self, pose: Pose, number: u64);
    /// Whether somebody alive has the lock, which is asked for.
    fn is_busy(&self, pose: Pose) -> bool;
    /// Asks for the lock, which is nobody's who is alive.
    fn take_lock(&self, pose: Pose);
}

/// A segment of one value.
pub struct Bare(Option<ShmemBox<AtomicU64>>);

impl Kind for Bare {
    const NAME: &'static str = "bare";
    const POSES: &'static [Pose] = &[];
    type Property = ();

    fn create(name: &str) -> Self {
        Self::open(name)
    }

    fn open(name: &str) -> Self {
        Self(Some(unsafe { Self::visit(name).boxed() }))
    }

    fn visit(name: &str) -> ShmemConf {
        arena::builder(name, size_of::<u64>()).open().unwrap()
    }

    fn hold(name: &str, _: u64) -> (Self, ()) {
        (Self::open(name), ())
    }

    fn conf(&self) -> &ShmemConf {
        ShmemBox::conf(self.0.as_ref().unwrap())
    }

    fn attachments(&self) -> u32 {
        1
    }

    fn ask(&self) {
        self.conf().sweep();
    }

    fn state(&self) -> State {
        State { swept: self.conf().statistics().swept, reclaimed: Reclaimed::default() }
    }

    fn work(&self, (): &()) {
        self.0.as_ref().unwrap().fetch_add(1, SeqCst);
        assert_ne!(self.conf().attachment_count(), 0);
    }

    fn settle(&self, _: u64, _: bool) -> Result<(), String> {
        Ok(())
    }

    fn leave(&mut self) {
        self.0 = None;
    }

    fn come_back(&mut self, name: &str) {
        *self = Self::open(name);
    }

    fn end(&self, _: u64) {}

    fn operate(&self, pose: Pose, _: u64) {
        unreachable!("{pose:?}");
    }

    fn is_busy(&self, pose: Pose) -> bool {
        unreachable!("{pose:?}");
    }

    fn take_lock(&self, pose: Pose) {
        unreachable!("{pose:?}");
    }
}

/// What a victim holds in an arena.
pub struct Estate {
    boxes: Vec<ShmemBox<u64>>,
    bytes: Vec<ShmemBox<[u8]>>,
    shared: Vec<ShmemArc<AtomicU64>>,
    /// These stay where they are, and with them one handle.
    named: Vec<ShmemArc<AtomicU64>>,
    of_the_asker: ShmemArc<AtomicU64>,
}

const BOXES: u64 = 5;
const SLICES: u64 = 3;
const SHARED: u64 = 2;
const NAMED: u64 = 2;
/// How much more one has that is in the middle of an operation.
const UNDER_WAY: u64 = 3;
const OF_THE_ASKER: &str = "of the asker";

/// An arena.
pub struct Objects<A> {
    arena: Option<Arena<A>>,
    /// One that does not wait; only the asker has it.
    hasty: Option<Arena<A>>,
    start: Option<Usage>,
    /// All that has been given back, as far as it is settled.
    settled: Cell<Reclaimed>,
    /// How many handles were found that the dead had made.
    claimed: Cell<u64>,
}

impl<A: Allocator> Objects<A> {
    fn arena(&self) -> &Arena<A> {
        self.arena.as_ref().unwrap()
    }

    fn of(arena: Arena<A>) -> Self {
        let settled = Cell::new(arena.reclaimed());
        Self { arena: Some(arena), hasty: None, start: None, settled, claimed: Cell::new(0) }
    }

    fn open_hasty(name: &str) -> Option<Arena<A>> {
        Some(Builder::new(name).timeout(SHORT).attach().unwrap().arena().unwrap())
    }

    /// Takes what the dead have given away: names that nobody alive holds, and all handles.
    fn clear(&self) {
        let arena = self.arena();
        let is_left = |name: &str, holders| holders == 0 && name != OF_THE_ASKER;
        let names: Vec<_> = arena.names().map(Result::unwrap).collect();
        for entry in names.iter().filter(|entry| is_left(entry.name(), entry.holders())) {
            drop(ShmemArc::into_box(arena.unpublish::<AtomicU64>(entry.name()).unwrap()).unwrap());
        }
        for object in arena.leaked().collect::<Vec<_>>() {
            drop(arena.claim(object.handle::<u64>().unwrap()).unwrap());
            self.claimed.set(self.claimed.get() + 1);
        }
    }
}

impl<A: Allocator> Kind for Objects<A> {
    const NAME: &'static str = A::NAME;
    const POSES: &'static [Pose] =
        if A::HAS_LOCK { &[Pose::Allocating, Pose::Publishing] } else { &[Pose::Publishing] };
    type Property = Estate;

    fn create(name: &str) -> Self {
        let arena = arena::open::<A>(name, SIZE);
        let start = prepare(&arena);
        let own = ShmemBox::into_arc(arena.alloc(AtomicU64::new(0)).unwrap());
        arena.publish(OF_THE_ASKER, &own).unwrap();
        Self { hasty: Self::open_hasty(name), start: Some(start), ..Self::of(arena) }
    }

    fn open(name: &str) -> Self {
        Self::of(arena::open(name, SIZE))
    }

    fn visit(name: &str) -> ShmemConf {
        arena::builder(name, SIZE).open().unwrap()
    }

    fn hold(name: &str, number: u64) -> (Self, Estate) {
        let this = Self::open(name);
        let arena = this.arena();
        let shared = || ShmemBox::into_arc(arena.alloc(AtomicU64::new(number)).unwrap());
        let named = |index: u64| {
            let object = shared();
            arena.publish(&format!("{number} {index}"), &object).unwrap();
            object
        };
        let estate = Estate {
            boxes: (0..BOXES).map(|_| arena.alloc(number).unwrap()).collect(),
            bytes: (0..SLICES).map(|index| arena.alloc_slice(100 << index, 1).unwrap()).collect(),
            shared: (0..SHARED).map(|_| shared()).collect(),
            named: (0..NAMED).map(named).collect(),
            of_the_asker: arena.find(OF_THE_ASKER).unwrap(),
        };
        ShmemBox::leak(arena.alloc(number).unwrap());
        (this, estate)
    }

    fn conf(&self) -> &ShmemConf {
        self.arena().conf()
    }

    fn attachments(&self) -> u32 {
        1 + u32::from(self.hasty.is_some())
    }

    fn ask(&self) {
        self.arena().sweep().unwrap();
    }

    fn state(&self) -> State {
        State { swept: self.conf().statistics().swept, reclaimed: self.arena().reclaimed() }
    }

    fn work(&self, estate: &Estate) {
        let number = *estate.boxes[0];
        assert!(estate.boxes.iter().all(|object| **object == number));
        assert!(estate.bytes.iter().flat_map(|bytes| bytes.iter()).all(|byte| *byte == 1));
        assert!(estate.shared.iter().chain(&estate.named).all(|object| object.load(SeqCst) == number));
        estate.of_the_asker.fetch_add(1, SeqCst);
        let arena = self.arena();
        drop(arena.alloc_slice(1000, 2_u8).unwrap());
        assert_eq!(arena.find::<AtomicU64>(&format!("{number} 1")).unwrap().load(SeqCst), number);
    }

    fn settle(&self, dead: u64, was_posing: bool) -> Result<(), String> {
        let arena = self.arena();
        let (now, before) = (arena.reclaimed(), self.settled.replace(arena.reclaimed()));
        let (objects, references) = (now.objects - before.objects, now.references - before.references);
        let more = if was_posing { UNDER_WAY } else { 0 };
        let expected = dead * (BOXES + SLICES + SHARED);
        if !(expected..=expected + more).contains(&objects) {
            return Err(format!("{objects} objects given back of {expected}"));
        }
        let expected = dead * (NAMED + 1);
        if !(expected..=expected + more).contains(&references) {
            return Err(format!("{references} references given back of {expected}"));
        }
        arena.check().map_err(|error| error.to_string())?;
        self.clear();
        Ok(())
    }

    fn leave(&mut self) {
        (self.arena, self.hasty) = (None, None);
    }

    fn come_back(&mut self, name: &str) {
        self.arena = Self::open(name).arena;
    }

    fn end(&self, victims: u64) {
        self.clear();
        assert_eq!(self.claimed.get(), victims, "each has left one handle");
        let own = self.arena().unpublish::<AtomicU64>(OF_THE_ASKER).unwrap();
        drop(ShmemArc::into_box(own).unwrap());
        assert_empty(self.arena(), self.start.as_ref().unwrap());
    }

    fn operate(&self, pose: Pose, number: u64) {
        match pose {
            Pose::Allocating => drop(self.arena().alloc_slice(200, 3_u8).unwrap()),
            Pose::Publishing => {
                let object = ShmemBox::into_arc(self.arena().alloc(AtomicU64::new(number)).unwrap());
                self.arena().publish(&format!("{number} pose"), &object).unwrap();
            }
        }
    }

    fn is_busy(&self, pose: Pose) -> bool {
        let hasty = self.hasty.as_ref().unwrap();
        match pose {
            Pose::Allocating => match hasty.alloc(0_u64) {
                Ok(_) => false,
                Err(rejected) => {
                    assert_eq!(rejected.error, AllocError::Busy);
                    true
                }
            },
            Pose::Publishing => match hasty.find::<AtomicU64>("nothing") {
                Err(DirectoryError::NotFound) => false,
                Err(DirectoryError::Busy) => true,
                other => panic!("{other:?}"),
            },
        }
    }

    fn take_lock(&self, pose: Pose) {
        match pose {
            Pose::Allocating => drop(self.arena().alloc(0_u64).unwrap()),
            Pose::Publishing => {
                assert_eq!(self.arena().find::<AtomicU64>("nothing").unwrap_err(), DirectoryError::NotFound);
            }
        }
    }
}
