//! A process that does whatever can be done, until it is killed
//!
//! What it does follows from its seed and from what the others do meanwhile.

use super::board::{Deed, HOMES, LEAVE, MOST_SHARED, PARK, RUN, Shared};
use super::guarded::{self, Guarded};
use super::objects::{Held, Kind, Thing, check_name, handle_of, name, pinned_name};
use super::plan::Plan;
use crate::common::arena::Random;
use shmem_bind::{
    AllocError, Arena, ArenaError, DirectoryError, LockFailure, OwnError, RegionAllocator, ShmemArc,
    ShmemBox, ShmemConf, ShmemError, UnlinkPolicy,
};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// Names that come and go.
const NAMES: u64 = 8;
/// Names for ever.
const PINNED: u64 = 3;
/// Most objects that a worker has for itself by one attachment.
const MOST_HELD: usize = 100;

/// One attachment, and what the worker has by it.
struct Home<A> {
    arena: Arena<A>,
    held: Vec<Held>,
    shared: Vec<ShmemArc<Thing>>,
}

struct Worker<'b, A> {
    board: &'b Shared,
    plan: Plan,
    random: Random,
    homes: [Option<Home<A>>; HOMES],
}

/// Works until it is killed or told to leave.
pub fn work<A: RegionAllocator>(board: &Shared, seat: usize, plan: Plan) {
    board.sit_down(seat);
    let random = Random::seeded(board.seats[seat].seed.load(SeqCst));
    let mut worker = Worker::<A> { board, plan, random, homes: [None, None] };
    loop {
        match board.phase.load(SeqCst) {
            RUN => worker.step(),
            PARK => worker.park(),
            LEAVE => break,
            phase => panic!("phase {phase}"),
        }
    }
    for index in 0..HOMES {
        worker.leave(index);
    }
}

