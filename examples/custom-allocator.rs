//! An allocator of one's own, written with nothing but the public interface.
//!
//! ```text
//! cargo run --example custom-allocator
//! ```
//!
//! [`Pool`] cuts the heap into cells of one size, and never cuts or joins them again. That suits a program whose
//! objects are all about as large, and it takes no lock: each cell is decided by its own state word.
//!
//! What an allocator promises stands at `RegionAllocator`, and the `SAFETY` comment below goes through it. `main` shows how one is
//! tried: first over plain memory, where one can look at everything and play deaths, and then in a segment.
//!
//! | offset | what |
//! |---|---|
//! | 0 | number of the cell to look at first, which is only a hint |
//! | 8 | the first cell: 24 bytes of header, then the object |
//! | 8 + `CELL` | the second cell, and so on, as many as fit |
//!
//! | state word of a cell | meaning | next |
//! |---|---|---|
//! | free | | claimed, by the one whose compare-and-swap succeeds |
//! | claimed: kind 0, slot from bit 8 | on its way to that attachment | in use, by `hand_out` |
//! | anything else | in use; what exactly is up to the arena | free |

use shmem_bind::allocator::{
    BLOCK_HEADER_LEN, Block, BlockState, Demand, Extent, GRANULE, Heap, HeapError, MIN_BLOCK_LEN, PlainHeap,
    Request, Visit,
};
use shmem_bind::{
    AllocatorId, Arena, ArenaError, Builder, Need, RegionAllocator, ShmemBox, ShmemError, Usage,
};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Cells of `CELL` bytes, the 24 of the header included. `CELL` is a multiple of 16, from 32 to 272.
#[derive(Debug)]
pub enum Pool<const CELL: u64> {}

/// Offset of the hint.
const HINT: u64 = 0;
/// Offset of the first cell: payloads lie 24 bytes further, at multiples of 16.
const FIRST: u64 = 8;

/// The state of a cell that was claimed and is not in use yet: no kind that blocks have, and the slot.
fn claimed(slot: u64) -> BlockState {
    BlockState::from_bits(slot << 8)
}

/// The slot, if a state is one of these.
fn claimer(state: BlockState) -> Option<u64> {
    if state.bits() & 0xff == 0 { Some(state.bits() >> 8) } else { None }
}

impl<const CELL: u64> Pool<CELL> {
    /// Checked when a `Pool` of this size is first used: by the compiler.
    const IS_POSSIBLE: () = assert!(
        CELL % GRANULE == 0 && CELL >= MIN_BLOCK_LEN && CELL - BLOCK_HEADER_LEN <= Extent::MAX_SLACK,
        "no cell can be so large"
    );

    /// How many cells a heap of `len` bytes has. `Heap::len` is at most `Heap::capacity`, whatever is damaged, so
    /// all loops are bounded by it, and no product below can overflow.
    fn cells(len: u64) -> u64 {
        len.saturating_sub(FIRST) / CELL
    }

    /// Makes free cells of some that nobody knows of yet.
    fn prepare(heap: &Heap<'_>, numbers: std::ops::Range<u64>) -> Result<(), HeapError> {
        for number in numbers {
            let offset = FIRST + number * CELL;
            heap.commit_extent(offset, Extent::new(CELL, 0))?;
            heap.commit_state(offset, BlockState::FREE)?;
        }
        Ok(())
    }

