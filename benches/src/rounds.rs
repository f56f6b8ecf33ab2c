//! Contestants in turn, many rounds, medians and ratios
//!
//! On a machine that is shared and noisy only what ran side by side can be compared. So each round runs every
//! contestant for a moment, and the figures are the median over the rounds, and the median of the ratios to
//! another contestant of the same round.

use crate::counts;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long one contestant runs in one round, about.
const SLICE: Duration = Duration::from_millis(4);

/// What is done: so many times, one after the other.
type Work<'a> = Box<dyn FnMut(u32) + 'a>;

enum How<'a> {
    /// Is timed.
    Timed { work: Work<'a>, repetitions: u32 },
    /// Takes the time itself: gives nanoseconds for one.
    Measured(Box<dyn FnMut() -> f64 + 'a>),
}

struct Contestant<'a> {
    name: String,
    how: How<'a>,
    /// Nanoseconds for one run, in each round.
    times: Vec<f64>,
}

/// Things that do the same, side by side. The first one is what the ratios in the table are to.
pub struct Comparison<'a> {
    title: String,
    contestants: Vec<Contestant<'a>>,
    goals: Vec<Goal>,
    is_counted: bool,
}

/// That a median ratio is at most so much.
#[derive(Clone, Debug)]
pub struct Goal {
    pub of: String,
    pub to: Vec<String>,
    pub most: f64,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub title: String,
    pub rows: Vec<Row>,
    pub goals: Vec<Goal>,
}

/// One contestant.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    /// Nanoseconds for one run, in each round.
    pub times: Vec<f64>,
    /// Instructions of one run, if they were counted.
    pub instructions: Option<f64>,
}

impl Row {
    /// The median time, in nanoseconds.
    pub fn time(&self) -> f64 {
        median(self.times.clone())
    }
}

impl Outcome {
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Median of the ratios of the times of `of` to those of `to`, round by round.
    pub fn ratio(&self, of: &Row, to: &Row) -> f64 {
        median(of.times.iter().zip(&to.times).map(|(of, to)| of / to).collect())
    }
}

impl<'a> Comparison<'a> {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), contestants: Vec::new(), goals: Vec::new(), is_counted: false }
    }

    pub fn title(&self) -> &str {
        &self.title
    }

    /// Adds something that is run again and again.
    #[must_use]
    pub fn with<R>(self, name: impl Into<String>, mut run: impl FnMut() -> R + 'a) -> Self {
        self.with_many(name, move |repetitions| {
            for _ in 0..repetitions {
                black_box(run());
            }
        })
    }

    /// Adds something that runs as often as it is told.
    #[must_use]
    pub fn with_many(mut self, name: impl Into<String>, work: impl FnMut(u32) + 'a) -> Self {
        let how = How::Timed { work: Box::new(work), repetitions: 1 };
        self.contestants.push(Contestant { name: name.into(), how, times: Vec::new() });
        self
    }

    /// Adds something that takes the time itself, once in each round: nanoseconds for one run.
    #[must_use]
    pub fn with_measured(mut self, name: impl Into<String>, measure: impl FnMut() -> f64 + 'a) -> Self {
        let how = How::Measured(Box::new(measure));
        self.contestants.push(Contestant { name: name.into(), how, times: Vec::new() });
        self
    }

    /// Says that `of` takes at most `most` times as long as the quickest of `to`. Where one of them does not take
    /// part (a library that is not there), it is left out.
    #[must_use]
    pub fn goal(mut self, of: &str, most: f64, to: &[&str]) -> Self {
        let to = to.iter().map(ToString::to_string).collect();
        self.goals.push(Goal { of: of.into(), to, most });
        self
    }

    /// Has callgrind count the instructions of each contestant, if it is there.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.is_counted = true;
        self
    }

    /// Runs all of them. `None` if this process is one that callgrind watches.
    pub fn run(mut self, rounds: usize) -> Option<Outcome> {
        if let Some(asked) = counts::asked() {
            // This process is one that callgrind watches: it does one thing.
            if asked.title == self.title {
                let asked = self.contestants.iter_mut().find(|contestant| contestant.name == asked.name);
                if let Some(How::Timed { work, .. }) = asked.map(|contestant| &mut contestant.how) {
                    counts::be_counted(work);
                }
            }
            return None;
        }
        for goal in &self.goals {
            let is_there = self.contestants.iter().any(|contestant| contestant.name == goal.of);
            assert!(is_there, "{}: {} has a goal, and does not take part", self.title, goal.of);
        }
        for contestant in &mut self.contestants {
            if let How::Timed { work, repetitions } = &mut contestant.how {
                while time(work, *repetitions) < SLICE {
                    *repetitions *= 2;
                }
            }
        }
        for _ in 0..rounds {
            for contestant in &mut self.contestants {
                let time = match &mut contestant.how {
                    How::Timed { work, repetitions } => {
                        time(work, *repetitions).as_nanos() as f64 / f64::from(*repetitions)
                    }
                    How::Measured(measure) => measure(),
                };
                contestant.times.push(time);
            }
        }
        let rows = self.contestants.into_iter().map(|contestant| {
            let is_counted = self.is_counted && matches!(contestant.how, How::Timed { .. });
            Row {
                instructions: if is_counted { counts::count(&self.title, &contestant.name) } else { None },
                name: contestant.name,
                times: contestant.times,
            }
        });
        Some(Outcome { rows: rows.collect(), title: self.title, goals: self.goals })
    }
}

fn time(work: &mut Work<'_>, repetitions: u32) -> Duration {
    let start = Instant::now();
    work(repetitions);
    start.elapsed()
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
