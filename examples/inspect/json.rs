//! The report for machines

use crate::facts::{Facts, slots};
use shmem_bind::inspect::{ArenaInfo, Damage, Life, LockState, Named, Part, Tenant, Verdict};
use shmem_bind::{Header, OrphanPolicy, Payload, Phase, Reclaimed, UnlinkPolicy};
use std::fmt::Display;

/// A JSON value, as text.
type Value = String;

fn null() -> Value {
    "null".to_owned()
}

fn number(number: impl Display) -> Value {
    number.to_string()
}

fn maybe<T>(value: Option<T>, write: impl FnOnce(T) -> Value) -> Value {
    value.map_or_else(null, write)
}

fn string(text: impl Display) -> Value {
    let mut quoted = String::from('"');
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Those at the end mean something to terminals and to JavaScript.
            '\0'..=' ' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' if c != ' ' => {
                quoted += &format!("\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted + "\""
}

fn array(values: impl Iterator<Item = Value>) -> Value {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.map(|(name, value)| format!("{}:{value}", string(name)));
    format!("{{{}}}", fields.join(","))
}

/// All about a segment, in one line.
pub fn report(facts: &Facts) -> Value {
    let snapshot = &facts.snapshot;
    let statistics = snapshot.statistics();
    object([
        ("name", string(&facts.name)),
        ("time", number(facts.time)),
        ("verdict", verdict(snapshot.verdict())),
        ("phase", maybe(snapshot.phase(), |phase| string(word_of_phase(phase)))),
        (
            "file",
            object([
                ("length", number(snapshot.file_len())),
                ("user", maybe(snapshot.uid(), number)),
                ("mode", maybe(snapshot.mode(), |mode| string(format!("{mode:04o}")))),
                ("named", maybe(snapshot.is_named(), number)),
            ]),
        ),
        ("header", maybe(snapshot.header().ok(), header)),
        ("payload", maybe(snapshot.header().ok(), |header| payload(header.payload()))),
        ("owner", owner(facts)),
        (
            "statistics",
            object([
                ("swept", number(statistics.swept)),
                ("adopted", number(statistics.adopted)),
                ("unlink_failures", number(statistics.unlink_failures)),
            ]),
        ),
        ("attachments", array(snapshot.tenants().iter().map(|tenant| attachment(facts, tenant)))),
        ("arena", maybe(snapshot.arena(), |info| arena(facts, info))),
        ("estate", maybe(snapshot.estate(), |estate| reclaimed(&estate))),
    ])
}

pub const fn word_of_phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Forming => "forming",
        Phase::Live => "live",
        Phase::Retired => "retired",
        _ => "unknown",
    }
}

pub const fn word_of_life(life: Life) -> &'static str {
    match life {
        Life::Alive => "alive",
        Life::Dead => "dead",
        _ => "unknown",
    }
}

fn verdict(verdict: Verdict) -> Value {
    let state = match verdict {
        Verdict::Sound => "sound",
        Verdict::Forming => "forming",
        Verdict::Damaged(_) => "damaged",
        Verdict::Changing => "changing",
        _ => "unchecked",
    };
    let (part, at) = match verdict {
        Verdict::Damaged(Damage::Words { part, at }) => (Some(part), Some(at)),
        Verdict::Damaged(Damage::Lock(part) | Damage::GivenUp(part)) => (Some(part), None),
        _ => (None, None),
    };
    let part = match (verdict, part) {
        (_, Some(Part::Allocator)) => Some("allocator"),
        (_, Some(Part::Exports)) => Some("exports"),
        (_, Some(Part::Directory)) => Some("directory"),
        (Verdict::Damaged(Damage::Header(_) | Damage::Tenant { .. }), _) => Some("header"),
        _ => None,
    };
    object([
        ("state", string(state)),
        ("message", string(verdict)),
        ("part", maybe(part, string)),
        ("at", maybe(at, number)),
    ])
}

fn header(header: &Header) -> Value {
    let unlink = match header.unlink_policy() {
        UnlinkPolicy::OwnerDrop => "owner drop",
        UnlinkPolicy::LastDetach => "last detach",
        UnlinkPolicy::Never => "never",
        _ => "unknown",
    };
    let orphan = match header.orphan_policy() {
        OrphanPolicy::Adopt => "adopt",
        OrphanPolicy::Recreate => "recreate",
        OrphanPolicy::Refuse => "refuse",
        _ => "unknown",
    };
    object([
        ("id", string(header.segment_id())),
        ("total_length", number(header.total_len())),
        ("payload_length", number(header.payload_len())),
        ("initial_length", number(header.initial_len())),
        ("unlink_policy", string(unlink)),
        ("orphan_policy", string(orphan)),
        ("memfd", number(header.is_memfd())),
    ])
}

