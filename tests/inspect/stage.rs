//! What the tests of the inspector share: the program and its answers, and children that have something in a segment

use crate::common::arena::{Allocator, Random};
use crate::common::{Child, Parent, TestName, path_of};
use serde_json::Value;
use shmem_bind::{
    Arena, Builder, Bump, DirectoryError, OrphanPolicy, ShmemArc, ShmemBox, Slab, Tlsf, UnlinkPolicy,
};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicU64;

/// The program, which `cargo test` builds beside the tests.
pub fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", "inspect"]);
    path
}

/// What an inspector said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        // A signal has no code, and no test expects one.
        let code = output.status.code().unwrap_or(-1);
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, of an inspector that is content.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let missing: Vec<_> = words.iter().filter(|words| !self.out.contains(**words)).collect();
        assert!(missing.is_empty(), "{missing:?} not in\n{}{}", self.out, self.err);
        self
    }
}

/// Inspects, without a terminal.
pub fn inspect(arguments: &[&str]) -> Said {
    Said::of(Command::new(program()).args(arguments).stdin(Stdio::null()).output().unwrap())
}

/// The state in a report's verdict.
pub fn state(report: &Value) -> &str {
    report["verdict"]["state"].as_str().unwrap()
}

/// The bytes of a segment's file.
pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(path_of(name)).unwrap()
}

/// Puts a word of any meaning into a segment.
pub fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
}

/// Bytes of the payload.
pub const SIZE: usize = 64 * 1024;

pub fn open<A: Allocator>(name: &str, policies: &str) -> Arena<A> {
    let mut builder = Builder::new(name);
    for policy in policies.split_ascii_whitespace() {
        builder = match policy {
            "last" => builder.unlink_policy(UnlinkPolicy::LastDetach),
            "refuse" => builder.orphan_policy(OrphanPolicy::Refuse),
            "recreate" => builder.orphan_policy(OrphanPolicy::Recreate),
            _ => panic!("{policy} is no policy"),
        };
    }
    builder.with_size(SIZE).open().unwrap().arena::<A>().unwrap()
}

/// What a holder has: two boxes, and two references of which one has a name.
#[allow(dead_code)] // They are held, and that is all.
pub struct Held {
    boxes: [ShmemBox<[u8]>; 2],
    named: ShmemArc<u64>,
    nameless: ShmemArc<AtomicU64>,
}

impl Held {
    pub fn hold<A: Allocator>(arena: &Arena<A>) -> Self {
        let boxes = [arena.alloc_slice(100, 1).unwrap(), arena.alloc_slice(1000, 2).unwrap()];
        let named = arena.find_or_alloc("shared <&> \"\u{1b}[31m", || 7_u64).unwrap();
        let pinned = ShmemBox::into_arc(arena.alloc_str("good morning").unwrap());
        match arena.publish_pinned("motd", &pinned) {
            Ok(()) | Err(DirectoryError::Taken) => {}
            Err(error) => panic!("{error}"),
        }
        Self { boxes, named, nameless: ShmemBox::into_arc(arena.alloc(AtomicU64::new(1)).unwrap()) }
    }
}

fn with_allocator(parent: &mut Parent, [tlsf, slab, bump]: [fn(&mut Parent, &str, &str); 3]) {
    let [name, allocator, policies] = [0, 1, 2].map(|index| parent.argument(index).to_owned());
    let run = match allocator.as_str() {
        Tlsf::NAME => tlsf,
        Slab::NAME => slab,
        _ => bump,
    };
    run(parent, &name, &policies);
}

/// The role: holds something until it is told to leave, or killed.
pub fn hold(parent: &mut Parent) {
    fn run<A: Allocator>(parent: &mut Parent, name: &str, policies: &str) {
        let arena = open::<A>(name, policies);
        let _held = Held::hold(&arena);
        parent.say("holds");
        parent.hear();
    }
    with_allocator(parent, [run::<Tlsf>, run::<Slab>, run::<Bump>]);
}

/// The role: does all sorts of things, without end.
pub fn churn(parent: &mut Parent) {
    fn run<A: Allocator>(parent: &mut Parent, name: &str, policies: &str) {
        let mut arena = open::<A>(name, policies);
        let mut random = Random::new(7);
        parent.say("churns");
        let mut boxes: Vec<ShmemBox<[u8]>> = Vec::new();
        loop {
            match random.below(8) {
                0..=2 if boxes.len() < 20 => match arena.alloc_slice(random.index(900), 3) {
                    Ok(made) => boxes.push(made),
                    // Full for good: this is the owner, and makes it anew.
                    Err(_) if !A::HOLES_ARE_USED => {
                        boxes.clear();
                        drop(arena);
                        arena = open::<A>(name, policies);
                    }
                    Err(_) => {}
                },
                3 | 4 if !boxes.is_empty() => drop(boxes.swap_remove(random.index(boxes.len()))),
                5 => {
                    if let Ok(object) = arena.alloc(5_u64) {
                        drop(arena.claim(ShmemBox::leak(object)).unwrap());
                    }
                }
                6 => {
                    // Another one may be at the same name.
                    let name = format!("name {}", random.below(4));
                    if let Ok(object) = arena.alloc(5_u64) {
                        let _ = arena.publish(&name, &ShmemBox::into_arc(object));
                    }
                    let _ = arena.unpublish::<u64>(&name);
                }
                _ => {}
            }
        }
    }
    with_allocator(parent, [run::<Tlsf>, run::<Slab>, run::<Bump>]);
}

/// The role: creates the segment and destroys it, again and again.
pub fn reborn(parent: &mut Parent) {
    let name = parent.argument(0).to_owned();
    parent.say("begins");
    loop {
        drop(Builder::new(&name).with_size(SIZE).open().map(|segment| segment.arena::<Tlsf>()));
    }
}

pub fn holder<A: Allocator>(name: &TestName, policies: &str) -> Child {
    let child = Child::spawn("hold", &[name, A::NAME, policies]);
    child.expect("holds");
    child
}
