//! Every system call of every operation fails, in every way that its man page lists
//!
//! A victim is traced through an operation, and one of its system calls is not made but fails: each of them in turn, with
//! each error, once and from then on always. `src/sys` has a [`Site`] for each place that makes one, and none may be left
//! out. What must come of it is said by [`expected`]: which error, or that there is another way. And whatever comes of it, nothing
//! is left over: descriptors, mappings, names, slots, locks; and nobody alive loses anything.
//!
//! `cargo test --release --test syscalls -- --ignored --nocapture` is the full matrix.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;
#[path = "syscalls/arenas.rs"]
mod arenas;
#[path = "syscalls/expected.rs"]
mod expected;
#[path = "syscalls/operations.rs"]
mod operations;
#[path = "syscalls/segments.rs"]
mod segments;
#[path = "syscalls/sites.rs"]
mod sites;
#[path = "syscalls/stage.rs"]
mod stage;

use common::Parent;
use common::campaign;
use common::tracer::stay_on_one_cpu;
use expected::{Expected, expected};
use nix::errno::Errno;
use operations::Operation;
use sites::Site;
use stage::{Extent, Injection, Outcome, Plan, Run, Stage};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// How many drivers share the operations.
const DRIVERS: usize = 4;
/// A time that is never waited for.
const LONG: Duration = Duration::from_secs(40);
/// One that is, if a call always fails.
const SHORT: Duration = Duration::from_millis(3);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("drive", drive),
        #[cfg(planted)]
        ("err", planted::err),
    ]);
}

#[test]
fn the_table_knows_all_calls_of_the_sources() {
    sites::assert_table_is_complete();
}

/// Four errors for each call, once, and one of them always, unless that takes long.
#[test]
fn every_system_call_fails() {
    matrix("4");
}

#[test]
#[ignore = "takes a minute or two"]
fn long_every_system_call_fails_in_every_way() {
    matrix("all");
}

fn matrix(errors: &str) {
    let drivers: Vec<_> = (0..DRIVERS)
        .map(|index| {
            let (index, errors) = (index.to_string(), errors.to_owned());
            std::thread::spawn(move || hear_of("drive", &[&index, &errors]))
        })
        .collect();
    let mut figures = Figures::default();
    drivers.into_iter().for_each(|driver| figures.add(driver.join().unwrap()));
    figures.conclude();
}

/// What the matrix has shown.
#[derive(Default)]
struct Figures {
    operations: u64,
    once: u64,
    always: u64,
    wrong: u64,
    leaks: u64,
    sites: BTreeSet<Site>,
    reports: Vec<String>,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.once += other.once;
        self.always += other.always;
        self.wrong += other.wrong;
        self.leaks += other.leaks;
        self.sites.extend(other.sites);
        self.reports.extend(other.reports);
    }

    #[track_caller]
    fn conclude(&self) {
        println!("syscalls: {self}");
        assert!(self.wrong + self.leaks == 0 && self.reports.is_empty(), "{:#?}", self.reports);
        let never: Vec<_> = sites::all().filter(|site| !self.sites.contains(site)).collect();
        assert!(never.is_empty(), "never failed in any operation: {never:?}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, once, always, wrong, leaks, sites, .. } = self;
        write!(
            f,
            "operations {operations}, sites {}, cells {} (once {once}, always {always}), wrong errors {wrong}, \
             leaks {leaks}",
            sites.len(),
            once + always
        )
    }
}

/// In the test: what a driver says.
fn hear_of(role: &str, arguments: &[&str]) -> Figures {
    let mut figures = Figures::default();
    let numbers = campaign::hear_of(role, arguments, "figures", |kind, rest| match kind {
        "report" => figures.reports.push(rest.to_owned()),
        "site" => _ = figures.sites.insert(Site::by_name(rest).unwrap()),
        _ => panic!("{kind} {rest}"),
    });
    [figures.operations, figures.once, figures.always, figures.wrong, figures.leaks] = numbers;
    figures
}

/// In a driver: goes through its share of the operations.
fn drive(parent: &mut Parent) {
    stay_on_one_cpu();
    let index: usize = parent.argument(0).parse().unwrap();
    let errors = parent.argument(1).parse().unwrap_or(usize::MAX);
    let mut figures = Figures::default();
    for operation in operations().skip(index).step_by(DRIVERS) {
        fail_each_call(operation, errors, &mut figures, parent);
    }
    tell(&figures, parent);
}

fn operations() -> impl Iterator<Item = &'static Operation> {
    // The first one must be that of a driver.
    arenas::ALL.iter().chain(segments::ALL)
}

/// Says what the matrix has shown.
fn tell(figures: &Figures, parent: &mut Parent) {
    figures.sites.iter().for_each(|site| parent.say(&format!("site {site:?}")));
    figures.reports.iter().take(60).for_each(|report| parent.say(&format!("report {report}")));
    let Figures { operations, once, always, wrong, leaks, .. } = figures;
    parent.say(&format!("figures {operations} {once} {always} {wrong} {leaks}"));
}

