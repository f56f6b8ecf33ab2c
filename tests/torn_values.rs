//! A process is killed while it assigns an enum with fields, under a lock
//!
//! What it leaves may be no value: one variant's tag beside another one's fields. Whoever locks next must get it as
//! `Orphaned` whenever the dead held the lock, and no guard may ever show it. The campaign looks at the bytes, as bytes,
//! before it believes a guard; and it counts how often they were torn indeed, for a campaign that never tears
//! anything would find nothing.
//!
//! - `moments`: kills at random moments of a loop of assignments, by one process and by two that contend.
//! - `steps`: kills at each instruction of locking, assigning and unlocking, and of putting right what another left.
//!
//! With `--cfg planted` the same campaign runs on a crate that hands out what a dead holder left, and must find that.
#![cfg(target_arch = "x86_64")]
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::Random;
use common::campaign::{self, Board, Figures, Forked, Wrong};
use common::tracer::{self, Tracee};
use common::{Parent, TestName};
use nix::sys::signal::Signal;
use shmem_bind::sync::{LockError, LockFailure, Mutex, MutexGuard, Orphaned};
use shmem_bind::{Arena, Builder, Shareable, ShmemArc, Tlsf, TypeTag, UnlinkPolicy};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Kills at random moments in a normal run, by each sort of victims; and how many in a long one.
const KILLS: u64 = 400;
const MANY: u64 = 50_000;
/// A normal run kills at one instruction of so many, and wherever the value is torn.
const SHORT_STRIDE: usize = 20;

/// Far more than a holder needs that is alive.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is assigned. Each variant's fields follow from a number, and differ between the variants.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, u64)]
enum Shape<const WORDS: usize> {
    Point(u64),
    Line([u64; WORDS]),
    Circle { radius: u64, rim: [u64; WORDS] },
}

/// Words of a value that is assigned by a few instructions, to be stepped through.
const SMALL: usize = 40;
/// Words of one that takes so long to assign that random moments hit it.
const LARGE: usize = 600;

const TAGS: u64 = 3;

// SAFETY: layout fixed by `repr(C, u64)`, and all of it in the tag, which no other type of this test has. Plain numbers. It is
// written under a lock only, which says when it is torn.
unsafe impl<const WORDS: usize> Shareable for Shape<WORDS> {
    const TAG: TypeTag = TypeTag::new::<Self>("torn_values.Shape", 1)
        .with_field("tag", 0, u64::TAG)
        .with_field("first", 8, u64::TAG)
        .with_field("rest", 16, <[u64; WORDS]>::TAG);
    const FROZEN: bool = true;
}

impl<const WORDS: usize> Shape<WORDS> {
    /// The word at `index` of the fields of variant `tag`.
    const fn word(tag: u64, number: u64, index: u64) -> u64 {
        number << 16 | tag << 14 | index
    }

    fn new(number: u64) -> Self {
        let tag = number % TAGS;
        let word = |index: usize| Self::word(tag, number, index as u64);
        match tag {
            0 => Self::Point(word(0)),
            1 => Self::Line(std::array::from_fn(word)),
            _ => Self::Circle { radius: word(0), rim: std::array::from_fn(|index| word(index + 1)) },
        }
    }

    /// Whether the fields are those that this variant has for some number.
    fn is_whole(&self) -> bool {
        let follow = |tag, first: u64, words: &[u64], offset| {
            let mut words = words.iter().zip(offset..);
            words.all(|(word, index)| *word == Self::word(tag, first >> 16, index))
        };
        match self {
            Self::Point(word) => follow(0, *word, &[*word], 0),
            Self::Line(words) => follow(1, words[0], words, 0),
            Self::Circle { radius, rim } => follow(2, *radius, &[*radius], 0) && follow(2, *radius, rim, 1),
        }
    }

    /// The same of bytes that may be no `Shape`.
    fn is_whole_at(place: *mut Self) -> bool {
        let word = |index: usize| unsafe { place.cast::<u64>().add(index).read_volatile() };
        let tag = word(0);
        let len = match tag {
            0 => 1,
            1 => WORDS,
            2 => WORDS + 1,
            _ => return false,
        };
        let number = word(1) >> 16;
        (0..len).all(|index| word(index + 1) == Self::word(tag, number, index as u64))
    }
}

