//! The operations, and the scenes in which they are run

use super::expected::{Dead, Effect};
use super::sites::Site::{self, *};
use super::stage::{Call, Injection, Outcome, Run, Stage, Victim};
use crate::common::campaign::Forked;
use nix::errno::Errno;
use shmem_bind::sync::{Mutex, MutexGuard};
use shmem_bind::{Arena, Builder, OrphanPolicy, ShmemArc, ShmemConf, ShmemError, Tlsf};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::yield_now;
use std::time::Duration;

/// One operation in one scene.
pub struct Operation {
    pub label: &'static str,
    /// Sets the scene before the victim is forked.
    pub before: fn(&mut Stage),
    /// What the driver attaches when it has been.
    pub beside: fn(&mut Stage),
    /// The victim's part.
    pub act: fn(&Victim<'_>),
    /// What the driver does just before the operation.
    pub at_start: fn(&mut Stage),
    /// What it does when a site is there for the first time.
    pub on_call: fn(&mut Stage, Site),
    /// What it looks at in the end.
    pub at_end: fn(&mut Stage, &mut Run),
    /// What is done to all calls of some sites, also when none fails.
    pub standing: &'static [(Site, Injection)],
    /// Whether it makes no system call that could fail.
    pub silent: bool,
    /// Whether it has to wait also if a call always fails.
    pub is_patient: bool,
    /// Whether it waits as long as it sees fit, five seconds, if a call always fails.
    pub is_slow: bool,
    /// Whether private memory stays for as long as the process.
    pub grows: bool,
    /// Whether what there was before is gone after an error.
    pub consumes: bool,
    /// Whether there is something under the name.
    pub exists: bool,
    pub dead: Dead,
    /// How many living ones are asked for before it.
    pub living: usize,
    /// What it means that a dead one is not noticed.
    pub missed: Effect,
    /// What is given if something is not noticed, if that is another number.
    pub unnoticed: Option<Outcome>,
    /// The error if the time is up.
    pub busy: ShmemError,
    /// What is asked for, in bytes.
    pub asked: u64,
    /// Whether there is a name afterwards, if that is sure.
    pub named: Option<bool>,
    /// The sites that are failed; all if none is named.
    pub only: &'static [Site],
    /// Where it is not as usual.
    pub effect: fn(Call, Errno) -> Option<Effect>,
}

pub const LONG: Duration = Duration::from_secs(40);

pub const USUAL: Operation = Operation {
    label: "",
    before: |_| {},
    beside: |_| {},
    act: |_| {},
    at_start: |_| {},
    on_call: |_, _| {},
    at_end: |_, _| {},
    standing: &[],
    silent: false,
    is_patient: false,
    is_slow: false,
    grows: false,
    consumes: false,
    exists: true,
    dead: Dead::Nobody,
    living: 0,
    missed: Effect::Unnoticed,
    unnoticed: None,
    busy: ShmemError::Busy,
    asked: 8,
    named: Some(true),
    only: &[],
    effect: |_, _| None,
};

fn builder(name: &str, patience: Duration) -> Builder {
    Builder::new(name).mode(0o640).timeout(patience)
}

impl Victim<'_> {
    pub fn builder(&self) -> Builder {
        builder(self.name, self.patience)
    }

    /// After this, the process has all that it keeps until its end.
    pub fn warm_up(&self) {
        let (segment, fd) = Builder::memfd().create(64 * 1024).unwrap();
        drop(segment.arena::<Tlsf>().unwrap());
        drop(fd);
        self.begin();
    }

    pub fn opens(&self, open: impl FnOnce(Builder) -> Result<ShmemConf, ShmemError>) {
        let builder = self.builder();
        self.run(|| open(builder).map(|segment| (summary(&segment), segment)));
    }

    /// What it does with a segment that it has attached before.
    pub fn with(&self, act: impl FnOnce(&ShmemConf) -> Result<u64, ShmemError>) {
        let segment = self.builder().attach().unwrap();
        self.run(|| act(&segment).map(|number| (number, ())));
    }

