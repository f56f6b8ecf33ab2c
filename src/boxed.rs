//! Boxes: the payload as a value
//!
//! [`ShmemBox`] is exclusive by contract and not by enforcement: that nobody else uses the value while it is
//! borrowed is what the `unsafe` of [`ShmemConf::boxed`] promises. What is enforced is the size and alignment
//! of the value, in the header, and that its destructor runs at most once, by the membership word.
//!
//! A box of an [`Arena`](crate::Arena) is the same type, and exclusive by the state word of its block: it needs no
//! promise. Which of the two a box is its address says, for no object lies where the payload begins.
//!
//! # Safety
//! Makes references to the payload. The promise of whoever made the box stands behind each.
#![allow(unsafe_code)]

use crate::attachment::Attached;
use crate::error::{BoxError, HeaderError, OwnError};
use crate::exports::Exports;
use crate::handle::Handle;
use crate::header::{HEADER_LEN, Payload};
use crate::heap::Heap;
use crate::lifecycle::Departure;
use crate::object::Event;
use crate::segment::ShmemConf;
use crate::shareable::Shareable;
use core::fmt;
use core::mem::{ManuallyDrop, needs_drop};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

impl ShmemConf {
    /// Takes the payload for a value of type `T`.
    ///
    /// The payload of a new segment is zeros. The first to box a segment fixes the size and alignment of its
    /// value for all.
    ///
    /// # Safety
    /// - The payload holds a valid `T`: zeros are one, or a process wrote one. (Or the caller writes one before
    ///   anything is read, and before the box is dropped.)
    /// - As long as a reference to the value exists in any process or through any other handle, nobody writes
    ///   to it, and as long as a mutable one exists, nobody uses it at all, unless `T` allows that, like an
    ///   atomic type. Other processes count as other threads.
    /// - `T` makes sense in other processes: it is [`Shareable`], or could be. It has no pointers or
    ///   references, its layout is the same in all of them (`repr(C)`), and it may be dropped in any of them.
    /// - In a child after `fork`, an inherited box is not used while the parent may use it.
    /// - A type with a destructor: no read-only attachment looks at the value while the last box is dropped.
    ///
    /// # Panics
    /// If [`try_boxed`](Self::try_boxed) would give an error, with its message. The handle is dropped.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{self as shmem, ShmemError};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-boxed", std::process::id());
    /// let segment = shmem::Builder::new(name).with_size(size_of::<i32>()).open()?;
    /// // SAFETY: the segment is new, and zero is a valid i32; no other process uses it.
    /// let mut number = unsafe { segment.boxed::<i32>() };
    /// assert_eq!(*number, 0);
    /// *number = 5;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[track_caller]
    pub unsafe fn boxed<T>(self) -> ShmemBox<T> {
        // SAFETY: the caller promises the same.
        match unsafe { self.try_boxed() } {
            Ok(boxed) => boxed,
            // The signature is that of 0.1, which has no error to return.
            #[allow(clippy::panic)]
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes the payload for a value of type `T`, if it can be one.
    ///
    /// # Errors
    /// - [`BoxError::TooLarge`], [`BoxError::OverAligned`]: no payload of this size can hold a `T`.
    /// - [`BoxError::Mismatch`]: it holds a value of another size or alignment.
    /// - [`BoxError::Arena`]: the segment is an arena.
    /// - [`BoxError::ReadOnly`], [`BoxError::Forked`], [`BoxError::Damaged`], [`BoxError::Severed`].
    ///
    /// The handle is dropped then, which unlinks the segment if it owns it. If another release of a program may have
    /// left something in the segment, look at its [`payload`](Self::payload) first.
    ///
    /// # Safety
    /// As [`boxed`](Self::boxed).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{BoxError, Builder};
    ///
    /// let (segment, _fd) = Builder::memfd().create(4)?;
    /// // SAFETY: nothing is read: it does not fit.
    /// let error = unsafe { segment.try_boxed::<u64>() }.unwrap_err();
    /// assert_eq!(error, BoxError::TooLarge { size: 8, payload: 4 });
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub unsafe fn try_boxed<T>(self) -> Result<ShmemBox<T>, BoxError> {
        let attached = self.0.get().ok_or(BoxError::Forked)?;
        if attached.is_read_only() {
            return Err(BoxError::ReadOnly);
        }
        check_fit::<T>(attached)?;
        let is_first = attached.region.header().set_payload(Payload::value_of::<T>());
        let result = if is_first { Ok(()) } else { check_payload::<T>(attached) };
        believable(attached, result)?;
        Ok(ShmemBox { value: attached.region.payload().cast(), conf: self })
    }

    /// Takes the payload for a value of type `T` that is only looked at; also if attached read-only.
    ///
    /// # Errors
    /// As [`try_boxed`](Self::try_boxed), without `ReadOnly`.
    ///
    /// # Safety
    /// As [`boxed`](Self::boxed). And if the segment is attached read-only, nothing is written through the
    /// reference: atomics of at most the size of a pointer may be loaded, with `Ordering::Relaxed`, and other types
    /// with interior mutability are not used. Nor is the value destroyed meanwhile, which a read-only attachment
    /// does not prevent.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::Builder;
    ///
    /// # fn main() -> Result<(), shmem_bind::ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-read-ref", std::process::id());
    /// # let segment = Builder::new(name).with_size(4).create()?;
    /// // SAFETY: the segment is new, and zero is a valid u32.
    /// let mut number = unsafe { segment.boxed::<u32>() };
    /// *number = 42;
    ///
    /// let observer = Builder::new(name).attach_read_only()?;
    /// // SAFETY: the segment holds a u32, and nobody writes to it while it is looked at.
    /// let seen = unsafe { observer.read_ref::<u32>() }?;
    /// assert_eq!(*seen, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub unsafe fn read_ref<T>(self) -> Result<ReadRef<T>, BoxError> {
        let attached = self.0.get().ok_or(BoxError::Forked)?;
        check_fit::<T>(attached)?;
        believable(attached, check_payload::<T>(attached))?;
        Ok(ReadRef { value: attached.region.payload().cast(), conf: self })
    }
}

/// Whether any payload of this size can hold a `T`.
fn check_fit<T>(attached: &Attached) -> Result<(), BoxError> {
    let payload = attached.region.payload_len();
    // Of one that may grow, only what it started with is sure to be there.
    let payload = payload.min(usize::try_from(attached.header.initial_len()).unwrap_or(payload));
    if align_of::<T>() > HEADER_LEN {
        return Err(BoxError::OverAligned { align: align_of::<T>(), max: HEADER_LEN });
    }
    if size_of::<T>() > payload {
        return Err(BoxError::TooLarge { size: size_of::<T>(), payload });
    }
    Ok(())
}

/// What was found in the header, unless it was zeros that have taken its place.
fn believable(attached: &Attached, result: Result<(), BoxError>) -> Result<(), BoxError> {
    match result {
        _ if attached.is_severed() => Err(BoxError::Severed),
        _ if !attached.is_listed() => Err(BoxError::Damaged { found: 0 }),
        result => result,
    }
}

/// Whether the payload is a value of the size and alignment of `T`, or nothing yet.
fn check_payload<T>(attached: &Attached) -> Result<(), BoxError> {
    match attached.region.header().payload() {
        Ok(payload) if payload == Payload::value_of::<T>() || payload == Payload::Unset => Ok(()),
        Ok(Payload::Value { size, align }) => {
            Err(BoxError::Mismatch { size, align, asked_size: size_of::<T>(), asked_align: align_of::<T>() })
        }
        Ok(Payload::Arena { allocator, .. }) => Err(BoxError::Arena { allocator }),
        Err(HeaderError::Payload { found }) => Err(BoxError::Damaged { found }),
        _ => Err(BoxError::Damaged { found: 0 }),
    }
}

/// A value in shared memory.
///
/// Dereferences to the value like a `Box`, and is two words for a sized `T`. It is `Send` and `Sync` exactly when `T`
/// is. There are two sorts:
/// - **The value of a segment**, made by [`ShmemConf::boxed`]. Dropping it detaches from the segment. If it owns the
///   segment, the segment is unlinked as well; the value's destructor then runs in whichever process drops the
///   last box of the unlinked segment, so here if nobody else is attached.
/// - **An object of an arena**, made by [`Arena::alloc`](crate::Arena::alloc) and its like. Nobody else, in any
///   process, has it. Dropping it runs the destructor and frees the memory, without waiting and without failing.
///   If its process is killed, the memory is given back, without the destructor. It keeps the segment attached, and may
///   outlive the `Arena`.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemBox, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let mut numbers: ShmemBox<[u32]> = arena.alloc_slice(3, 0)?;
/// numbers[1] = 5;
/// numbers.sort();
/// assert_eq!(*numbers, [0, 0, 5]);
///
/// // Like a `Box`, it goes to other threads, compares and prints as what it leads to.
/// let total = std::thread::spawn(move || numbers.iter().sum::<u32>()).join().unwrap();
/// assert_eq!(arena.alloc(total)?, arena.alloc(5)?);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub struct ShmemBox<T: ?Sized> {
    /// INVARIANT 1: in the payload of the segment that `conf` is attached to, aligned for a `T`. Either where the payload
    /// begins, and by the promise to `try_boxed` it holds a valid `T`; or in a block that belongs to this box
    /// alone, and holds one. Mapped as long as `conf` exists. (In a child after `fork`, that of a segment stays for
    /// ever. Objects of an arena are not mapped there, and something else may come to lie in their place: that nobody
    /// uses what a child has inherited is up to the caller of `fork`, which is unsafe.)
    value: NonNull<T>,
    conf: ShmemConf,
}

