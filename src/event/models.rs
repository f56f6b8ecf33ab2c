//! The event, model-checked
//!
//! Loom runs each model in all the orders in which its processes can take their steps, but for those with many
//! preemptions, and with all that a load may see by the memory model. What is waited for stands in relaxed atomics, so that it is the
//! event alone that makes it seen. The model fails where all that are left sleep. Only a wake or a death ends a sleep
//! (`word/machine.rs`); and the slice does for one process that is marked as impatient.
//!
//! | model | what it shows |
//! |---|---|
//! | [`told`] | what is so before one notification is seen by all who wait for it |
//! | [`shares`] | of as many goods as there are takers each gets one, by one notification each, in several rounds |
//! | [`dead_notifier`] | a notifier dies before any of its steps, also before it counts: the others see what it has brought about |
//! | [`dead_sleeper`] | one who waits dies before any of its steps, also when it was woken: what it has not taken another one gets |
//! | [`impatient`] | one who goes away when its time is up leaves the others what they are woken for |
//!
//! | mistake | found by |
//! |---|---|
//! | marks taken back without comparing | [`shares`] |
//! | all who listen have the same marks | [`shares`] |
//! | marks taken back when one was woken | [`shares`] of two takers |
//! | the wake comes before the count | [`told`] |
//! | listening by a plain store | [`told`] |
//! | looked first, listened then | [`told`] |
//! | counted without Release | [`told`] |
//! | looked at and listened without Acquire | [`told`] |
//! | one wake for all | [`told`] of two |
//! | after a slice the count is looked at alone | [`dead_notifier`] |
//!
//! Each shows by a deadlock.

use super::{MARKS, RawEvent, SLICE};
use crate::word::Word;
use crate::word::machine::{
    Depth, Fate, Kernel, Life, THREE, THREE_DEEP, TWO, View as PlainView, check, check_each_death, finds,
    tell,
};
use core::cell::Cell;
use core::time::Duration;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use std::rc::Rc;
use std::vec::Vec;

/// For a model with many steps.
const THREE_SHALLOW: Depth = Depth { processes: 3, preemptions: Some(1) };

/// As long as it takes. One whose time passes at all is impatient, and waits for one sleep.
const PATIENCE: Duration = SLICE;

/// A mistake that one could make in the event, made by the word instead, or by who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// Marks are taken back by a plain store.
    TakenBackByStore,
    /// Marks that are there are left as they are.
    SameMarks,
    /// Nobody is said to have been woken.
    WokenNotCounted,
    /// Whoever notifies wakes first, and counts then.
    WakeBeforeCount,
    /// To listen is a plain store.
    ListenByStore,
    /// Who waits looks, and listens then.
    LookBeforeListen,
    /// What came before a notification may be seen after it.
    RelaxedCount,
    /// Who listens may see what was before the last notification.
    RelaxedListen,
    /// One is woken where all are to be.
    OneWakeForAll,
    /// Who was not told does not look.
    CountAlone,
}

/// How somebody notifies.
type Notify = fn(&RawEvent<View>);

/// What all the processes share.
#[derive(Debug)]
struct World {
    mistake: Mistake,
    kernel: Rc<Kernel>,
    word: Rc<AtomicU32>,
    /// What is waited for: so many may be taken.
    goods: AtomicU32,
}

/// The event's word as one process sees it.
#[derive(Debug)]
struct View {
    world: Rc<World>,
    life: Rc<Life>,
    plain: PlainView,
    /// With [`Mistake::WakeBeforeCount`]: those who are to be woken have been.
    has_woken: Cell<bool>,
}

impl View {
    fn is(&self, mistake: Mistake) -> bool {
        self.world.mistake == mistake
    }
}

impl Word for View {
    const SPINS: u32 = 1;

    fn load(&self) -> u32 {
        if self.is(Mistake::RelaxedListen) {
            self.life.step();
            return self.world.word.load(Ordering::Relaxed);
        }
        self.plain.load()
    }

    fn replace(&self, old: u32, new: u32) -> bool {
        let (word, is_listening) = (&self.world.word, new & MARKS != 0);
        let is_store = self.is(if is_listening { Mistake::ListenByStore } else { Mistake::TakenBackByStore });
        if is_store {
            self.life.step();
            word.store(new, Ordering::Release);
            return true;
        }
        if is_listening && self.is(Mistake::RelaxedListen) {
            self.life.step();
            return word.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_ok();
        }
        let is_kept = is_listening && old & MARKS != 0 && self.is(Mistake::SameMarks);
        self.plain.replace(old, if is_kept { old } else { new })
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        self.plain.wait(expected, timeout);
    }

    fn add(&self, amount: u32) -> u32 {
        if self.is(Mistake::WakeBeforeCount) {
            self.plain.wake_all();
            self.has_woken.set(true);
        }
        if self.is(Mistake::RelaxedCount) {
            self.life.step();
            return self.world.word.fetch_add(amount, Ordering::Relaxed);
        }
        self.plain.add(amount)
    }

