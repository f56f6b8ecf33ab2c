//! Giving back what the dead held
//!
//! A process that dies leaves its slot, and in the state words of blocks its number. Whoever has opened the arena and
//! notices it takes the directory's lock, so that one process works at a time, which puts the directory right if the dead
//! held that lock; claims the slot; looks at every block once, which puts the heap right if the dead held that lock; and
//! frees the slot last. Each step may be the last one of this process too, and is begun again by the next.
//!
//! | block | becomes |
//! |---|---|
//! | exclusive to the dead, or condemned by it | free; no destructor runs |
//! | shared, the dead among the holders | the same without it; free if nobody holds it and it has no name |
//! | leaked by the dead | stays: its handle may be on its way |

use super::{Arena, directory};
use crate::allocator::RegionAllocator;
use crate::attachment::Attached;
use crate::error::{ArenaError, HeapError, Unusable};
use crate::exports::Exports;
use crate::header::SharedHeader;
use crate::heap::{Block, Heap};
use crate::membership::Slot;
use crate::object::{Event, Kind};
use crate::region::Region;
use core::fmt;
use core::sync::atomic::Ordering;

/// What was given back of processes that died, for the log of a daemon.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let reclaimed = arena.sweep()?;
/// assert!(reclaimed.is_empty());
/// assert_eq!(
///     reclaimed.to_string(),
///     "0 objects (0 bytes), 0 references and 0 locks of 0 dead attachments"
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Attachments of the dead. A process has as many as it has opened the segment.
    pub attachments: u64,
    /// Objects that were freed: nobody else had them.
    pub objects: u64,
    /// How many bytes that were, with the headers of their blocks.
    pub bytes: u64,
    /// References to objects that others have too.
    pub references: u64,
    /// Locks of the arena that the dead held; what these protect was put right.
    pub locks: u64,
}

impl Reclaimed {
    /// Whether nothing was given back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Reclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |f: &mut fmt::Formatter<'_>, number: u64, what: &str| {
            write!(f, "{number} {what}{}", if number == 1 { "" } else { "s" })
        };
        count(f, self.objects, "object")?;
        f.write_str(" (")?;
        count(f, self.bytes, "byte")?;
        f.write_str("), ")?;
        count(f, self.references, "reference")?;
        f.write_str(" and ")?;
        count(f, self.locks, "lock")?;
        f.write_str(" of ")?;
        count(f, self.attachments, "dead attachment")
    }
}

impl<A: RegionAllocator> Arena<A> {
    /// Gives back what processes held that have died.
    ///
    /// Opening the arena does this, and so does an operation that finds no memory, or that finds a lock in the hands of
    /// the dead. Takes time in proportion to the number of objects, but only if somebody has died.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let reclaimed = arena.sweep()?;
    /// if !reclaimed.is_empty() {
    ///     println!("given back: {reclaimed}");
    /// }
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn sweep(&self) -> Result<Reclaimed, ArenaError> {
        let (attached, heap) = self.parts()?;
        let result = if attached.has_estate() || attached.member().has_estates() {
            reclaim::<A>(attached, &heap)
        } else {
            Ok(Reclaimed::default())
        };
        self.result(attached, result)
    }

    /// After an operation: if it has taken a lock over from one that died, gives back what else that one held.
    /// The operation has what it wanted, so nobody is waited for: whoever is just using the directory leaves the rest to
    /// the next one.
    ///
    /// If the segment has lost memory meanwhile, whatever the operation has found is of no worth.
    #[inline]
    pub(super) fn after(&self, attached: &Attached) -> Result<(), Unusable> {
        if attached.alarms() == 0 { Ok(()) } else { self.after_alarm() }
    }

    #[cold]
    fn after_alarm(&self) -> Result<(), Unusable> {
        let (attached, heap) = self.parts()?;
        attached.take_takeovers();
        sweep_and_reclaim::<A>(attached, &heap.impatient());
        if attached.is_severed() { Err(Unusable::Severed) } else { Ok(()) }
    }

    /// Gives back what the dead held. If another process is just doing so, this waits for it, for both hold the
    /// directory's lock.
    #[cold]
    pub(super) fn wait_for_the_dead(&self) {
        if let Ok((attached, heap)) = self.parts() {
            sweep_and_reclaim::<A>(attached, &heap);
        }
    }

    /// All that was given back of the dead since the arena was made, by any process. (If one died while it gave
    /// something back, that may be counted twice, or not at all.)
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// println!("{} processes have died here so far", arena.reclaimed().attachments);
    /// # assert!(arena.reclaimed().is_empty());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn reclaimed(&self) -> Reclaimed {
        self.conf.0.get().map_or_else(Reclaimed::default, |attached| so_far(attached.region.header()))
    }
}

