//! What a node does when it is asked: [`Service::answer`], behind the [door](crate::door).
//!
//! A node serves the registry itself until it joins another's cluster; then it keeps a copy of the list of nodes,
//! so that it knows its peers while the one that serves the registry is away. If the cluster's registry is in an
//! etcd, every node asks that by itself.

mod endpoints;
mod keeping;
mod moving;
mod others;
mod watching;

use std::fs;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinSet;

use self::others::Others;
use crate::data::DataDirectory;
use crate::door::{self, Authority};
use crate::hosting::{Hosting, Runner};
use crate::identity::NodeId;
use crate::limits::{ANSWER_WITHIN, CLOCK_SKEW_MAX, MOVES_FOLLOWED_MAX, WATCH_WITHIN};
use crate::message::{
    Announced, Candidate, Confinement, Failure, FailureKind, RegistryRequest, Remains, Reply,
    Request, Roster, Status, TicketText,
};
use crate::registry::Registry;
use crate::store::{AnyStore, Login};
use crate::ticket::{Secret, Ticket};
use crate::transport::{DialError, Transport};
use crate::wire::now_ms;

/// Where the registry is.
#[derive(Clone)]
pub(crate) enum Seat {
    /// Here.
    Here(Arc<Registry<AnyStore>>),
    /// At this node.
    At(NodeId),
}

/// Where a request came in.
pub(crate) enum Origin<'a> {
    /// On this machine, with these descriptors.
    Here(Vec<OwnedFd>),
    /// From a node, on this connection.
    Node(&'a quinn::Connection),
}

/// Says which processes this node has: those that run here, and those that stand still here and are this node's as
/// far as it knows.
pub(crate) type Announcer =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Announced>> + Send>> + Send + Sync>;

/// A node at work.
pub(crate) struct Service {
    pub(crate) id: NodeId,
    pub(crate) uid: u32,
    pub(crate) about: Candidate,
    pub(crate) data: DataDirectory,
    pub(crate) transport: Arc<Transport>,
    pub(crate) hosting: Option<Arc<Hosting>>,
    /// What this node has, for a registry that was restored. Whoever runs processes sets it before the node serves.
    pub(crate) announcer: OnceLock<Announcer>,
    /// How well this process and its manager are confined.
    confined: Confinement,
    /// For the etcd of the cluster, if it has one.
    login: Option<Login>,
    started_ms: u64,
    seat: watch::Sender<Seat>,
    roster: watch::Sender<Arc<Roster>>,
    removed: AtomicBool,
    /// How the others answered.
    others: Others,
    joining: AsyncMutex<()>,
    /// Held while a newer list of nodes is kept and taken over.
    adopting: Mutex<()>,
    pub(crate) stop: watch::Sender<bool>,
    connections: AtomicUsize,
    /// Of each key.
    connections_of: endpoints::ConnectionsOf,
    strangers: AtomicUsize,
    deeds: endpoints::Deeds,
    /// Those who have asked the node to stop, and wait for the end of their connection: dropped last, after the
    /// data directory's lock.
    waiting_for_end: Mutex<Vec<UnixStream>>,
}

impl Service {
    pub(crate) fn new(
        (id, uid): (NodeId, u32),
        about: Candidate,
        data: DataDirectory,
        (transport, hosting): (Transport, Option<Hosting>),
        (seat, roster): (Seat, Roster),
        (login, confined): (Option<Login>, Confinement),
    ) -> Self {
        transport.set_members(&roster);
        Self {
            announcer: OnceLock::new(),
            login,
            confined,
            id,
            uid,
            about,
            data,
            transport: Arc::new(transport),
            hosting: hosting.map(Arc::new),
            started_ms: now_ms(),
            seat: watch::Sender::new(seat),
            roster: watch::Sender::new(Arc::new(roster)),
            removed: AtomicBool::new(false),
            others: Others::default(),
            joining: AsyncMutex::default(),
            adopting: Mutex::default(),
            stop: watch::Sender::new(false),
            connections: AtomicUsize::new(0),
            connections_of: Mutex::default(),
            strangers: AtomicUsize::new(0),
            deeds: Mutex::default(),
            waiting_for_end: Mutex::default(),
        }
    }

