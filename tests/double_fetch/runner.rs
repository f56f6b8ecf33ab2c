//! Takes a victim to a load, and puts another word there

use super::loads::{Load, Observer};
use crate::common::arena::{Allocator, Random};
use crate::common::campaign::Forked;
use crate::common::{say, tracer};
use crate::hostile::verdict::Verdict;
use crate::hostile::words::{Place, SORTS, hostile};
use crate::kills::judge;
use crate::kills::scenes::{Scene, Victim};
use crate::kills::stage::{Past, Snapshot, Stage, ledger};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whoever is at one operation for longer hangs: it waits for some milliseconds at a time, or seconds to unlink.
const ENDLESS: Duration = Duration::from_secs(30);

/// Words that are replaced in a scene, however slow the machine is.
const AT_LEAST: usize = 3;

/// A victim that is stopped at an instruction of its operation.
struct Stopped {
    victim: Forked,
    pid: Pid,
    /// Who may have died when it had done all but its operation.
    _dead: Option<Forked>,
}

/// A breakpoint, and the way from there to a step.
#[derive(Clone, Copy)]
struct Way {
    address: u64,
    /// How often it is passed before.
    passes: usize,
    /// Steps from there.
    steps: usize,
}

impl Way {
    /// The quickest one: passing a breakpoint costs as much as some steps.
    fn to(path: &[u64], target: usize) -> Self {
        const COST: usize = 4;
        let mut passed: HashMap<u64, usize> = HashMap::new();
        let mut best = (target, Self { address: 0, passes: 0, steps: target });
        for (step, address) in path[..=target].iter().enumerate() {
            let passes = passed.entry(*address).or_insert(0);
            let cost = *passes * COST + target - step + COST;
            if cost < best.0 {
                best = (cost, Self { address: *address, passes: *passes, steps: target - step });
            }
            *passes += 1;
        }
        best.1
    }
}

impl Stopped {
    fn step(&self) -> Result<(), WaitStatus> {
        ptrace::step(self.pid, None).unwrap();
        self.trapped()
    }

    fn trapped(&self) -> Result<(), WaitStatus> {
        match waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(()),
            status => Err(status),
        }
    }

    /// Goes to the `target`-th instruction of its path. Nothing has been damaged as yet, so it does what the first one did.
    fn go(&self, path: &[u64], target: usize) -> Result<(), WaitStatus> {
        let way = Way::to(path, target);
        if way.address != 0 {
            let place = way.address as ptrace::AddressType;
            let code = ptrace::read(self.pid, place).unwrap();
            let trap = code & !0xff | 0xcc;
            for passes in 0..=way.passes {
                ptrace::write(self.pid, place, trap).unwrap();
                ptrace::cont(self.pid, None).unwrap();
                self.trapped()?;
                ptrace::write(self.pid, place, code).unwrap();
                let mut registers = ptrace::getregs(self.pid).unwrap();
                registers.rip -= 1;
                ptrace::setregs(self.pid, registers).unwrap();
                if passes < way.passes {
                    self.step()?;
                }
            }
        }
        (0..way.steps).try_for_each(|_| self.step())
    }

    /// Lets it go on to its end, and says what that was.
    fn finish(self) -> Result<WaitStatus, &'static str> {
        let start = Instant::now();
        ptrace::cont(self.pid, None).unwrap();
        let mut looks = 0_u32;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::StillAlive if start.elapsed() > ENDLESS => return Err("no end"),
                WaitStatus::StillAlive => {
                    looks += 1;
                    if looks < 50 { std::thread::yield_now() } else { sleep(Duration::from_micros(200)) }
                }
                // The end of the operation. What it has given is given up by itself.
                WaitStatus::Stopped(_, Signal::SIGSTOP) => ptrace::detach(self.pid, None).unwrap(),
                status @ WaitStatus::Stopped(..) => return Ok(status),
                status => {
                    // It has been reaped just now.
                    std::mem::forget(self.victim);
                    return Ok(status);
                }
            }
        }
    }
}

