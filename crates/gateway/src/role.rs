//! The roles that a process can have for a file server and for measuring one. A program that starts servers of the
//! model of processes, or compares models, calls [`run`] before anything else if its first argument is [`ROLE`]: then it
//! was started for a role.

use std::io::{BufRead, Read, Write, stdin, stdout};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use crate::files::{self, Model, Settings, Site, Stop, Workers};
use crate::load;

/// The first argument of a process that has a role; the second names it.
pub const ROLE: &str = "gateway-role";

/// The role of a process of [`Model::Processes`](files::Model::Processes).
pub(crate) const WORKER: &str = "worker";

/// The role of a server that is measured: it reads a line of [`ServerOrders`] as JSON, prints a line with its
/// [address](ServerReady), serves until its input ends, and prints a line with what it has [done](files::Served).
pub const SERVER: &str = "server";

/// The role of clients that measure: it reads a line of [`load::Orders`] as JSON, and prints a line with its
/// [report](load::Report).
pub const LOAD: &str = "load";

/// What a server is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerOrders {
    /// What is served.
    pub settings: Settings,
    /// How.
    pub model: Model,
    /// As [`Workers::count`].
    pub workers: Option<usize>,
    /// Descriptors that it may have; otherwise as many as are allowed.
    pub descriptors: Option<u64>,
}

/// A server listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerReady {
    /// Where.
    pub address: SocketAddr,
}

/// The arguments of a process that serves files.
pub fn worker() -> Vec<String> {
    vec![ROLE.to_owned(), WORKER.to_owned()]
}

/// Does what the role `name` has to do. Its orders come through standard input.
pub fn run(name: &str) -> ExitCode {
    if name != WORKER {
        // Nobody hears of what is measured once the program that compares has ended.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
    let result = match name {
        WORKER => work(),
        SERVER => serve(),
        LOAD => load(),
        other => Err(format!("there is no role {other}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{ROLE} {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes, as text.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn work() -> Result<(), String> {
    let line = std::io::stdin().as_fd().try_clone_to_owned();
    let line = line
        .map(UnixStream::from)
        .map_err(|error| error.to_string())?;
    files::worker(line).map_err(|error| chain(&error))
}

fn serve() -> Result<(), String> {
    let mut line = String::new();
    let text = |error: std::io::Error| error.to_string();
    stdin().lock().read_line(&mut line).map_err(text)?;
    let orders: ServerOrders = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    allow_descriptors(orders.descriptors);
    let stop = Stop::new().map_err(text)?;
    let site = Site::new(orders.settings, None, stop.clone()).map_err(text)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    let workers = Workers {
        count: orders.workers,
        program: Some((std::env::current_exe().map_err(text)?, worker())),
    };
    say(&ServerReady { address })?;
    std::thread::spawn(move || {
        // Whatever comes, the end comes after it.
        let _ = stdin().lock().read_to_end(&mut Vec::new());
        stop.request();
    });
    let served = files::serve(orders.model, &workers, listener, site);
    say(&served.map_err(|error| chain(&error))?)
}

fn load() -> Result<(), String> {
    let mut line = String::new();
    let read = stdin().lock().read_line(&mut line);
    read.map_err(|error| error.to_string())?;
    let orders = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    allow_descriptors(None);
    say(&load::run(&orders).map_err(|error| error.to_string())?)
}

fn say(what: &impl Serialize) -> Result<(), String> {
    let line = serde_json::to_string(what).map_err(|error| error.to_string())?;
    let mut out = stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|error| error.to_string())
}

/// Sets the limit of descriptors, or raises it as far as may be.
fn allow_descriptors(count: Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: count.or(limit.maximum),
        maximum: limit.maximum,
    };
    // If it is not allowed there are fewer, and connections beyond them are turned away.
    let _ = setrlimit(Resource::Nofile, wanted);
}
