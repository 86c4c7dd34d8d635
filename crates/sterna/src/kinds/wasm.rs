//! The wasm kind and its programs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use sterna_process::{Program, ProgramId};
use sterna_wasm::{Engine, EngineOptions, Uncached, WasmKind};

use super::{ProgramBytes, Ready, not_here, source};

/// How programs are compiled.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct BuildOptions {}

pub(super) fn from_file(path: &Path, options: &BuildOptions) -> Result<Ready> {
    let bytes = source::read_wasm(path)?;
    ready(bytes.into(), source::name(path), options)
}

pub(super) fn from_image(
    program: ProgramId,
    bytes: Option<Arc<[u8]>>,
    name: &str,
    options: &BuildOptions,
) -> Result<Ready> {
    ready(bytes.ok_or_else(|| not_here(program))?, name.to_owned(), options)
}

fn ready(bytes: Arc<[u8]>, name: String, _options: &BuildOptions) -> Result<Ready> {
    let engine = Engine::new(EngineOptions::default())?;
    let kind = WasmKind::new(engine.clone(), Arc::new(Uncached(engine)));
    let kind = kind.map_err(|error| anyhow!("could not set up the WebAssembly engine: {error:#}"))?;
    Ok(Ready {
        kind: Box::new(kind),
        program: Program::from_bytes(Arc::clone(&bytes)),
        name,
        bytes: ProgramBytes::Held(bytes),
    })
}
