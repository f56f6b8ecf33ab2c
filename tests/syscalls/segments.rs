//! Operations on segments, each in the scenes that lead it to other system calls

use super::expected::{Dead, Effect, os};
use super::operations::*;
use super::sites::Site::*;
use super::stage::{Call, Injection};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use shmem_bind::inspect::Snapshot;
use shmem_bind::{Builder, CopyRegion, ShmemBox, ShmemError, Tlsf, UnlinkPolicy, segments, unlink};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

/// A header that is read without a lock is read once more before it is called unreadable.
fn unlocked(call: Call, errno: Errno) -> Option<Effect> {
    (call.site == Pread && call.nth == 0 && errno != Errno::EINTR).then_some(Effect::Nothing)
}

/// The name is looked at first when the file is locked, then before asking whether it may be removed, then before
/// removing it.
fn removing(call: Call, errno: Errno) -> Option<Effect> {
    match (call.site, call.nth, errno) {
        (StatusAt, 1, Errno::ENOENT) => Some(Effect::Nothing),
        (StatusAt, 2, Errno::ENOENT) => Some(Effect::NameStays),
        _ => unlocked(call, errno),
    }
}

/// As `removing`, where the header is read under the lock.
fn removing_locked(call: Call, errno: Errno) -> Option<Effect> {
    if call.site == Pread { None } else { removing(call, errno) }
}

/// As `removing`, for one who makes the segment anew: what stays is met by the next attempt.
fn removing_to_make_anew(call: Call, errno: Errno) -> Option<Effect> {
    match (call.site, call.nth, errno) {
        (StatusAt, 1, Errno::ENOENT) => Some(Effect::Nothing),
        (Unlink, _, Errno::ENOENT) => Some(Effect::Again),
        // There is nothing any more.
        (OpenCreating, 1.., Errno::EACCES) => Some(Effect::Error(os("open", errno))),
        _ => None,
    }
}

/// A drop tells nobody. What may not be removed stays as an orphan, or for the next one to remove.
pub fn leaving(call: Call, errno: Errno) -> Option<Effect> {
    match (call.site, errno) {
        (StatusAt, Errno::ENOENT) if call.nth == 0 => Some(Effect::Nothing),
        (MayUnlink, Errno::ENOTDIR | Errno::ENOENT) => Some(Effect::Nothing),
        (StatusAt | MayUnlink | Unlink, _) => Some(Effect::NameStays),
        _ => None,
    }
}

const CREATE: Operation = Operation {
    label: "create",
    act: |victim| {
        victim.warm_up();
        // The mode is not what is asked for.
        umask(Mode::from_bits_truncate(0o077));
        victim.opens(|builder| builder.with_size(8).create());
    },
    exists: false,
    ..USUAL
};

const ATTACH: Operation = Operation {
    label: "attach",
    beside: observed,
    act: |victim| {
        victim.warm_up();
        victim.opens(Builder::attach);
    },
    effect: unlocked,
    ..USUAL
};

const OPEN: Operation = Operation {
    label: "open",
    act: |victim| {
        victim.warm_up();
        victim.opens(|builder| builder.with_size(8).open());
    },
    ..USUAL
};

const UNLINK: Operation = Operation {
    label: "unlink",
    beside: observed,
    act: |victim| {
        victim.warm_up();
        victim.run(|| unlink(victim.name).map(|()| (0, ())));
    },
    named: Some(false),
    is_slow: true,
    effect: removing,
    ..USUAL
};

const SWEEP: Operation = Operation {
    label: "sweep",
    beside: observed,
    act: |victim| {
        victim.warm_up();
        victim.with(|segment| Ok(segment.sweep().into()));
    },
    unnoticed: Some(Ok(0)),
    living: 1,
    ..USUAL
};

const FIRST_USE: Operation = Operation {
    label: "the first use in a process",
    beside: observed,
    act: |victim| {
        victim.begin();
        victim.opens(Builder::attach);
    },
    grows: true,
    effect: unlocked,
    ..USUAL
};

