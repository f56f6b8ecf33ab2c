//! The mapped segment
//!
//! A [`Region`] is a segment in memory: the one place where its bytes become a reference to the header or a
//! pointer to the payload. Its length is the one validated at attaching and never changes.
//!
//! # Safety
//! Makes a reference to memory that other processes change at will, which is sound because that type
//! consists of atomics alone.
#![allow(unsafe_code)]

use crate::header::{HEADER_LEN, SharedHeader};
use crate::sys::shm::{Access, Mapping};
use core::ptr::NonNull;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// A whole segment, mapped.
#[derive(Debug)]
pub(crate) struct Region {
    /// INVARIANT 1: mapped from the start of a segment's file, so aligned to a page, which is no less than
    /// 4096 bytes; longer than a header.
    mapping: Mapping,
}

// SAFETY: a region is an address range of the process, not of a thread; all shared access through it is to
// atomics, and whoever makes more of the payload pointer answers for it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `payload_len` bytes of payload and the header before it.
    pub(crate) fn map(fd: &OwnedFd, payload_len: u64, access: Access) -> Result<Self, Errno> {
        let len = usize::try_from(payload_len).ok().and_then(|len| len.checked_add(HEADER_LEN));
        let mapping = Mapping::shared(fd, len.ok_or(Errno::NOMEM)?, access)?;
        Ok(Self { mapping })
    }

    pub(crate) const fn header(&self) -> &SharedHeader {
        // SAFETY: by invariant 1 the mapping holds a header and is aligned for it; a `SharedHeader` is atomics
        // only, so any bytes are valid and others may change them; it lives as long as `self`.
        unsafe { self.mapping.base().cast().as_ref() }
    }

    /// The first byte of the payload, aligned to [`HEADER_LEN`].
    pub(crate) const fn payload(&self) -> NonNull<u8> {
        // SAFETY: by invariant 1 the mapping is longer than a header.
        unsafe { self.mapping.base().add(HEADER_LEN) }
    }

    /// Length of the payload, in bytes.
    pub(crate) const fn payload_len(&self) -> usize {
        // Does not saturate, by invariant 1.
        self.mapping.len().saturating_sub(HEADER_LEN)
    }
}
