//! A child that does with one segment what it is told, line by line, and a value that counts its destructions
//!
//! `Worker::spawn` runs the role `work`, which a test file enters as `("work", worker::work)`.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

use super::{Child, Parent};
use shmem_bind::{
    Builder, BuilderWithSize, OrphanPolicy, ReadRef, ShmemBox, ShmemConf, ShmemError, UnlinkPolicy,
};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    static DESTROYED: Cell<u32> = const { Cell::new(0) };
}

/// How many values this thread has destroyed.
pub fn destroyed() -> u32 {
    DESTROYED.get()
}

/// What the segments hold; zeros are a valid one.
#[derive(Debug)]
#[repr(C)]
pub struct Value {
    pub number: u64,
    was_destroyed: u64,
}

/// A value with this number panics in its destructor.
pub const PANICS: u64 = u64::MAX;

impl Drop for Value {
    fn drop(&mut self) {
        assert_eq!(self.was_destroyed, 0, "a value is destroyed once, in whichever process");
        self.was_destroyed = 1;
        DESTROYED.set(DESTROYED.get() + 1);
        if self.number == PANICS {
            // As told, and without a message.
            resume_unwind(Box::new("the destructor panics"));
        }
    }
}

/// Makes a box of a segment that holds a [`Value`].
pub fn boxed(conf: ShmemConf) -> ShmemBox<Value> {
    unsafe { conf.boxed() }
}

/// The builder that all processes of a test use for a segment, in words: `last-detach`, `never`, `recreate`,
/// `refuse`.
pub fn builder(name: &str, policies: &str) -> BuilderWithSize {
    let mut builder = Builder::new(name);
    for policy in policies.split_ascii_whitespace() {
        builder = match policy {
            "last-detach" => builder.unlink_policy(UnlinkPolicy::LastDetach),
            "never" => builder.unlink_policy(UnlinkPolicy::Never),
            "recreate" => builder.orphan_policy(OrphanPolicy::Recreate),
            "refuse" => builder.orphan_policy(OrphanPolicy::Refuse),
            _ => panic!("{policy} is no policy"),
        };
    }
    builder.with_size(size_of::<Value>())
}

/// A process with at most one handle, or several that are nothing but attached.
#[derive(Debug)]
pub struct Worker(Child);

impl Worker {
    pub fn spawn(name: &str, policies: &str) -> Self {
        Self(Child::spawn("work", &[name, policies]))
    }

    /// Spawns a worker that opens and boxes the segment.
    #[track_caller]
    pub fn with_box(name: &str, policies: &str) -> Self {
        let mut worker = Self::spawn(name, policies);
        worker.tell("open");
        worker.tell("box");
        worker
    }

    #[track_caller]
    pub fn ask(&mut self, question: &str) -> String {
        self.0.say(question);
        self.0.hear()
    }

    /// Gives an order, which must succeed.
    #[track_caller]
    pub fn tell(&mut self, order: &str) {
        assert_eq!(self.ask(order), "ok", "{order}");
    }

    #[track_caller]
    pub fn number(&mut self, question: &str) -> u64 {
        self.ask(question).parse().unwrap()
    }

    #[track_caller]
    pub fn is(&mut self, what: &str) -> bool {
        self.ask(what).parse().unwrap()
    }

    pub fn finish(self) {
        self.0.finish();
    }
}

impl Deref for Worker {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Worker {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Confs(Vec<ShmemConf>),
    Box(ShmemBox<Value>),
    View(ReadRef<Value>),
}

impl Held {
    fn conf(&self) -> &ShmemConf {
        match self {
            Self::Confs(confs) => &confs[0],
            Self::Box(value) => ShmemBox::conf(value),
            Self::View(value) => ReadRef::conf(value),
            Self::Nothing => panic!("the worker has no handle"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Box(value) => value.number,
            Self::View(value) => value.number,
            _ => panic!("the worker has no value"),
        }
    }

    fn set(&mut self, number: u64) {
        let Self::Box(value) = self else { panic!("the worker has no value to change") };
        value.number = number;
    }

    fn into_conf(self) -> ShmemConf {
        let Self::Confs(mut confs) = self else { panic!("the worker has no bare handle") };
        confs.pop().unwrap()
    }

    fn leak(self) {
        match self {
            Self::Box(value) => {
                ShmemBox::leak(value);
            }
            other => other.into_conf().leak(),
        }
    }
}

/// The role: obeys until there is nothing more to do, then detaches and ends.
pub fn work(parent: &mut Parent) {
    let (name, policies) = (parent.argument(0).to_owned(), parent.argument(1).to_owned());
    let mut held = Held::Nothing;
    while let Some(order) = parent.hear() {
        let answer = obey(&mut held, &name, &policies, &order);
        parent.say(&answer);
    }
}

fn obey(held: &mut Held, name: &str, policies: &str, order: &str) -> String {
    let done = || "ok".to_owned();
    let mut hold = |opened: Result<ShmemConf, ShmemError>| match opened {
        Ok(conf) => {
            match held {
                Held::Confs(confs) => confs.push(conf),
                _ => *held = Held::Confs(vec![conf]),
            }
            done()
        }
        Err(error) => format!("{error:?}"),
    };
    let (verb, number) = match order.split_once(' ') {
        Some((verb, number)) => (verb, number.parse().unwrap()),
        None => (order, 0),
    };
    match verb {
        "open" => hold(builder(name, policies).open()),
        "create" => hold(builder(name, policies).create()),
        "attach" => hold(Builder::new(name).attach()),
        "attach-read-only" => hold(Builder::new(name).attach_read_only()),
        "box" => {
            *held = Held::Box(boxed(std::mem::take(held).into_conf()));
            done()
        }
        "view" => {
            *held = Held::View(unsafe { std::mem::take(held).into_conf().read_ref() }.unwrap());
            done()
        }
        "own" => held.conf().try_own().map_or_else(|error| format!("{error:?}"), |()| done()),
        "drop" => match catch_unwind(AssertUnwindSafe(|| drop(std::mem::take(held)))) {
            Ok(()) => done(),
            Err(_) => "panicked".to_owned(),
        },
        "leak" => {
            std::mem::take(held).leak();
            done()
        }
        "set" => {
            held.set(number);
            done()
        }
        "number" => held.number().to_string(),
        "sweep" => held.conf().sweep().to_string(),
        "count" => held.conf().attachment_count().to_string(),
        "owner" => held.conf().owner_pid().map_or("nobody".to_owned(), |pid| pid.to_string()),
        "id" => held.conf().segment_id().to_string(),
        "is-owner" => held.conf().is_owner().to_string(),
        "is-linked" => held.conf().is_linked().to_string(),
        "destroyed" => destroyed().to_string(),
        _ => panic!("the worker does not understand {order:?}"),
    }
}
