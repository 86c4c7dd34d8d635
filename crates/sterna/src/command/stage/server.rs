//! The key-value server on the nodes of a stage: [`Server`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sterna_laboratory::clients::{KEYS_PER_MIB, Moved, Orders, Pace};
use sterna_migration::{NodeId, Travel};
use sterna_node::message::{Deed, HostingReply, HostingRequest, MoveEnd, Reply, Request};
use sterna_process::{Plain, ProcessId};

use super::{NODES, Stage, parsed};

/// Its program.
pub(in crate::command) const KV: &[u8] = include_bytes!("../../../../../guests/wasm/kv.wasm");
/// What the program is called on a stage.
const FILE: &str = "kv.wasm";
const NAME: &str = "kv";

/// A server, and where it is.
pub(in crate::command) struct Server<'a> {
    stage: &'a Stage,
    process: ProcessId,
    address: SocketAddr,
    mib: u64,
    /// In their order on the stage.
    nodes: Vec<NodeId>,
    at: usize,
}

#[derive(serde::Deserialize)]
struct Started {
    id: ProcessId,
}

#[derive(serde::Deserialize)]
struct Listed {
    id: ProcessId,
    ports: Vec<ListedPort>,
}

#[derive(serde::Deserialize)]
struct ListedPort {
    address: SocketAddr,
}

impl Stage {
    /// Starts a server with a table of this size on the first node, which keeps its port.
    pub(in crate::command) fn serve(&self, mib: u64) -> Result<Server<'_>> {
        let run = ["run", "--detach", "--json", "--name", NAME, "--listen", "0"];
        let size = mib.to_string();
        let json = self.ask(0, &[&run[..], &[FILE, &size]].concat())?;
        let process = parsed::<Started>(&json, "run")?.id;
        let listed: Vec<Listed> = parsed(&self.ask(0, &["ps", "--json"])?, "ps")?;
        let mut rows = listed.iter().filter(|row| row.id == process);
        let port = rows.next().and_then(|row| row.ports.first());
        let id = |number| match sterna_node::ask(&self.data(number), &Request::Status)? {
            Reply::Status(status) => Ok(status.id),
            _ => Err(crate::node::unexpected()),
        };
        Ok(Server {
            stage: self,
            process,
            address: port.context("the server has no port")?.address,
            mib,
            nodes: (0..self.count()).map(id).collect::<Result<_>>()?,
            at: 0,
        })
    }
}

impl Server<'_> {
    /// Where it is.
    pub(in crate::command) fn node(&self) -> &'static str {
        NODES[self.at]
    }

    /// What clients are told that write all over its table.
    pub(in crate::command) const fn orders(&self, clients: usize, pace: Pace) -> Orders {
        Orders {
            address: self.address,
            clients,
            pace,
            keys: self.mib * KEYS_PER_MIB,
        }
    }

    /// Moves it to the next node.
    pub(in crate::command) fn hop(&mut self, travel: Travel) -> Result<(Moved, MoveEnd)> {
        let (moved, end) = self.try_hop(travel)?;
        ensure!(
            end.report.moved,
            "the server was not moved: it {}",
            Plain(&end.report.outcome)
        );
        Ok((moved, end))
    }

    /// The same, if that is possible; the report says whether.
    pub(in crate::command) fn try_hop(&mut self, travel: Travel) -> Result<(Moved, MoveEnd)> {
        self.stage.check()?;
        let next = (self.at + 1) % self.nodes.len();
        let ask = |request| match sterna_node::ask(
            &self.stage.data(self.at),
            &Request::Hosting(request),
        )? {
            Reply::Hosting(reply) => Ok(reply),
            _ => Err(crate::node::unexpected()),
        };
        let ordered = Instant::now();
        let HostingReply::Moving { source, attempt } = ask(HostingRequest::MoveSo {
            process: self.process,
            target: self.nodes[next],
            travel,
            dry_run: false,
        })?
        else {
            bail!(crate::node::unexpected());
        };
        let end = loop {
            let request = HostingRequest::MoveProgress {
                source,
                attempt,
                after: u32::MAX,
            };
            let HostingReply::MoveProgress(progress) = ask(request)? else {
                bail!(crate::node::unexpected());
            };
            if let Some(end) = progress.ended {
                break *end;
            }
        };
        let report = &end.report;
        if report.moved {
            self.at = next;
        }
        let rounds = end.travelled.as_ref().map_or(0, |one| one.rounds.len());
        let part = |(part, us): &(String, u64)| {
            // Without rounds it is only counted then what is to be sent.
            let name = if part == "copy" && rounds == 0 {
                "count"
            } else {
                part
            };
            (name.to_owned(), Duration::from_micros(*us))
        };
        let moved = Moved {
            ordered,
            parts: report.parts.iter().map(part).collect(),
            downtime: report.downtime_us.map(Duration::from_micros),
        };
        Ok((moved, end))
    }

    /// Ends it.
    pub(in crate::command) fn kill(self) -> Result<()> {
        let request = HostingRequest::Steer {
            process: self.process,
            deed: Deed::Kill,
        };
        sterna_node::ask(&self.stage.data(self.at), &Request::Hosting(request))?;
        Ok(())
    }
}
