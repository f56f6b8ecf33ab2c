//! The lock for readers and writers: threads, processes, death and misuse
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::campaign::Forked;
use common::pair::{PATIENCE, Pair};
use common::{Child, Parent, TestName};
use nix::sys::signal::Signal;
use shmem_bind::sync::{LockError, LockFailure, Orphaned, RwLock, RwLockReadGuard, RwLockWriteGuard};
use shmem_bind::{Arena, Builder, DirectoryError, ShmemArc, ShmemBox, ShmemError, Tlsf};
use std::fmt::Debug;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(30);
const NOW: Duration = Duration::ZERO;

const READERS: usize = 3;

type Lock = RwLock<Pair, READERS>;
type ReadGuard<'a> = RwLockReadGuard<'a, Pair, READERS>;
type WriteGuard<'a> = RwLockWriteGuard<'a, Pair, READERS>;
type ReadOrphan<'a> = Orphaned<'a, Pair, ReadGuard<'a>>;
type WriteOrphan<'a> = Orphaned<'a, Pair, WriteGuard<'a>>;

/// An attachment, and the lock in it.
struct Place {
    // Dropped first.
    lock: ShmemArc<Lock>,
    arena: Arena<Tlsf>,
}

impl Place {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        let lock = arena.find_or_alloc("pair", || RwLock::with_readers(Pair::of(0))).unwrap();
        Self { lock, arena }
    }

    fn read(&self) -> ReadGuard<'_> {
        self.lock.read_for(PATIENCE).unwrap()
    }

    fn write(&self) -> WriteGuard<'_> {
        self.lock.write_for(PATIENCE).unwrap()
    }

    /// The words behind the lock and the event: the place of the writer, and those of the readers.
    fn places(&self) -> &[AtomicU64; READERS + 1] {
        unsafe { &*(&raw const *self.lock).cast::<AtomicU64>().add(3).cast() }
    }

    /// How many places are taken.
    fn taken(&self) -> usize {
        self.places().iter().filter(|place| place.load(SeqCst) != 0).count()
    }
}

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("obey", obey), ("fork", fork)]);
}

