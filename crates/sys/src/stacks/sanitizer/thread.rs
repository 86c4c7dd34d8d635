//! For the thread sanitizer: each context is a fiber of its own.
#![allow(unsafe_code, reason = "calls the sanitizer, which is C")]

use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::stacks::Entry;

unsafe extern "C" {
    fn __tsan_get_current_fiber() -> *mut c_void;
    fn __tsan_create_fiber(flags: c_uint) -> *mut c_void;
    fn __tsan_destroy_fiber(fiber: *mut c_void);
    fn __tsan_switch_to_fiber(fiber: *mut c_void, flags: c_uint);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stacks) struct Known(usize);

#[derive(Debug, Default)]
pub(in crate::stacks) struct Name(AtomicPtr<c_void>);

pub(in crate::stacks) struct Left;

impl Known {
    pub(in crate::stacks) const NONE: Self = Self(0);
}

impl Name {
    /// A name of its own for each context: what the last one called is still noted under the old one.
    pub(in crate::stacks) fn begin(&self, bottom: usize, bytes: usize) -> Known {
        self.end(bottom, bytes);
        // SAFETY: 1. Makes something new.
        let fiber = unsafe { __tsan_create_fiber(0) };
        self.0.store(fiber, Ordering::Relaxed);
        Known(fiber as usize)
    }

    pub(in crate::stacks) fn end(&self, _bottom: usize, _bytes: usize) {
        let before = self.0.swap(ptr::null_mut(), Ordering::Relaxed);
        if !before.is_null() {
            // SAFETY: 1. It is taken out once, and nothing runs on the stack.
            unsafe { __tsan_destroy_fiber(before) };
        }
    }
}

pub(in crate::stacks) fn entry(entry: Entry, argument: usize) -> (Entry, usize) {
    (entry, argument)
}

/// Inlined: the entry to a function would be noted for one context, and its end for the other.
#[inline(always)]
pub(in crate::stacks) unsafe fn leave(from: Option<*mut Known>, to: Known) -> Left {
    if let Some(from) = from {
        // SAFETY: 1. Only asks.
        let current = unsafe { __tsan_get_current_fiber() };
        // SAFETY: 1. By contract `from` may be written.
        unsafe { from.write(Known(current as usize)) };
    }
    // SAFETY: 1. The context that is switched to next is alive, and so is its name.
    unsafe { __tsan_switch_to_fiber(to.0 as *mut c_void, 0) };
    Left
}

#[inline(always)]
pub(in crate::stacks) unsafe fn arrive(_left: Left) {}
