//! A peer cuts the segment short that others use: without a handler of `SIGBUS` that kills them; with one they are told,
//! lose nothing else, and go on
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod alone;
mod common;

use common::everything::{Everything, is_severed};
use common::sigbus::{survive, survived};
use common::{Child, Parent, TestName};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use shmem_bind::ring::{QueueError, Spsc};
use shmem_bind::sync::{LockError, Mutex, OnceCell, RwLock, RwLockWriteGuard};
use shmem_bind::{
    Arena, BoxError, Builder, Bump, DirectoryError, HEADER_LEN, HeaderError, LockFailure, Origin, OwnError,
    PinnedWords, RegionAllocator, ShmemBox, ShmemError, Slab, Tlsf, sigbus_fixup,
};
use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{ptr, thread};

const SIZE: usize = 256 * 1024;
const TOTAL: u64 = (HEADER_LEN + SIZE) as u64;
const PAGE: u64 = 4096;
/// To which a file is cut short: nothing, part of the header, the header, some of the arena, all but the last page.
const LENGTHS: [u64; 7] = [0, 1, PAGE - 1, PAGE, 2 * PAGE, TOTAL / 2, TOTAL - PAGE];

alone::tests! {
    every_operation_on_tlsf_is_told
    every_operation_on_slab_is_told
    every_operation_on_bump_is_told
    without_a_handler_it_is_the_end
    an_address_of_nobodys_is_left_alone
    one_who_is_severed_leaves_like_one_who_dies
    those_who_only_read_are_told_too
    a_value_becomes_zeros_and_is_not_destroyed
    what_went_away_while_it_was_set_comes_back
    the_fault_may_come_while_the_last_handle_is_dropped
    several_threads_may_fault_at_once
    what_is_written_by_one_who_is_severed_is_not_taken_for_whole
    a_child_is_not_saved_by_what_saves_its_parent
    ;
    touch after_fork
}

fn truncate(name: &str, len: u64) {
    OpenOptions::new().write(true).open(common::path_of(name)).unwrap().set_len(len).unwrap();
}

fn open<A: RegionAllocator>(name: &str) -> Arena<A> {
    Builder::new(name).with_size(SIZE).open().unwrap().arena().unwrap()
}

/// The addresses that a line of `/proc/self/maps` begins with.
fn addresses(line: &str) -> (usize, usize) {
    let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
    (usize::from_str_radix(from, 16).unwrap(), usize::from_str_radix(to, 16).unwrap())
}

/// The lines of this process's mappings that lie between two addresses.
fn mapped(start: usize, end: usize) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lies_within = |line: &&str| {
        let (from, to) = addresses(line);
        from < end && start < to
    };
    maps.lines().filter(lies_within).map(str::to_owned).collect()
}

/// From where to where this process has the file of this name mapped.
fn mapping_of(name: &str) -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with(&format!("/dev/shm/{name}"))).unwrap();
    addresses(line)
}

/// What a severed attachment says, whatever is asked of it.
#[track_caller]
fn assert_severed<A: RegionAllocator>(all: &Everything<A>, context: &str) {
    assert!(all.arena.conf().is_severed(), "{context}");
    for (what, operation) in Everything::<A>::OPERATIONS {
        match operation(all) {
            Err(error) if is_severed(error) => assert!(error.to_string().contains("gone away"), "{error}"),
            // It has no errors.
            Ok(()) if what == "leaked" => assert_eq!(all.arena.leaked().count(), 0),
            result => panic!("{context}: {what} of a severed arena: {result:?}"),
        }
    }
    assert_eq!((all.arena.size(), all.arena.conf().sweep()), (0, 0));
}

/// Cuts an arena to each length, and begins with each operation: it is told then or later, and nothing else is lost.
fn every_operation_is_told<A: RegionAllocator>() {
    survive();
    for len in LENGTHS {
        for (what, operation) in Everything::<A>::OPERATIONS {
            let context = format!("{what}, cut to {len}");
            let name = TestName::new("every-operation");
            let all = Everything::in_arena(open::<A>(&name));
            let (start, end) = mapping_of(&name);
            truncate(&name, len);
            if let Err(error) = operation(&all) {
                // Where the rest of a page reads as zero, that is damage.
                let is_torn = len % PAGE != 0;
                assert!(
                    is_severed(error) || is_torn && error.to_string().contains("damaged"),
                    "{context}: {error}"
                );
            }
            // Sooner or later something is where nothing is any more.
            all.look();
            for (_, operation) in Everything::OPERATIONS {
                let _: Result<(), ShmemError> = operation(&all);
            }
            assert_severed(&all, &context);
            drop(all);
            assert_eq!(mapped(start, end), [""; 0], "{context}");
            assert!(name.exists(), "{context}: a severed owner has taken the name away");
            assert_left_as_it_is::<A>(&name, len);
        }
    }
}

