//! The life-cycle protocol, model-checked
//!
//! Opening, joining, leaving, sweeping and unlinking are sequences of system calls and compare-and-swaps, and
//! a process may be killed between any two of them. Here every interleaving of up to three processes is
//! explored, with kills and restarts, one name and the inodes that come and go behind it. The membership
//! word is the real one: this test compiles `src/membership.rs`. The rest of the protocol is written down once
//! more in `protocol.rs`, one action for each call or atomic access.
//!
//! # Properties
//!
//! In every state:
//! - The membership word is sound: the owner of a Live segment is attached, a Retired one's unlinker is not.
//! - A Live segment has its name, so nobody is attached to one segment while newcomers get another.
//! - An unlink never takes the name from another inode than the unlinker meant, nor from a Live segment.
//! - A segment is created once; its destructor runs at most once, when nobody else is attached.
//! - Nobody alive is taken for dead: who holds a tenancy finds its identity in it, and who is attached its
//!   bit set.
//! - A set bit stands for a tenant that is attached, is dead, or is being swept.
//! - No living process leaves its identity in a tenancy that it does not use.
//!
//! From every state, or from a fixed sample of the states, by letting the protocol run on:
//! - Everybody is killed: one newcomer gets in, is the only one counted, and no name is left when it leaves
//!   (if the unlink policy says so, and nobody gave the segment up on purpose).
//! - All but one are killed in the middle of something: the one ends it and then gets in like a newcomer.
//! - All but one who is attached are killed: when it detaches, it retires the segment if the policy is
//!   last-detach, and runs the destructor if the segment is Retired.
//! - Nobody is killed and all get their turns: all who are in the middle of something get in.
//!
//! # What is left out
//!
//! Atomics are sequentially consistent. A process is attached once at a time and does one thing at a time.
//! Read-only attachments hold the shared lock and write nothing; memfds have neither name nor lock. Clocks
//! and deadlines: giving up is possible wherever a process would start again. The table of tenancies has two
//! or three entries. To look at a tenancy word and to replace that very word is one action: of the words that
//! may be replaced, a dead one is never written anew and a free one is like any other.
//!
//! # Why not stateright
//!
//! It was tried, and finds the same states. But its breadth-first search keeps with each pending state the
//! way to it, more than a hundred actions here, and takes twice the time and memory and 47 more packages.
//!
//! # When it fails
//!
//! The trace gives who did what, and what that made of the shared words: the phase, the owner, the tenant of
//! each slot, with a `+` where its bit is set. Where a progress property fails, the trace ends in the state
//! from which there is no way on.

// Modules of a test are reached from nowhere, and a test may panic.
#![allow(unreachable_pub)]
#![allow(clippy::arithmetic_side_effects, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "protocol_model/explorer.rs"]
mod explorer;
#[allow(dead_code)]
#[path = "../src/membership.rs"]
mod membership;
#[path = "protocol_model/properties.rs"]
mod properties;
#[path = "protocol_model/property.rs"]
mod property;
#[path = "protocol_model/protocol.rs"]
mod protocol;
#[path = "protocol_model/world.rs"]
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use explorer::{Violation, explore, places};
use membership::{OrphanPolicy, UnlinkPolicy};
use protocol::{Choice, Mistake, Protocol};
use world::{At, Sweep, Unlinker};

const ORPHAN_POLICIES: [OrphanPolicy; 3] =
    [OrphanPolicy::Adopt, OrphanPolicy::Recreate, OrphanPolicy::Refuse];
const ALL: &[Choice] = &[Choice::Own, Choice::Leak, Choice::UnlinkName];
/// In small models the progress properties are looked at in one of so many states.
const OFTEN: Option<u64> = Some(4);
const SELDOM: Option<u64> = Some(32);

/// Two processes that do all they can, with few enough tenancies that the dead may fill them.
fn pair(unlink: UnlinkPolicy, orphan: OrphanPolicy) -> Protocol {
    Protocol { processes: 2, slots: 2, crashes: 3, failures: true, operations: ALL, ..trio(unlink, orphan) }
}

