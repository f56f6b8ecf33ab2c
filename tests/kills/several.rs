//! What several processes have at a time: a lock for readers and writers, and permits
//!
//! What the dead have left of it, what is done with it, and what must be true of it then.

use super::judge::{lost, must};
use super::scenes::{Leaves, Scene, Victim};
use super::stage::{Past, patience};
use crate::common::arena::Allocator;
use crate::common::campaign::Wrong;
use crate::common::pair::Pair;
use shmem_bind::sync::{LockError, LockFailure, RwLock, RwLockWriteGuard, Semaphore};
use shmem_bind::{Arena, ShmemArc, ShmemBox, shareable};
use std::panic::panic_any;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

shareable! {
    /// What several processes have at a time.
    #[derive(Debug)]
    #[repr(C)]
    pub struct Several {
        pub lock: RwLock<Pair, 2>,
        pub permits: Semaphore<2>,
    }
}

impl Several {
    /// Somebody has waited in vain, and may do so still, for all that is said.
    pub fn in_vain(arena: &Arena<impl Allocator>) -> ShmemArc<Self> {
        let object = Self { lock: RwLock::with_readers(Pair::of(1)), permits: Semaphore::new() };
        let object = ShmemBox::into_arc(arena.alloc(object).unwrap());
        let all = [0; 2].map(|_| object.permits.try_acquire().unwrap());
        object.permits.try_acquire().unwrap_err();
        drop(all);
        object
    }
}

pub const SEVERAL: &str = "several";

pub fn several<A: Allocator>(arena: &Arena<A>) -> ShmemArc<Several> {
    arena.find(SEVERAL).unwrap()
}

/// Those who died with it before the victim came.
pub fn deaths(past: Past) -> &'static [fn(&Several)] {
    match past {
        Past::SeveralRead => &[|several| {
            std::mem::forget(several.lock.write().unwrap());
            // As if it had just come to write, and another thread of its had read before.
            // SAFETY: the places of the writer and of a reader, of one that has them for itself.
            let places: &[AtomicU64; 2] =
                unsafe { &*(&raw const several.lock).cast::<AtomicU64>().add(3).cast() };
            places[1].store(places[0].swap(0, SeqCst) + (1 << 11) + 1, SeqCst);
            std::mem::forget(several.permits.acquire().unwrap());
        }],
        Past::SeveralWritten => &[|several| {
            let mut guard = several.lock.write().unwrap();
            guard.first = 2;
            std::mem::forget(guard);
            std::mem::forget([0; 2].map(|_| several.permits.acquire().unwrap()));
        }],
        _ => &[],
    }
}

/// What a scene is added by: as which, what there was before, what may be gone, whether all of it is in the segment, and what is done.
type Add<'a, A> = &'a mut dyn FnMut(&'static str, Past, Leaves, bool, fn(Victim<'_, A>));

