//! Errors
//!
//! One type per kind of operation, one variant per reason a caller may want to treat differently, with the
//! data that tells it apart. Every message says what to do next. [`ShmemError`] also takes in the errors of
//! the later operations, so that one `Result<_, ShmemError>` serves a whole `main`.

mod arena;
mod capacity;
mod copy;
mod lock;
mod unusable;

pub use arena::{AllocError, ArenaError, DirectoryError, HandleError, HeapError, Rejected};
pub use capacity::CapacityError;
pub use copy::CopyError;
pub use lock::LockFailure;
pub(crate) use unusable::Unusable;

use crate::allocator_id::AllocatorId;
use crate::membership::MAX_ATTACHMENTS;
use core::error::Error;
use core::fmt;
use unusable::{FORKED, SEVERED};

pub use rustix::io::Errno;

/// Says that a system call has failed, and what can be done about it.
fn system_call(f: &mut fmt::Formatter<'_>, call: &str, errno: Errno) -> fmt::Result {
    write!(f, "the system call {call} failed: {errno}")?;
    f.write_str(match (call, errno) {
        ("mmap" | "madvise" | "memfd_create" | "fcntl", Errno::ACCESS | Errno::PERM) => {
            "; see which filter or security policy forbids it"
        }
        (_, Errno::ACCESS | Errno::PERM) => {
            "; run as the segment's user, or let its creator widen Builder::mode, or attach read-only"
        }
        (_, Errno::MFILE | Errno::NFILE) => "; raise the limit of open files, or close some",
        (_, Errno::ROFS | Errno::NOENT) => "; see that /dev/shm is mounted and may be written to",
        (_, Errno::FBIG) => "; raise the limit of file sizes, or ask for less",
        (_, Errno::NOSPC | Errno::DQUOT) => "; free some of /dev/shm",
        (_, Errno::NOMEM | Errno::NOLCK) => {
            "; free some memory, or raise the limit of what this process is allowed"
        }
        ("fallocate", Errno::OPNOTSUPP | Errno::NOSYS) => "; ask for ReservePolicy::Lazy",
        ("madvise", Errno::INVAL) => {
            "; the kernel is too old for it: arenas need Linux 4.14, and growing needs 5.14"
        }
        (_, Errno::NOSYS) => "; the kernel is too old for it, or a filter forbids it",
        _ => "",
    })
}

/// Why a segment could not be created, attached or unlinked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShmemError {
    /// The name cannot be that of a segment.
    Name(NameError),
    /// The size cannot be that of a segment.
    Size(SizeError),
    /// No segment has this name, or its owner has just unlinked it.
    NotFound,
    /// [`create`](crate::BuilderWithSize::create) met a segment that is in use.
    AlreadyExists,
    /// The segment is smaller than asked for.
    TooSmall {
        /// Size of its payload, in bytes.
        payload: u64,
        /// Size asked for, in bytes.
        asked: u64,
    },
    /// What has this name is no regular file, so it cannot be a segment.
    NotRegular {
        /// What it is.
        found: FileKind,
    },
    /// The segment belongs to another user than expected.
    ForeignUser {
        /// The user whom it belongs to.
        uid: u32,
        /// The user expected: the effective user of this process, unless the builder said otherwise.
        expected: u32,
    },
    /// The segment's permissions are wider than asked for: somebody may read or write it who should not.
    Permissive {
        /// Its permission bits.
        mode: u32,
        /// The widest permission bits accepted.
        allowed: u32,
    },
    /// What has this name is not a segment of this format, or a damaged one.
    Header(HeaderError),
    /// The segment's owner died, and its [`OrphanPolicy`](crate::OrphanPolicy) forbids to take over.
    Orphaned,
    /// All [`MAX_ATTACHMENTS`] attachments are taken by processes that live, or that cannot be told to be dead.
    Full,
    /// Another process held the segment's lock, or was creating or unlinking it, until the
    /// [timeout](crate::Builder::timeout).
    Busy,
    /// There is not enough memory for the segment, or its file system is full.
    NoSpace {
        /// Size asked for, in bytes.
        asked: u64,
    },
    /// The descriptor received is not of a memfd sealed against shrinking, so that its sender could take the
    /// memory away.
    Unsealed,
    /// The file is a memfd segment's that has been given a name.
    WrongSort,
    /// Memory of the segment went away while it was being opened, and [`sigbus_fixup`](crate::sigbus_fixup) put zeros in
    /// its place.
    Severed,
    /// `/dev/shm` is on a file system, such as overlayfs or NFS, where locks do not last as long as mappings do, so
    /// that nobody could tell the living from the dead.
    FileSystem,
    /// A system call failed.
    Os {
        /// The system call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// Not from opening: [`ShmemConf::try_boxed`](crate::ShmemConf::try_boxed) failed.
    Box(BoxError),
    /// The segment could not be used as an arena.
    Arena(ArenaError),
    /// An object could not be allocated.
    Alloc(AllocError),
    /// A handle could not be claimed.
    Handle(HandleError),
    /// A name could not be published or found.
    Directory(DirectoryError),
    /// No segment can hold what is asked for.
    Capacity(CapacityError),
    /// A lock could not be had.
    Lock(LockFailure),
    /// Bytes could not be copied into or out of a [`CopyRegion`](crate::CopyRegion).
    Copy(CopyError),
    /// Not from opening: [`ShmemBox::try_own`](crate::ShmemBox::try_own) failed.
    Own(OwnError),
}

