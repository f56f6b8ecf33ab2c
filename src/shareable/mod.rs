//! Types that may be shared
//!
//! A type is [`Shareable`] if its values mean the same in every process: no addresses, no handles of one
//! process, and a layout that does not depend on who compiled it. Its [`TypeTag`] is the layout in a few
//! words, so that a look-up can tell a value of another type before anybody touches it.
//!
//! # Safety
//! Implements [`Shareable`] for types of core. The reference and the docs of core fix the layout of each; it
//! is named at each group of them.
#![allow(unsafe_code)]

#[macro_use]
mod macros;
mod further;
mod tag;
mod pattern;
mod zeros;

pub use pattern::{AnyBitPattern, NoUninit};
pub use tag::{TagMismatch, TypeTag};
pub use zeros::FromZeros;

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::num::{NonZero, Saturating, Wrapping};
use core::sync::atomic;

/// A type whose values may live in a segment and be used by all processes that are attached to it.
///
/// Implement it with [`shareable!`](crate::shareable!), which checks everything. It is implemented for
/// integers, floats, `bool`, `char`, `()`, the atomics except `AtomicPtr`, [`NonZero`] and `Option` of it,
/// [`Wrapping`], [`Saturating`], for arrays, [`MaybeUninit`] and [`PhantomData`] of such types, and for what
/// [`sync`](crate::sync) has around such types.
///
/// Not for these, with the reason:
/// - References, pointers, `Box`, `String`, `Vec`, functions, `AtomicPtr`: addresses of one process.
/// - File descriptors, `ThreadId`, `Instant` and the like: handles of one process.
/// - Tuples, `Option` and `Result` of other types, [`Duration`](core::time::Duration), addresses of
///   [`core::net`]: their layout is not fixed. Use a `repr(C)` struct, or numbers.
/// - `Cell` and `UnsafeCell`: they are not `Sync`, so by themselves of no use to several processes, and one
///   process alone has `&mut`. A type that makes itself `Sync` around them is a lock of some kind, and its
///   author must say what becomes of the value when its holder dies. That is an argument to be made by hand,
///   in the `SAFETY` comment of an `unsafe impl`. [`Mutex`](crate::sync::Mutex) is such a type.
///
/// # Safety
/// Whoever implements it promises that:
/// 1. **Layout.** The size, alignment, offsets of fields, and which bytes are a valid value, are fixed: by
///    `repr(C)`, `repr(transparent)` or `repr` of an integer type, from parts that are `Shareable` themselves
///    or have a layout that their documentation fixes.
/// 2. **Tag.** [`TAG`](Self::TAG) has the size of the type, and at least its alignment. Types with equal tags, also in
///    programs built apart, are the same to everybody: a value of one is a valid value of the other, with
///    all that its methods rely on. Fingerprints that are equal by chance do not count (of 64 bits; those of objects in an arena are cut to 40).
/// 3. **No addresses.** The meaning of a value does not depend on where it lies or on which process looks at
///    it. Several processes use the same bytes at different addresses at the same time. So it has no
///    pointers, no references, no addresses as integers, and no handles that mean something in one process
///    only, such as file descriptors or thread ids, unless it checks whose they are.
/// 4. **Any process, any thread.** What safe code can do with a value, it may do in any attached process,
///    other processes counting as other threads. That includes dropping it: the destructor runs in any
///    attached process, at most once, or never; a process that dies drops nothing, and may die in the middle
///    of any method.
/// 5. **Frozen.** If [`FROZEN`](Self::FROZEN) is true, nothing is ever written through a shared reference to
///    the type: it has no `UnsafeCell` in it, so no atomics either.
///
/// Not part of the promise: that bytes are a valid value at all. Processes that may write to the segment are
/// trusted with the values in it.
///
/// # Examples
/// ```
/// use shmem_bind::{Shareable, shareable};
/// use std::sync::atomic::AtomicU64;
///
/// shareable! {
///     #[repr(C)]
///     struct Counters { requests: AtomicU64, errors: AtomicU64 }
/// }
///
/// assert_eq!((Counters::TAG.size(), Counters::TAG.align(), Counters::TAG.version()), (16, 8, 0));
/// assert!(!Counters::FROZEN && <[u8; 4]>::FROZEN);
/// ```
/// ```compile_fail,E0277
/// # use shmem_bind::{Shareable, TypeTag};
/// #[repr(C)]
/// struct Counted(std::rc::Rc<u8>);
///
/// // SAFETY: a false promise, of which the compiler sees one part: `Rc` is not `Send`.
/// unsafe impl Shareable for Counted {
///     const TAG: TypeTag = TypeTag::new::<Self>("Counted", 0);
///     const FROZEN: bool = true;
/// }
/// ```
/// ```compile_fail,E0478
/// # use shmem_bind::{Shareable, TypeTag};
/// #[repr(C)]
/// struct Borrowing<'a>(&'a u8);
///
/// // SAFETY: a false promise, of which the compiler sees one part: it is not `'static`.
/// unsafe impl<'a> Shareable for Borrowing<'a> {
///     const TAG: TypeTag = TypeTag::new::<Self>("Borrowing", 0);
///     const FROZEN: bool = true;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` may not live in shared memory",
    label = "not `Shareable`",
    note = "a shareable type has a fixed layout and no pointers, references or handles in it",
    note = "define your own types with `shareable!`"
)]
pub unsafe trait Shareable: Sized + Send + 'static {
    /// What the type is, for comparison with what is found in a segment.
    const TAG: TypeTag;

    /// Whether the type is without interior mutability, so that a read-only mapping may give `&Self`.
    const FROZEN: bool;
}

