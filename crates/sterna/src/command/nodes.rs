//! `sterna nodes`: the nodes of a cluster.

use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde::Serialize;
use sterna_node::message::{Nodes, Reachability, Reply, Request, Seen};
use sterna_node::{NodeId, identity};
use sterna_process::Plain;

use crate::node::{self, Which};
use crate::show::{self, Align, Paint, Table};

/// Lists the nodes of the cluster.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub(crate) struct NodesCommand {
    #[command(subcommand)]
    command: Option<Deed>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna nodes
  sterna nodes --json | jq '.nodes[].name'
  sterna nodes rm lab-3

A node that does not answer is `unknown`: it may be down, or the network between; what runs there may still run.";

#[derive(Debug, Subcommand)]
enum Deed {
    Rm(Rm),
}

/// Removes a node from the cluster: its key is never accepted again.
#[derive(Debug, Args)]
struct Rm {
    /// The node: its name, or the beginning of its id.
    #[arg(value_name = "NODE")]
    wanted: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Serialize)]
struct Listed {
    /// The node that was asked.
    asked: String,
    /// The node that serves the registry.
    registry: String,
    /// Whether the node that was asked has been removed from this cluster.
    removed: bool,
    nodes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    addresses: Vec<String>,
    /// `this`, `reachable` or `unknown`.
    state: &'static str,
    /// When an unknown node answered last, in milliseconds since 1970; null if it has not since the asked one started.
    answered_last_ms: Option<u64>,
    version: String,
    confinement: String,
    joined_ms: u64,
    clock_ahead_ms: Option<i64>,
}

/// By how much a clock may differ before people are told.
const CLOCK_NOTED_MS: u64 = 5000;
/// How alike a name must be to be suggested, of 1.
const ALIKE_MIN: f64 = 0.6;
const SUGGESTIONS_MAX: usize = 3;

impl NodesCommand {
    pub(crate) fn run(self) -> Result<u8> {
        if let Some(Deed::Rm(rm)) = self.command {
            return rm.run();
        }
        let nodes = self.which.nodes()?;
        if self.json {
            show::json(&listed(&nodes))?;
            return Ok(0);
        }
        show::print(table(&nodes).shown(Paint::stdout()));
        if nodes.this.removed {
            show::note("this node was removed from the cluster; the list is as it was then");
        }
        for seen in &nodes.nodes {
            let ahead_ms = seen.clock_ahead_ms.unwrap_or(0);
            if ahead_ms.unsigned_abs() > CLOCK_NOTED_MS {
                let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
                let span = show::time(Duration::from_millis(ahead_ms.unsigned_abs()));
                let name = &seen.member.about.name;
                show::note(format_args!(
                    "the clock of {} is {span} {way} this one's",
                    Plain(name)
                ));
            }
        }
        Ok(0)
    }
}

fn state(seen: &Seen) -> (&'static str, Option<u64>) {
    match seen.state {
        Reachability::This => ("this", None),
        Reachability::Reachable => ("reachable", None),
        Reachability::Unknown { since_ms } => ("unknown", since_ms),
    }
}

fn listed(nodes: &Nodes) -> Listed {
    let rows = nodes.nodes.iter().map(|seen| {
        let about = &seen.member.about;
        let (state, answered_last_ms) = state(seen);
        Row {
            id: identity::text(seen.member.id),
            name: about.name.clone(),
            addresses: about.addresses.iter().map(ToString::to_string).collect(),
            state,
            answered_last_ms,
            version: about.software.clone(),
            confinement: about.confinement.clone(),
            joined_ms: seen.member.joined_ms,
            clock_ahead_ms: seen.clock_ahead_ms,
        }
    });
    Listed {
        asked: identity::text(nodes.this.id),
        registry: identity::text(nodes.this.home),
        removed: nodes.this.removed,
        nodes: rows.collect(),
    }
}

fn table(nodes: &Nodes) -> Table<6> {
    let mut table = Table::new([
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("VERSION", Align::Left),
        ("CONFINEMENT", Align::Left),
    ]);
    for seen in &nodes.nodes {
        let about = &seen.member.about;
        let addresses: Vec<String> = about.addresses.iter().map(ToString::to_string).collect();
        let state = match state(seen) {
            ("unknown", Some(since_ms)) => {
                let now_ms = show::since_epoch_ms(SystemTime::now());
                let silent = Duration::from_millis(now_ms.saturating_sub(since_ms));
                format!("unknown for {}", show::age(silent))
            }
            (state, _) => state.to_owned(),
        };
        table.row([
            seen.member.id.to_string(),
            Plain(&about.name).to_string(),
            addresses.join(", "),
            state,
            Plain(&about.software).to_string(),
            Plain(&about.confinement).to_string(),
        ]);
    }
    table
}

impl Rm {
    fn run(self) -> Result<u8> {
        let nodes = self.which.nodes()?;
        let node = find(&nodes, &self.wanted)?;
        match self.which.ask(&Request::Remove { node })? {
            Reply::Done => Ok(0),
            _ => Err(node::unexpected()),
        }
    }
}

/// The node that a user means: by its whole name, or by the beginning of its id.
pub(super) fn find(nodes: &Nodes, wanted: &str) -> Result<NodeId> {
    let members = || nodes.nodes.iter().map(|seen| &seen.member);
    let named = members().find(|member| member.about.name == wanted);
    if let Some(member) = named {
        return Ok(member.id);
    }
    let lower = wanted.to_ascii_lowercase();
    let begin = |id| !lower.is_empty() && identity::text(id).starts_with(&lower);
    let found: Vec<_> = members().filter(|member| begin(member.id)).collect();
    let shown = Plain(wanted);
    match found[..] {
        [one] => Ok(one.id),
        [] => Err(match nearest(nodes, wanted) {
            near if near.is_empty() => anyhow!("no node {shown}: see `sterna nodes`"),
            near => anyhow!("no node {shown}: did you mean {}?", near.join(" or ")),
        }),
        _ => {
            let ids: Vec<String> = found
                .iter()
                .map(|member| identity::text(member.id))
                .collect();
            Err(anyhow!(
                "{shown} can mean several nodes: {}",
                ids.join(", ")
            ))
        }
    }
}

fn nearest(nodes: &Nodes, wanted: &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut alike: Vec<(f64, String)> = Vec::new();
    for seen in &nodes.nodes {
        let (name, id) = (&seen.member.about.name, seen.member.id.to_string());
        let by_name = strsim::jaro_winkler(&wanted, &name.to_lowercase());
        let by_id = strsim::normalized_damerau_levenshtein(&wanted, &id);
        let likeness = by_name.max(by_id);
        if likeness >= ALIKE_MIN {
            alike.push((likeness, format!("{} ({id})", Plain(name))));
        }
    }
    alike.sort_by(|one, other| other.0.total_cmp(&one.0));
    alike.truncate(SUGGESTIONS_MAX);
    alike.into_iter().map(|(_, name)| name).collect()
}
