//! The bare handle
//!
//! What a [`Builder`](crate::Builder) gives: a [`ShmemConf`] is one attachment. It counts in the header until it, or the box
//! made of it, is dropped.

use crate::attachment::{Attached, Attachment};
use crate::error::{HeaderError, OwnError};
use crate::header::{Payload, SegmentId, Statistics};
use crate::lifecycle::{Departure, Origin};
use crate::membership::{OrphanPolicy, Phase, Refusal, UnlinkPolicy};
use core::fmt;

/// One attachment to a segment: mapped, and counted in its header.
///
/// Dropping it detaches; if it owns the segment, dropping it unlinks the segment too, by the
/// [`UnlinkPolicy`]. A value in the segment is not destroyed by it: that is up to the last
/// [`ShmemBox`](crate::ShmemBox).
///
/// In a child after `fork` an inherited handle is inert: dropping it changes nothing, and what it is asked it
/// answers with "nothing".
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, Origin, UnlinkPolicy};
///
/// # let name = format!("shmem-bind-doc-{}-conf", std::process::id());
/// let segment = Builder::new(&name).with_size(64).open()?;
/// assert_eq!(segment.name(), Some(&*name));
/// assert_eq!((segment.payload_size(), segment.max_size()), (64, 64));
/// assert_eq!((segment.origin(), segment.unlink_policy()), (Origin::Created, UnlinkPolicy::OwnerDrop));
/// assert_eq!(segment.owner_pid(), Some(std::process::id()));
/// assert_eq!((segment.attachment_count(), segment.is_owner(), segment.is_linked()), (1, true, true));
///
/// let other = Builder::new(&name).attach()?;
/// assert_eq!((other.attachment_count(), other.is_owner()), (2, false));
/// other.try_own()?; // from now on it decides
/// drop(other);
/// assert!(!segment.is_linked() && segment.owner_pid().is_none());
///
/// assert!(!segment.is_read_only() && !segment.is_severed());
/// println!("{} {:?} {:?}", segment.segment_id(), segment.orphan_policy(), segment.statistics());
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
pub struct ShmemConf(pub(crate) Attachment);

