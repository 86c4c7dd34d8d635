//! `sterna stats` and `sterna top`: what processes use, in two looks with some time between them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use sterna_process::{Plain, ProcessId};

use super::ps::{self, Row};
use crate::complete;
use crate::host::Signals;
use crate::node::Which;
use crate::show::{self, Align, Paint, Table};
use crate::terminal::{self, Raw};

/// Between the two looks of `stats`.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Shortest time between two tables.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Shows what processes use: processor, memory, output. Of this machine and, if a node runs here, of its cluster.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Stats {
    /// Processes: names, or beginnings of ids [default: all].
    #[arg(value_name = "P", add = complete::processes())]
    processes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna stats
  sterna stats lua --json | jq '.[0].cpu_percent'

CPU % is the share of one processor in half a second. See `sterna top` for a table that goes on.";

/// Shows what processes use, again and again: most processor time first.
#[derive(Debug, Args)]
#[command(after_help = TOP_HELP)]
pub(crate) struct Top {
    /// How often, e.g. 2s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = show::parse_duration)]
    interval: Duration,
    /// End after so many tables.
    #[arg(long, value_name = "TABLES")]
    times: Option<u64>,
    #[command(flatten)]
    which: Which,
}

const TOP_HELP: &str = "\
Examples:
  sterna top                     q ends it
  sterna top --interval 5s
  sterna top --times 3 | cat     plain tables, one after the other, where there is no terminal";

/// What a process uses.
#[derive(Debug, Serialize)]
struct Usage {
    id: ProcessId,
    name: String,
    node: Option<String>,
    state: String,
    /// Of one processor, in percent; null if it could not be asked twice.
    cpu_percent: Option<f64>,
    /// In all.
    cpu_ms: Option<u64>,
    memory_bytes: Option<u64>,
    memory_bytes_peak: Option<u64>,
    /// Written until now; null of processes without a node.
    output_bytes: Option<u64>,
}

/// Looks at all processes, and remembers the last look.
struct Looker<'a> {
    which: &'a Which,
    last: HashMap<ProcessId, u64>,
    at: Instant,
}

impl<'a> Looker<'a> {
    fn new(which: &'a Which) -> Self {
        Self {
            which,
            last: HashMap::new(),
            at: Instant::now(),
        }
    }

    fn look(&mut self) -> Result<Vec<Usage>> {
        let begun = Instant::now();
        let rows = ps::all(self.which, false)?;
        // Each is looked at some time within the look.
        let now = begun + begun.elapsed() / 2;
        let span_ms = now.duration_since(self.at).as_secs_f64() * 1000.0;
        let last = std::mem::take(&mut self.last);
        self.at = now;
        let cpu = rows.iter().filter_map(|row| Some((row.id, row.cpu_ms?)));
        self.last = cpu.collect();
        let usage = |row: Row| {
            let before = last.get(&row.id);
            let spent = row.cpu_ms.zip(before);
            let spent = spent.map(|(now, before)| now.saturating_sub(*before) as f64);
            Usage {
                id: row.id,
                name: row.name,
                node: row.node,
                state: row.state,
                cpu_percent: spent.map(|ms| (1000.0 * ms / span_ms).round() / 10.0),
                cpu_ms: row.cpu_ms,
                memory_bytes: row.memory_bytes,
                memory_bytes_peak: row.memory_bytes_peak,
                output_bytes: row.output_bytes,
            }
        };
        let mut all: Vec<Usage> = rows.into_iter().map(usage).collect();
        all.sort_by(|one, other| {
            let share = |usage: &Usage| usage.cpu_percent.unwrap_or(-1.0);
            share(other).total_cmp(&share(one))
        });
        Ok(all)
    }
}

impl Stats {
    pub(crate) fn run(self) -> Result<u8> {
        let wanted = self.wanted()?;
        let mut looker = Looker::new(&self.which);
        looker.look()?;
        thread::sleep(LOOK_AGAIN_AFTER);
        let mut all = looker.look()?;
        if let Some(wanted) = wanted {
            all.retain(|usage| wanted.contains(&usage.id));
        }
        match self.json {
            true => show::json(&all)?,
            false if all.is_empty() => {
                show::note("nothing runs here; start something with `sterna run FILE.wasm`");
            }
            false => show::print(table(&all).shown(Paint::stdout())),
        }
        Ok(0)
    }

