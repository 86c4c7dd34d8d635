//! `sterna move`: a running process to another node.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sterna_migration::{Attempt, NodeId, Strategy, Travel};
use sterna_node::AskError;
use sterna_node::message::{FailureKind, HostingReply, HostingRequest, MoveEnd};
use sterna_process::{Plain, ProcessId};

use super::moved;
use crate::complete;
use crate::host::Signals;
use crate::node::{self, Which};
use crate::show;

/// Moves a running process to another node, where it goes on in the middle of its work.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Move {
    /// The process: its name, or the beginning of its id.
    #[arg(value_name = "P", add = complete::processes())]
    process: String,
    /// The node: its name, or the beginning of its id.
    #[arg(value_name = "NODE", add = complete::nodes())]
    target: String,
    /// How its memory travels.
    #[arg(long, value_name = "STRATEGY", value_enum, default_value_t)]
    strategy: Way,
    /// How long it may stand still, e.g. 10ms.
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    max_downtime: Option<Duration>,
    /// How much may be sent while it runs, e.g. 200MB/s; K, M and G are powers of 1024.
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    max_rate: Option<u64>,
    /// Rounds end so long after the order, and what comes after it is not held back any more, e.g. 30s.
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    deadline: Option<Duration>,
    /// Only say whether it could be moved. Its memory is not counted for that, so nothing is said about the deadline.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna move server lab-2
  sterna move server lab-2 --dry-run    whether it could be
  sterna move server lab-2 --max-rate 200MB/s --deadline 30s
  sterna move server lab-2 --strategy pre-copy --max-downtime 10ms    that, or not at all

Strategies:
  stop-and-copy  all of its memory goes while it stands still
  pre-copy       memory goes in rounds while it runs: all, then what was written meanwhile, and
                 so on; the rest while it stands still
  post-copy      it runs at the target at once, and its memory comes after it: first what it touches.
                 Until all has come both nodes are needed: without one of them it is lost
  hybrid         rounds as with pre-copy; what they leave comes after it, as with post-copy
  auto           pre-copy, unless its memory goes within --max-downtime at once; hybrid if what
                 the rounds leave would not go within it and the target can

Rounds end when what is left would go within --max-downtime (10ms if nothing is said), when it writes as \
fast as it is copied, after ten of them, or at the deadline. Then it is stopped and moved, however long that \
takes. Only --strategy pre-copy together with --max-downtime gives the move up instead if it would stand \
still for longer. --max-rate limits what goes while it runs: the rounds, and until the deadline (a minute if \
nothing is said) what comes after it unasked. On Linux before 6.7, and to nodes of an older sterna, auto is \
stop-and-copy; the report says so.

The process stands still from `capture` to `resume`; before that it runs. If anything fails it stays where \
it is, and runs on. Ctrl-C gives the move up, if that can still be done; a second one ends this command \
only.

Exit code: 0 if it was moved, 3 if it stayed and trying again can help, 2 if options contradict each other, 1 otherwise.";

/// The code if it stayed and may be moved later.
pub(crate) const EXIT_LATER: u8 = 3;

/// After so long without news people are told why that may be.
const SILENCE_NOTED: Duration = Duration::from_secs(10);
const SILENCE: &str = "no news for 10 s: the target compiles the program, memory follows, or a node or the registry does not answer \
    (sterna nodes). Ctrl-C gives the move up if that can still be done; a second one ends this command only";

/// A [`Strategy`], or the choice of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Way {
    #[default]
    Auto,
    StopAndCopy,
    PreCopy,
    PostCopy,
    Hybrid,
}

/// That a process could be moved.
#[derive(Serialize)]
struct Could<'a> {
    id: ProcessId,
    from: &'a str,
    to: &'a str,
    dry_run: bool,
    memory_bytes: u64,
}

fn possible(travel: &Travel) -> Result<(), String> {
    travel.check().map_err(|error| error.to_string())
}

/// A time that can be kept to.
fn parse_limit(text: &str) -> Result<Duration, String> {
    let limit = show::parse_duration(text)?;
    let travel = Travel {
        within: Some(limit),
        ..Travel::default()
    };
    possible(&travel).map(|()| limit)
}

/// A rate at which something arrives.
fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = show::parse_rate(text)?;
    let travel = Travel {
        rate_max: Some(rate),
        ..Travel::default()
    };
    possible(&travel).map(|()| rate)
}

/// Whether somebody else works on it, who will soon have done.
fn is_busy(error: &anyhow::Error) -> bool {
    let asked = error.downcast_ref::<AskError>();
    let Some(AskError::Failed(failure)) = asked else {
        return false;
    };
    matches!(failure.kind, FailureKind::Busy | FailureKind::Taken)
}

