//! The segment format
//!
//! A segment is a header page of 4096 bytes, whatever the machine's page size, and then the payload. All
//! fields are fixed-width, in the byte order of the machine, so that 32- and 64-bit processes share a segment.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic; its byte order is that of the segment |
//! | 8 | 8 | format: version (16 bits), table sizes (48 bits) |
//! | 16 | 8 | total length of the segment, in bytes |
//! | 24 | 8 | length of the payload, in bytes |
//! | 32 | 8 | [flags](Flags): sort and policies |
//! | 40 | 16 | random segment id |
//! | 56 | 8 | zero |
//! | 64 | 8 | [membership word](crate::membership) |
//! | 72 | 8 | [payload word](Payload) |
//! | 80 | 24 | counters: swept, adopted, failed unlinks |
//! | 512 | 56 × 64 | slots: [tenancy word](crate::tenancy), generation |
//!
//! All else is zero. The first 64 bytes never change once written, in one `write`, by the creator; from then
//! on the file is recognisable, and `Forming` until the membership word says otherwise. [`Header::parse`]
//! reads a copy of the bytes, so nothing can change under it; what it validated is kept in private memory,
//! and the fixed fields are never read from the segment again.

use crate::error::HeaderError;
use crate::membership::{MAX_ATTACHMENTS, Membership, OrphanPolicy, Phase, Slot, UnlinkPolicy};
use crate::tenancy::Tenancy;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use static_assertions::const_assert_eq;

/// Length of the header, in bytes; the payload begins here, and is aligned to it.
pub const HEADER_LEN: usize = 4096;

/// Length of the part that [`Header::encode`] gives: all but the tables, which begin as zeros.
pub(crate) const PREFIX_LEN: usize = 128;

/// `shmembd` and a byte that no text has, as a little-endian machine writes it.
const MAGIC: u64 = u64::from_le_bytes(*b"shmembd\x8a");

/// The version of the format that this crate reads and writes.
const VERSION: u16 = 1;

/// Sizes of the tables: number of slots, bytes a slot, offset of the slots.
const LAYOUT: u64 = (MAX_ATTACHMENTS as u64) << 16 | (SLOT_LEN as u64) << 24 | (SLOTS_OFFSET as u64) << 32;

const SLOT_LEN: usize = size_of::<SharedSlot>();
const SLOTS_OFFSET: usize = offset_of!(SharedHeader, slots);

/// Longest payload that a process can map, in bytes: a mapping must fit in half of the address space.
pub(crate) const MAX_PAYLOAD: u64 = (isize::MAX as u64) - (HEADER_LEN as u64) * 2;
/// The same for any process: what a 32-bit one cannot map is no damage.
const MAX_PAYLOAD_OF_ANY: u64 = (i64::MAX as u64) - (HEADER_LEN as u64) * 2;

bitflags::bitflags! {
    /// The sort of a segment and its creator's policies.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u64 {
        /// [`UnlinkPolicy::LastDetach`]; with neither of the two, [`UnlinkPolicy::OwnerDrop`].
        const LAST_DETACH = 1 << 0;
        /// [`UnlinkPolicy::Never`].
        const NEVER_UNLINK = 1 << 1;
        /// [`OrphanPolicy::Recreate`]; with neither of the two, [`OrphanPolicy::Adopt`].
        const RECREATE_ORPHAN = 1 << 2;
        /// [`OrphanPolicy::Refuse`].
        const REFUSE_ORPHAN = 1 << 3;
        /// Without a name.
        const MEMFD = 1 << 4;
    }
}

/// A number that tells a segment from every other one, also from a later one of the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId([u64; 2]);

impl SegmentId {
    pub(crate) const NIL: Self = Self([0; 2]);

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        Self([(number >> 64) as u64, number as u64])
    }

    /// The number as bytes, in the order in which they are displayed.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        let Self([high, low]) = self;
        ((high as u128) << 64 | low as u128).to_be_bytes()
    }
}

impl core::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self([high, low]) = self;
        write!(f, "{high:016x}{low:016x}")
    }
}

impl core::fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SegmentId({self})")
    }
}

/// What the payload of a segment is, in one word that changes once, from zero.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..=2 | kind | 0 nothing yet; 1 one value |
/// | 3..=7 | alignment | of the value: its binary logarithm |
/// | 8..=63 | size | of the value, in bytes |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload {
    /// Nobody has said what it is.
    Unset,
    /// One value, made by [`boxed`](crate::ShmemConf::boxed).
    Value {
        /// Its size, in bytes.
        size: u64,
        /// Its alignment, in bytes: a power of two, up to 4096.
        align: u64,
    },
}