// SAFETY: a box is the way to one value of type `T`, like a `Box<T>`; its handle is `Send` itself.
unsafe impl<T: Send + ?Sized> Send for ShmemBox<T> {}
// SAFETY: a shared box gives shared references to the value only; its handle is `Sync` itself.
unsafe impl<T: Sync + ?Sized> Sync for ShmemBox<T> {}

impl<T: ?Sized> ShmemBox<T> {
    /// A box of an object.
    ///
    /// # Safety
    /// `value` is a valid `T` in a block of the arena that `conf` is attached to; the block is exclusive to this
    /// attachment, and nobody else in the process has it.
    pub(crate) const unsafe fn from_parts(value: NonNull<T>, conf: ShmemConf) -> Self {
        Self { value, conf }
    }

    /// The address of the value, and the handle; no destructor will run.
    pub(crate) fn into_parts(self) -> (NonNull<T>, ShmemConf) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, nor dropped.
        (this.value, unsafe { (&raw const this.conf).read() })
    }

    pub(crate) const fn value(this: &Self) -> NonNull<T> {
        this.value
    }
    /// Makes this box the owner of its segment: dropping it unlinks the segment.
    ///
    /// If the segment has no name any more, or the box is from before a `fork`, there is nothing to own, and
    /// the box comes back as it was; [`try_own`](Self::try_own) tells.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox};
    ///
    /// # fn main() -> Result<(), shmem_bind::ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-own", std::process::id());
    /// let segment = Builder::new(name).with_size(4).open()?;
    /// // SAFETY: the segment is new, and zero is a valid i32.
    /// ShmemBox::leak(unsafe { segment.boxed::<i32>() });
    ///
    /// let segment = Builder::new(name).with_size(4).open()?;
    /// // SAFETY: as above.
    /// let number = ShmemBox::own(unsafe { segment.boxed::<i32>() });
    /// assert!(ShmemBox::conf(&number).is_owner());
    /// // Dropped here, `number` takes the segment along.
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the box is what owns the segment"]
    pub fn own(this: Self) -> Self {
        let _: Result<(), OwnError> = Self::try_own(&this);
        this
    }

    /// Makes this box the owner of its segment, or says why not.
    ///
    /// # Errors
    /// See [`OwnError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, OwnError, ShmemBox};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-try-own", std::process::id());
    /// let segment = Builder::new(name).with_size(4).open()?;
    /// // SAFETY: the segment is new, and zero is a valid i32.
    /// let number = unsafe { segment.boxed::<i32>() };
    /// assert_eq!(ShmemBox::try_own(&number), Ok(()));
    ///
    /// shmem_bind::unlink(name)?;
    /// assert_eq!(ShmemBox::try_own(&number), Err(OwnError::Retired));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn try_own(this: &Self) -> Result<(), OwnError> {
        this.conf.try_own()
    }

    /// Gives the value up without running its destructor, so that it outlives the box and the process.
    ///
    /// - The value of a segment: detaches, and leaves the segment its name, also if this box owns it. Somebody else may
    ///   attach later, [own](Self::own) it and so clean up. The handle is of no use.
    /// - An object of an arena: whoever has the handle may [claim](crate::Arena::claim) the object, in any process.
    ///   Until then it is nobody's, and stays also if this process dies; [`Arena::leaked`](crate::Arena::leaked)
    ///   finds those whose handle was lost. (It does not keep the segment: where the owner's last handle takes that
    ///   along, it takes the object along too. See [`Arena::leak`](crate::Arena::leak).)
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Handle, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let handle: Handle<u32> = ShmemBox::leak(arena.alloc(7_u32)?);
    /// let number = arena.claim(handle)?; // here, or in any other process that was sent the handle
    /// assert_eq!(*number, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn leak(this: Self) -> Handle<T> {
        let (value, conf) = this.into_parts();
        let Some(attached) = conf.0.get() else { return Handle::NOTHING };
        let Some(block) = attached.region.block_of(value.cast()) else {
            attached.leave(Departure::Leak);
            return Handle::NOTHING;
        };
        Place::at(attached, block).and_then(|place| place.leak()).unwrap_or(Handle::NOTHING)
    }

    /// The handle of the segment: its name, size, owner and so on.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox};
    ///
    /// let (segment, _fd) = Builder::memfd().create(4)?;
    /// // SAFETY: the segment is new, and zero is a valid u32.
    /// let number = unsafe { segment.boxed::<u32>() };
    /// assert_eq!(ShmemBox::conf(&number).attachment_count(), 1);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn conf(this: &Self) -> &ShmemConf {
        &this.conf
    }
}