/// The next one who opens a segment that was cut short is told, or makes a new one of nothing.
#[track_caller]
fn assert_left_as_it_is<A: RegionAllocator>(name: &str, len: u64) {
    assert_eq!(fs::metadata(common::path_of(name)).unwrap().len(), len);
    let needed = if len < 128 { 128 } else { TOTAL };
    let error: ShmemError = HeaderError::Truncated { len, needed }.into();
    assert_eq!(shmem_bind::unlink(name), Err(error));
    let builder = || Builder::new(name).with_size(SIZE);
    if len != 0 {
        assert_eq!(builder().open().unwrap_err(), error);
        assert_eq!(builder().attach_read_only().unwrap_err(), error);
        fs::remove_file(common::path_of(name)).unwrap();
    }
    let segment = builder().open().unwrap();
    assert_eq!((segment.origin(), segment.attachment_count()), (Origin::Created, 1));
    drop(Everything::in_arena(segment.arena::<A>().unwrap()));
}

fn every_operation_on_tlsf_is_told() {
    every_operation_is_told::<Tlsf>();
}

fn every_operation_on_slab_is_told() {
    every_operation_is_told::<Slab>();
}

fn every_operation_on_bump_is_told() {
    every_operation_is_told::<Bump>();
}

/// Touches a segment that has been cut short: as a program without a handler.
fn touch(parent: &mut Parent) {
    let all = Everything::in_arena(open::<Tlsf>(parent.argument(0)));
    parent.say("ready");
    parent.await_line("go on");
    all.look();
    parent.say("survived");
}

fn without_a_handler_it_is_the_end() {
    let name = TestName::new("no-handler");
    let mut child = Child::spawn("touch", &[&name]);
    child.expect("ready");
    truncate(&name, PAGE);
    child.say("go on");
    assert_eq!(child.wait().signal(), Some(Signal::SIGBUS as i32));
}

fn an_address_of_nobodys_is_left_alone() {
    let name = TestName::new("foreign");
    let arena = open::<Tlsf>(&name);
    let (start, end) = mapping_of(&name);
    let (local, boxed) = (1_u8, Box::new(2_u8));
    let foreign = [0, 1, start - 1, end, usize::MAX, (&raw const local).addr(), (&raw const *boxed).addr()];
    for address in foreign {
        assert!(!unsafe { sigbus_fixup(ptr::without_provenance(address)) }, "{address:#x}");
    }
    arena.check().unwrap();
    drop(arena);
    assert!(!unsafe { sigbus_fixup(ptr::without_provenance(start)) }, "it is not attached any more");
}

/// What a peer sees stays as it was.
fn one_who_is_severed_leaves_like_one_who_dies() {
    survive();
    let name = TestName::new("leaves");
    let arena = open::<Tlsf>(&name);
    let other = Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap();
    let kept = ShmemBox::into_arc(other.alloc(AtomicU64::new(3)).unwrap());
    other.publish("kept", &kept).unwrap();
    let (lost, shared) = (arena.alloc(1_u64).unwrap(), arena.find::<AtomicU64>("kept").unwrap());
    let blocks = other.usage().unwrap().blocks;
    // As if there were no memory for the page of the last granules: the file itself is whole.
    let (start, end) = mapping_at((&raw const *lost).addr());
    assert!(unsafe { sigbus_fixup(ptr::without_provenance(end - 1)) });
    assert!(arena.conf().is_severed() && !other.conf().is_severed());
    assert_eq!((*lost, shared.load(Relaxed)), (0, 0), "what lies before it is shared no more");
    shared.store(9, Relaxed);
    assert_eq!(kept.load(Relaxed), 3);
    assert_eq!(other.conf().attachment_count(), 2);
    assert_eq!(other.conf().owner_pid(), Some(std::process::id()));
    drop((lost, shared, arena));
    assert_eq!(mapped(start, end), [""; 0]);
    // The name is there, and whoever owned it is dead.
    assert_eq!((other.conf().attachment_count(), other.conf().owner_pid()), (1, None));
    assert!(name.exists() && other.conf().is_linked());
    // What it held is given back.
    let reclaimed = other.sweep().unwrap();
    assert_eq!((reclaimed.attachments, reclaimed.objects, reclaimed.references), (1, 1, 1));
    assert_eq!(other.usage().unwrap().blocks, blocks - 1);
    other.check().unwrap();
    drop((kept, other));
    let heir = open::<Tlsf>(&name);
    assert_eq!(heir.conf().origin(), Origin::Adopted);
    assert_eq!(heir.find::<AtomicU64>("kept").unwrap().load(Relaxed), 3);
}

