//! A child that is single-stepped through an operation, by ptrace
//!
//! The child calls [`traced`], which stops it before and after the operation; the parent, which must be one
//! thread all along, has a [`Tracer`] in between.

use super::{Child, Parent};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// In the child: runs the operation between two stops.
pub fn traced(parent: &mut Parent, operation: impl FnOnce()) {
    ptrace::traceme().unwrap();
    parent.say(&gettid().to_string());
    raise(Signal::SIGSTOP).unwrap();
    operation();
    raise(Signal::SIGSTOP).unwrap();
}

/// Steps a child through its operation.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    /// The thread of the child that does it.
    thread: Pid,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Fails if the child has been waited for.
        if self.child.process.kill().is_ok() {
            self.await_end();
        }
    }
}

impl Tracer {
    /// Starts a child, and leaves it at the beginning of its operation.
    pub fn start(role: &str, arguments: &[&str]) -> Self {
        let child = Child::spawn(role, arguments);
        let thread = Pid::from_raw(child.hear().parse().unwrap());
        let tracer = Self { child, thread };
        assert_eq!(tracer.wait(), WaitStatus::Stopped(thread, Signal::SIGSTOP));
        tracer
    }

    /// The child, to talk with once it runs by itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the child, which stays a zombie.
    pub fn kill(&self) {
        self.child.signal(Signal::SIGKILL);
        self.await_end();
        self.child.await_death();
    }

    /// Sees the thread's end: before its tracer has seen that, the process has not ended.
    fn await_end(&self) {
        let wait = || waitpid(self.thread, Some(WaitPidFlag::__WALL));
        while !matches!(wait(), Ok(WaitStatus::Signaled(..)) | Err(_)) {}
    }

    /// The number of the system call that the next instruction makes, if it makes one.
    pub fn system_call(&self) -> Option<u64> {
        let registers = ptrace::getregs(self.thread).unwrap();
        let code = ptrace::read(self.thread, registers.rip as ptrace::AddressType).unwrap();
        (code.to_ne_bytes()[..2] == SYSCALL).then_some(registers.rax)
    }

    /// Lets the system call that comes next fail, without making it.
    pub fn fail_system_call(&self, errno: Errno) {
        let mut registers = ptrace::getregs(self.thread).unwrap();
        registers.rip += SYSCALL.len() as u64;
        registers.rax = i64::from(-(errno as i32)) as u64;
        ptrace::setregs(self.thread, registers).unwrap();
    }

    /// Executes one instruction; `false` if it was the last one of the operation.
    pub fn step(&self) -> bool {
        ptrace::step(self.thread, None).unwrap();
        match self.wait() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => true,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => false,
            status => panic!("{status:?}"),
        }
    }

    /// Goes to the end of the operation.
    pub fn finish_operation(&self) {
        ptrace::cont(self.thread, None).unwrap();
        assert_eq!(self.wait(), WaitStatus::Stopped(self.thread, Signal::SIGSTOP));
    }

    /// After the operation: lets the child run by itself.
    pub fn release(&self) {
        ptrace::detach(self.thread, None).unwrap();
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap()
    }
}

/// Keeps this thread, and the children that it spawns, on the CPU where it is: a step of a tracee on another
/// one costs a wake-up there and back, on some virtual machines a hundred microseconds.
pub fn stay_on_one_cpu() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}
