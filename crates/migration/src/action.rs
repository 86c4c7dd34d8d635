//! What goes into the machines and what comes out: [`Event`] and [`Action`].
//!
//! ```text
//!               ┌────────────────────────── driver: all I/O ──────────────────────────┐
//!    messages ──┤►                                                                    │
//!    records  ──┤►  Event ──► Moves::handle ──► Action ──►  messages, swaps, commands │
//!    runner   ──┤►            Moves::handle_timeout          for the runner, notices  │
//!               └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What the machines rely on:
//!
//! - Messages, swaps and their answers may be lost, late, twice, or in another order.
//! - Commands reach the runner in their order or not at all, and so do its events. When either side of that link
//!   dies, the rest of what was on the way is void: a runner takes no command of an earlier service once a new
//!   one has asked what it holds.
//! - [`Event::RunnerDied`] is said only when it is certain, as the operating system can say of a child.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, ProcessId, ProgramId, Tag};

use crate::id::{Attempt, Grant, MoveId, NodeId};
use crate::message::{Message, Offer, Refusal, Size, Timings};
use crate::record::{Record, Swap};
use crate::report::Report;
use crate::rounds::Round;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message came.
    Message {
        /// From this node, authenticated.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// The registry says what a record is, in answer to a swap or a read, or unasked.
    Record {
        /// Whose.
        process: ProcessId,
        /// The record; `None` if the registry has none.
        record: Option<Record>,
    },
    /// The registry has no record of it, and the node is no member of the cluster any more: nobody will ever speak of it again.
    Expelled {
        /// What.
        process: ProcessId,
    },
    /// The node lets the process in ([`Action::Admit`]).
    Admitted {
        /// Which move.
        attempt: Attempt,
        /// Whether its program is here already.
        program_is_here: bool,
    },
    /// It does not.
    Declined {
        /// Which move.
        attempt: Attempt,
        /// Why.
        refusal: Refusal,
    },
    /// The program is here now ([`Action::FetchProgram`]).
    ProgramFetched {
        /// Which move.
        attempt: Attempt,
    },
    /// It cannot be had.
    ProgramUnavailable {
        /// Which move.
        attempt: Attempt,
        /// What happened.
        reason: String,
    },
    /// The runner says something.
    Runner(RunnerEvent),
    /// The runner has died, and with it all that it held. Commands from now on go to a new one.
    RunnerDied,
}

