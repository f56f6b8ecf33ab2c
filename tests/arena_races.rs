//! Processes that use one arena at the same time
//!
//! What must hold whoever is quicker: of all who claim an object one gets it, each destructor runs once, a name
//! leads to the object that was given it, and in the end nothing is lost and the heap is whole.
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, clippy::unwrap_used)]

mod common;

use common::arena::{Alarm, Allocator, Control, Counted, Random, Stamped};
use common::arena::{assert_empty, builder, open, prepare, random_len};
use common::{Child, Parent, TestName};
use shmem_bind::{
    AllocError, Arena, Builder, Bump, DirectoryError, Handle, HandleError, Reclaimed, ShmemArc, ShmemBox,
    Slab, Tlsf,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 1 << 20;
/// In a normal run. The long ones have [`MANY`].
const ROUNDS: usize = 20_000;
const MANY: usize = 100_000;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[
        ("race tlsf", race::<Tlsf>),
        ("race slab", race::<Slab>),
        ("format tlsf", format_at_once::<Tlsf>),
        ("format slab", format_at_once::<Slab>),
        ("format bump", format_at_once::<Bump>),
        ("stress tlsf", stress::<Tlsf>),
        ("stress slab", stress::<Slab>),
        ("stress bump", stress::<Bump>),
    ]);
}

/// One of two processes that race.
struct Racer<A> {
    arena: Arena<A>,
    control: &'static Control,
    /// 0 or 1.
    index: usize,
    rounds: usize,
    random: Random,
}

type Race<A> = fn(&mut Racer<A>);

fn races<A: Allocator>(name: &str) -> Race<A> {
    match name {
        "claim" => claim,
        "release" => release,
        "publish" => publish,
        "find-or-alloc" => find_or_alloc,
        "drop" => drop_at_once,
        "iterate" => iterate,
        "grow" => grow,
        _ => panic!("{name}"),
    }
}

fn race<A: Allocator>(parent: &mut Parent) {
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(control);
    let [index, rounds] = [3, 4].map(|index| parent.argument(index).parse().unwrap());
    let arena = Builder::new(parent.argument(0)).timeout(Duration::from_secs(50)).attach().unwrap();
    let arena = arena.arena::<A>().unwrap();
    let random = Random::new(index as u64);
    let mut racer = Racer { arena, control, index, rounds, random };
    racer.meet();
    races(parent.argument(2))(&mut racer);
    racer.meet();
    drop((racer, alarm));
    parent.say("done");
}

/// Waits until all children have done what they have to.
#[track_caller]
fn see_off(children: Vec<Child>) {
    for child in children {
        let last_word = std::iter::from_fn(|| child.try_hear()).find(|line| line == "done");
        assert!(last_word.is_some(), "a process failed");
        child.finish();
    }
}

/// Lets two processes race, and no others meanwhile: so that each has a processor, if there are two.
#[track_caller]
fn two<A: Allocator>(race: &str, rounds: usize) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (name, control_name) = (TestName::new(race), TestName::new("control"));
    let control = Control::open(&control_name);
    let mut builder = builder(&name, SIZE);
    if race == "grow" {
        builder = builder.max_size(16 * SIZE);
    }
    let arena = builder.open().unwrap().arena::<A>().unwrap();
    let start = prepare(&arena);
    let rounds_text = rounds.to_string();
    let role = format!("race {}", A::NAME);
    let spawn = |index| Child::spawn(&role, &[&name, &control_name, race, index, &rounds_text]);
    see_off(["0", "1"].map(spawn).into());
    println!(
        "arena_races: rounds {rounds}, lost {}, twice {} ({race}, {}, {} objects, {} contested)",
        control.living(),
        control.twice(),
        A::NAME,
        control.made(),
        control.contested.load(SeqCst),
    );
    assert_eq!((control.living(), control.twice()), (0, 0));
    assert_empty(&arena, &start);
    assert_eq!(arena.reclaimed(), Reclaimed::default(), "nobody died");
    assert_eq!(arena.conf().attachment_count(), 1);
}

impl<A: Allocator> Racer<A> {
    fn meet(&self) {
        self.control.meet(2);
    }

