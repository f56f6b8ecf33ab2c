//! Errors of using a segment as one value

use super::unusable::{FORKED, SEVERED};
use crate::allocator_id::AllocatorId;
use core::error::Error;
use core::fmt;

/// Why a segment's payload could not be used as a value of some type.
///
/// # Examples
/// ```
/// use shmem_bind::{BoxError, Builder, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-box-error", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
/// // SAFETY: nothing is read: it is no single value.
/// let error = unsafe { Builder::new(name).attach()?.try_boxed::<u64>() }.unwrap_err();
/// assert!(matches!(error, BoxError::Arena { .. }));
/// # drop(arena);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BoxError {
    /// The type is larger than the payload.
    TooLarge {
        /// Size of the type, in bytes.
        size: usize,
        /// Size of the payload, in bytes.
        payload: usize,
    },
    /// The type wants a coarser alignment than a payload has.
    OverAligned {
        /// Alignment of the type, in bytes.
        align: usize,
        /// Alignment of every payload, in bytes.
        max: usize,
    },
    /// The payload is in use as a value of another size or alignment.
    Mismatch {
        /// Size of that value, in bytes.
        size: u64,
        /// Alignment of that value, in bytes.
        align: u64,
        /// Size of the type asked for, in bytes.
        asked_size: usize,
        /// Alignment of the type asked for, in bytes.
        asked_align: usize,
    },
    /// The segment is an arena, made by [`ShmemConf::arena`](crate::ShmemConf::arena).
    Arena {
        /// The allocator that manages it.
        allocator: AllocatorId,
    },
    /// The header's word on what the payload is has been damaged.
    Damaged {
        /// The word.
        found: u64,
    },
    /// The segment is attached read-only; see [`ShmemConf::read_ref`](crate::ShmemConf::read_ref).
    ReadOnly,
    /// The handle comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
}

/// Why a handle could not become the owner of its segment.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, OwnError};
///
/// let (_segment, fd) = Builder::memfd().create(4)?;
/// let observer = Builder::memfd().attach_read_only(&fd)?;
/// assert_eq!(observer.try_own(), Err(OwnError::ReadOnly));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnError {
    /// The segment is attached read-only.
    ReadOnly,
    /// The segment has no name any more, so there is nothing to own: its last user destroys it.
    Retired,
    /// The handle comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// The segment's header has been damaged.
    Damaged,
}

impl fmt::Display for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLarge { size, payload } => write!(
                f,
                "a value of {size} bytes does not fit in a payload of {payload}; create the segment with a size \
                 of {size}"
            ),
            Self::OverAligned { align, max } => write!(
                f,
                "a payload is aligned to {max} bytes and the type wants {align}; use a type with a smaller \
                 alignment"
            ),
            Self::Mismatch { size, align, asked_size, asked_align } => write!(
                f,
                "the segment holds a value of {size} bytes aligned to {align}, not one of {asked_size} bytes \
                 aligned to {asked_align}; use the same type in all processes"
            ),
            Self::Damaged { found } => write!(
                f,
                "the header is damaged: payload word {found:#018x}; remove the file and create the segment again"
            ),
            Self::Arena { allocator } => write!(
                f,
                "the segment is an arena managed by {allocator}, not a single value; use arena, or choose another \
                 name"
            ),
            Self::ReadOnly => {
                f.write_str("the segment is attached read-only; use read_ref, or attach to write")
            }
            Self::Forked => f.write_str(FORKED),
            Self::Severed => f.write_str(SEVERED),
        }
    }
}

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "the segment is attached read-only; attach to write in order to own it",
            Self::Retired => "the segment's name is gone already; create a new one to own it",
            Self::Forked => FORKED,
            Self::Severed => SEVERED,
            Self::Damaged => "the segment's header is damaged; remove the file and create the segment again",
        })
    }
}

impl Error for BoxError {}
impl Error for OwnError {}
