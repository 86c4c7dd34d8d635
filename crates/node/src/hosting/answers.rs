//! What is asked about processes, answered here or by the node that has the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use sterna_migration::{Attempt, Holding, Life, Message, NodeId, Travel, WireError};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Order, Seen};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::Hosting;
use super::input::Input;
use crate::door::Authority;
use crate::limits::{
    ANSWER_WITHIN, INPUT_BYTES_MAX, LOG_LOOK_EVERY, LOG_WAIT_MAX, PROBE_WITHIN, WATCH_WITHIN,
};
use crate::message::{
    Deed, EventRecord, Failure, FailureKind, HostingReply, HostingRequest, RegistryRequest, Reply,
    Request,
};
use crate::service::{Origin, Service};
use crate::wire::of_moves;

/// How long a process that is just moving is waited for.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

impl Service {
    /// Answers a request about processes that the door has let through.
    pub(crate) async fn answer_hosting(
        self: &Arc<Self>,
        authority: Authority,
        request: HostingRequest,
        origin: Origin<'_>,
    ) -> Result<Reply, Failure> {
        let Some(hosting) = &self.hosting else {
            return Err(Failure::refused("this node hosts no processes"));
        };
        let answered = match (authority, origin) {
            (Authority::Local { .. }, Origin::Here(descriptors)) => {
                self.answer_user(hosting, request, descriptors).await
            }
            (Authority::Member(node), Origin::Node(connection)) => {
                self.answer_node(hosting, node, request, connection).await
            }
            _ => Err(Failure::new(
                FailureKind::Forbidden,
                "only users and nodes may ask that",
            )),
        };
        answered.map(|reply| reply.map_or(Reply::Done, Reply::Hosting))
    }