fn those_who_only_read_are_told_too() {
    survive();
    for len in [0, PAGE, TOTAL / 2] {
        let name = TestName::new("read-only");
        let all = Everything::in_arena(open::<Tlsf>(&name));
        let counter = ShmemBox::into_arc(all.arena.alloc(AtomicU64::new(17)).unwrap());
        all.arena.publish_pinned("counter", &counter).unwrap();
        let bytes = all.arena.alloc_slice(SIZE / 4, 3_u8).unwrap();
        all.arena.publish_pinned("bytes", &ShmemBox::into_arc(bytes)).unwrap();
        let observer = Builder::new(&name).attach_read_only().unwrap();
        let bytes = observer.find_pinned::<[u8]>("bytes").unwrap();
        let words: PinnedWords<AtomicU64> = observer.find_pinned_words("counter").unwrap();
        assert_eq!(unsafe { words.load::<AtomicU64>(0) }, Some(17));
        truncate(&name, len);
        // Reads the whole value, the end of which is not there in any case.
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        assert!(sum < 3 * bytes.len() as u64);
        assert!(observer.is_severed() && !all.arena.conf().is_severed());
        assert_eq!(unsafe { words.load::<AtomicU64>(0) }, None);
        assert_eq!(observer.find_pinned::<u64>("pinned").unwrap_err(), DirectoryError::Severed);
        let (start, end) = mapping_at((&raw const bytes[0]).addr());
        drop((words, bytes));
        assert_eq!(unsafe { observer.read_ref::<u8>() }.unwrap_err(), BoxError::Severed);
        assert_eq!(mapped(start, end), [""; 0]);
    }
}

/// The mapping that this address lies in.
fn mapping_at(address: usize) -> (usize, usize) {
    addresses(&mapped(address, address + 1)[0])
}

/// A value that is not to be destroyed when it is zeros.
#[repr(C)]
struct Whole {
    before: [u8; 2 * PAGE as usize],
    number: u64,
    mutex: Mutex<u64>,
    after: [u8; 2 * PAGE as usize],
}

impl Drop for Whole {
    fn drop(&mut self) {
        assert_eq!(self.number, 7, "zeros were destroyed as if they were a value");
    }
}

fn a_value_becomes_zeros_and_is_not_destroyed() {
    survive();
    for (len, count) in [(0, 0), (PAGE, 1), (3 * PAGE, 1)] {
        let name = TestName::new("value");
        let open = || Builder::new(&name).with_size(size_of::<Whole>()).open().unwrap();
        let mut value = unsafe { open().boxed::<Whole>() };
        value.number = 7;
        value.before[0] = 1;
        let (other, spare) = (unsafe { open().boxed::<Whole>() }, open());
        truncate(&name, len);
        assert_eq!(value.number, 0);
        let conf = ShmemBox::conf(&value);
        assert!(conf.is_severed());
        // The header is there if it is in the file.
        assert_eq!((conf.attachment_count(), value.before[0]), (3 * count, 0));
        assert_eq!(ShmemBox::try_own(&value), Err(OwnError::Severed));
        assert_eq!(value.mutex.lock().map(|_| ()).unwrap_err().failure(), LockFailure::Severed);
        // Its owner, and the last one, but for one that has not looked yet.
        drop(value);
        assert!(name.exists());
        // The fault comes while it is locked.
        assert!(!ShmemBox::conf(&other).is_severed());
        assert_eq!(other.mutex.lock().map(|_| ()).unwrap_err().failure(), LockFailure::Severed);
        let whole = ShmemBox::into_arc(other);
        drop(whole.clone());
        drop(whole);
        // Or while it is boxed, which only looks at the header.
        let boxed = unsafe { spare.try_boxed::<Whole>() };
        match boxed {
            Err(error) => assert_eq!((error, len), (BoxError::Severed, 0)),
            Ok(boxed) => {
                assert!(!ShmemBox::conf(&boxed).is_severed());
                assert_eq!(boxed.after[PAGE as usize], 0);
                assert!(ShmemBox::conf(&boxed).is_severed());
            }
        }
        assert!(name.exists());
    }
}

