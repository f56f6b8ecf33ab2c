//! A lock that readers and writers contend for, and a semaphore, whose users are killed at random moments
//!
//! What is guarded is an enum that takes long to assign. Whoever is killed in that leaves one variant's tag beside another one's fields,
//! and no guard may ever show it, be it for reading or for writing: it is looked at as bytes first. Half of the processes read, so
//! they are killed as readers too, and those that are left must neither wait for the dead nor meet each other. And each has a permit while it does so, of
//! which there are fewer than processes.
//!
//! `cargo test --release --test rwlock_contended -- --ignored --nocapture` is the full length.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use common::arena::Random;
use common::campaign::{self, Board, Figures, Forked, Wrong};
use common::pair::PATIENCE;
use common::{Parent, TestName};
use shmem_bind::sync::{LockError, RwLock, RwLockWriteGuard, Semaphore};
use shmem_bind::{Arena, Builder, Shareable, ShmemArc, Tlsf, TypeTag};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

const PROCESSES: usize = 4;
const PERMITS: usize = 3;
const WORDS: usize = 400;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("contend", contend)]);
}

#[test]
fn the_lock_survives_readers_and_writers() {
    campaign::run("contend", &["100"]).conclude("rwlock_contended");
}

#[test]
#[ignore = "takes some minutes"]
fn long_the_lock_survives_readers_and_writers() {
    // As many as the environment says.
    let kills = std::env::var("SHMEM_BIND_KILLS").unwrap_or("20000".to_owned());
    campaign::run("contend", &[&kills]).conclude("rwlock_contended");
}

/// The fields of each variant follow from a number that tells it, and from it alone.
#[derive(Clone, Copy, Debug)]
#[repr(C, u64)]
enum Shape {
    Even([u64; WORDS]),
    Odd(u64, [u64; WORDS]),
}

// SAFETY: layout fixed by `repr(C, u64)`, and the tag has a name that no other type of this test has. Plain numbers.
unsafe impl Shareable for Shape {
    const TAG: TypeTag = TypeTag::new::<Self>("rwlock_contended.Shape", 1)
        .with_variant("Even", 0)
        .with_variant("Odd", 1)
        .with_parameter(WORDS as u128);
    const FROZEN: bool = true;
}

impl Shape {
    fn new(number: u64) -> Self {
        if number % 2 == 0 { Self::Even([number; WORDS]) } else { Self::Odd(number, [number; WORDS]) }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Even(words) => words[0],
            Self::Odd(number, words) if words[WORDS - 1] == *number => *number,
            Self::Odd(..) => u64::MAX,
        }
    }

    /// Whether the bytes are those of a value that somebody has assigned.
    fn is_whole_at(place: *const Self) -> bool {
        let word = |index: usize| unsafe { place.cast::<u64>().add(index).read_volatile() };
        let (tag, number) = (word(0), word(1));
        tag < 2 && number % 2 == tag && (1..=WORDS + tag as usize).all(|index| word(index) == number)
    }
}

struct Place {
    // Dropped first.
    lock: ShmemArc<RwLock<Shape, PROCESSES>>,
    semaphore: ShmemArc<Semaphore<PERMITS>>,
    _arena: Arena<Tlsf>,
}

impl Place {
    fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        let lock = arena.find_or_alloc("shape", || RwLock::with_readers(Shape::new(0))).unwrap();
        let semaphore = arena.find_or_alloc("permits", Semaphore::new).unwrap();
        Self { lock, semaphore, _arena: arena }
    }

    fn is_whole(&self) -> bool {
        Shape::is_whole_at(self.lock.as_ptr())
    }
}

/// What the driver shares with all.
struct Shared {
    /// How often each of them has had the lock.
    turns: [AtomicU64; PROCESSES],
    /// Who is in just now, or was killed there.
    readers: [AtomicU32; PROCESSES],
    writers: [AtomicU32; PROCESSES],
    /// Guards that showed a torn value, or met another one.
    shown_torn: AtomicU64,
    met: AtomicU64,
    refused: AtomicU64,
    orphans: AtomicU64,
    torn: AtomicU64,
    stop: AtomicU32,
}

