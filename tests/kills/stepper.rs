//! A forked victim, one instruction at a time
//!
//! A step is *loud* if somebody else can tell it from the one before: the segment's bytes have changed, or a system call
//! is about to be made or has just been made. Killed at any other step, the victim leaves what it would have left at
//! the last loud one.

use super::judge;
use crate::common::campaign::Forked;
use crate::common::tracer::Tracee;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// What a victim does between two stops.
pub type Trace<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// The file of a segment as it lies in memory, whichever file its name leads to now.
pub struct View {
    path: PathBuf,
    mapping: Option<(NonNull<u8>, usize)>,
    inode: Option<u64>,
}

impl View {
    pub fn new(path: PathBuf) -> Self {
        let mut view = Self { path, mapping: None, inode: None };
        view.refresh();
        view
    }

    /// Looks at the name again. If it is gone, the file that it led to is still the one.
    pub fn refresh(&mut self) {
        let Ok(file) = File::options().read(true).write(true).open(&self.path) else { return };
        self.close();
        let len = file.metadata().unwrap().size() as usize;
        self.inode = Some(file.metadata().unwrap().ino());
        let Some(pages) = NonZeroUsize::new(len) else { return };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let base = unsafe { mmap(None, pages, protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
        self.mapping = Some((base.cast(), len));
    }

    fn close(&mut self) {
        if let Some((base, len)) = self.mapping.take() {
            unsafe { munmap(base.cast(), len) }.unwrap();
        }
    }

    /// The file.
    pub const fn inode(&self) -> Option<u64> {
        self.inode
    }

    /// The bytes. Nobody changes them while they are looked at: the victim has stopped, and the driver is here.
    pub fn bytes(&self) -> &[u8] {
        self.mapping.map_or(&[], |(base, len)| unsafe { std::slice::from_raw_parts(base.as_ptr(), len) })
    }

    /// Puts another word where the one is at this offset, a multiple of 8.
    pub fn put(&self, at: usize, word: u64) {
        let (base, len) = self.mapping.unwrap();
        assert!(at + 8 <= len && at % 8 == 0);
        let place = unsafe { base.add(at) }.cast::<AtomicU64>();
        unsafe { place.as_ref() }.store(word, SeqCst);
    }

    /// Puts other bytes in the place of these, as many.
    pub fn restore(&self, bytes: &[u8]) {
        let (base, len) = self.mapping.unwrap();
        assert_eq!(bytes.len(), len);
        unsafe { base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), len) };
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where a step has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Quiet,
    Loud,
    /// The operation is over.
    End,
}

/// A victim on its way through an operation.
pub struct Stepper<'a> {
    victim: Forked,
    tracee: Tracee,
    view: &'a mut View,
    last: Vec<u8>,
    is_in_call: bool,
    /// Whether the instruction at an address makes a system call; the code is that of the driver.
    calls: &'a mut HashMap<u64, bool>,
}

impl<'a> Stepper<'a> {
    /// Forks a victim, which does `work` up to the beginning of its operation.
    pub fn start(
        view: &'a mut View,
        calls: &'a mut HashMap<u64, bool>,
        work: impl FnOnce(Trace<'_>),
    ) -> Self {
        let victim = Forked::spawn(|| {
            work(&mut |operation| {
                Tracee::between_stops(|| judge::leave_verdict(judge::caught(operation)));
            });
        });
        let tracee = Tracee::new(victim.pid());
        tracee.await_stop(Signal::SIGSTOP);
        view.refresh();
        let last = view.bytes().to_vec();
        Self { victim, tracee, view, last, is_in_call: false, calls }
    }

    /// Takes the segment as it is now for the beginning.
    pub fn begin(&mut self) {
        self.last.clear();
        self.last.extend_from_slice(self.view.bytes());
    }

    /// The segment as it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.last
    }

    /// Executes one instruction.
    pub fn step(&mut self) -> Step {
        let was_in_call = self.is_in_call;
        if !self.tracee.step() {
            return Step::End;
        }
        let at = self.tracee.instruction();
        self.is_in_call = *self.calls.entry(at).or_insert_with(|| self.tracee.is_system_call(at));
        if was_in_call {
            self.view.refresh();
        }
        let now = self.view.bytes();
        let has_changed = now != self.last;
        if has_changed {
            self.last.clear();
            self.last.extend_from_slice(now);
        }
        if has_changed || was_in_call || self.is_in_call { Step::Loud } else { Step::Quiet }
    }

    /// Lets the victim go on by itself to its end, which must be a good one.
    pub fn let_go(self) {
        self.tracee.finish_operation();
        self.tracee.release();
        self.victim.finish();
    }

    /// Kills the victim where it is, and leaves it a zombie.
    pub fn kill(self) -> Forked {
        self.victim.kill_to_zombie();
        self.victim
    }
}
