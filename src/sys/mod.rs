//! The system calls
//!
//! The only files that make system calls, through `rustix`. They say what they did in the words of the man pages,
//! decide nothing, and keep no state but what their RAII types own.

use crate::error::{ArenaError, ShmemError};
use rustix::io::Errno;

pub(crate) mod clock;
pub(crate) mod futex;
pub(crate) mod process;
pub(crate) mod shm;

/// Which system call failed, of several that something is done by, and its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    call: &'static str,
    errno: Errno,
}

impl Failure {
    pub(crate) const fn new(call: &'static str, errno: Errno) -> Self {
        Self { call, errno }
    }

    /// The error of whoever asked for `asked` bytes of memory, or of a file.
    pub(crate) fn of_asking_for(self, asked: u64) -> ShmemError {
        match self.errno {
            Errno::NOSPC | Errno::DQUOT | Errno::NOMEM => ShmemError::NoSpace { asked },
            _ => self.into(),
        }
    }

    /// Makes a failure of the error of this call.
    pub(crate) fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { call, errno }
    }
}

impl From<Failure> for ShmemError {
    fn from(Failure { call, errno }: Failure) -> Self {
        Self::Os { call, errno }
    }
}

impl From<Failure> for ArenaError {
    fn from(Failure { call, errno }: Failure) -> Self {
        Self::Os { call, errno }
    }
}
