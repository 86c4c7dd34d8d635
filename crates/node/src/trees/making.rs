//! One tree becomes another, whose contents come in pieces: [`Making`].

use std::collections::HashSet;
use std::sync::Arc;

use super::tree::{Plan, Tree};
use super::write::{Sink, Writer};
use super::{Shown, TreeError};
use crate::limits::{TREE_PIECE_BYTES, TREE_WISHES_MAX};
use crate::message::{TreeEntry, TreeNode, TreeWish};

/// A tree that is being made beneath a directory.
#[derive(Debug)]
pub(crate) struct Making {
    writer: Writer,
    want: Arc<Tree>,
    plan: Plan,
    /// The file that is being written, by its number.
    current: Option<(usize, Sink)>,
    /// Files of which something else came than was listed, by their numbers.
    failed: Vec<usize>,
}

impl Making {
    /// Removes what is not to be there any more, and makes directories and links.
    pub(crate) fn begin(writer: Writer, have: &Tree, want: Arc<Tree>) -> Result<Self, TreeError> {
        let plan = Plan::new(have, &want);
        for path in &plan.remove {
            writer.remove(path)?;
        }
        for &number in &plan.make {
            let entry = &want.entries()[number];
            // Of a try that did not come to its end.
            writer.remove(&entry.path)?;
            match &entry.what {
                TreeNode::Directory => writer.directory(&entry.path)?,
                TreeNode::Link { to } => writer.link(&entry.path, to)?,
                TreeNode::File { .. } => {}
            }
        }
        Ok(Self {
            writer,
            want,
            plan,
            current: None,
            failed: Vec::new(),
        })
    }

    /// Files that are wanted and were the same in a directory of this node. `was`: the tree that it was, and beneath which
    /// directory of the one that is made.
    pub(crate) fn reusable(&self, was: &Tree, beneath: &[u8]) -> Vec<TreeEntry> {
        let entries = self
            .plan
            .fetch
            .iter()
            .map(|&number| &self.want.entries()[number]);
        let reusable = entries.filter(|entry| {
            let path = entry.path.strip_prefix(beneath);
            let path = path.and_then(|path| path.strip_prefix(b"/"));
            let was = path.and_then(|path| was.find(path));
            was.is_some_and(|was| was.what == entry.what)
        });
        reusable.cloned().collect()
    }

    /// Some have come from there.
    pub(crate) fn reused(&mut self, entries: &[TreeEntry], taken: &[bool]) {
        let taken: HashSet<&[u8]> = entries
            .iter()
            .zip(taken)
            .filter(|(_, taken)| **taken)
            .map(|(entry, _)| &*entry.path)
            .collect();
        let want = &self.want;
        self.plan
            .fetch
            .retain(|&number| !taken.contains(&*want.entries()[number].path));
    }

    /// What to ask for, request by request.
    pub(crate) fn wishes(&self) -> Vec<Vec<TreeWish>> {
        let mut requests = Vec::new();
        let (mut request, mut bytes) = (Vec::new(), 0);
        for &number in &self.plan.fetch {
            let whole = self.want.entries()[number].bytes();
            let mut offset = 0;
            // An empty file has a piece, too.
            while offset < whole || offset == 0 {
                let piece = piece_bytes(whole, offset);
                if !request.is_empty()
                    && (bytes + piece > TREE_PIECE_BYTES || request.len() >= TREE_WISHES_MAX)
                {
                    requests.push(std::mem::take(&mut request));
                    bytes = 0;
                }
                bytes += piece;
                request.push(TreeWish {
                    entry: number as u32,
                    offset,
                });
                offset += piece.max(1) as u64;
            }
        }
        if !request.is_empty() {
            requests.push(request);
        }
        requests
    }

    /// Writes a piece that was wished for, in the order of the wishes. Zeros at its end may have been left out.
    pub(crate) fn take(&mut self, wish: TreeWish, mut piece: Vec<u8>) -> Result<(), TreeError> {
        let number = wish.entry as usize;
        let entry = &self.want.entries()[number];
        let whole = entry.bytes();
        if wish.offset == 0 {
            self.writer.remove(&entry.path)?;
            self.current = Some((number, self.writer.file(&entry.path)?));
        }
        let Some((at, sink)) = &mut self.current else {
            return Ok(());
        };
        let wanted = piece_bytes(whole, wish.offset);
        if *at != number || piece.len() > wanted {
            let path = Shown::from(&*entry.path);
            return Err(TreeError::OtherContents { path });
        }
        piece.resize(wanted, 0);
        sink.write(&piece)?;
        if wish.offset + wanted as u64 >= whole
            && let Some((number, sink)) = self.current.take()
        {
            match sink.end_as(&entry.what) {
                Err(TreeError::OtherContents { .. }) => self.failed.push(number),
                other => other?,
            }
        }
        Ok(())
    }

    /// Gives everything its permissions and time. What there is now, and a path of which something else came, if there is
    /// one.
    pub(crate) fn end(self) -> Result<(Tree, Option<TreeError>), TreeError> {
        let mut have = Tree::clone(&self.want);
        for &number in &self.failed {
            self.writer.remove(&self.want.entries()[number].path)?;
        }
        for number in &self.plan.finish {
            if !self.failed.contains(number) {
                self.writer.finish(&self.want.entries()[*number])?;
            }
        }
        let failed = self.failed.iter();
        let failed: Vec<&[u8]> = failed
            .map(|&number| &*self.want.entries()[number].path)
            .collect();
        have.retain(|entry| !failed.contains(&&*entry.path));
        let other = failed.first().map(|&path| TreeError::OtherContents {
            path: Shown::from(path),
        });
        Ok((have, other))
    }
}

/// How long the piece of a file is that begins there.
pub(crate) fn piece_bytes(whole: u64, offset: u64) -> usize {
    whole.saturating_sub(offset).min(TREE_PIECE_BYTES as u64) as usize
}
