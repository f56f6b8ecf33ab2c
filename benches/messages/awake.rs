//! One way to a process that asks again and again

use super::queues::{self, Named, NumberReceiver, NumberSender};
use shmem_bind::ring::{Many, Single};
use shmem_bind_benches::{Aligned, Child, Comparison, Line, Report, Shared, median};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Messages there and back in one round, in so many batches.
const PINGS: u64 = 2_000;
const BATCHES: u64 = 100;

/// One process's end.
pub trait End {
    fn send(&mut self, message: u64);
    /// Waits for a message.
    fn receive(&mut self) -> u64;
}

/// Of two atomics, one for each direction.
struct Lines<'a> {
    out: &'a AtomicU64,
    back: &'a AtomicU64,
    received: u64,
}

impl<'a> Lines<'a> {
    fn new(out: &'a AtomicU64, back: &'a AtomicU64) -> Self {
        Self { out, back, received: back.load(Ordering::Acquire) }
    }
}

impl End for Lines<'_> {
    #[inline]
    fn send(&mut self, message: u64) {
        self.out.store(message, Ordering::Release);
    }

    #[inline]
    fn receive(&mut self) -> u64 {
        loop {
            let message = self.back.load(Ordering::Acquire);
            if message != self.received {
                self.received = message;
                return message;
            }
            spin_loop();
        }
    }
}

/// Of two queues.
struct Queues<'a, M: Named> {
    sender: NumberSender<'a, M>,
    receiver: NumberReceiver<'a, M>,
}

impl<M: Named> End for Queues<'_, M> {
    #[inline]
    fn send(&mut self, message: u64) {
        self.sender.try_push(message).unwrap();
    }

    #[inline]
    fn receive(&mut self) -> u64 {
        self.receiver.pop_spinning_for(Duration::MAX).unwrap()
    }
}

/// What the forked process does: sends back what it gets.
pub fn echo(mut line: Line, end: &mut impl End) {
    // Its end is there.
    line.send();
    while line.receive() {
        for _ in 0..PINGS {
            let message = end.receive();
            end.send(message);
        }
        line.send();
    }
}

/// Nanoseconds for one way: those of the batch in the middle, for in others one of both has lost its processor.
pub fn ping(child: &mut Child, end: &mut impl End, next: &mut u64) -> f64 {
    const IN_BATCH: u64 = PINGS / BATCHES;
    let mut batch = || {
        let start = Instant::now();
        for _ in 0..IN_BATCH {
            *next += 1;
            end.send(*next);
            assert_eq!(end.receive(), *next);
        }
        start.elapsed().as_nanos() as f64 / (2 * IN_BATCH) as f64
    };
    child.send();
    let times = (0..BATCHES).map(|_| batch()).collect();
    child.await_ready();
    median(times)
}

pub fn compare(report: &mut Report) {
    let title = "a message to a process that waits awake";
    if !report.wants(title) {
        return;
    }
    // All that is forked is forked before this process has an end of iceoryx2's.
    // SAFETY: atomics, of which zeros are a value.
    let bare = unsafe { Shared::<[Aligned<AtomicU64>; 2]>::zeros() };
    let mut bare_child = queues::spawn(|line| echo(line, &mut Lines::new(&bare[1].0, &bare[0].0)));
    let mut bare = Lines::new(&bare[0].0, &bare[1].0);

    let (_segment, fd) = queues::segment();
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

    #[cfg(feature = "iceoryx2")]
    let files = iceoryx2_end::Files::new();
    #[cfg(feature = "iceoryx2")]
    let mut their_child = queues::spawn(|line| {
        echo(line, &mut iceoryx2_end::Services::new(&files.config(), "back", "there"));
    });
    #[cfg(feature = "iceoryx2")]
    let mut theirs = iceoryx2_end::Services::new(&files.config(), "there", "back");

    let mut next = [0; 4];
    let [next_bare, next_single, next_many, _next_theirs] = &mut next;
    let comparison = Comparison::new(title)
        .with_measured("a cache line", || ping(&mut bare_child, &mut bare, next_bare))
        .with_measured("Spsc", || ping(&mut single_child, &mut single, next_single))
        .with_measured("Mpmc", || ping(&mut many_child, &mut many, next_many))
        .goal("Spsc", 1.5, &["a cache line"])
        .goal("Mpmc", 1.5, &["a cache line"]);
    #[cfg(feature = "iceoryx2")]
    let comparison = comparison
        .with_measured("iceoryx2", || ping(&mut their_child, &mut theirs, _next_theirs))
        .goal("Spsc", 0.2, &["iceoryx2"])
        .goal("Mpmc", 0.2, &["iceoryx2"]);
    report.compare(comparison);
}

#[cfg(feature = "iceoryx2")]
mod iceoryx2_end {
    //! Of iceoryx2.

    use super::End;
    use iceoryx2::port::publisher::Publisher;
    use iceoryx2::port::subscriber::Subscriber;
    use iceoryx2::prelude::*;
    use shmem_bind_benches::Scratch;
    use std::fs;
    use std::hint::spin_loop;
    use std::path::PathBuf;

    pub struct Services {
        publisher: Publisher<ipc::Service, u64, ()>,
        subscriber: Subscriber<ipc::Service, u64, ()>,
        // They end after what uses them.
        _node: Node<ipc::Service>,
    }

    impl Services {
        pub fn new(config: &Config, out: &str, back: &str) -> Self {
            set_log_level(LogLevel::Error);
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
        fn send(&mut self, message: u64) {
            let subscribers = self.publisher.loan_uninit().unwrap().write_payload(message).send().unwrap();
            assert_eq!(subscribers, 1);
        }

        #[inline]
        fn receive(&mut self) -> u64 {
            loop {
                if let Some(sample) = self.subscriber.receive().unwrap() {
                    return *sample;
                }
                spin_loop();
            }
        }
    }

    /// Where iceoryx2 keeps its files, until this is dropped: a folder, and names in `/dev/shm`.
    pub struct Files {
        folder: PathBuf,
        scratch: Scratch,
    }

    impl Files {
        pub fn new() -> Self {
            let scratch = Scratch::new();
            Self { folder: std::env::temp_dir().join(scratch.name("iceoryx2")), scratch }
        }

        pub fn config(&self) -> Config {
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
}
