//! What came of the checks

use crate::allocator_id::AllocatorId;
use crate::error::{HeaderError, HeapError};
use crate::header::HEADER_LEN;
use core::fmt;

/// What came of the checks of a segment.
///
/// # Examples
/// ```
/// use shmem_bind::Builder;
/// use shmem_bind::inspect::{Snapshot, Verdict};
///
/// fn exit_code(verdict: Verdict) -> u8 {
///     match verdict {
///         Verdict::Sound | Verdict::Forming => 0,
///         Verdict::Damaged(_) => 2,
///         _ => 1,
///     }
/// }
/// # let name = &format!("shmem-bind-doc-{}-verdict", std::process::id());
/// let _segment = Builder::new(name).with_size(64).create()?;
/// assert_eq!(exit_code(Snapshot::take(name)?.verdict()), 0);
/// let verdict = Snapshot::of_bytes(b"#!/bin/sh").verdict();
/// assert_eq!(exit_code(verdict), 2);
/// assert!(verdict.to_string().starts_with("damaged: header: "));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// All that was checked holds. What a dead holder of a lock has left half done counts as sound, if the next one who takes the
    /// lock puts it right.
    Sound,
    /// The segment is being created, or its creator died before it was done. There is nothing to check yet.
    Forming,
    /// Something does not hold, and has not changed while it was looked at again and again.
    Damaged(Damage),
    /// It was never still for long enough to be judged: each copy had something that does not hold, and each time something
    /// else. That is as it must be while others are at work.
    Changing,
    /// The header is sound, and what else could be read; the rest was not looked at.
    Unchecked(Unchecked),
}

/// What does not hold in a segment.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{Damage, Part, Snapshot, Verdict};
/// use shmem_bind::{Builder, HEADER_LEN, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-damage", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let _object = arena.alloc(7_u64)?;
/// let block = Snapshot::take(name)?.arena().unwrap().blocks()[0];
///
/// // Somebody has written over the header of the block.
/// let mut saved = std::fs::read(format!("/dev/shm/{name}")).unwrap();
/// let at = HEADER_LEN as u64 + block.offset();
/// saved[at as usize..][..24].fill(0xff);
/// let damage = Damage::Words { part: Part::Allocator, at };
/// assert_eq!(Snapshot::of_bytes(&saved).verdict(), Verdict::Damaged(damage));
/// assert_eq!(damage.to_string(), format!("allocator: the words at byte {at} of the segment"));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The header: the variant says which part. If it is the magic number, this is no segment of this crate at all.
    Header(HeaderError),
    /// An attachment counts that is nobody's.
    Tenant {
        /// Number of its slot.
        slot: u32,
    },
    /// The word of a lock is none that a lock can have.
    Lock(Part),
    /// Somebody could not put right what a dead holder of its lock has left, and gave it up for good.
    GivenUp(Part),
    /// Words that contradict each other, or that nothing can have.
    Words {
        /// What they belong to.
        part: Part,
        /// Where the first of them is, in bytes from the start of the segment.
        at: u64,
    },
}

/// A part of an arena that is checked by itself.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{Damage, Part, Snapshot, Verdict};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-part", std::process::id());
/// let _arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let mut saved = std::fs::read(format!("/dev/shm/{name}")).unwrap();
/// // There is no slot of this number.
/// saved[192..196].copy_from_slice(&(100_u32 << 24).to_ne_bytes());
///
/// let Verdict::Damaged(Damage::Lock(part)) = Snapshot::of_bytes(&saved).verdict() else { panic!() };
/// assert_eq!((part, &*part.to_string()), (Part::Directory, "directory"));
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Blocks, and what the allocator says of them.
    Allocator,
    /// The bitmap of the objects that something outside may lead to.
    Exports,
    /// Names, and what they lead to.
    Directory,
}

/// Why a part of a segment was not looked at.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{Snapshot, Unchecked, Verdict};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-unchecked", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let _object = arena.alloc_slice(10_000, 1_u8)?;
/// let verdict = Snapshot::take_up_to(name, 4096)?.verdict();
/// let Verdict::Unchecked(Unchecked::TooLarge { limit }) = verdict else { panic!() };
/// assert!(verdict.to_string().ends_with("more than 4096 bytes of memory, the most that is copied"));
/// assert_eq!(Snapshot::take_up_to(name, limit * 16)?.verdict(), Verdict::Sound);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unchecked {
    /// It has more memory than is copied.
    TooLarge {
        /// How many bytes are copied at most.
        limit: u64,
    },
    /// There is no memory, or no address space, for a copy.
    NoMemory,
    /// It is managed by an allocator that is not of this crate.
    Allocator(AllocatorId),
    /// The arena is being formatted, or whoever did so has died.
    Unformatted,
    /// It is said to be far longer than the segment has memory, and so for the most part a hole: one that nobody has
    /// written, or that was cut out of a file that was saved.
    Hole(Part),
}

impl Damage {
    /// What a check of a part says; `None` if that is nothing against it.
    pub(super) const fn of(part: Part, error: HeapError) -> Option<Self> {
        match error {
            HeapError::Damaged { at } => Some(Self::Words { part, at: at.saturating_add(HEADER_LEN as u64) }),
            HeapError::NotRecoverable => Some(Self::GivenUp(part)),
            // Nobody else is in the copy, and nothing is allocated in it.
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sound => f.write_str("sound"),
            Self::Forming => f.write_str("being created, or left by a creator that died"),
            Self::Damaged(damage) => write!(f, "damaged: {damage}"),
            Self::Changing => f.write_str("changing all the time; look again when less is going on"),
            Self::Unchecked(reason) => write!(f, "sound as far as it was checked: {reason}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => write!(f, "header: {error}"),
            Self::Tenant { slot } => write!(f, "header: attachment {slot} counts and is nobody's"),
            Self::Lock(part) => write!(f, "{part}: the word of the lock is none that a lock can have"),
            Self::GivenUp(part) => {
                write!(f, "{part}: what a dead holder of the lock has left could not be put right")
            }
            Self::Words { part, at } => write!(f, "{part}: the words at byte {at} of the segment"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allocator => "allocator",
            Self::Exports => "export bitmap",
            Self::Directory => "directory",
        })
    }
}

impl fmt::Display for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => {
                write!(f, "it has more than {limit} bytes of memory, the most that is copied")
            }
            Self::NoMemory => f.write_str("there is no memory for a copy"),
            Self::Allocator(id) => write!(f, "the allocator {id} is not of this crate"),
            Self::Unformatted => f.write_str("the arena is being formatted, or whoever did so has died"),
            Self::Hole(part) => {
                write!(f, "the {part} is said to be far longer than the segment has memory")
            }
        }
    }
}
