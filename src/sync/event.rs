//! Waiting for what is said by atomics
//!
//! # Safety
//! Says that its word may lie in shared memory.
#![allow(unsafe_code)]

use super::thread_lock::{holder, place};
use crate::error::LockFailure;
use crate::event::{Count, RawEvent};
use crate::shareable::{FromZeros, Shareable, TypeTag};
use crate::sys::clock;
use core::fmt;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

/// Something that happens again and again, and that processes wait for.
///
/// It goes with a condition that is said elsewhere, mostly in atomics: whoever makes it true notifies after that, and whoever
/// waits [listens](Self::listen) first, looks then whether it is true, and waits if not. So nothing is missed in between; and
/// [`wait_until`](Self::wait_until) does all of that.
///
/// A waiter may be let go although another one was meant, or nobody notified at all. So the condition counts and not the wake.
/// Whoever is killed before it could notify, while notifying, or when it was woken, delays those who wait until something is so by a
/// quarter of a second at most; nothing is lost.
///
/// Four bytes, and zeros are an event that nobody waits for. To notify costs one atomic instruction, and a system call only if somebody sleeps.
///
/// # Examples
/// ```
/// use core::sync::atomic::{AtomicU64, Ordering};
/// use core::time::Duration;
/// use shmem_bind::sync::Event;
/// use shmem_bind::{Arena, Builder, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[derive(Default)]
///     #[repr(C)]
///     pub struct Progress {
///         pub done: AtomicU64,
///         pub changed: Event,
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-event", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// let progress = arena.find_or_alloc("progress", Progress::default)?;
///
/// // In one process:
/// progress.done.store(100, Ordering::Release);
/// progress.changed.notify_all();
///
/// // In another one:
/// let is_done = || (progress.done.load(Ordering::Acquire) == 100).then_some(());
/// assert_eq!(progress.changed.wait_until(Duration::from_secs(5), is_done)?, Some(()));
/// # Ok(())
/// # }
/// ```
///
/// # References
///  - [Linux `futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html)
#[repr(transparent)]
pub struct Event(RawEvent);

// SAFETY: one atomic word without addresses, any value of which is an event. Any process that is attached may use it.
unsafe impl Shareable for Event {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::Event", 1).with_field("word", 0, AtomicU32::TAG);
    const FROZEN: bool = false;
}

// SAFETY: zeros are an event that never happened.
unsafe impl FromZeros for Event {}

/// Since when somebody listens to an [`Event`].
///
/// # Examples
/// ```
/// use core::sync::atomic::{AtomicU32, Ordering};
/// use core::time::Duration;
/// use shmem_bind::sync::{Event, Listening};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let (jobs, arrived) = (arena.alloc(AtomicU32::new(0))?, arena.alloc(Event::new())?);
/// let since: Listening = arrived.listen();
/// if jobs.load(Ordering::Acquire) == 0 {
///     // Just now somebody brings one, and it is not missed.
///     jobs.fetch_add(1, Ordering::Release);
///     arrived.notify_one();
///     assert!(arrived.wait(since, Duration::from_secs(5))?);
/// }
/// # assert_eq!(jobs.load(Ordering::Acquire), 1);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening(Count);

impl Event {
    /// One that never happened.
    #[must_use]
    pub const fn new() -> Self {
        Self(RawEvent::new())
    }

    /// Begins to listen. The condition is to be looked at after this. Writes to the event, so not for one that can only be read.
    #[must_use = "it says since when to wait"]
    pub fn listen(&self) -> Listening {
        Listening(self.0.listen())
    }

    /// Waits until it happens, for at most `timeout`, unless it has happened since `since`; gives whether it has.
    ///
    /// One who is killed when the condition is true, and before it notifies, is not noticed here. So wait no longer than you can do
    /// without a look at the condition; or let [`wait_until`](Self::wait_until) do all of that.
    ///
    /// # Errors
    /// - [`LockFailure::NotAttached`]: the event lies in no segment that this process has attached; so it is in a child after
    ///   `fork`, with what it inherited.
    /// - [`LockFailure::ReadOnly`], [`LockFailure::Severed`].
    ///
    /// # Examples
    /// ```
    /// use core::time::Duration;
    /// use shmem_bind::sync::Event;
    /// use shmem_bind::{Arena, Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-event-wait", std::process::id());
    /// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
    /// let event = arena.find_or_alloc("event", Event::new)?;
    ///
    /// let since = event.listen();
    /// assert!(!event.wait(since, Duration::from_millis(1))?);
    /// event.notify_one();
    /// assert!(event.wait(since, Duration::from_millis(1))?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self, since: Listening, timeout: Duration) -> Result<bool, LockFailure> {
        let (_, attached) = place(self)?;
        let start = clock::now();
        loop {
            // Severed, or to be read only: there would be no word that others change.
            holder(attached)?;
            // Before the look, so that the last one is when the time is up.
            let left = timeout.saturating_sub(clock::now().saturating_sub(start));
            if self.0.sleep(since.0, left) {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Waits until `condition` gives something, for at most `timeout`; gives that, or `None` when the time is up.
    ///
    /// The condition is asked at least once, again each time that the event happens and each quarter of a second, in case that
    /// somebody was killed who was just going to notify, and last when the time is up.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), but only if there is anything to wait for.
    pub fn wait_until<R>(
        &self,
        timeout: Duration,
        condition: impl FnMut() -> Option<R>,
    ) -> Result<Option<R>, LockFailure> {
        let check = || {
            let (_, attached) = place(self)?;
            holder(attached).map(|_| ())
        };
        self.0.wait_until(timeout, check, condition)
    }

    /// Says that it has happened, and lets one of those who wait go on, if any.
    ///
    /// Writes to the event, also if nobody waits, so not for one that can only be read: that is a fault (`SIGSEGV`).
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Says that it has happened, and lets all go on who wait.
    ///
    /// Writes to the event, also if nobody waits, so not for one that can only be read: that is a fault (`SIGSEGV`).
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}
