//! The block header
//!
//! Every object in an arena lies in a block, and every block begins with three words. All that processes can
//! disagree about (whose the object is, who else holds it, whether a name leads to it, whether the block is
//! free) is in the first of them, so each change is one compare-and-swap, decided by one pure function.
//! Two words, a state and a holder count, would allow a use after free without any crash: the last release and a
//! sweep both see a count of zero, the block is used again, and the slower one destroys the newcomer.
//!
//! | offset | word | meaning |
//! |---|---|---|
//! | 0 | [state](BlockState) | below |
//! | 8 | tag | type of the object; of a free or condemned block, its allocator's |
//! | 16 | [extent](Extent) | size of the block, and how much of it the object leaves over |
//! | 24 | | the object, aligned to 16 or more |
//!
//! # The state word
//!
//! | bits | field |
//! |---|---|
//! | 0..=2 | kind |
//! | 3 | PINNED: published for as long as the segment exists |
//! | 4 | DIR: a name in the directory leads here |
//! | 5..=7 | zero |
//! | 8..=63 | by kind |
//!
//! | kind | bits 8..=63 | meaning |
//! |---|---|---|
//! | 0 void | anything | no block: a hole in the memory reads like this |
//! | 1 free | zero | |
//! | 2 exclusive | slot | one box in that attachment; or on its way into one or out of one |
//! | 3 leaked | slot of the leaker (6), serial (50) | nobody's, until its handle is claimed |
//! | 4 shared | one bit a slot | attachments that hold it; none only with DIR |
//! | 5 condemned | slot, or 63 | its box is gone and it waits to be freed; 63: by the holder of the allocator's lock |
//! | 6 internal | zero | the arena's own |
//!
//! | event | from | to |
//! |---|---|---|
//! | allocate, free | free; exclusive(me) | exclusive(me); free: by the allocator, one store |
//! | `Leak` | exclusive(me) | leaked(me, serial) |
//! | `Claim` | leaked(anybody, exactly this serial) | exclusive(me) |
//! | `Share` | exclusive(me) | shared{me} |
//! | `Hold` | shared with DIR | + me; only under the directory's lock, so that the name stays |
//! | `Release` | shared{.., me} | − me; shared{me} without DIR: exclusive(me), and I destroy it |
//! | `Publish` | shared{.., me} without DIR | + DIR (and PINNED) |
//! | `Unpublish` | shared with DIR, not PINNED | − DIR, + me |
//! | `Condemn` | exclusive(me) | condemned(me) |
//! | `Pop` | condemned(anybody) | condemned(63) |
//! | `Intern`, `Extern` | exclusive(me); internal | internal; exclusive(me) |
//! | `Sweep` (d died) | exclusive(d), condemned(d), shared{d} without DIR | to be freed |
//! | | shared{.., d} | − d |
//! | `Forget` (a name that is none any more) | shared with DIR | − DIR; to be freed if nobody holds it |
//!
//! A serial is drawn from a counter in the header and never again: a stale handle matches no later state.

mod extent;

pub use extent::Extent;

use crate::membership::{MAX_ATTACHMENTS, Slot};
use crate::shareable::TypeTag;

/// Length of the block header, in bytes.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{BLOCK_HEADER_LEN, GRANULE, MIN_BLOCK_LEN};
///
/// // What an object of 40 bytes takes.
/// let block = (BLOCK_HEADER_LEN + 40).next_multiple_of(GRANULE).max(MIN_BLOCK_LEN);
/// assert_eq!(block, 64);
/// ```
pub const BLOCK_HEADER_LEN: u64 = 24;
/// Offset of the tag in a block header, in bytes.
pub(crate) const TAG_OFFSET: u64 = 8;
/// Offset of the extent in a block header, in bytes.
pub(crate) const EXTENT_OFFSET: u64 = 16;
/// Unit of block sizes, in bytes. Blocks begin 8 bytes after a multiple of it, so that payloads are aligned to it.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{GRANULE, PlainHeap};
/// use shmem_bind::{RegionAllocator, Tlsf};
/// use std::sync::atomic::AtomicU64;
///
/// let memory: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
/// let plain = PlainHeap::new(4096);
/// let heap = plain.heap(&memory, &[], 0);
/// Tlsf::format(&heap)?;
/// let block = heap.block(Tlsf::allocate(&heap, &plain.request(100, 8, 0))?)?;
/// assert_eq!((block.offset % GRANULE, block.payload() % GRANULE, block.extent.len() % GRANULE), (8, 0, 0));
/// # Ok::<(), shmem_bind::allocator::HeapError>(())
/// ```
pub const GRANULE: u64 = 16;
/// Least size of a block, in bytes. No two blocks begin in the same 32 bytes.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::{MIN_BLOCK_LEN, PlainHeap};
///
/// let plain = PlainHeap::new(0);
/// let block_len = |len| plain.request(len, 1, 0).block_len();
/// assert_eq!([0, 8, 9].map(block_len), [Some(MIN_BLOCK_LEN), Some(MIN_BLOCK_LEN), Some(48)]);
/// ```
pub const MIN_BLOCK_LEN: u64 = 32;