/// Types of core that stand for themselves.
macro_rules! core_types {
    ($frozen:literal: $($name:literal $type:ty),* $(,)?) => { $(
        // SAFETY: a number, or an atomic one, which has the representation of the number and, if `Atomic`,
        // interior mutability; `bool`, `char` and `()` have a fixed representation too. None has an address,
        // none drops.
        unsafe impl Shareable for $type {
            const TAG: TypeTag = TypeTag::of_core::<Self>($name, 1, None);
            const FROZEN: bool = $frozen;
        }
    )* };
}

core_types! { true:
    "u8" u8, "u16" u16, "u32" u32, "u64" u64, "u128" u128, "usize" usize,
    "i8" i8, "i16" i16, "i32" i32, "i64" i64, "i128" i128, "isize" isize,
    "f32" f32, "f64" f64, "bool" bool, "char" char, "()" (),
}

core_types! { false:
    "AtomicU8" atomic::AtomicU8, "AtomicU16" atomic::AtomicU16, "AtomicU32" atomic::AtomicU32,
    "AtomicU64" atomic::AtomicU64, "AtomicUsize" atomic::AtomicUsize,
    "AtomicI8" atomic::AtomicI8, "AtomicI16" atomic::AtomicI16, "AtomicI32" atomic::AtomicI32,
    "AtomicI64" atomic::AtomicI64, "AtomicIsize" atomic::AtomicIsize,
    "AtomicBool" atomic::AtomicBool,
}

/// Integers that are not zero, and those that may be.
macro_rules! non_zero {
    ($($integer:ty)*) => { $(
        // SAFETY: documented to have the layout of the integer, without the value zero.
        unsafe impl Shareable for NonZero<$integer> {
            const TAG: TypeTag = TypeTag::of_core::<Self>("NonZero", 1, Some(<$integer>::TAG));
            const FROZEN: bool = true;
        }

        // SAFETY: documented to have the layout of the integer, with zero for `None`.
        unsafe impl Shareable for Option<NonZero<$integer>> {
            const TAG: TypeTag = TypeTag::of_core::<Self>("Option", 1, Some(<NonZero<$integer>>::TAG));
            const FROZEN: bool = true;
        }
    )* };
}

non_zero! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

// SAFETY: N elements of a `Shareable` type, one after the other; all else follows from theirs.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {
    const TAG: TypeTag = TypeTag::of_core::<Self>("[]", N, Some(T::TAG));
    const FROZEN: bool = T::FROZEN;
}

