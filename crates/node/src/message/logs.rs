//! What was written by processes, as nodes say it.

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;
use sterna_process::Epoch;
use sterna_runner::log::Record;

/// A piece of a process's output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// What was written, in its order.
    pub records: Vec<Record>,
    /// What is not to be had, which comes before `records`.
    pub missing: Option<Missing>,
    /// From where on to ask for more.
    pub next: u64,
    /// Whether there will never be more.
    pub is_over: bool,
}

/// What one node has of a process's output from some byte on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogPart {
    /// Some of it.
    Page(LogPage),
    /// Nothing of it, but what comes later.
    Later(LaterPart),
    /// Nothing at all.
    Nothing,
}

/// A part of a process's output that begins later than what is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaterPart {
    /// With which byte.
    pub start: u64,
    /// In which epoch.
    pub epoch: Epoch,
    /// Where the process was before.
    pub came_from: Option<NodeId>,
}

/// Output that is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// From which byte.
    pub from: u64,
    /// To which.
    pub to: u64,
    /// Where it was written, if that is known.
    pub node: Option<NodeId>,
    /// Why not.
    pub why: String,
}
