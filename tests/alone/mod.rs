//! Tests that each run in a process of their own, where descriptors, mappings and files can be counted and
//! limits lowered; and what they look at.

#![allow(dead_code)]

pub mod root;

use crate::common::{Child, path_of};
use shmem_bind::{Builder, ShmemConf, ShmemError};
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Says after a test that all of it was run.
pub const DONE: &str = "done";

/// Makes a `#[test]` of each function in the first list, and the entry point of child processes, which can
/// also play the roles in the second list.
#[allow(unused_macros)]
macro_rules! tests {
    ($($(#[$attribute:meta])* $test:ident)*; $($role:ident)*) => {
        mod alone_in_a_process {
            $(
                #[test]
                $(#[$attribute])*
                fn $test() {
                    crate::alone::run(stringify!($test));
                }
            )*
        }

        #[test]
        #[ignore = "the entry point of child processes"]
        fn child() {
            common::run_child(&[
                $((stringify!($test), |parent| { $test(); parent.say(crate::alone::DONE); }),)*
                $((stringify!($role), $role),)*
            ]);
        }
    };
}
#[allow(unused_imports)]
pub(crate) use tests;

/// Runs a test in a child process.
#[track_caller]
pub fn run(test: &str) {
    let mut child = Child::spawn(test, &[]);
    let last_word = child.try_hear();
    if last_word.is_none() {
        // Failed, or hangs.
        child.kill_to_zombie();
    }
    let status = child.wait();
    // Nothing, unless it was killed.
    let left: Vec<_> = files_of(child.pid()).into_keys().collect();
    for name in &left {
        let _ = fs::remove_file(path_of(name)).or_else(|_| fs::remove_dir(path_of(name)));
    }
    assert!(last_word.as_deref() == Some(DONE) && status.success(), "its process failed, see its message");
    assert!(left.is_empty(), "it left {left:?}");
}

/// What must be the same after an error as before: this process's descriptors, its mappings of shared
/// memory, and the files of this test under `/dev/shm`, with the bytes they begin with.
#[derive(Debug, PartialEq, Eq)]
pub struct Unchanged {
    fds: BTreeMap<String, String>,
    mappings: Vec<String>,
    files: BTreeMap<String, (u32, u64, Vec<u8>)>,
}

impl Unchanged {
    pub fn snapshot() -> Self {
        let own_fds = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        let fds = own_fds.filter_map(|path| Some((path.display().to_string(), fs::read_link(&path).ok()?)));
        // Whoever lists the descriptors has one for it: this function, and the thread that guards the memory.
        let fds = fds.filter(|(_, file)| !(file.starts_with("/proc") && file.ends_with("fd")));
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let is_shared = |line: &&str| line.contains("/dev/shm/") || line.contains("/memfd:");
        Self {
            fds: fds.map(|(fd, file)| (fd, file.display().to_string())).collect(),
            mappings: maps.lines().filter(is_shared).map(str::to_owned).collect(),
            files: files_of(std::process::id()),
        }
    }

    /// Nothing at all has changed.
    #[track_caller]
    pub fn check(&self, context: &str) {
        self.check_resources(context);
        self.check_files(context);
    }

    /// Nothing was written to any file.
    #[track_caller]
    pub fn check_files(&self, context: &str) {
        let now = files_of(std::process::id());
        assert!(now.keys().eq(self.files.keys()), "{context}: {:?}", now.keys());
        for (name, before) in &self.files {
            assert!(now[name] == *before, "{context}: {name} was written to");
        }
    }

    /// Nothing has been lost, though segments may have been used in between.
    #[track_caller]
    pub fn check_resources(&self, context: &str) {
        let now = Self::snapshot();
        assert_eq!(now.fds, self.fds, "{context}: descriptors");
        assert_eq!(now.mappings, self.mappings, "{context}: mappings");
        assert!(now.files.keys().eq(self.files.keys()), "{context}: {:?}", now.files.keys());
    }
}

/// The files whose names come from this process: mode, length, and the first bytes of what is a file.
fn files_of(pid: u32) -> BTreeMap<String, (u32, u64, Vec<u8>)> {
    let own = format!("shmem-bind-test-{pid}-");
    let entries = fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap());
    let files = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with(&own))?;
        let metadata = entry.path().symlink_metadata().unwrap();
        let mut bytes = Vec::new();
        if metadata.is_file() {
            File::open(entry.path()).unwrap().take(16 << 10).read_to_end(&mut bytes).unwrap();
        }
        Some((name, (metadata.mode(), metadata.size(), bytes)))
    });
    files.collect()
}

/// The result is this error, whose message is fit for people and has all the keywords.
#[track_caller]
pub fn refused<T: Debug>(result: Result<T, ShmemError>, error: ShmemError, keywords: &[&str], context: &str) {
    match result {
        Ok(value) => panic!("{context}: not refused but {value:?}"),
        Err(found) => assert_eq!(found, error, "{context}"),
    }
    readable(&error, keywords);
}

/// The message is a sentence for people that has all the keywords.
#[track_caller]
pub fn readable<E: Display + Debug>(error: &E, keywords: &[&str]) {
    let (message, debug) = (error.to_string(), format!("{error:?}"));
    assert_ne!(message, debug);
    assert!(message.len() >= 20 && !message.contains(" { "), "{message}");
    assert!(!message.starts_with(char::is_uppercase) && !message.ends_with('.'), "{message}");
    for keyword in keywords {
        assert!(message.contains(keyword), "no {keyword:?} in {message:?}");
    }
}

/// Asks for the segment in each of the four ways, one after the other.
pub fn each_way(builder: &Builder, size: u64) -> impl Iterator<Item = (Way, Result<ShmemConf, ShmemError>)> {
    Way::ALL.into_iter().map(move |way| (way, way.go(builder.clone(), size)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    Create,
    Attach,
    AttachReadOnly,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::Open, Self::Create, Self::Attach, Self::AttachReadOnly];

    pub fn go(self, builder: Builder, size: u64) -> Result<ShmemConf, ShmemError> {
        match self {
            Self::Open => builder.with_size(size).open(),
            Self::Create => builder.with_size(size).create(),
            Self::Attach => builder.attach(),
            Self::AttachReadOnly => builder.attach_read_only(),
        }
    }
}

/// A timeout that is never waited for.
pub const LONG: Duration = Duration::from_secs(40);
/// One that is.
pub const SHORT: Duration = Duration::from_millis(50);

/// Ends this process if the shared memory that it takes gets much: instead of all that there is being taken
/// from everybody, a test fails.
pub fn end_before_memory_does() {
    let files = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        fds.filter(|fd| {
            fs::read_link(fd).is_ok_and(|file| {
                file.starts_with("/dev/shm") || file.to_string_lossy().starts_with("/memfd:")
            })
        })
    };
    std::thread::spawn(move || {
        loop {
            let taken = files().filter_map(|fd| fs::metadata(fd).ok()).map(|file| file.blocks() * 512);
            if taken.sum::<u64>() > 64 << 20 {
                for file in files().filter_map(|fd| fs::read_link(fd).ok()) {
                    // A memfd has no file to remove.
                    let _ = fs::remove_file(file);
                }
                eprintln!("it takes memory that it cannot get enough of");
                std::process::exit(101);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
