//! Receiving
//!
//! # Safety
//! Reads elements of cells that this end has taken for that, before it says that they are free.
#![allow(unsafe_code)]

use super::cell::{Outcome, Refusal, Run, settle};
use super::end::End;
use super::queue::{Mode, Queue};
use super::{many, single, wait};
use crate::error::QueueError;
use crate::shareable::Shareable;
use core::fmt;
use core::mem::{ManuallyDrop, needs_drop};
use core::ops::Deref;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

/// Receives elements from a queue.
///
/// It stays in its thread. Take one for each thread that receives, and keep it: to take one costs more than to receive.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Mpmc, QueueError};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let queue = arena.alloc(Mpmc::<u64, 8>::new())?;
/// queue.sender()?.push_slice(&[1, 2, 3, 4])?;
/// let mut receiver = queue.receiver()?;
/// assert_eq!(receiver.pop()?, 1);
/// assert_eq!(receiver.pop_for(Duration::from_secs(1))?, 2);
/// assert_eq!(*receiver.peek()?, 3);
/// assert_eq!(receiver.drain(100)?.sum::<u64>(), 4);
/// assert_eq!(receiver.try_pop(), Err(QueueError::Empty));
/// # Ok(())
/// # }
/// ```
pub struct Receiver<'a, T, const N: usize, M> {
    end: End<'a, T, N, M>,
    /// Of a role: where it stands.
    position: u64,
}

impl<'a, T: Shareable, const N: usize, M: Mode> Receiver<'a, T, N, M> {
    pub(super) fn new(end: End<'a, T, N, M>) -> Result<Self, QueueError> {
        let position = end.take_over(&end.queue.receiving, single::find_head)?;
        Ok(Self { end, position })
    }

