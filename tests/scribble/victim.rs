//! Who does everything with a segment that somebody else damages meanwhile

use super::board::{Board, NONE, now, spent};
use super::deeds::{self, Deed};
use super::tools::Tools;
use crate::common::arena::{Allocator, Random};
use crate::common::pair::Pair;
use crate::hostile::verdict::LATE;
use crate::hostile::{mappings, open_files};
use nix::unistd::getpid;
use shmem_bind::sync::Mutex;
use shmem_bind::{
    AnyBitPattern, Arena, Builder, OwnedFd, ReservePolicy, ShmemArc, ShmemBox, ShmemConf, ShmemError,
    UnlinkPolicy, shareable,
};
use std::fmt::{Debug, Display};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::yield_now;
use std::time::Duration;

pub use deeds::DEEDS;

/// Who waits for longer gets `Busy`.
pub const PATIENCE: Duration = Duration::from_millis(3);
/// Microseconds of the processor that no operation needs: on a heap of 64 KiB each is done in a few thousand steps.
const MOST: u64 = 5_000_000;
/// Operations of a turn, at most.
const TURN: usize = 400;
/// After so many failures in a row, there is nothing left to be damaged.
const HOPELESS: u32 = 60;

shareable! {
    /// Any bytes are one.
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    pub struct Plain {
        pub first: u64,
        pub second: [u32; 4],
    }
}

// SAFETY: numbers.
unsafe impl AnyBitPattern for Plain {}

pub const ZERO: Plain = Plain { first: 0, second: [0; 4] };

/// What is done with a segment, and what is held of it. Objects first, for they are dropped first.
pub struct World<A> {
    pub boxes: Vec<ShmemBox<Plain>>,
    pub slices: Vec<ShmemBox<[u8]>>,
    pub arcs: Vec<ShmemArc<AtomicU64>>,
    pub mutexes: Vec<ShmemArc<Mutex<Pair>>>,
    pub tools: Vec<ShmemArc<Tools>>,
    pub arenas: Vec<Arena<A>>,
    pub confs: Vec<ShmemConf>,
    pub readers: Vec<ShmemConf>,
    pub handles: Vec<u128>,
    pub random: Random,
    pub name: String,
    pub memfd: Option<OwnedFd>,
    pub size: usize,
    pub max_size: usize,
    policy: UnlinkPolicy,
    /// Where the segment is mapped.
    ranges: Vec<(usize, usize)>,
}

impl<A: Allocator> World<A> {
    /// A new segment, with an arena in it.
    fn new(name: String, mut random: Random) -> Self {
        let size = [16, 32, 64][random.index(3)] * 1024;
        let max_size = if random.below(3) == 0 { size * 2 } else { size };
        let policies = [UnlinkPolicy::Never, UnlinkPolicy::OwnerDrop, UnlinkPolicy::LastDetach];
        let policy = policies[random.index(3)];
        let mut world = Self {
            boxes: Vec::new(),
            slices: Vec::new(),
            arcs: Vec::new(),
            mutexes: Vec::new(),
            tools: Vec::new(),
            arenas: Vec::new(),
            confs: Vec::new(),
            readers: Vec::new(),
            handles: Vec::new(),
            name,
            memfd: None,
            size,
            max_size,
            policy,
            ranges: Vec::new(),
            random,
        };
        let conf = if world.random.below(3) == 0 {
            let builder = Builder::memfd().timeout(PATIENCE).max_size(max_size).unlink_policy(policy);
            let (conf, fd) = builder.create(size).unwrap();
            world.memfd = Some(fd);
            conf
        } else {
            world.builder().with_size(size).max_size(max_size).create().unwrap()
        };
        world.hold(conf.arena().unwrap());
        let mutex = ShmemBox::into_arc(world.arenas[0].alloc(Mutex::new(Pair::of(0))).unwrap());
        world.arenas[0].publish("mutex", &mutex).unwrap();
        let number = ShmemBox::into_arc(world.arenas[0].alloc(7_u64).unwrap());
        world.arenas[0].publish_pinned("pinned", &number).unwrap();
        world
    }

    pub fn builder(&mut self) -> Builder {
        let builder = Builder::new(&self.name).timeout(PATIENCE).unlink_policy(self.policy);
        let lazily = self.random.below(2) == 0;
        builder.reserve_policy(if lazily { ReservePolicy::Lazy } else { ReservePolicy::Now })
    }

    /// Attaches to the segment once more.
    pub fn attach(&mut self) -> Result<ShmemConf, ShmemError> {
        let builder = self.builder();
        match &self.memfd {
            Some(fd) => Builder::memfd().timeout(PATIENCE).attach(fd),
            None => builder.attach(),
        }
    }

    /// Another look at where the segment is mapped, after something has been attached.
    pub fn look(&mut self) {
        self.ranges = self.mapped();
    }

    fn mapped(&self) -> Vec<(usize, usize)> {
        mappings(if self.memfd.is_some() { "/memfd:" } else { &self.name })
    }

    pub fn hold(&mut self, arena: Arena<A>) {
        self.look();
        self.arenas.push(arena);
    }

    /// What was given must lie in one of the mappings, behind the header.
    #[track_caller]
    pub fn is_inside<T: ?Sized>(&self, value: *const T, len: usize) {
        let start = value.cast::<u8>().addr();
        let is_in = |(first, end): &(usize, usize)| start >= first + 4096 && start + len <= *end;
        assert!(
            self.ranges.iter().any(is_in),
            "given {len} bytes at {start:#x}, which are not in {:x?}",
            self.ranges
        );
    }

