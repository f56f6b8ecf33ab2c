//! Handles: references that may be sent anywhere
//!
//! A [`Handle`] is what becomes of a box that is leaked: 128 bits that lead to the object, in every process that is
//! attached to the segment. It is not believed: [`claim`](crate::Arena::claim) checks all of it.
//!
//! | word | bits | field |
//! |---|---|---|
//! | 0 | 0..=39 | granule of the object: its offset in the heap, in units of 16 bytes |
//! | 0 | 40..=63 | segment id, low bits |
//! | 1 | 0..=49 | serial, which no other handle of the segment has |
//! | 1 | 50..=63 | segment id, next bits |
//!
//! All zeros is the handle of nothing.
//!
//! # Safety
//! Says that handles are shareable: two integers that mean the same in all processes attached to a segment.
#![allow(unsafe_code)]

use crate::header::SegmentId;
use crate::object::{BLOCK_HEADER_LEN, GRANULE, MAX_SERIAL};
use crate::shareable::{AnyBitPattern, FromZeros, NoUninit, Shareable, TypeTag};
use crate::typed::Object;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::mem::offset_of;

const GRANULE_BITS: u32 = 40;
const SERIAL_BITS: u32 = MAX_SERIAL.count_ones();

/// Leads to an object that was [leaked](crate::ShmemBox::leak), and can be [claimed](crate::Arena::claim) once.
///
/// Is `Copy`, may lie in shared memory, and travels as 128 bits through a pipe, a socket or another object. It keeps
/// nothing alive and nothing from being claimed by somebody else.
///
/// # Examples
/// A list of objects that lead to each other:
/// ```
/// use shmem_bind::{Builder, Handle, ShmemBox, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[repr(C)]
///     pub struct Node {
///         pub next: Handle<Node>,
///         pub value: u64,
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let mut first = Handle::NOTHING;
/// for value in 0..3 {
///     first = ShmemBox::leak(arena.alloc(Node { next: first, value })?);
/// }
/// let mut values = Vec::new();
/// while !first.is_nothing() {
///     let node = arena.claim(first)?;
///     values.push(node.value);
///     first = node.next;
/// }
/// assert_eq!(values, [2, 1, 0]);
/// # Ok(())
/// # }
/// ```
/// ```
/// use shmem_bind::{Builder, Handle, ShmemBox, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
/// let arena = segment.arena::<Tlsf>()?;
/// let handle = ShmemBox::leak(arena.alloc(7_u32)?);
///
/// // Through a pipe, perhaps:
/// let bits: u128 = handle.to_bits();
/// let received = Handle::<u32>::from_bits(bits);
/// let number = arena.claim(received)?;
/// assert_eq!(*number, 7);
/// assert!(arena.claim(handle).is_err(), "once");
/// # Ok(())
/// # }
/// ```
#[repr(C, align(8))]
pub struct Handle<T: ?Sized> {
    place: u64,
    serial: u64,
    /// It has no `T`, so it is `Send` and `Sync` whatever that is.
    marker: PhantomData<fn() -> *const T>,
}

static_assertions::assert_eq_size!(Handle<[u8]>, u128);
static_assertions::const_assert_eq!(align_of::<Handle<[u8]>>(), 8);
static_assertions::const_assert_eq!(offset_of!(Handle<[u8]>, serial), 8);

impl<T: ?Sized> Handle<T> {
    /// Leads nowhere.
    pub const NOTHING: Self = Self { place: 0, serial: 0, marker: PhantomData };

    pub(crate) const fn new(block: u64, serial: u64, id: SegmentId) -> Self {
        let granule = block.wrapping_add(BLOCK_HEADER_LEN) / GRANULE;
        let id = id.low_bits();
        Self {
            place: granule | id << GRANULE_BITS,
            serial: serial & MAX_SERIAL | id >> (u64::BITS - GRANULE_BITS) << SERIAL_BITS,
            marker: PhantomData,
        }
    }

