//! Memory shared with peers that are not trusted at all
//!
//! A segment trusts those who may write to it with the values in it: a reference says that nobody changes what it leads
//! to, or only in ways that its type allows, and a stranger keeps no such promise. So there is no reference into a
//! [`CopyRegion`], nor a pointer: bytes are copied out, and then looked at, or copied in.
//!
//! # Why no peer can do harm
//! - **Length.** The file is a memfd whose length is sealed, so nobody can take away what is mapped. The length is asked for
//!   once, of the kernel, and no number that a peer wrote is ever used as one.
//! - **Values.** What is copied out may change meanwhile, and may be torn, but is always some bytes; and any bytes are a
//!   value of the types that can be copied out. What has been copied does not change any more: whoever checks it checks
//!   what it then uses.
//! - **Memory.** For the compiler the memory is none of this program's: it is known by its address alone, like a device's
//!   registers, and only volatile accesses touch it. So nothing is assumed of it, and there is no race that would
//!   be undefined. What [`load_acquire`](CopyRegion::load_acquire) and [`store_release`](CopyRegion::store_release) copy is in
//!   one piece, everything else in pieces.
//!
//! What a peer can still do is write nonsense, or nothing, at any time; or punch holes into the memory, which read as zero and
//! take memory again when they are touched. If there is none left by then, that is what it always is: somebody is
//! killed for it. (With `vm.overcommit_memory` set to 2 the kernel says it by a `SIGBUS` to whoever touches the hole.)
//!
//! # Safety
//! Reads and writes memory by its address. [`Range`] has checked that it lies within the mapping.
#![allow(unsafe_code)]

use crate::error::{CopyError, Errno, ShmemError, SizeError};
use crate::shareable::{AnyBitPattern, NoUninit};
use crate::sys::Failure;
use crate::sys::shm::{self, Access, Mapping};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{Ordering, fence};
use rustix::fd::OwnedFd;

/// Bytes copied at a time.
const CHUNK: usize = size_of::<u64>();

/// Memory shared with a peer that is not trusted with anything: its bytes are copied in and out, and never referred to.
///
/// It has no header, no name and no owner, and counts nobody: it is the memory of a memfd, from the first byte to the
/// last, as long as somebody has the descriptor or a mapping. Where what lies in it, and when, is for the two sides to
/// agree on; each has to live with the other not keeping to it. A child after `fork` shares it too.
///
/// # Examples
/// A server that takes messages of a client. Each is a length and as many bytes, and nothing is believed:
/// ```
/// use shmem_bind::{CopyRegion, ShmemError};
///
/// # fn main() -> Result<(), ShmemError> {
/// // The client creates it, and sends the descriptor over a Unix socket.
/// let (client, fd) = CopyRegion::create(4096)?;
/// client.write_slice(8, b"hello")?;
/// client.write(4, &5_u32)?;
/// client.store_release(0, 1)?; // There is a message.
///
/// let server = CopyRegion::attach(&fd)?;
/// assert_eq!(server.load_acquire(0)?, 1);
/// let len: u32 = server.read(4)?;
/// let mut message = vec![0_u8; (len as usize).min(100)];
/// server.read_slice(8, &mut message)?;
/// // The client may change its mind now; this copy does not.
/// assert_eq!(message, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CopyRegion {
    /// INVARIANT 1: a mapping of a file whose length is sealed, and no shorter than it.
    mapping: Mapping,
    access: Access,
}

// SAFETY: a region is an address range of the process, not of a thread.
unsafe impl Send for CopyRegion {}
// SAFETY: other threads are no worse than other processes: what they write at the same time is torn.
unsafe impl Sync for CopyRegion {}

impl CopyRegion {
    /// Creates `len` bytes that are zero, and gives the descriptor, to be sent to the peer.
    ///
    /// The memory is reserved at once.
    ///
    /// # Errors
    /// [`ShmemError::Size`], [`ShmemError::NoSpace`], [`ShmemError::Os`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, fd) = CopyRegion::create(4096)?;
    /// assert_eq!(region.read::<u64>(0)?, 0);
    /// // `fd` is what the peer is sent, over a Unix socket.
    /// # drop(fd);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    ///
    /// # References
    ///  - [Linux `memfd_create(2)`](https://man7.org/linux/man-pages/man2/memfd_create.2.html)
    #[doc(alias = "memfd_create")]
    pub fn create(len: usize) -> Result<(Self, OwnedFd), ShmemError> {
        Self::create_sealed(len, shm::seal)
    }

