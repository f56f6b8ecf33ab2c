//! Errors of asking how large an arena must be

use core::error::Error;
use core::fmt;

/// Why no segment can hold what is asked for.
///
/// # Examples
/// ```
/// use shmem_bind::{Arena, CapacityError, Need, Tlsf};
/// use std::alloc::Layout;
///
/// let size = |need| Arena::<Tlsf>::required_size(&[need]);
/// assert_eq!(size(Need::names(300, 1)), Err(CapacityError::NameLength { len: 300 }));
/// assert_eq!(size(Need::slices::<u64>(usize::MAX, usize::MAX)), Err(CapacityError::TooMuch));
///
/// let pages = Layout::from_size_align(8192, 8192).unwrap();
/// let error = size(Need::layouts(pages, 1)).unwrap_err();
/// assert_eq!(error, CapacityError::OverAligned { align: 8192, max: 4096 });
/// assert!(error.to_string().contains("use a type with a smaller alignment"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapacityError {
    /// It is more than the largest heap that the allocator manages, or one of it fits into no block.
    TooMuch,
    /// Objects are to be aligned more coarsely than an arena does.
    OverAligned {
        /// Alignment of the objects, in bytes.
        align: u64,
        /// The most that there is, in bytes.
        max: u64,
    },
    /// Names have 1 to 255 bytes.
    NameLength {
        /// Length of the names, in bytes.
        len: u64,
    },
}

impl fmt::Display for CapacityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooMuch => f.write_str(
                "so many objects fit into no arena that this allocator manages; use several segments, or another \
                 allocator",
            ),
            Self::OverAligned { align, max } => write!(
                f,
                "objects are aligned to at most {max} bytes and these want {align}; use a type with a smaller \
                 alignment"
            ),
            Self::NameLength { len } => {
                write!(f, "names have 1 to 255 bytes and these would have {len}; shorten them")
            }
        }
    }
}

impl Error for CapacityError {}
