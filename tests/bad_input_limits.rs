//! Out of descriptors, out of addresses, out of memory: an error that names the want, nothing lost, and when
//! there is enough again everything works
#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

mod alone;
mod common;

use alone::{Unchanged, Way, refused};
use common::{Child, Parent, TestName};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use shmem_bind::{
    Builder, Errno, MAX_ATTACHMENTS, ReservePolicy, ShmemConf, ShmemError, SizeError, UnlinkPolicy,
};
use std::fs;
use std::os::fd::OwnedFd;

alone::tests! {
    whatever_descriptors_are_left_nothing_is_lost
    a_process_that_began_without_descriptors_is_told_from_the_dead
    without_addresses_there_is_no_segment
    thousands_of_errors_take_no_memory
    a_limit_on_file_sizes_is_not_taken_for_one_of_the_address_space
    a_memfd_beyond_all_memory_is_refused_at_once
    ;
    starved
}

/// Lowers a limit of this process until dropped.
struct Lowered {
    resource: Resource,
    soft: rlim_t,
    hard: rlim_t,
}

impl Lowered {
    fn to(resource: Resource, limit: rlim_t) -> Self {
        let (soft, hard) = getrlimit(resource).unwrap();
        setrlimit(resource, limit, hard).unwrap();
        Self { resource, soft, hard }
    }

    /// Leaves so many descriptors to be opened.
    fn spare_descriptors(spare: usize) -> Self {
        let used: Vec<rlim_t> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            // The descriptor that this listing uses is none that exists.
            .filter(|path| fs::read_link(path).is_ok_and(|file| !file.ends_with("fd")))
            .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
            .collect();
        let first_without = (0..).filter(|fd| !used.contains(fd)).nth(spare).unwrap();
        Self::to(Resource::RLIMIT_NOFILE, first_without)
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        setrlimit(self.resource, self.soft, self.hard).unwrap();
    }
}

const OPEN_FAILED: ShmemError = ShmemError::Os { call: "open", errno: Errno::MFILE };
const MEMFD_FAILED: ShmemError = ShmemError::Os { call: "memfd_create", errno: Errno::MFILE };

/// What is tried, whether its segment exists before, and its error.
type Operation<'a> = (&'a dyn Fn(&str) -> Outcome, bool, ShmemError);
/// What an operation gives, kept until the limit is as before.
type Outcome = Result<Option<(ShmemConf, Option<OwnedFd>)>, ShmemError>;

fn whatever_descriptors_are_left_nothing_is_lost() {
    let way = |way: Way| move |name: &str| way.go(Builder::new(name), 8).map(|conf| Some((conf, None)));
    let create_memfd = |_: &str| Builder::memfd().create(8).map(|(conf, fd)| Some((conf, Some(fd))));
    let unlink = |name: &str| shmem_bind::unlink(name).map(|()| None);
    let operations: &[Operation<'_>] = &[
        (&way(Way::Create), false, OPEN_FAILED),
        (&way(Way::Open), false, OPEN_FAILED),
        (&way(Way::Open), true, OPEN_FAILED),
        (&way(Way::Attach), true, OPEN_FAILED),
        (&way(Way::AttachReadOnly), true, OPEN_FAILED),
        (&unlink, true, OPEN_FAILED),
        (&create_memfd, false, MEMFD_FAILED),
    ];
    for spare in 0..=6 {
        for (number, (operation, exists, error)) in operations.iter().enumerate() {
            let context = &format!("operation {number} with {spare} descriptors");
            let name = TestName::new("descriptors");
            let existing = exists.then(|| Builder::new(&name).with_size(8).create().unwrap());
            let unchanged = Unchanged::snapshot();
            let lowered = Lowered::spare_descriptors(spare);
            let outcome = operation(&name);
            drop(lowered);
            match outcome {
                Ok(_) if spare == 0 => panic!("{context}: opened nothing"),
                Ok(kept) => drop(kept),
                Err(_) => {
                    refused(outcome, *error, &["open files"], context);
                    unchanged.check(context);
                }
            }
            let has_been_unlinked = existing.as_ref().is_some_and(|existing| !existing.is_linked());
            if !has_been_unlinked {
                unchanged.check_resources(context);
                // The next try works.
                drop(operation(&name).unwrap());
            }
            assert_eq!(existing.map_or(1, |existing| existing.attachment_count()), 1, "{context}");
        }
    }
}

/// Meets the crate first without a descriptor, then attaches.
fn starved(parent: &mut Parent) {
    let name = parent.argument(0).to_owned();
    let unchanged = Unchanged::snapshot();
    let lowered = Lowered::spare_descriptors(0);
    let result = Builder::new(&name).attach();
    drop(lowered);
    refused(result, OPEN_FAILED, &[], "starved");
    unchanged.check("starved");
    let _attached = Builder::new(&name).attach().unwrap();
    parent.say("attached");
    parent.hear();
}