/// What a runner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunnerEvent {
    /// Room is made ([`Command::Prepare`]).
    Prepared {
        /// Which move.
        attempt: Attempt,
        /// Whether it can run before all of its memory has come.
        can_follow: bool,
    },
    /// It cannot be made.
    PrepareFailed {
        /// Which move.
        attempt: Attempt,
        /// What happened.
        reason: String,
    },
    /// The process stands still ([`Command::Pause`]).
    Paused {
        /// Which move.
        attempt: Attempt,
    },
    /// It runs on.
    PauseRefused {
        /// Which move.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// All but its pages is an image now ([`Command::Capture`]).
    Captured {
        /// Which move.
        attempt: Attempt,
        /// How large it is.
        size: Size,
    },
    /// It cannot be captured; it stands still.
    CaptureFailed {
        /// Which move.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// The other runner has all of it ([`Command::Push`]).
    Pushed {
        /// Which move.
        attempt: Attempt,
    },
    /// The connection broke off.
    PushFailed {
        /// Which move.
        attempt: Attempt,
        /// What happened.
        reason: String,
    },
    /// The process is made and stands still, ready to run ([`Command::Restore`]).
    Restored {
        /// Which move.
        attempt: Attempt,
    },
    /// It cannot be made.
    RestoreFailed {
        /// Which move.
        attempt: Attempt,
        /// What happened.
        reason: String,
    },
    /// It runs ([`Command::Resume`]).
    Resumed {
        /// The process.
        process: ProcessId,
        /// Its epoch.
        epoch: Epoch,
        /// Whether some of its memory is still at the source: [`RunnerEvent::Followed`] or [`RunnerEvent::Unfollowed`] comes.
        follows: bool,
    },
    /// It has ended by itself or was killed, whether it ran or stood still. Said once, unasked, and kept as
    /// [`Holding::Exited`].
    Exited {
        /// The process.
        process: ProcessId,
    },
    /// What it writes is noted ([`Command::Track`]).
    Tracking {
        /// Which move.
        attempt: Attempt,
        /// Pages that are to be sent in all.
        pages: u64,
    },
    /// It cannot be noted, and is not.
    TrackFailed {
        /// Which move.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// The other runner has the pages of a round ([`Command::Round`]); or of one that came just before it stood still.
    RoundSent {
        /// Which move.
        attempt: Attempt,
        /// Its figures.
        round: Round,
    },
    /// It has not, or nobody knows.
    RoundFailed {
        /// Which move.
        attempt: Attempt,
        /// What happened.
        reason: String,
    },
    /// All of its memory has come ([`Rest::Follows`]).
    Followed {
        /// Which move.
        attempt: Attempt,
    },
    /// What was missing of its memory will not come, and the runner has let go of the process: it is no more here.
    Unfollowed {
        /// Which move.
        attempt: Attempt,
        /// What happened.
        reason: String,
    },
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send {
        /// To this node.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Ask the registry for a swap, and say what the record is then.
    Swap(Swap),
    /// Ask the registry what the record is.
    Read {
        /// Whose.
        process: ProcessId,
    },
    /// Ask the node whether it lets a process in: authority, room, and whether it understands the offer.
    Admit {
        /// Which move.
        attempt: Attempt,
        /// From where.
        source: NodeId,
        /// What is offered.
        offer: Offer,
    },
    /// Get a program: from the source, or a store. It is checked by its name.
    FetchProgram {
        /// Which move.
        attempt: Attempt,
        /// The source, which has it.
        source: NodeId,
        /// The kind of processes that it is for.
        kind: Tag,
        /// Its name.
        program: ProgramId,
    },
    /// Tell the runner to do something.
    Command(Command),
    /// Tell people and whoever else wants to know.
    Notify(Notice),
}

/// What a runner is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Make room for a process ([`Kind::prepare`](sterna_process::Kind::prepare)).
    Prepare {
        /// Which move.
        attempt: Attempt,
        /// What will come.
        offer: Offer,
    },
    /// Make the process stand still ([`Process::pause`](sterna_process::Process::pause)).
    Pause {
        /// Which move.
        attempt: Attempt,
        /// Within this time, or let it run on.
        within: Duration,
    },
    /// Capture it ([`Paused::capture`](sterna_process::Paused::capture)).
    Capture {
        /// Which move.
        attempt: Attempt,
    },
    /// Send image and pages to the target's runner. Pushing again what was pushed does no harm.
    Push {
        /// Which move.
        attempt: Attempt,
        /// Where to.
        target: NodeId,
        /// What becomes of the pages.
        rest: Rest,
    },
    /// When all of it has come, make the process of it ([`Incoming::finish`](sterna_process::Incoming::finish)),
    /// and keep the source and its grant with it, for [`Holding::Ready`].
    Restore {
        /// Which move.
        attempt: Attempt,
        /// From where it comes.
        source: NodeId,
        /// The right to commit.
        grant: Grant,
        /// How much is coming.
        size: Size,
    },
    /// Let the process run, in this epoch ([`Paused::resume`](sterna_process::Paused::resume)). If it runs
    /// already, it only takes up the epoch.
    Resume {
        /// The process.
        process: ProcessId,
        /// Its epoch from now on.
        epoch: Epoch,
    },
    /// Let go of what belongs to this move: room, a process that is ready, or the copy at the source
    /// ([`Paused::discard`](sterna_process::Paused::discard)); and if that has exited, forget it.
    Discard {
        /// Which move.
        attempt: Attempt,
    },
    /// Forget that a process has exited: the record says what became of it.
    Forget {
        /// The process.
        process: ProcessId,
    },
    /// End a process that runs in an old epoch: it lives on elsewhere.
    Fence {
        /// The process.
        process: ProcessId,
        /// The old epoch.
        epoch: Epoch,
    },
    /// Note which pages the process writes
    /// ([`Memory::start_tracking`](sterna_process::Memory::start_tracking)), until it is captured, resumed or
    /// [`Command::Untrack`] comes.
    Track {
        /// Which move.
        attempt: Attempt,
    },
    /// Send what it has written since the last round; in the first, all. A round whose end is not known is failed: what
    /// was taken for it is not sent again.
    Round {
        /// Which move.
        attempt: Attempt,
        /// Bytes a second that may be sent.
        rate_max: Option<u64>,
    },
    /// Note nothing any more: there will be no further round, and it will not stand still for this move.
    Untrack {
        /// Which move.
        attempt: Attempt,
    },
}

/// When the pages go that the target does not have when the process stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// With the image.
    Along,
    /// From then on, those first that are asked for, until the copy is discarded or resumed.
    Follows {
        /// Bytes a second that may be sent unasked.
        rate_max: Option<u64>,
        /// So long: then as fast as they go.
        within: Duration,
    },
}

/// What a runner holds of a process. It is all that survives the death of the service beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// It runs.
    Running {
        /// Its epoch.
        epoch: Epoch,
    },
    /// It stands still, to be moved away: until the move is done this may be the only copy.
    Frozen {
        /// Its epoch.
        epoch: Epoch,
        /// The move for which it was paused.
        move_id: MoveId,
    },
    /// It was made of a file or snapshot, and has not run here: its record does not say yet that it may.
    Made {
        /// Of the record that says that it runs nowhere.
        epoch: Epoch,
        /// By what it is let go.
        move_id: MoveId,
    },
    /// Room and perhaps pages of one that is to arrive. Nobody relies on it.
    Arriving {
        /// The epoch at the source.
        epoch: Epoch,
        /// The move.
        move_id: MoveId,
    },
    /// It has arrived and stands still. The move may have been committed: only a registry write releases it.
    Ready {
        /// The epoch at the source.
        epoch: Epoch,
        /// The move.
        move_id: MoveId,
        /// From where it came.
        source: NodeId,
        /// The right to commit.
        grant: Grant,
    },
    /// It has ended by itself or was killed. The runner remembers until the record says so; else a service that
    /// was down meanwhile would take it for lost.
    Exited {
        /// Its epoch.
        epoch: Epoch,
    },
    /// It runs, or stands still because its user says so, and some of its memory is still at the source.
    Incomplete {
        /// Its epoch.
        epoch: Epoch,
        /// From where its memory comes.
        source: NodeId,
        /// By which it came.
        attempt: Attempt,
    },
}

