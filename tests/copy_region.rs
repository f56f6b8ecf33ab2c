//! Memory shared with a peer that keeps to nothing
#![allow(missing_docs)]

use nix::errno::Errno as NixErrno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use proptest::prelude::*;
use shmem_bind::{
    AnyBitPattern, Builder, CopyError, CopyRegion, Errno, NoUninit, ShmemError, SizeError, shareable,
};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

shareable! {
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    pub struct Record {
        pub key: u32,
        pub number: u32,
        pub value: u64,
    }
}

// SAFETY: integers, and no methods.
unsafe impl AnyBitPattern for Record {}
// SAFETY: 4 + 4 + 8 of 16 bytes.
unsafe impl NoUninit for Record {}

/// Tells the other thread to stop, also if this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// A memfd of `len` bytes with these seals.
fn memfd(len: i64, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create("shmem-bind-test", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}

#[test]
fn what_is_copied_in_here_comes_out_there() {
    let (here, fd) = CopyRegion::create(100).unwrap();
    let there = CopyRegion::attach(&fd).unwrap();
    drop(fd);
    assert_eq!((here.len(), there.len()), (100, 100));
    assert_eq!(there.read::<[u8; 100]>(0).unwrap(), [0; 100]);
    let record = Record { key: 1, number: 2, value: 3 };
    here.write(5, &record).unwrap();
    assert_eq!(there.read::<Record>(5).unwrap(), record);
    there.write_slice(5, &[record; 2]).unwrap();
    let mut records = [Record { key: 0, number: 0, value: 0 }; 2];
    here.read_slice(5, &mut records).unwrap();
    assert_eq!(records, [record; 2]);
    there.store_release(96, 7).unwrap();
    assert_eq!(here.load_acquire(96), Ok(7));
    // No bytes at all are anywhere within, up to the end.
    assert_eq!(here.read::<()>(100), Ok(()));
    assert_eq!(here.write_slice::<u64>(100, &[]), Ok(()));
}

proptest! {
    /// Wherever bytes begin and end, just these are copied.
    #[test]
    fn copies_are_exact(at in 0_usize..40, len in 0_usize..40, skew in 0_usize..8) {
        let (region, _fd) = CopyRegion::create(80).unwrap();
        let before: [u8; 80] = std::array::from_fn(|index| 100 + index as u8);
        region.write(0, &before).unwrap();
        // Memory of this process at any alignment, too.
        let bytes: Vec<u8> = (0..=255).collect();
        region.write_slice(at, &bytes[skew..skew + len]).unwrap();
        let mut expected = before;
        expected[at..at + len].copy_from_slice(&bytes[skew..skew + len]);
        prop_assert_eq!(region.read::<[u8; 80]>(0).unwrap(), expected);
        let mut out = [0xff; 64];
        region.read_slice(at, &mut out[skew..skew + len]).unwrap();
        prop_assert_eq!(&out[skew..skew + len], &bytes[skew..skew + len]);
        prop_assert!(out[..skew].iter().chain(&out[skew + len..]).all(|byte| *byte == 0xff));
    }
}

#[test]
fn beyond_the_end_nothing_is_copied() {
    let (region, _fd) = CopyRegion::create(4096).unwrap();
    for offset in [4089, 4096, 4097, 1 << 20, usize::MAX - 7, usize::MAX] {
        let error = Err(CopyError::OutOfBounds { offset, len: 8, region: 4096 });
        assert_eq!(region.read::<u64>(offset), error);
        assert_eq!(region.write(offset, &1_u64).map(|()| 0), error);
        let mut buffer = [7_u8; 8];
        assert_eq!(region.read_slice(offset, &mut buffer).map(|()| 0), error);
        assert_eq!(buffer, [7; 8]);
    }
    for offset in [4093, usize::MAX] {
        let error = Err(CopyError::OutOfBounds { offset, len: 4, region: 4096 });
        assert_eq!(region.load_acquire(offset), error);
        assert_eq!(region.store_release(offset, 1).map(|()| 0), error);
    }
    assert_eq!(region.read::<[u8; 4096]>(0).unwrap(), [0; 4096]);
}

#[test]
fn a_word_is_in_one_piece_only_where_it_is_aligned() {
    let (region, _fd) = CopyRegion::create(16).unwrap();
    for offset in [1, 2, 3, 7] {
        let error = CopyError::Misaligned { offset, align: 4 };
        assert_eq!(region.load_acquire(offset), Err(error));
        assert_eq!(region.store_release(offset, 1), Err(error));
        assert!(error.to_string().contains("not aligned to 4"), "{error}");
    }
}

#[test]
fn a_reader_does_not_write() {
    let (region, fd) = CopyRegion::create(16).unwrap();
    let reader = CopyRegion::attach_read_only(&fd).unwrap();
    assert!(reader.is_read_only() && !region.is_read_only());
    assert_eq!(reader.write(0, &1_u8), Err(CopyError::ReadOnly));
    assert_eq!(reader.store_release(0, 1), Err(CopyError::ReadOnly));
    region.write(0, &5_u8).unwrap();
    assert_eq!(reader.read::<u8>(0), Ok(5));
}

#[test]
fn what_is_for_readers_only_its_creator_writes() {
    let (region, fd) = CopyRegion::create_for_readers(16).unwrap();
    let refused = CopyRegion::attach(&fd).unwrap_err();
    assert!(matches!(refused, ShmemError::Os { call: "mmap", errno: Errno::PERM }), "{refused}");
    assert_eq!(nix::unistd::write(&fd, b"x"), Err(NixErrno::EPERM));
    let reader = CopyRegion::attach_read_only(&fd).unwrap();
    region.write(0, &5_u8).unwrap();
    assert_eq!(reader.read::<u8>(0), Ok(5));
}

#[test]
fn a_size_that_cannot_be_is_refused() {
    assert_eq!(CopyRegion::create(0).unwrap_err(), ShmemError::Size(SizeError::Zero));
    assert_eq!(CopyRegion::attach(&memfd(0, seals())).unwrap_err(), ShmemError::Size(SizeError::Zero));
    let too_large = CopyRegion::create(usize::MAX).unwrap_err();
    assert!(matches!(too_large, ShmemError::Size(SizeError::TooLarge { .. })), "{too_large}");
    let no_space = CopyRegion::create(isize::MAX as usize).unwrap_err();
    assert_eq!(no_space, ShmemError::NoSpace { asked: isize::MAX as u64 });
    // Sealed, and sparse: more than there is of address space.
    let endless = memfd(i64::MAX - 4095, seals());
    let no_space = CopyRegion::attach(&endless).unwrap_err();
    assert_eq!(no_space, ShmemError::NoSpace { asked: i64::MAX as u64 - 4095 });
}

#[test]
fn what_a_peer_could_cut_off_is_refused() {
    let without = |seal| memfd(4096, seals() - seal);
    for fd in [
        memfd(4096, SealFlag::empty()),
        without(SealFlag::F_SEAL_SHRINK),
        without(SealFlag::F_SEAL_GROW),
        without(SealFlag::F_SEAL_SEAL),
    ] {
        for result in [CopyRegion::attach(&fd), CopyRegion::attach_read_only(&fd)] {
            assert_eq!(result.unwrap_err(), ShmemError::Unsealed);
        }
    }
    // Files that have no seals: of a directory, of `/dev/shm`, and no file at all.
    let executable = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for fd in [OwnedFd::from(executable), OwnedFd::from(socket)] {
        assert_eq!(CopyRegion::attach_read_only(&fd).unwrap_err(), ShmemError::Unsealed);
    }
}

#[test]
fn a_peer_cannot_cut_it_off_or_grow_it() {
    let (region, fd) = CopyRegion::create(8192).unwrap();
    for len in [0, 4096, 8191, 8193] {
        assert_eq!(ftruncate(&fd, len), Err(NixErrno::EPERM));
    }
    // A hole is allowed, and reads as zero.
    region.write(0, &[1_u8; 8192]).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd.as_fd(), punch, 0, 4096).unwrap();
    assert_eq!(region.read::<[u8; 4097]>(0).unwrap()[4095..], [0, 1]);
    region.write(0, &[2_u8; 8192]).unwrap();
}