/// Why a string is not the name of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty, or nothing but a slash.
    Empty,
    /// It is `.` or `..`.
    Dots,
    /// It has a slash elsewhere than at its beginning.
    Slash,
    /// It has a NUL character.
    Nul,
    /// It is longer than 255 bytes.
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
}

/// Why a number is not the size of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// It is zero.
    Zero,
    /// It is negative.
    Negative {
        /// The number.
        asked: i128,
    },
    /// It is more than the size that the segment may grow to.
    AboveMaximum {
        /// Size asked for, in bytes.
        asked: u64,
        /// [`max_size`](crate::BuilderWithSize::max_size), in bytes.
        max: u64,
    },
    /// It is beyond the address space of this process.
    TooLarge {
        /// The largest size possible, in bytes.
        max: u64,
    },
}

/// What was found where a regular file was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link, which is not followed.
    Symlink,
    /// A FIFO (named pipe).
    Fifo,
    /// A socket or a device.
    Other,
}

/// Which part of a segment's header is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file or buffer ends before the header or the payload does.
    Truncated {
        /// Its length, in bytes.
        len: u64,
        /// The length needed, in bytes.
        needed: u64,
    },
    /// It does not begin with the magic number: it is something else.
    Magic {
        /// The first eight bytes.
        found: u64,
    },
    /// It was made by a process of the other byte order.
    Endianness,
    /// It has another version of the format.
    Version {
        /// Its version.
        found: u16,
        /// The version that this crate reads and writes.
        supported: u16,
    },
    /// It has this version, but other table sizes.
    Layout {
        /// The layout part of its format word.
        found: u64,
    },
    /// Its lengths do not fit together.
    Length {
        /// Length of the whole segment, in bytes.
        total: u64,
        /// Length of the payload, in bytes.
        payload: u64,
    },
    /// It has unknown or contradictory flags.
    Flags {
        /// The flags.
        found: u64,
    },
    /// The length that the payload starts with is not shorter than the payload.
    InitialLength {
        /// That length, in bytes.
        initial: u64,
        /// Length of the payload, in bytes.
        payload: u64,
    },
    /// No sequence of events leads to this membership word.
    Membership {
        /// The word.
        found: u64,
    },
    /// The word that says what the payload is does not decode.
    Payload {
        /// The word.
        found: u64,
    },
}

/// Why a segment's payload could not be used as a value of some type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BoxError {
    /// The type is larger than the payload.
    TooLarge {
        /// Size of the type, in bytes.
        size: usize,
        /// Size of the payload, in bytes.
        payload: usize,
    },
    /// The type wants a coarser alignment than a payload has.
    OverAligned {
        /// Alignment of the type, in bytes.
        align: usize,
        /// Alignment of every payload, in bytes.
        max: usize,
    },
    /// The payload is in use as a value of another size or alignment.
    Mismatch {
        /// Size of that value, in bytes.
        size: u64,
        /// Alignment of that value, in bytes.
        align: u64,
        /// Size of the type asked for, in bytes.
        asked_size: usize,
        /// Alignment of the type asked for, in bytes.
        asked_align: usize,
    },
    /// The segment is an arena, made by [`ShmemConf::arena`](crate::ShmemConf::arena).
    Arena {
        /// The allocator that manages it.
        allocator: AllocatorId,
    },
    /// The header's word on what the payload is has been damaged.
    Damaged {
        /// The word.
        found: u64,
    },
    /// The segment is attached read-only; see [`ShmemConf::read_ref`](crate::ShmemConf::read_ref).
    ReadOnly,
    /// The handle comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
}

