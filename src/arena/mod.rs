//! Arenas: many objects in one segment
//!
//! An [`Arena`] joins what the modules above do: an allocator that cuts the payload into blocks, the state words that
//! say whose each object is, the export bitmap and the handles, the directory of names. It is one more handle of its
//! attachment; boxes and references keep that alive by themselves.
//!
//! # Formatting
//! The payload word says what a payload is. It becomes "an arena being formatted" by one compare-and-swap, under the
//! lock of the directory, and "an arena" when all is in place. A process that dies in between leaves a lock whose
//! holder is dead; the next one formats again, from the beginning.

mod alloc;
mod capacity;
mod leaked;
mod names;
mod recovery;

pub use capacity::Need;
pub use leaked::{Leaked, LeakedObject};
pub use names::{NameEntry, Names};
pub use recovery::Reclaimed;
#[cfg(feature = "alloc")]
pub(crate) use recovery::{give_back, so_far};

use crate::allocator::{RegionAllocator, Tlsf, functions};
use crate::attachment::Attached;
use crate::directory::Directory;
use crate::error::{ArenaError, Errno, HeapError, Unusable};
use crate::exports::Exports;
use crate::header::Payload;
use crate::heap::{Heap, Usage};
use crate::object::BlockState;
use crate::region;
use crate::segment::ShmemConf;
use crate::sys::shm;
use core::fmt;
use core::marker::PhantomData;
use core::ops::ControlFlow;

/// A segment that holds many objects of different types.
///
/// `A` cuts the memory into blocks; [`Tlsf`] is good for everything. All processes use the same.
///
/// It is `'static`, `Send` and `Sync`, and clones are cheap: they share one attachment with each other and with all boxes
/// and references. In a child after `fork`, what it inherited is inert, and the objects are not mapped: open the
/// segment anew there.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemArc, ShmemBox, ShmemError, Tlsf};
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-arena", std::process::id());
/// let arena = Builder::new(name).with_size(1 << 20).open()?.arena::<Tlsf>()?;
/// let mut number: ShmemBox<u64> = arena.alloc(40)?;
/// *number += 2;
/// let bytes: ShmemBox<[u8]> = arena.alloc_slice(4096, 0)?;
/// assert_eq!((*number, bytes.len()), (42, 4096));
///
/// let number: ShmemArc<u64> = ShmemBox::into_arc(number);
/// arena.publish("the answer", &number)?;
/// // In any process that has opened the segment:
/// let found = arena.find::<u64>("the answer")?;
/// assert_eq!(*found, 42);
/// # Ok(())
/// # }
/// ```
pub struct Arena<A = Tlsf> {
    conf: ShmemConf,
    allocator: PhantomData<fn() -> A>,
}

impl ShmemConf {
    /// Takes the payload for an arena, managed by the allocator `A`. The first to do so formats it.
    ///
    /// Gives back what processes held that have died since. In this process's children after `fork` the
    /// segment will not be mapped.
    ///
    /// # Errors
    /// - [`ArenaError::Value`]: the segment holds a single value.
    /// - [`ArenaError::Allocator`]: it is managed by another allocator.
    /// - [`ArenaError::TooSmall`]: the allocator needs more.
    /// - [`ArenaError::ReadOnly`], [`Forked`](ArenaError::Forked), [`Busy`](ArenaError::Busy),
    ///   [`NoSpace`](ArenaError::NoSpace), [`NotRecoverable`](ArenaError::NotRecoverable),
    ///   [`Damaged`](ArenaError::Damaged), [`Os`](ArenaError::Os).
    ///
    /// The handle is dropped then, which unlinks the segment if it owns it.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Arena, ArenaError, Builder, Bump, Tlsf};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-as-arena", std::process::id());
    /// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
    ///
    /// // All processes use the same allocator.
    /// let error = Builder::new(name).attach()?.arena::<Bump>().unwrap_err();
    /// assert!(matches!(error, ArenaError::Allocator { .. }));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn arena<A: RegionAllocator>(self) -> Result<Arena<A>, ArenaError> {
        let attached = self.0.get().ok_or(ArenaError::Forked)?;
        if attached.is_read_only() {
            return Err(ArenaError::ReadOnly);
        }
        let arena = Arena { conf: self, allocator: PhantomData };
        let result = arena.prepare();
        // What was found then was zeros.
        if arena.conf.is_severed() { Err(ArenaError::Severed) } else { result.map(|()| arena) }
    }
}

