//! Builders
//!
//! What a user says to get at a segment: which one, and how.

use crate::error::{NameError, ShmemError, SizeError};
use crate::header::MAX_PAYLOAD;
use crate::membership::{OrphanPolicy, UnlinkPolicy};
use crate::name::Name;
use crate::open::{self, Intent, Options, ReservePolicy};
use crate::segment::ShmemConf;
use crate::sys::shm::Access;
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
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, OrphanPolicy, ReservePolicy, UnlinkPolicy};
/// use std::time::Duration;
///
/// # let name = format!("shmem-bind-doc-{}-with-size", std::process::id());
/// # let server = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
/// let builder = Builder::new(&name)
///     .with_size(64 * 1024)
///     .mode(0o640)
///     .uid(server) // the number of the user whose segment it is
///     .unlink_policy(UnlinkPolicy::Never)
///     .orphan_policy(OrphanPolicy::Refuse)
///     .reserve_policy(ReservePolicy::Lazy)
///     .timeout(Duration::from_secs(1));
/// let segment = builder.clone().create()?;
/// let other = builder.attach()?;
/// assert_eq!(other.unlink_policy(), UnlinkPolicy::Never);
/// # drop((segment, other));
/// # shmem_bind::unlink(&name)?;
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
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
/// use shmem_bind::{Builder, OrphanPolicy, ReservePolicy, UnlinkPolicy};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), shmem_bind::ShmemError> {
/// let builder = Builder::memfd()
///     .unlink_policy(UnlinkPolicy::LastDetach)
///     .orphan_policy(OrphanPolicy::Refuse)
///     .reserve_policy(ReservePolicy::Now)
///     .timeout(Duration::from_secs(1));
/// let (segment, fd) = builder.create(size_of::<u64>())?;
/// // SAFETY: the segment is new, and zero is a valid u64.
/// let mut number = unsafe { segment.boxed::<u64>() };
/// *number = 7;
///
/// // In the process that `fd` was sent to, over a Unix socket for example:
/// let received = Builder::memfd().attach(&fd)?;
/// // SAFETY: the segment holds a u64, and the other side does not write to it now.
/// let same = unsafe { received.boxed::<u64>() };
/// assert_eq!(*same, 7);
///
/// let observer = Builder::memfd().attach_read_only(&fd)?;
/// assert_eq!(observer.attachment_count(), 2);
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
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::{Builder, OrphanPolicy};
        ///
        /// # let name = &format!("shmem-bind-doc-{}-{}-orphan", std::process::id(), line!());
        /// let segment = Builder::new(name).orphan_policy(OrphanPolicy::Recreate).with_size(64).open()?;
        /// let other = Builder::new(name).orphan_policy(OrphanPolicy::Refuse).with_size(64).open()?;
        /// assert_eq!(other.orphan_policy(), OrphanPolicy::Recreate, "so its creator has said");
        /// # drop((other, segment));
        /// # Ok::<(), shmem_bind::ShmemError>(())
        /// ```
        pub fn orphan_policy(mut self, policy: OrphanPolicy) -> Self {
            self.options.orphan = policy;
            self
        }

        /// Whether the memory of a segment created by this builder is reserved at once.
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::{Builder, ReservePolicy};
        /// use std::os::unix::fs::MetadataExt;
        ///
        /// # let name = &format!("shmem-bind-doc-{}-{}-reserve", std::process::id(), line!());
        /// let _segment = Builder::new(name).reserve_policy(ReservePolicy::Lazy).with_size(1 << 30).open()?;
        /// let file = std::fs::metadata(format!("/dev/shm/{name}")).unwrap();
        /// assert!(file.len() > 1 << 30 && file.blocks() * 512 < 1 << 26, "it has little memory yet");
        /// # Ok::<(), shmem_bind::ShmemError>(())
        /// ```
        pub fn reserve_policy(mut self, policy: ReservePolicy) -> Self {
            self.options.reserve = policy;
            self
        }

        /// How long to wait for another process that is just creating or unlinking the segment, before giving
        /// up with [`ShmemError::Busy`]; and how long operations of an arena wait for a lock whose holder is alive but
        /// does not go on. By default 5 seconds; a peer that reserves many GiB may take longer. There is nothing else that they
        /// wait for. A [`Condvar`](crate::sync::Condvar) waits for its mutex for at least as long, when its own wait has ended.
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::{Builder, ShmemError};
        /// use std::time::Duration;
        ///
        /// # let name = &format!("shmem-bind-doc-{}-{}-timeout", std::process::id(), line!());
        /// # let path = format!("/dev/shm/{name}");
        /// # use std::os::unix::fs::OpenOptionsExt;
        /// # let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        /// # let creator = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
        /// // Somebody is just creating it, and has been stopped.
        /// let result = Builder::new(name).timeout(Duration::from_millis(10)).with_size(64).open();
        /// # std::fs::remove_file(&path).unwrap();
        /// # drop(creator);
        /// assert_eq!(result.unwrap_err(), ShmemError::Busy);
        /// # Ok::<(), ShmemError>(())
        /// ```
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

        /// Accepts an existing segment that belongs to the user `uid`, besides one of the effective user of this
        /// process. By default only the latter is accepted, since anybody may put a file into `/dev/shm`.
        ///
        /// # Examples
        /// ```
        /// use shmem_bind::{Builder, ShmemError};
        ///
        /// # let name = &format!("shmem-bind-doc-{}-{}-uid", std::process::id(), line!());
        /// # let me = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        /// # let server = me + 1;
        /// let builder = Builder::new(name).uid(server).mode(0o640);
        /// let _segment = builder.clone().with_size(64).open()?;
        /// // It is this user's own, which is accepted as well as the server's.
        /// assert!(builder.attach().is_ok());
        /// # Ok::<(), ShmemError>(())
        /// ```
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
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::Builder;
    ///
    /// let (segment, fd) = Builder::memfd().create(64)?;
    /// assert_eq!(segment.name(), None);
    /// assert_eq!(Builder::memfd().attach(&fd)?.segment_id(), segment.segment_id());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
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
