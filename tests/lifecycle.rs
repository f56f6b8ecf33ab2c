//! A segment's life among real processes that all leave in an orderly way
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::TestName;
use common::worker::{self, PANICS, Worker, boxed, builder, destroyed};
use shmem_bind::{
    BoxError, Builder, Origin, OrphanPolicy, OwnError, Payload, ShmemBox, ShmemError, UnlinkPolicy,
};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("work", worker::work)]);
}

#[test]
fn owner_leaves_and_the_others_go_on_without_a_name() {
    let name = TestName::new("owner-leaves");
    let mut value = boxed(builder(&name, "").open().unwrap());
    value.number = 1;
    let mut first = Worker::with_box(&name, "");
    let mut second = Worker::with_box(&name, "");
    assert_eq!(ShmemBox::conf(&value).attachment_count(), 3);
    assert_eq!(first.number("owner"), u64::from(std::process::id()));

    drop(value);
    assert!(!name.exists());
    assert_eq!(destroyed(), 0);
    assert_eq!(first.ask("owner"), "nobody");
    assert!(!first.is("is-linked"));
    assert_eq!(first.number("count"), 2);
    assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::NotFound);
    assert_eq!(second.ask("own"), format!("{:?}", OwnError::Retired));

    first.tell("set 7");
    assert_eq!(second.number("number"), 7);
    first.tell("drop");
    assert_eq!(first.number("destroyed"), 0);
    second.tell("drop");
    assert_eq!(second.number("destroyed"), 1);
    first.finish();
    second.finish();
}

#[test]
fn owner_drop_leaves_the_name_to_a_new_segment() {
    let name = TestName::new("successor");
    let value = boxed(builder(&name, "").open().unwrap());
    let id = ShmemBox::conf(&value).segment_id().to_string();
    let mut former = Worker::with_box(&name, "");
    drop(value);

    let mut latter = Worker::with_box(&name, "");
    assert!(latter.is("is-owner"));
    assert_ne!(latter.ask("id"), id);
    former.tell("set 1");
    assert_eq!(latter.number("number"), 0);
    former.tell("drop");
    assert_eq!(former.number("destroyed"), 1);
    assert!(name.exists() && latter.is("is-linked"));
    latter.tell("drop");
    assert_eq!(latter.number("destroyed"), 1);
    assert!(!name.exists());
}

#[test]
fn last_detach_keeps_the_name_until_nobody_is_attached() {
    let name = TestName::new("last-detach");
    let mut value = boxed(builder(&name, "last-detach").open().unwrap());
    value.number = 5;
    // The policy is the creator's, not the opener's.
    let mut other = Worker::with_box(&name, "never");
    drop(value);
    assert!(name.exists());
    assert_eq!(destroyed(), 0);
    assert_eq!(other.ask("owner"), "nobody");
    assert!(other.is("is-linked"));

    let mut late = Worker::with_box(&name, "");
    assert!(!late.is("is-owner"));
    other.tell("drop");
    assert!(name.exists());
    assert_eq!(late.number("number"), 5);
    late.tell("drop");
    assert!(!name.exists());
    assert_eq!((other.number("destroyed"), late.number("destroyed")), (0, 1));
}

#[test]
fn never_keeps_the_name_and_the_value() {
    let name = TestName::new("never");
    let mut value = boxed(builder(&name, "never").open().unwrap());
    value.number = 5;
    let mut other = Worker::with_box(&name, "");
    drop(value);
    other.tell("drop");
    assert!(name.exists());
    assert_eq!((destroyed(), other.number("destroyed")), (0, 0));

    other.tell("open");
    other.tell("box");
    assert_eq!(other.number("number"), 5);
    assert_eq!(other.number("count"), 1);
    assert_eq!(other.ask("owner"), "nobody");
    shmem_bind::unlink(&name).unwrap();
    assert!(!name.exists());
    other.tell("drop");
    assert_eq!(other.number("destroyed"), 1);
}

#[test]
fn a_bare_handle_that_is_last_out_destroys_nothing() {
    for (policy, last_is_owner) in [("", false), ("", true), ("last-detach", false)] {
        let name = TestName::new("bare");
        let mut first = Worker::with_box(&name, policy);
        let mut last = Worker::spawn(&name, policy);
        last.tell("open");
        if last_is_owner {
            last.tell("own");
        }
        first.tell("drop");
        last.tell("drop");
        assert!(!name.exists());
        assert_eq!((first.number("destroyed"), last.number("destroyed")), (0, 0));
    }
}

