//! What a segment is: its number, and the sort of its payload

use super::HEADER_LEN;
use crate::allocator_id::AllocatorId;
use crate::error::HeaderError;

/// A number that tells a segment from every other one, also from a later one of the same name.
///
/// # Examples
/// ```
/// use shmem_bind::Builder;
///
/// let (segment, fd) = Builder::memfd().create(64)?;
/// let same = Builder::memfd().attach(&fd)?;
/// let (other, _fd) = Builder::memfd().create(64)?;
/// assert_eq!(same.segment_id(), segment.segment_id());
/// assert_ne!(other.segment_id(), segment.segment_id());
/// // For a log, and to be sent.
/// assert_eq!(segment.segment_id().to_string().len(), 2 * segment.segment_id().to_bytes().len());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub(super) [u64; 2]);

impl SegmentId {
    pub(crate) const NIL: Self = Self([0; 2]);

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        Self([(number >> 64) as u64, number as u64])
    }

    /// The last 64 of its bits.
    pub(crate) const fn low_bits(self) -> u64 {
        let Self([_, low]) = self;
        low
    }

    /// The number as bytes, in the order in which they are displayed.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        let Self([high, low]) = self;
        ((high as u128) << 64 | low as u128).to_be_bytes()
    }
}

impl core::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self([high, low]) = self;
        write!(f, "{high:016x}{low:016x}")
    }
}

impl core::fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SegmentId({self})")
    }
}

/// What the payload of a segment is, in one word that changes once, from zero (an arena's twice).
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..=2 | kind | 0 nothing yet; 1 one value; 2 an arena; 3 an arena that is being formatted |
/// | 3..=7 | alignment | of the value: its binary logarithm |
/// | 8..=63 | size or allocator | of the value, in bytes; or the arena's |
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Payload, Tlsf};
///
/// let (segment, fd) = Builder::memfd().create(64 * 1024)?;
/// assert_eq!(segment.payload()?, Payload::Unset);
/// let arena = segment.arena::<Tlsf>()?;
/// match Builder::memfd().attach(&fd)?.payload()? {
///     Payload::Arena { allocator, is_formed: true } => println!("an arena, managed by {allocator}"),
///     other => panic!("{other:?}"),
/// }
/// # drop(arena);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload {
    /// Nobody has said what it is.
    Unset,
    /// One value, made by [`boxed`](crate::ShmemConf::boxed).
    Value {
        /// Its size, in bytes.
        size: u64,
        /// Its alignment, in bytes: a power of two, up to 4096.
        align: u64,
    },
    /// An arena, made by [`arena`](crate::ShmemConf::arena).
    Arena {
        /// Who manages its memory.
        allocator: AllocatorId,
        /// Whether it is ready, or being formatted.
        is_formed: bool,
    },
}

impl Payload {
    const ALIGN_SHIFT: u32 = 3;
    const SIZE_SHIFT: u32 = 8;

    /// Of a type's size and alignment, which are those of a type that fits in a payload.
    pub(crate) const fn value_of<T>() -> Self {
        Self::Value { size: size_of::<T>() as u64, align: align_of::<T>() as u64 }
    }

    pub(crate) const fn to_bits(self) -> u64 {
        match self {
            Self::Unset => 0,
            Self::Value { size, align } => {
                1 | (align.trailing_zeros() as u64) << Self::ALIGN_SHIFT | size << Self::SIZE_SHIFT
            }
            Self::Arena { allocator, is_formed } => {
                (if is_formed { 2 } else { 3 }) | allocator.bits() << Self::SIZE_SHIFT
            }
        }
    }

    pub(crate) const fn from_bits(bits: u64) -> Result<Self, HeaderError> {
        let (kind, log, size) = (bits & 7, bits >> Self::ALIGN_SHIFT & 31, bits >> Self::SIZE_SHIFT);
        match kind {
            0 if bits == 0 => Ok(Self::Unset),
            1 if log <= HEADER_LEN.trailing_zeros() as u64 => Ok(Self::Value { size, align: 1 << log }),
            2 | 3 if log == 0 => {
                Ok(Self::Arena { allocator: AllocatorId::from_bits(size), is_formed: kind == 2 })
            }
            _ => Err(HeaderError::Payload { found: bits }),
        }
    }
}