/// Goes through scenes and replaces words.
pub struct Runner<A> {
    pub verdict: Verdict,
    observer: Observer,
    random: Random,
    calls: HashMap<u64, bool>,
    last_word: Instant,
    /// The longest that a victim took, and in which scene.
    pub slowest: (Duration, &'static str),
    allocator: PhantomData<A>,
}

impl<A: Allocator> Runner<A> {
    pub fn new(seed: u64) -> Self {
        tracer::stay_on_one_cpu();
        judge::keep_judges_quiet();
        crate::kills::stage::be_impatient();
        Self {
            verdict: Verdict::default(),
            observer: Observer::new(),
            random: Random::seeded(seed),
            calls: HashMap::new(),
            last_word: Instant::now(),
            slowest: (Duration::ZERO, ""),
            allocator: PhantomData,
        }
    }

    /// Whether there is a segment in which words can be replaced.
    pub fn is_fit(scene: &Scene<A>) -> bool {
        scene.past != Past::Nothing
    }

    /// Forks a victim of this scene, which stops before its operation. All its panics are heard.
    fn start(stage: &mut Stage<A>, scene: &Scene<A>) -> Stopped {
        let (name, past, memfd) = (stage.name.to_owned(), stage.past, stage.memfd.as_ref());
        let victim = Forked::spawn(|| {
            judge::leave_verdict(judge::caught(|| {
                let trace: &mut dyn FnMut(&mut dyn FnMut()) = &mut |operation| {
                    tracer::Tracee::between_stops(|| judge::leave_verdict(judge::caught(operation)));
                };
                (scene.operate)(Victim { name: &name, past, memfd, trace, allocator: PhantomData });
            }));
        });
        let pid = victim.pid();
        let status = waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        let is_ready = status == WaitStatus::Stopped(pid, Signal::SIGSTOP);
        assert!(is_ready, "{} {}: {status:?}, {:?}", A::NAME, scene.label, judge::take_verdict());
        let dead = Stage::<A>::die_lately(past, &name);
        stage.view.refresh();
        Stopped { victim, pid, _dead: dead }
    }

    fn mapped_as(stage: &Stage<A>) -> String {
        if stage.memfd.is_some() { "/memfd:".to_owned() } else { stage.name.to_owned() }
    }

    /// Follows a victim to the end of its operation, or so far, and notes what it loads.
    fn observe(&mut self, stage: &mut Stage<A>, scene: &Scene<A>, most_steps: usize) {
        let name = Self::mapped_as(stage);
        let stopped = Self::start(stage, scene);
        self.observer.begin(stopped.pid.as_raw(), &name);
        loop {
            let registers = ptrace::getregs(stopped.pid).unwrap();
            self.observer.observe(&registers, stopped.pid.as_raw(), &name);
            if self.observer.path.len() >= most_steps || stopped.step().is_err() {
                return;
            }
        }
    }

    /// Replaces words in a scene until the time is up, and some in any case, that its operation loads in so many steps.
    pub fn replace_in(&mut self, scene: &Scene<A>, most_steps: usize, time: Duration) {
        let start = Instant::now();
        let (mut stage, mut before) = self.set_up(scene);
        self.observe(&mut stage, scene, most_steps);
        self.put_back(&mut stage, &mut before, scene);
        let loads = std::mem::take(&mut self.observer.loads);
        let path = std::mem::take(&mut self.observer.path);
        let again = loads.iter().filter(|load| load.is_again).count();
        self.verdict.count("loads", loads.len() as u64);
        self.verdict.count("pairs", again as u64);
        let (firsts, seconds) = (by_instruction(&loads, &path, false), by_instruction(&loads, &path, true));
        let mut left = AT_LEAST;
        while (left > 0 || start.elapsed() < time) && !loads.is_empty() {
            left = left.saturating_sub(1);
            let of = if firsts.is_empty() || !seconds.is_empty() && self.random.below(4) != 0 {
                &seconds
            } else {
                &firsts
            };
            // Each instruction as often as another, also if it is in a loop.
            let instances = &of[self.random.index(of.len())];
            let load = instances[self.random.index(instances.len())];
            self.replace(&mut stage, scene, &path, load);
            self.still_here();
            self.put_back(&mut stage, &mut before, scene);
        }
    }

    /// Everything as it was, for the next victim.
    fn put_back(&mut self, stage: &mut Stage<A>, before: &mut Snapshot, scene: &Scene<A>) {
        Self::restore(stage, before);
        if !is_there(stage) {
            // The name is gone, or leads elsewhere: from the beginning.
            (*stage, *before) = self.set_up(scene);
        }
    }

