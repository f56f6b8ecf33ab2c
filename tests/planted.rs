//! Mistakes put in on purpose, each found by a campaign
//!
//! Only with `--cfg planted`, which puts the mistakes into the crate, asleep until one is woken:
//! `RUSTFLAGS="--cfg planted" cargo test --target-dir target/planted --test planted`.
//!
//! | mistake | found by | as |
//! |---|---|---|
//! | `LockInTwoWords`: locked, and by whom, are two words | `kill_points` | an arena that is damaged: locked by nobody |
//! | `SizeBeforeRemainder`: Tlsf commits a size before the header behind it | `kill_points` | a damaged chain |
//! | `ClaimAnySerial`: a claim does not look at the serial | `kill_points` | a stale handle that is good |
//! | `ReleaseInTwoSteps`: first nobody holds it, then the last one does | `kill_points` | a block that is nobody's |
//! | `SlotBeforeObjects`: a sweep frees the slot before the objects | `kill_recovery` | objects that are never given back |
//! | `CommitWithoutFence`: a commit overtakes the stores before it | `kill_points` | a damaged chain |
//! | `OrphanAsWhole`: what a dead holder left is handed out | `torn_values`, itself | a guard that shows a torn value |
//! | `LengthAgain`: a claim loads the length again, after the check | `double_fetch`, itself | an object that is not in the segment |
//! | `UncheckedOffset`: a word of the heap wherever an offset says | `scribble`, itself | a `SIGSEGV` |
//! | `WalkOnTheSpot`: a block without a size ends no walk | `scribble`, itself | an operation without an end |
//! | `FailureIsDeath`: a question that fails is taken for the answer "dead" | `syscalls`, itself | a living process that is swept, or robbed of its lock |
//! | `MappingLeftOnError`: what has been mapped stays when the next step fails | `syscalls`, itself | a mapping left over |
//! | `SealUnchecked`: nobody looks whether a memfd could be sealed | `syscalls`, itself | a success that is none |
//! | `SeverQuietly`: zeros take the place of memory, and nobody is told | `truncation_moments`, itself | an arena that goes on with zeros |
//! | `ObjectWithoutEnd`: an object may end anywhere | fuzz target `objects` | a string that lies beyond the segment |
//! | `WalkWithoutBound`: a stack of blocks is followed for ever | fuzz target `recovery` | a call that does not end |
//!
//! Others are planted where they show better. An unlock that wakes nobody, a takeover by a plain store and seven more are in the
//! loom models of the lock (`src/lock/models.rs`), for all sleeps are short, and no campaign of real processes would
//! notice more than that it is slow; fifteen are in `object_model`, seven in `protocol_model`.
//!
//! Of the fence, what shows is that a commit stays behind the stores before it. That later stores stay behind the commit
//! matters to nothing that the crate writes today, since all that follows a commit repeats what it says; and
//! the compiler of today moves neither, so the mistake is made by hand.
#![cfg(all(planted, target_arch = "x86_64"))]
#![allow(missing_docs)]

#[macro_use]
mod common;
#[path = "hostile_memory/mod.rs"]
mod hostile;
mod kills;

use common::arena::Allocator;
use common::campaign::{self, Figures};
use common::{Child, Parent};
use kills::{Extent, Runner};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use shmem_bind::planted::{Mistake, plant};
use shmem_bind::{Slab, Tlsf};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

const MISTAKES: [Mistake; 6] = [
    Mistake::LockInTwoWords,
    Mistake::SizeBeforeRemainder,
    Mistake::ClaimAnySerial,
    Mistake::ReleaseInTwoSteps,
    Mistake::SlotBeforeObjects,
    Mistake::CommitWithoutFence,
];

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("find tlsf", drive::<Tlsf>), ("find slab", drive::<Slab>), ("seeds", run_seeds)]);
}

/// Runs the seeds of a fuzz target with the mistake that the environment names.
fn run_seeds(parent: &mut Parent) {
    // Not the time by the clock: others may be running too.
    setrlimit(Resource::RLIMIT_CPU, 5, 5).unwrap();
    hostile::plant();
    let target = parent.argument(0).to_owned();
    let (_, run) = hostile::TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    for (name, bytes) in hostile::seeds(&target) {
        parent.say(&name);
        run(&bytes);
    }
    parent.say("the end");
}

