//! Loads native code that a builder made.
#![allow(
    unsafe_code,
    reason = "wasmtime cannot check that an artifact is what its compiler wrote"
)]

use std::fs::File;

use wasmtime::Module;

use crate::builder::Artifact;
use crate::engine::Engine;

/// A file that was made by a builder for this engine, and has not changed since: see
/// [`Verified`](super::verified::Verified).
pub(super) struct TrustedFile(pub(super) File);

/// Maps an artifact.
pub(super) fn load(engine: &Engine, file: TrustedFile) -> wasmtime::Result<Module> {
    // SAFETY: 1. The bytes are those that `precompile_module` returned for an engine of the same settings: the hash was
    // compared, and only this user could write the file. 2. They do not change while they are mapped: the cache never
    // writes into a file that has its name, it replaces or unlinks it.
    unsafe { Module::deserialize_open_file(engine.wasmtime(), file.0) }
}

/// Takes an artifact that a builder has just made for this engine.
pub(crate) fn take(engine: &Engine, made: &Artifact) -> wasmtime::Result<Module> {
    // SAFETY: 1. An `Artifact` is what `precompile_module` returned, here or in a builder with an engine of the same
    // settings.
    unsafe { Module::deserialize(engine.wasmtime(), made.bytes()) }
}