/// Why a handle could not become the owner of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnError {
    /// The segment is attached read-only.
    ReadOnly,
    /// The segment has no name any more, so there is nothing to own: its last user destroys it.
    Retired,
    /// The handle comes from before a `fork` and belongs to the parent process.
    Forked,
    /// Memory of the segment has gone away; see [`sigbus_fixup`](crate::sigbus_fixup).
    Severed,
    /// The segment's header has been damaged.
    Damaged,
}

impl fmt::Display for ShmemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Name(error) => error.fmt(f),
            Self::Size(error) => error.fmt(f),
            Self::NotFound => f.write_str(
                "no segment has this name; start the process that creates it, or give a size to create it here",
            ),
            Self::AlreadyExists => f.write_str(
                "a segment of this name is in use already; attach to it, or choose another name",
            ),
            Self::TooSmall { payload, asked } => write!(
                f,
                "the existing segment has {payload} bytes but {asked} are asked for; ask for less, or unlink it \
                 first"
            ),
            Self::NotRegular { found } => {
                write!(f, "{found} has this name, not a segment; remove it or choose another name")
            }
            Self::ForeignUser { uid, expected } => write!(
                f,
                "the segment belongs to user {uid} and not to user {expected}; if that is intended, name the \
                 user with Builder::uid"
            ),
            Self::Permissive { mode, allowed } => write!(
                f,
                "the segment's mode {mode:04o} gives more than the {allowed:04o} asked for; if that is intended, \
                 ask for it with Builder::mode"
            ),
            Self::Header(error) => error.fmt(f),
            Self::Orphaned => f.write_str(
                "the segment's owner died and its orphan policy forbids to take over; look at the data, then \
                 unlink the segment",
            ),
            Self::Full => write!(
                f,
                "all {} attachments of the segment are taken; detach in another process first",
                MAX_ATTACHMENTS
            ),
            Self::Busy => f.write_str(
                "another process kept the segment locked until the timeout; look for one that is stopped while \
                 creating or unlinking it",
            ),
            Self::NoSpace { asked } => write!(
                f,
                "there is no room for {asked} bytes; free some of /dev/shm or of the memory allowed to this \
                 process, or ask for less"
            ),
            Self::Unsealed => f.write_str(
                "the descriptor is not that of a memfd sealed against resizing, so its sender could take the \
                 memory away; make it with Builder::memfd, or with CopyRegion::create",
            ),
            Self::WrongSort => f.write_str(
                "this is a memfd segment's file under a name; remove it, and attach by the memfd's descriptor",
            ),
            Self::Severed => f.write_str(SEVERED),
            Self::FileSystem => f.write_str(
                "the file system of /dev/shm does not keep locks as long as mappings; mount a tmpfs there, or use \
                 Builder::memfd",
            ),
            Self::Os { call, errno } => system_call(f, call, errno),
            Self::Box(error) => error.fmt(f),
            Self::Arena(error) => error.fmt(f),
            Self::Alloc(error) => error.fmt(f),
            Self::Handle(error) => error.fmt(f),
            Self::Directory(error) => error.fmt(f),
            Self::Capacity(error) => error.fmt(f),
            Self::Lock(error) => error.fmt(f),
            Self::Copy(error) => error.fmt(f),
            Self::Own(error) => error.fmt(f),
        }
    }
}

impl Error for ShmemError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The others that hold an error say the same as that.
            #[cfg(feature = "std")]
            Self::Os { errno, .. } => Some(errno),
            _ => None,
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("a segment's name must not be empty"),
            Self::Dots => f.write_str("a segment cannot be called \".\" or \"..\"; choose another name"),
            Self::Slash => f.write_str("a segment's name may have a slash only at its beginning; remove it"),
            Self::Nul => f.write_str("a segment's name must not have a NUL character; remove it"),
            Self::TooLong { len } => {
                write!(f, "a segment's name may have at most 255 bytes and this one has {len}; shorten it")
            }
        }
    }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Zero => f.write_str("a segment of no bytes cannot be mapped; ask for at least one"),
            Self::Negative { asked } => {
                write!(f, "a segment cannot have {asked} bytes; ask for at least one")
            }
            Self::AboveMaximum { asked, max } => {
                write!(f, "the size of {asked} bytes is above max_size, {max}; ask for less, or raise it")
            }
            Self::TooLarge { max } => {
                write!(
                    f,
                    "the size is beyond the address space of this process; ask for at most {max} bytes, or use a \
                     64-bit program"
                )
            }
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a FIFO",
            Self::Other => "a socket or device",
        })
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { len, needed } => write!(
                f,
                "the segment is cut short: it has {len} bytes and needs {needed}; remove the file and create the \
                 segment again"
            ),
            Self::Magic { found } => write!(
                f,
                "this is not a segment of shmem-bind (it begins with {found:#018x}); choose another name, or \
                 remove the file if it is a leftover"
            ),
            Self::Endianness => {
                f.write_str("the segment was made by a process of the other byte order; it cannot be shared")
            }
            Self::Version { found, supported } => write!(
                f,
                "the segment has format version {found} and this program uses version {supported}; build both \
                 sides with the same version of shmem-bind"
            ),
            Self::Layout { found } => write!(
                f,
                "the segment's tables are laid out differently ({found:#x}); build both sides with the same \
                 version of shmem-bind"
            ),
            Self::Length { total, payload } => write!(
                f,
                "the header is damaged: a payload of {payload} bytes does not make a segment of {total}; remove \
                 the file and create the segment again"
            ),
            Self::Flags { found } => {
                write!(
                    f,
                    "the header is damaged: flags {found:#x}; remove the file and create the segment again"
                )
            }
            Self::InitialLength { initial, payload } => write!(
                f,
                "the header is damaged: a payload that starts with {initial} bytes does not grow to {payload}; \
                 remove the file and create the segment again"
            ),
            Self::Membership { found } => write!(
                f,
                "the header is damaged: membership word {found:#018x}; remove the file and create the segment \
                 again"
            ),
            Self::Payload { found } => write!(
                f,
                "the header is damaged: payload word {found:#018x}; remove the file and create the segment again"
            ),
        }
    }
}

