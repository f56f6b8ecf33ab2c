//! What is to be in a heap at once
//!
//! How large a heap must be follows from the objects that are to live in it, and from how its allocator lays them out.
//! A [`Demand`] says the first, and [`required_len`](crate::RegionAllocator::required_len) answers with both.

use super::Request;
use crate::object::{Extent, GRANULE, MIN_BLOCK_LEN};

/// Is passed a request and how often it is made.
pub(crate) type PassRequest<'p> = dyn FnMut(&Request, u64) + 'p;

/// Objects that are to be live at once, in whatever order they are allocated.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{Demand, PlainHeap};
/// use shmem_bind::{Bump, RegionAllocator};
///
/// let plain = PlainHeap::new(0);
/// let len = Bump::required_len(&Demand::new(&|pass| {
///     pass(&plain.request(100, 8, 0), 1000);
///     pass(&plain.request(8, 8, 0), 2);
/// }));
/// // 24 bytes of its own, blocks of 128 and 32 bytes.
/// assert_eq!(len, Some(24 + 1000 * 128 + 2 * 32));
/// ```
#[derive(Clone, Copy)]
pub struct Demand<'d>(&'d dyn Fn(&mut PassRequest<'_>));

impl<'d> Demand<'d> {
    /// Of the requests that the closure passes on, each with how often it is made. They are the same each time it is
    /// called.
    #[must_use]
    pub const fn new(each: &'d dyn Fn(&mut PassRequest<'_>)) -> Self {
        Self(each)
    }

    /// Passes on each request, and how often it is made.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::allocator::{Demand, PlainHeap};
    ///
    /// /// Of an allocator that lays blocks one behind the other, and has no words of its own.
    /// fn required_len(demand: &Demand<'_>) -> Option<u64> {
    ///     let mut len = Some(0);
    ///     demand.each(|request, count| {
    ///         let blocks = request.block_len().and_then(|block| block.checked_mul(count));
    ///         len = len.zip(blocks).and_then(|(len, blocks): (u64, u64)| len.checked_add(blocks));
    ///     });
    ///     len
    /// }
    ///
    /// let plain = PlainHeap::new(0);
    /// let ten = required_len(&Demand::new(&|pass| pass(&plain.request(100, 8, 0), 10)));
    /// assert_eq!(ten, Some(1280));
    /// ```
    pub fn each(&self, mut pass: impl FnMut(&Request, u64)) {
        (self.0)(&mut pass);
    }

    /// Most bytes that blocks for all of these take which are laid one behind the other in any order, with the gaps that
    /// align them; `None` if one is longer than a block can be.
    ///
    /// The gap before a block follows from what lies in front of it. Behind a block of its own kind it is known, else the
    /// worst is taken. Every other block can come between two of a kind when it is allocated, and once more when
    /// it is freed.
    pub(crate) fn row(&self) -> Option<Row> {
        let mut row = Row::default();
        let mut is_possible = true;
        let mut total = 0_u64;
        self.each(|request, count| {
            let (len, gap) = (request.block_len().unwrap_or(u64::MAX), worst_gap(request.align()));
            let most = len.saturating_add(gap);
            is_possible &= most <= Extent::MAX_LEN || count == 0;
            row.bytes = row.bytes.saturating_add(most.saturating_mul(count));
            total = total.saturating_add(count);
            if count != 0 && gap != 0 {
                row.aligned = row.aligned.saturating_add(count);
                row.largest_gap = row.largest_gap.max(gap);
            }
            if count != 0 {
                row.longest = row.longest.max(most);
            }
        });
        let mut saved = 0_u64;
        self.each(|request, count| {
            let others = total.saturating_sub(count);
            let pairs = count.saturating_sub(others.saturating_mul(2)).saturating_sub(1);
            let own_gap = gap_behind(request.block_len().unwrap_or(0), request.align());
            let gap = worst_gap(request.align()).saturating_sub(own_gap);
            saved = saved.saturating_add(pairs.saturating_mul(gap));
        });
        // What is saturated is beyond all heaps, and stays so.
        row.bytes = if row.bytes == u64::MAX { u64::MAX } else { row.bytes.saturating_sub(saved) };
        is_possible.then_some(row)
    }
}

impl core::fmt::Debug for Demand<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut list = f.debug_list();
        self.each(|request, count| {
            list.entry(&format_args!("{count} of {} bytes, aligned to {}", request.len(), request.align()));
        });
        list.finish()
    }
}

/// Blocks in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    /// Bytes of all of it.
    pub(crate) bytes: u64,
    /// How many of the blocks may have a gap in front.
    pub(crate) aligned: u64,
    /// The longest of these gaps.
    pub(crate) largest_gap: u64,
    /// The longest block with its gap.
    pub(crate) longest: u64,
}

/// Longest gap before a block whose object is aligned: a gap is nothing, or a block by itself.
const fn worst_gap(align: u64) -> u64 {
    if align > GRANULE { align.saturating_add(GRANULE) } else { 0 }
}

/// The gap between a block of `len` bytes whose object is aligned, and the next one like it.
const fn gap_behind(len: u64, align: u64) -> u64 {
    let gap = len.wrapping_neg() & align.wrapping_sub(1);
    if gap != 0 && gap < MIN_BLOCK_LEN { gap.saturating_add(align) } else { gap }
}
