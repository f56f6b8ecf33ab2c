//! Condition variables: processes that wait for a change, death and misuse
//!
//! `cargo test --release --test condvar -- --ignored --nocapture` is the full length.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;
mod condvar {
    pub mod buffer;
}

use common::campaign::{self, Forked};
use common::pair::{PATIENCE, Pair};
use common::{Child, Parent, TestName};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use shmem_bind::sync::{Condvar, LockFailure, Mutex, MutexGuard, Orphaned, WaitError, WaitForResult};
use shmem_bind::{Arena, Builder, ShmemArc, ShmemError, Tlsf, shareable, sigbus_fixup};
use std::mem::forget;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(30);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("wait", wait),
        ("change", change),
        ("buffer", condvar::buffer::drive),
        ("fork", fork),
    ]);
}

shareable! {
    /// Two numbers, and where one waits for their change.
    #[repr(C)]
    pub struct Shared {
        pair: Mutex<Pair>,
        changed: Condvar,
        /// How many have said that they are going to wait.
        waiting: AtomicU32,
    }
}

impl Shared {
    const fn new() -> Self {
        Self { pair: Mutex::new(Pair::of(0)), changed: Condvar::new(), waiting: AtomicU32::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Pair> {
        self.pair.lock_for(PATIENCE).unwrap()
    }

    /// Waits until the numbers are at least so large, and gives them.
    fn wait_for_number(&self, number: u64) -> Result<Pair, LockFailure> {
        let guard = self.lock();
        self.waiting.fetch_add(1, SeqCst);
        let (guard, result) = self.changed.wait_while_for(guard, PATIENCE, |pair| pair.first < number)?;
        assert!(!result.timed_out(), "{number} does not come");
        Ok(*guard)
    }

    /// Waits until so many have the mutex no more that they had when they said that they are going to wait.
    fn await_waiting(&self, count: u32) {
        while self.waiting.load(SeqCst) < count {
            thread::yield_now();
        }
        drop(self.lock());
    }
}

/// An attachment, and what lies there.
struct Place {
    // Dropped first.
    shared: ShmemArc<Shared>,
    arena: Arena<Tlsf>,
}

impl Place {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        Self { shared: arena.find_or_alloc("shared", Shared::new).unwrap(), arena }
    }
}

/// Waits for a number, and says which came.
fn wait(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let number = parent.argument(1).parse().unwrap();
    parent.say(&match place.shared.wait_for_number(number) {
        Ok(pair) => pair.first.to_string(),
        Err(failure) => format!("{failure:?}"),
    });
    parent.hear();
}

/// Locks the numbers and changes one of them; then the other one, as it is told, or is killed.
fn change(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let mut guard = place.shared.lock();
    guard.first += 1;
    parent.say("begun");
    parent.hear();
    guard.second += 1;
    drop(guard);
    if parent.argument(1) == "and notify" {
        place.shared.changed.notify_one();
    }
    parent.say("done");
    parent.hear();
}

#[test]
fn a_change_in_one_process_is_seen_in_others() {
    let name = TestName::new("others");
    let place = Place::open(&name);
    let children: Vec<_> = (0..3).map(|_| Child::spawn("wait", &[&*name, "2"])).collect();
    place.shared.await_waiting(3);
    for number in [1, 2] {
        *place.shared.lock() = Pair::of(number);
        place.shared.changed.notify_all();
    }
    for child in children {
        child.expect("2");
        child.finish();
    }
}

#[test]
fn threads_hand_a_number_to_and_fro() {
    const ROUNDS: u64 = 2000;
    let name = TestName::new("threads");
    let place = Place::open(&name);
    let play = |mine: u64| {
        for turn in (0..ROUNDS).map(|round| 2 * round + mine) {
            let guard = place.shared.lock();
            let is_not_mine = |pair: &mut Pair| pair.first != turn;
            let mut guard = place.shared.changed.wait_while(guard, is_not_mine).unwrap();
            *guard = Pair::of(turn + 1);
            // With the mutex and without it.
            if turn & 2 == 0 {
                drop(guard);
            }
            place.shared.changed.notify_one();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(0));
        scope.spawn(|| play(1));
    });
    assert_eq!(*place.shared.lock(), Pair::of(2 * ROUNDS));
}

