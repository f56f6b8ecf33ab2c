//! Programs written for shmem-bind 0.1 compile, and do what they did
//!
//! The examples and tests of 0.1.3, word for word but for the names of their segments, and what its
//! documentation promises.
#![allow(missing_docs, unused_extern_crates, clippy::arithmetic_side_effects)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

extern crate shmem_bind;

mod common;

use common::{Child, Parent, TestName};
use shmem_bind::{self as shmem, Builder, BuilderWithSize, Handle, ShmemBox, ShmemConf, ShmemError};
use std::cell::Cell;
use std::error::Error;
use std::fmt::Debug;
use std::mem;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("message passing", message_passing_child)]);
}

thread_local! {
    static DROPS: Cell<u32> = const { Cell::new(0) };
}

#[derive(Debug)]
struct Message {
    val: i32,
}

impl Drop for Message {
    fn drop(&mut self) {
        DROPS.set(DROPS.get() + 1);
    }
}

fn open_message(name: &str) -> Result<ShmemBox<Message>, Box<dyn Error>> {
    let shared_mem = shmem::Builder::new(name).with_size(mem::size_of::<Message>() as i64).open()?;
    Ok(unsafe { shared_mem.boxed::<Message>() })
}

/// The two branches of the example `message-passing`.
#[test]
fn example_message_passing() -> Result<(), Box<dyn Error>> {
    let name = TestName::new("message-passing");
    {
        // ensure that first process owns the shared memory (used for cleanup)
        let mut message = ShmemBox::own(open_message(&name)?);
        message.val = 1;
        // create new process to mutate the shared memory
        let child = Child::spawn("message passing", &[&name, "5"]);
        child.finish();
        assert_eq!(message.val, 5);
        // message is dropped here, shared memory IS deallocated
    }
    assert_eq!(DROPS.get(), 1);
    assert!(!name.exists());
    Ok(())
}

fn message_passing_child(parent: &mut Parent) {
    let mut message = open_message(parent.argument(0)).unwrap();
    message.val = parent.argument(1).parse().unwrap();
    drop(message);
    // message is dropped here, shared memory IS NOT deallocated
    assert_eq!(DROPS.get(), 0);
}

#[test]
fn example_of_open() -> Result<(), ShmemError> {
    let name = TestName::new("flink_test");
    {
        // shared_mem is the owner
        let _shared_mem = shmem::Builder::new(&name).with_size(mem::size_of::<i32>() as i64).open()?;
        {
            // shared_mem_barrow is not the owner
            let _shared_mem_barrow =
                shmem::Builder::new(&name).with_size(mem::size_of::<i32>() as i64).open()?;
        }
        assert!(name.exists());
    }
    assert!(!name.exists());
    Ok(())
}

#[test]
fn example_of_boxed() -> Result<(), ShmemError> {
    type NotZeroI32 = i32;

    let name = TestName::new("flink_test_boxed");
    let shared_mem = shmem::Builder::new(&name).with_size(mem::size_of::<NotZeroI32>() as i64).open()?;

    let boxed_val = unsafe {
        // the allocated shared_memory is not initialized and thus, not guaranteed to be a
        // valid `NotZeroI32`
        let mut boxed_val = shared_mem.boxed::<NotZeroI32>();
        // manually initialize the value in the unsafe block
        *boxed_val = 5;
        boxed_val
    };
    assert_eq!(*boxed_val, 5);

    let shared_mem = shmem::Builder::new(&name).with_size(mem::size_of::<NotZeroI32>() as i64).open()?;
    let mut boxed_barrow_val = unsafe { shared_mem.boxed::<NotZeroI32>() };
    assert_eq!(*boxed_barrow_val, 5);

    // changes to boxed_barrow_val would reflect to boxed_val as well since they both point
    // to the same location.
    *boxed_barrow_val = 3;
    assert_eq!(*boxed_val, 3);
    Ok(())
}

