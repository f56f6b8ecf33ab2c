//! What becomes of the objects of processes that are killed, stopped or left as zombies
//!
//! What a dead process held is given back by those who live on or come later, without its destructors; what it gave
//! away stays. Wherever it was killed, in the middle of an allocation too, the others go on.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::arena::{Alarm, Allocator, Control, Counted, Random, Stamped};
use common::arena::{assert_empty, open, prepare, random_len};
use common::{Child, Parent, TestName};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use shmem_bind::{
    AllocError, Arena, ArenaError, Builder, Bump, DirectoryError, Handle, HandleError, MAX_ATTACHMENTS,
    Reclaimed, ShmemArc, ShmemBox, ShmemConf, Slab, Tlsf, Usage, shareable,
};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SIZE: usize = 16 << 20;
const LONG: Duration = Duration::from_secs(50);

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("hold tlsf", hold::<Tlsf>),
        ("hold slab", hold::<Slab>),
        ("hold bump", hold::<Bump>),
        ("restart tlsf", restart::<Tlsf>),
        ("restart slab", restart::<Slab>),
        ("restart bump", restart::<Bump>),
        ("work tlsf", work::<Tlsf>),
        ("work slab", work::<Slab>),
        ("work bump", work::<Bump>),
        ("reopen tlsf", reopen::<Tlsf>),
        ("reopen slab", reopen::<Slab>),
        ("reopen bump", reopen::<Bump>),
        ("format tlsf", format::<Tlsf>),
        ("format slab", format::<Slab>),
        ("format bump", format::<Bump>),
        ("crowd", crowd),
        ("attach", attach),
        ("wait", wait),
    ]);
}

with_each_allocator! {
    a_survivor_gives_back_what_the_dead_held,
    a_zombie_is_dead,
    the_next_opener_gives_back_what_all_held,
    processes_are_killed_at_any_time,
    all_processes_are_killed_at_any_time,
    one_that_comes_and_goes_is_killed_at_any_time,
    formatters_are_killed_at_any_time,
}

/// A segment, and the one that counts.
struct Stage {
    name: TestName,
    control_name: TestName,
    control: &'static Control,
}

impl Stage {
    fn new(label: &str) -> Self {
        let control_name = TestName::new("control");
        let control = Control::open(&control_name);
        Self { name: TestName::new(label), control_name, control }
    }

    fn spawn<A: Allocator>(&self, role: &str, argument: &str) -> Child {
        let role = format!("{role} {}", A::NAME);
        Child::spawn(&role, &[&self.name, &self.control_name, argument])
    }

    fn open<A: Allocator>(&self) -> Arena<A> {
        open(&self.name, SIZE)
    }
}

/// What one that [holds](hold) holds of its own.
const BOXES: u64 = 50;
const SLICES: u64 = 20;
const SHARED: u64 = 10;
/// What it gives away.
const NAMED: u64 = 5;
const LEAKED: u64 = 5;

/// Objects of a process, that are given back when it dies, without a destructor.
const MORTAL: u64 = BOXES + SHARED;

/// Attaches, and holds all that a process can hold, until it is killed.
fn hold<A: Allocator>(parent: &mut Parent) {
    let _control = Control::open(parent.argument(1));
    let arena: Arena<A> = attached(parent.argument(0));
    let label = parent.argument(2).to_owned();
    let counted = |mark| arena.alloc(Counted::new(mark)).unwrap();
    let _boxes: Vec<_> = (0..BOXES).map(counted).collect();
    let mut random = Random::new(0);
    let mut slice = |number| {
        let bytes = arena.alloc_slice(random_len(&mut random), 0).unwrap();
        Stamped::stamp(bytes, number)
    };
    let _slices: Vec<_> = (0..SLICES).map(&mut slice).collect();
    let shared: Vec<_> = (0..SHARED).map(counted).map(ShmemBox::into_arc).collect();
    let _clones = shared.clone();
    let mut named: Vec<_> = (0..NAMED).map(counted).map(ShmemBox::into_arc).collect();
    for (index, object) in named.iter().enumerate() {
        arena.publish(&format!("{label} {index}"), object).unwrap();
    }
    // Some of its own it finds, some it gives up.
    let _found: Vec<_> = (0..2).map(|_| arena.find::<Counted>(&format!("{label} 1")).unwrap()).collect();
    drop(named.swap_remove(0));
    let _of_another = arena.find::<Counted>("of the survivor");
    let _uninit = arena.alloc_uninit::<[u64; 100]>().unwrap();
    let handles = (0..LEAKED).map(|mark| format!("{:x}", ShmemBox::leak(counted(mark)).to_bits()));
    parent.say(&handles.collect::<Vec<_>>().join(" "));
    parent.hear();
}

