//! A segment with damaged words: whoever attaches gets an error, or can ask and do anything; see `tests/hostile_memory/attach.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile_memory/mod.rs"]
mod hostile;

fuzz_target!(init: hostile::plant(), |bytes: &[u8]| hostile::attach::run(bytes));
