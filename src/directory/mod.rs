//! The directory: names of shared objects
//!
//! Each name has an entry, a block of the arena's own, which a place of the [table] leads to. The place is the
//! truth: a name is published when its place is stored, and unpublished when that is overwritten. That the object
//! carries the DIR flag, and the counts, follow from it.
//!
//! Whoever changes or uses the directory holds its robust lock. Before a change the holder says what it is about to
//! do (the intents), and afterwards that it is done, so that the successor of one that died in between looks at one
//! object and two blocks, and not at all of the heap.
//!
//! | step of publishing | killed after it, the successor |
//! |---|---|
//! | an exclusive block is made the entry | a sweep frees it, as any of the dead's |
//! | intents: the object, the entry | finds nothing to do |
//! | entry internal | frees the entry, which no place leads to |
//! | object + DIR | takes DIR back, frees the entry |
//! | **place** | finds both in place |
//! | intents cleared | |
//!
//! | step of unpublishing | killed after it, the successor |
//! |---|---|
//! | intents: the object, the entry | finds both in place |
//! | **place** | takes DIR back, and frees the object if nobody holds it; frees the entry |
//! | object − DIR, + the caller, if that holds it | frees the entry; a sweep gives back what the dead held |
//! | entry exclusive | a sweep frees it |
//! | intents cleared, entry freed | |
//!
//! A table that is full is replaced by a larger one in the same way; the store of its offset commits. An entry is
//! made exclusive again before the intents are cleared and it is freed, for once it is free, its place may belong to
//! another object, whose bytes the successor must not mistake for an entry.
//!
//! Pinned entries and their objects are never freed, so that a read-only attachment can follow a pinned place
//! without the lock.

mod table;

pub(crate) use table::{Found, Key, MAX_NAME, NameBuffer, Order, entry_len};

use crate::allocator::RegionAllocator;
use crate::error::{DirectoryError, HeapError};
use crate::exports::Exports;
use crate::header::DirectoryWords;
use crate::heap::{Heap, Request, commit};
use crate::lock::Acquired;
use crate::object::{BlockState, Event, Refusal};
use crate::sys::futex;
use core::marker::PhantomData;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;
use table::{
    EMPTY, ENTRY_HASH, ENTRY_LEN, ENTRY_NAME, ENTRY_OBJECT, ENTRY_TAG, MOST_LOG, Place, REMOVED, TABLE_TAG,
    Table,
};

/// Places of the first table, and of the smallest.
const SMALLEST_LOG: u32 = 4;
/// Looks for each place of a table beyond which its hashes are none: what a table of 128 places takes if all collide.
const MOST_LOOKS: u64 = 16;
/// Bits of the word of the table that are its offset; the others count how often it was replaced, so that a reader
/// without the lock notices also if the same memory is used again.
const TABLE_MASK: u64 = (1 << 44) - 1;
/// The longest sleep while waiting for a name.
const SLICE: Duration = Duration::from_millis(20);

/// The directory of an arena.
pub(crate) struct Directory<'a, A> {
    heap: &'a Heap<'a>,
    words: &'a DirectoryWords,
    exports: Exports<'a>,
    allocator: PhantomData<fn() -> A>,
}

/// The directory, locked.
pub(crate) struct Entered<'a, A> {
    directory: Directory<'a, A>,
    /// Whether it is whole. If not, its last holder died, and what that one began is to be finished first.
    is_sound: bool,
}

impl<'a, A: RegionAllocator> Directory<'a, A> {
    pub(crate) const fn new(heap: &'a Heap<'a>, words: &'a DirectoryWords, exports: Exports<'a>) -> Self {
        Self { heap, words, exports, allocator: PhantomData }
    }

    /// Locks the directory; finishes what a dead holder began.
    pub(crate) fn enter(self) -> Result<Entered<'a, A>, HeapError> {
        let mut entered = self.lock_unchecked()?;
        entered.recover_if_dead()?;
        Ok(entered)
    }

    /// Locks the directory without putting it right if its last holder died.
    pub(crate) fn lock_unchecked(self) -> Result<Entered<'a, A>, HeapError> {
        let acquired = self.heap.take(&self.words.lock)?;
        Ok(Entered { directory: self, is_sound: acquired == Acquired::Clean })
    }
}

