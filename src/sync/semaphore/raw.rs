//! How permits are taken and given back
//!
//! Each permit is a word: nobody's, or the name of the attachment that has it, as in the words of locks. So that it is taken and by whom is
//! one compare-and-swap, and so is taking it over from one that is certainly gone: on exactly the word that this one left. A permit
//! protects nothing that could be half-changed, so nobody needs to be told.
//!
//! | word | event | next | and then |
//! |---|---|---|---|
//! | nobody | acquire | me | |
//! | another, alive | acquire | the same | looks at the next one; all are looked at: sleeps, looks again |
//! | another, certainly gone | acquire, reclaim | me, nobody | |
//! | none that a permit can have | acquire, reclaim | the same | passed over; all are so: `Damaged` |
//! | me | release | nobody | wakes one who sleeps |
//!
//! Whoever sleeps has listened first and looked at all words then, and whoever gives one back notifies after that, so nobody sleeps for
//! want of a wake ([`event`](crate::event)). The dead wake nobody: whoever sleeps looks whether the others are dead each 20 ms.

use crate::event::RawEvent;
use crate::lock::{Holder, LockError, Roll, spin};
use crate::word::Word;
use core::time::Duration;

/// The longest sleep, after which the holders are looked at again.
pub(super) const SLICE: Duration = Duration::from_millis(20);

const NOBODY: u32 = 0;

/// The permits, and what happens when one of them is given back.
#[derive(Debug)]
pub(super) struct Permits<'a, W> {
    pub(super) words: &'a [W],
    pub(super) given_back: &'a RawEvent<W>,
}

impl<W: Word> Permits<'_, W> {
    /// Takes a permit, the one at `first` if that can be; gives which. Waits for at most `timeout` while those alive have all.
    #[inline]
    pub(super) fn acquire(
        &self,
        me: Holder,
        first: usize,
        roll: &dyn Roll,
        timeout: Duration,
    ) -> Result<usize, LockError> {
        match self.take_free(me, first) {
            Some(index) => Ok(index),
            None => self.acquire_contended(me, first, roll, timeout),
        }
    }

    #[cold]
    fn acquire_contended(
        &self,
        me: Holder,
        first: usize,
        roll: &dyn Roll,
        timeout: Duration,
    ) -> Result<usize, LockError> {
        let mut taken = None;
        let mut take = || {
            taken = self.take_free(me, first);
            taken.is_some()
        };
        if !timeout.is_zero() && spin(W::SPINS, &mut take) {
            return taken.ok_or(LockError::Busy);
        }
        let start = self.given_back.now();
        loop {
            // Before the look, so that the last one is when the time is up.
            let left = timeout.saturating_sub(self.given_back.now().saturating_sub(start));
            let since = self.given_back.listen();
            if let Some(index) = self.take_free(me, first).or_else(|| self.take_over(me, first, roll)) {
                return Ok(index);
            }
            if !self.words.iter().any(is_a_permit) {
                return Err(LockError::Damaged);
            }
            if left.is_zero() {
                return Err(LockError::Busy);
            }
            self.given_back.sleep(since, left.min(SLICE));
        }
    }

    #[inline]
    fn from(&self, first: usize) -> impl Iterator<Item = (usize, &W)> {
        let all = self.words.iter().enumerate();
        all.clone().skip(first).chain(all.take(first))
    }

    #[inline]
    fn take_free(&self, me: Holder, first: usize) -> Option<usize> {
        self.from(first)
            .find(|(_, word)| word.load() == NOBODY && word.replace(NOBODY, me.bits()))
            .map(|(index, _)| index)
    }

    /// Takes a permit of the dead.
    fn take_over(&self, me: Holder, first: usize, roll: &dyn Roll) -> Option<usize> {
        let mut alive = None;
        self.from(first)
            .find(|(_, word)| {
                gone(*word, roll, &mut alive).is_some_and(|holder| word.replace(holder.bits(), me.bits()))
            })
            .map(|(index, _)| index)
    }

    /// Gives back the permits of the dead; gives how many these were.
    pub(super) fn reclaim(&self, roll: &dyn Roll) -> usize {
        let mut alive = None;
        let is_reclaimed = |word: &&W| {
            gone(*word, roll, &mut alive).is_some_and(|holder| word.replace(holder.bits(), NOBODY))
        };
        let count = self.words.iter().filter(is_reclaimed).count();
        (0..count).for_each(|_| self.given_back.notify_one());
        count
    }

    /// Gives a permit back.
    #[inline]
    pub(super) fn release(&self, index: usize, me: Holder) {
        // Another word than ours means damage: then it is not ours to give back.
        if self.words.get(index).is_some_and(|word| word.replace(me.bits(), NOBODY)) {
            self.given_back.notify_one();
        }
    }

    /// How many are nobody's.
    pub(super) fn available(&self) -> usize {
        self.words.iter().filter(|word| word.load() == NOBODY).count()
    }
}

/// Whether it is the word of a permit that somebody may come to have.
fn is_a_permit<W: Word>(word: &W) -> bool {
    let word = word.load();
    word == NOBODY || named(word).is_some()
}

/// The attachment that a word names, all of it.
fn named(word: u32) -> Option<Holder> {
    Holder::from_word(word).filter(|holder| holder.bits() == word)
}

/// The holder of a permit, if it has certainly ended. One that was found alive just now is not asked for again.
fn gone<W: Word>(word: &W, roll: &dyn Roll, alive: &mut Option<Holder>) -> Option<Holder> {
    let holder = named(word.load()).filter(|holder| Some(*holder) != *alive)?;
    if roll.is_gone(holder) {
        return Some(holder);
    }
    *alive = Some(holder);
    None
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod models;