pub fn add_scenes<A: Allocator>(add: Add<'_, A>) {
    use Past::{Several, SeveralRead, SeveralWritten};
    const MOMENT: Duration = Duration::from_millis(2);
    let nothing = Leaves::empty();
    for (label, past) in [("read", Several), ("read after deaths", SeveralRead)] {
        add(label, past, nothing, true, |victim| {
            let several = several(&victim.attach());
            victim.does(|| drop(several.lock.read_for(patience()).unwrap()));
        });
    }
    for (label, past) in [("write", Several), ("write after deaths", SeveralRead)] {
        add(label, past, nothing, true, |victim| {
            let several = several(&victim.attach());
            victim.does(|| {
                let mut guard = several.lock.write_for(patience()).unwrap();
                guard.first = 2;
                guard.second = 2;
            });
        });
    }
    add("read twice, and give back the first", Several, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| {
            let first = several.lock.try_read().unwrap();
            let second = several.lock.try_read().unwrap();
            drop(first);
            std::mem::forget(second);
        });
    });
    add("write, and read on", Several, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| {
            let mut guard = several.lock.try_write().unwrap();
            guard.first = 2;
            guard.second = 2;
            drop(RwLockWriteGuard::downgrade(guard));
        });
    });
    add("write what is read, in vain", Several, nothing, true, |victim| {
        let (arena, other) = (victim.attach(), victim.attach());
        let (mine, others) = (several(&arena), several(&other));
        victim.does(|| {
            let guard = mine.lock.try_read().unwrap();
            // The same thread, so it is not even waited for.
            assert!(others.lock.try_write().is_err());
            drop(guard);
        });
    });
    add("read what the dead wrote, and replace", SeveralWritten, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| match several.lock.read_for(patience()) {
            Err(LockError::Orphaned(orphaned)) => drop(orphaned.replace(Pair::of(5))),
            other => panic!("{other:?}"),
        });
    });
    add("write what the dead wrote, and recover", SeveralWritten, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| match several.lock.write_for(patience()) {
            Err(LockError::Orphaned(orphaned)) => *orphaned.recover() = Pair::of(6),
            other => panic!("{other:?}"),
        });
    });
    add("read what the dead wrote, and leave it", SeveralWritten, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| drop(several.lock.read_for(patience()).unwrap_err()));
    });
    add("write what the dead wrote, and give it up", SeveralWritten, Leaves::GIVEN_UP, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| match several.lock.write_for(patience()) {
            Err(LockError::Orphaned(orphaned)) => orphaned.give_up(),
            other => panic!("{other:?}"),
        });
    });
    for (label, past) in [("acquire and release", Several), ("acquire what the dead had", SeveralWritten)] {
        add(label, past, nothing, true, |victim| {
            let several = several(&victim.attach());
            victim.does(|| drop([0; 2].map(|_| several.permits.acquire_for(patience()).unwrap())));
        });
    }
    add("acquire in vain", Several, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| {
            let _all = [0; 2].map(|_| several.permits.try_acquire().unwrap());
            assert!(several.permits.acquire_for(MOMENT).is_err());
        });
    });
    add("reclaim", SeveralWritten, nothing, true, |victim| {
        let several = several(&victim.attach());
        victim.does(|| assert_eq!(several.permits.reclaim(), Ok(2)));
    });
}

/// Reads and writes what the dead may have had, and takes all permits.
pub fn share(several: &Several, scene: &Scene<impl Allocator>) {
    // The first one who comes is told, be it to read or to write.
    if scene.label.len() % 2 == 0 {
        match several.lock.read_for(patience()) {
            Ok(guard) => assert_eq!(guard.first, guard.second, "half-written, and nobody says so"),
            Err(LockError::Orphaned(orphaned)) => assert_eq!(*orphaned.replace(Pair::of(3)), Pair::of(3)),
            Err(LockError::Failed(LockFailure::NotRecoverable))
                if scene.leaves.contains(Leaves::GIVEN_UP) =>
            {
                return;
            }
            Err(error) => must("read", Err(error)),
        }
    }
    match several.lock.write_for(patience()) {
        Ok(guard) => assert_eq!(guard.first, guard.second, "half-written, and nobody says so"),
        Err(LockError::Orphaned(orphaned)) if scene.label.len() % 2 != 0 => {
            drop(orphaned.replace(Pair::of(3)));
        }
        Err(LockError::Failed(LockFailure::NotRecoverable)) if scene.leaves.contains(Leaves::GIVEN_UP) => {
            return;
        }
        Err(error) => must("write", Err(error)),
    }
    // Put right, it is so.
    let mut guard = must("write", several.lock.write_for(patience()));
    assert_eq!(guard.first, guard.second);
    guard.first += 1;
    guard.second += 1;
    let guard = RwLockWriteGuard::downgrade(guard);
    // Nobody waits: the places of the dead are free.
    let again = must("read", several.lock.try_read());
    assert_eq!(guard.first, again.second);
    drop((guard, again));
    drop(must("write", several.lock.try_write()));
    let all = [0; 2].map(|_| must("acquire", several.permits.try_acquire()));
    assert_eq!(several.permits.try_acquire().unwrap_err(), LockFailure::Busy, "a permit too many");
    drop(all);
    lost!(several.permits.available(), 2, "the number of permits");
}
