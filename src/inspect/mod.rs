//! Looking into a segment without taking part in it
//!
//! For tools that tell an administrator what is going on: `examples/inspect` is one. A [`Snapshot`] is what a segment was at
//! one moment: who is attached and lives, what is in the arena and whose it is, and whether all of that is sound. It
//! only reads: it takes no slot and no lock, and no word of the segment is written, whoever looks, and
//! whatever state the segment is in: live, being created, unlinked, damaged, cut short, or something else altogether.
//!
//! # How a moment is had
//! The segment is copied, a page at a time, while others work; so a copy may have one half of a change and not the other. If the
//! checks find nothing against a copy, it is good. If they do, it is copied anew, and only what is the same in a dozen copies in a
//! row, with all that was read on the way there, is called damage. What is another thing each time is
//! called [changing](Verdict::Changing), and the snapshot is then one that does not hold together in all parts.
//!
//! # What it costs
//! Memory for what the segment has memory for, up to a [limit](DEFAULT_LIMIT); holes of a sparse segment cost nothing. Time in
//! proportion to that, and a dozen times as much if something is wrong; sixty times at most, if that changes again and
//! again. What its words say of lengths is believed only as far as there is memory for it. Of a larger one, the header and
//! the attachments are read. (The copy is gone when there is a snapshot; that has 32 bytes for each block, and some for each
//! name.)

mod verdict;
mod block;
mod tenant;
mod parts;
mod image;
mod arena;

pub use arena::{ArenaInfo, LockState};
pub use block::{BlockInfo, BlockKind, Named};
pub use tenant::{Life, Tenant};
pub use verdict::{Damage, Part, Unchecked, Verdict};

use crate::arena::Reclaimed;
use crate::error::{FileKind, HeaderError, ShmemError};
use crate::header::{Header, Payload, Statistics};
use crate::membership::Phase;
use crate::name::Name;
use crate::object::BLOCK_HEADER_LEN;
use crate::region::Region;
use crate::sys::clock;
use crate::sys::shm::{self, Access, Status};
use crate::tenancy::Tenancy;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use image::Image;
use parts::Parts;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Most bytes of a segment that [`Snapshot::take`] copies: 1 GiB. Holes do not count.
///
/// # Examples
/// ```
/// use shmem_bind::Builder;
/// use shmem_bind::inspect::{DEFAULT_LIMIT, Snapshot, Verdict};
///
/// # let name = &format!("shmem-bind-doc-{}-default-limit", std::process::id());
/// let _segment = Builder::new(name).with_size(64 * 1024).create()?;
/// // On a machine with little memory:
/// let snapshot = Snapshot::take_up_to(name, DEFAULT_LIMIT / 16)?;
/// assert_eq!(snapshot.verdict(), Verdict::Sound);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub const DEFAULT_LIMIT: u64 = 1 << 30;

/// Copies in a row that must agree on what is wrong.
///
/// What is torn in a copy is so by chance. A process that does the same two things for ever gives four sorts of copies, half of which
/// are sound; that twelve in a row are torn in the same way happens once in ten million times.
const STILL: u32 = 12;
/// Most copies.
const MOST: u32 = 60;
/// After this time one that changes is given up, unless the last copies agree.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a segment was at one moment.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{Snapshot, Verdict};
/// use shmem_bind::{Builder, Phase};
///
/// # let name = &format!("shmem-bind-doc-{}-snapshot-type", std::process::id());
/// let segment = Builder::new(name).mode(0o640).with_size(100).create()?;
/// let snapshot = Snapshot::take(name)?;
/// assert_eq!((snapshot.verdict(), snapshot.phase()), (Verdict::Sound, Some(Phase::Live)));
/// assert_eq!((snapshot.file_len(), snapshot.mode(), snapshot.is_named()), (4196, Some(0o640), Some(true)));
/// assert_eq!(snapshot.header()?.segment_id(), segment.segment_id());
/// assert_eq!(*snapshot.statistics(), segment.statistics());
/// // It has an owner, and nobody has died, so a sweep would give nothing back.
/// assert!(!snapshot.is_orphan() && snapshot.estate().is_some_and(|estate| estate.is_empty()));
///
/// // The file system knows more than the bytes say.
/// let saved = Snapshot::of_bytes(&std::fs::read(format!("/dev/shm/{name}")).unwrap());
/// assert!(saved.header().is_ok() && saved.uid().is_none() && snapshot.uid().is_some());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    file: Option<File>,
    file_len: u64,
    header: Result<Header, HeaderError>,
    phase: Option<Phase>,
    is_orphan: bool,
    tenants: Vec<Tenant>,
    statistics: Statistics,
    arena: Option<ArenaInfo>,
    verdict: Verdict,
}

