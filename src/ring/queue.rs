//! A queue as it lies in a segment
//!
//! # Safety
//! Holds elements in places that the words of their cells tell the state of; an element is destroyed with its queue if its cell is full.
#![allow(unsafe_code)]

use super::cell::{CellState, Cells, LAP_BITS, State};
use super::end::End;
use super::receiver::Receiver;
use super::sender::Sender;
use crate::error::QueueError;
use crate::event::RawEvent;
use crate::lock::RawLock;
use crate::shareable::{FromZeros, Shareable, TypeTag};
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, needs_drop, offset_of};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use static_assertions::const_assert_eq;

/// How many send to a queue, and receive from it: [`Single`] or [`Many`].
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Mode, Mpmc, Queue, Spsc};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// /// For queues of both sorts.
/// fn greet<M: Mode, const N: usize>(queue: &Queue<u32, N, M>) -> Result<u32, ShmemError> {
///     queue.sender()?.try_push(7)?;
///     Ok(queue.receiver()?.try_pop()?)
/// }
///
/// assert_eq!(greet(&*arena.alloc(Spsc::<u32, 4>::new())?)?, 7);
/// assert_eq!(greet(&*arena.alloc(Mpmc::<u32, 16>::new())?)?, 7);
/// # Ok(())
/// # }
/// ```
pub trait Mode: sealed::Sealed {}

pub(super) mod sealed {
    /// What is known of a mode.
    pub trait Sealed: Send + Sync + 'static {
        const NAME: &'static str;
        const IS_SINGLE: bool;
    }
}

/// One sender and one receiver at a time.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Queue, QueueError, Single};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let samples = arena.alloc(Queue::<u32, 16, Single>::new())?; // an `Spsc`
/// let mut sender = samples.sender()?;
/// assert_eq!(samples.sender().unwrap_err(), QueueError::Taken);
/// sender.push(1)?;
/// drop(sender);
/// // The next one goes on where that one has stopped.
/// samples.sender()?.push(2)?;
/// assert_eq!(samples.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum Single {}

/// Any number of senders and receivers.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Many, Queue};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let jobs = arena.alloc(Queue::<u32, 16, Many>::new())?; // an `Mpmc`
/// for (number, mut sender) in [1, 2].into_iter().zip([jobs.sender()?, jobs.sender()?]) {
///     sender.push(number)?;
/// }
/// let (mut receiver, mut other) = (jobs.receiver()?, jobs.receiver()?);
/// assert_eq!((other.pop()?, receiver.pop()?), (1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum Many {}

impl sealed::Sealed for Single {
    const NAME: &'static str = "shmem_bind::Spsc";
    const IS_SINGLE: bool = true;
}

impl sealed::Sealed for Many {
    const NAME: &'static str = "shmem_bind::Mpmc";
    const IS_SINGLE: bool = false;
}

impl Mode for Single {}
impl Mode for Many {}

/// A queue of at most `N` elements with one sender and one receiver at a time.
///
/// Either is a role: who has it keeps it, until it drops its [`Sender`] or [`Receiver`], or dies.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{QueueError, Spsc};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let queue = arena.alloc(Spsc::<u32, 16>::new())?;
/// let mut sender = queue.sender()?;
/// assert_eq!(queue.sender().unwrap_err(), QueueError::Taken);
///
/// sender.try_push(1)?;
/// assert_eq!(queue.receiver()?.try_pop()?, 1);
/// # Ok(())
/// # }
/// ```
pub type Spsc<T, const N: usize> = Queue<T, N, Single>;

