//! Contestants in turn, many rounds, medians and ratios
//!
//! On a machine that is shared and noisy only what ran side by side can be compared. So each round runs every
//! contestant for a moment, and the figures are the median over the rounds, and the median of the ratios to
//! the first contestant of the same round.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long one contestant runs in one round, about.
const SLICE: Duration = Duration::from_millis(4);

/// Something to measure: its name, and what is done once.
pub struct Contestant<'a> {
    name: &'a str,
    run: Box<dyn FnMut() + 'a>,
    repetitions: u32,
    /// Nanoseconds for one run, in each round.
    times: Vec<f64>,
}

impl<'a> Contestant<'a> {
    pub fn new<R>(name: &'a str, mut run: impl FnMut() -> R + 'a) -> Self {
        let run = Box::new(move || {
            black_box(run());
        });
        Self { name, run, repetitions: 1, times: Vec::new() }
    }

    fn time(&mut self) -> Duration {
        let start = Instant::now();
        for _ in 0..self.repetitions {
            (self.run)();
        }
        start.elapsed()
    }
}

/// Runs all contestants against the first of them, and prints a table.
pub fn compare(title: &str, rounds: usize, mut contestants: Vec<Contestant<'_>>) {
    for contestant in &mut contestants {
        while contestant.time() < SLICE {
            contestant.repetitions *= 2;
        }
    }
    for _ in 0..rounds {
        for contestant in &mut contestants {
            let time = contestant.time().as_nanos() as f64 / f64::from(contestant.repetitions);
            contestant.times.push(time);
        }
    }
    println!("{title}");
    let baseline = contestants[0].times.clone();
    for contestant in &contestants {
        let ratios = contestant.times.iter().zip(&baseline).map(|(time, base)| time / base).collect();
        println!(
            "  {:<32} {:>10.0} ns  {:>6.2}x",
            contestant.name,
            median(contestant.times.clone()),
            median(ratios)
        );
    }
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
