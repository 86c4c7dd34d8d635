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

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rustix::event::epoll::{self, EventFlags};
use sterna_ingress::ConnectionId;

pub(crate) use port::{Port, section, take_from};

const EVENTS_AT_ONCE: usize = 256;

/// Watches all descriptors.
pub(crate) struct Clients {
    epoll: OwnedFd,
    watched: Mutex<HashMap<u64, (Weak<Port>, What)>>,
    next: AtomicU64,
}

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

/// A descriptor is watched as long as it has this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl Clients {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let clients = Arc::new(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            watched: Mutex::default(),
            next: AtomicU64::new(0),
        });
        let watching = Arc::clone(&clients);
        thread::Builder::new()
            .name("clients".into())
            .spawn(move || watching.watch_all())?;
        Ok(clients)
    }

    /// Has a port told whenever something becomes possible with a descriptor.
    fn watch(&self, port: &Weak<Port>, what: What, handle: impl AsFd) -> io::Result<Token> {
        let token = Token(self.next.fetch_add(1, Ordering::Relaxed));
        locked(&self.watched).insert(token.0, (Weak::clone(port), what));
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = epoll::add(
            &self.epoll,
            handle,
            epoll::EventData::new_u64(token.0),
            flags,
        );
        if let Err(error) = added {
            locked(&self.watched).remove(&token.0);
            return Err(error.into());
        }
        Ok(token)
    }

    /// The same no longer. To be called before the descriptor is closed: others may have it open.
    fn forget(&self, token: Token, handle: impl AsFd) {
        locked(&self.watched).remove(&token.0);
        let _ = epoll::delete(&self.epoll, handle);
    }

    fn watch_all(&self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&self.epoll, spare, None).is_err() {
                continue; // interrupted
            }
            for event in &events {
                let event: &epoll::Event = event;
                let known = locked(&self.watched).get(&event.data.u64()).cloned();
                if let Some((port, what)) = known
                    && let Some(port) = port.upgrade()
                {
                    port.happened(what);
                }
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
