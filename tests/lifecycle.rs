//! A segment's life among real processes
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod common;

use common::{Child, Parent, TestName};
use shmem_bind::{Builder, ShmemBox};

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("attacher", attacher)]);
}

/// Attaches, writes, and leaves when told to.
fn attacher(parent: &mut Parent) {
    let conf = Builder::new(parent.argument(0)).with_size(8).open().unwrap();
    let mut value = unsafe { conf.boxed::<u64>() };
    *value += 1;
    parent.say("attached");
    parent.await_line("leave");
}

#[test]
fn smoke() {
    let name = TestName::new("smoke");
    let conf = Builder::new(&name).with_size(8).open().unwrap();
    let value = unsafe { conf.boxed::<u64>() };
    let mut child = Child::spawn("attacher", &[&name]);
    child.expect("attached");
    assert_eq!(*value, 1);
    assert_eq!(ShmemBox::conf(&value).attachment_count(), 2);
    child.say("leave");
    child.finish();
    assert_eq!(ShmemBox::conf(&value).attachment_count(), 1);
    drop(value);
    assert!(!name.exists());
}
