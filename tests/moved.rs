//! Locks as memory: zeros that are new ones, and those that are moved from one segment to another
#![allow(missing_docs, clippy::unwrap_used)]

use shmem_bind::sync::{Condvar, Event, LockFailure, Mutex, Once, OnceCell, RwLock, Semaphore};
use shmem_bind::{Arena, Builder, FromZeros, Handle, ShmemBox, Tlsf};
use std::mem::forget;
use std::num::NonZero;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

fn arena() -> Arena<Tlsf> {
    Builder::memfd().create(64 * 1024).unwrap().0.arena().unwrap()
}

/// In memory of which another use was made before.
fn zeroed<T: FromZeros>(arena: &Arena<Tlsf>) -> ShmemBox<T> {
    drop(arena.alloc([!0_u8; 1024]).unwrap());
    arena.alloc_zeroed().unwrap()
}

#[test]
fn zeros_are_all_of_them_as_new() {
    let arena = arena();
    let lock = zeroed::<RwLock<[u32; 3], 5>>(&arena);
    assert_eq!(*lock.try_read().unwrap(), [0; 3]);
    lock.try_write().unwrap()[1] = 1;
    assert_eq!(*lock.try_read().unwrap(), [0, 1, 0]);

    let semaphore = zeroed::<Semaphore<3>>(&arena);
    assert_eq!(semaphore.available(), 3);
    let permits = [(); 3].map(|()| semaphore.try_acquire().unwrap());
    assert_eq!(semaphore.try_acquire().unwrap_err(), LockFailure::Busy);
    drop(permits);

    // No value is needed of which zeros are one.
    let cell = zeroed::<OnceCell<NonZero<u32>>>(&arena);
    assert_eq!(cell.get(), None);
    assert_eq!(cell.get_or_init(|| NonZero::<u32>::MAX), Ok(&NonZero::<u32>::MAX));

    let once = zeroed::<Once>(&arena);
    assert!(!once.is_completed());
    once.call_once(|| ()).unwrap();
    assert!(once.is_completed());

    let (mutex, condvar) = (zeroed::<Mutex<u32>>(&arena), zeroed::<Condvar>(&arena));
    let (guard, result) = condvar.wait_for(mutex.try_lock().unwrap(), Duration::from_millis(1)).unwrap();
    assert!(*guard == 0 && result.timed_out());

    let event = zeroed::<Event>(&arena);
    let since = event.listen();
    event.notify_one();
    assert!(event.wait(since, Duration::ZERO).unwrap());

    let handle = zeroed::<Handle<u32>>(&arena);
    assert!(handle.is_nothing() && *handle == Handle::NOTHING);
    assert!(arena.claim(*handle).is_err());
}

/// Another thread, and so not one that has it already.
fn elsewhere<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(f).join().unwrap())
}

#[test]
fn what_was_left_locked_is_made_anew_around_its_value() {
    let (one, other) = (arena(), arena());
    let mut mutex = one.alloc(Mutex::new(5_u32)).unwrap();
    *mutex.get_mut().unwrap() += 1;
    forget(mutex.lock().unwrap());
    assert_eq!(mutex.get_mut(), None);
    let mut lock = one.alloc(<RwLock<u32>>::new(7)).unwrap();
    *lock.get_mut().unwrap() += 1;
    forget(lock.write().unwrap());
    assert_eq!(lock.get_mut(), None);

    let left = ShmemBox::into_inner(mutex).unwrap().into_inner().unwrap_err();
    // SAFETY: any bytes are a number.
    let mutex = other.alloc(Mutex::new(unsafe { left.into_inner_unchecked() })).unwrap();
    let left = ShmemBox::into_inner(lock).unwrap().into_inner().unwrap_err();
    // SAFETY: as above.
    let lock = other.alloc(<RwLock<u32>>::new(unsafe { left.into_inner_unchecked() })).unwrap();
    assert_eq!(elsewhere(|| *mutex.try_lock().unwrap()), 6);
    assert_eq!(elsewhere(|| *lock.try_write().unwrap()), 8);
}

#[test]
fn readers_that_forgot_their_guards_keep_nobody_from_the_value() {
    let (one, other) = (arena(), arena());
    let mut lock = one.alloc(<RwLock<u32>>::new(7)).unwrap();
    forget(lock.read().unwrap());
    *lock.get_mut().unwrap() += 1;
    let value = ShmemBox::into_inner(lock).unwrap().into_inner().unwrap();
    let lock = other.alloc(<RwLock<u32>>::new(value)).unwrap();
    assert_eq!(elsewhere(|| *lock.try_write().unwrap()), 8);
}

#[test]
fn what_is_taken_out_is_destroyed_by_whoever_has_taken_it() {
    let value = Rc::new(());
    // SAFETY: nobody has locked it.
    let taken = unsafe { Mutex::new(value.clone()).into_inner_unchecked() };
    assert_eq!(Rc::strong_count(&value), 2);
    drop(taken);
    // SAFETY: as above.
    let taken = unsafe { <RwLock<_>>::new(value.clone()).into_inner_unchecked() };
    assert_eq!(Rc::strong_count(&value), 2);
    drop(taken);
    assert_eq!(Rc::strong_count(&value), 1);
}
