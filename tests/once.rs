//! What is initialised once: threads, processes, death and misuse
//!
//! `cargo test --release --test once -- --ignored --nocapture` is the full length.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::Random;
use common::campaign::{self, Board, Figures, Forked, Wrong};
use common::pair::{PATIENCE, Pair};
use common::{Child, Parent, TestName};
use nix::sys::signal::Signal;
use shmem_bind::sync::{LockFailure, Once, OnceCell};
use shmem_bind::{
    Arena, Builder, DirectoryError, ShmemArc, ShmemBox, ShmemError, Tlsf, shareable, sigbus_fixup,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(30);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("initialize", initialize), ("race", race), ("fork", fork)]);
}

/// An attachment, and a cell in it.
struct Place {
    // Dropped first.
    cell: ShmemArc<OnceCell<Pair>>,
    arena: Arena<Tlsf>,
}

impl Place {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        Self { cell: arena.find_or_alloc("cell", OnceCell::new).unwrap(), arena }
    }

    fn init(&self, number: u64) -> Pair {
        *self.cell.get_or_init_for(PATIENCE, || Pair::of(number)).unwrap()
    }

    /// The words of the lock, and the state.
    fn words(&self) -> &[AtomicU32; 6] {
        unsafe { &*(&raw const *self.cell).cast() }
    }

    fn bytes_of_value(&self) -> *mut Pair {
        unsafe { (&raw const *self.cell).cast_mut().byte_add(24).cast() }
    }
}

/// Begins to initialise the cell, and goes on as it is told.
fn initialize(parent: &mut Parent) {
    let place = Place::open(parent.argument(0));
    let number = parent.argument(1).parse().unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        place.cell.get_or_try_init(|| {
            parent.say("begun");
            match parent.hear().as_deref() {
                Some("panic") => panic!("on purpose"),
                Some("fail") => Err(ShmemError::NotFound),
                _ => Ok(Pair::of(number)),
            }
        })
    }));
    parent.say(&match result {
        Ok(Ok(pair)) => pair.first.to_string(),
        Ok(Err(error)) => format!("{error:?}"),
        Err(_) => "panicked".to_owned(),
    });
    parent.hear();
}

/// Starts a child that has begun to initialise the cell.
fn initializer(name: &str, number: u64) -> Child {
    let child = Child::spawn("initialize", &[name, &number.to_string()]);
    child.expect("begun");
    child
}

#[test]
fn the_first_one_initializes_and_all_see_it() {
    let name = TestName::new("first");
    let place = Place::open(&name);
    assert_eq!(place.cell.get(), None);
    let mut child = initializer(&name, 1);
    // Nobody sees anything of it yet.
    assert_eq!(place.cell.get(), None);
    assert_eq!(place.cell.get_or_init_for(SHORT, || Pair::of(2)), Err(LockFailure::Busy));
    assert_eq!(place.cell.get_or_init_for(Duration::ZERO, || Pair::of(2)), Err(LockFailure::Busy));
    assert_eq!(place.cell.wait_for(SHORT), Ok(None));
    thread::scope(|scope| {
        let waiting = [scope.spawn(|| place.init(2)), scope.spawn(|| *place.cell.wait().unwrap())];
        child.say("go on");
        child.expect("1");
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap(), Pair::of(1)));
    });
    assert_eq!(place.cell.get(), Some(&Pair::of(1)));
    assert_eq!(place.init(3), Pair::of(1));
    assert_eq!(place.cell.wait_for(Duration::ZERO), Ok(Some(&Pair::of(1))));
    child.finish();
    assert_eq!(place.cell.get(), Some(&Pair::of(1)));
}

#[test]
fn another_one_initializes_after_a_death() {
    let name = TestName::new("dead");
    let place = Place::open(&name);
    for _ in 0..3 {
        initializer(&name, 1).kill();
        assert_eq!(place.cell.get(), None);
    }
    // Half of it is written; as if it had died then.
    unsafe { (*place.bytes_of_value()).first = 1 };
    let mut child = initializer(&name, 2);
    thread::scope(|scope| {
        // Those who are waiting already.
        let waiting = [scope.spawn(|| place.init(3)), scope.spawn(|| *place.cell.wait().unwrap())];
        child.kill_to_zombie();
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap(), Pair::of(3)));
    });
    child.kill();
    assert_eq!(place.cell.get(), Some(&Pair::of(3)));
}

