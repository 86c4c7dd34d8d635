//! `sterna wait`: until processes have ended.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sterna_migration::Life;
use sterna_node::message::{HostingReply, HostingRequest, ProcessEntry};
use sterna_process::{Plain, ProcessId};

use crate::complete;
use crate::node::{self, Which};
use crate::show;

/// Waits until processes on nodes have ended, wherever they are by then.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Wait {
    /// The processes: their names, or the beginnings of their ids.
    #[arg(value_name = "P", required = true, add = complete::processes())]
    processes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Example:
  sterna run --detach --name job job.wasm && sterna wait job

Exit code: that of the last process named; 134 if it trapped, 137 if it was killed or lost, 75 if it was frozen.";

#[derive(Serialize)]
struct Waited {
    id: ProcessId,
    name: Option<String>,
    code: u8,
    outcome: String,
}

impl Wait {
    pub(crate) fn run(self) -> Result<u8> {
        let found = self.processes.iter().map(|wanted| self.which.find(wanted));
        let found: Vec<ProcessEntry> = found.collect::<Result<_>>()?;
        let (mut waited, mut last) = (Vec::new(), 0);
        for entry in &found {
            let entry = until_end(&self.which, entry.process)?;
            last = show::exit_code(entry.ending.as_ref());
            let outcome = show::ending(entry.ending.as_ref());
            if !self.json {
                let name = entry.name.as_ref().unwrap_or(&entry.info.file);
                show::note(format_args!(
                    "{} ({}) {outcome}",
                    entry.process.short(),
                    Plain(name)
                ));
            }
            waited.push(Waited {
                id: entry.process,
                name: entry.name,
                code: last,
                outcome,
            });
        }
        if self.json {
            show::json(&waited)?;
        }
        Ok(last)
    }
}

/// Waits until a process runs nowhere.
pub(crate) fn until_end(which: &Which, process: ProcessId) -> Result<ProcessEntry> {
    loop {
        let request = HostingRequest::Wait { process };
        let Some(HostingReply::Waited(entry)) = which.hosting(request)? else {
            return Err(node::unexpected());
        };
        if entry.record()?.life != Life::Alive {
            return Ok(*entry);
        }
    }
}

/// The code of a process that has ended, or is about to; tells what the process itself did not.
pub(crate) fn outcome(which: &Which, process: ProcessId, tell: bool) -> Result<u8> {
    let entry = until_end(which, process)?;
    let code = show::exit_code(entry.ending.as_ref());
    let plain = matches!(
        entry.ending.as_ref().map(|ending| &ending.how),
        Some(sterna_node::message::How::Exited(
            sterna_process::Exit::Code(_)
        ))
    );
    if tell && !plain {
        let name = entry.name.unwrap_or_else(|| process.short());
        show::note(format_args!(
            "{} {}",
            Plain(&name),
            show::ending(entry.ending.as_ref())
        ));
    }
    Ok(code)
}
