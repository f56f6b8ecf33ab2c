//! Types of which any bytes are a value, and types of which a value is all bytes

use super::Shareable;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::num::{NonZero, Saturating, Wrapping};
use core::sync::atomic;

/// A type of which any bytes are a value, so that one which was half-written is still a value, only a wrong one.
///
/// It is implemented for integers, floats, `()`, the atomics of integers, `Option` of [`NonZero`], [`Handle`](crate::Handle), and for
/// arrays, [`MaybeUninit`], [`Wrapping`], [`Saturating`] and [`PhantomData`] of such types. For others
/// [`shareable!`](crate::shareable!#further-traits) implements it. Not for `bool`, `char`, enums and
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
///     implement = AnyBitPattern;
///     #[derive(Clone, Copy)]
///     #[repr(C)]
///     pub struct Position {
///         pub x: f64,
///         pub y: f64,
///     }
/// }
///
/// fn is_any_bit_pattern<T: AnyBitPattern>() {}
/// is_any_bit_pattern::<Position>();
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
/// It is implemented for integers, floats, `bool`, `char`, `()`, [`NonZero`] and `Option` of it, [`Handle`](crate::Handle), and
/// for arrays, [`Wrapping`], [`Saturating`] and [`PhantomData`] of such types. For others
/// [`shareable!`](crate::shareable!#further-traits) implements it.
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
///     implement = AnyBitPattern + NoUninit;
///     #[derive(Clone, Copy)]
///     #[repr(C)]
///     pub struct Frame {
///         pub width: u32,
///         pub height: u32,
///         pub time: u64,
///     }
/// }
///
/// fn is_copied<T: AnyBitPattern + NoUninit>() {}
/// is_copied::<Frame>();
/// ```
/// By hand it takes a reason:
/// ```
/// use shmem_bind::{NoUninit, shareable};
///
/// shareable! {
///     #[repr(C)]
///     pub struct Pair<T>(T, T);
/// }
///
/// // SAFETY: two of the same type, between which there is nothing, since a size is a multiple of its alignment.
/// unsafe impl<T: NoUninit> NoUninit for Pair<T> {}
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

    // What `shareable!` makes so on demand, whatever else stands before and in the definition.
    mod asked_for {
        #![deny(warnings)]
        #![allow(dead_code)]

        use super::*;

        shareable! {
            version = 2;
            implement = AnyBitPattern + NoUninit;
            name = "org.example.Inner";
            #[repr(transparent)]
            struct Inner(u32, PhantomData<u64>, ());
        }

        shareable! {
            implement = NoUninit + AnyBitPattern;
            /// Public, with a field of a private type.
            #[derive(Clone, Copy)]
            #[repr(C)]
            pub(super) struct Outer {
                pub first: u64,
                inner: [u32; 2],
            }
        }

        shareable! {
            implement = AnyBitPattern;
            name = "org.example.Padded";
            #[repr(C, align(16))]
            pub(super) struct Padded<T: Copy, const N: usize>
            where
                [T; N]: Sized,
            {
                small: u8,
                large: [T; N],
                unwritten: MaybeUninit<bool>,
                shared: atomic::AtomicU16,
            }
        }

        shareable! {
            implement = NoUninit;
            #[repr(u8)]
            pub(super) enum Unit {
                Celsius,
                Kelvin,
            }
        }

        shareable! {
            implement = AnyBitPattern + NoUninit;
            #[repr(C)]
            pub(super) struct Nothing;
        }

        assert_impl_all!(Inner: AnyBitPattern, NoUninit);
        const _: () = assert!(Inner::TAG.version() == 2);
    }

    use asked_for::{Nothing, Outer, Padded, Unit};
    assert_impl_all!(Outer: AnyBitPattern, NoUninit);
    assert_impl_all!(Padded<u8, 3>: AnyBitPattern);
    assert_not_impl_any!(Padded<bool, 3>: AnyBitPattern);
    assert_not_impl_any!(Padded<u8, 3>: NoUninit);
    assert_impl_all!(Unit: NoUninit);
    assert_not_impl_any!(Unit: AnyBitPattern);
    assert_impl_all!(Nothing: AnyBitPattern, NoUninit);
}
