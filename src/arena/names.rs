//! Names of shared objects
//!
//! # Safety
//! Makes references to objects that the directory has found, after holding them under its lock.
#![allow(unsafe_code)]

use super::Arena;
use crate::allocator::RegionAllocator;
use crate::attachment::Attached;
use crate::boxed::ShmemBox;
use crate::directory::{self, Entered, Found, Key, NameBuffer, Order};
use crate::error::{DirectoryError, HeapError};
use crate::heap::Heap;
use crate::object::{MIN_BLOCK_LEN, ObjectTag};
use crate::shareable::{FromZeros, Shareable, TypeTag};
use crate::shared::{self, ShmemArc};
use crate::sys::clock;
use crate::typed::{self, Object};
use core::fmt;
use core::time::Duration;

/// How often another process may publish and unpublish a name while this one wants to do either of both.
const RETRIES: u32 = 1000;

impl<A: RegionAllocator> Arena<A> {
    /// Gives a shared object a name, by which every process [finds](Self::find) it. The name keeps the object, also
    /// when nobody holds it any more, until it is [unpublished](Self::unpublish).
    ///
    /// A name has 1 to 255 bytes, any UTF-8. An object has one name at most.
    ///
    /// # Errors
    /// - [`DirectoryError::Taken`]: another object has the name.
    /// - [`DirectoryError::Published`]: the object has a name.
    /// - [`DirectoryError::Alloc`]: no memory for the name.
    /// - [`DirectoryError::Empty`], [`TooLong`](DirectoryError::TooLong), [`Foreign`](DirectoryError::Foreign),
    ///   [`Forked`](DirectoryError::Forked), [`Busy`](DirectoryError::Busy),
    ///   [`NotRecoverable`](DirectoryError::NotRecoverable), [`Damaged`](DirectoryError::Damaged).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, DirectoryError, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let limit = ShmemBox::into_arc(arena.alloc(100_u64)?);
    /// arena.publish("limit", &limit)?;
    /// drop(limit); // the name keeps it
    ///
    /// let other = ShmemBox::into_arc(arena.alloc(200_u64)?);
    /// assert_eq!(arena.publish("limit", &other), Err(DirectoryError::Taken));
    /// assert_eq!(*arena.find::<u64>("limit")?, 100);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn publish<T: Object + ?Sized>(
        &self,
        name: &str,
        object: &ShmemArc<T>,
    ) -> Result<(), DirectoryError> {
        self.publish_as(name, object, false)
    }

    /// Gives a shared object a name for as long as the segment exists: it cannot be unpublished, and the object is never freed. These are
    /// the objects that a read-only attachment [can look at](crate::ShmemConf::find_pinned).
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, DirectoryError, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// arena.publish_pinned("motd", &ShmemBox::into_arc(arena.alloc_str("good morning")?))?;
    /// assert_eq!(arena.unpublish::<str>("motd").unwrap_err(), DirectoryError::Pinned);
    /// assert_eq!(arena.conf().find_pinned::<str>("motd")?.len(), 12);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn publish_pinned<T: Object + ?Sized>(
        &self,
        name: &str,
        object: &ShmemArc<T>,
    ) -> Result<(), DirectoryError> {
        self.publish_as(name, object, true)
    }

    fn publish_as<T: Object + ?Sized>(
        &self,
        name: &str,
        object: &ShmemArc<T>,
        pinned: bool,
    ) -> Result<(), DirectoryError> {
        let (attached, heap) = self.parts()?;
        let place = ShmemArc::place(object).ok_or(DirectoryError::Foreign)?;
        if !core::ptr::eq(place.attached, attached) {
            return Err(DirectoryError::Foreign);
        }
        let key = Key::new(name, attached.header.segment_id())?;
        let publish = || self.enter(|_, entered| entered.publish(&key, place.block, pinned));
        match publish() {
            Err(DirectoryError::Alloc(_)) => {
                self.wait_for_the_dead();
                publish()
            }
            result => result,
        }
        .map_err(|error| match error {
            DirectoryError::Alloc(_) => self.out_of_memory(&heap, Key::entry_len(name)).into(),
            error => error,
        })
    }

    /// Takes a name away, and gives the object that had it.
    ///
    /// # Errors
    /// - [`DirectoryError::NotFound`], [`Mismatch`](DirectoryError::Mismatch): as for [`find`](Self::find).
    /// - [`DirectoryError::Pinned`]: it is for ever.
    /// - [`DirectoryError::Empty`], [`TooLong`](DirectoryError::TooLong), [`Forked`](DirectoryError::Forked),
    ///   [`Busy`](DirectoryError::Busy), [`NotRecoverable`](DirectoryError::NotRecoverable),
    ///   [`Damaged`](DirectoryError::Damaged).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, DirectoryError, ShmemArc, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// arena.publish("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
    /// let limit: ShmemArc<u64> = arena.unpublish("limit")?;
    /// assert_eq!(arena.find::<u64>("limit").unwrap_err(), DirectoryError::NotFound);
    /// // Nobody else has it, nor will: it can be had for oneself again.
    /// assert_eq!(*ShmemArc::into_box(limit).unwrap(), 100);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn unpublish<T: Object + Sync + ?Sized>(&self, name: &str) -> Result<ShmemArc<T>, DirectoryError> {
        let key = self.key(name)?;
        // The object is held until the lock is given back, so that no destructor runs under it.
        let (object, result) = self.enter(|place, entered| {
            let found = entered.find(&key)?.ok_or(DirectoryError::NotFound)?;
            Ok((self.hold(place, &found)?, entered.unpublish(&found)))
        })?;
        result.map(|()| object)
    }

    /// Takes a name away without knowing of which type its object is: for tools that clean up.
    ///
    /// The object stays as long as somebody holds it. Only who knows the type can destroy it: if nobody else holds it, its
    /// memory is given back without its destructor, as if its last user had been killed.
    ///
    /// # Errors
    /// As [`unpublish`](Self::unpublish), without `Mismatch`.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, DirectoryError, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// arena.publish("session 7", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
    /// arena.publish("session 8", &ShmemBox::into_arc(arena.alloc_str("eight")?))?;
    /// let names: Result<Vec<_>, DirectoryError> = arena.names().collect();
    /// for entry in names?.iter().filter(|entry| entry.name().starts_with("session ") && entry.holders() == 0) {
    ///     arena.unpublish_any(entry.name())?;
    /// }
    /// assert_eq!(arena.names().count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn unpublish_any(&self, name: &str) -> Result<(), DirectoryError> {
        let key = self.key(name)?;
        self.enter(|_, entered| entered.unpublish_any(&entered.find(&key)?.ok_or(DirectoryError::NotFound)?))
    }

    /// Finds the object that was [published](Self::publish) under a name.
    ///
    /// # Errors
    /// - [`DirectoryError::NotFound`]: there is none.
    /// - [`DirectoryError::Mismatch`]: it is of another type; says in what they differ.
    /// - [`DirectoryError::Empty`], [`TooLong`](DirectoryError::TooLong), [`Forked`](DirectoryError::Forked),
    ///   [`Busy`](DirectoryError::Busy), [`NotRecoverable`](DirectoryError::NotRecoverable),
    ///   [`Damaged`](DirectoryError::Damaged).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, DirectoryError, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// arena.publish("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
    /// assert_eq!(*arena.find::<u64>("limit")?, 100);
    ///
    /// let error = arena.find::<u32>("limit").unwrap_err();
    /// assert!(error.to_string().contains("its size is 8 bytes and not 4"));
    /// assert_eq!(arena.find::<u64>("limits").unwrap_err(), DirectoryError::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    pub fn find<T: Object + Sync + ?Sized>(&self, name: &str) -> Result<ShmemArc<T>, DirectoryError> {
        let key = self.key(name)?;
        self.enter(|place, entered| self.hold(place, &entered.find(&key)?.ok_or(DirectoryError::NotFound)?))
    }

    /// Finds an object by its name, or makes and publishes one. Of several that try at once one makes it; what the
    /// others made is dropped, and they find that one's.
    ///
    /// # Errors
    /// As [`find`](Self::find) without `NotFound`, and [`DirectoryError::Alloc`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// for expected in 0..3 {
    ///     let counter = arena.find_or_alloc("starts", || AtomicU32::new(0))?;
    ///     assert_eq!(counter.fetch_add(1, Ordering::Relaxed), expected);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn find_or_alloc<T: Shareable + Sync>(
        &self,
        name: &str,
        value: impl FnOnce() -> T,
    ) -> Result<ShmemArc<T>, DirectoryError> {
        self.find_or_make(name, || Ok(self.alloc(value())?))
    }

    /// Finds an object by its name, or makes and publishes one of zeros, where it lies: for what is large, such as a
    /// [queue](crate::ring).
    ///
    /// # Errors
    /// As [`find_or_alloc`](Self::find_or_alloc).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::ring::Mpmc;
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(4 << 20)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// let jobs = arena.find_or_alloc_zeroed::<Mpmc<[u8; 120], 16_384>>("jobs")?;
    /// assert!(jobs.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn find_or_alloc_zeroed<T: FromZeros + Sync>(
        &self,
        name: &str,
    ) -> Result<ShmemArc<T>, DirectoryError> {
        self.find_or_make(name, || Ok(self.alloc_zeroed()?))
    }

    fn find_or_make<T: Shareable + Sync>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<ShmemBox<T>, DirectoryError>,
    ) -> Result<ShmemArc<T>, DirectoryError> {
        match self.find(name) {
            Err(DirectoryError::NotFound) => {}
            result => return result,
        }
        let made = ShmemBox::into_arc(make()?);
        for _ in 0..RETRIES {
            match self.publish(name, &made) {
                Ok(()) => return Ok(made),
                Err(DirectoryError::Taken) => {}
                Err(error) => return Err(error),
            }
            match self.find(name) {
                // Unpublished in between.
                Err(DirectoryError::NotFound) => {}
                result => return result,
            }
        }
        Err(DirectoryError::Busy)
    }

    /// Finds an object by its name, waiting for it to be published for at most `timeout`: so that processes may start
    /// in any order.
    ///
    /// # Errors
    /// As [`find`](Self::find); `NotFound` if it has not been published in time.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// # use std::time::Duration;
    /// let server = arena.clone();
    /// let thread = std::thread::spawn(move || {
    ///     let limit = ShmemBox::into_arc(server.alloc(100_u64).unwrap());
    ///     server.publish("limit", &limit).unwrap();
    /// });
    /// let limit = arena.wait_for::<u64>("limit", Duration::from_secs(60))?;
    /// assert_eq!(*limit, 100);
    /// # thread.join().unwrap();
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn wait_for<T: Object + Sync + ?Sized>(
        &self,
        name: &str,
        timeout: Duration,
    ) -> Result<ShmemArc<T>, DirectoryError> {
        let attached = self.conf.0.get().ok_or(DirectoryError::Forked)?;
        let words = &attached.region.header().directory;
        let start = clock::now();
        loop {
            let event = directory::announce(words);
            let left = timeout.saturating_sub(clock::now().saturating_sub(start));
            match self.find(name) {
                Err(DirectoryError::NotFound) if !left.is_zero() => directory::wait(words, event, left),
                result => return result,
            }
        }
    }

    /// The names, in no particular order. One that is published or unpublished meanwhile may be among them or not; all
    /// others are, once.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemBox, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().create(64 * 1024)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// arena.publish("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
    /// for entry in arena.names() {
    ///     let entry = entry?;
    ///     assert_eq!((entry.name(), entry.size(), entry.holders()), ("limit", 8, 0));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn names(&self) -> Names<'_, A> {
        Names { arena: self, after: None, given: 0, is_done: false }
    }

    /// A name, to be looked up.
    fn key<'n>(&self, name: &'n str) -> Result<Key<'n>, DirectoryError> {
        let attached = self.conf.0.get().ok_or(DirectoryError::Forked)?;
        Key::new(name, attached.header.segment_id())
    }

    /// Does `work` in the directory, locked. If the last one who had the lock died, the rest of what that one held is given
    /// back afterwards.
    fn enter<R>(
        &self,
        work: impl FnOnce((&Attached, &Heap<'_>), &Entered<'_, A>) -> Result<R, DirectoryError>,
    ) -> Result<R, DirectoryError> {
        let (attached, heap) = self.parts()?;
        let result = match super::directory::<A>(attached, &heap).enter() {
            Ok(entered) => work((attached, &heap), &entered),
            Err(error) => Err(error.into()),
        };
        self.after(attached)?;
        result.map_err(|error| self.believable(error))
    }

    /// A reference to the object of a name, of the right type. The caller holds the directory's lock.
    fn hold<T: Object + Sync + ?Sized>(
        &self,
        (attached, heap): (&Attached, &Heap<'_>),
        found: &Found,
    ) -> Result<ShmemArc<T>, DirectoryError> {
        let damaged = HeapError::Damaged { at: found.object };
        let block = heap.block(found.object)?;
        let len = block.extent.object_len().ok_or(damaged)?;
        typed::check::<T>(block.tag, len).map_err(DirectoryError::Mismatch)?;
        let start = attached.region.object(block.payload(), len, typed::align::<T>())?;
        let is_first = shared::hold(attached, heap, found.object)?.map_err(|_| damaged)?;
        // SAFETY: held just now; by tag and length it holds a `T`.
        let value = unsafe { T::pointer(start, len) };
        // SAFETY: as above, by this attachment, and `hold` has said whether it is the first.
        Ok(unsafe { ShmemArc::from_held(value, &self.conf.0, is_first) })
    }
}

/// The names of an arena.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, DirectoryError, ShmemBox, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// for (name, number) in [("one", 1_u32), ("two", 2)] {
///     arena.publish(name, &ShmemBox::into_arc(arena.alloc(number)?))?;
/// }
/// let entries: Result<Vec<_>, DirectoryError> = arena.names().collect();
/// let mut names: Vec<String> = entries?.iter().map(|entry| entry.name().to_owned()).collect();
/// names.sort();
/// assert_eq!(names, ["one", "two"]);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Debug)]
pub struct Names<'a, A> {
    arena: &'a Arena<A>,
    after: Option<Order>,
    /// How many there were so far.
    given: u64,
    is_done: bool,
}