/// What the driver shares with its victims.
struct Shared {
    /// Assignments done, so the victim is in its loop.
    assigned: AtomicU64,
    /// Guards that showed a torn value.
    shown_torn: AtomicU64,
    /// Locks that were neither had nor orphaned.
    refused: AtomicU64,
    /// How often the one that was never killed found what the other one left.
    orphans: AtomicU64,
    torn: AtomicU64,
    stop: AtomicU32,
}

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("campaign", drive)]);
}

#[test]
fn torn_values() {
    run(KILLS, SHORT_STRIDE, "none").conclude("torn_values");
}

#[test]
#[ignore = "takes a few minutes"]
fn long_torn_values() {
    // As many as the environment says, and at each of so many instructions.
    let number = |name, default| std::env::var(name).map_or(default, |number| number.parse().unwrap());
    let stride = number("SHMEM_BIND_EVERY", 1) as usize;
    run(number("SHMEM_BIND_KILLS", MANY), stride, "none").conclude("torn_values");
}

#[cfg(planted)]
#[test]
fn an_orphan_handed_out_as_whole_is_found() {
    let figures = run(KILLS, SHORT_STRIDE, "orphan-as-whole");
    println!("torn_values, with the mistake: {figures}\n{:#?}", figures.reports);
    assert_ne!(figures.corrupt, 0);
}

#[track_caller]
fn run(kills: u64, stride: usize, mistake: &str) -> Figures {
    campaign::run("campaign", &[&kills.to_string(), &stride.to_string(), mistake])
}

/// The mutex, as the driver and each victim have it.
struct Place<const WORDS: usize> {
    // Dropped first.
    mutex: ShmemArc<Mutex<Shape<WORDS>>>,
    _arena: Arena<Tlsf>,
}

impl<const WORDS: usize> Place<WORDS> {
    fn create(name: &str) -> Self {
        let builder = Builder::new(name).unlink_policy(UnlinkPolicy::OwnerDrop).with_size(64 * 1024);
        Self::of(builder.create().unwrap().arena().unwrap())
    }

    fn attach(name: &str) -> Self {
        Self::of(Builder::new(name).timeout(PATIENCE).attach().unwrap().arena().unwrap())
    }

    fn of(arena: Arena<Tlsf>) -> Self {
        let mutex = arena.find_or_alloc("shape", || Mutex::new(Shape::new(0))).unwrap();
        Self { mutex, _arena: arena }
    }

    /// The lock's word, less the bit that says that somebody may be asleep.
    fn word(&self) -> u32 {
        let word: *const AtomicU32 = (&raw const *self.mutex).cast();
        unsafe { &*word }.load(SeqCst) & !(1 << 31)
    }

    fn is_torn(&self) -> bool {
        !Shape::is_whole_at(self.mutex.as_ptr())
    }

    fn assign(&self, number: u64) -> Result<(), LockFailure> {
        *self.mutex.lock_for(PATIENCE)? = black_box(Shape::new(number));
        Ok(())
    }
}

/// What the driver found when it locked after a death.
struct Found {
    was_held: bool,
    was_torn: bool,
}

/// Locks after a death, checks what there is, and leaves a whole value.
fn look<const WORDS: usize>(
    place: &Place<WORDS>,
    number: u64,
    figures: &mut Figures,
    what: &dyn Fn() -> String,
) -> Found {
    let (was_held, was_torn) = (place.word() != 0, place.is_torn());
    let whole = |mut guard: MutexGuard<'_, Shape<WORDS>>| *guard = Shape::new(number);
    match place.mutex.lock_for(PATIENCE) {
        Ok(guard) if was_torn => {
            // Not to be looked at as a value, nor to be left as one.
            unsafe { place.mutex.as_ptr().write(Shape::new(number)) };
            drop(guard);
            figures.report(Wrong::Corrupt, format!("{}: a guard of a torn value", what()));
        }
        Ok(guard) if was_held => {
            whole(guard);
            figures.report(Wrong::Lost, format!("{}: a guard, though the dead held the lock", what()));
        }
        Ok(guard) => {
            if !guard.is_whole() {
                figures.report(Wrong::Corrupt, format!("{}: a guard shows fields that do not fit", what()));
            }
            whole(guard);
        }
        Err(LockError::Orphaned(orphaned)) => {
            if !was_held {
                figures.report(Wrong::Corrupt, format!("{}: orphaned by nobody", what()));
            }
            drop(orphaned.replace(Shape::new(number)));
        }
        Err(LockError::Failed(LockFailure::Busy)) => {
            figures.report(Wrong::Stuck, format!("{}: held by a dead process", what()));
        }
        Err(error) => figures.report(Wrong::Corrupt, format!("{}: {error:?}", what())),
    }
    Found { was_held, was_torn }
}