fn attached<A: Allocator>(name: &str) -> Arena<A> {
    Builder::new(name).timeout(LONG).attach().unwrap().arena().unwrap()
}

/// Comes after one that was killed, and finds what that one gave away.
fn restart<A: Allocator>(parent: &mut Parent) {
    let _control = Control::open(parent.argument(1));
    let arena: Arena<A> = attached(parent.argument(0));
    let argument = parent.argument(2).to_owned();
    let (label, handles) = argument.split_once(' ').unwrap();
    for index in 0..NAMED {
        assert_eq!(arena.find::<Counted>(&format!("{label} {index}")).unwrap().mark(), index);
    }
    for (index, handle) in handles.split(' ').enumerate().take(2) {
        let handle = Handle::<Counted>::from_bits(u128::from_str_radix(handle, 16).unwrap());
        assert_eq!(arena.claim(handle).unwrap().mark(), index as u64);
    }
    parent.say("done");
}

/// How many blocks those take that a name, or a handle, leads to: a name has one of its own.
fn given_away<A: Allocator>(arena: &Arena<A>) -> u64 {
    (2 * arena.names().count() + arena.leaked().count()) as u64
}

/// Takes back what the dead have given away, which no process holds.
#[track_caller]
fn clear<A: Allocator>(arena: &Arena<A>) {
    let claim = |object: shmem_bind::LeakedObject| match object.handle::<Counted>() {
        Ok(handle) => drop(arena.claim(handle).unwrap()),
        Err(_) => drop(arena.claim(object.handle::<Sealed>().unwrap()).unwrap()),
    };
    arena.leaked().for_each(claim);
    let names: Vec<_> = arena.names().map(|entry| entry.unwrap().name().to_owned()).collect();
    for name in names {
        match arena.unpublish::<Counted>(&name) {
            Ok(object) => drop(ShmemArc::into_box(object).unwrap()),
            Err(_) => drop(ShmemArc::into_box(arena.unpublish::<Sealed>(&name).unwrap()).unwrap()),
        }
    }
}

#[track_caller]
fn one_dies_and_one_survives<A: Allocator>(is_zombie: bool) {
    let stage = Stage::new("survivor");
    let arena = stage.open::<A>();
    let start = prepare(&arena);
    let own = ShmemBox::into_arc(arena.alloc(Counted::new(77)).unwrap());
    arena.publish("of the survivor", &own).unwrap();
    let kept: Vec<_> = (0..100).map(|mark| arena.alloc(Counted::new(mark)).unwrap()).collect();
    let mut child = stage.spawn::<A>("hold", "dead");
    let handles = child.hear();
    assert_eq!(ShmemArc::holders(&own), 2);
    assert_eq!(arena.sweep().unwrap(), Reclaimed::default(), "nobody is dead yet");
    child.kill_to_zombie();
    if !is_zombie {
        child.kill();
    }

    let reclaimed = arena.sweep().unwrap();
    assert_eq!(reclaimed.objects, BOXES + SLICES + SHARED + 1);
    // Its names but the one that it gave up, and the survivor's object.
    assert_eq!(reclaimed.references, NAMED - 1 + 1);
    assert_eq!((arena.reclaimed(), arena.sweep().unwrap()), (reclaimed, Reclaimed::default()));
    assert_eq!(ShmemArc::holders(&own), 1);
    arena.check().unwrap();
    assert_eq!((arena.leaked().count() as u64, arena.names().count() as u64), (LEAKED, NAMED + 1));
    let usage = arena.usage().unwrap();
    assert_eq!(usage.blocks, start.blocks + kept.len() as u64 + LEAKED + 2 * (NAMED + 1));
    for entry in arena.names().map(Result::unwrap) {
        assert_eq!(entry.holders(), u32::from(entry.name() == "of the survivor"), "{entry:?}");
    }

    let next = stage.spawn::<A>("restart", &format!("dead {handles}"));
    next.expect("done");
    next.finish();
    assert_eq!(arena.leaked().count() as u64, LEAKED - 2);
    assert!(kept.iter().enumerate().all(|(index, object)| object.mark() == index as u64));
    drop((own, kept));
    clear(&arena);
    assert_empty(&arena, &start);
    assert_eq!((stage.control.living(), stage.control.twice()), (MORTAL, 0), "the dead destroy nothing");
    shmem_bind::unlink(&stage.name).unwrap();
}

