//! What is asked about copies of processes: files, clones, snapshots and what is gone on with.

use serde::{Deserialize, Serialize};
use sterna_migration::{Grant, NodeId};
use sterna_process::{Epoch, Limits, ProcessId, ProgramId, Tag};
use sterna_snapshot::Key;

/// How a process's snapshots are kept, and how that goes: in the registry, beside its record. Written by its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// By which its owner's snapshots are known.
    pub key: Key,
    /// The node that keeps them.
    pub to: NodeId,
    /// How often one is made; `None` if only when somebody asks.
    pub every_ms: Option<u64>,
    /// How many there are at most.
    pub keep: u32,
    /// The last one that was kept.
    pub last: Option<LastSnapshot>,
    /// Why there is none since.
    pub trouble: Option<String>,
}

/// A snapshot that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSnapshot {
    /// Its number.
    pub number: u64,
    /// When it was taken, in milliseconds since 1970, by the clock of the node that did.
    pub at_ms: u64,
    /// Bytes of output until then.
    pub output_bytes: u64,
    /// Its pages.
    pub pages: u64,
    /// Those of them that had to be written.
    pub pages_new: u64,
    /// Bytes that were written.
    pub bytes_new: u64,
    /// For how many microseconds the process stood still.
    pub stood_us: u64,
}

/// Which of them are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeepingsOf {
    /// That of a process.
    Process(ProcessId),
    /// Those of living processes of a node.
    Node(NodeId),
    /// All.
    All,
}

/// What is to become of a process's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotOrder {
    /// Make one now, and then regularly.
    Every {
        /// How often, in milliseconds.
        every_ms: u64,
        /// Which node keeps them; the one that did if nothing is said.
        to: Option<NodeId>,
        /// How many there are at most.
        keep: u32,
    },
    /// Make one now.
    Once {
        /// Which node keeps it; the one that did if nothing is said.
        to: Option<NodeId>,
    },
    /// Make no more. Those that there are stay.
    Stop,
}

/// Something about objects of a folder that a node keeps: of snapshots of the process with this name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShelfRequest {
    /// A piece of a new object: the first one before all others, the last one after them.
    Put {
        /// Its name.
        name: String,
        /// Bytes before it.
        offset: u64,
        /// The piece.
        bytes: Vec<u8>,
        /// Whether it is the last one.
        end: bool,
    },
    /// A piece of an object.
    Get {
        /// Its name.
        name: String,
        /// From which byte on.
        offset: u64,
    },
    /// All names.
    List,
    /// Remove an object.
    Remove {
        /// Its name.
        name: String,
    },
}

/// An answer to a [`ShelfRequest`] that asks for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShelfReply {
    /// There is none.
    Absent,
    /// A piece.
    Piece {
        /// The object's whole length.
        total: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// All names.
    Names(Vec<String>),
}

/// What was gone on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The process.
    pub process: ProcessId,
    /// Where it runs now.
    pub node: NodeId,
    /// The snapshot.
    pub snapshot: u64,
    /// When that was taken, in milliseconds since 1970.
    pub at_ms: u64,
    /// Bytes of output until then: what came later may come again.
    pub output_bytes: u64,
    /// What is wrong with newer ones.
    pub passed_over: Vec<String>,
}

/// A clone that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cloned {
    /// Its name.
    pub process: ProcessId,
    /// Where it is.
    pub node: NodeId,
    /// Bytes of output of the original until then.
    pub log_offset: u64,
    /// For how many microseconds the original stood still.
    pub stood_us: u64,
}

/// A frozen process that is to go on. Descriptor: the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThawOrder {
    /// The process in the file.
    pub process: ProcessId,
    /// Its epoch there.
    pub epoch: Epoch,
    /// What the file gives, if it may go on as the same process.
    pub grant: Option<Grant>,
    /// Its kind.
    pub kind: Tag,
    /// Its program, which the asked node has.
    pub program: ProgramId,
    /// The file that the program came from, for people.
    pub file: String,
    /// What it is to be called, if it becomes another process.
    pub name: Option<String>,
    /// How much it may use, if it becomes another process.
    pub limits: Limits,
    /// Whether it is bound to directories.
    pub is_bound: bool,
}

impl Keeping {
    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("keepings can be written");
        [vec![1], body].concat()
    }

    /// What was kept; `None` if a newer program did it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (1, body) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }
}
