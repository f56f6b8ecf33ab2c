//! Looking at pinned objects without writing
//!
//! A pinned object is never freed and its name never changes, so a process that may only read the segment can look at
//! it without holding anything. What it may do with the value depends on the type: a reference to one that is
//! frozen, and relaxed loads, a word at a time, from one that others change. (A store to memory that is mapped
//! read-only, even one that would not change it, is a fault.)
//!
//! # Safety
//! Makes references to pinned objects, and reads words of them.
#![allow(unsafe_code)]

use crate::attachment::Attached;
use crate::boxed::ReadRef;
use crate::directory::{self, Key};
use crate::error::{DirectoryError, HeapError};
use crate::exports::Exports;
use crate::header::Payload;
use crate::object::{BLOCK_HEADER_LEN, BlockState, EXTENT_OFFSET, Extent, TAG_OFFSET};
use crate::segment::ShmemConf;
use crate::typed::{self, Object};
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{self, Ordering};

impl ShmemConf {
    /// Finds an object that was [published for ever](crate::Arena::publish_pinned), also if attached read-only. It must
    /// be of a type without interior mutability (no atomics); else see
    /// [`find_pinned_words`](Self::find_pinned_words).
    ///
    /// # Errors
    /// - [`DirectoryError::NotFound`]: there is none of this name that is pinned, or the segment is no arena.
    /// - [`DirectoryError::Mismatch`]: it is of another type; says in what they differ.
    /// - [`DirectoryError::Empty`], [`TooLong`](DirectoryError::TooLong), [`Forked`](DirectoryError::Forked),
    ///   [`Busy`](DirectoryError::Busy), [`Damaged`](DirectoryError::Damaged).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-pinned", std::process::id());
    /// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
    /// arena.publish_pinned("motd", &ShmemBox::into_arc(arena.alloc_str("good morning")?))?;
    ///
    /// let observer = Builder::new(name).attach_read_only()?;
    /// assert_eq!(&*observer.find_pinned::<str>("motd")?, "good morning");
    /// # Ok(())
    /// # }
    /// ```
    /// ```compile_fail,E0080
    /// # use shmem_bind::{DirectoryError, ReadRef, ShmemConf};
    /// use std::sync::atomic::AtomicU32;
    ///
    /// # fn main() {
    /// # let segment: ShmemConf = shmem_bind::Builder::memfd().create(1).unwrap().0;
    /// let counter = segment.find_pinned::<AtomicU32>("counter");
    /// # }
    /// ```
    pub fn find_pinned<T: Object + ?Sized>(&self, name: &str) -> Result<ReadRef<T>, DirectoryError> {
        const { assert!(T::FROZEN, "a type that others change: use find_pinned_words") };
        let (start, len) = self.pinned::<T>(name)?;
        // SAFETY: a pinned object is held for ever; by tag and length it holds a `T`.
        let value = unsafe { T::pointer(start, len) };
        // SAFETY: as above; nobody writes to it, for it is shared and frozen.
        Ok(unsafe { ReadRef::from_parts(value, ShmemConf(self.0.clone())) })
    }