    /// A user of this machine: what is elsewhere is asked for there.
    async fn answer_user(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        request: HostingRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<HostingReply>, Failure> {
        match request {
            HostingRequest::Start(order) => {
                let started = self.start(hosting, *order, Vec::new(), descriptors, None);
                started.await.map(Some)
            }
            HostingRequest::StartListening { order, listens } => {
                let started = self.start(hosting, *order, listens, descriptors, None);
                started.await.map(Some)
            }
            HostingRequest::List { ended } => self.listed(hosting, ended).await.map(Some),
            HostingRequest::ListPage { ended, after } => {
                let (listed, next) = self.listed_after(hosting, ended, after).await?;
                Ok(Some(HostingReply::ListedPage { listed, next }))
            }
            HostingRequest::Find { text } => self.find(text).await.map(Some),
            HostingRequest::Wait { process } => self.wait_for(process).await.map(Some),
            HostingRequest::Steer {
                process,
                deed: Deed::Forget,
            } => {
                self.forget_ended(hosting, process).await?;
                Ok(None)
            }
            HostingRequest::EventsOf {
                node,
                after,
                wait_ms,
            } => {
                let events = HostingRequest::Events { after, wait_ms };
                match node == self.id {
                    true => self.answer_here(hosting, events).await,
                    false => self.pass_on(node, events).await.map(Some),
                }
            }
            HostingRequest::Drain { node, .. } if node != self.id => {
                self.pass_on(node, request).await.map(Some)
            }
            HostingRequest::Rooms => self.all_rooms(hosting).await.map(Some),
            HostingRequest::MoveNews { source, .. }
            | HostingRequest::MoveProgress { source, .. }
            | HostingRequest::CancelMove { source, .. }
                if source != self.id =>
            {
                self.pass_on_any(source, request).await
            }
            HostingRequest::Recover { process, on } => {
                let recovered = self.recover_somewhere(hosting, process, on, descriptors);
                recovered.await.map(Some)
            }
            HostingRequest::Freeze { .. } => {
                let frozen = self.freeze(hosting, request, descriptors);
                frozen.await.map(Some)
            }
            HostingRequest::Thaw(_) | HostingRequest::ThawAt(..) => {
                let thawed = self.thaw(hosting, request, descriptors);
                thawed.await.map(Some)
            }
            request => match request.about() {
                Some(process) => self.where_it_is(hosting, process, request).await,
                None => self.answer_here(hosting, request).await,
            },
        }
    }

    /// Has a request about a process answered by whoever owns it. While it moves, that may change.
    async fn where_it_is(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        process: ProcessId,
        request: HostingRequest,
    ) -> Result<Option<HostingReply>, Failure> {
        let until = Instant::now() + SETTLE_WITHIN;
        loop {
            let entry = self.entry(process).await?;
            let record = entry.record().map_err(Failure::refused)?;
            let is_of_ended = matches!(
                request,
                HostingRequest::Log { .. } | HostingRequest::File { .. }
            );
            if record.life != Life::Alive && !is_of_ended {
                return Err(gone(process, record.life));
            }
            let answered = match record.owner == self.id {
                true => self.answer_here(hosting, request.clone()).await,
                false => self.pass_on_any(record.owner, request.clone()).await,
            };
            match answered {
                Err(failure) if failure.kind == FailureKind::Unreachable => {
                    let HostingRequest::Log { process, after, .. } = request else {
                        return Err(failure);
                    };
                    // What was written before it was there may be on nodes that answer.
                    let part = self.log_part_of_others(hosting, process, after, record.owner);
                    return part.await.map(Some).ok_or(failure);
                }
                Err(failure)
                    if matches!(failure.kind, FailureKind::NotHere | FailureKind::Busy)
                        && Instant::now() < until =>
                {
                    sleep(LOG_LOOK_EVERY).await;
                }
                other => return other,
            }
        }
    }

    /// Another node: it is answered here, or not at all.
    // long because: one arm for each request
    async fn answer_node(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        node: NodeId,
        request: HostingRequest,
        connection: &quinn::Connection,
    ) -> Result<Option<HostingReply>, Failure> {
        match request {
            HostingRequest::Start(order) => {
                let started = self.start(hosting, *order, Vec::new(), Vec::new(), Some(node));
                started.await.map(Some)
            }
            HostingRequest::StartListening { order, listens } => {
                let started = self.start(hosting, *order, listens, Vec::new(), Some(node));
                started.await.map(Some)
            }
            HostingRequest::Listen { .. } | HostingRequest::Unlisten { .. } => {
                hosting.answer_ingress(&request)
            }
            HostingRequest::TakePort { process, index } => {
                let taken = self.take_port(hosting, node, (process, index));
                taken.await.map(Some)
            }
            HostingRequest::Message { bytes } => {
                let (message, found) = Message::decode(&bytes).map_err(Failure::refused)?;
                let newest = self.transport.versions().of_moves();
                if found > newest {
                    return Err(Failure::refused(WireError::Newer { found, newest }));
                }
                hosting.tell_heard(node, message);
                Ok(None)
            }
            HostingRequest::Channel { attempt } => {
                let expected = hosting.expect_channel(connection, node, (attempt, None));
                expected.await.map(Some)
            }
            HostingRequest::SaltedChannel(attempt, salt) => {
                let expected = hosting.expect_channel(connection, node, (attempt, Some(salt)));
                expected.await.map(Some)
            }
            HostingRequest::Program { program, offset } => {
                hosting.program_piece(program, offset).await.map(Some)
            }
            HostingRequest::MayCome { kind, bindings, .. } => {
                // Shorter than who asks waits, so that he hears the reason.
                let _ = timeout(PROBE_WITHIN, hosting.runner_soon()).await;
                match hosting.objection(&kind, &bindings, false) {
                    Some(refusal) => Err(Failure::refused(refusal)),
                    None => hosting.responds().await.map(|()| None),
                }
            }
            HostingRequest::TreesMayCome {
                process,
                bytes,
                entries,
            } => {
                let copies = Arc::clone(&hosting.copies);
                super::blocking(move || copies.may_come(process, bytes, entries)).await??;
                Ok(None)
            }
            HostingRequest::Tree {
                attempt,
                round,
                after,
            } => hosting
                .tree_page(attempt, node, round, after)
                .await
                .map(Some),
            HostingRequest::TreePieces {
                attempt,
                round,
                wishes,
            } => hosting
                .tree_pieces(attempt, node, round, wishes)
                .await
                .map(Some),
            HostingRequest::TreesStill { attempt } => {
                let came = self.trees_stand_still(hosting, attempt, node);
                came.await.map(|()| None)
            }
            HostingRequest::Forgotten { process } => {
                self.remove_forgotten(hosting, process).await?;
                Ok(None)
            }
            HostingRequest::KeptCopy { process } => {
                self.tell_of_copy(hosting, process).await.map(Some)
            }
            HostingRequest::Shelf { folder, request } => self.shelve(node, folder, request).await,
            HostingRequest::Adopt {
                process,
                key,
                parent,
            } => {
                let adopted = self.adopt_clone(hosting, process, &key, (parent, node));
                adopted.await.map(Some)
            }
            HostingRequest::LogPart { process, after } => {
                hosting.log_part(process, after).await.map(Some)
            }
            HostingRequest::LogPartBefore {
                process,
                after,
                before,
            } => {
                let part = hosting.log_part_before(process, after, before).await?;
                Ok(Some(HostingReply::LogPart(part)))
            }
            request => self.answer_here(hosting, request).await,
        }
    }

    // long because: one arm for each request
    async fn answer_here(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        request: HostingRequest,
    ) -> Result<Option<HostingReply>, Failure> {
        match request {
            HostingRequest::Held => Ok(Some(HostingReply::Held(hosting.held().await?))),
            HostingRequest::Capacity => hosting.room().await.map(Some),
            HostingRequest::Drain { order, .. } => {
                self.see_to_draining(hosting, order).await.map(Some)
            }
            HostingRequest::Steer { process, deed } => {
                let order = match deed {
                    Deed::Pause => Order::Pause(process),
                    Deed::Resume => Order::Resume(process),
                    Deed::Kill => Order::Kill(process),
                    Deed::Forget => return Err(Failure::refused("only the registry forgets")),
                };
                hosting.ask_about(process, order).await?;
                Ok(None)
            }
            HostingRequest::Describe { process } => {
                match hosting.ask_about(process, Order::Describe(process)).await? {
                    Answer::Described(description) => {
                        Ok(Some(HostingReply::Described(description)))
                    }
                    _ => Err(Failure::refused("the runner answers another question")),
                }
            }
            HostingRequest::Input {
                process,
                bytes,
                end,
            } => hosting.input(process, bytes, end).await.map(Some),
            HostingRequest::Look { process } => {
                let looked = hosting.looked(process, self.id).await?;
                Ok(Some(HostingReply::Looked(Box::new(looked))))
            }
            HostingRequest::Resize { process, size } => {
                let order = Order::Resize { process, size };
                hosting.ask_about(process, order).await.map(|_| None)
            }
            HostingRequest::File { process, deed } => {
                let order = Order::File {
                    process,
                    deed: deed.clone(),
                };
                match hosting.ask_about(process, order).await {
                    Ok(Answer::File(answer)) => Ok(Some(HostingReply::File(answer))),
                    Ok(_) => Err(Failure::refused("the runner answers another question")),
                    Err(failure) if failure.kind == FailureKind::NotHere => {
                        self.file_of_ended(hosting, process, deed).await.map(Some)
                    }
                    Err(failure) => Err(failure),
                }
            }
            HostingRequest::ProgramOf { process, offset } => {
                let program = hosting.seen(process).await?.program;
                hosting.program_piece(program, offset).await.map(Some)
            }
            HostingRequest::Log {
                process,
                after,
                wait_ms,
            } => {
                let wait = Duration::from_millis(wait_ms);
                self.log(hosting, process, after, wait).await.map(Some)
            }
            HostingRequest::Move {
                process,
                target,
                dry_run,
            } => {
                let any = Travel::default();
                let begun = self.begin_move(hosting, process, (target, any), dry_run);
                begun.await.map(Some)
            }
            HostingRequest::MoveSo {
                process,
                target,
                travel,
                dry_run,
            } => {
                let begun = self.begin_move(hosting, process, (target, travel), dry_run);
                begun.await.map(Some)
            }
            HostingRequest::Snapshot { process, order } => self
                .see_to_snapshots(hosting, process, order)
                .await
                .map(Some),
            HostingRequest::Recover { process, on: None } => {
                self.recover(hosting, process, Vec::new()).await.map(Some)
            }
            HostingRequest::Clone { process, target } => {
                self.clone_process(hosting, process, target).await.map(Some)
            }
            HostingRequest::MoveNews { attempt, .. } => {
                self.news_of(hosting, attempt).await.map(Some)
            }
            HostingRequest::MoveProgress { attempt, after, .. } => {
                let progress = self.progress_of(hosting, attempt, after).await?;
                Ok(Some(HostingReply::MoveProgress(progress)))
            }
            HostingRequest::CancelMove { attempt, .. } => {
                hosting.cancel(attempt).await.map(|()| None)
            }
            HostingRequest::Events { after, wait_ms } => {
                let wait = Duration::from_millis(wait_ms).min(LOG_WAIT_MAX);
                let events = hosting.events(after, wait).await;
                Ok(Some(HostingReply::Events(events)))
            }
            _ => Err(Failure::refused("not a request of this sort")),
        }
    }

    /// Waits until a process runs nowhere, or for a while.
    async fn wait_for(&self, process: ProcessId) -> Result<HostingReply, Failure> {
        let until = Instant::now() + WATCH_WITHIN;
        let mut after = 0;
        loop {
            let revision = self
                .ask_registry(RegistryRequest::ProcessesChanged { after })
                .await?;
            let entry = self.entry(process).await?;
            let lives = entry
                .record()
                .is_ok_and(|record| record.life == Life::Alive);
            if !lives || Instant::now() >= until {
                return Ok(HostingReply::Waited(Box::new(entry)));
            }
            if let Reply::Revision(revision) = revision {
                after = revision.max(1);
            }
        }
    }

    /// Sends a message of a move.
    pub(super) async fn send_message(&self, to: NodeId, message: &Message) -> Result<(), Failure> {
        let version = self.transport.version_with(to).await;
        let version = version.map_err(|error| Failure::new(FailureKind::Unreachable, error))?;
        let bytes = message
            .encode(of_moves(version))
            .map_err(Failure::refused)?;
        let request = Request::Hosting(HostingRequest::Message { bytes });
        match self.transport.ask(to, &request, ANSWER_WITHIN).await {
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::new(FailureKind::Unreachable, error)),
        }
    }
}

