//! [`Source`]: a descriptor whose calls are tried first and waited for if they would block.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    /// The address of a poller among those, or 0: mostly it is the next one asked for.
    watched_at: AtomicUsize,
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
        Ok(Self::to_wait_for(inner))
    }

    /// For a descriptor that must stay as it is, since others have it, too: it can only be waited for.
    pub(crate) fn to_wait_for(inner: F) -> Self {
        Self {
            inner,
            read_timeout: Timeout::default(),
            write_timeout: Timeout::default(),
            edges: Arc::default(),
            watches: Mutex::default(),
            watched_at: AtomicUsize::new(0),
        }
    }

    pub(super) fn inner(&self) -> &F {
        &self.inner
    }

    /// Reads by `call`. A read of a stream that leaves room has taken all there is, and the next one waits before it tries.
    pub(super) fn read(
        &self,
        buffer: &mut [u8],
        call: impl Fn(&F, &mut [u8]) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let is_watched = here::with_worker(|worker| worker.is_some());
        let number = is_watched.then(|| self.begin_read()).transpose()?;
        let length = self.call(Direction::Read, |inner| Ok(call(inner, buffer)?))?;
        if let Some(number) = number
            && 0 < length
            && length < buffer.len()
        {
            self.edges.drained.store(number, Ordering::Release);
        }
        Ok(length)
    }

    /// Waits if nothing has come since the last read found the end of what there was. The number of the read that
    /// follows, before which no edge counts any more.
    fn begin_read(&self) -> io::Result<u32> {
        let reads = &self.edges.reads;
        let is_drained = || {
            let last = reads.load(Ordering::Relaxed);
            last != 0 && last == self.edges.drained.load(Ordering::Acquire)
        };
        let may_wait = is_drained();
        if may_wait {
            self.begin_watch()?;
        }
        let mut side = lock(&self.edges.read);
        let edge = std::mem::take(&mut side.edge) || side.closed;
        let waiting = (may_wait && is_drained() && !edge).then(|| side.begin_wait());
        let number = reads.load(Ordering::Relaxed).wrapping_add(1);
        reads.store(number, Ordering::Relaxed);
        drop(side);
        if let Some(waiting) = waiting {
            self.finish_wait(waiting, Direction::Read, self.read_timeout.deadline())?;
        }
        Ok(number)
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
            side.begin_wait()
        };
        self.finish_wait(waiting, direction, deadline)
    }

    fn finish_wait(
        &self,
        waiting: Waiting,
        direction: Direction,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let outcome = waiting.wait(deadline, Cancel::May);
        if outcome == Outcome::Granted {
            return Ok(());
        }
        lock(self.side(direction)).line.remove(waiting);
        match outcome {
            Outcome::Cancelled => cancel::raise(),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn begin_watch(&self) -> io::Result<()> {
        here::with_worker(|worker| {
            let Some(worker) = worker else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            let poller = &worker.inbox.poller;
            let address = Arc::as_ptr(poller).addr();
            // A watch keeps its poller, so no other one is at that address.
            if self.watched_at.load(Ordering::Relaxed) == address {
                return Ok(());
            }
            let mut watches = lock(&self.watches);
            if !watches.iter().any(|watch| watch.is_at(poller)) {
                watches.push(poller.watch(&self.inner, &self.edges)?);
            }
            self.watched_at.store(address, Ordering::Relaxed);
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
