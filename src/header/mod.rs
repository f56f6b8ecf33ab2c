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
//! | 56 | 8 | length that the payload starts with, in bytes; 0: all of it |
//! | 64 | 8 | [membership word](crate::membership) |
//! | 72 | 8 | [payload word](Payload) |
//! | 80 | 24 | counters: swept, adopted, failed unlinks |
//! | 128 | 64 | of an arena: its heap's lock and length |
//! | 192 | 64 | of an arena: its directory |
//! | 256 | 64 | of an arena: its counters |
//! | 512 | 56 × 64 | slots: [tenancy word](crate::tenancy), generation |
//!
//! All else is zero. The first 64 bytes never change once written, in one `write`, by the creator; from then
//! on the file is recognisable, and `Forming` until the membership word says otherwise. [`Header::parse`]
//! reads a copy of the bytes, so nothing can change under it; what it validated is kept in private memory,
//! and the fixed fields are never read from the segment again.

mod payload;
mod shared;

pub use payload::{Payload, SegmentId};
pub use shared::Statistics;
pub(crate) use shared::{Counter, DirectoryWords, SharedHeader};

use crate::error::HeaderError;
use crate::membership::{MAX_ATTACHMENTS, Membership, OrphanPolicy, Phase, UnlinkPolicy};
use core::mem::offset_of;
use shared::SharedSlot;

/// Length of the header, in bytes; the payload begins here, and is aligned to it.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, HEADER_LEN};
///
/// # let name = &format!("shmem-bind-doc-{}-header-len", std::process::id());
/// let _segment = Builder::new(name).with_size(64).open()?;
/// let file = std::fs::metadata(format!("/dev/shm/{name}")).unwrap();
/// assert_eq!(file.len(), HEADER_LEN as u64 + 64);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
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
        /// Memory is taken when it is first written.
        const LAZY = 1 << 5;
    }
}

/// A segment's header, read and checked.
///
/// This is what an inspector sees: a copy of one moment. [`parse`](Self::parse) makes no system call.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Header, HeaderError, OrphanPolicy, Payload, UnlinkPolicy};
///
/// # let name = &format!("shmem-bind-doc-{}-header", std::process::id());
/// let segment = Builder::new(name).with_size(64).open()?;
/// // What a tool sees that attaches to nothing:
/// let file = std::fs::read(format!("/dev/shm/{name}")).unwrap();
/// let header = Header::parse(&file)?;
/// header.check_len(file.len() as u64)?;
/// assert_eq!(header.segment_id(), segment.segment_id());
/// assert_eq!((header.payload_len(), header.initial_len(), header.total_len()), (64, 64, 4160));
/// assert_eq!((header.attachments(), header.is_live(), header.is_memfd()), (1, true, false));
/// assert_eq!(header.unlink_policy(), UnlinkPolicy::OwnerDrop);
/// assert_eq!(header.orphan_policy(), OrphanPolicy::Adopt);
/// assert_eq!(header.payload(), Payload::Unset);
/// assert_eq!(Header::parse(&header.encode())?, header);
/// assert_eq!(header.check_len(100), Err(HeaderError::Truncated { len: 100, needed: 4160 }));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    payload_len: u64,
    initial_len: u64,
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
            initial_len: payload_len,
            flags: unlink | orphan | sort,
            id,
            membership: Membership::from_bits(0),
            payload: Payload::Unset,
        }
    }

    /// The same of a payload that starts with `initial_len` bytes and may grow, and whose memory is taken when it
    /// is first written, if `is_lazy`.
    pub(crate) fn growing_from(mut self, initial_len: u64, is_lazy: bool) -> Self {
        self.initial_len = initial_len.min(self.payload_len);
        self.flags.set(Flags::LAZY, is_lazy);
        self
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
        let initial_len = match word(offset_of!(SharedHeader, initial_len))? {
            0 => payload_len,
            initial if initial < payload_len => initial,
            initial => return Err(HeaderError::InitialLength { initial, payload: payload_len }),
        };
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
        Ok(Self { payload_len, initial_len, flags, id, membership, payload })
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
            (
                offset_of!(SharedHeader, initial_len),
                if self.initial_len == self.payload_len { 0 } else { self.initial_len },
            ),
            (offset_of!(SharedHeader, membership), self.membership.bits()),
            (offset_of!(SharedHeader, payload), self.payload.to_bits()),
        ] {
            if let Some(place) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
                *place = word.to_ne_bytes();
            }
        }
        bytes
    }

    /// Length of the payload, in bytes; of one that grows, the most that it may come to.
    #[must_use]
    pub const fn payload_len(&self) -> u64 {
        self.payload_len
    }

    /// Length that the payload was created with, in bytes. An arena that grows starts with this.
    #[must_use]
    pub const fn initial_len(&self) -> u64 {
        self.initial_len
    }

    /// Whether memory is taken when it is first written, and not before.
    pub(crate) const fn is_lazy(&self) -> bool {
        self.flags.contains(Flags::LAZY)
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
    ///
    /// # Errors
    /// [`HeaderError::Truncated`]: it is shorter.
    pub const fn check_len(&self, len: u64) -> Result<(), HeaderError> {
        if len < self.total_len() {
            return Err(HeaderError::Truncated { len, needed: self.total_len() });
        }
        Ok(())
    }
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
                    let header = Header::new(len, SegmentId::from_bytes([9; 16]), unlink, orphan, memfd)
                        .growing_from(len / 2 + 1, memfd);
                    let parsed = Header::parse(&header.encode()).unwrap();
                    assert_eq!(parsed, header);
                    assert_eq!((parsed.unlink_policy(), parsed.orphan_policy()), (unlink, orphan));
                    assert_eq!((parsed.is_memfd(), parsed.payload_len()), (memfd, len));
                    assert_eq!((parsed.is_lazy(), parsed.initial_len()), (memfd, len / 2 + 1));
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
            (32, 1 << 6, HeaderError::Flags { found: 1 << 6 }),
            (32, 0b11, HeaderError::Flags { found: 0b11 }),
            (32, 0b1100, HeaderError::Flags { found: 0b1100 }),
            (56, 100, HeaderError::InitialLength { initial: 100, payload: 100 }),
            (56, !0, HeaderError::InitialLength { initial: !0, payload: 100 }),
            (64, !0, HeaderError::Membership { found: !0 }),
            (64, 1 << 62, HeaderError::Membership { found: 1 << 62 }),
            (72, 7, HeaderError::Payload { found: 7 }),
            (72, 2 | 1 << 3, HeaderError::Payload { found: 2 | 1 << 3 }),
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
        let allocator = crate::allocator_id::AllocatorId::new("x", 1);
        for payload in [
            Payload::Unset,
            Payload::value_of::<()>(),
            Payload::value_of::<[u64; 99]>(),
            Payload::Arena { allocator, is_formed: false },
            Payload::Arena { allocator, is_formed: true },
        ] {
            assert_eq!(Payload::from_bits(payload.to_bits()), Ok(payload));
        }
    }
}