/// Passes on the size of each table that there is in turn while so many names are published.
pub(crate) fn tables_for(names: u64, mut pass: impl FnMut(u64)) {
    let mut capacity = 0;
    for log in SMALLEST_LOG..=MOST_LOG {
        if names <= most_names(capacity) {
            break;
        }
        pass(Table::object_len(log));
        capacity = 1 << log;
    }
}

/// How many names a table of so many places has before a larger one is made.
const fn most_names(capacity: u64) -> u64 {
    capacity.saturating_mul(3) / 4
}

/// Announces that somebody is going to wait for a name; gives the event to wait with, after which to look once more.
pub(crate) fn announce(words: &DirectoryWords) -> u32 {
    words.waiters.store(1, Ordering::SeqCst);
    words.event.load(Ordering::SeqCst)
}

/// Waits until a name has been published since `event`, or for a while.
pub(crate) fn wait(words: &DirectoryWords, event: u32, left: Duration) {
    futex::wait(&words.event, event, left.min(SLICE));
}

impl<A> Drop for Entered<'_, A> {
    fn drop(&mut self) {
        // Whoever is killed gives nothing back.
        #[cfg(test)]
        if std::thread::panicking() {
            return;
        }
        let (lock, heap) = (&self.directory.words.lock, self.directory.heap);
        if self.is_sound && !heap.is_severed() { lock.unlock(heap.me()) } else { lock.abandon(heap.me()) }
    }
}

