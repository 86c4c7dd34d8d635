//! Clients of processes of this node, by way of their ingresses; and processes of any node whose ingress this is.
//!
//! ```text
//!  node that has the process                        ingress
//!    runner ═ pair of sockets ═ service ─ Clients{process, port} ─► is the process yours, as the registry has it?
//!      ▲                           │ ◄───────────────── Done
//!      └────────── frames ─────────┴──── the same stream ────────► port
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{RecvStream, SendStream};
use sterna_migration::{Life, NodeId};
use sterna_process::{Epoch, ProcessId};
use sterna_runner::message::Order;
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Hosting;
use crate::door::{self, Authority};
use crate::ingress::Port;
use crate::limits::{
    ANSWER_WITHIN, ATTACH_AGAIN_MAX, NOT_STARTED_WITHIN, REPLY_BYTES_MAX, RETRY_FIRST,
    UNATTACHED_WITHIN,
};
use crate::message::{
    Belongings, Failure, FailureKind, HostingReply, HostingRequest, Listen, ListenOrder,
    RegistryRequest, Reply, Request,
};
use crate::service::Service;
use crate::wire;

/// Ports of processes that are kept attached, each by a task.
#[derive(Default)]
pub(super) struct Attaching(Mutex<HashMap<(ProcessId, u32), Arc<Wish>>>);

/// That a port be attached.
#[derive(Default)]
struct Wish {
    /// How often it was wanted.
    times: AtomicU64,
    again: Notify,
}

impl Attaching {
    /// It is wanted, perhaps again. If there is no task for it, one has to be started.
    fn want(&self, process: ProcessId, index: u32) -> Option<Arc<Wish>> {
        let mut all = self.all();
        let is_new = !all.contains_key(&(process, index));
        let wish = Arc::clone(all.entry((process, index)).or_default());
        wish.times.fetch_add(1, Ordering::SeqCst);
        wish.again.notify_one();
        is_new.then_some(wish)
    }

