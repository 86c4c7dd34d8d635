//! QUIC between nodes: [`Transport`] dials others and asks them; `service` answers those who dial in.
//!
//! A connection's first stream carries the hellos, each further one a request and its reply. Connections are kept
//! for the next request, and made again when they have died. What stays for long has one of its own: so it takes no room
//! from requests, and is not given up with a connection on which one of them was not answered.
//!
//! Where the nodes of the cluster are it is told with each list of them; one that moves meanwhile is asked where it is then.
//!
//! - `endpoint`: sockets, and QUIC on them

mod endpoint;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use quinn::{ClientConfig, Endpoint};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::endpoint::DEFAULT_PORT;
use self::endpoint::limits;
pub(crate) use self::endpoint::{Sockets, reachable_at};
use crate::identity::{NodeId, NodeKey};
use crate::limits::{
    ANSWER_WITHIN, FRAME_WITHIN, GOODBYE_WITHIN, HELLO_WITHIN, PROBE_OLD_WITHIN, PROBE_WITHIN,
    REPLY_BYTES_MAX, REQUEST_BYTES_MAX,
};
use crate::message::{Effect, Reply, Request, Roster};
use crate::tls;
use crate::wire::{self, Hello, Versions, WireError};

/// Close codes, for whoever looks at packets.
pub(crate) const CLOSE_DONE: u32 = 0;
pub(crate) const CLOSE_REFUSED: u32 = 1;
/// Said with the former by a node that stops.
const STOPPED: &[u8] = b"stopped";

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
    /// The connection was closed here, since the node is elsewhere by now.
    #[error("node {node} has other addresses by now")]
    Elsewhere {
        /// Who.
        node: NodeId,
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
    others: Mutex<Others>,
    /// For connections that stay.
    dialling: Mutex<HashMap<NodeId, Dialling>>,
}

/// Other nodes.
#[derive(Default)]
struct Others {
    /// Where they are, as the list of nodes has it.
    addresses: HashMap<NodeId, Vec<SocketAddr>>,
    open: HashMap<(NodeId, Use), Connected>,
}

