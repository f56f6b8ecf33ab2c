//! Names, sizes, modes, types and moments that cannot be: each is refused by name, and nothing is left behind
#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

mod alone;
mod common;

use alone::{LONG, SHORT, Unchanged, Way, each_way, readable, refused};
use common::{Child, Parent, TestName};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use nix::sys::statvfs::statvfs;
use shmem_bind::{
    BoxError, Builder, HeaderError, MAX_ATTACHMENTS, NameError, OwnError, ReservePolicy, ShmemBox, ShmemConf,
    ShmemError, SizeError, UnlinkPolicy,
};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::Instant;

alone::tests! {
    a_name_that_cannot_be_is_refused_in_every_way
    a_name_of_255_bytes_works
    a_size_that_cannot_be_is_refused_for_both_sorts
    every_integer_is_a_size
    more_than_dev_shm_holds_is_refused_at_once
    more_than_the_address_space_holds_is_refused
    a_smaller_segment_is_refused_and_a_larger_one_is_not
    a_wider_mode_than_asked_for_is_refused
    the_umask_does_not_narrow_the_mode
    a_type_that_does_not_fit_is_refused
    the_first_box_fixes_the_type
    boxed_panics_with_the_message_and_detaches
    a_read_only_handle_reads_and_nothing_else
    what_does_not_exist_is_not_found
    what_exists_is_not_created
    the_57th_attachment_is_refused
    an_administrator_needs_a_free_attachment_too
    a_locked_segment_is_busy
    a_segment_without_a_name_has_no_owner
    a_header_damaged_in_use_is_refused
    ;
    lock_holder
}

/// Locks a file exclusively, creating it if need be, until its parent has had enough.
fn lock_holder(parent: &mut Parent) {
    let path = common::path_of(parent.argument(0));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).mode(0o600).open(path).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    parent.say("locked");
    parent.await_line("unlock");
    drop(lock);
}

fn segment(name: &str, size: usize) -> ShmemConf {
    Builder::new(name).with_size(size).create().unwrap()
}

fn a_name_that_cannot_be_is_refused_in_every_way() {
    let (long, longer) = ("x".repeat(256), format!("/{}", "x".repeat(4096)));
    let cases: &[(&str, NameError, &str)] = &[
        ("", NameError::Empty, "empty"),
        ("/", NameError::Empty, "empty"),
        (".", NameError::Dots, "\"..\""),
        ("..", NameError::Dots, "\"..\""),
        ("/..", NameError::Dots, "\"..\""),
        ("a/b", NameError::Slash, "slash"),
        ("a/", NameError::Slash, "slash"),
        ("../a", NameError::Slash, "slash"),
        ("//a", NameError::Slash, "slash"),
        ("//", NameError::Slash, "slash"),
        ("a\0b", NameError::Nul, "NUL"),
        ("\0", NameError::Nul, "NUL"),
        (&long, NameError::TooLong { len: 256 }, "256"),
        (&longer, NameError::TooLong { len: 4096 }, "4096"),
    ];
    let unchanged = Unchanged::snapshot();
    for &(name, error, keyword) in cases {
        for (way, result) in each_way(&Builder::new(name), 8) {
            refused(result, error.into(), &[keyword, "name"], &format!("{way:?} {name:?}"));
        }
        refused(shmem_bind::unlink(name), error.into(), &[], &format!("unlink {name:?}"));
    }
    unchanged.check("bad names");
}

fn a_name_of_255_bytes_works() {
    // `TestName` is the short part, so that what is left by a failure is found by its beginning.
    let short = TestName::new("longest-");
    let name = format!("{}{}", &*short, "x".repeat(255 - short.len()));
    let segment = segment(&format!("/{name}"), 8);
    assert_eq!(segment.name(), Some(&*name));
    assert!(common::path_of(&name).exists());
    assert_eq!(Builder::new(&name).attach().unwrap().segment_id(), segment.segment_id());
    drop(segment);
    assert!(!common::path_of(&name).exists());
}