/// A queue of at most `N` elements with any number of senders and receivers; each element comes to one of them.
///
/// What one sender sends is received in the order in which it was sent.
///
/// # Examples
/// ```
/// use shmem_bind::ring::{Mpmc, QueueError};
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let jobs = arena.alloc(Mpmc::<u32, 2>::new())?;
/// let (mut sender, mut other) = (jobs.sender()?, jobs.sender()?);
/// sender.try_push(1)?;
/// other.try_push(2)?;
/// let unsent = sender.try_push(3).unwrap_err();
/// assert_eq!((unsent.value, unsent.error), (3, QueueError::Full));
///
/// let (mut receiver, mut another) = (jobs.receiver()?, jobs.receiver()?);
/// assert_eq!((receiver.try_pop()?, another.try_pop()?), (1, 2));
/// # Ok(())
/// # }
/// ```
pub type Mpmc<T, const N: usize> = Queue<T, N, Many>;

/// A bounded queue in shared memory: an [`Spsc`] or an [`Mpmc`].
///
/// `N` is a power of two. Zeros are an empty queue, so that a large one need not be built on the stack and moved: see
/// [`Arena::find_or_alloc_zeroed`](crate::Arena::find_or_alloc_zeroed). It has 384 bytes, and for each element
/// eight bytes and its size, rounded up to a multiple of eight; where it is aligned to more than eight bytes, to so many, and that
/// many bytes stand for the eight. The whole is rounded up to a multiple of 128.
///
/// To send and to receive, take a [`sender`](Self::sender) and a [`receiver`](Self::receiver), and keep them.
///
/// # Examples
/// ```
/// use shmem_bind::ring::Mpmc;
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let jobs = arena.alloc(Mpmc::<u32, 16>::new())?;
/// assert_eq!((jobs.len(), jobs.capacity()), (0, 16));
/// jobs.sender()?.push(7)?;
/// jobs.close();
/// assert!(jobs.is_closed() && !jobs.is_empty(), "what is left can be received");
/// assert_eq!(jobs.receiver()?.pop()?, 7);
/// # Ok(())
/// # }
/// ```
///
/// Other capacities do not compile:
/// ```compile_fail,E0080
/// # use shmem_bind::ring::Mpmc;
/// let queue = Mpmc::<u8, 12>::new();
/// ```
/// ```compile_fail,E0080
/// # use shmem_bind::ring::Spsc;
/// let queue = Spsc::<u8, 0>::new();
/// ```
/// Nor do elements that cannot be shared:
/// ```compile_fail,E0277
/// # use shmem_bind::ring::Mpmc;
/// # use shmem_bind::{Arena, Tlsf};
/// fn alloc(arena: &Arena<Tlsf>) {
///     arena.alloc_zeroed::<Mpmc<String, 16>>();
/// }
/// ```
#[repr(C)]
pub struct Queue<T, const N: usize, M> {
    pub(super) sending: Side,
    pub(super) receiving: Side,
    pub(super) signals: Signals,
    cells: [Cell<T>; N],
    mode: PhantomData<M>,
}

/// One end.
#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct Side {
    /// Of an `Mpmc`, the position where the next cell is to be looked for; of an `Spsc` where its holder stood last, a hint for
    /// [`Queue::len`] alone.
    pub(super) position: AtomicU64,
    /// Of an `Spsc`: who has this role.
    pub(super) role: RawLock,
}

/// What is written only when somebody sleeps, or closes the queue, and looked at each time.
#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) not_empty: RawEvent,
    pub(super) not_full: RawEvent,
    /// Not 0: nothing more is to be sent.
    is_closed: AtomicU32,
}

const_assert_eq!(size_of::<Side>(), 128);
const_assert_eq!(size_of::<Signals>(), 128);

