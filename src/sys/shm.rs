//! Files of segments: open, lock, size, map, unlink
//!
//! `flock` is the witness on which the life cycle rests. Three facts about it on Linux: the lock belongs to
//! the open file description, which a mapping keeps alive after its descriptor is closed; it ends when the
//! last mapping of a killed process goes, zombie or not; turning one's own exclusive lock into a shared one
//! lets nobody in between, but turning a shared one into an exclusive one that fails **loses** it. So here
//! nothing ever unlocks or upgrades: locks end with `munmap`.
//!
//! # Safety
//! `mmap` and `munmap` are unsafe; [`Mapping`] owns its range and nothing else unmaps it.
#![allow(unsafe_code)]

use super::Failure;
use crate::error::FileKind;
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use core::ffi::CStr;
use core::ops::Range;
use core::ptr::{self, NonNull};
use rustix::fd::OwnedFd;
#[cfg(feature = "alloc")]
use rustix::fs::SeekFrom;
use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, FlockOperation, MemfdFlags, Mode, OFlags, SealFlags, Stat,
    StatFs,
};
use rustix::io::{self, Errno};
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes reserved by one `fallocate`: each call starts again when a signal arrives, so it must be short.
const RESERVE_STEP: u64 = 16 << 20;

/// `f_type` of tmpfs, which memfds are on too.
const TMPFS_MAGIC: u32 = 0x0102_1994;
/// `f_type` of tmpfs, ramfs, ext2 to ext4, XFS and Btrfs.
const LOCKING_FILE_SYSTEMS: [u32; 5] = [TMPFS_MAGIC, 0x8584_58f6, 0xef53, 0x5846_5342, 0x9123_683e];

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Whether a segment is opened to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

impl Access {
    const fn protection(self) -> ProtFlags {
        match self {
            Self::ReadOnly => ProtFlags::READ,
            Self::ReadWrite => ProtFlags::READ.union(ProtFlags::WRITE),
        }
    }
}

/// Which file this is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    dev: u64,
    ino: u64,
}

/// What `fstat` says of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    /// What it is, if no regular file.
    pub(crate) irregular: Option<FileKind>,
    pub(crate) inode: Inode,
    /// The user whom it belongs to.
    pub(crate) uid: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Length in bytes.
    pub(crate) len: u64,
}

impl Status {
    // The types of the fields differ between architectures; all fit.
    #[allow(clippy::useless_conversion)]
    fn new(stat: &Stat) -> Self {
        let irregular = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::Fifo => Some(FileKind::Fifo),
            _ => Some(FileKind::Other),
        };
        Self {
            irregular,
            inode: Inode { dev: u64::from(stat.st_dev), ino: u64::from(stat.st_ino) },
            uid: stat.st_uid,
            mode: Mode::from_raw_mode(stat.st_mode).bits(),
            len: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Opens the file at `path`, creating an empty one with `create` for its mode if there is none.
///
/// Does not follow a symbolic link (`ELOOP`), does not wait for the other end of a FIFO, never makes a
/// terminal the controlling one.
#[doc(alias = "shm_open")]
pub(crate) fn open(path: &CStr, access: Access, create: Option<u32>) -> Result<OwnedFd, Errno> {
    let access = match access {
        Access::ReadOnly => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Some(mode) = create else {
        return fs::open(path, flags, Mode::empty());
    };
    match fs::open(path, flags | OFlags::CREATE, Mode::from_raw_mode(mode)) {
        // With the sysctl fs.protected_regular, O_CREAT refuses a file of somebody else that exists.
        Err(Errno::ACCESS) => match fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Err(Errno::ACCESS),
            result => result,
        },
        result => result,
    }
}

/// Creates an unnamed file; `name` shows in `/proc/PID/maps`.
pub(crate) fn memfd(name: &CStr) -> Result<OwnedFd, Errno> {
    fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
}

/// Fixes a memfd's length, and that it stays fixed.
pub(crate) fn seal(fd: &OwnedFd) -> Result<(), Errno> {
    add_seals(fd, SEALS)
}

/// The same, and that from now on nobody writes to it but through mappings that are there already.
pub(crate) fn seal_for_readers(fd: &OwnedFd) -> Result<(), Errno> {
    add_seals(fd, SEALS | SealFlags::FUTURE_WRITE)
}

fn add_seals(fd: &OwnedFd, seals: SealFlags) -> Result<(), Errno> {
    let sealed = fs::fcntl_add_seals(fd, seals);
    #[cfg(planted)]
    if is_planted(Mistake::SealUnchecked) {
        return Ok(());
    }
    sealed
}

/// Whether the length of this file is fixed for ever; only that of a memfd can be.
///
/// One of huge pages does not count: it is mapped in other units than it is asked for, and a hole in it may be
/// a `SIGBUS`.
pub(crate) fn is_sealed(fd: &OwnedFd) -> Result<bool, Failure> {
    match fs::fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SEALS) => {
            let statfs = fs::fstatfs(fd).map_err(Failure::of("fstatfs"))?;
            Ok(kind(&statfs) == TMPFS_MAGIC)
        }
        // No file that can have seals.
        Ok(_) | Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(Failure::new("fcntl", errno)),
    }
}

