//! References to objects whose blocks somebody has damaged
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::unwrap_used)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod common;

use common::TestName;
use shmem_bind::{Arena, Builder, RegionAllocator, ShmemArc, ShmemBox, Slab, Tlsf};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

fn arena<A: RegionAllocator>(name: &TestName) -> Arena<A> {
    Builder::new(name).with_size(64 * 1024).create().unwrap().arena().unwrap()
}

/// The state word of an object's block.
fn state(object: &ShmemArc<AtomicU64>) -> &AtomicU64 {
    unsafe { &*(&raw const **object).sub(3) }
}

fn is_mapped(name: &TestName) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(&**name)
}

fn shared<A: RegionAllocator>(arena: &Arena<A>) -> ShmemArc<AtomicU64> {
    ShmemBox::into_arc(arena.alloc(AtomicU64::new(1)).unwrap())
}

#[test]
fn a_reference_to_a_damaged_block_kept_the_segment_attached_for_ever() {
    let name = TestName::new("damaged");
    let arena = arena::<Tlsf>(&name);
    for word in [0, !0, 1, 2 | 55 << 8] {
        let object = shared(&arena);
        state(&object).store(word, SeqCst);
        drop(object.clone());
        // Of another one who is attached.
        let other = Builder::new(&name).attach().unwrap().arena::<Tlsf>().unwrap();
        let others = shared(&other);
        drop(other);
        state(&others).store(word, SeqCst);
        drop((object, others));
        assert_eq!(arena.conf().attachment_count(), 1, "{word:#x}");
    }
    drop(arena);
    assert!(!is_mapped(&name) && !name.exists());
}

#[test]
fn a_block_that_was_handed_out_twice_hung_its_second_reference() {
    let name = TestName::new("twice");
    let arena = arena::<Slab>(&name);
    let first = shared(&arena);
    let clones = (first.clone(), first.clone());
    let taken = state(&first).load(SeqCst);
    // Free, says the word, and so it is given out again sooner or later.
    state(&first).store(1, SeqCst);
    let mut rest = Vec::new();
    let second = loop {
        let object = shared(&arena);
        if ShmemArc::ptr_eq(&object, &first) {
            break object;
        }
        rest.push(object);
    };
    assert_ne!(taken, 1);
    // None of them is gone before the last.
    drop((first, second.clone()));
    drop(clones);
    drop((arena, rest));
    assert_eq!(second.fetch_add(1, SeqCst), 1);
    assert_eq!(ShmemArc::conf(&second).attachment_count(), 1);
    drop(second);
    assert!(!is_mapped(&name) && !name.exists());
}
