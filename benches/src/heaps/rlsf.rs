//! rlsf: TLSF, for heaps of up to 64 GiB
//!
//! Its own global allocator has 64 lists for each doubling of the size, in tables of 32 KiB, which are much for a heap of
//! 1 MiB; here there are 32, in 8 KiB. This crate's `Tlsf` has 16.

use super::lock::{Guarded, Lock};
use super::{ALIGN, Heap, Place, address, place_at, value_at};
use rlsf::Tlsf;
use std::alloc::Layout;
use std::ptr::NonNull;

/// Doublings, from 32 bytes on, and lists for each.
const DOUBLINGS: usize = 31;
const LISTS: usize = 32;

type State = Tlsf<'static, u32, u32, DOUBLINGS, LISTS>;

/// With a lock of the kind `L`.
#[derive(Debug)]
pub struct Rlsf<L>(Guarded<L, State>);

impl<L: Lock> Rlsf<L> {
    /// Over `len` bytes.
    pub fn new(len: usize) -> Self {
        Self(Guarded::new(len, |memory| {
            let mut state = State::new();
            // SAFETY: the memory is mapped for as long as the state, which is in the same mapping, and nobody else's.
            unsafe { state.insert_free_block_ptr(memory) }.expect("too little memory");
            state
        }))
    }
}

impl<L: Lock> Heap for Rlsf<L> {
    #[inline]
    fn allocate(&self, len: usize, value: u64) -> Option<Place> {
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        let object = self.0.lock().allocate(layout)?;
        // SAFETY: so many bytes, and so aligned, as were asked for.
        unsafe { place_at(object.as_ptr(), value) }
    }

    fn read(&self, place: Place) -> u64 {
        // SAFETY: a place is where `allocate` has written.
        unsafe { value_at(place) }
    }

    #[inline]
    fn free(&self, place: Place, _len: usize) {
        let object = NonNull::new(address(place)).expect("no object is at zero");
        // SAFETY: allocated with this alignment, and given back once.
        unsafe { self.0.lock().deallocate(object, ALIGN) };
    }

    fn for_process(&self, _number: u64) -> Self {
        Self(self.0.share())
    }

    fn for_thread(&self) -> Self {
        Self(self.0.share())
    }
}