/// What a child has of the lock.
enum Held<'a> {
    Nothing,
    Read(Vec<ReadGuard<'a>>),
    Write(WriteGuard<'a>),
    ReadOrphan(ReadOrphan<'a>),
    WriteOrphan(WriteOrphan<'a>),
}

/// A child that does with the lock what it is told, line by line, and says how that went.
fn obey(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let mut held = Held::Nothing;
    while let Some(order) = parent.hear() {
        let mut answer = "done".to_owned();
        held = match (order.as_str(), held) {
            ("read", held) => match place.lock.read_for(PATIENCE) {
                Ok(guard) => {
                    let mut guards = if let Held::Read(guards) = held { guards } else { Vec::new() };
                    guards.push(guard);
                    Held::Read(guards)
                }
                Err(LockError::Orphaned(orphaned)) => {
                    "orphaned".clone_into(&mut answer);
                    Held::ReadOrphan(orphaned)
                }
                Err(error) => {
                    answer = format!("{error:?}");
                    held
                }
            },
            ("write", held) => match place.lock.write_for(PATIENCE) {
                Ok(guard) => Held::Write(guard),
                Err(LockError::Orphaned(orphaned)) => {
                    "orphaned".clone_into(&mut answer);
                    Held::WriteOrphan(orphaned)
                }
                Err(error) => {
                    answer = format!("{error:?}");
                    held
                }
            },
            ("begin", Held::Write(mut guard)) => {
                guard.first += 1;
                Held::Write(guard)
            }
            ("end", Held::Write(mut guard)) => {
                guard.second += 1;
                Held::Write(guard)
            }
            ("downgrade", Held::Write(guard)) => Held::Read(vec![RwLockWriteGuard::downgrade(guard)]),
            ("replace", Held::ReadOrphan(orphaned)) => Held::Read(vec![orphaned.replace(Pair::of(100))]),
            ("replace", Held::WriteOrphan(orphaned)) => Held::Write(orphaned.replace(Pair::of(100))),
            ("give up", Held::ReadOrphan(orphaned)) => {
                orphaned.give_up();
                Held::Nothing
            }
            ("drop", held) => {
                drop(held);
                Held::Nothing
            }
            ("forget", held) => {
                forget(held);
                Held::Nothing
            }
            (order, _) => panic!("{order}"),
        };
        parent.say(&answer);
    }
}

fn tell(child: &mut Child, order: &str) {
    child.say(order);
    child.expect("done");
}

/// Starts a child, and has it do these.
fn worker(name: &str, orders: &[&str]) -> Child {
    let mut child = Child::spawn("obey", &[name]);
    orders.iter().for_each(|order| tell(&mut child, order));
    child
}

/// Leaves the lock with a writer that was killed in the middle of a change.
fn leave_orphaned(name: &str) {
    worker(name, &["write", "begin"]).kill();
}

#[track_caller]
fn assert_fails<G: Debug>(result: Result<G, impl Into<LockFailure>>, expected: LockFailure) {
    assert_eq!(result.map_err(Into::into).unwrap_err(), expected);
}

#[track_caller]
fn read_orphan(place: &Place) -> ReadOrphan<'_> {
    match place.lock.read_for(PATIENCE) {
        Err(LockError::Orphaned(orphaned)) => orphaned,
        other => panic!("{other:?}, and not orphaned"),
    }
}

#[track_caller]
fn write_orphan(place: &Place) -> WriteOrphan<'_> {
    match place.lock.write_for(PATIENCE) {
        Err(LockError::Orphaned(orphaned)) => orphaned,
        other => panic!("{other:?}, and not orphaned"),
    }
}

#[test]
fn threads_read_together_and_write_in_turn() {
    let name = TestName::new("threads");
    let place = Place::open(&name);
    thread::scope(|scope| {
        for index in 0..4 {
            let place = &place;
            scope.spawn(move || {
                for round in 0..3_000 {
                    if (round + index) % 4 == 0 {
                        let mut guard = place.write();
                        assert_eq!(guard.first, guard.second);
                        guard.first += 1;
                        guard.second += 1;
                    } else {
                        let guard = place.read();
                        assert_eq!(guard.first, guard.second);
                    }
                }
            });
        }
    });
    assert_eq!(*place.read(), Pair::of(3_000));
    assert_eq!(place.taken(), 0);
}

#[test]
fn readers_are_in_at_a_time() {
    let name = TestName::new("together");
    let place = Place::open(&name);
    let all_in = Barrier::new(READERS);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let guard = place.read();
                all_in.wait();
                assert_eq!(place.taken(), READERS);
                all_in.wait();
                drop(guard);
            });
        }
    });
    assert_eq!(place.taken(), 0);
}

#[test]
fn processes_keep_each_other_out() {
    let name = TestName::new("processes");
    let place = Place::open(&name);
    let mut child = worker(&name, &["write"]);
    assert_fails(place.lock.read_for(SHORT), LockFailure::Busy);
    assert_fails(place.lock.try_read(), LockFailure::Busy);
    assert_fails(place.lock.write_for(SHORT), LockFailure::Busy);
    assert_fails(place.lock.try_write(), LockFailure::Busy);
    tell(&mut child, "begin");
    tell(&mut child, "end");
    tell(&mut child, "downgrade");
    // It reads now.
    assert_eq!(*place.lock.try_read().unwrap(), Pair::of(1));
    assert_fails(place.lock.try_write(), LockFailure::Busy);
    assert_fails(place.lock.write_for(SHORT), LockFailure::Busy);
    // And no writer waits any more.
    drop(place.lock.try_read().unwrap());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| *place.lock.write().unwrap());
        tell(&mut child, "drop");
        assert_eq!(waiting.join().unwrap(), Pair::of(1));
    });
    assert_eq!(place.taken(), 0);
    child.finish();
}

