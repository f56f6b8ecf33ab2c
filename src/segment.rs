//! Builders and the bare handle
//!
//! What a user says to get at a segment, and the handle that comes of it. A [`ShmemConf`] is one attachment:
//! it counts in the header until it, or the box made of it, is dropped.

use crate::attachment::{Attached, Attachment};
use crate::error::{HeaderError, NameError, OwnError, ShmemError, SizeError};
use crate::header::{MAX_PAYLOAD, Payload, SegmentId, Statistics};
use crate::lifecycle::{Departure, Origin};
use crate::membership::{OrphanPolicy, Phase, Refusal, UnlinkPolicy};
use crate::name::Name;
use crate::open::{self, Intent, Options, ReservePolicy};
use crate::sys::shm::Access;
use core::fmt;
use core::time::Duration;
use rustix::fd::OwnedFd;

/// Says which segment is wanted, and how.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, UnlinkPolicy};
///
/// # fn main() -> Result<(), shmem_bind::ShmemError> {
/// # let name = format!("shmem-bind-doc-{}-builder", std::process::id());
/// let segment = Builder::new(&name)
///     .mode(0o640)
///     .unlink_policy(UnlinkPolicy::LastDetach)
///     .with_size(64 * 1024)
///     .create()?;
/// assert_eq!(segment.payload_size(), 64 * 1024);
///
/// let other = Builder::new(&name).mode(0o640).attach()?;
/// assert_eq!(other.segment_id(), segment.segment_id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before open, create or attach"]
pub struct Builder {
    name: Result<Name, NameError>,
    options: Options,
}

/// A [`Builder`] that knows the size too, so that it can create.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before open, create or attach"]
pub struct BuilderWithSize {
    name: Result<Name, NameError>,
    payload_len: Result<u64, SizeError>,
    options: Options,
}

/// Creates and attaches segments without a name, which travel as file descriptors.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemBox};
///
/// # fn main() -> Result<(), shmem_bind::ShmemError> {
/// let (segment, fd) = Builder::memfd().create(size_of::<u64>())?;
/// // SAFETY: the segment is new, and zero is a valid u64.
/// let mut number = unsafe { segment.boxed::<u64>() };
/// *number = 7;
///
/// // In the process that `fd` was sent to, over a Unix socket for example:
/// let received = Builder::memfd().attach(&fd)?;
/// // SAFETY: the segment holds a u64, and the other side does not write to it now.
/// let same = unsafe { received.boxed::<u64>() };
/// assert_eq!(*same, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before create or attach"]
pub struct MemfdBuilder {
    options: Options,
}