impl<T: Shareable> ShmemBox<T> {
    /// Moves an object out of its arena, and frees its place.
    ///
    /// # Errors
    /// The box, if it is the value of a segment, which others may have boxed too, in a child after `fork`, or if the segment
    /// is [severed](ShmemConf::is_severed).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = arena.alloc([7_u64; 10])?;
    /// assert_eq!(ShmemBox::into_inner(number).unwrap(), [7; 10]);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn into_inner(this: Self) -> Result<T, Self> {
        let Some(attached) = this.conf.0.get().filter(|attached| !attached.is_severed()) else {
            return Err(this);
        };
        let Some(block) = attached.region.block_of(this.value.cast()) else {
            return Err(this);
        };
        // SAFETY: by invariant 1 it is valid and this box's alone, which is not used any more, so nobody reads it again.
        let value = unsafe { this.value.read() };
        attached.free_block(block);
        drop(this.into_parts());
        Ok(value)
    }
}

/// Where the object of a box lies.
pub(crate) struct Place<'a> {
    pub(crate) attached: &'a Attached,
    pub(crate) heap: Heap<'a>,
    /// Offset of the block.
    pub(crate) block: u64,
}

impl<'a> Place<'a> {
    /// Where the object at this address lies; `None` if it is the value of the segment, or severed.
    #[inline]
    pub(crate) fn of(attached: &'a Attached, value: NonNull<u8>) -> Option<Self> {
        Self::at(attached, attached.region.block_of(value)?)
    }

