//! The allocator: its lock, the stack of condemned blocks, and the walk that puts everything right.

use crate::membership::Slot;
use crate::object::{BlockState, Event, Kind};
use crate::protocol::{BARE, Mistake, Protocol, change, next_slot, unlock, without_bit};
use crate::world::{At, ENTRY, Errand, Fault, Job, Lock, OBJECT, Then, World, home, slot};

impl Protocol {
    /// [heap.rs, allocator/tlsf/mod.rs, allocator/tlsf/chain.rs]
    pub fn go_on_in_heap(&self, world: &mut World, thread: usize, at: At) -> At {
        let me = slot(home(thread));
        match at {
            At::HeapLock(job) => {
                let died = world.heap_lock != Lock::Nobody;
                world.heap_lock = Lock::Slot(home(thread) as u8);
                match job {
                    _ if died => At::PopHead { job, mend: true, marked: 0 },
                    Job::Retain => At::PopHead { job, mend: true, marked: 0 },
                    Job::Object | Job::Entry if world.head != 0 => {
                        At::PopHead { job, mend: false, marked: 0 }
                    }
                    Job::Object | Job::Entry => At::HandOut(job),
                }
            }
            At::PopHead { job, mend, marked } => {
                let head = world.head;
                if self.has(Mistake::TakeBeforeMark) {
                    world.head = 0;
                }
                At::PopMark { job, mend, marked, head, at: head }
            }
            At::PopMark { job, mend, marked, head, at } => {
                if at == 0 || at == marked {
                    return At::PopTake { job, mend, head };
                }
                if !world.states[usize::from(at - 1)].is_popped() {
                    change(world, at - 1, Event::Pop);
                }
                At::PopMark { job, mend, marked, head, at: world.links[usize::from(at - 1)] }
            }
            At::PopTake { job, mend, head } => {
                if self.has(Mistake::TakeBeforeMark) || world.head == head {
                    if !self.has(Mistake::TakeBeforeMark) {
                        world.head = 0;
                    }
                    if mend { At::Walk { job, block: 0 } } else { At::PopFree { job, at: head } }
                } else {
                    At::PopHead { job, mend, marked: head }
                }
            }
            At::PopFree { job, at: 0 } => At::HandOut(job),
            At::PopFree { job, at } => {
                if !world.states[usize::from(at - 1)].is_popped() {
                    world.fail(Fault::Damage);
                }
                world.free(at - 1);
                At::PopFree { job, at: world.links[usize::from(at - 1)] }
            }
            At::Walk { job, block } => self.walk(world, thread, job, block),
            At::WalkUnexport { block } => {
                if block == OBJECT {
                    world.exported = false;
                }
                match self.has(Mistake::FreeBeforeUnexport) {
                    true => At::Walk { job: Job::Retain, block: block + 1 },
                    false => At::WalkFree { block },
                }
            }
            At::WalkFree { block } => {
                world.free(block);
                match self.has(Mistake::FreeBeforeUnexport) {
                    true => At::WalkUnexport { block },
                    false => At::Walk { job: Job::Retain, block: block + 1 },
                }
            }
            At::HandOut(job) => {
                let block = usize::from(if job == Job::Object { OBJECT } else { ENTRY });
                let done = job == Job::Retain || world.states[block].is_free();
                if done && job != Job::Retain {
                    world.states[block] = BlockState::exclusive(me);
                }
                if done && job == Job::Object {
                    world.processes[thread].boxed = true;
                    world.destroyed = false;
                    world.objects = world.objects.saturating_sub(1);
                }
                At::HeapUnlock { job, done }
            }
            At::HeapUnlock { job, done } => {
                unlock(&mut world.heap_lock, home(thread));
                match job {
                    Job::Object => At::Idle,
                    Job::Entry if done => self.after_entry(),
                    Job::Entry => At::Leave(Errand::Publish),
                    Job::Retain if world.processes[thread].slots == 1 << home(thread) => At::Settle,
                    Job::Retain => next_slot(world.processes[thread].slots, true),
                }
            }
            At::TryFree { block, then } => {
                if world.heap_lock != Lock::Nobody {
                    return At::Condemn { block, then };
                }
                world.heap_lock = Lock::Slot(home(thread) as u8);
                At::FreeCommit { block, then }
            }
            At::FreeCommit { block, then } => {
                world.free(block);
                At::FreeUnlock(then)
            }
            At::FreeUnlock(then) => {
                unlock(&mut world.heap_lock, home(thread));
                self.then(then)
            }
            At::Condemn { block, then } => {
                change(world, block, Event::Condemn(me));
                At::PushLink { block, then }
            }
            At::PushLink { block, then } => {
                let head = world.head;
                world.links[usize::from(block)] = head;
                At::Push { block, head, then }
            }
            At::Push { block, head, then } => {
                if world.head == head {
                    world.head = block + 1;
                    self.then(then)
                } else {
                    At::PushLink { block, then }
                }
            }
            at => at,
        }
    }

    /// One block of the walk that puts the heap right; for a sweep, the judgement on it as well.
    fn walk(&self, world: &mut World, thread: usize, job: Job, block: u8) -> At {
        let next = At::Walk { job, block: block + 1 };
        let Some(&state) = world.states.get(usize::from(block)) else { return At::HandOut(job) };
        if block == ENTRY && world.foreign {
            return next;
        }
        if state.is_popped() {
            world.free(block);
            return next;
        }
        if job != Job::Retain {
            return next;
        }
        let slots = u64::from(world.processes[thread].slots);
        let is_dead = |slot: Slot| slots & slot.bit() != 0;
        let gone = match self.has(Mistake::FreeBeforeUnexport) {
            true => At::WalkFree { block },
            false => At::WalkUnexport { block },
        };
        match state.kind() {
            Ok(Kind::Exclusive(slot) | Kind::Condemned(Some(slot))) if is_dead(slot) => gone,
            Ok(Kind::Shared(bitmap)) if bitmap & slots != 0 => {
                let dead = Slot::all().find(|slot| bitmap & slots & slot.bit() != 0).unwrap_or(Slot::FIRST);
                if self.has(Mistake::ReleaseInTwoSteps) {
                    without_bit(world, dead);
                } else if change(world, block, Event::Sweep(dead)).is_none() {
                    return gone;
                }
                // Perhaps another of the dead has it.
                At::Walk { job, block }
            }
            Err(_) if state.bits() == BARE => gone,
            _ => next,
        }
    }

    fn then(&self, then: Then) -> At {
        match then {
            Then::Idle => At::Idle,
            Then::LeaveDirectory if self.has(Mistake::ClearIntentsAfterFree) => At::ClearIntent(Errand::Find),
            Then::LeaveDirectory => At::Leave(Errand::Unpublish),
            Then::RecoverEntry(errand) => At::RecoverEntry(errand),
            Then::ClearIntents(errand) => At::RecoverClear(errand),
        }
    }
}
