//! `sterna drain`: a node is emptied before its machine goes. The node does it; this command watches.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use sterna_migration::NodeId;
use sterna_node::identity;
use sterna_node::message::{
    DrainEntry, DrainFate, DrainNews, DrainOrder, DrainPort, DrainStage, HostingReply,
    HostingRequest, Nodes, PortFate, RegistryFate,
};
use sterna_process::{Plain, ProcessId};

use crate::complete;
use crate::host::Signals;
use crate::node::{self, Which};
use crate::show::{self, Align, Paint, Table};

/// Moves all processes off a node whose machine is about to go, and the cluster's registry if it is there.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Drain {
    /// The node: its name, or the beginning of its id.
    #[arg(value_name = "NODE", add = complete::nodes())]
    wanted: String,
    /// How much time there is. Then no move is begun any more, and those that still can be are given up.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_within)]
    within: Duration,
    /// Where processes may go, one or several nodes separated by commas [default: all others].
    #[arg(long, value_name = "NODE", value_delimiter = ',', add = complete::nodes())]
    to: Vec<String>,
    /// Only say where each process could go, and which clients are in the way.
    #[arg(long)]
    dry_run: bool,
    /// Also if clients are connected at its ports (`run --listen`): they are cut off when these move to the nodes that have
    /// the servers.
    #[arg(long)]
    cut: bool,
    /// Give it up, or let a node that was drained take processes again.
    #[arg(long, conflicts_with_all = ["within", "to", "dry_run", "cut"])]
    cancel: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna drain lab-1 --within 30s
  sterna drain lab-1 --to lab-2,lab-3 --dry-run
  sterna drain --cancel lab-1

Processes without a snapshot go first, then those with snapshots; in both, those first that have used most \
processor time since their last snapshot for each byte of memory. Each goes to the least crowded node that \
exports what it needs and has room; four are under way at once. Then ports at which clients reach processes \
of other nodes are opened there, under the same number if it is free, and closed here. The registry goes \
last. From now on the node takes no processes, and stays so when all have left, until it is started again or \
this is cancelled; if something stays, it takes processes again.

The node does this by itself: Ctrl-C ends the watching only. `sterna node start --on-signal drain` does the same on SIGTERM.

Exit code: 0 if all have left, or could; 1 otherwise.";

#[derive(Serialize)]
struct Told<'a> {
    node: &'a str,
    node_id: String,
    /// `planned`, `draining`, `drained`, `incomplete` or `cancelled`.
    stage: &'static str,
    processes: Vec<Row<'a>>,
    registry: Registry<'a>,
    ports: Vec<Port<'a>>,
}

/// A port whose process is elsewhere.
#[derive(Serialize)]
struct Port<'a> {
    id: ProcessId,
    name: &'a str,
    /// Where it was.
    address: SocketAddr,
    /// `moved` or `stayed`.
    fate: &'static str,
    to: Option<String>,
    /// Where it is.
    address_now: Option<SocketAddr>,
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: ProcessId,
    name: &'a str,
    memory_bytes: u64,
    /// `waiting`, `moving`, `moved`, `stayed` or `gone`; of a plan, those that could go are `moving`.
    fate: &'static str,
    to: Option<String>,
    downtime_us: Option<u64>,
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct Registry<'a> {
    /// `elsewhere`, `waiting`, `moved` or `stayed`.
    fate: &'static str,
    to: Option<String>,
    why: Option<&'a str>,
}

impl Drain {
    pub(crate) fn run(self) -> Result<u8> {
        let nodes = self.which.nodes()?;
        let id = node::member(&nodes, &self.wanted)?;
        let order = match self.cancel {
            true => DrainOrder::Cancel,
            false => DrainOrder::Begin {
                within_ms: self.within.as_millis().try_into()?,
                to: self
                    .to
                    .iter()
                    .map(|wanted| node::member(&nodes, wanted))
                    .collect::<Result<_>>()?,
                dry_run: self.dry_run,
                cut: self.cut,
            },
        };
        let viewer = Viewer {
            which: &self.which,
            id,
            name: node::name_of(&nodes, id),
            names: self.names()?,
            nodes,
        };
        let mut news = viewer.ask(order)?;
        if news.stage == DrainStage::Draining {
            viewer.note_signals()?;
            news = viewer.attend(news, !self.json && std::io::stderr().is_terminal())?;
        }
        match self.json {
            true => show::json(&viewer.told(&news))?,
            false => viewer.print(&news),
        }
        Ok(match news.stage {
            DrainStage::Drained => 0,
            DrainStage::Planned if news.ports.is_empty() && !news.processes.iter().any(stays) => 0,
            DrainStage::Cancelled if self.cancel => 0,
            _ => 1,
        })
    }

