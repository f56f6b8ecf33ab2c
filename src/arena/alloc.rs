//! Allocating objects, and claiming leaked ones
//!
//! # Safety
//! Makes boxes of blocks. A block that an allocator has handed out, or a claim has made exclusive, belongs to one box.
#![allow(unsafe_code)]

use super::{Arena, exports};
use crate::allocator::RegionAllocator;
use crate::attachment::Attached;
use crate::boxed::ShmemBox;
use crate::error::{AllocError, HandleError, HeapError, Rejected};
use crate::exports::Exports;
use crate::handle::Handle;
use crate::header::HEADER_LEN;
use crate::heap::{Heap, Request, Usage};
use crate::object::{BLOCK_HEADER_LEN, BlockState, Event, Kind, ObjectTag};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::segment::ShmemConf;
use crate::shareable::{FromZeros, Shareable};
use crate::typed::{self, Object};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{Ordering, fence};

impl<A: RegionAllocator> Arena<A> {
    /// Moves a value into the arena.
    ///
    /// # Errors
    /// [`AllocError`], with the value: above all [`AllocError::OutOfMemory`], which says how much there is.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{AllocError, Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(4096)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let rejected = arena.alloc([7_u8; 5000]).unwrap_err();
    /// assert_eq!(rejected.value, [7; 5000]);
    /// assert!(matches!(rejected.error, AllocError::OutOfMemory { asked: 5000, .. }));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn alloc<T: Shareable>(&self, value: T) -> Result<ShmemBox<T>, Rejected<T>> {
        match self.alloc_uninit_as::<T>() {
            Ok(place) => {
                // SAFETY: the place is aligned and large enough for a `T`, and new.
                unsafe { place.write(value) };
                // SAFETY: initialised just now, and allocated for this box.
                Ok(unsafe { self.boxed(place) })
            }
            Err(error) => Err(Rejected { value, error }),
        }
    }

    /// Builds a value in its place, for those that are too large to be moved there.
    ///
    /// If the closure unwinds, the memory is freed, and nothing is dropped in it. It gets the place and returns the reference that [`MaybeUninit::write`], or, after other
    /// writes, [`assume_init_mut`](MaybeUninit::assume_init_mut) gives.
    ///
    /// # Errors
    /// [`AllocError`]; [`NotInPlace`](AllocError::NotInPlace) if the reference is to another place.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(1 << 20)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let table = arena.alloc_with(|slot| slot.write([1_u32; 100]))?;
    /// assert_eq!(table[99], 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn alloc_with<T: Shareable>(
        &self,
        init: impl FnOnce(&mut MaybeUninit<T>) -> &mut T,
    ) -> Result<ShmemBox<T>, AllocError> {
        let mut slot = self.alloc_uninit::<T>()?;
        let place = ShmemBox::value(&slot).as_ptr().cast::<T>();
        // If it unwinds, the box of the uninitialised value is dropped, which frees it.
        if !ptr::eq(init(&mut slot), place) {
            return Err(AllocError::NotInPlace);
        }
        // SAFETY: the closure has given a reference to a `T` at that place.
        Ok(unsafe { slot.assume_init() })
    }

    /// Allocates without initialising.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(4096)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let mut number = arena.alloc_uninit::<u32>()?;
    /// number.write(5);
    /// // SAFETY: written just now.
    /// let number = unsafe { number.assume_init() };
    /// assert_eq!(*number, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn alloc_uninit<T: Shareable>(&self) -> Result<ShmemBox<MaybeUninit<T>>, AllocError> {
        let place = self.alloc_uninit_as::<MaybeUninit<T>>()?;
        // SAFETY: any bytes are valid, and it has been allocated for this box.
        Ok(unsafe { self.boxed(place) })
    }

    /// Allocates a value of zeros, which is built where it lies.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(1 << 20)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let table = arena.alloc_zeroed::<[u32; 100_000]>()?;
    /// assert!(table.iter().all(|number| *number == 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn alloc_zeroed<T: FromZeros>(&self) -> Result<ShmemBox<T>, AllocError> {
        let place = self.alloc_uninit_as::<T>()?;
        // SAFETY: so many bytes have been allocated there, and nobody else has them.
        unsafe { place.write_bytes(0, 1) };
        // SAFETY: by the promise of `FromZeros` it is a `T` now, and it has been allocated for this box.
        Ok(unsafe { self.boxed(place) })
    }

    /// Allocates `len` elements, clones of one value.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let mut zeros = arena.alloc_slice(1000, 0_u8)?;
    /// zeros[999] = 1;
    /// assert_eq!(zeros.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 1);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn alloc_slice<T: Shareable + Clone>(
        &self,
        len: usize,
        value: T,
    ) -> Result<ShmemBox<[T]>, AllocError> {
        self.alloc_slice_with(len, |_| value.clone())
    }

    /// Allocates `len` elements, each made by a closure that gets its index.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let squares = arena.alloc_slice_with(4, |index| index as u64 * index as u64)?;
    /// assert_eq!(*squares, [0, 1, 4, 9]);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn alloc_slice_with<T: Shareable>(
        &self,
        len: usize,
        mut element: impl FnMut(usize) -> T,
    ) -> Result<ShmemBox<[T]>, AllocError> {
        /// Drops the elements that have been written, if the closure unwinds.
        struct Written<'a, T>(&'a mut [MaybeUninit<T>], usize);

        impl<T> Drop for Written<'_, T> {
            fn drop(&mut self) {
                for element in self.0.iter_mut().take(self.1) {
                    // SAFETY: so many have been initialised, and nobody else drops them.
                    unsafe { element.assume_init_drop() };
                }
            }
        }

        let mut slots = self.alloc_uninit_slice::<T>(len)?;
        let mut written = Written(&mut slots, 0);
        for index in 0..len {
            if let Some(slot) = written.0.get_mut(index) {
                slot.write(element(index));
            }
            written.1 = index.wrapping_add(1);
        }
        core::mem::forget(written);
        // SAFETY: all have been written.
        Ok(unsafe { slots.assume_init() })
    }

    /// Allocates `len` elements without initialising them.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let mut slots = arena.alloc_uninit_slice::<u32>(3)?;
    /// for (index, slot) in slots.iter_mut().enumerate() {
    ///     slot.write(index as u32);
    /// }
    /// // SAFETY: all three have been written.
    /// let numbers = unsafe { slots.assume_init() };
    /// assert_eq!(*numbers, [0, 1, 2]);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn alloc_uninit_slice<T: Shareable>(
        &self,
        len: usize,
    ) -> Result<ShmemBox<[MaybeUninit<T>]>, AllocError> {
        let size = size_of::<T>();
        // Where elements have no size, their number is kept.
        let bytes = if size == 0 { Some(size_of::<u64>()) } else { size.checked_mul(len) };
        let bytes =
            bytes.filter(|bytes| isize::try_from(*bytes).is_ok()).ok_or(AllocError::TooLong { len, size })?;
        let tag = ObjectTag::new(<[MaybeUninit<T>] as typed::Layout>::TAG).bits();
        let place = self.allocate(bytes as u64, align_of::<T>(), tag)?;
        if size == 0 {
            // SAFETY: eight bytes have been allocated there, aligned to 16.
            unsafe { place.cast::<u64>().write(len as u64) };
        }
        let place = NonNull::slice_from_raw_parts(place.cast(), len);
        // SAFETY: any bytes are valid, and they have been allocated for this box.
        Ok(unsafe { self.boxed(place) })
    }

    /// Copies a slice into the arena.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let message: ShmemBox<[u8]> = arena.alloc_slice_copy(b"hello")?;
    /// assert_eq!(&*message, b"hello");
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn alloc_slice_copy<T: Shareable + Copy>(&self, slice: &[T]) -> Result<ShmemBox<[T]>, AllocError> {
        let mut slots = self.alloc_uninit_slice::<T>(slice.len())?;
        slots.iter_mut().zip(slice).for_each(|(slot, value)| {
            slot.write(*value);
        });
        // SAFETY: all have been written, for there are as many.
        Ok(unsafe { slots.assume_init() })
    }

    /// Copies a string into the arena.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let greeting: ShmemBox<str> = arena.alloc_str("good morning")?;
    /// assert_eq!(greeting.len(), 12);
    /// assert_eq!(greeting.to_string(), "good morning");
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn alloc_str(&self, string: &str) -> Result<ShmemBox<str>, AllocError> {
        let tag = ObjectTag::new(<str as typed::Layout>::TAG).bits();
        let place = self.allocate(string.len() as u64, 1, tag)?;
        // SAFETY: so many bytes have been allocated there, apart from all others.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(string).cast(), string.len()) };
        // SAFETY: what lies there is the string, in a block that is this attachment's.
        let value = unsafe { <str as typed::Layout>::pointer(place, string.len() as u64) };
        // SAFETY: as above, and it has been allocated for this box.
        Ok(unsafe { self.boxed(value) })
    }

    /// Makes an object that was [leaked](ShmemBox::leak), by this process or another, this one's own. Of all who try, one
    /// gets it.
    ///
    /// # Errors
    /// [`HandleError`] says what is wrong with the handle; the object, if there is one, stays as it was.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, HandleError, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let handle = ShmemBox::leak(arena.alloc(7_u32)?);
    /// assert_eq!(*arena.claim(handle)?, 7); // and the box is dropped
    ///
    /// // Each handle is good for one claim, by whomever.
    /// assert!(matches!(arena.claim(handle), Err(HandleError::Gone { .. })));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn claim<T: Object + ?Sized>(&self, handle: Handle<T>) -> Result<ShmemBox<T>, HandleError> {
        let (attached, heap) = self.parts()?;
        if handle.is_nothing() {
            return Err(HandleError::Nothing);
        }
        if !handle.is_of(attached.header.segment_id()) {
            return Err(HandleError::Foreign);
        }
        let (block, exports) = (handle.block(), exports(attached));
        let offset = block.wrapping_add(BLOCK_HEADER_LEN);
        if heap.word(block).is_err() || block >= heap.len() {
            return Err(self.believable(HandleError::OutOfBounds { offset }));
        }
        let mut result = Err(HandleError::Gone { offset });
        // Otherwise the block could be freed and its memory used for something else between looking and claiming.
        let held = A::hold_still(&heap, &mut || result = claim_block::<T>(attached, &heap, exports, &handle));
        self.after(attached)?;
        held?;
        let (start, len) = result.map_err(|error| self.believable(error))?;
        // SAFETY: the claim has made the block exclusive to this attachment; by tag and length it holds a `T`.
        let value = unsafe { T::pointer(start, len) };
        // SAFETY: as above, and for this box alone, for of all claims of a serial one succeeds.
        Ok(unsafe { self.boxed(value) })
    }

    /// Memory for a `T`.
    #[inline]
    fn alloc_uninit_as<T: Shareable>(&self) -> Result<NonNull<T>, AllocError> {
        let tag = const { ObjectTag::new(<T as Shareable>::TAG).bits() };
        Ok(self.allocate(size_of::<T>() as u64, align_of::<T>(), tag)?.cast())
    }

    #[inline]
    fn allocate(&self, len: u64, align: usize, tag: u64) -> Result<NonNull<u8>, AllocError> {
        if align > HEADER_LEN {
            return Err(AllocError::OverAligned { align, max: HEADER_LEN });
        }
        let (attached, heap) = self.parts()?;
        let request = Request::new(len, align as u64, tag, heap.own_slot()?);
        let block = match A::allocate(&heap, &request) {
            Ok(block) => Ok(block),
            Err(error) => self.allocate_after(error, &heap, &request),
        };
        self.after(attached)?;
        let block = block.map_err(|error| self.believable(error))?;
        Ok(attached.region.object(block.wrapping_add(BLOCK_HEADER_LEN), len, align)?)
    }

    /// After an allocation failed: if it was for want of memory, the dead may have some.
    #[cold]
    fn allocate_after(
        &self,
        error: HeapError,
        heap: &Heap<'_>,
        request: &Request,
    ) -> Result<u64, AllocError> {
        if error != HeapError::OutOfMemory {
            return Err(error.into());
        }
        self.wait_for_the_dead();
        match A::allocate(heap, request) {
            Err(HeapError::OutOfMemory) => Err(self.out_of_memory(heap, request.len())),
            result => Ok(result?),
        }
    }

    /// The error that says how much memory there is.
    pub(super) fn out_of_memory(&self, heap: &Heap<'_>, asked: u64) -> AllocError {
        match A::usage(heap) {
            Ok(Usage { free, largest_free, .. }) => AllocError::OutOfMemory { asked, free, largest_free },
            Err(error) => error.into(),
        }
    }

    /// A box of the object at `value`.
    ///
    /// # Safety
    /// As [`ShmemBox::from_parts`].
    #[inline]
    unsafe fn boxed<T: ?Sized>(&self, value: NonNull<T>) -> ShmemBox<T> {
        // SAFETY: the caller promises the same.
        unsafe { ShmemBox::from_parts(value, ShmemConf(self.conf.0.clone())) }
    }
}

