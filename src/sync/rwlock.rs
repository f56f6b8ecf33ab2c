//! A value that many read at a time, or one changes
//!
//! A mutex's lock, which whoever writes holds; a place for each reader that says who it is; and the value. How they go together is said in
//! [`raw`], and what stands in a place in [`occupant`].
//!
//! | state | `read` gives | `write` gives |
//! |---|---|---|
//! | nobody's | a guard | a guard |
//! | read by others who are alive | a guard | after waiting: a guard, or `Busy` |
//! | read by this thread | one guard more, at once | `Deadlock` |
//! | another's, who writes or waits to write, and is alive | after waiting: one of the others, or `Busy` | the same |
//! | mine, of this thread, to write | `Deadlock` | `Deadlock` |
//! | read by the dead | a guard | a guard |
//! | left by one that died waiting to write, or letting itself in | a guard | a guard |
//! | left by one that died writing | an `Orphaned` | an `Orphaned` |
//! | not recoverable | `NotRecoverable` | `NotRecoverable` |
//! | read by as many as there are places | after waiting: a guard, or `Busy` | as read by others |
//! | read by this thread, by another attachment | as read by others | `Deadlock` |
//! | the same, and others wait to write, or all places are its own | `Deadlock` | `Deadlock` |
//!
//! | event | state | next |
//! |---|---|---|
//! | the guard is dropped, also by a panic | read, or written | nobody's, or read by the others |
//! | `downgrade` | written | read, by the same |
//! | the process is killed, or detaches with a guard forgotten | read | read by the dead |
//! | | written, also orphaned | left by one that died writing |
//! | the guard is forgotten, its thread ended without dropping it | any | the same, until the process ends or detaches |
//! | `replace`, `recover`, `assume_whole` | orphaned | written, or read if it was for a reader |
//! | the orphan is dropped | orphaned | left by one that died writing |
//! | `give_up` | orphaned | not recoverable |
//!
//! A value is whole whenever nobody has said that it is being written. In all other states it is not looked at as a value, nor is it
//! destroyed with its lock.
//!
//! # Safety
//! Gives references to the value to those who read, or to the one who writes.
#![allow(unsafe_code)]

mod door;
mod guards;
mod occupant;
mod raw;
mod spread;

use super::result::{LockError, Orphaned};
use super::thread_lock::{Caller, HeldLock, ThreadLock};
use crate::error::LockFailure;
use crate::event::RawEvent;
use crate::shareable::{FromZeros, Shareable, TypeTag};
use crate::word::Ordered;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit, offset_of};
use core::sync::atomic::{AtomicU32, AtomicU64};
use core::time::Duration;
use door::Door;
pub use guards::{RwLockReadGuard, RwLockWriteGuard};
use occupant::Occupant;
use raw::{Entry, Raw, is_written};
use spread::first_place;
use static_assertions::const_assert_eq;

/// A guard for reading, or why there is none.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{ReadResult, RwLock};
/// use shmem_bind::{Builder, Tlsf};
///
/// fn describe(result: ReadResult<'_, u32>) -> String {
///     result.map_or_else(|error| error.to_string(), |number| number.to_string())
/// }
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
/// assert_eq!(describe(lock.read()), "0");
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub type ReadResult<'a, T, const READERS: usize = 32> =
    Result<RwLockReadGuard<'a, T, READERS>, LockError<'a, T, RwLockReadGuard<'a, T, READERS>>>;

/// A guard for writing, or why there is none.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{WriteResult, RwLock};
/// use shmem_bind::{Builder, Tlsf};
///
/// fn describe(result: WriteResult<'_, u32>) -> String {
///     result.map_or_else(|error| error.to_string(), |number| number.to_string())
/// }
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
/// assert_eq!(describe(lock.write()), "0");
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub type WriteResult<'a, T, const READERS: usize = 32> =
    Result<RwLockWriteGuard<'a, T, READERS>, LockError<'a, T, RwLockWriteGuard<'a, T, READERS>>>;