#[test]
fn another_one_initializes_after_a_panic_or_a_failure() {
    let name = TestName::new("failed");
    let place = Place::open(&name);
    for (order, answer) in [("panic", "panicked"), ("fail", "NotFound")] {
        let mut child = initializer(&name, 1);
        child.say(order);
        child.expect(answer);
        assert_eq!(place.cell.get(), None);
        child.finish();
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| place.cell.get_or_init(|| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(place.cell.get_or_try_init(|| Err(ShmemError::Busy)), Err(ShmemError::Busy));
    assert_eq!(place.init(2), Pair::of(2));
}

#[test]
fn a_stopped_initializer_is_waited_for() {
    let name = TestName::new("stopped");
    let place = Place::open(&name);
    let mut child = initializer(&name, 1);
    child.signal(Signal::SIGSTOP);
    assert_eq!(
        place.cell.get_or_init_for(Duration::from_millis(200), || Pair::of(2)),
        Err(LockFailure::Busy)
    );
    child.signal(Signal::SIGCONT);
    child.say("go on");
    assert_eq!(place.init(3), Pair::of(1));
    child.finish();
}

/// The lock is only for those who would initialise it.
#[test]
fn one_who_is_stopped_after_it_has_said_so_keeps_nobody_waiting() {
    let name = TestName::new("committed");
    let place = Place::open(&name);
    let child = initializer(&name, 1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| place.init(2));
        // As if that child had done this, and were stopped before it gave the lock back.
        unsafe { place.bytes_of_value().write(Pair::of(1)) };
        place.words()[4].store(1, SeqCst);
        assert_eq!(waiting.join().unwrap(), Pair::of(1));
        assert_eq!(*place.cell.wait().unwrap(), Pair::of(1));
    });
    assert_ne!(place.words()[0].load(SeqCst), 0, "the child has the lock");
    drop(child);
}

#[test]
fn whoever_wants_what_it_is_to_give_is_told() {
    let name = TestName::new("recursion");
    let (place, twice) = (Place::open(&name), Place::open(&name));
    let result = place.cell.get_or_init(|| {
        for cell in [&place.cell, &twice.cell] {
            assert_eq!(cell.get_or_init(|| Pair::of(1)), Err(LockFailure::Deadlock));
            let error = cell.set(Pair::of(1)).unwrap_err();
            assert_eq!((error.failure, error.value), (Some(LockFailure::Deadlock), Pair::of(1)));
            // To look is allowed, and to wait is in vain.
            assert_eq!(cell.get(), None);
            assert_eq!(cell.wait_for(Duration::MAX), Err(LockFailure::Deadlock));
            assert_eq!(cell.wait(), Err(LockFailure::Deadlock));
        }
        thread::scope(|scope| {
            // To another thread it is merely busy.
            let other = scope.spawn(|| place.cell.get_or_init_for(SHORT, || Pair::of(1)).map(|_| ()));
            assert_eq!(other.join().unwrap(), Err(LockFailure::Busy));
            let other = scope.spawn(|| place.cell.wait_for(SHORT).map(|found| found.is_none()));
            assert_eq!(other.join().unwrap(), Ok(true));
            let error = scope.spawn(|| place.cell.set_for(Pair::of(1), SHORT)).join().unwrap().unwrap_err();
            assert_eq!((error.failure, error.value), (Some(LockFailure::Busy), Pair::of(1)));
        });
        Pair::of(2)
    });
    assert_eq!(result, Ok(&Pair::of(2)));
}

#[test]
fn set_gives_back_what_it_does_not_take() {
    let name = TestName::new("set");
    let place = Place::open(&name);
    place.cell.set(Pair::of(1)).unwrap();
    let error = place.cell.set(Pair::of(2)).unwrap_err();
    assert_eq!((error.failure, error.value), (None, Pair::of(2)));
    assert!(error.to_string().contains("a value already"), "{error}");
    assert_eq!(place.cell.get(), Some(&Pair::of(1)));
    let on_stack = OnceCell::new();
    let error = on_stack.set(Pair::of(3)).unwrap_err();
    assert_eq!((error.failure, error.value), (Some(LockFailure::NotAttached), Pair::of(3)));
    assert_eq!(error.to_string(), LockFailure::NotAttached.to_string());
}

