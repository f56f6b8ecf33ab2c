//! Sending
//!
//! # Safety
//! Writes elements into cells that this end has taken for that, before it says that they are full.
#![allow(unsafe_code)]

use super::cell::{Outcome, Refusal, Run, fence_after_exchange, settle};
use super::end::End;
use super::queue::{Mode, Queue};
use super::{many, single, wait};
use crate::error::{QueueError, Unsent};
use crate::lock::Roll;
use crate::shareable::Shareable;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

/// Sends elements to a queue.
///
/// It stays in its thread. Take one for each thread that sends, and keep it: to take one costs more than to send.
///
/// # Examples
/// ```
/// use shmem_bind::ring::Mpmc;
/// use shmem_bind::{Builder, ShmemError, Tlsf};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let queue = arena.alloc(Mpmc::<u64, 8>::new())?;
/// let mut sender = queue.sender()?;
/// sender.push(1)?;
/// sender.push_for(2, Duration::from_secs(1))?;
/// assert_eq!(sender.push_slice(&[3, 4, 5])?, 3);
/// sender.reserve()?.write(6)?;
/// assert_eq!(queue.receiver()?.drain(100)?.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
/// # Ok(())
/// # }
/// ```
pub struct Sender<'a, T, const N: usize, M> {
    end: End<'a, T, N, M>,
    /// Of a role: where it stands, and how many cells from there on are known to be free.
    position: u64,
    free: u64,
}

impl<'a, T: Shareable, const N: usize, M: Mode> Sender<'a, T, N, M> {
    pub(super) fn new(end: End<'a, T, N, M>) -> Result<Self, QueueError> {
        let position = end.take_over(&end.queue.sending, single::find_tail)?;
        Ok(Self { end, position, free: 0 })
    }