impl Payload {
    const ALIGN_SHIFT: u32 = 3;
    const SIZE_SHIFT: u32 = 8;

    /// Of a type's size and alignment, which are those of a type that fits in a payload.
    pub(crate) const fn value_of<T>() -> Self {
        Self::Value { size: size_of::<T>() as u64, align: align_of::<T>() as u64 }
    }

    pub(crate) const fn to_bits(self) -> u64 {
        match self {
            Self::Unset => 0,
            Self::Value { size, align } => {
                1 | (align.trailing_zeros() as u64) << Self::ALIGN_SHIFT | size << Self::SIZE_SHIFT
            }
        }
    }

    pub(crate) const fn from_bits(bits: u64) -> Result<Self, HeaderError> {
        let (kind, log, size) = (bits & 7, bits >> Self::ALIGN_SHIFT & 31, bits >> Self::SIZE_SHIFT);
        match kind {
            0 if bits == 0 => Ok(Self::Unset),
            1 if log <= HEADER_LEN.trailing_zeros() as u64 => Ok(Self::Value { size, align: 1 << log }),
            _ => Err(HeaderError::Payload { found: bits }),
        }
    }
}

/// A segment's header, read and checked.
///
/// This is what an inspector sees: a copy of one moment. [`parse`](Self::parse) makes no system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    payload_len: u64,
    flags: Flags,
    id: SegmentId,
    membership: Membership,
    payload: Payload,
}

impl Header {
    pub(crate) fn new(
        payload_len: u64,
        id: SegmentId,
        unlink: UnlinkPolicy,
        orphan: OrphanPolicy,
        memfd: bool,
    ) -> Self {
        let unlink = match unlink {
            UnlinkPolicy::OwnerDrop => Flags::empty(),
            UnlinkPolicy::LastDetach => Flags::LAST_DETACH,
            UnlinkPolicy::Never => Flags::NEVER_UNLINK,
        };
        let orphan = match orphan {
            OrphanPolicy::Adopt => Flags::empty(),
            OrphanPolicy::Recreate => Flags::RECREATE_ORPHAN,
            OrphanPolicy::Refuse => Flags::REFUSE_ORPHAN,
        };
        let sort = if memfd { Flags::MEMFD } else { Flags::empty() };
        Self {
            payload_len,
            flags: unlink | orphan | sort,
            id,
            membership: Membership::from_bits(0),
            payload: Payload::Unset,
        }
    }

