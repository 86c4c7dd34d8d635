//! `sterna nodes`: the nodes of a cluster.

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use sterna_migration::{Life, NodeId};
use sterna_node::identity;
use sterna_node::message::{
    Confinement, Keeper, LastSnapshot, Listed, Nodes, Reachability, Reply, Request, Seen,
};
use sterna_process::{Plain, ProcessId};
use sterna_runner::message::Paging;

use crate::complete;
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

CONFINEMENT is that of the node's runner, which hosts its processes, and of its service (network, key) and \
manager (privilege) if theirs is another; what they lack is in --json, and `sterna doctor` there says how to \
mend it. A node that is drained, and takes no processes, is `draining` (`sterna drain`). One that does not \
answer is `unknown`: it may be down, or the network between; what runs there may still run.";

#[derive(Debug, Subcommand)]
enum Deed {
    Rm(Rm),
}

/// Removes a node from the cluster: its key is never accepted again.
#[derive(Debug, Args)]
#[command(after_help = RM_HELP)]
struct Rm {
    /// The node: its name, or the beginning of its id.
    #[arg(value_name = "NODE", add = complete::nodes())]
    wanted: String,
    /// Also if processes are there: these are lost then, and can be gone on with from their snapshots.
    #[arg(long)]
    lost: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const RM_HELP: &str = "\
Examples:
  sterna drain lab-3 && sterna nodes rm lab-3
  sterna nodes rm --lost lab-3 && sterna recover server    its machine is gone for good

Whether a machine that does not answer is gone, only you know. If it still runs, its processes are ended as \
soon as it reaches the others; until then one of them and the one that was recovered may both run.";

#[derive(Serialize)]
struct Told {
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
    /// `this`, `reachable`, `draining` or `unknown`.
    state: &'static str,
    /// When an unknown node answered last, in milliseconds since 1970; null if it has not since the asked one started.
    answered_last_ms: Option<u64>,
    version: String,
    /// How well the machine could confine what a node runs, when it was started.
    confinement: String,
    /// How well the node's service is confined, which has the network and the key; null if it does not answer.
    service_confinement: Option<String>,
    /// How well its manager is, which has what privilege there is.
    manager_confinement: Option<String>,
    /// How well its runner is, which hosts its processes; null, too, if it has none.
    runner_confinement: Option<String>,
    /// How the runner finds pages that processes write, so that memory moves while they run: `userfaultfd`, or `none` and why.
    dirty_pages: Option<String>,
    /// How it has processes wait for memory that comes after them: the same.
    post_copy: Option<String>,
    joined_ms: u64,
    clock_ahead_ms: Option<i64>,
}

/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 32;

/// Of an id, by which a node is removed for good.
const ID_CHARS_MIN: usize = 4;

/// By how much a clock may differ before people are told.
const CLOCK_NOTED_MS: u64 = 5000;

impl NodesCommand {
    pub(crate) fn run(self) -> Result<u8> {
        if let Some(Deed::Rm(rm)) = self.command {
            return rm.run();
        }
        let nodes = self.which.nodes()?;
        if self.json {
            show::json(&told(&self.which, &nodes))?;
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

/// What is known of a node. A node that was removed is refused by the others: it knows nothing of them any more.
fn state(nodes: &Nodes, seen: &Seen) -> (&'static str, Option<u64>) {
    match seen.state {
        Reachability::Reachable | Reachability::Draining if nodes.this.removed => ("unknown", None),
        Reachability::This => ("this", None),
        Reachability::Reachable => ("reachable", None),
        Reachability::Draining => ("draining", None),
        Reachability::Unknown { since_ms } => ("unknown", since_ms),
    }
}

fn told(which: &Which, nodes: &Nodes) -> Told {
    let paging = pagings(which, nodes);
    let rows = nodes.nodes.iter().zip(paging).map(|(seen, paging)| {
        let about = &seen.member.about;
        let (state, answered_last_ms) = state(nodes, seen);
        Row {
            id: identity::text(seen.member.id),
            name: about.name.clone(),
            addresses: about.addresses.iter().map(ToString::to_string).collect(),
            state,
            answered_last_ms,
            version: about.software.clone(),
            confinement: about.confinement.clone(),
            service_confinement: seen.confinement.service.clone(),
            manager_confinement: seen.confinement.manager.clone(),
            runner_confinement: seen.confinement.runner.clone(),
            dirty_pages: paging.as_ref().map(|paging| paging.dirty_pages.clone()),
            post_copy: paging.map(|paging| paging.post_copy),
            joined_ms: seen.member.joined_ms,
            clock_ahead_ms: seen.clock_ahead_ms,
        }
    });
    Told {
        asked: identity::text(nodes.this.id),
        registry: identity::text(nodes.this.home),
        removed: nodes.this.removed,
        nodes: rows.collect(),
    }
}

/// By what memory moves at each node. Many are asked at once, since one that hangs takes seconds.
fn pagings(which: &Which, nodes: &Nodes) -> Vec<Option<Paging>> {
    let some_at_once = nodes.nodes.chunks(ASKED_AT_ONCE).map(|some| {
        thread::scope(|scope| {
            let asked: Vec<_> = some
                .iter()
                .map(|seen| scope.spawn(|| paging(which, seen)))
                .collect();
            let answers = asked.into_iter().map(|one| one.join().ok().flatten());
            answers.collect::<Vec<_>>()
        })
    });
    some_at_once.flatten().collect()
}

/// By what memory moves at a node, if it answers and has a runner.
fn paging(which: &Which, seen: &Seen) -> Option<Paging> {
    if matches!(seen.state, Reachability::Unknown { .. }) {
        return None;
    }
    let node = seen.member.id;
    match which.ask(&Request::Paging { node }) {
        Ok(Reply::Paging(paging)) => paging,
        _ => None,
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
        let state = match state(nodes, seen) {
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
            // Of what runs there now; else what the machine could do when the node was started.
            confinement(&seen.confinement, &about.confinement),
        ]);
    }
    table
}

/// In a table: `full`, `partial`, `none`; of all parts at once if they are alike. All of it is in the JSON.
fn confinement(parts: &Confinement, machine: &str) -> String {
    let extent = |whole: &str| Plain(whole.split(':').next().unwrap_or(whole)).to_string();
    let runner = extent(parts.runner.as_deref().unwrap_or(machine));
    let others = [("service", &parts.service), ("manager", &parts.manager)];
    let unlike = others.iter().filter_map(|(part, how)| {
        let how = extent(how.as_deref()?);
        (how != runner).then(|| format!(", {part} {how}"))
    });
    runner.clone() + &unlike.collect::<String>()
}

impl Rm {
    fn run(self) -> Result<u8> {
        let nodes = self.which.nodes()?;
        let node = node::member(&nodes, &self.wanted)?;
        let name = node::name_of(&nodes, node);
        ensure!(
            self.wanted == name || self.wanted.len() >= ID_CHARS_MIN,
            "{} is the beginning of the id of node {name}, which cannot come back once it is removed: write its name, or {ID_CHARS_MIN} \
             characters of its id ({node})",
            Plain(&self.wanted)
        );
        let listed = self.which.listed(false)?;
        let (lost, others): (Vec<_>, Vec<_>) = listed.iter().partition(|one| {
            let record = one.entry.record();
            record.is_ok_and(|record| record.owner == node && record.life == Life::Alive)
        });
        // A node that has processes is not removed by mistake.
        ensure!(
            self.lost || lost.is_empty(),
            "node {name} has {}: move them away (sterna drain {name}); if its machine is gone for good, sterna nodes rm --lost \
             {name} gives them up, and those of which there are snapshots can be recovered",
            counted(lost.len()),
        );
        let Reply::Done = self.which.ask(&Request::Remove { node })? else {
            return Err(node::unexpected());
        };
        let kept_there = others.into_iter().filter(|one| keeps(one, node));
        if self.json {
            show::json(&Removed {
                id: identity::text(node),
                name,
                lost: lost.iter().map(|one| Gone::of(one, node)).collect(),
                snapshots_gone: kept_there.map(|one| one.entry.process).collect(),
            })?;
            return Ok(0);
        }
        show::note(format_args!("removed: node {name} ({node})"));
        for one in lost {
            show::note(gone(one, node));
        }
        let names: Vec<String> = kept_there.map(named).collect();
        if !names.is_empty() {
            show::note(format_args!(
                "with it are gone the snapshots of {}: have new ones made elsewhere (sterna snapshot P --to NODE)",
                names.join(", ")
            ));
        }
        Ok(0)
    }
}

#[derive(Serialize)]
struct Removed {
    id: String,
    name: String,
    /// The processes that were there.
    lost: Vec<Gone>,
    /// Processes whose snapshots were kept there.
    snapshots_gone: Vec<ProcessId>,
}

#[derive(Serialize)]
struct Gone {
    id: ProcessId,
    name: Option<String>,
    /// When the snapshot was made with which it can be recovered, in milliseconds since 1970; null if there is none.
    snapshot_ms: Option<u64>,
}

impl Gone {
    fn of(one: &Listed, node: NodeId) -> Self {
        Self {
            id: one.entry.process,
            name: one.entry.name.clone(),
            snapshot_ms: snapshot_elsewhere(one, node).map(|last| last.at_ms),
        }
    }
}

fn counted(processes: usize) -> String {
    let end = if processes == 1 { "" } else { "es" };
    format!("{processes} process{end}")
}

/// A process as people know it.
fn named(one: &Listed) -> String {
    let id = one.entry.process.short();
    let name = one.entry.name.as_ref().unwrap_or(&one.entry.info.file);
    format!("{id} ({})", Plain(name))
}

/// Whether the snapshots of a process are kept by a node.
fn keeps(one: &Listed, node: NodeId) -> bool {
    let keeping = one.keeping.as_ref();
    keeping.is_some_and(|keeping| keeping.last.is_some() && keeping.to == Keeper::Node(node))
}

/// The last snapshot of a process, if it is not kept by `node`.
fn snapshot_elsewhere(one: &Listed, node: NodeId) -> Option<LastSnapshot> {
    let last = one.keeping.as_ref().and_then(|keeping| keeping.last);
    last.filter(|_| !keeps(one, node))
}

/// That a process is lost with a node, and whether it can come back.
fn gone(one: &Listed, node: NodeId) -> String {
    let process = named(one);
    match snapshot_elsewhere(one, node) {
        Some(last) => {
            let now_ms = show::since_epoch_ms(SystemTime::now());
            let old = Duration::from_millis(now_ms.saturating_sub(last.at_ms));
            let (id, old) = (one.entry.process.short(), show::age(old));
            format!(
                "lost: {process}; sterna recover {id} has it go on from its snapshot of {old} ago"
            )
        }
        None => format!("lost: {process}; there is no snapshot of it elsewhere"),
    }
}
