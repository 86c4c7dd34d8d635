//! `sterna rm`: forgets processes that have ended.

use anyhow::{Result, bail};
use clap::Args;
use sterna_migration::Life;
use sterna_node::message::{Deed, HostingRequest};

use crate::complete;
use crate::node::Which;

/// Forgets processes on nodes that have ended: how they ended, and what they wrote.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sterna rm job\n  sterna rm --kill server     ends it first")]
pub(crate) struct Rm {
    /// The processes: their names, or the beginnings of their ids.
    #[arg(value_name = "P", required = true, add = complete::processes())]
    processes: Vec<String>,
    /// End those that run.
    #[arg(long)]
    kill: bool,
    #[command(flatten)]
    which: Which,
}

impl Rm {
    pub(crate) fn run(self) -> Result<u8> {
        for wanted in &self.processes {
            let entry = self.which.find(wanted)?;
            let process = entry.process;
            let steer = |deed| self.which.hosting(HostingRequest::Steer { process, deed });
            if entry.record()?.life == Life::Alive {
                if !self.kill {
                    bail!(
                        "process {} runs: end it first (`sterna kill`), or with --kill",
                        process.short()
                    );
                }
                steer(Deed::Kill)?;
                super::wait::until_end(&self.which, process)?;
            }
            steer(Deed::Forget)?;
        }
        Ok(0)
    }
}
