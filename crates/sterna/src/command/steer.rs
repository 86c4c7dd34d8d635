//! `sterna pause`, `sterna resume`, `sterna kill`.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sterna_process::{Plain, ProcessId};

use crate::client;
use crate::protocol::Request;
use crate::rundir;
use crate::show;

/// Which process.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Steer {
    /// The process: the beginning of its id, its name, or the pid of its `sterna run`.
    #[arg(value_name = "P", required = true)]
    processes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  sterna pause lua        it stands still between two instructions, and keeps its memory
  sterna resume lua
  sterna kill 0f3k        its `sterna run` ends with code 137";

/// What is done to it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    Pause,
    Resume,
    Kill,
}

#[derive(Serialize)]
struct Steered {
    id: ProcessId,
    name: String,
    state: &'static str,
}

impl Steer {
    pub(crate) fn run(self, deed: Deed) -> Result<u8> {
        let (request, state) = match deed {
            Deed::Pause => (Request::Pause, "paused"),
            Deed::Resume => (Request::Resume, "running"),
            Deed::Kill => (Request::Kill, "killed"),
        };
        // All are found before anything is done to the first.
        let found = self.processes.iter().map(|wanted| rundir::find(wanted));
        let found = found.collect::<Result<Vec<_>>>()?;
        let mut steered = Vec::new();
        for found in &found {
            client::ask(found, &request, &mut |_, _| {})?;
            let (id, name) = (found.record.id, found.record.name.clone());
            if !self.json {
                show::note(format_args!("{} ({}) is {state}", id.short(), Plain(&name)));
            }
            steered.push(Steered { id, name, state });
        }
        if self.json {
            show::json(&steered)?;
        }
        Ok(0)
    }
}