#[repr(C)]
struct Cell<T> {
    word: AtomicU64,
    /// INVARIANT 1: a valid `T` if the word says that it is full, or being read; used by nobody then, or by whom the word names or who
    /// has the role. Else any bytes, which whoever is named or has the role may write.
    element: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Cell<T> {
    const fn empty() -> Self {
        Self { word: AtomicU64::new(0), element: UnsafeCell::new(MaybeUninit::zeroed()) }
    }
}

// SAFETY: an element is one process's at a time, by invariant 1, and so merely sent from one to the next.
unsafe impl<T: Send, const N: usize, M> Sync for Queue<T, N, M> {}

// SAFETY: atomics, and a `Shareable` in an order fixed by `repr(C)`, all in the tag. No addresses: positions are numbers of cells, and
// holders those of slots. Any process that is attached may use it; one that dies leaves a cell that others take for what its word says.
unsafe impl<T: Shareable, const N: usize, M: Mode> Shareable for Queue<T, N, M> {
    const TAG: TypeTag = TypeTag::new::<Self>(M::NAME, 1)
        .with_parameter(Self::CAPACITY as u128)
        .with_field("sending", offset_of!(Self, sending), <[u64; 2]>::TAG)
        .with_field("receiving", offset_of!(Self, receiving), <[u64; 2]>::TAG)
        .with_field("signals", offset_of!(Self, signals), <[AtomicU32; 3]>::TAG)
        .with_field("cells", offset_of!(Self, cells), AtomicU64::TAG)
        .with_field("elements", offset_of!(Cell<T>, element), T::TAG);
    const FROZEN: bool = false;
}

// SAFETY: zeros are free cells, of which no element is looked at, locks that nobody holds, and events that never happened.
unsafe impl<T: Shareable, const N: usize, M: Mode> FromZeros for Queue<T, N, M> {}

impl<T, const N: usize, M> Queue<T, N, M> {
    /// `N`, as far as it is a capacity.
    const CAPACITY: usize = {
        assert!(N.is_power_of_two() && N <= 1 << 30, "the capacity of a queue is a power of two, up to 2^30");
        N
    };

    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(Self::CAPACITY == N) };
        const fn side() -> Side {
            Side { position: AtomicU64::new(0), role: RawLock::new() }
        }
        Self {
            sending: side(),
            receiving: side(),
            signals: Signals {
                not_empty: RawEvent::new(),
                not_full: RawEvent::new(),
                is_closed: AtomicU32::new(0),
            },
            cells: [const { Cell::empty() }; N],
            mode: PhantomData,
        }
    }

    /// How many elements it can hold: `N`.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        N
    }

    /// About how many elements are in it: others send and receive meanwhile.
    #[must_use]
    pub fn len(&self) -> usize {
        let position = |side: &Side| side.position.load(Ordering::Relaxed);
        let len = position(&self.sending).wrapping_sub(position(&self.receiving));
        // One end may count on beyond the laps that the cells tell, from which the other one took its position.
        let unused = u64::BITS.wrapping_sub(LAP_BITS.wrapping_add(Self::CAPACITY.trailing_zeros()));
        // Either may be behind, and anything if it is damaged.
        let len = (len.wrapping_shl(unused) as i64).wrapping_shr(unused);
        usize::try_from(len).map_or(0, |len| len.min(N))
    }

    /// Whether no element seems to be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has been [closed](Self::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.signals.is_closed.load(Ordering::Acquire) != 0
    }

    /// Closes the queue for good: nothing more can be sent, and receivers get what is left, and then [`QueueError::Closed`].
    ///
    /// An element that is being sent to an `Mpmc` meanwhile may still come; receivers wait for it. The sender of an `Spsc` leaves no mark
    /// while it sends, so what it sends just then, while another process closes the queue, may come after the receiver was told that
    /// nothing does: let the sender close it, or the receiver look once more.
    ///
    /// Writes to the queue, so not for one that can only be read: that is a fault (`SIGSEGV`).
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
    /// let mut sender = jobs.sender()?;
    /// sender.push(1)?;
    /// jobs.close();
    /// assert_eq!(sender.push(2).unwrap_err().error, QueueError::Closed);
    /// let mut receiver = jobs.receiver()?;
    /// assert_eq!(receiver.pop(), Ok(1));
    /// assert_eq!(receiver.pop(), Err(QueueError::Closed));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        self.signals.is_closed.store(1, Ordering::SeqCst);
        // SYNC: an exchange each, and so a fence, before anybody is looked for who sleeps.
        self.signals.not_empty.notify_all();
        self.signals.not_full.notify_all();
    }

    /// Where the element of the cell at a position lies. `None` never happens.
    #[inline]
    pub(super) fn element(&self, position: u64) -> Option<*mut MaybeUninit<T>> {
        Some(self.cell(position)?.element.get())
    }

    #[inline]
    fn cell(&self, position: u64) -> Option<&Cell<T>> {
        self.cells.get(position as usize & N.wrapping_sub(1))
    }
}