    /// The queue that it sends to.
    #[must_use]
    pub const fn queue(&self) -> &'a Queue<T, N, M> {
        self.end.queue
    }

    /// Sends an element, and waits asleep as long as there is no place for it: for ever, if no receiver goes on.
    ///
    /// # Errors
    /// With the element:
    /// - [`QueueError::Closed`]: nothing more can be sent.
    /// - [`QueueError::NotAttached`]: this is a child after `fork`, and what it inherited.
    /// - [`QueueError::Severed`], [`QueueError::Damaged`].
    ///
    /// # References
    ///  - [Linux `futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html)
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), Unsent<T>> {
        self.push_for(value, Duration::MAX)
    }

    /// Sends an element, and waits asleep for at most `timeout` while there is no place for it.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`QueueError::Full`] when the time is up.
    #[inline]
    pub fn push_for(&mut self, value: T, timeout: Duration) -> Result<(), Unsent<T>> {
        let claim = self.claim_for(timeout);
        self.send(value, claim)
    }

    /// Sends an element, and waits awake for at most `timeout` while there is no place for it: on a processor of its
    /// own, and for those that answer within microseconds.
    ///
    /// # Errors
    /// As [`push_for`](Self::push_for).
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
    /// let samples = arena.alloc(Spsc::<u64, 1>::new())?;
    /// let (mut sender, soon) = (samples.sender()?, Duration::from_micros(10));
    /// sender.push_spinning_for(1, soon)?;
    /// // No receiver makes room.
    /// assert_eq!(sender.push_spinning_for(2, soon).unwrap_err().error, QueueError::Full);
    /// let unsent = sender.try_push(3).unwrap_err();
    /// assert_eq!((unsent.value, unsent.error), (3, QueueError::Full));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn push_spinning_for(&mut self, value: T, timeout: Duration) -> Result<(), Unsent<T>> {
        let claim = wait::awake(timeout, |looks_around| self.claim(1, looks_around));
        self.send(value, claim)
    }

    /// Sends an element if there is a place for it, without waiting.
    ///
    /// If that place is a dead process's it is taken; whether it is dead takes some system calls to say.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`QueueError::Full`].
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), Unsent<T>> {
        let claim = self.claim(1, true);
        self.send(value, claim)
    }

    /// Sends as many of `values` as there are places for, the first ones, without waiting; gives how many these were. It costs less than
    /// to send them one by one.
    ///
    /// # Errors
    /// As [`try_push`](Self::try_push), if none was sent.
    pub fn push_slice(&mut self, values: &[T]) -> Result<usize, QueueError>
    where
        T: Copy,
    {
        let mut rest = values;
        while !rest.is_empty() {
            let run = match self.claim(rest.len() as u64, true) {
                Ok(run) => run,
                // Another call is told.
                Err(_) if rest.len() < values.len() => break,
                Err(refusal) => return Err(self.error(refusal)),
            };
            for (value, offset) in rest.iter().zip(0..run.len) {
                self.write(run.start.wrapping_add(offset), value);
            }
            match self.check_taken() {
                Ok(()) => self.finish(run, Outcome::Full),
                Err(_) if rest.len() < values.len() => break,
                Err(refusal) => return Err(self.error(refusal)),
            }
            // Never more than there are. It may be fewer, where a place is a dead process's.
            rest = rest.get(run.len as usize..).unwrap_or_default();
        }
        Ok(values.len().wrapping_sub(rest.len()))
    }

    /// Takes a place for an element that is written where it lies, without waiting.
    ///
    /// # Errors
    /// As [`try_push`](Self::try_push), without an element.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::ring::Spsc;
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(1 << 20)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let frames = arena.alloc_zeroed::<Spsc<[u8; 65_536], 8>>()?;
    /// let mut sender = frames.sender()?;
    ///
    /// let mut slot = sender.reserve()?;
    /// // SAFETY: bytes, of which any are valid.
    /// let frame = unsafe { slot.uninit().assume_init_mut() };
    /// frame.fill(7);
    /// // SAFETY: written just now.
    /// unsafe { slot.commit() }?;
    /// # assert!(frames.receiver()?.peek()?.iter().all(|byte| *byte == 7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserve(&mut self) -> Result<Slot<'_, 'a, T, N, M>, QueueError> {
        let run = self.claim(1, true).map_err(|refusal| self.error(refusal))?;
        Ok(Slot { sender: self, run })
    }

    /// Takes a place for an element, and waits asleep for at most `timeout` while there is none.
    ///
    /// # Errors
    /// As [`push_for`](Self::push_for), without an element.
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
    /// let frames = arena.alloc_zeroed::<Spsc<[u8; 4096], 1>>()?;
    /// let mut sender = frames.sender()?;
    /// sender.reserve_for(Duration::from_secs(1))?.write([7; 4096])?;
    /// // No receiver makes room.
    /// let error = sender.reserve_for(Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(error, QueueError::Full);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserve_for(&mut self, timeout: Duration) -> Result<Slot<'_, 'a, T, N, M>, QueueError> {
        let run = self.claim_for(timeout).map_err(|refusal| self.error(refusal))?;
        Ok(Slot { sender: self, run })
    }

    fn error(&self, refusal: Refusal) -> QueueError {
        self.end.error(refusal, QueueError::Full)
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
        let event = &self.end.queue.signals.not_full;
        let queue = self.end.queue;
        let fence = || fence(Ordering::SeqCst);
        wait::asleep(event, fence, timeout, || self.claim(1, true), || !M::IS_SINGLE && many::is_place(queue))
    }

    /// Takes places.
    #[inline]
    fn claim(&mut self, most: u64, looks_around: bool) -> Result<Run, Refusal> {
        let attached = self.end.attached()?;
        let queue = self.end.queue;
        if M::IS_SINGLE {
            self.check_open()?;
            if self.free < most {
                self.free = single::count_free(queue, self.position, most)?;
            }
            return Ok(Run { start: self.position, len: self.free.min(most) });
        }
        let (holder, roll) = (self.end.holder, if looks_around { Some(attached as &dyn Roll) } else { None });
        wait::while_open(
            || queue.is_closed(),
            fence_after_exchange,
            || many::claim_to_write(queue, holder, most, roll),
            |run| self.finish(run, Outcome::Skipped),
        )
    }

    /// Asked before an element is sent to a place that has been taken.
    #[inline]
    fn check_taken(&self) -> Result<(), Refusal> {
        self.end.check_attached()?;
        // Of a queue for many nobody comes to the end as long as somebody has a place. For one, a claim leaves no mark.
        if M::IS_SINGLE { self.check_open() } else { Ok(()) }
    }

    #[inline]
    fn check_open(&self) -> Result<(), Refusal> {
        if self.end.queue.is_closed() { Err(Refusal::Other(QueueError::Closed)) } else { Ok(()) }
    }

    #[inline]
    fn send(&mut self, value: T, claim: Result<Run, Refusal>) -> Result<(), Unsent<T>> {
        match claim {
            Ok(run) => self.send_at(run, value),
            Err(refusal) => Err(Unsent { value, error: self.error(refusal) }),
        }
    }

    /// Writes an element to a place that has been taken, and sends it.
    #[inline]
    fn send_at(&mut self, run: Run, value: T) -> Result<(), Unsent<T>> {
        // It is the queue's as soon as the cell is full, and the caller's until then.
        let value = ManuallyDrop::new(value);
        self.write(run.start, &value);
        match self.check_taken() {
            Ok(()) => {
                self.finish(run, Outcome::Full);
                Ok(())
            }
            Err(refusal) => {
                Err(Unsent { value: ManuallyDrop::into_inner(value), error: self.error(refusal) })
            }
        }
    }

    /// Copies an element to a place that has been taken.
    #[inline]
    fn write(&mut self, position: u64, value: &T) {
        if let Some(element) = self.end.queue.element(position) {
            // SAFETY: by invariant 1 of the cell, which this end has taken to write to it, and so not where `value` lies; the queue
            // lies in an attachment that stays.
            unsafe { element.cast::<T>().copy_from_nonoverlapping(value, 1) };
        }
    }

    /// Says of places that were taken that they are full, or gives them up; and wakes whoever waits for that.
    #[inline]
    fn finish(&mut self, run: Run, outcome: Outcome) {
        if M::IS_SINGLE && outcome == Outcome::Skipped {
            return;
        }
        let queue = self.end.queue;
        for offset in 0..run.len {
            let is_last = offset == run.len.wrapping_sub(1);
            settle(queue, run.start.wrapping_add(offset), outcome, is_last);
        }
        if M::IS_SINGLE {
            self.position = self.position.wrapping_add(run.len);
            queue.sending.position.store(self.position, Ordering::Relaxed);
            self.free = self.free.wrapping_sub(run.len);
        }
        // What was not sent receivers pass over, who may have waited for it, and free its place.
        wait::tell(&queue.signals.not_empty, run.len, || queue.is_closed());
        if M::IS_SINGLE && self.free == 0 {
            // Looked for while the receiver gets this one, the next place need not be waited for. Whatever is wrong with it is told then.
            self.free = single::count_free(queue, self.position, 1).unwrap_or(0);
        }
    }
}