fn a_survivor_gives_back_what_the_dead_held<A: Allocator>() {
    one_dies_and_one_survives::<A>(false);
}

fn a_zombie_is_dead<A: Allocator>() {
    one_dies_and_one_survives::<A>(true);
}

fn the_next_opener_gives_back_what_all_held<A: Allocator>() {
    const PROCESSES: u64 = 3;
    let stage = Stage::new("all");
    let start = prepare(&stage.open::<A>());
    let mut children: Vec<_> =
        (0..PROCESSES).map(|index| stage.spawn::<A>("hold", &format!("dead-{index}"))).collect();
    children.iter().for_each(|child| drop(child.hear()));
    children.iter().for_each(Child::kill_to_zombie);
    children.iter_mut().skip(1).for_each(Child::kill);

    let arena = stage.open::<A>();
    let reclaimed = arena.reclaimed();
    assert_eq!(reclaimed.objects, PROCESSES * (BOXES + SLICES + SHARED + 1));
    assert_eq!(reclaimed.references, PROCESSES * (NAMED - 1));
    assert_eq!(arena.usage().unwrap().blocks, start.blocks + PROCESSES * (LEAKED + 2 * NAMED));
    arena.check().unwrap();
    clear(&arena);
    assert_empty(&arena, &start);
    assert_eq!((stage.control.living(), stage.control.twice()), (PROCESSES * MORTAL, 0));
    shmem_bind::unlink(&stage.name).unwrap();
}

shareable! {
    /// An object that shows whether it lives.
    #[derive(Debug)]
    #[repr(C)]
    struct Sealed {
        number: u64,
        seal: u64,
    }
}

impl Sealed {
    fn new(number: u64) -> Self {
        Self { number, seal: !number }
    }

    fn check(&self) {
        assert_eq!(self.seal, !self.number, "not a living object");
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.check();
        self.seal = self.number;
    }
}

/// Does whatever can be done with an arena.
struct Worker<'a, A> {
    arena: &'a Arena<A>,
    random: Random,
    bytes: Vec<Stamped>,
    boxes: Vec<ShmemBox<Sealed>>,
    shared: Vec<ShmemArc<Sealed>>,
}

impl<'a, A: Allocator> Worker<'a, A> {
    const NAMES: u64 = 8;

    fn new(arena: &'a Arena<A>) -> Self {
        let (bytes, boxes, shared) = (Vec::new(), Vec::new(), Vec::new());
        Self { arena, random: Random::new(0), bytes, boxes, shared }
    }

    /// No memory is a matter of course for one that does not give any back meanwhile.
    #[track_caller]
    fn alloc_failed(&mut self, error: &AllocError) {
        assert!(matches!(error, AllocError::OutOfMemory { .. }), "{error:?}");
        self.bytes.clear();
        self.boxes.clear();
    }

    #[track_caller]
    fn expect_refusal(error: &DirectoryError) {
        use DirectoryError::{Alloc, NotFound, Published, Taken};
        assert!(
            matches!(error, NotFound | Taken | Published | Alloc(AllocError::OutOfMemory { .. })),
            "{error:?}"
        );
    }

