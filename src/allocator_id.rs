//! Which allocator manages an arena

use core::fmt;

/// The allocators of this crate, and what they are called.
const KNOWN: [(AllocatorId, &str); 3] =
    [(AllocatorId::TLSF, "Tlsf"), (AllocatorId::SLAB, "Slab"), (AllocatorId::BUMP, "Bump")];

/// Which allocator has formatted a heap: a fingerprint of its name and version, 56 bits.
///
/// # Examples
/// ```
/// use shmem_bind::{AllocatorId, RegionAllocator, Tlsf};
///
/// const MINE: AllocatorId = AllocatorId::new("org.example.pool", 1);
/// assert_ne!(MINE, AllocatorId::new("org.example.pool", 2));
/// assert_eq!(AllocatorId::from_bits(MINE.bits()), MINE);
/// assert_eq!(Tlsf::ID.to_string(), "Tlsf");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AllocatorId(u64);

impl AllocatorId {
    pub(crate) const TLSF: Self = Self::new("tlsf", 2);
    pub(crate) const SLAB: Self = Self::new("slab", 1);
    pub(crate) const BUMP: Self = Self::new("bump", 1);

    /// Of the allocator with this name, in this version of its format.
    #[must_use]
    pub const fn new(name: &str, version: u32) -> Self {
        // FNV-1a; the names are few, and chosen by people.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ version as u64;
        let mut bytes = name.as_bytes();
        while let [first, rest @ ..] = bytes {
            hash = (hash ^ *first as u64).wrapping_mul(0x0000_0100_0000_01b3);
            bytes = rest;
        }
        Self::from_bits(hash ^ hash >> 56)
    }

    /// An id as a number of 56 bits; more are cut off.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & !(!0 << 56))
    }

    /// The id as a number of 56 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The name, if it is an allocator of this crate.
    fn name(self) -> Option<&'static str> {
        KNOWN.iter().find(|(id, _)| *id == self).map(|(_, name)| *name)
    }
}

impl fmt::Display for AllocatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:014x}", self.0),
        }
    }
}

impl fmt::Debug for AllocatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AllocatorId({self})")
    }
}
