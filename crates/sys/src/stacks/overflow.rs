//! Telling a stack overflow from other faults, and saying whose it was.
//!
//! [`install`] puts a handler before the one that is there. It runs on the alternate signal stack, asks its
//! [`Lookup`] whether the fault hit a guard, and if so prints the name and ends the process as the standard library
//! does for its own threads. Any other fault goes to the handler that was there before.
#![allow(unsafe_code, reason = "installs a signal handler and maps its stack")]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Given the address of a fault: the name of the running thread and the size of its stack, if its guard was hit.
/// It is called in a signal handler, on the faulting kernel thread.
pub type Lookup = fn(fault: usize) -> Option<(&'static str, usize)>;

/// Bytes of an alternate signal stack, if the kernel thread had none.
const ALTERNATE_BYTES: usize = 64 * 1024;

static LOOKUP: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));

/// The handlers that were there before, for SIGSEGV.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: 1. Written once, before the handler that reads it is installed.
unsafe impl Sync for Previous {}

/// Installs the handler for the whole process, once; later calls change nothing. Every kernel thread that runs code on
/// stacks of a slab must also call [`use_alternate_stack`].
///
/// # Safety
/// `lookup` only does what a signal handler may: it takes no lock and allocates nothing. The name stays valid until
/// the process has ended.
pub unsafe fn install(lookup: Lookup) {
    INSTALL.call_once(|| {
        LOOKUP.store(lookup as usize, Ordering::Release);
        // SAFETY: 1. All zero bits are a valid sigaction: the default action, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: 1. Nobody reads it before the handler is installed, which is what this call does last. 2. Both
        // pointers are valid.
        unsafe { libc::sigaction(libc::SIGSEGV, &action, PREVIOUS.0.get().cast()) };
    });
}

/// Makes sure that this kernel thread has an alternate signal stack. Threads of the standard library have one.
/// One that is made here stays mapped until the process ends.
pub fn use_alternate_stack() {
    // SAFETY: 1. All zero bits are a valid stack_t.
    let mut current: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: 1. Asks only; the pointer is valid.
    unsafe { libc::sigaltstack(std::ptr::null(), &mut current) };
    if current.ss_flags & libc::SS_DISABLE == 0 {
        return;
    }
    let stack = libc::stack_t {
        ss_sp: Box::leak(vec![0_u8; ALTERNATE_BYTES].into_boxed_slice())
            .as_mut_ptr()
            .cast(),
        ss_flags: 0,
        ss_size: ALTERNATE_BYTES,
    };
    // SAFETY: 1. The memory is never freed and nobody else uses it.
    unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
}

extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: 1. The kernel passes a valid siginfo.
    let details = unsafe { &*info };
    // SAFETY: 1. For SIGSEGV the address is a part of it.
    let fault = unsafe { details.si_addr() } as usize;
    // SAFETY: 1. `install` stored a function of this type before it installed this handler.
    let lookup: Lookup = unsafe { std::mem::transmute(LOOKUP.load(Ordering::Acquire)) };
    if let Some((name, bytes)) = lookup(fault) {
        report(name, bytes);
        // SAFETY: 1. abort may be called in a signal handler.
        unsafe { libc::abort() };
    }
    pass_on(signal, info, context);
}

/// Writes to standard error without allocating.
fn report(name: &str, bytes: usize) {
    let mut digits = [0_u8; 20];
    let (mut left, mut at) = (bytes / 1024, digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    for part in [
        b"\nthread '".as_slice(),
        name.as_bytes(),
        b"' has overflowed its stack of ",
        &digits[at..],
        b" KiB; ask for a larger one where it is spawned\n",
    ] {
        // SAFETY: 1. The pointer and length are those of a slice.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
}

/// Not ours: what was there before decides.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: 1. The pointer is that of a static, which nobody writes once this handler is installed.
    let previous = unsafe { &*PREVIOUS.0.get() };
    // SAFETY: 1. It was written before this handler could run.
    let previous = unsafe { previous.assume_init_ref() };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // A return repeats the fault, which then takes the default action and ends the process.
            // SAFETY: 1. signal may be called in a signal handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Full = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: 1. SA_SIGINFO says that the handler is of this type.
            let handler: Full = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: 1. Without SA_SIGINFO it is of this type.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
