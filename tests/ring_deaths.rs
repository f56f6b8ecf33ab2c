//! Senders and receivers of a queue, killed at random moments
//!
//! Each element is a number of its own. On a board outside of the segment stands what each sender knows that it has sent, and how
//! often each element was received. So it shows if one is lost that no death accounts for, comes twice, or was never sent; and if
//! those that are left do not go on.
//!
//! `cargo test --release --test ring_deaths -- --ignored long_ --nocapture` is the full length; `SHMEM_BIND_KILLS` sets another one.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use common::arena::{Random, open};
use common::campaign::{self, Board, Figures, Forked, Wrong};
use common::{Parent, TestName, say};
use nix::sys::wait::WaitStatus;
use shmem_bind::ring::{Many, Mode, Queue, QueueError, Receiver, Sender, Single};
use shmem_bind::{Arena, ShmemArc, Tlsf};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// Few places, so that both ends wait for each other all the time.
const CAPACITY: usize = 8;
const SIZE: usize = 64 * 1024;
/// Elements that one sender sends at most.
const ELEMENTS: u64 = 16_384;
/// Senders that there are one after the other, at most.
const LIVES: usize = 2_600;
/// Sent at once, or received.
const BATCH: u64 = 4;
/// How long one waits for the others before they are stuck. Far more than any machine needs.
const PATIENCE: Duration = Duration::from_secs(50);
/// So much for a wait that is looked at again.
const SHORT: Duration = Duration::from_millis(300);

type Numbers<M> = Queue<u64, CAPACITY, M>;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("many", drive::<Many>), ("single", drive::<Single>)]);
}

#[test]
fn an_mpmc_survives_those_who_use_it() {
    campaign::run("many", &["250"]).conclude("ring_deaths mpmc");
}

#[test]
fn an_spsc_survives_those_who_use_it() {
    campaign::run("single", &["250"]).conclude("ring_deaths spsc");
}

#[test]
#[ignore = "takes some minutes"]
fn long_both_survive_those_who_use_them() {
    let kills = std::env::var("SHMEM_BIND_KILLS").map_or(7_500, |kills| kills.parse().unwrap());
    // What is known of each life takes room, so there are several campaigns and not a long one.
    let each = kills.clamp(1, 1_500_u64);
    for role in ["many", "single"].repeat(kills.div_ceil(each) as usize) {
        campaign::run(role, &[&each.to_string()]).conclude(&format!("ring_deaths {role}"));
    }
}

/// What is known outside of the segment.
struct Counts {
    /// By sender: how many elements it has begun to send, and how many it has sent.
    begun: [AtomicU64; LIVES],
    sent: [AtomicU64; LIVES],
    received: AtomicU64,
    /// Elements out of order, seen by one receiver.
    disorder: AtomicU64,
    refused: AtomicU64,
    stop: AtomicU32,
    /// By sender and number: how often it was received.
    times: [[AtomicU8; ELEMENTS as usize]; LIVES],
}

fn queue<M: Mode>(name: &str) -> (Arena<Tlsf>, ShmemArc<Numbers<M>>) {
    let arena = open(name, SIZE);
    let queue = arena.find_or_alloc_zeroed("queue").unwrap();
    (arena, queue)
}

/// Whoever has a role that this one wants is dead, or is just leaving.
fn patiently<R>(mut attempt: impl FnMut() -> Result<R, QueueError>) -> Result<R, QueueError> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(QueueError::Taken) if start.elapsed() < PATIENCE => thread::yield_now(),
            result => return result,
        }
    }
}

