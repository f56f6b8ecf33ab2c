//! Errors of arenas

use super::unusable::{FORKED, SEVERED};
use super::{Errno, system_call};
use crate::allocator_id::AllocatorId;
use crate::shareable::TagMismatch;
use core::error::Error;
use core::fmt;

const BUSY: &str = "another process held the arena's lock until the timeout; look for one that is stopped";
const NOT_RECOVERABLE: &str =
    "a process died in the arena and what it left could not be put right; unlink the segment";

fn damaged(f: &mut fmt::Formatter<'_>, at: u64) -> fmt::Result {
    write!(f, "the arena is damaged at byte {at}; unlink the segment and create it again")
}

/// Why an allocator could not do what was asked of it.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{HeapError, PlainHeap};
/// use shmem_bind::{RegionAllocator, Tlsf};
///
/// let plain = PlainHeap::new(64);
/// let memory: [std::sync::atomic::AtomicU64; 8] = Default::default();
/// let error = Tlsf::format(&plain.heap(&memory, &[], 0)).unwrap_err();
/// assert!(matches!(error, HeapError::TooSmall { len: 64, .. }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeapError {
    /// No free block is large enough.
    OutOfMemory,
    /// The heap is too small for the allocator, or asked to be larger than it can be.
    TooSmall {
        /// Length of the heap, in bytes.
        len: u64,
        /// Length needed, in bytes.
        needed: u64,
    },
    /// Another process held the heap's lock all the time.
    Busy,
    /// A process died holding the heap's lock, and what it left could not be put right.
    NotRecoverable,
    /// A word of the heap is not as it must be.
    Damaged {
        /// Where, in bytes from the start of the heap.
        at: u64,
    },
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfMemory => f.write_str("no free block is large enough; free some objects first"),
            Self::TooSmall { len, needed } => {
                write!(f, "the heap has {len} bytes and needs {needed}; make the segment larger")
            }
            Self::Busy => f.write_str(BUSY),
            Self::NotRecoverable => f.write_str(NOT_RECOVERABLE),
            Self::Damaged { at } => damaged(f, at),
        }
    }
}

impl Error for HeapError {}

/// Why a segment could not be used as an arena, or an arena not do what concerns all of it.
///
/// # Examples
/// ```
/// use shmem_bind::{ArenaError, Builder, Tlsf};
///
/// let (segment, _fd) = Builder::memfd().create(100)?;
/// match segment.arena::<Tlsf>() {
///     Err(ArenaError::TooSmall { len, needed }) => assert!(len < needed),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArenaError {
    /// The segment holds a single value, made by [`boxed`](crate::ShmemConf::boxed).
    Value {
        /// Size of the value, in bytes.
        size: u64,
        /// Its alignment, in bytes.
        align: u64,
    },
    /// The arena has been formatted by another allocator.
    Allocator {
        /// The one that formatted it.
        found: AllocatorId,
        /// The one asked for.
        asked: AllocatorId,
    },
    /// The segment is too small for the allocator.
    TooSmall {
        /// Length of the heap that it would have, in bytes.
        len: u64,
        /// Length needed, in bytes.
        needed: u64,
    },
    /// It was asked to grow beyond [`max_size`](crate::BuilderWithSize::max_size).
    AboveMaximum {
        /// Size asked for, in bytes.
        asked: u64,
        /// The most that is possible, in bytes.
        max: u64,
    },
    /// There is not enough memory to grow, or to start.
    NoSpace {
        /// Size asked for, in bytes.
        asked: u64,
    },
    /// The segment is attached read-only; see [`find_pinned`](crate::ShmemConf::find_pinned).
    ReadOnly,
    /// The handle comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// Another process held a lock of the arena until the [timeout](crate::Builder::timeout).
    Busy,
    /// A process died in the arena, and what it left could not be put right.
    NotRecoverable,
    /// The arena is damaged.
    Damaged {
        /// Where, in bytes from the start of the heap.
        at: u64,
    },
    /// A system call failed.
    Os {
        /// Its name.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Value { size, align } => write!(
                f,
                "the segment holds a single value of {size} bytes aligned to {align} and is no arena; choose \
                 another name, or unlink it first"
            ),
            Self::Allocator { found, asked } => write!(
                f,
                "the arena is managed by the allocator {found} and not by {asked}; use the same in all processes"
            ),
            Self::TooSmall { len, needed } => write!(
                f,
                "the segment leaves {len} bytes for the heap and the allocator needs {needed}; make it larger"
            ),
            Self::AboveMaximum { asked, max } => write!(
                f,
                "the arena cannot grow to {asked} bytes, only to {max}; create the segment with a larger max_size"
            ),
            Self::NoSpace { asked } => write!(
                f,
                "there is no memory for an arena of {asked} bytes; free some of /dev/shm, or ask for less"
            ),
            Self::ReadOnly => {
                f.write_str("the segment is attached read-only; use find_pinned, or attach to write")
            }
            Self::Forked => f.write_str(FORKED),
            Self::Severed => f.write_str(SEVERED),
            Self::Busy => f.write_str(BUSY),
            Self::NotRecoverable => f.write_str(NOT_RECOVERABLE),
            Self::Damaged { at } => damaged(f, at),
            Self::Os { call, errno } => system_call(f, call, errno),
        }
    }
}

