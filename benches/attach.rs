//! What it costs to attach to an arena, by what is in it and how large it is or may become
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench attach [-- ROUNDS FILTER]`
//!
//! One run attaches to a segment that another handle holds, opens the arena, looks for a name that is not there, and
//! leaves. It is to take the same time whatever is in the arena:
//!
//! - **by objects**: 0 to ten million leaked numbers, in a segment of 1 GiB that takes its memory page by page, so that
//!   they differ in nothing else. Ten million are left out in a short run.
//! - **by size**: 1 MiB to 64 GiB, taken page by page and so as good as empty.
//! - **bare**: what the kernel alone takes to map as much, read a byte, and unmap it. It is not flat: what is large and mapped
//!   apart from all else needs tables of pages of its own.
//! - **by what it may become**: 1 MiB that may grow to as much.
//! - **alone**: by objects again, when nobody else is attached and the first to come looks after everything.
//!
//! The first segment in each table is the smallest, to which the others are compared.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use shmem_bind::{Arena, Builder, DirectoryError, OwnedFd, ReservePolicy, ShmemBox, Tlsf, UnlinkPolicy};
use shmem_bind_benches::{Comparison, Report};
use std::ptr::null_mut;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// By how much others may be slower than the smallest.
const FLAT: f64 = 1.1;

const OBJECTS: [usize; 4] = [0, 1_000, 100_000, 10_000_000];
const SIZES: [(&str, usize); 5] =
    [("1 MiB", MIB), ("64 MiB", 64 * MIB), ("1 GiB", GIB), ("8 GiB", 8 * GIB), ("64 GiB", 64 * GIB)];
/// Of fewer rounds, a run is a short one.
const SHORT: usize = 10;

/// A segment, what holds it, and what it is called in the table.
struct Segment {
    label: String,
    fd: OwnedFd,
    /// `None` if nobody is attached between runs.
    holder: Option<Arena<Tlsf>>,
    objects: usize,
}

impl Segment {
    fn new(label: String, builder: shmem_bind::MemfdBuilder, size: usize) -> Self {
        // The policy says nothing of memory without a name, but that of a segment that is left alone.
        let builder = builder.reserve_policy(ReservePolicy::Lazy).unlink_policy(UnlinkPolicy::Never);
        let (conf, fd) = builder.create(size).unwrap();
        Self { label, fd, holder: Some(conf.arena().unwrap()), objects: 0 }
    }

    /// With so many numbers, all leaked.
    fn filled(self, objects: usize) -> Self {
        let arena = self.holder.as_ref().unwrap();
        for number in 0..objects as u64 {
            // Its handle goes to nobody.
            let _ = ShmemBox::leak(arena.alloc(number).unwrap());
        }
        Self { objects, ..self }
    }

    /// Leaves it alone.
    fn left(self) -> Self {
        Self { holder: None, ..self }
    }

    fn attach(&self) -> Arena<Tlsf> {
        Builder::memfd().attach(&self.fd).unwrap().arena().unwrap()
    }

    /// What is timed.
    fn visit(&self) {
        let arena = self.attach();
        assert_eq!(arena.find::<u64>("nothing").unwrap_err(), DirectoryError::NotFound);
    }

    /// That the visits have changed nothing.
    fn check(&self) {
        let arena = self.attach();
        assert_eq!(arena.usage().unwrap().blocks, self.objects as u64, "{}", self.label);
        assert_eq!(arena.conf().attachment_count(), 1 + u32::from(self.holder.is_some()), "{}", self.label);
    }
}

/// Compares visits to segments with that to the first.
fn compare(report: &mut Report, title: &str, segments: impl FnOnce() -> Vec<Segment>) {
    if !report.wants(title) {
        return;
    }
    let segments = segments();
    let mut comparison = Comparison::new(title);
    for segment in &segments {
        comparison = comparison.with(&segment.label, || segment.visit());
    }
    for segment in segments.iter().skip(1) {
        comparison = comparison.goal(&segment.label, FLAT, &[&segments[0].label]);
    }
    report.compare(comparison);
    segments.iter().for_each(Segment::check);
}

/// Maps memory, reads a byte, and unmaps it.
fn bare_visit(fd: &OwnedFd, size: usize) {
    // SAFETY: a fresh mapping, where the kernel likes it.
    let base = unsafe { mmap(null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0) };
    let base = base.unwrap();
    // SAFETY: mapped just now, and there is a page, or zeros.
    unsafe { base.cast::<u8>().read_volatile() };
    // SAFETY: it is not used after.
    unsafe { munmap(base, size) }.unwrap();
}

fn bare_by_size(report: &mut Report) {
    let mut comparison = Comparison::new("bare: map, read a byte, unmap: by size");
    for (label, size) in SIZES {
        let fd = memfd_create("shmem-bind-bench", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, size as u64).unwrap();
        comparison = comparison.with(label, move || bare_visit(&fd, size));
    }
    report.compare(comparison);
}

fn by_objects(numbers: &[usize]) -> impl Iterator<Item = Segment> {
    let label = |objects| if objects == 1 { "1 object".into() } else { format!("{objects} objects") };
    numbers.iter().map(move |&objects| Segment::new(label(objects), Builder::memfd(), GIB).filled(objects))
}

fn main() {
    let mut report = Report::new("attach", 101);
    let is_short = report.rounds() < SHORT;
    let numbers = if is_short { &OBJECTS[..OBJECTS.len() - 1] } else { &OBJECTS[..] };
    if is_short {
        println!("{} objects do not take part in less than {SHORT} rounds", OBJECTS[OBJECTS.len() - 1]);
    }

    compare(&mut report, "attach, find nothing, leave: by objects", || by_objects(numbers).collect());
    compare(&mut report, "attach, find nothing, leave: by size", || {
        SIZES.map(|(label, size)| Segment::new(label.into(), Builder::memfd(), size)).into()
    });
    bare_by_size(&mut report);
    compare(&mut report, "attach, find nothing, leave: by what it may become", || {
        SIZES
            .map(|(label, size)| {
                Segment::new(format!("1 MiB of {label}"), Builder::memfd().max_size(size), MIB)
            })
            .into()
    });
    compare(&mut report, "attach, find nothing, leave: alone, by objects", || {
        by_objects(numbers).map(Segment::left).collect()
    });
    report.finish();
}
