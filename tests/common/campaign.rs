//! Campaigns: one process, the driver, and the many that it forks and kills
//!
//! Forking costs a tenth of starting a program, and is safe as long as no other thread of the driver is running. So a
//! test [runs](run) its campaign as a role of a child process, in which libtest's own thread merely waits for the one that runs it, and
//! hears what it [found](Figures). What the driver shares with the forked is a [`Board`].

#![allow(clippy::arithmetic_side_effects, clippy::panic, clippy::unwrap_used)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

use super::arena::Random;
use super::pair::PATIENCE;
use super::{Child, Parent};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::time::Instant;
use std::{hint, thread};

/// A child made by `fork`. Killed and reaped when it is dropped.
#[derive(Debug)]
pub struct Forked {
    pid: Pid,
    is_reaped: bool,
    /// Whose child it is.
    parent: Pid,
}

impl Forked {
    /// Forks a child that does `work`, and then exits with 0, or with 101 if it panics. It dies with the driver.
    pub fn spawn(work: impl FnOnce()) -> Self {
        // Nobody else is running who could have a lock: libtest's thread waits for this one. Where there is no /proc,
        // it has been hidden by one that was forked itself, and so has one thread.
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        assert!(threads <= 2, "the driver has a thread too many");
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self::adopted(child),
            ForkResult::Child => {
                let is_done = prctl::set_pdeathsig(Signal::SIGKILL).is_ok()
                    && catch_unwind(AssertUnwindSafe(work)).is_ok();
                // Nothing of the driver's is to be run here: no destructors, no test results.
                unsafe { nix::libc::_exit(if is_done { 0 } else { 101 }) }
            }
        }
    }

    /// One that somebody else has forked, and that has become this process's child since.
    pub fn adopted(pid: Pid) -> Self {
        Self { pid, is_reaped: false, parent: getpid() }
    }

    pub const fn pid(&self) -> Pid {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Kills it, and waits until it is dead, a zombie.
    pub fn kill_to_zombie(&self) {
        self.signal(Signal::SIGKILL);
        self.await_death();
    }

    /// Kills it and reaps it.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.reap();
    }

    /// Waits until it is dead, by itself or killed by somebody, and leaves it a zombie.
    pub fn await_death(&self) {
        self.death();
    }

    /// The same; says how it died.
    pub fn death(&self) -> WaitStatus {
        waitid(Id::Pid(self.pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap()
    }

    /// How it ended, if it has.
    pub fn try_reap(&mut self) -> Option<WaitStatus> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::StillAlive => None,
            status => {
                self.is_reaped = true;
                Some(status)
            }
        }
    }

    /// Waits for its end.
    pub fn reap(&mut self) -> WaitStatus {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap() {
                // One that is traced may be reported to have stopped first.
                WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..) | WaitStatus::Continued(_) => {}
                status => {
                    self.is_reaped = true;
                    return status;
                }
            }
        }
    }

    /// Somebody else has seen its end.
    pub fn forget(mut self) {
        self.is_reaped = true;
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub fn finish(mut self) {
        assert_eq!(self.reap(), WaitStatus::Exited(self.pid, 0));
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // What a sibling inherits it is not responsible for.
        if !self.is_reaped && self.parent == getpid() && kill(self.pid, Signal::SIGKILL).is_ok() {
            self.reap();
        }
    }
}

/// Memory that the driver shares with all that it forks afterwards, zero at first. Unmapped when dropped.
#[derive(Debug)]
pub struct Board<T>(NonNull<T>);

impl<T> Board<T> {
    /// # Safety
    /// Zeros are a valid `T`, which has interior mutability wherever it is changed.
    pub unsafe fn new() -> Self {
        let len = NonZeroUsize::new(size_of::<T>()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Self(unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_SHARED) }.unwrap().cast())
    }
}

impl<T> Deref for Board<T> {
    type Target = T;

    fn deref(&self) -> &T {
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Board<T> {
    fn drop(&mut self) {
        unsafe { munmap(self.0.cast(), size_of::<T>()) }.unwrap();
    }
}

/// What a campaign has found.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// At how many points somebody was killed.
    pub points: u64,
    /// How often something was damaged afterwards, or not what it must be.
    pub corrupt: u64,
    /// How often something was not given back, or given back twice.
    pub lost: u64,
    /// How often somebody alive could not go on.
    pub stuck: u64,
    /// The first few, in words; and what else is wrong with the campaign.
    pub reports: Vec<String>,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Corrupt,
    Lost,
    Stuck,
}

impl Figures {
    const REPORTS: usize = 10;

