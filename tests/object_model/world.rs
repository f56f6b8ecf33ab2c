//! The world that the processes share: one block for objects, one for the entry of a name, and who stands where.
//!
//! Nothing is renumbered: which process has which slot is part of a state, since the state words have it too.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::membership::Slot;
use crate::object::{BlockState, Kind};

/// Processes, each with a slot of its own; one that is started again gets the same.
pub const PROCESSES: usize = 3;
/// Whatever acts: a thread of each process, and one more of the first.
pub const THREADS: usize = 4;
/// The block that objects come to lie in, one after the other.
pub const OBJECT: u8 = 0;
/// The block that is the entry of the name.
pub const ENTRY: u8 = 1;

/// For the reader of a trace: A, B and C are the first threads of the processes, a is the second of the first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Label(pub u8);

/// Who has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tenancy {
    Free,
    /// Its tenant is dead, and nobody has noticed.
    Dead,
    /// Its tenant is known to be dead, and what it held is still to be given back.
    Deceased,
    /// A living process: its own tenant, or the one that gives back what that one held.
    Process(u8),
}

/// Who holds a robust lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    Nobody,
    Slot(u8),
    /// A former tenant of a slot that has been let again since.
    Former,
}

/// What the allocator's lock is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Job {
    Object,
    Entry,
    /// To look at every block, and free what only the dead have.
    Retain,
}

/// What the directory's lock is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Errand {
    Publish,
    Find,
    Unpublish,
    /// To give back what the dead held.
    Bury,
    /// To give back what the last tenant of the own slot held.
    Estate,
}

/// Where to go on after a block has been freed, or left to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Then {
    Idle,
    LeaveDirectory,
    RecoverEntry(Errand),
    ClearIntents(Errand),
}

/// The next action of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    Dead,
    Idle,

    // The allocator.
    HeapLock(Job),
    /// Looks at the stack of condemned blocks; those from `marked` on are marked already. To `mend` is to go on
    /// with a walk, otherwise what is taken is freed.
    PopHead {
        job: Job,
        mend: bool,
        marked: u8,
    },
    PopMark {
        job: Job,
        mend: bool,
        marked: u8,
        head: u8,
        at: u8,
    },
    PopTake {
        job: Job,
        mend: bool,
        head: u8,
    },
    PopFree {
        job: Job,
        at: u8,
    },
    Walk {
        job: Job,
        block: u8,
    },
    WalkUnexport {
        block: u8,
    },
    WalkFree {
        block: u8,
    },
    HandOut(Job),
    HeapUnlock {
        job: Job,
        done: bool,
    },
    TryFree {
        block: u8,
        then: Then,
    },
    FreeCommit {
        block: u8,
        then: Then,
    },
    FreeUnlock(Then),
    Condemn {
        block: u8,
        then: Then,
    },
    PushLink {
        block: u8,
        then: Then,
    },
    Push {
        block: u8,
        head: u8,
        then: Then,
    },

    // Boxes and handles.
    Destroy,
    LeakExport {
        serial: u8,
    },
    Leak {
        serial: u8,
    },
    Claim {
        serial: u8,
    },
    ClaimUnexport,

    // References.
    ShareExport,
    Share,
    ShareCount,
    AloneStripe {
        boxed: bool,
    },
    AloneCount {
        boxed: bool,
    },
    AloneState {
        boxed: bool,
    },
    AloneRestore {
        boxed: bool,
    },
    NotAlone,
    /// Has the only reference borrowed to change the value.
    Mutate,
    Give {
        boxed: bool,
    },
    GiveStripe {
        boxed: bool,
    },
    GiveCount {
        boxed: bool,
    },
    GiveBit {
        boxed: bool,
    },
    GiveUnexport {
        boxed: bool,
    },
    Hold(Errand),
    HoldStripe(Errand),
    HoldBit(Errand),
    HoldCount(Errand),

    // The directory.
    Enter(Errand),
    RecoverObject(Errand),
    RecoverOwn(Errand),
    RecoverUnexport(Errand),
    RecoverUnintend(Errand),
    RecoverEntry(Errand),
    RecoverEntryUnintend(Errand),
    RecoverClear(Errand),
    RecoverClearObject(Errand),
    Look(Errand),
    IntendEntry(Errand),
    IntendObject(Errand),
    Intern,
    SetDir,
    StorePlace,
    RemovePlace,
    TakeDir,
    Extern,
    ClearIntent(Errand),
    ClearIntentObject(Errand),
    Leave(Errand),

    // Giving back what the dead held.
    ClaimSlot(u8),
    Settle,
    FreeSlot {
        slot: u8,
        done: bool,
    },

    /// Only with a planted mistake.
    LookAfterRelease {
        boxed: bool,
    },
    /// Only with a planted mistake.
    CountLate {
        boxed: bool,
        last: bool,
    },
}

