//! A mutex that two processes contend for, who are killed at random moments
//!
//! `cargo test --release --test mutex_contended -- --ignored --nocapture` is the full length.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use common::campaign::{self, Board, Forked, Wrong};
use common::pair::{PATIENCE, Pair, Place};
use common::{Parent, TestName};
use shmem_bind::sync::LockError;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("contend", contend)]);
}

/// Two processes contend and one after the other is killed: what they counted stands in the value.
#[test]
fn the_lock_survives_those_who_contend_for_it() {
    campaign::run("contend", &["500"]).conclude("mutex_contended");
}

#[test]
#[ignore = "takes some minutes"]
fn long_the_lock_survives_those_who_contend_for_it() {
    // As many as the environment says.
    let kills = std::env::var("SHMEM_BIND_KILLS").unwrap_or("20000".to_owned());
    campaign::run("contend", &[&kills]).conclude("mutex_contended");
}

struct Counts {
    /// Changes that were finished, as each worker counts them after it has given the lock back.
    finished: [AtomicU64; 2],
    /// Values that were found in the middle of a change, and no death to blame.
    broken: AtomicU64,
    refused: AtomicU64,
    orphans: AtomicU64,
    stop: AtomicU32,
}

fn contend(parent: &mut Parent) {
    let name = TestName::new("contend");
    let place = Place::open(&name);
    let kills: u64 = parent.argument(0).parse().unwrap();
    let board = unsafe { Board::<Counts>::new() };
    let spawn = |index: usize| Forked::spawn(|| count(&name, &board, index));
    let mut workers = [0, 1].map(spawn);
    let mut figures = campaign::kill_at_random(parent, kills, &mut workers, spawn, |index| {
        // It has got the lock, at least once, since it was started.
        let finished = &board.finished[index];
        let before = finished.load(SeqCst);
        move || finished.load(SeqCst) != before
    });
    board.stop.store(1, SeqCst);
    workers.into_iter().for_each(Forked::finish);
    let pair = match place.mutex.lock_for(PATIENCE) {
        Ok(guard) => *guard,
        // The last one that was killed held it, and the others had stopped already.
        Err(LockError::Orphaned(orphaned)) => Pair::of(unsafe { (*orphaned.as_ptr()).first }),
        Err(error) => panic!("{error}"),
    };
    // Each death cost one count at most, and added one at most that its worker did not get to count.
    let finished: u64 = board.finished.iter().map(|count| count.load(SeqCst)).sum();
    if pair.first != pair.second || pair.first < finished || pair.first > finished + kills {
        figures.report(Wrong::Lost, format!("{pair:?} after {finished} changes and {kills} kills"));
    }
    for _ in 0..board.broken.load(SeqCst) {
        figures.report(Wrong::Corrupt, "a guard showed the middle of a change".to_owned());
    }
    for _ in 0..board.refused.load(SeqCst) {
        figures.report(Wrong::Stuck, "a lock was refused".to_owned());
    }
    let orphans = board.orphans.load(SeqCst);
    campaign::progress(
        parent,
        &format!("{kills} kills, {orphans} of them with the lock, {finished} changes"),
    );
    assert_ne!(orphans, 0, "nobody died with the lock");
    figures.tell(parent);
}

fn pause(spins: u64) {
    (0..spins).for_each(|_| std::hint::spin_loop());
}

fn count(name: &str, board: &Counts, index: usize) {
    let place = Place::open(name);
    while board.stop.load(SeqCst) == 0 {
        let mut guard = match place.mutex.lock_for(PATIENCE) {
            Ok(guard) => {
                if guard.first != guard.second {
                    board.broken.fetch_add(1, SeqCst);
                }
                guard
            }
            Err(LockError::Orphaned(orphaned)) => {
                board.orphans.fetch_add(1, SeqCst);
                let first = unsafe { (*orphaned.as_ptr()).first };
                // Replaced and not changed, so that it can be done again.
                orphaned.replace(Pair::of(first))
            }
            Err(_) => {
                board.refused.fetch_add(1, SeqCst);
                return;
            }
        };
        guard.first += 1;
        pause(30);
        guard.second += 1;
        drop(guard);
        board.finished[index].fetch_add(1, SeqCst);
        // The lock is not fair: without this the other one would seldom get it.
        pause(60);
    }
}
