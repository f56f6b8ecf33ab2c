//! So many at a time
//!
//! How permits are taken and given back is said in [`raw`].
//!
//! | state of all permits | `acquire` gives |
//! |---|---|
//! | some are nobody's, or of the dead | a permit |
//! | those alive have all | after waiting: a permit, or `Busy` |
//! | none is one that could ever be had | `Damaged` |
//!
//! | event | state of a permit | next |
//! |---|---|---|
//! | the guard is dropped, in whichever thread, also by a panic | mine | nobody's |
//! | the process is killed, or detaches with the guard forgotten | mine | of the dead |
//! | the guard is forgotten | mine | mine, until the process ends or detaches |
//!
//! # Safety
//! Says that its words may lie in shared memory, and that a permit may go to another thread.
#![allow(unsafe_code)]

mod raw;

use super::thread_lock::{holder, place};
use crate::attachment::Here;
use crate::error::LockFailure;
use crate::event::RawEvent;
use crate::lock::{Holder, LockError};
use crate::shareable::{FromZeros, Shareable, TypeTag};
use crate::thread;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use raw::Permits;
use static_assertions::const_assert_eq;

/// As many permits as the type says, for what at most so many threads may do at a time, in whichever processes.
///
/// It lies in a segment: in an object of an arena, or in the value of a segment. Zeros are one whose permits are all to be had.
///
/// If a process dies that has permits, others get them, and nothing else comes of it; a process that is merely stopped keeps them.
/// A permit is not bound to a thread. Threads do not get permits in the order in which they came. Moved to another segment, make it anew: permits
/// that were forgotten would be those of strangers there who have the numbers of those that forgot them.
///
/// Each permit takes 4 bytes. To acquire one costs one atomic exchange, if there is one in the first place looked at, which differs between
/// processes and threads; at worst all are looked at, so this is for tens of permits rather than for thousands.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use shmem_bind::sync::Semaphore;
/// use shmem_bind::{Arena, Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-semaphore", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// // At most four at a time may rebuild their caches, in all processes together.
/// let rebuilding = arena.find_or_alloc("rebuilding", Semaphore::<4>::new)?;
///
/// let permit = rebuilding.acquire_for(Duration::from_secs(10))?;
/// assert_eq!(rebuilding.available(), 3);
/// drop(permit);
/// assert_eq!(rebuilding.available(), 4);
/// # Ok(())
/// # }
/// ```
///
/// There is at least one permit:
/// ```compile_fail
/// let none = shmem_bind::sync::Semaphore::<0>::new();
/// ```
#[repr(C)]
#[derive(Debug)]
pub struct Semaphore<const PERMITS: usize> {
    given_back: RawEvent,
    words: [AtomicU32; PERMITS],
}

const_assert_eq!(size_of::<Semaphore<3>>(), 16);

// SAFETY: atomic words, in an order fixed by `repr(C)`, and all in the tag. No addresses: holders stand in it as numbers of slots.
// Any bytes are one, if one of which some permits are damaged. Any process that is attached may use it.
unsafe impl<const PERMITS: usize> Shareable for Semaphore<PERMITS> {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::Semaphore", 1)
        .with_field("given_back", offset_of!(Self, given_back), AtomicU32::TAG)
        .with_field("words", offset_of!(Self, words), <[AtomicU32; PERMITS]>::TAG);
    const FROZEN: bool = false;
}

// SAFETY: zeros are permits that are all to be had.
unsafe impl<const PERMITS: usize> FromZeros for Semaphore<PERMITS> {}

impl<const PERMITS: usize> Semaphore<PERMITS> {
    const HAS_PERMITS: () = assert!(PERMITS != 0, "a semaphore that nobody can acquire");

