//! Judging the dead: who asks, who dies, and what each question must find
//!
//! A [`Stage`] is a segment with one process attached that asks; its [`Victim`]s are forked by it, hold what a process
//! can hold, and are brought into whatever state a scene is about. Each judgement is a point: either everybody is
//! alive, and nobody may be taken for dead or robbed ([`Stage::alive`]), or somebody has died, and the *first* question
//! after that must notice ([`Stage::dead`]) and give all of it back.
//!
//! "Within 100 ms" is not left to how busy the machine is. A question that notices is one call; counted is the time
//! that this call takes of its own, which is that by the clock without what the kernel says that it waited for a CPU. Where
//! the kernel cannot be asked, because there is no `/proc`, it is its processor time, and 20 ms, the longest sleep of a lock,
//! for each time that it went to sleep. How long it took by the clock is only told.

#![allow(dead_code)]

mod kinds;
pub mod scenes;
pub mod spaces;
pub mod poses;

pub use kinds::{Bare, Kind, Objects, Pose};

use crate::common::campaign::{Board, Figures, Forked, Wrong, progress};
use crate::common::{Parent, TestName, say};
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shmem_bind::{Origin, ShmemConf};
use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Most that a question may take of its own, in microseconds.
const LIMIT: u32 = 100_000;
/// The longest sleep of a lock, in microseconds.
const SLEEP: u32 = 20_000;
/// A scene that takes so many seconds hangs.
const PATIENCE: u32 = 300;
const TIMES: usize = 1 << 16;

/// Plays on a segment of one kind.
pub type Scene<'a> = &'a dyn Fn(&Court, &str);

/// A scene with each kind of segment.
#[allow(unused_macros)]
macro_rules! each {
    ($($scene:ident)::+) => {
        [
            ("bare", &|court, name| $($scene)::+::<crate::dying::Bare>(court, name)),
            ("tlsf", &|court, name| $($scene)::+::<crate::dying::Objects<shmem_bind::Tlsf>>(court, name)),
            ("slab", &|court, name| $($scene)::+::<crate::dying::Objects<shmem_bind::Slab>>(court, name)),
            ("bump", &|court, name| $($scene)::+::<crate::dying::Objects<shmem_bind::Bump>>(court, name)),
        ]
    };
}
#[allow(unused_imports)]
pub(crate) use each;

/// What all processes of a campaign count.
#[repr(C)]
pub struct Tally {
    points: AtomicU64,
    false_deaths: AtomicU64,
    corrupt: AtomicU64,
    lost: AtomicU64,
    stuck: AtomicU64,
    /// Questions, each answered rightly or wrongly.
    questions: AtomicU64,
    /// Deaths that the first question noticed.
    deaths: AtomicU64,
    /// How many numbers have been given.
    number: AtomicU64,
    /// How many times there are: what each question took of its own, and by the clock, in microseconds.
    timed: AtomicU64,
    own: [AtomicU32; TIMES],
    wall: [AtomicU32; TIMES],
}

/// A campaign, as its driver and all that it forks see it.
pub struct Court {
    tally: Board<Tally>,
    /// How often each scene is played, and for how long a process stays stopped.
    pub rounds: u64,
    pub stop: Duration,
}

impl Court {
    /// By the arguments of the role: rounds, and the milliseconds of a stop.
    pub fn new(parent: &Parent) -> Self {
        let number = |index| parent.argument(index).parse().unwrap();
        let (rounds, stop) = (number(0), Duration::from_millis(number(1)));
        // A process whose parent dies becomes a child of this one, for which the scenes are then responsible.
        prctl::set_child_subreaper(true).unwrap();
        Self { tally: unsafe { Board::new() }, rounds, stop }
    }

    /// A number that nobody in this campaign has had.
    fn number(&self) -> u64 {
        self.tally.number.fetch_add(1, SeqCst)
    }

    fn report(&self, wrong: Wrong, what: &str) {
        let tally = &self.tally;
        let counter = match wrong {
            Wrong::Corrupt => &tally.corrupt,
            Wrong::Lost => &tally.lost,
            Wrong::Stuck => &tally.stuck,
        };
        if counter.fetch_add(1, SeqCst) < 10 {
            say(&format!("report {wrong:?}: {what}"));
        }
    }

