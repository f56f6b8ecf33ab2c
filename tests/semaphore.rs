//! The semaphore: threads, processes, death and misuse
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::campaign::Forked;
use common::pair::PATIENCE;
use common::{Child, Parent, TestName};
use nix::sys::signal::Signal;
use shmem_bind::sync::{LockFailure, Permit, Semaphore};
use shmem_bind::{Arena, Builder, DirectoryError, ShmemArc, Tlsf};
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(30);

const PERMITS: usize = 3;

/// An attachment, and the semaphore in it.
struct Place {
    // Dropped first.
    semaphore: ShmemArc<Semaphore<PERMITS>>,
    arena: Arena<Tlsf>,
}

impl Place {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        let semaphore = arena.find_or_alloc("permits", Semaphore::new).unwrap();
        Self { semaphore, arena }
    }

    fn acquire(&self) -> Permit<'_> {
        self.semaphore.acquire_for(PATIENCE).unwrap()
    }

    fn take_all(&self) -> [Permit<'_>; PERMITS] {
        [0; PERMITS].map(|_| self.semaphore.try_acquire().unwrap())
    }

    /// The event, and the permits.
    fn words(&self) -> &[AtomicU32; PERMITS + 1] {
        unsafe { &*(&raw const *self.semaphore).cast() }
    }
}

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("obey", obey), ("fork", fork)]);
}

/// A child that takes and gives back permits as it is told, line by line, and says how that went.
fn obey(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let mut permits = Vec::new();
    while let Some(order) = parent.hear() {
        let answer = match order.as_str() {
            "acquire" => place.semaphore.acquire_for(PATIENCE).map(|permit| permits.push(permit)),
            "release" => Ok(drop(permits.pop().unwrap())),
            "forget" => Ok(permits.drain(..).for_each(forget)),
            order => panic!("{order}"),
        };
        parent.say(&answer.map_or_else(|error| format!("{error:?}"), |()| "done".to_owned()));
    }
}

fn tell(child: &mut Child, order: &str) {
    child.say(order);
    child.expect("done");
}

/// Starts a child that takes so many permits.
fn holder(name: &str, permits: usize) -> Child {
    let mut child = Child::spawn("obey", &[name]);
    (0..permits).for_each(|_| tell(&mut child, "acquire"));
    child
}

#[track_caller]
fn assert_busy(place: &Place) {
    assert_eq!(place.semaphore.try_acquire().unwrap_err(), LockFailure::Busy);
    assert_eq!(place.semaphore.acquire_for(SHORT).unwrap_err(), LockFailure::Busy);
}

#[test]
fn so_many_threads_at_a_time() {
    let name = TestName::new("threads");
    let place = Place::open(&name);
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let permit = place.acquire();
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert!((1..=PERMITS).contains(&most.into_inner()));
    assert_eq!(place.semaphore.available(), PERMITS);
}

#[test]
fn all_permits_are_to_be_had_and_no_more() {
    let name = TestName::new("all");
    let place = Place::open(&name);
    let [first, second, third] = place.take_all();
    assert_eq!(place.semaphore.available(), 0);
    assert_busy(&place);
    drop(second);
    assert_eq!(place.semaphore.available(), 1);
    drop(place.acquire());
    drop((first, third));
    drop(place.take_all());
    assert_eq!(place.semaphore.available(), PERMITS);
}

#[test]
fn processes_take_turns() {
    let name = TestName::new("processes");
    let place = Place::open(&name);
    let mut child = holder(&name, 2);
    let mine = place.acquire();
    assert_busy(&place);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| drop(place.acquire()));
        tell(&mut child, "release");
        waiting.join().unwrap();
    });
    // The other way round.
    let other = place.acquire();
    child.say("acquire");
    thread::sleep(Duration::from_millis(1));
    drop(other);
    child.expect("done");
    drop(mine);
    child.finish();
    assert_eq!(place.semaphore.available(), PERMITS);
}

