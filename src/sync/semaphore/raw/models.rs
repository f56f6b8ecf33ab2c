//! The semaphore, model-checked
//!
//! Loom runs each model in all the orders in which its processes can take their steps, but for those with many preemptions. It fails where two
//! processes have one permit at once, or do not see what the former holder wrote, and where all that are left sleep. Only a wake or
//! a death ends a sleep (`word/machine.rs`), and the slice does for one process that is marked as impatient.
//!
//! | model | what it shows |
//! |---|---|
//! | [`turns`] | a permit is one process's at a time, and nobody sleeps for ever |
//! | [`death`] | a holder, or one that waits, dies before any of its steps: the others go on, and get all permits |
//! | [`heirs`] | of several that find the permits of the dead each gets another one |
//! | [`reclaimed`] | one that gives back what the dead had wakes those who wait for it |
//! | [`impatient`] | one that goes away does not take a wake with it; nobody alive is robbed |
//!
//! | mistake | found by |
//! |---|---|
//! | given back without notifying | [`turns`]: a deadlock |
//! | notified first, given back then | [`turns`]: a deadlock |
//! | looked first, listened then | [`turns`]: a deadlock |
//! | taken by a plain store | [`turns`]: two have one permit |
//! | taken over by a plain store | [`heirs`]: two have one permit |
//! | taken without Acquire | [`turns`]: two have one permit |
//! | the dead are taken for alive | [`death`]: a deadlock |
//! | reclaimed without notifying | [`reclaimed`]: a deadlock |
//! | slow is dead | [`impatient`]: two have one permit |

use super::{NOBODY, Permits, SLICE};
use crate::event::RawEvent;
use crate::lock::{Holder, LockError, Roll};
use crate::membership::Slot;
use crate::word::Word;
use crate::word::machine::{
    Depth, Fate, Kernel, Life, PROCESSES, THREE, THREE_DEEP, TWO, View as PlainView, check, check_each_death,
    finds, tell,
};
use core::array::from_fn;
use core::sync::atomic::AtomicBool as PlainBool;
use core::time::Duration;
use loom::cell::Cell as LoomCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use std::rc::Rc;
use std::vec::Vec;

/// For a model with many steps.
const TWO_SHALLOW: Depth = Depth { processes: 2, preemptions: Some(2) };
const THREE_SHALLOW: Depth = Depth { processes: 3, preemptions: Some(1) };

/// How long a process waits: one sleep, if time passes at all.
const PATIENCE: Duration = SLICE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    ReleaseWithoutNotify,
    NotifyBeforeRelease,
    LookBeforeListen,
    TakeByStore,
    TakeOverByStore,
    RelaxedTake,
    DeadIsAlive,
    ReclaimWithoutNotify,
    SlowIsDead,
}

/// What all the processes share.
#[derive(Debug)]
struct World {
    mistake: Mistake,
    kernel: Rc<Kernel>,
    words: Vec<Rc<AtomicU32>>,
    given_back: Rc<AtomicU32>,
    /// What each permit is for. Loom fails where two accesses are not ordered.
    uses: Vec<LoomCell<u32>>,
    dead: Dead,
}

/// Who is dead.
#[derive(Debug)]
struct Dead {
    mistake: Mistake,
    /// By process.
    is_dead: [AtomicBool; PROCESSES],
    /// Whether an impatient process has slept.
    is_late: PlainBool,
}

fn holder(process: usize) -> Holder {
    Holder::new(Slot::new(process as u64).unwrap(), 7)
}

impl Roll for Dead {
    fn is_gone(&self, holder: Holder) -> bool {
        if self.mistake == Mistake::SlowIsDead && self.is_late.load(Ordering::Relaxed) {
            return true;
        }
        // SYNC: with `bury`: who learns of a death from the kernel sees all that came before.
        let is_dead = self.is_dead[holder.slot().unwrap().index()].load(Ordering::Acquire);
        is_dead && self.mistake != Mistake::DeadIsAlive
    }
}

