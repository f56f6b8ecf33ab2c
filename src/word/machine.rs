//! A machine for words, made of loom's parts
//!
//! Words, those who sleep on them, and the processes that use them. A process runs as one of loom's threads and sees each word
//! through a view of its own, which counts the steps of its [`Life`], so that it can be made to die before any one of them: it
//! unwinds, and is dead only after all that it did, as with a real kernel.
//!
//! Time is told by deaths alone. A sleep ends by a wake, or because somebody has died since the sleeper last looked at
//! the time; so whoever needs its time-out among the living sleeps for ever, and loom says so. The exception is a
//! process that is impatient, whose sleeps end at any time.
//!
//! A [`View`] is a word as it is. A model with mistakes in it, which are made by the word, has one of its own, over the same `Life`.

use super::Word;
use core::array::from_fn;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool as PlainBool, AtomicU64 as PlainU64};
use core::time::Duration;
use loom::model::Builder;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::println;
use std::rc::Rc;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

/// Processes of a machine at most; loom has no room for more threads.
pub(crate) const PROCESSES: usize = 4;

/// What is done to a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    /// The step before which it dies, counted from one; 0: none.
    dies_before: u32,
    /// Whether its sleeps end at any time.
    pub(crate) is_impatient: bool,
}

impl Fate {
    pub(crate) const LIVES: Self = Self { dies_before: 0, is_impatient: false };
    pub(crate) const IMPATIENT: Self = Self { dies_before: 0, is_impatient: true };

    pub(crate) const fn dies_before(step: u32) -> Self {
        Self { dies_before: step, is_impatient: false }
    }
}

/// Unwinds a process that dies.
struct Killed;

/// Who sleeps, first come first; and how many have died.
#[derive(Debug, Default)]
struct Sleepers {
    /// The process, and the word by its address.
    queue: Vec<(usize, usize)>,
    deaths: u32,
}

/// What the processes of a machine share besides the words.
#[derive(Debug)]
pub(crate) struct Kernel {
    sleepers: Mutex<Sleepers>,
    alarms: [Condvar; PROCESSES],
}

impl Kernel {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { sleepers: Mutex::new(Sleepers::default()), alarms: from_fn(|_| Condvar::new()) })
    }
}

/// A process as the kernel has it.
#[derive(Debug)]
pub(crate) struct Life {
    kernel: Rc<Kernel>,
    process: usize,
    fate: Fate,
    steps: Cell<u32>,
    /// How many deaths it knows of, and what it takes for the time.
    deaths: Cell<u32>,
    time: Cell<Duration>,
}

impl Life {
    pub(crate) fn new(kernel: &Rc<Kernel>, process: usize, fate: Fate) -> Rc<Self> {
        let (steps, deaths, time) = (Cell::new(0), Cell::new(0), Cell::new(Duration::ZERO));
        Rc::new(Self { kernel: kernel.clone(), process, fate, steps, deaths, time })
    }

    pub(crate) const fn process(&self) -> usize {
        self.process
    }

    pub(crate) const fn is_impatient(&self) -> bool {
        self.fate.is_impatient
    }

    pub(crate) fn now(&self) -> Duration {
        self.time.get()
    }

    /// Goes on to the next step, or dies.
    pub(crate) fn step(&self) {
        let step = self.steps.get() + 1;
        self.steps.set(step);
        if step == self.fate.dies_before {
            resume_unwind(Box::new(Killed));
        }
    }

