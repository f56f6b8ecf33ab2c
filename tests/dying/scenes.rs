//! Scenes that anybody may play: states in which a process is alive or dead, and does not look so

use super::{Court, Held, Kind, READY, Stage, Victim, WAYS, Way};
use nix::libc;
use nix::sys::prctl;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Where `/proc` is for the scenes, when it has been hidden from those who play.
pub const HIDDEN_PROC: &str = "/mnt";
/// How many instructions after it has got a lock a victim is stopped.
const INSTRUCTIONS: [u32; 3] = [0, 7, 30];
/// How often it is asked while something goes on.
const TIMES: u32 = 20;

/// Alive, stopped, a zombie, reaped; one of several; in the middle of an operation.
pub fn routine<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    for way in WAYS {
        let victim = stage.spawn();
        stage.alive("one that waits");
        stopped(&stage, &victim, Duration::from_millis(5));
        victim.work();
        victim.process.kill_to_zombie();
        stage.dead("a zombie", 1, way);
        victim.process.kill();
        stage.alive("one that is gone");

        let victim = stage.spawn();
        victim.process.kill();
        stage.dead("one that is gone", 1, way);

        let victim = stage.spawn();
        victim.stop();
        victim.process.kill();
        stage.dead("one that was stopped and killed", 1, way);
    }
    let [first, middle, last] = [0; 3].map(|_| stage.spawn());
    first.process.kill();
    last.process.kill_to_zombie();
    stage.dead_to("its neighbours", 2, &middle);
    stage.alive("the one in the middle");
    middle.work();
    middle.finish();
    stage.left(1);

    let (first, last) = (stage.spawn(), stage.spawn());
    first.process.kill_to_zombie();
    last.process.kill_to_zombie();
    stage.dead("all of them", 2, Way::Sweep);
    for pose in K::POSES {
        for (instructions, way) in INSTRUCTIONS.into_iter().zip(WAYS.into_iter().cycle()) {
            let victim = stage.spawn_posing(*pose, instructions);
            stage.alive_posing("one in the middle of it", *pose);
            victim.process.kill_to_zombie();
            stage.dead_posing("a zombie in the middle of it", *pose, way);
        }
    }
    stage.end();
}

/// It is alive while it is stopped, for however long.
#[track_caller]
fn stopped<K: Kind>(stage: &Stage<'_, K>, victim: &Victim, time: Duration) {
    victim.stop();
    let start = Instant::now();
    loop {
        stage.alive("one that is stopped");
        if start.elapsed() >= time {
            break;
        }
        thread::sleep(time / TIMES);
    }
    victim.process.signal(Signal::SIGCONT);
}

/// For as long as the campaign says.
pub fn stop<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    let victim = stage.spawn();
    stopped(&stage, &victim, court.stop);
    victim.work();
    victim.stop();
    victim.process.kill_to_zombie();
    stage.dead("one that was stopped and killed", 1, Way::Open);
    for pose in K::POSES {
        let victim = stage.spawn_posing(*pose, 0);
        thread::sleep(court.stop / TIMES);
        stage.alive_posing("one that is stopped with a lock", *pose);
        victim.process.kill();
        stage.dead_posing("one that was stopped with a lock and killed", *pose, Way::Open);
    }
    stage.end();
}