// SAFETY: documented to have the size and alignment of `T`; any bytes are valid, and it drops nothing.
unsafe impl<T: Shareable> Shareable for MaybeUninit<T> {
    const TAG: TypeTag = TypeTag::of_core::<Self>("MaybeUninit", 1, Some(T::TAG));
    const FROZEN: bool = T::FROZEN;
}

// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: Shareable> Shareable for Wrapping<T> {
    const TAG: TypeTag = TypeTag::of_core::<Self>("Wrapping", 1, Some(T::TAG));
    const FROZEN: bool = T::FROZEN;
}

// SAFETY: `repr(transparent)`, and no more than a `T`.
unsafe impl<T: Shareable> Shareable for Saturating<T> {
    const TAG: TypeTag = TypeTag::of_core::<Self>("Saturating", 1, Some(T::TAG));
    const FROZEN: bool = T::FROZEN;
}

// SAFETY: documented to have size 0 and alignment 1, so it has no bytes to go wrong and nothing to write.
// That `T` is `Shareable` is wanted for the tag, which must tell a type with one parameter from another.
unsafe impl<T: Shareable> Shareable for PhantomData<T> {
    const TAG: TypeTag = TypeTag::of_marker::<Self>("PhantomData", T::TAG);
    const FROZEN: bool = true;
}

#[cfg(test)]
mod tests {
    // Most types are defined for their tags only.
    #![allow(dead_code, clippy::arithmetic_side_effects)]

