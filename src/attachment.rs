//! The process page
//!
//! What a process knows about its attachments, in one private anonymous page: who it is, and a record for
//! each attachment with a local reference count (an `Arc` without a heap). Handles are pointers to records,
//! so they are one word wide and need no allocator; the last one detaches.
//!
//! The page is wiped on `fork`: a child finds no magic number in it and maps a page of its own, and every
//! handle that it inherited leads to a record with a count of zero, which nobody ever uses again. Such a
//! handle is inert: dropping it changes nothing in the segment, in the parent, or in the child's mappings.
//!
//! # Records
//!
//! | references | meaning | next |
//! |---|---|---|
//! | 0 | free; or inherited by `fork` | [`Vacancy::reserve`] makes it 1 (never in a page that was wiped) |
//! | n > 0 | n handles, one of them perhaps still a `Vacancy` | `clone` and `drop` count; the last `drop` makes it 0 |
//! | 2^32 − 1 | too many to count | stays so: the attachment lasts as long as the process |
//!
//! # Addresses
//! A value in a segment that needs to know its segment, such as a lock, knows only where it lies. So each record has
//! the [`Whereabouts`] of its segment, and [`Here::of`] looks an address up. They stand from before there is an attachment until
//! after there was one; but whoever asks has a reference into the segment, and so has it attached all the while.
//!
//! # Severed attachments
//! An attachment whose memory has gone away, and been [replaced by zeros](sever), is of no use any more. It holds
//! nothing from then on, in the sense of locks and heaps, so that whoever wants to begin something is told; and an alarm
//! is set, so that whoever was at something is told when it ends. When it is dropped it leaves as if its process had
//! died: it takes no name away, destroys no value, and leaves its objects for others to give back.
//!
//! # Safety
//! Pages are never unmapped, so records live as long as the process. The contents of a record are written
//! by the one who made its count 1, before a handle exists, and taken out by the last handle.
#![allow(unsafe_code)]

use crate::header::Header;
use crate::heap::{Heap, SEVERED};
use crate::holes;
use crate::lifecycle::{Departure, Link, Member, Origin};
use crate::lock::{Holder, Roll};
use crate::membership::{Event, Phase, Refusal, Slot};
#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use crate::private::PrivateMemory;
use crate::region::Region;
use crate::sys::Failure;
use crate::sys::shm::Mapping;
use crate::tenancy::Tenancy;
use crate::whereabouts::Whereabouts;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use rustix::io::Errno;
use static_assertions::const_assert;

const PAGE_LEN: usize = 4096;
const MAGIC: u64 = u64::from_be_bytes(*b"procpage");
const RECORDS: usize = 7;

/// The first page of this process; after `fork`, that of the parent, wiped.
static FIRST: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());

#[repr(C)]
struct Page {
    /// `MAGIC`, or zero after `fork`.
    magic: AtomicU64,
    /// INVARIANT 1: the page that comes next when all records here are in use; null or never unmapped.
    next: AtomicPtr<Page>,
    /// The identity of this process.
    own: Tenancy,
    records: [Record; RECORDS],
}

const_assert!(size_of::<Page>() <= PAGE_LEN);

struct Record {
    references: AtomicU32,
    /// Whether `attached` is initialised, for a signal handler, which has no handle.
    is_occupied: AtomicBool,
    whereabouts: Whereabouts,
    /// INVARIANT 2: initialised while there is an `Attachment` to this record, and then only read.
    attached: UnsafeCell<MaybeUninit<Attached>>,
}

impl Record {
    /// The attachment; `None` if it is the parent's, from before a `fork`.
    ///
    /// # Safety
    /// There is a handle to this record for all of `'a`, or there was one before a `fork`.
    #[inline]
    unsafe fn attached<'a>(&self) -> Option<&'a Attached> {
        if self.references.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // SAFETY: by invariant 2 nobody writes while there is a handle, which the caller promises.
        let attached = unsafe { &*self.attached.get() };
        // SAFETY: as above, the contents are initialised, and stay so as long as the handle.
        Some(unsafe { attached.assume_init_ref() })
    }
}

