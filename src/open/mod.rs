//! Opening a segment: create, attach, take over
//!
//! `flock` on a description of one's own is the witness: whoever gets the exclusive lock knows from the
//! kernel that nobody at all is attached, in whichever PID namespace and after whatever crash. Otherwise
//! the lock is shared, and the membership word decides. From the lock on, every step may be the last one of
//! this process; what each leaves behind stands in the comments, and in the table of
//! [`lifecycle`](crate::lifecycle).
//!
//! Three rules that are easy to break:
//! - After the lock, and not before, look whether the name still leads to the file that was locked: another
//!   process may have unlinked it, and made a new one, in between.
//! - No shared lock on a file that is being formed: it would keep the successor of a dead creator out.
//! - No upgrade from shared to exclusive: failing, it loses the lock. Every attempt starts with a new
//!   descriptor.
//!
//! Nothing here waits for a lock: an attempt that meets somebody else at work ends with [`Again`], and the
//! request's deadline says how often it is made.
//!
//! A reader takes no lock. It needs none, for a segment that is live never becomes Forming again, which is when
//! memory is taken away; and with one it would keep others from learning that all who count are dead.
//!
//! A memfd has no name, and whoever receives its descriptor shares the sender's file description, on which
//! `flock` would change the sender's lock. So a memfd is never locked; tenancies alone decide who is dead.
//!
//! [`Again`]: Attempt::Again

mod joining;

use crate::attachment::{Attached, Attachment, Seat, Vacancy};
use crate::error::{FileKind, HeaderError, NameError, ShmemError, SizeError};
use crate::header::{HEADER_LEN, Header, MAX_PAYLOAD, PREFIX_LEN, SegmentId};
use crate::lifecycle::{Link, Member, Origin};
use crate::membership::{Event, OrphanPolicy, Phase, Refusal, UnlinkPolicy};
use crate::name::Name;
use crate::region::Region;
use crate::sys::Failure;
use crate::sys::clock::Deadline;
use crate::sys::process;
use crate::sys::shm::{self, Access, Status};
use crate::tenancy::Tenancy;
use core::time::Duration;
use joining::Joining;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Whether the memory of a new segment is reserved when it is created.
///
/// # Examples
/// ```
/// use shmem_bind::{Builder, ReservePolicy};
///
/// // A gigabyte of address space, of which the first pages are used.
/// let (segment, _fd) = Builder::memfd().reserve_policy(ReservePolicy::Lazy).create(1 << 30)?;
/// assert_eq!(segment.payload_size(), 1 << 30);
/// # Ok::<(), shmem_bind::ShmemError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReservePolicy {
    /// All at once (`fallocate`): want of memory is an error of opening, not a `SIGBUS` later.
    #[default]
    Now,
    /// Page by page, when first written, or read: for large segments that stay mostly empty. If there is no memory
    /// then, whoever needs it is killed by `SIGBUS`, unless its handler calls [`sigbus_fixup`](crate::sigbus_fixup).
    Lazy,
}

/// What the builder gathers besides the name and the size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) mode: u32,
    pub(crate) uid: Option<u32>,
    pub(crate) timeout: Duration,
    pub(crate) unlink: UnlinkPolicy,
    pub(crate) orphan: OrphanPolicy,
    pub(crate) reserve: ReservePolicy,
    /// Most bytes that the payload may grow to; as many as it starts with if `None`.
    pub(crate) max_len: Option<Result<u64, SizeError>>,
}

impl Options {
    pub(crate) const DEFAULT: Self = Self {
        mode: 0o600,
        uid: None,
        timeout: Duration::from_secs(5),
        unlink: UnlinkPolicy::OwnerDrop,
        orphan: OrphanPolicy::Adopt,
        reserve: ReservePolicy::Now,
        max_len: None,
    };
}

/// What the caller wants of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Attach to the segment, which holds at least so many bytes, or create it with so many.
    Open { payload_len: u64 },
    /// Create the segment with so many bytes.
    Create { payload_len: u64 },
    /// Attach to the segment.
    Attach,
    /// Attach to the segment and never write to it.
    Read,
    /// Remove the name.
    Unlink,
}

impl Intent {
    const fn access(self) -> Access {
        if matches!(self, Self::Read) { Access::ReadOnly } else { Access::ReadWrite }
    }