    /// Reads a header from the first bytes of a segment; 128 suffice.
    ///
    /// # Errors
    /// [`HeaderError`] says which part is not as it must be. Anything is refused that this version of the
    /// crate would not have written.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Header, HeaderError};
    ///
    /// let error = Header::parse(b"#!/bin/sh\nexit 0\n").unwrap_err();
    /// assert!(matches!(error, HeaderError::Magic { .. }));
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let word = |offset: usize| {
            let word = bytes.get(offset..).and_then(|rest| rest.first_chunk());
            word.map(|word| u64::from_ne_bytes(*word))
                .ok_or(HeaderError::Truncated { len: bytes.len() as u64, needed: PREFIX_LEN as u64 })
        };
        // A file of less than eight bytes may be anything, but only the beginning of the magic number makes it a
        // segment cut short.
        if !MAGIC.to_ne_bytes().starts_with(bytes) && bytes.len() < size_of::<u64>() {
            let mut found = [0; 8];
            found.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            return Err(HeaderError::Magic { found: u64::from_ne_bytes(found) });
        }
        let magic = word(offset_of!(SharedHeader, magic))?;
        if magic == MAGIC.swap_bytes() {
            return Err(HeaderError::Endianness);
        }
        if magic != MAGIC {
            return Err(HeaderError::Magic { found: magic });
        }
        let format = word(offset_of!(SharedHeader, format))?;
        let version = format as u16;
        if version != VERSION {
            return Err(HeaderError::Version { found: version, supported: VERSION });
        }
        if format ^ u64::from(version) != LAYOUT {
            return Err(HeaderError::Layout { found: format ^ u64::from(version) });
        }
        let total = word(offset_of!(SharedHeader, total_len))?;
        let payload_len = word(offset_of!(SharedHeader, payload_len))?;
        if payload_len == 0
            || payload_len > MAX_PAYLOAD_OF_ANY
            || payload_len.checked_add(HEADER_LEN as u64) != Some(total)
        {
            return Err(HeaderError::Length { total, payload: payload_len });
        }
        let found = word(offset_of!(SharedHeader, flags))?;
        let contradiction = |flags: &Flags| {
            flags.contains(Flags::LAST_DETACH | Flags::NEVER_UNLINK)
                || flags.contains(Flags::RECREATE_ORPHAN | Flags::REFUSE_ORPHAN)
        };
        let flags = Flags::from_bits(found)
            .filter(|flags| !contradiction(flags))
            .ok_or(HeaderError::Flags { found })?;
        let id =
            SegmentId([word(offset_of!(SharedHeader, id_high))?, word(offset_of!(SharedHeader, id_low))?]);
        let reserved = word(offset_of!(SharedHeader, reserved))?;
        if reserved != 0 {
            return Err(HeaderError::Reserved { found: reserved });
        }
        let membership = Membership::from_bits(word(offset_of!(SharedHeader, membership))?);
        if membership.phase().is_err() {
            return Err(HeaderError::Membership { found: membership.bits() });
        }
        let payload = Payload::from_bits(word(offset_of!(SharedHeader, payload))?)?;
        if let Payload::Value { size, .. } = payload {
            if size > payload_len {
                return Err(HeaderError::Payload { found: payload.to_bits() });
            }
        }
        // What is not read here must still be there.
        if bytes.len() < PREFIX_LEN {
            return Err(HeaderError::Truncated { len: bytes.len() as u64, needed: PREFIX_LEN as u64 });
        }
        Ok(Self { payload_len, flags, id, membership, payload })
    }

    /// The first bytes of a segment with this header, counters and tables left out.
    ///
    /// [`parse`](Self::parse) of them gives the same header.
    #[must_use]
    pub fn encode(&self) -> [u8; PREFIX_LEN] {
        let mut bytes = [0; PREFIX_LEN];
        let SegmentId([high, low]) = self.id;
        for (offset, word) in [
            (offset_of!(SharedHeader, magic), MAGIC),
            (offset_of!(SharedHeader, format), u64::from(VERSION) | LAYOUT),
            (offset_of!(SharedHeader, total_len), self.total_len()),
            (offset_of!(SharedHeader, payload_len), self.payload_len),
            (offset_of!(SharedHeader, flags), self.flags.bits()),
            (offset_of!(SharedHeader, id_high), high),
            (offset_of!(SharedHeader, id_low), low),
            (offset_of!(SharedHeader, membership), self.membership.bits()),
            (offset_of!(SharedHeader, payload), self.payload.to_bits()),
        ] {
            if let Some(place) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
                *place = word.to_ne_bytes();
            }
        }
        bytes
    }

    /// Length of the payload, in bytes.
    #[must_use]
    pub const fn payload_len(&self) -> u64 {
        self.payload_len
    }

    /// Length of the whole segment, in bytes.
    #[must_use]
    pub const fn total_len(&self) -> u64 {
        // Does not saturate: `payload_len` is at most `MAX_PAYLOAD_OF_ANY`.
        self.payload_len.saturating_add(HEADER_LEN as u64)
    }

    /// The segment's random number.
    #[must_use]
    pub const fn segment_id(&self) -> SegmentId {
        self.id
    }

    /// When the name of the segment goes away.
    #[must_use]
    pub const fn unlink_policy(&self) -> UnlinkPolicy {
        if self.flags.contains(Flags::LAST_DETACH) {
            UnlinkPolicy::LastDetach
        } else if self.flags.contains(Flags::NEVER_UNLINK) {
            UnlinkPolicy::Never
        } else {
            UnlinkPolicy::OwnerDrop
        }
    }

    /// What the next opener does when the owner has died.
    #[must_use]
    pub const fn orphan_policy(&self) -> OrphanPolicy {
        if self.flags.contains(Flags::RECREATE_ORPHAN) {
            OrphanPolicy::Recreate
        } else if self.flags.contains(Flags::REFUSE_ORPHAN) {
            OrphanPolicy::Refuse
        } else {
            OrphanPolicy::Adopt
        }
    }

    /// Whether the segment is a memfd, without a name.
    #[must_use]
    pub const fn is_memfd(&self) -> bool {
        self.flags.contains(Flags::MEMFD)
    }

    /// How many handles were attached, those of the dead whom nobody has noticed yet included.
    #[must_use]
    pub const fn attachments(&self) -> u32 {
        self.membership.count()
    }

    /// Whether the segment was complete and still had its name.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.membership.phase(), Ok(Phase::Live))
    }

    /// What the payload was.
    #[must_use]
    pub const fn payload(&self) -> Payload {
        self.payload
    }

    /// Where the segment stood; `parse` has refused words without a phase.
    pub(crate) const fn phase(&self) -> Option<Phase> {
        match self.membership.phase() {
            Ok(phase) => Some(phase),
            Err(_) => None,
        }
    }

    /// Checks that a file of `len` bytes holds the whole segment.
    pub(crate) const fn check_len(&self, len: u64) -> Result<(), HeaderError> {
        if len < self.total_len() {
            return Err(HeaderError::Truncated { len, needed: self.total_len() });
        }
        Ok(())
    }
}

