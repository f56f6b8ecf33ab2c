//! What is initialised once, by whoever comes first
//!
//! A lock of its own says who is initialising it, and a state word that there is a value. The state is written last, so whoever
//! dies before that leaves a cell that is empty still, and a lock that the next one takes over; and nobody ever has to say what is
//! to become of a value that may be half-written, as with a mutex, for nobody has seen it.
//!
//! | state | lock | `get` | `get_or_init` | and then |
//! |---|---|---|---|---|
//! | 0, empty | nobody's | `None` | initialises | complete |
//! | 0, empty | another's, who is alive | `None` | waits: one of the others, or `Busy` | |
//! | 0, empty | of this thread, which initialises it | `None` | `Deadlock` | |
//! | 0, empty | a dead one's | `None` | initialises | complete |
//! | 1, complete | anybody's | the value | the value | |
//! | anything else | anybody's | `None` | `Damaged`, when it has the lock | |
//!
//! | event | state | next |
//! |---|---|---|
//! | the initialiser has written the value | empty | complete |
//! | it panics, or fails | empty | empty, and the lock is given back |
//! | it is killed, or detaches within | empty | empty, and the lock is a dead one's |
//! | it is killed, but has written the state | complete | complete |
//! | `take`, by one who has the cell alone | complete | empty |
//!
//! Those who wait for a value and do not initialise it sleep on an event, which happens after the state is written. The next one who
//! looks at the lock of one who was killed in between makes up for it; and who sleeps looks at the state now and then anyhow.
//!
//! # Safety
//! Gives references to the value when the state says that there is one, and writes it, before that, only with the lock.
#![allow(unsafe_code)]

use super::event::Event;
use super::thread_lock::{Caller, HeldLock, ThreadLock, holder};
use crate::error::LockFailure;
use crate::lock::RawLock;
use crate::shareable::{FromZeros, Shareable, TypeTag};
use crate::sys::clock;
use crate::word::Word;
use core::cell::UnsafeCell;
use core::error::Error;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit, offset_of};
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};
use core::time::Duration;
use static_assertions::const_assert_eq;

pub(super) const EMPTY: u32 = 0;
pub(super) const COMPLETE: u32 = 1;

/// How long to wait for the lock before the state is looked at again: one who has written it may be stopped before it gives the
/// lock back.
const SLICE: Duration = Duration::from_millis(100);

/// A value in shared memory that is written once, by whichever process comes first, and then only read.
///
/// It lies in a segment, in an object of an arena or in the value of a segment; anywhere else it cannot be initialised. Zeros before
/// the value are an empty cell.
///
/// If a process is killed while it initialises the value, or panics, or fails, the cell is still empty, and another one initialises it: one that
/// waits already, or the next one that comes. Nobody sees half a value; what a dead one has written of it is not
/// destroyed. While a process that initialises it is merely stopped, others wait.
///
/// To look at the value costs one load. As [`std::sync::OnceLock`](https://doc.rust-lang.org/std/sync/struct.OnceLock.html) otherwise.
/// Not for children after `fork`, as a [`Mutex`](super::Mutex). Moved to another segment, make it anew around its value: one that was left while
/// it was being initialised would be waited for there as long as a stranger lives who has the number of the one that left it.
///
/// # Examples
/// ```
/// use shmem_bind::sync::OnceCell;
/// use shmem_bind::{Arena, Builder, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[derive(Default)]
///     #[repr(C)]
///     pub struct Limits {
///         pub users: u32,
///         pub requests: u32,
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-once-cell", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// let limits = arena.find_or_alloc("limits", OnceCell::<Limits>::new)?;
///
/// // In each process the same; one of them computes it.
/// let limits = limits.get_or_init(|| Limits { users: 10, requests: 500 })?;
/// assert_eq!((limits.users, limits.requests), (10, 500));
///
/// // Who has a cell alone may change what is in it, or take it out.
/// let mut cell = OnceCell::from(5);
/// *cell.get_mut().unwrap() += 1;
/// assert_eq!(cell.get(), Some(&6));
/// assert_eq!((cell.take(), cell.into_inner()), (Some(6), None));
/// # Ok(())
/// # }
/// ```
#[repr(C)]
pub struct OnceCell<T> {
    lock: ThreadLock,
    state: AtomicU32,
    changed: Event,
    /// INVARIANT 1: a valid `T` whenever `state` is complete, and then not written through a shared reference. Else any
    /// bytes, which only the holder of `lock` writes.
    value: UnsafeCell<MaybeUninit<T>>,
}