/// What must never happen, and is not seen from a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The destructor ran twice, or after the memory was given back.
    DestroyedTwice,
    DestroyedUnderHolder,
    FreedUnderHolder,
    /// A handle was good twice, or one that never led to this object.
    ClaimedStale,
    /// A word was changed that was no block's any more.
    ForeignChanged,
    /// Somebody alive finds a block or the directory other than it must be.
    Damage,
}

/// What a process keeps to itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Home {
    pub alive: bool,
    /// How many references it has to the object.
    pub count: u8,
    /// The thread that has the stripe, counted from one; 0: none.
    pub stripe: u8,
    /// The objects of the slot's last tenant have not been given back yet.
    pub estate: bool,
}

impl Home {
    pub const NEW: Self = Self { alive: true, count: 0, stripe: 0, estate: false };
}

/// One thread, which the explorer calls a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub at: At,
    /// Has a box, or is about to have one, or is about to destroy the object.
    pub boxed: bool,
    /// How many references are in its hands.
    pub arcs: u8,
    /// The slots of the dead that it gives back for, one bit each.
    pub slots: u8,
    pub label: Label,
}

/// Everything, and at the end what only the model remembers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct World {
    pub states: [BlockState; 2],
    /// The tags of condemned blocks: the next one on the stack, counted from one; 0: none.
    pub links: [u8; 2],
    pub head: u8,
    pub exported: bool,
    pub serial: u8,
    pub heap_lock: Lock,
    pub directory_lock: Lock,
    /// Intents: whether they name the object, and whether the entry.
    pub intends: [bool; 2],
    /// The name's place in the table leads to the entry.
    pub place: bool,
    pub tenancies: [Tenancy; PROCESSES],
    pub homes: [Home; PROCESSES],
    pub processes: [Process; THREADS],
    /// The entry's block is now in the middle of somebody's object, whose bytes look like an entry's state.
    pub foreign: bool,
    pub destroyed: bool,
    /// The serials that have been claimed, one bit each.
    pub claimed: u8,
    pub crashes: u8,
    pub objects: u8,
    pub fault: Option<Fault>,
}

/// The process of a thread.
pub const fn home(thread: usize) -> usize {
    thread % PROCESSES
}

/// The slot of a process.
pub fn slot(process: usize) -> Slot {
    Slot::new(process as u64).expect("few processes")
}

impl World {
    /// Everything free, and nobody running. Two objects are allocated at most, one after the other.
    pub fn new(crashes: u8) -> Self {
        let thread = |number: u8| Process {
            at: At::Idle,
            boxed: false,
            arcs: 0,
            slots: 0,
            label: Label(b"ABCa"[usize::from(number)]),
        };
        Self {
            states: [BlockState::FREE; 2],
            links: [0; 2],
            head: 0,
            exported: false,
            serial: 0,
            heap_lock: Lock::Nobody,
            directory_lock: Lock::Nobody,
            intends: [false; 2],
            place: false,
            tenancies: [0, 1, 2].map(Tenancy::Process),
            homes: [Home::NEW; PROCESSES],
            processes: [0, 1, 2, 3].map(thread),
            foreign: false,
            destroyed: false,
            claimed: 0,
            crashes,
            objects: 2,
            fault: None,
        }
    }

    /// Has nothing to do here: see the header.
    pub fn normalize(&mut self, _: usize) {}

    pub fn object(&self) -> BlockState {
        self.states[usize::from(OBJECT)]
    }

    pub fn is_alive(&self, thread: usize) -> bool {
        self.processes[thread].at != At::Dead
    }

    /// The serial of the leaked object.
    pub fn leaked(&self) -> Option<u8> {
        match self.object().kind() {
            Ok(Kind::Leaked { serial, .. }) => u8::try_from(serial).ok(),
            _ => None,
        }
    }

    pub fn fail(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }

    /// A process dies with all its threads.
    pub fn kill(&mut self, process: usize) {
        for thread in (0..THREADS).filter(|thread| home(*thread) == process) {
            let label = self.processes[thread].label;
            self.processes[thread] = Process { at: At::Dead, boxed: false, arcs: 0, slots: 0, label };
        }
        self.homes[process] = Home { alive: false, count: 0, stripe: 0, estate: false };
        for tenancy in &mut self.tenancies {
            if *tenancy == Tenancy::Process(process as u8) {
                *tenancy = Tenancy::Dead;
            }
        }
    }

