//! Nodes on threads of this process, each with a data directory; peers with any key that say anything.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::{ClientConfig, Endpoint};
use sterna_process::{ProgramId, Tag};
use tempfile::TempDir;

use crate::identity::{NodeId, NodeKey};
use crate::limits::{HELLO_WITHIN, REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::message::{
    Candidate, Confinement, Failure, ProcessInfo, Reply, Request, Roster, TicketText,
};
use crate::ticket::Ticket;
use crate::wire::{self, Hello, VERSIONS, Versions};
use crate::{AskError, Node, Options, Stopper, tls};

/// Longest wait for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A node at work. Dropping it stops it.
pub(super) struct Running {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    directory: Option<TempDir>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

pub(super) fn options(data: &Path, name: &str) -> Options {
    Options {
        data: data.to_owned(),
        bind: Some((Ipv4Addr::LOCALHOST, 0).into()),
        advertise: Vec::new(),
        name: name.to_owned(),
        software: "0.0.1".to_owned(),
        confinement: "full".to_owned(),
        confined: Confinement::default(),
        exports: Vec::new(),
        copies_bytes_max: None,
        prepares: false,
        stores: Vec::new(),
        workshop: None,
        registry: None,
        registry_login: None,
        versions: Versions::ALL,
    }
}

pub(super) fn about(name: &str) -> Candidate {
    Candidate {
        name: name.to_owned(),
        addresses: vec![(Ipv4Addr::LOCALHOST, 9).into()],
        software: "0.0.1".to_owned(),
        confinement: "full".to_owned(),
    }
}

/// How a process began that `by` has started.
pub(super) fn info(by: NodeId, name: Option<&str>) -> ProcessInfo {
    ProcessInfo {
        name: name.map(Into::into),
        program: ProgramId::of(b"program"),
        kind: Tag::new("wasm"),
        file: "program.wasm".to_owned(),
        arguments: vec!["one".to_owned(), "two".to_owned()],
        started_ms: 1,
        started_on: by,
        parent: None,
        extra: vec![1, 2, 3],
    }
}

impl Running {
    pub(super) fn start(name: &str) -> Self {
        Self::start_with(name, |_| {})
    }

    pub(super) fn start_with(name: &str, change: impl FnOnce(&mut Options)) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), name, change)
    }

    /// Starts it on a directory that another one has left.
    pub(super) fn start_on(
        directory: TempDir,
        name: &str,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = options(&directory.path().join("node"), name);
        change(&mut options);
        let node = Node::start(&options).unwrap();
        Self {
            id: node.id(),
            address: node.about().addresses[0],
            directory: Some(directory),
            stopper: node.stopper(),
            thread: Some(std::thread::spawn(move || node.serve())),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().join("node")
    }

    /// Stops it, and gives its directory.
    pub(super) fn stop(mut self) -> TempDir {
        self.directory.take().unwrap()
    }

    /// Asks as a user of this machine.
    pub(super) fn ask(&self, request: &Request) -> Result<Reply, AskError> {
        crate::ask(&self.data(), request)
    }

    /// The same, with a file.
    pub(super) fn ask_with(&self, request: &Request, file: &File) -> Result<Reply, AskError> {
        crate::ask_with(&self.data(), request, vec![file.as_fd()])
    }

    #[track_caller]
    pub(super) fn refuses(&self, request: &Request) -> Failure {
        match self.ask(request) {
            Err(AskError::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn invite(&self) -> TicketText {
        match self.ask(&Request::Invite { valid_ms: 600_000 }) {
            Ok(Reply::Ticket(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn join(&self, other: &Self) -> Roster {
        let ticket = other.invite();
        match self.ask(&Request::Join { ticket }) {
            Ok(Reply::Roster(roster)) => roster,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        match self.ask(&Request::Nodes) {
            Ok(Reply::Nodes(nodes)) => {
                let names = nodes.nodes.into_iter().map(|seen| seen.member.about.name);
                names.collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// That it still does its work.
    #[track_caller]
    pub(super) fn is_well(&self) {
        assert!(matches!(self.ask(&Request::Status), Ok(Reply::Status(_))));
        let reply = on_runtime(async {
            let peer = Peer::dial(self.address, self.id, &NodeKey::random()).await;
            peer.ask(&Request::Status).await
        });
        assert!(matches!(reply, Some(Reply::Failed(_))), "{reply:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))));
        }
    }
}

/// Runs a hostile peer.
pub(super) fn on_runtime<T>(act: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, act).await.unwrap() })
}

/// A connection of somebody who says what he likes.
pub(super) struct Peer {
    pub(super) connection: quinn::Connection,
    _endpoint: Endpoint,
}

impl Peer {
    /// A connection without hello.
    pub(super) async fn silent(to: SocketAddr, node: NodeId, key: &NodeKey) -> Self {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let crypto = tls::client(key, node, &Arc::default());
        let config = ClientConfig::new(Arc::new(crypto));
        let connecting = endpoint.connect_with(config, to, tls::SERVER_NAME);
        Self {
            connection: connecting.unwrap().await.unwrap(),
            _endpoint: endpoint,
        }
    }

    /// A connection on which hellos were exchanged.
    pub(super) async fn dial(to: SocketAddr, node: NodeId, key: &NodeKey) -> Self {
        let peer = Self::silent(to, node, key).await;
        let (mut to, mut from) = peer.connection.open_bi().await.unwrap();
        wire::greet(&mut from, &mut to, &VERSIONS, HELLO_WITHIN)
            .await
            .unwrap();
        to.finish().unwrap();
        peer
    }

    /// Sends these bytes as a request, and gives the answer; `None` if there is none.
    pub(super) async fn send(&self, bytes: &[u8], finish: bool) -> Option<Reply> {
        let (mut to, mut from) = self.connection.open_bi().await.ok()?;
        to.write_all(bytes).await.ok()?;
        if finish {
            let _ = to.finish();
        }
        wire::receive(&mut from, REPLY_BYTES_MAX, PATIENCE)
            .await
            .ok()
    }

    pub(super) async fn ask(&self, request: &Request) -> Option<Reply> {
        let frame = wire::encode(request, REQUEST_BYTES_MAX).unwrap();
        self.send(&frame, true).await
    }

    /// Waits until the node closes the connection, and gives its reason.
    pub(super) async fn closed(&self) -> String {
        self.connection.closed().await.to_string()
    }
}

/// A hello with other contents than this program's.
pub(super) fn hello(change: impl FnOnce(&mut Hello)) -> [u8; wire::HELLO_BYTES] {
    let mut hello = Hello::of(&VERSIONS);
    change(&mut hello);
    hello.encode()
}

/// The secret in a ticket, for those who stole it.
pub(super) fn stolen(ticket: &TicketText) -> Ticket {
    ticket.0.parse().unwrap()
}
