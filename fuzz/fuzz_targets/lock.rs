//! Lock words of any bits: an answer at once, and nobody who lives loses a lock; see `tests/hostile_memory/lock.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_memory/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::lock::run(bytes));