    /// A process begins, with all its threads, in the slot of the same number.
    pub fn start(&mut self, process: usize, threads: &[usize]) {
        self.homes[process] = Home { estate: self.tenancies[process] != Tenancy::Free, ..Home::NEW };
        self.tenancies[process] = Tenancy::Process(process as u8);
        self.renew(process as u8);
        for thread in threads.iter().filter(|thread| home(**thread) == process) {
            self.processes[*thread].at = At::Idle;
        }
    }

    /// The slot has another generation from now on.
    pub fn renew(&mut self, slot: u8) {
        for lock in [&mut self.heap_lock, &mut self.directory_lock] {
            if *lock == Lock::Slot(slot) {
                *lock = Lock::Former;
            }
        }
    }

    /// Whether a living thread other than `thread` has the object.
    pub fn is_held_beside(&self, thread: usize) -> bool {
        let has = |process: &Process| process.boxed || process.arcs > 0;
        (0..THREADS).any(|other| other != thread && has(&self.processes[other]))
    }

    /// What the allocator does last when it frees a block.
    pub fn free(&mut self, block: u8) {
        if block == OBJECT && self.processes.iter().any(|process| process.boxed || process.arcs > 0) {
            self.fail(Fault::FreedUnderHolder);
        }
        if block == ENTRY && self.foreign {
            self.fail(Fault::ForeignChanged);
        }
        self.states[usize::from(block)] = BlockState::FREE;
    }
}

/// By far the most of a checker's work, so in few words.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.states.hash(state);
        let lock = |lock: Lock| match lock {
            Lock::Nobody => 0,
            Lock::Former => 1,
            Lock::Slot(slot) => 2 + u64::from(slot),
        };
        let mut packed = lock(self.heap_lock) << 3 | lock(self.directory_lock);
        for flag in
            [self.exported, self.intends[0], self.intends[1], self.place, self.foreign, self.destroyed]
        {
            packed = packed << 1 | u64::from(flag);
        }
        for number in [self.links[0], self.links[1], self.head, self.objects, self.crashes] {
            packed = packed << 2 | u64::from(number);
        }
        packed = (packed << 3 | u64::from(self.serial)) << 8 | u64::from(self.claimed);
        for tenancy in self.tenancies {
            let code = match tenancy {
                Tenancy::Free => 0,
                Tenancy::Dead => 1,
                Tenancy::Deceased => 2,
                Tenancy::Process(process) => 3 + u64::from(process),
            };
            packed = packed << 3 | code;
        }
        packed = packed << 3 | self.fault.map_or(0, |fault| 1 + fault as u64);
        state.write_u64(packed);
        let mut packed = 0;
        for home in self.homes {
            packed = packed << 4 | u64::from(home.count);
            packed = packed << 3 | u64::from(home.stripe);
            packed = packed << 2 | u64::from(home.alive) << 1 | u64::from(home.estate);
        }
        for process in self.processes {
            packed = packed << 3 | u64::from(process.slots);
            packed = packed << 3 | u64::from(process.arcs) << 1 | u64::from(process.boxed);
        }
        state.write_u64(packed);
        for process in self.processes {
            process.at.hash(state);
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |state: BlockState| match state.kind() {
            Ok(kind) => format!("{kind:?}"),
            Err(_) => format!("{:#x}", state.bits()),
        };
        let flag = |set: bool, name: &'static str| if set { name } else { "" };
        write!(
            f,
            "{}{}{}; {}{}{}; intends{}{}; tenants",
            kind(self.states[0]),
            flag(self.object().is_published(), " DIR"),
            flag(self.exported, " exported"),
            kind(self.states[1]),
            flag(self.foreign, " (foreign)"),
            flag(self.place, " <- place"),
            flag(self.intends[0], " object"),
            flag(self.intends[1], " entry"),
        )?;
        for tenancy in self.tenancies {
            match tenancy {
                Tenancy::Process(process) => write!(f, " {process}")?,
                other => write!(f, " {other:?}")?,
            }
        }
        for (name, lock) in [("heap", self.heap_lock), ("directory", self.directory_lock)] {
            if lock != Lock::Nobody {
                write!(f, "; {name}: {lock:?}")?;
            }
        }
        if self.head != 0 {
            write!(f, "; stack {} {:?}", self.head, self.links)?;
        }
        let counts = self.homes.map(|home| home.count);
        if counts != [0; PROCESSES] {
            write!(f, "; counts {counts:?}")?;
        }
        Ok(())
    }
}
