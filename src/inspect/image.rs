//! A copy of a segment in private memory
//!
//! What is checked must not change meanwhile, so it is a copy that is read. Holes of the file are holes in the copy, for
//! a segment may be far longer than it has memory.
//!
//! # Safety
//! Writes to private mappings of its own.
#![allow(unsafe_code)]

use super::parts::Parts;
use super::verdict::Unchecked;
use crate::error::{HeaderError, ShmemError};
use crate::header::{HEADER_LEN, Header, PREFIX_LEN};
use crate::region::Region;
use crate::sys::shm::{self, Mapping, Status};
use core::sync::atomic::Ordering;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// What was copied of a segment.
#[derive(Debug)]
pub(super) struct Image {
    /// What the copied header says.
    pub(super) header: Result<Header, HeaderError>,
    /// The whole segment, or its header alone; `None` if not even that is there.
    pub(super) region: Option<Region>,
    /// What of the region is no hole.
    pub(super) parts: Parts,
    /// Why the payload is not in the region.
    pub(super) missing: Option<Unchecked>,
    /// Length of the file, in bytes.
    pub(super) file_len: u64,
}

impl Image {
    /// Copies a file, at most `limit` bytes of it besides the header.
    pub(super) fn of_file(fd: &OwnedFd, status: &Status, limit: u64) -> Result<Self, ShmemError> {
        let mut prefix = [0; PREFIX_LEN];
        let prefix = shm::read_start(fd, &mut prefix).map_err(os("pread"))?;
        let file_len = status.len;
        let mut missing = None;
        if let Ok(header) = Header::parse(prefix) {
            let len = header.total_len();
            if header.check_len(file_len).is_ok() {
                match copy_data(fd, len, limit.saturating_add(HEADER_LEN as u64))? {
                    Ok(copied) => return Ok(Self::whole(copied, len, file_len)),
                    Err(reason) => missing = Some(reason),
                }
            }
        }
        if file_len < HEADER_LEN as u64 {
            let (region, parts) = (None, Parts::default());
            return Ok(Self { header: Header::parse(prefix), region, parts, missing, file_len });
        }
        let (region, parts) = match copy_data(fd, HEADER_LEN as u64, HEADER_LEN as u64)? {
            Ok((mapping, parts)) => (Region::of_copy(mapping), parts),
            Err(reason) => {
                missing = Some(reason);
                (None, Parts::default())
            }
        };
        Ok(Self { header: Header::parse(prefix), ..Self::new(region, parts, missing, file_len) })
    }

    /// Copies the bytes of a segment.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let file_len = bytes.len() as u64;
        let header = Header::parse(bytes);
        let is_whole = |header: &Header| header.check_len(file_len).is_ok();
        let (len, mut missing) = match header {
            Ok(header) if is_whole(&header) => (header.total_len(), None),
            _ => (HEADER_LEN as u64, None),
        };
        let source = usize::try_from(len).ok().and_then(|len| bytes.get(..len));
        let mut region = source.and_then(|source| match Mapping::private_scattered(source.len()) {
            Ok(mut mapping) => {
                // SAFETY: it is private.
                unsafe { mapping.bytes_mut() }.copy_from_slice(source);
                Region::of_copy(mapping)
            }
            Err(_) => {
                missing = Some(Unchecked::NoMemory);
                None
            }
        });
        let mut parts = Parts::default();
        if parts.push(0..len).is_err() {
            (region, missing) = (None, Some(Unchecked::NoMemory));
        }
        Self { header, region, parts, missing, file_len }
    }

    /// Of all that a header tells of which was read before.
    fn whole((mapping, parts): (Mapping, Parts), len: u64, file_len: u64) -> Self {
        let mut image = Self::new(Region::of_copy(mapping), parts, None, file_len);
        if let Ok(other) = image.header {
            if other.total_len() != len {
                // It has been replaced meanwhile, which is no header's way.
                image.header = Err(HeaderError::Length { total: len, payload: other.payload_len() });
            }
        }
        image
    }

    fn new(region: Option<Region>, parts: Parts, missing: Option<Unchecked>, file_len: u64) -> Self {
        let needed = PREFIX_LEN as u64;
        let none = Err(HeaderError::Truncated { len: 0, needed });
        let header = region.as_ref().map_or(none, |region| {
            let mut prefix = [0; PREFIX_LEN];
            for (to, word) in prefix.chunks_exact_mut(8).zip(region.header_words()) {
                to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            Header::parse(&prefix)
        });
        Self { header, region, parts, missing, file_len }
    }

    /// Whether the region has the payload that the header tells of.
    pub(super) fn is_whole(&self) -> bool {
        match (&self.region, &self.header) {
            (Some(region), Ok(header)) => region.payload_len() as u64 == header.payload_len(),
            _ => false,
        }
    }
}

/// The first `len` bytes of a file in private memory, unless more than `limit` of them are in no hole.
fn copy_data(fd: &OwnedFd, len: u64, limit: u64) -> Result<Result<(Mapping, Parts), Unchecked>, ShmemError> {
    let Some(len_here) = usize::try_from(len).ok().filter(|len| isize::try_from(*len).is_ok()) else {
        return Ok(Err(Unchecked::NoMemory));
    };
    let Ok(mut mapping) = Mapping::private_scattered(len_here) else {
        return Ok(Err(Unchecked::NoMemory));
    };
    let (mut from, mut copied) = (0, 0_u64);
    let mut parts = Parts::default();
    while let Some(data) = shm::next_data(fd, from, len) {
        copied = copied.saturating_add(data.end.saturating_sub(data.start));
        if copied > limit {
            return Ok(Err(Unchecked::TooLarge { limit: limit.saturating_sub(HEADER_LEN as u64) }));
        }
        from = data.end;
        if parts.push(data.clone()).is_err() {
            return Ok(Err(Unchecked::NoMemory));
        }
        // SAFETY: it is private.
        unsafe { mapping.copy_from(fd, data) }.map_err(os("pread"))?;
    }
    Ok(Ok((mapping, parts)))
}

fn os(call: &'static str) -> impl Fn(Errno) -> ShmemError {
    move |errno| ShmemError::Os { call, errno }
}
