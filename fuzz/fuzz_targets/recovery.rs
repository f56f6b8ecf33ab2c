//! A heap of any words whose lock a dead one holds: it is put right, or refused; see `hostile/recovery.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::recovery::run(bytes));
