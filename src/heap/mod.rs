//! The heap: what an allocator works on
//!
//! A [`Heap`] is the part of a segment that holds objects, as a slice of atomic words. Offsets in it are checked
//! at every access, so an allocator written over it is safe code, and damaged words take it nowhere. The same
//! code runs over plain memory ([`PlainHeap`]), in tests and fuzz targets.
//!
//! # Commits
//! The kernel kills between instructions, so a process that learns of a death sees an exact prefix of what the
//! dead wrote. Only the compiler could change the order. A store on which a recovery relies is therefore a
//! [`commit`](Heap::commit): nothing written before it moves behind it, and nothing after it moves before.
//!
//! # Blocks that wait to be freed
//! A box that is dropped does not wait for the allocator's lock. If it is taken, the block is condemned and pushed on a
//! stack in the segment, linked through the tag words, and the next holder of the lock frees it. The holder first marks
//! each as popped, and only then takes the stack away, so that its death loses none: its successor finds blocks that
//! are still on the stack, and blocks that are marked.

mod block;
mod demand;
mod guard;
mod plain;
mod word;

pub use block::{Block, Request, Usage, Visit};
pub use demand::Demand;
pub use guard::HeapGuard;
pub use plain::PlainHeap;
pub use word::{Word, Words};

use crate::error::HeapError;
use crate::lock::{Acquired, Holder, LockError, RawLock, Roll};
use crate::membership::Slot;
use crate::object::{
    BlockState, EXTENT_OFFSET, Event, Extent, GRANULE, MIN_BLOCK_LEN, Next, Refusal, TAG_OFFSET,
};
#[cfg(planted)]
use crate::planted::{LATE, Mistake, is_planted};
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence, fence};
use core::time::Duration;
use static_assertions::const_assert_eq;
#[cfg(test)]
extern crate std;

/// Bytes of a word.
const WORD: u64 = 8;
/// Failed attempts to change a state word after which something other than 56 processes is at work.
const CONTENTION_LIMIT: u32 = 1 << 20;

/// The words of a heap that are not in it: its lock, its length, and the stack of condemned blocks.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct HeapControl {
    lock: RawLock,
    /// Offset of the block condemned last; 0: none.
    condemned: AtomicU64,
    /// Length of the heap in use, in bytes.
    len: AtomicU64,
    /// How many locks were taken over from the dead, the directory's too.
    takeovers: AtomicU64,
    unused: [AtomicU64; 4],
}

const_assert_eq!(size_of::<HeapControl>(), 64);
const_assert_eq!(offset_of!(HeapControl, condemned), 8);
const_assert_eq!(offset_of!(HeapControl, len), 16);
const_assert_eq!(offset_of!(HeapControl, takeovers), 24);

impl HeapControl {
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn set_len(&self, len: u64) {
        commit(&self.len, len);
    }

    #[cfg(feature = "alloc")]
    pub(crate) const fn lock(&self) -> &RawLock {
        &self.lock
    }

    /// How many locks were taken over from the dead since the segment was made.
    pub(crate) fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    /// As it is before anything was allocated; for the one that formats the heap.
    pub(crate) fn reset(&self, len: u64) {
        self.condemned.store(0, Ordering::Relaxed);
        self.set_len(len);
    }
}

/// Of the alarms of an attachment: its memory has gone away.
pub(crate) const SEVERED: u64 = 1 << 63;

/// A store that stays between what is written before and after it.
#[inline(always)]
pub(crate) fn commit(word: &AtomicU64, value: u64) {
    #[cfg(planted)]
    if is_planted(Mistake::CommitWithoutFence) {
        word.store(value, Ordering::Relaxed);
        LATE.catch_up(|word, value| word.store(value, Ordering::Relaxed));
        return;
    }
    // SYNC: Release here; whoever loads with Acquire sees all that was written before. The fences keep the compiler
    // from moving later stores before this one, which Release alone allows.
    compiler_fence(Ordering::SeqCst);
    word.store(value, Ordering::Release);
    compiler_fence(Ordering::SeqCst);
}