impl Error for ArenaError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            #[cfg(feature = "std")]
            Self::Os { errno, .. } => Some(errno),
            _ => None,
        }
    }
}

/// Why an object could not be allocated. Nothing has changed.
///
/// # Examples
/// ```
/// use shmem_bind::{AllocError, Builder, Tlsf};
///
/// let arena = Builder::memfd().max_size(1 << 20).create(4096)?.0.arena::<Tlsf>()?;
/// let table = match arena.alloc_slice(10_000, 0_u32) {
///     Err(AllocError::OutOfMemory { asked, .. }) => {
///         arena.grow(arena.size() + 2 * asked as usize)?;
///         arena.alloc_slice(10_000, 0_u32)?
///     }
///     result => result?,
/// };
/// assert_eq!(table.len(), 10_000);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// No free block is large enough.
    OutOfMemory {
        /// Size of the object, in bytes.
        asked: u64,
        /// Bytes of free blocks, all together.
        free: u64,
        /// Size of the largest object that would fit, in bytes.
        largest_free: u64,
    },
    /// So many elements are beyond the address space.
    TooLong {
        /// Number of elements.
        len: usize,
        /// Size of each, in bytes.
        size: usize,
    },
    /// The type wants a coarser alignment than an arena gives.
    OverAligned {
        /// Alignment of the type, in bytes.
        align: usize,
        /// The most that there is, in bytes.
        max: usize,
    },
    /// The closure that should have filled the place in returned a reference to another one.
    NotInPlace,
    /// The arena comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// Another process held the heap's lock until the [timeout](crate::Builder::timeout).
    Busy,
    /// A process died in the heap, and what it left could not be put right.
    NotRecoverable,
    /// The heap is damaged.
    Damaged {
        /// Where, in bytes from the start of the heap.
        at: u64,
    },
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfMemory { asked, free, largest_free } => write!(
                f,
                "no room for {asked} bytes: {free} are free, and at most {largest_free} in one piece; drop some \
                 objects, or grow the arena"
            ),
            Self::TooLong { len, size } => write!(
                f,
                "{len} elements of {size} bytes are beyond the address space; ask for fewer"
            ),
            Self::OverAligned { align, max } => write!(
                f,
                "objects are aligned to at most {max} bytes and the type wants {align}; use a type with a smaller \
                 alignment"
            ),
            Self::NotInPlace => f.write_str(
                "the closure returned a reference to another place; return the one that the slot's write gives",
            ),
            Self::Forked => f.write_str(FORKED),
            Self::Severed => f.write_str(SEVERED),
            Self::Busy => f.write_str(BUSY),
            Self::NotRecoverable => f.write_str(NOT_RECOVERABLE),
            Self::Damaged { at } => damaged(f, at),
        }
    }
}

impl Error for AllocError {}

/// A value that could not be moved into an arena, and why.
///
/// With `?` in a function that returns an [`AllocError`] or [`ShmemError`](crate::ShmemError) the value is
/// dropped and the reason stays.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Rejected, Tlsf};
///
/// let arena = Builder::memfd().create(4096)?.0.arena::<Tlsf>()?;
/// let big = [7_u8; 5000];
/// if let Err(Rejected { value, error }) = arena.alloc(big) {
///     println!("kept in private memory: {error}");
///     assert_eq!(value[4999], 7);
/// }
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected<T> {
    /// The value, as it was given.
    pub value: T,
    /// Why it could not be moved.
    pub error: AllocError,
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> Error for Rejected<T> {}

impl<T> From<Rejected<T>> for AllocError {
    fn from(rejected: Rejected<T>) -> Self {
        rejected.error
    }
}

/// Why a handle could not be claimed.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Handle, HandleError, ShmemBox, Tlsf};
///
/// let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let handle = ShmemBox::leak(arena.alloc(7_u32)?);
/// let as_another_type = Handle::<f32>::from_bits(handle.to_bits());
/// assert!(matches!(arena.claim(as_another_type), Err(HandleError::Mismatch(_))));
/// assert!(matches!(arena.claim(Handle::<u32>::NOTHING), Err(HandleError::Nothing)));
/// assert_eq!(*arena.claim(handle)?, 7, "it has stayed where it was");
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// It leads nowhere: the value of a segment was leaked, or nothing.
    Nothing,
    /// It is of another segment.
    Foreign,
    /// It leads out of the arena.
    OutOfBounds {
        /// Where it leads, in bytes from the start of the heap.
        offset: u64,
    },
    /// Nothing that was leaked lies there: it has been claimed or freed, or the handle is forged.
    Gone {
        /// Where it leads, in bytes from the start of the heap.
        offset: u64,
    },
    /// What lies there now was leaked or shared later: the handle's own object has been claimed.
    Stale {
        /// Where it leads, in bytes from the start of the heap.
        offset: u64,
    },
    /// It leads to an object of another type. The object stays where it is.
    Mismatch(TagMismatch),
    /// The arena comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// Another process held the heap's lock until the [timeout](crate::Builder::timeout).
    Busy,
    /// A process died in the heap, and what it left could not be put right.
    NotRecoverable,
    /// The arena is damaged.
    Damaged {
        /// Where, in bytes from the start of the heap.
        at: u64,
    },
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => f.write_str(
                "the handle leads nowhere: only objects of an arena can be claimed, and once for each leak",
            ),
            Self::Foreign => {
                f.write_str("the handle is of another segment; claim it in the one that it was leaked in")
            }
            Self::OutOfBounds { offset } => {
                write!(
                    f,
                    "the handle leads to byte {offset}, which is not in the arena; it is damaged or forged"
                )
            }
            Self::Gone { offset } => write!(
                f,
                "nothing that was leaked lies at byte {offset}: it has been claimed or freed, or the handle is \
                 forged; claim each handle once"
            ),
            Self::Stale { offset } => write!(
                f,
                "the handle is too old: byte {offset} is in use by a later object; claim each handle once"
            ),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Forked => f.write_str(FORKED),
            Self::Severed => f.write_str(SEVERED),
            Self::Busy => f.write_str(BUSY),
            Self::NotRecoverable => f.write_str(NOT_RECOVERABLE),
            Self::Damaged { at } => damaged(f, at),
        }
    }
}

