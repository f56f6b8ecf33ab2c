//! What victim, vandal and supervisor share

use super::victim::DEEDS;
use crate::hostile::verdict::LastWords;
use nix::libc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};

/// No turn.
pub const NONE: u64 = 0;

/// How often something was done, and failed.
#[repr(C)]
pub struct Count {
    pub good: AtomicU64,
    pub bad: AtomicU64,
    /// The longest that it took, in microseconds of the processor.
    pub slowest: AtomicU64,
}

/// Zeros are what it begins with.
#[repr(C)]
pub struct Board {
    /// The turn whose segment may be damaged.
    pub turn: AtomicU64,
    /// The turn at whose segment the vandal is.
    pub vandal: AtomicU64,
    /// Where that segment is found.
    path: [AtomicU8; 256],
    /// Operations that the victims have begun.
    pub operations: AtomicU64,
    /// The one that is under way.
    pub deed: AtomicU32,
    /// Since when, in milliseconds of the clock.
    pub since: AtomicU64,
    /// Words that the vandal has overwritten.
    pub damaged: AtomicU64,
    /// Turns that have been played.
    pub turns: AtomicU64,
    pub stop: AtomicBool,
    pub counts: [Count; DEEDS],
    pub last_words: LastWords,
}

impl Board {
    pub fn set_path(&self, path: &str) {
        let bytes = path.bytes().chain([0]);
        self.path.iter().zip(bytes).for_each(|(place, byte)| place.store(byte, SeqCst));
    }

    pub fn path(&self) -> String {
        let bytes = self.path.iter().map(|byte| byte.load(SeqCst)).take_while(|byte| *byte != 0).collect();
        String::from_utf8(bytes).unwrap()
    }
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(unsafe { libc::clock_gettime(which, &mut time) }, 0);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Milliseconds that mean the same for all processes.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC) / 1000
}

/// Microseconds that this thread has had a processor.
pub fn spent() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}
