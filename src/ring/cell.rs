//! The word of a cell
//!
//! What a cell holds, in which lap of the queue, and who is at work on it, in one word beside the element: whoever is killed has either
//! done nothing to a cell, or stands in it.
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..=30 | holder | who writes or reads the element, as in the words of locks; 0 nobody |
//! | 31..=32 | state | 0 free, 1 being written, or by nobody: skipped, 2 full, 3 being read |
//! | 33..=63 | lap | how many elements this cell has had before, from zero again after 2^31 |
//!
//! Zero is a free cell that never had an element.

use crate::lock::Holder;
#[cfg(target_arch = "x86_64")]
use core::sync::atomic::compiler_fence;
#[cfg(not(target_arch = "x86_64"))]
use core::sync::atomic::fence;
use core::sync::atomic::{AtomicU64, Ordering};

const HOLDER: u64 = (1 << 31) - 1;
const STATE_SHIFT: u32 = 31;
const LAP_SHIFT: u32 = 33;
pub(super) const LAP_BITS: u32 = 31;
const LAP_MASK: u32 = (1 << LAP_BITS) - 1;

/// What the words of a queue are made of.
pub(super) trait CellWord {
    /// What it was at some time; the caller sees all that was done before whoever made it so.
    fn load(&self) -> u64;
    /// Puts `new` in the place of exactly `old`.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Puts `new` there, whatever it was.
    fn store(&self, new: u64);
    /// The same; and what this thread looks at afterwards is not older than what others looked for before they could see this: a fence, as
    /// a sleeper has one after it says that it listens.
    fn publish(&self, new: u64);
}

impl CellWord for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        // SYNC: Acquire here, Release in the others: who finds an element sees its bytes; who finds a cell free, that nobody reads
        // it any more.
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn replace(&self, old: u64, new: u64) -> bool {
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn store(&self, new: u64) {
        self.store(new, Ordering::Release);
    }

    #[inline]
    fn publish(&self, new: u64) {
        // One instruction, which is a fence there, for two.
        #[cfg(target_arch = "x86_64")]
        let _: u64 = self.swap(new, Ordering::SeqCst);
        #[cfg(not(target_arch = "x86_64"))]
        self.store(new, Ordering::Release);
        fence_after_exchange();
    }
}

/// A fence after an exchange, which on x86-64 is one by itself.
#[inline]
pub(super) fn fence_after_exchange() {
    #[cfg(target_arch = "x86_64")]
    compiler_fence(Ordering::SeqCst);
    #[cfg(not(target_arch = "x86_64"))]
    fence(Ordering::SeqCst);
}

/// Number of a lap, of 31 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lap(u32);

impl Lap {
    pub(super) const fn new(number: u64) -> Self {
        Self(number as u32 & LAP_MASK)
    }

    pub(super) const fn number(self) -> u64 {
        self.0 as u64
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0.wrapping_add(1) & LAP_MASK)
    }

    pub(super) const fn last(self) -> Self {
        Self(self.0.wrapping_sub(1) & LAP_MASK)
    }
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Writing(Holder),
    /// It was being written, and is not any more: there is no element.
    Skipped,
    Full,
    Reading(Holder),
}

/// A word as read from the segment: any 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CellState(u64);

impl CellState {
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn new(lap: Lap, state: State) -> Self {
        let (state, holder) = match state {
            State::Free => (0, 0),
            State::Writing(holder) => (1, holder.bits()),
            State::Skipped => (1, 0),
            State::Full => (2, 0),
            State::Reading(holder) => (3, holder.bits()),
        };
        Self(lap.number() << LAP_SHIFT | state << STATE_SHIFT | holder as u64)
    }

    pub(super) const fn lap(self) -> Lap {
        Lap::new(self.0 >> LAP_SHIFT)
    }

    /// `None`: no cell has this word.
    pub(super) const fn state(self) -> Option<State> {
        let holder = (self.0 & HOLDER) as u32;
        match (self.0 >> STATE_SHIFT & 3, holder) {
            (0, 0) => Some(State::Free),
            (1, 0) => Some(State::Skipped),
            (2, 0) => Some(State::Full),
            (state @ (1 | 3), _) => match Holder::from_word(holder) {
                Some(holder) if state == 1 => Some(State::Writing(holder)),
                Some(holder) => Some(State::Reading(holder)),
                None => None,
            },
            _ => None,
        }
    }

