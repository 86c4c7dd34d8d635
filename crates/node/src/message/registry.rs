//! What users ask about the registry itself.

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;

/// Where the registry is, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// The node that has answered: the one that serves it, or any with a registry in an etcd.
    pub home: NodeId,
    /// What it is kept in.
    pub store: StoreStatus,
    /// Grows with each change.
    pub revision: u64,
    /// Nodes that belong to the cluster.
    pub members: u64,
    /// Nodes that were removed.
    pub removed: u64,
    /// Tickets, used ones included.
    pub tickets: u64,
    /// Processes that run.
    pub alive: u64,
    /// Processes that have ended, and are remembered.
    pub ended: u64,
    /// Processes that are lost.
    pub lost: u64,
    /// Processes that are frozen in files.
    pub frozen: u64,
    /// Names that are taken.
    pub names: u64,
    /// Members that have asked this node for the list of nodes a short while ago.
    pub followers: Vec<NodeId>,
    /// After a restore: members that have not said yet what they run.
    pub awaited: Vec<NodeId>,
}

/// What a registry is kept in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreStatus {
    /// A file of the home.
    Embedded {
        /// Its path.
        path: String,
        /// Its size, in bytes.
        bytes: u64,
        /// Requests for changes since the node was started.
        requests: u64,
        /// Transactions that brought them to disk.
        commits: u64,
        /// How long the last transaction took, `fsync` included, in microseconds.
        commit_last_us: u64,
        /// How long the slowest took, in microseconds.
        commit_max_us: u64,
    },
    /// An etcd.
    Etcd {
        /// Where.
        address: String,
    },
}

/// A piece of a registry that goes to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// By which handover.
    pub number: u64,
    /// How long all of it is, in bytes.
    pub total: u64,
    /// Where in it this piece belongs. One at 0 begins anew.
    pub offset: u64,
    /// BLAKE3 of all of it.
    pub hash: [u8; 32],
    /// The bytes.
    pub bytes: Vec<u8>,
}
