//! The mutex: threads, processes, death and misuse
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::Random;
use common::campaign::Forked;
use common::pair::{PATIENCE, Pair, Place};
use common::{Child, Parent, TestName};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::Signal;
use shmem_bind::sync::{LockError, LockFailure, LockResult, Mutex, Orphaned};
use shmem_bind::{Builder, DirectoryError, ShmemBox, ShmemError};
use std::fs::File;
use std::mem::{MaybeUninit, forget};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(30);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("hold", hold), ("fork", fork), ("hole", hole), ("leave", leave)]);
}

#[track_caller]
fn assert_fails<T>(result: LockResult<'_, T>, expected: LockFailure) {
    match result {
        Ok(_) => panic!("locked, and not {expected:?}"),
        Err(LockError::Failed(failure)) => assert_eq!(failure, expected),
        Err(error) => panic!("{error:?}, and not {expected:?}"),
    }
}

#[track_caller]
fn orphaned<'a, T>(result: LockResult<'a, T>) -> Orphaned<'a, T> {
    match result {
        Err(LockError::Orphaned(orphaned)) => orphaned,
        Ok(_) => panic!("locked, and not orphaned"),
        Err(error) => panic!("{error:?}, and not orphaned"),
    }
}

/// A child that locks and says how that went, then does what it is told with what it got.
fn hold(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    match place.mutex.lock_for(PATIENCE) {
        Ok(mut guard) => {
            parent.say("locked");
            while let Some(order) = parent.hear() {
                match order.as_str() {
                    "begin" => guard.first += 1,
                    "end" => guard.second += 1,
                    "unlock" => {
                        drop(guard);
                        parent.say("done");
                        break;
                    }
                    "forget" => {
                        forget(guard);
                        break;
                    }
                    order => panic!("{order}"),
                }
                parent.say("done");
            }
        }
        Err(LockError::Orphaned(orphaned)) => {
            parent.say("orphaned");
            match parent.hear().as_deref() {
                Some("drop") => drop(orphaned),
                Some("give up") => orphaned.give_up(),
                Some("replace and hold") => {
                    forget(orphaned.replace(Pair::of(100)));
                    parent.say("done");
                    parent.hear();
                }
                order => panic!("{order:?}"),
            }
            parent.say("done");
        }
        Err(error) => parent.say(&format!("{:?}", error.failure())),
    };
    // Stays attached until it is let go; or until it has forgotten its guard.
    if parent.hear().as_deref() == Some("detach") {
        drop(place);
        parent.say("done");
    }
}

/// Starts a child that locks the mutex of this name, and waits until it has done so.
fn holder(name: &str) -> Child {
    let child = Child::spawn("hold", &[name]);
    child.expect("locked");
    child
}

fn tell(child: &mut Child, order: &str) {
    child.say(order);
    child.expect("done");
}

/// Leaves the mutex with a holder that was killed in the middle of a change.
fn leave_orphaned(name: &str) {
    let mut child = holder(name);
    tell(&mut child, "begin");
    child.kill();
}

#[test]
fn threads_take_turns() {
    let name = TestName::new("threads");
    let place = Place::open(&name);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let mut guard = place.lock();
                    assert_eq!(guard.first, guard.second);
                    guard.first += 1;
                    guard.second += 1;
                }
            });
        }
    });
    assert_eq!(*place.lock(), Pair::of(40_000));
}

/// Else another thread of the same holder could be taken for this one, before it has put its own mark there.
#[test]
fn whoever_gives_the_lock_back_takes_the_mark_back() {
    let name = TestName::new("mark");
    let place = Place::open(&name);
    let mark = || place.thread().load(SeqCst);
    let guard = place.lock();
    assert_ne!(mark(), 0);
    drop(guard);
    assert_eq!(mark(), 0);
    leave_orphaned(&name);
    let left = mark();
    let orphan = orphaned(place.mutex.lock());
    assert!(mark() != 0 && mark() != left);
    drop(orphan);
    assert_eq!(mark(), 0);
    orphaned(place.mutex.lock()).give_up();
    assert_eq!(mark(), 0);
}