/// The setters that several builders share.
macro_rules! setters {
    (policies) => {
        /// When the name of a segment created by this builder goes away. An existing one keeps its policy.
        pub fn unlink_policy(mut self, policy: UnlinkPolicy) -> Self {
            self.options.unlink = policy;
            self
        }

        /// What the next opener does if the owner of a segment created by this builder has died. An existing
        /// one keeps its policy.
        pub fn orphan_policy(mut self, policy: OrphanPolicy) -> Self {
            self.options.orphan = policy;
            self
        }

        /// Whether the memory of a segment created by this builder is reserved at once.
        pub fn reserve_policy(mut self, policy: ReservePolicy) -> Self {
            self.options.reserve = policy;
            self
        }

        /// How long to wait for another process that is just creating or unlinking the segment, before giving
        /// up with [`ShmemError::Busy`]; and how long operations of an arena wait for a lock whose holder is alive but
        /// does not go on. By default 5 seconds; a peer that reserves many GiB may take longer. There is
        /// nothing else that is waited for.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.options.timeout = timeout;
            self
        }
    };
    (growing) => {
        /// Most bytes that the payload of a segment created by this builder may grow to; see
        /// [`Arena::grow`](crate::Arena::grow). All who attach map so much address space at once, so that pointers stay
        /// valid; memory is taken as it grows.
        ///
        /// Only an arena grows. A single value has the size that the segment starts with.
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::{Builder, Tlsf};
        ///
        /// let (segment, _fd) = Builder::memfd().max_size(1 << 30).create(64 * 1024)?;
        /// assert_eq!((segment.payload_size(), segment.max_size()), (64 * 1024, 1 << 30));
        /// segment.arena::<Tlsf>()?.grow(1 << 20)?;
        /// # Ok::<(), shmem_bind::ShmemError>(())
        /// ```
        pub fn max_size<N: TryInto<i128>>(mut self, size: N) -> Self {
            self.options.max_len = Some(payload_len(size));
            self
        }
    };
    (named) => {
        setters!(policies);

        /// The permission bits of a segment created by this builder, whatever the umask; and the widest ones
        /// accepted of an existing segment, so all who use it say the same. By default `0o600`; of other bits than
        /// `0o777` none count.
        ///
        /// While it is being created, and if its creator is killed just then, the umask does narrow them.
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::{Builder, ShmemError};
        ///
        /// # let name = &format!("shmem-bind-doc-{}-{}-mode", std::process::id(), line!());
        /// let segment = Builder::new(name).mode(0o640).with_size(64).open()?;
        /// // Who is not told that the group may read it does not use it.
        /// let error = Builder::new(name).attach().unwrap_err();
        /// assert_eq!(error, ShmemError::Permissive { mode: 0o640, allowed: 0o600 });
        /// # drop(segment);
        /// # Ok::<(), ShmemError>(())
        /// ```
        pub fn mode(mut self, mode: u32) -> Self {
            self.options.mode = mode & 0o777;
            self
        }

        /// Accepts an existing segment that belongs to the user `uid`. By default only one that belongs to the
        /// effective user of this process is accepted, since anybody may put a file into `/dev/shm`.
        pub fn uid(mut self, uid: u32) -> Self {
            self.options.uid = Some(uid);
            self
        }

        /// Attaches to the segment of this name, which must exist. Its size comes from its header.
        ///
        /// If its owner died, it stays without one: to become the owner in its place is for a process that could
        /// have created the segment, by `open`, or for [`ShmemBox::own`](crate::ShmemBox::own).
        ///
        /// # Errors
        /// - [`ShmemError::NotFound`]: no segment has this name, or its owner has just unlinked it, or it is an
        ///   orphan that is to be [made anew](OrphanPolicy::Recreate).
        /// - [`ShmemError::Header`]: it is not a segment of this format; the variant says which field differs.
        /// - [`ShmemError::NotRegular`], [`ForeignUser`](ShmemError::ForeignUser),
        ///   [`Permissive`](ShmemError::Permissive): the name has been squatted, or the builder was not told.
        /// - [`ShmemError::Orphaned`]: its owner died, and by its policy nobody may take over.
        /// - [`ShmemError::Full`]: all attachments are taken by live processes.
        /// - [`ShmemError::Busy`]: somebody kept it locked until the [timeout](Self::timeout).
        /// - [`ShmemError::FileSystem`]: `/dev/shm` is on a file system whose locks cannot be relied upon.
        /// - [`ShmemError::Severed`]: its memory went away meanwhile, see [`sigbus_fixup`](crate::sigbus_fixup).
        /// - [`ShmemError::Name`], [`ShmemError::Os`].
        ///
        /// # References
        ///  - [Linux `shm_overview(7)`](https://man7.org/linux/man-pages/man7/shm_overview.7.html)
        #[doc(alias = "shm_open")]
        pub fn attach(self) -> Result<ShmemConf, ShmemError> {
            open::open(self.name, Ok(Intent::Attach), self.options).map(ShmemConf)
        }

        /// Attaches to the segment of this name without ever writing to it: for observers without write
        /// permission. It takes no slot and no lock, counts nowhere, and can neither own nor unlink; so the value may be
        /// destroyed while it is looked at.
        ///
        /// # Errors
        /// As [`attach`](Self::attach), without `Orphaned`, `Full`, `Busy` and `FileSystem`.
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::Builder;
        ///
        /// # let name = &format!("shmem-bind-doc-{}-{}-read-only", std::process::id(), line!());
        /// let segment = Builder::new(name).with_size(64).open()?;
        /// let observer = Builder::new(name).attach_read_only()?;
        /// assert!(observer.is_read_only());
        /// assert_eq!(segment.attachment_count(), 1, "it counts nowhere");
        /// # Ok::<(), shmem_bind::ShmemError>(())
        /// ```
        pub fn attach_read_only(self) -> Result<ShmemConf, ShmemError> {
            open::open(self.name, Ok(Intent::Read), self.options).map(ShmemConf)
        }
    };
}

