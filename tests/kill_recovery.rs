//! SIGKILL at every instruction of the recovery from a SIGKILL
//!
//! A victim leaves an image of the segment wherever it changes it (see `kill_points.rs`). Of each of them somebody opens
//! the arena, which sweeps the dead, takes their locks over and puts right what these protect; that one is single-stepped
//! too, and each image that *it* leaves is judged by a third process: what the first held is given back once,
//! whoever does it, and however often one who was at it dies.
//!
//! `cargo test --release --test kill_recovery -- --ignored full_ --nocapture` is the full length: every image of every operation.
#![cfg(target_arch = "x86_64")]
#![allow(missing_docs)]

#[macro_use]
mod common;
mod kills;

use common::Parent;
use common::arena::Allocator;
use common::campaign;
use kills::Runner;
use shmem_bind::{Bump, Slab, Tlsf};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("recover tlsf", drive::<Tlsf>),
        ("recover slab", drive::<Slab>),
        ("recover bump", drive::<Bump>),
    ]);
}

/// In every so many-th scene, of every so many-th image.
fn drive<A: Allocator>(parent: &mut Parent) {
    let [scenes, images] = [0, 1].map(|index| parent.argument(index).parse().unwrap());
    let mut runner = Runner::<A>::new();
    let in_segment = kills::scenes::all::<A>().into_iter().filter(|scene| scene.is_in_segment);
    for scene in in_segment.step_by(scenes) {
        let line = runner.kill_the_recovery(&scene, images);
        campaign::progress(parent, &line);
    }
    runner.figures.tell(parent);
}

fn recover_with_each_allocator(scenes: &str, images: &str) {
    let run = |name| campaign::run(&format!("recover {name}"), &[scenes, images]);
    let mut figures = run(Tlsf::NAME);
    figures.add(run(Slab::NAME));
    figures.add(run(Bump::NAME));
    figures.conclude("kill_recovery");
}

#[test]
fn killed_in_some_recoveries() {
    recover_with_each_allocator("15", "80");
}

#[test]
#[ignore = "takes minutes"]
fn long_killed_in_more_recoveries() {
    recover_with_each_allocator("4", "40");
}

#[test]
#[ignore = "takes an hour"]
fn full_killed_in_every_recovery() {
    recover_with_each_allocator("1", "1");
}
