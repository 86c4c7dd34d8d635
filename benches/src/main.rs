//! What Sterna costs and how fast it is, beside what one would use otherwise: `cargo xtask bench wasm`.
//!
//! Everything is compared in one run, in turns, since machines are shared and noisy; time is CPU time where
//! it can be; figures are medians and ratios, never held against a number from another machine.
//!
//! * `programs` what is run
//! * `stock` the engine without Sterna, `movable` with it
//! * `run_time` what being movable costs; `moves` pauses, images and thaws; `looks` where a program stands;
//!   `kill`; `starts` starting programs, many
//!   small ones, idle ones; `criu` the same C program as a native process
//!
//! What processes cost that are moved between nodes is measured by the program beside this one, `sterna-benches-move`

mod criu;
mod kill;
mod looks;
mod movable;
mod moves;
mod programs;
mod run_time;
mod starts;
mod stock;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use programs::Bench;
use sterna_benches::{measure, table};
use table::{Sheet, Table};

/// Measures the wasm kind.
#[derive(Parser)]
#[command(name = "sterna-benches", bin_name = "cargo xtask bench wasm")]
struct Cli {
    /// Only these programs, such as `nbody` or `lua-fib`
    #[arg(value_name = "PROGRAM")]
    programs: Vec<String>,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Also with each option of the pass and the engine turned over
    #[arg(long)]
    options: bool,
    /// Less work and fewer rounds
    #[arg(long)]
    quick: bool,
    /// Rounds of each comparison
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Prints JSON to standard output, the tables to standard error
    #[arg(long)]
    json: bool,
    /// The workspace's root
    #[arg(long, default_value = ".", hide = true)]
    root: PathBuf,
    /// Runs one program from the cache in this process, then ends: what is timed from outside
    #[arg(long, hide = true)]
    start: Option<String>,
    /// Writes the instrumented modules of the programs into this folder, to be looked at
    #[arg(long, hide = true, value_name = "FOLDER")]
    instrument: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Run time, code size and compile time
    Run,
    /// Pause, image, thaw, and the speed afterwards
    Move,
    /// Looking where a program stands, and pausing it where its target is ready
    Look,
    /// Kill
    Kill,
    /// Start of a large program
    Start,
    /// Many small programs
    Small,
    /// CRIU on the same C program
    Criu,
}

/// What all parts are told.
struct Plan {
    root: PathBuf,
    programs: Vec<&'static Bench>,
    quick: bool,
    rounds: usize,
    options: bool,
}

impl Plan {
    fn of(cli: &Cli) -> Result<Plan> {
        let known = |name: &String| {
            programs::ALL
                .iter()
                .any(|bench| bench.name == name.as_str())
        };
        if let Some(unknown) = cli.programs.iter().find(|name| !known(name)) {
            let names: Vec<_> = programs::ALL.iter().map(|bench| bench.name).collect();
            anyhow::bail!(
                "no program is called {unknown}; there are {}",
                names.join(", ")
            );
        }
        let wanted = |bench: &&Bench| {
            cli.programs.is_empty() || cli.programs.iter().any(|p| p == bench.name)
        };
        Ok(Plan {
            root: cli.root.clone(),
            programs: programs::ALL.iter().filter(wanted).collect(),
            quick: cli.quick,
            rounds: cli.rounds.unwrap_or(if cli.quick { 3 } else { 7 }),
            options: cli.options,
        })
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let plan = Plan::of(cli)?;
    if let Some(program) = &cli.start {
        return starts::start(&plan, program);
    }
    if let Some(folder) = &cli.instrument {
        return run_time::instrument(&plan, folder);
    }
    ensure!(plan.rounds > 0, "no rounds, no figures");
    let parts = [
        (
            Part::Run,
            run_time::measure as fn(&Plan) -> Result<Vec<Table>>,
        ),
        (Part::Move, moves::measure),
        (Part::Look, looks::measure),
        (Part::Kill, kill::measure),
        (Part::Start, starts::large),
        (Part::Small, starts::small),
        (Part::Criu, criu::measure),
    ];
    let mut sheet = Sheet::new(cli.json);
    for (part, measure) in parts {
        if !cli.only.is_empty() && !cli.only.contains(&part) {
            continue;
        }
        for table in measure(&plan)? {
            sheet.add(&table);
        }
    }
    sheet.end();
    Ok(())
}