#[test]
fn whoever_waits_has_the_mutex_before_and_after_and_not_meanwhile() {
    let name = TestName::new("meanwhile");
    let Place { shared, .. } = &Place::open(&name);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = shared.lock();
            shared.waiting.fetch_add(1, SeqCst);
            let guard = shared.changed.wait_while(guard, |pair| pair.first == 0).unwrap();
            let taken = thread::scope(|scope| {
                scope.spawn(|| shared.pair.try_lock().map(|_| ()).unwrap_err().failure()).join().unwrap()
            });
            assert_eq!(taken, LockFailure::Busy);
            *guard
        });
        // It can be locked while the other one waits.
        shared.await_waiting(1);
        *shared.lock() = Pair::of(1);
        shared.changed.notify_one();
        assert_eq!(waiter.join().unwrap(), Pair::of(1));
    });
    drop(shared.pair.try_lock().unwrap());
}

/// The time, if it is up.
#[track_caller]
fn timed_out<T>(result: WaitForResult<'_, T>) -> MutexGuard<'_, T> {
    let (guard, result) = result.unwrap();
    assert!(result.timed_out());
    guard
}

#[test]
fn a_deadline_ends_the_wait_with_the_guard() {
    let name = TestName::new("deadline");
    let Place { shared, .. } = &Place::open(&name);
    let guard = timed_out(shared.changed.wait_for(shared.lock(), SHORT));
    let guard = timed_out(shared.changed.wait_for(guard, Duration::ZERO));
    let mut asked = 0;
    let ask = |_: &mut Pair| {
        asked += 1;
        true
    };
    let guard = timed_out(shared.changed.wait_while_for(guard, Duration::ZERO, ask));
    assert_eq!(asked, 1);
    // As it is, there is nothing to wait for.
    let (guard, result) = shared.changed.wait_while_for(guard, Duration::ZERO, |_| false).unwrap();
    assert!(!result.timed_out());
    // Nobody remembers what was before.
    shared.changed.notify_all();
    drop(timed_out(shared.changed.wait_for(guard, SHORT)));
    drop(shared.pair.try_lock().unwrap());
}

#[test]
fn a_holder_that_does_not_go_on_is_not_waited_for_longer_than_allowed() {
    let name = TestName::new("holds-on");
    let builder = Builder::new(&name).timeout(SHORT).with_size(64 * 1024);
    let arena: Arena<Tlsf> = builder.open().unwrap().arena().unwrap();
    let shared = arena.find_or_alloc("shared", Shared::new).unwrap();
    let mut guard = shared.lock();
    let mut child = Child::spawn("change", &[&*name, ""]);
    // Each time that the time is up, until the child has the mutex, which it keeps.
    let failure = loop {
        match shared.changed.wait_for(guard, Duration::from_millis(1)) {
            Ok((again, _)) => guard = again,
            Err(error) => break error,
        }
    };
    assert!(matches!(failure, WaitError::Failed(LockFailure::Busy)), "{failure:?}");
    child.expect("begun");
    child.say("go on");
    child.expect("done");
    assert_eq!(*shared.lock(), Pair::of(1));
    child.kill();
}

#[test]
fn nobody_has_to_tell_what_has_changed() {
    let name = TestName::new("untold");
    let Place { shared, .. } = &Place::open(&name);
    thread::scope(|scope| {
        let waiting = [0, 1].map(|_| scope.spawn(|| shared.wait_for_number(1)));
        shared.await_waiting(2);
        // By one who is killed before it notifies.
        let mut child = Child::spawn("change", &[&*name, "and say nothing"]);
        child.expect("begun");
        child.say("go on");
        child.expect("done");
        child.kill();
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap(), Ok(Pair::of(1))));
    });
}

#[test]
fn a_waiter_that_is_killed_is_missed_by_nobody() {
    let name = TestName::new("waiter");
    let place = Place::open(&name);
    let mut victims: Vec<_> = (0..3).map(|_| Child::spawn("wait", &[&*name, "1"])).collect();
    place.shared.await_waiting(3);
    let other = Child::spawn("wait", &[&*name, "1"]);
    place.shared.await_waiting(4);
    victims[0].kill();
    victims[1].kill_to_zombie();
    // Dead, they have no mutex. The third is stopped, and has none either.
    let mut guard = place.shared.lock();
    *guard = Pair::of(1);
    victims[2].signal(Signal::SIGSTOP);
    let id = Id::Pid(Pid::from_raw(victims[2].pid() as i32));
    waitid(id, WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).unwrap();
    drop(guard);
    // As many as are not dead.
    place.shared.changed.notify_one();
    place.shared.changed.notify_one();
    other.expect("1");
    other.finish();
}

