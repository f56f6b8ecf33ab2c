//! talc: its default bins, over memory that is claimed by hand

use super::lock::{Guarded, Lock};
use super::{ALIGN, Heap, Place, address, place_at, value_at};
use std::alloc::Layout;
use talc::DefaultBinning;
use talc::source::Manual;

type State = talc::base::Talc<Manual, DefaultBinning>;

/// With a lock of the kind `L`.
#[derive(Debug)]
pub struct Talc<L>(Guarded<L, State>);

impl<L: Lock> Talc<L> {
    /// Over `len` bytes.
    pub fn new(len: usize) -> Self {
        Self(Guarded::new(len, |memory| {
            let mut state = State::new(Manual);
            // SAFETY: the memory is mapped for as long as the state, which is in the same mapping, and nobody else's.
            unsafe { state.claim(memory.as_ptr().cast(), memory.len()) }.expect("too little memory");
            state
        }))
    }
}

impl<L: Lock> Heap for Talc<L> {
    #[inline]
    fn allocate(&self, len: usize, value: u64) -> Option<Place> {
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        // SAFETY: the length is not zero.
        let object = unsafe { self.0.lock().allocate(layout) }?;
        // SAFETY: so many bytes, and so aligned, as were asked for.
        unsafe { place_at(object.as_ptr(), value) }
    }

    fn read(&self, place: Place) -> u64 {
        // SAFETY: a place is where `allocate` has written.
        unsafe { value_at(place) }
    }

    #[inline]
    fn free(&self, place: Place, len: usize) {
        // SAFETY: it was made in `allocate` from the same numbers.
        let layout = unsafe { Layout::from_size_align_unchecked(len, ALIGN) };
        // SAFETY: allocated with this layout, and given back once.
        unsafe { self.0.lock().deallocate(address(place), layout) };
    }

    fn for_process(&self, _number: u64) -> Self {
        Self(self.0.share())
    }

    fn for_thread(&self) -> Self {
        Self(self.0.share())
    }
}