fn a_size_that_cannot_be_is_refused_for_both_sorts() {
    let name = TestName::new("sizes");
    let SizeError::TooLarge { max } = size_error(Builder::new(&name).with_size(u128::MAX).open()) else {
        panic!("u128::MAX is too large");
    };
    assert!(max < isize::MAX as u64 && max > isize::MAX as u64 - (1 << 16), "{max}");
    let too_large = SizeError::TooLarge { max };
    let unchanged = Unchanged::snapshot();
    macro_rules! refuse {
        ($($size:expr => $error:expr, $keywords:expr;)*) => {$(
            let context = stringify!($size);
            let sized = || Builder::new(&name).with_size($size);
            refused(sized().open(), $error.into(), $keywords, context);
            refused(sized().create(), $error.into(), $keywords, context);
            refused(Builder::memfd().create($size), $error.into(), $keywords, context);
            // The size does not matter to those who attach.
            refused(sized().attach(), ShmemError::NotFound, &[], context);
        )*};
    }
    refuse! {
        0 => SizeError::Zero, &["no bytes", "at least one"];
        0_u128 => SizeError::Zero, &[];
        -1_i8 => SizeError::Negative { asked: -1 }, &["-1 bytes"];
        i64::MIN => SizeError::Negative { asked: i64::MIN.into() }, &["-9223372036854775808"];
        i128::MIN => SizeError::Negative { asked: i128::MIN }, &[];
        i128::MAX => too_large, &[];
        u128::MAX => too_large, &["address space", &max.to_string()];
        u64::MAX => too_large, &[];
        usize::MAX => too_large, &[];
        isize::MAX => too_large, &[];
        max + 1 => too_large, &[];
    }
    unchanged.check("bad sizes");
}

fn size_error<T: std::fmt::Debug>(result: Result<T, ShmemError>) -> SizeError {
    match result {
        Err(ShmemError::Size(error)) => error,
        other => panic!("no error of the size but {other:?}"),
    }
}

fn every_integer_is_a_size() {
    let name = TestName::new("integers");
    macro_rules! create {
        ($($integer:ty)*) => {$({
            let segment = Builder::new(&name).with_size(100 as $integer).create().unwrap();
            assert_eq!(segment.payload_size(), 100);
            let (segment, _fd) = Builder::memfd().create(100 as $integer).unwrap();
            assert_eq!(segment.payload_size(), 100);
        })*};
    }
    create!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);
}

fn more_than_dev_shm_holds_is_refused_at_once() {
    let name = TestName::new("capacity");
    let capacity = statvfs("/dev/shm").unwrap();
    if capacity.blocks() == 0 {
        return; // No limit, nothing to exceed.
    }
    alone::end_before_memory_does();
    // The types of these differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let page = capacity.fragment_size() as u64;
    #[allow(clippy::unnecessary_cast)]
    let asked = capacity.blocks() as u64 * page + page;
    let unchanged = Unchanged::snapshot();
    #[allow(clippy::unnecessary_cast)]
    let free = || statvfs("/dev/shm").unwrap().blocks_available() as u64 * page;
    let before = free();
    for way in [Way::Open, Way::Create] {
        let keywords = [&*asked.to_string(), "/dev/shm"];
        refused(way.go(Builder::new(&name), asked), ShmemError::NoSpace { asked }, &keywords, "capacity");
        unchanged.check("capacity");
    }
    // Others use /dev/shm meanwhile, but hardly half of it.
    assert!(free() > before / 2);
}

fn more_than_the_address_space_holds_is_refused() {
    let name = TestName::new("address-space");
    let SizeError::TooLarge { max } = size_error(Builder::memfd().create(u64::MAX)) else {
        panic!("u64::MAX is too large");
    };
    let unchanged = Unchanged::snapshot();
    // The largest size that is a size: no machine has the addresses for it.
    let lazy = Builder::new(&name).reserve_policy(ReservePolicy::Lazy).with_size(max);
    refused(lazy.create(), ShmemError::NoSpace { asked: max }, &[&max.to_string()], "lazy");
    unchanged.check("lazy");
}

fn a_smaller_segment_is_refused_and_a_larger_one_is_not() {
    let name = TestName::new("too-small");
    let owner = segment(&name, 1000);
    let unchanged = Unchanged::snapshot();
    for asked in [1001, 1 << 40] {
        let error = ShmemError::TooSmall { payload: 1000, asked };
        let keywords = ["1000", &*asked.to_string()];
        refused(Builder::new(&name).with_size(asked).open(), error, &keywords, "smaller");
        unchanged.check("smaller");
        assert_eq!(owner.attachment_count(), 1);
    }
    for asked in [1, 999, 1000] {
        let other = Builder::new(&name).with_size(asked).open().unwrap();
        assert_eq!((other.payload_size(), owner.attachment_count()), (1000, 2));
    }
    // Also if nobody is attached.
    owner.leak();
    let unchanged = Unchanged::snapshot();
    let error = ShmemError::TooSmall { payload: 1000, asked: 1001 };
    refused(Builder::new(&name).with_size(1001).open(), error, &[], "leaked");
    unchanged.check("leaked");
}

