//! The fuzz targets start from seeds that are real: headers of segments as this version writes them, and actions
//! that an allocator or a directory has behind it
//!
//! `UPDATE_SEEDS=1 cargo test --test fuzz_seeds` writes them anew after a change of the format.

#![cfg(target_endian = "little")]

mod common;
#[allow(dead_code)] // It is for property tests, too.
#[path = "allocators/shadow.rs"]
mod allocators;
#[path = "names/shadow.rs"]
mod names;

use common::TestName;
use shmem_bind::{Builder, Header, OrphanPolicy, ShmemBox, UnlinkPolicy};
use std::fs;
use std::path::Path;

/// Bytes that `Header::parse` looks at.
const PREFIX: usize = 128;

/// The header of the segment called `name`, with a fixed number in the place of the random one.
fn header_of(name: &TestName) -> Vec<u8> {
    let mut bytes = fs::read(name.path()).unwrap();
    bytes.truncate(PREFIX);
    bytes[40..56].fill(0x5e);
    bytes
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let name = TestName::new("seed");
    let create = |unlink, orphan| {
        Builder::new(&name).unlink_policy(unlink).orphan_policy(orphan).with_size(4096).create().unwrap()
    };
    let owned = create(UnlinkPolicy::LastDetach, OrphanPolicy::Refuse);
    let last_detach = header_of(&name);
    drop(owned);

    let owned = create(UnlinkPolicy::OwnerDrop, OrphanPolicy::Recreate);
    // SAFETY: a new segment is zeros, and zero is a valid u64.
    let value = unsafe { owned.boxed::<u64>() };
    let boxed = header_of(&name);
    let mut forming = boxed.clone();
    forming[64..].fill(0);
    let mut other_byte_order = boxed.clone();
    other_byte_order[..8].reverse();
    let mut other_version = boxed.clone();
    other_version[8] ^= 3;
    ShmemBox::leak(value);
    let leaked = header_of(&name);
    shmem_bind::unlink(&name).unwrap();

    vec![
        ("last-detach", last_detach),
        ("boxed", boxed),
        ("forming", forming),
        ("leaked", leaked),
        ("refused-byte-order", other_byte_order),
        ("refused-version", other_version),
    ]
}

/// For each allocator a sequence of actions, and one with damage.
fn allocator_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for (number, allocator) in (0..).zip(["bump", "tlsf", "slab"]) {
        for (damage, kind) in [(0, "sound"), (0x80, "damaged")] {
            for choice in [0x01, 0x8c, 0x17] {
                let mut bytes = vec![number | damage, choice];
                for _ in 0..60 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    bytes.extend(random.to_le_bytes());
                }
                seeds.push((format!("{allocator}-{kind}-{choice:02x}"), bytes));
            }
        }
    }
    seeds
}

/// Sequences of actions with names, for each allocator, and some with damage.
fn directory_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut random = 0x853c_49e6_748f_ea9b_u64;
    for (number, allocator) in (0..).zip(["tlsf", "slab"]) {
        for (damage, kind) in [(0, "sound"), (0x80, "damaged")] {
            for index in 0..3 {
                let mut bytes = vec![number | damage];
                for _ in 0..120 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    bytes.extend((random as u32).to_le_bytes());
                }
                seeds.push((format!("{allocator}-{kind}-{index}"), bytes));
            }
        }
    }
    seeds
}

/// Compares a seed with the one in the package, or writes it.
fn compare(target: &str, name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target).join(name);
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap_or_default(), bytes, "{name}: see the head of this file");
}

#[test]
fn seeds_are_up_to_date() {
    for (name, bytes) in seeds() {
        assert_eq!(Header::parse(&bytes).is_err(), name.starts_with("refused"), "{name}");
        compare("header", name, &bytes);
    }
}

#[test]
fn allocator_seeds_are_up_to_date() {
    for (name, bytes) in allocator_seeds() {
        allocators::run(&bytes);
        compare("allocator", &name, &bytes);
    }
}

#[test]
fn directory_seeds_are_up_to_date() {
    for (name, bytes) in directory_seeds() {
        names::run(&bytes);
        compare("directory", &name, &bytes);
    }
}
