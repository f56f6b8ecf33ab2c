//! A machine for the lock for readers and writers, made of loom's parts
//!
//! Its words, the processes that use it ([`Life`]), and who of them is alive. What goes wrong on purpose goes wrong in the words, in the
//! gate, or in what a process does.

use super::super::super::occupant::Occupant;
use super::super::{Entry, Gate, Raw, SLICE, is_written};
use crate::error::LockFailure;
use crate::event::RawEvent;
use crate::lock::{Holder, LockError, RawLock, Roll};
use crate::membership::Slot;
use crate::word::machine::{Fate, Kernel, Life, PROCESSES, View as PlainView};
use crate::word::{Look, Ordered, Word};
use core::array::from_fn;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool as PlainBool, AtomicU32 as PlainU32};
use core::time::Duration;
use loom::cell::Cell as LoomCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;
use std::rc::Rc;
use std::vec::Vec;

/// The generation of each slot.
const GENERATION: u32 = 7;
/// How long a process waits: one sleep, if time passes at all.
const PATIENCE: Duration = SLICE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// A reader's look at the gate may be before it has come or gone.
    ReaderWithoutFence,
    /// A look at the places may be before the gate was closed.
    GateWithoutFence,
    /// A reader looks at the gate only before it has a place.
    LookOnce,
    /// A reader leaves, and notifies nobody.
    LeaveWithoutNotify,
    /// What a reader did may be seen after it has left.
    LeaveRelaxed,
    /// A place is taken by a plain store.
    TakeByStore,
    /// Nobody is ever found dead.
    DeadIsAlive,
    /// All count as dead when somebody has waited once.
    SlowIsDead,
    /// Nobody says that it writes.
    WriteUnsaid,
    /// That one writes is taken back when the gate is open.
    TakenBackLate,
    /// The gate is opened, and then said that one reads on.
    DowngradeOpensFirst,
    /// Who reads already comes as others do.
    WaitToReadAgain,
}

/// What all the processes share.
#[derive(Debug)]
pub(super) struct World {
    mistake: Mistake,
    kernel: Rc<Kernel>,
    pub(super) lock: Rc<AtomicU32>,
    left: Rc<AtomicU32>,
    /// The holder of the lock, while it waits to write.
    waiting: PlainU32,
    pub(super) readers: Vec<Rc<AtomicU64>>,
    pub(super) writer: Rc<AtomicU64>,
    /// What is guarded. Loom fails where two accesses are not ordered, one of which writes.
    pub(super) pair: [LoomCell<u32>; 2],
    dead: Dead,
    /// How often somebody died writing, or left it to the next one; and how often somebody was told.
    pub(super) orphans: PlainU32,
    told: PlainU32,
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

pub(super) fn holder(process: usize) -> Holder {
    Holder::new(Slot::new(process as u64).unwrap(), GENERATION.into())
}

impl Roll for Dead {
    fn is_gone(&self, holder: Holder) -> bool {
        if self.mistake == Mistake::SlowIsDead && self.is_late.load(Ordering::Relaxed) {
            return true;
        }
        if !holder.has_generation(GENERATION.into()) {
            return true;
        }
        // SYNC: with `bury`: who learns of a death from the kernel sees all that came before.
        let is_dead = self.is_dead[holder.slot().unwrap().index()].load(Ordering::Acquire);
        is_dead && self.mistake != Mistake::DeadIsAlive
    }
}

/// The word of the lock, or of the event, as one process sees it.
#[derive(Debug)]
struct View {
    plain: PlainView,
    world: Rc<World>,
    life: Rc<Life>,
    is_event: bool,
}

impl View {
    fn is_silent(&self) -> bool {
        self.is_event && self.world.mistake == Mistake::LeaveWithoutNotify
    }
}

impl Word for View {
    const SPINS: u32 = 1;

    fn load(&self) -> u32 {
        self.plain.load()
    }

