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

/// `criu`, as the words before its arguments.
#[must_use]
pub fn criu(root: &Path) -> Option<Command> {
    unpacked(&folder(root).join("criu"), "usr/sbin/criu")
}

/// `qemu-system-x86_64`, as the words before its arguments.
#[must_use]
pub fn qemu(root: &Path) -> Option<Command> {
    let system = folder(root).join("qemu");
    let mut command = unpacked(&system, "usr/bin/qemu-system-x86_64")?;
    for firmware in ["qemu", "seabios"] {
        let folder = system.join("usr/share").join(firmware);
        command.arg("-L").arg(folder);
    }
    Some(command)
}

/// A Linux for its machines: the kernel, and the modules for a network interface of virtio in the order in which they are loaded.
///
/// # Errors
/// If it is not there.
pub fn linux(root: &Path) -> Result<(PathBuf, [PathBuf; 3])> {
    let versions = folder(root).join("qemu/usr/lib/modules");
    let version = std::fs::read_dir(&versions)
        .ok()
        .and_then(|mut all| all.next());
    let version = version.with_context(|| format!("no kernel in {}", versions.display()))??;
    let modules = [
        "net/core/failover",
        "drivers/net/net_failover",
        "drivers/net/virtio_net",
    ];
    let module = |name| version.path().join(format!("kernel/{name}.ko.xz"));
    Ok((version.path().join("vmlinuz"), modules.map(module)))
}

/// A program of packages that were unpacked here, with their own libraries.
fn unpacked(system: &Path, program: &str) -> Option<Command> {
    let libraries = system.join("usr/lib/x86_64-linux-gnu");
    let program = system.join(program);
    if !program.exists() {
        return None;
    }
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
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
