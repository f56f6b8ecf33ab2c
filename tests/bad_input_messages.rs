//! Every error has a message for people, the system's error as its source, and a kind among those of `std::io`
#![allow(missing_docs)]

mod alone;
mod common;

use alone::readable;
use shmem_bind::sync::{Mutex, RwLock};
use shmem_bind::{
    AllocError, ArenaError, BoxError, CopyError, DirectoryError, Errno, FileKind, HandleError, HeaderError,
    LockFailure, NameError, OwnError, Rejected, ShmemError, SizeError,
};
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::io::{self, ErrorKind};

/// All messages are readable, and no two are the same.
fn all_readable<E: Display + Debug + Copy + Into<ShmemError>>(cases: &[(E, &[&str])]) {
    let mut messages = BTreeSet::new();
    for (error, keywords) in cases {
        readable(error, keywords);
        assert!(messages.insert(error.to_string()), "two errors say {error}");
        // The error of a whole `main` says it in the same words.
        let whole: ShmemError = (*error).into();
        readable(&whole, keywords);
        assert!(whole.to_string().contains(&error.to_string()));
    }
}

#[test]
fn errors_of_names_and_sizes_are_readable() {
    all_readable::<NameError>(&[
        (NameError::Empty, &["empty"]),
        (NameError::Dots, &["\".\"", "\"..\""]),
        (NameError::Slash, &["slash"]),
        (NameError::Nul, &["NUL"]),
        (NameError::TooLong { len: 300 }, &["300", "255", "bytes"]),
    ]);
    all_readable::<SizeError>(&[
        (SizeError::Zero, &["no bytes"]),
        (SizeError::Negative { asked: -5 }, &["-5 bytes"]),
        (SizeError::TooLarge { max: 12345 }, &["12345 bytes"]),
    ]);
}

#[test]
fn errors_of_headers_are_readable() {
    all_readable::<HeaderError>(&[
        (HeaderError::Truncated { len: 100, needed: 12288 }, &["100 bytes", "12288"]),
        (HeaderError::Magic { found: 0xabcd }, &["0x000000000000abcd", "not a segment"]),
        (HeaderError::Endianness, &["byte order"]),
        (HeaderError::Version { found: 7, supported: 1 }, &["version 7", "version 1"]),
        (HeaderError::Layout { found: 0xabcd }, &["0xabcd"]),
        (HeaderError::Length { total: 4097, payload: 2 }, &["4097", "2 bytes"]),
        (HeaderError::Flags { found: 0xabcd }, &["flags", "0xabcd"]),
        (HeaderError::InitialLength { initial: 7, payload: 5 }, &["7 bytes", "grow to 5"]),
        (HeaderError::Membership { found: 0xabcd }, &["membership", "0x000000000000abcd"]),
        (HeaderError::Payload { found: 0xabcd }, &["payload", "0x000000000000abcd"]),
    ]);
}

#[test]
fn errors_of_boxes_and_owners_are_readable() {
    let mismatch = BoxError::Mismatch { size: 8, align: 2, asked_size: 16, asked_align: 4 };
    all_readable::<BoxError>(&[
        (BoxError::TooLarge { size: 24, payload: 16 }, &["24 bytes", "16"]),
        (BoxError::OverAligned { align: 8192, max: 4096 }, &["4096 bytes", "8192"]),
        (mismatch, &["8 bytes aligned to 2", "16 bytes aligned to 4"]),
        (BoxError::Damaged { found: 0xabcd }, &["damaged", "0x000000000000abcd"]),
        (BoxError::ReadOnly, &["read-only", "read_ref"]),
        (BoxError::Forked, &["fork"]),
        (BoxError::Severed, &["gone away", "again"]),
    ]);
    all_readable::<OwnError>(&[
        (OwnError::ReadOnly, &["read-only"]),
        (OwnError::Retired, &["name"]),
        (OwnError::Forked, &["fork"]),
        (OwnError::Severed, &["gone away", "again"]),
        (OwnError::Damaged, &["damaged"]),
    ]);
}

