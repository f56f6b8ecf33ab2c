//! Processes that open, leave and are killed at the same time
//!
//! What must hold whoever is quicker: one process creates, all meet in one segment, a name that is in use is
//! not taken away, a value is destroyed once, and nothing is left in the end.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::{Child, Parent, TestName, path_of};
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::signal::{self, SigHandler, Signal};
use shmem_bind::{
    Builder, BuilderWithSize, HEADER_LEN, Header, HeaderError, SegmentId, ShmemBox, ShmemConf, ShmemError,
    SizeError, UnlinkPolicy,
};
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const MOST_PROCESSES: usize = 8;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("meet", meet),
        ("come and go", come_and_go),
        ("unlink", unlink),
        ("fail to create", fail_to_create),
    ]);
}

/// What the processes of a test share besides the segment that they race for: a segment that stays.
#[repr(C)]
struct Control {
    failed: AtomicBool,
    stop: AtomicBool,
    /// How often a companion got in the way of the others.
    disturbed: AtomicU32,
    arrived: AtomicU32,
    meetings: AtomicU32,
    marked: AtomicU64,
    destroyed: AtomicU64,
    opened: [Opened; MOST_PROCESSES],
}

/// What a process says of the segment that it has just opened.
#[repr(C)]
struct Opened {
    id: [AtomicU64; 2],
    is_owner: AtomicBool,
}

impl Control {
    fn open(name: &str) -> ShmemBox<Self> {
        unsafe { Builder::new(name).with_size(size_of::<Self>()).open().unwrap().boxed() }
    }

    /// Adds what this process has done.
    fn take_stock(&self) {
        self.marked.fetch_add(MARKED.get(), SeqCst);
        self.destroyed.fetch_add(DESTROYED.get(), SeqCst);
    }

    /// Waits for all others.
    fn meet(&self, processes: usize) {
        let meeting = self.meetings.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) as usize + 1 == processes {
            self.arrived.store(0, SeqCst);
            self.meetings.store(meeting + 1, SeqCst);
        }
        while self.meetings.load(SeqCst) == meeting {
            assert!(!self.failed.load(SeqCst), "another process has failed");
            thread::yield_now();
        }
    }
}

/// Tells the others when this process fails.
struct Alarm<'a>(&'a Control);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, SeqCst);
        }
    }
}

/// What the segment that they race for holds.
#[repr(C)]
struct Value {
    /// Whose value it is: part of the segment's id, set by the first to come.
    mark: AtomicU64,
    destroyed: AtomicU32,
}

thread_local! {
    static MARKED: Cell<u64> = const { Cell::new(0) };
    static DESTROYED: Cell<u64> = const { Cell::new(0) };
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_eq!(self.destroyed.fetch_add(1, SeqCst), 0, "destroyed twice");
        DESTROYED.set(DESTROYED.get() + 1);
    }
}

/// Waiting for another process does not fail because the machine is busy.
fn builder(name: &str, policy: UnlinkPolicy) -> BuilderWithSize {
    let builder = Builder::new(name).timeout(Duration::from_secs(50)).unlink_policy(policy);
    builder.with_size(size_of::<Value>())
}

fn halves(id: SegmentId) -> [u64; 2] {
    let text = id.to_string();
    let (high, low) = text.split_at(16);
    [high, low].map(|half| u64::from_str_radix(half, 16).unwrap())
}

fn boxed(conf: ShmemConf) -> ShmemBox<Value> {
    let mark = halves(conf.segment_id())[0].max(1);
    let value: ShmemBox<Value> = unsafe { conf.boxed() };
    match value.mark.compare_exchange(0, mark, SeqCst, SeqCst) {
        Ok(_) => MARKED.set(MARKED.get() + 1),
        Err(found) => assert_eq!(found, mark, "the value of another segment"),
    }
    assert_eq!(value.destroyed.load(SeqCst), 0, "attached to a value that was destroyed");
    value
}

/// The segment that the name leads to, by the file's own bytes, or what is there instead.
fn named_segment(name: &str) -> Result<SegmentId, String> {
    let mut bytes = Vec::new();
    let file = File::open(path_of(name)).map_err(|error| error.to_string())?;
    file.take(4096).read_to_end(&mut bytes).unwrap();
    Header::parse(&bytes).map(|header| header.segment_id()).map_err(|error| format!("{error:?}"))
}

