//! What of a segment is no hole
//!
//! A segment may be far longer than it has memory, and what its words say of lengths may be wrong. So whoever goes over a
//! copy word by word goes over these parts alone: elsewhere it is zero, and to look there takes time and memory.

use crate::exports::Exports;
use crate::header::HEADER_LEN;
use crate::heap::{Block, Heap};
use crate::object::{BLOCK_HEADER_LEN, EXTENT_OFFSET, GRANULE};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of heap for each byte of the export bitmap.
const EXPORT_BYTES: u64 = GRANULE * 8;

/// The parts of a segment that were copied, in bytes from its start: whole words, in order, and apart from each other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: Vec<Range<u64>>,
    copied: u64,
}

impl Parts {
    /// Adds one behind all others.
    pub(super) fn push(&mut self, part: Range<u64>) -> Result<(), TryReserveError> {
        let part = part.start & !7..part.end.checked_next_multiple_of(8).unwrap_or(part.end);
        match self.parts.last_mut() {
            Some(last) if last.end >= part.start => last.end = part.end.max(last.end),
            _ => {
                self.parts.try_reserve(1)?;
                self.parts.push(part.clone());
            }
        }
        self.copied = self.copied.saturating_add(part.end.saturating_sub(part.start));
        Ok(())
    }

    /// How many bytes they have.
    pub(super) const fn copied(&self) -> u64 {
        self.copied
    }

    /// Those within a range, cut to it.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.parts.partition_point(|part| part.end <= range.start);
        let parts = self.parts.get(first..).unwrap_or_default().iter();
        parts
            .take_while(move |part| part.start < range.end)
            .map(move |part| part.start.max(range.start)..part.end.min(range.end))
    }

    /// The same of the payload, in bytes from the start of that.
    pub(super) fn within_payload(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let header = HEADER_LEN as u64;
        let range = range.start.saturating_add(header)..range.end.saturating_add(header);
        self.within(range).map(move |part| part.start.saturating_sub(header)..part.end.saturating_sub(header))
    }

    /// The first block from `offset` on whose bit is set in the export bitmap, as [`Exports::next`] has it.
    pub(super) fn next_exported(&self, heap: &Heap<'_>, exports: Exports<'_>, offset: u64) -> Option<u64> {
        // The bitmap follows the heap.
        let (bitmap, end) = (heap.capacity(), heap.len());
        let bit = |offset: u64| bitmap.saturating_add(offset.saturating_add(BLOCK_HEADER_LEN) / EXPORT_BYTES);
        let block = |byte: u64| {
            byte.saturating_sub(bitmap).saturating_mul(EXPORT_BYTES).saturating_sub(BLOCK_HEADER_LEN)
        };
        self.within_payload(bit(offset) & !7..bit(end).saturating_add(8))
            .find_map(|part| exports.next(offset.max(block(part.start)), end.min(block(part.end))))
    }

    /// The block at `offset` of the heap; else, where to look for the next one.
    pub(super) fn block(&self, heap: &Heap<'_>, offset: u64) -> Result<Block, u64> {
        heap.block(offset).map_err(|_| {
            // No block has an extent of zeros.
            let extent = offset.saturating_add(GRANULE).saturating_add(EXTENT_OFFSET);
            let part = self.within_payload(extent..heap.len()).next();
            part.map_or(u64::MAX, |part| part.start.saturating_sub(EXTENT_OFFSET))
        })
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::heap::PlainHeap;
    use core::sync::atomic::{AtomicU64, Ordering};
    extern crate std;
    use std::vec;

    fn words(count: u64) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn parts_are_cut_to_a_range() {
        let mut parts = Parts::default();
        for part in [0..8, 8..16, 100..120, 4096..4104] {
            parts.push(part).unwrap();
        }
        let within = |range| parts.within(range).collect::<Vec<_>>();
        assert_eq!(within(0..u64::MAX), [0..16, 96..120, 4096..4104]);
        assert_eq!(parts.copied(), 48);
        assert_eq!(within(4..100), [4..16, 96..100]);
        assert_eq!(within(16..96), []);
        assert_eq!(within(119..4097), [119..120, 4096..4097]);
        assert_eq!(within(120..4096), []);
        assert_eq!(parts.within_payload(0..u64::MAX).next(), Some(0..8));
        assert_eq!(parts.within_payload(u64::MAX..u64::MAX).count(), 0);
    }

    #[test]
    fn what_is_exported_is_found_as_without_holes() {
        // Its bitmap has 1024 words.
        let len = 1 << 20;
        let plain = PlainHeap::new(len);
        let (memory, bitmap) = (words(len / 8), words(len / 1024));
        let (heap, exports) = (plain.heap(&memory, &[], 0), Exports::new(&bitmap));
        // At both ends of the parts, and of their words.
        let (mut parts, mut expected) = (Parts::default(), vec![]);
        for (start, end) in [(0, 8), (64, 72), (512, 4096), (8184, 8192)] {
            let first = HEADER_LEN as u64 + len;
            parts.push(first + start..first + end).unwrap();
            for granule in [start * 8, start * 8 + 1, start * 8 + 63, end * 8 - 2, end * 8 - 1] {
                if let Some(offset) = (granule * 16).checked_sub(24) {
                    exports.set(offset);
                    expected.push(offset);
                }
            }
        }
        expected.sort_unstable();
        expected.dedup();
        let all = |next: &dyn Fn(u64) -> Option<u64>| {
            let (mut found, mut from) = (vec![], 0);
            while let Some(offset) = next(from) {
                found.push(offset);
                from = offset + 1;
            }
            found
        };
        assert_eq!(all(&|from| exports.next(from, len)), expected);
        assert_eq!(all(&|from| parts.next_exported(&heap, exports, from)), expected);
        // Elsewhere it is not even looked at.
        exports.set(6000 * 128 + 8);
        assert_eq!(all(&|from| parts.next_exported(&heap, exports, from)), expected);
        assert_eq!(parts.next_exported(&heap, exports, u64::MAX), None);
    }

    #[test]
    fn where_no_block_can_be_none_is_looked_for() {
        let plain = PlainHeap::new(1 << 20);
        let memory = words(1 << 17);
        let heap = plain.heap(&memory, &[], 0);
        let mut parts = Parts::default();
        let header = HEADER_LEN as u64;
        parts.push(header..header + 4096).unwrap();
        parts.push(header + 0x8000..header + 0x9000).unwrap();
        assert_eq!(parts.block(&heap, 8), Err(24));
        assert_eq!(parts.block(&heap, 4072), Err(0x8000 - 16));
        // Of a block whose state is zero, the rest may be in another page.
        memory[0x8000 / 8].store(2, Ordering::Relaxed);
        assert_eq!(parts.block(&heap, 0x8000 - 16).map(|_| ()), Err(0x8000));
        assert_eq!(parts.block(&heap, 0x8000 - 8).map(|_| ()), Err(0x8008));
        memory[0x8008 / 8].store(2, Ordering::Relaxed);
        assert_eq!(parts.block(&heap, 0x8000 - 8).unwrap().extent.len(), 32);
        assert_eq!(parts.block(&heap, 0x10_0000), Err(u64::MAX));
    }
}
