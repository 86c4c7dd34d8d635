//! What a driver may ask about moves: where a process is going, whence it comes, and what is held of it.

use sterna_process::{Epoch, ProcessId};

use super::{Activity, Moves};
use crate::action::Holding;
use crate::id::{Attempt, NodeId};
use crate::source::Source;

impl Moves {
    /// What the runner holds of a process, as far as it has said.
    #[must_use]
    pub fn holding(&self, process: ProcessId) -> Option<Holding> {
        self.holdings.get(&process).copied()
    }

    /// Where a process is being moved to from here.
    #[must_use]
    pub fn target_of(&self, process: ProcessId) -> Option<NodeId> {
        self.source(process).map(Source::target)
    }

    /// The same, if it is by this very attempt.
    #[must_use]
    pub fn target_by(&self, attempt: Attempt) -> Option<NodeId> {
        let source = self.source(attempt.process);
        let source = source.filter(|source| source.attempt() == attempt);
        source.map(Source::target)
    }

    /// Whether a target was asked by this attempt and has not accepted yet.
    #[must_use]
    pub fn is_offered(&self, attempt: Attempt) -> bool {
        let source = self.source(attempt.process);
        source.is_some_and(|source| source.attempt() == attempt && source.is_offering())
    }

    fn source(&self, process: ProcessId) -> Option<&Source> {
        match self.activities.get(&process) {
            Some(Activity::Source(source)) => Some(source),
            _ => None,
        }
    }

    /// From where a process is coming by this very attempt.
    #[must_use]
    pub fn source_of(&self, attempt: Attempt) -> Option<NodeId> {
        match self.activities.get(&attempt.process) {
            Some(Activity::Target(target)) if target.attempt() == attempt => Some(target.source()),
            _ => None,
        }
    }

    /// The epoch of the copy that is still here of a process that was moved away, if its target has died with it. When
    /// the record says that it is this node's again, it runs.
    #[must_use]
    pub fn kept_copy(&self, process: ProcessId) -> Option<Epoch> {
        match self.holdings.get(&process) {
            Some(&Holding::Frozen { epoch, .. }) if !self.is_busy(process) => Some(epoch),
            _ => None,
        }
    }

    /// Processes of which copies are kept here after moves that are over, since their targets have not said that they run.
    /// Their records, which are other nodes', are to be given from time to time, as [`Event::Record`]: then the targets are
    /// asked again, or a copy is seen not to be needed any more.
    ///
    /// [`Event::Record`]: crate::Event::Record
    pub fn kept(&self) -> impl Iterator<Item = ProcessId> + '_ {
        let held = self.holdings.keys().copied();
        held.filter(|process| self.kept_copy(*process).is_some())
    }

    /// All of which something is here.
    pub fn held(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.holdings.keys().copied()
    }

    /// Whether the rest of a process's memory is to follow it, if it is being moved away.
    #[must_use]
    pub fn is_followed(&self, process: ProcessId) -> bool {
        self.source(process).is_some_and(Source::is_followed)
    }

    /// Whether a move of the process, or the writing of its end, goes on here.
    #[must_use]
    pub fn is_busy(&self, process: ProcessId) -> bool {
        self.activities.contains_key(&process)
    }
}