    fn replace(&self, old: u32, new: u32) -> bool {
        self.plain.replace(old, new)
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        self.plain.wait(expected, timeout);
        if self.life.is_impatient() {
            self.world.dead.is_late.store(true, Ordering::Relaxed);
        }
    }

    fn add(&self, amount: u32) -> u32 {
        if self.is_silent() { 0 } else { self.plain.add(amount) }
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

impl Look for View {
    fn look(&self) -> u32 {
        // The fence is behind each exchange of a place: loom takes what is `SeqCst` for less than it is, but for fences.
        self.plain.load()
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// A place as one process sees it.
#[derive(Debug)]
struct Place {
    world: Rc<World>,
    life: Rc<Life>,
    word: Rc<AtomicU64>,
    /// Shared by the places of a process.
    notes: Rc<Notes>,
}

/// What is known of a process.
#[derive(Debug, Default)]
struct Notes {
    /// Whether it has said that it writes.
    is_writing: Cell<bool>,
    /// Whether it has just come to a place.
    has_come: Cell<bool>,
}

impl Place {
    fn is(&self, mistake: Mistake) -> bool {
        self.world.mistake == mistake
    }
}

impl Ordered for Place {
    fn load(&self) -> u64 {
        self.life.step();
        self.word.load(Ordering::Acquire)
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        self.life.step();
        let is_coming = new != Occupant::NOBODY;
        self.notes.has_come.set(is_coming);
        if old == Occupant::NOBODY && self.is(Mistake::TakeByStore) {
            self.word.store(new, Ordering::Release);
            fence(Ordering::SeqCst);
            return true;
        }
        let is_relaxed = !is_coming && self.is(Mistake::LeaveRelaxed);
        let order = if is_relaxed { Ordering::Relaxed } else { Ordering::AcqRel };
        let is_done = self.word.compare_exchange(old, new, order, Ordering::Relaxed).is_ok();
        if !self.is(Mistake::ReaderWithoutFence) {
            fence(Ordering::SeqCst);
        }
        is_done
    }

    fn put(&self, new: u64) {
        self.life.step();
        if is_written(new) && self.is(Mistake::WriteUnsaid) {
            return;
        }
        self.word.store(new, Ordering::Release);
        self.notes.is_writing.set(is_written(new));
    }
}

/// The gate as one process sees it.
#[derive(Debug)]
struct Door<'a>(&'a Process);

impl Gate for Door<'_> {
    type Held = ();
    const SPINS: u32 = 1;

    fn is_open(&self) -> bool {
        let is_second = self.0.notes.has_come.take();
        is_second && self.0.world.mistake == Mistake::LookOnce || self.0.lock.is_free_now()
    }

    fn fence(&self) {
        if self.0.world.mistake != Mistake::GateWithoutFence {
            View::fence();
        }
    }

    fn close(&self, timeout: Duration) -> Result<(), LockFailure> {
        match self.0.lock.lock(self.0.me(), &self.0.world.dead, timeout) {
            Ok(_) => Ok(()),
            Err(LockError::Busy) => Err(LockFailure::Busy),
            Err(error) => unreachable!("{error:?}"),
        }
    }

    fn open(&self, (): ()) {
        self.0.lock.unlock(self.0.me());
    }

    fn say(&self, is_waiting: bool) {
        self.0.life.step();
        let name = self.0.me().bits();
        let (old, new) = if is_waiting { (0, name) } else { (name, 0) };
        let said = self.0.world.waiting.swap(new, Ordering::Relaxed);
        let is_dead = |holder: Holder| self.0.world.is_buried(holder);
        assert!(said == old || Holder::from_bits(said).is_some_and(is_dead), "somebody else has the gate");
    }

    fn is_awaited(&self) -> bool {
        self.0.lock.holder().is_some_and(|holder| {
            self.0.world.waiting.load(Ordering::Relaxed) == holder.bits() && !self.is_gone(holder)
        })
    }

    fn is_gone(&self, holder: Holder) -> bool {
        self.0.world.dead.is_gone(holder)
    }

    fn is_ours(&self, holder: Holder) -> bool {
        holder == self.0.me()
    }

    fn now(&self) -> Duration {
        self.0.life.now()
    }
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    world: Rc<World>,
    life: Rc<Life>,
    notes: Rc<Notes>,
    lock: RawLock<View>,
    left: RawEvent<View>,
    readers: Vec<Place>,
    writer: Place,
}

/// What a process does.
pub(super) type Role = fn(&Process);

impl World {
    pub(super) fn new(places: usize, mistake: Mistake) -> Rc<Self> {
        Rc::new(Self {
            mistake,
            kernel: Kernel::new(),
            lock: Rc::new(AtomicU32::new(0)),
            left: Rc::new(AtomicU32::new(0)),
            waiting: PlainU32::new(0),
            readers: (0..places).map(|_| Rc::new(AtomicU64::new(Occupant::NOBODY))).collect(),
            writer: Rc::new(AtomicU64::new(Occupant::NOBODY)),
            pair: from_fn(|_| LoomCell::new(0)),
            dead: Dead {
                mistake,
                is_dead: from_fn(|_| AtomicBool::new(false)),
                is_late: PlainBool::new(false),
            },
            orphans: PlainU32::new(0),
            told: PlainU32::new(0),
        })
    }

    fn is_buried(&self, holder: Holder) -> bool {
        self.dead.is_dead[holder.slot().unwrap().index()].load(Ordering::Relaxed)
    }

    pub(super) fn bury(&self, process: usize) {
        self.dead.is_dead[process].store(true, Ordering::Release);
    }

    fn process(self: &Rc<Self>, number: usize, fate: Fate) -> Process {
        let life = Life::new(&self.kernel, number, fate);
        let notes = Rc::<Notes>::default();
        let place = |word: &Rc<AtomicU64>| Place {
            world: self.clone(),
            life: life.clone(),
            word: word.clone(),
            notes: notes.clone(),
        };
        let word = |word: &Rc<AtomicU32>, is_event| View {
            plain: PlainView::new(word, &life),
            world: self.clone(),
            life: life.clone(),
            is_event,
        };
        Process {
            world: self.clone(),
            lock: RawLock::over(word(&self.lock, false)),
            left: RawEvent::over(word(&self.left, true)),
            readers: self.readers.iter().map(place).collect(),
            writer: place(&self.writer),
            life: life.clone(),
            notes: notes.clone(),
        }
    }

    pub(super) fn start(self: &Rc<Self>, number: usize, fate: Fate, role: Role) -> thread::JoinHandle<bool> {
        let process = self.process(number, fate);
        thread::spawn(move || process.life.live(|| role(&process), || process.be_buried()))
    }

    /// In the end a process of this number can read and write at once, and each death of a writer is known.
    pub(super) fn conclude(self: &Rc<Self>, number: usize) {
        let process = self.process(number, Fate::LIVES);
        for timeout in [Duration::ZERO, Duration::ZERO] {
            process.write_for(timeout).unwrap();
            process.raise();
            process.end_write();
            let place = process.read_for(timeout).unwrap();
            process.leave(place);
        }
        let words = self.readers.iter().chain([&self.writer]);
        assert!(words.map(|word| word.load(Ordering::Relaxed)).all(|word| word == Occupant::NOBODY));
        let count = |counter: &PlainU32| counter.load(Ordering::Relaxed);
        assert_eq!(count(&self.orphans), count(&self.told), "deaths of writers, and those told");
    }
}

impl Process {
    fn me(&self) -> Holder {
        holder(self.life.process())
    }

    fn raw(&self) -> Raw<'_, Door<'_>, View, Place> {
        self.raw_of(1)
    }

    /// As another thread sees it.
    fn raw_of(&self, thread: u32) -> Raw<'_, Door<'_>, View, Place> {
        Raw {
            gate: Door(self),
            me: Occupant::new(self.me(), thread),
            first: self.life.process() % self.readers.len(),
            left: &self.left,
            readers: &self.readers,
            writer: &self.writer,
        }
    }

    fn be_buried(&self) {
        if self.notes.is_writing.get() {
            self.world.orphans.fetch_add(1, Ordering::Relaxed);
        }
        self.world.bury(self.life.process());
    }

    /// Of one who was told that the numbers may be half-written.
    fn repair(&self) {
        self.world.told.fetch_add(1, Ordering::Relaxed);
        self.notes.is_writing.set(true);
        assert!(self.world.orphans.load(Ordering::Relaxed) != 0, "told of a death that was none");
        self.world.pair[1].set(self.world.pair[0].get());
    }

    fn look(&self) {
        let [first, second] = &self.world.pair;
        assert_eq!(first.get(), second.get(), "half-written");
    }

    fn read_for(&self, timeout: Duration) -> Result<usize, LockFailure> {
        self.read_as(&self.raw(), timeout)
    }

    fn read_as(&self, raw: &Raw<'_, Door<'_>, View, Place>, timeout: Duration) -> Result<usize, LockFailure> {
        let place = match raw.read(timeout)? {
            Entry::Granted(place) => place,
            Entry::Orphaned(()) => {
                self.repair();
                raw.downgrade(())
            }
        };
        self.look();
        self.life.step();
        self.look();
        let word = self.world.readers.get(place).unwrap_or(&self.world.writer).load(Ordering::Relaxed);
        assert!(Occupant::from_bits(word).is(raw.me), "another one has its place");
        Ok(place)
    }

    fn leave(&self, place: usize) {
        self.raw().leave(place);
    }

    fn write_for(&self, timeout: Duration) -> Result<(), LockFailure> {
        if let Entry::Orphaned(()) = self.raw().write(timeout)? {
            self.repair();
        }
        self.look();
        Ok(())
    }

    /// Changes what is guarded: half of it, and then the other half.
    fn raise(&self) {
        for number in &self.world.pair {
            number.set(number.get() + 1);
            self.life.step();
        }
    }

    fn end_write(&self) {
        if self.world.mistake == Mistake::TakenBackLate {
            self.raw().gate.open(());
            self.writer.put(Occupant::NOBODY);
            return;
        }
        self.raw().end_write(());
    }

    pub(super) fn read(&self) {
        let place = self.read_for(PATIENCE).unwrap();
        self.leave(place);
    }

    pub(super) fn read_twice(&self) {
        let first = self.read_for(PATIENCE).unwrap();
        let other = if self.world.mistake == Mistake::WaitToReadAgain { self.raw_of(2) } else { self.raw() };
        let second = self.read_as(&other, PATIENCE).unwrap();
        self.leave(first);
        self.look();
        other.leave(second);
    }

    pub(super) fn write(&self) {
        self.write_for(PATIENCE).unwrap();
        self.raise();
        self.end_write();
    }

    /// Writes, and goes on as a reader.
    pub(super) fn read_on(&self) {
        self.write_for(PATIENCE).unwrap();
        self.raise();
        let place = if self.world.mistake == Mistake::DowngradeOpensFirst {
            self.raw().gate.open(());
            self.writer.put(self.raw().me.reading().bits());
            self.readers.len()
        } else {
            self.raw().downgrade(())
        };
        self.look();
        self.leave(place);
    }

    /// Leaves what the dead may have left half-written to the next one.
    pub(super) fn leave_orphaned(&self) {
        match self.raw().write(PATIENCE).unwrap() {
            Entry::Granted(()) => self.end_write(),
            Entry::Orphaned(()) => {
                self.world.told.fetch_add(1, Ordering::Relaxed);
                self.world.orphans.fetch_add(1, Ordering::Relaxed);
                self.lock.abandon(self.me());
            }
        }
    }

    /// Goes away if the time is up.
    pub(super) fn write_impatiently(&self) {
        match self.write_for(PATIENCE) {
            Ok(()) => {
                self.raise();
                self.end_write();
            }
            Err(failure) => assert!(failure == LockFailure::Busy && self.life.is_impatient()),
        }
    }
}