#[test]
fn processes_take_turns() {
    let name = TestName::new("processes");
    let place = Place::open(&name);
    let mut child = holder(&name);
    assert_fails(place.mutex.lock_for(SHORT), LockFailure::Busy);
    assert_fails(place.mutex.lock_for(Duration::ZERO), LockFailure::Busy);
    assert_fails(place.mutex.try_lock(), LockFailure::Busy);
    tell(&mut child, "begin");
    tell(&mut child, "end");
    thread::scope(|scope| {
        // Waits until it is given back.
        let waiting = scope.spawn(|| *place.mutex.lock().unwrap());
        tell(&mut child, "unlock");
        assert_eq!(waiting.join().unwrap(), Pair::of(1));
    });
    child.finish();
}

#[test]
fn a_guard_gives_the_lock_back_also_in_a_panic() {
    let name = TestName::new("panic");
    let place = Place::open(&name);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = place.lock();
        guard.first = 5;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(*place.lock(), Pair { first: 5, second: 0 });
}

#[test]
fn a_thread_that_locks_twice_is_told() {
    let name = TestName::new("twice");
    let place = Place::open(&name);
    let twice = Place::open(&name);
    let guard = place.lock();
    for mutex in [&place.mutex, &twice.mutex] {
        // In both mappings of the segment it is the same lock.
        assert_fails(mutex.lock(), LockFailure::Deadlock);
        assert_fails(mutex.lock_for(SHORT), LockFailure::Deadlock);
        assert_fails(mutex.try_lock(), LockFailure::Deadlock);
    }
    thread::scope(|scope| {
        // To another thread it is merely busy.
        scope.spawn(|| assert_fails(place.mutex.lock_for(SHORT), LockFailure::Busy)).join().unwrap();
        scope.spawn(|| assert_fails(twice.mutex.lock_for(SHORT), LockFailure::Busy)).join().unwrap();
        let waiting = scope.spawn(|| drop(place.lock()));
        drop(guard);
        waiting.join().unwrap();
    });
    // Nor does it remember the thread.
    drop(twice.lock());
    leave_orphaned(&name);
    let orphan = orphaned(place.mutex.lock());
    assert_fails(place.mutex.lock(), LockFailure::Deadlock);
    drop(orphan);
    drop(orphaned(twice.mutex.lock()).recover());
    drop(place.lock());
}

#[test]
fn a_new_segment_holds_a_mutex_that_nobody_has() {
    #[repr(C)]
    struct Root {
        hits: AtomicU64,
        mutex: Mutex<u32>,
    }
    let (segment, fd) = Builder::memfd().create(size_of::<Root>()).unwrap();
    let root = unsafe { segment.boxed::<Root>() };
    *root.mutex.lock().unwrap() += 1;
    let received = unsafe { Builder::memfd().attach(&fd).unwrap().boxed::<Root>() };
    let mut guard = received.mutex.try_lock().unwrap();
    assert_eq!((*guard, root.hits.load(SeqCst)), (1, 0));
    *guard += 1;
    thread::scope(|scope| {
        scope.spawn(|| assert_fails(root.mutex.try_lock(), LockFailure::Busy));
    });
    drop(guard);
    assert_eq!(*root.mutex.lock().unwrap(), 2);
}

#[test]
fn a_mutex_of_another_type_is_not_found() {
    let name = TestName::new("type");
    let place = Place::open(&name);
    let other = place.arena.find::<Mutex<[u64; 2]>>("pair").unwrap_err();
    assert!(matches!(other, DirectoryError::Mismatch(_)), "{other:?}");
}

/// Counts how often it is destroyed, in a place that all can see.
#[derive(Debug)]
#[repr(C)]
struct Counted(u64);

static DESTROYED: AtomicU64 = AtomicU64::new(0);

impl Drop for Counted {
    fn drop(&mut self) {
        DESTROYED.fetch_add(self.0, SeqCst);
    }
}

// SAFETY: a number. Where it is counted, each process has its own count.
unsafe impl shmem_bind::Shareable for Counted {
    const TAG: shmem_bind::TypeTag = shmem_bind::TypeTag::new::<Self>("mutex.Counted", 1);
    const FROZEN: bool = true;
}

