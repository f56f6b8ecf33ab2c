//! Victims in the middle of an operation, with a lock: brought there step by step, by ptrace

use super::{Kind, Pose, Stage, Victim, Way};
use crate::common::tracer::Tracee;
use nix::sys::signal::Signal;

/// Most instructions on the way to a lock.
const FAR: u32 = 1_000_000;

impl<K: Kind> Stage<'_, K> {
    /// Forks a victim that holds as much as others, and stops in the middle of an operation, some instructions after
    /// it has got the lock.
    pub fn spawn_posing(&self, pose: Pose, instructions: u32) -> Victim {
        let number = self.number();
        let victim = self.spawn_with(|held, _| {
            Tracee::between_stops(|| held.kind.operate(pose, number));
            unreachable!("it is killed before");
        });
        let tracee = Tracee::new(victim.process.pid());
        tracee.await_stop(Signal::SIGSTOP);
        let step = || assert!(tracee.step(), "the operation is over");
        let is_there = (0..FAR).any(|_| {
            step();
            self.asker.is_busy(pose)
        });
        assert!(is_there, "it never had the lock");
        for _ in 0..instructions {
            step();
        }
        assert!(self.asker.is_busy(pose), "so many instructions are not under the lock");
        // From here on it is stopped as any process may be.
        tracee.leave_stopped();
        victim
    }

    /// Whoever has a lock and is alive keeps it.
    #[track_caller]
    pub fn alive_posing(&self, what: &str, pose: Pose) {
        self.alive(what);
        assert!(self.asker.is_busy(pose), "{what}, {}, {pose:?}: robbed of its lock", K::NAME);
    }

    /// One has died that had a lock: the first who asks for the lock has it, and then the first question notices.
    #[track_caller]
    pub fn dead_posing(&self, what: &str, pose: Pose, way: Way) {
        let swept = self.asker.state().swept;
        self.court.timed(|| self.asker.take_lock(pose));
        let is_owned = self.ask(way);
        self.judge(what, swept, 1, is_owned, true);
    }
}