/// A name and what is known of its object.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemBox, Tlsf};
///
/// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
/// let limit = ShmemBox::into_arc(arena.alloc(100_u64)?);
/// arena.publish_pinned("limit", &limit)?;
/// for entry in arena.names() {
///     let entry = entry?;
///     assert_eq!((entry.name(), entry.size(), entry.holders()), ("limit", 8, 1));
///     assert!(entry.is_pinned() && entry.is::<u64>() && !entry.is::<i64>());
///     assert_eq!(entry.type_tag().align(), 8);
/// }
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy)]
pub struct NameEntry {
    name: NameBuffer,
    tag: u64,
    size: u64,
    holders: u32,
    is_pinned: bool,
}

impl NameEntry {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The type of the object: the fingerprint's low 40 bits, alignment and version, and its size.
    #[must_use]
    pub const fn type_tag(&self) -> TypeTag {
        ObjectTag::from_bits(self.tag).to_type_tag(self.size)
    }

    /// Whether the object is a `T`.
    #[must_use]
    pub fn is<T: Object + ?Sized>(&self) -> bool {
        typed::check::<T>(self.tag, self.size).is_ok()
    }

    /// Size of the object, in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Number of attachments that hold the object; those of the dead count until that is noticed.
    #[must_use]
    pub const fn holders(&self) -> u32 {
        self.holders
    }

