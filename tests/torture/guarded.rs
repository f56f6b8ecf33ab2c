//! Two equal numbers under a lock, with which processes die
//!
//! Beside the lock stands who has it, as that one says itself: after taking the lock and until giving it back. So who gets the
//! lock knows whether it may: nobody stands there, or one that has been killed.

use super::board::{HAS_LOCK, NO_LOCK, WANTS_LOCK, board};
use crate::common::arena::Random;
use crate::common::pair::Pair;
use shmem_bind::sync::{LockError, Mutex, MutexGuard};
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
    }
}

impl Guarded {
    pub fn new() -> Self {
        Self { holder: AtomicU64::new(0), buried: AtomicU64::new(0), pair: Mutex::new(Pair::of(0)) }
    }

    /// Locks the numbers, and changes them for a while; or leaves them orphaned, if they are.
    pub fn change(&self, random: &mut Random, patience: Duration) -> Result<(), LockFailure> {
        let (board, seat) = (board(), board().own_seat());
        seat.lock.store(WANTS_LOCK, SeqCst);
        let locked = self.pair.lock_for(patience);
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
