//! `cargo xtask ci`: everything that must hold before a change lands. The build server runs this and nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{child, guests, test, tidy};

/// Options of `cargo xtask ci`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing
    #[arg(long)]
    install: bool,
    /// Also the journeys between x86 and Arm; building for Arm from nothing takes about ten minutes on two cores
    #[arg(long)]
    arm: bool,
}

/// A name and what to do.
type Step<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);

/// Carries out `cargo xtask ci`. Steps run on after a failure, so that one run shows all that is wrong.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    let steps: [Step<'_>; 5] = [
        (
            "format",
            Box::new(|| {
                child::show(
                    child::cargo()
                        .current_dir(root)
                        .args(["fmt", "--all", "--check"]),
                )
            }),
        ),
        ("tidy", Box::new(|| tidy::run(root))),
        ("guests", Box::new(|| guests::check(root, args.install))),
        (
            "clippy",
            Box::new(|| child::show(child::cargo().current_dir(root).args(clippy))),
        ),
        (
            "test",
            Box::new(|| test::run(root, &test::Args::for_ci(args.install, args.arm))),
        ),
    ];
    let start = Instant::now();
    let mut failed = Vec::new();
    for (name, step) in &steps {
        eprintln!("── {name} (at {})", clock(start.elapsed()));
        if let Err(error) = step() {
            eprintln!("{name}: {error:#}");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "failed after {}: {}",
            clock(start.elapsed()),
            failed.join(", ")
        );
    }
    Ok(())
}

fn clock(elapsed: Duration) -> String {
    format!("{}:{:02}", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}
