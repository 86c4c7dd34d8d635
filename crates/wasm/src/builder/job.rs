//! What passes between a builder and the process that started it.

use serde::{Deserialize, Serialize};

use crate::engine::EngineOptions;
use crate::pass;

/// Names of the builder's descriptors.
pub(super) mod descriptor {
    /// A [`super::Job`].
    pub(in super::super) const JOB: &str = "BUILDER_JOB";
    /// The module.
    pub(in super::super) const INPUT: &str = "BUILDER_INPUT";
    /// Pipe of [`super::Message`]s.
    pub(in super::super) const REPORT: &str = "BUILDER_REPORT";
    /// What was made, one part behind another; [`super::Message::Done`] says how long each is.
    pub(in super::super) const OUTPUT: &str = "BUILDER_OUTPUT";
}

/// Most parts that a task makes.
pub(super) const PARTS_MAX: usize = 5;
/// Longest message, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Longest text in a message, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 4 << 10;

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) engine: EngineOptions,
    /// [`crate::cache::Compatibility`] of the engine that will run the result.
    pub(super) compatibility: String,
    pub(super) memory_bytes: u64,
    pub(super) address_space_bytes: u64,
    pub(super) cpu_seconds: u64,
    pub(super) output_bytes: u64,
    /// Whether others go first.
    pub(super) in_background: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// Instrument and compile a program.
    Program(pass::Options),
    /// Compile a module that the pass wrote.
    Module,
}

/// What a builder says. It may have been taken over by what it compiles: nothing of this is trusted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Message {
    Confined(String),
    Stage(Stage),
    /// The sizes of the parts, in bytes.
    Done(Vec<u64>),
    Failed(Failure),
}

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    Checking,
    Instrumenting,
    /// So many bytes of WebAssembly are compiled.
    Compiling(u64),
}

/// Why nothing was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Failure {
    Invalid { offset: u64, reason: String },
    Refused { feature: String, offset: u64 },
    TooLarge { what: String, limit: u64 },
    Rewrite(String),
    Compile(String),
    OtherEngine,
    Output(String),
}

impl From<pass::InstrumentError> for Failure {
    fn from(error: pass::InstrumentError) -> Failure {
        use pass::InstrumentError as Error;
        match error {
            Error::Invalid { offset, reason } => Failure::Invalid { offset, reason },
            Error::Refused { feature, offset } => Failure::Refused { feature, offset },
            Error::TooLarge { what, limit } => Failure::TooLarge {
                what: what.into(),
                limit,
            },
            other => Failure::Rewrite(other.to_string()),
        }
    }
}

impl From<Failure> for super::BuildError {
    fn from(failure: Failure) -> super::BuildError {
        use super::BuildError as Error;
        use pass::InstrumentError;
        match failure {
            Failure::Invalid { offset, reason } => {
                InstrumentError::Invalid { offset, reason }.into()
            }
            Failure::Refused { feature, offset } => {
                InstrumentError::Refused { feature, offset }.into()
            }
            Failure::TooLarge { what, limit } => Error::TooLarge { what, limit },
            Failure::Rewrite(reason) => InstrumentError::Rewrite(reason).into(),
            Failure::Compile(reason) => Error::Compile(reason),
            Failure::OtherEngine => Error::OtherEngine,
            Failure::Output(reason) => Error::Crashed {
                how: "could not hand over what it made".into(),
                said: reason,
            },
        }
    }
}
