//! Processes: who am I, and is that one dead
//!
//! A PID alone says nothing: it is re-used, and it means another process in another PID namespace. These
//! functions give what is needed to tell: the namespace, a mark that differs between a process and the next
//! one with its PID, and the kernel's own word on whether a process has exited. All work without `/proc` on
//! Linux 6.11 and later.
//!
//! # Safety
//! One `ioctl` that returns a descriptor, for which rustix has no wrapper.
#![allow(unsafe_code)]

#[cfg(planted)]
use crate::planted::{Mistake, is_planted};
use core::ffi::{CStr, c_void};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode};
use rustix::path::DecInt;
use rustix::process::{self, Pid, PidfdFlags};
use rustix::thread;

/// `statfs` type of the file system of pidfds since Linux 6.9, where each process has an inode of its own.
const PID_FS_MAGIC: u64 = 0x5049_4446;

/// `PIDFD_THREAD`, Linux 6.9: what is asked for is a thread, and not a process.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());

/// `PIDFD_GET_PID_NAMESPACE`, Linux 6.11.
const PIDFD_GET_PID_NAMESPACE: Opcode = ioctl::opcode::none(0xFF, 5);

/// This process's number, in its own PID namespace.
pub(crate) fn own_pid() -> u32 {
    process::getpid().as_raw_pid().unsigned_abs()
}

/// This thread's number, in the PID namespace of this process.
pub(crate) fn own_thread() -> u32 {
    rustix::thread::gettid().as_raw_pid().unsigned_abs()
}

/// The user whose rights this process has.
pub(crate) fn effective_uid() -> u32 {
    process::geteuid().as_raw()
}

/// A process, or a thread, held so that its number cannot go to another one meanwhile.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

/// What the kernel says of a PID in this process's namespace.
#[derive(Debug)]
pub(crate) enum Liveness {
    /// No process has this number, or it has exited (a zombie counts).
    Dead,
    /// A process, or a thread of one, has this number, and can be asked more.
    Alive(Pidfd),
    /// A process has this number, or the kernel does not say.
    Unknown,
}

/// Asks for the process with this number.
pub(crate) fn liveness(pid: u32) -> Liveness {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Liveness::Unknown;
    };
    match process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) if has_exited(&fd) => Liveness::Dead,
        Ok(fd) => Liveness::Alive(Pidfd(fd)),
        Err(Errno::SRCH) => Liveness::Dead,
        #[cfg(planted)]
        Err(_) if is_planted(Mistake::FailureIsDeath) => Liveness::Dead,
        // Threads get their numbers where processes do. That it is one now says nothing of the process that had the
        // number; that it is another than that process does.
        Err(_) => process::pidfd_open(pid, THREAD)
            .map_or_else(|_| liveness_by_kill(pid), |fd| Liveness::Alive(Pidfd(fd))),
    }
}

/// No pidfds (before Linux 5.3, or filtered), no descriptor left, or a number that only a thread (before Linux 6.9)
/// or a process group uses. kill(2) then still knows for certain when there is no such process.
fn liveness_by_kill(pid: Pid) -> Liveness {
    match process::test_kill_process(pid) {
        Err(Errno::SRCH) => Liveness::Dead,
        _ => Liveness::Unknown,
    }
}

/// A pidfd becomes readable when its process has exited, all threads of it.
fn has_exited(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = io::retry_on_intr(|| poll(&mut fds, Some(&at_once)));
    let [fd] = &fds;
    polled.is_ok() && fd.revents().contains(PollFlags::IN)
}

impl Pidfd {
    /// This process.
    pub(crate) fn own() -> Result<Self, Errno> {
        process::pidfd_open(process::getpid(), PidfdFlags::empty()).map(Self)
    }

