//! What the campaigns share in which others damage a segment: a verdict, and words to damage it with
//!
//! Whatever is written to a segment, whoever uses it gets an answer: no signal, no panic, within its time.

#![allow(dead_code)]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

pub mod verdict;
pub mod words;

use std::fs;

/// Addresses where this process has files mapped whose name contains `name`.
pub fn mappings(name: &str) -> Vec<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let range = |line: &str| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap())
    };
    maps.lines().filter(|line| line.contains(name)).map(range).collect()
}

/// How many files this process has open.
pub fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
