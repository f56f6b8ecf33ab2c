//! A program without a C library, which counts how often it was started
//!
//! `cargo run --release --manifest-path examples/no-libc/Cargo.toml -- NAME` adds one to the number that is called
//! `starts` in the arena NAME, and prints it. Other processes find the same number there, whatever they are made of.
//! The segment is left behind; `rm /dev/shm/NAME` removes it.
//!
//! It is static, has no allocator and no unwinding, and makes system calls itself. What a C library would bring
//! along is in the last part of this file.

#![no_std]
#![no_main]

use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use shmem_bind::{Builder, OrphanPolicy, ShmemConf, ShmemError, Tlsf, UnlinkPolicy};

fn start(name: &str) -> Result<(), ShmemError> {
    // Whoever comes first makes it, and nobody takes it along.
    let segment: ShmemConf = Builder::new(name)
        .unlink_policy(UnlinkPolicy::Never)
        .orphan_policy(OrphanPolicy::Adopt)
        .with_size(16 * 1024)
        .open()?;
    let mut out = Out;
    let arena = match segment.arena::<Tlsf>() {
        Ok(arena) => arena,
        Err(error) => {
            let _ = writeln!(out, "{name} is no arena: {error}");
            return Ok(());
        }
    };
    let _ = match arena.find_or_alloc("starts", || AtomicU64::new(0)) {
        Ok(starts) => writeln!(out, "started {} times", starts.fetch_add(1, Ordering::Relaxed) + 1),
        Err(error) => writeln!(out, "the number cannot be had: {error}"),
    };
    Ok(())
}

/// Standard output, unbuffered.
struct Out;

impl Write for Out {
    fn write_str(&mut self, string: &str) -> fmt::Result {
        let mut bytes = string.as_bytes();
        while !bytes.is_empty() {
            // SAFETY: nobody in this program closes it.
            let written =
                rustix::io::write(unsafe { rustix::stdio::stdout() }, bytes).map_err(|_| fmt::Error)?;
            bytes = bytes.get(written..).ok_or(fmt::Error)?;
        }
        Ok(())
    }
}

/// Called by `_start` with the initial stack: the number of arguments, and the arguments.
///
/// # Safety
/// `stack` is what the kernel has prepared for the program.
unsafe extern "C" fn run(stack: *const usize) -> ! {
    // SAFETY: the count stands there, and so many pointers to strings behind it.
    let name = unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<*const c_char>();
        if count == 2 { CStr::from_ptr(*arguments.add(1)).to_str().ok() } else { None }
    };
    let result = match name {
        Some(name) => start(name),
        None => {
            let _ = writeln!(Out, "say the name of a segment");
            exit(2)
        }
    };
    if let Err(error) = result {
        let _ = writeln!(Out, "{error}");
        exit(1);
    }
    exit(0)
}

/// Ends the process.
fn exit(status: i32) -> ! {
    // SAFETY: `exit_group` takes a number and does not return.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack))
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("svc 0", in("x8") 94, in("x0") status, options(noreturn, nostack))
    }
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {run}",
    "ud2",
    run = sym run,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x0, sp",
    "mov x29, xzr",
    "bl {run}",
    "brk #1",
    run = sym run,
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// What the compiler calls, and a C library would bring along. Byte by byte, and volatile, lest the compiler makes calls of
/// these very functions out of the loops.
mod memory {
    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        for i in 0..len {
            // SAFETY: the caller promises that both have so many bytes.
            unsafe { to.add(i).write_volatile(from.add(i).read()) };
        }
        to
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if to.addr().wrapping_sub(from.addr()) >= len {
            // SAFETY: what is overwritten has been read before, or is not read; lengths as promised.
            return unsafe { memcpy(to, from, len) };
        }
        for i in (0..len).rev() {
            // SAFETY: as above, from the end.
            unsafe { to.add(i).write_volatile(from.add(i).read()) };
        }
        to
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        for i in 0..len {
            // SAFETY: the caller promises so many bytes.
            unsafe { to.add(i).write_volatile(byte as u8) };
        }
        to
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
        for i in 0..len {
            // SAFETY: the caller promises that both have so many bytes.
            let (a, b) = unsafe { (one.add(i).read_volatile(), other.add(i).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
        // SAFETY: the caller promises the same.
        unsafe { memcmp(one, other, len) }
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(string: *const u8) -> usize {
        let mut len = 0;
        // SAFETY: the caller promises that there is a zero, and this goes no further.
        while unsafe { string.add(len).read_volatile() } != 0 {
            len += 1;
        }
        len
    }
}

/// Never called: nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