    /// Answers a request, or says why not.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        authority: Authority,
        request: Request,
        origin: Origin<'_>,
    ) -> Reply {
        let answered = match door::permit(authority, &request) {
            Ok(()) => match request {
                Request::Hosting(request) => {
                    Box::pin(self.answer_hosting(authority, request, origin)).await
                }
                Request::RegistryBackup { file } => match given(origin) {
                    Ok(to) => self.back_up(file, to).await,
                    Err(failure) => Err(failure),
                },
                Request::RegistryRestore { file } => match given(origin) {
                    Ok(from) => self.restore(file, from).await,
                    Err(failure) => Err(failure),
                },
                request => self.permitted(authority, request).await,
            },
            Err(failure) => Err(failure),
        };
        answered.unwrap_or_else(Reply::Failed)
    }

    async fn permitted(&self, authority: Authority, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Status => Ok(Reply::Status(self.status())),
            Request::Nodes => Ok(Reply::Nodes(self.nodes().await)),
            Request::Paging { node } => self.paging(authority, node).await,
            Request::Invite { valid_ms } => self.invite(valid_ms).await,
            Request::Join { ticket } => self.join(&ticket).await,
            Request::Remove { node } if node == self.id => Err(Failure::refused(
                "this is the node itself: to leave, stop it, and remove it at another node",
            )),
            Request::Remove { node } => self.remove(node).await,
            // Whoever serves the request stops the node once the answer is out.
            Request::Stop { remains } => self.may_stop(remains).await,
            Request::Hosting(_)
            | Request::RegistryBackup { .. }
            | Request::RegistryRestore { .. } => {
                Err(Failure::refused("not a request of this sort"))
            }
            Request::Admit { secret, candidate } => self.admit(authority, &secret, candidate).await,
            Request::RegistryMove { to } => self.move_registry(to).await,
            Request::RegistryTake(piece) => match authority {
                Authority::Member(by) => self.take_registry(by, piece).await,
                _ => Err(Failure::refused("only a node can give a registry away")),
            },
            Request::RegistryMoved(handovers) => {
                self.follow(&handovers).await?;
                Ok(Reply::Done)
            }
            Request::RegistryStatus => self.registry_status().await,
            Request::Registry(request) => match (self.seat(), authority) {
                // What one that was removed may ask, the door has decided.
                (Seat::Here(registry), Authority::Member(by) | Authority::Removed(by)) => {
                    registry.answer(by, request).await
                }
                _ if !self.roster().handovers.is_empty() => {
                    Ok(Reply::Moved(self.roster().handovers.clone()))
                }
                _ => Err(Failure::refused("this node does not serve the registry")),
            },
        }
    }

    pub(crate) fn seat(&self) -> Seat {
        self.seat.borrow().clone()
    }

    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.borrow())
    }

    fn home(&self) -> NodeId {
        match self.seat() {
            Seat::Here(_) => self.id,
            Seat::At(home) => home,
        }
    }

    /// Whether it was removed from its cluster.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// What this node is called in its cluster, where its name may have been taken.
    fn status(&self) -> Status {
        let roster = self.roster();
        let entry = roster.member(self.id);
        Status {
            id: self.id,
            about: entry.map_or_else(|| self.about.clone(), |entry| entry.about.clone()),
            started_ms: self.started_ms,
            home: self.home(),
            removed: self.is_removed(),
            confinement: self.confinement(),
        }
    }

    fn runner(&self) -> Option<Runner> {
        self.hosting.as_ref()?.runner().ok()
    }

    fn confinement(&self) -> Confinement {
        Confinement {
            runner: self.runner().map(|runner| runner.confinement),
            ..self.confined.clone()
        }
    }

    /// Sees to the processes that run here, before the node stops.
    async fn may_stop(&self, remains: Remains) -> Result<Reply, Failure> {
        match &self.hosting {
            Some(hosting) => hosting.stop(remains).await.map(|()| Reply::Done),
            None => Ok(Reply::Done),
        }
    }

    async fn invite(&self, valid_ms: u64) -> Result<Reply, Failure> {
        let ticket = Ticket {
            node: self.id,
            addresses: self.about.addresses.clone(),
            secret: Secret::random(),
        };
        let seal = ticket.secret.seal();
        self.ask_registry(RegistryRequest::AddTicket { seal, valid_ms })
            .await?;
        Ok(Reply::Ticket(ticket.text()))
    }

    async fn admit(
        &self,
        authority: Authority,
        secret: &Secret,
        candidate: Candidate,
    ) -> Result<Reply, Failure> {
        let (Authority::Stranger(node) | Authority::Member(node)) = authority else {
            return Err(Failure::refused("only a node can be admitted"));
        };
        let request = RegistryRequest::Admit {
            seal: secret.seal(),
            node,
            candidate,
        };
        let reply = self.ask_registry(request).await?;
        // So that the new node is known here before it asks for anything else.
        if let Reply::Roster(roster) = &reply {
            self.adopt(roster.clone());
        }
        Ok(reply)
    }

    /// Joins the cluster of the node that a ticket names.
    async fn join(&self, text: &TicketText) -> Result<Reply, Failure> {
        let wrong = |message: String| Failure::new(FailureKind::Ticket, message);
        let ticket: Ticket = text
            .0
            .parse()
            .map_err(|error: crate::ticket::ParseTicketError| wrong(error.to_string()))?;
        let _alone = self.joining.lock().await;
        self.may_join(&ticket)?;
        self.has_none().await?;
        let request = Request::Admit {
            secret: ticket.secret,
            candidate: self.about.clone(),
        };
        // The clocks are compared before the ticket is shown.
        let dialled = self.transport.renew(ticket.node, &ticket.addresses);
        let ahead_ms = dialled
            .await
            .map_err(|error| joining(&error))?
            .clock_ahead_ms();
        let ahead = Duration::from_millis(ahead_ms.unsigned_abs());
        if ahead > CLOCK_SKEW_MAX {
            let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
            return Err(Failure::refused(format!(
                "this node's clock is {} s {way} that of {}: set the one that is wrong (see `sterna doctor`), \
                 and use the ticket again",
                ahead.as_secs(),
                ticket.node
            )));
        }
        let asked = self
            .transport
            .ask_at(ticket.node, &ticket.addresses, &request, ANSWER_WITHIN);
        let roster = match asked.await.map_err(|error| joining(&error))?.0 {
            Reply::Roster(roster) => roster,
            Reply::Failed(failure) => return Err(failure),
            _ => return Err(Failure::refused("the other node answered another question")),
        };
        self.settle_in(roster).await
    }

    /// Removes a node. That its processes are lost is told here, since there is nobody else who could.
    async fn remove(&self, node: NodeId) -> Result<Reply, Failure> {
        let lost = self.living_of(node).await.unwrap_or_default();
        let removed = self.ask_registry(RegistryRequest::Remove { node }).await?;
        if let Some(hosting) = &self.hosting {
            for process in lost {
                hosting.note_lost_with_node(process);
            }
        }
        Ok(removed)
    }

    fn may_join(&self, ticket: &Ticket) -> Result<(), Failure> {
        if self.is_removed() {
            return Err(Failure::refused(
                "this node was removed from its cluster, and its key is not accepted any more: start another node, with a data \
                 directory of its own",
            ));
        }
        let roster = self.roster();
        if ticket.node == self.id {
            return Err(Failure::refused(
                "this node made the ticket itself: take it to another node",
            ));
        }
        if roster.member(ticket.node).is_some() {
            return Err(Failure::refused(
                "this node has joined that cluster already: see `sterna nodes`",
            ));
        }
        match roster.members.len() {
            0 | 1 if matches!(self.seat(), Seat::Here(_)) => Ok(()),
            count => Err(Failure::refused(format!(
                "this node belongs to a cluster of {count} already, and can be in one only: \
                 start another node, with a data directory of its own"
            ))),
        }
    }

    /// The other cluster would know nothing of processes that are here.
    async fn has_none(&self) -> Result<(), Failure> {
        let Reply::RegistryStatus(status) = self.ask_registry(RegistryRequest::Status).await?
        else {
            return Err(Failure::refused("the registry answers another question"));
        };
        match status.alive {
            0 => Ok(()),
            1 => Err(Failure::refused(
                "a process runs on this node, which would not be the other cluster's: end it or freeze it into a file, and join \
                 then",
            )),
            count => Err(Failure::refused(format!(
                "{count} processes run on this node, which would not be the other cluster's: end them or freeze them into \
                 files, and join then"
            ))),
        }
    }

    /// Becomes a node of the cluster that has admitted it.
    async fn settle_in(&self, mut roster: Roster) -> Result<Reply, Failure> {
        let home = roster.home.filter(|home| roster.member(*home).is_some());
        let (Some(home), Some(_)) = (home, roster.member(self.id)) else {
            return Err(Failure::refused(
                "the other node sent a list of nodes that makes no sense",
            ));
        };
        let internal = |error: crate::data::DataError| {
            Failure::new(
                FailureKind::Internal,
                format!("{error}: the node has been admitted, join again"),
            )
        };
        let seat = match &roster.registry {
            None => Seat::At(home),
            Some(address) => {
                let registry = self.etcd(address)?;
                let asked = registry.answer(self.id, RegistryRequest::Roster { after: 0 });
                asked.await.map_err(|failure| Failure {
                    message: format!(
                        "{}: the node has been admitted, and cannot use the cluster's registry {address}; join again \
                         when it can",
                        failure.message
                    ),
                    ..failure
                })?;
                roster.home = Some(self.id);
                Seat::Here(registry)
            }
        };
        self.data.set_cluster(&roster).map_err(internal)?;
        self.set_roster(roster.clone());
        self.seat.send_replace(seat);
        // What this node knew while it was alone is nothing that others need. It is not opened again if it stays.
        let _ = fs::remove_file(self.data.registry());
        Ok(Reply::Roster(roster))
    }

    /// Has a list of nodes hold from now on. The answer: the one until then.
    fn set_roster(&self, roster: Roster) -> Arc<Roster> {
        self.transport.set_members(&roster);
        self.roster.send_replace(Arc::new(roster))
    }

    /// Takes over a newer list of nodes.
    fn adopt(&self, roster: Roster) {
        // Several come at once, and not in their order.
        let _alone = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        if roster.home != Some(self.home()) || roster.revision < self.roster().revision {
            return;
        }
        let kept = matches!(self.seat(), Seat::At(_)) || roster.registry.is_some();
        if kept
            && *self.roster() != roster
            && let Err(error) = self.data.set_cluster(&roster)
        {
            tracing::warn!("could not keep the list of nodes: {error}");
        }
        let before = self.set_roster(roster);
        if let (Seat::Here(_), Some(hosting)) = (self.seat(), &self.hosting) {
            hosting.note_members(&before, &self.roster());
        }
    }

    /// Asks the registry, here or where it is, and goes after it if it has moved.
    pub(crate) async fn ask_registry(&self, request: RegistryRequest) -> Result<Reply, Failure> {
        for _ in 0..MOVES_FOLLOWED_MAX {
            let home = match self.seat() {
                Seat::Here(registry) => return registry.answer(self.id, request).await,
                Seat::At(home) => home,
            };
            match self.ask_home(home, request.clone()).await? {
                Reply::Moved(handovers) => {
                    if !self.follow(&handovers).await? {
                        break;
                    }
                }
                reply => return Ok(reply),
            }
        }
        Err(Failure::new(
            FailureKind::Unreachable,
            "the registry has moved, and the node that served it does not say where to: try again",
        ))
    }

    async fn ask_home(&self, home: NodeId, request: RegistryRequest) -> Result<Reply, Failure> {
        let within = match request {
            RegistryRequest::Roster { after } | RegistryRequest::ProcessesChanged { after }
                if after > 0 =>
            {
                WATCH_WITHIN + ANSWER_WITHIN
            }
            _ => ANSWER_WITHIN,
        };
        let request = Request::Registry(request);
        match self.transport.ask(home, &request, within).await {
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok((reply, _)) => Ok(reply),
            Err(error) => {
                let why = self.silent(home, error).message;
                let text = format!(
                    "the node that serves the registry does not answer: {why}; if its machine is gone for good, put a backup in its \
                     place on another one (`sterna registry restore`)"
                );
                Err(Failure::new(FailureKind::Unreachable, text))
            }
        }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(
        self: Arc<Self>,
        local: tokio::net::UnixListener,
        pages: tokio::net::TcpListener,
    ) {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&self).accept_nodes());
        tasks.spawn(Arc::clone(&self).accept_users(local));
        tasks.spawn(Arc::clone(&self).follow_roster());
        tasks.spawn(Arc::clone(&self).keep_probing());
        if let Some(hosting) = &self.hosting {
            tasks.spawn(Arc::clone(&self).drive(Arc::clone(hosting)));
            tasks.spawn(Arc::clone(&self).keep_snapshots(Arc::clone(hosting)));
            tasks.spawn(Arc::clone(&self).sweep_snapshots(Arc::clone(hosting)));
            tasks.spawn(Arc::clone(&self).watch_ports(Arc::clone(hosting)));
            tasks.spawn(Arc::clone(&self).accept_pages(pages));
            if hosting.prepares {
                tasks.spawn(Arc::clone(&self).prepare_ahead(Arc::clone(hosting)));
            }
        }
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|stop| *stop).await;
        tasks.shutdown().await;
        self.give_up_deeds();
        let _ = fs::remove_file(self.data.socket());
        self.transport.close().await;
    }
}

/// The file that came with a request of a user.
fn given(origin: Origin<'_>) -> Result<fs::File, Failure> {
    let one: Option<[OwnedFd; 1]> = match origin {
        Origin::Here(descriptors) => descriptors.try_into().ok(),
        Origin::Node(_) => None,
    };
    match one.map(|[file]| fs::File::from(file)) {
        Some(file) if file.metadata().is_ok_and(|found| found.is_file()) => Ok(file),
        _ => Err(Failure::refused("one file has to come with the request")),
    }
}

fn joining(error: &DialError) -> Failure {
    match error {
        DialError::OtherNode { .. } => Failure::new(
            FailureKind::Ticket,
            format!("{error}: the ticket was not shown to it; ask for a new one"),
        ),
        DialError::Unusable { .. } => Failure::refused(error),
        DialError::NoAnswer { .. } | DialError::Elsewhere { .. } => Failure::new(
            FailureKind::Unreachable,
            format!("{error}: is the node running, and does a firewall let UDP through to it?"),
        ),
    }
}
