//! The work of a builder, wherever it is done.

use std::sync::Arc;

use super::job::{Failure, Stage};
use crate::engine::Engine;
use crate::installed::Known;
use crate::pass;

/// Native code that a builder made: the bytes that `precompile_module` returned.
#[derive(Debug)]
pub(crate) struct Artifact(Vec<u8>);

impl Artifact {
    /// Takes over what a builder handed over.
    pub(super) fn handed_over(bytes: Vec<u8>) -> Artifact {
        Artifact(bytes)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A program made ready, as bytes.
#[derive(Debug)]
pub(crate) struct MadeProgram {
    pub(crate) artifact: Artifact,
    /// A [`Metadata`](crate::installed::Metadata).
    pub(crate) metadata: Vec<u8>,
    /// A [`pass::PointTable`].
    pub(crate) points: Vec<u8>,
    /// [`pass::Marks`].
    pub(crate) marks: Vec<u8>,
    /// The bytes of the initial images.
    pub(crate) data: Vec<u8>,
}

/// Instruments and compiles a program.
pub(super) fn program(
    engine: &Engine,
    bytes: Arc<[u8]>,
    options: pass::Options,
    report: &mut dyn FnMut(Stage),
) -> Result<MadeProgram, Failure> {
    report(Stage::Checking);
    let program = pass::Program::parse(bytes, options)?;
    report(Stage::Instrumenting);
    let instrumented = program.instrument()?;
    report(Stage::Compiling(instrumented.wasm.len() as u64));
    let artifact = module(engine, &instrumented.wasm)?;
    let known = Known::of(&program, instrumented);
    let encode =
        |bytes: postcard::Result<Vec<u8>>| bytes.map_err(|e| Failure::Output(e.to_string()));
    Ok(MadeProgram {
        artifact,
        metadata: encode(postcard::to_stdvec(&known.metadata))?,
        points: encode(postcard::to_stdvec(&known.points))?,
        marks: encode(postcard::to_stdvec(&known.marks))?,
        data: known.data,
    })
}

/// Compiles a module that the pass wrote.
pub(super) fn module(engine: &Engine, wasm: &[u8]) -> Result<Artifact, Failure> {
    let compiled = engine.wasmtime().precompile_module(wasm);
    compiled
        .map(Artifact)
        .map_err(|error| Failure::Compile(format!("{error:#}")))
}
