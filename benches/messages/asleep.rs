//! One way to a process that sleeps until there is a message

use super::awake::{End, echo, ping};
use super::queues::{self, Named, NumberReceiver, NumberSender};
use rustix::thread::futex::{self, Flags, Timespec};
use shmem_bind::ring::{Many, Single};
use shmem_bind::sync::Event;
use shmem_bind::{Arena, Builder, FromZeros, Tlsf, shareable};
use shmem_bind_benches::{Aligned, Comparison, Report, Shared};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Of two words, one for each direction.
struct Words<'a> {
    out: &'a AtomicU32,
    back: &'a AtomicU32,
    received: u32,
    /// How long a sleep lasts at most.
    timeout: Option<Timespec>,
}

impl End for Words<'_> {
    fn send(&mut self, message: u64) {
        self.out.store(message as u32, Ordering::SeqCst);
        futex::wake(self.out, Flags::empty(), 1).unwrap();
    }

    fn receive(&mut self) -> u64 {
        loop {
            let message = self.back.load(Ordering::SeqCst);
            if message != self.received {
                self.received = message;
                return message.into();
            }
            // Whatever ends it, the word is looked at again.
            let _ = futex::wait(self.back, Flags::empty(), message, self.timeout.as_ref());
        }
    }
}

shareable! {
    /// A number, and an event that tells of it.
    #[repr(C)]
    struct Told {
        number: AtomicU64,
        changed: Event,
    }
}

// SAFETY: zeros are a number, and an event that never happened.
unsafe impl FromZeros for Told {}

/// Of two such.
struct Events<'a> {
    out: &'a Told,
    back: &'a Told,
    received: u64,
}

impl End for Events<'_> {
    fn send(&mut self, message: u64) {
        self.out.number.store(message, Ordering::SeqCst);
        self.out.changed.notify_one();
    }

    fn receive(&mut self) -> u64 {
        let is_new =
            || Some(self.back.number.load(Ordering::SeqCst)).filter(|number| *number != self.received);
        let message = self.back.changed.wait_until(Duration::MAX, is_new).unwrap().unwrap();
        self.received = message;
        message
    }
}

/// Of two queues.
struct Queues<'a, M: Named> {
    sender: NumberSender<'a, M>,
    receiver: NumberReceiver<'a, M>,
}

impl<M: Named> End for Queues<'_, M> {
    fn send(&mut self, message: u64) {
        self.sender.push(message).unwrap();
    }

    fn receive(&mut self) -> u64 {
        self.receiver.pop().unwrap()
    }
}

pub fn compare(report: &mut Report) {
    let title = "a message to a process that sleeps";
    if !report.wants(title) {
        return;
    }
    // SAFETY: atomics, of which zeros are a value.
    let bare = unsafe { Shared::<[Aligned<AtomicU32>; 4]>::zeros() };
    let quarter = Some(Timespec { tv_sec: 0, tv_nsec: 250_000_000 });
    let words = |out: usize, back: usize, timeout| Words {
        out: &bare[out].0,
        back: &bare[back].0,
        received: 0,
        timeout,
    };
    let mut bare_child = queues::spawn(|line| echo(line, &mut words(1, 0, None)));
    let mut bare_words = words(0, 1, None);
    let mut timed_child = queues::spawn(|line| echo(line, &mut words(3, 2, quarter)));
    let mut timed_words = words(2, 3, quarter);
    let (_segment, fd) = queues::segment();
    let told = || {
        let arena: Arena<Tlsf> = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
        let [out, back] = ["out", "back"].map(|name| arena.find_or_alloc_zeroed::<Told>(name).unwrap());
        (arena, out, back)
    };
    let mut told_child = queues::spawn(|line| {
        let (_arena, back, out) = told();
        echo(line, &mut Events { out: &out, back: &back, received: 0 });
    });
    let (_told, out, back) = told();
    let mut events = Events { out: &out, back: &back, received: 0 };
    let mut single_child = queues::spawn(|line| {
        let (_arena, [there, back]) = queues::find::<Single>(&fd);
        let (sender, receiver) = (back.sender().unwrap(), there.receiver().unwrap());
        echo(line, &mut Queues { sender, receiver });
    });
    let mut many_child = queues::spawn(|line| {
        let (_arena, [there, back]) = queues::find::<Many>(&fd);
        let (sender, receiver) = (back.sender().unwrap(), there.receiver().unwrap());
        echo(line, &mut Queues { sender, receiver });
    });
    let (_single, [there, back]) = queues::find::<Single>(&fd);
    let mut single = Queues { sender: there.sender().unwrap(), receiver: back.receiver().unwrap() };
    let (_many, [there, back]) = queues::find::<Many>(&fd);
    let mut many = Queues { sender: there.sender().unwrap(), receiver: back.receiver().unwrap() };
    let mut next = [0; 5];
    let [next_bare, next_timed, next_told, next_single, next_many] = &mut next;
    report.compare(
        Comparison::new(title)
            .with_measured("a futex", || ping(&mut bare_child, &mut bare_words, next_bare))
            .with_measured("a futex, with a time-out", || {
                ping(&mut timed_child, &mut timed_words, next_timed)
            })
            .with_measured("an Event, and a word", || ping(&mut told_child, &mut events, next_told))
            .with_measured("Spsc", || ping(&mut single_child, &mut single, next_single))
            .with_measured("Mpmc", || ping(&mut many_child, &mut many, next_many))
            .goal("Spsc", 1.1, &["a futex"])
            .goal("Mpmc", 1.1, &["a futex"]),
    );
}