const_assert_eq!(size_of::<OnceCell<u64>>(), 32);
const_assert_eq!(offset_of!(OnceCell<u64>, state), 16);

// SAFETY: gives `&T` to all who ask, and takes a `T` from one thread that another one may take out or drop.
unsafe impl<T: Send + Sync> Sync for OnceCell<T> {}

// SAFETY: a lock, whose words are atomics, two atomic words, and a `Shareable` in an order fixed by `repr(C)`, all in the tag. No
// addresses: holders stand in it as numbers of slots, and threads beside their holder. Any process that is attached may use it; one
// that dies before it has written the state leaves an empty cell, and one that dies after it a complete one.
unsafe impl<T: Shareable> Shareable for OnceCell<T> {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::OnceCell", 1)
        .with_field("lock", offset_of!(Self, lock), ThreadLock::TAG)
        .with_field("state", offset_of!(Self, state), AtomicU32::TAG)
        .with_field("changed", offset_of!(Self, changed), Event::TAG)
        .with_field("value", offset_of!(Self, value), T::TAG);
    const FROZEN: bool = false;
}

// SAFETY: zeros are a lock that nobody holds, the state of an empty cell, and an event; the value is not looked at then.
unsafe impl<T: Shareable> FromZeros for OnceCell<T> {}

