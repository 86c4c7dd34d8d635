//! The wasm kind: instrument, run, capture and resume WebAssembly.

pub mod builder;
pub mod cache;
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
mod machine;
mod memory;
mod pages;
pub mod pass;
mod pool;
mod portable;
mod seat;
mod stop;
mod wait;

pub use engine::{Engine, EngineError, EngineOptions, Processor, Target};
pub use frames::{Frame, ReadFramesError, Value};
pub use immobile::ImmobileWasm;
pub use installed::{InstallError, Installed, LoopHeaders};
pub use kind::{KIND, ProgramError, Programs, Uncached, WasmKind};

#[cfg(test)]
mod tests;