impl Error for HandleError {}

/// Why a name could not be published or found.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, DirectoryError, Tlsf};
///
/// let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// match arena.find::<u64>("limit") {
///     Ok(limit) => println!("the limit is {}", *limit),
///     Err(DirectoryError::NotFound) => println!("the limit is not known yet"),
///     Err(DirectoryError::Mismatch(mismatch)) => panic!("an older release is running: {mismatch}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The name is empty.
    Empty,
    /// The name is longer than 255 bytes.
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// No object has this name.
    NotFound,
    /// Another object has this name.
    Taken,
    /// The object has a name already.
    Published,
    /// The name is for as long as the segment exists.
    Pinned,
    /// The object of this name is of another type.
    Mismatch(TagMismatch),
    /// The object is of another arena.
    Foreign,
    /// There is no room for the name, or for the object.
    Alloc(AllocError),
    /// The arena comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// Another process held the directory's lock until the [timeout](crate::Builder::timeout).
    Busy,
    /// A process died in the arena, and what it left could not be put right.
    NotRecoverable,
    /// The arena is damaged.
    Damaged {
        /// Where, in bytes from the start of the heap.
        at: u64,
    },
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("the name of an object must not be empty"),
            Self::TooLong { len } => {
                write!(
                    f,
                    "the name of an object may have at most 255 bytes and this one has {len}; shorten it"
                )
            }
            Self::NotFound => {
                f.write_str("no object has this name (that is pinned, to a reader); publish it, or wait for it")
            }
            Self::Taken => f.write_str("another object has this name; unpublish it first, or choose another"),
            Self::Published => {
                f.write_str("the object has a name already; unpublish that first, or publish another object")
            }
            Self::Pinned => f.write_str(
                "the name is pinned, for as long as the segment exists; unlink the segment to get rid of it",
            ),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Foreign => f.write_str(
                "the object was not made or found through this arena nor a clone of it; publish it through the one \
                 that it came from",
            ),
            Self::Alloc(error) => error.fmt(f),
            Self::Forked => f.write_str(FORKED),
            Self::Severed => f.write_str(SEVERED),
            Self::Busy => f.write_str(BUSY),
            Self::NotRecoverable => f.write_str(NOT_RECOVERABLE),
            Self::Damaged { at } => damaged(f, at),
        }
    }
}

impl Error for DirectoryError {}

impl From<AllocError> for DirectoryError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl<T> From<Rejected<T>> for DirectoryError {
    fn from(rejected: Rejected<T>) -> Self {
        Self::Alloc(rejected.error)
    }
}

/// What an allocator says, as the error of an operation: the same in other words, but for want of memory.
macro_rules! from_heap_error {
    ($($error:ty { $($pattern:pat => $own:expr,)* })*) => {
        $(impl From<HeapError> for $error {
            fn from(error: HeapError) -> Self {
                match error {
                    $($pattern => $own,)*
                    HeapError::Busy => Self::Busy,
                    HeapError::NotRecoverable => Self::NotRecoverable,
                    HeapError::Damaged { at } => Self::Damaged { at },
                }
            }
        })*
    };
}

from_heap_error! {
    ArenaError {
        HeapError::OutOfMemory => Self::NoSpace { asked: 0 },
        HeapError::TooSmall { len, needed } => Self::TooSmall { len, needed },
    }
    AllocError {
        // The arena knows how much was asked for, and says so itself.
        HeapError::OutOfMemory | HeapError::TooSmall { .. } => {
            Self::OutOfMemory { asked: 0, free: 0, largest_free: 0 }
        },
    }
    HandleError {
        // Claiming needs no memory.
        HeapError::OutOfMemory | HeapError::TooSmall { .. } => Self::Damaged { at: 0 },
    }
    DirectoryError {
        error @ (HeapError::OutOfMemory | HeapError::TooSmall { .. }) => Self::Alloc(error.into()),
    }
}
