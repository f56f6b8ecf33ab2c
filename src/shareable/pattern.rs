//! Types of which any bytes are a value, and types of which a value is all bytes

use super::Shareable;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::num::{NonZero, Saturating, Wrapping};
use core::sync::atomic;

/// A type of which any bytes are a value, so that one which was half-written is still a value, only a wrong one.
///
/// It is implemented for integers, floats, `()`, the atomics of integers, `Option` of [`NonZero`], and for arrays,
/// [`MaybeUninit`], [`Wrapping`], [`Saturating`] and [`PhantomData`] of such types. Not for `bool`, `char`, enums and
/// [`NonZero`], which have bytes that are no value.
///
/// # Safety
/// Whoever implements it promises that:
/// 1. **Bytes.** Any bytes, of the size of the type, are a valid value of it. So are those of each field.
/// 2. **Fields.** Nothing that is `unsafe`, in a method or elsewhere, relies on two fields fitting together: some may
///    have been written before a process died and others not, and some in half.
///
/// # Examples
/// ```
/// use shmem_bind::{AnyBitPattern, shareable};
///
/// shareable! {
///     #[derive(Clone, Copy)]
///     #[repr(C)]
///     pub struct Position {
///         pub x: f64,
///         pub y: f64,
///     }
/// }
///
/// // SAFETY: two floats, of which any bytes are one, and whose methods rely on nothing.
/// unsafe impl AnyBitPattern for Position {}
/// ```
#[diagnostic::on_unimplemented(
    message = "not all bytes are a `{Self}`",
    label = "not `AnyBitPattern`",
    note = "what a dead process has half-written may be no value of this type: replace it"
)]
pub unsafe trait AnyBitPattern: Shareable {}

macro_rules! any_bit_pattern {
    ($($type:ty)*) => { $(
        // SAFETY: a number, or an atomic one, which has the representation of the number.
        unsafe impl AnyBitPattern for $type {}
    )* };
}

any_bit_pattern! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64
    atomic::AtomicU8 atomic::AtomicU16 atomic::AtomicU32 atomic::AtomicU64 atomic::AtomicUsize
    atomic::AtomicI8 atomic::AtomicI16 atomic::AtomicI32 atomic::AtomicI64 atomic::AtomicIsize
}

macro_rules! non_zero {
    ($($integer:ty)*) => { $(
        // SAFETY: documented to have the layout of the integer, with zero for `None`.
        unsafe impl AnyBitPattern for Option<NonZero<$integer>> {}
    )* };
}

non_zero! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

// SAFETY: it has no bytes.
unsafe impl AnyBitPattern for () {}
// SAFETY: N values of such a type, one after the other.
unsafe impl<T: AnyBitPattern, const N: usize> AnyBitPattern for [T; N] {}
// SAFETY: of any type, any bytes are valid.
unsafe impl<T: Shareable> AnyBitPattern for MaybeUninit<T> {}
// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: AnyBitPattern> AnyBitPattern for Wrapping<T> {}
// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: AnyBitPattern> AnyBitPattern for Saturating<T> {}
// SAFETY: it has no bytes.
unsafe impl<T: Shareable> AnyBitPattern for PhantomData<T> {}

/// A type of whose values each byte has been written: without padding, and without [`MaybeUninit`]. Copied to a peer, a
/// value shows no byte of what was in the memory before.
///
/// It is implemented for integers, floats, `bool`, `char`, `()`, [`NonZero`] and `Option` of it, and for arrays,
/// [`Wrapping`], [`Saturating`] and [`PhantomData`] of such types.
///
/// # Safety
/// Whoever implements it promises that every byte of every value is initialised: that there is no padding between the
/// fields or after them, and that all fields are of such types.
///
/// # Examples
/// ```
/// use shmem_bind::{AnyBitPattern, NoUninit, shareable};
///
/// shareable! {
///     #[derive(Clone, Copy)]
///     #[repr(C)]
///     pub struct Frame {
///         pub width: u32,
///         pub height: u32,
///         pub time: u64,
///     }
/// }
///
/// // SAFETY: integers, of which any bytes are one, and no method relies on anything.
/// unsafe impl AnyBitPattern for Frame {}
/// // SAFETY: 4 + 4 + 8 bytes are all of its 16.
/// unsafe impl NoUninit for Frame {}
/// ```
#[diagnostic::on_unimplemented(
    message = "a `{Self}` may have bytes that were never written",
    label = "not `NoUninit`",
    note = "padding would show a peer what was in this memory before"
)]
pub unsafe trait NoUninit: Shareable {}

macro_rules! no_uninit {
    ($($type:ty)*) => { $(
        // SAFETY: all its bytes are its value.
        unsafe impl NoUninit for $type {}
    )* };
}

no_uninit! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char
}

macro_rules! no_uninit_non_zero {
    ($($integer:ty)*) => { $(
        // SAFETY: documented to have the layout of the integer.
        unsafe impl NoUninit for NonZero<$integer> {}
        // SAFETY: the same, with zero for `None`.
        unsafe impl NoUninit for Option<NonZero<$integer>> {}
    )* };
}

no_uninit_non_zero! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

// SAFETY: N values of such a type, one after the other.
unsafe impl<T: NoUninit, const N: usize> NoUninit for [T; N] {}
// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: NoUninit> NoUninit for Wrapping<T> {}
// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: NoUninit> NoUninit for Saturating<T> {}
// SAFETY: it has no bytes.
unsafe impl NoUninit for () {}
// SAFETY: it has no bytes.
unsafe impl<T: Shareable> NoUninit for PhantomData<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!([Option<NonZero<u8>>; 2]: AnyBitPattern);
    assert_not_impl_any!(bool: AnyBitPattern);
    assert_not_impl_any!(char: AnyBitPattern);
    assert_not_impl_any!(NonZero<u8>: AnyBitPattern);
    assert_not_impl_any!(atomic::AtomicBool: AnyBitPattern);
    assert_not_impl_any!([bool; 2]: AnyBitPattern);

    assert_impl_all!([Option<NonZero<u16>>; 2]: NoUninit);
    assert_not_impl_any!(MaybeUninit<u8>: NoUninit);
    assert_not_impl_any!([MaybeUninit<u8>; 2]: NoUninit);
}