    fn point(&self) {
        self.tally.points.fetch_add(1, SeqCst);
    }

    /// Plays a scene in a process of its own, on a segment that it is given the name of.
    pub fn play(&self, scene: &str, act: impl FnOnce(&str)) {
        let name = TestName::new("deaths");
        let status = Forked::spawn(|| {
            unsafe { libc::alarm(PATIENCE) };
            prctl::set_child_subreaper(true).unwrap();
            act(&name);
        })
        .reap();
        match status {
            WaitStatus::Exited(_, 0) => {}
            WaitStatus::Signaled(_, Signal::SIGALRM, _) => self.report(Wrong::Stuck, scene),
            _ => self.report(Wrong::Corrupt, &format!("{scene}: {status:?}, see its message")),
        }
    }

    /// Plays a scene with a segment of each kind, as often as the campaign says.
    pub fn play_each(&self, scene: &str, acts: [(&str, Scene<'_>); 4]) {
        let start = Instant::now();
        (0..self.rounds).for_each(|_| self.play_round(scene, acts));
        say(&format!("progress {scene}: {:.1?}", start.elapsed()));
    }

    /// Plays a scene, one that takes long, with a segment of each kind.
    pub fn play_round(&self, scene: &str, acts: [(&str, Scene<'_>); 4]) {
        for (kind, act) in acts {
            let (scene, start) = (format!("{scene}, {kind}"), Instant::now());
            self.play(&scene, |name| act(self, name));
            if start.elapsed() > Duration::from_secs(5) {
                say(&format!("progress {scene}: {:.1?}", start.elapsed()));
            }
        }
    }

    /// A question that a death is noticed by: gives its answer, and takes its time.
    fn timed<T>(&self, question: impl FnOnce() -> T) -> T {
        self.timed_if(question, |_| true)
    }

    /// The same, if its answer is one of these.
    fn timed_if<T>(&self, question: impl FnOnce() -> T, counts: impl FnOnce(&T) -> bool) -> T {
        let sleeps = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches();
        let before = waited();
        let (slept, processor, start) = (sleeps(), processor_time(), Instant::now());
        let answer = question();
        let (wall, processor, slept) = (start.elapsed(), processor_time() - processor, sleeps() - slept);
        let waited = before.and_then(|before| Some(waited()? - before));
        if !counts(&answer) {
            return answer;
        }
        let own = match waited {
            Some(waited) => wall.saturating_sub(waited).as_micros() as u32,
            None => processor.as_micros() as u32 + slept as u32 * SLEEP,
        };
        let index = self.tally.timed.fetch_add(1, SeqCst) as usize;
        if let (Some(own_time), Some(wall_time)) = (self.tally.own.get(index), self.tally.wall.get(index)) {
            own_time.store(own, SeqCst);
            wall_time.store(wall.as_micros() as u32, SeqCst);
        }
        if own > LIMIT {
            self.report(Wrong::Stuck, &format!("it took {own} us to notice a death"));
        }
        answer
    }

    /// Tells the test what was found.
    pub fn tell(&self, parent: &mut Parent) {
        let of = |counter: &AtomicU64| counter.load(SeqCst);
        let tally = &self.tally;
        let count = of(&tally.timed).min(TIMES as u64) as usize;
        let summary = |times: &[AtomicU32]| {
            let mut times: Vec<_> = times.iter().take(count).map(|time| time.load(SeqCst)).collect();
            times.sort_unstable();
            let median = times.get(count / 2).copied().unwrap_or_default();
            format!("{median} us, at most {} us", times.last().copied().unwrap_or_default())
        };
        let (own, wall) = (summary(&tally.own), summary(&tally.wall));
        let (false_deaths, deaths, questions) =
            (of(&tally.false_deaths), of(&tally.deaths), of(&tally.questions));
        progress(parent, &format!("deaths: false deaths {false_deaths} of {questions} questions"));
        progress(
            parent,
            &format!("deaths: {deaths} noticed when first asked, in {own} (by the clock {wall})"),
        );
        let figures = Figures {
            points: of(&tally.points),
            corrupt: of(&tally.corrupt),
            lost: of(&tally.lost),
            stuck: of(&tally.stuck),
            reports: Vec::new(),
        };
        figures.tell(parent);
    }
}

/// How it is asked who has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By one that has been attached all along.
    Sweep,
    /// By a newcomer, who takes the place of an owner that died.
    Open,
}

pub const WAYS: [Way; 2] = [Way::Sweep, Way::Open];

/// A segment, and the process that asks.
pub struct Stage<'a, K> {
    pub court: &'a Court,
    pub name: &'a str,
    pub asker: K,
    /// How many are attached as far as can be known, the asker included.
    attached: Cell<u32>,
    spawned: Cell<u64>,
}

impl<'a, K: Kind> Stage<'a, K> {
    pub fn new(court: &'a Court, name: &'a str) -> Self {
        let asker = K::create(name);
        let attached = asker.attachments();
        Self { court, name, asker, attached: Cell::new(attached), spawned: Cell::new(0) }
    }

    /// Forks a victim that attaches, owns the segment, and does what it is told.
    pub fn spawn(&self) -> Victim {
        self.spawn_with(Held::obey)
    }

    /// Forks a victim that attaches, owns the segment, and then does as `act` says.
    pub fn spawn_with(&self, act: impl FnOnce(Held<'a, K>, UnixStream)) -> Victim {
        let number = self.court.number();
        let victim = Victim::fork(|line| self.hold(number, line, act));
        self.is_attached(&victim);
        victim
    }

    /// Awaits that a victim says that it is attached, and counts it.
    pub fn is_attached(&self, victim: &Victim) {
        victim.await_byte(READY);
        self.comes();
    }

    /// In a process that has no part in this segment yet: attaches.
    pub fn hold(&self, number: u64, mut line: UnixStream, act: impl FnOnce(Held<'a, K>, UnixStream)) {
        let (kind, property) = K::hold(self.name, number);
        kind.conf().try_own().unwrap();
        line.write_all(&[READY]).unwrap();
        act(Held { court: self.court, kind, property }, line);
    }

    /// A number for [`hold`](Self::hold).
    pub fn number(&self) -> u64 {
        self.court.number()
    }

    /// Counts one more that has attached.
    pub fn comes(&self) {
        self.attached.set(self.attached.get() + 1);
        self.spawned.set(self.spawned.get() + 1);
    }

    /// Says that so many have left by themselves.
    pub fn left(&self, count: u32) {
        self.attached.set(self.attached.get() - count);
    }

    /// Asks in every way whether somebody has died. Nobody has, as far as can be known.
    #[track_caller]
    pub fn alive(&self, what: &str) {
        let (asker, before) = (&self.asker, self.asker.state());
        asker.ask();
        let owner = asker.conf().owner_pid();
        let is_attached = asker.conf().attachment_count() == self.attached.get();
        let newcomer = K::visit(self.name);
        let (origin, new_owner) = (newcomer.origin(), newcomer.owner_pid());
        drop(newcomer);
        self.court.tally.questions.fetch_add(2, SeqCst);
        self.court.point();
        if origin != Origin::Attached || owner != new_owner || asker.state() != before || !is_attached {
            self.court.tally.false_deaths.fetch_add(1, SeqCst);
            let found = format!("{before:?}, then {:?}, {owner:?}, then {new_owner:?}", asker.state());
            let count = asker.conf().attachment_count();
            self.court.report(
                Wrong::Corrupt,
                &format!("{what} is taken for dead, {}: {found}, {count} attached", K::NAME),
            );
            // What follows would only say the same again.
            unsafe { libc::_exit(0) };
        }
    }

    /// Asks as [`alive`](Self::alive), but only the one who is attached already.
    #[track_caller]
    pub fn alive_to_the_asker(&self, what: &str) {
        let before = self.asker.state();
        self.asker.ask();
        self.court.tally.questions.fetch_add(1, SeqCst);
        self.court.point();
        if self.asker.state() != before || self.asker.conf().attachment_count() != self.attached.get() {
            self.court.tally.false_deaths.fetch_add(1, SeqCst);
            self.court.report(Wrong::Corrupt, &format!("{what} is taken for dead, {}", K::NAME));
            unsafe { libc::_exit(0) };
        }
    }

    /// So many have died, the owner among them, and nobody has asked since: the first question notices them all.
    #[track_caller]
    pub fn dead(&self, what: &str, count: u32, way: Way) {
        let swept = self.asker.state().swept;
        let is_owned = self.ask(way);
        self.judge(what, swept, count, is_owned, false);
    }

    /// So many have died, and the owner, if there is one, was not among them.
    #[track_caller]
    pub fn others_dead(&self, what: &str, count: u32) {
        let (swept, owner) = (self.asker.state().swept, self.asker.conf().owner_pid());
        self.ask(Way::Sweep);
        self.judge(what, swept, count, self.asker.conf().owner_pid() == owner, false);
    }

    /// So many have died, the owner among them, and a victim is the first to ask.
    #[track_caller]
    pub fn dead_to(&self, what: &str, count: u32, victim: &Victim) {
        let swept = self.asker.state().swept;
        assert_eq!(u32::from(victim.ask()), count, "{what}, {}: deaths noticed by another", K::NAME);
        self.judge(what, swept, count, self.asker.conf().owner_pid().is_none(), false);
    }

    /// Asks once; gives whether the owner's place is empty, or taken by the newcomer who asks.
    fn ask(&self, way: Way) -> bool {
        let asker = &self.asker;
        let newcomer = self.court.timed(|| match way {
            Way::Sweep => {
                asker.ask();
                None
            }
            Way::Open => Some(K::open(self.name)),
        });
        newcomer.map_or(asker.conf().owner_pid().is_none(), |newcomer| has_adopted(newcomer.conf()))
    }

    /// Whether what is to be given back of so many dead has been, `swept` having been before.
    #[track_caller]
    fn judge(&self, what: &str, swept: u64, count: u32, is_owned: bool, was_posing: bool) {
        let asker = &self.asker;
        let noticed = asker.state().swept - swept;
        self.left(count);
        self.court.point();
        self.court.tally.questions.fetch_add(1, SeqCst);
        self.court.tally.deaths.fetch_add(noticed, SeqCst);
        let attached = asker.conf().attachment_count();
        if noticed != u64::from(count) || !is_owned || attached != self.attached.get() {
            let expected = self.attached.get();
            let what = format!(
                "{what}, {}: {noticed} of {count} deaths noticed, {attached} attached for {expected}, \
                 owner replaced: {is_owned}",
                K::NAME
            );
            if noticed > u64::from(count) {
                self.court.tally.false_deaths.fetch_add(1, SeqCst);
                self.court.report(Wrong::Corrupt, &what);
            } else {
                self.court.report(Wrong::Lost, &what);
            }
            unsafe { libc::_exit(0) };
        }
        if asker.conf().owner_pid().is_none() {
            // Whoever comes next has the place, and gives it up by leaving.
            drop(K::visit(self.name));
        }
        if let Err(found) = asker.settle(u64::from(count), was_posing) {
            self.court.report(Wrong::Lost, &format!("{what}, {}: {found}", K::NAME));
            unsafe { libc::_exit(0) };
        }
    }

    /// Nobody but the asker is attached, who leaves. Who comes then learns from the kernel that so many are dead.
    #[track_caller]
    pub fn alone(mut self, what: &str, count: u32) -> Self {
        let (swept, hasty) = (self.asker.state().swept, self.asker.attachments() - 1);
        let was_owned = self.asker.conf().owner_pid().is_some();
        self.asker.leave();
        self.left(hasty);
        self.court.timed(|| self.asker.come_back(self.name));
        let is_adopted = has_adopted(self.asker.conf());
        self.judge(what, swept, count, is_adopted == was_owned, false);
        self
    }

    /// All victims are dead or have left: nothing is left of them.
    #[track_caller]
    pub fn end(self) {
        assert_eq!(self.attached.get(), self.asker.attachments());
        self.alive("nobody");
        self.asker.end(self.spawned.get());
    }
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long this thread has been ready to run, and waited for a CPU; `None` if that stands nowhere.
fn waited() -> Option<Duration> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    statistics.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

fn has_adopted(conf: &ShmemConf) -> bool {
    conf.origin() == Origin::Adopted && conf.is_owner()
}

/// What a victim says when it holds all that it is to hold.
const READY: u8 = b'r';

/// What a victim has.
pub struct Held<'a, K: Kind> {
    court: &'a Court,
    pub kind: K,
    pub property: K::Property,
}

impl<K: Kind> Held<'_, K> {
    /// Does what it is told, until it is told to leave.
    pub fn obey(self, mut line: UnixStream) {
        let mut order = [0];
        loop {
            if line.read(&mut order).unwrap() == 0 {
                // Whoever gave the orders has died: so does this one, and leaves all that it holds.
                unsafe { libc::_exit(1) };
            }
            let answer = match order {
                // How many deaths it notices.
                [b'a'] => self.court.timed_if(|| self.ask(), |noticed| *noticed > 0),
                // Leaves.
                [b'q'] => break,
                // Owns the segment.
                [b'o'] => {
                    self.kind.conf().try_own().unwrap();
                    0
                }
                // Goes on.
                [b'w'] => {
                    self.kind.work(&self.property);
                    0
                }
                order => panic!("{order:?}"),
            };
            line.write_all(&[answer]).unwrap();
        }
        drop((self.property, self.kind));
    }

    pub fn ask(&self) -> u8 {
        let before = self.kind.state().swept;
        self.kind.ask();
        (self.kind.state().swept - before) as u8
    }
}

/// A process that holds something, and the line to it.
pub struct Victim {
    pub process: Forked,
    line: UnixStream,
}

impl Victim {
    /// Forks a process that does `act` with its end of the line, and ends when this one does.
    pub fn fork(act: impl FnOnce(UnixStream)) -> Self {
        let (line, other) = UnixStream::pair().unwrap();
        line.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let process = Forked::spawn(|| {
            // Whoever has an end keeps the line open.
            unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&line)) };
            act(other.try_clone().unwrap());
        });
        Self { process, line }
    }

