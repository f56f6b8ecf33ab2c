//! Scenes that need root: PIDs that are used again, other namespaces, no `/proc`

use super::scenes::{self, proc_path};
use super::{Court, Held, Kind, READY, Stage, Victim, WAYS, Way};
use crate::common::campaign::Forked;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// How many processes have one PID, one after the other, and have not been noticed to be dead.
const INCARNATIONS: u32 = 20;
/// How often a container is started again, at most, until it has the number of one before.
const RESTARTS: u64 = 50;
/// Two processes that start so far apart have different start times, which the kernel tells in hundredths of a second.
const TICKS: Duration = Duration::from_millis(25);

fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// Mounts a new file system of this sort.
fn mount_new(sort: &str, place: &str) {
    mount(Some(sort), place, Some(sort), MsFlags::empty(), None::<&str>).unwrap();
}

/// Puts nothing in the place of `/proc`. The scenes themselves look elsewhere.
fn hide_proc() {
    own_mounts();
    let none = None::<&str>;
    mount_new("tmpfs", scenes::HIDDEN_PROC);
    mount(Some("/proc"), scenes::HIDDEN_PROC, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
    mount_new("tmpfs", "/proc");
    assert_eq!(fs::read_dir("/proc").unwrap().count(), 0);
}

/// What is in `/proc` for the processes of a new PID namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proc {
    /// What was there: processes by their numbers in another namespace.
    Foreign,
    Own,
    Hidden,
}

/// Acts as the first process of a PID namespace.
fn in_pid_namespace(proc: Proc, act: impl FnOnce()) {
    unshare(CloneFlags::CLONE_NEWPID).unwrap();
    Forked::spawn(|| {
        if proc != Proc::Foreign {
            own_mounts();
            mount_new("proc", "/proc");
        }
        if proc == Proc::Hidden {
            hide_proc();
        }
        assert_eq!(std::process::id(), 1);
        act();
    })
    .finish();
}

/// Makes the next process, or thread, of this PID namespace have this number.
fn next_is(pid: Pid) {
    fs::write(proc_path("sys/kernel/ns_last_pid"), (pid.as_raw() - 1).to_string()).unwrap();
}

/// Forks a process that has the number of one that is dead.
fn fork_as(pid: Pid, fork: impl FnOnce() -> Victim) -> Victim {
    next_is(pid);
    let victim = fork();
    assert_eq!(victim.process.pid(), pid, "somebody else forks in this namespace");
    victim
}

/// Forks a process that has nothing to do with the segment.
fn fork_stranger() -> Victim {
    Victim::fork(|mut line| _ = line.read(&mut [0]))
}

/// No pidfds can be had from here on, as in containers of old.
fn filter_pidfds() {
    let [load, is_equal, give] = [
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    ];
    let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut steps = [
        // The number of the system call is what its description begins with.
        step(load, 0, 0),
        step(is_equal, 1, libc::SYS_pidfd_open as u32),
        step(give, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(give, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(done, 0);
    assert_eq!(unsafe { libc::syscall(libc::SYS_pidfd_open, Pid::this().as_raw(), 0) }, -1);
}

impl<'a, K: Kind> Stage<'a, K> {
    /// Forks a victim that does something before it attaches.
    fn spawn_after(&self, prepare: impl FnOnce()) -> Victim {
        let number = self.number();
        let victim = Victim::fork(|line| {
            prepare();
            self.hold(number, line, Held::obey);
        });
        self.is_attached(&victim);
        victim
    }

    /// Starts a PID namespace, whose first process attaches and then acts.
    fn contain(&self, act: impl FnOnce(Held<'a, K>, UnixStream)) -> Container {
        let number = self.number();
        let outer = Victim::fork(|mut line| {
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            let (mut gate, mut opener) = UnixStream::pair().unwrap();
            let mut first = Forked::spawn(|| {
                gate.read_exact(&mut [0]).unwrap();
                self.hold(number, line.try_clone().unwrap(), act);
            });
            // Who it is comes first on the line.
            line.write_all(&(first.pid().as_raw() as u32).to_ne_bytes()).unwrap();
            opener.write_all(b"g").unwrap();
            first.reap();
        });
        let first = Pid::from_raw(outer.hear_number() as i32);
        outer.await_byte(READY);
        self.comes();
        Container { outer, first }
    }

    /// So many have died, as somebody who has come meanwhile, and owns the segment, should have noticed.
    #[track_caller]
    fn were_dead(&self, what: &str, swept: u64, count: u32) {
        self.judge(what, swept, count, self.asker.conf().owner_pid().is_some(), false);
    }

    fn swept(&self) -> u64 {
        self.asker.state().swept
    }
}

/// A PID namespace.
struct Container {
    outer: Victim,
    /// The number of its first process out here.
    first: Pid,
}

impl Container {
    /// The number of the namespace, which another one may get when it is gone.
    fn namespace(&self) -> u64 {
        fs::metadata(proc_path(&format!("{}/ns/pid", self.first))).unwrap().ino()
    }

    /// Kills all its processes, and waits until they are gone.
    fn kill(self) {
        kill(self.first, Signal::SIGKILL).unwrap();
        self.outer.process.finish();
    }
}

pub fn other_network<K: Kind>(court: &Court, name: &str) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    scenes::routine::<K>(court, name);
}

pub fn no_proc<K: Kind>(court: &Court, name: &str) {
    hide_proc();
    scenes::routine::<K>(court, name);
}

pub fn no_proc_fork<K: Kind>(court: &Court, name: &str) {
    hide_proc();
    scenes::fork::<K>(court, name);
}

pub fn no_proc_exec<K: Kind>(court: &Court, name: &str) {
    hide_proc();
    scenes::exec::<K>(court, name);
}

pub fn no_proc_leader<K: Kind>(court: &Court, name: &str) {
    hide_proc();
    scenes::leader::<K>(court, name);
}

pub fn contained<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Foreign, || scenes::routine::<K>(court, name));
}

pub fn contained_with_proc<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Own, || scenes::routine::<K>(court, name));
}

