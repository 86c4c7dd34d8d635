//! Ports of processes move to the nodes that have these, for clients that are still to come.
//!
//! ```text
//!  ingress that is drained                 node that has the process             registry
//!    │ TakePort{process, index} ────────────►│ opens it: the same number, or another  │
//!    │                                       │ that is the process's port ───────────►│
//!    │◄─────────────── Listening{where} ─────│                                        │
//!    │ closes its own: who is connected is cut off; what was attached here attaches there
//! ```

use sterna_process::ProcessId;

use super::Hosting;
use crate::identity::NodeId;
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
        for (process, index, address, clients) in hosting.ingress.all() {
            let entry = self.entry(process).await;
            let record = entry.and_then(|entry| entry.record().map_err(Failure::refused));
            let fate = match record {
                // It stays here itself.
                Ok(record) if record.owner == self.id => continue,
                Ok(_) if clients > 0 && !cut => Err(Failure::refused(format!(
                    "{clients} clients are connected: drain the node with --cut if they may be cut off"
                ))),
                Ok(record) => {
                    let request = HostingRequest::TakePort { process, index };
                    let taken = self.pass_on(record.owner, request).await;
                    taken.map(|taken| (record.owner, taken))
                }
                Err(failure) => Err(failure),
            };
            let fate = match fate {
                Ok((to, HostingReply::Listening(address))) => {
                    hosting.ingress.close_one(process, index);
                    PortFate::Moved { to, address }
                }
                Ok(_) => PortFate::Stayed {
                    why: "the other node answers another question".to_owned(),
                },
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
}
