//! Any sequence of actions with names, references and handles: each answer is as the shadow says. Once the sequence has
//! damaged words of the segment, each call returns, and never panics.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | bit 0: which allocator; bit 7: words may be damaged |
//! | then 4 each | an action |
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/names/shadow.rs"]
mod shadow;

fuzz_target!(|bytes: &[u8]| shadow::run(bytes));
