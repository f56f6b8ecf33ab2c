//! Magazines
//!
//! For each class a process has a magazine: offsets of cells that were free when they came in. It lies in private
//! memory, so that allocating and freeing write nothing shared but the cell. A gate keeps the threads
//! of the process apart; who finds it closed goes without.

use super::class::{CLASSES, Class};
use crate::heap::Heap;
use core::sync::atomic::{AtomicU64, Ordering};

/// Cells that a magazine holds: as many as a bitmap word.
const ROOM: usize = 64;
/// Words of a magazine: its gate, and the cells; with what is missing to whole cache lines.
const WORDS: usize = 72;
/// Words before the first magazine: what the process knows of the layout.
const LAYOUT_WORDS: usize = 8;
/// Words that a process has for itself.
pub(super) const PRIVATE_WORDS: usize = LAYOUT_WORDS + WORDS * CLASSES;
/// In the gate: a thread is in. Otherwise, how many cells there are.
const CLOSED: u64 = u64::MAX;

/// A magazine, for this thread alone until it is dropped.
#[derive(Debug)]
pub(super) struct Magazine<'a> {
    gate: &'a AtomicU64,
    cells: &'a [AtomicU64; ROOM],
    count: usize,
}

impl<'a> Magazine<'a> {
    /// `None` if another thread is in, or the process has no private memory.
    #[inline]
    pub(super) fn open(heap: &Heap<'a>, class: Class) -> Option<Self> {
        let start = class.index().wrapping_mul(WORDS).wrapping_add(LAYOUT_WORDS);
        let words = heap.private().get(start..start.wrapping_add(1 + ROOM))?;
        let (gate, cells) = words.split_first()?;
        let cells = cells.first_chunk()?;
        // SYNC: pairs with the Release in `drop`.
        let count = gate.swap(CLOSED, Ordering::Acquire);
        if count == CLOSED {
            return None;
        }
        Some(Self { gate, cells, count: (count as usize).min(ROOM) })
    }

    /// The cell that came last.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<u64> {
        let last = self.count.checked_sub(1)?;
        self.count = last;
        Some(self.cells.get(last)?.load(Ordering::Relaxed))
    }

    /// Whether another cell can be put in.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.count < ROOM
    }

    /// Puts a cell in, if there is room.
    #[inline]
    pub(super) fn push(&mut self, cell: u64) {
        if let Some(place) = self.cells.get(self.count) {
            place.store(cell, Ordering::Relaxed);
            self.count = self.count.wrapping_add(1);
        }
    }

    /// Takes out the half of a full magazine that was not used for longer.
    pub(super) fn take_half(&mut self) -> impl Iterator<Item = u64> {
        let (old, new) = self.cells.split_at(ROOM / 2);
        self.count = self.count.saturating_sub(ROOM / 2);
        old.iter().zip(new).map(|(old, new)| old.swap(new.load(Ordering::Relaxed), Ordering::Relaxed))
    }
}

impl Drop for Magazine<'_> {
    #[inline]
    fn drop(&mut self) {
        self.gate.store(self.count as u64, Ordering::Release);
    }
}
