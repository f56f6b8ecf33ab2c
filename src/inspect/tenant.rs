//! Who is attached

use crate::header::SharedHeader;
use crate::membership::{Phase, Slot};
use crate::tenancy::Tenancy;
use alloc::vec::Vec;

/// Whether a process lives, as far as this one can tell.
///
/// # Examples
/// ```
/// use shmem_bind::Builder;
/// use shmem_bind::inspect::{Life, Snapshot};
///
/// # let name = &format!("shmem-bind-doc-{}-life", std::process::id());
/// let _segment = Builder::new(name).with_size(64).create()?;
/// let mut saved = std::fs::read(format!("/dev/shm/{name}")).unwrap();
/// let life = |bytes: &[u8]| Snapshot::of_bytes(bytes).tenants()[0].life();
/// assert_eq!(life(&saved), Life::Alive);
///
/// // As if another process had had this one's number: bits 43 to 63 tell them apart.
/// let word = u64::from_ne_bytes(saved[512..520].try_into().unwrap());
/// saved[512..520].copy_from_slice(&(word ^ 1 << 43).to_ne_bytes());
/// assert_eq!(life(&saved), Life::Dead);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Life {
    /// It does.
    Alive,
    /// It does not. What it holds is given back by whoever looks next.
    Dead,
    /// It cannot be told: it is in another PID namespace, say. It counts as alive.
    Unknown,
}

/// A slot of a segment that somebody has.
///
/// # Examples
/// ```
/// use shmem_bind::Builder;
/// use shmem_bind::inspect::{Life, Snapshot};
///
/// # let name = &format!("shmem-bind-doc-{}-tenant", std::process::id());
/// let _owner = Builder::new(name).with_size(64).create()?;
/// let guest = Builder::new(name).attach()?;
///
/// let snapshot = Snapshot::take(name)?;
/// let [first, second] = snapshot.tenants() else { panic!() };
/// assert!(first.is_owner() && !second.is_owner() && second.is_attached());
/// assert_eq!((first.slot(), second.slot(), second.life()), (0, 1, Life::Alive));
/// assert_eq!((second.pid(), second.is_near()), (Some(std::process::id()), true));
///
/// drop(guest);
/// let _next = Builder::new(name).attach()?;
/// assert!(Snapshot::take(name)?.tenants()[1].generation() > second.generation());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    slot: Slot,
    tenancy: Tenancy,
    generation: u64,
    is_attached: bool,
    is_owner: bool,
    is_near: bool,
    life: Life,
}

impl Tenant {
    /// All of a segment, by slot.
    pub(super) fn all(header: &SharedHeader, own: Tenancy) -> Vec<Self> {
        let word = header.membership();
        let owner = word.owner_slot().filter(|_| word.phase() == Ok(Phase::Live));
        let tenants = Slot::all().map(|slot| {
            let tenancy = header.tenancy(slot);
            let life = if tenancy == Tenancy::DECEASED || tenancy.is_certainly_dead(own) {
                Life::Dead
            } else if tenancy.is_certainly_alive(own) {
                Life::Alive
            } else {
                Life::Unknown
            };
            Self {
                slot,
                tenancy,
                generation: header.generation(slot),
                is_attached: word.is_attached(slot),
                is_owner: owner == Some(slot),
                is_near: tenancy.is_near(own),
                life,
            }
        });
        tenants.filter(|tenant| tenant.tenancy != Tenancy::FREE || tenant.is_attached).collect()
    }

    /// Number of the slot: 0 to 55.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot.index() as u32
    }

    /// The process, by its number in its own PID namespace; `None` if it is known only that it has died.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match self.tenancy.pid() {
            0 => None,
            pid => Some(pid),
        }
    }

    /// Whether the number means that process in the PID namespace of this one, too.
    #[must_use]
    pub const fn is_near(&self) -> bool {
        self.is_near
    }

    /// Whether it is attached. If not, it is just coming or going, or it has died and its objects have not been given back.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Whether it owns the segment.
    #[must_use]
    pub const fn is_owner(&self) -> bool {
        self.is_owner
    }

    /// Whether the process lives.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.life
    }

    /// A number that grows with each change of the slot's tenant, and tells one of its tenants from the next.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The slot's bit, in the bitmap of those who hold an object.
    pub(super) const fn bit(&self) -> u64 {
        self.slot.bit()
    }

    /// Whether an attachment counts here that is nobody's.
    pub(super) const fn is_contradiction(&self) -> bool {
        self.is_attached && self.tenancy.pid() == 0
    }
}