    /// One with all its permits.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, Semaphore};
    ///
    /// let pair = Semaphore::<2>::new();
    /// // Permits are to be had where processes share it, and nowhere else.
    /// assert_eq!(pair.acquire().unwrap_err(), LockFailure::NotAttached);
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::HAS_PERMITS;
        Self { given_back: RawEvent::new(), words: [const { AtomicU32::new(0) }; PERMITS] }
    }

    /// Takes a permit, and waits as long as those alive have all: for ever, if one of them is stopped.
    ///
    /// A thread that has permits and wants more may wait for itself.
    ///
    /// # Errors
    /// - [`LockFailure::NotAttached`]: it lies in no segment that this process has attached; so it is in a child after
    ///   `fork`, with what it inherited.
    /// - [`LockFailure::Damaged`]: none of its words is one that a permit can have. As long as one is, the others are passed over.
    /// - [`LockFailure::ReadOnly`], [`LockFailure::Severed`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Semaphore;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let pair = arena.alloc_zeroed::<Semaphore<2>>()?;
    /// let (first, second) = (pair.acquire()?, pair.acquire()?);
    /// assert_eq!(pair.available(), 0);
    /// drop((first, second));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    ///
    /// # References
    ///  - [POSIX `sem_wait(3p)`](https://man7.org/linux/man-pages/man3/sem_wait.3p.html), which loses the permits of the dead
    #[inline]
    pub fn acquire(&self) -> Result<Permit<'_>, LockFailure> {
        self.acquire_for(Duration::MAX)
    }

    /// Takes a permit, and waits for at most `timeout` while those alive have all.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`LockFailure::Busy`] when the time is up.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Semaphore;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let pair = arena.alloc_zeroed::<Semaphore<2>>()?;
    /// let _all = [pair.acquire()?, pair.acquire()?];
    /// let failure = pair.acquire_for(std::time::Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(failure, shmem_bind::sync::LockFailure::Busy);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn acquire_for(&self, timeout: Duration) -> Result<Permit<'_>, LockFailure> {
        let () = Self::HAS_PERMITS;
        let (here, attached) = place(self)?;
        let holder = holder(attached)?;
        let first = thread::spread(holder).checked_rem(PERMITS).unwrap_or(0);
        let permits = self.permits();
        let index = permits.acquire(holder, first, attached, timeout).map_err(|error| match error {
            LockError::Busy => LockFailure::Busy,
            LockError::NotRecoverable | LockError::Damaged => LockFailure::Damaged,
        })?;
        // Zeros are permits that nobody has, also those that have taken the place of these.
        if attached.is_severed() {
            permits.release(index, holder);
            return Err(LockFailure::Severed);
        }
        Ok(Permit { permits, index, here, holder })
    }

    /// Takes a permit if there is one, or one of the dead, without waiting. (Whether somebody is alive takes some system calls to say.)
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`LockFailure::Busy`] if those alive have all.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::{LockFailure, Semaphore};
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let single = arena.alloc_zeroed::<Semaphore<1>>()?;
    /// let permit = single.try_acquire()?;
    /// assert_eq!(single.try_acquire().unwrap_err(), LockFailure::Busy);
    /// drop(permit);
    /// assert!(single.try_acquire().is_ok());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, LockFailure> {
        self.acquire_for(Duration::ZERO)
    }

    /// How many permits are nobody's just now. Those of the dead are not counted among them before somebody has taken them over, or they
    /// were [reclaimed](Self::reclaim).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Semaphore;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let pair = arena.alloc_zeroed::<Semaphore<2>>()?;
    /// let _permit = pair.acquire()?;
    /// assert_eq!(pair.available(), 1);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn available(&self) -> usize {
        self.permits().available()
    }

    /// Gives back what permits the dead have; gives how many these were. Not needed for others to get them; for those who count what is
    /// [available](Self::available).
    ///
    /// # Errors
    /// [`LockFailure::NotAttached`], [`LockFailure::ReadOnly`], [`LockFailure::Severed`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::sync::Semaphore;
    /// use shmem_bind::{Builder, ShmemError};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (conf, fd) = Builder::memfd().create(size_of::<Semaphore<2>>())?;
    /// // SAFETY: zeros are a semaphore.
    /// let pair = unsafe { conf.boxed::<Semaphore<2>>() };
    ///
    /// // As a process does that is killed: it goes, and gives nothing back.
    /// // SAFETY: as above.
    /// let other = unsafe { Builder::memfd().attach(&fd)?.boxed::<Semaphore<2>>() };
    /// std::mem::forget(other.acquire()?);
    /// drop(other);
    ///
    /// assert_eq!(pair.available(), 1);
    /// assert_eq!(pair.reclaim()?, 1);
    /// assert_eq!(pair.available(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reclaim(&self) -> Result<usize, LockFailure> {
        let (_, attached) = place(self)?;
        holder(attached)?;
        Ok(self.permits().reclaim(attached))
    }

    #[inline]
    const fn permits(&self) -> Permits<'_, AtomicU32> {
        Permits { words: &self.words, given_back: &self.given_back }
    }
}

impl<const PERMITS: usize> Default for Semaphore<PERMITS> {
    fn default() -> Self {
        Self::new()
    }
}

/// A permit of a [`Semaphore`], which is given back when this is dropped.
///
/// It may go to another thread of its process. Forgotten, by [`core::mem::forget`], it stays taken until the process ends or detaches; and so
/// does one that a child after `fork` has inherited, which gives nothing back.
///
/// # Examples
/// ```
/// use shmem_bind::sync::Semaphore;
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let pair = arena.alloc_zeroed::<Semaphore<2>>()?;
/// let permit = pair.acquire()?;
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(permit));
/// });
/// assert_eq!(pair.available(), 2);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[must_use = "dropped, it is given back"]
pub struct Permit<'a> {
    permits: Permits<'a, AtomicU32>,
    /// INVARIANT: the word at `index` is `holder`'s, the attachment `here`, in which the words lie.
    index: usize,
    here: Here<'a>,
    holder: Holder,
}

// SAFETY: it does not matter which thread gives it back, since the word names the attachment alone. What `here` leads to is only read,
// is `Sync`, and stays while the semaphore is borrowed.
unsafe impl Send for Permit<'_> {}
// SAFETY: a shared one can do nothing.
unsafe impl Sync for Permit<'_> {}
static_assertions::assert_impl_all!(crate::attachment::Attached: Sync);
static_assertions::assert_impl_all!(Permits<'static, AtomicU32>: Send, Sync);

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        // In a child after `fork` it is the parent's, and may not even be mapped.
        if self.here.get().is_some() {
            self.permits.release(self.index, self.holder);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_number_of_permits_makes_another_type() {
        assert_ne!(<Semaphore<2>>::TAG, <Semaphore<3>>::TAG);
        assert_eq!(<Semaphore<2>>::TAG.size(), 12);
    }
}
