//! A segment with damaged words: whoever attaches gets an error, or can ask and do anything; and so can an inspector
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | which image |
//! | 1 | how many words are changed, modulo 16 |
//! | then 8 each | a [`Mutation`] |
//! | then 4 each | what is done by one that may write; see [`act`] |

use super::image::{Image, NAMES, any_handle, handle, images, with_each_type};
use super::stage::{self, Bounds, Stage};
use super::{Mutation, rest};
use arbitrary::Unstructured;
use shmem_bind::inspect::{Snapshot, Verdict};
use shmem_bind::sync::{LockError, Mutex};
use shmem_bind::{
    Arena, Bump, DirectoryError, MAX_ATTACHMENTS, Object, Payload, RegionAllocator, ShmemArc, ShmemBox,
    ShmemConf, Slab, Tlsf,
};
use std::hint::black_box;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (Ok(which), Ok(count)) = (input.arbitrary::<u8>(), input.arbitrary::<u8>()) else { return };
    let mut image = images()[usize::from(which) % images().len()].clone();
    for _ in 0..count % 16 {
        let Ok(mutation) = input.arbitrary::<Mutation>() else { break };
        mutation.apply(&mut image);
    }
    let actions: Vec<[u8; 4]> = rest(&mut input);
    look_into(&image);
    stage::with(|stage| {
        look(stage, &image);
        use_as::<Tlsf>(stage, &image, &actions);
        use_as::<Slab>(stage, &image, &actions);
        use_as::<Bump>(stage, &image, &actions);
        use_as_value(stage, &image);
    });
}

/// Takes a snapshot, and asks it everything.
fn look_into(image: &Image) {
    let snapshot = Snapshot::of_bytes(image.bytes());
    black_box((snapshot.file_len(), snapshot.phase(), snapshot.is_orphan(), snapshot.statistics()));
    let _ = black_box((snapshot.verdict().to_string(), snapshot.header().map_err(|error| error.to_string())));
    black_box(snapshot.estate().map(|estate| estate.to_string()));
    assert!(snapshot.tenants().iter().all(|tenant| tenant.slot() < MAX_ATTACHMENTS));
    black_box(format!("{:?}", snapshot.tenants()));
    let Some(arena) = snapshot.arena() else { return };
    assert!(arena.fragmentation().is_none_or(|percent| percent <= 100));
    let is_known = [Tlsf::ID, Slab::ID, Bump::ID].contains(&arena.allocator());
    let mut end = 0;
    for block in arena.blocks() {
        // Of another allocator nobody has looked whether they overlap.
        end = if is_known { end } else { 0 };
        assert!(
            end <= block.offset() && block.offset() % 16 == 8 && !block.is_empty(),
            "{block:?} after {end}"
        );
        end = block.offset() + block.len();
        black_box((
            block.kind(),
            block.object_len(),
            block.type_tag(),
            block.is_published(),
            block.is_pinned(),
        ));
    }
    assert!(end <= arena.heap_capacity());
    for named in arena.names() {
        assert!((1..256).contains(&named.name().len()) && named.block().offset() < arena.heap_capacity());
    }
}

/// Asks everything that one may ask who only reads; nothing is written.
fn look(stage: &Stage, image: &Image) {
    stage.write(image);
    if let Ok(conf) = stage_reader(stage) {
        assert!(conf.is_read_only());
        let bounds = stage.bounds();
        ask(&conf);
        ask_pinned(&conf, &bounds);
        // SAFETY: any bytes are a `u64`, and nobody writes to it now.
        match unsafe { conf.read_ref::<u64>() } {
            Ok(value) => bounds.check(&*value),
            Err(error) => drop(black_box(error.to_string())),
        }
        assert!(stage.read() == image.bytes(), "a reader has written");
    }
}

fn stage_reader(stage: &Stage) -> Result<ShmemConf, shmem_bind::ShmemError> {
    shmem_bind::Builder::memfd().attach_read_only(&stage.fd)
}

/// Attaches as one that uses the payload by this allocator.
fn use_as<A: RegionAllocator>(stage: &Stage, image: &Image, actions: &[[u8; 4]]) {
    stage.write(image);
    let conf = match stage.attach() {
        Ok(conf) => conf,
        Err(error) => return drop(black_box((error.to_string(), format!("{error:?}")))),
    };
    ask(&conf);
    let payload = conf.payload();
    let arena = match conf.arena::<A>() {
        Ok(arena) => arena,
        Err(error) => return drop(black_box((error.to_string(), format!("{error:?}")))),
    };
    // What an inspector has found to be sound is so for its users.
    let snapshot = Snapshot::of_bytes(image.bytes());
    if snapshot.arena().is_some() && snapshot.verdict() == Verdict::Sound {
        assert_eq!((arena.check(), arena.usage().err()), (Ok(()), None));
    }
    // What somebody else has formatted, and what is no arena, is refused.
    match payload {
        Ok(Payload::Arena { allocator, is_formed: true }) => assert_eq!(allocator, A::ID),
        Ok(Payload::Value { .. }) | Err(_) => panic!("{payload:?} is used as an arena"),
        Ok(_) => {}
    }
    let bounds = stage.bounds();
    ask_arena(&arena, &bounds);
    let mut user = User { arena, bounds, boxes: Vec::new(), arcs: Vec::new() };
    for action in actions {
        user.act(*action);
    }
    let User { arena, bounds, boxes, arcs } = user;
    ask_arena(&arena, &bounds);
    drop((boxes, arcs));
    let _ = black_box(arena.check());
}