    fn step(&mut self) {
        let arena = self.arena;
        let number = self.random.below(Self::NAMES);
        let name = format!("name {number}");
        match self.random.below(24) {
            0..4 => match arena.alloc_slice(random_len(&mut self.random), 0) {
                Ok(bytes) => self.bytes.push(Stamped::stamp(bytes, self.random.next())),
                Err(error) => self.alloc_failed(&error),
            },
            4..6 => match arena.alloc(Sealed::new(number)) {
                Ok(object) => self.boxes.push(object),
                Err(rejected) => self.alloc_failed(&rejected.error),
            },
            6..9 => {
                if !self.bytes.is_empty() {
                    let index = self.random.index(self.bytes.len());
                    self.bytes.swap_remove(index).check();
                }
            }
            9 => drop(self.boxes.pop()),
            10 => {
                // At most so many that the others keep up with them.
                if self.random.below(4) == 0 {
                    self.boxes.pop().map(ShmemBox::leak);
                }
            }
            11 => {
                let found = arena.leaked().next().map(|object| object.handle::<Sealed>());
                if let Some(Ok(handle)) = found {
                    match arena.claim(handle) {
                        Ok(object) => self.boxes.push(object),
                        Err(HandleError::Gone { .. } | HandleError::Stale { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            12..15 => {
                if let Some(object) = self.boxes.pop() {
                    let object = ShmemBox::into_arc(object);
                    match arena.publish(&format!("name {}", object.number), &object) {
                        Ok(()) => self.shared.push(object),
                        Err(error) => Self::expect_refusal(&error),
                    }
                }
            }
            15..17 => match arena.unpublish::<Sealed>(&name) {
                Ok(object) => self.shared.push(object),
                Err(error) => Self::expect_refusal(&error),
            },
            17..19 => match arena.find::<Sealed>(&name) {
                Ok(object) => {
                    assert_eq!(object.number, number);
                    self.shared.push(object.clone());
                }
                Err(error) => Self::expect_refusal(&error),
            },
            19 => match arena.find_or_alloc(&name, || Sealed::new(number)) {
                Ok(object) => assert_eq!(object.number, number),
                Err(error) => Self::expect_refusal(&error),
            },
            20 => {
                if let Some(object) = self.shared.pop() {
                    match ShmemArc::into_box(object) {
                        Ok(object) => self.boxes.push(object),
                        Err(object) => self.shared.push(object),
                    }
                }
            }
            21 => self.look_around(&name),
            _ => {
                if !self.shared.is_empty() {
                    let object = self.shared.swap_remove(self.random.index(self.shared.len()));
                    object.check();
                }
            }
        }
        if self.bytes.len() + self.boxes.len() + self.shared.len() > 200 {
            let kept = self.random.index(50);
            self.bytes.truncate(kept);
            self.boxes.truncate(kept);
            self.shared.truncate(kept);
        }
    }

    fn look_around(&mut self, name: &str) {
        let arena = self.arena;
        match self.random.below(8) {
            0 => arena.check().unwrap(),
            1 => drop(arena.usage().unwrap()),
            2 => drop(arena.sweep().unwrap()),
            3 => {
                if let Err(error) = arena.wait_for::<Sealed>(name, Duration::from_micros(10)) {
                    Self::expect_refusal(&error);
                }
            }
            4 => arena.names().for_each(|entry| assert!(entry.unwrap().is::<Sealed>())),
            5 => {
                let boxed = arena.alloc_with(|slot| slot.write(Sealed::new(0)));
                self.boxes.extend(boxed.ok());
            }
            6 => self.bytes.extend(arena.alloc_slice(0, 0).ok().map(|bytes| Stamped::stamp(bytes, 0))),
            _ => drop(arena.alloc_uninit::<[u64; 1000]>()),
        }
    }
}

/// Works until it is killed, or stopped by a word.
fn work<A: Allocator>(parent: &mut Parent) {
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(control);
    let arena: Arena<A> = attached(parent.argument(0));
    let mut worker = Worker::new(&arena);
    parent.say("working");
    while !control.stop.load(SeqCst) {
        worker.step();
        control.operations.fetch_add(1, SeqCst);
    }
    drop((worker, alarm));
    parent.say("done");
}

/// Works alone, and leaves and comes back every now and then: so it tidies up before and after.
fn reopen<A: Allocator>(parent: &mut Parent) {
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(control);
    parent.say("working");
    while !control.stop.load(SeqCst) {
        let arena: Arena<A> = open(parent.argument(0), SIZE);
        let mut worker = Worker::new(&arena);
        (0..50).for_each(|_| worker.step());
    }
    drop(alarm);
}

/// Nobody but the caller is attached, who holds `own` blocks.
#[track_caller]
fn settle<A: Allocator>(arena: &Arena<A>, start: &Usage, own: u64) {
    arena.sweep().unwrap();
    arena.check().unwrap();
    let usage = arena.usage().unwrap();
    assert_eq!(usage.blocks, start.blocks + own + given_away(arena), "{usage:?} after {start:?}");
    assert!(arena.names().all(|entry| entry.unwrap().holders() == 0));
    assert_eq!(arena.conf().attachment_count(), 1);
    clear(arena);
    arena.check().unwrap();
    assert_eq!(arena.usage().unwrap().blocks, start.blocks + own);
}

/// Kills one of two workers at a time, and now and then both, beside a survivor.
#[track_caller]
fn kill_beside_a_survivor<A: Allocator>(kills: u64) {
    const EVERY: u64 = 10;
    let stage = Stage::new("kills");
    let mut arena = stage.open::<A>();
    let start = prepare(&arena);
    let mut random = Random::new(1);
    let spawn = || stage.spawn::<A>("work", "");
    let mut children = [(); 2].map(|()| spawn());
    let mut zombies = Vec::new();
    let mut objects = Vec::new();
    let mut killed = 0;
    while killed < kills {
        let first = random.index(2);
        let victims = if killed % EVERY == EVERY - 1 { 0..2 } else { first..first + 1 };
        for child in &children[victims.clone()] {
            child.expect("working");
        }
        thread::sleep(Duration::from_micros(random.below(2000)));
        assert!(!stage.control.failed.load(SeqCst), "a process failed");
        for child in &children[victims.clone()] {
            child.signal(Signal::SIGKILL);
        }
        children[victims.clone()].iter().for_each(Child::await_death);
        killed += 1;

        // The survivor goes on, whether or not somebody looks after the dead first, who may know nothing of arenas.
        match random.below(3) {
            0 => drop(arena.sweep().unwrap()),
            1 => drop(Builder::new(&stage.name).timeout(LONG).attach().unwrap().sweep()),
            _ => {}
        }
        match arena.alloc_slice(random_len(&mut random), 0) {
            Ok(bytes) => objects.push(Stamped::stamp(bytes, killed)),
            Err(error) => {
                assert!(A::NAME == "bump" && matches!(error, AllocError::OutOfMemory { .. }), "{error:?}");
            }
        }
        arena.check().unwrap();
        if objects.len() > 20 {
            objects.drain(..).for_each(|object| object.check());
        }
        if victims.len() == 2 {
            settle(&arena, &start, objects.len() as u64);
            if A::NAME == "bump" {
                // It gives memory back only to who is alone.
                objects.clear();
                drop(arena);
                arena = stage.open();
            }
        }
        for child in &mut children[victims] {
            zombies.push(std::mem::replace(child, spawn()));
        }
        if random.below(4) != 0 {
            zombies.clear();
        }
    }
    let operations = stage.control.operations.load(SeqCst);
    children.iter().for_each(|child| child.expect("working"));
    stage.control.stop.store(true, SeqCst);
    for child in children {
        child.expect("done");
        child.finish();
    }
    let own = objects.len() as u64;
    settle(&arena, &start, own);
    objects.iter().for_each(Stamped::check);
    drop(objects);
    assert_empty(&arena, &start);
    println!(
        "arena_deaths {}: kills {killed}, lost 0 ({operations} operations, {:?})",
        A::NAME,
        arena.reclaimed()
    );
    shmem_bind::unlink(&stage.name).unwrap();
}

fn processes_are_killed_at_any_time<A: Allocator>() {
    kill_beside_a_survivor::<A>(300);
}

#[test]
#[ignore = "takes minutes"]
fn long_processes_are_killed_at_any_time() {
    // As many for each as the environment says.
    let kills = std::env::var("SHMEM_BIND_KILLS").map_or(10_000, |kills| kills.parse().unwrap());
    kill_beside_a_survivor::<Tlsf>(kills);
    kill_beside_a_survivor::<Slab>(kills);
    kill_beside_a_survivor::<Bump>(kills);
}

/// Kills all who are attached; the next one to open finds what they left.
#[track_caller]
fn kill_all<A: Allocator, const PROCESSES: usize>(role: &str, rounds: u64) {
    let stage = Stage::new("kill-all");
    let start = prepare(&stage.open::<A>());
    let mut random = Random::new(2);
    for _ in 0..rounds {
        let children = [(); PROCESSES].map(|()| stage.spawn::<A>(role, ""));
        children.iter().for_each(|child| child.expect("working"));
        thread::sleep(Duration::from_micros(random.below(2000)));
        assert!(!stage.control.failed.load(SeqCst), "a process failed");
        children.iter().for_each(|child| child.signal(Signal::SIGKILL));
        children.iter().for_each(Child::await_death);
        settle(&stage.open::<A>(), &start, 0);
    }
    assert_empty(&stage.open::<A>(), &start);
    shmem_bind::unlink(&stage.name).unwrap();
}

fn all_processes_are_killed_at_any_time<A: Allocator>() {
    kill_all::<A, 2>("work", 30);
}

fn one_that_comes_and_goes_is_killed_at_any_time<A: Allocator>() {
    kill_all::<A, 1>("reopen", 50);
}

/// Makes segments and formats arenas in them, one after the other.
fn format<A: Allocator>(parent: &mut Parent) {
    let name = parent.argument(0).to_owned();
    parent.say("working");
    loop {
        let arena = formed::<A>(&name);
        drop(arena.alloc(Sealed::new(1)).unwrap());
    }
}

fn formed<A: Allocator>(name: &str) -> Arena<A> {
    Builder::new(name).timeout(LONG).with_size(1 << 20).open().unwrap().arena().unwrap()
}

fn formatters_are_killed_at_any_time<A: Allocator>() {
    let name = TestName::new("formatter");
    let mut random = Random::new(3);
    let mut orphans = 0;
    for _ in 0..50 {
        let mut child = Child::spawn(&format!("format {}", A::NAME), &[&name]);
        child.expect("working");
        thread::sleep(Duration::from_micros(random.below(3000)));
        child.kill();
        orphans += u32::from(name.exists());
        let arena = formed::<A>(&name);
        arena.check().unwrap();
        assert_eq!(arena.usage().unwrap().blocks, 0);
        drop(arena.alloc_slice(10_000, 1_u8).unwrap());
        assert_empty(&arena, &Usage::default());
        drop(arena);
        assert!(!name.exists());
    }
    println!("arena_deaths {}: formatters killed 50, {orphans} left a segment", A::NAME);
}

/// Attaches many times, and holds two objects each time.
fn crowd(parent: &mut Parent) {
    let _control = Control::open(parent.argument(1));
    let name = parent.argument(0).to_owned();
    let number: u64 = parent.argument(2).parse().unwrap();
    let mut held = Vec::new();
    for mark in 0..number {
        let arena: Arena<Tlsf> = attached(&name);
        let boxed = arena.alloc(Counted::new(mark)).unwrap();
        let shared = ShmemBox::into_arc(arena.alloc(Counted::new(mark)).unwrap());
        ShmemBox::leak(arena.alloc(Counted::new(mark)).unwrap());
        let common = arena.find_or_alloc("common", || Counted::new(0)).unwrap();
        held.push((boxed, shared, common));
    }
    parent.say("holding");
    parent.hear();
}

/// Attaches without opening the arena.
fn attach(parent: &mut Parent) {
    let _conf = Builder::new(parent.argument(0)).attach().unwrap();
    parent.say("attached");
    parent.hear();
}

const ALL: u64 = MAX_ATTACHMENTS as u64;

/// A segment all of whose slots are those of dead processes.
#[track_caller]
fn deserted(watch: bool) -> (Stage, Usage, Option<ShmemConf>) {
    let stage = Stage::new("deserted");
    let start = prepare(&stage.open::<Tlsf>());
    // As long as somebody looks at it, nobody knows without asking that all are dead.
    let observer = watch.then(|| Builder::new(&stage.name).attach_read_only().unwrap());
    let spawn = |number: u64| {
        let child = Child::spawn("crowd", &[&stage.name, &stage.control_name, &number.to_string()]);
        child.expect("holding");
        child
    };
    let mut children = [ALL / 2, ALL / 4, ALL - ALL / 2 - ALL / 4].map(spawn);
    let full = Builder::new(&stage.name).attach().unwrap_err();
    assert_eq!(full, shmem_bind::ShmemError::Full);
    children.iter_mut().for_each(Child::kill);
    (stage, start, observer)
}

/// All has been given back; only what was leaked, and the name, are left.
#[track_caller]
fn assert_settled(stage: &Stage, arena: &Arena<Tlsf>, start: &Usage) {
    assert_eq!((arena.reclaimed().objects, arena.reclaimed().references), (2 * ALL, ALL));
    assert_eq!((arena.leaked().count() as u64, arena.names().count()), (ALL, 1));
    assert_eq!(arena.names().next().unwrap().unwrap().holders(), 0);
    settle(arena, start, 0);
    assert_empty(arena, start);
    assert_eq!((stage.control.living(), stage.control.twice()), (2 * ALL, 0));
    // All slots but this one are free again.
    let attach = || Builder::new(&stage.name).timeout(LONG).attach();
    let confs: Vec<_> = (1..ALL).map(|_| attach().unwrap()).collect();
    assert!(attach().is_err());
    drop(confs);
    shmem_bind::unlink(&stage.name).unwrap();
}

#[test]
fn where_all_are_dead_the_next_opener_gets_in() {
    for watch in [false, true] {
        let (stage, start, observer) = deserted(watch);
        let arena = stage.open::<Tlsf>();
        drop(observer);
        assert_settled(&stage, &arena, &start);
    }
}

#[test]
fn an_inheritance_is_passed_on_by_those_who_do_not_open_the_arena() {
    for watch in [false, true] {
        let (stage, start, observer) = deserted(watch);
        let mut child = Child::spawn("attach", &[&stage.name]);
        child.expect("attached");
        child.kill();
        let child = Child::spawn("attach", &[&stage.name]);
        child.expect("attached");
        child.finish();
        let attach = || Builder::new(&stage.name).timeout(LONG).attach().unwrap();
        let (plain, other) = (attach(), attach());
        assert_eq!(plain.attachment_count(), 2);
        plain.sweep();
        let arena = other.arena::<Tlsf>().unwrap();
        // The other heir has not opened the arena, so it keeps what it has inherited.
        assert_eq!(arena.reclaimed().objects, 2 * (ALL - 1));
        assert_eq!(arena.sweep().unwrap(), Reclaimed::default());
        drop(plain);
        assert_eq!(arena.sweep().unwrap().objects, 2);
        drop(observer);
        assert_settled(&stage, &arena, &start);
    }
}

#[test]
fn an_heir_opens_the_arena_beside_another() {
    let (stage, start, _) = deserted(true);
    let attach = || Builder::new(&stage.name).timeout(LONG).attach().unwrap();
    let confs: Vec<_> = (0..10).map(|_| attach()).collect();
    let mut arenas: Vec<_> = confs.into_iter().map(|conf| conf.arena::<Tlsf>().unwrap()).collect();
    let arena = arenas.pop().unwrap();
    drop(arenas);
    assert_settled(&stage, &arena, &start);
}

#[test]
fn a_handle_without_an_arena_sweeps_and_leaves_the_objects() {
    let stage = Stage::new("plain");
    let arena = stage.open::<Tlsf>();
    let start = prepare(&arena);
    let conf = Builder::new(&stage.name).attach().unwrap();
    for is_open in [true, false] {
        let mut child = stage.spawn::<Tlsf>("hold", "dead");
        child.hear();
        let usage = arena.usage().unwrap();
        child.kill();
        let before = arena.reclaimed().objects;
        assert_eq!((conf.sweep(), conf.attachment_count()), (1, 2));
        assert_eq!(conf.sweep(), 0, "that has been noticed");
        assert_eq!((arena.usage().unwrap(), arena.reclaimed().objects), (usage, before));
        let given_back = BOXES + SLICES + SHARED + 1;
        if is_open {
            assert_eq!(arena.sweep().unwrap().objects, given_back);
        } else {
            let late = Builder::new(&stage.name).attach().unwrap().arena::<Tlsf>().unwrap();
            assert_eq!(late.reclaimed().objects, before + given_back);
        }
        clear(&arena);
        assert_empty(&arena, &start);
    }
    shmem_bind::unlink(&stage.name).unwrap();
}

/// Waits for a name, and says what it finds.
fn wait(parent: &mut Parent) {
    let arena: Arena<Tlsf> = attached(parent.argument(0));
    parent.say("waiting");
    let found = arena.wait_for::<AtomicU64>("late", LONG).unwrap();
    parent.say(&found.fetch_add(1, SeqCst).to_string());
}

#[test]
fn one_that_waits_for_a_name_may_be_killed() {
    let stage = Stage::new("wait");
    let arena = stage.open::<Tlsf>();
    let start = prepare(&arena);
    let mut children = [0; 3].map(|_| Child::spawn("wait", &[&stage.name]));
    children.iter().for_each(|child| child.expect("waiting"));
    thread::sleep(Duration::from_millis(30));
    children[1].kill();
    arena.publish("late", &ShmemBox::into_arc(arena.alloc(AtomicU64::new(5)).unwrap())).unwrap();
    let [first, _, last] = children;
    let mut found = [first.hear(), last.hear()];
    found.sort();
    assert_eq!(found, ["5", "6"]);
    first.finish();
    last.finish();
    arena.sweep().unwrap();
    let object = ShmemArc::into_box(arena.unpublish::<AtomicU64>("late").unwrap()).unwrap();
    assert_eq!(object.load(SeqCst), 7);
    drop(object);
    assert_empty(&arena, &start);
    shmem_bind::unlink(&stage.name).unwrap();
}

fn stop(child: &Child) {
    child.signal(Signal::SIGSTOP);
    waitpid(Pid::from_raw(child.pid() as i32), Some(WaitPidFlag::WUNTRACED)).unwrap();
}

/// Stops a worker anywhere, and lets it go on.
#[track_caller]
fn stop_and_go_on<A: Allocator>(stops: u32) {
    let stage = Stage::new("stop");
    let start = prepare(&stage.open::<A>());
    let conf = Builder::new(&stage.name).timeout(Duration::from_millis(30)).attach().unwrap();
    let arena = conf.arena::<A>().unwrap();
    let mut random = Random::new(4);
    let mut child = stage.spawn::<A>("work", "");
    child.expect("working");
    let mut objects = Vec::new();
    let mut busy = 0;
    for number in 0..stops {
        thread::sleep(Duration::from_micros(random.below(2000)));
        stop(&child);
        assert_eq!(arena.conf().sweep(), 0, "it is alive");
        assert_eq!(arena.sweep().unwrap(), Reclaimed::default(), "it is alive");
        // What is dropped is freed by whoever has the lock next.
        if objects.len() > 10 {
            objects.drain(..).for_each(|object: Stamped| object.check());
        }
        match arena.alloc_slice(random_len(&mut random), 0) {
            Ok(bytes) => objects.push(Stamped::stamp(bytes, u64::from(number))),
            Err(AllocError::Busy) => busy += 1,
            Err(error) => panic!("{error:?}"),
        }
        match arena.find::<Sealed>("name 0") {
            Ok(object) => assert_eq!(object.number, 0),
            Err(DirectoryError::Busy) => busy += 1,
            Err(error) => assert_eq!(error, DirectoryError::NotFound),
        }
        match arena.check() {
            Ok(()) => {}
            Err(ArenaError::Busy) => busy += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(!stage.control.failed.load(SeqCst), "the stopped one failed");
        child.signal(Signal::SIGCONT);
    }
    // Stopped and then killed, it is dead.
    stop(&child);
    child.kill();
    let own = objects.len() as u64;
    settle(&arena, &start, own);
    objects.iter().for_each(Stamped::check);
    drop(objects);
    assert_empty(&arena, &start);
    println!("arena_deaths {}: stopped {stops} times, {busy} times Busy", A::NAME);
    shmem_bind::unlink(&stage.name).unwrap();
}

#[test]
fn a_stopped_process_keeps_what_it_holds() {
    stop_and_go_on::<Tlsf>(100);
    stop_and_go_on::<Slab>(100);
    stop_and_go_on::<Bump>(30);
}