#[test]
fn what_may_be_half_written_is_not_destroyed() {
    let name = TestName::new("destructors");
    let place = Place::open(&name);
    let add = |value| place.arena.alloc(Mutex::new(Counted(value))).unwrap();
    drop(add(1));
    assert_eq!(DESTROYED.load(SeqCst), 1);
    assert_eq!(ShmemBox::into_inner(add(10)).unwrap().into_inner().unwrap().0, 10);
    assert_eq!(DESTROYED.load(SeqCst), 11);

    // As if its holder had died: a word of a slot that nobody has.
    let orphan = |value| {
        let mutex = add(value);
        let word: &AtomicU32 = unsafe { &*(&raw const *mutex).cast() };
        word.store(50 << 24, SeqCst);
        mutex
    };
    drop(orphan(100));
    assert!(ShmemBox::into_inner(orphan(1000)).unwrap().into_inner().is_err());
    assert_eq!(DESTROYED.load(SeqCst), 11);
    // What is replaced is not destroyed, and what replaces it is.
    let mutex = orphan(10_000);
    drop(orphaned(mutex.lock()).replace(Counted(100_000)));
    drop(mutex);
    assert_eq!(DESTROYED.load(SeqCst), 100_011);
}

#[test]
fn a_dead_holder_leaves_an_orphan() {
    let name = TestName::new("dead");
    let place = Place::open(&name);
    type Lock = fn(&Mutex<Pair>) -> LockResult<'_, Pair>;
    let locks: [Lock; 4] = [
        |mutex| mutex.lock(),
        |mutex| mutex.lock_for(PATIENCE),
        |mutex| mutex.lock_for(Duration::ZERO),
        |mutex| mutex.try_lock(),
    ];
    for (number, lock) in (10..).zip(locks) {
        leave_orphaned(&name);
        let orphan = orphaned(lock(&place.mutex));
        let left = unsafe { *orphan.as_ptr() };
        assert_eq!(left.first, left.second + 1);
        let guard = orphan.replace(Pair::of(number));
        assert_eq!(*guard, Pair::of(number));
        drop(guard);
        assert_eq!(*lock(&place.mutex).unwrap(), Pair::of(number), "it is an ordinary lock again");
    }
    // Already when it is a zombie, and also for one who has been waiting.
    let mut child = holder(&name);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| orphaned(place.mutex.lock()).recover().first);
        child.kill_to_zombie();
        assert_eq!(waiting.join().unwrap(), 13);
    });
    child.kill();
}

#[test]
fn what_is_left_can_be_had_in_each_way() {
    let name = TestName::new("ways");
    let place = Place::open(&name);
    leave_orphaned(&name);
    // Nobody has said what it is: it stays what it is.
    drop(orphaned(place.mutex.lock()));
    drop(orphaned(place.mutex.try_lock()));
    let next = Child::spawn("hold", &[&*name]);
    next.expect("orphaned");
    let mut next = next;
    tell(&mut next, "drop");
    next.finish();
    let guard = orphaned(place.mutex.lock()).recover();
    assert_eq!(*guard, Pair { first: 1, second: 0 });
    drop(guard);
    drop(place.lock());

    leave_orphaned(&name);
    let orphan = orphaned(place.mutex.lock());
    unsafe { (*orphan.as_ptr()).second = (*orphan.as_ptr()).first };
    assert_eq!(*unsafe { orphan.assume_whole() }, Pair::of(2));
    assert_eq!(*place.lock(), Pair::of(2));

    // Those who convert the error leave the orphan to others.
    leave_orphaned(&name);
    let error: ShmemError = place.mutex.lock().unwrap_err().into();
    assert_eq!(error, ShmemError::Lock(LockFailure::OwnerDied));
    drop(orphaned(place.mutex.lock()).replace(Pair::of(3)));
    drop(place.lock());
}