/// The header as it lies in the segment. Any process may change any of it at any time.
#[repr(C, align(64))]
pub(crate) struct SharedHeader {
    magic: AtomicU64,
    format: AtomicU64,
    total_len: AtomicU64,
    payload_len: AtomicU64,
    flags: AtomicU64,
    id_high: AtomicU64,
    id_low: AtomicU64,
    reserved: AtomicU64,
    membership: AtomicU64,
    payload: AtomicU64,
    swept: AtomicU64,
    adopted: AtomicU64,
    unlink_failures: AtomicU64,
    unused: [AtomicU64; 51],
    slots: [SharedSlot; MAX_ATTACHMENTS as usize],
}

/// One attachment: who has it, and how often the slot has been let.
#[repr(C, align(64))]
struct SharedSlot {
    tenancy: AtomicU64,
    generation: AtomicU64,
}

const_assert_eq!(size_of::<SharedHeader>(), HEADER_LEN);
const_assert_eq!(size_of::<SharedSlot>(), 64);
const_assert_eq!(offset_of!(SharedHeader, membership), 64);
const_assert_eq!(offset_of!(SharedHeader, slots), 512);

/// What has happened to a segment, for the log of a daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Attachments of processes that died, given back.
    pub swept: u64,
    /// How often a new owner took the place of one that died.
    pub adopted: u64,
    /// How often the name could not be removed for want of permission.
    pub unlink_failures: u64,
}

/// What the header counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    Swept,
    Adopted,
    UnlinkFailures,
}

impl SharedHeader {
    // SYNC: all words that decide something are loaded with Acquire and changed with AcqRel, here and nowhere
    // else: what a process did before it attached, left or swept is seen by whoever sees that it did.

    pub(crate) fn membership(&self) -> Membership {
        Membership::from_bits(load(&self.membership))
    }

    /// Puts `new` in the place of exactly `old`.
    pub(crate) fn replace_membership(&self, old: Membership, new: Membership) -> bool {
        replace(&self.membership, old.bits(), new.bits())
    }

    pub(crate) fn tenancy(&self, slot: Slot) -> Tenancy {
        self.slot(slot).map_or(Tenancy::FREE, |slot| Tenancy::from_bits(load(&slot.tenancy)))
    }

    /// Puts `new` in the place of exactly `old`.
    pub(crate) fn replace_tenancy(&self, slot: Slot, old: Tenancy, new: Tenancy) -> bool {
        self.slot(slot).is_some_and(|slot| replace(&slot.tenancy, old.bits(), new.bits()))
    }

    pub(crate) fn generation(&self, slot: Slot) -> u64 {
        self.slot(slot).map_or(0, |slot| load(&slot.generation))
    }

    /// Counts one more tenant of this slot, the caller, and gives the new count.
    pub(crate) fn next_generation(&self, slot: Slot) -> u64 {
        self.slot(slot).map_or(0, |slot| slot.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1))
    }

    pub(crate) fn payload(&self) -> Result<Payload, HeaderError> {
        Payload::from_bits(load(&self.payload))
    }

    /// Says what the payload is, unless that has been said.
    pub(crate) fn set_payload(&self, payload: Payload) -> bool {
        replace(&self.payload, Payload::Unset.to_bits(), payload.to_bits())
    }

    pub(crate) fn count(&self, counter: Counter) {
        let counter = match counter {
            Counter::Swept => &self.swept,
            Counter::Adopted => &self.adopted,
            Counter::UnlinkFailures => &self.unlink_failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            swept: self.swept.load(Ordering::Relaxed),
            adopted: self.adopted.load(Ordering::Relaxed),
            unlink_failures: self.unlink_failures.load(Ordering::Relaxed),
        }
    }

    fn slot(&self, slot: Slot) -> Option<&SharedSlot> {
        self.slots.get(slot.index())
    }
}