fn a_wider_mode_than_asked_for_is_refused() {
    for (mode, allowed, keywords) in
        [(0o640, 0o600, ["0640", "0600"]), (0o666, 0o644, ["0666", "0644"]), (0o601, 0o660, ["0601", "0660"])]
    {
        let name = TestName::new("permissive");
        let owner = Builder::new(&name).mode(mode).with_size(8).create().unwrap();
        let unchanged = Unchanged::snapshot();
        for (way, result) in each_way(&Builder::new(&name).mode(allowed), 8) {
            refused(result, ShmemError::Permissive { mode, allowed }, &keywords, &format!("{way:?}"));
        }
        unchanged.check(keywords[0]);
        assert_eq!(owner.attachment_count(), 1);
        for way in [Way::Open, Way::Attach, Way::AttachReadOnly] {
            for enough in [mode, 0o777] {
                way.go(Builder::new(&name).mode(enough), 8).unwrap();
            }
        }
        // For an administrator the mode does not matter.
        shmem_bind::unlink(&name).unwrap();
        assert!(!name.exists());
    }
}

fn the_umask_does_not_narrow_the_mode() {
    for mask in [0o077, 0o777, 0] {
        for mode in [0o600, 0o640, 0o666] {
            umask(Mode::from_bits_truncate(mask));
            let name = TestName::new("umask");
            let owner = Builder::new(&name).mode(mode).with_size(8).create().unwrap();
            assert_eq!(name.path().metadata().unwrap().mode() & 0o7777, mode);
            // Of the mode only permissions count.
            assert_eq!(Builder::new(&name).mode(mode | 0o7000).attach().unwrap().payload_size(), 8);
            drop(owner);
            umask(Mode::from_bits_truncate(0o022));
        }
    }
}

#[repr(align(8192))]
#[derive(Debug)]
struct OverAligned(#[allow(dead_code)] u8);

/// Tries to box an attachment of its own, and checks the error, its message and that it detached.
#[track_caller]
fn box_refused<T: std::fmt::Debug>(owner: &ShmemConf, error: BoxError, keywords: &[&str]) {
    let attach = || Builder::new(owner.name().unwrap()).attach().unwrap();
    let count = owner.attachment_count();
    assert_eq!(unsafe { attach().try_boxed::<T>() }.unwrap_err(), error);
    assert_eq!(unsafe { attach().read_ref::<T>() }.unwrap_err(), error);
    assert_eq!(owner.attachment_count(), count);
    readable(&error, keywords);
}

fn a_type_that_does_not_fit_is_refused() {
    let name = TestName::new("types");
    let owner = segment(&name, 16);
    let unchanged = Unchanged::snapshot();
    box_refused::<[u64; 3]>(&owner, BoxError::TooLarge { size: 24, payload: 16 }, &["24", "16"]);
    let over_aligned = BoxError::OverAligned { align: 8192, max: 4096 };
    box_refused::<OverAligned>(&owner, over_aligned, &["8192", "4096", "align"]);
    unchanged.check_resources("types");
    // These attempts have said nothing about what the payload is.
    let boxed = unsafe { owner.try_boxed::<u128>() }.unwrap();
    assert_eq!(*boxed, 0);
}

fn the_first_box_fixes_the_type() {
    let name = TestName::new("mismatch");
    let owner = segment(&name, 64);
    let boxed = unsafe { Builder::new(&name).attach().unwrap().try_boxed::<u64>() }.unwrap();
    let mismatch =
        |asked_size, asked_align| BoxError::Mismatch { size: 8, align: 8, asked_size, asked_align };
    box_refused::<u32>(&owner, mismatch(4, 4), &["8 bytes", "4 bytes"]);
    box_refused::<[u8; 8]>(&owner, mismatch(8, 1), &["8 bytes", "aligned to 1"]);
    box_refused::<[u64; 2]>(&owner, mismatch(16, 8), &["16 bytes"]);
    box_refused::<()>(&owner, mismatch(0, 1), &["0 bytes"]);
    assert_eq!(
        unsafe { Builder::new(&name).attach().unwrap().try_boxed::<i64>() }.map(|boxed| *boxed),
        Ok(0)
    );
    // It stays fixed when the box is gone.
    drop(boxed);
    box_refused::<u32>(&owner, mismatch(4, 4), &[]);
}

fn boxed_panics_with_the_message_and_detaches() {
    let name = TestName::new("panic");
    let owner = segment(&name, 16);
    let attach = || Builder::new(&name).attach().unwrap();
    let unchanged = Unchanged::snapshot();
    let message = |boxing: &dyn Fn()| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(boxing)).unwrap_err();
        *panic.downcast::<String>().expect("a message")
    };
    std::panic::set_hook(Box::new(|_| ()));
    let messages = [
        message(&|| drop(unsafe { attach().boxed::<[u64; 3]>() })),
        message(&|| drop(unsafe { attach().boxed::<OverAligned>() })),
        message(&|| drop(unsafe { Builder::new(&name).attach_read_only().unwrap().boxed::<u64>() })),
    ];
    drop(std::panic::take_hook());
    assert_eq!(
        messages,
        [
            BoxError::TooLarge { size: 24, payload: 16 }.to_string(),
            BoxError::OverAligned { align: 8192, max: 4096 }.to_string(),
            BoxError::ReadOnly.to_string(),
        ]
    );
    assert_eq!(owner.attachment_count(), 1);
    unchanged.check_resources("panics");
}

