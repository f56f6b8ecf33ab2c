//! What each thread does, one access to shared or private words at a time.
//!
//! The names of the files in brackets say what is written down once more here. To load a word and to replace exactly
//! that by a compare-and-swap that is tried until it succeeds is one action.

use crate::membership::Slot;
use crate::object::{BlockState, Event, Next};
use crate::world::{
    At, ENTRY, Errand, Fault, Home, Job, Lock, OBJECT, PROCESSES, Process, Tenancy, Then, World, home, slot,
};

/// What a thread may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The next action of what it is doing.
    Go,
    /// It has waited too long for the directory.
    Fails,
    /// Its process is killed before that action.
    Killed,
    /// A new process comes in the place of a dead one.
    Start,
    Allocate,
    DropBox,
    Leak,
    /// With the handle of this serial, which may be stale.
    Claim(u8),
    IntoArc,
    Clone,
    DropArc,
    IntoBox,
    GetMut,
    Publish,
    Find,
    Unpublish,
    Sweep,
    /// The memory of the entry's block becomes the inside of somebody's object, or a free block again.
    Reuse,
}

/// A mistake put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The last release clears the bit, and then looks whether it was the last.
    ReleaseInTwoSteps,
    /// A claim takes whatever is leaked there.
    ClaimAnySerial,
    /// A claim clears the export bit and then makes the object exclusive.
    UnexportBeforeClaim,
    /// The last reference of a process clears the export bit and then gives up the holder's bit.
    UnexportBeforeRelease,
    /// The holder's bit is cleared before the private count is.
    CountAfterBit,
    /// A name is found without the stripe.
    HoldWithoutStripe,
    /// Whether a reference is the only one is seen from the state and then from the count, without the stripe.
    AloneByTwoLoads,
    PlaceBeforeDir,
    NoIntents,
    /// The entry is freed before the intents are cleared.
    ClearIntentsAfterFree,
    /// A sweep gives the slot of the dead back, and then the objects.
    SlotBeforeObjects,
    /// A sweep frees a block and then clears its export bit.
    FreeBeforeUnexport,
    /// A sweep does not look at the directory first.
    SweepPastDirectory,
    /// The stack of condemned blocks is taken before they are marked.
    TakeBeforeMark,
    /// The dead whose slot somebody has claimed, to give their objects back, still count as holders of locks.
    BuriedHoldLocks,
    /// Whether the last tenant's objects are still there is asked before the lock is taken.
    EstateUnguarded,
}

/// The bounds of a model.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Who takes part: 0, 1 and 2 are threads of three processes, 3 is another one of the first.
    pub threads: &'static [usize],
    /// How often a process may be killed.
    pub crashes: u8,
    pub failures: bool,
    /// A process may get the slot of a dead one whose objects have not been given back.
    pub inherits: bool,
    pub leaks: u8,
    pub operations: &'static [Choice],
    pub mistake: Option<Mistake>,
    /// The explorer passes this to `normalize`.
    pub processes: usize,
}

/// What a step of the object's state word makes of it; refused, it is damage, for all who try have a right to it.
pub fn change(world: &mut World, block: u8, event: Event) -> Option<BlockState> {
    if block == ENTRY && world.foreign {
        world.fail(Fault::ForeignChanged);
    }
    match world.states[usize::from(block)].step(event) {
        Ok(Next::State(next)) => {
            world.states[usize::from(block)] = next;
            Some(next)
        }
        Ok(Next::Free) => None,
        Err(_) => {
            world.fail(Fault::Damage);
            Some(world.states[usize::from(block)])
        }
    }
}

impl Protocol {
    pub fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Calls `visit` for all that may happen next.
    pub fn for_each_choice(&self, world: &World, mut visit: impl FnMut(usize, Choice)) {
        for &thread in self.threads {
            let process = &world.processes[thread];
            let is_first = thread < PROCESSES;
            if process.at == At::Dead {
                if is_first && self.may_start(world, thread) {
                    visit(thread, Choice::Start);
                }
                continue;
            }
            if is_first && world.crashes > 0 {
                visit(thread, Choice::Killed);
            }
            if process.at == At::Idle {
                for &choice in self.operations {
                    if self.may_begin(world, thread, choice) {
                        visit(thread, choice);
                    }
                }
                continue;
            }
            if may_go(world, thread) {
                visit(thread, Choice::Go);
            } else if self.failures && matches!(process.at, At::Enter(_)) {
                visit(thread, Choice::Fails);
            }
        }
    }

