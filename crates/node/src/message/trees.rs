//! Trees of files that travel with a process, as nodes tell each other of them.

use serde::{Deserialize, Serialize};

/// A file, directory or link of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Its path, relative to the tree, in bytes: names with `/` in between.
    pub path: Vec<u8>,
    /// What it is.
    pub what: TreeNode,
    /// Its permissions.
    pub mode: u32,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What an entry of a tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeNode {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Its length.
        bytes: u64,
        /// BLAKE3 of its contents.
        hash: [u8; 32],
    },
    /// A symbolic link, which nobody follows.
    Link {
        /// What is in it.
        to: Vec<u8>,
    },
}

/// Some entries of a tree, in the order of their paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreePage {
    /// The entries.
    pub entries: Vec<TreeEntry>,
    /// The number of the next one, if there are more.
    pub next: Option<u32>,
}

/// From where on contents of a file are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeWish {
    /// The number of its entry.
    pub entry: u32,
    /// From which byte on.
    pub offset: u64,
}

/// Which list of a tree is meant: the one made while the process ran, or the one of when it stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeRound {
    /// It runs.
    Running,
    /// It stands still.
    Still,
}

/// What went of the directories that are copied along on a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreesSent {
    /// Contents that went while the process ran, in bytes.
    pub running_bytes: u64,
    /// Contents that went while it stood still, in bytes.
    pub still_bytes: u64,
    /// Microseconds for that.
    pub still_us: u64,
    /// All that is in the directories, in bytes.
    pub bytes: u64,
    /// In so many files, directories and links.
    pub entries: u64,
}
