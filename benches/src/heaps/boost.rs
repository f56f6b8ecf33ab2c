//! Boost.Interprocess: `managed_shared_memory`
//!
//! Best fit by a red-black tree, called through C functions (`boost/heap.cpp`), with the default process-shared mutex or
//! without any. A forked process has the segment at the same address.

use super::{Heap, Place, address, place_at, value_at};
use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident, $has_mutex:literal, $create:ident, $destroy:ident, $allocate:ident, $free:ident, $is_sound:ident) => {
        // SAFETY: as `boost/heap.cpp` declares them.
        unsafe extern "C" {
            fn $create(name: *const c_char, len: usize) -> *mut c_void;
            fn $destroy(segment: *mut c_void);
            fn $allocate(segment: *mut c_void, len: usize) -> *mut c_void;
            fn $free(segment: *mut c_void, object: *mut c_void);
            fn $is_sound(segment: *mut c_void) -> bool;
        }

        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl Functions for $name {
            const HAS_MUTEX: bool = $has_mutex;
            const CREATE: unsafe extern "C" fn(*const c_char, usize) -> *mut c_void = $create;
            const DESTROY: unsafe extern "C" fn(*mut c_void) = $destroy;
            const ALLOCATE: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void = $allocate;
            const FREE: unsafe extern "C" fn(*mut c_void, *mut c_void) = $free;
            const IS_SOUND: unsafe extern "C" fn(*mut c_void) -> bool = $is_sound;
        }
    };
}

/// What there is of one kind of segment.
pub trait Functions: Send + 'static {
    const HAS_MUTEX: bool;
    const CREATE: unsafe extern "C" fn(*const c_char, usize) -> *mut c_void;
    const DESTROY: unsafe extern "C" fn(*mut c_void);
    const ALLOCATE: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
    const FREE: unsafe extern "C" fn(*mut c_void, *mut c_void);
    const IS_SOUND: unsafe extern "C" fn(*mut c_void) -> bool;
}

functions!(
    /// As it comes.
    Locked,
    true,
    boost_locked_create,
    boost_locked_destroy,
    boost_locked_allocate,
    boost_locked_free,
    boost_locked_is_sound
);
functions!(
    /// With `null_mutex_family`.
    Bare,
    false,
    boost_bare_create,
    boost_bare_destroy,
    boost_bare_allocate,
    boost_bare_free,
    boost_bare_is_sound
);

#[derive(Debug)]
struct Segment<F: Functions> {
    segment: *mut c_void,
    functions: PhantomData<F>,
}

// SAFETY: it belongs to no thread.
unsafe impl<F: Functions> Send for Segment<F> {}
// SAFETY: it has a mutex, or no more than one user: see `for_thread`.
unsafe impl<F: Functions> Sync for Segment<F> {}

impl<F: Functions> Drop for Segment<F> {
    fn drop(&mut self) {
        // SAFETY: created by `Boost::new`, and nobody uses it any more.
        unsafe { F::DESTROY(self.segment) };
    }
}

/// A segment without a name.
#[derive(Debug)]
pub struct Boost<F: Functions>(Arc<Segment<F>>);

impl<F: Functions> Boost<F> {
    /// Of `len` bytes.
    pub fn new(len: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("shmem-bind-bench-{}-boost-{number}", process::id())).unwrap();
        // SAFETY: a string with an end.
        let segment = unsafe { F::CREATE(name.as_ptr(), len) };
        assert!(!segment.is_null(), "Boost makes no segment");
        Self(Arc::new(Segment { segment, functions: PhantomData }))
    }
}

impl<F: Functions> Heap for Boost<F> {
    #[inline]
    fn allocate(&self, len: usize, value: u64) -> Option<Place> {
        // SAFETY: a segment that is there.
        let object = unsafe { F::ALLOCATE(self.0.segment, len) };
        // SAFETY: Boost gives at least 8 bytes, aligned to 16, or null.
        unsafe { place_at(object.cast(), value) }
    }

    fn read(&self, place: Place) -> u64 {
        // SAFETY: a place is where `allocate` has written.
        unsafe { value_at(place) }
    }

    #[inline]
    fn free(&self, place: Place, _len: usize) {
        // SAFETY: allocated in this segment, and given back once.
        unsafe { F::FREE(self.0.segment, address(place).cast()) };
    }

    fn check(&self) {
        // SAFETY: a segment that is there.
        assert!(unsafe { F::IS_SOUND(self.0.segment) }, "Boost says that its segment is not sound");
    }

    fn for_process(&self, _number: u64) -> Self {
        self.for_thread()
    }

    fn for_thread(&self) -> Self {
        assert!(F::HAS_MUTEX, "without a mutex there is one user");
        Self(Arc::clone(&self.0))
    }
}
