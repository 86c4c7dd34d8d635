//! How a build can fail.

use std::time::Duration;

use sterna_process::Plain;

use super::BuildLimits;
use crate::pass::InstrumentError;

/// Why a program could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The pass refused it.
    #[error(transparent)]
    Instrument(#[from] InstrumentError),
    /// It breaks a limit of the pass or the compiler.
    #[error("the program's {what} is over the limit of {limit}; run it with --immobile")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The compiler refused it.
    #[error("compiling the program failed: {}", Plain(.0))]
    Compile(String),
    /// The module is too large to be read.
    #[error(
        "the module has {bytes} bytes, the limit is {limit} ({} raises it)",
        BuildLimits::SIZE_OPTION
    )]
    ModuleSize {
        /// Its size in bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The builder needed more memory.
    #[error(
        "building the program takes more than {limit} bytes of memory, the limit ({} raises it)",
        BuildLimits::MEMORY_OPTION
    )]
    Memory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The builder needed more time.
    #[error("building the program takes more than {} s of {what}, the limit ({} raises it)", limit.as_secs_f32(), BuildLimits::TIME_OPTION)]
    Time {
        /// `CPU time` or `time`.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The result is too large.
    #[error(
        "the compiled program takes more than {limit} bytes, the limit ({} raises it)",
        BuildLimits::SIZE_OPTION
    )]
    ArtifactSize {
        /// The limit in bytes.
        limit: u64,
    },
    /// The builder ended in another way.
    #[error("the builder {how}{}", last_words(.said))]
    Crashed {
        /// How it ended.
        how: String,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// The builder is not of the same version as this process.
    #[error(
        "the builder compiles for another engine than this process runs: the program file was replaced; start again"
    )]
    OtherEngine,
    /// The builder could not be started.
    #[error("the builder could not be started")]
    Start(#[source] std::io::Error),
    /// Reading or writing what is passed to the builder and back failed.
    #[error("passing data to the builder failed ({step})")]
    Pass {
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The caller does not want it any more.
    #[error("the build was cancelled")]
    Cancelled,
}

fn last_words(said: &str) -> String {
    match said.trim() {
        "" => String::new(),
        said => format!(": {}", Plain(said)),
    }
}
