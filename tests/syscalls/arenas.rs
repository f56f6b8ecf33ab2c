//! Operations on arenas and locks, each in the scenes that lead it to other system calls

use super::expected::{Dead, Effect, arena_os};
use super::operations::*;
use super::segments::leaving;
use super::sites::Site::*;
use super::stage::Injection;
use nix::errno::Errno;
use shmem_bind::sync::{LockError, Mutex};
use shmem_bind::{AllocError, Arena, Builder, DirectoryError, LockFailure, ShmemBox, ShmemError, Tlsf};

const ALLOC: Operation = Operation {
    label: "alloc",
    act: |victim| {
        victim.warm_up();
        let arena = victim.arena();
        let object = victim.run(|| Ok((0, arena.alloc(9_u64)?)));
        drop(object);
    },
    busy: ShmemError::Alloc(AllocError::Busy),
    ..USUAL
};

const LOCK: Operation = Operation {
    label: "Mutex::lock_for",
    act: |victim| {
        victim.warm_up();
        let arena = victim.arena();
        let mutex = mutex(&arena);
        drop(victim.run(|| match mutex.lock_for(victim.patience) {
            Ok(guard) => Ok((*guard, guard)),
            Err(LockError::Orphaned(orphaned)) => Ok((100, orphaned.replace(7))),
            Err(error) => Err(error.into()),
        }));
    },
    busy: ShmemError::Lock(LockFailure::Busy),
    ..USUAL
};

const GROW: Operation = Operation {
    label: "grow",
    beside: observed_arena,
    act: |victim| {
        victim.warm_up();
        let arena = victim.arena();
        victim.run(|| Ok((0, arena.grow(256 * 1024)?)));
    },
    asked: 256 * 1024,
    ..USUAL
};

