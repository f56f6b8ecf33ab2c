//! Whose a segment is, and who may do what to it: with another user, which needs root to be arranged
//!
//! `permissions.rs` has the table of all cases.
#![allow(missing_docs, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod alone;
mod common;

use alone::root::{NOBODY, become_nobody};
use alone::{LONG, SHORT, Unchanged, Way, each_way, refused};
use common::{Child, Parent, TestName};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, chown};
use shmem_bind::{Builder, Errno, ShmemBox, ShmemError, Tlsf};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

alone::tests! {
    #[ignore = "needs root"] root_a_name_squatted_by_another_user_is_left_alone
    #[ignore = "needs root"] root_a_group_shares_a_segment
    #[ignore = "needs root"] root_an_observer_of_another_user_needs_no_more_than_to_read
    #[ignore = "needs root"] root_a_segment_given_away_is_for_newcomers_to_refuse
    #[ignore = "needs root"] root_whoever_may_read_can_lock_others_out_in_time
    ;
    colleague observer locker outsider
}

fn give_to_nobody(name: &TestName, group: Option<u32>) {
    let gid = Some(Gid::from_raw(group.unwrap_or(NOBODY)));
    chown(&name.path(), Some(Uid::from_raw(NOBODY)), gid).unwrap();
}

fn root_a_name_squatted_by_another_user_is_left_alone() {
    let name = TestName::new("squatted");
    // An empty file would become a segment if it were one's own.
    for bytes in [&b""[..], b"garbage"] {
        fs::write(name.path(), bytes).unwrap();
        fs::set_permissions(name.path(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        give_to_nobody(&name, None);
        let unchanged = Unchanged::snapshot();
        for (way, result) in each_way(&Builder::new(&name).timeout(LONG), 8) {
            let error = ShmemError::ForeignUser { uid: NOBODY, expected: 0 };
            refused(result, error, &["user 65534"], &format!("{way:?}"));
        }
        assert!(matches!(shmem_bind::unlink(&name), Err(ShmemError::Header(_))));
        unchanged.check("squatted");
        assert_eq!(fs::read(name.path()).unwrap(), bytes);
    }
}

/// Uses an arena of another user of its group.
fn colleague(parent: &mut Parent) {
    become_nobody();
    let name = parent.argument(0);
    let builder = || Builder::new(name).mode(0o660).timeout(LONG);
    let error = ShmemError::ForeignUser { uid: 0, expected: NOBODY };
    refused(builder().attach(), error, &["Builder::uid"], "not told");
    let arena = builder().uid(0).with_size(64 * 1024).open().unwrap().arena::<Tlsf>().unwrap();
    assert!(!arena.conf().is_owner());
    arena.find::<AtomicU64>("counter").unwrap().fetch_add(1, Relaxed);
    let own = ShmemBox::into_arc(arena.alloc_str("from a colleague").unwrap());
    arena.publish("message", &own).unwrap();
    parent.say("published");
    parent.await_line("leave");
    drop((own, arena));
    parent.say(alone::DONE);
}

fn root_a_group_shares_a_segment() {
    let name = TestName::new("group");
    let segment = Builder::new(&name).mode(0o660).with_size(64 * 1024).create().unwrap();
    chown(&name.path(), None, Some(Gid::from_raw(NOBODY))).unwrap();
    let arena = segment.arena::<Tlsf>().unwrap();
    let counter = ShmemBox::into_arc(arena.alloc(AtomicU64::new(1)).unwrap());
    arena.publish("counter", &counter).unwrap();
    let mut child = Child::spawn("colleague", &[&name]);
    child.expect("published");
    assert_eq!((&*arena.find::<str>("message").unwrap(), counter.load(Relaxed)), ("from a colleague", 2));
    assert_eq!(arena.conf().attachment_count(), 2);
    child.say("leave");
    child.expect(alone::DONE);
    child.finish();
    assert_eq!(arena.conf().attachment_count(), 1);
    // One who is killed is given back as well, whoever it was.
    let mut child = Child::spawn("colleague", &[&name]);
    drop(arena.unpublish::<str>("message").unwrap());
    child.expect("published");
    child.kill();
    let reclaimed = arena.sweep().unwrap();
    assert_eq!((reclaimed.attachments, arena.conf().attachment_count()), (1, 1));
    arena.check().unwrap();
}

/// May read the segment, and nothing else.
fn observer(parent: &mut Parent) {
    become_nobody();
    let name = parent.argument(0);
    let builder = || Builder::new(name).mode(0o640).uid(0).timeout(LONG);
    for way in [Way::Open, Way::Attach] {
        let error = ShmemError::Os { call: "open", errno: Errno::ACCESS };
        refused(way.go(builder(), 8), error, &["Permission denied"], &format!("{way:?}"));
    }
    let seen = builder().attach_read_only().unwrap();
    assert_eq!((&*seen.find_pinned::<str>("motd").unwrap(), seen.attachment_count()), ("good morning", 1));
    parent.say(alone::DONE);
}

fn root_an_observer_of_another_user_needs_no_more_than_to_read() {
    for mode in [0o640, 0o440] {
        let name = TestName::new("observed");
        let segment = Builder::new(&name).mode(mode).with_size(64 * 1024).create().unwrap();
        chown(&name.path(), None, Some(Gid::from_raw(NOBODY))).unwrap();
        let arena = segment.arena::<Tlsf>().unwrap();
        arena.publish_pinned("motd", &ShmemBox::into_arc(arena.alloc_str("good morning").unwrap())).unwrap();
        let unchanged = Unchanged::snapshot();
        let child = Child::spawn("observer", &[&name]);
        child.expect(alone::DONE);
        child.finish();
        unchanged.check_files("observed");
    }
}

/// Is not let into what used to be another's, nor what is its own now but too wide.
fn outsider(parent: &mut Parent) {
    become_nobody();
    let segment = Builder::new(parent.argument(0)).with_size(8).open().unwrap();
    parent.say(&segment.attachment_count().to_string());
}

fn root_a_segment_given_away_is_for_newcomers_to_refuse() {
    let name = TestName::new("given-away");
    let owner = Builder::new(&name).with_size(8).create().unwrap();
    give_to_nobody(&name, None);
    for (way, result) in each_way(&Builder::new(&name).timeout(LONG), 8) {
        let error = ShmemError::ForeignUser { uid: NOBODY, expected: 0 };
        refused(result, error, &["user 65534"], &format!("{way:?}"));
    }
    // It is another's now, who is let in beside those who are.
    let child = Child::spawn("outsider", &[&name]);
    child.expect("2");
    child.finish();
    assert_eq!((owner.attachment_count(), owner.is_owner(), owner.is_linked()), (1, true, true));
    drop(owner);
    assert!(!name.exists());
}

/// Locks a file that it may only read, for as long as it likes.
fn locker(parent: &mut Parent) {
    become_nobody();
    let file = File::open(common::path_of(parent.argument(0))).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    parent.say("locked");
    parent.await_line("unlock");
    drop(lock);
}

fn root_whoever_may_read_can_lock_others_out_in_time() {
    let name = TestName::new("locked-out");
    let mode = 0o644;
    Builder::new(&name).mode(mode).with_size(8).create().unwrap().leak();
    assert_eq!(name.path().metadata().unwrap().mode() & 0o777, mode);
    let mut holder = Child::spawn("locker", &[&name]);
    holder.expect("locked");
    for way in [Way::Open, Way::Create, Way::Attach] {
        let start = Instant::now();
        let result = way.go(Builder::new(&name).mode(mode).timeout(SHORT), 8);
        refused(result, ShmemError::Busy, &["locked"], &format!("{way:?}"));
        assert!(start.elapsed() < LONG);
    }
    drop(Builder::new(&name).mode(mode).attach_read_only().unwrap());
    holder.say("unlock");
    holder.finish();
    drop(Builder::new(&name).mode(mode).with_size(8).open().unwrap());
    shmem_bind::unlink(&name).unwrap();
}
