//! `cargo xtask arm`: programs go from x86 to Arm and back in the middle of their work.
//!
//! Builds the static Arm binary, which qemu runs as if this were an Arm machine. What the builds of both processors
//! share is what two machines of one user would: images, the key that makes them the user's own, and the program
//! cache, into which the x86 side compiles for Arm.
//!
//! * `toolchain`: what it takes to build for Arm, and the builds
//! * `machine`: commands on the one and on the other
//! * `journey`: a program on its way, and the table of its hops
//! * `nans`: the one thing that two processors compute differently

mod journey;
mod machine;
mod nans;
mod toolchain;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::guests;
use crate::test::Report;
use machine::{Machine, Machines};

/// What the check of it is called.
const CONFINEMENT: &str = "confinement";

/// Options of `cargo xtask arm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing
    #[arg(long)]
    install: bool,
    /// Only the journeys: without the crates' own tests on Arm
    #[arg(long)]
    quick: bool,
    /// Only journeys whose name contains one of these; without the crates' own tests
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Carries out `cargo xtask arm`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    toolchain::ensure(root, args.install)?;
    if args.install {
        guests::download(root)?;
    }
    let mut report = journeys(root, &args.names)?;
    if !args.quick && args.names.is_empty() {
        report.add(toolchain::test(root)?);
    }
    report.close()
}

/// What of this `cargo xtask test` does: the journeys, or the reason why there are none.
pub(crate) fn for_tests(root: &Path, install: bool) -> Report {
    let mut report = Report::default();
    match toolchain::ensure(root, install) {
        Err(error) => report.skip("arm", &format!("{error:#}")),
        Ok(()) => match journeys(root, &[]) {
            Ok(journeys) => report = journeys,
            Err(error) => report.of("arm", Err(error)),
        },
    }
    report
}

fn journeys(root: &Path, names: &[String]) -> Result<Report> {
    let all = journey::all(root);
    let is_chosen = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    let known: Vec<_> = all
        .iter()
        .map(|journey| journey.name)
        .chain([nans::NAME, CONFINEMENT])
        .collect();
    if !known.iter().any(|name| is_chosen(name)) {
        bail!("no journey is called so; there are {}", known.join(", "));
    }
    let began = Instant::now();
    let machines = Machines::build(root)?;
    println!("both builds of sterna are ready after {}", clock(began));
    let mut report = Report::default();
    for journey in all.iter().filter(|journey| is_chosen(journey.name)) {
        let name = format!("arm {}", journey.name);
        match journey.missing() {
            Some(reason) => report.skip(&name, &reason),
            None => report.of(&name, journey.go(&machines)),
        }
    }
    if is_chosen(nans::NAME) {
        report.of("arm nans", nans::check(&machines));
    }
    if is_chosen(CONFINEMENT) {
        report.of("arm confinement", confinement(&machines));
    }
    println!("Arm: done after {}", clock(began));
    Ok(report)
}

/// An emulated machine cannot start another program for its processor, so nothing confines the compiler there. That must
/// not be passed over in silence.
fn confinement(machines: &Machines) -> Result<()> {
    let (x86, arm) = (
        machines.confinement(Machine::X86)?,
        machines.confinement(Machine::Arm)?,
    );
    println!("\nconfinement of the compiler\n  x86: {x86}\n  Arm: {arm}");
    ensure!(
        arm.starts_with("none") || machines.starts_arm(),
        "it says so, but no confined process can be started there"
    );
    Ok(())
}

fn clock(began: Instant) -> String {
    let seconds = began.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