/// An acquiring load, also from a read-only mapping: there, only a relaxed load is sure to be a mere read (and
/// one of 64 bits only on 64-bit machines; on 32-bit x86 it is one in practice).
fn load(word: &AtomicU64) -> u64 {
    let bits = word.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    bits
}

fn replace(word: &AtomicU64, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    const LIVE_OWNED_BY_0: u64 = 1 << 62 | 1;

    fn sample() -> Header {
        let id = SegmentId::from_bytes([7; 16]);
        Header::new(100, id, UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt, false)
    }

    /// The encoding of a live segment, with one word replaced.
    fn parse_with(offset: usize, word: u64) -> Result<Header, HeaderError> {
        let mut bytes = sample().encode();
        bytes[64..72].copy_from_slice(&LIVE_OWNED_BY_0.to_ne_bytes());
        bytes[offset..][..8].copy_from_slice(&word.to_ne_bytes());
        Header::parse(&bytes)
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        for unlink in [UnlinkPolicy::OwnerDrop, UnlinkPolicy::LastDetach, UnlinkPolicy::Never] {
            for orphan in [OrphanPolicy::Adopt, OrphanPolicy::Recreate, OrphanPolicy::Refuse] {
                for (memfd, len) in [(false, 1), (true, MAX_PAYLOAD)] {
                    let header = Header::new(len, SegmentId::from_bytes([9; 16]), unlink, orphan, memfd);
                    let parsed = Header::parse(&header.encode()).unwrap();
                    assert_eq!(parsed, header);
                    assert_eq!((parsed.unlink_policy(), parsed.orphan_policy()), (unlink, orphan));
                    assert_eq!((parsed.is_memfd(), parsed.payload_len()), (memfd, len));
                    assert_eq!(parsed.phase(), Some(Phase::Forming));
                }
            }
        }
    }

    #[test]
    fn each_field_is_checked() {
        let live = parse_with(72, 0).unwrap();
        assert!(live.is_live());
        assert_eq!(live.attachments(), 1);
        let version_2 = u64::from(VERSION + 1) | LAYOUT;
        let other_layout = LAYOUT ^ 1 << 16;
        for (offset, word, error) in [
            (0, 0, HeaderError::Magic { found: 0 }),
            (0, MAGIC.swap_bytes(), HeaderError::Endianness),
            (8, version_2, HeaderError::Version { found: 2, supported: 1 }),
            (8, other_layout | 1, HeaderError::Layout { found: other_layout }),
            (16, 4197, HeaderError::Length { total: 4197, payload: 100 }),
            (24, 0, HeaderError::Length { total: 4196, payload: 0 }),
            (24, !0, HeaderError::Length { total: 4196, payload: !0 }),
            (32, 1 << 5, HeaderError::Flags { found: 1 << 5 }),
            (32, 0b11, HeaderError::Flags { found: 0b11 }),
            (32, 0b1100, HeaderError::Flags { found: 0b1100 }),
            (56, 1, HeaderError::Reserved { found: 1 }),
            (64, !0, HeaderError::Membership { found: !0 }),
            (64, 1 << 62, HeaderError::Membership { found: 1 << 62 }),
            (72, 7, HeaderError::Payload { found: 7 }),
            (72, 1 | 13 << 3, HeaderError::Payload { found: 1 | 13 << 3 }),
            (72, 1 | 101 << 8, HeaderError::Payload { found: 1 | 101 << 8 }),
        ] {
            assert_eq!(parse_with(offset, word), Err(error), "word {word:#x} at {offset}");
        }
    }

    #[test]
    fn a_header_cut_short_says_how_much_is_missing() {
        let bytes = sample().encode();
        assert_eq!(
            Header::parse(b"text"),
            Err(HeaderError::Magic { found: u64::from_ne_bytes(*b"text\0\0\0\0") })
        );
        for len in 0..PREFIX_LEN {
            let truncated = HeaderError::Truncated { len: len as u64, needed: PREFIX_LEN as u64 };
            assert_eq!(Header::parse(&bytes[..len]), Err(truncated));
        }
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.check_len(4196), Ok(()));
        assert_eq!(header.check_len(4195), Err(HeaderError::Truncated { len: 4195, needed: 4196 }));
    }

    #[test]
    fn payload_words_round_trip() {
        for payload in [Payload::Unset, Payload::value_of::<()>(), Payload::value_of::<[u64; 99]>()] {
            assert_eq!(Payload::from_bits(payload.to_bits()), Ok(payload));
        }
    }
}
