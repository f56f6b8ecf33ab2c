//! The protocol: what each action of a process does to the [`World`].

use crate::membership::{
    Event, MAX_ATTACHMENTS, Membership, OrphanPolicy, Phase, Refusal, Slot, Step, UnlinkPolicy,
};
use crate::world::{At, Errand, Fault, INODES, Inode, Lock, Process, Sweep, Tenancy, Unlinker, World};

/// A fault put into the protocol on purpose, to see that the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The exclusive lock is taken for a proof that the name still leads to the locked inode.
    NoNameCheckUnderLock,
    /// The name is unlinked without looking where it leads.
    UnlinkUnchecked,
    /// An orphan is vacated after converting the shared lock to an exclusive one. A conversion that fails
    /// loses the lock that was held.
    UpgradeLock,
    /// The tenancy word holds a PID, and the incarnation stands beside it in a word of its own.
    IdentityInTwoWords,
    /// A sweep clears the bit of the dead and leaves its slot in the owner field.
    OwnerSurvivesSweep,
    /// A segment is made Live without an owner, and its maker becomes the owner in a second step.
    BornWithoutOwner,
    /// Who meets a Forming segment takes the shared lock and waits until it is Live.
    SharedLockWhileForming,
}

/// What a process whose turn it is may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one thing that comes next.
    Go,
    /// The same, but the system refuses: no memory for the mapping, no permission to unlink.
    Fails,
    Killed,
    Open,
    UnlinkName,
    Own,
    BeginDetach,
    Leak,
}

/// A model of the protocol: its policies and its bounds.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub unlink: UnlinkPolicy,
    pub orphan: OrphanPolicy,
    /// How many of the [`PROCESSES`](crate::world::PROCESSES) take part.
    pub processes: usize,
    /// How many of the [`SLOTS`](crate::world::SLOTS) the table of tenancies has.
    pub slots: u8,
    /// How many times a process may be killed; it starts anew each time.
    pub crashes: u8,
    /// Whether mapping a new segment may fail and unlinking may be forbidden.
    pub failures: bool,
    /// What processes do besides opening and detaching.
    pub operations: &'static [Choice],
    pub mistake: Option<Mistake>,
}

impl Protocol {
    /// Calls `found` with every choice of every process.
    pub fn for_each_choice(&self, world: &World, mut found: impl FnMut(usize, Choice)) {
        for (index, process) in world.processes.iter().enumerate().take(self.processes) {
            match process.at {
                At::Idle => {
                    found(index, Choice::Open);
                    if self.operations.contains(&Choice::UnlinkName) {
                        found(index, Choice::UnlinkName);
                    }
                }
                At::Attached => {
                    found(index, Choice::BeginDetach);
                    for choice in [Choice::Own, Choice::Leak] {
                        if self.operations.contains(&choice) {
                            found(index, choice);
                        }
                    }
                }
                At::Map | At::Unlink(_) | At::UnlinkExclusive if self.failures => {
                    found(index, Choice::Go);
                    found(index, Choice::Fails);
                }
                _ => found(index, Choice::Go),
            }
            if world.crashes_left > 0 && process.at != At::Idle {
                found(index, Choice::Killed);
            }
        }
    }

