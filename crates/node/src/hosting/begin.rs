//! How a move begins: what would make it fail is asked first.

use std::fmt::Display;
use std::sync::Arc;

use sterna_migration::{Attempt, Grant, MoveId, NodeId, Offer, Order as Move, StartError, Travel};
use sterna_process::ProcessId;
use sterna_runner::message::Seen;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::Hosting;
use super::copies::copied;
use super::input::Input;
use crate::identity::random;
use crate::limits::{
    ANSWER_WITHIN, FREE_WITHIN, PROBE_WITHIN, RETRY_FIRST, TARGET_LOOK_EVERY, TARGET_MISSES_MAX,
};
use crate::message::{
    Belongings, BindingSort, Failure, FailureKind, HostingReply, HostingRequest, RegistryRequest,
    Reply, Request,
};
use crate::registry::unsettled;
use crate::service::Service;

impl Hosting {
    /// How a process is when nobody works on it: until then it is not known how large its memory is. A snapshot is soon done.
    async fn seen_free(&self, process: ProcessId) -> Result<Seen, Failure> {
        let until = Instant::now() + FREE_WITHIN;
        loop {
            let seen = self.seen(process).await?;
            let Some(doing) = seen.doing else {
                return Ok(seen);
            };
            if Instant::now() >= until {
                return Err(Failure::new(
                    FailureKind::Busy,
                    format!("process {} is {doing}: try again", process.short()),
                ));
            }
            sleep(RETRY_FIRST).await;
        }
    }
}

impl Service {
    /// Begins to move a process of this node.
    pub(super) async fn begin_move(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        process: ProcessId,
        (target, travel): (NodeId, Travel),
        dry_run: bool,
    ) -> Result<HostingReply, Failure> {
        travel.check().map_err(Failure::refused)?;
        let seen = hosting.seen_free(process).await?;
        self.may_move(hosting, process, target, &seen).await?;
        if dry_run {
            return Ok(HostingReply::CouldMove {
                source: self.id,
                memory_bytes: seen.layout.bytes(),
            });
        }
        let order = Move {
            process,
            target,
            move_id: MoveId::from_bytes(random()),
            grant: Grant::from_bytes(random()),
            offer: Offer {
                kind: seen.kind,
                program: seen.program,
                layout: seen.layout,
                image_format: sterna_process::image::FORMAT_NEWEST,
                strategy: travel.offered(),
            },
            travel,
        };
        let (begun, attempt) = oneshot::channel();
        hosting.tell(Input::Begin { order, begun }).await;
        match attempt.await {
            Ok(Ok(attempt)) => {
                let watching = Arc::clone(self).watch_target(Arc::clone(hosting), attempt, target);
                tokio::spawn(watching);
                Ok(HostingReply::Moving {
                    source: self.id,
                    attempt,
                })
            }
            Ok(Err(error)) => {
                let kind = match error {
                    StartError::Busy { .. } => FailureKind::Taken,
                    StartError::TooManyMoves { .. } => FailureKind::Busy,
                    _ => FailureKind::Refused,
                };
                Err(Failure::new(kind, error))
            }
            Err(_) => Err(Failure::new(FailureKind::Internal, "the node is stopping")),
        }
    }

    /// Gives a move up whose target dies before it has accepted. One that answers may be fetching and compiling the program.
    async fn watch_target(
        self: Arc<Self>,
        hosting: Arc<Hosting>,
        attempt: Attempt,
        target: NodeId,
    ) {
        let mut missed = 0;
        while hosting.is_offered(attempt).await {
            if missed == TARGET_MISSES_MAX {
                return hosting.tell(Input::TargetSilent { attempt }).await;
            }
            sleep(TARGET_LOOK_EVERY).await;
            missed = match self.answers(target).await {
                true => 0,
                false => missed + 1,
            };
        }
    }

    /// Whether a node answers now.
    pub(super) async fn answers(&self, node: NodeId) -> bool {
        let asked = self.transport.ask(node, &Request::Status, PROBE_WITHIN);
        matches!(timeout(PROBE_WITHIN, asked).await, Ok(Ok(_)))
    }