    /// The same, but nobody else can ever write to it, whatever becomes of the descriptor: a peer has to
    /// [attach read-only](Self::attach_read_only).
    ///
    /// # Errors
    /// As [`create`](Self::create). On Linux before 5.1, which has no such seal, it is [`ShmemError::Os`] with `EINVAL`.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, fd) = CopyRegion::create_for_readers(4096)?;
    /// region.write(0, &7_u32)?;
    /// assert!(CopyRegion::attach(&fd).is_err(), "a peer may not write");
    /// assert_eq!(CopyRegion::attach_read_only(&fd)?.read::<u32>(0)?, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    ///
    /// # References
    ///  - [Linux `F_SEAL_FUTURE_WRITE(2const)`](https://man7.org/linux/man-pages/man2/F_GET_SEALS.2const.html)
    pub fn create_for_readers(len: usize) -> Result<(Self, OwnedFd), ShmemError> {
        Self::create_sealed(len, shm::seal_for_readers)
    }

    fn create_sealed(
        len: usize,
        seal: fn(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<(Self, OwnedFd), ShmemError> {
        check_len(len as u64)?;
        let fd = shm::memfd(c"shmem-bind-copy").map_err(Failure::of("memfd_create"))?;
        shm::reserve(&fd, len as u64).map_err(|failure| failure.of_asking_for(len as u64))?;
        let mapping = map(&fd, len, Access::ReadWrite)?;
        // A mapping that may be written to is there already when that is forbidden to those to come.
        seal(&fd).map_err(Failure::of("fcntl"))?;
        Ok((Self { mapping, access: Access::ReadWrite }, fd))
    }

    /// Attaches to the memory behind a descriptor that was received. The descriptor may be closed afterwards.
    ///
    /// # Errors
    /// - [`ShmemError::Unsealed`]: it is no memfd, or one of huge pages, or its length is not sealed.
    /// - [`ShmemError::Size`]: it has no bytes, or more than can be mapped.
    /// - [`ShmemError::NoSpace`]: there is not so much address space.
    /// - [`ShmemError::Os`]: with `EPERM` or `EACCES`, it is [for readers](Self::create_for_readers).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{CopyRegion, ShmemError};
    ///
    /// let (region, fd) = CopyRegion::create(4096)?;
    /// // In the process that was sent `fd`:
    /// let same = CopyRegion::attach(&fd)?;
    /// same.write(0, &7_u32)?;
    /// assert_eq!(region.read::<u32>(0)?, 7);
    ///
    /// // A file whose length may change is refused.
    /// # #[cfg(feature = "std")] {
    /// let file = std::fs::File::open("/dev/null").unwrap().into();
    /// assert_eq!(CopyRegion::attach(&file).unwrap_err(), ShmemError::Unsealed);
    /// # }
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn attach(fd: &OwnedFd) -> Result<Self, ShmemError> {
        Self::attach_with(fd, Access::ReadWrite)
    }

    /// Attaches to the memory behind a descriptor without ever writing to it.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{CopyError, CopyRegion};
    ///
    /// let (_region, fd) = CopyRegion::create(4096)?;
    /// let observer = CopyRegion::attach_read_only(&fd)?;
    /// assert_eq!(observer.write(0, &7_u32), Err(CopyError::ReadOnly));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    pub fn attach_read_only(fd: &OwnedFd) -> Result<Self, ShmemError> {
        Self::attach_with(fd, Access::ReadOnly)
    }

    fn attach_with(fd: &OwnedFd, access: Access) -> Result<Self, ShmemError> {
        // First the seals: before, the length may change.
        if !shm::is_sealed(fd)? {
            return Err(ShmemError::Unsealed);
        }
        let len = check_len(shm::status(fd).map_err(Failure::of("fstat"))?.len)?;
        let mapping = map(fd, len, access)?;
        Ok(Self { mapping, access })
    }

    /// Length of the region, in bytes: 1 at least. It never changes.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// assert_eq!(CopyRegion::create(100)?.0.len(), 100);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub const fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether it is attached only to be read.
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, fd) = CopyRegion::create(100)?;
    /// assert!(!region.is_read_only());
    /// assert!(CopyRegion::attach_read_only(&fd)?.is_read_only());
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    /// Copies the value at `offset` bytes out. It needs not be aligned.
    ///
    /// While somebody writes to it, some bytes may be old and others new, whatever the type;
    /// [`load_acquire`](Self::load_acquire) is for words that must be whole.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, _fd) = CopyRegion::create(8)?;
    /// region.write_slice(0, &[1_u8, 0, 2, 0])?;
    /// assert_eq!(region.read::<[u16; 2]>(0)?.map(u16::to_le), [1, 2]);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn read<T: AnyBitPattern + Copy>(&self, offset: usize) -> Result<T, CopyError> {
        let range = self.range(offset, size_of::<T>())?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: a `T` is as long as the range.
        unsafe { range.copy_out(value.as_mut_ptr().cast()) };
        // SAFETY: all its bytes have been written, and any bytes are a `T`.
        Ok(unsafe { value.assume_init() })
    }

    /// Copies values that lie one behind the other from `offset` bytes on out, as many as the slice holds.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{CopyError, CopyRegion, ShmemError};
    ///
    /// # fn main() -> Result<(), ShmemError> {
    /// let (region, _fd) = CopyRegion::create(12)?;
    /// region.write_slice(1, &[1_u16, 2, 3])?;
    /// let mut numbers = [0_u16; 2];
    /// region.read_slice(3, &mut numbers)?;
    /// assert_eq!(numbers, [2, 3]);
    /// let beyond = CopyError::OutOfBounds { offset: 9, len: 4, region: 12 };
    /// assert_eq!(region.read_slice(9, &mut numbers), Err(beyond));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn read_slice<T: AnyBitPattern + Copy>(
        &self,
        offset: usize,
        values: &mut [T],
    ) -> Result<(), CopyError> {
        let range = self.range(offset, size_of_val(values))?;
        // SAFETY: the slice is as long as the range, and of any bytes its elements are values.
        unsafe { range.copy_out(values.as_mut_ptr().cast()) };
        Ok(())
    }

    /// Copies a value to `offset` bytes. It needs not be aligned.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`], [`CopyError::ReadOnly`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, _fd) = CopyRegion::create(8)?;
    /// region.write(3, &7_u32)?;
    /// assert_eq!(region.read::<u32>(3)?, 7);
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn write<T: NoUninit + Copy>(&self, offset: usize, value: &T) -> Result<(), CopyError> {
        self.write_slice(offset, core::slice::from_ref(value))
    }

    /// Copies values to `offset` bytes, one behind the other.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`], [`CopyError::ReadOnly`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, _fd) = CopyRegion::create(8)?;
    /// region.write_slice(3, b"hello")?;
    /// assert!(region.write_slice(4, b"hello").is_err(), "one byte too far");
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn write_slice<T: NoUninit + Copy>(&self, offset: usize, values: &[T]) -> Result<(), CopyError> {
        let range = self.range_to_write(offset, size_of_val(values))?;
        // SAFETY: the slice is as long as the range, which may be written to, and all its bytes are initialised.
        unsafe { range.copy_in(values.as_ptr().cast()) };
        Ok(())
    }

    /// Copies a word out, in one piece, and whatever is copied out afterwards is no older: what a peer wrote before it
    /// [stored](Self::store_release) the word is there.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`], [`CopyError::Misaligned`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::CopyRegion;
    ///
    /// let (region, _fd) = CopyRegion::create(16)?;
    /// region.write(8, &7_u64)?;
    /// region.store_release(0, 1)?;
    /// // On the other side:
    /// if region.load_acquire(0)? == 1 {
    ///     assert_eq!(region.read::<u64>(8)?, 7);
    /// }
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn load_acquire(&self, offset: usize) -> Result<u32, CopyError> {
        let place = self.range(offset, size_of::<u32>())?.word(offset)?;
        // SAFETY: within the mapping, and aligned.
        let word = unsafe { place.read_volatile() };
        // SYNC: with `store_release`, of this crate or of a peer. What is shared is no memory of the language, so this
        // rests on what the fences are on each machine.
        fence(Ordering::Acquire);
        Ok(word)
    }

    /// Copies a word in, in one piece, after all that was copied in before.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`], [`CopyError::Misaligned`], [`CopyError::ReadOnly`].
    ///
    /// # Examples
    /// ```
    /// use shmem_bind::{CopyError, CopyRegion};
    ///
    /// let (region, _fd) = CopyRegion::create(16)?;
    /// region.store_release(4, 1)?;
    /// assert_eq!(region.store_release(2, 1), Err(CopyError::Misaligned { offset: 2, align: 4 }));
    /// # Ok::<(), shmem_bind::ShmemError>(())
    /// ```
    #[inline]
    pub fn store_release(&self, offset: usize, word: u32) -> Result<(), CopyError> {
        let place = self.range_to_write(offset, size_of::<u32>())?.word(offset)?;
        // SYNC: with `load_acquire`.
        fence(Ordering::Release);
        // SAFETY: within the mapping, which may be written to, and aligned.
        unsafe { place.write_volatile(word) };
        Ok(())
    }

    #[inline]
    fn range(&self, offset: usize, len: usize) -> Result<Range, CopyError> {
        let region = self.len();
        match offset.checked_add(len) {
            // Does not wrap: the mapping ends within the address space.
            Some(end) if end <= region => {
                Ok(Range { start: self.mapping.base().addr().get().wrapping_add(offset), len })
            }
            _ => Err(CopyError::OutOfBounds { offset, len, region }),
        }
    }

    #[inline]
    fn range_to_write(&self, offset: usize, len: usize) -> Result<Range, CopyError> {
        if self.is_read_only() { Err(CopyError::ReadOnly) } else { self.range(offset, len) }
    }
}