/// Makes the object of a handle exclusive to this attachment; gives where it lies, and its length. Blocks stay blocks
/// meanwhile, but others may claim, free and allocate them.
fn claim_block<T: Object + ?Sized>(
    attached: &Attached,
    heap: &Heap<'_>,
    exports: Exports<'_>,
    handle: &Handle<T>,
) -> Result<(NonNull<u8>, u64), HandleError> {
    let block = handle.block();
    let offset = block.wrapping_add(BLOCK_HEADER_LEN);
    if !exports.is_set(block) {
        return Err(HandleError::Gone { offset });
    }
    let serial = handle.serial();
    let state = BlockState::from_bits(heap.load(block)?);
    let (start, len) = match leaked_object(attached, heap, handle) {
        Err(error @ (HandleError::Mismatch(_) | HandleError::Damaged { .. })) => {
            // Somebody may have been quicker: then what was read is of whatever lies there now.
            fence(Ordering::Acquire);
            let is_same = exports.is_set(block) && heap.load(block)? == state.bits();
            return Err(if is_same { error } else { HandleError::Gone { offset } });
        }
        result => result?,
    };
    #[cfg(planted)]
    let serial = if is_planted(Mistake::ClaimAnySerial) { found_serial(heap, block)? } else { serial };
    let claim = Event::Claim { slot: heap.own_slot()?, serial };
    if heap.change(block, claim)?.is_err() {
        // Somebody was quicker.
        return Err(HandleError::Gone { offset });
    }
    // Killed before this step: the block is the dead's, and its bit is cleared when it is freed.
    exports.clear(block);
    Ok((start, len))
}