/// What the file system says.
#[derive(Clone, Copy, Debug)]
struct File {
    uid: u32,
    mode: u32,
    is_named: bool,
}

impl Snapshot {
    /// Looks at the segment called `name`, or whatever else has that name; copies at most [`DEFAULT_LIMIT`].
    ///
    /// That it is damaged, or none at all, is no error but a [verdict](Self::verdict).
    ///
    /// # Errors
    /// - [`ShmemError::NotFound`]: nothing has this name.
    /// - [`ShmemError::NotRegular`]: it is no regular file.
    /// - [`ShmemError::Os`]: above all `EACCES`, want of permission to read.
    /// - [`ShmemError::Name`]: no segment can have this name.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::inspect::{BlockKind, Life, Snapshot, Verdict};
    /// use shmem_bind::{Builder, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-snapshot", std::process::id());
    /// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
    /// arena.publish("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
    ///
    /// let snapshot = Snapshot::take(name)?;
    /// assert_eq!(snapshot.verdict(), Verdict::Sound);
    /// assert_eq!(snapshot.tenants()[0].pid(), Some(std::process::id()));
    /// assert_eq!(snapshot.tenants()[0].life(), Life::Alive);
    /// let inside = snapshot.arena().unwrap();
    /// assert_eq!(inside.names()[0].name(), "limit");
    /// assert_eq!(inside.names()[0].block().kind(), BlockKind::Shared { holders: 0 });
    /// # Ok(())
    /// # }
    /// ```
    pub fn take(name: &str) -> Result<Self, ShmemError> {
        Self::take_up_to(name, DEFAULT_LIMIT)
    }