/// A value in shared memory that many threads of many processes read at a time, or one changes.
///
/// It lies in a segment, as a [`Mutex`](super::Mutex) does, and zeros before a value are a lock that nobody holds. At most `READERS`
/// threads read at a time; more of them wait. Each place for a reader takes 8 bytes, and a writer looks at all of them.
///
/// If a process dies that reads, it reads no more, and nothing else is lost. If one dies that was writing, the next one, be it to
/// read or to write, gets a [`LockError::Orphaned`], and has the value for itself until it has decided what becomes of it. One that dies
/// before it has begun to write, while it waits for readers, leaves the value whole, and nobody is told.
///
/// Reading costs two atomic exchanges, at places that differ from thread to thread as far as there are enough of them. Whoever reads
/// may read again in the same thread, up to 2047 times at once, and is never kept waiting by a writer then; whoever reads and wants to
/// write gets [`LockFailure::Deadlock`], and so does whoever writes and wants anything. Once somebody waits to write, those who come to read wait too.
/// A thread that reads by several attachments has as many places, and may wait for the others' while others wait for its own.
///
/// Threads, panics and children after `fork`: as with a [`Mutex`](super::Mutex). Moved to another segment, make it anew around its value:
/// strangers there who have the numbers of those that forgot their guards would be waited for.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockError, RwLock};
/// use shmem_bind::{Arena, Builder, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[derive(Default)]
///     #[repr(C)]
///     pub struct Limits {
///         pub soft: u64,
///         pub hard: u64,
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-rwlock", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// let limits = arena.find_or_alloc("limits", || RwLock::new(Limits::default()))?;
///
/// let mut writing = match limits.write() {
///     Ok(guard) => guard,
///     // A process was killed in here: one limit may be new, and the other one old.
///     Err(LockError::Orphaned(orphaned)) => orphaned.replace(Limits::default()),
///     Err(error) => return Err(error.into()),
/// };
/// *writing = Limits { soft: 10, hard: 20 };
/// drop(writing);
///
/// let (one, other) = (limits.read()?, limits.read()?);
/// assert!(one.soft < other.hard);
/// # Ok(())
/// # }
/// ```
///
/// There is at least one place:
/// ```compile_fail
/// let none = shmem_bind::sync::RwLock::<u32, 0>::with_readers(1);
/// ```
#[repr(C)]
pub struct RwLock<T, const READERS: usize = 32> {
    lock: ThreadLock,
    left: RawEvent,
    /// The holder of `lock`, while it waits to write.
    waiting: AtomicU32,
    /// INVARIANT 1: it [`is_written`] whenever `value` is not a valid `T`; then `lock` is held, or a dead one's, or not recoverable.
    writer: AtomicU64,
    readers: [AtomicU64; READERS],
    /// INVARIANT 2: used by nobody but those who have a place for reading, all of them at a time, or by the one who holds `lock` and
    /// has said so in `writer`; and by one who has the lock for itself. Any bytes, which may be moved along, if it is not valid.
    value: UnsafeCell<MaybeUninit<T>>,
}

const_assert_eq!(size_of::<RwLock<u64, 1>>(), 48);
const_assert_eq!(offset_of!(RwLock<u8, 1>, writer), 24);

// SAFETY: the lock sends the value from one thread to the next, as a mutex does, and lends it to several at a time.
unsafe impl<T: Send + Sync, const READERS: usize> Sync for RwLock<T, READERS> {}

// SAFETY: as `Mutex`; those who read stand in it as numbers of slots and threads, too, and may do so at a time only if `T` is
// `Sync`, without which there is neither a guard nor a `Sync` lock.
unsafe impl<T: Shareable, const READERS: usize> Shareable for RwLock<T, READERS> {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::RwLock", 1)
        .with_field("lock", offset_of!(Self, lock), ThreadLock::TAG)
        .with_field("left", offset_of!(Self, left), AtomicU32::TAG)
        .with_field("waiting", offset_of!(Self, waiting), AtomicU32::TAG)
        .with_field("writer", offset_of!(Self, writer), AtomicU64::TAG)
        .with_field("readers", offset_of!(Self, readers), <[AtomicU64; READERS]>::TAG)
        .with_field("value", offset_of!(Self, value), T::TAG);
    const FROZEN: bool = false;
}