#[test]
fn example_of_own_and_leak() -> Result<(), ShmemError> {
    let name = TestName::new("flink_test_own");
    // shared memory is created. `shared_mem` owns the shared memory
    let shared_mem = shmem::Builder::new(&name).with_size(mem::size_of::<i32>() as i64).open()?;
    let boxed_val = unsafe { shared_mem.boxed::<i32>() };

    // leaking the shared memory to prevent `shared_mem` from cleaning it up.
    ShmemBox::leak(boxed_val);
    assert!(name.exists());

    // shared memory is already present on the machine. `shared_mem` does not own the
    // shared memory.
    let shared_mem = shmem::Builder::new(&name).with_size(mem::size_of::<i32>() as i64).open()?;
    let boxed_val = unsafe { shared_mem.boxed::<i32>() };

    // own the shared memory to ensure it's cleanup when the shared_mem goes out of scope.
    let boxed_val = ShmemBox::own(boxed_val);

    // boxed_val goes out of scope, the shared memory is cleaned up
    drop(boxed_val);
    assert!(!name.exists());
    Ok(())
}

#[test]
fn ownership() {
    #[derive(Debug)]
    struct Data {
        val: i32,
    }

    let name = TestName::new("ownership");
    let shmconf = Builder::new(&name).with_size(std::mem::size_of::<Data>() as i64).open().unwrap();
    let mut data = unsafe { shmconf.boxed::<Data>() };
    assert_eq!(data.val, 0);
    data.val = 1;

    ShmemBox::leak(data);

    let shmconf = Builder::new(&name).with_size(std::mem::size_of::<Data>() as i64).open().unwrap();
    let data = unsafe { shmconf.boxed::<Data>() };
    assert_eq!(data.val, 1);

    let _owned_data = ShmemBox::own(data);
}

#[test]
fn multi_thread() {
    struct Data {
        val: i32,
    }
    let name = TestName::new("multi-thread.shm");
    // create new shared memory pointer with desired size
    let shared_mem = Builder::new(&name).with_size(std::mem::size_of::<Data>() as i64).open().unwrap();

    // wrap the raw shared memory ptr with desired Boxed type
    // user must ensure that the data the pointer is pointing to is initialized and valid for use
    let data = unsafe { shared_mem.boxed::<Data>() };

    // ensure that first process owns the shared memory (used for cleanup)
    let mut data = ShmemBox::own(data);

    // initiate the data behind the boxed pointer
    data.val = 1;

    let new_val = 5;
    let id = name.to_string();
    std::thread::spawn(move || {
        // create new shared memory pointer with desired size
        let shared_mem = Builder::new(&id).with_size(std::mem::size_of::<Data>() as i64).open().unwrap();

        let mut data = unsafe { shared_mem.boxed::<Data>() };
        data.val = new_val;
    })
    .join()
    .unwrap();
    // assert that the new process mutated the shared memory
    assert_eq!(data.val, new_val);
}

#[test]
fn a_builder_borrows_nothing() -> Result<(), Box<dyn Error>> {
    struct Settings {
        builder: Builder,
        sized: Option<BuilderWithSize>,
    }
    fn settings(label: &str) -> (TestName, Settings) {
        let name = TestName::new(label);
        let id = String::from(&*name);
        (name, Settings { builder: Builder::new(&id), sized: None })
    }

    let (name, mut settings) = settings("stored");
    settings.sized = Some(settings.builder.with_size(4));
    let opened = std::thread::spawn(move || settings.sized.unwrap().open());
    let conf: ShmemConf = opened.join().unwrap()?;
    assert!(name.exists());
    let _: ShmemBox<i32> = unsafe { conf.boxed() };
    Ok(())
}

#[test]
fn functions_have_the_types_they_had() {
    let _: fn(&str) -> Builder = Builder::new;
    let _: fn(Builder, i64) -> BuilderWithSize = Builder::with_size;
    let _: fn(BuilderWithSize) -> Result<ShmemConf, ShmemError> = BuilderWithSize::open;
    let _: unsafe fn(ShmemConf) -> ShmemBox<u8> = ShmemConf::boxed::<u8>;
    let _: fn(ShmemBox<u8>) -> ShmemBox<u8> = ShmemBox::own;
    let _: fn(ShmemBox<u8>) -> Handle<u8> = ShmemBox::leak;
}

#[test]
fn a_new_segment_reads_as_zeros_and_a_later_one_too() -> Result<(), ShmemError> {
    const SIZE: usize = 3 * 4096 + 5;
    let name = TestName::new("zeros");
    for _ in 0..2 {
        let conf = Builder::new(&name).with_size(SIZE as i64).open()?;
        let mut bytes = unsafe { conf.boxed::<[u8; SIZE]>() };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(0xff);
    }
    Ok(())
}

