//! Errors of what a builder is told

use core::error::Error;
use core::fmt;

/// Why a string is not the name of a segment.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, NameError, ShmemError};
///
/// let error = Builder::new("jobs/high").attach().unwrap_err();
/// assert_eq!(error, ShmemError::Name(NameError::Slash));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty, or nothing but a slash.
    Empty,
    /// It is `.` or `..`.
    Dots,
    /// It has a slash elsewhere than at its beginning.
    Slash,
    /// It has a NUL character.
    Nul,
    /// It is longer than 255 bytes.
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
}

/// Why a number is not the size of a segment.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemError, SizeError};
///
/// let error = Builder::memfd().create(-1).unwrap_err();
/// assert_eq!(error, ShmemError::Size(SizeError::Negative { asked: -1 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// It is zero.
    Zero,
    /// It is negative.
    Negative {
        /// The number.
        asked: i128,
    },
    /// It is more than the size that the segment may grow to.
    AboveMaximum {
        /// Size asked for, in bytes.
        asked: u64,
        /// [`max_size`](crate::BuilderWithSize::max_size), in bytes.
        max: u64,
    },
    /// It is beyond the address space of this process.
    TooLarge {
        /// The largest size possible, in bytes.
        max: u64,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("a segment's name must not be empty"),
            Self::Dots => f.write_str("a segment cannot be called \".\" or \"..\"; choose another name"),
            Self::Slash => f.write_str("a segment's name may have a slash only at its beginning; remove it"),
            Self::Nul => f.write_str("a segment's name must not have a NUL character; remove it"),
            Self::TooLong { len } => {
                write!(f, "a segment's name may have at most 255 bytes and this one has {len}; shorten it")
            }
        }
    }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Zero => f.write_str("a segment of no bytes cannot be mapped; ask for at least one"),
            Self::Negative { asked } => {
                write!(f, "a segment cannot have {asked} bytes; ask for at least one")
            }
            Self::AboveMaximum { asked, max } => {
                write!(f, "the size of {asked} bytes is above max_size, {max}; ask for less, or raise it")
            }
            Self::TooLarge { max } => {
                write!(
                    f,
                    "the size is beyond the address space of this process; ask for at most {max} bytes, or use a \
                     64-bit program"
                )
            }
        }
    }
}

impl Error for NameError {}
impl Error for SizeError {}
