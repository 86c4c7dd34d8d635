//! What a signal handler is told about the code it interrupted (sigaction(2), `SA_SIGINFO`).
#![allow(
    unsafe_code,
    reason = "reads the structures the kernel hands to a signal handler"
)]

use std::ffi::c_void;

/// The registers from which a stack is walked by frame pointers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The instruction that was interrupted: for a fault, the one that faulted.
    pub pc: usize,
    /// Frame pointer: `rbp`, `x29`.
    pub fp: usize,
    /// Stack pointer.
    pub sp: usize,
}

/// The registers of the interrupted code. Async-signal-safe.
///
/// # Safety
/// `ucontext` is the third argument of a signal handler installed with `SA_SIGINFO` that is still running.
#[cfg(target_arch = "x86_64")]
pub unsafe fn registers(ucontext: *const c_void) -> Registers {
    // SAFETY: 1. The caller's promise: it points to a live `ucontext_t`.
    let context = unsafe { &(*ucontext.cast::<libc::ucontext_t>()).uc_mcontext };
    let register = |which: libc::c_int| context.gregs[which as usize] as usize;
    Registers {
        pc: register(libc::REG_RIP),
        fp: register(libc::REG_RBP),
        sp: register(libc::REG_RSP),
    }
}

/// The registers of the interrupted code. Async-signal-safe.
///
/// # Safety
/// `ucontext` is the third argument of a signal handler installed with `SA_SIGINFO` that is still running.
#[cfg(target_arch = "aarch64")]
pub unsafe fn registers(ucontext: *const c_void) -> Registers {
    // SAFETY: 1. The caller's promise: it points to a live `ucontext_t`.
    let context = unsafe { &(*ucontext.cast::<libc::ucontext_t>()).uc_mcontext };
    Registers {
        pc: context.pc as usize,
        fp: context.regs[29] as usize,
        sp: context.sp as usize,
    }
}

/// The address whose access faulted. Async-signal-safe.
///
/// # Safety
/// `info` is the second argument of a running signal handler for `SIGSEGV` or `SIGBUS` installed with `SA_SIGINFO`.
pub unsafe fn fault_address(info: *const libc::siginfo_t) -> usize {
    // SAFETY: 1. The caller's promise: it points to a live `siginfo_t`.
    let info = unsafe { &*info };
    // SAFETY: 1. The caller's promise: the signal is one whose information holds an address.
    unsafe { info.si_addr() as usize }
}