#[test]
fn only_the_owner_cleans_up() -> Result<(), Box<dyn Error>> {
    let name = TestName::new("owner");
    let mut owner = open_message(&name)?;
    owner.val = 8;
    let other = open_message(&name)?;
    assert_eq!(other.val, 8);
    drop(other);
    assert_eq!((DROPS.get(), name.exists()), (0, true));
    drop(owner);
    assert_eq!((DROPS.get(), name.exists()), (1, false));
    Ok(())
}

#[test]
fn leak_runs_no_destructor_and_own_makes_up_for_it() -> Result<(), Box<dyn Error>> {
    let name = TestName::new("leak");
    let mut message = open_message(&name)?;
    message.val = 2;
    ShmemBox::leak(message);
    assert_eq!((DROPS.get(), name.exists()), (0, true));

    // Opened again, it is nobody's.
    drop(open_message(&name)?);
    assert_eq!((DROPS.get(), name.exists()), (0, true));

    let message = ShmemBox::own(open_message(&name)?);
    assert_eq!(message.val, 2);
    drop(message);
    assert_eq!((DROPS.get(), name.exists()), (1, false));
    Ok(())
}

#[test]
fn own_is_for_all_to_see() -> Result<(), Box<dyn Error>> {
    let name = TestName::new("own");
    let creator = open_message(&name)?;
    let heir = ShmemBox::own(open_message(&name)?);
    assert!(ShmemBox::conf(&heir).is_owner() && !ShmemBox::conf(&creator).is_owner());
    drop(creator);
    assert!(name.exists());
    drop(heir);
    assert_eq!((DROPS.get(), name.exists()), (1, false));
    Ok(())
}

#[test]
fn handles_in_two_threads_are_handles_of_one_segment() {
    let name = TestName::new("threads");
    let first = open_message(&name).unwrap();
    let (mut second, id) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let message = open_message(&name).unwrap();
            let id = ShmemBox::conf(&message).segment_id();
            (message, id)
        });
        opened.join().unwrap()
    });
    assert_eq!(ShmemBox::conf(&first).segment_id(), id);
    assert_eq!(ShmemBox::conf(&second).attachment_count(), 2);
    second.val = 3;
    assert_eq!(first.val, 3);

    // Dropped by another thread than the one that opened it.
    let drops = std::thread::spawn(move || {
        drop((first, second));
        DROPS.get()
    });
    assert_eq!(drops.join().unwrap(), 1);
    assert!(!name.exists());
}

#[test]
fn everything_can_be_printed() -> Result<(), ShmemError> {
    fn printed(value: &dyn Debug) -> String {
        format!("{value:?}")
    }

    let name = TestName::new("debug");
    let conf = Builder::new(&name).with_size(4_i64).open()?;
    assert!(printed(&conf).contains(&*name));
    let mut number = unsafe { conf.boxed::<i32>() };
    *number = 4711;
    let number_printed = printed(&number);
    assert!(number_printed.contains(&*name) && number_printed.contains("4711"));
    Ok(())
}

#[test]
fn errors_are_errors() {
    fn fails() -> Result<(), Box<dyn Error>> {
        Builder::new("").with_size(1).open()?;
        Ok(())
    }
    fn fails_in_a_thread() -> Result<(), Box<dyn Error + Send + Sync>> {
        let _conf = Builder::new("no/name").with_size(1).open()?;
        Ok(())
    }

    let error = fails().unwrap_err();
    assert!(error.is::<ShmemError>());
    assert!(!error.to_string().is_empty() && !format!("{error:?}").is_empty());
    fails_in_a_thread().unwrap_err();
    // A size of 0.1 was signed.
    let name = TestName::new("negative");
    let error: ShmemError = Builder::new(&name).with_size(-1_i64).open().unwrap_err();
    assert!(!error.to_string().is_empty());
    assert!(!name.exists());
}

mod auto_traits {
    use super::*;
    use static_assertions::{assert_impl_all, assert_not_impl_any};
    use std::rc::Rc;
    use std::sync::MutexGuard;

    assert_impl_all!(ShmemBox<i32>: Send, Sync);
    // Send and not Sync; Sync and not Send; neither.
    assert_impl_all!(ShmemBox<Cell<i32>>: Send);
    assert_not_impl_any!(ShmemBox<Cell<i32>>: Sync);
    assert_impl_all!(ShmemBox<MutexGuard<'static, i32>>: Sync);
    assert_not_impl_any!(ShmemBox<MutexGuard<'static, i32>>: Send);
    assert_not_impl_any!(ShmemBox<Rc<i32>>: Send, Sync);
}
