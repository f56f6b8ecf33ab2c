//! The header as it lies in the segment

use super::{HEADER_LEN, Payload};
use crate::error::HeaderError;
use crate::heap::HeapControl;
use crate::lock::RawLock;
use crate::membership::{MAX_ATTACHMENTS, Membership, Slot};
use crate::tenancy::Tenancy;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use static_assertions::const_assert_eq;

/// The header as it lies in the segment. Any process may change any of it at any time.
#[repr(C, align(64))]
pub(crate) struct SharedHeader {
    pub(super) magic: AtomicU64,
    pub(super) format: AtomicU64,
    pub(super) total_len: AtomicU64,
    pub(super) payload_len: AtomicU64,
    pub(super) flags: AtomicU64,
    pub(super) id_high: AtomicU64,
    pub(super) id_low: AtomicU64,
    pub(super) initial_len: AtomicU64,
    pub(super) membership: AtomicU64,
    pub(super) payload: AtomicU64,
    pub(super) swept: AtomicU64,
    pub(super) adopted: AtomicU64,
    pub(super) unlink_failures: AtomicU64,
    unused: [AtomicU64; 3],
    /// Of the heap of an arena.
    pub(crate) heap: HeapControl,
    pub(crate) directory: DirectoryWords,
    pub(crate) arena: ArenaWords,
    reserved: [AtomicU64; 24],
    pub(super) slots: [SharedSlot; MAX_ATTACHMENTS as usize],
}

/// The words of an arena's directory that are not in its heap; `directory.rs` says what they mean.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct DirectoryWords {
    /// Held also while the arena is formatted and while it grows.
    pub(crate) lock: RawLock,
    /// Offset of the block of the table, 0: none; and how often it was replaced.
    pub(crate) table: AtomicU64,
    /// Number of names.
    pub(crate) names: AtomicU64,
    /// Number of places of the table that are not empty.
    pub(crate) occupied: AtomicU64,
    /// Changes whenever a name is published.
    pub(crate) event: AtomicU32,
    /// Whether somebody may sleep until `event` changes.
    pub(crate) waiters: AtomicU32,
    /// What the holder of the lock is about to change, so that its successor can finish it: the offset of a
    /// published object, and of two of the directory's own blocks; 0: none.
    pub(crate) intent_object: AtomicU64,
    pub(crate) intent_blocks: [AtomicU64; 2],
}

impl DirectoryWords {
    /// As it is before anything was published; for the one that formats the arena and has the lock.
    pub(crate) fn reset(&self) {
        let [one, other] = &self.intent_blocks;
        for word in [&self.table, &self.names, &self.occupied, &self.intent_object, one, other] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The counters of an arena.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct ArenaWords {
    /// The last serial drawn for a handle.
    pub(crate) serial: AtomicU64,
    /// Objects that died with their holder, and were freed.
    pub(crate) objects: AtomicU64,
    /// How many bytes these were, headers included.
    pub(crate) bytes: AtomicU64,
    /// References that the dead held to objects that others hold too.
    pub(crate) references: AtomicU64,
    /// Blocks that could not be freed because the heap is damaged.
    pub(crate) lost: AtomicU64,
    /// Dead attachments whose objects were given back.
    pub(crate) attachments: AtomicU64,
    unused: [AtomicU64; 2],
}

/// One attachment: who has it, and how often the slot has been let.
#[repr(C, align(64))]
pub(super) struct SharedSlot {
    tenancy: AtomicU64,
    generation: AtomicU64,
}

// On machines of 32 and of 64 bits alike.
const_assert_eq!(size_of::<SharedHeader>(), HEADER_LEN);
const_assert_eq!(align_of::<SharedHeader>(), 64);
const_assert_eq!(offset_of!(SharedHeader, initial_len), 56);
const_assert_eq!(offset_of!(SharedHeader, membership), 64);
const_assert_eq!(offset_of!(SharedHeader, payload), 72);
const_assert_eq!(offset_of!(SharedHeader, heap), 128);
const_assert_eq!(offset_of!(SharedHeader, directory), 192);
const_assert_eq!(offset_of!(SharedHeader, arena), 256);
const_assert_eq!(offset_of!(SharedHeader, slots), 512);
const_assert_eq!(size_of::<SharedSlot>(), 64);
const_assert_eq!(offset_of!(SharedSlot, generation), 8);
const_assert_eq!(size_of::<DirectoryWords>(), 64);
const_assert_eq!(offset_of!(DirectoryWords, table), 8);
const_assert_eq!(offset_of!(DirectoryWords, event), 32);
const_assert_eq!(offset_of!(DirectoryWords, waiters), 36);
const_assert_eq!(offset_of!(DirectoryWords, intent_object), 40);
const_assert_eq!(offset_of!(DirectoryWords, intent_blocks), 48);
const_assert_eq!(size_of::<ArenaWords>(), 64);
const_assert_eq!(offset_of!(ArenaWords, attachments), 40);

/// What has happened to a segment, for the log of a daemon.
///
/// # Examples
/// ```
/// use shmem_bind::Builder;
///
/// let (segment, _fd) = Builder::memfd().create(64)?;
/// let statistics = segment.statistics();
/// println!("{} have died, of whom {} owned it", statistics.swept, statistics.adopted);
/// assert_eq!(statistics.unlink_failures, 0);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Attachments of processes that died, given back.
    pub swept: u64,
    /// How often a new owner took the place of one that died.
    pub adopted: u64,
    /// How often the name could not be removed for want of permission.
    pub unlink_failures: u64,
}

/// What the header counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    Swept,
    Adopted,
    UnlinkFailures,
}