    /// The queue that it receives from.
    #[must_use]
    pub const fn queue(&self) -> &'a Queue<T, N, M> {
        self.end.queue
    }

    /// Receives an element, and waits asleep as long as there is none: for ever, if nobody sends one.
    ///
    /// # Errors
    /// - [`QueueError::Closed`]: nothing is left, and nothing more comes. While somebody is still sending to an `Mpmc` what it had
    ///   begun to before, this waits for that; for an `Spsc` see [`Queue::close`].
    /// - [`QueueError::NotAttached`]: this is a child after `fork`, and what it inherited.
    /// - [`QueueError::Severed`], [`QueueError::Damaged`].
    ///
    /// # References
    ///  - [Linux `futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html)
    #[inline]
    pub fn pop(&mut self) -> Result<T, QueueError> {
        self.pop_for(Duration::MAX)
    }

    /// Receives an element, and waits asleep for at most `timeout` while there is none.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`QueueError::Empty`] when the time is up.
    #[inline]
    pub fn pop_for(&mut self, timeout: Duration) -> Result<T, QueueError> {
        let claim = self.claim_for(timeout);
        self.receive(claim)
    }

    /// Receives an element, and waits awake for at most `timeout` while there is none: on a processor of its own, and
    /// where each microsecond counts.
    ///
    /// # Errors
    /// As [`pop_for`](Self::pop_for).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::ring::{QueueError, Spsc};
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let samples = arena.alloc(Spsc::<u64, 16>::new())?;
    /// samples.sender()?.push(7)?;
    /// let (mut receiver, soon) = (samples.receiver()?, Duration::from_micros(10));
    /// assert_eq!(receiver.pop_spinning_for(soon), Ok(7));
    /// assert_eq!(receiver.pop_spinning_for(soon), Err(QueueError::Empty));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn pop_spinning_for(&mut self, timeout: Duration) -> Result<T, QueueError> {
        let claim = wait::awake(timeout, |looks_around| self.claim(1, looks_around));
        self.receive(claim)
    }

    /// Receives an element if there is one, without waiting.
    ///
    /// What a dead sender has left unfinished is passed over; whether it is dead takes some system calls to say.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`QueueError::Empty`]; also of a closed `Mpmc`, while somebody is still sending.
    #[inline]
    pub fn try_pop(&mut self) -> Result<T, QueueError> {
        let claim = self.claim(1, true);
        self.receive(claim)
    }

    /// Receives an element where it lies, without waiting.
    ///
    /// # Errors
    /// As [`try_pop`](Self::try_pop).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::ring::Mpmc;
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let queue = arena.alloc_zeroed::<Mpmc<[u64; 100], 8>>()?;
    /// queue.sender()?.push([5; 100])?;
    /// let mut receiver = queue.receiver()?;
    /// let element = receiver.peek()?;
    /// assert_eq!(element[99], 5);
    /// element.release();
    /// # Ok(())
    /// # }
    /// ```
    pub fn peek(&mut self) -> Result<Received<'_, 'a, T, N, M>, QueueError> {
        let run = self.claim(1, true).map_err(|refusal| self.error(refusal))?;
        Ok(Received { receiver: self, position: run.start })
    }

    /// Receives an element where it lies, and waits asleep for at most `timeout` while there is none.
    ///
    /// # Errors
    /// As [`pop_for`](Self::pop_for).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::ring::{QueueError, Spsc};
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let frames = arena.alloc_zeroed::<Spsc<[u8; 4096], 4>>()?;
    /// let mut receiver = frames.receiver()?;
    /// let nothing = receiver.peek_for(Duration::from_millis(1)).map(|frame| frame[0]);
    /// assert_eq!(nothing, Err(QueueError::Empty));
    /// frames.sender()?.push([7; 4096])?;
    /// assert_eq!(receiver.peek_for(Duration::from_secs(1))?[4095], 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn peek_for(&mut self, timeout: Duration) -> Result<Received<'_, 'a, T, N, M>, QueueError> {
        let run = self.claim_for(timeout).map_err(|refusal| self.error(refusal))?;
        Ok(Received { receiver: self, position: run.start })
    }

    /// Receives the elements that there are, one after the other, `most` at most, without waiting. It costs less than to receive
    /// them one by one. Where one is not there yet, or was given up, it ends, though there may be more behind.
    ///
    /// Of an `Mpmc` they are this receiver's as soon as this returns: killed, it loses all that it has not given yet. If memory of
    /// the segment goes away meanwhile it ends, and the next call is told.
    ///
    /// # Errors
    /// As [`try_pop`](Self::try_pop), if there is none; but not if none is wanted.
    pub fn drain(&mut self, most: usize) -> Result<Drain<'_, 'a, T, N, M>, QueueError> {
        let run = match most {
            0 => Run { start: self.position, len: 0 },
            _ => self.claim(most as u64, true).map_err(|refusal| self.error(refusal))?,
        };
        Ok(Drain { receiver: self, run, given: 0 })
    }

    fn error(&self, refusal: Refusal) -> QueueError {
        self.end.error(refusal, QueueError::Empty)
    }

    #[inline]
    fn claim_for(&mut self, timeout: Duration) -> Result<Run, Refusal> {
        match self.claim(1, false) {
            Err(refusal) if refusal.may_pass() => self.claim_asleep(timeout),
            claim => claim,
        }
    }

    #[cold]
    fn claim_asleep(&mut self, timeout: Duration) -> Result<Run, Refusal> {
        let event = &self.end.queue.signals.not_empty;
        let queue = self.end.queue;
        let fence = || fence(Ordering::SeqCst);
        wait::asleep(
            event,
            fence,
            timeout,
            || self.claim(1, true),
            || !M::IS_SINGLE && many::is_element(queue),
        )
    }

    /// Takes elements.
    #[inline]
    fn claim(&mut self, most: u64, looks_around: bool) -> Result<Run, Refusal> {
        let queue = self.end.queue;
        wait::unless_at_end(
            || queue.is_closed(),
            || fence(Ordering::SeqCst),
            || self.claim_once(most, looks_around),
        )
    }

    #[inline]
    fn claim_once(&mut self, most: u64, looks_around: bool) -> Result<Run, Refusal> {
        let attached = self.end.attached()?;
        let queue = self.end.queue;
        let run = if M::IS_SINGLE {
            let len = single::count_full(queue, self.position, most)?;
            Run { start: self.position, len }
        } else {
            let roll: Option<&dyn crate::lock::Roll> = if looks_around { Some(attached) } else { None };
            let mut given_back = 0;
            let claim = many::claim_to_read(queue, self.end.holder, most, roll, &mut given_back);
            if given_back != 0 {
                queue.signals.not_full.notify_all();
            }
            claim?
        };
        // Zeros may have taken the place of the cells since.
        self.end.check_attached().map(|()| run)
    }

    #[inline]
    fn receive(&mut self, claim: Result<Run, Refusal>) -> Result<T, QueueError> {
        let run = claim.map_err(|refusal| self.error(refusal))?;
        self.take(run.start, true)
    }

    /// Moves an element out that has been taken, and gives its place back; the last one of several wakes those who wait for that.
    #[inline]
    fn take(&mut self, position: u64, is_last: bool) -> Result<T, QueueError> {
        // `None` never happens.
        let element = self.end.queue.element(position).ok_or(QueueError::Damaged)?;
        // SAFETY: by invariant 1 of the cell, which this end has taken to read from it; the queue lies in an attachment that stays.
        let value = unsafe { element.read() };
        self.release(position, is_last, 1);
        // Zeros may have taken its place, or the others' view of it may be that it is there still: then it is not dropped here.
        self.end.check_given_back().map_err(|refusal| self.error(refusal))?;
        // SAFETY: as above; it is not looked at again there, since the cell is free.
        Ok(unsafe { value.assume_init() })
    }

    #[inline]
    fn release(&mut self, position: u64, is_last: bool, len: u64) {
        let queue = self.end.queue;
        settle(queue, position, Outcome::Free, is_last);
        if M::IS_SINGLE {
            self.position = position.wrapping_add(1);
            queue.receiving.position.store(self.position, Ordering::Relaxed);
        }
        if is_last {
            wait::tell(&queue.signals.not_full, len, || false);
        }
    }
}

