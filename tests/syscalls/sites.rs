//! The places in `src/sys` that make system calls, and the errors that the man pages give for them

use nix::errno::Errno::{self, *};
use nix::libc;
use std::collections::BTreeMap;

/// A place that makes a system call, told from the others by what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    Nanosleep,
    FutexWait,
    FutexWake,
    /// Of this process.
    PidfdOwn,
    /// Of this thread.
    PidfdOwnThread,
    /// Of another process, to ask whether it lives.
    PidfdOther,
    /// The same number, which may be that of a thread.
    PidfdOtherThread,
    Kill,
    Poll,
    SerialStatfs,
    SerialStat,
    NamespaceIoctl,
    NamespaceStat,
    NamespaceOfProc,
    /// `/proc`, and the directory of a process in it.
    OpenProc,
    OpenProcess,
    /// A file there.
    OpenProcFile,
    ReadProcFile,
    OpenExisting,
    OpenCreating,
    /// What `O_CREAT` has refused.
    OpenAgain,
    MemfdCreate,
    AddSeals,
    GetSeals,
    SealedStatfs,
    ShmStatfs,
    Getrandom,
    Status,
    StatusAt,
    FlockExclusive,
    FlockShared,
    Pread,
    /// Where the next data are, and where they end.
    SeekData,
    SeekHole,
    Pwrite,
    Fchmod,
    Ftruncate,
    Fallocate,
    FreeStatfs,
    OpenShm,
    Getdents,
    MayUnlink,
    Unlink,
    MapShared,
    MapPrivate,
    MapSparse,
    /// Zeros in the place of what has gone.
    MapBlank,
    WipePrivate,
    WipeSparse,
    /// Of a copy.
    SmallPages,
    DontFork,
    DontForkBlank,
    Populate,
    Remove,
    Munmap,
    Bar,
    Unbar,
    Close,
}

use Site::*;

/// What each piece of code in `src/sys` is a site of, and how often it stands there.
const SOURCES: &[(&str, &str, usize, &[Site])] = &[
    // Answered without a system call.
    ("clock.rs", "clock_gettime", 1, &[]),
    // Cannot fail.
    ("clock.rs", "thread::sched_yield", 1, &[]),
    ("clock.rs", "thread::nanosleep", 1, &[Nanosleep]),
    ("futex.rs", "futex::wait", 1, &[FutexWait]),
    ("futex.rs", "futex::wake", 1, &[FutexWake]),
    // These three cannot fail.
    ("process.rs", "process::getpid", 2, &[]),
    ("process.rs", "thread::gettid", 2, &[]),
    ("process.rs", "process::geteuid", 1, &[]),
    ("process.rs", "process::pidfd_open", 4, &[PidfdOwn, PidfdOwnThread, PidfdOther, PidfdOtherThread]),
    ("process.rs", "process::test_kill_process", 1, &[Kill]),
    ("process.rs", "poll", 1, &[Poll]),
    ("process.rs", "fs::fstatfs", 1, &[SerialStatfs]),
    ("process.rs", "fs::fstat", 2, &[SerialStat, NamespaceStat]),
    ("process.rs", "ioctl::ioctl", 1, &[NamespaceIoctl]),
    ("process.rs", "fs::statat", 1, &[NamespaceOfProc]),
    ("process.rs", "fs::open", 1, &[OpenProc]),
    ("process.rs", "fs::openat", 2, &[OpenProcess, OpenProcFile]),
    ("process.rs", "io::read", 1, &[ReadProcFile]),
    ("shm.rs", "fs::open", 4, &[OpenExisting, OpenCreating, OpenAgain, OpenShm]),
    ("shm.rs", "fs::memfd_create", 1, &[MemfdCreate]),
    ("shm.rs", "fs::fcntl_add_seals", 1, &[AddSeals]),
    ("shm.rs", "fs::fcntl_get_seals", 1, &[GetSeals]),
    ("shm.rs", "fs::fstatfs", 2, &[SealedStatfs, FreeStatfs]),
    ("shm.rs", "fs::statfs", 1, &[ShmStatfs]),
    ("shm.rs", "getrandom", 1, &[Getrandom]),
    ("shm.rs", "fs::fstat", 1, &[Status]),
    ("shm.rs", "fs::statat", 1, &[StatusAt]),
    ("shm.rs", "fs::flock", 1, &[FlockExclusive, FlockShared]),
    ("shm.rs", "io::pread", 1, &[Pread]),
    ("shm.rs", "fs::seek", 2, &[SeekData, SeekHole]),
    ("shm.rs", "io::pwrite", 1, &[Pwrite]),
    ("shm.rs", "fs::fchmod", 1, &[Fchmod]),
    ("shm.rs", "fs::ftruncate", 1, &[Ftruncate]),
    ("shm.rs", "fs::fallocate", 1, &[Fallocate]),
    // Fails only for a bad address.
    ("shm.rs", "rustix::system::sysinfo", 1, &[]),
    ("shm.rs", "fs::Dir::new", 1, &[Getdents]),
    ("shm.rs", "fs::unlinkat", 1, &[MayUnlink]),
    ("shm.rs", "fs::unlink", 1, &[Unlink]),
    ("shm.rs", "mm::mmap", 1, &[MapShared]),
    ("shm.rs", "mm::mmap_anonymous", 4, &[MapPrivate, MapSparse, MapBlank, Bar]),
    (
        "shm.rs",
        "mm::madvise",
        7,
        &[WipePrivate, WipeSparse, SmallPages, DontFork, DontForkBlank, Populate, Remove],
    ),
    ("shm.rs", "mm::munmap", 2, &[Munmap, Unbar]),
];