#[track_caller]
fn orphaned<'a, T, R>(result: Result<R, WaitError<'a, T>>) -> Orphaned<'a, T> {
    match result {
        Err(WaitError::Orphaned { orphaned, .. }) => orphaned,
        Ok(_) => panic!("a guard, and not orphaned"),
        Err(error) => panic!("{error:?}, and not orphaned"),
    }
}

#[test]
fn a_holder_that_dies_while_others_wait_leaves_them_an_orphan() {
    let name = TestName::new("holder");
    let Place { shared, .. } = &Place::open(&name);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = shared.lock();
            shared.waiting.fetch_add(1, SeqCst);
            let orphan = orphaned(shared.changed.wait_while(guard, |pair| pair.first == 0));
            assert_eq!(unsafe { *orphan.as_ptr() }, Pair { first: 1, second: 0 });
            let guard = orphan.replace(Pair::of(7));
            // It goes on from there.
            *shared.changed.wait_while(guard, |pair| pair.first == 7).unwrap()
        });
        shared.await_waiting(1);
        let child = Child::spawn("change", &[&*name, ""]);
        child.expect("begun");
        child.kill_to_zombie();
        // Whoever gets it first leaves it to the next one.
        while !matches!(shared.pair.lock(), Ok(guard) if guard.first == 7) {
            thread::yield_now();
        }
        *shared.lock() = Pair::of(8);
        shared.changed.notify_one();
        assert_eq!(waiter.join().unwrap(), Pair::of(8));
    });
}

#[test]
fn a_value_that_is_given_up_ends_all_waits() {
    let name = TestName::new("given-up");
    let place = Place::open(&name);
    let waiters = [(); 2].map(|()| Child::spawn("wait", &[&*name, "1"]));
    place.shared.await_waiting(2);
    // As if somebody had given it up.
    let guard = place.shared.lock();
    let word: &AtomicU32 = unsafe { &*(&raw const place.shared.pair).cast() };
    word.store(127 << 24, SeqCst);
    forget(guard);
    place.shared.changed.notify_all();
    for waiter in waiters {
        waiter.expect("NotRecoverable");
        waiter.finish();
    }
}

/// Nobody can wait there, and the guard is still one.
#[track_caller]
fn assert_refused<'a>(
    condvar: &Condvar,
    guard: MutexGuard<'a, Pair>,
    expected: LockFailure,
) -> MutexGuard<'a, Pair> {
    let take = |result: WaitForResult<'a, Pair>| match result {
        Err(WaitError::Refused { guard, failure }) => {
            assert_eq!(failure, expected);
            guard
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it has waited"),
    };
    let guard = take(condvar.wait_for(guard, SHORT));
    let guard = take(condvar.wait_for(guard, Duration::ZERO));
    let guard = take(condvar.wait(guard).map(|_| panic!("it has waited")));
    let guard = take(condvar.wait_while_for(guard, SHORT, |_| true));
    let guard = take(condvar.wait_while(guard, |_| true).map(|_| panic!("it has waited")));
    // There is nothing to wait for.
    condvar.wait_while(guard, |_| false).unwrap()
}

#[test]
fn outside_of_a_segment_nobody_waits_and_keeps_the_guard() {
    let name = TestName::new("outside");
    let Place { shared, .. } = &Place::open(&name);
    static STATIC: Condvar = Condvar::new();
    let guard = assert_refused(&Condvar::new(), shared.lock(), LockFailure::NotAttached);
    let mut guard = assert_refused(&STATIC, guard, LockFailure::NotAttached);
    guard.first = 5;
    thread::scope(|scope| {
        let taken = || shared.pair.try_lock().map(|_| ()).unwrap_err().failure();
        assert_eq!(scope.spawn(taken).join().unwrap(), LockFailure::Busy);
    });
    drop(guard);
    assert_eq!(shared.pair.try_lock().unwrap().first, 5);
    // Handed on, the error gives the mutex back.
    let error: ShmemError = Condvar::new().wait(shared.lock()).unwrap_err().into();
    assert_eq!(error, ShmemError::Lock(LockFailure::NotAttached));
    drop(shared.pair.try_lock().unwrap());
}

