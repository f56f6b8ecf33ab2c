//! Errors of copying into and out of memory that is shared with strangers

use core::error::Error;
use core::fmt;

/// Why bytes could not be copied into or out of a [`CopyRegion`](crate::CopyRegion). Nothing has been copied then.
///
/// # Examples
/// ```
/// use shmem_bind::{CopyError, CopyRegion};
///
/// let (region, _fd) = CopyRegion::create(64)?;
/// // What a peer says where it has put something is checked against the region, and not believed.
/// let offset = u32::MAX;
/// let error = region.read::<u64>(offset as usize).unwrap_err();
/// assert!(matches!(error, CopyError::OutOfBounds { len: 8, region: 64, .. }));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyError {
    /// They do not lie within the region.
    OutOfBounds {
        /// Where they begin, in bytes from the start of the region.
        offset: usize,
        /// How many there are.
        len: usize,
        /// Length of the region, in bytes.
        region: usize,
    },
    /// A word is copied in one piece only where it is aligned.
    Misaligned {
        /// Where it begins, in bytes from the start of the region.
        offset: usize,
        /// The alignment that it needs, in bytes.
        align: usize,
    },
    /// The region is attached read-only.
    ReadOnly,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfBounds { offset, len, region } => write!(
                f,
                "{len} bytes at {offset} are not within the region, which has {region}; if the peer said where they \
                 are, it is wrong"
            ),
            Self::Misaligned { offset, align } => write!(
                f,
                "the word at {offset} is not aligned to {align} bytes, so it cannot be copied in one piece; move it"
            ),
            Self::ReadOnly => f.write_str("the region is attached read-only; attach to write"),
        }
    }
}

impl Error for CopyError {}
