//! Other programs to compare with, as `cargo xtask bench --install` puts them into `target/bench`. A part whose
//! peer is missing says so and is left out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sterna_process::ProgramId;

/// Where they lie.
fn folder(root: &Path) -> PathBuf {
    root.join("target/bench")
}

/// Runs a program that has nothing to say unless it fails.
///
/// # Errors
/// If it cannot be started, or fails.
pub fn quietly(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} failed: {}\n{said}{complaint}",
        output.status
    );
    Ok(said)
}

/// `wasmtime`, the command.
#[must_use]
pub fn wasmtime(root: &Path) -> Option<PathBuf> {
    let path = folder(root).join("wasmtime");
    path.exists().then_some(path)
}

/// `criu`, as the words before its arguments: it brings its own libraries.
#[must_use]
pub fn criu(root: &Path) -> Option<Command> {
    let system = folder(root).join("criu");
    let libraries = system.join("usr/lib/x86_64-linux-gnu");
    let loader = libraries.join("ld-linux-x86-64.so.2");
    let program = system.join("usr/sbin/criu");
    if !program.exists() {
        return None;
    }
    let mut command = Command::new(loader);
    command.arg("--library-path").arg(libraries).arg(program);
    Some(command)
}

/// `bytes` instrumented by Binaryen so that it could be unwound at its calls; kept, since that takes long.
///
/// # Errors
/// If Binaryen fails or the disk does.
pub fn asyncify(root: &Path, bytes: &Arc<[u8]>) -> Result<Option<Arc<[u8]>>> {
    let binaryen = folder(root).join("node_modules/binaryen");
    if !binaryen.exists() {
        return Ok(None);
    }
    let name = ProgramId::of(bytes).short().to_string();
    let made = folder(root).join(format!("{name}.asyncify.wasm"));
    if !made.exists() {
        let original = folder(root).join(format!("{name}.wasm"));
        let unfinished = made.with_extension("part");
        std::fs::write(&original, bytes)?;
        let mut optimiser = Command::new("node");
        optimiser
            .arg("--stack-size=60000")
            .arg(binaryen.join("bin/wasm-opt"))
            .args([
                "--all-features",
                "--disable-compact-imports",
                "-O2",
                "--asyncify",
            ]);
        quietly(optimiser.arg(&original).arg("-o").arg(&unfinished))?;
        std::fs::rename(&unfinished, &made)?;
        std::fs::remove_file(&original)?;
    }
    Ok(Some(std::fs::read(&made)?.into()))
}
