//! A forked process that takes part
//!
//! Parent and child speak through a socket: one byte, sent or awaited, sleeping. So a child uses no processor while the
//! other contestants have their turn, and each of both sees when the other one has failed.

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One end of the socket.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    /// Tells the other one to go on.
    pub fn send(&mut self) {
        self.0.write_all(&[1]).expect("the other process has ended");
    }

    /// Waits for [`send`](Self::send); `false` if the other one has hung up.
    #[must_use]
    pub fn receive(&mut self) -> bool {
        match self.0.read_exact(&mut [0]) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The child, as its parent sees it. Dropped, it is told to end, and waited for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    line: Option<Line>,
}

impl Child {
    /// Forks a process that does `work`, and ends. The work is to return when its line hangs up.
    ///
    /// Of this crate's segments it has only those that it attaches itself.
    pub fn spawn(work: impl FnOnce(Line)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let parent = nix::unistd::getpid();
        // SAFETY: the benchmarks that fork have one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self { pid: child, line: Some(Line(ours)) },
            ForkResult::Child => {
                drop(ours);
                let work = || {
                    prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                    assert_eq!(getppid(), parent, "the parent died before it could be seen to");
                    work(Line(theirs));
                };
                let is_done = catch_unwind(AssertUnwindSafe(work)).is_ok();
                // Nothing of the parent's is to be dropped here.
                // SAFETY: it only ends the process.
                unsafe { nix::libc::_exit(if is_done { 0 } else { 101 }) }
            }
        }
    }

    /// Tells it to go on.
    pub fn send(&mut self) {
        self.line().send();
    }

    /// Waits until it says that it is ready.
    pub fn await_ready(&mut self) {
        assert!(self.line().receive(), "the other process has failed");
    }

    fn line(&mut self) -> &mut Line {
        self.line.as_mut().expect("it is there until this is dropped")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(Line(socket)) = self.line.take() {
            // Children that were forked later have it too, so that closing it would not hang up.
            let _ = socket.shutdown(Shutdown::Both);
        }
        if std::thread::panicking() {
            // It may wait for what will not come.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        let status = waitpid(self.pid, None);
        if !std::thread::panicking() {
            assert_eq!(status, Ok(WaitStatus::Exited(self.pid, 0)), "the other process has failed");
        }
    }
}
