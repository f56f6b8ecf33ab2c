//! The robust lock
//!
//! Who holds the lock and that it is locked are one word, so that no process can die between becoming the
//! holder and saying so. A lock whose holder is certainly dead is taken over by a compare-and-swap on the
//! exact word that the dead left; whoever does that is told ([`Acquired::OwnerDied`]), and has to put right
//! what the lock protects before anything else.
//!
//! # The word
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..=23 | generation | of the holder's slot, its low bits |
//! | 24..=30 | holder | 0 nobody; 1 to 56 the slot, counted from one; 127 not recoverable |
//! | 31 | WAITERS | somebody may be asleep on this word |
//!
//! Zero is a lock that nobody holds, so memory that is zero needs no initialising.
//!
//! | word | event | next | outcome |
//! |---|---|---|---|
//! | nobody | lock | me | `Clean` |
//! | another, alive | lock | the same, with WAITERS | sleeps, looks again; `Busy` at the deadline |
//! | another, certainly gone | lock | me, WAITERS kept | `OwnerDied` |
//! | not recoverable | lock | the same | `NotRecoverable` |
//! | anything else | lock | the same | `Damaged` |
//! | me | unlock | nobody | wakes one if WAITERS was set |
//! | me | give up | not recoverable | wakes all |
//! | me | abandon | the former tenant of my slot, who is gone | the next one gets `OwnerDied` |
//!
//! A holder is gone when its process is certainly dead, when its slot is nobody's, and when its generation has ended, which
//! whoever ends a tenancy says first. A generation is one of 2^24, so somebody who is stopped between finding a holder gone and the
//! compare-and-swap could take the lock from a later tenant of that slot only if it has been let so often meanwhile, and holds this
//! very lock. The other way round, the word of a dead one, or an abandoned one, that nobody has looked at while its slot was let 2^24
//! times names a living tenant, and is waited for as long as that one stays. A slot number out of range is damage, never death. Whoever
//! has slept takes the lock with WAITERS set, for there may be more sleepers; that costs one wake too many at most. Whoever has
//! slept and goes away without the lock passes on the wake that it may have had. Every sleep is short, so one that
//! dies between unlocking and waking, or between being woken and taking the lock, delays others by one sleep.
//!
//! # How it is checked
//!
//! The lock is written over a [`Word`], in whose place the tests put one of loom's (`lock/models.rs`): loom goes through the
//! interleavings of two and three processes, each of which may die before any of its steps. That nobody sleeps for ever is
//! checked with sleeps that only a wake or a death ends, so what rests on the time-out in the end shows.

use crate::membership::Slot;
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::word::{Look, Word};
use core::hint::spin_loop;
use core::mem::offset_of;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use static_assertions::const_assert_eq;

const HOLDER_SHIFT: u32 = 24;
const GENERATION_MASK: u32 = (1 << HOLDER_SHIFT) - 1;
const WAITERS: u32 = 1 << 31;
const NOT_RECOVERABLE: u32 = 127 << HOLDER_SHIFT;
const NOBODY: u32 = 0;

/// Binary logarithm of the longest pause between two looks at a lock, in turns of `spin_loop`.
const LONGEST_PAUSE_LOG: u32 = 7;

/// The longest sleep, after which the holder is looked at again.
const SLICE: Duration = Duration::from_millis(20);

/// In the build with planted mistakes: locked, and nobody has said by whom.
#[cfg(planted)]
const LOCKED: u32 = 126 << HOLDER_SHIFT;

/// A lock in shared memory; it protects what its user says, and holds no data.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawLock<W = AtomicU32> {
    word: W,
    /// Keeps the length that it has in segments.
    unused: AtomicU32,
}

impl Default for RawLock {
    fn default() -> Self {
        Self::new()
    }
}

const_assert_eq!(size_of::<RawLock>(), 8);
const_assert_eq!(align_of::<RawLock>(), 4);
const_assert_eq!(offset_of!(RawLock, word), 0);

/// An attachment as it stands in lock words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder(u32);

impl Holder {
    pub(crate) const fn new(slot: Slot, generation: u64) -> Self {
        // A slot number is at most 55.
        let holder = (slot.index() as u32).wrapping_add(1);
        Self(holder << HOLDER_SHIFT | generation as u32 & GENERATION_MASK)
    }

