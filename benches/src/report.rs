//! The table, the goals, the plot

use crate::rounds::Outcome;
use crate::rounds::Comparison;
use plotters::prelude::*;
use std::path::PathBuf;

/// Collects what comparisons give; prints each at once, the goals at the end, and draws them.
pub struct Report {
    name: &'static str,
    rounds: usize,
    /// Only comparisons whose title has this in it are run.
    filter: Option<String>,
    outcomes: Vec<Outcome>,
}

impl Report {
    /// Of the benchmark `name`; by the arguments of the process, `[ROUNDS] [FILTER]`.
    pub fn new(name: &'static str, rounds: usize) -> Self {
        let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(rounds);
        let filter = arguments.into_iter().find(|argument| argument.parse::<usize>().is_err());
        Self { name, rounds, filter, outcomes: Vec::new() }
    }

    /// How many rounds there are.
    pub const fn rounds(&self) -> usize {
        self.rounds
    }

    /// Whether a comparison of this title is wanted: otherwise it need not be set up.
    pub fn wants(&self, title: &str) -> bool {
        match crate::counts::asked() {
            Some(asked) => asked.title == title,
            None => self.filter.as_ref().is_none_or(|filter| title.contains(filter)),
        }
    }

    /// Runs a comparison, if it is wanted, and prints what came out.
    pub fn compare(&mut self, comparison: Comparison<'_>) -> Option<&Outcome> {
        if !self.wants(comparison.title()) {
            return None;
        }
        let outcome = comparison.run(self.rounds)?;
        print(&outcome);
        self.outcomes.push(outcome);
        self.outcomes.last()
    }

    /// Prints which goals were met, and draws the plot.
    pub fn finish(self) {
        if self.outcomes.is_empty() {
            return;
        }
        println!("\ngoals");
        for outcome in &self.outcomes {
            for goal in &outcome.goals {
                let Some(of) = outcome.row(&goal.of) else { continue };
                let ratios = goal.to.iter().filter_map(|to| Some((outcome.ratio(of, outcome.row(to)?), to)));
                let Some((ratio, to)) = ratios.max_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
                let verdict = if ratio <= goal.most { "met" } else { "MISSED" };
                println!("  {verdict:<7} {ratio:>6.2}x <= {:>5.2}x  {} to {to}: {}", goal.most, goal.of, outcome.title);
            }
        }
        let path = plot_path(self.name);
        match draw(&path, self.name, &self.outcomes) {
            Ok(()) => println!("\nplot: {}", path.display()),
            Err(error) => println!("\nno plot: {error}"),
        }
    }
}

fn print(outcome: &Outcome) {
    println!("\n{}", outcome.title);
    for row in &outcome.rows {
        let ratio = outcome.ratio(row, &outcome.rows[0]);
        let instructions = row.instructions.map_or(String::new(), |count| format!("{count:>10.0} instructions"));
        println!("  {:<36} {:>12.1} ns {ratio:>7.2}x{instructions}", row.name, row.time());
    }
}

/// Where the plot called `name` goes: `plots` in the package of the benchmarks.
pub fn plot_path(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("plots");
    // Without it, drawing says why.
    let _ = std::fs::create_dir_all(&folder);
    folder.join(format!("{name}.svg"))
}

fn draw(path: &std::path::Path, name: &str, outcomes: &[Outcome]) -> Result<(), Box<dyn std::error::Error>> {
    let _ = (path, name, outcomes, &WHITE);
    todo!("bars")
}