fn a_process_that_began_without_descriptors_is_told_from_the_dead() {
    let name = TestName::new("starved");
    let owner = Builder::new(&name).with_size(8).create().unwrap();
    let mut child = Child::spawn("starved", &[&name]);
    child.expect("attached");
    assert_eq!((owner.sweep(), owner.attachment_count()), (0, 2));
    // Nor does a process without descriptors take it for dead.
    let lowered = Lowered::spare_descriptors(0);
    let swept = owner.sweep();
    drop(lowered);
    assert_eq!((swept, owner.attachment_count()), (0, 2));
    child.kill();
    let lowered = Lowered::spare_descriptors(0);
    let swept = owner.sweep();
    drop(lowered);
    assert_eq!((swept, owner.attachment_count()), (1, 1));
    // All places are free again.
    let attach = || Builder::new(&name).attach().unwrap();
    let handles: Vec<_> = (1..MAX_ATTACHMENTS).map(|_| attach()).collect();
    assert_eq!((handles.len(), owner.attachment_count()), (55, 56));
}

const GIB: u64 = 1 << 30;

/// Bytes of address space that this process uses.
fn mapped() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB")).unwrap();
    size.trim().parse::<u64>().unwrap() * 1024
}

fn without_addresses_there_is_no_segment() {
    let name = TestName::new("addresses");
    let existing = TestName::new("addresses-existing");
    let lazy = |name: &str| Builder::new(name).reserve_policy(ReservePolicy::Lazy).with_size(GIB);
    // Left behind by its creator, so that the next opener has the exclusive lock.
    lazy(&existing).unlink_policy(UnlinkPolicy::LastDetach).create().unwrap().leak();
    let unchanged = Unchanged::snapshot();
    let lowered = Lowered::to(Resource::RLIMIT_AS, rlim_t::try_from(mapped() + GIB / 8).unwrap());
    let results = [
        lazy(&name).create(),
        lazy(&name).open(),
        lazy(&existing).open(),
        Builder::new(&existing).attach(),
        Builder::new(&existing).attach_read_only(),
        Builder::memfd().reserve_policy(ReservePolicy::Lazy).create(GIB).map(|(conf, _)| conf),
    ];
    drop(lowered);
    for (number, result) in results.into_iter().enumerate() {
        let keywords = [&*GIB.to_string(), "memory allowed to this process"];
        refused(result, ShmemError::NoSpace { asked: GIB }, &keywords, &format!("request {number}"));
    }
    unchanged.check("addresses");
    assert_eq!(lazy(&existing).open().unwrap().attachment_count(), 1);
    assert_eq!(lazy(&name).create().unwrap().payload_size() as u64, GIB);
}

fn thousands_of_errors_take_no_memory() {
    let name = TestName::new("thousands");
    let existing = Builder::new(&name).mode(0o640).with_size(8).create().unwrap();
    let fd: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    let errors = || {
        for _ in 0..1000 {
            Builder::new("absent/").attach().unwrap_err();
            Builder::new("shmem-bind-test-absent").attach().unwrap_err();
            Builder::new(&name).attach().unwrap_err();
            Builder::new(&name).mode(0o640).with_size(9).open().unwrap_err();
            Builder::memfd().attach(&fd).unwrap_err();
            unsafe { Builder::new(&name).mode(0o640).attach().unwrap().try_boxed::<u128>() }.unwrap_err();
        }
    };
    errors();
    let before = mapped();
    errors();
    assert!(mapped() < before + (128 << 10), "{} bytes have become {}", before, mapped());
    assert_eq!(existing.attachment_count(), 1);
}

fn a_limit_on_file_sizes_is_not_taken_for_one_of_the_address_space() {
    let name = TestName::new("file-size");
    // SAFETY: to ignore a signal runs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let unchanged = Unchanged::snapshot();
    let asked = 1 << 20;
    for reserve in [ReservePolicy::Now, ReservePolicy::Lazy] {
        let sized = Builder::new(&name).reserve_policy(reserve).with_size(asked);
        let lowered = Lowered::to(Resource::RLIMIT_FSIZE, 1 << 16);
        let results = [
            sized.clone().create().unwrap_err(),
            Builder::memfd().reserve_policy(reserve).create(asked).unwrap_err(),
        ];
        drop(lowered);
        unchanged.check("file size");
        for error in results {
            // "Ask for at most so much" is no advice to somebody who asked for less.
            let contradicts_itself =
                matches!(error, ShmemError::Size(SizeError::TooLarge { max }) if asked <= max);
            assert!(!contradicts_itself, "{reserve:?}: {error}");
        }
        drop(sized.create().unwrap());
    }
}

fn a_memfd_beyond_all_memory_is_refused_at_once() {
    // As many bytes as no machine has.
    let asked: u64 = 1 << 50;
    alone::end_before_memory_does();
    let keywords = [&*asked.to_string(), "memory"];
    refused(Builder::memfd().create(asked), ShmemError::NoSpace { asked }, &keywords, "memfd");
}
