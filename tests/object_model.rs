//! The life of an object, model-checked
//!
//! An object is allocated, leaked and claimed, shared and found by a name, dropped and swept by processes that may be
//! killed between any two accesses to shared memory. Here every interleaving is explored of up to three processes, of
//! which one may have two threads, with kills and restarts. The state words are the real ones: this test compiles
//! `src/object/mod.rs`. The rest is written down once more in `protocol.rs`, `heap.rs` and `directory.rs`, one action for each access to a word
//! that somebody else may see.
//!
//! There are two blocks. Objects come to lie in the first, one after the other, so that whatever is done too late is
//! done to the wrong object. The second is the entry of the one name. In some models its memory becomes the inside
//! of another object, whose bytes look like an entry. Condemned blocks, and the death of whoever frees them, are
//! part of it all.
//!
//! # Properties
//!
//! In every state:
//! - A destructor runs at most once, in the one process that has the object, and never after the memory was given back.
//! - Nothing is freed while somebody alive has it. Who has a box has the object exclusively; who has references has
//!   its bit set; who has the only reference, and changes the value, is alone and the object has no name.
//! - A handle is good once, and only for the object that it was made for.
//! - The export bit is set while a handle or a name leads to the object, and a free block has none.
//! - Unless somebody is in the directory: the place leads to an entry in use, an entry in use has its place, the object
//!   has DIR exactly if it has a name, and no intents are left.
//! - No word is changed that is not a block's any more. State words are valid. Nobody alive finds damage.
//! - The private count of a process at rest is the number of references in its hands.
//!
//! From every state, or from a fixed sample of the states, by letting everybody go on, drop what it has, sweep, and
//! claim and unpublish what is left:
//! - Everybody is killed: a newcomer gets everything free.
//! - All but one are killed: that one does.
//! - Nobody is killed: all together do. In particular nobody waits for somebody who waits for it.
//!
//! # What is left out
//!
//! Atomics are sequentially consistent. Loading a word and replacing that very word by compare-and-swap, tried until it
//! succeeds, is one action. There is one object at a time, one name, and a table that does not grow; pinned names,
//! whose objects stay anyway. The allocator is a lock, a stack of condemned blocks and two state words. A
//! process has one slot, and comes back in the same; that its death is noticed, and its slot's tenancy made
//! deceased, is one action (`protocol_model` looks at that more closely). Nobody detaches. A tag fits its
//! type. Waiting for a lock for too long is an outcome only where somebody alive holds the directory.
//!
//! # When it fails
//!
//! The trace gives who did what, and what that made of the shared words: the state of the object's block and of the
//! entry's, the intents, the tenant of each slot, locks, stack and private counts. Where a property about
//! what must be possible fails, the trace ends in the state from which there is no way on.

// Modules of a test are reached from nowhere, and a test may panic.
#![allow(unreachable_pub)]
#![allow(clippy::arithmetic_side_effects, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "object_model/directory.rs"]
mod directory;
// The one of the life-cycle model.
#[path = "protocol_model/explorer.rs"]
mod explorer;
#[path = "object_model/heap.rs"]
mod heap;
#[allow(dead_code)]
#[path = "../src/membership.rs"]
mod membership;
#[allow(dead_code)]
#[path = "../src/object/mod.rs"]
mod object;
#[path = "object_model/properties.rs"]
mod properties;
#[path = "protocol_model/property.rs"]
mod property;
#[path = "object_model/protocol.rs"]
mod protocol;
#[path = "object_model/world.rs"]
mod world;

/// What `src/object/mod.rs` needs of `src/shareable`: a type's tag as three words.
mod shareable {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TypeTag([u64; 3]);

    #[allow(dead_code)]
    impl TypeTag {
        pub const fn from_words(words: [u64; 3]) -> Self {
            Self(words)
        }

        pub const fn to_words(self) -> [u64; 3] {
            self.0
        }

        pub const fn fingerprint(self) -> u64 {
            self.0[0]
        }