/// A word as one process sees it.
#[derive(Debug)]
struct View {
    world: Rc<World>,
    life: Rc<Life>,
    word: Rc<AtomicU32>,
    plain: PlainView,
    is_permit: bool,
}

impl View {
    fn new(world: &Rc<World>, life: &Rc<Life>, word: &Rc<AtomicU32>, is_permit: bool) -> Self {
        let (world, life, word) = (world.clone(), life.clone(), word.clone());
        let plain = PlainView::new(&word, &life);
        Self { world, life, word, plain, is_permit }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.world.mistake == mistake
    }
}

impl Word for View {
    const SPINS: u32 = 1;

    fn load(&self) -> u32 {
        self.plain.load()
    }

    fn replace(&self, old: u32, new: u32) -> bool {
        if !self.is_permit || new == NOBODY {
            return self.plain.replace(old, new);
        }
        let by_store = if old == NOBODY { Mistake::TakeByStore } else { Mistake::TakeOverByStore };
        if self.is(by_store) {
            self.life.step();
            self.word.store(new, Ordering::Release);
            return true;
        }
        if self.is(Mistake::RelaxedTake) {
            self.life.step();
            return self.word.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_ok();
        }
        self.plain.replace(old, new)
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        self.plain.wait(expected, timeout);
        if self.life.is_impatient() {
            self.world.dead.is_late.store(true, Ordering::Relaxed);
        }
    }

    fn add(&self, amount: u32) -> u32 {
        self.plain.add(amount)
    }

    fn wake_one(&self) -> usize {
        self.plain.wake_one()
    }

    fn wake_all(&self) {
        self.plain.wake_all();
    }

    fn now(&self) -> Duration {
        self.plain.now()
    }
}

impl World {
    fn new(permits: usize, mistake: Mistake) -> Rc<Self> {
        Self::with_words(mistake, (0..permits).map(|_| NOBODY))
    }

    /// One in which process 3 died with all the permits, before anything else began.
    fn left_by_the_dead(permits: usize, mistake: Mistake) -> Rc<Self> {
        let world = Self::with_words(mistake, (0..permits).map(|_| holder(3).bits()));
        world.bury(3);
        world
    }

    fn with_words(mistake: Mistake, words: impl Iterator<Item = u32>) -> Rc<Self> {
        let words: Vec<_> = words.map(|word| Rc::new(AtomicU32::new(word))).collect();
        Rc::new(Self {
            mistake,
            kernel: Kernel::new(),
            given_back: Rc::new(AtomicU32::new(0)),
            uses: words.iter().map(|_| LoomCell::new(0)).collect(),
            words,
            dead: Dead {
                mistake,
                is_dead: from_fn(|_| AtomicBool::new(false)),
                is_late: PlainBool::new(false),
            },
        })
    }

    fn bury(&self, process: usize) {
        self.dead.is_dead[process].store(true, Ordering::Release);
    }

    fn process(self: &Rc<Self>, number: usize, fate: Fate) -> Process {
        let life = Life::new(&self.kernel, number, fate);
        let words = self.words.iter().map(|word| View::new(self, &life, word, true)).collect();
        let given_back = RawEvent::over(View::new(self, &life, &self.given_back, false));
        Process { world: self.clone(), life, words, given_back }
    }

    fn start(
        self: &Rc<Self>,
        number: usize,
        fate: Fate,
        work: impl FnOnce(&Process) + 'static,
    ) -> thread::JoinHandle<bool> {
        let process = self.process(number, fate);
        thread::spawn(move || process.life.live(|| work(&process), || process.world.bury(number)))
    }

    fn others(self: &Rc<Self>, depth: Depth, rounds: usize) -> Vec<thread::JoinHandle<bool>> {
        let work = move |process: &Process| (0..rounds).for_each(|_| process.acquire_use_release());
        (1..depth.processes).map(|number| self.start(number, Fate::LIVES, work)).collect()
    }