const KIND_MASK: u64 = 7;
const PINNED: u64 = 1 << 3;
const DIR: u64 = 1 << 4;
const FLAGS_MASK: u64 = 0xff ^ KIND_MASK;
const VALUE_SHIFT: u32 = 8;
const SERIAL_SHIFT: u32 = VALUE_SHIFT + 6;
/// In the place of a slot: the holder of the allocator's lock.
const LOCK_HOLDER: u64 = 63;

/// Serials are of 50 bits: at a million leaks a second they last for 35 years.
pub(crate) const MAX_SERIAL: u64 = (1 << 50) - 1;

/// What a block is, as read from the segment: any 64 bits.
///
/// # Examples
/// ```
/// use shmem_bind::allocator::BlockState;
///
/// let mine = BlockState::owned_by(3).unwrap();
/// assert!(mine.is_valid() && !mine.is_free() && !mine.is_popped());
/// assert_eq!(BlockState::from_bits(mine.bits()), mine);
/// assert!(BlockState::FREE.is_free());
/// assert!(!BlockState::from_bits(0).is_valid(), "a hole in the file is no block");
/// assert_eq!(BlockState::owned_by(56), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockState(u64);

/// What a valid state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Free,
    Exclusive(Slot),
    Leaked {
        slot: Slot,
        serial: u64,
    },
    /// The bitmap of slots.
    Shared(u64),
    /// `None`: it has been popped by the holder of the allocator's lock.
    Condemned(Option<Slot>),
    Internal,
}

/// What may happen to a block in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Leak { slot: Slot, serial: u64 },
    Claim { slot: Slot, serial: u64 },
    Share(Slot),
    Hold(Slot),
    Release(Slot),
    Publish { slot: Slot, pinned: bool },
    Unpublish(Slot),
    Condemn(Slot),
    Pop,
    Intern(Slot),
    Extern(Slot),
    Sweep(Slot),
    Forget,
}

/// What a block becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This state.
    State(BlockState),
    /// Free, which is for its allocator to say.
    Free,
}

/// Why an event cannot happen to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is in another state.
    State,
    /// A name leads to it already, or one that is for ever.
    Published,
    /// Its word is none that a block can have.
    Damaged,
}

impl BlockState {
    /// A free block.
    pub const FREE: Self = Self(1);
    /// The arena's own.
    pub(crate) const INTERNAL: Self = Self(6);

