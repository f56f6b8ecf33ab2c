//! Events: processes that wait for each other, death and misuse
//!
//! `cargo test --release --test events -- --ignored --nocapture` is the full length.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::Random;
use common::campaign::{self, Board, Forked, Wrong};
use common::pair::PATIENCE;
use common::{Child, Parent, TestName};
use shmem_bind::sync::{Event, LockFailure};
use shmem_bind::{Arena, Builder, ShmemArc, ShmemBox, Tlsf, shareable, sigbus_fixup};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(30);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("play", play), ("sleepers", sleepers), ("shop", shop), ("fork", fork)]);
}

shareable! {
    /// A number, and two events for those who wait for it to change.
    #[repr(C)]
    #[derive(Debug, Default)]
    pub struct Shared {
        number: AtomicU64,
        more: Event,
        less: Event,
    }
}

/// An attachment, and what lies there.
struct Place {
    // Dropped first.
    shared: ShmemArc<Shared>,
    _arena: Arena<Tlsf>,
}

impl Place {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        Self { shared: arena.find_or_alloc("shared", Shared::default).unwrap(), _arena: arena }
    }
}

/// Two processes take turns so often that it would take a quarter of an hour if each wake were lost, and seen when a sleep is over.
#[test]
fn two_processes_take_turns() {
    let name = TestName::new("turns");
    let place = Place::open(&name);
    let other = Child::spawn("play", &[&*name]);
    take_turns(&place.shared, 0);
    other.expect("done");
    other.finish();
    assert_eq!(place.shared.number.load(SeqCst), 2 * TURNS);
}

const TURNS: u64 = 2000;

fn play(parent: &mut Parent) {
    take_turns(&Place::open(parent.argument(0)).shared, 1);
    parent.say("done");
}

fn take_turns(shared: &Shared, mine: u64) {
    for turn in (0..TURNS).map(|turn| 2 * turn + mine) {
        let is_mine = || (shared.number.load(SeqCst) == turn).then_some(());
        // By hand, and all in one.
        if turn & 2 == 0 {
            while is_mine().is_none() {
                let since = shared.more.listen();
                if is_mine().is_none() {
                    assert!(shared.more.wait(since, PATIENCE).unwrap());
                }
            }
        } else {
            assert_eq!(shared.more.wait_until(PATIENCE, is_mine), Ok(Some(())));
        }
        shared.number.store(turn + 1, SeqCst);
        if turn & 4 == 0 { shared.more.notify_one() } else { shared.more.notify_all() }
    }
}

/// A notification for all reaches all who sleep.
#[test]
fn many_are_woken_at_once() {
    let child = Child::spawn("sleepers", &[]);
    child.expect("done");
    child.finish();
}

fn sleepers(parent: &mut Parent) {
    const SLEEPERS: u64 = 12;
    const ROUNDS: u64 = 100;
    let name = TestName::new("sleepers");
    let place = Place::open(&name);
    let board = unsafe { Board::<AtomicU64>::new() };
    let sleep = || {
        let place = Place::open(&name);
        for round in 1..=ROUNDS {
            let is_next = || (place.shared.number.load(SeqCst) >= round).then_some(());
            assert_eq!(place.shared.more.wait_until(PATIENCE, is_next), Ok(Some(())));
            board.fetch_add(1, SeqCst);
            place.shared.less.notify_one();
        }
    };
    let all: Vec<_> = (0..SLEEPERS).map(|_| Forked::spawn(sleep)).collect();
    for round in 1..=ROUNDS {
        place.shared.number.store(round, SeqCst);
        place.shared.more.notify_all();
        let are_done = || (board.load(SeqCst) == SLEEPERS * round).then_some(());
        assert_eq!(place.shared.less.wait_until(PATIENCE, are_done), Ok(Some(())), "round {round}");
    }
    all.into_iter().for_each(Forked::finish);
    parent.say("done");
}

