//! What processes wait at, and queues
//!
//! All that lies in them may be any bytes: words that say who has a lock, who waits, where a queue's next place is. So whoever
//! waits here has a deadline, and a queue gives any value, or says that it is damaged.

use super::deeds::{Deed, FAILS, NEVER, deed, keep};
use super::victim::{PATIENCE, Plain, World, ZERO, good, take};
use crate::common::arena::{Allocator, Random};
use shmem_bind::ring::{Mode, Mpmc, Queue, QueueError, Spsc};
use shmem_bind::sync::{
    Condvar, Event, LockError, Mutex, Once, OnceCell, RwLock, RwLockWriteGuard, Semaphore, WaitError,
};
use shmem_bind::{Arena, FromZeros, ShmemArc, shareable};
use std::mem::forget;
use std::time::Duration;

const PERMITS: usize = 3;
const PLACES: usize = 4;
const SHORT: Duration = Duration::from_micros(300);

shareable! {
    /// One of each.
    #[repr(C)]
    pub struct Tools {
        plain: RwLock<Plain, 4>,
        permits: Semaphore<PERMITS>,
        cell: OnceCell<Plain>,
        once: Once,
        number: Mutex<u64>,
        changed: Condvar,
        event: Event,
        single: Spsc<Plain, PLACES>,
        many: Mpmc<Plain, PLACES>,
    }
}

// SAFETY: zeros are each of them.
unsafe impl FromZeros for Tools {}

/// Uses what is there, if it is found, and says whether that succeeded.
fn with_tools<A: Allocator>(
    world: &mut World<A>,
    work: impl FnOnce(&Tools, &mut World<A>) -> bool,
) -> Option<bool> {
    let tools = world.tools.get(world.random.index(world.tools.len().max(1)))?.clone();
    Some(work(&tools, world))
}

/// Looks at a value that was given where it lies.
fn look<A: Allocator>(world: &World<A>, value: &Plain) {
    world.is_inside(value, size_of::<Plain>());
    assert!(!format!("{value:?}").is_empty());
}

fn read<A: Allocator>(tools: &Tools, world: &mut World<A>) -> bool {
    let is_patient = world.random.below(2) == 0;
    match if is_patient { tools.plain.read_for(PATIENCE) } else { tools.plain.try_read() } {
        Ok(guard) => look(world, &guard),
        Err(LockError::Orphaned(orphaned)) => match world.random.below(3) {
            0 => look(world, &orphaned.replace(ZERO)),
            1 => look(world, &orphaned.recover()),
            _ => drop(orphaned),
        },
        Err(error) => return good(Err::<(), _>(error)).0,
    }
    true
}

fn write<A: Allocator>(tools: &Tools, world: &mut World<A>) -> bool {
    let is_patient = world.random.below(2) == 0;
    let guard = match if is_patient { tools.plain.write_for(PATIENCE) } else { tools.plain.try_write() } {
        Ok(guard) => guard,
        Err(LockError::Orphaned(orphaned)) => match world.random.below(8) {
            0 => {
                orphaned.give_up();
                return true;
            }
            1..4 => orphaned.recover(),
            _ => orphaned.replace(ZERO),
        },
        Err(error) => return good(Err::<(), _>(error)).0,
    };
    look(world, &guard);
    if world.random.below(2) == 0 {
        look(world, &RwLockWriteGuard::downgrade(guard));
    }
    true
}

fn permit<A: Allocator>(tools: &Tools, world: &mut World<A>) -> bool {
    assert!(tools.permits.available() <= PERMITS);
    if world.random.below(4) == 0 {
        return good(tools.permits.reclaim().map(|count| assert!(count <= PERMITS))).0;
    }
    let (is_good, first) = good(tools.permits.acquire_for(PATIENCE));
    // Another one, as long as the first one is held.
    good(tools.permits.try_acquire());
    drop(first);
    is_good
}

fn initialize<A: Allocator>(tools: &Tools, world: &mut World<A>) -> bool {
    let (is_good, value) = good(tools.cell.get_or_init_for(PATIENCE, || ZERO));
    value.into_iter().chain(tools.cell.get()).for_each(|value| look(world, value));
    good(tools.cell.wait_for(SHORT));
    is_good
}

fn call_once<A: Allocator>(tools: &Tools, _: &mut World<A>) -> bool {
    let is_good = good(tools.once.call_once_for(PATIENCE, || ())).0;
    good(tools.once.wait_for(SHORT));
    is_good
}

fn wait_with<A: Allocator>(tools: &Tools, world: &mut World<A>) -> bool {
    let guard = match tools.number.lock_for(PATIENCE) {
        Ok(guard) => guard,
        Err(LockError::Orphaned(orphaned)) => orphaned.replace(0),
        Err(error) => return good(Err::<(), _>(error)).0,
    };
    if world.random.below(2) == 0 {
        tools.changed.notify_one();
    }
    match tools.changed.wait_for(guard, SHORT) {
        Ok((guard, _)) => world.is_inside(&raw const *guard, 8),
        Err(WaitError::Orphaned { orphaned, .. }) => drop(orphaned.recover()),
        Err(error) => return good(Err::<(), _>(error)).0,
    }
    tools.changed.notify_all();
    true
}

