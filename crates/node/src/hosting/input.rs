//! What the driver hears of: [`Input`].

use std::os::fd::OwnedFd;

use sterna_migration::{Attempt, Command, Event, NodeId, Order as Move, StartedError};
use sterna_process::{Epoch, ProcessId};
use sterna_runner::message::{Place, Said, Secret};
use tokio::sync::oneshot;

/// Something that happened.
pub(super) enum Input {
    /// For the machines.
    Event(Event),
    /// A runner says something; with `None` its link has ended. The number tells one link from the next.
    Said(u64, Option<Said>),
    /// A process is about to be started here.
    Started {
        process: ProcessId,
        epoch: Epoch,
        noted: oneshot::Sender<Result<(), StartedError>>,
    },
    /// It was not started.
    NotStarted { process: ProcessId },
    /// What was here in this epoch is not any more: nobody is to miss it.
    Gone { process: ProcessId, epoch: Epoch },
    /// A process is to be moved.
    Begin {
        order: Move,
        begun: oneshot::Sender<Result<Attempt, sterna_migration::moves::StartError>>,
    },
    /// A move is to be given up.
    Cancel {
        attempt: Attempt,
        done: oneshot::Sender<Result<(), sterna_migration::moves::CancelError>>,
    },
    /// Whether a target has still to say that it takes a process by this attempt.
    IsOffered {
        attempt: Attempt,
        offered: oneshot::Sender<bool>,
    },
    /// It does not answer.
    TargetSilent { attempt: Attempt },
    /// Whether a process takes part in a move, or its end is being written down.
    IsBusy {
        process: ProcessId,
        busy: oneshot::Sender<bool>,
    },
    /// The epoch of the copy that is kept here of a process that was moved away.
    KeptCopy {
        process: ProcessId,
        kept: oneshot::Sender<Option<Epoch>>,
    },
    /// Where a process is going by this attempt, if it is.
    TargetOf {
        attempt: Attempt,
        target: oneshot::Sender<Option<NodeId>>,
    },
    /// The registry says that copies of directories of a process are not needed here.
    Uncopied { process: ProcessId },
    /// The target of a move has the copies of directories as they are now, or not; then the command can go.
    TreesSent(Attempt, Result<(), String>, Command),
    /// From where a process is coming by this attempt, if it is.
    SourceOf {
        attempt: Attempt,
        source: oneshot::Sender<Option<NodeId>>,
    },
    /// Where an arriving process will be, before [`Event::Admitted`].
    Place(Attempt, Box<Place>, Vec<OwnedFd>),
    /// A connection for pages was made, or not; then the command can go.
    Connected(Attempt, Option<(OwnedFd, Secret)>, Command),
    /// Who does not answer that the commit of a move needs; if nobody, the command can go.
    Asked(Attempt, Option<String>, Command),
    /// One more connection, for memory that is to follow its process.
    Lane(Attempt, (OwnedFd, Secret)),
}