    /// Passes on each cell, and the slot of one that is claimed.
    fn each(
        heap: &Heap<'_>,
        mut pass: impl FnMut(&Block, Option<u64>) -> Result<ControlFlow<()>, HeapError>,
    ) -> Result<(), HeapError> {
        for number in 0..Self::cells(heap.len()) {
            let offset = FIRST + number * CELL;
            let block = heap.block(offset)?;
            let slot = claimer(block.state);
            // Damage is reported and not passed on: somebody might follow it.
            if block.extent.len() != CELL || slot.is_none() && !block.state.is_valid() {
                return Err(HeapError::Damaged { at: offset });
            }
            if pass(&block, slot)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

// SAFETY: By number of the trait's promises.
// 1. Blocks: cells begin at `FIRST`, which is 8 more than a multiple of 16, and every `CELL` bytes, also a multiple
//    of 16. `cells` says how many end before the heap does. Their sizes never change, so they never overlap.
// 2. Allocate: requests that do not fit into a cell, or want more alignment than every cell has, are refused. Of all who
//    see a cell free, the compare-and-swap lets one claim it; it alone sets the slack and hands the cell out, last.
// 3. In use: what is neither free nor claimed is written by `free` and `retain` alone, and they begin with the state.
// 4. Free: one store of FREE is all there is to it.
// 5. Death: one who dies between claim and `hand_out` leaves a cell that nobody else wants, with its slot in it; `retain`
//    frees it. Nothing else takes two steps, but for growing: that is done under the heap's lock, and cells that
//    are beyond the heap's end still are prepared again. Loops end after the number of cells.
unsafe impl<const CELL: u64> RegionAllocator for Pool<CELL> {
    // Who attaches with cells of another size is refused: the size counts as the version.
    const ID: AllocatorId = AllocatorId::new("example pool", CELL as u32);

    fn format(heap: &Heap<'_>) -> Result<(), HeapError> {
        let () = Self::IS_POSSIBLE;
        let cells = Self::cells(heap.len());
        if cells == 0 {
            return Err(HeapError::TooSmall { len: heap.len(), needed: FIRST + CELL });
        }
        // Nobody else looks until this is done, so the order is free. The words may hold anything before.
        Self::prepare(heap, 0..cells)?;
        heap.commit(HINT, 0)
    }

    fn allocate(heap: &Heap<'_>, request: &Request) -> Result<u64, HeapError> {
        // `extent` says how much of the cell is left over; `None` if the object does not fit.
        let extent = request.extent(CELL).filter(|_| request.align() <= GRANULE);
        let extent = extent.ok_or(HeapError::OutOfMemory)?;
        let cells = Self::cells(heap.len());
        let hint = heap.load(HINT)?;
        for turn in 0..cells {
            let number = hint.wrapping_add(turn) % cells;
            let offset = FIRST + number * CELL;
            // `Heap::commit_state` would overwrite another claim, so this is a compare-and-swap on the word itself.
            let state = heap.word(offset)?;
            let (free, mine) = (BlockState::FREE.bits(), claimed(heap.slot()).bits());
            if state.compare_exchange(free, mine, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            heap.commit_extent(offset, extent)?;
            heap.store(HINT, number.wrapping_add(1))?;
            heap.hand_out(offset, request)?;
            return Ok(offset);
        }
        Err(HeapError::OutOfMemory)
    }

    fn free(heap: &Heap<'_>, offset: u64) -> Result<(), HeapError> {
        let number = offset.checked_sub(FIRST).filter(|bytes| bytes % CELL == 0).map(|bytes| bytes / CELL);
        let is_cell = number.is_some_and(|number| number < Self::cells(heap.len()));
        let state = heap.block(offset)?.state;
        if !is_cell || state.is_free() || !state.is_valid() {
            return Err(HeapError::Damaged { at: offset });
        }
        // Never Busy: there is no lock to wait for. So no block ever waits to be freed, and nothing here takes
        // blocks that do.
        heap.commit_state(offset, BlockState::FREE)
    }

    fn walk(heap: &Heap<'_>, visit: &mut Visit<'_>) -> Result<(), HeapError> {
        // A claimed cell is neither in use nor free.
        Self::each(heap, |block, slot| {
            Ok(if slot.is_some() { ControlFlow::Continue(()) } else { visit(block) })
        })
    }

    fn retain(heap: &Heap<'_>, keep: &mut dyn FnMut(&Block) -> bool) -> Result<u64, HeapError> {
        let mut freed = 0;
        Self::each(heap, |block, slot| {
            // A claimed cell is shown as one that the claimer has: it is kept as long as that one lives.
            let state = match slot {
                Some(slot) => BlockState::owned_by(slot).ok_or(HeapError::Damaged { at: block.offset })?,
                None => block.state,
            };
            if !state.is_free() && !keep(&block.with_state(state)) {
                heap.commit_state(block.offset, BlockState::FREE)?;
                freed += CELL;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(freed)
    }

    fn check(heap: &Heap<'_>) -> Result<(), HeapError> {
        // More than is needed to go on: no slot that there cannot be, and no object larger than its cell.
        Self::each(heap, |block, slot| {
            let is_sound = slot.is_none_or(|slot| BlockState::owned_by(slot).is_some());
            if is_sound && block.extent.object_len().is_some() {
                Ok(ControlFlow::Continue(()))
            } else {
                Err(HeapError::Damaged { at: block.offset })
            }
        })
    }

    fn usage(heap: &Heap<'_>) -> Result<Usage, HeapError> {
        let mut usage = Usage::default();
        Self::each(heap, |block, slot| {
            if block.state.is_free() {
                usage.free_blocks += 1;
                usage.free += CELL;
                usage.largest_free = CELL - BLOCK_HEADER_LEN;
            } else if slot.is_none() {
                usage.blocks += 1;
                usage.used += CELL;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // Counting would need one more word that all write to; this is as close as it gets without.
        usage.high_water = usage.used;
        Ok(usage)
    }

    fn grow(heap: &Heap<'_>, len: u64) -> Result<(), HeapError> {
        heap.check_growth(len)?;
        // The lock is the heap's, and robust: if its holder dies, the next one is told, by the closure. Here it
        // has nothing to put right, since the length is stored when all of the new cells are ready.
        let guard = heap.lock(|_| Ok(()))?;
        if len > heap.len() {
            Self::prepare(heap, Self::cells(heap.len())..Self::cells(len))?;
            guard.set_len(len);
        }
        Ok(())
    }

    fn required_len(demand: &Demand<'_>) -> Option<u64> {
        let (mut cells, mut fits) = (0_u64, true);
        demand.each(|request, count| {
            fits &= request.extent(CELL).is_some() && request.align() <= GRANULE || count == 0;
            cells = cells.saturating_add(count);
        });
        let len = cells.max(1).checked_mul(CELL)?.checked_add(FIRST)?;
        fits.then_some(len)
    }
}

fn main() -> Result<(), ShmemError> {
    on_plain_memory().map_err(ArenaError::from)?;
    in_a_segment()
}

/// An arena names its allocator as a type, and refuses one that another has formatted.
fn in_a_segment() -> Result<(), ShmemError> {
    let size = Arena::<Pool<64>>::required_size(&[Need::objects::<u64>(100), Need::strings(13, 10)])?;
    let (segment, fd) = Builder::memfd().create(size)?;
    let arena = segment.arena::<Pool<64>>()?;
    let number = arena.alloc(7_u64)?;
    let shared = ShmemBox::into_arc(arena.alloc_str("a name for it")?);
    println!("in a segment: {}, {:?}, {} cells in use", *number, &*shared, arena.usage()?.blocks);
    println!("too large: {}", arena.alloc([0_u8; 41]).unwrap_err());
    let error = Builder::memfd().attach(&fd)?.arena::<Pool<128>>().unwrap_err();
    println!("another allocator: {error}");
    arena.check()?;
    Ok(())
}

/// A heap as in a segment, but over plain memory, where deaths can be played.
fn on_plain_memory() -> Result<(), HeapError> {
    type Cells = Pool<64>;
    let memory: Vec<AtomicU64> = (0..128).map(|_| AtomicU64::new(0)).collect();
    let plain = PlainHeap::new(400);
    let (first, second) = (plain.heap(&memory, &[], 1), plain.heap(&memory, &[], 2));

    Cells::format(&first)?;
    println!("formatted: {} cells free", Cells::usage(&first)?.free_blocks);

    let kept = Cells::allocate(&first, &plain.request(40, 8, 1))?;
    let freed = Cells::allocate(&first, &plain.request(0, 1, 1))?;
    Cells::allocate(&second, &plain.request(24, 16, 2))?;
    println!("allocated: {} bytes at {kept}", first.block(kept)?.extent.object_len().unwrap_or(0));
    println!("too large: {}", Cells::allocate(&first, &plain.request(41, 8, 1)).unwrap_err());
    Cells::free(&first, freed)?;
    println!(
        "freed: {} cells in use, {} free",
        Cells::usage(&first)?.blocks,
        Cells::usage(&first)?.free_blocks
    );

    // What attachment 2 leaves that is killed between its compare-and-swap and `hand_out`.
    first.commit_state(freed, claimed(2))?;
    plain.kill(2);
    let swept = Cells::retain(&first, &mut |block| BlockState::owned_by(2) != Some(block.state))?;
    Cells::check(&first)?;
    println!("swept: {swept} bytes of the dead, {} cell in use", Cells::usage(&first)?.blocks);

    Cells::grow(&first, 1024)?;
    Cells::check(&first)?;
    println!("grown: {} cells free", Cells::usage(&first)?.free_blocks);
    Ok(())
}