/// The serial by which a block is leaked, whatever handle is shown.
#[cfg(planted)]
fn found_serial(heap: &Heap<'_>, block: u64) -> Result<u64, HandleError> {
    match heap.block(block)?.state.kind() {
        Ok(Kind::Leaked { serial, .. }) => Ok(serial),
        _ => Err(HandleError::Damaged { at: block }),
    }
}

/// Where the object of a handle lies, and its length. If it is claimed and freed meanwhile, any other error may be given.
fn leaked_object<T: Object + ?Sized>(
    attached: &Attached,
    heap: &Heap<'_>,
    handle: &Handle<T>,
) -> Result<(NonNull<u8>, u64), HandleError> {
    let block = handle.block();
    let offset = block.wrapping_add(BLOCK_HEADER_LEN);
    let found = heap.block(block)?;
    match found.state.kind() {
        #[cfg(planted)]
        Ok(Kind::Leaked { .. }) if is_planted(Mistake::ClaimAnySerial) => {}
        Ok(Kind::Leaked { serial, .. }) if serial == handle.serial() => {}
        Ok(Kind::Leaked { .. } | Kind::Shared(_)) => return Err(HandleError::Stale { offset }),
        Ok(_) => return Err(HandleError::Gone { offset }),
        Err(_) => return Err(HandleError::Damaged { at: block }),
    }
    // Tag and extent stay as they are for as long as the block is leaked by this serial.
    let len = found.extent.object_len().ok_or(HandleError::Damaged { at: block })?;
    typed::check::<T>(found.tag, len).map_err(HandleError::Mismatch)?;
    let start = attached.region.object(offset, len, typed::align::<T>())?;
    #[cfg(planted)]
    if is_planted(Mistake::LengthAgain) {
        let extent = heap.load(block.wrapping_add(crate::object::EXTENT_OFFSET))?;
        return Ok((start, crate::object::Extent::from_bits(extent).object_len().unwrap_or(len)));
    }
    Ok((start, len))
}
