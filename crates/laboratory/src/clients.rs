//! What a move of a server costs its clients: many of the key-value server of `guests/servers/kv.c`, on connections that
//! they keep, which check every answer.
//!
//! In an open loop requests are due at a rate, whether the server keeps up or not, and are sent when they are due,
//! behind others without an answer if need be (pipelining, RFC 9112, section 9.3.2). Their time counts from when they
//! were due, so that one gap is seen by all who would have asked meanwhile ("coordinated omission", Tene 2013).
//!
//! Each client has keys of its own, all over the server's table, so it knows what each answer must be: how often a key
//! was written, and what was written last. Requests on one connection are answered in their order.
//!
//! - [`Load`]: the clients, one thread
//! - [`Way`]: moves under such a load, with [`moves`]; [`Effect`], what a stretch of time was like
//! - [`Move`]: all that was measured, and its [page](Move::page)

mod connection;
mod drive;
mod page;
mod seen;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use drive::Driver;
pub use page::{Capacity, Heap, Move};
pub use seen::{Effect, Hop, Moved, Phase, Trace, Way, moves};

/// Keys of all clients for each MiB of the server's table: half of its slots, so that every page has some and looking one
/// up stays quick.
pub const KEYS_PER_MIB: u64 = 2048;

/// What clients are told.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The server.
    pub address: SocketAddr,
    /// Connections.
    pub clients: usize,
    /// How fast.
    pub pace: Pace,
    /// Keys of all clients, at least one each.
    pub keys: u64,
}

/// How fast clients write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many writes a second are due, spread evenly over all clients.
    Open(f64),
    /// Each asks again when it has its answer.
    Closed,
}

/// An answer, in microseconds since the load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whose.
    pub client: u32,
    /// When it was to be asked for.
    pub due_us: u64,
    /// When it was there.
    pub at_us: u64,
}

/// What became of all requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Right answers.
    pub answered: u64,
    /// Requests without an answer: their connection broke, or there was none.
    pub failed: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// The first that failed or was wrong.
    pub first_fault: Option<String>,
}

/// Why there are no clients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientsError {
    /// The server takes no connection.
    #[error("could not connect to the server")]
    Connect(#[source] io::Error),
    /// The kernel gives no descriptor or thread.
    #[error("could not start clients")]
    Start(#[source] io::Error),
}

/// Clients at work. Dropping it ends them.
#[derive(Debug)]
pub struct Load {
    begun: Instant,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    answers: Vec<Answer>,
    tally: Tally,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Whether no request failed and no answer was wrong.
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.wrong == 0
    }
}

impl Load {
    /// Connects all clients, which begin at once.
    ///
    /// # Errors
    /// If one of them cannot connect, or there is no thread for them.
    pub fn begin(orders: &Orders) -> Result<Self, ClientsError> {
        let (begun, shared) = (Instant::now(), Arc::default());
        let driver = Driver::new(orders, begun, Arc::clone(&shared))?;
        let thread = thread::Builder::new()
            .name("clients".into())
            .spawn(|| driver.run())
            .map_err(ClientsError::Start)?;
        Ok(Self {
            begun,
            shared,
            thread: Some(thread),
        })
    }

    /// Microseconds since the load began.
    pub fn now_us(&self) -> u64 {
        self.at_us(Instant::now())
    }

    /// The same at another instant; 0 if it was before.
    pub fn at_us(&self, at: Instant) -> u64 {
        us(at.saturating_duration_since(self.begun))
    }

    /// The answers since this was last asked, in their order.
    pub fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.shared.seen().answers)
    }

    /// What has become of requests until now.
    pub fn tally(&self) -> Tally {
        self.shared.seen().tally.clone()
    }

    /// Asks for nothing more, and waits for the answers that are due.
    pub fn end(mut self) -> Tally {
        self.finish();
        self.tally()
    }

    fn finish(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

fn us(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}
