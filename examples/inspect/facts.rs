//! What is known of a segment, added up

use crate::End;
use shmem_bind::ShmemError;
use shmem_bind::inspect::{ArenaInfo, BlockInfo, BlockKind, Life, Snapshot, Tenant, Verdict};
use std::collections::BTreeMap;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// What blocks are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Exclusive(u32),
    Leaked,
    Shared,
    Condemned,
    Internal,
    Free,
    Damaged,
}

impl Kind {
    pub fn of(block: &BlockInfo) -> Self {
        match block.kind() {
            BlockKind::Free => Self::Free,
            BlockKind::Exclusive { slot } => Self::Exclusive(slot),
            BlockKind::Leaked { .. } => Self::Leaked,
            BlockKind::Shared { .. } => Self::Shared,
            BlockKind::Condemned => Self::Condemned,
            BlockKind::Internal => Self::Internal,
            _ => Self::Damaged,
        }
    }

    /// In a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Exclusive(_) => "exclusive",
            Self::Leaked => "leaked",
            Self::Shared => "shared",
            Self::Condemned => "condemned",
            Self::Internal => "internal",
            Self::Free => "free",
            Self::Damaged => "damaged",
        }
    }

    pub const fn slot(self) -> Option<u32> {
        match self {
            Self::Exclusive(slot) => Some(slot),
            _ => None,
        }
    }
}

/// Blocks and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub blocks: u64,
    pub bytes: u64,
}

/// What one attachment has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub objects: Sum,
    pub references: u64,
}

/// What is known of one segment.
pub struct Facts {
    pub name: String,
    pub snapshot: Snapshot,
    /// Seconds since 1970.
    pub time: u64,
    pub sums: BTreeMap<Kind, Sum>,
    holdings: BTreeMap<u32, Holdings>,
    commands: BTreeMap<u32, String>,
}

impl Facts {
    pub fn gather(name: &str, limit: u64) -> Result<Self, ShmemError> {
        let snapshot = Snapshot::take_up_to(name, limit)?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut facts = Self {
            name: name.strip_prefix('/').unwrap_or(name).to_owned(),
            time,
            sums: BTreeMap::new(),
            holdings: BTreeMap::new(),
            commands: commands(snapshot.tenants()),
            snapshot,
        };
        for block in facts.snapshot.arena().map_or(&[][..], ArenaInfo::blocks) {
            let sum = facts.sums.entry(Kind::of(block)).or_default();
            sum.blocks += 1;
            sum.bytes += block.len();
            match block.kind() {
                BlockKind::Exclusive { slot } => {
                    let objects = &mut facts.holdings.entry(slot).or_default().objects;
                    objects.blocks += 1;
                    objects.bytes += block.len();
                }
                BlockKind::Shared { holders } => {
                    slots(holders).for_each(|slot| facts.holdings.entry(slot).or_default().references += 1);
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    pub fn end(&self) -> End {
        if matches!(self.snapshot.verdict(), Verdict::Damaged(_)) { End::Damaged } else { End::Sound }
    }

    pub fn holdings(&self, slot: u32) -> Holdings {
        self.holdings.get(&slot).copied().unwrap_or_default()
    }

    /// What the process is called that has this slot.
    pub fn command(&self, slot: u32) -> Option<&str> {
        self.commands.get(&slot).map(String::as_str)
    }

    pub fn tenant(&self, slot: u32) -> Option<&Tenant> {
        self.snapshot.tenants().iter().find(|tenant| tenant.slot() == slot)
    }

    pub fn owner(&self) -> Option<&Tenant> {
        self.snapshot.tenants().iter().find(|tenant| tenant.is_owner())
    }

    /// How many are attached and not known to be dead.
    pub fn living(&self) -> usize {
        let tenants = self.snapshot.tenants().iter();
        tenants.filter(|tenant| tenant.is_attached() && tenant.life() != Life::Dead).count()
    }

    pub fn dead(&self) -> impl Iterator<Item = &Tenant> {
        self.snapshot.tenants().iter().filter(|tenant| tenant.life() == Life::Dead)
    }

    /// Whether both are of one segment, and not of two that have one name after the other. What is damaged cannot be told.
    pub fn is_same_segment(&self, other: &Self) -> bool {
        match (self.snapshot.header(), other.snapshot.header()) {
            (Ok(one), Ok(other)) => one.segment_id() == other.segment_id(),
            _ => true,
        }
    }
}

/// The slots of a bitmap.
pub fn slots(bitmap: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |slot| bitmap >> slot & 1 != 0)
}

/// What the living are called.
fn commands(tenants: &[Tenant]) -> BTreeMap<u32, String> {
    // The numbers in a /proc of another PID namespace mean other processes.
    let own = fs::read_link("/proc/self").ok();
    if own.and_then(|own| own.to_str()?.parse().ok()) != Some(std::process::id()) {
        return BTreeMap::new();
    }
    let living = tenants.iter().filter(|tenant| tenant.life() == Life::Alive);
    let command = |tenant: &Tenant| {
        let command = fs::read(format!("/proc/{}/comm", tenant.pid()?)).ok()?;
        Some((tenant.slot(), String::from_utf8_lossy(&command).trim_end().to_owned()))
    };
    living.filter_map(command).collect()
}