impl<A: RegionAllocator> Worker<'_, A> {
    fn at(&self, operation: u32) {
        self.board.own_seat().operation.store(operation, SeqCst);
    }

    fn step(&mut self) {
        let index = usize::from(self.random.below(8) == 0);
        let operation = self.random.below(100) as u32;
        self.at(operation);
        match self.homes[index].take() {
            None => self.homes[index] = self.come(),
            Some(home) if operation == 0 => {
                self.homes[index] = Some(home);
                self.leave(index);
            }
            Some(mut home) => {
                self.act(&mut home, operation);
                self.trim(&mut home);
                self.homes[index] = Some(home);
            }
        }
        self.board.count(Deed::Operation);
        self.board.advance();
    }

    /// Says what this worker holds, and keeps it.
    fn park(&mut self) {
        let seat = self.board.own_seat();
        for (home, tally) in self.homes.iter().zip(&seat.tallies) {
            tally.segment.store(home.as_ref().map_or(0, |home| number(home.arena.conf())), SeqCst);
            let Some(home) = home else { continue };
            home.held.iter().for_each(Held::check);
            let mut ids: Vec<u64> = home.shared.iter().map(|object| object.id()).collect();
            ids.sort_unstable();
            ids.dedup();
            tally.exclusive.store(home.held.len() as u64, SeqCst);
            tally.len.store(ids.len() as u64, SeqCst);
            tally.shared.iter().zip(ids).for_each(|(place, id)| place.store(id, SeqCst));
        }
        seat.is_parked.store(1, SeqCst);
        while self.board.phase.load(SeqCst) == PARK {
            thread::sleep(Duration::from_micros(200));
        }
        seat.is_parked.store(0, SeqCst);
    }

    /// Attaches, in one of the ways that there are.
    fn come(&mut self) -> Option<Home<A>> {
        let plan = &self.plan;
        let opened = match self.random.below(10) {
            0 => plan.builder().create(),
            1 | 2 => plan.attaching().attach(),
            _ => plan.builder().open(),
        };
        let conf = match opened {
            Ok(conf) => conf,
            Err(error) => {
                plan.allow_open(error);
                if error == ShmemError::Orphaned && self.random.below(4) == 0 {
                    self.unlink();
                }
                return None;
            }
        };
        if self.random.below(8) == 0 {
            conf.sweep();
        }
        if self.random.below(20) == 0 {
            // Only to have been here.
            if self.random.below(2) == 0 {
                conf.leak()
            } else {
                drop(conf)
            }
            return None;
        }
        let arena = plan.allow_arena(conf.arena::<A>())?;
        self.board.count(Deed::Came);
        Some(Home { arena, held: Vec::new(), shared: Vec::new() })
    }

    /// What an administrator may do at any time.
    fn unlink(&self) {
        match shmem_bind::unlink(&self.plan.name) {
            // An empty file is the work of one that was killed in its first step.
            Ok(()) | Err(ShmemError::Header(_)) => {}
            Err(error) => self.plan.allow_open(error),
        }
    }

    /// Gives back all of one attachment, in any order.
    fn leave(&mut self, index: usize) {
        let Some(Home { arena, mut held, mut shared }) = self.homes[index].take() else { return };
        held.iter().for_each(Held::check);
        match self.random.below(4) {
            0 => arena.leak(),
            1 => drop(arena),
            _ => {
                // The last to go is the arena itself.
                while !held.is_empty() || !shared.is_empty() {
                    drop((held.pop(), shared.pop()));
                    self.board.advance();
                }
                drop(arena);
            }
        }
        drop(held);
        self.board.advance();
        drop(shared);
        self.board.count(Deed::Left);
        self.board.advance();
    }

    fn act(&mut self, home: &mut Home<A>, operation: u32) {
        let Home { arena, held, shared } = home;
        let arena: &Arena<A> = arena;
        let number = self.random.below(NAMES);
        match operation {
            ..20 => match self.alloc(arena) {
                Ok(object) => {
                    self.board.count(Deed::Allocated);
                    held.push(object);
                }
                Err(error) => {
                    if matches!(error, AllocError::OutOfMemory { .. }) {
                        self.board.count(Deed::Short);
                    }
                    self.plan.allow_alloc(error);
                    self.relieve(home);
                }
            },
            20..35 => drop(self.pick(held).inspect(Held::check)),
            35..37 => {
                if let Some(object) = self.pick(held) {
                    match object.into_inner() {
                        Ok(thing) => thing.check(),
                        Err(object) => held.push(object),
                    }
                }
            }
            37..40 => self.send(held),
            40..44 => self.receive(arena, held),
            44..47 => {
                if let Some((kind, bits)) = arena.leaked().next().map(|object| handle_of(&object)) {
                    self.claim(arena, held, kind, bits);
                }
            }
            47..50 => {
                let (kind, bits) = self.board.stale(self.random.index(256));
                if bits != 0 {
                    match Held::claim(arena, kind, bits) {
                        Ok(object) => panic!("a stale handle was claimed: {bits:#034x}, {object:?}"),
                        Err(error) => self.plan.allow_claim(error),
                    }
                    self.board.count(Deed::RefusedStale);
                }
            }
            50..60 => self.publish(arena, held, shared, number),
            60..66 => match arena.unpublish::<Thing>(&name(number)) {
                Ok(object) => self.keep(shared, number, object),
                Err(error) => self.plan.allow_name(error),
            },
            66..72 => match arena.find::<Thing>(&name(number)) {
                Ok(object) => self.keep(shared, number, object),
                Err(error) => self.plan.allow_name(error),
            },
            72..75 => match arena.find_or_alloc(&name(number), || Thing::new(number)) {
                Ok(object) => self.keep(shared, number, object),
                Err(error) => self.plan.allow_name(error),
            },
            75..78 => self.make_exclusive(held, shared),
            78..82 => self.lock(arena),
            82..86 => {
                if let Some(object) = self.pick(shared) {
                    object.check();
                }
            }
            86 => shared.truncate(self.random.index(MOST_SHARED)),
            87..93 => self.look_around(arena, number),
            93 => self.pin(arena, shared),
            94..97 => self.look_from_outside(arena),
            97.. => self.change_hands(arena),
        }
    }

    fn alloc(&mut self, arena: &Arena<A>) -> Result<Held, AllocError> {
        // Where memory is to be short, somebody must take much of it.
        if self.random.below(32) == 0 && self.plan.is_small() {
            Held::alloc_bytes(arena, arena.size() / 4, &mut self.random)
        } else {
            Held::alloc(arena, &mut self.random)
        }
    }

    fn pick<T>(&mut self, of: &mut Vec<T>) -> Option<T> {
        if of.is_empty() { None } else { Some(of.swap_remove(self.random.index(of.len()))) }
    }

    fn trim(&mut self, home: &mut Home<A>) {
        if home.held.len() > MOST_HELD {
            home.held.iter().for_each(Held::check);
            home.held.truncate(self.random.index(MOST_HELD));
        }
        if home.shared.len() > MOST_SHARED {
            home.shared.truncate(self.random.index(MOST_SHARED));
        }
    }

    /// There is no memory: some of it is ours, some nobody's.
    fn relieve(&mut self, home: &mut Home<A>) {
        home.held.truncate(home.held.len() / 2);
        for object in home.arena.leaked().take(8) {
            let (kind, bits) = handle_of(&object);
            self.claim(&home.arena, &mut home.held, kind, bits);
            drop(home.held.pop());
        }
    }

    /// Gives an object away, in a way that all can find, or so that it must be looked for.
    fn send(&mut self, held: &mut Vec<Held>) {
        let Some(object) = self.pick(held) else { return };
        match object.leak() {
            Ok((kind, bits)) => _ = self.board.send(self.random.index(256), kind, bits),
            Err(object) => held.push(object),
        }
    }

    fn receive(&mut self, arena: &Arena<A>, held: &mut Vec<Held>) {
        if let Some((kind, bits)) = self.board.receive(self.random.index(256)) {
            self.claim(arena, held, kind, bits);
        }
    }

    fn claim(&mut self, arena: &Arena<A>, held: &mut Vec<Held>, kind: Kind, bits: u128) {
        match Held::claim(arena, kind, bits) {
            Ok(object) => {
                self.board.note_claim(kind, bits, self.random.index(256));
                self.board.count(Deed::Claimed);
                object.check();
                held.push(object);
            }
            Err(error) => self.plan.allow_claim(error),
        }
    }

    fn keep(&mut self, shared: &mut Vec<ShmemArc<Thing>>, number: u64, object: ShmemArc<Thing>) {
        check_name(&name(number), &object);
        self.board.count(Deed::Found);
        if self.random.below(3) == 0 {
            shared.push(object.clone());
        }
        shared.push(object);
    }

    fn publish(
        &mut self,
        arena: &Arena<A>,
        held: &mut Vec<Held>,
        shared: &mut Vec<ShmemArc<Thing>>,
        number: u64,
    ) {
        let Some(object) = self.pick(held) else { return };
        let mut object = match object.into_thing() {
            Ok(thing) => thing,
            Err(object) => return held.push(object),
        };
        object.set_mark(number);
        let object = ShmemBox::into_arc(object);
        match arena.publish(&name(number), &object) {
            Ok(()) => self.board.count(Deed::Published),
            Err(error) => self.plan.allow_name(error),
        }
        shared.push(object);
    }

    fn make_exclusive(&mut self, held: &mut Vec<Held>, shared: &mut Vec<ShmemArc<Thing>>) {
        let Some(mut object) = self.pick(shared) else { return };
        if let Some(thing) = ShmemArc::get_mut(&mut object) {
            thing.set_mark(1000);
            thing.set_mark(50);
        }
        match ShmemArc::into_box(object) {
            Ok(object) => {
                self.board.count(Deed::MadeExclusive);
                held.push(Held::Thing(object));
            }
            Err(object) => shared.push(object),
        }
    }

    fn look_around(&mut self, arena: &Arena<A>, number: u64) {
        let name = name(number);
        match self.random.below(10) {
            0 => _ = self.plan.allow_arena(arena.check()),
            1 => _ = self.plan.allow_arena(arena.usage()),
            2 => _ = self.plan.allow_arena(arena.sweep()),
            3 => match arena.wait_for::<Thing>(&name, Duration::from_micros(self.random.below(500))) {
                Ok(object) => check_name(&name, &object),
                Err(error) => self.plan.allow_name(error),
            },
            4 => {
                for entry in arena.names() {
                    match entry {
                        Ok(entry) if entry.name() == guarded::NAME => {
                            assert!(entry.is::<Guarded>(), "{entry:?}")
                        }
                        Ok(entry) => assert!(entry.is::<Thing>(), "{entry:?}"),
                        Err(error) => self.plan.allow_name(error),
                    }
                }
            }
            5 => arena.leaked().for_each(|object| _ = handle_of(&object)),
            6 => match arena.find::<u32>(&name) {
                Ok(_) => panic!("found as another type"),
                Err(DirectoryError::Mismatch(_)) => {}
                Err(error) => self.plan.allow_name(error),
            },
            7 => {
                let size = arena.size() + self.random.index(200_000);
                match arena.grow(size) {
                    Err(ArenaError::AboveMaximum { .. }) => assert!(size > self.plan.max_size),
                    result => {
                        if self.plan.allow_arena(result).is_some() && arena.size() > self.plan.size {
                            self.board.count(Deed::Grown);
                        }
                    }
                }
            }
            8 => {
                // The other attachment, if there is one, knows nothing of this one's objects.
                if let Some(other) = self.homes.iter().flatten().next() {
                    let object = ShmemBox::into_arc(match arena.alloc(Thing::new(number)) {
                        Ok(object) => object,
                        Err(rejected) => return self.plan.allow_alloc(rejected.error),
                    });
                    let error = other.arena.publish(&name, &object).unwrap_err();
                    assert_eq!(error, DirectoryError::Foreign);
                }
            }
            _ => {
                let _ = (arena.reclaimed(), arena.conf().statistics(), arena.conf().payload());
                assert!(arena.conf().attachment_count() > 0);
            }
        }
    }

    /// Changes what all change, under its lock, or initialises a part of it; makes it if it is not there.
    fn lock(&mut self, arena: &Arena<A>) {
        let object = match arena.find::<Guarded>(guarded::NAME) {
            Ok(object) => object,
            Err(DirectoryError::NotFound) => {
                let object = match arena.alloc(Guarded::new()) {
                    Ok(object) => ShmemBox::into_arc(object),
                    Err(rejected) => return self.plan.allow_alloc(rejected.error),
                };
                match arena.publish_pinned(guarded::NAME, &object) {
                    Ok(()) => object,
                    Err(error) => return self.plan.allow_name(error),
                }
            }
            Err(error) => return self.plan.allow_name(error),
        };
        let patience = if self.random.below(4) == 0 { Duration::ZERO } else { self.plan.patience };
        let result = match self.random.below(8) {
            0..=3 => object.several.use_some(&mut self.random, patience),
            4 => object.initialize(&mut self.random, patience),
            _ => object.change(&mut self.random, patience),
        };
        match result {
            Ok(()) => self.board.count(Deed::Locked),
            Err(LockFailure::Busy) if patience.is_zero() => {}
            Err(error) => self.plan.allow_lock(error),
        }
    }

    /// Publishes for ever, seldom: of these there are only so many.
    fn pin(&mut self, arena: &Arena<A>, shared: &mut Vec<ShmemArc<Thing>>) {
        let number = self.random.below(PINNED);
        if self.random.below(8) != 0 {
            match arena.unpublish::<Thing>(&pinned_name(number)) {
                Ok(_) => panic!("a pinned name is gone"),
                Err(DirectoryError::Pinned) => {}
                Err(error) => self.plan.allow_name(error),
            }
            return;
        }
        match arena.alloc(Thing::new(number)) {
            Ok(object) => {
                let object = ShmemBox::into_arc(object);
                match arena.publish_pinned(&pinned_name(number), &object) {
                    Ok(()) => {
                        self.board.count(Deed::Pinned);
                        shared.push(object);
                    }
                    Err(error) => self.plan.allow_name(error),
                }
            }
            Err(rejected) => self.plan.allow_alloc(rejected.error),
        }
    }

    /// Attaches in order only to read, or beside the arena.
    fn look_from_outside(&mut self, arena: &Arena<A>) {
        let looked = match self.random.below(3) {
            0 => self.plan.attaching().attach(),
            _ => self.plan.attaching().attach_read_only(),
        };
        let conf = match looked {
            Ok(conf) => conf,
            Err(error) => return self.plan.allow_open(error),
        };
        let pinned = pinned_name(self.random.below(PINNED));
        match conf.find_pinned::<Thing>(&pinned) {
            Ok(object) => {
                assert_eq!(pinned_name(object.mark()), pinned);
                self.board.count(Deed::FoundPinned);
            }
            // A reader without the lock waits for nobody.
            Err(DirectoryError::NotFound | DirectoryError::Busy) => {}
            Err(error) => panic!("{error:?}"),
        }
        if conf.is_read_only() {
            assert_eq!(conf.try_own(), Err(OwnError::ReadOnly));
            assert_eq!(conf.arena::<A>().unwrap_err(), ArenaError::ReadOnly);
        } else {
            if conf.segment_id() == arena.conf().segment_id() {
                assert!(conf.attachment_count() >= 2);
            }
            if self.random.below(2) == 0 {
                conf.leak();
            }
        }
    }

    /// Who owns the segment, and whether it has a name.
    fn change_hands(&mut self, arena: &Arena<A>) {
        match self.random.below(4) {
            0 | 1 => match arena.conf().try_own() {
                Ok(()) | Err(OwnError::Retired) => {}
                Err(error) => panic!("{error:?}"),
            },
            // Where names vanish anyhow.
            2 if self.plan.unlink != UnlinkPolicy::Never => self.unlink(),
            2 => _ = (arena.conf().owner_pid(), arena.conf().is_owner(), arena.conf().is_linked()),
            _ => _ = arena.conf().sweep(),
        }
    }
}

/// A segment as one number, never 0.
pub fn number(conf: &ShmemConf) -> u64 {
    u64::from_le_bytes(conf.segment_id().to_bytes()[..8].try_into().unwrap()) | 1
}
