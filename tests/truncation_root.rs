//! No memory is left for a page of a segment that was not reserved: what needs root to be arranged
#![allow(missing_docs, clippy::undocumented_unsafe_blocks, clippy::indexing_slicing, clippy::unwrap_used)]

mod alone;
mod common;

use alone::root::mount_private;
use common::TestName;
use common::sigbus::{survive, survived};
use nix::sys::statvfs::statvfs;
use shmem_bind::{AllocError, Builder, Origin, ReservePolicy, ShmemBox, Tlsf};
use std::fs;
use std::io::Write;

alone::tests! {
    #[ignore = "needs root"] root_want_of_memory_severs_the_one_who_meets_it
    ;
}

fn root_want_of_memory_severs_the_one_who_meets_it() {
    const SIZE: usize = 1 << 20;
    survive();
    mount_private("/dev/shm", "size=512k,mode=1777");
    let name = TestName::new("lazy");
    let open = || Builder::new(&name).reserve_policy(ReservePolicy::Lazy).with_size(SIZE).open().unwrap();
    let arena = open().arena::<Tlsf>().unwrap();
    let other = Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap();
    let kept = other.alloc(3_u64).unwrap();
    // To look at a page takes memory as well: what it needs later it takes now.
    other.check().unwrap();
    // More than there is: nothing is said before it is written to.
    let mut bytes = arena.alloc_slice(SIZE / 2 + SIZE / 4, 0_u8).unwrap();
    assert!(arena.conf().is_severed() && survived() == 1);
    assert_eq!(arena.alloc(1_u8).unwrap_err().error, AllocError::Severed);
    // It is this process's own.
    bytes.fill(9);
    assert_eq!((bytes[0], bytes[bytes.len() - 1], statvfs("/dev/shm").unwrap().blocks_free()), (9, 9, 0));
    // Others are as they were, and so is the segment when the one has left: the file is as long as ever.
    assert!(!other.conf().is_severed());
    other.check().unwrap();
    assert_eq!(other.conf().attachment_count(), 2);
    drop((bytes, arena));
    assert_eq!((other.conf().attachment_count(), other.conf().owner_pid()), (1, None));
    assert_eq!(other.sweep().unwrap().objects, 1);
    other.check().unwrap();
    assert_eq!((*kept, *other.alloc(4_u64).unwrap()), (3, 4));
    drop((kept, other));
    let heir = open();
    assert_eq!((heir.origin(), heir.attachment_count()), (Origin::Adopted, 1));
    drop(heir);
    assert!(!name.exists());
    what_the_allocator_was_at_is_put_right();
    // A value, of which not even the first page is to be had.
    fs::write("/dev/shm/full", vec![1; 500 << 10]).unwrap_or_default();
    let sparse = TestName::new("lazy-value");
    let built = Builder::new(&sparse).reserve_policy(ReservePolicy::Lazy).with_size(SIZE).create().unwrap();
    let mut value = unsafe { built.boxed::<[u8; SIZE]>() };
    value.fill(1);
    assert!(ShmemBox::conf(&value).is_severed());
    assert_eq!(value[SIZE - 1], 1);
    drop(value);
    assert!(sparse.exists());
    fs::remove_file("/dev/shm/full").unwrap();
}

/// The fault may come among the allocator's own words: the next one finds them as after a death.
fn what_the_allocator_was_at_is_put_right() {
    const SIZE: usize = 128 << 10;
    let mut severed = 0;
    for (index, len) in [20, 60, 500, 1024, 4000, 8000].into_iter().enumerate() {
        let name = TestName::new("allocator");
        let builder = Builder::new(&name).reserve_policy(ReservePolicy::Lazy).with_size(SIZE);
        let other = builder.create().unwrap().arena::<Tlsf>().unwrap();
        let arena = Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap();
        drop(other.alloc([1_u8; 64]).unwrap());
        let mut filler = fs::File::create("/dev/shm/filler").unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        let before = survived();
        let made = match index % 2 {
            0 => arena.alloc_slice(len, 1_u64).map(drop),
            _ => {
                arena.alloc_slice_with(len, |number| number as u64).map(drop).map_err(|_| AllocError::Severed)
            }
        };
        drop(filler);
        fs::remove_file("/dev/shm/filler").unwrap();
        assert!(arena.conf().is_severed() == (survived() != before));
        if made.is_err() {
            assert!(arena.conf().is_severed());
        }
        severed += u32::from(arena.conf().is_severed());
        // Also while that one is still there.
        drop(other.alloc([1_u8; 20_000]).unwrap());
        other.check().unwrap();
        drop(arena);
        other.sweep().unwrap();
        assert_eq!(other.usage().unwrap().blocks, 0);
        drop(other.alloc([1_u8; 100_000]).unwrap());
        other.check().unwrap();
        drop(Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap());
    }
    assert!(severed >= 3, "{severed}");
}