fn a_read_only_handle_reads_and_nothing_else() {
    let name = TestName::new("read-only");
    let mut value = unsafe { segment(&name, 8).boxed::<u64>() };
    *value = 42;
    let unchanged = Unchanged::snapshot();
    let observe = || Builder::new(&name).attach_read_only().unwrap();
    let observer = observe();
    assert!(observer.is_read_only() && !observer.is_owner());
    assert_eq!(observer.attachment_count(), 1);
    assert_eq!(observer.try_own().unwrap_err(), OwnError::ReadOnly);
    readable(&OwnError::ReadOnly, &["read-only"]);
    assert_eq!(unsafe { observer.try_boxed::<u64>() }.unwrap_err(), BoxError::ReadOnly);
    readable(&BoxError::ReadOnly, &["read-only", "read_ref"]);
    let mismatch = BoxError::Mismatch { size: 8, align: 8, asked_size: 1, asked_align: 1 };
    assert_eq!(unsafe { observe().read_ref::<u8>() }.unwrap_err(), mismatch);
    let seen = unsafe { observe().read_ref::<u64>() }.unwrap();
    assert_eq!(*seen, 42);
    drop(seen);
    observe().leak();
    assert_eq!(observe().sweep(), 0);
    // Not a bit of the segment is different.
    unchanged.check("read-only");
}

fn what_does_not_exist_is_not_found() {
    let name = TestName::new("absent");
    let unchanged = Unchanged::snapshot();
    for way in [Way::Attach, Way::AttachReadOnly] {
        let result = way.go(Builder::new(&name).timeout(LONG), 8);
        refused(result, ShmemError::NotFound, &["no segment has this name"], "absent");
    }
    refused(shmem_bind::unlink(&name), ShmemError::NotFound, &[], "absent");
    unchanged.check("absent");
    // Nor is what has been unlinked and is still attached.
    let owner = segment(&name, 8);
    let other = Builder::new(&name).attach().unwrap();
    drop(owner);
    let unchanged = Unchanged::snapshot();
    for way in [Way::Attach, Way::AttachReadOnly] {
        refused(way.go(Builder::new(&name), 8), ShmemError::NotFound, &[], "unlinked");
    }
    refused(shmem_bind::unlink(&name), ShmemError::NotFound, &[], "unlinked");
    unchanged.check("unlinked");
    assert_eq!((other.attachment_count(), other.is_linked()), (1, false));
}

fn what_exists_is_not_created() {
    let name = TestName::new("exists");
    let create = || Builder::new(&name).with_size(8).create();
    let owner = create().unwrap();
    let unchanged = Unchanged::snapshot();
    refused(create(), ShmemError::AlreadyExists, &["in use already"], "attached");
    unchanged.check("attached");
    owner.leak();
    let unchanged = Unchanged::snapshot();
    refused(create(), ShmemError::AlreadyExists, &[], "leaked");
    unchanged.check("leaked");
}

fn the_57th_attachment_is_refused() {
    let name = TestName::new("full");
    let open =
        || Builder::new(&name).unlink_policy(UnlinkPolicy::LastDetach).timeout(LONG).with_size(8).open();
    let mut handles: Vec<_> = (0..MAX_ATTACHMENTS).map(|_| open().unwrap()).collect();
    assert_eq!(handles.len(), 56);
    for freed in [0, 17, 54] {
        let unchanged = Unchanged::snapshot();
        for _ in 0..3 {
            refused(open(), ShmemError::Full, &["56", "detach"], "open");
            refused(Builder::new(&name).attach(), ShmemError::Full, &[], "attach");
            refused(Builder::new(&name).with_size(8).create(), ShmemError::AlreadyExists, &[], "create");
        }
        // Whoever only reads needs no place.
        assert_eq!(Builder::new(&name).attach_read_only().unwrap().attachment_count(), 56);
        unchanged.check("full");
        drop(handles.remove(freed));
        assert_eq!(handles[0].attachment_count(), 55);
        handles.push(open().unwrap());
    }
}

