//! The queues, model-checked
//!
//! Loom runs each model in all the orders in which its processes can take their steps, but for those with many
//! preemptions, and with all that a load may see by the memory model. It fails where somebody uses an element that another one uses too, or does
//! not see what was written to it; where all that are left sleep; and where elements are not received as they must be. Only a wake
//! or a death ends a sleep (`word/machine.rs`).
//!
//! | model | what it shows |
//! |---|---|
//! | [`passes`] | one sends more than there is room for, another one receives all, in order; both sleep where they must |
//! | [`skips`] | places that are taken and given up again are passed over, and come back |
//! | [`crowd`] | the same with two senders, or two receivers: each element is received once |
//! | [`dead_sender`] | a sender dies before any of its steps: what it had not committed was never sent; all others go on |
//! | [`dead_receiver`] | a receiver dies before any of its steps: one element is lost with it at most; all others go on |
//! | `closing` | (`models/closing.rs`) a queue is closed while others send, of whom one may die: nothing is left behind, and all are told |
//! | [`successor`] | of a single sender, or receiver, that dies: the next one goes on where it stood |
//!
//! | mistake | found by |
//! |---|---|
//! | a cell is taken first, and the holder written then | [`dead_sender`]: a deadlock |
//! | the counter is moved first, and the cell taken then | [`dead_sender`]: a deadlock |
//! | what a dead sender has not committed is taken for full | [`dead_sender`]: an element that nobody has sent |
//! | a place that is given up is free at once | [`skips`]: senders go round past the receivers, who find damage |
//! | a cell of a dead receiver is left to it | [`dead_receiver`]: a place is lost |
//! | slow is dead | [`crowd`]: a deadlock |
//! | sleepers are told before the commit | [`passes`]: a deadlock |
//! | committed without a fence | [`passes`]: a deadlock |
//! | a sleeper looks without a fence | [`passes`]: a deadlock |
//! | committed without Release | [`passes`]: two at one element |
//! | released before it was read | [`passes`]: two at one element |
//! | closed is closed, also where somebody is in the middle | `closing`: an element is left behind |
//! | whether it is closed is looked at once | `closing`: an element is sent that nobody receives |
//! | the same, or by a receiver, without a fence | `closing`: the same |
//! | of a closed queue's last element one is told | `closing`: a deadlock |
//! | a receiver starts where the last one began | [`successor`]: damage |

mod closing;
mod world;

use super::single;
use crate::word::machine::{Depth, Fate, THREE, TWO, check, check_each_death, finds, tell};
use loom::thread;
use std::vec::Vec;
use world::{Mistake, Process, World};

/// For models with many steps.
const TWO_SHALLOW: Depth = Depth { processes: 2, preemptions: Some(2) };
const THREE_SHALLOW: Depth = Depth { processes: 3, preemptions: Some(1) };

fn join(process: thread::JoinHandle<bool>) {
    assert!(!process.join().unwrap());
}

/// Each of these was received once, `maybe` once or never, and nothing else.
#[track_caller]
fn assert_received(received: &[u64], certain: &[u64], maybe: &[u64]) {
    let count = |wanted: u64| received.iter().filter(|element| **element == wanted).count();
    assert!(certain.iter().all(|element| count(*element) == 1), "received {received:?}, sent {certain:?}");
    assert!(maybe.iter().all(|element| count(*element) <= 1), "received {received:?}");
    let is_known = |element: &u64| certain.contains(element) || maybe.contains(element);
    assert!(received.iter().all(is_known), "received {received:?}: never sent");
}

/// One sends, one receives.
fn passes(depth: Depth, is_single: bool, cells: usize, elements: u64, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(is_single, cells, mistake);
        let sender = world
            .start(0, Fate::LIVES, move |process| (1..=elements).for_each(|element| process.send(element)));
        let receiver = world.start(1, Fate::LIVES, move |process| process.receive_all(elements as usize));
        join(sender);
        join(receiver);
        let expected: Vec<_> = (1..=elements).collect();
        assert_eq!(*world.received.borrow(), expected);
        assert_eq!(world.conclude(), expected);
    })
}

/// One takes places and gives them up, more than there are, and sends then; another one receives.
fn skips(depth: Depth, cells: usize, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(false, cells, mistake);
        let sender = world.start(0, Fate::LIVES, move |process| {
            (0..=cells).for_each(|_| process.reserve_and_drop());
            process.send(1);
        });
        let receiver = world.start(1, Fate::LIVES, |process| process.receive_all(1));
        join(sender);
        join(receiver);
        assert_eq!(world.conclude(), [1]);
    })
}