#[test]
fn what_is_given_up_stays_so_for_all() {
    let name = TestName::new("given-up");
    let place = Place::open(&name);
    leave_orphaned(&name);
    let mut child = Child::spawn("hold", &[&*name]);
    child.expect("orphaned");
    tell(&mut child, "give up");
    child.finish();
    for _ in 0..2 {
        assert_fails(place.mutex.lock(), LockFailure::NotRecoverable);
        assert_fails(place.mutex.try_lock(), LockFailure::NotRecoverable);
    }
    let next = Child::spawn("hold", &[&*name]);
    next.expect("NotRecoverable");
    next.finish();
}

#[test]
fn a_recoverer_that_dies_leaves_an_orphan_too() {
    let name = TestName::new("recoverer");
    let place = Place::open(&name);
    leave_orphaned(&name);
    for _ in 0..3 {
        let mut recoverer = Child::spawn("hold", &[&*name]);
        recoverer.expect("orphaned");
        recoverer.kill();
    }
    let mut recoverer = Child::spawn("hold", &[&*name]);
    recoverer.expect("orphaned");
    // It has put the value right, and dies with the guard.
    tell(&mut recoverer, "replace and hold");
    assert_fails(place.mutex.try_lock(), LockFailure::Busy);
    recoverer.kill();
    assert_eq!(*orphaned(place.mutex.lock()).recover(), Pair::of(100));
    drop(place.lock());
}

#[test]
fn a_stopped_holder_keeps_the_lock() {
    let name = TestName::new("stopped");
    let place = Place::open(&name);
    let mut child = holder(&name);
    child.signal(Signal::SIGSTOP);
    assert_fails(place.mutex.lock_for(Duration::from_millis(200)), LockFailure::Busy);
    child.signal(Signal::SIGCONT);
    tell(&mut child, "unlock");
    drop(place.lock());
    child.finish();
}

#[test]
fn the_next_tenant_of_the_slot_is_not_taken_for_the_holder() {
    let name = TestName::new("re-let");
    let place = Place::open(&name);
    leave_orphaned(&name);
    let word = place.word().load(SeqCst);
    // Swept, the slot goes to the next one, which lives as long as this.
    place.arena.sweep().unwrap();
    let tenant = Place::open(&name);
    forget(orphaned(tenant.mutex.lock()));
    let again = place.word().load(SeqCst);
    // The same thread, by another attachment, while that one lasts.
    assert_fails(place.mutex.lock(), LockFailure::Deadlock);
    assert_eq!(word >> 24, again >> 24, "the tenant has another slot");
    assert_ne!(word, again);
    drop(tenant);
    // Now the tenant itself has gone, without giving the lock back.
    let other = Place::open(&name);
    drop(orphaned(other.mutex.lock()).recover());
    drop(place.lock());
}

#[test]
fn one_who_detaches_with_a_guard_leaves_an_orphan() {
    let name = TestName::new("forgotten");
    let place = Place::open(&name);
    let mut child = holder(&name);
    child.say("forget");
    tell(&mut child, "detach");
    drop(orphaned(place.mutex.lock()).recover());
    child.finish();
}

#[test]
fn outside_of_a_segment_there_is_nothing_to_lock() {
    let name = TestName::new("outside");
    let on_stack = Mutex::new(5_u32);
    assert_fails(on_stack.lock(), LockFailure::NotAttached);
    let _place = Place::open(&name);
    assert_fails(on_stack.lock(), LockFailure::NotAttached);
    assert_fails(on_stack.try_lock(), LockFailure::NotAttached);
    assert_fails(Arc::new(Mutex::new(5_u32)).lock_for(SHORT), LockFailure::NotAttached);
    static STATIC: Mutex<u32> = Mutex::new(5);
    assert_fails(STATIC.lock(), LockFailure::NotAttached);
    assert_eq!(on_stack.into_inner().unwrap(), 5);
}

#[test]
fn where_a_segment_has_been_is_none_any_more() {
    let child = Child::spawn("leave", &[]);
    child.expect("done");
    child.finish();
}

