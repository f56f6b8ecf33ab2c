//! Waiting for a change of what a mutex protects
//!
//! An event (`event.rs`) that one listens to before the mutex is given back, so that nothing is missed between that and the sleep:
//! who changes the value has the mutex, and so comes before or after; and if after, it finds somebody who listens.
//!
//! | the waiter | its mutex | it listens |
//! |---|---|---|
//! | has a guard | mine | no |
//! | begins to listen | mine | yes |
//! | gives the mutex back | not mine | yes |
//! | sleeps: until it is notified, the time is up, or a slice is over | not mine | yes |
//! | locks again: a guard, an [`Orphaned`], or a failure | mine, or not | no |
//!
//! | who is killed | what the others find |
//! |---|---|
//! | a waiter with the mutex, before or after | the value orphaned |
//! | a waiter without it | nothing; a wake that it had and did not use costs one slice |
//! | one who has changed the value, before it notifies | the change, after one slice |
//! | one who has the mutex while others sleep | the value orphaned, which the next one who locks again is told |
//!
//! So no wait is longer than a slice, after which the caller looks at the value: nobody has to have told it. A condvar remembers no
//! mutex: those who wait at it may do so with several.
//!
//! # Safety
//! Says that its word may lie in shared memory.
#![allow(unsafe_code)]

use super::mutex::MutexGuard;
use super::result::{LockError, Orphaned};
use super::thread_lock::{holder, place};
use crate::error::{LockFailure, ShmemError};
use crate::event::RawEvent;
use crate::shareable::{FromZeros, Shareable, TypeTag};
use crate::sys::clock;
use crate::word::Word;
use core::error::Error;
use core::fmt;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

/// Where processes wait for a change of what a [`Mutex`](super::Mutex) protects, without having it meanwhile.
///
/// It lies in a segment, as the mutex does, and mostly beside it. Whoever waits gives a guard, and gets it back when somebody has
/// notified, or for no reason: at least every quarter of a second. So the value counts and not the wake, and
/// [`wait_while`](Self::wait_while) looks at it each time. For that reason nothing depends on those who notify: one that is killed
/// when it has changed the value delays those who wait by a quarter of a second at most, and so does one that is killed when it
/// was woken.
///
/// The mutex may come back [orphaned](WaitError::Orphaned), if its holder died meanwhile.
///
/// Four bytes, and zeros are a condvar that nobody waits at. To notify costs one atomic instruction, and a system call only if somebody
/// sleeps. As [`std::sync::Condvar`](https://doc.rust-lang.org/std/sync/struct.Condvar.html) otherwise. Not for children after
/// `fork`, as a mutex.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use shmem_bind::sync::{Condvar, Mutex};
/// use shmem_bind::{Arena, Builder, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[repr(C)]
///     pub struct Jobs {
///         pub waiting: Mutex<u32>,
///         pub arrived: Condvar,
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-condvar", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// let jobs = arena.find_or_alloc("jobs", || Jobs { waiting: Mutex::new(0), arrived: Condvar::new() })?;
///
/// // In one process:
/// *jobs.waiting.lock()? += 1;
/// jobs.arrived.notify_one();
///
/// // In another one:
/// let guard = jobs.waiting.lock()?;
/// let (mut guard, result) = jobs.arrived.wait_while_for(guard, Duration::from_secs(5), |jobs| *jobs == 0)?;
/// assert!(!result.timed_out());
/// *guard -= 1;
/// # Ok(())
/// # }
/// ```
///
/// # References
///  - [Linux `futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html)
///  - [POSIX `pthread_cond_wait(3p)`](https://man7.org/linux/man-pages/man3/pthread_cond_wait.3p.html)
#[repr(transparent)]
pub struct Condvar(RawEvent);

// SAFETY: one atomic word without addresses, any value of which is a condvar. Any process that is attached may use it.
unsafe impl Shareable for Condvar {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::Condvar", 1).with_field("word", 0, AtomicU32::TAG);
    const FROZEN: bool = false;
}

