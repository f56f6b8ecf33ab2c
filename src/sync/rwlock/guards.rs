//! What those have who read or write a value
//!
//! # Safety
//! Gives references to the value to those who have a place for reading, or to the one who has said that it writes.
#![allow(unsafe_code)]

use super::super::result::{Ending, Guard};
use super::super::thread_lock::Caller;
use super::{Held, RwLock};
use crate::lock::RawLock;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

/// A value that is read, until this is dropped.
///
/// It stays in its thread. A thread that panics gives it back all the same.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{RwLock, RwLockReadGuard};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
///
/// fn is_even(number: &RwLockReadGuard<'_, u32>) -> bool {
///     **number % 2 == 0
/// }
///
/// assert!(is_even(&lock.read()?));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[must_use = "dropped, it gives the lock back"]
pub struct RwLockReadGuard<'a, T, const READERS: usize = 32> {
    lock: &'a RwLock<T, READERS>,
    /// INVARIANT 1: of this thread, and the attachment that `lock` lies in.
    caller: Caller<'a>,
    /// INVARIANT 2: where this guard is counted, and not given back yet. The value is valid, and nobody writes it meanwhile.
    place: usize,
}

// SAFETY: it gives references to the value as `&T` does. (It is not `Send`: the thread that has the place gives it back.)
unsafe impl<T: Sync, const READERS: usize> Sync for RwLockReadGuard<'_, T, READERS> {}

impl<'a, T, const READERS: usize> RwLockReadGuard<'a, T, READERS> {
    /// Of a place that this thread has.
    ///
    /// # Safety
    /// It is counted there, has not been given back, nobody else gives it back, and the value is valid.
    #[inline]
    pub(super) const unsafe fn new(lock: &'a RwLock<T, READERS>, caller: Caller<'a>, place: usize) -> Self {
        Self { lock, caller, place }
    }
}

impl<T, const READERS: usize> Deref for RwLockReadGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by invariant 2 it is valid and not written, and by invariant 1 it lies in an attachment that stays.
        unsafe { &*self.lock.as_ptr() }
    }
}

impl<T, const READERS: usize> Drop for RwLockReadGuard<'_, T, READERS> {
    #[inline]
    fn drop(&mut self) {
        // In a child after `fork` it is the parent's, and may not even be mapped.
        if self.caller.here.get().is_some() {
            self.lock.raw(self.caller).leave(self.place);
        }
    }
}

/// A value that is written, until this is dropped.
///
/// It stays in its thread. A thread that panics gives the lock back all the same, and nothing is told of that.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{RwLock, RwLockWriteGuard};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
///
/// fn raise(mut number: RwLockWriteGuard<'_, u32>) {
///     *number += 1;
/// }
///
/// raise(lock.write()?);
/// assert_eq!(*lock.read()?, 1);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[must_use = "dropped, it gives the lock back"]
pub struct RwLockWriteGuard<'a, T, const READERS: usize = 32>(
    /// INVARIANT 3: the lock is held, not given back yet, `writer` says that it is written, and the value is valid.
    Held<'a, T, READERS>,
);

// SAFETY: it gives references to the value as `&T` and `&mut T` do. (It is not `Send`: the thread that took the lock gives it back.)
unsafe impl<T: Sync, const READERS: usize> Sync for RwLockWriteGuard<'_, T, READERS> {}

impl<'a, T, const READERS: usize> RwLockWriteGuard<'a, T, READERS> {
    /// Of a lock that is held.
    ///
    /// # Safety
    /// It has not been given back, nobody else gives it back, `writer` says that it is written, and the value is valid.
    #[inline]
    pub(super) const unsafe fn new(held: Held<'a, T, READERS>) -> Self {
        Self(held)
    }

    /// Goes on as one who reads, and lets others read; nobody writes in between.
    ///
    /// Also with all places for readers taken: a writer has one more.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{RwLock, RwLockWriteGuard};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// let mut writing = lock.write()?;
    /// *writing = 7;
    /// let reading = RwLockWriteGuard::downgrade(writing);
    /// assert_eq!((*reading, *lock.read()?), (7, 7));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn downgrade(this: Self) -> RwLockReadGuard<'a, T, READERS> {
        let held = ManuallyDrop::new(this).0;
        // SAFETY: by invariant 3, and `this` gives it back no more.
        unsafe { read_on(held) }
    }
}

