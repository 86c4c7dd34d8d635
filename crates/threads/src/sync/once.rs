//! [`Once`] and [`OnceLock`]: what is done once, by whoever comes first.

use super::inside;
use crate::cancel;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::primitives::{self, const_function};
use crate::wait::{Cancel, Line, Outcome, Waiting};

/// Runs a function once. If it panics, the next that comes runs its own; nothing is poisoned.
#[derive(Default)]
pub struct Once {
    done: AtomicBool,
    state: primitives::Mutex<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    line: Line,
}

/// Puts the state right however the function ends.
struct Running<'a>(&'a Once);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = inside(&self.0.state);
        state.running = false;
        state.line.grant_all();
    }
}

impl Once {
    const_function! {
        /// Not done yet.
        pub fn new() -> Self {
            Self {
                done: AtomicBool::new(false),
                state: primitives::Mutex::new(State {
                    running: false,
                    line: Line::new(),
                }),
            }
        }
    }

    /// Whether it was done.
    pub fn is_completed(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Runs `f` if nobody did; returns when it is done. Called by `f` itself it waits for ever.
    pub fn call_once(&self, f: impl FnOnce()) {
        while !self.is_completed() {
            let waiting = {
                let mut state = inside(&self.state);
                if self.is_completed() {
                    return;
                }
                if !state.running {
                    state.running = true;
                    None
                } else {
                    let waiting = Waiting::begin();
                    state.line.push(waiting.ticket(), ());
                    Some(waiting)
                }
            };
            match waiting {
                None => {
                    let _running = Running(self);
                    f();
                    self.done.store(true, Ordering::Release);
                    return;
                }
                Some(waiting) => {
                    if waiting.wait(None, Cancel::May) == Outcome::Cancelled {
                        inside(&self.state).line.remove(waiting);
                        cancel::raise();
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Once {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Once")
            .field("done", &self.is_completed())
            .finish_non_exhaustive()
    }
}

/// A value that is made once.
#[derive(Debug)]
pub struct OnceLock<T> {
    once: Once,
    value: std::sync::OnceLock<T>,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> OnceLock<T> {
    const_function! {
        /// No value yet.
        pub fn new() -> Self {
            Self {
                once: Once::new(),
                value: std::sync::OnceLock::new(),
            }
        }
    }

    /// The value, if it was made.
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, which `f` makes if there is none. Who comes meanwhile waits.
    pub fn get_or_init(&self, f: impl FnOnce() -> T) -> &T {
        self.once.call_once(|| {
            // Nobody else sets it: this runs once.
            let _ = self.value.set(f());
        });
        match self.value.get() {
            Some(value) => value,
            None => unreachable!("call_once returns when the value is set"),
        }
    }

    /// The value.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }
}