impl<T: Shareable, const N: usize, M: Mode> Queue<T, N, M> {
    /// A way to send to it. Of an `Spsc` there is one at a time.
    ///
    /// # Errors
    /// - [`QueueError::Taken`]: somebody alive is the sender of an `Spsc`.
    /// - [`QueueError::NotAttached`]: it lies in no segment that this process has attached; so it is in a child after
    ///   `fork`, with what it inherited.
    /// - [`QueueError::ReadOnly`], [`QueueError::Severed`], [`QueueError::Damaged`].
    pub fn sender(&self) -> Result<Sender<'_, T, N, M>, QueueError> {
        Sender::new(End::new(self, &self.sending, M::IS_SINGLE)?)
    }

    /// A way to receive from it. Of an `Spsc` there is one at a time.
    ///
    /// # Errors
    /// As [`sender`](Self::sender).
    pub fn receiver(&self) -> Result<Receiver<'_, T, N, M>, QueueError> {
        Receiver::new(End::new(self, &self.receiving, M::IS_SINGLE)?)
    }
}

impl<T, const N: usize, M> Cells for Queue<T, N, M> {
    type Word = AtomicU64;

    #[inline]
    fn len_log(&self) -> u32 {
        Self::CAPACITY.trailing_zeros()
    }

    #[inline]
    fn word(&self, index: u64) -> Option<&AtomicU64> {
        Some(&self.cell(index)?.word)
    }

    #[inline]
    fn tail(&self) -> &AtomicU64 {
        &self.sending.position
    }

    #[inline]
    fn head(&self) -> &AtomicU64 {
        &self.receiving.position
    }
}

impl<T, const N: usize, M> Drop for Queue<T, N, M> {
    fn drop(&mut self) {
        if !needs_drop::<T>() {
            return;
        }
        for cell in &mut self.cells {
            if CellState::from_bits(*cell.word.get_mut()).state() == Some(State::Full) {
                // SAFETY: by invariant 1 it is valid, and nobody else's; the queue is not used again.
                unsafe { cell.element.get_mut().assume_init_drop() };
            }
        }
    }
}

impl<T, const N: usize, M> Default for Queue<T, N, M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize, M> fmt::Debug for Queue<T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("capacity", &N)
            .field("len", &self.len())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell as PlainCell;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!(Mpmc<PlainCell<u8>, 2>: Send, Sync);
    assert_not_impl_any!(Spsc<*const u8, 2>: Send, Sync);
    assert_not_impl_any!(Sender<'static, u8, 2, Many>: Send, Sync);
    assert_not_impl_any!(Receiver<'static, u8, 2, Single>: Send, Sync);
    assert_not_impl_any!(Mpmc<&'static u8, 2>: Shareable);

    #[test]
    fn another_queue_is_another_type() {
        let tags = [
            Mpmc::<u32, 4>::TAG,
            Mpmc::<u32, 8>::TAG,
            Mpmc::<i32, 4>::TAG,
            Spsc::<u32, 4>::TAG,
            Mpmc::<u64, 4>::TAG,
        ];
        for (index, tag) in tags.iter().enumerate() {
            assert!(tags.iter().skip(index + 1).all(|other| other != tag));
        }
    }

    #[test]
    fn a_queue_is_as_large_as_it_says() {
        assert_eq!(size_of::<Mpmc<u64, 4>>(), 384 + 64_usize.next_multiple_of(128));
        assert_eq!(size_of::<Spsc<[u8; 3], 64>>(), 384 + 64 * (8 + 8));
        assert_eq!(size_of::<Mpmc<[u128; 3], 16>>(), 384 + 16 * (16 + 48));
    }
}
