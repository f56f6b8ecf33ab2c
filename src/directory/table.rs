//! The table of the directory: from names to entries
//!
//! A hash table with open addressing. A place of the table is one word, so publishing and unpublishing is one
//! store. Looking up reads the table and one entry. Nothing here changes anything, so that a read-only attachment can
//! do it too.
//!
//! | place, bits | field |
//! |---|---|
//! | 0..=39 | granule of the entry's block; 0: empty, or a name was here |
//! | 40 | PINNED: the entry never changes, and is never freed |
//! | 41..=63 | low bits of the hash |
//!
//! A name's search begins at the place that the high bits of its hash say, and ends at the first empty one. So the
//! hashes grow from one end of the table to the other, however large it is, but for collisions; the next name after
//! a given hash is found in any table. That is what the iterator relies on while the table is replaced.

use crate::error::{DirectoryError, HeapError};
use crate::header::SegmentId;
use crate::object::{BLOCK_HEADER_LEN, BlockState, EXTENT_OFFSET, Extent, GRANULE, TAG_OFFSET};

/// Longest name, in bytes.
pub(crate) const MAX_NAME: usize = 255;
const NAME_WORDS: usize = MAX_NAME.div_ceil(8);

const GRANULE_MASK: u64 = (1 << 40) - 1;
const PINNED: u64 = 1 << 40;
const HASH_SHIFT: u32 = 41;
/// Binary logarithm of the number of places of the largest table.
pub(super) const MOST_LOG: u32 = 40;
/// A place where a name was.
pub(super) const REMOVED: u64 = 1 << HASH_SHIFT;
pub(super) const EMPTY: u64 = 0;

/// Tag words of the directory's own blocks.
pub(super) const ENTRY_TAG: u64 = u64::from_be_bytes(*b"dirEntry");
pub(super) const TABLE_TAG: u64 = u64::from_be_bytes(*b"dirTable");

/// Words of an entry before the name: hash, offset of the object's block, length of the name.
pub(super) const ENTRY_HASH: u64 = BLOCK_HEADER_LEN;
pub(super) const ENTRY_OBJECT: u64 = BLOCK_HEADER_LEN + 8;
pub(super) const ENTRY_LEN: u64 = BLOCK_HEADER_LEN + 16;
pub(super) const ENTRY_NAME: u64 = BLOCK_HEADER_LEN + 24;

/// Reads the word at an offset of the heap.
pub(super) trait Read: Fn(u64) -> Result<u64, HeapError> {}
impl<F: Fn(u64) -> Result<u64, HeapError>> Read for F {}

/// A name as it is looked up: hashed.
#[derive(Clone, Copy)]
pub(crate) struct Key<'n> {
    pub(super) hash: u64,
    name: &'n str,
}

impl<'n> Key<'n> {
    /// Of a name, in the segment `id`, which keeps others from choosing names that collide.
    pub(crate) fn new(name: &'n str, id: SegmentId) -> Result<Self, DirectoryError> {
        let len = name.len();
        if len == 0 {
            return Err(DirectoryError::Empty);
        }
        if len > MAX_NAME {
            return Err(DirectoryError::TooLong { len });
        }
        let hash = words_of(name).fold(fold(id.low_bits() ^ len as u64), |hash, word| fold(hash ^ word));
        Ok(Self { hash, name })
    }

    /// Length of the name, in bytes.
    pub(super) const fn len(&self) -> u64 {
        self.name.len() as u64
    }

    /// Size of the entry of a name, in bytes.
    pub(crate) const fn entry_len(name: &str) -> u64 {
        entry_len(name.len() as u64)
    }

    /// The name, eight bytes a word, filled up with zeros.
    #[inline]
    pub(super) fn name_words(&self) -> impl Iterator<Item = u64> + 'n {
        words_of(self.name)
    }
}

/// Size of the entry of a name of `len` bytes, in bytes.
pub(crate) const fn entry_len(len: u64) -> u64 {
    len.saturating_add(ENTRY_NAME.saturating_sub(BLOCK_HEADER_LEN))
}

/// The bytes of a string, eight a word, filled up with zeros.
#[inline]
fn words_of(string: &str) -> impl Iterator<Item = u64> + '_ {
    let whole = string.as_bytes().chunks_exact(8);
    let rest = whole.remainder();
    let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let whole = whole.filter_map(|bytes| bytes.first_chunk().copied()).map(u64::from_le_bytes);
    whole.chain((!rest.is_empty()).then_some(last))
}

/// Mixes all bits of a word into all others: the two halves of its product with a large odd number.
const fn fold(word: u64) -> u64 {
    let product = (word ^ 0x9e37_79b9_7f4a_7c15) as u128;
    let product = product.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (product >> 64) as u64 ^ product as u64
}

