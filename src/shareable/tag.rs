//! Type tags
//!
//! A type's name, size, alignment, version and fields, folded into a few fixed-width words by rules that are
//! written down here and depend on no compiler: equal tags mean that what one program has written another may
//! read. A tag is 24 bytes on every machine, so that it can lie in a segment beside the value.
//!
//! # The fingerprint
//! 64-bit FNV-1a over a record, and then the finishing step of MurmurHash3, so that each bit of the result
//! depends on all of the record. The first record starts from FNV's offset basis, each further one from the
//! fingerprint so far. A record is a byte that says which it is, the length of a name in eight bytes, the
//! name in UTF-8, and words of eight bytes; all numbers are little-endian.
//!
//! | record | made by | name | words |
//! |---|---|---|---|
//! | 1 | [`TypeTag::new`] | of the type | size, version |
//! | 2 | [`TypeTag::with_field`] | of the field | offset, fingerprint and alignment of its type |
//! | 3 | [`TypeTag::with_variant`] | of the variant | low and high half of the discriminant |
//! | 4 | [`TypeTag::with_parameter`] | empty | low and high half of a constant parameter |
//! | 5 | types of core | of the type | size, number of elements, fingerprint of their type or 0 |
//!
//! # The alignment
//! On some 32-bit machines a `u64` is aligned to 4 bytes and not to 8. Whether two programs agree on a definition depends on
//! where its fields lie, and not on that. So what a tag says is the alignment that a type has where each number is aligned to
//! its size: of numbers, and of enums that are as large as one, their size, of a definition the most that a field has, or more if
//! it says so itself. It stands beside the fingerprint, and of fields in it. Objects are aligned to 16 bytes or more in any case.
//!
//! So `{ u64, u64 }` is the same everywhere; `{ u32, u64 }` is not, since its second field lies at 4 or at 8, and so its
//! sizes differ.

use core::error::Error;
use core::fmt;
use core::mem::offset_of;
use static_assertions::const_assert_eq;

shareable! {
    /// What a type is, in a form that programs built apart agree on.
    ///
    /// Two programs get equal tags exactly when their definitions have the same name, size, alignment and
    /// version and the same fields: name, offset and tag, in order. It does not matter which compiler,
    /// which crate or which module a definition comes from, nor whether a program has 32 or 64 bits. The tag of `T` is
    /// [`Shareable::TAG`].
    ///
    /// The fingerprint, 64 bits, guards against mistakes and not against malice: whoever wants two types
    /// with the same tag can make them.
    ///
    /// [`shareable!`] makes tags. Make one by hand only in order to implement [`Shareable`] by hand.
    ///
    /// [`Shareable`]: crate::Shareable
    /// [`Shareable::TAG`]: crate::Shareable::TAG
    /// [`shareable!`]: crate::shareable!
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Shareable, TypeTag};
    ///
    /// assert_eq!((u32::TAG.size(), u32::TAG.align(), u32::TAG.version()), (4, 4, 0));
    /// assert_eq!(TypeTag::new::<u64>("Seconds", 2).version(), 2);
    /// assert_ne!(u32::TAG, i32::TAG);
    /// // A fingerprint is the same everywhere and for ever.
    /// assert_eq!(u32::TAG.fingerprint(), 0x864d_bd96_9ab7_6efa);
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    #[repr(C, align(8))]
    pub struct TypeTag {
        fingerprint: u64,
        size: u64,
        align: u32,
        version: u32,
    }
}

const_assert_eq!(size_of::<TypeTag>(), 24);
const_assert_eq!(align_of::<TypeTag>(), 8);
const_assert_eq!(offset_of!(TypeTag, size), 8);
const_assert_eq!(offset_of!(TypeTag, align), 16);
const_assert_eq!(offset_of!(TypeTag, version), 20);

/// Which record of the fingerprint follows.
#[derive(Clone, Copy)]
enum Record {
    Definition = 1,
    Field = 2,
    Variant = 3,
    Parameter = 4,
    Core = 5,
}