impl Hosting {
    async fn input(
        &self,
        process: ProcessId,
        bytes: Vec<u8>,
        end: bool,
    ) -> Result<HostingReply, Failure> {
        if bytes.len() > INPUT_BYTES_MAX {
            return Err(Failure::refused(format!(
                "{} bytes of input at once, {INPUT_BYTES_MAX} are allowed",
                bytes.len()
            )));
        }
        let order = Order::Input {
            process,
            bytes,
            end,
        };
        match self.ask_about(process, order).await? {
            Answer::Took(taken) => Ok(HostingReply::Took(taken)),
            _ => Err(Failure::refused("the runner answers another question")),
        }
    }

    pub(super) async fn source_of(&self, attempt: Attempt) -> Option<NodeId> {
        let (source, answered) = oneshot::channel();
        self.tell(Input::SourceOf { attempt, source }).await;
        answered.await.ok().flatten()
    }

    pub(super) async fn is_offered(&self, attempt: Attempt) -> bool {
        let (offered, answered) = oneshot::channel();
        self.tell(Input::IsOffered { attempt, offered }).await;
        answered.await.unwrap_or(false)
    }

    pub(super) async fn cancel(&self, attempt: Attempt) -> Result<(), Failure> {
        let (done, cancelled) = oneshot::channel();
        self.tell(Input::Cancel { attempt, done }).await;
        match cancelled.await {
            Ok(cancelled) => cancelled.map_err(Failure::refused),
            Err(_) => Err(Failure::new(FailureKind::Internal, "the node is stopping")),
        }
    }

