//! SIGKILL at every instruction of every operation
//!
//! A victim is single-stepped through one operation after another, on each allocator. It is judged at every instruction
//! boundary what its death there would leave (see `kills/judge.rs`), in two ways:
//! - **Images.** Whenever the victim has changed the segment, the segment is copied. When the victim is dead, each copy
//!   takes the place of the segment, and a new process judges it, beside one that was attached all along. Between two
//!   changes a death leaves the same bytes, so an image stands for all boundaries up to the next one.
//! - **Kills.** The victim is killed for real, at every change and before and after each system call, and those judge
//!   who were attached all along, with what they know from before, and a new process. At full length that is done at
//!   *every* instruction of each operation, or at every n-th of those that have many thousands.
//!
//! `cargo test --release --test kill_points -- --ignored --nocapture` is the full length.
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

/// Kills in all scenes, or in those whose labels begin as the second argument says.
fn drive<A: Allocator>(parent: &mut Parent) {
    let extent = Extent::parse(parent.argument(0));
    let only = parent.argument(1).to_owned();
    let mut runner = Runner::<A>::new();
    for scene in kills::scenes::all::<A>().iter().filter(|scene| scene.label.starts_with(&only)) {
        let line = runner.kill_in(scene, extent);
        campaign::progress(parent, &line);
    }
    runner.figures.tell(parent);
}

fn kill<A: Allocator>(extent: &str) -> Figures {
    let figures = campaign::run(&format!("kill {}", A::NAME), &[extent, ""]);
    println!("kill_points {}: {figures}", A::NAME);
    figures
}

fn kill_with_each_allocator(extent: &str) {
    let mut figures = kill::<Tlsf>(extent);
    figures.add(kill::<Slab>(extent));
    figures.add(kill::<Bump>(extent));
    figures.conclude("kill_points");
}

#[test]
fn killed_at_every_instruction() {
    kill_with_each_allocator("some");
}

#[test]
#[ignore = "takes minutes"]
fn long_killed_for_real_at_every_change() {
    kill_with_each_allocator("loud");
}

#[test]
#[ignore = "takes an hour"]
fn full_killed_for_real_at_every_instruction() {
    kill_with_each_allocator("every");
}
