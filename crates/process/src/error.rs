//! What can go wrong with a process: one enum per operation.
//!
//! Each message says what failed and on what, and, where there is one, the remedy. Causes are chained
//! ([`std::error::Error::source`]) and not repeated in the text. Errors of memory and of image files are with
//! [`memory`](crate::memory) and [`image`](crate::image).

use std::error::Error;
use std::time::Duration;

use crate::id::{ProgramId, Tag};
use crate::image::SectionError;
use crate::memory::MemoryError;
use crate::waypoint::Waypoint;

/// An error of a kind's own.
pub type KindError = Box<dyn Error + Send + Sync>;

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// Only its name was given, and the kind does not have it.
    #[error("program {} is not installed here: give its bytes", program.short())]
    UnknownProgram {
        /// Its name.
        program: ProgramId,
    },
    /// It is not a program of this kind.
    #[error("not a {kind} program: {reason}")]
    NotAProgram {
        /// The kind that was to run it.
        kind: Tag,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// It uses something that cannot be moved.
    #[error(
        "the program uses {feature} at byte {offset}, which cannot be moved: run it as immobile"
    )]
    Immovable {
        /// The feature.
        feature: String,
        /// Where it is used, in bytes from the program's beginning.
        offset: u64,
    },
    /// It needs more of something than it may have.
    #[error("the program needs {needed} {what}, {limit} are allowed: raise the limit")]
    OverLimit {
        /// What, with its unit, e.g. `bytes of memory`.
        what: &'static str,
        /// How many it needs.
        needed: u64,
        /// How many it may have.
        limit: u64,
    },
    /// Its environment lacks something or has something wrong.
    #[error("the program's environment is not right: {reason}")]
    Environment {
        /// What.
        reason: String,
    },
    /// Something else failed.
    #[error("could not {doing}")]
    Failed {
        /// What was being done, e.g. `compile the program`.
        doing: &'static str,
        /// The kind's error.
        source: KindError,
    },
}

/// Why a target cannot make room for a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// Only its program's name was given, and the kind does not have it.
    #[error("program {} is not installed here: send it first", program.short())]
    UnknownProgram {
        /// Its name.
        program: ProgramId,
    },
    /// The program cannot have this memory.
    #[error("the memory of the process does not fit its program: {reason}")]
    Layout {
        /// How they differ.
        reason: String,
    },
    /// The target does not have the room.
    #[error(
        "the process needs {needed} {what}, {limit} are allowed here: raise the limit or choose another target"
    )]
    OverLimit {
        /// What, with its unit.
        what: &'static str,
        /// How many it needs.
        needed: u64,
        /// How many there are.
        limit: u64,
    },
    /// No process of the program can stand there.
    #[error("the program has no waypoint {waypoint}: the process is of another program")]
    Waypoint {
        /// The place.
        waypoint: Waypoint,
    },
    /// Something else failed.
    #[error("could not {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The kind's error.
        source: KindError,
    },
}

/// Why a running process was not paused, or not looked at. It runs on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PauseRefused {
    /// It did not come to a point where it can stand still.
    #[error(
        "the process did not come to a safepoint within {within:?}: try again, or allow more time"
    )]
    TimedOut {
        /// The time it was given.
        within: Duration,
    },
    /// It has ended.
    #[error("the process has ended")]
    Ended,
    /// It was started without mobility, or is in the middle of something that cannot be interrupted.
    #[error("the process cannot be paused: {reason}")]
    Immovable {
        /// What.
        reason: String,
    },
}

/// Why a paused process could not be captured. It can be resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// It was killed meanwhile.
    #[error("the process was killed while it was paused")]
    Killed,
    /// It holds something that cannot be put into an image.
    #[error("the process holds {what}, which cannot be captured: {remedy}")]
    Uncapturable {
        /// What.
        what: String,
        /// What can be done about it.
        remedy: String,
    },
    /// A section could not be made.
    #[error("could not write the image's sections")]
    Section(#[from] SectionError),
    /// Its memory could not be read.
    #[error("could not read the process's memory")]
    Memory(#[from] MemoryError),
    /// Something else failed.
    #[error("could not {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The kind's error.
        source: KindError,
    },
}

/// Why an image did not become a process. Nothing has run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The image is of another kind.
    #[error("the image is of kind {found}, this is kind {expected}")]
    WrongKind {
        /// The image's kind.
        found: Tag,
        /// The kind that was to restore it.
        expected: Tag,
    },
    /// The image is of another program.
    #[error("the image is of program {}, room was made for {}", found.short(), expected.short())]
    WrongProgram {
        /// The image's program.
        found: ProgramId,
        /// The prepared program.
        expected: ProgramId,
    },
    /// A section is missing, unknown, of an unknown version, left over or undecodable.
    #[error("could not read the image's sections")]
    Section(#[from] SectionError),
    /// The image contradicts itself or its program.
    #[error("the image does not fit its program: {reason}")]
    Inconsistent {
        /// How.
        reason: String,
    },
    /// Something the process refers to is not among the resources, or has changed.
    #[error("the process refers to {what}, but {reason}")]
    Binding {
        /// What it refers to.
        what: String,
        /// What is wrong with it here, and what to do.
        reason: String,
    },
    /// The process uses more than it may here.
    #[error("the process uses {used} {what}, {limit} are allowed here: raise the limit")]
    OverLimit {
        /// What, with its unit.
        what: &'static str,
        /// How many it uses.
        used: u64,
        /// How many it may use.
        limit: u64,
    },
    /// Its memory could not be set up.
    #[error("could not set up the process's memory")]
    Memory(#[from] MemoryError),
    /// Something else failed.
    #[error("could not {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The kind's error.
        source: KindError,
    },
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// It has ended.
    #[error("the process has ended")]
    Ended,
    /// It did not come to a point where it can be looked at.
    #[error(
        "the process did not come to a safepoint within {within:?}: try again, or allow more time"
    )]
    TimedOut {
        /// The time it was given.
        within: Duration,
    },
    /// Something else failed.
    #[error("could not {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The kind's error.
        source: KindError,
    },
}
