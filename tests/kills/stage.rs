//! The segment that a victim comes to, and what was there before it

use super::queues;
use super::several::{self, Several};
use super::stepper::{Step, Stepper, View};
use crate::common::arena::Allocator;
use crate::common::campaign::{self, Forked};
use crate::common::pair::Pair;
use crate::common::{TestName, path_of};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::WaitStatus;
use shmem_bind::sync::{Condvar, Event, Mutex, OnceCell};
use shmem_bind::{
    Arena, Builder, BuilderWithSize, OwnedFd, SegmentId, ShmemArc, ShmemBox, ShmemConf, ShmemError, shareable,
};
use std::any::Any;
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Payload of the segments, in bytes: small, for it is compared after every instruction.
const SIZE: usize = 16 * 1024;
/// What those may grow to that grow.
pub const MAX_SIZE: usize = 32 * 1024;

/// In milliseconds. Who waits for longer than this gets `Busy`, which is a failure: all who are alive do nothing. Whether a holder is dead is
/// looked at before the time, so a busy machine makes no difference.
static PATIENCE: AtomicU64 = AtomicU64::new(1000);

pub fn patience() -> Duration {
    Duration::from_millis(PATIENCE.load(SeqCst))
}

/// For a driver whose victims meet locks that nobody gives back.
pub fn be_impatient() {
    PATIENCE.store(5, SeqCst);
}

/// Offset of the lock of the heap in a segment, and of that of the directory.
const HEAP_LOCK: usize = 128;
const DIRECTORY_LOCK: usize = 192;

/// Most objects that are made in one scene.
const OBJECTS: usize = 256;

/// What the driver and those that it forks know of each other, outside of the segment.
pub struct Ledger {
    made: AtomicU64,
    /// How often each object was destroyed.
    destroyed: [AtomicU8; OBJECTS],
    /// The bits of the handle of the object that was leaked before the victim came.
    handle: [AtomicU64; 2],
    verdict: AtomicU32,
    text: [AtomicU8; 1024],
}

pub type Board = campaign::Board<Ledger>;

/// The ledger of this driver, and of all that it forks.
pub fn ledger() -> &'static Board {
    static LEDGER: OnceLock<Board> = OnceLock::new();
    // SAFETY: atomics alone, of which zeros are valid.
    LEDGER.get_or_init(|| unsafe { Board::new() })
}

// SAFETY: the memory is shared by processes, and consists of atomics.
unsafe impl Send for Board {}
unsafe impl Sync for Board {}

impl Ledger {
    pub fn clear(&self) {
        self.made.store(0, SeqCst);
        self.destroyed.iter().for_each(|count| count.store(0, SeqCst));
        self.verdict.store(0, SeqCst);
    }

    pub fn times_destroyed(&self, id: u64) -> u8 {
        self.destroyed[id as usize].load(SeqCst)
    }

    /// The first object that was destroyed more than once.
    pub fn destroyed_twice(&self) -> Option<u64> {
        (0..self.made.load(SeqCst)).find(|id| self.times_destroyed(*id) > 1)
    }

    pub fn set_handle(&self, bits: u128) {
        self.handle[0].store(bits as u64, SeqCst);
        self.handle[1].store((bits >> 64) as u64, SeqCst);
    }

    pub fn handle(&self) -> u128 {
        u128::from(self.handle[0].load(SeqCst)) | u128::from(self.handle[1].load(SeqCst)) << 64
    }

    /// The state of the segment with what is known of its objects.
    pub fn snapshot(&self, bytes: &[u8]) -> Snapshot {
        let destroyed = self.destroyed.iter().map(|count| count.load(SeqCst)).collect();
        Snapshot { bytes: bytes.to_vec(), made: self.made.load(SeqCst), destroyed }
    }

    pub fn restore(&self, snapshot: &Snapshot) {
        self.clear();
        self.made.store(snapshot.made, SeqCst);
        self.destroyed.iter().zip(&snapshot.destroyed).for_each(|(count, was)| count.store(*was, SeqCst));
    }

    /// Leaves a verdict, a number that is not 0, for the driver.
    pub fn leave_verdict(&self, verdict: u32, text: &str) {
        let bytes = text.bytes().chain([0]).take(self.text.len());
        self.text.iter().zip(bytes).for_each(|(place, byte)| place.store(byte, SeqCst));
        self.verdict.store(verdict, SeqCst);
    }

