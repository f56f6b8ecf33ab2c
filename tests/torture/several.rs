//! What several have at a time: a lock for readers and writers, permits, and queues
//!
//! Whoever reads, or receives, finds two equal numbers, or an orphan. When nobody alive is left, all of it can be had again.

use super::board::{Deed, board};
use crate::common::arena::Random;
use crate::common::pair::Pair;
use shmem_bind::ring::{Mpmc, QueueError, Spsc};
use shmem_bind::sync::{LockError, RwLock, RwLockWriteGuard, Semaphore};
use shmem_bind::{LockFailure, shareable};
use std::hint::black_box;
use std::thread;
use std::time::Duration;

const PERMITS: usize = 3;
const PLACES: usize = 8;

shareable! {
    #[derive(Debug)]
    #[repr(C)]
    pub struct Several {
        pair: RwLock<Pair, 4>,
        permits: Semaphore<PERMITS>,
        many: Mpmc<Pair, PLACES>,
        single: Spsc<Pair, PLACES>,
    }
}

impl Several {
    pub const fn new() -> Self {
        Self {
            pair: RwLock::with_readers(Pair::of(0)),
            permits: Semaphore::new(),
            many: Mpmc::new(),
            single: Spsc::new(),
        }
    }

    /// Does one thing of many.
    pub fn use_some(&self, random: &mut Random, patience: Duration) -> Result<(), LockFailure> {
        match random.below(5) {
            0 => self.read(random, patience),
            1 => self.write(random, patience),
            2 => {
                let _permit = self.permits.acquire_for(patience)?;
                pause(random);
                Ok(())
            }
            3 => {
                self.send(random);
                Ok(())
            }
            _ => {
                self.receive(random);
                Ok(())
            }
        }
    }

    fn read(&self, random: &mut Random, patience: Duration) -> Result<(), LockFailure> {
        match self.pair.read_for(patience) {
            Ok(guard) => {
                assert_eq!(guard.first, guard.second, "half-written");
                pause(random);
                assert_eq!(*black_box(&*guard), Pair::of(guard.first), "written while it was read");
            }
            Err(LockError::Orphaned(orphaned)) => {
                board().count(Deed::FoundOrphan);
                if random.below(4) != 0 {
                    drop(orphaned.replace(Pair::of(random.next())));
                }
            }
            Err(error) => return Err(error.failure()),
        }
        Ok(())
    }

    fn write(&self, random: &mut Random, patience: Duration) -> Result<(), LockFailure> {
        let mut guard = match self.pair.write_for(patience) {
            Ok(guard) => guard,
            Err(LockError::Orphaned(orphaned)) => {
                board().count(Deed::FoundOrphan);
                orphaned.replace(Pair::of(random.next()))
            }
            Err(error) => return Err(error.failure()),
        };
        for number in (0..random.below(100)).map(|_| random.next()).collect::<Vec<_>>() {
            guard.first = number;
            black_box(&mut *guard);
            guard.second = number;
            assert_eq!(*black_box(&mut *guard), Pair::of(number), "changed by another");
        }
        if random.below(2) == 0 {
            let guard = RwLockWriteGuard::downgrade(guard);
            assert_eq!(guard.first, guard.second, "half-written");
        }
        Ok(())
    }

    fn send(&self, random: &mut Random) {
        let pair = Pair::of(random.next());
        if random.below(2) == 0 {
            let mut sender = self.many.sender().unwrap();
            match random.below(3) {
                0 => allow(sender.try_push(pair).map_err(|unsent| unsent.error)),
                1 => allow(sender.push_slice(&[pair; 3]).map(drop)),
                _ => allow(sender.reserve().map(|slot| {
                    pause(random);
                    // Some are given up.
                    if random.below(4) != 0 {
                        slot.write(pair).unwrap();
                    }
                })),
            }
            return;
        }
        match self.single.sender() {
            Ok(mut sender) => {
                allow(sender.push_for(pair, Duration::from_micros(50)).map_err(|unsent| unsent.error));
            }
            Err(error) => allow(Err(error)),
        }
    }

    fn receive(&self, random: &mut Random) {
        let whole = |pair: Pair| assert_eq!(pair.first, pair.second, "half-written");
        if random.below(2) == 0 {
            let mut receiver = self.many.receiver().unwrap();
            match random.below(3) {
                0 => allow(receiver.pop_for(Duration::from_micros(50)).map(whole)),
                1 => allow(receiver.drain(3).map(|all| all.for_each(whole))),
                _ => allow(receiver.peek().map(|pair| {
                    pause(random);
                    whole(*pair);
                })),
            }
            return;
        }
        match self.single.receiver() {
            Ok(mut receiver) => allow(receiver.pop_for(Duration::from_micros(50)).map(whole)),
            Err(error) => allow(Err(error)),
        }
    }

    /// Nobody alive is at it: all of it is to be had, and what is in the queues is whole.
    pub fn settle(&self, random: &mut Random) {
        self.write(random, Duration::ZERO).unwrap();
        self.permits.reclaim().unwrap();
        assert_eq!(self.permits.available(), PERMITS, "a permit is lost");
        let (mut sender, mut receiver) = (self.many.sender().unwrap(), self.many.receiver().unwrap());
        let (mut first, mut last) = (self.single.sender().unwrap(), self.single.receiver().unwrap());
        for _ in 0..2 {
            for left in (0..=PLACES).rev() {
                match receiver.try_pop() {
                    Ok(pair) => assert!(left > 0 && pair.first == pair.second, "{pair:?}"),
                    Err(error) => {
                        assert_eq!(error, QueueError::Empty);
                        break;
                    }
                }
            }
            for left in (0..=PLACES).rev() {
                match last.try_pop() {
                    Ok(pair) => assert!(left > 0 && pair.first == pair.second, "{pair:?}"),
                    Err(error) => {
                        assert_eq!(error, QueueError::Empty);
                        break;
                    }
                }
            }
            // Each place is to be had.
            for number in 0..PLACES as u64 {
                sender.try_push(Pair::of(number)).unwrap();
                first.try_push(Pair::of(number)).unwrap();
            }
            assert_eq!(sender.try_push(Pair::of(0)).unwrap_err().error, QueueError::Full);
            assert_eq!(first.try_push(Pair::of(0)).unwrap_err().error, QueueError::Full);
        }
    }
}

fn allow(result: Result<(), QueueError>) {
    match result {
        Ok(()) | Err(QueueError::Full | QueueError::Empty | QueueError::Taken) => {}
        Err(error) => panic!("{error:?}"),
    }
}

fn pause(random: &mut Random) {
    if random.below(8) == 0 {
        thread::sleep(Duration::from_micros(random.below(200)));
    }
}
