//! What is said of moves: how far one is, and what came of it.

use serde::{Deserialize, Serialize};
use sterna_migration::{MoveId, NodeId, Round, RoundGoing, Travelled};
use sterna_process::ProcessId;

use super::TreesSent;

/// What became of a move, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// The process.
    pub process: ProcessId,
    /// Which move.
    pub move_id: MoveId,
    /// From where.
    pub source: NodeId,
    /// Where to.
    pub target: NodeId,
    /// Whether it runs at the target.
    pub moved: bool,
    /// What became of it, in a sentence without a subject.
    pub outcome: String,
    /// Whether trying again can help.
    pub retry: bool,
    /// Length of the image, in bytes.
    pub image_bytes: u64,
    /// Pages that went.
    pub pages: u64,
    /// Microseconds in which nobody executed it.
    pub downtime_us: Option<u64>,
    /// Of the time until it stood still: for how many microseconds it was only watched, running.
    pub watched_us: Option<u64>,
    /// Whether all that it needed at the target was ready before it stood still.
    pub was_ready: Option<bool>,
    /// From order to end, in microseconds.
    pub total_us: u64,
    /// The parts of that, in order, in microseconds.
    pub parts: Vec<(String, u64)>,
}

/// How far a move is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// The rounds that were not known yet.
    pub rounds: Vec<RoundNews>,
    /// How far the one is that goes on.
    pub going: Option<RoundGoing>,
    /// Its end.
    pub ended: Option<Box<MoveEnd>>,
}

/// A round of a move that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundNews {
    /// Its figures.
    pub round: Round,
    /// For how many microseconds the process would have stood still after it.
    pub expected_us: u64,
}

/// The end of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveEnd {
    /// What became of it.
    pub report: MoveReport,
    /// How memory travelled, if anybody knows.
    pub travelled: Option<Travelled>,
    /// What went of directories that are copied along.
    pub copied: Option<TreesSent>,
}
