//! [`Stop`]: asking a server to end, from anywhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Asks a server to end gracefully: it takes no more connections, ends idle ones, and sends what it has begun to send.
/// Clones ask the same server.
#[derive(Debug, Clone)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requested: AtomicBool,
    /// Readable from the request on, for ever.
    event: OwnedFd,
}

impl Stop {
    /// # Errors
    /// There are no more descriptors.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            requested: AtomicBool::new(false),
            event,
        });
        Ok(Self { shared })
    }

    /// Asks.
    pub fn request(&self) {
        self.shared.requested.store(true, Ordering::SeqCst);
        // It fails only if somebody asked 2^64 times.
        let _ = rustix::io::write(&self.shared.event, &1_u64.to_ne_bytes());
    }

    /// Whether somebody has asked.
    pub fn is_requested(&self) -> bool {
        self.shared.requested.load(Ordering::SeqCst)
    }

    /// Waits in the kernel until somebody asks.
    pub(crate) fn wait(&self) -> io::Result<()> {
        while !self.is_requested() {
            let mut polled = [PollFd::new(&self.shared.event, PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
