//! What memory an object takes beside its own, and how well a heap can be filled
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench memory [-- --build]`
//!
//! | measure | how |
//! |---|---|
//! | bytes beside an object | 16 MiB are filled with objects of one size: what each has of them, less its size |
//! | filled before the first failure | 16 to 512 bytes at random; of three steps two allocate and one frees, any of those alive |
//! | largest piece after churn | kept half full with 16 to 512 bytes, while 100,000 objects are replaced |
//!
//! Everything counts that an allocator keeps in its heap; of this crate also an arena, with the segment's header and all
//! else. The last two, of heaps of 1 and 16 MiB, are medians of [`SEEDS`] runs, in percent of the heap; "full" is by the sizes that were asked for.
//! None of this is a matter of time, so one run is enough.
//!
//! With `--build`, also how long it takes to build the crate anew with what it depends on, once they have been downloaded.
//! If there is an example without libc, also how large that is.

use fastrand::Rng;
use shmem_bind::{Arena, Builder, Bump, RegionAllocator, Slab, Tlsf};
use shmem_bind_benches::heaps::{self, AnyHeap, Place, Sizes, Who};
use shmem_bind_benches::plot::{self, Bar, Group};
use shmem_bind_benches::{counts, median};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

const WHO: [Who; 6] = [Who::Rlsf, Who::Talc, Who::Boost, Who::Bump, Who::Slab, Who::Tlsf];
const LENS: [usize; 8] = [16, 32, 64, 100, 256, 512, 1000, 4000];
const SIZES: Sizes = Sizes::new(16..=512);
const LARGE: usize = 16 << 20;
const SMALL: usize = 1 << 20;
/// Runs with different random numbers.
const SEEDS: u64 = 9;
/// What stands in each object, and must stand there still when it goes.
const MARK: u64 = 0x5eed;
/// Bytes of a segment before its payload.
const SEGMENT_HEADER: usize = shmem_bind::HEADER_LEN;

fn main() {
    if counts::asked().is_some() {
        return;
    }
    heaps::announce_absent();
    let mut groups = vec![];
    for len in LENS {
        let mut bars = measure(|who| Some(bytes_beside(&*who.heap(LARGE)?, len)), "bytes");
        bars.push(bar("shmem-bind Slab, in an arena", bytes_in_arena::<Slab>(len), "bytes"));
        bars.push(bar("shmem-bind Tlsf, in an arena", bytes_in_arena::<Tlsf>(len), "bytes"));
        bars.push(bar("shmem-bind Bump, in an arena", bytes_in_arena::<Bump>(len), "bytes"));
        groups.push(group(format!("bytes beside an object of {len} bytes"), bars));
    }
    for len in [SMALL, LARGE] {
        let mib = len >> 20;
        let filled = |who: Who| median_of(|random| Some(fill(&*who.heap(len)?, len, random)));
        let title = format!("filled before the first failure, {SIZES}, of {mib} MiB");
        groups.push(group(title, measure(filled, "%")));
        let largest = |who: Who| match who {
            // Nothing of it is free again before it is opened alone.
            Who::Bump => None,
            _ => median_of(|random| Some(largest_after_churn(&*who.heap(len)?, len, random))),
        };
        let mut bars = measure(largest, "%");
        for bar in bars.iter_mut().filter(|bar| bar.value == 0.0) {
            bar.text = "not even half of it could be filled".into();
        }
        groups.push(group(format!("largest piece after churn in {mib} MiB half full, {SIZES}"), bars));
    }
    plot::announce(plot::bars("memory", &groups));

    if env::args().any(|argument| argument == "--build") {
        build_time();
    }
    code_size();
}

/// A figure of each contestant that takes part.
fn measure(figure: impl Fn(Who) -> Option<f64>, unit: &str) -> Vec<Bar> {
    WHO.into_iter().filter_map(|who| Some(bar(who.name(), figure(who)?, unit))).collect()
}

fn bar(name: &str, value: f64, unit: &str) -> Bar {
    let is_ours = name.contains("shmem-bind");
    Bar { name: name.into(), value, text: format!("{value:.1} {unit}"), is_ours }
}

/// Prints it too.
fn group(title: impl Into<String>, bars: Vec<Bar>) -> Group {
    let title = title.into();
    println!("\n{title}");
    for bar in &bars {
        println!("  {:<36} {:>14}", bar.name, bar.text);
    }
    Group { title, bars }
}

fn median_of(mut figure: impl FnMut(&mut Rng) -> Option<f64>) -> Option<f64> {
    Some(median((0..SEEDS).map(|seed| figure(&mut Rng::with_seed(seed))).collect::<Option<_>>()?))
}

/// Of each object of `len` bytes, when there is no place for another one.
fn bytes_beside(heap: &dyn AnyHeap, len: usize) -> f64 {
    let places: Vec<_> = std::iter::from_fn(|| heap.allocate(len, MARK)).collect();
    let all = places.len();
    places.into_iter().for_each(|place| free(heap, (place, len)));
    heap.check();
    LARGE as f64 / all as f64 - len as f64
}

/// The same, of boxes.
fn bytes_in_arena<A: RegionAllocator>(len: usize) -> f64 {
    let (conf, _fd) = Builder::memfd().create(LARGE).unwrap();
    let arena: Arena<A> = conf.arena().unwrap();
    let all = std::iter::from_fn(|| arena.alloc_slice(len, 0_u8).ok()).collect::<Vec<_>>().len();
    (LARGE + SEGMENT_HEADER) as f64 / all as f64 - len as f64
}

fn free(heap: &dyn AnyHeap, (place, len): (Place, usize)) {
    assert_eq!(heap.read(place), MARK, "another one has written here");
    heap.free(place, len);
}

/// Takes away one of them, any.
fn free_any(heap: &dyn AnyHeap, objects: &mut Vec<(Place, usize)>, random: &mut Rng) -> usize {
    let object = objects.swap_remove(random.usize(..objects.len()));
    free(heap, object);
    object.1
}

/// How many percent of the heap are in use by objects when one does not fit for the first time.
fn fill(heap: &dyn AnyHeap, heap_len: usize, random: &mut Rng) -> f64 {
    let (mut objects, mut used) = (Vec::new(), 0);
    loop {
        if random.u32(..3) == 0 && !objects.is_empty() {
            used -= free_any(heap, &mut objects, random);
            continue;
        }
        let len = SIZES.random(random);
        let Some(place) = heap.allocate(len, MARK) else { break };
        objects.push((place, len));
        used += len;
    }
    objects.into_iter().for_each(|object| free(heap, object));
    heap.check();
    100.0 * used as f64 / heap_len as f64
}

/// How many percent of the heap one object can have, when half of it has been in use by others for a while; 0 if these
/// do not fit.
fn largest_after_churn(heap: &dyn AnyHeap, heap_len: usize, random: &mut Rng) -> f64 {
    let (mut objects, mut used) = (Vec::new(), 0);
    let mut replaced = 0;
    while replaced < 100_000 {
        while used < heap_len / 2 {
            let len = SIZES.random(random);
            let Some(place) = heap.allocate(len, MARK) else { return 0.0 };
            objects.push((place, len));
            used += len;
        }
        used -= free_any(heap, &mut objects, random);
        replaced += 1;
    }
    // Most that fits is at least the first, and less than the second.
    let (mut fits, mut fails) = (0, heap_len);
    while fails - fits > 16 {
        let len = (fits + fails) / 2;
        match heap.allocate(len, MARK) {
            Some(place) => {
                free(heap, (place, len));
                fits = len;
            }
            None => fails = len,
        }
    }
    objects.into_iter().for_each(|object| free(heap, object));
    heap.check();
    100.0 * fits as f64 / heap_len as f64
}

/// Prints how long it takes to build the crate with nothing there.
fn build_time() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("build-{}", std::process::id()));
    let start = Instant::now();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--release", "--quiet", "--offline", "--manifest-path"]).arg(manifest);
    let status = cargo.arg("--target-dir").arg(&target).status();
    let time = start.elapsed().as_secs_f64();
    let _ = fs::remove_dir_all(&target);
    match status {
        Ok(status) if status.success() => println!("\nclean build, release: {time:.1} s"),
        Ok(status) => println!("\nno build time: cargo has failed, {status}"),
        Err(error) => println!("\nno build time: {error}"),
    }
}

/// Prints how large the example is that does without libc, if there is one and it has been built.
fn code_size() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/no-libc/target/release/no-libc");
    if let Ok(metadata) = fs::metadata(example) {
        println!("\na static program without libc: {} KiB", metadata.len() >> 10);
    }
}
