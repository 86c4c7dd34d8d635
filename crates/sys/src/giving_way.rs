//! [`Turn`]: threads that have much to do, and for which nobody waits, give way to whoever waits for a processor.
//!
//! Linux lets a thread that computes go on for milliseconds while others wait, four where its timer ticks 250 times a second. A
//! request passes several threads, and each may wait so long.

use std::time::{Duration, Instant};

/// To give way costs a thread what is left of its slice: more often would be much longer work (sched_yield(2), sched(7)).
const TURN: Duration = Duration::from_millis(1);

/// What a thread may do before it gives way.
#[derive(Debug)]
pub struct Turn(Instant);

impl Turn {
    /// It begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Lets others go first, if it is time. To be called between two pieces of work.
    pub fn give_way(&mut self) {
        if self.0.elapsed() >= TURN {
            rustix::thread::sched_yield();
            *self = Self::begin();
        }
    }
}
