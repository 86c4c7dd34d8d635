//! `sterna balance`: moves processes so that nodes have their share of the work, or as few as possible have any.

mod look;
mod plan;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sterna_migration::NodeId;
use sterna_node::message::HostingRequest;
use sterna_process::{Plain, ProcessId};

use self::look::Look;
use self::plan::{Goal, NodeLoad, Step};
use super::{drain, moving};
use crate::host::Signals;
use crate::node::Which;
use crate::show::{self, Align, Paint, Table};

/// Moves processes between nodes, so that each has its share of the work.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Balance {
    /// Give all nodes the same load for each of their processors; without another option, too.
    #[arg(long)]
    spread: bool,
    /// Instead empty as many nodes as possible: those with least work, as long as others have room for all of it.
    #[arg(long, conflicts_with = "spread")]
    pack: bool,
    /// Do it again and again, with so much time in between.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "10s",
        value_parser = drain::parse_within)]
    watch: Option<Duration>,
    /// Only print the plan.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna balance --dry-run
  sterna balance
  sterna balance --watch=30s
  sterna balance --pack

A process is watched for a second. If it computes whenever it is looked at, it wants a whole processor, \
however little it got; otherwise as much as it used. LOAD is what a node's processes want, of its \
processors. Nothing is moved that would not make the more loaded of two nodes clearly less loaded, so that \
nothing goes back and forth. Processes with directories that are fixed to their node stay, and so do those \
of nodes that do not answer or are drained.

Ctrl-C ends it after the move that is under way.

Exit code: 0 if all was moved that was planned; 1 otherwise.";

/// What cannot be moved there: it is not planned.
type Barred = HashSet<(ProcessId, NodeId)>;

#[derive(Serialize)]
struct Told<'a> {
    /// `spread` or `pack`.
    goal: &'static str,
    nodes: Vec<NodeRow<'a>>,
    moves: Vec<MoveRow<'a>>,
}

#[derive(Serialize)]
struct NodeRow<'a> {
    name: &'a str,
    processors: f64,
    /// What its processes want, of its processors.
    load: f64,
    /// The same with the plan carried out.
    load_then: f64,
    /// Where clients of processes come in there, wherever these are.
    ports: Vec<SocketAddr>,
}

#[derive(Serialize)]
struct MoveRow<'a> {
    id: ProcessId,
    name: &'a str,
    from: &'a str,
    to: &'a str,
    wants: f64,
    memory_bytes: u64,
    /// Null if it was not tried.
    moved: Option<bool>,
}

impl Balance {
    pub(crate) fn run(self) -> Result<u8> {
        let ended = ended()?;
        let mut barred = Barred::new();
        let Some(period) = self.watch else {
            let all_moved = self.round(&ended, &mut barred)?;
            return Ok(u8::from(!all_moved));
        };
        loop {
            if let Err(error) = self.round(&ended, &mut barred) {
                show::note(format_args!("{error:#}"));
            }
            if ended.recv_timeout(period) != Err(RecvTimeoutError::Timeout) {
                return Ok(0);
            }
        }
    }

    /// Looks, plans, and carries the plan out. Whether all of it was, or should not be.
    fn round(&self, ended: &Receiver<()>, barred: &mut Barred) -> Result<bool> {
        let look = Look::new(&self.which)?;
        let steps = self.plan(&look, barred);
        if !self.json && (self.watch.is_none() || !steps.is_empty()) {
            print(&look, &steps);
        }
        let moved = match self.dry_run {
            true => Vec::new(),
            false => self.carry_out(&look, &steps, ended, barred),
        };
        if self.json {
            show::json(&self.told(&look, &steps, &moved))?;
        } else if !moved.is_empty() {
            tell(&look, &steps, &moved);
        }
        let all_moved = moved.len() == steps.len() && moved.iter().all(|moved| *moved);
        Ok(self.dry_run || all_moved)
    }

    const fn goal(&self) -> Goal {
        match self.pack {
            true => Goal::Pack,
            false => Goal::Spread,
        }
    }

    /// A plan of which each step was asked for whether it could be made.
    fn plan(&self, look: &Look, barred: &Barred) -> Vec<Step> {
        let (mut barred, mut checked) = (barred.clone(), Barred::new());
        loop {
            let may = |process, to| !barred.contains(&(process, look.id(to)));
            let steps = plan::plan(&look.loads, self.goal(), may);
            let ways = steps.iter().map(|step| (step.process, look.id(step.to)));
            let new: Vec<_> = ways.filter(|way| !checked.contains(way)).collect();
            let refused: Vec<_> = new.iter().filter(|way| !self.could_move(**way)).collect();
            if refused.is_empty() {
                return steps;
            }
            barred.extend(refused);
            checked.extend(new);
        }
    }

