//! What must hold in every state that the protocol can reach, and what must be possible from there.

use crate::membership::{OrphanPolicy, Phase, Slot, UnlinkPolicy};
use crate::property::Property;
use crate::protocol::{Choice, Protocol};
use crate::world::{At, Fault, Inode, PROCESSES, SLOTS, Tenancy, World};

/// What must not have happened.
pub const SAFETY: [Property; 8] = [
    Property::new("the membership word is sound", membership_is_sound),
    Property::new("a Live segment has its name", live_is_named),
    Property::new("no name is taken from a Live or another segment", unlinks_only_its_own),
    Property::new("a segment is created once", created_once),
    Property::new("the destructor runs once, in the last one out", destroyed_once_by_the_last),
    Property::new("nobody alive is taken for dead", alive_is_recorded),
    Property::new("a set bit has a tenant", bit_has_tenant),
    Property::new("no tenancy is forgotten", tenancy_is_in_use),
];

/// What must be possible from every state.
pub const PROGRESS: [Property; 4] = [
    Property::new("a newcomer gets in after a massacre", newcomer_gets_in),
    Property::new("a sole survivor gets in", survivor_gets_in),
    Property::new("the last one alive ends the segment", last_alive_ends_it),
    Property::new("fair turns let everybody in", fair_turns_let_all_in),
];

/// More actions than any operation takes when nobody is in its way.
const PATIENCE: usize = 100;

/// The phase says so too: an owner who is not attached, or a Retired segment's unlinker who is, is damage.
pub fn membership_is_sound(_: &Protocol, world: &World) -> bool {
    world.inodes.iter().all(|inode| inode.phase().is_ok())
}

pub fn live_is_named(_: &Protocol, world: &World) -> bool {
    (0..).zip(&world.inodes).all(|(index, inode)| !is_live(inode) || world.name == Some(index))
}

pub fn unlinks_only_its_own(_: &Protocol, world: &World) -> bool {
    !matches!(world.fault, Some(Fault::UnlinkedAnotherSegment | Fault::UnlinkedLiveSegment))
}

pub fn created_once(_: &Protocol, world: &World) -> bool {
    world.fault != Some(Fault::CreatedTwice)
}

pub fn destroyed_once_by_the_last(_: &Protocol, world: &World) -> bool {
    !matches!(world.fault, Some(Fault::DestroyedTwice | Fault::DestroyedUnderAttached))
}

/// Who holds a tenancy finds its identity there, and who is attached its bit set.
pub fn alive_is_recorded(_: &Protocol, world: &World) -> bool {
    (0..).zip(&world.processes).all(|(index, process)| {
        let Some(inode) = process.inode.map(|inode| &world.inodes[usize::from(inode)]) else { return true };
        let is_mine = |slot: u8| inode.tenancies[usize::from(slot)] == Tenancy::Process(index);
        process.slot.is_none_or(|slot| is_mine(slot) && (!process.attached || has_bit(inode, slot)))
            && process.sweeping().is_none_or(is_mine)
    })
}

/// A bit stands for a process that is attached, or that died, or whose death is being dealt with.
pub fn bit_has_tenant(_: &Protocol, world: &World) -> bool {
    every_tenancy(world, |index, inode, slot| {
        !has_bit(inode, slot)
            || match inode.tenancies[usize::from(slot)] {
                Tenancy::Free => false,
                Tenancy::Dead => true,
                Tenancy::Process(process) => {
                    let process = &world.processes[usize::from(process)];
                    let is_here = process.inode == Some(index);
                    is_here
                        && (process.attached && process.slot == Some(slot)
                            || process.sweeping() == Some(slot))
                }
            }
    })
}

/// No living process leaves its identity behind where it is not at work.
pub fn tenancy_is_in_use(_: &Protocol, world: &World) -> bool {
    every_tenancy(world, |index, inode, slot| match inode.tenancies[usize::from(slot)] {
        Tenancy::Free | Tenancy::Dead => true,
        Tenancy::Process(process) => {
            let process = &world.processes[usize::from(process)];
            process.inode == Some(index) && (process.slot == Some(slot) || process.sweeping() == Some(slot))
        }
    })
}

/// If everybody is killed now, one newcomer gets in, is counted alone, and removes the segment when it
/// leaves.
pub fn newcomer_gets_in(protocol: &Protocol, world: &World) -> bool {
    let mut world = *world;
    for process in 0..PROCESSES {
        world.kill(process);
    }
    gets_in_alone(protocol, world, 0)
}

/// If everybody else is killed now, who is in the middle of something ends it, and then gets in as a
/// newcomer does.
pub fn survivor_gets_in(protocol: &Protocol, world: &World) -> bool {
    (0..PROCESSES).filter(|&process| !world.processes[process].is_resting()).all(|me| {
        let mut world = *world;
        for other in (0..PROCESSES).filter(|&other| other != me) {
            world.kill(other);
        }
        let Some(mut world) = run(protocol, world, me) else { return false };
        if world.processes[me].at == At::Attached {
            let Some(left) = run(protocol, protocol.act(&world, me, Choice::BeginDetach), me) else {
                return false;
            };
            world = left;
        }
        gets_in_alone(protocol, world, me)
    })
}

