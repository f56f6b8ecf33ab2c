//! What the benchmarks share: contestants in turn, instruction counts, a report with goals and a plot
//!
//! | module | what is in it |
//! |---|---|
//! | [`rounds`] | runs contestants alternately; medians and ratios |
//! | [`counts`] | instructions of one run, by callgrind |
//! | [`report`] | the table, the goals, the plot |
//! | [`child`] | a forked process that takes part |
//! | [`mapping`] | memory shared with it |
//! | [`scratch`] | names that do not outlast a benchmark |

pub mod child;
pub mod counts;
pub mod mapping;
pub mod report;
pub mod rounds;
pub mod scratch;

pub use child::{Child, Line};
pub use mapping::{Aligned, Mapping};
pub use report::Report;
pub use rounds::{Comparison, median};
pub use scratch::Scratch;