/// Whether the payload is an arena that `A` has formatted; `false` if it may become one.
fn is_formed<A: RegionAllocator>(attached: &Attached) -> Result<bool, ArenaError> {
    match attached.region.header().payload() {
        Ok(Payload::Unset | Payload::Arena { is_formed: false, .. }) => Ok(false),
        Ok(Payload::Arena { allocator, .. }) if allocator == A::ID => Ok(true),
        Ok(Payload::Arena { allocator, .. }) => Err(ArenaError::Allocator { found: allocator, asked: A::ID }),
        Ok(Payload::Value { size, align }) => Err(ArenaError::Value { size, align }),
        Err(_) => Err(ArenaError::Damaged { at: 0 }),
    }
}

impl<A: RegionAllocator> Arena<A> {
    /// The handle of the segment: its name, size, owner and so on.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// assert_eq!(arena.conf().payload_size(), 64 * 1024);
    /// assert_eq!(arena.conf().owner_pid(), Some(std::process::id()));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn conf(&self) -> &ShmemConf {
        &self.conf
    }

    /// This attachment and its heap.
    #[inline]
    fn parts(&self) -> Result<(&Attached, Heap<'_>), Unusable> {
        let attached = self.conf.0.get().ok_or(Unusable::Forked)?;
        // What is attached read-only does not get to be an arena.
        Ok((attached, attached.heap().ok_or(Unusable::Severed)?))
    }

    /// Makes it usable.
    fn prepare(&self) -> Result<(), ArenaError> {
        let (attached, _) = self.parts()?;
        is_formed::<A>(attached)?;
        attached.exclude_from_fork()?;
        let words = attached.region.heap_words().len();
        attached.private.map(functions::<A>(), words)?;
        self.form()?;
        // From now on this attachment uses the arena.
        attached.private.open(functions::<A>());
        self.sweep()?;
        self.begin()
    }

    /// Formats the arena if nobody has.
    fn form(&self) -> Result<(), ArenaError> {
        let (attached, heap) = self.parts()?;
        if is_formed::<A>(attached)? {
            return Ok(());
        }
        let header = attached.region.header();
        let mut entered = directory::<A>(attached, &heap).lock_unchecked()?;
        if is_formed::<A>(attached)? {
            return Ok(entered.recover_if_dead()?);
        }
        let was = header.payload().map_err(|_| ArenaError::Damaged { at: 0 })?;
        let forming = Payload::Arena { allocator: A::ID, is_formed: false };
        if !header.replace_payload(was, forming) {
            // Somebody has made it a single value meanwhile.
            entered.mark_whole();
            is_formed::<A>(attached)?;
            return Err(ArenaError::Busy);
        }
        let result = format::<A>(attached, &heap);
        if heap.is_severed() {
            // The next one formats it, as after a death.
            return Err(ArenaError::Severed);
        }
        let next = match result {
            Ok(()) => Payload::Arena { allocator: A::ID, is_formed: true },
            // It may have been another allocator that died in the middle: then there are no zeros any more.
            Err(_) => was,
        };
        // SYNC: Release here; whoever finds an arena finds it formatted.
        let _: bool = header.replace_payload(forming, next);
        entered.mark_whole();
        result
    }

    /// An error, if it is to be believed: of an arena whose header reads as zero, everything that one looks for is not
    /// there. Then it has been lost, by a hole in the file, or because the segment is severed.
    #[cold]
    fn believable<E: From<HeapError> + From<Unusable>>(&self, error: E) -> E {
        match self.parts() {
            Err(unusable) => unusable.into(),
            Ok((attached, _)) if !attached.is_listed() => HeapError::Damaged { at: 0 }.into(),
            Ok(_) => error,
        }
    }

    /// After an operation on all of the arena: [`after`](Self::after), and what came of it, if it is to be believed.
    fn result<R, E: Into<ArenaError>>(
        &self,
        attached: &Attached,
        result: Result<R, E>,
    ) -> Result<R, ArenaError> {
        self.after(attached)?;
        if attached.is_listed() { result.map_err(Into::into) } else { Err(ArenaError::Damaged { at: 0 }) }
    }

    /// Lets the allocator tidy up if nobody else uses the heap.
    fn begin(&self) -> Result<(), ArenaError> {
        let (attached, heap) = self.parts()?;
        // Whoever attaches from now on waits for the lock before it uses the heap.
        let _entered = directory::<A>(attached, &heap).enter()?;
        let word = attached.region.header().membership();
        if word.count() == 1 && attached.slot().is_some_and(|slot| word.is_attached(slot)) {
            A::begin_alone(&heap)?;
        }
        Ok(())
    }

    /// Gives the arena up, and leaves the segment its name, also if this attachment owns it: for a daemon that restarts
    /// and wants to find everything as it was. Clones, boxes and references go on; dropped later, they do not unlink it
    /// either.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Origin, ShmemBox, Tlsf};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-leak-arena", std::process::id());
    /// let arena = Builder::new(name).with_size(64 * 1024).open()?.arena::<Tlsf>()?;
    /// arena.publish("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
    /// arena.leak();
    ///
    /// // After a restart:
    /// let segment = Builder::new(name).with_size(64 * 1024).open()?;
    /// assert_eq!(segment.origin(), Origin::Attached);
    /// let arena = segment.arena::<Tlsf>()?;
    /// assert_eq!(*arena.find::<u64>("limit")?, 100);
    /// # shmem_bind::unlink(name)?;
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn leak(self) {
        if let Some(attached) = self.conf.0.get() {
            attached.keep_name();
        }
    }

    /// How much is in use.
    ///
    /// # Errors
    /// [`ArenaError::Forked`], [`Busy`](ArenaError::Busy), [`NotRecoverable`](ArenaError::NotRecoverable),
    /// [`Damaged`](ArenaError::Damaged).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let before = arena.usage()?;
    /// let number = arena.alloc(7_u64)?;
    /// let after = arena.usage()?;
    /// assert_eq!((after.blocks, after.used - before.used), (before.blocks + 1, 32));
    /// assert!(after.largest_free < before.largest_free);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn usage(&self) -> Result<Usage, ArenaError> {
        let (attached, heap) = self.parts()?;
        let mut usage = A::usage(&heap);
        if attached.alarms() != 0 {
            self.after(attached)?;
            // Without what the dead held.
            usage = A::usage(&heap);
        }
        self.result(attached, usage)
    }

    /// Size of the payload that is in use now, in bytes: what it was created with, or has [grown](Self::grow) to.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// assert_eq!(arena.size(), 64 * 1024);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn size(&self) -> usize {
        let Ok((attached, heap)) = self.parts() else { return 0 };
        // What has been mapped fits.
        region::payload_len(heap.len()).min(attached.region.payload_len() as u64) as usize
    }

    /// Makes the arena larger, in all processes at once: a payload of `to` bytes. Pointers stay valid. Does nothing if
    /// it is as large already. Needs Linux 5.14.
    ///
    /// # Errors
    /// - [`ArenaError::AboveMaximum`]: more than [`max_size`](crate::BuilderWithSize::max_size).
    /// - [`ArenaError::NoSpace`]: there is no memory. The arena is as it was.
    /// - [`ArenaError::Forked`], [`Busy`](ArenaError::Busy), [`NotRecoverable`](ArenaError::NotRecoverable),
    ///   [`Damaged`](ArenaError::Damaged), [`Os`](ArenaError::Os).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemError, Tlsf};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (segment, _fd) = Builder::memfd().max_size(1 << 30).create(4096)?;
    /// let arena = segment.arena::<Tlsf>()?;
    /// assert!(arena.alloc_slice(10_000, 0_u8).is_err());
    /// arena.grow(64 * 1024)?;
    /// assert_eq!(arena.alloc_slice(10_000, 0_u8)?.len(), 10_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn grow(&self, to: usize) -> Result<(), ArenaError> {
        let (attached, heap) = self.parts()?;
        let (asked, max) = (to as u64, attached.region.payload_len() as u64);
        if asked > max {
            return Err(ArenaError::AboveMaximum { asked, max });
        }
        self.result(attached, grow::<A>(attached, &heap, asked))
    }

    /// Checks all that must hold of the arena's memory, also what is not needed to go on. Takes time in proportion to
    /// the number of objects, during which others wait.
    ///
    /// # Errors
    /// [`ArenaError::Damaged`] says where it does not hold; and as [`usage`](Self::usage).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let arena = Builder::memfd().create(64 * 1024)?.0.arena::<Tlsf>()?;
    /// let _number = arena.alloc(7_u64)?;
    /// arena.check()?; // in a test, after all that was done
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn check(&self) -> Result<(), ArenaError> {
        let (attached, heap) = self.parts()?;
        self.result(attached, check::<A>(attached, &heap))
    }
}