impl Holding {
    /// The epoch of what is held.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match *self {
            Self::Running { epoch }
            | Self::Incomplete { epoch, .. }
            | Self::Frozen { epoch, .. }
            | Self::Made { epoch, .. }
            | Self::Arriving { epoch, .. }
            | Self::Ready { epoch, .. }
            | Self::Exited { epoch } => epoch,
        }
    }
}

/// News.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A move that was started here has ended.
    MoveEnded(Box<Report>),
    /// A round of a move that was started here has been sent.
    Round {
        /// Which move.
        attempt: Attempt,
        /// Its figures.
        round: Round,
        /// For how long the process would stand still now.
        expected: Duration,
    },
    /// A process came here and runs.
    Arrived {
        /// Which move.
        attempt: Attempt,
        /// From where.
        source: NodeId,
        /// How long the parts of it took here.
        timings: Timings,
    },
    /// A process of this node was lost, and the registry says so since this epoch.
    Lost {
        /// The process.
        process: ProcessId,
        /// The epoch of the record.
        epoch: Epoch,
    },
    /// A process ran here in an old epoch, since it was recovered elsewhere, and was ended.
    Fenced {
        /// The process.
        process: ProcessId,
        /// The old epoch.
        epoch: Epoch,
    },
}

impl RunnerEvent {
    /// Which process it is about, and which attempt, unless it is about the process alone.
    pub(crate) const fn about(&self) -> (ProcessId, Option<Attempt>) {
        match self {
            Self::Prepared { attempt, .. }
            | Self::Followed { attempt }
            | Self::Unfollowed { attempt, .. }
            | Self::PrepareFailed { attempt, .. }
            | Self::Paused { attempt }
            | Self::PauseRefused { attempt, .. }
            | Self::Captured { attempt, .. }
            | Self::CaptureFailed { attempt, .. }
            | Self::Pushed { attempt }
            | Self::PushFailed { attempt, .. }
            | Self::Restored { attempt }
            | Self::RestoreFailed { attempt, .. }
            | Self::Tracking { attempt, .. }
            | Self::TrackFailed { attempt, .. }
            | Self::RoundSent { attempt, .. }
            | Self::RoundFailed { attempt, .. } => (attempt.process, Some(*attempt)),
            Self::Resumed { process, .. } | Self::Exited { process } => (*process, None),
        }
    }
}