#[test]
fn a_thread_that_reads_may_read_again_and_not_write() {
    let name = TestName::new("again");
    let place = Place::open(&name);
    let guards: Vec<_> = (0..10).map(|_| place.read()).collect();
    assert_eq!(place.taken(), 1);
    for timeout in [NOW, SHORT, PATIENCE] {
        assert_fails(place.lock.write_for(timeout), LockFailure::Deadlock);
    }
    assert_fails(place.lock.write(), LockFailure::Deadlock);
    let mut child = Child::spawn("obey", &[&*name]);
    child.say("write");
    // It waits from the moment on when nobody else gets in.
    thread::scope(|scope| {
        let is_busy = || place.lock.try_read().is_err_and(|error| error.failure() == LockFailure::Busy);
        while !scope.spawn(is_busy).join().unwrap() {}
    });
    let more: Vec<_> = (0..10).map(|_| place.lock.try_read().unwrap()).collect();
    // In whichever order they are given back.
    drop(guards);
    assert_fails(place.lock.write(), LockFailure::Deadlock);
    drop(place.read());
    drop(more);
    child.expect("done");
    tell(&mut child, "drop");
    drop(place.write());
    child.finish();
}

#[test]
fn another_attachment_of_the_process_is_another_reader() {
    let name = TestName::new("twice");
    let (place, twice) = (Place::open(&name), Place::open(&name));
    let guard = place.read();
    let other = twice.read();
    assert_eq!(place.taken(), 2);
    assert_fails(twice.lock.write(), LockFailure::Deadlock);
    drop(other);
    // Somebody waits to write. To wait for that one would be to wait for oneself.
    let mut child = Child::spawn("obey", &[&*name]);
    child.say("write");
    thread::scope(|scope| while scope.spawn(|| place.lock.try_read().is_ok()).join().unwrap() {});
    assert_fails(twice.lock.read(), LockFailure::Deadlock);
    drop(guard);
    child.expect("done");
    tell(&mut child, "drop");
    child.finish();
}

#[test]
fn a_thread_that_writes_gets_nothing_more() {
    let name = TestName::new("writer");
    let (place, twice) = (Place::open(&name), Place::open(&name));
    let guard = place.write();
    for lock in [&place.lock, &twice.lock] {
        assert_fails(lock.read(), LockFailure::Deadlock);
        assert_fails(lock.try_read(), LockFailure::Deadlock);
        assert_fails(lock.write(), LockFailure::Deadlock);
        assert_fails(lock.try_write(), LockFailure::Deadlock);
    }
    thread::scope(|scope| {
        // To another thread it is merely busy.
        scope.spawn(|| assert_fails(place.lock.read_for(SHORT), LockFailure::Busy)).join().unwrap();
        scope.spawn(|| assert_fails(twice.lock.try_write(), LockFailure::Busy)).join().unwrap();
    });
    let reading = RwLockWriteGuard::downgrade(guard);
    let again = place.lock.try_read().unwrap();
    assert_fails(place.lock.write(), LockFailure::Deadlock);
    drop(reading);
    drop(again);
    drop(place.write());
    assert_eq!(place.taken(), 0);
}

#[test]
fn guards_of_one_thread_are_counted_beyond_what_a_word_can_say() {
    let name = TestName::new("many");
    let place = Place::open(&name);
    let guards: Vec<_> = (0..5_000).map(|_| place.lock.try_read().unwrap()).collect();
    // Three words for 2047 each.
    assert_eq!(place.taken(), 3);
    thread::scope(|scope| {
        scope.spawn(|| assert_fails(place.lock.try_write(), LockFailure::Busy));
    });
    drop(guards);
    assert_eq!(place.taken(), 0);
    drop(place.write());
}

