//! Hostile memory, at random
//!
//! Inputs of the fuzz targets `header`, `attach`, `objects`, `recovery`, `lock` and `sync`, made at random; their seeds are
//! run by `fuzz_seeds`. What must hold say the modules in `hostile_memory/`.

#![allow(missing_docs)]

#[path = "hostile_memory/mod.rs"]
mod hostile;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn holds(target: &str, cases: u32, most: usize) {
    let (_, run) = hostile::TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&vec(any::<u8>(), 0..most), |bytes| {
            run(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn attaching_to_anything_gives_an_answer() {
    holds("attach", 1500, 200);
}

#[test]
fn a_handle_of_any_bits_leads_nowhere_outside() {
    holds("objects", 3000, 300);
}

#[test]
fn what_is_put_right_is_sound() {
    holds("recovery", 20_000, 400);
}

#[test]
fn nobody_who_lives_loses_a_lock() {
    holds("lock", 5000, 100);
}

#[test]
fn what_one_waits_at_gives_an_answer() {
    holds("sync", 10_000, 600);
}
