//! Mistakes put in on purpose
//!
//! A campaign that finds nothing proves something only if it would find something. With `--cfg planted` the crate has
//! mistakes that are easy to make, each asleep until [`plant`] wakes it; `tests/planted.rs` says which campaign finds
//! which. Without that flag there is nothing of this in the crate, and it is never given outside of the tests.
//!
//! A process that is forked has the mistake of its parent.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

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
    /// A commit is a store like any other, which may be moved before those that stand in front of it.
    CommitWithoutFence,
    /// What a dead holder left behind a lock is handed out as a value.
    OrphanAsWhole,
    /// The length of an object is loaded once more after it has been checked.
    LengthAgain,
    /// An offset in the heap is not checked.
    UncheckedOffset,
    /// A walk along the chain of blocks goes on where a block has no size, and stays there.
    WalkOnTheSpot,
    /// A question that fails is taken for the answer that the process is dead.
    FailureIsDeath,
    /// What has been mapped stays mapped when the next step fails.
    MappingLeftOnError,
    /// Nobody looks whether a memfd could be sealed.
    SealUnchecked,
    /// Zeros take the place of memory that has gone, and the attachment is not told.
    SeverQuietly,
    /// Where an object ends is not looked at when its address is made.
    ObjectWithoutEnd,
    /// The stack of condemned blocks is followed for as long as it goes on.
    WalkWithoutBound,
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

/// The words from this index on, whether there are any or not, if that is the mistake to be made.
#[allow(unsafe_code)]
pub(crate) fn unchecked<const N: usize>(words: &[AtomicU64], index: usize) -> Option<&[AtomicU64; N]> {
    // SAFETY: none, that is the mistake. Whatever is there is read as an atomic.
    is_planted(Mistake::UncheckedOffset).then(|| unsafe { &*words.as_ptr().wrapping_add(index).cast() })
}

/// Stores that a commit without a fence may be moved before: those since the last access that keeps the order.
///
/// The compiler of today does not make use of that, so here it is done by hand. Serves processes of one thread.
#[derive(Debug)]
pub(crate) struct Late {
    places: [AtomicUsize; Self::MOST],
    values: [AtomicU64; Self::MOST],
    count: AtomicUsize,
}

pub(crate) static LATE: Late = Late {
    places: [const { AtomicUsize::new(0) }; Late::MOST],
    values: [const { AtomicU64::new(0) }; Late::MOST],
    count: AtomicUsize::new(0),
};

impl Late {
    const MOST: usize = 16;

    /// Puts a store off; gives whether that was possible.
    pub(crate) fn put_off(&self, word: &AtomicU64, value: u64) -> bool {
        if !is_planted(Mistake::CommitWithoutFence) {
            return false;
        }
        if self.count.load(Ordering::Relaxed) == Self::MOST {
            self.catch_up(|place, value| place.store(value, Ordering::Relaxed));
        }
        let index = self.count.fetch_add(1, Ordering::Relaxed);
        let (Some(place), Some(late)) = (self.places.get(index), self.values.get(index)) else {
            return false;
        };
        place.store(core::ptr::from_ref(word) as usize, Ordering::Relaxed);
        late.store(value, Ordering::Relaxed);
        true
    }

    /// What has been put off for this word.
    pub(crate) fn value(&self, word: &AtomicU64) -> Option<u64> {
        let count = self.count.load(Ordering::Relaxed);
        let places = self.places.iter().zip(&self.values).take(count);
        let is_here =
            |place: &AtomicUsize| place.load(Ordering::Relaxed) == core::ptr::from_ref(word) as usize;
        places.filter(|(place, _)| is_here(place)).last().map(|(_, value)| value.load(Ordering::Relaxed))
    }

    /// Makes all stores that have been put off.
    #[allow(unsafe_code)]
    pub(crate) fn catch_up(&self, store: impl Fn(&AtomicU64, u64)) {
        let count = self.count.swap(0, Ordering::Relaxed);
        for (place, value) in self.places.iter().zip(&self.values).take(count) {
            let place = place.load(Ordering::Relaxed) as *const AtomicU64;
            // SAFETY: a word of the heap, mapped as long as the operation goes on that has put its store off.
            store(unsafe { &*place }, value.load(Ordering::Relaxed));
        }
    }
}