/// One attachment of this process.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) region: Region,
    /// As it was when the segment was opened; its fixed fields are so still.
    pub(crate) header: Header,
    pub(crate) origin: Origin,
    /// `None` for a memfd.
    pub(crate) link: Option<Link>,
    pub(crate) own: Tenancy,
    /// `None` if read-only: then no word of the segment is ever written.
    seat: Option<Seat>,
    /// The bit has been given back already.
    has_left: AtomicBool,
    /// The name is to stay, whoever owns the segment.
    keeps_name: AtomicBool,
    /// The objects of the slot's last tenant have not been given back yet.
    has_estate: AtomicBool,
    /// How long to wait for a lock that somebody alive holds.
    pub(crate) patience: Duration,
    /// This attachment in the words of locks; 0 if it is read-only, or severed.
    holder: AtomicU32,
    /// How many locks of the dead were taken over, before anybody has looked for what else these held; and `SEVERED`.
    alarms: AtomicU64,
    pub(crate) private: PrivateMemory,
}

/// A place in the segment's table of slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) slot: Slot,
    /// Number of tenants that this slot has had, this one included.
    pub(crate) generation: u64,
    /// Whether the objects of the last tenant are still to be given back.
    pub(crate) inherited: bool,
}

impl Attached {
    pub(crate) const fn new(
        header: Header,
        origin: Origin,
        region: Region,
        link: Option<Link>,
        own: Tenancy,
        seat: Option<Seat>,
        patience: Duration,
    ) -> Self {
        let inherited = matches!(seat, Some(Seat { inherited: true, .. }));
        let holder = match seat {
            Some(Seat { slot, generation, .. }) => Holder::new(slot, generation).bits(),
            None => 0,
        };
        Self {
            region,
            header,
            origin,
            link,
            own,
            seat,
            has_left: AtomicBool::new(false),
            keeps_name: AtomicBool::new(false),
            has_estate: AtomicBool::new(inherited),
            patience,
            holder: AtomicU32::new(holder),
            alarms: AtomicU64::new(0),
            private: PrivateMemory::new(),
        }
    }

