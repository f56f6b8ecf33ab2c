//! Heaps over plain memory

use super::{Heap, HeapControl, Request};
use crate::error::HeapError;
use crate::lock::{Holder, Roll};
use crate::membership::Slot;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// How long a thread waits for a lock that another one holds: longer than that one is kept from running on a machine that
/// is busy with a lot else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A heap over plain memory, for tests of allocators: the words that a segment's header has, and a word on who died.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{PlainHeap, Request};
/// use shmem_bind::{RegionAllocator, Tlsf};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// Tlsf::format(&heap)?;
/// let offset = Tlsf::allocate(&heap, &plain.request(100, 8, 0))?;
/// assert_eq!(heap.block(offset)?.extent.object_len(), Some(100));
/// Tlsf::free(&heap, offset)?;
/// Tlsf::check(&heap)?;
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Debug, Default)]
pub struct PlainHeap {
    control: HeapControl,
    gone: Gone,
    alarms: AtomicU64,
    #[cfg(test)]
    fuse: AtomicU64,
}

/// The slots whose attachments have ended, one bit each.
#[derive(Debug, Default)]
struct Gone(AtomicU64);

impl Roll for Gone {
    fn is_gone(&self, holder: Holder) -> bool {
        let bits = self.0.load(Ordering::Relaxed);
        holder.slot().is_some_and(|slot| bits >> slot.index() & 1 != 0)
    }
}

impl PlainHeap {
    /// For a heap of `len` bytes in use.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let plain = Self::default();
        plain.control.set_len(len);
        plain
    }

    /// The heap in `words`, as attachment number `slot` sees it; `private` is that one's private memory.
    #[must_use]
    pub fn heap<'a>(&'a self, words: &'a [AtomicU64], private: &'a [AtomicU64], slot: u64) -> Heap<'a> {
        let me = Holder::new(slot_or_first(slot), 1);
        Heap {
            #[cfg(test)]
            fuse: Some(&self.fuse),
            ..Heap::new(words, &self.control, private, me, &self.gone, PATIENCE, &self.alarms)
        }
    }

    /// Runs `work`, and kills it at access number `steps` (from one) to a word of the heap; gives its result if it
    /// had fewer. What was written stays, locks stay held, and nothing is run any more, but for
    /// destructors of the work's own, which must not touch the heap. Tell of the death by [`kill`](Self::kill).
    #[cfg(test)]
    pub(crate) fn kill_after<R>(&self, steps: u64, work: impl FnOnce() -> R) -> Option<R> {
        self.fuse.store(steps, Ordering::Relaxed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        self.fuse.store(0, Ordering::Relaxed);
        result.ok()
    }

    /// A request for `len` bytes aligned to `align` by attachment number `slot`.
    #[must_use]
    pub const fn request(&self, len: u64, align: u64, slot: u64) -> Request {
        Request::new(len, align, 0, slot_or_first(slot))
    }

    /// Says that attachment number `slot` has died.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::{HeapError, PlainHeap};
    /// use shmem_bind::{RegionAllocator, Tlsf};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// Tlsf::format(&heap)?;
    /// plain.die_locked(&heap); // takes the lock, and is killed
    /// let other = plain.heap(&memory, &[], 1);
    /// // The next one puts the heap right, and goes on.
    /// Tlsf::allocate(&other, &plain.request(8, 8, 1))?;
    /// Tlsf::check(&other)?;
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    pub fn kill(&self, slot: u64) {
        self.gone.0.fetch_or(1 << slot_or_first(slot).index(), Ordering::Relaxed);
    }

    /// What box number `slot` does when it is dropped and the lock is taken: leaves the block to the next holder.
    ///
    /// # Errors
    /// [`HeapError::Damaged`] if it is not the block of an object of that attachment.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::PlainHeap;
    /// use shmem_bind::{RegionAllocator, Tlsf};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// Tlsf::format(&heap)?;
    /// let block = Tlsf::allocate(&heap, &plain.request(8, 8, 0))?;
    /// plain.condemn(&heap, block)?;
    /// assert_eq!(Tlsf::usage(&heap)?.blocks, 0, "whoever has the lock next frees it");
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    pub fn condemn(&self, heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        heap.condemn(offset)
    }

    /// What a peer may do that has run wild: puts any values into the words that are not in the heap, its length in use and
    /// the offset of the block condemned last (0: none).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::PlainHeap;
    /// use shmem_bind::{RegionAllocator, Tlsf};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// Tlsf::format(&heap)?;
    /// plain.damage(1 << 60, 12345);
    /// // An answer, whatever it is, and in a while.
    /// let _ = Tlsf::usage(&heap);
    /// assert_eq!(heap.len(), 4096, "no more than there is");
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    pub fn damage(&self, len: u64, condemned: u64) {
        self.control.reset(len);
        self.control.condemned.store(condemned, Ordering::Relaxed);
    }

    /// What a process does that dies as number `slot` while it holds the lock.
    pub fn die_locked(&self, heap: &Heap<'_>) {
        if let Some(guard) = heap.try_lock() {
            core::mem::forget(guard);
            self.kill(heap.slot());
        }
    }
}

const fn slot_or_first(slot: u64) -> Slot {
    match Slot::new(slot) {
        Some(slot) => slot,
        None => Slot::FIRST,
    }
}
