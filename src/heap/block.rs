//! What an allocator is asked for, and what it tells

use super::Word;
use crate::membership::Slot;
use crate::object::{BLOCK_HEADER_LEN, BlockState, Extent, GRANULE, MIN_BLOCK_LEN};
use core::ops::ControlFlow;

/// A block, as it was at one moment.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{BlockState, Extent, PlainHeap};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// heap.commit_extent(8, Extent::new(64, 10))?;
/// heap.commit_state(8, BlockState::FREE)?;
/// let block = heap.block(8)?;
/// assert_eq!((block.payload(), block.end()), (32, Some(72)));
/// assert!(block.state.is_free() && !block.with_state(BlockState::owned_by(3).unwrap()).state.is_free());
/// assert!(heap.block(72).is_err(), "there is none");
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block {
    /// Where its header begins, in bytes from the start of the heap: 8 more than a multiple of 16.
    pub offset: u64,
    /// What it is.
    pub state: BlockState,
    /// The type of its object; of a block that is not in use, its allocator's.
    pub tag: u64,
    /// Its size.
    pub extent: Extent,
}

impl Block {
    /// Where its object begins, in bytes from the start of the heap.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        self.offset.wrapping_add(BLOCK_HEADER_LEN)
    }

    /// Where the block ends; `None` beyond all offsets.
    #[must_use]
    pub const fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.extent.len())
    }

    /// The same block in another state, as an allocator shows it to the judge of
    /// [`retain`](crate::RegionAllocator::retain).
    #[must_use]
    pub const fn with_state(self, state: BlockState) -> Self {
        Self { state, ..self }
    }
}

/// What is wanted of an allocator.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
///
/// let plain = PlainHeap::new(4096);
/// let request = plain.request(100, 64, 0);
/// assert_eq!((request.len(), request.align()), (100, 64));
/// assert_eq!(request.block_len(), Some(128), "24 of the header, and to a multiple of 16");
/// // A block of 160 bytes will do, and leaves 36 over.
/// assert_eq!(request.extent(160).map(|extent| extent.slack()), Some(36));
/// assert_eq!(request.extent(112), None);
/// assert!(plain.request(0, 8, 0).is_empty() && !request.is_empty());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    len: u64,
    align: u64,
    tag: u64,
    state: BlockState,
    /// 0: no block is so large.
    block_len: u64,
}

impl Request {
    /// An object of `len` bytes aligned to `align`, a power of two up to 4096; the type is given by its tag.
    #[inline(always)]
    pub(crate) const fn new(len: u64, align: u64, tag: u64, slot: Slot) -> Self {
        // Here, where the length is mostly known to the compiler.
        let block_len = match len.checked_add(BLOCK_HEADER_LEN) {
            Some(len) if len <= Extent::MAX_LEN => len.next_multiple_of(GRANULE),
            _ => 0,
        };
        let block_len = if block_len != 0 && block_len < MIN_BLOCK_LEN { MIN_BLOCK_LEN } else { block_len };
        Self { len, align, tag, state: BlockState::exclusive(slot), block_len }
    }

    /// The state of the block: that of one the requester alone has.
    #[inline(always)]
    pub(crate) const fn state(&self) -> BlockState {
        self.state
    }

    /// Makes the block with these words one in use, as it is wanted.
    #[inline(always)]
    pub(crate) fn hand_out(&self, state: Word<'_, '_>, tag: Word<'_, '_>) {
        tag.store(self.tag);
        state.commit(self.state.bits());
    }

    /// Size of the object, in bytes; may be 0.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the object has no bytes. It has a block all the same.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Alignment of the object, in bytes: a power of two, at least 16 and at most 4096.
    #[inline]
    #[must_use]
    pub const fn align(&self) -> u64 {
        if self.align < GRANULE { GRANULE } else { self.align }
    }

    /// Size of the smallest block that holds the object, in bytes; `None` if no block is so large.
    #[inline]
    #[must_use]
    pub const fn block_len(&self) -> Option<u64> {
        if self.block_len == 0 { None } else { Some(self.block_len) }
    }

    /// The extent of a block of `block_len` bytes that holds the object; `None` if too much is left over, or
    /// it does not fit.
    #[inline]
    #[must_use]
    pub const fn extent(&self, block_len: u64) -> Option<Extent> {
        let Some(room) = block_len.checked_sub(BLOCK_HEADER_LEN) else { return None };
        match room.checked_sub(self.len) {
            Some(slack) if slack <= Extent::MAX_SLACK => Some(Extent::new(block_len, slack)),
            _ => None,
        }
    }
}

/// How much of a heap is in use.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let usage = arena.usage()?;
/// println!("{} of {} bytes are in use, in {} blocks", usage.used, arena.size(), usage.blocks);
/// assert!(usage.largest_free <= usage.free && usage.used <= usage.high_water);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of blocks in use, with their headers.
    pub used: u64,
    /// Bytes of free blocks, with their headers.
    pub free: u64,
    /// Size of the largest object that fits now, in bytes.
    pub largest_free: u64,
    /// Number of blocks in use.
    pub blocks: u64,
    /// Number of free blocks.
    pub free_blocks: u64,
    /// Most bytes that were ever in use at once, as closely as the allocator keeps count.
    pub high_water: u64,
}

/// Passes each block on; the answer says whether to go on.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{Block, PlainHeap};
/// use shmem_bind::{RegionAllocator, Tlsf};
/// use std::ops::ControlFlow;
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// Tlsf::format(&heap)?;
/// let mut free = 0;
/// let mut visit = |block: &Block| {
///     free += if block.state.is_free() { block.extent.len() } else { 0 };
///     ControlFlow::Continue(())
/// };
/// Tlsf::walk(&heap, &mut visit)?;
/// assert!(free > 3000);
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
pub type Visit<'v> = dyn FnMut(&Block) -> ControlFlow<()> + 'v;
