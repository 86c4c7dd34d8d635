//! Programs that look at threads more closely than a run does: a model checker (loom), an interpreter (Miri), and the
//! compiler's sanitizers of addresses and threads.
//!
//! The models are built by the same compiler as all else and take seconds. The others need a nightly compiler and take
//! minutes; they run with `--full`, and say what they lack.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::Report;
use crate::child;

/// The crate that they look at.
const PACKAGE: &str = "sterna-threads";
/// Interruptions of a thread where it need not be: what a complete run allows. A quick one has its own, lower limit.
const PREEMPTIONS_FULL: &str = "3";
/// Lets tests read the clock; and says that rustix makes pointers of numbers, which it does for the kernel.
const MIRI_FLAGS: &str = "-Zmiri-disable-isolation -Zmiri-permissive-provenance";
/// Tests that Miri runs: those of what is shared between kernel threads. It cannot run assembly, so user threads are
/// left to the others.
const MIRI_TESTS: [&str; 3] = ["channels::", "differential::", "locks::"];
/// Those among them that are about user threads only.
const MIRI_SKIPPED: [&str; 2] = ["a_mutex_is_handed_over_in_order", "many_wait_and_one_sends"];

/// What the compiler adds to a program, so that it finds faults in itself.
struct Sanitizer {
    name: &'static str,
    flags: &'static str,
    options: &'static [&'static str],
    /// Tests that it cannot run.
    skipped: &'static [&'static str],
}

/// Writes and reads beside what a program has, stacks included. What it frees it keeps for a while, so that memory does
/// not stay flat.
const ADDRESS: Sanitizer = Sanitizer {
    name: "address",
    flags: "-Zsanitizer=address --cfg sanitized=\"address\"",
    options: &[],
    skipped: &["memory_stays_flat", "a_million_threads_at_once"],
};
/// Accesses that nothing puts in an order. Sees what the standard library and the C library do, so the one is built with
/// it and the other is used for all calls. As slow as it is, descriptors are closed late where a test can have none closed.
const THREAD: Sanitizer = Sanitizer {
    name: "thread",
    flags: "-Zsanitizer=thread --cfg sanitized=\"thread\" --cfg rustix_use_libc",
    options: &["-Zbuild-std"],
    skipped: &[
        "memory_stays_flat",
        "a_million_threads_at_once",
        "without_descriptors_calls_fail_and_threads_go_on",
    ],
};

/// Runs the models of threads under every schedule.
pub(super) fn models(root: &Path, full: bool) -> Result<Report> {
    println!("models of threads");
    let mut command = child::cargo();
    command.current_dir(root).env("RUSTFLAGS", "--cfg loom");
    if full {
        command.env("LOOM_MAX_PREEMPTIONS", PREEMPTIONS_FULL);
    }
    command.args(["test", "--locked", "--quiet", "--release", "--lib"]);
    command.args(["--package", PACKAGE, "--target-dir"]);
    command.arg(child::target(root).join("loom"));
    command.args(["--", "models::"]);
    run(&mut command)
}

/// Runs what a nightly compiler offers.
pub(super) fn nightly(root: &Path) -> Result<Report> {
    let mut report = Report::default();
    let has_miri = child::succeeds(Command::new("cargo").args(["+nightly", "miri", "--version"]));
    if has_miri {
        report.add(miri(root)?);
    } else {
        report.skip(
            "threads under Miri",
            "rustup component add miri rust-src --toolchain nightly",
        );
    }
    if !child::succeeds(Command::new("cargo").args(["+nightly", "--version"])) {
        report.skip(
            "threads under sanitizers",
            "rustup toolchain install nightly",
        );
        return Ok(report);
    }
    report.add(sanitized(root, &ADDRESS)?);
    if has_sources() {
        report.add(sanitized(root, &THREAD)?);
    } else {
        report.skip(
            "threads under the thread sanitizer",
            "rustup component add rust-src --toolchain nightly",
        );
    }
    Ok(report)
}

fn miri(root: &Path) -> Result<Report> {
    println!("threads under Miri");
    let mut command = Command::new("cargo");
    command.current_dir(root).env("MIRIFLAGS", MIRI_FLAGS);
    command.args(["+nightly", "miri", "test", "--locked", "--quiet"]);
    command.args(["--package", PACKAGE, "--test", "all", "--target-dir"]);
    command.arg(child::target(root).join("miri"));
    command.arg("--").args(MIRI_TESTS);
    for test in MIRI_SKIPPED {
        command.args(["--skip", test]);
    }
    run(&mut command)
}

/// Whether the standard library can be built.
fn has_sources() -> bool {
    let mut ask = Command::new("rustc");
    let answer = child::read(ask.args(["+nightly", "--print", "sysroot"]));
    answer.is_ok_and(|sysroot| {
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
        sources.is_dir()
    })
}

fn sanitized(root: &Path, sanitizer: &Sanitizer) -> Result<Report> {
    println!("threads under the {} sanitizer", sanitizer.name);
    let mut command = Command::new("cargo");
    command.current_dir(root).env("RUSTFLAGS", sanitizer.flags);
    command.args(["+nightly", "test", "--locked", "--quiet", "--no-fail-fast"]);
    command.args(sanitizer.options).arg("--target");
    command.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    command.args(["--package", PACKAGE, "--lib", "--test", "all"]);
    command.arg("--target-dir");
    command
        .arg(child::target(root).join(sanitizer.name))
        .arg("--");
    for test in sanitizer.skipped {
        command.args(["--skip", test]);
    }
    run(&mut command)
}

/// Runs a test harness and counts.
fn run(command: &mut Command) -> Result<Report> {
    let mut report = Report::default();
    let mut text = String::new();
    let status = child::follow(command, |line| {
        report.read_line(&line);
        text.push_str(&line);
        text.push('\n');
    })?;
    if !status.success() {
        eprint!("{text}");
        if report.failed == 0 {
            bail!("{} failed: {status}", child::line(command));
        }
    }
    Ok(report)
}
