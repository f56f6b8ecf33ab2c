//! The queues of this crate, and how both processes find them

use shmem_bind::ring::{Many, Mode, Queue, Receiver, Sender, Single};
use shmem_bind::{Arena, Builder, OwnedFd, ShmemArc, ShmemConf, Tlsf};
use shmem_bind_benches::{Child, Line};

/// Elements that a queue holds.
pub const CAPACITY: usize = 1024;

/// A queue of numbers for each direction.
pub type Numbers<M> = Queue<u64, CAPACITY, M>;
pub type NumberSender<'a, M> = Sender<'a, u64, CAPACITY, M>;
pub type NumberReceiver<'a, M> = Receiver<'a, u64, CAPACITY, M>;

/// A mode by its name.
pub trait Named: Mode {
    const LABEL: &'static str;
}

impl Named for Single {
    const LABEL: &'static str = "Spsc";
}

impl Named for Many {
    const LABEL: &'static str = "Mpmc";
}

pub fn segment() -> (ShmemConf, OwnedFd) {
    Builder::memfd().create(1 << 20).unwrap()
}

/// The queues there and back.
pub fn find<M: Named>(fd: &OwnedFd) -> (Arena<Tlsf>, [ShmemArc<Numbers<M>>; 2]) {
    let arena: Arena<Tlsf> = Builder::memfd().attach(fd).unwrap().arena().unwrap();
    let queues =
        ["there", "back"].map(|name| arena.find_or_alloc_zeroed(&format!("{} {name}", M::LABEL)).unwrap());
    (arena, queues)
}

/// Forks a process, and waits until it says that it is ready.
pub fn spawn(work: impl FnOnce(Line)) -> Child {
    let mut child = Child::spawn(work);
    child.await_ready();
    child
}
