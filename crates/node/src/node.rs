//! A node from its start to its end: [`Opened`], [`Node`].
//!
//! What needs rights that a node does not need later is done first, and by one thread: so whoever starts a node can take
//! these rights from it in between.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use crate::data::{DataDirectory, DataError};
use crate::hosting::{Exports, Hosting, OpenStoreError, StoreAt, Stores};
use crate::identity::{KeyError, NodeId, NodeKey};
use crate::ingress::Ingress;
use crate::limits::COPIES_BYTES_MAX;
use crate::message::{Candidate, Confinement, Failure, RegistryRequest, Reply, Roster};
use crate::registry::Registry;
use crate::service::{Seat, Service};
use crate::store::{AnyStore, Embedded, Etcd, EtcdAddress, Login, StoreError};
use crate::transport::{Sockets, Transport, reachable_at};
use crate::wire::{Versions, now_ms};
use crate::workshop::Workshop;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it keeps what it has.
    pub data: PathBuf,
    /// Where it listens; otherwise everywhere, at [`DEFAULT_PORT`](crate::DEFAULT_PORT).
    pub bind: Option<SocketAddr>,
    /// Where others reach it; otherwise at its addresses.
    pub advertise: Vec<SocketAddr>,
    /// What it would like to be called.
    pub name: String,
    /// Its version of Sterna.
    pub software: String,
    /// How well it can confine what it runs.
    pub confinement: String,
    /// How well its service and its manager are confined.
    pub confined: Confinement,
    /// Directories that processes from other nodes may be bound to, by name.
    pub exports: Vec<(String, PathBuf)>,
    /// Most that may be copied here along with processes, in bytes; otherwise
    /// [`COPIES_BYTES_MAX`](crate::limits::COPIES_BYTES_MAX).
    pub copies_bytes_max: Option<u64>,
    /// Where snapshots can be kept outside of the cluster.
    pub stores: Vec<StoreAt>,
    /// What it needs to host processes; without, it hosts none.
    pub workshop: Option<Arc<dyn Workshop>>,
    /// Whether it makes programs of other nodes' processes ready before any of these comes.
    pub prepares: bool,
    /// The etcd that the registry is to be in; otherwise it is a file of the first node of the cluster. A node that
    /// joins another takes what that one's cluster has.
    pub registry: Option<EtcdAddress>,
    /// For the cluster's etcd, if it wants to know who asks.
    pub registry_login: Option<Login>,
    /// What it speaks with other nodes.
    pub versions: Versions,
}

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It has no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] StoreError),
    /// Its registry cannot be used.
    #[error("could not use the registry")]
    Records(#[source] Failure),
    /// The cluster's registry is another one.
    #[error(
        "this node's cluster has its registry {known}, and cannot be given {asked}: leave --registry out, or start \
             a new node with another data directory"
    )]
    OtherRegistry {
        /// Where it is.
        known: String,
        /// What was asked for.
        asked: String,
    },
    /// Others are there already.
    #[error(
        "the registry {registry} belongs to a cluster of {members} nodes: start this node without --registry, and join \
             with a ticket of `sterna node invite` on one of them; or choose another prefix"
    )]
    NotMember {
        /// Which registry.
        registry: String,
        /// How many nodes it has.
        members: usize,
    },
    /// The port is taken.
    #[error(
        "could not listen on {address}: the port is taken, by UDP or TCP; choose another one with --bind (port 0 takes any that is free)"
    )]
    PortTaken {
        /// Where.
        address: String,
    },
    /// It cannot listen.
    #[error("could not listen on {address} (is it an address of this machine?)")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be reached by commands.
    #[error("could not make the control socket in {}", path.display())]
    Socket {
        /// In which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its name cannot be used.
    #[error("{name:?} cannot be a node's name: up to 64 letters, no spaces, `/` or `:`")]
    Name {
        /// Which.
        name: String,
    },
    /// A store cannot be used.
    #[error("could not use the store {store}")]
    Store {
        /// Which.
        store: StoreAt,
        /// What is wrong.
        source: OpenStoreError,
    },
    /// A directory that it is to export cannot be.
    #[error("could not export {}", path.display())]
    Export {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No threads.
    #[error("could not start threads")]
    Threads(#[source] io::Error),
}

/// What a node has opened before it starts: its directory, its sockets, and what it exports. There are no threads yet.
pub struct Opened {
    data: DataDirectory,
    key: NodeKey,
    sockets: Sockets,
    pages: StdTcpListener,
    exports: Exports,
    stores: Stores,
}

impl Opened {
    /// Opens what these options name.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn new(options: &Options) -> Result<Self, StartError> {
        let data = DataDirectory::open(&options.data)?;
        data.check_key()?;
        let key = NodeKey::load_or_make(&data.key())?;
        let failed = |error| listening(options, error);
        let sockets = Sockets::bind(options.bind).map_err(failed)?;
        let is_chosen = options.bind.is_none_or(|address| address.port() != 0);
        let pages = listen_for_pages(sockets.bound, is_chosen).map_err(failed)?;
        let exports = Exports::open(&options.exports)
            .map_err(|(path, source)| StartError::Export { path, source })?;
        let stores = Stores::open(&options.stores)
            .map_err(|(store, source)| StartError::Store { store, source })?;
        Ok(Self {
            data,
            key,
            sockets,
            pages,
            exports,
            stores,
        })
    }

    /// Its data directory: all that it will need of the machine's files.
    #[must_use]
    pub const fn data(&self) -> &File {
        self.data.handle()
    }
}

/// A node that has been started, and serves from [`Node::serve`] on.
pub struct Node {
    runtime: Runtime,
    service: Arc<Service>,
    local: UnixListener,
    pages: TcpListener,
}

/// Ends a node from anywhere.
#[derive(Clone)]
pub struct Stopper {
    stop: watch::Sender<bool>,
    service: Weak<Service>,
    runtime: Handle,
}

impl Stopper {
    /// Lets [`Node::serve`] return.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The same after processes, and the registry if it is here, were moved to other nodes, as far as that goes within
    /// a time.
    pub fn drain(&self, within: Duration) {
        let Some(service) = self.service.upgrade() else {
            return;
        };
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            service.drain_before_end(within).await;
            stop.send_replace(true);
        });
    }
}

