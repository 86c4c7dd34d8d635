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
    /// Where they are.
    pub to: Keeper,
    /// How often one is made; `None` if only when somebody asks.
    pub every_ms: Option<u64>,
    /// How many there are at most.
    pub keep: u32,
    /// The last one that was kept.
    pub last: Option<LastSnapshot>,
    /// Why there is none since.
    pub trouble: Option<String>,
}

/// Where snapshots are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keeper {
    /// By a node.
    Node(NodeId),
    /// In what the nodes that can use it call so.
    Store(String),
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
        /// Where they are kept; where they were if nothing is said.
        to: Option<Keeper>,
        /// How many there are at most.
        keep: u32,
    },
    /// Make one now.
    Once {
        /// Where it is kept; where they were if nothing is said.
        to: Option<Keeper>,
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

/// What was gone on with, from a copy that its node has kept since the process left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredCopy {
    /// The process.
    pub process: ProcessId,
    /// Where it runs now.
    pub node: NodeId,
    /// Bytes of output until it left: what came later may come again.
    pub output_bytes: u64,
    /// Why it is not known whether a snapshot is newer.
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

/// A frozen process that is to go on. Descriptors: the copy, and directories that are fixed to their node, opened again, in
/// the order in which its record has them.
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
    /// Its program, which the asked node has, or the node that asks it.
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

/// Version of [`Keeping`] as it is kept, its first byte. In version 1 all are kept by nodes.
const KEEPING_VERSION: u8 = 2;
/// How [`Keeper::Node`] begins.
const BY_NODE: u8 = 0;
const KEY_BYTES: usize = 32;

impl Keeping {
    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("keepings can be written");
        [vec![KEEPING_VERSION], body].concat()
    }

    /// What was kept; `None` if a newer program did it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (1, body) => {
                let (key, rest) = body.split_at_checked(KEY_BYTES)?;
                postcard::from_bytes(&[key, &[BY_NODE], rest].concat()).ok()
            }
            (&KEEPING_VERSION, body) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let node = NodeId::from_bytes([7; 32]);
        let keeping = |to| Keeping {
            key: Key::from_bytes([3; 32]),
            to,
            every_ms: Some(30_000),
            keep: 3,
            last: None,
            trouble: Some("no room".into()),
        };
        for to in [Keeper::Node(node), Keeper::Store("backup".into())] {
            let keeping = keeping(to);
            assert_eq!(Keeping::decode(&keeping.encode()), Some(keeping));
        }
        let first = (
            Key::from_bytes([3; 32]),
            node,
            Some(30_000_u64),
            3_u32,
            None::<LastSnapshot>,
            Some("no room"),
        );
        let first = [vec![1], postcard::to_stdvec(&first).unwrap()].concat();
        assert_eq!(Keeping::decode(&first), Some(keeping(Keeper::Node(node))));
        assert_eq!(Keeping::decode(&first[..20]), None);
        assert_eq!(Keeping::decode(&[3]), None);
    }
}
