//! Objects that show whose they are, and whether they live
//!
//! Whoever gets one by a handle or a name can check it: all that is needed stands in it.

use super::board::board;
use crate::common::arena::{Random, random_len, seal};
use shmem_bind::{
    AllocError, Arena, Handle, HandleError, LeakedObject, RegionAllocator, ShmemArc, ShmemBox, shareable,
};
use std::mem::MaybeUninit;

shareable! {
    /// An object whose destructions are counted.
    #[derive(Debug)]
    #[repr(C)]
    pub struct Thing {
        id: u64,
        mark: u64,
        seal: u64,
    }
}

impl Thing {
    pub fn new(mark: u64) -> Self {
        let id = board().next_object();
        Self { id, mark, seal: seal(id, mark) }
    }

    pub fn id(&self) -> u64 {
        self.check();
        self.id
    }

    pub fn mark(&self) -> u64 {
        self.check();
        self.mark
    }

    pub fn set_mark(&mut self, mark: u64) {
        self.check();
        (self.mark, self.seal) = (mark, seal(self.id, mark));
    }

    pub fn check(&self) {
        let Self { id, mark, seal: found } = *self;
        assert_eq!(found, seal(id, mark), "not a living object: {id:#x} {mark:#x}");
        board().assert_living(id);
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        self.check();
        self.seal = 0;
        board().destroy(self.id);
    }
}

shareable! {
    /// As long and as aligned as a cache line.
    #[derive(Debug)]
    #[repr(C, align(64))]
    pub struct Line {
        words: [u64; 8],
    }
}

shareable! {
    /// As long and as aligned as a page.
    #[derive(Debug)]
    #[repr(C, align(4096))]
    pub struct Page {
        words: [u64; 512],
    }
}

/// The word at `index` of an object that begins with the word `first`.
const fn word(first: u64, index: usize) -> u64 {
    first.wrapping_add((index as u64).wrapping_mul(0x0101_0101_0101_0101))
}

fn check_words(words: &[u64]) {
    let first = words.first().copied().unwrap_or_default();
    for (index, found) in words.iter().enumerate() {
        assert_eq!(*found, word(first, index), "not its own, at word {index} of {}", words.len());
    }
}

/// The byte at `index` of a slice that begins with the byte `first`.
const fn byte(first: u8, index: usize) -> u8 {
    // No two places 256 bytes apart have the same neighbours.
    first.wrapping_add(index as u8).wrapping_add((index >> 8) as u8)
}

fn check_bytes(bytes: &[u8]) {
    let first = bytes.first().copied().unwrap_or_default();
    for (index, found) in bytes.iter().enumerate() {
        assert_eq!(*found, byte(first, index), "not its own, at byte {index} of {}", bytes.len());
    }
}

/// Of which type an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Thing,
    Line,
    Page,
    Bytes,
    Words,
    Text,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Thing, Self::Line, Self::Page, Self::Bytes, Self::Words, Self::Text];
}

/// An object that this process has for itself.
#[derive(Debug)]
pub enum Held {
    Thing(ShmemBox<Thing>),
    Line(ShmemBox<Line>),
    Page(ShmemBox<Page>),
    Bytes(ShmemBox<[u8]>),
    Words(ShmemBox<[u64]>),
    Text(ShmemBox<str>),
    Raw(ShmemBox<MaybeUninit<[u64; 100]>>),
}

impl Held {
    /// Allocates something, somehow.
    pub fn alloc<A: RegionAllocator>(arena: &Arena<A>, random: &mut Random) -> Result<Self, AllocError> {
        let first = random.next();
        Ok(match random.below(16) {
            0..3 => Self::Thing(arena.alloc(Thing::new(first % 100)).map_err(|rejected| rejected.error)?),
            3 => Self::Thing(arena.alloc_with(|slot| slot.write(Thing::new(first % 100)))?),
            4 => {
                let words = std::array::from_fn(|index| word(first, index));
                Self::Line(arena.alloc(Line { words }).map_err(|rejected| rejected.error)?)
            }
            5 if random.below(4) == 0 => {
                let words = std::array::from_fn(|index| word(first, index));
                let mut page = arena.alloc_uninit::<Page>()?;
                page.write(Page { words });
                Self::Page(unsafe { page.assume_init() })
            }
            6..9 => {
                let len = random_len(random);
                Self::alloc_bytes(arena, len, random)?
            }
            9 => {
                let bytes: Vec<u8> = (0..random.index(300)).map(|index| byte(first as u8, index)).collect();
                Self::Bytes(arena.alloc_slice_copy(&bytes)?)
            }
            10 => {
                // All bytes are the same where there is one.
                let mut bytes = arena.alloc_slice(random_len(random), 0_u8)?;
                bytes.iter_mut().enumerate().for_each(|(index, place)| *place = byte(first as u8, index));
                Self::Bytes(bytes)
            }
            11..13 => {
                let len = random_len(random) / size_of::<u64>();
                let mut words = arena.alloc_uninit_slice::<u64>(len)?;
                words.iter_mut().enumerate().for_each(|(index, place)| _ = place.write(word(first, index)));
                Self::Words(unsafe { words.assume_init() })
            }
            13 => {
                let text = format!("{first:016x}").repeat(random.index(20));
                Self::Text(arena.alloc_str(&text)?)
            }
            _ => Self::Raw(arena.alloc_uninit()?),
        })
    }