#[test]
fn a_permit_may_go_to_another_thread() {
    let name = TestName::new("sent");
    let place = Place::open(&name);
    let permits = place.take_all();
    thread::scope(|scope| {
        scope.spawn(move || drop(permits)).join().unwrap();
        assert_eq!(place.semaphore.available(), PERMITS);
    });
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _permits = place.take_all();
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(place.semaphore.available(), PERMITS);
}

#[test]
fn permits_of_the_dead_are_taken_over() {
    let name = TestName::new("dead");
    let place = Place::open(&name);
    // Already when it is a zombie, and also by those who have been waiting.
    let mut child = holder(&name, PERMITS);
    thread::scope(|scope| {
        let waiting = [0; PERMITS].map(|_| scope.spawn(|| place.semaphore.acquire().map(forget)));
        child.kill_to_zombie();
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap().unwrap());
    });
    // They are forgotten, and this process's as long as it lasts.
    assert_busy(&place);
    child.kill();
}

#[test]
fn who_does_not_wait_gets_what_the_dead_had_too() {
    let name = TestName::new("dead-try");
    let place = Place::open(&name);
    holder(&name, 2).kill();
    assert_eq!(place.semaphore.available(), 1);
    drop(place.take_all());
    assert_eq!(place.semaphore.available(), PERMITS);
    // One that ends in good order, but for its permits.
    let mut child = holder(&name, 2);
    tell(&mut child, "forget");
    assert_eq!(place.semaphore.reclaim(), Ok(0));
    child.finish();
    assert_eq!(place.semaphore.available(), 1);
    assert_eq!(place.semaphore.reclaim(), Ok(2));
    assert_eq!(place.semaphore.available(), PERMITS);
}

#[test]
fn who_reclaims_wakes_those_who_wait() {
    let name = TestName::new("reclaim");
    let place = Place::open(&name);
    let mut child = holder(&name, PERMITS);
    thread::scope(|scope| {
        let waiting = [0; PERMITS].map(|_| scope.spawn(|| drop(place.acquire())));
        child.kill();
        while place.semaphore.available() + place.semaphore.reclaim().unwrap() < PERMITS {
            thread::yield_now();
        }
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    });
    assert_eq!(place.semaphore.available(), PERMITS);
}

#[test]
fn a_stopped_holder_keeps_its_permits() {
    let name = TestName::new("stopped");
    let place = Place::open(&name);
    let mut child = holder(&name, PERMITS);
    child.signal(Signal::SIGSTOP);
    assert_eq!(place.semaphore.acquire_for(Duration::from_millis(100)).unwrap_err(), LockFailure::Busy);
    assert_eq!(place.semaphore.reclaim(), Ok(0));
    child.signal(Signal::SIGCONT);
    tell(&mut child, "release");
    drop(place.acquire());
    child.finish();
}

#[test]
fn the_next_tenant_of_the_slot_has_not_the_permits_of_the_last() {
    let name = TestName::new("re-let");
    let place = Place::open(&name);
    holder(&name, PERMITS).kill();
    place.arena.sweep().unwrap();
    let tenant = Place::open(&name);
    let permit = tenant.acquire();
    assert_eq!(tenant.semaphore.reclaim(), Ok(PERMITS - 1));
    drop(permit);
    // Detached with its permits.
    forget(tenant.take_all());
    assert_busy(&place);
    drop(tenant);
    drop(place.take_all());
}

#[test]
fn a_new_segment_holds_a_semaphore_with_all_permits() {
    let (segment, fd) = Builder::memfd().create(size_of::<Semaphore<1>>()).unwrap();
    let root = unsafe { segment.boxed::<Semaphore<1>>() };
    let permit = root.acquire().unwrap();
    let received = unsafe { Builder::memfd().attach(&fd).unwrap().boxed::<Semaphore<1>>() };
    assert_eq!(received.try_acquire().unwrap_err(), LockFailure::Busy);
    drop(permit);
    drop(received.try_acquire().unwrap());
}

