//! What a lock for readers and writers costs, and a semaphore, with nobody else there
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench rwlock [-- ROUNDS FILTER]`
//!
//! - **Read**: lock to read, look, unlock, in one thread; and once more while the thread reads already.
//! - **Write**: lock to write, add one, unlock.
//! - **Permits**: take one and give it back.
//!
//! Beside the lock of POSIX that processes share, which is not robust, and those of std and of parking_lot, which are neither. Of semaphores,
//! beside that of POSIX that processes share, which loses the permits of the dead.

use shmem_bind::sync::{RwLock, Semaphore};
use shmem_bind::{Arena, Builder, Tlsf};
use shmem_bind_benches::{Comparison, Report, Shared};
use std::cell::UnsafeCell;
use std::hint::black_box;
use std::mem;

const POSIX: &str = "pthread, shared";
const STD: &str = "std::sync::RwLock";
const PARKING_LOT: &str = "parking_lot::RwLock";
const OURS: &str = "shmem-bind";

/// A process-shared lock of POSIX and a number.
struct Posix {
    lock: UnsafeCell<libc::pthread_rwlock_t>,
    value: UnsafeCell<u64>,
}

impl Posix {
    /// In place.
    fn init(&self) {
        // SAFETY: zeros are a place for attributes.
        let mut attributes: libc::pthread_rwlockattr_t = unsafe { mem::zeroed() };
        // SAFETY: a place of its own.
        assert_eq!(unsafe { libc::pthread_rwlockattr_init(&raw mut attributes) }, 0);
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: initialised above.
        assert_eq!(unsafe { libc::pthread_rwlockattr_setpshared(&raw mut attributes, shared) }, 0);
        // SAFETY: a place that does not move, and attributes that are initialised.
        assert_eq!(unsafe { libc::pthread_rwlock_init(self.lock.get(), &raw const attributes) }, 0);
    }

    #[inline]
    fn read(&self) -> u64 {
        // SAFETY: initialised, and it has not moved.
        assert_eq!(unsafe { libc::pthread_rwlock_rdlock(self.lock.get()) }, 0);
        // SAFETY: under the lock.
        let number = unsafe { *self.value.get() };
        self.unlock();
        number
    }

    #[inline]
    fn add_one(&self) {
        // SAFETY: initialised, and it has not moved.
        assert_eq!(unsafe { libc::pthread_rwlock_wrlock(self.lock.get()) }, 0);
        // SAFETY: under the lock.
        unsafe { *self.value.get() += 1 };
        self.unlock();
    }

    #[inline]
    fn unlock(&self) {
        // SAFETY: locked by the caller.
        assert_eq!(unsafe { libc::pthread_rwlock_unlock(self.lock.get()) }, 0);
    }
}

/// A semaphore of POSIX.
struct PosixSemaphore(UnsafeCell<libc::sem_t>);

impl PosixSemaphore {
    #[inline]
    fn take_and_give_back(&self) {
        // SAFETY: initialised, and it has not moved.
        assert_eq!(unsafe { libc::sem_wait(self.0.get()) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::sem_post(self.0.get()) }, 0);
    }
}

fn main() {
    let mut report = Report::new("rwlock", 101);
    let arena: Arena<Tlsf> = Builder::memfd().create(64 * 1024).unwrap().0.arena().unwrap();
    let ours = arena.alloc(RwLock::new(0_u64)).unwrap();
    let of_std = Box::new(std::sync::RwLock::new(0_u64));
    let of_parking_lot = Box::new(parking_lot::RwLock::new(0_u64));
    // SAFETY: bytes of which zeros are a value, and used under the lock.
    let posix = unsafe { Shared::<Posix>::zeros() };
    posix.init();

    report.compare(
        Comparison::new("read and unlock, uncontended")
            .with(POSIX, || black_box(&*posix).read())
            .with(STD, || *black_box(&of_std).read().unwrap())
            .with(PARKING_LOT, || *black_box(&of_parking_lot).read())
            .with(OURS, || *black_box(&*ours).read().unwrap())
            .goal(OURS, 1.0, &[POSIX])
            .counted(),
    );
    {
        let _reading = ours.read().unwrap();
        report.compare(
            Comparison::new("read and unlock, while the thread reads already")
                .with(OURS, || *black_box(&*ours).read().unwrap())
                .counted(),
        );
    }
    report.compare(
        Comparison::new("write and unlock, uncontended")
            .with(POSIX, || black_box(&*posix).add_one())
            .with(STD, || *black_box(&of_std).write().unwrap() += 1)
            .with(PARKING_LOT, || *black_box(&of_parking_lot).write() += 1)
            .with(OURS, || *black_box(&*ours).write().unwrap() += 1)
            .counted(),
    );

    let permits = arena.alloc(Semaphore::<4>::new()).unwrap();
    // SAFETY: zeros are a place for a semaphore.
    let of_posix = unsafe { Shared::<PosixSemaphore>::zeros() };
    // SAFETY: a place that does not move; shared by processes, with four permits.
    assert_eq!(unsafe { libc::sem_init(of_posix.0.get(), 1, 4) }, 0);
    report.compare(
        Comparison::new("take a permit and give it back, uncontended")
            .with("sem_wait and sem_post", || black_box(&*of_posix).take_and_give_back())
            .with(OURS, || drop(black_box(&*permits).acquire().unwrap()))
            .counted(),
    );
    report.finish();
}