impl<T> OnceCell<T> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self::with(EMPTY, MaybeUninit::uninit())
    }

    const fn with(state: u32, value: MaybeUninit<T>) -> Self {
        Self {
            lock: ThreadLock::new(),
            state: AtomicU32::new(state),
            changed: Event::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, if there is one. Does not wait, and works anywhere.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        // SYNC: Acquire here, Release in `commit`: who sees that it is complete sees the value.
        // SAFETY: the state has just been looked at.
        (self.state.load(Ordering::Acquire) == COMPLETE).then(|| unsafe { self.value() })
    }

    /// # Safety
    /// The state is complete.
    const unsafe fn value(&self) -> &T {
        // SAFETY: by invariant 1 nobody writes to it as long as `self` is shared.
        let value = unsafe { &*self.value.get() };
        // SAFETY: by invariant 1 it is valid.
        unsafe { value.assume_init_ref() }
    }

    /// The value, to be changed by one who has the cell alone; `None` if there is none.
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        if *self.state.get_mut() != COMPLETE {
            return None;
        }
        // SAFETY: by invariant 1 it is valid.
        Some(unsafe { self.value.get_mut().assume_init_mut() })
    }

    /// The value; if there is none, the one that `f` gives is put there first. Waits as long as somebody alive is doing that: for ever,
    /// if that one is stopped.
    ///
    /// # Errors
    /// - [`LockFailure::Deadlock`]: this very thread is initialising it; that is, `f` wants the value that it is to give.
    /// - [`LockFailure::NotAttached`]: there is no value, and the cell lies in no segment that this process has attached; so
    ///   it is in a child after `fork`, with what it inherited.
    /// - [`LockFailure::ReadOnly`], [`LockFailure::Severed`]: there is no value, and none can be put there.
    /// - [`LockFailure::Damaged`], [`LockFailure::NotRecoverable`]: its words are none that a cell can have.
    #[inline]
    pub fn get_or_init(&self, f: impl FnOnce() -> T) -> Result<&T, LockFailure> {
        self.get_or_init_for(Duration::MAX, f)
    }

    /// The same; waits for at most `timeout` while somebody alive is initialising it.
    ///
    /// # Errors
    /// As [`get_or_init`](Self::get_or_init), and [`LockFailure::Busy`] when the time is up.
    ///
    /// # Examples
    /// ```
    /// use core::time::Duration;
    /// use shmem_bind::sync::{LockFailure, OnceCell};
    /// # let arena = shmem_bind::Builder::memfd().create(64 * 1024)?.0.arena::<shmem_bind::Tlsf>()?;
    /// let (cell, soon) = (arena.alloc(OnceCell::new())?, Duration::from_millis(1));
    /// cell.get_or_init(|| {
    ///     // Another one comes meanwhile, and does not wait for long.
    ///     let other = || assert_eq!(cell.get_or_init_for(soon, || 2), Err(LockFailure::Busy));
    ///     std::thread::scope(|scope| scope.spawn(other).join()).unwrap();
    ///     1
    /// })?;
    /// assert_eq!(cell.get_or_try_init_for(soon, || Err(LockFailure::Damaged)), Ok(&1));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn get_or_init_for(&self, timeout: Duration, f: impl FnOnce() -> T) -> Result<&T, LockFailure> {
        self.get_or_try_init_for(timeout, || Ok(f()))
    }

    /// The value; if there is none, `f` is to give one, and may fail, which leaves the cell empty.
    ///
    /// # Errors
    /// That of `f`; or as [`get_or_init`](Self::get_or_init).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::OnceCell;
    ///
    /// fn port(cell: &OnceCell<u16>) -> Result<u16, Box<dyn std::error::Error>> {
    ///     let parse = || Ok::<_, Box<dyn std::error::Error>>("8080".parse()?);
    ///     cell.get_or_try_init(parse).copied()
    /// }
    /// # let arena = shmem_bind::Builder::memfd().create(64 * 1024)?.0.arena::<shmem_bind::Tlsf>()?;
    /// # let cell = arena.alloc(OnceCell::<u16>::new())?;
    /// # assert_eq!(port(&cell)?, 8080);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn get_or_try_init<E: From<LockFailure>>(&self, f: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        self.get_or_try_init_for(Duration::MAX, f)
    }

    /// The same; waits for at most `timeout` while somebody alive is initialising it.
    ///
    /// # Errors
    /// As [`get_or_try_init`](Self::get_or_try_init), and [`LockFailure::Busy`] when the time is up.
    #[inline]
    pub fn get_or_try_init_for<E: From<LockFailure>>(
        &self,
        timeout: Duration,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<&T, E> {
        match self.get() {
            Some(value) => Ok(value),
            None => self.initialize(timeout, f),
        }
    }

    #[cold]
    fn initialize<E: From<LockFailure>>(
        &self,
        timeout: Duration,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<&T, E> {
        self.put(timeout, f)?;
        self.get().ok_or_else(|| LockFailure::Damaged.into())
    }

    /// Puts there what `f` gives, unless there is something; gives whether it has.
    fn put<E: From<LockFailure>>(
        &self,
        timeout: Duration,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<bool, E> {
        let Some(initializing) = self.begin(timeout)? else { return Ok(false) };
        let mut is_put = false;
        commit(&self.state, || {
            let value = f()?;
            // SAFETY: nobody reads it while the state is empty, and by invariant 1 only this one, which has the lock, writes it.
            let place = unsafe { &mut *self.value.get() };
            place.write(value);
            // If it went where others do not see it, perhaps in part, this one does not take it for a value either.
            fence(Ordering::SeqCst);
            holder(super::thread_lock::place(self)?.1)?;
            is_put = true;
            Ok::<(), E>(())
        })?;
        drop(initializing);
        // Also for one that was killed before it could.
        self.changed.notify_all();
        Ok(is_put)
    }

    /// Takes the lock; `None` if the cell is complete.
    fn begin(&self, timeout: Duration) -> Result<Option<Initializing<'_>>, LockFailure> {
        let start = clock::now();
        loop {
            // Before the try, so that the last one is when the time is up.
            let left = timeout.saturating_sub(clock::now().saturating_sub(start));
            match self.lock.lock_for(left.min(SLICE)) {
                // Whether the last one died makes no difference: the state says how far it came.
                Ok((lock, _)) => return Ok(Some(Initializing(lock))),
                Err(_) if self.get().is_some() => return Ok(None),
                Err(LockFailure::Busy) if !left.is_zero() => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Puts a value there, if there is none; waits as long as somebody alive is doing the same.
    ///
    /// # Errors
    /// The value, if there is one already, or none can be put there for one of the reasons of [`get_or_init`](Self::get_or_init).
    pub fn set(&self, value: T) -> Result<(), SetError<T>> {
        self.set_for(value, Duration::MAX)
    }

    /// The same; waits for at most `timeout`.
    ///
    /// # Errors
    /// As [`set`](Self::set), and [`LockFailure::Busy`] when the time is up.
    ///
    /// # Examples
    /// ```
    /// use core::time::Duration;
    /// use shmem_bind::sync::OnceCell;
    /// # let arena = shmem_bind::Builder::memfd().create(64 * 1024)?.0.arena::<shmem_bind::Tlsf>()?;
    /// let cell = arena.alloc(OnceCell::new())?;
    /// assert!(cell.set_for(1, Duration::from_millis(1)).is_ok());
    /// assert_eq!(cell.set_for(2, Duration::from_millis(1)).unwrap_err().value, 2);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn set_for(&self, value: T, timeout: Duration) -> Result<(), SetError<T>> {
        let value = ManuallyDrop::new(value);
        let is_there = self.get().is_some();
        // SAFETY: only one of the two is used: this one if it has been put there, and else it is not looked at, for there is no value.
        let copy = || Ok(unsafe { core::ptr::read(&*value) });
        let failure = match if is_there { Ok(false) } else { self.put(timeout, copy) } {
            Ok(true) => return Ok(()),
            Ok(false) => self.get().is_none().then_some(LockFailure::Damaged),
            Err(failure) => Some(failure),
        };
        Err(SetError { value: ManuallyDrop::into_inner(value), failure })
    }

    /// Waits until somebody has put a value there, and gives it.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # References
    ///  - [Linux `futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html)
    pub fn wait(&self) -> Result<&T, LockFailure> {
        loop {
            if let Some(value) = self.wait_for(Duration::MAX)? {
                return Ok(value);
            }
        }
    }

    /// Waits until somebody has put a value there, for at most `timeout`; gives it, or `None` when the time is up.
    ///
    /// # Errors
    /// As [`get_or_init`](Self::get_or_init), if there is anything to wait for.
    ///
    /// # Examples
    /// ```
    /// use core::time::Duration;
    /// use shmem_bind::sync::OnceCell;
    /// use shmem_bind::{Arena, Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-cell-wait", std::process::id());
    /// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
    /// let ready = arena.find_or_alloc("ready", OnceCell::<u32>::new)?;
    ///
    /// // Nobody has said yet that the service is ready.
    /// assert_eq!(ready.wait_for(Duration::from_millis(1))?, None);
    /// // Now somebody does.
    /// ready.set(7).unwrap();
    /// assert_eq!(ready.wait_for(Duration::from_millis(1))?, Some(&7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_for(&self, timeout: Duration) -> Result<Option<&T>, LockFailure> {
        if self.get().is_none() && Caller::of(self).is_ok_and(|caller| self.lock.is_held_by(caller)) {
            return Err(LockFailure::Deadlock);
        }
        self.changed
            .wait_until(timeout, || match self.state.load(Ordering::Acquire) {
                EMPTY => None,
                _ => Some(self.get().ok_or(LockFailure::Damaged)),
            })?
            .transpose()
    }

    /// Takes the value out, and leaves an empty cell.
    #[must_use = "it is taken out"]
    pub fn take(&mut self) -> Option<T> {
        let value = self.leave_empty()?;
        // SAFETY: it is not read again, and not dropped.
        Some(unsafe { value.assume_init_read() })
    }

    /// Leaves an empty cell, and what was in it: a valid value.
    fn leave_empty(&mut self) -> Option<&mut MaybeUninit<T>> {
        self.get_mut()?;
        // Killed from here on, this one has it.
        *self.state.get_mut() = EMPTY;
        compiler_fence(Ordering::SeqCst);
        Some(self.value.get_mut())
    }

    /// Takes the value out.
    #[must_use]
    pub fn into_inner(self) -> Option<T> {
        ManuallyDrop::new(self).take()
    }
}

/// Puts a value there, unless there is one, and says so after that; by the holder of the lock.
pub(super) fn commit<W: Word, E>(state: &W, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    // Others may have been quicker, before this one had the lock.
    if state.load() == EMPTY {
        write()?;
        // SYNC: with `get`. It is empty still: nobody else may change it.
        let _: bool = state.replace(EMPTY, COMPLETE);
    }
    Ok(())
}

impl<T> Drop for OnceCell<T> {
    fn drop(&mut self) {
        if let Some(value) = self.leave_empty() {
            // Where it lies: it may be too large for the stack.
            // SAFETY: it was valid, and is not looked at again.
            unsafe { value.assume_init_drop() };
        }
    }
}

impl<T> Default for OnceCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A complete one.
impl<T> From<T> for OnceCell<T> {
    fn from(value: T) -> Self {
        Self::with(COMPLETE, MaybeUninit::new(value))
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(value) => f.debug_tuple("OnceCell").field(value).finish(),
            None => f.debug_tuple("OnceCell").field(&format_args!("<empty>")).finish(),
        }
    }
}

/// Gives the lock back, also in a panic.
struct Initializing<'a>(
    /// INVARIANT 2: not given back yet.
    HeldLock<'a>,
);

