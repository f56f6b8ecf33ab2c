//! Shared objects
//!
//! A [`ShmemArc`] counts on two levels. Which attachments hold an object is a bitmap in the state word of its block, so
//! that what the dead held is one bit to clear. How often this process holds it is a count in private memory,
//! and only its first and its last reference touch the bit: cloning and dropping cost what they cost with
//! [`std::sync::Arc`](https://doc.rust-lang.org/std/sync/struct.Arc.html).
//!
//! # The private count
//!
//! | count | bit | next |
//! |---|---|---|
//! | 0 | clear, or about to be cleared by a thread that has the stripe | 1, with the stripe, by one that finds it |
//! | 1 | set | 2; with the stripe 0 |
//! | n | set | n ± 1, without anything else |
//!
//! Between 0 and 1 the count changes only by a thread that has the stripe of the object, a lock within this process, so
//! that the bit is not set before another thread has cleared it. Whoever clears it has set the count to 0 before:
//! once the bit is clear, the block may be freed, and the count be that of another object.
//!
//! # Safety
//! Makes references to shared values. While a count is above 0 the block's bit is set, so it is not freed; and the type
//! is `Sync`, which serves other processes like other threads.
#![allow(unsafe_code)]

use crate::attachment::{Attached, Attachment};
use crate::boxed::{Place, ShmemBox};
use crate::error::HeapError;
use crate::object::{BlockState, Event, Kind, Refusal};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::segment::ShmemConf;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// A reference to a value in shared memory that others have too, in this process and in others.
///
/// Dereferences to the value, clones like an `Arc`, and is two words for a sized `T`. The last one to go, in whichever
/// process, runs the destructor and frees the memory; unless the object has a [name](crate::Arena::publish), which
/// keeps it like another reference. If a process is killed, its references are given back; if these were the last,
/// the memory is, without the destructor.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemArc, ShmemBox, ShmemError, Tlsf};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let counter: ShmemArc<AtomicU64> = ShmemBox::into_arc(arena.alloc(AtomicU64::new(1))?);
/// let clone = counter.clone();
/// std::thread::spawn(move || clone.fetch_add(1, Ordering::Relaxed)).join().unwrap();
/// assert_eq!(counter.load(Ordering::Relaxed), 2);
/// assert_eq!(ShmemArc::holders(&counter), 1);
/// # Ok(())
/// # }
/// ```
pub struct ShmemArc<T: ?Sized> {
    /// INVARIANT 1: a valid `T` in the segment that `conf` is attached to, in a block that this attachment holds, or the
    /// value of the segment; counted once for this reference.
    value: NonNull<T>,
    /// INVARIANT 2: counted in the attachment once for all references of this process to the object.
    conf: ManuallyDrop<ShmemConf>,
}

// SAFETY: like `Arc<T>`: references from several threads, of which any may be the last and destroy the value.
unsafe impl<T: Send + Sync + ?Sized> Send for ShmemArc<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync + ?Sized> Sync for ShmemArc<T> {}

/// The private count of the object at `value`, and its place if it is one of an arena.
fn count_of(attached: &Attached, value: NonNull<u8>) -> Option<&AtomicU64> {
    match attached.region.block_of(value) {
        Some(block) => attached.private.count(block),
        None => Some(attached.private.root_count()),
    }
}

impl<T: ?Sized> ShmemBox<T> {
    /// Shares the value with others: by clones, and, if it is an object of an arena, by a
    /// [name](crate::Arena::publish).
    pub fn into_arc(this: Self) -> ShmemArc<T>
    where
        T: Sync,
    {
        let (value, conf) = this.into_parts();
        if let Some(attached) = conf.0.get() {
            if let Some(place) = Place::of(attached, value.cast()) {
                // Fails only if the block has been damaged; so will giving it back then, which is counted.
                place.exports().set(place.block);
                if let Ok(slot) = place.heap.own_slot() {
                    let _: Result<_, HeapError> = place.heap.change(place.block, Event::Share(slot));
                }
            }
            // It was a box, so nobody else in this process counts it, unless damaged words have made somebody hand the block
            // out twice. Then there are two to count, and the attachment has to outlast both: it stays.
            let count = count_of(attached, value.cast());
            if count.is_some_and(|count| count.fetch_add(1, Ordering::AcqRel) != 0) {
                core::mem::forget(conf.0.clone());
            }
        }
        ShmemArc { value, conf: ManuallyDrop::new(conf) }
    }
}