#[test]
fn threads_and_processes_agree() {
    let name = TestName::new("threads");
    let place = Place::open(&name);
    let calls = AtomicU32::new(0);
    let once = place.arena.alloc(Once::new()).unwrap();
    thread::scope(|scope| {
        let all: Vec<_> = (1..=8)
            .map(|number| {
                let (place, calls, once) = (&place, &calls, &once);
                scope.spawn(move || {
                    once.call_once(|| _ = calls.fetch_add(1, SeqCst)).unwrap();
                    assert!(once.is_completed());
                    place.init(number).first
                })
            })
            .collect();
        let numbers: Vec<_> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
    });
    assert_eq!(calls.load(SeqCst), 1);
}

#[test]
fn a_new_segment_holds_what_is_not_done_yet() {
    shareable! {
        #[repr(C)]
        struct Root {
            once: Once,
            cell: OnceCell<u32>,
        }
    }
    let (segment, fd) = Builder::memfd().create(size_of::<Root>()).unwrap();
    let root = unsafe { segment.boxed::<Root>() };
    assert!(!root.once.is_completed());
    assert_eq!(root.once.wait_for(SHORT), Ok(false));
    assert_eq!(format!("{:?} {:?}", root.once, root.cell), "Once { is_completed: false } OnceCell(<empty>)");
    root.once.call_once(|| root.cell.set(5).unwrap()).unwrap();
    let other = unsafe { Builder::memfd().attach(&fd).unwrap().boxed::<Root>() };
    assert!(other.once.is_completed());
    assert_eq!((other.once.wait(), other.once.wait_for(Duration::ZERO)), (Ok(()), Ok(true)));
    other.once.call_once_for(SHORT, || panic!("it is done")).unwrap();
    assert_eq!(other.cell.get(), Some(&5));
    assert_eq!(format!("{:?} {:?}", other.once, other.cell), "Once { is_completed: true } OnceCell(5)");
}

#[test]
fn a_cell_of_another_type_is_not_found() {
    let name = TestName::new("type");
    let place = Place::open(&name);
    let other = place.arena.find::<OnceCell<[u64; 2]>>("cell").unwrap_err();
    assert!(matches!(other, DirectoryError::Mismatch(_)), "{other:?}");
}

static DESTROYED: AtomicU64 = AtomicU64::new(0);

shareable! {
    /// Counts how often it is destroyed.
    #[derive(Debug)]
    #[repr(C)]
    struct Counted(u64);
}

impl Drop for Counted {
    fn drop(&mut self) {
        DESTROYED.fetch_add(self.0, SeqCst);
    }
}

#[test]
fn a_value_is_destroyed_once_and_what_is_none_never() {
    let name = TestName::new("destructors");
    let place = Place::open(&name);
    let add = || place.arena.alloc(OnceCell::<Counted>::new()).unwrap();
    let is_destroyed = |number| assert_eq!(DESTROYED.swap(0, SeqCst), number);
    let cell = add();
    cell.set(Counted(1)).unwrap();
    drop(cell.set(Counted(10)).unwrap_err());
    is_destroyed(10);
    drop(cell);
    is_destroyed(1);
    // What a dead one has begun to write.
    let cell = add();
    unsafe { (&raw const *cell).cast_mut().byte_add(24).cast::<u64>().write(100) };
    drop(cell);
    is_destroyed(0);
    let mut cell = add();
    cell.set(Counted(1000)).unwrap();
    cell.get_mut().unwrap().0 += 1;
    assert_eq!(cell.take().unwrap().0, 1001);
    is_destroyed(1001);
    assert!(cell.take().is_none() && cell.get_mut().is_none());
    cell.set(Counted(1)).unwrap();
    assert_eq!(ShmemBox::into_inner(cell).unwrap().into_inner().unwrap().0, 1);
    is_destroyed(1);
    drop(ShmemBox::into_inner(add()).unwrap().into_inner());
    // One who panics gives nothing.
    let cell = add();
    assert!(catch_unwind(AssertUnwindSafe(|| cell.get_or_init(|| panic!("on purpose")))).is_err());
    drop(cell);
    is_destroyed(0);
}

shareable! {
    /// Larger than the stack of a thread.
    #[repr(C)]
    struct Large {
        bytes: [u8; 8 << 20],
    }
}

static LARGE_DESTROYED: AtomicU64 = AtomicU64::new(0);

impl Drop for Large {
    fn drop(&mut self) {
        LARGE_DESTROYED.fetch_add(self.bytes[8191].into(), SeqCst);
    }
}

