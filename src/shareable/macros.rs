//! The `shareable!` macro
//!
//! The macro sees the tokens of a definition, and its promise is the compiler's: what it emits compiles only
//! if the tokens it saw are the whole definition, each field's type is `Shareable`, and nothing is packed.

/// Defines a type that may live in shared memory, and implements [`Shareable`](crate::Shareable) for it.
///
/// Takes one definition, of a struct of any kind or of an enum without fields, and leaves it as it is:
/// attributes, docs, visibilities, generic parameters, defaults and `where` clauses stay. A type parameter is
/// bound by `Shareable` in the implementation, whether or not it is in the definition.
///
/// The layout must be fixed: `#[repr(C)]` or `#[repr(transparent)]` for a struct, `#[repr(u8)]` or another
/// integer for an enum.
///
/// # Examples
/// ```
/// use shmem_bind::{Shareable, shareable};
/// use std::sync::atomic::AtomicU64;
///
/// shareable! {
///     /// What a worker does.
///     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
///     #[repr(u8)]
///     pub enum Activity {
///         Idle,
///         Busy = 10,
///     }
/// }
///
/// shareable! {
///     /// A worker.
///     #[repr(C)]
///     pub struct Worker<const N: usize> {
///         pub activity: Activity,
///         pub served: [AtomicU64; N],
///     }
/// }
///
/// shareable! {
///     #[derive(Clone, Copy)]
///     #[repr(C)]
///     struct Pair<A, B: Copy = A>(A, B) where A: Copy;
/// }
///
/// assert!(Activity::FROZEN);
/// assert!(!Worker::<3>::FROZEN, "atomics change through a shared reference");
/// assert_ne!(Worker::<3>::TAG, Worker::<4>::TAG);
/// assert_ne!(Pair::<u8>::TAG, Pair::<u8, i8>::TAG);
/// ```
///
/// # Name and version
/// The stable name of a type, part of its [tag](crate::TypeTag), is its bare name, whatever the crate and the
/// module. So programs may keep their definitions where they like; but two types of the same name, fields and
/// layout are one type to all others. Give a type a name of its own if it must not be mistaken for a
/// namesake, above all if `unsafe` code relies on what is in it; or if it is to be recognised after its Rust
/// name has changed. Give it another version when its meaning changes and its fields do not. They come before
/// the definition, in any order:
/// ```
/// use shmem_bind::{Shareable, shareable};
///
/// mod metres {
///     shmem_bind::shareable! { #[repr(transparent)] pub struct Length(f64); }
/// }
/// mod feet {
///     shmem_bind::shareable! { #[repr(transparent)] pub struct Length(f64); }
/// }
/// mod miles {
///     shmem_bind::shareable! {
///         name = "org.example.Miles";
///         version = 2;
///         #[repr(transparent)]
///         pub struct Length(f64);
///     }
/// }
///
/// assert_eq!(metres::Length::TAG, feet::Length::TAG);
/// assert_ne!(metres::Length::TAG, miles::Length::TAG);
/// assert_eq!(miles::Length::TAG.version(), 2);
/// ```
///
/// # Further traits
/// `implement = AnyBitPattern + NoUninit;`, or one of both, before the definition implements
/// [`AnyBitPattern`](crate::AnyBitPattern) and [`NoUninit`](crate::NoUninit) too, if the fields allow it, without `unsafe`:
/// ```
/// use shmem_bind::{CopyRegion, ShmemError, shareable};
///
/// shareable! {
///     implement = AnyBitPattern + NoUninit;
///     #[derive(Clone, Copy, Debug, PartialEq)]
///     #[repr(C)]
///     pub struct Frame {
///         pub time: u64,
///         pub size: [u32; 2],
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// let (region, _fd) = CopyRegion::create(4096)?;
/// region.write(64, &Frame { time: 7, size: [640, 480] })?;
/// assert_eq!(region.read::<Frame>(64)?.size, [640, 480]);
/// # Ok(())
/// # }
/// ```
/// All fields of a struct must be such types; one that is `NoUninit` has no padding and no parameters. An enum may be
/// `NoUninit`. Do not ask for `AnyBitPattern` if `unsafe` code of the type relies on two fields fitting together: as with
/// a derived `Clone`, that is between its author and its code.
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     implement = AnyBitPattern;
///     #[repr(C)]
///     struct Flagged { value: u8, is_valid: bool }
/// }
/// ```
/// ```compile_fail,E0080
/// shmem_bind::shareable! {
///     implement = NoUninit;
///     #[repr(C)]
///     struct Padded { small: u8, large: u32 }
/// }
/// ```
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     implement = NoUninit;
///     #[repr(C)]
///     struct Unwritten { bytes: core::mem::MaybeUninit<[u8; 4]> }
/// }
/// ```
/// ```compile_fail
/// shmem_bind::shareable! {
///     implement = AnyBitPattern;
///     #[repr(u8)]
///     enum Activity { Idle, Busy }
/// }
/// ```
/// ```compile_fail
/// shmem_bind::shareable! {
///     implement = NoUninit;
///     #[repr(C)]
///     struct Pair<A, B>(A, B);
/// }
/// ```
///
/// # What it cannot see
/// The macro needs no `unsafe`, since all that it promises is checked; but it sees types and not meanings. An
/// integer that stands for a file descriptor or an address is an integer to it. A type whose `Drop` or
/// methods give an integer such a meaning must not be made `Shareable`.
///
/// An enum is valid only if its discriminant is one of its variants. Processes that can write to the segment
/// are trusted with that, as with every other value in it: reading an enum, `bool` or `char` from memory that
/// a hostile process may write is outside the promise.
///
/// # What it refuses
/// A type without a fixed layout, such as this one, which compiles with `#[repr(C)]`:
/// ```compile_fail,E0080
/// shmem_bind::shareable! {
///     #[derive(Clone)]
///     struct Unordered { a: u8, b: u32 }
/// }
/// ```
/// ```
/// shmem_bind::shareable! {
///     #[derive(Clone)]
///     #[repr(C)]
///     struct Ordered { a: u8, b: u32 }
/// }
/// ```
/// Likewise an enum, for which `repr(C)` is not enough, as it leaves the size to the platform:
/// ```compile_fail,E0080
/// shmem_bind::shareable! {
///     #[repr(C)]
///     enum Unsized { A, B }
/// }
/// ```
/// A packed type, even if it happens to have no misaligned field:
/// ```compile_fail
/// shmem_bind::shareable! {
///     #[repr(C, packed)]
///     struct Packed { a: u8, b: [u8; 4] }
/// }
/// ```
/// and one with a misaligned field, even if it does not say openly that it is packed:
/// ```compile_fail,E0793
/// shmem_bind::shareable! {
///     #[cfg_attr(all(), repr(packed))]
///     #[repr(C)]
///     struct Packed { a: u8, b: u32 }
/// }
/// ```
/// References, since other processes have other addresses:
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Borrowing { text: &'static str }
/// }
/// ```
/// and types with lifetimes:
/// ```compile_fail
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Borrowing<'a> { number: core::marker::PhantomData<&'a u8> }
/// }
/// ```
/// Pointers:
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Pointing { bytes: *const u8 }
/// }
/// ```
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Calling { function: fn() }
/// }
/// ```
/// What is on one process's heap, or counted there:
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Boxed { bytes: Box<[u8; 64]> }
/// }
/// ```
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Named { name: String }
/// }
/// ```
/// ```compile_fail,E0277
/// shmem_bind::shareable! {
///     #[repr(C)]
///     struct Counted { number: std::rc::Rc<u8> }
/// }
/// ```
/// The same in a type parameter, where the type is used:
/// ```compile_fail,E0277
/// use shmem_bind::{Shareable, shareable};
///
/// shareable! {
///     #[repr(C)]
///     struct Pair<A, B>(A, B);
/// }
///
/// fn publish<T: Shareable>() {}
/// publish::<Pair<u8, Box<u8>>>();
/// ```
/// An enum with fields, whose tag and fields a dying process may leave from two different values:
/// ```compile_fail
/// shmem_bind::shareable! {
///     #[repr(u8)]
///     enum Shape { Point, Circle(f32) }
/// }
/// ```
/// A union:
/// ```compile_fail
/// shmem_bind::shareable! {
///     #[repr(C)]
///     union Either { a: u32, b: f32 }
/// }
/// ```
///
/// # Limits
/// - `repr` must be written as such and not within `cfg_attr`. A `cfg` for the whole type belongs on the
///   `shareable!`; one on a field or variant compiles only where it holds.
/// - Tuple structs have at most 32 fields.
/// - Generic parameters of more than about 50 tokens, and a `where` clause of more than about 100, need a
///   higher `recursion_limit`. In a `where` clause of a struct with named fields, constants in braces
///   (`Table<{ 2 }>: Copy`) are not recognised.
/// - A field whose type is derived from a parameter (`T::Item`) needs its own `where T::Item: Shareable`.
/// - It writes an `unsafe impl`, so it cannot be used under `forbid(unsafe_code)`; under `deny` it can.
#[macro_export]
macro_rules! shareable {
    ($($item:tt)*) => {
        $crate::__shareable! { @options {} {} {} $($item)* }
    };
}

