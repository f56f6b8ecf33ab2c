//! The directory: its lock, what its last holder died over, and the name.

use crate::object::{BlockState, Event};
use crate::protocol::{Mistake, Protocol, change, unlock};
use crate::world::{At, ENTRY, Errand, Fault, Job, Lock, OBJECT, Then, World, home, slot};

impl Protocol {
    /// [directory/mod.rs]
    pub fn go_on_in_directory(&self, world: &mut World, thread: usize, at: At) -> At {
        let process = home(thread);
        let me = slot(process);
        match at {
            At::Enter(errand) => {
                let died = world.directory_lock != Lock::Nobody;
                world.directory_lock = Lock::Slot(process as u8);
                if died { At::RecoverObject(errand) } else { At::Look(errand) }
            }

            At::RecoverObject(errand) => {
                let is_unnamed = world.intends[0] && !world.place;
                if !is_unnamed || !world.exported || !world.object().is_published() {
                    return At::RecoverEntry(errand);
                }
                match change(world, OBJECT, Event::Forget) {
                    Some(_) => At::RecoverEntry(errand),
                    None => At::RecoverOwn(errand),
                }
            }
            At::RecoverOwn(errand) => {
                world.states[usize::from(OBJECT)] = BlockState::exclusive(me);
                At::RecoverUnexport(errand)
            }
            At::RecoverUnexport(errand) => {
                world.exported = false;
                At::RecoverUnintend(errand)
            }
            At::RecoverUnintend(errand) => {
                world.intends[0] = false;
                At::TryFree { block: OBJECT, then: Then::RecoverEntry(errand) }
            }
            At::RecoverEntry(errand) => {
                let entry = world.states[usize::from(ENTRY)];
                if world.intends[1] && !world.place && entry == BlockState::INTERNAL {
                    change(world, ENTRY, Event::Extern(me));
                    At::RecoverEntryUnintend(errand)
                } else {
                    At::RecoverClear(errand)
                }
            }
            At::RecoverEntryUnintend(errand) => {
                world.intends[1] = false;
                At::TryFree { block: ENTRY, then: Then::ClearIntents(errand) }
            }
            At::RecoverClear(errand) => {
                world.intends[1] = false;
                At::RecoverClearObject(errand)
            }
            At::RecoverClearObject(errand) => {
                world.intends[0] = false;
                At::Look(errand)
            }

            At::Look(errand) => self.look(world, thread, errand),

            At::IntendEntry(errand) => {
                world.intends[1] = true;
                At::IntendObject(errand)
            }
            At::IntendObject(errand) => {
                world.intends[0] = true;
                if errand == Errand::Publish { At::Intern } else { At::RemovePlace }
            }
            At::Intern => {
                change(world, ENTRY, Event::Intern(me));
                if self.has(Mistake::PlaceBeforeDir) { At::StorePlace } else { At::SetDir }
            }
            At::SetDir => {
                change(world, OBJECT, Event::Publish { slot: me, pinned: false });
                if self.has(Mistake::PlaceBeforeDir) {
                    At::ClearIntent(Errand::Publish)
                } else {
                    At::StorePlace
                }
            }
            At::StorePlace => {
                world.place = true;
                if self.has(Mistake::PlaceBeforeDir) { At::SetDir } else { At::ClearIntent(Errand::Publish) }
            }

            At::RemovePlace => {
                world.place = false;
                At::TakeDir
            }
            At::TakeDir => {
                change(world, OBJECT, Event::Unpublish(me));
                At::Extern
            }
            At::Extern => {
                change(world, ENTRY, Event::Extern(me));
                if self.has(Mistake::ClearIntentsAfterFree) {
                    At::TryFree { block: ENTRY, then: Then::LeaveDirectory }
                } else {
                    At::ClearIntent(Errand::Unpublish)
                }
            }
            At::ClearIntent(errand) => {
                world.intends[1] = false;
                At::ClearIntentObject(errand)
            }
            At::ClearIntentObject(errand) => {
                world.intends[0] = false;
                match errand {
                    Errand::Unpublish => At::TryFree { block: ENTRY, then: Then::LeaveDirectory },
                    _ => At::Leave(errand),
                }
            }
            At::Leave(errand) => {
                unlock(&mut world.directory_lock, process);
                if errand == Errand::Bury { At::HeapLock(Job::Retain) } else { At::Idle }
            }
            at => at,
        }
    }

    /// What the directory says, once it is locked and whole.
    fn look(&self, world: &mut World, thread: usize, errand: Errand) -> At {
        if world.place && (!world.exported || !world.object().is_published()) {
            world.fail(Fault::Damage);
        }
        match errand {
            Errand::Bury => At::Leave(errand),
            Errand::Estate if self.has(Mistake::EstateUnguarded) => {
                unlock(&mut world.directory_lock, home(thread));
                At::HeapLock(Job::Retain)
            }
            Errand::Estate if world.homes[home(thread)].estate => At::HeapLock(Job::Retain),
            Errand::Estate => {
                world.processes[thread].slots = 0;
                At::Leave(errand)
            }
            Errand::Publish if world.place => At::Leave(errand),
            Errand::Publish => At::HeapLock(Job::Entry),
            Errand::Find | Errand::Unpublish if world.place => At::Hold(errand),
            Errand::Find | Errand::Unpublish => At::Leave(errand),
        }
    }

    /// Where a thread goes on that has found the name, and holds its object.
    pub fn held(&self, errand: Errand) -> At {
        match errand {
            Errand::Unpublish if self.has(Mistake::NoIntents) => At::RemovePlace,
            Errand::Unpublish => At::IntendEntry(errand),
            _ => At::Leave(errand),
        }
    }

    /// Where a thread goes on that has allocated an entry.
    pub fn after_entry(&self) -> At {
        if self.has(Mistake::NoIntents) { At::Intern } else { At::IntendEntry(Errand::Publish) }
    }
}
