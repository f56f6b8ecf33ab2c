//! What an operation makes of a call that fails: the right error, or none, and why

use super::operations::Operation;
use super::sites::Site::*;
use super::stage::{Call, Extent, Injection, Outcome, Plan, Run};
use nix::errno::Errno;
use shmem_bind::{ArenaError, FileKind, ShmemError};

/// What comes of one call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation ends with this error.
    Error(ShmemError),
    /// Nothing: it is not needed, or there is another way to what it is for.
    Nothing,
    /// It is made again at once.
    Retry,
    /// The attempt to open is begun anew, until the time is up.
    Again,
    /// The name stays, and the operation is a success for all that.
    NameStays,
    /// Something is not seen that is there: a dead one, or a segment.
    Unnoticed,
}

/// Which dead one the operation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// None: all who are asked for live, and must be left alone.
    Nobody,
    /// One that was reaped.
    Reaped,
    Zombie,
    /// Its number has gone to another process.
    Replaced,
}

/// What must come of a run.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub outcome: Outcome,
    pub has_name: Option<bool>,
}

pub fn os(call: &'static str, errno: Errno) -> ShmemError {
    ShmemError::Os { call, errno: raw(errno) }
}

pub fn arena_os(call: &'static str, errno: Errno) -> ShmemError {
    ArenaError::Os { call, errno: raw(errno) }.into()
}

fn raw(errno: Errno) -> shmem_bind::Errno {
    shmem_bind::Errno::from_raw_os_error(errno as i32)
}

/// What must come of a run with this plan, by the calls that failed in it, if it comes to `usual` without.
pub fn expected(operation: &Operation, plan: &Plan, run: &Run, usual: Outcome) -> Expected {
    let effects = || run.hit.iter().map(|(call, injection)| effect(operation, *call, *injection));
    let error = effects().find_map(|effect| match effect {
        Effect::Error(error) => Some(error),
        _ => None,
    });
    let has = |wanted| effects().any(|effect| effect == wanted);
    let outcome = match error {
        Some(error) => Err(error),
        None if has(Effect::Again) && plan.extent == Extent::Always => Err(operation.busy),
        None if has(Effect::Unnoticed) => operation.unnoticed.unwrap_or(usual),
        None => usual,
    };
    let is_usual = outcome.is_ok() || outcome == usual;
    let has_name = operation.named.filter(|_| is_usual).map(|named| named || has(Effect::NameStays));
    Expected { outcome, has_name }
}

fn effect(operation: &Operation, call: Call, injection: Injection) -> Effect {
    match injection {
        Injection::Fail(errno) => {
            (operation.effect)(call, errno).unwrap_or_else(|| usual(operation, call, errno))
        }
        Injection::Elsewhere => Effect::Nothing,
        Injection::Short => match call.site {
            // Within one page tmpfs writes all or nothing, unless it is full.
            Pwrite => Effect::Error(ShmemError::NoSpace { asked: operation.asked }),
            // Half a file says less than the file, and nothing wrong.
            ReadProcFile => liveness(operation, call),
            // What is missing is read by the next call, or was not needed.
            _ => Effect::Nothing,
        },
    }
}

