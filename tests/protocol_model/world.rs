//! The world that the processes share: one name, the inodes behind it, and who stands where in the protocol.
//!
//! States that differ only in the numbering of processes or inodes have the same future, so
//! [`World::normalize`] renumbers both after every action; the labels in a trace follow it and are no part
//! of a state's identity.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::membership::{Membership, Phase, Refusal, Slot};

pub const PROCESSES: usize = 3;
pub const SLOTS: u8 = 3;
/// Each process refers to one inode at most and a new one is made only for a process that refers to none,
/// so there are never more than this: two others' and either the name's or the new one.
pub const INODES: usize = 3;

/// For the reader of a trace; two states that differ only here are the same state.
#[derive(Clone, Copy, Default)]
pub struct Label(pub u8);

impl PartialEq for Label {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Label {}

impl Hash for Label {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A tenancy word. One value stands for all identities of the dead: the protocol looks at such a word and
/// replaces it in one compare-and-swap, and no dead identity is ever written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tenancy {
    #[default]
    Free,
    Dead,
    Process(u8),
}

/// One file, with what the header holds and what only the model remembers (the last four fields).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// The header has been written; without it the file is empty.
    pub header: bool,
    pub membership: Membership,
    pub tenancies: [Tenancy; SLOTS as usize],
    /// The second word of an identity, in [`Mistake::IdentityInTwoWords`](crate::protocol::Mistake) only.
    pub incarnations: [Tenancy; SLOTS as usize],
    pub formed: bool,
    pub destroyed: bool,
    /// The last owner left on purpose and wanted the name to stay.
    pub given_up: bool,
    pub label: Label,
}

impl Inode {
    pub const EMPTY: Self = Self {
        header: false,
        membership: Membership::from_bits(0),
        tenancies: [Tenancy::Free; SLOTS as usize],
        incarnations: [Tenancy::Free; SLOTS as usize],
        formed: false,
        destroyed: false,
        given_up: false,
        label: Label(0),
    };

    pub fn phase(&self) -> Result<Phase, Refusal> {
        if self.header { self.membership.phase() } else { Ok(Phase::Forming) }
    }
}

/// In two words: hashing is most of the checker's work.
impl Hash for Inode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut packed = 0;
        for word in self.tenancies.iter().chain(&self.incarnations) {
            let code = match word {
                Tenancy::Free => 0,
                Tenancy::Dead => 1,
                Tenancy::Process(process) => 2 + u64::from(*process),
            };
            packed = packed << 4 | code;
        }
        for flag in [self.header, self.formed, self.destroyed, self.given_up] {
            packed = packed << 1 | u64::from(flag);
        }
        state.write_u64(self.membership.bits());
        state.write_u64(packed);
    }
}

/// The `flock` of a process on its one open file description, which lives as long as the descriptor or the
/// mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lock {
    Unlocked,
    Shared,
    Exclusive,
}

/// What a process opened the name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Errand {
    Attach,
    Unlink,
}

/// Why tenancies are swept, which is also where to go on afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sweep {
    /// The owner's slot, before joining.
    Owner,
    /// All, since an orphan may be recreated once nobody is attached.
    Orphan,
    /// All, since no tenancy is free.
    Full,
    /// All, since it matters who is the last one out.
    Leaving,
    /// The designated unlinker's slot.
    Takeover,
}

/// Why a name is removed, which is also where to go on afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unlinker {
    Detaching { last: bool },
    Recreating,
    Sweeping { slot: u8, sweep: Sweep },
    Administrator,
}

/// The next action of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// Holds nothing; may open. To start again is to come back here.
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
    ClaimTenancy {
        slot: u8,
        swept: bool,
    },
    Join,
    Retire,
    SweepTenancy {
        slot: u8,
        sweep: Sweep,
    },
    SweepMembership {
        slot: u8,
        sweep: Sweep,
    },
    SweepDone {
        slot: u8,
        sweep: Sweep,
    },
    CheckName(Unlinker),
    Unlink(Unlinker),
    Attached,
    Detach,
    Destroy,
    FreeTenancy,
    Release,
    /// Only with a planted mistake.
    UpgradeLock,
    /// Only with a planted mistake.
    StoreIncarnation,
    /// Only with a planted mistake.
    ReadIncarnation {
        slot: u8,
        sweep: Sweep,
        pid: u8,
    },
    /// Only with a planted mistake.
    OwnNew,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub at: At,
    pub errand: Errand,
    /// The inode that its descriptor or mapping leads to.
    pub inode: Option<u8>,
    pub lock: Lock,
    /// The tenancy that it holds for itself; those it sweeps are in `at`.
    pub slot: Option<u8>,
    /// Between the compare-and-swap that set its bit and the one that cleared it.
    pub attached: bool,
    pub label: Label,
}

impl Process {
    pub const IDLE: Self = Self {
        at: At::Idle,
        errand: Errand::Attach,
        inode: None,
        lock: Lock::Unlocked,
        slot: None,
        attached: false,
        label: Label(0),
    };

    /// The tenancy, if any, that it holds for the time of a sweep.
    pub fn sweeping(&self) -> Option<u8> {
        match self.at {
            At::SweepMembership { slot, .. }
            | At::SweepDone { slot, .. }
            | At::CheckName(Unlinker::Sweeping { slot, .. })
            | At::Unlink(Unlinker::Sweeping { slot, .. }) => Some(slot),
            _ => None,
        }
    }

    pub fn is_resting(&self) -> bool {
        matches!(self.at, At::Idle | At::Attached)
    }
}

