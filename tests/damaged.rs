//! What was wrong once when a peer damaged words of a segment: each test is named after it
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::unwrap_used)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod common;

use common::TestName;
use shmem_bind::{
    Arena, ArenaError, Builder, HEADER_LEN, RegionAllocator, ShmemArc, ShmemBox, ShmemError, SizeError, Slab,
    Tlsf,
};
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

fn arena<A: RegionAllocator>(name: &TestName) -> Arena<A> {
    Builder::new(name).with_size(64 * 1024).create().unwrap().arena().unwrap()
}

/// The state word of an object's block.
fn state(object: &ShmemArc<AtomicU64>) -> &AtomicU64 {
    unsafe { &*(&raw const **object).sub(3) }
}

/// Writes words to a segment's file, as a peer may at any time.
fn damage(name: &TestName, words: impl IntoIterator<Item = (u64, u64)>) {
    let file = fs::OpenOptions::new().write(true).open(name.path()).unwrap();
    for (offset, word) in words {
        file.write_all_at(&word.to_ne_bytes(), offset).unwrap();
    }
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

#[test]
fn a_reference_outlived_its_mapping() {
    let name = TestName::new("outlived");
    let arena = arena::<Tlsf>(&name);
    let first = shared(&arena);
    // The tenant of slot 0, which is this process, is dead, says the word: what it holds is given back.
    damage(&name, [(512, 1 << 42)]);
    let result = arena.sweep();
    assert!(matches!(result, Err(ArenaError::Damaged { .. })), "{result:?}");
    let second = shared(&arena);
    assert!(ShmemArc::ptr_eq(&first, &second), "the block is not handed out twice");
    drop(second);
    // Shared by this process, says the word.
    state(&first).store(4 | 1 << 8, SeqCst);
    drop((first.clone(), arena));
    assert_eq!(first.load(SeqCst), 1);
    drop(first);
    assert!(!is_mapped(&name));
}

#[test]
fn a_stack_of_runs_that_overlap_took_the_square_of_their_number() {
    let name = TestName::new("overlap");
    let arena = Builder::new(&name).with_size(4 << 20).create().unwrap().arena::<Slab>().unwrap();
    let heap = HEADER_LEN as u64;
    let (pages, page_len) = (1000, 4096);
    let mut head = 0;
    let mut words = Vec::new();
    for page in 16..pages {
        let block = page * page_len + 8;
        // A run from here to the end; its block is condemned by slot 55, and linked to the one before.
        words.push((heap + 256 + 8 * page, 4 | (pages - page) << 8));
        words.extend([(0, 5 | 63 << 8), (8, head), (16, 2)].map(|(word, bits)| (heap + block + word, bits)));
        head = block;
    }
    words.push((136, head));
    damage(&name, words);
    let result = arena.usage();
    assert!(matches!(result, Err(ArenaError::Damaged { .. })), "{result:?}");
    // It ends at the second, which overlaps the first, and not after all.
    let mut word = [0];
    fs::File::open(name.path()).unwrap().read_exact_at(&mut word, heap + 256 + 8 * 16).unwrap();
    assert_eq!(word, [4], "still a run");
}

#[test]
fn a_segment_longer_than_half_of_the_address_space_was_mapped_on_32_bits() {
    let name = TestName::new("long");
    Builder::new(&name).with_size(4096).create().unwrap().leak();
    let payload = (2_u64 << 30) + (256 << 20);
    let total = payload + HEADER_LEN as u64;
    fs::OpenOptions::new().write(true).open(name.path()).unwrap().set_len(total).unwrap();
    damage(&name, [(16, total), (24, payload)]);
    let result = Builder::new(&name).attach();
    if cfg!(target_pointer_width = "32") {
        let error = result.unwrap_err();
        assert!(matches!(error, ShmemError::Size(SizeError::TooLarge { max }) if max < 1 << 31), "{error:?}");
    } else {
        assert_eq!(result.unwrap().max_size() as u64, payload);
    }
}