    /// In which lap the cell was, of those around `lap`, and what it held then; `None` if no cell has this word, or one that is not
    /// of these laps.
    #[inline]
    pub(super) fn around(self, lap: Lap) -> Option<(When, State)> {
        let when = match self.lap() {
            now if now == lap => When::Now,
            now if now == lap.next() => When::Next,
            now if now == lap.last() => When::Last,
            _ => return None,
        };
        Some((when, self.state()?))
    }
}

/// A lap, as seen from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Last,
    Now,
    Next,
}

/// The cells of a queue, and where its ends are.
pub(super) trait Cells {
    type Word: CellWord;

    /// Binary logarithm of their number.
    fn len_log(&self) -> u32;
    /// The word of the cell with this index, of which only the low bits count.
    fn word(&self, index: u64) -> Option<&Self::Word>;
    /// The position up to which senders have come.
    fn tail(&self) -> &Self::Word;
    /// The position up to which receivers have come.
    fn head(&self) -> &Self::Word;
}

/// The number of cells.
#[inline]
pub(super) fn len<C: Cells>(cells: &C) -> u64 {
    // At most 30.
    1_u64.wrapping_shl(cells.len_log())
}

/// The word of the cell at a position, and which lap that is.
#[inline]
pub(super) fn at<C: Cells>(cells: &C, position: u64) -> Result<(&C::Word, Lap), Refusal> {
    let word = cells.word(position).ok_or(Refusal::Damaged)?;
    Ok((word, Lap::new(position.wrapping_shr(cells.len_log()))))
}

/// What becomes of a cell that somebody has been at work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Full,
    Skipped,
    /// For the next lap.
    Free,
}

/// Says what has become of the cell at a position; if it is the last one of several with a fence, so that sleepers may be looked for
/// then.
#[inline]
pub(super) fn settle<C: Cells>(cells: &C, position: u64, outcome: Outcome, is_last: bool) {
    // It fails for no position.
    let Ok((word, lap)) = at(cells, position) else { return };
    let now = match outcome {
        Outcome::Full => CellState::new(lap, State::Full),
        Outcome::Skipped => CellState::new(lap, State::Skipped),
        Outcome::Free => CellState::new(lap.next(), State::Free),
    };
    if is_last { word.publish(now.bits()) } else { word.store(now.bits()) }
}

/// Cells one after the other, from a position on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Why there is no cell to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The queue is full, or empty.
    NotReady,
    /// The queue is not empty, but a process is in the middle of sending what comes first, which is alive for all that is known.
    Unfinished,
    Damaged,
    /// Another reason, which waiting does not change.
    Other(crate::error::QueueError),
}

impl Refusal {
    /// Whether it may be otherwise later.
    #[inline]
    pub(super) const fn may_pass(self) -> bool {
        matches!(self, Self::NotReady | Self::Unfinished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Slot;

    #[test]
    fn words_say_what_was_put_into_them() {
        let holders = [0, 1, 55].map(|slot| Holder::new(Slot::new(slot).unwrap(), 0xab_cdef + slot));
        for lap in [0, 1, 77, LAP_MASK].map(|lap| Lap::new(lap.into())) {
            for holder in holders {
                for state in
                    [State::Free, State::Writing(holder), State::Skipped, State::Full, State::Reading(holder)]
                {
                    let word = CellState::from_bits(CellState::new(lap, state).bits());
                    assert_eq!((word.lap(), word.state()), (lap, Some(state)));
                    assert_eq!(word.around(lap), Some((When::Now, state)));
                    assert_eq!(word.around(lap.next()), Some((When::Last, state)));
                    assert_eq!(word.around(lap.last()), Some((When::Next, state)));
                    assert_eq!(word.around(lap.next().next()), None);
                }
            }
        }
        assert_eq!(CellState::new(Lap::new(0), State::Free).bits(), 0);
    }

    #[test]
    fn words_that_no_cell_has_are_told() {
        let word = |state: u64, holder: u64| CellState::from_bits(state << STATE_SHIFT | holder);
        let somebody = u64::from(Holder::new(Slot::new(3).unwrap(), 7).bits());
        for damaged in [word(0, somebody), word(2, somebody), word(3, 0), word(1, 57 << 24), word(3, 7)] {
            assert_eq!(damaged.state(), None, "{damaged:?}");
        }
        assert!(word(1, somebody).state().is_some());
    }
}
