//! A machine for the lock, made of loom's parts
//!
//! One lock word, the processes that use it ([`Life`]), and who of them is alive. What goes wrong on purpose goes wrong in the word.

use super::super::{
    Acquired, HOLDER_SHIFT, Holder, LockError, NOBODY, NOT_RECOVERABLE, RawLock, Roll, SLICE, WAITERS, Word,
};
use crate::membership::Slot;
use crate::word::machine::{Fate, Kernel, Life, PROCESSES};
use core::array::from_fn;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool as PlainBool, AtomicU32 as PlainU32};
use core::time::Duration;
use loom::cell::Cell as LoomCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use std::rc::Rc;

/// The generation of each slot in the beginning.
const GENERATION: u32 = 7;
/// What a process says that has taken the lock and not said who it is. Nobody knows of its death.
const SOMEBODY: Holder = Holder(56 << HOLDER_SHIFT);
/// How long a process waits: one sleep, if time passes at all.
const PATIENCE: Duration = SLICE;

/// A mistake that one could make in the lock, made by the word instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// None at all.
    None,
    /// Unlocking wakes nobody.
    UnlockWithoutWake,
    /// Whoever takes the lock after a sleep forgets that there may be others asleep.
    WaitersDropped,
    /// A dead holder is replaced by a plain store.
    TakeoverByStore,
    /// The lock is taken first, and then the holder written into it.
    TwoWords,
    /// Who reads a holder's name may see what was before that holder came.
    RelaxedLook,
    /// Whether a holder is gone is asked of its slot, whoever has it now.
    GenerationIgnored,
    /// Whoever gives up waiting keeps the wake that it had.
    WakeKept,
    /// Giving up wakes one sleeper.
    GiveUpWakesOne,
    /// A holder counts as dead when one has waited for it once.
    SlowIsDead,
}

/// What all the processes share.
#[derive(Debug)]
pub(super) struct Machine {
    mistake: Mistake,
    word: AtomicU32,
    kernel: Rc<Kernel>,
    tenants: Tenants,
    /// What the lock protects: two numbers that are equal. Loom fails where two accesses are not ordered.
    pair: [LoomCell<u32>; 2],
    /// How often somebody came to hold a lock in order, and raised the first number.
    raised: PlainU32,
    /// How often the lock was left by one who could not put in order what it protects, and how often it was taken
    /// over.
    left: PlainU32,
    taken_over: PlainU32,
}

/// Who has which slot, and is alive.
#[derive(Debug)]
struct Tenants {
    mistake: Mistake,
    /// By slot: the process that has it, and how often it was let.
    tenancies: [AtomicU32; PROCESSES],
    generations: [AtomicU32; PROCESSES],
    /// By process.
    is_dead: [AtomicBool; PROCESSES],
    /// Whether an impatient process has slept.
    is_late: PlainBool,
}

impl Tenants {
    fn new(mistake: Mistake) -> Self {
        Self {
            mistake,
            tenancies: from_fn(|process| AtomicU32::new(process as u32)),
            generations: from_fn(|_| AtomicU32::new(GENERATION)),
            is_dead: from_fn(|_| AtomicBool::new(false)),
            is_late: PlainBool::new(false),
        }
    }

    fn bury(&self, process: usize) {
        // SYNC: Release here, Acquire in `is_gone`: who learns of a death from the kernel sees all that came before.
        self.is_dead[process].store(true, Ordering::Release);
    }

    /// Lets a slot to a new process; gives the generation.
    fn let_slot(&self, slot: usize, former: usize, process: usize) -> u32 {
        // As in the header: first the tenancy, and then the generation.
        let tenancy = &self.tenancies[slot];
        tenancy.compare_exchange(former as u32, process as u32, Ordering::AcqRel, Ordering::Acquire).unwrap();
        self.generations[slot].fetch_add(1, Ordering::AcqRel) + 1
    }
}

impl Roll for Tenants {
    /// As an attachment does it.
    fn is_gone(&self, holder: Holder) -> bool {
        if holder == SOMEBODY {
            return false;
        }
        if self.mistake == Mistake::SlowIsDead && self.is_late.load(Ordering::Relaxed) {
            return true;
        }
        let slot = holder.slot().unwrap().index();
        let tenant = self.tenancies[slot].load(Ordering::Acquire) as usize;
        let is_relet = !holder.has_generation(self.generations[slot].load(Ordering::Acquire).into());
        is_relet && self.mistake != Mistake::GenerationIgnored || self.is_dead[tenant].load(Ordering::Acquire)
    }
}

