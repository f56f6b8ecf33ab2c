//! Shared objects
//!
//! A [`ShmemArc`] counts on two levels. Which attachments hold an object is a bitmap in the state word of its block, so
//! that what the dead held is one bit to clear. How often this process holds it is a count in private memory,
//! and only its first and its last reference touch the bit: cloning and dropping cost what they cost with
//! [`std::sync::Arc`](https://doc.rust-lang.org/std/sync/struct.Arc.html).
//!
//! # The private count
//!
//! | count | bit | references | next |
//! |---|---|---|---|
//! | 0 | clear, or about to be cleared by a thread that has the stripe | none | 2, with the stripe, by one that finds it |
//! | 1 | set | one thread gives the last one up, or looks whether it is | with the stripe 0; 2 |
//! | 1 + n | set | n | 1 + n ± 1, without anything else |
//!
//! So dropping is one subtraction, and of all threads one sees that it has dropped the last. A thread that finds the
//! object meanwhile waits until it is through: otherwise there could be a second one that has dropped the last, which is too
//! late, since the block may be freed by then, and the count be that of another object. For the same reason whoever clears
//! the bit has set the count to 0 before, and has the stripe of the object, a lock within this process, so that
//! the bit is not set before it has been cleared.
//!
//! A peer that damages words of the segment can have a block handed out twice, so that two boxes become references that are
//! counted together. The count is private memory and only ever goes up and down, by one; and the attachment is counted once
//! for each count that is not 0, so that no reference outlasts the mapping.
//!
//! # Safety
//! Makes references to shared values. While a count is above 0 the block's bit is set, so it is not freed; and the type
//! is `Sync`, which serves other processes like other threads.
#![allow(unsafe_code)]

use crate::attachment::{Attached, Attachment};
use crate::boxed::{Place, ShmemBox};
use crate::error::HeapError;
use crate::heap::Heap;
use crate::object::{BlockState, Event, Kind, Refusal};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::segment::ShmemConf;
use crate::sys::clock::Deadline;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// A reference to a value in shared memory that others have too, in this process and in others.
///
/// Dereferences to the value, clones like an `Arc`, and is three words for a sized `T`. The last one to go, in whichever
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
    /// INVARIANT 2: the count for this object, in memory that stays as long as the attachment, and for ever after `fork`,
    /// when it counts nothing; or [`NOBODY`].
    count: NonNull<AtomicU64>,
    /// INVARIANT 3: counted in the attachment once for all references of this process to the object.
    conf: ManuallyDrop<ShmemConf>,
}

// SAFETY: like `Arc<T>`: references from several threads, of which any may be the last and destroy the value.
unsafe impl<T: Send + Sync + ?Sized> Send for ShmemArc<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync + ?Sized> Sync for ShmemArc<T> {}

/// The count that says that there is one reference.
const ONE: u64 = 2;
/// The count that says that one thread gives the last reference up.
const GIVING_UP: u64 = 1;

/// The count of references that are of no use, from before a `fork`.
static NOBODY: AtomicU64 = AtomicU64::new(0);

/// The private count of the object at `value`.
fn count_of(attached: &Attached, value: NonNull<u8>) -> Option<&AtomicU64> {
    match attached.region.block_of(value) {
        Some(block) => attached.private.count(block),
        None => Some(attached.private.root_count()),
    }
}

/// Counts one more reference; gives whether it is the first. `None` while a thread gives the last one up.
fn raise(count: &AtomicU64) -> Option<bool> {
    let more = |count: u64| match count {
        0 => Some(ONE),
        GIVING_UP => None,
        _ => Some(count.wrapping_add(1)),
    };
    count.fetch_update(Ordering::Release, Ordering::Relaxed, more).ok().map(|before| before == 0)
}

/// Counts one more reference, which has `attachment` counted for itself. That is needed for the first only, so it is given
/// back if there are others: however the words of a segment are damaged, an attachment is counted once for each count
/// that is not 0.
fn count_more(count: &AtomicU64, attachment: &Attachment) {
    // Waits only if a peer has made objects overlap.
    let mut deadline = Deadline::new(Duration::MAX);
    let is_first = loop {
        match raise(count) {
            Some(is_first) => break is_first,
            None => _ = deadline.wait(),
        }
    };
    if !is_first {
        // SAFETY: one of the two that are counted is given back, and the other one stays.
        drop(unsafe { attachment.uncounted() });
    }
}