/// In one word.
impl Hash for Process {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut packed = Packed(1);
        self.at.hash(&mut packed);
        let option = |number: Option<u8>| number.map_or(0, |number| number + 1);
        packed.write_u8(option(self.inode) << 4 | option(self.slot));
        packed.write_u8((self.lock as u8) << 2 | (self.errand as u8) << 1 | u8::from(self.attached));
        state.write_u64(packed.0);
    }
}

/// One byte for each small number.
struct Packed(u64);

impl Hasher for Packed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u8(byte);
        }
    }

    fn write_u8(&mut self, number: u8) {
        debug_assert!(self.0 >> 56 == 0, "a process takes more than a word");
        self.0 = self.0 << 8 | u64::from(number);
    }

    /// The discriminant of an enum.
    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }
}

/// A wrong that an action did, as opposed to one that shows in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    UnlinkedAnotherSegment,
    UnlinkedLiveSegment,
    CreatedTwice,
    DestroyedTwice,
    DestroyedUnderAttached,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub name: Option<u8>,
    pub inodes: [Inode; INODES],
    pub processes: [Process; PROCESSES],
    pub crashes_left: u8,
    pub fault: Option<Fault>,
    pub created: Label,
}

impl World {
    pub fn new(crashes: u8) -> Self {
        let mut processes = [Process::IDLE; PROCESSES];
        for (process, label) in processes.iter_mut().zip(b'A'..) {
            process.label = Label(label);
        }
        Self {
            name: None,
            inodes: [Inode::EMPTY; INODES],
            processes,
            crashes_left: crashes,
            fault: None,
            created: Label(0),
        }
    }

    /// SIGKILL: descriptors, mappings and locks are gone at once, tenancy words stay and are a dead man's.
    /// The same PID then starts anew.
    pub fn kill(&mut self, process: usize) {
        let label = self.processes[process].label;
        self.processes[process] = Process { label, ..Process::IDLE };
        let mine = Tenancy::Process(process as u8);
        for inode in &mut self.inodes {
            for word in inode.tenancies.iter_mut().chain(&mut inode.incarnations) {
                if *word == mine {
                    *word = Tenancy::Dead;
                }
            }
        }
    }

    pub fn users(&self, inode: usize) -> impl Iterator<Item = (usize, &Process)> {
        self.processes.iter().enumerate().filter(move |(_, process)| process.inode == Some(inode as u8))
    }

    /// Puts processes and inodes in an order that depends on their state and not on their history.
    pub fn normalize(&mut self, processes: usize) {
        self.sort_processes(processes);
        self.sort_inodes();
    }

    fn sort_processes(&mut self, count: usize) {
        let name = self.name;
        let key = |process: &Process| {
            let named = process.inode.map(|inode| Some(inode) == name);
            (process.at, process.lock, process.slot, process.attached, process.errand, named)
        };
        let mut order: [u8; PROCESSES] = std::array::from_fn(|process| process as u8);
        let running = &mut order[..count];
        running.sort_by_key(|&process| key(&self.processes[usize::from(process)]));
        if running.is_sorted() {
            return;
        }
        self.processes = order.map(|process| self.processes[usize::from(process)]);
        let mut renamed = [0; PROCESSES];
        for (new, &old) in (0..).zip(&order) {
            renamed[usize::from(old)] = new;
        }
        for inode in &mut self.inodes {
            for word in inode.tenancies.iter_mut().chain(&mut inode.incarnations) {
                if let Tenancy::Process(process) = word {
                    *process = renamed[usize::from(*process)];
                }
            }
        }
        for process in &mut self.processes {
            if let At::ReadIncarnation { pid, .. } = &mut process.at {
                *pid = renamed[usize::from(*pid)];
            }
        }
    }

    /// First the one with the name, then in the order of the processes; what nobody can reach is gone.
    fn sort_inodes(&mut self) {
        let mut renamed = [None; INODES];
        let mut sorted = [Inode::EMPTY; INODES];
        let mut next = 0;
        let places = [&mut self.name].into_iter().chain(self.processes.iter_mut().map(|p| &mut p.inode));
        for place in places {
            let Some(old) = place else { continue };
            let old = usize::from(*old);
            let new = *renamed[old].get_or_insert_with(|| {
                sorted[usize::from(next)] = self.inodes[old];
                next += 1;
                next - 1
            });
            *place = Some(new);
        }
        self.inodes = sorted;
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(inode) => write!(f, "name -> #{}", self.inodes[usize::from(inode)].label.0)?,
            None => write!(f, "no name")?,
        }
        for (index, inode) in self.inodes.iter().enumerate() {
            if self.name != Some(index as u8) && self.users(index).next().is_none() {
                continue;
            }
            write!(f, "; #{}: ", inode.label.0)?;
            if !inode.header {
                write!(f, "empty")?;
                continue;
            }
            match inode.phase() {
                Ok(phase) => write!(f, "{phase:?}")?,
                Err(_) => write!(f, "CORRUPT")?,
            }
            match inode.membership.owner_slot() {
                Some(slot) => write!(f, " owner {}", slot.index())?,
                None if inode.membership.is_orphan() => write!(f, " orphan")?,
                None => write!(f, " owner none")?,
            }
            for (slot, tenancy) in inode.tenancies.iter().enumerate() {
                let bit = Slot::new(slot as u64).is_some_and(|slot| inode.membership.is_attached(slot));
                write!(f, " {}", if bit { "+" } else { "" })?;
                match tenancy {
                    Tenancy::Free => write!(f, "-")?,
                    Tenancy::Dead => write!(f, "dead")?,
                    Tenancy::Process(process) => {
                        write!(f, "{}", char::from(self.processes[usize::from(*process)].label.0))?;
                    }
                }
            }
        }
        if let Some(fault) = self.fault {
            write!(f, "; FAULT {fault:?}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
