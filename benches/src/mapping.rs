//! Memory that is shared with forked children, outside of any segment

use rustix::mm::{self, MapFlags, ProtFlags};
use std::ops::Deref;
use std::ptr;

/// A `T` that begins as zeros. A child has the same one; each of both unmaps its own mapping.
#[derive(Debug)]
pub struct Mapping<T>(*mut T);

impl<T> Mapping<T> {
    /// Maps so much.
    ///
    /// # Safety
    /// Zeros are a valid `T`, aligned to a page at most, which several processes may use through shared references.
    pub unsafe fn zeros() -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: memory of its own, wherever the kernel likes.
        let base =
            unsafe { mm::mmap_anonymous(ptr::null_mut(), size_of::<T>(), protection, MapFlags::SHARED) };
        Self(base.unwrap().cast())
    }

    /// Where it lies.
    pub const fn as_ptr(&self) -> *mut T {
        self.0
    }
}

impl<T> Deref for Mapping<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: mapped for as long as this is there; the rest has been promised to `zeros`.
        unsafe { &*self.0 }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more.
        unsafe { mm::munmap(self.0.cast(), size_of::<T>()) }.unwrap();
    }
}

/// Something that shares no cache line with others.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Aligned<T>(pub T);
