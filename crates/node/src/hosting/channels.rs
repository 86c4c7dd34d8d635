//! Connections on which image and pages of a move go from runner to runner.
//!
//! ```text
//! source: service                          target: service
//!   │ SaltedChannel ──────── QUIC ────────────►│ expects a caller
//!   │◄──────────────────────────────── port    │
//!   │ both export a secret from this session, for this move (RFC 5705)
//!   │ TCP, says the name that follows from it ►│ knows the caller by it
//!   ▼ connection, secret                       ▼
//! source: runner ═══════ sealed records ═══► target: runner
//! ```
//!
//! The name is said in the clear and is good once; without the secret nothing can be said on the connection.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use sterna_migration::{Attempt, NodeId};
use sterna_runner::limits::LANES;
use sterna_runner::message::{Order, Secret, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::hosting::Hosting;
use crate::identity::random;
use crate::limits::{
    CHANNEL_SILENCE, CHANNEL_WITHIN, CHANNELS_UNNAMED_MAX, CHANNELS_WAITING_MAX, RETRY_FIRST,
};
use crate::message::{Failure, FailureKind, HostingReply, HostingRequest, Reply, Request};
use crate::service::Service;
use crate::wire::encode_plain;

const LABEL: &[u8] = b"EXPORTER-sterna-pages";
const LANE_CONTEXT: &str = "sterna-node 2026 secret of a connection for pages that follow";
const NAME_CONTEXT: &str = "sterna-node 2026 name of a connection for pages";
const NAME_BYTES: usize = 32;

/// Callers that are expected.
#[derive(Default)]
pub(crate) struct Channels {
    port: Mutex<u16>,
    expected: Mutex<HashMap<[u8; NAME_BYTES], Expected>>,
}

struct Expected {
    /// Whether it is for memory that follows its process.
    lane: bool,
    source: NodeId,
    which: Which,
    secret: Secret,
    until: Instant,
}

/// Which move a connection is for, and a salt, another one each time: no key may seal two records of one number. Nodes before
/// version 3 of the protocol know none.
pub(super) type Which = (Attempt, Option<[u8; 16]>);

/// What both ends of a session have in common for one connection of a move.
fn secret(connection: &quinn::Connection, (attempt, salt): Which) -> Result<Secret, Failure> {
    let mut secret = Secret([0; 32]);
    let context = match salt {
        Some(salt) => encode_plain(&(attempt, salt)),
        None => encode_plain(&attempt),
    };
    let exported = connection.export_keying_material(&mut secret.0, LABEL, &context);
    match exported {
        Ok(()) => Ok(secret),
        Err(_) => Err(Failure::new(
            FailureKind::Internal,
            "no key could be made for the connection",
        )),
    }
}

/// The secret of one more connection for the same move.
fn of_lane(secret: &Secret, number: u8) -> Secret {
    let numbered = [&secret.0[..], &[number]].concat();
    Secret(blake3::derive_key(LANE_CONTEXT, &numbered))
}

fn name(secret: &Secret) -> [u8; NAME_BYTES] {
    blake3::derive_key(NAME_CONTEXT, &secret.0)
}

impl Channels {
    pub(crate) fn set_port(&self, port: u16) {
        *self.port.lock().unwrap_or_else(PoisonError::into_inner) = port;
    }

    /// Expects a node to connect for a move, which has asked on this connection and is the move's source now. Whether
    /// it still is when it connects, the runner knows.
    fn expect(
        &self,
        connection: &quinn::Connection,
        source: NodeId,
        which: Which,
    ) -> Result<HostingReply, Failure> {
        self.announce(&secret(connection, which)?, source, which)?;
        let port = *self.port.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(HostingReply::Channel { port })
    }

    fn announce(&self, secret: &Secret, source: NodeId, which: Which) -> Result<(), Failure> {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.retain(|_, expected| expected.until > Instant::now());
        if expected.len() >= CHANNELS_WAITING_MAX * (1 + usize::from(LANES)) {
            return Err(Failure::new(
                FailureKind::Busy,
                "too many moves begin at this node at once: try again",
            ));
        }
        let until = Instant::now() + CHANNEL_WITHIN;
        let lanes = (1..=LANES).map(|number| (true, of_lane(secret, number)));
        for (lane, secret) in lanes.chain([(false, secret.clone())]) {
            let caller = Expected {
                lane,
                source,
                which,
                secret: secret.clone(),
                until,
            };
            expected.insert(name(&secret), caller);
        }
        Ok(())
    }

    /// Whether anybody is expected.
    fn expects_some(&self) -> bool {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.retain(|_, expected| expected.until > Instant::now());
        !expected.is_empty()
    }

    fn take(&self, name: &[u8; NAME_BYTES]) -> Option<Expected> {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let found = expected.remove(name)?;
        // Whoever has asked connects for the move or for what follows it, and asks anew for the other.
        expected.retain(|_, other| other.which != found.which || other.lane == found.lane);
        (found.until > Instant::now()).then_some(found)
    }
}

impl Hosting {
    /// Expects a node to connect for a move, if it is the source.
    pub(super) async fn expect_channel(
        &self,
        connection: &quinn::Connection,
        node: NodeId,
        which: Which,
    ) -> Result<HostingReply, Failure> {
        // Attempts are in the registry, where every node can read them.
        if self.source_of(which.0).await != Some(node) {
            let message = "no process is coming from you by that move";
            return Err(Failure::new(FailureKind::Forbidden, message));
        }
        self.channels.expect(connection, node, which)
    }
}

impl Service {
    /// Connects to the target of a move.
    pub(super) async fn open_channel(
        &self,
        target: NodeId,
        attempt: Attempt,
    ) -> Result<(OwnedFd, Secret), Failure> {
        let (to, secret) = self.ask_for_channel(target, attempt).await?;
        let stream = connect(target, to, &secret).await?;
        Ok((stream, secret))
    }

    /// Connects to it some more times, for memory that follows the process. There may be fewer of these than wanted.
    pub(super) async fn open_lanes(
        &self,
        target: NodeId,
        attempt: Attempt,
    ) -> Result<Vec<(OwnedFd, Secret)>, Failure> {
        let (to, secret) = self.ask_for_channel(target, attempt).await?;
        let mut lanes = Vec::new();
        for number in 1..=LANES {
            let secret = of_lane(&secret, number);
            let Ok(lane) = connect(target, to, &secret).await else {
                break;
            };
            lanes.push((lane, secret));
        }
        Ok(lanes)
    }

    /// Has the target expect connections: where, and what both have in common.
    async fn ask_for_channel(
        &self,
        target: NodeId,
        attempt: Attempt,
    ) -> Result<(SocketAddr, Secret), Failure> {
        let unreachable = |why: String| unreachable(target, why);
        let salt = random();
        let request = HostingRequest::SaltedChannel(attempt, salt);
        let request = self.as_understood(target, request).await?;
        let salt = matches!(request, HostingRequest::SaltedChannel(..)).then_some(salt);
        let request = Request::Hosting(request);
        let asked = self.transport.ask(target, &request, CHANNEL_WITHIN).await;
        let (reply, connected) = asked.map_err(|error| unreachable(error.to_string()))?;
        let port = match reply {
            Reply::Hosting(HostingReply::Channel { port }) => port,
            Reply::Failed(failure) => return Err(failure),
            _ => return Err(unreachable("it answers another question".into())),
        };
        let connection = connected.connection();
        let secret = secret(connection, (attempt, salt))?;
        let to = SocketAddr::new(connection.remote_address().ip(), port);
        Ok((to, secret))
    }

    /// Takes connections of sources that were announced, and hands them to the runner. Anybody can connect: while nobody
    /// is expected, and when too many have not said who they are, a connection is closed at once.
    pub(crate) async fn accept_pages(self: Arc<Self>, listener: TcpListener) {
        let unnamed = Arc::new(Semaphore::new(CHANNELS_UNNAMED_MAX));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let expects = |hosting: &Arc<Hosting>| hosting.channels.expects_some();
                    let place = match self.hosting.as_ref().is_some_and(expects) {
                        true => Arc::clone(&unnamed).try_acquire_owned(),
                        false => continue,
                    };
                    if let Ok(place) = place {
                        let service = Arc::clone(&self);
                        tokio::spawn(async move {
                            service.accept_channel(stream).await;
                            drop(place);
                        });
                    }
                }
                Err(_) => sleep(RETRY_FIRST).await,
            }
        }
    }

    async fn accept_channel(&self, mut stream: tokio::net::TcpStream) {
        let Some(hosting) = &self.hosting else {
            return;
        };
        let mut said = [0; NAME_BYTES];
        let patience: Duration = CHANNEL_WITHIN;
        let Ok(Ok(_)) = timeout(patience, stream.read_exact(&mut said)).await else {
            return;
        };
        let Some(Expected {
            lane,
            source,
            which: (attempt, _),
            secret,
            ..
        }) = hosting.channels.take(&said)
        else {
            return;
        };
        if let (Ok(stream), Ok(runner)) = (blocking_stream(stream), hosting.runner()) {
            let side = Side::Target { source, lane };
            let order = Order::Channel {
                attempt,
                secret,
                side,
            };
            runner.handle.order(order, vec![stream.into()]);
        }
    }
}

