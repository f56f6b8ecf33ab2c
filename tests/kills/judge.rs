//! What must be true of whatever a death has left
//!
//! - A new process attaches, and finds all in order: the arena checks clean, as many blocks are in use as the living hold,
//!   names lead to and handles have been leaked of; every object that can be reached is a living one; of the dead no
//!   attachment is left, nor a reference.
//! - Everybody alive can do everything. Nobody waits: the dead hold nothing, and the living do nothing meanwhile.
//! - Who was attached all along has its objects as they were.
//! - When all objects are given up, the arena is empty. Each destructor has run at most once, that of an object that a
//!   living process gave up exactly once.

use super::queues::{self, QUEUE};
use super::scenes::{Leaves, Scene};
use super::several::{SEVERAL, several, share};
use super::stage::{MUTEX, Past, Sealed, Snapshot, Stage, WAITED, Waited, ledger, mutex, waited};
use crate::common::arena::Allocator;
use crate::common::campaign::{Forked, Wrong};
use crate::common::pair::Pair;
use nix::sys::wait::WaitStatus;
use shmem_bind::sync::{LockError, LockFailure, Mutex};
use shmem_bind::{Arena, Builder, Handle, Payload, ShmemArc, ShmemBox};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, set_hook, take_hook};
use std::time::{Duration, Instant};

/// How long a newcomer may take, who needs a millisecond. It has no reason to wait for anybody.
const PATIENCE: Duration = Duration::from_secs(40);

/// What went wrong, in words.
pub type Fault = (Wrong, String);

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
    static IS_JUDGING: Cell<bool> = const { Cell::new(false) };
}

/// Remembers where a judge panics instead of printing it: the campaign reports that.
pub fn keep_judges_quiet() {
    let print = take_hook();
    set_hook(Box::new(move |info| {
        if !IS_JUDGING.get() {
            return print(info);
        }
        let place = info.location().map_or(String::new(), ToString::to_string);
        PLACE.with_borrow_mut(|last| *last = place);
    }));
}

/// Judges, by assertions.
pub fn caught(judge: impl FnOnce()) -> Result<(), Fault> {
    let was_judging = IS_JUDGING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(judge));
    IS_JUDGING.set(was_judging);
    result.map_err(fault)
}

fn fault(payload: Box<dyn Any + Send>) -> Fault {
    let place = PLACE.with_borrow(Clone::clone);
    match payload.downcast::<Fault>() {
        Ok(fault) => *fault,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
            (Wrong::Corrupt, format!("{} at {place}", text.unwrap_or_default()))
        }
    }
}

macro_rules! lost {
    ($left:expr, $right:expr, $($what:tt)+) => {
        let (left, right) = ($left, $right);
        if left != right {
            panic_any((Wrong::Lost, format!("{} is {left:?} and not {right:?}", format!($($what)+))));
        }
    };
}

pub(crate) use lost;

/// The value of what must succeed.
#[track_caller]
pub fn must<T, E: Debug>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| {
        let text = format!("{what}: {error:?}");
        let is_stuck = text.contains("Busy") || text.contains("Full");
        panic_any((if is_stuck { Wrong::Stuck } else { Wrong::Corrupt }, text))
    })
}

/// Does some of everything that changes an arena, and leaves it as it was.
fn progress<A: Allocator>(arena: &Arena<A>, label: &str) {
    let object = must("alloc", arena.alloc(Sealed::new()).map_err(|rejected| rejected.error));
    let slice = must("alloc_slice", arena.alloc_slice(700, 3_u8));
    let handle = ShmemBox::leak(object);
    let object = ShmemBox::into_arc(must("claim", arena.claim(handle)));
    must("publish", arena.publish(label, &object));
    assert_eq!(must("find", arena.find::<Sealed>(label)).id(), object.id());
    let named = must("unpublish", arena.unpublish::<Sealed>(label));
    drop((object, slice));
    let id = named.id();
    drop(named);
    lost!(ledger().times_destroyed(id), 1, "how often an object was destroyed");
}

