//! A value that one process changes at a time
//!
//! The lock (`lock.rs`) lies before its value. It knows only where it lies, and looks up by that which attachment of this
//! process it belongs to, and so who "I" is.
//!
//! | state | `lock` gives | and then |
//! |---|---|---|
//! | nobody's | a guard | mine |
//! | another's, who is alive | after waiting: one of the others, or `Busy` | |
//! | mine, of this thread | `Deadlock` | |
//! | a dead one's | an [`Orphaned`] | mine, orphaned |
//! | not recoverable | `NotRecoverable` | |
//!
//! | event | state | next |
//! |---|---|---|
//! | the guard is dropped, also by a panic | mine | nobody's |
//! | the process is killed, or detaches with the guard forgotten | mine, also orphaned | a dead one's |
//! | the guard is forgotten, its thread ended without dropping it | mine | mine, until the process ends or detaches |
//! | `replace`, `recover`, `assume_whole` | mine, orphaned | mine |
//! | the orphan is dropped | mine, orphaned | a dead one's |
//! | `give_up` | mine, orphaned | not recoverable |
//!
//! A value is whole whenever its lock is nobody's, since it is written only by who holds it. In all other states it is not
//! looked at as a value, nor is it destroyed with its lock: a destructor may not see it half-written either.
//!
//! # Safety
//! Gives references to the value to the holder of the lock, and to nobody else.
#![allow(unsafe_code)]

use super::result::{LockError, LockResult, Orphaned};
use crate::attachment::{Attached, Here};
use crate::error::LockFailure;
use crate::lock::{self, Acquired, Holder, RawLock};
#[cfg(planted)]
use crate::planted::{self, Mistake};
use crate::shareable::{Shareable, TypeTag};
use crate::thread::own_thread;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit, offset_of};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use static_assertions::const_assert_eq;

/// A value in shared memory that one thread of one process uses at a time.
///
/// It lies in a segment: in an object of an arena, or in the value of a segment; anywhere else it cannot be locked. Zeros
/// before a value are a lock that nobody holds, so a new segment needs no initialising if zeros are a valid `T`.
///
/// If a process dies that holds it, the next one who locks gets a [`LockError::Orphaned`], and decides what becomes of the
/// value; a process that is merely stopped keeps it, and others wait. If a thread panics that holds it, the lock is given back as if
/// nothing had happened: the value may be other than its users like, but is a value.
///
/// The lock knows in which thread it is held, and refuses a second time with [`LockFailure::Deadlock`]. (Without the feature
/// `std` that costs a system call each time.) Threads do not get it in the order in which they came.
///
/// Not for children after `fork`: what a child has inherited gives [`LockFailure::NotAttached`] for good, and a guard that was inherited
/// gives nothing back. A child opens the segment anew.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockError, Mutex};
/// use shmem_bind::{Arena, Builder, ShmemBox, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[derive(Default)]
///     #[repr(C)]
///     pub struct Account {
///         pub balance: i64,
///         pub entries: u32,
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-mutex", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// let account = arena.find_or_alloc("account", || Mutex::new(Account::default()))?;
///
/// let mut locked = match account.lock() {
///     Ok(guard) => guard,
///     // A process was killed in here: the balance may be without its entry.
///     Err(LockError::Orphaned(orphaned)) => orphaned.replace(Account::default()),
///     Err(error) => return Err(error.into()),
/// };
/// locked.balance += 100;
/// locked.entries += 1;
/// # Ok(())
/// # }
/// ```
#[repr(C)]
pub struct Mutex<T> {
    lock: RawLock,
    /// Whose thread holds it: the holder, as in the lock's word (high half), and the number of the thread (low half). 0
    /// between taking the lock and saying so here, and between taking this back and giving the lock back. The holder
    /// stands here too, so that the word of a dead one says nothing of who has taken over since.
    thread: AtomicU64,
    /// INVARIANT 1: a valid `T` whenever `lock` is free. Used by nobody but the holder; and, if it is free, by one who
    /// has the mutex for itself. Else any bytes, which may be moved along with the mutex.
    value: UnsafeCell<MaybeUninit<T>>,
}

// On machines of 32 and of 64 bits alike.
const_assert_eq!(size_of::<Mutex<u64>>(), 24);
const_assert_eq!(align_of::<Mutex<u8>>(), 8);
const_assert_eq!(offset_of!(Mutex<u64>, thread), 8);
const_assert_eq!(offset_of!(Mutex<u64>, value), 16);

// SAFETY: the lock lets one thread at a time to the value, and so merely sends it from one to the next.
unsafe impl<T: Send> Sync for Mutex<T> {}

