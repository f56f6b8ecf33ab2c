//! A daemon keeps several objects in one segment; its clients find them by their names.
//!
//! ```text
//! cargo run --example arena-daemon             # the daemon, a client that counts, an observer that only reads
//! cargo run --example arena-daemon -- --crash  # the same, with a client that is killed in the middle
//! ```
//! The program starts itself in each of these roles, so that everything is in one file. Daemon and clients open the segment in
//! the same way, so they may start in any order; what they agree on are the names of the objects and their types. Nothing here
//! is `unsafe` but for the observer, who may not write and therefore cannot hold what it looks at.
//!
//! Read next: `work-queue`, for what several processes change together.

use shmem_bind::{self as shmem, Arena, ShmemArc, ShmemBox, ShmemError, Tlsf, shareable};
use std::env;
use std::error::Error;
use std::mem::offset_of;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

shareable! {
    /// What the daemon was told at its start; it never changes.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    struct Config {
        limit: u32,
        interval_ms: u32,
    }
}

shareable! {
    /// What the clients count, each line for itself.
    #[derive(Debug, Default)]
    #[repr(C)]
    struct Counters {
        requests: AtomicU64,
        errors: AtomicU64,
    }
}

/// How long a client waits for the daemon to publish: they may start in any order.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => daemon(false),
        ["--crash"] => daemon(true),
        ["client", name] => client(name),
        ["observer", name] => observer(name),
        ["doomed", name] => doomed(name),
        _ => Err("usage: arena-daemon [--crash]".into()),
    }
}

/// Attaches to the segment called `name`, creating it if need be, as an arena.
fn open(name: &str) -> Result<Arena<Tlsf>, ShmemError> {
    Ok(shmem::Builder::new(name).with_size(64 * 1024).open()?.arena()?)
}

/// The daemon: publishes, lets the others work, and sees what they did.
fn daemon(crash: bool) -> Result<(), Box<dyn Error>> {
    let name = format!("arena-daemon-{}", std::process::id());
    let arena = open(&name)?;

    // Made as boxes, which are exclusive, and then shared: only what is shared can have a name.
    let config = ShmemBox::into_arc(arena.alloc(Config { limit: 100, interval_ms: 250 })?);
    let counters = ShmemBox::into_arc(arena.alloc_slice_with(3, |_| Counters::default())?);
    let greeting = ShmemBox::into_arc(arena.alloc_slice(5, b'!')?);
    // Pinned, they are there for as long as the segment, also for those who may only read.
    arena.publish_pinned("config", &config)?;
    arena.publish_pinned("counters", &counters)?;
    arena.publish("greeting", &greeting)?;
    println!("daemon: {} objects, {} bytes in use", arena.names().count(), arena.usage()?.used);

    run("client", &name)?;
    if crash {
        let status = run("doomed", &name)?;
        println!("daemon: the client ended by {status}");
        let given_back = arena.sweep()?;
        println!("daemon: given back: {given_back}");
    }
    run("observer", &name)?;

    println!(
        "daemon: {} requests, {} errors",
        sum(&counters, |line| &line.requests),
        sum(&counters, |line| &line.errors)
    );
    for entry in arena.names() {
        let entry = entry?;
        println!("daemon: {} has {} bytes and {} holders", entry.name(), entry.size(), entry.holders());
    }
    arena.check()?;
    // Dropped here, by its owner, the arena takes the segment along.
    Ok(())
}

fn sum(counters: &[Counters], field: impl Fn(&Counters) -> &AtomicU64) -> u64 {
    counters.iter().map(|line| field(line).load(Relaxed)).sum()
}

/// A client: finds what it needs by name and type, and counts.
fn client(name: &str) -> Result<(), Box<dyn Error>> {
    let arena = open(name)?;
    let config = arena.wait_for::<Config>("config", PATIENCE)?;
    let counters: ShmemArc<[Counters]> = arena.find("counters")?;
    let greeting = arena.find::<[u8]>("greeting")?;
    println!("client: {:?}, greeting of {} bytes", *config, greeting.len());
    for request in 0..u64::from(config.limit) {
        let line = &counters[request as usize % counters.len()];
        line.requests.fetch_add(1, Relaxed);
        if request % 10 == 9 {
            line.errors.fetch_add(1, Relaxed);
        }
    }
    // Asked for as something else it is not found, and the error says why.
    let error = arena.find::<[u16]>("greeting").unwrap_err();
    println!("client: as another type: {error}");
    Ok(())
}

/// An observer: may only read the segment, and so looks at what is pinned.
fn observer(name: &str) -> Result<(), Box<dyn Error>> {
    let segment = shmem::Builder::new(name).attach_read_only()?;
    let config = segment.find_pinned::<Config>("config")?;
    // Others change the counters meanwhile, so they are read a word at a time.
    let counters = segment.find_pinned_words::<[Counters]>("counters")?;
    let lines = counters.size() / size_of::<Counters>();
    let requests: Option<Vec<u64>> = (0..lines)
        .map(|line| line * size_of::<Counters>() + offset_of!(Counters, requests))
        // SAFETY: that is where the field is in each of the elements.
        .map(|offset| unsafe { counters.load::<AtomicU64>(offset) })
        .collect();
    println!("observer: limit {}, requests {:?}", config.limit, requests.ok_or("counters of another size")?);
    Ok(())
}

/// A client that never gets to give back what it holds.
fn doomed(name: &str) -> Result<(), Box<dyn Error>> {
    let arena = open(name)?;
    let _scratch = arena.alloc_slice(1000, 0_u64)?;
    let _greeting = arena.find::<[u8]>("greeting")?;
    println!("client: holds a slice and a reference, and is killed");
    Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()?;
    unreachable!("nobody survives SIGKILL");
}

/// Runs this program in another role.
fn run(role: &str, name: &str) -> std::io::Result<ExitStatus> {
    Command::new(env::current_exe()?).args([role, name]).status()
}