fn unreachable(target: NodeId, why: String) -> Failure {
    let message = format!("no connection for pages to node {target}: {why}");
    Failure::new(FailureKind::Unreachable, message)
}

/// Connects, and says by which secret it is expected.
async fn connect(target: NodeId, to: SocketAddr, secret: &Secret) -> Result<OwnedFd, Failure> {
    let unreachable = |why: String| unreachable(target, why);
    let stream = timeout(CHANNEL_WITHIN, async {
        let mut stream = tokio::net::TcpStream::connect(to).await?;
        stream.write_all(&name(secret)).await?;
        Ok::<_, io::Error>(stream)
    });
    let stream = match stream.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(unreachable(format!(
                "TCP to {to}: {error}; does a firewall let it through?"
            )));
        }
        Err(_) => {
            return Err(unreachable(format!(
                "TCP to {to} takes longer than {CHANNEL_WITHIN:?}; does a firewall let it through?"
            )));
        }
    };
    let stream = blocking_stream(stream).map_err(|error| unreachable(error.to_string()))?;
    Ok(stream.into())
}

fn blocking_stream(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    // A node that vanished without a word is noticed, even by who only waits for an answer.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, CHANNEL_SILENCE / 3)?;
    sockopt::set_tcp_keepintvl(&stream, CHANNEL_SILENCE / 6)?;
    sockopt::set_tcp_user_timeout(&stream, CHANNEL_SILENCE.as_millis() as u32)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use sterna_migration::MoveId;
    use sterna_process::{Epoch, ProcessId};

    use super::*;

    #[tokio::test]
    async fn however_many_moves_follow_each_other_no_name_is_left() {
        let channels = Channels::default();
        for number in 0..2 * (CHANNELS_WAITING_MAX * 3) {
            let attempt = Attempt {
                process: ProcessId::random(),
                epoch: Epoch(0),
                move_id: MoveId::from_bytes(crate::identity::random()),
            };
            let which = (attempt, Some([7; 16]));
            let secret = Secret(crate::identity::random());
            channels
                .announce(&secret, NodeId::from_bytes([1; 32]), which)
                .unwrap();
            // In turns for the move itself, and for what follows it.
            match number % 2 {
                0 => assert!(!channels.take(&name(&secret)).unwrap().lane),
                _ => {
                    for lane in 1..=LANES {
                        let name = name(&of_lane(&secret, lane));
                        assert!(channels.take(&name).unwrap().lane);
                    }
                }
            }
            assert!(!channels.expects_some(), "after move {number}");
        }
    }
}
