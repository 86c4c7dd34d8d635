//! Thread-level parallelism of any program: how many of its threads run at the same time.
//!
//! With cᵢ the share of time in which exactly i threads run, TLP = Σ i·cᵢ / (1 − c₀): the mean number of running
//! threads while any runs (Flautner, Uhlig, Reinhardt, Mudge: Thread-level parallelism and interactive performance of
//! desktop applications, ASPLOS 2000).
//!
//! | module | does |
//! |---|---|
//! | `follow` | the kernel's own records of each switch: exact, and no root is needed for one's own programs |
//! | `sample` | looks at the states of the threads now and then, where the kernel gives no records |
//! | `tally` | adds up, from events or from looks; no I/O |

mod follow;
mod sample;
mod tally;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use thiserror::Error;

use crate::plot::{Bars, Chart, Group, Page, Part, Scale, Unit};
use follow::Follower;
use sample::Sampler;
pub use tally::{Histogram, Named};

/// Between two looks at the command and at the records.
const LOOK: Duration = Duration::from_millis(10);
/// A command that is asked to end is killed after this.
const ENDING: Duration = Duration::from_secs(5);

/// Why nothing was measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlpError {
    /// The command does not start.
    #[error("{program:?} could not be started")]
    Start {
        /// Its program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no process of this id, or it is somebody else's.
    #[error("process {pid} could not be looked at")]
    Process {
        /// The id.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The command could not be waited for.
    #[error("the command could not be waited for")]
    Wait(#[source] io::Error),
}

impl TlpError {
    /// The code of a command that was not to be had, as POSIX has it for shells: 127 if there is none of that name, 126 if
    /// it does not start.
    pub fn command_code(&self) -> Option<u8> {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(127),
            Self::Start { .. } => Some(126),
            Self::Process { .. } | Self::Wait(_) => None,
        }
    }
}

/// How it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the kernel's records of switches (perf_event_open(2), `context_switch`).
    SchedulerEvents,
    /// From looks at `/proc/PID/task/TID/stat`. It does not tell a running thread from one that is ready and waits for
    /// a processor, and misses what is shorter than the time between two looks.
    Samples,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Parallelism {
    /// How.
    pub method: Method,
    /// Why it was not measured from scheduler events, if it was not.
    pub fallback: Option<String>,
    /// Processors of this machine; no more threads run at once.
    pub processors: usize,
    /// From the start of the measurement to its end.
    pub seconds: f64,
    /// Threads that run.
    pub running: Histogram,
    /// Threads that run, or were interrupted and wait for a processor: a lower bound of what the program could use.
    pub wanted: Histogram,
    /// Threads that were seen.
    pub threads: u64,
    /// Times that a thread began to run.
    pub switches: u64,
    /// Records that the kernel could not deliver; the figures are as much too small.
    pub lost: u64,
    /// Processor time by name of thread, most first.
    pub busiest: Vec<Named>,
    /// The command's exit code, or 128 and the number of the signal that ended it, if it has ended by itself.
    pub exit_code: Option<i32>,
}

impl Parallelism {
    /// The histogram as a chart. `what` names the program.
    pub fn page(&self, what: &str) -> Page {
        let numbers = self.running.shares.len().max(self.wanted.shares.len());
        let share = |histogram: &Histogram, number: usize| histogram.shares.get(number).copied();
        let groups = (0..numbers).map(|number| Group {
            label: match number {
                0 => "no thread".to_owned(),
                1 => "1 thread".to_owned(),
                more => format!("{more} threads"),
            },
            values: vec![share(&self.running, number), share(&self.wanted, number)],
        });
        let value = |tlp: Option<f64>| tlp.map_or("none".to_owned(), |tlp| format!("{tlp:.2}"));
        Page {
            title: format!("Thread-level parallelism of {what}"),
            about: format!(
                "Measured for {:.2} s on {} processors. Running: {}. Running or interrupted, which is what more \
                 processors could at least serve: {}.",
                self.seconds,
                self.processors,
                value(self.running.tlp),
                value(self.wanted.tlp),
            ),
            parts: vec![Part {
                heading: "How many threads run at the same time".to_owned(),
                text: "The share of the time in which exactly so many threads ran. The parallelism is the mean number \
                       while any ran."
                    .to_owned(),
                chart: Chart::Bars(Bars {
                    unit: Unit::Share,
                    scale: Scale::Linear,
                    series: vec!["running".to_owned(), "running or interrupted".to_owned()],
                    groups: groups.collect(),
                }),
            }],
        }
    }
}

/// Which way to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// From scheduler events if the kernel gives them, else from samples.
    #[default]
    Best,
    /// From samples only.
    Samples,
}

/// When to stop before the program has ended.
#[derive(Debug, Clone, Copy)]
pub struct Until<'a> {
    /// After this.
    pub duration: Option<Duration>,
    /// When it becomes true.
    pub stopped: &'a AtomicBool,
}

