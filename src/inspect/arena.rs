//! What is in an arena, and whether it is sound
//!
//! The crate's own code is run over a copy: it walks, checks, counts, and even gives back what the dead hold, to see how much
//! that would be. In a copy nobody is at work, so whoever holds a lock in it is gone, and what it was at is put right
//! as after a death. By what an arena promises that can be done at every instant.

use super::block::{BlockInfo, Named};
use super::parts::Parts;
use super::tenant::{Life, Tenant};
use super::verdict::{Damage, Part, Unchecked};
use crate::allocator::{Bump, RegionAllocator, Slab, Tlsf};
use crate::allocator_id::AllocatorId;
use crate::arena::{self, Reclaimed};
use crate::directory::Directory;
use crate::error::HeapError;
use crate::exports::Exports;
use crate::heap::{Heap, Usage};
use crate::lock::{Holder, Peek, RawLock, Roll};
use crate::membership::{MAX_ATTACHMENTS, Slot};
use crate::object::BLOCK_HEADER_LEN;
use crate::region::Region;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// Who holds a lock.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{LockState, Snapshot, Verdict};
/// use shmem_bind::{Builder, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-lock-state", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let mut saved = std::fs::read(format!("/dev/shm/{name}")).unwrap();
/// // As if slot 0 had died while it allocated: the next one puts that right.
/// saved[128..132].copy_from_slice(&(1_u32 << 24).to_ne_bytes());
///
/// let snapshot = Snapshot::of_bytes(&saved);
/// assert_eq!(snapshot.verdict(), Verdict::Sound);
/// let inside = snapshot.arena().unwrap();
/// assert_eq!(inside.heap_lock(), LockState::Held { slot: 0 });
/// assert_eq!(inside.directory_lock(), LockState::Free);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockState {
    /// Nobody.
    Free,
    /// The attachment of this slot, or a former one: then the next one who takes it puts right what it protects.
    Held {
        /// Number of the slot.
        slot: u32,
    },
    /// Nobody any more: what it protects could not be put right.
    GivenUp,
    /// Its word is none that a lock can have.
    Damaged,
}

impl LockState {
    fn of(lock: &RawLock) -> Self {
        match lock.peek() {
            Peek::Free => Self::Free,
            Peek::Held(slot) => Self::Held { slot: slot.index() as u32 },
            Peek::NotRecoverable => Self::GivenUp,
            Peek::Damaged => Self::Damaged,
        }
    }
}

/// What is in an arena.
///
/// # Examples
/// ```
/// use shmem_bind::inspect::{BlockInfo, BlockKind, LockState, Snapshot};
/// use shmem_bind::{Builder, RegionAllocator, ShmemBox, Tlsf};
///
/// # let name = &format!("shmem-bind-doc-{}-arena-info", std::process::id());
/// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
/// let _mine = (arena.alloc_slice(1000, 0_u8)?, arena.alloc(7_u64)?);
/// arena.publish("limit", &ShmemBox::into_arc(arena.alloc(100_u64)?))?;
///
/// let snapshot = Snapshot::take(name)?;
/// let inside = snapshot.arena().unwrap();
/// assert_eq!((inside.allocator(), inside.usage()), (Tlsf::ID, Some(&arena.usage()?)));
/// let own = inside.blocks().iter().filter(|block| block.kind() == BlockKind::Exclusive { slot: 0 });
/// assert_eq!(own.filter_map(BlockInfo::object_len).sum::<u64>(), 1008);
/// assert!(inside.has_all_blocks() && inside.names().len() == 1);
/// assert_eq!((inside.heap_lock(), inside.directory_lock()), (LockState::Free, LockState::Free));
/// assert!(inside.reclaimed().is_empty());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ArenaInfo {
    pub(super) allocator: AllocatorId,
    pub(super) heap_len: u64,
    pub(super) heap_capacity: u64,
    pub(super) heap_lock: LockState,
    pub(super) directory_lock: LockState,
    pub(super) blocks: Vec<BlockInfo>,
    pub(super) has_all_blocks: bool,
    pub(super) names: Vec<Named>,
    pub(super) usage: Option<Usage>,
    pub(super) reclaimed: Reclaimed,
    pub(super) estate: Option<Reclaimed>,
}

