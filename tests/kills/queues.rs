//! Queues: what is done to one, and what must be true of it afterwards
//!
//! One with two elements, 1 and 2, and room for two more, has a name for ever. What is sent to it is 3 and what follows. So whatever
//! a death leaves is a row of numbers without a gap; it may begin later by what the dead has taken, and end later by what
//! it has sent. All places are to be had then.

use super::scenes::{Leaves, Scene, Victim};
use super::stage::Past;
use crate::common::arena::Allocator;
use shmem_bind::ring::{Many, Mode, Queue, QueueError, Single};
use shmem_bind::{Arena, ShmemArc, ShmemBox};
use std::any::Any;

pub const QUEUE: &str = "queue";

type Numbers<M> = Queue<u64, 4, M>;

fn queue<A: Allocator, M: Mode>(arena: &Arena<A>) -> ShmemArc<Numbers<M>> {
    arena.find(QUEUE).unwrap()
}

/// Makes the queue; gives what is to be kept of it.
pub fn make<A: Allocator>(arena: &Arena<A>, past: Past) -> Box<dyn Any> {
    fn make<A: Allocator, M: Mode>(arena: &Arena<A>) -> Box<dyn Any> {
        let queue = ShmemBox::into_arc(arena.alloc_zeroed::<Numbers<M>>().unwrap());
        queue.sender().unwrap().push_slice(&[1, 2]).unwrap();
        arena.publish_pinned(QUEUE, &queue).unwrap();
        Box::new(queue)
    }
    if past == Past::Mpmc { make::<A, Many>(arena) } else { make::<A, Single>(arena) }
}

/// How many elements an operation takes at most, and sends.
fn extent(label: &str) -> (u64, u64) {
    match label {
        "drain" => (2, 0),
        "try_pop" | "pop_for" | "peek and release" | "peek and take" => (1, 0),
        "try_push" | "push_for" | "reserve and write" => (0, 1),
        "push_slice" => (0, 2),
        _ => (0, 0),
    }
}

/// Looks what is left, and uses the queue.
pub fn judge<A: Allocator>(arena: &Arena<A>, scene: &Scene<A>) {
    if scene.past == Past::Mpmc {
        judge_one::<A, Many>(arena, scene.label)
    } else {
        judge_one::<A, Single>(arena, scene.label)
    }
}

fn judge_one<A: Allocator, M: Mode>(arena: &Arena<A>, label: &str) {
    let (taken, sent) = extent(label);
    let queue = queue::<A, M>(arena);
    let mut receiver = queue.receiver().unwrap();
    let mut left = Vec::new();
    let end = loop {
        match receiver.try_pop() {
            Ok(number) => left.push(number),
            Err(error) => break error,
        }
    };
    assert_eq!(end, QueueError::Empty);
    let may_be = |first: u64, last: u64| (first..=last).eq(left.iter().copied());
    let is_known = (1..=1 + taken).any(|first| (2..=2 + sent).any(|last| may_be(first, last)));
    assert!(is_known, "{left:?} is left");
    let mut sender = queue.sender().unwrap();
    assert_eq!(sender.push_slice(&[1, 2, 3, 4, 5]), Ok(4), "a place is lost");
    assert_eq!(receiver.drain(9).unwrap().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(sender.push_slice(&[1, 2]), Ok(2));
}

pub fn add_scenes<A: Allocator>(scenes: &mut Vec<Scene<A>>) {
    add_scenes_of::<A, Many>(scenes, Past::Mpmc);
    add_scenes_of::<A, Single>(scenes, Past::Spsc);
}

fn add_scenes_of<A: Allocator, M: Mode>(scenes: &mut Vec<Scene<A>>, past: Past) {
    let mut add = |label, operate: fn(Victim<'_, A>)| {
        scenes.push(Scene { label, past, leaves: Leaves::empty(), operate, is_in_segment: true });
    };
    add("try_push", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut sender = queue.sender().unwrap();
        victim.does(|| sender.try_push(3).unwrap());
    });
    add("push_for", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut sender = queue.sender().unwrap();
        victim.does(|| sender.push_for(3, super::stage::patience()).unwrap());
    });
    add("push_slice", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut sender = queue.sender().unwrap();
        victim.does(|| sender.push_slice(&[3, 4, 5]).unwrap());
    });
    add("reserve and write", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut sender = queue.sender().unwrap();
        victim.does(|| sender.reserve().unwrap().write(3).unwrap());
    });
    add("reserve and give up", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut sender = queue.sender().unwrap();
        victim.does(|| drop(sender.reserve().unwrap()));
    });
    add("try_pop", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut receiver = queue.receiver().unwrap();
        victim.does(|| assert_eq!(receiver.try_pop(), Ok(1)));
    });
    add("pop_for", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut receiver = queue.receiver().unwrap();
        victim.does(|| assert_eq!(receiver.pop_for(super::stage::patience()), Ok(1)));
    });
    add("peek and release", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut receiver = queue.receiver().unwrap();
        victim.does(|| receiver.peek().unwrap().release());
    });
    add("peek and take", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut receiver = queue.receiver().unwrap();
        victim.does(|| assert_eq!(receiver.peek().unwrap().take(), Ok(1)));
    });
    add("drain", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        let mut receiver = queue.receiver().unwrap();
        victim.does(|| assert_eq!(receiver.drain(9).unwrap().fold(0, u64::wrapping_add), 3));
    });
    add("take both ends, and give them back", |victim| {
        let queue = queue::<A, M>(&victim.attach());
        victim.does(|| drop((queue.sender().unwrap(), queue.receiver().unwrap())));
    });
}
