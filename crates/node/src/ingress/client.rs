//! One client: [`Client`].

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sterna_ingress::ConnectionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::port::Port;
use crate::limits::LINGER_WITHIN;

const BUFFER_BYTES: usize = 16 << 10;

/// A client's connection, as its port sees it.
#[derive(Default)]
pub(super) struct Client {
    woken: Notify,
    over: AtomicU8,
}

/// How a connection is over, once it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Over {
    /// The process has closed it, and the client has all.
    Finished = 1,
    /// It broke.
    Broken = 2,
}

/// What a turn came to.
struct Turn {
    reads: bool,
    writes: bool,
}

impl Client {
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    pub(super) fn end(&self, over: Over) {
        self.over.store(over as u8, Ordering::SeqCst);
        self.wake();
    }

    /// Passes bytes on, both ways, until it is over.
    pub(super) async fn serve(
        self: Arc<Self>,
        port: Weak<Port>,
        id: ConnectionId,
        stream: TcpStream,
    ) {
        let _ = stream.set_nodelay(true);
        let mut has_ended = false;
        loop {
            match self.over.load(Ordering::SeqCst) {
                0 => {}
                over if over == Over::Finished as u8 => return linger(stream).await,
                _ => return reset(stream),
            }
            let Some(port) = port.upgrade() else {
                return reset(stream);
            };
            let turn = match turn(&port, id, &stream, &mut has_ended) {
                Ok(turn) => turn,
                Err(error) => {
                    tracing::debug!("a client is gone: {error}");
                    return port.lost(id);
                }
            };
            drop(port);
            let interest = match (turn.reads, turn.writes) {
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            let possible = async {
                match interest {
                    Some(interest) => drop(stream.ready(interest).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = possible => {}
                () = self.woken.notified() => {}
            }
        }
    }
}

/// Writes and reads what can be. What is to be waited for.
fn turn(
    port: &Port,
    id: ConnectionId,
    stream: &TcpStream,
    has_ended: &mut bool,
) -> io::Result<Turn> {
    // Not the client's: there are many of which nothing comes.
    let mut buffer = [0; BUFFER_BYTES];
    let writes = loop {
        let written = port.with(|front| {
            let (bytes, end) = front.pending(id);
            match bytes {
                [] if end => {
                    let shut = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
                    front.delivered(id, 0, true);
                    shut.map(|()| None).map_err(io::Error::from)
                }
                [] => Ok(None),
                bytes => {
                    let count = stream.try_write(bytes)?;
                    front.delivered(id, count, false);
                    Ok(Some(count))
                }
            }
        });
        match written {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
            Err(error) => return Err(error),
        }
    };
    let reads = loop {
        let room = port.with(|front| front.room(id)).min(buffer.len());
        if *has_ended || room == 0 {
            break false;
        }
        match stream.try_read(&mut buffer[..room]) {
            Ok(0) => {
                *has_ended = true;
                port.with(|front| front.end(id));
            }
            Ok(got) => port.with(|front| front.push(id, &buffer[..got])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
            Err(error) => return Err(error),
        }
    };
    Ok(Turn { reads, writes })
}

/// The client has all. What it still sends is of no use; were the connection closed before it is read, the system would
/// break it, and the client might lose what it has not read itself (RFC 9112, section 9.6).
async fn linger(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut buffer = vec![0; BUFFER_BYTES];
    let reading = async { while stream.read(&mut buffer).await.is_ok_and(|got| got > 0) {} };
    let _ = timeout(LINGER_WITHIN, reading).await;
}

/// Breaks a connection, so that the client hears of it.
fn reset(stream: TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}
