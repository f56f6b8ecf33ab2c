//! What an operation has given, which must lie in the memory of the segment

use super::judge::Fault;
use crate::common::campaign::Wrong;
use shmem_bind::{
    AllocError, Arena, DirectoryError, Handle, HandleError, OwnedFd, ShmemArc, ShmemBox, ShmemConf, Usage,
};
use std::fs;

/// The result of an operation.
pub trait Given {
    /// Its address, and how many bytes it has, if it is an object.
    fn place(&self) -> Option<(usize, usize)> {
        None
    }

    /// Whether it lies behind the header of a segment that this process has mapped.
    fn check(&self) -> Result<(), Fault> {
        let Some((start, len)) = self.place() else { return Ok(()) };
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let is_in = |line: &str| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).unwrap();
            let [first, end] = [range.0, range.1].map(|text| usize::from_str_radix(text, 16).unwrap());
            let is_segment = line.contains("/dev/shm/") || line.contains("/memfd:");
            is_segment && start >= first + 4096 && start + len <= end
        };
        let outside =
            || (Wrong::Corrupt, format!("it was given {len} bytes at {start:#x}, outside of the segment"));
        if maps.lines().any(is_in) { Ok(()) } else { Err(outside()) }
    }
}

impl<T: ?Sized> Given for ShmemBox<T> {
    fn place(&self) -> Option<(usize, usize)> {
        // The value of a segment begins where an object never does, and is as sound as its address.
        Some(((&raw const **self).cast::<u8>().addr(), size_of_val(&**self)))
    }
}

impl<T: Sync + ?Sized> Given for ShmemArc<T> {
    fn place(&self) -> Option<(usize, usize)> {
        Some(((&raw const **self).cast::<u8>().addr(), size_of_val(&**self)))
    }
}

impl Given for () {}
impl Given for bool {}
impl Given for u64 {}
impl Given for usize {}
impl Given for ShmemConf {}
impl Given for (ShmemConf, OwnedFd) {}
impl<A> Given for Arena<A> {}
impl<T: ?Sized> Given for Handle<T> {}
impl Given for Usage {}
impl Given for AllocError {}
impl Given for HandleError {}
impl Given for DirectoryError {}
