//! Connections that break, or are used up, while one node works for another.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{future, iter, thread};

use quinn::{ConnectionError, Endpoint, RecvStream, SendStream, ServerConfig};
use sterna_migration::Life;
use sterna_process::{ProcessId, Tag};
use sterna_runner::link;
use sterna_runner::message::{Answer, Numbered, Order, Said};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::captive::{LARGE, Prison, begin};
use super::world::{PATIENCE, Peer, Running, about, info, on_runtime, stolen};
use crate::identity::NodeKey;
use crate::limits::{HELLO_WITHIN, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, REQUESTS_MAX};
use crate::message::{
    Belongings, Candidate, FailureKind, HostingReply, HostingRequest, Member, RegistryRequest,
    Reply, Request, Roster, StartOrder, Where,
};
use crate::tls;
use crate::transport::{Sockets, Transport};
use crate::wire::{self, VERSIONS, Versions};

/// A node that hosts processes, the link of its runner, and another node of its cluster, which is a key.
pub(super) struct Host {
    pub(super) node: Running,
    link: UnixStream,
    pub(super) member: NodeKey,
}

impl Host {
    pub(super) fn new() -> Self {
        let (prison, linked) = Prison::new();
        let node = Running::start_with("host", |options| options.workshop = Some(prison));
        let link = linked.recv_timeout(PATIENCE).unwrap();
        begin(&link, Vec::new());
        link.set_read_timeout(Some(PATIENCE)).unwrap();
        let member = NodeKey::random();
        admit(&node, &member, (Ipv4Addr::LOCALHOST, 9).into());
        Self { node, link, member }
    }

    pub(super) async fn dial(&self) -> Peer {
        Peer::dial(self.node.address, self.node.id, &self.member).await
    }

    /// The number of the next order of a sort to the runner, which refuses all others.
    async fn ordered(&self, wanted: impl Fn(&Order) -> bool + Send + 'static) -> u64 {
        let link = self.link.try_clone().unwrap();
        let ordered = tokio::task::spawn_blocking(move || {
            loop {
                let (Numbered { number, order }, _) = link::receive(&link).unwrap();
                match wanted(&order) {
                    true => return number,
                    false => answer(&link, number, Err("not now".into())),
                }
            }
        });
        ordered.await.unwrap()
    }

    /// Starts a process for a user of its machine.
    fn start(&self) -> ProcessId {
        let request = Request::Hosting(start(Where::Here));
        let started = thread::scope(|scope| {
            let asking = scope.spawn(|| self.node.ask(&request));
            let number = on_runtime(self.ordered(|order| matches!(order, Order::Spawn(_))));
            answer(&self.link, number, Ok(Answer::Done));
            asking.join().unwrap()
        });
        match started {
            Ok(Reply::Hosting(HostingReply::Started { process, .. })) => process,
            other => panic!("{other:?}"),
        }
    }
}

fn answer(link: &UnixStream, number: u64, answer: Result<Answer, String>) {
    link::send(link, &Said::Answer { number, answer }, &[]).unwrap();
}

