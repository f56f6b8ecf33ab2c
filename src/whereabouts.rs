//! Where an attachment is mapped
//!
//! A segment says in a place of its own, outside of the mapping, from where to where it is mapped: from before its first
//! byte is touched until after its last one was. So an address can be looked up by a lock, which knows only where it lies, and
//! by a signal handler, which knows only where the thread has faulted, also while a segment is being opened or left.
//!
//! Whoever looks may meet places that other threads are just filling in or giving up; that of the address asked for is never
//! among them, for whoever asks uses the mapping. A version tells: odd while the addresses stand, and whoever
//! reads it changed has read the addresses of some other mapping.
//!
//! # Severing
//! Memory may go away under a mapping: somebody makes the file shorter, or there is none left for a page that was not
//! reserved. The access is a `SIGBUS` then, and the handler may have the rest of the mapping replaced by private zeros.
//! The whole payload is replaced, and not only what is gone: else this process would go on to write what commits where
//! others see it, after it has written what is committed where nobody does. So in the payload it leaves what it would leave if it had
//! been killed at the fault. The header stays shared, if it can: by it the attachment leaves as it should, and with it goes the
//! lock that says that somebody is here. What stands there and commits what was written to the payload (the heap's lock, say)
//! is not changed any more; see [`Heap::is_severed`](crate::heap::Heap::is_severed).
//!
//! That the mapping is severed is said before the first zero can be seen. It is not taken back before the next mapping is
//! made.
//!
//! # Safety
//! Replaces part of a mapping, which its caller answers for.
#![allow(unsafe_code)]

use crate::header::HEADER_LEN;
use crate::sys::shm::{self, Access, Mapping};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// How long a page may be on some machine, in bytes: a power of two.
const PAGE_LENGTHS: [usize; 7] = [1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 18];

/// From where to where something is mapped, and how.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    /// Odd while it is mapped from `start` to `end`.
    version: AtomicU64,
    start: AtomicUsize,
    end: AtomicUsize,
    is_read_only: AtomicBool,
    /// Children after `fork` do not get it.
    is_excluded: AtomicBool,
    is_severed: AtomicBool,
}

impl Whereabouts {
    /// Says where `mapping` is; by its owner, who has this place for itself.
    pub(crate) fn publish(&self, mapping: &Mapping, access: Access) {
        let Range { start, end } = mapping.addresses();
        // SYNC: with `find`: whoever reads one of these reads also, after it, that the last version has ended.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.is_read_only.store(access == Access::ReadOnly, Ordering::Relaxed);
        self.is_excluded.store(false, Ordering::Relaxed);
        self.is_severed.store(false, Ordering::Relaxed);
        // SYNC: Release here, Acquire in `find`: whoever reads an odd version reads its addresses, or later ones.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Takes that back, before it is unmapped.
    pub(crate) fn unpublish(&self) {
        // Whoever gets these addresses from the kernel next gets them after `munmap`, and so after this.
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Says that children after `fork` do not get the mapping, before that is so.
    pub(crate) fn exclude_from_fork(&self) {
        self.is_excluded.store(true, Ordering::Relaxed);
    }

    /// Whether it is mapped at `address`, which is in use as long as this lasts.
    #[inline]
    pub(crate) fn contain(&self, address: usize) -> bool {
        self.find(address).is_some()
    }

    #[inline]
    fn find(&self, address: usize) -> Option<Range<usize>> {
        let version = self.version.load(Ordering::Acquire);
        if version & 1 == 0 {
            return None;
        }
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        // Changed meanwhile: it is not the one asked for, which stays.
        (range.contains(&address) && self.version.load(Ordering::Relaxed) == version).then_some(range)
    }

    /// For a new owner, of whom nothing is known yet.
    pub(crate) fn renew(&self) {
        self.is_severed.store(false, Ordering::Relaxed);
    }

    /// Whether memory has gone away under what is mapped here now, or was last.
    pub(crate) fn are_severed(&self) -> bool {
        self.is_severed.load(Ordering::SeqCst)
    }

    /// Replaces the payload that is mapped here by private zeros, and the header too if it is that which has gone, after
    /// `announce`; gives whether `address` is mapped here, and that could be done. For a signal handler.
    ///
    /// # Safety
    /// This thread has faulted at `address`, and does not go on before this returns. Whoever has references into the mapping
    /// is content that the values are zeros.
    pub(crate) unsafe fn sever(&self, address: usize, announce: impl FnOnce()) -> bool {
        let Some(Range { start, end }) = self.find(address) else { return false };
        self.is_severed.store(true, Ordering::SeqCst);
        announce();
        let access =
            if self.is_read_only.load(Ordering::Relaxed) { Access::ReadOnly } else { Access::ReadWrite };
        let is_excluded = self.is_excluded.load(Ordering::Relaxed);
        let payload = start.wrapping_add(HEADER_LEN);
        let first = if address < payload { start } else { payload };
        // The kernel refuses what is not a whole page, whatever it calls a page, and so nobody else has to be asked. Where a
        // page has the header and some of the payload, the header goes too.
        PAGE_LENGTHS.iter().any(|len| {
            let from = (first & !len.wrapping_sub(1)).max(start);
            // SAFETY: it is part of the mapping, by `find`, and stays so, since the thread that stands still here uses it; the
            // caller promises that nobody minds.
            unsafe { shm::blank(from..end, access, is_excluded) }.is_ok()
        })
    }
}