impl<T: ?Sized> ShmemBox<T> {
    /// Shares the value with others: by clones, and, if it is an object of an arena, by a
    /// [name](crate::Arena::publish).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// # use std::sync::atomic::AtomicU64;
    /// let counter: ShmemArc<AtomicU64> = ShmemBox::into_arc(arena.alloc(AtomicU64::new(0))?);
    /// arena.publish("counter", &counter)?;
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use = "dropped, it takes the value along if it is the last"]
    pub fn into_arc(this: Self) -> ShmemArc<T>
    where
        T: Sync,
    {
        let (value, conf) = this.into_parts();
        let mut count = &NOBODY;
        if let Some(attached) = conf.0.get() {
            if let Some(place) = Place::of(attached, value.cast()) {
                // Fails only if the block has been damaged; so will giving it back then, which is counted.
                place.exports().set(place.block);
                if let Ok(slot) = place.heap.own_slot() {
                    let _: Result<_, HeapError> = place.heap.change(place.block, Event::Share(slot));
                }
            }
            if let Some(known) = count_of(attached, value.cast()) {
                count = known;
                // It was a box, so nobody else in this process counts it, unless a peer has made objects overlap.
                count_more(count, &conf.0);
            }
        }
        ShmemArc { value, count: NonNull::from(count), conf: ManuallyDrop::new(conf) }
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
        let count = attachment.get().and_then(|attached| count_of(attached, value.cast()));
        let count = NonNull::from(count.unwrap_or(&NOBODY));
        Self { value, count, conf: ManuallyDrop::new(ShmemConf(conf)) }
    }

    #[inline]
    fn count(&self) -> &AtomicU64 {
        // SAFETY: by invariant 2; the attachment stays as long as this reference, by invariant 3.
        unsafe { self.count.as_ref() }
    }

    /// The handle of the segment: its name, size, owner and so on.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// assert_eq!(ShmemArc::conf(&number).segment_id(), arena.conf().segment_id());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// let equal = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// assert!(ShmemArc::ptr_eq(&number, &number.clone()));
    /// assert!(number == equal && !ShmemArc::ptr_eq(&number, &equal));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        core::ptr::addr_eq(this.value.as_ptr(), other.value.as_ptr())
    }

    /// Number of attachments that hold the object, this one included, each counted once however many clones it has;
    /// those of the dead count until that is noticed.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// let clones = [number.clone(), number.clone()];
    /// assert_eq!(ShmemArc::holders(&number), 1, "this process");
    /// # drop(clones);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn holders(this: &Self) -> u32 {
        match this.state() {
            Some(state) => state.holders(),
            None => this.conf.attachment_count(),
        }
    }

    /// Whether the object has a name.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// assert!(!ShmemArc::is_published(&number));
    /// arena.publish("seven", &number)?;
    /// assert!(ShmemArc::is_published(&number));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn is_published(this: &Self) -> bool {
        this.state().is_some_and(BlockState::is_published)
    }

    /// Whether nobody else has a reference, nor can get one by a name.
    fn is_alone(&self) -> bool {
        // The value of a segment may be boxed by any other attachment.
        let Some(place) = Self::place(self) else { return false };
        let count = self.count();
        let Ok(slot) = place.heap.own_slot() else { return false };
        // With this count, nobody in this process finds the object, clones a reference or publishes it: what the state
        // says then stays so for as long as this reference is borrowed.
        // SYNC: Acquire, paired with the Release of those who dropped theirs.
        if count.compare_exchange(ONE, GIVING_UP, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        let state = place.heap.load(place.block).map(BlockState::from_bits);
        count.fetch_add(1, Ordering::Release);
        state == Ok(BlockState::shared(slot))
    }

    /// The value, to be changed, if nobody else has a reference and it has no name.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let mut number = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// *ShmemArc::get_mut(&mut number).unwrap() += 1;
    /// let clone = number.clone();
    /// assert_eq!(ShmemArc::get_mut(&mut number), None);
    /// assert_eq!(*clone, 8);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let number = ShmemBox::into_arc(arena.alloc(7_u32)?);
    /// let clone = number.clone();
    /// let number = ShmemArc::into_box(number).unwrap_err(); // not while there is another one
    /// drop(clone);
    /// let number: ShmemBox<u32> = ShmemArc::into_box(number).unwrap();
    /// assert_eq!(*number, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn into_box(this: Self) -> Result<ShmemBox<T>, Self> {
        if !this.is_alone() {
            return Err(this);
        }
        let Some(place) = Self::place(&this) else { return Err(this) };
        let count = this.count();
        if count.compare_exchange(ONE, GIVING_UP, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Err(this);
        }
        match give_up_only(place.attached, place.block, count) {
            Given::Last => {}
            // The block has been damaged just now.
            Given::Others => {
                count_more(count, &this.conf.0);
                return Err(this);
            }
        }
        let mut this = ManuallyDrop::new(this);
        // SAFETY: `this` is not used again, nor dropped.
        let conf = unsafe { ManuallyDrop::take(&mut this.conf) };
        // SAFETY: by invariant 1, and the state word has made the object exclusive to this attachment.
        Ok(unsafe { ShmemBox::from_parts(this.value, conf) })
    }

    /// Gives this reference up; `None` if this process has others.
    #[inline]
    fn give_up(&self) -> Option<Given> {
        // SYNC: Release by all who drop theirs, Acquire by the last: it sees what was done through the others.
        if self.count().fetch_sub(1, Ordering::Release) > ONE { None } else { self.give_up_last() }
    }

    #[cold]
    #[inline(never)]
    fn give_up_last(&self) -> Option<Given> {
        let attached = self.conf.0.get()?;
        let count = self.count();
        match attached.region.block_of(self.value.cast()) {
            Some(block) => Some(give_up_only(attached, block, count)),
            // The value of a segment: nobody finds it anew, so this is the last for good.
            None => {
                count.swap(0, Ordering::Acquire);
                Some(Given::Last)
            }
        }
    }
}