    /// The same with another limit, in bytes. Of a segment that has more memory, the header and the attachments are
    /// read, and the verdict is [`Unchecked::TooLarge`].
    ///
    /// # Errors
    /// As [`take`](Self::take).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::inspect::Snapshot;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-take-up-to", std::process::id());
    /// let _arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
    /// // Who is attached costs a page.
    /// let snapshot = Snapshot::take_up_to(name, 0)?;
    /// assert_eq!(snapshot.tenants()[0].pid(), Some(std::process::id()));
    /// assert!(snapshot.arena().is_none());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn take_up_to(name: &str, limit: u64) -> Result<Self, ShmemError> {
        let name = Name::new(name)?;
        let irregular = |found| ShmemError::NotRegular { found };
        let fd = shm::open(name.path(), Access::ReadOnly, None).map_err(|errno| match errno {
            Errno::NOENT => ShmemError::NotFound,
            Errno::LOOP => irregular(FileKind::Symlink),
            Errno::ISDIR => irregular(FileKind::Directory),
            Errno::NXIO | Errno::NODEV => irregular(FileKind::Other),
            errno => ShmemError::Os { call: "open", errno },
        })?;
        let own = Tenancy::own();
        let mut snapshot = when_still(|| {
            let status = shm::status(&fd).map_err(os("fstat"))?;
            one_copy(&fd, &status, own, limit)
        })?;
        snapshot.file = Some(File::of(&fd, &name)?);
        Ok(snapshot)
    }

    /// Looks at the bytes of a segment, such as a file that was saved. They are at rest, so what they are is the verdict.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::HeaderError;
    /// use shmem_bind::inspect::{Damage, Snapshot, Verdict};
    ///
    /// let snapshot = Snapshot::of_bytes(b"#!/bin/sh\nexit 0\n");
    /// let Verdict::Damaged(Damage::Header(error)) = snapshot.verdict() else { panic!() };
    /// assert!(matches!(error, HeaderError::Magic { .. }));
    /// ```
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::of_copy(&Image::of_bytes(bytes), Tenancy::own()).0
    }

    /// What a copy says, and a digest of what was read if that is damaged.
    fn of_copy(copy: &Image, own: Tenancy) -> (Self, u64) {
        let mut snapshot = Self {
            file: None,
            file_len: copy.file_len,
            header: copy.header,
            phase: None,
            is_orphan: false,
            tenants: Vec::new(),
            statistics: Statistics::default(),
            arena: None,
            verdict: Verdict::Sound,
        };
        let mut digest = Digest::new(copy.file_len);
        if let Some(region) = &copy.region {
            region.header_words().iter().for_each(|word| digest.add(word.load(Ordering::Relaxed)));
        }
        if copy.file_len == 0 || copy.header.is_ok_and(|header| header.phase() == Some(Phase::Forming)) {
            snapshot.phase = Some(Phase::Forming);
            snapshot.verdict = Verdict::Forming;
            return (snapshot, digest.0);
        }
        let mut damage = match copy.header.and_then(|header| header.check_len(copy.file_len)) {
            Ok(()) => None,
            Err(error) => Some(Damage::Header(error)),
        };
        let is_ours = !matches!(
            copy.header,
            Err(HeaderError::Magic { .. }
                | HeaderError::Endianness
                | HeaderError::Version { .. }
                | HeaderError::Layout { .. })
        );
        let mut unchecked = copy.missing;
        if let Some(region) = copy.region.as_ref().filter(|_| is_ours) {
            damage = snapshot.read_header(region, own).or(damage);
            if let (Ok(header), true) = (copy.header, copy.is_whole()) {
                let inside = snapshot.read_arena(region, &copy.parts, &header);
                damage = damage.or(inside.0);
                unchecked = unchecked.or(inside.1);
            }
        }
        snapshot.verdict = match (damage, unchecked) {
            (Some(damage), _) => Verdict::Damaged(damage),
            (None, Some(reason)) => Verdict::Unchecked(reason),
            (None, None) => Verdict::Sound,
        };
        if let (Some(arena), Some(region), Some(_)) = (&snapshot.arena, &copy.region, damage) {
            digest.add_arena(arena, region, &copy.parts);
        }
        (snapshot, digest.0)
    }

    /// Reads what is in the header besides its fixed part.
    fn read_header(&mut self, region: &Region, own: Tenancy) -> Option<Damage> {
        let header = region.header();
        let word = header.membership();
        self.phase = word.phase().ok();
        self.is_orphan = word.is_orphan();
        self.statistics = header.statistics();
        self.tenants = Tenant::all(header, own);
        let nobodys = self.tenants.iter().find(|tenant| tenant.is_contradiction())?;
        // If it is the word itself that does not decode, that is said already.
        self.header.is_ok().then_some(Damage::Tenant { slot: nobodys.slot() })
    }

    fn read_arena(
        &mut self,
        region: &Region,
        parts: &Parts,
        header: &Header,
    ) -> (Option<Damage>, Option<Unchecked>) {
        match header.payload() {
            Payload::Arena { allocator, is_formed: true } => {
                let look = arena::look(region, parts, allocator, &self.tenants);
                self.arena = Some(look.info);
                (look.damage, look.unchecked)
            }
            Payload::Arena { is_formed: false, .. } => (None, Some(Unchecked::Unformatted)),
            Payload::Unset | Payload::Value { .. } => (None, None),
        }
    }

    /// Length of the file, in bytes.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The user whom the file belongs to; `None` of mere bytes.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.file.map(|file| file.uid)
    }

    /// Permission bits of the file; `None` of mere bytes.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        self.file.map(|file| file.mode)
    }

    /// Whether the name still led to the file when it had been read; `None` of mere bytes.
    #[must_use]
    pub fn is_named(&self) -> Option<bool> {
        self.file.map(|file| file.is_named)
    }

    /// The fixed part of the header, policies and all.
    ///
    /// # Errors
    /// [`HeaderError`]: which part is not as it must be. What else can be read is there all the same.
    pub const fn header(&self) -> Result<&Header, HeaderError> {
        match &self.header {
            Ok(header) => Ok(header),
            Err(error) => Err(*error),
        }
    }

    /// Where the segment stands in its life; `None` if that is damaged, or it is none.
    #[must_use]
    pub const fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// Whether its owner died and nobody has taken its place. (One whose death nobody has noticed yet is among the
    /// [tenants](Self::tenants).)
    #[must_use]
    pub const fn is_orphan(&self) -> bool {
        self.is_orphan
    }

    /// Who is attached, and who was and has died, by slot.
    #[must_use]
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// What has happened to the segment since it was created.
    #[must_use]
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// What is in the arena; `None` if it is none, or not to be read.
    #[must_use]
    pub const fn arena(&self) -> Option<&ArenaInfo> {
        self.arena.as_ref()
    }

    /// What came of the checks.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What [`Arena::sweep`](crate::Arena::sweep) would give back now of processes that died; `None` if that cannot be
    /// said.
    #[must_use]
    pub fn estate(&self) -> Option<Reclaimed> {
        let dead = self.tenants.iter().filter(|tenant| tenant.life() == Life::Dead);
        let attachments = dead.count() as u64;
        match (&self.header, &self.arena) {
            (Ok(_), Some(arena)) => Some(Reclaimed { attachments, ..arena.estate? }),
            (Ok(header), None) if !matches!(header.payload(), Payload::Arena { .. }) => {
                Some(Reclaimed { attachments, ..Reclaimed::default() })
            }
            _ => None,
        }
    }
}