#[test]
fn what_is_larger_than_the_stack_is_dropped_where_it_lies() {
    let arena: Arena<Tlsf> = Builder::memfd().create(20 << 20).unwrap().0.arena().unwrap();
    let (empty, full) = [(); 2].map(|()| arena.alloc_zeroed::<OnceCell<Large>>().unwrap()).into();
    let with_stack = |size, work: Box<dyn FnOnce() + Send + '_>| {
        let thread = thread::Builder::new().stack_size(size);
        thread::scope(|scope| thread.spawn_scoped(scope, work).unwrap().join().unwrap());
    };
    with_stack(64 << 20, Box::new(|| assert!(full.get_or_init(|| Large { bytes: [7; 8 << 20] }).is_ok())));
    assert_eq!(full.get().unwrap().bytes[8191], 7);
    with_stack(1 << 20, Box::new(move || drop((empty, full))));
    assert_eq!(LARGE_DESTROYED.load(SeqCst), 7);
}

/// It cannot be initialised, nor waited for.
#[track_caller]
fn assert_fails(cell: &OnceCell<Pair>, expected: LockFailure) {
    assert_eq!(cell.get(), None);
    assert_eq!(cell.get_or_init(|| panic!("called")), Err(expected));
    assert_eq!(cell.get_or_init_for(Duration::ZERO, || panic!("called")), Err(expected));
    assert_eq!(cell.set(Pair::of(1)).unwrap_err().failure, Some(expected));
}

#[test]
fn outside_of_a_segment_nothing_is_initialized() {
    let name = TestName::new("outside");
    let on_stack = OnceCell::new();
    assert_fails(&on_stack, LockFailure::NotAttached);
    let _place = Place::open(&name);
    assert_fails(&on_stack, LockFailure::NotAttached);
    assert_eq!(on_stack.wait(), Err(LockFailure::NotAttached));
    assert_fails(&Box::new(OnceCell::new()), LockFailure::NotAttached);
    static STATIC: OnceCell<Pair> = OnceCell::new();
    assert_fails(&STATIC, LockFailure::NotAttached);
    static ONCE: Once = Once::new();
    assert_eq!(ONCE.call_once(|| panic!("called")), Err(LockFailure::NotAttached));
    assert_eq!((ONCE.wait(), ONCE.is_completed()), (Err(LockFailure::NotAttached), false));
    // What is there can be seen anywhere.
    let complete = OnceCell::from(Pair::of(4));
    assert_eq!(complete.get_or_init(|| panic!("called")), Ok(&Pair::of(4)));
    assert_eq!(complete.wait(), Ok(&Pair::of(4)));
}

#[test]
fn a_reader_only_looks() {
    let name = TestName::new("reader");
    let segment = Builder::new(&name).with_size(size_of::<OnceCell<Pair>>()).create().unwrap();
    let root = unsafe { segment.boxed::<OnceCell<Pair>>() };
    let open = || unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref() }.unwrap();
    let reader: shmem_bind::ReadRef<OnceCell<Pair>> = open();
    assert_fails(&reader, LockFailure::ReadOnly);
    assert_eq!(reader.wait_for(SHORT), Err(LockFailure::ReadOnly));
    root.set(Pair::of(1)).unwrap();
    assert_eq!(reader.get(), Some(&Pair::of(1)));
    assert_eq!(reader.get_or_init(|| panic!("called")), Ok(&Pair::of(1)));
    assert_eq!(reader.wait(), Ok(&Pair::of(1)));
}

#[test]
fn what_has_gone_away_is_not_initialized() {
    let name = TestName::new("severed");
    let segment = Builder::new(&name).with_size(size_of::<OnceCell<Pair>>()).create().unwrap();
    let root = unsafe { segment.boxed::<OnceCell<Pair>>() };
    // What a handler does after a fault.
    assert!(unsafe { sigbus_fixup((&raw const *root).cast()) });
    assert_fails(&root, LockFailure::Severed);
    assert_eq!(root.wait(), Err(LockFailure::Severed));
}

