//! What it costs to find an object by its name, among many
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench names [-- ROUNDS FILTER]`
//!
//! A hundred, ten thousand and a hundred thousand numbers have names of 14 to 30 bytes, and are asked for in a random
//! order; each contestant has an order of its own, so that none warms the names up for the next.
//!
//! | contestant | finding | publishing, unpublishing |
//! |---|---|---|
//! | shmem-bind | `find` and the drop of the reference: robust lock, hash table, a count for the process | `publish`, `unpublish` of an object that is there |
//! | HashMap | `get` of a `hashbrown::HashMap<String, u64>`: one thread of one process, no lock, no count | `insert`, `remove` |
//! | RwLock, HashMap, Arc | what one would write for several threads: a lock of parking_lot, a clone of an `Arc` and its drop | `insert`, `remove` under the lock |
//! | Boost | `find` in a `managed_shared_memory`: an ordered tree behind its lock | `construct`, `destroy` |
//! | Boost, hash | the same with Boost's other index of names, a hash table | the same |

use hashbrown::HashMap;
use parking_lot::RwLock;
use shmem_bind::{Arena, Builder, DirectoryError, ShmemArc, ShmemBox, Tlsf};
#[cfg(boost)]
use shmem_bind_benches::Scratch;
use shmem_bind_benches::{Comparison, Report};
use std::ffi::CString;
use std::hint::black_box;
use std::sync::Arc;

/// How much memory a name may take, with its object, for any of the contestants.
const SHARE: usize = 512;
const BASE: usize = 1 << 20;

/// A name, as Rust and as C have it.
struct Name {
    string: String,
    #[cfg_attr(not(boost), expect(dead_code, reason = "for Boost"))]
    zero_ended: CString,
}

impl Name {
    fn new(string: String) -> Self {
        Self { zero_ended: CString::new(string.as_str()).unwrap(), string }
    }

    /// Of number `number`, the same for all.
    fn numbered(number: u64) -> Self {
        let kind = ["in", "out/temperature", "queue", "state"][number as usize % 4];
        Self::new(format!("sensor/{number:05x}/{kind}"))
    }
}

/// Names in a random order, with their numbers, again and again.
struct Order<'a> {
    names: Vec<(u64, &'a Name)>,
    next: usize,
}

impl<'a> Order<'a> {
    fn new(names: &'a [Name], seed: u64) -> Self {
        let mut names: Vec<_> = (0..).zip(names).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut names);
        Self { names, next: 0 }
    }

    fn next(&mut self) -> (u64, &'a Name) {
        let next = self.names[self.next];
        self.next = if self.next + 1 == self.names.len() { 0 } else { self.next + 1 };
        next
    }
}

/// Something that has numbers by their names.
trait Directory {
    fn publish(&self, name: &Name, value: u64);
    fn find(&self, name: &Name) -> Option<u64>;
    fn unpublish(&self, name: &Name);
}

/// Of this crate.
struct Ours {
    arena: Arena<Tlsf>,
    /// What is published and unpublished again and again.
    spare: ShmemArc<u64>,
}

impl Ours {
    fn new(len: usize) -> Self {
        let arena: Arena<Tlsf> = Builder::memfd().create(len).unwrap().0.arena().unwrap();
        let spare = ShmemBox::into_arc(arena.alloc(SPARE).unwrap());
        Self { arena, spare }
    }
}

/// The number that comes and goes.
const SPARE: u64 = u64::MAX;

impl Directory for Ours {
    fn publish(&self, name: &Name, value: u64) {
        if value == SPARE {
            self.arena.publish(&name.string, &self.spare).unwrap();
        } else {
            let object = ShmemBox::into_arc(self.arena.alloc(value).unwrap());
            self.arena.publish(&name.string, &object).unwrap();
        }
    }

    #[inline]
    fn find(&self, name: &Name) -> Option<u64> {
        match self.arena.find::<u64>(&name.string) {
            Ok(found) => Some(*found),
            Err(DirectoryError::NotFound) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn unpublish(&self, name: &Name) {
        drop(self.arena.unpublish::<u64>(&name.string).unwrap());
    }
}

/// Not shared at all.
struct Map(std::cell::RefCell<HashMap<String, u64>>);

impl Directory for Map {
    fn publish(&self, name: &Name, value: u64) {
        assert_eq!(self.0.borrow_mut().insert(name.string.clone(), value), None);
    }

    #[inline]
    fn find(&self, name: &Name) -> Option<u64> {
        self.0.borrow().get(&name.string).copied()
    }

    fn unpublish(&self, name: &Name) {
        assert!(self.0.borrow_mut().remove(&name.string).is_some());
    }
}

/// Shared by threads.
struct Locked(RwLock<HashMap<String, Arc<u64>>>);

impl Directory for Locked {
    fn publish(&self, name: &Name, value: u64) {
        assert_eq!(self.0.write().insert(name.string.clone(), Arc::new(value)), None);
    }

    #[inline]
    fn find(&self, name: &Name) -> Option<u64> {
        let found = self.0.read().get(&name.string).map(Arc::clone);
        found.map(|found| *black_box(found))
    }

    fn unpublish(&self, name: &Name) {
        assert!(self.0.write().remove(&name.string).is_some());
    }
}

#[cfg(boost)]
mod boost {
    use super::{Directory, Name};
    use std::ffi::{CString, c_char, c_int, c_void};

    /// A segment of one kind.
    pub struct Segment {
        segment: *mut c_void,
        functions: Functions,
    }

    struct Functions {
        publish: unsafe extern "C" fn(*mut c_void, *const c_char, u64) -> c_int,
        find: unsafe extern "C" fn(*mut c_void, *const c_char) -> *const u64,
        unpublish: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
        drop: unsafe extern "C" fn(*mut c_void),
    }

    unsafe extern "C" {
        fn boost_tree_create(name: *const c_char, len: usize) -> *mut c_void;
        fn boost_tree_publish(segment: *mut c_void, name: *const c_char, value: u64) -> c_int;
        fn boost_tree_find(segment: *mut c_void, name: *const c_char) -> *const u64;
        fn boost_tree_unpublish(segment: *mut c_void, name: *const c_char) -> c_int;
        fn boost_tree_drop(segment: *mut c_void);
        fn boost_hash_create(name: *const c_char, len: usize) -> *mut c_void;
        fn boost_hash_publish(segment: *mut c_void, name: *const c_char, value: u64) -> c_int;
        fn boost_hash_find(segment: *mut c_void, name: *const c_char) -> *const u64;
        fn boost_hash_unpublish(segment: *mut c_void, name: *const c_char) -> c_int;
        fn boost_hash_drop(segment: *mut c_void);
    }

    const TREE: Functions = Functions {
        publish: boost_tree_publish,
        find: boost_tree_find,
        unpublish: boost_tree_unpublish,
        drop: boost_tree_drop,
    };
    const HASH: Functions = Functions {
        publish: boost_hash_publish,
        find: boost_hash_find,
        unpublish: boost_hash_unpublish,
        drop: boost_hash_drop,
    };

    impl Segment {
        pub fn tree(name: &CString, len: usize) -> Self {
            // SAFETY: a string with a zero at its end.
            Self::new(unsafe { boost_tree_create(name.as_ptr(), len) }, TREE)
        }

        pub fn hash(name: &CString, len: usize) -> Self {
            // SAFETY: as above.
            Self::new(unsafe { boost_hash_create(name.as_ptr(), len) }, HASH)
        }

        fn new(segment: *mut c_void, functions: Functions) -> Self {
            assert!(!segment.is_null(), "Boost has failed");
            Self { segment, functions }
        }
    }

    impl Directory for Segment {
        fn publish(&self, name: &Name, value: u64) {
            // SAFETY: a segment of this kind, and a string with a zero at its end.
            let result = unsafe { (self.functions.publish)(self.segment, name.zero_ended.as_ptr(), value) };
            assert_eq!(result, 0, "Boost has failed");
        }

        #[inline]
        fn find(&self, name: &Name) -> Option<u64> {
            // SAFETY: as above.
            let found = unsafe { (self.functions.find)(self.segment, name.zero_ended.as_ptr()) };
            // SAFETY: if there is one, it stays until it is unpublished, and nobody writes to it.
            unsafe { found.as_ref() }.copied()
        }

        fn unpublish(&self, name: &Name) {
            // SAFETY: as above.
            let result = unsafe { (self.functions.unpublish)(self.segment, name.zero_ended.as_ptr()) };
            assert_eq!(result, 0, "Boost has failed");
        }
    }

    impl Drop for Segment {
        fn drop(&mut self) {
            // SAFETY: a segment of this kind, which is not used again.
            unsafe { (self.functions.drop)(self.segment) };
        }
    }
}

/// What they are called in the tables.
const OURS: &str = "shmem-bind";
const MAP: &str = "HashMap";
const LOCKED: &str = "RwLock, HashMap, Arc";
const BOOST: &str = "Boost";
#[cfg(boost)]
const BOOST_HASH: &str = "Boost, hash";

/// All that take part, with so much memory.
fn directories(len: usize) -> Vec<(&'static str, Box<dyn Directory>)> {
    let locked = Locked(RwLock::default());
    #[cfg_attr(not(boost), expect(unused_mut, reason = "there are no more"))]
    let mut all: Vec<(_, Box<dyn Directory>)> = vec![
        (OURS, Box::new(Ours::new(len))),
        (MAP, Box::new(Map(Default::default()))),
        (LOCKED, Box::new(locked)),
    ];
    #[cfg(boost)]
    {
        let scratch = Scratch::new();
        let name = CString::new(scratch.name("names")).unwrap();
        all.push((BOOST, Box::new(boost::Segment::tree(&name, len))));
        all.push((BOOST_HASH, Box::new(boost::Segment::hash(&name, len))));
    }
    all
}

/// A comparison of what `run` does with each directory, and its own order of names.
fn compare<'a>(
    title: String,
    directories: &'a [(&'static str, Box<dyn Directory>)],
    names: &'a [Name],
    run: impl Fn(&dyn Directory, (u64, &Name)) + Copy + 'a,
) -> Comparison<'a> {
    let mut comparison = Comparison::new(title);
    for (seed, (name, directory)) in (1..).zip(directories) {
        let mut order = Order::new(names, seed);
        comparison = comparison.with(*name, move || run(&**directory, order.next()));
    }
    comparison
}

fn all_of(report: &mut Report, number: u64) {
    let find = format!("find one of {number} names");
    let miss = format!("find none among {number} names");
    let publish = format!("publish, unpublish beside {number} names");
    if ![&find, &miss, &publish].iter().any(|title| report.wants(title)) {
        return;
    }
    // Every other one is published.
    let (names, others): (Vec<_>, Vec<_>) = (0..2 * number)
        .map(|number| (number, Name::numbered(number)))
        .partition(|(number, _)| number % 2 == 0);
    let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    let others: Vec<_> = others.into_iter().map(|(_, name)| name).collect();
    let directories = directories(BASE + SHARE * number as usize);
    for (_, directory) in &directories {
        (0..).zip(&names).for_each(|(number, name)| directory.publish(name, number));
    }

    let mut comparison = compare(find, &directories, &names, |directory, (number, name)| {
        assert_eq!(directory.find(black_box(name)), Some(number));
    });
    if number == 100_000 {
        comparison = comparison.goal(OURS, 1.0 / 15.0, &[BOOST]).goal(OURS, 2.0, &[MAP]);
    }
    report.compare(comparison.counted());
    report.compare(compare(miss, &directories, &others, |directory, (_, name)| {
        assert_eq!(directory.find(black_box(name)), None);
    }));
    report.compare(compare(publish, &directories, &others, |directory, (_, name)| {
        directory.publish(black_box(name), SPARE);
        directory.unpublish(name);
    }));

    // All have what they had.
    for (name, directory) in &directories {
        let is_found = |(number, name): (u64, &Name)| directory.find(name) == Some(number);
        assert!((0..).zip(&names).all(is_found), "{name}");
        assert!(others.iter().all(|other| directory.find(other).is_none()), "{name}");
    }
}

fn main() {
    let mut report = Report::new("names", 51);
    if !cfg!(boost) {
        println!("Boost.Interprocess does not take part: there were no headers when this was built");
    }
    for number in [100, 10_000, 100_000] {
        all_of(&mut report, number);
    }
    report.finish();
}