impl Machine {
    pub(super) fn new(mistake: Mistake) -> Rc<Self> {
        Self::with_word(mistake, NOBODY)
    }

    /// One whose lock was left by process 3, which died before anything else began.
    pub(super) fn left_by_the_dead(mistake: Mistake, waiters: bool) -> Rc<Self> {
        let dead = holder(3, GENERATION);
        let machine = Self::with_word(mistake, dead.0 | if waiters { WAITERS } else { 0 });
        machine.tenants.bury(3);
        machine.left.store(1, Ordering::Relaxed);
        machine
    }

    fn with_word(mistake: Mistake, word: u32) -> Rc<Self> {
        Rc::new(Self {
            mistake,
            word: AtomicU32::new(word),
            kernel: Kernel::new(),
            tenants: Tenants::new(mistake),
            pair: from_fn(|_| LoomCell::new(0)),
            raised: PlainU32::new(0),
            left: PlainU32::new(0),
            taken_over: PlainU32::new(0),
        })
    }

    /// Runs a process in the slot of its own number.
    pub(super) fn start(
        self: &Rc<Self>,
        process: usize,
        fate: Fate,
        work: impl FnOnce(&Process) + 'static,
    ) -> thread::JoinHandle<bool> {
        let process = Process::new(self.clone(), process, process, GENERATION, fate);
        thread::spawn(move || process.live(work))
    }

    /// A process in the slot of a former one, which is dead.
    pub(super) fn successor(self: &Rc<Self>, process: usize, former: usize) -> Process {
        let generation = self.tenants.let_slot(former, former, process);
        Process::new(self.clone(), process, former, generation, Fate::LIVES)
    }

    /// A process that has just come, in the slot of its own number.
    pub(super) fn newcomer(self: &Rc<Self>, process: usize) -> Process {
        Process::new(self.clone(), process, process, GENERATION, Fate::LIVES)
    }

    /// Whether the lock is not recoverable. For the last one.
    pub(super) fn is_given_up(&self) -> bool {
        self.word.load(Ordering::Relaxed) == NOT_RECOVERABLE
    }

    /// In the end: whoever comes next gets the lock, and each time that it was left is known to one process.
    pub(super) fn conclude(self: &Rc<Self>, process: usize) {
        self.newcomer(process).lock_raise_unlock();
        assert_eq!(self.word.load(Ordering::Relaxed) & !WAITERS, NOBODY);
        let count = |counter: &PlainU32| counter.load(Ordering::Relaxed);
        assert_eq!(count(&self.left), count(&self.taken_over), "deaths of holders, and takeovers");
        assert_eq!(self.pair[0].get(), count(&self.raised), "what was written was lost");
    }
}

fn holder(slot: usize, generation: u32) -> Holder {
    Holder::new(Slot::new(slot as u64).unwrap(), generation.into())
}

/// The lock's word as one process sees it.
#[derive(Debug)]
struct View {
    machine: Rc<Machine>,
    life: Rc<Life>,
    me: Holder,
    is_holder: Cell<bool>,
    /// Whether it last came to hold the lock by taking it over.
    has_taken_over: Cell<bool>,
    /// Whether it is waking others because it has just given the lock back.
    has_released: Cell<bool>,
}

impl View {
    fn is(&self, mistake: Mistake) -> bool {
        self.machine.mistake == mistake
    }

