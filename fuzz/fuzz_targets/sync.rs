//! Locks, permits, cells, events and queues with any words in them: an answer at once; see `tests/hostile_memory/sync.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_memory/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::sync::run(bytes));