    /// The world after `process` has done as it chose.
    pub fn act(&self, world: &World, process: usize, choice: Choice) -> World {
        let mut turn = Turn { protocol: self, world: *world, me: process };
        turn.take(choice);
        turn.world
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

struct Turn<'a> {
    protocol: &'a Protocol,
    world: World,
    me: usize,
}

impl Turn<'_> {
    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Go => self.go(),
            Choice::Fails => self.fail(),
            Choice::Killed => {
                self.world.kill(self.me);
                self.world.crashes_left -= 1;
            }
            Choice::Open => self.open(Errand::Attach),
            Choice::UnlinkName => self.open(Errand::Unlink),
            Choice::Own => {
                // Refused, and nothing happens, when the segment is Retired.
                let _ = self.change(Event::Own(self.my_slot()));
            }
            Choice::BeginDetach => self.begin_detach(),
            Choice::Leak => {
                let _ = self.change(Event::Leak(self.my_slot()));
                self.mine().attached = false;
                self.next(At::FreeTenancy);
            }
        }
    }

    fn go(&mut self) {
        match self.my().at {
            At::Idle | At::Attached => {}
            At::TryExclusive => self.try_exclusive(),
            At::CheckNameExclusive if self.is_named() => self.next(At::ReadPhaseExclusive),
            At::ReadPhaseExclusive => self.read_phase_exclusive(),
            At::UnlinkExclusive => {
                self.unlink_name();
                self.close();
            }
            At::Truncate => {
                self.note_second_creation();
                *self.inode_mut() = Inode { label: self.inode().label, ..Inode::EMPTY };
                self.next(At::WriteHeader);
            }
            At::WriteHeader => {
                self.note_second_creation();
                self.inode_mut().header = true;
                self.inode_mut().membership = Membership::from_bits(0);
                self.next(At::Map);
            }
            At::Map => self.next(At::StoreTenancy),
            At::StoreTenancy => {
                self.hold(0);
                self.mine().slot = Some(0);
                self.next(At::ConvertNew);
            }
            At::ConvertNew => {
                self.mine().lock = Lock::Shared;
                self.next(At::Form);
            }
            At::Form => self.form(),
            At::Vacate => {
                let _ = self.change(Event::Vacate);
                self.next(At::ClearTenancies);
            }
            At::ClearTenancies => self.clear_tenancies(),
            At::PeekPhase => self.peek_phase(),
            At::TryShared if self.is_locked_by_others(Lock::Exclusive) => self.close(),
            At::TryShared => {
                self.mine().lock = Lock::Shared;
                self.next(At::CheckNameShared);
            }
            At::CheckNameShared if self.is_named() => self.next(At::ReadPhaseShared),
            At::CheckNameExclusive | At::CheckNameShared => self.close(),
            At::ReadPhaseShared => self.read_phase_shared(),
            At::Survey => self.survey(),
            At::ClaimTenancy { slot, swept } => self.claim_tenancy(slot, swept),
            At::Join => self.join(),
            At::Retire => match self.change(Event::Retire(self.my_slot())) {
                Ok(_) => self.next(At::CheckName(Unlinker::Administrator)),
                Err(_) => self.next(At::FreeTenancy),
            },
            At::SweepTenancy { slot, sweep } => self.sweep_tenancy(slot, sweep),
            At::SweepMembership { slot, sweep } => match self.change(Event::Sweep(self.slot(slot))) {
                Ok(Step { unlink: true, .. }) => {
                    self.next(At::CheckName(Unlinker::Sweeping { slot, sweep }));
                }
                _ => self.next(At::SweepDone { slot, sweep }),
            },
            At::SweepDone { slot, sweep } => {
                self.free(slot);
                self.sweep_on(slot, sweep);
            }
            At::CheckName(unlinker) => {
                if self.is_named() || self.protocol.has(Mistake::UnlinkUnchecked) {
                    self.next(At::Unlink(unlinker));
                } else {
                    self.unlinked(unlinker);
                }
            }
            At::Unlink(unlinker) => {
                self.unlink_name();
                self.unlinked(unlinker);
            }
            At::Detach => self.detach(),
            At::Destroy => self.destroy(),
            At::FreeTenancy => {
                if let Some(slot) = self.mine().slot.take() {
                    self.free(slot);
                }
                self.next(At::Release);
            }
            At::Release => self.close(),
            At::UpgradeLock => self.upgrade_lock(),
            At::StoreIncarnation => {
                let slot = self.my_slot().index();
                self.inode_mut().incarnations[slot] = self.identity();
                self.next_with_tenancy();
            }
            At::ReadIncarnation { slot, sweep, pid } => self.read_incarnation(slot, sweep, pid),
            At::OwnNew => {
                let _ = self.change(Event::Own(self.my_slot()));
                self.next(At::Attached);
            }
        }
    }

    fn fail(&mut self) {
        match self.my().at {
            At::Map => self.next(At::UnlinkExclusive),
            At::Unlink(unlinker) => self.unlinked(unlinker),
            _ => self.close(),
        }
    }

    // Opening

    fn open(&mut self, errand: Errand) {
        let inode = match (self.world.name, errand) {
            (Some(inode), _) => inode,
            (None, Errand::Unlink) => return,
            (None, Errand::Attach) => {
                let unused = (0..INODES).find(|&inode| self.world.users(inode).next().is_none());
                let unused = unused.expect("a process without a descriptor leaves an inode unused");
                self.world.created.0 += 1;
                self.world.inodes[unused] = Inode { label: self.world.created, ..Inode::EMPTY };
                unused as u8
            }
        };
        self.world.name = Some(inode);
        *self.mine() = Process {
            at: At::TryExclusive,
            errand,
            inode: Some(inode),
            label: self.my().label,
            ..Process::IDLE
        };
    }

    fn try_exclusive(&mut self) {
        if self.is_locked_by_others(Lock::Shared) {
            return self.next(At::PeekPhase);
        }
        self.mine().lock = Lock::Exclusive;
        let unchecked = self.protocol.has(Mistake::NoNameCheckUnderLock);
        self.next(if unchecked { At::ReadPhaseExclusive } else { At::CheckNameExclusive });
    }

    fn read_phase_exclusive(&mut self) {
        match (self.inode().phase(), self.my().errand) {
            (Ok(Phase::Live), _) => self.next(At::Vacate),
            (Ok(Phase::Retired), _) | (Ok(Phase::Forming), Errand::Unlink) => self.next(At::UnlinkExclusive),
            (Ok(Phase::Forming), _) if self.inode().header => self.next(At::Truncate),
            (Ok(Phase::Forming), _) => self.next(At::WriteHeader),
            (Err(_), _) => self.close(),
        }
    }

    fn form(&mut self) {
        let formed = self.change(Event::Form(self.my_slot()));
        if formed.is_err() {
            return self.next(At::FreeTenancy);
        }
        if std::mem::replace(&mut self.inode_mut().formed, true) {
            self.world.fault = Some(Fault::CreatedTwice);
        }
        self.mine().attached = true;
        let ownerless = self.protocol.has(Mistake::BornWithoutOwner);
        self.next(if ownerless { At::OwnNew } else { At::Attached });
    }

    fn clear_tenancies(&mut self) {
        match self.inode_mut().tenancies.iter_mut().find(|word| **word != Tenancy::Free) {
            Some(word) => *word = Tenancy::Free,
            None => {
                self.mine().lock = Lock::Shared;
                self.next(At::ClaimTenancy { slot: 0, swept: false });
            }
        }
    }

    fn peek_phase(&mut self) {
        match self.inode().phase() {
            Ok(Phase::Live | Phase::Retired) => self.next(At::TryShared),
            Ok(Phase::Forming) if self.protocol.has(Mistake::SharedLockWhileForming) => {
                self.next(At::TryShared);
            }
            _ => self.close(),
        }
    }

    fn read_phase_shared(&mut self) {
        let unlinker_or_owner = self.inode().membership.owner_slot().map(|slot| slot.index() as u8);
        match (self.inode().phase(), unlinker_or_owner) {
            (Ok(Phase::Retired), Some(slot)) => {
                self.next(At::SweepTenancy { slot, sweep: Sweep::Takeover });
            }
            (Ok(Phase::Live), _) if self.my().errand == Errand::Unlink => {
                self.next(At::ClaimTenancy { slot: 0, swept: false });
            }
            (Ok(Phase::Live), Some(slot)) => self.next(At::SweepTenancy { slot, sweep: Sweep::Owner }),
            (Ok(Phase::Live), None) => self.swept(Sweep::Owner),
            // Waits, lock in hand.
            (Ok(Phase::Forming), _) if self.protocol.has(Mistake::SharedLockWhileForming) => {}
            _ => self.close(),
        }
    }

    /// The owner has been looked at; is there one?
    fn survey(&mut self) {
        if !self.inode().membership.is_orphan() {
            self.next(At::ClaimTenancy { slot: 0, swept: false });
        } else if self.protocol.has(Mistake::UpgradeLock) {
            self.next(At::UpgradeLock);
        } else {
            self.next(At::SweepTenancy { slot: 0, sweep: Sweep::Orphan });
        }
    }

    fn upgrade_lock(&mut self) {
        if self.is_locked_by_others(Lock::Shared) {
            self.mine().lock = Lock::Unlocked;
            self.next(At::ClaimTenancy { slot: 0, swept: false });
        } else {
            self.mine().lock = Lock::Exclusive;
            self.next(At::Vacate);
        }
    }

    fn claim_tenancy(&mut self, slot: u8, swept: bool) {
        if self.inode().tenancies[usize::from(slot)] == Tenancy::Free {
            self.mine().slot = Some(slot);
            if self.protocol.has(Mistake::IdentityInTwoWords) {
                self.inode_mut().tenancies[usize::from(slot)] = self.identity();
                self.next(At::StoreIncarnation);
            } else {
                self.hold(slot);
                self.next_with_tenancy();
            }
        } else if slot + 1 < self.protocol.slots {
            self.next(At::ClaimTenancy { slot: slot + 1, swept });
        } else if swept {
            self.close();
        } else {
            self.next(At::SweepTenancy { slot: 0, sweep: Sweep::Full });
        }
    }

    fn next_with_tenancy(&mut self) {
        match self.my().errand {
            Errand::Attach => self.next(At::Join),
            Errand::Unlink => self.next(At::Retire),
        }
    }

    fn join(&mut self) {
        match self.change(Event::Join(self.my_slot(), self.protocol.orphan)) {
            Ok(Step { unlink: true, .. }) => self.next(At::CheckName(Unlinker::Recreating)),
            Ok(_) => {
                self.mine().attached = true;
                self.next(At::Attached);
            }
            Err(_) => self.next(At::FreeTenancy),
        }
    }

    // Sweeping

    fn sweep_tenancy(&mut self, slot: u8, sweep: Sweep) {
        match self.inode().tenancies[usize::from(slot)] {
            Tenancy::Free if sweep != Sweep::Takeover => self.sweep_on(slot, sweep),
            Tenancy::Free | Tenancy::Dead => {
                self.hold(slot);
                self.next(At::SweepMembership { slot, sweep });
            }
            Tenancy::Process(pid) if self.protocol.has(Mistake::IdentityInTwoWords) => {
                self.next(At::ReadIncarnation { slot, sweep, pid });
            }
            Tenancy::Process(_) => self.sweep_on(slot, sweep),
        }
    }

    fn read_incarnation(&mut self, slot: u8, sweep: Sweep, pid: u8) {
        let of_this_process = Tenancy::Process(pid);
        let is_dead = self.inode().incarnations[usize::from(slot)] != of_this_process;
        if is_dead && self.inode().tenancies[usize::from(slot)] == of_this_process {
            self.hold(slot);
            self.next(At::SweepMembership { slot, sweep });
        } else {
            self.sweep_on(slot, sweep);
        }
    }

    /// Done with `slot`: on to the next one or to what the sweep was for.
    fn sweep_on(&mut self, slot: u8, sweep: Sweep) {
        let all = !matches!(sweep, Sweep::Owner | Sweep::Takeover);
        if all && slot + 1 < self.protocol.slots {
            self.next(At::SweepTenancy { slot: slot + 1, sweep });
        } else {
            self.swept(sweep);
        }
    }

    fn swept(&mut self, sweep: Sweep) {
        let surveys =
            self.protocol.orphan == OrphanPolicy::Recreate || self.protocol.has(Mistake::UpgradeLock);
        match sweep {
            Sweep::Owner if surveys => self.next(At::Survey),
            Sweep::Owner | Sweep::Orphan => self.next(At::ClaimTenancy { slot: 0, swept: false }),
            Sweep::Full => self.next(At::ClaimTenancy { slot: 0, swept: true }),
            Sweep::Leaving => self.next(At::Detach),
            Sweep::Takeover => self.close(),
        }
    }

    // Leaving

    fn begin_detach(&mut self) {
        let (word, slot) = (self.inode().membership, self.my_slot());
        let the_dead_matter = match (word.phase(), self.protocol.unlink) {
            (Ok(Phase::Retired), _) => true,
            (_, UnlinkPolicy::LastDetach) => word.has_others(slot),
            (_, UnlinkPolicy::OwnerDrop) => word.owner_slot() == Some(slot) && word.has_others(slot),
            (_, UnlinkPolicy::Never) => false,
        };
        if the_dead_matter {
            self.next(At::SweepTenancy { slot: 0, sweep: Sweep::Leaving });
        } else {
            self.next(At::Detach);
        }
    }

    fn detach(&mut self) {
        let step = self.change(Event::Detach(self.my_slot(), self.protocol.unlink));
        self.mine().attached = false;
        match step {
            Ok(Step { unlink: true, last, .. }) => self.next(At::CheckName(Unlinker::Detaching { last })),
            Ok(Step { last: true, .. }) => self.next(At::Destroy),
            _ => self.next(At::FreeTenancy),
        }
    }

    fn destroy(&mut self) {
        let inode = self.inode_index();
        if self.world.users(inode).any(|(_, process)| process.attached) {
            self.world.fault = Some(Fault::DestroyedUnderAttached);
        }
        if std::mem::replace(&mut self.inode_mut().destroyed, true) {
            self.world.fault = Some(Fault::DestroyedTwice);
        }
        self.next(At::FreeTenancy);
    }

    fn unlink_name(&mut self) {
        if let Some(named) = self.world.name.take() {
            if usize::from(named) != self.inode_index() {
                self.world.fault = Some(Fault::UnlinkedAnotherSegment);
            } else if self.inode().phase() == Ok(Phase::Live) {
                self.world.fault = Some(Fault::UnlinkedLiveSegment);
            }
        }
    }

    /// The name is gone, or was not this inode's, or may not be removed.
    fn unlinked(&mut self, unlinker: Unlinker) {
        match unlinker {
            Unlinker::Detaching { last: true } => self.next(At::Destroy),
            Unlinker::Sweeping { slot, sweep } => self.next(At::SweepDone { slot, sweep }),
            Unlinker::Detaching { last: false } | Unlinker::Recreating | Unlinker::Administrator => {
                self.next(At::FreeTenancy);
            }
        }
    }

    /// One compare-and-swap on the membership word.
    fn change(&mut self, event: Event) -> Result<Step, Refusal> {
        const OWNER: u64 = 0x3f << MAX_ATTACHMENTS;
        let before = self.inode().membership;
        let mut step = before.step(event)?;
        let is_live = step.word.phase() == Ok(Phase::Live);
        match event {
            Event::Sweep(_) if is_live && self.protocol.has(Mistake::OwnerSurvivesSweep) => {
                let bits = (step.word.bits() & !OWNER) | (before.bits() & OWNER);
                step.word = Membership::from_bits(bits);
            }
            Event::Form(_) if self.protocol.has(Mistake::BornWithoutOwner) => {
                step.word = Membership::from_bits(step.word.bits() | OWNER);
            }
            _ => {}
        }
        let inode = self.inode_mut();
        inode.membership = step.word;
        if step.word.owner_slot().is_some() || step.word.is_orphan() {
            inode.given_up = false;
        } else if before.owner_slot().is_some() && matches!(event, Event::Detach(..) | Event::Leak(_)) {
            inode.given_up = true;
        }
        Ok(step)
    }

    // Who and where

    fn my(&self) -> &Process {
        &self.world.processes[self.me]
    }

    fn mine(&mut self) -> &mut Process {
        &mut self.world.processes[self.me]
    }

    fn next(&mut self, at: At) {
        self.mine().at = at;
    }

    /// Gives up descriptor, mapping and lock.
    fn close(&mut self) {
        *self.mine() = Process { label: self.my().label, ..Process::IDLE };
    }

    fn identity(&self) -> Tenancy {
        Tenancy::Process(self.me as u8)
    }

    fn slot(&self, slot: u8) -> Slot {
        Slot::new(slot.into()).expect("the model has fewer slots than a segment")
    }

    fn my_slot(&self) -> Slot {
        self.slot(self.my().slot.expect("only a process with a tenancy comes here"))
    }

    fn inode_index(&self) -> usize {
        self.my().inode.expect("only a process with an open file comes here").into()
    }

    fn inode(&self) -> &Inode {
        &self.world.inodes[self.inode_index()]
    }

    fn inode_mut(&mut self) -> &mut Inode {
        let index = self.inode_index();
        &mut self.world.inodes[index]
    }

    fn is_named(&self) -> bool {
        self.world.name == self.my().inode
    }

    fn is_locked_by_others(&self, at_least: Lock) -> bool {
        let inode = self.inode_index();
        self.world.users(inode).any(|(other, process)| other != self.me && process.lock >= at_least)
    }

    fn hold(&mut self, slot: u8) {
        let identity = self.identity();
        self.inode_mut().tenancies[usize::from(slot)] = identity;
        if self.protocol.has(Mistake::IdentityInTwoWords) {
            self.inode_mut().incarnations[usize::from(slot)] = identity;
        }
    }

    fn free(&mut self, slot: u8) {
        let identity = self.identity();
        let word = &mut self.inode_mut().tenancies[usize::from(slot)];
        if *word == identity {
            *word = Tenancy::Free;
        }
    }

    fn note_second_creation(&mut self) {
        if self.inode().formed {
            self.world.fault = Some(Fault::CreatedTwice);
        }
    }
}
