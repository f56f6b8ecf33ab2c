use super::*;
use crate::allocator::{Bump, RegionAllocator, Slab, Tlsf};
use crate::allocator_id::AllocatorId;
use crate::arena::Arena;
use crate::boxed::ShmemBox;
use crate::builder::Builder;
use crate::open::ReservePolicy;
use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const HEADER: usize = crate::header::HEADER_LEN;
const MEMBERSHIP: usize = 64;
const PAYLOAD: usize = 72;
const HEAP_LOCK: usize = 128;
const DIRECTORY_LOCK: usize = 192;
const SLOTS: usize = 512;

/// The bytes of a segment while `fill` has put something into its arena; what it gives lives as long.
fn image<A: RegionAllocator, T>(fill: impl FnOnce(&Arena<A>) -> T) -> Vec<u8> {
    let (segment, fd) = Builder::memfd().create(64 * 1024).unwrap();
    let arena = segment.arena::<A>().unwrap();
    let _filled = fill(&arena);
    let mut bytes = vec![0; HEADER + 64 * 1024];
    assert_eq!(rustix::io::pread(&fd, &mut bytes[..], 0), Ok(bytes.len()));
    bytes
}

/// With something of each kind.
fn full<A: RegionAllocator>() -> Vec<u8> {
    image(|arena: &Arena<A>| {
        let shared = ShmemBox::into_arc(arena.alloc(7_u64).unwrap());
        arena.publish("seven", &shared).unwrap();
        arena.publish_pinned("eight", &ShmemBox::into_arc(arena.alloc([8_u8; 8]).unwrap())).unwrap();
        ShmemBox::leak(arena.alloc_slice(100, 9_u8).unwrap());
        (arena.alloc_str("ten").unwrap(), shared)
    })
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The same with another word.
fn with(mut bytes: Vec<u8>, at: usize, word: u64) -> Vec<u8> {
    bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    bytes
}

#[track_caller]
fn damage(bytes: &[u8]) -> Damage {
    match Snapshot::of_bytes(bytes).verdict() {
        Verdict::Damaged(damage) => damage,
        verdict => panic!("{verdict:?}"),
    }
}

fn everything_is_seen<A: RegionAllocator>() {
    let snapshot = Snapshot::of_bytes(&full::<A>());
    assert_eq!(snapshot.verdict(), Verdict::Sound);
    assert_eq!(snapshot.phase(), Some(Phase::Live));
    let [tenant] = snapshot.tenants() else { panic!("{:?}", snapshot.tenants()) };
    assert!(tenant.is_owner() && tenant.is_attached() && tenant.is_near());
    assert_eq!((tenant.slot(), tenant.pid(), tenant.life()), (0, Some(std::process::id()), Life::Alive));
    assert_eq!(snapshot.estate(), Some(Reclaimed::default()));

    let arena = snapshot.arena().unwrap();
    assert!(arena.has_all_blocks());
    assert_eq!((arena.allocator(), arena.heap_lock()), (A::ID, LockState::Free));
    let count = |is_so: fn(BlockKind) -> bool| {
        arena
            .blocks()
            .iter()
            .filter(|block| is_so(block.kind()))
            .map(BlockInfo::object_len)
            .collect::<Vec<_>>()
    };
    assert_eq!(count(|kind| kind == BlockKind::Exclusive { slot: 0 }), [Some(3)]);
    assert_eq!(count(|kind| matches!(kind, BlockKind::Leaked { slot: 0, .. })), [Some(100)]);
    assert_eq!(count(|kind| matches!(kind, BlockKind::Shared { .. })), [Some(8), Some(8)]);
    // The table, and two entries.
    assert_eq!(count(|kind| kind == BlockKind::Internal), [None; 3]);
    let usage = arena.usage().unwrap();
    assert_eq!(usage.blocks, 7);
    assert!(arena.fragmentation().unwrap() <= 100);

    let [eight, seven] = arena.names() else { panic!("{:?}", arena.names()) };
    assert_eq!((eight.name(), seven.name()), ("eight", "seven"));
    assert_eq!(seven.block().kind(), BlockKind::Shared { holders: 1 });
    assert_eq!(eight.block().kind(), BlockKind::Shared { holders: 0 });
    assert!(eight.block().is_pinned() && seven.block().is_published() && !seven.block().is_pinned());
    let tag = seven.block().type_tag().unwrap();
    assert_eq!((tag.size(), tag.align()), (8, 8));
}

fn what_the_dead_hold_is_told<A: RegionAllocator>() {
    let bytes = full::<A>();
    // Another incarnation of this process.
    let dead = word(&bytes, SLOTS) ^ 1 << 43;
    let snapshot = Snapshot::of_bytes(&with(bytes, SLOTS, dead));
    assert_eq!(snapshot.verdict(), Verdict::Sound);
    assert_eq!(snapshot.tenants()[0].life(), Life::Dead);
    let estate = snapshot.estate().unwrap();
    // The name keeps the shared one.
    assert_eq!((estate.attachments, estate.objects, estate.references), (1, 1, 1));
}

fn damage_is_found_where_it_is<A: RegionAllocator>() {
    let bytes = full::<A>();
    let names = Snapshot::of_bytes(&bytes).arena().unwrap().names().to_vec();
    let state = HEADER + names[1].block().offset() as usize;
    let allocator = |at: usize| Damage::Words { part: Part::Allocator, at: at as u64 };
    assert_eq!(damage(&with(bytes.clone(), state, 2 | 60 << 8)), allocator(state));
    assert_eq!(damage(&with(bytes.clone(), state + 16, 0)), allocator(state));
    // In the directory there are more names than are published, and then none at all.
    let directory = |bytes: &[u8]| matches!(damage(bytes), Damage::Words { part: Part::Directory, .. });
    assert!(directory(&with(bytes.clone(), DIRECTORY_LOCK + 16, 3)));
    assert!(directory(&with(bytes.clone(), DIRECTORY_LOCK + 8, 0)));
    assert!(directory(&with(bytes.clone(), DIRECTORY_LOCK + 8, 24)));
    // An export of what is no block, but lies in one.
    let heap = Snapshot::of_bytes(&bytes).arena().unwrap().heap_capacity() as usize;
    let granule = (state - HEADER + BLOCK_HEADER_LEN as usize) / 16 + 1;
    let exports = HEADER + heap + granule / 64 * 8;
    let found = damage(&with(bytes.clone(), exports, word(&bytes, exports) | 1 << (granule % 64)));
    assert!(matches!(found, Damage::Words { part: Part::Exports, .. }), "{found:?}");
    // Locks.
    for (at, part) in [(HEAP_LOCK, Part::Allocator), (DIRECTORY_LOCK, Part::Directory)] {
        assert_eq!(damage(&with(bytes.clone(), at, 100 << 24)), Damage::Lock(part));
        assert_eq!(damage(&with(bytes.clone(), at, 127 << 24)), Damage::GivenUp(part));
    }
    assert_eq!(damage(&with(bytes.clone(), MEMBERSHIP, 1 << 62 | 5)), Damage::Tenant { slot: 2 });
    let found = damage(&with(bytes, MEMBERSHIP, !0));
    assert!(matches!(found, Damage::Header(HeaderError::Membership { .. })), "{found:?}");
}

fn a_lock_that_is_held_is_no_damage<A: RegionAllocator>() {
    let bytes = full::<A>();
    for at in [HEAP_LOCK, DIRECTORY_LOCK] {
        for slot in [0, 7] {
            let snapshot = Snapshot::of_bytes(&with(bytes.clone(), at, (slot + 1) << 24 | 1));
            assert_eq!(snapshot.verdict(), Verdict::Sound);
            let arena = snapshot.arena().unwrap();
            let locks = [arena.heap_lock(), arena.directory_lock()];
            assert!(
                locks.contains(&LockState::Held { slot: slot as u32 }) && locks.contains(&LockState::Free)
            );
            assert_eq!(arena.names().len(), 2);
        }
    }
}

macro_rules! with_each_allocator {
    ($($test:ident)*) => {
        $(mod $test {
            use super::{Bump, Slab, Tlsf};
            #[test] fn tlsf() { super::$test::<Tlsf>(); }
            #[test] fn slab() { super::$test::<Slab>(); }
            #[test] fn bump() { super::$test::<Bump>(); }
        })*
    };
}

with_each_allocator! {
    everything_is_seen
    what_the_dead_hold_is_told
    damage_is_found_where_it_is
    a_lock_that_is_held_is_no_damage
}

#[test]
fn an_allocator_that_is_not_known_is_looked_at_from_outside() {
    let bytes = full::<Tlsf>();
    let other = AllocatorId::new("nobody's", 1);
    let snapshot = Snapshot::of_bytes(&with(bytes, PAYLOAD, 2 | other.bits() << 8));
    assert_eq!(snapshot.verdict(), Verdict::Unchecked(Unchecked::Allocator(other)));
    let arena = snapshot.arena().unwrap();
    assert_eq!((arena.names().len(), arena.usage(), arena.has_all_blocks()), (2, None, false));
    // Two that are shared, and one that is leaked.
    assert_eq!(arena.blocks().len(), 3);
    assert_eq!(snapshot.estate(), None);
}

#[test]
fn what_is_no_segment_is_told_from_a_damaged_one() {
    let bytes = full::<Tlsf>();
    for len in [1, 7, 127, 128, HEADER - 1, HEADER, HEADER + 1, bytes.len() - 1] {
        let found = damage(&bytes[..len]);
        assert!(matches!(found, Damage::Header(HeaderError::Truncated { .. })), "{len}: {found:?}");
    }
    // Who is attached is known as long as there is a header.
    assert_eq!(Snapshot::of_bytes(&bytes[..HEADER]).tenants().len(), 1);
    assert!(Snapshot::of_bytes(&bytes[..HEADER - 1]).tenants().is_empty());
    assert_eq!(Snapshot::of_bytes(&[]).verdict(), Verdict::Forming);
    assert_eq!(Snapshot::of_bytes(&with(bytes.clone(), MEMBERSHIP, 0)).verdict(), Verdict::Forming);
    let snapshot = Snapshot::of_bytes(&with(bytes.clone(), 0, 7));
    assert!(matches!(snapshot.header(), Err(HeaderError::Magic { .. })));
    assert!(snapshot.tenants().is_empty() && snapshot.phase().is_none() && snapshot.estate().is_none());
    let half = word(&bytes, PAYLOAD) | 1;
    let snapshot = Snapshot::of_bytes(&with(bytes, PAYLOAD, half));
    assert_eq!(snapshot.verdict(), Verdict::Unchecked(Unchecked::Unformatted));
}

/// A file of the segment `bytes` of which each copy differs from the last one in what `change` does to it.
fn watched(bytes: &[u8], mut change: impl FnMut(u32, &mut Vec<u8>)) -> (Verdict, u32) {
    let mut copies = 0;
    let own = Tenancy::own();
    let snapshot = when_still(|| {
        let mut bytes = bytes.to_vec();
        change(copies, &mut bytes);
        copies += 1;
        Ok(Snapshot::of_copy(&Image::of_bytes(&bytes), own))
    });
    (snapshot.unwrap().verdict(), copies)
}

#[test]
fn damage_is_what_stays() {
    let sound = full::<Tlsf>();
    let used = HEADER + 8;
    let damaged = with(sound.clone(), used, 1);
    let damage = damage(&damaged);
    assert_eq!(watched(&sound, |_, _| {}), (Verdict::Sound, 1));
    assert_eq!(watched(&damaged, |_, _| {}), (Verdict::Damaged(damage), STILL));
    // What users do to their objects meanwhile is nothing to it.
    let offset = Snapshot::of_bytes(&sound).arena().unwrap().names()[1].block().offset() as usize;
    let object = HEADER + offset + BLOCK_HEADER_LEN as usize;
    let found = watched(&damaged, |copy, bytes| bytes[object] = copy as u8);
    assert_eq!(found, (Verdict::Damaged(damage), STILL));
    // One that is torn until it is not.
    let found = watched(&sound, |copy, bytes| bytes[used] = if copy < 5 { 1 } else { bytes[used] });
    assert_eq!(found, (Verdict::Sound, 6));
}

#[test]
fn what_is_torn_in_another_way_each_time_is_no_damage() {
    let sound = full::<Tlsf>();
    let used = HEADER + 8;
    // Two ways, which follow each other.
    let found = watched(&sound, |copy, bytes| bytes[used] = 1 + (copy % 2) as u8);
    assert_eq!(found, (Verdict::Changing, MOST));
    // The same thing is wrong each time, but something else that leads there is not the same.
    let free = Snapshot::of_bytes(&sound).arena().unwrap().blocks().last().unwrap().offset() as usize;
    let found = watched(&sound, |copy, bytes| {
        bytes[used] = 1;
        bytes[HEADER + free + 8] = copy as u8;
    });
    assert_eq!(found, (Verdict::Changing, MOST));
    let error = when_still(|| Err(ShmemError::NotFound)).map(|_| ()).unwrap_err();
    assert_eq!(error, ShmemError::NotFound);
}

#[test]
fn a_file_is_read_as_far_as_it_has_memory() {
    let name = format!("shmem-bind-test-{}-inspect-sparse", std::process::id());
    let max = if cfg!(target_pointer_width = "64") { 64_u64 << 30 } else { 256 << 20 };
    let builder = Builder::new(&name).reserve_policy(ReservePolicy::Lazy);
    let arena = builder.with_size(max).create().unwrap().arena::<Tlsf>().unwrap();
    let _object = arena.alloc_slice(100_000, 1_u8).unwrap();
    let snapshot = Snapshot::take(&name).unwrap();
    assert_eq!(snapshot.verdict(), Verdict::Sound);
    assert_eq!((snapshot.is_named(), snapshot.mode()), (Some(true), Some(0o600)));
    assert_eq!(snapshot.arena().unwrap().usage().unwrap().blocks, 1);
    // It has about 25 pages.
    let limit = 50_000;
    let small = Snapshot::take_up_to(&name, limit).unwrap();
    assert_eq!(small.verdict(), Verdict::Unchecked(Unchecked::TooLarge { limit }));
    assert_eq!((small.tenants().len(), small.arena().is_none(), small.estate()), (1, true, None));
    assert!(small.verdict().to_string().contains("50000 bytes"));
    drop((_object, arena));
    assert_eq!(Snapshot::take(&name).map(|_| ()).unwrap_err(), ShmemError::NotFound);
}
