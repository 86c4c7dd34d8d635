//! What the driver does about directories that are copied along.

use std::sync::Arc;

use sterna_migration::{Attempt, Command, Event, NodeId, RunnerEvent};
use sterna_process::ProcessId;

use super::{Driver, Input};

impl Driver {
    /// What has ended here gives back what it has changed, and then has ended: whoever hears that finds the changes.
    pub(super) fn given_back(&self, event: RunnerEvent, process: ProcessId) {
        let hosting = Arc::clone(&self.hosting);
        tokio::spawn(async move {
            hosting.give_back(process).await;
            hosting.tell(Input::Event(Event::Runner(event))).await;
        });
    }

    /// Has the target get what has changed in copies of directories; then the command goes.
    pub(super) fn send_trees(&self, attempt: Attempt, target: NodeId, command: Command) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let sent = service.send_trees(&hosting, attempt, target).await;
            hosting.tell(Input::TreesSent(attempt, sent, command)).await;
        });
    }

    /// Copies of a process whose move to this node is over stay with it, or go.
    pub(super) fn look_after_copies(&self) {
        for attempt in self.hosting.copies.all_arriving() {
            if self.moves.source_of(attempt).is_none() {
                self.hosting.copies.has_arrived(attempt);
                self.settle_copies(attempt.process);
            }
        }
    }

    /// Finds out whether copies of a process are needed here, unless it is clear.
    pub(super) fn settle_copies(&self, process: ProcessId) {
        if !self.hosting.copies.has(process) || self.moves.holding(process).is_some() {
            return;
        }
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move { service.settle_copies(&hosting, process).await });
    }

    /// Nobody needs copies of a process here, unless it has come again.
    pub(super) fn uncopied(&self, process: ProcessId) {
        if self.moves.is_busy(process) || self.moves.holding(process).is_some() {
            return;
        }
        let copies = Arc::clone(&self.hosting.copies);
        tokio::task::spawn_blocking(move || copies.remove(process));
    }
}
