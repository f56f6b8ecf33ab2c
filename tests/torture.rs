//! Processes that do everything at random with one segment, and are killed at random
//!
//! Eight workers allocate, free, leak, claim, share, publish, lock, grow, check, attach and detach, in an order that follows from
//! a seed. The supervisor kills them at any moment: one, several, or all at once, some of them stopped before, some left
//! as zombies; and forks others in their place. Now and then all are made to stop, or all are killed, and an
//! auditor settles accounts: what is in use is what the living say that they hold, what has a name and what was leaked;
//! and when these are taken back, the arena is as empty as a new one. Objects show whether they live and whose they are, no
//! destructor runs twice, no handle is claimed twice, and nobody hangs: most of those that seem to are spared until that is
//! known. Two numbers under a lock are equal whenever somebody has locked them, also after a wait at a condvar, and found
//! orphaned only after a death; what is initialised once is whole, and the same for all.
//!
//! `SHMEM_BIND_SECONDS` is how long the long run takes, and `SHMEM_BIND_SEED` makes processes do the same once more,
//! though not at the same moments:
//! ```text
//! cargo test --release --test torture -- --ignored --nocapture
//! ```
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[allow(unused_macros)]
mod common;

mod torture {
    pub mod auditor;
    pub mod board;
    pub mod guarded;
    pub mod objects;
    pub mod plan;
    pub mod several;
    pub mod supervisor;
    pub mod worker;
}

use common::Parent;
use common::arena::Allocator;
use common::campaign::{self, Board, Figures};
use shmem_bind::{Bump, Slab, Tlsf};
use std::env;
use std::time::{Duration, Instant, SystemTime};
use torture::board::{Deed, Shared};
use torture::supervisor;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("torture tlsf", drive::<Tlsf>),
        ("torture slab", drive::<Slab>),
        ("torture bump", drive::<Bump>),
    ]);
}

/// The driver, for an allocator: some seconds at a time, so that it is heard of.
fn drive<A: Allocator>(parent: &mut Parent) {
    const TURN: u64 = 20;
    /// Until so many have been killed everything has been done, also what is seldom.
    const MANY: u64 = 5000;
    let mut figures = Figures::default();
    let mut omitted = Deed::NAMES.to_vec();
    let mut left: u64 = parent.argument(0).parse().unwrap();
    let (mut operations, start) = (0, Instant::now());
    let mut seed: u64 = parent.argument(1).parse().unwrap();
    while left > 0 && figures.is_clean() {
        let turn = left.min(TURN);
        // Zeros are what it begins with.
        let board = unsafe { Board::<Shared>::new() };
        figures.add(supervisor::torture::<A>(&board, seed, Duration::from_secs(turn)));
        campaign::progress(parent, &format!("torture {}: seed {seed}, {figures}", A::NAME));
        campaign::progress(parent, &format!("    {}", board.deeds()));
        omitted.retain(|deed| board.omitted().contains(deed));
        operations += board.operations();
        left -= turn;
        seed += 1;
    }
    let rate = figures.points as f64 / start.elapsed().as_secs_f64();
    campaign::progress(
        parent,
        &format!("torture {}: {operations} operations, {rate:.0} kills per second", A::NAME),
    );
    if figures.is_clean() && figures.points >= MANY && !omitted.is_empty() {
        // Of what was never done nothing has been shown.
        figures.complain(format!("torture {}: never {}", A::NAME, omitted.join(", ")));
    }
    figures.tell(parent);
}

/// So many seconds for each allocator.
fn torture_for(seconds: u64) {
    let since = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000 * 1000;
    let seed = env::var("SHMEM_BIND_SEED").map_or_else(|_| since(), |seed| seed.parse().unwrap());
    let mut figures = Figures::default();
    for role in ["torture tlsf", "torture slab", "torture bump"] {
        figures.add(campaign::run(role, &[&seconds.to_string(), &seed.to_string()]));
    }
    figures.conclude("torture");
}

#[test]
fn workers_are_killed_at_any_time() {
    torture_for(2);
}

#[test]
#[ignore = "takes ten minutes, or as many seconds as the environment says"]
fn long_torture() {
    let seconds: u64 = env::var("SHMEM_BIND_SECONDS").map_or(600, |seconds| seconds.parse().unwrap());
    torture_for(seconds.div_ceil(3));
}