    /// Finds an object that was [published for ever](crate::Arena::publish_pinned), also if attached read-only, to read
    /// words of it that others may change meanwhile. Needs a 64-bit machine for words of 64 bits.
    ///
    /// # Errors
    /// As [`find_pinned`](Self::find_pinned).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, PinnedWords, ShmemBox, ShmemError, Tlsf, shareable};
    /// use std::mem::offset_of;
    /// use std::sync::atomic::{AtomicU32, AtomicU64};
    ///
    /// shareable! {
    ///     #[repr(C)]
    ///     pub struct Counters {
    ///         pub requests: AtomicU64,
    ///         pub errors: AtomicU32,
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// # let name = &format!("shmem-bind-doc-{}-words", std::process::id());
    /// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
    /// let counters = Counters { requests: AtomicU64::new(7), errors: AtomicU32::new(1) };
    /// arena.publish_pinned("counters", &ShmemBox::into_arc(arena.alloc(counters)?))?;
    ///
    /// let observer = Builder::new(name).attach_read_only()?;
    /// let words: PinnedWords<Counters> = observer.find_pinned_words("counters")?;
    /// // SAFETY: the fields are there and have these types.
    /// let requests = unsafe { words.load::<AtomicU64>(offset_of!(Counters, requests)) };
    /// // SAFETY: as above.
    /// let errors = unsafe { words.load::<AtomicU32>(offset_of!(Counters, errors)) };
    /// assert_eq!((requests, errors), (Some(7), Some(1)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn find_pinned_words<T: Object + ?Sized>(
        &self,
        name: &str,
    ) -> Result<PinnedWords<T>, DirectoryError> {
        let (start, len) = self.pinned::<T>(name)?;
        // An object that is mapped has a length that fits.
        Ok(PinnedWords { start, len: len as usize, conf: ShmemConf(self.0.clone()), marker: PhantomData })
    }

    /// Where the pinned object of this name and type is, and how long.
    fn pinned<T: Object + ?Sized>(&self, name: &str) -> Result<(NonNull<u8>, u64), DirectoryError> {
        let attached = self.0.get().ok_or(DirectoryError::Forked)?;
        let result = pinned::<T>(attached, name);
        // What was read then was zeros.
        if attached.is_severed() { Err(DirectoryError::Severed) } else { result }
    }
}

/// Where the pinned object of this name and type is, and how long.
fn pinned<T: Object + ?Sized>(attached: &Attached, name: &str) -> Result<(NonNull<u8>, u64), DirectoryError> {
    let (region, header) = (&attached.region, attached.region.header());
    let key = Key::new(name, attached.header.segment_id())?;
    if !matches!(header.payload(), Ok(Payload::Arena { is_formed: true, .. })) {
        let damaged = HeapError::Damaged { at: 0 }.into();
        return Err(if attached.is_listed() { DirectoryError::NotFound } else { damaged });
    }
    let read = |offset| region.read_heap(offset);
    let block = directory::find_pinned(&read, &header.directory.table, &key)?;
    let block = block.ok_or(DirectoryError::NotFound)?;
    let damaged = HeapError::Damaged { at: block };
    let state = BlockState::from_bits(read(block)?);
    let tag = read(block.wrapping_add(TAG_OFFSET))?;
    let extent = Extent::from_bits(read(block.wrapping_add(EXTENT_OFFSET))?);
    let len = extent.object_len().ok_or(damaged)?;
    let exports = Exports::new(region.export_words());
    if !state.is_valid() || !state.is_pinned() || !exports.is_set(block) {
        return Err(damaged.into());
    }
    typed::check::<T>(tag, len).map_err(DirectoryError::Mismatch)?;
    let start = region.object(block.wrapping_add(BLOCK_HEADER_LEN), len, typed::align::<T>())?;
    Ok((start, len))
}

/// A pinned object of a type that others change, to be read a word at a time.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, PinnedWords, ShmemBox, Tlsf};
/// use std::sync::atomic::AtomicU64;
///
/// # let name = &format!("shmem-bind-doc-{}-pinned-words", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// arena.publish_pinned("requests", &ShmemBox::into_arc(arena.alloc(AtomicU64::new(7))?))?;
///
/// let observer = Builder::new(name).attach_read_only()?;
/// let words: PinnedWords<AtomicU64> = observer.find_pinned_words("requests")?;
/// assert_eq!(words.size(), 8);
/// assert!(words.conf().is_read_only());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub struct PinnedWords<T: ?Sized> {
    /// INVARIANT 1: `len` bytes of a pinned object, mapped as long as `conf` exists.
    start: NonNull<u8>,
    len: usize,
    conf: ShmemConf,
    marker: PhantomData<fn() -> *const T>,
}

