//! Sleeping on a word, and waking who sleeps there
//!
//! Never the private operations: the sleepers are in other processes. Every sleep has an end, so that a waker
//! that dies before it wakes costs time and nothing else.

use core::sync::atomic::AtomicU32;
use core::time::Duration;
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};
use rustix::time::Timespec;

/// Sleeps while the word is `expected`, at most for `timeout`, which is less than a second.
///
/// Returns also when woken for no reason, or by a signal: the caller looks again in any case.
#[doc(alias = "FUTEX_WAIT")]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
    // It ends by a wake (Ok), because the word differs (EAGAIN), in time (ETIMEDOUT) or by a signal (EINTR). Where
    // there are no futexes at all the caller spins until its deadline.
    let _: Result<(), Errno> = futex::wait(word, Flags::empty(), expected, Some(&timeout));
}

/// Wakes one who sleeps on this word; gives how many that were, 0 or 1.
#[doc(alias = "FUTEX_WAKE")]
pub(crate) fn wake_one(word: &AtomicU32) -> usize {
    wake(word, 1)
}

/// Wakes all who sleep on this word.
pub(crate) fn wake_all(word: &AtomicU32) {
    let _: usize = wake(word, i32::MAX.unsigned_abs());
}

fn wake(word: &AtomicU32, count: u32) -> usize {
    // Fails for an address that is not mapped, and a reference is.
    futex::wake(word, Flags::empty(), count).unwrap_or_default()
}