    /// Whether it says that it is of this segment.
    pub(crate) const fn is_of(self, id: SegmentId) -> bool {
        let other = Self::new(0, 0, id);
        self.place >> GRANULE_BITS == other.place >> GRANULE_BITS
            && self.serial >> SERIAL_BITS == other.serial >> SERIAL_BITS
            && self.serial() != 0
    }

    /// Offset of the block, in bytes from the start of the heap.
    pub(crate) const fn block(self) -> u64 {
        let granule = self.place & !(!0 << GRANULE_BITS);
        granule.wrapping_mul(GRANULE).wrapping_sub(BLOCK_HEADER_LEN)
    }

    pub(crate) const fn serial(self) -> u64 {
        self.serial & MAX_SERIAL
    }

    /// Whether it is [`NOTHING`](Self::NOTHING).
    #[must_use]
    pub const fn is_nothing(self) -> bool {
        self.to_bits() == 0
    }

    /// The handle as a number, to be sent.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        (self.serial as u128) << 64 | self.place as u128
    }

    /// A handle that was received. Any number will do: it is checked when it is claimed.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self { place: bits as u64, serial: (bits >> 64) as u64, marker: PhantomData }
    }
}

impl<T: ?Sized> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Handle<T> {}

impl<T: ?Sized> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.to_bits() == other.to_bits()
    }
}

impl<T: ?Sized> Eq for Handle<T> {}

/// [`NOTHING`](Handle::NOTHING).
impl<T: ?Sized> Default for Handle<T> {
    fn default() -> Self {
        Self::NOTHING
    }
}

/// By their numbers, which means no more than that handles may be keys.
impl<T: ?Sized> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By their numbers, which means no more than that handles may be keys.
impl<T: ?Sized> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.to_bits().cmp(&other.to_bits())
    }
}

impl<T: ?Sized> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_bits().hash(state);
    }
}

impl<T: ?Sized> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:032x})", self.to_bits())
    }
}

// SAFETY: 1. `repr(C)`: two integers, and a marker of no size. 2. The tag has both. The type of the object is left out, so
// that a type may hold handles of itself; claiming compares it, and any number may be made a handle. 3. It is
// no address: offset and serial mean the same in all processes, and are checked. 4. Plain numbers; nothing to drop.
// 5. No interior mutability.
unsafe impl<T: Object + ?Sized> Shareable for Handle<T> {
    const TAG: TypeTag = TypeTag::new::<Self>("shmem_bind::Handle", 1)
        .with_field("place", offset_of!(Self, place), u64::TAG)
        .with_field("serial", offset_of!(Self, serial), u64::TAG);
    const FROZEN: bool = true;
}

// SAFETY: two integers, and any number may be made a handle; it is checked when it is claimed.
unsafe impl<T: Object + ?Sized> AnyBitPattern for Handle<T> {}

// SAFETY: zeros are the handle of nothing.
unsafe impl<T: Object + ?Sized> FromZeros for Handle<T> {}

// SAFETY: two integers of eight bytes are all of its 16.
unsafe impl<T: Object + ?Sized> NoUninit for Handle<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let id = SegmentId::from_bytes([0xff; 16]);
        for (block, serial) in [(8, 1), ((1 << 44) - 40, MAX_SERIAL), (1 << 20 | 8, 77)] {
            let handle = Handle::<u8>::new(block, serial, id);
            assert_eq!((handle.block(), handle.serial()), (block, serial));
            assert!(handle.is_of(id) && !handle.is_of(SegmentId::NIL));
            assert_eq!(Handle::from_bits(handle.to_bits()), handle);
            let other = Handle::<u8>::new(block, serial, SegmentId::NIL);
            assert_eq!((other.block(), other.serial()), (block, serial));
        }
        for bit in 0..38 {
            let mut bytes = [0xff; 16];
            bytes[15 - bit / 8] ^= 1 << (bit % 8);
            assert!(!Handle::<u8>::new(8, 1, id).is_of(SegmentId::from_bytes(bytes)), "bit {bit}");
        }
    }

    #[test]
    fn nothing_is_of_no_segment() {
        assert!(!Handle::<u8>::NOTHING.is_of(SegmentId::NIL));
    }
}