    /// In the end one process, of this number, can have all permits.
    fn conclude(self: &Rc<Self>, number: usize) {
        let process = self.process(number, Fate::LIVES);
        let mut all: Vec<_> = self.words.iter().map(|_| process.acquire(Duration::ZERO).unwrap()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..self.words.len()));
    }
}

/// A process.
#[derive(Debug)]
struct Process {
    world: Rc<World>,
    life: Rc<Life>,
    words: Vec<View>,
    given_back: RawEvent<View>,
}

impl Process {
    fn permits(&self) -> Permits<'_, View> {
        Permits { words: &self.words, given_back: &self.given_back }
    }

    fn me(&self) -> Holder {
        holder(self.life.process())
    }

    fn acquire(&self, timeout: Duration) -> Result<usize, LockError> {
        let first = self.life.process() % self.words.len();
        if self.world.mistake == Mistake::LookBeforeListen {
            while !timeout.is_zero() {
                if let Some(index) = self.permits().take_free(self.me(), first) {
                    return Ok(index);
                }
                self.given_back.sleep(self.given_back.listen(), timeout);
            }
        }
        self.permits().acquire(self.me(), first, &self.world.dead, timeout)
    }

    /// Does something that only one may do who has this permit.
    fn make_use(&self, index: usize) {
        let uses = &self.world.uses[index];
        uses.set(uses.get() + 1);
        self.life.step();
        uses.set(uses.get() + 1);
        self.life.step();
    }

    fn release(&self, index: usize) {
        match self.world.mistake {
            Mistake::ReleaseWithoutNotify => _ = self.words[index].replace(self.me().bits(), NOBODY),
            Mistake::NotifyBeforeRelease => {
                self.given_back.notify_one();
                self.words[index].replace(self.me().bits(), NOBODY);
            }
            _ => self.permits().release(index, self.me()),
        }
    }

    fn acquire_use_release(&self) {
        let index = self.acquire(PATIENCE).unwrap();
        self.make_use(index);
        self.release(index);
    }
}

fn join_all(processes: Vec<thread::JoinHandle<bool>>) {
    processes.into_iter().for_each(|process| assert!(!process.join().unwrap()));
}

/// All take a permit in turn, `rounds` times.
fn turns(depth: Depth, permits: usize, rounds: usize, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(permits, mistake);
        let work = move |process: &Process| (0..rounds).for_each(|_| process.acquire_use_release());
        let first = world.start(0, Fate::LIVES, work);
        join_all(world.others(depth, rounds));
        assert!(!first.join().unwrap());
        world.conclude(3);
    })
}

/// One of them dies.
fn death(depth: Depth, permits: usize, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::new(permits, mistake);
        let victim = world.start(0, fate, Process::acquire_use_release);
        join_all(world.others(depth, 1));
        let has_died = victim.join().unwrap();
        world.conclude(3);
        has_died
    })
}

/// The permits are a dead one's in the beginning, and one of those that find them may die too.
fn heirs(depth: Depth, permits: usize, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::left_by_the_dead(permits, mistake);
        let mortal = world.start(0, fate, Process::acquire_use_release);
        join_all(world.others(depth, 1));
        let has_died = mortal.join().unwrap();
        world.conclude(1);
        has_died
    })
}

/// A holder dies; one that reclaims its permit is the only one to know that it is dead, as if the others were asleep all the while.
fn reclaimed(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::with_words(mistake, [holder(3).bits()].into_iter());
        let others = world.others(depth, 1);
        let reclaimer = world.start(0, Fate::LIVES, move |process| {
            process.world.bury(3);
            if mistake == Mistake::ReclaimWithoutNotify {
                process.words[0].replace(holder(3).bits(), NOBODY);
            } else {
                let reclaimed = process.permits().reclaim(&process.world.dead);
                assert!(reclaimed <= 1);
            }
        });
        join_all(others);
        assert!(!reclaimer.join().unwrap());
        world.conclude(1);
    })
}

