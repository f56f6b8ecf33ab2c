//! Every system call of every operation fails, one at a time
//!
//! A child is single-stepped through one operation, and one of its system calls is not made but fails; for each
//! of them in turn, and for several errors. Whatever the operation makes of it: the child has as many
//! descriptors and mappings afterwards as before, no slot stays taken, and the next opener gets a sound
//! segment. Left out are `close` and `munmap`, since one that is not made leaves what it was to take away, and
//! what cannot fail.
#![cfg(target_arch = "x86_64")]

mod alone;
mod common;

use alone::Unchanged;
use common::tracer::{self, Tracer};
use common::{Parent, TestName, path_of};
use nix::errno::Errno;
use shmem_bind::{Builder, MAX_ATTACHMENTS, ShmemConf, ShmemError};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

/// `close`, `munmap`; `sched_yield`, `getpid`, `sysinfo`, `geteuid`, which cannot fail; and what `raise` does that
/// ends the operation: `rt_sigprocmask`, `gettid`, `tgkill`.
const LEFT_OUT: [u64; 9] = [3, 11, 24, 39, 99, 107, 14, 186, 234];
const ERRORS: [Errno; 4] = [Errno::EIO, Errno::EINTR, Errno::ENOMEM, Errno::EPERM];

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("operate", operate)]);
}

/// Runs an operation between two stops, says what came of it, and sees that nothing has been lost.
fn operate(parent: &mut Parent) {
    let (name, operation) = (parent.argument(0).to_owned(), parent.argument(1).to_owned());
    let attach = || Builder::new(&name).attach();
    // The process page is not part of any operation.
    let (_segment, memfd) = Builder::memfd().create(8).unwrap();
    let unchanged = Unchanged::snapshot();
    let mut result: Result<Option<ShmemConf>, ShmemError> = Ok(None);
    let mut traced = |body: &mut dyn FnMut() -> Result<Option<ShmemConf>, ShmemError>| {
        tracer::traced(parent, || result = body());
    };
    match operation.as_str() {
        "create" => traced(&mut || Builder::new(&name).with_size(8).create().map(Some)),
        "open" => traced(&mut || Builder::new(&name).with_size(8).open().map(Some)),
        "attach" => traced(&mut || attach().map(Some)),
        "attach_read_only" => traced(&mut || Builder::new(&name).attach_read_only().map(Some)),
        "unlink" => traced(&mut || shmem_bind::unlink(&name).map(|()| None)),
        "memfd create" => traced(&mut || Ok(Some(Builder::memfd().create(8)?.0))),
        "memfd attach" => traced(&mut || Builder::memfd().attach(&memfd).map(Some)),
        "sweep" => {
            let conf = attach().unwrap();
            traced(&mut || {
                conf.sweep();
                Ok(None)
            });
        }
        "leave as owner" => {
            let mut conf = Some(attach().unwrap());
            conf.as_ref().unwrap().try_own().unwrap();
            traced(&mut || {
                conf = None;
                Ok(None)
            });
        }
        _ => panic!("{operation}"),
    }
    let outcome = result.as_ref().map(|_| ()).map_err(|error| *error);
    drop(result);
    unchanged.check_resources(&operation);
    parent.say(&format!("{outcome:?}"));
    parent.await_line("end");
}

/// What there is under the name before the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A segment that nobody has attached, its owner dead.
    Orphan,
    /// A segment that the test's own process has attached and owns.
    Observed,
}