impl Until<'_> {
    fn is_over(&self, begun: Instant) -> bool {
        self.stopped.load(Ordering::Relaxed)
            || self.duration.is_some_and(|most| begun.elapsed() >= most)
    }
}

/// Either way of measuring.
enum Observer {
    Follows(Box<Follower>),
    Samples(Box<Sampler>, String),
}

/// Starts a command, with the standard streams of this process, and measures it with all that it starts, until it ends.
/// If it is stopped before, the command is asked to end, and killed if it does not.
///
/// # Errors
/// The command does not start or cannot be waited for.
pub fn of_command(
    command: &mut Command,
    choice: Choice,
    until: Until<'_>,
) -> Result<Parallelism, TlpError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let follower = match choice {
        Choice::Best => Follower::of_what_this_thread_starts(),
        Choice::Samples => Err(io::Error::other("samples were asked for")),
    };
    let child = command
        .spawn()
        .map_err(|source| TlpError::Start { program, source })?;
    let mut child = Started(child);
    let mut observer = match follower {
        Ok(follower) => Observer::Follows(Box::new(follower)),
        Err(refused) => Observer::samples(child.0.id(), &refused),
    };
    let begun = Instant::now();
    let mut ended = None;
    while ended.is_none() && !until.is_over(begun) {
        observer.look();
        ended = child.0.try_wait().map_err(TlpError::Wait)?;
    }
    let mut measured = observer.finish();
    if ended.is_none() {
        child.end()?;
    }
    measured.exit_code =
        ended.and_then(|status| status.code().or(status.signal().map(|signal| 128 + signal)));
    Ok(measured)
}

/// Measures a running process and all that it starts, until it ends.
///
/// # Errors
/// There is no such process, or it is somebody else's.
pub fn of_process(pid: u32, choice: Choice, until: Until<'_>) -> Result<Parallelism, TlpError> {
    let failed = |source| TlpError::Process { pid, source };
    let process = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    rustix::process::test_kill_process(process).map_err(|error| failed(error.into()))?;
    let follower = match choice {
        Choice::Best => Follower::of_process(pid),
        Choice::Samples => Err(io::Error::other("samples were asked for")),
    };
    let mut observer = match follower {
        Ok(follower) => Observer::Follows(Box::new(follower)),
        Err(refused) => Observer::samples(pid, &refused),
    };
    let begun = Instant::now();
    while sample::is_alive(pid) && !until.is_over(begun) {
        observer.look();
    }
    Ok(observer.finish())
}

impl Observer {
    fn samples(pid: u32, refused: &io::Error) -> Self {
        Self::Samples(Box::new(Sampler::new(pid)), refused.to_string())
    }

    /// Takes what there is, for about [`LOOK`].
    fn look(&mut self) {
        match self {
            Self::Follows(follower) => {
                std::thread::sleep(LOOK);
                follower.take();
            }
            Self::Samples(sampler, _) => sampler.look_for(LOOK),
        }
    }

    fn finish(self) -> Parallelism {
        let (tally, method, fallback, lost) = match self {
            Self::Follows(follower) => {
                let (tally, lost) = follower.finish();
                (tally, Method::SchedulerEvents, None, lost)
            }
            Self::Samples(sampler, why) => (sampler.finish(), Method::Samples, Some(why), 0),
        };
        Parallelism {
            method,
            fallback,
            processors: processors().len(),
            seconds: tally.seconds,
            running: tally.running,
            wanted: tally.wanted,
            threads: tally.threads,
            switches: tally.switches,
            lost,
            busiest: tally.busiest,
            exit_code: None,
        }
    }
}

/// A command that does not outlive its measurement.
struct Started(Child);

impl Started {
    /// Ends it, with all that it has started and that is not on its own by now.
    fn end(&mut self) -> Result<(), TlpError> {
        let family = sample::descendants(self.0.id())
            .into_iter()
            .filter_map(|id| {
                let id = i32::try_from(id).ok().and_then(Pid::from_raw)?;
                pidfd_open(id, PidfdFlags::empty()).ok()
            });
        let family: Vec<_> = family.collect();
        let tell_all = |signal| {
            for process in &family {
                // The only error is that it has ended.
                let _ = pidfd_send_signal(process, signal);
            }
        };
        tell_all(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < ENDING && self.0.try_wait().map_err(TlpError::Wait)?.is_none() {
            std::thread::sleep(LOOK);
        }
        tell_all(Signal::KILL);
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The numbers of the processors that are on (`/sys/devices/system/cpu/online`, as `0-3,6`).
pub(crate) fn processors() -> Vec<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let processors = parse_list(&list);
    if processors.is_empty() {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return (0..count).collect();
    }
    processors
}

fn parse_list(list: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => numbers.extend(first..=last),
            _ => return Vec::new(),
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_list("0-3,6\n"), [0, 1, 2, 3, 6]);
        assert_eq!(parse_list("0\n"), [0]);
        assert!(parse_list("").is_empty());
        assert!(parse_list("x-3").is_empty());
        assert!(!processors().is_empty());
    }
}
