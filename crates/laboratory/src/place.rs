//! Where things run: pinning to processors, and [`pair`]: two threads of any implementation, placed as an experiment
//! wants them. Also what the machine is, for the head of results.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use sterna_threads::{Implementation, Runtime, scope};

use crate::carrier::{Carrier, Placement};
use crate::statistics::median;

/// A thread that was made gets a processor of its own within this, or the experiment is given up.
const PLACING: Duration = Duration::from_secs(5);

/// What the figures are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many processors there are.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or(std::env::consts::ARCH, |(_, model)| model);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.to_owned(),
            processors: crate::tlp::processors().len(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {} processors, Linux {}",
            self.processor, self.processors, self.kernel
        )
    }
}

/// How often the disk is asked, of which the median counts.
const FLUSHES: usize = 21;
const FLUSHED_BYTES: usize = 4096;

/// What figures depend on beside the machine, and what is another thing an hour later.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// How many wanted the processors in the last minute (proc_loadavg(5)).
    pub load: f64,
    /// Milliseconds until a written page is on the disk (fdatasync(2)). Those of virtual machines are often held back.
    pub flush_ms: f64,
}

impl Condition {
    /// Now; the disk is that of a directory.
    ///
    /// # Errors
    /// No file can be written there.
    pub fn now(directory: &Path) -> io::Result<Self> {
        let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = loads.split(' ').next().and_then(|load| load.parse().ok());
        let name = format!("sterna-flush-{}", std::process::id());
        let path = directory.join(name);
        let file = File::create_new(&path)?;
        fs::remove_file(&path)?;
        let flush = |number: usize| {
            file.write_all_at(&[number as u8; FLUSHED_BYTES], 0)?;
            let begun = Instant::now();
            file.sync_data()?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        };
        let times = (0..FLUSHES).map(flush).collect::<io::Result<Vec<f64>>>()?;
        Ok(Self {
            load: load.unwrap_or(0.0),
            flush_ms: median(&times),
        })
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { load, flush_ms } = self;
        write!(
            f,
            "load average {load:.1}, flush of the disk {flush_ms:.2} ms"
        )
    }
}

/// Lets the calling kernel thread run on one processor only.
pub(crate) fn pin(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).map_err(io::Error::from)
}

/// The first and the last processor that this thread may use; `None` if there is only one.
pub(crate) fn two_processors() -> (usize, Option<usize>) {
    let allowed = match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect(),
        Err(_) => vec![0],
    };
    let first = allowed.first().copied().unwrap_or(0);
    (first, allowed.last().copied().filter(|last| *last != first))
}

/// The processors of both parties.
pub(crate) fn processors_of(placement: Placement) -> io::Result<(usize, usize)> {
    match (placement, two_processors()) {
        (Placement::OneProcessor, (first, _)) => Ok((first, first)),
        (Placement::TwoProcessors, (first, Some(last))) => Ok((first, last)),
        (Placement::TwoProcessors, (_, None)) => {
            Err(io::Error::other("there is only one processor"))
        }
    }
}

/// Runs `f` on a kernel thread of its own, so that pinning ends with it, and processes that die with their thread do.
pub(crate) fn apart<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().name("experiment".to_owned());
        let joined = thread.spawn_scoped(threads, f)?.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `server` and `client` as two threads, and returns what the client does. The server must end when the client has.
pub(crate) fn pair<T: Send>(
    carrier: Carrier,
    placement: Placement,
    server: impl FnOnce() -> io::Result<()> + Send,
    client: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let implementation = carrier
        .implementation()
        .ok_or_else(|| io::Error::other("processes are no threads"))?;
    if (implementation, placement) == (Implementation::User, Placement::TwoProcessors) {
        return Err(io::Error::other("they share one kernel thread"));
    }
    let (here, there) = processors_of(placement)?;
    let apart = here != there;
    let workers = if apart { 2 } else { 1 };
    let runtime = Runtime::builder(implementation).workers(workers).build()?;
    runtime.run(|| {
        pin(here)?;
        let placed = AtomicBool::new(false);
        let serve = || {
            let pinned = pin(there);
            placed.store(true, Ordering::Release);
            pinned?;
            server()
        };
        scope(|threads| {
            let server = threads.spawn(serve);
            // Without giving way, so that nobody but another worker can start it.
            let begun = Instant::now();
            while apart && !placed.load(Ordering::Acquire) {
                if begun.elapsed() > PLACING {
                    drop(client);
                    return Err(io::Error::other("the second thread found no processor"));
                }
                std::hint::spin_loop();
            }
            let result = client();
            match server.join() {
                Ok(served) => served.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_run_where_they_should() {
        let here = || sched_getaffinity(None).map(|set| set.count());
        for carrier in [Carrier::Kernel, Carrier::User, Carrier::Hybrid] {
            for placement in Placement::ALL {
                let counts = apart(|| {
                    let server = || {
                        assert_eq!(here()?, 1);
                        Ok(())
                    };
                    pair(carrier, placement, server, || Ok(here()?))
                });
                let possible = match (carrier, placement) {
                    (Carrier::User, Placement::TwoProcessors) => false,
                    (_, Placement::TwoProcessors) => two_processors().1.is_some(),
                    _ => true,
                };
                assert_eq!(
                    counts.ok(),
                    possible.then_some(1),
                    "{carrier} {placement:?}"
                );
            }
        }
        assert_eq!(
            pair(
                Carrier::Process,
                Placement::OneProcessor,
                || Ok(()),
                || Ok(())
            )
            .ok(),
            None
        );
    }
}