impl Node {
    /// Makes everything ready: others can connect from now on.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(options: &Options) -> Result<Self, StartError> {
        Self::start_on(Opened::new(options)?, options)
    }

    /// The same, on what was opened before.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_on(opened: Opened, options: &Options) -> Result<Self, StartError> {
        let Opened {
            data,
            key,
            sockets,
            pages,
            exports,
            stores,
        } = opened;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("node")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let id = key.id();
        let cluster = data.cluster()?;
        let bound = sockets.bound;
        let (transport, pages) = {
            let _runtime = runtime.enter();
            let transport = Transport::new(key, options.versions.clone(), sockets);
            transport.and_then(|transport| Ok((transport, TcpListener::from_std(pages)?)))
        }
        .map_err(|error| listening(options, error))?;
        let about = about(options, bound)?;
        let seat = runtime.block_on(seat(id, &data, &about, (cluster, options)))?;
        let local = {
            let _runtime = runtime.enter();
            socket(&data)?
        };
        let who = (id, geteuid().as_raw());
        let workshop = options.workshop.clone();
        let place = (about.name.clone(), data.hosting());
        let copies = options.copies_bytes_max.unwrap_or(COPIES_BYTES_MAX);
        let hosting = workshop.map(|workshop| {
            let ingress = Ingress::new(bound.ip());
            let given = (exports, stores);
            let hosting = Hosting::new(workshop, given, copies, ingress, place);
            hosting.preparing_ahead(options.prepares)
        });
        if let (Some(hosting), Ok(bound)) = (&hosting, pages.local_addr()) {
            hosting.channels.set_port(bound.port());
        }
        let own = (options.registry_login.clone(), options.confined.clone());
        let service = Service::new(who, about, data, (transport, hosting), seat, own);
        if let Some(hosting) = &service.hosting {
            let hosting = Arc::clone(hosting);
            let announced = move || {
                let hosting = Arc::clone(&hosting);
                let all = async move { hosting.announced().await };
                Box::pin(all) as _
            };
            let _ = service.announcer.set(Box::new(announced));
        }
        Ok(Self {
            runtime,
            service: Arc::new(service),
            local,
            pages,
        })
    }

    /// Its key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.service.id
    }

    /// What it says of itself; the name may be another one in its cluster.
    #[must_use]
    pub fn about(&self) -> &Candidate {
        &self.service.about
    }

    /// Its directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.service.data.path()
    }

    /// By which it is ended.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper {
            stop: self.service.stop.clone(),
            service: Arc::downgrade(&self.service),
            runtime: self.runtime.handle().clone(),
        }
    }

    /// Serves until it is told to stop.
    pub fn serve(self) {
        self.runtime
            .block_on(self.service.run(self.local, self.pages));
    }
}

