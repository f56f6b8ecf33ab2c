//! The export bitmap: where handles and names may lead
//!
//! The bytes of a user's own object can look like a block header. So whatever leads to an object from outside, a
//! handle or an entry of the directory, is believed only if the bit of its place is set: one for each 16 bytes of
//! heap. A bit is set before the object is leaked or shared, and cleared after it is exclusive again, and whenever
//! its block is freed; so a block has one if anything outside may lead to it, and nothing else ever has.
//! Allocating and freeing what was never exported does not touch the bitmap.

use crate::object::{BLOCK_HEADER_LEN, GRANULE};
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// The export bitmap of a heap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exports<'a>(&'a [AtomicU64]);

impl<'a> Exports<'a> {
    pub(crate) const fn new(words: &'a [AtomicU64]) -> Self {
        Self(words)
    }

    /// The word and the bit of the block at `offset`; `None` if no block can begin there.
    fn place(self, offset: u64) -> Option<(&'a AtomicU64, u64)> {
        let payload = offset.checked_add(BLOCK_HEADER_LEN).filter(|payload| payload % GRANULE == 0)?;
        let granule = payload / GRANULE;
        let word = self.0.get(usize::try_from(granule / 64).ok()?)?;
        Some((word, 1 << (granule % 64)))
    }

    pub(crate) fn is_set(self, offset: u64) -> bool {
        self.place(offset).is_some_and(|(word, bit)| {
            // Of a read-only mapping, too, where only a relaxed load is sure to be a mere read.
            let bits = word.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            bits & bit != 0
        })
    }

    pub(crate) fn set(self, offset: u64) {
        if let Some((word, bit)) = self.place(offset) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Clears the bit, if it is set: most never were.
    pub(crate) fn clear(self, offset: u64) {
        if let Some((word, bit)) = self.place(offset) {
            if word.load(Ordering::Relaxed) & bit != 0 {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }

    /// The first block from `offset` on, and before `end`, whose bit is set. What is beyond the end of the heap is not
    /// even read, for that would take memory.
    pub(crate) fn next(self, offset: u64, end: u64) -> Option<u64> {
        let words = usize::try_from(end.div_ceil(GRANULE.saturating_mul(64))).ok()?;
        let words = self.0.get(..words).unwrap_or(self.0);
        let granule = offset.checked_add(BLOCK_HEADER_LEN)?.div_ceil(GRANULE);
        let mut index = usize::try_from(granule / 64).ok()?;
        let mut bits = words.get(index)?.load(Ordering::Acquire) & !0 << (granule % 64);
        while bits == 0 {
            index = index.checked_add(1)?;
            bits = words.get(index)?.load(Ordering::Acquire);
        }
        let granule = (index as u64).checked_mul(64)?.checked_add(u64::from(bits.trailing_zeros()))?;
        granule.checked_mul(GRANULE)?.checked_sub(BLOCK_HEADER_LEN).filter(|block| *block < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn bits_are_found_in_order() {
        let words: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let exports = Exports::new(&words);
        let blocks = [8, 24, 1000, 1016, 1032, 4056];
        for offset in blocks {
            assert!(!exports.is_set(offset));
            exports.set(offset);
            assert!(exports.is_set(offset));
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(offset) = exports.next(from, 4096) {
            found.push(offset);
            from = offset + 1;
        }
        assert_eq!(found, blocks);
        blocks.into_iter().for_each(|offset| exports.clear(offset));
        assert_eq!(exports.next(0, 4096), None);
    }

    #[test]
    fn places_that_are_none_have_no_bit() {
        let words: Vec<_> = (0..1).map(|_| AtomicU64::new(!0)).collect();
        let exports = Exports::new(&words);
        for offset in [0, 7, 9, 16, 64 * 16, u64::MAX, u64::MAX - 23] {
            assert!(!exports.is_set(offset), "{offset}");
            exports.clear(offset);
            exports.set(offset);
        }
        assert_eq!(words[0].load(Ordering::Relaxed), !0);
        assert_eq!(exports.next(u64::MAX, u64::MAX), None);
    }
}