    /// The size of the segment if this intent may lead to a new one.
    const fn creates(self) -> Option<u64> {
        match self {
            Self::Open { payload_len } | Self::Create { payload_len } => Some(payload_len),
            Self::Attach | Self::Read | Self::Unlink => None,
        }
    }
}

/// A name and what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) name: Name,
    pub(crate) intent: Intent,
    pub(crate) options: Options,
}

/// How one attempt ended, if not with an error.
// Lives for a moment on the stack; there is no heap to box the larger variant in.
#[allow(clippy::large_enum_variant)]
enum Attempt {
    Done(Option<Attached>),
    /// Somebody else is at work.
    Again,
}

const AGAIN: Result<Attempt, ShmemError> = Ok(Attempt::Again);

/// Opens a named segment.
pub(crate) fn open(
    name: Result<Name, NameError>,
    intent: Result<Intent, SizeError>,
    options: Options,
) -> Result<Attachment, ShmemError> {
    let request = Request { name: name?, intent: intent?, options };
    let vacancy = Vacancy::reserve()?;
    match request.until_done(&vacancy)? {
        Some(attached) => Ok(vacancy.occupy(attached)),
        // Only `Intent::Unlink` ends without an attachment.
        None => Err(ShmemError::NotFound),
    }
}

/// Removes the name of a segment, as an administrator; those attached go on without it.
pub(crate) fn unlink(name: Name) -> Result<(), ShmemError> {
    let request = Request { name, intent: Intent::Unlink, options: Options::DEFAULT };
    request.until_done(&Vacancy::reserve()?).map(|_| ())
}

/// Creates a segment without a name.
pub(crate) fn create_memfd(
    payload_len: Result<u64, SizeError>,
    options: Options,
) -> Result<(Attachment, OwnedFd), ShmemError> {
    let payload_len = payload_len?;
    let vacancy = Vacancy::reserve()?;
    let fd = os("memfd_create", shm::memfd(c"shmem-bind"))?;
    let header = new_header(payload_len, &options, true)?;
    lay_out(&fd, &header)?;
    os("fcntl", shm::seal(&fd))?;
    let (region, seat) = furnish(&fd, &header, &vacancy)?;
    let attached = go_live(&header, region, None, vacancy.own(), seat, options.timeout)?;
    Ok((vacancy.occupy(attached), fd))
}

/// Attaches to a segment without a name.
pub(crate) fn attach_memfd(
    fd: &OwnedFd,
    access: Access,
    patience: Duration,
) -> Result<Attachment, ShmemError> {
    let vacancy = Vacancy::reserve()?;
    if !shm::is_sealed(fd)? {
        return Err(ShmemError::Unsealed);
    }
    let status = os("fstat", shm::status(fd))?;
    let header = read_header(fd)?.ok_or(ShmemError::NotFound)?;
    if !header.is_memfd() {
        return Err(ShmemError::WrongSort);
    }
    if !header.is_live() {
        return Err(ShmemError::NotFound);
    }
    let joining = Joining {
        intent: if access == Access::ReadOnly { Intent::Read } else { Intent::Attach },
        header,
        region: map(fd, &header, &status, access, &vacancy)?,
        link: None,
        own: vacancy.own(),
        patience,
    };
    match joining.attach() {
        Ok(Attempt::Done(Some(attached))) => Ok(vacancy.occupy(attached)),
        _ if vacancy.whereabouts().are_severed() => Err(ShmemError::Severed),
        // No longer live.
        Ok(_) => Err(ShmemError::NotFound),
        Err(error) => Err(error),
    }
}