impl<A: RegionAllocator> Entered<'_, A> {
    /// Finishes what the last holder began, if it died.
    pub(crate) fn recover_if_dead(&mut self) -> Result<(), HeapError> {
        if !self.is_sound {
            let heap = self.directory.heap;
            let give_up = |_: &HeapError| {
                // Zeros that only this one sees are no reason.
                if !heap.is_severed() {
                    self.directory.words.lock.give_up(heap.me());
                }
            };
            self.recover().inspect_err(give_up)?;
            self.is_sound = true;
            self.directory.heap.count_takeover();
        }
        Ok(())
    }

    /// Says that the directory is whole, for it has just been made.
    pub(crate) const fn mark_whole(&mut self) {
        self.is_sound = true;
    }

    fn read(&self) -> impl Fn(u64) -> Result<u64, HeapError> + '_ {
        |offset| self.directory.heap.load(offset)
    }

    /// The table; `None` if nothing was ever published.
    fn table(&self) -> Result<Option<Table>, HeapError> {
        match self.table_block() {
            0 => Ok(None),
            offset => Table::read(&self.read(), offset).map(Some),
        }
    }

    /// Offset of the block of the table; 0: none.
    fn table_block(&self) -> u64 {
        self.directory.words.table.load(Ordering::Acquire) & TABLE_MASK
    }

    /// Finds a name.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<Found>, HeapError> {
        let Some(table) = self.table()? else { return Ok(None) };
        let Some(found) = table.find(&self.read(), key, false)? else { return Ok(None) };
        self.check_object(found.object)?;
        Ok(Some(found))
    }

    /// Whether an entry may lead to the block at `offset`.
    fn check_object(&self, offset: u64) -> Result<BlockState, HeapError> {
        let state = BlockState::from_bits(self.directory.heap.load(offset)?);
        if !self.directory.exports.is_set(offset) || !state.is_published() || !state.is_valid() {
            return Err(HeapError::Damaged { at: offset });
        }
        Ok(state)
    }

    /// The first name after another one, or of all; and what to go on after.
    pub(crate) fn next(&self, after: Option<Order>) -> Result<Option<(Found, Order)>, HeapError> {
        let Some(table) = self.table()? else { return Ok(None) };
        let Some((found, order)) = table.next(&self.read(), after)? else { return Ok(None) };
        self.check_object(found.object)?;
        Ok(Some((found, order)))
    }

    /// The name that was found.
    pub(crate) fn name(&self, found: &Found) -> Result<NameBuffer, HeapError> {
        NameBuffer::read(&self.read(), found.entry)
    }

    /// Gives the object at `object`, which the caller holds, a name.
    pub(crate) fn publish(&self, key: &Key, object: u64, pinned: bool) -> Result<(), DirectoryError> {
        let Directory { heap, words, exports, .. } = &self.directory;
        if let Some(found) = self.find(key)? {
            let is_same = found.object == object;
            return Err(if is_same { DirectoryError::Published } else { DirectoryError::Taken });
        }
        let state = BlockState::from_bits(heap.load(object)?);
        if state.is_published() {
            return Err(DirectoryError::Published);
        }
        if !exports.is_set(object) {
            return Err(DirectoryError::Damaged { at: object });
        }
        let table = self.table_with_room()?;
        let entry = self.allocate(24_u64.saturating_add(key.len()), ENTRY_TAG)?;
        heap.store(entry.wrapping_add(ENTRY_HASH), key.hash)?;
        heap.store(entry.wrapping_add(ENTRY_OBJECT), object)?;
        heap.store(entry.wrapping_add(ENTRY_LEN), key.len())?;
        let mut at = entry.wrapping_add(ENTRY_NAME);
        for word in key.name_words() {
            heap.store(at, word)?;
            at = at.wrapping_add(8);
        }
        self.intend(object, [entry, 0]);
        self.change(entry, Event::Intern(heap.own_slot()?))?;
        match heap.change(object, Event::Publish { slot: heap.own_slot()?, pinned })? {
            Ok(_) => {}
            Err(refusal) => {
                self.discard(entry)?;
                return Err(match refusal {
                    Refusal::Published => DirectoryError::Published,
                    _ => DirectoryError::Damaged { at: object },
                });
            }
        }
        let (index, was) =
            table.vacant(&self.read(), key.hash)?.ok_or(HeapError::Damaged { at: table.place(0) })?;
        heap.commit(table.place(index), Place::new(entry, key.hash, pinned).bits())?;
        words.names.fetch_add(1, Ordering::Relaxed);
        if was.bits() == EMPTY {
            words.occupied.fetch_add(1, Ordering::Relaxed);
        }
        self.intend(0, [0, 0]);
        words.event.fetch_add(1, Ordering::SeqCst);
        if words.waiters.swap(0, Ordering::SeqCst) != 0 {
            futex::wake_all(&words.event);
        }
        Ok(())
    }

    /// Takes the name from its object, which the caller holds, and has counted.
    pub(crate) fn unpublish(&self, found: &Found) -> Result<(), DirectoryError> {
        self.remove(found)?;
        self.change(found.object, Event::Unpublish(self.directory.heap.own_slot()?))?;
        Ok(self.discard(found.entry)?)
    }

    /// Takes the name from its object, and leaves that to those who hold it; if nobody does, it is freed without its
    /// destructor. The caller does not hold it meanwhile, for it could not destroy what it would then hold last.
    pub(crate) fn unpublish_any(&self, found: &Found) -> Result<(), DirectoryError> {
        self.remove(found)?;
        self.forget(found.object)?;
        Ok(self.discard(found.entry)?)
    }

    /// Makes the place of the name one where a name was.
    fn remove(&self, found: &Found) -> Result<(), DirectoryError> {
        let Directory { heap, words, .. } = &self.directory;
        if self.check_object(found.object)?.is_pinned() {
            return Err(DirectoryError::Pinned);
        }
        let table = self.table()?.ok_or(HeapError::Damaged { at: 0 })?;
        self.intend(found.object, [found.entry, 0]);
        let next = heap.load(table.place(found.index.wrapping_add(1)))?;
        // At the end of a row nobody searches beyond this place.
        let removed = if next == EMPTY { EMPTY } else { REMOVED };
        heap.commit(table.place(found.index), removed)?;
        words.names.fetch_sub(1, Ordering::Relaxed);
        if removed == EMPTY {
            words.occupied.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Passes each name on, in no particular order, with the offset of its object's block.
    #[cfg(feature = "alloc")]
    pub(crate) fn each(
        &self,
        visit: &mut dyn FnMut(&NameBuffer, u64) -> Result<(), HeapError>,
    ) -> Result<(), HeapError> {
        let Some(table) = self.table()? else { return Ok(()) };
        table.each(&self.read(), &mut |found| visit(&self.name(&found)?, found.object))
    }

    /// Checks that names and objects fit together.
    pub(crate) fn check(&self) -> Result<(), HeapError> {
        let Directory { heap, words, .. } = &self.directory;
        let names = words.names.load(Ordering::Relaxed);
        let mut found = 0_u64;
        if let Some(table) = self.table()? {
            table.each(&self.read(), &mut |name| {
                let state = self.check_object(name.object)?;
                self.name(&name)?;
                let entry = heap.block(name.entry)?;
                let is_entry = entry.state == BlockState::INTERNAL && entry.tag == ENTRY_TAG;
                if !is_entry || name.place.is_pinned() != state.is_pinned() {
                    return Err(HeapError::Damaged { at: name.entry });
                }
                found = found.saturating_add(1);
                Ok(())
            })?;
        }
        let mut published = 0_u64;
        A::walk(heap, &mut |block| {
            published = published.saturating_add(u64::from(block.state.is_published()));
            ControlFlow::Continue(())
        })?;
        if found != names || published != names {
            return Err(HeapError::Damaged { at: self.table_block() });
        }
        Ok(())
    }

    /// A table with room for one more name.
    fn table_with_room(&self) -> Result<Table, HeapError> {
        let Directory { heap, words, .. } = &self.directory;
        let old = self.table()?;
        let occupied = words.occupied.load(Ordering::Relaxed);
        if let Some(table) = old {
            // At most three quarters full.
            if occupied < most_names(table.capacity()) {
                return Ok(table);
            }
        }
        let names = words.names.load(Ordering::Relaxed).saturating_add(1).min(heap.capacity());
        let log = names.saturating_mul(2).next_power_of_two().trailing_zeros().max(SMALLEST_LOG);
        match (self.replace_table(old, log), old) {
            // Rather slow than refused, as long as a search ends.
            (Err(HeapError::OutOfMemory), Some(table)) if occupied.saturating_add(1) < table.capacity() => {
                Ok(table)
            }
            (result, _) => result,
        }
    }

    /// Puts a table of 2^`log` places in the place of the old one.
    fn replace_table(&self, old: Option<Table>, log: u32) -> Result<Table, HeapError> {
        let Directory { heap, words, .. } = &self.directory;
        let block = self.allocate(Table::object_len(log), TABLE_TAG)?;
        let table = Table::at(block, log);
        let names = match self.fill_table(table, block, old) {
            Ok(names) => names,
            Err(error) => {
                // It is exclusive still.
                heap.free_or_defer(block, A::free)?;
                return Err(error);
            }
        };
        let old_block = self.table_block();
        let version =
            (words.table.load(Ordering::Relaxed) & !TABLE_MASK).wrapping_add(TABLE_MASK.wrapping_add(1));
        self.intend(0, [block, old_block]);
        self.change(block, Event::Intern(heap.own_slot()?))?;
        if heap.is_severed() {
            return Err(HeapError::Busy);
        }
        commit(&words.table, block | version);
        words.names.store(names, Ordering::Relaxed);
        words.occupied.store(names, Ordering::Relaxed);
        if old_block == 0 {
            self.intend(0, [0, 0]);
        } else {
            self.discard(old_block)?;
        }
        Ok(table)
    }

    /// Writes the places of the old table into the new one, to which nothing leads yet; gives how many names these are.
    fn fill_table(&self, table: Table, block: u64, old: Option<Table>) -> Result<u64, HeapError> {
        let heap = self.directory.heap;
        heap.store(block.wrapping_add(ENTRY_HASH), u64::from(table.log))?;
        for index in 0..table.capacity() {
            heap.store(table.place(index), EMPTY)?;
        }
        let Some(old) = old else { return Ok(0) };
        let (mut names, mut looks) = (0_u64, 0_u64);
        for index in 0..old.capacity() {
            let place = Place::from_bits(heap.load(old.place(index))?);
            let Some(entry) = place.entry() else { continue };
            let hash = heap.load(entry.wrapping_add(ENTRY_HASH))?;
            let (index, _) = table.vacant(&self.read(), hash)?.ok_or(HeapError::Damaged { at: block })?;
            heap.store(table.place(index), place.bits())?;
            names = names.saturating_add(1);
            // Half full, a table is searched at one or two places. Hashes that have been made to collide would take
            // the square of their number.
            looks = looks.saturating_add(table.distance(hash, index));
            if looks > table.capacity().saturating_mul(MOST_LOOKS) {
                return Err(HeapError::Damaged { at: entry });
            }
        }
        Ok(names)
    }

    /// A block of the directory's own, exclusive as yet.
    fn allocate(&self, len: u64, tag: u64) -> Result<u64, HeapError> {
        let heap = self.directory.heap;
        A::allocate(heap, &Request::new(len, 8, tag, heap.own_slot()?))
    }

    /// Frees one of the directory's own blocks, the one that is intended.
    fn discard(&self, block: u64) -> Result<(), HeapError> {
        let heap = self.directory.heap;
        self.change(block, Event::Extern(heap.own_slot()?))?;
        self.intend(0, [0, 0]);
        heap.free_or_defer(block, A::free)
    }

    fn change(&self, offset: u64, event: Event) -> Result<Option<BlockState>, HeapError> {
        match self.directory.heap.change(offset, event)? {
            Ok((_, next)) => Ok(next),
            Err(_) => Err(HeapError::Damaged { at: offset }),
        }
    }

    /// Says what is about to be changed, or that it has been.
    fn intend(&self, object: u64, [first, second]: [u64; 2]) {
        // What it announces, or says to be done, others would not see.
        if self.directory.heap.is_severed() {
            return;
        }
        let DirectoryWords { intent_object, intent_blocks: [one, other], .. } = self.directory.words;
        commit(one, first);
        commit(other, second);
        commit(intent_object, object);
    }

    /// Finishes what the last holder was doing when it died.
    fn recover(&self) -> Result<(), HeapError> {
        let DirectoryWords { names, occupied, intent_object, intent_blocks, .. } = self.directory.words;
        let heap = self.directory.heap;
        let (mut name_count, mut occupied_count) = (0_u64, 0_u64);
        let object = intent_object.load(Ordering::Acquire);
        let blocks = intent_blocks.each_ref().map(|block| block.load(Ordering::Acquire));
        let current = self.table_block();
        let mut is_named = false;
        let mut is_used = blocks.map(|block| block == current);
        if let Some(table) = self.table()? {
            for index in 0..table.capacity() {
                let place = Place::from_bits(heap.load(table.place(index))?);
                occupied_count = occupied_count.saturating_add(u64::from(place.bits() != EMPTY));
                let Some(entry) = place.entry() else { continue };
                name_count = name_count.saturating_add(1);
                is_named |= heap.load(entry.wrapping_add(ENTRY_OBJECT))? == object;
                for (used, block) in is_used.iter_mut().zip(blocks) {
                    *used |= block == entry;
                }
            }
        }
        names.store(name_count, Ordering::Relaxed);
        occupied.store(occupied_count, Ordering::Relaxed);
        if object != 0 && !is_named {
            self.forget(object)?;
        }
        for (block, used) in blocks.into_iter().zip(is_used) {
            // One that is exclusive still, or again, is given back with all that the dead held.
            if block != 0 && !used && BlockState::from_bits(heap.load(block)?) == BlockState::INTERNAL {
                self.change(block, Event::Extern(heap.own_slot()?))?;
                intent_blocks
                    .iter()
                    .filter(|intent| intent.load(Ordering::Relaxed) == block)
                    .for_each(|intent| commit(intent, 0));
                heap.free_or_defer(block, A::free)?;
            }
        }
        self.intend(0, [0, 0]);
        Ok(())
    }

    /// Takes DIR back from an object that no name leads to.
    fn forget(&self, object: u64) -> Result<(), HeapError> {
        let Directory { heap, exports, words, .. } = &self.directory;
        let state = BlockState::from_bits(heap.load(object)?);
        if !exports.is_set(object) || !state.is_published() {
            return Ok(());
        }
        if self.change(object, Event::Forget)?.is_some() {
            return Ok(());
        }
        // Nobody holds it, and nobody can find it: it becomes ours, to be freed. Nobody is left who knows its destructor.
        let own = BlockState::exclusive(heap.own_slot()?);
        commit(heap.word(object)?, own.bits());
        exports.clear(object);
        if heap.is_severed() {
            return Err(HeapError::Busy);
        }
        commit(&words.intent_object, 0);
        heap.free_or_defer(object, A::free)
    }
}

/// Finds a pinned name without the lock and without writing anything; gives the offset of its object's block.
pub(crate) fn find_pinned(
    read: &impl Fn(u64) -> Result<u64, HeapError>,
    table: &AtomicU64,
    key: &Key,
) -> Result<Option<u64>, HeapError> {
    // The table may be replaced, and its block used for something else, while it is read.
    for _ in 0..RETRIES {
        let word = table.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if word & TABLE_MASK == 0 {
            return Ok(None);
        }
        let found = Table::read(read, word & TABLE_MASK).and_then(|table| table.find(read, key, true));
        fence(Ordering::Acquire);
        if table.load(Ordering::Relaxed) == word {
            return found.map(|found| found.map(|found| found.object));
        }
    }
    Err(HeapError::Busy)
}

/// How often the table may be replaced during one search; it doubles each time.
const RETRIES: u32 = 64;

#[cfg(test)]
extern crate std;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