impl TypeTag {
    /// The tag of the type `T`, which has this stable name and version, and no fields so far.
    ///
    /// # Examples
    /// A tag made by hand, for a type of which [`shareable!`](crate::shareable!) does not see what keeps it
    /// sound:
    /// ```
    /// use shmem_bind::{Shareable, TypeTag};
    /// use std::cell::UnsafeCell;
    /// use std::mem::offset_of;
    /// use std::sync::atomic::AtomicU32;
    ///
    /// #[repr(C)]
    /// struct SeqLock {
    ///     sequence: AtomicU32,
    ///     value: UnsafeCell<[u32; 3]>,
    /// }
    ///
    /// // SAFETY: plain numbers in a layout fixed by `repr(C)`; nothing to drop; the tag has all fields; not
    /// // frozen. A writer that dies leaves an odd sequence, and readers then take the value for unknown.
    /// unsafe impl Shareable for SeqLock {
    ///     const TAG: TypeTag = TypeTag::new::<Self>("org.example.SeqLock", 1)
    ///         .with_field("sequence", offset_of!(Self, sequence), AtomicU32::TAG)
    ///         .with_field("value", offset_of!(Self, value), <[u32; 3]>::TAG);
    ///     const FROZEN: bool = false;
    /// }
    /// ```
    ///
    /// # Panics
    /// If the version is above 65535: when compiling, for a constant.
    #[must_use]
    pub const fn new<T>(name: &str, version: u32) -> Self {
        assert!(version <= u16::MAX as u32, "the version of a type is at most 65535");
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u32);
        let words = [size, version as u64];
        Self { fingerprint: extend(OFFSET_BASIS, Record::Definition, name, &words), size, align, version }
    }

    /// The tag of the type `T` of core; of `count` elements that have the tag `element`, if of any.
    pub(super) const fn of_core<T>(name: &str, count: usize, element: Option<Self>) -> Self {
        let size = size_of::<T>() as u64;
        let (element, align, version) = match element {
            Some(element) => (element.fingerprint, element.align, element.version),
            // A number.
            None => (0, if size == 0 { 1 } else { size as u32 }, 0),
        };
        let words = [size, count as u64, element];
        Self { fingerprint: extend(OFFSET_BASIS, Record::Core, name, &words), size, align, version }
    }

    /// The tag of what says only that it has something to do with the type that has the tag `element`.
    pub(super) const fn of_marker<T>(name: &str, element: Self) -> Self {
        Self { align: 1, ..Self::of_core::<T>(name, 1, Some(element)) }
    }

    /// The tag of slices of `T`, which has the tag `element`; its size is that of one element.
    pub(crate) const fn of_slice<T>(element: Self) -> Self {
        Self::of_core::<T>("[T]", 0, Some(element))
    }

    /// The tag of `str`; its size is that of one byte.
    pub(crate) const fn of_str() -> Self {
        Self::of_core::<u8>("str", 0, None)
    }

    /// Adds a field: its name, its offset in bytes and the tag of its type.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Shareable, TypeTag};
    ///
    /// let tag = TypeTag::new::<[u32; 2]>("Pair", 1);
    /// let pair = tag.with_field("first", 0, u32::TAG).with_field("second", 4, u32::TAG);
    /// assert_ne!(pair, tag.with_field("second", 0, u32::TAG).with_field("first", 4, u32::TAG));
    /// ```
    #[must_use]
    pub const fn with_field(self, name: &str, offset: usize, tag: Self) -> Self {
        let words = [offset as u64, tag.fingerprint, tag.align as u64];
        self.aligned_to(tag.align).with(Record::Field, name, &words)
    }

    /// Adds a variant of an enum. One that is as large as a number is aligned as that, as a field-less one is; of others the fields
    /// say how they are aligned, or the type itself.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::TypeTag;
    ///
    /// let yes_no = TypeTag::new::<u8>("Answer", 1).with_variant("No", 0).with_variant("Yes", 1);
    /// let no_yes = TypeTag::new::<u8>("Answer", 1).with_variant("No", 1).with_variant("Yes", 0);
    /// assert_ne!(yes_no, no_yes);
    /// ```
    #[must_use]
    pub const fn with_variant(self, name: &str, discriminant: i128) -> Self {
        let align = match self.size {
            size @ (1 | 2 | 4 | 8 | 16) => size as u32,
            _ => 1,
        };
        self.aligned_to(align).with(
            Record::Variant,
            name,
            &[discriminant as u64, (discriminant >> 64) as u64],
        )
    }

    /// Adds the value of a constant parameter of a generic type.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::TypeTag;
    ///
    /// let tag = TypeTag::new::<[u8; 64]>("Ring", 1);
    /// assert_ne!(tag.with_parameter(4), tag.with_parameter(8));
    /// ```
    #[must_use]
    pub const fn with_parameter(self, value: u128) -> Self {
        self.with(Record::Parameter, "", &[value as u64, (value >> 64) as u64])
    }

    /// For `shareable!`: whether any is true.
    #[doc(hidden)]
    #[must_use]
    pub const fn __any(mut found: &[bool]) -> bool {
        while let [first, rest @ ..] = found {
            if *first {
                return true;
            }
            found = rest;
        }
        false
    }

    const fn aligned_to(self, align: u32) -> Self {
        Self { align: if self.align < align { align } else { self.align }, ..self }
    }

    const fn with(self, record: Record, name: &str, words: &[u64]) -> Self {
        Self { fingerprint: extend(self.fingerprint, record, name, words), ..self }
    }

    /// The fingerprint of the whole definition.
    #[must_use]
    pub const fn fingerprint(self) -> u64 {
        self.fingerprint
    }

    /// Size of the type, in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// Alignment of the type, in bytes: that which it has where numbers are aligned to their size, the same on all
    /// machines. Never zero, so zeroed memory holds no tag of any type.
    #[must_use]
    pub const fn align(self) -> u32 {
        self.align
    }

    /// The version that the type's author gave it; 0 if none. That of an array is that of its elements.
    #[must_use]
    pub const fn version(self) -> u32 {
        self.version
    }

    /// The tag as three words, to be stored in atomics: fingerprint, size, and version (high half) with
    /// alignment (low half).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Shareable, TypeTag};
    ///
    /// // Into a header of one's own, and out of it.
    /// let words: [u64; 3] = u32::TAG.to_words();
    /// assert_eq!(TypeTag::from_words(words), u32::TAG);
    /// ```
    #[must_use]
    pub const fn to_words(self) -> [u64; 3] {
        [self.fingerprint, self.size, (self.version as u64) << 32 | self.align as u64]
    }

    /// The reverse of [`to_words`](Self::to_words). Any words are a tag, though not of any type.
    #[must_use]
    pub const fn from_words([fingerprint, size, rest]: [u64; 3]) -> Self {
        Self { fingerprint, size, align: rest as u32, version: (rest >> 32) as u32 }
    }

    /// Checks that a value with the tag `found` is one of the type that has this tag.
    ///
    /// # Errors
    /// [`TagMismatch`] says in what they differ.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::Shareable;
    ///
    /// let error = u32::TAG.check(u64::TAG).unwrap_err();
    /// assert!(error.to_string().contains("its size is 8 bytes and not 4"));
    /// ```
    pub const fn check(self, found: Self) -> Result<(), TagMismatch> {
        if self.fingerprint == found.fingerprint
            && self.size == found.size
            && self.align == found.align
            && self.version == found.version
        {
            return Ok(());
        }
        Err(TagMismatch { asked: self, found })
    }
}