/// Forks, and one or the other is killed. The child inherits what its parent holds, and is attached for itself, or will be.
pub fn fork<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    for way in WAYS {
        // The child dies: its parent does not.
        let (number, stage_of_child) = (stage.number(), &stage);
        let parent = stage.spawn_with(move |held, mut line| {
            let child = Victim::fork(|line| stage_of_child.hold(number, line, Held::obey));
            child.await_byte(READY);
            line.write_all(&(child.process.pid().as_raw() as u32).to_ne_bytes()).unwrap();
            held.obey(line);
        });
        let child = Pid::from_raw(parent.hear_number() as i32);
        stage.comes();
        stage.alive("a parent and its child");
        nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
        // Nobody reaps it.
        await_zombie(child);
        stage.dead("a child", 1, way);
        parent.work();
        parent.process.signal(Signal::SIGKILL);
        parent.process.await_death();
        stage.others_dead("a parent", 1);

        // The parent dies, before the child attaches and after.
        for attaches_before in [false, true] {
            let stage_of_child = &stage;
            let parent = stage.spawn_with(move |_inherited, line| {
                let child = Victim::fork(|child_line| {
                    // It outlives its parent, until nobody has the line any more.
                    prctl::set_pdeathsig(None::<Signal>).unwrap();
                    drop(child_line);
                    let mut line = line.try_clone().unwrap();
                    if attaches_before {
                        stage_of_child.hold(number + (1 << 32), line, Held::obey);
                        return;
                    }
                    line.write_all(b"c").unwrap();
                    let mut order = [0];
                    if line.read(&mut order).unwrap() == 1 {
                        stage_of_child.hold(number + (2 << 32), line, Held::obey);
                    }
                });
                (&line).write_all(&(child.process.pid().as_raw() as u32).to_ne_bytes()).unwrap();
                loop {
                    nix::unistd::pause();
                }
            });
            // In which order the two of them say it is nobody's business.
            let child = parent.hear_child(if attaches_before { READY } else { b'c' });
            if attaches_before {
                stage.comes();
            }
            stage.alive("a parent and its child");
            parent.process.kill_to_zombie();
            if attaches_before {
                stage.others_dead("a parent with a child that is attached", 1);
            } else {
                stage.dead("a parent with a child", 1, way);
            }
            stage.alive("a child without a parent");
            let child = parent.adopted(Pid::from_raw(child as i32));
            if !attaches_before {
                child.tell(b'h');
                stage.is_attached(&child);
            }
            stage.alive("a child without a parent that is attached");
            assert_eq!(child.ask(), 0);
            child.work();
            child.process.kill_to_zombie();
            stage.dead("a child without a parent", 1, way);
        }
    }
    stage.end();
}

/// A file under `/proc`.
pub fn proc_path(file: &str) -> PathBuf {
    let place = if Path::new("/proc/self").exists() { "/proc" } else { HIDDEN_PROC };
    Path::new(place).join(file)
}

/// Waits until the main thread of a process has ended, whoever has to reap it.
fn await_zombie(pid: Pid) {
    loop {
        let stat = fs::read_to_string(proc_path(&format!("{pid}/stat"))).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        if rest.starts_with('Z') {
            return;
        }
        thread::yield_now();
    }
}

/// Becomes another program: alive until that has ended, although it has nothing mapped any more.
pub fn exec<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    for by_a_thread in [false, true] {
        for way in WAYS {
            let victim = stage.spawn_with(|_held, mut line| {
                let mut order = [0];
                line.read_exact(&mut order).unwrap();
                if by_a_thread {
                    // The thread takes the main thread's place, which ends in the middle of the program.
                    thread::scope(|scope| scope.spawn(|| become_cat(line)).join().unwrap());
                } else {
                    become_cat(line);
                }
            });
            stage.alive("one that is about to exec");
            victim.tell(b'x');
            let mut is_program = false;
            while !is_program {
                stage.alive("one that execs");
                let program =
                    fs::read_to_string(proc_path(&format!("{}/comm", victim.process.pid()))).unwrap();
                is_program = program == "cat\n";
            }
            meow(&victim);
            stage.alive("another program");
            victim.process.kill_to_zombie();
            stage.dead("another program", 1, way);
        }
    }
    // Nobody has the segment mapped: that is what the next opener learns.
    let victim = stage.spawn_with(|_held, line| become_cat(line));
    meow(&victim);
    stage.alive("another program");
    let stage = stage.alone("another program, with nobody there", 1);
    victim.process.kill();
    stage.end();
}

