#![doc = include_str!("../README.md")]
#![no_std]
#![deny(unsafe_code, unreachable_pub)]
// Whatever the bytes in a segment are, the answer is an error and never a panic.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("shmem-bind needs Linux: flock, pidfds, memfds and /dev/shm as they are there");
#[cfg(not(target_has_atomic = "64"))]
compile_error!("shmem-bind needs 64-bit atomics");

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

// In layers: a module uses only those above it.
mod membership;
mod error;
mod shareable;
mod name;
mod sys;
mod tenancy;
mod header;
mod region;
mod lifecycle;
mod attachment;
mod open;
mod segment;
mod boxed;
#[cfg(feature = "alloc")]
mod listing;

pub use attachment::Origin;
pub use boxed::{ReadRef, ShmemBox};
pub use error::{BoxError, Errno, FileKind, HeaderError, NameError, OwnError, ShmemError, SizeError};
pub use header::{HEADER_LEN, Header, Payload, SegmentId, Statistics};
#[cfg(feature = "alloc")]
pub use listing::segments;
pub use membership::{MAX_ATTACHMENTS, OrphanPolicy, UnlinkPolicy};
pub use open::ReservePolicy;
pub use rustix::fd::OwnedFd;
pub use segment::{Builder, BuilderWithSize, MemfdBuilder, ShmemConf, unlink};
pub use shareable::{Shareable, TagMismatch, TypeTag};
