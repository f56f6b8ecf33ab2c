//! Where an operation is run: a victim that is traced from one system call to the next, and those around it

use super::operations::Operation;
use super::sites::{Context, Request, Site, classify};
use crate::common::TestName;
use crate::common::campaign::{Board, Forked};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use shmem_bind::{Arena, OwnedFd, ShmemConf, ShmemError};
use std::cell::UnsafeCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

/// What is done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// It is not made, and fails; or it is made and fails, if [`Site::is_made`].
    Fail(Errno),
    /// It does a part of what is asked for.
    Short,
    /// A mapping comes to lie elsewhere than asked for, as kernels before 4.17 have it.
    Elsewhere,
}

/// Which calls it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Once,
    /// This call and all later ones of its number that have the error. Interruptions come to an end, after many.
    Always,
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many calls that can fail the operation makes before.
    pub index: usize,
    pub injection: Injection,
    pub extent: Extent,
}

/// A call that was made by a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub site: Site,
    /// How often the same site was there before.
    pub nth: usize,
    /// How often it had been asked before whether some process lives, if that is what is asked.
    pub question: Option<usize>,
}

/// Interruptions in a row; far more than any program gets.
const INTERRUPTIONS: usize = 50;
/// Calls after which an operation counts as one that never ends.
const MOST_CALLS: usize = 500_000;

/// What an operation gave: a number that says what was done, or an error.
pub type Outcome = Result<u64, ShmemError>;

/// Memory shared with the victim.
pub struct Words {
    pub ready: AtomicU32,
    outcome: UnsafeCell<MaybeUninit<Outcome>>,
    has_outcome: AtomicU32,
}

/// What the victim does its part with.
pub struct Victim<'a> {
    pub name: &'a str,
    /// For who waits for somebody.
    pub patience: Duration,
    pub memfd: Option<&'a OwnedFd>,
    words: &'a Words,
    own: Pid,
}

impl Victim<'_> {
    /// What is there now is to be there in the end.
    pub fn begin(&self) {
        self.stop();
    }

    /// Runs the operation; its result is to be held until the end.
    pub fn run<T>(&self, operation: impl FnOnce() -> Result<(u64, T), ShmemError>) -> Option<T> {
        self.stop();
        let result = operation();
        let (outcome, held) = match result {
            Ok((number, held)) => (Ok(number), Some(held)),
            Err(error) => (Err(error), None),
        };
        // SAFETY: the driver looks when this process has stopped.
        unsafe { (*self.words.outcome.get()).write(outcome) };
        self.words.has_outcome.store(1, SeqCst);
        self.stop();
        held
    }

    /// One system call, which the tracer knows for this.
    fn stop(&self) {
        kill(self.own, Signal::SIGSTOP).unwrap();
    }
}

/// A segment, and those around the victim.
pub struct Stage {
    pub name: TestName,
    pub words: Board<Words>,
    pub patience: Duration,
    /// Without a name.
    pub memfd: Option<(ShmemConf, OwnedFd)>,
    /// Attached by the driver.
    pub observer: Option<ShmemConf>,
    pub arena: Option<Arena>,
    /// What the driver holds besides, such as a guard.
    pub held: Option<Box<dyn std::any::Any>>,
    /// A zombie.
    pub corpse: Option<Forked>,
    /// The segment's file, whatever its name leads to.
    pub file: Option<File>,
}

/// What a process has: descriptors and mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    fds: BTreeMap<String, String>,
    mappings: Vec<String>,
}

impl Resources {
    fn of(pid: Pid, with_anonymous: bool) -> Self {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap());
        let fds = entries.map(|entry| {
            let target = fs::read_link(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), target.display().to_string())
        });
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let is_file = |line: &str| line.split_ascii_whitespace().nth(4).is_some_and(|inode| inode != "0");
        let mappings = maps.lines().filter(|line| with_anonymous || is_file(line));
        Self { fds: fds.collect(), mappings: mappings.map(str::to_owned).collect() }
    }

    /// What the other has and this has not, or the other way round.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        let fds = |one: &Self, two: &Self| {
            let only = one.fds.iter().filter(|(fd, file)| two.fds.get(*fd) != Some(file));
            only.map(|(fd, file)| format!("{fd}: {file}")).collect::<Vec<_>>()
        };
        let mappings = |one: &Self, two: &Self| {
            let only = one.mappings.iter().filter(|line| !two.mappings.contains(line));
            only.cloned().collect::<Vec<_>>()
        };
        Some(format!(
            "gone: {:?} {:?}, left over: {:?} {:?}",
            fds(self, other),
            mappings(self, other),
            fds(other, self),
            mappings(other, self)
        ))
    }
}

