//! The condvar, model-checked
//!
//! | model | what it shows |
//! |---|---|
//! | [`exchange`] | of as many goods as there are takers each gets one, and nobody sleeps for ever |
//! | [`dead_giver`] | one who gives dies before any of its steps, with the lock or between giving it back and notifying: the taker goes on |
//! | [`dead_taker`] | one who takes dies before any of its steps, also when it was woken: the other one gets its own |
//!
//! | mistake | found by |
//! |---|---|
//! | the lock is given back, and listened to the event then | [`exchange`]: a deadlock |
//! | it is slept until notified, and not looked at the value after a slice | [`dead_giver`]: a deadlock |

use super::super::condvar::sleep_without;
use super::{PATIENCE, Process as AnyProcess, World as AnyWorld};
use crate::lock::Acquired;
use crate::word::machine::{Depth, Fate, THREE, TWO, check, check_each_death, finds, tell};
use core::sync::atomic::AtomicU32 as PlainU32;
use loom::cell::Cell as LoomCell;
use loom::sync::atomic::Ordering;
use std::rc::Rc;
use std::vec::Vec;

/// For a model with many steps.
const THREE_SHALLOW: Depth = Depth { processes: 3, preemptions: Some(1) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    ListenAfterUnlock,
    UntilNotified,
}

/// What the lock protects. Loom fails where two accesses are not ordered.
#[derive(Debug)]
struct Shop {
    mistake: Mistake,
    goods: LoomCell<u32>,
    given: PlainU32,
    taken: PlainU32,
}

type World = AnyWorld<Shop>;
type Process = AnyProcess<Shop>;

impl World {
    fn open(mistake: Mistake) -> Rc<Self> {
        let (given, taken) = (PlainU32::new(0), PlainU32::new(0));
        Self::new(Shop { mistake, goods: LoomCell::new(0), given, taken })
    }

    /// In the end all that was given and not taken is there.
    fn close(&self) {
        let [given, taken] = [&self.own.given, &self.own.taken].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(self.own.goods.get(), given - taken);
    }
}

impl Process {
    fn give(&self, is_notified_first: bool) {
        // What a dead one leaves is whole: goods change at once.
        let _: Acquired = self.lock();
        self.world.own.goods.set(self.world.own.goods.get() + 1);
        self.world.own.given.fetch_add(1, Ordering::Relaxed);
        if is_notified_first {
            self.event.notify_one();
        }
        self.unlock();
        if !is_notified_first {
            self.event.notify_one();
        }
    }

    /// Gives what is known of as [`Condvar::wait`](crate::sync::Condvar::wait) does.
    fn wait(&self) {
        match self.world.own.mistake {
            Mistake::None => {
                sleep_without(&self.event, PATIENCE, || self.unlock());
            }
            Mistake::ListenAfterUnlock => {
                self.unlock();
                sleep_without(&self.event, PATIENCE, || {});
            }
            Mistake::UntilNotified => {
                let since = self.event.listen();
                self.unlock();
                while !self.event.sleep(since, PATIENCE) {}
            }
        }
        let _: Acquired = self.lock();
    }

    /// Waits until there is something to be had, and takes it; gives up if `is_over`.
    fn take_unless(&self, is_over: impl Fn() -> bool) {
        let _: Acquired = self.lock();
        let goods = &self.world.own.goods;
        while goods.get() == 0 && !is_over() {
            self.wait();
        }
        if let Some(less) = goods.get().checked_sub(1) {
            goods.set(less);
            self.world.own.taken.fetch_add(1, Ordering::Relaxed);
        }
        self.unlock();
    }

    fn take(&self) {
        self.take_unless(|| false);
    }
}

/// One gives, and each of the others takes one.
fn exchange(depth: Depth, is_notified_first: bool, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::open(mistake);
        let takers: Vec<_> =
            (1..depth.processes).map(|number| world.start(number, Fate::LIVES, Process::take)).collect();
        let giver = world.start(0, Fate::LIVES, move |process| {
            (1..depth.processes).for_each(|_| process.give(is_notified_first));
        });
        takers.into_iter().for_each(|taker| assert!(!taker.join().unwrap()));
        assert!(!giver.join().unwrap());
        world.close();
    })
}

/// The one who gives dies.
fn dead_giver(mistake: Mistake) -> u64 {
    check_each_death(TWO, move |fate| {
        let world = World::open(mistake);
        let taker = world.start(1, Fate::LIVES, |process| {
            let graves = &process.world.graves.0;
            process.take_unless(|| graves[0].load(Ordering::Acquire));
        });
        let giver = world.start(0, fate, |process| {
            process.give(false);
            // It may die when it has done all.
            process.life.step();
        });
        assert!(!taker.join().unwrap());
        let has_died = giver.join().unwrap();
        world.close();
        has_died
    })
}

/// One of two who take dies.
fn dead_taker(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::open(mistake);
        let other = world.start(1, Fate::LIVES, Process::take);
        let mortal = world.start(2, fate, Process::take);
        let giver = world.start(0, Fate::LIVES, |process| (0..2).for_each(|_| process.give(false)));
        assert!(!other.join().unwrap());
        let has_died = mortal.join().unwrap();
        assert!(!giver.join().unwrap());
        world.close();
        has_died
    })
}

#[test]
fn one_takes() {
    exchange(TWO, false, Mistake::None);
    exchange(TWO, true, Mistake::None);
}

#[test]
fn two_take() {
    exchange(THREE_SHALLOW, false, Mistake::None);
}

#[test]
fn a_giver_dies() {
    dead_giver(Mistake::None);
}

#[test]
fn planted_listening_after_unlocking() {
    finds("deadlock", || exchange(TWO, false, Mistake::ListenAfterUnlock));
}

#[test]
fn planted_sleep_until_notified() {
    finds("deadlock", || dead_giver(Mistake::UntilNotified));
}

#[test]
#[ignore = "takes minutes"]
fn long_with_three() {
    tell("exchange of three", exchange(THREE, false, Mistake::None));
    tell("dead taker", dead_taker(THREE_SHALLOW, Mistake::None));
}
