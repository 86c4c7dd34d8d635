//! [`Notifier`]: a descriptor that becomes readable, to be waited for beside others (eventfd(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use thiserror::Error;

/// Why a notifier could not be made or waited for.
#[derive(Debug, Error)]
#[error("a notifier failed ({step})")]
pub struct NotifierError {
    /// The system call.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// A flag with a descriptor: readable from [`raise`](Notifier::raise) to [`clear`](Notifier::clear).
#[derive(Debug)]
pub struct Notifier {
    event: OwnedFd,
}

impl Notifier {
    /// A lowered one.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new() -> Result<Notifier, NotifierError> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| NotifierError {
                step: "eventfd",
                source: error.into(),
            })?;
        Ok(Notifier { event })
    }

    /// Makes the descriptor readable; more often than once is the same as once. Async-signal-safe.
    pub fn raise(&self) {
        // The only possible error is a full counter (EAGAIN), which is raised already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable; whether it was readable. Async-signal-safe.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.event, &mut [0u8; 8]).is_ok()
    }

    /// Waits until it is raised, at most for `within`; whether it is.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn wait(&self, within: Duration) -> Result<bool, NotifierError> {
        let deadline = std::time::Instant::now().checked_add(within);
        loop {
            let left = deadline
                .map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()));
            let left = left.and_then(|left| left.try_into().ok());
            match rustix::event::poll(
                &mut [PollFd::new(&self.event, PollFlags::IN)],
                left.as_ref(),
            ) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(NotifierError {
                        step: "poll",
                        source: error.into(),
                    });
                }
            }
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