#[test]
fn own_moves_ownership_for_all_to_see() {
    let name = TestName::new("own");
    let mut creator = Worker::with_box(&name, "");
    let mut heir = Worker::with_box(&name, "");
    let mut witness = Worker::with_box(&name, "");
    let creator_pid = u64::from(creator.pid());
    let heir_pid = u64::from(heir.pid());
    for worker in [&mut creator, &mut heir, &mut witness] {
        assert_eq!(worker.number("owner"), creator_pid);
    }
    heir.tell("own");
    for worker in [&mut creator, &mut heir, &mut witness] {
        assert_eq!(worker.number("owner"), heir_pid);
    }
    assert!(heir.is("is-owner") && !creator.is("is-owner"));

    // The former owner's drop is that of anybody.
    creator.tell("drop");
    assert!(name.exists() && witness.is("is-linked"));
    heir.tell("drop");
    assert!(!name.exists() && !witness.is("is-linked"));
    witness.tell("drop");
    let destroyed = [&mut creator, &mut heir, &mut witness].map(|worker| worker.number("destroyed"));
    assert_eq!(destroyed, [0, 0, 1]);
}

#[test]
fn leaked_by_its_owner_a_segment_is_adopted_by_own_alone() {
    let name = TestName::new("leak");
    let mut owner = Worker::with_box(&name, "");
    let mut other = Worker::with_box(&name, "");
    owner.tell("set 3");
    owner.tell("leak");
    assert_eq!(other.ask("owner"), "nobody");
    assert_eq!(other.number("count"), 1);
    other.tell("drop");
    assert!(name.exists());

    // Nobody died, so an opener does not become the owner by itself.
    let conf = builder(&name, "").open().unwrap();
    assert_eq!((conf.is_owner(), conf.owner_pid(), conf.attachment_count()), (false, None, 1));
    let value = ShmemBox::own(boxed(conf));
    assert_eq!(value.number, 3);
    assert_eq!(ShmemBox::conf(&value).owner_pid(), Some(std::process::id()));
    assert_eq!(ShmemBox::conf(&value).statistics().adopted, 0);
    drop(value);
    assert!(!name.exists());
    assert_eq!((destroyed(), owner.number("destroyed"), other.number("destroyed")), (1, 0, 0));
}

#[test]
fn leaking_the_last_box_of_an_unnamed_segment_destroys_nothing() {
    let name = TestName::new("leak-retired");
    let value = boxed(builder(&name, "").open().unwrap());
    let mut other = Worker::with_box(&name, "");
    drop(value);
    other.tell("leak");
    assert_eq!((destroyed(), other.number("destroyed")), (0, 0));
    assert!(!name.exists());
}

#[test]
fn a_destructor_that_panics_detaches_all_the_same() {
    let name = TestName::new("panic");
    let is_mapped = || fs::read_to_string("/proc/self/maps").unwrap().contains(&*name);
    let mut value = boxed(builder(&name, "").open().unwrap());
    value.number = PANICS;
    assert!(is_mapped());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(value))).is_err());
    assert_eq!(destroyed(), 1);
    assert!(!name.exists() && !is_mapped());
    assert_eq!(shmem_bind::unlink(&name), Err(ShmemError::NotFound));

    // The same in another process, which is the last one out.
    let value = boxed(builder(&name, "").open().unwrap());
    assert_eq!(value.number, 0);
    let mut other = Worker::with_box(&name, "");
    other.tell(&format!("set {PANICS}"));
    drop(value);
    assert_eq!(other.ask("drop"), "panicked");
    assert_eq!((destroyed(), other.number("destroyed")), (1, 1));
    assert!(!name.exists());
    other.finish();
}

#[test]
fn a_handle_knows_how_it_came_to_its_segment() {
    let name = TestName::new("origin");
    let creator = builder(&name, "").open().unwrap();
    let attacher = builder(&name, "").open().unwrap();
    assert_eq!((creator.origin(), attacher.origin()), (Origin::Created, Origin::Attached));
    creator.leak();
    drop(attacher);
    assert_eq!(builder(&name, "").open().unwrap().origin(), Origin::Attached, "given up is not orphaned");
    let mut owner = Worker::spawn(&name, "");
    owner.tell("open");
    owner.tell("own");
    owner.kill();
    assert_eq!(Builder::new(&name).attach().unwrap().origin(), Origin::Attached);
    let heir = builder(&name, "").open().unwrap();
    assert_eq!((heir.origin(), heir.payload()), (Origin::Adopted, Ok(Payload::Unset)));
    assert_eq!((heir.unlink_policy(), heir.orphan_policy()), (UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt));
}

#[test]
fn a_reader_takes_no_lock() {
    let name = TestName::new("reader-lock");
    ShmemBox::leak(boxed(builder(&name, "").create().unwrap()));
    let reader = Builder::new(&name).attach_read_only().unwrap();
    // So whoever comes to a segment whose users are all dead learns it from the kernel.
    let file = std::fs::File::open(name.path()).unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
    assert!(lock.is_ok());
    drop((lock, reader));
    shmem_bind::unlink(&name).unwrap();
}

