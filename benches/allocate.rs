//! What it costs to free an object and allocate another, beside other allocators
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench allocate [-- ROUNDS] [FILTER]`
//!
//! The live set is 100, 10,000 or 1,000,000 objects: the first fits into the nearest cache, the last into none. What a step
//! is stands in [`churn`](shmem_bind_benches::heaps::churn), who takes part in [`heaps`](shmem_bind_benches::heaps).
//! Afterwards each object must still have in it what was written, and each heap be sound.

use shmem_bind_benches::heaps::{self, Run, Sizes, Who, churn};
use shmem_bind_benches::{Comparison, Report, counts, with_commas};

const LIVE: [usize; 3] = [100, 10_000, 1_000_000];
const SIZES: [Sizes; 2] = [Sizes::new(16..=512), Sizes::new(16..=64)];

const SLAB: &str = Who::Slab.name();
const TLSF: &str = Who::Tlsf.name();
const RLSF_LOCKED: &str = Who::RlsfLocked.name();
const BOOST: &str = Who::Boost.name();
/// Those over shared memory that are quick.
const QUICK: [&str; 2] = [RLSF_LOCKED, Who::TalcLocked.name()];

fn main() {
    let mut report = Report::new("allocate", 51);
    heaps::announce_absent();
    for live in LIVE {
        for sizes in SIZES {
            compare(&mut report, live, sizes);
        }
    }
    report.finish();
}

fn compare(report: &mut Report, live: usize, sizes: Sizes) {
    let title = format!("free + alloc, {} objects of {sizes}", with_commas(live));
    if !report.wants(&title) {
        return;
    }
    // Whom callgrind watches does without the others.
    let is_wanted = |who: &Who| counts::asked().is_none_or(|asked| asked.name == who.name());
    let wanted: Vec<_> = Who::ALL.into_iter().filter(is_wanted).collect();
    let heaps = Who::heaps(&wanted, churn::room(live, sizes));
    let mut runs: Vec<(Who, Box<dyn Run>)> =
        heaps.into_iter().map(|(who, heap)| (who, heap.churn(live, sizes, 0))).collect();
    let mut comparison = Comparison::new(title);
    for (who, run) in &mut runs {
        comparison = comparison.with_many(who.name(), |steps| run.run(steps));
    }
    comparison = comparison.goal(SLAB, 1.0, &[Who::Glibc.name()]).goal(TLSF, 1.2, &[RLSF_LOCKED]);
    if live < 1_000_000 {
        comparison = comparison.goal(SLAB, 1.0 / 8.0, &[BOOST]).goal(TLSF, 1.0 / 8.0, &[BOOST]);
    } else {
        comparison = comparison.goal(SLAB, 1.0, &QUICK).goal(TLSF, 1.0, &QUICK);
    }
    if live == 10_000 {
        comparison = comparison.counted();
    }
    report.compare(comparison);
    for (_, run) in &runs {
        run.check();
    }
}
