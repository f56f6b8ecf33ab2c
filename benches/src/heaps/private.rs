//! Allocators in the memory of one process: what there is without sharing
//!
//! Two processes that use them have two heaps.

use super::{Heap, Place, address, place_at, value_at};
use std::ffi::c_void;

macro_rules! private_heap {
    ($(#[$doc:meta])* $name:ident, $allocate:path, $free:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Heap for $name {
            #[inline]
            fn allocate(&self, len: usize, value: u64) -> Option<Place> {
                // SAFETY: any length may be asked for.
                let object: *mut c_void = unsafe { $allocate(len) };
                // SAFETY: at least 8 bytes, aligned for everything, or null.
                unsafe { place_at(object.cast(), value) }
            }

            fn read(&self, place: Place) -> u64 {
                // SAFETY: a place is where `allocate` has written.
                unsafe { value_at(place) }
            }

            #[inline]
            fn free(&self, place: Place, _len: usize) {
                // SAFETY: allocated above, and given back once.
                unsafe { $free(address(place).cast()) };
            }

            fn for_process(&self, _number: u64) -> Self {
                Self
            }

            fn for_thread(&self) -> Self {
                Self
            }
        }
    };
}

private_heap!(
    /// `malloc` and `free` of the C library.
    Glibc,
    libc::malloc,
    libc::free
);
private_heap!(
    /// mimalloc, as its crate builds it for a global allocator.
    Mimalloc,
    libmimalloc_sys::mi_malloc,
    libmimalloc_sys::mi_free
);
