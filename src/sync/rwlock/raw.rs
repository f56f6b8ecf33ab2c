//! How readers and writers let each other in
//!
//! Whoever writes holds a lock, the gate, from before it waits for the readers until it has written. Each reader has a place, a word
//! that says [who](super::occupant) is there.
//!
//! | who | does | and then |
//! |---|---|---|
//! | a reader, the gate open | takes a place, looks at the gate again | open: it reads; closed: gives the place back |
//! | a reader, the gate closed | has a place already: one guard more in it | it reads; no writer is in, for it would wait for that place |
//! | | else takes the gate, a place, and opens the gate | it reads |
//! | | but does not wait for its own thread, which reads by another attachment | `Deadlock` |
//! | a reader that leaves | gives its place back, looks at the gate | closed: notifies whoever waits for places |
//! | a writer | takes the gate, waits until every place is nobody's or a dead one's, and says so meanwhile | its turn has come |
//! | | says in its own place that it writes | it writes |
//! | a writer that leaves | takes that back | opens the gate |
//! | a writer that goes on as a reader | says in its own place that it reads | opens the gate |
//!
//! - **Nobody reads while somebody writes.** A reader takes its place and looks at the gate then, a writer takes the gate and
//!   looks at the places then. Of two who do so at a time one at least sees the other, by the order of [`Look`].
//! - **Nobody sleeps for ever.** By the same order a reader that gives its place back sees the gate of a writer that still saw it there.
//! - **The dead hold nobody up.** Their places are taken from them by a compare-and-swap on exactly the word that they left, and the
//!   gate by the next one who wants it.
//! - **A value that may be half-written is not taken for a value.** A writer says that it writes before the first of its stores, and
//!   takes that back after the last; in between it has the gate. So whoever takes the gate finds that said only of the dead, and readers who
//!   find the gate open find it never.
//! - Readers do not keep writers out for ever, since they find the gate closed as soon as somebody waits to write.
//!
//! That a writer waits is said for those only whose thread reads by another attachment, and so would wait for itself. Beside the name in
//! the gate there stands the same name then, so what a dead one has said says nothing of who has the gate now. A moment too late is no
//! harm, since those look again; all others need not know whether it is a writer or a reader that has the gate.
//!
//! The place of the writer is one more than those of readers, so that one who goes on as a reader always has one: it was
//! nobody's when this one came to write.

use super::occupant::Occupant;
use crate::error::LockFailure;
use crate::event::RawEvent;
use crate::lock::{Holder, spin};
#[cfg(doc)]
use crate::word::Look;
use crate::word::{Ordered, Word};
use core::time::Duration;

/// The longest sleep of one who waits for others to leave, after which it looks whether these are dead.
pub(super) const SLICE: Duration = Duration::from_millis(20);

/// The lock that writers hold, as one thread sees it, and what that knows of the others.
pub(super) trait Gate {
    type Held: Copy;
    /// Looks at others before the first sleep.
    const SPINS: u32;

    /// Whether nobody holds it, after what this thread has just changed; as [`Look::look`].
    fn is_open(&self) -> bool;
    /// As [`Look::fence`].
    fn fence(&self);
    /// Takes it from nobody or the dead, or after waiting.
    fn close(&self, timeout: Duration) -> Result<Self::Held, LockFailure>;
    fn open(&self, held: Self::Held);
    /// Says, by the one who has it, whether that waits to write.
    fn say(&self, is_waiting: bool);
    /// Whether somebody alive has it who waits to write.
    fn is_awaited(&self) -> bool;
    /// Whether that attachment has certainly ended.
    fn is_gone(&self, holder: Holder) -> bool;
    /// Whether it is one of this process's.
    fn is_ours(&self, holder: Holder) -> bool;
    fn now(&self) -> Duration;
}

/// What comes of asking: it is granted; or the gate is closed now, and the value may be half-written.
#[derive(Debug)]
pub(super) enum Entry<R, H> {
    Granted(R),
    Orphaned(H),
}

/// A lock for readers and writers, as one thread sees it.
#[derive(Debug)]
pub(super) struct Raw<'a, G, W, P> {
    pub(super) gate: G,
    /// This thread.
    pub(super) me: Occupant,
    /// The reader's place to look at first.
    pub(super) first: usize,
    /// Happens when a reader leaves while the gate is closed.
    pub(super) left: &'a RawEvent<W>,
    pub(super) readers: &'a [P],
    pub(super) writer: &'a P,
}

/// How long somebody waits.
struct Patience<'a, G> {
    gate: &'a G,
    timeout: Duration,
    start: Duration,
}

impl<'a, G: Gate> Patience<'a, G> {
    fn new(gate: &'a G, timeout: Duration) -> Self {
        let is_fixed = timeout.is_zero() || timeout == Duration::MAX;
        Self { gate, timeout, start: if is_fixed { Duration::ZERO } else { gate.now() } }
    }

    fn left(&self) -> Duration {
        if self.timeout.is_zero() || self.timeout == Duration::MAX {
            return self.timeout;
        }
        self.timeout.saturating_sub(self.gate.now().saturating_sub(self.start))
    }
}