    fn wake_one(&self) -> usize {
        if self.has_woken.replace(false) {
            return 1;
        }
        let woken = self.plain.wake_one();
        if self.is(Mistake::WokenNotCounted) { 0 } else { woken }
    }

    fn wake_all(&self) {
        if self.has_woken.replace(false) {
        } else if self.is(Mistake::OneWakeForAll) {
            let _: usize = self.plain.wake_one();
        } else {
            self.plain.wake_all();
        }
    }

    fn now(&self) -> Duration {
        self.plain.now()
    }
}

/// A process.
#[derive(Debug)]
struct Process {
    event: RawEvent<View>,
    world: Rc<World>,
    life: Rc<Life>,
}

impl World {
    fn new(mistake: Mistake) -> Rc<Self> {
        let (kernel, word) = (Kernel::new(), Rc::new(AtomicU32::new(0)));
        Rc::new(Self { mistake, kernel, word, goods: AtomicU32::new(0) })
    }

    fn process(self: &Rc<Self>, number: usize, fate: Fate) -> Process {
        let (world, life) = (self.clone(), Life::new(&self.kernel, number, fate));
        let plain = PlainView::new(&self.word, &life);
        let word = View { world: world.clone(), life: life.clone(), plain, has_woken: Cell::new(false) };
        Process { event: RawEvent::over(word), world, life }
    }

    fn start(
        self: &Rc<Self>,
        number: usize,
        fate: Fate,
        work: impl FnOnce(&Process) + 'static,
    ) -> thread::JoinHandle<bool> {
        let process = self.process(number, fate);
        thread::spawn(move || process.life.live(|| work(&process), || {}))
    }

    /// So many who each `take` so many.
    fn takers(self: &Rc<Self>, count: usize, rounds: usize) -> Vec<thread::JoinHandle<bool>> {
        let work = move |process: &Process| (0..rounds).for_each(|_| assert!(process.take()));
        (1..=count).map(|number| self.start(number, Fate::LIVES, work)).collect()
    }
}

impl Process {
    /// Waits as an [`Event`](crate::sync::Event) does; gives whether it is so.
    fn wait_until(&self, mut condition: impl FnMut() -> bool) -> bool {
        let mut condition = || condition().then_some(());
        match self.world.mistake {
            Mistake::LookBeforeListen => loop {
                if condition().is_some() {
                    return true;
                }
                let since = self.event.listen();
                self.event.sleep(since, PATIENCE);
            },
            Mistake::CountAlone => loop {
                let since = self.event.listen();
                if condition().is_some() {
                    return true;
                }
                while !self.event.sleep(since, PATIENCE) {}
            },
            _ => {
                let result = self.event.wait_until(PATIENCE, || Ok::<(), ()>(()), condition).unwrap();
                assert!(result.is_some() || self.life.is_impatient(), "the time is never up");
                result.is_some()
            }
        }
    }

    /// Waits until there is something to be had, and takes it.
    fn take(&self) -> bool {
        self.wait_until(|| {
            let take = |goods: u32| goods.checked_sub(1);
            self.world.goods.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        })
    }

    /// Waits until there has been something, and leaves it there.
    fn see(&self) {
        assert!(self.wait_until(|| self.world.goods.load(Ordering::Relaxed) != 0));
    }

    /// Brings something, and says so.
    fn give(&self, notify: Notify) {
        self.world.goods.fetch_add(1, Ordering::Relaxed);
        notify(&self.event);
    }
}

fn join_all(processes: Vec<thread::JoinHandle<bool>>) {
    processes.into_iter().for_each(|process| assert!(!process.join().unwrap()));
}

/// One thing is so, and all the others wait for it.
fn told(depth: Depth, notify: Notify, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(mistake);
        let others: Vec<_> =
            (1..depth.processes).map(|number| world.start(number, Fate::LIVES, Process::see)).collect();
        let teller = world.start(0, Fate::LIVES, move |process| process.give(notify));
        join_all(others);
        assert!(!teller.join().unwrap());
    })
}

/// One gives, and each of the others takes, `rounds` times.
fn shares(depth: Depth, rounds: usize, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(mistake);
        let takers = depth.processes - 1;
        let others = world.takers(takers, rounds);
        let giver = world.start(0, Fate::LIVES, move |process| {
            (0..takers * rounds).for_each(|_| process.give(RawEvent::notify_one));
        });
        join_all(others);
        assert!(!giver.join().unwrap());
        assert_eq!(world.goods.load(Ordering::Relaxed), 0);
    })
}

/// Two give, one each; one takes twice.
fn two_givers(mistake: Mistake) -> u64 {
    check(THREE, move || {
        let world = World::new(mistake);
        let taker = world.takers(1, 2);
        let work = |process: &Process| process.give(RawEvent::notify_one);
        let givers: Vec<_> = [0, 2].map(|number| world.start(number, Fate::LIVES, work)).into();
        join_all(taker);
        join_all(givers);
    })
}

