//! The ingress: ports of this node at which clients connect to processes, wherever these are.
//!
//! ```text
//!  clients ──TCP── Client ─┐                      attachment, of the node that has the process
//!  clients ──TCP── Client ─┼── Front ═══════ frames over a QUIC stream, or a pair of sockets ═══════► runner
//!                          │   (sterna-ingress)
//! ```
//!
//! A port is opened for a process before that starts, and stays until the process is over, frozen or lost. Only the node
//! that the registry says has the process can attach; whoever attaches later takes over. A client knows nothing of all
//! that: while nobody is attached it waits.

mod client;
mod places;
mod port;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sterna_process::ProcessId;

use crate::identity::random;
use crate::limits::PORTS_MAX;
use crate::message::{Failure, FailureKind};
use places::Places;
pub(crate) use port::Port;

/// All ports of this node.
pub(crate) struct Ingress {
    address: IpAddr,
    places: Arc<Places>,
    ports: Mutex<HashMap<(ProcessId, u32), Arc<Port>>>,
}

impl Ingress {
    /// Of a node that listens at this address.
    pub(crate) fn new(address: IpAddr) -> Self {
        Self {
            address,
            places: Arc::new(Places::new()),
            ports: Mutex::default(),
        }
    }

    /// Opens a port for a process, or finds the one that it has.
    pub(crate) fn listen(
        &self,
        process: ProcessId,
        index: u32,
        number: u16,
    ) -> Result<Arc<Port>, Failure> {
        let mut ports = self.ports();
        if let Some(port) = ports.get(&(process, index)) {
            return Ok(Arc::clone(port));
        }
        if ports.len() >= PORTS_MAX {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("the ingress has {PORTS_MAX} ports open, its limit"),
            ));
        }
        let address = SocketAddr::new(self.address, number);
        let life = u64::from_le_bytes(random()) | 1;
        let opened = Port::open(address, life, Arc::clone(&self.places));
        let opened = opened.map_err(|error| cannot_listen(address, &error))?;
        ports.insert((process, index), Arc::clone(&opened));
        Ok(opened)
    }

    /// Closes ports of a process that was not started: nobody has ever been attached to them.
    pub(crate) fn close_unused(&self, process: ProcessId) {
        self.ports().retain(|(of, _), port| {
            let is_unused = *of == process && !port.was_attached();
            if is_unused {
                port.close();
            }
            !is_unused
        });
    }

    /// Closes a port of a process: its clients are cut off.
    pub(crate) fn close_one(&self, process: ProcessId, index: u32) {
        if let Some(port) = self.ports().remove(&(process, index)) {
            port.close();
        }
    }

    /// All ports: of which process, which of that one's, where, and how many clients are connected.
    pub(crate) fn all(&self) -> Vec<(ProcessId, u32, SocketAddr, usize)> {
        let ports = self.ports();
        let all = ports.iter();
        all.map(|((process, index), port)| (*process, *index, port.address(), port.clients()))
            .collect()
    }

    /// Ports to which nobody is attached, and for how long if nobody ever was: of which process, and which of that one's.
    pub(crate) fn unattached(&self) -> Vec<((ProcessId, u32), Option<Duration>)> {
        let ports = self.ports();
        let waiting = ports.iter();
        let waiting = waiting.filter_map(|(which, port)| {
            let waited = port.has_waited()?;
            Some((*which, (!port.was_attached()).then_some(waited)))
        });
        waiting.collect()
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<(ProcessId, u32), Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        for port in self.ports().values() {
            port.close();
        }
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let port = address.port();
    Failure::refused(match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "port {port} of the ingress is taken: choose another one, or 0 for any that is free"
        ),
        std::io::ErrorKind::PermissionDenied => format!(
            "the ingress may not open port {port}: choose one from 1024 on, or allow lower ones to all programs of that \
             machine (sysctl net.ipv4.ip_unprivileged_port_start)"
        ),
        _ => format!("the ingress could not listen at {address}: {error}"),
    })
}
