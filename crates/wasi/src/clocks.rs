//! Time: the host's clocks, and the process's own clock made from them.
//!
//! The process's clock starts at zero, never goes back, and stands still while the process is
//! frozen: a state carries the reading, and a restored process goes on from it. Wall time is
//! always the present host's.

use crate::abi::{Errno, clockid};
use std::time::Duration;

/// The clocks of a host. Tests put their own in.
pub trait Clocks: Send + Sync {
    /// Wall time since 1970-01-01T00:00:00Z.
    fn realtime(&self) -> Duration;
    /// Time since a fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// CPU time the process has used on this host since its [`Wasi`](crate::Wasi) was made. What it
    /// used before a move is in its state.
    fn cpu_time(&self) -> Duration;
}

/// The machine's clocks; `C` tells the CPU time of the process.
#[derive(Debug, Clone)]
pub struct HostClocks<C> {
    cpu_time: C,
}

impl<C: Fn() -> Duration + Send + Sync> HostClocks<C> {
    /// Host clocks with the CPU time as `cpu_time` tells it.
    pub fn new(cpu_time: C) -> HostClocks<C> {
        HostClocks { cpu_time }
    }
}

impl<C: Fn() -> Duration + Send + Sync> Clocks for HostClocks<C> {
    fn realtime(&self) -> Duration {
        reading(rustix::time::ClockId::Realtime)
    }

    fn monotonic(&self) -> Duration {
        reading(rustix::time::ClockId::Monotonic)
    }

    fn cpu_time(&self) -> Duration {
        (self.cpu_time)()
    }
}

fn reading(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::try_from(time).unwrap_or_default()
}

/// One process's clocks.
pub(crate) struct ProcessClocks {
    host: Box<dyn Clocks>,
    /// Reading of the process's clock when `since` was read.
    elapsed: Duration,
    /// The host's monotonic clock at that time; none while the process stands still.
    since: Option<Duration>,
    /// CPU time used on earlier hosts.
    cpu_before: Duration,
}

impl ProcessClocks {
    /// Clocks that go on from the given readings.
    pub(crate) fn start(
        host: Box<dyn Clocks>,
        elapsed: Duration,
        cpu_before: Duration,
    ) -> ProcessClocks {
        let since = Some(host.monotonic());
        ProcessClocks {
            host,
            elapsed,
            since,
            cpu_before,
        }
    }

    /// The process's own clock.
    pub(crate) fn now(&self) -> Duration {
        match self.since {
            Some(since) => self
                .elapsed
                .saturating_add(self.host.monotonic().saturating_sub(since)),
            None => self.elapsed,
        }
    }

    pub(crate) fn realtime(&self) -> Duration {
        self.host.realtime()
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        self.cpu_before.saturating_add(self.host.cpu_time())
    }

    pub(crate) fn stop(&mut self) {
        self.elapsed = self.now();
        self.since = None;
    }

    pub(crate) fn go_on(&mut self) {
        if self.since.is_none() {
            self.since = Some(self.host.monotonic());
        }
    }

    /// The reading of a clock by its WASI id, in nanoseconds.
    pub(crate) fn read(&self, id: u32) -> Result<u64, Errno> {
        match id {
            clockid::REALTIME => Ok(nanoseconds(self.realtime())),
            clockid::MONOTONIC => Ok(nanoseconds(self.now())),
            clockid::PROCESS_CPUTIME | clockid::THREAD_CPUTIME => Ok(nanoseconds(self.cpu_time())),
            _ => Err(Errno::INVAL),
        }
    }

    /// The resolution of a clock by its WASI id, in nanoseconds.
    pub(crate) fn resolution(&self, id: u32) -> Result<u64, Errno> {
        self.read(id).map(|_| 1)
    }
}

/// As WASI's `timestamp`: 584 years, then it stands still.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