    pub(crate) fn member(&self) -> Member<'_> {
        Member { header: self.region.header(), link: self.link.as_ref(), own: self.own }
    }

    /// The slot, as long as it is this attachment's.
    pub(crate) fn slot(&self) -> Option<Slot> {
        let Seat { slot, generation, .. } = self.seat?;
        let header = self.region.header();
        (header.tenancy(slot) == self.own && header.generation(slot) == generation).then_some(slot)
    }

    /// Whether the header can be that of a segment which this is attached to. Zeros, from a hole in the file, cannot.
    pub(crate) fn is_listed(&self) -> bool {
        match self.seat {
            Some(_) => self.slot().is_some(),
            None => matches!(self.region.header().membership().phase(), Ok(Phase::Live | Phase::Retired)),
        }
    }

    /// Leaves the segment, once; gives whether the value in it is the caller's to destroy.
    ///
    /// The mapping stays, and the slot stays taken, until the last handle is dropped.
    pub(crate) fn leave(&self, departure: Departure) -> bool {
        let departure = if self.is_severed() { Departure::Lost } else { departure };
        let first = !self.has_left.swap(true, Ordering::Relaxed);
        let last = first && self.slot().is_some_and(|slot| self.member().leave(slot, departure));
        // Zeros are not the value that was to be destroyed.
        last && !self.is_severed()
    }

    /// Leaves as the segment's policy has it, or so that the name stays, if that has been said.
    pub(crate) fn leave_by_policy(&self) -> bool {
        self.leave(if self.keeps_name.load(Ordering::Relaxed) {
            Departure::Leak
        } else {
            Departure::Detach(self.header.unlink_policy())
        })
    }

    /// Says that the name is to stay when this attachment leaves.
    pub(crate) fn keep_name(&self) {
        self.keeps_name.store(true, Ordering::Relaxed);
    }

    /// Makes this attachment the owner.
    pub(crate) fn own_segment(&self) -> Result<(), Refusal> {
        let slot = self.slot().ok_or(Refusal::Corrupt)?;
        self.member().step(Event::Own(slot)).map(|_| ())
    }

    /// Children after `fork` do not get the segment, nor anything else in its place.
    pub(crate) fn exclude_from_fork(&self) -> Result<(), Failure> {
        self.region.exclude_from_fork()?;
        let Range { start, end } = self.region.addresses();
        holes::forget(start);
        holes::remember(start, end.saturating_sub(start))
    }

    /// Gives back what the dead held; gives how many attachments these were.
    pub(crate) fn sweep(&self) -> u32 {
        if self.seat.is_none() { 0 } else { self.member().sweep_dead() }
    }

    pub(crate) const fn is_read_only(&self) -> bool {
        self.seat.is_none()
    }

    /// This attachment in the words of locks; `None` if read-only, or severed.
    #[inline]
    pub(crate) fn holder(&self) -> Option<Holder> {
        Holder::from_bits(self.holder.load(Ordering::Relaxed))
    }

    /// Whether this is an attachment of this process, now.
    pub(crate) fn is_ours(&self, holder: Holder) -> bool {
        let header = self.region.header();
        holder.slot().is_some_and(|slot| {
            header.tenancy(slot) == self.own && holder.has_generation(header.generation(slot))
        })
    }

    /// The heap that the payload is if the segment is an arena; `None` if read-only, or severed.
    #[inline]
    pub(crate) fn heap(&self) -> Option<Heap<'_>> {
        let region = &self.region;
        let (words, stock) = (region.heap_words(), self.private.stock());
        let control = &region.header().heap;
        Some(Heap::new(words, control, stock, self.holder()?, self, self.patience, &self.alarms))
    }

    /// Frees the block of an object that was this attachment's and has been destroyed, now or later.
    #[inline]
    pub(crate) fn free_block(&self, offset: u64) {
        let (Some(heap), Some(functions)) = (self.heap(), self.private.functions()) else { return };
        if heap.free_or_defer(offset, functions.free).is_err() {
            self.region.header().arena.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Not 0 if somebody has to look, at the [`takeovers`](Self::takeovers) or whether it is severed.
    #[inline]
    pub(crate) fn alarms(&self) -> u64 {
        self.alarms.load(Ordering::Relaxed)
    }

    /// How many locks were taken over from the dead since [`take_takeovers`](Self::take_takeovers). If any, somebody has
    /// just been found dead who may have held more.
    pub(crate) fn takeovers(&self) -> u64 {
        self.alarms() & !SEVERED
    }

    /// The same; they count no more.
    pub(crate) fn take_takeovers(&self) -> u64 {
        self.alarms.fetch_and(SEVERED, Ordering::Relaxed) & !SEVERED
    }

    /// Whether memory of the segment has gone away, and zeros have taken its place.
    #[inline]
    pub(crate) fn is_severed(&self) -> bool {
        self.alarms() & SEVERED != 0
    }

    /// Says that it is, before it is. For a signal handler.
    fn set_severed(&self) {
        #[cfg(planted)]
        if is_planted(Mistake::SeverQuietly) {
            return;
        }
        self.holder.store(0, Ordering::Relaxed);
        self.alarms.fetch_or(SEVERED, Ordering::Relaxed);
    }

    /// Whether the slot's last tenant left objects, which nobody has given back yet.
    pub(crate) fn has_estate(&self) -> bool {
        self.has_estate.load(Ordering::Relaxed)
    }

    /// Says that they have been given back.
    pub(crate) fn settle_estate(&self) {
        self.has_estate.store(false, Ordering::Relaxed);
    }

    /// Leaves for good; what is left to do is to unmap.
    fn detach(&self) {
        if let (Some(heap), Some(functions)) = (self.heap(), self.private.functions()) {
            (functions.settle)(&heap);
        }
        // A handle that is no box does not know what the value is, so it destroys none.
        self.leave_by_policy();
        if let Some(slot) = self.slot() {
            let has_lost = self.is_severed() && self.region.header().is_arena();
            self.member().free_tenancy(slot, self.has_estate() || has_lost);
        }
        holes::forget(self.region.addresses().start);
    }
}

impl Roll for Attached {
    fn is_gone(&self, holder: Holder) -> bool {
        let is_dead = |slot| self.region.header().tenancy(slot).is_certainly_dead(self.own);
        holder.slot().is_some_and(|slot| self.is_past(holder) || is_dead(slot))
    }

    fn is_past(&self, holder: Holder) -> bool {
        let Some(slot) = holder.slot() else { return false };
        let header = self.region.header();
        let tenancy = header.tenancy(slot);
        // A tenancy and its generation stay as they are for as long as the tenant does.
        !holder.has_generation(header.generation(slot))
            || tenancy == Tenancy::FREE
            || tenancy == Tenancy::DECEASED
    }

    fn took_over(&self) {
        self.alarms.fetch_add(1, Ordering::Relaxed);
    }
}

/// A record reserved for an attachment to come, so that nothing can fail once the segment counts it.
pub(crate) struct Vacancy(
    /// INVARIANT 3: counted in `references`.
    NonNull<Record>,
    Tenancy,
);

impl Vacancy {
    pub(crate) fn reserve() -> Result<Self, Failure> {
        let mut place = &FIRST;
        loop {
            let page = page_at(place)?;
            // SAFETY: pages are never unmapped, and consist of atomics, cells, and `own`, which does not change.
            let page = unsafe { page.as_ref() };
            let free = page.records.iter().find(|record| {
                record.references.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            });
            if let Some(record) = free {
                record.whereabouts.renew();
                return Ok(Self(NonNull::from(record), page.own));
            }
            place = &page.next;
        }
    }

    /// The identity of this process.
    pub(crate) const fn own(&self) -> Tenancy {
        self.1
    }

    /// Where what is mapped for this attachment says so.
    pub(crate) fn whereabouts(&self) -> &'static Whereabouts {
        // SAFETY: pages are never unmapped.
        let record: &'static Record = unsafe { self.0.as_ref() };
        &record.whereabouts
    }

    /// Makes it an attachment, whose region is mapped at these whereabouts.
    pub(crate) fn occupy(self, attached: Attached) -> Attachment {
        let Self(record, _) = self;
        core::mem::forget(self);
        // SAFETY: pages are never unmapped.
        let place = unsafe { record.as_ref() };
        // SAFETY: by invariant 3 the record is ours, and there is no `Attachment` to it yet.
        let contents = unsafe { &mut *place.attached.get() };
        let attached = contents.write(attached);
        // From here on a signal handler says it itself.
        place.is_occupied.store(true, Ordering::SeqCst);
        if place.whereabouts.are_severed() {
            attached.set_severed();
        }
        Attachment(record)
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        // SAFETY: pages are never unmapped.
        let record = unsafe { self.0.as_ref() };
        record.references.store(0, Ordering::Release);
    }
}