#[test]
fn a_reader_sees_changes_and_counts_nowhere() {
    let name = TestName::new("reader");
    let mut reader = Worker::spawn(&name, "");
    assert_eq!(reader.ask("attach-read-only"), format!("{:?}", ShmemError::NotFound));
    let mut value = boxed(builder(&name, "").create().unwrap());
    value.number = 1;
    reader.tell("attach-read-only");
    assert_eq!(reader.ask("own"), format!("{:?}", OwnError::ReadOnly));
    reader.tell("view");
    assert_eq!(reader.number("number"), 1);
    value.number = 2;
    assert_eq!(reader.number("number"), 2);
    assert_eq!(reader.number("count"), 1);
    assert_eq!(reader.number("owner"), u64::from(std::process::id()));

    // Neither the destructor nor the name waits for it, and it keeps its memory.
    drop(value);
    assert!(!name.exists());
    assert_eq!(destroyed(), 1);
    assert!(!reader.is("is-linked"));
    assert_eq!(reader.number("number"), 2);
    assert_eq!(reader.number("count"), 0);
    reader.tell("drop");
    assert_eq!(reader.number("destroyed"), 0);
    reader.finish();
}

#[test]
fn a_reader_does_not_keep_an_abandoned_segment() {
    let name = TestName::new("reader-stays");
    let mut owner = Worker::with_box(&name, "");
    let mut reader = Worker::spawn(&name, "");
    reader.tell("attach-read-only");
    owner.kill();
    // The reader holds the lock, so it is the tenancies that tell.
    let conf = builder(&name, "").open().unwrap();
    assert!(conf.is_owner());
    assert_eq!(conf.attachment_count(), 1);
    assert_eq!(reader.number("owner"), u64::from(std::process::id()));
    drop(conf);
    assert!(!name.exists());
}

#[test]
fn read_only_handles_are_not_boxed() {
    let name = TestName::new("read-only-box");
    let value = boxed(builder(&name, "").create().unwrap());
    let reader = Builder::new(&name).attach_read_only().unwrap();
    assert!(reader.is_read_only() && !reader.is_owner());
    assert_eq!(reader.sweep(), 0);
    assert_eq!(unsafe { reader.try_boxed::<u64>() }.unwrap_err(), BoxError::ReadOnly);
    assert!(ShmemBox::conf(&value).is_owner());
}

#[cfg(feature = "alloc")]
#[test]
fn segments_are_listed_as_long_as_they_have_names() {
    let names = ["listed-b", "listed-a"].map(TestName::new);
    let mut workers = [0, 1].map(|index| Worker::with_box(&names[index], ""));
    let file = TestName::new("listed-no-segment");
    fs::write(file.path(), [1; 8192]).unwrap();
    let listed = shmem_bind::segments().unwrap();
    assert!(names.iter().all(|name| listed.iter().any(|entry| entry == &**name)));
    assert!(!listed.iter().any(|entry| entry == &*file));
    assert!(listed.is_sorted());
    workers[0].tell("drop");
    let listed = shmem_bind::segments().unwrap();
    assert!(!listed.iter().any(|entry| entry == &*names[0]));
    assert!(listed.iter().any(|entry| entry == &*names[1]));
}

#[test]
fn an_administrator_unlinks_under_a_living_owner() {
    let name = TestName::new("admin");
    let mut owner = Worker::with_box(&name, "");
    let mut other = Worker::with_box(&name, "");
    shmem_bind::unlink(&name).unwrap();
    assert!(!name.exists());
    assert_eq!(shmem_bind::unlink(&name), Err(ShmemError::NotFound));
    assert_eq!(owner.ask("owner"), "nobody");
    assert_eq!(owner.number("count"), 2);
    owner.tell("set 9");
    assert_eq!(other.number("number"), 9);

    let mut successor = Worker::with_box(&name, "");
    assert!(successor.is("is-owner"));
    owner.tell("drop");
    assert!(name.exists() && successor.is("is-linked"));
    other.tell("drop");
    assert_eq!((owner.number("destroyed"), other.number("destroyed")), (0, 1));
    assert!(name.exists() && successor.is("is-linked"));
    let mut late = Worker::with_box(&name, "");
    assert_eq!(late.ask("id"), successor.ask("id"));
    successor.tell("drop");
    assert!(!name.exists());
}

#[test]
fn the_owner_of_a_removed_file_spares_its_successor() {
    for policy in ["", "last-detach"] {
        let name = TestName::new("rm");
        let mut owner = Worker::with_box(&name, policy);
        fs::remove_file(name.path()).unwrap();
        let mut successor = Worker::with_box(&name, policy);
        assert!(successor.is("is-owner"));
        assert_ne!(successor.ask("id"), owner.ask("id"));
        owner.tell("drop");
        assert_eq!(owner.number("destroyed"), 1);
        assert!(name.exists() && successor.is("is-linked"));
        let mut late = Worker::with_box(&name, policy);
        assert_eq!(late.ask("id"), successor.ask("id"));
        late.tell("drop");
        successor.tell("drop");
        assert!(!name.exists());
        assert_eq!((successor.number("destroyed"), late.number("destroyed")), (1, 0));
    }
}

#[test]
fn whatever_takes_the_place_of_a_removed_file_is_left_alone() {
    let name = TestName::new("rm-directory");
    let owner = boxed(builder(&name, "").create().unwrap());
    fs::remove_file(name.path()).unwrap();
    fs::create_dir(name.path()).unwrap();
    drop(owner);
    assert_eq!(destroyed(), 1);
    assert!(name.path().is_dir());
}
