//! What has happened on a node, for who asks later.

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;
use sterna_process::ProcessId;

/// Something that happened on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Numbers of one node's events grow, one by one. Where one is missing, it was forgotten.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// To which process, if it is about one.
    pub process: Option<ProcessId>,
    /// For programs.
    pub sort: EventSort,
    /// For people: a sentence without its subject.
    pub what: String,
}

/// What sort of event it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventSort {
    /// A process was started.
    Started,
    /// A process has left this node for another.
    Moved {
        /// Where it runs now.
        to: NodeId,
        /// Microseconds in which nobody executed it.
        downtime_us: Option<u64>,
    },
    /// A move has come to nothing.
    NotMoved {
        /// Where it was to run.
        to: NodeId,
    },
    /// A process has come from another node.
    Arrived {
        /// Where it was before.
        from: NodeId,
    },
    /// A process has ended, or was killed.
    Ended,
    /// A process died with its runner.
    Lost,
    /// A node belongs to the cluster now.
    NodeJoined {
        /// Which.
        node: NodeId,
    },
    /// A node was removed from the cluster.
    NodeRemoved {
        /// Which.
        node: NodeId,
    },
    /// Something else.
    Other,
}