/// The steps of `shareable!`, none of them for others. `head` carries, unread, what was parsed first:
/// version, attributes, visibility, stable name, further traits, name. `generics` carries the parameters: as declared; as in
/// an `impl`; as arguments; those that are types; those that are constants.
#[doc(hidden)]
#[macro_export]
macro_rules! __shareable {
    // What comes before the item, each at most once: version, stable name, further traits.
    (@options {} $label:tt $traits:tt version = $version:expr; $($rest:tt)*) => {
        $crate::__shareable! { @options { $version } $label $traits $($rest)* }
    };
    (@options $version:tt {} $traits:tt name = $label:expr; $($rest:tt)*) => {
        $crate::__shareable! { @options $version { $label } $traits $($rest)* }
    };
    (@options $version:tt $label:tt {} implement = $trait:ident $(+ $more:ident)*; $($rest:tt)*) => {
        $crate::__shareable! { @options $version $label { $trait $($more)* } $($rest)* }
    };

    // The beginning of the item. The version is 0 and the stable name the bare one unless given.
    (@options {} $label:tt $traits:tt $($item:tt)*) => {
        $crate::__shareable! { @options { 0 } $label $traits $($item)* }
    };
    (@options $version:tt {} $traits:tt
        $(#[$($attribute:tt)*])* $vis:vis $kind:ident $name:ident $($rest:tt)*) => {
        $crate::__shareable! {
            @$kind
            {
                $version { $([$($attribute)*])* } { $vis } { ::core::stringify!($name) } $traits $name
            }
            $($rest)*
        }
    };
    (@options $version:tt $label:tt $traits:tt
        $(#[$($attribute:tt)*])* $vis:vis $kind:ident $name:ident $($rest:tt)*) => {
        $crate::__shareable! {
            @$kind { $version { $([$($attribute)*])* } { $vis } $label $traits $name } $($rest)*
        }
    };

    (@struct $head:tt < $($rest:tt)*) => {
        $crate::__shareable! { @parameter $head [] [] [] [] [] $($rest)* }
    };
    (@struct $head:tt $($rest:tt)*) => {
        $crate::__shareable! { @body $head { [] [] [] [] [] } [] $($rest)* }
    };

    // One generic parameter after the other.
    (@parameter $head:tt $decl:tt $imp:tt $args:tt $types:tt $consts:tt > $($rest:tt)*) => {
        $crate::__shareable! { @body $head { $decl $imp $args $types $consts } [] $($rest)* }
    };
    (@parameter $head:tt [$($decl:tt)*] [$($imp:tt)*] [$($args:tt)*] $types:tt [$($consts:tt)*]
        const $param:ident $($rest:tt)*) => {
        $crate::__shareable! {
            @scan bounds [] $head [$($decl)* const $param] [$($imp)* const $param] [$($args)* $param,]
            $types [$($consts)* $param] $($rest)*
        }
    };
    (@parameter $head:tt $decl:tt $imp:tt $args:tt $types:tt $consts:tt $lifetime:lifetime $($rest:tt)*) => {
        ::core::compile_error! {
            "a type with a lifetime cannot be shared: a reference leads nowhere in another process"
        }
    };
    (@parameter $head:tt [$($decl:tt)*] [$($imp:tt)*] [$($args:tt)*] [$($types:tt)*] $consts:tt
        $param:ident $($rest:tt)*) => {
        $crate::__shareable! {
            @scan bounds [] $head [$($decl)* $param] [$($imp)* $param] [$($args)* $param,]
            [$($types)* $param] $consts $($rest)*
        }
    };

    // Its bounds, to the next comma or the end, outside of inner angle brackets, the open ones of which are
    // in the first list; its default goes to the declaration only.
    (@scan $step:ident $open:tt $head:tt $decl:tt $imp:tt $args:tt $types:tt $consts:tt >> $($rest:tt)*) => {
        $crate::__shareable! { @scan $step $open $head $decl $imp $args $types $consts > > $($rest)* }
    };
    (@scan $step:ident $open:tt $head:tt $decl:tt $imp:tt $args:tt $types:tt $consts:tt << $($rest:tt)*) => {
        $crate::__shareable! { @scan $step $open $head $decl $imp $args $types $consts < < $($rest)* }
    };
    (@scan $step:ident [] $head:tt [$($decl:tt)*] [$($imp:tt)*] $args:tt $types:tt $consts:tt
        , $($rest:tt)*) => {
        $crate::__shareable! { @parameter $head [$($decl)*,] [$($imp)*,] $args $types $consts $($rest)* }
    };
    (@scan $step:ident [] $head:tt [$($decl:tt)*] [$($imp:tt)*] $args:tt $types:tt $consts:tt
        > $($rest:tt)*) => {
        $crate::__shareable! { @parameter $head [$($decl)*,] [$($imp)*,] $args $types $consts > $($rest)* }
    };
    (@scan bounds [] $head:tt [$($decl:tt)*] $imp:tt $args:tt $types:tt $consts:tt = $($rest:tt)*) => {
        $crate::__shareable! { @scan default [] $head [$($decl)* =] $imp $args $types $consts $($rest)* }
    };
    (@scan bounds $open:tt $head:tt [$($decl:tt)*] [$($imp:tt)*] $args:tt $types:tt $consts:tt
        $token:tt $($rest:tt)*) => {
        $crate::__shareable! {
            @nest bounds $open $token $head [$($decl)* $token] [$($imp)* $token] $args $types $consts
            $($rest)*
        }
    };
    (@scan default $open:tt $head:tt [$($decl:tt)*] $imp:tt $args:tt $types:tt $consts:tt
        $token:tt $($rest:tt)*) => {
        $crate::__shareable! {
            @nest default $open $token $head [$($decl)* $token] $imp $args $types $consts $($rest)*
        }
    };
    (@nest $step:ident [$($open:tt)*] < $($rest:tt)*) => {
        $crate::__shareable! { @scan $step [$($open)* <] $($rest)* }
    };
    (@nest $step:ident [< $($open:tt)*] > $($rest:tt)*) => {
        $crate::__shareable! { @scan $step [$($open)*] $($rest)* }
    };
    (@nest $step:ident $open:tt $token:tt $($rest:tt)*) => {
        $crate::__shareable! { @scan $step $open $($rest)* }
    };

    // The fields, and the `where` clause before or after them.
    (@body $head:tt $generics:tt $where:tt {
        $($(#[$($attribute:tt)*])* $vis:vis $field:ident: $type:ty),* $(,)?
    }) => {
        $crate::__shareable! {
            @emit $head $generics $where
            { { $($(#[$($attribute)*])* $vis $field: $type),* } }
            $({ $field $type })*
        }
    };
    (@body $head:tt $generics:tt [] ($($fields:tt)*) where $($rest:tt)*) => {
        $crate::__shareable! { @tail $head $generics [] ($($fields)*) $($rest)* }
    };
    (@body $head:tt $generics:tt [] ($($fields:tt)*);) => {
        $crate::__shareable! { @tail $head $generics [] ($($fields)*); }
    };
    (@body $head:tt $generics:tt $where:tt ;) => {
        $crate::__shareable! { @emit $head $generics $where {} }
    };
    (@body $head:tt $generics:tt [] where $($rest:tt)*) => {
        $crate::__shareable! { @body $head $generics [] $($rest)* }
    };
    (@body $head:tt $generics:tt [$($where:tt)*] $token:tt $($rest:tt)+) => {
        $crate::__shareable! { @body $head $generics [$($where)* $token] $($rest)+ }
    };
    (@tail $head:tt $generics:tt $where:tt
        ($($(#[$($attribute:tt)*])* $vis:vis $type:ty),* $(,)?);) => {
        $crate::__shareable! {
            @number $head $generics $where
            { ($($(#[$($attribute)*])* $vis $type),*) }
            []
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]
            $({ $type })*
        }
    };
    (@tail $head:tt $generics:tt [$($where:tt)*] $fields:tt $token:tt $($rest:tt)+) => {
        $crate::__shareable! { @tail $head $generics [$($where)* $token] $fields $($rest)+ }
    };
    (@number $head:tt $generics:tt $where:tt $body:tt [$($numbered:tt)*] $numbers:tt) => {
        $crate::__shareable! { @emit $head $generics $where $body $($numbered)* }
    };
    (@number $head:tt $generics:tt $where:tt $body:tt [$($numbered:tt)*] [$number:tt $($numbers:tt)*]
        { $type:ty } $($rest:tt)*) => {
        $crate::__shareable! {
            @number $head $generics $where $body [$($numbered)* { $number $type }] [$($numbers)*] $($rest)*
        }
    };
    (@number $head:tt $generics:tt $where:tt $body:tt $numbered:tt [] $($rest:tt)*) => {
        ::core::compile_error! { "a tuple struct of more than 32 fields; give the fields names" }
    };

    // The definition and its implementation. A `where` clause may be empty.
    (@emit
        {
            { $version:expr } { $([$($attribute:tt)*])* } { $vis:vis } { $label:expr } { $($trait:ident)* }
            $name:ident
        }
        { [$($decl:tt)*] [$($imp:tt)*] [$($args:tt)*] [$($types:ident)*] [$($consts:ident)*] }
        [$($where:tt)*] $body:tt $({ $field:tt $type:ty })*
    ) => {
        $crate::__shareable! {
            @define [$(#[$($attribute)*])*] [$vis] $name [$($decl)*] [$($where)*] $body
        }
        const _: () = ::core::assert!(
            $crate::__shareable!(@any $($crate::__shareable!(@repr struct $($attribute)*)),*),
            ::core::concat!(
                "`", ::core::stringify!($name), "` cannot be shared without a fixed layout: write #[repr(C)] \
                 or #[repr(transparent)] on it"
            ),
        );
        // SAFETY: all fields are `Shareable`, and being the whole of the type, as the closure below shows,
        // they make the type so; its layout is fixed by `repr`, checked above, and in the tag, which has all
        // fields.
        #[allow(unsafe_code)]
        unsafe impl<$($imp)*> $crate::Shareable for $name<$($args)*>
        where
            $($types: $crate::Shareable,)*
            $($where)*
        {
            const TAG: $crate::TypeTag = {
                // Compiles only if these are all the fields, have these types and are aligned.
                let _ = |value: &Self| {
                    let Self { $($field: _),* } = value;
                    $(let _: *const $type = &value.$field;)*
                };
                let tag = $crate::TypeTag::new::<Self>($label, $version);
                $(let tag = tag.with_parameter($consts as ::core::primitive::u128);)*
                $(let tag = tag.with_field(
                    ::core::stringify!($field),
                    ::core::mem::offset_of!(Self, $field),
                    <$type as $crate::Shareable>::TAG,
                );)*
                tag
            };
            const FROZEN: ::core::primitive::bool = true $(&& <$type as $crate::Shareable>::FROZEN)*;
        }
        $crate::__further_traits! {
            struct { $($trait)* }
            { $name [$($imp)*] [$($args)*] [$($types)*] [$($where)*] [$($type),*] }
        }
    };
    (@define [$($attributes:tt)*] [$vis:vis] $name:ident $decl:tt [$($where:tt)*] { { $($fields:tt)* } }) => {
        $crate::__shareable! { @item [$($attributes)*] [$vis] $name $decl [where $($where)* { $($fields)* }] }
    };
    (@define [$($attributes:tt)*] [$vis:vis] $name:ident $decl:tt [$($where:tt)*] { ($($fields:tt)*) }) => {
        $crate::__shareable! { @item [$($attributes)*] [$vis] $name $decl [($($fields)*) where $($where)*;] }
    };
    (@define [$($attributes:tt)*] [$vis:vis] $name:ident $decl:tt [$($where:tt)*] {}) => {
        $crate::__shareable! { @item [$($attributes)*] [$vis] $name $decl [where $($where)*;] }
    };
    (@item [$($attributes:tt)*] [$vis:vis] $name:ident [$($decl:tt)*] [$($rest:tt)*]) => {
        $($attributes)* $vis struct $name<$($decl)*> $($rest)*
    };

    (@enum
        {
            { $version:expr } { $([$($attribute:tt)*])* } { $vis:vis } { $label:expr } { $($trait:ident)* }
            $name:ident
        }
        { $($(#[$($variant_attribute:tt)*])* $variant:ident $(= $discriminant:expr)?),+ $(,)? }
    ) => {
        $(#[$($attribute)*])*
        $vis enum $name {
            $($(#[$($variant_attribute)*])* $variant $(= $discriminant)?),+
        }
        const _: () = ::core::assert!(
            $crate::__shareable!(@any $($crate::__shareable!(@repr enum $($attribute)*)),*),
            ::core::concat!(
                "`", ::core::stringify!($name), "` cannot be shared without a fixed layout: write #[repr(u8)] \
                 or another integer type on it"
            ),
        );
        // SAFETY: it is an integer, by `repr`, checked above, that is one of the variants, all of which are
        // in the tag, as the closure below shows.
        #[allow(unsafe_code)]
        unsafe impl $crate::Shareable for $name {
            const TAG: $crate::TypeTag = {
                // Compiles only if these are all the variants, and they have no fields.
                let _ = |value: &Self| match value {
                    $(Self::$variant => (),)+
                };
                let tag = $crate::TypeTag::new::<Self>($label, $version);
                $(let tag = tag.with_variant(
                    ::core::stringify!($variant),
                    Self::$variant as ::core::primitive::i128,
                );)+
                tag
            };
            const FROZEN: ::core::primitive::bool = true;
        }
        $crate::__further_traits! { enum { $($trait)* } { $name } }
    };
    (@enum $($other:tt)*) => {
        ::core::compile_error! {
            "only an enum without fields and parameters can be shared: a process that dies while it writes \
             one leaves one variant's number beside another's fields"
        }
    };

    // Whether an attribute fixes the layout.
    (@any $($found:expr),*) => { $crate::TypeTag::__any(&[$($found),*]) };
    (@repr $kind:tt repr($($hint:tt)*)) => {
        $crate::__shareable!(@any $($crate::__shareable!(@hint $kind $hint)),*)
    };
    (@repr $kind:tt $($other:tt)*) => { false };
    (@hint $kind:tt packed) => {
        ::core::compile_error!("a packed type cannot be shared: its fields may be misaligned")
    };
    (@hint struct C) => { true };
    (@hint struct transparent) => { true };
    (@hint enum u8) => { true };
    (@hint enum u16) => { true };
    (@hint enum u32) => { true };
    (@hint enum u64) => { true };
    (@hint enum usize) => { true };
    (@hint enum i8) => { true };
    (@hint enum i16) => { true };
    (@hint enum i32) => { true };
    (@hint enum i64) => { true };
    (@hint enum isize) => { true };
    (@hint $kind:tt $other:tt) => { false };

    ($($other:tt)*) => {
        ::core::compile_error! { "shareable! takes one definition, of a struct or of an enum without fields" }
    };
}