/// What was given back since the arena was made.
pub(crate) fn so_far(header: &SharedHeader) -> Reclaimed {
    let counters = &header.arena;
    Reclaimed {
        objects: counters.objects.load(Ordering::Relaxed),
        bytes: counters.bytes.load(Ordering::Relaxed),
        references: counters.references.load(Ordering::Relaxed),
        attachments: counters.attachments.load(Ordering::Relaxed),
        locks: header.heap.takeovers(),
    }
}

/// Gives back what the dead held, as far as that can be done.
fn sweep_and_reclaim<A: RegionAllocator>(attached: &Attached, heap: &Heap<'_>) {
    attached.member().sweep_dead();
    // If it fails, what the dead held stays theirs, for the next one to try.
    let _: Result<Reclaimed, ArenaError> = reclaim::<A>(attached, heap);
}

/// Gives back what the dead held of whom it is known that they died, and what those held who died with a lock that this takes
/// over. Of several that are at it at once one is at work, and when it is done the others find nothing left.
fn reclaim<A: RegionAllocator>(attached: &Attached, heap: &Heap<'_>) -> Result<Reclaimed, ArenaError> {
    let _entered = directory::<A>(attached, heap).enter()?;
    let mut reclaimed = Reclaimed::default();
    // There are two locks; whoever dies meanwhile, with a lock that another one takes over, is the other one's to find.
    for _ in 0..3 {
        match attached.take_takeovers() {
            0 => {}
            locks => {
                reclaimed.locks = reclaimed.locks.saturating_add(locks);
                attached.member().sweep_dead();
            }
        }
        // What the last tenant of the own slot left is given back with what the others did.
        let inherited = if attached.has_estate() { attached.slot().map_or(0, Slot::bit) } else { 0 };
        let found = attached.member().bury(inherited, |slots| {
            let found = give_back::<A>(&attached.region, heap, slots)?;
            // Else it was given back where nobody sees it.
            if heap.is_severed() { Err(HeapError::Busy) } else { Ok(found) }
        })?;
        attached.settle_estate();
        if let Some(found) = found {
            let dead = &attached.region.header().arena.attachments;
            dead.fetch_add(found.attachments, Ordering::Relaxed);
            reclaimed.attachments = reclaimed.attachments.saturating_add(found.attachments);
            reclaimed.objects = reclaimed.objects.saturating_add(found.objects);
            reclaimed.bytes = reclaimed.bytes.saturating_add(found.bytes);
            reclaimed.references = reclaimed.references.saturating_add(found.references);
        }
        if attached.takeovers() == 0 {
            break;
        }
    }
    Ok(reclaimed)
}

/// Gives back what the former tenants of these slots held. The caller has the directory's lock.
pub(crate) fn give_back<A: RegionAllocator>(
    region: &Region,
    heap: &Heap<'_>,
    slots: u64,
) -> Result<Reclaimed, HeapError> {
    let exports = Exports::new(region.export_words());
    let (mut objects, mut references) = (0_u64, 0_u64);
    let bytes = A::retain(heap, &mut |block: &Block| {
        let is_dead = |slot: Slot| slots & slot.bit() != 0;
        let keep = match block.state.kind() {
            Ok(Kind::Exclusive(slot) | Kind::Condemned(Some(slot))) => !is_dead(slot),
            // Taken by a dead holder of the allocator's lock, in order to be freed.
            Ok(Kind::Condemned(None)) => false,
            Ok(Kind::Shared(bitmap)) if bitmap & slots != 0 => {
                let dead = bitmap & slots;
                let mut keep = true;
                for slot in Slot::all().filter(|slot| dead & slot.bit() != 0) {
                    // A word that is damaged stays as it is.
                    keep &= !matches!(heap.change(block.offset, Event::Sweep(slot)), Ok(Ok((_, None))));
                }
                if keep {
                    references = references.saturating_add(u64::from(dead.count_ones()));
                }
                keep
            }
            _ => true,
        };
        if !keep {
            objects = objects.saturating_add(1);
            exports.clear(block.offset);
        }
        keep
    })?;
    let counters = &region.header().arena;
    counters.objects.fetch_add(objects, Ordering::Relaxed);
    counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    counters.references.fetch_add(references, Ordering::Relaxed);
    Ok(Reclaimed { attachments: slots.count_ones().into(), objects, bytes, references, locks: 0 })
}
