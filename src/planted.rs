//! Mistakes put in on purpose
//!
//! A campaign that finds nothing proves something only if it would find something. With `--cfg planted` the crate has
//! mistakes that are easy to make, each asleep until [`plant`] wakes it; `tests/planted.rs` says which campaign finds
//! which. Without that flag there is nothing of this in the crate, and it is never given outside of the tests.
//!
//! A process that is forked has the mistake of its parent.

use core::sync::atomic::{AtomicU32, Ordering};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Mistake {
    /// A lock is taken by one word, and who has it is said by another.
    LockInTwoWords = 1,
    /// The size of a block is committed before the header of what is left of it.
    SizeBeforeRemainder,
    /// A claim does not look at the serial of the handle.
    ClaimAnySerial,
    /// The last reference gives the object up, and then takes it to destroy it.
    ReleaseInTwoSteps,
    /// A sweep gives the slot of the dead back before their objects.
    SlotBeforeObjects,
    /// A commit does not keep later stores behind it.
    CommitWithoutFence,
    /// What a dead holder left behind a lock is handed out as a value.
    OrphanAsWhole,
}

static PLANTED: AtomicU32 = AtomicU32::new(0);

/// Makes the crate commit this mistake from now on, in this process.
pub fn plant(mistake: Mistake) {
    PLANTED.store(mistake as u32, Ordering::SeqCst);
}

/// Whether this is the mistake to be made.
pub(crate) fn is_planted(mistake: Mistake) -> bool {
    PLANTED.load(Ordering::Relaxed) == mistake as u32
}