/// Fails each system call in turn.
fn fail_everywhere(operation: &str, before: Before) {
    tracer::stay_on_one_cpu();
    let (mut calls, mut failed) = (BTreeSet::new(), 0);
    for errno in ERRORS {
        for target in 0.. {
            let name = TestName::new("fail");
            let observer = match before {
                Before::Nothing => None,
                Before::Orphan => {
                    Builder::new(&name).with_size(8).create().unwrap().leak();
                    Tracer::start("operate", &[&name, "leave as owner"]);
                    None
                }
                Before::Observed => Some(Builder::new(&name).with_size(8).create().unwrap()),
            };
            let mut tracer = Tracer::start("operate", &[&name, operation]);
            let Some(number) = fail_call(&tracer, target, errno) else { break };
            tracer.finish_operation();
            tracer.release();
            let outcome = tracer.child().hear();
            let what =
                format!("{operation}, {before:?}: call {target} (number {number}): {errno}: {outcome}");
            if before == Before::Nothing && outcome != "Ok(())" {
                // Before it has the lock, a creator may leave an empty file, which is as good as none.
                let len = name.path().metadata().map_or(0, |file| file.len());
                assert_eq!(len, 0, "{what}: half a segment is left behind");
            }
            check(&name, observer.as_ref(), tracer.child().pid(), &what);
            tracer.child().say("end");
            assert!(tracer.child().wait().success(), "{what}");
            calls.insert(number);
            failed += 1;
        }
    }
    println!("fail_steps {operation}, {before:?}: failed {failed}, different calls {}, lost 0", calls.len());
    assert!(failed >= ERRORS.len());
}

/// Goes to the system call number `target` of the operation and fails it; gives what it was.
fn fail_call(tracer: &Tracer, target: usize, errno: Errno) -> Option<u64> {
    let mut seen = 0;
    loop {
        if let Some(number) = tracer.system_call().filter(|number| !LEFT_OUT.contains(number)) {
            if seen == target {
                tracer.fail_system_call(errno);
                return Some(number);
            }
            seen += 1;
        }
        if !tracer.step() {
            return None;
        }
    }
}

/// The child still lives and holds nothing.
fn check(name: &TestName, observer: Option<&ShmemConf>, child: u32, what: &str) {
    if let Some(observer) = observer {
        assert_eq!(observer.attachment_count(), 1, "{what}");
        assert!(!observer.is_linked() || name.exists(), "{what}");
    }
    assert!(!name.exists() || !tenants(name).contains(&child), "{what}: a slot is taken");
    let next = Builder::new(name).with_size(8).open().unwrap_or_else(|error| panic!("{what}: then {error}"));
    let same = observer.is_some_and(|observer| observer.segment_id() == next.segment_id());
    assert_eq!(next.attachment_count(), 1 + u32::from(same), "{what}");
    next.try_own().unwrap();
    drop(next);
    assert!(!name.exists(), "{what}: the name is left behind");
}

/// The processes that have slots in the segment's table.
fn tenants(name: &TestName) -> Vec<u32> {
    let file = std::fs::File::open(path_of(name)).unwrap();
    let tenant = |slot: u32| {
        let mut tenancy = [0; 8];
        // An unfinished segment may have no table yet.
        file.read_at(&mut tenancy, u64::from(512 + 64 * slot)).unwrap();
        u64::from_ne_bytes(tenancy) as u32 & 0x3f_ffff
    };
    (0..MAX_ATTACHMENTS).map(tenant).collect()
}

macro_rules! failed_everywhere {
    ($($test:ident: $operation:literal, $before:ident;)*) => {
        $(#[test]
        fn $test() {
            fail_everywhere($operation, Before::$before);
        })*
    };
}

failed_everywhere! {
    creating: "create", Nothing;
    opening_what_is_not_there: "open", Nothing;
    opening_an_orphan: "open", Orphan;
    opening_beside_the_owner: "open", Observed;
    attaching: "attach", Observed;
    attaching_read_only: "attach_read_only", Observed;
    unlinking: "unlink", Observed;
    unlinking_an_orphan: "unlink", Orphan;
    creating_a_memfd: "memfd create", Nothing;
    attaching_to_a_memfd: "memfd attach", Nothing;
    sweeping: "sweep", Observed;
    leaving_as_owner: "leave as owner", Observed;
}
