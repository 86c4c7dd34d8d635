//! From an order to a process: its record and name first, then the process itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sterna_migration::{Event, NodeId, Record, RunnerEvent};
use sterna_process::{Epoch, Exit, ProcessId, State, Stats};
use sterna_runner::message::{Ended, Order, Place, Spawn};

use super::input::Input;
use super::{Hosting, bindings, blocking};
use crate::message::{
    Belongings, BindingSort, EventSort, Failure, FailureKind, HostingReply, HostingRequest, Listen,
    ListenOrder, ProcessInfo, RegistryRequest, Reply, Request, StartOrder, Where,
};
use crate::service::Service;
use crate::wire::now_ms;

impl Service {
    /// Starts a process, here or elsewhere. `asked_by`: the node that has the program, unless it is this one.
    pub(super) async fn start(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        order: StartOrder,
        listens: Vec<ListenOrder>,
        opened: Vec<OwnedFd>,
        asked_by: Option<NodeId>,
    ) -> Result<HostingReply, Failure> {
        if !order.is_plain() || !ListenOrder::are_plain(&listens) {
            return Err(Failure::refused(
                "the process's name has more than 200 bytes or is not plain text in one word, its arguments or paths \
                 are too long, a directory's path in the process is not absolute, or a port's name is not plain text in one \
                 word",
            ));
        }
        let at = match order.place {
            Where::Here => self.id,
            Where::At(node) => node,
            Where::Anywhere => self.roomiest(hosting).await,
        };
        if at == self.id {
            return self
                .start_here(hosting, order, listens, (opened, asked_by))
                .await;
        }
        let fixed = order.belongings.bindings.iter();
        if let Some(binding) = fixed.clone().find(|one| one.sort == BindingSort::Fixed) {
            return Err(Failure::refused(format!(
                "the directory for {} is on this node, and the process is to be started on another: give one that every \
                 node exports, NAME::{}:shared",
                binding.guest_path, binding.guest_path
            )));
        }
        let mut copied = order.belongings.bindings.iter();
        if let Some(binding) = copied.find(|one| one.sort == BindingSort::Copy) {
            return Err(Failure::refused(format!(
                "the directory for {} is on this node, where it is copied from: start the process here, and move it \
                 (`sterna move`)",
                binding.guest_path
            )));
        }
        let order = StartOrder {
            place: Where::Here,
            ..order
        };
        let order = Box::new(order);
        let request = match listens.is_empty() {
            true => HostingRequest::Start(order),
            false => HostingRequest::StartListening { order, listens },
        };
        self.pass_on(at, request).await
    }

    async fn start_here(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        mut order: StartOrder,
        listens: Vec<ListenOrder>,
        (opened, asked_by): (Vec<OwnedFd>, Option<NodeId>),
    ) -> Result<HostingReply, Failure> {
        if !hosting.knows(&order.kind) {
            return Err(Failure::refused(format!(
                "this node has no processes of kind {}: it runs another version of sterna",
                order.kind
            )));
        }
        let runner = hosting.runner_soon().await?;
        if !order.belongings.bindings.is_empty() && !runner.takes_directories {
            return Err(Failure::refused(
                "this machine cannot confine a process to its directories: see `sterna doctor`",
            ));
        }
        if !hosting.has_for_start(&order.kind, order.program).await {
            match asked_by {
                Some(node) => {
                    let wanted = (&order.kind, order.program);
                    self.fetch_program(hosting, node, wanted).await?;
                }
                None => {
                    return Err(Failure::new(
                        FailureKind::NotHere,
                        "the node does not find the program: does it use another cache (STERNA_CACHE_DIR)?",
                    ));
                }
            }
        }
        let process = ProcessId::random();
        let listens = self.open_ports(hosting, process, listens).await?;
        order.variables.extend(Listen::variables(&listens));
        order.belongings.listens = listens.clone();
        let started = self.start_placed(hosting, process, order, opened).await;
        if started.is_err() {
            self.close_ports(hosting, process, &listens).await;
        }
        started?;
        hosting.copies.has_started(process);
        self.attach_clients(hosting, process);
        let node = self.id;
        Ok(HostingReply::Started { process, node })
    }

    async fn start_placed(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        order: StartOrder,
        opened: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let belongings = &order.belongings;
        let placed = hosting.place(process, Epoch::FIRST, belongings, opened, None);
        let placed = match placed.await {
            Ok(placed) => hosting.starts(process, Epoch::FIRST).await.map(|()| placed),
            Err(failure) => Err(failure),
        };
        let (place, descriptors) = match placed {
            Ok(placed) => placed,
            Err(failure) => {
                hosting.uncopy(process).await;
                return Err(failure);
            }
        };
        let started = self.start_noted(hosting, process, order, (place, descriptors));
        let started = started.await;
        if let Err(failure) = &started {
            hosting.give_up(process, &failure.message).await;
        }
        started
    }