fn grow<A: RegionAllocator>(attached: &Attached, heap: &Heap<'_>, asked: u64) -> Result<(), ArenaError> {
    let _entered = directory::<A>(attached, heap).enter()?;
    let len = region::heap_len(asked);
    if len <= heap.len() {
        return Ok(());
    }
    if !attached.header.is_lazy() {
        populate(attached, heap.len(), len, asked)?;
    }
    Ok(A::grow(heap, len)?)
}

fn check<A: RegionAllocator>(attached: &Attached, heap: &Heap<'_>) -> Result<(), HeapError> {
    let entered = directory::<A>(attached, heap).enter()?;
    A::check(heap)?;
    let exports = exports(attached);
    check_exports::<A>(heap, exports, |from| exports.next(from, heap.len()))?;
    entered.check()
}

/// The directory of the arena whose heap this is.
fn directory<'a, A: RegionAllocator>(attached: &'a Attached, heap: &'a Heap<'a>) -> Directory<'a, A> {
    Directory::new(heap, &attached.region.header().directory, exports(attached))
}

fn exports(attached: &Attached) -> Exports<'_> {
    Exports::new(attached.region.export_words())
}

/// Checks that nothing is exported but blocks in use. The next block that is exported is what `next` gives.
pub(crate) fn check_exports<A: RegionAllocator>(
    heap: &Heap<'_>,
    exports: Exports<'_>,
    next: impl Fn(u64) -> Option<u64>,
) -> Result<(), HeapError> {
    let mut result = Ok(());
    // The first bit at or after the block that comes next; blocks come in the order of their offsets.
    let mut bit = next(0);
    A::walk(heap, &mut |block| {
        let end = block.end().unwrap_or(u64::MAX);
        while let Some(exported) = bit.filter(|exported| *exported < end) {
            // Without a lock the block may be freed and used again meanwhile, so what is seen must be so for a while.
            let is_damaged = |_| {
                let is_free = || heap.load(exported).is_ok_and(|bits| BlockState::from_bits(bits).is_free());
                exports.is_set(exported) && (exported != block.offset || is_free())
            };
            if (0..8).all(is_damaged) {
                result = Err(HeapError::Damaged { at: exported });
                return ControlFlow::Break(());
            }
            bit = next(exported.saturating_add(1));
        }
        ControlFlow::Continue(())
    })?;
    result
}

