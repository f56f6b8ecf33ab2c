//! What was found where a segment was expected

use core::error::Error;
use core::fmt;

/// What was found where a regular file was expected.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, FileKind, ShmemError};
///
/// # let name = &format!("shmem-bind-doc-{}-kind", std::process::id());
/// std::fs::create_dir(format!("/dev/shm/{name}")).unwrap();
/// let error = Builder::new(name).attach().unwrap_err();
/// # std::fs::remove_dir(format!("/dev/shm/{name}")).unwrap();
/// assert_eq!(error, ShmemError::NotRegular { found: FileKind::Directory });
/// assert_eq!(FileKind::Directory.to_string(), "a directory");
/// ```
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
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, HeaderError, ShmemError};
///
/// # let name = &format!("shmem-bind-doc-{}-header-error", std::process::id());
/// std::fs::write(format!("/dev/shm/{name}"), [b'x'; 10_000]).unwrap();
/// # std::fs::set_permissions(format!("/dev/shm/{name}"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
/// let error = Builder::new(name).attach().unwrap_err();
/// # std::fs::remove_file(format!("/dev/shm/{name}")).unwrap();
/// assert!(matches!(error, ShmemError::Header(HeaderError::Magic { .. })));
/// ```
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

impl Error for HeaderError {}
