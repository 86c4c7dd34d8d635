//! The pass: makes a module stoppable at its points, and writes the continuations that enter it
//! there again. WebAssembly in, WebAssembly out; it knows no engine.
//!
//! - `module` the original module by index, `calls` which of its functions may unwind
//! - `plan` what is known of one function (`read`, `polls`, `liveness`, `sharing` fill it in), `points` the
//!   same for the whole program, to be kept beside it
//! - `spot` where a frame can stand, as a number; `marks` where its code is
//! - `record` how a stopped function's values lie in memory
//! - `emit` writes a body, for `main_module` (with `routines`, `segments`) and `continuation`; `look`
//!   is how a guest looks at the word, `signatures` and `encoding` are what all writers share
//! - `killable` the lesser pass, for programs that do not move
//! - `cost` the call depth, `names` what the main module exports

use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod calls;
pub(crate) mod continuation;
pub(crate) mod cost;
pub(crate) mod emit;
mod encoding;
pub(crate) mod killable;
pub(crate) mod limits;
mod liveness;
mod look;
mod main_module;
mod marks;
pub(crate) mod module;
pub(crate) mod names;
mod plan;
pub(crate) mod points;
mod polls;
mod read;
pub(crate) mod record;
pub(crate) mod routines;
mod segments;
mod sharing;
mod signatures;
mod spot;

pub use continuation::{ContinuationBuilder, Continuations, Import, Param};
pub use emit::Entry;
pub use marks::Marks;
pub use points::{PointEntry, PointTable, Stop, ValueType};
pub use segments::Piece;

pub(crate) use module::Module;
pub(crate) use spot::Spot;

/// Version of the pass: compiled artifacts of another version are not used.
pub const PASS_VERSION: u32 = 4;

/// What the pass may be told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Options {
    /// Count call depth, so that recursion traps at the same depth everywhere.
    pub count_depth: bool,
    /// Tell the engine which branches are unlikely.
    pub branch_hints: bool,
    /// Take active data segments out, into the initial image of the memories.
    pub strip_data: bool,
    /// For tests: every look at the word counts it down, and the guest stops when it reaches zero, so
    /// that a seed chooses the point. Bulk operations are done in very small portions.
    pub countdown: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            count_depth: true,
            branch_hints: true,
            strip_data: true,
            countdown: false,
        }
    }
}

/// A module made movable.
#[derive(Debug)]
pub struct Instrumented {
    /// The module, in the binary format.
    pub wasm: Vec<u8>,
    /// Where it can be stopped.
    pub points: PointTable,
    /// Where the code of its points lies.
    pub marks: Marks,
    /// What was in its active data segments.
    pub segments: Vec<Piece>,
    /// The call depth that a new instance begins with.
    pub depth: i32,
    /// WebAssembly pages of the control memory that it imports.
    pub control_pages: u32,
}

/// A module parsed and validated, ready to be instrumented and continued.
#[derive(Debug, Clone)]
pub struct Program {
    module: Arc<Module>,
    options: Options,
}

impl Program {
    /// Parses and validates `bytes`, the binary format.
    ///
    /// # Errors
    /// [`InstrumentError::Invalid`] and [`InstrumentError::Refused`].
    pub fn parse(bytes: Arc<[u8]>, options: Options) -> Result<Program, InstrumentError> {
        let module = Arc::new(Module::parse(bytes)?);
        Ok(Program { module, options })
    }

    /// Instruments the module.
    ///
    /// # Errors
    /// [`InstrumentError::TooLarge`] names the limit that the module breaks.
    pub fn instrument(&self) -> Result<Instrumented, InstrumentError> {
        main_module::build(&self.module, &self.options)
    }

    /// A builder of continuations for the module.
    ///
    /// # Errors
    /// As [`Program::instrument`].
    pub fn continuations(&self) -> Result<ContinuationBuilder, InstrumentError> {
        ContinuationBuilder::new(self.module.clone(), &self.options)
    }

    pub(crate) fn module(&self) -> &Module {
        &self.module
    }
}

/// Why a module cannot be made movable.
#[derive(Debug, thiserror::Error)]
pub enum InstrumentError {
    /// No engine takes it.
    #[error("not a valid WebAssembly module: {reason} (at byte {offset})")]
    Invalid {
        /// Byte offset in the module.
        offset: u64,
        /// What the validator says.
        reason: String,
    },
    /// It runs, but cannot be moved.
    #[error("the program cannot be moved: {feature} (at byte {offset}); run it with --immobile")]
    Refused {
        /// What it uses that cannot be moved.
        feature: String,
        /// Byte offset in the module.
        offset: u64,
    },
    /// It breaks a limit.
    #[error("the program's {what} is over the limit of {limit}; run it with --immobile")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A frame names a place that is no point.
    #[error("function {function} has no point at byte {offset}: the image is of another program")]
    NoPoint {
        /// Original function index.
        function: u32,
        /// Byte offset in the module.
        offset: u32,
    },
    /// The module could not be written again.
    #[error("the module could not be rewritten: {0}")]
    Rewrite(String),
}

/// Fails if `bytes` are a component, with what to do instead.
fn check_core(bytes: &[u8]) -> Result<(), InstrumentError> {
    if !wasmparser::Parser::is_component(bytes) {
        return Ok(());
    }
    Err(InstrumentError::Invalid {
        offset: 0,
        reason: "it is a component, and only core modules that use WASI preview 1 are run: build it for \
                 wasm32-wasip1"
            .into(),
    })
}

impl From<wasmparser::Error> for InstrumentError {
    fn from(error: wasmparser::Error) -> InstrumentError {
        InstrumentError::Invalid {
            offset: error.offset() as u64,
            reason: error.message().to_owned(),
        }
    }
}

impl From<wasm_encoder::reencode::Error<InstrumentError>> for InstrumentError {
    fn from(error: wasm_encoder::reencode::Error<InstrumentError>) -> InstrumentError {
        match error {
            wasm_encoder::reencode::Error::UserError(error) => error,
            wasm_encoder::reencode::Error::ParseError(error) => error.into(),
            other => InstrumentError::Rewrite(other.to_string()),
        }
    }
}