pub const ALL: &[Operation] = &[
    CREATE,
    Operation {
        label: "create, with room to grow",
        act: |victim| {
            victim.warm_up();
            victim.opens(|builder| builder.with_size(8).max_size(1 << 20).create());
        },
        asked: 1 << 20,
        // What there is to be had at first is what the one who opens it asks for.
        effect: |call, errno| match (call.site, errno) {
            (OpenCreating, Errno::ENOSPC | Errno::EDQUOT) => {
                Some(Effect::Error(ShmemError::NoSpace { asked: 8 }))
            }
            _ => None,
        },
        ..CREATE
    },
    Operation {
        label: "create, without room",
        act: |victim| {
            victim.warm_up();
            victim.opens(|builder| builder.with_size(20 << 20).create());
        },
        standing: &[(Fallocate, Injection::Fail(Errno::ENOSPC))],
        asked: 20 << 20,
        named: Some(false),
        // The error is the one that led to the clean-up.
        effect: |call, _| match (call.site, call.nth) {
            (Ftruncate, _) => Some(Effect::Nothing),
            (StatusAt, 1) | (Unlink, _) => Some(Effect::NameStays),
            _ => None,
        },
        ..CREATE
    },
    Operation { label: "open, nothing there", exists: false, ..OPEN },
    Operation { label: "open, an orphan", before: orphan, ..OPEN },
    Operation { label: "open, beside the owner", beside: observed, effect: unlocked, ..OPEN },
    Operation {
        label: "open, beside the owner, O_CREAT refused",
        beside: observed,
        standing: &[(OpenCreating, Injection::Fail(Errno::EACCES))],
        effect: unlocked,
        ..OPEN
    },
    Operation {
        label: "open, the owner dead beside others",
        beside: |stage| {
            stage.corpse = Some(stage.dies_while(
                |stage| stage.builder().with_size(8).create().unwrap(),
                |stage| stage.observer = Some(stage.builder().attach().unwrap()),
            ));
        },
        dead: Dead::Zombie,
        // It attaches to what the next one adopts.
        unnoticed: Some(Ok(3 << 8 | 1)),
        effect: unlocked,
        ..OPEN
    },
    Operation {
        label: "open, to be made anew",
        before: orphan_to_make_anew,
        effect: |call, errno| match (call.site, call.nth, errno) {
            (StatusAt, 2, Errno::ENOENT) => Some(Effect::Again),
            _ => removing_to_make_anew(call, errno),
        },
        ..OPEN
    },
    Operation {
        label: "open, half-made",
        before: |stage| stage.die_at(&CREATE, FlockShared, |_| {}),
        ..OPEN
    },
    Operation {
        label: "open, its unlinker dead",
        before: |stage| stage.die_at(&LEAVE, Unlink, |_| {}),
        effect: |call, errno| match (call.site, call.nth, errno) {
            (StatusAt, 1, Errno::ENOENT) => Some(Effect::Again),
            _ => removing_to_make_anew(call, errno),
        },
        ..OPEN
    },
    Operation {
        label: "open, its unlinker dead beside others",
        beside: |stage| {
            stage.die_at(&LEAVE, Unlink, |stage| {
                stage.observer = Some(stage.builder().attach().unwrap());
            });
        },
        dead: Dead::Zombie,
        missed: Effect::Again,
        effect: |call, errno| match (call.site, call.nth, errno) {
            (StatusAt, 1, Errno::ENOENT) => Some(Effect::Again),
            (Pread, _, _) => unlocked(call, errno),
            _ => removing_to_make_anew(call, errno),
        },
        ..OPEN
    },
    OPEN_WHILE_MADE,
    Operation {
        label: "open, while another one makes it for long",
        on_call: |stage, site| {
            if site == Nanosleep {
                stage.held = None;
            }
        },
        only: &[Nanosleep],
        is_patient: true,
        ..OPEN_WHILE_MADE
    },
    ATTACH,
    Operation { label: "attach, an orphan", before: orphan, beside: |_| {}, effect: |_, _| None, ..ATTACH },
    Operation {
        label: "attach_read_only",
        act: |victim| {
            victim.warm_up();
            victim.opens(Builder::attach_read_only);
        },
        ..ATTACH
    },
    UNLINK,
    Operation {
        label: "unlink, an orphan",
        before: orphan,
        beside: |_| {},
        effect: removing_locked,
        ..UNLINK
    },
    Operation {
        label: "unlink, half-made",
        before: |stage| stage.die_at(&CREATE, FlockShared, |_| {}),
        beside: |_| {},
        effect: |call, errno| match (call.site, call.nth, errno) {
            (StatusAt, 1, Errno::ENOENT) => Some(Effect::NameStays),
            _ => None,
        },
        ..UNLINK
    },
    Operation {
        label: "memfd create",
        act: |victim| {
            victim.warm_up();
            let made = victim.run(|| Builder::memfd().create(8).map(|made| (summary(&made.0), made)));
            drop(made);
        },
        exists: false,
        named: Some(false),
        ..USUAL
    },
    MEMFD_ATTACH,
    Operation {
        label: "memfd attach_read_only",
        act: |victim| {
            victim.warm_up();
            let attach = |fd| Builder::memfd().attach_read_only(fd).map(|made| (summary(&made), made));
            victim.run(|| attach(victim.memfd.unwrap()));
        },
        ..MEMFD_ATTACH
    },
    COPY_CREATE,
    Operation {
        label: "copy region create_for_readers",
        act: |victim| {
            victim.begin();
            victim.run(|| CopyRegion::create_for_readers(8).map(|made| (made.0.len() as u64, made)));
        },
        ..COPY_CREATE
    },
    COPY_ATTACH,
    Operation {
        label: "copy region attach_read_only",
        act: |victim| {
            victim.begin();
            let attach = |fd| CopyRegion::attach_read_only(fd).map(|made| (made.len() as u64, made));
            victim.run(|| attach(victim.memfd.unwrap()));
        },
        asked: 4096 + 8,
        ..COPY_ATTACH
    },
    FIXUP,
    SWEEP,
    Operation {
        label: "sweep, one who was reaped",
        at_start: |stage| {
            with_zombie(stage);
            stage.corpse = None;
        },
        dead: Dead::Reaped,
        ..SWEEP
    },
    Operation {
        label: "sweep, one who was reaped, no pidfds",
        at_start: |stage| {
            with_zombie(stage);
            stage.corpse = None;
        },
        standing: NO_PIDFDS,
        dead: Dead::Reaped,
        ..SWEEP
    },
    Operation { label: "sweep, a zombie", at_start: with_zombie, dead: Dead::Zombie, ..SWEEP },
    Operation {
        label: "sweep, one whose number is another's",
        at_start: |stage| forge(stage, |own| own ^ 1 << 43),
        dead: Dead::Replaced,
        ..SWEEP
    },
    Operation {
        label: "sweep, one whose number is a thread's",
        at_start: |stage| forge(stage, |own| own ^ 1 << 43),
        standing: &[(PidfdOther, Injection::Fail(Errno::EINVAL))],
        dead: Dead::Replaced,
        ..SWEEP
    },
    Operation {
        label: "sweep, one whose number is another's by the start time",
        at_start: |stage| forge(stage, |own| by_start_time(own, 1)),
        dead: Dead::Replaced,
        effect: start_times,
        ..SWEEP
    },
    Operation {
        label: "sweep, a living one known by the start time",
        at_start: |stage| forge(stage, |own| by_start_time(own, 0)),
        at_end: spare_is_left_alone,
        ..SWEEP
    },
    Operation {
        label: "sweep, a living one, no pidfds",
        at_start: |stage| forge(stage, |own| by_start_time(own, 0)),
        at_end: spare_is_left_alone,
        standing: NO_PIDFDS,
        ..SWEEP
    },
    Operation {
        label: "try_own",
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().attach().unwrap();
            victim.run(|| Ok((0, segment.try_own()?)));
            segment.leak();
        },
        silent: true,
        ..SWEEP
    },
    Operation {
        label: "boxed",
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().attach().unwrap();
            let boxed = victim.run(|| {
                // SAFETY: a number, whatever it is.
                Ok((0, unsafe { segment.boxed::<u64>() }))
            });
            ShmemBox::leak(boxed.unwrap());
        },
        silent: true,
        ..SWEEP
    },
    LEAVE,
    Operation {
        label: "leave, beside the owner",
        beside: observed,
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().attach().unwrap();
            victim.run(move || {
                drop(segment);
                Ok((0, ()))
            });
        },
        named: Some(true),
        ..LEAVE
    },
    Operation {
        label: "leave, and the name stays",
        act: |victim| {
            victim.warm_up();
            let segment = victim.builder().with_size(8).create().unwrap();
            victim.run(move || {
                segment.leak();
                Ok((0, ()))
            });
        },
        named: Some(true),
        ..LEAVE
    },
    Operation {
        label: "leave, last but for a zombie",
        act: |victim| {
            victim.warm_up();
            let builder = victim.builder().unlink_policy(UnlinkPolicy::LastDetach);
            let segment = builder.with_size(8).create().unwrap();
            victim.run(move || {
                drop(segment);
                Ok((0, ()))
            });
        },
        at_start: with_zombie,
        dead: Dead::Zombie,
        missed: Effect::NameStays,
        ..LEAVE
    },
    Operation {
        label: "segments",
        beside: observed,
        act: |victim| {
            victim.warm_up();
            victim.run(|| Ok((u64::from(segments()?.iter().any(|name| name == victim.name)), ())));
        },
        unnoticed: Some(Ok(0)),
        effect: |call, errno| match (call.site, errno) {
            // The directory was removed while it was open: there is nothing in it.
            (Getdents, Errno::ENOENT) => Some(Effect::Unnoticed),
            // It has gone meanwhile, or is none that this process may read.
            (
                OpenExisting,
                Errno::ENOENT
                | Errno::EACCES
                | Errno::EPERM
                | Errno::ELOOP
                | Errno::EISDIR
                | Errno::ENXIO
                | Errno::ENODEV,
            ) => Some(Effect::Unnoticed),
            (OpenExisting, _) => Some(Effect::Error(os("open", errno))),
            _ => None,
        },
        ..USUAL
    },
    Operation {
        label: "a snapshot",
        beside: observed,
        act: |victim| {
            victim.warm_up();
            victim.run(|| Snapshot::take(victim.name).map(|_| (0, ())));
        },
        effect: |call, errno| match (call.site, errno) {
            // That there is no memory for a copy, and that the name has gone, is what it says then.
            (MapSparse | WipeSparse, _) | (StatusAt, Errno::ENOENT) => Some(Effect::Nothing),
            _ => None,
        },
        ..USUAL
    },
    FIRST_USE,
    Operation { label: "the first use in a process, no pidfds", standing: NO_PIDFDS, ..FIRST_USE },
    Operation {
        label: "the first use in a process, no pidfd of its own",
        standing: &[(PidfdOwn, Injection::Fail(Errno::EMFILE))],
        ..FIRST_USE
    },
    Operation { label: "the first use in a process, old pidfds", standing: OLD_PIDFDS, ..FIRST_USE },
    AFTER_FORK,
    Operation {
        label: "the first use after fork, an old kernel",
        standing: &[(Bar, Injection::Elsewhere)],
        ..AFTER_FORK
    },
];

