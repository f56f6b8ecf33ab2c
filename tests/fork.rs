//! Handles after `fork` and `exec`, and segments without a name that are sent to other processes
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::worker::{self, Value, Worker, boxed, builder, destroyed};
use common::{Child, Parent, TestName};
use nix::libc;
use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use shmem_bind::{BoxError, Builder, CopyRegion, OwnError, ReadRef, ShmemBox, ShmemConf, ShmemError};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::{fs, ptr};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("work", worker::work),
        ("inherit", inherit),
        ("open in fork", open_in_fork),
        ("fork and wait", fork_and_wait),
        ("copy in fork", copy_in_fork),
        ("exec", exec),
        ("send", send),
        ("receive", receive),
    ]);
}

/// Forks a child that does `act` and nothing else: no destructor of what it inherited runs.
///
/// For processes with no other thread at work.
fn forked(act: impl FnOnce()) -> Pid {
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let done = catch_unwind(AssertUnwindSafe(act));
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
    }
}

/// Does `act` in a forked child, in which nothing may fail.
#[track_caller]
fn in_fork(act: impl FnOnce()) {
    let child = forked(act);
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

/// The forked child's copy of a handle: what a program has that forks and goes on.
fn inherited<T>(handle: &T) -> T {
    unsafe { ptr::read(handle) }
}

fn assert_inert(conf: &ShmemConf) {
    assert_eq!((conf.name(), conf.payload_size(), conf.attachment_count()), (None, 0, 0));
    assert_eq!((conf.owner_pid(), conf.segment_id().to_string()), (None, "0".repeat(32)));
    assert!(!conf.is_owner() && !conf.is_linked() && !conf.is_read_only());
    assert_eq!(conf.statistics(), Default::default());
    assert_eq!(conf.sweep(), 0);
    assert_eq!(conf.try_own(), Err(OwnError::Forked));
    assert!(format!("{conf:?}").contains("name: None"));
}

/// Has handles of every kind and drops them in forked children, in every way.
fn inherit(parent: &mut Parent) {
    let name = parent.argument(0).to_owned();
    let mut value = boxed(builder(&name, "").create().unwrap());
    value.number = 4;
    let conf = Builder::new(&name).attach().unwrap();
    let view = unsafe { Builder::new(&name).attach().unwrap().read_ref::<Value>() }.unwrap();
    let reader = unsafe { Builder::new(&name).attach_read_only().unwrap().read_ref::<Value>() }.unwrap();
    let memfd = Builder::memfd().create(8).unwrap().0;
    let check = |value: &ShmemBox<Value>| {
        assert!(ShmemBox::conf(value).is_owner() && ShmemBox::conf(value).is_linked());
        assert_eq!(conf.attachment_count(), 3);
        assert_eq!(conf.owner_pid(), Some(std::process::id()));
        assert_eq!(memfd.attachment_count(), 1);
        assert!(memfd.is_owner());
        assert_eq!((view.number, reader.number, destroyed()), (4, 4, 0));
        assert!(common::path_of(&name).exists());
    };
    check(&value);
    in_fork(|| {
        let confs = [&conf, ShmemBox::conf(&value), ReadRef::conf(&view), ReadRef::conf(&reader), &memfd];
        for conf in confs {
            assert_inert(conf);
        }
        assert_eq!(ShmemBox::try_own(&value), Err(OwnError::Forked));
        assert_eq!((value.number, view.number, reader.number), (4, 4, 4));
    });
    check(&value);
    in_fork(|| {
        drop(inherited(&conf));
        drop(inherited(&value));
        drop((view.clone(), inherited(&view)));
        drop(inherited(&reader));
        drop(inherited(&memfd));
        assert_eq!(destroyed(), 0);
        // The memory stays, also for those who kept a pointer to it.
        assert_eq!((value.number, view.number), (4, 4));
    });
    check(&value);
    in_fork(|| {
        ShmemBox::leak(inherited(&value));
        inherited(&conf).leak();
        drop(ShmemBox::own(inherited(&value)));
        assert_eq!(unsafe { inherited(&conf).try_boxed::<Value>() }.unwrap_err(), BoxError::Forked);
        assert_eq!(unsafe { inherited(&conf).read_ref::<Value>() }.unwrap_err(), BoxError::Forked);
    });
    check(&value);
    // A child of the child has still less.
    in_fork(|| {
        drop(inherited(&conf));
        in_fork(|| drop((inherited(&value), inherited(&conf))));
    });
    check(&value);
    drop(value);
    assert!(!conf.is_linked());
    assert_eq!((conf.attachment_count(), destroyed()), (2, 0));
}

#[test]
fn inherited_handles_are_inert() {
    let name = TestName::new("inherit");
    Child::spawn("inherit", &[&name]).finish();
    assert!(!name.exists());
}

/// Opens the segment in forked children that have inherited handles to it.
fn open_in_fork(parent: &mut Parent) {
    let name = parent.argument(0).to_owned();
    let mut value = boxed(builder(&name, "").create().unwrap());
    value.number = 4;
    let conf = ShmemBox::conf(&value);
    let (id, pid) = (conf.segment_id(), std::process::id());
    in_fork(|| {
        let own = builder(&name, "").open().unwrap();
        assert_eq!((own.segment_id(), own.attachment_count()), (id, 2));
        assert_eq!(own.owner_pid(), Some(pid));
        assert!(!own.is_owner());
        assert_eq!(own.sweep(), 0);
        let own = boxed(own);
        assert_eq!((own.number, value.number), (4, 4));
        // The inherited handle stays inert beside a working one.
        drop(inherited(&value));
        assert_eq!(ShmemBox::conf(&own).attachment_count(), 2);
        drop(own);
        assert_eq!(destroyed(), 0);
    });
    assert_eq!(conf.attachment_count(), 1);
    assert!(conf.is_owner());

    let killed = forked(|| {
        let many: Vec<_> = (0..12).map(|_| Builder::new(&name).attach().unwrap()).collect();
        many[3].try_own().unwrap();
        raise(Signal::SIGKILL).unwrap();
    });
    assert_eq!(waitpid(killed, None), Ok(WaitStatus::Signaled(killed, Signal::SIGKILL, false)));
    assert_eq!(conf.attachment_count(), 13);
    assert!(!conf.is_owner());
    assert_eq!(conf.sweep(), 12);
    assert_eq!((conf.attachment_count(), conf.owner_pid()), (1, None));
    ShmemBox::try_own(&value).unwrap();

    // A forked child that owns unlinks, as any process.
    in_fork(|| {
        let own = ShmemBox::own(boxed(builder(&name, "").open().unwrap()));
        assert_eq!(ShmemBox::conf(&own).owner_pid(), Some(std::process::id()));
    });
    assert!(!conf.is_linked());
    assert_eq!(conf.attachment_count(), 1);
    drop(value);
    assert_eq!(destroyed(), 1);
}

#[test]
fn forked_children_open_for_themselves() {
    let name = TestName::new("open-in-fork");
    Child::spawn("open in fork", &[&name]).finish();
    assert!(!name.exists());
}

/// A region that is copied in and out has nobody attached, and goes on working on both sides of a `fork`.
fn copy_in_fork(_parent: &mut Parent) {
    let (region, _fd) = CopyRegion::create(8).unwrap();
    region.store_release(0, 1).unwrap();
    in_fork(|| {
        assert_eq!(region.load_acquire(0), Ok(1));
        region.store_release(4, 2).unwrap();
        drop(inherited(&region));
    });
    assert_eq!(region.load_acquire(4), Ok(2));
}

#[test]
fn a_copy_region_is_shared_with_a_forked_child() {
    Child::spawn("copy in fork", &[]).finish();
}

/// Leaves the conversation with the parent to a forked child, and waits to be killed.
fn fork_and_wait(parent: &mut Parent) {
    let mut value = boxed(builder(parent.argument(0), "").create().unwrap());
    value.number = 6;
    forked(|| {
        parent.say("forked");
        while let Some(order) = parent.hear() {
            match order.as_str() {
                "number" => parent.say(&value.number.to_string()),
                "drop" => {
                    drop(inherited(&value));
                    parent.say("dropped");
                }
                _ => panic!("{order}"),
            }
        }
    });
    loop {
        nix::unistd::pause();
    }
}

#[test]
fn a_forked_child_keeps_the_memory_of_a_killed_parent() {
    let name = TestName::new("fork-and-wait");
    let mut owner = Child::spawn("fork and wait", &[&name]);
    owner.expect("forked");
    owner.kill();
    owner.say("number");
    owner.expect("6");

    // Its mapping keeps the lock, but it is not attached, and owns nothing.
    let mut value = boxed(builder(&name, "").open().unwrap());
    assert!(ShmemBox::conf(&value).is_owner());
    assert_eq!(ShmemBox::conf(&value).attachment_count(), 1);
    assert_eq!(value.number, 6);
    value.number = 7;
    owner.say("number");
    owner.expect("7");
    owner.say("drop");
    owner.expect("dropped");
    assert_eq!(ShmemBox::conf(&value).attachment_count(), 1);
    drop(value);
    assert!(!name.exists());
    assert_eq!(destroyed(), 1);
    owner.say("number");
    owner.expect("7");
    // At the end of its input it exits, and the last holder of its output is gone.
    owner.wait();
    assert_eq!(owner.try_hear(), None);
}

/// Attaches and becomes `cat`, which repeats its input.
fn exec(parent: &mut Parent) {
    let value = boxed(builder(parent.argument(0), "").open().unwrap());
    assert_eq!(ShmemBox::conf(&value).owner_pid().is_some(), parent.argument(1) == "owner");
    let error = Command::new("cat").exec();
    panic!("{error}");
}

fn spawn_cat(name: &str, sort: &str) -> Child {
    let mut cat = Child::spawn("exec", &[name, sort]);
    cat.say("\u{1}meow");
    cat.expect("meow");
    let maps = fs::read_to_string(format!("/proc/{}/maps", cat.pid())).unwrap();
    assert!(maps.contains("cat") && !maps.contains(name));
    for fd in fs::read_dir(format!("/proc/{}/fd", cat.pid())).unwrap() {
        let target = fs::read_link(fd.unwrap().path()).unwrap();
        assert!(!target.to_string_lossy().contains(name), "exec inherits no descriptor");
    }
    cat
}

#[test]
fn exec_detaches_as_soon_as_the_kernel_can_tell() {
    let name = TestName::new("exec");
    let cat = spawn_cat(&name, "owner");
    // Nobody has the file mapped, so nobody is attached.
    let mut heir = Worker::with_box(&name, "");
    assert!(heir.is("is-owner"));
    assert_eq!(heir.number("count"), 1);
    heir.tell("drop");
    assert_eq!(heir.number("destroyed"), 1);
    assert!(!name.exists());
    cat.finish();
}

#[test]
fn exec_beside_others_counts_as_alive_until_it_ends() {
    let name = TestName::new("exec-beside");
    let value = boxed(builder(&name, "").open().unwrap());
    let conf = ShmemBox::conf(&value);
    let cat = spawn_cat(&name, "owner");
    assert_eq!(conf.sweep(), 0);
    assert_eq!(conf.attachment_count(), 2);
    cat.finish();
    assert_eq!(conf.sweep(), 1);
    assert_eq!(conf.attachment_count(), 1);
    drop(value);
    assert_eq!(destroyed(), 1);
    assert!(!name.exists());
}

/// An address in the abstract namespace, which leaves nothing behind.
fn address(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(name).unwrap()
}

/// Sends a descriptor over a Unix socket.
fn send_fd(socket: &UnixStream, fd: &OwnedFd) {
    let fds = [fd.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"x")], &message, MsgFlags::empty(), None).unwrap();
}

