//! Words of a heap, looked up and checked for

use super::{Heap, WORD, commit};
use crate::error::HeapError;
#[cfg(planted)]
use crate::planted::{LATE, unchecked};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// A word of a heap: its place has been checked, what is in it may be anything.
///
/// Several words side by side are checked for at once, by [`Heap::words`]: that is what makes the header of a block
/// cheap.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// let word = heap.words::<1>(16)?.get::<0>();
/// word.store(7);
/// assert_eq!(word.load_relaxed(), 7);
/// word.commit(8);
/// assert_eq!(word.load(), 8);
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Word<'h, 'a> {
    /// Counts accesses, in tests.
    #[cfg_attr(not(test), allow(dead_code))]
    heap: &'h Heap<'a>,
    word: &'a AtomicU64,
}

impl Word<'_, '_> {
    /// What it is now, and all that was written before it became so.
    #[inline(always)]
    #[must_use]
    pub fn load(self) -> u64 {
        self.load_by(Ordering::Acquire)
    }

    /// What it is at some time: for what is written under a lock, or once.
    #[inline(always)]
    #[must_use]
    pub fn load_relaxed(self) -> u64 {
        self.load_by(Ordering::Relaxed)
    }

    #[inline(always)]
    fn load_by(self, ordering: Ordering) -> u64 {
        self.step();
        #[cfg(planted)]
        if let Some(value) = LATE.value(self.word) {
            return value;
        }
        self.word.load(ordering)
    }

    /// Changes the word, on which nothing depends yet.
    #[inline(always)]
    pub fn store(self, value: u64) {
        self.step();
        #[cfg(planted)]
        if LATE.put_off(self.word, value) {
            return;
        }
        self.word.store(value, Ordering::Relaxed);
    }

    /// Changes the word after all that was written before, and before all that will be.
    #[inline(always)]
    pub fn commit(self, value: u64) {
        self.step();
        commit(self.word, value);
    }

    #[inline(always)]
    fn step(self) {
        #[cfg(test)]
        self.heap.step();
    }
}

/// `N` words side by side.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::PlainHeap;
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// let header = heap.words::<3>(8)?; // checked once
/// header.get::<1>().store(7);
/// header.get::<0>().commit(1);
/// assert_eq!(heap.load(16)?, 7);
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Words<'h, 'a, const N: usize> {
    heap: &'h Heap<'a>,
    words: &'a [AtomicU64; N],
}

impl<'h, 'a, const N: usize> Words<'h, 'a, N> {
    /// Word number `I`, from zero, which is less than `N`: anything else does not compile.
    #[inline(always)]
    #[must_use]
    pub fn get<const I: usize>(self) -> Word<'h, 'a> {
        const { assert!(I < N, "there are not so many words") };
        // Less than the length, as the compiler has seen.
        #[allow(clippy::indexing_slicing)]
        let word = &self.words[I];
        Word { heap: self.heap, word }
    }
}

impl<const N: usize> fmt::Debug for Words<'_, '_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.words, f)
    }
}

impl fmt::Debug for Word<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.word, f)
    }
}

impl<'a> Heap<'a> {
    /// The `N` words from `offset` on, which is a multiple of 8.
    ///
    /// # Errors
    /// [`HeapError::Damaged`] if they are not all in the heap: whatever the offset was computed from is not as it must
    /// be.
    ///
    /// # Examples
    /// ```
    /// # use shmem_bind::allocator::PlainHeap;
    /// # use std::sync::atomic::AtomicU64;
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// let words = heap.words::<2>(8)?;
    /// words.get::<0>().store(1);
    /// words.get::<1>().commit(2);
    /// assert_eq!((heap.load(8)?, heap.load(16)?), (1, 2));
    /// assert!(heap.words::<3>(4080).is_err());
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    #[inline(always)]
    pub fn words<'h, const N: usize>(&'h self, offset: u64) -> Result<Words<'h, 'a, N>, HeapError> {
        Ok(Words { heap: self, words: self.place(offset)? })
    }

    #[inline(always)]
    fn place<const N: usize>(&self, offset: u64) -> Result<&'a [AtomicU64; N], HeapError> {
        let index = usize::try_from(offset / WORD).ok();
        // One comparison: the compiler knows that an eighth of an offset and `N` do not overflow.
        let words = index.and_then(|index| self.words.get(index..index.wrapping_add(N))?.first_chunk());
        #[cfg(planted)]
        let words = words.or_else(|| unchecked(self.words, (offset / WORD) as usize));
        match words {
            Some(words) if offset % WORD == 0 => Ok(words),
            _ => Err(HeapError::Damaged { at: offset }),
        }
    }

    /// The word at `offset`, a multiple of 8.
    ///
    /// # Errors
    /// [`HeapError::Damaged`] if there is none: whatever the offset was computed from is not as it must be.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::PlainHeap;
    /// use std::sync::atomic::AtomicU64;
    ///
    /// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    /// let plain = PlainHeap::new(4096);
    /// let heap = plain.heap(&memory, &[], 0);
    /// use std::sync::atomic::Ordering::Relaxed;
    /// assert_eq!(heap.word(8)?.fetch_add(1, Relaxed), 0);
    /// assert_eq!(heap.load(8)?, 1);
    /// # Ok::<(), shmem_bind::allocator::HeapError>(())
    /// ```
    #[inline]
    pub fn word(&self, offset: u64) -> Result<&'a AtomicU64, HeapError> {
        // Whoever has the word itself may do anything with it, so nothing is put off beyond this.
        #[cfg(planted)]
        LATE.catch_up(|word, value| word.store(value, Ordering::Relaxed));
        self.step();
        let [word] = self.place(offset)?;
        Ok(word)
    }

    #[inline(always)]
    fn one(&self, offset: u64) -> Result<Word<'_, 'a>, HeapError> {
        Ok(self.words::<1>(offset)?.get::<0>())
    }

    /// What the word at `offset` is now.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    #[inline]
    pub fn load(&self, offset: u64) -> Result<u64, HeapError> {
        Ok(self.one(offset)?.load())
    }

    /// Changes the word at `offset`, on which nothing depends yet.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    #[inline]
    pub fn store(&self, offset: u64, value: u64) -> Result<(), HeapError> {
        self.one(offset)?.store(value);
        Ok(())
    }

    /// Changes the word at `offset` after all that was written before, and before all that will be.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    #[inline]
    pub fn commit(&self, offset: u64, value: u64) -> Result<(), HeapError> {
        self.one(offset)?.commit(value);
        Ok(())
    }
}
