//! `sterna move`: a running process to another node.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sterna_migration::{Attempt, NodeId};
use sterna_node::identity;
use sterna_node::message::{HostingReply, HostingRequest, MoveReport, Nodes, TreesSent};
use sterna_process::{Plain, ProcessId};

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
    /// Only say whether it could be moved.
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

The process stands still from `capture` to `resume`; before that it runs. If anything fails it stays where it is, and
runs on. Ctrl-C gives the move up, if that can still be done.

Exit code: 0 if it was moved, 3 if it stayed and trying again can help, 1 otherwise.";

/// The code if it stayed and may be moved later.
pub(crate) const EXIT_LATER: u8 = 3;

#[derive(Serialize)]
struct Told<'a> {
    id: ProcessId,
    from: &'a str,
    to: &'a str,
    from_id: String,
    to_id: String,
    moved: bool,
    outcome: &'a str,
    retry: bool,
    image_bytes: u64,
    pages: u64,
    downtime_us: Option<u64>,
    watched_us: Option<u64>,
    was_ready: Option<bool>,
    total_us: u64,
    parts_us: Vec<(&'a str, u64)>,
    copied: Option<Copied>,
}

/// What went of directories that are copied along.
#[derive(Serialize)]
struct Copied {
    running_bytes: u64,
    still_bytes: u64,
    still_us: u64,
    bytes: u64,
    entries: u64,
}

impl Move {
    pub(crate) fn run(self) -> Result<u8> {
        let entry = self.which.find_living(&self.process)?;
        let nodes = self.which.nodes()?;
        let target = node::member(&nodes, &self.target)?;
        let process = entry.process;
        let request = HostingRequest::Move {
            process,
            target,
            dry_run: self.dry_run,
        };
        match self.which.hosting(request)? {
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
                let (report, copied) = self.attend(source, attempt)?;
                self.tell(&report, copied, &nodes)
            }
            _ => Err(node::unexpected()),
        }
    }

    /// Waits for the move's end.
    fn attend(&self, source: NodeId, attempt: Attempt) -> Result<(MoveReport, Option<TreesSent>)> {
        let which = self.which.clone();
        Signals::catch()?.each(move |signal| {
            let cancelled = which.hosting(HostingRequest::CancelMove { source, attempt });
            if let Err(error) = cancelled {
                show::note(format_args!("{error:#}"));
                std::process::exit(128 + signal);
            }
        })?;
        loop {
            let request = HostingRequest::MoveNews { source, attempt };
            match self.which.hosting(request)? {
                Some(HostingReply::MoveNews(Some(report))) => return Ok((*report, None)),
                Some(HostingReply::MovedWithCopies(report, copied)) => {
                    return Ok((*report, Some(copied)));
                }
                Some(HostingReply::MoveNews(None)) => {}
                _ => return Err(node::unexpected()),
            }
        }
    }

    fn tell(&self, report: &MoveReport, copied: Option<TreesSent>, nodes: &Nodes) -> Result<u8> {
        let from = node::name_of(nodes, report.source);
        let to = node::name_of(nodes, report.target);
        if self.json {
            show::json(&Told {
                id: report.process,
                from: &from,
                to: &to,
                from_id: identity::text(report.source),
                to_id: identity::text(report.target),
                moved: report.moved,
                outcome: &report.outcome,
                retry: report.retry,
                image_bytes: report.image_bytes,
                pages: report.pages,
                downtime_us: report.downtime_us,
                watched_us: report.watched_us,
                was_ready: report.was_ready,
                total_us: report.total_us,
                parts_us: report
                    .parts
                    .iter()
                    .map(|(part, us)| (&**part, *us))
                    .collect(),
                copied: copied.map(|sent| Copied {
                    running_bytes: sent.running_bytes,
                    still_bytes: sent.still_bytes,
                    still_us: sent.still_us,
                    bytes: sent.bytes,
                    entries: sent.entries,
                }),
            })?;
        } else {
            show::print(text(report, copied, &from, &to));
        }
        Ok(match (report.moved, report.retry) {
            (true, _) => 0,
            (false, true) => EXIT_LATER,
            (false, false) => 1,
        })
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

/// What each part of a move is.
fn meaning(part: &str, ready: Option<bool>) -> &'static str {
    match (part, ready) {
        ("fetch", _) => "the program went to the target and was compiled there",
        ("room", _) => "the target made room",
        ("accept", _) => "the target was asked and accepted",
        ("declare", _) => "the registry wrote the intent down",
        ("pause", Some(true)) => {
            "watched, running, until all it needs was ready there; then stopped"
        }
        ("pause", _) => "until it stood still",
        ("capture", _) => "stood still: its state became an image",
        ("send", _) => {
            "image and pages, and what changed in copied directories, went to the target"
        }
        ("restore", _) => "the target made the process of them",
        ("commit", _) => "the registry wrote the new owner down",
        ("resume", _) => "until its first instruction there",
        ("travel", _) => "messages on their way",
        ("confirm", _) => "waited for news after the commit",
        ("settle", _) => "the registry wrote down that it stays",
        ("return", _) => "until it ran here again",
        _ => "",
    }
}

fn text(report: &MoveReport, copied: Option<TreesSent>, from: &str, to: &str) -> String {
    let process = report.process.short();
    let mut text = match report.moved {
        true => format!("{process} moved from {from} to {to}\n"),
        false => format!("{process} {}\n", Plain(&report.outcome)),
    };
    for (part, us) in &report.parts {
        let span = show::time(Duration::from_micros(*us));
        let meaning = meaning(part, report.was_ready);
        text.push_str(&format!(
            "  {:<8} {span:>9}  {meaning}\n",
            Plain(part).to_string()
        ));
    }
    let total = show::time(Duration::from_micros(report.total_us));
    text.push_str(&format!("  total    {total:>9}\n"));
    if let Some(us) = report.downtime_us {
        let span = show::time(Duration::from_micros(us));
        text.push_str(&format!(
            "  downtime {span:>9}  from its last instruction before to its first after\n"
        ));
    }
    if report.moved {
        let bytes = report.image_bytes + report.pages * sterna_process::PAGE_SIZE as u64;
        text.push_str(&format!(
            "  {} pages, {} in all\n",
            report.pages,
            show::bytes(bytes)
        ));
    }
    if let Some(sent) = copied {
        text.push_str(&format!(
            "  copied along: {} while it ran and {} in {} while it stood still, of {} in {} files and directories\n",
            show::bytes(sent.running_bytes),
            show::bytes(sent.still_bytes),
            show::time(Duration::from_micros(sent.still_us)),
            show::bytes(sent.bytes),
            sent.entries
        ));
    }
    text
}
