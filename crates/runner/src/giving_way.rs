//! [`Turn`]: threads that copy memory while its process runs give way to whoever waits for a processor.
//!
//! Linux lets a thread that computes go on for milliseconds while others wait, four where its timer ticks 250 times a second. A
//! request passes several threads, and each would wait so long for both ends of a copy.

use std::time::Instant;

use crate::limits::COPIES_FOR;

/// What a thread may copy before it gives way.
pub(crate) struct Turn(Instant);

impl Turn {
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Lets others go first, if it is time. To give way costs a thread what is left of its slice, so more often would be a much
    /// longer copy (sched_yield(2), sched(7)).
    pub(crate) fn give_way(&mut self) {
        if self.0.elapsed() >= COPIES_FOR {
            rustix::thread::sched_yield();
            *self = Self::begin();
        }
    }
}
