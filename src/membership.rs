//! The membership word
//!
//! Who is attached, who owns the segment and whether it still has a name, in one `AtomicU64`: every
//! decision about unlinking is one compare-and-swap on it, so two processes can never both make it.
//! This file is the pure half: [`Membership::step`] says what one event makes of one word. Nobody else
//! composes such a word.
//!
//! # Layout
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..=55 | attached | bit *s* is set: the tenant of slot *s* is attached. Their number is the reference count |
//! | 56..=61 | owner | a slot; [`ORPHAN`]: the owner died; [`NONE`]: given up on purpose. In `Retired`: the designated unlinker |
//! | 62..=63 | phase | `Forming` (0), `Live` (1), `Retired` (2); 3 is damage |
//!
//! A file of zeros reads as `Forming`: a creator that died before it was done left nothing to be mistaken
//! for a segment.
//!
//! # Transitions
//!
//! | event | from | to | afterwards the caller |
//! |---|---|---|---|
//! | [`Form`](Event::Form)(s) | Forming | Live, attached {s}, owner s | |
//! | [`Vacate`](Event::Vacate) | Live | Live, attached {}, an owning slot becomes ORPHAN | frees all tenancies |
//! | [`Join`](Event::Join)(s) | Live | + s; by the [`OrphanPolicy`] an orphan is adopted, refused, or (nobody attached) Retired, unlinker s | if Retired: unlinks |
//! | [`JoinAside`](Event::JoinAside)(s) | Live | + s | |
//! | [`Detach`](Event::Detach)(s) | Live | − s, an owner's place becomes NONE; or by the [`UnlinkPolicy`] Retired, unlinker s | if Retired: unlinks; if last: destructor |
//! | [`Detach`](Event::Detach)(s) | Retired | − s | if last: destructor |
//! | [`Leak`](Event::Leak)(s) | Live, Retired | − s; an owner's place becomes NONE | |
//! | [`Own`](Event::Own)(s) | Live | owner s | |
//! | [`Retire`](Event::Retire)(s) | Live | Retired, unlinker s, which is not attached | unlinks |
//! | [`Sweep`](Event::Sweep)(s) | Live | − s; an owning s becomes ORPHAN | |
//! | [`Sweep`](Event::Sweep)(s) | Retired | − s | if s was the unlinker: unlinks in its place |
//!
//! All other pairs are refused and change nothing. What follows, and what the tests below check for every
//! reachable word: the owner of a Live segment is attached, the unlinker of a Retired one is not; at most one
//! event retires a segment; at most one event tells a caller that it was the last one out; ORPHAN comes only
//! from a death, or from an owner that leaves without the right to unlink and so is swept as if it had died.

/// Number of attachments that one segment can have at a time.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, MAX_ATTACHMENTS, ShmemError};
///
/// let (segment, fd) = Builder::memfd().create(64)?;
/// let mut all = vec![segment];
/// while all.len() < MAX_ATTACHMENTS as usize {
///     all.push(Builder::memfd().attach(&fd)?);
/// }
/// assert_eq!(Builder::memfd().attach(&fd).unwrap_err(), ShmemError::Full);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub const MAX_ATTACHMENTS: u32 = 56;

/// Owner field: the owner died without leaving; the [`OrphanPolicy`] decides what the next opener does.
pub(crate) const ORPHAN: u64 = 62;
/// Owner field: the last owner left the segment behind on purpose.
pub(crate) const NONE: u64 = 63;

const ATTACHED: u64 = (1 << MAX_ATTACHMENTS) - 1;
const OWNER_SHIFT: u32 = MAX_ATTACHMENTS;
const OWNER: u64 = 0x3f << OWNER_SHIFT;
const PHASE_SHIFT: u32 = 62;

/// When the name of a segment goes away.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, UnlinkPolicy};
///
/// # let name = &format!("shmem-bind-doc-{}-unlink-policy", std::process::id());
/// let owner = Builder::new(name).unlink_policy(UnlinkPolicy::LastDetach).with_size(64).open()?;
/// let other = Builder::new(name).attach()?;
/// drop(owner);
/// assert!(other.is_linked(), "others still find it");
/// drop(other);
/// assert!(Builder::new(name).attach().is_err());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnlinkPolicy {
    /// When the owner drops its handle, whoever else is attached. They go on with the unnamed segment.
    #[default]
    OwnerDrop,
    /// When the last attached handle is dropped, whether or not it owns.
    LastDetach,
    /// Never by itself; [`unlink`](crate::unlink) removes it.
    Never,
}

