//! What root can arrange: file systems of one's own, and another user

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// The user `nobody`, and its group.
pub const NOBODY: u32 = 65534;

/// Puts a file system of this process's own over a directory.
pub fn mount_private(directory: &str, options: &str) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

/// From now on this process is the user `nobody`, whose descriptors can be counted all the same.
pub fn become_nobody() {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).unwrap();
    setresgid(gid, gid, gid).unwrap();
    setresuid(uid, uid, uid).unwrap();
    prctl::set_dumpable(true).unwrap();
}