    pub fn report(&mut self, wrong: Wrong, what: String) {
        match wrong {
            Wrong::Corrupt => self.corrupt += 1,
            Wrong::Lost => self.lost += 1,
            Wrong::Stuck => self.stuck += 1,
        }
        if self.reports.len() < Self::REPORTS {
            self.reports.push(format!("{wrong:?}: {what}"));
        }
    }

    /// The campaign itself is not what it is to be.
    pub fn complain(&mut self, what: String) {
        self.reports.push(what);
    }

    pub fn is_clean(&self) -> bool {
        self.corrupt + self.lost + self.stuck == 0 && self.reports.is_empty()
    }

    pub fn add(&mut self, other: Self) {
        self.points += other.points;
        self.corrupt += other.corrupt;
        self.lost += other.lost;
        self.stuck += other.stuck;
        let room = Self::REPORTS.saturating_sub(self.reports.len());
        self.reports.extend(other.reports.into_iter().take(room));
    }

    /// In the driver: tells the test.
    pub fn tell(&self, parent: &mut Parent) {
        for report in &self.reports {
            parent.say(&format!("report {}", report.replace('\n', " | ")));
        }
        parent.say(&format!("figures {} {} {} {}", self.points, self.corrupt, self.lost, self.stuck));
    }

    /// Prints the line that says how the campaign ended, and fails unless it found nothing.
    #[track_caller]
    pub fn conclude(&self, name: &str) {
        println!("{name}: {self}");
        assert!(self.is_clean(), "{name}: {:#?}", self.reports);
        assert_ne!(self.points, 0, "{name} has killed nobody");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, corrupt, lost, stuck, .. } = self;
        write!(f, "points {points}, corrupt {corrupt}, lost {lost}, stuck {stuck}")
    }
}

/// In the driver: says that the campaign goes on, and how far it is. At least every minute.
pub fn progress(parent: &mut Parent, what: &str) {
    parent.say(&format!("progress {what}"));
}

/// In the driver: kills one of the workers, at random, and starts it anew, so many times. Before each kill things must go on:
/// `begin` is told whom it will be, and gives the question whether they have gone on since.
pub fn kill_at_random<Q: Fn() -> bool>(
    parent: &mut Parent,
    kills: u64,
    workers: &mut [Forked],
    spawn: impl Fn(usize) -> Forked,
    begin: impl Fn(usize) -> Q,
) -> Figures {
    let mut random = Random::new(kills);
    let mut figures = Figures::default();
    for kill in 0..kills {
        let index = random.index(workers.len());
        let (has_gone_on, deadline) = (begin(index), Instant::now() + PATIENCE);
        while !has_gone_on() {
            if Instant::now() > deadline {
                figures.report(Wrong::Stuck, format!("kill {kill}, of {index}: nothing goes on"));
                break;
            }
            thread::yield_now();
        }
        (0..random.below(5_000)).for_each(|_| hint::spin_loop());
        std::mem::replace(&mut workers[index], spawn(index)).kill();
        figures.points += 1;
        if kill % 500 == 499 {
            progress(parent, &format!("  {figures}"));
        }
    }
    figures
}

/// Runs the campaign `role` in a driver of its own, and gives what it finds.
#[track_caller]
pub fn run(role: &str, arguments: &[&str]) -> Figures {
    let mut figures = Figures::default();
    let numbers = hear_of(role, arguments, "figures", |kind, rest| match kind {
        "report" => figures.reports.push(rest.to_owned()),
        _ => panic!("{kind} {rest}"),
    });
    [figures.points, figures.corrupt, figures.lost, figures.stuck] = numbers;
    figures
}

/// Runs a campaign in a driver of its own, and passes on what it says, each time a word and the rest, until it says `last`,
/// with so many numbers, and ends.
#[track_caller]
pub fn hear_of<const N: usize>(
    role: &str,
    arguments: &[&str],
    last: &str,
    mut hear: impl FnMut(&str, &str),
) -> [u64; N] {
    let driver = Child::spawn(role, arguments);
    // The driver is to be dead before its files are removed, so it is dropped first.
    let (_tidy, driver) = (Tidy(driver.pid()), driver);
    loop {
        let line = driver.hear();
        match line.split_once(' ').unwrap() {
            ("progress", rest) => println!("{rest}"),
            (kind, rest) if kind == last => {
                let numbers: Vec<_> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
                driver.finish();
                return numbers.try_into().unwrap();
            }
            (kind, rest) => hear(kind, rest),
        }
    }
}

/// Removes what a driver, whose process number this is, leaves in `/dev/shm` that was killed, because the test failed or its
/// time was up.
#[derive(Debug)]
struct Tidy(u32);

impl Drop for Tidy {
    fn drop(&mut self) {
        let prefix = format!("shmem-bind-test-{}-", self.0);
        for entry in std::fs::read_dir("/dev/shm").unwrap().map_while(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