fn fail_each_call(operation: &Operation, errors: usize, figures: &mut Figures, parent: &mut Parent) {
    let label = operation.label;
    let (before, start) = (figures.once + figures.always, std::time::Instant::now());
    let plain = Stage::new(LONG).run(operation, None);
    let Some(usual) = plain.outcome else {
        figures.reports.push(format!("{label}: {:?}", plain.stuck));
        return;
    };
    if !plain.leaks.is_empty() || operation.named.is_some_and(|named| named != plain.has_name) {
        figures.reports.push(format!("{label}: {usual:?}, name {}, {:?}", plain.has_name, plain.leaks));
    }
    if plain.calls.is_empty() != operation.silent {
        figures.reports.push(format!("{label}: {:?}", plain.calls));
    }
    figures.operations += 1;
    for (index, call) in plain.calls.iter().enumerate() {
        let is_standing = operation.standing.iter().any(|standing| standing.0 == call.site);
        if is_standing || !operation.only.is_empty() && !operation.only.contains(&call.site) {
            continue;
        }
        for (injection, extent) in ways(call.site, errors, operation.is_slow) {
            let plan = Plan { index, injection, extent };
            let patience = if extent == Extent::Always && !operation.is_patient { SHORT } else { LONG };
            let run = Stage::new(patience).run(operation, Some(plan));
            let what = format!("{label}: call {index}, {call:?}: {injection:?} {extent:?}");
            match extent {
                Extent::Once => figures.once += 1,
                Extent::Always => figures.always += 1,
            }
            figures.sites.insert(call.site);
            judge(operation, &plan, &run, usual, &what, figures);
        }
    }
    let cells = figures.once + figures.always - before;
    parent.say(&format!(
        "progress   {label}: {} calls, {cells} cells, {:?}, {usual:?}",
        plain.calls.len(),
        start.elapsed()
    ));
}

/// The ways in which a call fails.
fn ways(site: Site, errors: usize, is_slow: bool) -> Vec<(Injection, Extent)> {
    let always = if errors == usize::MAX { errors } else { usize::from(!is_slow) };
    let fail =
        |count, extent| site.errnos().iter().take(count).map(move |errno| (Injection::Fail(*errno), extent));
    let short = [Extent::Once, Extent::Always].map(|extent| (Injection::Short, extent));
    let short = short.into_iter().filter(|_| site.may_be_short());
    fail(errors, Extent::Once).chain(fail(always, Extent::Always)).chain(short).collect()
}

fn judge(operation: &Operation, plan: &Plan, run: &Run, usual: Outcome, what: &str, figures: &mut Figures) {
    let Some(outcome) = run.outcome else {
        figures.wrong += 1;
        figures.reports.push(format!("{what}: {:?}", run.stuck));
        return;
    };
    if run.hit.is_empty() {
        figures.wrong += 1;
        figures.reports.push(format!("{what}: it never got there"));
        return;
    }
    let Expected { outcome: right, has_name } = expected(operation, plan, run, usual);
    if outcome != right {
        figures.wrong += 1;
        figures.reports.push(format!("{what}: {outcome:?} instead of {right:?}"));
    } else if has_name.is_some_and(|has_name| has_name != run.has_name) {
        figures.wrong += 1;
        figures.reports.push(format!("{what}: {outcome:?}, and the name: {}", run.has_name));
    }
    if let Err(error) = outcome {
        let message = error.to_string();
        if !message.contains("; ") && says_what_to_do(run.hit.last().unwrap().0.site, plan.injection) {
            figures.wrong += 1;
            figures.reports.push(format!("{what}: it does not say what to do: {message}"));
        }
    }
    if !run.leaks.is_empty() {
        figures.leaks += 1;
        figures.reports.push(format!("{what}: {outcome:?}: {:?}", run.leaks));
    }
}

/// Whether there is something that a person can do about an error, which its message must say.
fn says_what_to_do(site: Site, injection: Injection) -> bool {
    let Injection::Fail(errno) = injection else { return true };
    matches!(
        errno,
        Errno::EACCES
            | Errno::EDQUOT
            | Errno::EFBIG
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOENT
            | Errno::ENOLCK
            | Errno::ENOMEM
            | Errno::ENOSPC
            | Errno::ENOSYS
            | Errno::EPERM
            | Errno::EROFS
    ) || site == Site::Fallocate && errno == Errno::EOPNOTSUPP
}

/// The matrix finds mistakes; see `tests/planted.rs`.
#[cfg(planted)]
mod planted {
    use super::{Figures, Parent, fail_each_call, hear_of, operations, tell};
    use shmem_bind::planted::{Mistake, plant};

    const MISTAKES: [Mistake; 3] =
        [Mistake::FailureIsDeath, Mistake::MappingLeftOnError, Mistake::SealUnchecked];

    /// Makes a mistake, if there is one of this name, and goes through one operation.
    pub(super) fn err(parent: &mut Parent) {
        let [mistake, label] = [0, 1].map(|index| parent.argument(index).to_owned());
        if let Some(mistake) = MISTAKES.into_iter().find(|other| format!("{other:?}") == mistake) {
            plant(mistake);
        }
        let operation = operations().find(|operation| operation.label == label).unwrap();
        let mut figures = Figures::default();
        fail_each_call(operation, usize::MAX, &mut figures, parent);
        tell(&figures, parent);
    }

    /// The matrix finds the mistake, and nothing without it.
    #[track_caller]
    fn find(mistake: Mistake, label: &str) -> Figures {
        let sound = hear_of("err", &["none", label]);
        assert!(sound.reports.is_empty(), "without a mistake: {:#?}", sound.reports);
        let figures = hear_of("err", &[&format!("{mistake:?}"), label]);
        println!("{mistake:?}: {figures}, at first {:?}", figures.reports.first());
        figures
    }

    #[test]
    fn a_failure_taken_for_a_death() {
        let figures = find(Mistake::FailureIsDeath, "sweep");
        assert_ne!(figures.wrong, 0, "a living one is swept");
        assert_ne!(figures.leaks, 0, "and has lost its slot");
        assert_ne!(find(Mistake::FailureIsDeath, "alloc, the lock held by a living one").leaks, 0);
    }

    #[test]
    fn a_mapping_left_on_error() {
        assert_ne!(find(Mistake::MappingLeftOnError, "arena, to be formatted").leaks, 0);
    }

    #[test]
    fn a_seal_unchecked() {
        assert_ne!(find(Mistake::SealUnchecked, "memfd create").wrong, 0);
    }
}
