//! Queues: what they promise, misuse, damage
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::{Random, open};
use common::campaign::Forked;
use common::{Parent, TestName};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::WaitStatus;
use proptest::prelude::*;
use shmem_bind::ring::{Many, Mode, Mpmc, Queue, QueueError, Single, Spsc};
use shmem_bind::{
    AllocError, Arena, Builder, DirectoryError, Shareable, ShmemArc, ShmemBox, ShmemConf, Tlsf, shareable,
};
use std::collections::VecDeque;
use std::mem::forget;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(5);
/// Far more than any machine needs.
const PATIENCE: Duration = Duration::from_secs(50);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("inherit", inherit), ("succeed", succeed)]);
}

/// An arena of its own.
fn arena() -> (ShmemConf, Arena<Tlsf>) {
    let (conf, fd) = Builder::memfd().create(256 * 1024).unwrap();
    let arena = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
    (conf, arena)
}

fn queue<T: Shareable, const N: usize, M: Mode>() -> (ShmemConf, ShmemArc<Queue<T, N, M>>) {
    let (conf, arena) = arena();
    let queue = ShmemBox::into_arc(arena.alloc_zeroed().unwrap());
    (conf, queue)
}

/// As many as it says go in, and come out in order, lap after lap.
fn fills<const N: usize, M: Mode>() {
    let (_conf, queue) = queue::<u64, N, M>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    assert_eq!(queue.capacity(), N);
    for lap in 0..5 {
        assert_eq!(receiver.try_pop(), Err(QueueError::Empty));
        for index in 0..N as u64 {
            assert_eq!(queue.len(), index as usize);
            sender.try_push(lap * 100 + index).unwrap();
        }
        let unsent = sender.try_push(7).unwrap_err();
        assert_eq!((unsent.value, unsent.error), (7, QueueError::Full));
        assert_eq!(sender.reserve().unwrap_err(), QueueError::Full);
        for index in 0..N as u64 {
            assert_eq!(receiver.try_pop(), Ok(lap * 100 + index));
        }
        assert!(queue.is_empty());
    }
}

#[test]
fn a_queue_holds_as_many_as_it_says() {
    fills::<1, Many>();
    fills::<2, Many>();
    fills::<64, Many>();
    fills::<1, Single>();
    fills::<2, Single>();
    fills::<64, Single>();
}

#[test]
fn none_is_sent_or_received_where_none_is_wanted() {
    fn none<M: Mode>() {
        let (_conf, queue) = queue::<u32, 4, M>();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        assert_eq!(receiver.drain(0).unwrap().count(), 0);
        assert_eq!(sender.push_slice(&[1, 2]), Ok(2));
        assert_eq!(sender.push_slice(&[]), Ok(0));
        assert_eq!(receiver.drain(0).unwrap().len(), 0);
        assert_eq!(receiver.drain(100).unwrap().collect::<Vec<_>>(), [1, 2]);
    }
    none::<Single>();
    none::<Many>();
}

