//! Cleaning up what the dead have left
//!
//! First it is said what will be done. Between that and the deed others may have done it, or somebody else have died, so
//! what was done is said, too.

use crate::arguments::Arguments;
use crate::facts::Facts;
use crate::text::{quoted, shell_quoted, who};
use crate::{End, say};
use shmem_bind::inspect::{Damage, Life, Verdict};
use shmem_bind::{
    AllocatorId, Builder, Bump, OrphanPolicy, Payload, Phase, Reclaimed, RegionAllocator, ShmemConf,
    ShmemError, Slab, Tlsf, UnlinkPolicy,
};
use std::io::{self, IsTerminal, Write};

/// Gives back what processes held that died.
pub fn sweep(facts: &Facts, arguments: &Arguments) -> io::Result<End> {
    let name = quoted(&facts.name);
    if let Some(reason) = not_swept(facts) {
        tell(arguments, &format!("sweep: nothing is done: {reason}\n"))?;
        return Ok(End::Sound);
    }
    let mut plan = format!("sweep of {name}: this gives back\n");
    for dead in facts.dead() {
        plan += &format!("  slot {}, of {}\n", dead.slot(), who(facts, dead));
    }
    match facts.snapshot.estate() {
        Some(estate) => plan += &format!("  in all {estate}\n"),
        None => plan += "  and what they hold, as far as that can be told\n",
    }
    plan += if takes_name_along(facts) {
        "  the name goes: nobody else is attached, and by the policy the last one takes it along\n"
    } else {
        "  the name stays\n"
    };
    if !agreed(&plan, arguments)? {
        return Ok(End::Sound);
    }
    match do_sweep(facts) {
        Ok(given_back) => {
            tell(arguments, &format!("sweep: given back: {given_back}\n"))?;
            Ok(End::Sound)
        }
        Err(ShmemError::NotFound) => {
            tell(arguments, "sweep: the segment has gone meanwhile\n")?;
            Ok(End::Sound)
        }
        Err(error) => Ok(failed("sweep", &error)),
    }
}

/// Why there is nothing to sweep, or it cannot be done.
fn not_swept(facts: &Facts) -> Option<String> {
    let snapshot = &facts.snapshot;
    let Ok(header) = snapshot.header() else {
        return Some(format!("it is not a segment that can be attached; {}", rm(facts)));
    };
    if matches!(snapshot.verdict(), Verdict::Damaged(Damage::Header(_))) {
        return Some(format!("it cannot be attached; {}", rm(facts)));
    }
    match snapshot.phase() {
        Some(Phase::Live) => {}
        Some(Phase::Forming) => {
            return Some("it is being created, or was left unfinished; see --unlink".to_owned());
        }
        _ => {
            return Some(
                "it has been unlinked; what it holds goes with its last user; see --unlink".to_owned(),
            );
        }
    }
    if facts.dead().next().is_none() {
        return Some("nobody who is attached is dead".to_owned());
    }
    let has_lost_owner =
        snapshot.is_orphan() || facts.owner().is_some_and(|owner| owner.life() == Life::Dead);
    match header.orphan_policy() {
        OrphanPolicy::Refuse if has_lost_owner => {
            Some("its owner has died, and by its policy nobody may attach any more; see --unlink".to_owned())
        }
        OrphanPolicy::Recreate if has_lost_owner && facts.living() == 0 => {
            Some("nobody is left, and by its policy the next opener makes it anew; see --unlink".to_owned())
        }
        _ => None,
    }
}

/// Whether the name goes when this process has attached and leaves again.
fn takes_name_along(facts: &Facts) -> bool {
    let policy = facts.snapshot.header().map(|header| header.unlink_policy());
    policy == Ok(UnlinkPolicy::LastDetach) && facts.living() == 0
}

fn do_sweep(facts: &Facts) -> Result<Reclaimed, ShmemError> {
    let snapshot = &facts.snapshot;
    let mut builder = Builder::new(&facts.name).mode(snapshot.mode().unwrap_or(0o600));
    if let Some(uid) = snapshot.uid() {
        builder = builder.uid(uid);
    }
    // This does not make it the owner, so its leaving is nothing to the others.
    let conf = builder.attach()?;
    let swept = conf.sweep();
    let before = snapshot.arena().map(|arena| *arena.reclaimed()).unwrap_or_default();
    let mut given_back = match conf.payload() {
        Ok(Payload::Arena { allocator, is_formed: true }) => sweep_arena(conf, allocator, &before)?,
        // Of a value, nobody has parts.
        _ => Reclaimed::default(),
    };
    given_back.attachments = given_back.attachments.max(swept.into());
    Ok(given_back)
}