/// Whether this is the word of a writer's place that says that somebody writes, or has died over it.
pub(super) const fn is_written(word: u64) -> bool {
    word != Occupant::NOBODY && Occupant::from_bits(word).guards() == 0
}

impl<G: Gate, W: Word, P: Ordered> Raw<'_, G, W, P> {
    /// Comes to read; gives which place it has.
    #[inline]
    pub(super) fn read(&self, timeout: Duration) -> Result<Entry<usize, G::Held>, LockFailure> {
        match self.enter() {
            Some(place) => Ok(Entry::Granted(place)),
            None => self.read_contended(timeout),
        }
    }

    #[cold]
    fn read_contended(&self, timeout: Duration) -> Result<Entry<usize, G::Held>, LockFailure> {
        let patience = Patience::new(&self.gate, timeout);
        if let Some(place) = self.enter_again() {
            return Ok(Entry::Granted(place));
        }
        let is_in = self.is_in();
        if is_in && (self.gate.is_awaited() || self.has_all()) {
            return Err(LockFailure::Deadlock);
        }
        let mut entered = None;
        let mut enter = || {
            entered = self.enter();
            entered.is_some()
        };
        // Mostly it is another reader that has the gate, for a moment.
        if !timeout.is_zero() && spin(G::SPINS, &mut enter) {
            return entered.map(Entry::Granted).ok_or(LockFailure::Busy);
        }
        let held = self.close_to_read(is_in, &patience)?;
        if is_written(self.writer.load()) {
            return Ok(Entry::Orphaned(held));
        }
        let place = self.take_closed(&patience);
        self.gate.open(held);
        place.map(Entry::Granted)
    }

    /// Takes the gate. A writer that takes it first waits for what this thread has by another attachment, if it `is_in`.
    fn close_to_read(&self, is_in: bool, patience: &Patience<'_, G>) -> Result<G::Held, LockFailure> {
        loop {
            let left = patience.left();
            let slice = if is_in { left.min(SLICE) } else { left };
            match self.gate.close(slice) {
                Err(LockFailure::Busy) if is_in && self.gate.is_awaited() => {
                    return Err(LockFailure::Deadlock);
                }
                Err(LockFailure::Busy) if slice < left => {}
                result => return result,
            }
        }
    }

    /// Comes to read if nobody writes or wants to, and there is a place.
    #[inline]
    fn enter(&self) -> Option<usize> {
        // Else a place taken for a moment would hold a writer up.
        if !self.gate.is_open() {
            return None;
        }
        let (place, is_first) = match self.readers.get(self.first) {
            // Mostly.
            Some(place) if self.take_free(place) => (self.first, true),
            _ => self.take()?,
        };
        // SYNC: with the fence in `drain`.
        if !is_first || self.gate.is_open() {
            return Some(place);
        }
        self.back_out(place);
        None
    }

    #[cold]
    #[inline(never)]
    fn back_out(&self, place: usize) {
        self.leave(place);
    }

    #[inline]
    fn take_free(&self, place: &P) -> bool {
        place.load() == Occupant::NOBODY && place.replace(Occupant::NOBODY, self.me.reading().bits())
    }

    /// Takes a place that is nobody's; or this thread's already, which is in then. Gives which, and whether it is the first guard there.
    #[cold]
    #[inline(never)]
    fn take(&self) -> Option<(usize, bool)> {
        self.starting_at_first().find_map(|(index, place)| {
            let is_first = self.take_free(place);
            (is_first || self.add_guard(place, place.load())).then_some((index, is_first))
        })
    }

    /// One guard more where this thread has some.
    fn add_guard(&self, place: &P, word: u64) -> bool {
        let occupant = Occupant::from_bits(word);
        if !occupant.is(self.me) || occupant.guards() == 0 {
            return false;
        }
        // Nobody else changes it, unless it is damage.
        occupant.with_one_more().is_some_and(|more| place.replace(word, more.bits()))
    }

    fn starting_at_first(&self) -> impl Iterator<Item = (usize, &P)> {
        let all = self.readers.iter().enumerate();
        all.clone().skip(self.first).chain(all.take(self.first))
    }

    fn all(&self) -> impl Iterator<Item = &P> {
        self.readers.iter().chain([self.writer])
    }

    /// Comes to read where this thread reads already.
    fn enter_again(&self) -> Option<usize> {
        self.all().position(|place| self.add_guard(place, place.load()))
    }

    /// Whether all places are nobody's.
    #[inline]
    fn is_empty(&self) -> bool {
        // Mostly they are, so no word is looked at by itself.
        self.readers.iter().fold(self.writer.load(), |all, place| all | place.load()) == Occupant::NOBODY
    }

    /// Whether this thread reads, by whichever attachment.
    #[inline]
    fn is_in(&self) -> bool {
        !self.is_empty() && self.is_among_them()
    }

    #[cold]
    fn is_among_them(&self) -> bool {
        self.all().any(|place| self.is_own(place))
    }

    /// Whether this thread has all places for readers. It does not give one back while it waits for one.
    fn has_all(&self) -> bool {
        self.readers.iter().all(|place| self.is_own(place))
    }

    /// Whether this thread reads there, by whichever attachment.
    fn is_own(&self, place: &P) -> bool {
        let occupant = Occupant::from_bits(place.load());
        occupant.guards() != 0
            && occupant.has_thread_of(self.me)
            && occupant.holder().is_some_and(|holder| self.gate.is_ours(holder))
    }

    /// Takes a place, from the dead if need be, and waits for one. The gate is closed.
    fn take_closed(&self, patience: &Patience<'_, G>) -> Result<usize, LockFailure> {
        if let Some((place, _)) = self.take() {
            return Ok(place);
        }
        // SYNC: between the gate and the places; with `leave`.
        self.gate.fence();
        loop {
            // Before the look, so that the last one is when the time is up.
            let left = patience.left();
            let since = self.left.listen();
            let mut is_damaged = true;
            for (index, place) in self.starting_at_first() {
                let word = place.load();
                let is_free = match Occupant::from_bits(word).holder() {
                    _ if word == Occupant::NOBODY => true,
                    Some(holder) => self.gate.is_gone(holder),
                    None => continue,
                };
                is_damaged = false;
                if is_free && place.replace(word, self.me.reading().bits()) {
                    return Ok(index);
                }
            }
            if is_damaged {
                return Err(LockFailure::Damaged);
            }
            if left.is_zero() {
                return Err(LockFailure::Busy);
            }
            self.left.sleep(since, left.min(SLICE));
        }
    }

    /// Gives a guard back that is in this place.
    #[inline]
    pub(super) fn leave(&self, place: usize) {
        let place = self.readers.get(place).unwrap_or(self.writer);
        // Mostly it is the only one.
        if !place.replace(self.me.reading().bits(), Occupant::NOBODY) && !self.leave_one_of_several(place) {
            return;
        }
        // SYNC: with the fences in `drain` and `take_closed`.
        if !self.gate.is_open() {
            self.left.notify_one();
        }
    }

    /// Gives whether it was the last one.
    #[cold]
    #[inline(never)]
    fn leave_one_of_several(&self, place: &P) -> bool {
        let word = place.load();
        let occupant = Occupant::from_bits(word);
        // Another's word means damage: then it is not ours to give back.
        occupant.is(self.me)
            && occupant.guards() != 0
            && place.replace(word, occupant.without_one())
            && occupant.guards() == 1
    }

    /// Comes to write.
    #[inline]
    pub(super) fn write(&self, timeout: Duration) -> Result<Entry<G::Held, G::Held>, LockFailure> {
        if self.is_in() {
            return Err(LockFailure::Deadlock);
        }
        let patience = Patience::new(&self.gate, timeout);
        let held = self.gate.close(patience.left())?;
        if is_written(self.writer.load()) {
            return Ok(Entry::Orphaned(held));
        }
        if let Err(failure) = self.drain(&patience) {
            self.gate.open(held);
            return Err(failure);
        }
        self.writer.put(self.me.bits());
        Ok(Entry::Granted(held))
    }

    /// Waits until nobody is in. The gate is closed.
    #[inline]
    fn drain(&self, patience: &Patience<'_, G>) -> Result<(), LockFailure> {
        // SYNC: between the gate and the places; with `enter` and `leave`.
        self.gate.fence();
        if self.is_empty() { Ok(()) } else { self.await_all(patience) }
    }

    #[cold]
    fn await_all(&self, patience: &Patience<'_, G>) -> Result<(), LockFailure> {
        self.gate.say(true);
        let result = self.all().try_for_each(|place| match place.load() {
            Occupant::NOBODY => Ok(()),
            _ => self.await_leave(place, patience),
        });
        self.gate.say(false);
        result
    }

    fn await_leave(&self, place: &P, patience: &Patience<'_, G>) -> Result<(), LockFailure> {
        if !patience.timeout.is_zero() && spin(G::SPINS, || place.load() == Occupant::NOBODY) {
            return Ok(());
        }
        loop {
            // Before the look, so that the last one is when the time is up.
            let left = patience.left();
            let since = self.left.listen();
            let word = place.load();
            if word == Occupant::NOBODY {
                return Ok(());
            }
            let holder = Occupant::from_bits(word).holder().ok_or(LockFailure::Damaged)?;
            if self.gate.is_gone(holder) && place.replace(word, Occupant::NOBODY) {
                return Ok(());
            }
            if left.is_zero() {
                return Err(LockFailure::Busy);
            }
            self.left.sleep(since, left.min(SLICE));
        }
    }

    /// Gives back what was had for writing; the value is whole.
    #[inline]
    pub(super) fn end_write(&self, held: G::Held) {
        self.writer.put(Occupant::NOBODY);
        self.gate.open(held);
    }

    /// Goes on as a reader; gives its place. The value is whole.
    #[inline]
    pub(super) fn downgrade(&self, held: G::Held) -> usize {
        self.writer.put(self.me.reading().bits());
        self.gate.open(held);
        self.readers.len()
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod models;