pub fn pid_again<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Own, || use_pids_again::<K>(court, name));
}

pub fn pid_again_foreign_proc<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Foreign, || use_pids_again::<K>(court, name));
}

pub fn pid_again_no_proc<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Hidden, || use_pids_again::<K>(court, name));
}

/// A dead one's PID is another process's: neither does that keep the dead alive, nor is it taken for dead.
fn use_pids_again<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    for way in WAYS {
        let victim = stage.spawn();
        let pid = victim.process.pid();
        victim.process.kill();
        let stranger = fork_as(pid, fork_stranger);
        stage.dead("one whose PID a stranger has", 1, way);
        stranger.process.kill();

        // The newcomer asks by coming.
        let victim = stage.spawn();
        let (pid, swept) = (victim.process.pid(), stage.swept());
        victim.process.kill();
        let newcomer = fork_as(pid, || stage.spawn());
        stage.were_dead("one whose PID a newcomer has", swept, 1);
        stage.alive("one that has a dead one's PID");
        assert_eq!(newcomer.ask(), 0);
        newcomer.work();
        newcomer.process.kill();
        stage.dead("one that had a dead one's PID", 1, way);

        // Or of a thread.
        let victim = stage.spawn();
        let pid = victim.process.pid();
        victim.process.kill();
        let stranger = Victim::fork(|mut line| {
            next_is(pid);
            thread::scope(|scope| {
                scope.spawn(|| {
                    assert_eq!(nix::unistd::gettid(), pid);
                    line.write_all(b"t").unwrap();
                    _ = line.read(&mut [0]);
                });
            });
        });
        stranger.await_byte(b't');
        stage.dead("one whose PID a thread has", 1, way);
        stranger.process.kill();
    }
    // Many of one PID at once: the owner is another one all along, so that those who come need not look.
    let owner = stage.spawn();
    let first = stage.spawn();
    let (pid, swept) = (first.process.pid(), stage.swept());
    let mut last = first;
    for _ in 0..INCARNATIONS {
        owner.own();
        last.process.kill();
        last = fork_as(pid, || stage.spawn());
    }
    stage.asker.ask();
    stage.were_dead("each of many with one PID", swept, INCARNATIONS);
    stage.alive("the last of many with one PID");
    owner.work();
    last.work();
    assert_eq!((owner.ask(), last.ask()), (0, 0));
    last.process.kill();
    stage.dead("the last of many with one PID", 1, WAYS[0]);
    owner.process.kill();
    stage.others_dead("the owner", 1);
    for pose in K::POSES {
        for way in WAYS {
            let victim = stage.spawn_posing(*pose, 3);
            let pid = victim.process.pid();
            victim.process.kill();
            let stranger = fork_as(pid, fork_stranger);
            stage.dead_posing("one with a lock whose PID a stranger has", *pose, way);
            stranger.process.kill();
        }
    }
    stage.end();
}

