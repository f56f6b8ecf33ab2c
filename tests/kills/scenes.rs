//! What is done, one operation a scene, and what may be different afterwards

use super::given::Given;
use super::judge;
use super::stage::{
    Aligned, MAX_SIZE, MUTEX, Past, Sealed, attach, builder, ledger, mutex, patience, waited,
};
use super::stepper::Trace;
use crate::common::arena::Allocator;
use crate::common::pair::Pair;
use bitflags::bitflags;
use shmem_bind::sync::{LockError, LockFailure, Orphaned};
use shmem_bind::{Builder, Handle, OwnedFd, ShmemArc, ShmemBox, ShmemConf};
use std::time::Duration;

bitflags! {
    /// What may be gone, or still there, when the victim is dead.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaves: u32 {
        /// The object that was leaked before may have been claimed, and so given back with the dead.
        const LEAKED = 1;
        /// The name "loose" may be gone.
        const LOOSE = 2;
        /// The name "held" may be gone.
        const HELD = 4;
        /// The name of the segment may be gone, or lead to another one.
        const NO_NAME = 8;
        /// The name of the segment may stay when all have left.
        const NAME = 16;
        /// The mutex may be given up for good.
        const GIVEN_UP = 32;
    }
}

/// An operation, and what there is when it is done.
pub struct Scene<A> {
    pub label: &'static str,
    pub past: Past,
    pub leaves: Leaves,
    pub operate: fn(Victim<'_, A>),
    /// Whether all that a death leaves is in the segment: no file is made or removed, no attachment comes or goes.
    pub is_in_segment: bool,
}

/// Who is going to be killed.
pub struct Victim<'a, A> {
    pub name: &'a str,
    pub past: Past,
    pub memfd: Option<&'a OwnedFd>,
    pub trace: Trace<'a>,
    pub allocator: std::marker::PhantomData<A>,
}

type Arena<A> = shmem_bind::Arena<A>;

impl<A: Allocator> Victim<'_, A> {
    pub fn attach(&self) -> Arena<A> {
        attach(self.name)
    }

    fn conf(&self) -> ShmemConf {
        Builder::new(self.name).timeout(patience()).attach().unwrap()
    }

    /// Does it between two stops, and keeps what it gives, which must lie in the segment.
    pub fn does<R: Given>(self, operation: impl FnOnce() -> R) {
        let mut operation = Some(operation);
        let mut kept = None;
        (self.trace)(&mut || kept = Some((operation.take().unwrap())()));
        judge::leave_verdict(kept.as_ref().map_or(Ok(()), Given::check));
        // Killed by now, or to leave in good order.
        drop(kept);
    }
}

fn handle() -> Handle<Sealed> {
    Handle::from_bits(ledger().handle())
}

fn shared<A: Allocator>(arena: &Arena<A>) -> ShmemArc<Sealed> {
    ShmemBox::into_arc(arena.alloc(Sealed::new()).unwrap())
}

fn orphaned(mutex: &shmem_bind::sync::Mutex<Pair>) -> Orphaned<'_, Pair> {
    match mutex.lock_for(patience()) {
        Err(LockError::Orphaned(orphaned)) => orphaned,
        other => panic!("{other:?}"),
    }
}

/// Three blocks side by side, as far as the allocator does that.
fn neighbours<A: Allocator>(arena: &Arena<A>) -> [ShmemBox<[u8]>; 3] {
    [100, 101, 102].map(|len| arena.alloc_slice(len, 7_u8).unwrap())
}

