//! A process is killed between any two steps of what it does to a segment's life
//!
//! A child is single-stepped (ptrace) through one operation. Its steps are the system calls, before and after
//! each, and every store that changes the header. The operation is run once for each of them and the child
//! killed there; whatever it leaves must be a sound segment to the next opener, and to an observer that was
//! attached all along. Each test prints how many steps it killed at.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::undocumented_unsafe_blocks)]

mod common;

use common::tracer::{self, Tracer};
use common::{Parent, TestName};
use nix::fcntl::{Flock, FlockArg};
use shmem_bind::{Builder, HEADER_LEN, OrphanPolicy, ShmemBox, ShmemConf, UnlinkPolicy};
use std::fs::File;
use std::os::unix::fs::FileExt;

const VALUE: u64 = 0x0123_4567_89ab_cdef;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("operate", operate)]);
}

fn builder(name: &str) -> Builder {
    Builder::new(name)
}

/// Prepares, lets the parent trace it, and runs the operation between two stops.
fn operate(parent: &mut Parent) {
    let (name, operation) = (parent.argument(0).to_owned(), parent.argument(1).to_owned());
    let attach = || builder(&name).attach().unwrap();
    // The process page is not part of any operation.
    drop(Builder::memfd().create(1).unwrap());
    let mut traced = |body: &mut dyn FnMut()| tracer::traced(parent, body);
    let mut kept: Option<ShmemConf> = None;
    match operation.as_str() {
        "create" => traced(&mut || kept = Some(builder(&name).with_size(8).create().unwrap())),
        "open" => traced(&mut || kept = Some(builder(&name).with_size(8).open().unwrap())),
        "attach" => traced(&mut || kept = Some(attach())),
        "unlink" => traced(&mut || shmem_bind::unlink(&name).unwrap()),
        "own" => {
            let conf = attach();
            traced(&mut || conf.try_own().unwrap());
        }
        "sweep" => {
            let conf = attach();
            traced(&mut || assert_eq!(conf.sweep(), 3));
        }
        "leave" => {
            kept = Some(attach());
            traced(&mut || drop(kept.take()));
        }
        "leave as owner" | "leak" => {
            let conf = attach();
            conf.try_own().unwrap();
            kept = Some(conf);
            if operation == "leak" {
                traced(&mut || kept.take().unwrap().leak());
            } else {
                traced(&mut || drop(kept.take()));
            }
        }
        _ => panic!("{operation}"),
    }
    drop(kept);
}

/// Goes to the step number `target` and gives `true`, or to the end and `false` if there are fewer.
fn go_to(tracer: &Tracer, name: &TestName, target: usize) -> bool {
    let file = || File::open(name.path()).ok();
    let mut steps = 0;
    let mut current = file();
    let mut header = read_header(current.as_ref());
    let mut in_syscall = false;
    loop {
        if in_syscall {
            current = file();
        }
        let before_syscall = tracer.system_call().is_some();
        let now = read_header(current.as_ref());
        if in_syscall || before_syscall || now != header {
            if steps == target {
                return true;
            }
            steps += 1;
        }
        header = now;
        in_syscall = before_syscall;
        if !tracer.step() {
            return false;
        }
    }
}

/// All bytes of the header, or as many as there are, and zeros.
fn read_header(file: Option<&File>) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    if let Some(file) = file {
        file.read_at(&mut bytes, 0).unwrap();
    }
    bytes
}

/// What there is before the operation.
struct Scene {
    operation: &'static str,
    unlink: UnlinkPolicy,
    orphan: OrphanPolicy,
    /// What the segment has been through when the child comes.
    past: Past,
    /// Who comes first to what the killed child left.
    first: First,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    /// A new opener.
    Opener,
    /// The observer, who leaves.
    ObserverLeaves,
    /// Somebody whose shared lock keeps the opener after it from getting the exclusive one, as a child does that
    /// inherited the mapping by `fork`.
    SharedLock,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Past {
    /// There is none.
    Nothing,
    /// A creator died before it was live.
    HalfFormed,
    /// It was leaked, and nobody is attached.
    Leaked,
    /// All who were attached died, the owner among them.
    Orphaned,
    /// The test's own process is attached and owns.
    Observed,
    /// The same, and three other attachments are of a dead process.
    ObservedWithDead,
}

impl Scene {
    const fn new(operation: &'static str, past: Past) -> Self {
        let (unlink, orphan) = (UnlinkPolicy::OwnerDrop, OrphanPolicy::Adopt);
        Self { operation, unlink, orphan, past, first: First::Opener }
    }

    fn builder(&self, name: &str) -> Builder {
        builder(name).unlink_policy(self.unlink).orphan_policy(self.orphan)
    }

    fn create(&self, name: &str) -> ShmemBox<u64> {
        let mut value = unsafe { self.builder(name).with_size(8).create().unwrap().boxed::<u64>() };
        *value = VALUE;
        value
    }

    /// Brings the segment to where the operation begins; gives the observer, if there is one.
    fn set(&self, name: &str) -> Option<ShmemBox<u64>> {
        match self.past {
            Past::Nothing => None,
            Past::HalfFormed => {
                let value = self.create(name);
                let path = common::path_of(name);
                let header = std::fs::read(&path).unwrap();
                drop(value);
                // The part that is written first, before the membership word.
                std::fs::write(&path, [&header[..64], &[0; 64]].concat()).unwrap();
                nix::sys::stat::fchmodat(
                    nix::fcntl::AT_FDCWD,
                    &path,
                    nix::sys::stat::Mode::from_bits_truncate(0o600),
                    nix::sys::stat::FchmodatFlags::FollowSymlink,
                )
                .unwrap();
                None
            }
            Past::Leaked => {
                ShmemBox::leak(self.create(name));
                None
            }
            Past::Orphaned => {
                ShmemBox::leak(self.create(name));
                die_attached(name, "own");
                None
            }
            Past::Observed => Some(self.create(name)),
            Past::ObservedWithDead => {
                let value = self.create(name);
                for _ in 0..3 {
                    die_attached(name, "attach");
                }
                Some(value)
            }
        }
    }

