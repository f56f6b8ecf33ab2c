//! A queue, and those who use it, made of loom's parts
//!
//! What a [`Sender`](crate::ring::Sender) and a [`Receiver`](crate::ring::Receiver) do, over words that each process sees through a view of its own, which counts
//! its steps (`word/machine.rs`), and makes the mistakes.

use super::super::cell::{CellState, CellWord, Cells, Outcome, Refusal, State, at, settle};
use super::super::{many, single, wait};
use crate::error::QueueError;
use crate::event::RawEvent;
use crate::lock::{Holder, Roll};
use crate::membership::Slot;
use crate::word::machine::{Fate, Kernel, Life, PROCESSES, View};
use core::array::from_fn;
use core::cell::{Cell, RefCell};
use core::time::Duration;
use loom::cell::Cell as LoomCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;
use std::rc::Rc;
use std::vec::Vec;

/// One sleep, if time passes at all.
const PATIENCE: Duration = Duration::from_millis(250);

/// A holder that nobody knows to be dead.
const SOMEBODY: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    TwoWords,
    CounterFirst,
    UnsentAsFull,
    SkippedAsFree,
    DeadReaderLeft,
    SlowIsDead,
    TellBeforeCommit,
    CommitWithoutFence,
    LookWithoutFence,
    CommitWithoutRelease,
    ReleaseBeforeRead,
    FromTheBeginning,
    ClosedInTheMiddle,
    ClosedLookedAtOnce,
    ClosedWithoutFence,
    AtEndWithoutFence,
    ClosedIsForOne,
}

/// What all the processes share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) mistake: Mistake,
    is_single: bool,
    kernel: Rc<Kernel>,
    words: Vec<Rc<AtomicU64>>,
    elements: Vec<LoomCell<u64>>,
    ends: [Rc<AtomicU64>; 2],
    events: [Rc<AtomicU32>; 2],
    is_closed: AtomicU32,
    roll: Dead,
    pub(super) received: RefCell<Vec<u64>>,
    /// What was sent for certain.
    pub(super) sent: RefCell<Vec<u64>>,
}

#[derive(Debug)]
struct Dead {
    mistake: Mistake,
    is_dead: [AtomicBool; PROCESSES],
}

impl Roll for Dead {
    fn is_gone(&self, holder: Holder) -> bool {
        let process = holder.slot().unwrap().index();
        if process == SOMEBODY {
            return false;
        }
        self.mistake == Mistake::SlowIsDead || self.is_dead[process].load(Ordering::Acquire)
    }
}

fn holder(process: usize) -> Holder {
    Holder::new(Slot::new(process as u64).unwrap(), 7)
}

/// A word of a queue as one process sees it.
#[derive(Debug)]
pub(super) struct Word {
    word: Rc<AtomicU64>,
    life: Rc<Life>,
    mistake: Mistake,
    is_cell: bool,
}

impl Word {
    fn exchange(&self, old: u64, new: u64) -> bool {
        self.life.step();
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl CellWord for Word {
    fn load(&self) -> u64 {
        self.life.step();
        self.word.load(Ordering::Acquire)
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        if !self.is_cell {
            return self.exchange(old, new);
        }
        let (was, is) = (CellState::from_bits(old), CellState::from_bits(new));
        match (self.mistake, was.state(), is.state()) {
            (Mistake::TwoWords, _, Some(State::Writing(_))) => {
                let locked = CellState::new(is.lap(), State::Writing(holder(SOMEBODY))).bits();
                self.exchange(old, locked) && self.exchange(locked, new)
            }
            (Mistake::UnsentAsFull, Some(State::Writing(_)), Some(State::Free)) => {
                self.exchange(old, CellState::new(was.lap(), State::Full).bits())
            }
            _ => self.exchange(old, new),
        }
    }

    fn store(&self, new: u64) {
        self.life.step();
        let order = match self.mistake {
            Mistake::CommitWithoutRelease => Ordering::Relaxed,
            _ => Ordering::Release,
        };
        self.word.store(new, order);
    }

    fn publish(&self, new: u64) {
        let state = CellState::from_bits(new);
        if self.mistake == Mistake::SkippedAsFree && state.state() == Some(State::Skipped) {
            self.store(CellState::new(state.lap().next(), State::Free).bits());
        } else {
            self.store(new);
        }
        if self.mistake != Mistake::CommitWithoutFence {
            fence(Ordering::SeqCst);
        }
    }
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) world: Rc<World>,
    pub(super) life: Rc<Life>,
    words: Vec<Word>,
    ends: [Word; 2],
    not_empty: RawEvent<View>,
    not_full: RawEvent<View>,
    /// Of a role.
    pub(super) position: Cell<u64>,
}

impl Cells for Process {
    type Word = Word;

    fn len_log(&self) -> u32 {
        self.words.len().trailing_zeros()
    }

