//! The wasm kind: instrument, run, capture and resume WebAssembly.

pub mod builder;
pub mod cache;
mod control;
mod engine;
mod frames;
mod installed;
mod machine;
mod memory;
pub mod pass;

pub use engine::{Engine, EngineError, EngineOptions};
pub use frames::{Frame, ReadFramesError, Value};
pub use installed::{InstallError, Installed, LoopHeaders};

#[cfg(test)]
mod tests;
