//! What comes of locking: a guard, or one of these
//!
//! # Safety
//! Makes guards of orphans, whose bytes are a value by then.
#![allow(unsafe_code)]

use super::mutex::{Held, MutexGuard};
use crate::error::{LockFailure, ShmemError};
use crate::lock::RawLock;
use crate::shareable::AnyBitPattern;
use core::error::Error;
use core::fmt;

/// A guard, or why there is none.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockResult, Mutex};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// fn describe(result: LockResult<'_, u32>) -> String {
///     match result {
///         Ok(number) => number.to_string(),
///         Err(error) => error.to_string(),
///     }
/// }
///
/// let number = arena.alloc(Mutex::new(7_u32))?;
/// assert_eq!(describe(number.lock()), "7");
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub type LockResult<'a, T> = Result<MutexGuard<'a, T>, LockError<'a, T>>;

/// Why a lock gave no guard.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockError, Mutex};
/// use shmem_bind::{Builder, Tlsf};
///
/// # fn die_in(name: &str) -> Result<(), shmem_bind::ShmemError> {
/// #     let arena = Builder::new(name).attach()?.arena::<Tlsf>()?;
/// #     std::mem::forget(arena.find::<Mutex<u32>>("number")?.lock()?);
/// #     Ok(())
/// # }
/// # let name = &format!("shmem-bind-doc-{}-lock-error", std::process::id());
/// # let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
/// let number = arena.find_or_alloc("number", || Mutex::new(7_u32))?;
/// # die_in(name)?;
/// // Another process has died holding it.
/// match number.lock() {
///     Ok(_guard) => unreachable!(),
///     // The lock is held, and given back when this is dropped: then the next one gets an orphan.
///     Err(LockError::Orphaned(_orphaned)) => {}
///     Err(LockError::Failed(failure)) => return Err(failure.into()),
///     Err(_) => unreachable!(),
/// }
/// assert!(matches!(number.lock(), Err(LockError::Orphaned(_))));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[non_exhaustive]
pub enum LockError<'a, T> {
    /// The lock is held now; but its last holder died, so the value may be half-written.
    Orphaned(Orphaned<'a, T>),
    /// It is not held. The reason is never [`LockFailure::OwnerDied`].
    Failed(LockFailure),
}

impl<T> LockError<'_, T> {
    /// The reason in a word.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(Mutex::new(7_u32))?;
    /// let _locked = number.lock()?;
    /// assert_eq!(number.try_lock().unwrap_err().failure(), LockFailure::Deadlock);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn failure(&self) -> LockFailure {
        match self {
            Self::Orphaned(_) => LockFailure::OwnerDied,
            Self::Failed(failure) => *failure,
        }
    }
}

impl<T> fmt::Display for LockError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<T> fmt::Debug for LockError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<T> Error for LockError<'_, T> {}

/// An [`Orphaned`] is left to the next one who locks.
impl<T> From<LockError<'_, T>> for LockFailure {
    fn from(error: LockError<'_, T>) -> Self {
        error.failure()
    }
}

/// An [`Orphaned`] is left to the next one who locks.
impl<T> From<LockError<'_, T>> for ShmemError {
    fn from(error: LockError<'_, T>) -> Self {
        Self::Lock(error.failure())
    }
}

/// An [`Orphaned`] is left to the next one who locks.
#[cfg(feature = "std")]
impl<T> From<LockError<'_, T>> for std::io::Error {
    fn from(error: LockError<'_, T>) -> Self {
        error.failure().into()
    }
}

/// A locked value whose last holder died, perhaps in the middle of a store: bytes that may be no `T`.
///
/// Nobody else has the lock meanwhile. If this is dropped, or its process dies, the next one who locks gets an `Orphaned`.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockError, Mutex, MutexGuard};
/// use shmem_bind::{Shareable, ShmemError};
///
/// fn lock<T: Shareable + Default>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, ShmemError> {
///     match mutex.lock() {
///         Ok(guard) => Ok(guard),
///         Err(LockError::Orphaned(orphaned)) => Ok(orphaned.replace(T::default())),
///         Err(error) => Err(error.into()),
///     }
/// }
/// ```
#[must_use = "dropped, it is left to the next one who locks"]
pub struct Orphaned<'a, T>(
    /// INVARIANT 1: not given back yet.
    Held<'a, T>,
);

impl<'a, T> Orphaned<'a, T> {
    /// Of a lock that was just taken over.
    pub(super) const fn new(held: Held<'a, T>) -> Self {
        Self(held)
    }

