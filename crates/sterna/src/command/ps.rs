//! `sterna ps`: the processes of this machine and user, and those of the cluster if a node runs here.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sterna_migration::Life;
use sterna_node::message::{
    Belongings, Brief, HostingReply, HostingRequest, Listed, Listen, Nodes,
};
use sterna_process::{Plain, ProcessId, ProgramId, Tag};

use super::snapshot::age_ms;
use crate::client::{self, PATIENCE_IN_LISTS};
use crate::node::{self, Which};
use crate::protocol::{Reply, Request, Status};
use crate::rundir::{self, Record, RunDirectory};
use crate::show::{self, Align, Paint, Table};

/// Lists the processes that run on this machine, and, if a node runs here, on all nodes of its cluster.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Ps {
    /// Also those on nodes that have ended; they are remembered for a day.
    #[arg(short, long)]
    all: bool,
    /// Only what the node that is asked has itself, as its runner says: without names, and also while the cluster's registry
    /// does not answer.
    #[arg(long, conflicts_with = "all")]
    here: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna ps
  sterna ps -a
  sterna ps --here --node /var/lib/sterna
  sterna ps --json | jq '.[].id'

Other commands take a process by the beginning of its id, by its name, or by the pid of its `sterna run`.";

/// Processes asked at once.
const ASKED_AT_ONCE: usize = 16;

/// A process.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) id: ProcessId,
    pub(crate) name: String,
    /// Of its `sterna run`; null on nodes.
    pub(crate) pid: Option<u32>,
    /// The node that it is on, or was on last; null without one.
    pub(crate) node: Option<String>,
    pub(crate) kind: Tag,
    pub(crate) program: ProgramId,
    pub(crate) file: String,
    /// `running`, `waiting`, `paused`, what is being done with it, `stopped` or `not responding`; `unknown` if its node
    /// does not answer; how it ended.
    pub(crate) state: String,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_bytes_peak: Option<u64>,
    /// When it was first started, in milliseconds since 1970.
    pub(crate) started_ms: Option<u64>,
    /// How old its last snapshot on a node is.
    pub(crate) snapshot_age_ms: Option<u64>,
    /// Why there is no newer one.
    pub(crate) snapshot_trouble: Option<String>,
    /// Since when it runs under its `sterna run`; null on nodes.
    pub(crate) hosted_ms: Option<u64>,
    pub(crate) age_ms: u64,
    /// Bytes of output until now; null without a node, and if that does not answer.
    pub(crate) output_bytes: Option<u64>,
    /// Where its clients connect; none once it has ended.
    pub(crate) ports: Vec<PortRow>,
}

/// A port of a process.
#[derive(Serialize)]
pub(crate) struct PortRow {
    pub(crate) name: String,
    /// Whose port it is.
    pub(crate) node: String,
    pub(crate) address: SocketAddr,
}

impl PortRow {
    /// Those of a process of the cluster.
    pub(crate) fn all(belongings: &[u8], nodes: &Nodes) -> Vec<Self> {
        let listens = Belongings::decode(belongings).unwrap_or_default().listens;
        let row = |listen: Listen| Self {
            name: listen.name,
            node: node::name_of(nodes, listen.ingress),
            address: listen.address,
        };
        listens.into_iter().map(row).collect()
    }
}

impl Ps {
    pub(crate) fn run(self) -> Result<u8> {
        if self.here {
            return self.print_here();
        }
        let rows = all(&self.which, self.all)?;
        if self.json {
            show::json(&rows)?;
        } else if rows.is_empty() {
            show::note("nothing runs here; start something with `sterna run FILE.wasm`");
        } else {
            show::print(table(&rows).shown(Paint::stdout()));
        }
        Ok(0)
    }

    fn print_here(self) -> Result<u8> {
        let Some(HostingReply::Held(held)) = self.which.hosting(HostingRequest::Held)? else {
            return Err(node::unexpected());
        };
        let rows: Vec<Here> = held.into_iter().map(Here::of).collect();
        if self.json {
            show::json(&rows)?;
        } else if rows.is_empty() {
            show::note("this node has no processes");
        } else {
            show::print(table_here(&rows).shown(Paint::stdout()));
        }
        Ok(0)
    }
}