/// One of them does not wait for long; another one comes twice.
fn impatient(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(1, mistake);
        let impatient = world.start(0, Fate::IMPATIENT, |process| match process.acquire(PATIENCE) {
            Ok(index) => {
                process.make_use(index);
                process.release(index);
            }
            Err(error) => assert_eq!(error, LockError::Busy),
        });
        join_all(world.others(depth, if depth.processes == 2 { 2 } else { 1 }));
        assert!(!impatient.join().unwrap());
        world.conclude(3);
    })
}

#[test]
fn two_take_turns() {
    turns(TWO, 1, 2, Mistake::None);
}

#[test]
fn three_take_turns() {
    turns(THREE, 1, 1, Mistake::None);
    turns(THREE_SHALLOW, 2, 1, Mistake::None);
}

#[test]
fn a_death_among_two() {
    death(TWO, 1, Mistake::None);
    death(TWO, 2, Mistake::None);
}

#[test]
fn a_death_among_three() {
    death(THREE_SHALLOW, 1, Mistake::None);
}

#[test]
fn two_heirs() {
    heirs(TWO_SHALLOW, 1, Mistake::None);
    heirs(TWO_SHALLOW, 2, Mistake::None);
}

#[test]
fn what_is_reclaimed() {
    reclaimed(TWO, Mistake::None);
    reclaimed(THREE_SHALLOW, Mistake::None);
}

#[test]
fn one_that_is_impatient() {
    impatient(TWO, Mistake::None);
    impatient(THREE_SHALLOW, Mistake::None);
}

#[test]
fn planted_release_without_notify() {
    finds("deadlock", || turns(TWO, 1, 1, Mistake::ReleaseWithoutNotify));
}

#[test]
fn planted_notify_before_release() {
    finds("deadlock", || turns(TWO, 1, 1, Mistake::NotifyBeforeRelease));
}

#[test]
fn planted_look_before_listen() {
    finds("deadlock", || turns(TWO, 1, 1, Mistake::LookBeforeListen));
}

#[test]
fn planted_take_by_store() {
    finds("Causality", || turns(TWO, 1, 1, Mistake::TakeByStore));
}

#[test]
fn planted_take_over_by_store() {
    finds("Causality", || heirs(TWO, 1, Mistake::TakeOverByStore));
}

#[test]
fn planted_relaxed_take() {
    finds("Causality", || turns(TWO, 1, 1, Mistake::RelaxedTake));
}

#[test]
fn planted_dead_is_alive() {
    finds("deadlock", || death(TWO, 1, Mistake::DeadIsAlive));
}

#[test]
fn planted_reclaim_without_notify() {
    finds("deadlock", || reclaimed(TWO, Mistake::ReclaimWithoutNotify));
}

#[test]
fn planted_slow_is_dead() {
    finds("Causality", || impatient(TWO, Mistake::SlowIsDead));
}

#[test]
#[ignore = "takes minutes"]
fn long_two_in_all_orders() {
    let all = Depth { processes: 2, preemptions: None };
    tell("turns", turns(all, 1, 1, Mistake::None));
    tell("death", death(Depth { preemptions: Some(5), ..all }, 1, Mistake::None));
    tell("heirs", heirs(Depth { preemptions: Some(5), ..all }, 1, Mistake::None));
    tell("reclaimed", reclaimed(all, Mistake::None));
    tell("impatient", impatient(Depth { preemptions: Some(5), ..all }, Mistake::None));
}

#[test]
#[ignore = "takes minutes"]
fn long_three_with_more_preemptions() {
    tell("turns of three", turns(THREE_DEEP, 1, 1, Mistake::None));
    tell("turns of three, two permits", turns(THREE_DEEP, 2, 1, Mistake::None));
    tell("death of three", death(THREE, 1, Mistake::None));
    tell("heirs of two", heirs(TWO, 2, Mistake::None));
    tell("heirs of three", heirs(THREE, 2, Mistake::None));
    tell("reclaimed of three", reclaimed(THREE, Mistake::None));
    tell("impatient of three", impatient(THREE_DEEP, Mistake::None));
}