    fn may_start(&self, world: &World, process: usize) -> bool {
        match world.tenancies[process] {
            Tenancy::Free => true,
            Tenancy::Dead | Tenancy::Deceased => self.inherits || world.homes.iter().all(|home| !home.alive),
            Tenancy::Process(_) => false,
        }
    }

    /// Whether a thread that is doing nothing may begin with this.
    pub fn may_begin(&self, world: &World, thread: usize, choice: Choice) -> bool {
        let Process { boxed, arcs, .. } = world.processes[thread];
        let own = &world.homes[home(thread)];
        if own.estate {
            // The arena is not open yet.
            return choice == Choice::Sweep;
        }
        let others_died =
            world.tenancies.iter().any(|tenancy| matches!(tenancy, Tenancy::Dead | Tenancy::Deceased));
        match choice {
            Choice::Go | Choice::Fails | Choice::Killed | Choice::Start => false,
            Choice::Allocate => world.objects > 0 && !boxed && arcs == 0,
            Choice::DropBox | Choice::IntoArc => boxed,
            Choice::Leak => boxed && world.serial < self.leaks,
            Choice::Claim(serial) => !boxed && arcs == 0 && serial <= world.serial,
            Choice::Clone => arcs == 1,
            Choice::DropArc | Choice::Publish => arcs > 0,
            Choice::IntoBox | Choice::GetMut => arcs == 1,
            Choice::Find | Choice::Unpublish => !boxed && arcs < 2,
            Choice::Sweep => others_died,
            Choice::Reuse => {
                world.foreign || world.states[usize::from(ENTRY)].is_free() && world.heap_lock == Lock::Nobody
            }
        }
    }

    /// What this choice makes of the world.
    pub fn act(&self, world: &World, thread: usize, choice: Choice) -> World {
        let mut next = *world;
        match choice {
            Choice::Go => self.go(&mut next, thread),
            Choice::Fails => next.processes[thread].at = failed(&world.processes[thread]),
            Choice::Killed => {
                next.crashes -= 1;
                next.kill(home(thread));
            }
            Choice::Start => next.start(home(thread), self.threads),
            _ => self.begin(&mut next, thread, choice),
        }
        next
    }

    fn begin(&self, world: &mut World, thread: usize, choice: Choice) {
        let at = match choice {
            Choice::Go | Choice::Fails | Choice::Killed | Choice::Start => At::Idle,
            Choice::Allocate => At::HeapLock(Job::Object),
            Choice::DropBox => At::Destroy,
            Choice::Leak => {
                world.serial += 1;
                At::LeakExport { serial: world.serial }
            }
            Choice::Claim(serial) => self.look_at_handle(world, serial),
            Choice::IntoArc => At::ShareExport,
            Choice::Clone => {
                world.homes[home(thread)].count += 1;
                world.processes[thread].arcs += 1;
                At::Idle
            }
            Choice::DropArc => give(world, thread, false),
            Choice::IntoBox | Choice::GetMut => {
                let boxed = choice == Choice::IntoBox;
                let is_alone = world.object() == BlockState::shared(slot(home(thread)));
                match self.has(Mistake::AloneByTwoLoads) {
                    true if is_alone => At::AloneCount { boxed },
                    true => At::Idle,
                    false => At::AloneStripe { boxed },
                }
            }
            Choice::Publish => At::Enter(Errand::Publish),
            Choice::Find => At::Enter(Errand::Find),
            Choice::Unpublish => At::Enter(Errand::Unpublish),
            Choice::Sweep if world.homes[home(thread)].estate => {
                world.processes[thread].slots = 1 << home(thread);
                At::Enter(Errand::Estate)
            }
            Choice::Sweep => {
                for tenancy in world.tenancies.iter_mut().filter(|tenancy| **tenancy == Tenancy::Dead) {
                    *tenancy = Tenancy::Deceased;
                }
                At::ClaimSlot(0)
            }
            Choice::Reuse => {
                world.foreign = !world.foreign;
                let bits = if world.foreign { BlockState::INTERNAL } else { BlockState::FREE };
                world.states[usize::from(ENTRY)] = bits;
                At::Idle
            }
        };
        world.processes[thread].at = at;
    }