    /// Whether the name is for as long as the segment exists.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.is_pinned
    }
}

impl fmt::Debug for NameEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameEntry")
            .field("name", &self.name())
            .field("type_tag", &self.type_tag())
            .field("holders", &self.holders)
            .field("is_pinned", &self.is_pinned)
            .finish()
    }
}

impl<A: RegionAllocator> Names<'_, A> {
    fn entry(&mut self) -> Result<Option<NameEntry>, DirectoryError> {
        let (attached, heap) = self.arena.parts()?;
        self.arena.enter(|_, entered| {
            let Some((found, order)) = entered.next(self.after)? else {
                // Without a header there are no names either.
                return if attached.is_listed() {
                    Ok(None)
                } else {
                    Err(HeapError::Damaged { at: 0 }.into())
                };
            };
            self.after = Some(order);
            // There are no more entries than that, however often somebody puts another hash into one.
            self.given = self.given.saturating_add(1);
            if self.given > heap.capacity() / MIN_BLOCK_LEN {
                return Err(HeapError::Damaged { at: found.object }.into());
            }
            let name = entered.name(&found)?;
            let block = heap.block(found.object)?;
            let size = block.extent.object_len().ok_or(HeapError::Damaged { at: found.object })?;
            let (holders, is_pinned) = (block.state.holders(), block.state.is_pinned());
            Ok(Some(NameEntry { name, tag: block.tag, size, holders, is_pinned }))
        })
    }
}

impl<A: RegionAllocator> Iterator for Names<'_, A> {
    type Item = Result<NameEntry, DirectoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let entry = self.entry().transpose();
        // After an error there is no going on.
        self.is_done = !matches!(entry, Some(Ok(_)));
        entry
    }
}
