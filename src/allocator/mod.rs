//! Region allocators
//!
//! An allocator cuts a [`Heap`] into blocks. It is a type without values: all that it knows stands in the heap, so
//! that every process that is attached sees the same, and one that dies takes nothing along. Which one has formatted
//! a segment stands in the header; attaching with another is refused.
//!
//! Three come with the crate; `examples/custom-allocator.rs` writes a fourth.
//!
//! | | for | frees | lock |
//! |---|---|---|---|
//! | [`Tlsf`] | everything; the default | at once, in constant time; small ones are joined when memory is short | one, robust |
//! | [`Slab`] | objects up to 640 bytes from several processes at once | at once | none but for large ones |
//! | [`Bump`] | what is built once and then only read | all at once, when the segment is opened alone | none |
//!
//! # Safety
//! Declares an unsafe trait. What its implementations promise is what boxes rely on.
#![allow(unsafe_code)]

mod bump;
mod slab;
mod tlsf;

pub use bump::Bump;
pub use slab::Slab;
pub use tlsf::Tlsf;

pub use crate::error::HeapError;
pub use crate::heap::{Block, Demand, Heap, HeapGuard, PlainHeap, Request, Visit, Word, Words};
pub use crate::object::{BLOCK_HEADER_LEN, BlockState, Extent, GRANULE, MIN_BLOCK_LEN};

// Those who merely use an arena meet these too.
#[doc(no_inline)]
pub use crate::allocator_id::AllocatorId;
#[doc(no_inline)]
pub use crate::heap::Usage;

