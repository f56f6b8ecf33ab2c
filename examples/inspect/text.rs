//! The report for people

use crate::facts::{Facts, Kind, Sum, slots};
use crate::json::{word_of_life, word_of_phase};
use shmem_bind::inspect::{ArenaInfo, BlockKind, Damage, LockState, Named, Tenant, Verdict};
use shmem_bind::{Header, HeaderError, OrphanPolicy, Payload, UnlinkPolicy};
use std::fmt::Write;

/// Names, each of which anybody may have chosen, in a form that does nothing to a terminal.
pub fn quoted(name: &str) -> String {
    format!("{name:?}")
}

/// A number and what it counts.
pub fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A line for each segment.
pub fn list(all: &[Facts]) -> String {
    let mut text = String::new();
    for facts in all {
        let snapshot = &facts.snapshot;
        let payload = snapshot.header().map_or(0, Header::payload_len);
        let sort = snapshot.header().map_or_else(|_| "?".to_owned(), |header| sort(header.payload()));
        let dead = match facts.dead().count() {
            0 => String::new(),
            dead => format!(", {dead} dead"),
        };
        _ = writeln!(
            text,
            "{}: {}, {sort}, {} attached{dead}, {}",
            quoted(&facts.name),
            count(payload, "byte"),
            facts.living(),
            snapshot.verdict()
        );
    }
    text
}

/// All about one.
pub fn report(facts: &Facts) -> String {
    let snapshot = &facts.snapshot;
    let mut text = format!("segment {}: {}\n", quoted(&facts.name), snapshot.verdict());
    about_file(&mut text, facts);
    match snapshot.header() {
        Ok(header) => about_header(&mut text, facts, header),
        Err(error) => text += &format!("  header: {error}\n"),
    }
    if snapshot.phase().is_some() && snapshot.header().is_ok() {
        about_tenants(&mut text, facts);
    }
    if let Some(arena) = snapshot.arena() {
        about_arena(&mut text, facts, arena);
    }
    if let Some(estate) = snapshot.estate().filter(|estate| !estate.is_empty()) {
        text += &format!("  a sweep would give back {estate}\n");
    }
    if let Verdict::Damaged(damage) = snapshot.verdict() {
        text += &advice(facts, &damage);
    }
    text
}

fn about_file(text: &mut String, facts: &Facts) {
    let snapshot = &facts.snapshot;
    *text += &format!("  file: {}", count(snapshot.file_len(), "byte"));
    if let (Some(mode), Some(uid), Some(is_named)) = (snapshot.mode(), snapshot.uid(), snapshot.is_named()) {
        let named = if is_named { "" } else { "; the name does not lead to it any more" };
        *text += &format!(", mode {mode:04o}, of user {uid}{named}");
    }
    *text += "\n";
}

fn about_header(text: &mut String, facts: &Facts, header: &Header) {
    let unlink = match header.unlink_policy() {
        UnlinkPolicy::OwnerDrop => "when its owner drops it",
        UnlinkPolicy::LastDetach => "with the last attachment",
        _ => "by unlink alone",
    };
    let orphan = match header.orphan_policy() {
        OrphanPolicy::Adopt => "is adopted by the next opener",
        OrphanPolicy::Recreate => "is made anew by the next opener",
        _ => "is refused to all",
    };
    let grows = match header.initial_len() {
        initial if initial == header.payload_len() => String::new(),
        initial => format!(", {initial} at first"),
    };
    let phase = facts.snapshot.phase().map_or("unknown", word_of_phase);
    let statistics = facts.snapshot.statistics();
    *text += &format!(
        "  header: id {}, {phase}, payload of {}{grows}: {}\n  policies: the name goes {unlink}; an orphan {orphan}\n",
        header.segment_id(),
        count(header.payload_len(), "byte"),
        sort(header.payload()),
    );
    *text += &format!(
        "  so far: {} of the dead swept, {} adopted, {} to unlink\n",
        count(statistics.swept, "attachment"),
        count(statistics.adopted, "time"),
        count(statistics.unlink_failures, "failure")
    );
}

fn sort(payload: Payload) -> String {
    match payload {
        Payload::Value { size, align } => format!("a value of {}, aligned to {align}", count(size, "byte")),
        Payload::Arena { allocator, is_formed: true } => format!("an arena of {allocator}"),
        Payload::Arena { allocator, .. } => format!("an arena of {allocator}, being formatted"),
        _ => "nothing yet".to_owned(),
    }
}

fn about_tenants(text: &mut String, facts: &Facts) {
    let owner = match facts.owner() {
        Some(owner) => format!("slot {}", owner.slot()),
        None if facts.snapshot.is_orphan() => "died".to_owned(),
        None => "nobody".to_owned(),
    };
    *text += &format!("  owner: {owner}\n  attachments: {}\n", facts.snapshot.tenants().len());
    for tenant in facts.snapshot.tenants() {
        *text += &format!("    slot {:>2}: {}\n", tenant.slot(), about_tenant(facts, tenant));
    }
}

fn about_tenant(facts: &Facts, tenant: &Tenant) -> String {
    let mut line = who(facts, tenant);
    if !tenant.is_attached() {
        line += ", not attached";
    }
    if tenant.is_owner() {
        line += ", owner";
    }
    let holdings = facts.holdings(tenant.slot());
    if holdings.objects != Sum::default() {
        let Sum { blocks, bytes } = holdings.objects;
        line += &format!(", {} ({})", count(blocks, "object"), count(bytes, "byte"));
    }
    if holdings.references != 0 {
        line += &format!(", {}", count(holdings.references, "reference"));
    }
    line
}