    fn wanted(&self) -> Result<Option<Vec<ProcessId>>> {
        if self.processes.is_empty() {
            return Ok(None);
        }
        let find = |wanted: &String| match crate::rundir::find(wanted) {
            Ok(found) => Ok(found.record.id),
            Err(_) if self.which.is_there() => Ok(self.which.find_living(wanted)?.process),
            Err(error) => Err(error),
        };
        self.processes
            .iter()
            .map(find)
            .collect::<Result<_>>()
            .map(Some)
    }
}

impl Top {
    pub(crate) fn run(self) -> Result<u8> {
        let interval = self.interval.max(INTERVAL_MIN);
        let mut looker = Looker::new(&self.which);
        looker.look()?;
        let screen = match terminal::is_used() {
            true => Some(on_screen()?),
            false => None,
        };
        let mut shown = 0;
        while self.times.is_none_or(|times| shown < times) {
            if wait(interval, screen.is_some())? {
                break;
            }
            let all = looker.look()?;
            match screen {
                Some(_) => draw(&all)?,
                None => show::print(format_args!("{}\n", table(&all).shown(Paint::stdout()))),
            }
            shown += 1;
        }
        Ok(0)
    }
}

fn on_screen() -> Result<Raw> {
    Signals::catch()?.each(|signal| {
        terminal::restore();
        std::process::exit(128 + signal);
    })?;
    let screen = Raw::screen().context("could not set up the terminal")?;
    draw(&[])?;
    Ok(screen)
}

/// Waits for the next table. Whether `q` was typed meanwhile.
fn wait(interval: Duration, with_keys: bool) -> Result<bool> {
    if !with_keys {
        thread::sleep(interval);
        return Ok(false);
    }
    let until = Instant::now() + interval;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let stdin = io::stdin();
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => {
                let mut typed = [0; 64];
                let got = rustix::io::read(&stdin, &mut typed).unwrap_or(0);
                if got == 0 || typed[..got].iter().any(|key| matches!(key, b'q' | b'Q')) {
                    return Ok(true);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("could not wait for keys"),
        }
    }
}

/// A table where the last one was, cut to the terminal.
fn draw(all: &[Usage]) -> Result<()> {
    let size = terminal::size();
    let text = table(all).shown(Paint::plain()).to_string();
    let mut screen = String::from("\x1b[H");
    let rows = usize::from(size.rows).saturating_sub(1);
    for line in text.lines().take(rows.saturating_sub(1)) {
        screen.extend(line.chars().take(size.columns.into()));
        screen.push_str("\x1b[K\n");
    }
    screen.push_str("\x1b[Jq ends this");
    let mut out = io::stdout().lock();
    let drawn = out.write_all(screen.as_bytes()).and_then(|()| out.flush());
    drawn.context("could not write to the terminal")
}

fn table(all: &[Usage]) -> Table<8> {
    let mut table = Table::new([
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("CPU %", Align::Right),
        ("CPU", Align::Right),
        ("MEMORY", Align::Right),
        ("OUTPUT", Align::Right),
    ]);
    let unknown = || "-".to_owned();
    for usage in all {
        let percent = usage.cpu_percent.map(|percent| format!("{percent:.1}"));
        let cpu = usage.cpu_ms.map(|ms| show::time(Duration::from_millis(ms)));
        table.row([
            usage.id.short(),
            Plain(&usage.name).to_string(),
            usage.node.clone().unwrap_or_else(unknown),
            Plain(&usage.state).to_string(),
            percent.unwrap_or_else(unknown),
            cpu.unwrap_or_else(unknown),
            usage.memory_bytes.map_or_else(unknown, show::bytes),
            usage.output_bytes.map_or_else(unknown, show::bytes),
        ]);
    }
    table
}