    /// What a claim looks at before it tries. [arena/alloc.rs]
    fn look_at_handle(&self, world: &mut World, serial: u8) -> At {
        let any = self.has(Mistake::ClaimAnySerial);
        match world.leaked() {
            Some(leaked) if world.exported && (any || leaked == serial) => {
                if self.has(Mistake::UnexportBeforeClaim) {
                    world.exported = false;
                }
                At::Claim { serial }
            }
            _ => At::Idle,
        }
    }

    /// The next action of a thread that is doing something.
    fn go(&self, world: &mut World, thread: usize) {
        let process = home(thread);
        let me = slot(process);
        let at = match world.processes[thread].at {
            At::Dead | At::Idle => At::Idle,

            // Boxes and handles. [boxed.rs, arena/alloc.rs]
            At::Destroy => {
                if world.destroyed || world.object() != BlockState::exclusive(me) {
                    world.fail(Fault::DestroyedTwice);
                }
                if world.is_held_beside(thread) {
                    world.fail(Fault::DestroyedUnderHolder);
                }
                world.destroyed = true;
                world.processes[thread].boxed = false;
                At::TryFree { block: OBJECT, then: Then::Idle }
            }
            At::LeakExport { serial } => {
                world.exported = true;
                At::Leak { serial }
            }
            At::Leak { serial } => {
                world.processes[thread].boxed = false;
                change(world, OBJECT, Event::Leak { slot: me, serial: serial.into() });
                At::Idle
            }
            At::Claim { serial } => self.claim(world, thread, serial),
            At::ClaimUnexport => {
                world.exported = false;
                At::Idle
            }

            // References. [shared.rs]
            At::ShareExport => {
                world.exported = true;
                At::Share
            }
            At::Share => {
                world.processes[thread].boxed = false;
                change(world, OBJECT, Event::Share(me));
                At::ShareCount
            }
            At::ShareCount => {
                world.homes[process].count = 1;
                world.processes[thread].arcs = 1;
                At::Idle
            }
            At::AloneStripe { boxed } => {
                world.homes[process].stripe = thread as u8 + 1;
                At::AloneCount { boxed }
            }
            At::AloneCount { boxed } => {
                if world.homes[process].count != 1 {
                    release_stripe(world, thread);
                    At::Idle
                } else if self.has(Mistake::AloneByTwoLoads) {
                    alone(world, thread, boxed)
                } else {
                    // From here on nobody in this process can have another one, or give it a name.
                    world.homes[process].count = 0;
                    At::AloneState { boxed }
                }
            }
            At::AloneState { boxed } => {
                let is_alone = world.object() == BlockState::shared(me);
                if is_alone { At::AloneRestore { boxed } } else { At::NotAlone }
            }
            At::AloneRestore { boxed } => {
                world.homes[process].count = 1;
                release_stripe(world, thread);
                alone(world, thread, boxed)
            }
            At::NotAlone => {
                world.homes[process].count = 1;
                release_stripe(world, thread);
                At::Idle
            }
            At::Mutate => At::Idle,
            At::Give { boxed } => give(world, thread, boxed),
            At::GiveStripe { boxed } => {
                world.homes[process].stripe = thread as u8 + 1;
                At::GiveCount { boxed }
            }
            At::GiveCount { boxed } => self.give_count(world, thread, boxed),
            At::GiveBit { boxed } => self.give_bit(world, thread, boxed),
            At::LookAfterRelease { boxed } => {
                if world.object().bits() == BARE {
                    world.states[usize::from(OBJECT)] = BlockState::exclusive(me);
                    gave(world, thread, boxed, true)
                } else {
                    gave(world, thread, boxed, false)
                }
            }
            At::CountLate { boxed, last } => {
                world.homes[process].count = 0;
                gave(world, thread, boxed, last)
            }
            At::GiveUnexport { boxed } => {
                world.exported = false;
                world.homes[process].stripe = 0;
                if boxed { At::Idle } else { At::Destroy }
            }
            At::Hold(errand) => match count_one_more(world, thread) {
                true => self.held(errand),
                false if self.has(Mistake::HoldWithoutStripe) => At::HoldBit(errand),
                false => At::HoldStripe(errand),
            },
            At::HoldStripe(errand) => {
                world.homes[process].stripe = thread as u8 + 1;
                At::HoldBit(errand)
            }
            At::HoldBit(errand) => {
                if count_one_more(world, thread) {
                    release_stripe(world, thread);
                    self.held(errand)
                } else {
                    change(world, OBJECT, Event::Hold(me));
                    At::HoldCount(errand)
                }
            }
            At::HoldCount(errand) => {
                world.homes[process].count = 1;
                world.processes[thread].arcs += 1;
                release_stripe(world, thread);
                self.held(errand)
            }

            at @ (At::HeapLock(_)
            | At::PopHead { .. }
            | At::PopMark { .. }
            | At::PopTake { .. }
            | At::PopFree { .. }
            | At::Walk { .. }
            | At::WalkUnexport { .. }
            | At::WalkFree { .. }
            | At::HandOut(_)
            | At::HeapUnlock { .. }
            | At::TryFree { .. }
            | At::FreeCommit { .. }
            | At::FreeUnlock(_)
            | At::Condemn { .. }
            | At::PushLink { .. }
            | At::Push { .. }) => self.go_on_in_heap(world, thread, at),

            // Giving back what the dead held. [lifecycle.rs, arena/recovery.rs]
            At::ClaimSlot(number) => self.claim_slot(world, thread, number),
            At::Settle => {
                world.homes[process].estate = false;
                world.processes[thread].slots = 0;
                match self.has(Mistake::EstateUnguarded) {
                    true => At::Idle,
                    false => At::Leave(Errand::Estate),
                }
            }
            At::FreeSlot { slot: number, done } => {
                let bit = 1 << number;
                let tenancy = &mut world.tenancies[usize::from(number)];
                if world.processes[thread].slots & bit != 0 && *tenancy == Tenancy::Process(process as u8) {
                    *tenancy = if done { Tenancy::Free } else { Tenancy::Deceased };
                }
                let slots = &mut world.processes[thread].slots;
                *slots &= !bit;
                next_slot(*slots, done)
            }
            at => self.go_on_in_directory(world, thread, at),
        };
        world.processes[thread].at = at;
    }