fn drive(parent: &mut Parent) {
    let (kills, stride) = (parent.argument(0).parse().unwrap(), parent.argument(1).parse().unwrap());
    match parent.argument(2) {
        #[cfg(planted)]
        "orphan-as-whole" => shmem_bind::planted::plant(shmem_bind::planted::Mistake::OrphanAsWhole),
        mistake => assert_eq!(mistake, "none"),
    }
    let mut figures = Figures::default();
    figures.add(moments(parent, kills, false));
    figures.add(moments(parent, kills, true));
    figures.add(steps(parent, stride, Operation::Assign));
    figures.add(steps(parent, stride, Operation::Replace));
    figures.tell(parent);
}

/// Kills at random moments of a loop of assignments; perhaps while another process assigns too.
fn moments(parent: &mut Parent, kills: u64, contended: bool) -> Figures {
    let name = TestName::new("moments");
    let place = Place::<LARGE>::create(&name);
    let board = unsafe { Board::<Shared>::new() };
    let mut random = Random::new(u64::from(contended));
    let survivor = contended.then(|| Forked::spawn(|| survive(&name, &board)));
    let mut figures = Figures::default();
    let (mut held, mut torn) = (0, 0);
    for kill in 0..kills {
        board.assigned.store(0, SeqCst);
        let victim = Forked::spawn(|| assign_for_ever(&name, &board, kill));
        while board.assigned.load(SeqCst) < 3 {
            std::thread::yield_now();
        }
        for _ in 0..random.below(20_000) {
            spin_loop();
        }
        victim.kill();
        figures.points += 1;
        if contended {
            // The other one may be quicker, so there is nothing to say of who held it; only that it is to be had, whole.
            match place.mutex.lock_for(PATIENCE) {
                Ok(guard) => show(&place, &guard, &board),
                Err(LockError::Orphaned(orphaned)) => drop(put_right(orphaned, kill, &board)),
                Err(_) => _ = board.refused.fetch_add(1, SeqCst),
            }
        } else {
            let found = look(&place, kill, &mut figures, &|| format!("kill {kill}"));
            held += u64::from(found.was_held);
            torn += u64::from(found.was_torn);
        }
        if kill % 500 == 499 {
            campaign::progress(parent, &format!("  {kill} kills, {figures}"));
        }
    }
    if let Some(survivor) = survivor {
        board.stop.store(1, SeqCst);
        survivor.finish();
        held = board.orphans.load(SeqCst);
        torn = board.torn.load(SeqCst);
    }
    for _ in 0..board.shown_torn.load(SeqCst) {
        figures.report(Wrong::Corrupt, "a guard showed a torn value".to_owned());
    }
    for _ in 0..board.refused.load(SeqCst) {
        figures.report(Wrong::Stuck, "a lock was refused".to_owned());
    }
    let sort = if contended { "contended" } else { "alone" };
    campaign::progress(
        parent,
        &format!("moments, {sort}: {kills} kills, {held} held the lock, {torn} tore the value"),
    );
    assert!(torn != 0 || !figures.is_clean(), "nothing was ever torn, so nothing could be found");
    figures
}

/// Counts a guard that shows a torn value. What it shows is looked at as bytes first.
fn show<const WORDS: usize>(place: &Place<WORDS>, guard: &MutexGuard<'_, Shape<WORDS>>, board: &Shared) {
    if place.is_torn() || !guard.is_whole() {
        board.shown_torn.fetch_add(1, SeqCst);
    }
}

fn put_right<'a, const WORDS: usize>(
    orphaned: Orphaned<'a, Shape<WORDS>>,
    number: u64,
    board: &Shared,
) -> MutexGuard<'a, Shape<WORDS>> {
    board.orphans.fetch_add(1, SeqCst);
    board.torn.fetch_add(u64::from(!Shape::is_whole_at(orphaned.as_ptr())), SeqCst);
    orphaned.replace(Shape::new(number))
}