impl Move {
    pub(crate) fn run(self) -> Result<u8> {
        let travel = self.travel();
        if let Err(error) = travel.check() {
            show::note(error);
            return Ok(show::EXIT_USAGE);
        }
        let entry = self.which.find_living(&self.process)?;
        let nodes = self.which.nodes()?;
        let target = node::member(&nodes, &self.target)?;
        let process = entry.process;
        let request = HostingRequest::MoveSo {
            process,
            target,
            travel,
            dry_run: self.dry_run,
        };
        let begun = match self.which.hosting(request) {
            Err(error) if is_busy(&error) => {
                show::note(format_args!("{error:#}"));
                return Ok(EXIT_LATER);
            }
            begun => begun?,
        };
        match begun {
            Some(HostingReply::CouldMove {
                source,
                memory_bytes,
            }) if self.json => {
                show::json(&Could {
                    id: process,
                    from: &node::name_of(&nodes, source),
                    to: &node::name_of(&nodes, target),
                    dry_run: true,
                    memory_bytes,
                })?;
                Ok(0)
            }
            Some(HostingReply::CouldMove { memory_bytes, .. }) => {
                show::note(format_args!(
                    "{} can be moved to {}: it has {} of memory, of which what has changed goes along",
                    process.short(),
                    node::name_of(&nodes, target),
                    show::bytes(memory_bytes)
                ));
                Ok(0)
            }
            Some(HostingReply::Moving { source, attempt }) => {
                let end = self.attend(source, attempt)?;
                moved::tell(&end, &nodes, self.json)?;
                self.note_downtime(&end);
                Ok(match (end.report.moved, end.report.retry) {
                    (true, _) => 0,
                    (false, true) => EXIT_LATER,
                    (false, false) => 1,
                })
            }
            _ => Err(node::unexpected()),
        }
    }

    /// It is an estimate that keeps to the limit, and what it stood still shows only in the end.
    fn note_downtime(&self, end: &MoveEnd) {
        let downtime = end.report.downtime_us.map(Duration::from_micros);
        if let (Some(allowed), Some(downtime)) = (self.max_downtime, downtime)
            && downtime > allowed
        {
            show::note(format_args!(
                "it stood still for {}, of which {} were allowed",
                show::time(downtime),
                show::time(allowed)
            ));
        }
    }

    fn travel(&self) -> Travel {
        Travel {
            strategy: match self.strategy {
                Way::Auto => None,
                Way::StopAndCopy => Some(Strategy::StopAndCopy),
                Way::PreCopy => Some(Strategy::PreCopy),
                Way::PostCopy => Some(Strategy::PostCopy),
                Way::Hybrid => Some(Strategy::Hybrid),
            },
            downtime_max: self.max_downtime,
            rate_max: self.max_rate,
            within: self.deadline,
        }
    }

    /// Waits for the move's end, and shows its rounds until then.
    fn attend(&self, source: NodeId, attempt: Attempt) -> Result<MoveEnd> {
        let which = self.which.clone();
        let mut is_cancelled = false;
        Signals::catch()?.each(move |signal| {
            if std::mem::replace(&mut is_cancelled, true) {
                show::note("the move goes on, or settles, by itself");
                std::process::exit(128 + signal);
            }
            let which = which.clone();
            thread::spawn(move || {
                let cancelled = which.hosting(HostingRequest::CancelMove { source, attempt });
                if let Err(error) = cancelled {
                    show::note(format_args!("{error:#}"));
                    std::process::exit(128 + signal);
                }
            });
        })?;
        let (line, mut after) = (show::Line::new(), 0);
        let (mut heard, mut is_told) = (Instant::now(), false);
        let mut round = String::new();
        loop {
            let request = HostingRequest::MoveProgress {
                source,
                attempt,
                after,
            };
            let of_older = |report, copied| MoveEnd {
                report,
                travelled: None,
                copied,
            };
            match self.which.hosting(request)? {
                Some(HostingReply::MoveProgress(progress)) => {
                    after += progress.rounds.len() as u32;
                    if progress.going.is_some() || !progress.rounds.is_empty() {
                        heard = Instant::now();
                    } else if heard.elapsed() > SILENCE_NOTED
                        && !std::mem::replace(&mut is_told, true)
                    {
                        show::note(SILENCE);
                    }
                    if let Some(last) = progress.rounds.last() {
                        round = moved::round(after, last);
                        line.set(&round);
                    }
                    if let Some(going) = progress.going {
                        let going = moved::going(after + 1, going);
                        line.set(&match round.is_empty() {
                            true => going,
                            false => format!("{going}; {round}"),
                        });
                    }
                    if let Some(end) = progress.ended {
                        return Ok(*end);
                    }
                }
                Some(HostingReply::MoveNews(Some(report))) => return Ok(of_older(*report, None)),
                Some(HostingReply::MovedWithCopies(report, copied)) => {
                    return Ok(of_older(*report, Some(copied)));
                }
                Some(HostingReply::MoveNews(None)) => {}
                _ => return Err(node::unexpected()),
            }
        }
    }
}

/// Moves a process, and says only if it stays. The code of that.
pub(crate) fn quietly(which: &Which, process: ProcessId, target: NodeId) -> Result<u8> {
    let request = HostingRequest::Move {
        process,
        target,
        dry_run: false,
    };
    let Some(HostingReply::Moving { source, attempt }) = which.hosting(request)? else {
        return Err(node::unexpected());
    };
    let report = loop {
        match which.hosting(HostingRequest::MoveNews { source, attempt })? {
            Some(
                HostingReply::MoveNews(Some(report)) | HostingReply::MovedWithCopies(report, _),
            ) => break report,
            Some(HostingReply::MoveNews(None)) => {}
            _ => return Err(node::unexpected()),
        }
    };
    match (report.moved, report.retry) {
        (true, _) => Ok(0),
        (false, retry) => {
            let outcome = Plain(&report.outcome);
            show::note(format_args!("{} {outcome}", process.short()));
            Ok(if retry { EXIT_LATER } else { 1 })
        }
    }
}
