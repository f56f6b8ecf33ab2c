//! Sizes of blocks

use super::{BLOCK_HEADER_LEN, GRANULE};

/// The size of a block, and how much of it the object leaves over, in one word.
///
/// | bits | field |
/// |---|---|
/// | 0..=31 | size of the block with its header, in granules of 16 bytes |
/// | 32..=39 | slack: bytes at the end of the block that are not the object's |
/// | 40..=63 | the allocator's own |
///
/// # Examples
/// ```
/// use shmem_bind::allocator::Extent;
///
/// let extent = Extent::new(64, 10).with_own(5);
/// assert_eq!((extent.len(), extent.slack(), extent.own()), (64, 10, 5));
/// assert_eq!(extent.object_len(), Some(64 - 24 - 10));
/// assert_eq!(Extent::from_bits(extent.bits()), extent);
/// assert!(Extent::from_bits(0).is_empty());
/// let largest = Extent::new(Extent::MAX_LEN, Extent::MAX_SLACK);
/// assert_eq!((largest.len(), largest.slack()), (Extent::MAX_LEN, 255));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent(u64);

impl Extent {
    const SLACK_SHIFT: u32 = 32;
    const OWN_SHIFT: u32 = 40;

    /// Most bytes that a block can leave over.
    pub const MAX_SLACK: u64 = 255;
    /// Largest block, in bytes.
    pub const MAX_LEN: u64 = (u32::MAX as u64) * GRANULE;

    /// Of a block of `len` bytes, a multiple of [`GRANULE`] and at most [`MAX_LEN`](Self::MAX_LEN), with `slack`
    /// bytes left over, at most [`MAX_SLACK`](Self::MAX_SLACK).
    #[must_use]
    pub const fn new(len: u64, slack: u64) -> Self {
        Self((len / GRANULE) & u32::MAX as u64 | (slack & Self::MAX_SLACK) << Self::SLACK_SHIFT)
    }

    /// An extent as it stands in a segment.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As it stands in a segment.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The same with these 24 bits as the allocator's own.
    #[must_use]
    pub const fn with_own(self, own: u64) -> Self {
        Self(self.0 & !(!0 << Self::OWN_SHIFT) | own << Self::OWN_SHIFT)
    }

    /// The 24 bits that are the allocator's own.
    #[must_use]
    pub const fn own(self) -> u64 {
        self.0 >> Self::OWN_SHIFT
    }

    /// Size of the block with its header, in bytes.
    #[must_use]
    // At most 2^36.
    #[allow(clippy::arithmetic_side_effects)]
    pub const fn len(self) -> u64 {
        (self.0 & u32::MAX as u64) * GRANULE
    }

    /// Whether the block has no size at all, as in memory that is no block.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Bytes at the end of the block that are not the object's.
    #[must_use]
    pub const fn slack(self) -> u64 {
        self.0 >> Self::SLACK_SHIFT & Self::MAX_SLACK
    }

    /// Size of the object, in bytes; `None` if the word is none that a block in use can have.
    #[must_use]
    pub const fn object_len(self) -> Option<u64> {
        match self.len().checked_sub(BLOCK_HEADER_LEN) {
            Some(payload) => payload.checked_sub(self.slack()),
            None => None,
        }
    }
}

impl core::fmt::Debug for Extent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Extent({} bytes, {} left over, own {:#x})", self.len(), self.slack(), self.own())
    }
}
