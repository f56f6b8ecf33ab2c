//! Joining, leaving, sweeping, unlinking
//!
//! The steps of the protocol that a process takes while it holds the segment's lock, shared or exclusive.
//! Each changes shared words in an order such that, wherever the process is killed, what it leaves behind is
//! one of the states below, and each of these is put right by whoever meets it.
//!
//! | a dead process left | put right by |
//! |---|---|
//! | a tenancy without a bit (killed before joining or after leaving) | [`sweep`](Member::sweep): frees the slot |
//! | a tenancy and a bit | `sweep`: clears the bit, an owner's place becomes ORPHAN, then frees the slot |
//! | a tenancy claimed for sweeping | `sweep` of the same slot, once more from its beginning |
//! | Retired, the unlinker dead | `sweep` of its slot: unlinks in its place |
//! | in an arena, a deceased tenancy: its bit is clear, its objects are not given back | [`bury`](Member::bury) |
//! | Retired, the unlinker's slot free, the name still there (no permission) | [`take_over`](Member::take_over) |
//!
//! A slot's tenancy is taken before its bit is set and freed after its bit is cleared, so a bit never stands
//! for a tenant that a sweep would not find. A slot's generation ends before its tenancy does, so that a lock word never
//! names a tenant that has left by the number of the one that came after it. Whoever sweeps has first put its own identity in the place of
//! the dead one's, so that there is one sweeper at a time, and a dead sweeper is swept.
//!
//! The objects that a dead process held in an arena, its estate, are given back by whoever has opened the arena, and so knows its
//! allocator; others only say that the tenant is deceased. If all slots are, a newcomer takes one of these and its
//! estate with it: no objects are allocated in a slot before those of its last tenant are given back.
//!
//! Only the designated unlinker removes the name: the tenant of the slot that the membership word of a
//! Retired segment names. Nobody else's view of the name can go stale between looking and unlinking, because
//! nobody else acts on it.

use crate::header::{Counter, SharedHeader};
use crate::membership::{Event, Membership, Phase, Refusal, Slot, Step, UnlinkPolicy};
use crate::name::Name;
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::sys::Failure;
use crate::sys::shm::{self, Inode};
use crate::tenancy::Tenancy;
use rustix::io::Errno;

/// Failed attempts to change the membership word after which something other than 56 processes is at work.
const CONTENTION_LIMIT: u32 = 1 << 20;

/// The name a segment was opened by, and the file that it then led to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) name: Name,
    pub(crate) inode: Inode,
}

impl Link {
    /// Whether the name still leads to the file.
    pub(crate) fn is_intact(&self) -> Result<bool, Failure> {
        let status = shm::status_at(self.name.path()).map_err(Failure::of("stat"))?;
        Ok(status.is_some_and(|status| status.inode == self.inode))
    }

    /// Whether this process has the right to remove the name, if it still leads to the file.
    pub(crate) fn may_unlink(&self) -> Result<(), Failure> {
        if !self.is_intact()? {
            return Ok(());
        }
        shm::may_unlink(self.name.path()).map_err(Failure::of("unlink"))
    }

    /// Removes the name if it still leads to the file.
    ///
    /// For the designated unlinker and for the holder of the exclusive lock.
    pub(crate) fn unlink(&self) -> Result<(), Failure> {
        if !self.is_intact()? {
            return Ok(());
        }
        match shm::unlink(self.name.path()) {
            // An administrator was quicker, with `rm`.
            Err(Errno::NOENT) => Ok(()),
            result => result.map_err(Failure::of("unlink")),
        }
    }
}

/// How a handle came to its segment.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Origin};
///
/// # let name = &format!("shmem-bind-doc-{}-origin", std::process::id());
/// let segment = Builder::new(name).with_size(64).open()?;
/// match segment.origin() {
///     Origin::Created => println!("nothing is here yet"),
///     Origin::Adopted => println!("my predecessor has died"),
///     _ => println!("others are at work here"),
/// }
/// # assert_eq!(segment.origin(), Origin::Created);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// It created it: the payload is zeros until this process writes something else.
    Created,
    /// It attached to one that others use, or that was leaked.
    Attached,
    /// It took the place of an owner that died: the payload is as that one left it.
    Adopted,
}

/// How a tenant leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// Its policy decides about the name.
    Detach(UnlinkPolicy),
    /// The name stays.
    Leak,
    /// As if its process had died.
    Lost,
}

