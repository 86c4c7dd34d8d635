//! What a machine has at hand while it handles one event: [`Turn`].

use std::collections::VecDeque;

use sterna_process::{Epoch, ProcessId};

use crate::action::{Action, Command, Notice};
use crate::id::{Attempt, NodeId};
use crate::limits::Limits;
use crate::message::{Body, Message};
use crate::record::Swap;
use crate::time::{Repeat, Time};

/// The moment, the node, its limits, and where actions go.
pub(crate) struct Turn<'a> {
    pub(crate) now: Time,
    pub(crate) node: NodeId,
    pub(crate) limits: &'a Limits,
    pub(crate) actions: &'a mut VecDeque<Action>,
}

impl Turn<'_> {
    pub(crate) fn send(&mut self, to: NodeId, attempt: Attempt, body: Body) {
        let message = Message { attempt, body };
        self.actions.push_back(Action::Send { to, message });
    }

    pub(crate) fn swap(&mut self, swap: Swap) {
        self.actions.push_back(Action::Swap(swap));
    }

    pub(crate) fn read(&mut self, process: ProcessId) {
        self.actions.push_back(Action::Read { process });
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.actions.push_back(Action::Command(command));
    }

    pub(crate) fn resume(&mut self, process: ProcessId, epoch: Epoch) {
        self.command(Command::Resume { process, epoch });
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notify(notice));
    }

    /// Something was said now, and will be said again.
    pub(crate) fn repeat(&self) -> Repeat {
        Repeat::after(self.now, self.limits)
    }
}