/// The name leads to this segment, unless this segment knows that it has no name any more.
fn check_name(conf: &ShmemConf, name: &str) {
    // Once unlinked, always unlinked: linked before and after is linked in between.
    let was_linked = conf.is_linked();
    let named = named_segment(name);
    if was_linked && conf.is_linked() {
        assert_eq!(named, Ok(conf.segment_id()), "the name of {conf:?} leads elsewhere");
    }
    let again = Builder::new(name).timeout(Duration::from_secs(50)).attach();
    match again {
        Ok(again) if again.segment_id() == conf.segment_id() => drop(boxed(again)),
        Ok(again) => {
            assert!(!conf.is_linked(), "{conf:?} and {again:?} both have the name");
            drop(boxed(again));
        }
        Err(ShmemError::NotFound) => assert!(!conf.is_linked(), "nobody finds {conf:?}"),
        Err(error) => panic!("{error:?}"),
    }
}

/// Opens together with the others, compares, and leaves together with them.
fn meet(parent: &mut Parent) {
    let [name, control] = [0, 1].map(|index| parent.argument(index).to_owned());
    let [index, processes, rounds] = [2, 3, 4].map(|index| parent.argument(index).parse::<usize>().unwrap());
    let control = Control::open(&control);
    let alarm = Alarm(&control);
    let mut former = None;
    for round in 0..rounds {
        control.meet(processes);
        let open = || builder(&name, UnlinkPolicy::OwnerDrop).open();
        let conf = if round % 2 == 0 {
            open().unwrap()
        } else {
            match builder(&name, UnlinkPolicy::OwnerDrop).create() {
                Err(ShmemError::AlreadyExists) => open().unwrap(),
                created => created.unwrap(),
            }
        };
        let own = &control.opened[index];
        own.is_owner.store(conf.is_owner(), SeqCst);
        let id = halves(conf.segment_id());
        own.id[0].store(id[0], SeqCst);
        own.id[1].store(id[1], SeqCst);
        control.meet(processes);

        let all = &control.opened[..processes];
        let owners = all.iter().filter(|opened| opened.is_owner.load(SeqCst)).count();
        assert_eq!(owners, 1, "creators of round {round}");
        for opened in all {
            assert_eq!(opened.id.each_ref().map(|half| half.load(SeqCst)), id, "round {round}");
        }
        assert_eq!(conf.attachment_count() as usize, processes);
        assert_ne!(former.replace(id), Some(id), "all had left");
        let value = boxed(conf);
        control.meet(processes);
        drop(value);
    }
    drop(alarm);
    control.take_stock();
    parent.say("done");
}

fn race_to_open(label: &str, processes: usize) {
    const ROUNDS: u64 = 1000;
    let name = TestName::new(label);
    let control_name = TestName::new("control");
    let control = Control::open(&control_name);
    let spawn = |index: usize| {
        let numbers = [index.to_string(), processes.to_string(), ROUNDS.to_string()];
        Child::spawn("meet", &[&name, &control_name, &numbers[0], &numbers[1], &numbers[2]])
    };
    let children: Vec<_> = (0..processes).map(spawn).collect();
    for child in children {
        child.expect("done");
        child.finish();
    }
    assert_eq!((control.marked.load(SeqCst), control.destroyed.load(SeqCst)), (ROUNDS, ROUNDS));
    assert!(!name.exists());
}

#[test]
fn two_processes_open_at_once() {
    race_to_open("open-2", 2);
}

#[test]
fn eight_processes_open_at_once() {
    race_to_open("open-8", 8);
}

/// A small generator of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// In place of a policy: an administrator is at work, and unlinks what is in use.
const UNLINKED: &str = "unlinked";

fn policy_of(word: &str) -> UnlinkPolicy {
    match word {
        "owner-drop" | UNLINKED => UnlinkPolicy::OwnerDrop,
        "last-detach" => UnlinkPolicy::LastDetach,
        _ => panic!("{word}"),
    }
}