fn sweep_arena(conf: ShmemConf, allocator: AllocatorId, before: &Reclaimed) -> Result<Reclaimed, ShmemError> {
    if allocator == Tlsf::ID {
        sweep_as::<Tlsf>(conf, before)
    } else if allocator == Slab::ID {
        sweep_as::<Slab>(conf, before)
    } else if allocator == Bump::ID {
        sweep_as::<Bump>(conf, before)
    } else {
        // The objects are for those to give back who know the allocator.
        Ok(Reclaimed::default())
    }
}

/// Gives the difference to what was given back before; opening the arena has done some of it.
fn sweep_as<A: RegionAllocator>(conf: ShmemConf, before: &Reclaimed) -> Result<Reclaimed, ShmemError> {
    let arena = conf.arena::<A>()?;
    arena.sweep()?;
    let mut after = arena.reclaimed();
    after.attachments = after.attachments.saturating_sub(before.attachments);
    after.objects = after.objects.saturating_sub(before.objects);
    after.bytes = after.bytes.saturating_sub(before.bytes);
    after.references = after.references.saturating_sub(before.references);
    after.locks = after.locks.saturating_sub(before.locks);
    Ok(after)
}

/// Takes the name away.
pub fn unlink(facts: &Facts, arguments: &Arguments) -> io::Result<End> {
    let snapshot = &facts.snapshot;
    let refused = match snapshot.verdict() {
        Verdict::Damaged(Damage::Header(_)) => true,
        // An empty file cannot be shown to be a segment.
        _ => snapshot.header().is_err(),
    };
    if refused {
        let why = "the file does not say that it is a segment, or is cut short";
        tell(arguments, &format!("unlink: nothing is done: {why}; {}\n", rm(facts)))?;
        return Ok(End::Unreadable);
    }
    let mut plan = format!("unlink of {}: the name goes", quoted(&facts.name));
    match facts.living() {
        0 => plan += ", and all that the segment holds\n",
        living => {
            plan += &format!(
                "; {} of those who may live {} on with the unnamed segment, and nobody else gets at it:\n",
                living,
                if living == 1 { "goes" } else { "go" }
            );
            let attached = snapshot.tenants().iter().filter(|tenant| tenant.is_attached());
            for tenant in attached.filter(|tenant| tenant.life() != Life::Dead) {
                plan += &format!("  slot {}, {}\n", tenant.slot(), who(facts, tenant));
            }
        }
    }
    if !agreed(&plan, arguments)? {
        return Ok(End::Sound);
    }
    match shmem_bind::unlink(&facts.name) {
        Ok(()) => tell(arguments, "unlink: done\n").map(|()| End::Sound),
        Err(ShmemError::NotFound) => tell(arguments, "unlink: it has gone already\n").map(|()| End::Sound),
        Err(error) => Ok(failed("unlink", &error)),
    }
}

fn rm(facts: &Facts) -> String {
    format!("if nobody needs it: rm -- {}", shell_quoted(&facts.name))
}

fn failed(what: &str, error: &ShmemError) -> End {
    eprintln!("inspect: {what}: {error}");
    End::Unreadable
}

/// Says something beside the report, which is for machines if that is wanted.
fn tell(arguments: &Arguments, text: &str) -> io::Result<()> {
    if arguments.json { io::stderr().lock().write_all(text.as_bytes()) } else { say(text) }
}

/// Says what will be done, and whether it is to be.
fn agreed(plan: &str, arguments: &Arguments) -> io::Result<bool> {
    tell(arguments, plan)?;
    if arguments.yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        tell(arguments, "nothing is done: there is no terminal to ask at; say --yes\n")?;
        return Ok(false);
    }
    say("do it? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        tell(arguments, "nothing is done\n")?;
    }
    Ok(agreed)
}
