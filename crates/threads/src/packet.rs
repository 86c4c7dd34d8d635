//! [`Packet`]: where a thread leaves its result for the one that joins it.
//!
//! ```text
//!  RUNNING ──(a joiner comes, its ticket is in the packet)──► WAITED ──(it gives up)──► RUNNING
//!     └───────────────────► FINISHED ◄───────────────────────────┘      the result is in the packet
//! ```
#![allow(
    unsafe_code,
    reason = "a result and a ticket that a state says whose they are"
)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::cancel;
use crate::spawn::Result;
use crate::wait::{Cancel, Outcome, Ticket, Waiting};

const RUNNING: u8 = 0;
const WAITED: u8 = 1;
const FINISHED: u8 = 2;

/// Shared by the thread, which calls [`finish`](Self::finish) once, and its handle, which calls [`wait`](Self::wait)
/// at most once.
pub(crate) struct Packet<T> {
    state: AtomicU8,
    /// The thread's until `FINISHED`, then the handle's.
    result: UnsafeCell<Option<Result<T>>>,
    /// The handle's while `RUNNING`; then of whoever leaves `WAITED`.
    joiner: UnsafeCell<Option<Ticket>>,
}

// SAFETY: 1. The state says which side may touch which field; values move from one thread to another.
unsafe impl<T: Send> Send for Packet<T> {}
// SAFETY: 1. As above.
unsafe impl<T: Send> Sync for Packet<T> {}

impl<T> Packet<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(RUNNING),
            result: UnsafeCell::new(None),
            joiner: UnsafeCell::new(None),
        }
    }

    /// Leaves the result. Only the thread calls this, once.
    pub(crate) fn finish(&self, result: Result<T>) {
        debug_assert!(!self.is_finished());
        // SAFETY: 1. It is the thread's until `FINISHED`.
        unsafe { *self.result.get() = Some(result) };
        if self.state.swap(FINISHED, Ordering::AcqRel) == WAITED {
            // SAFETY: 1. This call left `WAITED`.
            let joiner = unsafe { (*self.joiner.get()).take() };
            if let Some(joiner) = joiner {
                joiner.grant();
            }
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state.load(Ordering::Acquire) == FINISHED
    }

    /// Waits for the result. Only the handle calls this, once.
    pub(crate) fn wait(&self, cancel: Cancel) -> Result<T> {
        if !self.is_finished() && !self.wait_unfinished(cancel) {
            cancel::raise();
        }
        // SAFETY: 1. It is the handle's now.
        let result = unsafe { (*self.result.get()).take() };
        result.expect("it is taken once")
    }

    /// False if it was cancelled.
    fn wait_unfinished(&self, cancel: Cancel) -> bool {
        let waiting = Waiting::begin();
        // SAFETY: 1. It is the handle's, which has not set `WAITED` yet.
        unsafe { *self.joiner.get() = Some(waiting.ticket()) };
        if !self.exchange(RUNNING, WAITED) {
            return true;
        }
        if waiting.wait(None, cancel) != Outcome::Cancelled {
            return true;
        }
        if self.exchange(WAITED, RUNNING) {
            // SAFETY: 1. This call left `WAITED`.
            unsafe { *self.joiner.get() = None };
        }
        false
    }

    fn exchange(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}