/// How all processes are, as the registry has it.
async fn lives(peer: &Peer) -> Vec<Life> {
    let request = RegistryRequest::Processes {
        ended: true,
        after: None,
    };
    match peer.ask(&Request::Registry(request)).await {
        Some(Reply::Processes(page)) => {
            let entries = page.entries.iter();
            entries.map(|entry| entry.record().unwrap().life).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn start(place: Where) -> HostingRequest {
    HostingRequest::Start(Box::new(StartOrder {
        place,
        name: None,
        program: LARGE,
        kind: Tag::new("wasm"),
        file: "f".into(),
        arguments: Vec::new(),
        variables: Vec::new(),
        entry: None,
        belongings: Belongings::default(),
    }))
}

/// Makes a key a member, which is reached there.
fn admit(node: &Running, key: &NodeKey, address: SocketAddr) {
    let mut candidate = about("other");
    candidate.addresses = vec![address];
    let secret = stolen(&node.invite()).secret;
    let admitted = on_runtime(async {
        let peer = Peer::dial(node.address, node.id, key).await;
        peer.ask(&Request::Admit { secret, candidate }).await
    });
    assert!(matches!(admitted, Some(Reply::Roster(_))), "{admitted:?}");
}

/// Who asks for a freeze writes the file. If it is gone there is none, and the process must not be left standing.
#[test]
fn a_process_runs_on_if_whoever_freezes_it_is_gone() {
    let host = Host::new();
    let process = host.start();
    let freeze = Request::Hosting(HostingRequest::Freeze {
        process,
        keep: false,
        file: "f".into(),
    });
    on_runtime(async {
        let peer = host.dial().await;
        let (mut to, mut from) = peer.connection.open_bi().await.unwrap();
        let frame = wire::encode(&freeze, REQUEST_BYTES_MAX).unwrap();
        to.write_all(&frame).await.unwrap();
        let number = host
            .ordered(|order| matches!(order, Order::Copy { .. }))
            .await;
        answer(&host.link, number, Ok(Answer::Copied(0)));
        assert_eq!(from.read_u32_le().await.unwrap(), 0, "the copy is over");
        peer.connection.close(0_u8.into(), b"killed");
        host.ordered(|order| matches!(order, Order::Release { .. }))
            .await;
    });
}

#[test]
fn what_was_begun_for_a_node_that_is_gone_comes_to_its_end() {
    let host = Host::new();
    on_runtime(async {
        let peer = host.dial().await;
        let (mut to, _from) = peer.connection.open_bi().await.unwrap();
        let request = Request::Hosting(start(Where::Here));
        let frame = wire::encode(&request, REQUEST_BYTES_MAX).unwrap();
        to.write_all(&frame).await.unwrap();
        let number = host.ordered(|order| matches!(order, Order::Spawn(_))).await;
        assert_eq!(lives(&peer).await, [Life::Alive]);
        peer.connection.close(0_u8.into(), b"killed");
        // It has heard that once it answers others.
        let other = host.dial().await;
        assert_eq!(lives(&other).await, [Life::Alive]);
        answer(&host.link, number, Err("no room".into()));
        // It is written down that it did not start.
        while lives(&other).await != [Life::Ended] {}
    });
}

#[test]
fn attachments_leave_room_for_requests_on_their_connection() {
    let host = Host::new();
    let process = ProcessId::random();
    let created = RegistryRequest::CreateRecord {
        process,
        info: Box::new(info(host.member.id(), None)),
    };
    on_runtime(async {
        let peer = host.dial().await;
        let created = peer.ask(&Request::Registry(created)).await;
        assert!(
            matches!(created, Some(Reply::Record(Some(_)))),
            "{created:?}"
        );
        let mut attached = Vec::new();
        for index in 0..4 * REQUESTS_MAX {
            let request = Request::Hosting(HostingRequest::Clients {
                process,
                index,
                port: 0,
            });
            let (mut to, mut from) = peer.connection.open_bi().await.unwrap();
            let frame = wire::encode(&request, REQUEST_BYTES_MAX).unwrap();
            to.write_all(&frame).await.unwrap();
            let reply = wire::receive(&mut from, REPLY_BYTES_MAX, PATIENCE).await;
            assert!(matches!(reply, Ok(Reply::Done)), "{index}: {reply:?}");
            attached.push((to, from));
        }
        let reply = peer.ask(&Request::Status).await;
        assert!(matches!(reply, Some(Reply::Status(_))), "{reply:?}");
    });
}

/// What a node does about a request.
enum Does {
    Answers(Box<Reply>),
    /// It has read it, and then its connection breaks.
    Breaks,
    /// It does not answer, and says when that was given up.
    Nothing(Arc<Notify>),
    /// It answers after that.
    Afterwards(Arc<Notify>),
    /// It gives back what else comes on the stream.
    Echoes,
}

/// A node that does as it is told, and all that it was asked.
struct Other {
    key: NodeKey,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    _runtime: Runtime,
}

impl Other {
    fn start(does: impl Fn(&Request) -> Does + Send + Sync + 'static) -> Self {
        Self::start_as(NodeKey::random(), does)
    }

    fn start_as(key: NodeKey, does: impl Fn(&Request) -> Does + Send + Sync + 'static) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let config = ServerConfig::with_crypto(Arc::new(tls::server(&key)));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (all, does) = (Arc::clone(&asked), Arc::new(does));
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(serve(incoming, Arc::clone(&all), Arc::clone(&does)));
            }
        });
        Self {
            key,
            address,
            asked,
            _runtime: runtime,
        }
    }

    fn asked(&self, wanted: impl Fn(&Request) -> bool) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|request| wanted(request)).count()
    }
}

