//! A daemon without a C library
//!
//! `cargo run --release --manifest-path examples/no-libc/Cargo.toml -- NAME` serves whoever asks at the desk that is called
//! `desk` in the arena NAME: it is given the handle of a text, counts what is in it, and gives the handle of the answer.
//! `cargo run --example ask -- NAME` asks; that is an ordinary program. Killed, it goes on where it was when it is started
//! again, and told to stop, it takes the segment along.
//!
//! It is static, has no allocator and no unwinding, and makes system calls itself. What a C library would bring
//! along is in `bare.rs`. It formats nothing, and so has nothing of `core::fmt` in it.

#![no_std]
#![no_main]

mod bare;
mod desk;

use bare::print;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use desk::{ANSWERED, ASKED, Answer, DESK, Desk, STOP};
use rustix::thread::futex;
use shmem_bind::{Arena, Builder, Handle, ShmemBox, ShmemError, Tlsf};

/// How long it sleeps before it looks who has died.
const SLEEP: futex::Timespec = futex::Timespec { tv_sec: 1, tv_nsec: 0 };

/// Serves until somebody says stop.
fn serve(name: &str) -> Result<(), ShmemError> {
    let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
    let desk = arena.find_or_alloc(DESK, Desk::default)?;
    print("ready\n");
    loop {
        match desk.turn.load(Acquire) {
            ASKED => {
                answer(&arena, &desk);
                // Unless it has become STOP.
                let _ = desk.turn.compare_exchange(ASKED, ANSWERED, Release, Relaxed);
                let _ = futex::wake(&desk.turn, futex::Flags::empty(), u32::MAX);
            }
            STOP => return Ok(()),
            turn => {
                if futex::wait(&desk.turn, futex::Flags::empty(), turn, Some(&SLEEP)).is_err() {
                    arena.sweep()?;
                }
            }
        }
    }
}

/// Answers the question on the desk. What is no question, or finds no room for an answer, gets the handle of nothing.
fn answer(arena: &Arena, desk: &Desk) {
    desk.answer.write(Handle::<Answer>::NOTHING);
    let Ok(text) = arena.claim::<[u8]>(desk.question.read()) else { return };
    let mut answer = Answer { bytes: text.len() as u32, lines: 0, words: 0, hash: 0x811c_9dc5 };
    let mut is_word = false;
    for byte in text.iter() {
        answer.lines += u32::from(*byte == b'\n');
        answer.words += u32::from(!is_word && !byte.is_ascii_whitespace());
        is_word = !byte.is_ascii_whitespace();
        answer.hash = (answer.hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    if let Ok(made) = arena.alloc(answer) {
        desk.answer.write(ShmemBox::leak(made));
        desk.answered.fetch_add(1, Relaxed);
    }
}

/// The program: what it is called with, and the status that it ends with.
fn main(arguments: &[Option<&str>]) -> i32 {
    let [_, Some(name)] = arguments else {
        print("say the name of a segment\n");
        return 2;
    };
    // Sentences for what users run into; those of the crate would bring formatting along.
    print(match serve(name) {
        Ok(()) => return 0,
        Err(ShmemError::Name(_)) => "no segment can have this name\n",
        Err(ShmemError::Arena(_)) => "the segment cannot be used as an arena of this allocator\n",
        Err(ShmemError::Directory(_)) => "the desk is something else, or there is no room for it\n",
        Err(_) => "the segment cannot be opened\n",
    });
    1
}
