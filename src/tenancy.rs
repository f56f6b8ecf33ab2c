//! The tenancy word
//!
//! Which process holds a slot, in one `AtomicU64`: PID, PID namespace and incarnation together. Were they in
//! words of their own, somebody could read a former tenant's incarnation beside the new tenant's PID and take
//! a living process for dead. A word is claimed, taken over from the dead and freed by compare-and-swap on
//! its exact value.
//!
//! # Layout
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..=21 | pid | in the tenant's own PID namespace; never 0. `PID_MAX_LIMIT` is 2^22 |
//! | 22..=41 | namespace | inode number of that namespace, less a base; 0: unknown |
//! | 42 | source | of the incarnation: 0 the inode number of the pidfd, 1 the start time of the process |
//! | 43..=63 | incarnation | low bits of that number; 0: unknown |
//!
//! Zero is a free slot. One other word without a PID, [`DECEASED`](Tenancy::DECEASED), is the slot of a process
//! that is known to be dead, and whose objects in an arena wait to be given back.
//!
//! # Certainly dead
//!
//! Only a process that is certainly dead may be robbed. Certain are, for a tenant of the same and known PID
//! namespace: the kernel knows no process of that PID, or says that it has exited, or the process that has
//! the PID now is another incarnation. Everything else counts as alive: to take a dead process for living
//! leaks a slot until the segment goes, to take a living one for dead is a disaster. For the same reason two
//! incarnations that agree in their low bits do no harm: the dead one merely looks alive for a while. A PID
//! goes to threads as well as to processes; a thread that has the number now is just another incarnation. A
//! process that has called `exec` counts as alive, though its mapping is gone, and so does one whose main
//! thread has ended, as long as another runs.

use crate::sys::process::{self, Liveness, Pidfd};

const PID_BITS: u32 = 22;
const NAMESPACE_BITS: u32 = 20;
const INCARNATION_BITS: u32 = 21;

const NAMESPACE_SHIFT: u32 = PID_BITS;
const SOURCE_SHIFT: u32 = PID_BITS + NAMESPACE_BITS;
const INCARNATION_SHIFT: u32 = SOURCE_SHIFT + 1;

static_assertions::const_assert_eq!(INCARNATION_SHIFT + INCARNATION_BITS, u64::BITS);

/// Below the inode number of the initial PID namespace (`PROC_PID_INIT_INO`, 0xEFFF_FFFC); the others count up
/// from 0xF000_0000.
const NAMESPACE_BASE: u64 = 0xEFFF_FF00;

const fn mask(bits: u32) -> u64 {
    !(!0 << bits)
}

/// How an incarnation number was found; two of different sources say nothing about each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Pidfd,
    StartTime,
}

/// Who holds a slot, as read from the segment: any 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tenancy(u64);

impl Tenancy {
    /// Nobody.
    pub(crate) const FREE: Self = Self(0);

    /// Nobody any more, but what the last tenant held is still to be given back.
    pub(crate) const DECEASED: Self = Self(1 << SOURCE_SHIFT);

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    fn compose(pid: u32, namespace: Option<u64>, source: Source, incarnation: Option<u64>) -> Self {
        // A namespace whose number does not fit counts as unknown.
        let namespace = namespace
            .and_then(|inode| inode.checked_sub(NAMESPACE_BASE))
            .filter(|number| *number <= mask(NAMESPACE_BITS))
            .unwrap_or(0);
        Self(
            (u64::from(pid) & mask(PID_BITS))
                | namespace << NAMESPACE_SHIFT
                | (source as u64) << SOURCE_SHIFT
                | (incarnation.unwrap_or(0) & mask(INCARNATION_BITS)) << INCARNATION_SHIFT,
        )
    }

    /// This process. Costs some system calls; the same until the process forks.
    pub(crate) fn own() -> Self {
        let pid = process::own_pid();
        let own = Pidfd::own().ok();
        let namespace = process::own_namespace(own.as_ref());
        match own.as_ref().and_then(Pidfd::serial) {
            Some(serial) => Self::compose(pid, namespace, Source::Pidfd, Some(serial)),
            None => Self::compose(pid, namespace, Source::StartTime, process::start_time(pid)),
        }
    }

    pub(crate) const fn pid(self) -> u32 {
        (self.0 & mask(PID_BITS)) as u32
    }

    const fn namespace(self) -> u64 {
        self.0 >> NAMESPACE_SHIFT & mask(NAMESPACE_BITS)
    }

    const fn source(self) -> Source {
        if self.0 >> SOURCE_SHIFT & 1 == 0 { Source::Pidfd } else { Source::StartTime }
    }

    const fn incarnation(self) -> u64 {
        self.0 >> INCARNATION_SHIFT
    }

    /// Whether `incarnation` shows that the process that has the PID now is this one.
    #[cfg(any(feature = "alloc", test))]
    fn is_same(self, incarnation: Option<u64>) -> bool {
        self.incarnation() != 0
            && incarnation.is_some_and(|number| number & mask(INCARNATION_BITS) == self.incarnation())
    }

    /// Whether `incarnation` shows that the process that has the PID now is another one.
    fn is_other(self, incarnation: Option<u64>) -> bool {
        let known = incarnation.map_or(0, |number| number & mask(INCARNATION_BITS));
        known != 0 && self.incarnation() != 0 && known != self.incarnation()
    }

