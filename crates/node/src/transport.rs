//! QUIC between nodes: [`Transport`] dials others and asks them; `service` answers those who dial in.
//!
//! A connection's first stream carries the hellos, each further one a request and its reply. Connections are kept
//! for the next request, and made again when they have died. What stays for long has one of its own: so it takes no room
//! from requests, and is not given up with a connection on which one of them was not answered.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::identity::{NodeId, NodeKey};
use crate::limits::{
    ANSWER_WITHIN, FRAME_WITHIN, GOODBYE_WITHIN, HELLO_WITHIN, IDLE_MAX, PROBE_OLD_WITHIN,
    PROBE_WITHIN, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, REQUESTS_MAX,
};
use crate::message::{Effect, Reply, Request};
use crate::tls;
use crate::wire::{self, Hello, Versions, WireError};

/// The port of nodes, unless another is named.
pub const DEFAULT_PORT: u16 = 7355;
/// Of a stream and of a connection: bytes that a peer may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Close codes, for whoever looks at packets.
pub(crate) const CLOSE_DONE: u32 = 0;
pub(crate) const CLOSE_REFUSED: u32 = 1;

/// Why another node did not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DialError {
    /// Nobody answered.
    #[error("no answer from {}", list(addresses))]
    NoAnswer {
        /// Where it was tried.
        addresses: Vec<SocketAddr>,
    },
    /// Another node answered.
    #[error("at {} is another node, {found}, and not {expected}", list(addresses))]
    OtherNode {
        /// Where.
        addresses: Vec<SocketAddr>,
        /// Who was meant.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// What it said could not be used.
    #[error("node {node} cannot be talked to: {why}")]
    Unusable {
        /// Who.
        node: NodeId,
        /// Why.
        why: Arc<WireError>,
    },
}

fn list(addresses: &[SocketAddr]) -> String {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    match shown.is_empty() {
        true => "a node without addresses".to_owned(),
        false => shown.join(", "),
    }
}

/// A connection to another node, which has said hello.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    connection: quinn::Connection,
    hello: Hello,
    /// When that was heard.
    heard: Instant,
    /// When it last answered, in milliseconds after that.
    answered_ms: Arc<AtomicU64>,
    /// Of the protocol, that both speak.
    version: u16,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// Requests that are answered soon.
    Asking,
    /// Requests about which more is said.
    Staying,
}

/// Why there is no answer.
struct Unanswered {
    why: WireError,
    /// Whether the request can have been read.
    was_sent: bool,
}

/// That one task connects to a node, and why the last one could not.
type Dialling = Arc<tokio::sync::Mutex<Option<(Instant, DialError)>>>;

/// The node's end of all connections to others.
pub(crate) struct Transport {
    /// Where others dial in.
    pub(crate) endpoint: Endpoint,
    /// From where this node dials: any of its addresses, so that a node which listens on one only reaches all others.
    dialler: Endpoint,
    key: NodeKey,
    versions: Versions,
    open: Mutex<HashMap<(NodeId, Use), Connected>>,
    /// For connections that stay.
    dialling: Mutex<HashMap<NodeId, Dialling>>,
}

/// What a node speaks and is spoken to through, before it does.
pub(crate) struct Sockets {
    listening: UdpSocket,
    dialling: UdpSocket,
    /// Where it listens.
    pub(crate) bound: SocketAddr,
}

impl Sockets {
    /// Listens. Without an address on all of them, at the default port.
    pub(crate) fn bind(address: Option<SocketAddr>) -> io::Result<Self> {
        let listening = match address {
            Some(address) => listen(address)?,
            None => {
                let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
                let old = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
                // Only a machine without IPv6 has another reason than a taken port.
                listen(all).or_else(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => Err(error),
                    _ => listen(old),
                })?
            }
        };
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let dialling = listen(any).or_else(|_| listen((Ipv4Addr::UNSPECIFIED, 0).into()))?;
        let bound = listening.local_addr()?;
        Ok(Self {
            listening,
            dialling,
            bound,
        })
    }
}

