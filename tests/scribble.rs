//! A peer that scribbles over a segment while another one does everything with it
//!
//! A victim goes through all operations of the crate, again and again, each time with a new segment, named or not, with each
//! allocator. A vandal has mapped the same file and overwrites it meanwhile: header, tenancies, locks, the allocator's
//! state, headers of blocks, the table of names, the export bitmap; with numbers, lengths, offsets of other blocks and of
//! the word itself, with what was there before; gently, so that most operations get far before they meet damage, and
//! wholesale. It also brings in the dead, who held objects and locks.
//!
//! The victim may get any error. It must not get a signal, nor panic, nor be at one operation for longer than that takes; what it
//! is given must lie in its own mapping, and when it has dropped everything it has no file open and nothing mapped. (It uses types of
//! which any bytes are values: those are the peers' to change. For the same reason objects may overlap, and the victim writes to all that it
//! is given, also if it then is the vandal.)
//!
//! `SHMEM_BIND_SECONDS` is how long the long run takes; `SHMEM_BIND_SEED` makes both do the same once more, though not
//! at the same moments:
//! ```text
//! cargo test --release --test scribble -- --ignored long_ --nocapture
//! RUSTFLAGS=-Zsanitizer=address cargo +nightly test --target x86_64-unknown-linux-gnu --target-dir target/asan --test scribble
//! ```
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[allow(unused_macros)]
mod common;
mod hostile;

mod scribble {
    pub mod deeds;
    pub mod board;
    pub mod supervisor;
    pub mod tools;
    pub mod vandal;
    pub mod victim;
}

use common::Parent;
use common::arena::Allocator;
use common::campaign;
use hostile::verdict::{self, Verdict};
use scribble::supervisor;
use shmem_bind::{Bump, Slab, Tlsf};
use std::env;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("scribble tlsf", drive::<Tlsf>),
        ("scribble slab", drive::<Slab>),
        ("scribble bump", drive::<Bump>),
    ]);
}

/// The driver, for an allocator: some seconds at a time, so that it is heard of.
fn drive<A: Allocator>(parent: &mut Parent) {
    const TURN: u64 = 20_000;
    /// After so many operations all has been done, and has succeeded and failed, also what is seldom.
    const MANY: u64 = 100_000;
    let board = supervisor::board();
    #[cfg(planted)]
    planted::plant_by_name(parent.argument(2));
    let mut verdict = Verdict::default();
    let [mut left, mut seed] = [0, 1].map(|index| parent.argument(index).parse::<u64>().unwrap());
    verdict::panics_are_heard_at(&board.last_words);
    while left > 0 && verdict.is_clean() {
        let time = left.min(TURN);
        verdict.add(supervisor::campaign::<A>(board, seed, Duration::from_millis(time)));
        campaign::progress(parent, &format!("scribble {}: seed {seed}, {verdict}", A::NAME));
        left -= time;
        seed += 1000;
    }
    let (depth, missing) = supervisor::depth(board);
    campaign::progress(parent, &format!("    turns {}, {depth}", board.turns.load(SeqCst)));
    if verdict.is_clean() && board.operations.load(SeqCst) >= MANY && !missing.is_empty() {
        verdict.report(format!("scribble {}: {}", A::NAME, missing.join(", ")));
    }
    verdict.tell();
}

/// So many milliseconds for an allocator.
fn scribble(role: &str, milliseconds: u64, mistake: &str) -> Verdict {
    let since = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000 * 1000;
    let seed = env::var("SHMEM_BIND_SEED").map_or_else(|_| since(), |seed| seed.parse().unwrap());
    verdict::run(role, &[&milliseconds.to_string(), &seed.to_string(), mistake])
}

/// So many milliseconds for each allocator.
fn scribble_for(milliseconds: u64) {
    let mut verdict = Verdict::default();
    for role in ["scribble tlsf", "scribble slab", "scribble bump"] {
        verdict.add(scribble(role, milliseconds, "none"));
    }
    verdict.conclude("scribble");
}

#[test]
fn a_peer_scribbles() {
    scribble_for(1000);
}

#[test]
#[ignore = "takes a minute, or as many seconds as the environment says"]
fn long_scribble() {
    let seconds: u64 = env::var("SHMEM_BIND_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    scribble_for(seconds * 1000 / 3);
}

/// Mistakes put in on purpose, each of which is found.
#[cfg(planted)]
mod planted {
    use super::scribble;
    use shmem_bind::planted::{Mistake, plant};

    const MISTAKES: [Mistake; 2] = [Mistake::UncheckedOffset, Mistake::WalkOnTheSpot];

    pub fn plant_by_name(name: &str) {
        if let Some(mistake) = MISTAKES.into_iter().find(|mistake| format!("{mistake:?}") == name) {
            plant(mistake);
        }
    }

    #[test]
    fn an_offset_that_is_not_checked() {
        let verdict = scribble("scribble tlsf", 40_000, "UncheckedOffset");
        println!("UncheckedOffset: {verdict}, at first {:?}", verdict.reports.first());
        assert_ne!(verdict.signals, 0);
    }

    #[test]
    fn a_walk_on_the_spot() {
        let verdict = scribble("scribble tlsf", 40_000, "WalkOnTheSpot");
        println!("WalkOnTheSpot: {verdict}, at first {:?}", verdict.reports.first());
        assert_ne!(verdict.late, 0);
    }
}