#[test]
fn outside_of_a_segment_there_are_no_permits() {
    let name = TestName::new("outside");
    let place = Place::open(&name);
    let on_stack = Semaphore::<2>::new();
    assert_eq!(on_stack.acquire().unwrap_err(), LockFailure::NotAttached);
    assert_eq!(on_stack.try_acquire().unwrap_err(), LockFailure::NotAttached);
    assert_eq!(on_stack.reclaim().unwrap_err(), LockFailure::NotAttached);
    assert_eq!(on_stack.available(), 2);
    let other = place.arena.find::<Semaphore<2>>("permits").unwrap_err();
    assert!(matches!(other, DirectoryError::Mismatch(_)), "{other:?}");
}

#[test]
fn one_who_may_only_read_the_segment_gets_no_permit() {
    let name = TestName::new("reader");
    let segment = Builder::new(&name).with_size(size_of::<Semaphore<1>>()).create().unwrap();
    let root = unsafe { segment.boxed::<Semaphore<1>>() };
    let reader = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<Semaphore<1>>() };
    let reader = reader.unwrap();
    assert_eq!(reader.acquire().unwrap_err(), LockFailure::ReadOnly);
    assert_eq!(reader.reclaim().unwrap_err(), LockFailure::ReadOnly);
    drop(root.acquire().unwrap());
}

#[test]
fn any_word_is_answered() {
    let name = TestName::new("words");
    let place = Place::open(&name);
    let permit = place.acquire();
    let mine = place.words()[1..].iter().map(|permit| permit.load(SeqCst)).find(|word| *word != 0).unwrap();
    drop(permit);
    for holder in 0..256_u32 {
        for rest in [0, 1, 0xff_ffff] {
            let word = holder << 24 | rest;
            place.words()[1..].iter().for_each(|permit| permit.store(word, SeqCst));
            let expected = match (holder, rest) {
                (0, 0) => Ok(()),
                // As if other threads of this process had them.
                _ if word == mine => Err(LockFailure::Busy),
                // Of an attachment that has ended.
                (1..=56, _) => Ok(()),
                _ => Err(LockFailure::Damaged),
            };
            let found = place.semaphore.acquire_for(Duration::from_millis(1)).map(drop);
            assert_eq!(found, expected, "{word:#x}");
            // As long as there is another one, it is passed over.
            place.words()[2].store(0, SeqCst);
            drop(place.semaphore.try_acquire().unwrap());
        }
    }
    place.words()[1..].iter().for_each(|permit| permit.store(0, SeqCst));
    // One who is alive has the only sound one: that is to be waited for.
    let permits = place.take_all();
    place.words()[1].store(99 << 24, SeqCst);
    place.words()[2].store(99 << 24, SeqCst);
    assert_busy(&place);
    // Damaged while they are held, they are nobody's to give back.
    drop(permits);
    assert_eq!(place.semaphore.available(), 1);
    // Whatever the event says.
    let permit = place.acquire();
    for word in [1, 255, 256, !0] {
        place.words()[0].store(word, SeqCst);
        assert_busy(&place);
    }
    drop(permit);
    drop(place.acquire());
}

#[test]
fn a_forked_child_has_no_part_in_the_permits_of_its_parent() {
    let name = TestName::new("fork");
    let root = TestName::new("fork-root");
    let child = Child::spawn("fork", &[&*name, &*root]);
    child.expect("done");
    child.finish();
}

fn fork(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let segment = Builder::new(parent.argument(1)).with_size(size_of::<Semaphore<1>>()).open().unwrap();
    // Children inherit the mapping of a single value.
    let root = unsafe { segment.boxed::<Semaphore<1>>() };
    let permit = root.acquire().unwrap();
    let in_arena = place.take_all();
    Forked::spawn(|| {
        assert_eq!(root.acquire().unwrap_err(), LockFailure::NotAttached);
        // A permit that was inherited gives nothing back, whether its memory is there or not.
        drop(unsafe { std::ptr::read(&raw const permit) });
        drop(unsafe { std::ptr::read(&raw const in_arena) });
        assert_busy(&Place::open(parent.argument(0)));
    })
    .finish();
    assert_eq!(root.try_acquire().unwrap_err(), LockFailure::Busy);
    assert_busy(&place);
    drop((permit, in_arena));
    drop(root.try_acquire().unwrap());
    drop(place.take_all());
    parent.say("done");
}
