//! What an uncontended lock costs beside the robust mutex of POSIX, which processes share too
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench mutex [-- ROUNDS]`

use shmem_bind::sync::Mutex;
use shmem_bind::{Arena, Builder, ShmemConf, Tlsf};
use shmem_bind_benches::{Contestant, compare};
use std::cell::UnsafeCell;
use std::hint::black_box;

/// A robust, process-shared mutex of POSIX and a number.
struct Posix {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<u64>,
}

impl Posix {
    /// On the heap, where it stays; it costs there what it costs in a segment.
    fn new() -> Box<Self> {
        // SAFETY: both are bytes of which zeros are a value.
        let posix: Box<Self> = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: zeros are a place for attributes.
        let mut attributes: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
        // SAFETY: a place of its own.
        assert_eq!(unsafe { libc::pthread_mutexattr_init(&raw mut attributes) }, 0);
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: initialised above.
        assert_eq!(unsafe { libc::pthread_mutexattr_setpshared(&raw mut attributes, shared) }, 0);
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutexattr_setrobust(&raw mut attributes, robust) }, 0);
        // SAFETY: a place that does not move, and attributes that are initialised.
        assert_eq!(unsafe { libc::pthread_mutex_init(posix.mutex.get(), &raw const attributes) }, 0);
        posix
    }

    fn add_one(&self) {
        // SAFETY: initialised, and it has not moved.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.mutex.get()) }, 0);
        // SAFETY: under the lock.
        unsafe { *self.value.get() += 1 };
        // SAFETY: locked above.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.mutex.get()) }, 0);
    }
}

fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(101);
    let memory = || -> Arena<Tlsf> { Builder::memfd().create(64 * 1024).unwrap().0.arena().unwrap() };
    let other = |_: usize| -> ShmemConf { Builder::memfd().create(1).unwrap().0 };

    let first = memory();
    let in_first = first.alloc(Mutex::new(0_u64)).unwrap();
    // Seven attachments are in the first page of a process's records, and these are behind them.
    let _others: Vec<_> = (0..10).map(other).collect();
    let twelfth = memory();
    let in_twelfth = twelfth.alloc(Mutex::new(0_u64)).unwrap();
    let (posix, of_std) = (Posix::new(), Box::new(std::sync::Mutex::new(0_u64)));

    compare(
        "lock, add one, unlock, uncontended",
        rounds,
        vec![
            Contestant::new("pthread, robust and shared", || black_box(&posix).add_one()),
            Contestant::new("std::sync::Mutex", || *black_box(&of_std).lock().unwrap() += 1),
            Contestant::new("shmem-bind", || *black_box(&in_first).lock().unwrap() += 1),
            Contestant::new("shmem-bind, the twelfth segment", || {
                *black_box(&in_twelfth).lock().unwrap() += 1
            }),
        ],
    );
}