/// Becomes a program that repeats what it hears on the line.
fn become_cat(line: UnixStream) {
    let output = line.try_clone().unwrap();
    panic!("{}", Command::new("cat").stdin(OwnedFd::from(line)).stdout(OwnedFd::from(output)).exec());
}

/// From here on the program runs: nothing of the one before is mapped.
fn meow(cat: &Victim) {
    cat.tell(b'm');
    cat.await_byte(b'm');
}

/// The main thread ends, and another one goes on with what the process holds.
pub fn leader<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    for (attaches_before, way) in
        [(true, Way::Sweep), (true, Way::Open), (false, Way::Sweep), (false, Way::Open)]
    {
        let (number, stage_of_victim) = (stage.number(), &stage);
        let victim = Victim::fork(move |line| {
            let own = Pid::this();
            if attaches_before {
                stage_of_victim.hold(number, line, |held, line| leave_it_to_a_thread(|| held.obey(line)));
            } else {
                leave_it_to_a_thread(|| {
                    await_zombie(own);
                    stage_of_victim.hold(number, line, Held::obey);
                });
            }
        });
        stage.is_attached(&victim);
        for _ in 0..TIMES {
            stage.alive("one whose main thread ends");
        }
        await_zombie(victim.process.pid());
        for _ in 0..TIMES {
            stage.alive("one without its main thread");
            assert_eq!(victim.ask(), 0);
            victim.work();
        }
        // Not even its parent has been told of an end.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        assert_eq!(waitid(Id::Pid(victim.process.pid()), flags), Ok(WaitStatus::StillAlive));
        victim.process.kill_to_zombie();
        stage.dead("one without its main thread", 1, way);
    }
    stage.end();
}

/// Ends the main thread, and nothing but that; another one acts, and ends the process.
fn leave_it_to_a_thread(act: impl FnOnce()) {
    /// What the main thread has had is nobody's any more but the other one's.
    struct Left<F>(F);
    unsafe impl<F> Send for Left<F> {}

    let left = Left(act);
    thread::scope(|scope| {
        scope.spawn(|| {
            let Left(act) = { left };
            act();
            unsafe { libc::_exit(0) };
        });
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
}

/// Stops on its way out, at the very end, for a debugger; waits for a child as `vfork` does.
pub fn late<K: Kind>(court: &Court, name: &str) {
    let stage = Stage::<K>::new(court, name);
    for way in WAYS {
        let victim = stage.spawn_with(|held, mut line| {
            ptrace::traceme().unwrap();
            raise(Signal::SIGSTOP).unwrap();
            let mut order = [0];
            line.read_exact(&mut order).unwrap();
            std::mem::forget(held);
        });
        let pid = victim.process.pid();
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACEEXIT).unwrap();
        stage.alive("one that is traced");
        ptrace::cont(pid, None).unwrap();
        victim.tell(b'x');
        assert_eq!(
            waitpid(pid, None),
            Ok(WaitStatus::PtraceEvent(pid, Signal::SIGTRAP, libc::PTRACE_EVENT_EXIT))
        );
        for _ in 0..TIMES {
            stage.alive("one that ends");
        }
        ptrace::detach(pid, None).unwrap();
        victim.process.await_death();
        stage.dead("one that has ended", 1, way);

        let victim = stage.spawn_with(|held, line| {
            // As vfork(2), but with memory of its own.
            let flags = libc::CLONE_VFORK as libc::c_long | libc::c_long::from(libc::SIGCHLD);
            if unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } == 0 {
                prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                let mut line = line;
                line.write_all(b"v").unwrap();
                // Until the line is closed: it has done its part.
                let _ = line.read(&mut [0]);
                unsafe { libc::_exit(0) };
            }
            held.obey(line);
        });
        victim.await_byte(b'v');
        for _ in 0..TIMES {
            stage.alive("one that waits for its child");
        }
        victim.process.kill_to_zombie();
        stage.dead("one that has waited for its child", 1, way);
    }
    stage.end();
}