/// Of a process in another PID namespace nobody can know whether it is dead: it is not, as long as somebody is attached.
pub fn containers<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    let container = stage.contain(Held::obey);
    stage.alive("one in a container");
    assert_eq!(container.outer.ask(), 0);
    container.outer.work();
    let outsider = stage.spawn();
    stage.alive("one in a container, and one outside");
    assert_eq!((container.outer.ask(), outsider.ask()), (0, 0));
    outsider.process.kill_to_zombie();
    assert_eq!(container.outer.ask(), 0, "the one outside is seen from a container");
    stage.dead("one outside", 1, WAYS[1]);
    assert_eq!(container.outer.ask(), 0);
    container.outer.work();
    container.kill();
    // Whose children will be in another namespace is in this one still.
    let parent = stage.spawn_after(|| unshare(CloneFlags::CLONE_NEWPID).unwrap());
    stage.alive("the parent of a container");
    parent.process.kill_to_zombie();
    stage.dead("the parent of a container", 1, WAYS[0]);
    for _ in 0..3 {
        stage.alive("one that has died in a container");
    }
    let stage = stage.alone("one in a container, with nobody there", 1);

    // Two in one container, one of whom dies.
    let (number, stage_inside) = (stage.number(), &stage);
    let container = stage.contain(move |held, mut line| {
        let other = Victim::fork(|line| stage_inside.hold(number, line, Held::obey));
        other.await_byte(READY);
        line.write_all(b"o").unwrap();
        line.read_exact(&mut [0]).unwrap();
        other.process.kill();
        line.write_all(b"k").unwrap();
        held.obey(line);
    });
    container.outer.await_byte(b'o');
    stage.comes();
    stage.alive("two in a container");
    container.outer.tell(b'k');
    container.outer.await_byte(b'k');
    stage.alive("one that has died in a container");
    stage.dead_to("its neighbour in a container", 1, &container.outer);
    stage.alive("the other in a container");
    container.outer.work();
    container.kill();
    stage.alive("all in a container");
    stage.alone("all in a container, with nobody there", 1).end();
}

/// The same PID in two namespaces: one of the two dies, and then the other.
pub fn twins<K: Kind>(court: &Court, name: &str) {
    let mut stage = Stage::<K>::new(court, name);
    for insider_dies in [false, true] {
        let outsider = stage.spawn();
        let (pid, number, stage_inside) = (outsider.process.pid(), stage.number(), &stage);
        let container = stage.contain(move |held, mut line| {
            let twin = fork_as(pid, || Victim::fork(|line| stage_inside.hold(number, line, Held::obey)));
            twin.await_byte(READY);
            line.write_all(b"t").unwrap();
            line.read_exact(&mut [0]).unwrap();
            if insider_dies {
                twin.process.kill();
                line.write_all(b"k").unwrap();
                held.obey(line);
            } else {
                twin.work();
                assert_eq!(twin.ask(), 0);
                line.write_all(b"k").unwrap();
                held.obey(line);
                twin.process.kill();
            }
        });
        container.outer.await_byte(b't');
        stage.comes();
        stage.alive("twins");
        let tell = || {
            container.outer.tell(b'k');
            container.outer.await_byte(b'k');
        };
        if insider_dies {
            tell();
            stage.alive("the twin of a dead one in a container");
            assert_eq!(outsider.ask(), 0);
            stage.dead_to("a twin in a container", 1, &container.outer);
            outsider.work();
            outsider.process.kill();
            stage.others_dead("a twin outside", 1);
        } else {
            outsider.process.kill();
            // Both in the container ask first, who cannot know.
            tell();
            assert_eq!(container.outer.ask(), 0);
            stage.others_dead("a twin outside", 1);
            stage.alive("the twin of a dead one outside");
        }
        // The other one, or two, in the container.
        container.kill();
        stage.alive("those in a container");
        stage = stage.alone("those in a container, with nobody there", if insider_dies { 1 } else { 2 });
    }
    stage.end();
}

/// A container is started again; its first process, whose PID is that of the one before, finds that one dead if
/// the kernel gives it the number of the same namespace, and may not say so if not.
pub fn restarts<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    // The namespaces of those of whom nobody knows that they are dead.
    let mut unknown = Vec::new();
    let mut container = stage.contain(Held::obey);
    let mut restarts = 0;
    loop {
        unknown.push(container.namespace());
        container.kill();
        // The kernel gives the number back in its own time, and others take it.
        restarts += 1;
        assert!(restarts < RESTARTS, "no container gets the number of one before");
        thread::sleep(Duration::from_millis(restarts * restarts));
        let swept = stage.swept();
        container = stage.contain(Held::obey);
        container.outer.ask();
        let (namespace, before) = (container.namespace(), unknown.len());
        unknown.retain(|dead| *dead != namespace);
        let known = before - unknown.len();
        if known > 0 {
            stage.were_dead("one in a container that was started again", swept, known as u32);
            break;
        }
        stage.alive("one in a container, when another is started");
    }
    stage.alive("one that has been started again");
    container.outer.work();
    container.kill();
    stage.alone("all that were started again, with nobody there", unknown.len() as u32 + 1).end();
}

