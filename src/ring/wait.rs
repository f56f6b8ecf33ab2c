//! Waiting for a place, or for an element
//!
//! Asleep on an event, or awake. A sleeper listens, then looks; whoever commits or releases changes the cell, then asks whether
//! anybody listens. Between the two steps each has a fence, so one of both sees the other.
//!
//! Elements and places come in order, and who brings one wakes one. But a wake may come for an element behind one that is still being
//! written: who gets it sleeps again, and is woken once more when that one is there. So who has slept and got something
//! passes a wake on: there may be more than one thing to be had for the one wake.
//!
//! Nobody is woken by a death. Each sleep has an end, and then the holder of the cell that is waited for is looked at.

use super::cell::Refusal;
use crate::event::RawEvent;
use crate::lock::{Word, spin};
use crate::sys::clock;
use core::hint::spin_loop;
use core::time::Duration;

/// Tries between two looks at the clock, and for the dead, of one who waits awake. A power of two.
const TRIES: u32 = 1 << 10;

/// Waits asleep until `attempt` gives something, for at most `timeout`; it is told whether to look for the dead.
pub(super) fn asleep<W: Word, R>(
    event: &RawEvent<W>,
    fence: fn(),
    timeout: Duration,
    mut attempt: impl FnMut(bool) -> Result<R, Refusal>,
) -> Result<R, Refusal> {
    let mut outcome = attempt(false);
    let is_over = |outcome: &Result<R, Refusal>| !matches!(outcome, Err(Refusal::NotReady));
    if is_over(&outcome) {
        return outcome;
    }
    let mut has_slept = false;
    if !timeout.is_zero()
        && spin(W::SPINS, || {
            outcome = attempt(false);
            is_over(&outcome)
        })
    {
        return outcome;
    }
    let start = event.now();
    loop {
        let since = event.listen();
        fence();
        // Before the look, so that the last one is when the time is up.
        let left = timeout.saturating_sub(event.now().saturating_sub(start));
        outcome = attempt(true);
        if is_over(&outcome) {
            if has_slept && event.is_listened_to() {
                event.notify_one();
            }
            return outcome;
        }
        if left.is_zero() {
            return outcome;
        }
        has_slept = true;
        let _: bool = event.sleep(since, left);
    }
}

/// The same, awake.
pub(super) fn awake<R>(
    timeout: Duration,
    mut attempt: impl FnMut(bool) -> Result<R, Refusal>,
) -> Result<R, Refusal> {
    let (mut tries, mut start) = (0_u32, None);
    loop {
        tries = tries.wrapping_add(1);
        let looks_around = tries & TRIES.wrapping_sub(1) == 0;
        match attempt(looks_around) {
            Err(Refusal::NotReady) => {}
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