/// Attaches as one that takes the payload for a single value.
fn use_as_value(stage: &Stage, image: &Image) {
    stage.write(image);
    let Ok(conf) = stage.attach() else { return };
    let payload = conf.payload();
    // SAFETY: any bytes are a `u64`, and nobody else uses it now.
    match unsafe { conf.try_boxed::<u64>() } {
        Ok(mut boxed) => {
            assert!(!matches!(payload, Ok(Payload::Arena { .. }) | Err(_)), "{payload:?} is used as a value");
            stage.bounds().check(&*boxed);
            *boxed = boxed.wrapping_add(1);
            let _ = black_box(ShmemBox::try_own(&boxed));
            drop(ShmemBox::into_arc(boxed).clone());
        }
        Err(error) => drop(black_box(error.to_string())),
    }
}

/// All that a bare handle can be asked.
fn ask(conf: &ShmemConf) {
    black_box((conf.name(), conf.payload_size(), conf.max_size(), conf.segment_id(), conf.owner_pid()));
    black_box((conf.attachment_count(), conf.is_owner(), conf.origin(), conf.unlink_policy()));
    black_box((conf.orphan_policy(), conf.is_linked(), conf.statistics(), format!("{conf:?}")));
    if let Err(error) = conf.payload() {
        black_box(error.to_string());
    }
    assert!(conf.payload_size() <= conf.max_size());
}

/// Looks for what is pinned, under all names and as several types.
fn ask_pinned(conf: &ShmemConf, bounds: &Bounds) {
    fn find<T: Object + ?Sized>(conf: &ShmemConf, bounds: &Bounds, name: &str) {
        match conf.find_pinned::<T>(name) {
            Ok(found) => bounds.check(&*found),
            Err(error) => drop(black_box(error.to_string())),
        }
    }
    for name in NAMES {
        find::<str>(conf, bounds, name);
        find::<[u32; 5]>(conf, bounds, name);
        find::<[u8]>(conf, bounds, name);
        if let Ok(words) = conf.find_pinned_words::<AtomicU64>(name) {
            // SAFETY: the type is a word.
            let word = unsafe { words.load::<AtomicU64>(0) };
            assert!(word.is_some() && words.size() == 8, "{words:?}");
            // SAFETY: beyond the object nothing is read.
            assert_eq!(unsafe { words.load::<AtomicU64>(8) }, None);
        }
        if let Ok(words) = conf.find_pinned_words::<[AtomicU8]>(name) {
            for offset in [0, words.size() / 2, words.size().wrapping_sub(1)] {
                // SAFETY: the type is bytes.
                black_box(unsafe { words.load::<AtomicU8>(offset) });
            }
        }
    }
}

/// All that an arena can be asked.
fn ask_arena<A: RegionAllocator>(arena: &Arena<A>, bounds: &Bounds) {
    ask(arena.conf());
    ask_pinned(arena.conf(), bounds);
    let _ = black_box((arena.usage(), arena.check()));
    black_box(format!("{arena:?} {}", arena.reclaimed()));
    assert!(arena.size() <= arena.conf().max_size());
    // However the words lead in a circle, there are no more names than places, nor leaked objects than granules.
    let most = arena.conf().max_size() / 8;
    let mut names = arena.names();
    let seen = names.by_ref().take(most).inspect(|entry| drop(black_box(format!("{entry:?}")))).count();
    assert!(seen < most && names.next().is_none(), "names have no end");
    let seen = arena.leaked().take(most).inspect(|object| drop(black_box(format!("{object:?}")))).count();
    assert!(seen < most, "leaked objects have no end");
}

/// One that may write.
struct User<A> {
    arena: Arena<A>,
    bounds: Bounds,
    boxes: Vec<ShmemBox<[u8]>>,
    arcs: Vec<ShmemArc<AtomicU64>>,
}