/// Whether a lock on a segment lasts as long as a mapping of it, as it does where the mapping is of the very
/// file that was opened. On overlayfs it is of the file below, and network file systems have locks of their own.
pub(crate) fn mappings_keep_locks() -> bool {
    // If there is no such directory, opening says so.
    fs::statfs(c"/dev/shm").map_or(true, |statfs| LOCKING_FILE_SYSTEMS.contains(&kind(&statfs)))
}

/// The type of a file system.
// The type of the field differs between architectures; the numbers are of 32 bits.
#[allow(clippy::unnecessary_cast)]
fn kind(statfs: &StatFs) -> u32 {
    statfs.f_type as u32
}

/// Random bytes; waits until the kernel has some, early at boot.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    let mut filled = 0_usize;
    // Up to 256 bytes come all at once, by the man page; a filter or an emulator may have it otherwise.
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let count = io::retry_on_intr(|| getrandom(&mut *rest, GetRandomFlags::empty()))?;
        filled = filled.saturating_add(count);
    }
    Ok(bytes)
}

pub(crate) fn status(fd: &OwnedFd) -> Result<Status, Errno> {
    Ok(Status::new(&fs::fstat(fd)?))
}

/// What has this name now, links not followed; `None` if nothing has.
pub(crate) fn status_at(path: &CStr) -> Result<Option<Status>, Errno> {
    match fs::statat(fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Status::new(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Tries to become the only one who has this file locked: `true` says that nobody else has it attached.
pub(crate) fn try_lock_exclusive(fd: &OwnedFd) -> Result<bool, Errno> {
    try_lock(fd, FlockOperation::NonBlockingLockExclusive)
}

/// Tries to lock the file together with others, or turns the exclusive lock into such a one.
pub(crate) fn try_lock_shared(fd: &OwnedFd) -> Result<bool, Errno> {
    try_lock(fd, FlockOperation::NonBlockingLockShared)
}

fn try_lock(fd: &OwnedFd, operation: FlockOperation) -> Result<bool, Errno> {
    match fs::flock(fd, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Fills `buffer` from the beginning of the file; fewer bytes if the file is shorter.
pub(crate) fn read_start<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let filled = read_at(fd, buffer, 0)?;
    Ok(buffer.get(..filled).unwrap_or_default())
}

/// Fills `buffer` from this offset of the file on; gives how many bytes there were.
fn read_at(fd: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match io::retry_on_intr(|| io::pread(fd, &mut *rest, offset.saturating_add(filled as u64)))? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    Ok(filled)
}

/// Where the file, of which only what is before `end` counts, first has something else than a hole from `from` on;
/// `None` if it has nothing more. A file system that knows of no holes has none. The position of the descriptor
/// changes.
#[cfg(feature = "alloc")]
pub(crate) fn next_data(fd: &OwnedFd, from: u64, end: u64) -> Option<Range<u64>> {
    let start = match fs::seek(fd, SeekFrom::Data(from)) {
        Err(Errno::NXIO) => return None,
        result => result.unwrap_or(from),
    };
    let hole = fs::seek(fd, SeekFrom::Hole(start)).unwrap_or(end);
    let range = start.max(from)..if hole > start { hole.min(end) } else { end };
    (!range.is_empty()).then_some(range)
}

/// Writes `bytes` to the beginning of the file, which must not cross a page.
pub(crate) fn write_start(fd: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    let written = io::retry_on_intr(|| io::pwrite(fd, bytes, 0))?;
    // Within one page tmpfs writes all or nothing.
    if written == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

/// Sets the permission bits, whatever the umask.
pub(crate) fn set_mode(fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
    fs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// Sets the length; new bytes read as zero and take no memory before they are written.
pub(crate) fn set_len(fd: &OwnedFd, len: u64) -> Result<(), Errno> {
    io::retry_on_intr(|| fs::ftruncate(fd, len))
}

/// Sets the length and reserves the memory, so that a full file system is an error here and no SIGBUS later.
pub(crate) fn reserve(fd: &OwnedFd, len: u64) -> Result<(), Failure> {
    // Ask before taking: reserving far more than there is would drive everybody else out of memory first.
    if len > RESERVE_STEP && free_space(fd).map_err(Failure::of("fstatfs"))? < len {
        return Err(Failure::new("fallocate", Errno::NOSPC));
    }
    let mut done = 0;
    while done < len {
        let step = RESERVE_STEP.min(len.saturating_sub(done));
        io::retry_on_intr(|| fs::fallocate(fd, FallocateFlags::empty(), done, step))
            .map_err(Failure::of("fallocate"))?;
        done = done.saturating_add(step);
    }
    Ok(())
}

/// Bytes free on the file system of this file, but no more than the machine has memory: that of memfds has no
/// limit of its own.
// The types of the fields differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn free_space(fd: &OwnedFd) -> Result<u64, Errno> {
    let filesystem = fs::fstatfs(fd)?;
    let free = (filesystem.f_bavail as u64).saturating_mul(filesystem.f_bsize as u64);
    let memory = machine_memory();
    Ok(if filesystem.f_blocks as u64 == 0 { memory } else { memory.min(free) })
}

/// Bytes of memory that the machine has, with what it swaps to.
// The types of the fields differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn machine_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let units = (machine.totalram as u64).saturating_add(machine.totalswap as u64);
    units.saturating_mul(u64::from(machine.mem_unit))
}

/// The names of the files that segments could be.
#[cfg(feature = "alloc")]
pub(crate) fn file_names() -> Result<alloc::vec::Vec<alloc::string::String>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::open(c"/dev/shm", flags, Mode::empty()).map_err(Failure::of("open"))?;
    let mut names = alloc::vec::Vec::new();
    for entry in fs::Dir::new(directory).map_err(Failure::of("getdents64"))? {
        let entry = entry.map_err(Failure::of("getdents64"))?;
        if let (FileType::RegularFile, Ok(name)) = (entry.file_type(), entry.file_name().to_str()) {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// Whether this process may remove the name of this file, which is no directory.
///
/// Whoever puts an empty directory in the place of the file at this very moment loses it.
pub(crate) fn may_unlink(path: &CStr) -> Result<(), Errno> {
    // The kernel looks at the permissions first, sticky bit and capabilities included, and then at what it is.
    match fs::unlinkat(fs::CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOTDIR | Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Removes the name.
pub(crate) fn unlink(path: &CStr) -> Result<(), Errno> {
    fs::unlink(path)
}

/// A range of mapped memory; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// INVARIANT 1: `len` bytes from here were mapped by this file and by nothing else, page-aligned, and
    /// stay mapped as long as this value exists.
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of a file, shared.
    pub(crate) fn shared(fd: &OwnedFd, len: usize, access: Access) -> Result<Self, Errno> {
        let protection = access.protection();
        // SAFETY: a null hint lets the kernel choose a free range, so no existing memory is touched.
        let base = unsafe { mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) }?;
        Self::own(base.cast(), len)
    }

    /// Maps `len` zeroed private bytes that read as zero again in a child after `fork`.
    pub(crate) fn private_wiped_on_fork(len: usize) -> Result<Self, Failure> {
        let mapping = Self::private(len)?;
        // SAFETY: by invariant 1 the range is this mapping's alone; the advice changes nothing in this process.
        unsafe { mm::madvise(mapping.base.as_ptr().cast(), len, Advice::LinuxWipeOnFork) }
            .map_err(Failure::of("madvise"))?;
        Ok(mapping)
    }

    /// Private memory, zero at first, of which children after `fork` get a copy.
    pub(crate) fn private(len: usize) -> Result<Self, Failure> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose a free range, so no existing memory is touched.
        unsafe { mm::mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }
            .and_then(|base| Self::own(base.cast(), len))
            .map_err(Failure::of("mmap"))
    }

    /// The same, for a range that stays mostly unused: none of its memory is promised.
    pub(crate) fn private_sparse(len: usize) -> Result<Self, Failure> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose a free range, so no existing memory is touched.
        let mapping = unsafe { mm::mmap_anonymous(ptr::null_mut(), len, protection, flags) }
            .and_then(|base| Self::own(base.cast(), len))
            .map_err(Failure::of("mmap"))?;
        // SAFETY: by invariant 1 the range is this mapping's alone; the advice changes nothing in this process.
        let advised = unsafe { mm::madvise(mapping.base.as_ptr().cast(), len, Advice::LinuxWipeOnFork) };
        #[cfg(planted)]
        if let (Err(errno), true) = (advised, is_planted(Mistake::MappingLeftOnError)) {
            mapping.leak();
            return Err(Failure::new("madvise", errno));
        }
        advised.map_err(Failure::of("madvise"))?;
        Ok(mapping)
    }

    /// As [`private_sparse`](Self::private_sparse), to be written here and there: each page that is written takes
    /// no more than that page.
    #[cfg(feature = "alloc")]
    pub(crate) fn private_scattered(len: usize) -> Result<Self, Failure> {
        let mapping = Self::private_sparse(len)?;
        // Can fail only where there are no huge pages.
        // SAFETY: by invariant 1 the range is this mapping's alone; the advice changes no contents.
        let _: Result<(), Errno> =
            unsafe { mm::madvise(mapping.base.as_ptr().cast(), len, Advice::LinuxNoHugepage) };
        Ok(mapping)
    }

    /// The bytes of a private mapping.
    ///
    /// # Safety
    /// It is private.
    #[cfg(feature = "alloc")]
    pub(crate) const unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: by invariant 1 `len` bytes are mapped; by the caller no other process writes to them, and nothing
        // else of this one leads there, since a reference to `self` does not exist beside this one.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Copies this part of a file to the same offset of a private mapping, as much of it as both have.
    ///
    /// # Safety
    /// It is private.
    #[cfg(feature = "alloc")]
    pub(crate) unsafe fn copy_from(&mut self, fd: &OwnedFd, part: Range<u64>) -> Result<(), Errno> {
        // SAFETY: the caller promises it.
        let bytes = unsafe { self.bytes_mut() };
        let end = usize::try_from(part.end).unwrap_or(usize::MAX).min(bytes.len());
        let start = usize::try_from(part.start).unwrap_or(usize::MAX).min(end);
        read_at(fd, bytes.get_mut(start..end).unwrap_or_default(), part.start).map(drop)
    }

    /// Takes the mapping over from where [`leak`](Self::leak) left it.
    ///
    /// # Safety
    /// `len` bytes from `base` were a mapping that was leaked, and nothing else takes it over.
    pub(crate) const unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Children after `fork` do not get this range.
    pub(crate) fn exclude_from_fork(&self) -> Result<(), Failure> {
        // SAFETY: by invariant 1 the range is this mapping's alone; the advice changes nothing in this process.
        unsafe { mm::madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxDontFork) }
            .map_err(Failure::of("madvise"))
    }

    /// Takes the memory of the pages in this part of a shared mapping, so that no store there fails later. On error
    /// some of it may have been taken.
    ///
    /// `ENOMEM` says that there is none.
    pub(crate) fn populate(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let Some((base, len)) = self.pages(offset, len) else { return Err(Errno::INVAL) };
        let populate = || {
            // SAFETY: by invariant 1 the range is mapped; the advice changes no contents.
            unsafe { mm::madvise(base.as_ptr().cast(), len, Advice::LinuxPopulateWrite) }
        };
        match io::retry_on_intr(populate) {
            // The file system is full, or the memory is.
            Err(Errno::FAULT | Errno::NOSPC) => Err(Errno::NOMEM),
            result => result,
        }
    }

    /// Gives the memory of the whole pages in this part of a shared mapping back to the file system; they read as zero
    /// then.
    pub(crate) fn remove(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let page = rustix::param::page_size();
        let end = offset.saturating_add(len).min(self.len);
        let end = end.saturating_sub(end.checked_rem(page).unwrap_or(0));
        let Some(start) = offset.checked_next_multiple_of(page).filter(|start| *start < end) else {
            return Ok(());
        };
        // SAFETY: `start` is within the mapping.
        let base = unsafe { self.base.add(start) };
        // SAFETY: by invariant 1 the range is mapped, and by the caller nobody uses what is in it.
        unsafe { mm::madvise(base.as_ptr().cast(), end.saturating_sub(start), Advice::LinuxRemove) }
    }

    /// The whole pages that this part of the mapping touches.
    fn pages(&self, offset: usize, len: usize) -> Option<(NonNull<u8>, usize)> {
        let page = rustix::param::page_size();
        let end = offset.checked_add(len)?.checked_next_multiple_of(page)?.min(self.len);
        let start = offset.checked_sub(offset.checked_rem(page)?)?;
        let len = end.checked_sub(start)?;
        // SAFETY: `start` is at most `end`, which is at most the length of the mapping.
        Some((unsafe { self.base.add(start) }, len))
    }

    fn own(base: *mut u8, len: usize) -> Result<Self, Errno> {
        // The kernel maps nothing at address zero unless told to.
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        Ok(Self { base, len })
    }

    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Of its first byte, and of the one after its last.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.base.addr().get();
        // Does not saturate: what is mapped ends within the address space.
        start..start.saturating_add(self.len)
    }

    /// Leaves the range mapped until the process ends.
    pub(crate) const fn leak(self) {
        core::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Can fail only for want of memory to split a larger mapping; then the range stays mapped, and a drop has
        // nobody to tell.
        // SAFETY: by invariant 1 the range is this mapping's alone, and nothing refers to it any more.
        let _: Result<(), Errno> = unsafe { mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Puts private zeros in the place of what is mapped at these addresses. System calls and nothing else, for a signal handler.
///
/// A child that another thread forks in the middle may get zeros in the place of a range that is excluded.
///
/// # Safety
/// They begin with a page, and are part of a mapping of this file's. Nobody minds that its contents are zeros from now on.
pub(crate) unsafe fn blank(addresses: Range<usize>, access: Access, is_excluded: bool) -> Result<(), Errno> {
    let Range { start, end } = addresses;
    let (base, len) = (ptr::without_provenance_mut(start), end.saturating_sub(start));
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: the caller promises that nothing else is mapped there.
    let base = unsafe { mm::mmap_anonymous(base, len, access.protection(), flags) }?;
    if is_excluded {
        // If it fails, children get zeros.
        // SAFETY: mapped just now; the advice changes nothing in this process.
        let _: Result<(), Errno> = unsafe { mm::madvise(base, len, Advice::LinuxDontFork) };
    }
    Ok(())
}

/// Makes a free range of addresses one that can never be touched; an error if it is not free.
pub(crate) fn bar(start: usize, len: usize) -> Result<(), Errno> {
    let wanted = ptr::without_provenance_mut(start);
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: with this flag the kernel maps a free range, or none; one before Linux 4.17, which does not know it, takes the
    // address for a hint, and a free range as well.
    let base = unsafe { mm::mmap_anonymous(wanted, len, ProtFlags::empty(), flags) }?;
    if base != wanted {
        // SAFETY: mapped just now, and nobody knows it.
        unsafe { mm::munmap(base, len) }?;
        return Err(Errno::EXIST);
    }
    Ok(())
}
