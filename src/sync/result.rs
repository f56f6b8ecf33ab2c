//! What comes of locking: a guard, or one of these
//!
//! # Safety
//! Makes guards of orphans, whose bytes are a value by then.
#![allow(unsafe_code)]

use super::mutex::MutexGuard;
use crate::error::{LockFailure, ShmemError};
use crate::shareable::AnyBitPattern;
use core::error::Error;
use core::fmt;
use core::marker::PhantomData;

/// A guard of a mutex, or why there is none.
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

/// A guard, as what comes of an [`Orphaned`]. Named nowhere else: only the guards of this crate are ones.
pub trait Guard<T>: Sized {
    /// A lock that is held, with the value behind it. Whoever has it gives it back, once.
    type Held: Copy;

    fn place(held: Self::Held) -> *mut T;

    /// # Safety
    /// It has not been given back, nobody else gives it back, and the value is valid.
    unsafe fn of(held: Self::Held) -> Self;

    /// Gives it back, the value being what it was.
    fn leave(held: Self::Held, ending: Ending);
}

/// What becomes of a value that nobody has put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The next one who locks gets it as an orphan.
    Abandoned,
    /// Nobody gets it any more.
    GivenUp,
}

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
pub enum LockError<'a, T, G: Guard<T> = MutexGuard<'a, T>> {
    /// The lock is held now; but its last holder died, so the value may be half-written.
    Orphaned(Orphaned<'a, T, G>),
    /// It is not held. The reason is never [`LockFailure::OwnerDied`].
    Failed(LockFailure),
}

impl<T, G: Guard<T>> LockError<'_, T, G> {
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

impl<T, G: Guard<T>> fmt::Display for LockError<'_, T, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<T, G: Guard<T>> fmt::Debug for LockError<'_, T, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<T, G: Guard<T>> Error for LockError<'_, T, G> {}

/// An [`Orphaned`] is left to the next one who locks.
impl<T, G: Guard<T>> From<LockError<'_, T, G>> for LockFailure {
    fn from(error: LockError<'_, T, G>) -> Self {
        error.failure()
    }
}

/// An [`Orphaned`] is left to the next one who locks.
impl<T, G: Guard<T>> From<LockError<'_, T, G>> for ShmemError {
    fn from(error: LockError<'_, T, G>) -> Self {
        Self::Lock(error.failure())
    }
}

/// An [`Orphaned`] is left to the next one who locks.
#[cfg(feature = "std")]
impl<T, G: Guard<T>> From<LockError<'_, T, G>> for std::io::Error {
    fn from(error: LockError<'_, T, G>) -> Self {
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
pub struct Orphaned<'a, T, G: Guard<T> = MutexGuard<'a, T>> {
    /// INVARIANT 1: not given back yet. Nobody else uses the value.
    held: G::Held,
    /// Of a lock that is borrowed so long. It stays in its thread.
    lock: PhantomData<(&'a (), *mut T)>,
}

impl<T, G: Guard<T>> Orphaned<'_, T, G> {
    /// Of a lock that was just taken over.
    pub(super) const fn new(held: G::Held) -> Self {
        Self { held, lock: PhantomData }
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
    pub fn as_ptr(&self) -> *mut T {
        G::place(self.held)
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
    pub fn replace(self, value: T) -> G {
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
    pub fn recover(self) -> G
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
    pub unsafe fn assume_whole(self) -> G {
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
        G::leave(self.into_held(), Ending::GivenUp);
    }

    /// # Safety
    /// The bytes are a valid value.
    unsafe fn into_guard(self) -> G {
        // SAFETY: by invariant 1 it is held, and `self` gives it back no more; the caller promises the rest.
        unsafe { G::of(self.into_held()) }
    }

    fn into_held(self) -> G::Held {
        let held = self.held;
        core::mem::forget(self);
        held
    }
}

impl<T, G: Guard<T>> Drop for Orphaned<'_, T, G> {
    fn drop(&mut self) {
        G::leave(self.held, Ending::Abandoned);
    }
}

impl<T, G: Guard<T>> fmt::Debug for Orphaned<'_, T, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orphaned").finish_non_exhaustive()
    }
}