    pub fn arena(&self) -> Arena {
        self.builder().attach().unwrap().arena().unwrap()
    }
}

/// What can be seen of a segment just opened.
pub fn summary(segment: &ShmemConf) -> u64 {
    // All of the random number is random.
    let id = segment.segment_id().to_string();
    let (first, last) = id.split_at(id.len() / 2);
    let is_random = |half: &str| half.bytes().any(|byte| byte != b'0' && byte != b'-');
    assert!(is_random(first) && is_random(last), "{id}");
    u64::from(segment.attachment_count()) << 8 | segment.origin() as u64
}

impl Stage {
    pub fn builder(&self) -> Builder {
        builder(&self.name, LONG)
    }

    pub fn observe(&mut self, segment: ShmemConf) {
        self.observer = Some(segment);
    }

    /// A process that does `work` and dies when it is done, holding what that gives. It stays a zombie.
    pub fn dies<T>(&mut self, work: impl FnOnce(&Stage) -> T) -> Forked {
        self.dies_while(work, |_| {})
    }

    /// The same, after something that the driver does beside it.
    pub fn dies_while<T>(
        &mut self,
        work: impl FnOnce(&Stage) -> T,
        beside: impl FnOnce(&mut Stage),
    ) -> Forked {
        self.words.ready.store(0, SeqCst);
        let corpse = Forked::spawn(|| {
            let held = work(self);
            self.words.ready.store(1, SeqCst);
            loop {
                std::hint::black_box(&held);
                yield_now();
            }
        });
        while self.words.ready.load(SeqCst) == 0 {
            yield_now();
        }
        beside(self);
        corpse.kill_to_zombie();
        corpse
    }

    /// Writes a word of the header.
    pub fn store(&mut self, at: u64, word: u64) {
        let file = File::options().read(true).write(true).open(self.name.path()).unwrap();
        file.write_all_at(&word.to_ne_bytes(), at).unwrap();
    }

    pub fn load(&self, at: u64) -> u64 {
        let file = File::open(self.name.path()).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at).unwrap();
        u64::from_ne_bytes(word)
    }
}

pub fn orphan(stage: &mut Stage) {
    let segment = |stage: &Stage| stage.builder().with_size(8).create().unwrap();
    drop(stage.dies(segment));
}

pub fn orphan_to_make_anew(stage: &mut Stage) {
    let segment = |stage: &Stage| {
        let builder = stage.builder().orphan_policy(OrphanPolicy::Recreate);
        builder.with_size(8).create().unwrap()
    };
    drop(stage.dies(segment));
}

pub fn observed(stage: &mut Stage) {
    let segment = stage.builder().with_size(8).create().unwrap();
    stage.observe(segment);
}

/// A zombie that was attached stands beside the observer, who owns the segment.
pub fn with_zombie(stage: &mut Stage) {
    stage.corpse = Some(stage.dies(|stage| stage.builder().attach().unwrap()));
}

/// A slot of the table that is far from those used.
const SPARE: u64 = 512 + 64 * 5;
const SOURCE: u64 = 1 << 42;

/// The spare slot is one's that had the driver's number.
pub fn forge(stage: &mut Stage, tenancy: fn(u64) -> u64) {
    let own = stage.load(512);
    assert_eq!(own as u32 & 0x3f_ffff, std::process::id());
    stage.store(SPARE, tenancy(own));
}

/// The driver's tenancy, known by the time when it started, plus so much.
pub fn by_start_time(own: u64, more: u64) -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let start: u64 = fields.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    own & (SOURCE - 1) | SOURCE | start.wrapping_add(more) << 43
}

/// Whoever has the spare slot lives, and keeps it.
pub fn spare_is_left_alone(stage: &mut Stage, run: &mut Run) {
    if stage.load(SPARE) == 0 {
        run.leaks.push("a living process was taken for dead".to_owned());
    }
}

