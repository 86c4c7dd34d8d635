//! CPU time of guests: metered while one holds a thread of the [pool](crate::pool), and limited.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sterna_process::Limits;
use sterna_sys::clock::ThreadClock;

use crate::wait;

/// CPU time of one guest.
#[derive(Default)]
pub(crate) struct CpuMeter {
    used: Mutex<(Duration, Option<(ThreadClock, Duration)>)>,
}

impl CpuMeter {
    pub(crate) fn starting_at(used: Duration) -> CpuMeter {
        CpuMeter {
            used: Mutex::new((used, None)),
        }
    }

    pub(crate) fn read(&self) -> Duration {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let current = used
            .1
            .and_then(|(clock, since)| clock.read()?.checked_sub(since));
        used.0 + current.unwrap_or_default()
    }

    /// Its guest computes on this thread from now on.
    pub(crate) fn begin(&self) {
        let clock = ThreadClock::of_this_thread();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.1 = clock.read().map(|since| (clock, since));
    }

    /// No longer.
    pub(crate) fn end(&self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((clock, since)) = used.1.take() {
            used.0 += clock
                .read()
                .and_then(|now| now.checked_sub(since))
                .unwrap_or_default();
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
