//! The project's own commands, run as `cargo xtask COMMAND`.
//!
//! * `ci`: everything that must hold before a change lands, in one go
//! * `test`: all tests, with one summary, after a look at what they need
//! * `tidy`: rules of the house that no lint knows
//! * `bench`: what Sterna costs and how fast it is, beside others
//! * `arm`: takes programs to an (emulated) Arm machine and back while they run
//! * `fuzz`: made-up input for whatever reads what strangers send
//! * `guests`: builds the programs for the wasm kind and compares them with the committed ones
//!
//! Shared by them: `need`, what must be on the machine and how it gets there; `child`, running other programs.

mod arm;
mod bench;
mod child;
mod ci;
mod fuzz;
mod guests;
mod need;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format check, lints, tidy, guests and tests, as on the build server
    Ci(ci::Args),
    /// Runs all tests and closes with one summary
    Test(test::Args),
    /// Checks the rules of the house that no lint knows
    Tidy,
    /// Measures what Sterna costs and how fast it is, beside others
    Bench(bench::Args),
    /// Takes real programs from x86 to Arm and back while they run, and compares their output
    Arm(arm::Args),
    /// Runs fuzz targets for a while each
    Fuzz(fuzz::Args),
    /// Rebuilds the programs in guests/wasm, or checks that a rebuild gives the same bytes
    Guests(guests::Args),
}

fn main() -> ExitCode {
    match run(&root(), Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Ci(args) => ci::run(root, &args),
        Command::Test(args) => test::run(root, &args),
        Command::Tidy => tidy::run(root),
        Command::Bench(args) => bench::run(root, &args),
        Command::Arm(args) => arm::run(root, &args),
        Command::Fuzz(args) => fuzz::run(root, &args),
        Command::Guests(args) => guests::run(root, &args),
    }
}

/// The workspace's root, wherever the command was called from.
fn root() -> PathBuf {
    // Cargo says so when it runs us. What was compiled in may be another checkout that shares the target folder.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest)
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_path_buf()
}