    /// What processes are called.
    fn names(&self) -> Result<HashMap<ProcessId, String>> {
        let listed = self.which.listed(false)?;
        let named = listed.into_iter().map(|one| one.entry);
        let named = named.filter_map(|entry| Some((entry.process, entry.name?)));
        Ok(named.collect())
    }
}

/// Shows how a node gets on.
struct Viewer<'a> {
    which: &'a Which,
    id: NodeId,
    name: String,
    names: HashMap<ProcessId, String>,
    nodes: Nodes,
}

impl Viewer<'_> {
    fn ask(&self, order: DrainOrder) -> Result<DrainNews> {
        let node = self.id;
        let asked = self.which.hosting(HostingRequest::Drain { node, order });
        match asked.with_context(|| format!("node {}", self.name))? {
            Some(HostingReply::Drain(news)) => Ok(*news),
            _ => Err(node::unexpected()),
        }
    }

    fn note_signals(&self) -> Result<()> {
        let name = self.name.clone();
        Signals::catch()?.each(move |signal| {
            show::note(format_args!(
                "node {name} goes on with this; to give it up: sterna drain --cancel {name}"
            ));
            std::process::exit(128 + signal);
        })
    }

    /// Watches until it is over; with a line for each step of a process, if wanted.
    fn attend(&self, mut news: DrainNews, with_lines: bool) -> Result<DrainNews> {
        let mut shown = HashMap::new();
        while news.stage == DrainStage::Draining {
            let after = news.number;
            news = self.ask(DrainOrder::News { after })?;
            if with_lines {
                self.note_changes(&news, &mut shown);
            }
        }
        if news.stage == DrainStage::Open {
            bail!(
                "node {} was started again meanwhile, and takes processes: see `sterna ps` for what is still there",
                self.name
            );
        }
        Ok(news)
    }

    fn note_changes(&self, news: &DrainNews, shown: &mut HashMap<ProcessId, DrainFate>) {
        for entry in &news.processes {
            let before = shown.insert(entry.process, entry.fate.clone());
            if entry.fate != DrainFate::Waiting && before.as_ref() != Some(&entry.fate) {
                let (name, outcome) = (Plain(self.called(entry.process)), self.outcome(entry));
                show::note(format_args!("{} {name} {outcome}", entry.process.short()));
            }
        }
    }

    fn called(&self, process: ProcessId) -> &str {
        self.names.get(&process).map_or("", String::as_str)
    }

    fn node(&self, id: NodeId) -> String {
        node::name_of(&self.nodes, id)
    }

    fn outcome(&self, entry: &DrainEntry) -> String {
        match &entry.fate {
            DrainFate::Waiting => "waits for its turn".to_owned(),
            DrainFate::Moving { to } => format!("goes to {}", self.node(*to)),
            DrainFate::Moved { to, downtime_us } => {
                let stood = downtime_us.map_or_else(String::new, |us| {
                    format!(", stood still for {}", show::time_us(us))
                });
                format!("moved to {}{stood}", self.node(*to))
            }
            DrainFate::Stayed { why } => format!("stays: {}", Plain(why)),
            DrainFate::Gone => "ended, or left by other means".to_owned(),
        }
    }

    fn print(&self, news: &DrainNews) {
        let mut table = Table::new([
            ("ID", Align::Left),
            ("NAME", Align::Left),
            ("MEMORY", Align::Right),
            ("OUTCOME", Align::Left),
        ]);
        for entry in &news.processes {
            table.row([
                entry.process.short(),
                Plain(self.called(entry.process)).to_string(),
                show::bytes(entry.memory_bytes),
                self.outcome(entry),
            ]);
        }
        if !news.processes.is_empty() {
            show::print(table.shown(Paint::stdout()));
        }
        for port in &news.ports {
            let (name, number) = (Plain(self.called(port.process)), port.address.port());
            let became = match &port.fate {
                PortFate::Moved { to, address } => {
                    format!("is at {} now: {address}", self.node(*to))
                }
                PortFate::Stayed { why } => format!("stays: {}", Plain(why)),
            };
            show::print(format_args!("port {number} of {name} {became}\n"));
        }
        match &news.registry {
            RegistryFate::Elsewhere => {}
            RegistryFate::Waiting if news.stage == DrainStage::Planned => {
                show::print("the registry is here, and would be moved last\n");
            }
            RegistryFate::Waiting => show::print("the registry is still here\n"),
            RegistryFate::Moved { to } => {
                show::print(format_args!("the registry moved to {}\n", self.node(*to)));
            }
            RegistryFate::Stayed { why } => {
                show::print(format_args!("the registry stays: {}\n", Plain(why)));
            }
        }
        let name = &self.name;
        let state = match news.stage {
            DrainStage::Planned => return,
            DrainStage::Drained => format!(
                "{name} is drained, and takes no processes until it is started again, or: sterna drain --cancel {name}"
            ),
            _ => format!("{name} takes processes again"),
        };
        show::note(state);
    }

    fn told<'a>(&'a self, news: &'a DrainNews) -> Told<'a> {
        let (fate, to, why) = match &news.registry {
            RegistryFate::Elsewhere => ("elsewhere", None, None),
            RegistryFate::Waiting => ("waiting", None, None),
            RegistryFate::Moved { to } => ("moved", Some(self.node(*to)), None),
            RegistryFate::Stayed { why } => ("stayed", None, Some(&**why)),
        };
        Told {
            node: &self.name,
            node_id: identity::text(self.id),
            stage: match news.stage {
                DrainStage::Open => "open",
                DrainStage::Planned => "planned",
                DrainStage::Draining => "draining",
                DrainStage::Drained => "drained",
                DrainStage::Incomplete => "incomplete",
                DrainStage::Cancelled => "cancelled",
            },
            processes: news.processes.iter().map(|entry| self.row(entry)).collect(),
            registry: Registry { fate, to, why },
            ports: news.ports.iter().map(|port| self.port(port)).collect(),
        }
    }

    fn port<'a>(&'a self, port: &'a DrainPort) -> Port<'a> {
        let (fate, to, address_now, why) = match &port.fate {
            PortFate::Moved { to, address } => {
                ("moved", Some(self.node(*to)), Some(*address), None)
            }
            PortFate::Stayed { why } => ("stayed", None, None, Some(&**why)),
        };
        Port {
            id: port.process,
            name: self.called(port.process),
            address: port.address,
            fate,
            to,
            address_now,
            why,
        }
    }

    fn row<'a>(&'a self, entry: &'a DrainEntry) -> Row<'a> {
        let (fate, to, downtime_us, why) = match &entry.fate {
            DrainFate::Waiting => ("waiting", None, None, None),
            DrainFate::Moving { to } => ("moving", Some(*to), None, None),
            DrainFate::Moved { to, downtime_us } => ("moved", Some(*to), *downtime_us, None),
            DrainFate::Stayed { why } => ("stayed", None, None, Some(&**why)),
            DrainFate::Gone => ("gone", None, None, None),
        };
        Row {
            id: entry.process,
            name: self.called(entry.process),
            memory_bytes: entry.memory_bytes,
            fate,
            to: to.map(|to| self.node(to)),
            downtime_us,
            why,
        }
    }
}

fn stays(entry: &DrainEntry) -> bool {
    matches!(entry.fate, DrainFate::Stayed { .. })
}

/// A time in which something can be done.
pub(super) fn parse_within(text: &str) -> Result<Duration, String> {
    match show::parse_duration(text)? {
        within if within.as_millis() == 0 => {
            Err("in no time nothing can be moved: write 30s, for example".to_owned())
        }
        within => Ok(within),
    }
}