fn contend(parent: &mut Parent) {
    let name = TestName::new("contend");
    let place = Place::open(&name);
    let kills: u64 = parent.argument(0).parse().unwrap();
    let board = unsafe { Board::<Shared>::new() };
    let spawn = |index: usize| Forked::spawn(|| work(&name, &board, index));
    let mut workers = [0, 1, 2, 3].map(spawn);
    let mut random = Random::new(kills);
    let mut figures = Figures::default();
    let (mut reading, mut writing) = (0_u64, 0_u64);
    for kill in 0..kills {
        let index = random.index(PROCESSES);
        let before = board.turns[index].load(SeqCst);
        // It has got the lock, at least once, since it was started.
        let deadline = std::time::Instant::now() + PATIENCE;
        while board.turns[index].load(SeqCst) == before {
            if std::time::Instant::now() > deadline {
                figures.report(Wrong::Stuck, format!("kill {kill}: the worker does not get the lock"));
                break;
            }
            thread::yield_now();
        }
        (0..random.below(4_000)).for_each(|_| std::hint::spin_loop());
        let worker = &mut workers[index];
        worker.kill_to_zombie();
        reading += u64::from(board.readers[index].swap(0, SeqCst));
        writing += u64::from(board.writers[index].swap(0, SeqCst));
        std::mem::replace(worker, spawn(index)).kill();
        figures.points += 1;
        if kill % 500 == 499 {
            campaign::progress(parent, &format!("  {figures}"));
        }
    }
    board.stop.store(1, SeqCst);
    workers.into_iter().for_each(Forked::finish);
    // Nobody is left, and the dead hold nothing.
    match place.lock.try_write() {
        Ok(guard) if place.is_whole() => drop(guard),
        Ok(_) => figures.report(Wrong::Corrupt, "a torn value in the end".to_owned()),
        Err(LockError::Orphaned(orphaned)) => drop(orphaned.replace(Shape::new(0))),
        Err(error) => figures.report(Wrong::Stuck, format!("in the end: {error:?}")),
    }
    let permits: Vec<_> = (0..PERMITS).map(|_| place.semaphore.try_acquire()).collect();
    if permits.iter().any(Result::is_err) || place.semaphore.try_acquire().is_ok() {
        figures.report(Wrong::Lost, format!("permits in the end: {permits:?}"));
    }
    let mut complain = |count: &AtomicU64, wrong, what: &str| {
        (0..count.load(SeqCst)).for_each(|_| figures.report(wrong, what.to_owned()));
    };
    complain(&board.shown_torn, Wrong::Corrupt, "a guard showed a torn value");
    complain(&board.met, Wrong::Corrupt, "a writer was in with another one");
    complain(&board.refused, Wrong::Stuck, "a lock or a permit was refused");
    let [orphans, torn] = [&board.orphans, &board.torn].map(|count| count.load(SeqCst));
    campaign::progress(
        parent,
        &format!(
            "{kills} kills, {reading} reading, {writing} writing; {orphans} orphans, {torn} of them torn"
        ),
    );
    assert!(reading != 0 && writing != 0 && orphans != 0 && torn != 0, "nothing could be found");
    figures.tell(parent);
}

fn work(name: &str, board: &Shared, index: usize) {
    let place = Place::open(name);
    let mut random = Random::new(index as u64 + board.turns[index].load(SeqCst));
    while board.stop.load(SeqCst) == 0 {
        let Ok(_permit) = place.semaphore.acquire_for(PATIENCE) else {
            board.refused.fetch_add(1, SeqCst);
            return;
        };
        let adopt = |left: *mut Shape| {
            board.orphans.fetch_add(1, SeqCst);
            board.torn.fetch_add(u64::from(!Shape::is_whole_at(left)), SeqCst);
        };
        let look = || {
            if !place.is_whole() {
                board.shown_torn.fetch_add(1, SeqCst);
            }
        };
        if index % 2 == 0 {
            let guard = match place.lock.read_for(PATIENCE) {
                Ok(guard) => guard,
                Err(LockError::Orphaned(orphaned)) => {
                    adopt(orphaned.as_ptr());
                    orphaned.replace(Shape::new(random.next() >> 1))
                }
                Err(_) => {
                    board.refused.fetch_add(1, SeqCst);
                    return;
                }
            };
            board.readers[index].store(1, SeqCst);
            look();
            let number = guard.number();
            pause(random.below(100));
            // Nobody has written meanwhile.
            look();
            if guard.number() != number {
                board.met.fetch_add(1, SeqCst);
            }
            board.readers[index].store(0, SeqCst);
        } else {
            let mut guard = match place.lock.write_for(PATIENCE) {
                Ok(guard) => guard,
                Err(LockError::Orphaned(orphaned)) => {
                    adopt(orphaned.as_ptr());
                    orphaned.replace(Shape::new(random.next() >> 1))
                }
                Err(_) => {
                    board.refused.fetch_add(1, SeqCst);
                    return;
                }
            };
            look();
            board.writers[index].store(1, SeqCst);
            // More often than once, so that much of the time is spent in stores.
            let shapes = [0, 1, 2].map(|_| Shape::new(random.next() >> 1));
            for index in 0..60 {
                *guard = black_box(&shapes)[index % 3];
            }
            let last = shapes[2].number();
            board.writers[index].store(0, SeqCst);
            if guard.number() != last {
                board.met.fetch_add(1, SeqCst);
            }
            if random.below(4) == 0 {
                let guard = RwLockWriteGuard::downgrade(guard);
                look();
                if guard.number() != last {
                    board.met.fetch_add(1, SeqCst);
                }
            }
        }
        board.turns[index].fetch_add(1, SeqCst);
    }
}

fn pause(spins: u64) {
    (0..spins).for_each(|_| std::hint::spin_loop());
}
