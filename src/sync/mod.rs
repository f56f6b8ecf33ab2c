//! Locks around data, for values that several processes change
//!
//! They lie in the segment, in objects of an arena or in the value of a segment, beside or around what they protect.
//! A process may be killed while it holds one, in the middle of a store, and what it leaves is then no value of the type
//! any more: an enum's tag beside the fields of another variant, say. So whoever comes next gets no reference to it,
//! but an [`Orphaned`], and says what is to be done.

mod event;
mod mutex;
mod result;
mod rwlock;
mod semaphore;
mod thread_lock;

pub use crate::error::LockFailure;
pub use event::{Event, Listening};
pub use mutex::{Mutex, MutexGuard};
pub use result::{LockError, LockResult, Orphaned};
pub use rwlock::{ReadResult, RwLock, RwLockReadGuard, RwLockWriteGuard, WriteResult};
pub use semaphore::{Permit, Semaphore};