/// Two on one side: each sends one, or receives one, of two.
fn crowd(depth: Depth, of_senders: bool, cells: usize, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(false, cells, mistake);
        let all: Vec<_> = if of_senders {
            let mut all: Vec<_> = (1..=2)
                .map(|number| world.start(number, Fate::LIVES, move |process| process.send(number as u64)))
                .collect();
            all.push(world.start(0, Fate::LIVES, |process| process.receive_all(2)));
            all
        } else {
            let mut all: Vec<_> = (1..=2)
                .map(|number| world.start(number, Fate::LIVES, |process| process.receive_all(1)))
                .collect();
            all.push(
                world.start(0, Fate::LIVES, |process| (1..=2).for_each(|element| process.send(element))),
            );
            all
        };
        all.into_iter().for_each(join);
        assert_received(&world.conclude(), &[1, 2], &[]);
    })
}

/// One of two senders dies; the other one sends `elements`, which somebody waits for.
fn dead_sender(depth: Depth, cells: usize, elements: u64, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::new(false, cells, mistake);
        let victim = world.start(0, fate, |process| process.send(50));
        // One waits for as many as are sent for certain. What the victim sent comes too, or is left.
        let living = move |process: &Process| {
            if process.life.process() == 1 {
                (1..=elements).for_each(|element| process.send(element));
            } else {
                process.receive_all(elements as usize);
            }
        };
        if depth.processes == 2 {
            let other = world.start(1, Fate::LIVES, move |process| {
                (1..=elements).for_each(|element| {
                    process.send(element);
                    process.receive_all(1);
                });
            });
            join(other);
        } else {
            let others: Vec<_> = (1..3).map(|number| world.start(number, Fate::LIVES, living)).collect();
            others.into_iter().for_each(join);
        }
        let has_died = victim.join().unwrap();
        let certain: Vec<_> = (1..=elements).chain((!has_died).then_some(50)).collect();
        assert_received(&world.conclude(), &certain, &[50]);
        has_died
    })
}

/// One of two receivers dies.
fn dead_receiver(depth: Depth, cells: usize, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::new(false, cells, mistake);
        let victim = world.start(0, fate, |process| process.receive_all(1));
        let other = world.start(1, Fate::LIVES, |process| {
            process.send(1);
            // Room for the other one is made by the victim, if it has begun to, or else here.
            if !process.try_send(2) {
                let taken = process.try_receive();
                process.world.received.borrow_mut().extend(taken);
                process.send(2);
            }
        });
        join(other);
        let has_died = victim.join().unwrap();
        let received = world.conclude();
        assert!(received.len() >= if has_died { 1 } else { 2 }, "more than one is lost: {received:?}");
        assert_received(&received, &[], &[1, 2]);
        has_died
    })
}

type Work = fn(&Process);

/// A single sender, or receiver, dies, and another one takes its place.
fn successor(depth: Depth, is_sender: bool, cells: usize, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        const ELEMENTS: u64 = 2;
        let world = World::new(true, cells, mistake);
        // Elements are numbered as the positions are, so that a successor knows which one comes next.
        let sends = |process: &Process| {
            process.take_role(single::find_tail);
            (process.position.get()..ELEMENTS).for_each(|element| process.send(element));
        };
        let receives = |process: &Process| {
            if process.world.mistake != Mistake::FromTheBeginning {
                process.take_role(single::find_head);
            }
            for expected in process.position.get()..ELEMENTS {
                assert_eq!(process.receive(), expected, "out of order");
            }
        };
        let (mortal, other): (Work, Work) = if is_sender { (sends, receives) } else { (receives, sends) };
        let other = world.start(1, Fate::LIVES, other);
        let has_died = world.start(0, fate, mortal).join().unwrap();
        if has_died {
            mortal(&world.process(2, Fate::LIVES));
        }
        join(other);
        assert!(world.conclude().is_empty());
        has_died
    })
}

#[test]
fn elements_pass() {
    for is_single in [true, false] {
        passes(TWO_SHALLOW, is_single, 1, 2, Mistake::None);
        passes(TWO_SHALLOW, is_single, 2, 3, Mistake::None);
    }
}

#[test]
fn reservations_are_given_up() {
    skips(TWO_SHALLOW, 1, Mistake::None);
    skips(TWO_SHALLOW, 2, Mistake::None);
}

