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

use super::result::{Ending, Guard, LockError, LockResult, Orphaned};
use super::thread_lock::{HeldLock, ThreadLock};
#[cfg(doc)]
use crate::error::LockFailure;
use crate::lock::{Acquired, Holder, RawLock};
#[cfg(planted)]
use crate::planted::{self, Mistake};
use crate::shareable::{FromZeros, Shareable, TypeTag};
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit, offset_of};
use core::ops::{Deref, DerefMut};
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
/// Moved to another segment, make it anew around its value: one that was left locked, by a guard that was forgotten, would be waited for
/// there as long as a stranger lives who has the number of the one that left it.
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
    lock: ThreadLock,
    /// INVARIANT 1: a valid `T` whenever `lock` is free. Used by nobody but the holder; and, if it is free, by one who
    /// has the mutex for itself. Else any bytes, which may be moved along with the mutex.
    value: UnsafeCell<MaybeUninit<T>>,
}

// On machines of 32 and of 64 bits alike.
const_assert_eq!(size_of::<Mutex<u64>>(), 24);
const_assert_eq!(align_of::<Mutex<u8>>(), 8);
const_assert_eq!(offset_of!(Mutex<u64>, value), 16);

// SAFETY: the lock lets one thread at a time to the value, and so merely sends it from one to the next.
unsafe impl<T: Send> Sync for Mutex<T> {}

// SAFETY: a lock, whose words are atomics, and a `Shareable` in an order fixed by `repr(C)`, all in the tag. No addresses:
// holders stand in it as numbers of slots, and threads beside their holder. Any process that
// is attached may use it; one that dies leaves it to the next holder as orphaned, and the value is not used, nor
// destroyed, before that one has said what it is.
unsafe impl<T: Shareable> Shareable for Mutex<T> {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::Mutex", 1)
        .with_field("lock", offset_of!(Self, lock), ThreadLock::TAG)
        .with_field("value", offset_of!(Self, value), T::TAG);
    const FROZEN: bool = false;
}

// SAFETY: zeros are a lock that nobody holds, and a value.
unsafe impl<T: FromZeros> FromZeros for Mutex<T> {}

