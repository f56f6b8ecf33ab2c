//! Boxes of values that are still to be written
//!
//! Until it is, the object is of another type, which says that its bytes may be anything: nobody finds it as a value, also if
//! its process dies meanwhile, and no destructor runs.
//!
//! # Safety
//! Takes its caller's word that there is a value.
#![allow(unsafe_code)]

use crate::boxed::{Place, ShmemBox};
use crate::error::HeapError;
use crate::object::{ObjectTag, TAG_OFFSET};
use crate::segment::ShmemConf;
use crate::shareable::Shareable;
use crate::typed::Object;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

impl<T: Shareable> ShmemBox<MaybeUninit<T>> {
    /// Says that the value has been initialised.
    ///
    /// # Safety
    /// It has been, as for [`MaybeUninit::assume_init`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let mut number = arena.alloc_uninit::<u64>()?;
    /// number.write(7);
    /// // SAFETY: written just now.
    /// assert_eq!(*unsafe { number.assume_init() }, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub unsafe fn assume_init(self) -> ShmemBox<T> {
        let (value, conf) = self.into_parts();
        set_tag::<T>(value.cast(), &conf);
        // SAFETY: it was a box of the same layout; the caller promises that it holds a value.
        unsafe { ShmemBox::from_parts(value.cast(), conf) }
    }
}

impl<T: Shareable> ShmemBox<[MaybeUninit<T>]> {
    /// Says that the values have been initialised.
    ///
    /// # Safety
    /// All have been, as for [`MaybeUninit::assume_init`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let mut numbers = arena.alloc_uninit_slice::<u64>(2)?;
    /// numbers[0].write(7);
    /// numbers[1].write(8);
    /// // SAFETY: both have been written.
    /// assert_eq!(*unsafe { numbers.assume_init() }, [7, 8]);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub unsafe fn assume_init(self) -> ShmemBox<[T]> {
        let (value, conf) = self.into_parts();
        set_tag::<[T]>(value.cast(), &conf);
        let value = NonNull::slice_from_raw_parts(value.cast(), value.len());
        // SAFETY: it was a box of the same layout; the caller promises that it holds values.
        unsafe { ShmemBox::from_parts(value, conf) }
    }
}

/// Says of which type the object at `value` is from now on, which is exclusive.
fn set_tag<T: Object + ?Sized>(value: NonNull<u8>, conf: &ShmemConf) {
    if let Some(place) = conf.0.get().and_then(|attached| Place::of(attached, value)) {
        // Fails only for a block that is none; then nobody finds the object either.
        let tag = ObjectTag::new(T::TAG).bits();
        let _: Result<(), HeapError> = place.heap.store(place.block.wrapping_add(TAG_OFFSET), tag);
    }
}