    /// The driver knows of it: it gets a record, and begins to run.
    async fn start_noted(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        order: StartOrder,
        (place, descriptors): (Place, Vec<OwnedFd>),
    ) -> Result<(), Failure> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let info = ProcessInfo {
            name: order.name,
            program: order.program,
            kind: order.kind.clone(),
            file: order.file,
            arguments: order.arguments.iter().map(text).collect(),
            started_ms: now_ms(),
            started_on: self.id,
            parent: None,
            extra: order.belongings.encode(),
        };
        hosting.remember(process, &info);
        let info = Box::new(info);
        let created = self.ask_registry(RegistryRequest::CreateRecord { process, info });
        let first = Record::first(self.id);
        match created.await? {
            Reply::Record(Some(record)) if Record::decode(&record) == Ok(first) => {}
            _ => {
                return Err(Failure::refused(
                    "a process of the same random name exists: try again",
                ));
            }
        }
        let written = Event::Record {
            process,
            record: Some(first),
        };
        hosting.tell(Input::Event(written)).await;
        let spawn = Spawn {
            process,
            epoch: Epoch::FIRST,
            kind: order.kind.clone(),
            program: order.program,
            arguments: order.arguments,
            variables: order.variables,
            entry: order.entry,
            place,
        };
        hosting
            .ask(Order::Spawn(Box::new(spawn)), descriptors)
            .await?;
        hosting
            .news
            .event(process, EventSort::Started, "was started");
        hosting.expect_moves(order.kind, order.program);
        Ok(())
    }

    /// Asks another node for something about processes.
    pub(super) async fn pass_on(
        &self,
        node: NodeId,
        request: HostingRequest,
    ) -> Result<HostingReply, Failure> {
        let answered = self.pass_on_any(node, request).await?;
        answered.ok_or_else(|| Failure::refused("the other node answers another question"))
    }

    /// The same for what may only be to be done.
    pub(super) async fn pass_on_any(
        &self,
        node: NodeId,
        request: HostingRequest,
    ) -> Result<Option<HostingReply>, Failure> {
        let within = match &request {
            // A program may have to be fetched and compiled first.
            HostingRequest::Start(_)
            | HostingRequest::StartListening { .. }
            | HostingRequest::Snapshot { .. }
            | HostingRequest::Recover { .. }
            | HostingRequest::Clone { .. }
            | HostingRequest::Adopt { .. }
            // It may have to wait for moves to be given up.
            | HostingRequest::Drain { .. } => crate::limits::START_WITHIN,
            _ => crate::limits::ANSWER_WITHIN,
        };
        let request = Request::Hosting(self.as_understood(node, request).await?);
        match self.transport.ask(node, &request, within).await {
            Ok((Reply::Hosting(reply), _)) => Ok(Some(reply)),
            Ok((Reply::Done, _)) => Ok(None),
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok(_) => Err(Failure::refused("the other node answers another question")),
            Err(error) => Err(self.silent(node, error)),
        }
    }
}

impl Hosting {
    /// Where a process is on this node: its log, and its directories.
    pub(super) async fn place(
        &self,
        process: ProcessId,
        epoch: Epoch,
        belongings: &Belongings,
        opened: Vec<OwnedFd>,
        came_from: Option<NodeId>,
    ) -> Result<(Place, Vec<OwnedFd>), Failure> {
        if let Some(reason) = self.closed() {
            return Err(Failure::refused(reason));
        }
        let log = self.logs.begin(process, epoch);
        let log = log.map_err(|error| {
            Failure::refused(format!(
                "the node could not make a log for the process: {error}"
            ))
        })?;
        let mut descriptors = vec![log.into()];
        if let Some(size) = belongings.terminal {
            let workshop = Arc::clone(&self.workshop);
            let pair = blocking(move || workshop.terminal(size)).await?;
            let pair = pair.map_err(|error| {
                Failure::refused(format!("the node could not make a terminal: {error}"))
            })?;
            descriptors.extend(pair);
        }
        let directories = self.directories(process, &belongings.bindings, opened);
        descriptors.extend(directories.await?);
        let place = Place {
            limits: belongings.limits.clone(),
            directories: bindings::placed(&belongings.bindings),
            input: belongings.input,
            came_from,
            terminal: belongings.terminal.is_some(),
            ports: belongings
                .listens
                .iter()
                .map(|listen| listen.name.clone())
                .collect(),
        };
        Ok((place, descriptors))
    }

    /// A process that the driver expects will not run: its record says so, if there is one.
    async fn give_up(&self, process: ProcessId, why: &str) {
        let now = std::time::SystemTime::now();
        let ended = Ended {
            process,
            epoch: Epoch::FIRST,
            exit: Exit::Trapped {
                what: format!("could not be started: {why}"),
                back_trace: String::new(),
            },
            stats: Stats {
                state: State::Ended,
                started: now,
                cpu_time: std::time::Duration::ZERO,
                memory_bytes: 0,
                memory_bytes_peak: 0,
            },
            at: now,
        };
        self.ended().insert(process, ended);
        self.forget(process);
        self.logs.remove(process);
        self.uncopy(process).await;
        self.tell(Input::Event(Event::Runner(RunnerEvent::Exited { process })))
            .await;
    }
}