// SAFETY: zeros are a lock that nobody holds, and a value.
unsafe impl<T: FromZeros, const READERS: usize> FromZeros for RwLock<T, READERS> {}

impl<T> RwLock<T> {
    /// A value that nobody has locked, with room for 32 threads that read.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, RwLock};
    ///
    /// let lock = RwLock::new(5);
    /// // It can be locked where processes share it, and nowhere else.
    /// assert_eq!(lock.read().unwrap_err().failure(), LockFailure::NotAttached);
    /// ```
    pub const fn new(value: T) -> Self {
        Self::with_readers(value)
    }
}

impl<T, const READERS: usize> RwLock<T, READERS> {
    const HAS_PLACES: () = assert!(READERS != 0, "a lock that nobody can read");

    /// A value that nobody has locked, with room for as many threads that read as the type says.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::RwLock;
    ///
    /// // Many more threads than processors would only wait for these.
    /// const TABLE: RwLock<[u64; 512], 128> = RwLock::with_readers([0; 512]);
    /// assert_eq!(size_of_val(&TABLE), 32 + 128 * 8 + 512 * 8);
    /// ```
    pub const fn with_readers(value: T) -> Self {
        let () = Self::HAS_PLACES;
        Self {
            lock: ThreadLock::new(),
            left: RawEvent::new(),
            waiting: AtomicU32::new(0),
            writer: AtomicU64::new(Occupant::NOBODY),
            readers: [const { AtomicU64::new(Occupant::NOBODY) }; READERS],
            value: UnsafeCell::new(MaybeUninit::new(value)),
        }
    }