/// Gives the last reference of this process to the object of a block up, whose count is [`GIVING_UP`] by this thread. An
/// object whose block has been damaged is left to the others.
fn give_up_only(attached: &Attached, block: u64, count: &AtomicU64) -> Given {
    let _stripe = attached.private.stripe(block);
    count.swap(0, Ordering::Acquire);
    // Severed, it says nothing to anybody any more: others give it back.
    let Some(place) = Place::at(attached, block) else { return Given::Others };
    let Ok(slot) = place.heap.own_slot() else { return Given::Others };
    #[cfg(planted)]
    if is_planted(Mistake::ReleaseInTwoSteps) {
        // Without the last bit, and then the slot of the one who is to destroy it.
        let nobody = BlockState::from_bits(BlockState::shared(slot).bits() & 0xff);
        if place.heap.replace_state(place.block, BlockState::shared(slot), nobody) == Ok(true) {
            let _: Result<bool, HeapError> =
                place.heap.replace_state(place.block, nobody, BlockState::exclusive(slot));
            place.exports().clear(place.block);
            return Given::Last;
        }
    }
    let next = match place.heap.change(place.block, Event::Release(slot)) {
        Ok(Ok((_, next))) => next,
        _ => None,
    };
    if !matches!(next.map(BlockState::kind), Some(Ok(Kind::Exclusive(_)))) {
        return Given::Others;
    }
    place.exports().clear(place.block);
    Given::Last
}

/// What became of an object when the last reference of this process was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Others have it, or a name leads to it, or its block has been damaged.
    Others,
    /// It is exclusive to this attachment now.
    Last,
}

/// Counts one more reference of this process to the published object whose block is at `block`; gives whether it is the first. The
/// caller holds the directory's lock.
pub(crate) fn hold(
    attached: &Attached,
    heap: &Heap<'_>,
    block: u64,
) -> Result<Result<bool, Refusal>, HeapError> {
    let private = &attached.private;
    let count = private.count(block).ok_or(HeapError::Damaged { at: block })?;
    let more = |count: u64| if count < ONE { None } else { count.checked_add(1) };
    // A thread that gives the last one up soon has the stripe.
    let mut deadline = Deadline::new(Duration::MAX);
    loop {
        if count.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok() {
            return Ok(Ok(false));
        }
        let stripe = private.stripe(block);
        if count.load(Ordering::Relaxed) == 0 {
            let slot = heap.own_slot()?;
            if let Err(refusal) = heap.change(block, Event::Hold(slot))? {
                return Ok(Err(refusal));
            }
            if let Some(is_first) = raise(count) {
                return Ok(Ok(is_first));
            }
        }
        drop(stripe);
        deadline.wait();
    }
}

impl<T: ?Sized> Clone for ShmemArc<T> {
    #[inline]
    fn clone(&self) -> Self {
        // At a billion clones a second it takes 580 years to overflow. After `fork` it counts nothing.
        self.count().fetch_add(1, Ordering::Relaxed);
        // SAFETY: counted by the first of this process, and dropped by the last.
        let conf = unsafe { self.conf.0.uncounted() };
        Self { value: self.value, count: self.count, conf: ManuallyDrop::new(ShmemConf(conf)) }
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
