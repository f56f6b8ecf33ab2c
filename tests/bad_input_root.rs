//! Other users' segments, and a `/dev/shm` that is too small, read-only or not there: what needs root to be
//! arranged
#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

mod alone;
mod common;

use alone::root::{NOBODY, become_nobody, mount_private};
use alone::{LONG, Unchanged, Way, each_way, refused};
use common::{Child, Parent, TestName};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;
use shmem_bind::{ArenaError, Builder, Errno, Origin, ReservePolicy, ShmemBox, ShmemError, Tlsf};

const KIB: u64 = 1 << 10;

alone::tests! {
    #[ignore = "needs root"] root_a_full_file_system_is_no_space
    #[ignore = "needs root"] root_an_arena_that_finds_no_space_to_grow_stays_as_it_was
    #[ignore = "needs root"] root_a_file_system_without_inodes_is_no_space
    #[ignore = "needs root"] root_a_read_only_file_system_is_for_readers
    #[ignore = "needs root"] root_without_dev_shm_nothing_is_created
    #[ignore = "needs root"] root_a_foreign_segment_is_refused_unless_named
    #[ignore = "needs root"] root_a_private_segment_is_refused_to_strangers
    #[ignore = "needs root"] root_an_unlink_without_permission_changes_nothing
    #[ignore = "needs root"] root_an_owner_without_permission_leaves_an_orphan
    #[ignore = "needs root"] root_an_overlay_is_refused
    ;
    foreign_owner stranger would_be_administrator powerless_owner
}

fn blocks_free() -> u64 {
    statvfs("/dev/shm").unwrap().blocks_free()
}

fn root_a_full_file_system_is_no_space() {
    mount_private("/dev/shm", "size=1m,mode=1777");
    let name = TestName::new("full-file-system");
    let (unchanged, free) = (Unchanged::snapshot(), blocks_free());
    let sized = |size: u64| Builder::new(&name).reserve_policy(ReservePolicy::Now).with_size(size);
    // More than the header's page, than what is asked before reserving, and than can be counted in pages.
    for asked in [KIB * KIB, 2 * KIB * KIB, 64 * KIB * KIB, 1 << 60] {
        for result in [sized(asked).create(), sized(asked).open()] {
            let keywords = [&*asked.to_string(), "/dev/shm"];
            refused(result, ShmemError::NoSpace { asked }, &keywords, &asked.to_string());
            unchanged.check(&asked.to_string());
            assert_eq!(blocks_free(), free);
        }
    }
    let half = sized(512 * KIB).create().unwrap();
    drop(half);
    // Not even room for a header.
    std::fs::write("/dev/shm/full", vec![1; (KIB * KIB) as usize]).unwrap();
    for reserve in [ReservePolicy::Now, ReservePolicy::Lazy] {
        let result = Builder::new(&name).reserve_policy(reserve).with_size(1).create();
        refused(result, ShmemError::NoSpace { asked: 1 }, &[], "full");
        unchanged.check("full");
    }
    std::fs::remove_file("/dev/shm/full").unwrap();
    assert_eq!(blocks_free(), free);
    drop(sized(512 * KIB).open().unwrap());
    unchanged.check("in the end");
}

fn root_an_arena_that_finds_no_space_to_grow_stays_as_it_was() {
    mount_private("/dev/shm", "size=1m,mode=1777");
    let name = TestName::new("no-space-to-grow");
    let segment = Builder::new(&name).with_size(64 * KIB).max_size(16 * KIB * KIB).create().unwrap();
    let arena = segment.arena::<Tlsf>().unwrap();
    let kept = arena.alloc_slice(40_000, 7_u8).unwrap();
    let (free, usage) = (blocks_free(), arena.usage().unwrap());
    for asked in [2 * KIB * KIB, 16 * KIB * KIB] {
        assert_eq!(arena.grow(asked as usize).unwrap_err(), ArenaError::NoSpace { asked });
        assert_eq!((blocks_free(), arena.usage().unwrap()), (free, usage));
        arena.check().unwrap();
    }
    arena.grow(512 * KIB as usize).unwrap();
    assert_eq!(arena.alloc_slice(400_000, 8_u8).unwrap().len(), 400_000);
    assert_eq!(kept.iter().filter(|byte| **byte == 7).count(), 40_000);
    arena.check().unwrap();
    // An arena that cannot even start leaves the segment to others.
    drop((kept, arena));
    let sparse = Builder::new(&name).with_size(8 * KIB).max_size(64 * KIB * KIB).create().unwrap();
    std::fs::write("/dev/shm/full", vec![1; (blocks_free() * 4 * KIB) as usize]).unwrap();
    assert_eq!(blocks_free(), 0);
    assert!(matches!(sparse.arena::<Tlsf>(), Err(ArenaError::NoSpace { .. })));
    std::fs::remove_file("/dev/shm/full").unwrap();
}