    /// A state as it stands in a segment.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As it stands in a segment.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the block is free.
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.0 == Self::FREE.0
    }

    /// Whether the holder of the allocator's lock has taken this block in order to free it: whoever finds it
    /// under the lock, and is not about to free it, takes over from one that died, and frees it.
    #[must_use]
    pub fn is_popped(self) -> bool {
        self == Self::condemned(None)
    }

    /// Whether one attachment alone has the block.
    #[inline(always)]
    pub(crate) const fn is_exclusive(self) -> bool {
        // The kind at once with the slot: with another one, or with flags, it is larger than all slots.
        self.0.wrapping_sub(2).rotate_right(VALUE_SHIFT) < MAX_ATTACHMENTS as u64
    }

    /// Whether the block is one in use, so that it may be freed: valid, and not free.
    #[inline]
    pub(crate) fn is_in_use(self) -> bool {
        // Nearly always the first.
        self.is_exclusive() || !self.is_free() && self.is_valid()
    }

    /// Whether a block can have this state at all.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.kind().is_ok()
    }

    /// Of a block that attachment number `slot` alone has; `None` if there is no such number.
    ///
    /// This is what an allocator shows to the judge of [`retain`](crate::RegionAllocator::retain) in the place of the
    /// state of a block that was claimed by that attachment and not handed out yet.
    #[must_use]
    pub const fn owned_by(slot: u64) -> Option<Self> {
        match Slot::new(slot) {
            Some(slot) => Some(Self::exclusive(slot)),
            None => None,
        }
    }

    pub(crate) const fn exclusive(slot: Slot) -> Self {
        Self(2 | (slot.index() as u64) << VALUE_SHIFT)
    }

    pub(crate) const fn shared(slot: Slot) -> Self {
        Self(4 | 1 << slot.index() << VALUE_SHIFT)
    }

    const fn leaked(slot: Slot, serial: u64) -> Self {
        Self(3 | (slot.index() as u64) << VALUE_SHIFT | serial << SERIAL_SHIFT)
    }

    const fn condemned(slot: Option<Slot>) -> Self {
        let value = match slot {
            Some(slot) => slot.index() as u64,
            None => LOCK_HOLDER,
        };
        Self(5 | value << VALUE_SHIFT)
    }

    const fn value(self) -> u64 {
        self.0 >> VALUE_SHIFT
    }

    /// Whether a name leads to the object.
    pub(crate) const fn is_published(self) -> bool {
        self.0 & DIR != 0
    }

    pub(crate) const fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    #[inline]
    pub(crate) fn kind(self) -> Result<Kind, Refusal> {
        let value = self.value();
        let slot = Slot::new(value).ok_or(Refusal::Damaged);
        let flags = self.0 & FLAGS_MASK;
        if flags != 0 && (self.0 & KIND_MASK != 4 || flags != DIR && flags != DIR | PINNED) {
            return Err(Refusal::Damaged);
        }
        Ok(match self.0 & KIND_MASK {
            1 if value == 0 => Kind::Free,
            2 => Kind::Exclusive(slot?),
            3 => {
                let slot = Slot::new(value & 63).ok_or(Refusal::Damaged)?;
                Kind::Leaked { slot, serial: self.0 >> SERIAL_SHIFT }
            }
            4 if value != 0 || self.is_published() => Kind::Shared(value),
            5 if value == LOCK_HOLDER => Kind::Condemned(None),
            5 => Kind::Condemned(Some(slot?)),
            6 if value == 0 => Kind::Internal,
            _ => return Err(Refusal::Damaged),
        })
    }

    /// How many attachments hold a shared object.
    pub(crate) const fn holders(self) -> u32 {
        self.value().count_ones()
    }

    const fn with_bit(self, slot: Slot) -> Self {
        Self(self.0 | 1 << slot.index() << VALUE_SHIFT)
    }

    const fn without_bit(self, slot: Slot) -> Self {
        Self(self.0 & !(1 << slot.index() << VALUE_SHIFT))
    }

    /// What the block becomes by this event.
    // Where the event is known, what is left of it is a few instructions.
    #[inline(always)]
    pub(crate) fn step(self, event: Event) -> Result<Next, Refusal> {
        let holds = |bitmap: u64, slot: Slot| bitmap >> slot.index() & 1 != 0;
        let next = match (event, self.kind()?) {
            (Event::Leak { slot, serial }, Kind::Exclusive(owner))
                if owner == slot && serial <= MAX_SERIAL =>
            {
                Self::leaked(slot, serial)
            }
            (Event::Claim { slot, serial: asked }, Kind::Leaked { serial, .. }) if asked == serial => {
                Self::exclusive(slot)
            }
            (Event::Share(slot), Kind::Exclusive(owner)) if owner == slot => Self::shared(slot),
            (Event::Hold(slot), Kind::Shared(_)) if self.is_published() => self.with_bit(slot),
            (Event::Release(slot), Kind::Shared(bitmap)) if holds(bitmap, slot) => {
                if self == Self::shared(slot) { Self::exclusive(slot) } else { self.without_bit(slot) }
            }
            (Event::Publish { .. }, Kind::Shared(_)) if self.is_published() => {
                return Err(Refusal::Published);
            }
            (Event::Publish { slot, pinned }, Kind::Shared(bitmap)) if holds(bitmap, slot) => {
                Self(self.0 | DIR | if pinned { PINNED } else { 0 })
            }
            (Event::Unpublish(_), Kind::Shared(_)) if self.is_pinned() => return Err(Refusal::Published),
            (Event::Unpublish(slot), Kind::Shared(_)) if self.is_published() => {
                Self(self.0 & !DIR).with_bit(slot)
            }
            (Event::Condemn(slot), Kind::Exclusive(owner)) if owner == slot => Self::condemned(Some(slot)),
            (Event::Pop, Kind::Condemned(_)) => Self::condemned(None),
            (Event::Intern(slot), Kind::Exclusive(owner)) if owner == slot => Self::INTERNAL,
            (Event::Extern(slot), Kind::Internal) => Self::exclusive(slot),
            (Event::Sweep(dead), Kind::Exclusive(slot) | Kind::Condemned(Some(slot))) if slot == dead => {
                return Ok(Next::Free);
            }
            (Event::Sweep(dead), Kind::Shared(bitmap)) if holds(bitmap, dead) => {
                if self == Self::shared(dead) {
                    return Ok(Next::Free);
                }
                self.without_bit(dead)
            }
            (Event::Sweep(_), _) => self,
            (Event::Forget, Kind::Shared(bitmap)) if self.is_published() => {
                if bitmap == 0 {
                    return Ok(Next::Free);
                }
                Self(self.0 & !(DIR | PINNED))
            }
            _ => return Err(Refusal::State),
        };
        Ok(Next::State(next))
    }
}

