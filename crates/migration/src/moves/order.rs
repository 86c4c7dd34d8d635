//! The order to move a process, and what stands against beginning, giving up or taking in.

use sterna_process::ProcessId;

use crate::id::{Grant, MoveId, NodeId};
use crate::message::Offer;
use crate::rounds::{Travel, TravelError};

/// What is to be moved where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The process, which runs here.
    pub process: ProcessId,
    /// Where to.
    pub target: NodeId,
    /// The name of the attempt: random.
    pub move_id: MoveId,
    /// What lets the target commit: random.
    pub grant: Grant,
    /// What the target is to know. Its strategy follows from `travel`.
    pub offer: Offer,
    /// How its memory is to travel.
    pub travel: Travel,
}

/// Why a process cannot be started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartedError {
    /// A move of it, or the writing down of its end, goes on here.
    #[error("the end of process {}, or of a move of it, is still being written down: try again in a moment", process.short())]
    Busy {
        /// The process.
        process: ProcessId,
    },
    /// It is held here.
    #[error("process {} is on this node, or a copy of it: if that is just being let go, try again in a moment", process.short())]
    Here {
        /// The process.
        process: ProcessId,
    },
}

/// Why a move was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The process is not here, or does not run.
    #[error("process {} does not run on this node", process.short())]
    NotRunning {
        /// The process.
        process: ProcessId,
    },
    /// It takes part in another move, or its end is being written down.
    #[error("another move of process {} has not ended: wait for it; before the process is at its target, Ctrl-C at its `sterna move` gives it up", process.short())]
    Busy {
        /// The process.
        process: ProcessId,
    },
    /// Source and target are one.
    #[error("process {} is on this node already", process.short())]
    AlreadyThere {
        /// The process.
        process: ProcessId,
    },
    /// As many processes leave as may.
    #[error("{limit} moves from this node have not ended: wait, or raise the limit")]
    TooManyMoves {
        /// [`Limits::outgoing_max`](crate::Limits::outgoing_max).
        limit: usize,
    },
    /// Its memory cannot travel so.
    #[error(transparent)]
    Travel(#[from] TravelError),
    /// It has been owned too often, which only a forged epoch brings about.
    #[error("process {} is in its last epoch", process.short())]
    LastEpoch {
        /// The process.
        process: ProcessId,
    },
}

/// Why a move cannot be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// No move of this process was started here, or it has ended.
    #[error("process {} is not being moved from this node", process.short())]
    NotMoving {
        /// The process.
        process: ProcessId,
    },
    /// The target owns the process already.
    #[error("process {} belongs to the target already: move it back when this move has ended", process.short())]
    Committed {
        /// The process.
        process: ProcessId,
    },
}
