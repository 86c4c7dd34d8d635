//! [`Source`]: a descriptor whose calls are tried first and waited for if they would block.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::cancel;
use crate::here;
use crate::poller::{Edges, Side, Watch, lock};
use crate::record::Blocked;
use crate::wait::{Cancel, Outcome, Waiting};
use crate::worker::Worker;

pub(crate) struct Source<F: AsFd> {
    inner: F,
    pub(super) read_timeout: Timeout,
    pub(super) write_timeout: Timeout,
    edges: Arc<Edges>,
    /// One for each worker whose threads have waited: each hears of edges by itself, however busy others are.
    watches: Mutex<Vec<Watch>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Nanoseconds; the highest number is for ever.
pub(super) struct Timeout(AtomicU64);

impl Timeout {
    pub(super) fn set(&self, timeout: Option<Duration>) {
        let nanoseconds = timeout.and_then(|timeout| timeout.as_nanos().try_into().ok());
        self.0
            .store(nanoseconds.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn deadline(&self) -> Option<Instant> {
        match self.0.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanoseconds => Instant::now().checked_add(Duration::from_nanos(nanoseconds)),
        }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl<F: AsFd> Source<F> {
    /// Makes the descriptor non-blocking.
    pub(crate) fn new(inner: F) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&inner, true)?;
        Ok(Self {
            inner,
            read_timeout: Timeout::default(),
            write_timeout: Timeout::default(),
            edges: Arc::default(),
            watches: Mutex::default(),
        })
    }

    pub(super) fn inner(&self) -> &F {
        &self.inner
    }

    /// Of a stream of bytes: a read that leaves room has taken all there is, and the next one waits before it tries.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let is_watched = here::with_worker(|worker| worker.is_some());
        if is_watched && self.is_drained() {
            self.wait(Direction::Read, self.read_timeout.deadline())?;
        }
        let length = self.call(Direction::Read, |inner| {
            Ok(rustix::io::read(inner, &mut *buffer)?)
        })?;
        if is_watched && 0 < length && length < buffer.len() {
            lock(&self.edges.read).drained = true;
        }
        Ok(length)
    }

    /// Whether nothing has come since a read found the end of what there was. Forgets about it, and about the edge that
    /// came before the read that follows.
    fn is_drained(&self) -> bool {
        let mut side = lock(&self.edges.read);
        let edge = std::mem::take(&mut side.edge) || side.closed;
        std::mem::take(&mut side.drained) && !edge
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.call(Direction::Write, |inner| {
            Ok(rustix::io::write(inner, bytes)?)
        })
    }

    /// Tries `f` until it would not block.
    pub(super) fn call<R>(
        &self,
        direction: Direction,
        mut f: impl FnMut(&F) -> io::Result<R>,
    ) -> io::Result<R> {
        // The clock is only read if there is a time-out.
        let deadline = match direction {
            Direction::Read => self.read_timeout.deadline(),
            Direction::Write => self.write_timeout.deadline(),
        };
        loop {
            match f(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(direction, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    here::with_worker(|worker| worker.map(Worker::count_call));
                    return result;
                }
            }
        }
    }

    /// Waits until it is worth another try.
    pub(crate) fn wait(&self, direction: Direction, deadline: Option<Instant>) -> io::Result<()> {
        if here::with_worker(|worker| worker.is_some()) {
            self.wait_at_poller(direction, deadline)
        } else {
            self.wait_in_kernel(direction, deadline)
        }
    }

    fn side(&self, direction: Direction) -> &Mutex<Side> {
        match direction {
            Direction::Read => &self.edges.read,
            Direction::Write => &self.edges.write,
        }
    }

    fn wait_at_poller(&self, direction: Direction, deadline: Option<Instant>) -> io::Result<()> {
        self.begin_watch()?;
        let side = self.side(direction);
        let waiting = {
            let mut side = lock(side);
            if std::mem::take(&mut side.edge) {
                return Ok(());
            }
            let waiting = Waiting::begin();
            side.line.push(waiting.ticket(), ());
            waiting
        };
        match waiting.wait(deadline, Cancel::May) {
            Outcome::Granted => {
                // The next try will see everything up to now.
                lock(side).edge = false;
                Ok(())
            }
            Outcome::TimedOut => {
                lock(side).line.remove(waiting);
                Err(io::ErrorKind::TimedOut.into())
            }
            Outcome::Cancelled => {
                lock(side).line.remove(waiting);
                cancel::raise();
            }
        }
    }

    fn begin_watch(&self) -> io::Result<()> {
        let mut watches = lock(&self.watches);
        here::with_worker(|worker| {
            let Some(worker) = worker else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            let poller = &worker.inbox.poller;
            if !watches.iter().any(|watch| watch.is_at(poller)) {
                watches.push(poller.watch(&self.inner, &self.edges)?);
            }
            Ok(())
        })
    }

    fn wait_in_kernel(&self, direction: Direction, deadline: Option<Instant>) -> io::Result<()> {
        let flags = match direction {
            Direction::Read => PollFlags::IN | PollFlags::RDHUP,
            Direction::Write => PollFlags::OUT,
        };
        let record = here::record();
        let event = record.event()?;
        loop {
            cancel::checkpoint();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !record.begin_poll() {
                continue;
            }
            let mut polled = [
                PollFd::new(&self.inner, flags),
                PollFd::new(event, PollFlags::IN),
            ];
            // A time beyond what the kernel can express waits without one.
            let left = left.and_then(|left| left.try_into().ok());
            let result = poll(&mut polled, left.as_ref());
            let [ready, interrupted] = polled.map(|polled| !polled.revents().is_empty());
            record.end_block(Blocked::InPoll);
            if interrupted {
                let _ = rustix::io::read(event, &mut [0_u8; 8]);
            }
            match result {
                Ok(_) if ready => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<F: AsFd> Drop for Source<F> {
    fn drop(&mut self) {
        for watch in lock(&self.watches).drain(..) {
            watch.end(&self.inner);
        }
    }
}

impl<F: AsFd + std::fmt::Debug> std::fmt::Debug for Source<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(formatter)
    }
}