    /// Kills the child at each step in turn and looks at what it leaves.
    fn kill_everywhere(&self) {
        tracer::stay_on_one_cpu();
        let mut steps = 0;
        loop {
            let name = TestName::new("kill");
            let observer = self.set(&name);
            let tracer = Tracer::start("operate", &[&name, self.operation]);
            let is_step = go_to(&tracer, &name, steps);
            tracer.kill();
            self.check(&name, observer, steps);
            if !is_step {
                break;
            }
            steps += 1;
        }
        println!("kill_steps {} after {:?}: steps {steps}, unsound 0", self.operation, self.past);
        assert!(steps >= 3, "{} has {steps} steps only", self.operation);
    }

    fn check(&self, name: &TestName, mut observer: Option<ShmemBox<u64>>, step: usize) {
        let what = format!("{} after {:?}, killed at step {step}", self.operation, self.past);
        let mut lock = None;
        match (self.first, observer.take()) {
            (First::ObserverLeaves, Some(left)) => {
                let conf = ShmemBox::conf(&left);
                let (id, was_linked) = (conf.segment_id(), conf.is_linked());
                drop(left);
                // The last one out of a segment leaves no name, even if the one whose task that was is dead.
                if !was_linked && name.exists() {
                    assert_ne!(builder(name).attach().unwrap().segment_id(), id, "{what}: a name is left");
                }
            }
            (First::SharedLock, other) => {
                let file = File::open(name.path()).unwrap();
                lock = Some(Flock::lock(file, FlockArg::LockShared).unwrap());
                observer = other;
            }
            (_, other) => observer = other,
        }
        // A new process, as it were: it gets a segment, alone with the observer if that is on the same one.
        let opener = self.builder(name).with_size(8).open().unwrap_or_else(|error| panic!("{what}: {error}"));
        opener.sweep();
        let same =
            observer.as_ref().filter(|other| ShmemBox::conf(other).segment_id() == opener.segment_id());
        assert_eq!(opener.attachment_count(), 1 + u32::from(same.is_some()), "{what}");
        assert!(opener.is_linked(), "{what}");
        drop(lock);
        let mut value = unsafe { opener.boxed::<u64>() };
        if same.is_some() {
            assert_eq!(*value, VALUE, "{what}");
        }
        if let Some(observer) = observer {
            let conf = ShmemBox::conf(&observer);
            assert_eq!(*observer, VALUE, "{what}");
            conf.sweep();
            assert_eq!(conf.is_linked(), conf.segment_id() == ShmemBox::conf(&value).segment_id(), "{what}");
            assert_eq!(conf.attachment_count(), if conf.is_linked() { 2 } else { 1 }, "{what}");
            // Whoever leaves now does not take the name from those who stay, unless it owns it.
            drop(observer);
        }
        // And one that comes later finds the value, or makes a new segment if the owner has just left.
        *value = VALUE;
        let value = ShmemBox::own(value);
        if ShmemBox::conf(&value).is_owner() {
            let other = builder(name).attach().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(unsafe { *other.boxed::<u64>() }, VALUE, "{what}");
        }
        drop(value);
        assert!(!name.exists(), "{what}: the name is left behind");
    }
}

/// A child that attaches, and owns if that is the operation, and is killed.
fn die_attached(name: &str, operation: &str) {
    Tracer::start("operate", &[name, operation]).finish_operation();
}

macro_rules! killed_everywhere {
    ($($test:ident: $scene:expr;)*) => {
        $(#[test]
        fn $test() {
            $scene.kill_everywhere();
        })*
    };
}

killed_everywhere! {
    creating: Scene::new("create", Past::Nothing);
    creating_after_half_a_creation: Scene::new("create", Past::HalfFormed);
    opening_what_is_not_there: Scene::new("open", Past::Nothing);
    opening_what_was_leaked: Scene::new("open", Past::Leaked);
    opening_beside_the_owner: Scene::new("open", Past::Observed);
    adopting_an_orphan: Scene::new("open", Past::Orphaned);
    recreating_an_orphan: Scene { orphan: OrphanPolicy::Recreate, ..Scene::new("open", Past::Orphaned) };
    attaching_beside_the_dead: Scene::new("attach", Past::ObservedWithDead);
    becoming_owner: Scene::new("own", Past::Observed);
    leaving: Scene::new("leave", Past::Observed);
    leaving_as_owner: Scene::new("leave as owner", Past::Observed);
    leaving_as_owner_and_alone: Scene::new("leave as owner", Past::Leaked);
    leaving_before_the_observer: Scene { first: First::ObserverLeaves, ..Scene::new("leave as owner", Past::Observed) };
    leaving_last: Scene { unlink: UnlinkPolicy::LastDetach, ..Scene::new("leave", Past::Leaked) };
    leaking: Scene::new("leak", Past::Observed);
    sweeping: Scene::new("sweep", Past::ObservedWithDead);
    unlinking_as_administrator: Scene::new("unlink", Past::Observed);
    unlinking_before_the_observer_leaves: Scene { first: First::ObserverLeaves, ..Scene::new("unlink", Past::Observed) };
    adopting_an_orphan_without_the_exclusive_lock: Scene { first: First::SharedLock, ..Scene::new("open", Past::Orphaned) };
    unlinking_an_orphan_as_administrator: Scene::new("unlink", Past::Orphaned);
}