/// What a newcomer expects to find, as far as that is not in the segment.
struct Expected {
    /// Blocks of the living that no name leads to.
    blocks: u64,
    /// Attachments of the living.
    attachments: u32,
    /// Whether the tables of the directory are there for certain.
    has_table: bool,
}

/// What a new process does that comes after the death.
fn look<A: Allocator>(stage: &Stage<A>, scene: &Scene<A>) {
    let conf = must("open", stage.open());
    let is_same = Some(conf.segment_id()) == stage.id;
    assert!(
        is_same || stage.id.is_none() || scene.leaves.contains(Leaves::NO_NAME),
        "the name leads to another segment"
    );
    if stage.past == Past::Unformed && matches!(conf.payload(), Ok(Payload::Value { .. })) {
        conf.sweep();
        // SAFETY: the victim has said that it is a number, and nobody uses it.
        let number = must("boxed", unsafe { conf.try_boxed::<u64>() });
        lost!(
            ShmemBox::conf(&number).attachment_count(),
            1 + u32::from(is_same),
            "the number of attachments"
        );
        return;
    }
    let arena: Arena<A> = must("arena", conf.arena());
    let living = is_same && (stage.holdings.is_some() || stage.unformed.is_some());
    let expected = Expected {
        blocks: stage.holdings.as_ref().filter(|_| is_same).map_or(0, |holdings| holdings.blocks()),
        attachments: u32::from(living),
        has_table: is_same && !matches!(stage.past, Past::Unformed),
    };
    must("sweep", arena.sweep());
    must("check", arena.check());
    if let Some(room) = stage.room.filter(|_| is_same) {
        let usage = must("usage", arena.usage());
        lost!(usage.used + usage.free, room, "the number of bytes in use and free");
    }
    look_around(&arena, stage, scene, &expected, is_same);
    progress(&arena, "of the newcomer");
    must("check", arena.check());
    if let Some(id) = ledger().destroyed_twice() {
        panic_any((Wrong::Lost, format!("object {id} was destroyed twice")));
    }
}

/// Counts, and takes all that it can reach.
fn look_around<A: Allocator>(
    arena: &Arena<A>,
    stage: &Stage<A>,
    scene: &Scene<A>,
    expected: &Expected,
    is_same: bool,
) {
    lost!(arena.conf().attachment_count(), expected.attachments + 1, "the number of attachments");
    let entries: Vec<_> = arena.names().map(|entry| must("names", entry)).collect();
    let leaked: Vec<_> = arena.leaked().collect();
    let used = must("usage", arena.usage()).blocks;
    // Each name has an entry and an object, and the living hold others.
    let blocks = expected.blocks + 2 * entries.len() as u64 + leaked.len() as u64;
    let table = if expected.has_table { 1 } else { (used - blocks.min(used)).min(1) };
    // One that the living hold may have lost its name.
    let held_name = entries.iter().any(|entry| entry.name() == "held");
    let observed = is_same && stage.holdings.is_some();
    let nameless = u64::from(observed && !held_name);
    lost!(used, blocks + table + nameless, "the number of blocks in use ({entries:?}, {leaked:?})");

    let may = |flag| scene.leaves.contains(flag);
    let had_names = expected.has_table;
    assert!(!had_names || held_name || may(Leaves::HELD), "a name is gone");
    let loose = entries.iter().any(|entry| entry.name() == "loose");
    assert!(!had_names || loose || may(Leaves::LOOSE), "a name is gone");
    for entry in &entries {
        let holders = u32::from(observed && ["held", MUTEX, QUEUE, WAITED, SEVERAL].contains(&entry.name()));
        lost!(entry.holders(), holders, "the holders of {}", entry.name());
        if entry.name() == MUTEX {
            lock_and_unlock(&mutex(arena), scene);
            continue;
        }
        if entry.name() == QUEUE {
            queues::judge(arena, scene);
            continue;
        }
        if entry.name() == WAITED {
            wait_and_notify(&waited(arena), scene);
            continue;
        }
        if entry.name() == SEVERAL {
            share(&several(arena), scene);
            continue;
        }
        let object = must("find", arena.find::<Sealed>(entry.name()));
        lost!(ShmemArc::holders(&object), holders + 1, "the holders of {}", entry.name());
        lost!(ledger().times_destroyed(object.id()), 0, "how often a named object was destroyed");
    }
    let handle = Handle::<Sealed>::from_bits(ledger().handle());
    if had_names {
        let is_there = leaked.iter().any(|object| object.handle::<Sealed>() == Ok(handle));
        assert!(is_there || may(Leaves::LEAKED), "what was leaked is gone");
    }
    let pinned = take_all(arena);
    let used = must("usage", arena.usage()).blocks;
    let kept = expected.blocks + u64::from(observed) + 2 * pinned + table;
    lost!(used, kept, "the number of blocks that are left");
}

