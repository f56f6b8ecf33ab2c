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
#[cfg(any(feature = "std", test))]
extern crate std;

// In layers: a module uses only those above it.
#[cfg(planted)]
#[doc(hidden)]
pub mod planted;
mod membership;
mod shareable;
mod object;
mod allocator_id;
mod error;
mod name;
mod sys;
mod tenancy;
mod word;
mod lock;
mod event;
mod heap;
mod allocator;
mod header;
mod whereabouts;
mod region;
mod lifecycle;
mod private;
mod exports;
mod directory;
mod holes;
mod attachment;
mod sigbus;
mod thread;
mod open;
mod segment;
mod copy_region;
mod typed;
mod handle;
mod boxed;
mod shared;
mod pinned;
mod arena;
pub mod sync;
pub mod ring;
#[cfg(feature = "alloc")]
mod listing;

pub use allocator::{Bump, RegionAllocator, Slab, Tlsf};
pub use allocator_id::AllocatorId;
pub use arena::{Arena, Leaked, LeakedObject, NameEntry, Names, Reclaimed};
pub use attachment::Origin;
pub use boxed::{ReadRef, ShmemBox};
pub use copy_region::CopyRegion;
pub use error::{
    AllocError, ArenaError, BoxError, CopyError, DirectoryError, Errno, FileKind, HandleError, HeaderError,
    HeapError, LockFailure, NameError, OwnError, Rejected, ShmemError, SizeError,
};
pub use handle::Handle;
pub use header::{HEADER_LEN, Header, Payload, SegmentId, Statistics};
pub use heap::{Block, Heap, HeapGuard, PlainHeap, Request, Usage, Visit, Word, Words};
#[cfg(feature = "alloc")]
pub use listing::segments;
pub use membership::{MAX_ATTACHMENTS, OrphanPolicy, UnlinkPolicy};
pub use object::{BLOCK_HEADER_LEN, BlockState, Extent, GRANULE, MIN_BLOCK_LEN};
pub use open::ReservePolicy;
pub use pinned::{Loadable, PinnedWords};
pub use rustix::fd::OwnedFd;
pub use segment::{Builder, BuilderWithSize, MemfdBuilder, ShmemConf, unlink};
pub use shareable::{AnyBitPattern, FromZeros, NoUninit, Shareable, TagMismatch, TypeTag};
pub use shared::ShmemArc;
pub use sigbus::sigbus_fixup;
pub use typed::Object;
