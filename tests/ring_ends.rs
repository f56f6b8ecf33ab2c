//! Queues that come to an end: closed, severed, left by the dead; and such as are large
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::open;
use common::campaign::Forked;
use common::sigbus::{survive, survived};
use common::{Parent, TestName};
use nix::sys::signal::{Signal, raise};
use shmem_bind::ring::{Many, Mode, Mpmc, Queue, QueueError, Single, Spsc};
use shmem_bind::{
    Arena, Builder, HEADER_LEN, Shareable, ShmemArc, ShmemBox, ShmemConf, Tlsf, shareable, sigbus_fixup,
};
use std::fs::OpenOptions;
use std::hint::black_box;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(5);
/// Far more than any machine needs.
const PATIENCE: Duration = Duration::from_secs(50);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("close", close_behind_the_dead), ("die", die_with_many)]);
}

fn in_a_child(role: &str) {
    assert!(common::Child::spawn(role, &[]).wait().success());
}

fn queue<T: Shareable, const N: usize, M: Mode>() -> (ShmemConf, ShmemArc<Queue<T, N, M>>) {
    let (conf, fd) = Builder::memfd().create(8 << 20).unwrap();
    let arena: Arena<Tlsf> = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
    let queue = ShmemBox::into_arc(arena.alloc_zeroed().unwrap());
    (conf, queue)
}

/// Kills a process in the middle of what it does to a queue; it stays a zombie.
fn dies<T: Shareable, const N: usize>(name: &str, work: fn(&Mpmc<T, N>)) -> Forked {
    let victim = Forked::spawn(|| {
        let arena = open::<Tlsf>(name, 8 << 20);
        work(&arena.find_or_alloc_zeroed::<Mpmc<T, N>>("queue").unwrap());
        raise(Signal::SIGKILL).unwrap();
    });
    victim.await_death();
    victim
}

type Received = Result<u32, QueueError>;

/// What was sent before a queue was closed is received, though a dead one stands before it.
#[test]
fn a_closed_queue_gives_what_is_behind_the_dead() {
    in_a_child("close");
}

fn close_behind_the_dead(_parent: &mut Parent) {
    let ways: [fn(&Mpmc<u32, 4>) -> Received; 7] = [
        |queue| queue.receiver()?.pop(),
        |queue| queue.receiver()?.pop_for(PATIENCE),
        |queue| queue.receiver()?.pop_spinning_for(PATIENCE),
        |queue| queue.receiver()?.try_pop(),
        |queue| Ok(queue.receiver()?.drain(9)?.sum()),
        |queue| Ok(*queue.receiver()?.peek()?),
        |queue| Ok(*queue.receiver()?.peek_for(PATIENCE)?),
    ];
    for way in ways {
        let name = TestName::new("close");
        let arena = open::<Tlsf>(&name, 8 << 20);
        let queue = arena.find_or_alloc_zeroed::<Mpmc<u32, 4>>("queue").unwrap();
        let _dead = dies::<u32, 4>(&name, |queue| {
            let mut sender = queue.sender().unwrap();
            forget(sender.reserve().unwrap());
            forget(sender);
        });
        queue.sender().unwrap().push(42).unwrap();
        queue.close();
        assert_eq!(way(&queue), Ok(42));
        assert_eq!(way(&queue), Err(QueueError::Closed));
    }
}

