//! Blocks and names, as an inspector sees them

use crate::heap::Block;
use crate::object::{Kind, ObjectTag};
use crate::shareable::TypeTag;
use alloc::string::String;

/// Whose a block is.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{BlockInfo, BlockKind, Snapshot};
/// use shmem_bind::{Builder, ShmemBox, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-block-kind", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let _own = arena.alloc(1_u32)?;
/// let _shared = ShmemBox::into_arc(arena.alloc(2_u32)?);
/// let _handle = ShmemBox::leak(arena.alloc(3_u32)?);
///
/// let snapshot = Snapshot::take(name)?;
/// let kinds: Vec<_> = snapshot.arena().unwrap().blocks().iter().map(BlockInfo::kind).collect();
/// assert!(kinds.contains(&BlockKind::Exclusive { slot: 0 }));
/// assert!(kinds.contains(&BlockKind::Shared { holders: 0b1 }));
/// assert!(kinds.iter().any(|kind| matches!(kind, BlockKind::Leaked { slot: 0, .. })));
/// assert!(kinds.contains(&BlockKind::Free) && !kinds.contains(&BlockKind::Damaged));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockKind {
    /// Nobody's.
    Free,
    /// One box's, in the attachment of this slot.
    Exclusive {
        /// Number of the slot.
        slot: u32,
    },
    /// Nobody's, until its handle is claimed.
    Leaked {
        /// Number of the slot that had it last.
        slot: u32,
        /// A number that grows from one leak to the next.
        serial: u64,
    },
    /// Shared by attachments.
    Shared {
        /// Bit *s*: the attachment of slot *s* holds it.
        holders: u64,
    },
    /// It waits to be freed.
    Condemned,
    /// The arena's own: an entry of the directory, or its table.
    Internal,
    /// Its state is none that a block can have.
    Damaged,
}

/// A block of an arena.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{BlockInfo, BlockKind, Snapshot};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-block-info", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let _small = arena.alloc(7_u32)?;
/// let _large = arena.alloc_slice(1000, 0_u16)?;
///
/// // What takes most of the memory?
/// let snapshot = Snapshot::take(name)?;
/// let blocks = snapshot.arena().unwrap().blocks();
/// let largest = blocks.iter().max_by_key(|block| block.object_len()).unwrap();
/// assert_eq!((largest.object_len(), largest.kind()), (Some(2000), BlockKind::Exclusive { slot: 0 }));
/// assert_eq!(largest.type_tag().map(|tag| (tag.size(), tag.align())), Some((2000, 2)));
/// assert!(!largest.is_published() && !largest.is_pinned());
/// assert!(blocks.windows(2).all(|two| two[0].offset() + two[0].len() <= two[1].offset()));
/// assert!(largest.len() > 2000 && !blocks.iter().any(BlockInfo::is_empty));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo(pub(super) Block);

impl BlockInfo {
    /// Where its header begins, in bytes from the start of the payload.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Its length with the header, in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.0.extent.len()
    }

    /// Whether it has no length, which no block has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.extent.is_empty()
    }

    /// Size of its object, in bytes; `None` if it has none.
    #[must_use]
    pub fn object_len(&self) -> Option<u64> {
        self.0.extent.object_len().filter(|_| self.has_object())
    }

    /// The type of its object: the fingerprint's low 40 bits, alignment and version, and its size; `None` if it has none.
    #[must_use]
    pub fn type_tag(&self) -> Option<TypeTag> {
        Some(ObjectTag::from_bits(self.0.tag).to_type_tag(self.object_len()?))
    }

    /// Whose it is.
    #[must_use]
    pub fn kind(&self) -> BlockKind {
        match self.0.state.kind() {
            Ok(Kind::Free) => BlockKind::Free,
            Ok(Kind::Exclusive(slot)) => BlockKind::Exclusive { slot: slot.index() as u32 },
            Ok(Kind::Leaked { slot, serial }) => BlockKind::Leaked { slot: slot.index() as u32, serial },
            Ok(Kind::Shared(holders)) => BlockKind::Shared { holders },
            Ok(Kind::Condemned(_)) => BlockKind::Condemned,
            Ok(Kind::Internal) => BlockKind::Internal,
            Err(_) => BlockKind::Damaged,
        }
    }

    /// Whether a name leads to its object.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.has_object() && self.0.state.is_published()
    }

    /// Whether that name is for as long as the segment exists.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.has_object() && self.0.state.is_pinned()
    }

    fn has_object(&self) -> bool {
        matches!(
            self.kind(),
            BlockKind::Exclusive { .. } | BlockKind::Leaked { .. } | BlockKind::Shared { .. }
        )
    }
}

/// A name in the directory, and the block of its object.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{BlockKind, Snapshot};
/// use shmem_bind::{Builder, ShmemBox, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-named", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let limit = ShmemBox::into_arc(arena.alloc(100_u64)?);
/// arena.publish("limit", &limit)?;
/// arena.publish_pinned("banner", &ShmemBox::into_arc(arena.alloc_str("hello")?))?;
///
/// let snapshot = Snapshot::take(name)?;
/// let [banner, limit] = snapshot.arena().unwrap().names() else { panic!() };
/// assert_eq!((banner.name(), banner.block().object_len()), ("banner", Some(5)));
/// assert!(banner.block().is_pinned());
/// assert!(limit.block().is_published() && !limit.block().is_pinned());
/// assert_eq!(limit.block().kind(), BlockKind::Shared { holders: 0b1 });
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub(super) name: String,
    pub(super) block: BlockInfo,
}

impl Named {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The block of its object.
    #[must_use]
    pub const fn block(&self) -> &BlockInfo {
        &self.block
    }
}