impl Drop for Initializing<'_> {
    fn drop(&mut self) {
        self.0.end(RawLock::unlock);
    }
}

/// Why [`OnceCell::set`], or [`set_for`](OnceCell::set_for), has not put the value there.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockFailure, OnceCell};
///
/// // There is one already.
/// let error = OnceCell::from(1).set(2).unwrap_err();
/// assert_eq!((error.value, error.failure), (2, None));
///
/// // On the stack there is nobody to share it with.
/// let error = OnceCell::new().set(2).unwrap_err();
/// assert_eq!((error.value, error.failure), (2, Some(LockFailure::NotAttached)));
/// ```
pub struct SetError<T> {
    /// The value, as it was given.
    pub value: T,
    /// Why it could not be put there; `None` if there is another one already.
    pub failure: Option<LockFailure>,
}

impl<T> fmt::Display for SetError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure {
            Some(failure) => failure.fmt(f),
            None => f.write_str("there is a value already, and it stays; use get to see it"),
        }
    }
}

impl<T> fmt::Debug for SetError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetError").field("failure", &self.failure).finish_non_exhaustive()
    }
}

impl<T> Error for SetError<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!(OnceCell<u8>: Send, Sync);
    assert_impl_all!(OnceCell<Cell<u8>>: Send);
    assert_not_impl_any!(OnceCell<Cell<u8>>: Sync);
    assert_not_impl_any!(OnceCell<*const u8>: Send, Sync);
    assert_not_impl_any!(OnceCell<&'static u8>: Shareable);
    assert_not_impl_any!(Initializing<'static>: Send);

    #[test]
    fn another_value_makes_another_type() {
        assert_ne!(<OnceCell<u32>>::TAG, <OnceCell<i32>>::TAG);
        assert_eq!(<OnceCell<u32>>::TAG.size(), 32);
    }

    #[test]
    fn whoever_has_it_alone_needs_no_segment() {
        let mut cell = OnceCell::from(5);
        assert_eq!(cell.get(), Some(&5));
        *cell.get_mut().unwrap() += 1;
        assert_eq!(cell.get_or_init(|| 9), Ok(&6));
        assert_eq!(cell.take(), Some(6));
        assert_eq!(cell.get(), None);
        assert_eq!(cell.get_mut(), None);
        assert_eq!(cell.take(), None);
        assert_eq!(cell.into_inner(), None);
        assert_eq!(OnceCell::from(7).into_inner(), Some(7));
    }

    #[test]
    fn what_is_no_state_is_damage_and_nothing_to_read_or_drop() {
        let mut cell = OnceCell::from(std::string::String::from("leaked"));
        for state in [2, 3, 1 << 31, u32::MAX] {
            cell.state = AtomicU32::new(state);
            assert_eq!(cell.get(), None);
            assert_eq!(cell.get_mut(), None);
            assert_eq!(cell.take(), None);
            assert_eq!(cell.wait_for(Duration::ZERO), Err(LockFailure::Damaged));
        }
        // As it was, it is there still.
        cell.state = AtomicU32::new(COMPLETE);
        assert_eq!(cell.take().as_deref(), Some("leaked"));
    }
}