/// The process that has a slot.
pub fn who(facts: &Facts, tenant: &Tenant) -> String {
    let pid = tenant.pid().map_or("a process that died".to_owned(), |pid| format!("process {pid}"));
    let command =
        facts.command(tenant.slot()).map_or(String::new(), |command| format!(" {}", quoted(command)));
    let far = if tenant.is_near() || tenant.pid().is_none() { "" } else { " of another PID namespace" };
    format!("{pid}{command}{far}, {}", word_of_life(tenant.life()))
}

fn about_arena(text: &mut String, facts: &Facts, arena: &ArenaInfo) {
    *text += &format!(
        "  arena: {} of heap{}\n",
        count(arena.heap_len(), "byte"),
        match arena.heap_capacity() {
            capacity if capacity == arena.heap_len() => String::new(),
            capacity => format!(", may grow to {capacity}"),
        }
    );
    for (state, what) in [(arena.heap_lock(), "allocator"), (arena.directory_lock(), "directory")] {
        let who = |slot| facts.tenant(slot).map_or("nobody".to_owned(), |tenant| who(facts, tenant));
        match state {
            LockState::Free => {}
            LockState::Held { slot } => {
                *text += &format!("    {what} locked by slot {slot}, {}\n", who(slot))
            }
            LockState::GivenUp => *text += &format!("    {what} given up: it could not be put right\n"),
            _ => *text += &format!("    {what}: its lock is damaged\n"),
        }
    }
    if let (Some(usage), Some(fragmentation)) = (arena.usage(), arena.fragmentation()) {
        *text += &format!(
            "    in use: {} in {}, at most {} so far\n    free: {} in {}, largest object {}, fragmentation {fragmentation} %\n",
            count(usage.used, "byte"),
            count(usage.blocks, "block"),
            usage.high_water,
            count(usage.free, "byte"),
            count(usage.free_blocks, "piece"),
            usage.largest_free,
        );
    }
    if !arena.has_all_blocks() {
        *text += "    not all blocks could be read\n";
    }
    for (kind, Sum { blocks, bytes }) in &facts.sums {
        *text +=
            &format!("    {}: {} in {}\n", about_kind(*kind), count(*bytes, "byte"), count(*blocks, "block"));
    }
    *text += &format!("  names: {}\n", arena.names().len());
    for named in arena.names() {
        *text += &format!("    {}\n", about_name(named));
    }
    if !arena.reclaimed().is_empty() {
        *text += &format!("  given back so far: {}\n", arena.reclaimed());
    }
}

/// A kind of block.
pub fn about_kind(kind: Kind) -> String {
    match kind {
        Kind::Exclusive(slot) => format!("slot {slot}'s own"),
        Kind::Leaked => "leaked, not claimed yet".to_owned(),
        Kind::Condemned => "waiting to be freed".to_owned(),
        Kind::Internal => "the arena's own".to_owned(),
        kind => kind.word().to_owned(),
    }
}

fn about_name(named: &Named) -> String {
    let block = named.block();
    let mut line = quoted(named.name()) + ": ";
    match block.type_tag() {
        Some(tag) => {
            line += &format!(
                "{}, aligned to {}, version {}, fingerprint {:010x}",
                count(tag.size(), "byte"),
                tag.align(),
                tag.version(),
                tag.fingerprint()
            );
        }
        None => line += "leads to no object",
    }
    if let BlockKind::Shared { holders } = block.kind() {
        let slots: Vec<String> = slots(holders).map(|slot| slot.to_string()).collect();
        line += &match slots.len() {
            0 => ", held by nobody".to_owned(),
            1 => format!(", held by slot {}", slots.join("")),
            _ => format!(", held by slots {}", slots.join(", ")),
        };
    }
    line + if block.is_pinned() { ", for ever" } else { "" }
}

/// What can be done about damage.
fn advice(facts: &Facts, damage: &Damage) -> String {
    match damage {
        Damage::Header(
            HeaderError::Version { .. } | HeaderError::Endianness | HeaderError::Layout { .. },
        ) => "  it was made by a program that uses another version of the format\n".to_owned(),
        Damage::Header(_) => format!(
            "  it can be neither attached nor unlinked; if nobody needs it: rm -- {}\n",
            shell_quoted(&facts.name)
        ),
        _ => "  end those who use it, remove it with --unlink, and let it be created again\n".to_owned(),
    }
}

/// The path of a segment's file, as a shell takes it.
pub fn shell_quoted(name: &str) -> String {
    let path = format!("/dev/shm/{name}");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(is_plain) {
        path
    } else if path.chars().any(char::is_control) {
        let escaped: Vec<String> = path.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("$'{}'", escaped.concat())
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

/// What has changed in sums since the last look.
pub fn changes(last: Option<&Facts>, now: &Facts) -> String {
    let Some(last) = last else { return String::new() };
    let figures = |facts: &Facts| {
        let arena = facts.snapshot.arena();
        let usage = arena.and_then(ArenaInfo::usage).copied().unwrap_or_default();
        [
            ("attachments", facts.snapshot.tenants().len() as u64),
            ("names", arena.map_or(0, |arena| arena.names().len() as u64)),
            ("blocks in use", usage.blocks),
            ("bytes in use", usage.used),
            ("bytes free", usage.free),
            ("attachments swept", facts.snapshot.statistics().swept),
        ]
    };
    let both = figures(last).into_iter().zip(figures(now));
    let changed: Vec<String> = both
        .filter(|((_, before), (_, after))| before != after)
        .map(|((what, before), (_, after))| {
            let sign = if after > before { '+' } else { '-' };
            format!("{what} {sign}{}", after.abs_diff(before))
        })
        .collect();
    match changed.as_slice() {
        [] => "  since the last look: nothing\n".to_owned(),
        changed => format!("  since the last look: {}\n", changed.join(", ")),
    }
}
