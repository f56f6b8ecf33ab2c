//! Many senders and many receivers
//!
//! Whoever sends or receives takes a cell by a compare-and-swap on its word, at the position where the tail or the head stands, and moves
//! that on then. If it is killed in between, or is slow, others see by the cell that the position is taken and move the counter in its place:
//! the counters are hints, and the words of the cells decide.
//!
//! | cell, lap L | event | next | and then |
//! |---|---|---|---|
//! | free | send, at lap L | being written, by me | tail + 1; writes the element |
//! | being written, by me | commit | full | |
//! | being written, by me | the reservation is dropped, or the queue was closed before it could be seen | skipped | |
//! | skipped; or being written, by a dead one | receive, at lap L | free, L + 1 | nothing was sent; head + 1 |
//! | full | receive, at lap L | being read, by me | head + 1; reads the element |
//! | being read, by me | release | free, L + 1 | |
//! | being read, by a dead one | send, at lap L + 1 | free, L + 1 | its element is lost with it |
//!
//! | who looks for a cell at lap L | and finds | knows |
//! |---|---|---|
//! | sender | lap L - 1, not free, nor being read by a dead one | the queue is full |
//! | sender | lap L, not free; lap L + 1, free | the tail is to be moved on |
//! | receiver | lap L, free; lap L - 1, being read | the queue is empty |
//! | receiver | lap L, a living one writing | nothing can be received yet, though there may be elements behind |
//! | receiver | lap L, being read; lap L + 1, not being read | the head is to be moved on |
//! | either | anything else, and the counter has not moved | damage |
//!
//! Nobody takes a cell beyond the tail or the head but those that follow the cell there in one run, at most one lap in all; and only
//! one who has found the head at a cell frees it, so that senders do not go round past the receivers. So no cell is further than the second table
//! says, as long as the counter stands.
//!
//! A living sender that stops in the middle keeps all that come after its element waiting, since elements are received in order. A
//! process that is stopped before one of these compare-and-swaps, while the queue goes through 2^31 laps, could take a cell out of turn.

use super::cell::{CellState, CellWord, Cells, Lap, Refusal, Run, State, When, at, len};
use crate::lock::{Holder, Roll};
use crate::membership::MAX_ATTACHMENTS;

/// How often others may be quicker before that is taken for damage: somebody who writes what nobody may.
const QUICKER: u64 = 1 << 16;

/// How often the system is asked whether somebody is dead, before the caller looks at the clock. Each is asked for once, and there are fewer
/// who can be attached; more there are only where the words that say so are damaged.
const QUESTIONS: u32 = 1 << 8;

/// How many steps one may need before that is taken for damage. A counter may have to be moved on past all cells, of those that the
/// dead have left, or one who was stopped before it moved it itself; and each of them be freed first.
#[inline]
fn attempts<C: Cells>(cells: &C) -> u64 {
    len(cells).saturating_mul(4).saturating_add(QUICKER)
}

/// Takes cells to write to, one at least and `most` at most. If `roll` is not asked, the dead count as alive.
#[inline]
pub(super) fn claim_to_write<C: Cells>(
    cells: &C,
    me: Holder,
    most: u64,
    roll: Option<&dyn Roll>,
) -> Result<Run, Refusal> {
    let mut dead = Dead::new(roll);
    for _ in 0..attempts(cells) {
        let start = cells.tail().load();
        let (word, lap) = at(cells, start)?;
        let now = CellState::from_bits(word.load());
        match now.around(lap) {
            Some((When::Now, State::Free)) => {
                if let Some(run) = claim_run(cells, start, most, State::Free, State::Writing(me))? {
                    move_on(cells.tail(), start, run.len);
                    return Ok(run);
                }
            }
            Some((When::Now, _) | (When::Next, State::Free)) => move_on(cells.tail(), start, 1),
            Some((When::Last, State::Full | State::Writing(_) | State::Skipped)) => {
                return Err(Refusal::NotReady);
            }
            Some((When::Last, State::Reading(holder))) => {
                if !dead.is_gone(holder) {
                    return Err(Refusal::NotReady);
                }
                // With those behind it that are as many as are wanted, so that the next call need not ask again.
                let from = |lap: Lap| CellState::new(lap.last(), State::Reading(holder));
                replace_run(cells, start, most, from, |lap| CellState::new(lap, State::Free))?;
            }
            _ => check_moved(cells.tail(), start, word, now)?,
        }
    }
    Err(Refusal::Damaged)
}