// SAFETY: any word is one.
unsafe impl FromZeros for Condvar {}

/// A guard, or why there is none, after a wait.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{Condvar, Mutex, WaitError, WaitResult};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// // Of a counter that may begin anew.
/// fn from_zero(result: WaitResult<'_, u32>) -> WaitResult<'_, u32> {
///     match result {
///         Err(WaitError::Orphaned { orphaned, .. }) => Ok(orphaned.replace(0)),
///         result => result,
///     }
/// }
///
/// let (number, changed) = (arena.alloc(Mutex::new(7_u32))?, arena.alloc(Condvar::new())?);
/// let guard = from_zero(changed.wait_while(number.lock()?, |number| *number == 0))?;
/// assert_eq!(*guard, 7);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub type WaitResult<'a, T> = Result<MutexGuard<'a, T>, WaitError<'a, T>>;

/// The same for a wait with a deadline, and whether the time was up.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use shmem_bind::sync::{Condvar, Mutex, WaitForResult};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// fn describe(result: WaitForResult<'_, u32>) -> String {
///     match result {
///         Ok((_, result)) if result.timed_out() => "nothing has come".to_owned(),
///         Ok((number, _)) => number.to_string(),
///         Err(error) => error.to_string(),
///     }
/// }
///
/// let (number, changed) = (arena.alloc(Mutex::new(0_u32))?, arena.alloc(Condvar::new())?);
/// let result = changed.wait_while_for(number.lock()?, Duration::from_millis(1), |number| *number == 0);
/// assert_eq!(describe(result), "nothing has come");
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub type WaitForResult<'a, T> = Result<(MutexGuard<'a, T>, WaitTimeoutResult), WaitError<'a, T>>;

impl Condvar {
    /// One that nobody waits at.
    #[must_use]
    pub const fn new() -> Self {
        Self(RawEvent::new())
    }