/// The words of the locks: of the heap, and of the directory.
pub const HEAP_LOCK: u64 = 128;
pub const DIRECTORY_LOCK: u64 = 192;
pub const WAITERS: u64 = 1 << 31;

/// The first tenant of the slot after the observer's.
pub const SECOND: u64 = 2 << 24 | 1;
pub const FOURTH: u64 = 4 << 24 | 1;
pub const FIRST: u64 = 1 << 24 | 1;
/// Changes with each name, and then whether somebody waits for that.
pub const DIRECTORY_EVENT: u64 = 192 + 32;

pub fn observed_arena(stage: &mut Stage) {
    let segment = stage.builder().with_size(64 * 1024).max_size(1 << 20).create().unwrap();
    let arena: Arena = segment.arena().unwrap();
    stage.arena = Some(arena.clone());
    stage.observer = Some(stage.builder().attach().unwrap());
    let mutex = arena.find_or_alloc("mutex", || Mutex::new(7_u64)).unwrap();
    drop(mutex);
}

/// A zombie has an object of the arena.
pub fn arena_with_zombie(stage: &mut Stage) {
    observed_arena(stage);
    zombie_in_arena(stage);
}

pub fn zombie_in_arena(stage: &mut Stage) {
    stage.corpse = Some(stage.dies(|stage| {
        let arena: Arena = stage.builder().attach().unwrap().arena().unwrap();
        let object = arena.alloc(5_u64).unwrap();
        (arena, object)
    }));
}

pub fn mutex(arena: &Arena) -> ShmemArc<Mutex<u64>> {
    arena.find("mutex").unwrap()
}

/// A mutex that the driver has locked. The guard is dropped first.
pub struct Locked {
    pub guard: Option<MutexGuard<'static, u64>>,
    mutex: Box<ShmemArc<Mutex<u64>>>,
}

impl Locked {
    /// The lock's word.
    pub fn word(&self) -> &AtomicU32 {
        // SAFETY: the word is the first member, and an atomic.
        unsafe { &*(&raw const **self.mutex).cast() }
    }
}

pub fn driver_locks(stage: &mut Stage) {
    let mutex = Box::new(mutex(stage.arena.as_ref().unwrap()));
    // SAFETY: the guard is dropped before the mutex, which stays where it is in its box.
    let place: &'static Mutex<u64> = unsafe { NonNull::from(&**mutex).as_ref() };
    stage.held = Some(Box::new(Locked { guard: Some(place.lock().unwrap()), mutex }));
}

/// Says that somebody waits for it.
pub fn mark_waiters(mutex: &Mutex<u64>) {
    // SAFETY: the word is the first member, and an atomic.
    let word: &AtomicU32 = unsafe { &*(&raw const *mutex).cast() };
    word.fetch_or(1 << 31, SeqCst);
}

pub fn locked(stage: &mut Stage) -> &mut Locked {
    stage.held.as_mut().unwrap().downcast_mut().unwrap()
}

pub const NO_PIDFDS: &[(Site, Injection)] = &[
    (PidfdOwn, Injection::Fail(Errno::ENOSYS)),
    (PidfdOwnThread, Injection::Fail(Errno::ENOSYS)),
    (PidfdOther, Injection::Fail(Errno::ENOSYS)),
    (PidfdOtherThread, Injection::Fail(Errno::ENOSYS)),
];
/// As Linux 6.8 has them.
pub const OLD_PIDFDS: &[(Site, Injection)] = &[
    (PidfdOwnThread, Injection::Fail(Errno::EINVAL)),
    (PidfdOtherThread, Injection::Fail(Errno::EINVAL)),
    (NamespaceIoctl, Injection::Fail(Errno::ENOTTY)),
    (SerialStatfs, Injection::Fail(Errno::ENOSYS)),
];
