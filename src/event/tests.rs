//! The word of an event, bit by bit

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use core::sync::atomic::Ordering;
use std::thread;

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);

fn word(event: &RawEvent) -> u32 {
    event.word.load(Ordering::Relaxed)
}

fn no_check() -> Result<(), ()> {
    Ok(())
}

#[test]
fn each_listener_has_other_marks_and_none_has_zero() {
    for count in [0, 7, u32::MAX >> 8] {
        for marks in 0..=MARKS {
            let event = RawEvent::over(AtomicU32::new(count << 8 | marks));
            assert_eq!(event.listen(), Count(count << 8));
            let is = word(&event);
            assert_eq!(is & !MARKS, count << 8, "the count was changed");
            assert!(is & MARKS != 0 && is & MARKS != marks, "{is:#x} after {marks:#x}");
        }
    }
}

#[test]
fn whoever_finds_nobody_asleep_takes_the_marks_back() {
    for notify in [RawEvent::notify_one, RawEvent::notify_all] {
        let event = RawEvent::new();
        notify(&event);
        assert_eq!(word(&event), COUNT_ONE);
        let since = event.listen();
        assert!(!event.has_happened_since(since));
        notify(&event);
        assert!(event.has_happened_since(since));
        assert_eq!(word(&event), 2 * COUNT_ONE);
    }
}

#[test]
fn the_count_goes_round_and_leaves_the_marks_alone() {
    let event = RawEvent::over(AtomicU32::new(!MARKS | 9));
    let since = event.listen();
    event.notify_one();
    assert_eq!(word(&event) & !MARKS, 0);
    assert!(event.has_happened_since(since));
}

#[test]
fn any_word_is_one_to_wait_at() {
    for count in [0, 1, u32::MAX >> 8] {
        for marks in [0, 1, 128, MARKS] {
            let event = RawEvent::over(AtomicU32::new(count << 8 | marks));
            let since = Count(count << 8);
            assert!(!event.sleep(since, Duration::from_millis(1)));
            event.notify_all();
            assert!(event.sleep(since, LONG));
        }
    }
}

#[test]
fn no_time_is_enough_to_be_asked_once() {
    let (event, mut asked) = (RawEvent::new(), 0);
    let mut ask = |answer: Option<u32>| {
        let condition = || {
            asked += 1;
            answer
        };
        event.wait_until(Duration::ZERO, no_check, condition)
    };
    assert_eq!(ask(None), Ok(None));
    assert_eq!(ask(Some(5)), Ok(Some(5)));
    assert_eq!(asked, 2);
    assert_eq!(word(&event), 0, "nobody has to be woken");
}

#[test]
fn where_nobody_may_sleep_nothing_is_written() {
    let event = RawEvent::new();
    assert_eq!(event.wait_until(LONG, || Err("not here"), || None::<u32>), Err("not here"));
    assert_eq!(word(&event), 0);
    assert_eq!(event.wait_until(LONG, || Err("not here"), || Some(1)), Ok(Some(1)));
}

#[test]
fn the_condition_is_asked_last_when_the_time_is_up() {
    let event = RawEvent::new();
    let start = clock_now(&event);
    let condition = || (clock_now(&event) - start >= SHORT).then_some(());
    assert_eq!(event.wait_until(SHORT, no_check, condition), Ok(Some(())));
    assert_eq!(event.wait_until(SHORT, no_check, || None::<()>), Ok(None));
}

fn clock_now(event: &RawEvent) -> Duration {
    event.word.now()
}

/// Somebody made it so, and was killed before it could say so.
#[test]
fn what_nobody_tells_is_seen_after_a_slice() {
    let (event, is_so) = (RawEvent::new(), AtomicU32::new(0));
    let is_true = || (is_so.load(Ordering::Relaxed) != 0).then_some(());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| event.wait_until(LONG, no_check, is_true));
        while word(&event) == 0 {
            thread::yield_now();
        }
        is_so.store(1, Ordering::Relaxed);
        assert_eq!(waiter.join().unwrap(), Ok(Some(())));
    });
}

#[test]
fn threads_take_turns() {
    const ROUNDS: u32 = 2000;
    let (event, turn) = (RawEvent::new(), AtomicU32::new(0));
    let player = |mine: u32| {
        for round in 0..ROUNDS {
            let wanted = 2 * round + mine;
            let is_mine = || (turn.load(Ordering::Acquire) == wanted).then_some(());
            assert_eq!(event.wait_until(LONG, no_check, is_mine), Ok(Some(())));
            turn.store(wanted + 1, Ordering::Release);
            event.notify_one();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| player(0));
        scope.spawn(|| player(1));
    });
    assert_eq!(turn.into_inner(), 2 * ROUNDS);
}