/// All sites; `Close` stands nowhere: descriptors close when they are dropped.
pub fn all() -> impl Iterator<Item = Site> {
    SOURCES.iter().flat_map(|source| source.3.iter().copied()).chain([Close])
}

impl Site {
    pub fn by_name(name: &str) -> Option<Self> {
        all().find(|site| format!("{site:?}") == name)
    }

    /// What its man page lists, the likeliest first.
    ///
    /// Left out is `EBADF` of `close`, for which `std` ends the process; and of a question whether another
    /// process lives the answer that it does not, which is none of the question's failures: it is believed.
    pub const fn errnos(self) -> &'static [Errno] {
        match self {
            Nanosleep => &[EINTR, EINVAL, EFAULT],
            FutexWait => &[
                EINTR, EAGAIN, ETIMEDOUT, ENOSYS, EPERM, ENOMEM, EACCES, EFAULT, EINVAL, EDEADLK, ENFILE,
                ESRCH,
            ],
            FutexWake => &[ENOSYS, EFAULT, EPERM, EACCES, EINVAL],
            PidfdOwn | PidfdOwnThread => &[EMFILE, ENOSYS, EPERM, ENFILE, ENOMEM, ENODEV, EINVAL, ESRCH],
            PidfdOther | PidfdOtherThread => &[EMFILE, ENOSYS, EPERM, ENFILE, ENOMEM, ENODEV, EINVAL],
            Kill => &[EPERM, EINVAL, ENOSYS],
            Poll => &[EINTR, ENOMEM, EINVAL, EFAULT],
            SerialStatfs | SealedStatfs | FreeStatfs => {
                &[EINTR, ENOMEM, EIO, ENOSYS, EACCES, EOVERFLOW, EBADF, EFAULT]
            }
            ShmStatfs => {
                &[ENOENT, EINTR, EACCES, EIO, ENOMEM, ENOSYS, EOVERFLOW, EFAULT, ELOOP, ENAMETOOLONG, ENOTDIR]
            }
            SerialStat | NamespaceStat | Status => &[ENOMEM, EIO, EACCES, EOVERFLOW, EBADF, EFAULT, EINVAL],
            NamespaceIoctl => &[ENOTTY, EINVAL, EMFILE, ENFILE, EPERM, EBADF, EFAULT],
            NamespaceOfProc | StatusAt => {
                &[ENOENT, EACCES, ENOMEM, EIO, ELOOP, ENAMETOOLONG, ENOTDIR, EOVERFLOW, EBADF, EFAULT, EINVAL]
            }
            OpenProc | OpenProcess | OpenProcFile | OpenShm => &[
                EMFILE,
                ENFILE,
                EACCES,
                ENOENT,
                ENOMEM,
                EINTR,
                ENOTDIR,
                EPERM,
                ELOOP,
                ENAMETOOLONG,
                ENODEV,
                ENXIO,
                EBUSY,
                EOVERFLOW,
                EBADF,
                EFAULT,
                EINVAL,
            ],
            ReadProcFile | Pread => &[EINTR, EIO, EAGAIN, EINVAL, EISDIR, EBADF, EFAULT, EOVERFLOW],
            SeekData | SeekHole => &[EINVAL, ENXIO, EOVERFLOW, ESPIPE, EBADF],
            OpenExisting | OpenCreating | OpenAgain => &[
                EACCES,
                EMFILE,
                ENOENT,
                ENOSPC,
                ENFILE,
                ENOMEM,
                EDQUOT,
                ELOOP,
                EISDIR,
                ENXIO,
                ENODEV,
                EPERM,
                EROFS,
                EINTR,
                EBUSY,
                EEXIST,
                EFBIG,
                ENAMETOOLONG,
                ENOTDIR,
                EOPNOTSUPP,
                EOVERFLOW,
                ETXTBSY,
                EAGAIN,
                EBADF,
                EFAULT,
                EINVAL,
            ],
            MemfdCreate => &[EMFILE, ENFILE, ENOMEM, ENOSYS, EACCES, EINVAL, EFAULT],
            AddSeals => &[EPERM, EBUSY, EINVAL, EACCES, EBADF],
            GetSeals => &[EINVAL, EPERM, EINTR, EBADF],
            Getrandom => &[EINTR, ENOSYS, EAGAIN, EFAULT, EINVAL],
            FlockExclusive | FlockShared => &[EAGAIN, ENOLCK, EINTR, EINVAL, EBADF],
            Pwrite => &[
                EINTR,
                ENOSPC,
                EDQUOT,
                EIO,
                ENOMEM,
                EFBIG,
                EPERM,
                EAGAIN,
                EINVAL,
                EPIPE,
                EDESTADDRREQ,
                EBADF,
                EFAULT,
                EOVERFLOW,
            ],
            Fchmod => &[
                EPERM,
                EROFS,
                EIO,
                EACCES,
                ENOMEM,
                EOPNOTSUPP,
                ENOENT,
                ENOTDIR,
                ELOOP,
                ENAMETOOLONG,
                EBADF,
                EFAULT,
                EINVAL,
            ],
            Ftruncate => &[
                EINTR,
                EFBIG,
                EPERM,
                EIO,
                EINVAL,
                EACCES,
                EROFS,
                ETXTBSY,
                EISDIR,
                EBADF,
                ELOOP,
                ENAMETOOLONG,
                ENOENT,
                ENOTDIR,
                EFAULT,
            ],
            Fallocate => &[
                EINTR, ENOSPC, EOPNOTSUPP, EFBIG, ENOSYS, EIO, EPERM, ENODEV, ESPIPE, ETXTBSY, EBADF, EINVAL,
            ],
            Getdents => &[ENOENT, EINTR, EIO, ENOTDIR, EBADF, EFAULT, EINVAL],
            MayUnlink => &[
                EPERM,
                EACCES,
                ENOTDIR,
                ENOENT,
                EBUSY,
                EROFS,
                ENOTEMPTY,
                ENOMEM,
                EINVAL,
                ELOOP,
                ENAMETOOLONG,
                EBADF,
                EFAULT,
            ],
            Unlink => &[
                EPERM,
                ENOENT,
                EACCES,
                EROFS,
                EBUSY,
                EIO,
                ENOMEM,
                EISDIR,
                ELOOP,
                ENAMETOOLONG,
                ENOTDIR,
                EBADF,
                EFAULT,
                EINVAL,
            ],
            MapShared | MapPrivate | MapSparse | MapBlank => {
                &[ENOMEM, EAGAIN, ENFILE, EPERM, EACCES, ENODEV, EOVERFLOW, ETXTBSY, EBADF, EINVAL]
            }
            Bar => &[EEXIST, ENOMEM, EAGAIN, EPERM, EINVAL],
            WipePrivate | WipeSparse | SmallPages | DontFork | DontForkBlank => {
                &[ENOMEM, EAGAIN, EINVAL, EACCES, EBADF, EIO]
            }
            Populate => &[EINTR, EFAULT, ENOMEM, EAGAIN, EINVAL, EACCES, EBADF, EIO, EHWPOISON, ENOSPC],
            Remove => &[EINTR, EACCES, EAGAIN, ENOMEM, EINVAL, EBADF, EIO, EOPNOTSUPP],
            Munmap | Unbar => &[ENOMEM, EINVAL],
            Close => &[EINTR, EIO, ENOSPC],
        }
    }

    /// Whether the call may do only a part of what is asked for, and say so.
    pub const fn may_be_short(self) -> bool {
        matches!(self, Pread | Pwrite | ReadProcFile | Getrandom)
    }

    pub const fn makes_descriptor(self) -> bool {
        matches!(
            self,
            PidfdOwn
                | PidfdOwnThread
                | PidfdOther
                | PidfdOtherThread
                | NamespaceIoctl
                | OpenProc
                | OpenProcess
                | OpenProcFile
                | OpenExisting
                | OpenCreating
                | OpenAgain
                | OpenShm
                | MemfdCreate
        )
    }

    /// Whether the call is made, and its error told afterwards: Linux closes and unmaps all the same, and were it not
    /// made, what is left over would be no fault of the crate's.
    pub const fn is_made(self) -> bool {
        matches!(self, Munmap | Unbar | Close)
    }
}