#[test]
fn a_reader_cannot_wait() {
    let name = TestName::new("reader");
    let segment = Builder::new(&name).with_size(size_of::<Shared>()).create().unwrap();
    let root = unsafe { segment.boxed::<Shared>() };
    let reader = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<Shared>() }.unwrap();
    drop(assert_refused(&reader.changed, root.lock(), LockFailure::ReadOnly));
    drop(root.pair.try_lock().unwrap());
}

#[test]
fn one_whose_memory_goes_away_stops_waiting() {
    let name = TestName::new("severed");
    let segment = Builder::new(&name).with_size(size_of::<Shared>()).create().unwrap();
    let root = unsafe { segment.boxed::<Shared>() };
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = root.lock();
            root.waiting.fetch_add(1, SeqCst);
            root.changed.wait_while(guard, |_| true).map(|_| ()).unwrap_err().failure()
        });
        while root.waiting.load(SeqCst) == 0 {
            thread::yield_now();
        }
        // What a handler does after a fault.
        assert!(unsafe { sigbus_fixup((&raw const *root).cast()) });
        assert_eq!(waiter.join().unwrap(), LockFailure::Severed);
    });
    // A guard from before, at a condvar that has become zeros.
    let another = TestName::new("another");
    let other = Place::open(&another);
    let guard = other.shared.lock();
    drop(assert_refused(&root.changed, guard, LockFailure::Severed));
}

#[test]
fn several_mutexes_may_share_a_condvar() {
    let name = TestName::new("several");
    let Place { shared, arena } = &Place::open(&name);
    let other = arena.alloc(Mutex::new(0_u32)).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = other.lock().unwrap();
            *shared.changed.wait_while(guard, |number| *number == 0).unwrap()
        });
        let another = scope.spawn(|| shared.wait_for_number(1));
        *shared.lock() = Pair::of(1);
        *other.lock().unwrap() = 2;
        shared.changed.notify_all();
        assert_eq!((waiter.join().unwrap(), another.join().unwrap()), (2, Ok(Pair::of(1))));
    });
}

#[test]
fn a_forked_child_does_not_wait_for_what_it_inherited() {
    let name = TestName::new("fork");
    let child = Child::spawn("fork", &[&*name]);
    child.expect("done");
    child.finish();
}

fn fork(parent: &mut Parent) {
    let segment = Builder::new(parent.argument(0)).with_size(size_of::<Shared>()).open().unwrap();
    // Children inherit the mapping of a single value.
    let root = unsafe { segment.boxed::<Shared>() };
    let guard = root.lock();
    Forked::spawn(|| {
        let inherited = unsafe { std::ptr::read(&raw const guard) };
        let inherited = assert_refused(&root.changed, inherited, LockFailure::NotAttached);
        let own = unsafe { Builder::new(parent.argument(0)).attach().unwrap().boxed::<Shared>() };
        // It gives nothing back that is not its own, nor gets it again.
        let error = own.changed.wait_for(inherited, SHORT).map(|_| ()).unwrap_err();
        assert_eq!(error.failure(), LockFailure::NotAttached);
        assert_eq!(own.pair.try_lock().map(|_| ()).unwrap_err().failure(), LockFailure::Busy);
    })
    .finish();
    assert_eq!(root.pair.try_lock().map(|_| ()).unwrap_err().failure(), LockFailure::Deadlock);
    drop(guard);
    parent.say("done");
}

#[test]
fn errors_of_waits_are_readable() {
    let name = TestName::new("readable");
    let Place { shared, .. } = &Place::open(&name);
    let error = Condvar::new().wait(shared.lock()).unwrap_err();
    assert_eq!(error.to_string(), LockFailure::NotAttached.to_string());
    assert_eq!(format!("{error:?}"), "NotAttached");
    assert_eq!(LockFailure::from(error), LockFailure::NotAttached);
}

/// A bounded buffer, with those who put in and those who take out killed at random.
#[test]
fn the_accounts_of_a_buffer_are_settled_after_many_deaths() {
    campaign::run("buffer", &["300"]).conclude("condvar");
}

#[test]
#[ignore = "takes some minutes"]
fn long_the_accounts_of_a_buffer_are_settled_after_many_deaths() {
    // As many as the environment says.
    let kills = std::env::var("SHMEM_BIND_KILLS").unwrap_or("20000".to_owned());
    campaign::run("buffer", &[&kills]).conclude("condvar");
}
