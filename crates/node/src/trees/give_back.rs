//! Changes of a copy go back into the directory that it was made of: [`give_back`].
//!
//! Others may have changed that directory since. What they changed is not written over: such a change is a conflict, which
//! stays in the copy. A file is written under another name beside its place, and renamed, so whoever reads there sees the
//! old one or the new one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, renameat, unlinkat};
use rustix::io::Errno;

use super::scan::{Scan, entry_at, read_into, scan};
use super::tree::Tree;
use super::write::Writer;
use super::{TreeError, failed, open, open_parent};
use crate::message::{TreeEntry, TreeNode};

/// What became of the changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Returned {
    /// Files, directories and links that were written or removed.
    pub(crate) changes: usize,
    /// Paths whose changes stay in the copy.
    pub(crate) conflicts: Vec<Vec<u8>>,
}

/// Gives the changes of a copy back: `base` is what was copied. A change that cannot be made is a conflict.
pub(crate) fn give_back(
    copy: BorrowedFd<'_>,
    base: &Tree,
    origin: OwnedFd,
) -> Result<Returned, TreeError> {
    let now = scan(copy, &Scan::default())?.tree;
    let origin = Writer::new(origin);
    let mut returned = Returned::default();
    let gone = base.entries().iter().rev();
    let gone = gone.filter(|entry| now.find(&entry.path).is_none_or(|now| differs(entry, now)));
    for entry in gone {
        // A new file takes the place of the old one at once, and a directory stays one.
        let now = now.find(&entry.path);
        if !now.is_some_and(|now| takes_its_place(now, entry)) {
            let removed = remove(&origin, entry);
            returned.note(entry, removed);
        }
    }
    let new = now.entries().iter();
    let new = new.filter(|entry| {
        base.find(&entry.path)
            .is_none_or(|base| differs(base, entry))
    });
    for entry in new {
        let written = write(copy, &origin, entry, base.find(&entry.path));
        returned.note(entry, written);
    }
    Ok(returned)
}

impl Returned {
    fn note(&mut self, entry: &TreeEntry, done: Result<Done, TreeError>) {
        match done {
            Ok(Done::Changed) => self.changes += 1,
            Ok(Done::Was) => {}
            Ok(Done::Conflict) | Err(_) if self.conflicts.contains(&entry.path) => {}
            Ok(Done::Conflict) => self.conflicts.push(entry.path.clone()),
            Err(error) => {
                tracing::debug!("a change is not given back: {error}");
                self.conflicts.push(entry.path.clone());
            }
        }
    }
}

enum Done {
    Changed,
    /// It is so already.
    Was,
    Conflict,
}

/// Whether there is anything to be given back: times alone are not.
fn differs(one: &TreeEntry, other: &TreeEntry) -> bool {
    one.what != other.what || (one.mode != other.mode && !matches!(one.what, TreeNode::Link { .. }))
}

const fn takes_its_place(new: &TreeEntry, old: &TreeEntry) -> bool {
    use TreeNode::{Directory, File};
    matches!(
        (&new.what, &old.what),
        (Directory, Directory) | (File { .. }, File { .. })
    )
}

fn remove(origin: &Writer, was: &TreeEntry) -> Result<Done, TreeError> {
    match entry_at(origin.root(), &was.path)? {
        None => return Ok(Done::Was),
        Some(found) if found.what != was.what => return Ok(Done::Conflict),
        Some(_) => {}
    }
    let (parent, name) =
        open_parent(origin.root(), &was.path).map_err(failed("open", &was.path))?;
    let flags = match was.what {
        TreeNode::Directory => AtFlags::REMOVEDIR,
        TreeNode::File { .. } | TreeNode::Link { .. } => AtFlags::empty(),
    };
    match unlinkat(parent, name, flags) {
        Ok(()) => Ok(Done::Changed),
        Err(Errno::NOENT) => Ok(Done::Was),
        // Somebody has put something into it.
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Done::Conflict),
        Err(errno) => Err(failed("remove", &was.path)(errno)),
    }
}

fn write(
    copy: BorrowedFd<'_>,
    origin: &Writer,
    entry: &TreeEntry,
    was: Option<&TreeEntry>,
) -> Result<Done, TreeError> {
    let found = entry_at(origin.root(), &entry.path)?;
    if found.as_ref().is_some_and(|found| !differs(found, entry)) {
        return Ok(Done::Was);
    }
    let is_as_it_was = match (&found, was) {
        (None, _) => true,
        (Some(found), Some(was)) => found.what == was.what,
        (Some(found), None) => {
            found.what == TreeNode::Directory && entry.what == TreeNode::Directory
        }
    };
    if !is_as_it_was {
        return Ok(Done::Conflict);
    }
    match &entry.what {
        TreeNode::Directory if found.is_none() => origin.directory(&entry.path)?,
        TreeNode::Directory => {}
        // The user of the directory may follow it one day.
        TreeNode::Link { to } if leads_out(&entry.path, to) => return Ok(Done::Conflict),
        TreeNode::Link { .. } if found.is_some() => return Ok(Done::Conflict),
        TreeNode::Link { to } => origin.link(&entry.path, to)?,
        TreeNode::File { .. } => return replace(copy, origin, entry),
    }
    origin.finish(entry)?;
    Ok(Done::Changed)
}

fn replace(copy: BorrowedFd<'_>, origin: &Writer, entry: &TreeEntry) -> Result<Done, TreeError> {
    let (parent, name) =
        open_parent(origin.root(), &entry.path).map_err(failed("open", &entry.path))?;
    let hash = blake3::hash(&entry.path).to_hex();
    let beside = format!(".sterna-{}", &hash[..16]).into_bytes();
    let parent = Writer::new(parent);
    parent.remove(&beside)?;
    let mut sink = parent.file(&beside)?;
    let written = read_into(copy, &entry.path, &mut sink)
        .and_then(|()| sink.end_as(&entry.what))
        .and_then(|()| {
            let beside = TreeEntry {
                path: beside.clone(),
                ..entry.clone()
            };
            parent.finish(&beside)
        })
        .and_then(|()| {
            let renamed = renameat(parent.root(), &*beside, parent.root(), name);
            renamed.map_err(failed("rename", &entry.path))
        });
    if let Err(error) = written {
        let _ = parent.remove(&beside);
        return Err(error);
    }
    // So that it is not lost with a machine that loses its power.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    if let Ok(directory) = open(parent.root(), b"", flags, Mode::empty()) {
        let _ = rustix::fs::fsync(directory.as_fd());
    }
    Ok(Done::Changed)
}

/// Whether a link, read as it stands, leads out of the tree that it is in.
fn leads_out(path: &[u8], to: &[u8]) -> bool {
    let mut depth = path.iter().filter(|&&byte| byte == b'/').count();
    for name in to.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    to.starts_with(b"/")
}