// SAFETY: it gives copies of words, read atomically, from any number of threads.
unsafe impl<T: ?Sized> Send for PinnedWords<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized> Sync for PinnedWords<T> {}

/// An atomic type whose value can be read from memory that is mapped read-only.
///
/// # Examples
/// ```
/// use shmem_bind::Loadable;
/// use std::sync::atomic::{AtomicI16, AtomicU64};
///
/// fn read_as<W: Loadable<Value = V>, V>() {}
/// read_as::<AtomicU64, u64>();
/// read_as::<AtomicI16, i16>();
/// ```
pub trait Loadable: sealed::Sealed {
    /// What is read.
    type Value;

    /// Reads it.
    ///
    /// # Safety
    /// At `place` lies such a value, aligned.
    #[doc(hidden)]
    unsafe fn read(place: NonNull<u8>) -> Self::Value;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! loadable {
    ($($atomic:ident: $value:ty;)*) => {
        $(impl sealed::Sealed for atomic::$atomic {}

        impl Loadable for atomic::$atomic {
            type Value = $value;

            unsafe fn read(place: NonNull<u8>) -> $value {
                // SAFETY: the caller promises that it is one; any bytes are an integer.
                let atomic = unsafe { place.cast::<Self>().as_ref() };
                atomic.load(Ordering::Relaxed)
            }
        })*
    };
}

loadable! {
    AtomicU8: u8;
    AtomicU16: u16;
    AtomicU32: u32;
    AtomicU64: u64;
    AtomicUsize: usize;
    AtomicI8: i8;
    AtomicI16: i16;
    AtomicI32: i32;
    AtomicI64: i64;
    AtomicIsize: isize;
}

impl<T: ?Sized> PinnedWords<T> {
    /// Reads the word at `offset` bytes of the object, as of some moment now; `None` if it does not lie in it, aligned,
    /// in a child after `fork`, or if the segment is [severed](ShmemConf::is_severed).
    ///
    /// # Safety
    /// At `offset` of the type lies a `W`; [`offset_of!`](core::mem::offset_of!) tells where. (Bytes that others change in
    /// other ways may not be read like this.)
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, PinnedWords, ShmemBox, Tlsf};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// # let name = &format!("shmem-bind-doc-{}-load", std::process::id());
    /// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
    /// arena.publish_pinned("requests", &ShmemBox::into_arc(arena.alloc(AtomicU64::new(7))?))?;
    ///
    /// let observer = Builder::new(name).attach_read_only()?;
    /// let words: PinnedWords<AtomicU64> = observer.find_pinned_words("requests")?;
    /// // SAFETY: it is one.
    /// assert_eq!(unsafe { words.load::<AtomicU64>(0) }, Some(7));
    /// // SAFETY: nothing is read: that is beyond its end.
    /// assert_eq!(unsafe { words.load::<AtomicU64>(8) }, None);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub unsafe fn load<W: Loadable>(&self, offset: usize) -> Option<W::Value> {
        let attached = self.conf.0.get()?;
        let end = offset.checked_add(size_of::<W>())?;
        if end > self.len {
            return None;
        }
        // SAFETY: within the object, by invariant 1.
        let place = unsafe { self.start.add(offset) };
        if place.addr().get() & align_of::<W>().wrapping_sub(1) != 0 {
            return None;
        }
        // SAFETY: within the object, aligned; the caller promises that it is one.
        let value = unsafe { W::read(place) };
        (!attached.is_severed()).then_some(value)
    }

    /// Size of the object, in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.len
    }

    /// The handle of the segment: its name, size, owner and so on.
    #[must_use]
    pub const fn conf(&self) -> &ShmemConf {
        &self.conf
    }
}

impl<T: ?Sized> fmt::Debug for PinnedWords<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedWords").field("size", &self.len).field("conf", &self.conf).finish()
    }
}
