//! A robust lock that a thread holds
//!
//! The lock (`lock.rs`) with two things that one beside a value needs: it knows only where it lies, and looks up by that
//! which attachment of this process it belongs to, and so who "I" is; and it knows in which thread it is held, so that a thread
//! that locks it again is told.

use crate::attachment::{Attached, Here};
use crate::error::LockFailure;
use crate::lock::{Acquired, Holder, LockError, RawLock};
use crate::shareable::{Shareable, TypeTag};
use crate::thread::own_thread;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use static_assertions::{assert_not_impl_any, const_assert_eq};

/// Zeros are a lock that nobody holds.
#[repr(C)]
#[derive(Debug)]
pub(super) struct ThreadLock {
    lock: RawLock,
    /// Whose thread holds it: the holder, as in the lock's word (high half), and the number of the thread (low half). 0
    /// between taking the lock and saying so here, and between taking this back and giving the lock back. The holder
    /// stands here too, so that the word of a dead one says nothing of who has taken over since.
    thread: AtomicU64,
}

const_assert_eq!(size_of::<ThreadLock>(), 16);
const_assert_eq!(align_of::<ThreadLock>(), 8);
const_assert_eq!(offset_of!(ThreadLock, thread), 8);

impl ThreadLock {
    /// Of a struct of which it is a field.
    pub(super) const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::ThreadLock", 1)
        .with_field("lock", offset_of!(Self, lock), <[AtomicU32; 2]>::TAG)
        .with_field("thread", offset_of!(Self, thread), AtomicU64::TAG);

    pub(super) const fn new() -> Self {
        Self { lock: RawLock::new(), thread: AtomicU64::new(0) }
    }

    /// Whether nobody holds it, dead or alive.
    pub(super) fn is_free(&self) -> bool {
        self.lock.is_free()
    }

    /// The same, as it is after what this thread has just changed; see [`Look`](crate::word::Look).
    #[inline]
    pub(super) fn is_free_now(&self) -> bool {
        self.lock.is_free_now()
    }

    /// Who holds it now, dead or alive.
    pub(super) fn holder(&self) -> Option<Holder> {
        self.lock.holder()
    }

    /// Takes it, and waits for at most `timeout` while somebody alive holds it.
    #[inline]
    pub(super) fn lock_for(&self, timeout: Duration) -> Result<(HeldLock<'_>, Acquired), LockFailure> {
        self.lock_by(Caller::of(self)?, timeout)
    }

    /// The same, by one who knows already who it is.
    #[inline]
    pub(super) fn lock_by<'a>(
        &'a self,
        caller: Caller<'a>,
        timeout: Duration,
    ) -> Result<(HeldLock<'a>, Acquired), LockFailure> {
        let Caller { here, attached, holder, thread } = caller;
        let acquired = if self.lock.try_lock(holder) {
            Acquired::Clean
        } else {
            self.lock_contended(holder, attached, thread, timeout)?
        };
        self.thread.store(mark(holder, thread), Ordering::Relaxed);
        let held = HeldLock { lock: self, here, holder };
        // Zeros are a lock that nobody holds, also those that have taken the place of this one.
        if attached.is_severed() {
            held.end(match acquired {
                Acquired::Clean => RawLock::unlock,
                Acquired::OwnerDied => RawLock::abandon,
            });
            return Err(LockFailure::Severed);
        }
        Ok((held, acquired))
    }

    /// Whether this thread holds it, by whichever of its attachments.
    pub(super) fn is_held_by(&self, caller: Caller<'_>) -> bool {
        self.is_held_by_thread(caller.attached, caller.thread)
    }

    fn is_held_by_thread(&self, attached: &Attached, thread: u32) -> bool {
        // Had it given the lock back, it would not be marked.
        let is_mine = |now| self.thread.load(Ordering::Relaxed) == mark(now, thread) && attached.is_ours(now);
        self.lock.holder().is_some_and(is_mine)
    }

    #[cold]
    fn lock_contended(
        &self,
        holder: Holder,
        attached: &Attached,
        thread: u32,
        timeout: Duration,
    ) -> Result<Acquired, LockFailure> {
        if self.is_held_by_thread(attached, thread) {
            return Err(LockFailure::Deadlock);
        }
        self.lock.lock(holder, attached, timeout).map_err(|error| match error {
            LockError::Busy => LockFailure::Busy,
            LockError::NotRecoverable => LockFailure::NotRecoverable,
            LockError::Damaged => LockFailure::Damaged,
        })
    }
}

/// The attachment that something lies in which sleeps, or is held.
#[inline]
pub(super) fn place<T>(something: &T) -> Result<(Here<'_>, &Attached), LockFailure> {
    let here = Here::of(something).ok_or(LockFailure::NotAttached)?;
    Ok((here, here.get().ok_or(LockFailure::NotAttached)?))
}

/// An attachment, as one that may hold locks.
#[inline]
pub(super) fn holder(attached: &Attached) -> Result<Holder, LockFailure> {
    let failure = || if attached.is_read_only() { LockFailure::ReadOnly } else { LockFailure::Severed };
    attached.holder().ok_or_else(failure)
}

/// A thread, and the attachment by which it wants something that lies in it.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) here: Here<'a>,
    pub(super) attached: &'a Attached,
    pub(super) holder: Holder,
    pub(super) thread: u32,
}

impl<'a> Caller<'a> {
    #[inline(always)]
    pub(super) fn of<T>(something: &'a T) -> Result<Self, LockFailure> {
        let (here, attached) = place(something)?;
        Ok(Self { here, attached, holder: holder(attached)?, thread: own_thread() })
    }
}

/// What stands in the second word of a lock that this thread of this holder has.
const fn mark(holder: Holder, thread: u32) -> u64 {
    (holder.bits() as u64) << 32 | thread as u64
}

/// A lock that is held. Whoever has it gives it back, once. It stays in its thread, and so do the guards that are made of it: it has a
/// reference to the record of an attachment, which is not `Sync`, by its cell. (What is in the cell is.)
#[derive(Clone, Copy)]
pub(super) struct HeldLock<'a> {
    lock: &'a ThreadLock,
    /// INVARIANT: the attachment that `lock` lies in, and `holder` its word.
    here: Here<'a>,
    holder: Holder,
}

assert_not_impl_any!(HeldLock<'static>: Send, Sync);
assert_not_impl_any!(Caller<'static>: Send, Sync);

impl HeldLock<'_> {
    /// Gives the lock back, by one of the ways of [`RawLock`].
    #[inline]
    pub(super) fn end(self, how: fn(&RawLock, Holder)) {
        // In a child after `fork` it is the parent's, and may not even be mapped.
        if self.here.get().is_some() {
            self.lock.thread.store(0, Ordering::Relaxed);
            how(&self.lock.lock, self.holder);
        }
    }
}