    fn word(&self, index: u64) -> Option<&Word> {
        self.words.get(index as usize & (self.words.len() - 1))
    }

    fn tail(&self) -> &Word {
        &self.ends[0]
    }

    fn head(&self) -> &Word {
        &self.ends[1]
    }
}

impl World {
    pub(super) fn new(is_single: bool, cells: usize, mistake: Mistake) -> Rc<Self> {
        Rc::new(Self {
            mistake,
            is_single,
            kernel: Kernel::new(),
            words: (0..cells).map(|_| Rc::new(AtomicU64::new(0))).collect(),
            elements: (0..cells).map(|_| LoomCell::new(0)).collect(),
            ends: from_fn(|_| Rc::new(AtomicU64::new(0))),
            events: from_fn(|_| Rc::new(AtomicU32::new(0))),
            is_closed: AtomicU32::new(0),
            roll: Dead { mistake, is_dead: from_fn(|_| AtomicBool::new(false)) },
            received: RefCell::new(Vec::new()),
            sent: RefCell::new(Vec::new()),
        })
    }

    pub(super) fn process(self: &Rc<Self>, number: usize, fate: Fate) -> Process {
        let life = Life::new(&self.kernel, number, fate);
        let mistake = self.mistake;
        let word =
            |word: &Rc<AtomicU64>, is_cell| Word { word: word.clone(), life: life.clone(), mistake, is_cell };
        let event = |index: usize| RawEvent::over(View::new(&self.events[index], &life));
        Process {
            words: self.words.iter().map(|cell| word(cell, true)).collect(),
            ends: from_fn(|index| word(&self.ends[index], false)),
            not_empty: event(0),
            not_full: event(1),
            position: Cell::new(0),
            world: self.clone(),
            life,
        }
    }

    /// Starts a process; its thread gives whether it died.
    pub(super) fn start(
        self: &Rc<Self>,
        number: usize,
        fate: Fate,
        work: impl FnOnce(&Process) + 'static,
    ) -> thread::JoinHandle<bool> {
        let process = self.process(number, fate);
        thread::spawn(move || {
            let bury = || process.world.roll.is_dead[number].store(true, Ordering::Release);
            process.life.live(|| work(&process), bury)
        })
    }

    /// What was received, and what the last one finds, in numbers of which each stands for one element.
    pub(super) fn conclude(self: &Rc<Self>) -> Vec<u64> {
        let last = self.process(3, Fate::LIVES);
        if self.is_single {
            last.take_role(single::find_head);
        }
        while let Some(element) = last.try_receive() {
            self.received.borrow_mut().push(element);
        }
        // Whatever was left, all places are to be had.
        if self.is_single {
            last.take_role(single::find_tail);
        }
        for element in 0..self.words.len() as u64 {
            assert!(last.try_send(100 + element), "a place is lost");
        }
        self.received.borrow().clone()
    }
}

impl Process {
    /// A fence, if this mistake is not made.
    fn fence_unless(&self, mistake: Mistake) -> fn() {
        if self.world.mistake == mistake { || {} } else { || fence(Ordering::SeqCst) }
    }

    /// That of one who waits asleep.
    fn fence(&self) -> fn() {
        self.fence_unless(Mistake::LookWithoutFence)
    }

    pub(super) fn take_role(&self, find: fn(&Self) -> Result<u64, Refusal>) {
        self.position.set(find(self).unwrap());
    }

    fn claim_to_write(&self, looks_around: bool) -> Result<u64, Refusal> {
        if self.world.is_single {
            return single::count_free(self, self.position.get(), 1).map(|_| self.position.get());
        }
        if self.world.mistake == Mistake::CounterFirst {
            let tail = self.tail().load();
            let (word, lap) = at(self, tail)?;
            if word.load() != CellState::new(lap, State::Free).bits() || !self.tail().replace(tail, tail + 1)
            {
                return Err(Refusal::NotReady);
            }
            word.store(CellState::new(lap, State::Writing(holder(self.life.process()))).bits());
            return Ok(tail);
        }
        let looks_around = looks_around && self.world.mistake != Mistake::DeadReaderLeft;
        let roll: Option<&dyn Roll> = if looks_around { Some(&self.world.roll) } else { None };
        many::claim_to_write(self, holder(self.life.process()), 1, roll).map(|run| run.start)
    }

    fn claim_to_read(&self, looks_around: bool) -> Result<u64, Refusal> {
        if self.world.is_single {
            return single::count_full(self, self.position.get(), 1).map(|_| self.position.get());
        }
        let roll: Option<&dyn Roll> = if looks_around { Some(&self.world.roll) } else { None };
        let mut given_back = 0;
        let claim = many::claim_to_read(self, holder(self.life.process()), 1, roll, &mut given_back);
        if given_back != 0 {
            self.not_full.notify_all();
        }
        claim.map(|run| run.start)
    }

    fn is_closed(&self) -> bool {
        self.life.step();
        self.world.is_closed.load(Ordering::Acquire) != 0
    }

