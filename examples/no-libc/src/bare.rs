//! What a C library would bring along: the start and the end of the program, output, and the functions that the compiler
//! calls

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char};

/// Writes to standard output, unbuffered. What cannot be written is lost.
pub fn print(text: &str) {
    let mut bytes = text.as_bytes();
    // SAFETY: nobody in this program closes it.
    let out = unsafe { rustix::stdio::stdout() };
    while let Ok(written @ 1..) = rustix::io::write(out, bytes) {
        bytes = bytes.get(written..).unwrap_or_default();
    }
}

/// Called by `_start` with the initial stack: the number of arguments, and the arguments.
///
/// # Safety
/// `stack` is what the kernel has prepared for the program.
unsafe extern "C" fn run(stack: *const usize) -> ! {
    let mut arguments = [None; 2];
    // SAFETY: the count stands there.
    let count = unsafe { stack.read() };
    for (index, argument) in arguments.iter_mut().enumerate().take(count) {
        // SAFETY: so many pointers to strings stand behind it, which are there as long as the program is.
        *argument =
            unsafe { CStr::from_ptr(stack.add(1 + index).cast::<*const c_char>().read()) }.to_str().ok();
    }
    exit(crate::main(if count == 2 { &arguments } else { &[] }))
}

/// Ends the process.
fn exit(status: i32) -> ! {
    // SAFETY: `exit_group` takes a number and does not return.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack))
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") 94, in("x0") status, options(noreturn, nostack))
    }
}

#[cfg(target_arch = "x86_64")]
global_asm!(
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
global_asm!(
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
