//! [`Callers`]: the return addresses on the stack of a guest that stands still.
#![allow(unsafe_code, reason = "reads the stack of another thread")]

use super::Registers;

/// Return addresses, innermost first. The frames of code that keeps frame pointers are chained: at the frame pointer lies
/// the caller's, and after it the return address (System V ABI for x86-64, section 3.2.2; AAPCS64, section 6.4.6).
#[derive(Debug)]
pub struct Callers {
    fp: usize,
}

impl Registers {
    /// The return addresses of the code that was interrupted and of those that called it.
    ///
    /// # Safety
    /// The thread with these registers stands still in code that keeps frame pointers, and no more is asked for once a
    /// return address was given that is not in such code.
    pub unsafe fn callers(self) -> Callers {
        Callers { fp: self.fp }
    }
}

impl Iterator for Callers {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.fp == 0 || !self.fp.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        let frame = self.fp as *const [usize; 2];
        // SAFETY: 1. The promise of `callers`: this is the frame pointer of a frame of a stack that stands still, or
        // the one saved in such a frame.
        let [caller, return_address] = unsafe { frame.read() };
        // Stacks grow down: a chain that does not go up is none.
        self.fp = if caller > self.fp { caller } else { 0 };
        Some(return_address)
    }
}