impl fmt::Display for TypeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fingerprint, size, align, version } = self;
        write!(f, "{fingerprint:016x} ({size} bytes, aligned to {align}, version {version})")
    }
}

impl fmt::Debug for TypeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeTag")
            .field("fingerprint", &format_args!("{:#018x}", self.fingerprint))
            .field("size", &self.size)
            .field("align", &self.align)
            .field("version", &self.version)
            .finish()
    }
}

/// A value is of another type than asked for.
///
/// Its message names all of size, alignment and version that differ, with both values; the fingerprint, which
/// then differs as well, only if nothing else does.
///
/// # Examples
/// ```
/// use shmem_bind::{Shareable, TagMismatch};
///
/// let TagMismatch { asked, found, .. } = u32::TAG.check(<[u8; 3]>::TAG).unwrap_err();
/// assert_eq!((asked.size(), found.size()), (4, 3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TagMismatch {
    /// The type asked for.
    pub asked: TypeTag,
    /// The type of the value that is there.
    pub found: TypeTag,
}

impl fmt::Display for TagMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, found } = self;
        f.write_str("the value is not of the type asked for: ")?;
        let mut separator = "";
        if found.size != asked.size {
            write!(f, "its size is {} bytes and not {}", found.size, asked.size)?;
            separator = ", ";
        }
        if found.align != asked.align {
            write!(f, "{separator}its alignment is {} and not {}", found.align, asked.align)?;
            separator = ", ";
        }
        if found.version != asked.version {
            write!(f, "{separator}its version is {} and not {}", found.version, asked.version)?;
            separator = ", ";
        }
        if separator.is_empty() {
            write!(
                f,
                "its fingerprint is {:016x} and not {:016x}, so the type's name or fields differ",
                found.fingerprint, asked.fingerprint
            )?;
        }
        f.write_str("; use the same definition of the type in all processes")
    }
}