impl<T> Mutex<T> {
    /// A value that nobody has locked.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Mutex;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let limits = arena.alloc(Mutex::new([10_u32, 20]))?;
    /// assert_eq!(limits.lock()?[1], 20);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub const fn new(value: T) -> Self {
        Self { lock: ThreadLock::new(), value: UnsafeCell::new(MaybeUninit::new(value)) }
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
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// let mut locked = number.lock()?;
    /// *locked += 1;
    /// // Once more in the same thread it would wait for itself.
    /// assert_eq!(number.lock().unwrap_err().failure(), LockFailure::Deadlock);
    /// drop(locked);
    /// assert_eq!(*number.lock()?, 8);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// # use std::time::Duration;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// let _locked = number.lock()?;
    /// std::thread::scope(|scope| {
    ///     let other = scope.spawn(|| number.lock_for(Duration::from_millis(5)).unwrap_err().failure());
    ///     assert_eq!(other.join().unwrap(), LockFailure::Busy);
    /// });
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn lock_for(&self, timeout: Duration) -> LockResult<'_, T> {
        let (lock, acquired) = self.lock.lock_for(timeout).map_err(LockError::Failed)?;
        let held = Held { mutex: self, lock };
        match acquired {
            // SAFETY: nobody held it, so by invariant 1 the value is valid; taken just now, by this one.
            Acquired::Clean => Ok(unsafe { MutexGuard::new(held) }),
            #[cfg(planted)]
            Acquired::OwnerDied if planted::is_planted(Mistake::OrphanAsWhole) => {
                // SAFETY: none; that is the mistake.
                Ok(unsafe { MutexGuard::new(held) })
            }
            Acquired::OwnerDied => Err(LockError::Orphaned(Orphaned::new(held))),
        }
    }

    /// Locks the value if nobody alive holds it, without waiting. (Whether a holder is alive takes some system calls to say.)
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockFailure::Busy`] if somebody holds it.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Mutex;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// match number.try_lock() {
    ///     Ok(locked) => println!("it is {}", *locked),
    ///     Err(error) => println!("not now: {error}"),
    /// }
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn try_lock(&self) -> LockResult<'_, T> {
        self.lock_for(Duration::ZERO)
    }

    /// Where the value is, for those who have it locked by other means than references.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Mutex;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// let locked = number.lock()?;
    /// assert_eq!(number.as_ptr().cast_const(), &raw const *locked);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn as_ptr(&self) -> *mut T {
        // `MaybeUninit` is transparent.
        self.value.get().cast()
    }

    /// The value, for one who has the mutex for itself, and so need not lock it; `None` if it is locked: its holder died, or has forgotten
    /// the guard.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Mutex;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let mut number = arena.alloc(Mutex::new(7_u32))?;
    /// *number.get_mut().unwrap() += 1;
    /// assert_eq!(*number.lock()?, 8);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: by invariant 1 it is valid, and this is the one who has the mutex for itself.
        self.lock.is_free().then(|| unsafe { self.value.get_mut().assume_init_mut() })
    }

    /// Takes the value out.
    ///
    /// # Errors
    /// The mutex, if it is locked: its holder died, or has forgotten the guard. What is in it then
    /// [`into_inner_unchecked`](Self::into_inner_unchecked) gives.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Mutex;
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// let mutex = ShmemBox::into_inner(number).unwrap();
    /// assert_eq!(mutex.into_inner().unwrap(), 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn into_inner(self) -> Result<T, Self> {
        if !self.lock.is_free() {
            return Err(self);
        }
        // SAFETY: by invariant 1 it is valid.
        Ok(unsafe { self.into_inner_unchecked() })
    }

    /// Takes the value out, also if it is locked: its holder died, or has forgotten the guard.
    ///
    /// # Safety
    /// The bytes are a valid `T`, and one that all the code of `T` can live with. They are if [`into_inner`](Self::into_inner) would give
    /// it; else somebody has looked at them, through [`as_ptr`](Self::as_ptr), or any bytes are one.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Mutex;
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// # let elsewhere = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// std::mem::forget(number.lock()?);
    /// let left = ShmemBox::into_inner(number).unwrap().into_inner().unwrap_err();
    /// // SAFETY: any bytes are a number.
    /// let value = unsafe { left.into_inner_unchecked() };
    /// let moved = elsewhere.alloc(Mutex::new(value))?;
    /// assert_eq!(*moved.lock()?, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use = "it is taken out"]
    pub unsafe fn into_inner_unchecked(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: the caller promises that it is valid; nobody else has it, and the mutex is not used any more, nor dropped.
        unsafe { this.as_ptr().read() }
    }
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

/// A mutex whose lock is held. Whoever has it gives it back, once.
pub struct Held<'a, T> {
    mutex: &'a Mutex<T>,
    /// INVARIANT 2: that of `mutex`.
    lock: HeldLock<'a>,
}

impl<T> Clone for Held<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Held<'_, T> {}

impl<T> fmt::Debug for Held<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mutex.fmt(f)
    }
}

impl<'a, T> Held<'a, T> {
    const fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    /// Gives the lock back, by one of the ways of [`RawLock`].
    #[inline]
    pub(super) fn end(self, how: fn(&RawLock, Holder)) {
        self.lock.end(how);
    }
}

impl<'a, T> Guard<T> for MutexGuard<'a, T> {
    type Held = Held<'a, T>;

    fn place(held: Self::Held) -> *mut T {
        held.mutex.as_ptr()
    }

    unsafe fn of(held: Self::Held) -> Self {
        // SAFETY: the caller promises the same.
        unsafe { Self::new(held) }
    }

    fn leave(held: Self::Held, ending: Ending) {
        held.end(match ending {
            Ending::Abandoned => RawLock::abandon,
            Ending::GivenUp => RawLock::give_up,
        });
    }
}

/// A value that is locked, until this is dropped.
///
/// It stays in its thread. A thread that panics gives the lock back all the same, and nothing is told of that.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{Mutex, MutexGuard};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// fn rename(name: &mut MutexGuard<'_, [u8; 4]>) {
///     name.copy_from_slice(b"new!");
/// }
///
/// let name = arena.alloc(Mutex::new(*b"old!"))?;
/// rename(&mut name.lock()?);
/// assert_eq!(&*name.lock()?, b"new!");
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[must_use = "dropped, it gives the lock back"]
pub struct MutexGuard<'a, T>(
    /// INVARIANT 3: the lock is held, not given back yet, and the value valid.
    Held<'a, T>,
);

// SAFETY: it gives references to the value as `&T` and `&mut T` do. (It is not `Send`, as `HeldLock` is not: the
// thread that took the lock gives it back.)
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T> MutexGuard<'a, T> {
    /// Of a lock that is held.
    ///
    /// # Safety
    /// It has not been given back, nobody else gives it back, and the value is valid.
    #[inline]
    const unsafe fn new(held: Held<'a, T>) -> Self {
        Self(held)
    }

    /// What is locked.
    pub(super) const fn mutex(&self) -> &'a Mutex<T> {
        self.0.mutex()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by invariant 3 it is valid and nobody else's, and by invariant 2 and that of [`HeldLock`] it lies in an attachment that stays.
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
