//! Errors of locks around data

use super::unusable::SEVERED;
use core::error::Error;
use core::fmt;

/// Why a lock could not be had, in a word: for errors that are handed on, without the lock and without a lifetime.
///
/// # Examples
/// ```
/// use shmem_bind::sync::{LockFailure, Mutex};
///
/// let mutex = Mutex::new(0_u32); // on the stack, where no other process can see it
/// assert_eq!(mutex.try_lock().unwrap_err().failure(), LockFailure::NotAttached);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockFailure {
    /// Its holder died, so the value may be half-written. As it stands here, as part of an error that was handed on, the
    /// value has been left to the next one who locks.
    OwnerDied,
    /// Somebody alive held it until the deadline.
    Busy,
    /// This very thread holds it already, or is initialising the value that it asks for.
    Deadlock,
    /// Somebody has said, by [`give_up`](crate::sync::Orphaned::give_up), that the value cannot be put right.
    NotRecoverable,
    /// The lock, or whatever else is waited for, does not lie in a segment that this process has attached.
    NotAttached,
    /// The segment is attached read-only.
    ReadOnly,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// The lock's word is none that a lock can have.
    Damaged,
}

impl fmt::Display for LockFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnerDied => {
                "a process died holding the lock and its value may be half-written; replace or check it"
            }
            Self::Busy => "somebody held the lock until the deadline; look for a process that is stopped",
            Self::Deadlock => {
                "this thread holds the lock already, or is initialising the value; drop the guard, or return, first"
            }
            Self::NotRecoverable => {
                "what a dead process left behind the lock was given up; put another value in its place"
            }
            Self::NotAttached => {
                "what is to be locked or waited for lies in no segment that this process has attached (it is on the stack or \
                 the heap, or was inherited from before fork); use one in a segment opened by this process"
            }
            Self::ReadOnly => "the segment is attached read-only; attach to write in order to lock",
            Self::Severed => SEVERED,
            Self::Damaged => "the lock is damaged; put another value in its place",
        })
    }
}

impl Error for LockFailure {}
