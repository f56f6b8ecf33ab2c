//! One end of a queue, as a process has it

use super::cell::{Refusal, fence_after_exchange};
use super::queue::{Queue, Side};
use crate::attachment::{Attached, Here};
use crate::error::QueueError;
use crate::lock::{Holder, LockError, RawLock};
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

/// An end that may be used. It has looked up once which attachment the queue lies in, and so who "I" is.
pub(super) struct End<'a, T, const N: usize, M> {
    pub(super) queue: &'a Queue<T, N, M>,
    /// INVARIANT: the attachment that `queue` lies in, and `holder` its word.
    here: Here<'a>,
    pub(super) holder: Holder,
    /// Of one who has this role alone; given back when this is dropped.
    role: Option<&'a RawLock>,
}

impl<'a, T, const N: usize, M> End<'a, T, N, M> {
    pub(super) fn new(queue: &'a Queue<T, N, M>, side: &'a Side, is_role: bool) -> Result<Self, QueueError> {
        let here = Here::of(queue).ok_or(QueueError::NotAttached)?;
        let attached = here.get().ok_or(QueueError::NotAttached)?;
        let holder = attached.holder().ok_or_else(|| why_no_holder(attached))?;
        let role = is_role.then_some(&side.role);
        if let Some(role) = role {
            // What the last one left, also if it died, the cells tell.
            let _: crate::lock::Acquired =
                role.lock(holder, attached, Duration::ZERO).map_err(|error| match error {
                    LockError::Busy => QueueError::Taken,
                    LockError::NotRecoverable | LockError::Damaged => QueueError::Damaged,
                })?;
        }
        Ok(Self { queue, here, holder, role })
    }

    /// The attachment, as long as it may be written to, and is not that of the parent of this process.
    #[inline]
    pub(super) fn attached(&self) -> Result<&'a Attached, Refusal> {
        let attached = self.here.get().ok_or(Refusal::Other(QueueError::NotAttached))?;
        if attached.holder().is_none() {
            return Err(Refusal::Other(why_no_holder(attached)));
        }
        Ok(attached)
    }

    /// The same, of one who has read or written something there: what it has read is zeros, and what it has written is
    /// lost, if the memory went away meanwhile.
    #[inline]
    pub(super) fn check_attached(&self) -> Result<(), Refusal> {
        // SYNC: what came before is not looked at, or written, after this. Who severs an attachment says so before the memory is
        // another one.
        fence(Ordering::Acquire);
        self.attached().map(|_| ())
    }

    /// The same, of one who has given something back there: if that went where nobody sees it, others have it still.
    #[inline]
    pub(super) fn check_given_back(&self) -> Result<(), Refusal> {
        // SYNC: this look does not come before the store that gave it back. After the last one of several there was a fence. After others
        // x86-64 may look while the store is still on its way; it would have to be so for as long as it takes to map something else there.
        fence_after_exchange();
        self.attached().map(|_| ())
    }

    /// Whether the queue is there, and not the parent's of this process.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        self.here.get().is_some()
    }

    /// An error of the raw queue, as the user is told it.
    pub(super) fn error(&self, refusal: Refusal, not_ready: QueueError) -> QueueError {
        match refusal {
            Refusal::NotReady | Refusal::Unfinished => not_ready,
            // Zeros have taken the place of what others write.
            Refusal::Damaged => match self.attached() {
                Err(Refusal::Other(error)) => error,
                _ => QueueError::Damaged,
            },
            Refusal::Other(error) => error,
        }
    }

    /// Where it stood who had this role last; and says so, since that one may have been killed before it did.
    pub(super) fn take_over(
        &self,
        side: &Side,
        find: fn(&Queue<T, N, M>) -> Result<u64, Refusal>,
    ) -> Result<u64, QueueError> {
        if self.role.is_none() {
            return Ok(0);
        }
        let position = find(self.queue).map_err(|refusal| self.error(refusal, QueueError::Damaged))?;
        side.position.store(position, Ordering::Relaxed);
        Ok(position)
    }
}

impl<T, const N: usize, M> Drop for End<'_, T, N, M> {
    fn drop(&mut self) {
        // In a child after `fork` it is the parent's, and may not even be mapped.
        if let Some(role) = self.role.filter(|_| self.is_here()) {
            role.unlock(self.holder);
        }
    }
}

fn why_no_holder(attached: &Attached) -> QueueError {
    if attached.is_read_only() { QueueError::ReadOnly } else { QueueError::Severed }
}
