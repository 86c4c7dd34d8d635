//! `yield_now`, `sleep`, `park` and their like for the running thread.

use std::time::{Duration, Instant};

use crate::cancel::{Ending, checkpoint};
use crate::here;
use crate::primitives::atomic::Ordering;

/// Lets others run that are ready. On kernel threads it asks the kernel to.
#[inline]
pub fn yield_now() {
    checkpoint();
    here::with_worker(|worker| match worker {
        Some(worker) => worker.yield_now(),
        None => std::thread::yield_now(),
    });
}

/// Stops the running thread for at least `duration`. A duration beyond what a clock can express is for ever.
pub fn sleep(duration: Duration) {
    match Instant::now().checked_add(duration) {
        Some(deadline) => sleep_until(deadline),
        None => {
            let mut ending = Ending::default();
            loop {
                ending.check();
                here::block(None);
            }
        }
    }
}

/// Stops the running thread until `deadline` has passed.
pub fn sleep_until(deadline: Instant) {
    let mut ending = Ending::default();
    loop {
        ending.check();
        if deadline <= Instant::now() {
            return;
        }
        here::block(Some(deadline));
    }
}

/// Stops the running thread until somebody calls [`Thread::unpark`](crate::Thread::unpark), or did so since the last
/// `park`. Like the standard library's it may return for no reason, but does not.
pub fn park() {
    park_for(None);
}

/// The same for at most `duration`.
pub fn park_timeout(duration: Duration) {
    park_for(Instant::now().checked_add(duration));
}

fn park_for(deadline: Option<Instant>) {
    let mut ending = Ending::default();
    loop {
        ending.check();
        if here::with_record(|record| record.token.swap(false, Ordering::AcqRel)) {
            return;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return;
        }
        here::block(deadline);
    }
}
