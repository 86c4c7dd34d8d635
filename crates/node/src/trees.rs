//! Trees of files that are copied along with a process: listed, compared, made again, and given back.
//!
//! - `tree`: a [`Tree`] is a list of entries; two of them make a [`Plan`]
//! - `scan`: the list of what is in a directory
//! - `write`: a [`Writer`] makes entries beneath a directory
//! - `remove`: all that is in a directory
//! - `making`: one tree becomes another, while contents come in pieces
//! - `deeds`: what is done with directories of users
//! - `give_back`: changes of a copy go into the directory that it was made of
//!
//! Whoever can write into a tree may be an enemy: a guest, a runner that was taken over, another node. Every path is
//! resolved by the system beneath the tree's own directory, and through no link (`RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`
//! of openat2(2)). What is no file, directory or link is left out. A file with several names becomes several files, and
//! lengths count with their holes.

mod deeds;
mod give_back;
mod making;
mod remove;
mod scan;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

pub(crate) use deeds::perform;
pub use deeds::{TreeDeed, TreeDone};
pub(crate) use give_back::{Returned, give_back};
pub(crate) use making::{Making, piece_bytes};
pub(crate) use remove::remove;
pub(crate) use scan::{Scan, copy, measure, read_piece, scan};
pub(crate) use tree::{Size, Tree};
pub(crate) use write::Writer;

use crate::limits::{TREE_BYTES_MAX, TREE_ENTRIES_MAX};

/// Why a tree was not listed, made or taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("could not {doing} {path}: {}", io::Error::from(*source))]
    System {
        doing: &'static str,
        path: Shown,
        source: Errno,
    },
    #[error(
        "the directory has more than {TREE_BYTES_MAX} bytes, the most that is copied along: export it on every node, and \
         give it as NAME::GUEST:shared"
    )]
    TooLarge,
    #[error(
        "the directory has more than {TREE_ENTRIES_MAX} files, the most that are copied along: export it on every node, \
         and give it as NAME::GUEST:shared"
    )]
    TooMany,
    #[error("{path} is a path of more than {max} bytes, which cannot be copied along")]
    TooLong { path: Shown, max: usize },
    /// Another node sent it.
    #[error("the other node lists {path} in a way that no node does")]
    Nonsense { path: Shown },
    /// Of contents that came.
    #[error("what came for {path} is not what the other node has listed")]
    OtherContents { path: Shown },
}

/// A path, for people.
#[derive(Debug)]
pub(crate) struct Shown(Vec<u8>);

impl From<&[u8]> for Shown {
    fn from(path: &[u8]) -> Self {
        Self(path.to_vec())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        sterna_process::Plain(&text).fmt(f)
    }
}

fn failed(doing: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> TreeError {
    let path = Shown::from(path);
    move |source| TreeError::System {
        doing,
        path,
        source,
    }
}

/// Opens what is beneath a directory, and through no link.
fn open(root: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // A pipe without another end must not hold the node up, and no terminal become its own.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = if path.is_empty() { b"." } else { path };
    openat2(root, path, flags, mode, within)
}

/// Opens the directory that something is in; and its name there.
fn open_parent(root: impl AsFd, path: &[u8]) -> Result<(OwnedFd, &[u8]), Errno> {
    let at = path.iter().rposition(|&byte| byte == b'/');
    let (parent, name) = match at {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    Ok((open(root, parent, flags, Mode::empty())?, name))
}
