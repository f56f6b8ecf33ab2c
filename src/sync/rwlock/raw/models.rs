//! The lock for readers and writers, model-checked
//!
//! Loom runs each model in all the orders in which its processes can take their steps, but for those with many preemptions. It fails where
//! somebody writes while another one reads or writes, or does not see what a former one wrote, and where all that are left sleep. Only a
//! wake or a death ends a sleep (`word/machine.rs`), and the slice does for one process that is marked as impatient. The gate is the robust
//! lock itself.
//!
//! What is guarded is two numbers, which are the same unless somebody is writing. Each model is a cast: what each process does, and
//! how many places for readers there are. [`play`] has all of them live, and [`tragedy`] has the first one die before any of its steps; in
//! the end a newcomer must be able to read and to write without waiting, and as many must have been told of half-written
//! numbers as have died writing.
//!
//! | mistake | found by |
//! |---|---|
//! | a reader's place and its look at the gate are not ordered | a writer and a reader: both are in |
//! | the gate and the look at the places that follows are not ordered | a writer and a reader: both are in; two readers and one place: a deadlock |
//! | a reader does not look at the gate again | a writer and a reader: both are in |
//! | a reader leaves without notifying | a writer and a reader: a deadlock |
//! | a reader leaves without Release | a writer and a reader: both are in |
//! | a place is taken by a plain store | two readers and one place: both have it |
//! | the dead are taken for alive | a reader that dies: a deadlock |
//! | slow is dead | an impatient writer: both are in |
//! | that somebody writes is not said | a writer that dies: half-written numbers |
//! | that is taken back when the gate is open | two writers: told of a death that was none |
//! | the gate is opened before it is said that one reads on | one who reads on, and a writer: both are in |
//! | one who reads already waits for writers | a reader that reads twice, and a writer: a deadlock |

mod machine;

use super::super::occupant::Occupant;
use crate::word::machine::{Depth, Fate, TWO, check, check_each_death, finds, tell};
use core::sync::atomic::Ordering;
use machine::{Mistake, Process, Role, World, holder};
use std::vec::Vec;

/// For models with many steps.
const TWO_SHALLOW: Depth = Depth { processes: 2, preemptions: Some(2) };
const THREE_SHALLOW: Depth = Depth { processes: 3, preemptions: Some(1) };

/// What there is before the cast comes on, by process 3, which is dead then.
type Past = fn(&World);

const NOTHING: Past = |_| {};
const DEAD_READER: Past = |world| world.readers[0].store(dead().reading().bits(), Ordering::Release);
const DEAD_WAITING: Past = |world| world.lock.store(holder(3).bits(), Ordering::Release);
const DEAD_WRITING: Past = |world| {
    DEAD_WAITING(world);
    world.writer.store(dead().bits(), Ordering::Release);
    world.pair[0].set(1);
    world.orphans.store(1, Ordering::Relaxed);
};
/// It was just going on as a reader.
const DEAD_READING_ON: Past = |world| {
    DEAD_WAITING(world);
    world.writer.store(dead().reading().bits(), Ordering::Release);
};

fn dead() -> Occupant {
    Occupant::new(holder(3), 1)
}

/// A model: how many preemptions and processes, how many places, what has been, and what each process does.
#[derive(Clone, Copy)]
struct Cast {
    depth: Depth,
    places: usize,
    past: Past,
    roles: &'static [Role],
}

impl Cast {
    const fn new(depth: Depth, places: usize, roles: &'static [Role]) -> Self {
        Self { depth, places, past: NOTHING, roles }
    }

    const fn after(self, past: Past) -> Self {
        Self { past, ..self }
    }

    fn perform(self, fate: Fate, mistake: Mistake) -> bool {
        let Self { depth, places, past, roles } = self;
        assert_eq!(roles.len(), depth.processes);
        let world = World::new(places, mistake);
        past(&world);
        world.bury(3);
        let first = world.start(0, fate, roles[0]);
        let others: Vec<_> =
            (1..).zip(&roles[1..]).map(|(number, role)| world.start(number, Fate::LIVES, *role)).collect();
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        let has_died = first.join().unwrap();
        world.conclude(1);
        has_died
    }
}

