//! All operations of the crate
//!
//! Each says whether it succeeded, or that there was nothing to do it with.

use super::tools;
use super::victim::{PATIENCE, Plain, World, ZERO, good, take};
use crate::common::arena::{Allocator, Random};
use crate::common::campaign::Forked;
use crate::common::pair::Pair;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::WaitStatus;
use shmem_bind::sync::{LockError, Mutex, MutexGuard};
use shmem_bind::{Arena, Builder, Handle, Shareable, ShmemArc, ShmemBox, ShmemConf, segments, unlink};
use std::array;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Most things of a sort that are held at a time.
const MOST: usize = 12;

pub struct Deed<A> {
    pub name: &'static str,
    /// How often it is done, beside others.
    pub weight: usize,
    /// Whether there is anything that it could report.
    pub can_fail: bool,
    pub act: fn(&mut World<A>) -> Option<bool>,
}

/// Number of deeds; the last one is to drop everything at the end of a turn.
pub const DEEDS: usize = OWN + tools::DEEDS + 1;
const OWN: usize = 49;

pub const FAILS: bool = true;
pub const NEVER: bool = false;

pub fn deed<A>(
    name: &'static str,
    weight: usize,
    can_fail: bool,
    act: fn(&mut World<A>) -> Option<bool>,
) -> Deed<A> {
    Deed { name, weight, can_fail, act }
}

pub fn keep<T>(things: &mut Vec<T>, thing: Option<T>) {
    if things.len() < MOST {
        things.extend(thing);
    }
}

/// Fills an object that it was given, whose address must be good, and keeps it.
fn got<A: Allocator>(world: &mut World<A>, result: (bool, Option<ShmemBox<Plain>>)) -> Option<bool> {
    let (is_good, object) = result;
    let object = object.map(|mut object| {
        world.is_inside(&raw const *object, size_of::<Plain>());
        *object = if world.random.below(4) == 0 { lookalike(world) } else { ZERO };
        object
    });
    keep(&mut world.boxes, object);
    Some(is_good)
}

/// A value that looks like the header of a block.
fn lookalike<A: Allocator>(world: &mut World<A>) -> Plain {
    let slot = world.random.below(4) as u32;
    Plain { first: 2 | u64::from(slot) << 8, second: [slot, 0, 4, 0] }
}

fn got_slice<A: Allocator>(world: &mut World<A>, result: (bool, Option<ShmemBox<[u8]>>)) -> Option<bool> {
    let (is_good, slice) = result;
    let slice = slice.map(|mut slice| {
        world.is_inside(&raw const *slice, slice.len());
        slice.fill(0);
        slice
    });
    keep(&mut world.slices, slice);
    Some(is_good)
}

fn got_arc<A: Allocator>(world: &mut World<A>, result: (bool, Option<ShmemArc<AtomicU64>>)) -> Option<bool> {
    let (is_good, object) = result;
    if let Some(object) = &object {
        world.is_inside(&raw const **object, size_of::<AtomicU64>());
        object.store(0, SeqCst);
        assert!(ShmemArc::holders(object) <= 56);
    }
    keep(&mut world.arcs, object);
    Some(is_good)
}

fn got_mutex<A: Allocator>(
    world: &mut World<A>,
    result: (bool, Option<ShmemArc<Mutex<Pair>>>),
) -> Option<bool> {
    let (is_good, mutex) = result;
    if let Some(mutex) = &mutex {
        world.is_inside(&raw const **mutex, size_of::<Mutex<Pair>>());
    }
    keep(&mut world.mutexes, mutex);
    Some(is_good)
}

/// A number of bytes: mostly few.
fn len<A: Allocator>(world: &mut World<A>) -> usize {
    let most = [40, 300, 3000, 40_000][[0, 0, 0, 0, 1, 1, 1, 2, 2, 3][world.random.index(10)]];
    world.random.index(most)
}

fn alloc_any<A: Allocator>(world: &mut World<A>) -> Option<(bool, Option<ShmemArc<AtomicU64>>)> {
    let arena = world.arena()?;
    Some(match arena.alloc(AtomicU64::new(0)) {
        Ok(object) => (true, Some(ShmemBox::into_arc(object))),
        Err(rejected) => good(Err::<ShmemArc<AtomicU64>, _>(rejected.error)),
    })
}

