//! What is asked of a node that is to be emptied, and how it says it gets on.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;
use sterna_process::ProcessId;

use super::Capacity;

/// What a node is to do about being emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainOrder {
    /// Take no processes any more, and move all away.
    Begin {
        /// After so long no move is begun, and those that still can be are given up.
        within_ms: u64,
        /// Where they may go; anywhere if that is empty.
        to: Vec<NodeId>,
        /// Only say where each could go.
        dry_run: bool,
        /// Also if clients are connected at the node's ports, who are cut off.
        cut: bool,
    },
    /// Answers when there is other news than this, or after a while.
    News {
        /// The number of what is known; 0 if that is nothing.
        after: u64,
    },
    /// Give it up, and take processes again.
    Cancel,
}

/// How a node that is drained gets on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNews {
    /// Grows with each change.
    pub number: u64,
    /// How far it is.
    pub stage: DrainStage,
    /// Its processes, in the order in which they are moved.
    pub processes: Vec<DrainEntry>,
    /// What becomes of the registry.
    pub registry: RegistryFate,
    /// What became of the node's ports whose processes are elsewhere.
    pub ports: Vec<DrainPort>,
}

/// A port of a node that is drained, at which clients reach a process of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainPort {
    /// Whose.
    pub process: ProcessId,
    /// Where it was.
    pub address: SocketAddr,
    /// What became of it.
    pub fate: PortFate,
}

/// What became of such a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortFate {
    /// It is at the node that has the process.
    Moved {
        /// Which.
        to: NodeId,
        /// Where.
        address: SocketAddr,
    },
    /// It stays, and goes with the node.
    Stayed {
        /// Why.
        why: String,
    },
}

/// How far a node is with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainStage {
    /// Nobody wants it to be drained.
    #[default]
    Open,
    /// It was only asked what would be.
    Planned,
    /// Processes are being moved.
    Draining,
    /// All have left. The node takes none until it is started again, or this is cancelled.
    Drained,
    /// Something has stayed. The node takes processes again.
    Incomplete,
    /// It was given up. The node takes processes again.
    Cancelled,
}

/// A process of a node that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainEntry {
    /// Which.
    pub process: ProcessId,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// What becomes of it.
    pub fate: DrainFate,
}

/// What becomes of such a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainFate {
    /// It waits for its turn.
    Waiting,
    /// It is being moved, or would be.
    Moving {
        /// Where to.
        to: NodeId,
    },
    /// It was moved.
    Moved {
        /// Where to.
        to: NodeId,
        /// Microseconds in which nobody executed it.
        downtime_us: Option<u64>,
    },
    /// It stays.
    Stayed {
        /// Why.
        why: String,
    },
    /// It ended, or left by other means.
    Gone,
}

/// What becomes of the registry of the cluster when one of its nodes is drained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistryFate {
    /// It is somewhere else.
    #[default]
    Elsewhere,
    /// It is here, and is moved last.
    Waiting,
    /// It was moved.
    Moved {
        /// Where to.
        to: NodeId,
    },
    /// It stays.
    Stayed {
        /// Why.
        why: String,
    },
}

/// A node that answers, and whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Which node.
    pub node: NodeId,
    /// How much; `None` if it is drained and takes no processes.
    pub capacity: Option<Capacity>,
}
