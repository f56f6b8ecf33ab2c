//! Words that are likely to do harm

use crate::common::arena::Random;

/// Bytes of the header, which the payload follows.
pub const HEADER: u64 = 4096;

/// What stands in a segment, for one who makes up a bad word for one of its places.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset of the word in the segment.
    pub at: u64,
    /// What is there.
    pub old: u64,
    /// Length of the segment.
    pub len: u64,
    /// Offset of some other word of it.
    pub other: u64,
    /// What is there.
    pub other_value: u64,
}

/// Number of sorts of words, of which some are different each time.
pub const SORTS: u64 = 34;

/// A word of this sort for that place.
pub fn hostile(sort: u64, place: &Place, random: &mut Random) -> u64 {
    let Place { at, old, len, other, other_value } = *place;
    // As offsets of blocks in the heap, and as numbers of granules.
    let block = |offset: u64| (offset.saturating_sub(HEADER) & !15) + 8;
    let extent = |granules: u64, slack: u64, own: u64| granules & 0xffff_ffff | slack << 32 | own << 40;
    let slot = random.below(64);
    match sort {
        0 => 0,
        1 => 1,
        2 => !0,
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        5 => old.wrapping_add(8),
        6 => old.wrapping_sub(8),
        7 => old.wrapping_add(16),
        8 => old ^ 1 << random.below(64),
        9 => old ^ 1 << random.below(12),
        10 => !old,
        11 => other_value,
        // The place itself, and another one: cycles.
        12 => block(at),
        13 => block(at) / 16,
        14 => block(other),
        15 => block(other) / 16,
        16 => len,
        17 => len - HEADER,
        18 => (len - HEADER) / 16,
        19 => 1 << 63,
        20 => (1 << 63) - 1,
        21 => 0xffff_ffff_ffff_fff0,
        22 => 0x0010_0000_0000_0008,
        23 => random.next(),
        24 => old & !0xffff_ffff | random.next() & 0xffff_ffff,
        25 => old & 0xffff_ffff | random.next() << 32,
        // States of blocks, valid and not.
        26 => random.below(8) | slot << 8,
        27 => 4 | random.below(4) << 3 | random.next() << 8,
        28 => random.below(8) | slot << 8 | random.below(1 << 20) << 14,
        // Sizes of blocks.
        29 => extent(random.below(6), random.below(256), old >> 40),
        30 => extent((len - HEADER) / 16, 0, 0),
        31 => extent(random.next(), random.below(2) * 255, random.below(4)),
        // Locks: held by somebody, of some generation.
        32 => (random.below(64) << 24 | random.below(4)) & 0xffff_ffff | old & !0xffff_ffff,
        // Places of the table of names.
        _ => {
            let (granule, pinned) = (block(other) / 16, random.below(2) << 40);
            old & !0 << 41 | pinned | granule
        }
    }
}
