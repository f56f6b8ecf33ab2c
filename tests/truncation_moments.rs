//! A segment is cut short at any moment of an operation, by a peer
//!
//! A process is single-stepped through an operation, to some instruction of it; then its segment is cut short, and it runs to its
//! end: no signal kills it, and it says of what it has been told. If it was told that the segment is
//! severed, all else that it asks for is refused by the same word; what it holds can be dropped, and nothing stays mapped. If
//! it has not touched what is missing, it has noticed nothing. Operations of an arena, opening it in each way, and leaving it.
//!
//! `SHMEM_BIND_KILLS` is how often that is done in the long run:
//! ```text
//! cargo test --release --test truncation_moments -- --ignored long_ --nocapture
//! ```
#![cfg(target_arch = "x86_64")]
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::{Allocator, Random};
use common::campaign::{self, Board, Figures, Forked, Wrong};
use common::everything::{Everything, is_severed};
use common::sigbus::{survive, survived};
use common::tracer::{Tracee, stay_on_one_cpu};
use common::{Parent, TestName};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::WaitStatus;
use nix::unistd::alarm;
use shmem_bind::{Builder, Bump, ReservePolicy, ShmemConf, ShmemError, Slab, Tlsf, UnlinkPolicy};
use std::fs::OpenOptions;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const SIZE: usize = 64 * 1024;
const PAGE: u64 = 4096;
/// To what it is cut short: nothing, the header, some of the arena.
const LENGTHS: [u64; 3] = [0, PAGE, 9 * PAGE];
/// Longer than anything takes that goes on, in seconds.
const PATIENCE: u32 = 60;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("drive", drive),
        #[cfg(planted)]
        ("drive quietly", drive_quietly),
    ]);
}

/// The campaign finds that nobody is told.
#[cfg(planted)]
#[test]
fn one_who_is_severed_quietly_is_found() {
    let figures = campaign::run("drive quietly", &["50"]);
    println!("SeverQuietly: {figures}, at first {:?}", figures.reports.first());
    assert_ne!(figures.lost, 0);
}

#[cfg(planted)]
fn drive_quietly(parent: &mut Parent) {
    shmem_bind::planted::plant(shmem_bind::planted::Mistake::SeverQuietly);
    drive(parent);
}

#[test]
fn a_segment_may_be_cut_short_at_any_moment() {
    campaign::run("drive", &["200"]).conclude("truncation_moments");
}

#[test]
#[ignore = "takes some minutes"]
fn long_a_segment_may_be_cut_short_at_any_moment() {
    let times = std::env::var("SHMEM_BIND_KILLS").unwrap_or("50000".to_owned());
    campaign::run("drive", &[&times]).conclude("truncation_moments");
}

/// What a victim tells.
struct Told {
    /// Whether the operation was told that the segment is severed.
    severed: AtomicU64,
    /// How many faults it has survived, in the operation and in all.
    faults: [AtomicU64; 2],
    /// What is wrong: the line where that was seen.
    wrong: AtomicU64,
    /// 1 when it has come to its end.
    ended: AtomicU64,
}

impl Told {
    fn clear(&self) {
        let Self { severed, faults: [one, all], wrong, ended } = self;
        for word in [severed, one, all, wrong, ended] {
            word.store(0, SeqCst);
        }
    }
}

/// What a victim does that is no operation of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// One of [`Everything::OPERATIONS`].
    Operation(usize),
    Create,
    Open,
    ReadOnly,
    Arena,
    Drop,
}

impl Deed {
    /// Those that say something else when the file is short already than that a page is missing.
    const OTHERS: [Self; 5] = [Self::Create, Self::Open, Self::ReadOnly, Self::Arena, Self::Drop];
    const ALL: usize = Everything::<Tlsf>::OPERATIONS.len() + Self::OTHERS.len();

    fn new(index: usize) -> Self {
        let operations = Everything::<Tlsf>::OPERATIONS.len();
        if index < operations { Self::Operation(index) } else { Self::OTHERS[index - operations] }
    }
}

fn open(name: &str) -> Result<ShmemConf, ShmemError> {
    let builder = Builder::new(name).unlink_policy(UnlinkPolicy::Never);
    builder.reserve_policy(ReservePolicy::Lazy).with_size(SIZE).open()
}

/// Ends the process, which says where.
macro_rules! ensure {
    ($told:ident, $condition:expr) => {
        if !$condition {
            $told.wrong.store(line!().into(), SeqCst);
        }
    };
}

