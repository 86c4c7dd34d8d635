//! What 0/0 is: a NaN, whose sign the standard leaves to the processor. x86 sets it, Arm does not.
//!
//! A program that looks at such bits therefore computes something else on another machine, and one that is moved some of
//! both; what it has computed stays as it is. With `--canonical-nans` there is one NaN everywhere.

use std::process::Stdio;

use anyhow::{Result, ensure};

use super::journey::Leg;
use super::machine::{Machine, Machines};

/// What the journey is called.
pub(super) const NAME: &str = "nans";
const ON_X86: &str = "fff8000000000000";
/// What the program prints.
const LINES: usize = 40;
/// Also the canonical one.
const ON_ARM: &str = "7ff8000000000000";

/// Compares NaNs that were computed on both machines.
pub(super) fn check(machines: &Machines) -> Result<()> {
    println!("\nNaNs: each line has a new one and the first");
    let plain = go(machines, false)?;
    let signs: Vec<_> = plain.iter().map(|(new, _)| new.as_str()).collect();
    let stayed = |nan: &str| signs.iter().filter(|sign| **sign == nan).count();
    println!(
        "  as they come:      {} times {ON_X86}, {} times {ON_ARM}",
        stayed(ON_X86),
        stayed(ON_ARM)
    );
    ensure!(
        stayed(ON_X86) > 0 && stayed(ON_ARM) > 0,
        "both machines compute the same NaN: what is said about it is wrong"
    );
    ensure!(
        stayed(ON_X86) + stayed(ON_ARM) == plain.len(),
        "there is a third NaN: {signs:?}"
    );
    ensure!(
        plain.iter().all(|(_, first)| first == ON_X86),
        "a move has changed a NaN that was there"
    );

    let canonical = go(machines, true)?;
    ensure!(
        canonical
            .iter()
            .all(|(new, first)| new == ON_ARM && first == ON_ARM),
        "NaNs differ in spite of --canonical-nans: {canonical:?}"
    );
    println!("  --canonical-nans:  {} times {ON_ARM}", canonical.len());
    Ok(())
}

/// The lines of a run that goes from x86 to Arm and back.
fn go(machines: &Machines, canonical: bool) -> Result<Vec<(String, String)>> {
    let source = machines.file("nans.wat");
    std::fs::write(&source, include_str!("nans.wat"))?;
    let options: &[&str] = if canonical {
        &["--canonical-nans"]
    } else {
        &[]
    };
    machines.compile(&source, options)?;
    let mut run = machines.sterna(Machine::X86);
    run.args(["run", "--name", NAME]).args(options).arg(&source);
    let mut output = String::new();
    let mut leg = Leg::start(Machine::X86, run, Stdio::null())?;
    for hop in 1..=2 {
        leg.read_until(LINES * hop / 3, &mut output)?;
        let image = machines.file(&format!("{NAME}-{hop}.sterna"));
        let to = leg.on().other();
        leg.freeze(NAME, machines, &image, &mut output)?;
        // It is said in the image whether its NaNs are canonical.
        leg = Leg::thaw(to, machines, &image, Stdio::null())?.0;
    }
    leg.end(&mut output, 0)?;
    ensure!(
        output.lines().count() == LINES,
        "the program printed {} lines",
        output.lines().count()
    );
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(new, first)| (new.to_owned(), first.to_owned()))
    };
    Ok(output.lines().filter_map(pair).collect())
}
