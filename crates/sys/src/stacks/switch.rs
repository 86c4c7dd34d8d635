//! [`switch`]: leave one stack, go on on another. The technique is that of corosensei
//! (<https://github.com/Amanieu/corosensei>): inline assembly that declares every register as overwritten, so that
//! the compiler saves what is live, and nothing else is saved.
//!
//! What a suspended context looks like, from its stack pointer upwards:
//!
//! ```text
//!  x86-64:   address to go on at │ rbx │ rbp │ …
//!  AArch64:  x19 │ x29 │ address to go on at │ (unused) │ …
//! ```
//!
//! rbx, rbp, x19 and x29 are saved by hand, since the compiler does not let assembly declare them. Not saved: the
//! floating-point control words, which Rust code never changes.
#![allow(unsafe_code, reason = "changes the stack pointer")]

use std::arch::{asm, naked_asm};

use super::{Stack, sanitizer};

/// The code that a new context runs first. It must never return; unwinding out of it ends the process.
pub type Entry = extern "C" fn(argument: usize) -> !;

/// A suspended context: the value of its stack pointer, and what a sanitizer calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Context(usize, sanitizer::Known);

impl Context {
    /// No context. Switching to it is undefined.
    pub const NONE: Self = Self(0, sanitizer::Known::NONE);

    /// Has the processor fetch what the context touches first when it goes on. With many of them that is no longer in
    /// the cache, and takes as long as the work of who runs meanwhile.
    #[inline]
    pub fn prefetch(self) {
        for line in 0..PREFETCHED_LINES {
            let address = self.0.wrapping_add(line * LINE);
            // SAFETY: 1. A hint, which no address makes fault, and which changes no register and no memory.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
            }
            // SAFETY: 1. As above.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
            }
        }
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 64;
/// From the frame that stopped to that of a thread's function, when it reads from a socket.
const PREFETCHED_LINES: usize = 12;

/// A context that will call `entry(argument)` on `stack` when it is first switched to.
///
/// # Safety
/// Nothing is running or suspended on `stack`, and it outlives every switch to the context.
pub unsafe fn prepare(stack: &Stack, entry: Entry, argument: usize) -> Context {
    let known = stack.name.begin(stack.bottom(), stack.usable());
    let (entry, argument) = sanitizer::entry(entry, argument);
    #[cfg(target_arch = "x86_64")]
    // The zero stands where a return address would, and ends back-traces. It makes the stack pointer at the
    // entry a multiple of 16 less 8, as after a call.
    let frame: [usize; 4] = [first as *const () as usize, argument, entry as usize, 0];
    #[cfg(target_arch = "aarch64")]
    let frame: [usize; 4] = [argument, 0, first as *const () as usize, entry as usize];
    let at = stack.top() - size_of_val(&frame);
    // SAFETY: 1. The range is inside the stack, aligned, and by contract unused.
    unsafe { (at as *mut [usize; 4]).write(frame) };
    Context(at, known)
}

/// Where a new context arrives: takes the argument and the entry off the stack.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn first() {
    naked_asm!("pop rdi", "pop rax", "xor ebp, ebp", "jmp rax")
}

/// Where a new context arrives: takes the argument and the entry off the stack.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
extern "C" fn first() {
    naked_asm!(
        "ldr x0, [sp]",
        "ldr x1, [sp, #24]",
        "add sp, sp, #32",
        "mov x29, xzr",
        "mov x30, xzr",
        "br x1"
    )
}

/// Suspends the running context into `from` and goes on with `to`. Returns when somebody switches to what `from` holds.
///
/// # Safety
/// `from` may be written. `to` is suspended, was not switched to since, and its stack is alive. It was suspended on
/// this kernel thread, or never ran: what it knows of thread-local storage must stay true.
#[inline(always)]
pub unsafe fn switch(from: *mut Context, to: Context) {
    // SAFETY: 1. Only the address of a field is taken.
    let known = unsafe { &raw mut (*from).1 };
    // SAFETY: 1. By contract it may be written, and the switch follows.
    let left = unsafe { sanitizer::leave(Some(known), to.1) };
    // SAFETY: 1. The contract.
    unsafe { exchange(from, to) };
    // SAFETY: 1. Somebody has switched to what was left above.
    unsafe { sanitizer::arrive(left) };
}

/// Goes on with `to` and never comes back.
///
/// # Safety
/// Of `to`, as for [`switch`]. The stack that is left stays until the switch is done.
#[inline(always)]
pub unsafe fn leave(to: Context) -> ! {
    // SAFETY: 1. The switch follows.
    unsafe { sanitizer::leave(None, to.1) };
    // SAFETY: 1. What is live here is not needed any more. 2. The rest is the contract.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("mov rsp, {}", "pop rax", "jmp rax", in(reg) to.0, options(noreturn));
    }
    // SAFETY: 1. As above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("mov sp, {}", "ldr x9, [sp, #16]", "br x9", in(reg) to.0, options(noreturn));
    }
}

/// Changes the stack: [`switch`] without what sanitizers are told.
///
/// # Safety
/// The same.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn exchange(from: *mut Context, to: Context) {
    // SAFETY: 1. All registers but those saved by hand are declared overwritten. 2. The rest is the contract.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rax, [rip + 2f]",
            "push rax",
            "mov [rdi], rsp",
            "mov rsp, rsi",
            "pop rax",
            "jmp rax",
            "2:",
            "pop rbx",
            "pop rbp",
            inout("rdi") from => _,
            inout("rsi") to.0 => _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            clobber_abi("sysv64"),
        );
    }
}

/// Changes the stack: [`switch`] without what sanitizers are told.
///
/// # Safety
/// The same.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn exchange(from: *mut Context, to: Context) {
    // SAFETY: 1. All registers but those saved by hand are declared overwritten. 2. The rest is the contract.
    unsafe {
        asm!(
            "adr x9, 2f",
            "stp x19, x29, [sp, #-32]!",
            "str x9, [sp, #16]",
            "mov x10, sp",
            "str x10, [x0]",
            "mov sp, x1",
            "ldr x9, [sp, #16]",
            "br x9",
            "2:",
            "ldp x19, x29, [sp], #32",
            inout("x0") from => _,
            inout("x1") to.0 => _,
            out("x20") _, out("x21") _, out("x22") _, out("x23") _, out("x24") _,
            out("x25") _, out("x26") _, out("x27") _, out("x28") _, out("x30") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            clobber_abi("C"),
        );
    }
}
