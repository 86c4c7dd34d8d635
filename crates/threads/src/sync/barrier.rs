//! [`Barrier`]: threads that wait for each other.

use super::inside;
use crate::cancel;
use crate::primitives::{self, const_function};
use crate::wait::{Cancel, Line, Outcome, Waiting};

/// Lets threads go on when a number of them have come; then again.
pub struct Barrier {
    size: usize,
    state: primitives::Mutex<State>,
}

struct State {
    arrived: usize,
    line: Line,
}

impl Barrier {
    const_function! {
        /// For `size` threads; 0 and 1 let everybody pass.
        pub fn new(size: usize) -> Self {
            Self {
                size,
                state: primitives::Mutex::new(State {
                    arrived: 0,
                    line: Line::new(),
                }),
            }
        }
    }

    /// Waits for the others. True for one of each round, the last to come. Who is cancelled has not come.
    pub fn wait(&self) -> bool {
        let waiting = {
            let mut state = inside(&self.state);
            state.arrived += 1;
            if state.arrived >= self.size {
                state.arrived = 0;
                state.line.grant_all();
                return true;
            }
            let waiting = Waiting::begin();
            state.line.push(waiting.ticket(), ());
            waiting
        };
        if waiting.wait(None, Cancel::May) == Outcome::Cancelled {
            // If the round was completed meanwhile, this thread counted, and nobody lacks it.
            let mut state = inside(&self.state);
            let before = state.line.len();
            state.line.remove(waiting);
            state.arrived -= before - state.line.len();
            drop(state);
            cancel::raise();
        }
        false
    }
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Barrier")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