impl core::fmt::Debug for BlockState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.kind() {
            Ok(kind) => write!(f, "{kind:?}")?,
            Err(_) => write!(f, "{:#018x}", self.0)?,
        }
        f.write_str(if self.is_pinned() {
            " pinned"
        } else if self.is_published() {
            " published"
        } else {
            ""
        })
    }
}

/// The type of an object in one word: what a [`TypeTag`] says but the size, which the extent tells.
///
/// | bits | field |
/// |---|---|
/// | 0..=39 | fingerprint, its low bits |
/// | 40..=55 | version, its low bits |
/// | 56..=59 | alignment: its binary logarithm |
/// | 60..=63 | zero |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ObjectTag(u64);

impl ObjectTag {
    const FINGERPRINT_MASK: u64 = (1 << 40) - 1;
    const VERSION_SHIFT: u32 = 40;
    const ALIGN_SHIFT: u32 = 56;

    pub(crate) const fn new(tag: TypeTag) -> Self {
        Self(
            tag.fingerprint() & Self::FINGERPRINT_MASK
                | (tag.version() as u64 & 0xffff) << Self::VERSION_SHIFT
                | (tag.align().trailing_zeros() as u64 & 15) << Self::ALIGN_SHIFT,
        )
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// As a tag that can be told to a person and compared with another that went the same way.
    pub(crate) const fn to_type_tag(self, size: u64) -> TypeTag {
        let align = 1 << (self.0 >> Self::ALIGN_SHIFT & 15);
        let version = (self.0 >> Self::VERSION_SHIFT & 0xffff) as u32;
        TypeTag::from_words([self.0 & Self::FINGERPRINT_MASK, size, (version as u64) << 32 | align])
    }
}

// The bitmap of holders is what is left beside kind and flags.
static_assertions::const_assert_eq!(MAX_ATTACHMENTS, u64::BITS - VALUE_SHIFT);

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    const LAST: u64 = MAX_ATTACHMENTS as u64 - 1;
    const SERIALS: [u64; 3] = [0, 7, MAX_SERIAL];

    // The words as the tables in the header have them.
    const EXCLUSIVE: fn(u64) -> u64 = |slot| 2 | slot << 8;
    const LEAKED: fn(u64, u64) -> u64 = |slot, serial| 3 | slot << 8 | serial << 14;
    const SHARED: fn(u64) -> u64 = |bitmap| 4 | bitmap << 8;
    const PUBLISHED: fn(u64) -> u64 = |bitmap| 0x14 | bitmap << 8;
    const FOR_EVER: fn(u64) -> u64 = |bitmap| 0x1c | bitmap << 8;
    const CONDEMNED: fn(u64) -> u64 = |slot| 5 | slot << 8;

