//! Large queues: what many cells need is no damage, and is not asked for each of them

use super::*;
use crate::membership::Slot;
use core::array::from_fn;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::vec::Vec;

const LEN_LOG: u32 = 17;
const LEN: u64 = 1 << LEN_LOG;
/// More than may be quicker.
const MANY: u64 = 120_000;

struct Large {
    words: Vec<AtomicU64>,
    ends: [AtomicU64; 2],
}

impl Large {
    /// The first `MANY` cells are as one said, the others are free; of each end is said where it stands.
    fn new(cell: CellState, ends: [u64; 2]) -> Self {
        let word = |index| AtomicU64::new(if index < MANY { cell.bits() } else { 0 });
        Self { words: (0..LEN).map(word).collect(), ends: ends.map(AtomicU64::new) }
    }

    fn set(&self, position: u64, state: State) {
        self.word(position).unwrap().store(CellState::new(Lap::new(0), state).bits(), Ordering::Relaxed);
    }
}

impl Cells for Large {
    type Word = AtomicU64;

    fn len_log(&self) -> u32 {
        LEN_LOG
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.words.get((index % LEN) as usize)
    }

    fn tail(&self) -> &AtomicU64 {
        &self.ends[0]
    }

    fn head(&self) -> &AtomicU64 {
        &self.ends[1]
    }
}

/// All but one are dead.
struct Asked {
    alive: Holder,
    times: AtomicU32,
}

impl Roll for Asked {
    fn is_gone(&self, holder: Holder) -> bool {
        self.times.fetch_add(1, Ordering::Relaxed);
        holder != self.alive
    }
}

fn holders() -> [Holder; 3] {
    from_fn(|index| Holder::new(Slot::new(index as u64).unwrap(), 7))
}

fn roll() -> Asked {
    Asked { alive: holders()[0], times: AtomicU32::new(0) }
}

const FIRST: Lap = Lap::new(0);

#[test]
fn what_a_dead_sender_left_is_passed_over_with_one_question() {
    let [me, dead, other] = holders();
    let cells = Large::new(CellState::new(FIRST, State::Writing(dead)), [MANY + 2, 0]);
    cells.set(MANY, State::Writing(other));
    cells.set(MANY + 1, State::Full);
    let (roll, mut given_back) = (roll(), 0);
    let run = claim_to_read(&cells, me, 9, Some(&roll), &mut given_back);
    assert_eq!(run, Ok(Run { start: MANY + 1, len: 1 }));
    assert_eq!((u64::from(given_back), roll.times.load(Ordering::Relaxed)), (MANY + 1, 2));
}

#[test]
fn what_was_given_up_is_passed_over() {
    let [me, ..] = holders();
    let cells = Large::new(CellState::new(FIRST, State::Skipped), [MANY, 0]);
    assert_eq!(claim_to_read(&cells, me, 1, None, &mut 0), Err(Refusal::NotReady));
    assert_eq!(cells.head().load(Ordering::Relaxed), MANY);
}

#[test]
fn what_a_dead_receiver_left_is_freed_with_one_question() {
    let [me, dead, _] = holders();
    let cells = Large::new(CellState::new(FIRST, State::Reading(dead)), [LEN, MANY]);
    (MANY..LEN).for_each(|position| cells.set(position, State::Full));
    let roll = roll();
    let run = claim_to_write(&cells, me, LEN, Some(&roll));
    assert_eq!((run, roll.times.load(Ordering::Relaxed)), (Ok(Run { start: LEN, len: MANY }), 1));
}

#[test]
fn counters_that_nobody_has_moved_yet_are_moved() {
    let [me, other, _] = holders();
    let cells = Large::new(CellState::new(FIRST, State::Writing(other)), [0, 0]);
    assert_eq!(claim_to_write(&cells, me, 1, None), Ok(Run { start: MANY, len: 1 }));
    let cells = Large::new(CellState::new(FIRST, State::Reading(other)), [MANY, 0]);
    assert_eq!(claim_to_read(&cells, me, 1, None, &mut 0), Err(Refusal::NotReady));
    assert_eq!(cells.head().load(Ordering::Relaxed), MANY);
}

#[test]
fn who_was_not_asked_for_counts_as_alive() {
    let [me, dead, _] = holders();
    let cells = Large::new(CellState::new(FIRST, State::Writing(dead)), [MANY, 0]);
    assert_eq!(claim_to_read(&cells, me, 1, None, &mut 0), Err(Refusal::Unfinished));
    let cells = Large::new(CellState::new(FIRST, State::Reading(dead)), [LEN, MANY]);
    assert_eq!(claim_to_write(&cells, me, 1, None), Err(Refusal::NotReady));
}

#[test]
fn each_of_the_dead_is_asked_for_once_as_long_as_no_word_is_damaged() {
    let [me, ..] = holders();
    let dead = |index: u64, generation| Holder::new(Slot::new(index).unwrap(), generation);
    let all_slots = u64::from(MAX_ATTACHMENTS) - 1;
    let cells = Large::new(CellState::new(FIRST, State::Free), [MANY, 0]);
    let fill = |generations: u64| {
        for position in 0..MANY {
            let generation = position / all_slots % generations;
            cells.set(position, State::Writing(dead(1 + position % all_slots, generation)));
        }
    };
    fill(1);
    let (asked, mut given_back) = (roll(), 0);
    assert_eq!(claim_to_read(&cells, me, 1, Some(&asked), &mut given_back), Err(Refusal::NotReady));
    assert_eq!((u64::from(given_back), u64::from(asked.times.load(Ordering::Relaxed))), (MANY, all_slots));
    // Several are in one slot, as no words say that are sound: then the caller looks at the clock, and goes on.
    fill(2);
    cells.head().store(0, Ordering::Relaxed);
    let (asked, mut given_back) = (roll(), 0);
    assert_eq!(claim_to_read(&cells, me, 1, Some(&asked), &mut given_back), Err(Refusal::Unfinished));
    assert_eq!((given_back, asked.times.load(Ordering::Relaxed)), (QUESTIONS, QUESTIONS));
    assert_eq!(claim_to_read(&cells, me, 1, Some(&asked), &mut given_back), Err(Refusal::Unfinished));
    assert_eq!(given_back, 2 * QUESTIONS);
}
