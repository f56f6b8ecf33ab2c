//! Objects that were leaked and never claimed

use super::{Arena, exports};
use crate::allocator::RegionAllocator;
use crate::handle::Handle;
use crate::header::SegmentId;
use crate::object::{Kind, ObjectTag};
use crate::shareable::{TagMismatch, TypeTag};
use crate::typed::{self, Object};
use core::sync::atomic::{Ordering, fence};

/// An object that was [leaked](crate::ShmemBox::leak), and has not been claimed.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemBox, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let handle = ShmemBox::leak(arena.alloc(7_u32)?);
/// for object in arena.leaked() {
///     // What it is cannot be guessed, but asked.
///     let mismatch = object.handle::<u64>().unwrap_err();
///     assert_eq!((mismatch.found.size(), object.type_tag().size()), (4, 4));
///     assert_eq!((object.handle::<u32>(), object.serial()), (Ok(handle), 1));
/// }
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedObject {
    block: u64,
    serial: u64,
    id: SegmentId,
    tag: u64,
    len: u64,
}

impl LeakedObject {
    /// Its handle, if it is a `T`.
    ///
    /// # Errors
    /// [`TagMismatch`] says in what its type differs.
    pub fn handle<T: Object + ?Sized>(&self) -> Result<Handle<T>, TagMismatch> {
        typed::check::<T>(self.tag, self.len)?;
        Ok(Handle::new(self.block, self.serial, self.id))
    }

    /// Its type: the fingerprint's low 40 bits, alignment and version, and its size in bytes.
    #[must_use]
    pub const fn type_tag(&self) -> TypeTag {
        ObjectTag::from_bits(self.tag).to_type_tag(self.len)
    }

    /// A number that grows from one leak to the next.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }
}

/// The objects of an arena that were leaked and not claimed, in the order in which they lie.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemBox, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// ShmemBox::leak(arena.alloc(7_u32)?);
/// ShmemBox::leak(arena.alloc_str("seven")?);
/// // A tool that knows that no handle is on its way claims and drops them.
/// for handle in arena.leaked().filter_map(|object| object.handle::<u32>().ok()) {
///     drop(arena.claim(handle)?);
/// }
/// assert_eq!(arena.leaked().count(), 1);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Debug)]
pub struct Leaked<'a, A> {
    arena: &'a Arena<A>,
    from: u64,
}

impl<A: RegionAllocator> Arena<A> {
    /// The objects that were [leaked](crate::ShmemBox::leak) and never claimed: a process that dies between leaking and
    /// sending a handle loses the handle, and this finds it again. Whether a handle is merely on its way cannot be
    /// seen.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// ShmemBox::leak(arena.alloc(7_u32)?);
    /// ShmemBox::leak(arena.alloc_str("seven")?);
    /// for object in arena.leaked() {
    ///     if let Ok(handle) = object.handle::<u32>() {
    ///         assert_eq!(*arena.claim(handle)?, 7);
    ///     }
    /// }
    /// assert_eq!(arena.leaked().count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn leaked(&self) -> Leaked<'_, A> {
        Leaked { arena: self, from: 0 }
    }
}

impl<A: RegionAllocator> Iterator for Leaked<'_, A> {
    type Item = LeakedObject;

    fn next(&mut self) -> Option<LeakedObject> {
        let (attached, heap) = self.arena.parts().ok()?;
        let (exports, id) = (exports(attached), attached.header.segment_id());
        let mut from = self.from;
        let mut next = || loop {
            let block = exports.next(from, heap.len())?;
            from = block.checked_add(1)?;
            let Ok(found) = heap.block(block) else { continue };
            let (Ok(Kind::Leaked { serial, .. }), Some(len)) =
                (found.state.kind(), found.extent.object_len())
            else {
                continue;
            };
            // It may have been claimed and freed while it was read; no other state is equal to this one.
            fence(Ordering::Acquire);
            if exports.is_set(block) && heap.load(block) == Ok(found.state.bits()) {
                return Some(LeakedObject { block, serial, id, tag: found.tag, len });
            }
        };
        let mut object = None;
        let held = A::hold_still(&heap, &mut || object = next());
        self.arena.after(attached).ok()?;
        held.ok()?;
        self.from = from;
        object
    }
}