/// Some give and some take, and sleep when there is nothing to be had or no room; and one after the other is killed.
#[test]
fn those_who_are_killed_let_nobody_sleep_for_ever() {
    campaign::run("shop", &["300"]).conclude("events");
}

#[test]
#[ignore = "takes some minutes"]
fn long_those_who_are_killed_let_nobody_sleep_for_ever() {
    // As many as the environment says.
    let kills = std::env::var("SHMEM_BIND_KILLS").unwrap_or("20000".to_owned());
    campaign::run("shop", &[&kills]).conclude("events");
}

/// So many give, and so many take.
const SIDE: usize = 3;
/// So much there may be.
const ROOM: u64 = 2;

struct Counts {
    /// What each has done, as it counts that itself.
    done: [AtomicU64; 2 * SIDE],
    failed: AtomicU64,
    stop: AtomicU32,
}

fn shop(parent: &mut Parent) {
    let name = TestName::new("shop");
    let place = Place::open(&name);
    let kills: u64 = parent.argument(0).parse().unwrap();
    let board = unsafe { Board::<Counts>::new() };
    let spawn = |index: usize| Forked::spawn(|| trade(&name, &board, index));
    let mut workers: Vec<_> = (0..2 * SIDE).map(spawn).collect();
    let done = || board.done.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    let mut figures = campaign::kill_at_random(parent, kills, &mut workers, spawn, |_| {
        // One side needs the other.
        let enough = done() + 2 * ROOM + 2;
        move || done() >= enough
    });
    board.stop.store(1, SeqCst);
    place.shared.more.notify_all();
    place.shared.less.notify_all();
    workers.into_iter().for_each(Forked::finish);
    let sum = |side: &[AtomicU64]| side.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    let (given, taken) = (sum(&board.done[..SIDE]), sum(&board.done[SIDE..]));
    let left = place.shared.number.load(SeqCst);
    // Each death cost one count at most, of either side.
    if (left + taken).abs_diff(given) > kills || left > ROOM {
        figures.report(Wrong::Lost, format!("{left} left of {given} given and {taken} taken, {kills} kills"));
    }
    for _ in 0..board.failed.load(SeqCst) {
        figures.report(Wrong::Stuck, "somebody waited in vain".to_owned());
    }
    campaign::progress(parent, &format!("{kills} kills, {given} given, {taken} taken"));
    figures.tell(parent);
}

fn trade(name: &str, board: &Counts, index: usize) {
    let Place { shared, .. } = &Place::open(name);
    let gives = index < SIDE;
    let (wait_at, tell) = if gives { (&shared.less, &shared.more) } else { (&shared.more, &shared.less) };
    let step = |number: u64| {
        if gives { (number < ROOM).then_some(number + 1) } else { number.checked_sub(1) }
    };
    loop {
        let result = wait_at.wait_until(PATIENCE, || {
            if board.stop.load(SeqCst) != 0 {
                return Some(false);
            }
            shared.number.fetch_update(SeqCst, SeqCst, step).is_ok().then_some(true)
        });
        match result {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return,
            _ => {
                board.failed.fetch_add(1, SeqCst);
                return;
            }
        }
        tell.notify_one();
        board.done[index].fetch_add(1, SeqCst);
    }
}

#[track_caller]
fn assert_fails(event: &Event, expected: LockFailure) {
    assert_eq!(event.wait_until(SHORT, || None::<()>), Err(expected));
    assert_eq!(event.wait_until(Duration::MAX, || None::<()>), Err(expected));
    // There is nothing to wait for.
    assert_eq!(event.wait_until(SHORT, || Some(5)), Ok(Some(5)));
    assert_eq!(event.wait_until(Duration::ZERO, || None::<()>), Ok(None));
}