/// One that falls behind loses nothing: the sender is told.
#[test]
fn a_receiver_that_falls_behind_stops_the_sender() {
    let (_conf, queue) = queue::<u32, 4, Single>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    assert_eq!(sender.push_slice(&[1, 2, 3, 4, 5, 6]), Ok(4));
    assert_eq!(sender.push_slice(&[5]), Err(QueueError::Full));
    assert_eq!(sender.push_for(5, SHORT).unwrap_err().error, QueueError::Full);
    assert_eq!(sender.push_for(5, Duration::ZERO).unwrap_err().error, QueueError::Full);
    assert_eq!(sender.push_spinning_for(5, SHORT).unwrap_err().error, QueueError::Full);
    assert_eq!(sender.reserve_for(SHORT).unwrap_err(), QueueError::Full);
    assert_eq!(receiver.drain(2).unwrap().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(sender.push_slice(&[5, 6, 7]), Ok(2));
    assert_eq!(receiver.drain(100).unwrap().collect::<Vec<_>>(), [3, 4, 5, 6]);
    assert_eq!(receiver.drain(100).unwrap_err(), QueueError::Empty);
    assert_eq!(receiver.pop_for(SHORT), Err(QueueError::Empty));
    assert_eq!(receiver.pop_for(Duration::ZERO), Err(QueueError::Empty));
    assert_eq!(receiver.pop_spinning_for(SHORT), Err(QueueError::Empty));
    assert_eq!(receiver.peek_for(SHORT).unwrap_err(), QueueError::Empty);
}

#[test]
fn a_place_that_is_given_up_sends_nothing() {
    let (_conf, queue) = queue::<u32, 4, Many>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.push(1).unwrap();
    drop(sender.reserve().unwrap());
    sender.push(2).unwrap();
    drop(sender.reserve().unwrap());
    assert_eq!(sender.reserve().unwrap_err(), QueueError::Full, "its places are used up");
    assert_eq!((receiver.try_pop(), receiver.try_pop()), (Ok(1), Ok(2)));
    assert_eq!(receiver.try_pop(), Err(QueueError::Empty));
    assert_eq!(sender.push_slice(&[3, 4, 5, 6, 7]), Ok(4), "and they have come back");

    let (_conf, queue) = self::queue::<u32, 2, Single>();
    let mut sender = queue.sender().unwrap();
    (0..5).for_each(|_| drop(sender.reserve().unwrap()));
    assert_eq!(sender.push_slice(&[1, 2, 3]), Ok(2));
    assert_eq!(queue.receiver().unwrap().drain(9).unwrap().len(), 2);
}

#[test]
fn elements_are_received_where_they_lie() {
    let (_conf, queue) = queue::<[u32; 4], 2, Many>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.push([1; 4]).unwrap();
    sender.push([2; 4]).unwrap();
    let element = receiver.peek().unwrap();
    assert_eq!(*element, [1; 4]);
    // Others go on meanwhile, but in this place.
    assert_eq!(queue.receiver().unwrap().try_pop(), Ok([2; 4]));
    assert_eq!(queue.sender().unwrap().try_push([3; 4]).unwrap_err().error, QueueError::Full);
    element.release();
    sender.try_push([3; 4]).unwrap();
    assert_eq!(receiver.peek().unwrap().take(), Ok([3; 4]));
}

#[test]
fn what_a_forgotten_peek_shows_comes_again_to_the_only_receiver() {
    let (_conf, queue) = queue::<u32, 2, Single>();
    queue.sender().unwrap().push(1).unwrap();
    let mut receiver = queue.receiver().unwrap();
    forget(receiver.peek().unwrap());
    assert_eq!(receiver.try_pop(), Ok(1));
}

#[test]
fn roles_go_from_one_to_the_next() {
    let (_conf, queue) = queue::<u64, 4, Single>();
    for number in 0..13 {
        let mut sender = queue.sender().unwrap();
        assert_eq!(queue.sender().unwrap_err(), QueueError::Taken);
        sender.push(number).unwrap();
        drop(sender);
        if number % 3 == 2 {
            let mut receiver = queue.receiver().unwrap();
            assert_eq!(queue.receiver().unwrap_err(), QueueError::Taken);
            assert_eq!(receiver.drain(3).unwrap().collect::<Vec<_>>(), [number - 2, number - 1, number]);
        }
    }
}

#[test]
fn a_closed_queue_gives_what_is_left() {
    let (_conf, queue) = queue::<u32, 4, Many>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.push_slice(&[1, 2]).unwrap();
    let slot = sender.reserve().unwrap();
    queue.close();
    // It had begun.
    slot.write(3).unwrap();
    assert_eq!(sender.try_push(4).unwrap_err().error, QueueError::Closed);
    assert_eq!(sender.push_slice(&[4]), Err(QueueError::Closed));
    assert_eq!(receiver.drain(9).unwrap().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(receiver.pop(), Err(QueueError::Closed));
    assert_eq!(receiver.peek().unwrap_err(), QueueError::Closed);
}

/// Each of those who wait is told, whoever it is.
#[test]
fn closing_wakes_all_who_sleep() {
    let (_conf, queue) = queue::<u32, 1, Many>();
    thread::scope(|scope| {
        let receivers = [0, 1].map(|_| scope.spawn(|| queue.receiver().unwrap().pop_for(PATIENCE)));
        thread::sleep(SHORT);
        queue.close();
        for receiver in receivers {
            assert_eq!(receiver.join().unwrap(), Err(QueueError::Closed));
        }
    });
}

static DESTROYED: AtomicU64 = AtomicU64::new(0);

shareable! {
    #[repr(C)]
    struct Counted { number: u64 }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DESTROYED.fetch_add(self.number, SeqCst);
    }
}

#[test]
fn each_element_is_destroyed_once() {
    fn use_up<M: Mode>() {
        let (_conf, arena) = arena();
        let queue = arena.alloc(Queue::<Counted, 8, M>::new()).unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for power in 0..8 {
            sender.push(Counted { number: 1 << power }).unwrap();
        }
        assert_eq!(DESTROYED.swap(0, SeqCst), 0);
        drop(sender.try_push(Counted { number: 1 << 8 }).unwrap_err());
        assert_eq!(DESTROYED.swap(0, SeqCst), 1 << 8, "it came back");
        drop(receiver.pop().unwrap());
        assert_eq!(DESTROYED.swap(0, SeqCst), 1);
        receiver.peek().unwrap().release();
        assert_eq!(DESTROYED.swap(0, SeqCst), 2);
        let mut drain = receiver.drain(3).unwrap();
        drop(drain.next());
        assert_eq!(DESTROYED.swap(0, SeqCst), 4);
        drop(drain);
        assert_eq!(DESTROYED.swap(0, SeqCst), 8 + 16);
        drop((sender, receiver));
        drop(queue);
        assert_eq!(DESTROYED.swap(0, SeqCst), 32 + 64 + 128, "those that were left");
    }
    use_up::<Many>();
    use_up::<Single>();
}

#[test]
fn outside_of_a_segment_there_is_no_queue() {
    let queue = Mpmc::<u8, 2>::new();
    assert_eq!(queue.sender().unwrap_err(), QueueError::NotAttached);
    assert_eq!(queue.receiver().unwrap_err(), QueueError::NotAttached);
    assert!(Spsc::<u8, 2>::default().is_empty());
}

#[test]
fn read_only_there_is_nothing_to_be_had() {
    let name = TestName::new("read-only");
    let owner = Builder::new(&name).with_size(4096).create().unwrap();
    let queue = unsafe { owner.boxed::<Mpmc<u8, 4>>() };
    queue.sender().unwrap().push(1).unwrap();
    let reader =
        unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<Mpmc<u8, 4>>() }.unwrap();
    assert_eq!(reader.sender().unwrap_err(), QueueError::ReadOnly);
    assert_eq!(reader.receiver().unwrap_err(), QueueError::ReadOnly);
    assert_eq!(queue.receiver().unwrap().try_pop(), Ok(1));
}

