//! Handles of any bits: an error, or an object that lies in the segment, aligned, and as long as its block says
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | which image |
//! | 1 | how many words are changed before anybody attaches, modulo 8 |
//! | then 8 each | a [`Mutation`] |
//! | then 16 each | an [`Attempt`] |

use super::image::{
    self, HEAP_START, HEAP_WORDS, Image, NAMES, any_handle, block_of, handle, images, with_each_type,
};
use super::stage::{self, Bounds, Stage};
use super::{Mutation, rest};
use arbitrary::{Arbitrary, Unstructured};
use shmem_bind::allocator::Extent;
use shmem_bind::{Arena, Bump, Object, RegionAllocator, ShmemArc, ShmemBox, Slab, Tlsf};
use std::hint::black_box;

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (Ok(which), Ok(count)) = (input.arbitrary::<u8>(), input.arbitrary::<u8>()) else { return };
    // Arenas, of the living and the dead.
    let mut image = images()[usize::from(which) % 6].clone();
    for _ in 0..count % 8 {
        let Ok(mutation) = input.arbitrary::<Mutation>() else { break };
        mutation.apply(&mut image);
    }
    let attempts: Vec<Attempt> = rest(&mut input);
    match which % 3 {
        0 => run_with::<Tlsf>(&image, &attempts),
        1 => run_with::<Slab>(&image, &attempts),
        _ => run_with::<Bump>(&image, &attempts),
    }
}

fn run_with<A: RegionAllocator>(image: &Image, attempts: &[Attempt]) {
    stage::with(|stage| {
        stage.write(image);
        let Ok(Ok(arena)) = stage.attach().map(|conf| conf.arena::<A>()) else { return };
        let place = Place { stage, bounds: stage.bounds(), arena, image };
        for attempt in attempts {
            attempt.make(&place);
        }
    });
}

struct Place<'a, A> {
    stage: &'a Stage,
    bounds: Bounds,
    arena: Arena<A>,
    image: &'a Image,
}

/// An object is asked for; in sixteen bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Attempt {
    how: u8,
    /// What it is asked for as, and what it says that it is.
    types: u8,
    index: u16,
    word: u32,
    operand: u64,
}

impl Attempt {
    fn make<A: RegionAllocator>(&self, place: &Place<'_, A>) {
        let Self { how, types, index, word, operand } = *self;
        let handles = &place.image.handles;
        let known = handles[usize::from(index) % handles.len()];
        match how % 8 {
            // Any bits at all, and such as are of the segment.
            0 => self.claim(
                place,
                u128::from(operand) << 64 | u128::from(word) << 16 | u128::from(index),
                None,
            ),
            1 => self.claim(place, handle(operand, word.into()), None),
            2 => self.claim(place, known, None),
            3 => self.claim(place, known ^ 1 << (operand % 128) ^ u128::from(word), None),
            // An object whose header says something else by now.
            4 => {
                let at = HEAP_START + block_of(known).0 as usize / 8 + (types >> 4) as usize % 4;
                place.stage.write_word(at, operand);
                self.claim(place, known, None);
            }
            5 => self.forge(place),
            6 => {
                // A named object, or its entry, of another length.
                let blocks = &place.image.blocks;
                let block = blocks[word as usize % blocks.len()];
                let at =
                    HEAP_START + block as usize / 8 + [2, 2, 2, 1, 3, 4, 5, 0][(types >> 4) as usize % 8];
                place.stage.write_word(at, if how & 8 == 0 { operand } else { extent(operand).bits() });
                for name in NAMES {
                    with_each_type!(types & 15, find(place, name));
                    find_pinned::<A, str>(place, name);
                    find_pinned::<A, [u8]>(place, name);
                    find_pinned::<A, [u32; 5]>(place, name);
                }
            }
            _ => {
                place.stage.write_word(word as usize % place.image.words.len(), operand);
                let found = place.arena.leaked().nth(usize::from(index) % 16);
                with_each_type!(types & 15, claim_found(place, found));
            }
        }
    }