impl<T, const N: usize, M> fmt::Debug for Sender<'_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// A place in a queue for an element that is not sent yet.
///
/// Dropped, it sends nothing. To an `Mpmc` the place is used up then, and is free again when receivers have passed over it.
/// What others send to an `Mpmc` meanwhile is received after this element; so it is not to be kept for long, and forgotten it
/// stops the queue until this process ends.
///
/// # Examples
/// ```
/// use shmem_bind::ring::Spsc;
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let frames = arena.alloc_zeroed::<Spsc<[u8; 4096], 4>>()?;
/// let mut sender = frames.sender()?;
/// drop(sender.reserve()?); // nothing
/// sender.reserve()?.write([1; 4096])?;
///
/// let mut slot = sender.reserve()?;
/// slot.uninit().write([2; 4096]);
/// // SAFETY: written just now.
/// unsafe { slot.commit() }?;
/// let frames: Vec<u8> = frames.receiver()?.drain(100)?.map(|frame| frame[4095]).collect();
/// assert_eq!(frames, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropped, it sends nothing"]
pub struct Slot<'s, 'a, T: Shareable, const N: usize, M: Mode> {
    sender: &'s mut Sender<'a, T, N, M>,
    /// INVARIANT 2: one cell that `sender` has taken to write to it.
    run: Run,
}

impl<T: Shareable, const N: usize, M: Mode> Slot<'_, '_, T, N, M> {
    /// Writes the element, and sends it.
    ///
    /// # Errors
    /// With the element:
    /// - [`QueueError::NotAttached`]: this is a child after `fork`, and the place is its parent's.
    /// - [`QueueError::Closed`]: this is an `Spsc`, and it has been closed meanwhile.
    /// - [`QueueError::Severed`]: memory of the segment has gone away.
    pub fn write(self, value: T) -> Result<(), Unsent<T>> {
        let mut this = ManuallyDrop::new(self);
        if !this.sender.end.is_here() {
            return Err(Unsent { value, error: QueueError::NotAttached });
        }
        let run = this.run;
        this.sender.send_at(run, value)
    }

    /// The place, to be written to.
    pub fn uninit(&mut self) -> &mut MaybeUninit<T> {
        // `element` gives the place of any position.
        let element = self.sender.end.queue.element(self.run.start).unwrap_or(core::ptr::null_mut());
        // SAFETY: by invariant 2 and invariant 1 of the cell it is this slot's alone; any bytes are valid.
        unsafe { &mut *element }
    }

    /// Sends the element.
    ///
    /// # Errors
    /// As [`write`](Self::write), without the element: that is neither sent nor dropped. Where it must not be lost, use `write`.
    ///
    /// # Safety
    /// It has been written, as for [`MaybeUninit::assume_init`].
    pub unsafe fn commit(self) -> Result<(), QueueError> {
        let mut this = ManuallyDrop::new(self);
        this.sender.check_taken().map_err(|refusal| this.sender.error(refusal))?;
        let run = this.run;
        this.sender.finish(run, Outcome::Full);
        Ok(())
    }
}

impl<T: Shareable, const N: usize, M: Mode> Drop for Slot<'_, '_, T, N, M> {
    fn drop(&mut self) {
        // In a child after `fork` it is the parent's.
        if self.sender.end.is_here() {
            self.sender.finish(self.run, Outcome::Skipped);
        }
    }
}

impl<T: Shareable, const N: usize, M: Mode> fmt::Debug for Slot<'_, '_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