/// Cuts a heap into blocks, and joins them again.
///
/// All functions may be called by any number of threads of any number of processes at once, and any of these may be
/// killed at any instruction. What they must do then is part of the contract.
///
/// # Safety
/// Boxes make references to what an allocator hands out. So, as long as the words of the heap are changed by its
/// functions alone, and by arenas as described below, an implementation promises:
/// 1. **Blocks.** A block begins with the three words of a header, at an offset that is 8 more than a multiple of
///    16; its [extent](Extent) says how long it is, a multiple of 16 and at least 32 bytes, and how much
///    the object leaves over. Blocks do not overlap, and lie between the allocator's own words and the heap's end.
/// 2. **Allocate.** The object, [`Request::len`] bytes from 24 after the block's offset, is within the block, and
///    aligned to [`Request::align`]. The block was free, and is handed out once: the last thing that happens to
///    it is [`Heap::hand_out`], which makes it the requester's. From then on it is passed on by
///    [`walk`](Self::walk); killed before, the requester holds nothing.
/// 3. **In use.** The allocator does not change the state and the tag of a block in use, nor its object, nor
///    what the extent says of it, until `free` or `retain` gives it back. An arena changes the state of its blocks, but
///    never to or from free.
/// 4. **Free.** First the state becomes [`FREE`](BlockState::FREE), by [`Heap::commit_state`]; killed
///    before that, the block is in use still, and after it, it is free. What is in the memory of the block's object is
///    the allocator's from then on.
/// 5. **Death.** Wherever a process is killed, the functions called by others find a heap that they can put
///    right, without waiting for the dead: if a lock is needed, it is [`Heap::lock`], whose `recover` does that. Every
///    loop has a bound that follows from [`Heap::capacity`], so that damaged words end in an error.
///
/// # Examples
/// `examples/custom-allocator.rs` is an implementation to begin from.
///
/// ```
/// use shmem_bind::allocator::{BlockState, PlainHeap};
/// use shmem_bind::{RegionAllocator, Tlsf};
/// use std::ops::ControlFlow;
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// Tlsf::format(&heap)?;
/// // An object of 100 bytes, aligned to 8, for attachment number 0.
/// let block = Tlsf::allocate(&heap, &plain.request(100, 8, 0))?;
/// assert_eq!(Tlsf::usage(&heap)?.used, 128);
///
/// let mut blocks = Vec::new();
/// Tlsf::walk(&heap, &mut |block| {
///     blocks.push((block.state.is_free(), block.extent.len()));
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(blocks[0], (false, 128));
///
/// // Attachment 0 has died: what it had is not kept.
/// plain.kill(0);
/// let heap = plain.heap(&memory, &[], 1);
/// let freed = Tlsf::retain(&heap, &mut |block| Some(block.state) != BlockState::owned_by(0))?;
/// assert_eq!(freed, 128);
/// assert!(Tlsf::free(&heap, block).is_err(), "once");
///
/// // What an arena does besides.
/// Tlsf::hold_still(&heap, &mut || assert!(heap.block(block).is_ok()))?;
/// Tlsf::grow(&heap, 4096)?;
/// Tlsf::begin_alone(&heap)?;
/// assert!(heap.private().len() >= Tlsf::PRIVATE_WORDS);
/// Tlsf::settle(&heap);
/// Tlsf::check(&heap)?;
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
pub unsafe trait RegionAllocator: Sized + 'static {
    /// Says in the segment's header who has formatted it.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Bump, Payload, RegionAllocator, Tlsf};
    ///
    /// let (segment, fd) = Builder::memfd().create(64 * 1024)?;
    /// let _arena = segment.arena::<Bump>()?;
    /// let other = Builder::memfd().attach(&fd)?;
    /// assert_eq!(other.payload()?, Payload::Arena { allocator: Bump::ID, is_formed: true });
    /// assert!(other.arena::<Tlsf>().is_err(), "it cannot read what another one has written");
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    const ID: AllocatorId;

    /// Number of words of [private memory](Heap::private) for each attachment.
    const PRIVATE_WORDS: usize = 0;

    /// Makes a heap of [`Heap::len`] bytes, whatever is in its words: one free block, or as many as it takes.
    ///
    /// Nobody else uses the heap meanwhile. Killed in it, it is called again from the beginning.
    ///
    /// # Errors
    /// [`HeapError::TooSmall`]; then nothing has been written.
    fn format(heap: &Heap<'_>) -> Result<(), HeapError>;

    /// Finds a block for an object, and hands it out; gives the offset of the block.
    ///
    /// # Errors
    /// - [`HeapError::OutOfMemory`]: nothing has changed, as far as anybody can see.
    /// - [`HeapError::Busy`], [`HeapError::NotRecoverable`], [`HeapError::Damaged`].
    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError>;

    /// Frees the block at this offset, which the caller alone has: it is in use by no object any more.
    ///
    /// Never waits.
    ///
    /// # Errors
    /// - [`HeapError::Busy`]: the lock is taken. Nothing has changed; the caller leaves the block to the next holder
    ///   of the lock, who finds it by [`HeapGuard::take_condemned`].
    /// - [`HeapError::Damaged`]: it is no block in use, or the heap is not as it must be.
    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError>;

    /// Passes on each block in use, and each free one that the allocator knows of as such, in the order of their
    /// offsets, until the visitor has enough.
    ///
    /// With a lock, it is held meanwhile, so the visitor calls nothing of the heap. Without one, blocks that come or
    /// go meanwhile may be passed on or not.
    ///
    /// # Errors
    /// [`HeapError::Busy`], [`HeapError::NotRecoverable`], [`HeapError::Damaged`].
    fn walk(heap: &Heap<'_>, visit: &mut Visit<'_>) -> Result<(), HeapError>;

    /// Passes on each block in use, and frees those of which `keep` says `false`; gives how many bytes these were.
    ///
    /// First, blocks that wait to be freed are. `keep` may change the state of the block that it is asked about.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    fn retain(heap: &Heap<'_>, keep: &mut dyn FnMut(&Block) -> bool) -> Result<u64, HeapError>;

    /// Checks all that must hold of the heap's words, also what is not needed to go on.
    ///
    /// # Errors
    /// [`HeapError::Damaged`] says where it does not hold; and as [`walk`](Self::walk).
    fn check(heap: &Heap<'_>) -> Result<(), HeapError>;

    /// Calls `work` while no block is cut, joined with another, or put to another use than that of a block: what is a
    /// block's header at the beginning is one until the end. With a lock, it is held meanwhile.
    ///
    /// The default is for allocators that never do that to a block while others use the heap.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    fn hold_still(heap: &Heap<'_>, work: &mut dyn FnMut()) -> Result<(), HeapError> {
        let _: &Heap<'_> = heap;
        work();
        Ok(())
    }

    /// Says how much is in use. First, blocks that wait to be freed are.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError>;

    /// Makes the heap longer: `len` bytes, at most [`Heap::capacity`]. Does nothing if it is as long already.
    ///
    /// The new memory is zero.
    ///
    /// # Errors
    /// [`HeapError::Busy`], [`HeapError::NotRecoverable`], [`HeapError::Damaged`]; [`HeapError::TooSmall`] if `len` is
    /// beyond the capacity.
    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError>;

    /// Length of a heap in which all of these objects can be live at once, in whatever order one process allocates them;
    /// `None` if no heap is so large. It is of a heap that has as much [capacity](Heap::capacity) and no more.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::{Demand, PlainHeap};
    /// use shmem_bind::{RegionAllocator, Tlsf};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let plain = PlainHeap::new(0);
    /// let object = plain.request(100, 8, 0);
    /// let len = Tlsf::required_len(&Demand::new(&|pass| pass(&object, 100))).unwrap();
    /// let memory: Vec<AtomicU64> = (0..len / 8).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(len);
    /// let heap = plain.heap(&memory, &[], 0);
    /// Tlsf::format(&heap)?;
    /// for _ in 0..100 {
    ///     Tlsf::allocate(&heap, &object)?;
    /// }
    /// assert!(Tlsf::allocate(&heap, &object).is_err(), "so many and no more");
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    fn required_len(demand: &Demand<'_>) -> Option<u64>;

    /// Called before anything else by an attachment that is alone on the segment: nobody else uses the heap.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    fn begin_alone(_heap: &Heap<'_>) -> Result<(), HeapError> {
        Ok(())
    }

    /// Called at last by an attachment that has opened the arena and leaves: gives back what is in its [private memory](Heap::private).
    fn settle(_heap: &Heap<'_>) {}
}

/// The functions of an allocator that boxes call, which do not know its type.
#[derive(Debug)]
pub(crate) struct Functions {
    pub(crate) free: fn(&Heap<'_>, u64) -> Result<(), HeapError>,
    pub(crate) settle: fn(&Heap<'_>),
    pub(crate) private_words: usize,
}

/// The functions of `A`, at one address for as long as the program runs.
pub(crate) const fn functions<A: RegionAllocator>() -> &'static Functions {
    const { &Functions { free: A::free, settle: A::settle, private_words: A::PRIVATE_WORDS } }
}
