//! What a lock costs: alone, and with another process that wants it too
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench mutex [-- ROUNDS FILTER]`
//!
//! - **Uncontended**: lock, add one, unlock, in one thread. Beside the robust mutex of POSIX, which processes share too, and
//!   two that are neither shared nor robust, of std and of parking_lot.
//! - **Contended by two processes**: a forked one hammers the same lock for 20 ms. The figure is the time that one
//!   lock and unlock takes of both in sum; what is protected is a number to which each adds one. With
//!   nothing else to do; and with about 200 ns of work under the lock and as much without it. Beside it, how
//!   fair a lock is: which share of all the slower process had, the median over the rounds; a half is fair.
//!
//! Both robust mutexes lie in shared mappings. `pthread_mutex_lock` gives back `EOWNERDEAD` and is checked for that, as
//! `lock` is for `Orphaned`.

use shmem_bind::sync::Mutex;
use shmem_bind::{Arena, Builder, ShmemArc, ShmemConf, Tlsf};
use shmem_bind_benches::{Aligned, Child, Comparison, Line, Report, Shared, median};
use std::cell::{RefCell, UnsafeCell};
use std::hint::{black_box, spin_loop};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const POSIX: &str = "pthread, robust and shared";
const OURS: &str = "shmem-bind";

/// How long two processes fight in one round.
const FIGHT: Duration = Duration::from_millis(20);
/// After how many locks the clock is looked at.
const BETWEEN_LOOKS: u32 = 32;
/// Steps of work that take about 200 ns; the report says what they take here.
const WORK: u32 = 170;

/// A number that a lock protects.
trait Counter {
    /// Locks, adds one, does so much work, unlocks.
    fn add_one(&self, work: u32);
    fn number(&self) -> u64;
}

/// A chain of steps, each of which needs the one before: three cycles for the product and one for the turn.
#[inline]
fn do_work(work: u32) {
    let mut number = black_box(1_u64);
    for _ in 0..work {
        number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(9);
    }
    black_box(number);
}

/// A robust, process-shared mutex of POSIX and a number.
struct Posix {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<u64>,
}

impl Posix {
    /// In place.
    fn init(&self) {
        // SAFETY: zeros are a place for attributes.
        let mut attributes: libc::pthread_mutexattr_t = unsafe { mem::zeroed() };
        // SAFETY: a place of its own.
        assert_eq!(unsafe { libc::pthread_mutexattr_init(&raw mut attributes) }, 0);
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: initialised above.
        assert_eq!(unsafe { libc::pthread_mutexattr_setpshared(&raw mut attributes, shared) }, 0);
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutexattr_setrobust(&raw mut attributes, robust) }, 0);
        // SAFETY: a place that does not move, and attributes that are initialised.
        assert_eq!(unsafe { libc::pthread_mutex_init(self.mutex.get(), &raw const attributes) }, 0);
    }
}

impl Counter for Posix {
    #[inline]
    fn add_one(&self, work: u32) {
        // SAFETY: initialised, and it has not moved.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.mutex.get()) }, 0);
        // SAFETY: under the lock.
        unsafe { *self.value.get() += 1 };
        do_work(work);
        // SAFETY: locked above.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.mutex.get()) }, 0);
    }

    fn number(&self) -> u64 {
        // SAFETY: the other process sleeps.
        unsafe { *self.value.get() }
    }
}

impl Counter for Mutex<u64> {
    #[inline]
    fn add_one(&self, work: u32) {
        let mut guard = self.lock().unwrap();
        *guard += 1;
        do_work(work);
    }

    fn number(&self) -> u64 {
        *self.lock().unwrap()
    }
}

fn mapped_posix() -> Shared<Posix> {
    // SAFETY: both are bytes of which zeros are a value, and used under the mutex.
    let posix = unsafe { Shared::<Posix>::zeros() };
    posix.init();
    posix
}

fn memory() -> Arena<Tlsf> {
    Builder::memfd().create(64 * 1024).unwrap().0.arena().unwrap()
}

fn uncontended(report: &mut Report) {
    let first = memory();
    let in_first = first.alloc(Mutex::new(0_u64)).unwrap();
    // Seven attachments are in the first page of a process's records, and these are behind them.
    let other = |_| -> ShmemConf { Builder::memfd().create(1).unwrap().0 };
    let _others: Vec<_> = (0..10).map(other).collect();
    let twelfth = memory();
    let in_twelfth = twelfth.alloc(Mutex::new(0_u64)).unwrap();
    let (posix, of_std) = (mapped_posix(), Box::new(std::sync::Mutex::new(0_u64)));
    let of_parking_lot = Box::new(parking_lot::Mutex::new(0_u64));

    report.compare(
        Comparison::new("lock, add one, unlock, uncontended")
            .with(POSIX, || black_box(&*posix).add_one(0))
            .with("std::sync::Mutex", || *black_box(&of_std).lock().unwrap() += 1)
            .with("parking_lot::Mutex", || *black_box(&of_parking_lot).lock() += 1)
            .with(OURS, || black_box(&*in_first).add_one(0))
            .with("shmem-bind, the twelfth segment", || black_box(&*in_twelfth).add_one(0))
            .goal(OURS, 1.0, &[POSIX])
            .counted(),
    );
}

/// What two processes tell each other while they fight, a cache line each.
#[repr(C)]
struct Ring {
    ready: Aligned<AtomicU32>,
    is_over: Aligned<AtomicBool>,
    /// How often the child had the lock.
    childs: Aligned<AtomicU64>,
}

impl Ring {
    /// Locks and unlocks until the time is over; gives how often, and how long.
    fn fight(&self, counter: &impl Counter, work: u32) -> (u64, Duration) {
        // Both begin at once.
        self.ready.0.fetch_add(1, Ordering::SeqCst);
        while self.ready.0.load(Ordering::SeqCst) < 2 {
            spin_loop();
        }
        let start = Instant::now();
        let mut number = 0;
        while !self.is_over.0.load(Ordering::Relaxed) {
            for _ in 0..BETWEEN_LOOKS {
                counter.add_one(work);
                do_work(work);
                number += 1;
                if self.is_over.0.load(Ordering::Relaxed) {
                    break;
                }
            }
            if start.elapsed() >= FIGHT {
                self.is_over.0.store(true, Ordering::Relaxed);
            }
        }
        (number, start.elapsed())
    }
}

/// Two processes and a lock.
struct Fight<'a, C: Counter> {
    ring: Shared<Ring>,
    child: Child,
    counter: &'a C,
    work: u32,
    /// Of the slower process, in each round.
    shares: RefCell<Vec<f64>>,
}

impl<'a, C: Counter> Fight<'a, C> {
    /// The child has the lock by `with_counter`, which calls what it is given.
    fn new(counter: &'a C, work: u32, with_counter: impl FnOnce(&mut dyn FnMut(&C))) -> Self {
        // SAFETY: atomics, of which zeros are a value.
        let ring = unsafe { Shared::<Ring>::zeros() };
        let child = Child::spawn(|mut line: Line| {
            with_counter(&mut |counter| {
                while line.receive() {
                    let (number, _) = ring.fight(counter, work);
                    ring.childs.0.store(number, Ordering::Relaxed);
                    line.send();
                }
            });
        });
        Self { ring, child, counter, work, shares: RefCell::default() }
    }

    /// Nanoseconds for one lock and unlock, of both in sum.
    fn round(&mut self) -> f64 {
        self.ring.ready.0.store(0, Ordering::SeqCst);
        self.ring.is_over.0.store(false, Ordering::SeqCst);
        let before = self.counter.number();
        self.child.send();
        let (mine, time) = self.ring.fight(self.counter, self.work);
        self.child.await_ready();
        let childs = self.ring.childs.0.load(Ordering::Relaxed);
        assert_eq!(self.counter.number() - before, mine + childs, "not all was done under the lock");
        let all = (mine + childs) as f64;
        self.shares.borrow_mut().push(mine.min(childs) as f64 / all);
        time.as_nanos() as f64 / all
    }

    fn share(&self) -> f64 {
        median(self.shares.take())
    }
}

fn contended(report: &mut Report, title: &str, work: u32) {
    if !report.wants(title) || shmem_bind_benches::counts::asked().is_some() {
        return;
    }
    let posix = mapped_posix();
    let (conf, fd) = Builder::memfd().create(64 * 1024).unwrap();
    let arena: Arena<Tlsf> = conf.arena().unwrap();
    let find = |arena: &Arena<Tlsf>| -> ShmemArc<Mutex<u64>> {
        arena.find_or_alloc("counter", || Mutex::new(0)).unwrap()
    };
    let ours = find(&arena);

    let mut with_posix = Fight::new(&*posix, work, |fight| fight(&posix));
    let mut with_ours = Fight::new(&*ours, work, |fight| {
        // Of what its parent has attached, a child has nothing.
        let arena = Builder::memfd().attach(&fd).unwrap().arena().unwrap();
        fight(&find(&arena));
    });
    let outcome = report.compare(
        Comparison::new(title)
            .with_measured(POSIX, || with_posix.round())
            .with_measured(OURS, || with_ours.round())
            .goal(OURS, 1.0, &[POSIX]),
    );
    if outcome.is_some() {
        let start = Instant::now();
        (0..1000).for_each(|_| do_work(black_box(work)));
        println!("  work under the lock, and as much without: {} ns", start.elapsed().as_nanos() / 1000);
        println!(
            "  share of the slower process: {POSIX} {:.2}, {OURS} {:.2}",
            with_posix.share(),
            with_ours.share()
        );
    }
}

fn main() {
    let mut report = Report::new("mutex", 101);
    uncontended(&mut report);
    contended(&mut report, "lock, add one, unlock, by two processes", 0);
    contended(&mut report, "lock, 200 ns of work, unlock, 200 ns of work, by two processes", WORK);
    report.finish();
}
