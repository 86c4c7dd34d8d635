//! What moving processes between nodes costs, and nodes with many processes: `cargo xtask bench move`.
//!
//! Nodes are what `sterna node start` of the same build makes, each with a data directory and a program cache of its own,
//! on loopback. What a move takes is what the node's own report says, whose parts must add up.
//!
//! * `cluster` nodes and what is asked of them
//! * `clients` what clients of a server see of moves, beside the same server compiled natively (`native`) and
//!   moved by `criu` and `qemu`
//! * `moves` programs that compute, moved to and fro; their very first move
//! * `live` heaps that are written while they are copied
//! * `large` a process of 1 GiB
//! * `many` a node with many processes, and how quickly they start
//! * `drain` a node that is emptied
//! * `registry` the same moves with the registry in a file and in an etcd

mod clients;
mod cluster;
mod criu;
mod drain;
mod large;
mod live;
mod many;
mod moves;
mod native;
mod qemu;
mod registry;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use sterna_benches::table::{Sheet, Table};
use sterna_laboratory::Condition;

/// Measures moves between nodes.
#[derive(Parser)]
#[command(name = "sterna-benches-move", bin_name = "cargo xtask bench move")]
struct Cli {
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Moves of each program
    #[arg(long, value_name = "N", default_value_t = 24)]
    rounds: usize,
    /// Moves of a server beside those that are measured, in which every answer to its clients is checked
    #[arg(long, value_name = "N", default_value_t = 0)]
    checked: usize,
    /// Only five moves of each program
    #[arg(long)]
    quick: bool,
    /// Processes of a crowded node
    #[arg(long, value_name = "N", default_value_t = 1000)]
    processes: usize,
    /// Prints JSON to standard output, the tables to standard error
    #[arg(long)]
    json: bool,
    /// The workspace's root
    #[arg(long, default_value = ".", hide = true)]
    root: PathBuf,
    /// The command that is measured
    #[arg(long, default_value = "target/release/sterna", hide = true)]
    sterna: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Programs that compute
    Programs,
    /// A server whose clients write while it moves
    Clients,
    /// Their first move, with empty caches
    First,
    /// Heaps that are written while they are copied
    Live,
    /// A process of 1 GiB
    Large,
    /// A node with many processes, and starting them
    Many,
    /// A node that is emptied
    Drain,
    /// The registry in a file and in an etcd
    Registry,
}

/// What all parts are told.
struct Plan {
    root: PathBuf,
    sterna: PathBuf,
    rounds: usize,
    checked: usize,
    processes: usize,
}

/// Moves of each program if it is to be quick.
const ROUNDS_QUICK: usize = 5;

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
    ensure!(
        cli.rounds > 0 && cli.processes > 0,
        "no rounds, no figures; no processes, no crowd"
    );
    let plan = Plan {
        root: cli.root.canonicalize()?,
        sterna: cli.sterna.canonicalize()?,
        rounds: match cli.quick {
            true => ROUNDS_QUICK.min(cli.rounds),
            false => cli.rounds,
        },
        checked: cli.checked,
        processes: cli.processes,
    };
    let parts = [
        (
            Part::Programs,
            moves::programs as fn(&Plan) -> Result<Option<Table>>,
        ),
        (Part::Clients, clients::measure),
        (Part::First, moves::first),
        (Part::Live, live::measure),
        (Part::Large, large::measure),
        (Part::Many, many::measure),
        (Part::Drain, drain::measure),
        (Part::Registry, registry::measure),
    ];
    let mut sheet = Sheet::new(cli.json);
    for (part, measure) in parts {
        if !cli.only.is_empty() && !cli.only.contains(&part) {
            continue;
        }
        let Some(mut table) = measure(&plan)? else {
            continue;
        };
        let condition = Condition::now(&std::env::temp_dir())?;
        table.note.push_str(&format!(" Then: {condition}."));
        sheet.add(&table);
    }
    sheet.end();
    Ok(())
}