    fn is_sound(bits: u64) -> bool {
        let value = bits >> 8;
        match bits & 0xff {
            1 | 6 => value == 0,
            2 => value <= LAST,
            3 => value & 63 <= LAST,
            4 => value != 0,
            5 => value <= LAST || value == 63,
            0x14 | 0x1c => true,
            _ => false,
        }
    }

    fn states(me: u64, other: u64) -> Vec<u64> {
        let mut states = std::vec![1, 6, CONDEMNED(63)];
        states.extend([me, other].map(|slot| [EXCLUSIVE(slot), CONDEMNED(slot)]).concat());
        states.extend([me, other].map(|slot| SERIALS.map(|serial| LEAKED(slot, serial))).concat());
        for bitmap in [0, 1 << me, 1 << other, 1 << me | 1 << other] {
            states.extend([SHARED(bitmap), PUBLISHED(bitmap), FOR_EVER(bitmap)]);
        }
        // Void, bad kinds, slots that are none, stray flags, and values where none may be.
        states.extend([0, 0x100, 7, 0x707, 0x0c | 0x100, EXCLUSIVE(56), EXCLUSIVE(!0 >> 8), CONDEMNED(56)]);
        states.extend([CONDEMNED(62), CONDEMNED(64), LEAKED(56, 7), LEAKED(63, 7), 1 | 0x100, 6 | 1 << 63]);
        states.extend((1..7).flat_map(|kind| [5, 6, 7].map(|bit| kind | 1 << bit | 1 << me << 8)));
        states.extend([1, 2, 3, 5, 6].into_iter().flat_map(|kind| [kind | 8, kind | 16, kind | 24]));
        states
    }

    fn events(me: u64) -> Vec<Event> {
        let slot = Slot::new(me).unwrap();
        let mut events = std::vec![Event::Share(slot), Event::Hold(slot), Event::Release(slot)];
        events.extend([false, true].map(|pinned| Event::Publish { slot, pinned }));
        events.extend([Event::Unpublish(slot), Event::Condemn(slot), Event::Pop, Event::Intern(slot)]);
        events.extend([Event::Extern(slot), Event::Sweep(slot), Event::Forget]);
        for serial in [0, 7, MAX_SERIAL, MAX_SERIAL + 1] {
            events.extend([Event::Leak { slot, serial }, Event::Claim { slot, serial }]);
        }
        events
    }

    /// All that is allowed to happen, of what `me` may do: from, and to, which is 0 for freed.
    fn transitions(me: u64, other: u64) -> Vec<(Event, u64, u64)> {
        let slot = Slot::new(me).unwrap();
        let (mine, others, both) = (1 << me, 1 << other, 1 << me | 1 << other);
        let mut all = std::vec![
            (Event::Share(slot), EXCLUSIVE(me), SHARED(mine)),
            (Event::Release(slot), SHARED(mine), EXCLUSIVE(me)),
            (Event::Release(slot), SHARED(both), SHARED(others)),
            (Event::Condemn(slot), EXCLUSIVE(me), CONDEMNED(me)),
            (Event::Intern(slot), EXCLUSIVE(me), 6),
            (Event::Extern(slot), 6, EXCLUSIVE(me)),
            (Event::Sweep(slot), EXCLUSIVE(me), 0),
            (Event::Sweep(slot), CONDEMNED(me), 0),
            (Event::Sweep(slot), SHARED(mine), 0),
            (Event::Sweep(slot), SHARED(both), SHARED(others)),
        ];
        for bitmap in [0, mine, others, both] {
            all.push((Event::Unpublish(slot), PUBLISHED(bitmap), SHARED(bitmap | mine)));
            for named in [PUBLISHED, FOR_EVER] {
                all.push((Event::Hold(slot), named(bitmap), named(bitmap | mine)));
                all.push((Event::Forget, named(bitmap), if bitmap == 0 { 0 } else { SHARED(bitmap) }));
                if bitmap & mine != 0 {
                    let (gone, pinned) = (named(bitmap ^ mine), named(0) == FOR_EVER(0));
                    all.extend([Event::Release(slot), Event::Sweep(slot)].map(|e| (e, named(bitmap), gone)));
                    all.push((Event::Publish { slot, pinned }, SHARED(bitmap), named(bitmap)));
                }
            }
        }
        for serial in SERIALS {
            all.push((Event::Leak { slot, serial }, EXCLUSIVE(me), LEAKED(me, serial)));
            let claim = Event::Claim { slot, serial };
            all.extend([me, other].map(|leaker| (claim, LEAKED(leaker, serial), EXCLUSIVE(me))));
        }
        all.extend([me, other, 63].map(|slot| (Event::Pop, CONDEMNED(slot), CONDEMNED(63))));
        all
    }