/// The page that `place` leads to; a new one if there is none, or none of this process.
fn page_at(place: &AtomicPtr<Page>) -> Result<NonNull<Page>, Failure> {
    let found = place.load(Ordering::Acquire);
    if let Some(page) = NonNull::new(found) {
        // SAFETY: by invariant 1 (and because `FIRST` is treated the same) the page is still mapped.
        let magic = unsafe { &page.as_ref().magic };
        if magic.load(Ordering::Acquire) == MAGIC {
            return Ok(page);
        }
    }
    if !found.is_null() {
        // A child after `fork`, which is about to use the crate by itself.
        holes::bar();
    }
    let mapping = Mapping::private_wiped_on_fork(PAGE_LEN)?;
    let new = mapping.base().cast::<Page>();
    // SAFETY: a fresh mapping of zeros, large enough by the assertion above, and page-aligned.
    let own = unsafe { &raw mut (*new.as_ptr()).own };
    // SAFETY: as above, and nobody else knows the page yet.
    unsafe { own.write(Tenancy::own()) };
    // SAFETY: as above; zeros are valid for all of a `Page`.
    let magic = unsafe { &new.as_ref().magic };
    magic.store(MAGIC, Ordering::Release);
    // SYNC: Release here, Acquire above and below: whoever finds the page finds it filled in.
    match place.compare_exchange(found, new.as_ptr(), Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            mapping.leak();
            Ok(new)
        }
        // Another thread was quicker; ours is unmapped again. A page once put in place stays.
        Err(other) => NonNull::new(other).ok_or(Failure::new("mmap", Errno::NOMEM)),
    }
}

/// A counted handle to one attachment of this process.
pub(crate) struct Attachment(
    /// INVARIANT 4: counted in `references` of its record; or inherited by `fork`.
    NonNull<Record>,
);

// SAFETY: a record's count is atomic, and its contents are `Sync` and only read.
unsafe impl Send for Attachment {}
// SAFETY: as above.
unsafe impl Sync for Attachment {}
static_assertions::assert_impl_all!(Attached: Send, Sync);

// A record's contents are only read, and its count is atomic: whoever sees it after a panic sees it whole.
impl core::panic::UnwindSafe for Attachment {}
impl core::panic::RefUnwindSafe for Attachment {}

impl Attachment {
    #[inline]
    fn record(&self) -> &Record {
        // SAFETY: pages are never unmapped; a record's fields are atomic or in a cell.
        unsafe { self.0.as_ref() }
    }

    // All other handles are gone.
    #[cold]
    #[inline(never)]
    fn drop_last(&self) {
        let record = self.record();
        // The count stays 1 while the contents are taken out, so that nobody reserves the record meanwhile.
        // SAFETY: this is the last handle (and not an inert one, whose count would be 0), so nobody else writes the
        // contents now, nor reads them but a signal handler of this thread.
        let attached = unsafe { &*record.attached.get() };
        // SAFETY: by invariant 2 they are initialised.
        unsafe { attached.assume_init_ref() }.detach();
        // From here on nobody touches the segment.
        record.is_occupied.store(false, Ordering::SeqCst);
        // SAFETY: initialised still; nobody reads them again before they are written anew. The mapping goes last, and with it
        // the lock: until then nobody takes us for gone.
        drop(unsafe { attached.assume_init_read() });
        record.references.store(0, Ordering::Release);
    }