/// The system call that a thread is about to make.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub number: i64,
    pub arguments: [u64; 6],
}

/// What helps to tell which site it is.
pub struct Context<'a> {
    /// Process and thread that make it.
    pub own: u64,
    /// The site before it.
    pub last: Option<Site>,
    /// The site that the descriptor comes from which is the first argument.
    pub origin: Option<Site>,
    /// The path that an argument leads to.
    pub path: &'a dyn Fn(u64) -> String,
}

/// Which site makes this call; `None` for the calls that cannot fail, and an error for one that none is known to make:
/// a panic, say.
pub fn classify(request: &Request, context: &Context<'_>) -> Result<Option<Site>, String> {
    let [first, second, third, fourth, ..] = request.arguments;
    let has = |flags: u64, bit: i32| flags & bit as u64 != 0;
    let unknown = || format!("a system call that no site is known to make: {request:?}");
    Ok(Some(match request.number {
        // By rustix, once in a process, to find the clock and the size of a page; it has other ways.
        libc::SYS_prctl
        | libc::SYS_sched_yield
        | libc::SYS_getpid
        | libc::SYS_gettid
        | libc::SYS_geteuid
        | libc::SYS_sysinfo => {
            return Ok(None);
        }
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep => Nanosleep,
        libc::SYS_futex => match second {
            0 => FutexWait,
            1 => FutexWake,
            _ => return Err(unknown()),
        },
        libc::SYS_pidfd_open => match (first == context.own, has(second, libc::O_EXCL)) {
            (true, false) => PidfdOwn,
            (true, true) => PidfdOwnThread,
            (false, false) => PidfdOther,
            (false, true) => PidfdOtherThread,
        },
        libc::SYS_kill => Kill,
        libc::SYS_poll | libc::SYS_ppoll => Poll,
        libc::SYS_ioctl => NamespaceIoctl,
        libc::SYS_fstatfs => match context.origin {
            Some(PidfdOwn | PidfdOther | PidfdOtherThread) => SerialStatfs,
            _ if context.last == Some(GetSeals) => SealedStatfs,
            _ => FreeStatfs,
        },
        libc::SYS_statfs => ShmStatfs,
        libc::SYS_fstat => match context.origin {
            Some(PidfdOwn | PidfdOther | PidfdOtherThread) => SerialStat,
            Some(NamespaceIoctl) => NamespaceStat,
            _ => Status,
        },
        libc::SYS_newfstatat if (context.path)(second).starts_with("/proc") => NamespaceOfProc,
        libc::SYS_newfstatat => StatusAt,
        libc::SYS_open => match (context.path)(first).as_str() {
            "/proc" => OpenProc,
            "/dev/shm" => OpenShm,
            _ if has(second, libc::O_CREAT) => OpenCreating,
            _ if context.last == Some(OpenCreating) => OpenAgain,
            _ => OpenExisting,
        },
        libc::SYS_openat => match (context.path)(second).as_str() {
            _ if has(third, libc::O_PATH) => OpenProcess,
            _ => OpenProcFile,
        },
        libc::SYS_read => ReadProcFile,
        libc::SYS_memfd_create => MemfdCreate,
        libc::SYS_fcntl => match second as i32 {
            libc::F_ADD_SEALS => AddSeals,
            libc::F_GET_SEALS => GetSeals,
            // By `std`, before it closes a descriptor, if it was built with its own checks.
            libc::F_GETFD => return Ok(None),
            _ => return Err(unknown()),
        },
        libc::SYS_getrandom => Getrandom,
        libc::SYS_flock if has(second, libc::LOCK_EX) => FlockExclusive,
        libc::SYS_flock => FlockShared,
        libc::SYS_pread64 => Pread,
        libc::SYS_lseek if third == libc::SEEK_DATA as u64 => SeekData,
        libc::SYS_lseek => SeekHole,
        libc::SYS_pwrite64 => Pwrite,
        libc::SYS_fchmod => Fchmod,
        libc::SYS_ftruncate => Ftruncate,
        libc::SYS_fallocate => Fallocate,
        libc::SYS_getdents64 => Getdents,
        libc::SYS_unlinkat if has(third, libc::AT_REMOVEDIR) => MayUnlink,
        libc::SYS_unlinkat | libc::SYS_unlink => Unlink,
        libc::SYS_mmap if !has(fourth, libc::MAP_ANONYMOUS) => MapShared,
        libc::SYS_mmap if has(fourth, libc::MAP_FIXED_NOREPLACE) => Bar,
        libc::SYS_mmap if has(fourth, libc::MAP_FIXED) => MapBlank,
        libc::SYS_mmap if has(fourth, libc::MAP_NORESERVE) => MapSparse,
        libc::SYS_mmap => MapPrivate,
        libc::SYS_madvise => match third as i32 {
            libc::MADV_WIPEONFORK if context.last == Some(MapSparse) => WipeSparse,
            libc::MADV_WIPEONFORK => WipePrivate,
            libc::MADV_NOHUGEPAGE => SmallPages,
            libc::MADV_DONTFORK if context.last == Some(MapBlank) => DontForkBlank,
            libc::MADV_DONTFORK => DontFork,
            libc::MADV_POPULATE_WRITE => Populate,
            libc::MADV_REMOVE => Remove,
            _ => return Err(unknown()),
        },
        libc::SYS_munmap if context.last == Some(Bar) => Unbar,
        libc::SYS_munmap => Munmap,
        libc::SYS_close => Close,
        _ => return Err(unknown()),
    }))
}

