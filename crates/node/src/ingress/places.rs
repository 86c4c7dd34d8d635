//! How many clients a node has at once: [`Places`].
//!
//! Anybody may connect, and each client is a descriptor of the service. What it needs besides, to be asked and to move
//! processes away, is not for clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::CLIENTS_MAX;

/// Places of clients, at all ports of a node together.
pub(super) struct Places {
    free: Arc<Semaphore>,
    turned_away: AtomicU64,
}

impl Places {
    /// At most as many as a quarter of the descriptors that this process may have: a runner, which may have as many, has
    /// two of each client.
    pub(super) fn new() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let quarter = descriptors.and_then(|most| usize::try_from(most / 4).ok());
        Self::of(quarter.unwrap_or(CLIENTS_MAX).min(CLIENTS_MAX))
    }

    pub(super) fn of(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            turned_away: AtomicU64::new(0),
        }
    }

    /// A place, until it is dropped.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        let taken = Arc::clone(&self.free).try_acquire_owned().ok();
        if taken.is_none() {
            let count = self.turned_away.fetch_add(1, Ordering::Relaxed) + 1;
            // Clients do not fill the log.
            if count.is_power_of_two() {
                tracing::warn!("no place for more clients: {count} were turned away until now");
            }
        }
        taken
    }
}
