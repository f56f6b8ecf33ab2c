//! Whose a segment is, and who may do what to it: as an ordinary user
//!
//! | case | test |
//! |---|---|
//! | another user's segment, with right content; named with `uid` | `bad_input_root`: `root_a_foreign_segment_is_refused_unless_named` |
//! | another user's empty file under the name | `permissions_root`: `root_a_name_squatted_by_another_user_is_left_alone` |
//! | a segment shared by two users of a group | `permissions_root`: `root_a_group_shares_a_segment` |
//! | a segment that one may not open at all | `bad_input_root`: `root_a_private_segment_is_refused_to_strangers` |
//! | an observer of another user, who may only read | `permissions_root`: `root_an_observer_of_another_user_needs_no_more_than_to_read` |
//! | wider permissions than asked for | `bad_input`: `a_wider_mode_than_asked_for_is_refused` |
//! | narrower ones; bits that are no permissions | `narrower_permissions_than_asked_for_are_fine` |
//! | permissions that change while it is attached | `what_the_owner_changes_later_is_for_newcomers` |
//! | the owner changes while it is attached | `permissions_root`: `root_a_segment_given_away_is_for_newcomers_to_refuse` |
//! | umask 077, 000, 0777 | `bad_input`: `the_umask_does_not_narrow_the_mode` |
//! | garbage, an empty or half-made file under the name | `bad_input_files`: `a_file_that_is_no_segment_is_refused_and_left_alone`, `an_abandoned_file_becomes_a_segment` |
//! | a directory, a FIFO, a socket | `bad_input_files`: `a_directory_is_no_segment` and others |
//! | a symbolic link: dangling, to itself, to a segment | `bad_input_files`: `a_dangling_symlink_is_not_followed`, `a_symlink_to_a_segment_is_not_followed` |
//! | a hard link to a segment | `a_hard_link_is_another_name_of_the_same` |
//! | a name that one may not remove (sticky bit) | `bad_input_root`: `root_an_unlink_without_permission_changes_nothing`, `root_an_owner_without_permission_leaves_an_orphan` |
//! | the lock held for ever, by one who may write, or only read | `bad_input`: `a_locked_segment_is_busy`; `permissions_root`: `root_whoever_may_read_can_lock_others_out_in_time` |
//! | a header that changes between being read and being mapped | `a_header_that_changes_while_it_is_read_is_one_or_the_other` |
//! | a file that becomes shorter between being looked at and being used | `truncation_moments` |
//!
//! (With the sysctl `fs.protected_regular`, which is off on some machines, `open` meets `EACCES` for another user's file in a sticky
//! directory, and opens it without `O_CREAT`; the tests with another user pass either way.)
#![allow(missing_docs, clippy::undocumented_unsafe_blocks, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::arithmetic_side_effects)]

mod alone;
mod common;

use alone::{SHORT, Way, each_way, refused};
use common::TestName;
use shmem_bind::{Builder, HEADER_LEN, Origin, ShmemError, UnlinkPolicy};
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

alone::tests! {
    narrower_permissions_than_asked_for_are_fine
    what_the_owner_changes_later_is_for_newcomers
    a_hard_link_is_another_name_of_the_same
    a_header_that_changes_while_it_is_read_is_one_or_the_other
    ;
}

fn set_mode(name: &TestName, mode: u32) {
    fs::set_permissions(name.path(), Permissions::from_mode(mode)).unwrap();
}

fn narrower_permissions_than_asked_for_are_fine() {
    let name = TestName::new("narrower");
    let owner = Builder::new(&name).mode(0o600).with_size(8).create().unwrap();
    for mode in [0o600, 0o4600, 0o2600, 0o1600, 0o7600] {
        set_mode(&name, mode);
        for way in [Way::Open, Way::Attach, Way::AttachReadOnly] {
            way.go(Builder::new(&name).mode(0o666), 8).unwrap();
            way.go(Builder::new(&name).mode(0o600), 8).unwrap();
        }
        // They stay as they are: whoever made it has said what they are to be.
        assert_eq!(name.path().metadata().unwrap().mode() & 0o7777, mode);
    }
    drop(owner);
    assert!(!name.exists());
}

