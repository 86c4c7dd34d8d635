//! The control socket of a hosted process: [`Server`]. What is said on it: [`protocol`](crate::protocol).

use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::seat::Seat;
use crate::protocol::{self, Reply, Request};

/// Requests that are carried out at once; more are refused.
const CONNECTIONS_MAX: usize = 32;
/// How long the other end may take to say what it wants, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed (too many open files), before the next.
const RETRY: Duration = Duration::from_millis(50);

/// Answers on the socket until this program ends.
pub(super) struct Server {
    busy: Arc<Busy>,
}

/// How many requests are being carried out.
#[derive(Default)]
struct Busy {
    connections: Mutex<usize>,
    fewer: Condvar,
}

impl Server {
    pub(super) fn start(listener: UnixListener, seat: Arc<Seat>) -> Result<Self> {
        let busy = Arc::new(Busy::default());
        let server = Self {
            busy: Arc::clone(&busy),
        };
        thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &seat, &busy))
            .context("could not start the thread that answers requests")?;
        Ok(server)
    }

    /// Waits until all requests are answered.
    pub(super) fn drain(&self, within: Duration) {
        let connections = self.busy.connections();
        let some = |connections: &mut usize| *connections > 0;
        let _ = self
            .busy
            .fewer
            .wait_timeout_while(connections, within, some);
    }
}

impl Busy {
    fn connections(&self) -> MutexGuard<'_, usize> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request in, if there are not too many.
    fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut connections = self.connections();
        if *connections >= CONNECTIONS_MAX {
            return None;
        }
        *connections += 1;
        Some(Entered(Arc::clone(self)))
    }
}

/// A request that is counted.
struct Entered(Arc<Busy>);

impl Drop for Entered {
    fn drop(&mut self) {
        *self.0.connections() -= 1;
        self.0.fewer.notify_all();
    }
}

fn accept(listener: &UnixListener, seat: &Arc<Seat>, busy: &Arc<Busy>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            thread::sleep(RETRY);
            continue;
        };
        if prepare(&stream).is_err() {
            continue;
        }
        let Some(entered) = busy.enter() else {
            let message = format!("{CONNECTIONS_MAX} requests are being carried out: try again");
            let _ = protocol::send(&mut stream, &Reply::Failed { message });
            continue;
        };
        let seat = Arc::clone(seat);
        // Without a thread the connection is closed, and the other end sees that.
        let _ = thread::Builder::new()
            .name("request".into())
            .spawn(move || {
                let _entered = entered;
                serve(&mut stream, &seat);
            });
    }
}

fn prepare(stream: &UnixStream) -> Result<()> {
    protocol::check_peer(stream)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

/// Answers one request. That the other end goes away changes nothing in what is being done for it.
fn serve(stream: &mut UnixStream, seat: &Seat) {
    let request = match protocol::receive::<Request>(stream) {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(error) => {
            let message = format!("{error:#}");
            let _ = protocol::send(stream, &Reply::Failed { message });
            return;
        }
    };
    if !is_waiting(stream) {
        return;
    }
    let mut progress = |done, total| {
        let _ = protocol::send(stream, &Reply::Progress { done, total });
    };
    let reply = answer(&request, seat, &mut progress).unwrap_or_else(|error| Reply::Failed {
        message: format!("{error:#}"),
    });
    let _ = protocol::send(stream, &reply);
}

/// Whether the other end still waits for an answer. While this program was stopped it may have given up, and said
/// that nothing was done.
fn is_waiting(stream: &mut UnixStream) -> bool {
    let more = stream
        .set_nonblocking(true)
        .and_then(|()| stream.read(&mut [0]));
    let blocks = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    more.is_err_and(|error| blocks(&error)) && stream.set_nonblocking(false).is_ok()
}

fn answer(request: &Request, seat: &Seat, progress: &mut dyn FnMut(u64, u64)) -> Result<Reply> {
    Ok(match request {
        Request::Status => Reply::Status(seat.status()),
        Request::Describe => Reply::Described(Box::new(seat.describe()?)),
        Request::Freeze(order) => Reply::Frozen(seat.freeze(order, progress)?),
        Request::Pause => seat.pause().map(|()| Reply::Done)?,
        Request::Resume => seat.resume().map(|()| Reply::Done)?,
        Request::Kill => seat.kill().map(|()| Reply::Done)?,
    })
}