    /// Events after a number; if there are none, those that come within some time.
    async fn events(&self, after: u64, wait: Duration) -> Vec<EventRecord> {
        let mut changed = self.news.watch();
        if self.news.events_after(after).is_empty() {
            let _ = timeout(wait, changed.changed()).await;
        }
        self.news.events_after(after)
    }

    /// Orders something of a process; that it is not here, or just moving, is told as such.
    async fn ask_about(&self, process: ProcessId, order: Order) -> Result<Answer, Failure> {
        let seen = self.seen(process).await?;
        let runs = matches!(
            seen.holding,
            Holding::Running { .. } | Holding::Incomplete { .. }
        );
        if !runs || seen.doing.is_some() {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("process {} is just being moved: try again", process.short()),
            ));
        }
        let asked = self.ask(order, Vec::new()).await;
        asked.map_err(|failure| match failure.kind {
            FailureKind::Unreachable => Failure::new(
                failure.kind,
                format!(
                    "process {} has not heard it yet, and does when it can: {}",
                    process.short(),
                    failure.message
                ),
            ),
            _ => failure,
        })
    }

    pub(super) async fn seen(&self, process: ProcessId) -> Result<Seen, Failure> {
        let asked = self.ask(Order::Look(process), Vec::new()).await;
        let seen = asked.map_err(|failure| match failure.kind {
            FailureKind::Unreachable => Failure::new(
                failure.kind,
                format!(
                    "nothing is done with process {}: {}",
                    process.short(),
                    failure.message
                ),
            ),
            _ => Failure::new(FailureKind::NotHere, failure.message),
        });
        match seen? {
            Answer::Seen(mut seen) if seen.len() == 1 => Ok(seen.remove(0)),
            _ => Err(Failure::refused("the runner answers another question")),
        }
    }

    /// Whether a process is not here: a runner that hangs may have it.
    pub(super) async fn has_not(&self, process: ProcessId) -> bool {
        let seen = self.seen(process).await;
        seen.is_err_and(|failure| failure.kind == FailureKind::NotHere)
    }
}

impl HostingRequest {
    /// The process that it is about, if any node may have that.
    const fn about(&self) -> Option<ProcessId> {
        match self {
            Self::Steer { process, .. }
            | Self::Describe { process }
            | Self::Log { process, .. }
            | Self::Input { process, .. }
            | Self::Move { process, .. }
            | Self::MoveSo { process, .. }
            | Self::Look { process }
            | Self::Resize { process, .. }
            | Self::File { process, .. }
            | Self::Snapshot { process, .. }
            | Self::ProgramOf { process, .. }
            | Self::Clone { process, .. } => Some(*process),
            _ => None,
        }
    }
}

pub(super) fn gone(process: ProcessId, life: Life) -> Failure {
    let how = match life {
        Life::Lost => "was lost with its runner: see `sterna ps -a`, and `sterna recover`",
        Life::Frozen(_) => "is frozen in a file: thaw it first",
        _ => "has ended: see `sterna ps -a`",
    };
    Failure::refused(format!("process {} {how}", process.short()))
}
