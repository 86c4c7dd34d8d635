//! `sterna serve`: files over HTTP, under a model of choice; and all models compared.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use sterna_gateway::compare::{self, Files, Plan, Row, Scenario, plot};
use sterna_gateway::files::{Ending, Log, Model, Settings, Site, Stop, Workers, serve};
use sterna_gateway::load::Latency;
use sterna_gateway::role;
use sterna_process::Plain;

use crate::host::{First, Signals};
use crate::runner;
use crate::show::{self, Align, Paint, Table};

/// Serves the files of a directory over HTTP, or compares six ways to organise such a server.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, override_usage = USAGE)]
pub(crate) struct Serve {
    /// The directory. Nothing outside it is served, whatever a path or a link says.
    #[arg(
        value_name = "DIR",
        required_unless_present = "compare",
        conflicts_with = "compare"
    )]
    directory: Option<PathBuf>,
    /// How the server is organised; with --compare, only this one.
    #[arg(long, value_parser = models())]
    model: Option<Model>,
    /// Where to listen.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        value_parser = show::parse_address,
        conflicts_with = "compare"
    )]
    bind: SocketAddr,
    /// The file that is sent for a directory.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "index.html",
        value_parser = name,
        conflicts_with = "compare"
    )]
    index: String,
    /// List directories that have no such file.
    #[arg(long, conflicts_with = "compare")]
    listing: bool,
    /// Serve names that begin with a dot, too.
    #[arg(long, conflicts_with = "compare")]
    hidden: bool,
    /// Append a line for each request to FILE, `-` for standard output.
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    log: Option<PathBuf>,
    /// Connections at once; one more is turned away [default: 16384, or what this process may have descriptors for].
    #[arg(long, value_name = "N", value_parser = at_least_one(), conflicts_with = "compare")]
    connections: Option<usize>,
    /// How long a request may take to arrive [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = show::parse_some_time, conflicts_with = "compare")]
    head_time: Option<Duration>,
    /// How long a connection is kept without a request [default: 75s].
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration, conflicts_with = "compare")]
    idle_time: Option<Duration>,
    /// After Ctrl-C, how long to wait for what is being sent [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration, conflicts_with = "compare")]
    grace: Option<Duration>,
    /// Kernel threads of the pool or under user threads, processes, or threads that wait for the disk.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=WORKERS_MAX))]
    workers: Option<usize>,
    /// Compare the models under the same loads, with clients in a process of their own.
    #[arg(long)]
    compare: bool,
    /// With --compare: only these loads.
    #[arg(long, value_name = "LOAD", value_delimiter = ',', value_parser = scenarios(), requires = "compare")]
    only: Vec<Scenario>,
    /// With --compare: how long each model has each load [default: 2s].
    #[arg(long, value_name = "TIME", value_parser = show::parse_some_time, requires = "compare")]
    duration: Option<Duration>,
    /// With --compare: write drawings of the figures into FILE, a page of HTML.
    #[arg(long, value_name = "FILE", requires = "compare")]
    plot: Option<PathBuf>,
    /// With --compare: print JSON.
    #[arg(long, requires = "compare")]
    json: bool,
}

const USAGE: &str = "\
sterna serve [OPTIONS] <DIR>
       sterna serve --compare [OPTIONS]";

const AFTER_HELP: &str = "\
Examples:
  sterna serve site
  sterna serve site --model event-loop --bind 0.0.0.0:8080 --log -
  sterna serve --compare --plot models.html
  sterna serve --compare --only slow-disk,slow-clients --json

Models:
  iterative              one thread, one request after the other
  thread-per-connection  a kernel thread for each connection
  dispatcher             one thread looks who has sent something, a pool of kernel threads serves
  event-loop             one thread as a finite state machine, that waits neither for clients nor for the disk
  processes              processes that were started before, each iterative
  hybrid                 a user thread for each connection, on few kernel threads

Ctrl-C lets it finish what it is sending; a second one ends it at once.";

/// The code of a program that a second Ctrl-C has ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// How long each model has each load if nothing is said.
const COMPARED_FOR: Duration = Duration::from_secs(2);

/// Of each, a kernel thread or a process.
const WORKERS_MAX: u64 = 4096;

fn at_least_one() -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<usize>::new().range(1..)
}

/// The name of a file in any directory.
fn name(text: &str) -> Result<String, String> {
    let mut parts = Path::new(text).components();
    let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == text);
    let wrong = || "the name of a file is needed, without directories".to_owned();
    is_name.then(|| text.to_owned()).ok_or_else(wrong)
}

