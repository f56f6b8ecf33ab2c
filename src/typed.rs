//! How values lie in blocks
//!
//! An object of an arena is a value of a [`Shareable`] type, a slice of them, or a `str`. Its block says its tag and
//! its length in bytes (of elements without a size their number, which is trusted like a value); from these and its address a pointer to it can be made, or the error that says in what the
//! type asked for differs.
//!
//! # Safety
//! Makes pointers, and leaves to others what is done with them.
#![allow(unsafe_code)]

use crate::object::ObjectTag;
use crate::shareable::{Shareable, TagMismatch, TypeTag};
use core::ptr::{self, NonNull};

/// What an object of an arena can be: a [`Shareable`] type, a slice of such, or `str`.
///
/// Sealed: make a type an object by making it [`Shareable`].
///
/// # Examples
/// ```
/// use shmem_bind::{Arena, Object, RegionAllocator, ShmemError};
///
/// /// Whether there is such an object, of any type that can be one.
/// fn is_published<T: Object + Sync + ?Sized, A: RegionAllocator>(arena: &Arena<A>, name: &str) -> bool {
///     arena.find::<T>(name).is_ok()
/// }
///
/// # let arena: Arena = shmem_bind::Builder::memfd().create(64 * 1024)?.0.arena()?;
/// assert!(!is_published::<u64, _>(&arena, "limit"));
/// assert!(!is_published::<[u8], _>(&arena, "limit") && !is_published::<str, _>(&arena, "limit"));
/// # Ok::<(), ShmemError>(())
/// ```
pub trait Object: Layout {}

impl<T: Shareable> Object for T {}
impl<T: Shareable> Object for [T] {}
impl Object for str {}

/// What the crate needs to know of an object.
pub trait Layout: Send + 'static {
    /// The type; of a slice, with the size of one element.
    #[doc(hidden)]
    const TAG: TypeTag;

    /// Whether nothing is ever written through a shared reference.
    #[doc(hidden)]
    const FROZEN: bool;

    /// Whether a block whose object has `len` bytes can hold one, by its length.
    #[doc(hidden)]
    fn fits(len: u64) -> bool;

    /// The value at `start`, which has `len` bytes.
    ///
    /// # Safety
    /// At `start` begins the object of a block, which the caller holds; it has this type and `len` bytes.
    #[doc(hidden)]
    unsafe fn pointer(start: NonNull<u8>, len: u64) -> NonNull<Self>;
}

impl<T: Shareable> Layout for T {
    const TAG: TypeTag = <T as Shareable>::TAG;
    const FROZEN: bool = <T as Shareable>::FROZEN;

    fn fits(len: u64) -> bool {
        len == size_of::<T>() as u64
    }

    unsafe fn pointer(start: NonNull<u8>, _: u64) -> NonNull<T> {
        start.cast()
    }
}

impl<T: Shareable> Layout for [T] {
    const TAG: TypeTag = TypeTag::of_slice::<T>(<T as Shareable>::TAG);
    const FROZEN: bool = <T as Shareable>::FROZEN;

    fn fits(len: u64) -> bool {
        match size_of::<T>() as u64 {
            // The number of elements without a size is kept in the place of the elements.
            0 => len == size_of::<u64>() as u64,
            size => len.checked_rem(size) == Some(0),
        }
    }

    unsafe fn pointer(start: NonNull<u8>, len: u64) -> NonNull<[T]> {
        let count = match size_of::<T>() {
            0 => {
                // SAFETY: such an object has eight bytes, by `fits`, aligned to 16, like all objects; any bytes are an
                // integer, and the caller holds it.
                let count = unsafe { start.cast::<u64>().read() };
                usize::try_from(count).unwrap_or(0)
            }
            size => usize::try_from(len).unwrap_or(0).checked_div(size).unwrap_or(0),
        };
        NonNull::slice_from_raw_parts(start.cast(), count)
    }
}

impl Layout for str {
    const TAG: TypeTag = TypeTag::of_str();
    const FROZEN: bool = true;

    fn fits(_: u64) -> bool {
        true
    }

    unsafe fn pointer(start: NonNull<u8>, len: u64) -> NonNull<str> {
        let bytes = ptr::slice_from_raw_parts_mut(start.as_ptr(), usize::try_from(len).unwrap_or(0));
        // SAFETY: `start` is not null, and the cast keeps the address.
        unsafe { NonNull::new_unchecked(bytes as *mut str) }
    }
}

/// Checks that a block with this tag word, whose object has `len` bytes, holds a `T`.
pub(crate) fn check<T: Object + ?Sized>(tag: u64, len: u64) -> Result<(), TagMismatch> {
    let asked = ObjectTag::new(T::TAG);
    if tag == asked.bits() && T::fits(len) {
        return Ok(());
    }
    let asked = asked.to_type_tag(T::TAG.size());
    // What is of the same kind differs by its size only if that does not fit.
    let size = if T::fits(len) { asked.size() } else { len };
    Err(TagMismatch { asked, found: ObjectTag::from_bits(tag).to_type_tag(size) })
}

/// Alignment of the type, or of its elements, in bytes.
pub(crate) const fn align<T: Object + ?Sized>() -> usize {
    T::TAG.align() as usize
}