    /// The object of this block; `None` if severed.
    #[inline]
    pub(crate) fn at(attached: &'a Attached, block: u64) -> Option<Self> {
        Some(Self { attached, heap: attached.heap()?, block })
    }

    pub(crate) fn exports(&self) -> Exports<'a> {
        Exports::new(self.attached.region.export_words())
    }

    /// Makes the object nobody's; `None` if its block has been damaged.
    fn leak<T: ?Sized>(&self) -> Option<Handle<T>> {
        let serial =
            self.attached.region.header().arena.serial.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let slot = self.heap.own_slot().ok()?;
        self.exports().set(self.block);
        // Killed before the next step: the block is the dead's still, and its bit is cleared when it is freed.
        self.heap.change(self.block, Event::Leak { slot, serial }).ok()?.ok()?;
        Some(Handle::new(self.block, serial, self.attached.header.segment_id()))
    }
}

impl<T: ?Sized> Drop for ShmemBox<T> {
    #[inline]
    fn drop(&mut self) {
        /// Frees a block, also if the destructor of its object unwinds.
        struct Free<'a>(&'a ShmemConf, u64);

        impl Drop for Free<'_> {
            fn drop(&mut self) {
                // Not in a child that the destructor has forked.
                if let Some(attached) = self.0.0.get() {
                    attached.free_block(self.1);
                }
            }
        }

        let Some(attached) = self.conf.0.get() else { return };
        if let Some(block) = attached.region.block_of(self.value.cast()) {
            let free = Free(&self.conf, block);
            // Zeros may have taken the place of the value.
            if !needs_drop::<T>() || !attached.is_severed() {
                // SAFETY: by invariant 1 the value is valid, and this box's alone.
                unsafe { self.value.drop_in_place() };
            }
            drop(free);
            return;
        }
        let last = attached.leave_by_policy();
        if last {
            // SAFETY: by invariant 1 the value is valid and still mapped; the membership word has told this box,
            // and none other ever, that nobody else is attached or will be. If the destructor unwinds, `conf`
            // is dropped all the same.
            unsafe { self.value.drop_in_place() };
        }
    }
}

