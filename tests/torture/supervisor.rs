//! The process that forks all others, kills them, and sees that they get on
//!
//! It has nothing to do with the segment itself, so nothing can keep it from looking.

use super::auditor::{self, AUDIT_ALONE, AUDIT_LIVING, FINISH, LEAVE_IT, MEASURE};
use super::board::{AUDITOR, Complaint, LEAVE, PARK, RUN, SEATS, Shared, WORKERS};
use super::plan::Plan;
use super::worker;
use crate::common::arena::{Allocator, Random};
use crate::common::campaign::{Figures, Forked, Wrong};
use crate::common::{TestName, path_of};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use shmem_bind::UnlinkPolicy;
use std::marker::PhantomData;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

/// Without any progress for so long, a process hangs.
const HANG: Duration = Duration::from_secs(1);
/// Late by more than this, the machine stood still.
const LATE: Duration = Duration::from_millis(50);
/// Without any progress for so long, a process may hang. Most are then spared until that is known.
const SUSPECT: Duration = Duration::from_millis(4);

/// A process, and how long it has been seen to make no progress.
struct Watched {
    process: Forked,
    seat: usize,
    progress: u64,
    idle: Duration,
    /// It is killed also while it seems to hang, so that some die while they wait for something.
    is_reckless: bool,
}

impl Watched {
    /// It is not killed before it has gone on, or has been found to hang: killing it would hide that.
    fn is_spared(&self) -> bool {
        self.idle > SUSPECT && !self.is_reckless
    }

    fn name(&self) -> String {
        if self.seat == AUDITOR { "auditor".to_owned() } else { format!("worker {}", self.seat) }
    }
}

/// The first thing that went wrong. There is no going on after it.
type Outcome = Result<(), (Wrong, String)>;

fn wrong((complaint, what): (Complaint, String)) -> (Wrong, String) {
    (if complaint == Complaint::Lost { Wrong::Lost } else { Wrong::Corrupt }, what)
}

struct Supervisor<'b, A> {
    board: &'b Shared,
    random: Random,
    plan: Plan,
    workers: Vec<Watched>,
    auditor: Option<Watched>,
    /// Killed, dying or dead, and to be reaped after so many other kills.
    killed: Vec<(Watched, u64)>,
    kills: u64,
    /// How many segments there have been, several of one name taken for one.
    lives: u64,
    /// Number of the process that was forked last.
    number: u64,
    allocator: PhantomData<A>,
}

/// Tortures arenas with one allocator until the time is up.
pub fn torture<A: Allocator>(board: &Shared, seed: u64, time: Duration) -> Figures {
    let name = TestName::new(A::NAME);
    let mut random = Random::seeded(seed);
    let plan = Plan::new(&name, 0, &mut random);
    let mut supervisor = Supervisor::<A> {
        board,
        random,
        plan,
        workers: Vec::new(),
        auditor: None,
        killed: Vec::new(),
        kills: 0,
        lives: 0,
        number: 0,
        allocator: PhantomData,
    };
    let start = Instant::now();
    let mut figures = Figures::default();
    let mut outcome = supervisor.measure();
    while outcome.is_ok() && start.elapsed() < time {
        outcome = supervisor.live();
    }
    figures.points = supervisor.kills;
    if let Err((wrong, what)) = outcome {
        figures.report(wrong, format!("{}, {:?}: {what}", A::NAME, supervisor.plan));
    }
    figures
}

