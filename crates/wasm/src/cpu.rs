//! CPU time of guests: metered while one holds a thread of the [pool](crate::pool), and limited.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sterna_process::Limits;
use sterna_sys::clock::ThreadClock;

use crate::wait;

/// CPU time of one guest.
#[derive(Default)]
pub(crate) struct CpuMeter {
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    before: Duration,
    /// Threads that it holds, and their times when it came to each. Two for a moment: it may have gone on on another one before the
    /// one on which it stopped is given back.
    held: Vec<(ThreadClock, Duration)>,
}

/// For how long a thread has computed since.
fn since((clock, then): (ThreadClock, Duration)) -> Duration {
    let now = clock.read().unwrap_or_default();
    now.saturating_sub(then)
}

impl CpuMeter {
    pub(crate) fn starting_at(before: Duration) -> CpuMeter {
        CpuMeter {
            used: Mutex::new(Used {
                before,
                held: Vec::new(),
            }),
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Duration {
        let used = self.used();
        used.before + used.held.iter().copied().map(since).sum::<Duration>()
    }

    /// Its guest computes on this thread from now on.
    pub(crate) fn begin(&self) {
        let clock = ThreadClock::of_this_thread();
        let then = clock.read().unwrap_or_default();
        self.used().held.push((clock, then));
    }

    /// No longer on this one.
    pub(crate) fn end(&self) {
        let clock = ThreadClock::of_this_thread();
        let mut used = self.used();
        if let Some(at) = used.held.iter().position(|(held, _)| *held == clock) {
            let held = used.held.swap_remove(at);
            used.before += since(held);
        }
    }
}

/// A process that can be ended for breaking a limit.
pub(crate) trait Limited: Send + Sync {
    fn has_ended(&self) -> bool;
    /// Ends it; `what` says what it did.
    fn end_for(&self, what: String);
}

/// Kills a process once it has used up its CPU time.
pub(crate) fn limit<L: Limited + 'static>(process: &Arc<L>, cpu: &Arc<CpuMeter>, limits: &Limits) {
    let Some(max) = limits.cpu_time_max else {
        return;
    };
    let (process, cpu) = (Arc::downgrade(process), cpu.clone());
    wait::reactor().spawn(async move {
        while let Some(process) = process.upgrade() {
            if process.has_ended() {
                return;
            }
            let left = max.saturating_sub(cpu.read());
            if left.is_zero() {
                process.end_for(format!("used up its {max:?} of CPU time"));
                return;
            }
            drop(process);
            tokio::time::sleep(left.max(Duration::from_millis(1))).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn compute() {
        let clock = ThreadClock::of_this_thread();
        let then = clock.read().unwrap();
        while since((clock, then)) < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_guest_that_goes_on_elsewhere_before_its_thread_is_given_back_is_metered_on() {
        let meter = Arc::new(CpuMeter::default());
        let (gone_on, first) = mpsc::channel();
        let (given_back, second) = mpsc::channel::<()>();
        meter.begin();
        compute();
        let other = thread::spawn({
            let meter = meter.clone();
            move || {
                meter.begin();
                gone_on.send(()).unwrap();
                second.recv().unwrap();
                compute();
                let seen = meter.read();
                meter.end();
                seen
            }
        });
        first.recv().unwrap();
        meter.end();
        let before = meter.read();
        assert!(before >= Duration::from_millis(5));
        given_back.send(()).unwrap();
        let seen = other.join().unwrap();
        assert!(
            seen >= before + Duration::from_millis(5),
            "{before:?} {seen:?}"
        );
        assert!(meter.read() >= seen);
    }
}