impl<T, const N: usize, M> fmt::Debug for Receiver<'_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// An element that has been received, and still lies in the queue.
///
/// Dropped, it gives the place back. Forgotten, it keeps its place until this process ends (of an `Mpmc`), or is received again (of an
/// `Spsc`).
///
/// # Examples
/// ```
/// use shmem_bind::ring::Mpmc;
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let frames = arena.alloc_zeroed::<Mpmc<[u8; 4096], 4>>()?;
/// frames.sender()?.push_slice(&[[1; 4096], [2; 4096]])?;
/// let mut receiver = frames.receiver()?;
///
/// let frame = receiver.peek()?;
/// assert_eq!(frame.iter().max(), Some(&1)); // where it lies
/// frame.release();
/// let frame: [u8; 4096] = receiver.peek()?.take()?; // a copy of one's own
/// assert_eq!(frame, [2; 4096]);
/// assert!(frames.is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use = "dropped, it gives the element up"]
pub struct Received<'r, 'a, T: Shareable, const N: usize, M: Mode> {
    receiver: &'r mut Receiver<'a, T, N, M>,
    /// INVARIANT 2: of a cell that `receiver` has taken to read from it.
    position: u64,
}

impl<T: Shareable, const N: usize, M: Mode> Received<'_, '_, T, N, M> {
    /// Moves the element out.
    ///
    /// # Errors
    /// - [`QueueError::NotAttached`]: this is a child after `fork`, and the element is its parent's.
    /// - [`QueueError::Severed`]: it has gone away.
    pub fn take(self) -> Result<T, QueueError> {
        let mut this = ManuallyDrop::new(self);
        if !this.receiver.end.is_here() {
            return Err(QueueError::NotAttached);
        }
        let position = this.position;
        this.receiver.take(position, true)
    }

    /// Gives the place back, as dropping does.
    pub fn release(self) {}
}

