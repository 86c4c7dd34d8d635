//! For the address sanitizer: between which addresses the stack lies that is switched to, and which frames of it were
//! set aside.
#![allow(unsafe_code, reason = "calls the sanitizer, which is C")]

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use crate::stacks::Entry;

unsafe extern "C" {
    fn __sanitizer_start_switch_fiber(fake: *mut *mut c_void, bottom: usize, bytes: usize);
    fn __sanitizer_finish_switch_fiber(
        fake: *mut c_void,
        bottom_before: *mut usize,
        bytes_before: *mut usize,
    );
    fn __asan_unpoison_memory_region(bottom: usize, bytes: usize);
}

/// The stack's lowest address and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stacks) struct Known(usize, usize);

#[derive(Debug, Default)]
pub(in crate::stacks) struct Name;

thread_local! {
    /// What runs on this kernel thread: `NONE` before its first switch.
    static HERE: Cell<Known> = const { Cell::new(Known::NONE) };
}

impl Known {
    pub(in crate::stacks) const NONE: Self = Self(0, 0);

    /// The stack that the kernel thread itself has.
    fn of_kernel_thread() -> Self {
        let (mut bottom, mut bytes) = (ptr::null_mut(), 0);
        // SAFETY: 1. All zero bits are room for attributes.
        let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
        // SAFETY: 1. The thread asks about itself. 2. The pointer is valid.
        let got = unsafe { libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) };
        assert_eq!(got, 0, "the C library knows its threads");
        // SAFETY: 1. The attributes were filled in above.
        unsafe { libc::pthread_attr_getstack(&attributes, &mut bottom, &mut bytes) };
        // SAFETY: 1. As above; nobody uses them any more.
        unsafe { libc::pthread_attr_destroy(&mut attributes) };
        Self(bottom as usize, bytes)
    }
}

impl Name {
    pub(in crate::stacks) fn begin(&self, bottom: usize, bytes: usize) -> Known {
        self.end(bottom, bytes);
        Known(bottom, bytes)
    }

    /// Frames that were left for good are still marked.
    pub(in crate::stacks) fn end(&self, bottom: usize, bytes: usize) {
        // SAFETY: 1. The range is that of a stack on which nothing runs.
        unsafe { __asan_unpoison_memory_region(bottom, bytes) };
    }
}

pub(in crate::stacks) fn entry(entry: Entry, argument: usize) -> (Entry, usize) {
    (first, Box::into_raw(Box::new((entry, argument))) as usize)
}

extern "C" fn first(argument: usize) -> ! {
    // SAFETY: 1. `entry` made the box for this call.
    let (entry, argument) = *unsafe { Box::from_raw(argument as *mut (Entry, usize)) };
    // SAFETY: 1. A new context has no frames that were set aside.
    unsafe { arrive(ptr::null_mut()) };
    entry(argument)
}

/// The frames that the sanitizer has set aside for who leaves.
#[inline(always)]
pub(in crate::stacks) unsafe fn leave(from: Option<*mut Known>, to: Known) -> *mut c_void {
    let before = HERE.replace(to);
    let mut fake = ptr::null_mut();
    let kept = match from {
        Some(from) => {
            let known = match before {
                Known::NONE => Known::of_kernel_thread(),
                known => known,
            };
            // SAFETY: 1. By contract `from` may be written.
            unsafe { from.write(known) };
            &raw mut fake
        }
        None => ptr::null_mut(),
    };
    // SAFETY: 1. The range is that of the stack that is switched to next.
    unsafe { __sanitizer_start_switch_fiber(kept, to.0, to.1) };
    fake
}

#[inline(always)]
pub(in crate::stacks) unsafe fn arrive(fake: *mut c_void) {
    // SAFETY: 1. What was set aside belongs to the context that goes on. 2. Null pointers ask for nothing.
    unsafe { __sanitizer_finish_switch_fiber(fake, ptr::null_mut(), ptr::null_mut()) };
}