    /// Whether this tenant, looked at by the process `own`, is certainly dead.
    pub(crate) fn is_certainly_dead(self, own: Self) -> bool {
        if self == own || !self.is_near(own) {
            return false;
        }
        match process::liveness(self.pid()) {
            Liveness::Dead => true,
            Liveness::Unknown => false,
            Liveness::Alive(pidfd) => self.is_other(self.incarnation_of(&pidfd)),
        }
    }

    /// Whether this tenant, looked at by the process `own`, is certainly alive.
    #[cfg(any(feature = "alloc", test))]
    pub(crate) fn is_certainly_alive(self, own: Self) -> bool {
        if self == own || !self.is_near(own) {
            return self == own && self != Self::FREE;
        }
        match process::liveness(self.pid()) {
            Liveness::Dead | Liveness::Unknown => false,
            Liveness::Alive(pidfd) => self.is_same(self.incarnation_of(&pidfd)),
        }
    }

    /// Whether its number means something in the PID namespace of the process `own`.
    pub(crate) const fn is_near(self, own: Self) -> bool {
        self.0 != Self::FREE.0 && self.namespace() != 0 && self.namespace() == own.namespace()
    }

    /// The incarnation of the process that has the number now, from the source of this one's.
    fn incarnation_of(self, pidfd: &Pidfd) -> Option<u64> {
        match self.source() {
            Source::Pidfd => pidfd.serial(),
            Source::StartTime => pidfd.start_time(self.pid()),
        }
    }
}

impl core::fmt::Debug for Tenancy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tenancy")
            .field("pid", &self.pid())
            .field("namespace", &self.namespace())
            .field("incarnation", &(self.source(), self.incarnation()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    const INITIAL: Option<u64> = Some(0xEFFF_FFFC);

    #[test]
    fn fields_do_not_touch_each_other() {
        let word = Tenancy::compose(0x3f_ffff, Some(NAMESPACE_BASE + 0xf_ffff), Source::StartTime, Some(!0));
        assert_eq!(word.bits(), !0);
        let word = Tenancy::compose(1, INITIAL, Source::Pidfd, Some(2 << INCARNATION_BITS | 3));
        assert_eq!(
            (word.pid(), word.namespace(), word.source(), word.incarnation()),
            (1, 0xFC, Source::Pidfd, 3)
        );
    }

    #[test]
    fn a_namespace_that_does_not_fit_is_unknown() {
        for inode in [None, Some(0), Some(NAMESPACE_BASE - 1), Some(NAMESPACE_BASE + (1 << NAMESPACE_BITS))] {
            assert_eq!(Tenancy::compose(1, inode, Source::Pidfd, None).namespace(), 0);
        }
    }

    #[test]
    fn this_process_lives_and_its_former_incarnation_does_not() {
        let own = Tenancy::own();
        assert!(!own.is_certainly_dead(own) && own.is_certainly_alive(own));
        assert_ne!(own.incarnation(), 0, "neither pidfds nor /proc on this machine");
        let former = Tenancy::from_bits(own.bits() ^ 1 << INCARNATION_SHIFT);
        assert!(former.is_certainly_dead(own) && !former.is_certainly_alive(own));
    }

    #[test]
    fn a_thread_does_not_keep_a_dead_process_alive() {
        std::thread::spawn(|| {
            let own = Tenancy::own();
            let number = nix::unistd::gettid().as_raw().unsigned_abs();
            let dead = Tenancy::from_bits(own.bits() & !mask(PID_BITS) | u64::from(number));
            // Pidfds of threads and numbers that tell processes apart are both of Linux 6.9.
            assert_eq!(dead.is_certainly_dead(own), own.source() == Source::Pidfd);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_is_not_known_counts_as_alive() {
        let own = Tenancy::own();
        let dead_pid = 0x3f_ffff;
        let source = own.source();
        assert!(!Tenancy::FREE.is_certainly_dead(own));
        assert!(!Tenancy::DECEASED.is_certainly_dead(own), "that has been noticed already");
        for namespace in [None, Some(NAMESPACE_BASE + 1)] {
            assert!(!Tenancy::compose(dead_pid, namespace, source, Some(1)).is_certainly_dead(own));
        }
        let unknown_incarnation = Tenancy::from_bits(own.bits() & mask(INCARNATION_SHIFT));
        assert!(!unknown_incarnation.is_certainly_dead(own) && !unknown_incarnation.is_certainly_alive(own));
        let other_source = Tenancy::from_bits(unknown_incarnation.bits() ^ 1 << SOURCE_SHIFT);
        assert!(!other_source.is_certainly_dead(own));
        // The same PID in the same namespace, though, is free for certain.
        let same_namespace = Tenancy::from_bits(own.bits() & !mask(PID_BITS) | u64::from(dead_pid));
        assert!(same_namespace.is_certainly_dead(own));
    }

    #[test]
    fn start_times_tell_incarnations_apart_where_there_are_no_serials() {
        let own = Tenancy::own();
        let pid = process::own_pid();
        let Some(start_time) = process::start_time(pid) else { return };
        let namespace = Some(own.namespace() + NAMESPACE_BASE);
        let by_start_time = |time| Tenancy::compose(pid, namespace, Source::StartTime, Some(time));
        assert!(!by_start_time(start_time).is_certainly_dead(own));
        assert!(by_start_time(start_time + 1).is_certainly_dead(own));
    }
}