/// Three processes that open and detach.
fn trio(unlink: UnlinkPolicy, orphan: OrphanPolicy) -> Protocol {
    Protocol {
        unlink,
        orphan,
        processes: 3,
        slots: 3,
        crashes: 1,
        failures: false,
        operations: &[],
        mistake: None,
    }
}

#[track_caller]
fn assert_holds(protocol: &Protocol, progress: Option<u64>) {
    let start = Instant::now();
    let explored = explore(protocol, progress);
    let Protocol { unlink, orphan, processes, slots, crashes, .. } = protocol;
    println!(
        "protocol_model {unlink:?} {orphan:?}: states {}, violations {} ({processes} processes, {slots} slots, \
         {crashes} crashes{}, also {:?}; up to {} actions, {:.1?})",
        explored.states,
        u32::from(explored.violation.is_some()),
        if protocol.failures { ", failures" } else { "" },
        protocol.operations,
        explored.depth,
        start.elapsed(),
    );
    if let Some(Violation { property, actions, trace }) = explored.violation {
        panic!("not so after {actions} actions: {property}\n{trace}");
    }
}

#[test]
fn owner_drop_and_adopt() {
    let trio = trio(UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt);
    assert_holds(&Protocol { crashes: 2, ..trio }, SELDOM);
    assert_holds(&Protocol { operations: &[Choice::UnlinkName], ..trio }, SELDOM);
    assert_holds(&pair(UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt), OFTEN);
}

#[test]
fn owner_drop_and_other_orphan_policies() {
    for orphan in [OrphanPolicy::Recreate, OrphanPolicy::Refuse] {
        assert_holds(&Protocol { failures: true, ..trio(UnlinkPolicy::OwnerDrop, orphan) }, SELDOM);
        assert_holds(&pair(UnlinkPolicy::OwnerDrop, orphan), OFTEN);
    }
}

#[test]
fn last_detach() {
    for orphan in ORPHAN_POLICIES {
        assert_holds(&trio(UnlinkPolicy::LastDetach, orphan), SELDOM);
        assert_holds(&pair(UnlinkPolicy::LastDetach, orphan), OFTEN);
    }
}

#[test]
fn never() {
    for orphan in ORPHAN_POLICIES {
        let trio = trio(UnlinkPolicy::Never, orphan);
        assert_holds(&Protocol { operations: &[Choice::Own, Choice::Leak], ..trio }, SELDOM);
        assert_holds(&pair(UnlinkPolicy::Never, orphan), OFTEN);
    }
}

/// All bounds that are worth minutes, on two threads. Takes 4 GB.
#[test]
#[ignore = "takes minutes"]
fn long_protocol_model() {
    let mut runs = vec![Protocol {
        failures: true,
        operations: ALL,
        ..trio(UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt)
    }];
    runs.push(Protocol { crashes: 3, ..trio(UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt) });
    for orphan in ORPHAN_POLICIES {
        runs.push(Protocol { crashes: 2, ..trio(UnlinkPolicy::LastDetach, orphan) });
        runs.push(Protocol { operations: &[Choice::UnlinkName], ..trio(UnlinkPolicy::Never, orphan) });
        runs.push(Protocol { crashes: 4, slots: 3, ..pair(UnlinkPolicy::OwnerDrop, orphan) });
        runs.push(Protocol { crashes: 4, slots: 3, ..pair(UnlinkPolicy::LastDetach, orphan) });
    }
    for orphan in [OrphanPolicy::Recreate, OrphanPolicy::Refuse] {
        runs.push(Protocol { crashes: 2, ..trio(UnlinkPolicy::OwnerDrop, orphan) });
    }
    // Of so many one, if the environment says.
    let every = std::env::var("SHMEM_BIND_EVERY").map_or(1, |every| every.parse().unwrap());
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(protocol) = runs.get(next.fetch_add(every, Ordering::Relaxed)) {
            assert_holds(protocol, Some(128));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker);
        worker();
    });
}

