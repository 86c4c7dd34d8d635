//! `sterna pause`, `sterna resume`, `sterna kill`.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sterna_migration::Life;
use sterna_node::message::{self, HostingReply, HostingRequest, ProcessEntry};
use sterna_process::{Plain, ProcessId};

use crate::client;
use crate::complete;
use crate::node::Which;
use crate::protocol::Request;
use crate::rundir::{self, Found};
use crate::show;

/// Which process.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Steer {
    /// The process: the beginning of its id, its name, or the pid of its `sterna run`. On any node of the cluster, too.
    #[arg(value_name = "P", required = true, add = complete::processes())]
    processes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna pause lua        it stands still between two instructions, and keeps its memory
  sterna resume lua
  sterna kill 0f3k        its `sterna run` ends with code 137

All are looked up first: if one is not found, nothing is done to any.";

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

/// Where a process is.
enum Place {
    /// In a `sterna run` of this machine.
    Here(Box<Found>),
    /// On a node.
    OnNode(Box<ProcessEntry>),
}

impl Steer {
    pub(crate) fn run(self, deed: Deed) -> Result<u8> {
        let state = match deed {
            Deed::Pause => "paused",
            Deed::Resume => "running",
            Deed::Kill => "killed",
        };
        // All are found before anything is done to the first.
        let found = self.processes.iter().map(|wanted| self.find(wanted));
        let found = found.collect::<Result<Vec<_>>>()?;
        let mut steered = Vec::new();
        for place in &found {
            let (id, name) = self.steer(place, deed)?;
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

    fn find(&self, wanted: &str) -> Result<Place> {
        match rundir::find(wanted) {
            Ok(found) => Ok(Place::Here(Box::new(found))),
            Err(_) if self.which.is_there() => {
                let entry = self.which.find_living(wanted)?;
                Ok(Place::OnNode(Box::new(entry)))
            }
            Err(error) => Err(error),
        }
    }

    fn steer(&self, place: &Place, deed: Deed) -> Result<(ProcessId, String)> {
        match place {
            Place::Here(found) => {
                let request = match deed {
                    Deed::Pause => Request::Pause,
                    Deed::Resume => Request::Resume,
                    Deed::Kill => Request::Kill,
                };
                client::ask(found, &request, &mut |_, _| {})?;
                Ok((found.record.id, found.record.name.clone()))
            }
            Place::OnNode(entry) => {
                let process = entry.process;
                let deed = match deed {
                    Deed::Pause => message::Deed::Pause,
                    Deed::Resume => message::Deed::Resume,
                    Deed::Kill => message::Deed::Kill,
                };
                self.which
                    .hosting(HostingRequest::Steer { process, deed })?;
                if deed == message::Deed::Kill {
                    self.wait_for_end(process);
                }
                let name = entry.name.clone();
                Ok((process, name.unwrap_or_else(|| entry.info.file.clone())))
            }
        }
    }

    /// So that it can be removed next.
    fn wait_for_end(&self, process: ProcessId) {
        let waited = self.which.hosting(HostingRequest::Wait { process });
        let has_ended = match &waited {
            Ok(Some(HostingReply::Waited(entry))) => entry
                .record()
                .is_ok_and(|record| record.life != Life::Alive),
            _ => false,
        };
        if !has_ended {
            show::note(format_args!(
                "{0} has been killed; that it has ended is not known yet: sterna wait {0}",
                process.short()
            ));
        }
    }
}