#[test]
fn a_closed_queue_waits_for_those_who_had_begun() {
    let (_conf, queue) = queue::<u32, 4, Many>();
    let (mut slow, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let slot = slow.reserve().unwrap();
    queue.sender().unwrap().push(2).unwrap();
    queue.close();
    assert_eq!(receiver.try_pop(), Err(QueueError::Empty));
    assert_eq!(receiver.pop_for(SHORT), Err(QueueError::Empty));
    assert_eq!(receiver.pop_spinning_for(SHORT), Err(QueueError::Empty));
    assert_eq!(receiver.drain(9).unwrap_err(), QueueError::Empty);
    thread::scope(|scope| {
        let others = [0, 1, 2].map(|_| scope.spawn(|| queue.receiver().unwrap().pop_for(PATIENCE)));
        thread::sleep(SHORT);
        slot.write(1).unwrap();
        let mut received = others.map(|other| other.join().unwrap());
        received.sort_by_key(|received| received.unwrap_or(9));
        assert_eq!(received, [Ok(1), Ok(2), Err(QueueError::Closed)]);
    });
    assert_eq!(receiver.pop(), Err(QueueError::Closed));
}

#[test]
fn nothing_is_sent_to_one_that_is_closed_meanwhile() {
    let (_conf, queue) = queue::<u32, 4, Single>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.push(1).unwrap();
    let slot = sender.reserve().unwrap();
    queue.close();
    assert_eq!((receiver.try_pop(), receiver.try_pop()), (Ok(1), Err(QueueError::Closed)));
    let unsent = slot.write(2).unwrap_err();
    assert_eq!((unsent.value, unsent.error), (2, QueueError::Closed));
    assert_eq!(sender.push_slice(&[3, 4]), Err(QueueError::Closed));
    assert_eq!(receiver.pop(), Err(QueueError::Closed));
    assert!(queue.is_empty());
}

/// Whoever was told that it is sent finds it received.
#[test]
fn what_is_sent_while_others_close_is_received() {
    let (_conf, fd) = Builder::memfd().create(1 << 20).unwrap();
    let arena: Arena<Tlsf> = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
    for round in 0..2000 {
        let queue = arena.alloc_zeroed::<Mpmc<u32, 4>>().unwrap();
        let start = Barrier::new(3);
        let sends = || {
            let mut sender = queue.sender().unwrap();
            start.wait();
            (0..1000).take_while(|number| sender.push(*number).is_ok()).count()
        };
        let receives = || {
            let mut receiver = queue.receiver().unwrap();
            start.wait();
            std::iter::from_fn(|| receiver.pop().ok()).count()
        };
        thread::scope(|scope| {
            let (sent, received) = (scope.spawn(sends), scope.spawn(receives));
            start.wait();
            (0..round % 200).for_each(|_| std::hint::spin_loop());
            queue.close();
            assert_eq!(sent.join().unwrap(), received.join().unwrap(), "round {round}");
        });
    }
}

#[test]
fn a_closed_queue_passes_over_what_was_given_up() {
    let (_conf, queue) = queue::<u32, 4, Many>();
    let mut sender = queue.sender().unwrap();
    drop(sender.reserve().unwrap());
    sender.push(2).unwrap();
    drop(sender.reserve().unwrap());
    queue.close();
    let mut receiver = queue.receiver().unwrap();
    assert_eq!((receiver.pop(), receiver.pop()), (Ok(2), Err(QueueError::Closed)));
}

const LARGE: usize = 1 << 17;
/// More steps than others may be quicker.
const MANY: usize = 100_000;

#[test]
fn many_places_that_were_given_up_are_no_damage() {
    let (_conf, queue) = queue::<u32, LARGE, Many>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    (0..MANY).for_each(|_| drop(sender.reserve().unwrap()));
    assert_eq!(receiver.try_pop(), Err(QueueError::Empty));
    sender.push(1).unwrap();
    assert_eq!(receiver.try_pop(), Ok(1));
    assert_eq!(sender.push_slice(&vec![2; LARGE]), Ok(LARGE));
    assert_eq!(receiver.drain(LARGE).unwrap().count(), LARGE);
}

/// Of the dead, each is asked for once, and not for each of its cells.
#[test]
fn many_places_of_the_dead_are_no_damage() {
    in_a_child("die");
}

fn die_with_many(_parent: &mut Parent) {
    let name = TestName::new("die");
    let arena = open::<Tlsf>(&name, 8 << 20);
    let queue = arena.find_or_alloc_zeroed::<Mpmc<u32, LARGE>>("queue").unwrap();
    let _sender = dies::<u32, LARGE>(&name, |queue| {
        let mut sender = queue.sender().unwrap();
        (0..MANY).for_each(|_| forget(sender.reserve().unwrap()));
    });
    let mut sender = queue.sender().unwrap();
    sender.push(1).unwrap();
    let mut receiver = queue.receiver().unwrap();
    assert_eq!(receiver.pop_for(PATIENCE), Ok(1));
    assert_eq!(sender.push_slice(&vec![2; LARGE]), Ok(LARGE));
    let _receiver = dies::<u32, LARGE>(&name, |queue| {
        let mut receiver = queue.receiver().unwrap();
        forget(receiver.drain(MANY).unwrap());
    });
    assert_eq!(sender.push_slice(&vec![3; LARGE]), Ok(MANY));
    assert_eq!(receiver.drain(LARGE).unwrap().count(), LARGE);
}

/// How many fell.
static FALLEN: AtomicU64 = AtomicU64::new(0);

shareable! {
    #[repr(C)]
    struct Bomb { number: u32 }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        FALLEN.fetch_add(1, SeqCst);
        assert_ne!(self.number, 1, "it goes off");
    }
}

