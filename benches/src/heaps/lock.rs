//! A state in shared memory behind a spin lock, or behind none

use super::Mapping;
use lock_api::{GuardNoSend, Mutex, MutexGuard, RawMutex};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

pub type SpinLock = spinning_top::RawSpinlock;

/// A lock, or what stands in its place.
pub trait Lock: RawMutex + 'static {
    /// Whether several may use what is behind it.
    const KEEPS_OUT: bool;
}

impl Lock for SpinLock {
    const KEEPS_OUT: bool = true;
}

impl Lock for NoLock {
    const KEEPS_OUT: bool = false;
}

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

// SAFETY: it is memory, which belongs to no thread. Others have the same only by `share`, which wants a lock that keeps
// them out.
unsafe impl<L, T: Send> Send for Guarded<L, T> {}

impl<L: Lock, T> Guarded<L, T> {
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

    /// The same for another one.
    pub fn share(&self) -> Self {
        assert!(L::KEEPS_OUT, "without a lock there is one user");
        Self { mapping: Arc::clone(&self.mapping), mutex: self.mutex }
    }
}
