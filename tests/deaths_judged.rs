//! Nobody is taken for dead who is not, and everybody who is is noticed by the first who asks
//!
//! Here are the states of a process that anybody may bring about. What needs other namespaces, or a PID of one's own
//! choice, is in `deaths_root.rs`.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[macro_use]
mod common;
mod dying;

use common::{Parent, campaign};
use dying::{Court, each, scenes};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("judge", judge)]);
}

fn judge(parent: &mut Parent) {
    let court = Court::new(parent);
    court.play_each("routine", each!(scenes::routine));
    court.play_round("stop", each!(scenes::stop));
    court.play_each("fork", each!(scenes::fork));
    court.play_each("exec", each!(scenes::exec));
    court.play_each("leader", each!(scenes::leader));
    court.play_each("late", each!(scenes::late));
    court.tell(parent);
}

#[test]
fn the_dead_are_noticed_and_nobody_else() {
    campaign::run("judge", &["1", "100"]).conclude("deaths");
}
