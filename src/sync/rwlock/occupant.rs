//! Who is in
//!
//! An attachment, a thread of it, and how many guards that thread has, in one word: so one compare-and-swap lets a reader in, or out,
//! and whoever finds the attachment gone knows exactly what to take away.
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..=10 | guards | for reading, that the thread has by this word; 0: it writes |
//! | 11..=32 | thread | its number; the kernel has no greater ones |
//! | 33..=63 | holder | the attachment, as in the words of locks |
//!
//! Zero is nobody.

use crate::lock::Holder;

const GUARDS: u64 = (1 << THREAD_SHIFT) - 1;
const THREAD_SHIFT: u32 = 11;
const THREADS: u64 = (1 << (HOLDER_SHIFT - THREAD_SHIFT)) - 1;
const HOLDER_SHIFT: u32 = 33;

/// A thread that is in, or wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupant(u64);

impl Occupant {
    pub(super) const NOBODY: u64 = 0;

    /// One that writes.
    pub(super) const fn new(holder: Holder, thread: u32) -> Self {
        Self((holder.bits() as u64) << HOLDER_SHIFT | (thread as u64 & THREADS) << THREAD_SHIFT)
    }

    /// From a word that is not [`NOBODY`](Self::NOBODY).
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// The attachment; `None` if none can be meant.
    pub(super) const fn holder(self) -> Option<Holder> {
        Holder::from_word((self.0 >> HOLDER_SHIFT) as u32)
    }

    /// Guards for reading; 0 if it writes.
    pub(super) const fn guards(self) -> u64 {
        self.0 & GUARDS
    }

    /// Whether it is the same thread by the same attachment, whatever it does.
    pub(super) const fn is(self, other: Self) -> bool {
        self.0 & !GUARDS == other.0 & !GUARDS
    }

    /// Whether it has the number of the same thread.
    pub(super) const fn has_thread_of(self, other: Self) -> bool {
        (self.0 ^ other.0) >> THREAD_SHIFT & THREADS == 0
    }

    /// The same with one guard for reading.
    pub(super) const fn reading(self) -> Self {
        Self(self.0 & !GUARDS | 1)
    }

    /// The same with one guard more; `None` if it has as many as the word can say.
    pub(super) const fn with_one_more(self) -> Option<Self> {
        if self.guards() == GUARDS { None } else { Some(Self(self.0.wrapping_add(1))) }
    }

    /// What the word is without one of its guards.
    pub(super) const fn without_one(self) -> u64 {
        match self.guards() {
            0 | 1 => Self::NOBODY,
            _ => self.0.wrapping_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Slot;

    fn occupant(slot: u64, thread: u32) -> Occupant {
        Occupant::new(Holder::new(Slot::new(slot).unwrap(), (1 << 24) - 1), thread)
    }

    #[test]
    fn a_word_says_who_and_how_often() {
        for (slot, thread) in [(0, 1), (55, (1 << 22) - 1), (7, 1 << 21)] {
            let writer = occupant(slot, thread);
            assert_eq!(
                (writer.guards(), writer.holder().unwrap().slot().unwrap().index()),
                (0, slot as usize)
            );
            let reader = writer.reading();
            assert!(reader.is(writer) && reader.guards() == 1 && reader.without_one() == Occupant::NOBODY);
            let twice = reader.with_one_more().unwrap();
            assert!(twice.is(writer) && twice.guards() == 2 && twice.without_one() == reader.bits());
            assert!(!twice.is(occupant(slot ^ 1, thread)) && twice.has_thread_of(occupant(slot ^ 1, thread)));
            assert!(
                !twice.is(occupant(slot, thread ^ 1)) && !twice.has_thread_of(occupant(slot, thread ^ 1))
            );
        }
    }

    #[test]
    fn guards_are_counted_up_to_a_limit() {
        let mut reader = occupant(3, 4711).reading();
        for guards in 2..=GUARDS {
            reader = reader.with_one_more().unwrap();
            assert_eq!(reader.guards(), guards);
        }
        assert!(reader.with_one_more().is_none() && reader.is(occupant(3, 4711)));
    }

    #[test]
    fn a_word_of_no_slot_is_nobodys() {
        assert!(Occupant::from_bits(1).holder().is_none());
        assert!(Occupant::from_bits(!0).holder().is_none());
        assert!(Occupant::from_bits(57 << (24 + HOLDER_SHIFT)).holder().is_none());
    }
}
