//! Building for Arm: the standard library for it, a linker, and cargo told about both.
//!
//! The standard library must be that of the compiler. rustup has it for its own compilers. Where that cannot be asked,
//! Debian's package of a current Rust has one for its own compiler, which then builds everything here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::child;
use crate::need::{self, Need, QEMU_ARM};
use crate::test::Report;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// Emulator of the processor.
pub(super) const QEMU: &str = "qemu-aarch64-static";
/// The profile in the workspace's manifest.
const PROFILE: &str = "arm";
/// Where Debian puts its compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Crates whose own tests run on Arm: those that speak with the operating system. The engine's take too long there.
const TESTED: [&str; 3] = ["sterna-sys", "sterna-process", "sterna-wasi"];
/// Names of tests that do not run on Arm: times mean nothing there, and an emulator that keeps books of every page that
/// was ever reserved fills this machine's memory over a few thousand reservations.
const NOT_TESTED: [&str; 2] = ["time_of_", "time_for_"];

/// The standard library for Arm.
const STD: Need = Need {
    name: "Rust's standard library for aarch64-unknown-linux-gnu",
    purpose: "builds sterna for Arm",
    remedy: "rustup target add aarch64-unknown-linux-gnu",
    present: |root| compiler(root).is_some(),
    install: |root| {
        let rustup = child::read(Command::new("rustup").args(["target", "add", TARGET]));
        if rustup.is_ok() && has_std(Path::new("rustc")) {
            return Ok(());
        }
        eprintln!("rustup cannot get it; trying Debian's");
        child::read(Command::new("dpkg").args(["--add-architecture", "arm64"]))?;
        need::apt(&["rustc-web", "libstd-rust-web-dev:arm64"])?;
        compiler(root)
            .map(|_| ())
            .with_context(|| format!("Debian's {DEBIAN_RUSTC} is too old for this workspace"))
    },
};

/// A linker and C library for Arm.
const CROSS_C: Need = Need {
    name: "aarch64-linux-gnu-gcc with a static C library",
    purpose: "links sterna for Arm",
    remedy: "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    present: |_| {
        let library = child::read(Command::new(LINKER).arg("-print-file-name=libc.a"));
        // A name without a folder: not found.
        library.is_ok_and(|path| path.contains('/'))
    },
    install: |_| need::apt(&["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]),
};

const NEEDS: [&Need; 3] = [&STD, &CROSS_C, &QEMU_ARM];

/// Sees to it that all is there.
pub(super) fn ensure(root: &Path, install: bool) -> Result<()> {
    if !install && let Some(missing) = missing(root) {
        bail!("{missing}\nor all at once, as root: cargo xtask arm --install");
    }
    NEEDS.iter().try_for_each(|need| need.ensure(root, install))
}

/// What is not there, and how to get it.
pub(super) fn missing(root: &Path) -> Option<String> {
    let missing = NEEDS.iter().filter(|need| !need.is_present(root));
    let lines: Vec<_> = missing
        .map(|need| {
            format!(
                "{} is missing ({}); get it with: {}",
                need.name, need.purpose, need.remedy
            )
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Builds the command for Arm.
pub(super) fn build(root: &Path) -> Result<PathBuf> {
    // The Arm side compiles for itself only.
    let options = ["--package", "sterna", "--no-default-features"];
    child::show(cargo(root, "build")?.args(options))?;
    Ok(target(root).join(TARGET).join(PROFILE).join("sterna"))
}

/// Runs the tests of some crates on Arm.
pub(super) fn test(root: &Path) -> Result<Report> {
    let mut command = cargo(root, "test")?;
    for package in TESTED {
        command.args(["--package", package]);
    }
    command
        .args(["--lib", "--tests", "--no-fail-fast", "--", "--show-output"])
        .args(NOT_TESTED.map(|name| ["--skip", name]).as_flattened());
    let mut report = Report::default();
    let mut said = Vec::new();
    let status = child::follow(&mut command, |line| {
        report.read_line(&line);
        said.push(line);
    })?;
    if !status.success() {
        println!("{}", said.join("\n"));
        if report.failed == 0 {
            bail!("{} failed: {status}", child::line(&command));
        }
    }
    Ok(report)
}

fn target(root: &Path) -> PathBuf {
    root.join("target/arm")
}

fn cargo(root: &Path, verb: &str) -> Result<Command> {
    let rustc = compiler(root).with_context(|| format!("{} is missing", STD.name))?;
    let mut command = child::cargo();
    command
        .current_dir(root)
        .args([
            verb,
            "--locked",
            "--target",
            TARGET,
            "--profile",
            PROFILE,
            "--target-dir",
        ])
        .arg(target(root))
        .env("RUSTC", rustc)
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        // The emulator has no dynamic linker and libraries for Arm to hand, and threads are safer without.
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static",
        )
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", QEMU);
    Ok(command)
}

/// A compiler that can build this workspace for Arm.
fn compiler(root: &Path) -> Option<PathBuf> {
    let usual = std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    let debian = PathBuf::from(DEBIAN_RUSTC);
    let is_current = |rustc: &PathBuf| {
        version(rustc).is_some_and(|found| wanted(root).is_some_and(|wanted| found >= wanted))
    };
    [usual, debian]
        .into_iter()
        .find(|rustc| is_current(rustc) && has_std(rustc))
}

fn has_std(rustc: &Path) -> bool {
    let folder =
        child::read(Command::new(rustc).args(["--target", TARGET, "--print", "target-libdir"]));
    let entries = folder
        .ok()
        .and_then(|folder| std::fs::read_dir(folder.trim()).ok());
    entries.into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// Major and minor version of a compiler.
fn version(rustc: &Path) -> Option<(u32, u32)> {
    let said = child::read(Command::new(rustc).arg("--version")).ok()?;
    two_numbers(said.split_whitespace().nth(1)?)
}

/// Those that the workspace asks for.
fn wanted(root: &Path) -> Option<(u32, u32)> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).ok()?;
    let manifest: toml::Table = toml::from_str(&manifest).ok()?;
    let version = manifest
        .get("workspace")?
        .get("package")?
        .get("rust-version")?;
    two_numbers(version.as_str()?)
}

fn two_numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(two_numbers("1.95.0"), Some((1, 95)));
        assert_eq!(two_numbers("1.95"), Some((1, 95)));
        assert_eq!(two_numbers("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(two_numbers("1"), None);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(wanted(root).is_some());
    }
}