/// Opens, looks around and leaves, again and again and without regard to the others.
fn come_and_go(parent: &mut Parent) {
    let [name, control, policy] = [0, 1, 2].map(|index| parent.argument(index).to_owned());
    let [rounds, processes, disturbances] =
        [3, 4, 5].map(|index| parent.argument(index).parse::<usize>().unwrap());
    let is_unlinked_by_others = policy == UNLINKED;
    let policy = policy_of(&policy);
    let control = Control::open(&control);
    let alarm = Alarm(&control);
    let mut random = Random(u64::from(std::process::id()) << 8 | 1);
    parent.say("working");
    let mut round = 0;
    let is_over = |round| round >= rounds && control.disturbed.load(SeqCst) as usize >= disturbances;
    while !is_over(round) && !control.stop.load(SeqCst) {
        assert!(!control.failed.load(SeqCst), "another process has failed");
        round += 1;
        // Otherwise somebody would always be attached.
        if policy == UnlinkPolicy::LastDetach && processes != 0 {
            if round % 2 == 0 {
                control.meet(processes);
            }
        } else if policy == UnlinkPolicy::LastDetach || disturbances != 0 {
            thread::sleep(Duration::from_micros(random.below(500)));
        }
        let conf = builder(&name, policy).open().unwrap();
        let is_owner = conf.is_owner();
        let value = boxed(conf);
        let conf = ShmemBox::conf(&value);
        for _ in 0..random.below(3) {
            check_name(conf, &name);
            thread::yield_now();
        }
        // Of a name that is in use, only the owner disposes, or whoever is the last one out.
        if !is_unlinked_by_others && (is_owner || policy == UnlinkPolicy::LastDetach) {
            assert_eq!(conf.is_owner(), is_owner, "{conf:?} was robbed");
            assert!(conf.is_linked(), "{conf:?} was unlinked by a stranger");
            assert_eq!(named_segment(&name), Ok(conf.segment_id()), "{conf:?} lost its name");
        }
        drop(value);
    }
    drop(alarm);
    control.take_stock();
    parent.say("done");
}

fn disturbed(control: &Control) {
    control.disturbed.fetch_add(1, SeqCst);
}

/// Unlinks the segment, again and again.
fn unlink(parent: &mut Parent) {
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(&control);
    while !control.stop.load(SeqCst) {
        match shmem_bind::unlink(parent.argument(0)) {
            Ok(()) => disturbed(&control),
            // The last one: an empty file, whose creator is about to lock it, or has died.
            Err(ShmemError::NotFound | ShmemError::Header(HeaderError::Truncated { len: 0, .. })) => {}
            Err(error) => panic!("{error:?}"),
        }
        thread::yield_now();
    }
    drop(alarm);
    parent.say("done");
}

/// Opens again and again, and fails whenever it would have to create.
fn fail_to_create(parent: &mut Parent) {
    let name = parent.argument(0).to_owned();
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(&control);
    unsafe { signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, HEADER_LEN as rlim_t, HEADER_LEN as rlim_t).unwrap();
    while !control.stop.load(SeqCst) {
        match builder(&name, UnlinkPolicy::OwnerDrop).open() {
            Ok(conf) => {
                let value = boxed(conf);
                check_name(ShmemBox::conf(&value), &name);
            }
            Err(ShmemError::Size(SizeError::TooLarge { .. }) | ShmemError::Os { call: "fallocate", .. }) => {
                disturbed(&control);
            }
            Err(error) => panic!("{error:?}"),
        }
        thread::yield_now();
    }
    drop(alarm);
    control.take_stock();
    parent.say("done");
}

/// Processes that all run `come_and_go` on one segment.
struct Crowd {
    name: TestName,
    control_name: TestName,
    control: ShmemBox<Control>,
    policy: &'static str,
    rounds: usize,
    /// How many meet between rounds; 0 if nobody can be waited for.
    meeting: usize,
    /// How often a companion must have been in the way.
    disturbances: usize,
}

impl Crowd {
    fn new(policy: &'static str, rounds: usize, meeting: usize, disturbances: usize) -> Self {
        let control_name = TestName::new("control");
        let control = Control::open(&control_name);
        Self { name: TestName::new(policy), control_name, control, policy, rounds, meeting, disturbances }
    }

    fn spawn(&self, role: &str) -> Child {
        let [rounds, meeting, disturbances] =
            [self.rounds, self.meeting, self.disturbances].map(|number| number.to_string());
        Child::spawn(role, &[&self.name, &self.control_name, self.policy, &rounds, &meeting, &disturbances])
    }