// SAFETY: a lock, whose words are atomics, and a `Shareable` in an order fixed by `repr(C)`, all in the tag. No addresses:
// holders stand in it as numbers of slots, and threads beside their holder. Any process that
// is attached may use it; one that dies leaves it to the next holder as orphaned, and the value is not used, nor
// destroyed, before that one has said what it is.
unsafe impl<T: Shareable> Shareable for Mutex<T> {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::Mutex", 1)
        .with_field("lock", offset_of!(Self, lock), <[AtomicU32; 2]>::TAG)
        .with_field("thread", offset_of!(Self, thread), AtomicU64::TAG)
        .with_field("value", offset_of!(Self, value), T::TAG);
    const FROZEN: bool = false;
}

impl<T> Mutex<T> {
    /// A value that nobody has locked.
    pub const fn new(value: T) -> Self {
        Self {
            lock: RawLock::new(),
            thread: AtomicU64::new(0),
            value: UnsafeCell::new(MaybeUninit::new(value)),
        }
    }

    /// Locks the value, and waits as long as somebody alive holds it: for ever, if that one is stopped.
    ///
    /// Handed on by `?` as a [`ShmemError`](crate::ShmemError), an orphan is left to the next one who locks.
    ///
    /// # Errors
    /// - [`LockError::Orphaned`]: its last holder died. The lock is held, and the value yours to put right.
    /// - [`LockFailure::Deadlock`]: this thread holds it already.
    /// - [`LockFailure::NotRecoverable`]: somebody has [given it up](Orphaned::give_up).
    /// - [`LockFailure::NotAttached`]: it lies in no segment that this process has attached; so it is in a child after
    ///   `fork`, with what it inherited.
    /// - [`LockFailure::ReadOnly`], [`LockFailure::Severed`], [`LockFailure::Damaged`].
    ///
    /// # References
    ///  - [POSIX `pthread_mutexattr_getrobust(3p)`](https://man7.org/linux/man-pages/man3/pthread_mutexattr_getrobust.3p.html)
    ///    has the same idea, without the types
    #[inline]
    pub fn lock(&self) -> LockResult<'_, T> {
        self.lock_for(Duration::MAX)
    }

    /// Locks the value, and waits for at most `timeout` while somebody alive holds it.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockFailure::Busy`] when the time is up.
    #[inline]
    pub fn lock_for(&self, timeout: Duration) -> LockResult<'_, T> {
        let (here, attached) = self.place().ok_or(LockError::Failed(LockFailure::NotAttached))?;
        let holder = holder(attached).map_err(LockError::Failed)?;
        let thread = own_thread();
        if !self.lock.try_lock(holder) {
            return self.lock_contended(here, attached, thread, timeout);
        }
        self.thread.store(mark(holder, thread), Ordering::Relaxed);
        // SAFETY: nobody held it, so by invariant 1 the value is valid; taken just now, by this one.
        let guard = unsafe { MutexGuard::new(Held { mutex: self, here, holder }) };
        // Zeros are a lock that nobody holds, also those that have taken the place of this one.
        if attached.is_severed() { Err(LockError::Failed(LockFailure::Severed)) } else { Ok(guard) }
    }

    /// Locks the value if nobody alive holds it, without waiting. (Whether a holder is alive takes some system calls to say.)
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockFailure::Busy`] if somebody holds it.
    #[inline]
    pub fn try_lock(&self) -> LockResult<'_, T> {
        self.lock_for(Duration::ZERO)
    }

    #[cold]
    fn lock_contended<'a>(
        &'a self,
        here: Here<'a>,
        attached: &Attached,
        thread: u32,
        timeout: Duration,
    ) -> LockResult<'a, T> {
        let holder = holder(attached).map_err(LockError::Failed)?;
        // This thread holds it, through this attachment or another one: had it given the lock back, it would not be marked.
        let is_mine = |now| self.thread.load(Ordering::Relaxed) == mark(now, thread) && attached.is_ours(now);
        if self.lock.holder().is_some_and(is_mine) {
            return Err(LockError::Failed(LockFailure::Deadlock));
        }
        let acquired = self.lock.lock(holder, attached, timeout).map_err(|error| {
            LockError::Failed(match error {
                lock::LockError::Busy => LockFailure::Busy,
                lock::LockError::NotRecoverable => LockFailure::NotRecoverable,
                lock::LockError::Damaged => LockFailure::Damaged,
            })
        })?;
        self.thread.store(mark(holder, thread), Ordering::Relaxed);
        let held = Held { mutex: self, here, holder };
        let result = match acquired {
            // SAFETY: as in `lock_for`.
            Acquired::Clean => Ok(unsafe { MutexGuard::new(held) }),
            #[cfg(planted)]
            Acquired::OwnerDied if planted::is_planted(Mistake::OrphanAsWhole) => {
                // SAFETY: none; that is the mistake.
                Ok(unsafe { MutexGuard::new(held) })
            }
            Acquired::OwnerDied => Err(LockError::Orphaned(Orphaned::new(held))),
        };
        if attached.is_severed() { Err(LockError::Failed(LockFailure::Severed)) } else { result }
    }

    #[inline]
    fn place(&self) -> Option<(Here<'_>, &Attached)> {
        let here = Here::of(self)?;
        Some((here, here.get()?))
    }

    /// Where the value is, for those who have it locked by other means than references.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut T {
        // `MaybeUninit` is transparent.
        self.value.get().cast()
    }

    /// Takes the value out.
    ///
    /// # Errors
    /// The mutex, if it is locked: its holder died, or has forgotten the guard.
    pub fn into_inner(self) -> Result<T, Self> {
        if !self.lock.is_free() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: by invariant 1 it is valid, and nobody else's; the mutex is not used any more, nor dropped.
        Ok(unsafe { this.as_ptr().read() })
    }
}

/// This attachment, as one that may hold locks.
#[inline]
fn holder(attached: &Attached) -> Result<Holder, LockFailure> {
    let failure = || if attached.is_read_only() { LockFailure::ReadOnly } else { LockFailure::Severed };
    attached.holder().ok_or_else(failure)
}

/// What stands in the second word of a mutex that this thread of this holder has.
const fn mark(holder: Holder, thread: u32) -> u64 {
    (holder.bits() as u64) << 32 | thread as u64
}

impl<T> Drop for Mutex<T> {
    fn drop(&mut self) {
        // Held by a dead one, it may be half-written; then its destructor is not run.
        if self.lock.is_free() {
            // SAFETY: by invariant 1 it is valid, and this is the one who has the mutex for itself; it is not used again.
            unsafe { self.value.get_mut().assume_init_drop() };
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("is_locked", &!self.lock.is_free()).finish_non_exhaustive()
    }
}

/// A lock that is held. Whoever has it gives it back, once.
pub(super) struct Held<'a, T> {
    mutex: &'a Mutex<T>,
    /// INVARIANT 2: the attachment that `mutex` lies in, and `holder` its word.
    here: Here<'a>,
    holder: Holder,
}

impl<T> Clone for Held<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Held<'_, T> {}

impl<'a, T> Held<'a, T> {
    pub(super) const fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    /// Gives the lock back, by one of the ways of [`RawLock`].
    #[inline]
    pub(super) fn end(self, how: fn(&RawLock, Holder)) {
        // In a child after `fork` it is the parent's, and may not even be mapped.
        if self.here.get().is_some() {
            self.mutex.thread.store(0, Ordering::Relaxed);
            how(&self.mutex.lock, self.holder);
        }
    }
}

/// A value that is locked, until this is dropped.
///
/// It stays in its thread. A thread that panics gives the lock back all the same, and nothing is told of that.
#[must_use = "dropped, it gives the lock back"]
pub struct MutexGuard<'a, T>(
    /// INVARIANT 3: the lock is held, not given back yet, and the value valid.
    Held<'a, T>,
);

// SAFETY: it gives references to the value as `&T` and `&mut T` do. (It is not `Send`, as it has an attachment, which is
// not `Sync`; the thread that took the lock gives it back.)
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T> MutexGuard<'a, T> {
    /// Of a lock that is held.
    ///
    /// # Safety
    /// It has not been given back, nobody else gives it back, and the value is valid.
    #[inline]
    pub(super) const unsafe fn new(held: Held<'a, T>) -> Self {
        Self(held)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by invariant 3 it is valid and nobody else's, and by invariant 2 it lies in an attachment that stays.
        unsafe { &*self.0.mutex.as_ptr() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.0.mutex.as_ptr() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.end(RawLock::unlock);
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!(Mutex<Cell<u8>>: Send, Sync);
    assert_not_impl_any!(Mutex<*const u8>: Send, Sync);
    assert_impl_all!(MutexGuard<'static, u8>: Sync);
    assert_not_impl_any!(MutexGuard<'static, u8>: Send);
    assert_not_impl_any!(MutexGuard<'static, Cell<u8>>: Sync);
    assert_not_impl_any!(Orphaned<'static, u8>: Send, Sync);
    assert_not_impl_any!(Mutex<&'static u8>: Shareable);

    #[test]
    fn another_value_makes_another_type() {
        assert_ne!(<Mutex<u32>>::TAG, <Mutex<i32>>::TAG);
        assert_eq!(<Mutex<u32>>::TAG.size(), 24);
    }
}