impl Request {
    fn until_done(&self, vacancy: &Vacancy) -> Result<Option<Attached>, ShmemError> {
        let mut deadline = Deadline::new(self.options.timeout);
        loop {
            match self.attempt(vacancy) {
                // If it is severed already, it knows.
                Ok(Attempt::Done(attached)) => return Ok(attached),
                // What was read then was zeros.
                _ if vacancy.whereabouts().are_severed() => return Err(ShmemError::Severed),
                Ok(Attempt::Again) if !deadline.wait() => return Err(ShmemError::Busy),
                Ok(Attempt::Again) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn attempt(&self, vacancy: &Vacancy) -> Result<Attempt, ShmemError> {
        if self.intent == Intent::Read {
            return self.read(&self.open_file()?, vacancy);
        }
        if !shm::mappings_keep_locks() {
            return Err(ShmemError::FileSystem);
        }
        let fd = self.open_file()?;
        if os("flock", shm::try_lock_exclusive(&fd))? {
            self.exclusive(&fd, &self.checked_status(&fd)?, vacancy)
        } else {
            self.shared(&fd, vacancy)
        }
    }

    fn open_file(&self) -> Result<OwnedFd, ShmemError> {
        let create = self.intent.creates().map(|_| self.options.mode);
        let irregular = |found| Err(ShmemError::NotRegular { found });
        match shm::open(self.name.path(), self.intent.access(), create) {
            Ok(fd) => Ok(fd),
            // With O_CREAT, ENOENT says that the directory does not exist.
            Err(Errno::NOENT) if create.is_none() => Err(ShmemError::NotFound),
            Err(Errno::LOOP) => irregular(FileKind::Symlink),
            Err(Errno::ISDIR) => irregular(FileKind::Directory),
            Err(Errno::NXIO | Errno::NODEV) => irregular(FileKind::Other),
            Err(errno) => Err(match (errno, self.intent.creates()) {
                (Errno::NOSPC | Errno::DQUOT, Some(asked)) => ShmemError::NoSpace { asked },
                _ => ShmemError::Os { call: "open", errno },
            }),
        }
    }

    /// What the file is; refuses what has been planted under the name.
    fn checked_status(&self, fd: &OwnedFd) -> Result<Status, ShmemError> {
        let status = os("fstat", shm::status(fd))?;
        if let Some(found) = status.irregular {
            return Err(ShmemError::NotRegular { found });
        }
        // Whom an administrator's segment belongs to is for the directory's permissions to say.
        if self.intent == Intent::Unlink {
            return Ok(status);
        }
        let own = process::effective_uid();
        if status.uid != own && Some(status.uid) != self.options.uid {
            let expected = self.options.uid.unwrap_or(own);
            return Err(ShmemError::ForeignUser { uid: status.uid, expected });
        }
        if status.mode & !self.options.mode & 0o777 != 0 {
            return Err(ShmemError::Permissive { mode: status.mode, allowed: self.options.mode });
        }
        Ok(status)
    }

    fn link(&self, status: &Status) -> Link {
        Link { name: self.name, inode: status.inode }
    }

    /// The kernel says that nobody is attached.
    fn exclusive(&self, fd: &OwnedFd, status: &Status, vacancy: &Vacancy) -> Result<Attempt, ShmemError> {
        let link = self.link(status);
        if !link.is_intact()? {
            return AGAIN;
        }
        let header = read_header(fd)?;
        let (header, phase) = match header.and_then(|header| header.phase().map(|phase| (header, phase))) {
            // An empty file cannot be shown to be a segment; its creator may be about to lock it.
            None if self.intent == Intent::Unlink => {
                return Err(HeaderError::Truncated { len: 0, needed: PREFIX_LEN as u64 }.into());
            }
            None => return self.form(fd, status, link, vacancy),
            Some((header, _)) if header.is_memfd() => return Err(ShmemError::WrongSort),
            Some(found) => found,
        };
        match phase {
            Phase::Forming if self.intent != Intent::Unlink => self.form(fd, status, link, vacancy),
            // Its creator or its unlinker died.
            Phase::Forming | Phase::Retired => {
                link.unlink()?;
                if self.intent == Intent::Unlink { Ok(Attempt::Done(None)) } else { AGAIN }
            }
            Phase::Live => {
                let own = vacancy.own();
                let region = map(fd, &header, status, Access::ReadWrite, vacancy)?;
                let member = Member { header: region.header(), link: Some(&link), own };
                member.vacate().map_err(|refusal| damaged(&member, refusal))?;
                if !os("flock", shm::try_lock_shared(fd))? {
                    return AGAIN;
                }
                Joining {
                    intent: self.intent,
                    header,
                    region,
                    link: Some(link),
                    own,
                    patience: self.options.timeout,
                }
                .attach()
            }
        }
    }

    /// Somebody else has the file locked.
    fn shared(&self, fd: &OwnedFd, vacancy: &Vacancy) -> Result<Attempt, ShmemError> {
        let header = match read_header_unlocked(fd) {
            Ok(Some(header)) => header,
            // If it is no file of ours at all, rather say that.
            Ok(None) => return self.checked_status(fd).and(AGAIN),
            Err(error) => return self.checked_status(fd).and(Err(error)),
        };
        match header.phase() {
            _ if header.is_memfd() => return self.checked_status(fd).and(Err(ShmemError::WrongSort)),
            Some(Phase::Forming) | None => return self.checked_status(fd).and(AGAIN),
            Some(Phase::Live | Phase::Retired) => {}
        }
        // Not before, for then the segment may not have had its length.
        let status = self.checked_status(fd)?;
        let link = self.link(&status);
        if !os("flock", shm::try_lock_shared(fd))? || !link.is_intact()? {
            return AGAIN;
        }
        let region = map(fd, &header, &status, Access::ReadWrite, vacancy)?;
        let (own, patience) = (vacancy.own(), self.options.timeout);
        Joining { intent: self.intent, header, region, link: Some(link), own, patience }.attach()
    }

    /// Attaches without a lock, in order never to write.
    fn read(&self, fd: &OwnedFd, vacancy: &Vacancy) -> Result<Attempt, ShmemError> {
        self.checked_status(fd)?;
        let header = read_header_unlocked(fd)?.ok_or(ShmemError::NotFound)?;
        if header.is_memfd() {
            return Err(ShmemError::WrongSort);
        }
        if !header.is_live() {
            return Err(ShmemError::NotFound);
        }
        let status = self.checked_status(fd)?;
        let region = map(fd, &header, &status, Access::ReadOnly, vacancy)?;
        Joining {
            intent: self.intent,
            header,
            region,
            link: Some(self.link(&status)),
            own: vacancy.own(),
            patience: self.options.timeout,
        }
        .attach()
    }

    /// Makes a new segment of a file that has none, or half a one by a creator that died.
    ///
    /// | killed after | left behind | next opener |
    /// |---|---|---|
    /// | `open` | an empty file | forms it |
    /// | `lay_out` | Forming | forms it again, from an empty file |
    /// | `furnish` | Forming, slot 0 taken | the same |
    /// | `go_live` | a Live segment with a dead owner | goes by the orphan policy |
    ///
    /// An error takes the name away again, under the lock.
    fn form(
        &self,
        fd: &OwnedFd,
        status: &Status,
        link: Link,
        vacancy: &Vacancy,
    ) -> Result<Attempt, ShmemError> {
        let Some(payload_len) = self.intent.creates() else {
            return Err(ShmemError::NotFound);
        };
        self.form_with(payload_len, fd, status, link, vacancy).inspect_err(|_| {
            // The caller gets the error that led here; an unfinished file would do no harm. If it has to stay, it
            // need not keep memory.
            let _: Result<(), Errno> = shm::set_len(fd, 0);
            let _: Result<(), Failure> = link.unlink();
        })
    }

    fn form_with(
        &self,
        payload_len: u64,
        fd: &OwnedFd,
        status: &Status,
        link: Link,
        vacancy: &Vacancy,
    ) -> Result<Attempt, ShmemError> {
        let header = new_header(payload_len, &self.options, false)?;
        if status.len != 0 {
            os("ftruncate", shm::set_len(fd, 0))?;
        }
        if status.mode != self.options.mode {
            os("fchmod", shm::set_mode(fd, self.options.mode))?;
        }
        lay_out(fd, &header)?;
        let (region, seat) = furnish(fd, &header, vacancy)?;
        // Before the last step, so that nothing can fail after it. Nobody else takes a shared lock meanwhile,
        // for the phase is still Forming. (For want of memory it fails before it gives the exclusive one up.)
        if !os("flock", shm::try_lock_shared(fd))? {
            return AGAIN;
        }
        let attached = go_live(&header, region, Some(link), vacancy.own(), seat, self.options.timeout)?;
        Ok(Attempt::Done(Some(attached)))
    }
}

/// For a payload of `initial_len` bytes, which may grow if the options say so.
fn new_header(initial_len: u64, options: &Options, memfd: bool) -> Result<Header, ShmemError> {
    let id = SegmentId::from_bytes(os("getrandom", shm::random())?);
    let payload_len = options.max_len.transpose()?.unwrap_or(initial_len);
    if payload_len < initial_len {
        return Err(SizeError::AboveMaximum { asked: initial_len, max: payload_len }.into());
    }
    let is_lazy = options.reserve == ReservePolicy::Lazy;
    let header = Header::new(payload_len, id, options.unlink, options.orphan, memfd);
    Ok(header.growing_from(initial_len, is_lazy))
}

/// Makes a file of no bytes into a segment that is Forming.
fn lay_out(fd: &OwnedFd, header: &Header) -> Result<(), ShmemError> {
    let failed = |failure: Failure| failure.of_asking_for(header.payload_len());
    // The first bytes make the file recognisable, whatever length it gets to.
    shm::write_start(fd, &header.encode()).map_err(Failure::of("pwrite")).map_err(failed)?;
    if !header.is_lazy() {
        let initial = header.initial_len().saturating_add(HEADER_LEN as u64);
        shm::reserve(fd, initial).map_err(failed)?;
        if header.initial_len() == header.payload_len() {
            return Ok(());
        }
    }
    shm::set_len(fd, header.total_len()).map_err(Failure::of("ftruncate")).map_err(failed)
}

/// Maps a segment that is Forming and takes slot 0.
fn furnish(fd: &OwnedFd, header: &Header, vacancy: &Vacancy) -> Result<(Region, Seat), ShmemError> {
    let region = map_region(fd, header, Access::ReadWrite, vacancy)?;
    let member = Member { header: region.header(), link: None, own: vacancy.own() };
    let (slot, inherited) = member.take_tenancy().ok_or(ShmemError::Full)?;
    let generation = region.header().next_generation(slot);
    Ok((region, Seat { slot, generation, inherited }))
}

/// The word that commits: from Forming to Live, with the creator attached and owning.
fn go_live(
    header: &Header,
    region: Region,
    link: Option<Link>,
    own: Tenancy,
    seat: Seat,
    patience: Duration,
) -> Result<Attached, ShmemError> {
    let member = Member { header: region.header(), link: link.as_ref(), own };
    member.step(Event::Form(seat.slot)).map_err(|refusal| damaged(&member, refusal))?;
    Ok(Attached::new(*header, Origin::Created, region, link, own, Some(seat), patience))
}

/// The header of a file; `None` if the file is empty.
fn read_header(fd: &OwnedFd) -> Result<Option<Header>, ShmemError> {
    let mut bytes = [0; PREFIX_LEN];
    let bytes = os("pread", shm::read_start(fd, &mut bytes))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(Header::parse(bytes)?))
}

/// The same without a lock: a creator's first write may show in part for an instant, so it looks twice before
/// calling the header damaged.
fn read_header_unlocked(fd: &OwnedFd) -> Result<Option<Header>, ShmemError> {
    read_header(fd).or_else(|_| read_header(fd))
}

fn map(
    fd: &OwnedFd,
    header: &Header,
    status: &Status,
    access: Access,
    vacancy: &Vacancy,
) -> Result<Region, ShmemError> {
    header.check_len(status.len)?;
    map_region(fd, header, access, vacancy)
}

fn map_region(
    fd: &OwnedFd,
    header: &Header,
    access: Access,
    vacancy: &Vacancy,
) -> Result<Region, ShmemError> {
    let payload_len = header.payload_len();
    // Made by a process that has a larger address space.
    if payload_len > MAX_PAYLOAD {
        return Err(SizeError::TooLarge { max: MAX_PAYLOAD }.into());
    }
    // There may be too little of address space, or of what this process is allowed.
    Region::map(fd, payload_len, access, vacancy.whereabouts())
        .map_err(Failure::of("mmap"))
        .map_err(|failure| failure.of_asking_for(payload_len))
}

fn os<T>(call: &'static str, result: Result<T, Errno>) -> Result<T, ShmemError> {
    result.map_err(|errno| ShmemError::Os { call, errno })
}

fn damaged(member: &Member<'_>, _: Refusal) -> ShmemError {
    HeaderError::Membership { found: member.header.membership().bits() }.into()
}