/// If everybody else is killed now, who is attached and detaches is the last one out: it retires what is for
/// the last one to retire, destroys what is Retired, and leaves no name to it. (Where unlinking may be
/// forbidden, the name may stay until an opener is permitted to remove it.)
pub fn last_alive_ends_it(protocol: &Protocol, world: &World) -> bool {
    let is_attached = |process: &usize| world.processes[*process].at == At::Attached;
    (0..PROCESSES).filter(is_attached).all(|me| {
        let mut world = *world;
        for other in (0..PROCESSES).filter(|&other| other != me) {
            world.kill(other);
        }
        let here = world.processes[me].inode;
        let left = run(protocol, protocol.act(&world, me, Choice::BeginDetach), me);
        let (Some(left), Some(inode)) = (left, here) else { return false };
        let is_retired = left.inodes[usize::from(inode)].phase() == Ok(Phase::Retired);
        match protocol.unlink {
            _ if is_retired => {
                let is_named = left.name == Some(inode);
                left.inodes[usize::from(inode)].destroyed && (protocol.failures || !is_named)
            }
            UnlinkPolicy::LastDetach => false,
            UnlinkPolicy::OwnerDrop | UnlinkPolicy::Never => true,
        }
    })
}

/// If nobody is killed any more and each gets its turn, all who are in the middle of something get in.
pub fn fair_turns_let_all_in(protocol: &Protocol, world: &World) -> bool {
    let busy = world.processes.map(|process| !process.is_resting());
    let mut world = *world;
    for _ in 0..PATIENCE {
        let waiting = |process: &usize| busy[*process] && world.processes[*process].at != At::Attached;
        let waiting: Vec<usize> = (0..PROCESSES).filter(waiting).collect();
        if waiting.is_empty() || is_refused(protocol, &world) {
            return true;
        }
        for process in waiting {
            world = advance(protocol, &world, process);
        }
    }
    false
}

fn gets_in_alone(protocol: &Protocol, world: World, me: usize) -> bool {
    let Some(attached) = open(protocol, world, me) else {
        return is_refused_until_unlinked(protocol, world, me);
    };
    let process = &attached.processes[me];
    let (Some(inode), Some(slot)) = (process.inode, process.slot) else { return false };
    let inode = attached.inodes[usize::from(inode)];
    let tenants = inode.tenancies.iter().filter(|word| **word != Tenancy::Free).count();
    let counted = inode.membership.count() == 1 && has_bit(&inode, slot) && tenants == 1;
    let stays = match protocol.unlink {
        UnlinkPolicy::OwnerDrop => inode.given_up,
        UnlinkPolicy::LastDetach => false,
        UnlinkPolicy::Never => true,
    };
    let owned = protocol.act(&attached, me, Choice::Own);
    counted
        && leaves_name(protocol, attached, me) == Some(stays)
        && leaves_name(protocol, owned, me) == Some(protocol.unlink == UnlinkPolicy::Never)
}

/// Whether there is a name after `me` has detached; `None` if something is wrong.
fn leaves_name(protocol: &Protocol, attached: World, me: usize) -> Option<bool> {
    let left = run(protocol, protocol.act(&attached, me, Choice::BeginDetach), me)?;
    let sound = left.fault.is_none() && live_is_named(protocol, &left) && tenancy_is_in_use(protocol, &left);
    sound.then_some(left.name.is_some())
}

fn is_refused_until_unlinked(protocol: &Protocol, world: World, me: usize) -> bool {
    let Some(refused) = run(protocol, protocol.act(&world, me, Choice::Open), me) else { return false };
    let unlinked = || run(protocol, protocol.act(&refused, me, Choice::UnlinkName), me);
    is_refused(protocol, &refused)
        && unlinked().is_some_and(|world| world.name.is_none() && open(protocol, world, me).is_some())
}

/// Under this policy an orphan is not to be opened.
fn is_refused(protocol: &Protocol, world: &World) -> bool {
    protocol.orphan == OrphanPolicy::Refuse
        && world.name.is_some_and(|inode| world.inodes[usize::from(inode)].membership.is_orphan())
}

/// `me` alone acts, until it is attached.
fn open(protocol: &Protocol, mut world: World, me: usize) -> Option<World> {
    for _ in 0..PATIENCE {
        if world.processes[me].at == At::Attached {
            return Some(world);
        }
        world = advance(protocol, &world, me);
    }
    None
}

/// `me` alone acts, until it has ended what it is doing.
fn run(protocol: &Protocol, mut world: World, me: usize) -> Option<World> {
    for _ in 0..PATIENCE {
        if world.processes[me].is_resting() {
            return Some(world);
        }
        world = advance(protocol, &world, me);
    }
    None
}

fn advance(protocol: &Protocol, world: &World, me: usize) -> World {
    let idle = world.processes[me].at == At::Idle;
    protocol.act(world, me, if idle { Choice::Open } else { Choice::Go })
}

fn every_tenancy(world: &World, mut holds: impl FnMut(u8, &Inode, u8) -> bool) -> bool {
    (0..).zip(&world.inodes).all(|(index, inode)| (0..SLOTS).all(|slot| holds(index, inode, slot)))
}

fn is_live(inode: &Inode) -> bool {
    inode.phase() == Ok(Phase::Live)
}

fn has_bit(inode: &Inode, slot: u8) -> bool {
    inode.header && Slot::new(slot.into()).is_some_and(|slot| inode.membership.is_attached(slot))
}