/// The memory that an allocator manages, and on whose behalf it works.
///
/// All offsets are in bytes from the start of the heap, which is aligned to 4096 bytes.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// assert_eq!((heap.len(), heap.capacity(), heap.slot()), (4096, 4096, 0));
/// assert!(!heap.is_empty() && PlainHeap::new(0).heap(&[], &[], 0).is_empty());
/// heap.store(0, 7)?; // under a lock, or before anybody depends on it
/// heap.commit(8, 1)?; // and this says that it is there
/// assert_eq!((heap.load(0)?, heap.load(8)?), (7, 1));
/// assert!(heap.load(4096).is_err() && heap.load(4).is_err());
/// assert!(heap.check_growth(4096).is_ok() && heap.check_growth(4104).is_err());
///
/// let guard = heap.lock(|_| unreachable!("nobody has died"))?;
/// assert!(heap.try_lock().is_none());
/// drop(guard);
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
pub struct Heap<'a> {
    words: &'a [AtomicU64],
    control: &'a HeapControl,
    stock: &'a [AtomicU64],
    me: Holder,
    roll: &'a dyn Roll,
    patience: Duration,
    alarms: &'a AtomicU64,
    /// In how many accesses this process is killed; see [`PlainHeap::kill_after`].
    #[cfg(test)]
    fuse: Option<&'a AtomicU64>,
}

impl<'a> Heap<'a> {
    #[inline]
    pub(crate) const fn new(
        words: &'a [AtomicU64],
        control: &'a HeapControl,
        stock: &'a [AtomicU64],
        me: Holder,
        roll: &'a dyn Roll,
        patience: Duration,
        alarms: &'a AtomicU64,
    ) -> Self {
        Self {
            words,
            control,
            stock,
            me,
            roll,
            patience,
            alarms,
            #[cfg(test)]
            fuse: None,
        }
    }

    /// Whether what was written just now has perhaps gone to zeros that only this process sees, since memory of the segment has
    /// gone away. To be asked before anything outside of the payload is changed that says that it has been written.
    #[inline]
    pub(crate) fn is_severed(&self) -> bool {
        // A fault of this very thread comes before what follows it. One of another thread is said before the zeros can be
        // written to; on x86 it reaches this processor by an interrupt, and elsewhere this load must not go before the stores.
        if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        self.alarms.load(Ordering::Relaxed) & SEVERED != 0
    }

    /// In tests, may be where this process is killed.
    #[inline]
    fn step(&self) {
        #[cfg(test)]
        if let Some(fuse) = self.fuse {
            let left = fuse.load(Ordering::Relaxed);
            if left == 1 {
                fuse.store(0, Ordering::Relaxed);
                std::panic::resume_unwind(std::boxed::Box::new("killed"));
            }
            fuse.store(left.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// The same, for one who does not wait for anybody.
    pub(crate) fn impatient(mut self) -> Self {
        self.patience = Duration::ZERO;
        self
    }

    /// Length of the heap that is in use now, in bytes. It may grow.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.control.len().min(self.capacity())
    }

    /// Whether there is no heap at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length that the heap may grow to, in bytes. It never changes.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        // Does not wrap: no slice is longer than half of the address space.
        (self.words.len() as u64).wrapping_mul(WORD)
    }

    /// Checks that the heap may grow to `len` bytes.
    ///
    /// # Errors
    /// [`HeapError::TooSmall`] if that is beyond its [capacity](Self::capacity).
    pub const fn check_growth(&self, len: u64) -> Result<(), HeapError> {
        let capacity = self.capacity();
        if len > capacity { Err(HeapError::TooSmall { len: capacity, needed: len }) } else { Ok(()) }
    }

    /// Memory of this process alone, zero at first, [`PRIVATE_WORDS`](crate::RegionAllocator::PRIVATE_WORDS)
    /// long: for stocks that are lost without harm when the process dies.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::PlainHeap;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let stock: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    /// let heap = plain.heap(&memory, &stock, 0);
    /// heap.private()[3].store(7, Ordering::Relaxed);
    /// assert_eq!(heap.load(24)?, 0, "it is no part of the heap");
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    #[inline]
    #[must_use]
    pub const fn private(&self) -> &'a [AtomicU64] {
        self.stock
    }