/// Locks what the dead may have locked, and puts it right.
fn lock_and_unlock<A>(mutex: &Mutex<Pair>, scene: &Scene<A>) {
    match mutex.lock_for(Duration::from_secs(2)) {
        Ok(guard) => assert_eq!(guard.first, guard.second, "half-written, and nobody says so"),
        Err(LockError::Orphaned(orphaned)) => drop(orphaned.replace(Pair::of(3))),
        Err(LockError::Failed(LockFailure::NotRecoverable)) if scene.leaves.contains(Leaves::GIVEN_UP) => {
            return;
        }
        Err(error) => must("lock", Err(error)),
    }
    // Put right, it is so.
    let mut guard = must("lock", mutex.lock_for(Duration::from_secs(2)));
    assert_eq!(guard.first, guard.second);
    guard.first += 1;
    guard.second += 1;
}

/// Initialises what the dead may have begun to, and waits where it may have waited, or notified.
fn wait_and_notify(waited: &Waited, scene: &Scene<impl Allocator>) {
    const MOMENT: Duration = Duration::from_millis(1);
    let init = || waited.cell.get_or_init_for(Duration::from_secs(2), || Pair::of(9));
    let pair = must("get_or_init", init());
    assert!([2, 9].map(Pair::of).contains(pair), "a value that nobody has given: {pair:?}");
    assert_eq!(must("wait", waited.cell.wait_for(MOMENT)), Some(pair));
    lock_and_unlock(&waited.mutex, scene);
    let guard = must("lock", waited.mutex.lock_for(Duration::from_secs(2)));
    let (guard, result) = must("wait_for", waited.changed.wait_for(guard, MOMENT));
    assert!(result.timed_out() && guard.first == guard.second, "woken by nobody");
    drop(guard);
    waited.changed.notify_all();
    let since = waited.event.listen();
    waited.event.notify_one();
    assert!(must("wait for the event", waited.event.wait(since, Duration::ZERO)));
    assert_eq!(must("wait_until", waited.event.wait_until(MOMENT, || None::<()>)), None);
}

/// Takes all names, and all that was leaked, and gives it up; gives how many names are for ever.
fn take_all<A: Allocator>(arena: &Arena<A>) -> u64 {
    let names: Vec<_> = arena.names().map(|entry| must("names", entry)).collect();
    for entry in names.iter().filter(|entry| !entry.is_pinned()) {
        must("unpublish", arena.unpublish::<Sealed>(entry.name())).id();
    }
    for object in arena.leaked().collect::<Vec<_>>() {
        let Ok(handle) = object.handle::<Sealed>() else {
            drop(must("claim", arena.claim(object.handle::<[u8]>().unwrap())));
            continue;
        };
        let object = must("claim", arena.claim(handle));
        lost!(ledger().times_destroyed(object.id()), 0, "how often a leaked object was destroyed");
    }
    names.iter().filter(|entry| entry.is_pinned()).count() as u64
}

/// In a forked process: tells the driver what was found.
pub fn leave_verdict(result: Result<(), Fault>) {
    if let Err((wrong, text)) = result {
        ledger().leave_verdict(wrong as u32 + 1, &text);
    }
}

