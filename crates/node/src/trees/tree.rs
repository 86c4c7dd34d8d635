//! A tree as a list: [`Tree`]; what has to be done to make one of another: [`Plan`].

use super::{Shown, TreeError};
use crate::limits::{TREE_BYTES_MAX, TREE_ENTRIES_MAX, TREE_NAME_BYTES_MAX, TREE_PATH_BYTES_MAX};
use crate::message::{TreeEntry, TreeNode};

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) entries: usize,
}

/// Entries in the order of their paths, so that a directory is before what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(Vec<TreeEntry>);

impl Tree {
    /// Of what this node itself has listed.
    pub(crate) fn own(mut entries: Vec<TreeEntry>) -> Self {
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Self(entries)
    }

    /// Of what another node has listed: it is within the limits, each entry is in a directory before it, and the
    /// uppermost directories have these names.
    pub(crate) fn of_another(
        entries: Vec<TreeEntry>,
        uppermost: &[String],
    ) -> Result<Self, TreeError> {
        if entries.len() > TREE_ENTRIES_MAX {
            return Err(TreeError::TooMany);
        }
        let mut bytes = 0_u64;
        for (number, entry) in entries.iter().enumerate() {
            let before = &entries[..number];
            let nonsense = || TreeError::Nonsense {
                path: Shown::from(&*entry.path),
            };
            let is_next = before.last().is_none_or(|last| last.path < entry.path);
            if !is_next || !is_path(&entry.path) || !is_placed(before, entry, uppermost) {
                return Err(nonsense());
            }
            if let TreeNode::Link { to } = &entry.what
                && (to.is_empty() || to.len() > TREE_PATH_BYTES_MAX || to.contains(&0))
            {
                return Err(nonsense());
            }
            bytes = bytes.saturating_add(entry.bytes());
        }
        match bytes <= TREE_BYTES_MAX {
            true => Ok(Self(entries)),
            false => Err(TreeError::TooLarge),
        }
    }

    pub(crate) fn entries(&self) -> &[TreeEntry] {
        &self.0
    }

    pub(crate) fn find(&self, path: &[u8]) -> Option<&TreeEntry> {
        find(&self.0, path)
    }

    pub(crate) fn size(&self) -> Size {
        Size {
            bytes: self.0.iter().map(TreeEntry::bytes).sum(),
            entries: self.0.len(),
        }
    }

    /// Without what `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&TreeEntry) -> bool) {
        self.0.retain(keep);
    }
}

fn find<'a>(entries: &'a [TreeEntry], path: &[u8]) -> Option<&'a TreeEntry> {
    let found = entries.binary_search_by(|entry| (*entry.path).cmp(path));
    found.ok().map(|at| &entries[at])
}

fn is_path(path: &[u8]) -> bool {
    let is_name =
        |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= TREE_NAME_BYTES_MAX;
    path.len() <= TREE_PATH_BYTES_MAX
        && !path.contains(&0)
        && path.split(|&byte| byte == b'/').all(is_name)
}

fn is_placed(before: &[TreeEntry], entry: &TreeEntry, uppermost: &[String]) -> bool {
    match parent(&entry.path) {
        Some(parent) => {
            find(before, parent).is_some_and(|parent| parent.what == TreeNode::Directory)
        }
        None => {
            entry.what == TreeNode::Directory
                && uppermost.iter().any(|name| name.as_bytes() == entry.path)
        }
    }
}

/// The path of the directory that it is in, unless that is the tree itself.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let at = path.iter().rposition(|&byte| byte == b'/')?;
    Some(&path[..at])
}

impl TreeEntry {
    /// Length of its contents.
    pub(crate) const fn bytes(&self) -> u64 {
        match &self.what {
            TreeNode::File { bytes, .. } => *bytes,
            TreeNode::Directory | TreeNode::Link { .. } => 0,
        }
    }

    pub(super) fn is_in(&self, directory: &[u8]) -> bool {
        let rest = self.path.strip_prefix(directory);
        rest.is_some_and(|rest| rest.starts_with(b"/"))
    }
}

/// How one tree becomes another. Numbers are those of entries in that other one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is not there any more, or becomes something else; each with all that is in it.
    pub(crate) remove: Vec<Vec<u8>>,
    /// Directories and links that are new.
    pub(crate) make: Vec<usize>,
    /// Files whose contents are new.
    pub(crate) fetch: Vec<usize>,
    /// What gets its permissions and time, the innermost first: whatever is new, and all directories.
    pub(crate) finish: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(have: &Tree, want: &Tree) -> Self {
        let mut plan = Self::default();
        for entry in have.entries() {
            let beneath = plan.remove.last().is_some_and(|last| entry.is_in(last));
            let stays = want
                .find(&entry.path)
                .is_some_and(|now| now.what == entry.what);
            if !beneath && !stays {
                plan.remove.push(entry.path.clone());
            }
        }
        for (number, entry) in want.entries().iter().enumerate() {
            let had = have.find(&entry.path);
            let is_new = had.is_none_or(|had| had.what != entry.what);
            match &entry.what {
                TreeNode::File { .. } if is_new => plan.fetch.push(number),
                TreeNode::Directory | TreeNode::Link { .. } if is_new => plan.make.push(number),
                _ => {}
            }
            if had != Some(entry) || entry.what == TreeNode::Directory {
                plan.finish.push(number);
            }
        }
        plan.finish.reverse();
        plan
    }
}
