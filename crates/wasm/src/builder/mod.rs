//! The builder role: a one-shot, confined process that validates, instruments and compiles modules of strangers.
//!
//! ```text
//!   Builder::program ─► start ──JOB, INPUT──► run(): confine itself, then check, instrument, compile
//!                         │ ◄───REPORT pipe──  confinement, stages, result
//!                         │ ◄───OUTPUT────────  memory files: artifact, metadata, points, marks
//!                         └─ limits and signals become errors that name the limit
//! ```
//!
//! - `job` what goes over the descriptors; `task` the work itself, in this process or in that one
//! - `role` the confined process; `launch` starts and watches it; [`BuildError`] is how it can fail
//!
//! **What is confined.** Cranelift is a large compiler that reads what a stranger wrote: it runs here, under limits of
//! memory, time and size, without files, network or further processes. The pass is safe Rust on a validated module and
//! does no I/O; it runs here for whole programs (it takes time and memory too), but in the caller for continuations,
//! since it needs the whole module at hand, which the caller keeps from one continuation to the next.
//!
//! **What is trusted.** The artifact that comes back is native code and is not checked further. A module that took
//! over the compiler has won no more than to run native code *as its own guest*: with the rights of the process that
//! runs it, which is confined in its turn.
//!
//! **Continuations** go the same way. Starting a builder and hearing from it takes 3 ms (of which exec 1, confinement and
//! the engine 1), far less than what is seen when a continuation of a large function is compiled, so there is no
//! short way for small ones: whatever a stranger's module leads to is compiled in a builder.

mod error;
mod job;
mod launch;
mod role;
mod task;

pub use error::BuildError;
pub use launch::{Builder, Launch};
pub use role::run;

use std::ops::ControlFlow;
use std::time::Duration;

pub(crate) use task::{Artifact, MadeProgram};

/// What a build may use.
///
/// Each limit has a command-line option's name beside it, which errors tell the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildLimits {
    /// Size of a module, in bytes.
    pub module_bytes: u64,
    /// Memory that the builder may allocate, in bytes.
    pub memory_bytes: u64,
    /// CPU time of the builder, on all processors together.
    pub cpu_time: Duration,
    /// Time until it must be done.
    pub time: Duration,
    /// Size of what it makes, in bytes.
    pub artifact_bytes: u64,
}

impl BuildLimits {
    /// Option that raises `module_bytes` and `artifact_bytes`.
    pub const SIZE_OPTION: &'static str = "--build-size";
    /// Option that raises `memory_bytes`.
    pub const MEMORY_OPTION: &'static str = "--build-memory";
    /// Option that raises `cpu_time` and `time`.
    pub const TIME_OPTION: &'static str = "--build-time";
}

impl Default for BuildLimits {
    fn default() -> BuildLimits {
        BuildLimits {
            module_bytes: 256 << 20,
            memory_bytes: 4 << 30,
            cpu_time: Duration::from_secs(600),
            time: Duration::from_secs(900),
            artifact_bytes: 1 << 30,
        }
    }
}

/// How a build gets on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process builds the same program; this one waits for it.
    Waiting,
    /// The builder has confined itself: `full`, or what is missing.
    Confined(String),
    /// The module is read and validated.
    Checking,
    /// The module is made movable.
    Instrumenting,
    /// It is compiled; how much of it is done is an estimate, from 0 to 1.
    Compiling {
        /// Estimated share.
        done: f32,
    },
    /// What was made is written to the cache.
    Keeping,
}

/// Called as a build gets on, and at least every tenth of a second while a builder runs. To break is to cancel it.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;
