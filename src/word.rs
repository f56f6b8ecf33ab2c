//! A word on which processes sleep
//!
//! What locks and events are made of, written over a [`Word`]: in a segment an `AtomicU32` and the futex calls, which the
//! compiler sees through. The tests put another word in its place, whose atomics, sleepers and dying processes are loom's
//! (`word/machine.rs`), and have loom go through the interleavings of a few processes, each of which may die before any of
//! its steps.

use crate::sys::clock;
use crate::sys::futex;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
use core::time::Duration;

/// A word that changes as a whole, and on which processes sleep.
pub(crate) trait Word {
    /// Looks at a word that somebody holds before the first sleep; see [`spin`](crate::lock::spin).
    const SPINS: u32;

    /// What it was at some time; the caller sees all that was done before whoever made it so.
    fn load(&self) -> u32;
    /// Puts `new` in the place of exactly `old`; a holder sees all that former ones did.
    fn replace(&self, old: u32, new: u32) -> bool;
    /// Sleeps while the word is `expected`, at most for `timeout`; may return at any time.
    fn wait(&self, expected: u32, timeout: Duration);
    /// Adds to it, and gives what it was; seen by others as what `replace` does.
    fn add(&self, amount: u32) -> u32;
    /// Gives how many were asleep and are woken, 0 or 1.
    fn wake_one(&self) -> usize;
    fn wake_all(&self);
    /// The time, by a clock that goes on while one sleeps.
    fn now(&self) -> Duration;
}

impl Word for AtomicU32 {
    // Some ten microseconds, more on processors that pause for long; most locks are held for less than one.
    const SPINS: u32 = 16;

    #[inline]
    fn load(&self) -> u32 {
        // SYNC: Acquire here, Release in `replace`: who reads a holder's name sees its tenancy and its generation, and
        // not those of the tenant before it.
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn replace(&self, old: u32, new: u32) -> bool {
        // SYNC: Release when unlocking, Acquire when locking: a holder sees all that former ones did.
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn add(&self, amount: u32) -> u32 {
        self.fetch_add(amount, Ordering::AcqRel)
    }

    #[inline]
    fn wait(&self, expected: u32, timeout: Duration) {
        futex::wait(self, expected, timeout);
    }

    #[inline]
    fn wake_one(&self) -> usize {
        futex::wake_one(self)
    }

    #[inline]
    fn wake_all(&self) {
        futex::wake_all(self);
    }

    #[inline]
    fn now(&self) -> Duration {
        clock::now()
    }
}

/// A word that somebody looks at who has just changed another one.
///
/// If two each change a word and then look at the one that the other changes, one of them at least sees what the other did:
/// what came between is a [`fence`](Self::fence), or the change was one that is [ordered](Ordered) and the look a [`look`](Self::look).
pub(crate) trait Look: Word {
    /// As `load`.
    fn look(&self) -> u32;
    fn fence();
}

impl Look for AtomicU32 {
    #[inline]
    fn look(&self) -> u32 {
        self.load(Ordering::SeqCst)
    }

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// A wider word, whose changes go before a [`look`](Look::look).
pub(crate) trait Ordered {
    /// What it was at some time; the caller sees all that was done before whoever made it so.
    fn load(&self) -> u64;
    /// Puts `new` in the place of exactly `old`.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Puts `new` in the place of whatever is there, after all that this thread did before. Nothing that it does then is done before
    /// that, as far as one can tell who has survived it.
    fn put(&self, new: u64);
}

impl Ordered for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        // SYNC: Acquire here, Release in `replace` and `put`.
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn replace(&self, old: u64, new: u64) -> bool {
        // On x86-64, where every exchange is a fence, it is that `look` cannot be before it which costs nothing more.
        self.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn put(&self, new: u64) {
        self.store(new, Ordering::Release);
        // Later stores may not go before it, nor does a processor let them be seen before it by one who learns of a death.
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::panic)]
pub(crate) mod machine;