/// Some bytes of a region, by their address.
#[derive(Clone, Copy)]
struct Range {
    /// INVARIANT 2: `len` bytes from here are in the mapping of a region, which outlives this.
    start: usize,
    len: usize,
}

impl Range {
    /// Where the word is that this range, at `offset` of the region, consists of.
    #[inline]
    fn word(self, offset: usize) -> Result<*mut u32, CopyError> {
        let align = align_of::<u32>();
        // The region is aligned to a page.
        if offset & align.wrapping_sub(1) == 0 {
            Ok(ptr::without_provenance_mut(self.start))
        } else {
            Err(CopyError::Misaligned { offset, align })
        }
    }

    /// How many bytes come before the first whole chunk, and how many before the end of the last one.
    #[inline]
    const fn chunks(self) -> (usize, usize) {
        let before = self.start.wrapping_neg() & CHUNK.wrapping_sub(1);
        if self.len < before {
            return (self.len, self.len);
        }
        (before, self.len.wrapping_sub(self.len.wrapping_sub(before) & CHUNK.wrapping_sub(1)))
    }

    /// Copies the range to `to`.
    ///
    /// # Safety
    /// There, `len` bytes may be written.
    #[inline]
    unsafe fn copy_out(self, to: *mut u8) {
        let byte = |at: usize| {
            let from: *const u8 = ptr::without_provenance(self.start.wrapping_add(at));
            // SAFETY: `at` is less than `len`, so it is mapped; it is outside of all that the language knows.
            let byte = unsafe { from.read_volatile() };
            // SAFETY: by the caller, `at` is within what may be written.
            let to = unsafe { to.add(at) };
            // SAFETY: as above.
            unsafe { to.write(byte) };
        };
        let (first, last) = self.chunks();
        (0..first).for_each(byte);
        for at in (first..last).step_by(CHUNK) {
            let from: *const u64 = ptr::without_provenance(self.start.wrapping_add(at));
            // SAFETY: up to `last` there are whole aligned chunks within the range, which is mapped.
            let chunk = unsafe { from.read_volatile() };
            // SAFETY: by the caller, these bytes may be written.
            let to = unsafe { to.add(at) };
            // SAFETY: as above.
            unsafe { to.cast::<u64>().write_unaligned(chunk) };
        }
        (last..self.len).for_each(byte);
    }