fn root_a_file_system_without_inodes_is_no_space() {
    mount_private("/dev/shm", "size=1m,nr_inodes=2,mode=1777");
    let (name, other) = (TestName::new("no-inodes"), TestName::new("no-inodes-left"));
    let segment = Builder::new(&name).with_size(8).create().unwrap();
    let unchanged = Unchanged::snapshot();
    for way in [Way::Open, Way::Create] {
        let result = way.go(Builder::new(&other), 100);
        refused(result, ShmemError::NoSpace { asked: 100 }, &["100 bytes"], &format!("{way:?}"));
    }
    unchanged.check("no inodes");
    drop(segment);
    drop(Builder::new(&other).with_size(100).open().unwrap());
}

fn root_a_read_only_file_system_is_for_readers() {
    mount_private("/dev/shm", "mode=1777");
    let (name, other) = (TestName::new("read-only-mount"), TestName::new("read-only-mount-other"));
    ShmemBox::leak(unsafe { Builder::new(&name).with_size(8).create().unwrap().boxed::<u64>() });
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/dev/shm", None::<&str>, remount, None::<&str>).unwrap();
    let unchanged = Unchanged::snapshot();
    let error = ShmemError::Os { call: "open", errno: Errno::ROFS };
    for way in [Way::Open, Way::Create, Way::Attach] {
        refused(way.go(Builder::new(&name), 8), error, &["open", "Read-only"], &format!("{way:?}"));
    }
    refused(Builder::new(&other).with_size(8).create(), error, &[], "new");
    refused(shmem_bind::unlink(&name), error, &[], "unlink");
    let seen = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<u64>() }.unwrap();
    assert_eq!(*seen, 0);
    drop(seen);
    unchanged.check("read-only");
}

fn root_without_dev_shm_nothing_is_created() {
    mount_private("/dev", "mode=755");
    let name = TestName::new("no-dev-shm");
    for way in [Way::Open, Way::Create] {
        // To be told to give a size would not help somebody who did.
        let error = ShmemError::Os { call: "open", errno: Errno::NOENT };
        refused(way.go(Builder::new(&name), 8), error, &["open", "No such file"], &format!("{way:?}"));
    }
    for way in [Way::Attach, Way::AttachReadOnly] {
        refused(way.go(Builder::new(&name), 8), ShmemError::NotFound, &[], &format!("{way:?}"));
    }
    // Segments without a name do not need it.
    drop(Builder::memfd().create(8).unwrap());
}

/// Has a segment that everybody may use.
fn foreign_owner(parent: &mut Parent) {
    become_nobody();
    let segment = Builder::new(parent.argument(0)).mode(0o666).with_size(8).create().unwrap();
    parent.say("created");
    parent.await_line("leave");
    assert_eq!(segment.attachment_count(), 1);
}

fn root_a_foreign_segment_is_refused_unless_named() {
    let name = TestName::new("foreign");
    let mut owner = Child::spawn("foreign_owner", &[&name]);
    owner.expect("created");
    let unchanged = Unchanged::snapshot();
    for (builder, expected, keywords) in [
        (Builder::new(&name), 0, ["user 65534", "user 0"]),
        (Builder::new(&name).mode(0o666), 0, ["user 65534", "Builder::uid"]),
        (Builder::new(&name).mode(0o666).uid(1234), 1234, ["user 65534", "user 1234"]),
    ] {
        for (way, result) in each_way(&builder.timeout(LONG), 8) {
            let error = ShmemError::ForeignUser { uid: NOBODY, expected };
            refused(result, error, &keywords, &format!("{way:?}"));
        }
    }
    let permissive = ShmemError::Permissive { mode: 0o666, allowed: 0o600 };
    for (way, result) in each_way(&Builder::new(&name).uid(NOBODY), 8) {
        refused(result, permissive, &["0666", "0600"], &format!("{way:?}"));
    }
    let named = || Builder::new(&name).uid(NOBODY).mode(0o666);
    refused(named().with_size(8).create(), ShmemError::AlreadyExists, &[], "create");
    refused(named().with_size(9).open(), ShmemError::TooSmall { payload: 8, asked: 9 }, &[], "open");
    unchanged.check("foreign");
    for (way, count) in [(Way::Open, 2), (Way::Attach, 2), (Way::AttachReadOnly, 1)] {
        let segment = way.go(named(), 8).unwrap();
        assert_eq!((segment.attachment_count(), segment.is_owner()), (count, false), "{way:?}");
    }
    owner.say("leave");
    owner.finish();
    assert!(!name.exists());
}

