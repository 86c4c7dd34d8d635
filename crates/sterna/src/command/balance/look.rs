//! What the nodes of a cluster have to do: [`Look`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use sterna_migration::NodeId;
use sterna_node::message::{Belongings, BindingSort, HostingReply, HostingRequest, Listed, Nodes};
use sterna_process::{ProcessId, State, Stats};

use super::plan::{NodeLoad, ProcessLoad, Step};
use crate::node::{self, Which};

/// How often processes are looked at.
const LOOKS: usize = 4;
/// Between two looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// The nodes that take processes, and what these want.
pub(super) struct Look {
    pub(super) loads: Vec<NodeLoad>,
    /// In the same order.
    nodes: Vec<(NodeId, String)>,
    names: HashMap<ProcessId, String>,
    ports: Vec<Port>,
}

/// Where clients of a process come in.
struct Port {
    ingress: NodeId,
    process: ProcessId,
    address: SocketAddr,
}

/// What was seen of a process, look by look.
type Seen = HashMap<ProcessId, Vec<(NodeId, Stats)>>;

impl Look {
    /// Looks for about a second.
    pub(super) fn new(which: &Which) -> Result<Self> {
        let Some(HostingReply::Rooms(rooms)) = which.hosting(HostingRequest::Rooms)? else {
            return Err(node::unexpected());
        };
        let all: Nodes = which.nodes()?;
        let (mut seen, mut last) = (Seen::new(), which.listed(false)?);
        let begun = Instant::now();
        note(&mut seen, &last);
        let mut span = Duration::ZERO;
        for _ in 1..LOOKS {
            thread::sleep(LOOK_AGAIN_AFTER);
            span = begun.elapsed();
            last = which.listed(false)?;
            note(&mut seen, &last);
        }
        let mut look = Self {
            loads: Vec::new(),
            nodes: Vec::new(),
            names: HashMap::new(),
            ports: Vec::new(),
        };
        for room in rooms {
            if let Some(capacity) = room.capacity {
                look.loads.push(NodeLoad {
                    processors: capacity.processors.max(1).into(),
                    memory_bytes: capacity.memory_available_bytes,
                    processes: Vec::new(),
                });
                let name = node::name_of(&all, room.node);
                look.nodes.push((room.node, name));
            }
        }
        for one in last {
            let id = one.entry.process;
            let belongings = Belongings::decode(&one.entry.info.extra).unwrap_or_default();
            let listens = belongings.listens.into_iter();
            look.ports.extend(listens.map(|listen| Port {
                ingress: listen.ingress,
                process: id,
                address: listen.address,
            }));
            let looks = seen.get(&id).map_or(&[][..], Vec::as_slice);
            let owner = looks.last().map(|(owner, _)| *owner);
            let at = look.nodes.iter().position(|(node, _)| Some(*node) == owner);
            if let Some(at) = at {
                look.loads[at].processes.push(load(&one, looks, span));
            }
            look.names.extend(one.entry.name.map(|name| (id, name)));
        }
        Ok(look)
    }

    pub(super) fn id(&self, node: usize) -> NodeId {
        self.nodes[node].0
    }

    pub(super) fn name(&self, node: usize) -> &str {
        &self.nodes[node].1
    }

    /// Where clients of processes come in at a node, wherever these are.
    pub(super) fn ports(&self, node: usize) -> impl Iterator<Item = (ProcessId, SocketAddr)> {
        let id = self.id(node);
        let here = self.ports.iter().filter(move |port| port.ingress == id);
        here.map(|port| (port.process, port.address))
    }

    /// Empty if it has none.
    pub(super) fn process_name(&self, process: ProcessId) -> &str {
        self.names.get(&process).map_or("", String::as_str)
    }

    /// What a step moves.
    pub(super) fn process(&self, step: &Step) -> Option<&ProcessLoad> {
        let mut processes = self.loads[step.from].processes.iter();
        processes.find(|process| process.id == step.process)
    }
}

fn note(seen: &mut Seen, listed: &[Listed]) {
    for one in listed {
        if let (Ok(record), Some(brief)) = (one.entry.record(), &one.brief) {
            let looks = seen.entry(one.entry.process).or_default();
            looks.push((record.owner, brief.stats.clone()));
        }
    }
}

/// What a process wants, by what it did in some time.
fn load(listed: &Listed, looks: &[(NodeId, Stats)], span: Duration) -> ProcessLoad {
    let owner = looks.last().map(|(owner, _)| *owner);
    let is_known = looks.len() == LOOKS && looks.iter().all(|(at, _)| Some(*at) == owner);
    let spent = match looks {
        [(_, first), .., (_, last)] => last.cpu_time.saturating_sub(first.cpu_time),
        _ => Duration::ZERO,
    };
    let computes = |(_, stats): &(NodeId, Stats)| stats.state == State::Running;
    let wants = match looks.iter().all(computes) {
        true => 1.0,
        false => (spent.as_secs_f64() / span.as_secs_f64()).min(1.0),
    };
    let belongings = Belongings::decode(&listed.entry.info.extra);
    let bindings = belongings.map(|belongings| belongings.bindings);
    let may_move = bindings.is_some_and(|bindings| {
        let mut sorts = bindings.iter().map(|binding| &binding.sort);
        sorts.all(|sort| *sort != BindingSort::Fixed)
    });
    let is_busy = listed
        .brief
        .as_ref()
        .is_none_or(|brief| brief.doing.is_some());
    ProcessLoad {
        id: listed.entry.process,
        wants,
        memory_bytes: looks.last().map_or(0, |(_, stats)| stats.memory_bytes),
        is_pinned: !is_known || !may_move || is_busy,
    }
}