/// Detaches, and has something else mapped at the same address.
fn leave(parent: &mut Parent) {
    let name = TestName::new("gone");
    let place = Place::open(&name);
    let address = (&raw const *place.mutex).addr() & !0xfff;
    drop(place);
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
    let address = NonZeroUsize::new(address);
    let memory = unsafe { mmap_anonymous(address, NonZeroUsize::new(4096).unwrap(), protection, flags) };
    let memory = memory.unwrap();
    // Zeros are a mutex.
    let mutex: &Mutex<u32> = unsafe { memory.cast().as_ref() };
    // Locked as by somebody who is just creating it.
    let other = TestName::new("locked");
    let file = File::create(other.path()).unwrap();
    let _lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Has the record that was the segment's, and waits for what it is to be filled in with.
        scope.spawn(|| {
            let builder = Builder::new(&other).mode(0o777).timeout(Duration::from_millis(300));
            let opened = builder.attach().map(drop);
            is_done.store(true, SeqCst);
            assert_eq!(opened, Err(ShmemError::Busy));
        });
        while !is_done.load(SeqCst) {
            assert_fails(mutex.lock(), LockFailure::NotAttached);
        }
    });
    unsafe { munmap(memory, 4096) }.unwrap();
    parent.say("done");
}

#[test]
fn a_reader_cannot_lock() {
    let name = TestName::new("reader");
    let segment = Builder::new(&name).with_size(size_of::<Mutex<u32>>()).create().unwrap();
    let root = unsafe { segment.boxed::<Mutex<u32>>() };
    let reader = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<Mutex<u32>>() }.unwrap();
    assert_fails(reader.lock(), LockFailure::ReadOnly);
    assert_fails(reader.try_lock(), LockFailure::ReadOnly);
    assert_fails(reader.lock_for(SHORT), LockFailure::ReadOnly);
    drop(root.lock().unwrap());
}

#[test]
fn any_word_is_answered() {
    let name = TestName::new("words");
    let place = Place::open(&name);
    let guard = place.lock();
    let mine = place.word().load(SeqCst);
    drop(guard);
    let mut random = Random::new(1);
    for holder in 0..128_u32 {
        for rest in [0, 1, mine & 0xff_ffff, 0xff_ffff, 1 << 31, 1 << 31 | 0xff_ffff] {
            for thread in [0, 1, u64::MAX, random.next()] {
                let word = holder << 24 | rest;
                place.word().store(word, SeqCst);
                place.thread().store(thread, SeqCst);
                let found = match place.mutex.lock_for(Duration::from_millis(1)) {
                    Ok(_) => None,
                    Err(error) => Some(error.failure()),
                };
                let expected = match (holder, rest & !(1 << 31)) {
                    (0, 0) => None,
                    // As if another thread of this process had it.
                    _ if word & !(1 << 31) == mine => Some(LockFailure::Busy),
                    (1..=56, _) => Some(LockFailure::OwnerDied),
                    (127, 0) => Some(LockFailure::NotRecoverable),
                    _ => Some(LockFailure::Damaged),
                };
                assert_eq!(found, expected, "{word:#x}");
            }
        }
    }
    // Damaged while it is held, it is nobody's to give back, and no harm is done.
    place.word().store(0, SeqCst);
    let guard = place.lock();
    place.word().store(99 << 24, SeqCst);
    drop(guard);
    assert_fails(place.mutex.lock(), LockFailure::Damaged);
}

/// Whoever looks an address up meets records that others are just filling in and giving up.
#[test]
fn attaching_and_detaching_disturbs_nobody() {
    let name = TestName::new("records");
    let place = Place::open(&name);
    // Beyond the records of the first page.
    let others: Vec<_> = (0..9).map(|_| Builder::memfd().create(1).unwrap()).collect();
    let late = Place::open(&name);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                // Of sizes that the heap uses too, at addresses that it may get next.
                drop(Builder::memfd().create(256 * 1024).unwrap());
                drop(Builder::memfd().create(1).unwrap());
            }
        });
        scope.spawn(|| {
            for _ in 0..20_000 {
                drop(place.lock());
                drop(late.lock());
            }
            stop.store(true, SeqCst);
        });
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                // Large enough to be mapped each time. Only the lock is ever touched.
                let memory: Box<MaybeUninit<Mutex<[u64; 1 << 15]>>> = Box::new_zeroed();
                let mutex = unsafe { memory.assume_init() };
                assert_fails(mutex.lock(), LockFailure::NotAttached);
            }
        });
    });
    drop(others);
}