pub const ALL: &[Operation] = &[
    // It must come first: before the driver has an arena itself.
    Operation {
        label: "the first arena of a process",
        act: |victim| {
            drop(Builder::memfd().create(8).unwrap());
            victim.begin();
            let segment = victim.builder().with_size(64 * 1024).create().unwrap();
            victim.run(|| Ok((0, segment.arena::<Tlsf>()?)));
        },
        grows: true,
        consumes: true,
        effect: |call, errno| match call.site {
            MapPrivate => Some(Effect::Error(arena_os("mmap", errno))),
            _ => leaving(call, errno),
        },
        ..USUAL
    },
    Operation {
        label: "arena, to be formatted",
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().with_size(64 * 1024).create().unwrap();
            victim.run(|| Ok((0, segment.arena::<Tlsf>()?)));
        },
        exists: false,
        consumes: true,
        effect: leaving,
        ..USUAL
    },
    Operation {
        label: "arena, to be formatted, with room to grow",
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().with_size(64 * 1024).max_size(1 << 20).create().unwrap();
            victim.run(|| Ok((0, segment.arena::<Tlsf>()?)));
        },
        exists: false,
        consumes: true,
        asked: 64 * 1024,
        effect: leaving,
        ..USUAL
    },
    Operation {
        label: "arena, to bury a zombie",
        beside: arena_with_zombie,
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().attach().unwrap();
            victim.run(|| {
                let arena: Arena = segment.arena()?;
                Ok((arena.reclaimed().attachments, arena))
            });
        },
        consumes: true,
        dead: Dead::Zombie,
        living: 2,
        unnoticed: Some(Ok(0)),
        ..USUAL
    },
    GROW,
    Operation {
        label: "grow, without memory",
        standing: &[(Populate, Injection::Fail(Errno::EFAULT))],
        ..GROW
    },
    Operation {
        label: "alloc, the lock held by a living one",
        beside: observed_arena,
        is_patient: true,
        at_start: |stage| stage.store(HEAP_LOCK, SECOND),
        on_call: |stage, site| {
            if site == FutexWait {
                stage.store(HEAP_LOCK, 0);
            }
        },
        at_end: |_, run| {
            if run.calls.iter().all(|call| call.site != FutexWait) {
                run.leaks.push("a living one was robbed of its lock".to_owned());
            }
        },
        ..ALLOC
    },
    Operation {
        label: "alloc, the lock held by a zombie",
        beside: observed_arena,
        at_start: |stage| {
            zombie_in_arena(stage);
            stage.store(HEAP_LOCK, FOURTH);
        },
        dead: Dead::Zombie,
        missed: Effect::Again,
        ..ALLOC
    },
    Operation {
        label: "alloc, while another one waits",
        beside: observed_arena,
        at_start: |stage| stage.store(HEAP_LOCK, WAITERS),
        ..ALLOC
    },
    Operation {
        label: "drop of a box, the lock held by a living one",
        beside: observed_arena,
        act: |victim| {
            victim.warm_up();
            let arena = victim.arena();
            let object = arena.alloc(3_u64).unwrap();
            victim.run(|| {
                drop(object);
                Ok((0, ()))
            });
        },
        at_start: |stage| stage.store(HEAP_LOCK, SECOND),
        at_end: |stage, run| {
            if stage.load(HEAP_LOCK) & !WAITERS != SECOND {
                run.leaks.push("a living one was robbed of its lock".to_owned());
            }
            stage.store(HEAP_LOCK, 0);
        },
        silent: true,
        ..USUAL
    },
    Operation {
        label: "find, the lock held by a zombie",
        beside: observed_arena,
        act: |victim| {
            victim.warm_up();
            let arena = victim.arena();
            drop(victim.run(|| Ok((0, arena.find::<Mutex<u64>>("mutex")?))));
        },
        at_start: |stage| {
            zombie_in_arena(stage);
            stage.store(DIRECTORY_LOCK, FOURTH);
        },
        dead: Dead::Zombie,
        missed: Effect::Again,
        busy: ShmemError::Directory(DirectoryError::Busy),
        ..USUAL
    },
    Operation {
        label: "publish, while another one waits",
        beside: observed_arena,
        act: |victim| {
            victim.warm_up();
            let arena = victim.arena();
            let object = ShmemBox::into_arc(arena.alloc(4_u64).unwrap());
            victim.run(|| Ok((0, arena.publish("object", &object)?)));
            arena.unpublish::<u64>("object").unwrap();
        },
        at_start: |stage| stage.store(DIRECTORY_EVENT, 1 << 32),
        ..USUAL
    },
    Operation {
        label: "wait_for a name",
        beside: observed_arena,
        act: |victim| {
            victim.warm_up();
            let arena = victim.arena();
            drop(victim.run(|| {
                let found = arena.wait_for::<u64>("late", LONG)?;
                Ok((*found, found))
            }));
        },
        on_call: |stage, site| {
            if site == FutexWait {
                let arena = stage.arena.as_ref().unwrap();
                arena.publish("late", &ShmemBox::into_arc(arena.alloc(11_u64).unwrap())).unwrap();
            }
        },
        ..USUAL
    },
    Operation {
        label: "Mutex::lock_for, held by a living one",
        beside: observed_arena,
        is_patient: true,
        at_start: driver_locks,
        on_call: |stage, site| {
            if site == FutexWait {
                locked(stage).guard = None;
            }
        },
        ..LOCK
    },
    Operation {
        label: "Mutex::try_lock, held by a living one",
        beside: observed_arena,
        act: |victim| {
            victim.warm_up();
            let arena = victim.arena();
            let mutex = mutex(&arena);
            victim.run(|| Ok((*mutex.try_lock()?, ())));
        },
        at_start: driver_locks,
        at_end: |stage, run| {
            if u64::from(locked(stage).word().load(std::sync::atomic::Ordering::SeqCst)) != FIRST {
                run.leaks.push("a living one was robbed of its lock".to_owned());
            }
        },
        ..LOCK
    },
    Operation {
        label: "Mutex::lock_for, held by a zombie",
        beside: observed_arena,
        at_start: |stage| {
            stage.corpse = Some(stage.dies(|stage| {
                let arena: Arena = stage.builder().attach().unwrap().arena().unwrap();
                std::mem::forget(mutex(&arena).lock().unwrap());
                arena
            }));
        },
        dead: Dead::Zombie,
        missed: Effect::Again,
        ..LOCK
    },
    Operation {
        label: "unlock a Mutex that another one waits for",
        beside: observed_arena,
        act: |victim| {
            victim.warm_up();
            let arena = victim.arena();
            let mutex = mutex(&arena);
            let guard = mutex.lock().unwrap();
            mark_waiters(&mutex);
            victim.run(|| {
                drop(guard);
                Ok((0, ()))
            });
        },
        ..USUAL
    },
];
