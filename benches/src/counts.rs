//! Instructions of one run, by callgrind
//!
//! They are exact and the same each time, which times on a shared machine are not. The benchmark starts itself
//! again under `valgrind --tool=callgrind`, which counts what happens in [`measured`] only; the difference between many runs
//! and few is what one costs, without the loop's beginning and end.

use std::env;
use std::process::{Command, Stdio};

const TITLE: &str = "SHMEM_BIND_COUNT_TITLE";
const NAME: &str = "SHMEM_BIND_COUNT_NAME";
const RUNS: &str = "SHMEM_BIND_COUNT_RUNS";
/// If this is set to `no`, nothing is counted, which takes most of the time of a short run.
const SWITCH: &str = "SHMEM_BIND_COUNT";

/// Runs that are counted: few, and many.
const FEW: u32 = 1000;
const MANY: u32 = 5000;

/// What this process was started to have counted.
#[derive(Debug)]
pub struct Asked {
    pub title: String,
    pub name: String,
}

/// What is to be counted, if callgrind watches.
pub fn asked() -> Option<Asked> {
    Some(Asked { title: env::var(TITLE).ok()?, name: env::var(NAME).ok()? })
}

/// Runs so many as are asked for.
pub fn be_counted(work: &mut dyn FnMut(u32)) {
    let runs = env::var(RUNS).ok().and_then(|runs| runs.parse().ok()).unwrap_or(FEW);
    // Whatever is done only once.
    work(FEW);
    measured(work, runs);
}

/// Callgrind knows this by its name.
// SAFETY: nothing else has this name, and nobody calls it by it.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured(work: &mut dyn FnMut(u32), runs: u32) {
    work(runs);
    std::hint::black_box(runs);
}

/// Instructions of one run of a contestant; `None` if callgrind is not there, or not wanted.
pub fn count(title: &str, name: &str) -> Option<f64> {
    if env::var_os(SWITCH).is_some_and(|switch| switch == "no") {
        return None;
    }
    let few = count_runs(title, name, FEW)?;
    let many = count_runs(title, name, MANY)?;
    Some((many - few) / f64::from(MANY - FEW))
}

fn count_runs(title: &str, name: &str, runs: u32) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured"])
        .arg(env::current_exe().ok()?)
        .args(env::args_os().skip(1))
        .env(TITLE, title)
        .env(NAME, name)
        .env(RUNS, runs.to_string())
        .stdout(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}
