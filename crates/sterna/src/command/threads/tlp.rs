//! `sterna threads tlp`: thread-level parallelism of any program.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Args};
use sterna_laboratory::tlp::{self, Choice, Histogram, Method, Parallelism, TlpError, Until};
use sterna_process::Plain;

use super::Output;
use crate::host::Signals;
use crate::show::{self, Align, Paint, Table};

/// Says how many threads of a program run at the same time.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, override_usage = USAGE, group = ArgGroup::new("program").args(["pid", "command"]).required(true))]
pub(super) struct Tlp {
    /// Measure a process that runs, and all that it starts, until it ends or Ctrl-C.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Measure no longer than this. A command is then ended, with what it has started.
    #[arg(long = "for", value_name = "TIME", value_parser = show::parse_some_time)]
    duration: Option<Duration>,
    /// Look at the states of threads now and then, as where the kernel gives no scheduler events.
    #[arg(long)]
    sample: bool,
    #[command(flatten)]
    output: Output,
    /// The command to run and measure. Its output goes where it always goes; the result comes after it.
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

const USAGE: &str = "\
sterna threads tlp [OPTIONS] -- <COMMAND>...
       sterna threads tlp [OPTIONS] --pid <PID>";

const AFTER_HELP: &str = "\
Examples:
  sterna threads tlp -- make -j4
  sterna threads tlp --pid 4711 --for 10s
  sterna threads tlp --json --plot tlp.html -- ./program >/dev/null

With c(i) the share of time in which exactly i threads run, the parallelism is the sum of i * c(i), divided \
by 1 - c(0). The kernel records each switch, without root for programs of your own. The code is the \
command's, or 0 if --for has ended it.";

/// Characters of the longest bar.
const BAR: f64 = 40.0;

impl Tlp {
    pub(super) fn run(self) -> Result<u8> {
        let output = self.output.open()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let caught = Arc::new(AtomicI32::new(0));
        let (flag, number) = (Arc::clone(&stopped), Arc::clone(&caught));
        // A terminal's Ctrl-C goes to the command as well.
        Signals::catch()?.each(move |signal| {
            number.store(signal, Ordering::Relaxed);
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(128 + signal);
            }
        })?;
        let until = Until {
            duration: self.duration,
            stopped: &stopped,
        };
        let choice = match self.sample {
            true => Choice::Samples,
            false => Choice::Best,
        };
        let (measured, what) = match self.pid {
            Some(pid) => (
                tlp::of_process(pid, choice, until)?,
                format!("process {pid}"),
            ),
            None => {
                let mut command = Command::new(&self.command[0]);
                let measured = tlp::of_command(command.args(&self.command[1..]), choice, until);
                let measured = match measured {
                    Ok(measured) => measured,
                    Err(error) => return told(error),
                };
                (measured, self.command[0].to_string_lossy().into_owned())
            }
        };
        let code = measured.exit_code.unwrap_or_else(|| match self.pid {
            None if stopped.load(Ordering::Relaxed) => 128 + caught.load(Ordering::Relaxed),
            // It has run for as long as was wanted.
            _ => 0,
        });
        output.put(&measured, text, |measured| measured.page(&what))?;
        Ok(u8::try_from(code).unwrap_or(1))
    }
}

/// That a command did not start has a code of its own, as for a shell.
fn told(error: TlpError) -> Result<u8> {
    let code = error.command_code();
    let error = anyhow::Error::from(error);
    let Some(code) = code else { return Err(error) };
    show::note(format_args!("{error:#}"));
    Ok(code)
}

fn text(measured: &Parallelism) -> String {
    let paint = Paint::stdout();
    let mut text = String::new();
    let value = |histogram: &Histogram| match histogram.tlp {
        Some(tlp) => format!("{tlp:.3}"),
        None => "none: no thread ever ran".to_owned(),
    };
    let _ = writeln!(
        text,
        "{} {}",
        paint.bold("Thread-level parallelism:"),
        paint.green(value(&measured.running))
    );
    let source = match measured.method {
        Method::SchedulerEvents if measured.switches == 1 => "1 switch".to_owned(),
        Method::SchedulerEvents => format!("{} switches", measured.switches),
        Method::Samples => {
            "samples of task states, which also count threads that wait for a processor".to_owned()
        }
    };
    let _ = writeln!(
        text,
        "{} thread{} in {} on {} processors, from {source}. With threads that were interrupted: {}.",
        measured.threads,
        if measured.threads == 1 { "" } else { "s" },
        show::time(Duration::from_secs_f64(measured.seconds)),
        measured.processors,
        value(&measured.wanted),
    );
    if let Some(why) = measured
        .fallback
        .as_ref()
        .filter(|_| measured.method == Method::Samples)
    {
        let _ = writeln!(text, "No scheduler events: {}.", Plain(why));
    }
    if measured.lost > 0 {
        let _ = writeln!(
            text,
            "{} records were lost: the figures are too small.",
            measured.lost
        );
    }
    text.push('\n');
    histogram(&mut text, measured, paint);
    text.push('\n');
    let mut table = Table::new([
        ("THREADS NAMED", Align::Left),
        ("COUNT", Align::Right),
        ("RAN", Align::Right),
    ]);
    for named in &measured.busiest {
        table.row([
            Plain(&named.name).to_string(),
            named.threads.to_string(),
            show::time(Duration::from_secs_f64(named.run_seconds)),
        ]);
    }
    let _ = write!(text, "{}", table.shown(paint));
    text
}

fn histogram(text: &mut String, measured: &Parallelism, paint: Paint) {
    let rows = measured
        .running
        .shares
        .len()
        .max(measured.wanted.shares.len());
    let share = |histogram: &Histogram, at: usize| histogram.shares.get(at).copied().unwrap_or(0.0);
    let mut table = Table::new([
        ("AT ONCE", Align::Right),
        ("RAN", Align::Right),
        ("OR INTERRUPTED", Align::Right),
        ("", Align::Left),
    ]);
    for at in 0..rows {
        let ran = share(&measured.running, at);
        table.row([
            at.to_string(),
            format!("{:.1} %", ran * 100.0),
            format!("{:.1} %", share(&measured.wanted, at) * 100.0),
            "█".repeat((ran * BAR).round() as usize),
        ]);
    }
    let _ = write!(text, "{}", table.shown(paint));
}