impl<T: ?Sized> Deref for ShmemBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by invariant 1; nobody writes meanwhile, by the promise to `try_boxed`, or since it is this box's alone.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for ShmemBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: by invariant 1; nobody uses it meanwhile, by the promise to `try_boxed`, or since it is this box's alone.
        unsafe { self.value.as_mut() }
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for ShmemBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmemBox").field("value", &&**self).field("conf", &self.conf).finish()
    }
}

/// A value in shared memory that is only looked at.
///
/// Clones share one attachment.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ReadRef, ShmemBox, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-a-read-ref", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// arena.publish_pinned("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
///
/// // A process that may only read:
/// let limit: ReadRef<u64> = Builder::new(name).attach_read_only()?.find_pinned("limit")?;
/// assert_eq!(*limit, 100);
/// assert!(ReadRef::conf(&limit).is_read_only());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub struct ReadRef<T: ?Sized> {
    /// INVARIANT 1: as [`ShmemBox::value`], but that nobody writes to it; or a pinned object.
    value: NonNull<T>,
    conf: ShmemConf,
}

// SAFETY: it gives shared references only, from any number of threads.
unsafe impl<T: Sync + ?Sized> Send for ReadRef<T> {}
// SAFETY: as above.
unsafe impl<T: Sync + ?Sized> Sync for ReadRef<T> {}

impl<T: ?Sized> ReadRef<T> {
    /// # Safety
    /// `value` is a valid `T` in the segment that `conf` is attached to, and nobody writes to it, nor destroys it, as long
    /// as the segment exists.
    pub(crate) const unsafe fn from_parts(value: NonNull<T>, conf: ShmemConf) -> Self {
        Self { value, conf }
    }

    /// The handle of the segment: its name, size, owner and so on.
    #[must_use]
    pub const fn conf(this: &Self) -> &ShmemConf {
        &this.conf
    }
}

impl<T: ?Sized> Clone for ReadRef<T> {
    fn clone(&self) -> Self {
        Self { value: self.value, conf: ShmemConf(self.conf.0.clone()) }
    }
}

impl<T: ?Sized> Deref for ReadRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by invariant 1.
        unsafe { self.value.as_ref() }
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for ReadRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadRef").field("value", &&**self).field("conf", &self.conf).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use static_assertions::{assert_eq_size, assert_impl_all, assert_not_impl_any};

    assert_eq_size!(ShmemBox<u8>, [usize; 2]);
    assert_impl_all!(ShmemBox<u8>: Send, Sync);
    assert_impl_all!(ShmemBox<Cell<u8>>: Send);
    assert_not_impl_any!(ShmemBox<Cell<u8>>: Sync);
    assert_not_impl_any!(ShmemBox<*const u8>: Send, Sync);
    assert_not_impl_any!(ReadRef<Cell<u8>>: Send, Sync);
    assert_impl_all!(ShmemConf: Send, Sync);
}
