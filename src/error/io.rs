//! Errors as those of `std::io`
//!
//! For functions that give `std::io::Result`, with the kind that a caller of such functions looks at. The error itself is
//! inside, by [`get_ref`](std::io::Error::get_ref).

use super::{
    AllocError, ArenaError, BoxError, CapacityError, CopyError, DirectoryError, Errno, HandleError,
    HeaderError, LockFailure, NameError, OwnError, QueueError, Rejected, ShmemError, SizeError, Unsent,
};
use std::io::ErrorKind;

/// The kind of an error, as the operations of `std::io` tell theirs apart.
fn kind(error: ShmemError) -> ErrorKind {
    let of = |errno: Errno| std::io::Error::from(errno).kind();
    match error {
        ShmemError::Os { errno, .. } | ShmemError::Arena(ArenaError::Os { errno, .. }) => of(errno),
        ShmemError::Name(_) | ShmemError::Size(_) | ShmemError::Capacity(_) => ErrorKind::InvalidInput,
        ShmemError::Copy(CopyError::OutOfBounds { .. } | CopyError::Misaligned { .. }) => {
            ErrorKind::InvalidInput
        }
        ShmemError::Directory(DirectoryError::Empty | DirectoryError::TooLong { .. }) => {
            ErrorKind::InvalidInput
        }
        ShmemError::NotFound | ShmemError::Directory(DirectoryError::NotFound) => ErrorKind::NotFound,
        ShmemError::AlreadyExists
        | ShmemError::Directory(DirectoryError::Taken | DirectoryError::Published) => {
            ErrorKind::AlreadyExists
        }
        ShmemError::ForeignUser { .. } | ShmemError::Permissive { .. } => ErrorKind::PermissionDenied,
        ShmemError::Box(BoxError::ReadOnly)
        | ShmemError::Own(OwnError::ReadOnly)
        | ShmemError::Arena(ArenaError::ReadOnly)
        | ShmemError::Lock(LockFailure::ReadOnly)
        | ShmemError::Queue(QueueError::ReadOnly)
        | ShmemError::Copy(CopyError::ReadOnly) => ErrorKind::PermissionDenied,
        ShmemError::Header(_)
        | ShmemError::Box(BoxError::Damaged { .. })
        | ShmemError::Own(OwnError::Damaged)
        | ShmemError::Arena(ArenaError::Damaged { .. })
        | ShmemError::Alloc(AllocError::Damaged { .. })
        | ShmemError::Handle(HandleError::Damaged { .. })
        | ShmemError::Directory(
            DirectoryError::Damaged { .. } | DirectoryError::Alloc(AllocError::Damaged { .. }),
        )
        | ShmemError::Lock(LockFailure::Damaged)
        | ShmemError::Queue(QueueError::Damaged) => ErrorKind::InvalidData,
        ShmemError::Busy
        | ShmemError::Arena(ArenaError::Busy)
        | ShmemError::Alloc(AllocError::Busy)
        | ShmemError::Handle(HandleError::Busy)
        | ShmemError::Directory(DirectoryError::Busy | DirectoryError::Alloc(AllocError::Busy))
        | ShmemError::Lock(LockFailure::Busy) => ErrorKind::TimedOut,
        ShmemError::Lock(LockFailure::Deadlock) => ErrorKind::Deadlock,
        // As of a pipe that does not block, and of one with nobody at its other end.
        ShmemError::Queue(QueueError::Full | QueueError::Empty) => ErrorKind::WouldBlock,
        ShmemError::Queue(QueueError::Closed) => ErrorKind::BrokenPipe,
        ShmemError::FileSystem => ErrorKind::Unsupported,
        ShmemError::NoSpace { .. } => ErrorKind::StorageFull,
        ShmemError::Arena(ArenaError::NoSpace { .. })
        | ShmemError::Alloc(AllocError::OutOfMemory { .. })
        | ShmemError::Directory(DirectoryError::Alloc(AllocError::OutOfMemory { .. })) => {
            ErrorKind::OutOfMemory
        }
        _ => ErrorKind::Other,
    }
}

impl From<ShmemError> for std::io::Error {
    fn from(error: ShmemError) -> Self {
        Self::new(kind(error), error)
    }
}

/// The errors of one operation, by way of [`ShmemError`], as which they stand inside.
macro_rules! into_io {
    ($($error:ty)*) => {
        $(impl From<$error> for std::io::Error {
            fn from(error: $error) -> Self {
                ShmemError::from(error).into()
            }
        })*
    };
}

into_io! {
    NameError SizeError HeaderError BoxError OwnError ArenaError AllocError HandleError DirectoryError LockFailure
    CapacityError CopyError QueueError
}

impl<T> From<Rejected<T>> for std::io::Error {
    fn from(rejected: Rejected<T>) -> Self {
        rejected.error.into()
    }
}

impl<T> From<Unsent<T>> for std::io::Error {
    fn from(unsent: Unsent<T>) -> Self {
        unsent.error.into()
    }
}