    fn claim(&self, world: &mut World, thread: usize, serial: u8) -> At {
        let Some(leaked) = world.leaked() else { return At::Idle };
        let asked = if self.has(Mistake::ClaimAnySerial) { leaked } else { serial };
        let event = Event::Claim { slot: slot(home(thread)), serial: asked.into() };
        match world.object().step(event) {
            Ok(Next::State(next)) => {
                if serial != leaked || world.claimed >> leaked & 1 != 0 {
                    world.fail(Fault::ClaimedStale);
                }
                world.states[usize::from(OBJECT)] = next;
                world.claimed |= 1 << leaked;
                world.processes[thread].boxed = true;
                if self.has(Mistake::UnexportBeforeClaim) { At::Idle } else { At::ClaimUnexport }
            }
            // Somebody was quicker.
            _ => At::Idle,
        }
    }

    fn give_count(&self, world: &mut World, thread: usize, boxed: bool) -> At {
        let process = home(thread);
        if world.homes[process].count != 1 {
            // Found once more meanwhile.
            release_stripe(world, thread);
            return At::Give { boxed };
        }
        world.processes[thread].arcs -= 1;
        if !self.has(Mistake::CountAfterBit) {
            world.homes[process].count = 0;
        }
        if self.has(Mistake::UnexportBeforeRelease) {
            world.exported = false;
        }
        At::GiveBit { boxed }
    }

    fn give_bit(&self, world: &mut World, thread: usize, boxed: bool) -> At {
        let me = slot(home(thread));
        if self.has(Mistake::ReleaseInTwoSteps) {
            without_bit(world, me);
            return At::LookAfterRelease { boxed };
        }
        let next = change(world, OBJECT, Event::Release(me));
        let last = next == Some(BlockState::exclusive(me));
        if self.has(Mistake::CountAfterBit) {
            return At::CountLate { boxed, last };
        }
        gave(world, thread, boxed, last)
    }