/// One of the elements that are left goes off; the others are dropped too, and all places come back.
fn goes_off<M: Mode>() {
    let (_conf, queue) = queue::<Bomb, 4, M>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for number in 0..4 {
        sender.push(Bomb { number }).unwrap();
    }
    let drain = receiver.drain(4).unwrap();
    catch_unwind(AssertUnwindSafe(|| drop(drain))).unwrap_err();
    assert_eq!(FALLEN.swap(0, SeqCst), 4);
    for number in 4..8 {
        sender.try_push(Bomb { number }).map_err(|unsent| unsent.error).unwrap();
    }
    drop(receiver.drain(4).unwrap());
    assert_eq!(FALLEN.swap(0, SeqCst), 4);
}

#[test]
fn an_element_that_panics_when_it_is_dropped_keeps_no_place() {
    goes_off::<Many>();
    goes_off::<Single>();
}

/// What a handler does after a fault.
fn sever<T, const N: usize, M>(queue: &Queue<T, N, M>) {
    assert!(unsafe { sigbus_fixup((&raw const *queue).cast()) });
}

fn elements_in_hand_are_refused<M: Mode>() {
    let with_five = || {
        let (conf, queue) = queue::<u32, 8, M>();
        queue.sender().unwrap().push_slice(&[1, 2, 3, 4, 5]).unwrap();
        (conf, queue)
    };
    let (_conf, queue) = with_five();
    let mut receiver = queue.receiver().unwrap();
    let element = receiver.peek().unwrap();
    sever(&queue);
    assert_eq!(element.take(), Err(QueueError::Severed));
    assert_eq!(receiver.pop(), Err(QueueError::Severed));

    let (_conf, queue) = with_five();
    let mut receiver = queue.receiver().unwrap();
    let mut drain = receiver.drain(3).unwrap();
    assert_eq!(drain.next(), Some(1));
    sever(&queue);
    assert_eq!((drain.next(), drain.len()), (None, 0));
    drop(drain);
    assert_eq!(receiver.drain(1).unwrap_err(), QueueError::Severed);

    let (_conf, queue) = with_five();
    let mut sender = queue.sender().unwrap();
    let slot = sender.reserve().unwrap();
    sever(&queue);
    let unsent = slot.write(6).unwrap_err();
    assert_eq!((unsent.value, unsent.error), (6, QueueError::Severed));

    let (_conf, queue) = with_five();
    let mut sender = queue.sender().unwrap();
    let slot = sender.reserve().unwrap();
    sever(&queue);
    assert_eq!(unsafe { slot.commit() }, Err(QueueError::Severed));
}