/// Several things that a process may be at when memory goes away: it goes on, and others see no more of it than of one that
/// was killed there.
fn what_is_written_by_one_who_is_severed_is_not_taken_for_whole() {
    const LEN: usize = 2048;
    type Numbers = [u64; LEN];
    survive();
    let lose = |arena: &Arena<Tlsf>, value: *const ()| {
        let (_, end) = mapping_at(value.addr());
        assert!(unsafe { sigbus_fixup(ptr::without_provenance(end - 1)) } && arena.conf().is_severed());
    };
    let name = TestName::new("whole");
    let other = open::<Tlsf>(&name);
    for scene in 0..4 {
        let lost = Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap();
        let mutex = other.find_or_alloc("mutex", || Mutex::<Numbers>::new([7; LEN])).unwrap();
        let lock = other.find_or_alloc("lock", || RwLock::<Numbers>::new([7; LEN])).unwrap();
        let cell = other.find_or_alloc("cell", OnceCell::<Numbers>::new).unwrap();
        let queue = other.find_or_alloc_zeroed::<Spsc<Numbers, 2>>("queue").unwrap();
        match scene {
            0 => {
                let mutex = lost.find::<Mutex<Numbers>>("mutex").unwrap();
                let mut locked = mutex.lock().unwrap();
                locked[..LEN / 2].fill(8);
                lose(&lost, (&raw const *locked).cast());
                locked[LEN / 2..].fill(8);
            }
            1 => {
                let lock = lost.find::<RwLock<Numbers>>("lock").unwrap();
                let mut written = lock.write().unwrap();
                written[..LEN / 2].fill(8);
                lose(&lost, (&raw const *written).cast());
                written[LEN / 2..].fill(8);
                assert_eq!(RwLockWriteGuard::downgrade(written)[LEN - 1], 8);
            }
            2 => {
                let cell = lost.find::<OnceCell<Numbers>>("cell").unwrap();
                let made = cell.get_or_try_init(|| {
                    lose(&lost, (&raw const *cell).cast());
                    Ok::<_, LockFailure>([8; LEN])
                });
                assert_eq!(made, Err(LockFailure::Severed));
                assert!(cell.get_or_try_init(|| Ok::<_, LockFailure>([8; LEN])).is_err());
            }
            _ => {
                let queue = lost.find::<Spsc<Numbers, 2>>("queue").unwrap();
                let mut sender = queue.sender().unwrap();
                let mut slot = sender.reserve().unwrap();
                slot.uninit().write([8; LEN]);
                lose(&lost, (&raw const *queue).cast());
                assert_eq!(slot.write([8; LEN]).unwrap_err().error, QueueError::Severed);
            }
        }
        drop(lost);
        other.sweep().unwrap();
        // Locked by one who has left, as the dead do.
        match scene {
            0 => {
                let Err(LockError::Orphaned(orphaned)) = mutex.lock() else { panic!("it is not whole") };
                let _guard = orphaned.replace([7; LEN]);
            }
            1 => {
                let Err(LockError::Orphaned(orphaned)) = lock.read() else { panic!("it is not whole") };
                let _guard = orphaned.replace([7; LEN]);
            }
            2 => {
                assert!(cell.get().is_none());
                assert_eq!(cell.get_or_init(|| [7; LEN]).unwrap()[LEN - 1], 7);
            }
            _ => {
                assert_eq!(queue.receiver().unwrap().try_pop(), Err(QueueError::Empty));
                queue.sender().unwrap().push([7; LEN]).unwrap();
                assert_eq!(queue.receiver().unwrap().try_pop().unwrap()[LEN - 1], 7);
            }
        }
        assert_eq!((mutex.lock().unwrap()[0], lock.read().unwrap()[0]), (7, 7));
        other.check().unwrap();
    }
}

fn what_went_away_while_it_was_set_comes_back() {
    type Cell = OnceCell<[u64; 4096]>;
    survive();
    let name = TestName::new("set");
    let cell = unsafe { Builder::new(&name).with_size(size_of::<Cell>()).create().unwrap().boxed::<Cell>() };
    // What says that there is a value is there still, and part of the value.
    truncate(&name, 3 * PAGE);
    let before = survived();
    let error = cell.set([7; 4096]).unwrap_err();
    assert_eq!((error.failure, error.value), (Some(LockFailure::Severed), [7; 4096]));
    assert_eq!((survived(), cell.get()), (before + 1, None));
}