impl Transport {
    /// On sockets that are bound already.
    pub(crate) fn new(key: NodeKey, versions: Versions, sockets: Sockets) -> io::Result<Self> {
        let [endpoint, dialler] = sockets.endpoints(&key)?;
        Ok(Self {
            endpoint,
            dialler,
            key,
            versions,
            others: Mutex::default(),
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

    /// Where the nodes of the cluster are from now on. What is open to where one is no longer leads nowhere, and is closed.
    pub(crate) fn set_members(&self, roster: &Roster) {
        let mut others = self.lock();
        let members = roster.members.iter();
        let now = members.map(|member| (member.id, member.about.addresses.clone()));
        let before = mem::replace(&mut others.addresses, now.collect());
        let Others { addresses, open } = &mut *others;
        open.retain(|(node, _), connected| {
            let has_moved = match (before.get(node), addresses.get(node)) {
                (Some(was), Some(is)) => was != is && !is.contains(&connected.remote()),
                _ => false,
            };
            let is_over = has_moved || roster.removed.contains(node);
            if is_over {
                connected.connection.close(CLOSE_DONE.into(), b"gone");
            }
            !is_over
        });
    }

    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        let others = self.lock();
        others.addresses.get(&node).cloned().unwrap_or_default()
    }

    /// Whether a node is to be tried once more, where it is by now.
    fn is_elsewhere(&self, node: NodeId, error: &DialError) -> bool {
        match error {
            DialError::Elsewhere { .. } => true,
            DialError::NoAnswer { addresses } => *addresses != self.addresses(node),
            DialError::OtherNode { .. } | DialError::Unusable { .. } => false,
        }
    }

    /// The version of the protocol that a node of the cluster and this one have in common: asked for before something is
    /// said that not all versions have.
    pub(crate) async fn version_with(&self, node: NodeId) -> Result<u16, DialError> {
        loop {
            if let Some(open) = self.open(node, Use::Asking) {
                return Ok(open.version);
            }
            match self.renew(node, &self.addresses(node)).await {
                Err(error) if self.is_elsewhere(node, &error) => {}
                renewed => return Ok(renewed?.version),
            }
        }
    }

    /// Asks a node of the cluster something, wherever it is by then: see [`Transport::ask_at`].
    pub(crate) async fn ask(
        &self,
        node: NodeId,
        request: &Request,
        within: Duration,
    ) -> Result<(Reply, Connected), DialError> {
        loop {
            let addresses = self.addresses(node);
            match self.ask_at(node, &addresses, request, within).await {
                Err(error) if self.is_elsewhere(node, &error) => {}
                asked => return asked,
            }
        }
    }

    /// Asks a node of the cluster something about which more is to be said, in both directions, before it replies.
    pub(crate) async fn begin(
        &self,
        node: NodeId,
        request: &Request,
    ) -> Result<(quinn::SendStream, quinn::RecvStream), DialError> {
        loop {
            let addresses = self.addresses(node);
            match self.begin_at(node, &addresses, request).await {
                Err(error) if self.is_elsewhere(node, &error) => {}
                begun => return begun,
            }
        }
    }

    /// Asks a node something, on a connection that is open or on a new one, and says on which. If the one that is open is
    /// dead, it is asked again on a new one, unless it may have read already what must not be done twice.
    pub(crate) async fn ask_at(
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
                    Err(_) => {}
                }
            }
            if connected.was_hung_up() {
                return Err(DialError::Elsewhere { node });
            }
            self.forget(node, &connected);
        }
        let connected = self.renew(node, addresses).await?;
        match connected.ask(request, within).await {
            Ok(reply) => Ok((reply, connected)),
            Err(Unanswered { was_sent, .. })
                if connected.was_hung_up() && (is_repeatable || !was_sent) =>
            {
                Err(DialError::Elsewhere { node })
            }
            Err(Unanswered { why, .. }) => {
                self.forget(node, &connected);
                Err(unusable(node, why))
            }
        }
    }

    pub(crate) async fn begin_at(
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
        begun.map_err(|why| match connected.was_hung_up() {
            true => DialError::Elsewhere { node },
            false => unusable(node, why),
        })
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
            Ok(connected) => self.keep((node, Use::Staying), connected),
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
        self.keep((node, Use::Asking), &connected);
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
            endpoint.close(CLOSE_DONE.into(), STOPPED);
        }
        let both = async {
            self.endpoint.wait_idle().await;
            self.dialler.wait_idle().await;
        };
        let _ = timeout(GOODBYE_WITHIN, both).await;
    }

    fn keep(&self, of: (NodeId, Use), connected: &Connected) {
        self.lock().open.insert(of, connected.clone());
    }

    /// Whether a node has said, when it was last heard of, that it stops.
    pub(crate) fn has_stopped(&self, node: NodeId) -> bool {
        let others = self.lock();
        let asked = others.open.get(&(node, Use::Asking));
        asked.is_some_and(Connected::has_stopped)
    }

    /// What is open to a node, as far as is known.
    fn open(&self, node: NodeId, of: Use) -> Option<Connected> {
        let open = self.lock().open.get(&(node, of)).cloned();
        open.filter(|connected| connected.connection.close_reason().is_none())
    }

    /// Uses a connection no more. Others may still be answered on it; it is closed after the last of them.
    fn forget(&self, node: NodeId, connected: &Connected) {
        self.lock().open.retain(|(of, _), known| {
            *of != node || known.connection.stable_id() != connected.connection.stable_id()
        });
    }

    fn lock(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    /// By how much the other's clock is ahead of ours, in milliseconds, if nobody has set it since the hellos.
    pub(crate) fn clock_ahead_ms(&self) -> i64 {
        let since = self.heard.elapsed().as_millis();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        self.hello.clock_ahead_ms().saturating_add(since)
    }

    /// Where the other end is, as addresses are written.
    fn remote(&self) -> SocketAddr {
        let remote = self.connection.remote_address();
        SocketAddr::new(remote.ip().to_canonical(), remote.port())
    }

    /// Whether this node has closed it.
    fn was_hung_up(&self) -> bool {
        let reason = self.connection.close_reason();
        matches!(reason, Some(quinn::ConnectionError::LocallyClosed))
    }

    /// Whether the other end has closed it since it stops.
    fn has_stopped(&self) -> bool {
        let reason = self.connection.close_reason();
        matches!(reason, Some(quinn::ConnectionError::ApplicationClosed(close)) if *close.reason == *STOPPED)
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
