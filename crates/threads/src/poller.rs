//! [`Poller`]: where a worker sleeps, and by what it is woken: descriptors that became ready, other threads, time.
//!
//! Descriptors are watched edge-triggered in both directions, once and for as long as they are open: each call is tried
//! first, and only if it would block does its thread wait for an edge.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::wait::{Line, Waiting};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// The event by which other threads interrupt.
const INTERRUPT: u64 = u64::MAX;
/// The event of the worker's ring, which the worker looks at by itself after each poll.
const RING: u64 = u64::MAX - 1;

/// Room for events, kept by the worker that polls.
pub(crate) type Events = Vec<epoll::Event>;

pub(crate) struct Poller {
    epoll: OwnedFd,
    interrupt: OwnedFd,
    sources: Mutex<Sources>,
    watched: AtomicUsize,
    /// In place of the kernel, which the model checker knows nothing of: whether there was an interruption.
    #[cfg(loom)]
    interrupted: crate::primitives::Flag,
}

#[derive(Default)]
struct Sources {
    /// With a generation each, so that an event of a descriptor that was closed reaches no newer one.
    slots: Vec<(u32, Option<Arc<Edges>>)>,
    free: Vec<u32>,
}

/// Who waits for a descriptor.
#[derive(Default)]
pub(crate) struct Edges {
    pub(crate) read: Mutex<Side>,
    pub(crate) write: Mutex<Side>,
    /// Reads begun, changed under the lock of `read`.
    pub(crate) reads: AtomicU32,
    /// The number of a read that left room: if it was the last, nothing was there any more, and another is not worth a
    /// try before there is an edge.
    pub(crate) drained: AtomicU32,
}

/// One direction.
#[derive(Default)]
pub(crate) struct Side {
    /// There was an edge that nobody waited for.
    pub(crate) edge: bool,
    /// The other end will send no more, so no edge may follow.
    pub(crate) closed: bool,
    pub(crate) line: Line,
}

/// That a descriptor is watched.
pub(crate) struct Watch {
    poller: Arc<Poller>,
    key: u64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, so that nobody has to read it.
        epoll::add(
            &epoll,
            &interrupt,
            EventData::new_u64(INTERRUPT),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Self {
            epoll,
            interrupt,
            sources: Mutex::default(),
            watched: AtomicUsize::new(0),
            #[cfg(loom)]
            interrupted: crate::primitives::Flag::default(),
        })
    }

    #[cfg(loom)]
    pub(crate) fn interrupt(&self) {
        self.interrupted.raise();
    }

    #[cfg(loom)]
    pub(crate) fn poll(&self, _timeout: Option<Duration>, _events: &mut Events) {
        self.interrupted.wait();
    }

    /// Ends the sleep that the worker is in or about to begin.
    #[cfg(not(loom))]
    pub(crate) fn interrupt(&self) {
        // It fails only if nobody took 2^64 interruptions.
        let _ = rustix::io::write(&self.interrupt, &1_u64.to_ne_bytes());
    }

    #[inline]
    pub(crate) fn is_watching(&self) -> bool {
        self.watched.load(Ordering::Relaxed) > 0
    }

    /// Sleeps until something happens or `timeout` is over (`None`: for ever), and grants those who waited for it.
    #[cfg(not(loom))]
    pub(crate) fn poll(&self, timeout: Option<Duration>, events: &mut Events) {
        events.clear();
        events.reserve(EVENTS_MAX);
        // A time beyond what the kernel can express waits without one.
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        let buffer = rustix::buffer::spare_capacity(events);
        // Interrupted by a signal: there is nothing then, and the caller looks again.
        let _ = epoll::wait(&self.epoll, buffer, timeout.as_ref());
        if events.is_empty() {
            return;
        }
        // Locked for all of them: whoever wakes touches no other lock of descriptors.
        let sources = lock(&self.sources);
        for event in events {
            let (key, flags) = (event.data.u64(), event.flags);
            if key != INTERRUPT
                && key != RING
                && let Some(edges) = sources.edges(key)
            {
                edges.happened(flags);
            }
        }
    }

    /// Lets answers in a ring end the sleep of the worker.
    pub(crate) fn watch_ring(&self, ring: impl AsFd) -> io::Result<()> {
        let data = EventData::new_u64(RING);
        Ok(epoll::add(&self.epoll, ring, data, EventFlags::IN)?)
    }

    /// Watches a descriptor from now on. What it is ready for already counts as an edge.
    pub(crate) fn watch(
        self: &Arc<Self>,
        descriptor: impl AsFd,
        edges: &Arc<Edges>,
    ) -> io::Result<Watch> {
        let key = {
            let mut sources = lock(&self.sources);
            let index = match sources.free.pop() {
                Some(index) => index,
                None => {
                    sources.slots.push((0, None));
                    (sources.slots.len() - 1) as u32
                }
            };
            let slot = &mut sources.slots[index as usize];
            slot.1 = Some(Arc::clone(edges));
            u64::from(slot.0) << 32 | u64::from(index)
        };
        self.watched.fetch_add(1, Ordering::Relaxed);
        let watch = Watch {
            poller: Arc::clone(self),
            key,
        };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, descriptor, EventData::new_u64(key), flags)?;
        Ok(watch)
    }
}

impl Sources {
    fn edges(&self, key: u64) -> Option<&Edges> {
        let (generation, edges) = self.slots.get(key as u32 as usize)?;
        let is_current = u64::from(*generation) == key >> 32;
        edges.as_deref().filter(|_| is_current)
    }
}

impl Watch {
    pub(crate) fn is_at(&self, poller: &Arc<Poller>) -> bool {
        Arc::ptr_eq(&self.poller, poller)
    }

    /// Before the descriptor is closed or given away.
    pub(crate) fn end(self, descriptor: impl AsFd) {
        // It fails if the descriptor is not watched, which is what is wanted.
        let _ = epoll::delete(&self.poller.epoll, descriptor);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut sources = lock(&self.poller.sources);
        let index = self.key as u32;
        let slot = &mut sources.slots[index as usize];
        *slot = (slot.0.wrapping_add(1), None);
        sources.free.push(index);
        self.poller.watched.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Edges {
    fn happened(&self, flags: EventFlags) {
        let failed = EventFlags::ERR | EventFlags::HUP;
        let closed = EventFlags::RDHUP | failed;
        if flags.intersects(EventFlags::IN | closed) {
            let mut read = lock(&self.read);
            read.closed |= flags.intersects(closed);
            read.happened();
        }
        if flags.intersects(EventFlags::OUT | failed) {
            lock(&self.write).happened();
        }
    }
}

impl Side {
    /// The running thread's wait for an edge.
    pub(crate) fn begin_wait(&mut self) -> Waiting {
        let waiting = Waiting::begin();
        self.line.push(waiting.ticket(), ());
        waiting
    }

    /// Who waited tries again, and sees all up to now. If nobody did, the next one to wait does.
    fn happened(&mut self) {
        self.edge |= !self.line.grant_all();
    }
}
