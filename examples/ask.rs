//! Asks the daemon of `examples/no-libc`, which has no C library, about a text.
//!
//! ```text
//! cargo run --release --manifest-path examples/no-libc/Cargo.toml -- NAME &
//! cargo run --example ask -- NAME "some text"   # also with --leave, which dies in the middle
//! cargo run --example ask -- NAME --stop
//! ```
//!
//! Text and answer lie in the arena and are given away by their handles; whose turn it is says one word. A client holds
//! the desk's mutex meanwhile. One that is killed leaves it to the next, which first brings the call of the dead to its
//! end.

#[path = "no-libc/src/desk.rs"]
mod desk;

use desk::{ANSWERED, ASKED, Answer, DESK, Desk, FREE, STOP};
use rustix::thread::futex;
use shmem_bind::sync::{LockError, MutexGuard};
use shmem_bind::{Arena, Builder, ShmemBox, ShmemError, Tlsf};
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

/// How long a daemon may take, on a machine that is busy with a lot else.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    let result = match arguments.as_slice() {
        [_, name, request] => run(name, request),
        _ => Err("say a segment's name, and a text or --stop".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, request: &str) -> Result<(), Box<dyn Error>> {
    let arena: Arena<Tlsf> = Builder::new(name).attach()?.arena()?;
    let desk = arena.wait_for::<Desk>(DESK, PATIENCE)?;
    let mut calls = sit_down(&arena, &desk)?;
    match request {
        "--stop" => {
            pass_on(&desk, STOP);
            println!("{} calls, {} answers", *calls, desk.answered.load(Relaxed));
        }
        "--leave" => {
            *calls += 1;
            ask(&arena, &desk, "what nobody waits for")?;
            println!("asked, and killed");
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        }
        text => {
            *calls += 1;
            ask(&arena, &desk, text)?;
            let Answer { bytes, lines, words, hash } = *hear(&arena, &desk)?;
            println!("{bytes} bytes, {lines} lines, {words} words, hash {hash:08x}");
        }
    }
    Ok(())
}

/// Waits for the desk, and clears it if somebody died at it.
fn sit_down<'d>(arena: &Arena, desk: &'d Desk) -> Result<MutexGuard<'d, u32>, Box<dyn Error>> {
    match desk.calls.lock() {
        Ok(calls) => Ok(calls),
        Err(LockError::Orphaned(orphaned)) => {
            if desk.turn.load(Acquire) != FREE {
                drop(hear(arena, desk)?);
            }
            println!("somebody died at the desk");
            // Any bytes are a number.
            Ok(orphaned.recover())
        }
        Err(error) => Err(ShmemError::from(error).into()),
    }
}

/// Lays a text on the desk.
fn ask(arena: &Arena, desk: &Desk, text: &str) -> Result<(), Box<dyn Error>> {
    let text = arena.alloc_slice_copy(text.as_bytes())?;
    desk.question.write(ShmemBox::leak(text));
    pass_on(desk, ASKED);
    Ok(())
}

/// Waits for the answer, and takes it away.
fn hear(arena: &Arena, desk: &Desk) -> Result<ShmemBox<Answer>, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match desk.turn.load(Acquire) {
            ANSWERED => break,
            turn if turn == ASKED && Instant::now() < deadline => {
                let slice = futex::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                // Woken, changed before, or time to look at the clock: all the same.
                let _ = futex::wait(&desk.turn, futex::Flags::empty(), turn, Some(&slice));
            }
            ASKED => return Err("the daemon does not answer; see whether it runs".into()),
            _ => return Err("the daemon has been told to stop".into()),
        }
    }
    let answer = arena.claim(desk.answer.read());
    pass_on(desk, FREE);
    Ok(answer?)
}

fn pass_on(desk: &Desk, turn: u32) {
    desk.turn.store(turn, Release);
    let _ = futex::wake(&desk.turn, futex::Flags::empty(), 1);
}