impl Error for TagMismatch {}

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The fingerprint after one more record.
const fn extend(fingerprint: u64, record: Record, name: &str, words: &[u64]) -> u64 {
    let mut hash = fnv1a(fingerprint, &[record as u8]);
    hash = fnv1a(hash, &(name.len() as u64).to_le_bytes());
    hash = fnv1a(hash, name.as_bytes());
    let mut rest = words;
    while let [word, tail @ ..] = rest {
        hash = fnv1a(hash, &word.to_le_bytes());
        rest = tail;
    }
    finish(hash)
}

const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(PRIME);
        rest = tail;
    }
    hash
}

/// `fmix64` of MurmurHash3: one to one, and each bit of the result depends on all bits.
const fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    const SAMPLE: TypeTag = TypeTag { fingerprint: 0xabcd, size: 16, align: 8, version: 2 };

    #[test]
    fn hashes_give_the_published_answers() {
        assert_eq!(fnv1a(OFFSET_BASIS, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(OFFSET_BASIS, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(OFFSET_BASIS, b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(finish(0), 0);
        assert_eq!(finish(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn each_record_is_told_apart() {
        let tag = TypeTag::new::<u32>("T", 0);
        let others = [
            TypeTag::new::<u32>("U", 0),
            TypeTag::new::<u32>("T", 1),
            TypeTag::new::<u64>("T", 0),
            TypeTag::new::<[u8; 3]>("T", 0),
            TypeTag::of_core::<u32>("T", 1, None),
            tag.with_field("", 0, tag),
            tag.with_field("", 1, tag),
            tag.with_field("a", 0, tag),
            tag.with_field("ab", 0, tag).with_field("c", 0, tag),
            tag.with_field("a", 0, tag).with_field("bc", 0, tag),
            tag.with_field("c", 0, tag).with_field("ab", 0, tag),
            tag.with_variant("", 0),
            tag.with_variant("", -1),
            tag.with_variant("", u64::MAX as i128),
            tag.with_parameter(0),
            tag.with_parameter(1 << 64),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(other.fingerprint, tag.fingerprint, "{index}");
            for (later, another) in others.iter().enumerate().skip(index + 1) {
                assert_ne!(other.fingerprint, another.fingerprint, "{index} and {later}");
            }
        }
    }

    #[test]
    fn an_enum_is_aligned_as_a_number_only_if_it_can_be_one() {
        const fn align_of_enum<T>() -> u32 {
            TypeTag::new::<T>("T", 0).with_variant("A", 0).align()
        }
        assert_eq!(align_of_enum::<u8>(), 1);
        assert_eq!(align_of_enum::<u64>(), 8);
        assert_eq!(align_of_enum::<u128>(), 16);
        assert_eq!(align_of_enum::<[u8; 3]>(), 1);
        assert_eq!(align_of_enum::<[u32; 3]>(), 4);
        assert_eq!(align_of_enum::<[u8; 4096]>(), 1);
        assert_eq!(align_of_enum::<()>(), 1);
    }

    #[test]
    fn words_round_trip() {
        assert_eq!(SAMPLE.to_words(), [0xabcd, 16, 2 << 32 | 8]);
        assert_eq!(TypeTag::from_words(SAMPLE.to_words()), SAMPLE);
        let odd = [!0, 1 << 63, u64::MAX ^ 1];
        assert_eq!(TypeTag::from_words(odd).to_words(), odd);
    }

    #[test]
    fn a_mismatch_names_what_differs_and_both_values() {
        assert_eq!(SAMPLE.check(SAMPLE), Ok(()));
        let cases = [
            (TypeTag { size: 24, ..SAMPLE }, "its size is 24 bytes and not 16;"),
            (TypeTag { align: 4, ..SAMPLE }, "its alignment is 4 and not 8;"),
            (TypeTag { version: 1, ..SAMPLE }, "its version is 1 and not 2;"),
            (
                TypeTag { fingerprint: 7, ..SAMPLE },
                "its fingerprint is 0000000000000007 and not 000000000000abcd,",
            ),
            (
                TypeTag { fingerprint: 7, size: 8, align: 1, version: 0 },
                "its size is 8 bytes and not 16, its alignment is 1 and not 8, its version is 0 and not 2;",
            ),
        ];
        for (found, says) in cases {
            let error = SAMPLE.check(found).unwrap_err();
            assert_eq!((error.asked, error.found), (SAMPLE, found));
            let message = error.to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn a_tag_is_printed_in_full() {
        assert_eq!(SAMPLE.to_string(), "000000000000abcd (16 bytes, aligned to 8, version 2)");
        assert_eq!(
            std::format!("{SAMPLE:?}"),
            "TypeTag { fingerprint: 0x000000000000abcd, size: 16, align: 8, version: 2 }"
        );
    }
}