    fn claim_slot(&self, world: &mut World, thread: usize, number: u8) -> At {
        if let Some(tenancy) = world.tenancies.get_mut(usize::from(number)) {
            if *tenancy == Tenancy::Deceased {
                *tenancy = Tenancy::Process(home(thread) as u8);
                world.processes[thread].slots |= 1 << number;
                if !self.has(Mistake::BuriedHoldLocks) {
                    world.renew(number);
                }
            }
            return At::ClaimSlot(number + 1);
        }
        let slots = world.processes[thread].slots;
        if slots == 0 {
            return At::Idle;
        }
        if self.has(Mistake::SlotBeforeObjects) {
            for (number, tenancy) in world.tenancies.iter_mut().enumerate() {
                if slots >> number & 1 != 0 {
                    *tenancy = Tenancy::Free;
                }
            }
        }
        match self.has(Mistake::SweepPastDirectory) {
            true => At::HeapLock(Job::Retain),
            false => At::Enter(Errand::Bury),
        }
    }
}

/// The state of a shared object that nobody holds and no name leads to; only a planted mistake makes it.
pub const BARE: u64 = 4;

pub fn without_bit(world: &mut World, slot: Slot) {
    let bits = world.object().bits() & !(slot.bit() << 8);
    world.states[usize::from(OBJECT)] = BlockState::from_bits(bits);
}

/// Where a release goes on that has cleared the bit.
fn gave(world: &mut World, thread: usize, boxed: bool, last: bool) -> At {
    if last {
        world.processes[thread].boxed = true;
        return At::GiveUnexport { boxed };
    }
    release_stripe(world, thread);
    if boxed {
        // It was alone.
        world.fail(Fault::Damage);
    }
    At::Idle
}

/// One reference of several is given up by counting it off; the only one takes the stripe.
fn give(world: &mut World, thread: usize, boxed: bool) -> At {
    let count = &mut world.homes[home(thread)].count;
    if *count <= 1 {
        return At::GiveStripe { boxed };
    }
    *count -= 1;
    world.processes[thread].arcs -= 1;
    if boxed {
        world.fail(Fault::Damage);
    }
    At::Idle
}

/// Where a thread goes on whose reference is the only one: it makes it a box, or changes the value.
fn alone(world: &mut World, thread: usize, boxed: bool) -> At {
    if boxed { give(world, thread, true) } else { At::Mutate }
}

fn count_one_more(world: &mut World, thread: usize) -> bool {
    let Home { count, .. } = &mut world.homes[home(thread)];
    if *count == 0 {
        return false;
    }
    *count += 1;
    world.processes[thread].arcs += 1;
    true
}

fn release_stripe(world: &mut World, thread: usize) {
    let stripe = &mut world.homes[home(thread)].stripe;
    if *stripe == thread as u8 + 1 {
        *stripe = 0;
    }
}

pub fn unlock(lock: &mut Lock, process: usize) {
    if *lock == Lock::Slot(process as u8) {
        *lock = Lock::Nobody;
    }
}

/// The slots that were swept are free, or deceased still.
pub fn next_slot(slots: u8, done: bool) -> At {
    match (0..PROCESSES as u8).find(|slot| slots >> slot & 1 != 0) {
        Some(slot) => At::FreeSlot { slot, done },
        None => At::Idle,
    }
}

/// Where a thread goes on that has waited for the directory in vain.
fn failed(process: &Process) -> At {
    match process.at {
        At::Enter(Errand::Bury) => next_slot(process.slots, false),
        _ => At::Idle,
    }
}

/// Whether the next action of a thread is possible now.
pub fn may_go(world: &World, thread: usize) -> bool {
    match world.processes[thread].at {
        At::Dead | At::Idle => false,
        At::Enter(_) => may_lock(world, thread, world.directory_lock),
        At::HeapLock(_) => may_lock(world, thread, world.heap_lock),
        At::GiveStripe { .. } | At::AloneStripe { .. } | At::HoldStripe(_) => {
            world.homes[home(thread)].stripe == 0
        }
        _ => true,
    }
}

/// Whether nobody holds the lock, or one that is certainly gone. [attachment.rs, arena/recovery.rs]
fn may_lock(world: &World, thread: usize, lock: Lock) -> bool {
    match lock {
        Lock::Nobody | Lock::Former => true,
        Lock::Slot(slot) => {
            let is_buried = world.processes[thread].slots >> slot & 1 != 0;
            is_buried && usize::from(slot) != home(thread)
                || !matches!(world.tenancies[usize::from(slot)], Tenancy::Process(_))
        }
    }
}