/// What the next opener does with a segment whose owner died.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, OrphanPolicy};
///
/// # let name = &format!("shmem-bind-doc-{}-orphan-policy", std::process::id());
/// // If this process dies, what is in the segment is not to be believed.
/// let segment = Builder::new(name).orphan_policy(OrphanPolicy::Recreate).with_size(64).open()?;
/// assert_eq!(segment.orphan_policy(), OrphanPolicy::Recreate);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OrphanPolicy {
    /// It becomes the owner; the data stays.
    #[default]
    Adopt,
    /// It unlinks the segment and creates a new one, once nobody is attached any more; as long as somebody
    /// is, it joins them and the segment has no owner.
    Recreate,
    /// It gets an error, until an administrator calls [`unlink`](crate::unlink).
    Refuse,
}

/// Number of an attachment, and of its entry in the header's tenancy table: always below
/// [`MAX_ATTACHMENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(
    /// INVARIANT: less than `MAX_ATTACHMENTS`.
    u8,
);

impl Slot {
    /// The lowest.
    pub(crate) const FIRST: Self = Self(0);

    /// Slot number `index`, or `None` if there is no such slot.
    pub(crate) const fn new(index: u64) -> Option<Self> {
        if index < MAX_ATTACHMENTS as u64 { Some(Self(index as u8)) } else { None }
    }

    /// All slots, lowest first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..MAX_ATTACHMENTS as u8).map(Self)
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }

    const fn as_owner(self) -> u64 {
        self.0 as u64
    }
}

/// Where a segment stands in its life.
///
/// # Examples
/// ```
/// # #[cfg(feature = "alloc")] {
/// use shmem_bind::inspect::Snapshot;
/// use shmem_bind::{Builder, Phase};
/// use std::io::Read;
///
/// # let name = &format!("shmem-bind-doc-{}-phase", std::process::id());
/// let _segment = Builder::new(name).with_size(64).create()?;
/// assert_eq!(Snapshot::take(name)?.phase(), Some(Phase::Live));
///
/// let mut file = std::fs::File::open(format!("/dev/shm/{name}")).unwrap();
/// shmem_bind::unlink(name)?;
/// let mut bytes = Vec::new();
/// file.read_to_end(&mut bytes).unwrap();
/// assert_eq!(Snapshot::of_bytes(&bytes).phase(), Some(Phase::Retired));
/// assert_eq!(Snapshot::of_bytes(&[]).phase(), Some(Phase::Forming), "as a creator begins");
/// # }
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Being created, or left unfinished by a creator that died.
    Forming,
    /// Named and open to all.
    Live,
    /// Its name is being or has been removed; nobody new may attach.
    Retired,
}

/// What may happen to a membership word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The creator, alone under the exclusive lock, has finished the segment.
    Form(Slot),
    /// A process holds the exclusive lock, so the kernel says that nobody is attached.
    Vacate,
    /// The holder of this tenancy opens the segment.
    Join(Slot, OrphanPolicy),
    /// The holder of this tenancy attaches, and leaves an orphan to somebody else to adopt.
    JoinAside(Slot),
    /// The tenant leaves.
    Detach(Slot, UnlinkPolicy),
    /// The tenant leaves and wants the name to stay.
    Leak(Slot),
    /// The tenant becomes the owner.
    Own(Slot),
    /// An administrator, with a tenancy but not attached, takes the name away.
    Retire(Slot),
    /// The tenant is certainly dead and its tenancy has been claimed.
    Sweep(Slot),
}

/// What a permitted event leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    /// The word to put in place of the old one.
    pub(crate) word: Membership,
    /// The caller has become, or taken the place of, the designated unlinker: it must now remove the name.
    pub(crate) unlink: bool,
    /// The caller was the last one attached to a retired segment: the value behind it is its to destroy.
    pub(crate) last: bool,
}

/// Why an event was refused; the word stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The segment is in another phase than the event needs.
    Phase(Phase),
    /// The owner is dead and the orphan policy says that nobody may take over.
    Orphaned,
    /// The slot's bit does not fit the event: attached already, or not attached.
    Attached(bool),
    /// No sequence of events leads to this word.
    Corrupt,
}

/// A membership word, as read from the segment: any 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Membership(u64);

impl Membership {
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    const fn compose(phase: Phase, owner: u64, attached: u64) -> Self {
        let phase = match phase {
            Phase::Forming => 0,
            Phase::Live => 1,
            Phase::Retired => 2,
        };
        Self(phase << PHASE_SHIFT | owner << OWNER_SHIFT | attached)
    }

