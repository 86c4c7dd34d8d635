//! All models under the same load: for each a server in a process of its own, clients in another, and how much CPU time
//! and memory the server took.
//!
//! | module | has |
//! |---|---|
//! | [`subject`] | a server under measurement, and its processes' CPU time and memory |
//! | [`plot`] | the figures as one page that needs nothing else |

pub mod plot;
pub mod subject;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::files::{Model, Settings, Slowness};
use crate::load::{Latency, Orders, Pace, Report};
use crate::role::ServerOrders;
use subject::{Subject, SubjectError, measure};

/// How long a read takes where the disk is slow.
const DISK_DELAY: Duration = Duration::from_millis(5);
/// Requests per second where they are due at a rate.
const RATE: f64 = 1000.0;
/// Files where none is in memory, and bytes of each.
const COLD_FILES: usize = 256;
const COLD_BYTES: usize = 64 * 1024;
const SMALL_BYTES: usize = 4 * 1024;
/// More than sockets hold, so that the server does have to wait for who takes it slowly.
const LARGE_BYTES: usize = 16 * 1024 * 1024;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Fast clients: 64, in a closed loop, a file of 4 KiB.
    Fast,
    /// The same file, 1,000 requests per second, due whether the server keeps up or not, on 64 connections.
    OpenLoop,
    /// 32 fast clients beside 32 slow ones: half of these take 16 MiB a kilobyte at a time, half send a byte at a time.
    SlowClients,
    /// 64 clients, and each read of a file takes 5 ms: an injected delay, which blocks as a disk would.
    SlowDisk,
    /// 64 clients, and 256 files of 64 KiB of which none is in memory: real reads of the machine's disk.
    ColdCache,
    /// 8 clients beside 1,000 connections that do nothing.
    Idle,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Fast,
        Self::OpenLoop,
        Self::SlowClients,
        Self::SlowDisk,
        Self::ColdCache,
        Self::Idle,
    ];

    /// As in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::OpenLoop => "open-loop",
            Self::SlowClients => "slow-clients",
            Self::SlowDisk => "slow-disk",
            Self::ColdCache => "cold-cache",
            Self::Idle => "idle",
        }
    }

    /// In a sentence.
    pub fn description(self) -> &'static str {
        match self {
            Self::Fast => "64 fast clients in a closed loop, a file of 4 KiB",
            Self::OpenLoop => {
                "1,000 requests for 4 KiB per second, due whether the server keeps up or not"
            }
            Self::SlowClients => {
                "32 fast clients beside 16 that take 16 MiB a kilobyte at a time and 16 that send a byte at a time"
            }
            Self::SlowDisk => "64 clients, each read of a file takes 5 ms (an injected delay)",
            Self::ColdCache => {
                "64 clients, 256 files of 64 KiB, dropped from the page cache after each response"
            }
            Self::Idle => "8 fast clients beside 1,000 connections that do nothing",
        }
    }

    fn slowness(self) -> Slowness {
        match self {
            Self::SlowDisk => Slowness::Injected(DISK_DELAY),
            Self::ColdCache => Slowness::Cold,
            _ => Slowness::None,
        }
    }

    fn orders(self, subject: &Subject, plan: &Plan) -> Orders {
        let targets = match self {
            Self::ColdCache => (0..COLD_FILES)
                .map(|number| format!("/cold/{number}"))
                .collect(),
            _ => vec!["/small".to_owned()],
        };
        Orders {
            address: subject.address(),
            targets,
            connections: match self {
                Self::SlowClients => 32,
                Self::Idle => 8,
                _ => 64,
            },
            pace: if self == Self::OpenLoop {
                Pace::Open(RATE)
            } else {
                Pace::Closed
            },
            slow: if self == Self::SlowClients { 32 } else { 0 },
            slow_target: "/large".to_owned(),
            idle: if self == Self::Idle { 1000 } else { 0 },
            warm_up: plan.duration / 5,
            duration: plan.duration,
        }
    }
}

/// What is compared.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A program that calls [`role::run`](crate::role::run).
    pub program: PathBuf,
    /// How long each model has each load, beyond a warm-up.
    pub duration: Duration,
    /// Which models.
    pub models: Vec<Model>,
    /// Which loads.
    pub scenarios: Vec<Scenario>,
    /// Kernel threads, processes or aides of each; otherwise as each model usually has.
    pub workers: Option<usize>,
}

