//! Breadth-first search over all interleavings.
//!
//! Of a state that has been seen only its 64-bit fingerprint is kept, and that of the state it was first
//! reached from: enough to find the way again when a property fails.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::properties::{PROGRESS, SAFETY};
use crate::property::Property;
use crate::protocol::{Choice, Protocol};
use crate::world::{At, World};

/// Each state that has been seen, with the one it was first reached from.
type Parents = HashMap<u64, u64, BuildHasherDefault<Fingerprint>>;

/// What came of an exploration.
pub struct Explored {
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    pub violation: Option<Violation>,
}

/// A property that failed, and how the world came to that.
pub struct Violation {
    pub property: &'static str,
    pub actions: usize,
    pub trace: String,
}

/// Visits every state of `protocol` until one lacks a safety property, or a progress property. These take
/// far longer to look at and are looked at in one of `progress` states.
pub fn explore(protocol: &Protocol, progress: Option<u64>) -> Explored {
    let start = World::new(protocol.crashes);
    let mut parents = Parents::default();
    parents.insert(fingerprint(&start), 0);
    let (mut level, mut next_level) = (vec![start], Vec::new());
    let mut depth = 0;
    loop {
        for world in level.drain(..) {
            let here = fingerprint(&world);
            let chosen = progress.is_some_and(|one_in| here % one_in == 0);
            let progress_properties: &[Property] = if chosen { &PROGRESS } else { &[] };
            let mut properties = SAFETY.iter().chain(progress_properties);
            if let Some(property) = properties.find(|property| !(property.holds)(protocol, &world)) {
                let way = way_to(here, &parents);
                let violation = Violation {
                    property: property.name,
                    actions: way.len() - 1,
                    trace: trace(protocol, &way),
                };
                return Explored { states: parents.len(), depth, violation: Some(violation) };
            }
            protocol.for_each_choice(&world, |process, choice| {
                let next = successor(protocol, &world, process, choice);
                if let Entry::Vacant(unseen) = parents.entry(fingerprint(&next)) {
                    unseen.insert(here);
                    next_level.push(next);
                }
            });
        }
        if next_level.is_empty() {
            return Explored { states: parents.len(), depth, violation: None };
        }
        std::mem::swap(&mut level, &mut next_level);
        depth += 1;
    }
}

/// Every place in the protocol where a process of `protocol` gets to.
pub fn places(protocol: &Protocol) -> HashSet<At> {
    let start = World::new(protocol.crashes);
    let mut seen = HashSet::from([start]);
    let mut pending = vec![start];
    let mut places = HashSet::new();
    while let Some(world) = pending.pop() {
        places.extend(world.processes.map(|process| process.at));
        protocol.for_each_choice(&world, |process, choice| {
            let next = successor(protocol, &world, process, choice);
            if seen.insert(next) {
                pending.push(next);
            }
        });
    }
    places
}

fn successor(protocol: &Protocol, world: &World, process: usize, choice: Choice) -> World {
    let mut next = protocol.act(world, process, choice);
    next.normalize(protocol.processes);
    next
}

/// The fingerprints on the way from the start to `end`.
fn way_to(end: u64, parents: &Parents) -> Vec<u64> {
    let mut way = vec![end];
    while let Some(parent) = way.last().and_then(|last| parents.get(last)).filter(|parent| **parent != 0) {
        way.push(*parent);
    }
    way.reverse();
    way
}

/// Walks the way again and writes down who did what and what the world was like afterwards.
fn trace(protocol: &Protocol, way: &[u64]) -> String {
    let mut text = String::new();
    let mut world = World::new(protocol.crashes);
    for (number, target) in way.iter().enumerate().skip(1) {
        let mut found = None;
        protocol.for_each_choice(&world, |process, choice| {
            let next = successor(protocol, &world, process, choice);
            if fingerprint(&next) == *target {
                found = Some((process, choice, next));
            }
        });
        let (process, choice, next) = found.expect("each state follows from its parent");
        let process = &world.processes[process];
        let action = match choice {
            Choice::Go => format!("{:?}", process.at),
            Choice::Fails => format!("{:?} fails", process.at),
            Choice::Killed => format!("killed before {:?}", process.at),
            choice => format!("{choice:?}"),
        };
        let label = char::from(process.label.0);
        let after = next.to_string();
        let after = if after == world.to_string() { String::new() } else { format!("[{after}]") };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{number:>4}. {label} {action:<60} {after}");
        world = next;
    }
    text
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = Fingerprint(0x9e37_79b9_7f4a_7c15);
    world.hash(&mut hasher);
    hasher.finish().max(1)
}

/// Multiply and fold, once per word; and of a fingerprint the fingerprint itself, as key of the table.
#[derive(Default)]
struct Fingerprint(u64);

impl Fingerprint {
    fn fold(&mut self, word: u64) {
        let product =
            u128::from(self.0 ^ word ^ 0xa076_1d64_78bd_642f) * u128::from(0xe703_7ed1_a0b4_28db_u64);
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.fold(byte.into());
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.fold(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        if self.0 == 0 {
            self.0 = word;
        } else {
            self.fold(word);
        }
    }

    fn write_usize(&mut self, word: usize) {
        self.fold(word as u64);
    }
}