/// The sources have the calls that the table says, and no others.
pub fn assert_table_is_complete() {
    let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
    let sources = [
        ("mod.rs", include_str!("../../src/sys/mod.rs")),
        ("clock.rs", include_str!("../../src/sys/clock.rs")),
        ("futex.rs", include_str!("../../src/sys/futex.rs")),
        ("process.rs", include_str!("../../src/sys/process.rs")),
        ("shm.rs", include_str!("../../src/sys/shm.rs")),
    ];
    for (file, source) in sources {
        let (code, _) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
        for line in code.lines().map(|line| line.split("//").next().unwrap()) {
            for call in calls(line) {
                *found.entry((file.to_owned(), call)).or_default() += 1;
            }
        }
    }
    let known =
        SOURCES.iter().map(|(file, call, count, _)| (((*file).to_owned(), (*call).to_owned()), *count));
    assert_eq!(found, known.collect::<BTreeMap<_, _>>(), "src/sys has other system calls than the table");
}

/// The calls of rustix in a line of code that make system calls.
fn calls(line: &str) -> Vec<String> {
    const MODULES: [&str; 8] = ["fs", "io", "mm", "process", "thread", "futex", "ioctl", "rustix"];
    const BY_NAME: [&str; 3] = ["clock_gettime", "poll", "getrandom"];
    /// They make none by themselves.
    const OTHERS: [&str; 4] =
        ["io::retry_on_intr", "ioctl::opcode::none", "rustix::param::page_size", "io::Result"];
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut calls = Vec::new();
    for (at, _) in line.match_indices('(') {
        let start = line[..at].rfind(|c| !is_part(c)).map_or(0, |end| end + 1);
        let name = &line[start..at];
        let is_call = match name.split_once("::") {
            Some((module, _)) => MODULES.contains(&module) && !OTHERS.contains(&name),
            None => BY_NAME.contains(&name) && !line[..start].ends_with("fn "),
        };
        if is_call {
            calls.push(name.replace("rustix::thread::gettid", "thread::gettid"));
        }
    }
    calls
}