impl ShmemConf {
    /// The name by which the segment was opened; `None` for a memfd.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(self.0.get()?.link.as_ref()?.name.as_str())
    }

    /// Size of the payload, in bytes: that of the segment, which may be more than was asked for. If it may grow,
    /// the size that it started with.
    #[must_use]
    pub fn payload_size(&self) -> usize {
        // What has been mapped fits.
        self.0.get().map_or(0, |attached| attached.header.initial_len() as usize)
    }

    /// Size that the payload may [grow](crate::Arena::grow) to, in bytes.
    #[must_use]
    pub fn max_size(&self) -> usize {
        self.0.get().map_or(0, |attached| attached.region.payload_len())
    }

    /// A random number that tells this segment from every other one, also from a later one of its name.
    #[must_use]
    pub fn segment_id(&self) -> SegmentId {
        self.0.get().map_or(SegmentId::NIL, |attached| attached.header.segment_id())
    }

    /// The process that owns the segment, by its number in its own PID namespace; `None` if nobody does: it
    /// was leaked, or its name is gone, or its owner died and that has been noticed.
    #[must_use]
    pub fn owner_pid(&self) -> Option<u32> {
        let header = self.0.get()?.region.header();
        let word = header.membership();
        let owner = word.owner_slot().filter(|_| word.phase() == Ok(Phase::Live))?;
        Some(header.tenancy(owner).pid()).filter(|pid| *pid != 0)
    }

    /// How many handles of all processes are attached, this one included unless it is read-only; those of
    /// processes that died count until that is noticed.
    #[must_use]
    pub fn attachment_count(&self) -> u32 {
        self.0.get().map_or(0, |attached| attached.region.header().membership().count())
    }

    /// Whether this handle owns the segment.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.0.get().is_some_and(|attached| {
            let word = attached.region.header().membership();
            let own = attached.slot();
            own.is_some() && word.owner_slot() == own && word.phase() == Ok(Phase::Live)
        })
    }

    /// What the payload is, as the first to box it said.
    ///
    /// # Errors
    /// [`HeaderError::Payload`]: the header has been damaged.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, Payload};
    ///
    /// let (segment, _fd) = Builder::memfd().create(64)?;
    /// // Before `boxed`, where an older release may have left another type:
    /// match segment.payload()? {
    ///     Payload::Unset => println!("nothing is here yet"),
    ///     Payload::Value { size: 8, align: 8 } => println!("perhaps a counter"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn payload(&self) -> Result<Payload, HeaderError> {
        self.0.get().map_or(Ok(Payload::Unset), |attached| attached.region.header().payload())
    }

    /// How this handle came to the segment: whether it has to initialise the payload, and whether an owner died.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.0.get().map_or(Origin::Attached, |attached| attached.origin)
    }

    /// When the name of the segment goes away, as its creator chose.
    #[must_use]
    pub fn unlink_policy(&self) -> UnlinkPolicy {
        self.0.get().map_or_else(UnlinkPolicy::default, |attached| attached.header.unlink_policy())
    }

    /// What the next opener does if the owner has died, as the segment's creator chose.
    #[must_use]
    pub fn orphan_policy(&self) -> OrphanPolicy {
        self.0.get().map_or_else(OrphanPolicy::default, |attached| attached.header.orphan_policy())
    }

    /// Whether the segment is open to others: it has not been unlinked.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.0.get().is_some_and(|attached| attached.region.header().membership().phase() == Ok(Phase::Live))
    }

    /// Whether the segment was attached only to be read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.get().is_some_and(Attached::is_read_only)
    }

    /// Whether memory of the segment has gone away, and [`sigbus_fixup`](crate::sigbus_fixup) has put zeros in its place: then
    /// nothing that this handle says of the segment, but what was so when it was opened, is of worth.
    #[must_use]
    pub fn is_severed(&self) -> bool {
        self.0.get().is_some_and(Attached::is_severed)
    }

    /// What has happened to the segment since it was created.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.0.get().map_or_else(Statistics::default, |attached| attached.region.header().statistics())
    }

    /// Makes this handle the owner, in the segment's header, for all to see. Whoever owned it before does not
    /// any more.
    ///
    /// # Errors
    /// See [`OwnError`].
    pub fn try_own(&self) -> Result<(), OwnError> {
        let attached = self.0.get().ok_or(OwnError::Forked)?;
        if attached.is_read_only() {
            return Err(OwnError::ReadOnly);
        }
        let result = attached.own_segment();
        if attached.is_severed() {
            return Err(OwnError::Severed);
        }
        result.map_err(|refusal| match refusal {
            Refusal::Phase(_) => OwnError::Retired,
            _ => OwnError::Damaged,
        })
    }

    /// Detaches and leaves the name and the value in place, also if this handle owns the segment.
    ///
    /// The segment then has no owner until somebody [owns](Self::try_own) it.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::Builder;
    ///
    /// # let name = &format!("shmem-bind-doc-{}-leak-conf", std::process::id());
    /// Builder::new(name).with_size(64).open()?.leak();
    /// let segment = Builder::new(name).attach()?;
    /// assert_eq!(segment.owner_pid(), None);
    /// segment.try_own()?; // and takes it along
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn leak(self) {
        if let Some(attached) = self.0.get() {
            attached.leave(Departure::Leak);
        }
    }

    /// Gives back the attachments of processes that died; gives how many these were. The objects that they held in an
    /// arena are given back by [`Arena::sweep`](crate::Arena::sweep), and whenever it is opened.
    ///
    /// Opening a full segment, and leaving one when it matters who is last, do this by themselves.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::Builder;
    ///
    /// let (segment, _fd) = Builder::memfd().create(64)?;
    /// assert_eq!(segment.sweep(), 0, "nobody has died");
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn sweep(&self) -> u32 {
        self.0.get().map_or(0, Attached::sweep)
    }
}

impl fmt::Debug for ShmemConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmemConf")
            .field("name", &self.name())
            .field("segment_id", &self.segment_id())
            .field("payload_size", &self.payload_size())
            .field("owner_pid", &self.owner_pid())
            .field("attachment_count", &self.attachment_count())
            .field("is_owner", &self.is_owner())
            .finish()
    }
}