fn models() -> impl TypedValueParser<Value = Model> {
    let names = PossibleValuesParser::new(Model::ALL.map(Model::name));
    names.try_map(|name| {
        let mut all = Model::ALL.into_iter();
        all.find(|model| model.name() == name)
            .ok_or("no such model")
    })
}

fn scenarios() -> impl TypedValueParser<Value = Scenario> {
    let names = PossibleValuesParser::new(Scenario::ALL.map(Scenario::name));
    names.try_map(|name| {
        let mut all = Scenario::ALL.into_iter();
        all.find(|scenario| scenario.name() == name)
            .ok_or("no such load")
    })
}

impl Serve {
    pub(crate) fn run(self) -> Result<u8> {
        match &self.directory {
            _ if self.compare => self.compare(),
            Some(directory) => self.serve(directory),
            None => bail!("which directory?"),
        }
    }

    fn serve(&self, directory: &Path) -> Result<u8> {
        // The parser lets it pass beside what a comparison has not.
        let is_compared = !self.only.is_empty() || self.duration.is_some();
        if is_compared || self.plot.is_some() || self.json {
            show::note("--only, --duration, --plot and --json are for --compare");
            return Ok(show::EXIT_USAGE);
        }
        let stop = Stop::new().context("could not begin")?;
        let model = self.model.unwrap_or(Model::Hybrid);
        let settings = self.settings(directory, model)?;
        // Before signals are caught: a FIFO is waited for until somebody reads it.
        let log = self.open_log()?;
        let ending = log.as_ref().map(Log::ending);
        let signals = Signals::catch()?;
        let site = Site::new(settings, log, stop.clone());
        let site = site.with_context(|| format!("could not serve {}", show::path(directory)))?;
        let listener = TcpListener::bind(self.bind);
        let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let remedy = match listener.as_ref().is_err_and(is_taken) {
            true => ": choose another port with --bind (port 0 takes any that is free)",
            false => "",
        };
        let listener =
            listener.with_context(|| format!("could not listen at {}{remedy}", self.bind))?;
        let address = listener.local_addr().context("could not listen")?;
        let mut asked = false;
        signals.each(move |_| {
            if std::mem::replace(&mut asked, true) {
                ending.iter().for_each(Ending::end);
                std::process::exit(INTERRUPTED);
            }
            stop.request();
        })?;
        show::note(format_args!(
            "{} at http://{address}/, {}",
            show::path(directory),
            model.name()
        ));
        let served = serve(model, &self.workers()?, listener, site)?;
        show::note(format_args!(
            "{} on {}; {} turned away, {} cut off at the end",
            counted(served.requests, "request"),
            counted(served.connections, "connection"),
            counted(served.turned_away, "connection"),
            served.cut_off
        ));
        Ok(0)
    }

    fn settings(&self, directory: &Path, model: Model) -> Result<Settings> {
        let mut settings = Settings::of(directory);
        settings.index.clone_from(&self.index);
        settings.listing = self.listing;
        settings.hidden = self.hidden;
        let limits = &mut settings.limits;
        limits.connections = connections(model, self.connections, limits.connections)?;
        limits.head_time = self.head_time.unwrap_or(limits.head_time);
        limits.idle_time = self.idle_time.unwrap_or(limits.idle_time);
        limits.grace = self.grace.unwrap_or(limits.grace);
        Ok(settings)
    }

    fn workers(&self) -> Result<Workers> {
        let program = std::env::current_exe().context("could not find this program")?;
        Ok(Workers {
            count: self.workers,
            program: Some((program, role::worker())),
        })
    }

    fn open_log(&self) -> Result<Option<Log>> {
        let Some(path) = &self.log else {
            return Ok(None);
        };
        let file = if path == Path::new("-") {
            let standard = std::io::stdout().as_fd().try_clone_to_owned();
            File::from(standard.context("could not take standard output")?)
        } else {
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.with_context(|| format!("could not open the log {}", show::path(path)))?
        };
        let name = show::path(path);
        let log = Log::new(file, move |error| {
            show::note(format_args!(
                "the log {name} cannot be written, and lines are lost: {error}"
            ));
        });
        Ok(Some(log.context("could not begin the log")?))
    }