    /// The number of the attachment that this is done for: 0 to 55.
    #[inline]
    #[must_use]
    pub fn slot(&self) -> u64 {
        self.me.slot().map_or(0, |slot| slot.index() as u64)
    }

    /// The block whose header is at `offset`, as it is now.
    ///
    /// # Errors
    /// [`HeapError::Damaged`] if no block can begin there, or its words are none that a block can have.
    #[inline]
    pub fn block(&self, offset: u64) -> Result<Block, HeapError> {
        let header = self.words::<3>(offset)?;
        let block = Block {
            offset,
            state: BlockState::from_bits(header.get::<0>().load()),
            tag: header.get::<1>().load_relaxed(),
            extent: Extent::from_bits(header.get::<2>().load_relaxed()),
        };
        let is_block = offset % GRANULE == WORD && block.extent.len() >= MIN_BLOCK_LEN;
        #[cfg(planted)]
        let is_block = is_block || is_planted(Mistake::WalkOnTheSpot) && block.extent.is_empty();
        let fits = block.end().is_some_and(|end| end <= self.capacity());
        if is_block && fits { Ok(block) } else { Err(HeapError::Damaged { at: offset }) }
    }

    /// Changes the extent of the block at `offset`, in one step.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    #[inline]
    pub fn commit_extent(&self, offset: u64, extent: Extent) -> Result<(), HeapError> {
        self.commit(offset.wrapping_add(EXTENT_OFFSET), extent.bits())
    }

    /// Changes the state of the block at `offset`, in one step.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    #[inline]
    pub fn commit_state(&self, offset: u64, state: BlockState) -> Result<(), HeapError> {
        self.commit(offset, state.bits())
    }

    /// Makes the block at `offset` one in use, as the request wants it: its tag, then its state, which commits.
    /// Its extent must say already how much of it the object leaves over.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::{BlockState, Extent, PlainHeap};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// let request = plain.request(40, 8, 0);
    /// heap.commit_extent(8, request.extent(64).unwrap())?;
    /// heap.hand_out(8, &request)?; // the last step
    /// assert_eq!(Some(heap.block(8)?.state), BlockState::owned_by(0));
    /// assert_eq!(heap.block(8)?.extent, Extent::new(64, 0));
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    #[inline]
    pub fn hand_out(&self, offset: u64, request: &Request) -> Result<(), HeapError> {
        let header = self.words::<2>(offset)?;
        request.hand_out(header.get::<0>(), header.get::<1>());
        Ok(())
    }

    /// The attachment that this is done for.
    pub(crate) const fn me(&self) -> Holder {
        self.me
    }

    /// The slot of that attachment.
    #[inline]
    pub(crate) fn own_slot(&self) -> Result<Slot, HeapError> {
        self.me.slot().ok_or(HeapError::Damaged { at: 0 })
    }

    /// Takes a lock of the segment, the heap's or another one.
    #[inline(always)]
    pub(crate) fn take(&self, lock: &RawLock) -> Result<Acquired, HeapError> {
        // Nearly always.
        if lock.try_lock(self.me) { Ok(Acquired::Clean) } else { self.wait_for(lock) }
    }

