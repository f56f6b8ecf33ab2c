//! Errors
//!
//! One type per kind of operation, one variant per reason a caller may want to treat differently, with the
//! data that tells it apart. Every message says what to do next. [`ShmemError`] also takes in the errors of
//! the later operations, so that one `Result<_, ShmemError>` serves a whole `main`.

mod arena;
mod boxed;
mod capacity;
mod copy;
mod header;
#[cfg(feature = "std")]
mod io;
mod lock;
mod name;
mod ring;
mod unusable;

pub use arena::{AllocError, ArenaError, DirectoryError, HandleError, HeapError, Rejected};
pub use boxed::{BoxError, OwnError};
pub use capacity::CapacityError;
pub use copy::CopyError;
pub use header::{FileKind, HeaderError};
pub use lock::LockFailure;
pub use name::{NameError, SizeError};
pub use ring::{QueueError, Unsent};
pub(crate) use unusable::Unusable;

use crate::membership::MAX_ATTACHMENTS;
use core::error::Error;
use core::fmt;
use unusable::SEVERED;

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
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemError};
///
/// # let name = &format!("shmem-bind-doc-{}-error", std::process::id());
/// match Builder::new(name).attach() {
///     Ok(segment) => println!("{} bytes", segment.payload_size()),
///     Err(ShmemError::NotFound) => println!("the server is not running"),
///     // Says what happened, and what to do about it.
///     Err(error) => return Err(error),
/// }
///
/// // In functions that give `std::io::Result` all errors of this crate can be handed on by `?`.
/// # #[cfg(feature = "std")] {
/// fn open(name: &str) -> std::io::Result<usize> {
///     Ok(Builder::new(name).attach()?.payload_size())
/// }
/// assert_eq!(open(name).unwrap_err().kind(), std::io::ErrorKind::NotFound);
/// # }
/// # Ok::<(), ShmemError>(())
/// ```
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
        /// The user expected: the one that the builder named, or else the effective user of this process.
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
    /// An element could not be sent or received.
    Queue(QueueError),
    /// Bytes could not be copied into or out of a [`CopyRegion`](crate::CopyRegion).
    Copy(CopyError),
    /// Not from opening: [`ShmemBox::try_own`](crate::ShmemBox::try_own) failed.
    Own(OwnError),
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
            Self::Queue(error) => error.fmt(f),
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
    Capacity(CapacityError);
    Lock(LockFailure);
    Queue(QueueError);
    Copy(CopyError);
}

impl<T> From<Rejected<T>> for ShmemError {
    fn from(rejected: Rejected<T>) -> Self {
        Self::Alloc(rejected.error)
    }
}

impl<T> From<Unsent<T>> for ShmemError {
    fn from(unsent: Unsent<T>) -> Self {
        Self::Queue(unsent.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_impl_all;

    // As `Box<dyn Error + Send + Sync>`, and the errors of other crates, want them.
    assert_impl_all!(ShmemError: Error, Send, Sync, Copy);
    assert_impl_all!(NameError: Error, Send, Sync, Copy);
    assert_impl_all!(SizeError: Error, Send, Sync, Copy);
    assert_impl_all!(HeaderError: Error, Send, Sync, Copy);
    assert_impl_all!(BoxError: Error, Send, Sync, Copy);
    assert_impl_all!(OwnError: Error, Send, Sync, Copy);
    assert_impl_all!(ArenaError: Error, Send, Sync, Copy);
    assert_impl_all!(AllocError: Error, Send, Sync, Copy);
    assert_impl_all!(HandleError: Error, Send, Sync, Copy);
    assert_impl_all!(HeapError: Error, Send, Sync, Copy);
    assert_impl_all!(DirectoryError: Error, Send, Sync, Copy);
    assert_impl_all!(LockFailure: Error, Send, Sync, Copy);
    assert_impl_all!(CopyError: Error, Send, Sync, Copy);
    assert_impl_all!(Rejected<u8>: Error, Send, Sync, Copy);
    assert_impl_all!(CapacityError: Error, Send, Sync, Copy);
    assert_impl_all!(QueueError: Error, Send, Sync, Copy);
    assert_impl_all!(Unsent<u8>: Error, Send, Sync, Copy);
}