impl ArenaInfo {
    /// Who manages its memory.
    #[must_use]
    pub const fn allocator(&self) -> AllocatorId {
        self.allocator
    }

    /// Length of the heap that is in use now, in bytes. The payload begins with the heap.
    #[must_use]
    pub const fn heap_len(&self) -> u64 {
        self.heap_len
    }

    /// Length that the heap may grow to, in bytes.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::inspect::Snapshot;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-heap-capacity", std::process::id());
    /// let builder = Builder::new(name).with_size(64 * 1024).max_size(1 << 20);
    /// let arena = builder.create()?.arena::<Tlsf>()?;
    /// let before = Snapshot::take(name)?.arena().unwrap().clone();
    /// assert!(before.heap_len() < before.heap_capacity() && before.heap_capacity() < 1 << 20);
    ///
    /// arena.grow(1 << 20)?;
    /// let after = Snapshot::take(name)?.arena().unwrap().clone();
    /// assert_eq!((after.heap_len(), after.heap_capacity()), (before.heap_capacity(), before.heap_capacity()));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub const fn heap_capacity(&self) -> u64 {
        self.heap_capacity
    }

    /// The lock of the allocator.
    #[must_use]
    pub const fn heap_lock(&self) -> LockState {
        self.heap_lock
    }

    /// The lock of the directory.
    #[must_use]
    pub const fn directory_lock(&self) -> LockState {
        self.directory_lock
    }

    /// The blocks, in the order of their offsets: those in use, and the free ones that the allocator knows of as such.
    #[must_use]
    pub fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    /// Whether these are all. Else those behind the first damage are missing; or, if the allocator is none of this
    /// crate, all whose object nothing outside may lead to: neither a name, nor a handle, nor a reference.
    #[must_use]
    pub const fn has_all_blocks(&self) -> bool {
        self.has_all_blocks
    }

    /// The names in the directory, sorted; those that could be read.
    #[must_use]
    pub fn names(&self) -> &[Named] {
        &self.names
    }

    /// How much is in use, as [`Arena::usage`](crate::Arena::usage) has it; `None` if that cannot be said.
    #[must_use]
    pub const fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// How much of the free memory is not in its largest piece, in percent; `None` if that cannot be said.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::inspect::Snapshot;
    /// use shmem_bind::{Builder, Tlsf};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-fragmentation", std::process::id());
    /// let arena = Builder::new(name).with_size(64 * 1024).create()?.arena::<Tlsf>()?;
    /// let mut pieces: Vec<_> = std::iter::from_fn(|| arena.alloc_slice(1000, 0_u8).ok()).collect();
    /// // Every other one is freed: no two of the holes meet.
    /// let mut number = 0;
    /// pieces.retain(|_| { number += 1; number % 2 == 0 });
    /// assert!(Snapshot::take(name)?.arena().unwrap().fragmentation() > Some(90));
    ///
    /// drop(pieces);
    /// assert_eq!(Snapshot::take(name)?.arena().unwrap().fragmentation(), Some(0));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn fragmentation(&self) -> Option<u32> {
        let usage = self.usage?;
        if usage.free == 0 {
            return Some(0);
        }
        let largest = u128::from(usage.largest_free.saturating_add(BLOCK_HEADER_LEN).min(usage.free));
        let percent = largest.saturating_mul(100).checked_div(u128::from(usage.free))?;
        u32::try_from(percent).ok().and_then(|percent| 100_u32.checked_sub(percent))
    }

    /// What was given back of the dead since the arena was made.
    #[must_use]
    pub const fn reclaimed(&self) -> &Reclaimed {
        &self.reclaimed
    }
}

/// What a look at an arena gives.
pub(super) struct Look {
    pub(super) info: ArenaInfo,
    /// The first thing that does not hold.
    pub(super) damage: Option<Damage>,
    pub(super) unchecked: Option<Unchecked>,
}

/// In a copy nobody is at work.
struct Nobody;

impl Roll for Nobody {
    fn is_gone(&self, _: Holder) -> bool {
        true
    }
}

/// Most bytes of holes that the directory's table is read with in any case.
const MOST_HOLES: u64 = 64 << 20;
/// Bits of the word of the table that are its offset.
const TABLE_MASK: u64 = (1 << 44) - 1;