#[test]
fn more_readers_than_places_wait() {
    let name = TestName::new("exhausted");
    let place = Place::open(&name);
    let mut readers: Vec<_> = (0..READERS).map(|_| worker(&name, &["read"])).collect();
    for timeout in [NOW, SHORT] {
        assert_fails(place.lock.read_for(timeout), LockFailure::Busy);
    }
    // One that has a place needs no other.
    tell(&mut readers[0], "read");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| *place.read());
        tell(&mut readers[1], "drop");
        assert_eq!(waiting.join().unwrap(), Pair::of(0));
    });
    tell(&mut readers[1], "read");
    // The dead need none.
    readers[2].kill();
    drop(place.read());
    drop(place.lock.try_read().unwrap());
    // Nor does one who has written.
    tell(&mut readers[0], "drop");
    tell(&mut readers[1], "drop");
    let reading = RwLockWriteGuard::downgrade(place.write());
    readers[0].say("read");
    readers[0].expect("done");
    drop(reading);
    readers.into_iter().take(2).for_each(Child::finish);
}

#[test]
fn the_dead_read_no_more() {
    let name = TestName::new("dead-readers");
    let place = Place::open(&name);
    for orders in [&["read"][..], &["read", "read", "read"], &["write", "downgrade"]] {
        let mut child = worker(&name, orders);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| place.lock.write().map(drop).map_err(LockFailure::from));
            child.kill_to_zombie();
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        child.kill();
        worker(&name, orders).kill();
        drop(place.lock.try_write().unwrap());
        assert_eq!(place.taken(), 0);
    }
    // One that has gone in good order, but for its guard.
    let child = worker(&name, &["read", "forget"]);
    assert_fails(place.lock.try_write(), LockFailure::Busy);
    child.finish();
    drop(place.lock.try_write().unwrap());
}

#[test]
fn a_stopped_reader_keeps_its_place() {
    let name = TestName::new("stopped");
    let place = Place::open(&name);
    let mut child = worker(&name, &["read"]);
    child.signal(Signal::SIGSTOP);
    assert_fails(place.lock.write_for(Duration::from_millis(100)), LockFailure::Busy);
    drop(place.lock.read_for(SHORT).unwrap());
    child.signal(Signal::SIGCONT);
    tell(&mut child, "drop");
    drop(place.write());
    child.finish();
}

#[test]
fn one_that_dies_waiting_leaves_a_whole_value() {
    let name = TestName::new("dead-waiting");
    let place = Place::open(&name);
    let guard = place.read();
    let mut child = Child::spawn("obey", &[&*name]);
    child.say("write");
    thread::scope(|scope| while scope.spawn(|| place.lock.try_read().is_ok()).join().unwrap() {});
    child.kill();
    // The gate is a dead one's; and nobody has written.
    thread::scope(|scope| {
        assert_eq!(scope.spawn(|| *place.lock.try_read().unwrap()).join().unwrap(), Pair::of(0));
    });
    drop(guard);
    assert_eq!(*place.lock.try_write().unwrap(), Pair::of(0));
}

#[test]
fn a_dead_writer_leaves_an_orphan_to_readers_and_writers() {
    let name = TestName::new("dead-writer");
    let place = Place::open(&name);
    leave_orphaned(&name);
    // Nobody has said what it is: it stays what it is, for all sorts.
    drop(write_orphan(&place));
    drop(read_orphan(&place));
    assert!(matches!(place.lock.try_read(), Err(LockError::Orphaned(_))));
    assert!(matches!(place.lock.try_write(), Err(LockError::Orphaned(_))));
    let orphan = read_orphan(&place);
    assert_eq!(unsafe { *orphan.as_ptr() }, Pair { first: 1, second: 0 });
    thread::scope(|scope| {
        // Nobody else has it meanwhile.
        scope.spawn(|| assert_fails(place.lock.read_for(SHORT), LockFailure::Busy)).join().unwrap();
        scope.spawn(|| assert_fails(place.lock.try_write(), LockFailure::Busy)).join().unwrap();
    });
    assert_fails(place.lock.read(), LockFailure::Deadlock);
    let guard = orphan.replace(Pair::of(5));
    assert_eq!(*guard, Pair::of(5));
    // It is one of several readers.
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(*place.lock.try_read().unwrap(), Pair::of(5)));
    });
    drop(guard);

    leave_orphaned(&name);
    let mut guard = write_orphan(&place).recover();
    assert_eq!(*guard, Pair { first: 6, second: 5 });
    guard.second = 6;
    drop(guard);
    assert_eq!(*place.read(), Pair::of(6));

    leave_orphaned(&name);
    let orphan = write_orphan(&place);
    unsafe { (*orphan.as_ptr()).second = (*orphan.as_ptr()).first };
    let reading = RwLockWriteGuard::downgrade(unsafe { orphan.assume_whole() });
    assert_eq!(*reading, Pair::of(7));
    drop(reading);

    // Those who convert the error leave the orphan to others.
    leave_orphaned(&name);
    let error: ShmemError = place.lock.read().unwrap_err().into();
    assert_eq!(error, ShmemError::Lock(LockFailure::OwnerDied));
    let mut child = Child::spawn("obey", &[&*name]);
    child.say("read");
    child.expect("orphaned");
    tell(&mut child, "replace");
    assert_eq!(*place.lock.try_read().unwrap(), Pair::of(100));
    child.kill();
    drop(place.lock.try_write().unwrap());
    assert_eq!(place.taken(), 0);
}