        pub const fn align(self) -> u32 {
            self.0[2] as u32
        }

        pub const fn version(self) -> u32 {
            (self.0[2] >> 32) as u32
        }
    }
}

use explorer::{Violation, explore, places};
use protocol::{Choice, Mistake, Protocol};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const HANDLES: &[Choice] =
    &[Choice::Allocate, Choice::DropBox, Choice::Leak, Choice::Claim(1), Choice::Claim(2), Choice::Sweep];
const NAMES: &[Choice] = &[
    Choice::Allocate,
    Choice::DropBox,
    Choice::IntoArc,
    Choice::DropArc,
    Choice::Publish,
    Choice::Find,
    Choice::Unpublish,
    Choice::Sweep,
];
const REFERENCES: &[Choice] = &[
    Choice::Allocate,
    Choice::DropBox,
    Choice::IntoArc,
    Choice::Clone,
    Choice::DropArc,
    Choice::IntoBox,
    Choice::GetMut,
    Choice::Publish,
    Choice::Find,
    Choice::Unpublish,
    Choice::Sweep,
];
const REUSE: &[Choice] = &[
    Choice::Allocate,
    Choice::DropBox,
    Choice::IntoArc,
    Choice::DropArc,
    Choice::Publish,
    Choice::Unpublish,
    Choice::Sweep,
    Choice::Reuse,
];
const ALL: &[Choice] = &[
    Choice::Allocate,
    Choice::DropBox,
    Choice::Leak,
    Choice::Claim(1),
    Choice::Claim(2),
    Choice::IntoArc,
    Choice::Clone,
    Choice::DropArc,
    Choice::IntoBox,
    Choice::GetMut,
    Choice::Publish,
    Choice::Find,
    Choice::Unpublish,
    Choice::Sweep,
    Choice::Reuse,
];

const TWO: &[usize] = &[0, 1];
const THREE: &[usize] = &[0, 1, 2];
/// Both of the first process.
const THREADS: &[usize] = &[0, 3];
const THREADS_AND_ANOTHER: &[usize] = &[0, 3, 1];

const BASE: Protocol = Protocol {
    threads: THREE,
    crashes: 1,
    failures: false,
    inherits: false,
    leaks: 2,
    operations: HANDLES,
    mistake: None,
    processes: THREE.len(),
};

/// The states that were visited.
#[track_caller]
fn assert_holds(name: &str, protocol: &Protocol, progress: u64) -> usize {
    let start = Instant::now();
    let explored = explore(protocol, Some(progress));
    let Protocol { threads, crashes, inherits, .. } = protocol;
    println!(
        "object_model {name}: states {}, violations {} (threads {threads:?}, {crashes} crashes{}; up to {} actions, \
         {:.1?})",
        explored.states,
        u32::from(explored.violation.is_some()),
        if *inherits { ", inherited slots" } else { "" },
        explored.depth,
        start.elapsed(),
    );
    if let Some(Violation { property, actions, trace }) = explored.violation {
        panic!("not so after {actions} actions: {property}\n{trace}");
    }
    explored.states
}

#[test]
fn handles() {
    assert_holds("handles", &Protocol { crashes: 2, ..BASE }, 64);
    assert_holds("handles", &Protocol { threads: TWO, crashes: 2, inherits: true, ..BASE }, 16);
}

#[test]
fn names() {
    let names = Protocol { operations: NAMES, ..BASE };
    assert_holds("names", &Protocol { crashes: 0, ..names }, 64);
    assert_holds(
        "names",
        &Protocol { threads: TWO, crashes: 2, inherits: true, failures: true, ..names },
        64,
    );
    assert_holds("names, reuse", &Protocol { threads: TWO, inherits: true, operations: REUSE, ..names }, 16);
}

#[test]
fn references() {
    let references = Protocol { operations: REFERENCES, ..BASE };
    assert_holds("references", &Protocol { threads: THREADS, crashes: 2, inherits: true, ..references }, 16);
    assert_holds("references", &Protocol { threads: THREADS_AND_ANOTHER, crashes: 0, ..references }, 64);
}

