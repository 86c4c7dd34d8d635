//! `cargo xtask fuzz`: made-up input for whatever reads what strangers send.
//!
//! Each target in `fuzz/` is built, given samples to start from, and run for a while. libFuzzer changes inputs, and keeps those
//! that reach more code in `fuzz/corpus`, where the next run goes on. An input on which a target fails is kept in
//! `fuzz/artifacts`; how to run it again is printed.
//!
//! * `seeds`: what the targets start from
//! * `progress`: what libFuzzer says, as lines for people

mod progress;
mod seeds;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::child;
use crate::need::{CARGO_FUZZ, NIGHTLY};
use crate::test::Report;
use progress::Progress;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing
    #[arg(long)]
    install: bool,
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only these targets
    #[arg(value_name = "TARGET", value_parser = TARGETS.map(|target| target.name))]
    names: Vec<String>,
}

/// A file of `fuzz/fuzz_targets`.
struct Target {
    name: &'static str,
    /// What it shows.
    about: &'static str,
    /// Options of libFuzzer.
    options: &'static [&'static str],
    /// Whether it needs the engine, which takes long to compile.
    engine: bool,
    seeds: fn(&Path) -> Result<Vec<Vec<u8>>>,
}

const TARGETS: [Target; 5] = [
    Target {
        name: "wire",
        about: "what nodes and runners say is understood or refused",
        options: &["-max_len=4096", "-malloc_limit_mb=16"],
        engine: false,
        seeds: seeds::wire,
    },
    Target {
        name: "files",
        about: "the file server's answers do not depend on how requests arrive",
        options: &["-max_len=4096", "-dict=fuzz/http.dict"],
        engine: false,
        seeds: seeds::files,
    },
    Target {
        name: "image",
        about: "images are read or refused, within their limits",
        options: &["-max_len=65536", "-rss_limit_mb=1024"],
        engine: false,
        seeds: seeds::image,
    },
    Target {
        name: "pass",
        about: "the pass makes a valid module of any other, or refuses it",
        options: &["-max_len=32768"],
        engine: true,
        seeds: seeds::pass,
    },
    Target {
        name: "differential",
        about: "random modules, stopped at random points, against plain runs",
        options: &["-max_len=20000"],
        engine: true,
        seeds: |_| Ok(Vec::new()), // any bytes are a module
    },
];

/// Carries out `cargo xtask fuzz`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    for need in [&NIGHTLY, &CARGO_FUZZ] {
        need.ensure(root, args.install)?;
    }
    let is_chosen = |name| args.names.is_empty() || args.names.iter().any(|chosen| chosen == name);
    let mut report = Report::default();
    for target in TARGETS.iter().filter(|target| is_chosen(target.name)) {
        println!("{}: {}", target.name, target.about);
        report.of(target.name, target.run(root, args.seconds));
    }
    report.close()
}

impl Target {
    fn run(&self, root: &Path, seconds: u32) -> Result<()> {
        child::show(&mut self.cargo(root, "build"))?;
        let corpus = root.join("fuzz/corpus").join(self.name);
        let seeds = (self.seeds)(root)?;
        println!(
            "  {} samples to start from; it runs for {seconds} s",
            seeds.len()
        );
        seeds::write(&corpus, &seeds)?;
        let scratch = root.join("fuzz/target/tmp");
        fs::create_dir_all(&scratch)
            .with_context(|| format!("could not make {}", scratch.display()))?;
        let mut command = self.cargo(root, "run");
        command
            .arg("--")
            .args(self.options)
            .arg(format!("-max_total_time={seconds}"))
            .env("TMPDIR", &scratch);
        let mut progress = Progress::new();
        let status = child::follow_errors(&mut command, |line| progress.read(line));
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("could not remove {}", scratch.display()))?;
        progress.show();
        if !status?.success() {
            bail!("it failed:\n{}", progress.said());
        }
        Ok(())
    }

    fn cargo(&self, root: &Path, verb: &str) -> Command {
        let mut command = Command::new("cargo");
        command
            .current_dir(root)
            .args(["+nightly", "fuzz", verb, self.name]);
        if !self.engine {
            command.arg("--no-default-features");
        }
        command
    }
}
