//! The lock of writers
//!
//! The robust lock that a thread holds, as [`Gate`] wants it.

use super::super::thread_lock::{Caller, HeldLock, ThreadLock};
use super::raw::Gate;
use crate::error::LockFailure;
use crate::lock::{Holder, RawLock, Roll};
use crate::sys::clock;
use crate::word::{Look, Word};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

/// The lock of writers, as a thread sees it.
pub(super) struct Door<'a> {
    pub(super) lock: &'a ThreadLock,
    pub(super) caller: Caller<'a>,
    /// Whoever has it and waits to write, as in the words of locks.
    pub(super) waiting: &'a AtomicU32,
}

impl<'a> Gate for Door<'a> {
    type Held = HeldLock<'a>;
    const SPINS: u32 = <AtomicU32 as Word>::SPINS;

    #[inline]
    fn is_open(&self) -> bool {
        self.lock.is_free_now()
    }

    #[inline]
    fn fence(&self) {
        <AtomicU32 as Look>::fence();
    }

    #[inline]
    fn close(&self, timeout: Duration) -> Result<HeldLock<'a>, LockFailure> {
        // Whether its last holder died matters only if that was writing, which it has said.
        self.lock.lock_by(self.caller, timeout).map(|(held, _)| held)
    }

    #[inline]
    fn open(&self, held: HeldLock<'a>) {
        held.end(RawLock::unlock);
    }

    fn say(&self, is_waiting: bool) {
        let word = if is_waiting { self.caller.holder.bits() } else { 0 };
        self.waiting.store(word, Ordering::Relaxed);
    }

    fn is_awaited(&self) -> bool {
        // SYNC: with the lock: what a former holder of the same name has said it has taken back before it gave the lock back.
        self.lock.holder().is_some_and(|holder| {
            self.waiting.load(Ordering::Relaxed) == holder.bits() && !self.is_gone(holder)
        })
    }

    fn is_gone(&self, holder: Holder) -> bool {
        Roll::is_gone(self.caller.attached, holder)
    }

    fn is_ours(&self, holder: Holder) -> bool {
        self.caller.attached.is_ours(holder)
    }

    fn now(&self) -> Duration {
        clock::now()
    }
}