#[test]
fn a_queue_that_is_too_large_is_refused() {
    let (_conf, arena) = arena();
    let error = arena.alloc_zeroed::<Mpmc<[u8; 65_536], 16>>().unwrap_err();
    assert!(matches!(error, AllocError::OutOfMemory { .. }), "{error:?}");
    let error = arena.find_or_alloc_zeroed::<Spsc<u64, { 1 << 20 }>>("large").unwrap_err();
    assert!(matches!(error, DirectoryError::Alloc(AllocError::OutOfMemory { .. })), "{error:?}");
    arena.find_or_alloc_zeroed::<Spsc<u64, 8>>("small").unwrap();
    let error = arena.find::<Spsc<u64, 16>>("small").unwrap_err();
    assert!(matches!(error, DirectoryError::Mismatch(_)), "{error:?}");
    assert!(arena.find::<Mpmc<u64, 8>>("small").is_err(), "one is no other");
}

/// Memory that was used before is zeros too.
#[test]
fn zeros_are_zeros_wherever_they_are() {
    let (_conf, arena) = arena();
    drop(arena.alloc([0xff_u8; 4096]).unwrap());
    assert!(arena.alloc_zeroed::<[u8; 4096]>().unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_forked_child_gets_nothing_of_its_parents() {
    let mut child = common::Child::spawn("inherit", &[]);
    assert!(child.wait().success());
}

fn inherit(_parent: &mut Parent) {
    let name = TestName::new("inherit");
    let arena: Arena<Tlsf> = open(&name, 64 * 1024);
    let (many, single) = (
        arena.find_or_alloc_zeroed::<Mpmc<u32, 4>>("many").unwrap(),
        arena.find_or_alloc_zeroed::<Spsc<u32, 4>>("single").unwrap(),
    );
    let (mut sender, mut receiver) = (single.sender().unwrap(), many.receiver().unwrap());
    many.sender().unwrap().push_slice(&[1, 2]).unwrap();
    sender.push(1).unwrap();
    let element = receiver.peek().unwrap();
    let slot = sender.reserve().unwrap();
    let (parts, queues) = (std::cell::Cell::new(Some((slot, element))), (&many, &single));
    Forked::spawn(|| {
        let (slot, element) = parts.take().unwrap();
        assert_eq!(slot.write(5).unwrap_err().error, QueueError::NotAttached);
        assert_eq!(element.take(), Err(QueueError::NotAttached));
        assert_eq!(queues.0.sender().unwrap_err(), QueueError::NotAttached);
        assert_eq!(queues.1.sender().unwrap_err(), QueueError::NotAttached);
    })
    .finish();
    // The parent's are as they were.
    let (slot, element) = parts.take().unwrap();
    assert_eq!(*element, 1);
    slot.write(2).unwrap();
    drop(parts);
    assert_eq!(single.receiver().unwrap().drain(9).unwrap().collect::<Vec<_>>(), [1, 2]);
}

/// One that is killed in its role is followed by another one, who goes on where it was.
#[test]
fn the_dead_have_no_role() {
    let mut child = common::Child::spawn("succeed", &[]);
    assert!(child.wait().success());
}

fn succeed(_parent: &mut Parent) {
    let name = TestName::new("succeed");
    let find = || {
        let arena: Arena<Tlsf> = open(&name, 64 * 1024);
        arena.find_or_alloc_zeroed::<Spsc<u32, 4>>("queue").unwrap()
    };
    let queue = find();
    let dies = |work: fn(&Spsc<u32, 4>)| {
        let victim = Forked::spawn(|| {
            let queue = find();
            work(&queue);
            raise(Signal::SIGKILL).unwrap();
        });
        assert_eq!(victim.death(), WaitStatus::Signaled(victim.pid(), Signal::SIGKILL, false));
        victim
    };
    let _sender = dies(|queue| {
        let mut sender = queue.sender().unwrap();
        sender.push_slice(&[1, 2]).unwrap();
        let mut slot = sender.reserve().unwrap();
        slot.uninit().write(100);
        forget(slot);
        forget(sender);
    });
    let _receiver = dies(|queue| {
        let mut receiver = queue.receiver().unwrap();
        assert_eq!(receiver.pop(), Ok(1));
        let element = receiver.peek().unwrap();
        assert_eq!(*element, 2);
        forget(element);
        forget(receiver);
    });
    // What was not committed was not sent; what was not released comes again.
    assert_eq!(queue.sender().unwrap().push_slice(&[3, 4, 5]), Ok(3));
    assert_eq!(queue.receiver().unwrap().drain(9).unwrap().collect::<Vec<_>>(), [2, 3, 4, 5]);
}

/// Word by word, a vandal writes whatever it likes. Others get elements or errors, and come to an end.
fn is_damaged_at_random<M: Mode>() {
    let (_conf, queue) = queue::<u64, 4, M>();
    let words = (size_of::<Queue<u64, 4, M>>() / 8) as u64;
    let base = (&raw const *queue).cast::<AtomicU64>();
    let mut random = Random::new(77);
    let (mut done, mut refused) = (0_u32, 0_u32);
    for round in 0..8_000 {
        // What is sensible, but in the wrong place, does more harm than what is not.
        let value = match random.below(4) {
            0 => random.next(),
            1 => random.below(4) << 33 | random.below(4) << 31,
            2 => random.below(16),
            _ => random.below(4) << 33 | random.below(4) << 31 | (random.below(60) << 24 | random.below(4)),
        };
        let word = unsafe { &*base.add(random.below(words) as usize) };
        word.store(value, SeqCst);
        let mut note = |result: Result<(), QueueError>| match result {
            Ok(()) => done += 1,
            Err(_) => refused += 1,
        };
        match queue.sender() {
            Ok(mut sender) => {
                note(sender.try_push(round).map_err(Into::into));
                note(sender.push_slice(&[1, 2, 3]).map(drop));
                note(sender.push_for(4, Duration::from_micros(1)).map_err(Into::into));
                note(sender.reserve().map(drop));
            }
            Err(error) => note(Err(error)),
        }
        match queue.receiver() {
            Ok(mut receiver) => {
                note(receiver.try_pop().map(drop));
                note(receiver.drain(9).map(|elements| assert!(elements.count() <= 4)));
                note(receiver.peek().map(drop));
                note(receiver.pop_for(Duration::from_micros(1)).map(drop));
            }
            Err(error) => note(Err(error)),
        }
        assert!(queue.len() <= 4);
        if random.below(20) == 0 {
            // Another queue takes its place.
            (0..words as usize).for_each(|index| unsafe { (*base.add(index)).store(0, SeqCst) });
            let mut sender = queue.sender().unwrap();
            sender.push_slice(&[1, 2, 3, 4, 5]).unwrap();
            drop(sender);
            assert_eq!(queue.receiver().unwrap().drain(9).unwrap().collect::<Vec<_>>(), [1, 2, 3, 4]);
        }
    }
    assert!(done > 300 && refused > 300, "{done} and {refused}");
}

#[test]
fn damage_is_an_error_at_worst() {
    is_damaged_at_random::<Many>();
    is_damaged_at_random::<Single>();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u8),
    PushSlice(u8),
    Pop,
    Drain(u8),
    Peek,
    GiveUp,
    /// The ends are given back, and taken anew.
    Renew,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Push),
        2 => (0..6_u8).prop_map(Step::PushSlice),
        4 => Just(Step::Pop),
        1 => (1..6_u8).prop_map(Step::Drain),
        1 => Just(Step::Peek),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Renew),
    ];
    prop::collection::vec(step, 0..200)
}