/// All live.
fn play(cast: Cast, mistake: Mistake) -> u64 {
    check(cast.depth, move || assert!(!cast.perform(Fate::LIVES, mistake)))
}

/// The first one dies before any of its steps.
fn tragedy(cast: Cast, mistake: Mistake) -> u64 {
    check_each_death(cast.depth, move |fate| cast.perform(fate, mistake))
}

/// The first one does not wait for long.
fn comedy(cast: Cast, mistake: Mistake) -> u64 {
    check(cast.depth, move || assert!(!cast.perform(Fate::IMPATIENT, mistake)))
}

const READ: Role = Process::read;
const WRITE: Role = Process::write;
const READ_ON: Role = Process::read_on;
const READ_TWICE: Role = Process::read_twice;
const LEAVE_ORPHANED: Role = Process::leave_orphaned;
const WRITE_IMPATIENTLY: Role = Process::write_impatiently;

#[test]
fn a_writer_and_a_reader() {
    play(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::None);
}

#[test]
fn two_writers() {
    play(Cast::new(TWO, 1, &[WRITE, WRITE]), Mistake::None);
}

#[test]
fn one_who_reads_on_and_another() {
    play(Cast::new(TWO_SHALLOW, 1, &[READ_ON, WRITE]), Mistake::None);
    play(Cast::new(TWO_SHALLOW, 1, &[READ_ON, READ]), Mistake::None);
    play(Cast::new(TWO_SHALLOW, 1, &[READ_ON, READ_ON]), Mistake::None);
}

#[test]
fn one_who_reads_twice_and_a_writer() {
    play(Cast::new(TWO_SHALLOW, 2, &[READ_TWICE, WRITE]), Mistake::None);
}

#[test]
fn two_readers_and_one_place() {
    play(Cast::new(TWO_SHALLOW, 1, &[READ, READ]), Mistake::None);
    tragedy(Cast::new(TWO_SHALLOW, 1, &[READ, READ]), Mistake::None);
}

#[test]
fn three_of_them() {
    play(Cast::new(THREE_SHALLOW, 1, &[WRITE, READ, WRITE]), Mistake::None);
}

#[test]
fn a_reader_that_dies() {
    tragedy(Cast::new(TWO_SHALLOW, 1, &[READ, WRITE]), Mistake::None);
}

#[test]
fn a_writer_that_dies() {
    tragedy(Cast::new(TWO_SHALLOW, 1, &[WRITE, READ]), Mistake::None);
    tragedy(Cast::new(TWO_SHALLOW, 1, &[WRITE, WRITE]), Mistake::None);
}

#[test]
fn one_that_dies_reading_on() {
    tragedy(Cast::new(TWO_SHALLOW, 1, &[READ_ON, WRITE]), Mistake::None);
}

#[test]
fn what_the_dead_have_left() {
    for past in [DEAD_READER, DEAD_WAITING, DEAD_WRITING, DEAD_READING_ON] {
        play(Cast::new(TWO_SHALLOW, 1, &[WRITE, READ]).after(past), Mistake::None);
        play(Cast::new(TWO_SHALLOW, 1, &[READ, READ]).after(past), Mistake::None);
    }
}

#[test]
fn what_is_left_once_more() {
    play(Cast::new(TWO_SHALLOW, 1, &[LEAVE_ORPHANED, READ]).after(DEAD_WRITING), Mistake::None);
}

#[test]
fn a_writer_that_is_impatient() {
    comedy(Cast::new(TWO_SHALLOW, 1, &[WRITE_IMPATIENTLY, READ]), Mistake::None);
    comedy(Cast::new(TWO_SHALLOW, 1, &[WRITE_IMPATIENTLY, WRITE]), Mistake::None);
}