    use super::*;
    use core::cell::{Cell, UnsafeCell};
    use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32};
    use core::time::Duration;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    assert_impl_all!(TypeTag: Shareable);
    assert_impl_all!(Option<NonZero<u8>>: Shareable);
    assert_not_impl_any!(Option<u8>: Shareable);
    assert_not_impl_any!(Duration: Shareable);
    assert_not_impl_any!((u8, u8): Shareable);
    assert_not_impl_any!(AtomicPtr<u8>: Shareable);
    assert_not_impl_any!(Cell<u8>: Shareable);
    assert_not_impl_any!(UnsafeCell<u8>: Shareable);
    assert_not_impl_any!([*const u8; 2]: Shareable);
    assert_not_impl_any!(Pair<u8, *const u8>: Shareable);

    shareable! {
        /// A documented type.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        #[repr(C)]
        pub(crate) struct Point {
            /// A documented field.
            pub x: f32,
            y: f32,
        }
    }

    shareable! {
        #[repr(C)]
        struct Pair<A: Shareable, B: Into<Option<B>>>(A, pub(super) B);
    }

    shareable! {
        #[repr(transparent)]
        struct Grid<T: Copy + Into<Option<u8>> = u8, const N: usize = 2, const FLAG: bool = { 1 < 2 }>
        where
            [T; N]: Sized,
        {
            cells: [[T; N]; N],
        }
    }

    shareable! {
        #[repr(C)]
        struct Iterated<T>(T::Item, PhantomData<T>) where T: IntoIterator<Item = u8>, T::Item: Shareable;
    }

    shareable! {
        #[repr(C)]
        struct Marker;
    }

    shareable! {
        #[repr(C)]
        struct Empty {}
    }

    shareable! {
        name = "org.example.Level";
        version = 3;
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(i16)]
        enum Level {
            Low = -1,
            /// A documented variant.
            #[default]
            Middle,
            High = 500,
        }
    }

    /// The tag of `struct Sample` with these fields, one `repr(C)` definition each.
    macro_rules! tags_of {
        ($({ $($definition:tt)* })*) => { [$({
            shareable! { $($definition)* }
            Sample::TAG
        }),*] };
    }

    // The expected fingerprints come from another implementation of the rules in `tag.rs`.
    #[test]
    fn tags_stay_what_they_are() {
        let known = [
            (u8::TAG, 0x7451_9224_c21a_35ac),
            (f64::TAG, 0x2c2a_89da_fb88_fd96),
            (<()>::TAG, 0xc14f_2704_eec2_e919),
            (AtomicU32::TAG, 0x5536_705a_993c_823a),
            (<NonZero<u16>>::TAG, 0x8760_16a6_fa55_796d),
            (<Option<NonZero<u16>>>::TAG, 0xa513_3ae5_7973_8de4),
            (<[u8; 3]>::TAG, 0x6ca2_fb16_6ff9_adf8),
            (<MaybeUninit<[u8; 3]>>::TAG, 0xe5d7_eafc_6e1d_11d2),
            (<Wrapping<u8>>::TAG, 0x490d_269e_dcf4_a0f2),
            (<Saturating<u8>>::TAG, 0x868a_a552_31a3_4cae),
            (<PhantomData<u8>>::TAG, 0x7716_2ba9_e481_75c3),
            (TypeTag::TAG, 0xb32a_42a2_11c8_8077),
            (Marker::TAG, 0xcc19_9c5d_32d9_65e4),
            (Level::TAG, 0xe2a0_2b36_85bd_eb57),
            (<Pair<u8, u16>>::TAG, 0xa9d2_2fbd_6d12_2fbc),
            (<Grid<u8, 2, true>>::TAG, 0xb636_f77c_0ecb_d050),
        ];
        for (tag, fingerprint) in known {
            assert_eq!(tag.fingerprint(), fingerprint, "{tag}");
        }
    }

    #[test]
    fn every_change_of_a_definition_changes_the_tag() {
        shareable! {
            name = "Inner";
            #[repr(C)]
            struct Plain { a: u32, b: u32 }
        }
        shareable! {
            name = "Inner";
            #[repr(C, align(8))]
            struct Coarse { a: u32, b: u32 }
        }
        let tags = tags_of! {
            { #[repr(C)] struct Sample { a: u32, b: u32 } }
            { #[repr(C)] struct Sample { a: u32, c: u32 } }
            { #[repr(C)] struct Sample { b: u32, a: u32 } }
            { #[repr(C)] struct Sample { a: u32, b: i32 } }
            { #[repr(C)] struct Sample { a: u32, b: f32 } }
            { #[repr(C)] struct Sample { a: u32, b: AtomicU32 } }
            { #[repr(C)] struct Sample { a: u32, b: MaybeUninit<u32> } }
            { #[repr(C)] struct Sample { a: u32, b: Wrapping<u32> } }
            { #[repr(C)] struct Sample { a: u32, b: Saturating<u32> } }
            { #[repr(C)] struct Sample { a: u32, b: NonZero<u32> } }
            { #[repr(C)] struct Sample { a: u32, b: Option<NonZero<u32>> } }
            { #[repr(C)] struct Sample { a: u32, b: char } }
            { #[repr(C)] struct Sample { a: u32, b: [u32; 1] } }
            { #[repr(C)] struct Sample { a: u32, b: [u16; 2] } }
            { #[repr(C)] struct Sample { a: u32, b: Pair<u16, u16> } }
            { #[repr(C)] struct Sample { a: u32, b: Pair<u16, i16> } }
            { #[repr(C)] struct Sample { a: u32, b: u32, c: () } }
            { #[repr(C)] struct Sample { a: u32, b: u32, c: PhantomData<u8> } }
            { #[repr(C)] struct Sample { a: u32, b: u32, c: PhantomData<i8> } }
            { #[repr(C)] struct Sample { a: u32, b: u32, c: [u8; 0] } }
            { #[repr(C)] struct Sample { a: u32 } }
            { #[repr(C)] struct Sample { a: u64 } }
            { #[repr(C)] struct Sample(u32, u32); }
            { #[repr(C)] struct Sample; }
            { #[repr(C, align(8))] struct Sample { a: u32, b: u32 } }
            { #[repr(C)] struct Sample { a: Plain } }
            { #[repr(C)] struct Sample { a: Coarse } }
            { version = 1; #[repr(C)] struct Sample { a: u32, b: u32 } }
            { version = 2; #[repr(C)] struct Sample { a: u32, b: u32 } }
            { name = "Other"; #[repr(C)] struct Sample { a: u32, b: u32 } }
            { name = "Other"; version = 1; #[repr(C)] struct Sample { a: u32, b: u32 } }
            { #[repr(u8)] enum Sample { A, B } }
            { #[repr(u8)] enum Sample { B, A } }
            { #[repr(u8)] enum Sample { A, C } }
            { #[repr(u8)] enum Sample { A, B = 2 } }
            { #[repr(u8)] enum Sample { A, B, C } }
            { #[repr(u16)] enum Sample { A, B } }
        };
        for (index, tag) in tags.iter().enumerate() {
            for (later, other) in tags.iter().enumerate().skip(index + 1) {
                // The alignment stands beside the fingerprint.
                let is_seen = tag.fingerprint() != other.fingerprint() || tag.align() != other.align();
                assert!(is_seen, "{index} and {later}");
            }
        }
    }

    #[test]
    fn the_same_definition_has_the_same_tag_wherever_it_is() {
        mod elsewhere {
            shareable! {
                // Neither docs, derives, visibilities nor a version of 0 make another type.
                version = 0;
                #[derive(Debug)]
                #[doc(hidden)]
                #[repr(align(1))]
                #[repr(C)]
                pub(super) struct Point { pub(super) x: f32, pub(super) y: f32, }
            }
        }
        mod renamed {
            shareable! {
                name = "Point";
                #[repr(C)]
                pub(super) struct Location { x: f32, y: core::primitive::f32 }
            }
        }
        assert_eq!(Point::TAG, elsewhere::Point::TAG);
        assert_eq!(Point::TAG, renamed::Location::TAG);
    }

    // On i686 a `u64` is aligned to 4 bytes. This runs on both.
    #[test]
    fn what_lies_the_same_has_the_same_tag_on_all_machines() {
        #[repr(C, packed(4))]
        struct U64OfI686(u64);

        let on_i686 = TypeTag::of_core::<U64OfI686>("u64", 1, None);
        assert_eq!((on_i686, on_i686.align()), (u64::TAG, 8));
        let of = |tag: TypeTag| (tag.fingerprint(), tag.size(), tag.align());
        let tags = tags_of! {
            { #[repr(C)] struct Sample { a: u64, b: u64 } }
            { #[repr(C)] struct Sample { a: u32, b: u32, c: [f64; 2] } }
            { #[repr(transparent)] struct Sample { a: Wrapping<i64> } }
            { #[repr(u64)] enum Sample { A } }
        };
        assert_eq!(tags.map(|tag| (tag.size(), tag.align())), [(16, 8), (24, 8), (8, 8), (8, 8)]);
        assert_eq!(of(tags[0]), (0x78d5_617e_43bc_ed12, 16, 8));
        assert_eq!((<[u64; 0]>::TAG.align(), <PhantomData<u64>>::TAG.align()), (8, 1));
        assert_eq!((u128::TAG.align(), Option::<NonZero<i64>>::TAG.align()), (16, 8));

        // What lies otherwise has not.
        shareable! {
            #[repr(C)]
            struct Mixed { a: u32, b: u64 }
        }
        let size = if align_of::<u64>() == 4 { 12 } else { 16 };
        assert_eq!((Mixed::TAG.size(), Mixed::TAG.align()), (size, 8));
    }

    #[test]
    fn the_size_of_an_address_is_in_the_tag() {
        let (narrow, wide) =
            (TypeTag::of_core::<u32>("usize", 1, None), TypeTag::of_core::<u64>("usize", 1, None));
        assert_ne!(narrow.fingerprint(), wide.fingerprint());
        assert_eq!(usize::TAG, if size_of::<usize>() == 4 { narrow } else { wide });
        assert_ne!(usize::TAG, u64::TAG);
    }

    #[test]
    fn a_tag_tells_size_alignment_and_version() {
        let of = |tag: TypeTag| (tag.size(), tag.align(), tag.version());
        assert_eq!(of(Point::TAG), (8, 4, 0));
        assert_eq!(of(<Pair<u8, u32>>::TAG), (8, 4, 0));
        assert_eq!(of(<Grid<u8, 3>>::TAG), (9, 1, 0));
        assert_eq!(of(Marker::TAG), (0, 1, 0));
        assert_eq!(of(Empty::TAG), (0, 1, 0));
        assert_eq!(of(Level::TAG), (2, 2, 3));
        assert_eq!(of(<[Level; 5]>::TAG), (10, 2, 3), "an array has the version of its elements");
        assert_eq!(of(<Iterated<[u8; 4]>>::TAG), (1, 1, 0));
    }

    #[test]
    fn parameters_are_part_of_the_tag() {
        shareable! {
            #[repr(transparent)]
            struct Id<const KIND: i8, const LETTER: char>(u32);
        }
        let tags = [<Id<1, 'a'>>::TAG, <Id<-1, 'a'>>::TAG, <Id<1, 'b'>>::TAG];
        assert_ne!(tags[0], tags[1]);
        assert_ne!(tags[0], tags[2]);
        assert_ne!(<Grid<u8, 2, true>>::TAG, <Grid<u8, 2, false>>::TAG);
        assert_eq!(<Grid>::TAG, <Grid<u8, 2, true>>::TAG, "defaults stay");
    }

    #[test]
    fn a_type_is_frozen_if_all_of_it_is() {
        let frozen = [
            Point::FROZEN,
            Level::FROZEN,
            Marker::FROZEN,
            <Pair<u8, Wrapping<i8>>>::FROZEN,
            <PhantomData<AtomicU8>>::FROZEN,
        ];
        assert_eq!(frozen, [true; 5]);
        shareable! {
            #[repr(C)]
            struct Both<A, B>(A, B);
        }
        let not = [
            AtomicU8::FROZEN,
            <[AtomicU8; 2]>::FROZEN,
            <MaybeUninit<AtomicU8>>::FROZEN,
            <Wrapping<AtomicU8>>::FROZEN,
            <Both<u8, AtomicU8>>::FROZEN,
            <Both<AtomicU8, u8>>::FROZEN,
        ];
        assert_eq!(not, [false; 6]);
    }

    #[test]
    fn the_definition_stays_as_it_is() {
        let point = Point { x: 1.0, ..Point::default() };
        assert_eq!(point, point.clone());
        assert_eq!(Level::default(), Level::Middle);
        assert_eq!([Level::Low, Level::Middle, Level::High].map(|level| level as i16), [-1, 0, 500]);
        let Pair(first, second) = Pair(1u8, 2u8);
        assert_eq!((first, second), (1, 2));
        let (_, _) = (Marker, Empty {});
    }

    #[test]
    fn many_fields_docs_and_levels_are_no_trouble() {
        macro_rules! wide {
            ($($field:ident)*) => {
                shareable! {
                    $(
                        #[doc = stringify!($field)]
                        #[doc = "is a field"]
                        #[doc = ""]
                    )*
                    #[repr(C)]
                    struct Wide { $(/** A field. */ $field: u8),* }
                }
            };
        }
        wide! {
            a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 b0 b1 b2 b3 b4 b5 b6 b7 b8 b9 c0 c1 c2 c3 c4 c5 c6 c7 c8 c9
            d0 d1 d2 d3 d4 d5 d6 d7 d8 d9 e0 e1 e2 e3 e4 e5 e6 e7 e8 e9 f0 f1 f2 f3 f4 f5 f6 f7 f8 f9
            g0 g1 g2 g3 g4 g5 g6 g7 g8 g9 h0 h1 h2 h3 h4 h5 h6 h7 h8 h9 i0 i1 i2 i3 i4 i5 i6 i7 i8 i9
            j0 j1 j2 j3 j4 j5 j6 j7 j8 j9 k0 k1 k2 k3 k4 k5 k6 k7 k8 k9 l0 l1 l2 l3 l4 l5 l6 l7 l8 l9
            m0 m1 m2 m3 m4 m5 m6 m7 m8 m9 n0 n1 n2 n3 n4 n5 n6 n7 n8 n9 o0 o1 o2 o3 o4 o5 o6 o7 o8 o9
        }
        assert_eq!(Wide::TAG.size(), 150);
        shareable! {
            #[repr(C)]
            struct Long(u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8,
                u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u16);
        }
        assert_eq!(Long::TAG.size(), 34);
    }
}