    /// The attachment that a word names; `None` if no attachment can be meant.
    pub(crate) const fn from_word(word: u32) -> Option<Self> {
        let index = ((word & !WAITERS) >> HOLDER_SHIFT).wrapping_sub(1);
        match Slot::new(index as u64) {
            Some(_) => Some(Self(word & !WAITERS)),
            None => None,
        }
    }

    /// The slot; `None` never happens, since only slots are made into holders.
    pub(crate) const fn slot(self) -> Option<Slot> {
        Slot::new((self.0 >> HOLDER_SHIFT).wrapping_sub(1) as u64)
    }

    /// From [`bits`](Self::bits); `None` from 0.
    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Option<Self> {
        if bits == NOBODY { None } else { Some(Self(bits)) }
    }

    /// As it stands in lock words; never 0.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether this is the tenant number `generation` of its slot.
    pub(crate) const fn has_generation(self, generation: u64) -> bool {
        self.0 & GENERATION_MASK == generation as u32 & GENERATION_MASK
    }
}

/// Knows who is attached.
pub(crate) trait Roll: Sync {
    /// Whether this attachment has certainly ended.
    fn is_gone(&self, holder: Holder) -> bool;

    /// Whether that can be said without asking the system: another one has its slot, or nobody.
    fn is_past(&self, _holder: Holder) -> bool {
        false
    }

    /// Is told that what a lock protects has been put right after its holder died, who may have held more.
    fn took_over(&self) {}
}

/// What a new holder finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Acquired {
    Clean,
    /// The former holder died: what the lock protects may be half-changed.
    OwnerDied,
}

/// What the word of a lock says.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Free,
    /// By the tenant of this slot, or a former one.
    Held(Slot),
    NotRecoverable,
    /// The word is none that a lock can have.
    Damaged,
}

/// Why a lock could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockError {
    /// A living process held it all the time.
    Busy,
    /// Somebody could not put right what a dead holder left.
    NotRecoverable,
    /// The word is none that a lock can have.
    Damaged,
}

impl RawLock {
    pub(crate) const fn new() -> Self {
        Self { word: AtomicU32::new(NOBODY), unused: AtomicU32::new(0) }
    }
}

impl<W: Word> RawLock<W> {
    /// One that is made of this word.
    #[cfg(test)]
    pub(crate) const fn over(word: W) -> Self {
        Self { word, unused: AtomicU32::new(0) }
    }

    /// Whether nobody holds the lock, dead or alive.
    pub(crate) fn is_free(&self) -> bool {
        self.word.load() & !WAITERS == NOBODY
    }

    /// The same, as it is after what this thread has just changed; see [`Look`].
    #[inline]
    pub(crate) fn is_free_now(&self) -> bool
    where
        W: Look,
    {
        self.word.look() & !WAITERS == NOBODY
    }

    /// Takes the lock if nobody holds it.
    #[inline(always)]
    pub(crate) fn try_lock(&self, me: Holder) -> bool {
        #[cfg(planted)]
        if is_planted(Mistake::LockInTwoWords) {
            return self.word.replace(NOBODY, LOCKED)
                && (self.word.replace(LOCKED, me.0) || self.word.replace(LOCKED | WAITERS, me.0 | WAITERS));
        }
        self.word.replace(NOBODY, me.0)
    }

    /// Takes the lock, waiting for at most `timeout` while somebody alive holds it. If there is no time at all, the holder
    /// is looked at once, for it may be dead.
    pub(crate) fn lock(&self, me: Holder, roll: &dyn Roll, timeout: Duration) -> Result<Acquired, LockError> {
        if self.try_lock(me) { Ok(Acquired::Clean) } else { self.lock_contended(me, roll, timeout) }
    }

