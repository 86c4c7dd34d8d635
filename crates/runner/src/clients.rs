//! Connections of processes' clients: [`Clients`], one thread for all processes, and [`Port`], what comes to one port of
//! one process.
//!
//! ```text
//!  ingress ── attachment ── Back ── pair of sockets ── process
//!            (a descriptor       │     for each connection
//!             of the service)    └──── queue of those it has not accepted
//! ```
//!
//! A process that leaves takes along what the ingress has not taken, and what it has not read itself: the runner has a
//! descriptor of the process's end of each pair, and looks at what is in it.

mod port;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::thread;

use rustix::event::epoll::EventFlags;
use sterna_ingress::ConnectionId;

use crate::watch::{Token, Watch};
pub(crate) use port::{Port, section, take_from};

/// Watches all descriptors.
pub(crate) struct Clients(Watch<(Weak<Port>, What)>);

/// What something happened to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// The attachment.
    Attachment,
    /// The queue of connections that wait to be accepted.
    Queue,
    /// One connection.
    Pair(ConnectionId),
}

impl Clients {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let clients = Arc::new(Self(Watch::new()?));
        let watching = Arc::clone(&clients);
        thread::Builder::new()
            .name("clients".into())
            .spawn(move || {
                watching.0.serve(|_, (port, what)| {
                    if let Some(port) = port.upgrade() {
                        port.happened(what);
                    }
                })
            })?;
        Ok(clients)
    }

    /// Has a port told whenever something becomes possible with a descriptor.
    fn watch(&self, port: &Weak<Port>, what: What, handle: impl AsFd) -> io::Result<Token> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.0.add(handle, flags, (Weak::clone(port), what))
    }

    /// The same no longer.
    fn forget(&self, token: Token, handle: impl AsFd) {
        self.0.remove(token, handle);
    }
}