    /// Another process at the other end of the line.
    pub fn adopted(self, pid: Pid) -> Self {
        let line = self.line.try_clone().unwrap();
        drop(self);
        Self { process: Forked::adopted(pid), line }
    }

    #[track_caller]
    pub fn await_byte(&self, expected: u8) {
        let mut byte = [0];
        (&self.line).read_exact(&mut byte).expect("the victim answers");
        assert_eq!(byte, [expected]);
    }

    /// The number that it says, and the byte that a child of it says, in whichever order.
    pub fn hear_child(&self, expected: u8) -> u32 {
        let mut bytes = [0; 5];
        (&self.line).read_exact(&mut bytes).expect("both answer");
        // A PID is less than 2^22, so that its last byte, which is 0, tells it from the other.
        let [number @ .., last] = bytes;
        if last == expected {
            return u32::from_ne_bytes(number);
        }
        assert_eq!((bytes[0], last), (expected, 0));
        u32::from_ne_bytes([bytes[1], bytes[2], bytes[3], bytes[4]])
    }

    pub fn hear_number(&self) -> u32 {
        let mut bytes = [0; 4];
        (&self.line).read_exact(&mut bytes).expect("the victim answers");
        u32::from_ne_bytes(bytes)
    }

    pub fn tell(&self, order: u8) {
        (&self.line).write_all(&[order]).unwrap();
    }

    /// How many deaths it notices when it is asked.
    #[track_caller]
    pub fn ask(&self) -> u8 {
        self.tell(b'a');
        let mut answer = [0];
        (&self.line).read_exact(&mut answer).expect("the victim answers");
        answer[0]
    }

    /// Has it go on with what it holds.
    #[track_caller]
    pub fn work(&self) {
        self.tell(b'w');
        self.await_byte(0);
    }

    /// Has it own the segment.
    #[track_caller]
    pub fn own(&self) {
        self.tell(b'o');
        self.await_byte(0);
    }

    /// Stops it, and waits until it has stopped.
    pub fn stop(&self) {
        self.process.signal(Signal::SIGSTOP);
        let pid = self.process.pid();
        assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
    }

    /// Lets it leave by itself.
    #[track_caller]
    pub fn finish(self) {
        self.tell(b'q');
        self.process.finish();
    }
}
