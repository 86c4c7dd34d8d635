//! The sterna command.
//!
//! - `command`: the commands, a module each; all of them call what follows
//! - `host`: a process in the foreground: its owner, control socket, signals, snapshots
//! - `rundir`: where the processes of this machine and user are found
//! - `client`, `protocol`: how a command speaks with a process's host
//! - `kinds`: the kinds of processes, and how their programs are made ready
//! - `local`, `key`: what an image says beside the process; who made it
//! - `node`: the node that a command talks to
//! - `service`, `manager`, `runner`: this program as the parts of a node: who has the network, who has privilege, who hosts
//!   its processes; `workshop`: what a manager does
//! - `complete`: names that a shell asks for while a user types
//! - `private`: directories of the user's own
//! - `show`: lines, JSON, tables, colours, progress; `terminal`: the one that a command is used at

mod client;
mod command;
mod complete;
mod host;
mod key;
mod kinds;
mod local;
mod manager;
mod node;
mod private;
mod protocol;
mod rundir;
mod runner;
mod service;
mod show;
mod terminal;
mod workshop;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use command::steer::{Deed, Steer};

/// Runs WebAssembly programs and moves them while they run.
#[derive(Debug, Parser)]
#[command(name = "sterna", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  sterna run script.wasm            a program in the foreground
  sterna freeze script -o s.sterna  from another terminal: into a file, in the middle of its work
  sterna thaw s.sterna              it goes on

Files: processes are found through $STERNA_RUN_DIR (else $XDG_RUNTIME_DIR/sterna, else $TMPDIR/sterna-UID, \
else /tmp/sterna-UID), the key that marks images as yours and what a node knows are in $STERNA_DATA_DIR \
(else $XDG_DATA_HOME/sterna, else ~/.local/share/sterna), compiled programs are in $STERNA_CACHE_DIR (else \
$XDG_CACHE_HOME/sterna, else ~/.cache/sterna).";

#[derive(Debug, Subcommand)]
enum Command {
    Run(command::run::Run),
    Ps(command::ps::Ps),
    Freeze(command::freeze::Freeze),
    Thaw(command::thaw::Thaw),
    /// Lets processes stand still.
    Pause(Steer),
    /// Lets paused processes run on.
    Resume(Steer),
    /// Ends processes.
    Kill(Steer),
    Move(command::moving::Move),
    Drain(command::drain::Drain),
    Balance(command::balance::Balance),
    #[command(name = "clone")]
    CloneCommand(command::snapshot::CloneCommand),
    Snapshot(command::snapshot::Snapshot),
    Recover(command::snapshot::Recover),
    Logs(command::logs::Logs),
    Wait(command::wait::Wait),
    Rm(command::rm::Rm),
    Inspect(command::inspect::Inspect),
    Programs(command::programs::Programs),
    Node(command::node::NodeCommand),
    Nodes(command::nodes::NodesCommand),
    Registry(command::registry::RegistryCommand),
    Serve(Box<command::serve::Serve>),
    Doctor(command::doctor::Doctor),
    Demo(command::demo::Demo),
    Threads(command::threads::Threads),
    Bench(command::bench::Bench),
    Attach(command::attach::Attach),
    Cp(command::cp::Cp),
    Stats(command::stats::Stats),
    Top(command::stats::Top),
    Events(command::events::Events),
    /// Prints what a shell needs to complete sterna's commands and options.
    #[command(
        after_help = "Example:\n  sterna completions bash > ~/.local/share/bash-completion/completions/sterna"
    )]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// In this variable a shell says that it asks what can follow.
const COMPLETE: &str = "STERNA_COMPLETE";

/// The code of `run` and `thaw` where no program has run: what it returned itself cannot be meant. As of env(1).
const EXIT_NOT_STARTED: u8 = 125;

/// Does what this program is to do as a part of a node or of an experiment, if it was started as one.
fn in_a_role() -> Option<ExitCode> {
    match std::env::args_os().nth(1)? {
        role if role == kinds::BUILDER => return Some(sterna_wasm::builder::run()),
        role if role == runner::RUNNER => {
            log_warnings();
            return Some(runner::run());
        }
        role if role == manager::MANAGER => {
            log_warnings();
            return Some(manager::run());
        }
        role if role == workshop::TREE => return Some(sterna_sys::trees::run_helper()),
        // What takes part in an experiment is small.
        role if role == sterna_laboratory::role::ROLE => {
            return Some(sterna_laboratory::role::run());
        }
        _ => {}
    }
    let mut words = std::env::args().skip(1);
    match (words.next()?.as_str(), words.next()) {
        (sterna_gateway::role::ROLE, Some(name)) => Some(sterna_gateway::role::run(&name)),
        _ => None,
    }
}

fn main() -> ExitCode {
    // First of all, while there is one thread: these roles confine themselves.
    if let Some(code) = in_a_role() {
        return code;
    }
    // A shell that asks what can follow has its answer by this, and the program ends.
    CompleteEnv::with_factory(Cli::command)
        .var(COMPLETE)
        .complete();
    log_warnings();
    let Cli { command } = Cli::parse();
    let foreground = matches!(command, Command::Run(_) | Command::Thaw(_));
    let code = match command {
        Command::Run(run) => run.run(),
        Command::Ps(ps) => ps.run(),
        Command::Freeze(freeze) => freeze.run(),
        Command::Thaw(thaw) => thaw.run(),
        Command::Pause(steer) => steer.run(Deed::Pause),
        Command::Resume(steer) => steer.run(Deed::Resume),
        Command::Kill(steer) => steer.run(Deed::Kill),
        Command::Move(moving) => moving.run(),
        Command::Drain(drain) => drain.run(),
        Command::Balance(balance) => balance.run(),
        Command::CloneCommand(clone) => clone.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Recover(recover) => recover.run(),
        Command::Logs(logs) => logs.run(),
        Command::Wait(wait) => wait.run(),
        Command::Rm(rm) => rm.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Programs(programs) => programs.run(),
        Command::Node(node) => node.run(),
        Command::Nodes(nodes) => nodes.run(),
        Command::Registry(registry) => registry.run(),
        Command::Serve(serve) => serve.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Demo(demo) => demo.run(),
        Command::Threads(threads) => threads.run(),
        Command::Bench(bench) => bench.run(),
        Command::Attach(attach) => attach.run(),
        Command::Cp(cp) => cp.run(),
        Command::Stats(stats) => stats.run(),
        Command::Top(top) => top.run(),
        Command::Events(events) => events.run(),
        Command::Completions { shell } => completions(shell),
    };
    match code {
        Ok(code) => code.into(),
        Err(error) => {
            show::note(format_args!("{error:#}"));
            ExitCode::from(if foreground { EXIT_NOT_STARTED } else { 1 })
        }
    }
}

/// Shows warnings of libraries on standard error.
fn log_warnings() {
    // That a packet could not be sent is told by who waits for the answer; a node without a network would say it for ever.
    let shown = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("quinn_udp", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_filter(shown);
    tracing_subscriber::registry().with(lines).init();
}

/// A script by which a shell asks this program what can follow.
fn completions(shell: Shell) -> anyhow::Result<u8> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let shell = shells.completer(&name).context("no such shell")?;
    let mut script = Vec::new();
    shell.write_registration(COMPLETE, "sterna", "sterna", "sterna", &mut script)?;
    show::print(String::from_utf8_lossy(&script));
    Ok(0)
}