    /// Gives the mutex back, waits until somebody notifies, and locks it again. May return for no reason, and does so at least every
    /// quarter of a second.
    ///
    /// # Errors
    /// - [`WaitError::Refused`]: nobody can wait here; the mutex is held still, and the guard in the error. So it is with a condvar that
    ///   lies in no segment that this process has attached, or in one that is attached read-only or severed.
    /// - [`WaitError::Orphaned`]: somebody died who held the mutex meanwhile. It is held, and the value yours to put right.
    /// - [`WaitError::Failed`]: the mutex could not be locked again, for one of the reasons of [`Mutex::lock`](super::Mutex::lock).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::ShmemError;
    /// use shmem_bind::sync::{Condvar, Mutex, WaitError};
    ///
    /// /// Waits for a number, and puts 0 in the place of what a dead process may have left half-written.
    /// fn receive(number: &Mutex<u64>, changed: &Condvar) -> Result<u64, ShmemError> {
    ///     let mut guard = number.lock()?;
    ///     while *guard == 0 {
    ///         guard = match changed.wait(guard) {
    ///             Ok(guard) => guard,
    ///             Err(WaitError::Orphaned { orphaned, .. }) => orphaned.replace(0),
    ///             Err(error) => return Err(error.into()),
    ///         };
    ///     }
    ///     Ok(*guard)
    /// }
    /// # use shmem_bind::{Builder, Arena, Tlsf};
    /// # let name = &format!("shmem-bind-doc-{}-condvar-wait", std::process::id());
    /// # let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
    /// # let number = arena.find_or_alloc("number", || Mutex::new(5_u64))?;
    /// # let changed = arena.find_or_alloc("changed", Condvar::new)?;
    /// # assert_eq!(receive(&number, &changed)?, 5);
    /// # Ok::<(), ShmemError>(())
    /// ```
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> WaitResult<'a, T> {
        self.wait_for(guard, Duration::MAX).map(|(guard, _)| guard)
    }

    /// The same, for at most `timeout`; says whether it was up before anybody notified.
    ///
    /// The time is for the wait. To lock the mutex again takes as long as others hold it; but if somebody alive does so for longer than
    /// `timeout`, and longer than the time-out of the condvar's segment ([`Builder::timeout`](crate::Builder::timeout), mostly 5
    /// seconds), then there is no guard.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`WaitError::Failed`] with [`LockFailure::Busy`] if the mutex was held for that long.
    ///
    /// # Examples
    /// ```
    /// use core::time::Duration;
    /// use shmem_bind::sync::{Condvar, Mutex};
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let (number, changed) = (arena.alloc(Mutex::new(0))?, arena.alloc(Condvar::new())?);
    /// std::thread::scope(|scope| {
    ///     let mut guard = number.lock()?;
    ///     // Somebody changes it, and does not come to notify.
    ///     scope.spawn(|| *number.lock().unwrap() = 7);
    ///     while *guard == 0 {
    ///         (guard, _) = changed.wait_for(guard, Duration::from_millis(10))?;
    ///     }
    ///     assert_eq!(*guard, 7);
    ///     Ok::<(), ShmemError>(())
    /// })?;
    /// # Ok::<(), ShmemError>(())
    /// ```
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> WaitForResult<'a, T> {
        let patience = place(self).and_then(|(_, attached)| holder(attached).map(|_| attached.patience));
        let patience = match patience {
            Ok(patience) => patience.max(timeout),
            Err(failure) => return Err(WaitError::Refused { guard, failure }),
        };
        let mutex = guard.mutex();
        let start = clock::now();
        let is_notified = sleep_without(&self.0, timeout, || drop(guard));
        let is_up = clock::now().saturating_sub(start) >= timeout;
        let result = WaitTimeoutResult(is_up && !is_notified);
        match mutex.lock_for(patience) {
            Ok(guard) => Ok((guard, result)),
            Err(LockError::Orphaned(orphaned)) => Err(WaitError::Orphaned { orphaned, result }),
            Err(LockError::Failed(failure)) => Err(WaitError::Failed(failure)),
        }
    }

    /// Waits as long as the condition holds, which is asked before each wait. It is not asked of a value that is orphaned: with that it
    /// ends, and you begin anew when you have put it right.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{Condvar, Mutex};
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let (is_open, changed) = (arena.alloc(Mutex::new(false))?, arena.alloc(Condvar::new())?);
    /// let enter = || Ok::<bool, ShmemError>(*changed.wait_while(is_open.lock()?, |is_open| !*is_open)?);
    /// std::thread::scope(|scope| {
    ///     // Elsewhere these would be processes.
    ///     let waiting = [scope.spawn(enter), scope.spawn(enter)];
    ///     *is_open.lock()? = true;
    ///     changed.notify_all();
    ///     assert_eq!(waiting.map(|thread| thread.join().unwrap()), [Ok(true), Ok(true)]);
    ///     Ok::<(), ShmemError>(())
    /// })?;
    /// # Ok::<(), ShmemError>(())
    /// ```
    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> WaitResult<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// The same, for at most `timeout`; says whether it was up, and the condition held still.
    ///
    /// The condition is asked at least once, and last when the time is up. The mutex is waited for as in [`wait_for`](Self::wait_for),
    /// with the time that is left.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_while_for<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> WaitForResult<'a, T> {
        let (mut start, mut left) = (None, timeout);
        while condition(&mut guard) {
            if left.is_zero() {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            let now = clock::now();
            // The first time all that there is.
            left = timeout.saturating_sub(now.saturating_sub(*start.get_or_insert(now)));
            (guard, _) = self.wait_for(guard, left)?;
        }
        Ok((guard, WaitTimeoutResult(false)))
    }

    /// Lets one of those who wait go on, if any. Nothing is remembered for one who comes later.
    ///
    /// Best after the mutex has been given back: who is woken wants it.
    ///
    /// Writes to the condvar, also if nobody waits, so not for one that can only be read: that is a fault (`SIGSEGV`).
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Lets all go on who wait.
    ///
    /// Writes to the condvar, also if nobody waits, so not for one that can only be read: that is a fault (`SIGSEGV`).
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Sleeps, for a slice at most, and lets go before that of what whoever notifies needs; gives whether it has happened.
pub(super) fn sleep_without<W: Word>(event: &RawEvent<W>, timeout: Duration, let_go: impl FnOnce()) -> bool {
    // Before others can change the value: who does so finds somebody who listens.
    let since = event.listen();
    let_go();
    event.sleep(since, timeout)
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// Whether a wait ended because the time was up.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use shmem_bind::sync::{Condvar, Mutex};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let (number, changed) = (arena.alloc(Mutex::new(7))?, arena.alloc(Condvar::new())?);
/// let soon = Duration::from_millis(1);
/// // As it is wanted, so there is nothing to wait for.
/// let (guard, result) = changed.wait_while_for(number.lock()?, soon, |number| *number != 7)?;
/// assert!(!result.timed_out());
/// // Nobody makes another of it.
/// let (_guard, result) = changed.wait_while_for(guard, soon, |number| *number == 7)?;
/// assert!(result.timed_out());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was up, and nobody had notified; of a wait with a condition: and it held still.
    #[must_use]
    pub const fn timed_out(self) -> bool {
        self.0
    }
}