/// Whether the directory's table has more of holes than the whole segment has memory. Its maker has written it from one
/// end to the other, so it is none, or somebody has cut zeros out of a saved file; to read it would take as long as it
/// is said to be.
fn is_table_a_hole(heap: &Heap<'_>, region: &Region, parts: &Parts) -> bool {
    let word = region.header().directory.table.load(Ordering::Relaxed);
    // If that is no block, the directory says so.
    let Ok(table) = heap.block(word & TABLE_MASK) else { return false };
    let written = parts.within_payload(table.offset..table.end().unwrap_or(u64::MAX));
    let written = written.fold(0_u64, |sum, part| sum.saturating_add(part.end.saturating_sub(part.start)));
    table.extent.len().saturating_sub(written) > parts.copied().max(MOST_HOLES)
}

/// Looks at the arena in a copy, which is of no more use afterwards.
pub(super) fn look(region: &Region, parts: &Parts, allocator: AllocatorId, tenants: &[Tenant]) -> Look {
    match allocator {
        AllocatorId::TLSF => look_at::<Tlsf>(region, parts, tenants),
        AllocatorId::SLAB => look_at::<Slab>(region, parts, tenants),
        AllocatorId::BUMP => look_at::<Bump>(region, parts, tenants),
        _ => look_from_outside(region, parts, allocator),
    }
}

/// The one who looks: the last slot, which is as good as any.
fn me() -> Holder {
    let last = Slot::new(u64::from(MAX_ATTACHMENTS).saturating_sub(1));
    Holder::new(last.unwrap_or(Slot::FIRST), 0)
}

/// Of a copy nothing goes away.
static NO_ALARM: AtomicU64 = AtomicU64::new(0);

fn heap<'a>(region: &'a Region, private: &'a [AtomicU64]) -> Heap<'a> {
    Heap::new(region.heap_words(), &region.header().heap, private, me(), &Nobody, Duration::ZERO, &NO_ALARM)
}

/// What can be said before anything is looked at closely.
fn outline(heap: &Heap<'_>, region: &Region, allocator: AllocatorId) -> ArenaInfo {
    let header = region.header();
    ArenaInfo {
        allocator,
        heap_len: heap.len(),
        heap_capacity: heap.capacity(),
        heap_lock: LockState::of(header.heap.lock()),
        directory_lock: LockState::of(&header.directory.lock),
        blocks: Vec::new(),
        has_all_blocks: false,
        names: Vec::new(),
        usage: None,
        reclaimed: arena::so_far(header),
        estate: None,
    }
}

fn lock_damage(info: &ArenaInfo) -> Option<Damage> {
    let locks = [(info.heap_lock, Part::Allocator), (info.directory_lock, Part::Directory)];
    locks.into_iter().find_map(|(state, part)| match state {
        LockState::Damaged => Some(Damage::Lock(part)),
        LockState::GivenUp => Some(Damage::GivenUp(part)),
        LockState::Free | LockState::Held { .. } => None,
    })
}

fn look_at<A: RegionAllocator>(region: &Region, parts: &Parts, tenants: &[Tenant]) -> Look {
    let private: Vec<AtomicU64> = (0..A::PRIVATE_WORDS).map(|_| AtomicU64::new(0)).collect();
    let heap = heap(region, &private);
    let exports = Exports::new(region.export_words());
    let mut info = outline(&heap, region, A::ID);
    let mut damage = lock_damage(&info);
    let mut note = |part, result: Result<(), HeapError>| {
        damage = damage.or(result.err().and_then(|error| Damage::of(part, error)));
        damage.is_none()
    };

    let (walked, has_room) = collect::<A>(&heap, &mut info.blocks);
    info.has_all_blocks = walked.is_ok() && has_room;
    let is_sound = note(Part::Allocator, walked.and_then(|()| A::check(&heap)));
    if is_sound {
        let next = |from| parts.next_exported(&heap, exports, from);
        note(Part::Exports, arena::check_exports::<A>(&heap, exports, next));
    }
    let has_table = !is_table_a_hole(&heap, region, parts);
    if has_table {
        match Directory::<A>::new(&heap, &region.header().directory, exports).enter() {
            Ok(entered) => {
                let listed = read_names(&heap, parts, &mut info.names, |visit| entered.each(visit));
                // It looks at all blocks, too.
                if note(Part::Directory, listed) {
                    note(Part::Directory, entered.check());
                }
            }
            Err(error) => _ = note(Part::Directory, Err(error)),
        }
    }
    // These change the copy, and whatever they come upon, its users will.
    let usage = A::usage(&heap);
    note(Part::Allocator, usage.map(drop));
    info.usage = usage.ok();
    let dead = tenants.iter().filter(|tenant| tenant.life() == Life::Dead);
    let slots = dead.map(Tenant::bit).fold(0, |bits, bit| bits | bit);
    let estate =
        if slots == 0 { Ok(Reclaimed::default()) } else { arena::give_back::<A>(region, &heap, slots) };
    note(Part::Allocator, estate.map(drop));
    info.estate = estate.ok();
    let unchecked = match (has_room, has_table) {
        (false, _) => Some(Unchecked::NoMemory),
        (true, false) => Some(Unchecked::Hole(Part::Directory)),
        (true, true) => None,
    };
    Look { info, damage, unchecked }
}

