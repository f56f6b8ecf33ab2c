//! How long a message takes to another process that waits for it awake
//!
//! `cargo bench --manifest-path benches/Cargo.toml --features iceoryx2 --bench messages [-- ROUNDS FILTER]`
//!
//! A number goes to a forked process, and comes back; the figure is half of that. Both ask again and again
//! whether there is one, so each of them needs a processor of its own.
//!
//! | contestant | what it does |
//! |---|---|
//! | a cache line | one atomic for each direction in a shared mapping; nothing is faster |
//! | shmem-bind | the same in an object of an arena, found by its name |
//! | iceoryx2 | publish and subscribe, a service for each direction: a sample is loaned, written, sent, and received |
//!
//! This crate is no channel: a number in an atomic is all of the message, and one overwrites the one before. iceoryx2
//! queues, and does so for any number of subscribers. Its library is large, so it takes part only by its feature.

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use shmem_bind::{Arena, Builder, OwnedFd, ShmemArc, Tlsf, shareable};
use shmem_bind_benches::{Aligned, Child, Comparison, Line, Report, Scratch, Shared, median};
use std::fs;
use std::hint::spin_loop;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Messages there and back in one round, in so many batches.
const PINGS: u64 = 2_000;
const BATCHES: u64 = 100;

/// One process's end.
trait End {
    fn send(&self, message: u64);
    /// A message, if there is one that has not been received yet.
    fn receive(&self) -> Option<u64>;

    fn await_message(&self) -> u64 {
        loop {
            if let Some(message) = self.receive() {
                return message;
            }
            spin_loop();
        }
    }
}

shareable! {
    /// The message sent last; the first one is 1. Alone on its cache lines.
    #[repr(C, align(128))]
    pub struct Last {
        pub number: AtomicU64,
    }
}

/// Of two atomics, one for each direction.
struct Lines<'a> {
    out: &'a AtomicU64,
    back: &'a AtomicU64,
    received: std::cell::Cell<u64>,
}

impl<'a> Lines<'a> {
    fn new(out: &'a AtomicU64, back: &'a AtomicU64) -> Self {
        Self { out, back, received: back.load(Ordering::Acquire).into() }
    }
}

impl End for Lines<'_> {
    #[inline]
    fn send(&self, message: u64) {
        self.out.store(message, Ordering::Release);
    }

    #[inline]
    fn receive(&self) -> Option<u64> {
        let message = self.back.load(Ordering::Acquire);
        (message != self.received.replace(message)).then_some(message)
    }
}

/// Of iceoryx2.
struct Services {
    publisher: Publisher<ipc::Service, u64, ()>,
    subscriber: Subscriber<ipc::Service, u64, ()>,
    // They end after what uses them.
    _node: Node<ipc::Service>,
}

impl Services {
    fn new(config: &Config, out: &str, back: &str) -> Self {
        let node = NodeBuilder::new()
            .config(config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()
            .unwrap();
        let service = |name: &str| {
            let name = name.try_into().unwrap();
            node.service_builder(&name).publish_subscribe::<u64>().open_or_create().unwrap()
        };
        let publisher = service(out).publisher_builder().create().unwrap();
        let subscriber = service(back).subscriber_builder().create().unwrap();
        Self { publisher, subscriber, _node: node }
    }
}

impl End for Services {
    #[inline]
    fn send(&self, message: u64) {
        let subscribers = self.publisher.loan_uninit().unwrap().write_payload(message).send().unwrap();
        assert_eq!(subscribers, 1);
    }

    #[inline]
    fn receive(&self) -> Option<u64> {
        self.subscriber.receive().unwrap().map(|sample| *sample)
    }
}

/// Where iceoryx2 keeps its files, until this is dropped: a folder, and names in `/dev/shm`.
struct Files {
    folder: PathBuf,
    scratch: Scratch,
}

impl Files {
    fn new() -> Self {
        let scratch = Scratch::new();
        Self { folder: std::env::temp_dir().join(scratch.name("iceoryx2")), scratch }
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.global.prefix = FileName::new(self.scratch.prefix().as_bytes()).unwrap();
        config.global.set_root_path(&Path::new(self.folder.to_str().unwrap().as_bytes()).unwrap());
        config
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // It may not have come so far.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What the forked process does: sends back what it gets.
fn echo(mut line: Line, end: &impl End) {
    // Its end is there.
    line.send();
    while line.receive() {
        (0..PINGS).for_each(|_| end.send(end.await_message()));
        line.send();
    }
}

/// Forks a process that [echoes](echo), and waits until it has its end.
fn spawn(work: impl FnOnce(Line)) -> Child {
    let mut child = Child::spawn(work);
    child.await_ready();
    child
}

/// Nanoseconds for one way: those of the batch in the middle, for in others one of both has lost its processor.
fn ping(child: &mut Child, end: &impl End, next: &mut u64) -> f64 {
    const IN_BATCH: u64 = PINGS / BATCHES;
    let mut batch = || {
        let start = Instant::now();
        for _ in 0..IN_BATCH {
            *next += 1;
            end.send(*next);
            assert_eq!(end.await_message(), *next);
        }
        start.elapsed().as_nanos() as f64 / (2 * IN_BATCH) as f64
    };
    child.send();
    let times = (0..BATCHES).map(|_| batch()).collect();
    child.await_ready();
    median(times)
}

fn find(fd: &OwnedFd) -> (Arena<Tlsf>, [ShmemArc<Last>; 2]) {
    let arena: Arena<Tlsf> = Builder::memfd().attach(fd).unwrap().arena().unwrap();
    let last = ["there", "back"]
        .map(|name| arena.find_or_alloc(name, || Last { number: AtomicU64::new(0) }).unwrap());
    (arena, last)
}

fn main() {
    let mut report = Report::new("messages", 51);
    let title = "a message to a process that waits awake";
    if !report.wants(title) {
        return;
    }
    set_log_level(LogLevel::Error);

    // All that is forked is forked before this process has an end of iceoryx2's.
    // SAFETY: atomics, of which zeros are a value.
    let bare = unsafe { Shared::<[Aligned<AtomicU64>; 2]>::zeros() };
    let mut bare_child = spawn(|line| echo(line, &Lines::new(&bare[1].0, &bare[0].0)));
    let bare = Lines::new(&bare[0].0, &bare[1].0);

    let (_segment, fd) = Builder::memfd().create(64 * 1024).unwrap();
    let mut our_child = spawn(|line| {
        let (_arena, [there, back]) = find(&fd);
        echo(line, &Lines::new(&back.number, &there.number));
    });
    let (_arena, [there, back]) = find(&fd);
    let ours = Lines::new(&there.number, &back.number);

    let files = Files::new();
    let mut their_child = spawn(|line| echo(line, &Services::new(&files.config(), "back", "there")));
    let theirs = Services::new(&files.config(), "there", "back");

    let mut next = [0; 3];
    let [next_bare, next_ours, next_theirs] = &mut next;
    report.compare(
        Comparison::new(title)
            .with_measured("a cache line", || ping(&mut bare_child, &bare, next_bare))
            .with_measured("shmem-bind", || ping(&mut our_child, &ours, next_ours))
            .with_measured("iceoryx2", || ping(&mut their_child, &theirs, next_theirs)),
    );
    // All have sent as many.
    assert_eq!(next, [report.rounds() as u64 * PINGS; 3]);
    report.finish();
}
