//! What the benchmarks share: contestants in turn, instruction counts, a report with goals and a plot
//!
//! | module | what is in it |
//! |---|---|
//! | [`rounds`] | runs contestants alternately; medians and ratios |
//! | [`counts`] | instructions of one run, by callgrind |
//! | [`report`] | the table, the goals, the plot |
//! | [`heaps`] | this crate's allocators and those of others, under one interface |
//! | [`plot`] | bars and curves as SVG |
//! | [`child`] | a forked process that takes part |
//! | [`shared`] | memory shared with it |
//! | [`scratch`] | names that do not outlast a benchmark |

pub mod child;
pub mod counts;
pub mod heaps;
pub mod plot;
pub mod report;
pub mod rounds;
pub mod scratch;
pub mod shared;

pub use child::{Child, Line};
pub use report::{Report, with_commas};
pub use rounds::{Comparison, median};
pub use scratch::Scratch;
pub use shared::{Aligned, Shared};
