//! What the daemon and its clients agree on
//!
//! | turn | whose | next |
//! |---|---|---|
//! | `FREE` | nobody's | `ASKED`, by the client that holds the desk |
//! | `ASKED` | the daemon's | `ANSWERED` |
//! | `ANSWERED` | the client's | `FREE` |
//! | `STOP` | nobody's any more | |

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use shmem_bind::sync::Mutex;
use shmem_bind::{Handle, shareable};

/// The name of the desk in the arena.
pub const DESK: &str = "desk";

#[allow(dead_code)] // The daemon waits for anything else.
pub const FREE: u32 = 0;
pub const ASKED: u32 = 1;
pub const ANSWERED: u32 = 2;
pub const STOP: u32 = 3;

shareable! {
    /// Where a client asks, and the daemon answers.
    #[derive(Default)]
    #[repr(C)]
    pub struct Desk {
        /// Which of the four; both wait for it to change.
        pub turn: AtomicU32,
        /// How many questions were answered.
        pub answered: AtomicU32,
        /// The text asked about: a handle of bytes, which the daemon claims.
        pub question: Slip,
        /// The answer: a handle, which the client claims.
        pub answer: Slip,
        /// Held by a client from asking to reading the answer. The number is how many calls there were.
        pub calls: Mutex<u32>,
    }
}

shareable! {
    /// What the daemon finds out about a text.
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub struct Answer {
        pub bytes: u32,
        pub lines: u32,
        pub words: u32,
        /// FNV-1a.
        pub hash: u32,
    }
}

shareable! {
    /// A place for a handle that whoever's turn it is writes, and the other one reads.
    #[derive(Default)]
    #[repr(C)]
    pub struct Slip {
        low: AtomicU64,
        high: AtomicU64,
    }
}

impl Slip {
    /// Before the turn is passed on, which publishes it.
    pub fn write<T: ?Sized>(&self, handle: Handle<T>) {
        let bits = handle.to_bits();
        self.low.store(bits as u64, Relaxed);
        self.high.store((bits >> 64) as u64, Relaxed);
    }

    pub fn read<T: ?Sized>(&self) -> Handle<T> {
        let (low, high) = (self.low.load(Relaxed), self.high.load(Relaxed));
        Handle::from_bits(u128::from(high) << 64 | u128::from(low))
    }
}
