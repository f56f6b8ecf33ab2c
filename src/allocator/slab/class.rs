//! Size classes
//!
//! All cells of a chunk are of one length. The lengths are close enough that what an object leaves over fits the
//! slack of its [`Extent`], so the extent of a cell says how long the cell is, whatever is in it.

use crate::heap::Request;
use crate::object::{Extent, GRANULE};

/// Lengths of cells, with their headers, in bytes.
const LENS: [u64; CLASSES] = [32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 672];
/// Number of classes.
pub(super) const CLASSES: usize = 17;
/// Length of the longest cell: an object of 640 bytes fits.
pub(super) const MAX_CELL_LEN: u64 = 672;
/// The first object of a chunk is aligned to this many bytes; the others, as far as the length of a cell allows it.
pub(super) const MAX_CELL_ALIGN: u64 = 64;

/// Entries of [`BY_GRANULES`]: one for each multiple of 16 up to the longest cell.
const GRANULES: usize = (MAX_CELL_LEN / GRANULE) as usize + 1;
/// The class for a block of so many granules.
const BY_GRANULES: [u8; GRANULES] = by_granules();
/// 2^32 divided by the length of a cell, rounded up.
const RECIPROCALS: [u64; CLASSES] = reciprocals();

// Both are run by the compiler alone.
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
const fn by_granules() -> [u8; GRANULES] {
    let mut table = [0; GRANULES];
    let (mut granules, mut class) = (0, 0);
    while granules < GRANULES {
        if granules as u64 * GRANULE > LENS[class] {
            class += 1;
        }
        table[granules] = class as u8;
        granules += 1;
    }
    table
}

#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
const fn reciprocals() -> [u64; CLASSES] {
    let mut table = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        table[class] = (1_u64 << 32).div_ceil(LENS[class]);
        class += 1;
    }
    table
}

/// A size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(
    /// INVARIANT: less than `CLASSES`.
    u8,
);

impl Class {
    /// Class number `index`, if there is one.
    #[inline]
    pub(super) const fn new(index: u64) -> Option<Self> {
        if index < CLASSES as u64 { Some(Self(index as u8)) } else { None }
    }

    /// All classes, shortest cells first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }

    #[inline]
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Length of a cell with its header, in bytes.
    #[inline]
    pub(super) fn len(self) -> u64 {
        LENS.get(self.index()).copied().unwrap_or(MAX_CELL_LEN)
    }

    /// What every object in a cell is aligned to.
    fn align(self) -> u64 {
        // The lowest bit that is set.
        (self.len() & self.len().wrapping_neg()).min(MAX_CELL_ALIGN)
    }

    /// The class for this request, whatever its alignment; `None` if no cell is long enough.
    #[inline]
    fn fit_len(request: &Request) -> Option<Self> {
        let granules = usize::try_from(request.block_len()? / GRANULE).ok()?;
        Some(Self(BY_GRANULES.get(granules).copied()?))
    }

    /// The class for a request that every cell is aligned for, and the extent of its cell; `None` if no cell fits.
    #[inline]
    pub(super) fn fit_any(request: &Request) -> Option<(Self, Extent)> {
        let class = Self::fit_len(request).filter(|_| request.align() == GRANULE)?;
        Some((class, request.extent(class.len())?))
    }

    /// The class for this request, and the extent of its cell; `None` if no cell fits.
    pub(super) fn fit(request: &Request) -> Option<(Self, Extent)> {
        let class = Self::fit_len(request)?;
        let class = Self::all().skip(class.index()).find(|class| class.align() >= request.align())?;
        Some((class, request.extent(class.len())?))
    }

    /// Longer classes whose cells do for a request, too, the shortest first: more is left over in them.
    pub(super) fn longer(self, request: &Request) -> impl Iterator<Item = (Self, Extent)> + '_ {
        Self::all()
            .skip(self.index().saturating_add(1))
            .filter(|class| class.align() >= request.align())
            .map_while(|class| Some((class, request.extent(class.len())?)))
    }

    /// The number of the cell that begins `distance` bytes after the first, less than 2^16; `None` if none does.
    #[inline]
    pub(super) fn cell_at(self, distance: u64) -> Option<u64> {
        // Rounding the reciprocal up adds less than `distance * len / 2^32`, below one, to the product of a multiple.
        let reciprocal = RECIPROCALS.get(self.index()).copied()?;
        let cell = distance.wrapping_mul(reciprocal) >> 32;
        if cell.wrapping_mul(self.len()) == distance { Some(cell) } else { None }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::heap::PlainHeap;
    use crate::object::BLOCK_HEADER_LEN;

    #[test]
    fn a_class_fits_what_it_is_chosen_for_and_no_shorter_one_does() {
        let plain = PlainHeap::default();
        for align in [1, 2, 16, 32, 64, 128, 4096] {
            for len in 0..=1000 {
                let request = plain.request(len, align, 0);
                let fits = |class: &Class| {
                    class.len() >= len + BLOCK_HEADER_LEN
                        && class.align() >= request.align()
                        && request.extent(class.len()).is_some()
                };
                let found = Class::fit(&request);
                assert_eq!(
                    found.map(|(class, _)| class),
                    Class::all().find(fits),
                    "{len} aligned to {align}"
                );
                if let Some((class, extent)) = found {
                    assert_eq!((extent.len(), extent.object_len()), (class.len(), Some(len)));
                }
            }
        }
        assert!(Class::fit(&plain.request(640, 16, 0)).is_some());
    }

    #[test]
    fn the_number_of_a_cell_is_an_exact_quotient() {
        for class in Class::all() {
            for distance in 0..1 << 16 {
                let exact = distance % class.len() == 0;
                assert_eq!(class.cell_at(distance), exact.then(|| distance / class.len()));
            }
        }
    }
}
