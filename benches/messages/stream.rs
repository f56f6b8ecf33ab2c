//! How many numbers come through

use super::queues::{self, CAPACITY, Named, NumberReceiver, NumberSender};
use crossbeam_queue::ArrayQueue;
use shmem_bind::OwnedFd;
use shmem_bind::ring::{Many, QueueError, Single};
use shmem_bind_benches::{Child, Comparison, Report};
use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

/// Numbers in one round.
const NUMBERS: u64 = 200_000;
const BATCH: usize = 32;

fn send<M: Named>(sender: &mut NumberSender<'_, M>, batch: usize) {
    if batch == 1 {
        (0..NUMBERS).for_each(|number| sender.push_spinning_for(number, Duration::MAX).unwrap());
        return;
    }
    let mut sent = 0;
    while sent < NUMBERS {
        let numbers: [u64; BATCH] = std::array::from_fn(|index| sent + index as u64);
        let len = (NUMBERS - sent).min(BATCH as u64) as usize;
        match sender.push_slice(&numbers[..len]) {
            Ok(count) => sent += count as u64,
            Err(QueueError::Full) => spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn receive<M: Named>(receiver: &mut NumberReceiver<'_, M>, batch: usize) {
    if batch == 1 {
        (0..NUMBERS).for_each(|number| {
            assert_eq!(receiver.pop_spinning_for(Duration::MAX), Ok(number));
        });
        return;
    }
    let mut received = 0;
    while received < NUMBERS {
        match receiver.drain(BATCH) {
            Ok(numbers) => numbers.for_each(|number| {
                assert_eq!(number, received);
                received += 1;
            }),
            Err(QueueError::Empty) => spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A process that sends so many whenever it is told.
fn source<M: Named>(fd: &OwnedFd, batch: usize) -> Child {
    queues::spawn(|mut line| {
        let (_arena, [there, _]) = queues::find::<M>(fd);
        line.send();
        while line.receive() {
            // Others have the role in between.
            let mut sender = there.sender().unwrap();
            send(&mut sender, batch);
            drop(sender);
            line.send();
        }
    })
}

fn sink<M: Named>(child: &mut Child, receiver: &mut NumberReceiver<'_, M>, batch: usize) -> f64 {
    child.send();
    let start = Instant::now();
    receive(receiver, batch);
    let time = start.elapsed().as_nanos() as f64 / NUMBERS as f64;
    child.await_ready();
    time
}

/// Two threads of this process.
fn threads(send: impl FnOnce() + Send, receive: impl FnOnce()) -> f64 {
    thread::scope(|scope| {
        scope.spawn(send);
        let start = Instant::now();
        receive();
        start.elapsed().as_nanos() as f64 / NUMBERS as f64
    })
}

fn crossbeam() -> f64 {
    let queue = ArrayQueue::new(CAPACITY);
    let send = || {
        for number in 0..NUMBERS {
            while queue.push(number).is_err() {
                spin_loop();
            }
        }
    };
    threads(send, || {
        for number in 0..NUMBERS {
            let received = loop {
                match queue.pop() {
                    Some(number) => break number,
                    None => spin_loop(),
                }
            };
            assert_eq!(received, number);
        }
    })
}

fn rtrb() -> f64 {
    let (mut producer, mut consumer) = rtrb::RingBuffer::new(CAPACITY);
    let send = move || {
        for number in 0..NUMBERS {
            while producer.push(number).is_err() {
                spin_loop();
            }
        }
    };
    threads(send, move || {
        for number in 0..NUMBERS {
            let received = loop {
                match consumer.pop() {
                    Ok(number) => break number,
                    Err(_) => spin_loop(),
                }
            };
            assert_eq!(received, number);
        }
    })
}

pub fn compare(report: &mut Report) {
    let title = "a number of many, by two processes";
    if !report.wants(title) {
        return;
    }
    let (_segment, fd) = queues::segment();
    let mut singles = [1, BATCH].map(|batch| source::<Single>(&fd, batch));
    let mut manies = [1, BATCH].map(|batch| source::<Many>(&fd, batch));
    let (_single, [there, _]) = queues::find::<Single>(&fd);
    let single = std::cell::RefCell::new(there.receiver().unwrap());
    let (_many, [many, _]) = queues::find::<Many>(&fd);
    let many = std::cell::RefCell::new(many.receiver().unwrap());
    let [single_one, single_batch] = &mut singles;
    let [many_one, many_batch] = &mut manies;
    report.compare(
        Comparison::new(title)
            .with_measured("rtrb, by threads", rtrb)
            .with_measured("crossbeam, by threads", crossbeam)
            .with_measured("Spsc", || sink(single_one, &mut single.borrow_mut(), 1))
            .with_measured("Spsc, 32 at once", || sink(single_batch, &mut single.borrow_mut(), BATCH))
            .with_measured("Mpmc", || sink(many_one, &mut many.borrow_mut(), 1))
            .with_measured("Mpmc, 32 at once", || sink(many_batch, &mut many.borrow_mut(), BATCH)),
    );
}
