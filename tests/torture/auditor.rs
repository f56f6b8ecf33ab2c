//! The process that settles accounts
//!
//! It is not killed. In between it uses the arena as one that was attached all along and must always be able to go on,
//! unless the round is one in which nobody is.

use super::board::{AUDITOR, Deed, Shared, assert_kept};
use super::guarded::{self, Guarded};
use super::objects::{Held, Thing, check_name, handle_of};
use super::plan::Plan;
use super::worker::number;
use crate::common::arena::{Allocator, Random};
use shmem_bind::{
    AllocError, Arena, DirectoryError, MAX_ATTACHMENTS, NameEntry, OrphanPolicy, RegionAllocator, ShmemArc,
    ShmemConf, ShmemError, UnlinkPolicy, Usage,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// Note what an empty arena holds; this one is new.
pub const MEASURE: u32 = 1;
/// The workers are parked: they have what they say.
pub const AUDIT_LIVING: u32 = 2;
/// Nobody else is alive: nothing is held. Takes back what was given away.
pub const AUDIT_ALONE: u32 = 3;
/// End, and leave the segment to the next one if its policy lets it.
pub const LEAVE_IT: u32 = 4;
/// End, and take the segment along.
pub const FINISH: u32 = 5;

/// Most objects that it has for itself.
const MOST_HELD: usize = 20;

struct Auditor<'b, A> {
    board: &'b Shared,
    plan: Plan,
    random: Random,
    arena: Arena<A>,
    held: Vec<Held>,
}

/// Does what it is told, and works in between.
pub fn audit<A: Allocator>(board: &Shared, plan: &Plan) {
    board.sit_down(AUDITOR);
    let seat = &board.seats[AUDITOR];
    let random = Random::seeded(seat.seed.load(SeqCst));
    let plan = plan.patient();
    let arena = open(&plan);
    let mut auditor = Auditor::<A> { board, plan, random, arena, held: Vec::new() };
    loop {
        let command = seat.command.load(SeqCst);
        seat.operation.store(command, SeqCst);
        match command {
            0 => auditor.work(),
            MEASURE => auditor.measure(),
            AUDIT_LIVING => auditor.audit_living(),
            AUDIT_ALONE => auditor = auditor.audit_alone(),
            LEAVE_IT => {
                drop(auditor);
                break;
            }
            FINISH => {
                auditor.finish();
                break;
            }
            _ => panic!("command {command}"),
        }
        if command != 0 {
            board.count(Deed::Audited);
            seat.command.store(0, SeqCst);
        }
    }
    seat.command.store(0, SeqCst);
}