/// What a forked process has told.
pub fn take_verdict() -> Result<(), Fault> {
    match ledger().take_verdict() {
        (0, _) => Ok(()),
        (number, text) => Err(([Wrong::Corrupt, Wrong::Lost, Wrong::Stuck][number as usize - 1], text)),
    }
}

/// Lets a new process judge.
pub fn judge_by_newcomer<A: Allocator>(stage: &Stage<A>, scene: &Scene<A>) -> Result<(), Fault> {
    ledger().take_verdict();
    let mut newcomer = Forked::spawn(|| leave_verdict(caught(|| look(stage, scene))));
    let start = Instant::now();
    let status = loop {
        match newcomer.try_reap() {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                return Err((Wrong::Stuck, "a newcomer does not come to an end".to_owned()));
            }
            None => std::thread::yield_now(),
        }
    };
    take_verdict()?;
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        status => Err((Wrong::Corrupt, format!("a newcomer ended with {status:?}"))),
    }
}

/// Puts a segment back to how a death left it, and lets a new process judge.
pub fn judge_snapshot<A: Allocator>(
    stage: &Stage<A>,
    scene: &Scene<A>,
    snapshot: &Snapshot,
) -> Result<(), Fault> {
    let restore = || {
        stage.view.restore(&snapshot.bytes);
        ledger().restore(snapshot);
    };
    if let Some(holdings) = stage.holdings.as_ref().filter(|_| A::PRIVATE_WORDS == 0) {
        // Afterwards its private memory is as it was: it counts the same references. What an allocator keeps there would be
        // of this image, and wrong in the next one; with such an allocator the observer judges real deaths only.
        restore();
        caught(|| go_on(&holdings.arena))?;
    }
    restore();
    judge_by_newcomer(stage, scene)?;
    match &stage.holdings {
        Some(holdings) => caught(|| holdings.check()),
        None => Ok(()),
    }
}

/// What one does who was attached all along: goes on first, and looks after the dead then.
fn go_on<A: Allocator>(arena: &Arena<A>) {
    progress(arena, "of the observer");
    must("sweep", arena.sweep());
    must("check", arena.check());
}

/// After a real death: lets those judge who were attached all along, and a new process, in either order; and brings the
/// segment to its end.
pub fn judge_for_good<A: Allocator>(
    mut stage: Stage<A>,
    scene: &Scene<A>,
    newcomer_first: bool,
) -> Result<(), Fault> {
    if let (Some(holdings), false) = (&stage.holdings, newcomer_first) {
        caught(|| go_on(&holdings.arena))?;
    }
    judge_by_newcomer(&stage, scene)?;
    let Some(holdings) = stage.holdings.take() else {
        drop(stage.unformed.take());
        // The newcomer became the owner of what nobody else was attached to.
        let must_go = !scene.leaves.contains(Leaves::NAME) && !matches!(stage.past, Past::Unformed);
        return caught(|| assert!(!must_go || !stage.name.exists(), "a name is left behind"));
    };
    caught(|| {
        holdings.check();
        progress(&holdings.arena, "of the observer");
        must("sweep", holdings.arena.sweep());
        // A newcomer that found the name gone, or another segment there, has taken nothing.
        let pinned = take_all(&holdings.arena);
        let arena = holdings.give_up();
        must("check", arena.check());
        lost!(arena.conf().attachment_count(), 1, "the number of attachments at last");
        let usage = must("usage", arena.usage());
        lost!(usage.blocks, 1 + 2 * pinned, "the number of blocks at last");
        if let Some(room) = stage.room {
            lost!(usage.used + usage.free, room, "the number of bytes in use and free at last");
        }
        if let Some(id) = ledger().destroyed_twice() {
            panic_any((Wrong::Lost, format!("object {id} was destroyed twice")));
        }
        drop(arena);
    })?;
    let may_stay = scene.leaves.contains(Leaves::NAME);
    let is_left =
        Builder::new(&stage.name).attach_read_only().is_ok_and(|conf| Some(conf.segment_id()) == stage.id);
    caught(|| assert!(may_stay || !is_left, "a name is left behind"))
}