    fn exchange(&self, old: u32, new: u32) -> bool {
        self.machine.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Keeps the books of a change that has been made.
    fn note(&self, old: u32, new: u32) {
        let (was, is) = (old & !WAITERS, new & !WAITERS);
        if was != self.me.0 && is == self.me.0 {
            self.is_holder.set(true);
            self.has_taken_over.set(was != NOBODY);
            if was != NOBODY {
                self.machine.taken_over.fetch_add(1, Ordering::Relaxed);
            }
        }
        if was == self.me.0 && is != self.me.0 {
            self.is_holder.set(false);
            self.has_released.set(true);
            if Holder::from_word(is).is_some() {
                self.machine.left.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn wake(&self, count: usize) -> usize {
        let is_after_release = self.has_released.replace(false);
        let is_left_out = self.is(Mistake::UnlockWithoutWake) && is_after_release
            || self.is(Mistake::WakeKept) && !is_after_release;
        self.life.wake(&self.machine.word, if is_left_out { 0 } else { count })
    }
}

impl Word for View {
    const SPINS: u32 = 1;

    fn load(&self) -> u32 {
        self.life.step();
        let order = if self.is(Mistake::RelaxedLook) { Ordering::Relaxed } else { Ordering::Acquire };
        self.machine.word.load(order)
    }

    fn replace(&self, old: u32, mut new: u32) -> bool {
        self.life.step();
        let is_taken = old & !WAITERS != self.me.0 && new & !WAITERS == self.me.0;
        if is_taken && self.is(Mistake::WaitersDropped) {
            new &= !WAITERS;
        }
        let is_done = if is_taken && old & !WAITERS != NOBODY && self.is(Mistake::TakeoverByStore) {
            self.machine.word.store(new, Ordering::Release);
            true
        } else if is_taken && old & !WAITERS == NOBODY && self.is(Mistake::TwoWords) {
            self.exchange(old, SOMEBODY.0 | new & WAITERS) && {
                self.life.step();
                // Somebody may have gone to sleep meanwhile.
                self.exchange(SOMEBODY.0, new) || self.exchange(SOMEBODY.0 | WAITERS, new | WAITERS)
            }
        } else {
            self.exchange(old, new)
        };
        if is_done {
            self.note(old, new);
        }
        is_done
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        self.life.sleep(&self.machine.word, expected, timeout);
        if self.life.is_impatient() {
            self.machine.tenants.is_late.store(true, Ordering::Relaxed);
        }
    }

    fn add(&self, amount: u32) -> u32 {
        self.life.step();
        self.machine.word.fetch_add(amount, Ordering::AcqRel)
    }

    fn wake_one(&self) -> usize {
        self.wake(1)
    }

    fn wake_all(&self) {
        let _: usize = self.wake(if self.is(Mistake::GiveUpWakesOne) { 1 } else { usize::MAX });
    }

    fn now(&self) -> Duration {
        self.life.now()
    }
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    lock: RawLock<View>,
}

impl Process {
    fn new(machine: Rc<Machine>, process: usize, slot: usize, generation: u32, fate: Fate) -> Self {
        let word = View {
            life: Life::new(&machine.kernel, process, fate),
            machine,
            me: holder(slot, generation),
            is_holder: Cell::new(false),
            has_taken_over: Cell::new(false),
            has_released: Cell::new(false),
        };
        Self { lock: RawLock::over(word) }
    }

    fn view(&self) -> &View {
        &self.lock.word
    }

    fn me(&self) -> Holder {
        self.view().me
    }

    fn machine(&self) -> &Rc<Machine> {
        &self.view().machine
    }

    /// Does its work, or dies in it; gives whether it died.
    fn live(self, work: impl FnOnce(&Self)) -> bool {
        let (view, machine) = (self.view(), self.machine());
        view.life.live(
            || work(&self),
            || {
                if view.is_holder.get() {
                    machine.left.fetch_add(1, Ordering::Relaxed);
                }
                machine.tenants.bury(view.life.process());
            },
        )
    }

    /// Takes the lock. What it protects is in order then, or the caller knows that it may not be.
    pub(super) fn lock(&self) -> Result<Acquired, LockError> {
        let result = self.lock.lock(self.me(), &self.machine().tenants, PATIENCE);
        assert_eq!(result.is_ok(), self.view().is_holder.get());
        if let Ok(acquired) = result {
            assert_eq!(acquired == Acquired::OwnerDied, self.view().has_taken_over.get());
        }
        match result {
            Ok(Acquired::Clean) => {
                assert_eq!(self.pair(0), self.pair(1), "others were told that all is in order")
            }
            Ok(Acquired::OwnerDied) => self.set_pair(1, self.pair(0)),
            Err(LockError::Busy) => assert!(self.view().life.is_impatient()),
            Err(_) => {}
        }
        result
    }

    /// Changes what the lock protects: half of it, and then the other half.
    pub(super) fn raise(&self) {
        self.set_pair(0, self.pair(0) + 1);
        self.machine().raised.fetch_add(1, Ordering::Relaxed);
        self.view().life.step();
        self.set_pair(1, self.pair(1) + 1);
        self.view().life.step();
    }

    pub(super) fn unlock(&self) {
        self.lock.unlock(self.me());
        self.view().has_released.set(false);
    }

    pub(super) fn abandon(&self) {
        self.lock.abandon(self.me());
        self.view().has_released.set(false);
    }

    pub(super) fn give_up(&self) {
        self.lock.give_up(self.me());
        self.view().has_released.set(false);
    }

    pub(super) fn lock_raise_unlock(&self) {
        assert!(self.lock().is_ok());
        self.raise();
        self.unlock();
    }

    fn pair(&self, index: usize) -> u32 {
        self.machine().pair[index].get()
    }

    fn set_pair(&self, index: usize, value: u32) {
        self.machine().pair[index].set(value);
    }
}
