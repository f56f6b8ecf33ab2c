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
pub mod allocator;
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
mod builder;
mod copy_region;
mod typed;
mod handle;
mod boxed;
mod uninit;
mod shared;
mod pinned;
mod pointers;
mod arena;
pub mod sync;
pub mod ring;
#[cfg(feature = "alloc")]
mod listing;
#[cfg(feature = "alloc")]
pub mod inspect;
#[doc = include_str!("how_it_works.md")]
pub mod how_it_works {}

#[doc(inline)]
pub use allocator::{Bump, RegionAllocator, Slab, Tlsf};
pub use allocator_id::AllocatorId;
pub use arena::{Arena, Leaked, LeakedObject, NameEntry, Names, Need, Reclaimed};
pub use boxed::{ReadRef, ShmemBox};
pub use builder::{Builder, BuilderWithSize, MemfdBuilder, unlink};
pub use copy_region::CopyRegion;
pub use error::{
    AllocError, ArenaError, BoxError, CapacityError, CopyError, DirectoryError, Errno, FileKind, HandleError,
    HeaderError, LockFailure, NameError, OwnError, Rejected, ShmemError, SizeError,
};
pub use handle::Handle;
pub use header::{HEADER_LEN, Header, Payload, SegmentId, Statistics};
pub use heap::Usage;
pub use lifecycle::Origin;
#[cfg(feature = "alloc")]
pub use listing::segments;
pub use membership::{MAX_ATTACHMENTS, OrphanPolicy, Phase, UnlinkPolicy};
pub use open::ReservePolicy;
pub use pinned::{Loadable, PinnedWords};
pub use rustix::fd::OwnedFd;
pub use segment::ShmemConf;
pub use shareable::{AnyBitPattern, FromZeros, NoUninit, Shareable, TagMismatch, TypeTag};
pub use shared::ShmemArc;
pub use sigbus::sigbus_fixup;
pub use typed::Object;