fn payload(payload: Payload) -> Value {
    match payload {
        Payload::Value { size, align } => {
            object([("sort", string("value")), ("size", number(size)), ("align", number(align))])
        }
        Payload::Arena { allocator, is_formed } => object([
            ("sort", string("arena")),
            ("allocator", string(allocator)),
            ("formatted", number(is_formed)),
        ]),
        _ => object([("sort", string("unset"))]),
    }
}

fn owner(facts: &Facts) -> Value {
    let owner = facts.owner();
    let state = match owner {
        Some(_) => "attached",
        None if facts.snapshot.is_orphan() => "orphan",
        None => "none",
    };
    object([
        ("state", string(state)),
        ("slot", maybe(owner, |owner| number(owner.slot()))),
        ("pid", maybe(owner.and_then(Tenant::pid), number)),
    ])
}

fn attachment(facts: &Facts, tenant: &Tenant) -> Value {
    let holdings = facts.holdings(tenant.slot());
    object([
        ("slot", number(tenant.slot())),
        ("generation", number(tenant.generation())),
        ("pid", maybe(tenant.pid(), number)),
        ("command", maybe(facts.command(tenant.slot()), string)),
        ("life", string(word_of_life(tenant.life()))),
        ("attached", number(tenant.is_attached())),
        ("owner", number(tenant.is_owner())),
        ("objects", number(holdings.objects.blocks)),
        ("bytes", number(holdings.objects.bytes)),
        ("references", number(holdings.references)),
    ])
}

fn arena(facts: &Facts, arena: &ArenaInfo) -> Value {
    let usage = arena.usage().map(|usage| {
        object([
            ("used", number(usage.used)),
            ("free", number(usage.free)),
            ("largest_free", number(usage.largest_free)),
            ("blocks", number(usage.blocks)),
            ("free_blocks", number(usage.free_blocks)),
            ("high_water", number(usage.high_water)),
        ])
    });
    let sums = facts.sums.iter().map(|(kind, sum)| {
        object([
            ("kind", string(kind.word())),
            ("slot", maybe(kind.slot(), number)),
            ("blocks", number(sum.blocks)),
            ("bytes", number(sum.bytes)),
        ])
    });
    object([
        ("allocator", string(arena.allocator())),
        ("heap_length", number(arena.heap_len())),
        ("heap_capacity", number(arena.heap_capacity())),
        (
            "locks",
            object([("allocator", lock(arena.heap_lock())), ("directory", lock(arena.directory_lock()))]),
        ),
        ("usage", maybe(usage, |usage| usage)),
        ("fragmentation_percent", maybe(arena.fragmentation(), number)),
        ("complete", number(arena.has_all_blocks())),
        ("sums", array(sums)),
        ("names", array(arena.names().iter().map(name))),
        ("reclaimed", reclaimed(arena.reclaimed())),
    ])
}

fn lock(state: LockState) -> Value {
    let (word, slot) = match state {
        LockState::Free => ("free", None),
        LockState::Held { slot } => ("held", Some(slot)),
        LockState::GivenUp => ("given up", None),
        _ => ("damaged", None),
    };
    object([("state", string(word)), ("slot", maybe(slot, number))])
}

fn name(named: &Named) -> Value {
    let block = named.block();
    let tag = block.type_tag();
    let holders = match block.kind() {
        shmem_bind::inspect::BlockKind::Shared { holders } => holders,
        _ => 0,
    };
    object([
        ("name", string(named.name())),
        ("size", maybe(block.object_len(), number)),
        ("align", maybe(tag, |tag| number(tag.align()))),
        ("version", maybe(tag, |tag| number(tag.version()))),
        ("fingerprint", maybe(tag, |tag| string(format!("{:010x}", tag.fingerprint())))),
        ("holders", array(slots(holders).map(number))),
        ("pinned", number(block.is_pinned())),
        ("offset", number(block.offset())),
    ])
}

fn reclaimed(reclaimed: &Reclaimed) -> Value {
    object([
        ("attachments", number(reclaimed.attachments)),
        ("objects", number(reclaimed.objects)),
        ("bytes", number(reclaimed.bytes)),
        ("references", number(reclaimed.references)),
        ("locks", number(reclaimed.locks)),
    ])
}