fn receive_fd(socket: &UnixStream) -> OwnedFd {
    let mut bytes = [0];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
        panic!("no descriptor was sent");
    };
    unsafe { OwnedFd::from_raw_fd(fds[0]) }
}

/// Creates a segment without a name and sends it to whoever listens at the address.
fn send(parent: &mut Parent) {
    let (conf, fd) = Builder::memfd().create(size_of::<Value>()).unwrap();
    assert_eq!((conf.name(), conf.is_owner()), (None, true));
    let mut value = boxed(conf);
    value.number = 21;
    send_fd(&UnixStream::connect_addr(&address(parent.argument(0))).unwrap(), &fd);
    drop(fd);
    parent.await_line("drop");
    drop(value);
    parent.say(&destroyed().to_string());
}

/// Receives a segment without a name.
fn receive(parent: &mut Parent) {
    let fd = receive_fd(&UnixStream::connect_addr(&address(parent.argument(0))).unwrap());
    let mut value = boxed(Builder::memfd().attach(&fd).unwrap());
    drop(fd);
    value.number += 1;
    parent.say("attached");
    parent.await_line("drop");
    drop(value);
    parent.say(&destroyed().to_string());
}

/// A segment that has arrived from a process with the role `send`, and the socket to pass it on.
fn arrive(label: &str) -> (TestName, UnixListener, Child, OwnedFd) {
    let name = TestName::new(label);
    let listener = UnixListener::bind_addr(&address(&name)).unwrap();
    let sender = Child::spawn("send", &[&name]);
    let fd = receive_fd(&listener.accept().unwrap().0);
    (name, listener, sender, fd)
}