    /// Where the bytes are. Nobody else uses them as long as `self` exists; to read them as a `T` is for those who know
    /// that they are one.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockError, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # fn die_in(name: &str) -> Result<(), shmem_bind::ShmemError> {
    /// #     let arena = Builder::new(name).attach()?.arena::<Tlsf>()?;
    /// #     std::mem::forget(arena.find::<Mutex<u32>>("number")?.lock()?);
    /// #     Ok(())
    /// # }
    /// # let name = &format!("shmem-bind-doc-{}-as-ptr", std::process::id());
    /// # let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
    /// let number = arena.find_or_alloc("number", || Mutex::new(7_u32))?;
    /// # die_in(name)?;
    /// // Another process has died holding it.
    /// if let Err(LockError::Orphaned(orphaned)) = number.lock() {
    ///     // SAFETY: it is there, and any bytes are a number.
    ///     let left = unsafe { orphaned.as_ptr().read() };
    ///     println!("it has left {left}");
    ///     orphaned.replace(0);
    /// }
    /// assert_eq!(*number.lock()?, 0);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn as_ptr(&self) -> *mut T {
        self.0.mutex().as_ptr()
    }

    /// Puts another value in their place. What was there is not destroyed: its destructor would see it half-written.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockError, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # fn die_in(name: &str) -> Result<(), shmem_bind::ShmemError> {
    /// #     let arena = Builder::new(name).attach()?.arena::<Tlsf>()?;
    /// #     std::mem::forget(arena.find::<Mutex<u32>>("number")?.lock()?);
    /// #     Ok(())
    /// # }
    /// # let name = &format!("shmem-bind-doc-{}-replace", std::process::id());
    /// # let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
    /// let number = arena.find_or_alloc("number", || Mutex::new(7_u32))?;
    /// # die_in(name)?;
    /// // Another process has died holding it.
    /// if let Err(LockError::Orphaned(orphaned)) = number.lock() {
    ///     *orphaned.replace(8) += 1; // gives a guard
    /// }
    /// assert_eq!(*number.lock()?, 9, "it is nobody's orphan any more");
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn replace(self, value: T) -> MutexGuard<'a, T> {
        // SAFETY: within a segment, aligned; by invariant 1 nobody else uses the place. Killed in the middle, this process
        // holds the lock still.
        unsafe { self.as_ptr().write(value) };
        // SAFETY: written just now.
        unsafe { self.into_guard() }
    }

    /// Takes the bytes for a value, which any bytes are one of. It may be one that nobody has ever written: half an old
    /// one and half a new one.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockError, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # fn die_in(name: &str) -> Result<(), shmem_bind::ShmemError> {
    /// #     let arena = Builder::new(name).attach()?.arena::<Tlsf>()?;
    /// #     std::mem::forget(arena.find::<Mutex<u32>>("number")?.lock()?);
    /// #     Ok(())
    /// # }
    /// # let name = &format!("shmem-bind-doc-{}-recover", std::process::id());
    /// # let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
    /// let number = arena.find_or_alloc("number", || Mutex::new(7_u32))?;
    /// # die_in(name)?;
    /// // Another process has died holding it.
    /// let guard = match number.lock() {
    ///     Err(LockError::Orphaned(orphaned)) => orphaned.recover(),
    ///     result => result?,
    /// };
    /// assert_eq!(*guard, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn recover(self) -> MutexGuard<'a, T>
    where
        T: AnyBitPattern,
    {
        // SAFETY: by the contract of `AnyBitPattern` they are a valid value.
        unsafe { self.into_guard() }
    }

    /// Takes the bytes for a value.
    ///
    /// # Safety
    /// They are a valid `T`, and one that all the code of `T` can live with: somebody has looked at them, through
    /// [`as_ptr`](Self::as_ptr), or has put them right.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockError, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # fn die_in(name: &str) -> Result<(), shmem_bind::ShmemError> {
    /// #     let arena = Builder::new(name).attach()?.arena::<Tlsf>()?;
    /// #     std::mem::forget(arena.find::<Mutex<u32>>("number")?.lock()?);
    /// #     Ok(())
    /// # }
    /// # let name = &format!("shmem-bind-doc-{}-assume-whole", std::process::id());
    /// # let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
    /// let number = arena.find_or_alloc("number", || Mutex::new(7_u32))?;
    /// # die_in(name)?;
    /// // Another process has died holding it.
    /// if let Err(LockError::Orphaned(orphaned)) = number.lock() {
    ///     // SAFETY: a word on this machine is written whole.
    ///     let guard = unsafe { orphaned.assume_whole() };
    ///     assert_eq!(*guard, 7);
    /// }
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub unsafe fn assume_whole(self) -> MutexGuard<'a, T> {
        // SAFETY: the caller promises it.
        unsafe { self.into_guard() }
    }

    /// Says for good that the value cannot be put right: whoever locks from now on, in whichever process, gets
    /// [`LockFailure::NotRecoverable`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockError, LockFailure, Mutex};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # fn die_in(name: &str) -> Result<(), shmem_bind::ShmemError> {
    /// #     let arena = Builder::new(name).attach()?.arena::<Tlsf>()?;
    /// #     std::mem::forget(arena.find::<Mutex<u32>>("number")?.lock()?);
    /// #     Ok(())
    /// # }
    /// # let name = &format!("shmem-bind-doc-{}-give-up", std::process::id());
    /// # let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
    /// let number = arena.find_or_alloc("number", || Mutex::new(7_u32))?;
    /// # die_in(name)?;
    /// // Another process has died holding it.
    /// if let Err(LockError::Orphaned(orphaned)) = number.lock() {
    ///     orphaned.give_up();
    /// }
    /// assert_eq!(number.lock().unwrap_err().failure(), LockFailure::NotRecoverable);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn give_up(self) {
        self.into_held().end(RawLock::give_up);
    }

    /// # Safety
    /// The bytes are a valid value.
    unsafe fn into_guard(self) -> MutexGuard<'a, T> {
        // SAFETY: by invariant 1 it is held, and `self` gives it back no more; the caller promises the rest.
        unsafe { MutexGuard::new(self.into_held()) }
    }

    fn into_held(self) -> Held<'a, T> {
        let held = self.0;
        core::mem::forget(self);
        held
    }
}

impl<T> Drop for Orphaned<'_, T> {
    fn drop(&mut self) {
        self.0.end(RawLock::abandon);
    }
}

impl<T> fmt::Debug for Orphaned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orphaned").finish_non_exhaustive()
    }
}