/// A place of the table, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Place {
    pub(super) const fn new(entry: u64, hash: u64, pinned: bool) -> Self {
        let pinned = if pinned { PINNED } else { 0 };
        Self((entry / GRANULE) & GRANULE_MASK | pinned | hash << HASH_SHIFT)
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// Offset of the entry's block, if there is one.
    #[allow(clippy::arithmetic_side_effects)] // 2^44 at most
    pub(super) const fn entry(self) -> Option<u64> {
        match self.0 & GRANULE_MASK {
            0 => None,
            // Blocks begin half a granule after a granule.
            granule => Some(granule * GRANULE + GRANULE / 2),
        }
    }

    pub(super) const fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    const fn may_be(self, hash: u64) -> bool {
        self.0 >> HASH_SHIFT == hash & !0 >> HASH_SHIFT
    }
}

/// The table, as it was when its first word was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// Offset of the first place.
    start: u64,
    /// Binary logarithm of the number of places.
    pub(super) log: u32,
}

/// Where a name stands among all: by its hash, and with equal hashes by the offset of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    pub(super) hash: u64,
    pub(super) entry: u64,
}

/// A name that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Number of the place.
    pub(super) index: u64,
    pub(super) place: Place,
    pub(super) entry: u64,
    pub(crate) object: u64,
}

impl Table {
    /// Bytes of the object that holds a table of 2^`log` places.
    pub(super) const fn object_len(log: u32) -> u64 {
        ((1_u64 << log).saturating_add(1)).saturating_mul(8)
    }

    /// The table whose block is at `offset`.
    pub(super) fn at(offset: u64, log: u32) -> Self {
        Self { start: offset.wrapping_add(BLOCK_HEADER_LEN).wrapping_add(8), log }
    }

    /// Reads what the block at `offset` says of itself.
    pub(super) fn read(read: &impl Read, offset: u64) -> Result<Self, HeapError> {
        let damaged = HeapError::Damaged { at: offset };
        if offset % GRANULE != GRANULE / 2 {
            return Err(damaged);
        }
        let state = BlockState::from_bits(read(offset)?);
        let tag = read(offset.wrapping_add(TAG_OFFSET))?;
        let extent = Extent::from_bits(read(offset.wrapping_add(EXTENT_OFFSET))?);
        let log = read(offset.wrapping_add(BLOCK_HEADER_LEN))?;
        let log = u32::try_from(log).ok().filter(|log| (1..=MOST_LOG).contains(log)).ok_or(damaged)?;
        let fits = extent.object_len().is_some_and(|len| len >= Self::object_len(log));
        if state != BlockState::INTERNAL || tag != TABLE_TAG || !fits {
            return Err(damaged);
        }
        Ok(Self::at(offset, log))
    }

    pub(super) const fn capacity(self) -> u64 {
        1 << self.log
    }

    /// Offset of place number `index`, counted around.
    pub(super) const fn place(self, index: u64) -> u64 {
        self.start.wrapping_add((index & self.capacity().wrapping_sub(1)).wrapping_mul(8))
    }

    /// Where the search for a hash begins.
    pub(super) const fn home(self, hash: u64) -> u64 {
        hash >> (u64::BITS.wrapping_sub(self.log))
    }

    /// Finds a name.
    pub(super) fn find(
        self,
        read: &impl Read,
        key: &Key,
        pinned_only: bool,
    ) -> Result<Option<Found>, HeapError> {
        let home = self.home(key.hash);
        for distance in 0..self.capacity() {
            let index = home.wrapping_add(distance);
            let place = Place(read(self.place(index))?);
            if place.bits() == EMPTY {
                return Ok(None);
            }
            let Some(entry) = place.entry().filter(|_| place.may_be(key.hash)) else { continue };
            if pinned_only && !place.is_pinned() || !has_name(read, entry, key)? {
                continue;
            }
            let object = read(entry.wrapping_add(ENTRY_OBJECT))?;
            return Ok(Some(Found { index, place, entry, object }));
        }
        Err(self.is_full())
    }

    /// There is always an empty place, for without one each search would go through the whole table.
    const fn is_full(self) -> HeapError {
        HeapError::Damaged { at: self.place(0) }
    }