    /// A number that no other process has had since boot; Linux 6.9 and later.
    pub(crate) fn serial(&self) -> Option<u64> {
        let filesystem = fs::fstatfs(&self.0).ok()?;
        // The type of `f_type` differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        if filesystem.f_type as u64 != PID_FS_MAGIC {
            return None;
        }
        #[allow(clippy::unnecessary_cast)]
        fs::fstat(&self.0).ok().map(|stat| stat.st_ino as u64)
    }

    /// When this process, which has the number `pid`, started, in clock ticks since boot.
    pub(crate) fn start_time(&self, pid: u32) -> Option<u64> {
        let start_time = start_time(pid)?;
        // Alive still: so it was this one that had the number when its file was read.
        (!has_exited(&self.0)).then_some(start_time)
    }

    /// Inode number of the PID namespace of this process; Linux 6.11 and later.
    fn namespace(&self) -> Option<u64> {
        // SAFETY: the request takes no argument and returns a new descriptor, which is how `PidNamespace`
        // describes it; on another kind of file it fails.
        let namespace = unsafe { ioctl::ioctl(&self.0, PidNamespace) }.ok()?;
        #[allow(clippy::unnecessary_cast)]
        fs::fstat(&namespace).ok().map(|stat| stat.st_ino as u64)
    }
}

/// Inode number of the PID namespace of this process.
pub(crate) fn own_namespace(own: Option<&Pidfd>) -> Option<u64> {
    if let Some(namespace) = own.and_then(Pidfd::namespace) {
        return Some(namespace);
    }
    // A process whose main thread has ended does not say; a thread that runs does.
    let thread = process::pidfd_open(thread::gettid(), THREAD).ok().map(Pidfd);
    if let Some(namespace) = thread.as_ref().and_then(Pidfd::namespace) {
        return Some(namespace);
    }
    // "self" leads to this very process, whichever namespace this /proc is of.
    #[allow(clippy::unnecessary_cast)]
    fs::statat(fs::CWD, c"/proc/self/ns/pid", AtFlags::empty()).ok().map(|stat| stat.st_ino as u64)
}

/// When the process `pid` of this PID namespace started, by `/proc`, in clock ticks since boot.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let mut buffer = [0; 4096];
    // A /proc that belongs to another PID namespace would tell of somebody else.
    if !shows_own_namespace(read_file(c"/proc/self/status", &mut buffer).ok()?) {
        return None;
    }
    // Start times are told by the reader's own clock, so those told in two time namespaces may differ.
    match read_file(c"/proc/self/timens_offsets", &mut buffer) {
        Ok(offsets) if has_no_offsets(offsets) => {}
        // Before Linux 5.6 there are no such namespaces. That there is no descriptor left, say, tells nothing.
        Err(Errno::NOENT) => {}
        _ => return None,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = fs::open(c"/proc", flags, Mode::empty()).ok()?;
    let process = fs::openat(&proc, DecInt::new(pid), flags, Mode::empty()).ok()?;
    parse_start_time(read_file_at(process.as_fd(), c"stat", &mut buffer).ok()?)
}

fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    read_file_at(fs::CWD, path, buffer)
}

/// The beginning of a file, as much of it as one `read` gives.
fn read_file_at<'a>(directory: BorrowedFd<'_>, path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let fd = fs::openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let len = io::retry_on_intr(|| io::read(&fd, &mut *buffer))?;
    Ok(buffer.get(..len).unwrap_or_default())
}

/// Whether a `/proc/self/status` is of the PID namespace of its reader: `NSpid` then has one number, the
/// leftmost being the one in the namespace of that `/proc` and the rightmost the reader's own.
fn shows_own_namespace(status: &[u8]) -> bool {
    // Only whole lines: what was read may end in the middle of one.
    let mut lines = status.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let line = lines.find_map(|line| line.strip_prefix(b"NSpid:"));
    line.is_some_and(|numbers| {
        let words = numbers.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.count() == 1
    })
}

/// Whether a `/proc/self/timens_offsets` says that all clocks are those of the machine: a line for each of the two that can
/// differ, whole.
fn has_no_offsets(offsets: &[u8]) -> bool {
    let lines = offsets.iter().filter(|byte| **byte == b'\n').count();
    lines >= 2 && offsets.ends_with(b"\n") && !offsets.iter().any(|byte| matches!(byte, b'1'..=b'9'))
}

/// Field 22 of `/proc/PID/stat`; field 2 is the command in parentheses, which may hold spaces and parentheses.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let end_of_command = stat.iter().rposition(|byte| *byte == b')')?;
    let after = stat.get(end_of_command.checked_add(1)?..)?;
    let fields = core::str::from_utf8(after).ok()?;
    let mut fields = fields.split_ascii_whitespace().skip(22 - 3);
    let start_time = fields.next()?;
    // Else it may be cut off in the middle.
    fields.next()?;
    start_time.parse().ok()
}

