//! Where requests come in: connections of other nodes, and the socket for users of this machine.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sterna_sys::identity::peer_credentials;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Origin, Service};
use crate::door::Authority;
use crate::hosting::serve_clients;
use crate::identity::NodeId;
use crate::limits::{
    CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX, CONNECTIONS_UNPROVEN_MAX, DEEDS_OF_ONE_MAX,
    FRAME_WITHIN, HELLO_WITHIN, LOCAL_MAX, REPLIES_WAITING_BYTES, REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX, REQUESTS_MAX, RETRY_FIRST, STRANGER_WITHIN, STRANGERS_MAX,
};
use crate::message::{Effect, Failure, FailureKind, HostingRequest, Reply, Request};
use crate::tls;
use crate::transport::CLOSE_REFUSED;
use crate::wire::{self, WireError};

/// One more of something, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn enter(counter: &'a AtomicUsize, max: usize) -> Option<Self> {
        let before = counter.fetch_add(1, Ordering::Relaxed);
        let counted = Self(counter);
        (before < max).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of each key, oldest first.
pub(super) type ConnectionsOf = Mutex<HashMap<NodeId, VecDeque<quinn::Connection>>>;

/// A connection among those of its key, until this is dropped.
struct Listed<'a> {
    all: &'a ConnectionsOf,
    node: NodeId,
    connection: usize,
}

impl<'a> Listed<'a> {
    /// If the key has as many as it may, the oldest makes room: who was started again has left some that are dead.
    fn enter(all: &'a ConnectionsOf, node: NodeId, connection: &quinn::Connection) -> Self {
        let mut open = all.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = open.entry(node).or_default();
        if of_node.len() >= CONNECTIONS_OF_ONE_MAX
            && let Some(oldest) = of_node.pop_front()
        {
            oldest.close(CLOSE_REFUSED.into(), b"too many connections");
        }
        of_node.push_back(connection.clone());
        drop(open);
        Self {
            all,
            node,
            connection: connection.stable_id(),
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut open = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut of_node) = open.entry(self.node) {
            let others = |one: &quinn::Connection| one.stable_id() != self.connection;
            of_node.get_mut().retain(others);
            if of_node.get().is_empty() {
                of_node.remove();
            }
        }
    }
}

/// Room for replies that wait to be read on one connection, in KiB.
type ReplyRoom = Arc<Semaphore>;

/// Attachments of one connection: beside them there is room for as many requests as without.
struct Attached {
    connection: quinn::Connection,
    count: Mutex<u32>,
}

/// One of them, until it is dropped.
struct Attachment(Arc<Attached>);

impl Attached {
    fn enter(self: &Arc<Self>) -> Attachment {
        self.count(|count| count + 1);
        Attachment(Arc::clone(self))
    }

    fn count(&self, change: impl FnOnce(u32) -> u32) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = change(*count);
        let most = REQUESTS_MAX + *count;
        self.connection.set_max_concurrent_bi_streams(most.into());
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.0.count(|count| count - 1);
    }
}

/// What is carried out for each node to its end, whatever becomes of the connection on which it was asked for.
pub(super) type Deeds = Mutex<HashMap<NodeId, JoinSet<()>>>;

/// A reply as a frame; that it is too long, if so.
fn encoded(reply: &Reply) -> Result<Vec<u8>, WireError> {
    wire::encode(reply, REPLY_BYTES_MAX).or_else(|error| {
        let failure = Failure::refused(format!("the answer cannot be given: {error}"));
        wire::encode(&Reply::Failed(failure), REPLY_BYTES_MAX)
    })
}

/// The same, and the room that it takes; that there is none, if so.
fn framed(reply: &Reply, room: &ReplyRoom) -> Result<(Vec<u8>, OwnedSemaphorePermit), WireError> {
    let taken = |frame: &[u8]| Arc::clone(room).try_acquire_many_owned((frame.len() >> 10) as u32);
    let frame = encoded(reply)?;
    if let Ok(permit) = taken(&frame) {
        return Ok((frame, permit));
    }
    let full = Failure::new(
        FailureKind::Busy,
        format!(
            "more than {} MiB of replies wait to be read on this connection: read them first",
            REPLIES_WAITING_BYTES >> 20
        ),
    );
    let frame = wire::encode(&Reply::Failed(full), REPLY_BYTES_MAX)?;
    let permit = taken(&[]).map_err(|_| WireError::CutShort)?;
    Ok((frame, permit))
}

impl Service {
    pub(super) async fn accept_nodes(self: Arc<Self>) {
        let mut connections = JoinSet::new();
        while let Some(incoming) = self.transport.endpoint.accept().await {
            while connections.try_join_next().is_some() {}
            let open = self.connections.load(Ordering::Relaxed);
            if open >= CONNECTIONS_UNPROVEN_MAX && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            if open >= CONNECTIONS_MAX {
                incoming.refuse();
                continue;
            }
            connections.spawn(Arc::clone(&self).serve_node(incoming));
        }
    }

