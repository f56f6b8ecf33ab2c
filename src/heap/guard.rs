//! The heap's lock, held

use super::Heap;
use crate::error::HeapError;
use crate::lock::{Acquired, spin};
use crate::object::{Event, MIN_BLOCK_LEN, Next};
#[cfg(planted)]
use crate::planted::{LATE, Mistake, is_planted};
use core::sync::atomic::Ordering;
#[cfg(test)]
extern crate std;

/// Looks at a lock that somebody holds before a block is rather left to that one.
const SPINS: u32 = 8;
/// Failed attempts to take the stack of condemned blocks after which something other than 56 processes is at work.
const CONTENTION_LIMIT: u32 = 1 << 20;

impl<'a> Heap<'a> {
    /// Takes the heap's lock; waits, if need be, for at most as long as the arena's timeout says.
    ///
    /// If the last holder died, `recover` puts right what the lock protects, which is up to the allocator, and
    /// may be killed itself. If it cannot, the lock is given up for good.
    ///
    /// # Errors
    /// [`HeapError::Busy`], [`HeapError::NotRecoverable`], [`HeapError::Damaged`], and what `recover` says.
    #[inline]
    pub fn lock<'h>(
        &'h self,
        recover: impl FnOnce(&HeapGuard<'h, 'a>) -> Result<(), HeapError>,
    ) -> Result<HeapGuard<'h, 'a>, HeapError> {
        match self.take(&self.control.lock)? {
            Acquired::Clean => Ok(HeapGuard { heap: self, is_sound: true }),
            Acquired::OwnerDied => self.put_right(recover),
        }
    }

    /// After taking the lock over from one that died.
    #[cold]
    #[inline(never)]
    fn put_right<'h>(
        &'h self,
        recover: impl FnOnce(&HeapGuard<'h, 'a>) -> Result<(), HeapError>,
    ) -> Result<HeapGuard<'h, 'a>, HeapError> {
        let mut guard = HeapGuard { heap: self, is_sound: false };
        recover(&guard)?;
        guard.is_sound = true;
        self.count_takeover();
        Ok(guard)
    }

    /// Takes the heap's lock if that can be done at once.
    #[inline]
    #[must_use]
    pub fn try_lock<'h>(&'h self) -> Option<HeapGuard<'h, 'a>> {
        let is_taken = self.control.lock.try_lock(self.me) || self.try_again();
        // A guard that is made is dropped, which gives the lock back: so only if it is ours.
        if is_taken { Some(HeapGuard { heap: self, is_sound: true }) } else { None }
    }

    #[cold]
    #[inline(never)]
    fn try_again(&self) -> bool {
        let lock = &self.control.lock;
        spin(SPINS, || lock.is_free() && lock.try_lock(self.me))
    }
}

/// The heap's lock, held. Dropping it gives the lock back.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{BlockState, PlainHeap};
/// use shmem_bind::{RegionAllocator, Tlsf};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// Tlsf::format(&heap)?;
/// let block = Tlsf::allocate(&heap, &plain.request(8, 8, 0))?;
/// // A box was dropped while somebody had the lock.
/// plain.condemn(&heap, block)?;
///
/// let guard = heap.lock(|_| Ok(()))?;
/// assert!(guard.has_condemned());
/// guard.take_condemned(|offset| {
///     assert_eq!(offset, block);
///     // Here an allocator joins it with its neighbours, as when it is freed.
///     heap.commit_state(offset, BlockState::FREE)
/// })?;
/// assert!(!guard.has_condemned());
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct HeapGuard<'h, 'a> {
    heap: &'h Heap<'a>,
    /// Whether what the lock protects is whole.
    is_sound: bool,
}

impl HeapGuard<'_, '_> {
    /// Whether blocks wait to be freed.
    #[inline]
    #[must_use]
    pub fn has_condemned(&self) -> bool {
        self.heap.control.condemned.load(Ordering::Relaxed) != 0
    }

    /// Takes the blocks that wait to be freed, and passes the offset of each to `free`.
    ///
    /// The allocator calls this at least whenever it runs short, and in its recovery, after which it frees
    /// what [was popped](crate::allocator::BlockState::is_popped) by one that died.
    ///
    /// # Errors
    /// [`HeapError::Damaged`], and what `free` says.
    pub fn take_condemned(
        &self,
        mut free: impl FnMut(u64) -> Result<(), HeapError>,
    ) -> Result<(), HeapError> {
        let heap = self.heap;
        let most = heap.capacity() / MIN_BLOCK_LEN;
        // From this block on, they were marked by this very call: so each is looked at once, in all attempts together.
        let mut marked = 0;
        let mut count = 0_u64;
        let mut attempts = 0..CONTENTION_LIMIT;
        let head = loop {
            attempts.next().ok_or(HeapError::Busy)?;
            let head = heap.control.condemned.load(Ordering::Acquire);
            let mut offset = head;
            while offset != 0 && offset != marked {
                let block = heap.block(offset)?;
                count = count.saturating_add(1);
                #[cfg(planted)]
                let most = if is_planted(Mistake::WalkWithoutBound) { u64::MAX } else { most };
                if count > most {
                    return Err(HeapError::Damaged { at: offset });
                }
                // One that died may have marked it; those behind it may not be.
                if !block.state.is_popped() {
                    let Ok(Next::State(popped)) = block.state.step(Event::Pop) else {
                        return Err(HeapError::Damaged { at: offset });
                    };
                    heap.commit_state(offset, popped)?;
                }
                offset = block.tag;
            }
            heap.step();
            if heap.is_severed() {
                return Err(HeapError::Busy);
            }
            // Between its load and here others may have pushed.
            if heap.control.condemned.compare_exchange(head, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                break head;
            }
            marked = head;
        };
        let mut offset = head;
        let mut count = 0_u64;
        while offset != 0 && count <= most {
            let block = heap.block(offset)?;
            if !block.state.is_popped() {
                return Err(HeapError::Damaged { at: offset });
            }
            free(offset)?;
            offset = block.tag;
            count = count.saturating_add(1);
        }
        Ok(())
    }

    /// Makes the heap `len` bytes long, at most its capacity; the last step of growing.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::PlainHeap;
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// let plain = PlainHeap::new(1024);
    /// let heap = plain.heap(&memory, &[], 0);
    /// let guard = heap.lock(|_| Ok(()))?;
    /// heap.check_growth(4096)?;
    /// guard.set_len(4096); // after what lies there has been prepared
    /// assert_eq!(heap.len(), 4096);
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    pub fn set_len(&self, len: u64) {
        self.heap.step();
        if !self.heap.is_severed() {
            self.heap.control.set_len(len);
        }
    }
}

impl Drop for HeapGuard<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // Whoever is killed gives nothing back.
        #[cfg(test)]
        if std::thread::panicking() {
            return;
        }
        #[cfg(planted)]
        LATE.catch_up(|word, value| word.store(value, Ordering::Relaxed));
        let lock = &self.heap.control.lock;
        if self.heap.is_severed() {
            lock.abandon(self.heap.me);
        } else if self.is_sound {
            lock.unlock(self.heap.me);
        } else {
            lock.give_up(self.heap.me);
        }
    }
}