    /// Locks the value to read it, and waits as long as somebody alive writes it, or waits to; and as long as all places are taken.
    ///
    /// # Errors
    /// - [`LockError::Orphaned`]: somebody died writing it. The value is yours to put right, and nobody else has it meanwhile.
    /// - [`LockFailure::Deadlock`]: this thread holds it to write; or to read, by another attachment, and somebody waits to write;
    ///   or by so many others that all places are its own.
    /// - [`LockFailure::NotRecoverable`]: somebody has [given it up](Orphaned::give_up).
    /// - [`LockFailure::NotAttached`]: it lies in no segment that this process has attached; so it is in a child after
    ///   `fork`, with what it inherited.
    /// - [`LockFailure::ReadOnly`], [`LockFailure::Severed`], [`LockFailure::Damaged`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::RwLock;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// let reading = lock.read()?;
    /// std::thread::scope(|scope| {
    ///     // Others read at the same time.
    ///     scope.spawn(|| assert_eq!(*lock.read().unwrap(), *reading));
    /// });
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    ///
    /// # References
    ///  - [POSIX `pthread_rwlock_rdlock(3p)`](https://man7.org/linux/man-pages/man3/pthread_rwlock_rdlock.3p.html)
    #[inline]
    pub fn read(&self) -> ReadResult<'_, T, READERS> {
        self.read_for(Duration::MAX)
    }

    /// Locks the value to read it, and waits for at most `timeout`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`LockFailure::Busy`] when the time is up.
    ///
    /// # Examples
    /// ```
    /// use core::time::Duration;
    /// use shmem_bind::sync::{LockFailure, RwLock};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32, 2>>()?;
    /// let writing = lock.write()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| {
    ///         let failure = lock.read_for(Duration::from_millis(1)).unwrap_err().failure();
    ///         assert_eq!(failure, LockFailure::Busy);
    ///     });
    /// });
    /// drop(writing);
    /// assert_eq!(*lock.read_for(Duration::from_secs(1))?, 0);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn read_for(&self, timeout: Duration) -> ReadResult<'_, T, READERS> {
        let caller = Caller::of(self).map_err(LockError::Failed)?;
        let raw = self.raw(caller);
        match raw.read(timeout).map_err(LockError::Failed)? {
            // Zeros are a lock that nobody holds, also those that have taken the place of this one.
            Entry::Granted(place) if caller.attached.is_severed() => {
                raw.leave(place);
                Err(LockError::Failed(LockFailure::Severed))
            }
            // SAFETY: the place was taken just now, and nobody writes, nor has died over it.
            Entry::Granted(place) => Ok(unsafe { RwLockReadGuard::new(self, caller, place) }),
            Entry::Orphaned(held) => {
                Err(LockError::Orphaned(Orphaned::new(Held { lock: self, caller, held })))
            }
        }
    }

    /// Locks the value to read it if nobody alive writes it, waits to, or is just being let in, without waiting. (Whether somebody
    /// is alive takes some system calls to say.)
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`LockFailure::Busy`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::RwLock;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// assert!(lock.try_read().is_ok());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn try_read(&self) -> ReadResult<'_, T, READERS> {
        self.read_for(Duration::ZERO)
    }

    /// Locks the value to change it, and waits as long as somebody alive has it.
    ///
    /// # Errors
    /// - [`LockError::Orphaned`]: somebody died writing it. The lock is held, and the value yours to put right.
    /// - [`LockFailure::Deadlock`]: this thread holds it already, to read or to write.
    /// - All others of [`read`](Self::read).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, RwLock};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// *lock.write()? += 1;
    /// let reading = lock.read()?;
    /// // It would wait for itself.
    /// assert_eq!(lock.write().unwrap_err().failure(), LockFailure::Deadlock);
    /// assert_eq!(*reading, 1);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    ///
    /// # References
    ///  - [POSIX `pthread_rwlock_wrlock(3p)`](https://man7.org/linux/man-pages/man3/pthread_rwlock_wrlock.3p.html)
    #[inline]
    pub fn write(&self) -> WriteResult<'_, T, READERS> {
        self.write_for(Duration::MAX)
    }

    /// Locks the value to change it, and waits for at most `timeout`.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`LockFailure::Busy`] when the time is up. Those who came to read meanwhile go on then.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, RwLock};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// let reading = lock.read()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| {
    ///         let failure = lock.write_for(std::time::Duration::from_millis(1)).unwrap_err().failure();
    ///         assert_eq!(failure, LockFailure::Busy);
    ///     });
    /// });
    /// drop(reading);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn write_for(&self, timeout: Duration) -> WriteResult<'_, T, READERS> {
        let caller = Caller::of(self).map_err(LockError::Failed)?;
        let raw = self.raw(caller);
        match raw.write(timeout).map_err(LockError::Failed)? {
            Entry::Granted(held) if caller.attached.is_severed() => {
                raw.end_write(held);
                Err(LockError::Failed(LockFailure::Severed))
            }
            // SAFETY: the gate was closed and all places emptied just now, nobody has died writing, and that this one writes is said.
            Entry::Granted(held) => Ok(unsafe { RwLockWriteGuard::new(Held { lock: self, caller, held }) }),
            Entry::Orphaned(held) => {
                Err(LockError::Orphaned(Orphaned::new(Held { lock: self, caller, held })))
            }
        }
    }

    /// Locks the value to change it if nobody alive has it, without waiting. (Whether somebody is alive takes some system calls to say.)
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`LockFailure::Busy`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::RwLock;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// *lock.try_write()? = 7;
    /// assert_eq!(*lock.read()?, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn try_write(&self) -> WriteResult<'_, T, READERS> {
        self.write_for(Duration::ZERO)
    }

    /// Where the value is, for those who have it locked by other means than references.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::RwLock;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let lock = arena.alloc_zeroed::<RwLock<u32>>()?;
    /// let writing = lock.write()?;
    /// // SAFETY: it is locked.
    /// unsafe { lock.as_ptr().write(9) };
    /// assert_eq!(*writing, 9);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn as_ptr(&self) -> *mut T {
        // `MaybeUninit` is transparent.
        self.value.get().cast()
    }

    /// The value, for one who has the lock for itself, and so need not lock it; `None` if its last writer died, or has forgotten the
    /// guard.
    ///
    /// # Examples
    /// ```
    /// let mut lock = shmem_bind::sync::RwLock::new(1);
    /// *lock.get_mut().unwrap() += 1;
    /// assert_eq!(lock.into_inner().unwrap(), 2);
    /// ```
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: by invariant 1 it is valid, and by invariant 2 this one's.
        (!self.is_written()).then(|| unsafe { self.value.get_mut().assume_init_mut() })
    }

    /// Takes the value out.
    ///
    /// # Errors
    /// The lock, if its last writer died, or has forgotten the guard. What is in it then
    /// [`into_inner_unchecked`](Self::into_inner_unchecked) gives.
    ///
    /// # Examples
    /// ```
    /// let lock = shmem_bind::sync::RwLock::new(vec![1, 2]);
    /// assert_eq!(lock.into_inner().unwrap(), [1, 2]);
    /// ```
    pub fn into_inner(self) -> Result<T, Self> {
        if self.is_written() {
            return Err(self);
        }
        // SAFETY: by invariant 1 it is valid.
        Ok(unsafe { self.into_inner_unchecked() })
    }

    /// Takes the value out, also if its last writer died, or has forgotten the guard.
    ///
    /// # Safety
    /// The bytes are a valid `T`, and one that all the code of `T` can live with. They are if [`into_inner`](Self::into_inner) would give
    /// it; else somebody has looked at them, through [`as_ptr`](Self::as_ptr), or any bytes are one.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::RwLock;
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// # let elsewhere = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc(RwLock::new(7_u32))?;
    /// std::mem::forget(number.write()?);
    /// let left = ShmemBox::into_inner(number).unwrap().into_inner().unwrap_err();
    /// // SAFETY: any bytes are a number.
    /// let value = unsafe { left.into_inner_unchecked() };
    /// let moved = elsewhere.alloc(RwLock::new(value))?;
    /// assert_eq!(*moved.write()?, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use = "it is taken out"]
    pub unsafe fn into_inner_unchecked(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: the caller promises that it is valid; nobody else has it, and the lock is not used any more, nor dropped.
        unsafe { this.as_ptr().read() }
    }

    fn is_written(&self) -> bool {
        is_written(Ordered::load(&self.writer))
    }

    /// The lock as this thread sees it.
    #[inline]
    fn raw<'a>(&'a self, caller: Caller<'a>) -> Raw<'a, Door<'a>, AtomicU32, AtomicU64> {
        let () = Self::HAS_PLACES;
        Raw {
            gate: Door { lock: &self.lock, caller, waiting: &self.waiting },
            me: Occupant::new(caller.holder, caller.thread),
            first: first_place::<READERS>(caller.thread),
            left: &self.left,
            readers: &self.readers,
            writer: &self.writer,
        }
    }
}

