//! [`Condvar`]: waiting until something about a locked value has changed.

use std::time::{Duration, Instant};

use super::{MutexGuard, inside};
use crate::cancel;
use crate::primitives::{self, const_function};
use crate::wait::{Cancel, Line, Outcome, Waiting};

/// A condition variable. It wakes in the order of coming, and nobody for no reason.
#[derive(Default)]
pub struct Condvar {
    line: primitives::Mutex<Line>,
}

impl Condvar {
    const_function! {
        /// Nobody waits.
        pub fn new() -> Self {
            Self {
                line: primitives::Mutex::new(Line::new()),
            }
        }
    }

    /// Unlocks, waits to be notified, locks again. If it is cancelled, it does not lock again.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, None).0
    }

    /// The same while `condition` is true.
    pub fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }

    /// The same for at most `timeout`; true if it was over first.
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        self.wait_until(guard, Instant::now().checked_add(timeout))
    }

    fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, T>, bool) {
        let mutex = guard.mutex();
        let waiting = Waiting::begin();
        inside(&self.line).push(waiting.ticket(), ());
        drop(guard);
        let outcome = waiting.wait(deadline, Cancel::May);
        if outcome != Outcome::Granted {
            inside(&self.line).remove(waiting);
        }
        if outcome == Outcome::Cancelled {
            cancel::raise();
        }
        (mutex.lock_again(), outcome == Outcome::TimedOut)
    }

    /// Wakes who waited longest. Whether there was somebody.
    pub fn notify_one(&self) -> bool {
        inside(&self.line).grant_one()
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        // Who comes while they are woken waits for the next call.
        let mut line = std::mem::take(&mut *inside(&self.line));
        line.grant_all();
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Condvar")
    }
}