    pub fn take_verdict(&self) -> (u32, String) {
        let bytes: Vec<_> =
            self.text.iter().map(|byte| byte.load(SeqCst)).take_while(|byte| *byte != 0).collect();
        (self.verdict.swap(0, SeqCst), String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A segment as a death has left it, or would have.
#[derive(Clone)]
pub struct Snapshot {
    pub bytes: Vec<u8>,
    made: u64,
    destroyed: Vec<u8>,
}

shareable! {
    /// An object that shows whether it lives, and whose destructions are counted.
    #[derive(Debug)]
    #[repr(C)]
    pub struct Sealed {
        id: u64,
        seal: u64,
    }
}

impl Sealed {
    pub fn new() -> Self {
        let id = ledger().made.fetch_add(1, SeqCst);
        Self { id, seal: !id }
    }

    pub fn id(&self) -> u64 {
        assert_eq!(self.seal, !self.id, "not a living object: {:#x} {:#x}", self.id, self.seal);
        self.id
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // Who unwinds has failed already.
        if std::thread::panicking() {
            return;
        }
        let id = self.id();
        self.seal = 0;
        ledger().destroyed[id as usize].fetch_add(1, SeqCst);
    }
}

shareable! {
    /// One that is aligned to more than blocks are.
    #[derive(Debug)]
    #[repr(C, align(64))]
    pub struct Aligned {
        pub inner: Sealed,
    }
}

pub const MUTEX: &str = "mutex";

/// The mutex of the arena.
pub fn mutex<A: Allocator>(arena: &Arena<A>) -> ShmemArc<Mutex<Pair>> {
    arena.find(MUTEX).unwrap()
}

shareable! {
    /// What processes wait for.
    #[derive(Debug)]
    #[repr(C)]
    pub struct Waited {
        pub cell: OnceCell<Pair>,
        pub mutex: Mutex<Pair>,
        pub changed: Condvar,
        pub event: Event,
    }
}

impl Waited {
    /// Somebody has waited in vain, and may do so still, for all that is said.
    fn in_vain(arena: &Arena<impl Allocator>) -> ShmemArc<Self> {
        let (cell, mutex) = (OnceCell::new(), Mutex::new(Pair::of(1)));
        let object = Self { cell, mutex, changed: Condvar::new(), event: Event::new() };
        let object = ShmemBox::into_arc(arena.alloc(object).unwrap());
        drop(object.changed.wait_for(object.mutex.lock().unwrap(), Duration::ZERO).unwrap());
        assert!(!object.event.wait(object.event.listen(), Duration::ZERO).unwrap());
        object
    }
}

pub const WAITED: &str = "waited";

pub fn waited<A: Allocator>(arena: &Arena<A>) -> ShmemArc<Waited> {
    arena.find(WAITED).unwrap()
}

/// What there is when the victim comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Past {
    /// No segment.
    Nothing,
    /// An arena, and the driver is attached, owns it, and holds objects.
    Observed,
    /// The same, and the memory of the arena is to grow.
    Growing,
    /// The same, and so many names that the next one needs a larger table.
    Crowded,
    /// The same, and another process was killed that held objects and references.
    Corpse,
    /// The same, and another process was killed that held all memory.
    Full,
    /// The same, but that one took it and died when the victim had opened the arena already.
    FullLately,
    /// The same, and another process was killed with the lock of the heap.
    HeapLocked,
    /// The same, but that one died when the victim had opened the arena already.
    HeapLockedLately,
    /// The same, and another process was killed with the lock of the directory, while it published a name.
    DirectoryLocked,
    /// The same, but that one died when the victim had opened the arena already.
    DirectoryLockedLately,
    /// The same, and boxes were dropped while another process had the lock of the heap.
    Condemned,
    /// All who were attached were killed.
    Deserted,
    /// A segment that is no arena yet; the driver is attached and owns it.
    Unformed,
    /// As `Observed`, in a segment without a name.
    Memfd,
    /// As `Observed`, with a mutex that has a name for ever.
    Mutex,
    /// The same, and another process was killed that had it locked.
    MutexLocked,
    /// As `Observed`, with a queue that has a name for ever.
    Mpmc,
    Spsc,
    /// As `Observed`, with something to wait for that has a name for ever.
    Waited,
    /// The same, and another process was killed that was initialising it.
    WaitedBegun,
    /// As `Observed`, with a lock for readers and writers and a semaphore that have a name for ever.
    Several,
    /// The same, and another process was killed that read and had a permit, and had just come to write in another thread.
    SeveralRead,
    /// The same, and another process was killed that was writing, and had all permits.
    SeveralWritten,
}

pub fn builder(name: &str, past: Past) -> BuilderWithSize {
    let builder = Builder::new(name).timeout(patience());
    if past == Past::Growing { builder.with_size(SIZE).max_size(MAX_SIZE) } else { builder.with_size(SIZE) }
}

pub fn attach<A: Allocator>(name: &str) -> Arena<A> {
    Builder::new(name).timeout(patience()).attach().unwrap().arena().unwrap()
}

/// What somebody who is attached all along holds.
pub struct Holdings<A> {
    pub arena: Arena<A>,
    boxes: Vec<ShmemBox<Sealed>>,
    slices: Vec<ShmemBox<[u8]>>,
    /// Has the name "held".
    held: ShmemArc<Sealed>,
    mutex: Option<ShmemArc<Mutex<Pair>>>,
    queue: Option<Box<dyn Any>>,
    waited: Option<ShmemArc<Waited>>,
    several: Option<ShmemArc<Several>>,
}

impl<A: Allocator> Holdings<A> {
    /// Makes objects of several sorts, and holes between them.
    fn new(arena: Arena<A>) -> Self {
        let object = || arena.alloc(Sealed::new()).unwrap();
        let slice = |len: usize| arena.alloc_slice(len, len as u8).unwrap();
        let mut boxes = vec![object(), object(), object(), object()];
        let mut slices = vec![slice(40), slice(200), slice(500), slice(100), slice(900)];
        let held = ShmemBox::into_arc(object());
        arena.publish("held", &held).unwrap();
        drop((boxes.swap_remove(1), slices.swap_remove(1), slices.swap_remove(1)));
        let loose = ShmemBox::into_arc(object());
        arena.publish("loose", &loose).unwrap();
        drop(loose);
        ledger().set_handle(ShmemBox::leak(object()).to_bits());
        Self { arena, boxes, slices, held, mutex: None, queue: None, waited: None, several: None }
    }

    /// Blocks of its own that no name leads to.
    pub fn blocks(&self) -> u64 {
        (self.boxes.len() + self.slices.len()) as u64
    }

    /// All is as it was.
    pub fn check(&self) {
        for object in &self.boxes {
            assert_eq!(ledger().times_destroyed(object.id()), 0, "destroyed, and in use");
        }
        for slice in &self.slices {
            assert!(
                slice.iter().all(|byte| *byte == slice.len() as u8),
                "somebody else has written to a slice"
            );
        }
        assert_eq!(ledger().times_destroyed(self.held.id()), 0, "destroyed, and in use");
    }

    /// Gives up all but the arena. Each destructor runs, once.
    pub fn give_up(self) -> Arena<A> {
        let mut ids: Vec<_> = self.boxes.iter().map(|object| object.id()).collect();
        let is_named = ShmemArc::is_published(&self.held);
        if !is_named {
            ids.push(self.held.id());
        }
        let Self { arena, boxes, slices, held, mutex, queue, waited, several } = self;
        drop((boxes, slices, held, mutex, queue, waited, several));
        assert!(ids.into_iter().all(|id| ledger().times_destroyed(id) == 1), "a destructor has not run once");
        arena
    }
}

/// A segment with a past.
pub struct Stage<A> {
    pub name: TestName,
    pub view: View,
    pub past: Past,
    pub holdings: Option<Holdings<A>>,
    /// `None` if there is no segment.
    pub id: Option<SegmentId>,
    /// An attachment of the driver's to a segment that is no arena yet.
    pub unformed: Option<ShmemConf>,
    /// Bytes of all blocks, in use or free; `None` if that is not always the same.
    pub room: Option<u64>,
    /// The segment, if it has no name.
    pub memfd: Option<OwnedFd>,
    /// Those who died before; zombies, so that nobody gets their number.
    _dead: Vec<Forked>,
}

impl<A: Allocator> Stage<A> {
    pub fn new(past: Past, calls: &mut HashMap<u64, bool>) -> Self {
        ledger().clear();
        let name = TestName::new("kill");
        let mut stage = Self {
            view: View::new(name.path()),
            name,
            past,
            holdings: None,
            id: None,
            unformed: None,
            room: None,
            memfd: None,
            _dead: Vec::new(),
        };
        match past {
            Past::Nothing => return stage,
            Past::Unformed => {
                let conf = builder(&stage.name, past).create().unwrap();
                stage.id = Some(conf.segment_id());
                stage.unformed = Some(conf);
                return stage;
            }
            Past::Deserted => {
                let name = &*stage.name;
                let founder = Self::forked(|| {
                    let arena = builder(name, past).create().unwrap().arena::<A>().unwrap();
                    std::mem::forget(Holdings::new(arena));
                });
                let reader = Builder::new(name).attach_read_only().unwrap();
                stage.id = Some(reader.segment_id());
                stage._dead.push(founder);
                return stage;
            }
            _ => {}
        }
        let conf = if past == Past::Memfd {
            let (conf, fd) = Builder::memfd().timeout(patience()).create(SIZE).unwrap();
            stage.view = View::new(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
            stage.memfd = Some(fd);
            conf
        } else {
            builder(&stage.name, past).create().unwrap()
        };
        let arena = conf.arena().unwrap();
        stage.id = Some(arena.conf().segment_id());
        // Slab cuts pages into chunks, which leave something over.
        if A::NAME != "slab" && past != Past::Growing {
            let usage = arena.usage().unwrap();
            stage.room = Some(usage.used + usage.free);
        }
        let mut holdings = Holdings::new(arena);
        let name = stage.name.to_owned();
        match past {
            Past::Crowded => {
                for number in 0..10 {
                    let object = ShmemBox::into_arc(holdings.arena.alloc(Sealed::new()).unwrap());
                    holdings.arena.publish(&format!("crowd {number}"), &object).unwrap();
                }
            }
            Past::Corpse => stage._dead.push(Self::forked(|| {
                let arena = attach::<A>(&name);
                let object = || arena.alloc(Sealed::new()).unwrap();
                let shared = ShmemBox::into_arc(object());
                let named = ShmemBox::into_arc(object());
                arena.publish("of the dead", &named).unwrap();
                ShmemBox::leak(object());
                std::mem::forget((object(), object(), arena.alloc_slice(300, 1_u8).unwrap()));
                std::mem::forget((shared, named, arena.find::<Sealed>("held").unwrap(), arena));
            })),
            Past::Full => stage._dead.push(Self::die_with_all(&name)),
            Past::HeapLocked => stage._dead.push(Self::die_in_heap(&name)),
            Past::DirectoryLocked => stage._dead.push(Self::die_in_directory(&name)),
            Past::Mutex | Past::MutexLocked => {
                let object = holdings.arena.alloc(Mutex::new(Pair::of(1))).unwrap();
                let object = ShmemBox::into_arc(object);
                holdings.arena.publish_pinned(MUTEX, &object).unwrap();
                holdings.mutex = Some(object);
                if past == Past::MutexLocked {
                    stage._dead.push(Self::forked(|| {
                        let mutex = mutex(&attach::<A>(&name));
                        let mut guard = mutex.lock().unwrap();
                        guard.first = 2;
                        std::mem::forget(guard);
                        std::mem::forget(mutex);
                    }));
                }
            }
            Past::Mpmc | Past::Spsc => holdings.queue = Some(queues::make(&holdings.arena, past)),
            Past::Waited | Past::WaitedBegun => {
                let object = Waited::in_vain(&holdings.arena);
                holdings.arena.publish_pinned(WAITED, &object).unwrap();
                holdings.waited = Some(object);
                if past == Past::WaitedBegun {
                    stage._dead.push(Self::forked(|| {
                        let waited = waited(&attach::<A>(&name));
                        _ = waited.cell.get_or_init(|| {
                            raise(Signal::SIGKILL).unwrap();
                            Pair::of(1)
                        });
                    }));
                }
            }
            Past::Several | Past::SeveralRead | Past::SeveralWritten => {
                let object = Several::in_vain(&holdings.arena);
                holdings.arena.publish_pinned(several::SEVERAL, &object).unwrap();
                holdings.several = Some(object);
                for die in several::deaths(past) {
                    stage._dead.push(Self::forked(|| {
                        let several = several::several(&attach::<A>(&name));
                        die(&several);
                        std::mem::forget(several);
                    }));
                }
            }
            Past::Condemned => {
                let (box_, slice) = (holdings.boxes.pop().unwrap(), holdings.slices.pop().unwrap());
                stage.while_locked(calls, || drop((box_, slice)));
            }
            _ => {}
        }
        stage.holdings = Some(holdings);
        stage
    }

    /// Attaches to the segment, or makes it.
    pub fn open(&self) -> Result<ShmemConf, ShmemError> {
        match &self.memfd {
            Some(fd) => Builder::memfd().timeout(patience()).attach(fd),
            None => builder(&self.name, self.past).open(),
        }
    }

    /// One who does `work`, and is killed then.
    fn forked(work: impl FnOnce()) -> Forked {
        let forked = Forked::spawn(|| {
            work();
            raise(Signal::SIGKILL).unwrap();
        });
        assert_eq!(forked.death(), WaitStatus::Signaled(forked.pid(), Signal::SIGKILL, false), "it failed");
        forked
    }

    /// One who dies when the victim has done all but its operation.
    pub fn die_lately(past: Past, name: &str) -> Option<Forked> {
        match past {
            Past::HeapLockedLately => Some(Self::die_in_heap(name)),
            Past::DirectoryLockedLately => Some(Self::die_in_directory(name)),
            Past::FullLately => Some(Self::die_with_all(name)),
            _ => None,
        }
    }

    fn die_with_all(name: &str) -> Forked {
        Self::forked(|| {
            let arena = attach::<A>(name);
            for len in [1000, 100, 0] {
                while let Ok(slice) = arena.alloc_slice(len, 1_u8) {
                    std::mem::forget(slice);
                }
            }
            std::mem::forget(arena);
        })
    }

    fn die_in_heap(name: &str) -> Forked {
        Self::killed_with(name, HEAP_LOCK, 3, |name| {
            let arena = attach::<A>(name);
            let object = arena.alloc(Sealed::new()).unwrap();
            move || std::mem::forget((&object, arena.alloc_uninit_slice::<u8>(3000)))
        })
    }

    fn die_in_directory(name: &str) -> Forked {
        Self::killed_with(name, DIRECTORY_LOCK, 12, |name| {
            let arena = attach::<A>(name);
            let object = ShmemBox::into_arc(arena.alloc(Sealed::new()).unwrap());
            move || arena.publish("of the dead", &object).unwrap()
        })
    }

    /// Kills somebody so many loud steps after it took a lock.
    fn killed_with<W: FnMut()>(
        name: &str,
        lock: usize,
        steps: u32,
        prepare: impl FnOnce(&str) -> W,
    ) -> Forked {
        let (mut view, mut calls) = (View::new(path_of(name)), HashMap::new());
        let mut stepper = Stepper::start(&mut view, &mut calls, |trace| {
            let mut work = prepare(name);
            trace(&mut || work());
        });
        let mut left = steps;
        loop {
            match stepper.step() {
                Step::End => panic!("it never had the lock at {lock}"),
                Step::Loud if stepper.bytes()[lock..lock + 4] != [0; 4] => left -= 1,
                _ => {}
            }
            if left == 0 {
                return stepper.kill();
            }
        }
    }

    /// Does something while somebody has the lock of the heap, who then goes on and leaves.
    fn while_locked(&mut self, calls: &mut HashMap<u64, bool>, work: impl FnOnce()) {
        let name = &*self.name;
        let mut stepper = Stepper::start(&mut self.view, calls, |trace| {
            let arena = attach::<A>(name);
            trace(&mut || drop(arena.alloc_uninit_slice::<u8>(3000)));
        });
        while stepper.bytes()[HEAP_LOCK..HEAP_LOCK + 4] == [0; 4] {
            assert_ne!(stepper.step(), Step::End, "it never had the lock");
        }
        work();
        stepper.let_go();
    }
}
