//! Any sequence of actions in a heap, deaths among them: after each the whole heap is as its shadow says. Once the
//! sequence has damaged words of the heap, each call returns, and never panics.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | bits 0..=1: which allocator; bit 7: words may be damaged |
//! | 1 | length of the heap, what is in it at first, and how it is emptied at last |
//! | then 8 each | an action; see `Action::decode` |
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)] // It is for property tests, too.
#[path = "../../tests/allocators/shadow.rs"]
mod shadow;

fuzz_target!(|bytes: &[u8]| shadow::run(bytes));
