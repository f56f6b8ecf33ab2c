//! The table, the goals, the plot

use crate::plot::{self, Bar, Group};
use crate::rounds::{Comparison, Outcome, Row};

/// Collects what comparisons give; prints each at once, the goals at the end, and draws them.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    rounds: usize,
    /// Only comparisons whose title has this in it are run.
    filter: Option<String>,
    outcomes: Vec<Outcome>,
}

impl Report {
    /// Of the benchmark `name`; by the arguments of the process, `[ROUNDS] [FILTER]`. Options are not for it.
    pub fn new(name: &'static str, rounds: usize) -> Self {
        let arguments = || std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
        let rounds = arguments().find_map(|argument| argument.parse().ok()).unwrap_or(rounds).max(1);
        let filter = arguments().find(|argument| argument.parse::<usize>().is_err());
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

    /// Prints which goals were met.
    pub fn print_goals(&self) {
        if self.outcomes.iter().all(|outcome| outcome.goals.is_empty()) {
            return;
        }
        println!("\ngoals");
        for outcome in &self.outcomes {
            for goal in &outcome.goals {
                let Some(of) = outcome.row(&goal.of) else { continue };
                let ratios = goal.to.iter().filter_map(|to| Some((outcome.ratio(of, outcome.row(to)?), to)));
                let Some((ratio, to)) = ratios.max_by(|a, b| a.0.total_cmp(&b.0)) else {
                    println!("  not known: {} to {}: {}", goal.of, goal.to.join(", "), outcome.title);
                    continue;
                };
                let (verdict, most) = (if ratio <= goal.most { "met" } else { "MISSED" }, goal.most);
                println!(
                    "  {verdict:<7} {ratio:>6.3}x <= {most:>5.3}x  {} to {to}: {}",
                    goal.of, outcome.title
                );
            }
        }
    }

    /// Prints which goals were met, and draws all bars.
    pub fn finish(self) {
        if self.outcomes.is_empty() {
            return;
        }
        self.print_goals();
        let groups: Vec<_> = self.outcomes.iter().map(group).collect();
        plot::announce(plot::bars(self.name, &groups));
    }
}

fn print(outcome: &Outcome) {
    println!("\n{}", outcome.title);
    for row in &outcome.rows {
        let ratio = outcome.ratio(row, &outcome.rows[0]);
        println!("  {:<36} {:>12.1} ns {ratio:>7.2}x{}", row.name, row.time(), instructions(row));
    }
}

/// What a plot says of an outcome. The crate's own are those that have goals, and those of its name.
fn group(outcome: &Outcome) -> Group {
    let bar = |row: &Row| {
        let ratio = outcome.ratio(row, &outcome.rows[0]);
        Bar {
            text: format!("{}, {ratio:.2}x{}", duration(row.time()), instructions(row)),
            is_ours: [&row.name, &outcome.title].iter().any(|name| name.contains("shmem-bind"))
                || outcome.goals.iter().any(|goal| goal.of == row.name),
            name: row.name.clone(),
            value: row.time(),
        }
    };
    Group { title: outcome.title.clone(), bars: outcome.rows.iter().map(bar).collect() }
}

fn instructions(row: &Row) -> String {
    row.instructions.map_or(String::new(), |count| format!(", {count:>6.0} instructions"))
}

/// Nanoseconds, in a unit in which they are short.
fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        1e9.. => format!("{:.2} s", nanoseconds / 1e9),
        1e6.. => format!("{:.2} ms", nanoseconds / 1e6),
        1e4.. => format!("{:.1} µs", nanoseconds / 1e3),
        _ => format!("{nanoseconds:.1} ns"),
    }
}

/// A number with a comma before each three of its last figures.
pub fn with_commas(number: usize) -> String {
    let figures = number.to_string();
    let mut text = String::new();
    for (index, figure) in figures.chars().enumerate() {
        if index > 0 && (figures.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(figure);
    }
    text
}
