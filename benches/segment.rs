//! What a segment's life costs beside the bare system calls that create, map and remove the same memory
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench segment [-- ROUNDS FILTER]`
//!
//! 64 KiB are created under a name in `/dev/shm`, a byte is written to each page, and they are removed; or memory that is
//! there already is opened, written to in the same way, and closed.
//!
//! | contestant | what it does |
//! |---|---|
//! | bare system calls | `open`, `fallocate`, `mmap`, `close`, `munmap`, `unlink`, and nothing else |
//! | bare, read first | the same, and a byte is read before: where there are pages, the kernel maps those around it too |
//! | shmem-bind | `create` or `attach`, a box, and its drop; it takes the memory at once, like the bare calls |
//! | Boost managed | `managed_shared_memory` with a buffer of 64 KiB from its allocator; whoever opens it knows where that is |
//! | Boost plain | `shared_memory_object` and `mapped_region`: no allocator, no header |
//! | shared_memory | `ShmemConf` with an `os_id`: no header; it takes the memory page by page |
//! | release 0.1.3 | `open`, a box, and its drop; as `shared_memory` |

use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::mm::{self, MapFlags, ProtFlags};
use shared_memory::ShmemConf;
use shmem_bind::{Builder, ShmemBox};
use shmem_bind_benches::{Comparison, Report, Scratch};
use std::path::Path;
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
        let byte = unsafe { base.add(offset) };
        // SAFETY: as above.
        unsafe { byte.write_volatile(1) };
    }
}

/// Opens, perhaps sizes, maps, perhaps reads, touches, unmaps; and nothing else.
fn bare(path: &str, flags: OFlags, reserve: bool, read: bool) {
    let fd = fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap();
    if reserve {
        fs::fallocate(&fd, FallocateFlags::empty(), 0, SIZE as u64).unwrap();
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping.
    let base = unsafe { mm::mmap(ptr::null_mut(), SIZE, protection, MapFlags::SHARED, &fd, 0) }.unwrap();
    drop(fd);
    if read {
        // SAFETY: mapped just now, by this function alone.
        unsafe { base.cast::<u8>().read_volatile() };
    }
    // SAFETY: mapped just now, by this function alone.
    unsafe { touch(base.cast(), SIZE) };
    // SAFETY: it is not used after.
    unsafe { mm::munmap(base, SIZE) }.unwrap();
}

/// Touches what a segment of this crate has.
fn touch_value(mut value: ShmemBox<[u8; SIZE]>) {
    // SAFETY: the value is all ours.
    unsafe { touch(value.as_mut_ptr(), SIZE) };
}

fn touch_other(mapping: &shared_memory::Shmem) {
    // SAFETY: a mapping of so many bytes, which nobody else uses now.
    unsafe { touch(mapping.as_ptr(), SIZE) };
}

/// Opens or creates with 0.1.3, and touches. Its names need the zero at the end that it forgets.
fn old(name: &str) {
    let size = i64::try_from(SIZE).unwrap();
    let segment = shmem_bind_old::Builder::new(name).with_size(size).open().unwrap();
    // SAFETY: zeros and ones are a valid value, and nobody else uses it now.
    let mut value = unsafe { segment.boxed::<[u8; SIZE]>() };
    // SAFETY: as above.
    unsafe { touch(value.as_mut_ptr(), SIZE) };
}

#[cfg(boost)]
mod boost {
    use super::{PAGE, SIZE};
    use std::ffi::{CStr, c_char, c_int};

    unsafe extern "C" {
        fn boost_managed_create(name: *const c_char, len: usize, handle: *mut usize) -> c_int;
        fn boost_managed_open(name: *const c_char, len: usize, handle: usize) -> c_int;
        fn boost_plain_create(name: *const c_char, len: usize) -> c_int;
        fn boost_plain_open(name: *const c_char, len: usize) -> c_int;
        fn boost_segment_remove(name: *const c_char) -> c_int;
    }

    fn expect_touched(pages: c_int) {
        assert_eq!(usize::try_from(pages), Ok(SIZE / PAGE), "Boost has failed");
    }

    /// Gives where the buffer is.
    pub fn managed_create(name: &CStr) -> usize {
        let mut handle = 0;
        // SAFETY: a string with a zero at its end, and a place for a number.
        expect_touched(unsafe { boost_managed_create(name.as_ptr(), SIZE, &raw mut handle) });
        handle
    }

    pub fn managed_open(name: &CStr, handle: usize) {
        // SAFETY: as above; the handle is of a buffer of that size in the segment.
        expect_touched(unsafe { boost_managed_open(name.as_ptr(), SIZE, handle) });
    }

    pub fn plain_create(name: &CStr) {
        // SAFETY: as above.
        expect_touched(unsafe { boost_plain_create(name.as_ptr(), SIZE) });
    }

    pub fn plain_open(name: &CStr) {
        // SAFETY: as above; the object has been created with that size.
        expect_touched(unsafe { boost_plain_open(name.as_ptr(), SIZE) });
    }

    pub fn remove(name: &CStr) {
        // SAFETY: as above.
        assert_eq!(unsafe { boost_segment_remove(name.as_ptr()) }, 0);
    }
}

fn create(report: &mut Report, scratch: &Scratch) {
    let title = "create 64 KiB, touch each page, drop";
    let path = scratch.path("bare");
    let (name, id, old_name) = (scratch.name("new"), scratch.name("other"), scratch.name("old\0"));
    let comparison = Comparison::new(title)
        .with("bare system calls", || {
            bare(&path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, true, false);
            fs::unlink(&path).unwrap();
        })
        .with("shmem-bind", || {
            let segment = Builder::new(&name).with_size(SIZE).create().unwrap();
            // SAFETY: the segment is new, and zeros are a valid value.
            touch_value(unsafe { segment.boxed() });
        })
        .with("shared_memory", || {
            touch_other(&ShmemConf::new().size(SIZE).os_id(&id).create().unwrap());
        })
        .with("release 0.1.3", || old(&old_name));
    #[cfg(boost)]
    let name = std::ffi::CString::new(scratch.name("boost")).unwrap();
    #[cfg(boost)]
    let comparison = comparison
        .with("Boost managed", || {
            boost::managed_create(&name);
            boost::remove(&name);
        })
        .with("Boost plain", || {
            boost::plain_create(&name);
            boost::remove(&name);
        });
    report.compare(comparison.goal("shmem-bind", 1.5, &["bare system calls"]).goal(
        "shmem-bind",
        1.0,
        &["Boost managed"],
    ));
    // Each of them has removed what it made.
    for what in ["bare", "new", "other", "old", "boost"] {
        assert!(!Path::new(&scratch.path(what)).exists(), "{what} is still there");
    }
}

fn attach(report: &mut Report, scratch: &Scratch) {
    let title = "attach 64 KiB, touch each page, drop";
    if !report.wants(title) {
        return;
    }
    let path = scratch.path("bare");
    let (name, id, old_name) = (scratch.name("new"), scratch.name("other"), scratch.name("old\0"));

    let file = fs::open(&path, OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR).unwrap();
    fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE as u64).unwrap();
    let segment = Builder::new(&name).with_size(SIZE).create().unwrap();
    // SAFETY: the segment is new, and zeros are a valid value.
    let owner = unsafe { segment.boxed::<[u8; SIZE]>() };
    let other = ShmemConf::new().size(SIZE).os_id(&id).create().unwrap();
    touch_other(&other);
    let size = i64::try_from(SIZE).unwrap();
    let old_owner = shmem_bind_old::Builder::new(&old_name).with_size(size).open().unwrap();

    let comparison = Comparison::new(title)
        .with("bare system calls", || bare(&path, OFlags::RDWR, false, false))
        .with("bare, read first", || bare(&path, OFlags::RDWR, false, true))
        .with("shmem-bind", || {
            let segment = Builder::new(&name).attach().unwrap();
            // SAFETY: zeros and ones are a valid value, and the owner does not use it.
            touch_value(unsafe { segment.boxed() });
        })
        .with("shared_memory", || touch_other(&ShmemConf::new().os_id(&id).open().unwrap()))
        .with("release 0.1.3", || old(&old_name));
    #[cfg(boost)]
    let managed = std::ffi::CString::new(scratch.name("boost-managed")).unwrap();
    #[cfg(boost)]
    let plain = std::ffi::CString::new(scratch.name("boost-plain")).unwrap();
    #[cfg(boost)]
    let comparison = {
        let handle = boost::managed_create(&managed);
        boost::plain_create(&plain);
        let managed = &managed;
        comparison
            .with("Boost managed", move || boost::managed_open(managed, handle))
            .with("Boost plain", || boost::plain_open(&plain))
    };
    report.compare(comparison.goal("shmem-bind", 2.0, &["bare system calls", "bare, read first"]).goal(
        "shmem-bind",
        1.0,
        &["Boost managed"],
    ));
    // What was touched is what the owners see.
    assert!(owner.iter().step_by(PAGE).all(|byte| *byte == 1));
    assert_eq!(ShmemBox::conf(&owner).attachment_count(), 1);
    // SAFETY: nobody writes to it any more.
    assert!(unsafe { other.as_slice() }.iter().step_by(PAGE).all(|byte| *byte == 1));
    drop(old_owner);
    fs::unlink(&path).unwrap();
    #[cfg(boost)]
    for name in [managed, plain] {
        boost::remove(&name);
    }
}

fn main() {
    let scratch = Scratch::new();
    let mut report = Report::new("segment", 101);
    if !cfg!(boost) {
        println!("Boost.Interprocess does not take part: there were no headers when this was built");
    }
    create(&mut report, &scratch);
    attach(&mut report, &scratch);
    report.finish();
}
