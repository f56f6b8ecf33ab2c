//! The lock for readers and writers in a process that has attached its segment several times
//!
//! A thread that reads by one attachment and comes to read by another one would wait for itself when somebody waits to write, or when all
//! places are its own; then, and only then, it is told so.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::pair::PATIENCE;
use common::{Child, Parent, TestName};
use shmem_bind::sync::{LockFailure, RwLock};
use shmem_bind::{Arena, Builder, ShmemArc, Tlsf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(30);
const NOW: Duration = Duration::ZERO;

type Lock<const READERS: usize> = RwLock<u32, READERS>;

/// An attachment, and the lock in it.
struct Place<const READERS: usize> {
    // Dropped first.
    lock: ShmemArc<Lock<READERS>>,
    _arena: Arena<Tlsf>,
}

impl<const READERS: usize> Place<READERS> {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        Self { lock: arena.find_or_alloc_zeroed("lock").unwrap(), _arena: arena }
    }

    /// Its words of 32 bits, of which there are six.
    fn words(&self) -> &[AtomicU32; 6] {
        unsafe { &*(&raw const *self.lock).cast() }
    }

    /// Says who has the gate, and whether somebody sleeps for want of it.
    fn gate(&self) -> &AtomicU32 {
        &self.words()[0]
    }

    /// Says who of those who have the gate waits to write.
    fn waiting(&self) -> &AtomicU32 {
        &self.words()[5]
    }

    /// The place of the writer, and those of the readers.
    fn taken(&self) -> usize {
        let first = unsafe { (&raw const *self.lock).cast::<AtomicU64>().add(3) };
        let places = unsafe { std::slice::from_raw_parts(first, READERS + 1) };
        places.iter().filter(|place| place.load(SeqCst) != 0).count()
    }

    #[track_caller]
    fn read_fails(&self, timeout: Duration, failure: LockFailure) {
        assert_eq!(self.lock.read_for(timeout).map(drop).unwrap_err().failure(), failure);
    }
}

#[track_caller]
fn until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never came to be so");
        thread::yield_now();
    }
}

/// Somebody sleeps who wants the gate.
fn is_wanted(gate: &AtomicU32) -> bool {
    gate.load(SeqCst) >> 31 != 0
}

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("write", write)]);
}

fn write(parent: &mut Parent) {
    let place = Place::<3>::open(parent.argument(0));
    let _guard = place.lock.write_for(PATIENCE).unwrap();
    parent.say("writes");
}

#[test]
fn places_that_others_have_are_waited_for() {
    let name = TestName::new("full");
    let (place, twice) = (Place::<2>::open(&name), Place::<2>::open(&name));
    let _reading = place.lock.read().unwrap();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let reading = place.lock.read_for(PATIENCE).unwrap();
            sender.send(()).unwrap();
            // Until it is asked for.
            until(|| place.gate().load(SeqCst) != 0 && twice.taken() == 2);
            thread::sleep(SHORT);
            drop(reading);
        });
        receiver.recv().unwrap();
        drop(twice.lock.read_for(PATIENCE).unwrap());
    });
}

#[test]
fn places_that_others_have_are_merely_busy() {
    let name = TestName::new("busy");
    let (place, twice) = (Place::<2>::open(&name), Place::<2>::open(&name));
    let _reading = place.lock.read().unwrap();
    let (say, said) = channel::<()>();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let lock = &place.lock;
        let other = scope.spawn(move || {
            let _reading = lock.read_for(PATIENCE).unwrap();
            sender.send(()).unwrap();
            said.recv().unwrap_err();
        });
        receiver.recv().unwrap();
        for timeout in [NOW, SHORT] {
            twice.read_fails(timeout, LockFailure::Busy);
        }
        // A third one has the gate, and waits for a place.
        let third = scope.spawn(|| drop(place.lock.read_for(PATIENCE).unwrap()));
        until(|| place.gate().load(SeqCst) != 0);
        for timeout in [NOW, SHORT] {
            twice.read_fails(timeout, LockFailure::Busy);
        }
        drop(say);
        drop(twice.lock.read_for(PATIENCE).unwrap());
        other.join().unwrap();
        third.join().unwrap();
    });
}

