//! A lost process is gone on with: from the copy that still stands at the source of its last move, or from a snapshot.
//!
//! ```text
//!  recover ──► who has a copy? ──► that node: no snapshot is newer ──► swap ──► Record: the driver resumes the copy
//!                   └── nobody ──► asked node: newest snapshot that is whole ──► `making`
//! ```
//!
//! A source keeps its copy until the target says that the process runs there. If the target's runner dies before that, or
//! nobody hears it, the copy is the newest state that there is, unless the target has made a snapshot: those are of
//! a later epoch.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sterna_migration::{Event, Life, NodeId, Record};
use sterna_process::{Epoch, ProcessId};
use sterna_snapshot::{Found, newest};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::input::Input;
use super::making::As;
use super::snapshots::{Stopped, chain};
use super::{Hosting, blocking};
use crate::limits::PROBE_WITHIN;
use crate::message::{
    Belongings, BindingSort, EventSort, Failure, HostingReply, HostingRequest, Keeping,
    ProcessInfo, Recovered, RecoveredCopy, Reply, Request,
};
use crate::service::Service;

impl Service {
    /// A lost process is gone on with where its newest state is, or on some node.
    pub(super) async fn recover_somewhere(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        on: Option<NodeId>,
        opened: Vec<OwnedFd>,
    ) -> Result<HostingReply, Failure> {
        let (record, _) = self.lost(process).await?;
        let mut copy = self.newest_copy(hosting, process, record).await;
        // Whether one is newer that cannot be looked at, who has the copy finds out, or says that it is not known.
        if let Some((epoch, _)) = copy
            && let Ok(Some(_)) = self.has_newer(hosting, process, epoch).await
        {
            copy = None;
        }
        let node = match (copy, on) {
            (Some((_, keeper)), Some(on)) if keeper != on => {
                let roster = self.roster();
                let name = roster.member(keeper).map(|member| &*member.about.name);
                let name = name.unwrap_or("of its last move");
                return Err(Failure::refused(format!(
                    "node {name} has kept a copy of process {short}, which is probably newer than any snapshot: recover \
                     it there, and move it (`sterna recover {short} --on {name}`)",
                    short = process.short()
                )));
            }
            (Some((_, keeper)), _) => keeper,
            (None, on) => on.unwrap_or(self.id),
        };
        if node == self.id {
            return self.recover(hosting, process, opened).await;
        }
        if !opened.is_empty() {
            return Err(Failure::refused(
                "directories can be given on their own machine only: ask the node there, without --on",
            ));
        }
        let request = HostingRequest::Recover { process, on: None };
        self.pass_on(node, request).await
    }

    /// The record of a process that is lost, or why it is not.
    async fn lost(&self, process: ProcessId) -> Result<(Record, ProcessInfo), Failure> {
        let (record, info) = self.record_to_go_on(process).await?;
        match record.life {
            Life::Lost => Ok((record, info)),
            _ => Err(Failure::refused(format!(
                "process {} is frozen in a file: go on with it by `sterna thaw`",
                process.short()
            ))),
        }
    }

    /// The newest copy of those that are kept by nodes that answer.
    async fn newest_copy(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        record: Record,
    ) -> Option<(Epoch, NodeId)> {
        let here = hosting.kept_copy(process, record).await;
        let mut newest = here.map(|epoch| (epoch, self.id));
        let mut asked = JoinSet::new();
        for node in self.members().into_iter().filter(|node| *node != self.id) {
            let service = Arc::clone(self);
            asked.spawn(async move {
                let epoch = timeout(PROBE_WITHIN, service.copy_at(node, process)).await;
                Some((epoch.ok()??, node))
            });
        }
        while let Some(answered) = asked.join_next().await {
            newest = newest.max(answered.ok().flatten());
        }
        newest
    }

    async fn copy_at(&self, node: NodeId, process: ProcessId) -> Option<Epoch> {
        let request = HostingRequest::KeptCopy { process };
        let request = Request::Hosting(self.as_understood(node, request).await.ok()?);
        let asked = self.transport.ask(node, &request, PROBE_WITHIN);
        match asked.await {
            Ok((Reply::Hosting(HostingReply::KeptCopy(epoch)), _)) => epoch,
            _ => None,
        }
    }

    /// Tells another node of which epoch the copy is that is kept here.
    pub(super) async fn tell_of_copy(
        &self,
        hosting: &Hosting,
        process: ProcessId,
    ) -> Result<HostingReply, Failure> {
        let (record, _) = self.lost(process).await?;
        let epoch = hosting.kept_copy(process, record).await;
        Ok(HostingReply::KeptCopy(epoch))
    }

    /// A lost process is gone on with here, from what is newest.
    pub(super) async fn recover(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        opened: Vec<OwnedFd>,
    ) -> Result<HostingReply, Failure> {
        let (record, info) = self.lost(process).await?;
        let Some(epoch) = hosting.kept_copy(process, record).await else {
            return self
                .go_on_from_snapshot(hosting, process, (record, info), opened)
                .await;
        };
        let passed_over = match self.has_newer(hosting, process, epoch).await {
            Ok(None) => Vec::new(),
            Ok(Some(number)) => {
                return Err(Failure::refused(format!(
                    "snapshot {number} of process {} is newer than the copy that this node has kept and that is in its way: \
                     recover it on another node (--on NODE)",
                    process.short()
                )));
            }
            Err(failure) => vec![failure.message],
        };
        self.go_on_with_copy(hosting, process, passed_over, (record, info))
            .await
    }

