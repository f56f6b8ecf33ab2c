//! What a segment's life costs beside the bare system calls that create, map and remove the same memory
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench segment [-- ROUNDS]`

use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::mm::{self, MapFlags, ProtFlags};
use shmem_bind::{Builder, ShmemBox};
use shmem_bind_benches::{Contestant, compare};
use std::ptr;

const SIZE: usize = 64 * 1024;
const PAGE: usize = 4096;

/// Writes to each page of `len` bytes.
///
/// # Safety
/// They are mapped, to be written, and nobody else uses them.
unsafe fn touch(base: *mut u8, len: usize) {
    for offset in (0..len).step_by(PAGE) {
        // SAFETY: the caller promises it.
        unsafe { base.add(offset).write_volatile(1) };
    }
}

/// Opens, perhaps sizes, maps, touches, unmaps; and nothing else.
fn bare(path: &str, flags: OFlags, reserve: bool) {
    let fd = fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap();
    if reserve {
        fs::fallocate(&fd, FallocateFlags::empty(), 0, SIZE as u64).unwrap();
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping, unmapped below and not used after.
    unsafe {
        let base = mm::mmap(ptr::null_mut(), SIZE, protection, MapFlags::SHARED, &fd, 0).unwrap();
        drop(fd);
        touch(base.cast(), SIZE);
        mm::munmap(base, SIZE).unwrap();
    }
}

fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(101);
    let name = format!("shmem-bind-bench-{}", std::process::id());
    let bare_path = format!("/dev/shm/{name}-bare");

    compare(
        "create 64 KiB, touch each page, drop",
        rounds,
        vec![
            Contestant::new("bare system calls", || {
                bare(&bare_path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, true);
                fs::unlink(&bare_path).unwrap();
            }),
            Contestant::new("shmem-bind", || {
                let segment = Builder::new(&name).with_size(SIZE).create().unwrap();
                // SAFETY: the segment is new, and zeros are a valid value.
                let mut value = unsafe { segment.boxed::<[u8; SIZE]>() };
                // SAFETY: the value is all ours.
                unsafe { touch(value.as_mut_ptr(), SIZE) };
            }),
        ],
    );

    let segment = Builder::new(&name).with_size(SIZE).create().unwrap();
    // SAFETY: the segment is new, and zeros are a valid value.
    let _owner = unsafe { segment.boxed::<[u8; SIZE]>() };
    let file = fs::open(&bare_path, OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR).unwrap();
    fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE as u64).unwrap();
    compare(
        "attach 64 KiB, touch each page, drop",
        rounds,
        vec![
            Contestant::new("bare system calls", || bare(&bare_path, OFlags::RDWR, false)),
            Contestant::new("shmem-bind", || {
                let segment = Builder::new(&name).attach().unwrap();
                // SAFETY: zeros and ones are a valid value, and the owner does not use it.
                let mut value: ShmemBox<[u8; SIZE]> = unsafe { segment.boxed() };
                // SAFETY: as above.
                unsafe { touch(value.as_mut_ptr(), SIZE) };
            }),
        ],
    );
    fs::unlink(&bare_path).unwrap();
}