#[test]
fn any_word_is_answered() {
    let name = TestName::new("words");
    let place = Place::open(&name);
    let words = place.words();
    for state in [2, 1 << 31, u32::MAX] {
        words[4].store(state, SeqCst);
        assert_fails_damaged(&place, state);
    }
    words[4].store(0, SeqCst);
    let mine = AtomicU32::new(0);
    let note = || {
        mine.store(words[0].load(SeqCst), SeqCst);
        Err(LockFailure::OwnerDied)
    };
    assert_eq!(place.cell.get_or_try_init(note), Err(LockFailure::OwnerDied));
    for holder in 0..128_u32 {
        for rest in [0, 1, mine.load(SeqCst) & 0xff_ffff, 0xff_ffff, 1 << 31, 1 << 31 | 0xff_ffff] {
            let word = holder << 24 | rest;
            words[0].store(word, SeqCst);
            let found = place
                .cell
                .get_or_try_init_for(Duration::from_millis(1), || Err(LockFailure::OwnerDied))
                .unwrap_err();
            // The first one means that it was to be initialised.
            let expected = match (holder, rest & !(1 << 31)) {
                // As if another thread of this process had it.
                _ if word & !(1 << 31) == mine.load(SeqCst) => LockFailure::Busy,
                (0, 0) | (1..=56, _) => LockFailure::OwnerDied,
                (127, 0) => LockFailure::NotRecoverable,
                _ => LockFailure::Damaged,
            };
            assert_eq!(found, expected, "{word:#x}");
        }
    }
    words[0].store(0, SeqCst);
    assert_eq!(place.init(1), Pair::of(1));
}

#[track_caller]
fn assert_fails_damaged(place: &Place, state: u32) {
    assert_eq!(place.cell.get_or_init(|| panic!("called")), Err(LockFailure::Damaged), "{state:#x}");
    assert_eq!(place.cell.wait(), Err(LockFailure::Damaged));
    assert_eq!((place.cell.get(), place.words()[0].load(SeqCst)), (None, 0));
}

#[test]
fn a_forked_child_initializes_nothing_of_its_parent() {
    let name = TestName::new("fork");
    let child = Child::spawn("fork", &[&*name]);
    child.expect("done");
    child.finish();
}

fn fork(parent: &mut Parent) {
    let segment = Builder::new(parent.argument(0)).with_size(size_of::<OnceCell<Pair>>()).open().unwrap();
    // Children inherit the mapping of a single value.
    let root = unsafe { segment.boxed::<OnceCell<Pair>>() };
    let own = || unsafe { Builder::new(parent.argument(0)).attach().unwrap().boxed::<OnceCell<Pair>>() };
    Forked::spawn(|| {
        assert_fails(&root, LockFailure::NotAttached);
        assert_eq!(root.wait(), Err(LockFailure::NotAttached));
    })
    .finish();
    root.get_or_init(|| {
        // In the middle of it: the child has this thread, but not its lock.
        Forked::spawn(|| {
            assert_eq!(own().get_or_init_for(SHORT, || Pair::of(1)), Err(LockFailure::Busy));
        })
        .finish();
        Pair::of(2)
    })
    .unwrap();
    Forked::spawn(|| {
        assert_eq!(root.get(), Some(&Pair::of(2)));
        assert_eq!(own().get_or_init(|| panic!("called")), Ok(&Pair::of(2)));
    })
    .finish();
    parent.say("done");
}

/// Eight processes want each of many cells at the same time, and one after the other is killed.
#[test]
fn whoever_is_killed_in_the_race_others_come_to_the_end() {
    campaign::run("race", &["300"]).conclude("once");
}

#[test]
#[ignore = "takes some minutes"]
fn long_whoever_is_killed_in_the_race_others_come_to_the_end() {
    // As many as the environment says.
    let kills = std::env::var("SHMEM_BIND_KILLS").unwrap_or("20000".to_owned());
    campaign::run("race", &[&kills]).conclude("once");
}

const RACERS: usize = 8;
const CELLS: usize = 1000;

struct Track {
    /// What was seen in the cells, and how often somebody began to initialise them, in this round.
    seen: [AtomicU64; CELLS],
    begun: AtomicU64,
    /// How many values were looked at, by each.
    looks: [AtomicU64; RACERS],
    /// Values that were not whole, or not the same for all.
    broken: AtomicU64,
    failed: AtomicU64,
    numbers: AtomicU64,
    /// Numbers up to this one are of rounds before.
    past: AtomicU64,
    stop: AtomicU32,
}

type Cells = [OnceCell<Pair>; CELLS];