impl<T: Sync + ?Sized> From<ShmemBox<T>> for ShmemArc<T> {
    fn from(value: ShmemBox<T>) -> Self {
        ShmemBox::into_arc(value)
    }
}

impl<T: ?Sized> ShmemArc<T> {
    /// A reference to an object that has just been [held](hold).
    ///
    /// # Safety
    /// `value` is the object that was held, a valid `T`, and `hold` has given what `is_first` says; `attachment` is the
    /// one that it was held for.
    pub(crate) unsafe fn from_held(value: NonNull<T>, attachment: &Attachment, is_first: bool) -> Self {
        let conf = if is_first {
            attachment.clone()
        } else {
            // SAFETY: counted by the first of this process, and dropped by the last.
            unsafe { attachment.uncounted() }
        };
        Self { value, conf: ManuallyDrop::new(ShmemConf(conf)) }
    }

    fn count(&self) -> Option<&AtomicU64> {
        count_of(self.conf.0.get()?, self.value.cast())
    }

    /// The handle of the segment: its name, size, owner and so on.
    #[must_use]
    pub fn conf(this: &Self) -> &ShmemConf {
        &this.conf
    }

    /// Where the object lies; `None` if it is no object of an arena, or inherited by `fork`.
    pub(crate) fn place(this: &Self) -> Option<Place<'_>> {
        Place::of(this.conf.0.get()?, this.value.cast())
    }

    fn state(&self) -> Option<BlockState> {
        let place = Self::place(self)?;
        place.heap.load(place.block).ok().map(BlockState::from_bits)
    }

    /// Whether both lead to the same object.
    #[must_use]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        core::ptr::addr_eq(this.value.as_ptr(), other.value.as_ptr())
    }

    /// Number of attachments that hold the object, this one included, each counted once however many clones it has;
    /// those of the dead count until that is noticed.
    #[must_use]
    pub fn holders(this: &Self) -> u32 {
        match this.state() {
            Some(state) => state.holders(),
            None => this.conf.attachment_count(),
        }
    }

    /// Whether the object has a name.
    #[must_use]
    pub fn is_published(this: &Self) -> bool {
        this.state().is_some_and(BlockState::is_published)
    }

    /// Whether nobody else has a reference, nor can get one by a name.
    fn is_alone(&self) -> bool {
        // The value of a segment may be boxed by any other attachment.
        let (Some(place), Some(count)) = (Self::place(self), self.count()) else { return false };
        let Ok(slot) = place.heap.own_slot() else { return false };
        // While the count is 0 and the stripe taken, nobody in this process finds the object, clones a reference or
        // publishes it: what the state says then stays so for as long as this reference is borrowed.
        let _stripe = place.attached.private.stripe(place.block);
        // SYNC: Acquire, paired with the Release of those who dropped theirs.
        if count.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        let state = place.heap.load(place.block).map(BlockState::from_bits);
        count.store(1, Ordering::Release);
        state == Ok(BlockState::shared(slot))
    }

    /// The value, to be changed, if nobody else has a reference and it has no name.
    #[must_use]
    pub fn get_mut(this: &mut Self) -> Option<&mut T> {
        // While this reference is borrowed, it is the only one, and no name leads to the object.
        // SAFETY: by invariant 1, and nobody else uses the value.
        if this.is_alone() { Some(unsafe { this.value.as_mut() }) } else { None }
    }

    /// Makes the value exclusive again, if nobody else has a reference and it has no name.
    ///
    /// # Errors
    /// The reference, as it was.
    pub fn into_box(this: Self) -> Result<ShmemBox<T>, Self> {
        if !this.is_alone() {
            return Err(this);
        }
        if this.give_up() != Some(Given::Last) {
            // The block has been damaged just now.
            if let Some(count) = this.count() {
                count.store(1, Ordering::Release);
            }
            return Err(this);
        }
        let mut this = ManuallyDrop::new(this);
        // SAFETY: `this` is not used again, nor dropped.
        let conf = unsafe { ManuallyDrop::take(&mut this.conf) };
        // SAFETY: by invariant 1, and the state word has made the object exclusive to this attachment.
        Ok(unsafe { ShmemBox::from_parts(this.value, conf) })
    }

    /// Gives this reference up; `None` if this process has others.
    fn give_up(&self) -> Option<Given> {
        let attached = self.conf.0.get()?;
        let count = count_of(attached, self.value.cast())?;
        let drop_one = |count: u64| if count > 1 { count.checked_sub(1) } else { None };
        // SYNC: Release by all who drop theirs, Acquire by the last: it sees what was done through the others.
        while count.fetch_update(Ordering::Release, Ordering::Relaxed, drop_one).is_err() {
            let Some(place) = Place::of(attached, self.value.cast()) else {
                // The value of a segment: nobody finds it anew, so this is the last for good.
                let is_last = count.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_ok();
                return is_last.then_some(Given::Last);
            };
            let _stripe = attached.private.stripe(place.block);
            if count.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
                // Found once more meanwhile. (Or damaged, which private memory is not.)
                continue;
            }
            let slot = place.heap.own_slot().ok()?;
            #[cfg(planted)]
            if is_planted(Mistake::ReleaseInTwoSteps) {
                // Without the last bit, and then the slot of the one who is to destroy it.
                let nobody = BlockState::from_bits(BlockState::shared(slot).bits() & 0xff);
                if place.heap.replace_state(place.block, BlockState::shared(slot), nobody) == Ok(true) {
                    place.heap.replace_state(place.block, nobody, BlockState::exclusive(slot)).ok()?;
                    place.exports().clear(place.block);
                    return Some(Given::Last);
                }
            }
            let released = place.heap.change(place.block, Event::Release(slot));
            let Ok(Ok((_, Some(next)))) = released else { return Some(Given::Others) };
            if !matches!(next.kind(), Ok(Kind::Exclusive(_))) {
                return Some(Given::Others);
            }
            place.exports().clear(place.block);
            return Some(Given::Last);
        }
        None
    }
}