fn usual(operation: &Operation, call: Call, errno: Errno) -> Effect {
    let error = |call| Effect::Error(os(call, errno));
    let no_space = Effect::Error(ShmemError::NoSpace { asked: operation.asked });
    match (call.site, errno) {
        // If there is no such directory, opening says so; if it cannot be told, it is taken for a usual one.
        (ShmStatfs, _) => Effect::Nothing,
        (OpenCreating, Errno::EACCES) if operation.exists => Effect::Nothing,
        // What `O_CREAT` was refused for was not what is there, since nothing is.
        (OpenAgain, Errno::ENOENT) => Effect::Error(os("open", Errno::EACCES)),
        (OpenExisting, Errno::ENOENT) => Effect::Error(ShmemError::NotFound),
        (OpenCreating | OpenAgain, Errno::ENOSPC | Errno::EDQUOT) => no_space,
        (OpenExisting | OpenCreating | OpenAgain, _) => match errno {
            Errno::ELOOP => Effect::Error(ShmemError::NotRegular { found: FileKind::Symlink }),
            Errno::EISDIR => Effect::Error(ShmemError::NotRegular { found: FileKind::Directory }),
            Errno::ENXIO | Errno::ENODEV => Effect::Error(ShmemError::NotRegular { found: FileKind::Other }),
            _ => error("open"),
        },
        (FlockExclusive | FlockShared, Errno::EWOULDBLOCK) => Effect::Again,
        (FlockExclusive | FlockShared, _) => error("flock"),
        (Status, _) => error("fstat"),
        // The name does not lead to the file any more.
        (StatusAt, Errno::ENOENT) => Effect::Again,
        (StatusAt, _) => error("stat"),
        (
            Getrandom | Pread | Pwrite | Ftruncate | Fallocate | Populate | Poll | ReadProcFile | Getdents,
            Errno::EINTR,
        ) => Effect::Retry,
        (Getrandom, _) => error("getrandom"),
        (Pread, _) => error("pread"),
        (Pwrite, Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM) | (Fallocate, Errno::ENOSPC) => no_space,
        (Pwrite, _) => error("pwrite"),
        (Fallocate, _) => error("fallocate"),
        (Ftruncate, _) => error("ftruncate"),
        (Fchmod, _) => error("fchmod"),
        (FreeStatfs, Errno::ENOMEM) => no_space,
        (FreeStatfs | SealedStatfs, _) => error("fstatfs"),
        (MemfdCreate, _) => error("memfd_create"),
        (AddSeals, _) => error("fcntl"),
        // So it is no memfd.
        (GetSeals, Errno::EINVAL) => Effect::Error(ShmemError::Unsealed),
        (GetSeals, _) => error("fcntl"),
        (MapShared, Errno::ENOMEM) => no_space,
        (MapShared | MapPrivate, _) => error("mmap"),
        (WipePrivate, _) => error("madvise"),
        (MapSparse, _) => Effect::Error(arena_os("mmap", errno)),
        (WipeSparse | DontFork, _) => Effect::Error(arena_os("madvise", errno)),
        (Populate, Errno::EFAULT | Errno::ENOSPC | Errno::ENOMEM) => {
            Effect::Error(ArenaError::NoSpace { asked: operation.asked }.into())
        }
        (Populate, _) => Effect::Error(arena_os("madvise", errno)),
        // It may be removed, for all that is asked here.
        (MayUnlink, Errno::ENOTDIR | Errno::ENOENT) => Effect::Nothing,
        // Somebody else has removed it. It is there, and stays, as the error is not true.
        (Unlink, Errno::ENOENT) => Effect::NameStays,
        (MayUnlink | Unlink, _) => error("unlink"),
        (OpenShm, _) => error("open"),
        // The directory was removed while it was open.
        (Getdents, Errno::ENOENT) => Effect::Nothing,
        (Getdents, _) => error("getdents64"),
        // Memory of the file system's that is had for no use is used when the arena grows after all.
        (Remove, _) => Effect::Nothing,
        // What is not known to be a hole is read.
        (SeekData | SeekHole, _) => Effect::Nothing,
        // It may take more memory.
        (SmallPages, _) => Effect::Nothing,
        // The operation says whether zeros could be put there.
        (MapBlank, _) => Effect::Unnoticed,
        // A child may get zeros where it was to get nothing.
        (DontForkBlank, _) => Effect::Nothing,
        // A child may lack a barrier, or two, where it has nothing.
        (Bar | Unbar, _) => Effect::Nothing,
        // Who waits looks again in any case, and sleeps are short.
        (Nanosleep | FutexWait | FutexWake, _) => Effect::Nothing,
        // Who this process is: there are other ways to find out; and what is not known others cannot use against it.
        (PidfdOwn | PidfdOwnThread | NamespaceIoctl | NamespaceStat | NamespaceOfProc, _) => Effect::Nothing,
        (
            PidfdOther | PidfdOtherThread | Kill | Poll | SerialStatfs | SerialStat | OpenProc | OpenProcess
            | OpenProcFile | ReadProcFile,
            _,
        ) => liveness(operation, call),
        // Done all the same.
        (Munmap | Close, _) => Effect::Nothing,
    }
}

/// A question for another process fails.
fn liveness(operation: &Operation, call: Call) -> Effect {
    let is_about_dead = call.question == Some(operation.living);
    match (operation.dead, call.site) {
        // Then it counts as alive, as it is.
        (Dead::Nobody, _) => Effect::Nothing,
        _ if !is_about_dead => Effect::Nothing,
        // The number is nobody's: the next question is answered as the one before would have been.
        (Dead::Reaped | Dead::Replaced, PidfdOther) | (Dead::Reaped, PidfdOtherThread) => Effect::Nothing,
        // That it has exited is not needed if its number is another's by now.
        (Dead::Replaced, Poll) => Effect::Nothing,
        // A zombie still has its number, and nothing else says that it has exited.
        (Dead::Reaped | Dead::Zombie | Dead::Replaced, _) => operation.missed,
    }
}
