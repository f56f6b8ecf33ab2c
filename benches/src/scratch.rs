//! Names in `/dev/shm` that do not outlast a benchmark

use std::{fs, process};

/// Where segments have their names.
const FOLDER: &str = "/dev/shm";

/// Gives names that nobody else has. What still has one when this is dropped is removed, also after a panic.
#[derive(Debug)]
pub struct Scratch {
    pid: u32,
}

impl Scratch {
    #[expect(clippy::new_without_default, reason = "it is of this process, which is no default")]
    pub fn new() -> Self {
        Self { pid: process::id() }
    }

    /// What all names begin with.
    pub fn prefix(&self) -> String {
        format!("shmem-bind-bench-{}-", self.pid)
    }

    /// The name of a segment.
    pub fn name(&self, what: &str) -> String {
        self.prefix() + what
    }

    /// The file of that name.
    pub fn path(&self, what: &str) -> String {
        format!("{FOLDER}/{}", self.name(what))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A child that was forked leaves it to its parent.
        if process::id() != self.pid {
            return;
        }
        for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.prefix()) {
                // Somebody else may be quicker.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
