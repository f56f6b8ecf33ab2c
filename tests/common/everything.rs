//! An arena with something of each sort in it, and all that can be done with it
//!
//! All values are such that zeros are one too, for memory may go away under them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

use shmem_bind::sync::Mutex;
use shmem_bind::{
    AllocError, Arena, ArenaError, BoxError, DirectoryError, Handle, HandleError, LockFailure, OwnError,
    RegionAllocator, ShmemArc, ShmemBox, ShmemError,
};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// An arena, and what a process holds of it.
pub struct Everything<A> {
    pub arena: Arena<A>,
    pub boxed: ShmemBox<[u8]>,
    pub shared: ShmemArc<AtomicU64>,
    pub mutex: ShmemArc<Mutex<u64>>,
    pub handle: Cell<Handle<u64>>,
}

/// What is done, and its name.
pub type Operation<A> = (&'static str, fn(&Everything<A>) -> Result<(), ShmemError>);

impl<A: RegionAllocator> Everything<A> {
    /// Fills an arena.
    pub fn in_arena(arena: Arena<A>) -> Self {
        let shared = ShmemBox::into_arc(arena.alloc(AtomicU64::new(5)).unwrap());
        arena.publish("shared", &shared).unwrap();
        let pinned = ShmemBox::into_arc(arena.alloc(7_u64).unwrap());
        arena.publish_pinned("pinned", &pinned).unwrap();
        let mutex = arena.find_or_alloc("mutex", || Mutex::new(9_u64)).unwrap();
        let handle = Cell::new(ShmemBox::leak(arena.alloc(11_u64).unwrap()));
        // From one end of the memory to the other.
        let boxed = arena.alloc_slice(arena.size() / 2, 13_u8).unwrap();
        Self { arena, boxed, shared, mutex, handle }
    }

    /// Each of them can be done in any order, and as often as one likes.
    pub const OPERATIONS: [Operation<A>; 17] = [
        ("alloc", |all| {
            all.arena.alloc(1_u64)?;
            Ok(())
        }),
        ("alloc a slice", |all| {
            all.arena.alloc_slice(5000, 1_u8)?;
            Ok(())
        }),
        ("claim", |all| {
            let claimed = all.arena.claim(all.handle.get())?;
            all.handle.set(ShmemBox::leak(claimed));
            Ok(())
        }),
        ("leak and claim", |all| {
            let handle = ShmemBox::leak(all.arena.alloc(1_u64)?);
            all.arena.claim(handle)?;
            Ok(())
        }),
        ("find", |all| {
            all.arena.find::<AtomicU64>("shared")?.fetch_add(1, Relaxed);
            Ok(())
        }),
        ("find what is not there", |all| match all.arena.find::<u64>("nobody") {
            Err(DirectoryError::NotFound) => Ok(()),
            result => Ok(result.map(|_| ())?),
        }),
        ("find or alloc", |all| {
            all.arena.find_or_alloc("counter", || AtomicU64::new(0))?;
            Ok(())
        }),
        ("publish and unpublish", |all| {
            let object = ShmemBox::into_arc(all.arena.alloc(3_u64)?);
            all.arena.publish("for a moment", &object)?;
            all.arena.unpublish::<u64>("for a moment")?;
            Ok(())
        }),
        ("names", |all| {
            for entry in all.arena.names().take(1000) {
                entry?;
            }
            Ok(())
        }),
        ("leaked", |all| {
            all.arena.leaked().take(1000).for_each(|_| {});
            Ok(())
        }),
        ("share", |all| {
            let shared = ShmemBox::into_arc(all.arena.alloc(1_u64)?);
            drop(shared.clone());
            drop(ShmemArc::into_box(shared));
            Ok(())
        }),
        ("find pinned", |all| {
            all.arena.conf().find_pinned::<u64>("pinned")?;
            Ok(())
        }),
        ("lock", |all| {
            *all.mutex.lock_for(Duration::from_secs(20)).map_err(LockFailure::from)? += 1;
            Ok(())
        }),
        ("own", |all| Ok(all.arena.conf().try_own()?)),
        ("usage", |all| {
            all.arena.usage()?;
            Ok(())
        }),
        ("sweep", |all| {
            all.arena.sweep()?;
            Ok(())
        }),
        // Looks at every block, and at the whole export bitmap.
        ("check", |all| Ok(all.arena.check()?)),
    ];

    /// Looks at the values.
    pub fn look(&self) -> u64 {
        self.boxed.iter().map(|byte| u64::from(*byte)).sum::<u64>() + self.shared.load(Relaxed)
    }
}

/// Whether this is the error of those whose memory has gone away.
pub fn is_severed(error: ShmemError) -> bool {
    matches!(
        error,
        ShmemError::Severed
            | ShmemError::Box(BoxError::Severed)
            | ShmemError::Arena(ArenaError::Severed)
            | ShmemError::Alloc(AllocError::Severed)
            | ShmemError::Handle(HandleError::Severed)
            | ShmemError::Directory(DirectoryError::Severed | DirectoryError::Alloc(AllocError::Severed))
            | ShmemError::Lock(LockFailure::Severed)
            | ShmemError::Own(OwnError::Severed)
    )
}
