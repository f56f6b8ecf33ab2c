//! Two equal numbers under a lock, with which processes die
//!
//! Beside the lock stands who has it, as that one says itself: after taking the lock and until giving it back. So who gets the
//! lock knows whether it may: nobody stands there, or one that has been killed. Some wait for a change before they go on, and get
//! the lock, or an orphan, that way.
//!
//! Cells beside them are initialised by whoever comes first; and what has once been seen in one is there for ever.

use super::board::{Deed, HAS_LOCK, NO_LOCK, WANTS_LOCK, board};
use super::several::Several;
use crate::common::arena::Random;
use crate::common::pair::Pair;
use shmem_bind::sync::{Condvar, LockError, LockResult, Mutex, MutexGuard, OnceCell, WaitError};
use shmem_bind::{LockFailure, shareable};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// The name it has, for ever.
pub const NAME: &str = "pair";

shareable! {
    #[derive(Debug)]
    #[repr(C)]
    pub struct Guarded {
        /// Number of the process that has the lock, 0 for none.
        holder: AtomicU64,
        /// How many had been [buried](super::board::Shared::buried) when it took the lock.
        buried: AtomicU64,
        pair: Mutex<Pair>,
        changed: Condvar,
        cells: [OnceCell<Pair>; CELLS],
        /// What was seen in the cells.
        seen: [AtomicU64; CELLS],
        pub several: Several,
    }
}

const CELLS: usize = 32;

impl Guarded {
    pub fn new() -> Self {
        Self {
            holder: AtomicU64::new(0),
            buried: AtomicU64::new(0),
            pair: Mutex::new(Pair::of(0)),
            changed: Condvar::new(),
            cells: [const { OnceCell::new() }; CELLS],
            seen: [const { AtomicU64::new(0) }; CELLS],
            several: Several::new(),
        }
    }

    /// Looks at a cell, and initialises it before if need be.
    pub fn initialize(&self, random: &mut Random, patience: Duration) -> Result<(), LockFailure> {
        let index = random.index(CELLS);
        let pair = self.cells[index].get_or_init_for(patience, || {
            if random.below(4) == 0 {
                thread::sleep(Duration::from_micros(random.below(200)));
            }
            board().count(Deed::Initialized);
            Pair::of(random.next())
        })?;
        assert_eq!(pair.first, pair.second, "half-written");
        let seen =
            self.seen[index].compare_exchange(0, pair.first, SeqCst, SeqCst).unwrap_or_else(|seen| seen);
        assert!(seen == 0 || seen == pair.first, "initialised twice");
        Ok(())
    }

    /// Has the numbers locked, and waits for a change of them at most so long.
    fn wait<'a>(&self, guard: MutexGuard<'a, Pair>, time: Duration) -> LockResult<'a, Pair> {
        match self.changed.wait_for(guard, time) {
            Ok((guard, _)) => Ok(guard),
            Err(WaitError::Orphaned { orphaned, .. }) => Err(LockError::Orphaned(orphaned)),
            Err(error) => Err(LockError::Failed(error.failure())),
        }
    }

    /// Locks the numbers, and changes them for a while; or leaves them orphaned, if they are.
    pub fn change(&self, random: &mut Random, patience: Duration) -> Result<(), LockFailure> {
        let (board, seat) = (board(), board().own_seat());
        seat.lock.store(WANTS_LOCK, SeqCst);
        let locked = match self.pair.lock_for(patience) {
            Ok(guard) if random.below(4) == 0 => self.wait(guard, Duration::from_micros(random.below(500))),
            locked => locked,
        };
        let result = match locked {
            Ok(guard) => {
                let holder = self.holder.swap(seat.number.load(SeqCst), SeqCst);
                assert_eq!(holder, 0, "locked by two");
                self.change_locked(guard, random);
                Ok(())
            }
            Err(LockError::Orphaned(orphaned)) => {
                board.judge_orphan(self.holder.load(SeqCst), self.buried.load(SeqCst));
                // Left as it is, it is found once more.
                if random.below(4) != 0 {
                    self.holder.store(seat.number.load(SeqCst), SeqCst);
                    self.change_locked(orphaned.replace(Pair::of(random.next())), random);
                }
                Ok(())
            }
            Err(LockError::Failed(error)) => Err(error),
            Err(error) => panic!("{error:?}"),
        };
        seat.lock.store(NO_LOCK, SeqCst);
        if random.below(2) == 0 {
            self.changed.notify_one();
        }
        result
    }

    fn change_locked(&self, mut guard: MutexGuard<'_, Pair>, random: &mut Random) {
        let seat = board().own_seat();
        self.buried.store(board().buried(), SeqCst);
        seat.lock.store(HAS_LOCK, SeqCst);
        let Pair { first, second } = *guard;
        assert_eq!(first, second, "half-written");
        let start = random.next();
        let sleeps = random.below(16) == 0;
        for number in (0..random.below(300)).map(|step| start.wrapping_add(step)) {
            guard.first = number;
            black_box(&mut *guard);
            if sleeps && number % 64 == 0 {
                thread::sleep(Duration::from_micros(random.below(200)));
            }
            guard.second = number;
            assert_eq!(*black_box(&mut *guard), Pair::of(number), "changed by another");
        }
        seat.lock.store(WANTS_LOCK, SeqCst);
        self.holder.store(0, SeqCst);
    }
}