/// Uses what a lock guards, and gives it back or leaves it.
fn use_lock<A: Allocator>(
    world: &mut World<A>,
    lock: impl FnOnce(&Mutex<Pair>) -> Result<MutexGuard<'_, Pair>, LockError<'_, Pair>>,
) -> Option<bool> {
    let mutex = world.mutexes.get(world.random.index(world.mutexes.len().max(1)))?.clone();
    let choice = world.random.below(4);
    match lock(&mutex) {
        Ok(mut guard) => *guard = Pair::of(0),
        Err(error) => {
            assert!(!format!("{error} {error:?}").is_empty());
            let LockError::Orphaned(orphaned) = error else { return Some(false) };
            match choice {
                0 => drop(orphaned.replace(Pair::of(0))),
                1 => *orphaned.recover() = Pair::of(0),
                2 => drop(orphaned),
                _ => orphaned.give_up(),
            }
        }
    }
    Some(true)
}

/// Somebody comes, takes this and that, and is killed.
fn die<A: Allocator>(world: &mut World<A>) -> Option<bool> {
    let label = world.label();
    let mut random = Random::seeded(world.random.next());
    let forked = Forked::spawn(|| {
        if let Ok(arena) = world.attach().and_then(|conf| Ok(conf.arena::<A>()?)) {
            let object = arena.alloc(ZERO);
            let slice = arena.alloc_slice(200, 0_u8);
            if let Ok(number) = arena.alloc(AtomicU64::new(0)) {
                let number = ShmemBox::into_arc(number);
                let _ = arena.publish(label, &number);
                std::mem::forget(number);
            }
            if let Ok(mutex) = arena.find::<Mutex<Pair>>("mutex") {
                std::mem::forget(mutex.try_lock());
                std::mem::forget(mutex);
            }
            tools::hold_all(&arena, &mut random);
            std::mem::forget((object, slice, arena));
        }
        raise(Signal::SIGKILL).unwrap();
    });
    let status = forked.death();
    let is_killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
    // What it said when it panicked is known already.
    assert!(is_killed || matches!(status, WaitStatus::Exited(_, 101)), "one forked ended with {status:?}");
    if !is_killed {
        // As the one forked did.
        unsafe { nix::libc::_exit(101) }
    }
    Some(true)
}

fn ask(conf: &ShmemConf) {
    let _ = (conf.owner_pid(), conf.attachment_count(), conf.is_owner(), conf.is_linked(), conf.origin());
    let _ = (conf.payload(), conf.statistics(), conf.unlink_policy(), conf.orphan_policy());
    assert!(!format!("{conf:?} {:?} {}", conf.payload(), conf.segment_id()).is_empty());
}

/// A deed of an arena that gives no object.
fn with_arena<A: Allocator>(
    world: &mut World<A>,
    work: impl FnOnce(&Arena<A>, &mut World<A>) -> bool,
) -> Option<bool> {
    let arena = world.arena()?;
    Some(work(&arena, world))
}

/// All of them.
pub fn all<A: Allocator>() -> [Deed<A>; DEEDS] {
    let mut all = own().into_iter().chain(tools::all()).chain([deed("drop all", 0, NEVER, |_| None)]);
    array::from_fn(|_| all.next().unwrap())
}