impl Transport {
    /// On sockets that are bound already.
    pub(crate) fn new(key: NodeKey, versions: Versions, sockets: Sockets) -> io::Result<Self> {
        let mut server = ServerConfig::with_crypto(Arc::new(tls::server(&key)));
        server.transport_config(Arc::new(limits()));
        let endpoint = |config, server, socket| {
            let runtime = Arc::new(TokioRuntime);
            Endpoint::new(config, server, socket, runtime)
        };
        Ok(Self {
            endpoint: endpoint(resetting(&key), Some(server), sockets.listening)?,
            dialler: endpoint(EndpointConfig::default(), None, sockets.dialling)?,
            key,
            versions,
            open: Mutex::default(),
            dialling: Mutex::default(),
        })
    }

    /// By which this node proves who it is.
    pub(crate) const fn key(&self) -> &NodeKey {
        &self.key
    }

    /// What this node speaks.
    pub(crate) const fn versions(&self) -> &Versions {
        &self.versions
    }

    /// The version of the protocol that a node and this one have in common: asked for before something is said that not
    /// all versions have.
    pub(crate) async fn version_with(
        &self,
        node: NodeId,
        addresses: &[SocketAddr],
    ) -> Result<u16, DialError> {
        let connected = match self.open(node, Use::Asking) {
            Some(open) => open,
            None => self.renew(node, addresses).await?,
        };
        Ok(connected.version)
    }

    /// Asks a node something, on a connection that is open or on a new one, and says on which. If the one that is open is
    /// dead, it is asked again on a new one, unless it may have read already what must not be done twice.
    pub(crate) async fn ask(
        &self,
        node: NodeId,
        addresses: &[SocketAddr],
        request: &Request,
        within: Duration,
    ) -> Result<(Reply, Connected), DialError> {
        let is_repeatable = request.effect() != Effect::EachTime;
        if let Some(connected) = self.open(node, Use::Asking) {
            let old_within = match request {
                Request::Status => PROBE_OLD_WITHIN,
                _ => within,
            };
            if is_repeatable || connected.lives(PROBE_OLD_WITHIN).await {
                match connected.ask(request, old_within).await {
                    Ok(reply) => return Ok((reply, connected)),
                    Err(Unanswered { why, .. }) if !why.is_of_connection() => {
                        return Err(unusable(node, why));
                    }
                    Err(Unanswered { why, was_sent }) if was_sent && !is_repeatable => {
                        self.forget(node, &connected);
                        return Err(unusable(node, why));
                    }
                    Err(_) if connected.was_hung_up() => {
                        let addresses = addresses.to_vec();
                        return Err(DialError::NoAnswer { addresses });
                    }
                    Err(_) => {}
                }
            }
            self.forget(node, &connected);
        }
        let connected = self.renew(node, addresses).await?;
        match connected.ask(request, within).await {
            Ok(reply) => Ok((reply, connected)),
            Err(Unanswered { why, .. }) => {
                self.forget(node, &connected);
                Err(unusable(node, why))
            }
        }
    }

    /// Asks a node something about which more is to be said, in both directions, before it replies.
    pub(crate) async fn begin(
        &self,
        node: NodeId,
        addresses: &[SocketAddr],
        request: &Request,
    ) -> Result<(quinn::SendStream, quinn::RecvStream), DialError> {
        if let Some(connected) = self.open(node, Use::Staying) {
            match connected.begin(request).await {
                Ok(streams) => return Ok(streams),
                Err(_) => self.forget(node, &connected),
            }
        }
        let connected = self.dial_to_stay(node, addresses).await?;
        let begun = connected.begin(request).await;
        begun.map_err(|why| unusable(node, why))
    }