#[test]
fn errors_of_locks_are_readable() {
    all_readable::<LockFailure>(&[
        (LockFailure::OwnerDied, &["died", "half-written"]),
        (LockFailure::Busy, &["deadline", "stopped"]),
        (LockFailure::Deadlock, &["this thread", "guard"]),
        (LockFailure::NotRecoverable, &["given up"]),
        (LockFailure::NotAttached, &["no segment", "fork"]),
        (LockFailure::ReadOnly, &["read-only"]),
        (LockFailure::Severed, &["gone away", "again"]),
        (LockFailure::Damaged, &["damaged"]),
    ]);
}

#[test]
fn errors_of_opening_are_readable() {
    let not_regular = |found| ShmemError::NotRegular { found };
    all_readable::<ShmemError>(&[
        (ShmemError::NotFound, &["no segment", "name"]),
        (ShmemError::AlreadyExists, &["in use", "attach"]),
        (ShmemError::TooSmall { payload: 10, asked: 20 }, &["10 bytes", "20"]),
        (not_regular(FileKind::Directory), &["a directory"]),
        (not_regular(FileKind::Symlink), &["a symbolic link"]),
        (not_regular(FileKind::Fifo), &["a FIFO"]),
        (not_regular(FileKind::Other), &["a socket or device"]),
        (ShmemError::ForeignUser { uid: 1000, expected: 0 }, &["user 1000", "user 0", "Builder::uid"]),
        (ShmemError::Permissive { mode: 0o64, allowed: 0o6 }, &["0064", "0006", "Builder::mode"]),
        (ShmemError::Orphaned, &["owner died", "orphan policy", "unlink"]),
        (ShmemError::Full, &["56"]),
        (ShmemError::Busy, &["another process", "timeout"]),
        (ShmemError::NoSpace { asked: 4711 }, &["4711 bytes", "/dev/shm"]),
        (ShmemError::Unsealed, &["sealed", "Builder::memfd"]),
        (ShmemError::Severed, &["gone away", "again"]),
        (ShmemError::WrongSort, &["memfd", "descriptor"]),
        (ShmemError::FileSystem, &["/dev/shm", "tmpfs"]),
        (ShmemError::Os { call: "flock", errno: Errno::NOLCK }, &["flock", "locks"]),
    ]);
}

#[test]
fn the_source_is_the_cause() {
    let source = |error: ShmemError| error.source().map(ToString::to_string);
    let denied = ShmemError::Os { call: "open", errno: Errno::ACCESS };
    assert_eq!(source(denied), Some(Errno::ACCESS.to_string()));
    assert!(denied.source().unwrap().source().is_none());
    // These say themselves what the error in them says.
    for error in [
        ShmemError::NotFound,
        ShmemError::NoSpace { asked: 1 },
        ShmemError::Name(NameError::Dots),
        ShmemError::Size(SizeError::Zero),
        ShmemError::Header(HeaderError::Endianness),
        ShmemError::Box(BoxError::Forked),
        ShmemError::Own(OwnError::Retired),
    ] {
        assert_eq!(source(error), None, "{error:?}");
    }
    let error: Box<dyn Error> = ShmemError::Os { call: "open", errno: Errno::ACCESS }.into();
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Errno::ACCESS));
}

const OUT_OF_MEMORY: AllocError = AllocError::OutOfMemory { asked: 9, free: 0, largest_free: 0 };