#[test]
fn planted_skipped_as_free() {
    finds("Damaged", || skips(TWO_SHALLOW, 1, Mistake::SkippedAsFree));
}

#[test]
fn two_senders() {
    crowd(THREE_SHALLOW, true, 1, Mistake::None);
    crowd(THREE_SHALLOW, true, 2, Mistake::None);
}

#[test]
fn two_receivers() {
    crowd(THREE_SHALLOW, false, 1, Mistake::None);
    crowd(THREE_SHALLOW, false, 2, Mistake::None);
}

#[test]
fn a_sender_dies() {
    dead_sender(TWO_SHALLOW, 2, 1, Mistake::None);
}

#[test]
fn a_receiver_dies() {
    dead_receiver(TWO_SHALLOW, 1, Mistake::None);
    dead_receiver(TWO_SHALLOW, 2, Mistake::None);
}

#[test]
fn a_single_one_has_a_successor() {
    for is_sender in [true, false] {
        successor(TWO_SHALLOW, is_sender, 1, Mistake::None);
        successor(TWO_SHALLOW, is_sender, 2, Mistake::None);
    }
}

#[test]
fn planted_two_words() {
    finds("deadlock", || dead_sender(TWO_SHALLOW, 2, 1, Mistake::TwoWords));
}

#[test]
fn planted_counter_first() {
    finds("deadlock", || dead_sender(TWO_SHALLOW, 2, 1, Mistake::CounterFirst));
}

#[test]
fn planted_unsent_as_full() {
    finds("never sent", || dead_sender(TWO_SHALLOW, 2, 1, Mistake::UnsentAsFull));
}

#[test]
fn planted_dead_reader_left() {
    finds("a place is lost", || dead_receiver(TWO_SHALLOW, 1, Mistake::DeadReaderLeft));
}

#[test]
fn planted_slow_is_dead() {
    finds("deadlock", || crowd(THREE, true, 2, Mistake::SlowIsDead));
}

#[test]
fn planted_tell_before_commit() {
    finds("deadlock", || passes(TWO_SHALLOW, true, 1, 2, Mistake::TellBeforeCommit));
    finds("deadlock", || passes(TWO_SHALLOW, false, 1, 2, Mistake::TellBeforeCommit));
}

#[test]
fn planted_without_a_fence() {
    for mistake in [Mistake::CommitWithoutFence, Mistake::LookWithoutFence] {
        finds("deadlock", || passes(TWO_SHALLOW, true, 1, 2, mistake));
    }
}

#[test]
fn planted_commit_without_release() {
    finds("Causality", || passes(TWO_SHALLOW, true, 1, 1, Mistake::CommitWithoutRelease));
}

#[test]
fn planted_release_before_read() {
    finds("Causality", || passes(TWO_SHALLOW, true, 1, 2, Mistake::ReleaseBeforeRead));
    finds("Causality", || passes(TWO_SHALLOW, false, 1, 2, Mistake::ReleaseBeforeRead));
}

#[test]
fn planted_receiver_from_the_beginning() {
    finds("Damaged", || successor(TWO_SHALLOW, false, 1, Mistake::FromTheBeginning));
}

#[test]
#[ignore = "takes minutes"]
fn long_two_with_more_preemptions() {
    for is_single in [true, false] {
        tell("passes", passes(TWO, is_single, 1, 2, Mistake::None));
        tell("passes, two cells", passes(TWO, is_single, 2, 3, Mistake::None));
    }
    for cells in [1, 2] {
        tell("skips", skips(TWO, cells, Mistake::None));
        tell("death of a receiver", dead_receiver(TWO, cells, Mistake::None));
        tell("successor of a sender", successor(TWO, true, cells, Mistake::None));
        tell("successor of a receiver", successor(TWO, false, cells, Mistake::None));
    }
    tell("death of a sender", dead_sender(TWO, 2, 1, Mistake::None));
}

#[test]
#[ignore = "takes minutes"]
fn long_crowds_and_deaths_among_three() {
    tell("two senders", crowd(THREE, true, 1, Mistake::None));
    tell("two receivers", crowd(THREE, false, 1, Mistake::None));
    tell("two receivers, two cells", crowd(THREE, false, 2, Mistake::None));
    tell("death of a sender among three", dead_sender(THREE_SHALLOW, 2, 1, Mistake::None));
}