#[test]
fn who_recovers_and_dies_leaves_an_orphan_too() {
    let name = TestName::new("recoverer");
    let place = Place::open(&name);
    leave_orphaned(&name);
    for order in ["read", "write", "read", "write"] {
        let mut child = Child::spawn("obey", &[&*name]);
        child.say(order);
        child.expect("orphaned");
        child.kill();
    }
    let mut child = Child::spawn("obey", &[&*name]);
    child.say("write");
    child.expect("orphaned");
    // It has put the value right, and dies with the guard.
    tell(&mut child, "replace");
    child.kill();
    assert_eq!(*write_orphan(&place).recover(), Pair::of(100));
    drop(place.read());
}

#[test]
fn what_is_given_up_stays_so_for_all() {
    let name = TestName::new("given-up");
    let place = Place::open(&name);
    leave_orphaned(&name);
    let mut child = Child::spawn("obey", &[&*name]);
    child.say("read");
    child.expect("orphaned");
    tell(&mut child, "give up");
    child.say("write");
    child.expect("NotRecoverable");
    child.finish();
    assert_fails(place.lock.read(), LockFailure::NotRecoverable);
    assert_fails(place.lock.write(), LockFailure::NotRecoverable);
    assert_fails(place.lock.try_read(), LockFailure::NotRecoverable);
}

#[test]
fn guards_give_the_lock_back_also_in_a_panic() {
    let name = TestName::new("panic");
    let place = Place::open(&name);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        place.write().first = 5;
        let _reading = place.read();
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(*place.write(), Pair { first: 5, second: 0 });
}

#[test]
fn a_new_segment_holds_a_lock_that_nobody_has() {
    #[repr(C)]
    struct Root {
        hits: AtomicU64,
        lock: RwLock<u32>,
    }
    let (segment, fd) = Builder::memfd().create(size_of::<Root>()).unwrap();
    let root = unsafe { segment.boxed::<Root>() };
    *root.lock.write().unwrap() += 1;
    let received = unsafe { Builder::memfd().attach(&fd).unwrap().boxed::<Root>() };
    assert_eq!((*received.lock.try_read().unwrap(), root.hits.load(SeqCst)), (1, 0));
}

#[test]
fn a_lock_of_another_type_is_not_found() {
    let name = TestName::new("type");
    let place = Place::open(&name);
    let other = place.arena.find::<RwLock<Pair, 4>>("pair").unwrap_err();
    assert!(matches!(other, DirectoryError::Mismatch(_)), "{other:?}");
}

static DESTROYED: AtomicU64 = AtomicU64::new(0);

/// Counts how often it is destroyed.
#[derive(Debug)]
#[repr(C)]
struct Counted(u64);

impl Drop for Counted {
    fn drop(&mut self) {
        DESTROYED.fetch_add(self.0, SeqCst);
    }
}

