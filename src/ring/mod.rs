//! Bounded queues, through which processes hand each other elements
//!
//! They are objects like others: they lie in an arena, under a name, or in the value of a segment. An element is a `T` that is
//! [`Shareable`](crate::Shareable), and is written and read where it lies in the queue.
//!
//! | queue | senders | receivers | |
//! |---|---|---|---|
//! | [`Spsc`] | one at a time | one at a time | an element costs a store on either side |
//! | [`Mpmc`] | any number | any number | each element comes to one of the receivers |
//!
//! Both are a [`Queue`], with a [`Sender`] and a [`Receiver`]. They wait asleep ([`push`](Sender::push), [`pop`](Receiver::pop)), awake
//! ([`push_spinning_for`](Sender::push_spinning_for), [`pop_spinning_for`](Receiver::pop_spinning_for)), or not at all
//! ([`try_push`](Sender::try_push), [`try_pop`](Receiver::try_pop)); one that sends while nobody is asleep makes no system call.
//!
//! # What a death costs
//! A process that is killed while it sends or receives blocks nobody, and costs at most what it was at work on, mostly one element:
//!
//! | killed | the element |
//! |---|---|
//! | sender, before it has committed | was never sent |
//! | sender, after that | is there |
//! | receiver of an [`Mpmc`], with an element in hand | is lost with it |
//! | receiver of an [`Spsc`], with an element in hand | is there for the next receiver, who may get it for the second time |
//!
//! Elements with a destructor that are lost with the dead are not destroyed; others are by whoever has received them, or destroys
//! the queue. One who waits asleep for what a dead process should have done goes on after a quarter of a second.
//!
//! A process that is stopped, and not dead, in the middle of sending to an [`Mpmc`] keeps what was sent after its element waiting, since
//! elements come in order.
//!
//! # Examples
//! ```
//! use shmem_bind::ring::Spsc;
//! use shmem_bind::{Arena, Builder, ShmemError, Tlsf};
//!
//! # fn main() -> Result<(), ShmemError> {
//! # let name = &format!("shmem-bind-doc-{}-ring", std::process::id());
//! let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
//! let queue = arena.find_or_alloc_zeroed::<Spsc<u64, 256>>("samples")?;
//!
//! // In one process:
//! let mut sender = queue.sender()?;
//! for sample in 0..100 {
//!     sender.push(sample)?;
//! }
//!
//! // In another one:
//! let mut receiver = queue.receiver()?;
//! assert_eq!(receiver.pop()?, 0);
//! assert_eq!(receiver.drain(1000)?.sum::<u64>(), (1..100).sum());
//! # Ok(())
//! # }
//! ```

mod cell;
mod many;
mod single;
mod wait;
mod queue;
mod end;
mod sender;
mod receiver;

pub use crate::error::{QueueError, Unsent};
pub use queue::{Many, Mode, Mpmc, Queue, Single, Spsc};
pub use receiver::{Drain, Received, Receiver};
pub use sender::{Sender, Slot};

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod models;
