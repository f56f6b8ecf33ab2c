//! What becomes of a segment whose users are killed, stopped or left as zombies
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::TestName;
use common::worker::{self, Worker, boxed, builder, destroyed};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use shmem_bind::{Builder, MAX_ATTACHMENTS, ShmemBox, ShmemError};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("work", worker::work)]);
}

fn own_pid() -> Option<u32> {
    Some(std::process::id())
}

#[test]
fn the_next_opener_adopts_what_a_killed_owner_left() {
    let name = TestName::new("adopt");
    let mut owner = Worker::with_box(&name, "");
    let mut other = Worker::with_box(&name, "");
    owner.tell("set 11");
    let id = owner.ask("id");
    owner.kill();
    assert!(name.exists());

    let conf = builder(&name, "").open().unwrap();
    assert!(conf.is_owner());
    assert_eq!(conf.owner_pid(), own_pid());
    assert_eq!(conf.segment_id().to_string(), id);
    assert_eq!(conf.attachment_count(), 2);
    assert_eq!((conf.statistics().adopted, conf.statistics().swept), (1, 1));
    assert_eq!(other.number("owner"), u64::from(std::process::id()));
    let value = boxed(conf);
    assert_eq!(value.number, 11);

    // One heir only.
    let late = builder(&name, "").open().unwrap();
    assert!(!late.is_owner());
    assert_eq!(late.statistics().adopted, 1);
    drop(late);
    drop(value);
    assert!(!name.exists());
    other.tell("drop");
    assert_eq!((destroyed(), other.number("destroyed")), (0, 1));
}

#[test]
fn an_orphan_that_nobody_has_attached_keeps_its_data() {
    let name = TestName::new("alone");
    let mut owner = Worker::with_box(&name, "");
    owner.tell("set 12");
    let id = owner.ask("id");
    owner.kill();
    // Who only attaches leaves the orphan to those who could have created it.
    let mut visitor = Worker::spawn(&name, "");
    visitor.tell("attach");
    assert!(!visitor.is("is-owner"));
    visitor.tell("drop");
    let mut heir = Worker::spawn(&name, "");
    heir.tell("open");
    assert!(heir.is("is-owner"));
    assert_eq!((heir.ask("id"), heir.number("count")), (id, 1));
    heir.tell("box");
    assert_eq!(heir.number("number"), 12);
    heir.tell("drop");
    assert_eq!(heir.number("destroyed"), 1);
    assert!(!name.exists());
}

#[test]
fn creating_finds_an_orphan_that_is_to_be_adopted_in_use() {
    let name = TestName::new("create-orphan");
    let mut owner = Worker::with_box(&name, "");
    owner.kill();
    assert_eq!(builder(&name, "").create().unwrap_err(), ShmemError::AlreadyExists);
    let conf = builder(&name, "").open().unwrap();
    assert!(conf.is_owner());
    assert_eq!(conf.statistics().adopted, 1);
}

#[test]
fn a_survivor_owns_an_orphan_without_an_opener() {
    let name = TestName::new("own-orphan");
    let mut owner = Worker::with_box(&name, "");
    let mut survivor = Worker::with_box(&name, "");
    owner.kill();
    survivor.tell("own");
    assert_eq!(survivor.number("sweep"), 1);
    assert_eq!(survivor.number("count"), 1);
    assert!(survivor.is("is-owner"));
    survivor.tell("drop");
    assert_eq!(survivor.number("destroyed"), 1);
    assert!(!name.exists());
}

#[test]
fn killed_attachers_are_swept() {
    let name = TestName::new("sweep");
    let value = boxed(builder(&name, "").open().unwrap());
    let conf = ShmemBox::conf(&value);
    let mut workers = [0; 3].map(|_| Worker::with_box(&name, ""));
    assert_eq!(conf.attachment_count(), 4);
    assert_eq!(conf.sweep(), 0);
    workers[0].kill();
    workers[2].kill();
    assert_eq!(conf.sweep(), 2);
    assert_eq!((conf.attachment_count(), conf.statistics().swept), (2, 2));
    assert_eq!(conf.sweep(), 0);
    assert!(conf.is_owner());

    // Leaving, the owner finds out by itself that nobody else is left.
    workers[1].kill();
    drop(value);
    assert_eq!(destroyed(), 1);
    assert!(!name.exists());
}

#[test]
fn the_last_one_out_need_not_know_of_deaths() {
    for policy in ["", "last-detach"] {
        let name = TestName::new("last-alive");
        let mut owner = Worker::with_box(&name, policy);
        let mut killed = Worker::with_box(&name, policy);
        let mut last = Worker::with_box(&name, policy);
        owner.tell("drop");
        killed.kill();
        last.tell("drop");
        assert_eq!((owner.number("destroyed"), last.number("destroyed")), (0, 1));
        assert!(!name.exists());
    }
}