fn send<M: Mode>(name: &str, board: &Counts, life: usize) {
    let (_arena, queue) = queue::<M>(name);
    let mut sender: Sender<'_, _, CAPACITY, M> = patiently(|| queue.sender()).unwrap();
    let mut random = Random::new(life as u64);
    let number = |index: u64| (life as u64) << 32 | index;
    let mut next = 0;
    while board.stop.load(SeqCst) == 0 && next + BATCH <= ELEMENTS {
        board.begun[life].store(next + BATCH, SeqCst);
        let result = match random.below(5) {
            0 => sender.try_push(number(next)).map(|()| 1).map_err(|unsent| unsent.error),
            1 => sender.push_for(number(next), SHORT).map(|()| 1).map_err(|unsent| unsent.error),
            2 => sender
                .push_spinning_for(number(next), Duration::from_micros(50))
                .map(|()| 1)
                .map_err(Into::into),
            3 => {
                let numbers: [u64; BATCH as usize] = std::array::from_fn(|index| number(next + index as u64));
                sender.push_slice(&numbers).map(|count| count as u64)
            }
            _ => match sender.reserve_for(SHORT) {
                Ok(slot) if random.below(4) == 0 => {
                    drop(slot);
                    Ok(0)
                }
                Ok(slot) => {
                    slot.write(number(next)).unwrap();
                    Ok(1)
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(count) => next += count,
            Err(QueueError::Full) => {}
            Err(error) => {
                return refuse(board, &format!("to sender {life}: {error:?}, {queue:?}"));
            }
        }
        board.sent[life].store(next, SeqCst);
    }
}

/// Says that the queue was refused to somebody alive.
fn refuse(board: &Counts, why: &str) {
    board.refused.fetch_add(1, SeqCst);
    say(&format!("report refused {why}"));
}

fn receive<M: Mode>(name: &str, board: &Counts, salt: usize) {
    let (_arena, queue) = queue::<M>(name);
    let mut receiver: Receiver<'_, _, CAPACITY, M> = patiently(|| queue.receiver()).unwrap();
    let mut random = Random::new(salt as u64);
    let mut last = vec![0; LIVES];
    let mut count = |number: u64| {
        let (life, index) = ((number >> 32) as usize, number as u32 as usize);
        board.times[life][index].fetch_add(1, SeqCst);
        board.received.fetch_add(1, SeqCst);
        if (index as u64) < last[life] {
            board.disorder.fetch_add(1, SeqCst);
        }
        last[life] = index as u64 + 1;
    };
    loop {
        let result = match random.below(5) {
            0 => receiver.try_pop().map(&mut count),
            1 => receiver.pop_for(SHORT).map(&mut count),
            2 => receiver.pop_spinning_for(Duration::from_micros(50)).map(&mut count),
            3 => receiver.drain(BATCH as usize).map(|numbers| numbers.for_each(&mut count)),
            _ => receiver.peek_for(SHORT).map(|number| {
                // Moved out first, so that it is not counted twice if this one dies here.
                count(number.take().unwrap());
            }),
        };
        match result {
            Ok(()) | Err(QueueError::Empty) => {}
            Err(QueueError::Closed) => return,
            Err(error) => {
                return refuse(board, &format!("to a receiver: {error:?}, {queue:?}"));
            }
        }
    }
}

/// One of those who send and receive.
struct Worker {
    process: Forked,
    is_sender: bool,
}

fn drive<M: Mode>(parent: &mut Parent) {
    let name = TestName::new("ring");
    let (_arena, queue) = queue::<M>(&name);
    let kills: u64 = parent.argument(0).parse().unwrap();
    let board = unsafe { Board::<Counts>::new() };
    let is_single = std::any::TypeId::of::<M>() == std::any::TypeId::of::<Single>();
    let each = if is_single { 1 } else { 2 };
    let mut lives = 0;
    let mut spawn = |is_sender: bool| {
        lives += 1;
        let life = lives;
        let work =
            || if is_sender { send::<M>(&name, &board, life) } else { receive::<M>(&name, &board, life) };
        Worker { process: Forked::spawn(work), is_sender }
    };
    let mut workers: Vec<_> = (0..2 * each).map(|index| spawn(index % 2 == 0)).collect();
    let mut random = Random::new(kills);
    let mut figures = Figures::default();
    let mut dead_receivers = 0;
    for kill in 0..kills {
        // All go on, whoever has died before.
        let (before, start) = (board.received.load(SeqCst), Instant::now());
        while board.received.load(SeqCst) < before + 20 && figures.stuck == 0 {
            if start.elapsed() > PATIENCE {
                figures.report(Wrong::Stuck, format!("kill {kill}: nothing is received; {queue:?}"));
            }
            // Those who have sent all that they may are followed by others.
            for worker in workers.iter_mut().filter(|worker| worker.is_sender) {
                if let Some(status) = worker.process.try_reap() {
                    assert_eq!(status, WaitStatus::Exited(worker.process.pid(), 0));
                    *worker = spawn(true);
                }
            }
            thread::yield_now();
        }
        (0..random.below(3_000)).for_each(|_| std::hint::spin_loop());
        let index = random.index(workers.len());
        let is_sender = workers[index].is_sender;
        dead_receivers += u64::from(!is_sender);
        // The other way round, so that a role is given up by a death.
        workers.remove(index).process.kill();
        workers.push(spawn(is_sender));
        figures.points += 1;
        if kill % 500 == 499 {
            campaign::progress(parent, &format!("  {figures}"));
        }
    }
    board.stop.store(1, SeqCst);
    let (senders, receivers): (Vec<_>, Vec<_>) = workers.into_iter().partition(|worker| worker.is_sender);
    senders.into_iter().for_each(|worker| worker.process.finish());
    queue.close();
    receivers.into_iter().for_each(|worker| worker.process.finish());
    // One that dies has one element in hand, or of an Mpmc a batch.
    let most = if is_single { dead_receivers } else { BATCH * dead_receivers };
    judge(&board, lives, (dead_receivers, most), &mut figures, parent);
    figures.tell(parent);
}

fn judge(
    board: &Counts,
    lives: usize,
    (dead_receivers, most): (u64, u64),
    figures: &mut Figures,
    parent: &mut Parent,
) {
    let (mut sent_in_all, mut lost) = (0, 0);
    for life in 0..=lives {
        let (begun, sent) = (board.begun[life].load(SeqCst), board.sent[life].load(SeqCst));
        sent_in_all += sent;
        for index in 0..ELEMENTS {
            match board.times[life][index as usize].load(SeqCst) {
                0 => lost += u64::from(index < sent),
                1 if index < begun => {}
                1 => figures.report(Wrong::Corrupt, format!("element {index} of {life} was never sent")),
                times => {
                    figures.report(Wrong::Corrupt, format!("element {index} of {life} came {times} times"))
                }
            }
        }
    }
    if lost > most {
        figures.report(Wrong::Lost, format!("{lost} elements, by {dead_receivers} deaths of receivers"));
    }
    for _ in 0..board.disorder.load(SeqCst) {
        figures.report(Wrong::Corrupt, "an element came before one that was sent earlier".to_owned());
    }
    for _ in 0..board.refused.load(SeqCst) {
        figures.report(Wrong::Stuck, "the queue was refused to somebody".to_owned());
    }
    campaign::progress(
        parent,
        &format!("{sent_in_all} elements sent; {lost} lost by {dead_receivers} receivers who died"),
    );
    assert_ne!(sent_in_all, 0, "nothing was sent");
}
