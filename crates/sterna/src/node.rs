//! The node that a command talks to: [`Which`].

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use sterna_node::message::{Nodes, Reply, Request};

use crate::private;

/// Which node of this machine is meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The node to talk to, by its data directory. Without this option it is the one in the variable STERNA_NODE, and
    /// without that the one of this user, in $STERNA_DATA_DIR/node.
    #[arg(long, value_name = "DIR", env = "STERNA_NODE", hide_env = true)]
    node: Option<PathBuf>,
}

impl Which {
    /// Asks it.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply> {
        Ok(sterna_node::ask(&self.data()?, request)?)
    }

    /// Stops it, and waits for its end.
    pub(crate) fn stop(&self) -> Result<()> {
        Ok(sterna_node::stop(&self.data()?)?)
    }

    pub(crate) fn data(&self) -> Result<PathBuf> {
        self.node.clone().map_or_else(default, Ok)
    }

    /// All nodes, as it sees them.
    pub(crate) fn nodes(&self) -> Result<Nodes> {
        match self.ask(&Request::Nodes)? {
            Reply::Nodes(nodes) => Ok(nodes),
            _ => Err(unexpected()),
        }
    }
}

/// Where this user's node keeps what it has.
pub(crate) fn default() -> Result<PathBuf> {
    Ok(private::data_directory()?.join("node"))
}

/// The answer that was not expected; a fault of the program.
pub(crate) fn unexpected() -> anyhow::Error {
    anyhow!("the node gave an answer to another question")
}