    const fn attached(self) -> u64 {
        self.0 & ATTACHED
    }

    const fn owner(self) -> u64 {
        (self.0 & OWNER) >> OWNER_SHIFT
    }

    /// How many are attached, the dead whom nobody has swept yet included.
    pub(crate) const fn count(self) -> u32 {
        self.attached().count_ones()
    }

    /// Whether this slot is attached.
    pub(crate) const fn is_attached(self, slot: Slot) -> bool {
        self.attached() & slot.bit() != 0
    }

    /// Whether anybody but the tenant of `slot` is attached.
    pub(crate) const fn has_others(self, slot: Slot) -> bool {
        self.attached() & !slot.bit() != 0
    }

    /// The slot of the owner of a live segment, or of the unlinker of a retired one.
    pub(crate) const fn owner_slot(self) -> Option<Slot> {
        Slot::new(self.owner())
    }

    /// Whether the owner died.
    pub(crate) const fn is_orphan(self) -> bool {
        matches!(self.phase(), Ok(Phase::Live)) && self.owner() == ORPHAN
    }

    /// Where the segment stands.
    ///
    /// # Errors
    /// [`Refusal::Corrupt`]: no sequence of events leads to this word.
    pub(crate) const fn phase(self) -> Result<Phase, Refusal> {
        let owner_attached = match self.owner_slot() {
            Some(slot) => Some(self.is_attached(slot)),
            None => None,
        };
        let nobody = self.owner() == ORPHAN || self.owner() == NONE;
        match (self.0 >> PHASE_SHIFT, owner_attached) {
            (0, _) if self.0 == 0 => Ok(Phase::Forming),
            (1, Some(true)) => Ok(Phase::Live),
            (1, None) if nobody => Ok(Phase::Live),
            (2, Some(false)) => Ok(Phase::Retired),
            _ => Err(Refusal::Corrupt),
        }
    }

    /// What `event` makes of this word.
    ///
    /// # Errors
    /// The event is not permitted here; see [`Refusal`].
    pub(crate) fn step(self, event: Event) -> Result<Step, Refusal> {
        let phase = self.phase()?;
        let quiet = |word| Ok(Step { word, unlink: false, last: false });
        // The owner field once `slot` has left, `Live`.
        let owner_without = |slot: Slot, successor| {
            if self.owner() == slot.as_owner() { successor } else { self.owner() }
        };
        match (event, phase) {
            (Event::Form(slot), Phase::Forming) => {
                quiet(Self::compose(Phase::Live, slot.as_owner(), slot.bit()))
            }

            (Event::Vacate, Phase::Live) => {
                let owner = if self.owner_slot().is_some() { ORPHAN } else { self.owner() };
                quiet(Self::compose(Phase::Live, owner, 0))
            }

            (Event::Join(slot, _) | Event::JoinAside(slot), Phase::Live) if self.is_attached(slot) => {
                Err(Refusal::Attached(true))
            }

            (Event::JoinAside(slot), Phase::Live) => {
                quiet(Self::compose(Phase::Live, self.owner(), self.attached() | slot.bit()))
            }

            (Event::Join(slot, policy), Phase::Live) => {
                let joined = self.attached() | slot.bit();
                match policy {
                    _ if !self.is_orphan() => quiet(Self::compose(Phase::Live, self.owner(), joined)),
                    OrphanPolicy::Adopt => quiet(Self::compose(Phase::Live, slot.as_owner(), joined)),
                    OrphanPolicy::Refuse => Err(Refusal::Orphaned),
                    OrphanPolicy::Recreate if self.attached() == 0 => Ok(self.retired_by(slot, 0)),
                    OrphanPolicy::Recreate => quiet(Self::compose(Phase::Live, ORPHAN, joined)),
                }
            }

            (Event::Detach(slot, _) | Event::Leak(slot), _) if !self.is_attached(slot) => {
                Err(Refusal::Attached(false))
            }

            (Event::Detach(slot, policy), Phase::Live) => {
                let rest = self.attached() & !slot.bit();
                let retire = match policy {
                    UnlinkPolicy::OwnerDrop => self.owner() == slot.as_owner(),
                    UnlinkPolicy::LastDetach => rest == 0,
                    UnlinkPolicy::Never => false,
                };
                if retire {
                    return Ok(self.retired_by(slot, rest));
                }
                quiet(Self::compose(Phase::Live, owner_without(slot, NONE), rest))
            }

            (Event::Leak(slot), Phase::Live) => {
                let rest = self.attached() & !slot.bit();
                quiet(Self::compose(Phase::Live, owner_without(slot, NONE), rest))
            }

            (Event::Detach(slot, _), Phase::Retired) => {
                let rest = self.attached() & !slot.bit();
                let word = Self::compose(Phase::Retired, self.owner(), rest);
                Ok(Step { word, unlink: false, last: rest == 0 })
            }

            (Event::Leak(slot), Phase::Retired) => {
                quiet(Self::compose(Phase::Retired, self.owner(), self.attached() & !slot.bit()))
            }

            (Event::Own(slot), Phase::Live) => {
                if !self.is_attached(slot) {
                    return Err(Refusal::Attached(false));
                }
                quiet(Self::compose(Phase::Live, slot.as_owner(), self.attached()))
            }

            (Event::Retire(slot), Phase::Live) => {
                if self.is_attached(slot) {
                    return Err(Refusal::Attached(true));
                }
                Ok(self.retired_by(slot, self.attached()))
            }

            (Event::Sweep(slot), Phase::Live) => {
                let rest = self.attached() & !slot.bit();
                quiet(Self::compose(Phase::Live, owner_without(slot, ORPHAN), rest))
            }

            (Event::Sweep(slot), Phase::Retired) => {
                let word = Self::compose(Phase::Retired, self.owner(), self.attached() & !slot.bit());
                Ok(Step { word, unlink: self.owner() == slot.as_owner(), last: false })
            }

            (_, phase) => Err(Refusal::Phase(phase)),
        }
    }