#[test]
fn outside_of_a_segment_nobody_sleeps() {
    let name = TestName::new("outside");
    static STATIC: Event = Event::new();
    let on_stack = Event::new();
    assert_fails(&on_stack, LockFailure::NotAttached);
    let _place = Place::open(&name);
    assert_fails(&on_stack, LockFailure::NotAttached);
    assert_fails(&STATIC, LockFailure::NotAttached);
    assert_fails(&Box::new(Event::new()), LockFailure::NotAttached);
    let since = on_stack.listen();
    on_stack.notify_one();
    assert_eq!(on_stack.wait(since, Duration::ZERO), Err(LockFailure::NotAttached));
}

#[test]
fn a_deadline_in_the_past_is_a_look() {
    let name = TestName::new("past");
    let Place { shared, .. } = &Place::open(&name);
    let since = shared.more.listen();
    assert_eq!(shared.more.wait(since, Duration::ZERO), Ok(false));
    assert_eq!(shared.more.wait(since, SHORT), Ok(false));
    shared.more.notify_one();
    assert_eq!(shared.more.wait(since, Duration::ZERO), Ok(true));
    assert_eq!(shared.more.wait(since, Duration::MAX), Ok(true));
    // What happened before one listened is past.
    let since = shared.more.listen();
    assert_eq!(shared.more.wait(since, SHORT), Ok(false));
    let mut asked = 0;
    let condition = || {
        asked += 1;
        None::<()>
    };
    assert_eq!(shared.more.wait_until(Duration::ZERO, condition), Ok(None));
    assert_eq!(asked, 1);
}

#[test]
fn a_reader_cannot_sleep() {
    let name = TestName::new("reader");
    let segment = Builder::new(&name).with_size(size_of::<Shared>()).create().unwrap();
    let root = unsafe { segment.boxed::<Shared>() };
    let reader = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<Shared>() }.unwrap();
    assert_fails(&reader.more, LockFailure::ReadOnly);
    let since = root.more.listen();
    assert_eq!(reader.more.wait(since, SHORT), Err(LockFailure::ReadOnly));
}

#[test]
fn one_whose_memory_goes_away_stops_waiting() {
    let name = TestName::new("severed");
    let segment = Builder::new(&name).with_size(size_of::<Shared>()).create().unwrap();
    let root = unsafe { segment.boxed::<Shared>() };
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let since = root.more.listen();
            root.number.store(1, SeqCst);
            root.more.wait(since, PATIENCE)
        });
        while root.number.load(SeqCst) == 0 {
            thread::yield_now();
        }
        // What a handler does after a fault.
        assert!(unsafe { sigbus_fixup((&raw const root.number).cast_mut().cast()) });
        assert_eq!(waiter.join().unwrap(), Err(LockFailure::Severed));
    });
    assert_fails(&root.more, LockFailure::Severed);
    assert!(ShmemBox::conf(&root).is_severed());
    drop(root);
    assert!(name.exists());
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
    let since = root.more.listen();
    Forked::spawn(|| {
        assert_fails(&root.more, LockFailure::NotAttached);
        assert_eq!(root.more.wait(since, SHORT), Err(LockFailure::NotAttached));
        let own = unsafe { Builder::new(parent.argument(0)).attach().unwrap().boxed::<Shared>() };
        assert_eq!(own.more.wait(since, SHORT), Ok(false));
        // It is the parent's memory, and whoever sleeps there is woken.
        root.more.notify_all();
    })
    .finish();
    assert_eq!(root.more.wait(since, Duration::ZERO), Ok(true));
    parent.say("done");
}

#[test]
fn any_word_is_an_event() {
    let name = TestName::new("words");
    let Place { shared, .. } = &Place::open(&name);
    let word: &AtomicU32 = unsafe { &*(&raw const shared.more).cast() };
    let mut random = Random::new(1);
    for value in [0, 1, 0xff, 0x100, u32::MAX].into_iter().chain((0..20).map(|_| random.next() as u32)) {
        word.store(value, SeqCst);
        assert_eq!(shared.more.wait_until(Duration::from_millis(1), || None::<()>), Ok(None));
        let since = shared.more.listen();
        shared.more.notify_one();
        assert_eq!(shared.more.wait(since, PATIENCE), Ok(true), "{value:#x}");
    }
}
