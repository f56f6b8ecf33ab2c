//! Where an image is put for the crate to find it
//!
//! Each thread has one memfd, made and sealed by the crate, whose bytes become those of the image. Writing them costs less than
//! making a new one.

use super::image::{self, Image};
use shmem_bind::{Builder, OwnedFd, ShmemConf, ShmemError};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// A sealed memfd.
pub struct Stage {
    pub fd: OwnedFd,
    file: File,
    maps: File,
    /// What stands in the lines of its mappings.
    inode: String,
}

impl Stage {
    fn new() -> Self {
        let (_, fd) = image::create();
        let file = File::from(fd.try_clone().unwrap());
        let inode = format!(" {} ", file.metadata().unwrap().ino());
        Self { fd, file, maps: File::open("/proc/self/maps").unwrap(), inode }
    }

    pub fn write(&self, image: &Image) {
        self.file.write_all_at(image.bytes(), 0).unwrap();
    }

    pub fn write_word(&self, word: usize, value: u64) {
        self.file.write_all_at(&value.to_ne_bytes(), word as u64 * 8).unwrap();
    }

    pub fn read_word(&self, word: usize) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, word as u64 * 8).unwrap();
        u64::from_ne_bytes(bytes)
    }

    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Attaches without ever waiting for a lock.
    pub fn attach(&self) -> Result<ShmemConf, ShmemError> {
        Builder::memfd().timeout(Duration::ZERO).attach(&self.fd)
    }

    /// Where it is mapped now, by the kernel.
    pub fn bounds(&self) -> Bounds {
        let mut text = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            match self.maps.read_at(&mut chunk, text.len() as u64).unwrap() {
                0 => break,
                len => text.extend_from_slice(&chunk[..len]),
            }
        }
        let text = std::str::from_utf8(&text).unwrap();
        let address = |hex| usize::from_str_radix(hex, 16).unwrap();
        let ranges = text.lines().filter(|line| line.contains(&self.inode)).map(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            // Not the header.
            let skipped = if rest[9..].starts_with("00000000") { 4096 } else { 0 };
            (address(start) + skipped, address(end))
        });
        Bounds(ranges.collect())
    }
}

/// Does something with the stage of this thread.
pub fn with<R>(work: impl FnOnce(&Stage) -> R) -> R {
    STAGE.with_borrow_mut(|stage| work(stage.get_or_insert_with(Stage::new)))
}

/// Addresses where the payload is mapped.
#[derive(Debug)]
pub struct Bounds(Vec<(usize, usize)>);

impl Bounds {
    /// The value lies in the payload, and is aligned.
    #[track_caller]
    pub fn check<T: ?Sized>(&self, value: &T) {
        let start = std::ptr::from_ref(value).cast::<u8>().addr();
        let end = start.checked_add(size_of_val(value)).unwrap();
        let is_within = self.0.iter().any(|(from, to)| *from <= start && end <= *to);
        assert!(is_within, "{start:#x}..{end:#x} is not within {self:x?}");
        assert_eq!(start % align_of_val(value), 0, "{start:#x} is not aligned");
    }
}