    /// Makes something that looks like a leaked object, anywhere and of any length, and claims it.
    fn forge<A: RegionAllocator>(&self, place: &Place<'_, A>) {
        let Self { how, types, index, word, operand } = *self;
        let words = HEAP_WORDS - 4;
        // Often near the end, or where something aligned could be.
        let at = match how >> 4 & 3 {
            0 => usize::from(index) * 2,
            1 => words - 1 - usize::from(index) % 64 * 2,
            2 => usize::from(index) * 8 + 5,
            _ => usize::from(index) * 512 + 509,
        } % words
            | 1;
        let offset = at as u64 * 8;
        let serial = u64::from(word % 64) + 1;
        let granule = (offset + 24) / 16;
        // Of the type of one of the known objects.
        let model = place.image.handles[usize::from(types >> 4) % place.image.handles.len()];
        let tag = place.image.words[HEAP_START + block_of(model).0 as usize / 8 + 1];
        let extent = match how >> 6 {
            0 => extent(operand),
            1 => Extent::from_bits(operand),
            // As long as the type is.
            _ => {
                let extent = place.image.words[HEAP_START + block_of(model).0 as usize / 8 + 2];
                Extent::from_bits(extent ^ (operand & 0xff) << 32)
            }
        };
        let stage = place.stage;
        stage.write_word(HEAP_START + at + 1, tag);
        stage.write_word(HEAP_START + at + 2, extent.bits());
        stage.write_word(HEAP_START + at, 3 | u64::from(word % 56) << 8 | serial << 14);
        let exports = HEAP_START + HEAP_WORDS + granule as usize / 64;
        stage.write_word(exports, stage.read_word(exports) | 1 << (granule % 64));
        // Allocators with a lock may find out that this is no block of theirs; what is told is the length.
        self.claim(place, handle(offset, serial), Some(extent));
    }

    fn claim<A: RegionAllocator>(&self, place: &Place<'_, A>, bits: u128, extent: Option<Extent>) {
        with_each_type!(self.types & 15, claim(place, bits, extent));
    }
}

/// Lengths that come near to what there is.
fn extent(operand: u64) -> Extent {
    let len = match operand & 7 {
        0..=3 => operand >> 8 & 0xfff0,
        4 | 5 => (HEAP_WORDS as u64 * 8).wrapping_sub(operand >> 16 & 0xfff) & !15,
        6 => (image::MOST as u64 + 4096).wrapping_sub(operand >> 16 & 0x1fff),
        _ => operand >> 4,
    };
    Extent::new(len, operand >> 48)
}

fn claim<A: RegionAllocator, T: Object + ?Sized>(place: &Place<'_, A>, bits: u128, extent: Option<Extent>) {
    match place.arena.claim(any_handle::<T>(bits)) {
        Ok(object) => {
            place.bounds.check(&*object);
            let len = extent.map(|extent| extent.object_len().unwrap());
            // A slice of what has no size keeps its length in eight bytes.
            assert!(len.is_none_or(|len| len == size_of_val(&*object) as u64 || len == 8), "{len:?}");
            // The handle was good for once.
            let again = place.arena.claim(any_handle::<T>(bits)).map(|_| ());
            assert!(again.is_err(), "claimed twice");
            if bits & 1 == 0 {
                let handle = ShmemBox::leak(object);
                // Of a block that has been damaged there is none.
                let is_same = block_of(handle.to_bits()).0 == block_of(bits).0;
                assert!(is_same || handle.is_nothing(), "{handle:?} is not {bits:x}");
            }
        }
        Err(error) => drop(black_box(error.to_string())),
    }
}

fn claim_found<A: RegionAllocator, T: Object + ?Sized>(
    place: &Place<'_, A>,
    found: Option<shmem_bind::LeakedObject>,
) {
    let Some(found) = found else { return };
    match found.handle::<T>() {
        Ok(handle) => claim::<A, T>(place, handle.to_bits(), None),
        Err(mismatch) => drop(black_box(mismatch.to_string())),
    }
}

fn find<A: RegionAllocator, T: Object + Sync + ?Sized>(place: &Place<'_, A>, name: &str) {
    match place.arena.find::<T>(name) {
        Ok(object) => {
            place.bounds.check(&*object);
            black_box(ShmemArc::holders(&object));
        }
        Err(error) => drop(black_box(error.to_string())),
    }
}

fn find_pinned<A: RegionAllocator, T: Object + ?Sized>(place: &Place<'_, A>, name: &str) {
    match place.arena.conf().find_pinned::<T>(name) {
        Ok(object) => place.bounds.check(&*object),
        Err(error) => drop(black_box(error.to_string())),
    }
}