impl Builder {
    /// Names the segment: 1 to 255 bytes without a slash, but for one at the beginning, which is dropped.
    ///
    /// A name that cannot be is an error of the call that opens the segment.
    pub fn new(name: &str) -> Self {
        Self { name: Name::new(name), options: Options::DEFAULT }
    }

    /// Starts with a segment that has no name.
    #[doc(alias = "memfd_create")]
    pub const fn memfd() -> MemfdBuilder {
        MemfdBuilder { options: Options::DEFAULT }
    }

    /// Gives the size of the payload in bytes, as any integer.
    ///
    /// A number that cannot be a size is an error of the call that opens the segment.
    pub fn with_size<N: TryInto<i128>>(self, size: N) -> BuilderWithSize {
        BuilderWithSize { name: self.name, payload_len: payload_len(size), options: self.options }
    }

    setters!(named);
}

impl BuilderWithSize {
    /// Attaches to the segment of this name, or creates and owns it.
    ///
    /// A new segment reads as zeros. An existing one must have at least the size asked for. If its owner died,
    /// its [`OrphanPolicy`] decides; by default this handle becomes the owner and the data stays.
    ///
    /// # Errors
    /// As [`attach`](Self::attach) without `NotFound`, and:
    /// - [`ShmemError::Size`]: zero, negative, or beyond the address space.
    /// - [`ShmemError::TooSmall`]: the existing segment is smaller.
    /// - [`ShmemError::NoSpace`]: there is no room for a new one.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{self as shmem, ShmemError};
    ///
    /// fn main() -> Result<(), ShmemError> {
    ///     # let name = &format!("shmem-bind-doc-{}-open", std::process::id());
    ///     let owner = shmem::Builder::new(name).with_size(size_of::<i32>() as i64).open()?;
    ///     let other = shmem::Builder::new(name).with_size(size_of::<i32>()).open()?;
    ///     assert!(owner.is_owner() && !other.is_owner());
    ///     Ok(())
    ///     // `other` is dropped first and detaches; then `owner` unlinks the segment.
    /// }
    /// ```
    ///
    /// # References
    ///  - [Linux `shm_overview(7)`](https://man7.org/linux/man-pages/man7/shm_overview.7.html)
    #[doc(alias = "shm_open")]
    pub fn open(self) -> Result<ShmemConf, ShmemError> {
        let intent = self.payload_len.map(|payload_len| Intent::Open { payload_len });
        open::open(self.name, intent, self.options).map(ShmemConf)
    }

    /// Creates and owns the segment, which must be new.
    ///
    /// What a creator left that died before it was done, and an orphan whose policy is
    /// [`OrphanPolicy::Recreate`], do not count as existing.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ShmemError::AlreadyExists`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{Builder, ShmemError};
    ///
    /// # let name = &format!("shmem-bind-doc-{}-create", std::process::id());
    /// let _segment = Builder::new(name).with_size(64).create()?;
    /// let error = Builder::new(name).with_size(64).create().unwrap_err();
    /// assert_eq!(error, ShmemError::AlreadyExists);
    /// # Ok::<(), ShmemError>(())
    /// ```
    pub fn create(self) -> Result<ShmemConf, ShmemError> {
        let intent = self.payload_len.map(|payload_len| Intent::Create { payload_len });
        open::open(self.name, intent, self.options).map(ShmemConf)
    }

    setters!(growing);
    setters!(named);
}

