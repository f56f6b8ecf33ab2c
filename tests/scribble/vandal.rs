//! Who damages the segment
//!
//! It maps the file like anybody who may write it, and looks at nothing but words and offsets: what lies where it knows
//! from the format, and which words of the payload matter from their not being zero, for the victim's own values mostly are.

use super::board::{Board, NONE};
use crate::common::arena::Random;
use crate::hostile::words::{HEADER, Place, SORTS, hostile};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::hint::spin_loop;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::yield_now;

/// How a turn is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A word at a time, every few operations, mostly put back before the next one.
    Gentle,
    /// A word at a time, put back at once if nobody has changed it meanwhile.
    Flicker,
    /// A word that changes to and fro as quickly as can be.
    Toggle,
    /// Words one after another, which stay as they are.
    Storm,
    /// All at once, after a while.
    Wholesale,
}

const STYLES: [Style; 8] = [
    Style::Gentle,
    Style::Gentle,
    Style::Gentle,
    Style::Flicker,
    Style::Flicker,
    Style::Toggle,
    Style::Storm,
    Style::Wholesale,
];

/// A segment that is being damaged. Unmapped when it is dropped.
struct Target<'a> {
    base: NonNull<AtomicU64>,
    words: usize,
    board: &'a Board,
    random: &'a mut Random,
    turn: u64,
    /// Words as they were once.
    past: Vec<(usize, u64)>,
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        unsafe { munmap(self.base.cast(), self.words * 8) }.unwrap();
    }
}

impl<'a> Target<'a> {
    fn open(board: &'a Board, random: &'a mut Random, turn: u64) -> Option<Self> {
        let file = File::options().read(true).write(true).open(board.path()).ok()?;
        let len = NonZeroUsize::new(file.metadata().unwrap().len() as usize)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
        Some(Self { base: base.cast(), words: len.get() / 8, board, random, turn, past: Vec::new() })
    }

    fn is_on(&self) -> bool {
        self.board.turn.load(SeqCst) == self.turn
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words);
        unsafe { self.base.add(index).as_ref() }
    }

    /// A word of the payload that is not zero, if there are some.
    fn telling(&mut self) -> usize {
        let header = HEADER as usize / 8;
        let mut index = header;
        for _ in 0..64 {
            index = header + self.random.index(self.words - header);
            if self.word(index).load(SeqCst) != 0 {
                break;
            }
        }
        index
    }

    /// A word that is worth it.
    fn pick(&mut self) -> usize {
        let header = HEADER as usize / 8;
        match self.random.below(100) {
            // Membership, payload, locks, the heap's and the directory's words.
            0..25 => 8 + self.random.index(32),
            // Tenancies and generations.
            25..33 => 64 + 8 * self.random.index(8) + self.random.index(2),
            33..35 => 64 + 8 * self.random.index(56) + self.random.index(2),
            // What never changes.
            35..38 => self.random.index(8),
            // The allocator's own.
            38..50 => header + self.random.index(80),
            // The export bitmap.
            50..55 => self.words - 1 - self.random.index(self.words / 128),
            55..57 => self.random.index(self.words),
            _ => self.telling(),
        }
    }

    fn make_up(&mut self, index: usize) -> u64 {
        let old = self.word(index).load(SeqCst);
        if self.random.below(16) == 0 {
            // As it was once, here or elsewhere.
            if let Some((_, value)) = self.past.get(self.random.index(self.past.len().max(1))) {
                return *value;
            }
        }
        let other = self.telling();
        let place = Place {
            at: index as u64 * 8,
            old,
            len: self.words as u64 * 8,
            other: other as u64 * 8,
            other_value: self.word(other).load(SeqCst),
        };
        let sort = self.random.below(SORTS);
        hostile(sort, &place, self.random)
    }

    fn write(&mut self, index: usize, value: u64) -> u64 {
        let old = self.word(index).swap(value, SeqCst);
        self.board.damaged.fetch_add(1, SeqCst);
        if self.past.len() < 256 {
            self.past.push((index, old));
        } else {
            let place = self.random.index(256);
            self.past[place] = (index, old);
        }
        old
    }

    /// Damages one word; gives which, and what was there and is now.
    fn damage(&mut self) -> (usize, u64, u64) {
        let index = self.pick();
        if self.random.below(20) == 0 {
            // Another one comes here, and this one goes there.
            let other = self.telling();
            let (here, there) = (self.word(index).load(SeqCst), self.word(other).load(SeqCst));
            self.write(other, here);
            return (index, self.write(index, there), there);
        }
        let value = self.make_up(index);
        (index, self.write(index, value), value)
    }

    fn put_back(&self, (index, old, new): (usize, u64, u64)) {
        let _ = self.word(index).compare_exchange(new, old, SeqCst, SeqCst);
    }

    /// Waits until the victim has begun so many more operations.
    fn let_pass(&self, operations: u64) {
        let until = self.board.operations.load(SeqCst) + operations;
        while self.is_on() && self.board.operations.load(SeqCst) < until {
            yield_now();
        }
    }

    fn linger(&mut self) {
        for _ in 0..self.random.below(2000) {
            spin_loop();
        }
    }

    fn act(&mut self, style: Style) {
        match style {
            Style::Gentle => {
                let pause = 1 + self.random.below(12);
                self.let_pass(pause);
                self.linger();
                let damage = self.damage();
                if self.random.below(8) != 0 {
                    self.let_pass(1);
                    self.put_back(damage);
                }
            }
            Style::Flicker => {
                let damage = self.damage();
                self.linger();
                self.put_back(damage);
                self.linger();
            }
            Style::Toggle => {
                let (index, old, new) = self.damage();
                for _ in 0..self.random.below(5000) {
                    self.word(index).store(old, SeqCst);
                    self.word(index).store(new, SeqCst);
                }
                self.put_back((index, old, new));
            }
            Style::Storm => {
                self.linger();
                self.damage();
            }
            Style::Wholesale => {
                let pause = 10 + self.random.below(60);
                self.let_pass(pause);
                let (start, count) = match self.random.below(4) {
                    0 => (8, 504),
                    1 => (HEADER as usize / 8, 100),
                    2 => (HEADER as usize / 8, self.words - HEADER as usize / 8),
                    _ => (self.telling(), 64),
                };
                let same = if self.random.below(2) == 0 { Some(self.make_up(start)) } else { None };
                for index in start..(start + count).min(self.words) {
                    let value = same.unwrap_or_else(|| self.make_up(index));
                    self.write(index, value);
                }
            }
        }
    }
}

/// Spoils one turn after another.
pub fn scribble(board: &Board, seed: u64) {
    let mut random = Random::seeded(seed);
    while !board.stop.load(SeqCst) {
        let turn = board.turn.load(SeqCst);
        if turn == NONE || turn == board.vandal.load(SeqCst) {
            if turn == NONE {
                board.vandal.store(NONE, SeqCst);
            }
            yield_now();
            continue;
        }
        let style = STYLES[random.index(STYLES.len())];
        let target = Target::open(board, &mut random, turn);
        board.vandal.store(turn, SeqCst);
        if let Some(mut target) = target {
            while target.is_on() && !board.stop.load(SeqCst) {
                target.act(style);
            }
        }
    }
}
