//! What must hold in every state that the protocol can reach, and what must be possible from there.

use crate::object::{BlockState, Kind};
use crate::property::Property;
use crate::protocol::{BARE, Choice, Mistake, Protocol, may_go};
use crate::world::{At, ENTRY, Fault, Lock, OBJECT, PROCESSES, Process, Tenancy, World, home, slot};

/// What must not have happened, and what must be so.
pub const SAFETY: [Property; 11] = [
    Property::new("a destructor runs once, on its own object", |_, world| {
        world.fault != Some(Fault::DestroyedTwice)
    }),
    Property::new("no destructor runs while somebody has the object", |_, world| {
        world.fault != Some(Fault::DestroyedUnderHolder)
    }),
    Property::new("nothing is freed while somebody has it", |_, world| {
        world.fault != Some(Fault::FreedUnderHolder)
    }),
    Property::new("a handle is good once, for its object", |_, world| {
        world.fault != Some(Fault::ClaimedStale)
    }),
    Property::new("no word is changed that is somebody else's", |_, world| {
        world.fault != Some(Fault::ForeignChanged)
    }),
    Property::new("nobody alive finds damage", |_, world| world.fault != Some(Fault::Damage)),
    Property::new("state words are valid", states_are_valid),
    Property::new("who has the object is in its state", holders_are_recorded),
    Property::new(
        "an export bit is set while something leads to the object, and then only",
        exports_are_right,
    ),
    Property::new("name, entry and DIR belong together", names_are_whole),
    Property::new("private counts are right", counts_are_right),
];

/// What must be possible from every state.
pub const PROGRESS: [Property; 3] = [
    Property::new("after a massacre one newcomer gets everything back", newcomer_clears_up),
    Property::new("a sole survivor gets everything back", survivor_clears_up),
    Property::new("when all have dropped everything, nothing is left", all_clear_up),
];

/// More actions than it takes to end everything.
const PATIENCE: usize = 1000;

fn states_are_valid(protocol: &Protocol, world: &World) -> bool {
    let may_be_bare = protocol.has(Mistake::ReleaseInTwoSteps);
    world.states.iter().all(|state| state.is_valid() || may_be_bare && state.bits() == BARE)
}

fn holders_are_recorded(_: &Protocol, world: &World) -> bool {
    let boxes = world.processes.iter().filter(|process| process.boxed).count();
    let has_arcs = world.processes.iter().any(|process| process.arcs > 0);
    let is_recorded = |(thread, process): (usize, &Process)| {
        let me = slot(home(thread));
        let is_mine = world.object() == BlockState::exclusive(me);
        let is_shared = matches!(world.object().kind(), Ok(Kind::Shared(bitmap)) if bitmap & me.bit() != 0);
        let is_alone = world.object() == BlockState::shared(me) && !world.is_held_beside(thread);
        (!process.boxed || is_mine)
            && (process.arcs == 0 || is_shared)
            && (process.at != At::Mutate || process.arcs == 1 && is_alone)
    };
    boxes <= 1 && (boxes == 0 || !has_arcs) && world.processes.iter().enumerate().all(is_recorded)
}

fn exports_are_right(_: &Protocol, world: &World) -> bool {
    let has_settled_box = world.processes.iter().any(|process| process.boxed && process.at == At::Idle);
    match world.object().kind() {
        Ok(Kind::Leaked { .. } | Kind::Shared(_)) => {
            // The sweep that is about to free it has cleared the bit.
            let is_swept = world.processes.iter().any(|process| process.at == At::WalkFree { block: OBJECT });
            world.exported || is_swept || is_of_the_dead(world)
        }
        Ok(Kind::Free | Kind::Condemned(_) | Kind::Internal) => !world.exported || is_of_the_dead(world),
        _ => !has_settled_box || !world.exported,
    }
}

/// Whether nobody but the dead has the object, so that a sweep that died may have begun to free it.
fn is_of_the_dead(world: &World) -> bool {
    // Or it was the last tenant who had it.
    let is_dead =
        |slot: usize| world.tenancies[slot] != Tenancy::Process(slot as u8) || world.homes[slot].estate;
    match world.object().kind() {
        Ok(Kind::Shared(bitmap)) => {
            !world.object().is_published()
                && (0..PROCESSES).all(|slot| bitmap >> slot & 1 == 0 || is_dead(slot))
        }
        Ok(Kind::Condemned(Some(slot))) => is_dead(slot.index()),
        _ => false,
    }
}

