//! The lock, model-checked
//!
//! Loom runs each model in all the orders in which its processes can take their steps, but for those with many
//! preemptions, and with all that a load may see by the memory model. It fails where two processes are in the
//! lock at once or do not see what the former holder wrote, where all that are left sleep, and where one of the
//! checks of [`Process`] and [`Machine`] fails.
//!
//! | model | what it shows |
//! |---|---|
//! | [`turns`] | one at a time, nothing written is lost, nobody sleeps for ever |
//! | [`death`] | a holder, or one that waits, dies before any of its steps: one successor is told, all others go on |
//! | [`heirs`] | of several that find a dead holder one is told |
//! | [`abandoned`] | the same for a holder that abandons the lock |
//! | [`given_up`] | all learn that it is not recoverable, also those asleep, and if the one that says so dies over it |
//! | [`relet`] | a dead holder is found dead although its slot has been let again |
//! | [`impatient`] | one that goes away does not take a wake with it; nobody alive is robbed |
//!
//! | mistake | found by |
//! |---|---|
//! | unlock without wake | [`turns`]: a deadlock |
//! | WAITERS dropped by a taker that slept | [`turns`]: a deadlock |
//! | takeover by a plain store | [`heirs`]: two in the lock |
//! | locked first, the holder written then | [`death`]: a deadlock |
//! | the word looked at without Acquire | [`relet`]: two in the lock |
//! | the generation ignored | [`relet`]: a deadlock |
//! | a wake kept by one that goes away | [`impatient`]: a deadlock |
//! | giving up wakes one | [`given_up`]: a deadlock |
//! | slow is dead | [`impatient`]: two in the lock |

mod machine;

use super::{Acquired, LockError};
use crate::word::machine::{Depth, Fate, THREE, THREE_DEEP, TWO, check, check_each_death, finds, tell};
use machine::{Machine, Mistake, Process};
use std::vec::Vec;

/// All take the lock in turn, `rounds` times.
fn turns(depth: Depth, rounds: usize, mistake: Mistake) -> u64 {
    check(depth, move || {
        let machine = Machine::new(mistake);
        let work = move |process: &Process| (0..rounds).for_each(|_| process.lock_raise_unlock());
        let all: Vec<_> =
            (0..depth.processes).map(|process| machine.start(process, Fate::LIVES, work)).collect();
        all.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        machine.conclude(3);
    })
}

/// One of them dies.
fn death(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let machine = Machine::new(mistake);
        let victim = machine.start(0, fate, Process::lock_raise_unlock);
        let others: Vec<_> = (1..depth.processes)
            .map(|process| machine.start(process, Fate::LIVES, Process::lock_raise_unlock))
            .collect();
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        let has_died = victim.join().unwrap();
        machine.conclude(3);
        has_died
    })
}

/// The lock is a dead one's in the beginning, and one of those that find it may die too.
fn heirs(depth: Depth, waiters: bool, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let machine = Machine::left_by_the_dead(mistake, waiters);
        let mortal = machine.start(0, fate, Process::lock_raise_unlock);
        let others: Vec<_> = (1..depth.processes)
            .map(|process| machine.start(process, Fate::LIVES, Process::lock_raise_unlock))
            .collect();
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        let has_died = mortal.join().unwrap();
        machine.conclude(1);
        has_died
    })
}

/// The first holder abandons the lock, and may die over it.
fn abandoned(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let machine = Machine::new(mistake);
        let others: Vec<_> = (1..depth.processes)
            .map(|process| machine.start(process, Fate::LIVES, Process::lock_raise_unlock))
            .collect();
        let quitter = machine.start(0, fate, |process| {
            assert!(process.lock().is_ok());
            process.raise();
            process.abandon();
        });
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        let has_died = quitter.join().unwrap();
        machine.conclude(3);
        has_died
    })
}

/// One holder gives up for good, and may die over it.
fn given_up(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let machine = Machine::new(mistake);
        let others: Vec<_> = (1..depth.processes)
            .map(|process| {
                machine.start(process, Fate::LIVES, |process| match process.lock() {
                    Ok(_) => {
                        process.raise();
                        process.unlock();
                    }
                    Err(error) => assert_eq!(error, LockError::NotRecoverable),
                })
            })
            .collect();
        let quitter = machine.start(0, fate, |process| {
            assert!(process.lock().is_ok());
            process.give_up();
            assert_eq!(process.lock(), Err(LockError::NotRecoverable));
        });
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        let has_died = quitter.join().unwrap();
        if machine.is_given_up() {
            // For good, and for everybody.
            assert_eq!(machine.newcomer(3).lock(), Err(LockError::NotRecoverable));
        } else {
            assert!(has_died);
            machine.conclude(3);
        }
        has_died
    })
}

