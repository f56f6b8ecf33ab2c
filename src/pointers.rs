//! What boxes and references say of their values
//!
//! They compare, order, hash and print like the value that they lead to, as `Box` and `Arc` of std do, so that they serve as
//! keys, in `assert_eq!`, and where a function wants an `AsRef`. Two of them that lead to the same value are equal for that
//! reason only; [`ShmemArc::ptr_eq`] tells more. A guard of a lock does none of this: what it compares to may change as soon
//! as it is dropped, and std's does not either.

use crate::boxed::{ReadRef, ShmemBox};
use crate::shared::ShmemArc;
use core::borrow::{Borrow, BorrowMut};
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};

/// All of that for one kind of pointer, where its value may be looked at.
macro_rules! like_its_value {
    ($($pointer:ident [$($bound:ident)?];)*) => { $(
        impl<T: PartialEq $(+ $bound)? + ?Sized> PartialEq for $pointer<T> {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                **self == **other
            }
        }

        impl<T: Eq $(+ $bound)? + ?Sized> Eq for $pointer<T> {}

        impl<T: PartialOrd $(+ $bound)? + ?Sized> PartialOrd for $pointer<T> {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                (**self).partial_cmp(&**other)
            }
        }

        impl<T: Ord $(+ $bound)? + ?Sized> Ord for $pointer<T> {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                (**self).cmp(&**other)
            }
        }

        impl<T: Hash $(+ $bound)? + ?Sized> Hash for $pointer<T> {
            #[inline]
            fn hash<H: Hasher>(&self, state: &mut H) {
                (**self).hash(state);
            }
        }

        impl<T: fmt::Display $(+ $bound)? + ?Sized> fmt::Display for $pointer<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }

        /// The address in this process; in others it is another one.
        impl<T: $($bound +)? ?Sized> fmt::Pointer for $pointer<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Pointer::fmt(&&raw const **self, f)
            }
        }

        impl<T: $($bound +)? ?Sized> AsRef<T> for $pointer<T> {
            #[inline]
            fn as_ref(&self) -> &T {
                self
            }
        }

        impl<T: $($bound +)? ?Sized> Borrow<T> for $pointer<T> {
            #[inline]
            fn borrow(&self) -> &T {
                self
            }
        }
    )* };
}

like_its_value! {
    ShmemBox [];
    ShmemArc [Sync];
    ReadRef [];
}

impl<T: ?Sized> AsMut<T> for ShmemBox<T> {
    #[inline]
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized> BorrowMut<T> for ShmemBox<T> {
    #[inline]
    fn borrow_mut(&mut self) -> &mut T {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::Tlsf;
    use crate::builder::Builder;
    use static_assertions::{assert_impl_all, assert_not_impl_any};
    use std::borrow::ToOwned;
    use std::collections::{BTreeSet, HashMap};
    use std::format;

    assert_impl_all!(ShmemBox<f64>: PartialOrd, fmt::Display, AsRef<f64>, AsMut<f64>, fmt::Pointer);
    assert_not_impl_any!(ShmemBox<f64>: Eq, Ord, core::hash::Hash);
    assert_not_impl_any!(ShmemArc<core::cell::Cell<u8>>: PartialEq, AsRef<core::cell::Cell<u8>>);

    #[test]
    fn pointers_are_like_their_values() {
        let (segment, _fd) = Builder::memfd().create(64 * 1024).unwrap();
        let arena = segment.arena::<Tlsf>().unwrap();
        let [one, two] = ["one", "two"].map(|text| arena.alloc_str(text).unwrap());
        let same = arena.alloc_str("one").unwrap();
        assert_eq!(one, same);
        assert_ne!(one, two);
        assert!(one < two && one.cmp(&same) == Ordering::Equal);
        assert_eq!(format!("{one} {two:>5}"), "one   two");

        // A look-up by what is borrowed hashes the same.
        let [one, two] = [one, two].map(ShmemBox::into_arc);
        let map = HashMap::from([(one.clone(), 1), (two.clone(), 2)]);
        assert_eq!(map.get("two"), Some(&2));
        let set = BTreeSet::from([two, one]);
        assert_eq!(set.iter().map(|text| (**text).to_owned()).collect::<std::vec::Vec<_>>(), ["one", "two"]);
        assert!(set.contains("one") && !set.contains("three"));

        let mut number = arena.alloc(1_u64).unwrap();
        *number.as_mut() += 1;
        *BorrowMut::<u64>::borrow_mut(&mut number) += 1;
        assert_eq!(*AsRef::<u64>::as_ref(&number), 3);
        assert_eq!(format!("{number:p}"), format!("{:p}", &raw const *number));
    }
}
