//! `sterna threads cache`: what a switch costs through the caches.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use sterna_laboratory::cache::{self, Cache as Found, CurveRow, Lines, Plan, TickRow};
use sterna_laboratory::carrier::Figure;
use sterna_process::Plain;

use super::{Output, player};
use crate::show::{self, Align, Paint, Steps, Table};

/// Measures what a switch costs beyond itself: the caches that it leaves cold.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Cache {
    /// The largest working set.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = working_set)]
    largest: u64,
    /// Measure less precisely, in a few seconds.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    output: Output,
}

const AFTER_HELP: &str = "\
Examples:
  sterna threads cache
  sterna threads cache --quick --largest 2M
  sterna threads cache --plot cache.html

Two parties share a processor: two processes, kernel threads or user threads. One walks a working set, the \
other uses as much memory of its own in between. Nothing else should run meanwhile.";

/// The smallest working set; each is twice the one before.
const SMALLEST: u64 = 4096;
/// The largest that is useful: lines are numbered with 32 bits, and walks take seconds.
const LARGEST: u64 = 1 << 30;
/// Working sets under ticks.
const TICKED: [usize; 3] = [24 << 10, 512 << 10, 4 << 20];
/// Times between ticks, in microseconds.
const PERIODS_US: [u64; 6] = [500, 1000, 2000, 5000, 10_000, 20_000];
/// What the other reads at each tick.
const TICK_BYTES: usize = 256 << 10;
/// How dark shares are shown.
const DARKNESS: [char; 5] = ['·', '░', '▒', '▓', '█'];

fn working_set(text: &str) -> Result<u64, String> {
    let bytes = show::parse_bytes(text)?;
    let wrong = || "working sets have between 4K and 1G".to_owned();
    let possible = (SMALLEST..=LARGEST).contains(&bytes);
    possible.then_some(bytes).ok_or_else(wrong)
}

impl Cache {
    pub(super) fn run(self) -> Result<u8> {
        let output = self.output.open()?;
        let sizes = std::iter::successors(Some(SMALLEST), |size| Some(size * 2));
        let (span_ms, looks, periods) = match self.quick {
            true => (20, 5, &PERIODS_US[..2]),
            false => (100, 31, &PERIODS_US[..]),
        };
        let plan = Plan {
            sizes: sizes
                .take_while(|size| *size <= self.largest)
                .map(|size| size as usize)
                .collect(),
            span: Duration::from_millis(span_ms),
            ticked: TICKED
                .into_iter()
                .filter(|size| *size as u64 <= self.largest)
                .collect(),
            periods: periods.iter().copied().map(Duration::from_micros).collect(),
            tick_bytes: TICK_BYTES,
            looks,
        };
        let steps = Steps::new();
        let found = cache::cache(&plan, &player()?, &mut |what, done| steps.set(what, done));
        drop(steps);
        output.put(&found, text, Found::page)?;
        Ok(0)
    }
}

fn text(found: &Found) -> String {
    let paint = Paint::stdout();
    let mut text = format!("{}\n", Plain(&found.machine.to_string()));
    for level in &found.levels {
        let size = show::bytes(level.bytes as u64);
        let _ = writeln!(text, "L{}: {size}, {} ways", level.level, level.ways);
    }
    curve(&mut text, found, paint);
    ticks(&mut text, found, paint);
    for lines in &found.lines {
        picture(&mut text, lines, paint);
    }
    text
}

fn ns(ns: f64) -> String {
    match ns {
        ns if ns < 999.5 => format!("{ns:.1} ns"),
        ns => show::time(Duration::from_nanos(ns as u64)),
    }
}

/// What is measured as a difference may come out as less than nothing, since the machine does other things as well.
fn difference(value: f64) -> String {
    if value < 0.0 {
        "within noise".to_owned()
    } else {
        ns(value)
    }
}