impl MemfdBuilder {
    /// Creates and owns a segment of `size` bytes, and gives its descriptor, to be sent to other processes.
    ///
    /// Its length is sealed, so that no receiver can take the memory away. The segment exists as long as it is
    /// attached or somebody has the descriptor; as its unlinking counts the end of its being open to others.
    ///
    /// # Errors
    /// [`ShmemError::Size`], [`ShmemError::NoSpace`], [`ShmemError::Os`].
    ///
    /// # References
    ///  - [Linux `memfd_create(2)`](https://man7.org/linux/man-pages/man2/memfd_create.2.html)
    pub fn create<N: TryInto<i128>>(self, size: N) -> Result<(ShmemConf, OwnedFd), ShmemError> {
        let (attachment, fd) = open::create_memfd(payload_len(size), self.options)?;
        Ok((ShmemConf(attachment), fd))
    }

    /// Attaches to the segment behind a descriptor that was received. The descriptor may be closed afterwards.
    ///
    /// # Errors
    /// - [`ShmemError::Unsealed`]: it is no memfd (such as that of a named segment), or one of huge pages, or its length
    ///   is not sealed.
    /// - [`ShmemError::NotFound`]: its owner has dropped it.
    /// - [`ShmemError::Header`], [`Orphaned`](ShmemError::Orphaned),
    ///   [`Full`](ShmemError::Full), [`Os`](ShmemError::Os): as for a [named segment](Builder::attach).
    pub fn attach(self, fd: &OwnedFd) -> Result<ShmemConf, ShmemError> {
        open::attach_memfd(fd, Access::ReadWrite, self.options.timeout).map(ShmemConf)
    }

    /// Attaches to the segment behind a descriptor without ever writing to it.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_read_only(self, fd: &OwnedFd) -> Result<ShmemConf, ShmemError> {
        open::attach_memfd(fd, Access::ReadOnly, self.options.timeout).map(ShmemConf)
    }

    setters!(growing);
    setters!(policies);
}

fn payload_len<N: TryInto<i128>>(size: N) -> Result<u64, SizeError> {
    let too_large = SizeError::TooLarge { max: MAX_PAYLOAD };
    match size.try_into() {
        Ok(0) => Err(SizeError::Zero),
        Ok(asked) if asked < 0 => Err(SizeError::Negative { asked }),
        Ok(asked) => u64::try_from(asked).ok().filter(|size| *size <= MAX_PAYLOAD).ok_or(too_large),
        Err(_) => Err(too_large),
    }
}

/// Removes the name of a segment, whoever owns it; for administrators.
///
/// Those attached go on with the unnamed segment, and the last one out destroys the value. A file that is
/// not a segment of this crate is left alone, also an empty one, which a creator leaves that is killed in its
/// very first step. (Whether the name may be removed is asked by trying to remove a directory of this name:
/// whoever replaces the segment by an empty directory meanwhile loses that.)
///
/// # Errors
/// - [`ShmemError::NotFound`]: no segment has this name.
/// - [`ShmemError::NotRegular`], [`ShmemError::Header`]: what has this name is not a segment.
/// - [`ShmemError::Busy`]: another process is creating or unlinking it.
/// - [`ShmemError::Full`]: all attachments are taken; this needs one for a moment.
/// - [`ShmemError::Os`]: above all `EACCES` and `EPERM`, want of permission.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ShmemBox, ShmemError};
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-unlink", std::process::id());
/// let segment = Builder::new(name).with_size(4).create()?;
/// // SAFETY: the segment is new, and zero is a valid i32.
/// ShmemBox::leak(unsafe { segment.boxed::<i32>() });
///
/// shmem_bind::unlink(name)?;
/// assert_eq!(Builder::new(name).attach().unwrap_err(), ShmemError::NotFound);
/// # Ok(())
/// # }
/// ```
///
/// # References
///  - [Linux `shm_unlink(3)`](https://man7.org/linux/man-pages/man3/shm_unlink.3.html)
#[doc(alias = "shm_unlink")]
pub fn unlink(name: &str) -> Result<(), ShmemError> {
    open::unlink(Name::new(name)?)
}

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
