//! What it takes to put an arena right when a process has died
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench recovery [-- ROUNDS FILTER]`
//!
//! - **Sweep**: a process attaches, allocates objects of 64 bytes, and is killed. The figure is the time that
//!   `Arena::sweep` then takes in another one, beside which it may have objects of its own. All of it: to find out that somebody has
//!   died, to look at every block, to free, and to fault in the pages that the survivor has not seen yet.
//! - **Rebuild**: a process is killed while it allocates or frees, with the lock of a `Tlsf` heap in its hands. The
//!   figure is the time of the next allocation of another process, which takes the lock over and rebuilds all that
//!   follows from the chain of blocks: a million of them, of which every other one is free.
//!
//! The victims are forked, and each round has its own. One round takes a few seconds.

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use shmem_bind::{Arena, Builder, Bump, RegionAllocator, ShmemBox, Slab, Tlsf};
use shmem_bind_benches::{Comparison, Report, Scratch};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

type Object = [u8; 64];

/// What an object may take at most, with all that an allocator adds.
const SHARE: usize = 128;
/// What any arena here takes besides.
const BASE: usize = 1 << 20;

const DEAD: [usize; 3] = [10, 1_000, 100_000];
const LIVING: [usize; 2] = [0, 100_000];

const BLOCKS: usize = 1_000_000;
/// Where in a segment the lock of the heap is; zero: nobody has it.
const LOCK_OFFSET: u64 = 128;

/// A forked process. Killed and reaped when it is dropped.
struct Victim(Pid);

impl Victim {
    /// Forks one that does `work`, and then stops.
    fn spawn(work: impl FnOnce()) -> Self {
        // SAFETY: there is one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self(child),
            ForkResult::Child => {
                let work = || {
                    prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                    work();
                    raise(Signal::SIGSTOP).unwrap();
                };
                let is_done = catch_unwind(AssertUnwindSafe(work)).is_ok();
                // Nothing of the parent's is to be dropped here.
                // SAFETY: it only ends the process.
                unsafe { nix::libc::_exit(if is_done { 0 } else { 101 }) }
            }
        }
    }

    fn await_stop(&self) {
        let status = waitpid(self.0, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(status, WaitStatus::Stopped(self.0, Signal::SIGSTOP));
    }

    fn stop(&self) {
        kill(self.0, Signal::SIGSTOP).unwrap();
        self.await_stop();
    }

    fn go_on(&self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended by itself, and been reaped, if something has gone wrong.
        if kill(self.0, Signal::SIGKILL).is_ok() {
            let _: Result<WaitStatus, _> = waitpid(self.0, None);
        }
    }
}

fn create<A: RegionAllocator>(name: &str, objects: usize) -> Arena<A> {
    Builder::new(name).with_size(BASE + objects * SHARE).create().unwrap().arena().unwrap()
}

fn attach<A: RegionAllocator>(name: &str) -> Arena<A> {
    Builder::new(name).attach().unwrap().arena().unwrap()
}

fn fill<A: RegionAllocator>(arena: &Arena<A>, objects: usize) -> Vec<ShmemBox<Object>> {
    (0..objects).map(|_| arena.alloc([1; 64]).unwrap()).collect()
}

/// How long it takes to sweep one that died with `dead` objects.
fn sweep<A: RegionAllocator>(name: &str, dead: usize, living: usize) -> Duration {
    let arena = create::<A>(name, dead + living);
    let _living = fill(&arena, living);
    let victim = Victim::spawn(|| {
        let arena = attach::<A>(name);
        std::mem::forget(fill(&arena, dead));
        std::mem::forget(arena);
    });
    victim.await_stop();
    drop(victim);
    let start = Instant::now();
    let reclaimed = arena.sweep().unwrap();
    let time = start.elapsed();
    assert_eq!(reclaimed.objects, dead as u64);
    time
}

/// Adds the sweeps of arenas with this allocator.
fn with_sweeps<'a, A: RegionAllocator>(
    comparison: Comparison<'a>,
    label: &str,
    name: &'a str,
    living: usize,
) -> Comparison<'a> {
    DEAD.into_iter().fold(comparison, |comparison, dead| {
        comparison.with_measured(format!("{label}, {dead} objects"), move || {
            sweep::<A>(name, dead, living).as_nanos() as f64
        })
    })
}

/// An arena of so many blocks, of which every other one is in use.
fn full_of_holes(name: &str) -> (Arena<Tlsf>, Vec<ShmemBox<Object>>) {
    let arena = create::<Tlsf>(name, BLOCKS);
    let objects = fill(&arena, BLOCKS).into_iter().step_by(2).collect();
    let usage = arena.usage().unwrap();
    assert!(usage.blocks + usage.free_blocks >= BLOCKS as u64, "{usage:?}");
    (arena, objects)
}

/// How long the next allocation takes after somebody has died with the lock.
fn rebuild(name: &str, arena: &Arena<Tlsf>) -> Duration {
    let victim = Victim::spawn(|| {
        let arena = attach::<Tlsf>(name);
        loop {
            arena.alloc([2_u8; 64]).unwrap();
        }
    });
    let header = File::open(format!("/dev/shm/{name}")).unwrap();
    loop {
        std::thread::sleep(Duration::from_millis(1));
        victim.stop();
        // Nobody else uses the heap: if the lock is taken, the victim has it.
        if lock_word(&header).unwrap() != 0 {
            break;
        }
        victim.go_on();
    }
    drop(victim);
    assert_ne!(lock_word(&header).unwrap(), 0);
    let start = Instant::now();
    let object = arena.alloc([3_u8; 64]).unwrap();
    let time = start.elapsed();
    assert_eq!(lock_word(&header).unwrap(), 0);
    drop(object);
    arena.sweep().unwrap();
    time
}

fn lock_word(header: &File) -> io::Result<u32> {
    let mut word = [0; 4];
    header.read_exact_at(&mut word, LOCK_OFFSET)?;
    Ok(u32::from_ne_bytes(word))
}

fn main() {
    let mut report = Report::new("recovery", 21);
    let scratch = Scratch::new();
    let name = scratch.name("recovery");

    for living in LIVING {
        let comparison =
            Comparison::new(format!("sweep of one that died, beside {living} objects of the living"));
        let comparison = with_sweeps::<Tlsf>(comparison, "Tlsf", &name, living);
        let comparison = with_sweeps::<Slab>(comparison, "Slab", &name, living);
        report.compare(with_sweeps::<Bump>(comparison, "Bump", &name, living));
    }

    let title = format!("rebuild of {BLOCKS} blocks, half of them free, after a death with the lock");
    if report.wants(&title) {
        let (arena, _objects) = full_of_holes(&name);
        let rebuild = || rebuild(&name, &arena).as_nanos() as f64;
        report.compare(Comparison::new(title).with_measured("Tlsf", rebuild));
        arena.check().unwrap();
    }
    report.finish();
}
