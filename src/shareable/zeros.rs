//! Types of which zeros are a value

use super::Shareable;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::num::{NonZero, Saturating, Wrapping};
use core::sync::atomic;

/// A type of which zeros are a value, so that new memory of a segment, which is zeros, holds one already.
///
/// It is implemented for integers, floats, `bool`, `char`, `()`, the atomics, `Option` of [`NonZero`], for arrays,
/// [`MaybeUninit`], [`Wrapping`], [`Saturating`] and [`PhantomData`] of such types, for all that is in [`sync`](crate::sync) and lies in
/// shared memory, for the queues, and for [`Handle`](crate::Handle), of which they are the one of nothing.
///
/// # Safety
/// Whoever implements it promises that zero in every byte is a valid value of the type, with all that its methods rely on.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, FromZeros, ShmemError, Tlsf, shareable};
/// use std::sync::atomic::AtomicU64;
///
/// shareable! {
///     #[repr(C)]
///     pub struct Histogram {
///         pub counts: [AtomicU64; 100_000],
///     }
/// }
///
/// // SAFETY: atomics, of which zeros are a value.
/// unsafe impl FromZeros for Histogram {}
///
/// # fn main() -> Result<(), ShmemError> {
/// let (segment, _fd) = Builder::memfd().create(1 << 20)?;
/// let arena = segment.arena::<Tlsf>()?;
/// // It is never on the stack.
/// let histogram = arena.alloc_zeroed::<Histogram>()?;
/// assert_eq!(histogram.counts.len(), 100_000);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "zeros may be no `{Self}`",
    label = "not `FromZeros`",
    note = "build a value, and move it where it is to be"
)]
pub unsafe trait FromZeros: Shareable {}

macro_rules! from_zeros {
    ($($type:ty)*) => { $(
        // SAFETY: zero, `false`, or the character NUL, has zero bytes.
        unsafe impl FromZeros for $type {}
    )* };
}

from_zeros! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char
    atomic::AtomicU8 atomic::AtomicU16 atomic::AtomicU32 atomic::AtomicU64 atomic::AtomicUsize
    atomic::AtomicI8 atomic::AtomicI16 atomic::AtomicI32 atomic::AtomicI64 atomic::AtomicIsize
    atomic::AtomicBool
}

macro_rules! non_zero {
    ($($integer:ty)*) => { $(
        // SAFETY: documented to have the layout of the integer, with zero for `None`.
        unsafe impl FromZeros for Option<NonZero<$integer>> {}
    )* };
}

non_zero! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

// SAFETY: it has no bytes.
unsafe impl FromZeros for () {}
// SAFETY: N values of such a type, one after the other.
unsafe impl<T: FromZeros, const N: usize> FromZeros for [T; N] {}
// SAFETY: of any type, any bytes are valid.
unsafe impl<T: Shareable> FromZeros for MaybeUninit<T> {}
// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: FromZeros> FromZeros for Wrapping<T> {}
// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: FromZeros> FromZeros for Saturating<T> {}
// SAFETY: it has no bytes.
unsafe impl<T: Shareable> FromZeros for PhantomData<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!([Option<NonZero<u8>>; 2]: FromZeros);
    assert_not_impl_any!(NonZero<u8>: FromZeros);
    assert_not_impl_any!([NonZero<u8>; 2]: FromZeros);
}