    async fn serve_node(self: Arc<Self>, incoming: quinn::Incoming) {
        let Some(_counted) = Counted::enter(&self.connections, CONNECTIONS_MAX) else {
            return;
        };
        let Ok(connecting) = incoming.accept() else {
            return;
        };
        let Ok(Ok(connection)) = timeout(HELLO_WITHIN, connecting).await else {
            return;
        };
        let why = match tls::peer(&connection) {
            Some(node) => self.serve_connection(&connection, node).await,
            None => "no key",
        };
        connection.close(CLOSE_REFUSED.into(), why.as_bytes());
    }

    fn authority(&self, node: NodeId) -> Authority {
        Authority::of_key(node, &self.roster())
    }

    /// Serves a connection until it ends; gives the reason for ending it from here.
    async fn serve_connection(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        node: NodeId,
    ) -> &'static str {
        let _listed = Listed::enter(&self.connections_of, node, connection);
        let is_stranger = || matches!(self.authority(node), Authority::Stranger(_));
        let stranger = match is_stranger() {
            true => match Counted::enter(&self.strangers, STRANGERS_MAX) {
                Some(counted) => Some(counted),
                None => return "too many strangers",
            },
            false => None,
        };
        let greeted = timeout(HELLO_WITHIN, self.greet(connection));
        match greeted.await {
            Ok(Ok(())) => {}
            Ok(Err(error @ WireError::Version { .. })) => {
                if !is_stranger() {
                    tracing::warn!("node {node} cannot be answered: {error}");
                }
                return "no version in common";
            }
            _ => return "no hello",
        }
        self.others.appeared(node);
        let patience = Instant::now() + STRANGER_WITHIN;
        let mut requests = JoinSet::new();
        let room = Arc::new(Semaphore::new(REPLIES_WAITING_BYTES >> 10));
        let attached = Arc::new(Attached {
            connection: connection.clone(),
            count: Mutex::default(),
        });
        loop {
            while requests.try_join_next().is_some() {}
            let stream = tokio::select! {
                stream = connection.accept_bi() => stream,
                () = sleep_until(patience), if stranger.is_some() && is_stranger() => {
                    return "not admitted";
                }
            };
            let Ok((to, from)) = stream else {
                return "";
            };
            let on = (Arc::clone(&attached), Arc::clone(&room));
            requests.spawn(Arc::clone(self).serve_request(node, (to, from), on));
        }
    }

    /// Hears the other side's hello, and sees to it that it hears ours even if that is all they have in common.
    async fn greet(&self, connection: &quinn::Connection) -> Result<(), WireError> {
        let streams = connection.accept_bi().await;
        let (mut to, mut from) = streams.map_err(std::io::Error::from)?;
        let versions = self.transport.versions();
        let greeted = wire::greet(&mut from, &mut to, versions, HELLO_WITHIN).await;
        if matches!(greeted, Ok(_) | Err(WireError::Version { .. })) {
            let _ = to.finish();
            let _ = to.stopped().await;
        }
        greeted.map(drop)
    }

    /// Hears a request and answers it. If its connection breaks this is dropped, but not what was begun.
    async fn serve_request(
        self: Arc<Self>,
        node: NodeId,
        (mut to, mut from): (quinn::SendStream, quinn::RecvStream),
        (attached, room): (Arc<Attached>, ReplyRoom),
    ) {
        let request = wire::receive(&mut from, REQUEST_BYTES_MAX, FRAME_WITHIN).await;
        // Looked up for each request: a node may have been admitted or removed meanwhile.
        let authority = self.authority(node);
        let request = match request {
            Ok(Request::Hosting(request @ HostingRequest::Clients { .. })) => {
                match self.port_for(authority, &request).await {
                    Ok((port, epoch)) => {
                        let _attachment = attached.enter();
                        return serve_clients((&port, epoch), &mut to, &mut from).await;
                    }
                    Err(failure) => Err(failure),
                }
            }
            Ok(request) => Ok(request),
            Err(error) => Err(Failure::refused(error)),
        };
        let is_deed = matches!(&request, Ok(request) if request.effect() != Effect::None);
        let connection = attached.connection.clone();
        let service = Arc::clone(&self);
        let replying = service.reply(connection, (authority, request), (to, from), room);
        match (is_deed, authority) {
            (true, Authority::Member(_)) => self.carry_out(node, replying),
            _ => replying.await,
        }
    }

    /// Does something for a node to its end. If it has very much under way, not at all.
    fn carry_out(&self, node: NodeId, deed: impl Future<Output = ()> + Send + 'static) {
        let mut deeds = self.deeds.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = deeds.entry(node).or_default();
        while of_node.try_join_next().is_some() {}
        if of_node.len() < DEEDS_OF_ONE_MAX {
            of_node.spawn(deed);
        }
    }

    /// Ends what is being carried out.
    pub(super) fn give_up_deeds(&self) {
        let mut deeds = self.deeds.lock().unwrap_or_else(PoisonError::into_inner);
        deeds.clear();
    }

    async fn reply(
        self: Arc<Self>,
        connection: quinn::Connection,
        (authority, request): (Authority, Result<Request, Failure>),
        (mut to, mut from): (quinn::SendStream, quinn::RecvStream),
        room: ReplyRoom,
    ) {
        let reply = match request {
            Ok(Request::Hosting(request @ HostingRequest::Freeze { .. })) => {
                self.freeze_for(authority, request, &mut to, &mut from)
                    .await
            }
            Ok(Request::Hosting(request @ HostingRequest::ThawAt(..))) => {
                self.thaw_for(authority, request, &mut from).await
            }
            request => {
                // Nothing that comes after the request is read.
                let _ = from.stop(CLOSE_REFUSED.into());
                match request {
                    Ok(request) => {
                        let origin = Origin::Node(&connection);
                        self.answer(authority, request, origin).await
                    }
                    Err(failure) => Reply::Failed(failure),
                }
            }
        };
        let framed = framed(&reply, &room);
        drop(reply);
        let sent = match &framed {
            Ok((frame, _)) => {
                let written = timeout(FRAME_WITHIN, to.write_all(frame)).await;
                matches!(written, Ok(Ok(())))
            }
            Err(_) => false,
        };
        let taken = match sent && to.finish().is_ok() {
            true => timeout(FRAME_WITHIN, to.stopped()).await.is_ok(),
            false => false,
        };
        if !taken {
            // It does not read: what was kept for it is given up.
            let _ = to.reset(CLOSE_REFUSED.into());
        }
    }

    pub(super) async fn accept_users(self: Arc<Self>, listener: UnixListener) {
        let room = Arc::new(Semaphore::new(LOCAL_MAX));
        let mut requests = JoinSet::new();
        loop {
            while requests.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let service = Arc::clone(&self);
                    requests.spawn(async move {
                        service.serve_user(stream).await;
                        drop(place);
                    });
                }
                // Out of descriptors, say: others are being served, and will give some back.
                Err(_) => sleep(RETRY_FIRST).await,
            }
        }
    }

    async fn serve_user(self: Arc<Self>, stream: UnixStream) {
        let Some((heard, mut stream)) = hear(stream, self.uid).await else {
            return;
        };
        let mut stops = false;
        let reply = match heard {
            Ok((authority, request, descriptors)) => {
                stops = matches!(request, Request::Stop { .. });
                self.answer(authority, request, Origin::Here(descriptors))
                    .await
            }
            Err(failure) => Reply::Failed(failure),
        };
        if let Ok(frame) = encoded(&reply) {
            let _ = timeout(FRAME_WITHIN, stream.write_all(&frame)).await;
        }
        if stops && matches!(reply, Reply::Done) {
            let mut waiting = self
                .waiting_for_end
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            waiting.push(stream);
            drop(waiting);
            self.stop.send_replace(true);
        }
    }
}