    /// The same handle once more, not counted.
    ///
    /// # Safety
    /// It is used no longer than one that is counted, and of all that share a count only one is dropped.
    pub(crate) const unsafe fn uncounted(&self) -> Self {
        Self(self.0)
    }

    /// The attachment; `None` if it is the parent's, from before a `fork`.
    #[inline]
    pub(crate) fn get(&self) -> Option<&Attached> {
        // SAFETY: by invariant 4 `self` is a handle, and lent for as long as the result.
        unsafe { self.record().attached() }
    }
}

impl Clone for Attachment {
    #[inline]
    fn clone(&self) -> Self {
        let references = &self.record().references;
        // A count of zero is a wiped one: the clone of an inert handle is inert. One at its maximum stays there:
        // the attachment then lasts as long as the process.
        let count = |count: u32| if count == 0 { None } else { Some(count.saturating_add(1)) };
        let _: Result<u32, u32> = references.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        Self(self.0)
    }
}

impl Drop for Attachment {
    #[inline]
    fn drop(&mut self) {
        let record = self.record();
        let count = |count| if matches!(count, 0 | 1 | u32::MAX) { None } else { count.checked_sub(1) };
        // SYNC: Release by every handle, Acquire by the last: it sees all that was done through the others.
        if record.references.fetch_update(Ordering::AcqRel, Ordering::Acquire, count) == Err(1) {
            self.drop_last();
        }
    }
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

/// The attachment that something in a segment lies in, for as long as that is borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a> {
    /// INVARIANT 5: there is a handle to it for all of `'a`, or it was inherited by `fork`.
    record: &'a Record,
}

impl<'a> Here<'a> {
    /// Finds the attachment of this process that `place` lies in; `None` if it lies in none, or in one that was inherited
    /// by `fork`.
    #[inline]
    pub(crate) fn of<T>(place: &'a T) -> Option<Self> {
        let address = core::ptr::from_ref(place).addr();
        let mut next = &FIRST;
        loop {
            let page = NonNull::new(next.load(Ordering::Acquire))?;
            // SAFETY: by invariant 1 (and because `FIRST` is treated the same) the page is still mapped. One that was
            // wiped has no versions, and no next one.
            let page = unsafe { page.as_ref() };
            // INVARIANT: a segment is mapped as long as there is a handle to its record, and whoever lends something that
            // lies in it has one, and keeps it while it is lent.
            if let Some(record) = page.records.iter().find(|record| record.whereabouts.contain(address)) {
                return Some(Self { record });
            }
            next = &page.next;
        }
    }

    /// The attachment; `None` in a child after `fork`.
    #[inline]
    pub(crate) fn get(self) -> Option<&'a Attached> {
        // SAFETY: by invariant 5.
        unsafe { self.record.attached() }
    }
}

/// If `address` lies in a mapping of this process's, puts zeros in the place of the mapping from there on, and says so to the
/// attachment; gives whether that was so, and could be done. For a signal handler: reads atomics, and makes system calls.
///
/// # Safety
/// As [`Whereabouts::sever`].
pub(crate) unsafe fn sever(address: usize) -> bool {
    let mut next = &FIRST;
    while let Some(page) = NonNull::new(next.load(Ordering::Acquire)) {
        // SAFETY: by invariant 1 (and because `FIRST` is treated the same) the page is still mapped. In one that was wiped nothing
        // is mapped anywhere, and there is no next one.
        let page = unsafe { page.as_ref() };
        for record in &page.records {
            let announce = || {
                if record.is_occupied.load(Ordering::SeqCst) {
                    // SAFETY: the thread that has faulted uses the segment, so its last handle is still there, or is just being
                    // dropped by this very thread, which only reads the contents until it says that they are none.
                    if let Some(attached) = unsafe { record.attached() } {
                        attached.set_severed();
                    }
                }
            };
            // SAFETY: the caller promises the same.
            if unsafe { record.whereabouts.sever(address, announce) } {
                return true;
            }
        }
        next = &page.next;
    }
    false
}

/// A number that says which process this is, as long as something is attached: a forked child has another one, since the page of
/// its parent is never unmapped.
#[cfg(feature = "std")]
#[inline]
pub(crate) fn process_mark() -> usize {
    FIRST.load(Ordering::Relaxed).addr()
}