/// Asks in every way for a segment that it may not even read.
fn stranger(parent: &mut Parent) {
    become_nobody();
    let unchanged = Unchanged::snapshot();
    let error = ShmemError::Os { call: "open", errno: Errno::ACCESS };
    for builder in [Builder::new(parent.argument(0)), Builder::new(parent.argument(0)).mode(0o777).uid(0)] {
        for (way, result) in each_way(&builder.timeout(LONG), 8) {
            refused(result, error, &["open", "Permission denied"], &format!("{way:?}"));
        }
    }
    refused(shmem_bind::unlink(parent.argument(0)), error, &[], "unlink");
    unchanged.check("stranger");
    parent.say(alone::DONE);
}

fn root_a_private_segment_is_refused_to_strangers() {
    let name = TestName::new("private");
    let segment = Builder::new(&name).with_size(8).create().unwrap();
    let unchanged = Unchanged::snapshot();
    let child = Child::spawn("stranger", &[&name]);
    child.expect(alone::DONE);
    child.finish();
    unchanged.check_files("private");
    assert_eq!((segment.attachment_count(), segment.is_linked()), (1, true));
}

/// May write to the segment, but not remove its name from a directory with the sticky bit.
fn would_be_administrator(parent: &mut Parent) {
    become_nobody();
    let unchanged = Unchanged::snapshot();
    let error = ShmemError::Os { call: "unlink", errno: Errno::PERM };
    refused(shmem_bind::unlink(parent.argument(0)), error, &["unlink", "not permitted"], "unlink");
    unchanged.check("would-be administrator");
    parent.say(alone::DONE);
}

fn root_an_unlink_without_permission_changes_nothing() {
    let name = TestName::new("sticky");
    let owner = Builder::new(&name).mode(0o666).with_size(8).create().unwrap();
    let child = Child::spawn("would_be_administrator", &[&name]);
    child.expect(alone::DONE);
    child.finish();
    assert!(name.exists() && owner.is_linked(), "an unlink that failed has retired the segment");
    let other = Builder::new(&name).mode(0o666).attach().unwrap();
    assert_eq!((other.segment_id(), owner.attachment_count()), (owner.segment_id(), 2));
    assert!(owner.is_owner());
}

/// Opens and owns the segment, and leaves; the name is not its to remove.
fn powerless_owner(parent: &mut Parent) {
    become_nobody();
    let segment = Builder::new(parent.argument(0)).mode(0o666).uid(0).with_size(8).open().unwrap();
    segment.try_own().unwrap();
    drop(segment);
    parent.say(alone::DONE);
}

fn root_an_owner_without_permission_leaves_an_orphan() {
    let name = TestName::new("powerless");
    let mut value = unsafe { Builder::new(&name).mode(0o666).with_size(8).create().unwrap().boxed::<u64>() };
    *value = 7;
    let id = ShmemBox::conf(&value).segment_id();
    ShmemBox::leak(value);
    for times in 1..=2 {
        let child = Child::spawn("powerless_owner", &[&name]);
        child.expect(alone::DONE);
        child.finish();
        let seen = Builder::new(&name).mode(0o666).attach_read_only().unwrap();
        assert!(seen.is_linked(), "nobody can open it any more");
        assert_eq!((seen.owner_pid(), seen.statistics().unlink_failures), (None, times));
    }
    // Who may remove the name adopts the segment, and does.
    let heir = Builder::new(&name).mode(0o666).with_size(8).open().unwrap();
    assert_eq!((heir.segment_id(), heir.origin()), (id, Origin::Adopted));
    assert_eq!(unsafe { *heir.boxed::<u64>() }, 7);
    assert!(!name.exists());
}

/// There, a lock ends although the mapping goes on: a second opener would take the first one for dead.
fn root_an_overlay_is_refused() {
    mount_private("/mnt", "mode=755");
    for directory in ["lower", "upper", "work"] {
        std::fs::create_dir(format!("/mnt/{directory}")).unwrap();
    }
    let layers = "lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work";
    mount(Some("overlay"), "/dev/shm", Some("overlay"), MsFlags::empty(), Some(layers)).unwrap();
    let name = TestName::new("overlay");
    for (way, result) in each_way(&Builder::new(&name), 8) {
        match way {
            Way::AttachReadOnly => refused(result, ShmemError::NotFound, &[], "overlay"),
            _ => refused(result, ShmemError::FileSystem, &["/dev/shm", "tmpfs"], "overlay"),
        }
    }
    assert!(!name.exists());
}
