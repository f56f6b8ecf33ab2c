//! Handles of any bits over damaged segments: an error, or an object within the segment; see `tests/hostile_memory/objects.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_memory/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::objects::run(bytes));
