//! What the benchmarks share: contestants in turn, instruction counts, a report with goals and a plot
//!
//! | module | what is in it |
//! |---|---|
//! | [`rounds`] | runs contestants alternately; medians and ratios |
//! | [`counts`] | instructions of one run, by callgrind |
//! | [`report`] | the table, the goals, the plot |

pub mod counts;
pub mod report;
pub mod rounds;

pub use report::Report;
pub use rounds::{Comparison, median};