#[test]
fn inherited_slots() {
    let handles = Protocol { crashes: 2, leaks: 1, inherits: true, ..BASE };
    assert_holds("inherited slots", &Protocol { threads: THREADS_AND_ANOTHER, ..handles }, 64);
}

/// All bounds that are worth minutes, on two threads. Takes 1 GB.
#[test]
#[ignore = "takes minutes"]
fn long_object_model() {
    let names = Protocol { operations: NAMES, ..BASE };
    let all = Protocol { operations: ALL, ..BASE };
    let references = Protocol { operations: REFERENCES, threads: THREADS_AND_ANOTHER, ..BASE };
    let runs = [
        Protocol { threads: THREADS_AND_ANOTHER, leaks: 1, ..all },
        names,
        Protocol { crashes: 2, inherits: true, ..references },
        Protocol { threads: TWO, crashes: 2, inherits: true, failures: true, ..all },
        Protocol { crashes: 3, inherits: true, ..BASE },
        Protocol { threads: THREADS_AND_ANOTHER, crashes: 3, inherits: true, ..BASE },
        Protocol { threads: TWO, crashes: 3, inherits: true, operations: REUSE, ..names },
    ];
    let (next, states) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = || {
        while let Some(protocol) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            states.fetch_add(assert_holds("long", protocol, 512), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker);
        worker();
    });
    println!("object_model: states {}, violations 0", states.into_inner());
}

/// Nothing is proved about steps that no thread ever takes.
#[test]
fn every_step_is_taken() {
    let names = Protocol { threads: TWO, operations: NAMES, ..BASE };
    let mut found = BTreeSet::new();
    for protocol in [
        names,
        Protocol { threads: TWO, inherits: true, leaks: 1, ..BASE },
        Protocol { threads: THREADS, operations: REFERENCES, crashes: 0, ..BASE },
    ] {
        let step = |debug: &str| debug.split([' ', '(']).next().map(str::to_owned);
        found.extend(places(&protocol).iter().filter_map(|place| step(&format!("{place:?}"))));
    }
    // Not `RecoverOwn` and what follows: whoever dies in the directory holds the object that it intends to change, until
    // a sweep, which puts the directory right first.
    let expected = "Dead Idle HeapLock PopHead PopMark PopTake PopFree Walk WalkUnexport WalkFree HandOut HeapUnlock \
                    TryFree FreeCommit FreeUnlock Condemn PushLink Push Destroy LeakExport Leak Claim \
                    ClaimUnexport ShareExport Share ShareCount AloneStripe AloneCount AloneState \
                    AloneRestore NotAlone Mutate Give GiveStripe GiveCount GiveBit GiveUnexport Hold HoldStripe \
                    HoldBit HoldCount Enter RecoverObject \
                    RecoverEntry RecoverEntryUnintend RecoverClear RecoverClearObject Look IntendEntry \
                    IntendObject Intern SetDir StorePlace RemovePlace TakeDir Extern ClearIntent \
                    ClearIntentObject Leave ClaimSlot Settle FreeSlot";
    let expected: BTreeSet<_> = expected.split_whitespace().map(str::to_owned).collect();
    let missing: Vec<_> = expected.symmetric_difference(&found).collect();
    assert!(missing.is_empty(), "nobody gets to {missing:?}");
}

// Mistakes put in on purpose. Each is in a model that has no violation without it.

