//! A peer punches holes into a segment that others use, which also the seals of a memfd allow: what reads as zero then is
//! damage, and told as such
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod alone;
mod common;

use common::TestName;
use common::everything::{Everything, is_severed};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::ftruncate;
use shmem_bind::{
    Arena, ArenaError, BoxError, Builder, Bump, HEADER_LEN, RegionAllocator, ShmemBox, ShmemConf, ShmemError,
    Slab, Tlsf,
};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

alone::tests! {
    a_hole_in_tlsf_is_damage
    a_hole_in_slab_is_damage
    a_hole_in_bump_is_damage
    a_hole_in_a_value_reads_as_zeros
    a_memfd_cannot_be_made_shorter
    ;
}

const SIZE: usize = 64 * 1024;
const PAGE: usize = 4096;

fn punch(fd: impl AsFd, page: usize) {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd, flags, (page * PAGE) as i64, PAGE as i64).unwrap();
}

/// A segment with a name or without one, a descriptor of it, and a way to attach once more.
struct Segment {
    name: Option<TestName>,
    fd: OwnedFd,
}

impl Segment {
    fn create(named: bool) -> (Self, ShmemConf) {
        if named {
            let name = TestName::new("hole");
            let conf = Builder::new(&name).with_size(SIZE).create().unwrap();
            let fd = OpenOptions::new().read(true).write(true).open(name.path()).unwrap().into();
            return (Self { name: Some(name), fd }, conf);
        }
        let (conf, fd) = Builder::memfd().create(SIZE).unwrap();
        (Self { name: None, fd }, conf)
    }

    fn attach(&self) -> Result<ShmemConf, ShmemError> {
        match &self.name {
            Some(name) => Builder::new(name).attach(),
            None => Builder::memfd().attach(&self.fd),
        }
    }

    fn page(&self, page: usize) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        File::from(self.fd.try_clone().unwrap()).read_exact_at(&mut bytes, (page * PAGE) as u64).unwrap();
        bytes
    }
}

/// For each page in turn: every operation of one who is attached, and of a newcomer, comes to an end, and where more is lost
/// than the bytes of an object, somebody is told.
fn a_hole_is_damage<A: RegionAllocator>() {
    for (named, page) in
        [true, false].into_iter().flat_map(|named| (0..=SIZE / PAGE).map(move |page| (named, page)))
    {
        for (what, operation) in Everything::<A>::OPERATIONS {
            let (segment, conf) = Segment::create(named);
            let all = Everything::in_arena(conf.arena::<A>().unwrap());
            let before = segment.page(page);
            // Bytes of an object are for their owner to know. Free memory has none.
            let is_payload = before.iter().all(|byte| [0, 13].contains(byte));
            punch(&segment.fd, page);
            let mut is_told = [false; 2];
            let context = |who: &str, what: &str| format!("{who}: {what}, page {page}, named {named}");
            let mut tell = |who: usize, what: &str, result: Result<(), ShmemError>| {
                let Err(error) = result else { return };
                assert!(!is_severed(error), "{}: {error}", context("severed", what));
                is_told[who] = true;
            };
            tell(0, what, operation(&all));
            for (what, operation) in Everything::OPERATIONS {
                tell(0, what, operation(&all));
            }
            all.look();
            match segment.attach().and_then(|conf| Ok(conf.arena::<A>()?)) {
                Ok(arena) => {
                    let newcomer = Newcomer { all: &all, arena };
                    newcomer.each(|what, result| tell(1, what, result));
                }
                Err(error) => tell(1, "attach", Err(error)),
            }
            assert!(is_payload || is_told[0] || is_told[1], "{}", context("nobody is told", what));
            if page == 0 {
                assert_eq!(is_told, [true; 2], "{}", context("without a header", what));
                assert_eq!(all.arena.check().unwrap_err(), ArenaError::Damaged { at: 0 });
            }
        }
    }
}

/// Somebody who attaches afterwards.
struct Newcomer<'a, A> {
    all: &'a Everything<A>,
    arena: Arena<A>,
}

impl<A: RegionAllocator> Newcomer<'_, A> {
    fn each(self, mut tell: impl FnMut(&str, Result<(), ShmemError>)) {
        let (boxed, shared, mutex) =
            (self.arena.alloc_slice(8, 1_u8), self.arena.find("shared"), self.arena.find("mutex"));
        let (boxed, shared, mutex) = match (boxed, shared, mutex) {
            (Ok(boxed), Ok(shared), Ok(mutex)) => (boxed, shared, mutex),
            (boxed, shared, mutex) => {
                tell("alloc", boxed.map(|_| ()).map_err(Into::into));
                tell("find", shared.map(|_| ()).map_err(Into::into));
                return tell("find", mutex.map(|_| ()).map_err(Into::into));
            }
        };
        let handle = self.all.handle.clone();
        let own = Everything { arena: self.arena, boxed, shared, mutex, handle };
        for (what, operation) in Everything::OPERATIONS {
            tell(what, operation(&own));
        }
    }
}

fn a_hole_in_tlsf_is_damage() {
    a_hole_is_damage::<Tlsf>();
}

fn a_hole_in_slab_is_damage() {
    a_hole_is_damage::<Slab>();
}

fn a_hole_in_bump_is_damage() {
    a_hole_is_damage::<Bump>();
}

fn a_hole_in_a_value_reads_as_zeros() {
    for named in [true, false] {
        let (segment, conf) = Segment::create(named);
        let mut value = unsafe { conf.boxed::<[u64; 1024]>() };
        value.fill(7);
        punch(&segment.fd, 1);
        assert_eq!((value[0], value[511], value[512]), (0, 0, 7));
        // Without a header there is nothing to attach to, nor to box, nor to leave.
        let spare = segment.attach().unwrap();
        punch(&segment.fd, 0);
        let conf = ShmemBox::conf(&value);
        assert_eq!((conf.attachment_count(), conf.is_owner(), conf.is_linked()), (0, false, false));
        assert!(conf.try_own().is_err() && segment.attach().is_err());
        assert!(!conf.is_severed());
        assert!(matches!(
            unsafe { spare.try_boxed::<[u64; 1024]>() }.map(drop),
            Err(BoxError::Damaged { found: 0 })
        ));
        drop(value);
        assert!(segment.name.as_ref().is_none_or(|name| name.exists()), "nobody owned it any more");
    }
}

/// As far as its length goes, the peers of a memfd need not be trusted.
fn a_memfd_cannot_be_made_shorter() {
    let (segment, conf) = Segment::create(false);
    let all = Everything::in_arena(conf.arena::<Tlsf>().unwrap());
    for len in [0, PAGE, HEADER_LEN + SIZE - 1, HEADER_LEN + SIZE + 1] {
        assert_eq!(ftruncate(&segment.fd, len as i64), Err(Errno::EPERM));
    }
    let collapse = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
    assert!(fallocate(&segment.fd, collapse, 0, PAGE as i64).is_err());
    assert!(File::from(segment.fd.try_clone().unwrap()).set_len(0).is_err());
    all.arena.check().unwrap();
    for (what, operation) in Everything::OPERATIONS {
        operation(&all).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}