/// Gives at which seed of a target the mistake shows, and how.
fn seed_that_finds(mistake: &str, target: &str) -> (String, ExitStatus) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("SHMEM_BIND_PLANTED", mistake);
    let mut child = Child::spawn_by(command, "seeds", &[target]);
    let mut last = String::new();
    while let Some(name) = child.try_hear() {
        last = name;
    }
    (last, child.wait())
}

/// Makes a mistake, if there is one of this name, and runs a campaign on one scene.
fn drive<A: Allocator>(parent: &mut Parent) {
    let [mistake, campaign, label] = [0, 1, 2].map(|index| parent.argument(index).to_owned());
    let scenes = kills::scenes::all::<A>();
    let scene = scenes.iter().find(|scene| scene.label == label).unwrap();
    let mut runner = Runner::<A>::new();
    if let Some(mistake) = MISTAKES.into_iter().find(|other| format!("{other:?}") == mistake) {
        plant(mistake);
    }
    let line = match campaign.as_str() {
        "points" => runner.kill_in(scene, Extent::LONG),
        "recovery" => runner.kill_the_recovery(scene, 100),
        _ => panic!("{campaign}"),
    };
    campaign::progress(parent, &line);
    runner.figures.tell(parent);
}

/// The campaign finds the mistake, and nothing without it.
#[track_caller]
fn assert_found<A: Allocator>(mistake: Mistake, campaign: &str, label: &str) -> Figures {
    let role = format!("find {}", A::NAME);
    campaign::run(&role, &["none", campaign, label]).conclude("without a mistake");
    let figures = campaign::run(&role, &[&format!("{mistake:?}"), campaign, label]);
    println!("{mistake:?}: {figures}, at first {:?}", figures.reports.first());
    assert!(!figures.is_clean(), "{mistake:?} has not been found");
    figures
}

#[test]
fn a_lock_in_two_words() {
    let figures = assert_found::<Tlsf>(Mistake::LockInTwoWords, "points", "alloc");
    assert_ne!(figures.corrupt + figures.stuck, 0);
}

#[test]
fn a_size_before_the_remainder() {
    assert_ne!(assert_found::<Tlsf>(Mistake::SizeBeforeRemainder, "points", "alloc").corrupt, 0);
}

#[test]
fn a_claim_of_any_serial() {
    // Not only when somebody dies: the victim itself sees that it was given what it must not have.
    assert_ne!(assert_found::<Slab>(Mistake::ClaimAnySerial, "points", "claim of a stale handle").corrupt, 0);
}

#[test]
fn a_release_in_two_steps() {
    assert_ne!(assert_found::<Slab>(Mistake::ReleaseInTwoSteps, "points", "last release").corrupt, 0);
}

#[test]
fn a_slot_before_the_objects() {
    assert_ne!(assert_found::<Tlsf>(Mistake::SlotBeforeObjects, "recovery", "alloc").lost, 0);
    let label = "sweep of a corpse, opening the arena";
    assert_ne!(assert_found::<Slab>(Mistake::SlotBeforeObjects, "points", label).lost, 0);
}

#[test]
fn a_commit_without_a_fence() {
    assert_ne!(assert_found::<Tlsf>(Mistake::CommitWithoutFence, "points", "alloc").corrupt, 0);
}

#[test]
fn an_object_without_an_end() {
    let (last, status) = seed_that_finds("none", "objects");
    assert_eq!((&*last, status.success()), ("the end", true), "without a mistake");
    let (last, status) = seed_that_finds("ObjectWithoutEnd", "objects");
    println!("ObjectWithoutEnd: {last}, {status}");
    // What it has said of a panic stands before the child's own end.
    assert!(last != "the end" && !status.success() && status.signal().is_none(), "{last}: {status}");
}

#[test]
fn a_walk_without_a_bound() {
    let (last, status) = seed_that_finds("none", "recovery");
    assert_eq!((&*last, status.success()), ("the end", true), "without a mistake");
    let (last, status) = seed_that_finds("WalkWithoutBound", "recovery");
    println!("WalkWithoutBound: {last}, {status}");
    let signals = [Signal::SIGXCPU, Signal::SIGKILL].map(|signal| Some(signal as i32));
    assert!(last.ends_with("stack-in-a-circle") && signals.contains(&status.signal()), "{last}: {status}");
}
