//! The fuzz targets start from seeds that are real: headers of segments as this version writes them, actions
//! that an allocator or a directory has behind it, and damage to images of segments
//!
//! `UPDATE_SEEDS=1 cargo test --test fuzz_seeds` writes them anew after a change of the format. What the targets have found
//! stands beside them, in files that are called `found-` and what was wrong; all are run.

#![cfg(target_endian = "little")]

mod common;
#[path = "hostile_memory/mod.rs"]
mod hostile;
#[allow(dead_code)] // It is for property tests, too.
#[path = "allocators/shadow.rs"]
mod allocators;
#[path = "names/shadow.rs"]
mod names;

use common::TestName;
use hostile::image::{self, HEAP_START};
use shmem_bind::allocator::Extent;
use shmem_bind::{Builder, Header, OrphanPolicy, ShmemBox, Tlsf, UnlinkPolicy};
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

    let growing = Builder::new(&name).with_size(64 << 10).max_size(1 << 20).create().unwrap();
    let _arena = growing.arena::<Tlsf>().unwrap();
    let arena = header_of(&name);
    let with_len = |len: u64| [&arena[..], &len.to_ne_bytes()].concat();

    vec![
        ("arena", with_len(1 << 30)),
        ("arena-cut-short", with_len(64 << 10)),
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

/// A generator of bytes; the same ones each time.
struct Bytes(u64);

impl Bytes {
    fn some(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// For each image: what is done with it whole, and damaged a little and more.
fn attach_seeds() -> Vec<(String, Vec<u8>)> {
    let mut bytes = Bytes(0x2545_f491_4f6c_dd1d);
    let mut seeds = Vec::new();
    for image in 0..image::images().len() as u8 {
        for changes in [0, 1, 4] {
            let body = bytes.some(usize::from(changes) * 8 + 48 * 4);
            seeds.push((format!("image-{image}-damaged-{changes}"), [&[image, changes], &body[..]].concat()));
        }
    }
    seeds
}

/// For each image of an arena all ways in which an object is asked for; and such that must not be found.
fn object_seeds() -> Vec<(String, Vec<u8>)> {
    let mut bytes = Bytes(0x9fb2_1c65_1e98_df25);
    let mut seeds = Vec::new();
    for image in 0..6 {
        for changes in [0, 2] {
            let mut seed = vec![image, changes];
            seed.extend(bytes.some(usize::from(changes) * 8));
            for how in 0..24 {
                seed.push((how << 3) | (how % 8));
                seed.extend(bytes.some(15));
            }
            seeds.push((format!("image-{image}-damaged-{changes}"), seed));
        }
    }
    for (image, sort) in (0..).zip(["tlsf", "slab", "bump"]) {
        let image = &image::images()[image];
        let text = u64::from_le_bytes(*b"good mor");
        let has_text = |block: &u64| image.words[HEAP_START + *block as usize / 8 + 3] == text;
        let block = image.blocks.iter().position(has_text).unwrap() as u32;
        let long = Extent::new(image::MOST as u64, 0).bits();
        let attempt = [&[6, 0, 0, 0][..], &block.to_le_bytes(), &long.to_le_bytes()].concat();
        let which = ["tlsf", "slab", "bump"].iter().position(|other| *other == sort).unwrap() as u8;
        seeds.push((format!("{sort}-pinned-beyond-the-end"), [&[which, 0], &attempt[..]].concat()));
    }
    seeds
}

/// For each allocator what happens before somebody dies: to a heap, to a damaged one, and to any words.
fn recovery_seeds() -> Vec<(String, Vec<u8>)> {
    let mut bytes = Bytes(0xd6e8_feb8_6659_fd93);
    let mut seeds = Vec::new();
    for (allocator, first) in [("tlsf", 0x42), ("slab", 0x40), ("bump", 0x41)] {
        for (kind, flags, damage) in [("sound", 0, 0), ("damaged", 0, 6), ("any-words", 0x80, 24)] {
            for len in [1_u8, 4, 6] {
                // The flag changes what the rest modulo 3 is.
                let first =
                    (0..3).map(|more| (first | flags) + more).find(|byte| byte % 3 == first % 3).unwrap();
                let mut seed = vec![first, len];
                for step in 0..40 {
                    let mut step = if step < 40 - damage { vec![step % 7] } else { vec![9 + step % 7] };
                    step.extend(bytes.some(7));
                    seed.extend(step);
                }
                seeds.push((format!("{allocator}-{kind}-{len}"), seed));
            }
        }
        // A block that is condemned twice leads to itself.
        let condemned = [6, 0, 0, 0, 0, 0, 0, 0];
        let allocated = [0, 0, 0, 0, 40, 0, 0, 0];
        let seed = [&[first, 3][..], &allocated, &condemned, &condemned].concat();
        seeds.push((format!("{allocator}-stack-in-a-circle"), seed));
    }
    seeds
}

/// Each lock in all sorts of hands.
fn lock_seeds() -> Vec<(String, Vec<u8>)> {
    let mut bytes = Bytes(0x1656_67b1_9e37_79f9);
    let mut seeds = Vec::new();
    for (number, lock) in (0..).zip(["heap", "directory", "mutex"]) {
        for kind in 0..4_u8 {
            let mut seed = Vec::new();
            for how in 0..16 {
                seed.extend([number, kind << 5 | how]);
                seed.extend(bytes.some(14));
            }
            seeds.push((format!("{lock}-{kind}"), seed));
        }
    }
    seeds
}

/// Steps with each tool, and with all of them, in which words are changed or not.
fn sync_seeds() -> Vec<(String, Vec<u8>)> {
    let mut bytes = Bytes(0x6c62_272e_07bb_0142);
    let tools: [(&str, Vec<u8>); 6] = [
        ("readers-and-writers", (18..22).collect()),
        ("permits", vec![22, 23]),
        ("waiting", (24..28).collect()),
        ("one-to-one", (28..32).collect()),
        ("many-to-many", (32..36).collect()),
        ("all", (18..36).collect()),
    ];
    let mut seeds = Vec::new();
    for (tool, whats) in tools {
        for (kind, changes) in [("sound", 0), ("damaged", 2)] {
            let mut seed = Vec::new();
            for step in 0..60_usize {
                let change = step % 10 >= 10 - changes;
                seed.push(if change { 0 } else { whats[usize::from(bytes.some(1)[0]) % whats.len()] });
                seed.extend(bytes.some(11));
            }
            seeds.push((format!("{tool}-{kind}"), seed));
        }
    }
    seeds
}

/// What stands in a header and is not found by changing bits, for the dictionary of its target.
fn header_words() -> Vec<(String, Vec<u8>)> {
    let (_, arena) = seeds().swap_remove(0);
    let word = |name: &str, offset: usize| (name.to_owned(), arena[offset..][..8].to_vec());
    let mut words = vec![
        word("magic", 0),
        word("format", 8),
        word("total-length", 16),
        word("payload-length", 24),
        word("initial-length", 56),
        word("membership", 64),
        word("arena", 72),
    ];
    words.push(("lengths".to_owned(), arena[16..32].to_vec()));
    words.push(("magic-and-format".to_owned(), arena[..16].to_vec()));
    words
}

/// Compares a seed with the one in the package, or writes it.
fn compare(target: &str, name: &str, bytes: &[u8]) {
    compare_file(&format!("seeds/{target}/{name}"), bytes);
}

fn compare_file(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name);
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
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
fn the_dictionary_of_headers_is_up_to_date() {
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let lines = header_words().into_iter().map(|(name, word)| format!("{name}=\"{}\"\n", escaped(&word)));
    compare_file("dictionaries/header.dict", lines.collect::<String>().as_bytes());
}

#[test]
fn seeds_of_hostile_memory_are_up_to_date() {
    let seeds = [
        ("attach", attach_seeds()),
        ("objects", object_seeds()),
        ("recovery", recovery_seeds()),
        ("lock", lock_seeds()),
        ("sync", sync_seeds()),
    ];
    for (target, seeds) in seeds {
        for (name, bytes) in seeds {
            compare(target, &name, &bytes);
        }
    }
}

#[test]
fn every_seed_of_hostile_memory_gives_an_answer() {
    for (target, run) in hostile::TARGETS {
        let seeds = hostile::seeds(target);
        assert!(seeds.len() >= 6, "{target} has few seeds");
        for (name, bytes) in seeds {
            println!("{target} {name}");
            run(&bytes);
        }
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