/// Why there is no guard after a wait, or has been no wait.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{Condvar, LockFailure, Mutex, WaitError};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let number = arena.alloc(Mutex::new(7))?;
/// // On the stack it is no condvar that anybody else could notify.
/// let error = Condvar::new().wait(number.lock()?).unwrap_err();
/// assert_eq!(error.failure(), LockFailure::NotAttached);
/// let WaitError::Refused { mut guard, .. } = error else { unreachable!() };
/// *guard += 1; // held still
/// # drop(guard);
/// # assert_eq!(*number.lock()?, 8);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[non_exhaustive]
pub enum WaitError<'a, T> {
    /// Nobody can wait here. The mutex has not been given back.
    Refused {
        /// The guard, as it was given.
        guard: MutexGuard<'a, T>,
        /// Why.
        failure: LockFailure,
    },
    /// The mutex is held again; but its last holder died, so the value may be half-written.
    Orphaned {
        /// The value, to be put right.
        orphaned: Orphaned<'a, T>,
        /// Whether the time was up.
        result: WaitTimeoutResult,
    },
    /// The mutex is not held any more, and could not be locked again.
    Failed(LockFailure),
}

impl<T> WaitError<'_, T> {
    /// The reason in a word.
    #[must_use]
    pub const fn failure(&self) -> LockFailure {
        match self {
            Self::Orphaned { .. } => LockFailure::OwnerDied,
            Self::Refused { failure, .. } | Self::Failed(failure) => *failure,
        }
    }
}

impl<T> fmt::Display for WaitError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<T> fmt::Debug for WaitError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<T> Error for WaitError<'_, T> {}

/// The mutex is given back, and an [`Orphaned`] left to the next one who locks.
impl<T> From<WaitError<'_, T>> for LockFailure {
    fn from(error: WaitError<'_, T>) -> Self {
        error.failure()
    }
}

/// The mutex is given back, and an [`Orphaned`] left to the next one who locks.
impl<T> From<WaitError<'_, T>> for ShmemError {
    fn from(error: WaitError<'_, T>) -> Self {
        Self::Lock(error.failure())
    }
}

/// The mutex is given back, and an [`Orphaned`] left to the next one who locks.
#[cfg(feature = "std")]
impl<T> From<WaitError<'_, T>> for std::io::Error {
    fn from(error: WaitError<'_, T>) -> Self {
        error.failure().into()
    }
}