/// A victim: assigns until it is killed.
fn assign_for_ever(name: &str, board: &Shared, seed: u64) {
    let place = Place::attach(name);
    for number in seed.. {
        assign_once(&place, number, board);
        board.assigned.fetch_add(1, SeqCst);
    }
}

fn survive(name: &str, board: &Shared) {
    let place = Place::attach(name);
    for number in 0.. {
        if board.stop.load(SeqCst) != 0 {
            return;
        }
        assign_once(&place, number, board);
    }
}

fn assign_once(place: &Place<LARGE>, number: u64, board: &Shared) {
    match place.mutex.lock_for(PATIENCE) {
        Ok(mut guard) => {
            show(place, &guard, board);
            // More often than once, so that much of the time is spent in stores.
            let shapes = [0, 1, 2].map(|more| Shape::new(number + more));
            for index in 0..60 {
                *guard = black_box(&shapes)[index % 3];
            }
        }
        Err(LockError::Orphaned(orphaned)) => drop(put_right(orphaned, number, board)),
        Err(_) => _ = board.refused.fetch_add(1, SeqCst),
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Lock, assign, unlock.
    Assign,
    /// Take over from the dead, replace what they left, unlock.
    Replace,
}

/// Kills at each instruction of an operation, or at one of `stride` of them and wherever the value is torn. What is
/// assigned first and what then are of different variants.
fn steps(parent: &mut Parent, stride: usize, operation: Operation) -> Figures {
    tracer::stay_on_one_cpu();
    let name = TestName::new("steps");
    let place = Place::<SMALL>::create(&name);
    let mut figures = Figures::default();
    let mut all_torn = 0;
    let pairs = [(0, 1), (1, 2), (2, 0), (1, 0)];
    for &(before, after) in if stride == 1 { &pairs[..] } else { &pairs[..2] } {
        let start = || {
            place.assign(before).unwrap();
            if let Operation::Replace = operation {
                Forked::spawn(|| std::mem::forget(Place::<SMALL>::attach(&name).mutex.lock().unwrap()))
                    .finish();
            }
            Stepped::start(|| {
                let place = Place::<SMALL>::attach(&name);
                Tracee::between_stops(|| match place.mutex.lock_for(PATIENCE) {
                    Ok(mut guard) => *guard = black_box(Shape::new(after)),
                    Err(LockError::Orphaned(orphaned)) => drop(orphaned.replace(Shape::new(after))),
                    Err(error) => panic!("{error:?}"),
                });
            })
        };
        // One victim to its end, to see where the value is torn.
        let mut is_torn = Vec::new();
        let victim = start();
        while victim.step() {
            is_torn.push(place.is_torn());
        }
        victim.kill();
        let (mut held, mut torn, mut points) = (0, 0, 0_u64);
        for target in 0.. {
            // Not always the same number of instructions, if it asks for the time or for the dead.
            if !is_torn.get(target).is_none_or(|is_torn| *is_torn) && target % stride != 0 {
                continue;
            }
            let victim = start();
            let is_inside = (0..=target).all(|_| victim.step());
            victim.kill();
            if !is_inside {
                drop(place.mutex.lock_for(PATIENCE).unwrap());
                break;
            }
            points += 1;
            let what = || format!("{operation:?} {before} to {after}, instruction {target}");
            let found = look(&place, before, &mut figures, &what);
            held += u64::from(found.was_held);
            torn += u64::from(found.was_torn);
            if points % 100 == 0 {
                campaign::progress(parent, &format!("  {operation:?}: {figures}"));
            }
        }
        figures.points += points;
        campaign::progress(
            parent,
            &format!(
                "steps, {operation:?} {before} to {after}: {points} of {} instructions, at {held} the lock was \
                 held, at {torn} the value was torn",
                is_torn.len()
            ),
        );
        all_torn += torn;
    }
    assert!(all_torn != 0, "nothing was ever torn, so nothing could be found");
    figures
}

/// A forked victim that is traced.
struct Stepped {
    victim: Forked,
    tracee: Tracee,
}

impl Stepped {
    /// Forks it, and leaves it at the beginning of its operation.
    fn start(work: impl FnOnce()) -> Self {
        let victim = Forked::spawn(work);
        let tracee = Tracee::new(victim.pid());
        tracee.await_stop(Signal::SIGSTOP);
        Self { victim, tracee }
    }

    fn step(&self) -> bool {
        self.tracee.step()
    }

    fn kill(self) {
        self.victim.kill();
    }
}