/// Without pidfds, as containers of old have it, processes are told apart by when they started.
pub fn filtered<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Own, || {
        let stage = Stage::<K>::new(court, name);
        for way in WAYS {
            let victim = stage.spawn_after(filter_pidfds);
            stage.alive("one without pidfds");
            assert_eq!(victim.ask(), 0);
            victim.work();
            let pid = victim.process.pid();
            victim.process.kill_to_zombie();
            stage.dead("a zombie without pidfds", 1, way);
            victim.process.kill();

            let victim = fork_as(pid, || stage.spawn_after(filter_pidfds));
            victim.process.kill();
            thread::sleep(TICKS);
            let stranger = fork_as(pid, fork_stranger);
            stage.dead("one without pidfds whose PID a stranger has", 1, way);
            stranger.process.kill();

            let victim = fork_as(pid, || stage.spawn_after(filter_pidfds));
            let swept = stage.swept();
            victim.process.kill();
            thread::sleep(TICKS);
            let newcomer = fork_as(pid, || stage.spawn_after(filter_pidfds));
            stage.asker.ask();
            stage.were_dead("one without pidfds whose PID a newcomer has", swept, 1);
            stage.alive("one without pidfds that has a dead one's PID");
            newcomer.work();
            newcomer.process.kill();
            stage.dead("one without pidfds", 1, way);
        }
        // One that has none finds those that are gone.
        let observer = stage.spawn_after(filter_pidfds);
        let victim = stage.spawn();
        assert_eq!(observer.ask(), 0);
        stage.alive("one that is seen without pidfds");
        victim.process.kill_to_zombie();
        assert_eq!(observer.ask(), 0, "a zombie cannot be told from others");
        victim.process.kill();
        stage.dead_to("one that is seen without pidfds", 1, &observer);
        observer.process.kill();
        stage.others_dead("one without pidfds", 1);
        stage.end();
    });
}

/// Without pidfds and without a `/proc` that is of use nobody knows which process it was that had a PID; without any
/// `/proc`, nor in which namespace. Who is not known is not dead.
pub fn unknown<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Foreign, || {
        let stage = Stage::<K>::new(court, name);
        let victim = stage.spawn_after(filter_pidfds);
        let pid = victim.process.pid();
        stage.alive("one that nobody knows");
        victim.process.kill();
        let stranger = fork_as(pid, fork_stranger);
        stage.alive("one that nobody knows whose PID a stranger has");
        stranger.process.kill();
        stage.dead("one that nobody knows whose PID nobody has", 1, WAYS[1]);

        let victim = stage.spawn_after(|| {
            hide_proc();
            filter_pidfds();
        });
        stage.alive("one of an unknown namespace");
        assert_eq!(victim.ask(), 0);
        victim.work();
        victim.process.kill();
        stage.alive("one of an unknown namespace that is gone");
        stage.alone("one of an unknown namespace, with nobody there", 1).end();
    });
}

/// The one who asks has no descriptor left, and so no pidfd.
pub fn no_descriptors<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Foreign, || {
        let stage = Stage::<K>::new(court, name);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let allow = |limit| setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        for gone in [false, true] {
            let victim = stage.spawn();
            allow(0);
            stage.alive_to_the_asker("one that cannot be looked at");
            victim.process.kill_to_zombie();
            stage.alive_to_the_asker("a zombie that cannot be looked at");
            if gone {
                victim.process.kill();
            } else {
                allow(soft);
            }
            let swept = stage.swept();
            let is_owned = stage.ask(Way::Sweep);
            allow(soft);
            stage.judge("one that cannot be looked at", swept, 1, is_owned, false);
        }
        stage.end();
    });
}

/// Clocks of one's own: by them, processes have started at other times. Without pidfds they are all there is.
pub fn other_clocks<K: Kind>(court: &Court, name: &str) {
    in_pid_namespace(Proc::Own, || {
        let stage = Stage::<K>::new(court, name);
        let insider = stage.spawn_after(filter_pidfds);
        let number = stage.number();
        let outer = Victim::fork(|line| {
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWTIME) }, 0);
            fs::write("/proc/self/timens_offsets", "boottime 100000 0").unwrap();
            Forked::spawn(|| stage.hold(number, line, Held::obey)).reap();
        });
        stage.is_attached(&outer);
        let number = stage.number();
        let filtered = Victim::fork(|line| {
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWTIME) }, 0);
            fs::write("/proc/self/timens_offsets", "boottime 200000 0").unwrap();
            Forked::spawn(|| {
                filter_pidfds();
                stage.hold(number, line, Held::obey);
            })
            .reap();
        });
        stage.is_attached(&filtered);
        for _ in 0..2 {
            stage.alive("those with clocks of their own");
            assert_eq!((insider.ask(), outer.ask(), filtered.ask()), (0, 0, 0));
        }
        insider.process.kill();
        stage.others_dead("one with the common clock", 1);
        assert_eq!((outer.ask(), filtered.ask()), (0, 0));
        filtered.work();
        filtered.finish();
        outer.finish();
        stage.left(2);
        stage.end();
    });
}
