//! Hostile memory: whatever bytes are in a segment, the answer is an error and nothing else
//!
//! The code behind the fuzz targets `header`, `attach`, `objects`, `recovery`, `lock` and `sync`, each of which takes any bytes.
//! It starts from [images](image) of segments that the crate has made itself, changes words in them to values that hurt most
//! ([`Mutation`]), and puts them where the crate will find them ([`stage`]). Whatever the crate hands out must lie within the mapping
//! ([`Bounds`]); that there is neither a panic nor a signal nor an endless loop is up to the one who runs it.

#![allow(dead_code)]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::precedence)]

pub mod attach;
pub mod header;
pub mod image;
pub mod lock;
pub mod objects;
pub mod recovery;
pub mod stage;
pub mod sync;

use arbitrary::{Arbitrary, Unstructured};
use image::{EXPORT_WORDS, HEAP_START, Image, SLOT_LEN, SLOTS};
use shmem_bind::MAX_ATTACHMENTS;
use shmem_bind::allocator::Extent;
use std::fs;
use std::path::Path;

/// A target: its name, and what runs an input of it.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 6] = [
    ("header", header::run),
    ("attach", attach::run),
    ("objects", objects::run),
    ("recovery", recovery::run),
    ("lock", lock::run),
    ("sync", sync::run),
];

/// The seeds of a target, and what it has found, by name.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// Makes the mistake that the environment names, in a build that has some.
///
/// So it is shown that a target finds it within a minute, also if it starts from nothing:
/// ```sh
/// export RUSTFLAGS="--cfg planted"
/// SHMEM_BIND_PLANTED=ObjectWithoutEnd cargo +nightly fuzz run objects --target-dir target/fuzz-planted -- -max_len=512 -max_total_time=60
/// SHMEM_BIND_PLANTED=WalkWithoutBound cargo +nightly fuzz run recovery --target-dir target/fuzz-planted -- -max_len=512 -max_total_time=60 -timeout=5
/// ```
/// `tests/planted.rs` shows it with the seeds.
pub fn plant() {
    #[cfg(planted)]
    {
        use shmem_bind::planted::{Mistake, plant};
        let asked = std::env::var("SHMEM_BIND_PLANTED").unwrap_or_default();
        let known = [Mistake::ObjectWithoutEnd, Mistake::WalkWithoutBound];
        if let Some(mistake) = known.into_iter().find(|mistake| format!("{mistake:?}") == asked) {
            plant(mistake);
        }
    }
}

/// As many values of eight bytes as are left.
pub fn rest<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> Vec<T> {
    let mut values = Vec::new();
    while !input.is_empty() {
        values.extend(input.arbitrary());
    }
    values
}

/// A change of one word of an image, or of a page; in eight bytes.
///
/// | `place` | where |
/// |---|---|
/// | 0 | the first 128 bytes of the header |
/// | 1 | the words of the arena: locks, length, table, intents, counters |
/// | 2 | a slot: tenancy or generation |
/// | 3 | a word that is not zero |
/// | 4 | a word of a block's header, or the first of its object |
/// | 5 | the export bitmap |
/// | 6 | any word |
/// | 7 | a whole page, which becomes a hole; or the words from here on, as many as the operand says |
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Mutation {
    place: u8,
    value: u8,
    index: u16,
    operand: u32,
}

impl Mutation {
    pub fn apply(self, image: &mut Image) {
        let word = self.word(image);
        match self.place % 16 {
            7 => {
                let page = word / 512 * 512;
                let end = image.words.len().min(page + 512);
                image.words[page..end].fill(0);
            }
            15 => {
                let end = image.words.len().min(word + (self.operand % 64) as usize);
                let value = self.replacement(image, word);
                image.words[word..end].fill(value);
            }
            _ => image.words[word] = self.replacement(image, word),
        }
    }

    /// The number of the word.
    pub fn word(self, image: &Image) -> usize {
        let index = usize::from(self.index);
        let word = match self.place % 8 {
            0 => index % 16,
            1 => 16 + index % 24,
            2 => SLOTS + index / 2 % MAX_ATTACHMENTS as usize * SLOT_LEN + index % 2,
            3 => image.occupied[index % image.occupied.len()],
            4 => match image.blocks.len() {
                0 => index,
                blocks => HEAP_START + image.blocks[index / 4 % blocks] as usize / 8 + index % 4,
            },
            5 => image.words.len() - 1 - index % EXPORT_WORDS,
            _ => index,
        };
        word % image.words.len()
    }

    /// What the word becomes.
    pub fn replacement(self, image: &Image, word: usize) -> u64 {
        let (old, operand) = (image.words[word], u64::from(self.operand));
        let signed = i64::from(self.operand as i32) as u64;
        let offset = ((word as u64).wrapping_sub(HEAP_START as u64)).wrapping_mul(8);
        let block = |index: u64| match image.blocks.len() {
            0 => 8,
            blocks => image.blocks[index as usize % blocks],
        };
        match self.value % 24 {
            0 => 0,
            1 => u64::MAX,
            2 => operand,
            3 => signed.wrapping_neg(),
            4 => old.wrapping_add(signed),
            5 => old ^ 1 << (operand % 64),
            6 => image.lengths()[operand as usize % 8].wrapping_add(signed >> 8),
            // Itself, as an offset and as others write it.
            7 => offset.wrapping_add(signed),
            8 => offset / 16 | (operand % 2) << 32,
            9 => block(operand),
            10 => block(operand) / 16 | block(operand >> 16) / 16 << 32,
            11 => image.words[image.occupied[operand as usize % image.occupied.len()]],
            12 => state(operand),
            13 => Extent::new(operand >> 8 << 4, operand).bits(),
            14 => Extent::new(u64::MAX, operand).with_own(operand >> 8).bits(),
            15 => image.holder(operand) | operand >> 8 << 31,
            16 => image.tenancy(operand),
            17 => operand << 32 | operand,
            18 => operand << 32,
            19 => 1 << 63 | operand,
            20 => i64::MAX as u64 - operand,
            21 => block(operand) / 16 | (operand >> 8) << 40,
            22 => 1 << (operand % 64) | 1 << (operand >> 8 & 63),
            _ => old.rotate_left(self.operand % 64),
        }
    }
}

/// A state word of any kind: its low bits are the kind and the flags, and what comes after is a slot or a bitmap.
pub fn state(operand: u64) -> u64 {
    operand & 0xff | (operand >> 8 & 0xff) << 8 | (operand >> 16) << 14
}