    /// Retired, with `slot` as the designated unlinker and `rest` still attached.
    const fn retired_by(self, slot: Slot, rest: u64) -> Step {
        let word = Self::compose(Phase::Retired, slot.as_owner(), rest);
        Step { word, unlink: true, last: rest == 0 && self.is_attached(slot) }
    }
}

impl core::fmt::Debug for Membership {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut debug = f.debug_struct("Membership");
        match self.phase() {
            Ok(phase) => debug.field("phase", &phase),
            Err(_) => debug.field("bits", &self.0),
        };
        debug
            .field("owner", &self.owner())
            .field("attached", &format_args!("{:#x}", self.attached()))
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::{HashMap, HashSet};
    use std::vec::Vec;

    const UNLINK: [UnlinkPolicy; 3] =
        [UnlinkPolicy::OwnerDrop, UnlinkPolicy::LastDetach, UnlinkPolicy::Never];
    const ORPHANS: [OrphanPolicy; 3] = [OrphanPolicy::Adopt, OrphanPolicy::Recreate, OrphanPolicy::Refuse];

    /// Three slots, the highest among them.
    fn slots() -> [Slot; 3] {
        [0, 1, u64::from(MAX_ATTACHMENTS) - 1].map(|index| Slot::new(index).unwrap())
    }

    fn events(unlink: UnlinkPolicy, orphan: OrphanPolicy) -> Vec<Event> {
        let mut events = std::vec![Event::Vacate];
        for slot in slots() {
            events.extend([
                Event::Form(slot),
                Event::Join(slot, orphan),
                Event::JoinAside(slot),
                Event::Detach(slot, unlink),
                Event::Leak(slot),
                Event::Own(slot),
                Event::Retire(slot),
                Event::Sweep(slot),
            ]);
        }
        events
    }

    /// Every word that events lead to from zero, with every permitted step out of it.
    fn explore(unlink: UnlinkPolicy, orphan: OrphanPolicy) -> HashMap<Membership, Vec<(Event, Step)>> {
        let mut reached = HashMap::new();
        let mut queue = std::vec![Membership::from_bits(0)];
        while let Some(word) = queue.pop() {
            if reached.contains_key(&word) {
                continue;
            }
            let steps: Vec<_> = events(unlink, orphan)
                .into_iter()
                .filter_map(|event| word.step(event).ok().map(|step| (event, step)))
                .collect();
            queue.extend(steps.iter().map(|(_, step)| step.word));
            reached.insert(word, steps);
        }
        reached
    }

    fn every_policy(mut check: impl FnMut(UnlinkPolicy, OrphanPolicy)) {
        for unlink in UNLINK {
            for orphan in ORPHANS {
                check(unlink, orphan);
            }
        }
    }