async fn serve(
    incoming: quinn::Incoming,
    asked: Arc<Mutex<Vec<Request>>>,
    does: Arc<impl Fn(&Request) -> Does + Send + Sync + 'static>,
) {
    let connection = incoming.await.unwrap();
    let (mut to, mut from) = connection.accept_bi().await.unwrap();
    let greeted = wire::greet(&mut from, &mut to, &VERSIONS, HELLO_WITHIN).await;
    greeted.unwrap();
    to.finish().unwrap();
    while let Ok((to, mut from)) = connection.accept_bi().await {
        let received = wire::receive(&mut from, REQUEST_BYTES_MAX, PATIENCE).await;
        let request: Request = received.unwrap();
        let does = does(&request);
        asked.lock().unwrap().push(request);
        tokio::spawn(act(does, connection.clone(), (to, from)));
    }
}

async fn act(
    does: Does,
    connection: quinn::Connection,
    (mut to, mut from): (SendStream, RecvStream),
) {
    match does {
        Does::Answers(reply) => {
            let frame = wire::encode(&reply, REPLY_BYTES_MAX).unwrap();
            to.write_all(&frame).await.unwrap();
            let _ = to.finish();
            let _ = to.stopped().await;
        }
        Does::Breaks => connection.close(0_u8.into(), b"killed"),
        Does::Nothing(given_up) => {
            let _ = to.stopped().await;
            given_up.notify_one();
        }
        Does::Afterwards(given_up) => {
            given_up.notified().await;
            Box::pin(act(
                Does::Answers(Box::new(Reply::Done)),
                connection,
                (to, from),
            ))
            .await;
        }
        Does::Echoes => {
            let done = wire::encode(&Reply::Done, REPLY_BYTES_MAX).unwrap();
            to.write_all(&done).await.unwrap();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    }
}

const fn is_start(request: &Request) -> bool {
    matches!(request, Request::Hosting(HostingRequest::Start(_)))
}

const fn is_events(request: &Request) -> bool {
    matches!(request, Request::Hosting(HostingRequest::Events { .. }))
}

/// Whether something was done by a node of which no answer came cannot be known.
#[test]
fn only_what_may_be_done_twice_is_asked_twice() {
    let breaks = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&breaks);
    let other = Other::start(move |request| {
        if is_start(request) || is_events(request) && now.swap(false, Ordering::SeqCst) {
            return Does::Breaks;
        }
        let none = Reply::Hosting(HostingReply::Events(Vec::new()));
        Does::Answers(Box::new(none))
    });
    let asker = Host::new();
    admit(&asker.node, &other.key, other.address);
    let events = Request::Hosting(HostingRequest::EventsOf {
        node: other.key.id(),
        after: 0,
        wait_ms: 0,
    });
    // There is a connection.
    assert!(asker.node.ask(&events).is_ok());
    let failure = asker
        .node
        .refuses(&Request::Hosting(start(Where::At(other.key.id()))));
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert_eq!(other.asked(is_start), 1);
    // It broke, and there is another one.
    assert!(asker.node.ask(&events).is_ok());
    breaks.store(true, Ordering::SeqCst);
    assert!(asker.node.ask(&events).is_ok());
    assert_eq!(other.asked(is_events), 4);
}