fn listening(options: &Options, source: io::Error) -> StartError {
    let all = || format!("port {}", crate::DEFAULT_PORT);
    let address = options.bind.map_or_else(all, |address| address.to_string());
    match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken { address },
        _ => StartError::Listen { address, source },
    }
}

/// Where other nodes bring image and pages: the port that has the same number for TCP. Only if nobody has chosen that, and it
/// is not free, any: firewalls let through what was chosen.
fn listen_for_pages(bound: SocketAddr, is_chosen: bool) -> io::Result<StdTcpListener> {
    let listener = match StdTcpListener::bind(bound) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !is_chosen => {
            StdTcpListener::bind(SocketAddr::new(bound.ip(), 0))
        }
        other => other,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn about(options: &Options, bound: SocketAddr) -> Result<Candidate, StartError> {
    let addresses = match &*options.advertise {
        [] => reachable_at(bound),
        // A port of 0 means the one that was bound.
        given => given
            .iter()
            .map(|address| match address.port() {
                0 => SocketAddr::new(address.ip(), bound.port()),
                _ => *address,
            })
            .collect(),
    };
    let about = Candidate {
        name: options.name.clone(),
        addresses,
        software: options.software.clone(),
        confinement: options.confinement.clone(),
    };
    let name = options.name.clone();
    about
        .is_plain()
        .then_some(about)
        .ok_or(StartError::Name { name })
}

/// Where the registry is, and the list of nodes.
async fn seat(
    id: NodeId,
    data: &DataDirectory,
    about: &Candidate,
    (cluster, options): (Option<Roster>, &Options),
) -> Result<(Seat, Roster), StartError> {
    let etcd = |address: EtcdAddress| {
        let store = Etcd::new(address, options.registry_login.clone());
        Arc::new(Registry::new(AnyStore::Etcd(store), id))
    };
    if let Some(roster) = cluster {
        let known = roster.registry.clone();
        check_registry(options, known.as_deref().unwrap_or("at one of its nodes"))?;
        if let Some(address) = known.and_then(|known| known.parse().ok()) {
            // It need not answer now: what was known last is good enough to begin with.
            return Ok((Seat::Here(etcd(address)), roster));
        }
        if let Some(home) = roster.home.filter(|home| *home != id) {
            return Ok((Seat::At(home), roster));
        }
    }
    let registry = match &options.registry {
        Some(address) => {
            if data.registry().exists() {
                check_registry(options, "in its data directory")?;
            }
            etcd(address.clone())
        }
        None => {
            let store = Embedded::open(&data.registry(), now_ms)?;
            Arc::new(Registry::new(AnyStore::Embedded(store), id))
        }
    };
    let found = roster(&registry, id).await?;
    let others = found.members.len();
    if options.registry.is_some() && others > 0 && found.member(id).is_none() {
        let registry = found.registry.unwrap_or_default();
        let members = others;
        return Err(StartError::NotMember { registry, members });
    }
    registry
        .found(about.clone())
        .await
        .map_err(StartError::Records)?;
    let roster = roster(&registry, id).await?;
    if roster.registry.is_some() {
        data.set_cluster(&roster)?;
    }
    Ok((Seat::Here(registry), roster))
}

fn check_registry(options: &Options, known: &str) -> Result<(), StartError> {
    let asked = options.registry.as_ref().map(ToString::to_string);
    match asked {
        Some(asked) if asked != known => Err(StartError::OtherRegistry {
            known: known.to_owned(),
            asked,
        }),
        _ => Ok(()),
    }
}

async fn roster(registry: &Registry<AnyStore>, id: NodeId) -> Result<Roster, StartError> {
    let asked = registry.answer(id, RegistryRequest::Roster { after: 0 });
    match asked.await.map_err(StartError::Records)? {
        Reply::Roster(roster) => Ok(roster),
        _ => Ok(Roster::default()),
    }
}

fn socket(data: &DataDirectory) -> Result<UnixListener, StartError> {
    let path = data.socket();
    // The lock is held: whoever left a socket here is gone.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).map_err(|source| StartError::Socket {
        path: data.path().to_owned(),
        source,
    })
}
