//! Further traits of a type defined by `shareable!`
//!
//! They follow from the fields, of which the tag of the type has shown that they are all.

/// A step of `shareable!`: implements each of the traits asked for, by a step of its own.
#[doc(hidden)]
#[macro_export]
macro_rules! __further_traits {
    ($kind:ident {} $type:tt) => {};
    ($kind:ident { $trait:ident $($more:ident)* } { $($type:tt)* }) => {
        $crate::__further_traits! { @$kind $trait $($type)* }
        $crate::__further_traits! { $kind { $($more)* } { $($type)* } }
    };

    (@struct AnyBitPattern $name:ident [$($imp:tt)*] [$($args:tt)*] [$($types:ident)*] [$($where:tt)*]
        [$($type:ty),*]) => {
        // SAFETY: all fields are `AnyBitPattern`, and they are the whole of the type, as its tag has shown. That its
        // author's unsafe code relies on no two of them fitting together is what asking for it says.
        #[allow(unsafe_code)]
        unsafe impl<$($imp)*> $crate::AnyBitPattern for $name<$($args)*>
        where
            $($types: $crate::Shareable,)*
            $($type: $crate::AnyBitPattern,)*
            $($where)*
        {
        }
    };
    (@struct NoUninit $name:ident [] [] [] [$($where:tt)*] [$($type:ty),*]) => {
        const _: () = ::core::assert!(
            ::core::mem::size_of::<$name>() == 0 $(+ ::core::mem::size_of::<$type>())*,
            ::core::concat!(
                "`", ::core::stringify!($name), "` is not `NoUninit`: it has padding, which would show a peer what was \
                 in this memory before; order the fields by size, or add fields in its place"
            ),
        );
        // SAFETY: all fields are `NoUninit`, they are the whole of the type, as its tag has shown, and as large together
        // as the type is: there is nothing between or after them.
        #[allow(unsafe_code)]
        unsafe impl $crate::NoUninit for $name
        where
            $($type: $crate::NoUninit,)*
            $($where)*
        {
        }
    };
    (@struct NoUninit $($other:tt)*) => {
        ::core::compile_error! {
            "whether a type with parameters has padding is not known: implement `NoUninit` by hand where it has none"
        }
    };
    (@struct $($other:tt)*) => {
        ::core::compile_error! { "`implement` knows `AnyBitPattern` and `NoUninit`" }
    };
    (@enum NoUninit $name:ident) => {
        // SAFETY: it is an integer, by `repr`.
        #[allow(unsafe_code)]
        unsafe impl $crate::NoUninit for $name {}
    };
    (@enum AnyBitPattern $name:ident) => {
        ::core::compile_error! { "an enum is not `AnyBitPattern`: a number that is none of its variants is no value" }
    };
    (@enum $($other:tt)*) => {
        ::core::compile_error! { "`implement` knows `AnyBitPattern` and `NoUninit`" }
    };
}
