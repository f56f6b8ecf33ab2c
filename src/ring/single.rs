//! One sender and one receiver at a time
//!
//! Each end is a role, which a lock of its own keeps to one process. Nobody else sends, so the sender knows by itself where it stands, and
//! the words of the cells change by plain stores. Whoever takes a role finds by the cells where the one before it stood:
//!
//! | cell, lap L | event | next | |
//! |---|---|---|---|
//! | free | commit, at lap L | full | |
//! | full | release, at lap L | free, L + 1 | |
//!
//! A cell in lap L has given L elements to the receiver, and has been given L by the sender, or L + 1 if it is full. Those before the one
//! where an end stands have had one more, in either sense, than those from there on. So a killed sender leaves nothing: what it had
//! not committed was never sent. A killed receiver leaves the element that it had not released: its successor receives that again.

use super::cell::{CellState, CellWord, Cells, Lap, Refusal, State, When, at, len};

/// How many cells are free from `position` on, at most `most`.
#[inline]
pub(super) fn count_free<C: Cells>(cells: &C, position: u64, most: u64) -> Result<u64, Refusal> {
    count(cells, position, most, (When::Now, State::Free), (When::Last, State::Full))
}

/// How many elements there are from `position` on, at most `most`.
#[inline]
pub(super) fn count_full<C: Cells>(cells: &C, position: u64, most: u64) -> Result<u64, Refusal> {
    count(cells, position, most, (When::Now, State::Full), (When::Now, State::Free))
}

/// How many cells are as `wanted`. The first one that is not must be as `other`.
#[inline]
fn count<C: Cells>(
    cells: &C,
    position: u64,
    most: u64,
    wanted: (When, State),
    other: (When, State),
) -> Result<u64, Refusal> {
    let mut found = 0;
    while found < most.min(len(cells)) {
        let (word, lap) = at(cells, position.wrapping_add(found))?;
        match CellState::from_bits(word.load()).around(lap) {
            Some(is) if is == wanted => found = found.wrapping_add(1),
            _ if found != 0 => break,
            Some(is) if is == other => return Err(Refusal::NotReady),
            _ => return Err(Refusal::Damaged),
        }
    }
    Ok(found)
}

/// Where the sender stood.
pub(super) fn find_tail<C: Cells>(cells: &C) -> Result<u64, Refusal> {
    find(cells, |word| match word.state() {
        Some(State::Free) => Ok(word.lap()),
        Some(State::Full) => Ok(word.lap().next()),
        _ => Err(Refusal::Damaged),
    })
}

/// Where the receiver stood.
pub(super) fn find_head<C: Cells>(cells: &C) -> Result<u64, Refusal> {
    find(cells, |word| match word.state() {
        Some(State::Free | State::Full) => Ok(word.lap()),
        _ => Err(Refusal::Damaged),
    })
}

/// The position of the first cell that has had one element less than the first of all, by halving.
fn find<C: Cells>(cells: &C, elements: impl Fn(CellState) -> Result<Lap, Refusal>) -> Result<u64, Refusal> {
    let of = |index| {
        let (word, _) = at(cells, index)?;
        elements(CellState::from_bits(word.load()))
    };
    let most = of(0)?;
    // The first one has had as many, and the one at `end` has not.
    let (mut begin, mut end) = (0_u64, len(cells));
    while end.wrapping_sub(begin) > 1 {
        let middle = begin.wrapping_add(end.wrapping_sub(begin).wrapping_shr(1));
        match of(middle)? {
            found if found == most => begin = middle,
            found if found == most.last() => end = middle,
            _ => return Err(Refusal::Damaged),
        }
    }
    let lap = if end == len(cells) { most } else { most.last() };
    let index = if end == len(cells) { 0 } else { end };
    Ok(lap.number().wrapping_shl(cells.len_log()) | index)
}