impl fmt::Display for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLarge { size, payload } => write!(
                f,
                "a value of {size} bytes does not fit in a payload of {payload}; create the segment with a size \
                 of {size}"
            ),
            Self::OverAligned { align, max } => write!(
                f,
                "a payload is aligned to {max} bytes and the type wants {align}; use a type with a smaller \
                 alignment"
            ),
            Self::Mismatch { size, align, asked_size, asked_align } => write!(
                f,
                "the segment holds a value of {size} bytes aligned to {align}, not one of {asked_size} bytes \
                 aligned to {asked_align}; use the same type in all processes"
            ),
            Self::Damaged { found } => write!(
                f,
                "the header is damaged: payload word {found:#018x}; remove the file and create the segment again"
            ),
            Self::Arena { allocator } => write!(
                f,
                "the segment is an arena managed by {allocator}, not a single value; use arena, or choose another \
                 name"
            ),
            Self::ReadOnly => {
                f.write_str("the segment is attached read-only; use read_ref, or attach to write")
            }
            Self::Forked => f.write_str(FORKED),
            Self::Severed => f.write_str(SEVERED),
        }
    }
}

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "the segment is attached read-only; attach to write in order to own it",
            Self::Retired => "the segment's name is gone already; create a new one to own it",
            Self::Forked => FORKED,
            Self::Severed => SEVERED,
            Self::Damaged => "the segment's header is damaged; remove the file and create the segment again",
        })
    }
}

impl Error for NameError {}
impl Error for SizeError {}
impl Error for HeaderError {}
impl Error for BoxError {}
impl Error for OwnError {}

/// Conversions of the errors of one operation into [`ShmemError`].
macro_rules! from {
    ($($variant:ident($error:ty);)*) => {
        $(impl From<$error> for ShmemError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    Name(NameError);
    Size(SizeError);
    Header(HeaderError);
    Box(BoxError);
    Own(OwnError);
    Arena(ArenaError);
    Alloc(AllocError);
    Handle(HandleError);
    Directory(DirectoryError);
    Lock(LockFailure);
    Copy(CopyError);
}

impl<T> From<Rejected<T>> for ShmemError {
    fn from(rejected: Rejected<T>) -> Self {
        Self::Alloc(rejected.error)
    }
}

#[cfg(feature = "std")]
impl From<ShmemError> for std::io::Error {
    fn from(error: ShmemError) -> Self {
        use std::io::ErrorKind;
        let kind = match error {
            ShmemError::Os { errno, .. } => std::io::Error::from(errno).kind(),
            ShmemError::Name(_) | ShmemError::Size(_) => ErrorKind::InvalidInput,
            ShmemError::NotFound => ErrorKind::NotFound,
            ShmemError::AlreadyExists => ErrorKind::AlreadyExists,
            ShmemError::ForeignUser { .. } | ShmemError::Permissive { .. } => ErrorKind::PermissionDenied,
            ShmemError::Header(_) => ErrorKind::InvalidData,
            ShmemError::Busy | ShmemError::Lock(LockFailure::Busy) => ErrorKind::TimedOut,
            ShmemError::FileSystem => ErrorKind::Unsupported,
            ShmemError::NoSpace { .. } => ErrorKind::StorageFull,
            _ => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