/// A process that has the segment mapped and locked, and so may take part in its life.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) header: &'a SharedHeader,
    /// `None` for a memfd, which has no name.
    pub(crate) link: Option<&'a Link>,
    /// The identity of this process.
    pub(crate) own: Tenancy,
}

impl Member<'_> {
    /// Applies an event to the membership word.
    pub(crate) fn step(&self, event: Event) -> Result<Step, Refusal> {
        for _ in 0..CONTENTION_LIMIT {
            let word = self.header.membership();
            let step = word.step(event)?;
            if self.header.replace_membership(word, step.word) {
                return Ok(step);
            }
        }
        Err(Refusal::Corrupt)
    }

    /// Takes a free slot, after a sweep if there is none; or else one whose last tenant's objects are still to be
    /// given back, which the second result says.
    pub(crate) fn take_tenancy(&self) -> Option<(Slot, bool)> {
        let first = |was| Slot::all().find(|slot| self.header.replace_tenancy(*slot, was, self.own));
        let free = || first(Tenancy::FREE).map(|slot| (slot, false));
        free()
            .or_else(|| {
                self.sweep_dead();
                free()
            })
            .or_else(|| first(Tenancy::DECEASED).map(|slot| (slot, true)))
    }

    /// Gives back a slot whose bit is clear; `inherited` says that its estate is not settled.
    pub(crate) fn free_tenancy(&self, slot: Slot, inherited: bool) {
        self.end_generation(slot);
        let next = if inherited { Tenancy::DECEASED } else { Tenancy::FREE };
        // Not ours any more only if the segment's words have been damaged; then it is not ours to free.
        let _: bool = self.header.replace_tenancy(slot, self.own, next);
    }

    /// Says that the tenant of a claimed slot is gone, to all who wait for a lock that it held: whoever has the slot now, and
    /// whether that one is judged to live or not, it is not the holder.
    fn end_generation(&self, slot: Slot) {
        self.header.next_generation(slot);
    }

    /// Leaves; the slot stays taken, so that the name can be removed and the value destroyed before
    /// [`free_tenancy`](Self::free_tenancy). Gives whether the value is the caller's to destroy.
    ///
    /// A process that may not remove the name (it has given up the rights that it created the segment with, say)
    /// leaves an orphan instead of a segment that nobody may open any more.
    pub(crate) fn leave(&self, slot: Slot, departure: Departure) -> bool {
        let mut event = match departure {
            Departure::Leak => Event::Leak(slot),
            Departure::Lost => Event::Sweep(slot),
            Departure::Detach(policy) => Event::Detach(slot, policy),
        };
        let mut swept = false;
        // Asked once, for that takes longer than to change the word, which somebody may do over and over.
        let mut may_unlink = None;
        for _ in 0..CONTENTION_LIMIT {
            let word = self.header.membership();
            if let (Event::Detach(_, policy), false) = (event, swept) {
                if the_dead_matter(word, slot, policy) {
                    self.sweep_dead();
                    swept = true;
                    continue;
                }
            }
            let Ok(step) = word.step(event) else {
                // The words are damaged: there is nothing to leave.
                return false;
            };
            let ask = || self.link.is_none_or(|link| link.may_unlink().is_ok());
            if step.unlink && !*may_unlink.get_or_insert_with(ask) {
                self.header.count(Counter::UnlinkFailures);
                event = Event::Sweep(slot);
                continue;
            }
            if !self.header.replace_membership(word, step.word) {
                continue;
            }
            if step.unlink {
                // If that fails all the same, it has been counted, and the name is for the next one to remove who
                // meets it and may.
                let _: Result<(), Failure> = self.unlink_counted();
            }
            return step.last;
        }
        false
    }

    /// Under the exclusive lock: nobody at all is attached, so whoever is registered is dead.
    ///
    /// The membership word comes first: were a tenancy freed before its bit is cleared, a death in between
    /// would leave a bit that nobody answers for.
    pub(crate) fn vacate(&self) -> Result<(), Refusal> {
        self.step(Event::Vacate)?;
        for slot in Slot::all() {
            let tenancy = self.header.tenancy(slot);
            if tenancy == Tenancy::FREE || tenancy == Tenancy::DECEASED {
                continue;
            }
            self.end_generation(slot);
            let next = if self.header.is_arena() { Tenancy::DECEASED } else { Tenancy::FREE };
            if self.header.replace_tenancy(slot, tenancy, next) {
                self.header.count(Counter::Swept);
            }
        }
        Ok(())
    }

    /// Gives back what the tenants hold who are certainly dead; gives how many these were.
    pub(crate) fn sweep_dead(&self) -> u32 {
        // That a name could not be removed for want of permission has been counted.
        Slot::all().map(|slot| u32::from(self.sweep(slot).unwrap_or(true))).sum()
    }

    /// Gives back what the tenant of `slot` holds if it is certainly dead; gives whether it was.
    pub(crate) fn sweep(&self, slot: Slot) -> Result<bool, Failure> {
        let tenancy = self.header.tenancy(slot);
        if !tenancy.is_certainly_dead(self.own) || !self.header.replace_tenancy(slot, tenancy, self.own) {
            return Ok(false);
        }
        // At once: until then a lock that the dead one held looks like one of this process, which may be stopped.
        self.end_generation(slot);
        let result = self.clear_claimed(slot);
        self.header.count(Counter::Swept);
        result.map(|()| true)
    }

    /// Retired and yet named: acts for a designated unlinker that is dead or gone.
    ///
    /// `Ok` also if there was nothing to do because a living one is at it.
    pub(crate) fn take_over(&self, unlinker: Slot) -> Result<(), Failure> {
        for gone in [Tenancy::FREE, Tenancy::DECEASED] {
            if self.header.replace_tenancy(unlinker, gone, self.own) {
                return self.clear_claimed(unlinker);
            }
        }
        self.sweep(unlinker).map(|_| ())
    }

    /// Whether anybody is dead whose objects are still to be given back.
    pub(crate) fn has_estates(&self) -> bool {
        self.sweep_dead();
        Slot::all().any(|slot| self.header.tenancy(slot) == Tenancy::DECEASED)
    }

    /// Gives back the objects of all who are dead, and of the last tenants of the slots `inherited`, by `reclaim`, which
    /// gets their slots as a bitmap; gives what it gives, if there was anything to do.
    pub(crate) fn bury<R, E>(
        &self,
        inherited: u64,
        reclaim: impl FnOnce(u64) -> Result<R, E>,
    ) -> Result<Option<R>, E> {
        let claim = |slot: &Slot| self.header.replace_tenancy(*slot, Tenancy::DECEASED, self.own);
        let claimed: u64 = Slot::all().filter(claim).map(Slot::bit).fold(0, |bits, bit| bits | bit);
        if claimed | inherited == 0 {
            return Ok(None);
        }
        #[cfg(planted)]
        if is_planted(Mistake::SlotBeforeObjects) {
            Slot::all()
                .filter(|slot| claimed & slot.bit() != 0)
                .for_each(|slot| self.free_tenancy(slot, false));
        }
        // Killed from here on: they are ours, who have no bit in them, and so deceased again by the next sweep.
        let result = reclaim(claimed | inherited);
        for slot in Slot::all().filter(|slot| claimed & slot.bit() != 0) {
            self.free_tenancy(slot, result.is_err());
        }
        result.map(Some)
    }

    /// Sweeps a slot whose tenancy has been claimed, then frees it.
    fn clear_claimed(&self, slot: Slot) -> Result<(), Failure> {
        let result = match self.step(Event::Sweep(slot)) {
            Ok(step) if step.unlink => self.unlink_counted(),
            _ => Ok(()),
        };
        self.free_tenancy(slot, self.header.is_arena());
        result
    }

    /// As designated unlinker: removes the name, if there is one and it still leads here.
    pub(crate) fn unlink_counted(&self) -> Result<(), Failure> {
        let result = self.link.map_or(Ok(()), Link::unlink);
        if result.is_err() {
            self.header.count(Counter::UnlinkFailures);
        }
        result
    }
}

/// Whether the leaving tenant of `slot` has to look for the dead first: they may be all that keeps it from
/// being the last one out, and the unlinker of a Retired segment may be among them, whose bit is clear.
fn the_dead_matter(word: Membership, slot: Slot, policy: UnlinkPolicy) -> bool {
    match policy {
        _ if word.phase() == Ok(Phase::Retired) => true,
        UnlinkPolicy::OwnerDrop => word.has_others(slot) && word.owner_slot() == Some(slot),
        UnlinkPolicy::LastDetach => word.has_others(slot),
        UnlinkPolicy::Never => false,
    }
}