/// A model under a load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The load.
    pub scenario: Scenario,
    /// The model.
    pub model: Model,
    /// Answers per second.
    pub per_second: f64,
    /// Wrong answers and broken connections.
    pub errors: u64,
    /// How long answers took. `None`: there was none.
    pub latency_us: Option<Latency>,
    /// CPU time of the server's processes, of each second.
    pub cpu_share: f64,
    /// Microseconds of CPU time for each answer. `None`: no answer, or less time than the kernel's tick of 10 ms in all.
    pub cpu_us_per_request: Option<f64>,
    /// Memory of the server's processes at the end of the load, in KiB; what they share counts once.
    pub memory_kib: u64,
}

/// Why models could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The files that are served could not be written.
    #[error("could not make the files to be served: {0}")]
    Files(#[source] io::Error),
    /// A server or its clients have failed.
    #[error("{} under {}: {source}", model.name(), scenario.name())]
    Subject {
        /// Under which load.
        scenario: Scenario,
        /// Which.
        model: Model,
        /// Why.
        source: SubjectError,
    },
}

/// Files that are served while models are compared. Dropped, they are removed.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    /// Makes them, in the directory for temporary files.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn make() -> Result<Self, CompareError> {
        let folder = tempfile::tempdir().map_err(CompareError::Files)?;
        make_files(folder.path()).map_err(CompareError::Files)?;
        Ok(Self(folder))
    }

    /// Where they are.
    pub fn root(&self) -> &Path {
        self.0.path()
    }
}

/// Compares, load by load, with [`Files`]. `each` sees every row as soon as there is one.
///
/// # Errors
/// See [`CompareError`].
pub fn run(
    plan: &Plan,
    files: &Path,
    mut each: impl FnMut(&Row),
) -> Result<Vec<Row>, CompareError> {
    let mut rows = Vec::new();
    for &scenario in &plan.scenarios {
        for &model in &plan.models {
            let row = row(plan, files, scenario, model);
            let row = row.map_err(|source| CompareError::Subject {
                scenario,
                model,
                source,
            })?;
            each(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

fn make_files(root: &Path) -> io::Result<()> {
    fs::write(root.join("small"), vec![b's'; SMALL_BYTES])?;
    fs::write(root.join("large"), vec![b'l'; LARGE_BYTES])?;
    fs::create_dir(root.join("cold"))?;
    for number in 0..COLD_FILES {
        let path = root.join(format!("cold/{number}"));
        fs::write(&path, vec![b'c'; COLD_BYTES])?;
        // Only what is on the disk can be dropped from memory.
        fs::File::open(&path)?.sync_all()?;
    }
    Ok(())
}

fn row(plan: &Plan, root: &Path, scenario: Scenario, model: Model) -> Result<Row, SubjectError> {
    let mut settings = Settings::of(root);
    settings.slowness = scenario.slowness();
    // At the end nobody is waited for.
    settings.limits.grace = Duration::ZERO;
    let orders = ServerOrders {
        settings,
        model,
        workers: plan.workers,
        descriptors: None,
    };
    let subject = Subject::start(&plan.program, &orders)?;
    let load = scenario.orders(&subject, plan);
    let (report, usage) = measure(&plan.program, &load, subject.process())?;
    subject.end()?;
    Ok(Row::new(
        scenario,
        model,
        &report,
        usage,
        plan.duration + load.warm_up,
    ))
}

impl Row {
    fn new(
        scenario: Scenario,
        model: Model,
        report: &Report,
        usage: subject::Usage,
        whole: Duration,
    ) -> Self {
        // The clients count only after the warm-up, which is of the same kind.
        let in_all = report.requests as f64 * whole.as_secs_f64() / report.seconds.max(1e-9);
        let cpu_us = usage.cpu.as_secs_f64() * 1e6;
        Self {
            scenario,
            model,
            per_second: report.requests as f64 / report.seconds.max(1e-9),
            errors: report.errors,
            // Without answers there are only requests that still wait: how long says how long was measured.
            latency_us: (report.requests > 0).then_some(report.latency_us),
            cpu_share: usage.cpu.as_secs_f64() / whole.as_secs_f64(),
            cpu_us_per_request: (report.requests > 0 && cpu_us > 0.0).then(|| cpu_us / in_all),
            memory_kib: usage.memory_kib,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_answered_nothing_has_no_latencies() {
        let report = |requests| Report {
            requests,
            seconds: 1.0,
            latency_us: Latency {
                p50: 1.2e6,
                ..Latency::default()
            },
            ..Report::default()
        };
        let row = |requests| {
            let (scenario, usage) = (Scenario::SlowClients, subject::Usage::default());
            let whole = Duration::from_secs(1);
            Row::new(scenario, Model::Iterative, &report(requests), usage, whole)
        };
        assert_eq!(row(0).latency_us, None);
        assert_eq!(row(1).latency_us.unwrap().p50, 1.2e6);
    }
}