    /// Asks first what would make the move fail: before anything is written anywhere.
    async fn may_move(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        target: NodeId,
        seen: &Seen,
    ) -> Result<(), Failure> {
        if target == self.id {
            return Err(Failure::refused(format!(
                "process {} is on that node already",
                process.short()
            )));
        }
        if self.roster().member(target).is_none() {
            return Err(Failure::refused(
                "the cluster has no such node: see `sterna nodes`",
            ));
        }
        let entry = self.entry(process).await?;
        let belongings = Belongings::decode(&entry.info.extra).unwrap_or_default();
        let mut bindings = belongings.bindings.iter();
        if let Some(fixed) = bindings.find(|one| one.sort == BindingSort::Fixed) {
            return Err(Failure::refused(format!(
                "the directory {} is fixed to its node, {}: start the process with `:copy`, or with `:shared` for what every \
                 node exports",
                fixed.guest_path,
                self.name_of(self.id)
            )));
        }
        self.has_registry_settled().await?;
        let is_copied = copied(&belongings.bindings).next().is_some();
        let request = HostingRequest::MayCome {
            kind: seen.kind.clone(),
            bindings: belongings.bindings,
            memory_bytes: seen.layout.bytes(),
        };
        self.may_be_asked(target, request).await?;
        match is_copied {
            true => self.have_room(hosting, process, target).await,
            false => Ok(()),
        }
    }

    /// Fails while a registry that was restored waits to hear from all nodes: until then it writes no new owner down.
    async fn has_registry_settled(&self) -> Result<(), Failure> {
        if self.roster().recovery.is_none() {
            return Ok(());
        }
        let Ok(Reply::RegistryStatus(status)) = self.ask_registry(RegistryRequest::Status).await
        else {
            return Ok(());
        };
        let awaited: Vec<String> = status
            .awaited
            .iter()
            .map(|node| self.name_of(*node))
            .collect();
        match awaited.is_empty() {
            true => Ok(()),
            false => Err(unsettled(&awaited)),
        }
    }

    /// Asks whether a process may come.
    pub(super) async fn may_be_asked(
        &self,
        target: NodeId,
        request: HostingRequest,
    ) -> Result<(), Failure> {
        let request = Request::Hosting(request);
        let asked = self.transport.ask(target, &request, ANSWER_WITHIN).await;
        match asked {
            Ok((Reply::Done, _)) => Ok(()),
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok(_) => Err(Failure::refused("the target answers another question")),
            Err(error) => Err(Failure::new(
                FailureKind::Unreachable,
                format!("{error}: the process stays where it is"),
            )),
        }
    }

    /// That a node does not answer, by its name.
    pub(crate) fn silent(&self, node: NodeId, why: impl Display) -> Failure {
        let text = match self.roster().removed.contains(&node) {
            true => {
                format!("node {node} was removed from the cluster, and with it what it alone had")
            }
            false => format!(
                "node {}: {why}; if it does not run, start it again on its machine (`sterna node start`)",
                self.name_of(node)
            ),
        };
        Failure::new(FailureKind::Unreachable, text)
    }

    /// Whether a node speaks an older version of the protocol than [`SINCE`].
    pub(crate) async fn is_older(&self, node: NodeId) -> Result<bool, Failure> {
        let version = self.transport.version_with(node).await;
        let version = version.map_err(|error| self.silent(node, error))?;
        Ok(version < SINCE)
    }

    /// A request as another node understands it, which may be older.
    pub(super) async fn as_understood(
        &self,
        node: NodeId,
        request: HostingRequest,
    ) -> Result<HostingRequest, Failure> {
        if !matches!(
            request,
            HostingRequest::MoveSo { .. }
                | HostingRequest::MoveProgress { .. }
                | HostingRequest::StartListening { .. }
                | HostingRequest::Listen { .. }
                | HostingRequest::KeptCopy { .. }
                | HostingRequest::TakePort { .. }
                | HostingRequest::SaltedChannel(..)
                | HostingRequest::LogPartBefore { .. }
        ) {
            return Ok(request);
        }
        if !self.is_older(node).await? {
            return Ok(request);
        }
        match request {
            HostingRequest::MoveSo {
                process,
                target,
                travel,
                dry_run,
            } if travel == Travel::default() => Ok(HostingRequest::Move {
                process,
                target,
                dry_run,
            }),
            HostingRequest::MoveSo { .. } => Err(Failure::refused(
                "the process's node is older and knows one way to move only: upgrade it, or give no strategy and limits",
            )),
            HostingRequest::MoveProgress {
                source, attempt, ..
            } => Ok(HostingRequest::MoveNews { source, attempt }),
            HostingRequest::StartListening { .. }
            | HostingRequest::Listen { .. }
            | HostingRequest::TakePort { .. } => Err(Failure::refused(
                "that node is older and knows no ports of processes: upgrade it, or choose another one",
            )),
            HostingRequest::SaltedChannel(attempt, _) => Ok(HostingRequest::Channel { attempt }),
            HostingRequest::LogPartBefore { process, after, .. } => {
                Ok(HostingRequest::LogPart { process, after })
            }
            HostingRequest::KeptCopy { .. } => Err(Failure::refused(
                "that node is older and goes on from no copies",
            )),
            other => Ok(other),
        }
    }
}

/// The version of the protocol since which nodes are told how memory is to travel, open ports for processes, and go on from
/// copies that they have kept.
const SINCE: u16 = 3;
