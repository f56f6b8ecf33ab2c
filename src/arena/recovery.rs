//! Giving back what the dead held
//!
//! A process that dies leaves its slot, and in the state words of blocks its number. Whoever has opened the arena and
//! notices it claims the slot, so that one process works at a time and a dead one is replaced; puts the directory right
//! if the dead held its lock; looks at every block once, which puts the heap right if the dead held that lock; and
//! frees the slot last. Each step may be the last one of this process too, and is begun again by the next.
//!
//! | block | becomes |
//! |---|---|
//! | exclusive to the dead, or condemned by it | free; no destructor runs |
//! | shared, the dead among the holders | the same without it; free if nobody holds it and it has no name |
//! | leaked by the dead | stays: its handle may be on its way |

use super::{Arena, exports};
use crate::allocator::RegionAllocator;
use crate::attachment::Attached;
use crate::directory::Directory;
use crate::error::{ArenaError, HeapError};
use crate::heap::Block;
use crate::membership::Slot;
use crate::object::{Event, Kind};
use core::sync::atomic::Ordering;

/// What was given back of processes that died, for the log of a daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Objects that were freed: nobody else had them.
    pub objects: u64,
    /// How many bytes that were, with the headers of their blocks.
    pub bytes: u64,
    /// References to objects that others have too.
    pub references: u64,
}

impl<A: RegionAllocator> Arena<A> {
    /// Gives back what processes held that have died.
    ///
    /// Opening the arena does this, and so does an allocation that finds no memory. Takes time in proportion to the
    /// number of objects, but only if somebody has died.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn sweep(&self) -> Result<Reclaimed, ArenaError> {
        let attached = self.conf.0.get().ok_or(ArenaError::Forked)?;
        let mut total = Reclaimed::default();
        if attached.has_estate() {
            let own = attached.slot().map_or(0, Slot::bit);
            total = reclaim::<A>(attached, own, true)?;
        }
        if let Some(result) = attached.member().bury(|slots| reclaim::<A>(attached, slots, false)) {
            let Reclaimed { objects, bytes, references } = result?;
            total.objects = total.objects.saturating_add(objects);
            total.bytes = total.bytes.saturating_add(bytes);
            total.references = total.references.saturating_add(references);
        }
        Ok(total)
    }

    /// All that was given back of the dead since the arena was made, by any process.
    #[must_use]
    pub fn reclaimed(&self) -> Reclaimed {
        let Some(attached) = self.conf.0.get() else { return Reclaimed::default() };
        let counters = &attached.region.header().arena;
        Reclaimed {
            objects: counters.objects.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            references: counters.references.load(Ordering::Relaxed),
        }
    }
}

/// Gives back what the former tenants of these slots held; of the own slot, what it was inherited with.
fn reclaim<A: RegionAllocator>(
    attached: &Attached,
    slots: u64,
    is_estate: bool,
) -> Result<Reclaimed, HeapError> {
    let header = attached.region.header();
    let heap = attached.heap().ok_or(HeapError::Busy)?;
    let exports = exports(attached);
    let entered = Directory::<A>::new(&heap, &header.directory, exports).enter()?;
    // Of several threads one gives the estate back: to the next, what is in the own slot is its own.
    if is_estate && !attached.has_estate() {
        return Ok(Reclaimed::default());
    }
    let (mut objects, mut references) = (0_u64, 0_u64);
    let bytes = A::retain(&heap, &mut |block: &Block| {
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
    if is_estate {
        attached.settle_estate();
    }
    drop(entered);
    header.arena.objects.fetch_add(objects, Ordering::Relaxed);
    header.arena.bytes.fetch_add(bytes, Ordering::Relaxed);
    header.arena.references.fetch_add(references, Ordering::Relaxed);
    Ok(Reclaimed { objects, bytes, references })
}
