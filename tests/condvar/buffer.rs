//! A bounded buffer: a mutex, and a condvar for each side, of those who put in and those who take out

use crate::common::campaign::{self, Board, Forked, Wrong};
use crate::common::pair::PATIENCE;
use crate::common::{Parent, TestName};
use shmem_bind::sync::{Condvar, LockError, LockFailure, Mutex, MutexGuard, Orphaned, WaitError};
use shmem_bind::{Arena, Builder, ShmemArc, Tlsf, shareable};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// So many put in, and so many take out.
const SIDE: usize = 4;
const ROOM: u64 = 4;

shareable! {
    /// Number `n` has the place `n % ROOM`, and says so. Each change is committed by one store to a counter, the last one.
    #[repr(C)]
    struct Buffer {
        first: AtomicU64,
        last: AtomicU64,
        places: [AtomicU64; 4],
    }
}

shareable! {
    #[repr(C)]
    struct Store {
        buffer: Mutex<Buffer>,
        is_not_empty: Condvar,
        is_not_full: Condvar,
    }
}

impl Buffer {
    const fn stamp(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xff
    }

    /// Now and then long enough to be killed in.
    fn linger(number: u64) {
        let spins = if number % 4 == 0 { 5000 } else { 50 };
        (0..spins).for_each(|_| std::hint::spin_loop());
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.places[(number % ROOM) as usize]
    }

    fn len(&self) -> u64 {
        self.last.load(SeqCst) - self.first.load(SeqCst)
    }

    fn put_in(&self) {
        let number = self.last.load(SeqCst);
        self.place(number).store(Self::stamp(number), SeqCst);
        Self::linger(number);
        self.last.store(number + 1, SeqCst);
    }

    /// Gives whether it was the right one.
    fn take_out(&self) -> bool {
        let number = self.first.load(SeqCst);
        let is_right = self.place(number).swap(0, SeqCst) == Self::stamp(number);
        Self::linger(number);
        self.first.store(number + 1, SeqCst);
        is_right
    }
}

struct Accounts {
    /// What each has done, as it counts that itself.
    done: [AtomicU64; 2 * SIDE],
    wrong: AtomicU64,
    failed: AtomicU64,
    orphans: AtomicU64,
    stop: AtomicU32,
}

fn open_store(name: &str) -> (ShmemArc<Store>, Arena<Tlsf>) {
    let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open().unwrap().arena().unwrap();
    let zero = || AtomicU64::new(0);
    let buffer = || Buffer { first: zero(), last: zero(), places: [(); 4].map(|()| zero()) };
    let store =
        || Store { buffer: Mutex::new(buffer()), is_not_empty: Condvar::new(), is_not_full: Condvar::new() };
    (arena.find_or_alloc("store", store).unwrap(), arena)
}

/// The driver.
pub fn drive(parent: &mut Parent) {
    let name = TestName::new("buffer");
    let (store, _arena) = open_store(&name);
    let kills: u64 = parent.argument(0).parse().unwrap();
    let board = unsafe { Board::<Accounts>::new() };
    let spawn = |index: usize| Forked::spawn(|| trade(&name, &board, index));
    let mut workers: Vec<_> = (0..2 * SIDE).map(spawn).collect();
    let done = || board.done.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    let mut figures = campaign::kill_at_random(parent, kills, &mut workers, spawn, |_| {
        // One side needs the other.
        let enough = done() + 2 * ROOM + 2;
        move || done() >= enough
    });
    board.stop.store(1, SeqCst);
    store.is_not_empty.notify_all();
    store.is_not_full.notify_all();
    workers.into_iter().for_each(Forked::finish);
    let sum = |side: &[AtomicU64]| side.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    let (put_in, taken_out) = (sum(&board.done[..SIDE]), sum(&board.done[SIDE..]));
    let guard = lock(&store, &board).unwrap();
    let (last, first) = (guard.last.load(SeqCst), guard.first.load(SeqCst));
    // Each death added one at most that its worker did not get to count.
    let is_settled = |number: u64, counted: u64| (counted..=counted + kills).contains(&number);
    if !is_settled(last, put_in) || !is_settled(first, taken_out) || guard.len() > ROOM {
        let text = format!("{last} came and {first} went, {put_in} and {taken_out} counted, {kills} kills");
        figures.report(Wrong::Lost, text);
    }
    for _ in 0..board.wrong.load(SeqCst) {
        figures.report(Wrong::Corrupt, "something else was in the buffer".to_owned());
    }
    for _ in 0..board.failed.load(SeqCst) {
        figures.report(Wrong::Stuck, "somebody waited in vain".to_owned());
    }
    let orphans = board.orphans.load(SeqCst);
    campaign::progress(
        parent,
        &format!("{kills} kills, {orphans} of them with the mutex, {first} went through"),
    );
    assert_ne!(orphans, 0, "nobody died with the mutex");
    figures.tell(parent);
}

/// What a dead one left is whole, but that it may have cleared the place that it was about to count as taken out.
fn mend<'a>(orphan: Orphaned<'a, Buffer>, board: &Accounts) -> MutexGuard<'a, Buffer> {
    board.orphans.fetch_add(1, SeqCst);
    // All of it is atomics, which any bytes are a value of.
    let guard = unsafe { orphan.assume_whole() };
    for number in guard.first.load(SeqCst)..guard.last.load(SeqCst) {
        guard.place(number).store(Buffer::stamp(number), SeqCst);
    }
    guard
}

fn lock<'a>(store: &'a Store, board: &Accounts) -> Result<MutexGuard<'a, Buffer>, LockFailure> {
    match store.buffer.lock_for(PATIENCE) {
        Ok(guard) => Ok(guard),
        Err(LockError::Orphaned(orphan)) => Ok(mend(orphan, board)),
        Err(error) => Err(error.failure()),
    }
}

fn trade(name: &str, board: &Accounts, index: usize) {
    let (store, _arena) = &open_store(name);
    while board.stop.load(SeqCst) == 0 {
        if trade_once(store, board, index).is_err() {
            board.failed.fetch_add(1, SeqCst);
            return;
        }
    }
}

fn trade_once(store: &Store, board: &Accounts, index: usize) -> Result<(), LockFailure> {
    let puts_in = index < SIDE;
    let (wait_at, tell) = match puts_in {
        true => (&store.is_not_full, &store.is_not_empty),
        false => (&store.is_not_empty, &store.is_not_full),
    };
    let has_to_wait = |buffer: &mut Buffer| {
        board.stop.load(SeqCst) == 0 && if puts_in { buffer.len() == ROOM } else { buffer.len() == 0 }
    };
    let mut guard = lock(store, board)?;
    loop {
        match wait_at.wait_while_for(guard, PATIENCE, has_to_wait) {
            Ok((_, result)) if result.timed_out() => return Err(LockFailure::Busy),
            Ok((locked, _)) => {
                guard = locked;
                break;
            }
            Err(WaitError::Orphaned { orphaned, .. }) => guard = mend(orphaned, board),
            Err(error) => return Err(error.failure()),
        }
    }
    if board.stop.load(SeqCst) != 0 {
        return Ok(());
    }
    if puts_in {
        guard.put_in();
    } else if !guard.take_out() {
        board.wrong.fetch_add(1, SeqCst);
    }
    drop(guard);
    tell.notify_one();
    board.done[index].fetch_add(1, SeqCst);
    Ok(())
}