/// Those with a segment, its objects and their names.
fn own<A: Allocator>() -> [Deed<A>; OWN] {
    [
        // The segment.
        deed("open", 1, FAILS, |world| {
            if world.memfd.is_some() {
                return None;
            }
            let (is_good, conf) = good(world.builder().with_size(world.size).max_size(world.max_size).open());
            keep(&mut world.confs, conf);
            world.look();
            Some(is_good)
        }),
        deed("create", 1, FAILS, |world| {
            // Beside the one that is damaged, so that it fails if that is there still.
            if world.memfd.is_some() || world.random.below(2) == 0 {
                return Some(good(Builder::memfd().timeout(PATIENCE).create(4096)).0);
            }
            Some(good(world.builder().with_size(world.size).create()).0)
        }),
        deed("attach", 2, FAILS, |world| {
            let (is_good, conf) = good(world.attach());
            keep(&mut world.confs, conf);
            world.look();
            Some(is_good)
        }),
        deed("attach_read_only", 2, FAILS, |world| {
            let builder = world.builder();
            let (is_good, conf) = good(match &world.memfd {
                Some(fd) => Builder::memfd().timeout(PATIENCE).attach_read_only(fd),
                None => builder.attach_read_only(),
            });
            keep(&mut world.readers, conf);
            world.look();
            Some(is_good)
        }),
        deed("arena", 3, FAILS, |world| {
            let conf = take(&mut world.random, &mut world.confs)?;
            let (is_good, arena) = good(conf.arena());
            if world.arenas.len() < 4 {
                arena.into_iter().for_each(|arena| world.hold(arena));
            }
            Some(is_good)
        }),
        deed("detach", 2, NEVER, |world| {
            take(&mut world.random, &mut world.readers);
            if world.arenas.len() > 1 {
                take(&mut world.random, &mut world.arenas);
            }
            take(&mut world.random, &mut world.confs).map(|_| true)
        }),
        deed("leak a segment", 1, NEVER, |world| {
            take(&mut world.random, &mut world.confs)?.leak();
            Some(true)
        }),
        deed("try_own", 1, FAILS, |world| {
            let arena = world.arena()?;
            Some(good(arena.conf().try_own()).0)
        }),
        deed("try_boxed", 1, NEVER, |world| {
            let conf = take(&mut world.random, &mut world.confs)?;
            // SAFETY: any bytes are a number.
            match unsafe { conf.try_boxed::<u64>() } {
                // The vandal has made it a single value.
                Ok(mut number) => {
                    world.is_inside(&raw const *number, 8);
                    *number = 0;
                    Some(true)
                }
                Err(error) => Some(!error.to_string().is_empty()),
            }
        }),
        deed("sweep a segment", 1, NEVER, |world| {
            let arena = world.arena()?;
            Some(arena.conf().sweep() <= 56)
        }),
        deed("ask", 2, NEVER, |world| {
            world.readers.iter().chain(&world.confs).for_each(ask);
            world.arenas.iter().for_each(|arena| ask(arena.conf()));
            Some(true)
        }),
        deed("unlink", 1, FAILS, |world| {
            // Seldom, for then nobody else comes to the segment.
            if world.memfd.is_some() || world.random.below(3) != 0 {
                return None;
            }
            Some(good(unlink(&world.name)).0)
        }),
        deed("segments", 1, NEVER, |world| {
            if world.random.below(8) != 0 {
                return None;
            }
            // Others' segments come and go.
            Some(segments().is_ok())
        }),
        deed("death", 1, NEVER, |world| if world.random.below(3) == 0 { die(world) } else { None }),
        // Allocating and freeing.
        deed("alloc", 6, FAILS, |world| {
            let arena = world.arena()?;
            let result = good(arena.alloc(ZERO).map_err(|rejected| rejected.error));
            got(world, result)
        }),
        deed("alloc_with", 2, FAILS, |world| {
            let arena = world.arena()?;
            let result = good(arena.alloc_with(|slot| slot.write(ZERO)));
            got(world, result)
        }),
        deed("alloc_uninit", 2, FAILS, |world| {
            let arena = world.arena()?;
            let (is_good, object) = good(arena.alloc_uninit::<Plain>());
            let object = object.map(|mut object| {
                world.is_inside(object.as_ptr(), size_of::<Plain>());
                object.write(ZERO);
                // SAFETY: written just now.
                unsafe { object.assume_init() }
            });
            got(world, (is_good, object))
        }),
        deed("alloc_slice", 5, FAILS, |world| {
            let (arena, len) = (world.arena()?, len(world));
            let result = good(arena.alloc_slice(len, 0_u8));
            got_slice(world, result)
        }),
        deed("alloc_slice_with", 2, FAILS, |world| {
            let (arena, len) = (world.arena()?, len(world));
            let result = good(arena.alloc_slice_with(len, |_| 0_u8));
            got_slice(world, result)
        }),
        deed("alloc_slice_copy", 2, FAILS, |world| {
            let arena = world.arena()?;
            let result = good(arena.alloc_slice_copy(&[0_u8; 100]));
            got_slice(world, result)
        }),
        deed("alloc_uninit_slice", 2, FAILS, |world| {
            let (arena, len) = (world.arena()?, len(world));
            let (is_good, slice) = good(arena.alloc_uninit_slice::<u16>(len));
            if let Some(slice) = slice {
                world.is_inside(&raw const *slice, len * 2);
            }
            Some(is_good)
        }),
        deed("alloc_str", 2, FAILS, |world| {
            let arena = world.arena()?;
            let (is_good, string) = good(arena.alloc_str("some words"));
            if let Some(string) = string {
                // Its bytes are the peers'.
                world.is_inside(string.as_ptr(), string.len());
                assert_eq!(string.len(), 10);
            }
            Some(is_good)
        }),
        deed("free", 6, NEVER, |world| {
            drop(take(&mut world.random, &mut world.boxes));
            take(&mut world.random, &mut world.slices).map(|_| true)
        }),
        deed("into_inner", 2, NEVER, |world| {
            let object = take(&mut world.random, &mut world.boxes)?;
            ShmemBox::into_inner(object).ok().map(|_| true)
        }),
        // Handles.
        deed("leak", 4, NEVER, |world| {
            let bits = match take(&mut world.random, &mut world.slices) {
                Some(slice) => ShmemBox::leak(slice).to_bits(),
                None => ShmemBox::leak(take(&mut world.random, &mut world.boxes)?).to_bits(),
            };
            keep(&mut world.handles, Some(bits));
            Some(true)
        }),
        deed("claim", 4, FAILS, |world| {
            let arena = world.arena()?;
            let bits = take(&mut world.random, &mut world.handles)?;
            let (is_good, object) = good(arena.claim(Handle::<Plain>::from_bits(bits)));
            if is_good {
                return got(world, (is_good, object));
            }
            let result = good(arena.claim(Handle::<[u8]>::from_bits(bits)));
            got_slice(world, result)
        }),
        deed("claim anything", 1, NEVER, |world| {
            let arena = world.arena()?;
            let forged = u128::from(world.random.next()) << 64 | u128::from(world.random.next());
            let bits = match world.handles.first() {
                Some(bits) => bits ^ forged & 0xffff,
                None => forged,
            };
            let result = good(arena.claim(Handle::<[u8]>::from_bits(bits)));
            got_slice(world, result);
            Some(true)
        }),
        deed("leaked", 2, NEVER, |world| {
            let arena = world.arena()?;
            let leaked: Vec<_> = arena.leaked().take(2).collect();
            for object in leaked {
                if let Ok(handle) = object.handle::<[u8]>() {
                    keep(&mut world.handles, Some(handle.to_bits()));
                }
                assert!(!format!("{object:?} {:?}", object.type_tag()).is_empty());
            }
            Some(arena.leaked().count() < 10_000)
        }),
        // References.
        deed("into_arc", 4, NEVER, |world| {
            let (is_good, object) = alloc_any(world)?;
            if is_good { got_arc(world, (is_good, object)) } else { None }
        }),
        deed("clone", 2, NEVER, |world| {
            let index = world.random.index(world.arcs.len().max(1));
            let object = world.arcs.get(index)?.clone();
            got_arc(world, (true, Some(object)))
        }),
        deed("release", 5, NEVER, |world| {
            if world.random.below(4) == 0 {
                take(&mut world.random, &mut world.mutexes);
            }
            take(&mut world.random, &mut world.arcs).map(|_| true)
        }),
        deed("get_mut", 2, FAILS, |world| {
            let index = world.random.index(world.arcs.len().max(1));
            Some(ShmemArc::get_mut(world.arcs.get_mut(index)?).map(|number| *number.get_mut() = 0).is_some())
        }),
        deed("into_box", 2, FAILS, |world| {
            let object = take(&mut world.random, &mut world.arcs)?;
            match ShmemArc::into_box(object) {
                Ok(object) => {
                    world.is_inside(&raw const *object, 8);
                    Some(true)
                }
                Err(object) => {
                    keep(&mut world.arcs, Some(object));
                    Some(false)
                }
            }
        }),
        // Names.
        deed("publish", 6, FAILS, |world| {
            let (arena, label) = (world.arena()?, world.label());
            let object = world.arcs.get(world.random.index(world.arcs.len().max(1)))?;
            Some(good(arena.publish(label, object)).0)
        }),
        deed("publish_pinned", 1, FAILS, |world| {
            let (arena, label) = (world.arena()?, world.label());
            let object = world.arcs.get(world.random.index(world.arcs.len().max(1)))?;
            if world.random.below(2) != 0 {
                return None;
            }
            Some(good(arena.publish_pinned(label, object)).0)
        }),
        deed("unpublish", 4, FAILS, |world| {
            let (arena, label) = (world.arena()?, world.label());
            let result = good(arena.unpublish::<AtomicU64>(label));
            got_arc(world, result)
        }),
        deed("find", 5, FAILS, |world| {
            let (arena, label) = (world.arena()?, world.label());
            let result = good(arena.find::<AtomicU64>(label));
            got_arc(world, result)
        }),
        deed("find a mutex", 4, FAILS, |world| {
            let arena = world.arena()?;
            let result = good(arena.find::<Mutex<Pair>>("mutex"));
            got_mutex(world, result)
        }),
        deed("find_or_alloc", 3, FAILS, |world| {
            let (arena, label) = (world.arena()?, world.label());
            let result = good(arena.find_or_alloc(label, || AtomicU64::new(0)));
            got_arc(world, result)
        }),
        deed("wait_for", 1, FAILS, |world| {
            let (arena, label) = (world.arena()?, world.label());
            let result = good(arena.wait_for::<AtomicU64>(label, Duration::from_millis(1)));
            got_arc(world, result)
        }),
        deed("names", 3, FAILS, |world| {
            with_arena(world, |arena, _| {
                // Each time another name comes next, whose hash may be changed meanwhile: there is no last one.
                arena
                    .names()
                    .take(200)
                    .all(|entry| good(entry.map(|entry| assert!(!format!("{entry:?}").is_empty()))).0)
            })
        }),
        deed("find_pinned", 3, FAILS, |world| {
            let index = world.random.index(world.readers.len().max(1));
            let (is_good, number) = good(world.readers.get(index)?.find_pinned::<u64>("pinned"));
            if let Some(number) = number {
                world.is_inside(&raw const *number, 8);
            }
            Some(is_good)
        }),
        deed("find_pinned_words", 3, FAILS, |world| {
            let index = world.random.index(world.readers.len().max(1));
            let words = world.readers.get(index)?.find_pinned_words::<u64>("pinned");
            let (is_good, words) = good(words);
            if let Some(words) = words {
                // SAFETY: the object is a number.
                assert!(unsafe { words.load::<AtomicU64>(0) }.is_some());
            }
            Some(is_good)
        }),
        // The arena as a whole.
        deed("usage", 2, FAILS, |world| {
            with_arena(world, |arena, _| good(arena.usage()).0 && !arena.reclaimed().to_string().is_empty())
        }),
        deed("check", 3, FAILS, |world| with_arena(world, |arena, _| good(arena.check()).0)),
        deed("sweep", 3, FAILS, |world| with_arena(world, |arena, _| good(arena.sweep()).0)),
        deed("grow", 1, FAILS, |world| {
            with_arena(world, |arena, world| {
                let to = world.random.index(world.max_size + 4096);
                let result = arena.grow(to);
                assert!(arena.size() <= world.max_size);
                good(result).0
            })
        }),
        // Locks.
        deed("lock_for", 4, FAILS, |world| use_lock(world, |mutex| mutex.lock_for(PATIENCE))),
        deed("try_lock", 4, FAILS, |world| use_lock(world, |mutex| mutex.try_lock())),
    ]
}

const _: () = assert!(<Plain as Shareable>::FROZEN);