#[test]
fn a_memfd_is_shared_between_processes() {
    let (name, listener, mut sender, fd) = arrive("memfd");
    let value = boxed(Builder::memfd().attach(&fd).unwrap());
    let conf = ShmemBox::conf(&value);
    assert_eq!((conf.owner_pid(), conf.attachment_count()), (Some(sender.pid()), 2));
    let mut receiver = Child::spawn("receive", &[&name]);
    send_fd(&listener.accept().unwrap().0, &fd);
    receiver.expect("attached");
    assert_eq!(conf.attachment_count(), 3);
    let reader = Builder::memfd().attach_read_only(&fd).unwrap();
    assert_eq!(unsafe { reader.read_ref::<Value>() }.unwrap().number, 22);

    sender.say("drop");
    sender.expect("0");
    assert!(!conf.is_linked());
    assert_eq!(Builder::memfd().attach(&fd).unwrap_err(), ShmemError::NotFound);
    drop(value);
    receiver.say("drop");
    receiver.expect("1");
    assert_eq!(destroyed(), 0);
    sender.finish();
    receiver.finish();
}

#[test]
fn a_memfd_is_adopted_from_a_killed_owner() {
    let (name, listener, mut sender, fd) = arrive("memfd-orphan");
    let mut receiver = Child::spawn("receive", &[&name]);
    send_fd(&listener.accept().unwrap().0, &fd);
    receiver.expect("attached");
    sender.kill();
    receiver.kill();

    let heir = boxed(Builder::memfd().attach(&fd).unwrap());
    let conf = ShmemBox::conf(&heir);
    assert!(conf.is_owner());
    assert_eq!(heir.number, 22);
    // There is no lock that could tell of all at once.
    assert_eq!((conf.attachment_count(), conf.statistics().adopted, conf.statistics().swept), (2, 1, 1));
    assert_eq!(conf.sweep(), 1);
    assert_eq!((conf.attachment_count(), conf.statistics().swept), (1, 2));
    assert!(!Builder::memfd().attach(&fd).unwrap().is_owner());
    drop(heir);
    assert_eq!(destroyed(), 1);
    assert_eq!(Builder::memfd().attach(&fd).unwrap_err(), ShmemError::NotFound);
}