/// `PIDFD_GET_PID_NAMESPACE`: no argument, returns a descriptor of the namespace.
struct PidNamespace;

// SAFETY: the opcode takes no argument, so the kernel reads and writes no memory of the caller, and its return
// value is a new descriptor that belongs to the caller.
unsafe impl Ioctl for PidNamespace {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        PIDFD_GET_PID_NAMESPACE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> io::Result<OwnedFd> {
        let fd: RawFd = out;
        // SAFETY: the call succeeded, so `out` is a descriptor just made for this caller.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    #[test]
    fn this_process_is_alive_and_keeps_its_serial() {
        let pid = own_pid();
        assert_eq!(pid, std::process::id());
        let Liveness::Alive(other) = liveness(pid) else { panic!("this process is alive") };
        let own = Pidfd::own().unwrap();
        assert_eq!(own.serial(), other.serial());
        assert_eq!(own.start_time(pid), start_time(pid));
    }

    #[test]
    fn a_child_lives_then_is_a_zombie_then_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let Liveness::Alive(pidfd) = liveness(pid) else { panic!("the child is alive") };
        assert_ne!(pidfd.serial().unwrap_or(0), Pidfd::own().unwrap().serial().unwrap_or(1));
        child.kill().unwrap();
        // Exited, not reaped: wait until the kernel says so, without reaping.
        while !has_exited(&pidfd.0) {
            std::thread::yield_now();
        }
        assert!(matches!(liveness(pid), Liveness::Dead));
        child.wait().unwrap();
        assert!(matches!(liveness(pid), Liveness::Dead));
    }

    #[test]
    fn a_thread_is_not_the_process_that_had_its_number() {
        std::thread::spawn(|| {
            let own = Pidfd::own().unwrap();
            let number = thread::gettid().as_raw_pid().unsigned_abs();
            match liveness(number) {
                Liveness::Alive(thread) if own.serial().is_some() => {
                    assert_ne!(thread.serial(), own.serial())
                }
                Liveness::Dead => panic!("a thread has this number"),
                Liveness::Alive(_) | Liveness::Unknown => {
                    assert!(process::pidfd_open(thread::gettid(), THREAD).is_err(), "it can be told apart");
                }
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_two_sources_of_the_namespace_agree() {
        let by_ioctl = Pidfd::own().unwrap().namespace();
        let by_proc = own_namespace(None);
        assert!(by_ioctl.is_none() || by_proc.is_none() || by_ioctl == by_proc);
    }

    #[test]
    fn proc_files_are_parsed_whatever_the_command_is_called() {
        let stat = b"42 (a) R 1 2 (x y)) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3\n";
        assert_eq!(parse_start_time(stat), Some(98765));
        assert_eq!(parse_start_time(b"42 (a) S 1"), None);
        assert_eq!(parse_start_time(b""), None);
        assert!(shows_own_namespace(b"Name:\tx\nNSpid:\t42\nNSpgid:\t1\t2\n"));
        assert!(!shows_own_namespace(b"Name:\tx\nNSpid:\t42\t7\n"));
        assert!(!shows_own_namespace(b"Name:\tx\n"));
        assert!(!shows_own_namespace(b"NSpid:\t42"), "cut off");
    }
    #[test]
    fn a_start_time_that_is_cut_off_is_not_that_of_another_process() {
        let stat = b"42 (a) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3\n";
        assert_eq!(parse_start_time(stat), Some(98765));
        for len in 0..stat.len() {
            assert!(matches!(parse_start_time(&stat[..len]), None | Some(98765)), "{len}");
        }
    }

    #[test]
    fn offsets_that_are_cut_off_are_not_none() {
        let offsets = b"monotonic           0         0\nboottime            0         0\n";
        assert!(has_no_offsets(offsets));
        assert!((0..offsets.len()).all(|len| !has_no_offsets(&offsets[..len])));
        assert!(!has_no_offsets(b"monotonic           0         0\nboottime        86400         0\n"));
    }
}
