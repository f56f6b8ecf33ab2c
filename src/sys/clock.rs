//! Bounded waiting
//!
//! A process never sleeps in a lock: it tries, and a [`Deadline`] says how long it may go on trying. So a
//! peer that holds a lock and does not move costs an error and not a hang.

use core::time::Duration;
use rustix::thread;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Tries before the first sleep: a peer that is running is done within microseconds.
const YIELDS: u32 = 16;
const FIRST_SLEEP: Duration = Duration::from_micros(50);
const LONGEST_SLEEP: Duration = Duration::from_millis(2);

/// Time since boot, without the time asleep.
pub(crate) fn now() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    // The kernel keeps both fields of CLOCK_MONOTONIC in range.
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

/// Sleeps for less than a second, or until a signal arrives.
pub(crate) fn pause(time: Duration) {
    let request = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    let _: thread::NanosleepRelativeResult = thread::nanosleep(&request);
}

/// How long to go on trying, counted from the first wait.
#[derive(Debug)]
pub(crate) struct Deadline {
    timeout: Duration,
    start: Option<Duration>,
    tries: u32,
    sleep: Duration,
}

impl Deadline {
    pub(crate) const fn new(timeout: Duration) -> Self {
        Self { timeout, start: None, tries: 0, sleep: FIRST_SLEEP }
    }

    /// Lets others run for a moment, a longer one each time; `false` when the time is up.
    pub(crate) fn wait(&mut self) -> bool {
        let now = now();
        let start = *self.start.get_or_insert(now);
        if now.saturating_sub(start) >= self.timeout {
            return false;
        }
        self.tries = self.tries.saturating_add(1);
        if self.tries <= YIELDS {
            thread::sched_yield();
            return true;
        }
        // Woken early by a signal: the caller tries once more often, no harm done.
        pause(self.sleep);
        self.sleep = self.sleep.saturating_mul(2).min(LONGEST_SLEEP);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends() {
        let mut deadline = Deadline::new(Duration::from_millis(5));
        let before = now();
        while deadline.wait() {}
        assert!(now() - before >= Duration::from_millis(5));
        assert!(!deadline.wait());
    }

    #[test]
    fn no_time_means_one_try() {
        assert!(!Deadline::new(Duration::ZERO).wait());
    }
}