    /// The number of the newest snapshot, if it is of a later epoch than a copy.
    async fn has_newer(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        copy: Epoch,
    ) -> Result<Option<u64>, Failure> {
        let Some(keeping) = self.keeping(process).await? else {
            return Ok(None);
        };
        let found = self.newest(hosting, process, &keeping, None).await?;
        let found = found.ok().filter(|found| found.manifest.epoch > copy);
        Ok(found.map(|found| found.manifest.number))
    }

    /// The record is swapped; on that word the driver lets the copy run.
    async fn go_on_with_copy(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        passed_over: Vec<String>,
        (record, info): (Record, ProcessInfo),
    ) -> Result<HostingReply, Failure> {
        if let Some(reason) = hosting.closed() {
            return Err(Failure::refused(reason));
        }
        let output_bytes = hosting.seen(process).await?.output_bytes;
        let what = As::Before {
            record,
            grant: None,
            info,
        };
        self.write_down(hosting, process, &what).await?;
        let text = "went on from the copy that was kept here since its move";
        hosting.news.event(process, EventSort::Started, text);
        Ok(HostingReply::RecoveredCopy(Box::new(RecoveredCopy {
            process,
            node: self.id,
            output_bytes,
            passed_over,
        })))
    }

    /// The newest snapshot that is whole, or what is wrong with those that there are.
    async fn newest(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        keeping: &Keeping,
        before: Option<u64>,
    ) -> Result<Result<Found, Vec<String>>, Failure> {
        let shelf = self.shelf(hosting, &keeping.to, process)?;
        let key = keeping.key;
        let found = blocking(move || newest(&*shelf, &key, before)).await?;
        let found = found.map_err(|error| Failure::refused(chain(&error)))?;
        Ok(found.map_err(|problems| problems.iter().map(|error| chain(error)).collect()))
    }

    async fn go_on_from_snapshot(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        (record, info): (Record, ProcessInfo),
        opened: Vec<OwnedFd>,
    ) -> Result<HostingReply, Failure> {
        if opened.is_empty() {
            has_all_anywhere(process, &info)?;
        }
        let keeping = self.keeping(process).await?;
        let keeping = keeping.ok_or_else(|| nothing_of(process))?;
        let folder = (&keeping.to, process);
        self.has_program(hosting, folder, &info).await?;
        let (mut before, mut passed_over) = (None, Vec::new());
        loop {
            let found = match self.newest(hosting, process, &keeping, before).await? {
                Ok(found) => found,
                Err(problems) => {
                    passed_over.extend(problems);
                    return Err(nothing_whole(process, &passed_over));
                }
            };
            passed_over.extend(found.passed_over.iter().map(|error| chain(error)));
            let (number, at_ms) = (found.manifest.number, found.manifest.at_ms);
            let output_bytes = found.manifest.output_bytes;
            let what = As::Before {
                record,
                grant: None,
                info: info.clone(),
            };
            let opened = opened.iter().map(OwnedFd::try_clone);
            let opened: io::Result<Vec<_>> = opened.collect();
            let opened = opened.map_err(Failure::refused)?;
            let went_on = self.go_on_from(hosting, folder, process, found, (what, opened));
            match went_on.await {
                Ok(()) => {
                    let text = format!("went on from snapshot {number}");
                    hosting.news.event(process, EventSort::Started, text);
                    return Ok(HostingReply::Recovered(Box::new(Recovered {
                        process,
                        node: self.id,
                        snapshot: number,
                        at_ms,
                        output_bytes,
                        passed_over,
                    })));
                }
                Err(Stopped::Here(failure)) => return Err(failure),
                Err(Stopped::Damaged(why)) => {
                    passed_over.push(format!("snapshot {number}: {why}"));
                    before = Some(number);
                }
            }
        }
    }
}

impl Hosting {
    /// The epoch of the copy that is kept here of a process whose record says that it is lost.
    async fn kept_copy(&self, process: ProcessId, record: Record) -> Option<Epoch> {
        // The move may still wait for a word of its target.
        let record_read = Event::Record {
            process,
            record: Some(record),
        };
        self.tell(Input::Event(record_read)).await;
        let (kept, answered) = oneshot::channel();
        self.tell(Input::KeptCopy { process, kept }).await;
        let epoch = answered.await.ok().flatten();
        epoch.filter(|epoch| *epoch < record.epoch)
    }
}

/// No directory of it is fixed to its node.
fn has_all_anywhere(process: ProcessId, info: &ProcessInfo) -> Result<(), Failure> {
    let belongings = Belongings::decode(&info.extra).unwrap_or_default();
    let mut bindings = belongings.bindings.iter();
    match bindings.find(|binding| binding.sort == BindingSort::Fixed) {
        None => Ok(()),
        Some(fixed) => Err(Failure::refused(format!(
            "its directory {guest} is fixed to its node: give it again on that machine (`sterna recover {} --dir \
             HOST::{guest}`)",
            process.short(),
            guest = fixed.guest_path
        ))),
    }
}

fn nothing_of(process: ProcessId) -> Failure {
    Failure::refused(format!(
        "there are no snapshots of process {}, and no node that answers has kept a copy of it: snapshots are made after \
         `sterna snapshot`",
        process.short()
    ))
}

fn nothing_whole(process: ProcessId, passed_over: &[String]) -> Failure {
    let why = match passed_over {
        [] => "there is none where they are kept".to_owned(),
        all => all.join("; "),
    };
    Failure::refused(format!(
        "no snapshot of process {} can be gone on from: {why}",
        process.short()
    ))
}