/// Takes cells to read from, one at least and `most` at most; counts in `given_back` the cells that were passed over.
#[inline]
pub(super) fn claim_to_read<C: Cells>(
    cells: &C,
    me: Holder,
    most: u64,
    roll: Option<&dyn Roll>,
    given_back: &mut u32,
) -> Result<Run, Refusal> {
    let mut dead = Dead::new(roll);
    for _ in 0..attempts(cells) {
        let start = cells.head().load();
        let (word, lap) = at(cells, start)?;
        let now = CellState::from_bits(word.load());
        match now.around(lap) {
            Some((When::Now, State::Full)) => {
                if let Some(run) = claim_run(cells, start, most, State::Full, State::Reading(me))? {
                    move_on(cells.head(), start, run.len);
                    return Ok(run);
                }
            }
            // Who reads the last element of this cell has not given it back, so nobody could send another one.
            Some((When::Now, State::Free) | (When::Last, State::Reading(_))) => {
                return Err(Refusal::NotReady);
            }
            Some((When::Now, state @ (State::Writing(_) | State::Skipped))) => {
                let is_over = match state {
                    State::Writing(holder) => dead.is_gone(holder),
                    _ => true,
                };
                if !is_over {
                    return Err(Refusal::Unfinished);
                }
                if word.replace(now.bits(), CellState::new(lap.next(), State::Free).bits()) {
                    *given_back = given_back.saturating_add(1);
                }
            }
            Some((When::Now, State::Reading(_))) => move_on(cells.head(), start, 1),
            Some((When::Next, state)) if !matches!(state, State::Reading(_)) => {
                move_on(cells.head(), start, 1)
            }
            _ => check_moved(cells.head(), start, word, now)?,
        }
    }
    Err(Refusal::Damaged)
}

/// Whether somebody could send, as far as can be seen without asking for the dead.
pub(super) fn is_place<C: Cells>(cells: &C) -> bool {
    is_next(cells, cells.tail(), State::Free, |when, _| when != When::Last)
}

/// Whether somebody could receive.
pub(super) fn is_element<C: Cells>(cells: &C) -> bool {
    is_next(cells, cells.head(), State::Full, |when, state| match when {
        When::Now => matches!(state, State::Reading(_) | State::Skipped),
        When::Next => true,
        When::Last => false,
    })
}

/// Whether the first cell that has not been taken is as `wanted`.
fn is_next<C: Cells>(
    cells: &C,
    counter: &C::Word,
    wanted: State,
    is_taken: impl Fn(When, State) -> bool,
) -> bool {
    let start = counter.load();
    for offset in 0..len(cells) {
        let Ok((word, lap)) = at(cells, start.wrapping_add(offset)) else { return false };
        match CellState::from_bits(word.load()).around(lap) {
            Some((When::Now, state)) if state == wanted => return true,
            Some((when, state)) if is_taken(when, state) => {}
            _ => return false,
        }
    }
    false
}

/// Takes the cells from `start` on that are in one state, as far as nobody else is quicker.
#[inline]
fn claim_run<C: Cells>(
    cells: &C,
    start: u64,
    most: u64,
    from: State,
    to: State,
) -> Result<Option<Run>, Refusal> {
    let len =
        replace_run(cells, start, most, |lap| CellState::new(lap, from), |lap| CellState::new(lap, to))?;
    Ok((len != 0).then_some(Run { start, len }))
}

/// Replaces the words from `start` on that are as `from` says, as far as nobody else is quicker; gives how many.
#[inline]
fn replace_run<C: Cells>(
    cells: &C,
    start: u64,
    most: u64,
    from: impl Fn(Lap) -> CellState,
    to: impl Fn(Lap) -> CellState,
) -> Result<u64, Refusal> {
    let mut replaced = 0_u64;
    while replaced < most.min(len(cells)) {
        let (word, lap) = at(cells, start.wrapping_add(replaced))?;
        if !word.replace(from(lap).bits(), to(lap).bits()) {
            break;
        }
        replaced = replaced.wrapping_add(1);
    }
    Ok(replaced)
}

/// Those who are met, of whom one wants to know whether they are dead.
struct Dead<'a> {
    roll: Option<&'a dyn Roll>,
    /// Who was found so, by slots, and is not asked for again.
    found: Option<[Option<Holder>; MAX_ATTACHMENTS as usize]>,
    questions: u32,
}

impl<'a> Dead<'a> {
    const fn new(roll: Option<&'a dyn Roll>) -> Self {
        Self { roll, found: None, questions: QUESTIONS }
    }

    /// Whether a holder is dead, as far as that is asked.
    fn is_gone(&mut self, holder: Holder) -> bool {
        let (Some(roll), Some(slot)) = (self.roll, holder.slot()) else { return false };
        if roll.is_past(holder) {
            return true;
        }
        let found = self.found.get_or_insert([None; MAX_ATTACHMENTS as usize]).get_mut(slot.index());
        if found.as_deref() == Some(&Some(holder)) {
            return true;
        }
        if self.questions == 0 {
            return false;
        }
        self.questions = self.questions.wrapping_sub(1);
        let is_gone = roll.is_gone(holder);
        if let Some(found) = found.filter(|_| is_gone) {
            *found = Some(holder);
        }
        is_gone
    }
}

/// Moves a counter, unless somebody has done so.
#[inline]
fn move_on<W: CellWord>(counter: &W, from: u64, by: u64) {
    let _: bool = counter.replace(from, from.wrapping_add(by));
}

/// A cell that cannot be as it is while the counter stands: either that has moved, or there is damage.
#[cold]
fn check_moved<W: CellWord>(counter: &W, position: u64, word: &W, was: CellState) -> Result<(), Refusal> {
    if counter.load() == position && word.load() == was.bits() { Err(Refusal::Damaged) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