#[test]
fn killed_as_the_last_one_out_destroys_nothing() {
    let name = TestName::new("corpse");
    let value = boxed(builder(&name, "").open().unwrap());
    let mut last = Worker::with_box(&name, "");
    drop(value);
    last.kill();
    assert_eq!(destroyed(), 0);
    assert!(!name.exists());
    assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::NotFound);
}

#[test]
fn recreate_makes_an_abandoned_orphan_anew() {
    let name = TestName::new("recreate");
    for order in ["open", "create"] {
        let mut owner = Worker::with_box(&name, "recreate");
        assert!(owner.is("is-owner"));
        owner.tell("set 13");
        let id = owner.ask("id");
        owner.kill();

        // Without a size there is nothing to make.
        assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::NotFound);
        let mut next = Worker::spawn(&name, "recreate");
        next.tell(order);
        assert!(next.is("is-owner"));
        assert_ne!(next.ask("id"), id);
        assert_eq!(next.number("count"), 1);
        next.tell("box");
        assert_eq!(next.number("number"), 0);
        next.tell("drop");
        assert!(!name.exists());
    }
}

#[test]
fn recreate_waits_for_survivors() {
    let name = TestName::new("recreate-later");
    let mut owner = Worker::with_box(&name, "recreate");
    let mut survivor = Worker::with_box(&name, "recreate");
    owner.tell("set 14");
    let id = owner.ask("id");
    owner.kill();

    let mut guest = Worker::with_box(&name, "recreate");
    assert_eq!(guest.ask("id"), id);
    assert_eq!((guest.number("count"), guest.number("number")), (2, 14));
    assert_eq!((guest.ask("owner"), survivor.ask("owner")), ("nobody".to_owned(), "nobody".to_owned()));
    assert_eq!(builder(&name, "recreate").create().unwrap_err(), ShmemError::AlreadyExists);
    assert_eq!(Builder::new(&name).attach().unwrap().segment_id().to_string(), id);
    guest.tell("drop");
    survivor.tell("drop");
    assert_eq!((guest.number("destroyed"), survivor.number("destroyed")), (0, 0));
    assert!(name.exists());

    let value = boxed(builder(&name, "recreate").open().unwrap());
    assert_ne!(ShmemBox::conf(&value).segment_id().to_string(), id);
    assert!(ShmemBox::conf(&value).is_owner());
    assert_eq!(value.number, 0);
}

#[test]
fn recreate_does_not_wait_for_dead_survivors() {
    let name = TestName::new("recreate-dead");
    let mut owner = Worker::with_box(&name, "recreate");
    let mut survivor = Worker::with_box(&name, "recreate");
    // A reader keeps the lock, so that it is not the kernel that tells.
    let mut reader = Worker::spawn(&name, "");
    reader.tell("attach-read-only");
    owner.kill();
    survivor.kill();
    let conf = builder(&name, "recreate").create().unwrap();
    assert_ne!(conf.segment_id().to_string(), reader.ask("id"));
    assert!(conf.is_owner() && !reader.is("is-linked"));
}

#[test]
fn refuse_keeps_everybody_out_until_an_administrator_comes() {
    let name = TestName::new("refuse");
    let mut owner = Worker::with_box(&name, "refuse");
    let mut survivor = Worker::with_box(&name, "refuse");
    owner.tell("set 15");
    owner.kill();
    for _ in 0..2 {
        assert_eq!(builder(&name, "refuse").open().unwrap_err(), ShmemError::Orphaned);
        assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::Orphaned);
    }
    assert_eq!(survivor.number("number"), 15);
    let observer = Builder::new(&name).attach_read_only().unwrap();
    assert_eq!((observer.owner_pid(), observer.attachment_count()), (None, 1));

    survivor.tell("drop");
    assert_eq!(builder(&name, "refuse").open().unwrap_err(), ShmemError::Orphaned);
    assert!(name.exists());
    shmem_bind::unlink(&name).unwrap();
    assert!(!name.exists());
    let conf = builder(&name, "refuse").open().unwrap();
    assert!(conf.is_owner());
    assert_ne!(conf.segment_id(), observer.segment_id());
}