impl SharedHeader {
    // SYNC: all words that decide something are loaded with Acquire and changed with AcqRel, here and nowhere
    // else: what a process did before it attached, left or swept is seen by whoever sees that it did.

    pub(crate) fn membership(&self) -> Membership {
        Membership::from_bits(load(&self.membership))
    }

    /// Puts `new` in the place of exactly `old`.
    pub(crate) fn replace_membership(&self, old: Membership, new: Membership) -> bool {
        replace(&self.membership, old.bits(), new.bits())
    }

    pub(crate) fn tenancy(&self, slot: Slot) -> Tenancy {
        self.slot(slot).map_or(Tenancy::FREE, |slot| Tenancy::from_bits(load(&slot.tenancy)))
    }

    /// Puts `new` in the place of exactly `old`.
    pub(crate) fn replace_tenancy(&self, slot: Slot, old: Tenancy, new: Tenancy) -> bool {
        self.slot(slot).is_some_and(|slot| replace(&slot.tenancy, old.bits(), new.bits()))
    }

    pub(crate) fn generation(&self, slot: Slot) -> u64 {
        self.slot(slot).map_or(0, |slot| load(&slot.generation))
    }

    /// Counts one more tenant of this slot, the caller, and gives the new count.
    pub(crate) fn next_generation(&self, slot: Slot) -> u64 {
        self.slot(slot).map_or(0, |slot| slot.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1))
    }

    pub(crate) fn payload(&self) -> Result<Payload, HeaderError> {
        Payload::from_bits(load(&self.payload))
    }

    /// Says what the payload is, unless that has been said.
    pub(crate) fn set_payload(&self, payload: Payload) -> bool {
        self.replace_payload(Payload::Unset, payload)
    }

    /// Puts `new` in the place of exactly `old`.
    pub(crate) fn replace_payload(&self, old: Payload, new: Payload) -> bool {
        replace(&self.payload, old.to_bits(), new.to_bits())
    }

    /// Whether the segment holds objects that somebody has to give back when their holder dies.
    pub(crate) fn is_arena(&self) -> bool {
        matches!(self.payload(), Ok(Payload::Arena { .. }))
    }

    pub(crate) fn count(&self, counter: Counter) {
        let counter = match counter {
            Counter::Swept => &self.swept,
            Counter::Adopted => &self.adopted,
            Counter::UnlinkFailures => &self.unlink_failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            swept: self.swept.load(Ordering::Relaxed),
            adopted: self.adopted.load(Ordering::Relaxed),
            unlink_failures: self.unlink_failures.load(Ordering::Relaxed),
        }
    }

    fn slot(&self, slot: Slot) -> Option<&SharedSlot> {
        self.slots.get(slot.index())
    }
}

/// An acquiring load, also from a read-only mapping: there, only a relaxed load is sure to be a mere read (and
/// one of 64 bits only on 64-bit machines; on 32-bit x86 it is one in practice).
fn load(word: &AtomicU64) -> u64 {
    let bits = word.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    bits
}

fn replace(word: &AtomicU64, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