#[test]
fn locks_and_their_errors_are_readable() {
    let name = TestName::new("readable");
    let place = Place::open(&name);
    assert_eq!(format!("{:?}", *place.mutex), "Mutex { is_locked: false, .. }");
    let guard = place.lock();
    assert_eq!(format!("{:?}", *place.mutex), "Mutex { is_locked: true, .. }");
    assert_eq!(format!("{guard:?}"), format!("{:?}", Pair::of(0)));
    let error = place.mutex.lock().unwrap_err();
    assert_eq!(error.to_string(), LockFailure::Deadlock.to_string());
    assert_eq!(format!("{error:?}"), "Deadlock");
    assert!(matches!(ShmemError::from(error), ShmemError::Lock(LockFailure::Deadlock)));
    drop(guard);
    leave_orphaned(&name);
    let orphan = orphaned(place.mutex.lock());
    assert_eq!(format!("{orphan:?}"), "Orphaned { .. }");
    orphan.give_up();
}

#[test]
fn nothing_comes_to_lie_where_a_forked_child_has_nothing() {
    let name = TestName::new("hole");
    let child = Child::spawn("hole", &[&*name]);
    child.expect("done");
    child.finish();
}

fn hole(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let address = |place: &Place| (&raw const *place.mutex).addr();
    Forked::spawn(|| {
        // The kernel would put the first of these where the parent's is.
        let others: Vec<_> = (0..20).map(|_| Place::open(parent.argument(0))).collect();
        assert!(others.iter().all(|other| address(other) != address(&place)));
        assert_fails(place.mutex.lock(), LockFailure::NotAttached);
        // So it is in a child of the child's.
        Forked::spawn(|| {
            let more: Vec<_> = (0..20).map(|_| Place::open(parent.argument(0))).collect();
            let taken = |other: &Place| more.iter().any(|place| address(place) == address(other));
            assert!(!taken(&place) && !others.iter().any(taken));
        })
        .finish();
        drop(others);
    })
    .finish();
    parent.say("done");
}

#[test]
fn a_forked_child_has_no_part_in_the_locks_of_its_parent() {
    let name = TestName::new("fork");
    let root = TestName::new("fork-root");
    let child = Child::spawn("fork", &[&*name, &*root]);
    child.expect("done");
    child.finish();
}

fn fork(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let segment = Builder::new(parent.argument(1)).with_size(size_of::<Mutex<u32>>()).open().unwrap();
    // Children inherit the mapping of a single value.
    let root = unsafe { segment.boxed::<Mutex<u32>>() };
    let guard = root.lock().unwrap();
    let in_arena = place.lock();
    Forked::spawn(|| {
        assert_fails(root.lock(), LockFailure::NotAttached);
        // A guard that was inherited gives nothing back, whether its memory is there or not.
        drop(unsafe { std::ptr::read(&raw const guard) });
        drop(unsafe { std::ptr::read(&raw const in_arena) });
        let own = unsafe { Builder::new(parent.argument(1)).attach().unwrap().boxed::<Mutex<u32>>() };
        assert_fails(own.lock_for(SHORT), LockFailure::Busy);
        assert_fails(root.lock(), LockFailure::NotAttached);
        // This thread was that of the parent, which has locked before.
        let again = Place::open(parent.argument(0));
        assert_fails(again.mutex.lock_for(SHORT), LockFailure::Busy);
    })
    .finish();
    // The parent has them still.
    assert_fails(root.lock(), LockFailure::Deadlock);
    assert_fails(place.mutex.lock(), LockFailure::Deadlock);
    drop((guard, in_arena));
    Forked::spawn(|| {
        let own = Place::open(parent.argument(0));
        let guard = own.lock();
        assert_fails(own.mutex.lock(), LockFailure::Deadlock);
        drop(guard);
        // Dies with it.
        forget(own.lock());
        forget(own);
    })
    .finish();
    drop(orphaned(place.mutex.lock()).recover());
    drop(place.lock());
    drop(root.lock().unwrap());
    parent.say("done");
}