    #[test]
    fn every_reachable_word_is_sound_and_all_phases_are_reached() {
        every_policy(|unlink, orphan| {
            let words = explore(unlink, orphan);
            let phases: HashSet<_> = words.keys().map(|word| word.phase().unwrap()).collect();
            assert_eq!(phases.len(), 3);
            // Forming; Live with 8 sets of attached and an owner among them, ORPHAN or NONE; Retired with
            // an unlinker out of three and a subset of the two others.
            assert!(words.len() <= 1 + (12 + 8 + 8) + 3 * 4, "{} words", words.len());
        });
    }

    #[test]
    fn one_retirement_one_unlink_and_one_last_one_out() {
        every_policy(|unlink, orphan| {
            for (word, steps) in explore(unlink, orphan) {
                let before = word.phase().unwrap();
                for (event, step) in steps {
                    let after = step.word.phase().unwrap();
                    match (before, after) {
                        (Phase::Live, Phase::Retired) => assert!(step.unlink, "{event:?} on {word:?}"),
                        (Phase::Retired, Phase::Retired) => {
                            assert_eq!(word.owner(), step.word.owner(), "{event:?} on {word:?}");
                            assert!(
                                !step.unlink
                                    || matches!(event, Event::Sweep(slot) if slot.as_owner() == word.owner())
                            );
                            assert_eq!(word.attached() | step.word.attached(), word.attached());
                        }
                        (Phase::Retired, _) => panic!("{event:?} brought {word:?} back to life"),
                        _ => assert!(!step.unlink && !step.last),
                    }
                    // "Last" is said only to somebody whose bit this very step cleared, and no one is left.
                    if step.last {
                        assert!(matches!(event, Event::Detach(slot, _) if word.is_attached(slot)));
                        assert_eq!(step.word.attached(), 0);
                    }
                }
            }
        });
    }

    #[test]
    fn only_a_death_orphans_and_only_joining_adopts() {
        every_policy(|unlink, orphan| {
            for (word, steps) in explore(unlink, orphan) {
                for (event, step) in steps {
                    if step.word.is_orphan() && !word.is_orphan() {
                        assert!(matches!(event, Event::Sweep(_) | Event::Vacate), "{event:?} on {word:?}");
                    }
                    if word.is_orphan() && !step.word.is_orphan() {
                        match event {
                            Event::Join(..) => assert_ne!(orphan, OrphanPolicy::Refuse),
                            Event::Own(_) | Event::Retire(_) => {}
                            Event::Detach(..) => assert_eq!(unlink, UnlinkPolicy::LastDetach),
                            _ => panic!("{event:?} on {word:?}"),
                        }
                    }
                    if word.owner() == NONE && matches!(event, Event::Join(..)) {
                        assert_eq!(step.word.owner(), NONE, "a segment that was leaked is not adopted");
                    }
                }
            }
        });
    }

    #[test]
    fn policies_decide_the_unlink() {
        let [a, b, _] = slots();
        let both = Membership::compose(Phase::Live, a.as_owner(), a.bit() | b.bit());
        let detach = |word: Membership, slot, policy| word.step(Event::Detach(slot, policy)).unwrap();

        let step = detach(both, a, UnlinkPolicy::OwnerDrop);
        assert!(step.unlink && !step.last);
        let step = detach(step.word, b, UnlinkPolicy::OwnerDrop);
        assert!(!step.unlink && step.last, "the last one out, and only it, destroys");
        assert!(!detach(both, b, UnlinkPolicy::OwnerDrop).unlink);

        let step = detach(both, a, UnlinkPolicy::LastDetach);
        assert!(!step.unlink);
        let step = detach(step.word, b, UnlinkPolicy::LastDetach);
        assert!(step.unlink && step.last);

        let step = detach(both, a, UnlinkPolicy::Never);
        assert_eq!(step.word.owner(), NONE);
        assert!(!detach(step.word, b, UnlinkPolicy::Never).unlink);
    }

    #[test]
    fn any_bits_are_read_without_harm() {
        for phase in 0..4 {
            for owner in 0..64 {
                for attached in [0, 1, 1 << 55, ATTACHED] {
                    let word = Membership::from_bits(phase << PHASE_SHIFT | owner << OWNER_SHIFT | attached);
                    for event in events(UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt) {
                        match word.step(event) {
                            Ok(step) => assert!(step.word.phase().is_ok(), "{event:?} on {word:?}"),
                            Err(refusal) => assert_eq!(
                                refusal == Refusal::Corrupt,
                                word.phase().is_err(),
                                "{event:?} on {word:?}"
                            ),
                        }
                    }
                }
            }
        }
    }
}
