//! What the compiler's sanitizers must be told of stacks and switches: without it they take one thread's frames for
//! another's. Compiled to nothing unless built with `--cfg sanitized="address"` or `"thread"`, as `cargo xtask test --full`
//! does.
//!
//! [`Known`] is what a context is called by, and is kept in it; [`Name`] belongs to a stack. The calls are those of LLVM's
//! `sanitizer/common_interface_defs.h` and `sanitizer/tsan_interface.h`.
#![allow(unsafe_code, reason = "calls the sanitizers, which are C")]

#[cfg(sanitized = "address")]
mod address;
#[cfg(sanitized = "thread")]
mod thread;

#[cfg(sanitized = "address")]
pub(super) use address::*;
#[cfg(not(any(sanitized = "address", sanitized = "thread")))]
pub(super) use nobody::*;
#[cfg(sanitized = "thread")]
pub(super) use thread::*;

#[cfg(not(any(sanitized = "address", sanitized = "thread")))]
mod nobody {
    use crate::stacks::Entry;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::stacks) struct Known;

    #[derive(Debug, Default)]
    pub(in crate::stacks) struct Name;

    /// What `arrive` must know of `leave`.
    pub(in crate::stacks) struct Left;

    impl Known {
        pub(in crate::stacks) const NONE: Self = Self;
    }

    impl Name {
        /// A new context begins on the stack with this lowest address and so many bytes.
        #[inline(always)]
        pub(in crate::stacks) fn begin(&self, _bottom: usize, _bytes: usize) -> Known {
            Known
        }

        /// Nothing runs on the stack any more.
        #[inline(always)]
        pub(in crate::stacks) fn end(&self, _bottom: usize, _bytes: usize) {}
    }

    /// What to call first in a new context, and with what.
    #[inline(always)]
    pub(in crate::stacks) fn entry(entry: Entry, argument: usize) -> (Entry, usize) {
        (entry, argument)
    }

    /// Right before a switch to `to`. What the running context is called by goes to `from`, if it is to go on later.
    #[inline(always)]
    pub(in crate::stacks) unsafe fn leave(_from: Option<*mut Known>, _to: Known) -> Left {
        Left
    }

    /// Right after a switch to where `leave` returned this.
    #[inline(always)]
    pub(in crate::stacks) unsafe fn arrive(_left: Left) {}
}