    #[cold]
    fn lock_contended(&self, me: Holder, roll: &dyn Roll, timeout: Duration) -> Result<Acquired, LockError> {
        if !timeout.is_zero() && spin(W::SPINS, || self.is_free() && self.try_lock(me)) {
            return Ok(Acquired::Clean);
        }
        let start = self.word.now();
        // From the first sleep on, others may sleep too.
        let mut asleep = 0;
        loop {
            // Before the look, so that the last one is when the time is up.
            let left = timeout.saturating_sub(self.word.now().saturating_sub(start));
            let word = self.word.load();
            let is_marked = match word & !WAITERS {
                NOT_RECOVERABLE => return Err(LockError::NotRecoverable),
                NOBODY => {
                    if self.word.replace(word, me.0 | asleep | word & WAITERS) {
                        return Ok(Acquired::Clean);
                    }
                    false
                }
                _ if is_gone(word, roll)? => {
                    if self.word.replace(word, me.0 | asleep | word & WAITERS) {
                        return Ok(Acquired::OwnerDied);
                    }
                    false
                }
                _ => word & WAITERS != 0 || !left.is_zero() && self.word.replace(word, word | WAITERS),
            };
            if left.is_zero() {
                // The wake that ended the last sleep was perhaps the only one.
                if asleep != 0 {
                    let _: usize = self.word.wake_one();
                }
                return Err(LockError::Busy);
            }
            if is_marked {
                asleep = WAITERS;
                self.word.wait(word | WAITERS, left.min(SLICE));
            }
        }
    }

    /// Gives the lock back.
    #[inline(always)]
    pub(crate) fn unlock(&self, me: Holder) {
        // Nearly always.
        if !self.word.replace(me.0, NOBODY) {
            self.unlock_contended(me);
        }
    }

    #[cold]
    #[inline(never)]
    fn unlock_contended(&self, me: Holder) {
        if self.release(me, NOBODY) {
            let _: usize = self.word.wake_one();
        }
    }

    /// Says for good that what the lock protects cannot be put right.
    pub(crate) fn give_up(&self, me: Holder) {
        self.release(me, NOT_RECOVERABLE);
        self.word.wake_all();
    }

    /// Gives the lock back as one whose holder has died, for somebody else to put right what it protects.
    pub(crate) fn abandon(&self, me: Holder) {
        let generation = (me.0 & GENERATION_MASK).wrapping_sub(1) & GENERATION_MASK;
        if self.release(me, me.0 & !GENERATION_MASK | generation) {
            let _: usize = self.word.wake_one();
        }
    }

    /// Gives whether somebody may sleep.
    fn release(&self, me: Holder, next: u32) -> bool {
        // Another word than ours, with or without WAITERS, means damage: then it is not ours to give back.
        !self.word.replace(me.0, next) && self.word.replace(me.0 | WAITERS, next)
    }

    /// What the word says, for one who only looks.
    #[cfg(feature = "alloc")]
    pub(crate) fn peek(&self) -> Peek {
        match self.word.load() & !WAITERS {
            NOBODY => Peek::Free,
            NOT_RECOVERABLE => Peek::NotRecoverable,
            word => Holder::from_word(word).and_then(Holder::slot).map_or(Peek::Damaged, Peek::Held),
        }
    }

    /// Who holds the lock now, dead or alive.
    pub(crate) fn holder(&self) -> Option<Holder> {
        Holder::from_word(self.word.load())
    }
}

/// Looks so many times, each time after a longer pause; gives whether it was `done`.
///
/// A look takes the lock's cache line from the holder. If it is taken often, the two hand the lock over at each turn, with all
/// that it protects, which takes ten times as long as what most do under a lock; after a pause the holder has been through
/// several turns.
pub(crate) fn spin(looks: u32, mut done: impl FnMut() -> bool) -> bool {
    (0..looks).any(|look| {
        for _ in 0..1 << look.min(LONGEST_PAUSE_LOG) {
            spin_loop();
        }
        done()
    })
}