    fn could_move(&self, (process, target): (ProcessId, NodeId)) -> bool {
        let request = HostingRequest::Move {
            process,
            target,
            dry_run: true,
        };
        self.which.hosting(request).is_ok()
    }

    /// Whether each was moved, as far as that went before a signal came.
    fn carry_out(
        &self,
        look: &Look,
        steps: &[Step],
        ended: &Receiver<()>,
        barred: &mut Barred,
    ) -> Vec<bool> {
        let mut all = Vec::new();
        for step in steps {
            if ended.try_recv() == Err(TryRecvError::Disconnected) {
                break;
            }
            let (process, target) = (step.process, look.id(step.to));
            let code = moving::quietly(&self.which, process, target).unwrap_or_else(|error| {
                show::note(format_args!("{} stays: {error:#}", process.short()));
                moving::EXIT_LATER
            });
            if ![0, moving::EXIT_LATER].contains(&code) {
                barred.insert((process, target));
            }
            all.push(code == 0);
        }
        all
    }

    fn told<'a>(&self, look: &'a Look, steps: &[Step], moved: &[bool]) -> Told<'a> {
        let then = then(look, steps);
        let nodes = look.loads.iter().zip(&then).enumerate();
        let nodes = nodes.map(|(at, (load, then))| NodeRow {
            name: look.name(at),
            processors: load.processors,
            load: load.load(),
            load_then: then.load(),
            ports: look.ports(at).map(|(_, address)| address).collect(),
        });
        let moves = steps.iter().enumerate().filter_map(|(at, step)| {
            let process = look.process(step)?;
            Some(MoveRow {
                id: step.process,
                name: look.process_name(step.process),
                from: look.name(step.from),
                to: look.name(step.to),
                wants: process.wants,
                memory_bytes: process.memory_bytes,
                moved: moved.get(at).copied(),
            })
        });
        Told {
            goal: match self.goal() {
                Goal::Spread => "spread",
                Goal::Pack => "pack",
            },
            nodes: nodes.collect(),
            moves: moves.collect(),
        }
    }
}

/// Is disconnected by the first signal; the second one ends the program at once.
fn ended() -> Result<Receiver<()>> {
    let (goes_on, ended) = mpsc::channel();
    let mut goes_on = Some(goes_on);
    Signals::catch()?.each(move |signal| {
        if goes_on.take().is_none() {
            std::process::exit(128 + signal);
        }
    })?;
    Ok(ended)
}

/// The loads with a plan carried out.
fn then(look: &Look, steps: &[Step]) -> Vec<NodeLoad> {
    let mut loads = look.loads.clone();
    for step in steps {
        plan::apply(&mut loads, *step);
    }
    loads
}

fn print(look: &Look, steps: &[Step]) {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("PROCESSORS", Align::Right),
        ("LOAD", Align::Right),
        ("THEN", Align::Right),
    ]);
    for (at, then) in then(look, steps).iter().enumerate() {
        table.row([
            look.name(at).to_owned(),
            then.processors.to_string(),
            percent(look.loads[at].load()),
            percent(then.load()),
        ]);
    }
    show::print(table.shown(Paint::stdout()));
    if steps.is_empty() {
        return show::note("nothing has to be moved");
    }
    let mut table = Table::new([
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("WANTS", Align::Right),
        ("MEMORY", Align::Right),
    ]);
    for step in steps {
        let process = look.process(step);
        table.row([
            step.process.short(),
            Plain(look.process_name(step.process)).to_string(),
            look.name(step.from).to_owned(),
            look.name(step.to).to_owned(),
            process.map_or_else(String::new, |process| percent(process.wants)),
            process.map_or_else(String::new, |process| show::bytes(process.memory_bytes)),
        ]);
    }
    show::print(format_args!("\n{}", table.shown(Paint::stdout())));
}

/// What has become of it, and what still holds a node that is to be switched off.
fn tell(look: &Look, steps: &[Step], moved: &[bool]) {
    let done = steps.iter().zip(moved).filter(|(_, moved)| **moved);
    let done: Vec<Step> = done.map(|(step, _)| *step).collect();
    for step in &done {
        show::note(format_args!(
            "{} ({}) moved from {} to {}",
            step.process.short(),
            Plain(look.process_name(step.process)),
            look.name(step.from),
            look.name(step.to)
        ));
    }
    let left: BTreeSet<usize> = done.iter().map(|step| step.from).collect();
    let then = then(look, &done);
    for node in left {
        let ports: Vec<_> = look.ports(node).collect();
        if !then[node].processes.is_empty() || ports.is_empty() {
            continue;
        }
        let ports = ports.iter().map(|(process, address)| {
            let name = look.process_name(*process);
            format!("{address} ({})", Plain(name))
        });
        let name = look.name(node);
        show::note(format_args!(
            "{name} has no processes now, but clients still come in there: {}; sterna drain {name} has new ones come in elsewhere",
            ports.collect::<Vec<_>>().join(", ")
        ));
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
