//! Several workers share a table of jobs; one is killed at its work, and another one does its job.
//!
//! ```text
//! cargo run --example work-queue
//! ```
//! Each job lies in a [`Mutex`] of its own, and whoever works on it holds that. So a job is at any time nobody's, or that of a
//! worker who is alive, or an orphan: nothing has to be written down that a worker could fail to take back, no heartbeat has
//! to be sent, and nobody has to guess by the time that has passed whether somebody has died.
//!
//! What says that a job is done is one word, stored last. A worker that is killed before that has done nothing, as far as
//! others can see, and one that is killed after it has done all.

use shmem_bind::sync::{LockError, LockFailure, Mutex, MutexGuard};
use shmem_bind::{Arena, Builder, ShmemArc, ShmemError, Tlsf, shareable};
use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

shareable! {
    // Any bytes are a job, so that one which was left in the middle may be looked at: see `take`.
    implement = AnyBitPattern;
    /// Add the numbers up to `task`.
    #[repr(C)]
    struct Job {
        /// Written once, before anybody else can see it.
        task: u64,
        result: AtomicU64,
        /// How often somebody began.
        attempts: AtomicU32,
        /// 1 when `result` is there. Stored last.
        is_done: AtomicU32,
    }
}

const JOBS: usize = 8;
/// A program would have a list of such tables, or of handles; the idea is the same.
type Jobs = [Mutex<Job>; JOBS];

/// The job at which one worker is killed.
const FATAL: usize = 2;
/// How long to wait for a worker who is alive, but may be stopped.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => supervise(),
        ["worker", name] => work(name, None),
        ["doomed", name] => work(name, Some(FATAL)),
        _ => Err("usage: work-queue".into()),
    }
}

/// The jobs, made by whoever comes first. The arena may be dropped: the reference keeps the segment attached.
fn jobs(name: &str) -> Result<ShmemArc<Jobs>, ShmemError> {
    let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
    let jobs = arena.find_or_alloc("jobs", || {
        std::array::from_fn(|index| {
            Mutex::new(Job {
                task: 1000 * (index as u64 + 1),
                result: AtomicU64::new(0),
                attempts: AtomicU32::new(0),
                is_done: AtomicU32::new(0),
            })
        })
    })?;
    Ok(jobs)
}

/// A worker: does what nobody else does, and then waits for what others do, in case that they die. When it leaves, all is
/// done.
fn work(name: &str, fatal: Option<usize>) -> Result<(), Box<dyn Error>> {
    let jobs = jobs(name)?;
    // Not waiting at first spreads the workers over the jobs.
    for patience in [Duration::ZERO, PATIENCE] {
        for (index, job) in jobs.iter().enumerate() {
            let Some(job) = take(index, job, patience)? else { continue };
            if job.is_done.load(Ordering::Acquire) == 1 {
                continue;
            }
            job.attempts.fetch_add(1, Ordering::Relaxed);
            let result = (1..=job.task).sum();
            if fatal == Some(index) {
                println!("worker: is at job {index}");
                // Until the supervisor kills it, or is no more itself.
                std::io::stdin().read_to_end(&mut Vec::new())?;
                return Err("nobody has killed this worker".into());
            }
            job.result.store(result, Ordering::Relaxed);
            // Release: whoever sees this sees the result. Done, at this very instruction.
            job.is_done.store(1, Ordering::Release);
            // Dropping the guard gives the job back.
        }
    }
    Ok(())
}

/// The job, if it can be had in this time.
fn take(
    index: usize,
    job: &Mutex<Job>,
    patience: Duration,
) -> Result<Option<MutexGuard<'_, Job>>, LockFailure> {
    match job.lock_for(patience) {
        Ok(job) => Ok(Some(job)),
        // Somebody alive is at it.
        Err(LockError::Failed(LockFailure::Busy)) if patience.is_zero() => Ok(None),
        // Its worker died, at any instruction. Any bytes are a `Job`, and `is_done` says which this is. (A value that may be
        // torn would be replaced here, or looked at through `as_ptr`.)
        Err(LockError::Orphaned(orphaned)) => {
            let job = orphaned.recover();
            println!("worker: takes job {index} over from one that died");
            Ok(Some(job))
        }
        Err(error) => Err(error.into()),
    }
}

/// The supervisor: has the jobs done, kills a worker at it, and counts.
fn supervise() -> Result<(), Box<dyn Error>> {
    let name = format!("work-queue-{}", std::process::id());
    let jobs = jobs(&name)?;
    println!("supervisor: {JOBS} jobs");

    let mut doomed = spawn("doomed", &name)?;
    let mut line = String::new();
    BufReader::new(doomed.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    print!("{line}");
    let mut workers = [spawn("worker", &name)?, spawn("worker", &name)?];
    // The others do all the rest meanwhile, and wait for this one.
    while done(&jobs)? < JOBS - 1 {
        for worker in &mut workers {
            if let Some(status) = worker.try_wait()? {
                return Err(format!("a worker has left before its time: {status}").into());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("supervisor: all but one are done");
    doomed.kill()?;
    println!("supervisor: one worker ended by {}", doomed.wait()?);

    for worker in workers {
        let output = worker.wait_with_output()?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            return Err(format!("a worker failed: {}", output.status).into());
        }
    }
    for (index, job) in jobs.iter().enumerate() {
        let job = job.lock().map_err(LockFailure::from)?;
        let (result, attempts) = (job.result.load(Ordering::Relaxed), job.attempts.load(Ordering::Relaxed));
        if attempts > 2 {
            return Err(format!("job {index} was begun {attempts} times").into());
        }
        let times = if attempts == 1 { "once" } else { "twice" };
        println!("supervisor: job {index} was begun {times}, and gives {result}");
    }
    println!("supervisor: {} of {JOBS} jobs are done", done(&jobs)?);
    // Dropped here, by the segment's owner, the last reference takes the segment along.
    Ok(())
}

/// How many jobs are done. Those that somebody works on, or has died at, are not.
fn done(jobs: &Jobs) -> Result<usize, LockFailure> {
    let mut count = 0;
    for job in jobs {
        match job.try_lock() {
            Ok(job) => count += job.is_done.load(Ordering::Acquire) as usize,
            Err(LockError::Failed(LockFailure::Busy) | LockError::Orphaned(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}

/// Runs this program in another role. Its output is the supervisor's to pass on, one worker's after the other's.
fn spawn(role: &str, name: &str) -> std::io::Result<Child> {
    Command::new(env::current_exe()?).args([role, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}
