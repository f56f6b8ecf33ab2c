//! Two processes that share an arena, one of which may have 32 bits and the other 64
//!
//! All is done by two sides in turn: this process, and a child. The child is this very test binary, or, if `SHMEM_BIND_PEER`
//! says where it is, the same one built for another width:
//! ```text
//! cargo test --no-run --target i686-unknown-linux-gnu --test widths
//! SHMEM_BIND_PEER=target/i686-unknown-linux-gnu/debug/deps/widths-... cargo test --test widths -- --include-ignored
//! ```
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::arena::{Allocator, Random};
use common::pair::{PATIENCE, Pair};
use common::{Child, Parent, TestName};
use shmem_bind::sync::{LockError, Mutex};
use shmem_bind::{
    Arena, Builder, Bump, DirectoryError, Handle, Object, RegionAllocator, ReservePolicy, Shareable,
    ShmemArc, ShmemBox, ShmemError, SizeError, Slab, Tlsf, UnlinkPolicy, shareable,
};
use std::any::Any;
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::Duration;

const PEER: &str = "SHMEM_BIND_PEER";

with_each_allocator! {
    what_one_publishes_the_other_finds,
    what_one_leaks_the_other_claims,
    both_count_under_a_mutex,
    a_mutex_of_the_dead_is_taken_over,
    what_the_dead_held_is_given_back,
    whoever_is_killed_anywhere_leaves_a_sound_arena,
    both_see_that_it_grows,
}

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("tlsf", obey_all::<Tlsf>),
        ("slab", obey_all::<Slab>),
        ("bump", obey_all::<Bump>),
        ("look", look_at_large),
    ]);
}

shareable! {
    /// The same everywhere: each number lies at a multiple of its size, and there is no padding.
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Plain {
        long: u64,
        short: u32,
        shorter: u16,
        bytes: [u8; 2],
        float: f64,
    }
}

shareable! {
    /// Its second field lies at 4 or at 8.
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Padded {
        short: u32,
        long: u64,
    }
}

const PLAIN: Plain = Plain { long: 1 << 63 | 5, short: 7, shorter: 9, bytes: [1, 2], float: -0.5 };
const TEXT: &str = "the same bytes";

/// One of the two, as far as it is in this process.
struct Side<A> {
    arena: Arena<A>,
    held: Vec<Box<dyn Any>>,
    random: Random,
}

impl<A: RegionAllocator> Side<A> {
    /// Opens the segment: `size` bytes, and at most `max`.
    fn open(name: &str, size: u64, max: u64) -> Self {
        let builder = Builder::new(name).timeout(PATIENCE).unlink_policy(UnlinkPolicy::Never);
        let arena = builder.with_size(size).max_size(max).open().unwrap().arena().unwrap();
        Self { arena, held: Vec::new(), random: Random::new(1) }
    }

    fn publish<T: Object + Sync + ?Sized>(&mut self, name: &str, made: ShmemBox<T>) {
        let shared = ShmemBox::into_arc(made);
        self.arena.publish(name, &shared).unwrap();
        self.held.push(Box::new(shared));
    }

    fn alloc<T: Shareable>(&self, value: T) -> ShmemBox<T> {
        self.arena.alloc(value).map_err(|rejected| rejected.error).unwrap()
    }

    /// One of each sort.
    fn publish_all(&mut self) {
        self.publish("u64", self.alloc(u64::MAX - 1));
        self.publish("i64", self.alloc(i64::MIN));
        self.publish("f64", self.alloc(1.5_f64));
        self.publish("u128", self.alloc(3_u128 << 100));
        self.publish("plain", self.alloc(PLAIN));
        self.publish("plains", self.arena.alloc_slice(5, PLAIN).unwrap());
        self.publish("text", self.arena.alloc_str(TEXT).unwrap());
        self.publish("nothings", self.arena.alloc_slice(1000, ()).unwrap());
        self.publish("atomic", self.alloc(AtomicU64::new(1 << 40)));
        let inner = ShmemBox::leak(self.alloc(PLAIN));
        self.publish("handle", self.alloc(inner));
        self.publish("padded", self.alloc(Padded { short: 1, long: 2 }));
        self.publish("usize", self.alloc(3_usize));
    }

    fn found<T: Object + Sync + ?Sized>(&self, name: &str) -> ShmemArc<T> {
        self.arena.find(name).unwrap()
    }