    /// Sleeps while the word is `expected`. A step.
    pub(crate) fn sleep(&self, word: &AtomicU32, expected: u32, timeout: Duration) {
        self.step();
        let place = (self.process, address(word));
        let mut sleepers = self.kernel.sleepers.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            sleepers.queue.push(place);
            if self.fate.is_impatient {
                drop(sleepers);
                thread::yield_now();
                self.time.set(self.time.get() + timeout);
                sleepers = self.kernel.sleepers.lock().unwrap();
            } else {
                while sleepers.queue.contains(&place) && sleepers.deaths == self.deaths.get() {
                    sleepers = self.kernel.alarms[self.process].wait(sleepers).unwrap();
                }
            }
            sleepers.queue.retain(|sleeper| *sleeper != place);
        }
        self.deaths.set(sleepers.deaths);
    }

    /// Wakes so many of those who sleep on the word; gives how many there were. A step.
    pub(crate) fn wake(&self, word: &AtomicU32, count: usize) -> usize {
        self.step();
        let mut sleepers = self.kernel.sleepers.lock().unwrap();
        let mut woken = 0;
        sleepers.queue.retain(|(process, place)| {
            let is_woken = *place == address(word) && woken < count;
            if is_woken {
                woken += 1;
                self.kernel.alarms[*process].notify_one();
            }
            !is_woken
        });
        woken
    }

    /// Does its work, or dies in it; gives whether it died. That it is dead the kernel says after `bury`.
    pub(crate) fn live(&self, work: impl FnOnce(), bury: impl FnOnce()) -> bool {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(()) => false,
            Err(reason) if reason.is::<Killed>() => {
                bury();
                let mut sleepers = self.kernel.sleepers.lock().unwrap();
                sleepers.deaths += 1;
                for (sleeper, _) in &sleepers.queue {
                    self.kernel.alarms[*sleeper].notify_one();
                }
                true
            }
            Err(reason) => resume_unwind(reason),
        }
    }
}

fn address(word: &AtomicU32) -> usize {
    core::ptr::from_ref(word).addr()
}

/// A word as one process sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    word: Rc<AtomicU32>,
    life: Rc<Life>,
}

impl View {
    pub(crate) fn new(word: &Rc<AtomicU32>, life: &Rc<Life>) -> Self {
        Self { word: word.clone(), life: life.clone() }
    }
}

impl Word for View {
    const SPINS: u32 = 1;

    fn load(&self) -> u32 {
        self.life.step();
        self.word.load(Ordering::Acquire)
    }

    fn replace(&self, old: u32, new: u32) -> bool {
        self.life.step();
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        self.life.sleep(&self.word, expected, timeout);
    }

    fn add(&self, amount: u32) -> u32 {
        self.life.step();
        self.word.fetch_add(amount, Ordering::AcqRel)
    }

    fn wake_one(&self) -> usize {
        self.life.wake(&self.word, 1)
    }

    fn wake_all(&self) {
        self.life.wake(&self.word, usize::MAX);
    }

    fn now(&self) -> Duration {
        self.life.now()
    }
}

/// How thoroughly a model is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    /// Processes besides the one that looks last.
    pub(crate) processes: usize,
    /// Preemptions at most; `None`: any number.
    pub(crate) preemptions: Option<usize>,
}

pub(crate) const TWO: Depth = Depth { processes: 2, preemptions: Some(3) };
pub(crate) const THREE: Depth = Depth { processes: 3, preemptions: Some(2) };
pub(crate) const THREE_DEEP: Depth = Depth { processes: 3, preemptions: Some(3) };

/// Runs a model in all orders; gives how many there are.
pub(crate) fn check(depth: Depth, model: impl Fn() + Send + Sync + 'static) -> u64 {
    let orders = Arc::new(PlainU64::new(0));
    let count = orders.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = depth.preemptions;
    builder.max_branches = 10_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    orders.load(Ordering::Relaxed)
}

/// Runs a model for each step that its victim may die before. It gives whether the victim has died.
pub(crate) fn check_each_death(
    depth: Depth,
    model: impl Fn(Fate) -> bool + Send + Sync + Copy + 'static,
) -> u64 {
    let mut orders = 0;
    for step in 1.. {
        let has_died = Arc::new(PlainBool::new(false));
        let note = has_died.clone();
        orders += check(depth, move || {
            if model(Fate::dies_before(step)) {
                note.store(true, Ordering::Relaxed);
            }
        });
        if !has_died.load(Ordering::Relaxed) {
            // It has no step beyond this one, in whichever order they are taken.
            assert!(step > 2, "{step} steps");
            break;
        }
    }
    orders
}

/// Runs a model with a mistake in it, which it must find.
#[track_caller]
pub(crate) fn finds(sign: &str, model: impl FnOnce() -> u64) {
    let reason = catch_unwind(AssertUnwindSafe(model)).expect_err("it was not found");
    let reason = match reason.downcast::<String>() {
        Ok(reason) => *reason,
        Err(reason) => (*reason.downcast::<&str>().unwrap()).into(),
    };
    assert!(reason.contains(sign), "{reason}");
}

pub(crate) fn tell(model: &str, orders: u64) {
    println!("{model}: {orders} orders");
}
