//! What is done with a user's directory: [`TreeDeed`]. A node's service reaches its own files only, so its manager does it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::scan::read_into;
use super::{Returned, Size, Tree, TreeError, Writer, copy, give_back, measure};
use crate::message::TreeEntry;

/// Something that is to be done with directories.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum TreeDeed {
    /// How much is in a directory? Directories: that one.
    Measure,
    /// Copy it. Directories: from where, to where.
    Copy,
    /// Give the changes of a copy back to where it was made from. Directories: the copy, the other.
    GiveBack {
        /// What was copied.
        base: Vec<TreeEntry>,
    },
    /// Take contents where they are what is wanted still. Directories: from where, to where.
    Reuse {
        /// What is wanted, with the paths that it is to have.
        wanted: Vec<TreeEntry>,
        /// Beneath which directory of those the place is from which they are taken.
        beneath: Vec<u8>,
    },
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum TreeDone {
    /// So much is there.
    Measured {
        /// Bytes.
        bytes: u64,
        /// Files, directories and links.
        entries: usize,
    },
    /// That was copied.
    Copied(Vec<TreeEntry>),
    /// It was given back.
    Returned {
        /// Files, directories and links that were written or removed.
        changes: usize,
        /// Paths whose changes stay in the copy.
        conflicts: Vec<Vec<u8>>,
    },
    /// Which of what was wanted was taken.
    Reused(Vec<bool>),
}

const ANOTHER: &str = "the answer is to another question";

impl TreeDeed {
    /// How many directories belong to it.
    #[must_use]
    pub const fn directories(&self) -> usize {
        match self {
            Self::Measure => 1,
            Self::Copy | Self::GiveBack { .. } | Self::Reuse { .. } => 2,
        }
    }
}

/// Does it.
///
/// # Errors
/// Text for people.
pub(crate) fn perform(deed: TreeDeed, directories: Vec<OwnedFd>) -> Result<TreeDone, String> {
    let text = |error: TreeError| error.to_string();
    let wrong = || "other directories belong to it".to_owned();
    let mut directories = directories.into_iter();
    let mut next = || directories.next().ok_or_else(wrong);
    let first = next()?;
    Ok(match deed {
        TreeDeed::Measure => {
            let Size { bytes, entries } = measure(first.as_fd()).map_err(text)?;
            TreeDone::Measured { bytes, entries }
        }
        TreeDeed::Copy => {
            let copied = copy(first.as_fd(), &Writer::new(next()?)).map_err(text)?;
            TreeDone::Copied(copied.entries().to_vec())
        }
        TreeDeed::GiveBack { base } => {
            let Returned { changes, conflicts } =
                give_back(first.as_fd(), &Tree::own(base), next()?).map_err(text)?;
            TreeDone::Returned { changes, conflicts }
        }
        TreeDeed::Reuse { wanted, beneath } => {
            let writer = Writer::new(next()?);
            let reused = wanted
                .iter()
                .map(|entry| reuse(first.as_fd(), &writer, entry, &beneath));
            TreeDone::Reused(reused.collect())
        }
    })
}

/// Whether it was there as it is wanted.
fn reuse(source: BorrowedFd<'_>, writer: &Writer, wanted: &TreeEntry, beneath: &[u8]) -> bool {
    let path = wanted.path.strip_prefix(beneath);
    let Some(path) = path.and_then(|path| path.strip_prefix(b"/")) else {
        return false;
    };
    let begun = writer.remove(&wanted.path);
    let taken = begun.and_then(|()| writer.file(&wanted.path));
    let taken = taken.and_then(|mut sink| {
        read_into(source, path, &mut sink)?;
        sink.end_as(&wanted.what)
    });
    if taken.is_err() {
        // Somebody has changed it there.
        let _ = writer.remove(&wanted.path);
    }
    taken.is_ok()
}

impl TreeDone {
    /// To [`TreeDeed::Measure`].
    pub(crate) fn measured(self) -> Result<Size, String> {
        match self {
            Self::Measured { bytes, entries } => Ok(Size { bytes, entries }),
            _ => Err(ANOTHER.into()),
        }
    }

    /// To [`TreeDeed::Copy`].
    pub(crate) fn copied(self) -> Result<Tree, String> {
        match self {
            Self::Copied(entries) => Ok(Tree::own(entries)),
            _ => Err(ANOTHER.into()),
        }
    }

    /// To [`TreeDeed::GiveBack`].
    pub(crate) fn returned(self) -> Result<Returned, String> {
        match self {
            Self::Returned { changes, conflicts } => Ok(Returned { changes, conflicts }),
            _ => Err(ANOTHER.into()),
        }
    }

    /// To [`TreeDeed::Reuse`].
    pub(crate) fn reused(self) -> Result<Vec<bool>, String> {
        match self {
            Self::Reused(taken) => Ok(taken),
            _ => Err(ANOTHER.into()),
        }
    }
}