/// The last handle is dropped, and only then is it seen that nothing is there any more.
fn the_fault_may_come_while_the_last_handle_is_dropped() {
    fn dropped<A: RegionAllocator>() {
        for len in LENGTHS {
            let name = TestName::new("dropped");
            let arena = open::<A>(&name);
            let objects: Vec<_> = (0..100_u64).map(|number| arena.alloc([number; 100]).unwrap()).collect();
            let (start, end) = mapping_of(&name);
            truncate(&name, len);
            let before = survived();
            drop((arena, objects));
            assert_eq!(mapped(start, end), [""; 0]);
            // If there is a header, and it has not looked at anything else, it owns and unlinks the segment.
            assert!(name.exists() || survived() == before || len >= PAGE, "{len}");
        }
        let name = TestName::new("dropped-conf");
        let conf = Builder::new(&name).with_size(SIZE).create().unwrap();
        truncate(&name, 0);
        drop(conf);
        assert!(name.exists(), "without a header there is nobody who owns it");
    }
    survive();
    dropped::<Tlsf>();
    dropped::<Slab>();
    dropped::<Bump>();
}

fn several_threads_may_fault_at_once() {
    survive();
    for _ in 0..50 {
        let name = TestName::new("threads");
        let arena = open::<Tlsf>(&name);
        let bytes = ShmemBox::into_arc(arena.alloc_slice(SIZE / 2, 1_u8).unwrap());
        let (start, end) = mapping_of(&name);
        let barrier = Barrier::new(5);
        thread::scope(|scope| {
            for index in 0..4 {
                let (arena, bytes, barrier) = (&arena, &bytes, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    // Some from the beginning, some from the end, some by operations.
                    let sum: usize = match index {
                        0 => bytes.iter().map(|byte| usize::from(*byte)).sum(),
                        1 => bytes.iter().rev().map(|byte| usize::from(*byte)).sum(),
                        _ => (0..100).filter(|_| arena.alloc([1_u8; 1000]).is_ok()).count(),
                    };
                    assert!(sum <= bytes.len());
                });
            }
            barrier.wait();
            truncate(&name, PAGE);
        });
        assert_eq!(bytes[0], 0);
        assert!(arena.conf().is_severed());
        drop((bytes, arena));
        assert_eq!(mapped(start, end), [""; 0]);
    }
}

/// Forks when its arena and its value have been severed.
fn after_fork(parent: &mut Parent) {
    survive();
    let (arena_name, value_name) = (parent.argument(0), parent.argument(1));
    let all = Everything::in_arena(open::<Tlsf>(arena_name));
    let value = unsafe { Builder::new(value_name).with_size(SIZE).open().unwrap().boxed::<[u64; 10]>() };
    let inherited = unsafe { Builder::new(value_name).attach().unwrap().boxed::<[u64; 10]>() };
    let (start, end) = mapping_of(arena_name);
    truncate(arena_name, PAGE);
    truncate(value_name, 0);
    assert_eq!((all.look(), value[0]), (0, 0));
    assert!(all.arena.conf().is_severed() && ShmemBox::conf(&value).is_severed());
    let forked = |act: &dyn Fn()| match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let is_done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_ok();
            unsafe { nix::libc::_exit(i32::from(!is_done)) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    };
    let status = forked(&|| {
        // The zeros are no more the child's than what they have taken the place of.
        assert_eq!(mapped(start, end), [""; 0]);
        assert!(!all.arena.conf().is_severed() && value[0] == 0);
        // It can be cut off from what is its own.
        let own = Everything::in_arena(Builder::memfd().create(SIZE).unwrap().0.arena::<Tlsf>().unwrap());
        let address = (&raw const own.boxed[0]).addr();
        assert!(unsafe { sigbus_fixup(ptr::without_provenance(address)) });
        assert_severed(&own, "in a child");
    });
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    // What it has inherited is nothing that it has attached.
    let status = forked(&|| assert_eq!(inherited[0], 0));
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGBUS, _)), "{status:?}");
    parent.say("done");
}

fn a_child_is_not_saved_by_what_saves_its_parent() {
    let (arena, value) = (TestName::new("after-fork"), TestName::new("after-fork-value"));
    let child = Child::spawn("after_fork", &[&arena, &value]);
    child.expect("done");
    child.finish();
}
