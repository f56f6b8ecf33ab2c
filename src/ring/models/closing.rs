//! Queues that are closed while others send
//!
//! Whoever is told that nothing more comes has got all that was sent before, whoever stands in the way; and everybody is told.

use super::world::{Mistake, Process, World};
use super::{TWO_SHALLOW, assert_received, join};
use crate::word::machine::{Depth, Fate, THREE, TWO, check, check_each_death, finds};

fn receive_to_the_end(process: &Process) {
    while let Some(element) = process.receive_unless_closed() {
        process.world.received.borrow_mut().push(element);
    }
}

/// One sends, and may die. The other one sends too, closes the queue, and receives what is left.
fn closing(depth: Depth, mistake: Mistake) -> u64 {
    check_each_death(depth, move |fate| {
        let world = World::new(false, 2, mistake);
        let mortal = world.start(0, fate, |process| process.send(50));
        let other = world.start(1, Fate::LIVES, |process| {
            process.send(1);
            process.close();
            receive_to_the_end(process);
        });
        join(other);
        assert!(world.received.borrow().contains(&1), "it was left behind");
        let has_died = mortal.join().unwrap();
        let certain: &[u64] = if has_died { &[1] } else { &[1, 50] };
        assert_received(&world.conclude(), certain, &[50]);
        has_died
    })
}

/// One sends while another one closes: it is told that nothing was sent, or the element comes before the end.
fn sending_meanwhile(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(false, 2, mistake);
        let sender = world.start(0, Fate::LIVES, |process| {
            if process.send_while_open(1) {
                process.world.sent.borrow_mut().push(1);
            }
        });
        let is_third = depth.processes == 3;
        let closer = is_third.then(|| world.start(2, Fate::LIVES, |process| process.close()));
        let receiver = world.start(1, Fate::LIVES, move |process| {
            if !is_third {
                process.close();
            }
            receive_to_the_end(process);
        });
        [Some(sender), closer, Some(receiver)].into_iter().flatten().for_each(join);
        assert_eq!(*world.received.borrow(), *world.sent.borrow(), "it was sent and left behind");
        assert_received(&world.conclude(), &[], &[1]);
    })
}

/// One sends, another one closes, and two wait for the end.
fn crowd_at_the_end(depth: Depth, mistake: Mistake) -> u64 {
    check(depth, move || {
        let world = World::new(false, 2, mistake);
        let all = [
            world.start(0, Fate::LIVES, |process| process.send(1)),
            world.start(1, Fate::LIVES, |process| {
                process.close();
                receive_to_the_end(process);
            }),
            world.start(2, Fate::LIVES, receive_to_the_end),
        ];
        all.into_iter().for_each(join);
        assert_received(&world.conclude(), &[1], &[]);
    })
}

#[test]
fn nothing_is_left_behind() {
    closing(TWO, Mistake::None);
}

#[test]
fn all_come_to_the_end() {
    crowd_at_the_end(THREE, Mistake::None);
}

#[test]
fn what_is_sent_while_it_is_closed_comes_before_the_end() {
    sending_meanwhile(TWO, Mistake::None);
    sending_meanwhile(THREE, Mistake::None);
}

#[test]
fn planted_closed_looked_at_once() {
    finds("left behind", || sending_meanwhile(TWO_SHALLOW, Mistake::ClosedLookedAtOnce));
}

#[test]
fn planted_closed_without_fence() {
    finds("left behind", || sending_meanwhile(TWO, Mistake::ClosedWithoutFence));
}

#[test]
fn planted_at_the_end_without_fence() {
    finds("left behind", || sending_meanwhile(THREE, Mistake::AtEndWithoutFence));
}

#[test]
fn planted_closed_in_the_middle() {
    finds("left behind", || closing(TWO_SHALLOW, Mistake::ClosedInTheMiddle));
}

#[test]
fn planted_closed_is_for_one() {
    finds("deadlock", || crowd_at_the_end(THREE, Mistake::ClosedIsForOne));
}