/// Goes on as a reader.
///
/// # Safety
/// The lock has not been given back, nobody else gives it back, `writer` says that it is written, and the value is valid.
unsafe fn read_on<T, const READERS: usize>(held: Held<'_, T, READERS>) -> RwLockReadGuard<'_, T, READERS> {
    let Held { lock, caller, held } = held;
    // In a child after `fork` it is the parent's; what comes of it gives nothing back either.
    let is_here = caller.here.get().is_some();
    let place = if is_here { lock.raw(caller).downgrade(held) } else { READERS };
    // SAFETY: the place of the writer is this one's from before the lock was given back; the caller promises the rest.
    unsafe { RwLockReadGuard::new(lock, caller, place) }
}

impl<T, const READERS: usize> Deref for RwLockWriteGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by invariant 3 it is valid and nobody else's, and it lies in an attachment that stays.
        unsafe { &*self.0.lock.as_ptr() }
    }
}

impl<T, const READERS: usize> DerefMut for RwLockWriteGuard<'_, T, READERS> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.0.lock.as_ptr() }
    }
}

impl<T, const READERS: usize> Drop for RwLockWriteGuard<'_, T, READERS> {
    #[inline]
    fn drop(&mut self) {
        let Held { lock, caller, held } = self.0;
        if caller.here.get().is_some() {
            lock.raw(caller).end_write(held);
        }
    }
}

impl<'a, T, const READERS: usize> Guard<T> for RwLockWriteGuard<'a, T, READERS> {
    type Held = Held<'a, T, READERS>;

    fn place(held: Self::Held) -> *mut T {
        held.lock.as_ptr()
    }

    unsafe fn of(held: Self::Held) -> Self {
        // SAFETY: the caller promises it; that it is written the dead have said, and nobody has taken it back.
        unsafe { Self::new(held) }
    }

    fn leave(held: Self::Held, ending: Ending) {
        held.held.end(match ending {
            Ending::Abandoned => RawLock::abandon,
            Ending::GivenUp => RawLock::give_up,
        });
    }
}

impl<'a, T, const READERS: usize> Guard<T> for RwLockReadGuard<'a, T, READERS> {
    type Held = Held<'a, T, READERS>;

    fn place(held: Self::Held) -> *mut T {
        held.lock.as_ptr()
    }

    unsafe fn of(held: Self::Held) -> Self {
        // SAFETY: as above.
        unsafe { read_on(held) }
    }

    fn leave(held: Self::Held, ending: Ending) {
        RwLockWriteGuard::leave(held, ending);
    }
}

impl<T: fmt::Debug, const READERS: usize> fmt::Debug for RwLockReadGuard<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display, const READERS: usize> fmt::Display for RwLockReadGuard<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Debug, const READERS: usize> fmt::Debug for RwLockWriteGuard<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display, const READERS: usize> fmt::Display for RwLockWriteGuard<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::result::Orphaned;
    use super::*;
    use crate::shareable::Shareable;
    use core::cell::Cell;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!(RwLock<u8>: Send, Sync);
    // One thread may send the value to another, but not lend it to two.
    assert_impl_all!(RwLock<Cell<u8>>: Send);
    assert_not_impl_any!(RwLock<Cell<u8>>: Sync);
    assert_not_impl_any!(RwLock<*const u8>: Send, Sync);
    assert_impl_all!(RwLockReadGuard<'static, u8>: Sync);
    assert_not_impl_any!(RwLockReadGuard<'static, u8>: Send);
    assert_not_impl_any!(RwLockReadGuard<'static, Cell<u8>>: Sync);
    assert_impl_all!(RwLockWriteGuard<'static, u8>: Sync);
    assert_not_impl_any!(RwLockWriteGuard<'static, u8>: Send);
    assert_not_impl_any!(RwLockWriteGuard<'static, Cell<u8>>: Sync);
    assert_not_impl_any!(Orphaned<'static, u8, RwLockReadGuard<'static, u8>>: Send, Sync);
    assert_not_impl_any!(RwLock<&'static u8>: Shareable);

    #[test]
    fn another_value_or_number_of_places_makes_another_type() {
        assert_ne!(<RwLock<u32>>::TAG, <RwLock<i32>>::TAG);
        assert_ne!(<RwLock<u32, 2>>::TAG, <RwLock<u32, 3>>::TAG);
        assert_eq!(<RwLock<u32>>::TAG.size(), 32 + 32 * 8 + 8);
    }
}