    pub fn alloc_bytes<A: RegionAllocator>(
        arena: &Arena<A>,
        len: usize,
        random: &mut Random,
    ) -> Result<Self, AllocError> {
        let first = random.next() as u8;
        Ok(Self::Bytes(arena.alloc_slice_with(len, |index| byte(first, index))?))
    }

    /// That it is what it was when it was made.
    pub fn check(&self) {
        match self {
            Self::Thing(thing) => thing.check(),
            Self::Line(line) => {
                assert!((&raw const **line).is_aligned());
                check_words(&line.words);
            }
            Self::Page(page) => {
                assert!((&raw const **page).is_aligned());
                check_words(&page.words);
            }
            Self::Bytes(bytes) => check_bytes(bytes),
            Self::Words(words) => check_words(words),
            Self::Text(text) => {
                let mut parts = text.as_bytes().chunks(16);
                let first = parts.next().unwrap_or_default();
                assert!(parts.all(|part| part == first), "not its own: {}", &**text);
            }
            // It has nothing to check but its place.
            Self::Raw(object) => assert!(object.as_ptr().is_aligned()),
        }
    }

    /// Gives it up, for whoever has the handle; gives it back if nobody could check it.
    pub fn leak(self) -> Result<(Kind, u128), Self> {
        Ok(match self {
            Self::Thing(object) => (Kind::Thing, ShmemBox::leak(object).to_bits()),
            Self::Line(object) => (Kind::Line, ShmemBox::leak(object).to_bits()),
            Self::Page(object) => (Kind::Page, ShmemBox::leak(object).to_bits()),
            Self::Bytes(object) => (Kind::Bytes, ShmemBox::leak(object).to_bits()),
            Self::Words(object) => (Kind::Words, ShmemBox::leak(object).to_bits()),
            Self::Text(object) => (Kind::Text, ShmemBox::leak(object).to_bits()),
            Self::Raw(_) => return Err(self),
        })
    }

    pub fn claim<A: RegionAllocator>(arena: &Arena<A>, kind: Kind, bits: u128) -> Result<Self, HandleError> {
        Ok(match kind {
            Kind::Thing => Self::Thing(arena.claim(Handle::from_bits(bits))?),
            Kind::Line => Self::Line(arena.claim(Handle::from_bits(bits))?),
            Kind::Page => Self::Page(arena.claim(Handle::from_bits(bits))?),
            Kind::Bytes => Self::Bytes(arena.claim(Handle::from_bits(bits))?),
            Kind::Words => Self::Words(arena.claim(Handle::from_bits(bits))?),
            Kind::Text => Self::Text(arena.claim(Handle::from_bits(bits))?),
        })
    }

    /// The value of a thing, out of its arena.
    pub fn into_inner(self) -> Result<Thing, Self> {
        match self {
            Self::Thing(thing) => ShmemBox::into_inner(thing).map_err(Self::Thing),
            other => Err(other),
        }
    }

    pub fn into_thing(self) -> Result<ShmemBox<Thing>, Self> {
        if let Self::Thing(thing) = self { Ok(thing) } else { Err(self) }
    }
}

/// The handle of an object that was leaked, which must be of one of our types.
pub fn handle_of(object: &LeakedObject) -> (Kind, u128) {
    let found = Kind::ALL.into_iter().find_map(|kind| {
        let bits = match kind {
            Kind::Thing => object.handle::<Thing>().map(Handle::to_bits),
            Kind::Line => object.handle::<Line>().map(Handle::to_bits),
            Kind::Page => object.handle::<Page>().map(Handle::to_bits),
            Kind::Bytes => object.handle::<[u8]>().map(Handle::to_bits),
            Kind::Words => object.handle::<[u64]>().map(Handle::to_bits),
            Kind::Text => object.handle::<str>().map(Handle::to_bits),
        };
        Some((kind, bits.ok()?))
    });
    found.unwrap_or_else(|| panic!("of no type of ours: {object:?}"))
}

/// A name that is published and unpublished all the time. The names are of different lengths.
pub fn name(number: u64) -> String {
    format!("{number}{}", "-".repeat(number as usize * 30))
}

/// A name for ever.
pub fn pinned_name(number: u64) -> String {
    format!("pinned {number}")
}

/// Whose name an object has.
pub fn check_name(name: &str, object: &ShmemArc<Thing>) {
    let number: u64 = name.trim_start_matches("pinned ").trim_end_matches('-').parse().unwrap();
    assert_eq!(object.mark(), number, "the object of another name");
}
