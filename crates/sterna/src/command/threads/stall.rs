//! `sterna threads stall`: what one thread does to the others.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use sterna_laboratory::carrier::Figure;
use sterna_laboratory::stall::{self, Others, Plan, Stall as Found};
use sterna_process::Plain;

use super::Output;
use crate::show::{self, Align, Paint, Steps, Table};

/// Shows what a thread that blocks or never yields does to the others, under each kind of threads.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Stall {
    /// Threads that sleep and tick.
    #[arg(long, value_name = "COUNT", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    tickers: u16,
    /// How long one of them blocks or computes.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = hold)]
    hold: Duration,
    #[command(flatten)]
    output: Output,
}

const AFTER_HELP: &str = "\
Examples:
  sterna threads stall
  sterna threads stall --hold 1s --plot stall.html

The others sleep for a millisecond and tick, again and again. GAP is the longest time between two ticks of \
one of them, STOPPED is how many had a gap of half of the disturbance or more. The monitor is that of the \
thread package.";

const PERIOD: Duration = Duration::from_millis(1);
const CALM: Duration = Duration::from_millis(150);

/// The shortest disturbance that can be told from a tick.
const HOLD_MIN: Duration = Duration::from_millis(10);

fn hold(text: &str) -> Result<Duration, String> {
    let time = show::parse_duration(text)?;
    let wrong = || "what is shorter than 10ms cannot be told from a tick".to_owned();
    (time >= HOLD_MIN).then_some(time).ok_or_else(wrong)
}

impl Stall {
    pub(super) fn run(self) -> Result<u8> {
        let output = self.output.open()?;
        let plan = Plan {
            tickers: self.tickers.into(),
            period: PERIOD,
            calm: CALM,
            hold: self.hold,
        };
        let steps = Steps::new();
        let found = stall::stall(plan, &mut |what, done| steps.set(what, done));
        drop(steps);
        output.put(&found, text, Found::page)?;
        Ok(0)
    }
}

fn text(found: &Found) -> String {
    let paint = Paint::stdout();
    let mut table = Table::new([
        ("WHAT", Align::Left),
        ("THREADS", Align::Left),
        ("GAP", Align::Right),
        ("STOPPED", Align::Right),
        ("TICKS", Align::Right),
        ("THE MONITOR SAYS", Align::Left),
    ]);
    for row in &found.rows {
        let head = [row.disturbance.name().to_owned(), row.runtime()];
        let cells = match &row.others {
            Figure::Measured(others) => [
                show::time(Duration::from_secs_f64(others.longest_gap)),
                format!("{} of {}", others.stopped, others.gaps.len()),
                others.ticks.to_string(),
                reports(others),
            ],
            Figure::Skipped { skipped } => [
                "–".to_owned(),
                String::new(),
                String::new(),
                Plain(skipped).to_string(),
            ],
        };
        let [what, threads] = head;
        let [gap, stopped, ticks, said] = cells;
        table.row([what, threads, gap, stopped, ticks, said]);
    }
    let mut text = format!("{}\n\n", Plain(&found.machine.to_string()));
    let _ = write!(text, "{}", table.shown(paint));
    text
}

/// The longest of the reports.
fn reports(others: &Others) -> String {
    let longest = others
        .reports
        .iter()
        .max_by(|one, two| one.seconds.total_cmp(&two.seconds));
    longest.map_or(String::new(), |report| {
        format!(
            "worker {} held for {}, {}",
            report.worker,
            show::time(Duration::from_secs_f64(report.seconds)),
            match report.in_kernel {
                true => "blocked in the kernel",
                false => "computing",
            }
        )
    })
}
