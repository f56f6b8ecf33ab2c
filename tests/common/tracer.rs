//! A child that is single-stepped through an operation, by ptrace
//!
//! The child calls [`traced`], which stops it before and after the operation; the parent, which must be one
//! thread all along, has a [`Tracer`] in between. Of a child that was forked, a [`Tracee`] is enough.

use super::{Child, Parent};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use std::ops::Deref;

/// In the child: runs the operation between two stops.
pub fn traced(parent: &mut Parent, operation: impl FnOnce()) {
    ptrace::traceme().unwrap();
    parent.say(&gettid().to_string());
    raise(Signal::SIGSTOP).unwrap();
    operation();
    raise(Signal::SIGSTOP).unwrap();
}

/// A thread that is traced by this one.
#[derive(Clone, Copy, Debug)]
pub struct Tracee(Pid);

impl Tracee {
    /// In a forked child: lets the parent trace it, and runs the operation between two stops.
    pub fn between_stops(operation: impl FnOnce()) {
        ptrace::traceme().unwrap();
        raise(Signal::SIGSTOP).unwrap();
        operation();
        raise(Signal::SIGSTOP).unwrap();
    }

    pub const fn new(thread: Pid) -> Self {
        Self(thread)
    }

    /// Waits until it stops for this signal.
    pub fn await_stop(self, signal: Signal) {
        assert_eq!(self.wait(), WaitStatus::Stopped(self.0, signal));
    }

    /// Sees the end of a thread that is not its process: before its tracer has seen that, the process has not ended.
    pub fn await_end(self) {
        let wait = || waitpid(self.0, Some(WaitPidFlag::__WALL));
        while !matches!(wait(), Ok(WaitStatus::Signaled(..)) | Err(_)) {}
    }

    /// Executes one instruction; `false` if it was the last one of the operation.
    pub fn step(self) -> bool {
        ptrace::step(self.0, None).unwrap();
        match self.wait() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => true,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => false,
            status => panic!("{status:?}"),
        }
    }

    /// Goes to the end of the operation.
    pub fn finish_operation(self) {
        ptrace::cont(self.0, None).unwrap();
        self.await_stop(Signal::SIGSTOP);
    }

    /// Lets it run by itself, untraced. It stops for nobody any more.
    pub fn release(self) {
        ptrace::detach(self.0, None).unwrap();
    }

    /// Leaves it stopped, untraced, as whoever is sent this signal.
    pub fn leave_stopped(self) {
        ptrace::detach(self.0, Signal::SIGSTOP).unwrap();
    }

    fn wait(self) -> WaitStatus {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap()
    }
}

/// What depends on the machine.
#[cfg(target_arch = "x86_64")]
impl Tracee {
    /// The instruction that makes a system call.
    const SYSCALL: [u8; 2] = [0x0f, 0x05];

    /// Address of the instruction that comes next.
    pub fn instruction(self) -> u64 {
        // The first member of `user` is the registers.
        let at = std::mem::offset_of!(nix::libc::user_regs_struct, rip) as ptrace::AddressType;
        ptrace::read_user(self.0, at).unwrap() as u64
    }

    /// Whether the instruction at this address makes a system call.
    pub fn is_system_call(self, instruction: u64) -> bool {
        let code = ptrace::read(self.0, instruction as ptrace::AddressType).unwrap();
        code.to_ne_bytes()[..2] == Self::SYSCALL
    }

    /// The number of the system call that the next instruction makes, if it makes one.
    pub fn system_call(self) -> Option<u64> {
        self.is_system_call(self.instruction()).then(|| ptrace::getregs(self.0).unwrap().rax)
    }
}

/// Steps a child through its operation.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    /// The thread of the child that does it.
    tracee: Tracee,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Fails if the child has been waited for.
        if self.child.process.kill().is_ok() {
            self.tracee.await_end();
        }
    }
}

impl Deref for Tracer {
    type Target = Tracee;

    fn deref(&self) -> &Tracee {
        &self.tracee
    }
}

impl Tracer {
    /// Starts a child, and leaves it at the beginning of its operation.
    pub fn start(role: &str, arguments: &[&str]) -> Self {
        let child = Child::spawn(role, arguments);
        let tracee = Tracee::new(Pid::from_raw(child.hear().parse().unwrap()));
        tracee.await_stop(Signal::SIGSTOP);
        Self { child, tracee }
    }

    /// The child, to talk with once it runs by itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the child, which stays a zombie.
    pub fn kill(&self) {
        self.child.signal(Signal::SIGKILL);
        self.tracee.await_end();
        self.child.await_death();
    }
}

/// Keeps this thread, and the children that it spawns, on the CPU where it is: a step of a tracee on another
/// one costs a wake-up there and back, on some virtual machines a hundred microseconds.
pub fn stay_on_one_cpu() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}
