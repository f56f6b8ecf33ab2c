//! What is made of locks and events, model-checked
//!
//! A lock and an event and the processes that use them, over the machine of words (`word/machine.rs`). What the lock and the
//! event do by themselves their own models show; here it is what they do together.

mod condvar;
mod once;

use crate::event::RawEvent;
use crate::lock::{Acquired, Holder, RawLock, Roll};
use crate::membership::Slot;
use crate::word::machine::{Fate, Kernel, Life, PROCESSES, View};
use core::array::from_fn;
use core::time::Duration;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use std::rc::Rc;

/// As long as it takes: the time of a process never passes.
const PATIENCE: Duration = Duration::from_millis(20);

/// What all the processes of a model share, and something of its own.
#[derive(Debug)]
struct World<S> {
    kernel: Rc<Kernel>,
    lock: Rc<AtomicU32>,
    event: Rc<AtomicU32>,
    graves: Graves,
    own: S,
}

/// Who is dead, by process.
#[derive(Debug)]
struct Graves([AtomicBool; PROCESSES]);

impl Roll for Graves {
    fn is_gone(&self, holder: Holder) -> bool {
        // SYNC: Release in `start`: who learns of a death from the kernel sees all that came before.
        self.0[holder.slot().unwrap().index()].load(Ordering::Acquire)
    }
}

/// A process, which has the slot of its own number.
#[derive(Debug)]
struct Process<S> {
    world: Rc<World<S>>,
    life: Rc<Life>,
    me: Holder,
    lock: RawLock<View>,
    event: RawEvent<View>,
}

impl<S: 'static> World<S> {
    fn new(own: S) -> Rc<Self> {
        let word = || Rc::new(AtomicU32::new(0));
        let graves = Graves(from_fn(|_| AtomicBool::new(false)));
        Rc::new(Self { kernel: Kernel::new(), lock: word(), event: word(), graves, own })
    }

    fn process(self: &Rc<Self>, number: usize, fate: Fate) -> Process<S> {
        let life = Life::new(&self.kernel, number, fate);
        let [lock, event] = [&self.lock, &self.event].map(|word| View::new(word, &life));
        let me = Holder::new(Slot::new(number as u64).unwrap(), 1);
        Process { world: self.clone(), life, me, lock: RawLock::over(lock), event: RawEvent::over(event) }
    }

    fn start(
        self: &Rc<Self>,
        number: usize,
        fate: Fate,
        work: impl FnOnce(&Process<S>) + 'static,
    ) -> thread::JoinHandle<bool> {
        let process = self.process(number, fate);
        let grave = move |process: &Process<S>| process.world.graves.0[number].store(true, Ordering::Release);
        thread::spawn(move || process.life.live(|| work(&process), || grave(&process)))
    }
}

impl<S> Process<S> {
    fn lock(&self) -> Acquired {
        self.lock.lock(self.me, &self.world.graves, PATIENCE).unwrap()
    }

    fn unlock(&self) {
        self.lock.unlock(self.me);
    }
}