fn what_the_owner_changes_later_is_for_newcomers() {
    let name = TestName::new("changed");
    let owner = Builder::new(&name).with_size(8).create().unwrap();
    let other = Builder::new(&name).attach().unwrap();
    set_mode(&name, 0o666);
    let permissive = ShmemError::Permissive { mode: 0o666, allowed: 0o600 };
    for (way, result) in each_way(&Builder::new(&name), 8) {
        refused(result, permissive, &["0666"], &format!("{way:?}"));
    }
    // Who is in goes on, leaves, and takes the name away.
    assert_eq!((owner.attachment_count(), other.is_linked()), (2, true));
    set_mode(&name, 0);
    drop(other);
    assert_eq!(owner.attachment_count(), 1);
    drop(owner);
    assert!(!name.exists());
}

fn a_hard_link_is_another_name_of_the_same() {
    let (name, link) = (TestName::new("hard"), TestName::new("hard-link"));
    let open = |name: &TestName| Builder::new(name).timeout(SHORT).with_size(8).open().unwrap();
    let owner = open(&name);
    fs::hard_link(name.path(), link.path()).unwrap();
    let other = open(&link);
    assert_eq!((owner.segment_id(), owner.attachment_count()), (other.segment_id(), 2));
    // Its owner takes the name away that it knows, and what is left is one of a segment that is not to be used any more.
    drop(owner);
    assert!(!name.exists() && link.exists() && !other.is_linked());
    assert_eq!(Builder::new(&link).attach_read_only().unwrap_err(), ShmemError::NotFound);
    let next = open(&link);
    assert_eq!((next.origin(), next.attachment_count()), (Origin::Created, 1));
    assert_ne!(next.segment_id(), other.segment_id());
    drop((next, other));
    assert!(!link.exists());
}

/// Another process that may write to the file changes the header all the time.
fn a_header_that_changes_while_it_is_read_is_one_or_the_other() {
    const SIZE: usize = 64 * 1024;
    let name = TestName::new("changing");
    let owner = Builder::new(&name).unlink_policy(UnlinkPolicy::Never).with_size(SIZE).create().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(name.path()).unwrap();
    let mut sound = [0; 64];
    file.read_exact_at(&mut sound, 0).unwrap();
    // One that fits the file, and some that do not: half the size, twice, all ones, nothing.
    let lengths =
        |payload: u64| [(HEADER_LEN as u64 + payload).to_le_bytes(), payload.to_le_bytes()].concat();
    let (half, twice) = (lengths(SIZE as u64 / 2), lengths(SIZE as u64 * 2));
    let variants = [half, twice, vec![0xff; 16], vec![0; 16], lengths(u64::MAX / 2)];
    let (stop, is_ready) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut opened, mut refused) = ([0_u32; 2], 0_u32);
    thread::scope(|scope| {
        scope.spawn(|| change(&file, &sound, &variants, &stop, &is_ready));
        while !is_ready.load(SeqCst) {
            thread::yield_now();
        }
        let ways = [Way::Attach, Way::AttachReadOnly, Way::Open].into_iter().cycle();
        for way in ways {
            if opened[0] >= 1000 && refused >= 1000 {
                break;
            }
            match way.go(Builder::new(&name), 8) {
                Ok(segment) => match segment.max_size() {
                    SIZE => opened[0] += 1,
                    size => {
                        assert_eq!(size, SIZE / 2, "it is mapped as it was checked");
                        opened[1] += 1;
                    }
                },
                Err(ShmemError::Header(_) | ShmemError::NotFound) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        stop.store(true, SeqCst);
    });
    file.write_all_at(&sound, 0).unwrap();
    assert_eq!(owner.attachment_count(), 1);
    drop(owner);
}

fn change(file: &File, sound: &[u8], variants: &[Vec<u8>], stop: &AtomicBool, is_ready: &AtomicBool) {
    while !stop.load(SeqCst) {
        for variant in variants {
            // The total and the payload length are the third and the fourth word.
            file.write_all_at(variant, 16).unwrap();
            is_ready.store(true, SeqCst);
            thread::yield_now();
            file.write_all_at(sound, 0).unwrap();
            thread::yield_now();
        }
    }
}