fn an_administrator_needs_a_free_attachment_too() {
    let name = TestName::new("full-unlinked");
    let open = || Builder::new(&name).with_size(8).open().unwrap();
    let mut handles: Vec<_> = (0..MAX_ATTACHMENTS).map(|_| open()).collect();
    assert_eq!(shmem_bind::unlink(&name), Err(ShmemError::Full));
    assert_eq!((handles[0].attachment_count(), handles[0].is_linked()), (56, true));
    handles.pop();
    shmem_bind::unlink(&name).unwrap();
    assert!(!name.exists());
    assert_eq!((handles[0].attachment_count(), handles[0].is_linked()), (55, false));
}

fn a_locked_segment_is_busy() {
    let name = TestName::new("busy");
    let owner = segment(&name, 8);
    owner.leak();
    let empty = TestName::new("busy-empty");
    for name in [&name, &empty] {
        let mut holder = Child::spawn("lock_holder", &[name]);
        holder.expect("locked");
        let unchanged = Unchanged::snapshot();
        for way in [Way::Open, Way::Create, Way::Attach] {
            let start = Instant::now();
            let result = way.go(Builder::new(name).timeout(SHORT), 8);
            refused(result, ShmemError::Busy, &["locked", "timeout"], &format!("{way:?}"));
            assert!(start.elapsed() >= SHORT && start.elapsed() < LONG);
            let at_once = way.go(Builder::new(name).timeout(std::time::Duration::ZERO), 8);
            refused(at_once, ShmemError::Busy, &[], &format!("{way:?} at once"));
        }
        unchanged.check("busy");
        // A reader waits for nobody.
        let read = Builder::new(name).timeout(SHORT).attach_read_only();
        assert_eq!(read.map(|conf| conf.payload_size()).ok(), (name.path() != empty.path()).then_some(8));
        holder.say("unlock");
        holder.finish();
        assert_eq!(Builder::new(name).with_size(8).open().unwrap().attachment_count(), 1);
    }
}

fn a_segment_without_a_name_has_no_owner() {
    let name = TestName::new("retired");
    let mut value = unsafe { segment(&name, 8).boxed::<u64>() };
    *value = 7;
    assert!(ShmemBox::conf(&value).is_owner());
    shmem_bind::unlink(&name).unwrap();
    let unchanged = Unchanged::snapshot();
    assert_eq!(ShmemBox::try_own(&value).unwrap_err(), OwnError::Retired);
    readable(&OwnError::Retired, &["name is gone"]);
    let value = ShmemBox::own(value);
    let conf = ShmemBox::conf(&value);
    assert_eq!((*value, conf.is_owner(), conf.is_linked(), conf.owner_pid()), (7, false, false, None));
    assert_eq!(conf.attachment_count(), 1);
    unchanged.check("retired");
    // The name is free, and the old segment does not take the new one along.
    let successor = segment(&name, 8);
    drop(value);
    assert!(name.exists() && successor.is_linked());
}

fn a_header_damaged_in_use_is_refused() {
    const MEMBERSHIP: u64 = 64;
    const PAYLOAD: u64 = 72;
    let name = TestName::new("damage");
    let owner = segment(&name, 8);
    let file = File::options().read(true).write(true).open(name.path()).unwrap();
    let put = |offset: u64, word: u64| {
        let mut before = [0; 8];
        file.read_exact_at(&mut before, offset).unwrap();
        file.write_all_at(&word.to_ne_bytes(), offset).unwrap();
        u64::from_ne_bytes(before)
    };
    let other = Builder::new(&name).attach().unwrap();
    let payload = put(PAYLOAD, 0x7777);
    let damaged = BoxError::Damaged { found: 0x7777 };
    assert_eq!(unsafe { other.try_boxed::<u64>() }.unwrap_err(), damaged);
    readable(&damaged, &["0x0000000000007777", "damaged"]);
    put(PAYLOAD, payload);
    assert_eq!(owner.attachment_count(), 1);

    let membership = put(MEMBERSHIP, !0);
    let unchanged = Unchanged::snapshot();
    assert_eq!(owner.try_own().unwrap_err(), OwnError::Damaged);
    readable(&OwnError::Damaged, &["damaged"]);
    let error = HeaderError::Membership { found: !0 };
    for (way, result) in each_way(&Builder::new(&name).timeout(LONG), 8) {
        refused(result, error.into(), &["0xffffffffffffffff"], &format!("{way:?}"));
    }
    unchanged.check("membership");
    put(MEMBERSHIP, membership);
    assert!(owner.is_owner());
}