fn listen<A: Allocator>(tools: &Tools, world: &mut World<A>) -> bool {
    let since = tools.event.listen();
    if world.random.below(2) == 0 {
        tools.event.notify_one();
    }
    good(tools.event.wait(since, SHORT)).0
}

fn is_sent(result: Result<(), QueueError>) -> bool {
    good(result).0
}

fn send<A: Allocator, M: Mode>(queue: &Queue<Plain, PLACES, M>, world: &mut World<A>) -> bool {
    assert!(queue.len() <= PLACES);
    let Some(mut sender) = good(queue.sender()).1 else { return false };
    match world.random.below(6) {
        0 => is_sent(sender.try_push(ZERO).map_err(|unsent| unsent.error)),
        1 => is_sent(sender.push_for(ZERO, PATIENCE).map_err(|unsent| unsent.error)),
        2 => is_sent(sender.push_spinning_for(ZERO, SHORT).map_err(|unsent| unsent.error)),
        3 => good(sender.push_slice(&[ZERO; PLACES + 1]).map(|sent| assert!(sent <= PLACES + 1))).0,
        which => {
            let (is_good, slot) = good(sender.reserve_for(SHORT));
            let Some(mut slot) = slot else { return is_good };
            look(world, slot.uninit().write(ZERO));
            match which {
                // SAFETY: written just now.
                4 => is_sent(unsafe { slot.commit() }),
                // It is given up.
                _ => true,
            }
        }
    }
}

fn receive<A: Allocator, M: Mode>(queue: &Queue<Plain, PLACES, M>, world: &mut World<A>) -> bool {
    if world.random.below(60) == 0 {
        queue.close();
    }
    let Some(mut receiver) = good(queue.receiver()).1 else { return false };
    match world.random.below(5) {
        0 => good(receiver.try_pop()).0,
        1 => good(receiver.pop_for(SHORT)).0,
        2 => good(receiver.pop_spinning_for(SHORT)).0,
        3 => good(receiver.drain(3).map(|all| assert!(all.count() <= 3))).0,
        _ => {
            let (is_good, received) = good(receiver.peek_for(SHORT));
            let Some(received) = received else { return is_good };
            look(world, &received);
            if world.random.below(2) == 0 { good(received.take()).0 } else { true }
        }
    }
}

fn leave_half_sent<M: Mode>(queue: &Queue<Plain, PLACES, M>) {
    if let Ok(mut sender) = queue.sender() {
        forget(sender.reserve_for(SHORT));
        forget(sender);
    }
}

fn leave_half_received<M: Mode>(queue: &Queue<Plain, PLACES, M>) {
    if let Ok(mut receiver) = queue.receiver() {
        forget(receiver.peek_for(SHORT));
        forget(receiver);
    }
}

/// Leaves all of it as one does who is killed at it.
pub fn hold_all<A: Allocator>(arena: &Arena<A>, random: &mut Random) {
    let Ok(tools) = arena.find::<Tools>("tools") else { return };
    let which = random.next();
    if which & 1 != 0 {
        forget(tools.plain.try_write());
    } else {
        forget(tools.plain.try_read());
    }
    if which & 2 != 0 {
        forget((tools.permits.try_acquire(), tools.number.try_lock()));
    }
    if which & 4 != 0 {
        leave_half_sent(&tools.many);
        leave_half_sent(&tools.single);
    }
    if which & 8 != 0 {
        leave_half_received(&tools.many);
        leave_half_received(&tools.single);
    }
    forget(tools);
}

pub const DEEDS: usize = 13;

/// All that is done with these.
pub fn all<A: Allocator>() -> [Deed<A>; DEEDS] {
    [
        deed("find tools", 4, FAILS, |world| {
            let arena = world.arena()?;
            let (is_good, tools) = good(arena.find_or_alloc_zeroed::<Tools>("tools"));
            if let Some(tools) = &tools {
                world.is_inside(&raw const **tools, size_of::<Tools>());
            }
            keep(&mut world.tools, tools);
            Some(is_good)
        }),
        deed("put tools away", 1, NEVER, |world| {
            take(&mut world.random, &mut world.tools).map(|tools: ShmemArc<Tools>| drop(tools)).map(|()| true)
        }),
        deed("read", 3, FAILS, |world| with_tools(world, read)),
        deed("write", 3, FAILS, |world| with_tools(world, write)),
        deed("permit", 3, FAILS, |world| with_tools(world, permit)),
        deed("initialize", 2, FAILS, |world| with_tools(world, initialize)),
        deed("call_once", 2, FAILS, |world| with_tools(world, call_once)),
        deed("wait with a mutex", 2, FAILS, |world| with_tools(world, wait_with)),
        deed("listen", 2, NEVER, |world| with_tools(world, listen)),
        deed("send to one", 3, FAILS, |world| with_tools(world, |tools, world| send(&tools.single, world))),
        deed("receive of one", 3, FAILS, |world| {
            with_tools(world, |tools, world| receive(&tools.single, world))
        }),
        deed("send to many", 3, FAILS, |world| with_tools(world, |tools, world| send(&tools.many, world))),
        deed("receive of many", 3, FAILS, |world| {
            with_tools(world, |tools, world| receive(&tools.many, world))
        }),
    ]
}
