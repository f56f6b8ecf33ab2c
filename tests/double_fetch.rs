//! A word changes between two loads of it
//!
//! A victim is single-stepped through one operation after another, on each allocator, and each of its instructions is
//! decoded: so it is known which words of the segment it loads, and when. Then other victims come to the same segment,
//! go to one of these loads, and find another word there, put in its place at that very moment: a number, a length, an
//! offset, that of the word itself, a state that no block can have; for good, or for this load alone. Most are of words that
//! have been loaded before, and perhaps checked.
//!
//! The victim may get any error, also where its scene (see `kills/scenes.rs`) wants none. It must not get a signal, the
//! crate must not panic, it must come to its end, with all that it was given given up again, and what it was
//! given must lie in the segment.
//!
//! `SHMEM_BIND_SECONDS` is how long the long run takes, `SHMEM_BIND_SEED` what is chosen, `SHMEM_BIND_SCENE` plays
//! those scenes alone whose labels begin with it:
//! ```text
//! cargo test --release --test double_fetch -- --ignored long_ --nocapture
//! ```
#![cfg(target_arch = "x86_64")]
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[allow(unused_macros)]
mod common;
mod hostile;
mod kills;

mod double_fetch {
    pub mod loads;
    pub mod runner;
}

use common::Parent;
use common::arena::Allocator;
use common::campaign;
use double_fetch::runner::Runner;
use hostile::verdict::{self, Verdict};
use shmem_bind::{Bump, Slab, Tlsf};
use std::env;
use std::time::{Duration, SystemTime};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("fetch tlsf", drive::<Tlsf>),
        ("fetch slab", drive::<Slab>),
        ("fetch bump", drive::<Bump>),
    ]);
}

/// Plays every so many-th scene whose label begins as the last argument says, for so many milliseconds in all.
fn drive<A: Allocator>(parent: &mut Parent) {
    let [time, seed, stride, most_steps] =
        [0, 1, 2, 3].map(|index| parent.argument(index).parse::<u64>().unwrap());
    let label = parent.argument(4).to_owned();
    #[cfg(planted)]
    if parent.argument(5) == "LengthAgain" {
        shmem_bind::planted::plant(shmem_bind::planted::Mistake::LengthAgain);
    }
    let mut runner = Runner::<A>::new(seed);
    let all = kills::scenes::all::<A>();
    let fit = all.iter().filter(|scene| Runner::<A>::is_fit(scene) && scene.label.starts_with(&label));
    let chosen: Vec<_> = fit.skip((seed % stride) as usize).step_by(stride as usize).collect();
    let each = Duration::from_millis(time) / chosen.len().max(1) as u32;
    for scene in chosen {
        runner.replace_in(scene, most_steps as usize, each);
    }
    let (slowest, label) = runner.slowest;
    campaign::progress(
        parent,
        &format!("double_fetch {}: {}, slowest {slowest:?} in {label}", A::NAME, runner.verdict),
    );
    runner.verdict.tell();
}

/// So many milliseconds for an allocator, in every so many-th scene whose label begins like this, whose operation is followed for
/// so many instructions.
fn fetch(role: &str, numbers: [u64; 3], label: &str, mistake: &str) -> Verdict {
    let since = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000;
    let seed = env::var("SHMEM_BIND_SEED").map_or_else(|_| since(), |seed| seed.parse().unwrap());
    let [time, stride, most_steps] = numbers;
    let numbers = [time, seed, stride, most_steps].map(|number| number.to_string());
    let [time, seed, stride, most_steps] = numbers.each_ref().map(String::as_str);
    verdict::run(role, &[time, seed, stride, most_steps, label, mistake])
}

fn fetch_with_each_allocator(numbers: [u64; 3]) {
    let label = env::var("SHMEM_BIND_SCENE").unwrap_or_default();
    let mut verdict = Verdict::default();
    for role in ["fetch tlsf", "fetch slab", "fetch bump"] {
        verdict.add(fetch(role, numbers, &label, "none"));
    }
    verdict.conclude("double_fetch");
}

#[test]
fn a_word_changes_between_two_loads() {
    fetch_with_each_allocator([1000, 12, 6000]);
}

#[test]
#[ignore = "takes two minutes, or as many seconds as the environment says"]
fn long_words_change_between_two_loads() {
    let seconds: u64 = env::var("SHMEM_BIND_SECONDS").map_or(120, |seconds| seconds.parse().unwrap());
    fetch_with_each_allocator([seconds * 1000 / 3, 1, 100_000]);
}

/// A mistake put in on purpose, which is found.
#[cfg(planted)]
#[test]
fn a_length_that_is_loaded_again() {
    let play = |mistake| fetch("fetch tlsf", [10_000, 1, 100_000], "claim of a slice", mistake);
    play("none").conclude("without a mistake");
    let verdict = play("LengthAgain");
    println!("LengthAgain: {verdict}, at first {:?}", verdict.reports.first());
    assert!(verdict.panics + verdict.signals != 0, "it has not been found");
}
