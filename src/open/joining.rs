//! Joining a segment that exists

use super::{AGAIN, Attempt, Intent, damaged};
use crate::attachment::{Attached, Seat};
use crate::error::ShmemError;
use crate::header::{Counter, Header};
use crate::lifecycle::{Link, Member, Origin};
use crate::membership::{Event, OrphanPolicy, Phase, Refusal, Slot};
use crate::region::Region;
use crate::sys::Failure;
use crate::tenancy::Tenancy;
use core::time::Duration;

/// A segment that is locked (unless it is a memfd), mapped, and not being formed.
pub(super) struct Joining {
    pub(super) intent: Intent,
    pub(super) header: Header,
    pub(super) region: Region,
    pub(super) link: Option<Link>,
    pub(super) own: Tenancy,
    pub(super) patience: Duration,
}

impl Joining {
    pub(super) fn attach(self) -> Result<Attempt, ShmemError> {
        let member = Member { header: self.region.header(), link: self.link.as_ref(), own: self.own };
        let word = member.header.membership();
        let phase = word.phase().map_err(|refusal| damaged(&member, refusal))?;
        match (phase, self.intent) {
            (Phase::Live, Intent::Read) => {
                return Ok(Attempt::Done(Some(self.attached(None, Origin::Attached))));
            }
            (Phase::Live, _) => {}
            (Phase::Forming, _) | (Phase::Retired, Intent::Read) => return Err(ShmemError::NotFound),
            (Phase::Retired, _) => {
                if let Some(unlinker) = word.owner_slot() {
                    member.take_over(unlinker)?;
                }
                return AGAIN;
            }
        }
        if self.intent == Intent::Unlink {
            return retire(&member);
        }
        if !self.look_after_the_dead(&member) {
            self.check_wishes()?;
        } else if self.intent.creates().is_none() {
            // What is to be made anew does not count as there.
            return Err(ShmemError::NotFound);
        } else {
            may_unlink(&member)?;
        }
        let (slot, inherited) = member.take_tenancy().ok_or(ShmemError::Full)?;
        // Killed from here on: a sweep finds the tenancy.
        let generation = member.header.next_generation(slot);
        let step = match member.step(self.joining_event(slot)) {
            Ok(step) if !step.unlink => {
                let origin =
                    if step.word.owner_slot() == Some(slot) { Origin::Adopted } else { Origin::Attached };
                if origin == Origin::Adopted {
                    member.header.count(Counter::Adopted);
                }
                return Ok(Attempt::Done(Some(
                    self.attached(Some(Seat { slot, generation, inherited }), origin),
                )));
            }
            other => other,
        };
        let result = match step {
            // Retired instead of joined, to be made anew.
            Ok(_) => member.unlink_counted().map_err(ShmemError::from).and(AGAIN),
            Err(Refusal::Phase(_)) => AGAIN,
            Err(Refusal::Orphaned) => Err(ShmemError::Orphaned),
            Err(refusal) => Err(damaged(&member, refusal)),
        };
        member.free_tenancy(slot, inherited);
        result
    }

    /// Who only attaches does not take an orphan from the one who will open it: its leaving would unlink it. A
    /// memfd has no other way of being opened.
    fn joining_event(&self, slot: Slot) -> Event {
        match self.header.orphan_policy() {
            OrphanPolicy::Adopt if self.intent == Intent::Attach && self.link.is_some() => {
                Event::JoinAside(slot)
            }
            policy => Event::Join(slot, policy),
        }
    }

    /// Sweeps the owner if it is dead, so that this opener is the next one to find an orphan; and gives
    /// whether the segment is to be unlinked and made anew, as its policy wants it.
    fn look_after_the_dead(&self, member: &Member<'_>) -> bool {
        if let Some(owner) = member.header.membership().owner_slot() {
            // If the segment has been retired meanwhile, this may have to unlink it. That it is not permitted to
            // has been counted, and joining is refused.
            let _: Result<bool, Failure> = member.sweep(owner);
        }
        if self.header.orphan_policy() != OrphanPolicy::Recreate || !member.header.membership().is_orphan() {
            return false;
        }
        member.sweep_dead();
        let word = member.header.membership();
        word.is_orphan() && word.count() == 0
    }

    /// Checks that the segment is one that the caller wants.
    fn check_wishes(&self) -> Result<(), ShmemError> {
        match self.intent {
            Intent::Create { .. } => Err(ShmemError::AlreadyExists),
            Intent::Open { payload_len } if payload_len > self.header.payload_len() => {
                Err(ShmemError::TooSmall { payload: self.header.payload_len(), asked: payload_len })
            }
            _ => Ok(()),
        }
    }

    fn attached(self, seat: Option<Seat>, origin: Origin) -> Attached {
        Attached::new(self.header, origin, self.region, self.link, self.own, seat, self.patience)
    }
}

/// Whether this process may take the name away: a segment that has been retired stays so, if it may not.
fn may_unlink(member: &Member<'_>) -> Result<(), ShmemError> {
    Ok(member.link.map_or(Ok(()), Link::may_unlink)?)
}

/// An administrator's way to take the name of a Live segment away.
fn retire(member: &Member<'_>) -> Result<Attempt, ShmemError> {
    may_unlink(member)?;
    let (slot, inherited) = member.take_tenancy().ok_or(ShmemError::Full)?;
    let result = match member.step(Event::Retire(slot)) {
        Ok(_) => member.unlink_counted().map(|()| Attempt::Done(None)).map_err(ShmemError::from),
        Err(Refusal::Phase(_)) => AGAIN,
        Err(refusal) => Err(damaged(member, refusal)),
    };
    member.free_tenancy(slot, inherited);
    result
}
