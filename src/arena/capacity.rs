//! How large a segment must be for what is to live in it

use super::Arena;
use crate::allocator::RegionAllocator;
use crate::directory;
use crate::error::CapacityError;
use crate::header::HEADER_LEN;
use crate::heap::{Demand, Request};
use crate::membership::Slot;
use crate::region;
use crate::shareable::Shareable;
use core::alloc::Layout;

/// What an arena is to hold at once: objects of one kind, or names. See [`Arena::required_size`].
///
/// # Examples
/// ```
/// use shmem_bind::{Arena, Need, Tlsf};
/// use std::alloc::Layout;
///
/// assert_eq!(Need::objects::<u64>(3), Need::layouts(Layout::new::<u64>(), 3));
/// assert_eq!(Need::strings(80, 3), Need::slices::<u8>(80, 3));
/// // Names are counted besides the objects that have them.
/// let (objects, names) = (Need::objects::<u64>(100), Need::names(16, 100));
/// assert!(Arena::<Tlsf>::required_size(&[objects, names])? > Arena::<Tlsf>::required_size(&[objects])?);
/// # Ok::<(), shmem_bind::CapacityError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Size of each, in bytes; of a name, its length.
    len: u64,
    /// 0: names.
    align: u64,
    count: u64,
}

impl Need {
    /// `count` objects of type `T`.
    #[must_use]
    pub const fn objects<T: Shareable>(count: usize) -> Self {
        Self::layouts(Layout::new::<T>(), count)
    }

    /// `count` slices of `len` elements of type `T` each.
    #[must_use]
    pub const fn slices<T: Shareable>(len: usize, count: usize) -> Self {
        let size = match size_of::<T>() as u64 {
            // Their number takes the place of elements without a size.
            0 => size_of::<u64>() as u64,
            size => size.saturating_mul(len as u64),
        };
        Self { len: size, align: align_of::<T>() as u64, count: count as u64 }
    }

    /// `count` strings of `len` bytes each.
    #[must_use]
    pub const fn strings(len: usize, count: usize) -> Self {
        Self::slices::<u8>(len, count)
    }

    /// `count` objects of this size and alignment.
    #[must_use]
    pub const fn layouts(layout: Layout, count: usize) -> Self {
        Self { len: layout.size() as u64, align: layout.align() as u64, count: count as u64 }
    }

    /// `count` names of at most `len` bytes each, under which objects are published. The objects are counted by themselves.
    #[must_use]
    pub const fn names(len: usize, count: usize) -> Self {
        Self { len: len as u64, align: 0, count: count as u64 }
    }

    const fn check(self) -> Result<Self, CapacityError> {
        let Self { len, align, count } = self;
        let max = HEADER_LEN as u64;
        if count != 0 && align == 0 && (len == 0 || len > directory::MAX_NAME as u64) {
            return Err(CapacityError::NameLength { len });
        }
        if count != 0 && align > max { Err(CapacityError::OverAligned { align, max }) } else { Ok(self) }
    }

    /// What is asked of the allocator for each.
    const fn request(self) -> Request {
        match self {
            Self { len, align: 0, .. } => Request::new(directory::entry_len(len), 8, 0, Slot::FIRST),
            Self { len, align, .. } => Request::new(len, align, 0, Slot::FIRST),
        }
    }
}

impl<A: RegionAllocator> Arena<A> {
    /// Says how many bytes a segment must be [created with](crate::Builder::with_size) so that an arena in it holds all of
    /// this at once, in whatever order it is allocated and published.
    ///
    /// It counts what the arena itself needs: headers and rounding of blocks, gaps that align objects, the words of the
    /// allocator, the export bitmap, and all tables of names that there are one after the other. With an empty list it is
    /// the smallest arena there is.
    ///
    /// For [`Tlsf`](crate::Tlsf) that is what it takes, with two exceptions. Tables of names that have been replaced may
    /// find other uses: names and little else are told up to 15 % too much. Objects aligned to more than 16 bytes, among
    /// others or of several kinds, are counted with the largest gap that there can be, 16 bytes more than their alignment.
    ///
    /// It does not count:
    /// - More than is listed: a value that is made before another one is dropped, or by
    ///   [`find_or_alloc`](Self::find_or_alloc) before somebody else's is found, or that a dead process has still.
    /// - Objects given back and others allocated in their place. `Tlsf` may be left with pieces that are too small; how
    ///   much room that takes depends on the program. `Bump` uses nothing again before it is alone. `Slab` promises it for
    ///   objects of up to 640 bytes, aligned to at most 16, if their lengths stay the same.
    /// - Names given back and published anew: they may want one more table, and do without it until the old one is full.
    /// - For `Slab`, further processes: each keeps up to 64 free cells of each length at hand, from where others get
    ///   them only when there are no more chunks.
    /// - A larger [`max_size`](crate::BuilderWithSize::max_size): the allocator's words are for that. Ask for what the
    ///   arena is to grow to.
    ///
    /// # Errors
    /// - [`CapacityError::TooMuch`]: no arena is so large. A 32-bit process may be told of one that is too large for it.
    /// - [`CapacityError::OverAligned`], [`CapacityError::NameLength`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Arena, Builder, Need, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let size = Arena::<Tlsf>::required_size(&[
    ///     Need::objects::<u64>(1000),
    ///     Need::slices::<u8>(4096, 10),
    ///     Need::names(7, 1),
    /// ])?;
    /// let (segment, _fd) = Builder::memfd().create(size)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let numbers = (0..1000).map(|n| arena.alloc(n)).collect::<Result<Vec<ShmemBox<u64>>, _>>()?;
    /// let mut frames = (0..10).map(|_| arena.alloc_slice(4096, 0_u8)).collect::<Result<Vec<_>, _>>()?;
    /// let _last = arena.publish("current", &ShmemBox::into_arc(frames.remove(9)))?;
    /// assert_eq!(*numbers[999], 999);
    /// # Ok(())
    /// # }
    /// ```
    pub fn required_size(needs: &[Need]) -> Result<u64, CapacityError> {
        let mut names = 0_u64;
        for need in needs {
            let Need { align, count, .. } = need.check()?;
            names = names.saturating_add(if align == 0 { count } else { 0 });
        }
        let heap = A::required_len(&Demand::new(&|pass| {
            needs.iter().for_each(|need| pass(&need.request(), need.count));
            directory::tables_for(names, |len| pass(&Request::new(len, 8, 0, Slot::FIRST), 1));
        }));
        heap.map(region::payload_len).ok_or(CapacityError::TooMuch)
    }
}
