//! A heap of any words whose lock a dead one holds: it is put right, or refused; see `tests/hostile_memory/recovery.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_memory/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::recovery::run(bytes));