const OPEN_WHILE_MADE: Operation = Operation {
    label: "open, while another one makes it",
    beside: |stage| {
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o640).open(stage.name.path()).unwrap();
        stage.held = Some(Box::new(Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap()));
    },
    // The first attempt is over.
    on_call: |stage, site| {
        if site == Close {
            stage.held = None;
        }
    },
    effect: unlocked,
    ..OPEN
};

const MEMFD_ATTACH: Operation = Operation {
    label: "memfd attach",
    before: |stage| stage.memfd = Some(Builder::memfd().create(8).unwrap()),
    act: |victim| {
        victim.warm_up();
        let attach = |fd| Builder::memfd().attach(fd).map(|made| (summary(&made), made));
        victim.run(|| attach(victim.memfd.unwrap()));
    },
    named: Some(false),
    ..USUAL
};

const COPY_CREATE: Operation = Operation {
    label: "copy region create",
    act: |victim| {
        victim.begin();
        victim.run(|| CopyRegion::create(8).map(|made| (made.0.len() as u64, made)));
    },
    exists: false,
    named: Some(false),
    ..USUAL
};

const COPY_ATTACH: Operation = Operation {
    label: "copy region attach",
    before: |stage| stage.memfd = Some(Builder::memfd().create(8).unwrap()),
    act: |victim| {
        victim.begin();
        let attach = |fd| CopyRegion::attach(fd).map(|made| (made.len() as u64, made));
        victim.run(|| attach(victim.memfd.unwrap()));
    },
    named: Some(false),
    asked: 4096 + 8,
    ..USUAL
};

