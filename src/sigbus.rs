//! When memory goes away under a mapping
//!
//! # Safety
//! Has its caller answer for what it does to references.
#![allow(unsafe_code)]

use crate::attachment;

/// For the application's own handler of `SIGBUS`: if `address`, the one that could not be accessed, lies in a segment that
/// this process has attached, puts zeros in the place of what has gone, and gives `true`. Then the handler returns, and the
/// access reads zero. For any other address gives `false`, and does nothing.
///
/// A peer that may write to the file of a named segment can make it shorter; and where memory is
/// [not reserved](crate::ReservePolicy::Lazy) there may be none left when a page is needed. Either way the access is a
/// `SIGBUS`, which kills the process, unless it has a handler. This library never installs one. A memfd segment cannot be made shorter.
///
/// The zeros are this process's own, and take the place of the whole payload, also where a page had not gone: so nothing that this
/// process goes on to write is taken by others for whole, of which they see only a part. From then on the attachment is *severed*: [`ShmemConf::is_severed`](crate::ShmemConf::is_severed) says so, the operation
/// during which it happened, or else the next one, fails with an error called `Severed`, and so do all that follow.
/// It no longer unlinks the segment, destroys no values, frees no objects, and gives no locks back. Drop all handles, boxes and
/// references; the last one leaves the segment as if this process had died, at the fault, and unmaps it. Then open the segment
/// again, which says in what state the file is: cut to nothing, it becomes a new segment for who may create one; else it is
/// [truncated](crate::HeaderError::Truncated), and to be removed like any other file.
///
/// Any thread may fault, also several at once, and while the segment is opened or the last handle dropped. In a child after
/// `fork` nothing that was inherited counts as attached: what it has attached itself does.
///
/// It is async-signal-safe: it reads and writes atomics, makes two system calls, and leaves `errno` alone.
///
/// # Safety
/// - It is called in a handler of `SIGBUS`, in the thread that the signal was sent to by the kernel, with `si_addr`, for `si_code`
///   `BUS_ADRERR`, or `BUS_MCEERR_AR` (the memory itself is broken). Others do not say that memory has gone: after an access that is not
///   aligned, for one, returning would lead to the same again.
/// - The program is content that any bytes of any value in the segment are zero from then on, at any moment, as if another thread had written
///   them, also under references, and also where that is no value of the type: a `bool` or an integer is one, a
///   `NonZero`, or an enum without a variant 0, is not. Values that a box, a reference or a guard leads to are not looked at after the first
///   `Severed`, or are of types for which zeros are a value.
///
/// # Examples
/// `examples/survive-truncation.rs` has a handler, and a peer that cuts the segment short.
///
/// ```
/// // An address that has nothing to do with a segment is left to others.
/// let number = 7;
/// // SAFETY: nothing is attached.
/// assert!(!unsafe { shmem_bind::sigbus_fixup((&raw const number).cast()) });
/// ```
///
/// # References
///  - [Linux `sigaction(2)`](https://man7.org/linux/man-pages/man2/sigaction.2.html)
///  - [Linux `mmap(2)`](https://man7.org/linux/man-pages/man2/mmap.2.html): "`SIGBUS`: attempted access to a page of the buffer
///    that lies beyond the end of the mapped file"
#[must_use = "false says that the fault is another's to handle"]
pub unsafe fn sigbus_fixup(address: *const ()) -> bool {
    // SAFETY: this thread has faulted there and does not go on before the handler returns, and the program does not mind zeros, both by
    // the caller's promise.
    unsafe { attachment::sever(address.addr()) }
}