/// Each operation's error goes straight into one of std, by `?`, and says what it is.
#[test]
fn errors_of_one_operation_become_io_errors() {
    fn through<E: Copy + PartialEq + Debug + Into<ShmemError>>(error: E)
    where
        io::Error: From<E>,
    {
        let inner = io::Error::from(error).into_inner().unwrap();
        assert_eq!(*inner.downcast::<ShmemError>().unwrap(), error.into());
    }
    through(NameError::Empty);
    through(SizeError::Zero);
    through(HeaderError::Endianness);
    through(BoxError::ReadOnly);
    through(OwnError::Retired);
    through(ArenaError::ReadOnly);
    through(OUT_OF_MEMORY);
    through(HandleError::Nothing);
    through(DirectoryError::Taken);
    through(LockFailure::Deadlock);
    through(CopyError::ReadOnly);
    let rejected: io::Error = Rejected { value: "a value of any type", error: OUT_OF_MEMORY }.into();
    assert_eq!(rejected.kind(), ErrorKind::OutOfMemory);
    let mutex = Mutex::new(0_u32);
    let failed: io::Error = mutex.lock().unwrap_err().into();
    assert_eq!(failed.kind(), ErrorKind::Other);
}

/// Of whichever guard.
#[test]
fn errors_of_locks_become_io_errors() {
    fn read(lock: &RwLock<u32>) -> io::Result<u32> {
        Ok(*lock.read()?)
    }
    fn write(lock: &RwLock<u32>) -> io::Result<u32> {
        Ok(*lock.write()?)
    }
    // In no segment.
    let lock = RwLock::new(0_u32);
    for failed in [read(&lock), write(&lock)] {
        let inner = failed.unwrap_err().into_inner().unwrap();
        let failure = ShmemError::Lock(LockFailure::NotAttached);
        assert_eq!(*inner.downcast::<ShmemError>().unwrap(), failure);
    }
}

#[test]
fn each_error_has_its_io_kind_and_comes_back() {
    let os = |errno| ShmemError::Os { call: "open", errno };
    for (error, kind) in [
        (ShmemError::Name(NameError::Empty), ErrorKind::InvalidInput),
        (ShmemError::Size(SizeError::Zero), ErrorKind::InvalidInput),
        (ShmemError::NotFound, ErrorKind::NotFound),
        (ShmemError::AlreadyExists, ErrorKind::AlreadyExists),
        (ShmemError::ForeignUser { uid: 1, expected: 0 }, ErrorKind::PermissionDenied),
        (ShmemError::Permissive { mode: 0o666, allowed: 0o600 }, ErrorKind::PermissionDenied),
        (ShmemError::Header(HeaderError::Endianness), ErrorKind::InvalidData),
        (ShmemError::Busy, ErrorKind::TimedOut),
        (ShmemError::Lock(LockFailure::Busy), ErrorKind::TimedOut),
        (ShmemError::Lock(LockFailure::Deadlock), ErrorKind::Deadlock),
        (ShmemError::Lock(LockFailure::ReadOnly), ErrorKind::PermissionDenied),
        (ShmemError::Directory(DirectoryError::NotFound), ErrorKind::NotFound),
        (ShmemError::Directory(DirectoryError::Taken), ErrorKind::AlreadyExists),
        (ShmemError::Directory(DirectoryError::Alloc(AllocError::Busy)), ErrorKind::TimedOut),
        (ShmemError::Alloc(OUT_OF_MEMORY), ErrorKind::OutOfMemory),
        (ShmemError::Handle(HandleError::Damaged { at: 8 }), ErrorKind::InvalidData),
        (ShmemError::Handle(HandleError::Nothing), ErrorKind::Other),
        (ShmemError::Copy(CopyError::ReadOnly), ErrorKind::PermissionDenied),
        (ShmemError::NoSpace { asked: 1 }, ErrorKind::StorageFull),
        (ShmemError::Full, ErrorKind::Other),
        (ShmemError::Orphaned, ErrorKind::Other),
        (os(Errno::ACCESS), ErrorKind::PermissionDenied),
        (os(Errno::NOMEM), ErrorKind::OutOfMemory),
        (os(Errno::ROFS), ErrorKind::ReadOnlyFilesystem),
        (os(Errno::NOENT), ErrorKind::NotFound),
    ] {
        let io: io::Error = error.into();
        assert_eq!(io.kind(), kind, "{error:?}");
        assert_eq!(io.to_string(), error.to_string());
        let inner = io.into_inner().unwrap();
        assert_eq!(*inner.downcast::<ShmemError>().unwrap(), error);
    }
}
