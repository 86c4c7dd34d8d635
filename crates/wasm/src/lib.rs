//! The wasm kind: instrument, run, capture and resume WebAssembly.

pub mod builder;
pub mod cache;
mod code;
mod control;
mod cpu;
mod describe;
mod engine;
mod entry;
mod environment;
mod exit;
mod frames;
mod guest;
mod host;
mod immobile;
mod installed;
mod kind;
mod later;
mod machine;
mod memory;
mod outer;
mod owned;
mod pages;
pub mod pass;
mod pool;
mod portable;
mod seat;
mod stack;
mod stop;
mod wait;

pub use engine::{Engine, EngineError, EngineOptions, Processor, Target};
pub use frames::{Frame, ReadFramesError, Value};
pub use immobile::ImmobileWasm;
pub use installed::{AnticipateError, InstallError, Installed, LoopHeaders};
pub use kind::{CANONICAL_NANS, KIND, ProgramError, Programs, Uncached, WasmKind};

#[cfg(any(test, fuzzing))]
mod rig;
#[cfg(test)]
mod tests;

/// For fuzz targets.
#[cfg(fuzzing)]
pub mod fuzz {
    /// Runs all exports of a module plainly and stopped at points that `seed` chooses.
    ///
    /// # Panics
    /// They differ.
    pub fn compare(module: &[u8], seed: u64) {
        use crate::rig::{differential, engine};
        static ENGINE: std::sync::LazyLock<crate::Engine> = std::sync::LazyLock::new(engine);
        differential::compare(&ENGINE, module, seed, &mut 0);
    }
}