fn curve(text: &mut String, found: &Found, paint: Paint) {
    let _ = writeln!(
        text,
        "\n{}",
        paint.bold("Time per access in the first walk, and cost of a switch there and back")
    );
    let mut table = Table::new([
        ("BETWEEN", Align::Left),
        ("WORKING SET", Align::Right),
        ("BEFORE", Align::Right),
        ("AFTER, NOTHING USED", Align::Right),
        ("AFTER, AS MUCH USED", Align::Right),
        ("DIRECT", Align::Right),
        ("INDIRECT", Align::Right),
        ("SHARE", Align::Right),
    ]);
    for row in &found.curve {
        table.row(curve_row(row));
    }
    let _ = write!(text, "{}", table.shown(paint));
}

fn curve_row(row: &CurveRow) -> [String; 8] {
    let head = (row.carrier.name().to_owned(), show::bytes(row.bytes as u64));
    match &row.point {
        Figure::Measured(point) => [
            head.0,
            head.1,
            format!("{:.2} ns", point.before_ns),
            format!("{:.2} ns", point.after_nothing_ns),
            format!("{:.2} ns", point.after_ns),
            ns(point.direct_ns),
            difference(point.indirect_ns),
            format!("{:.0} %", point.indirect_share() * 100.0),
        ],
        Figure::Skipped { skipped } => {
            let why = Plain(skipped).to_string();
            let none = String::new;
            [head.0, head.1, why, none(), none(), none(), none(), none()]
        }
    }
}

fn ticks(text: &mut String, found: &Found, paint: Paint) {
    let _ = writeln!(
        text,
        "\n{}",
        paint.bold(format_args!(
            "Computing under timer ticks; at each, somebody else reads {}",
            show::bytes(found.tick_bytes as u64)
        ))
    );
    let mut table = Table::new([
        ("BETWEEN", Align::Left),
        ("WORKING SET", Align::Right),
        ("TICK EVERY", Align::Right),
        ("SLOWER BY", Align::Right),
        ("DIRECT", Align::Right),
        ("INDIRECT", Align::Right),
    ]);
    for row in &found.ticks {
        table.row(tick_row(row));
    }
    let _ = write!(text, "{}", table.shown(paint));
}

fn tick_row(row: &TickRow) -> [String; 6] {
    let [carrier, bytes, period] = [
        row.carrier.name().to_owned(),
        show::bytes(row.bytes as u64),
        show::time_us(row.period_us),
    ];
    let [slower, direct, indirect] = match &row.ticked {
        Figure::Measured(ticked) => [
            match ticked.slowdown {
                slower if slower < 0.0 => "within noise".to_owned(),
                slower => format!("{:.2} %", slower * 100.0),
            },
            difference(ticked.direct_ns),
            difference(ticked.indirect_ns),
        ],
        Figure::Skipped { skipped } => [Plain(skipped).to_string(), String::new(), String::new()],
    };
    [carrier, bytes, period, slower, direct, indirect]
}

fn picture(text: &mut String, lines: &Lines, paint: Paint) {
    let title = format!(
        "Lines of the L{} cache, {}",
        lines.cache.level, lines.carrier
    );
    let _ = writeln!(text, "\n{}", paint.bold(title));
    let picture = match &lines.picture {
        Figure::Measured(picture) => picture,
        Figure::Skipped { skipped } => {
            let _ = writeln!(text, "  {}", Plain(skipped));
            return;
        }
    };
    let _ = writeln!(
        text,
        "{} portions of {}, least recently used on the left. A line that is there: {:.2} ns; evicted: {:.2} ns.",
        lines.cache.ways,
        show::bytes(picture.portion_bytes as u64),
        picture.hit_ns,
        picture.miss_ns,
    );
    for (read, shares) in picture.evicted.iter().enumerate() {
        let cells: String = shares
            .iter()
            .map(|share| DARKNESS[(share * (DARKNESS.len() - 1) as f64).round() as usize])
            .collect();
        let _ = writeln!(text, "  the other read {read:>2}: {cells}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_nothing_is_noise() {
        assert_eq!(difference(-3.0), "within noise");
        assert_eq!(difference(0.0), "0.0 ns");
        assert_eq!(difference(12.34), "12.3 ns");
    }
}
