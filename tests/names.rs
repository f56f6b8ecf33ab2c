//! Objects and names against a shadow
//!
//! Random actions of two attachments, on sound and on damaged segments; `names/shadow.rs` says what must hold. The same
//! code is behind the fuzz target `directory`.

#[path = "names/shadow.rs"]
mod shadow;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn follows_the_shadow(cases: u32, first: impl Strategy<Value = u8>) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(first, vec(any::<u8>(), 0..800)), |(first, actions)| {
            shadow::run(&[&[first], &actions[..]].concat());
            Ok(())
        })
        .unwrap();
}

#[test]
fn names_follow_the_shadow() {
    follows_the_shadow(3000, 0..2_u8);
}

#[test]
fn whatever_is_damaged_there_is_an_answer() {
    follows_the_shadow(3000, 0x80..=0x81_u8);
}