    #[cold]
    #[inline(never)]
    fn wait_for(&self, lock: &RawLock) -> Result<Acquired, HeapError> {
        lock.lock(self.me, self.roll, self.patience).map_err(|error| match error {
            LockError::Busy => HeapError::Busy,
            LockError::NotRecoverable => HeapError::NotRecoverable,
            LockError::Damaged => HeapError::Damaged { at: 0 },
        })
    }

    /// Counts a lock of the dead whose data have been put right.
    #[cold]
    pub(crate) fn count_takeover(&self) {
        self.roll.took_over();
        self.control.takeovers.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes the state of the block at `offset` by an event; gives the state before and after.
    ///
    /// The second is `None` if the block is to be freed, and the word is then as it was.
    #[inline]
    pub(crate) fn change(
        &self,
        offset: u64,
        event: Event,
    ) -> Result<Result<(BlockState, Option<BlockState>), Refusal>, HeapError> {
        let word = self.word(offset)?;
        let mut bits = word.load(Ordering::Acquire);
        // Others may change it meanwhile, each holder and the directory a few times.
        for _ in 0..CONTENTION_LIMIT {
            let state = BlockState::from_bits(bits);
            let next = match state.step(event) {
                Ok(Next::State(next)) if next == state => return Ok(Ok((state, Some(next)))),
                Ok(Next::State(next)) => next,
                Ok(Next::Free) => return Ok(Ok((state, None))),
                Err(refusal) => return Ok(Err(refusal)),
            };
            self.step();
            match word.compare_exchange(bits, next.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(Ok((state, Some(next)))),
                Err(other) => bits = other,
            }
        }
        Err(HeapError::Damaged { at: offset })
    }

    /// Puts `next` in the place of exactly `state` of the block at `offset`; gives whether it was that.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::{BlockState, PlainHeap};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// let mine = BlockState::owned_by(0).unwrap();
    /// heap.commit_state(8, BlockState::FREE)?;
    /// assert!(heap.replace_state(8, BlockState::FREE, mine)?, "of all who try, one has it");
    /// assert!(!heap.replace_state(8, BlockState::FREE, mine)?);
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    #[inline]
    pub fn replace_state(&self, offset: u64, state: BlockState, next: BlockState) -> Result<bool, HeapError> {
        let word = self.word(offset)?;
        let replaced = word.compare_exchange(state.bits(), next.bits(), Ordering::AcqRel, Ordering::Acquire);
        Ok(replaced.is_ok())
    }

    /// Frees the block at `offset`, which is the caller's: now, or, if the allocator's lock is taken, by leaving it
    /// to the next holder.
    #[inline]
    pub(crate) fn free_or_defer(
        &self,
        offset: u64,
        free: fn(&Heap<'_>, u64) -> Result<(), HeapError>,
    ) -> Result<(), HeapError> {
        match free(self, offset) {
            Err(HeapError::Busy) => self.condemn(offset),
            result => result,
        }
    }

    #[cold]
    fn condemn(&self, offset: u64) -> Result<(), HeapError> {
        match self.change(offset, Event::Condemn(self.own_slot()?))? {
            Ok(_) => self.defer(offset),
            Err(_) => Err(HeapError::Damaged { at: offset }),
        }
    }

    /// Leaves a block, condemned by the caller, to the next holder of the lock.
    fn defer(&self, offset: u64) -> Result<(), HeapError> {
        let link = self.word(offset.wrapping_add(TAG_OFFSET))?;
        let mut head = self.control.condemned.load(Ordering::Relaxed);
        for _ in 0..CONTENTION_LIMIT {
            link.store(head, Ordering::Relaxed);
            if self.is_severed() {
                // It is this attachment's still, and given back with the rest.
                return Err(HeapError::Busy);
            }
            // SYNC: Release here, Acquire in `take_condemned`: who finds the block finds its link.
            match self.control.condemned.compare_exchange_weak(
                head,
                offset,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(other) => head = other,
            }
        }
        Err(HeapError::Damaged { at: offset })
    }
}

impl fmt::Debug for Heap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}
