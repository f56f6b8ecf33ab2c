//! Errors of queues

use super::unusable::SEVERED;
use core::error::Error;
use core::fmt;

/// Why an element could not be sent or received.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Mpmc, QueueError};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let jobs = arena.alloc(Mpmc::<u32, 16>::new())?;
/// jobs.sender()?.push_slice(&[1, 2])?;
/// jobs.close();
///
/// let (mut receiver, mut sum) = (jobs.receiver()?, 0);
/// loop {
///     match receiver.try_pop() {
///         Ok(job) => sum += job,
///         Err(QueueError::Empty) => std::thread::yield_now(), // or something else meanwhile
///         Err(QueueError::Closed) => break,
///         Err(error) => return Err(error.into()),
///     }
/// }
/// assert_eq!(sum, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// There is no place for the element; or there was none until the time was up.
    Full,
    /// There is no element; or there was none until the time was up.
    Empty,
    /// The queue has been closed; for a receiver also: and no element is left.
    Closed,
    /// Somebody alive is the producer, or the consumer, of a queue that has one at a time.
    Taken,
    /// The queue does not lie in a segment that this process has attached.
    NotAttached,
    /// The segment is attached read-only.
    ReadOnly,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// A word of the queue is none that it can have.
    Damaged,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full; wait, or look for a receiver that falls behind or is stopped",
            Self::Empty => "the queue is empty; wait, or look for a sender that is stopped",
            Self::Closed => "the queue has been closed; nothing more comes through it",
            Self::Taken => {
                "another process, or another part of this one, has this end of the queue; wait until it gives it back, \
                 or use an Mpmc queue"
            }
            Self::NotAttached => {
                "the queue lies in no segment that this process has attached (it is on the stack or the heap, or was \
                 inherited from before fork); use one in a segment opened by this process"
            }
            Self::ReadOnly => "the segment is attached read-only; attach to write in order to use a queue",
            Self::Severed => SEVERED,
            Self::Damaged => "the queue is damaged; put another one in its place",
        })
    }
}

impl Error for QueueError {}

/// An element that could not be sent, and why.
///
/// With `?` in a function that returns a [`QueueError`] or [`ShmemError`](crate::ShmemError) the element is dropped and the reason
/// stays.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Mpmc, QueueError, Unsent};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let (urgent, others) = (arena.alloc(Mpmc::<u32, 1>::new())?, arena.alloc(Mpmc::<u32, 16>::new())?);
/// let (mut urgent, mut others) = (urgent.sender()?, others.sender()?);
/// for job in [1, 2, 3] {
///     match urgent.try_push(job) {
///         // It comes back, and can go another way.
///         Err(Unsent { value, error: QueueError::Full }) => others.try_push(value)?,
///         result => result?,
///     }
/// }
/// assert_eq!((urgent.queue().len(), others.queue().len()), (1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Unsent<T> {
    /// The element, as it was given.
    pub value: T,
    /// Why it could not be sent.
    pub error: QueueError,
}

impl<T> fmt::Display for Unsent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Debug for Unsent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> Error for Unsent<T> {}

impl<T> From<Unsent<T>> for QueueError {
    fn from(unsent: Unsent<T>) -> Self {
        unsent.error
    }
}