/// What a handler of `SIGBUS` does; here, nobody has faulted.
const FIXUP: Operation = Operation {
    label: "sigbus_fixup",
    act: |victim| {
        victim.warm_up();
        let (segment, _fd) = Builder::memfd().create(64 * 1024).unwrap();
        let arena = segment.arena::<Tlsf>().unwrap();
        let object = arena.alloc(5_u64).unwrap();
        let place = (&raw const *object).cast();
        // SAFETY: of any number, any bytes are one.
        victim.run(|| Ok((u64::from(unsafe { shmem_bind::sigbus_fixup(place) }), ())));
        assert!(arena.conf().is_severed());
    },
    exists: false,
    named: Some(false),
    unnoticed: Some(Ok(0)),
    effect: |call, _| match call.site {
        // There are other lengths that a page may have.
        MapBlank if call.nth < 6 => Some(Effect::Nothing),
        _ => None,
    },
    ..USUAL
};

const LEAVE: Operation = Operation {
    label: "leave, as the owner",
    act: |victim| {
        victim.warm_up();
        let segment = victim.builder().with_size(8).create().unwrap();
        victim.run(move || {
            drop(segment);
            Ok((0, ()))
        });
    },
    named: Some(false),
    effect: leaving,
    ..USUAL
};

const AFTER_FORK: Operation = Operation {
    label: "the first use after fork",
    before: |stage| {
        let (segment, _fd) = Builder::memfd().create(64 * 1024).unwrap();
        stage.held = Some(Box::new(segment.arena::<Tlsf>().unwrap()));
    },
    ..FIRST_USE
};

/// Start times are compared only if it is known that all count them alike; before Linux 5.6 all do.
fn start_times(call: Call, errno: Errno) -> Option<Effect> {
    (call.site == OpenProcFile && call.nth == 1 && errno == Errno::ENOENT).then_some(Effect::Nothing)
}