// SAFETY: a number. Where it is counted, each process has its own count.
unsafe impl shmem_bind::Shareable for Counted {
    const TAG: shmem_bind::TypeTag = shmem_bind::TypeTag::new::<Self>("rwlock.Counted", 1);
    const FROZEN: bool = true;
}

#[test]
fn what_may_be_half_written_is_not_destroyed() {
    let name = TestName::new("destructors");
    let place = Place::open(&name);
    let add = |value| place.arena.alloc(RwLock::<_, 2>::with_readers(Counted(value))).unwrap();
    drop(add(1));
    assert_eq!(DESTROYED.load(SeqCst), 1);
    assert_eq!(ShmemBox::into_inner(add(10)).unwrap().into_inner().unwrap().0, 10);
    // A reader that has forgotten its guard has changed nothing.
    let mut read = add(100);
    forget(read.read().unwrap());
    assert_eq!(read.get_mut().unwrap().0, 100);
    drop(read);
    assert_eq!(DESTROYED.load(SeqCst), 111);
    // A writer may have.
    let written = |value| {
        let lock = add(value);
        forget(lock.write().unwrap());
        lock
    };
    assert!(written(1000).get_mut().is_none());
    assert!(ShmemBox::into_inner(written(1000)).unwrap().into_inner().is_err());
    assert_eq!(DESTROYED.load(SeqCst), 111);
}

#[test]
fn outside_of_a_segment_there_is_nothing_to_lock() {
    let name = TestName::new("outside");
    let _place = Place::open(&name);
    let mut on_stack = RwLock::new(5_u32);
    assert_fails(on_stack.read(), LockFailure::NotAttached);
    assert_fails(on_stack.try_write(), LockFailure::NotAttached);
    static STATIC: RwLock<u32> = RwLock::new(5);
    assert_fails(STATIC.write_for(SHORT), LockFailure::NotAttached);
    *on_stack.get_mut().unwrap() += 1;
    assert_eq!(on_stack.into_inner().unwrap(), 6);
}

#[test]
fn one_who_may_only_read_the_segment_cannot_lock() {
    let name = TestName::new("reader");
    let segment = Builder::new(&name).with_size(size_of::<RwLock<u32>>()).create().unwrap();
    let root = unsafe { segment.boxed::<RwLock<u32>>() };
    let reader = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<RwLock<u32>>() };
    let reader = reader.unwrap();
    assert_fails(reader.read(), LockFailure::ReadOnly);
    assert_fails(reader.try_write(), LockFailure::ReadOnly);
    drop(root.write().unwrap());
}

#[test]
fn a_thread_reads_so_often_and_no_more() {
    let arena: Arena<Tlsf> = Builder::memfd().create(64 * 1024).unwrap().0.arena().unwrap();
    let lock = arena.alloc(RwLock::<u32, 1>::with_readers(7)).unwrap();
    let mut guards: Vec<_> = (0..2047).map(|_| lock.try_read().unwrap()).collect();
    assert_eq!(lock.read().unwrap_err().failure(), LockFailure::Deadlock);
    guards.pop();
    guards.push(lock.read().unwrap());
    drop(guards);
    assert_eq!(*lock.try_write().unwrap(), 7);
}