/// Opens the segment, whoever left it how.
fn open<A: RegionAllocator>(plan: &Plan) -> Arena<A> {
    loop {
        match plan.builder().open() {
            Ok(conf) => return conf.arena().unwrap(),
            Err(ShmemError::Orphaned) => match shmem_bind::unlink(&plan.name) {
                Ok(()) | Err(ShmemError::NotFound) => {}
                Err(error) => panic!("{error:?}"),
            },
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn entries<A: RegionAllocator>(arena: &Arena<A>) -> Vec<NameEntry> {
    arena.names().map(Result::unwrap).collect()
}

impl<A: Allocator> Auditor<'_, A> {
    /// Goes on, as one who is alive always can.
    fn work(&mut self) {
        match Held::alloc(&self.arena, &mut self.random) {
            Ok(object) => self.held.push(object),
            Err(error) => {
                self.plan.allow_alloc(error);
                self.held.clear();
            }
        }
        if self.held.len() > self.random.index(MOST_HELD) {
            let object = self.held.swap_remove(self.random.index(self.held.len()));
            object.check();
        }
        if let Err(error) = self.arena.find::<Thing>("nobody's") {
            self.plan.allow_name(error);
        }
        self.board.advance();
        thread::sleep(Duration::from_millis(1));
    }

    /// Makes the table of names, so that it is there in every arena; or says that there is no memory for it.
    fn prepare(&self) -> bool {
        match self.arena.find_or_alloc("first", || Thing::new(0)) {
            Ok(object) => drop(object),
            Err(DirectoryError::Alloc(AllocError::OutOfMemory { .. })) => return false,
            Err(error) => panic!("{error:?}"),
        }
        drop(self.arena.unpublish::<Thing>("first").unwrap());
        true
    }

    fn measure(&mut self) {
        self.give_back();
        assert!(self.prepare());
        let Usage { blocks, used, .. } = self.arena.usage().unwrap();
        self.board.empty[0].store(blocks, SeqCst);
        self.board.empty[1].store(used, SeqCst);
    }

    fn give_back(&mut self) {
        self.held.drain(..).for_each(|object| object.check());
    }

    /// That so many blocks are in use: those that this process, a name or a handle keeps, and `others`.
    fn account(&self, names: usize, others: u64) {
        let has_table = self.prepare();
        let empty = self.board.empty[0].load(SeqCst);
        let leaked = self.arena.leaked().count() as u64;
        let expected = empty + self.held.len() as u64 + 2 * names as u64 + leaked + others;
        let usage = self.arena.usage().unwrap();
        let is_right = usage.blocks == expected || !has_table && names == 0 && usage.blocks == expected - 1;
        assert_kept!(
            is_right,
            "{expected} blocks are accounted for, {names} named, {leaked} leaked and {others} held, of {usage:?}"
        );
    }

    /// What the living have is what they say.
    fn audit_living(&mut self) {
        self.arena.sweep().unwrap();
        self.arena.check().unwrap();
        self.board.advance();
        let segment = number(self.arena.conf());
        let (mut attached, mut exclusive) = (1, 0);
        // How many attachments have a reference to an object.
        let mut holders = BTreeMap::<u64, u32>::new();
        let seats = self.board.seats.iter().take(AUDITOR);
        for tally in seats.flat_map(|seat| &seat.tallies) {
            if tally.segment.load(SeqCst) != segment {
                continue;
            }
            attached += 1;
            exclusive += tally.exclusive.load(SeqCst);
            for id in tally.shared.iter().take(tally.len.load(SeqCst) as usize) {
                *holders.entry(id.load(SeqCst)).or_default() += 1;
            }
        }
        let entries = entries(&self.arena);
        let mut named = BTreeSet::new();
        for entry in &entries {
            if entry.name() == guarded::NAME {
                assert_kept!(entry.holders() == 0, "held by nobody: {entry:?}");
                self.lock(false);
                continue;
            }
            let object = self.arena.find::<Thing>(entry.name()).unwrap();
            check_name(entry.name(), &object);
            let expected = holders.get(&object.id()).copied().unwrap_or(0);
            assert_kept!(entry.holders() == expected, "held by {expected}: {entry:?}");
            assert_kept!(named.insert(object.id()), "two names: {entry:?}");
            self.board.advance();
        }
        let shared = holders.keys().filter(|id| !named.contains(id)).count() as u64;
        self.account(entries.len(), exclusive + shared);
        let count = self.arena.conf().attachment_count();
        assert_kept!(count == attached, "{attached} are attached, not {count}");
        self.arena.check().unwrap();
    }

    /// Nobody alive has the lock, so it need not be waited for.
    fn lock(&mut self, is_alone: bool) {
        let object = self.arena.find::<Guarded>(guarded::NAME).unwrap();
        object.change(&mut self.random, Duration::ZERO).unwrap();
        if is_alone {
            object.several.settle(&mut self.random);
        }
    }

    /// Of the segment that it has been attached to, and of that which has the name.
    fn audit_alone(mut self) -> Self {
        self.give_back();
        self.settle();
        let Self { board, plan, random, arena, .. } = self;
        drop(arena);
        // Now also what an allocator gives back only to who is alone.
        let mut again = Self { board, arena: open(&plan), plan, random, held: Vec::new() };
        again.settle();
        let has_memory = again.prepare();
        let Usage { blocks, used, .. } = again.arena.usage().unwrap();
        let empty = again.board.empty[1].load(SeqCst);
        let pinned = entries(&again.arena).len() as u64;
        // The table of names, or what is pinned, may lie behind all that is free.
        assert_kept!(has_memory || blocks != 0 && !A::HOLES_ARE_USED, "there is no memory in an empty arena");
        // The table of names may have another size.
        let most = 4096 + pinned * 256 + size_of::<Guarded>() as u64;
        assert_kept!(used.abs_diff(empty) <= most, "{used} bytes are in use and not {empty}");
        again
    }

    /// Nobody else is attached, nothing is held.
    fn settle(&mut self) {
        self.arena.sweep().unwrap();
        if entries(&self.arena).iter().any(|entry| entry.name() == guarded::NAME) {
            self.lock(true);
        }
        let arena = &self.arena;
        arena.check().unwrap();
        let count = arena.conf().attachment_count();
        assert_kept!(count == 1, "{count} are attached");
        let entries = entries(arena);
        let held = entries.iter().find(|entry| entry.holders() != 0);
        assert_kept!(held.is_none(), "held by nobody alive: {held:?}");
        self.account(entries.len(), 0);
        self.board.advance();

        let leaked: Vec<_> = arena.leaked().collect();
        for object in &leaked {
            let (kind, bits) = handle_of(object);
            let object = Held::claim(arena, kind, bits).unwrap();
            self.board.note_claim(kind, bits, bits as usize);
            object.check();
            self.board.advance();
        }
        for entry in &entries {
            if entry.name() == guarded::NAME {
                continue;
            }
            if entry.is_pinned() {
                check_name(entry.name(), &arena.find::<Thing>(entry.name()).unwrap());
                continue;
            }
            let object = arena.unpublish::<Thing>(entry.name()).unwrap();
            check_name(entry.name(), &object);
            let is_alone = ShmemArc::into_box(object).map(drop).is_ok();
            assert_kept!(is_alone, "somebody else has it: {entry:?}");
            self.board.advance();
        }
        arena.check().unwrap();
        let pinned = entries.iter().filter(|entry| entry.is_pinned()).count();
        self.account(pinned, 0);
        let left = (arena.leaked().count(), arena.names().count());
        assert_kept!(left == (0, pinned), "{left:?} are leaked and named");
        self.board.advance();
        if arena.conf().is_linked() {
            self.fill_slots();
        }
    }

    /// All slots but the own are free.
    fn fill_slots(&self) {
        if self.plan.orphan == OrphanPolicy::Refuse {
            // Its owner may have died, and then nobody gets in.
            self.arena.conf().try_own().unwrap();
        }
        let attach = || self.plan.attaching().attach();
        let confs: Vec<_> = (1..MAX_ATTACHMENTS).map_while(|_| attach().ok()).collect();
        let count = confs.len() as u32 + 1;
        assert_kept!(count == MAX_ATTACHMENTS, "only {count} attachments were possible");
        let error = attach().map(|_| ()).unwrap_err();
        assert_eq!(error, ShmemError::Full);
        // The owner among them would take the name along.
        confs.into_iter().for_each(ShmemConf::leak);
    }

    fn finish(self) {
        let Self { plan, arena, held, .. } = self;
        drop(held);
        match plan.unlink {
            UnlinkPolicy::OwnerDrop => {
                arena.conf().try_own().unwrap();
                drop(arena);
            }
            UnlinkPolicy::LastDetach => drop(arena),
            _ => {
                drop(arena);
                shmem_bind::unlink(&plan.name).unwrap();
            }
        }
    }
}