    #[test]
    fn what_is_not_allowed_is_refused() {
        for (me, other) in [(0, 1), (1, LAST), (LAST, 0)] {
            let transitions = transitions(me, other);
            let mut allowed = 0;
            for from in states(me, other) {
                for event in events(me) {
                    let row = transitions.iter().find(|row| (row.0, row.1) == (event, from));
                    allowed += usize::from(row.is_some());
                    let expected = match (event, row) {
                        _ if !is_sound(from) => Err(Refusal::Damaged),
                        (_, Some((_, _, 0))) => Ok(Next::Free),
                        (_, Some((_, _, to))) => Ok(Next::State(BlockState(*to))),
                        // The dead had nothing to do with it.
                        (Event::Sweep(_), None) => Ok(Next::State(BlockState(from))),
                        (Event::Publish { .. }, _) if from & 16 != 0 => Err(Refusal::Published),
                        (Event::Unpublish(_), _) if from & 8 != 0 => Err(Refusal::Published),
                        _ => Err(Refusal::State),
                    };
                    assert_eq!(BlockState(from).step(event), expected, "{event:?} of {from:#x}");
                }
            }
            assert_eq!(allowed, transitions.len(), "a row that no state and event fits");
        }
    }

    #[test]
    fn damage_stays_damage() {
        let mut values: Vec<u64> = (0..130).collect();
        values.extend((0..56).flat_map(|bit| [1 << bit, (1 << bit) - 1, !0 >> 8 ^ 1 << bit]));
        for bits in values.iter().flat_map(|value| (0..256).map(move |low| value << 8 | low)) {
            let state = BlockState::from_bits(bits);
            assert_eq!((state.bits(), state.is_valid()), (bits, is_sound(bits)), "{bits:#x}");
            assert_eq!((state.is_free(), state.is_popped()), (bits == 1, bits == CONDEMNED(63)), "{bits:#x}");
            for event in events(1) {
                let step = state.step(event);
                assert_eq!(step == Err(Refusal::Damaged), !is_sound(bits), "{event:?} of {bits:#x}");
                assert!(!matches!(step, Ok(Next::State(next)) if !is_sound(next.bits())), "{bits:#x}");
            }
        }
    }

    #[test]
    fn owned_by_takes_slots_only() {
        for index in (0..200).chain([u64::MAX, 1 << 8, 1 << 56]) {
            let owned = BlockState::owned_by(index).map(BlockState::bits);
            assert_eq!(owned, (index <= LAST).then(|| EXCLUSIVE(index)), "{index}");
        }
    }

    #[test]
    fn extents_round_trip() {
        for (len, slack) in [(0, 0), (16, 1), (32, 0), (32, 8), (32, 9), (272, 255), (Extent::MAX_LEN, 255)] {
            for own in [0, 1, 0xff_ffff] {
                let extent = Extent::new(len, slack).with_own(!own).with_own(own);
                assert_eq!((extent.len(), extent.slack(), extent.own()), (len, slack, own));
                assert_eq!((Extent::from_bits(extent.bits()), extent.is_empty()), (extent, len == 0));
                assert_eq!(extent.object_len(), (len >= 24 + slack).then(|| len - 24 - slack), "{extent:?}");
            }
        }
    }

    #[test]
    fn tags_keep_their_low_bits() {
        for (number, align) in [(0, 1), (1, 2), (0xffff, 16), (0x1_0000, 4096), (1 << 40, 1 << 15), (!0, 1)] {
            let tag = ObjectTag::new(TypeTag::from_words([number, 5, number << 32 | align]));
            assert_eq!((tag.bits() >> 60, ObjectTag::from_bits(tag.bits())), (0, tag));
            let words = [number & 0xff_ffff_ffff, 9, (number & 0xffff) << 32 | align];
            assert_eq!(tag.to_type_tag(9).to_words(), words);
        }
    }
}
