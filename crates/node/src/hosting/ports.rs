//! Ports of processes move to the nodes that have these, for clients that are still to come.
//!
//! ```text
//!  ingress that is drained                 node that has the process             registry
//!    │ TakePort{process, index} ────────────►│ opens it: the same number, or another  │
//!    │                                       │ that is the process's port ───────────►│
//!    │◄─────────────── Listening{where} ─────│                                        │
//!    │ closes its own: who is connected is cut off; what was attached here attaches there
//! ```

use std::net::SocketAddr;

use sterna_process::ProcessId;
use tokio::time::{Instant, timeout_at};

use super::Hosting;
use crate::identity::NodeId;
use crate::limits::DRAIN_ENDS_WITHIN;
use crate::message::{
    Belongings, DrainPort, Failure, HostingReply, HostingRequest, PortFate, RegistryRequest,
};
use crate::service::{Seat, Service};

impl Service {
    /// Opens a port of a process of this node here, in place of the node that has it and asks for that.
    pub(super) async fn take_port(
        &self,
        hosting: &Hosting,
        ingress: NodeId,
        (process, index): (ProcessId, u32),
    ) -> Result<HostingReply, Failure> {
        if let Seat::At(home) = self.seat()
            && self.is_older(home).await?
        {
            return Err(Failure::refused(
                "the node that serves the registry is older: upgrade it",
            ));
        }
        let mut info = self.entry(process).await?.info;
        let belongings = Belongings::decode(&info.extra);
        let mut belongings = belongings.ok_or_else(|| {
            Failure::refused("a newer node wrote down what the process has: upgrade this one")
        })?;
        let listen = belongings.listens.get_mut(index as usize);
        let Some(listen) = listen.filter(|listen| listen.ingress == ingress) else {
            return Err(Failure::refused(
                "the process has no such port of that node",
            ));
        };
        let opened = hosting
            .ingress
            .listen(process, index, listen.address.port());
        let port = opened.or_else(|_| hosting.ingress.listen(process, index, 0))?;
        (listen.ingress, listen.address) = (self.id, port.address());
        let extra = belongings.encode();
        let request = RegistryRequest::SetExtra {
            process,
            before: std::mem::replace(&mut info.extra, extra.clone()),
            extra,
        };
        if let Err(failure) = self.ask_registry(request).await {
            // If it was written all the same, whoever attaches the process opens it again.
            hosting.ingress.close_unused(process);
            return Err(failure);
        }
        hosting.remember(process, &info);
        Ok(HostingReply::Listening(port.address()))
    }

    /// Has the ports of this node opened where their processes are by now. One at which clients are connected stays, unless
    /// these may be cut off.
    pub(super) async fn move_ports_away(&self, hosting: &Hosting, cut: bool) {
        let until = Instant::now() + DRAIN_ENDS_WITHIN;
        for (process, index, address, clients) in hosting.ingress.all() {
            let moved = match hosting.draining.is_cancelled() {
                true => Ok(Err(Failure::refused("it was given up before that"))),
                false => timeout_at(until, self.move_port_away(process, index, clients, cut)).await,
            };
            let moved = moved
                .unwrap_or_else(|_| Err(Failure::refused("the time was over before it was moved")));
            let fate = match moved {
                Ok(None) => continue,
                Ok(Some((to, address))) => {
                    hosting.ingress.close_one(process, index);
                    PortFate::Moved { to, address }
                }
                Err(failure) => PortFate::Stayed {
                    why: failure.message,
                },
            };
            hosting.draining.change(|news| {
                news.ports.push(DrainPort {
                    process,
                    address,
                    fate,
                });
            });
        }
    }

    /// Has one opened where its process is: where, or `None` if it is here.
    async fn move_port_away(
        &self,
        process: ProcessId,
        index: u32,
        clients: usize,
        cut: bool,
    ) -> Result<Option<(NodeId, SocketAddr)>, Failure> {
        let record = self.entry(process).await?.record();
        let owner = record.map_err(Failure::refused)?.owner;
        if owner == self.id {
            return Ok(None);
        }
        if clients > 0 && !cut {
            return Err(Failure::refused(format!(
                "{clients} clients are connected: drain the node with --cut if they may be cut off"
            )));
        }
        let request = HostingRequest::TakePort { process, index };
        match self.pass_on(owner, request).await? {
            HostingReply::Listening(address) => Ok(Some((owner, address))),
            _ => Err(Failure::refused("the other node answers another question")),
        }
    }
}
