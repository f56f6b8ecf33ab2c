//! Whether two processes allocate and free faster than one
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench processes [-- ROUNDS] [FILTER]`
//!
//! Two forked children have a heap in common, and 10,000 objects each. In a round the first one does steps of
//! [`churn`](shmem_bind_benches::heaps::churn) alone for 20 ms, then both at the same time; then two threads of a third
//! child, over a heap of their own. The figure is the time that one step takes, of all in sum: a half is twice the throughput.
//!
//! - This crate's bare allocators lie in a mapping, lock and all, and each process has a number, as an attachment would; so what
//!   is measured is the allocator, as everywhere beside the other ones. Two more comparisons are of **boxes**, with real
//!   attachments: each child attaches the arena of a memfd by itself.
//! - rlsf and talc are behind their spin lock, Boost behind its mutex: all in a mapping at the same address.
//! - Two processes with the `malloc` of glibc or with mimalloc have two heaps. That is no sharing, but shows what the machine
//!   can do.
//!
//! Each child checks in the end that all of its objects are as it has left them.

use shmem_bind::{Arena, Builder, OwnedFd, RegionAllocator, ShmemBox, Slab, Tlsf};
use shmem_bind_benches::heaps::{self, Run, Sizes, Who, churn};
use shmem_bind_benches::{Aligned, Child, Comparison, Line, Report, Shared, counts};
use std::cell::RefCell;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long they work in one round.
const SLICE: Duration = Duration::from_millis(20);
/// After how many steps the clock is looked at.
const BETWEEN_LOOKS: u32 = 64;
/// Objects of each process or thread.
const LIVE: usize = 10_000;
const SIZES: [Sizes; 2] = [Sizes::new(16..=512), Sizes::new(16..=64)];

const ONE: &str = "one process";
const TWO: &str = "two processes, in sum";
const THREADS: &str = "two threads, in sum";

fn main() {
    if counts::asked().is_some() {
        return;
    }
    let mut report = Report::new("processes", 51);
    heaps::announce_absent();
    if thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
        println!("there is one processor: two processes can not be faster than one");
    }
    for sizes in SIZES {
        for who in [Who::Glibc, Who::Mimalloc].into_iter().chain(Who::LOCKED) {
            bare(&mut report, who, sizes);
        }
    }
    boxes::<Slab>(&mut report, Who::Slab);
    boxes::<Tlsf>(&mut report, Who::Tlsf);
    report.finish();
}

/// Two processes that use one heap through `who`, and two threads.
fn bare(report: &mut Report, who: Who, sizes: Sizes) {
    let title = format!("free + alloc, 10,000 objects each of {sizes}: {}", who.name());
    if !report.wants(&title) {
        return;
    }
    let new = || who.heap(churn::room(2 * LIVE, sizes));
    let (Some(heap), Some(heap_of_threads)) = (new(), new()) else { return };
    let processes = Pair::processes(|number| {
        // Number 0 is the parent's.
        heap.any_for_process(u64::from(number) + 1).churn(LIVE, sizes, number)
    });
    let threads = Pair::threads(|number| {
        let heap = heap_of_threads.any_for_thread();
        move || heap.churn(LIVE, sizes, number)
    });
    let comparison = Comparison::new(title)
        .with_measured(ONE, || processes.round(1))
        .with_measured(TWO, || processes.round(2))
        .with_measured(THREADS, || threads.round(2));
    report.compare(with_goal(comparison, who));
}

/// Two processes that make and drop boxes of 64 bytes in one arena.
fn boxes<A: RegionAllocator>(report: &mut Report, who: Who) {
    let title = format!("drop + alloc of 10,000 boxes each of 64 bytes: {}", who.name());
    if !report.wants(&title) {
        return;
    }
    let (_owner, fd) = Builder::memfd().create(churn::room(2 * LIVE, Sizes::new(64..=64))).unwrap();
    let format: Arena<A> = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
    let processes = Pair::processes(|number| Box::new(Boxes::<A>::new(&fd, number)));
    let comparison = Comparison::new(title)
        .with_measured(ONE, || processes.round(1))
        .with_measured(TWO, || processes.round(2));
    report.compare(with_goal(comparison, who));
    drop(processes);
    let usage = format.usage().unwrap();
    assert_eq!(usage.blocks, 0, "the children have not freed their boxes");
}

fn with_goal(comparison: Comparison<'_>, who: Who) -> Comparison<'_> {
    match who {
        Who::Slab => comparison.goal(TWO, 1.0 / 1.8, &[ONE]),
        Who::Tlsf => comparison.goal(TWO, 1.0 / 0.8, &[ONE]),
        _ => comparison,
    }
}

/// Boxes that come and go.
struct Boxes<A: RegionAllocator> {
    objects: Vec<ShmemBox<[u64; 8]>>,
    arena: Arena<A>,
    random: fastrand::Rng,
    owner: u64,
}

impl<A: RegionAllocator> Boxes<A> {
    fn new(fd: &OwnedFd, number: u32) -> Self {
        let arena: Arena<A> = Builder::memfd().attach(fd).unwrap().arena().unwrap();
        let owner = u64::from(number) << 32;
        let objects = (0..LIVE).map(|index| arena.alloc([owner | index as u64; 8]).unwrap()).collect();
        Self { objects, arena, random: fastrand::Rng::with_seed(owner), owner }
    }
}

impl<A: RegionAllocator> Run for Boxes<A> {
    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            let index = self.random.usize(..self.objects.len());
            // Dropped, and then another one, as with the bare heaps.
            drop(self.objects.swap_remove(index));
            let value = [self.owner | self.objects.len() as u64; 8];
            self.objects.push(self.arena.alloc(value).unwrap());
        }
    }

    fn check(&self) {
        for object in &self.objects {
            assert!(
                object[0] >> 32 == self.owner >> 32 && object[7] == object[0],
                "another one has written here"
            );
        }
    }
}

/// What all take part in, a cache line for each matter.
#[repr(C)]
struct Board {
    /// How many are there.
    ready: Aligned<AtomicU32>,
    /// How many are to be.
    awaited: Aligned<AtomicU32>,
    /// Steps in a second of each, bits of an `f64`.
    rates: [Aligned<AtomicU64>; 2],
}

impl Board {
    fn new() -> Shared<Self> {
        // SAFETY: atomics, of which zeros are a value.
        unsafe { Shared::zeros() }
    }

    /// Begins with the others, and works for a while.
    fn take_part(&self, number: u32, run: &mut dyn Run) {
        self.ready.0.fetch_add(1, Ordering::SeqCst);
        while self.ready.0.load(Ordering::SeqCst) < self.awaited.0.load(Ordering::SeqCst) {
            spin_loop();
        }
        let start = Instant::now();
        let mut steps = 0_u32;
        let time = loop {
            run.run(BETWEEN_LOOKS);
            steps += BETWEEN_LOOKS;
            let time = start.elapsed();
            if time >= SLICE {
                break time;
            }
        };
        let rate = f64::from(steps) / time.as_secs_f64();
        self.rates[number as usize].0.store(rate.to_bits(), Ordering::SeqCst);
    }
}

/// Two that work, in one child or in two.
struct Pair {
    children: RefCell<Vec<Child>>,
    board: Shared<Board>,
}

impl Pair {
    fn processes(run: impl Fn(u32) -> Box<dyn Run>) -> Self {
        let board = Board::new();
        let child = |number| {
            let mut child = Child::spawn(|mut line: Line| {
                let mut run = run(number);
                line.send();
                while line.receive() {
                    board.take_part(number, &mut *run);
                    line.send();
                }
                run.check();
            });
            child.await_ready();
            child
        };
        Self { children: RefCell::new(vec![child(0), child(1)]), board }
    }

    /// `prepare` is called in the first thread; what it gives, in each of both.
    fn threads<F: FnOnce() -> Box<dyn Run> + Send>(prepare: impl Fn(u32) -> F) -> Self {
        let board = Board::new();
        let mut child = Child::spawn(|mut line: Line| {
            // One that panics would leave the other one waiting.
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                hook(panic);
                std::process::exit(1);
            }));
            let (barrier, is_over) = (Barrier::new(2), AtomicBool::new(false));
            let (first, second) = (prepare(0), prepare(1));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut run = second();
                    loop {
                        barrier.wait();
                        if is_over.load(Ordering::SeqCst) {
                            break run.check();
                        }
                        board.take_part(1, &mut *run);
                        barrier.wait();
                    }
                });
                let mut run = first();
                line.send();
                while line.receive() {
                    barrier.wait();
                    board.take_part(0, &mut *run);
                    barrier.wait();
                    line.send();
                }
                run.check();
                is_over.store(true, Ordering::SeqCst);
                barrier.wait();
            });
        });
        child.await_ready();
        Self { children: RefCell::new(vec![child]), board }
    }

    /// Nanoseconds for one step, of `workers` in sum.
    fn round(&self, workers: u32) -> f64 {
        self.board.ready.0.store(0, Ordering::SeqCst);
        self.board.awaited.0.store(workers, Ordering::SeqCst);
        let workers = workers as usize;
        let mut children = self.children.borrow_mut();
        children.iter_mut().take(workers).for_each(Child::send);
        children.iter_mut().take(workers).for_each(Child::await_ready);
        let rates = self.board.rates.iter().take(workers);
        1e9 / rates.map(|rate| f64::from_bits(rate.0.load(Ordering::SeqCst))).sum::<f64>()
    }
}