/// What a run has shown.
pub struct Run {
    /// All calls of sites, in order.
    pub calls: Vec<Call>,
    /// Those that something was done to by the plan.
    pub hit: Vec<(Call, Injection)>,
    pub outcome: Option<Outcome>,
    /// What is not as it must be; the driver's own view, apart from the outcome.
    pub leaks: Vec<String>,
    /// It never came to an end, or died.
    pub stuck: Option<String>,
    /// Whether the name was there after the operation, its result still held.
    pub has_name: bool,
    /// The processes that had slots then.
    pub tenants: Vec<u32>,
}

impl Run {
    const fn new() -> Self {
        Self {
            calls: Vec::new(),
            hit: Vec::new(),
            outcome: None,
            leaks: Vec::new(),
            stuck: None,
            has_name: false,
            tenants: Vec::new(),
        }
    }
}

impl Stage {
    pub fn new(patience: Duration) -> Self {
        Self {
            name: TestName::new("syscalls"),
            // SAFETY: atomics, and a cell that may be uninitialised.
            words: unsafe { Board::new() },
            patience,
            memfd: None,
            observer: None,
            arena: None,
            held: None,
            corpse: None,
            file: None,
        }
    }

    /// Forks a victim of the operation, which waits at its beginning.
    fn fork(&self, operation: &Operation) -> Tracee {
        let victim = Forked::spawn(|| {
            let victim = Victim {
                name: &self.name,
                patience: self.patience,
                memfd: self.memfd.as_ref().map(|(_, fd)| fd),
                words: &self.words,
                own: getpid(),
            };
            ptrace::traceme().unwrap();
            victim.stop();
            (operation.act)(&victim);
            victim.stop();
        });
        let tracee = Tracee { victim, last: None, origins: HashMap::new(), seen: HashMap::new() };
        assert_eq!(tracee.wait(), WaitStatus::Stopped(tracee.pid(), Signal::SIGSTOP));
        ptrace::setoptions(tracee.pid(), ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
        tracee
    }

    /// Runs the operation from its beginning to its end.
    pub fn run(&mut self, operation: &Operation, plan: Option<Plan>) -> Run {
        let mut run = Run::new();
        (operation.before)(self);
        let mut tracee = self.fork(operation);
        // What the driver attaches from here on the victim does not inherit.
        (operation.beside)(self);
        let mut resources = Vec::new();
        let look = |stage: &mut Self, tracee: &Tracee| {
            stage.open_file();
            Resources::of(tracee.pid(), !operation.grows)
        };
        for at in 0..2 {
            if !tracee.go_on() {
                run.stuck = Some(format!("it died before stop {at}"));
                return run;
            }
            resources.push(look(self, &tracee));
        }
        (operation.at_start)(self);
        if let Err(how) = tracee.operate(self, operation, plan, &mut run, &|_| false) {
            run.stuck = Some(how);
            return run;
        }
        let now = look(self, &tracee);
        assert_eq!(self.words.has_outcome.load(SeqCst), 1);
        // SAFETY: the victim has written it, and has stopped; the text in it is the program's, at the same address in both.
        let outcome = unsafe { &*self.words.outcome.get() };
        // SAFETY: as above.
        run.outcome = Some(unsafe { outcome.assume_init_read() });
        run.has_name = self.name.exists();
        run.tenants = self.tenants();
        if run.outcome.is_some_and(|outcome| outcome.is_err()) {
            let before = &resources[if operation.consumes { 0 } else { 1 }];
            run.leaks.extend(before.difference(&now).map(|what| format!("after the error: {what}")));
        }
        let victim = tracee.pid().as_raw() as u32;
        if let Some(observer) = &self.observer {
            // Whatever it could not find out of itself, others do not take it for dead.
            let slots = |tenants: &[u32]| tenants.iter().filter(|pid| **pid == victim).count();
            observer.sweep();
            if slots(&self.tenants()) != slots(&run.tenants) {
                run.leaks.push("the victim was taken for dead".to_owned());
            }
        }
        if !tracee.go_on() {
            run.stuck = Some("it died after the operation".to_owned());
            return run;
        }
        let end = Resources::of(tracee.pid(), !operation.grows);
        run.leaks.extend(resources[0].difference(&end).map(|what| format!("in the end: {what}")));
        if self.tenants().contains(&victim) {
            run.leaks.push("a slot stays taken".to_owned());
        }
        (operation.at_end)(self, &mut run);
        self.check_others(&mut run);
        tracee.finish();
        run
    }

    /// Runs the operation of somebody who dies when it comes to a site, and stays a zombie.
    pub fn die_at(&mut self, operation: &Operation, end: Site, beside: impl FnOnce(&mut Self)) {
        let mut tracee = self.fork(operation);
        assert!(tracee.go_on() && tracee.go_on());
        beside(self);
        let mut run = Run::new();
        let stop = |site| site == end;
        tracee.operate(self, operation, None, &mut run, &stop).unwrap();
        assert_eq!(run.calls.last().map(|call| call.site), Some(end));
        tracee.victim.kill_to_zombie();
        self.corpse = Some(tracee.victim);
    }

    /// The segment's file, when there is one.
    fn open_file(&mut self) {
        if self.file.is_none() {
            self.file = match &self.memfd {
                Some((_, fd)) => Some(fd.try_clone().unwrap().into()),
                None => File::options().read(true).write(true).open(self.name.path()).ok(),
            };
        }
    }

    /// The processes that have slots in the segment's table.
    pub fn tenants(&self) -> Vec<u32> {
        let Some(file) = &self.file else { return Vec::new() };
        let mut table = [0; 64 * 56];
        let mut membership = [0; 8];
        file.read_at(&mut membership, 64).unwrap();
        if membership == [0; 8] {
            // Forming: who has a slot says nothing.
            return Vec::new();
        }
        let len = file.read_at(&mut table, 512).unwrap();
        let words =
            table[..len].chunks_exact(64).map(|slot| u64::from_ne_bytes(*slot.first_chunk().unwrap()));
        words.map(|word| word as u32 & 0x3f_ffff).filter(|pid| *pid != 0).collect()
    }

    /// The victim has nothing any more, and is still alive.
    fn check_others(&mut self, run: &mut Run) {
        self.held = None;
        if let Some(arena) = self.arena.take() {
            if let Err(error) = arena.sweep().map(|_| ()).and_then(|()| arena.check()) {
                run.leaks.push(format!("the arena is not sound any more: {error}"));
            }
        }
        if self.memfd.is_some() {
            self.observer = None;
            return;
        }
        if let Some(observer) = self.observer.take() {
            observer.sweep();
            if observer.attachment_count() != 1 {
                run.leaks.push(format!("attachments: {} instead of 1", observer.attachment_count()));
            }
            if !self.tenants().contains(&std::process::id()) {
                run.leaks.push("the one beside it was robbed of its slot".to_owned());
            }
            // So that what comes next finds the segment, if it has a name.
            if observer.is_linked() && !self.name.exists() {
                run.leaks.push("the name of a segment that is open to others is gone".to_owned());
            }
            observer.leak();
        }
        if let Some(file) = &self.file {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            let probe = File::options().read(true).write(true).open(path).unwrap();
            let lock = nix::fcntl::Flock::lock(probe, nix::fcntl::FlockArg::LockExclusiveNonblock);
            if lock.is_err() {
                run.leaks.push("the file stays locked".to_owned());
            }
        }
        // Whatever was left behind, the next one makes a sound segment of it.
        let next = shmem_bind::Builder::new(&self.name).mode(0o640).with_size(8).open();
        match next {
            Ok(next) => {
                if next.attachment_count() != 1 {
                    run.leaks.push(format!("the next one is attached {} times", next.attachment_count()));
                }
                next.try_own().unwrap();
                drop(next);
                if self.name.exists() {
                    run.leaks.push("the name is left behind".to_owned());
                }
            }
            Err(error) => run.leaks.push(format!("the next one cannot open it: {error}")),
        }
    }
}

/// The victim, traced.
struct Tracee {
    victim: Forked,
    last: Option<Site>,
    /// Which site each descriptor comes from.
    origins: HashMap<u64, Site>,
    seen: HashMap<Site, usize>,
}

impl Tracee {
    const fn pid(&self) -> Pid {
        self.victim.pid()
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.pid(), Some(WaitPidFlag::__WALL)).unwrap()
    }

