//! The service's end of the link to a runner: [`Handle`].
//!
//! Orders are queued and written by one thread, what the runner says is read by another, which calls back; so nobody who
//! gives an order waits for a runner that is stopped or slow.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use sterna_sys::identity::peer_credentials;
use sterna_sys::messages::{PeerProcess, peer_process};

use crate::limits::{HELLO_WITHIN, ORDERS_WAITING_MAX};
use crate::link::{self, LinkError, borrowed};
use crate::message::{Answer, Numbered, Order, Said};

/// Why there is no link to a runner.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// No runner is there.
    #[error("no runner listens there")]
    NotThere(#[source] io::Error),
    /// It does not speak as it should.
    #[error("the runner does not answer as it should")]
    Link(#[from] LinkError),
    /// The process at the other end cannot be held on to.
    #[error("the runner's process cannot be watched")]
    Process(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system has no more threads or descriptors.
    #[error("could not start threads for the runner")]
    Threads(#[source] io::Error),
}

/// Takes an answer.
type Taker = Box<dyn FnOnce(Result<Answer, String>) + Send>;

/// A runner, as its service sees it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<(Numbered, Vec<OwnedFd>)>,
    waiting: Arc<Mutex<Waiting>>,
    next: Arc<AtomicU64>,
    process: Arc<PeerProcess>,
    pid: u32,
}

#[derive(Default)]
struct Waiting {
    takers: HashMap<u64, Taker>,
    /// Set when nothing will be answered any more.
    is_over: bool,
}

impl Handle {
    /// Connects to the runner that listens at `path`. `on_said` is called with all that is no answer, in its order, and
    /// with `None` when the link has ended; by then all orders without an answer have failed.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn connect(
        path: &Path,
        on_said: impl FnMut(Option<Said>) + Send + 'static,
    ) -> Result<Self, HandleError> {
        let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                HandleError::NotThere(error)
            }
            // Perhaps one is there: nobody is to start another.
            _ => HandleError::Link(error.into()),
        })?;
        stream
            .set_read_timeout(Some(HELLO_WITHIN))
            .map_err(HandleError::Threads)?;
        link::greet(&mut stream)?;
        stream
            .set_read_timeout(None)
            .map_err(HandleError::Threads)?;
        let process = peer_process(&stream).map_err(|error| HandleError::Process(error.into()))?;
        let peer = peer_credentials(&stream).map_err(|error| HandleError::Process(error.into()))?;
        let reading = stream.try_clone().map_err(HandleError::Threads)?;
        let (queue, orders) = mpsc::sync_channel(ORDERS_WAITING_MAX);
        let handle = Self {
            queue,
            waiting: Arc::default(),
            next: Arc::default(),
            process: Arc::new(process),
            pid: peer.pid,
        };
        let waiting = Arc::clone(&handle.waiting);
        thread::Builder::new()
            .name("to runner".into())
            .spawn(move || write(&stream, &orders))
            .map_err(HandleError::Threads)?;
        thread::Builder::new()
            .name("from runner".into())
            .spawn(move || read(&reading, &waiting, on_said))
            .map_err(HandleError::Threads)?;
        Ok(handle)
    }

    /// Gives an order of which events come, or nothing. If the runner is gone, `None` is called back.
    pub fn order(&self, order: Order, descriptors: Vec<OwnedFd>) {
        self.enqueue(0, order, descriptors);
    }

    /// Gives an order, and takes its answer: what came of it, or text for people.
    pub fn ask(
        &self,
        order: Order,
        descriptors: Vec<OwnedFd>,
        taker: impl FnOnce(Result<Answer, String>) + Send + 'static,
    ) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = locked(&self.waiting);
        if waiting.is_over {
            drop(waiting);
            return taker(Err(GONE.into()));
        }
        waiting.takers.insert(number, Box::new(taker));
        drop(waiting);
        if !self.enqueue(number, order, descriptors)
            && let Some(taker) = locked(&self.waiting).takers.remove(&number)
        {
            taker(Err("the runner does not keep up: try again".into()));
        }
    }

    fn enqueue(&self, number: u64, order: Order, descriptors: Vec<OwnedFd>) -> bool {
        let numbered = Numbered { number, order };
        match self.queue.try_send((numbered, descriptors)) {
            Ok(()) => true,
            // The end of the link is told by who reads.
            Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }

    /// The runner's process: to wait for its end, which alone says that it has died.
    #[must_use]
    pub fn process(&self) -> Arc<PeerProcess> {
        Arc::clone(&self.process)
    }

    /// Its number, for people; 0 if it is not in sight.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}

const GONE: &str = "the runner is gone";

fn write(stream: &UnixStream, orders: &Receiver<(Numbered, Vec<OwnedFd>)>) {
    for (numbered, descriptors) in orders {
        if let Err(error) = link::send(stream, &numbered, &borrowed(&descriptors)) {
            tracing::warn!("an order does not get to the runner: {error}");
            break;
        }
    }
    // Whoever reads hears it.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn read(stream: &UnixStream, waiting: &Mutex<Waiting>, mut on_said: impl FnMut(Option<Said>)) {
    loop {
        match link::receive::<Said>(stream) {
            Ok((Said::Answer { number, answer }, _)) => {
                let taker = locked(waiting).takers.remove(&number);
                if let Some(taker) = taker {
                    taker(answer);
                }
            }
            Ok((said, _)) => on_said(Some(said)),
            Err(error) => {
                tracing::debug!("no more from the runner: {error}");
                break;
            }
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let takers = {
        let mut waiting = locked(waiting);
        waiting.is_over = true;
        std::mem::take(&mut waiting.takers)
    };
    for taker in takers.into_values() {
        taker(Err(GONE.into()));
    }
    on_said(None);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
