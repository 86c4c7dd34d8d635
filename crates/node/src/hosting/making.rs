//! A process of a copy: made first, standing still; then its record is made or swapped; then it runs.
//!
//! ```text
//!  Make ──► stands ──► swap ──► Record ──► Resume           the driver resumes it, by its record
//!             └── made, but the record is somebody else's ──► dropped: nothing is left
//! ```
//!
//! If the service dies in between, the next one finds the process standing in the old epoch. By the record it runs, or is
//! ended: as [`Moves`](sterna_migration::Moves) do with whatever they find.

use std::os::fd::OwnedFd;

use sterna_migration::{Event, Grant, Life, MoveId, NodeId, Record};
use sterna_process::{Epoch, ProcessId};
use sterna_runner::message::{Make, Order};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Hosting;
use super::input::Input;
use crate::identity::random;
use crate::limits::{LET_GO_WITHIN, RETRY_FIRST, RETRY_MAX};
use crate::message::{
    Belongings, Failure, FailureKind, ProcessInfo, RegistryRequest, Reply, SwapBytes,
};
use crate::service::Service;

/// As what a process is made.
pub(super) enum As {
    /// The one that it was, whose record says that it is lost or frozen.
    Before {
        record: Record,
        grant: Option<Grant>,
        info: ProcessInfo,
    },
    /// Another one.
    New(ProcessInfo),
}

impl As {
    const fn info(&self) -> &ProcessInfo {
        match self {
            Self::Before { info, .. } | Self::New(info) => info,
        }
    }
}

impl Service {
    /// Makes a process of a copy and lets it run. If that fails there is nothing of it. `opened`: its fixed directories, if
    /// its user has opened them again.
    pub(super) async fn make_here(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        what: As,
        copy: OwnedFd,
        opened: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let belongings = Belongings::decode(&what.info().extra).ok_or_else(|| {
            Failure::refused("a newer node wrote down what the process has: use that version here")
        })?;
        belongings.none_is_copied("a copy of a process")?;
        let (kind, bindings) = (&what.info().kind, &belongings.bindings);
        if let Some(refusal) = hosting.objection(kind, bindings, !opened.is_empty()) {
            return Err(Failure::refused(refusal));
        }
        let (epoch, log_epoch, came_from): (Epoch, Epoch, Option<NodeId>) = match &what {
            As::Before { record, .. } => {
                let next = record.epoch.next();
                let next = next.ok_or_else(|| Failure::refused("it is in its last epoch"))?;
                (record.epoch, next, Some(record.owner))
            }
            As::New(_) => (Epoch::FIRST, Epoch::FIRST, None),
        };
        hosting.starts_at_last(process, epoch, &what).await?;
        let move_id = MoveId::from_bytes(random());
        let make = async {
            let placed = hosting.place(process, log_epoch, &belongings, opened, came_from);
            let (place, descriptors) = placed.await?;
            let make = Make {
                process,
                epoch,
                log_epoch,
                is_new: matches!(what, As::New(_)),
                move_id,
                place,
            };
            let mut all = vec![copy];
            all.extend(descriptors);
            hosting.ask(Order::Make(Box::new(make)), all).await?;
            self.write_down(hosting, process, &what).await
        };
        let made = make.await;
        if made.is_err() {
            hosting.unmake(process, move_id, log_epoch).await;
        }
        made
    }

    /// It is this node's from now on, and runs.
    pub(super) async fn write_down(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        what: &As,
    ) -> Result<(), Failure> {
        match what {
            As::Before {
                record,
                grant,
                info,
            } => {
                let new = record.recovered(self.id);
                let new = new.ok_or_else(|| Failure::refused("it is in its last epoch"))?;
                let found = self.swap_until_known(process, *record, new, *grant).await?;
                // Mine, and later: it was moved or settled here before this answer came.
                let mine = |found: Record| found.owner == self.id && found.life == Life::Alive;
                let found = found.filter(|found| mine(*found) && found.epoch >= new.epoch);
                let Some(found) = found else {
                    return Err(Failure::refused(
                        "somebody else has gone on with it meanwhile: see `sterna ps -a`",
                    ));
                };
                hosting.remember(process, info);
                let record = Event::Record {
                    process,
                    record: Some(found),
                };
                hosting.tell(Input::Event(record)).await;
            }
            As::New(info) => {
                hosting.remember(process, info);
                let first = Record::first(self.id).encode().map_err(Failure::refused)?;
                let info = Box::new(info.clone());
                let created = self.ask_registry(RegistryRequest::CreateRecord { process, info });
                match created.await? {
                    Reply::Record(Some(record)) if record == first => {}
                    _ => {
                        return Err(Failure::refused(
                            "a process of the same random name exists: try again",
                        ));
                    }
                }
                let command = sterna_migration::Command::Resume {
                    process,
                    epoch: Epoch::FIRST,
                };
                let place = None;
                let runner = hosting.runner()?;
                runner
                    .handle
                    .order(Order::Step { command, place }, Vec::new());
            }
        }
        let info = what.info();
        hosting.expect_moves(info.kind.clone(), info.program);
        Ok(())
    }

