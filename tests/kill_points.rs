//! SIGKILL at every instruction of every operation
//!
//! A victim is single-stepped through one operation after another, on each allocator. It is judged at every instruction
//! boundary what its death there would leave (see `kills/judge.rs`), in two ways:
//! - **Images.** Whenever the victim has changed the segment, the segment is copied. When the victim is dead, each copy
//!   takes the place of the segment, and a new process judges it, beside one that was attached all along. Between two
//!   changes a death leaves the same bytes, so an image stands for all boundaries up to the next one.
//! - **Kills.** The victim is killed for real, at every change and before and after each system call, and those judge
//!   who were attached all along, with what they know from before, and a new process. At full length that is done at
//!   *every* instruction of operations that have few hundred, and at every n-th of longer ones.
//!
//! `cargo test --release --test kill_points -- --ignored full_ --nocapture` is the full length, without `--release` that
//! of a debug build. Where something is wrong, the report names the scene; `SHMEM_BIND_SCENE` plays those alone
//! whose labels begin with it.
#![cfg(target_arch = "x86_64")]
#![allow(missing_docs)]

#[macro_use]
mod common;
mod kills;

use common::Parent;
use common::arena::Allocator;
use common::campaign::{self, Figures};
use kills::{Extent, Runner};
use shmem_bind::{Bump, Slab, Tlsf};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("kill tlsf", drive::<Tlsf>),
        ("kill slab", drive::<Slab>),
        ("kill bump", drive::<Bump>),
    ]);
}

/// Kills in every so many-th scene whose label begins as the last argument says.
fn drive<A: Allocator>(parent: &mut Parent) {
    let [extent, scenes, label] = [0, 1, 2].map(|index| parent.argument(index).to_owned());
    let mut runner = Runner::<A>::new();
    let all = kills::scenes::all::<A>();
    let chosen = all.iter().filter(|scene| scene.label.starts_with(&label));
    for scene in chosen.step_by(scenes.parse().unwrap()) {
        let line = runner.kill_in(scene, Extent::parse(&extent));
        campaign::progress(parent, &line);
    }
    campaign::progress(
        parent,
        &format!("kill_points {}: of these killed for real {}", A::NAME, runner.kills),
    );
    runner.figures.tell(parent);
}

fn kill<A: Allocator>(extent: &str, scenes: &str) -> Figures {
    let label = std::env::var("SHMEM_BIND_SCENE").unwrap_or_default();
    let figures = campaign::run(&format!("kill {}", A::NAME), &[extent, scenes, &label]);
    println!("kill_points {}: {figures}", A::NAME);
    figures
}

fn kill_with_each_allocator(extent: &str, scenes: [&str; 3]) {
    let mut figures = kill::<Tlsf>(extent, scenes[0]);
    figures.add(kill::<Slab>(extent, scenes[1]));
    figures.add(kill::<Bump>(extent, scenes[2]));
    figures.conclude("kill_points");
}

#[test]
fn killed_in_the_beginning() {
    kill_with_each_allocator("short", ["1", "6", "6"]);
}

#[test]
#[ignore = "takes minutes; of so many scenes one, if the environment says"]
fn long_killed_wherever_something_changes() {
    let every = std::env::var("SHMEM_BIND_EVERY").unwrap_or("1".into());
    kill_with_each_allocator("long", [&every; 3]);
}

#[test]
#[ignore = "takes an hour"]
fn full_killed_at_every_instruction() {
    kill_with_each_allocator("full", ["1", "1", "1"]);
}