/// Gathers the blocks; gives whether there was memory for all.
fn collect<A: RegionAllocator>(
    heap: &Heap<'_>,
    blocks: &mut Vec<BlockInfo>,
) -> (Result<(), HeapError>, bool) {
    let mut has_room = true;
    let walked = A::walk(heap, &mut |block| {
        if blocks.try_reserve(1).is_err() {
            has_room = false;
            return ControlFlow::Break(());
        }
        blocks.push(BlockInfo(*block));
        ControlFlow::Continue(())
    });
    (walked, has_room)
}

/// What is known of an arena whose allocator is not: what names, handles and references lead to.
fn look_from_outside(region: &Region, parts: &Parts, allocator: AllocatorId) -> Look {
    let heap = heap(region, &[]);
    let exports = Exports::new(region.export_words());
    let mut info = outline(&heap, region, allocator);
    let mut damage = lock_damage(&info);
    let mut from = 0;
    while let Some(offset) = parts.next_exported(&heap, exports, from) {
        match parts.block(&heap, offset) {
            Ok(block) => {
                if info.blocks.try_reserve(1).is_err() {
                    break;
                }
                info.blocks.push(BlockInfo(block));
                from = offset.saturating_add(1);
            }
            Err(next) => from = next,
        }
    }
    // Of the allocator nothing is called unless a dead one's work is to be finished, which is not done here.
    if !is_table_a_hole(&heap, region, parts) {
        let directory = Directory::<Tlsf>::new(&heap, &region.header().directory, exports);
        let listed = directory.lock_unchecked().and_then(|entered| {
            let listed = read_names(&heap, parts, &mut info.names, |visit| entered.each(visit));
            drop(entered);
            listed
        });
        // Half of a change is no damage.
        if info.directory_lock == LockState::Free {
            damage = damage.or(listed.err().and_then(|error| Damage::of(Part::Directory, error)));
        }
    }
    Look { info, damage, unchecked: Some(Unchecked::Allocator(allocator)) }
}

type VisitName<'v> = dyn FnMut(&crate::directory::NameBuffer, u64) -> Result<(), HeapError> + 'v;

/// Gathers the names that `each` passes on.
fn read_names(
    heap: &Heap<'_>,
    parts: &Parts,
    names: &mut Vec<Named>,
    each: impl FnOnce(&mut VisitName<'_>) -> Result<(), HeapError>,
) -> Result<(), HeapError> {
    // Places may share an entry, and entries lie in each other, if they are damaged. Else a name, its entry, its place and its
    // object take more of the segment than what is made of them here.
    let mut room = parts.copied();
    let result = each(&mut |name, object| {
        let block = heap.block(object)?;
        let name = name.as_str();
        let taken = (name.len() as u64).saturating_add(size_of::<Named>() as u64);
        room = room.checked_sub(taken).ok_or(HeapError::Damaged { at: object })?;
        let mut copied = String::new();
        if copied.try_reserve_exact(name.len()).is_ok() && names.try_reserve(1).is_ok() {
            copied.push_str(name);
            names.push(Named { name: copied, block: BlockInfo(block) });
        }
        Ok(())
    });
    names.sort_by(|one, other| one.name.cmp(&other.name));
    result
}
