//! What one thread that does not give way does to the others: several threads sleep and tick, one blocks in the kernel
//! or computes, and the gaps between ticks tell who was stopped, and for how long.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use sterna_threads::{Implementation, Runtime, blocking, scope, sleep_until};

use crate::Progress;
use crate::carrier::{Carrier, Figure};
use crate::place::Machine;
use crate::plot::{Chart, Lane, Lanes, Page, Part};

/// A gap of so many periods is one that a reader sees.
const GAP_PERIODS: u32 = 10;
/// A hold is reported when it has lasted this share of what the disturbance lasts.
const REPORT_SHARE: u32 = 6;

/// What one thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disturbance {
    /// Sleeps by the package: nothing happens to the others.
    Sleeps,
    /// Sleeps in the kernel, and does not say so.
    Blocks,
    /// The same within `blocking`.
    BlocksAnnounced,
    /// Computes and never gives way.
    Computes,
}

impl Disturbance {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Sleeps,
        Self::Blocks,
        Self::BlocksAnnounced,
        Self::Computes,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sleeps => "one sleeps by the package",
            Self::Blocks => "one blocks in the kernel",
            Self::BlocksAnnounced => "one blocks, announced",
            Self::Computes => "one computes, never yields",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Threads that tick.
    pub tickers: usize,
    /// Between two ticks.
    pub period: Duration,
    /// Before and after the disturbance.
    pub calm: Duration,
    /// How long the disturbance lasts.
    pub hold: Duration,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stall {
    /// Where.
    pub machine: Machine,
    /// How long a run took, in seconds.
    pub seconds: f64,
    /// When the disturbance was, in seconds.
    pub disturbed: (f64, f64),
    /// A row for each disturbance and kind of runtime.
    pub rows: Vec<Row>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What one thread did.
    pub disturbance: Disturbance,
    /// What the threads are.
    pub carrier: Carrier,
    /// Kernel threads that run them; `None` if they are threads of the kernel themselves.
    pub workers: Option<usize>,
    /// What became of the others.
    pub others: Figure<Others>,
}

/// What became of the threads that tick.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Others {
    /// The longest gap between two ticks of any of them, in seconds.
    pub longest_gap: f64,
    /// How many of them had a gap of at least half of the disturbance.
    pub stopped: usize,
    /// How often all of them ticked.
    pub ticks: usize,
    /// For each of them, its gaps that are much longer than they should be: from, to, in seconds.
    pub gaps: Vec<Vec<(f64, f64)>>,
    /// What the runtime's monitor said about it.
    pub reports: Vec<Report>,
}

/// That a thread held its worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The worker's number.
    pub worker: usize,
    /// For how long, in seconds, as far as it was seen.
    pub seconds: f64,
    /// Whether it was blocked in the kernel; otherwise it computed.
    pub in_kernel: bool,
}

impl Row {
    /// What the threads are, in words.
    pub fn runtime(&self) -> String {
        match (self.carrier, self.workers) {
            (Carrier::Hybrid, Some(1)) => "hybrid, 1 worker".to_owned(),
            (Carrier::Hybrid, Some(workers)) => format!("hybrid, {workers} workers"),
            (carrier, _) => carrier.name().to_owned(),
        }
    }
}

/// Runs every disturbance under every kind of runtime.
pub fn stall(plan: Plan, progress: Progress<'_>) -> Stall {
    let runtimes = [
        (Carrier::Kernel, None),
        (Carrier::User, Some(1)),
        (Carrier::Hybrid, Some(1)),
        (Carrier::Hybrid, Some(2)),
    ];
    let total = (runtimes.len() * Disturbance::ALL.len()) as f64;
    let mut rows = Vec::new();
    for disturbance in Disturbance::ALL {
        for (carrier, workers) in runtimes {
            let what = format!("{}, {carrier}", disturbance.name());
            progress(&what, rows.len() as f64 / total);
            rows.push(Row {
                disturbance,
                carrier,
                workers,
                others: Figure::of(run(plan, disturbance, carrier, workers)),
            });
        }
    }
    let calm = plan.calm.as_secs_f64();
    Stall {
        machine: Machine::this(),
        seconds: (plan.calm * 2 + plan.hold).as_secs_f64(),
        disturbed: (calm, calm + plan.hold.as_secs_f64()),
        rows,
    }
}

fn run(
    plan: Plan,
    disturbance: Disturbance,
    carrier: Carrier,
    workers: Option<usize>,
) -> io::Result<Others> {
    let implementation = carrier.implementation().unwrap_or(Implementation::Kernel);
    let runtime = Runtime::builder(implementation)
        .workers(workers.unwrap_or(1))
        .build()?;
    let reports = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&reports);
    let monitor = runtime.monitor(plan.hold / REPORT_SHARE, move |held| {
        if held.over {
            let mut reports = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            reports.push(Report {
                worker: held.worker,
                seconds: held.duration.as_secs_f64(),
                in_kernel: held.in_kernel,
            });
        }
    })?;
    let begun = Instant::now();
    let end = begun + plan.calm * 2 + plan.hold;
    let ticks = runtime.run(|| {
        scope(|threads| {
            let tickers: Vec<_> = (0..plan.tickers)
                .map(|_| threads.spawn(|| tick(begun, end, plan.period)))
                .collect();
            let disturber = threads.spawn(|| {
                sleep_until(begun + plan.calm);
                disturb(disturbance, plan.hold);
            });
            let ticks: Result<Vec<_>, _> = tickers.into_iter().map(|one| one.join()).collect();
            disturber.join().and(ticks)
        })
    });
    let ticks = ticks.map_err(|_| io::Error::other("a thread failed"))?;
    drop(monitor);
    let reports = std::mem::take(&mut *reports.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Others::of(&ticks, plan, reports))
}