    fn compare(&self) -> Result<u8> {
        let all = |only: &[Scenario]| match only {
            [] => Scenario::ALL.to_vec(),
            only => only.to_vec(),
        };
        let duration = self.duration.unwrap_or(COMPARED_FOR);
        let plan = Plan {
            program: std::env::current_exe().context("could not find this program")?,
            duration,
            models: self
                .model
                .map_or_else(|| Model::ALL.to_vec(), |model| vec![model]),
            scenarios: all(&self.only),
            workers: self.workers,
        };
        let drawing = self.plot.as_deref().map(show::Drawing::open).transpose()?;
        let signals = Signals::catch()?;
        let files = Files::make()?;
        let root = files.root().to_owned();
        let measure = move || {
            compare::run(&plan, &root, |row| {
                show::note(format_args!(
                    "measured: {} under {}",
                    row.model.name(),
                    row.scenario.name()
                ));
            })
        };
        let rows = match signals.or_done(measure)? {
            First::Done(rows) => rows?,
            First::Signal(signal) => return Ok(128 + signal as u8),
        };
        let machine = machine();
        if let Some(drawing) = drawing {
            drawing.write(&plot::page(&rows, &machine))?;
        }
        if self.json {
            show::json(&Compared {
                machine,
                duration_ms: duration.as_millis() as u64,
                rows: &rows,
            })?;
        } else {
            print_tables(&rows);
        }
        Ok(0)
    }
}

/// As many connections as are wanted, if this process may have the descriptors to serve them.
fn connections(model: Model, wanted: Option<usize>, usual: usize) -> Result<usize> {
    runner::allow_descriptors();
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = model.connections_within(descriptors);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    ensure!(
        room > 0,
        "this process may have {descriptors} descriptors, which is too few for a single connection: raise that limit (ulimit -n)"
    );
    let count = wanted.unwrap_or(usual.min(room));
    ensure!(
        count <= room,
        "{count} connections under {} need more descriptors than the {descriptors} that this process may have, which are enough for \
         {room}: raise that limit (ulimit -Hn), or ask for fewer",
        model.name()
    );
    Ok(count)
}

fn counted(number: u64, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

#[derive(Serialize)]
struct Compared<'a> {
    machine: String,
    duration_ms: u64,
    rows: &'a [Row],
}

fn print_tables(rows: &[Row]) {
    for scenario in Scenario::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.scenario == scenario).collect();
        if rows.is_empty() {
            continue;
        }
        let mut table = Table::new([
            ("MODEL", Align::Left),
            ("ANSWERS/s", Align::Right),
            ("p50", Align::Right),
            ("p99", Align::Right),
            ("p99.9", Align::Right),
            ("CPU/ANSWER", Align::Right),
            ("CPU", Align::Right),
            ("MEMORY", Align::Right),
            ("ERRORS", Align::Right),
        ]);
        for row in rows {
            let us = |value: f64| show::time_us(value.round() as u64);
            let none = || "-".to_owned();
            let latency =
                |of: fn(Latency) -> f64| row.latency_us.map_or_else(none, |all| us(of(all)));
            table.row([
                row.model.name().to_owned(),
                format!("{:.0}", row.per_second),
                latency(|all| all.p50),
                latency(|all| all.p99),
                latency(|all| all.p999),
                row.cpu_us_per_request.map_or_else(none, us),
                format!("{:.0} %", row.cpu_share * 100.0),
                show::bytes(row.memory_kib * 1024),
                row.errors.to_string(),
            ]);
        }
        show::print(format_args!(
            "\n{}: {}\n",
            scenario.name(),
            scenario.description()
        ));
        show::print(table.shown(Paint::stdout()));
    }
}

/// A line about this machine, for whoever reads the figures later.
fn machine() -> String {
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = about
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("a processor", |rest| {
        rest.trim_start_matches([' ', '\t', ':'])
    });
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    Plain(&format!("{processors} × {model}, Linux {release}")).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    fn parsed(line: &str) -> Result<Serve, String> {
        let words = std::iter::once("sterna").chain(line.split(' '));
        let line = Line::try_parse_from(words);
        line.map(|line| line.serve)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_be_ignored_or_lead_outside_is_refused() {
        assert_eq!(
            parsed("site --index start.html").unwrap().index,
            "start.html"
        );
        assert!(parsed("--compare --only fast").unwrap().compare);
        for index in ["../x", "/etc/passwd", "sub/x", ".", "..", "x/"] {
            let refused = parsed(&format!("site --index {index}")).unwrap_err();
            assert!(refused.contains("without directories"), "{refused}");
        }
        let refused = parsed("site --compare").unwrap_err();
        assert!(refused.contains("cannot be used with"), "{refused}");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(1, "connection"), "1 connection");
        assert_eq!(counted(0, "connection"), "0 connections");
    }
}