/// A process, as the node says that has it.
#[derive(Serialize)]
struct Here {
    id: ProcessId,
    state: String,
    cpu_ms: u64,
    memory_bytes: u64,
    output_bytes: u64,
}

impl Here {
    fn of(brief: Brief) -> Self {
        Self {
            id: brief.process,
            state: brief.doing.unwrap_or_else(|| brief.stats.state.to_string()),
            cpu_ms: ms(brief.stats.cpu_time),
            memory_bytes: brief.stats.memory_bytes,
            output_bytes: brief.output_bytes,
        }
    }
}

/// All processes of this machine and user, and of the cluster if a node runs here; `ended`: those on nodes that have, too.
pub(crate) fn all(which: &Which, ended: bool) -> Result<Vec<Row>> {
    let (directory, live) = rundir::look()?;
    let mut rows = rows(&directory, live);
    if ended || which.is_there() {
        rows.extend(on_nodes(which, ended)?);
    }
    Ok(rows)
}

/// Those of the cluster.
fn on_nodes(which: &Which, ended: bool) -> Result<Vec<Row>> {
    let listed = which.listed(ended)?;
    let nodes = which.nodes()?;
    let mut rows: Vec<Row> = listed
        .into_iter()
        .filter_map(|listed| row_on_node(listed, &nodes))
        .collect();
    rows.sort_by_key(|row| row.started_ms);
    Ok(rows)
}

fn row_on_node(listed: Listed, nodes: &Nodes) -> Option<Row> {
    let Listed {
        entry,
        brief,
        keeping,
    } = listed;
    let record = entry.record().ok()?;
    let alive = record.life == Life::Alive;
    let stats = brief.as_ref().map(|brief| &brief.stats);
    let state = match (alive, &brief) {
        (false, _) => show::ending(entry.ending.as_ref()),
        (true, Some(brief)) => {
            let doing = brief.doing.clone();
            doing.unwrap_or_else(|| brief.stats.state.to_string())
        }
        (true, None) => "unknown".to_owned(),
    };
    let until_ms = match &entry.ending {
        Some(ending) if !alive => ending.at_ms,
        _ => show::since_epoch_ms(SystemTime::now()),
    };
    Some(Row {
        id: entry.process,
        name: entry.name.unwrap_or_default(),
        pid: None,
        node: Some(node::name_of(nodes, record.owner)),
        kind: entry.info.kind,
        program: entry.info.program,
        file: entry.info.file,
        state,
        cpu_ms: stats.map(|stats| ms(stats.cpu_time)),
        memory_bytes: stats.map(|stats| stats.memory_bytes),
        memory_bytes_peak: stats.map(|stats| stats.memory_bytes_peak),
        started_ms: Some(entry.info.started_ms),
        snapshot_age_ms: keeping
            .as_ref()
            .and_then(|keeping| Some(age_ms(keeping.last?.at_ms))),
        snapshot_trouble: keeping.and_then(|keeping| keeping.trouble),
        ports: match alive {
            true => PortRow::all(&entry.info.extra, nodes),
            false => Vec::new(),
        },
        hosted_ms: None,
        age_ms: until_ms.saturating_sub(entry.info.started_ms),
        output_bytes: brief.map(|brief| brief.output_bytes),
    })
}

/// A span of time, in whole milliseconds.
pub(super) fn ms(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Asks all, some at a time, so that one that does not answer does not hold up the others.
fn rows(directory: &RunDirectory, live: Vec<Record>) -> Vec<Row> {
    let mut rows = Vec::new();
    for some in live.chunks(ASKED_AT_ONCE) {
        let asked: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = some
                .iter()
                .map(|record| scope.spawn(move || status(directory, record)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().ok().flatten())
                .collect()
        });
        rows.extend(
            some.iter()
                .zip(asked)
                .filter_map(|(record, status)| row(record, status?)),
        );
    }
    rows
}