/// A holder dies, and its slot is let to another one, which wants the lock too.
fn relet(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let machine = Machine::new(mistake);
        let others: Vec<_> = (1..depth.processes)
            .map(|process| machine.start(process, Fate::LIVES, Process::lock_raise_unlock))
            .collect();
        let has_died = machine.start(0, fate, Process::lock_raise_unlock).join().unwrap();
        if has_died {
            machine.successor(3, 0).lock_raise_unlock();
        }
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        // It is the successor of the successor.
        machine.conclude(if has_died { 1 } else { 3 });
        has_died
    })
}

/// One of them does not wait for long; another one comes twice.
fn impatient(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let machine = Machine::new(mistake);
        let impatient = machine.start(0, Fate::IMPATIENT, |process| match process.lock() {
            Ok(acquired) => {
                assert_eq!(acquired, Acquired::Clean);
                process.raise();
                process.unlock();
            }
            Err(error) => assert_eq!(error, LockError::Busy),
        });
        let others: Vec<_> = (1..depth.processes)
            .map(|process| {
                let rounds = if process == 1 { 2 } else { 1 };
                let work = move |process: &Process| (0..rounds).for_each(|_| process.lock_raise_unlock());
                machine.start(process, Fate::LIVES, work)
            })
            .collect();
        others.into_iter().for_each(|process| assert!(!process.join().unwrap()));
        assert!(!impatient.join().unwrap());
        machine.conclude(3);
    })
}

#[test]
fn two_take_turns() {
    turns(TWO, 2, Mistake::None);
}

#[test]
fn three_take_turns() {
    turns(THREE, 1, Mistake::None);
}

#[test]
fn a_death_among_two() {
    death(TWO, Mistake::None);
}

#[test]
fn a_death_among_three() {
    death(THREE, Mistake::None);
}

#[test]
fn two_heirs() {
    heirs(TWO, false, Mistake::None);
    heirs(TWO, true, Mistake::None);
}

#[test]
fn three_heirs() {
    heirs(THREE, true, Mistake::None);
}

#[test]
fn what_is_abandoned() {
    abandoned(TWO, Mistake::None);
    abandoned(THREE, Mistake::None);
}

#[test]
fn what_is_given_up() {
    given_up(TWO, Mistake::None);
    given_up(THREE, Mistake::None);
}

#[test]
fn a_slot_that_is_let_again() {
    relet(TWO, Mistake::None);
    relet(THREE, Mistake::None);
}

#[test]
fn one_that_is_impatient() {
    impatient(TWO, Mistake::None);
    impatient(THREE_DEEP, Mistake::None);
}

#[test]
fn planted_unlock_without_wake() {
    finds("deadlock", || turns(TWO, 1, Mistake::UnlockWithoutWake));
}

#[test]
fn planted_waiters_dropped() {
    finds("deadlock", || turns(THREE, 1, Mistake::WaitersDropped));
}

#[test]
fn planted_takeover_by_store() {
    finds("Causality", || heirs(TWO, false, Mistake::TakeoverByStore));
}

#[test]
fn planted_two_words() {
    finds("deadlock", || death(TWO, Mistake::TwoWords));
}

#[test]
fn planted_relaxed_look() {
    finds("Causality", || relet(TWO, Mistake::RelaxedLook));
}

#[test]
fn planted_generation_ignored() {
    finds("deadlock", || relet(TWO, Mistake::GenerationIgnored));
}

#[test]
fn planted_wake_kept() {
    finds("deadlock", || impatient(THREE_DEEP, Mistake::WakeKept));
}

#[test]
fn planted_giving_up_wakes_one() {
    finds("deadlock", || given_up(THREE, Mistake::GiveUpWakesOne));
}

#[test]
fn planted_slow_is_dead() {
    finds("Causality", || impatient(TWO, Mistake::SlowIsDead));
}

#[test]
#[ignore = "takes minutes"]
fn long_two_in_all_orders() {
    let all = Depth { processes: 2, preemptions: None };
    tell("turns", turns(all, 2, Mistake::None));
    tell("death", death(all, Mistake::None));
    tell("heirs", heirs(all, false, Mistake::None));
    tell("heirs, WAITERS", heirs(all, true, Mistake::None));
    tell("abandoned", abandoned(all, Mistake::None));
    tell("given up", given_up(all, Mistake::None));
    tell("impatient", impatient(all, Mistake::None));
    // All of them are too many: the loads of the slot's words multiply them.
    tell("relet", relet(Depth { preemptions: Some(4), ..all }, Mistake::None));
}

#[test]
#[ignore = "takes minutes"]
fn long_three_with_more_preemptions() {
    tell("turns of three", turns(THREE_DEEP, 2, Mistake::None));
    tell("death of three", death(THREE_DEEP, Mistake::None));
    tell("heirs of three", heirs(THREE_DEEP, true, Mistake::None));
    tell("abandoned of three", abandoned(THREE_DEEP, Mistake::None));
    tell("given up of three", given_up(THREE_DEEP, Mistake::None));
    tell("relet of three", relet(THREE_DEEP, Mistake::None));
    tell("impatient of three", impatient(Depth { preemptions: Some(4), ..THREE_DEEP }, Mistake::None));
}