    /// Lets a process come to its end.
    fn see_off(child: Child) {
        let last_word = std::iter::from_fn(|| child.try_hear()).find(|line| line == "done");
        assert!(last_word.is_some(), "a process failed");
        child.finish();
    }
}

fn come_and_go_in_order(processes: usize, policy: &'static str, companion: Option<&str>) {
    let rounds = if policy == "last-detach" { 2000 } else { 1000 };
    let crowd = Crowd::new(policy, rounds, processes, if companion.is_some() { 50 } else { 0 });
    let companion = companion.map(|role| crowd.spawn(role));
    let children: Vec<_> = (0..processes).map(|_| crowd.spawn("come and go")).collect();
    children.into_iter().for_each(Crowd::see_off);
    crowd.control.stop.store(true, SeqCst);
    companion.into_iter().for_each(Crowd::see_off);
    // Nobody died: every value was destroyed, and every name is gone.
    let marked = crowd.control.marked.load(SeqCst);
    assert_eq!(marked, crowd.control.destroyed.load(SeqCst));
    assert!(!crowd.name.exists());
    assert!(marked > 100, "only {marked} segments");
}

#[test]
fn two_processes_come_and_go() {
    come_and_go_in_order(2, "owner-drop", None);
}

#[test]
fn eight_processes_come_and_go() {
    come_and_go_in_order(8, "owner-drop", None);
}

#[test]
fn two_processes_come_and_go_until_the_last() {
    come_and_go_in_order(2, "last-detach", None);
}

#[test]
fn eight_processes_come_and_go_until_the_last() {
    come_and_go_in_order(8, "last-detach", None);
}

#[test]
fn two_processes_come_and_go_beside_an_administrator() {
    come_and_go_in_order(2, UNLINKED, Some("unlink"));
}

#[test]
fn eight_processes_come_and_go_beside_an_administrator() {
    come_and_go_in_order(8, UNLINKED, Some("unlink"));
}

#[test]
fn two_processes_come_and_go_beside_one_that_cannot_create() {
    come_and_go_in_order(2, "owner-drop", Some("fail to create"));
}

fn come_and_go_and_be_killed(policy: &'static str, kills: usize) {
    const PROCESSES: usize = 4;
    let crowd = Crowd::new(policy, usize::MAX, 0, 0);
    let spawn = || crowd.spawn("come and go");
    let mut random = Random(u64::from(std::process::id()) << 8 | 1);
    let administrator = (policy == UNLINKED).then(|| crowd.spawn("unlink"));
    let mut children = [(); PROCESSES].map(|()| spawn());
    let mut zombies = Vec::new();
    let mut killed = 0;
    while killed < kills {
        let first = random.below(PROCESSES as u64) as usize;
        // Now and then all die at once.
        let victims = if random.below(8) == 0 { 0..PROCESSES } else { first..first + 1 };
        for child in &children[victims.clone()] {
            child.expect("working");
        }
        thread::sleep(Duration::from_micros(random.below(1500)));
        assert!(!crowd.control.failed.load(SeqCst), "a process failed");
        for child in &children[victims.clone()] {
            child.signal(Signal::SIGKILL);
        }
        for child in &mut children[victims] {
            child.await_death();
            zombies.push(std::mem::replace(child, spawn()));
            killed += 1;
        }
        // Some dead processes are reaped at once, some later.
        if random.below(4) != 0 {
            zombies.clear();
        }
    }
    crowd.control.stop.store(true, SeqCst);
    children.into_iter().chain(administrator).for_each(Crowd::see_off);

    let conf = builder(&crowd.name, policy_of(policy)).open().unwrap();
    assert_eq!(conf.attachment_count(), 1, "{conf:?} after all others have ended");
    assert!(conf.is_owner() || policy == "last-detach");
    drop(conf);
    assert!(!crowd.name.exists());
}

#[test]
fn processes_come_and_go_and_are_killed() {
    come_and_go_and_be_killed("owner-drop", 300);
}

#[test]
fn processes_come_and_go_until_the_last_and_are_killed() {
    come_and_go_and_be_killed("last-detach", 300);
}

#[test]
fn processes_come_and_go_beside_an_administrator_and_are_killed() {
    come_and_go_and_be_killed(UNLINKED, 300);
}
