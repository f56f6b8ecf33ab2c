//! The shadow of an arena's objects and names: what must be in it, kept outside of it
//!
//! Two attachments of one process use an arena in a memfd. Any bytes are a sequence of actions, four each. After each
//! the answer is compared with the shadow, and every so often the whole arena is. Once an action has damaged the
//! segment, through its descriptor, nothing is expected but that each call returns.
//!
//! | byte of an action | meaning |
//! |---|---|
//! | 0 | which action; bit 7: by which attachment |
//! | 1 | which name, object, or place to damage |
//! | 2, 3 | a value |

use shmem_bind::{
    Arena, Builder, DirectoryError, Handle, HandleError, OwnedFd, RegionAllocator, ShmemArc, ShmemBox, Slab,
    Tlsf,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SIZE: usize = 48 * 1024;
/// Names there are, long ones and such that differ in their last byte only among them.
const NAMES: u8 = 80;
const HEADER_LEN: u64 = 4096;

/// Runs a sequence of actions; the first byte says with which allocator, and whether damage is allowed.
pub fn run(bytes: &[u8]) {
    let Some((first, actions)) = bytes.split_first() else { return };
    if first & 1 == 0 {
        World::<Tlsf>::new().run(actions, first & 0x80 != 0)
    } else {
        World::<Slab>::new().run(actions, first & 0x80 != 0)
    }
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Named {
    value: u64,
    pinned: bool,
}

struct World<A> {
    arenas: [Arena<A>; 2],
    file: File,
    is_sound: bool,
    names: BTreeMap<String, Named>,
    /// References that are kept, with the values that they lead to.
    held: Vec<(ShmemArc<AtomicU64>, u64)>,
    leaked: Vec<(Handle<AtomicU64>, u64)>,
    /// Values differ, so that an object is known by its own.
    next_value: u64,
}

fn name(number: u8) -> String {
    match number % NAMES {
        long @ 70.. => "n".repeat(usize::from(long) * 3) + &long.to_string(),
        short => format!("name {short}"),
    }
}

impl<A: RegionAllocator> World<A> {
    fn new() -> Self {
        let (segment, fd): (_, OwnedFd) = Builder::memfd().create(SIZE).unwrap();
        let other = Builder::memfd().attach(&fd).unwrap();
        Self {
            arenas: [segment.arena().unwrap(), other.arena().unwrap()],
            file: File::from(fd),
            is_sound: true,
            names: BTreeMap::new(),
            held: Vec::new(),
            leaked: Vec::new(),
            next_value: 1,
        }
    }

    fn run(mut self, actions: &[u8], may_damage: bool) {
        for (index, action) in actions.chunks_exact(4).enumerate() {
            let [kind, which, low, high] = *action else { unreachable!() };
            self.step(kind, which, u16::from_le_bytes([low, high]), may_damage);
            if index % 8 == 0 {
                self.compare();
            }
        }
        self.compare();
        self.give_all_back();
    }

    /// Says that something must be so, unless the segment has been damaged.
    #[track_caller]
    fn expect(&self, is_so: bool, what: &dyn std::fmt::Debug) {
        assert!(is_so || !self.is_sound, "{what:?}");
    }

    fn step(&mut self, kind: u8, which: u8, value: u16, may_damage: bool) {
        let arena = self.arenas[usize::from(kind >> 7)].clone();
        let called = name(which);
        match kind & 15 {
            0 | 1 => self.publish(&arena, &called, value % 16 == 0),
            2 | 3 => self.find(&arena, &called, value % 2 == 0),
            4 | 5 => self.unpublish(&arena, &called),
            6 => {
                self.next_value += 1;
                let made = self.next_value;
                let found = arena.find_or_alloc(&called, || AtomicU64::new(made));
                self.found_or_made(&called, found, made);
            }
            7 if !self.held.is_empty() => {
                drop(self.held.swap_remove(usize::from(value) % self.held.len()));
            }
            8 => self.leak(&arena),
            9 => self.claim(&arena, usize::from(value)),
            10 => {
                // A handle of any bits.
                let base = self.leaked.first().map_or(u128::MAX, |(handle, _)| handle.to_bits());
                let bits = base ^ u128::from(value) << (u32::from(which) % 113);
                let known = self.leaked.iter().any(|(handle, _)| handle.to_bits() == bits);
                if !known {
                    let result = arena.claim(Handle::<AtomicU64>::from_bits(bits));
                    self.expect(result.is_err(), &bits);
                }
            }
            11 => {
                // Of another type.
                let found = arena.find::<[u8]>(&called).map(|_| ());
                let is_there = self.names.contains_key(&called);
                let expected = match &found {
                    Err(DirectoryError::Mismatch(_)) => is_there,
                    Err(DirectoryError::NotFound) => !is_there,
                    _ => false,
                };
                self.expect(expected, &found);
            }
            12 => {
                let (swept, checked) = (arena.sweep(), arena.check());
                self.expect(swept.is_ok() && checked.is_ok(), &(swept, checked));
            }
            13.. if may_damage => self.damage(which, value),
            _ => {}
        }
    }

    fn publish(&mut self, arena: &Arena<A>, called: &str, pinned: bool) {
        self.next_value += 1;
        let value = self.next_value;
        let Ok(boxed) = arena.alloc(AtomicU64::new(value)) else { return };
        let object = ShmemBox::into_arc(boxed);
        let result =
            if pinned { arena.publish_pinned(called, &object) } else { arena.publish(called, &object) };
        match result {
            Ok(()) => {
                self.expect(!self.names.contains_key(called), &called);
                self.names.insert(called.to_owned(), Named { value, pinned });
                if value % 3 == 0 {
                    self.held.push((object, value));
                }
            }
            Err(DirectoryError::Taken) => self.expect(self.names.contains_key(called), &called),
            Err(DirectoryError::Alloc(_)) => {}
            Err(error) => self.expect(false, &error),
        }
    }

    fn found_or_made(&mut self, called: &str, found: Result<ShmemArc<AtomicU64>, DirectoryError>, made: u64) {
        match found {
            Ok(object) => {
                let named = self.names.get(called).map_or(made, |named| named.value);
                self.expect(object.load(Relaxed) == named, &called);
                self.names.entry(called.to_owned()).or_insert(Named { value: made, pinned: false });
                self.held.push((object, named));
            }
            Err(DirectoryError::Alloc(_)) => {}
            Err(error) => self.expect(false, &error),
        }
    }

    fn find(&mut self, arena: &Arena<A>, called: &str, keep: bool) {
        match (arena.find::<AtomicU64>(called), self.names.get(called)) {
            (Ok(object), Some(named)) => {
                self.expect(object.load(Relaxed) == named.value, &called);
                if keep {
                    self.held.push((object, named.value));
                }
            }
            (Err(DirectoryError::NotFound), None) => {}
            (found, named) => self.expect(false, &(found, named)),
        }
    }

    fn unpublish(&mut self, arena: &Arena<A>, called: &str) {
        match (arena.unpublish::<AtomicU64>(called), self.names.get(called).copied()) {
            (Ok(object), Some(named)) => {
                self.expect(!named.pinned && object.load(Relaxed) == named.value, &named);
                self.names.remove(called);
            }
            (Err(DirectoryError::Pinned), Some(named)) => self.expect(named.pinned, &named),
            (Err(DirectoryError::NotFound), None) => {}
            (result, named) => self.expect(false, &(result, named)),
        }
    }

    fn leak(&mut self, arena: &Arena<A>) {
        self.next_value += 1;
        if let Ok(boxed) = arena.alloc(AtomicU64::new(self.next_value)) {
            self.leaked.push((ShmemBox::leak(boxed), self.next_value));
        }
    }

    fn claim(&mut self, arena: &Arena<A>, which: usize) {
        if self.leaked.is_empty() {
            return;
        }
        let (handle, value) = self.leaked.swap_remove(which % self.leaked.len());
        match arena.claim(handle) {
            Ok(boxed) => self.expect(boxed.load(Relaxed) == value, &value),
            Err(error) => self.expect(false, &error),
        }
        let again = arena.claim(handle).map(|_| ());
        self.expect(matches!(again, Err(HandleError::Gone { .. } | HandleError::Stale { .. })), &again);
    }

    /// Compares the names and the objects that are kept.
    fn compare(&self) {
        for (object, value) in &self.held {
            self.expect(object.load(Relaxed) == *value, value);
        }
        let [arena, _] = &self.arenas;
        let mut seen = 0;
        // As many names as fit into the segment are enough, should its words go round in a circle.
        for entry in arena.names().take(SIZE) {
            match entry {
                Ok(entry) => {
                    seen += 1;
                    let named = self.names.get(entry.name());
                    let is_so = named.is_some_and(|named| named.pinned == entry.is_pinned());
                    self.expect(is_so && entry.is::<AtomicU64>(), &entry);
                }
                Err(error) => self.expect(false, &error),
            }
        }
        self.expect(seen == self.names.len(), &(seen, self.names.len()));
        self.expect(arena.leaked().take(SIZE).count() == self.leaked.len(), &self.leaked.len());
        let checked = arena.check();
        self.expect(checked.is_ok(), &checked);
    }

    /// When nothing is held nor named, nothing but a table is left.
    fn give_all_back(mut self) {
        self.held.clear();
        for (handle, _) in std::mem::take(&mut self.leaked) {
            let result = self.arenas[0].claim(handle);
            self.expect(result.is_ok(), &result);
        }
        let names = std::mem::take(&mut self.names);
        let pinned = names.values().filter(|named| named.pinned).count();
        for (called, _) in names.iter().filter(|(_, named)| !named.pinned) {
            let result = self.arenas[1].unpublish::<AtomicU64>(called);
            self.expect(result.is_ok(), &result);
        }
        let Ok(usage) = self.arenas[0].usage() else { return self.expect(false, &"usage") };
        let table = u64::from(self.next_value > 1);
        self.expect(usage.blocks <= table + 2 * pinned as u64, &usage);
    }

    /// Overwrites a word of the segment: of the arena's own in the header, or of the heap.
    fn damage(&mut self, which: u8, value: u16) {
        self.is_sound = false;
        let value = u64::from(value);
        let word = match which % 8 {
            0 => 0,
            1 => !0,
            2 => value,
            3 => value << 3,
            4 => value << 48 | value,
            5 => value * 16 + 8,
            6 => 1 << (value % 64),
            _ => value.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        // Not what the life cycle of the segment rests on; that is another target's.
        let offset = match which / 8 % 4 {
            0 => 136 + value % 15 * 8,
            1 => HEADER_LEN + value % 1024 * 8 % SIZE as u64,
            _ => HEADER_LEN + value * 8 % SIZE as u64,
        };
        // Locks that somebody holds are waited for, which takes its time.
        if !(192..200).contains(&offset) {
            self.file.write_all_at(&word.to_ne_bytes(), offset).unwrap();
        }
    }
}
