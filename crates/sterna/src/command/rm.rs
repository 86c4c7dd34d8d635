//! `sterna rm`: forgets processes that have ended.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sterna_migration::Life;
use sterna_node::message::{Deed, HostingRequest};
use sterna_process::ProcessId;

use crate::complete;
use crate::node::Which;
use crate::show;

/// Forgets processes on nodes that have ended: how they ended, and what they wrote.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Rm {
    /// The processes: their names, or the beginnings of their ids.
    #[arg(value_name = "P", required = true, add = complete::processes())]
    processes: Vec<String>,
    /// End those that run.
    #[arg(long)]
    kill: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna rm job
  sterna rm --kill server     ends it first

All are looked up first: if one is not found, or runs and --kill is missing, nothing is done to any.";

#[derive(Serialize)]
struct Removed {
    id: ProcessId,
    name: Option<String>,
    killed: bool,
}

impl Rm {
    pub(crate) fn run(self) -> Result<u8> {
        let found = self.processes.iter().map(|wanted| {
            let entry = self.which.find(wanted)?;
            let runs = entry.record()?.life == Life::Alive;
            ensure!(
                self.kill || !runs,
                "process {} runs: end it first (`sterna kill`), or with --kill",
                entry.process.short()
            );
            Ok((entry, runs))
        });
        let found = found.collect::<Result<Vec<_>>>()?;
        let mut removed = Vec::new();
        for (entry, runs) in found {
            let process = entry.process;
            let steer = |deed| self.which.hosting(HostingRequest::Steer { process, deed });
            if runs {
                steer(Deed::Kill)?;
                super::wait::until_end(&self.which, process)?;
            }
            steer(Deed::Forget)?;
            removed.push(Removed {
                id: process,
                name: entry.name,
                killed: runs,
            });
        }
        if self.json {
            show::json(&removed)?;
        }
        Ok(0)
    }
}