impl<T: Shareable, const N: usize, M: Mode> Deref for Received<'_, '_, T, N, M> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // `element` gives the place of any position.
        let element = self.receiver.end.queue.element(self.position).unwrap_or(core::ptr::null_mut());
        // SAFETY: by invariant 2 and invariant 1 of the cell nobody writes to it.
        let element = unsafe { &*element };
        // SAFETY: as above, it is valid.
        unsafe { element.assume_init_ref() }
    }
}

impl<T: Shareable, const N: usize, M: Mode> Drop for Received<'_, '_, T, N, M> {
    fn drop(&mut self) {
        // In a child after `fork` it is the parent's.
        if !self.receiver.end.is_here() {
            return;
        }
        if needs_drop::<T>() {
            // Given back before it is destroyed, so that nobody gets it again if this process is killed meanwhile.
            drop(self.receiver.take(self.position, true));
        } else {
            self.receiver.release(self.position, true, 1);
        }
    }
}

impl<T: Shareable + fmt::Debug, const N: usize, M: Mode> fmt::Debug for Received<'_, '_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Elements that have been received together, given one by one.
///
/// Dropped, it drops those that it has not given.
///
/// Each place is free as soon as its element has been given; but a sender that sleeps for one is told only after the last of
/// them, or goes on after a quarter of a second. So it is not to be kept for long.
///
/// # Examples
/// ```
/// use shmem_bind::ring::Mpmc;
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let jobs = arena.alloc(Mpmc::<u32, 8>::new())?;
/// jobs.sender()?.push_slice(&[1, 2, 3, 4, 5])?;
/// let mut receiver = jobs.receiver()?;
///
/// let mut drain = receiver.drain(4)?;
/// assert_eq!((drain.next(), drain.len()), (Some(1), 3));
/// drop(drain); // and 2, 3 and 4 with it
/// assert_eq!(receiver.try_pop()?, 5);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropped, it drops the elements"]
pub struct Drain<'r, 'a, T: Shareable, const N: usize, M: Mode> {
    receiver: &'r mut Receiver<'a, T, N, M>,
    /// INVARIANT 2: cells that `receiver` has taken to read from them, but the first `given`.
    run: Run,
    given: u64,
}

impl<T: Shareable, const N: usize, M: Mode> Iterator for Drain<'_, '_, T, N, M> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        if self.given == self.run.len || !self.receiver.end.is_here() {
            return None;
        }
        let position = self.run.start.wrapping_add(self.given);
        self.given = self.given.wrapping_add(1);
        let element = self.receiver.end.queue.element(position)?;
        // SAFETY: by invariant 2 and invariant 1 of the cell.
        let value = unsafe { element.read() };
        self.receiver.release(position, self.given == self.run.len, self.run.len);
        if self.receiver.end.check_given_back().is_err() {
            // Zeros may have taken its place, and that of the others.
            self.given = self.run.len;
            return None;
        }
        // SAFETY: as above; it is not looked at again there.
        Some(unsafe { value.assume_init() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // At most the capacity.
        let left = self.run.len.wrapping_sub(self.given) as usize;
        (left, Some(left))
    }
}

impl<T: Shareable, const N: usize, M: Mode> ExactSizeIterator for Drain<'_, '_, T, N, M> {}

impl<T: Shareable, const N: usize, M: Mode> Drop for Drain<'_, '_, T, N, M> {
    fn drop(&mut self) {
        /// Goes on with the rest where dropping one of them panics, since a place that is not given back stops the queue.
        struct Rest<'d, 'r, 'a, T: Shareable, const N: usize, M: Mode>(&'d mut Drain<'r, 'a, T, N, M>);

        impl<T: Shareable, const N: usize, M: Mode> Drop for Rest<'_, '_, '_, T, N, M> {
            fn drop(&mut self) {
                self.0.for_each(drop);
            }
        }

        let rest = Rest(self);
        rest.0.for_each(drop);
    }
}

impl<T: Shareable, const N: usize, M: Mode> fmt::Debug for Drain<'_, '_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("left", &self.size_hint().0).finish_non_exhaustive()
    }
}