    /// Swaps a record, and asks for as long as it is not known what came of that: until then neither side may run.
    pub(super) async fn swap_until_known(
        &self,
        process: ProcessId,
        expected: Record,
        new: Record,
        grant: Option<Grant>,
    ) -> Result<Option<Record>, Failure> {
        let swap = SwapBytes {
            process,
            expected: expected.encode().map_err(Failure::refused)?,
            new: new.encode().map_err(Failure::refused)?,
            grant,
            ending: None,
        };
        self.swap_bytes_until_known(swap).await
    }

    pub(super) async fn swap_bytes_until_known(
        &self,
        swap: SwapBytes,
    ) -> Result<Option<Record>, Failure> {
        let mut pause = RETRY_FIRST;
        loop {
            let request = RegistryRequest::SwapRecord(Box::new(swap.clone()));
            match self.ask_registry(request).await {
                Ok(Reply::Record(None)) => return Ok(None),
                Ok(Reply::Record(Some(bytes))) => {
                    return Record::decode(&bytes).map(Some).map_err(Failure::refused);
                }
                Ok(_) => return Err(Failure::refused("the registry answers another question")),
                Err(failure)
                    if matches!(
                        failure.kind,
                        FailureKind::Unreachable | FailureKind::Busy | FailureKind::Internal
                    ) =>
                {
                    tracing::warn!("waiting for the registry: {failure}");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The record of a process that runs nowhere, to go on with it; otherwise why not.
    pub(super) async fn record_to_go_on(
        &self,
        process: ProcessId,
    ) -> Result<(Record, ProcessInfo), Failure> {
        let entry = self.entry(process).await?;
        let record = entry.record().map_err(Failure::refused)?;
        let short = process.short();
        match record.life {
            Life::Lost | Life::Frozen(_) => Ok((record, entry.info)),
            Life::Ended => Err(Failure::refused(format!(
                "process {short} has ended by itself: there is nothing to go on with"
            ))),
            Life::Alive => {
                let roster = self.roster();
                let member = roster.member(record.owner);
                let owner = member.map_or_else(
                    || record.owner.to_string(),
                    |member| member.about.name.clone(),
                );
                Err(Failure::refused(format!(
                    "process {short} is not lost: it is on node {owner}. If that node does not answer, it is not known \
                     whether the process still runs there, and a second one must never run beside it: start the node \
                     again with its data directory; if its runner has died, it says so, and the process can be recovered. If its \
                     machine is gone for good, `sterna nodes rm --lost {owner}` says so"
                )))
            }
        }
    }
}

impl Hosting {
    /// Says that a process is about to be here, before its record says so.
    pub(super) async fn starts(&self, process: ProcessId, epoch: Epoch) -> Result<(), Failure> {
        let (noted, done) = oneshot::channel();
        let started = Input::Started {
            process,
            epoch,
            noted,
        };
        self.tell(started).await;
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::new(FailureKind::Busy, error)),
            Err(_) => Err(Failure::new(FailureKind::Internal, "the node stops")),
        }
    }

    /// The same. What an earlier try has left here, or a freeze, is let go as soon as its record is known, which is waited
    /// for.
    async fn starts_at_last(
        &self,
        process: ProcessId,
        epoch: Epoch,
        what: &As,
    ) -> Result<(), Failure> {
        let until = Instant::now() + LET_GO_WITHIN;
        let mut pause = RETRY_FIRST;
        loop {
            match (self.starts(process, epoch).await, what) {
                (Err(failure), As::Before { record, .. })
                    if failure.kind == FailureKind::Busy && Instant::now() < until =>
                {
                    let record = Some(*record);
                    let event = Event::Record { process, record };
                    self.tell(Input::Event(event)).await;
                }
                (started, _) => return started,
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn unmake(&self, process: ProcessId, move_id: MoveId, log_epoch: Epoch) {
        let _ = self.ask(Order::Drop { process, move_id }, Vec::new()).await;
        self.tell(Input::NotStarted { process }).await;
        self.forget(process);
        self.logs.remove_one(process, log_epoch);
    }
}
