//! What two nodes say to each other in a move: [`Message`].
//!
//! Image and pages are not in messages: the runners exchange them on a connection of their own, marked with the
//! same [`Attempt`]. Any message may be lost, come late, twice, or in another order; all of them are repeated by
//! the side that waits for an answer, which is the source until it has granted, and whoever asks after that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_process::{MemoryLayout, ProgramId, Tag};

use crate::id::{Attempt, Grant};

/// A message of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which move.
    pub attempt: Attempt,
    /// What is said.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Source: would you take this process?
    Offer(Offer),
    /// Target: yes, there is room and the program is ready.
    Accept(Readied),
    /// Target: no.
    Refuse(Refusal),
    /// Source: its pages are coming while it runs. Wait for it.
    Coming,
    /// Source: it stands still, its image and pages are coming, and you may commit.
    State(Snapshot),
    /// Target: I am the owner now.
    Committed,
    /// Target: it runs here, all of its memory has come, and it needs nothing of yours any more.
    Done(Timings),
    /// Target: I have given up.
    Failed(TargetFailure),
    /// Source: I have given up. Nothing that you have of this attempt will be needed.
    Abort,
    /// Source: how far are you?
    Ask,
}

/// How memory travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Strategy {
    /// All of it while the process stands still.
    #[default]
    StopAndCopy,
    /// In rounds while the process runs; only what the last of them left, while it stands still.
    PreCopy,
    /// The rest of it when the process runs at the target already: until all of it has come, both nodes are needed.
    PostCopy,
    /// In rounds while the process runs, and what they leave when it runs at the target already. To a target it is
    /// [`Strategy::PostCopy`], and offered so.
    Hybrid,
}

impl Strategy {
    /// How a node of this version takes in what is offered so.
    #[must_use]
    pub const fn understood(self) -> Self {
        match self {
            Self::StopAndCopy => Self::StopAndCopy,
            Self::PreCopy => Self::PreCopy,
            Self::PostCopy | Self::Hybrid => Self::PostCopy,
        }
    }

    /// Whether some memory comes when the process runs at the target already.
    #[must_use]
    pub const fn follows(self) -> bool {
        matches!(self, Self::PostCopy | Self::Hybrid)
    }
}

/// What a target must know to say yes or no, and to make ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What kind of process it is.
    pub kind: Tag,
    /// The program that it runs.
    pub program: ProgramId,
    /// Its memory, now.
    pub layout: MemoryLayout,
    /// The version of the image that will come, as in [`sterna_process::image::FORMAT_NEWEST`].
    pub image_format: u32,
    /// How its memory is to travel.
    pub strategy: Strategy,
}

/// What a target has done before it accepted, by its own clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readied {
    /// Until the program had come and was compiled, if it was not there.
    pub fetch: Duration,
    /// From then, or from when it was let in, until there was room for the process.
    pub room: Duration,
    /// How it takes the memory in: as it was offered, if it knows and can do that; instead of [`Strategy::PostCopy`]
    /// otherwise [`Strategy::PreCopy`]. In version 2 of messages there is nothing but [`Strategy::StopAndCopy`].
    pub strategy: Strategy,
}

/// What stands still at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The right to commit.
    pub grant: Grant,
    /// How much is coming.
    pub size: Size,
}

/// How large a captured process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Length of the image, without pages.
    pub image_bytes: u64,
    /// Number of pages that travel.
    pub pages: u64,
}

/// What the target measured with its own clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// From the grant to a process that is ready, the wait for the last of its memory included.
    pub restore: Duration,
    /// From then to the registry's answer.
    pub commit: Duration,
    /// From then to its first instruction.
    pub resume: Duration,
}

/// Whose fault something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What the source offered or sent.
    Source,
    /// The target, or its state at the moment.
    Target,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same move, some time later.
    Later,
    /// At another target only.
    Elsewhere,
    /// No.
    Never,
}

/// Why a target does not take a process. Nothing was written in the registry, and the process was not paused.
///
/// Texts come from another node: they are at most [`TEXT_BYTES_MAX`](crate::wire::TEXT_BYTES_MAX) long, and must
/// be escaped before a terminal sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another move of this process has not ended there.
    #[error("another move of this process has not ended at the target: try again later")]
    Busy,
    /// The target still has the process, or a copy that is needed until a move has ended.
    #[error("the target still keeps a copy of this process from an earlier move: try again later")]
    Held,
    /// It takes part in as many moves as it may.
    #[error("the target already takes in as many processes as it may: try again later")]
    TooManyMoves,
    /// It cannot get the program.
    #[error("the target could not get the program: {reason}")]
    Program {
        /// What happened.
        reason: String,
    },
    /// It cannot make room.
    #[error("the target could not make room: {reason}")]
    Room {
        /// What happened.
        reason: String,
    },
    /// It was not ready in time.
    #[error("the target was not ready in time: try again, or allow more time")]
    TooSlow,
    /// Its runner died while it made ready.
    #[error("the target's runner died: try again later")]
    RunnerDied,
    /// It does not understand the offer: another kind, image format, or strategy, or an impossible epoch.
    #[error("the target does not support {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// Its operator does not allow it.
    #[error("the target does not admit the process: {reason}")]
    NotAdmitted {
        /// Why.
        reason: String,
    },
}

impl Refusal {
    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Unsupported { .. } => Fault::Source,
            _ => Fault::Target,
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Busy | Self::Held | Self::TooManyMoves | Self::TooSlow | Self::RunnerDied => {
                Retry::Later
            }
            Self::Program { .. }
            | Self::Room { .. }
            | Self::Unsupported { .. }
            | Self::NotAdmitted { .. } => Retry::Elsewhere,
        }
    }
}

/// Why a target gave up after it had accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TargetFailure {
    /// It knows nothing of the move: it was started again, or had given up.
    #[error("the target does not know of the move: it has given up, or was started again")]
    Unknown,
    /// The process did not come.
    #[error("the process did not come within the target's limit")]
    StateLate,
    /// It could not be made of what came.
    #[error("the target could not restore the process: {reason}")]
    Restore {
        /// What happened.
        reason: String,
    },
    /// Its runner died.
    #[error("the target's runner died")]
    RunnerDied,
    /// The registry refused its commit: the move was settled before.
    #[error("the move was settled before the target could commit")]
    Settled,
}

impl TargetFailure {
    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::StateLate | Self::Settled => Fault::Source,
            Self::Unknown | Self::Restore { .. } | Self::RunnerDied => Fault::Target,
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Restore { .. } => Retry::Elsewhere,
            _ => Retry::Later,
        }
    }
}
