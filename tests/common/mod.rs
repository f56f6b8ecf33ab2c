//! What the tests that cross processes share: names that are cleaned up, and children that are this very test
//! binary, run again.
//!
//! A test file that wants children has one entry point for them:
//! ```ignore
//! #[test]
//! #[ignore = "the entry point of child processes"]
//! fn child() {
//!     common::run_child(&[("attacher", attacher)]);
//! }
//! fn attacher(parent: &mut common::Parent) { .. }
//! ```
//! and starts them with `Child::spawn("attacher", &[&name])`. Parent and child talk in lines. A child dies with
//! the thread that spawned it, and is killed and reaped when its `Child` is dropped, also in a failing test.

#![allow(dead_code)]

pub mod arena;
pub mod campaign;
pub mod everything;
pub mod pair;
pub mod sigbus;
/// Makes a test with each allocator of functions that are generic over it.
#[allow(unused_macros)]
macro_rules! with_each_allocator {
    ($($test:ident,)*) => {
        mod tlsf { $(#[test] fn $test() { super::$test::<super::Tlsf>(); })* }
        mod slab { $(#[test] fn $test() { super::$test::<super::Slab>(); })* }
        mod bump { $(#[test] fn $test() { super::$test::<super::Bump>(); })* }
    };
}

pub mod tracer;
pub mod worker;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

const ROLE: &str = "SHMEM_BIND_TEST_ROLE";
const ARGUMENTS: &str = "SHMEM_BIND_TEST_ARGUMENTS";
/// Stands before each line that a child says, to tell them from the test harness's own.
const MARK: char = '\u{1}';
/// How long to wait for a child's answer before the test fails. Far more than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A segment name that no other test has; the file, if there is one, is removed on drop.
#[derive(Debug)]
pub struct TestName(String);

impl TestName {
    pub fn new(label: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("shmem-bind-test-{}-{count}-{label}", std::process::id()))
    }

    pub fn path(&self) -> PathBuf {
        path_of(self)
    }

    pub fn exists(&self) -> bool {
        self.path().symlink_metadata().is_ok()
    }
}

pub fn path_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/{name}"))
}

impl Deref for TestName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for TestName {
    fn drop(&mut self) {
        // Mostly there is nothing left to remove, and that is what the tests check.
        let path = self.path();
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
    }
}

/// A child process running one role of this test binary.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Child {
    pub fn spawn(role: &str, arguments: &[&str]) -> Self {
        Self::spawn_by(Command::new(env::current_exe().unwrap()), role, arguments)
    }

    /// Spawns by a command that ends with the path of this test binary, such as `unshare --pid ...`.
    pub fn spawn_by(mut command: Command, role: &str, arguments: &[&str]) -> Self {
        command
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: prctl(2) is a bare system call, and so safe between fork and exec.
        unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let mut process = command.spawn().expect("the test binary runs");
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(MARK) {
                    if sender.send(said.to_owned()).is_err() {
                        break;
                    }
                }
            }
        });
        Self { process, stdin, lines }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends the child a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").expect("the child listens");
    }

    /// Waits for the child's next line.
    #[track_caller]
    pub fn hear(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("the child said nothing for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the child ended without a word"),
        }
    }

    /// Waits for the child's next line, which must be this one.
    #[track_caller]
    pub fn expect(&self, line: &str) {
        assert_eq!(self.hear(), line);
    }

    /// The next line, or `None` once the child has ended and everything it said has been heard.
    pub fn try_hear(&self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    pub fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.pid() as i32), signal).expect("the child exists");
    }

    /// Kills the child, and reaps it.
    pub fn kill(&mut self) {
        self.kill_to_zombie();
        self.process.wait().unwrap();
    }

    /// Kills the child and waits until it is dead, but does not reap it.
    pub fn kill_to_zombie(&self) {
        self.signal(Signal::SIGKILL);
        self.await_death();
    }

    /// Waits until the child is dead, without reaping it.
    pub fn await_death(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let id = Id::Pid(Pid::from_raw(self.pid() as i32));
        waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    }

    /// Lets the child come to its end, which must be a success.
    #[track_caller]
    pub fn finish(mut self) {
        let status = self.wait();
        assert!(status.success(), "the child ended with {status}");
    }

    /// Closes the child's input and waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.stdin = None;
        self.process.wait().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail if the child has been waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a role has of its parent.
#[derive(Debug)]
pub struct Parent {
    arguments: Vec<String>,
}

impl Parent {
    pub fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).expect("the parent gave as many arguments")
    }

    pub fn say(&mut self, line: &str) {
        say(line);
    }

    /// Waits for the parent's next line; `None` if it has nothing more to say.
    pub fn hear(&mut self) -> Option<String> {
        std::io::stdin().lines().next().map(Result::unwrap)
    }

    pub fn await_line(&mut self, line: &str) {
        assert_eq!(self.hear().as_deref(), Some(line));
    }
}

/// In a child, or what it has forked: says a line to its parent.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{MARK}{line}").expect("the parent listens");
    stdout.flush().expect("the parent listens");
}

/// What a child does.
pub type Role = fn(&mut Parent);

/// Runs the role this process was spawned for.
pub fn run_child(roles: &[(&str, Role)]) {
    // Run by hand with all ignored tests, it is nobody's child and has no role.
    let Ok(role) = env::var(ROLE) else { return };
    let arguments = env::var(ARGUMENTS).unwrap_or_default().split('\n').map(str::to_owned).collect();
    let (_, run) = roles.iter().find(|(name, _)| *name == role).expect("a role of this file");
    run(&mut Parent { arguments });
}