impl<T, const READERS: usize> Drop for RwLock<T, READERS> {
    fn drop(&mut self) {
        // Left by one that died writing, it may be half-written; then its destructor is not run.
        if !self.is_written() {
            // SAFETY: by invariant 1 it is valid, and this is the one who has the lock for itself; it is not used again.
            unsafe { self.value.get_mut().assume_init_drop() };
        }
    }
}

impl<T: Default, const READERS: usize> Default for RwLock<T, READERS> {
    fn default() -> Self {
        Self::with_readers(T::default())
    }
}

impl<T, const READERS: usize> From<T> for RwLock<T, READERS> {
    fn from(value: T) -> Self {
        Self::with_readers(value)
    }
}

impl<T, const READERS: usize> fmt::Debug for RwLock<T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readers = self.readers.iter().filter(|place| Ordered::load(*place) != Occupant::NOBODY).count();
        f.debug_struct("RwLock")
            .field("is_written", &self.is_written())
            .field("readers", &readers)
            .finish_non_exhaustive()
    }
}

/// A lock that is held to write. Whoever has it gives it back, once.
pub struct Held<'a, T, const READERS: usize> {
    lock: &'a RwLock<T, READERS>,
    /// INVARIANT 3: of this thread, and the attachment that `lock` lies in.
    caller: Caller<'a>,
    /// INVARIANT 4: that of `lock`.
    held: HeldLock<'a>,
}

impl<T, const READERS: usize> Clone for Held<'_, T, READERS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, const READERS: usize> Copy for Held<'_, T, READERS> {}

impl<T, const READERS: usize> fmt::Debug for Held<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
