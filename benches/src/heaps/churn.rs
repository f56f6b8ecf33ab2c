//! Objects that come and go
//!
//! A fixed number of objects is alive. One step frees one of them, picked at random, allocates another of random length in its
//! place, and writes a word into it. The random number and the look-up of the object cost each contestant the same.

use super::{Heap, Place};
use fastrand::Rng;
use std::ops::RangeInclusive;

/// Lengths of objects, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    least: u32,
    most: u32,
}

impl Sizes {
    pub const fn new(range: RangeInclusive<u32>) -> Self {
        Self { least: *range.start(), most: *range.end() }
    }

    /// The length in the middle.
    pub const fn mean(self) -> usize {
        (self.least + self.most) as usize / 2
    }

    /// One of them, by 32 random bits.
    #[inline]
    const fn pick(self, bits: u32) -> u32 {
        self.least + scale(bits, self.most - self.least + 1)
    }

    /// One of them.
    pub fn random(self, random: &mut Rng) -> usize {
        self.pick(random.u32(..)) as usize
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {} bytes", self.least, self.most)
    }
}

/// A number below `bound`, by 32 random bits.
#[inline]
const fn scale(bits: u32, bound: u32) -> u32 {
    ((bits as u64 * bound as u64) >> 32) as u32
}

/// How much memory makes none of the heaps run short, with so many objects alive.
pub const fn room(live: usize, sizes: Sizes) -> usize {
    ((4 << 20) + live * (sizes.mean() + 48) * 2).next_multiple_of(4096)
}

/// What can be done again and again.
pub trait Run {
    /// So many steps.
    fn run(&mut self, steps: u32);

    /// Panics if anything is not as it must be.
    fn check(&self);
}

#[derive(Clone, Copy)]
struct Object {
    place: Place,
    len: u32,
}

/// Objects in a heap. Dropped, it frees them.
pub struct Churn<H: Heap> {
    heap: H,
    objects: Vec<Object>,
    sizes: Sizes,
    owner: u32,
    random: Rng,
}

impl<H: Heap> Churn<H> {
    /// With `live` objects, each of which has been replaced about once.
    pub fn new(heap: H, live: usize, sizes: Sizes, owner: u32) -> Self {
        // All contestants get the same.
        let mut random = Rng::with_seed(u64::from(owner) + 1);
        let allocate = |index| {
            let len = sizes.random(&mut random);
            let place = heap.allocate(len, mark(owner, index)).expect("the memory is too small");
            Object { place, len: len as u32 }
        };
        let objects = (0..live).map(allocate).collect();
        let mut churn = Self { heap, objects, sizes, owner, random };
        churn.run(live as u32);
        churn
    }
}

/// What stands in an object.
#[inline]
const fn mark(owner: u32, index: usize) -> u64 {
    (owner as u64) << 32 | index as u64
}

impl<H: Heap> Run for Churn<H> {
    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            let bits = self.random.u64(..);
            let index = scale(bits as u32, self.objects.len() as u32) as usize;
            let len = self.sizes.pick((bits >> 32) as u32);
            let object = &mut self.objects[index];
            self.heap.free(object.place, object.len as usize);
            let place = self.heap.allocate(len as usize, mark(self.owner, index));
            *object = Object { place: place.expect("the memory is too small"), len };
        }
    }

    fn check(&self) {
        for (index, object) in self.objects.iter().enumerate() {
            assert_eq!(self.heap.read(object.place), mark(self.owner, index), "another one has written here");
        }
        self.heap.check();
    }
}

impl<H: Heap> Drop for Churn<H> {
    fn drop(&mut self) {
        for object in &self.objects {
            self.heap.free(object.place, object.len as usize);
        }
    }
}
