//! Memory that is shared with forked children, outside of any segment

use crate::heaps::Mapping;
use std::marker::PhantomData;
use std::ops::Deref;

/// A `T` that begins as zeros. A child has the same one; each of both unmaps its own mapping.
#[derive(Debug)]
pub struct Shared<T> {
    mapping: Mapping,
    value: PhantomData<T>,
}

impl<T> Shared<T> {
    /// Maps so much.
    ///
    /// # Safety
    /// Zeros are a valid `T`, aligned to a page at most, which several processes may use through shared references.
    pub unsafe fn zeros() -> Self {
        Self { mapping: Mapping::new(size_of::<T>().next_multiple_of(8)), value: PhantomData }
    }

    /// Where it lies.
    pub const fn as_ptr(&self) -> *mut T {
        self.mapping.base().as_ptr().cast()
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: mapped for as long as this is there; the rest has been promised to `zeros`.
        unsafe { &*self.as_ptr() }
    }
}

/// Something that shares no cache line with others.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Aligned<T>(pub T);