/// A queue as it is meant: elements, and places that were given up.
fn follows_its_shadow<M: Mode>(steps: &[Step], is_single: bool) {
    const N: usize = 4;
    let (_conf, queue) = queue::<u8, N, M>();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut shadow: VecDeque<Option<u8>> = VecDeque::new();
    // Receivers pass over what was given up when they look for an element.
    fn pass_over(shadow: &mut VecDeque<Option<u8>>) {
        while shadow.front() == Some(&None) {
            shadow.pop_front();
        }
    }
    for step in steps {
        match *step {
            Step::Push(value) if shadow.len() < N => {
                assert_eq!(sender.try_push(value), Ok(()));
                shadow.push_back(Some(value));
            }
            Step::Push(value) => assert_eq!(sender.try_push(value).unwrap_err().value, value),
            Step::PushSlice(len) => {
                let values: Vec<u8> = (0..len).collect();
                let room = N - shadow.len();
                let expected = values.len().min(room);
                match sender.push_slice(&values) {
                    Ok(count) => assert_eq!(count, expected),
                    Err(error) => assert_eq!((error, room), (QueueError::Full, 0)),
                }
                shadow.extend(values[..expected].iter().copied().map(Some));
            }
            Step::Pop | Step::Peek => {
                pass_over(&mut shadow);
                let expected = shadow.pop_front().flatten().ok_or(QueueError::Empty);
                let is_pop = matches!(step, Step::Pop);
                let found = if is_pop { receiver.try_pop() } else { receiver.peek().map(|element| *element) };
                assert_eq!(found, expected);
            }
            Step::Drain(most) => {
                pass_over(&mut shadow);
                let mut expected = Vec::new();
                while expected.len() < most.into() && shadow.front().is_some_and(Option::is_some) {
                    expected.extend(shadow.pop_front().flatten());
                }
                let found = receiver.drain(most.into()).map_or(Vec::new(), Iterator::collect);
                assert_eq!(found, expected);
            }
            Step::GiveUp if shadow.len() < N => {
                drop(sender.reserve().unwrap());
                if !is_single {
                    shadow.push_back(None);
                }
            }
            Step::GiveUp => assert_eq!(sender.reserve().unwrap_err(), QueueError::Full),
            Step::Renew => {
                drop((sender, receiver));
                (sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            }
        }
        assert_eq!(queue.len(), shadow.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn an_mpmc_follows_its_shadow(steps in steps()) {
        follows_its_shadow::<Many>(&steps, false);
    }

    #[test]
    fn an_spsc_follows_its_shadow(steps in steps()) {
        follows_its_shadow::<Single>(&steps, true);
    }
}

/// All that is sent by some threads comes to others, once, each sender's in order.
#[test]
fn threads_hand_each_other_elements() {
    const EACH: u64 = 5_000;
    let (_conf, queue) = queue::<u64, 16, Many>();
    thread::scope(|scope| {
        let senders = [0, 1].map(|id| {
            let queue = &queue;
            scope.spawn(move || {
                let mut sender = queue.sender().unwrap();
                (0..EACH).for_each(|number| sender.push_for(id << 32 | number, PATIENCE).unwrap());
            })
        });
        let receivers = [0, 1].map(|_| {
            scope.spawn(|| {
                let (mut receiver, mut last, mut count) = (queue.receiver().unwrap(), [None; 2], 0);
                while let Ok(element) = receiver.pop_for(PATIENCE) {
                    let id = (element >> 32) as usize;
                    assert!(last[id] < Some(element), "out of order");
                    last[id] = Some(element);
                    count += 1;
                }
                count
            })
        });
        for sender in senders {
            sender.join().unwrap();
        }
        queue.close();
        assert_eq!(receivers.map(|receiver| receiver.join().unwrap()).iter().sum::<u64>(), 2 * EACH);
    });
}