#[test]
fn a_thread_that_has_all_places_would_wait_for_itself() {
    let name = TestName::new("all");
    let [place, twice, thrice] = [(); 3].map(|()| Place::<2>::open(&name));
    let (_reading, reading_twice) = (place.lock.read().unwrap(), twice.lock.read().unwrap());
    for timeout in [NOW, SHORT, PATIENCE] {
        thrice.read_fails(timeout, LockFailure::Deadlock);
    }
    thread::scope(|scope| {
        // Another one has the gate, and waits for a place.
        scope.spawn(|| drop(place.lock.read_for(PATIENCE).unwrap()));
        until(|| place.gate().load(SeqCst) != 0);
        thrice.read_fails(PATIENCE, LockFailure::Deadlock);
        drop(reading_twice);
        drop(thrice.lock.read_for(PATIENCE).unwrap());
    });
    drop(twice.lock.read().unwrap());
}

#[test]
fn whoever_waits_to_write_is_not_waited_for() {
    let name = TestName::new("waits");
    let (place, twice) = (Place::<3>::open(&name), Place::<3>::open(&name));
    let reading = place.lock.read().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| drop(place.lock.write_for(PATIENCE).unwrap()));
        until(|| place.waiting().load(SeqCst) != 0);
        for timeout in [NOW, SHORT, PATIENCE] {
            twice.read_fails(timeout, LockFailure::Deadlock);
        }
        // Before it has said that, it may still be one who lets itself in.
        let (gate, waiting) = (place.gate(), place.waiting());
        let said = waiting.swap(0, SeqCst);
        twice.read_fails(NOW, LockFailure::Busy);
        // It is looked at again and again.
        gate.fetch_and(!(1 << 31), SeqCst);
        scope.spawn(move || {
            until(|| is_wanted(gate));
            waiting.store(said, SeqCst);
        });
        twice.read_fails(PATIENCE, LockFailure::Deadlock);
        drop(reading);
    });
    // It is taken back.
    assert_eq!((place.waiting().load(SeqCst), place.taken()), (0, 0));
}

#[test]
fn one_whose_time_is_up_waits_to_write_no_more() {
    let name = TestName::new("time");
    let (place, twice) = (Place::<3>::open(&name), Place::<3>::open(&name));
    let _reading = place.lock.read().unwrap();
    let write = || place.lock.write_for(SHORT).map(drop).unwrap_err().failure();
    thread::scope(|scope| assert_eq!(scope.spawn(write).join().unwrap(), LockFailure::Busy));
    assert_eq!(place.waiting().load(SeqCst), 0);
    drop(twice.lock.try_read().unwrap());
}

#[test]
fn the_dead_do_not_wait_to_write() {
    let name = TestName::new("dead");
    let (place, twice) = (Place::<3>::open(&name), Place::<3>::open(&name));
    let reading = place.lock.read().unwrap();
    let mut child = Child::spawn("write", &[&*name]);
    until(|| place.waiting().load(SeqCst) != 0);
    twice.read_fails(PATIENCE, LockFailure::Deadlock);
    child.kill();
    assert_ne!(place.waiting().load(SeqCst), 0, "it could not take that back");
    drop(twice.lock.try_read().unwrap());
    // Nor is another one meant who has the gate now.
    let others = thread::scope(|scope| {
        let [one, other] = [(); 2].map(|()| scope.spawn(|| std::mem::forget(place.lock.read_for(PATIENCE))));
        one.join().is_ok() && other.join().is_ok()
    });
    assert!(others && place.taken() == 3);
    thread::scope(|scope| {
        scope.spawn(|| drop(place.lock.read_for(PATIENCE).unwrap()));
        until(|| place.gate().load(SeqCst) != 0);
        twice.read_fails(SHORT, LockFailure::Busy);
        drop(reading);
    });
}

/// Words that no sound process writes.
#[test]
fn any_word_is_answered() {
    let name = TestName::new("words");
    let (place, twice) = (Place::<2>::open(&name), Place::<2>::open(&name));
    let _reading = place.lock.read().unwrap();
    for word in [1, !0, 1 << 24, 56 << 24, 57 << 24, 127 << 24] {
        place.waiting().store(word, SeqCst);
        drop(twice.lock.try_read().unwrap());
        let write = || place.lock.write_for(NOW).map(drop).unwrap_err().failure();
        thread::scope(|scope| assert_eq!(scope.spawn(write).join().unwrap(), LockFailure::Busy));
    }
}