impl<A: RegionAllocator> User<A> {
    /// Does one thing, by these bytes: what, with which one, and a number.
    fn act(&mut self, [what, which, low, high]: [u8; 4]) {
        let number = u16::from_le_bytes([low, high]);
        let name = NAMES[usize::from(which) % NAMES.len()];
        let Self { arena, bounds, boxes, arcs } = self;
        match what % 16 {
            0 | 1 => {
                if let Ok(mut made) = arena.alloc_slice(usize::from(number) % 700, which) {
                    bounds.check(&*made);
                    made.fill(what);
                    boxes.push(made);
                }
            }
            2 => {
                if let Ok(made) = arena.alloc(AtomicU64::new(number.into())) {
                    bounds.check(&*made);
                    arcs.push(ShmemBox::into_arc(made));
                }
            }
            3 if !boxes.is_empty() => drop(boxes.swap_remove(usize::from(which) % boxes.len())),
            4 if !arcs.is_empty() => drop(arcs.swap_remove(usize::from(which) % arcs.len())),
            5 => {
                if let Some(object) = arcs.last() {
                    let name = format!("new {}", number % 32);
                    black_box(arena.publish(&name, object)).err().map(|error| error.to_string());
                }
            }
            6 => {
                with_each_type!(which >> 4, find(arena, bounds, name));
                with_each_type!(number, find(arena, bounds, name));
            }
            7 => match arena.unpublish::<AtomicU64>(name) {
                Ok(object) => bounds.check(&*object),
                Err(error) => drop(black_box(error.to_string())),
            },
            8 => {
                let known = &images()[usize::from(number >> 8) % 3].handles;
                let bits = known[usize::from(which) % known.len()] ^ u128::from(number % 4);
                with_each_type!(which, claim(arena, bounds, bits));
            }
            9 => {
                let bits = handle(u64::from(number) / 2 * 16 + 8, u64::from(which % 32));
                with_each_type!(number, claim(arena, bounds, bits));
            }
            10 => drop(black_box(arena.sweep())),
            11 => drop(black_box(arena.grow(usize::from(number)))),
            12 => match arena.find::<Mutex<u64>>("mutex") {
                Ok(found) => lock(&found, bounds, which),
                Err(error) => drop(black_box(error.to_string())),
            },
            13 => claim_leaked(arena, bounds, number),
            14 => match arena.find_or_alloc(name, || AtomicU64::new(9)) {
                Ok(object) => {
                    bounds.check(&*object);
                    object.fetch_add(1, Relaxed);
                    black_box((ShmemArc::holders(&object), ShmemArc::is_published(&object)));
                    arcs.push(object);
                }
                Err(error) => drop(black_box(error.to_string())),
            },
            15 => match arena.alloc_str(name) {
                Ok(made) => {
                    bounds.check(&*made);
                    let object = ShmemBox::into_arc(made);
                    let _ = arena.publish_pinned("pinned", &object);
                }
                Err(error) => drop(black_box(error.to_string())),
            },
            _ => {}
        }
    }
}

fn find<A: RegionAllocator, T: Object + Sync + ?Sized>(arena: &Arena<A>, bounds: &Bounds, name: &str) {
    match arena.find::<T>(name) {
        Ok(object) => {
            bounds.check(&*object);
            black_box((ShmemArc::holders(&object), ShmemArc::is_published(&object)));
            drop(object.clone());
        }
        Err(DirectoryError::Mismatch(mismatch)) => drop(black_box(mismatch.to_string())),
        Err(error) => drop(black_box(error.to_string())),
    }
}

fn claim<A: RegionAllocator, T: Object + ?Sized>(arena: &Arena<A>, bounds: &Bounds, bits: u128) {
    match arena.claim(any_handle::<T>(bits)) {
        Ok(object) => bounds.check(&*object),
        Err(error) => drop(black_box(error.to_string())),
    }
}

/// Claims the leaked objects that this number has a bit for, as what they say that they are.
fn claim_leaked<A: RegionAllocator>(arena: &Arena<A>, bounds: &Bounds, number: u16) {
    let found: Vec<_> = arena.leaked().take(16).collect();
    for (index, object) in found.iter().enumerate().filter(|(index, _)| number >> index & 1 != 0) {
        match object.handle::<[u8]>() {
            Ok(handle) if index % 2 == 0 => match arena.claim(handle) {
                Ok(object) => drop(ShmemBox::leak(object)),
                Err(error) => drop(black_box(error.to_string())),
            },
            Ok(handle) => claim::<A, [u8]>(arena, bounds, handle.to_bits()),
            Err(mismatch) => drop(black_box((mismatch.to_string(), object.type_tag().to_string()))),
        }
    }
}

fn lock(mutex: &Mutex<u64>, bounds: &Bounds, how: u8) {
    bounds.check(mutex);
    match mutex.try_lock() {
        Ok(mut guard) => {
            bounds.check(&*guard);
            *guard = guard.wrapping_add(1);
        }
        Err(LockError::Orphaned(orphaned)) if how % 3 == 0 => *orphaned.replace(1) += 1,
        Err(LockError::Orphaned(orphaned)) if how % 3 == 1 => orphaned.give_up(),
        Err(error) => drop(black_box(format!("{error:?}"))),
    }
}