impl File {
    fn of(fd: &OwnedFd, name: &Name) -> Result<Self, ShmemError> {
        let status = shm::status(fd).map_err(os("fstat"))?;
        let named = shm::status_at(name.path()).map_err(os("stat"))?;
        let is_named = named.is_some_and(|named| named.inode == status.inode);
        Ok(Self { uid: status.uid, mode: status.mode, is_named })
    }
}

fn one_copy(fd: &OwnedFd, status: &Status, own: Tenancy, limit: u64) -> Result<(Snapshot, u64), ShmemError> {
    if let Some(found) = status.irregular {
        return Err(ShmemError::NotRegular { found });
    }
    Ok(Snapshot::of_copy(&Image::of_file(fd, status, limit)?, own))
}

/// Takes snapshots until one is good, or the same thing is wrong with many in a row.
fn when_still(mut take: impl FnMut() -> Result<(Snapshot, u64), ShmemError>) -> Result<Snapshot, ShmemError> {
    let start = clock::now();
    let (mut last, mut alike) = (None, 0_u32);
    let (mut attempt, mut changes) = (0_u32, 0_u32);
    loop {
        let (mut snapshot, digest) = take()?;
        let Verdict::Damaged(damage) = snapshot.verdict else { return Ok(snapshot) };
        if last == Some((damage, digest)) {
            alike = alike.saturating_add(1);
        } else {
            (alike, changes) = (1, changes.saturating_add(1));
        }
        last = Some((damage, digest));
        attempt = attempt.saturating_add(1);
        if alike >= STILL {
            return Ok(snapshot);
        }
        // What is at rest is not given up, however busy the machine.
        let is_late = changes > 3 && alike < 3 && clock::now().saturating_sub(start) > PATIENCE;
        if attempt >= MOST || is_late {
            snapshot.verdict = Verdict::Changing;
            return Ok(snapshot);
        }
        // Longer each time, so that no rhythm of others' is met again and again.
        clock::pause(Duration::from_micros(37).saturating_mul(attempt));
    }
}

/// A number that differs between copies that differ in what leads to a verdict.
struct Digest(u64);

impl Digest {
    const fn new(seed: u64) -> Self {
        Self(seed ^ 0xcbf2_9ce4_8422_2325)
    }

    const fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Zeros count for nothing, whether somebody has written them or not.
    fn add_words(&mut self, words: &[AtomicU64], parts: impl Iterator<Item = Range<u64>>) {
        let index = |offset: u64| usize::try_from(offset / 8).unwrap_or(usize::MAX);
        for part in parts {
            let words = words.get(index(part.start)..index(part.end).min(words.len())).unwrap_or_default();
            for (offset, word) in (part.start..).step_by(8).zip(words) {
                let word = word.load(Ordering::Relaxed);
                if word != 0 {
                    self.add(offset);
                    self.add(word);
                }
            }
        }
    }

    /// The words of blocks, of the allocator, of the directory, and of the export bitmap; not those of objects, which their users
    /// may change at any time.
    fn add_arena(&mut self, arena: &ArenaInfo, region: &Region, parts: &Parts) {
        let words = region.payload_words();
        let capacity = arena.heap_capacity();
        let first = arena.blocks().first().map_or(4096, BlockInfo::offset);
        self.add_words(words, parts.within_payload(0..first.min(capacity)));
        // What a damaged arena has for blocks may lie in each other.
        let mut done = 0;
        for block in arena.blocks() {
            let BlockInfo(header) = block;
            [header.offset, header.state.bits(), header.tag, header.extent.bits()]
                .into_iter()
                .for_each(|word| self.add(word));
            if block.kind() == BlockKind::Internal {
                let start = block.offset().saturating_add(BLOCK_HEADER_LEN).max(done);
                let end = block.offset().saturating_add(block.len()).min(capacity);
                self.add_words(words, parts.within_payload(start..end));
                done = end.max(done);
            }
        }
        // The bitmap follows the heap.
        self.add_words(words, parts.within_payload(capacity..u64::MAX));
    }
}

fn os(call: &'static str) -> impl Fn(Errno) -> ShmemError {
    move |errno| ShmemError::Os { call, errno }
}

#[cfg(test)]
extern crate std;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
