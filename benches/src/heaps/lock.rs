//! A state in shared memory behind a spin lock, or behind none

use super::Mapping;
use lock_api::{GuardNoSend, Mutex, MutexGuard, RawMutex};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

pub type SpinLock = spinning_top::RawSpinlock;

/// Keeps nobody out. What is behind it is of one thread of one process at a time.
#[derive(Debug)]
pub struct NoLock(PhantomData<*const ()>);

// SAFETY: it is not `Sync`, so neither is a mutex with it: there is nobody to be kept out.
unsafe impl RawMutex for NoLock {
    const INIT: Self = Self(PhantomData);
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {}

    #[inline]
    fn try_lock(&self) -> bool {
        true
    }

    #[inline]
    unsafe fn unlock(&self) {}
}

/// A `T` and its lock at the beginning of a mapping, with the rest of it.
#[derive(Debug)]
pub struct Guarded<L, T> {
    mapping: Arc<Mapping>,
    mutex: NonNull<Mutex<L, T>>,
}

// SAFETY: with a `SpinLock`, threads keep each other out. With `NoLock`, whoever calls `clone` sees to it that one
// thread at a time uses it: see there.
unsafe impl<L, T: Send> Send for Guarded<L, T> {}

impl<L: RawMutex, T> Guarded<L, T> {
    /// Puts what `make` makes of the rest of `len` bytes at the beginning of them.
    pub fn new(len: usize, make: impl FnOnce(NonNull<[u8]>) -> T) -> Self {
        const LINE: usize = 64;
        let mapping = Arc::new(Mapping::new(len));
        let mutex: NonNull<Mutex<L, T>> = mapping.base().cast();
        let skipped = size_of::<Mutex<L, T>>().next_multiple_of(LINE);
        assert!(skipped < len, "{len} bytes are too few for the allocator's own");
        // SAFETY: within the mapping, as was just checked.
        let rest = unsafe { mapping.base().add(skipped) };
        let state = make(NonNull::slice_from_raw_parts(rest, len - skipped));
        // SAFETY: aligned to a page, long enough, and nobody uses it yet.
        unsafe { mutex.write(Mutex::new(state)) };
        Self { mapping, mutex }
    }

    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, L, T> {
        // SAFETY: written in `new`, and mapped as long as `mapping` is there.
        unsafe { self.mutex.as_ref() }.lock()
    }

    /// The same for another one. If `L` is `NoLock`, not both may be used at once.
    pub fn share(&self) -> Self {
        Self { mapping: Arc::clone(&self.mapping), mutex: self.mutex }
    }

    /// What the allocator has to hand out, and what lies before.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }
}
