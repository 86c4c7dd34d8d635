//! `sterna threads bench`: what processes and threads cost.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::builder::TypedValueParser;
use sterna_laboratory::bench::{self, Bench as Measured, Plan};
use sterna_laboratory::carrier::{Carrier, Cost, Effort, Figure};
use sterna_process::Plain;

use super::{Output, player};
use crate::show::{self, Align, Paint, Steps, Table};

/// Measures what processes, kernel threads, user threads and hybrid threads cost.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Bench {
    /// The most threads that are made to wait, for their memory: 1000, 10000, 100000 or 1000000.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, value_parser = waiting())]
    most: u64,
    /// Measure less precisely, in a few seconds.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    output: Output,
}

const AFTER_HELP: &str = "\
Examples:
  sterna threads bench
  sterna threads bench --quick --most 10000
  sterna threads bench --json --plot bench.html >bench.json

It takes a minute and, for a million threads, 4.5 GB of memory. Ctrl-C ends it, with all processes that it \
started. Nothing else should run meanwhile. Each figure is the best of several rounds.";

/// Rounds of a figure, and how long each takes.
const CAREFUL: Effort = Effort {
    rounds: 7,
    round: Duration::from_millis(40),
};
const QUICK: Effort = Effort {
    rounds: 3,
    round: Duration::from_millis(5),
};
/// How many threads wait.
const WAITING: [u64; 4] = [1000, 10_000, 100_000, 1_000_000];
/// Bytes of messages.
const MESSAGES: [usize; 2] = [64, 4096];

fn waiting() -> impl TypedValueParser<Value = u64> {
    clap::value_parser!(u64).try_map(|count| {
        let wrong = "choose 1000, 10000, 100000 or 1000000";
        WAITING.contains(&count).then_some(count).ok_or(wrong)
    })
}

impl Bench {
    pub(super) fn run(self) -> Result<u8> {
        let plan = Plan {
            effort: if self.quick { QUICK } else { CAREFUL },
            waiting: WAITING
                .into_iter()
                .filter(|count| *count <= self.most)
                .collect(),
            messages: MESSAGES.to_vec(),
        };
        let output = self.output.open()?;
        let steps = Steps::new();
        let measured = bench::bench(&plan, &player()?, &mut |what, done| steps.set(what, done));
        drop(steps);
        output.put(&measured, text, Measured::page)?;
        Ok(0)
    }
}

type Rows = Table<5>;

fn table(first: &'static str) -> Rows {
    Table::new([
        (first, Align::Left),
        ("PROCESSES", Align::Right),
        ("KERNEL", Align::Right),
        ("USER", Align::Right),
        ("HYBRID", Align::Right),
    ])
}

/// Cells of a row, and why some are empty: by numbers, which are those of the reasons.
fn row<T>(
    table: &mut Rows,
    reasons: &mut Vec<String>,
    label: String,
    figure: impl Fn(Carrier) -> Option<Figure<T>>,
    shown: impl Fn(&T) -> String,
) {
    let cells = Carrier::ALL.map(|carrier| match figure(carrier) {
        Some(Figure::Measured(value)) => shown(&value),
        Some(Figure::Skipped { skipped }) => {
            let reason = Plain(&skipped).to_string();
            let known = reasons.iter().position(|one| *one == reason);
            let number = known.unwrap_or_else(|| {
                reasons.push(reason);
                reasons.len() - 1
            });
            format!("– ({})", number + 1)
        }
        None => "–".to_owned(),
    });
    let [process, kernel, user, hybrid] = cells;
    table.row([label, process, kernel, user, hybrid]);
}

fn ns(cost: &Cost) -> String {
    match cost.best_ns {
        ns if ns < 999.5 => format!("{ns:.1} ns"),
        ns => show::time(Duration::from_nanos(ns as u64)),
    }
}

fn text(measured: &Measured) -> String {
    let paint = Paint::stdout();
    let mut text = String::new();
    let mut reasons = Vec::new();
    let _ = writeln!(text, "{}\n", Plain(&measured.machine.to_string()));
    let mut operations = table("OPERATION");
    let cases = measured
        .operations
        .chunk_by(|one, two| (one.operation, one.placement) == (two.operation, two.placement));
    for rows in cases {
        let label = format!("{}, {}", rows[0].operation.name(), rows[0].placement.name());
        let cost = |carrier| {
            let row = rows.iter().find(|row| row.carrier == carrier)?;
            Some(row.cost.clone())
        };
        row(&mut operations, &mut reasons, label, cost, ns);
    }
    let _ = writeln!(text, "{}", operations.shown(paint));
    let mut messages = table("MESSAGE");
    let cases = measured.messages.chunk_by(|one, two| {
        (one.means, one.bytes, one.placement) == (two.means, two.bytes, two.placement)
    });
    for rows in cases {
        let head = &rows[0];
        let label = format!(
            "{}, {} B, {}",
            head.means.name(),
            head.bytes,
            head.placement.name()
        );
        let cost = |carrier| {
            let row = rows.iter().find(|row| row.carrier == carrier)?;
            Some(row.cost.clone())
        };
        row(&mut messages, &mut reasons, label, cost, ns);
    }
    let _ = writeln!(text, "{}", messages.shown(paint));
    let mut memory = table("MEMORY OF EACH");
    let cases = measured.memory.chunk_by(|one, two| one.count == two.count);
    for rows in cases {
        let label = format!("{} that wait", rows[0].count);
        let held = |carrier| {
            let row = rows.iter().find(|row| row.carrier == carrier)?;
            Some(row.held.clone())
        };
        row(&mut memory, &mut reasons, label, held, |held| {
            show::bytes(held.total() as u64)
        });
    }
    let _ = write!(text, "{}", memory.shown(paint));
    if !reasons.is_empty() {
        let _ = writeln!(text, "\n{}", paint.bold("Why some are not measured"));
        for (number, reason) in reasons.iter().enumerate() {
            let _ = writeln!(text, "  ({}) {}", number + 1, paint.dim(reason));
        }
    }
    text
}
