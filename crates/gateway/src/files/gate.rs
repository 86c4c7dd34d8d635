//! [`Gate`]: who gets in. Counts connections against the limit, and gets rid of those that there is no descriptor for.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{SendFlags, SocketFlags, accept_with, send};
use sterna_threads::io::TcpStream;

use super::places::Places;
use super::site::Site;

/// What a connection beyond the limit is told. No date: it is the same for all.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: sterna\r\nConnection: close\r\n\
    Retry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 24\r\n\r\n503 Service Unavailable\n";

/// The way into a server.
#[derive(Debug)]
pub(crate) struct Gate {
    site: Arc<Site>,
    inside: AtomicUsize,
    /// Of a process among several, which share the limit.
    places: Option<Places>,
    /// Given up for a moment when there are no more descriptors, to take a connection and close it. Otherwise it would
    /// stay in the queue, and the server would spin.
    spare: Mutex<Option<OwnedFd>>,
}

/// A connection that is inside. Dropped, it has left.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(places) = &self.0.places {
            places.give_back();
        }
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What came of a failed attempt to take a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is over; there may be more.
    Passing,
    /// Nothing can be taken now, not even to close it.
    Exhausted,
}

impl Gate {
    pub(crate) fn new(site: Arc<Site>) -> io::Result<Arc<Self>> {
        Self::of_one(site, None)
    }

    /// The way into one of several processes, if they share their places.
    pub(crate) fn of_one(site: Arc<Site>, places: Option<Places>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            site,
            inside: AtomicUsize::new(0),
            places,
            spare: Mutex::new(Some(spare()?)),
        }))
    }

    /// Connections that are inside.
    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }

    /// Lets a connection in, or says that the server is full.
    pub(crate) fn admit(self: &Arc<Self>, stream: &TcpStream) -> Option<Pass> {
        if let Some(pass) = self.pass() {
            // Small responses are not held back for larger ones. If it fails they are.
            let _ = stream.set_nodelay(true);
            return Some(pass);
        }
        self.site.counts.turned_away.fetch_add(1, Ordering::Relaxed);
        // As far as it can be told at once; the buffer of a new connection is empty.
        let _ = send(stream, FULL, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let _ = stream.shutdown(Shutdown::Write);
        // What was sent already is read, or the kernel would reset the connection.
        let _ = rustix::io::read(stream, &mut [0; 2048]);
        None
    }

    /// If there is room.
    fn pass(self: &Arc<Self>) -> Option<Pass> {
        let limit = self.site.settings.limits.connections;
        let is_free = self.inside.fetch_add(1, Ordering::AcqRel) < limit
            && self.places.as_ref().is_none_or(Places::take);
        if is_free {
            return Some(Pass(Arc::clone(self)));
        }
        self.inside.fetch_sub(1, Ordering::AcqRel);
        None
    }

    /// After an error of accept(2).
    pub(crate) fn failed(&self, error: &io::Error, listener: impl AsFd) -> Failure {
        let errno = rustix::io::Errno::from_io_error(error);
        let (Some(rustix::io::Errno::MFILE) | Some(rustix::io::Errno::NFILE)) = errno else {
            // The client is gone already, or the network has a word to say: see accept(2).
            return Failure::Passing;
        };
        let mut kept = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        drop(kept.take());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let taken = accept_with(listener, flags);
        let is_taken = taken.is_ok();
        drop(taken);
        *kept = spare().ok();
        if is_taken {
            self.site.counts.turned_away.fetch_add(1, Ordering::Relaxed);
            Failure::Passing
        } else {
            Failure::Exhausted
        }
    }
}

fn spare() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(open("/dev/null", flags, Mode::empty())?)
}
