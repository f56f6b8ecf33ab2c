//! Waiting for a place, or for an element
//!
//! Asleep on an event, or awake. A sleeper listens, then looks; whoever commits or releases changes the cell, then asks whether
//! anybody listens. Between the two steps each has a fence, so one of both sees the other.
//!
//! Elements and places come in order, and who brings one wakes one. But a wake may come for an element behind one that is still being
//! written: who gets it sleeps again, and is woken once more when that one is there. So who has slept and got something
//! passes a wake on: there may be more than one thing to be had for the one wake.
//!
//! Of a closed queue all are told of each element that still comes: one gets it, and the others may have come to the end.
//!
//! Nobody is woken by a death. Each sleep has an end, and then the holder of the cell that is waited for is looked at.

use super::cell::Refusal;
use crate::error::QueueError;
use crate::event::RawEvent;
use crate::sys::clock;
use crate::word::Word;
use core::convert::Infallible;
use core::hint::spin_loop;
use core::time::Duration;

/// Tries between two looks at the clock, and for the dead, of one who waits awake. A power of two.
const TRIES: u32 = 1 << 10;

/// Waits asleep until `attempt` gives something, for at most `timeout`, by one who has just tried in vain. `is_more` says whether another
/// one may go on too.
///
/// Without looking again and again first, as at a lock: nobody knows when a message comes, and where the two share a
/// processor it would come the later for it.
pub(super) fn asleep<W: Word, R>(
    event: &RawEvent<W>,
    fence: fn(),
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<R, Refusal>,
    is_more: impl FnOnce() -> bool,
) -> Result<R, Refusal> {
    let mut looks = 0_u32;
    let check = || Ok::<(), Infallible>(());
    let mut look = || {
        looks = looks.saturating_add(1);
        // SYNC: after listening, with `publish`.
        fence();
        match attempt() {
            Err(refusal) if refusal.may_pass() => None,
            outcome => Some(outcome),
        }
    };
    // Who does not wait looks for the dead still.
    let Ok(outcome) = if timeout.is_zero() { Ok(look()) } else { event.sleep_until(timeout, check, look) };
    // Before the first sleep it looks once.
    if looks > 1 && outcome.is_some() && event.is_listened_to() && is_more() {
        event.notify_one();
    }
    outcome.unwrap_or(Err(Refusal::NotReady))
}

/// Wakes who waits for one of `len` things, that can be had from now on; or all, if `is_for_all` says so.
#[inline]
pub(super) fn tell<W: Word>(event: &RawEvent<W>, len: u64, is_for_all: impl FnOnce() -> bool) {
    if event.is_listened_to() {
        wake(event, len != 1 || is_for_all());
    }
}

#[cold]
fn wake<W: Word>(event: &RawEvent<W>, is_for_all: bool) {
    if is_for_all { event.notify_all() } else { event.notify_one() }
}

/// Takes places to send to, unless the queue is closed, and gives them back if that comes between: then those who received may have
/// come to the end before they could see that the places were taken.
///
/// `fence` is a fence for one who has just made an exchange, as a claim does; [`unless_at_end`] has one between its looks. So if a
/// sender finds that the queue is open still, those who find it closed find the claim.
#[inline]
pub(super) fn while_open<R>(
    is_closed: impl Fn() -> bool,
    fence: fn(),
    attempt: impl FnOnce() -> Result<R, Refusal>,
    give_back: impl FnOnce(R),
) -> Result<R, Refusal> {
    if is_closed() {
        return Err(Refusal::Other(QueueError::Closed));
    }
    let claim = attempt()?;
    // SYNC: with `Queue::close`, and the fence of those who received.
    fence();
    if is_closed() {
        give_back(claim);
        return Err(Refusal::Other(QueueError::Closed));
    }
    Ok(claim)
}

/// Tries to receive from a queue that may be closed: at its end, nothing more comes then.
///
/// What somebody is still sending may come, and what was sent behind that is there; only who finds neither has come to the end.
#[inline]
pub(super) fn unless_at_end<R>(
    is_closed: impl FnOnce() -> bool,
    fence: fn(),
    mut attempt: impl FnMut() -> Result<R, Refusal>,
) -> Result<R, Refusal> {
    match attempt() {
        Err(refusal) if refusal.may_pass() && is_closed() => {
            // What was sent, or begun, before it was closed is there now.
            fence();
            match attempt() {
                Err(Refusal::NotReady) => Err(Refusal::Other(QueueError::Closed)),
                outcome => outcome,
            }
        }
        outcome => outcome,
    }
}

/// Waits awake until `attempt` gives something, for at most `timeout`.
#[inline]
pub(super) fn awake<R>(
    timeout: Duration,
    mut attempt: impl FnMut(bool) -> Result<R, Refusal>,
) -> Result<R, Refusal> {
    let (mut tries, mut start) = (0_u32, None);
    loop {
        let looks_around = tries & TRIES.wrapping_sub(1) == TRIES.wrapping_sub(1);
        tries = tries.wrapping_add(1);
        match attempt(looks_around) {
            Err(refusal) if refusal.may_pass() => {}
            outcome => return outcome,
        }
        if looks_around {
            let now = clock::now();
            if now.saturating_sub(*start.get_or_insert(now)) >= timeout {
                return Err(Refusal::NotReady);
            }
        }
        spin_loop();
    }
}