    /// Passes each entry on, and checks that a search for its hash gets as far as its place. Each place is read twice at
    /// most.
    pub(super) fn each(
        self,
        read: &impl Read,
        visit: &mut dyn FnMut(Found) -> Result<(), HeapError>,
    ) -> Result<(), HeapError> {
        let mut start = None;
        for index in 0..self.capacity() {
            if read(self.place(index))? == EMPTY {
                start = Some(index);
                break;
            }
        }
        let start = start.ok_or(self.is_full())?;
        // Places since the last empty one.
        let mut row = 0_u64;
        for distance in 1..=self.capacity() {
            let index = start.wrapping_add(distance);
            let place = Place(read(self.place(index))?);
            row = if place.bits() == EMPTY { 0 } else { row.wrapping_add(1) };
            let Some(entry) = place.entry() else { continue };
            let hash = read(entry.wrapping_add(ENTRY_HASH))?;
            if self.distance(hash, index) >= row || !place.may_be(hash) {
                return Err(HeapError::Damaged { at: entry });
            }
            let object = read(entry.wrapping_add(ENTRY_OBJECT))?;
            visit(Found { index, place, entry, object })?;
        }
        Ok(())
    }

    /// How many places a search for a hash looks at before it comes to number `index`.
    pub(super) const fn distance(self, hash: u64, index: u64) -> u64 {
        index.wrapping_sub(self.home(hash)) & self.capacity().wrapping_sub(1)
    }

    /// The first place from that of a hash on where a new name may stand.
    pub(super) fn vacant(self, read: &impl Read, hash: u64) -> Result<Option<(u64, Place)>, HeapError> {
        let home = self.home(hash);
        for distance in 0..self.capacity() {
            let index = home.wrapping_add(distance);
            let place = Place(read(self.place(index))?);
            if place.entry().is_none() {
                return Ok(Some((index, place)));
            }
        }
        Ok(None)
    }

    /// The first name after another one, or of all.
    pub(super) fn next(
        self,
        read: &impl Read,
        after: Option<Order>,
    ) -> Result<Option<(Found, Order)>, HeapError> {
        let mut start = after.map_or(0, |after| self.home(after.hash));
        while start < self.capacity() {
            // All that begin their search from here to the next empty place are between these two.
            let mut best: Option<(Found, Order)> = None;
            let mut distance = 0_u64;
            loop {
                let index = start.wrapping_add(distance);
                distance = distance.wrapping_add(1);
                if distance > self.capacity() {
                    return Err(self.is_full());
                }
                let place = Place(read(self.place(index))?);
                if place.bits() == EMPTY {
                    break;
                }
                let Some(entry) = place.entry() else { continue };
                let order = Order { hash: read(entry.wrapping_add(ENTRY_HASH))?, entry };
                if !place.may_be(order.hash) {
                    return Err(HeapError::Damaged { at: entry });
                }
                let home = self.home(order.hash);
                // Those that come around the end of the table belong to its beginning or end, not here.
                if home < start || home >= start.saturating_add(distance) {
                    continue;
                }
                let is_next = after.is_none_or(|after| order > after);
                if is_next && best.is_none_or(|(_, least)| order < least) {
                    let object = read(entry.wrapping_add(ENTRY_OBJECT))?;
                    best = Some((Found { index, place, entry, object }, order));
                }
            }
            if best.is_some() {
                return Ok(best);
            }
            start = start.saturating_add(distance.max(1));
        }
        Ok(None)
    }
}

/// Whether the entry at `offset` is that of a name.
fn has_name(read: &impl Read, offset: u64, key: &Key) -> Result<bool, HeapError> {
    let same = read(offset.wrapping_add(ENTRY_HASH))? == key.hash
        && read(offset.wrapping_add(ENTRY_LEN))? == key.len();
    if !same {
        return Ok(false);
    }
    let mut at = offset.wrapping_add(ENTRY_NAME);
    for word in key.name_words() {
        if read(at)? != word {
            return Ok(false);
        }
        at = at.wrapping_add(8);
    }
    Ok(true)
}

/// A name, copied out of its entry.
#[derive(Clone, Copy)]
pub(crate) struct NameBuffer {
    bytes: [u8; NAME_WORDS * 8],
    len: u8,
}

impl NameBuffer {
    /// The name of the entry at `offset`.
    pub(super) fn read(read: &impl Read, offset: u64) -> Result<Self, HeapError> {
        let damaged = HeapError::Damaged { at: offset };
        let len = read(offset.wrapping_add(ENTRY_LEN))?;
        let len = u8::try_from(len).ok().filter(|len| *len != 0).ok_or(damaged)?;
        let mut bytes = [0; NAME_WORDS * 8];
        let mut at = offset.wrapping_add(ENTRY_NAME);
        for chunk in bytes.chunks_mut(8).take(usize::from(len).div_ceil(8)) {
            chunk.copy_from_slice(&read(at)?.to_le_bytes());
            at = at.wrapping_add(8);
        }
        let name = Self { bytes, len };
        if core::str::from_utf8(name.as_bytes()).is_err() {
            return Err(damaged);
        }
        Ok(name)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}
