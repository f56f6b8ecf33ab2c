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
    // What was had of it is shared, and the rest is this process's own.
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