/// A list that names more addresses is no reason to leave one that it still has.
#[test]
fn what_is_asked_of_a_node_that_moves_meanwhile_is_asked_where_it_is_then() {
    let answers = |_: &Request| Does::Answers(Box::new(Reply::Done));
    let given_up = Arc::new(Notify::new());
    let key = NodeKey::random();
    let before = Other::start_as(key.clone(), move |request| match request {
        Request::Nodes => answers(request),
        _ => Does::Nothing(Arc::clone(&given_up)),
    });
    let after = Other::start_as(key.clone(), answers);
    let list = |addresses: &[SocketAddr]| Roster {
        members: vec![Member {
            id: key.id(),
            about: Candidate {
                addresses: addresses.to_vec(),
                ..about("other")
            },
            joined_ms: 0,
        }],
        ..Roster::default()
    };
    on_runtime(async {
        let sockets = Sockets::bind(Some((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
        let transport = Transport::new(NodeKey::random(), Versions::ALL, sockets).unwrap();
        let ask = async |request| transport.ask(key.id(), &request, PATIENCE).await.unwrap();
        let is_question = |request: &Request| matches!(request, Request::RegistryStatus);
        transport.set_members(&list(&[before.address]));
        let (_, first) = ask(Request::Nodes).await;
        transport.set_members(&list(&[after.address, before.address]));
        let (_, second) = ask(Request::Nodes).await;
        let ids = [&first, &second].map(|one| one.connection().stable_id());
        assert_eq!(ids[0], ids[1]);
        let moves = async {
            while before.asked(is_question) == 0 {
                tokio::task::yield_now().await;
            }
            transport.set_members(&list(&[after.address]));
        };
        tokio::join!(ask(Request::RegistryStatus), moves);
        assert_eq!(after.asked(is_question), 1);
        // What may have been done is not asked again.
        transport.set_members(&list(&[before.address]));
        let start = async {
            let request = Request::RegistryMove { to: key.id() };
            transport.ask(key.id(), &request, PATIENCE).await
        };
        let is_move = |request: &Request| matches!(request, Request::RegistryMove { .. });
        let moves = async {
            while before.asked(is_move) == 0 {
                tokio::task::yield_now().await;
            }
            transport.set_members(&list(&[after.address]));
        };
        let (started, ()) = tokio::join!(start, moves);
        assert!(started.is_err() && after.asked(is_move) == 0);
    });
}

/// One that is slow is no reason to end others.
#[test]
fn what_is_not_answered_in_time_ends_alone() {
    let is_clients =
        |request: &Request| matches!(request, Request::Hosting(HostingRequest::Clients { .. }));
    let given_up = Arc::new(Notify::new());
    let other = Other::start(move |request| match request {
        Request::Nodes => Does::Nothing(Arc::clone(&given_up)),
        request if is_events(request) => Does::Afterwards(Arc::clone(&given_up)),
        request if is_clients(request) => Does::Echoes,
        _ => Does::Answers(Box::new(Reply::Done)),
    });
    on_runtime(async {
        let sockets = Sockets::bind(Some((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
        let transport = Transport::new(NodeKey::random(), Versions::ALL, sockets).unwrap();
        let (node, addresses) = (other.key.id(), [other.address]);
        let transport = &transport;
        let ask = |request: Request, within| async move {
            transport.ask_at(node, &addresses, &request, within).await
        };
        let clients = Request::Hosting(HostingRequest::Clients {
            process: ProcessId::random(),
            index: 0,
            port: 0,
        });
        assert!(ask(Request::RegistryStatus, PATIENCE).await.is_ok());
        let begun = transport.begin_at(node, &addresses, &clients).await;
        let (mut to, mut from) = begun.unwrap();
        let reply = wire::receive(&mut from, REPLY_BYTES_MAX, PATIENCE).await;
        assert!(matches!(reply, Ok(Reply::Done)), "{reply:?}");
        let events = Request::Hosting(HostingRequest::Events {
            after: 0,
            wait_ms: 0,
        });
        let (slow, in_vain) = tokio::join!(
            ask(events, PATIENCE),
            ask(Request::Nodes, Duration::from_millis(100))
        );
        assert!(in_vain.is_err());
        // Both were begun before, and go on.
        assert!(slow.is_ok(), "{slow:?}");
        assert_eq!(other.asked(is_events), 1);
        to.write_u8(7).await.unwrap();
        assert_eq!(from.read_u8().await.unwrap(), 7);
    });
}

#[test]
fn a_node_that_was_killed_resets_the_connections_of_its_life_before() {
    let key = NodeKey::random();
    let start = |address: SocketAddr| {
        let runtime = Runtime::new().unwrap();
        let bound = || Sockets::bind(Some(address)).ok();
        let sockets = iter::repeat_with(bound).flatten().next().unwrap();
        let transport = {
            let _inside = runtime.enter();
            Transport::new(key.clone(), Versions::ALL, sockets).unwrap()
        };
        let endpoint = transport.endpoint.clone();
        runtime.spawn(async move {
            let _kept = endpoint.accept().await.unwrap().await;
            future::pending::<()>().await;
        });
        (runtime, transport.endpoint.local_addr().unwrap())
    };
    let (life, address) = start((Ipv4Addr::LOCALHOST, 0).into());
    let ours = Runtime::new().unwrap();
    let peer = ours.block_on(Peer::silent(address, key.id(), &NodeKey::random()));
    // Nobody says goodbye.
    drop(life);
    let (_life, _) = start(address);
    let why = ours.block_on(async {
        let (mut to, _from) = peer.connection.open_bi().await.unwrap();
        to.write_all(&[0; 100]).await.unwrap();
        peer.connection.closed().await
    });
    assert!(matches!(why, ConnectionError::Reset), "{why}");
}