/// What a process's host says: the status, or why there is none; `None` if the process has ended.
fn status(directory: &RunDirectory, record: &Record) -> Option<Result<Status, &'static str>> {
    let request = Request::Status;
    match client::ask_within(
        directory,
        record,
        &request,
        PATIENCE_IN_LISTS,
        &mut |_, _| {},
    ) {
        Ok(Reply::Status(status)) => Some(Ok(status)),
        Err(error) if client::has_ended(&error) => None,
        _ if client::is_stopped(record.pid) => Some(Err("stopped")),
        _ => Some(Err("not responding")),
    }
}

fn row(record: &Record, status: Result<Status, &'static str>) -> Option<Row> {
    let stats = status.as_ref().ok().map(|status| &status.stats);
    if stats.is_some_and(|stats| stats.state == sterna_process::State::Ended) {
        return None;
    }
    let age = stats.map_or(record.hosted_for(), |stats| {
        SystemTime::now()
            .duration_since(stats.started)
            .unwrap_or_default()
    });
    Some(Row {
        id: record.id,
        name: record.name.clone(),
        pid: Some(record.pid),
        node: None,
        kind: record.kind.clone(),
        program: record.program,
        file: record.file.clone(),
        state: match &status {
            Ok(Status {
                doing: Some(doing), ..
            }) => doing.clone(),
            Ok(status) => status.stats.state.to_string(),
            Err(why) => (*why).to_owned(),
        },
        cpu_ms: stats.map(|stats| ms(stats.cpu_time)),
        memory_bytes: stats.map(|stats| stats.memory_bytes),
        memory_bytes_peak: stats.map(|stats| stats.memory_bytes_peak),
        started_ms: stats.map(|stats| show::since_epoch_ms(stats.started)),
        snapshot_age_ms: None,
        snapshot_trouble: None,
        hosted_ms: Some(record.hosted_ms),
        age_ms: ms(age),
        output_bytes: None,
        ports: Vec::new(),
    })
}

/// How old the last snapshot is; with a mark if there should be a newer one.
fn snapshot(row: &Row) -> String {
    let age = row
        .snapshot_age_ms
        .map_or_else(|| "-".to_owned(), |ms| show::age(Duration::from_millis(ms)));
    match row.snapshot_trouble {
        Some(_) => format!("{age} (failing)"),
        None => age,
    }
}

fn table_here(rows: &[Here]) -> Table<5> {
    let mut table = Table::new([
        ("ID", Align::Left),
        ("STATE", Align::Left),
        ("CPU", Align::Right),
        ("MEMORY", Align::Right),
        ("OUTPUT", Align::Right),
    ]);
    for row in rows {
        table.row([
            row.id.short(),
            Plain(&row.state).to_string(),
            show::time(Duration::from_millis(row.cpu_ms)),
            show::bytes(row.memory_bytes),
            show::bytes(row.output_bytes),
        ]);
    }
    table
}

/// Where its clients connect: nodes and ports.
fn ports(row: &Row) -> String {
    let ports = row.ports.iter();
    let shown: Vec<String> = ports
        .map(|port| format!("{}:{}", Plain(&port.node), port.address.port()))
        .collect();
    match shown.is_empty() {
        true => "-".to_owned(),
        false => shown.join(","),
    }
}

fn table(rows: &[Row]) -> Table<11> {
    let mut table = Table::new([
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("NODE", Align::Left),
        ("PROGRAM", Align::Left),
        ("STATE", Align::Left),
        ("CPU", Align::Right),
        ("MEMORY", Align::Right),
        ("AGE", Align::Right),
        ("SNAPSHOT", Align::Right),
        ("PORTS", Align::Left),
        ("PID", Align::Right),
    ]);
    let unknown = || "-".to_owned();
    for row in rows {
        table.row([
            row.id.short(),
            Plain(&row.name).to_string(),
            row.node.clone().unwrap_or_else(unknown),
            row.program.short(),
            Plain(&row.state).to_string(),
            row.cpu_ms
                .map_or_else(unknown, |ms| show::time(Duration::from_millis(ms))),
            row.memory_bytes.map_or_else(unknown, show::bytes),
            show::age(Duration::from_millis(row.age_ms)),
            snapshot(row),
            ports(row),
            row.pid.map_or_else(unknown, |pid| pid.to_string()),
        ]);
    }
    table
}
