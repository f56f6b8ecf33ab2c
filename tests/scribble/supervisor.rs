//! Who sees what becomes of the victims

use super::board::{Board, now};
use super::victim::{self, names};
use super::{vandal, victim::DEEDS};
use crate::common::arena::Allocator;
use crate::common::campaign::{self, Forked};
use crate::hostile::verdict::Verdict;
use nix::unistd::getpid;
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whoever is at one operation for longer hangs. Each waits for some milliseconds at a time, for a few locks.
const ENDLESS: u64 = 20_000;

pub type Shared = campaign::Board<Board>;

/// The board of this driver, and of all that it forks.
pub fn board() -> &'static Shared {
    static BOARD: OnceLock<Shared> = OnceLock::new();
    // Zeros are what it begins with.
    BOARD.get_or_init(|| unsafe { Shared::new() })
}

// SAFETY: the memory is shared by processes, and consists of atomics.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

/// Lets victims be vexed until the time is up.
pub fn campaign<A: Allocator>(board: &'static Board, seed: u64, time: Duration) -> Verdict {
    let (mut verdict, start, mut seed) = (Verdict::default(), Instant::now(), seed);
    let done = || [&board.operations, &board.damaged].map(|count| count.load(SeqCst));
    let before = done();
    while start.elapsed() < time && verdict.signals + verdict.panics + verdict.late < 10 {
        let prefix = format!("shmem-bind-test-{}-{seed}", getpid());
        board.turn.store(0, SeqCst);
        board.since.store(now(), SeqCst);
        let mut victim = Forked::spawn(|| victim::suffer::<A>(board, seed, &prefix));
        let vandal = Forked::spawn(|| vandal::scribble(board, seed));
        watch(board, &mut victim, &mut verdict, seed, || start.elapsed() >= time);
        drop((victim, vandal));
        board.stop.store(false, SeqCst);
        seed += 1;
    }
    for ((what, before), after) in ["operations", "damaged"].iter().zip(before).zip(done()) {
        verdict.count(what, after - before);
    }
    verdict
}

/// Waits for the end of a victim, and tells it when it is time.
fn watch(board: &Board, victim: &mut Forked, verdict: &mut Verdict, seed: u64, is_over: impl Fn() -> bool) {
    let at = || {
        let deed = names().nth(board.deed.load(SeqCst) as usize).unwrap_or("?");
        let turn = board.turn.load(SeqCst);
        format!("seed {seed}, turn {turn}, {deed}: {}", board.last_words.take())
    };
    loop {
        if let Some(status) = victim.try_reap() {
            verdict.judge(status, at);
            return;
        }
        if now().saturating_sub(board.since.load(SeqCst)) > ENDLESS {
            return verdict.too_late(at());
        }
        if is_over() {
            board.stop.store(true, SeqCst);
        }
        sleep(Duration::from_millis(5));
    }
}

/// What has been done, and what of it succeeded and failed how often; and what should have and never did.
pub fn depth(board: &Board) -> (String, Vec<String>) {
    let (mut line, mut missing) = (String::new(), Vec::new());
    let mut slowest = (0, "");
    for (index, name) in names().enumerate().take(DEEDS) {
        let count = &board.counts[index];
        let (good, bad) = (count.good.load(SeqCst), count.bad.load(SeqCst));
        write!(line, "{name} {good}/{bad}, ").unwrap();
        if good == 0 {
            missing.push(format!("{name} has never succeeded"));
        }
        if bad == 0 && victim::can_fail(index) {
            missing.push(format!("{name} has never failed"));
        }
        slowest = slowest.max((count.slowest.load(SeqCst), name));
    }
    write!(line, "slowest {} with {} us", slowest.1, slowest.0).unwrap();
    (line, missing)
}
