//! Memory that forked processes share

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::atomic::AtomicU64;

/// A memfd, mapped `MAP_SHARED`: zeros at first, with no page taken. It goes away with the last process that has it.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: it is memory, which belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; by reference it gives atomics, and pointers, whose users see to themselves.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Of `len` bytes, a multiple of 8.
    pub fn new(len: usize) -> Self {
        assert_eq!(len % 8, 0);
        let fd = memfd_create("shmem-bind-bench", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len as u64).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, where the kernel likes it.
        let base = unsafe { mmap(null_mut(), len, protection, MapFlags::SHARED, &fd, 0) }.unwrap();
        Self { base: NonNull::new(base).unwrap(), len }
    }

    pub const fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }

    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// All of it, as words.
    pub const fn words(&self) -> &[AtomicU64] {
        // SAFETY: as many words as are mapped, for as long as this lives, at the beginning of a page.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast(), self.len / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by this, and nobody has a reference any more.
        unsafe { munmap(self.base.as_ptr(), self.len) }.unwrap();
    }
}