/// Whether the holder that a word names has certainly ended.
fn is_gone(word: u32, roll: &dyn Roll) -> Result<bool, LockError> {
    #[cfg(planted)]
    if word & !WAITERS == LOCKED && is_planted(Mistake::LockInTwoWords) {
        return Ok(false);
    }
    Ok(roll.is_gone(Holder::from_word(word).ok_or(LockError::Damaged)?))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod models;
#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use core::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    /// Attachments that are said to be gone, one bit a slot.
    struct Gone(AtomicU64);

    impl Roll for Gone {
        fn is_gone(&self, holder: Holder) -> bool {
            self.0.load(Ordering::Relaxed) >> holder.slot().unwrap().index() & 1 != 0
        }
    }

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    fn holder(index: u64) -> Holder {
        Holder::new(Slot::new(index).unwrap(), 7)
    }

    #[test]
    fn a_living_holder_keeps_others_out() {
        let (lock, roll) = (RawLock::default(), Gone(AtomicU64::new(0)));
        assert_eq!(lock.lock(holder(0), &roll, SHORT), Ok(Acquired::Clean));
        assert!(!lock.try_lock(holder(1)));
        assert_eq!(lock.lock(holder(1), &roll, SHORT), Err(LockError::Busy));
        assert_eq!(lock.holder(), Some(holder(0)));
        lock.unlock(holder(0));
        assert_eq!(lock.lock(holder(1), &roll, SHORT), Ok(Acquired::Clean));
    }

    #[test]
    fn no_time_is_enough_to_take_over_from_the_dead() {
        let (lock, roll) = (RawLock::default(), Gone(AtomicU64::new(1 << 3)));
        assert!(lock.try_lock(holder(3)));
        assert_eq!(lock.lock(holder(0), &roll, Duration::ZERO), Ok(Acquired::OwnerDied));
        assert_eq!(lock.lock(holder(1), &roll, Duration::ZERO), Err(LockError::Busy));
        // Nobody sleeps, so nobody is to be woken.
        assert_eq!(lock.word.load(Ordering::Relaxed), holder(0).0);
    }

    #[test]
    fn a_dead_holder_is_taken_over_once() {
        let (lock, roll) = (RawLock::default(), Gone(AtomicU64::new(1 << 3)));
        assert!(lock.try_lock(holder(3)));
        assert_eq!(lock.lock(holder(55), &roll, SHORT), Ok(Acquired::OwnerDied));
        assert_eq!(lock.lock(holder(1), &roll, SHORT), Err(LockError::Busy));
        lock.unlock(holder(55));
        assert_eq!(lock.lock(holder(1), &roll, SHORT), Ok(Acquired::Clean));
    }

    #[test]
    fn what_is_abandoned_is_the_next_ones_to_recover() {
        struct Generations;
        impl Roll for Generations {
            fn is_gone(&self, holder: Holder) -> bool {
                !holder.has_generation(7)
            }
        }
        let lock = RawLock::default();
        assert!(lock.try_lock(holder(0)));
        lock.abandon(holder(0));
        assert_eq!(lock.lock(holder(0), &Generations, SHORT), Ok(Acquired::OwnerDied));
        lock.unlock(holder(0));
        assert_eq!(lock.lock(holder(1), &Generations, SHORT), Ok(Acquired::Clean));
    }

    #[test]
    fn what_cannot_be_recovered_stays_so() {
        let (lock, roll) = (RawLock::default(), Gone(AtomicU64::new(0)));
        assert!(lock.try_lock(holder(0)));
        lock.give_up(holder(0));
        assert_eq!(lock.lock(holder(0), &roll, SHORT), Err(LockError::NotRecoverable));
        assert!(!lock.try_lock(holder(1)));
    }

    #[test]
    fn any_word_is_answered() {
        let roll = Gone(AtomicU64::new(!0));
        for holder_bits in 0..128_u32 {
            for rest in [0, 1, GENERATION_MASK, WAITERS, WAITERS | GENERATION_MASK] {
                let word = holder_bits << HOLDER_SHIFT | rest;
                let lock = RawLock::over(AtomicU32::new(word));
                let expected = match (holder_bits, rest & !WAITERS) {
                    (0, 0) => Ok(Acquired::Clean),
                    (1..=56, _) => Ok(Acquired::OwnerDied),
                    (127, 0) => Err(LockError::NotRecoverable),
                    _ => Err(LockError::Damaged),
                };
                assert_eq!(lock.lock(holder(0), &roll, SHORT), expected, "{word:#x}");
            }
        }
    }

    #[test]
    fn a_word_that_is_not_ours_is_not_given_back() {
        let lock = RawLock::default();
        assert!(lock.try_lock(holder(0)));
        lock.unlock(holder(1));
        assert_eq!(lock.holder(), Some(holder(0)));
    }

    #[test]
    fn threads_take_turns() {
        let (lock, roll, counter) = (RawLock::default(), Gone(AtomicU64::new(0)), AtomicU64::new(0));
        thread::scope(|scope| {
            for index in 0..4 {
                let (lock, roll, counter) = (&lock, &roll, &counter);
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        assert_eq!(lock.lock(holder(index), roll, LONG), Ok(Acquired::Clean));
                        // Lost updates show if two are in here at once.
                        let value = counter.load(Ordering::Relaxed);
                        counter.store(value + 1, Ordering::Relaxed);
                        lock.unlock(holder(index));
                    }
                });
            }
        });
        assert_eq!(counter.into_inner(), 40_000);
    }
}