/// Words that no sound process writes: an answer, and neither a hang nor a panic.
#[test]
fn any_word_is_answered() {
    let name = TestName::new("words");
    let place = Place::open(&name);
    let words = [1_u64, 2047, 1 << 11, !0, 57 << 57, 1 << 57, 1 << 57 | 1, 56 << 57 | 5, 127 << 57];
    for index in 0..=READERS {
        for word in words {
            place.places()[index].store(word, SeqCst);
            let read = place.lock.read_for(Duration::from_millis(1)).map(drop).map_err(LockFailure::from);
            assert_eq!(read, Ok(()), "{word:#x} at {index}");
            let write = place.lock.write_for(Duration::from_millis(1)).map(drop).map_err(LockFailure::from);
            let is_slot = (1..=56).contains(&(word >> 57));
            let says_written = index == 0 && word & 2047 == 0;
            let expected = match (is_slot, says_written) {
                (_, true) => Err(LockFailure::OwnerDied),
                (true, _) => Ok(()),
                (false, _) => Err(LockFailure::Damaged),
            };
            assert_eq!(write, expected, "{word:#x} at {index}");
            // As new.
            let zeros =
                unsafe { std::slice::from_raw_parts((&raw const *place.lock).cast::<AtomicU64>(), 7) };
            zeros.iter().for_each(|word| word.store(0, SeqCst));
        }
    }
    // None of the places can be had.
    place.places()[1..].iter().for_each(|place| place.store(!0, SeqCst));
    assert_fails(place.lock.read(), LockFailure::Damaged);
    assert_fails(place.lock.write(), LockFailure::Damaged);
    place.places()[1..].iter().for_each(|place| place.store(0, SeqCst));
    // Damaged while it is held, it is nobody's to give back, and no harm is done.
    let guard = place.read();
    place.places()[1..].iter().for_each(|place| place.store(7, SeqCst));
    drop(guard);
    assert!(place.places()[1..].iter().all(|place| place.load(SeqCst) == 7));
}

#[test]
fn locks_and_their_errors_are_readable() {
    let name = TestName::new("readable");
    let place = Place::open(&name);
    assert_eq!(format!("{:?}", *place.lock), "RwLock { is_written: false, readers: 0, .. }");
    let guard = place.read();
    assert_eq!(format!("{:?}", *place.lock), "RwLock { is_written: false, readers: 1, .. }");
    assert_eq!(format!("{guard:?}"), format!("{:?}", Pair::of(0)));
    drop(guard);
    let guard = place.write();
    assert_eq!(format!("{:?}", *place.lock), "RwLock { is_written: true, readers: 0, .. }");
    assert_eq!(format!("{:?}", place.lock.read().unwrap_err()), "Deadlock");
    assert_eq!(place.lock.write().unwrap_err().to_string(), LockFailure::Deadlock.to_string());
    drop(guard);
    leave_orphaned(&name);
    assert_eq!(format!("{:?}", read_orphan(&place)), "Orphaned { .. }");
    assert_eq!(format!("{:?}", place.lock.write().unwrap_err()), "OwnerDied");
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
    let segment = Builder::new(parent.argument(1)).with_size(size_of::<Lock>()).open().unwrap();
    // Children inherit the mapping of a single value.
    let root = unsafe { segment.boxed::<Lock>() };
    let guard = root.write().unwrap();
    let in_arena = place.read();
    Forked::spawn(|| {
        assert_fails(root.read(), LockFailure::NotAttached);
        assert_fails(root.write(), LockFailure::NotAttached);
        // A guard that was inherited gives nothing back, whether its memory is there or not.
        drop(RwLockWriteGuard::downgrade(unsafe { std::ptr::read(&raw const guard) }));
        drop(unsafe { std::ptr::read(&raw const guard) });
        drop(unsafe { std::ptr::read(&raw const in_arena) });
        let own = unsafe { Builder::new(parent.argument(1)).attach().unwrap().boxed::<Lock>() };
        assert_fails(own.read_for(SHORT), LockFailure::Busy);
        // This thread was that of the parent, which reads.
        let again = Place::open(parent.argument(0));
        assert_fails(again.lock.write_for(SHORT), LockFailure::Busy);
        drop(again.lock.try_read().unwrap());
    })
    .finish();
    // The parent has them still.
    assert_fails(root.read(), LockFailure::Deadlock);
    assert_fails(place.lock.write(), LockFailure::Deadlock);
    drop((guard, in_arena));
    Forked::spawn(|| {
        let own = Place::open(parent.argument(0));
        // Dies with it.
        forget(own.read());
        forget(own);
    })
    .finish();
    drop(place.lock.try_write().unwrap());
    drop(root.write().unwrap());
    parent.say("done");
}
