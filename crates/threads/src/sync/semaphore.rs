//! [`Semaphore`]: a number of permits.

use std::time::{Duration, Instant};

use super::inside;
use crate::cancel;
use crate::primitives::{self, const_function};
use crate::wait::{Cancel, Line, Outcome, Waiting};

/// Permits to be taken and given back, in the order of coming: who wants many is not passed by who wants few.
#[derive(Debug)]
pub struct Semaphore {
    state: primitives::Mutex<State>,
}

struct State {
    free: usize,
    line: Line<usize>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("State")
            .field("free", &self.free)
            .finish_non_exhaustive()
    }
}

/// Permits that are given back when dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

impl State {
    fn let_in(&mut self) {
        while let Some(&count) = self.line.first()
            && count <= self.free
        {
            if self.line.grant_first() {
                self.free -= count;
            }
        }
    }
}

impl Semaphore {
    const_function! {
        /// With so many permits.
        pub fn new(permits: usize) -> Self {
            Self {
                state: primitives::Mutex::new(State {
                    free: permits,
                    line: Line::new(),
                }),
            }
        }
    }

    /// Waits for a permit.
    pub fn acquire(&self) -> Permit<'_> {
        self.acquire_many(1)
    }

    /// Waits for `count` permits at once.
    pub fn acquire_many(&self, count: usize) -> Permit<'_> {
        self.acquire_until(count, None);
        self.permit(count)
    }

    /// The same for at most `timeout`.
    pub fn acquire_timeout(&self, count: usize, timeout: Duration) -> Option<Permit<'_>> {
        self.acquire_until(count, Instant::now().checked_add(timeout))
            .then(|| self.permit(count))
    }

    /// Permits if they are to be had without waiting.
    pub fn try_acquire(&self, count: usize) -> Option<Permit<'_>> {
        let mut state = inside(&self.state);
        let free = state.line.is_empty() && count <= state.free;
        if free {
            state.free -= count;
        }
        drop(state);
        free.then(|| self.permit(count))
    }

    /// Adds permits: what a thread does that others wait for.
    pub fn release(&self, count: usize) {
        let mut state = inside(&self.state);
        state.free += count;
        state.let_in();
    }

    /// Permits that nobody has.
    pub fn available(&self) -> usize {
        inside(&self.state).free
    }

    fn permit(&self, count: usize) -> Permit<'_> {
        Permit {
            semaphore: self,
            count,
        }
    }

    fn acquire_until(&self, count: usize, deadline: Option<Instant>) -> bool {
        let waiting = {
            let mut state = inside(&self.state);
            if state.line.is_empty() && count <= state.free {
                state.free -= count;
                return true;
            }
            let waiting = Waiting::begin();
            state.line.push(waiting.ticket(), count);
            waiting
        };
        let outcome = waiting.wait(deadline, Cancel::May);
        if outcome != Outcome::Granted {
            let mut state = inside(&self.state);
            state.line.remove(waiting);
            state.let_in();
        }
        if outcome == Outcome::Cancelled {
            cancel::raise();
        }
        outcome == Outcome::Granted
    }
}

impl Permit<'_> {
    /// Keeps the permits out of the semaphore for ever, or until [`Semaphore::release`].
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.release(self.count);
        }
    }
}