    /// Lets it run to its next stop; `false` if it ended.
    fn go_on(&self) -> bool {
        ptrace::cont(self.pid(), None).unwrap();
        self.wait() == WaitStatus::Stopped(self.pid(), Signal::SIGSTOP)
    }

    fn finish(self) {
        ptrace::detach(self.pid(), None).unwrap();
        self.victim.finish();
    }

    /// Goes to where a call begins or ends.
    fn next(&self) -> Result<libc::user_regs_struct, String> {
        ptrace::syscall(self.pid(), None).unwrap();
        match self.wait() {
            WaitStatus::PtraceSyscall(_) => Ok(ptrace::getregs(self.pid()).unwrap()),
            status => Err(format!("it died in the operation: {status:?}")),
        }
    }

    /// The text at this address.
    fn path(&self, at: u64) -> String {
        let words = (at..).step_by(8).map(|at| ptrace::read(self.pid(), at as ptrace::AddressType).unwrap());
        let bytes = words.flat_map(i64::to_ne_bytes).take_while(|byte| *byte != 0);
        String::from_utf8(bytes.collect()).unwrap()
    }

    /// Goes through the operation, and does to its calls what the plan says.
    fn operate(
        &mut self,
        stage: &mut Stage,
        operation: &Operation,
        plan: Option<Plan>,
        run: &mut Run,
        is_end: &dyn Fn(Site) -> bool,
    ) -> Result<(), String> {
        let mut interruptions = 0;
        // The number of the calls that fail from now on.
        let mut failing = None;
        for _ in 0..MOST_CALLS {
            let mut registers = self.next()?;
            let request = Request {
                number: registers.orig_rax as i64,
                arguments: [
                    registers.rdi,
                    registers.rsi,
                    registers.rdx,
                    registers.r10,
                    registers.r8,
                    registers.r9,
                ],
            };
            if request.number == libc::SYS_kill && request.arguments[1] == libc::SIGSTOP as u64 {
                return if self.go_on() { Ok(()) } else { Err("it died after the operation".to_owned()) };
            }
            let site = classify(
                &request,
                &Context {
                    own: self.pid().as_raw() as u64,
                    last: self.last,
                    origin: self.origins.get(&request.arguments[0]).copied(),
                    path: &|at| self.path(at),
                },
            )?;
            let site = site.filter(|site| {
                // Other tests have segments too.
                operation.label != "segments" || !is_foreign(*site, &request, self, &stage.name)
            });
            let mut injection = None;
            if let Some(site) = site {
                let seen = self.seen.entry(site).or_default();
                let nth = *seen;
                *seen += 1;
                // Each begins with the number of a process.
                let asked = self.seen.get(&Site::PidfdOther).copied().unwrap_or(0);
                let call = Call { site, nth, question: asked.checked_sub(1) };
                if call.nth == 0 {
                    (operation.on_call)(stage, site);
                }
                let standing = operation.standing.iter().find(|standing| standing.0 == site);
                injection = standing.map(|standing| standing.1);
                if let Some(plan) = plan {
                    let is_target = run.calls.len() == plan.index;
                    if is_target && plan.extent == Extent::Always {
                        failing = Some(request.number);
                    }
                    let has_error = match plan.injection {
                        Injection::Fail(errno) => site.errnos().contains(&errno),
                        _ => true,
                    };
                    if is_target || has_error && failing == Some(request.number) {
                        let is_interruption = plan.injection == Injection::Fail(Errno::EINTR);
                        interruptions += usize::from(is_interruption);
                        if interruptions <= INTERRUPTIONS {
                            injection = Some(plan.injection);
                            run.hit.push((call, plan.injection));
                        }
                    }
                }
                run.calls.push(call);
                if is_end(site) {
                    return Ok(());
                }
            }
            match injection {
                Some(Injection::Fail(_)) if !site.is_some_and(Site::is_made) => {
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(self.pid(), registers).unwrap();
                }
                Some(Injection::Short) => {
                    let len =
                        if site == Some(Site::Getrandom) { &mut registers.rsi } else { &mut registers.rdx };
                    *len = (*len / 2).clamp(1, 20);
                    ptrace::setregs(self.pid(), registers).unwrap();
                }
                Some(Injection::Elsewhere) => {
                    registers.rdi = 0;
                    registers.r10 &= !(libc::MAP_FIXED_NOREPLACE as u64);
                    ptrace::setregs(self.pid(), registers).unwrap();
                }
                _ => {}
            }
            let mut registers = self.next()?;
            if let Some(Injection::Fail(errno)) = injection {
                registers.rax = i64::from(-(errno as i32)) as u64;
                ptrace::setregs(self.pid(), registers).unwrap();
            }
            if request.number == libc::SYS_close {
                self.origins.remove(&request.arguments[0]);
            }
            if let Some(site) = site {
                if site.makes_descriptor() {
                    self.origins.insert(registers.rax, site);
                }
                self.last = Some(site);
            }
        }
        Err(format!("it made {MOST_CALLS} calls and went on"))
    }
}

/// Whether a call of the listing is about another file than the stage's.
fn is_foreign(site: Site, request: &Request, tracee: &Tracee, name: &TestName) -> bool {
    match site {
        Site::OpenExisting => tracee.path(request.arguments[0]) != name.path().to_str().unwrap(),
        Site::Pread | Site::Close => !tracee.origins.contains_key(&request.arguments[0]),
        // How many there are depends on how many files there are.
        Site::Getdents => tracee.seen.contains_key(&site),
        _ => false,
    }
}