    /// Connects for what stays. Of many that want it at once one does, and what comes of it is true for all.
    async fn dial_to_stay(
        &self,
        node: NodeId,
        addresses: &[SocketAddr],
    ) -> Result<Connected, DialError> {
        let wanted = Instant::now();
        let dialling = {
            let mut all = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(node).or_default())
        };
        let mut failed = dialling.lock().await;
        if let Some(connected) = self.open(node, Use::Staying) {
            return Ok(connected);
        }
        if let Some((at, error)) = &*failed
            && *at >= wanted
        {
            return Err(error.clone());
        }
        let dialled = self.dial(node, addresses).await;
        match &dialled {
            Ok(connected) => drop(self.lock().insert((node, Use::Staying), connected.clone())),
            Err(error) => *failed = Some((Instant::now(), error.clone())),
        }
        dialled
    }

    /// Makes a new connection, which is used from then on.
    pub(crate) async fn renew(
        &self,
        node: NodeId,
        addresses: &[SocketAddr],
    ) -> Result<Connected, DialError> {
        let connected = self.dial(node, addresses).await?;
        self.lock().insert((node, Use::Asking), connected.clone());
        if let Some(other) = self.open(node, Use::Staying) {
            // The node answers. If it does not on this one, it was started again, and silence would be noticed late.
            tokio::spawn(async move {
                if !other.lives(PROBE_WITHIN).await {
                    other.connection.close(CLOSE_DONE.into(), b"silent");
                }
            });
        }
        Ok(connected)
    }

    /// Connects to a node at whichever address answers first.
    pub(crate) async fn dial(
        &self,
        node: NodeId,
        addresses: &[SocketAddr],
    ) -> Result<Connected, DialError> {
        let found = Arc::new(OnceLock::new());
        let mut config = ClientConfig::new(Arc::new(tls::client(&self.key, node, &found)));
        config.transport_config(Arc::new(limits()));
        let mut tries = JoinSet::new();
        for address in addresses {
            let (config, address) = (config.clone(), *address);
            let connecting = self.dialler.connect_with(config, address, tls::SERVER_NAME);
            if let Ok(connecting) = connecting {
                tries.spawn(timeout(
                    HELLO_WITHIN,
                    greet(connecting, self.versions.clone()),
                ));
            }
        }
        let mut failed = None;
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok(Ok(Ok(connected))) => return Ok(connected),
                Ok(Ok(Err(why @ (WireError::Foreign | WireError::Version { .. })))) => {
                    failed = Some(unusable(node, why));
                }
                _ => {}
            }
        }
        let addresses = addresses.to_vec();
        Err(match (failed, found.get()) {
            (Some(failed), _) => failed,
            (None, Some(found)) if *found != node => DialError::OtherNode {
                addresses,
                expected: node,
                found: *found,
            },
            (None, _) => DialError::NoAnswer { addresses },
        })
    }

    /// Says goodbye to all, and waits a little for it to get there.
    pub(crate) async fn close(&self) {
        for endpoint in [&self.endpoint, &self.dialler] {
            endpoint.close(CLOSE_DONE.into(), b"stopped");
        }
        let both = async {
            self.endpoint.wait_idle().await;
            self.dialler.wait_idle().await;
        };
        let _ = timeout(GOODBYE_WITHIN, both).await;
    }

    /// Closes what is open to a node: it was removed, or is elsewhere by now.
    pub(crate) fn hang_up(&self, node: NodeId) {
        let mut open = self.lock();
        for of in [Use::Asking, Use::Staying] {
            if let Some(connected) = open.remove(&(node, of)) {
                connected.connection.close(CLOSE_DONE.into(), b"gone");
            }
        }
    }

    /// What is open to a node, as far as is known.
    fn open(&self, node: NodeId, of: Use) -> Option<Connected> {
        let open = self.lock().get(&(node, of)).cloned();
        open.filter(|connected| connected.connection.close_reason().is_none())
    }

    /// Uses a connection no more. Others may still be answered on it; it is closed after the last of them.
    fn forget(&self, node: NodeId, connected: &Connected) {
        self.lock().retain(|(of, _), known| {
            *of != node || known.connection.stable_id() != connected.connection.stable_id()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(NodeId, Use), Connected>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    /// By how much the other's clock is ahead of ours, in milliseconds, if nobody has set it since the hellos.
    pub(crate) fn clock_ahead_ms(&self) -> i64 {
        let since = self.heard.elapsed().as_millis();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        self.hello.clock_ahead_ms().saturating_add(since)
    }

    /// Whether this node has closed it.
    fn was_hung_up(&self) -> bool {
        let reason = self.connection.close_reason();
        matches!(reason, Some(quinn::ConnectionError::LocallyClosed))
    }

    pub(crate) const fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Asks on a stream of its own.
    async fn ask(&self, request: &Request, within: Duration) -> Result<Reply, Unanswered> {
        let mut was_sent = false;
        let asked = timeout(within, async {
            let (mut to, mut from) = self.begin(request).await?;
            was_sent = true;
            let _ = to.finish();
            wire::receive(&mut from, REPLY_BYTES_MAX, within).await
        });
        let answered = asked.await;
        match answered.unwrap_or(Err(WireError::TimedOut { within })) {
            Ok(reply) => {
                let now_ms = u64::try_from(self.heard.elapsed().as_millis());
                let now_ms = now_ms.unwrap_or(u64::MAX);
                self.answered_ms.store(now_ms, Ordering::Relaxed);
                Ok(reply)
            }
            Err(why) => Err(Unanswered { why, was_sent }),
        }
    }

    /// Whether the other end has answered within this time, or does so.
    async fn lives(&self, within: Duration) -> bool {
        let answered = Duration::from_millis(self.answered_ms.load(Ordering::Relaxed));
        self.heard.elapsed().saturating_sub(answered) < within
            || self.ask(&Request::Status, within).await.is_ok()
    }

    /// Sends a request. If that fails, it is not read: its end is missing.
    async fn begin(
        &self,
        request: &Request,
    ) -> Result<(quinn::SendStream, quinn::RecvStream), WireError> {
        let within = ANSWER_WITHIN;
        let opened = timeout(within, self.connection.open_bi()).await;
        let opened = opened.map_err(|_| WireError::TimedOut { within })?;
        let (mut to, from) = opened.map_err(io::Error::from)?;
        wire::send(&mut to, request, REQUEST_BYTES_MAX, FRAME_WITHIN).await?;
        Ok((to, from))
    }
}

async fn greet(connecting: quinn::Connecting, versions: Versions) -> Result<Connected, WireError> {
    let connection = connecting.await.map_err(io::Error::from)?;
    let (mut to, mut from) = connection.open_bi().await.map_err(io::Error::from)?;
    let hello = wire::greet(&mut from, &mut to, &versions, HELLO_WITHIN).await?;
    let _ = to.finish();
    Ok(Connected {
        connection,
        version: hello.version(&versions)?,
        hello,
        heard: Instant::now(),
        answered_ms: Arc::default(),
    })
}

fn unusable(node: NodeId, why: WireError) -> DialError {
    let why = Arc::new(why);
    DialError::Unusable { node, why }
}

/// What tokens of resets are derived from.
struct ResetKey([u8; 32]);

impl ResetKey {
    fn hash(&self, data: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, data)
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(self.hash(data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // In constant time.
        match self.hash(data) == *signature {
            true => Ok(()),
            false => Err(CryptoError),
        }
    }
}

/// An endpoint that knows the connections of the one before it as such, and resets them: so others notice at once that
/// a node was started again, and do not wait for answers that will not come.
fn resetting(key: &NodeKey) -> EndpointConfig {
    let secret = ResetKey(*key.resets());
    // Their hash is a weak one, and must not tell anything of that.
    let ids = secret.hash(b"ids");
    let ids = u64::from_le_bytes(*ids.as_bytes().first_chunk().expect("it has 32"));
    let mut config = EndpointConfig::new(Arc::new(secret));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

/// What QUIC itself lets a peer do.
fn limits() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(REQUESTS_MAX.into())
        .max_concurrent_uni_streams(0_u8.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IDLE_MAX.try_into().ok())
        .keep_alive_interval(Some(IDLE_MAX / 3));
    config
}

/// A UDP socket that, if it is bound to all of IPv6, takes IPv4 as well, whatever the system's default is.
fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket.into())
}

/// Where others can reach a socket that is bound so: the addresses of this machine that lead outside, and if there
/// is none, itself.
pub(crate) fn reachable_at(bound: SocketAddr) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let port = bound.port();
    // Addresses of documentation (RFC 5737, RFC 3849). Connecting a UDP socket sends nothing, and tells the route.
    let routes = [
        ("0.0.0.0:0", "192.0.2.1:9", true),
        ("[::]:0", "[2001:db8::1]:9", bound.is_ipv6()),
    ];
    let mut found = Vec::new();
    for (from, to, usable) in routes {
        let local = || {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.local_addr()
        };
        if let (true, Ok(local)) = (usable, local())
            && !local.ip().is_unspecified()
        {
            found.push(SocketAddr::new(local.ip(), port));
        }
    }
    if found.is_empty() {
        found.push((Ipv4Addr::LOCALHOST, port).into());
    }
    found
}
