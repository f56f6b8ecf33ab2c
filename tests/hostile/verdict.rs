//! How a campaign ends

use crate::common::campaign;
use crate::common::say;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use std::cell::RefCell;
use std::fmt;
use std::panic::{set_hook, take_hook};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// A victim that took too long ends with this.
pub const LATE: i32 = 102;
/// A victim that panicked.
const PANICKED: i32 = 101;

/// What a campaign has done and found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How often what was done.
    pub counts: Vec<(String, u64)>,
    /// Victims that died by a signal, or by a sanitizer.
    pub signals: u64,
    /// Victims that panicked, also because they were given what is not theirs, or lost something.
    pub panics: u64,
    /// Victims that did not come to an end in time.
    pub late: u64,
    /// The first few, in words; and what else is wrong with the campaign.
    pub reports: Vec<String>,
}

impl Verdict {
    const REPORTS: usize = 10;

    pub fn count(&mut self, what: &str, number: u64) {
        match self.counts.iter_mut().find(|(name, _)| name == what) {
            Some((_, count)) => *count += number,
            None => self.counts.push((what.to_owned(), number)),
        }
    }

    pub fn number(&self, what: &str) -> u64 {
        self.counts.iter().find(|(name, _)| name == what).map_or(0, |(_, number)| *number)
    }

    pub fn is_clean(&self) -> bool {
        self.signals + self.panics + self.late == 0 && self.reports.is_empty()
    }

    pub fn report(&mut self, what: String) {
        if self.reports.len() < Self::REPORTS {
            self.reports.push(what);
        }
    }

    /// Judges by how a victim ended; `what` says what it was at, and what it said. Gives whether that was all right.
    pub fn judge(&mut self, status: WaitStatus, what: impl FnOnce() -> String) -> bool {
        match status {
            WaitStatus::Exited(_, 0) => return true,
            WaitStatus::Exited(_, PANICKED) => self.panics += 1,
            WaitStatus::Exited(_, LATE) => self.late += 1,
            // A sanitizer ends a process with a status of its own.
            _ => self.signals += 1,
        }
        self.report(format!("{status:?}: {}", what()));
        false
    }

    /// One that is still at it.
    pub fn too_late(&mut self, what: String) {
        self.late += 1;
        self.report(format!("late: {what}"));
    }

    pub fn add(&mut self, other: Self) {
        other.counts.iter().for_each(|(what, number)| self.count(what, *number));
        self.signals += other.signals;
        self.panics += other.panics;
        self.late += other.late;
        other.reports.into_iter().for_each(|report| self.report(report));
    }

    /// In the driver: tells the test.
    pub fn tell(&self) {
        for report in &self.reports {
            say(&format!("report {}", report.replace('\n', " | ")));
        }
        self.counts.iter().for_each(|(what, number)| say(&format!("count {number} {what}")));
        say(&format!("verdict {} {} {}", self.signals, self.panics, self.late));
    }

    /// Prints the line that says how the campaign ended, and fails if it found anything.
    #[track_caller]
    pub fn conclude(&self, name: &str) {
        println!("{name}: {self}");
        assert!(self.is_clean(), "{name}: {:#?}", self.reports);
        assert!(self.counts.iter().all(|(_, number)| *number != 0), "{name} has not done all");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, number)| write!(f, "{what} {number}, "))?;
        write!(f, "signals {}, panics {}, late {}", self.signals, self.panics, self.late)
    }
}

/// Runs the campaign `role` in a driver of its own, and gives what it finds.
#[track_caller]
pub fn run(role: &str, arguments: &[&str]) -> Verdict {
    let mut verdict = Verdict::default();
    let numbers = campaign::hear_of(role, arguments, "verdict", |kind, rest| match kind {
        "report" => verdict.reports.push(rest.to_owned()),
        "count" => {
            let (number, what) = rest.split_once(' ').unwrap();
            verdict.count(what, number.parse().unwrap());
        }
        _ => panic!("{kind} {rest}"),
    });
    [verdict.signals, verdict.panics, verdict.late] = numbers;
    verdict
}

/// The last words of a process, in memory that it shares with whoever wants to know.
#[repr(C)]
pub struct LastWords([AtomicU8; 600]);

impl LastWords {
    pub fn leave(&self, text: &str) {
        let bytes = text.bytes().chain([0]);
        self.0.iter().zip(bytes).for_each(|(place, byte)| place.store(byte, SeqCst));
    }

    pub fn take(&self) -> String {
        let bytes: Vec<_> =
            self.0.iter().map(|byte| byte.swap(0, SeqCst)).take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

thread_local! {
    static LISTENER: RefCell<Option<&'static LastWords>> = const { RefCell::new(None) };
}

/// Panics of this process, and of those that it forks, are heard there.
pub fn panics_are_heard_at(words: &'static LastWords) {
    LISTENER.set(Some(words));
    let print = take_hook();
    set_hook(Box::new(move |info| match LISTENER.with_borrow(|listener| *listener) {
        Some(words) => words.leave(&info.to_string()),
        None => print(info),
    }));
}

/// Whether it was killed on purpose.
pub fn is_killed(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _))
}