    /// What [`publish_all`](Self::publish_all) has published, by whichever side.
    fn find_all(&self) {
        assert_eq!(*self.found::<u64>("u64"), u64::MAX - 1);
        assert_eq!(*self.found::<i64>("i64"), i64::MIN);
        assert_eq!(*self.found::<f64>("f64"), 1.5);
        assert_eq!(*self.found::<u128>("u128"), 3 << 100);
        assert_eq!(*self.found::<Plain>("plain"), PLAIN);
        assert_eq!(*self.found::<[Plain]>("plains"), [PLAIN; 5]);
        assert_eq!(&*self.found::<str>("text"), TEXT);
        assert_eq!(self.found::<[()]>("nothings").len(), 1000);
        assert_eq!(self.found::<AtomicU64>("atomic").fetch_add(1, SeqCst) >> 40, 1);
        let inner = self.arena.claim(*self.found::<Handle<Plain>>("handle")).unwrap();
        assert_eq!(*inner, PLAIN);
        let names = self.arena.names().map(Result::unwrap).count();
        assert_eq!(names, 12);
    }

    /// Finds what is not the same everywhere; gives the error's sentence.
    fn find_odd(&self) -> [String; 2] {
        fn sentence<T>(found: Result<ShmemArc<T>, DirectoryError>) -> String {
            found.map_or_else(|error| error.to_string(), |_| "found".to_owned())
        }
        [sentence(self.arena.find::<Padded>("padded")), sentence(self.arena.find::<usize>("usize"))]
    }

    fn mutex(&self) -> ShmemArc<Mutex<Pair>> {
        self.arena.find_or_alloc("pair", || Mutex::new(Pair::of(0))).unwrap()
    }

    /// Adds one to both numbers, `times` times.
    fn count(&self, times: u64) {
        let mutex = self.mutex();
        for _ in 0..times {
            let mut pair = mutex.lock_for(PATIENCE).unwrap();
            pair.first += 1;
            pair.second += 1;
        }
    }