/// All scenes of an allocator.
pub fn all<A: Allocator>() -> Vec<Scene<A>> {
    let mut scenes = Vec::new();
    let mut add = |label, past, leaves, is_in_segment, operate: fn(Victim<'_, A>)| {
        scenes.push(Scene { label, past, leaves, is_in_segment, operate });
    };
    let nothing = Leaves::empty();
    use Past::{
        Condemned, Corpse, Crowded, Deserted, DirectoryLocked, DirectoryLockedLately, Full, FullLately,
        Growing, HeapLocked, HeapLockedLately, Memfd, Mutex, MutexLocked, Nothing, Observed, Unformed,
        Waited, WaitedBegun,
    };

    // Allocating and freeing.
    let alloc: fn(Victim<'_, A>) = |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc(Sealed::new()).unwrap());
    };
    add("alloc", Observed, nothing, true, alloc);
    add("alloc, aligned to 64", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc(Aligned { inner: Sealed::new() }).unwrap());
    });
    add("alloc, exactly what is free", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let [_first, middle, _last] = neighbours(&arena);
        drop(middle);
        victim.does(|| arena.alloc_slice(101, 1_u8).unwrap());
    });
    add("alloc, by one that has freed before", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        drop(arena.alloc(Sealed::new()).unwrap());
        victim.does(|| arena.alloc(Sealed::new()).unwrap());
    });
    let large: fn(Victim<'_, A>) = |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc_uninit_slice::<u8>(2000).unwrap());
    };
    add("alloc_slice of 2000 bytes", Observed, nothing, true, large);
    add("alloc_str", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc_str("some words").unwrap());
    });
    add("alloc_with", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc_with(|slot| slot.write(Sealed::new())).unwrap());
    });
    add("alloc_slice_with", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc_slice_with(3, |index| index as u64).unwrap());
    });
    add("alloc_uninit and assume_init", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| {
            let mut slot = arena.alloc_uninit::<Sealed>().unwrap();
            slot.write(Sealed::new());
            // SAFETY: written just now.
            unsafe { slot.assume_init() }
        });
    });
    add("alloc_slice after a death in the heap", HeapLockedLately, nothing, true, large);
    add("alloc_slice when blocks wait to be freed", Condemned, nothing, true, large);
    add("usage when blocks wait to be freed", Condemned, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.usage().unwrap());
    });
    add("alloc for want of memory", FullLately, nothing, true, large);
    add("alloc_slice_copy", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc_slice_copy(&[1_u16, 2, 3]).unwrap());
    });
    add("alloc that fails", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.alloc_slice(1 << 20, 1_u8).unwrap_err());
    });
    add("free", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let object = arena.alloc(Sealed::new()).unwrap();
        victim.does(|| drop(object));
    });
    add("free beside a free one", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let [first, middle, _last] = neighbours(&arena);
        drop(first);
        victim.does(|| drop(middle));
    });
    add("free between two free ones", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let [first, middle, last] = neighbours(&arena);
        drop((first, last));
        victim.does(|| drop(middle));
    });
    let free_large: fn(Victim<'_, A>) = |victim| {
        let arena = victim.attach();
        let slice = arena.alloc_uninit_slice::<u8>(2000).unwrap();
        victim.does(|| drop(slice));
    };
    add("free a slice of 2000 bytes", Observed, nothing, true, free_large);
    add("free after a death in the heap", HeapLockedLately, nothing, true, free_large);
    add("free a slice whose elements have destructors", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let slice = arena.alloc_slice_with(3, |_| Sealed::new()).unwrap();
        victim.does(|| drop(slice));
    });
    add("into_inner", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let number = arena.alloc(7_u64).unwrap();
        victim.does(|| ShmemBox::into_inner(number).unwrap());
    });

    // Handles.
    add("leak", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let object = arena.alloc(Sealed::new()).unwrap();
        victim.does(|| ShmemBox::leak(object));
    });
    add("claim", Observed, Leaves::LEAKED, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.claim(handle()).unwrap());
    });
    add("claim of a slice", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let handle = ShmemBox::leak(arena.alloc_slice(50, 1_u8).unwrap());
        victim.does(|| arena.claim(handle).unwrap());
    });
    add("claim of a stale handle", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let stale = ShmemBox::leak(arena.alloc(Sealed::new()).unwrap());
        // The same block, leaked once more.
        let again = ShmemBox::leak(arena.claim(stale).unwrap());
        ledger().set_handle(again.to_bits());
        victim.does(|| arena.claim(stale).unwrap_err());
    });
    add("claim after a death in the heap", HeapLockedLately, Leaves::LEAKED, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.claim(handle()).unwrap());
    });
    add("leaked", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| assert_eq!(arena.leaked().count(), 1));
    });

    // References.
    add("into_arc", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let object = arena.alloc(Sealed::new()).unwrap();
        victim.does(|| ShmemBox::into_arc(object));
    });
    add("clone and drop", Observed, nothing, true, |victim| {
        let object = shared(&victim.attach());
        victim.does(|| drop(object.clone()));
    });
    add("get_mut", Observed, nothing, true, |victim| {
        let mut object = shared(&victim.attach());
        victim.does(|| assert!(ShmemArc::get_mut(&mut object).is_some()));
    });
    add("into_box", Observed, nothing, true, |victim| {
        let object = shared(&victim.attach());
        victim.does(|| ShmemArc::into_box(object).unwrap());
    });
    add("last release", Observed, nothing, true, |victim| {
        let object = shared(&victim.attach());
        victim.does(|| drop(object));
    });
    add("release of what another holds", Observed, nothing, true, |victim| {
        let object = victim.attach().find::<Sealed>("held").unwrap();
        victim.does(|| drop(object));
    });
    add("release of what has a name", Observed, nothing, true, |victim| {
        let object = victim.attach().find::<Sealed>("loose").unwrap();
        victim.does(|| drop(object));
    });

    // Names.
    let publish: fn(Victim<'_, A>) = |victim| {
        let arena = victim.attach();
        let object = shared(&arena);
        victim.does(|| arena.publish("new", &object).unwrap());
    };
    add("publish", Observed, nothing, true, publish);
    add("publish into a larger table", Crowded, nothing, true, publish);
    add("publish after a death in the directory", DirectoryLockedLately, nothing, true, publish);
    add("publish after a death in the heap", HeapLockedLately, nothing, true, publish);
    add("publish_pinned", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let object = shared(&arena);
        victim.does(|| arena.publish_pinned("pinned", &object).unwrap());
    });
    add("publish what is taken", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        let object = shared(&arena);
        victim.does(|| arena.publish("held", &object).unwrap_err());
    });
    add("unpublish", Observed, Leaves::LOOSE, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.unpublish::<Sealed>("loose").unwrap());
    });
    add("unpublish after a death in the directory", DirectoryLockedLately, Leaves::LOOSE, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.unpublish::<Sealed>("loose").unwrap());
    });
    add("unpublish what another holds", Observed, Leaves::HELD, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.unpublish::<Sealed>("held").unwrap());
    });
    add("unpublish without the type", Observed, Leaves::LOOSE, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.unpublish_any("loose").unwrap());
    });
    add("find", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.find::<Sealed>("loose").unwrap());
    });
    add("find what is not there", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.find::<Sealed>("elsewhere").unwrap_err());
    });
    add("find_or_alloc what is not there", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.find_or_alloc("new", Sealed::new).unwrap());
    });
    add("find_or_alloc what is there", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.find_or_alloc("loose", Sealed::new).unwrap());
    });
    add("wait_for what is there", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.wait_for::<Sealed>("loose", patience()).unwrap());
    });
    add("wait_for what does not come", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.wait_for::<Sealed>("elsewhere", Duration::from_millis(5)).unwrap_err());
    });
    add("find_pinned", Mutex, nothing, true, |victim| {
        let reader = Builder::new(victim.name).timeout(patience()).attach_read_only().unwrap();
        victim.does(|| reader.find_pinned_words::<shmem_bind::sync::Mutex<Pair>>(MUTEX).is_ok());
    });
    add("names", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| assert_eq!(arena.names().count(), 2));
    });

    // The arena as a whole.
    add("check", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.check().unwrap());
    });
    add("usage", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.usage().unwrap());
    });
    add("grow", Growing, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| arena.grow(MAX_SIZE).unwrap());
    });
    for (label, past) in [
        ("sweep after a death in the heap", HeapLockedLately),
        ("sweep after a death in the directory", DirectoryLockedLately),
    ] {
        add(label, past, nothing, true, |victim| {
            let arena = victim.attach();
            victim.does(|| assert_ne!(arena.sweep().unwrap().locks, 0));
        });
    }
    for (label, past) in [
        ("sweep of a corpse, opening the arena", Corpse),
        ("sweep of one who had the heap", HeapLocked),
        ("sweep of one who had the directory", DirectoryLocked),
        ("sweep of one who had all memory", Full),
    ] {
        add(label, past, nothing, true, |victim| {
            let conf = victim.conf();
            victim.does(|| conf.arena::<A>().unwrap());
        });
    }
    add("sweep by a handle without an arena", Corpse, nothing, true, |victim| {
        let conf = victim.conf();
        victim.does(|| assert_eq!(conf.sweep(), 1));
    });
    add("sweep when nobody is dead", Observed, nothing, true, |victim| {
        let arena = victim.attach();
        victim.does(|| assert!(arena.sweep().unwrap().is_empty()));
    });

    // Locks around data.
    add("lock", Mutex, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| std::mem::forget(mutex.lock_for(patience()).unwrap()));
    });
    add("try_lock", Mutex, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| std::mem::forget(mutex.try_lock().unwrap()));
    });
    add("try_lock what the dead had", MutexLocked, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| std::mem::forget(mutex.try_lock().unwrap_err()));
    });
    add("lock what the dead had, and recover", MutexLocked, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| {
            let mut guard = orphaned(&mutex).recover();
            *guard = Pair::of(6);
        });
    });
    add("lock, change and unlock", Mutex, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| {
            let mut guard = mutex.lock_for(patience()).unwrap();
            guard.first = 2;
            guard.second = 2;
        });
    });
    add("lock what the dead had, and replace", MutexLocked, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| drop(orphaned(&mutex).replace(Pair::of(5))));
    });
    add("lock what the dead had, and leave it", MutexLocked, nothing, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| drop(orphaned(&mutex)));
    });
    add("lock what the dead had, and give it up", MutexLocked, Leaves::GIVEN_UP, true, |victim| {
        let mutex = mutex(&victim.attach());
        victim.does(|| orphaned(&mutex).give_up());
    });

    // Waiting, and what ends it.
    const MOMENT: Duration = Duration::from_millis(2);
    for (label, past) in [("get_or_init", Waited), ("get_or_init what the dead had begun", WaitedBegun)] {
        add(label, past, nothing, true, |victim| {
            let waited = waited(&victim.attach());
            victim.does(|| assert_eq!(waited.cell.get_or_init(|| Pair::of(2)), Ok(&Pair::of(2))));
        });
    }
    add("get_or_try_init that fails", Waited, nothing, true, |victim| {
        let waited = waited(&victim.attach());
        let fail = || Err(LockFailure::Busy);
        victim.does(|| assert_eq!(waited.cell.get_or_try_init(fail), Err(LockFailure::Busy)));
    });
    add("wait for a value", Waited, nothing, true, |victim| {
        let waited = waited(&victim.attach());
        victim.does(|| assert_eq!(waited.cell.wait_for(MOMENT), Ok(None)));
    });
    add("wait at a condvar, and change", Waited, nothing, true, |victim| {
        let waited = waited(&victim.attach());
        victim.does(|| {
            let guard = waited.mutex.lock_for(patience()).unwrap();
            let (mut guard, _) = waited.changed.wait_for(guard, MOMENT).unwrap();
            guard.first = 2;
            guard.second = 2;
        });
    });
    add("change, and notify at a condvar", Waited, nothing, true, |victim| {
        let waited = waited(&victim.attach());
        victim.does(|| {
            *waited.mutex.lock_for(patience()).unwrap() = Pair::of(2);
            waited.changed.notify_one();
        });
    });
    add("wait for an event", Waited, nothing, true, |victim| {
        let waited = waited(&victim.attach());
        victim.does(|| assert_eq!(waited.event.wait_until(MOMENT, || None::<()>), Ok(None)));
    });
    add("notify all of an event", Waited, nothing, true, |victim| {
        let waited = waited(&victim.attach());
        victim.does(|| waited.event.notify_all());
    });

    super::several::add_scenes(&mut add);

    // The segment.
    add("create", Nothing, nothing, false, |victim| {
        let (name, past) = (victim.name.to_owned(), victim.past);
        victim.does(|| builder(&name, past).create().unwrap());
    });
    add("create an arena", Nothing, nothing, false, |victim| {
        let (name, past) = (victim.name.to_owned(), victim.past);
        victim.does(|| builder(&name, past).create().unwrap().arena::<A>().unwrap());
    });
    add("format an arena", Unformed, nothing, true, |victim| {
        let conf = victim.conf();
        victim.does(|| conf.arena::<A>().unwrap());
    });
    add("open what is not there", Nothing, nothing, false, |victim| {
        let (name, past) = (victim.name.to_owned(), victim.past);
        victim.does(|| builder(&name, past).open().unwrap().arena::<A>().unwrap());
    });
    add("leak of an arena", Observed, Leaves::NO_NAME.union(Leaves::NAME), false, |victim| {
        let arena = victim.attach();
        arena.conf().try_own().unwrap();
        victim.does(|| arena.leak());
    });
    add("open", Observed, nothing, false, |victim| {
        let (name, past) = (victim.name.to_owned(), victim.past);
        victim.does(|| builder(&name, past).open().unwrap());
    });
    add("open after all have died", Deserted, nothing, false, |victim| {
        let (name, past) = (victim.name.to_owned(), victim.past);
        victim.does(|| builder(&name, past).open().unwrap().arena::<A>().unwrap());
    });
    add("attach", Observed, nothing, false, |victim| {
        let name = victim.name.to_owned();
        victim.does(|| Builder::new(&name).timeout(patience()).attach().unwrap());
    });
    add("attach_read_only", Observed, nothing, false, |victim| {
        let name = victim.name.to_owned();
        victim.does(|| Builder::new(&name).timeout(patience()).attach_read_only().unwrap());
    });
    add("detach", Observed, nothing, false, |victim| {
        let conf = victim.conf();
        victim.does(|| drop(conf));
    });
    add("detach an arena with an object", Observed, nothing, false, |victim| {
        let arena = victim.attach();
        let object = arena.alloc(Sealed::new()).unwrap();
        drop(arena);
        victim.does(|| drop(object));
    });
    add("own", Observed, Leaves::NO_NAME, false, |victim| {
        let conf = victim.conf();
        victim.does(|| conf.try_own().unwrap());
    });
    add("detach as owner", Observed, Leaves::NO_NAME, false, |victim| {
        let conf = victim.conf();
        conf.try_own().unwrap();
        victim.does(|| drop(conf));
    });
    add("leak of a segment", Observed, Leaves::NO_NAME.union(Leaves::NAME), false, |victim| {
        let conf = victim.conf();
        conf.try_own().unwrap();
        victim.does(|| conf.leak());
    });
    add("unlink", Observed, Leaves::NO_NAME, false, |victim| {
        let name = victim.name.to_owned();
        victim.does(|| shmem_bind::unlink(&name).unwrap());
    });
    add("boxed", Unformed, nothing, false, |victim| {
        let conf = victim.conf();
        // SAFETY: zero is a valid number.
        victim.does(|| unsafe { conf.boxed::<u64>() });
    });
    add("leak of a boxed value", Unformed, Leaves::NO_NAME.union(Leaves::NAME), false, |victim| {
        // SAFETY: zero is a valid number.
        let number = ShmemBox::own(unsafe { victim.conf().boxed::<u64>() });
        victim.does(|| ShmemBox::leak(number));
    });
    add("create without a name", Observed, nothing, false, |victim| {
        victim.does(|| Builder::memfd().timeout(patience()).create(4096).unwrap());
    });
    add("attach without a name", Memfd, nothing, false, |victim| {
        let fd = victim.memfd.unwrap();
        victim.does(|| Builder::memfd().timeout(patience()).attach(fd).unwrap().arena::<A>().unwrap());
    });
    add("detach without a name", Memfd, nothing, false, |victim| {
        let conf = Builder::memfd().timeout(patience()).attach(victim.memfd.unwrap()).unwrap();
        victim.does(|| drop(conf));
    });
    super::queues::add_scenes(&mut scenes);
    // Bump needs no lock that one could die with, and gives memory back only to one who is alone.
    let is_bump = A::NAME == "bump";
    scenes.retain(|scene| {
        !is_bump || !matches!(scene.past, HeapLocked | HeapLockedLately | Condemned | Full | FullLately)
    });
    scenes
}
