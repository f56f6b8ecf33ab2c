//! Waiting for something to happen
//!
//! A word that counts what has happened, and on which processes sleep. Whoever waits says first that it [listens](RawEvent::listen),
//! then looks whether what it waits for is so, and if not waits for the count to change. Whoever brings that about does so
//! first, and [notifies](RawEvent::notify_one) then. Both change this one word, so one of them sees the other: either the waiter
//! sees what was brought about, or the notifier sees that there is somebody to be woken. (But for one that was not let at the word, see
//! [`listen`](RawEvent::listen).)
//!
//! # The word
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..=7 | marks | 0: nobody sleeps here; else another number for each one that begins to listen |
//! | 8..=31 | count | of notifications, from zero again after 2^24 |
//!
//! Zero is an event that never happened and that nobody waits for.
//!
//! | word | event | next | and then |
//! |---|---|---|---|
//! | count, marks | listen | count, other marks | the waiter looks whether it has to wait |
//! | the count it listened at | wait | the same | sleeps, at most for a slice, looks again |
//! | another count | wait | the same | goes on |
//! | count, 0 | notify | count + 1, 0 | |
//! | count, marks | notify all | count + 1, 0 | wakes all |
//! | count, marks | notify one | count + 1, marks | wakes one; if nobody slept, marks become 0, if they are the same still |
//!
//! Marks say that somebody may sleep. They are taken back only while the word is exactly what it was when nobody slept: who
//! began to listen since has other marks, and who listened before and does not sleep yet will not, since the count is another one.
//!
//! Nothing that the dead leave here has to be put right. No sleep is longer than a slice, and whoever has slept looks again whether what
//! it waits for is so, and not only whether anything is counted: so a notifier that is killed before it counts, or between counting and
//! waking, and a sleeper that is killed when it was woken in the place of another one, delay others by one slice. That bounds, too,
//! what comes of a count that has gone round within a sleep, of marks that have gone round between a wake and their taking back,
//! and of a wake that went to somebody who has begun to sleep since, for the kernel wakes those first who have a real-time priority.
//! A waiter may go on although another one was meant.
//!
//! # How it is checked
//!
//! In loom's models (`event/models.rs`), as the lock is.

use crate::word::Word;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use static_assertions::const_assert_eq;

const MARKS: u32 = 0xff;
const COUNT_ONE: u32 = 1 << 8;

/// The longest sleep of one who waits for something that may take for ever. Only after a death it matters.
const SLICE: Duration = Duration::from_millis(250);

/// How often others may be quicker than one who begins to listen.
const TRIES: u32 = 1 << 10;

/// Something that happens again and again.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct RawEvent<W = AtomicU32> {
    word: W,
}

const_assert_eq!(size_of::<RawEvent>(), 4);

/// How often it had happened, when somebody began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(u32);

impl RawEvent {
    pub(crate) const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }
}

impl<W: Word> RawEvent<W> {
    /// One that is made of this word.
    #[cfg(test)]
    pub(crate) const fn over(word: W) -> Self {
        Self { word }
    }

    /// Says that somebody may be going to sleep. What is looked at after this is not older than what was brought about
    /// before the last notification that is counted.
    ///
    /// If others change the word all the time this gives up: no notifier knows of it then, and it sleeps for a slice.
    pub(crate) fn listen(&self) -> Count {
        let mut word = self.word.load();
        for _ in 0..TRIES {
            let marks = match word & MARKS {
                MARKS => 1,
                marks => marks.wrapping_add(1),
            };
            // SYNC: an exchange here and one in `notify_*`: the later one sees what came before the earlier one.
            if self.word.replace(word, word & !MARKS | marks) {
                break;
            }
            word = self.word.load();
        }
        Count(word & !MARKS)
    }

    /// Whether it has happened since.
    pub(crate) fn has_happened_since(&self, since: Count) -> bool {
        self.word.load() & !MARKS != since.0
    }

    /// The time, by the clock of those who sleep.
    pub(crate) fn now(&self) -> Duration {
        self.word.now()
    }

    /// Waits until `condition` gives something, for at most `timeout`; gives that, or `None` when the time is up.
    ///
    /// The condition is asked at least once, again each time that it happens, once in a slice, and last when the time is up. Before
    /// each sleep, and before anything is written, `check` says whether one may sleep here.
    pub(crate) fn wait_until<R, E>(
        &self,
        timeout: Duration,
        check: impl FnMut() -> Result<(), E>,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<Option<R>, E> {
        // Nobody is asked to wake one who does not have to sleep.
        match condition() {
            None => self.sleep_until(timeout, check, condition),
            result => Ok(result),
        }
    }

    /// The same, by one who has just asked the condition in vain.
    pub(crate) fn sleep_until<R, E>(
        &self,
        timeout: Duration,
        mut check: impl FnMut() -> Result<(), E>,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<Option<R>, E> {
        let (mut start, mut left) = (None, timeout);
        while !left.is_zero() {
            check()?;
            let since = self.listen();
            if let Some(result) = condition() {
                return Ok(Some(result));
            }
            // Whoever waits for ever does not care for the time; and between two who answer each other, it is one who goes to sleep
            // that the other one waits for.
            if timeout != Duration::MAX {
                let now = self.word.now();
                left = timeout.saturating_sub(now.saturating_sub(*start.get_or_insert(now)));
            }
            self.sleep(since, left);
            if let Some(result) = condition() {
                return Ok(Some(result));
            }
        }
        Ok(None)
    }

    /// Sleeps until it happens, for at most `timeout`, or a slice; gives whether it has. May return at any time.
    pub(crate) fn sleep(&self, since: Count, timeout: Duration) -> bool {
        let word = self.word.load();
        if word & !MARKS == since.0 && !timeout.is_zero() {
            // Marks of zero would be damage, or have gone round: then one sleeps for as long as that lasts, and looks again.
            self.word.wait(word, timeout.min(SLICE));
        }
        self.has_happened_since(since)
    }

    /// Whether somebody may sleep here, or is going to. Asked after what was brought about, with a fence in between as there is one between
    /// listening and looking.
    #[inline]
    pub(crate) fn is_listened_to(&self) -> bool {
        self.word.load() & MARKS != 0
    }

    /// Counts it, and wakes one who sleeps.
    pub(crate) fn notify_one(&self) {
        let word = self.count();
        if word & MARKS != 0 && self.word.wake_one() == 0 {
            // Nobody slept; if it fails somebody has begun to listen since, or it has happened again.
            let _: bool = self.word.replace(word, word & !MARKS);
        }
    }

    /// Counts it, and wakes all who sleep.
    pub(crate) fn notify_all(&self) {
        let word = self.count();
        if word & MARKS != 0 {
            self.word.wake_all();
            let _: bool = self.word.replace(word, word & !MARKS);
        }
    }

    /// Gives the word with this one counted.
    fn count(&self) -> u32 {
        // SYNC: with `listen`.
        self.word.add(COUNT_ONE).wrapping_add(COUNT_ONE)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod models;
#[cfg(test)]
mod tests;
