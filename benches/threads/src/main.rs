//! What threads cost, beside the standard library, `may`, tokio, Go and Java: `cargo xtask bench threads`.
//!
//! Every figure comes from a process of its own, which a peer's program is asked to be: `peer NAME TASK COUNT`. All
//! peers take turns, round by round, since machines are shared and noisy; figures are medians, and ratios of those.
//!
//! * `peers` the programs that are compared and their tasks; `blocking` those with stacks, `tasks` tokio
//! * `costs` making, yielding, handing over, memory; `echo` a server's processor time; `gaps` what a call that blocks
//!   does to others, fair shares, idleness
//! * `load` clients; `table` figures and their form

mod blocking;
mod costs;
mod echo;
mod gaps;
mod load;
mod peers;
mod table;
mod tasks;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use peers::Task;
use table::Table;

/// Measures threads.
#[derive(Parser)]
#[command(
    name = "sterna-threads-benches",
    bin_name = "cargo xtask bench threads"
)]
struct Cli {
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Only these peers, by their names in the tables
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    peers: Vec<String>,
    /// Rounds of each comparison
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Less work
    #[arg(long)]
    quick: bool,
    /// Prints JSON to standard output, the tables to standard error
    #[arg(long)]
    json: bool,
    /// Where the peers that are no Rust were built
    #[arg(long, default_value = "target/bench/threads", hide = true)]
    folder: PathBuf,
    #[command(subcommand)]
    peer: Option<Peer>,
}

#[derive(Subcommand)]
enum Peer {
    /// Is one of the peers, does one task and prints a figure
    #[command(hide = true)]
    Peer {
        name: String,
        #[arg(value_enum)]
        task: Task,
        count: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Create and join, yield, hand over
    Costs,
    /// Bytes of each blocked thread
    Memory,
    /// Processor time of an echo server
    Echo,
    /// The longest time that others wait while one blocks
    Gaps,
    /// Fair shares between groups
    Shares,
    /// Processor time at rest
    Idle,
}

/// What all parts are told.
#[derive(Clone)]
struct Plan {
    /// Names; all if empty.
    peers: Vec<String>,
    rounds: usize,
    quick: bool,
    folder: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.peer {
        Some(Peer::Peer { name, task, count }) => peers::be(name, *task, *count),
        None => measure(&cli),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> Result<()> {
    let plan = Plan {
        peers: cli.peers.clone(),
        rounds: cli.rounds.max(1),
        quick: cli.quick,
        folder: cli.folder.clone(),
    };
    type Measure = fn(&Plan) -> Result<Table>;
    let parts: [(Part, Measure); 6] = [
        (Part::Costs, costs::costs),
        (Part::Memory, costs::memory),
        (Part::Echo, echo::measure),
        (Part::Gaps, gaps::gaps),
        (Part::Shares, gaps::shares),
        (Part::Idle, gaps::idle),
    ];
    let mut tables = Vec::new();
    for (part, measure) in parts {
        if !cli.only.is_empty() && !cli.only.contains(&part) {
            continue;
        }
        let table = measure(&plan)?;
        if cli.json {
            eprintln!("{table}");
        } else {
            println!("{table}");
        }
        tables.push(table.to_json());
    }
    if cli.json {
        println!("{:#}", serde_json::json!({ "tables": tables }));
    }
    Ok(())
}