    /// The segment that victims come to, and how it is then.
    fn set_up(&mut self, scene: &Scene<A>) -> (Stage<A>, Snapshot) {
        let mut stage = Stage::<A>::new(scene.past, &mut self.calls);
        stage.view.refresh();
        let before = ledger().snapshot(stage.view.bytes());
        (stage, before)
    }

    fn restore(stage: &Stage<A>, before: &Snapshot) {
        stage.view.restore(&before.bytes);
        ledger().restore(before);
    }

    /// Puts another word where a victim is just about to load one, perhaps for this load alone; and judges what
    /// becomes of it.
    fn replace(&mut self, stage: &mut Stage<A>, scene: &Scene<A>, path: &[u64], load: Load) {
        let start = Instant::now();
        let stopped = Self::start(stage, scene);
        let arrived = stopped.go(path, load.step);
        let here = arrived.map(|()| ptrace::getregs(stopped.pid).unwrap().rip);
        if here != Ok(path[load.step]) {
            // It went another way, which depends on the number that it has, or on the time.
            self.verdict.count("astray", 1);
            return;
        }
        let bytes = stage.view.bytes();
        let word = |at: u64| u64::from_ne_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap());
        let words = bytes.len() / 8;
        let other =
            (0..32).map(|_| self.random.index(words) as u64 * 8).find(|at| word(*at) != 0).unwrap_or(0);
        let old = word(load.at);
        let place = Place { at: load.at, old, len: bytes.len() as u64, other, other_value: word(other) };
        let sort = self.random.below(SORTS);
        let new = hostile(sort, &place, &mut self.random);
        stage.view.put(load.at as usize, new);
        let is_brief = self.random.below(2) == 0;
        let mut result = Ok(());
        if is_brief {
            result = stopped.step();
            let now = stage.view.bytes()[load.at as usize..][..8].try_into().unwrap();
            if u64::from_ne_bytes(now) == new {
                stage.view.put(load.at as usize, old);
            }
        }
        self.verdict.count("replaced", 1);
        let status = match result {
            Ok(()) => stopped.finish(),
            Err(WaitStatus::Stopped(pid, Signal::SIGSTOP)) => Ok(WaitStatus::Exited(pid, 0)),
            Err(status) => Ok(status),
        };
        let what = || {
            format!(
                "{} {}: word at {:#x} loaded at step {} by {:#x}{}: {old:#x} became {new:#x}{}",
                A::NAME,
                scene.label,
                load.at,
                load.step,
                path[load.step],
                if load.is_again { ", again" } else { "" },
                if is_brief { " for a moment" } else { "" }
            )
        };
        self.slowest = self.slowest.max((start.elapsed(), scene.label));
        match status {
            Err(late) => self.verdict.too_late(format!("{}: {late}", what())),
            Ok(status) => {
                // One that has panicked where the crate has not may well have done so: it did not get what it wanted.
                let panicked = judge::take_verdict().err().filter(|(_, text)| !text.contains(" at tests/"));
                if let Some((_, text)) = panicked {
                    self.verdict.panics += 1;
                    self.verdict.report(format!("{}: {text}", what()));
                } else {
                    self.verdict.judge(status, what);
                }
            }
        }
    }

    /// Says now and then that the campaign goes on.
    fn still_here(&mut self) {
        if self.last_word.elapsed() > Duration::from_secs(10) {
            say("progress ...");
            self.last_word = Instant::now();
        }
    }
}

/// The name still leads to the segment.
fn is_there<A>(stage: &Stage<A>) -> bool {
    let (Some(inode), false) = (stage.view.inode(), stage.memfd.is_some()) else { return true };
    stage.name.path().metadata().is_ok_and(|file| file.ino() == inode)
}

/// The loads that are first ones or not, those of each instruction together.
fn by_instruction(loads: &[Load], path: &[u64], is_again: bool) -> Vec<Vec<Load>> {
    let mut groups: HashMap<u64, Vec<Load>> = HashMap::new();
    for load in loads.iter().filter(|load| load.is_again == is_again) {
        groups.entry(path[load.step]).or_default().push(*load);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_unstable_by_key(|(address, _)| *address);
    groups.into_iter().map(|(_, loads)| loads).collect()
}