#[test]
fn what_is_in_hand_when_memory_goes_away_is_refused() {
    elements_in_hand_are_refused::<Many>();
    elements_in_hand_are_refused::<Single>();
}

/// Longer than some pages, so that a part of it goes away with the end of the file.
type Long = [u64; 2048];

/// What nobody looks at is not read at all.
fn look_at(element: Long) {
    black_box(element);
}

/// The memory goes away while an element is written, or read.
fn goes_away_in_the_middle<M: Mode>() {
    const CAPACITY: usize = 2;
    type Way<M> = fn(&Queue<Long, CAPACITY, M>) -> Result<(), QueueError>;
    survive();
    let ways: [Way<M>; 7] = [
        |queue| queue.sender()?.push([1; 2048]).map_err(Into::into),
        |queue| queue.sender()?.try_push([1; 2048]).map_err(Into::into),
        |queue| queue.sender()?.push_slice(&[[1; 2048]; 1]).map(drop),
        |queue| queue.sender()?.reserve()?.write([1; 2048]).map_err(Into::into),
        |queue| queue.receiver()?.pop().map(look_at),
        |queue| queue.receiver()?.peek()?.take().map(look_at),
        |queue| match queue.receiver()?.drain(1)?.next() {
            None => Err(QueueError::Severed),
            Some(element) => {
                look_at(element);
                Ok(())
            }
        },
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let name = TestName::new("middle");
        let segment = Builder::new(&name).with_size(size_of::<Queue<Long, CAPACITY, M>>()).create().unwrap();
        let queue = unsafe { segment.boxed::<Queue<Long, CAPACITY, M>>() };
        if index >= 4 {
            queue.sender().unwrap().push([7; 2048]).unwrap();
        }
        // Within the element of the first cell.
        let file = OpenOptions::new().write(true).open(common::path_of(&name)).unwrap();
        file.set_len(HEADER_LEN as u64 + 8192).unwrap();
        let before = survived();
        assert_eq!(way(&queue), Err(QueueError::Severed), "{index}");
        assert!(survived() > before, "{index}: there was no fault");
    }
}

#[test]
fn memory_that_goes_away_in_the_middle_is_told() {
    goes_away_in_the_middle::<Many>();
    goes_away_in_the_middle::<Single>();
}

/// Where an end stands is written after the cells; a process may be killed in between.
#[test]
fn a_successor_says_how_many_there_are() {
    let (_conf, queue) = queue::<u32, 4, Single>();
    let [sent, received] = [0, 128].map(|offset| unsafe {
        let place = (&raw const *queue).cast::<u8>().add(offset);
        &*place.cast::<AtomicU64>()
    });
    queue.sender().unwrap().push_slice(&[1, 2, 3]).unwrap();
    assert_eq!(sent.swap(0, SeqCst), 3);
    assert_eq!(queue.len(), 0);
    drop(queue.sender().unwrap());
    assert_eq!(queue.len(), 3);
    assert_eq!(queue.receiver().unwrap().drain(2).unwrap().sum::<u32>(), 3);
    assert_eq!(received.swap(0, SeqCst), 2);
    drop(queue.receiver().unwrap());
    assert_eq!(queue.len(), 1);
}

/// A successor counts laps as the cells do, up to 2^31; who has been there for longer has gone on.
#[test]
fn its_length_does_not_depend_on_who_counts() {
    let (_conf, queue) = queue::<u32, 2, Single>();
    let mut sender = queue.sender().unwrap();
    let sent = unsafe { &*(&raw const *queue).cast::<AtomicU64>() };
    sent.store(1 << 32, SeqCst);
    assert!(queue.is_empty());
    sender.push(1).unwrap();
    sent.fetch_add(1 << 32, SeqCst);
    assert_eq!(queue.len(), 1);
    assert!(Spsc::<u32, 2>::new().is_empty());
}