/// Nothing is proved about steps that no process ever takes.
#[test]
fn every_step_is_taken() {
    let mut places = places(&Protocol { slots: 2, ..trio(UnlinkPolicy::LastDetach, OrphanPolicy::Recreate) });
    places.extend(explorer::places(&pair(UnlinkPolicy::OwnerDrop, OrphanPolicy::Recreate)));
    use At::*;
    let mut expected = vec![
        Idle,
        TryExclusive,
        CheckNameExclusive,
        ReadPhaseExclusive,
        UnlinkExclusive,
        Truncate,
        WriteHeader,
        Map,
        StoreTenancy,
        ConvertNew,
        Form,
        Vacate,
        ClearTenancies,
        PeekPhase,
        TryShared,
        CheckNameShared,
        ReadPhaseShared,
        Survey,
        Join,
        Retire,
        Attached,
        Detach,
        Destroy,
        FreeTenancy,
        Release,
    ];
    for unlinker in [
        Unlinker::Detaching { last: false },
        Unlinker::Detaching { last: true },
        Unlinker::Recreating,
        Unlinker::Administrator,
        Unlinker::Sweeping { slot: 0, sweep: Sweep::Leaving },
        Unlinker::Sweeping { slot: 0, sweep: Sweep::Takeover },
    ] {
        expected.extend([CheckName(unlinker), Unlink(unlinker)]);
    }
    for sweep in [Sweep::Owner, Sweep::Orphan, Sweep::Full, Sweep::Leaving, Sweep::Takeover] {
        expected.push(SweepDone { slot: 0, sweep });
    }
    expected.push(ClaimTenancy { slot: 0, swept: true });
    expected.retain(|place| !places.contains(place));
    assert!(expected.is_empty(), "nobody gets to {expected:?}");
}

// Mistakes put in on purpose. Each is in the same model, which without them has no violation.

fn with_mistake(mistake: Option<Mistake>) -> Protocol {
    Protocol { mistake, ..trio(UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt) }
}

#[test]
fn without_a_mistake_nothing_is_found() {
    assert_holds(&with_mistake(None), Some(1));
}

#[track_caller]
fn assert_found(mistake: Mistake, progress: Option<u64>, property: &str) {
    let explored = explore(&with_mistake(Some(mistake)), progress);
    let violation = explored.violation.unwrap_or_else(|| panic!("{mistake:?} is not found"));
    println!(
        "protocol_model {mistake:?}: found after {} states, {} actions; not so: {}\n{}",
        explored.states, violation.actions, violation.property, violation.trace
    );
    assert_eq!(violation.property, property);
}

#[test]
fn a_name_check_missing_under_the_lock_is_found() {
    let property = "no name is taken from a Live or another segment";
    assert_found(Mistake::NoNameCheckUnderLock, None, property);
}

#[test]
fn an_unchecked_unlink_is_found() {
    assert_found(Mistake::UnlinkUnchecked, None, "no name is taken from a Live or another segment");
}

#[test]
fn an_upgraded_lock_is_found() {
    assert_found(Mistake::UpgradeLock, None, "nobody alive is taken for dead");
}

#[test]
fn an_identity_in_two_words_is_found() {
    assert_found(Mistake::IdentityInTwoWords, None, "nobody alive is taken for dead");
}

#[test]
fn an_owner_that_survives_its_sweep_is_found() {
    assert_found(Mistake::OwnerSurvivesSweep, None, "the membership word is sound");
}

#[test]
fn a_segment_born_without_owner_is_found() {
    assert_found(Mistake::BornWithoutOwner, Some(1), "a newcomer gets in after a massacre");
}

#[test]
fn a_shared_lock_while_forming_is_found() {
    assert_found(Mistake::SharedLockWhileForming, Some(1), "a sole survivor gets in");
}
