//! How the cost of an object grows with the number of those that live
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench growth [-- ROUNDS] [FILTER]`
//!
//! What a step is stands in [`churn`](shmem_bind_benches::heaps::churn), who takes part in
//! [`heaps`](shmem_bind_benches::heaps). From 100 to 10,000,000 objects of 16 to 64 bytes are alive, in heaps that have room for
//! twice as much. The plot has a curve for each contestant. All climb with the share of objects that no cache has;
//! what climbs faster than the others has more to look at than one object and its neighbours.

use shmem_bind_benches::heaps::{self, Run, Sizes, Who, churn};
use shmem_bind_benches::plot::{self, Curve};
use shmem_bind_benches::{Comparison, Report, counts, with_commas};
use std::fs;

const LIVE: [usize; 6] = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];
const SIZES: Sizes = Sizes::new(16..=64);
const WHO: [Who; 7] =
    [Who::Rlsf, Who::RlsfLocked, Who::TalcLocked, Who::Boost, Who::Glibc, Who::Slab, Who::Tlsf];

fn main() {
    if counts::asked().is_some() {
        return;
    }
    let mut report = Report::new("growth", 21);
    heaps::announce_absent();
    let mut curves =
        WHO.map(|who| Curve { name: who.name().into(), points: Vec::new(), is_ours: who.is_ours() });
    for live in LIVE {
        compare(&mut report, live, &mut curves);
    }
    if curves.iter().any(|curve| !curve.points.is_empty()) {
        let title = format!("free + alloc among objects of {SIZES}");
        plot::announce(plot::curves("growth", &title, "objects alive", "nanoseconds", &curves));
    }
}

fn compare(report: &mut Report, live: usize, curves: &mut [Curve]) {
    let title = format!("free + alloc, {} objects of {SIZES}", with_commas(live));
    if !report.wants(&title) {
        return;
    }
    // Each has its objects, what it needs beside them, and the list of them.
    let needed = (WHO.len() * live * (SIZES.mean() + 64)) as u64;
    if available().is_some_and(|available| available < needed + needed / 4) {
        println!("\n{title}: left out, since it needs {} MiB of memory", needed >> 20);
        return;
    }
    let mut runs: Vec<(Who, Box<dyn Run>)> = Who::heaps(&WHO, churn::room(live, SIZES))
        .into_iter()
        .map(|(who, heap)| (who, heap.churn(live, SIZES, 0)))
        .collect();
    let mut comparison = Comparison::new(title);
    for (who, run) in &mut runs {
        comparison = comparison.with_many(who.name(), |steps| run.run(steps));
    }
    for row in report.compare(comparison).into_iter().flat_map(|outcome| &outcome.rows) {
        let curve = curves.iter_mut().find(|curve| curve.name == row.name);
        curve.expect("one for each").points.push((live as f64, row.time()));
    }
    runs.iter().for_each(|(_, run)| run.check());
}

/// Memory that is to be had, in bytes.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}
