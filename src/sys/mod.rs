//! The system calls
//!
//! The only files that make system calls, through `rustix`. They say what they did in the words of the man pages,
//! decide nothing, and keep no state but what their RAII types own.

pub(crate) mod clock;
pub(crate) mod futex;
pub(crate) mod process;
pub(crate) mod shm;
