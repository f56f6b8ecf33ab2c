//! What an application does that survives a `SIGBUS`: it has a handler, and leaves to the library what is the library's

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

use nix::libc::{BUS_ADRERR, c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

static SURVIVED: AtomicU64 = AtomicU64::new(0);

/// How many faults this process has survived.
pub fn survived() -> u64 {
    SURVIVED.load(SeqCst)
}

/// From now on this process, and what it forks, survives what can be survived.
pub fn survive() {
    let action = SigAction::new(SigHandler::SigAction(handle), SaFlags::SA_SIGINFO, SigSet::empty());
    unsafe { sigaction(Signal::SIGBUS, &action) }.unwrap();
}

extern "C" fn handle(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
    if code == BUS_ADRERR && unsafe { shmem_bind::sigbus_fixup(address.cast()) } {
        SURVIVED.fetch_add(1, SeqCst);
        return;
    }
    // The access is made again, and kills the process.
    unsafe { signal(Signal::SIGBUS, SigHandler::SigDfl) }.unwrap();
}
