//! What is initialised once, model-checked
//!
//! | model | what it shows |
//! |---|---|
//! | [`race`] | of several who come one initialises it, and all see the whole value |
//! | [`death`] | one who comes dies before any of its steps: another one initialises it if it has not, and nobody sees half a value |
//! | [`waiting`] | one who merely waits goes on when there is a value, also if the initialiser dies before it can say so |
//!
//! | mistake | found by |
//! |---|---|
//! | the state is written before the value | [`race`]: two at the value |
//! | the state is not looked at again with the lock | [`race`]: two at the value |
//! | the state is looked at without Acquire | [`race`]: two at the value |
//! | what a dead one leaves is taken for a value | [`death`]: half a value |
//! | it is slept until it is told | [`waiting`]: a deadlock |

use super::super::once_cell::{COMPLETE, EMPTY, commit};
use super::{PATIENCE, Process as AnyProcess, World as AnyWorld};
use crate::lock::Acquired;
use crate::word::Word;
use crate::word::machine::{Depth, Fate, THREE, TWO, View, check, check_each_death, finds, tell};
use core::array::from_fn;
use core::sync::atomic::AtomicU32 as PlainU32;
use loom::cell::Cell as LoomCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use std::rc::Rc;
use std::vec::Vec;

/// For a model with many steps.
const THREE_SHALLOW: Depth = Depth { processes: 3, preemptions: Some(1) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    StateFirst,
    NotLookedAgain,
    RelaxedLook,
    OrphanIsComplete,
    UntilTold,
}

/// The cell besides its lock and its event.
#[derive(Debug)]
struct Cell {
    mistake: Mistake,
    state: Rc<AtomicU32>,
    /// The value: two numbers that are equal. Loom fails where two accesses are not ordered.
    pair: [LoomCell<u32>; 2],
    begun: PlainU32,
}

type World = AnyWorld<Cell>;
type Process = AnyProcess<Cell>;

impl World {
    fn empty(mistake: Mistake) -> Rc<Self> {
        let (state, pair) = (Rc::new(AtomicU32::new(EMPTY)), from_fn(|_| LoomCell::new(0)));
        Self::new(Cell { mistake, state, pair, begun: PlainU32::new(0) })
    }

    fn begun(&self) -> u32 {
        self.own.begun.load(Ordering::Relaxed)
    }
}

impl Process {
    fn is(&self, mistake: Mistake) -> bool {
        self.world.own.mistake == mistake
    }

    fn state(&self) -> View {
        View::new(&self.world.own.state, &self.life)
    }

    /// As `OnceCell::get`: looks at the value if there is one.
    fn get(&self) -> bool {
        let state = if self.is(Mistake::RelaxedLook) {
            self.life.step();
            self.world.own.state.load(Ordering::Relaxed)
        } else {
            self.state().load()
        };
        if state == COMPLETE {
            self.see();
        }
        state == COMPLETE
    }

    fn see(&self) {
        let [first, second] = &self.world.own.pair;
        assert!(first.get() != 0 && first.get() == second.get(), "half a value");
    }

    /// Another number each time.
    fn write(&self) -> Result<(), ()> {
        let number = self.world.own.begun.fetch_add(1, Ordering::Relaxed) + 1;
        for half in &self.world.own.pair {
            self.life.step();
            half.set(number);
        }
        Ok(())
    }

    /// As `OnceCell::get_or_init`.
    fn get_or_init(&self) {
        if self.get() {
            return;
        }
        let acquired = self.lock();
        let state = self.state();
        if self.is(Mistake::StateFirst) && state.load() == EMPTY {
            state.replace(EMPTY, COMPLETE);
            self.write().unwrap();
        } else if self.is(Mistake::NotLookedAgain) {
            self.write().unwrap();
            state.replace(EMPTY, COMPLETE);
        } else if self.is(Mistake::OrphanIsComplete) && acquired == Acquired::OwnerDied {
            state.replace(EMPTY, COMPLETE);
        } else {
            commit(&state, || self.write()).unwrap();
        }
        self.unlock();
        self.event.notify_all();
        self.see();
    }

    /// As `OnceCell::wait`; until there is a value, or process 0, which is to write it, is dead.
    fn wait(&self) {
        let is_over = || self.world.graves.0[0].load(Ordering::Acquire);
        let condition = || (self.get() || is_over()).then_some(());
        if self.is(Mistake::UntilTold) {
            let since = self.event.listen();
            if condition().is_none() {
                while !self.event.sleep(since, PATIENCE) {}
            }
        }
        assert!(self.event.wait_until(PATIENCE, || Ok::<(), ()>(()), condition).unwrap().is_some());
    }
}

fn race(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::empty(mistake);
        let all: Vec<_> = (0..depth.processes)
            .map(|number| world.start(number, Fate::LIVES, Process::get_or_init))
            .collect();
        all.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        assert_eq!(world.begun(), 1, "not once");
    })
}

fn death(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::empty(mistake);
        let victim = world.start(0, fate, Process::get_or_init);
        let others: Vec<_> = (1..depth.processes)
            .map(|number| world.start(number, Fate::LIVES, Process::get_or_init))
            .collect();
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        let has_died = victim.join().unwrap();
        assert!(world.begun() <= 1 + u32::from(has_died), "not once");
        has_died
    })
}

/// One initialises it and may die over it; another one only waits.
fn waiting(mistake: Mistake) -> u64 {
    check_each_death(TWO, move |fate| {
        let world = World::empty(mistake);
        let initializer = world.start(0, fate, |process| {
            process.get_or_init();
            // It may die when it has done all.
            process.life.step();
        });
        let waiter = world.start(1, Fate::LIVES, Process::wait);
        assert!(!waiter.join().unwrap());
        initializer.join().unwrap()
    })
}

#[test]
fn two_race() {
    race(TWO, Mistake::None);
}

#[test]
fn three_race() {
    race(THREE_SHALLOW, Mistake::None);
}

#[test]
fn one_dies() {
    death(TWO, Mistake::None);
}

#[test]
fn one_waits() {
    waiting(Mistake::None);
}

#[test]
fn planted_state_first() {
    finds("Causality", || race(TWO, Mistake::StateFirst));
}

#[test]
fn planted_state_not_looked_at_again() {
    finds("Causality", || race(TWO, Mistake::NotLookedAgain));
}

#[test]
fn planted_relaxed_look() {
    finds("Causality", || race(TWO, Mistake::RelaxedLook));
}

#[test]
fn planted_orphan_taken_for_complete() {
    finds("half a value", || death(TWO, Mistake::OrphanIsComplete));
}

#[test]
fn planted_sleep_until_told() {
    finds("deadlock", || waiting(Mistake::UntilTold));
}

#[test]
#[ignore = "takes minutes"]
fn long_with_three() {
    tell("race of three", race(THREE, Mistake::None));
    tell("death of three", death(THREE_SHALLOW, Mistake::None));
}