/// The victim: does it between two stops, and then looks what has come of it.
fn suffer<A: Allocator>(name: &str, deed: Deed, told: &Told) {
    survive();
    alarm::set(PATIENCE);
    let mut all = match deed {
        Deed::Operation(_) | Deed::Drop => {
            Some(Everything::in_arena(open(name).unwrap().arena::<A>().unwrap()))
        }
        _ => None,
    };
    let mut conf = match deed {
        Deed::Arena => Some(open(name).unwrap()),
        _ => None,
    };
    ptrace::traceme().unwrap();
    raise(Signal::SIGSTOP).unwrap();
    let result = match deed {
        Deed::Operation(index) => Everything::OPERATIONS[index].1(all.as_ref().unwrap()),
        Deed::Create | Deed::Open => open(name).map(|opened| conf = Some(opened)),
        Deed::ReadOnly => Builder::new(name).attach_read_only().map(|opened| conf = Some(opened)),
        Deed::Arena => match conf.take().unwrap().arena::<A>() {
            Ok(arena) => {
                conf = Some(Builder::new(name).attach_read_only()).and_then(Result::ok);
                drop(arena);
                Ok(())
            }
            Err(error) => Err(error.into()),
        },
        Deed::Drop => {
            drop(all.take());
            Ok(())
        }
    };
    raise(Signal::SIGSTOP).unwrap();
    told.faults[0].store(survived(), SeqCst);
    told.severed.store(result.is_err_and(is_severed).into(), SeqCst);
    // Whoever has survived a fault, but for one who has gone in the meantime, is told now if it was not then.
    if let Some(all) = &all {
        let is_known = all.arena.conf().is_severed();
        ensure!(told, is_known == (survived() != 0));
        ensure!(told, is_known || !result.is_err_and(is_severed));
        for (what, operation) in Everything::<A>::OPERATIONS {
            let is_refused = operation(all).is_err_and(is_severed);
            ensure!(told, is_refused || !is_known || what == "leaked");
        }
        all.look();
    }
    if let (Some(conf), false) = (&conf, deed == Deed::ReadOnly) {
        ensure!(told, conf.is_severed() || survived() == 0 || deed == Deed::Arena);
    }
    drop((all, conf));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    ensure!(told, !maps.contains(&format!("/dev/shm/{name}")));
    told.faults[1].store(survived(), SeqCst);
    told.ended.store(1, SeqCst);
}

/// Steps a victim to an instruction of its deed, cuts its segment, and lets it run.
fn once<A: Allocator>(deed: Deed, moment: u64, len: u64, told: &Told, figures: &mut Figures) {
    let name = TestName::new("moment");
    if matches!(deed, Deed::Open | Deed::ReadOnly | Deed::Arena) {
        drop(Everything::in_arena(open(&name).unwrap().arena::<A>().unwrap()));
    }
    told.clear();
    let victim = Forked::spawn(|| suffer::<A>(&name, deed, told));
    let tracee = Tracee::new(victim.pid());
    tracee.await_stop(Signal::SIGSTOP);
    let steps = (0..moment).take_while(|_| tracee.step()).count() as u64;
    // Of a segment that is not there yet there is nothing to cut.
    if let Ok(file) = OpenOptions::new().write(true).open(name.path()) {
        file.set_len(len).unwrap();
    }
    figures.points += 1;
    let status = run_to_the_end(victim);
    let what = format!("{deed:?} of {} cut to {len} after {steps}: {status:?}", A::NAME);
    match status {
        WaitStatus::Exited(_, 0) if told.ended.load(SeqCst) == 1 => match told.wrong.load(SeqCst) {
            0 => {}
            line => figures.report(Wrong::Lost, format!("{what}, line {line}")),
        },
        WaitStatus::Signaled(_, Signal::SIGALRM, _) => figures.report(Wrong::Stuck, what),
        _ => figures.report(Wrong::Corrupt, what),
    }
}

/// Lets it run, and gives how it ended.
fn run_to_the_end(victim: Forked) -> WaitStatus {
    let mut signal = None;
    loop {
        ptrace::cont(victim.pid(), signal).unwrap();
        signal = match nix::sys::wait::waitpid(victim.pid(), None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            status => {
                victim.forget();
                return status;
            }
        };
    }
}

fn drive(parent: &mut Parent) {
    stay_on_one_cpu();
    let times: u64 = parent.argument(0).parse().unwrap();
    let told = unsafe { Board::<Told>::new() };
    let mut figures = Figures::default();
    let mut random = Random::new(times);
    let (mut told_at_once, mut faults, mut none) = (0, 0, 0);
    for time in 0..times {
        let (allocator, deed, len) =
            (random.index(3), Deed::new(random.index(Deed::ALL)), LENGTHS[random.index(3)]);
        let once = [once::<Tlsf>, once::<Slab>, once::<Bump>][allocator];
        // Some deeds have a hundred instructions, and some many thousands; beyond the last one it is done already.
        let most = 1 << random.below(14);
        once(deed, random.below(most), len, &told, &mut figures);
        told_at_once += told.severed.load(SeqCst);
        faults += u64::from(told.faults[0].load(SeqCst) != 0);
        none += u64::from(told.faults[1].load(SeqCst) == 0);
        if time % 200 == 199 {
            campaign::progress(parent, &format!("  {figures}"));
        }
    }
    campaign::progress(
        parent,
        &format!(
            "{times} times: {faults} in the operation, {told_at_once} of them told at once, {none} never touched it"
        ),
    );
    if faults < times / 10 || told_at_once < times / 10 {
        figures.complain("hardly anybody was at what was cut off".to_owned());
    }
    figures.tell(parent);
}
