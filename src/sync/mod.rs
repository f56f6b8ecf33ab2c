//! Locks around data, for values that several processes change
//!
//! They lie in the segment, in objects of an arena or in the value of a segment, beside or around what they protect.
//! A process may be killed while it holds one, in the middle of a store, and what it leaves is then no value of the type
//! any more: an enum's tag beside the fields of another variant, say. So whoever comes next gets no reference to it,
//! but an [`Orphaned`], and says what is to be done.
//!
//! A [`OnceCell`] has nothing of that to ask: what a dead one has begun nobody has seen, and another one begins anew. And those who wait,
//! at a [`Condvar`] or an [`Event`], do not depend on the life of those who notify.

mod condvar;
mod event;
mod mutex;
mod once;
mod once_cell;
mod result;
mod rwlock;
mod semaphore;
mod thread_lock;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod models;

pub use crate::error::LockFailure;
pub use condvar::{Condvar, WaitError, WaitForResult, WaitResult, WaitTimeoutResult};
pub use event::{Event, Listening};
pub use mutex::{Mutex, MutexGuard};
pub use once::Once;
pub use once_cell::{OnceCell, SetError};
pub use result::{LockError, LockResult, Orphaned};
pub use rwlock::{ReadResult, RwLock, RwLockReadGuard, RwLockWriteGuard, WriteResult};
pub use semaphore::{Permit, Semaphore};