    /// Allocates and gives back, publishes and unpublishes, and is perhaps killed in it.
    fn churn(&mut self, steps: u64) {
        let mut kept: Vec<ShmemBox<[u8]>> = Vec::new();
        for step in 0..steps {
            if kept.len() < 20 {
                let len = self.random.below(900) as usize;
                // `Bump` does not find room for ever.
                kept.extend(self.arena.alloc_slice(len, step as u8));
            }
            if !kept.is_empty() && self.random.below(2) == 0 {
                drop(kept.swap_remove(self.random.below(kept.len() as u64) as usize));
            }
            if step % 8 == 0 {
                let name = format!("churned {}", self.random.below(20));
                match self.arena.unpublish::<AtomicU32>(&name) {
                    Ok(_) | Err(DirectoryError::NotFound) => {}
                    Err(error) => panic!("{error}"),
                }
                if let Ok(made) = self.arena.alloc(AtomicU32::new(0)) {
                    match self.arena.publish(&name, &ShmemBox::into_arc(made)) {
                        Ok(()) | Err(DirectoryError::Taken | DirectoryError::Alloc(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }

    /// Does what it is told, and answers.
    fn obey(&mut self, order: &str) -> String {
        let (verb, number) = order.split_once(' ').unwrap_or((order, "0"));
        let number: u128 = number.parse().unwrap();
        match verb {
            "publish" => self.publish_all(),
            "find" => self.find_all(),
            "find-odd" => return self.find_odd().join("\t"),
            "leak" => {
                let long = number as u64;
                return ShmemBox::leak(self.alloc(Plain { long, ..PLAIN })).to_bits().to_string();
            }
            "claim" => return self.arena.claim(Handle::<Plain>::from_bits(number)).unwrap().long.to_string(),
            "count" => self.count(number as u64),
            "begin" => {
                let mutex = self.mutex();
                let mut pair = mutex.lock_for(PATIENCE).unwrap();
                pair.first += 1;
                std::mem::forget(pair);
                self.held.push(Box::new(mutex));
            }
            "mend" => {
                let mutex = self.mutex();
                match mutex.lock_for(PATIENCE) {
                    Err(LockError::Orphaned(orphaned)) => drop(orphaned.replace(Pair::of(100))),
                    Ok(_) => return "whole".to_owned(),
                    Err(error) => return error.to_string(),
                }
            }
            "sum" => {
                let pair = *self.mutex().lock_for(PATIENCE).unwrap();
                return format!("{} {}", pair.first, pair.second);
            }
            "hold" => {
                for len in 0..number as usize {
                    self.held.push(Box::new(self.arena.alloc_slice(len * 10, 1_u64).unwrap()));
                }
                self.held.push(Box::new(self.found::<AtomicU64>("atomic")));
            }
            "churn" => self.churn(number as u64),
            "grow" => self.arena.grow(number as usize).unwrap(),
            "size" => return self.arena.size().to_string(),
            "blocks" => return self.arena.usage().unwrap().blocks.to_string(),
            "sweep" => return self.arena.sweep().unwrap().to_string(),
            "check" => self.arena.check().unwrap(),
            "width" => return usize::BITS.to_string(),
            _ => panic!("{order:?}"),
        }
        "ok".to_owned()
    }
}

/// The role of a child.
fn obey_all<A: RegionAllocator>(parent: &mut Parent) {
    let number = |index| parent.argument(index).parse().unwrap();
    let mut side = Side::<A>::open(parent.argument(0), number(1), number(2));
    parent.say("ready");
    while let Some(order) = parent.hear() {
        let answer = side.obey(&order);
        parent.say(&answer);
    }
}

const SIZE: u64 = 1 << 20;

/// The program of the child.
fn peer() -> PathBuf {
    env::var_os(PEER).map_or_else(|| env::current_exe().unwrap(), PathBuf::from)
}

/// What `.ci/run` wants to be sure of: that the child is of another width.
#[test]
#[ignore = "wants the test built for another width, in SHMEM_BIND_PEER"]
fn the_other_one_is_of_another_width() {
    let name = TestName::new("width");
    let mut there = Who::<Tlsf>::there(&name, SIZE);
    assert_ne!(there.ask("width"), usize::BITS.to_string());
}

/// The two.
enum Who<A> {
    Here(Side<A>),
    There(Child),
}

impl<A: Allocator> Who<A> {
    fn here(name: &str, max: u64) -> Self {
        Self::Here(Side::open(name, SIZE, max))
    }

    fn there(name: &str, max: u64) -> Self {
        let arguments = [name, &SIZE.to_string(), &max.to_string()];
        let child = Child::spawn_by(Command::new(peer()), A::NAME, &arguments);
        child.expect("ready");
        Self::There(child)
    }

    #[track_caller]
    fn ask(&mut self, order: &str) -> String {
        match self {
            Self::Here(side) => side.obey(order),
            Self::There(child) => {
                child.say(order);
                child.hear()
            }
        }
    }

    #[track_caller]
    fn tell(&mut self, order: &str) {
        assert_eq!(self.ask(order), "ok", "{order}");
    }

    fn start(&mut self, order: &str) {
        match self {
            Self::Here(_) => panic!("one does not wait for oneself"),
            Self::There(child) => child.say(order),
        }
    }

    fn kill(self) {
        match self {
            Self::Here(_) => panic!("one does not kill oneself"),
            Self::There(mut child) => child.kill(),
        }
    }
}

/// Runs a test with this process as the first, which makes the segment, and with the child as the first.
fn in_turn<A: Allocator>(label: &str, test: impl Fn(&mut Who<A>, &mut Who<A>)) {
    let name = TestName::new(label);
    let (mut here, mut there) = (Who::<A>::here(&name, SIZE), Who::there(&name, SIZE));
    test(&mut here, &mut there);
    here.tell("check");
    there.tell("check");
    drop((here, there, name));
    let name = TestName::new(label);
    let mut there = Who::<A>::there(&name, SIZE);
    let mut here = Who::here(&name, SIZE);
    test(&mut there, &mut here);
    here.tell("check");
    there.tell("check");
}

fn what_one_publishes_the_other_finds<A: Allocator>() {
    in_turn::<A>("publish", |one, other| {
        one.tell("publish");
        other.tell("find");
        let widths = [one.ask("width"), other.ask("width")];
        let [padded, address] =
            other.ask("find-odd").split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        if widths[0] == widths[1] {
            assert_eq!((padded.as_str(), address.as_str()), ("found", "found"));
        } else {
            let (padded_sizes, address_sizes) =
                if widths[0] == "32" { ((12, 16), (4, 8)) } else { ((16, 12), (8, 4)) };
            let says = |text: &str, (found, asked)| {
                text.contains(&format!("its size is {found} bytes and not {asked}"))
            };
            assert!(says(&padded, padded_sizes), "{padded}");
            assert!(says(&address, address_sizes), "{address}");
            assert!(!padded.contains("alignment"), "{padded}");
        }
    });
}

fn what_one_leaks_the_other_claims<A: Allocator>() {
    in_turn::<A>("leak", |one, other| {
        let blocks = one.ask("blocks");
        for number in [0, 1 << 40, u64::MAX] {
            for _ in 0..3 {
                let bits = one.ask(&format!("leak {number}"));
                assert_eq!(other.ask(&format!("claim {bits}")), number.to_string());
                let bits = other.ask(&format!("leak {number}"));
                assert_eq!(one.ask(&format!("claim {bits}")), number.to_string());
            }
        }
        assert_eq!(other.ask("blocks"), blocks);
    });
}

fn both_count_under_a_mutex<A: Allocator>() {
    let name = TestName::new("count");
    let (mut here, mut there) = (Who::<A>::here(&name, SIZE), Who::<A>::there(&name, SIZE));
    here.tell("count 1");
    there.start("count 3000");
    here.tell("count 3000");
    let Who::There(child) = &there else { unreachable!() };
    child.expect("ok");
    assert_eq!([here.ask("sum"), there.ask("sum")], ["6001 6001", "6001 6001"]);
}

fn a_mutex_of_the_dead_is_taken_over<A: Allocator>() {
    let name = TestName::new("mutex");
    let mut here = Who::<A>::here(&name, SIZE);
    here.tell("count 5");
    let mut there = Who::<A>::there(&name, SIZE);
    there.tell("begin");
    there.kill();
    here.tell("mend");
    assert_eq!(here.ask("mend"), "whole");
    assert_eq!(here.ask("sum"), "100 100");
    // The next one of the same width mends it, and dies with it too.
    let mut first = Who::<A>::there(&name, SIZE);
    let mut second = Who::<A>::there(&name, SIZE);
    first.tell("begin");
    first.kill();
    second.tell("mend");
    second.tell("begin");
    second.kill();
    here.tell("mend");
    here.tell("check");
}

fn what_the_dead_held_is_given_back<A: Allocator>() {
    let name = TestName::new("sweep");
    let mut here = Who::<A>::here(&name, SIZE);
    here.tell("publish");
    let blocks = here.ask("blocks");
    for _ in 0..2 {
        let mut there = Who::<A>::there(&name, SIZE);
        there.tell("hold 10");
        assert_ne!(here.ask("blocks"), blocks);
        there.kill();
        let swept = here.ask("sweep");
        let is_all = swept.starts_with("10 objects (")
            && swept.ends_with("1 reference and 0 locks of 1 dead attachment");
        assert!(is_all, "{swept}");
        assert_eq!(here.ask("blocks"), blocks);
    }
    // What has a name stays, whoever made it.
    let name = TestName::new("sweep");
    let mut there = Who::<A>::there(&name, SIZE);
    there.tell("publish");
    let mut here = Who::<A>::here(&name, SIZE);
    there.kill();
    assert!(here.ask("sweep").contains("12 references"));
    here.tell("find");
    here.tell("check");
}

fn whoever_is_killed_anywhere_leaves_a_sound_arena<A: Allocator>() {
    let name = TestName::new("churn");
    let mut here = Who::<A>::here(&name, SIZE);
    for round in 0..6 {
        let mut there = Who::<A>::there(&name, SIZE);
        there.start("churn 1000000000");
        here.tell("churn 100");
        sleep(Duration::from_micros(300 * round));
        there.kill();
        here.tell("check");
        here.tell("churn 100");
        here.ask("sweep");
        here.tell("check");
    }
}

fn both_see_that_it_grows<A: Allocator>() {
    let name = TestName::new("grow");
    let max = 4 * SIZE;
    let (mut here, mut there) = (Who::<A>::here(&name, max), Who::<A>::there(&name, max));
    assert_eq!([here.ask("size"), there.ask("size")], [SIZE.to_string(), SIZE.to_string()]);
    there.tell(&format!("grow {}", 2 * SIZE));
    assert_eq!(here.ask("size"), (2 * SIZE).to_string());
    here.tell(&format!("grow {max}"));
    assert_eq!(there.ask("size"), max.to_string());
    there.tell("publish");
    here.tell("find");
    there.tell("check");
}

/// A segment of many GiB, of which nothing is used.
fn large(name: &str) -> Arena<Tlsf> {
    let builder = Builder::new(name).unlink_policy(UnlinkPolicy::Never).reserve_policy(ReservePolicy::Lazy);
    builder.with_size(5_u64 << 30).create().unwrap().arena().unwrap()
}

fn look_at_large(parent: &mut Parent) {
    let attached = Builder::new(parent.argument(0)).attach();
    parent.say(&attached.map_or_else(|error| error.to_string(), |conf| conf.max_size().to_string()));
}

#[test]
fn what_is_too_large_for_an_address_space_is_an_error() {
    let name = TestName::new("large");
    if usize::BITS == 64 {
        let arena = large(&name);
        let child = Child::spawn_by(Command::new(peer()), "look", &[&name]);
        let answer = child.hear();
        assert!(
            answer == (5_u64 << 30).to_string()
                || answer.starts_with("the size is beyond the address space of this process"),
            "{answer}"
        );
        drop(arena);
    } else {
        let error = Builder::new(&name).with_size(5_u64 << 30).create().unwrap_err();
        assert!(matches!(error, ShmemError::Size(SizeError::TooLarge { .. })), "{error}");
    }
}