/// What became of an object when the last reference of this process was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Others have it, or a name leads to it, or its block has been damaged.
    Others,
    /// It is exclusive to this attachment now.
    Last,
}

/// Counts one more reference of this process to the published object at `place`; gives whether it is the first. The
/// caller holds the directory's lock.
pub(crate) fn hold(place: &Place<'_>) -> Result<Result<bool, Refusal>, HeapError> {
    let private = &place.attached.private;
    let count = private.count(place.block).ok_or(HeapError::Damaged { at: place.block })?;
    let more = |count: u64| if count == 0 { None } else { count.checked_add(1) };
    let add_one = || count.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok();
    if add_one() {
        return Ok(Ok(false));
    }
    let _stripe = private.stripe(place.block);
    if add_one() {
        return Ok(Ok(false));
    }
    let slot = place.heap.own_slot()?;
    let held = place.heap.change(place.block, Event::Hold(slot))?;
    Ok(held.map(|_| {
        count.store(1, Ordering::Release);
        true
    }))
}

impl<T: ?Sized> Clone for ShmemArc<T> {
    #[inline]
    fn clone(&self) -> Self {
        if let Some(count) = self.count() {
            // At a billion clones a second it takes 580 years to overflow.
            count.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: counted by the first of this process, and dropped by the last.
        let conf = unsafe { self.conf.0.uncounted() };
        Self { value: self.value, conf: ManuallyDrop::new(ShmemConf(conf)) }
    }
}

impl<T: ?Sized> Drop for ShmemArc<T> {
    #[inline]
    fn drop(&mut self) {
        let Some(given) = self.give_up() else { return };
        // SAFETY: this was the last reference of this process, and is not used again.
        let conf = unsafe { ManuallyDrop::take(&mut self.conf) };
        if given == Given::Last {
            // SAFETY: by invariant 1, and the last release of all has made it exclusive to this attachment.
            drop(unsafe { ShmemBox::from_parts(self.value, conf) });
        }
    }
}

impl<T: Sync + ?Sized> Deref for ShmemArc<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by invariant 1; nobody has a mutable reference, for it is shared.
        unsafe { self.value.as_ref() }
    }
}

impl<T: fmt::Debug + Sync + ?Sized> fmt::Debug for ShmemArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmemArc").field("value", &&**self).field("holders", &Self::holders(self)).finish()
    }
}