    /// It is not wanted any more, unless it was since somebody looked.
    fn give_up(&self, process: ProcessId, index: u32, looked: u64) -> bool {
        let mut all = self.all();
        let is_over = all
            .get(&(process, index))
            .is_none_or(|wish| wish.times.load(Ordering::SeqCst) == looked);
        if is_over {
            all.remove(&(process, index));
        }
        is_over
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(ProcessId, u32), Arc<Wish>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an attachment of this node is to.
enum Way {
    Here(Arc<Port>, Epoch),
    There(SendStream, RecvStream),
}

impl Service {
    /// Opens the ports of a process that is to start. If one cannot be, there is none.
    pub(super) async fn open_ports(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        orders: Vec<ListenOrder>,
    ) -> Result<Vec<Listen>, Failure> {
        let mut listens = Vec::new();
        for (index, order) in (0..).zip(orders) {
            let ingress = order.ingress.unwrap_or(self.id);
            let request = HostingRequest::Listen {
                process,
                index,
                port: order.port,
            };
            let opened = match ingress == self.id {
                true => hosting.listen(process, index, order.port),
                false => self.pass_on(ingress, request).await,
            };
            match opened {
                Ok(HostingReply::Listening(address)) => listens.push(Listen {
                    name: order.name,
                    ingress,
                    address,
                }),
                Ok(_) => return Err(Failure::refused("the ingress answers another question")),
                Err(failure) => {
                    self.close_ports(hosting, process, &listens).await;
                    return Err(failure);
                }
            }
        }
        Ok(listens)
    }

    /// Closes ports of a process that was not started. An ingress that does not hear of it notices after a while.
    pub(super) async fn close_ports(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        listens: &[Listen],
    ) {
        for listen in listens {
            if listen.ingress == self.id {
                hosting.ingress.close_unused(process);
            } else {
                let request = HostingRequest::Unlisten { process };
                let _ = self.pass_on_any(listen.ingress, request).await;
            }
        }
    }

    /// Sees to it that clients of a process of this node reach it, for as long as it is here.
    pub(super) fn attach_clients(self: &Arc<Self>, hosting: &Arc<Hosting>, process: ProcessId) {
        let (service, hosting) = (Arc::clone(self), Arc::clone(hosting));
        tokio::spawn(async move {
            for (index, listen) in (0..).zip(service.listens_of(&hosting, process).await) {
                if let Some(wish) = hosting.attaching.want(process, index) {
                    let (service, hosting) = (Arc::clone(&service), Arc::clone(&hosting));
                    tokio::spawn(service.keep_attached(hosting, (process, index), listen, wish));
                }
            }
        });
    }

    /// The ports of a process that is here. What the node remembers is a copy, and may be missing.
    async fn listens_of(&self, hosting: &Hosting, process: ProcessId) -> Vec<Listen> {
        let mut pause = RETRY_FIRST;
        loop {
            let info = match hosting.remembered(process) {
                Some(info) => Ok(info),
                None => self.entry(process).await.map(|entry| entry.info),
            };
            match info {
                Ok(info) => {
                    let belongings = Belongings::decode(&info.extra);
                    return belongings.unwrap_or_default().listens;
                }
                Err(_) if hosting.has_not(process).await => return Vec::new(),
                Err(failure) => tracing::debug!("ports of {}: {failure}", process.short()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(ATTACH_AGAIN_MAX);
        }
    }

    async fn keep_attached(
        self: Arc<Self>,
        hosting: Arc<Hosting>,
        (process, index): (ProcessId, u32),
        mut listen: Listen,
        wish: Arc<Wish>,
    ) {
        let mut pause = RETRY_FIRST;
        loop {
            let looked = wish.times.load(Ordering::SeqCst);
            if hosting.has_not(process).await {
                match hosting.attaching.give_up(process, index, looked) {
                    true => return,
                    false => continue,
                }
            }
            match self.attach_once(&hosting, process, index, &listen).await {
                Ok(()) => pause = RETRY_FIRST,
                Err(failure) => {
                    tracing::debug!("clients of {} are not attached: {failure}", process.short());
                    pause = (pause * 2).min(ATTACH_AGAIN_MAX);
                }
            }
            // Or at once, when it has just come back.
            if timeout(pause, wish.again.notified()).await.is_ok() {
                pause = RETRY_FIRST;
            }
            // Perhaps it has moved.
            if let Ok(entry) = self.entry(process).await
                && let Some(now) = Listen::of(&entry.info.extra, index)
            {
                listen = now;
            }
        }
    }

    /// Attaches the process to its ingress, and passes frames on until either end is gone.
    async fn attach_once(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        index: u32,
        listen: &Listen,
    ) -> Result<(), Failure> {
        let way = self.way_to(hosting, process, index, listen).await?;
        let (ours, theirs) = StdUnixStream::pair().map_err(Failure::refused)?;
        let ours = as_tokio(ours).map_err(Failure::refused)?;
        let order = Order::Attach {
            process,
            port: index,
        };
        hosting.ask(order, vec![OwnedFd::from(theirs)]).await?;
        let (mut read, mut write) = ours.into_split();
        let ended = match way {
            Way::Here(port, epoch) => {
                let attached = port.attach(epoch, read, write).await;
                attached.map_err(Failure::refused)
            }
            Way::There(mut to, mut from) => tokio::select! {
                ended = copy(&mut read, &mut to) => ended.map(drop).map_err(Failure::refused),
                ended = copy(&mut from, &mut write) => ended.map(drop).map_err(Failure::refused),
            },
        };
        if let Err(failure) = ended {
            tracing::debug!(
                "clients of {} are attached anew: {failure}",
                process.short()
            );
        }
        Ok(())
    }

    async fn way_to(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        index: u32,
        listen: &Listen,
    ) -> Result<Way, Failure> {
        let port = listen.address.port();
        if listen.ingress == self.id {
            let epoch = self.epoch_of_owner(self.id, process, index).await?;
            let port = hosting.ingress.listen(process, index, port)?;
            return Ok(Way::Here(port, epoch));
        }
        let request = Request::Hosting(HostingRequest::Clients {
            process,
            index,
            port,
        });
        let begun = self.transport.begin(listen.ingress, &request).await;
        let unreachable = |error: String| Failure::new(FailureKind::Unreachable, error);
        let (to, mut from) = begun.map_err(|error| unreachable(error.to_string()))?;
        match wire::receive(&mut from, REPLY_BYTES_MAX, ANSWER_WITHIN).await {
            Ok(Reply::Done) => Ok(Way::There(to, from)),
            Ok(Reply::Failed(failure)) => Err(failure),
            Ok(_) => Err(Failure::refused("the ingress answers another question")),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    /// Lets the node that has a process attach to a port of this one.
    pub(crate) async fn port_for(
        &self,
        authority: Authority,
        request: &HostingRequest,
    ) -> Result<(Arc<Port>, Epoch), Failure> {
        door::permit(authority, &Request::Hosting(request.clone()))?;
        let (Authority::Member(node), Some(hosting)) = (authority, &self.hosting) else {
            return Err(Failure::refused("this node hosts no processes"));
        };
        let HostingRequest::Clients {
            process,
            index,
            port,
        } = *request
        else {
            return Err(Failure::refused("not a request of this sort"));
        };
        let epoch = self.epoch_of_owner(node, process, index).await?;
        Ok((hosting.ingress.listen(process, index, port)?, epoch))
    }

    /// The epoch of a process, if it is that node's, and the port this one's, as the registry has it.
    async fn epoch_of_owner(
        &self,
        node: NodeId,
        process: ProcessId,
        index: u32,
    ) -> Result<Epoch, Failure> {
        let entry = self.entry(process).await?;
        let record = entry.record().map_err(Failure::refused)?;
        let listen = Listen::of(&entry.info.extra, index);
        let why = if record.owner != node || record.life != Life::Alive {
            "only the node that has a process serves its clients"
        } else if listen.is_some_and(|listen| listen.ingress != self.id) {
            "the port is another node's by now"
        } else {
            return Ok(record.epoch);
        };
        Err(Failure::new(FailureKind::Forbidden, why))
    }

    /// Closes ports of processes that run nowhere any more, or have their ports elsewhere.
    pub(crate) async fn watch_ports(self: Arc<Self>, hosting: Arc<Hosting>) {
        loop {
            sleep(UNATTACHED_WITHIN).await;
            for ((process, index), unused) in hosting.ingress.unattached() {
                let asked = self
                    .ask_registry(RegistryRequest::Process { process })
                    .await;
                let is_over = match asked {
                    Ok(Reply::Process(Some(entry))) => {
                        let listen = Listen::of(&entry.info.extra, index);
                        listen.is_some_and(|listen| listen.ingress != self.id)
                            || entry
                                .record()
                                .is_ok_and(|record| record.life != Life::Alive)
                    }
                    // It was forgotten; or its ports were opened before it has a record; or a registry that was restored has
                    // not heard of it yet.
                    Ok(Reply::Process(None)) => {
                        let is_forgotten = self.roster().recovery.is_none();
                        unused.map_or(is_forgotten, |waited| waited >= NOT_STARTED_WITHIN)
                    }
                    // Nobody knows: the clients wait.
                    _ => false,
                };
                if is_over {
                    hosting.ingress.close_one(process, index);
                }
            }
        }
    }
}

impl Hosting {
    /// Answers a node that starts a process whose ports are to be here.
    pub(super) fn answer_ingress(
        &self,
        request: &HostingRequest,
    ) -> Result<Option<HostingReply>, Failure> {
        match *request {
            HostingRequest::Listen {
                process,
                index,
                port,
            } => self.listen(process, index, port).map(Some),
            HostingRequest::Unlisten { process } => {
                self.ingress.close_unused(process);
                Ok(None)
            }
            _ => Err(Failure::refused("not a request of this sort")),
        }
    }

    /// Opens a port here.
    fn listen(&self, process: ProcessId, index: u32, port: u16) -> Result<HostingReply, Failure> {
        let port = self.ingress.listen(process, index, port)?;
        Ok(HostingReply::Listening(port.address()))
    }
}

/// Says to the node at the other end of a stream that it is attached, and serves it.
pub(crate) async fn serve_clients(
    (port, epoch): (&Port, Epoch),
    to: &mut SendStream,
    from: &mut RecvStream,
) {
    let said = wire::encode(&Reply::Done, REPLY_BYTES_MAX);
    let Ok(said) = said else { return };
    if to.write_all(&said).await.is_err() {
        return;
    }
    if let Err(error) = port.attach(epoch, from, &mut *to).await {
        tracing::debug!("an attachment has ended: {error}");
    }
    let _ = to.shutdown().await;
}

fn as_tokio(socket: StdUnixStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
