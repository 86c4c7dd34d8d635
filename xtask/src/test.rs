//! `cargo xtask test`: all tests, after a look at what they need, with one summary at the end.
//!
//! A test that cannot run on this machine prints a line `SKIPPED: why` and returns. The summary counts it as skipped, not as passed, and
//! shows the reason. With `--full` the variable [`FULL`] is set for tests that have a quick and a complete form.
//!
//! * `report`: reading the runners' results
//! * `checkers`: threads under a model checker, an interpreter and a sanitizer

mod checkers;
mod report;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::need::{AZURE, ETCD, FAKETIME, NETWORKS, NEXTEST, Need, PYTHON, S3};
use crate::{arm, child, guests};
pub(crate) use report::Report;

/// Set to `1` for tests by `--full`.
const FULL: &str = "STERNA_TEST_FULL";

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing
    #[arg(long)]
    install: bool,
    /// Tests that have a quick and a complete form run the complete one; takes long
    #[arg(long)]
    full: bool,
    /// Also the journeys between x86 and Arm, as with --full; see `cargo xtask arm`
    #[arg(long)]
    arm: bool,
    /// Only tests whose name contains one of these; without documentation tests
    #[arg(value_name = "NAME")]
    filters: Vec<String>,
}

impl Args {
    pub(crate) fn for_ci(install: bool, arm: bool) -> Args {
        Args {
            install,
            full: false,
            arm,
            filters: Vec::new(),
        }
    }
}

/// Carries out `cargo xtask test`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    prepare(root, args)?;
    let mut report = Report::default();
    if args.filters.is_empty() {
        report.add(documentation(root)?);
    }
    report.add(if NEXTEST.is_present(root) {
        nextest(root, args)?
    } else {
        cargo_test(root, args)?
    });
    if args.filters.is_empty() {
        report.add(checkers::models(root, args.full)?);
        if args.full {
            report.add(checkers::nightly(root)?);
        }
    }
    if args.filters.is_empty() && (args.arm || args.full) {
        report.add(arm::for_tests(root, args.install));
    }
    report.close()
}

/// Installs what the tests need, or says what is missing. Tests run without it: those that need it skip themselves.
fn prepare(root: &Path, args: &Args) -> Result<()> {
    let needs: [&Need; 7] = [&PYTHON, &NEXTEST, &ETCD, &S3, &AZURE, &NETWORKS, &FAKETIME];
    for need in needs {
        if args.install {
            need.ensure(root, true)?;
        } else if !need.is_present(root) {
            println!(
                "missing: {} ({}); get it with: {}",
                need.name, need.purpose, need.remedy
            );
        }
    }
    if args.install {
        guests::download(root)?;
    } else if !guests::is_downloaded(root) {
        println!(
            "missing: CPython for WASI (the largest real program that is moved); get it with: cargo xtask guests --download"
        );
    }
    Ok(())
}

fn documentation(root: &Path) -> Result<Report> {
    println!("documentation tests");
    let mut command = child::cargo();
    command
        .current_dir(root)
        .args(["test", "--doc", "--workspace", "--locked"]);
    // Progress goes straight to the screen; results are kept, and shown only if a test fails.
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.with_context(|| format!("could not start {}", child::line(&command)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut report = Report::default();
    text.lines().for_each(|line| report.read_line(line));
    if !output.status.success() {
        eprint!("{text}");
        if report.failed == 0 {
            bail!("{} failed: {}", child::line(&command), output.status);
        }
    }
    Ok(report)
}

fn nextest(root: &Path, args: &Args) -> Result<Report> {
    let target = child::target(root);
    let results = target.join("nextest/default/junit.xml");
    match std::fs::remove_file(&results) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("could not remove {}", results.display()));
        }
    }
    let mut command = child::cargo();
    command
        .current_dir(root)
        .args(["nextest", "run", "--workspace", "--locked", "--cargo-quiet"])
        .args(&args.filters);
    set_full(&mut command, args.full);
    let status = command
        .status()
        .with_context(|| format!("could not start {}", child::line(&command)))?;
    let xml = std::fs::read_to_string(&results).with_context(|| {
        format!(
            "{} ended ({status}) before any test ran",
            child::line(&command)
        )
    })?;
    let report = Report::of_junit(&xml)?;
    if !status.success() && report.failed == 0 {
        bail!("{} failed: {status}", child::line(&command));
    }
    Ok(report)
}

fn cargo_test(root: &Path, args: &Args) -> Result<Report> {
    let mut command = child::cargo();
    command.current_dir(root).args([
        "test",
        "--workspace",
        "--locked",
        "--lib",
        "--bins",
        "--tests",
        "--no-fail-fast",
    ]);
    command.args(["--", "--show-output"]).args(&args.filters);
    set_full(&mut command, args.full);
    let mut report = Report::default();
    let status = child::follow(&mut command, |line| {
        println!("{line}");
        report.read_line(&line);
    })?;
    if !status.success() && report.failed == 0 {
        bail!("{} failed: {status}", child::line(&command));
    }
    Ok(report)
}

fn set_full(command: &mut Command, full: bool) {
    if full {
        command.env(FULL, "1");
    } else {
        command.env_remove(FULL);
    }
}