    /// Another object, to lie where one has just been freed.
    fn litter(&mut self) -> ShmemBox<[u8]> {
        let (len, byte) = (self.random.index(100), self.random.next() as u8);
        self.arena.alloc_slice(len, byte).unwrap()
    }

    /// Now and then lets the other go on, also where there is one processor for both.
    fn pause(&mut self) {
        if self.random.below(8) == 0 {
            thread::yield_now();
        }
    }

    fn contested(&self, number: usize) {
        self.control.contested.fetch_add(number as u64, SeqCst);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.control.words[index]
    }
}

/// Both claim the same handles.
fn claim<A: Allocator>(racer: &mut Racer<A>) {
    const BATCH: usize = 64;
    let mut litter = Vec::new();
    let mut former = [Handle::<Counted>::from_bits(0); BATCH];
    let mut won = 0;
    for batch in 0..racer.rounds / BATCH {
        let winners = |racer: &Racer<A>| (0..BATCH).all(|index| racer.word(index).load(SeqCst) == 1);
        if batch % 2 == racer.index {
            assert!(batch == 0 || winners(racer), "one gets it, before batch {batch}");
            for index in 0..BATCH {
                let object = racer.arena.alloc(Counted::new((batch * BATCH + index) as u64)).unwrap();
                let bits = ShmemBox::leak(object).to_bits();
                racer.word(index).store(0, SeqCst);
                racer.word(BATCH + index).store(bits as u64, SeqCst);
                racer.word(2 * BATCH + index).store((bits >> 64) as u64, SeqCst);
            }
        }
        racer.meet();
        let before = won;
        for (index, last) in former.iter_mut().enumerate() {
            let [low, high] = [1, 2].map(|part| u128::from(racer.word(part * BATCH + index).load(SeqCst)));
            let handle = Handle::from_bits(high << 64 | low);
            // Where the object of the former batch lay, there is one of this batch now.
            let stale = racer.arena.claim(std::mem::replace(last, handle)).unwrap_err();
            assert!(
                matches!(stale, HandleError::Gone { .. } | HandleError::Stale { .. }) || batch == 0,
                "{stale:?}"
            );
            match racer.arena.claim(handle) {
                Ok(object) => {
                    racer.word(index).fetch_add(1, SeqCst);
                    assert_eq!(object.mark(), (batch * BATCH + index) as u64);
                    won += 1;
                    drop(object);
                    litter.push(racer.litter());
                }
                Err(HandleError::Gone { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            if litter.len() > 5 {
                litter.swap_remove(racer.random.index(5));
            }
            racer.pause();
        }
        racer.meet();
        if racer.index == 0 {
            racer.contested((won - before).min(BATCH - (won - before)));
        }
    }
    racer.word(200).fetch_add(won as u64, SeqCst);
    racer.meet();
    assert_eq!(racer.word(200).load(SeqCst), (racer.rounds / BATCH * BATCH) as u64, "each is won once");
}

/// Both hold the same objects and give them up at once, after the name has been taken away or meanwhile.
fn release<A: Allocator>(racer: &mut Racer<A>) {
    const BATCH: usize = 16;
    let names: Vec<_> = (0..BATCH).map(|index| format!("object {index}")).collect();
    for batch in 0..racer.rounds / BATCH {
        let is_maker = batch % 2 == racer.index;
        let first = racer.control.made();
        if is_maker {
            for name in &names {
                let object = racer.arena.alloc(Counted::new(batch as u64)).unwrap();
                racer.arena.publish(name, &ShmemBox::into_arc(object)).unwrap();
            }
        }
        racer.meet();
        let find = |name: &String| racer.arena.find::<Counted>(name).unwrap();
        let mut found: Vec<_> = names.iter().map(find).collect();
        assert!(found.iter().all(|object| object.mark() == batch as u64));
        racer.meet();
        if is_maker {
            match batch % 3 {
                0 => names.iter().for_each(|name| drop(racer.arena.unpublish::<Counted>(name).unwrap())),
                // The name goes last, or in between.
                1 => {
                    for (name, own) in names.iter().zip(found.drain(..)) {
                        drop(own);
                        drop(racer.arena.unpublish::<Counted>(name).unwrap());
                    }
                }
                _ => {
                    for (name, own) in names.iter().zip(found.drain(..)) {
                        let named = racer.arena.unpublish::<Counted>(name).unwrap();
                        drop((own, named));
                    }
                }
            }
        }
        if batch % 3 == 0 {
            racer.meet();
        }
        for (index, object) in found.into_iter().enumerate() {
            drop(object);
            // Found again, as long as it has its name.
            match racer.arena.find::<Counted>(&names[index]) {
                Ok(object) => {
                    assert_eq!(object.mark(), batch as u64);
                    racer.contested(1);
                }
                Err(error) => assert_eq!(error, DirectoryError::NotFound),
            }
            racer.pause();
        }
        racer.meet();
        if is_maker {
            assert!((first..first + BATCH as u64).all(|id| racer.control.is_destroyed(id)), "batch {batch}");
        }
        racer.meet();
    }
}

/// Both publish, unpublish and find under the same few names, as it comes.
fn publish<A: Allocator>(racer: &mut Racer<A>) {
    const NAMES: usize = 4;
    let names: Vec<_> = (0..NAMES).map(|index| format!("name {index}")).collect();
    let mut held: Vec<ShmemArc<Counted>> = Vec::new();
    for _ in 0..racer.rounds {
        let number = racer.random.index(NAMES);
        let (arena, name) = (&racer.arena, &names[number]);
        let is_right = |object: &ShmemArc<Counted>| object.mark() == number as u64;
        match racer.random.below(8) {
            0 | 1 => {
                let object = ShmemBox::into_arc(arena.alloc(Counted::new(number as u64)).unwrap());
                match arena.publish(name, &object) {
                    Ok(()) => assert!(is_right(&object)),
                    Err(error) => {
                        assert_eq!(error, DirectoryError::Taken);
                        racer.contested(1);
                        assert!(!ShmemArc::is_published(&object));
                        // Nobody else has ever seen it.
                        assert_eq!(ShmemArc::into_box(object).unwrap().mark(), number as u64);
                    }
                }
            }
            2 | 3 => match arena.unpublish::<Counted>(name) {
                Ok(object) => {
                    assert!(is_right(&object));
                    held.push(object);
                }
                Err(error) => assert_eq!(error, DirectoryError::NotFound),
            },
            4 | 5 => match arena.find::<Counted>(name) {
                Ok(object) => {
                    assert!(is_right(&object));
                    held.push(object);
                }
                Err(error) => assert_eq!(error, DirectoryError::NotFound),
            },
            6 => {
                let object = arena.find_or_alloc(name, || Counted::new(number as u64)).unwrap();
                assert!(is_right(&object));
            }
            _ => {
                // What has lost its name may get it back, by either of both.
                let Some(object) = held.last() else { continue };
                match arena.publish(&names[object.mark() as usize], object) {
                    Ok(()) | Err(DirectoryError::Taken | DirectoryError::Published) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        if held.len() > 5 {
            let object = held.swap_remove(racer.random.index(5));
            // Now and then somebody is the only one.
            if let Ok(boxed) = ShmemArc::into_box(object) {
                boxed.id();
            }
        }
    }
    drop(held);
    racer.meet();
    if racer.index == 0 {
        for name in &names {
            let _: Result<ShmemArc<Counted>, DirectoryError> = racer.arena.unpublish(name);
        }
    }
}

/// Both find or make the same.
fn find_or_alloc<A: Allocator>(racer: &mut Racer<A>) {
    const BATCH: usize = 40;
    let names: Vec<_> = (0..BATCH).map(|index| format!("common {index}")).collect();
    for batch in 0..racer.rounds / BATCH {
        racer.meet();
        let mut found = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let object = racer.arena.find_or_alloc(name, || Counted::new(index as u64)).unwrap();
            assert_eq!(object.mark(), index as u64);
            racer.word(racer.index * BATCH + index).store(object.id(), SeqCst);
            found.push(object);
            racer.pause();
        }
        racer.meet();
        for (index, name) in names.iter().enumerate() {
            let [one, other] = [index, BATCH + index].map(|word| racer.word(word).load(SeqCst));
            assert_eq!(one, other, "{name} of batch {batch}");
        }
        assert_eq!(racer.control.living(), BATCH as u64, "what the losers made is gone");
        let made = racer.control.made() as usize;
        racer.control.contested.store((made - (batch + 1) * BATCH) as u64, SeqCst);
        racer.meet();
        for (index, (name, object)) in names.iter().zip(found).enumerate() {
            drop(object);
            if (batch + index) % 2 == racer.index {
                drop(racer.arena.unpublish::<Counted>(name).unwrap());
            }
        }
    }
}

/// Both drop objects of all sizes at once: what is left to the next holder of the allocator's lock is not in use.
fn drop_at_once<A: Allocator>(racer: &mut Racer<A>) {
    const BATCH: usize = 50;
    let start = racer.arena.usage().unwrap();
    racer.meet();
    for batch in 0..racer.rounds / BATCH {
        let len = |_| 100 * racer.random.index(20);
        let lens: Vec<_> = (0..BATCH).map(len).collect();
        let objects: Vec<_> = lens.iter().map(|len| racer.arena.alloc_slice(*len, 1_u8).unwrap()).collect();
        racer.meet();
        drop(objects);
        racer.meet();
        if racer.index == 0 {
            let usage = racer.arena.usage().unwrap();
            assert_eq!((usage.blocks, usage.used), (start.blocks, start.used), "batch {batch}");
        }
        racer.meet();
    }
}

/// One looks at all names while the other publishes and unpublishes some.
fn iterate<A: Allocator>(racer: &mut Racer<A>) {
    const STAY: usize = 40;
    const COME: usize = 60;
    let arena = &racer.arena;
    let publish =
        |name: &str| arena.publish(name, &ShmemBox::into_arc(arena.alloc(Counted::new(5)).unwrap()));
    if racer.index == 0 {
        (0..STAY).for_each(|index| publish(&format!("stays {index}")).unwrap());
    }
    racer.meet();
    if racer.index == 0 {
        let mut passes = 0_u64;
        while !racer.control.stop.load(SeqCst) || passes == 0 {
            let mut seen = BTreeSet::new();
            for entry in arena.names() {
                let entry = entry.unwrap();
                let (kind, number) = entry.name().split_once(' ').unwrap();
                let number: usize = number.parse().unwrap();
                assert!(entry.is::<Counted>() && entry.holders() <= 2, "{entry:?}");
                match kind {
                    "stays" => assert!(seen.insert(number) && number < STAY, "{entry:?}"),
                    _ => assert!(kind == "comes" && number < COME, "{entry:?}"),
                }
            }
            assert_eq!(seen.len(), STAY);
            passes += 1;
        }
        racer.meet();
        (0..STAY).for_each(|index| drop(arena.unpublish::<Counted>(&format!("stays {index}")).unwrap()));
        return;
    }
    for _ in 0..racer.rounds {
        let name = format!("comes {}", racer.random.index(COME));
        match publish(&name) {
            Err(DirectoryError::Taken) => drop(arena.unpublish::<Counted>(&name).unwrap()),
            result => result.unwrap(),
        }
    }
    racer.control.stop.store(true, SeqCst);
    for index in 0..COME {
        let _: Result<ShmemArc<Counted>, DirectoryError> = arena.unpublish(&format!("comes {index}"));
    }
    racer.meet();
}

/// Both allocate and free, and let the arena grow now and then.
fn grow<A: Allocator>(racer: &mut Racer<A>) {
    const STEPS: u64 = 1000;
    let mut objects: Vec<Stamped> = Vec::new();
    let mut size = racer.arena.size();
    for _ in 0..racer.rounds {
        if racer.random.below(racer.rounds as u64) < STEPS {
            racer.arena.grow(racer.arena.size() + 4096).unwrap();
        }
        let grown = racer.arena.size();
        assert!(grown >= size, "from {size} to {grown}");
        size = grown;
        match racer.arena.alloc_slice(random_len(&mut racer.random), 0) {
            Ok(bytes) => objects.push(Stamped::stamp(bytes, racer.random.next())),
            Err(AllocError::OutOfMemory { .. }) => {
                let half = objects.len() / 2;
                objects.drain(half..).for_each(|object| object.check());
            }
            Err(error) => panic!("{error:?}"),
        }
        // None is left to the one whose every request is refused because the other one has all memory.
        if !objects.is_empty() && racer.random.below(3) == 0 {
            let object = objects.swap_remove(racer.random.index(objects.len()));
            object.check();
        }
    }
    objects.iter().for_each(Stamped::check);
}

/// Makes the tests of each race, short and long.
macro_rules! races {
    ($($race:literal: $short:ident, $long:ident, $($allocator:ident)*;)*) => { $(
        mod $short {
            use super::*;

            #[test]
            fn as_it_comes() {
                $(two::<$allocator>($race, ROUNDS);)*
            }

            #[test]
            #[ignore = "takes minutes"]
            fn $long() {
                $(two::<$allocator>($race, MANY);)*
            }
        }
    )* };
}

races! {
    "claim": one_handle_is_claimed_once, long_one_handle_is_claimed_once, Tlsf Slab;
    "release": the_last_of_two_releases_destroys, long_the_last_of_two_releases_destroys, Tlsf Slab;
    "publish": names_lead_to_their_objects, long_names_lead_to_their_objects, Tlsf Slab;
    "find-or-alloc": both_find_the_same, long_both_find_the_same, Tlsf Slab;
    "drop": what_both_drop_is_not_in_use, long_what_both_drop_is_not_in_use, Tlsf Slab;
    "iterate": what_stays_is_seen_once, long_what_stays_is_seen_once, Tlsf;
    "grow": what_grows_is_used_at_once, long_what_grows_is_used_at_once, Tlsf;
}

/// Opens a segment together with the others, and takes it for an arena.
fn format_at_once<A: Allocator>(parent: &mut Parent) {
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(control);
    let [index, processes, rounds] = [2, 3, 4].map(|index| parent.argument(index).parse::<usize>().unwrap());
    let name = parent.argument(0).to_owned();
    for round in 0..rounds {
        control.meet(processes);
        let conf = Builder::new(&name).timeout(Duration::from_secs(50)).with_size(SIZE).open().unwrap();
        // Mostly all begin to format at once; otherwise some have it ready by then.
        if round % 4 != 0 {
            control.meet(processes);
        }
        let arena = conf.arena::<A>().unwrap();
        let own = arena.alloc(Counted::new(index as u64)).unwrap();
        let counter = arena.find_or_alloc("counter", || AtomicU64::new(0)).unwrap();
        counter.fetch_add(1, SeqCst);
        control.meet(processes);
        // Nobody's object has been formatted away.
        assert_eq!((counter.load(SeqCst), own.mark()), (processes as u64, index as u64), "round {round}");
        arena.check().unwrap();
        // The counter, its name and the directory's table.
        assert_eq!(arena.usage().unwrap().blocks, processes as u64 + 3, "round {round}");
        assert_eq!(arena.conf().attachment_count() as usize, processes);
        control.meet(processes);
        drop((own, counter));
        if round % 2 == 0 {
            drop(arena.unpublish::<AtomicU64>("counter"));
        }
        drop(arena);
    }
    control.meet(processes);
    drop(alarm);
    parent.say("done");
}

#[track_caller]
fn all_format<A: Allocator>(processes: usize, rounds: usize) {
    let (name, control_name) = (TestName::new("format"), TestName::new("control"));
    let control = Control::open(&control_name);
    let role = format!("format {}", A::NAME);
    let [rounds_text, processes_text] = [rounds, processes].map(|number| number.to_string());
    let spawn = |index: usize| {
        Child::spawn(&role, &[&name, &control_name, &index.to_string(), &processes_text, &rounds_text])
    };
    see_off((0..processes).map(spawn).collect());
    println!(
        "arena_races: rounds {rounds}, lost {}, twice {} (format, {}, {processes} processes)",
        control.living(),
        control.twice(),
        A::NAME,
    );
    assert_eq!((control.living(), control.twice()), (0, 0));
    assert!(!name.exists());
}

#[test]
fn two_processes_format_at_once() {
    all_format::<Tlsf>(2, 300);
    all_format::<Slab>(2, 300);
    all_format::<Bump>(2, 300);
}

#[test]
fn four_processes_format_at_once() {
    all_format::<Tlsf>(4, 200);
    all_format::<Slab>(4, 200);
    all_format::<Bump>(4, 200);
}

#[test]
#[ignore = "takes minutes"]
fn long_four_processes_format_at_once() {
    all_format::<Tlsf>(4, 20_000);
    all_format::<Slab>(4, 20_000);
    all_format::<Bump>(4, 20_000);
}

const STRESS_SIZE: usize = 16 << 20;

/// Allocates, frees and hands over until the time is up.
fn stress<A: Allocator>(parent: &mut Parent) {
    let control = Control::open(parent.argument(1));
    let alarm = Alarm(control);
    let index: usize = parent.argument(2).parse().unwrap();
    let time = Duration::from_millis(parent.argument(3).parse().unwrap());
    let start = Instant::now();
    let mut random = Random::new(index as u64);
    let (mut operations, mut refused) = (0_u64, 0_u64);
    // One that gives memory back only to who is alone is left and opened again whenever it is full.
    loop {
        control.meet(2);
        let arena = open::<A>(parent.argument(0), STRESS_SIZE);
        let mut objects: Vec<Stamped> = Vec::new();
        control.meet(2);
        let mut is_full = false;
        while !is_full && start.elapsed() < time {
            for _ in 0..64 {
                operations += 1;
                match random.below(8) {
                    0..4 => match arena.alloc_slice(random_len(&mut random), 0) {
                        Ok(bytes) => objects.push(Stamped::stamp(bytes, random.next())),
                        Err(AllocError::OutOfMemory { .. }) => {
                            refused += 1;
                            is_full = A::NAME == "bump";
                            objects.truncate(objects.len() / 2);
                        }
                        Err(error) => panic!("{error:?}"),
                    },
                    4 => {
                        if let Some(object) = objects.pop() {
                            objects.extend(control.mailboxes[random.index(16)].send(object));
                        }
                    }
                    5 => objects.extend(control.mailboxes[random.index(16)].receive(&arena)),
                    _ if objects.is_empty() => {}
                    _ => {
                        let object = objects.swap_remove(random.index(objects.len()));
                        object.check();
                    }
                }
                if objects.len() > 500 {
                    let kept = random.index(500);
                    objects.drain(kept..).for_each(|object| object.check());
                }
            }
        }
        objects.iter().for_each(Stamped::check);
        drop(objects);
        control.meet(2);
        if index == 0 {
            let left = || control.mailboxes.iter().find_map(|mailbox| mailbox.receive(&arena));
            std::iter::from_fn(left).for_each(|object| object.check());
            control.stop.store(start.elapsed() >= time, SeqCst);
        }
        control.meet(2);
        drop(arena);
        if control.stop.load(SeqCst) {
            break;
        }
    }
    assert!(refused < operations / 10, "{refused} of {operations} allocations failed");
    control.operations.fetch_add(operations, SeqCst);
    drop(alarm);
    parent.say("done");
}

#[track_caller]
fn allocate_and_free<A: Allocator>(time: Duration) {
    let (name, control_name) = (TestName::new("stress"), TestName::new("control"));
    let control = Control::open(&control_name);
    let start = prepare(&open::<A>(&name, STRESS_SIZE));
    let role = format!("stress {}", A::NAME);
    let time = time.as_millis().to_string();
    see_off(["0", "1"].map(|index| Child::spawn(&role, &[&name, &control_name, index, &time])).into());
    let arena = open::<A>(&name, STRESS_SIZE);
    assert_empty(&arena, &start);
    println!("arena_stress {}: operations {}, corrupt 0", A::NAME, control.operations.load(SeqCst));
    shmem_bind::unlink(&name).unwrap();
}

#[test]
fn two_processes_allocate_and_free() {
    allocate_and_free::<Tlsf>(Duration::from_secs(1));
    allocate_and_free::<Slab>(Duration::from_secs(1));
    allocate_and_free::<Bump>(Duration::from_secs(1));
}

#[test]
#[ignore = "takes minutes"]
fn long_two_processes_allocate_and_free_for_ten_seconds() {
    allocate_and_free::<Tlsf>(Duration::from_secs(10));
    allocate_and_free::<Slab>(Duration::from_secs(10));
    allocate_and_free::<Bump>(Duration::from_secs(10));
}
