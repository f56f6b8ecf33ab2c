//! The mapped segment
//!
//! A [`Region`] is a segment in memory: the one place where its bytes become a reference to the header or a
//! pointer to the payload. Its length is the one validated at attaching and never changes.
//!
//! # Arenas
//! The payload of an arena is its heap, and behind that the export bitmap, one bit for each 16 bytes of heap. Where the
//! one ends and the other begins follows from the length of the payload alone.
//!
//! # Safety
//! Makes references to memory that other processes change at will, which is sound because they are to
//! atomics alone.
#![allow(unsafe_code)]

use crate::error::HeapError;
use crate::header::{HEADER_LEN, SharedHeader};
use crate::object::BLOCK_HEADER_LEN;
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::sys::Failure;
use crate::sys::shm::{Access, Mapping};
use crate::whereabouts::Whereabouts;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Bytes of a word.
const WORD: usize = 8;
/// Bytes of heap for each byte of the export bitmap.
const EXPORT_BYTES: usize = 128;

/// How many of the words of an arena's payload are its heap; the rest is the export bitmap.
const fn heap_words(words: usize) -> usize {
    // Does not saturate: the number of words is at most an eighth of the address space.
    words.saturating_sub(words.div_ceil(EXPORT_BYTES + 1))
}

/// Length of the heap of an arena that has `payload` bytes, in bytes.
pub(crate) const fn heap_len(payload: u64) -> u64 {
    (heap_words((payload / 8) as usize) as u64).saturating_mul(8)
}

/// Least length of the payload of an arena whose heap has `heap` bytes, in bytes.
pub(crate) const fn payload_len(heap: u64) -> u64 {
    heap.saturating_add((heap / 8).div_ceil(EXPORT_BYTES as u64).saturating_mul(8))
}

/// A whole segment, mapped.
#[derive(Debug)]
pub(crate) struct Region {
    /// INVARIANT 1: mapped from the start of a segment's file, or a private copy of that, so aligned to a page, which
    /// is no less than 4096 bytes; no shorter than a header.
    mapping: Mapping,
    /// Where that can be looked up; `None` for a copy, in which nobody has anything.
    whereabouts: Option<&'static Whereabouts>,
    /// How many words of an arena's payload are its heap.
    heap_words: usize,
}