#[test]
fn a_segment_can_be_looked_at_without_trust() {
    let (_segment, fd) = Builder::memfd().create(100).unwrap();
    let region = CopyRegion::attach_read_only(&fd).unwrap();
    assert_eq!(region.len(), 4096 + 100);
    let bytes: [u8; 128] = region.read(0).unwrap();
    assert!(shmem_bind::Header::parse(&bytes).unwrap().is_memfd());
}

/// A peer writes all the time, through a mapping of its own. What is copied out is some of its bytes, does not change any
/// more, and a word is whole.
#[test]
fn a_peer_that_never_stops_writing_does_no_harm() {
    const ROUNDS: usize = 20_000;
    let (region, fd) = CopyRegion::create(1 << 16).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let region = CopyRegion::attach(&fd).unwrap();
            for number in 1_u32.. {
                region.write_slice(8, &vec![number as u8; (1 << 16) - 8]).unwrap();
                region.store_release(0, u32::from_ne_bytes([number as u8; 4])).unwrap();
                region.store_release(4, number).unwrap();
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let stopped = Stop(&stop);
        while region.load_acquire(4).unwrap() == 0 {
            std::thread::yield_now();
        }
        let (mut changes, mut last, mut round) = (0, 0, 0);
        while round < ROUNDS || changes < 10 {
            let [one, rest @ ..] = region.load_acquire(0).unwrap().to_ne_bytes();
            assert_eq!(rest, [one; 3], "a word was torn");
            let len: u32 = region.read(8 + round % 1000).unwrap();
            let mut message = vec![0_u8; (len as usize).min(200)];
            region.read_slice(8 + round % 1000, &mut message).unwrap();
            assert!(message.len() <= 200);
            let number = region.load_acquire(4).unwrap();
            assert!(number.wrapping_sub(last) < 1 << 31, "it goes backwards");
            changes += usize::from(number != last);
            (last, round) = (number, round + 1);
        }
        drop(stopped);
    });
}

/// Without the acquire and release of the word there could be, on some machines, old bytes behind a new word.
#[test]
fn what_was_copied_in_before_a_word_is_there_with_it() {
    let (region, fd) = CopyRegion::create(4096).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let region = CopyRegion::attach(&fd).unwrap();
            // Each message stays until its word is answered.
            for number in 1_u32.. {
                region.write_slice(64, &[number; 100]).unwrap();
                region.store_release(0, number).unwrap();
                while region.load_acquire(4).unwrap() != number {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        });
        let stopped = Stop(&stop);
        for number in 1..=2000 {
            while region.load_acquire(0).unwrap() != number {
                std::thread::yield_now();
            }
            assert_eq!(region.read::<[u32; 100]>(64).unwrap(), [number; 100]);
            region.store_release(4, number).unwrap();
        }
        drop(stopped);
    });
}
