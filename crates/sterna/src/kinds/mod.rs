//! The kinds of processes that this program runs, and how their programs are made ready. See [`Ready`].
//!
//! - `wasm` and `wasm-canonical-nans`: WebAssembly, through the program cache
//! - the toy kind, for tests of this program: hidden
//!
//! - `source`: what a program's file holds

mod source;
mod wasm;

pub(crate) use wasm::{
    BUILDER, BuildOptions, building, cache, install, install_for, prepare_moves,
};

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use sterna_process::toy::Toy;
use sterna_process::{ImageFile, Kind, Program, ProgramId};
use sterna_wasm::Installed;

/// A program that can be started, and the kind that does it.
pub(crate) struct Ready {
    pub(crate) kind: Box<dyn Kind>,
    pub(crate) program: Program,
    /// What people call it: its file's name.
    pub(crate) name: String,
    pub(crate) bytes: ProgramBytes,
}

/// Where a program's bytes are had when they are to be put into an image.
#[derive(Clone)]
pub(crate) enum ProgramBytes {
    /// Here.
    Held(Arc<[u8]>),
    /// With the program as it was installed.
    Installed(Arc<Installed>),
}

impl ProgramBytes {
    pub(crate) fn read(&self) -> Result<Arc<[u8]>> {
        match self {
            Self::Held(bytes) => Ok(Arc::clone(bytes)),
            Self::Installed(installed) => installed.bytes().context(
                "could not read the program for the image (freeze it with --thin, without its program)",
            ),
        }
    }

    /// Does in the background what will make moves of the program quicker.
    pub(crate) fn prepare_moves(&self) {
        if let Self::Installed(installed) = self {
            wasm::prepare_moves(Arc::clone(installed));
        }
    }
}

/// Of which kind a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KindName {
    Wasm,
    Toy,
}

/// Makes a program's file ready.
pub(crate) fn from_file(path: &Path, kind: KindName, options: &BuildOptions) -> Result<Ready> {
    match kind {
        KindName::Wasm => wasm::from_file(path, options),
        KindName::Toy => Ok(toy(source::read(path)?.into(), source::name(path))),
    }
}

/// Makes a WebAssembly file ready to be run without being movable.
pub(crate) fn immobile(path: &Path, options: &BuildOptions) -> Result<Ready> {
    wasm::immobile(path, options)
}

/// Makes the program of an image ready: from the image, or from the cache if the image is thin.
pub(crate) fn from_image(image: &ImageFile, name: &str, options: &BuildOptions) -> Result<Ready> {
    let header = image.header();
    let bytes = || Ok(image.program()?);
    if let Some(of_kind) = options.of_kind(&header.kind) {
        ensure!(
            of_kind.canonical_nans || !options.canonical_nans,
            "the process was started without --canonical-nans, and may have other NaNs by now: leave that out"
        );
        return wasm::from_image(header.program, bytes, name, &of_kind);
    }
    match header.kind.as_str() {
        "toy" => match bytes()? {
            Some(bytes) => Ok(toy(bytes.into(), name.to_owned())),
            None => Err(not_here(header.program)),
        },
        other => bail!(
            "the image is of kind {other}, this sterna knows `wasm` and `wasm-canonical-nans`: use the version that made it"
        ),
    }
}

fn toy(bytes: Arc<[u8]>, name: String) -> Ready {
    Ready {
        kind: Box::new(Toy::new()),
        program: Program::from_bytes(Arc::clone(&bytes)),
        name,
        bytes: ProgramBytes::Held(bytes),
    }
}

/// A thin image's program is missing.
fn not_here(program: ProgramId) -> anyhow::Error {
    anyhow::anyhow!(
        "the image holds no program (it is thin), and program {} is not in the cache: \
         add it with `sterna programs add FILE`",
        program.short()
    )
}