/// Takes memory for the heap up to `to`.
fn populate(attached: &Attached, from: u64, to: u64, asked: u64) -> Result<(), ArenaError> {
    // Ask before taking: far more than there is would drive everybody else out of memory first.
    if to.saturating_sub(from) > shm::machine_memory() {
        return Err(ArenaError::NoSpace { asked });
    }
    attached.region.populate_heap(from, to).map_err(|errno| match errno {
        Errno::NOMEM => ArenaError::NoSpace { asked },
        _ => ArenaError::Os { call: "madvise", errno },
    })
}

/// Lays the arena out, whatever its memory holds.
fn format<A: RegionAllocator>(attached: &Attached, heap: &Heap<'_>) -> Result<(), ArenaError> {
    let (initial, most) = (attached.header.initial_len(), attached.header.payload_len());
    let len = region::heap_len(initial);
    if initial < most && !attached.header.is_lazy() {
        populate(attached, 0, len, initial)?;
    }
    let header = attached.region.header();
    header.heap.reset(len);
    header.directory.reset();
    match A::format(heap) {
        Err(HeapError::OutOfMemory) => Err(ArenaError::TooSmall { len, needed: len.saturating_add(1) }),
        result => Ok(result?),
    }
}

impl<A> Clone for Arena<A> {
    fn clone(&self) -> Self {
        Self { conf: ShmemConf(self.conf.0.clone()), allocator: PhantomData }
    }
}

impl<A> fmt::Debug for Arena<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("conf", &self.conf).finish()
    }
}

static_assertions::assert_impl_all!(Arena<Tlsf>: Send, Sync, Clone);
