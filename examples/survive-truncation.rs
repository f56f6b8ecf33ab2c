//! A process survives that another one cuts its segment short, and goes on with a new one.
//!
//! ```text
//! cargo run --example survive-truncation
//! ```
//! Any process that may write to the file of a named segment can make it shorter, by mistake or on purpose (a memfd is sealed
//! against that). Memory that is no longer there is a `SIGBUS` to whoever touches it. What becomes of it is for the program's handler
//! to decide: this one leaves to the library what is the library's, and ends the program for all else.

use nix::libc::{BUS_ADRERR, c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};
use shmem_bind::{self as shmem, Arena, ShmemBox, ShmemError, Tlsf};
use std::error::Error;
use std::fs::OpenOptions;
use std::process::Command;
use std::{env, fs};

const SIZE: usize = 256 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => survivor(),
        ["peer", name] => peer(name),
        _ => Err("usage: survive-truncation".into()),
    }
}

/// Has the handler called for `SIGBUS`, with what the kernel knows about it.
fn install_handler() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(on_sigbus), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler does nothing that may not be done in one.
    unsafe { sigaction(Signal::SIGBUS, &action) }.map(|_| ())
}

extern "C" fn on_sigbus(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: with `SA_SIGINFO` the kernel passes what it knows.
    let info = unsafe { &*info };
    if info.si_code == BUS_ADRERR {
        // SAFETY: the kernel sent this signal for an access.
        let address = unsafe { info.si_addr() };
        // SAFETY: called in the handler, for that address and that reason; and all values in the segment are integers, for
        // which zeros are as good as any.
        if unsafe { shmem::sigbus_fixup(address.cast()) } {
            return;
        }
    }
    // Not the library's: the access is made again, and ends the program.
    // SAFETY: as in `install_handler`; there is no handler then.
    let _ = unsafe { signal(Signal::SIGBUS, SigHandler::SigDfl) };
}

fn open(name: &str) -> Result<Arena<Tlsf>, ShmemError> {
    Ok(shmem::Builder::new(name).with_size(SIZE).open()?.arena()?)
}

fn survivor() -> Result<(), Box<dyn Error>> {
    install_handler()?;
    let name = format!("survive-truncation-{}", std::process::id());
    let arena = open(&name)?;
    let numbers: ShmemBox<[u64]> = arena.alloc_slice(10_000, 1)?;
    println!("survivor: the sum is {}", numbers.iter().sum::<u64>());

    Command::new(env::current_exe()?).args(["peer", &name]).status()?;

    // These are the first accesses to what is not there any more: from there on they read zero.
    let sum: u64 = numbers.iter().sum();
    let what = if sum < 10_000 { "less" } else { "the same" };
    println!("survivor: the sum is {what}, severed: {}", arena.conf().is_severed());
    let error = arena.alloc(1_u64).map(|_| ()).map_err(|rejected| rejected.error).unwrap_err();
    println!("survivor: {error}");

    // All that belongs to it has to go; then one can see what is left.
    drop((numbers, arena));
    match open(&name) {
        Err(error @ ShmemError::Header(_)) => println!("survivor: {error}"),
        other => return Err(format!("a segment that was cut short was opened: {other:?}").into()),
    }
    fs::remove_file(format!("/dev/shm/{name}"))?;
    let arena = open(&name)?;
    let numbers = arena.alloc_slice(10_000, 2_u64)?;
    println!("survivor: in a new segment the sum is {}", numbers.iter().sum::<u64>());
    Ok(())
}

/// Somebody who may write to the file, and should not have.
fn peer(name: &str) -> Result<(), Box<dyn Error>> {
    OpenOptions::new().write(true).open(format!("/dev/shm/{name}"))?.set_len(16 * 1024)?;
    println!("peer: has cut the segment short");
    Ok(())
}
