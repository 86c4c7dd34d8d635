//! Two machines with the same user: this one, and one with an Arm processor, which qemu plays.

use std::fmt;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::toolchain::{self, QEMU};
use crate::child;

/// What `sterna` says before the confinement of its compiler.
const CONFINEMENT: &str = "the compiler's confinement: ";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86,
    Arm,
}

impl Machine {
    pub(super) fn other(self) -> Machine {
        match self {
            Machine::X86 => Machine::Arm,
            Machine::Arm => Machine::X86,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Machine::X86 => "x86",
            Machine::Arm => "Arm",
        })
    }
}

/// Both, and what they share.
pub(super) struct Machines {
    native: PathBuf,
    arm: PathBuf,
    /// Kept from run to run: programs are compiled once.
    cache: PathBuf,
    /// Of this run: sockets, keys, images. Short, for sockets' names have a limit.
    scratch: Scratch,
}

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

impl Machines {
    /// Builds the command for both.
    pub(super) fn build(root: &Path) -> Result<Machines> {
        if std::env::consts::ARCH != "x86_64" {
            bail!(
                "the journeys between processors start on x86-64; this machine is {}",
                std::env::consts::ARCH
            );
        }
        child::show(child::cargo().current_dir(root).args([
            "build",
            "--locked",
            "--package",
            "sterna",
        ]))?;
        let target = child::target(root);
        let cache = root.join("target/arm/cache");
        let folder = |path: &Path| {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path);
            made.with_context(|| format!("could not make {}", path.display()))
        };
        let arm = toolchain::build(root)?;
        folder(&cache)?;
        let scratch = std::env::temp_dir().join(format!("sterna-arm-{}", std::process::id()));
        folder(&scratch)?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o700))?;
        Ok(Machines {
            native: target.join("debug/sterna"),
            arm,
            cache,
            scratch: Scratch(scratch),
        })
    }

    /// A command on a machine.
    pub(super) fn sterna(&self, on: Machine) -> Command {
        let mut command = match on {
            Machine::X86 => Command::new(&self.native),
            Machine::Arm => {
                let mut emulator = Command::new(QEMU);
                emulator.arg(&self.arm);
                emulator
            }
        };
        command
            .env("STERNA_CACHE_DIR", &self.cache)
            .env("STERNA_DATA_DIR", self.scratch.0.join("data"))
            .env("STERNA_RUN_DIR", self.scratch.0.join("run"));
        command
    }

    /// Compiles a program for both, on x86.
    pub(super) fn compile(&self, program: &Path, options: &[&str]) -> Result<()> {
        for target in [&[][..], &["--target", "aarch64"]] {
            let mut add = self.sterna(Machine::X86);
            add.args(["programs", "add"])
                .args(options)
                .args(target)
                .arg(program);
            child::read(&mut add)?;
        }
        Ok(())
    }

    /// How a machine confines the compiler that reads strangers' programs, as its sterna says it.
    pub(super) fn confinement(&self, on: Machine) -> Result<String> {
        let program = self.file("nothing.wat");
        fs::write(&program, r#"(module (func (export "_start")))"#)?;
        let mut add = self.sterna(on);
        add.env("STERNA_CACHE_DIR", self.file(&format!("cache-{on}")))
            .args(["programs", "add"])
            .arg(&program);
        let output = add
            .output()
            .with_context(|| format!("could not start {}", child::line(&add)))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "on {on}: {}", said.trim_end());
        // Nothing is said if it is as it should be.
        let how = said.lines().find_map(|line| line.split_once(CONFINEMENT));
        Ok(how.map_or("full", |(_, how)| how).to_owned())
    }

    /// Whether the kernel starts Arm programs itself: on such a machine, or with an emulator set up for them.
    pub(super) fn starts_arm(&self) -> bool {
        child::succeeds(Command::new(&self.arm).arg("--version"))
    }

    /// A file of this run.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }
}