    /// Any of the arenas, if there is one.
    pub fn arena(&mut self) -> Option<Arena<A>> {
        let index = self.random.index(self.arenas.len().max(1));
        self.arenas.get(index).cloned()
    }

    pub fn label(&mut self) -> &'static str {
        ["a", "b", "c", "d", "the name that is longer than a word", "f", "g", "h"][self.random.index(8)]
    }
}

/// Takes any of them.
pub fn take<T>(random: &mut Random, things: &mut Vec<T>) -> Option<T> {
    if things.is_empty() { None } else { Some(things.swap_remove(random.index(things.len()))) }
}

/// What an error says is put together from what was found, and so is looked at.
pub fn good<T, E: Debug + Display>(result: Result<T, E>) -> (bool, Option<T>) {
    match result {
        Ok(value) => (true, Some(value)),
        Err(error) => {
            assert!(!format!("{error} {error:?}").is_empty());
            (false, None)
        }
    }
}

pub fn names() -> impl Iterator<Item = &'static str> {
    deeds::all::<shmem_bind::Tlsf>().into_iter().map(|deed| deed.name)
}

pub fn can_fail(index: usize) -> bool {
    deeds::all::<shmem_bind::Tlsf>()[index].can_fail
}

/// Does things, in one segment after another.
pub fn suffer<A: Allocator>(board: &Board, seed: u64, prefix: &str) {
    let deeds = deeds::all::<A>();
    let table: Vec<usize> =
        deeds.iter().enumerate().flat_map(|(index, deed)| vec![index; deed.weight]).collect();
    // The process page, and whatever the tests need for the first time.
    drop(Builder::memfd().create(4096).unwrap());
    let files = open_files();
    for turn in 1.. {
        if board.stop.load(SeqCst) {
            return;
        }
        board.since.store(now(), SeqCst);
        let name = format!("{prefix}-{turn}-scribble");
        let random = Random::seeded(seed << 20 | turn);
        let mut world = World::<A>::new(name, random);
        begin_turn(board, &world, turn);
        let mut failures = 0;
        for _ in 0..TURN {
            let index = table[world.random.index(table.len())];
            match act(board, &deeds[index], index, &mut world) {
                Some(true) => failures = 0,
                Some(false) => failures += 1,
                None => {}
            }
            if failures == HOPELESS || world.arenas.is_empty() || board.stop.load(SeqCst) {
                break;
            }
        }
        let name = world.name.clone();
        give_up(board, world);
        end_turn(board);
        board.turns.fetch_add(1, SeqCst);
        // It may have stayed, or have been made again.
        let _ = std::fs::remove_file(crate::common::path_of(&name));
        assert_eq!(open_files(), files, "a file is left open");
        let left = [mappings(&name), mappings("/memfd:")].concat();
        assert!(left.is_empty(), "left mapped: {left:x?}");
    }
}

/// Lets the vandal come, and waits for it.
fn begin_turn<A>(board: &Board, world: &World<A>, turn: u64) {
    let path = match &world.memfd {
        Some(fd) => format!("/proc/{}/fd/{}", getpid(), fd.as_raw_fd()),
        None => format!("/dev/shm/{}", world.name),
    };
    assert!(Path::new(&path).exists());
    board.set_path(&path);
    board.turn.store(turn, SeqCst);
    while board.vandal.load(SeqCst) != turn && !board.stop.load(SeqCst) {
        yield_now();
    }
}

fn end_turn(board: &Board) {
    board.turn.store(NONE, SeqCst);
    while board.vandal.load(SeqCst) != NONE && !board.stop.load(SeqCst) {
        yield_now();
    }
}

/// Drops all that is held, while the vandal is there.
fn give_up<A>(board: &Board, world: World<A>) {
    board.deed.store(DEEDS as u32 - 1, SeqCst);
    board.since.store(now(), SeqCst);
    board.operations.fetch_add(1, SeqCst);
    let World { boxes, slices, arcs, mutexes, tools, arenas, confs, readers, .. } = world;
    board.counts[DEEDS - 1].good.fetch_add(1, SeqCst);
    // Some attachments end by this, and some with the objects.
    drop((arenas, confs, readers));
    drop((boxes, slices, arcs, mutexes, tools));
}

/// Does one thing; gives whether it succeeded, if there was something to do it with.
fn act<A: Allocator>(board: &Board, deed: &Deed<A>, index: usize, world: &mut World<A>) -> Option<bool> {
    board.deed.store(index as u32, SeqCst);
    board.since.store(now(), SeqCst);
    board.operations.fetch_add(1, SeqCst);
    let start = spent();
    let result = (deed.act)(world);
    let time = spent() - start;
    let count = &board.counts[index];
    count.slowest.fetch_max(time, SeqCst);
    if time > MOST {
        board.last_words.leave(&format!("{time} us of the processor"));
        // Nothing of the driver's is to be run here.
        unsafe { nix::libc::_exit(LATE) }
    }
    match result {
        Some(true) => count.good.fetch_add(1, SeqCst),
        Some(false) => count.bad.fetch_add(1, SeqCst),
        None => return None,
    };
    result
}