    /// Copies `from` to the range.
    ///
    /// # Safety
    /// There are `len` initialised bytes, and the range is mapped to be written.
    #[inline]
    unsafe fn copy_in(self, from: *const u8) {
        let byte = |at: usize| {
            // SAFETY: by the caller, `at` is within what is initialised.
            let from = unsafe { from.add(at) };
            // SAFETY: as above.
            let byte = unsafe { from.read() };
            let to: *mut u8 = ptr::without_provenance_mut(self.start.wrapping_add(at));
            // SAFETY: `at` is less than `len`, so it is mapped; it is outside of all that the language knows.
            unsafe { to.write_volatile(byte) };
        };
        let (first, last) = self.chunks();
        (0..first).for_each(byte);
        for at in (first..last).step_by(CHUNK) {
            // SAFETY: by the caller, `at` is within what is initialised.
            let from = unsafe { from.add(at) };
            // SAFETY: as above, for the whole chunk.
            let chunk = unsafe { from.cast::<u64>().read_unaligned() };
            let to: *mut u64 = ptr::without_provenance_mut(self.start.wrapping_add(at));
            // SAFETY: up to `last` there are whole aligned chunks within the range, which is mapped.
            unsafe { to.write_volatile(chunk) };
        }
        (last..self.len).for_each(byte);
    }
}

/// Checks that a file of this length can be mapped.
fn check_len(len: u64) -> Result<usize, SizeError> {
    let max = isize::MAX as u64;
    match usize::try_from(len) {
        Ok(0) => Err(SizeError::Zero),
        Ok(fits) if len <= max => Ok(fits),
        _ => Err(SizeError::TooLarge { max }),
    }
}

fn map(fd: &OwnedFd, len: usize, access: Access) -> Result<Mapping, ShmemError> {
    Mapping::shared(fd, len, access)
        .map_err(Failure::of("mmap"))
        .map_err(|failure| failure.of_asking_for(len as u64))
}