impl<A: Allocator> Supervisor<'_, A> {
    fn fork(&mut self, seat: usize) -> Watched {
        self.board.clear_seat(seat);
        let seed = self.random.next();
        self.board.seats[seat].seed.store(seed, SeqCst);
        self.number += 1;
        self.board.seats[seat].number.store(self.number, SeqCst);
        let (board, plan) = (self.board, &self.plan);
        let process = Forked::spawn(|| {
            if seat == AUDITOR {
                auditor::audit::<A>(board, plan);
            } else {
                worker::work::<A>(board, seat, plan.clone());
            }
        });
        let is_reckless = seat != AUDITOR && self.random.below(4) == 0;
        Watched { process, seat, progress: 0, idle: Duration::ZERO, is_reckless }
    }

    /// Lets the others run for a while, and looks what they do.
    ///
    /// Who makes no progress for a second hangs. Not a second of the clock: the machine may stand still as a whole, or be so
    /// busy that nobody gets a CPU. So of each turn no more counts than this process asked for, however late it was given
    /// a CPU again: a second is at least five hundred turns, in which the others get theirs as well.
    fn look(&mut self, pause: Duration) -> Outcome {
        let before = Instant::now();
        thread::sleep(pause);
        let has_stood_still = before.elapsed() > pause + LATE;
        for watched in self.workers.iter_mut().chain(&mut self.auditor) {
            let seat = &self.board.seats[watched.seat];
            let (name, pid) = (watched.name(), watched.process.pid());
            if let Some(complaint) = seat.complaint(&name, pid) {
                return Err(wrong(complaint));
            }
            let progress = seat.progress.load(SeqCst);
            if progress != watched.progress || seat.is_parked.load(SeqCst) != 0 {
                (watched.progress, watched.idle) = (progress, Duration::ZERO);
            } else if !has_stood_still {
                watched.idle += pause;
            }
            if watched.idle > HANG {
                if let Some(status) = watched.process.try_reap() {
                    let what = format!("{} has ended with {status:?}", seat.place(&name, pid));
                    return Err((Wrong::Corrupt, what));
                }
                let what = format!("{}\n{}", seat.place(&name, pid), circumstances(pid.as_raw()));
                return Err((Wrong::Stuck, what));
            }
        }
        Ok(())
    }

    /// Looks in short turns until `is_done`.
    fn look_until(&mut self, mut is_done: impl FnMut(&mut Self) -> Result<bool, (Wrong, String)>) -> Outcome {
        while !is_done(self)? {
            self.look(Duration::from_micros(500))?;
        }
        Ok(())
    }

    fn measure(&mut self) -> Outcome {
        self.plan.unlink = UnlinkPolicy::Never;
        (self.plan.size, self.plan.max_size) = (8 << 20, 8 << 20);
        self.call_auditor();
        self.tell(MEASURE)?;
        self.dismiss(FINISH)
    }

    fn call_auditor(&mut self) {
        if self.auditor.is_none() {
            self.auditor = Some(self.fork(AUDITOR));
        }
    }

    /// Has the auditor do something.
    fn tell(&mut self, command: u32) -> Outcome {
        let board = self.board;
        board.seats[AUDITOR].command.store(command, SeqCst);
        self.look_until(|_| Ok(board.seats[AUDITOR].command.load(SeqCst) == 0))
    }

    /// Has the auditor do its last thing.
    fn dismiss(&mut self, command: u32) -> Outcome {
        self.tell(command)?;
        if let Some(auditor) = self.auditor.take() {
            auditor.process.finish();
        }
        Ok(())
    }

    /// A segment, or several of one name, from the beginning to the end.
    fn live(&mut self) -> Outcome {
        self.plan = Plan::new(&self.plan.name, self.lives, &mut self.random);
        self.lives += 1;
        for _ in 0..=self.random.below(3) {
            self.round()?;
        }
        self.call_auditor();
        self.dismiss(FINISH)?;
        if path_of(&self.plan.name).exists() {
            return Err((Wrong::Lost, "the name was to vanish, and is still there".to_owned()));
        }
        Ok(())
    }

    /// Kills, and settles accounts.
    fn round(&mut self) -> Outcome {
        self.board.phase.store(RUN, SeqCst);
        if self.plan.has_survivor {
            self.call_auditor();
        }
        self.hire();
        let last = self.kills + 40 + self.random.below(60);
        while self.kills < last {
            self.kill_somehow()?;
        }
        if self.plan.has_survivor && self.random.below(3) != 0 {
            self.audit_living()?;
        }
        if self.random.below(2) == 0 {
            self.part()?;
        }
        self.kill_all()?;
        self.bury(true)?;
        self.call_auditor();
        self.tell(AUDIT_ALONE)?;
        if self.random.below(2) == 0 { self.dismiss(LEAVE_IT) } else { Ok(()) }
    }

    fn kill_somehow(&mut self) -> Outcome {
        let pause = Duration::from_micros(self.random.below(2000));
        let pause = if self.random.below(8) == 0 { Duration::ZERO } else { pause };
        self.look(pause)?;
        match self.random.below(100) {
            0..3 => self.kill_all()?,
            3..10 => (0..2 + self.random.below(3)).for_each(|_| self.kill_one(0)),
            10..14 => self.stop_one(),
            14..20 => {
                let left = self.random.below(20);
                self.kill_one(left);
            }
            // Who is attached all along is so until it is killed too.
            20 if self.plan.has_survivor => self.replace_auditor(),
            _ => self.kill_one(0),
        }
        if self.random.below(4) == 0 {
            // Who comes next finds the dead and not the dying; and nobody, if all were killed.
            self.killed.iter().for_each(|(victim, _)| victim.process.await_death());
        }
        self.bury(false)?;
        self.hire();
        if self.plan.has_survivor {
            self.call_auditor();
        }
        Ok(())
    }

    /// Forks workers until there are as many as there must be, or nowhere to seat them.
    fn hire(&mut self) {
        while self.workers.len() < WORKERS {
            let killed = self.killed.iter().map(|(victim, _)| victim.seat);
            let taken: Vec<_> = self.workers.iter().map(|worker| worker.seat).chain(killed).collect();
            let Some(seat) = (0..SEATS).find(|seat| !taken.contains(seat)) else { return };
            let worker = self.fork(seat);
            self.workers.push(worker);
        }
    }

    /// Any of the workers that may be killed, if there are some.
    fn choose(&mut self) -> Option<usize> {
        let places = self.workers.iter().enumerate();
        let places: Vec<_> =
            places.filter(|(_, worker)| !worker.is_spared()).map(|(place, _)| place).collect();
        if places.is_empty() { None } else { Some(places[self.random.index(places.len())]) }
    }

    /// Kills any of the workers, and leaves it unburied for so many other kills.
    fn kill_one(&mut self, left: u64) {
        if let Some(victim) = self.choose() {
            self.kill(victim, left);
        }
    }

    fn kill(&mut self, worker: usize, left: u64) {
        let victim = self.workers.swap_remove(worker);
        self.board.doom(victim.seat);
        victim.process.signal(Signal::SIGKILL);
        self.killed.push((victim, left));
    }

    /// Kills all workers, once none of them seems to hang.
    fn kill_all(&mut self) -> Outcome {
        self.look_until(|this| Ok(!this.workers.iter().any(Watched::is_spared)))?;
        while !self.workers.is_empty() {
            self.kill_one(0);
        }
        Ok(())
    }

    /// Stops one for a moment. It is alive, and keeps what it holds, also a lock: meanwhile nobody is judged.
    fn stop_one(&mut self) {
        let Some(victim) = self.choose() else { return };
        self.workers[victim].process.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_micros(self.random.below(20_000)));
        if self.random.below(2) == 0 {
            self.workers[victim].process.signal(Signal::SIGCONT);
        } else {
            self.kill(victim, 0);
        }
    }

    fn replace_auditor(&mut self) {
        if let Some(auditor) = self.auditor.take_if(|auditor| !auditor.is_spared()) {
            self.board.doom(AUDITOR);
            auditor.process.kill_to_zombie();
            self.killed.push((auditor, 0));
        }
    }

    /// Reaps those whose time has come and who are dead; or all. None of them must have ended by itself.
    fn bury(&mut self, all: bool) -> Outcome {
        for (mut victim, left) in std::mem::take(&mut self.killed) {
            let status = match left {
                _ if all => Some(victim.process.reap()),
                0 => victim.process.try_reap(),
                _ => None,
            };
            match status {
                None => {
                    self.killed.push((victim, left.saturating_sub(1)));
                    continue;
                }
                Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => self.kills += 1,
                // Too late.
                Some(WaitStatus::Exited(_, 0)) if self.board.phase.load(SeqCst) == LEAVE => {}
                Some(status) => return Err(self.ended(&victim, status)),
            }
            // The auditor's successor has its seat already.
            if victim.seat != AUDITOR {
                self.board.clear_seat(victim.seat);
            }
        }
        Ok(())
    }

    fn ended(&self, victim: &Watched, status: WaitStatus) -> (Wrong, String) {
        let (name, pid) = (victim.name(), victim.process.pid());
        let seat = &self.board.seats[victim.seat];
        match seat.complaint(&name, pid) {
            Some(complaint) => wrong(complaint),
            None => (Wrong::Corrupt, format!("{} has ended with {status:?}", seat.place(&name, pid))),
        }
    }

    /// Has all workers say what they hold, and compares it with what the arena says.
    fn audit_living(&mut self) -> Outcome {
        self.call_auditor();
        for (victim, _) in &self.killed {
            victim.process.await_death();
            self.board.seats[victim.seat].forget_tallies();
        }
        self.board.phase.store(PARK, SeqCst);
        let board = self.board;
        self.look_until(|this| {
            let is_parked = |worker: &Watched| board.seats[worker.seat].is_parked.load(SeqCst) != 0;
            Ok(this.workers.iter().all(is_parked))
        })?;
        self.tell(AUDIT_LIVING)?;
        if self.random.below(2) == 0 {
            self.board.phase.store(RUN, SeqCst);
            for _ in 0..self.random.below(10) {
                self.kill_somehow()?;
            }
        }
        Ok(())
    }

    /// Lets the workers leave, but for some that are killed meanwhile.
    fn part(&mut self) -> Outcome {
        self.board.phase.store(LEAVE, SeqCst);
        for _ in 0..self.random.below(4) {
            thread::sleep(Duration::from_micros(self.random.below(500)));
            self.kill_one(0);
        }
        self.look_until(|this| {
            for mut worker in std::mem::take(&mut this.workers) {
                match worker.process.try_reap() {
                    None => this.workers.push(worker),
                    Some(WaitStatus::Exited(_, 0)) => this.board.clear_seat(worker.seat),
                    Some(status) => return Err(this.ended(&worker, status)),
                }
            }
            Ok(this.workers.is_empty())
        })
    }
}

/// What the kernel says of a process that hangs.
fn circumstances(pid: i32) -> String {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let stat = read("stat");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().take(13);
    format!(
        "stat {} | wchan {} | syscall {}",
        fields.collect::<Vec<_>>().join(" "),
        read("wchan"),
        read("syscall")
    )
}