/// When nobody is in the directory.
fn names_are_whole(_: &Protocol, world: &World) -> bool {
    if world.directory_lock != Lock::Nobody {
        return true;
    }
    let is_entry = !world.foreign && world.states[usize::from(ENTRY)] == BlockState::INTERNAL;
    let is_named = world.place && is_entry && world.exported;
    world.object().is_published() == world.place
        && (!world.place || is_named)
        && (world.place || !is_entry)
        && world.intends == [false; 2]
}

/// When no thread of the process is doing anything.
fn counts_are_right(_: &Protocol, world: &World) -> bool {
    (0..PROCESSES).all(|process| {
        let threads = || world.processes.iter().enumerate().filter(|(thread, _)| home(*thread) == process);
        let is_busy = threads().any(|(_, thread)| !matches!(thread.at, At::Idle | At::Dead));
        let arcs: u8 = threads().map(|(_, thread)| thread.arcs).sum();
        is_busy || world.homes[process].count == arcs && world.homes[process].stripe == 0
    })
}

fn newcomer_clears_up(protocol: &Protocol, world: &World) -> bool {
    let mut world = *world;
    (0..PROCESSES).for_each(|process| world.kill(process));
    clears_up(protocol, world, |process| process == 0)
}

fn survivor_clears_up(protocol: &Protocol, world: &World) -> bool {
    let takes_part = |process: &usize| protocol.threads.contains(process) && world.is_alive(*process);
    (0..PROCESSES).filter(takes_part).all(|survivor| {
        let mut world = *world;
        (0..PROCESSES).filter(|process| *process != survivor).for_each(|process| world.kill(process));
        clears_up(protocol, world, |process| process == survivor)
    })
}

fn all_clear_up(protocol: &Protocol, world: &World) -> bool {
    clears_up(protocol, *world, |_| true)
}

/// Whether everything is free in the end, if all go on by turns, drop what they have, give back what the dead had,
/// and claim and unpublish what is left. `may_start` says who may come anew if nobody is alive.
fn clears_up(protocol: &Protocol, mut world: World, may_start: impl Fn(usize) -> bool) -> bool {
    if protocol.threads.iter().all(|thread| !world.is_alive(*thread)) {
        match (0..PROCESSES).find(|process| may_start(*process)) {
            Some(process) => world = protocol.act(&world, process, Choice::Start),
            None => return false,
        }
    }
    let mut actions = 0;
    loop {
        let mut acted = false;
        for &thread in protocol.threads {
            if let Some(choice) = next_choice(protocol, &world, thread) {
                world = protocol.act(&world, thread, choice);
                acted = true;
                actions += 1;
            }
        }
        if world.fault.is_some() || actions > PATIENCE {
            return false;
        }
        if !acted {
            return is_clear(&world);
        }
    }
}

/// What a thread does that is about to end everything.
fn next_choice(protocol: &Protocol, world: &World, thread: usize) -> Option<Choice> {
    let Process { at, boxed, arcs, .. } = world.processes[thread];
    if at != At::Idle {
        return may_go(world, thread).then_some(Choice::Go);
    }
    if protocol.may_begin(world, thread, Choice::Sweep) {
        return Some(Choice::Sweep);
    }
    if boxed {
        return Some(Choice::DropBox);
    }
    if arcs > 0 {
        return Some(Choice::DropArc);
    }
    if let Some(serial) = world.leaked().filter(|_| world.exported) {
        return Some(Choice::Claim(serial));
    }
    if world.foreign {
        return Some(Choice::Reuse);
    }
    let is_last = protocol.threads.iter().all(|other| {
        *other == thread || world.processes[*other].at == At::Dead || world.processes[*other].at == At::Idle
    });
    if !is_last {
        return None;
    }
    if world.place {
        return Some(Choice::Unpublish);
    }
    // An allocation frees what waits for that, and puts the allocator right after a death.
    (world.head != 0 || world.heap_lock != Lock::Nobody).then_some(Choice::Allocate)
}

/// Everything is free, and nobody has anything.
fn is_clear(world: &World) -> bool {
    let is_free = |tenancy: &Tenancy| matches!(tenancy, Tenancy::Free | Tenancy::Process(_));
    world.states == [BlockState::FREE; 2]
        && !world.exported
        && !world.place
        && world.head == 0
        && world.intends == [false; 2]
        && [world.heap_lock, world.directory_lock] == [Lock::Nobody; 2]
        && world.tenancies.iter().all(is_free)
        && world.processes.iter().all(|process| matches!(process.at, At::Idle | At::Dead))
}