/// The model in which this mistake shows.
fn with_mistake(mistake: Mistake) -> Protocol {
    let protocol = match mistake {
        Mistake::ClaimAnySerial | Mistake::UnexportBeforeClaim => BASE,
        Mistake::FreeBeforeUnexport | Mistake::TakeBeforeMark => Protocol { threads: TWO, ..BASE },
        Mistake::SlotBeforeObjects => Protocol { threads: TWO, ..BASE },
        Mistake::EstateUnguarded => {
            Protocol { threads: THREADS_AND_ANOTHER, inherits: true, leaks: 0, ..BASE }
        }
        Mistake::ReleaseInTwoSteps | Mistake::UnexportBeforeRelease => {
            Protocol { threads: TWO, operations: REFERENCES, ..BASE }
        }
        Mistake::CountAfterBit | Mistake::HoldWithoutStripe | Mistake::AloneByTwoLoads => {
            Protocol { threads: THREADS, operations: REFERENCES, ..BASE }
        }
        Mistake::PlaceBeforeDir | Mistake::NoIntents => Protocol { threads: TWO, operations: NAMES, ..BASE },
        Mistake::ClearIntentsAfterFree | Mistake::SweepPastDirectory => {
            Protocol { threads: TWO, operations: REUSE, ..BASE }
        }
        Mistake::BuriedHoldLocks => Protocol { operations: NAMES, ..BASE },
    };
    Protocol { mistake: Some(mistake), ..protocol }
}

#[track_caller]
fn assert_found(mistake: Mistake, progress: Option<u64>, property: &str) {
    let explored = explore(&with_mistake(mistake), progress);
    let violation = explored.violation.unwrap_or_else(|| panic!("{mistake:?} is not found"));
    println!(
        "object_model {mistake:?}: found after {} states, {} actions; not so: {}\n{}",
        explored.states, violation.actions, violation.property, violation.trace
    );
    assert_eq!(violation.property, property);
}

const HELD: &str = "who has the object is in its state";
const EXPORTED: &str = "an export bit is set while something leads to the object, and then only";

#[test]
fn a_release_in_two_steps_is_found() {
    assert_found(Mistake::ReleaseInTwoSteps, None, "nobody alive finds damage");
}

#[test]
fn a_claim_of_any_serial_is_found() {
    assert_found(Mistake::ClaimAnySerial, None, "a handle is good once, for its object");
}

#[test]
fn an_export_bit_that_goes_too_early_is_found() {
    assert_found(Mistake::UnexportBeforeClaim, None, EXPORTED);
    assert_found(Mistake::UnexportBeforeRelease, None, EXPORTED);
}

#[test]
fn an_export_bit_that_goes_too_late_is_found() {
    assert_found(Mistake::FreeBeforeUnexport, None, EXPORTED);
}

#[test]
fn a_count_that_goes_after_its_bit_is_found() {
    assert_found(Mistake::CountAfterBit, None, HELD);
}

#[test]
fn finding_without_the_stripe_is_found() {
    assert_found(Mistake::HoldWithoutStripe, None, HELD);
}

#[test]
fn two_loads_to_see_who_is_alone_are_found() {
    assert_found(Mistake::AloneByTwoLoads, None, HELD);
}

#[test]
fn a_place_before_the_flag_is_found() {
    assert_found(Mistake::PlaceBeforeDir, None, "nobody alive finds damage");
}

#[test]
fn missing_intents_are_found() {
    assert_found(Mistake::NoIntents, None, "name, entry and DIR belong together");
}

#[test]
fn intents_that_outlive_the_entry_are_found() {
    assert_found(Mistake::ClearIntentsAfterFree, None, "no word is changed that is somebody else's");
}

#[test]
fn a_slot_that_goes_before_the_objects_is_found() {
    assert_found(Mistake::SlotBeforeObjects, None, "nothing is freed while somebody has it");
}

#[test]
fn a_sweep_past_the_directory_is_found() {
    assert_found(Mistake::SweepPastDirectory, None, "no word is changed that is somebody else's");
}

#[test]
fn a_stack_taken_before_it_is_marked_is_found() {
    assert_found(Mistake::TakeBeforeMark, Some(1), "a sole survivor gets everything back");
}

#[test]
fn a_lock_that_stays_with_the_buried_is_found() {
    assert_found(Mistake::BuriedHoldLocks, Some(1), "when all have dropped everything, nothing is left");
}

#[test]
fn an_estate_that_is_settled_twice_is_found() {
    assert_found(Mistake::EstateUnguarded, None, "nothing is freed while somebody has it");
}
