//! A mutex around two numbers that are equal whenever nobody is changing them

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

use shmem_bind::sync::{Mutex, MutexGuard};
use shmem_bind::{AnyBitPattern, Arena, Builder, ShmemArc, Tlsf, shareable};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// Far more than is ever waited for, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(50);

shareable! {
    /// Both are the same whenever nobody is changing them.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    #[repr(C)]
    pub struct Pair {
        pub first: u64,
        pub second: u64,
    }
}

// SAFETY: two numbers.
unsafe impl AnyBitPattern for Pair {}

impl Pair {
    pub const fn of(number: u64) -> Self {
        Self { first: number, second: number }
    }
}

/// An attachment, and the mutex in it.
pub struct Place {
    // Dropped first.
    pub mutex: ShmemArc<Mutex<Pair>>,
    pub arena: Arena<Tlsf>,
}

impl Place {
    pub fn open(name: &str) -> Self {
        let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
        let mutex = arena.find_or_alloc("pair", || Mutex::new(Pair::of(0))).unwrap();
        Self { mutex, arena }
    }

    pub fn lock(&self) -> MutexGuard<'_, Pair> {
        self.mutex.lock_for(PATIENCE).unwrap()
    }

    /// The lock's word.
    pub fn word(&self) -> &AtomicU32 {
        unsafe { &*(&raw const *self.mutex).cast() }
    }

    /// The word that says which thread holds it.
    pub fn thread(&self) -> &AtomicU64 {
        unsafe { &*(&raw const *self.mutex).cast::<AtomicU64>().add(1) }
    }
}
