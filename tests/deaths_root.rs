//! Nobody is taken for dead who is not, and everybody who is is noticed by the first who asks: with PIDs that are used
//! again, in other namespaces, and without `/proc`
//!
//! ```text
//! cargo test --test '*root*' -- --ignored root_
//! cargo test --release --test deaths_root -- --ignored long_ --nocapture     # each scene many times, stopped for 10 s
//! ```
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[macro_use]
mod common;
mod dying;

use common::{Parent, campaign};
use dying::{Court, each, scenes, spaces};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("judge", judge)]);
}

fn judge(parent: &mut Parent) {
    let court = Court::new(parent);
    court.play_each("routine", each!(scenes::routine));
    court.play_round("stopped", each!(scenes::stop));
    court.play_each("fork", each!(scenes::fork));
    court.play_each("exec", each!(scenes::exec));
    court.play_each("no main thread", each!(scenes::leader));
    court.play_each("traced, and waiting for a child", each!(scenes::late));
    court.play_each("another network namespace", each!(spaces::other_network));
    court.play_each("a PID namespace", each!(spaces::contained));
    court.play_each("a PID namespace with its own /proc", each!(spaces::contained_with_proc));
    court.play_each("no /proc", each!(spaces::no_proc));
    court.play_each("no /proc, fork", each!(spaces::no_proc_fork));
    court.play_each("no /proc, exec", each!(spaces::no_proc_exec));
    court.play_each("no /proc, no main thread", each!(spaces::no_proc_leader));
    court.play_each("PIDs again", each!(spaces::pid_again));
    court.play_each("PIDs again, foreign /proc", each!(spaces::pid_again_foreign_proc));
    court.play_each("PIDs again, no /proc", each!(spaces::pid_again_no_proc));
    court.play_each("containers", each!(spaces::containers));
    court.play_each("one PID in two namespaces", each!(spaces::twins));
    court.play_each("containers that are started again", each!(spaces::restarts));
    court.play_each("no pidfds", each!(spaces::filtered));
    court.play_each("unknown", each!(spaces::unknown));
    court.play_each("no descriptors", each!(spaces::no_descriptors));
    court.play_each("other clocks", each!(spaces::other_clocks));
    court.tell(parent);
}

#[test]
#[ignore = "needs root"]
fn root_the_dead_are_noticed_and_nobody_else() {
    campaign::run("judge", &["1", "200"]).conclude("deaths");
}

/// As root too.
#[test]
#[ignore = "takes minutes"]
fn long_the_dead_are_noticed_and_nobody_else() {
    campaign::run("judge", &["20", "10000"]).conclude("deaths");
}