#[test]
fn a_survivor_may_take_over_what_openers_may_not() {
    let name = TestName::new("refuse-own");
    let mut owner = Worker::with_box(&name, "refuse");
    let mut survivor = Worker::with_box(&name, "refuse");
    owner.kill();
    assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::Orphaned);
    survivor.tell("own");
    assert!(!Builder::new(&name).attach().unwrap().is_owner());
    survivor.tell("drop");
    assert!(!name.exists());
}

#[test]
fn after_the_death_of_all_the_next_opener_is_alone() {
    for policy in ["", "last-detach", "never"] {
        let name = TestName::new("all");
        let mut workers = [0; 3].map(|_| Worker::with_box(&name, policy));
        workers[1].tell("set 16");
        for worker in &workers {
            worker.kill_to_zombie();
        }
        let mut next = Worker::with_box(&name, policy);
        assert!(next.is("is-owner"));
        assert_eq!((next.number("count"), next.number("number")), (1, 16));
        assert_eq!(next.number("sweep"), 0);
        next.tell("drop");
        assert_eq!(next.number("destroyed"), u64::from(policy != "never"));
        assert_eq!(name.exists(), policy == "never");
    }
}

#[test]
fn a_zombie_is_dead() {
    let name = TestName::new("zombie");
    let owner = Worker::with_box(&name, "");
    let attacher = Worker::with_box(&name, "");
    let mut survivor = Worker::with_box(&name, "");
    owner.kill_to_zombie();
    attacher.kill_to_zombie();
    let conf = builder(&name, "").open().unwrap();
    assert!(conf.is_owner());
    assert_eq!(conf.sweep(), 1);
    assert_eq!((conf.attachment_count(), conf.statistics().swept), (2, 2));
    drop(conf);
    assert!(!survivor.is("is-linked"));
}

#[test]
fn a_stopped_process_is_alive() {
    let name = TestName::new("stopped");
    let mut owner = Worker::with_box(&name, "");
    owner.signal(Signal::SIGSTOP);
    waitpid(Pid::from_raw(owner.pid() as i32), Some(WaitPidFlag::WUNTRACED)).unwrap();

    let other = boxed(builder(&name, "").open().unwrap());
    let conf = ShmemBox::conf(&other);
    assert!(!conf.is_owner());
    assert_eq!(conf.owner_pid(), Some(owner.pid()));
    assert_eq!(conf.sweep(), 0);
    assert_eq!(conf.attachment_count(), 2);
    drop(other);
    assert_eq!(destroyed(), 0);
    assert!(name.exists());

    owner.signal(Signal::SIGCONT);
    assert!(owner.is("is-owner"));
    assert_eq!(owner.number("count"), 1);
    owner.tell("drop");
    assert_eq!(owner.number("destroyed"), 1);
    assert!(!name.exists());
}

#[test]
fn a_full_segment_has_room_as_soon_as_somebody_dies() {
    const MANY: usize = 25;
    let name = TestName::new("full");
    let mut owner = Worker::with_box(&name, "");
    let mut crowds = [0, 1].map(|_| Worker::spawn(&name, ""));
    for crowd in &mut crowds {
        for _ in 0..MANY {
            crowd.tell("attach");
        }
    }
    let rest = MAX_ATTACHMENTS as usize - 1 - 2 * MANY;
    let mut confs: Vec<_> = (0..rest).map(|_| Builder::new(&name).attach().unwrap()).collect();
    assert_eq!(owner.number("count"), u64::from(MAX_ATTACHMENTS));
    assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::Full);
    assert_eq!(builder(&name, "").open().unwrap_err(), ShmemError::Full);
    let observer = Builder::new(&name).attach_read_only().unwrap();
    assert_eq!(observer.attachment_count(), MAX_ATTACHMENTS);

    crowds[0].kill();
    confs.push(Builder::new(&name).attach().unwrap());
    assert_eq!(observer.statistics().swept, MANY as u64);
    assert_eq!(observer.attachment_count() as usize, 1 + MANY + confs.len());
    assert_eq!(observer.owner_pid(), Some(owner.pid()));

    // A place is also free for whoever finds the owner dead, and then only one.
    for _ in 0..MANY - 1 {
        confs.push(Builder::new(&name).attach().unwrap());
    }
    assert_eq!(observer.attachment_count(), MAX_ATTACHMENTS);
    owner.kill();
    confs.push(builder(&name, "").open().unwrap());
    assert!(confs.last().unwrap().is_owner());
    assert_eq!(observer.attachment_count(), MAX_ATTACHMENTS);
    assert_eq!(Builder::new(&name).attach().unwrap_err(), ShmemError::Full);
    drop(confs.pop());
    assert!(!name.exists());
    drop(confs);
    assert_eq!(crowds[1].number("count"), MANY as u64);
}