/// Who asks, for what, and what came along.
type Heard = Result<(Authority, Request, Vec<OwnedFd>), Failure>;

/// Hears a user of this machine; `None` if it is none. Descriptors come beside bytes only where one may block for them.
async fn hear(stream: UnixStream, uid: u32) -> Option<(Heard, UnixStream)> {
    let stream = stream.into_std().ok()?;
    stream.set_nonblocking(false).ok()?;
    let hearing = tokio::task::spawn_blocking(move || {
        let peer = peer_credentials(&stream).ok()?;
        let mut hearing = stream.try_clone().ok()?;
        wire::greet_now(&mut hearing, HELLO_WITHIN).ok()?;
        let authority = Authority::of_user(peer.uid, uid);
        let received = wire::receive_now(&hearing, REQUEST_BYTES_MAX, FRAME_WITHIN);
        let heard = match (authority, received) {
            (Ok(authority), Ok((request, descriptors))) => Ok((authority, request, descriptors)),
            (Err(failure), _) => Err(failure),
            (_, Err(error)) => Err(Failure::refused(error)),
        };
        stream.set_nonblocking(true).ok()?;
        Some((heard, stream))
    });
    let (heard, stream) = hearing.await.ok()??;
    Some((heard, UnixStream::from_std(stream).ok()?))
}