/// When it ticked, from the first time to the end.
fn tick(begun: Instant, end: Instant, period: Duration) -> Vec<Duration> {
    let mut ticks = vec![Duration::ZERO];
    let mut next = begun + period;
    while next < end {
        sleep_until(next);
        let now = Instant::now();
        ticks.push(now - begun);
        // Ticks that were missed are not made up for.
        next = now.max(next) + period;
    }
    ticks
}

fn disturb(disturbance: Disturbance, hold: Duration) {
    match disturbance {
        Disturbance::Sleeps => sterna_threads::sleep(hold),
        Disturbance::Blocks => std::thread::sleep(hold),
        Disturbance::BlocksAnnounced => blocking(|| std::thread::sleep(hold)),
        Disturbance::Computes => {
            let begun = Instant::now();
            while begun.elapsed() < hold {
                std::hint::spin_loop();
            }
        }
    }
}

impl Others {
    fn of(ticks: &[Vec<Duration>], plan: Plan, reports: Vec<Report>) -> Self {
        let gaps_of = |ticks: &Vec<Duration>| -> Vec<(Duration, Duration)> {
            ticks.windows(2).map(|pair| (pair[0], pair[1])).collect()
        };
        let longest = |ticks: &Vec<Duration>| {
            let gaps = gaps_of(ticks).into_iter().map(|(from, to)| to - from);
            gaps.max().unwrap_or_default()
        };
        let visible = |(from, to): &(Duration, Duration)| *to - *from >= plan.period * GAP_PERIODS;
        Self {
            longest_gap: ticks
                .iter()
                .map(longest)
                .max()
                .unwrap_or_default()
                .as_secs_f64(),
            stopped: ticks
                .iter()
                .filter(|one| longest(one) >= plan.hold / 2)
                .count(),
            ticks: ticks.iter().map(|one| one.len() - 1).sum(),
            gaps: ticks
                .iter()
                .map(|one| {
                    let gaps = gaps_of(one).into_iter().filter(visible);
                    gaps.map(|(from, to)| (from.as_secs_f64(), to.as_secs_f64()))
                        .collect()
                })
                .collect(),
            reports,
        }
    }
}

impl Stall {
    /// What happened when, as lanes.
    pub fn page(&self) -> Page {
        Page {
            title: "What one thread does to the others".to_owned(),
            about: format!(
                "{}. Each lane is a thread that sleeps for a millisecond and ticks, again and again.",
                self.machine
            ),
            parts: Disturbance::ALL
                .map(|disturbance| self.part(disturbance))
                .to_vec(),
        }
    }

    fn part(&self, disturbance: Disturbance) -> Part {
        let mut lanes = Vec::new();
        for row in self
            .rows
            .iter()
            .filter(|row| row.disturbance == disturbance)
        {
            let (from, to) = self.disturbed;
            lanes.push(Lane {
                label: row.runtime(),
                spans: vec![(from, to, 2)],
            });
            let Some(others) = row.others.measured() else {
                continue;
            };
            lanes.extend(others.gaps.iter().map(|gaps| Lane {
                label: String::new(),
                spans: self.spans(gaps),
            }));
        }
        let kinds = ["ticks", "stopped", "the disturbance"];
        Part {
            heading: disturbance.name().to_owned(),
            text:
                "Under each kind of runtime, the disturbance, and below it the threads that tick."
                    .to_owned(),
            chart: Chart::Lanes(Lanes {
                seconds: self.seconds,
                kinds: kinds.map(str::to_owned).to_vec(),
                lanes,
            }),
        }
    }

    /// Ticking and stopped by turns.
    fn spans(&self, gaps: &[(f64, f64)]) -> Vec<(f64, f64, usize)> {
        let mut spans = Vec::new();
        let mut at = 0.0;
        for &(from, to) in gaps {
            spans.push((at, from, 0));
            spans.push((from, to, 1));
            at = to;
        }
        spans.push((at, self.seconds.max(at), 0));
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_and_counted() {
        let ms = Duration::from_millis;
        let plan = Plan {
            tickers: 2,
            period: ms(1),
            calm: ms(10),
            hold: ms(40),
        };
        let ticks = [
            vec![ms(0), ms(1), ms(41), ms(42)],
            vec![ms(0), ms(2), ms(11), ms(12)],
        ];
        let others = Others::of(&ticks, plan, Vec::new());
        assert_eq!(
            (others.longest_gap, others.stopped, others.ticks),
            (0.04, 1, 6)
        );
        assert_eq!(others.gaps, [vec![(0.001, 0.041)], vec![]]);
    }
}