fn race(parent: &mut Parent) {
    let name = TestName::new("race");
    let open =
        || unsafe { Builder::new(&name).with_size(size_of::<Cells>()).open().unwrap().boxed::<Cells>() };
    let mut cells = open();
    let kills: u64 = parent.argument(0).parse().unwrap();
    let board = unsafe { Board::<Track>::new() };
    let spawn = |index: usize| Forked::spawn(|| run(&open(), &board, index));
    let mut racers: Vec<_> = (0..RACERS).map(spawn).collect();
    let mut random = Random::new(kills);
    let mut figures = Figures::default();
    let (mut kill, mut rounds, mut begun) = (0, 0, 0);
    let looks = || board.looks.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    while kill < kills && figures.is_clean() {
        let (before, deadline) = (looks(), Instant::now() + PATIENCE);
        let until = before + random.below(30);
        while looks() < until && !are_complete(&cells) {
            if Instant::now() > deadline {
                figures.report(Wrong::Stuck, format!("kill {kill}: nobody goes on"));
                break;
            }
            thread::yield_now();
        }
        if are_complete(&cells) {
            // Another round: all are stopped, and the cells are emptied.
            board.stop.store(1, SeqCst);
            racers.drain(..).for_each(Forked::finish);
            begun += board.begun.swap(0, SeqCst);
            check_round(&mut cells, &board, &mut figures);
            board.past.store(board.numbers.load(SeqCst), SeqCst);
            rounds += 1;
            board.stop.store(0, SeqCst);
            racers.extend((0..RACERS).map(spawn));
            continue;
        }
        let index = random.index(RACERS);
        (0..random.below(3_000)).for_each(|_| std::hint::spin_loop());
        std::mem::replace(&mut racers[index], spawn(index)).kill();
        kill += 1;
        figures.points += 1;
        if kill % 500 == 0 {
            campaign::progress(parent, &format!("  {figures}"));
        }
    }
    board.stop.store(1, SeqCst);
    racers.into_iter().for_each(Forked::finish);
    begun += board.begun.load(SeqCst);
    let complete = rounds * CELLS as u64 + cells.iter().filter(|cell| cell.get().is_some()).count() as u64;
    // Each death cost one beginning at most, which may have been one too many.
    if begun < complete || begun > complete + kills {
        figures.report(Wrong::Lost, format!("{begun} begun, {complete} complete, {kills} kills"));
    }
    for _ in 0..board.broken.load(SeqCst) {
        figures.report(Wrong::Corrupt, "a value was not whole, or not the same for all".to_owned());
    }
    for _ in 0..board.failed.load(SeqCst) {
        figures.report(Wrong::Stuck, "somebody was refused".to_owned());
    }
    let cost = begun - complete;
    campaign::progress(
        parent,
        &format!("{kills} kills, {cost} of them in the middle, {complete} values, {rounds} rounds"),
    );
    figures.tell(parent);
}

fn are_complete(cells: &Cells) -> bool {
    cells.iter().rev().all(|cell| cell.get().is_some())
}

/// All that was seen is there still. Leaves all empty.
fn check_round(cells: &mut Cells, board: &Track, figures: &mut Figures) {
    for (cell, seen) in cells.iter_mut().zip(&board.seen) {
        let seen = seen.swap(0, SeqCst);
        match cell.take() {
            Some(pair) if pair == Pair::of(pair.first) && (seen == 0 || seen == pair.first) => {}
            other => figures.report(Wrong::Corrupt, format!("{other:?}, and {seen} was seen")),
        }
    }
}

fn run(cells: &Cells, board: &Track, index: usize) {
    let first = cells.iter().position(|cell| cell.get().is_none()).unwrap_or(0);
    for (cell, seen) in cells.iter().zip(&board.seen).skip(first) {
        if board.stop.load(SeqCst) != 0 {
            return;
        }
        let result = cell.get_or_init_for(PATIENCE, || {
            board.begun.fetch_add(1, SeqCst);
            let number = board.numbers.fetch_add(1, SeqCst) + 1;
            // Long enough to be killed in.
            (0..number % 4096).for_each(|_| std::hint::spin_loop());
            Pair::of(number)
        });
        match result {
            Ok(pair) => {
                let before = seen.compare_exchange(0, pair.first, SeqCst, SeqCst).unwrap_or_else(|seen| seen);
                let is_of_now = pair.first > board.past.load(SeqCst);
                if pair.first != pair.second || !is_of_now || before != 0 && before != pair.first {
                    board.broken.fetch_add(1, SeqCst);
                }
                board.looks[index].fetch_add(1, SeqCst);
            }
            Err(_) => _ = board.failed.fetch_add(1, SeqCst),
        }
    }
}