// SAFETY: a region is an address range of the process, not of a thread; all shared access through it is to
// atomics, and whoever makes more of the payload pointer answers for it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `payload_len` bytes of payload and the header before it, and says so in `whereabouts`, which is this region's
    /// alone as long as it exists.
    pub(crate) fn map(
        fd: &OwnedFd,
        payload_len: u64,
        access: Access,
        whereabouts: &'static Whereabouts,
    ) -> Result<Self, Errno> {
        let len = usize::try_from(payload_len).ok().and_then(|len| len.checked_add(HEADER_LEN));
        // A 32-bit process may be given more than half of its address space, which no slice can be.
        let len = len.filter(|len| isize::try_from(*len).is_ok()).ok_or(Errno::NOMEM)?;
        let heap_words = heap_words(len.saturating_sub(HEADER_LEN) / WORD);
        let mapping = Mapping::shared(fd, len, access)?;
        whereabouts.publish(&mapping, access);
        Ok(Self { mapping, whereabouts: Some(whereabouts), heap_words })
    }

    /// A segment that was copied into private memory; `None` if that is shorter than a header.
    #[cfg(feature = "alloc")]
    pub(crate) fn of_copy(mapping: Mapping) -> Option<Self> {
        let payload_len = mapping.len().checked_sub(HEADER_LEN)?;
        Some(Self { mapping, whereabouts: None, heap_words: heap_words(payload_len / WORD) })
    }

    #[inline]
    pub(crate) const fn header(&self) -> &SharedHeader {
        // SAFETY: by invariant 1 the mapping holds a header and is aligned for it; a `SharedHeader` is atomics
        // only, so any bytes are valid and others may change them; it lives as long as `self`.
        unsafe { self.mapping.base().cast().as_ref() }
    }

    /// The header as words.
    #[cfg(feature = "alloc")]
    pub(crate) fn header_words(&self) -> &[AtomicU64] {
        let words = self.mapping.base().cast::<AtomicU64>();
        // SAFETY: by invariant 1 the mapping holds a header and is aligned to a page; any bytes are valid atomics.
        unsafe { core::slice::from_raw_parts(words.as_ptr(), HEADER_LEN / WORD) }
    }

    /// The first byte of the payload, aligned to [`HEADER_LEN`].
    #[inline]
    pub(crate) const fn payload(&self) -> NonNull<u8> {
        // SAFETY: by invariant 1 the mapping is no shorter than a header.
        unsafe { self.mapping.base().add(HEADER_LEN) }
    }

    /// The payload as words, as many as are whole.
    #[inline]
    pub(crate) fn payload_words(&self) -> &[AtomicU64] {
        let words = self.payload().cast::<AtomicU64>();
        // SAFETY: by invariant 1 the payload is mapped for `payload_len` bytes, at most half of the address space, and is
        // aligned to a page; any bytes are valid atomics. Objects that somebody has a reference to may lie in
        // them: a reference to atomics claims nothing about the memory that it leads to.
        unsafe { core::slice::from_raw_parts(words.as_ptr(), self.payload_len() / WORD) }
    }

    /// The heap of an arena, in words.
    #[inline]
    pub(crate) fn heap_words(&self) -> &[AtomicU64] {
        self.payload_words().get(..self.heap_words).unwrap_or_default()
    }

    /// The export bitmap of an arena.
    pub(crate) fn export_words(&self) -> &[AtomicU64] {
        self.payload_words().get(self.heap_words..).unwrap_or_default()
    }

    /// The byte at `offset` of the payload, if `len` bytes from there are in it.
    #[inline]
    fn pointer(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        #[cfg(planted)]
        let end = if is_planted(Mistake::ObjectWithoutEnd) { offset as usize } else { end };
        if end > self.payload_len() {
            return None;
        }
        // SAFETY: `offset` is at most `end`, which is within the payload.
        Some(unsafe { self.payload().add(offset as usize) })
    }

    /// How far into the payload an address is, in bytes; more than the payload's length if it is not in it.
    #[inline]
    fn offset_of(&self, address: NonNull<u8>) -> u64 {
        address.addr().get().wrapping_sub(self.payload().addr().get()) as u64
    }

    /// Offset of the block of the object at `address`; `None` for the value of a segment, which has no block.
    #[inline]
    pub(crate) fn block_of(&self, address: NonNull<u8>) -> Option<u64> {
        self.offset_of(address).checked_sub(BLOCK_HEADER_LEN)
    }

    /// The object at `offset` of the heap, if it lies in it and is aligned.
    #[inline]
    pub(crate) fn object(&self, offset: u64, len: u64, align: usize) -> Result<NonNull<u8>, HeapError> {
        let is_aligned = |start: &NonNull<u8>| start.addr().get() & align.wrapping_sub(1) == 0;
        self.pointer(offset, len).filter(is_aligned).ok_or(HeapError::Damaged { at: offset })
    }

    /// Reads a word of the heap, also from a read-only mapping: there, only a relaxed load is sure to be a mere read.
    pub(crate) fn read_heap(&self, offset: u64) -> Result<u64, HeapError> {
        let word = usize::try_from(offset / 8).ok().and_then(|index| self.heap_words().get(index));
        let word = word.filter(|_| offset % 8 == 0).ok_or(HeapError::Damaged { at: offset })?;
        let value = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Ok(value)
    }

    /// Takes the memory for the heap of an arena from byte `from` to byte `to`, which nobody uses yet, and for its
    /// export bits; all or nothing.
    pub(crate) fn populate_heap(&self, from: u64, to: u64) -> Result<(), Errno> {
        let heap = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        let (from, to) = heap.ok_or(Errno::NOMEM)?;
        let heap = (HEADER_LEN.saturating_add(from), to.saturating_sub(from));
        let exports = HEADER_LEN.saturating_add(self.heap_words.saturating_mul(WORD));
        let (first, last) = (from / EXPORT_BYTES, to.div_ceil(EXPORT_BYTES));
        let bits = (exports.saturating_add(first), last.saturating_sub(first));
        let populate = || {
            self.mapping.populate(heap.0, heap.1)?;
            self.mapping.populate(bits.0, bits.1)
        };
        populate().inspect_err(|_| {
            // What was had of it is of no use. If it cannot be given back, it is used when the heap grows after all.
            for (offset, len) in [heap, bits] {
                let _: Result<(), Errno> = self.mapping.remove(offset, len);
            }
        })
    }

    /// The addresses where the segment is mapped.
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.mapping.addresses()
    }

    /// Children after `fork` do not get the segment.
    pub(crate) fn exclude_from_fork(&self) -> Result<(), Failure> {
        self.whereabouts.inspect(|whereabouts| whereabouts.exclude_from_fork());
        self.mapping.exclude_from_fork()
    }

    /// Length of the payload, in bytes.
    #[inline]
    pub(crate) const fn payload_len(&self) -> usize {
        // Does not saturate, by invariant 1.
        self.mapping.len().saturating_sub(HEADER_LEN)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // The mapping is unmapped after this.
        self.whereabouts.inspect(|whereabouts| whereabouts.unpublish());
    }
}