#[test]
fn planted_reader_without_fence() {
    finds("Causality", || play(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::ReaderWithoutFence));
}

#[test]
fn planted_gate_without_fence() {
    finds("Causality", || play(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::GateWithoutFence));
    finds("deadlock", || play(Cast::new(TWO, 1, &[READ, READ]), Mistake::GateWithoutFence));
}

#[test]
fn planted_look_once() {
    finds("Causality", || play(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::LookOnce));
}

#[test]
fn planted_leave_without_notify() {
    finds("deadlock", || play(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::LeaveWithoutNotify));
}

#[test]
fn planted_leave_relaxed() {
    finds("Causality", || play(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::LeaveRelaxed));
}

#[test]
fn planted_take_by_store() {
    finds("another one", || play(Cast::new(TWO, 1, &[READ, READ]), Mistake::TakeByStore));
}

#[test]
fn planted_dead_is_alive() {
    finds("deadlock", || tragedy(Cast::new(TWO, 1, &[READ, WRITE]), Mistake::DeadIsAlive));
}

#[test]
fn planted_slow_is_dead() {
    finds("Causality", || comedy(Cast::new(TWO, 1, &[WRITE_IMPATIENTLY, READ]), Mistake::SlowIsDead));
}

#[test]
fn planted_write_unsaid() {
    finds("half-written", || tragedy(Cast::new(TWO, 1, &[WRITE, READ]), Mistake::WriteUnsaid));
}

#[test]
fn planted_taken_back_late() {
    finds("a death that was none", || play(Cast::new(TWO, 1, &[WRITE, WRITE]), Mistake::TakenBackLate));
}

#[test]
fn planted_downgrade_opens_first() {
    finds("a death that was none", || {
        play(Cast::new(TWO, 1, &[READ_ON, WRITE]), Mistake::DowngradeOpensFirst)
    });
}

#[test]
fn planted_wait_to_read_again() {
    finds("deadlock", || play(Cast::new(TWO, 2, &[READ_TWICE, WRITE]), Mistake::WaitToReadAgain));
}

#[test]
#[ignore = "takes minutes"]
fn long_more_preemptions() {
    let deep = |processes, preemptions| Depth { processes, preemptions: Some(preemptions) };
    tell("writer, reader", play(Cast::new(deep(2, 5), 1, &[WRITE, READ]), Mistake::None));
    tell("writer, writer", play(Cast::new(deep(2, 5), 1, &[WRITE, WRITE]), Mistake::None));
    tell("reading on, writer", play(Cast::new(deep(2, 4), 1, &[READ_ON, WRITE]), Mistake::None));
    tell("reading twice, writer", play(Cast::new(deep(2, 4), 2, &[READ_TWICE, WRITE]), Mistake::None));
    tell("writer, two readers", play(Cast::new(deep(3, 2), 2, &[WRITE, READ, READ]), Mistake::None));
    tell("two writers, reader", play(Cast::new(deep(3, 2), 1, &[WRITE, READ, WRITE]), Mistake::None));
    tell("two readers, one place", play(Cast::new(deep(2, 4), 1, &[READ, READ]), Mistake::None));
    tell("a reader dies", tragedy(Cast::new(deep(2, 3), 1, &[READ, WRITE]), Mistake::None));
    tell("a writer dies", tragedy(Cast::new(deep(2, 3), 1, &[WRITE, READ]), Mistake::None));
    tell("one dies reading on", tragedy(Cast::new(deep(2, 3), 1, &[READ_ON, WRITE]), Mistake::None));
    let three = Cast::new(deep(3, 1), 2, &[WRITE, READ, WRITE]);
    tell("a writer dies among three", tragedy(three, Mistake::None));
    let left = Cast::new(deep(2, 2), 1, &[WRITE, READ]).after(DEAD_WRITING);
    tell("a successor of the dead dies", tragedy(left, Mistake::None));
}