/// A notifier dies.
fn dead_notifier(depth: Depth, notify: Notify, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::new(mistake);
        let others: Vec<_> =
            (1..depth.processes).map(|number| world.start(number, Fate::LIVES, Process::see)).collect();
        let teller = world.start(0, fate, move |process| {
            process.give(notify);
            // It may die when it has done all.
            process.life.step();
        });
        join_all(others);
        teller.join().unwrap()
    })
}

/// One of two who wait dies, perhaps when it was woken.
fn dead_sleeper(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::new(mistake);
        let other = world.takers(1, 1);
        let mortal = world.start(2, fate, |process| assert!(process.take()));
        let giver = world.start(0, Fate::LIVES, |process| {
            (0..2).for_each(|_| process.give(RawEvent::notify_one));
        });
        join_all(other);
        let has_died = mortal.join().unwrap();
        assert!(!giver.join().unwrap());
        // Killed between taking and anything else, it had it.
        assert!(world.goods.load(Ordering::Relaxed) <= u32::from(has_died));
        has_died
    })
}

/// One of two does not wait for long.
fn impatient(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(mistake);
        let other = world.takers(1, 1);
        let has_taken = Rc::new(Cell::new(false));
        let note = has_taken.clone();
        let hasty = world.start(2, Fate::IMPATIENT, move |process| note.set(process.take()));
        let giver = world.start(0, Fate::LIVES, |process| {
            (0..2).for_each(|_| process.give(RawEvent::notify_one));
        });
        join_all(other);
        assert!(!hasty.join().unwrap());
        assert!(!giver.join().unwrap());
        assert_eq!(world.goods.load(Ordering::Relaxed), u32::from(!has_taken.get()));
    })
}

#[test]
fn one_is_told() {
    told(TWO, RawEvent::notify_one, Mistake::None);
    told(TWO, RawEvent::notify_all, Mistake::None);
}

#[test]
fn two_are_told() {
    told(THREE, RawEvent::notify_all, Mistake::None);
}

#[test]
fn one_takes_twice() {
    shares(TWO, 2, Mistake::None);
    two_givers(Mistake::None);
}

#[test]
fn two_take_one_each() {
    shares(THREE_SHALLOW, 1, Mistake::None);
}

#[test]
fn a_notifier_dies() {
    dead_notifier(TWO, RawEvent::notify_one, Mistake::None);
    dead_notifier(THREE_SHALLOW, RawEvent::notify_all, Mistake::None);
}

#[test]
fn a_sleeper_dies() {
    dead_sleeper(THREE_SHALLOW, Mistake::None);
}

#[test]
fn one_that_is_impatient() {
    impatient(THREE_SHALLOW, Mistake::None);
}

#[test]
fn planted_marks_taken_back_by_a_store() {
    finds("deadlock", || shares(TWO, 2, Mistake::TakenBackByStore));
}

#[test]
fn planted_the_same_marks_for_all() {
    finds("deadlock", || shares(TWO, 2, Mistake::SameMarks));
}

#[test]
fn planted_marks_taken_back_when_one_was_woken() {
    finds("deadlock", || shares(THREE, 1, Mistake::WokenNotCounted));
}

#[test]
fn planted_wake_before_count() {
    finds("deadlock", || told(TWO, RawEvent::notify_one, Mistake::WakeBeforeCount));
}

#[test]
fn planted_listening_by_a_store() {
    finds("deadlock", || told(TWO, RawEvent::notify_one, Mistake::ListenByStore));
}

#[test]
fn planted_look_before_listen() {
    finds("deadlock", || told(TWO, RawEvent::notify_one, Mistake::LookBeforeListen));
}

#[test]
fn planted_relaxed_count() {
    finds("deadlock", || told(TWO, RawEvent::notify_one, Mistake::RelaxedCount));
}

#[test]
fn planted_relaxed_listen() {
    finds("deadlock", || told(TWO, RawEvent::notify_one, Mistake::RelaxedListen));
}

#[test]
fn planted_one_wake_for_all() {
    finds("deadlock", || told(THREE, RawEvent::notify_all, Mistake::OneWakeForAll));
}

#[test]
fn planted_count_looked_at_alone() {
    finds("deadlock", || dead_notifier(TWO, RawEvent::notify_one, Mistake::CountAlone));
}

#[test]
#[ignore = "takes minutes"]
fn long_with_more_preemptions() {
    let all = Depth { processes: 2, preemptions: None };
    tell("told, one", told(all, RawEvent::notify_one, Mistake::None));
    tell("told, all", told(all, RawEvent::notify_all, Mistake::None));
    // All of them are too many.
    tell("shares", shares(Depth { preemptions: Some(4), ..all }, 2, Mistake::None));
    tell("dead notifier", dead_notifier(all, RawEvent::notify_one, Mistake::None));
    tell("told of three", told(THREE_DEEP, RawEvent::notify_all, Mistake::None));
    tell("shares of three", shares(THREE_DEEP, 1, Mistake::None));
    tell("impatient", impatient(THREE, Mistake::None));
    tell("dead sleeper", dead_sleeper(THREE, Mistake::None));
    tell("dead notifier of three", dead_notifier(THREE_DEEP, RawEvent::notify_all, Mistake::None));
}
