//! Any bytes as a segment's header, and as the length of its file; see `tests/hostile_memory/header.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_memory/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::header::run(bytes));
