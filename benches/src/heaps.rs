//! Allocators over a piece of memory that processes share, under one interface
//!
//! | contestant | what it does |
//! |---|---|
//! | [`ours`] | this crate's bare allocators: `A::allocate` and `A::free`, as in a segment, with neither boxes nor names |
//! | [`rlsf`] | the TLSF of rlsf, for heaps of up to 64 GiB; bare, and behind a spin lock |
//! | [`talc`] | talc with its default bins and a memory claimed by hand; bare, and behind a spin lock |
//! | [`boost`] | `managed_shared_memory` of Boost.Interprocess as it comes, and without its mutex; called as C functions |
//! | [`private`] | `malloc` of glibc and mimalloc: in the memory of one process, for scale |
//!
//! All but the last two work on a memfd, or a file in `/dev/shm` without a name, mapped `MAP_SHARED`. What rlsf and talc
//! know about it, and their spin locks, is in that mapping too. They keep addresses, so only forked processes, which
//! have the mapping at the same place, can share it. The spin lock is the one that the documentation of talc
//! recommends.

#[cfg(boost)]
pub mod boost;
pub mod churn;
pub mod lock;
pub mod mapping;
pub mod ours;
pub mod private;
pub mod rlsf;
pub mod talc;

pub use churn::{Churn, Run, Sizes};
pub use mapping::Mapping;

/// What objects are aligned to, at least.
pub const ALIGN: usize = 8;

/// An object: an address, or, in this crate's heaps, the offset of a block.
pub type Place = u64;

/// The place of an object that is told by its address, with `value` in it; `None` of a null pointer.
///
/// # Safety
/// Where it is not null, `object` has at least 8 bytes, aligned to as many, and nobody else has them.
#[inline]
unsafe fn place_at(object: *mut u8, value: u64) -> Option<Place> {
    if object.is_null() {
        return None;
    }
    // SAFETY: as promised.
    unsafe { object.cast::<u64>().write(value) };
    Some(object.expose_provenance() as Place)
}

/// The address that such a place is.
#[inline]
fn address(place: Place) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(place as usize)
}

/// What stands in the object at such a place.
///
/// # Safety
/// [`place_at`] has given the place, and the object has not been freed.
unsafe fn value_at(place: Place) -> u64 {
    // SAFETY: as promised, that is where a value was written.
    unsafe { address(place).cast::<u64>().read() }
}

/// A heap, as one participant uses it.
pub trait Heap: Send + 'static {
    /// Allocates `len` bytes, at least 8, and writes `value` into the first 8.
    fn allocate(&self, len: usize, value: u64) -> Option<Place>;

    /// What stands in the first 8 bytes of an object.
    fn read(&self, place: Place) -> u64;

    /// Frees an object of `len` bytes, which nobody uses any more.
    fn free(&self, place: Place, len: usize);

    /// Checks all that can be checked; panics if it does not hold.
    fn check(&self) {}

    /// The same heap for another process, of this number.
    fn for_process(&self, number: u64) -> Self
    where
        Self: Sized;

    /// The same heap for another thread of the process.
    fn for_thread(&self) -> Self
    where
        Self: Sized;
}

/// The same, for those who need not know which one it is.
pub trait AnyHeap: Heap {
    /// See [`Heap::for_process`].
    fn any_for_process(&self, number: u64) -> Box<dyn AnyHeap>;

    /// See [`Heap::for_thread`].
    fn any_for_thread(&self) -> Box<dyn AnyHeap>;

    /// Objects that come and go, with all calls to the heap compiled in. `owner` stands in each object.
    fn churn(self: Box<Self>, live: usize, sizes: Sizes, owner: u32) -> Box<dyn Run>;
}

impl<H: Heap> AnyHeap for H {
    fn any_for_process(&self, number: u64) -> Box<dyn AnyHeap> {
        Box::new(self.for_process(number))
    }

    fn any_for_thread(&self) -> Box<dyn AnyHeap> {
        Box::new(self.for_thread())
    }

    fn churn(self: Box<Self>, live: usize, sizes: Sizes, owner: u32) -> Box<dyn Run> {
        Box::new(Churn::new(*self, live, sizes, owner))
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Glibc,
    Mimalloc,
    Rlsf,
    RlsfLocked,
    Talc,
    TalcLocked,
    Boost,
    BoostBare,
    Slab,
    Tlsf,
    Bump,
}

impl Who {
    /// All that give memory back at once, those of others first.
    pub const ALL: [Self; 10] = [
        Self::Glibc,
        Self::Mimalloc,
        Self::Rlsf,
        Self::RlsfLocked,
        Self::Talc,
        Self::TalcLocked,
        Self::BoostBare,
        Self::Boost,
        Self::Slab,
        Self::Tlsf,
    ];
    /// Those that several processes may use at once.
    pub const LOCKED: [Self; 5] = [Self::RlsfLocked, Self::TalcLocked, Self::Boost, Self::Slab, Self::Tlsf];

    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc malloc",
            Self::Mimalloc => "mimalloc",
            Self::Rlsf => "rlsf",
            Self::RlsfLocked => "rlsf + spin lock",
            Self::Talc => "talc",
            Self::TalcLocked => "talc + spin lock",
            Self::Boost => "Boost",
            Self::BoostBare => "Boost without its mutex",
            Self::Slab => "shmem-bind Slab",
            Self::Tlsf => "shmem-bind Tlsf",
            Self::Bump => "shmem-bind Bump",
        }
    }

    /// Whether it is this crate's.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Slab | Self::Tlsf | Self::Bump)
    }

    /// A heap of its own, of `len` bytes (of no given length for those in the memory of one process). `None` if the
    /// library is not there.
    pub fn heap(self, len: usize) -> Option<Box<dyn AnyHeap>> {
        Some(match self {
            Self::Glibc => Box::new(private::Glibc),
            Self::Mimalloc => Box::new(private::Mimalloc),
            Self::Rlsf => Box::new(rlsf::Rlsf::<lock::NoLock>::new(len)),
            Self::RlsfLocked => Box::new(rlsf::Rlsf::<lock::SpinLock>::new(len)),
            Self::Talc => Box::new(talc::Talc::<lock::NoLock>::new(len)),
            Self::TalcLocked => Box::new(talc::Talc::<lock::SpinLock>::new(len)),
            #[cfg(boost)]
            Self::Boost => Box::new(boost::Boost::<boost::Locked>::new(len)),
            #[cfg(boost)]
            Self::BoostBare => Box::new(boost::Boost::<boost::Bare>::new(len)),
            #[cfg(not(boost))]
            Self::Boost | Self::BoostBare => return None,
            Self::Slab => Box::new(ours::Ours::<shmem_bind::Slab>::new(len)),
            Self::Tlsf => Box::new(ours::Ours::<shmem_bind::Tlsf>::new(len)),
            Self::Bump => Box::new(ours::Ours::<shmem_bind::Bump>::new(len)),
        })
    }

    /// The heaps of all that are there.
    pub fn heaps(all: &[Self], len: usize) -> Vec<(Self, Box<dyn AnyHeap>)> {
        all.iter().filter_map(|who| Some((*who, who.heap(len)?))).collect()
    }
}

/// Says in one line who does not take part.
pub fn announce_absent() {
    if !cfg!(boost) && crate::counts::asked().is_none() {
        println!("Boost.Interprocess does not take part: no headers when this was built");
    }
}