    /// As [`Queue::close`](crate::ring::Queue::close). Loom has no `SeqCst` but in fences.
    pub(super) fn close(&self) {
        self.life.step();
        self.world.is_closed.store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        self.not_empty.notify_all();
        self.not_full.notify_all();
    }

    fn tell_receivers(&self) {
        let is_for_one = self.world.mistake == Mistake::ClosedIsForOne;
        wait::tell(&self.not_empty, 1, || !is_for_one && self.is_closed());
    }

    /// As a `Sender`.
    fn send_at(&self, position: u64, element: u64) {
        let place = &self.world.elements[position as usize % self.words.len()];
        place.set(element);
        self.life.step();
        let is_early = self.world.mistake == Mistake::TellBeforeCommit;
        if is_early {
            self.tell_receivers();
        }
        settle(self, position, Outcome::Full, true);
        self.position.set(position + 1);
        if !is_early {
            self.tell_receivers();
        }
    }

    pub(super) fn send(&self, element: u64) {
        let is_more = || !self.world.is_single && many::is_place(self);
        let claim = || self.claim_to_write(true);
        let claim = wait::asleep(&self.not_full, self.fence(), PATIENCE, claim, is_more);
        self.send_at(claim.unwrap(), element);
    }

    /// Gives whether it was sent, and not closed before.
    pub(super) fn send_while_open(&self, element: u64) -> bool {
        let is_more = || many::is_place(self);
        let mistake = self.world.mistake;
        let looks = Cell::new(0);
        let is_closed = || {
            looks.set(looks.get() + 1);
            (mistake != Mistake::ClosedLookedAtOnce || looks.get() == 1) && self.is_closed()
        };
        let fence = self.fence_unless(Mistake::ClosedWithoutFence);
        let claim = || {
            looks.set(0);
            wait::while_open(is_closed, fence, || self.claim_to_write(true), |place| self.give_up(place))
        };
        match wait::asleep(&self.not_full, self.fence(), PATIENCE, claim, is_more) {
            Err(Refusal::Other(QueueError::Closed)) => false,
            claim => {
                self.send_at(claim.unwrap(), element);
                true
            }
        }
    }

    /// Takes a place, and gives it up.
    pub(super) fn reserve_and_drop(&self) {
        let is_more = || many::is_place(self);
        let claim = || self.claim_to_write(true);
        let claim = wait::asleep(&self.not_full, self.fence(), PATIENCE, claim, is_more);
        self.give_up(claim.unwrap());
    }

    fn give_up(&self, position: u64) {
        settle(self, position, Outcome::Skipped, true);
        self.tell_receivers();
    }

    pub(super) fn try_send(&self, element: u64) -> bool {
        match self.claim_to_write(true) {
            Ok(position) => {
                self.send_at(position, element);
                true
            }
            Err(refusal) => {
                assert_eq!(refusal, Refusal::NotReady);
                false
            }
        }
    }

    /// As a `Receiver`.
    fn receive_at(&self, position: u64) -> u64 {
        let place = &self.world.elements[position as usize % self.words.len()];
        let is_early = self.world.mistake == Mistake::ReleaseBeforeRead;
        if is_early {
            settle(self, position, Outcome::Free, true);
        }
        let element = place.get();
        self.life.step();
        if !is_early {
            settle(self, position, Outcome::Free, true);
        }
        self.position.set(position + 1);
        wait::tell(&self.not_full, 1, || false);
        element
    }

    pub(super) fn receive(&self) -> u64 {
        self.receive_unless_closed().expect("it is closed")
    }

    /// `None`: nothing more comes.
    pub(super) fn receive_unless_closed(&self) -> Option<u64> {
        let is_more = || !self.world.is_single && many::is_element(self);
        let claim = || match self.claim_to_read(true) {
            Err(Refusal::Unfinished) if self.world.mistake == Mistake::ClosedInTheMiddle => {
                Err(Refusal::NotReady)
            }
            claim => claim,
        };
        let fence = self.fence_unless(Mistake::AtEndWithoutFence);
        let claim = || wait::unless_at_end(|| self.is_closed(), fence, claim);
        match wait::asleep(&self.not_empty, self.fence(), PATIENCE, claim, is_more) {
            Err(Refusal::Other(QueueError::Closed)) => None,
            claim => Some(self.receive_at(claim.unwrap())),
        }
    }

    pub(super) fn try_receive(&self) -> Option<u64> {
        match self.claim_to_read(true) {
            Ok(position) => Some(self.receive_at(position)),
            Err(refusal) => {
                assert!(refusal.may_pass(), "{refusal:?}");
                None
            }
        }
    }

    /// Receives so many, and says which.
    pub(super) fn receive_all(&self, count: usize) {
        for _ in 0..count {
            let element = self.receive();
            self.world.received.borrow_mut().push(element);
        }
    }
}
