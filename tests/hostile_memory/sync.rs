//! Locks, permits, cells, events and queues with any words in them: an answer at once, and no value from elsewhere
//!
//! One thread does a step after the other, and none waits. As long as no word has been changed behind the crate's back, what comes
//! out is what a model says; afterwards it may be any error, and any value.
//!
//! | bytes | meaning |
//! |---|---|
//! | 12 each | a [`Step`] |

use super::rest;
use arbitrary::{Arbitrary, Unstructured};
use shmem_bind::ring::{Many, Mode, Mpmc, Queue, QueueError, Receiver, Sender, Single, Spsc};
use shmem_bind::sync::{
    Condvar, Event, LockError, LockFailure, Mutex, MutexGuard, Once, OnceCell, Permit, RwLock,
    RwLockReadGuard, RwLockWriteGuard, Semaphore, WaitError,
};
use shmem_bind::{Arena, Builder, FromZeros, Tlsf, shareable};
use std::collections::VecDeque;
use std::mem::{forget, size_of};
use std::time::Duration;

const PERMITS: usize = 2;
const PLACES: usize = 4;
/// Most that is done with one input.
const MOST: usize = 200;

shareable! {
    /// One of each.
    #[repr(C)]
    pub struct Tools {
        number: RwLock<u64, 3>,
        permits: Semaphore<PERMITS>,
        cell: OnceCell<u64>,
        once: Once,
        locked: Mutex<u64>,
        changed: Condvar,
        event: Event,
        single: Spsc<u64, PLACES>,
        many: Mpmc<u64, PLACES>,
    }
}

// SAFETY: zeros are each of them.
unsafe impl FromZeros for Tools {}

const WORDS: usize = size_of::<Tools>() / 8;

thread_local! {
    static TOOLS: &'static Tools = {
        let builder = Builder::memfd().timeout(Duration::ZERO);
        let arena: Arena<Tlsf> = builder.create(64 * 1024).unwrap().0.arena().unwrap();
        // There as long as the process, which does not give it back.
        let tools = Box::leak(Box::new(arena.alloc_zeroed::<Tools>().unwrap()));
        forget(arena);
        &**tools
    };
}

pub fn run(bytes: &[u8]) {
    let steps: Vec<Step> = rest(&mut Unstructured::new(bytes));
    let tools = TOOLS.with(|tools| *tools);
    // Nobody uses it: each input gives all back that it took, or has it forgotten here.
    unsafe { (&raw const *tools).cast_mut().write_bytes(0, 1) };
    let mut world = World::new(tools);
    steps.iter().take(MOST).for_each(|step| step.make(&mut world));
    if world.is_clean {
        world.settle();
    }
}

/// Something is done; in twelve bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Step {
    what: u8,
    how: u8,
    at: u16,
    word: u64,
}

/// What this thread holds, and the model.
struct World {
    tools: &'static Tools,
    /// No word has been changed, and nothing forgotten.
    is_clean: bool,
    readers: Vec<RwLockReadGuard<'static, u64, 3>>,
    writer: Option<RwLockWriteGuard<'static, u64, 3>>,
    permits: Vec<Permit<'static>>,
    locked: Option<MutexGuard<'static, u64>>,
    single: Ends<Single>,
    many: Ends<Many>,
    value: u64,
    /// What the mutex guards.
    number: u64,
    cell: Option<u64>,
    is_called: bool,
}

/// Both ends of a queue, and what should be in it.
struct Ends<M: 'static> {
    queue: &'static Queue<u64, PLACES, M>,
    sender: Option<Sender<'static, u64, PLACES, M>>,
    receiver: Option<Receiver<'static, u64, PLACES, M>>,
    elements: VecDeque<u64>,
    is_closed: bool,
}

impl World {
    fn new(tools: &'static Tools) -> Self {
        Self {
            tools,
            is_clean: true,
            readers: Vec::new(),
            writer: None,
            permits: Vec::new(),
            locked: None,
            single: Ends::new(&tools.single),
            many: Ends::new(&tools.many),
            value: 0,
            number: 0,
            cell: None,
            is_called: false,
        }
    }

    /// An address must be that of the value.
    fn is_there(&self, value: &u64) {
        let start = (&raw const *self.tools).addr();
        assert!((start..start + size_of::<Tools>()).contains(&(&raw const *value).addr()));
    }

    /// All is to be had again, when it has been given back.
    fn settle(mut self) {
        self.readers.clear();
        self.permits.clear();
        (self.writer, self.locked) = (None, None);
        assert_eq!(*self.tools.number.try_write().unwrap(), self.value);
        assert_eq!(self.tools.permits.available(), PERMITS);
        assert_eq!(self.tools.permits.reclaim(), Ok(0));
        assert_eq!(self.tools.cell.get().copied(), self.cell);
        assert_eq!(self.tools.once.is_completed(), self.is_called);
        assert_eq!(*self.tools.locked.try_lock().unwrap(), self.number);
        self.single.settle();
        self.many.settle();
    }
}

/// What went wrong is put into words, and looked at if nothing should have gone wrong.
#[track_caller]
fn check<T, E: std::fmt::Display>(is_clean: bool, expected: bool, result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => {
            assert!(!is_clean || expected, "it should not have been had");
            Some(value)
        }
        Err(error) => {
            assert!(!is_clean || !expected, "{error}");
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

impl Step {
    fn make(self, world: &mut World) {
        // Seldom, so that much is done before and after.
        if self.what < 8 {
            return self.change_a_word(world);
        }
        match self.what % 18 {
            0 => self.read(world),
            1 => drop(world.readers.pop()),
            2 => self.write(world),
            3 => self.end_writing(world),
            4 => self.acquire(world),
            5 => drop(world.permits.pop()),
            6 => self.initialize(world),
            7 => self.lock(world),
            8 => self.wait(world),
            9 => self.listen(world),
            10 | 11 => world.single.send(self, &mut world.is_clean),
            12 | 13 => world.single.receive(self, world.is_clean),
            14 | 15 => world.many.send(self, &mut world.is_clean),
            _ => world.many.receive(self, world.is_clean),
        }
    }

    /// Half of it, or all.
    fn change_a_word(self, world: &mut World) {
        world.is_clean = false;
        let words = (&raw const *world.tools).cast::<u64>().cast_mut();
        let at = unsafe { words.add(usize::from(self.at) % WORDS) };
        let from = unsafe { words.add((self.word % WORDS as u64) as usize).read_volatile() };
        let old = unsafe { at.read_volatile() };
        let signed = i64::from(self.word as i8) as u64;
        let word = match self.how % 8 {
            0 => self.word,
            1 => old ^ 1 << (self.word % 64),
            2 => old.wrapping_add(signed),
            3 => from,
            4 => from ^ 1 << (self.word >> 16 & 63),
            5 => old & !0xffff_ffff | self.word & 0xffff_ffff,
            6 => from.rotate_left(32),
            _ => signed,
        };
        unsafe { at.write_volatile(word) };
    }

    fn read(self, world: &mut World) {
        if world.readers.len() == 6 {
            return;
        }
        let tools = world.tools;
        let result =
            if self.how & 1 == 0 { tools.number.try_read() } else { tools.number.read_for(Duration::ZERO) };
        let guard = match result {
            Err(LockError::Orphaned(orphaned)) if !world.is_clean => match self.how >> 4 & 3 {
                0 => Some(orphaned.replace(self.word)),
                1 => Some(orphaned.recover()),
                2 => None,
                _ => {
                    orphaned.give_up();
                    None
                }
            },
            result => check(world.is_clean, world.writer.is_none(), result),
        };
        if let Some(guard) = guard {
            world.is_there(&guard);
            assert!(!world.is_clean || *guard == world.value);
            world.readers.push(guard);
        }
    }

    fn write(self, world: &mut World) {
        let tools = world.tools;
        let result =
            if self.how & 1 == 0 { tools.number.try_write() } else { tools.number.write_for(Duration::ZERO) };
        let is_free = world.writer.is_none() && world.readers.is_empty();
        let guard = match result {
            Err(LockError::Orphaned(orphaned)) if !world.is_clean => match self.how >> 4 & 3 {
                0 => orphaned.replace(self.word),
                1 => orphaned.recover(),
                2 => return,
                _ => return orphaned.give_up(),
            },
            result => match check(world.is_clean, is_free, result) {
                Some(guard) => guard,
                None => return,
            },
        };
        world.is_there(&guard);
        assert!(!world.is_clean || *guard == world.value);
        let mut guard = guard;
        *guard = self.word;
        world.value = self.word;
        // If there was one already, by damage, that one ends now.
        world.writer = Some(guard);
    }

    fn end_writing(self, world: &mut World) {
        let Some(guard) = world.writer.take() else { return };
        if self.how & 1 != 0 && world.readers.len() < 6 {
            world.readers.push(RwLockWriteGuard::downgrade(guard));
        }
    }

    fn acquire(self, world: &mut World) {
        let (permits, held) = (&world.tools.permits, world.permits.len());
        if self.how & 3 == 0 {
            let available = permits.available();
            assert!(available <= PERMITS && (!world.is_clean || available == PERMITS - held));
            check(world.is_clean, true, permits.reclaim());
            return;
        }
        let result =
            if self.how & 1 == 0 { permits.acquire_for(Duration::ZERO) } else { permits.try_acquire() };
        let permit = check(world.is_clean, held < PERMITS, result);
        if held < 6 {
            world.permits.extend(permit);
        }
    }

    fn initialize(self, world: &mut World) {
        let (tools, value) = (world.tools, self.word);
        if self.how & 1 == 0 {
            if check(world.is_clean, true, tools.once.call_once_for(Duration::ZERO, || ())).is_some() {
                world.is_called = true;
            }
            let is_called = check(world.is_clean, true, tools.once.wait_for(Duration::ZERO));
            assert!(!world.is_clean || is_called == Some(world.is_called));
            return;
        }
        let is_failing = world.cell.is_none() && self.how & 6 == 0;
        let result = tools.cell.get_or_try_init_for(Duration::ZERO, || {
            if is_failing { Err(LockFailure::Busy) } else { Ok(value) }
        });
        if let Some(found) = check(world.is_clean, !is_failing, result) {
            world.is_there(found);
            assert!(!world.is_clean || *found == *world.cell.get_or_insert(value));
        }
        let found = check(world.is_clean, true, tools.cell.wait_for(Duration::ZERO));
        assert!(!world.is_clean || found.map(|found| found.copied()) == Some(world.cell));
    }

    fn lock(self, world: &mut World) {
        if self.how & 1 == 0 {
            world.locked = None;
            return;
        }
        match world.tools.locked.try_lock() {
            Err(LockError::Orphaned(orphaned)) if !world.is_clean => match self.how >> 4 & 3 {
                0 => world.locked = Some(orphaned.replace(self.word)),
                1 => world.locked = Some(orphaned.recover()),
                2 => drop(orphaned),
                _ => orphaned.give_up(),
            },
            result => {
                if let Some(mut guard) = check(world.is_clean, world.locked.is_none(), result) {
                    world.is_there(&guard);
                    assert!(!world.is_clean || *guard == world.number);
                    *guard = self.word;
                    world.number = self.word;
                    world.locked = Some(guard);
                }
            }
        }
    }

    fn wait(self, world: &mut World) {
        match self.how % 4 {
            0 => world.tools.changed.notify_one(),
            1 => world.tools.changed.notify_all(),
            _ => {}
        }
        let Some(guard) = world.locked.take() else { return };
        match world.tools.changed.wait_for(guard, self.moment()) {
            Ok((guard, result)) => {
                assert!(!world.is_clean || result.timed_out(), "nobody has notified");
                world.locked = Some(guard);
            }
            Err(WaitError::Orphaned { orphaned, .. }) if !world.is_clean => {
                world.locked = Some(orphaned.recover());
            }
            Err(error) => drop(check(world.is_clean, true, Err::<(), _>(error))),
        }
    }

    /// Mostly no time at all.
    fn moment(self) -> Duration {
        Duration::from_nanos(if self.how & 0xf0 == 0xf0 { 1 } else { 0 })
    }

    fn listen(self, world: &mut World) {
        let event = &world.tools.event;
        let since = event.listen();
        let has_happened = self.how & 3 != 0;
        match self.how & 3 {
            0 => {}
            1 => event.notify_one(),
            _ => event.notify_all(),
        }
        let found = check(world.is_clean, true, event.wait(since, self.moment()));
        assert!(!world.is_clean || found == Some(has_happened));
    }
}

impl<M: Mode> Ends<M> {
    fn new(queue: &'static Queue<u64, PLACES, M>) -> Self {
        Self { queue, sender: None, receiver: None, elements: VecDeque::new(), is_closed: false }
    }

    /// Whether it was given, or refused, as expected.
    #[track_caller]
    fn check<T>(
        is_clean: bool,
        expected: Result<(), QueueError>,
        result: Result<T, QueueError>,
    ) -> Option<T> {
        if is_clean {
            assert_eq!(result.as_ref().map(|_| ()), expected.as_ref().copied());
        }
        result.ok()
    }

    fn look(&self, is_clean: bool) {
        let len = self.queue.len();
        assert!(len <= PLACES);
        if is_clean {
            assert_eq!(len, self.elements.len());
            assert_eq!((self.queue.is_empty(), self.queue.is_closed()), (len == 0, self.is_closed));
        }
    }

    fn send(&mut self, step: Step, is_clean: &mut bool) {
        if self.sender.is_none() {
            self.sender = Self::check(*is_clean, Ok(()), self.queue.sender());
        }
        self.look(*is_clean);
        let Some(sender) = &mut self.sender else { return };
        let expected = match self.elements.len() {
            _ if self.is_closed => Err(QueueError::Closed),
            PLACES => Err(QueueError::Full),
            _ => Ok(()),
        };
        match step.how % 8 {
            0 | 1 => {
                let result = sender.try_push(step.word).map_err(|unsent| {
                    assert_eq!(unsent.value, step.word);
                    unsent.error
                });
                self.elements.extend(Self::check(*is_clean, expected, result).map(|()| step.word));
            }
            2 => {
                let result = sender.push_for(step.word, step.moment()).map_err(|unsent| unsent.error);
                self.elements.extend(Self::check(*is_clean, expected, result).map(|()| step.word));
            }
            3 => {
                let values = [step.word; 3];
                let places = (PLACES - self.elements.len().min(PLACES)).min(3);
                if let Some(sent) = Self::check(*is_clean, expected, sender.push_slice(&values)) {
                    assert!(sent <= 3 && (!*is_clean || sent == places));
                    self.elements.extend(&values[..sent]);
                }
            }
            4 => {
                if let Some(mut slot) = Self::check(*is_clean, expected, sender.reserve()) {
                    slot.uninit().write(step.word);
                    // SAFETY: written just now.
                    let sent = Self::check(*is_clean, Ok(()), unsafe { slot.commit() });
                    self.elements.extend(sent.map(|()| step.word));
                }
            }
            5 => {
                if let Some(slot) = Self::check(*is_clean, expected, sender.reserve()) {
                    match step.how >> 4 {
                        // It keeps its place, of a queue for many.
                        0 => {
                            *is_clean = false;
                            forget(slot);
                        }
                        // Others pass over it, of which the model knows nothing; of one sender nothing is left.
                        1 => {
                            *is_clean &= Self::is_single();
                            drop(slot);
                        }
                        _ => {
                            let sent = slot.write(step.word).map_err(|unsent| unsent.error);
                            self.elements.extend(Self::check(*is_clean, Ok(()), sent).map(|()| step.word));
                        }
                    }
                }
            }
            6 => self.sender = None,
            _ if step.how >> 4 == 0 => {
                self.queue.close();
                self.is_closed = true;
            }
            // Another one, of a queue for one, there is not.
            _ => {
                let expected = if Self::is_single() { Err(QueueError::Taken) } else { Ok(()) };
                Self::check(*is_clean, expected, self.queue.sender());
            }
        }
    }

    fn is_single() -> bool {
        std::any::type_name::<M>() == std::any::type_name::<Single>()
    }

    fn receive(&mut self, step: Step, is_clean: bool) {
        if self.receiver.is_none() {
            self.receiver = Self::check(is_clean, Ok(()), self.queue.receiver());
        }
        self.look(is_clean);
        let Some(receiver) = &mut self.receiver else { return };
        let expected = match self.elements.front() {
            Some(_) => Ok(()),
            None if self.is_closed => Err(QueueError::Closed),
            None => Err(QueueError::Empty),
        };
        let mut received = Vec::new();
        match step.how % 6 {
            0 => received.extend(Self::check(is_clean, expected, receiver.try_pop())),
            1 => received.extend(Self::check(is_clean, expected, receiver.pop_for(step.moment()))),
            2 => {
                let most = step.at as usize % 6;
                let expected = if most == 0 { Ok(()) } else { expected };
                if let Some(all) = Self::check(is_clean, expected, receiver.drain(most)) {
                    assert!(all.len() <= most && (!is_clean || all.len() == most.min(self.elements.len())));
                    received.extend(all);
                }
            }
            3 => {
                if let Some(element) = Self::check(is_clean, expected, receiver.peek()) {
                    received.push(*element);
                    element.release();
                }
            }
            4 => {
                if let Some(element) = Self::check(is_clean, expected, receiver.peek()) {
                    received.extend(Self::check(is_clean, Ok(()), element.take()));
                }
            }
            _ => self.receiver = None,
        }
        for element in received {
            let sent = self.elements.pop_front();
            assert!(!is_clean || sent == Some(element));
        }
    }

    fn settle(&mut self) {
        (self.sender, self.receiver) = (None, None);
        let mut receiver = self.queue.receiver().unwrap();
        while let Ok(element) = receiver.try_pop() {
            assert_eq!(Some(element), self.elements.pop_front());
        }
        assert_eq!(self.elements.front(), None, "it has been lost");
    }
}
