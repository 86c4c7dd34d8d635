//! Freeze and thaw: a process of this node into a file, and out of one.
//!
//! ```text
//!  command                     service                       runner
//!    │ Freeze: pipe, socket ─────►│ Copy, held: pipe ──────────►│ stands still, writes its copy
//!    │◄═══════════════════════════════ copy ═══════════════════│
//!    │ writes the file, its key's MAC in it; safe on disk, under its name
//!    │ seal ─────────────────────►│ swap: frozen in that file   │
//!    │◄────────────────────── done│ Drop ──────────────────────►│ gone
//! ```
//!
//! The file is the user's, and so is the key that marks it: neither service nor runner ever has them. Whoever dies on the
//! way, the process runs on or is in a file that is whole: the socket's end without a seal means that there is no file, and
//! a service that finds a process standing settles its record before it lets it run. If the process is on another node,
//! that one's service has pipe and socket of its own, and `relay` brings both here; so it does with the copy for a thaw.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use sterna_migration::{GrantSeal, Life, MoveId, NodeId, Record};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Hold, Order};

use super::input::Input;
use super::making::As;
use super::{Hosting, answers, blocking};
use crate::identity::random;
use crate::limits::FREEZE_WITHIN;
use crate::message::{
    Belongings, EventSort, Failure, FailureKind, HostingReply, HostingRequest, How, ProcessInfo,
    SwapBytes, ThawOrder,
};
use crate::service::Service;
use crate::wire::now_ms;

pub(super) const SEAL_BYTES: usize = 32;

/// What the record says after a freeze.
enum After {
    Frozen,
    /// Something else, and that it is this node's: it was not frozen.
    RunsOn(Record),
    /// Something else: it may not run here.
    Elsewhere(Record),
}

impl Service {
    /// A user of this machine has a process frozen, here or by the node that has it.
    pub(super) async fn freeze(
        &self,
        hosting: &Hosting,
        request: HostingRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<HostingReply, Failure> {
        let HostingRequest::Freeze { process, .. } = request else {
            return Err(Failure::refused("not a request of this sort"));
        };
        let [pipe, socket] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| Failure::refused("a pipe and a socket belong to this request"))?;
        let record = self.entry(process).await?.record();
        let record = record.map_err(Failure::refused)?;
        match record.owner == self.id || record.life != Life::Alive {
            true => self.freeze_here(hosting, request, pipe, socket).await,
            false => self.freeze_at(record, request, pipe, socket).await,
        }
    }

    /// Freezes a process of this node.
    pub(super) async fn freeze_here(
        &self,
        hosting: &Hosting,
        request: HostingRequest,
        pipe: OwnedFd,
        socket: OwnedFd,
    ) -> Result<HostingReply, Failure> {
        let HostingRequest::Freeze {
            process,
            keep,
            file,
        } = request
        else {
            return Err(Failure::refused("not a request of this sort"));
        };
        let (record, info) = self.alive_here(process).await?;
        let belongings = Belongings::decode(&info.extra).unwrap_or_default();
        belongings.none_is_copied("a file of a frozen process")?;
        let hold = match keep {
            true => None,
            false => Some(Hold {
                name: MoveId::from_bytes(random()),
                epoch: record.epoch,
            }),
        };
        let copied = hosting.ask(Order::Copy { process, hold }, vec![pipe]).await;
        let Some(Hold { name: move_id, .. }) = hold else {
            return match copied? {
                Answer::Copied(stood_us) => Ok(HostingReply::Frozen { stood_us }),
                _ => Err(Failure::refused("the runner answers another question")),
            };
        };
        let frozen = match copied {
            Ok(_) => {
                self.write_frozen(process, (record, file), socket.into())
                    .await
            }
            Err(failure) => Err(failure),
        };
        let let_go = !matches!(frozen, Ok(After::RunsOn(_)) | Err(_));
        let order = match let_go {
            true => Order::Drop { process, move_id },
            false => Order::Release { process, move_id },
        };
        if let Err(why) = hosting.ask(order, Vec::new()).await {
            // Whoever heard first what became of its record has done it.
            tracing::debug!("not held any more: {why}");
        }
        if let_go {
            let epoch = record.epoch;
            hosting.tell(Input::Gone { process, epoch }).await;
            hosting.forget(process);
        }
        match frozen? {
            After::Frozen => {
                hosting
                    .news
                    .event(process, EventSort::Other, "was frozen into a file");
                Ok(HostingReply::Frozen { stood_us: 0 })
            }
            After::RunsOn(found) | After::Elsewhere(found) => Err(Failure::refused(format!(
                "its record changed meanwhile, so the file may be no more than a snapshot of it: {found}; see `sterna ps -a`"
            ))),
        }
    }

    /// What the registry knows of a process, which is alive and on this node.
    async fn alive_here(&self, process: ProcessId) -> Result<(Record, ProcessInfo), Failure> {
        let entry = self.entry(process).await?;
        let record = entry.record().map_err(Failure::refused)?;
        if record.life != Life::Alive {
            return Err(answers::gone(process, record.life));
        }
        if record.owner != self.id {
            return Err(Failure::new(
                FailureKind::NotHere,
                format!(
                    "process {} was moved to another node just now: try again",
                    process.short()
                ),
            ));
        }
        Ok((record, entry.info))
    }

    /// Waits for the file, then writes down that the process is in it.
    async fn write_frozen(
        &self,
        process: ProcessId,
        (record, file): (Record, String),
        socket: UnixStream,
    ) -> Result<After, Failure> {
        let seal = blocking(move || wait_for_seal(socket)).await?;
        let seal = seal.ok_or_else(|| {
            Failure::refused(
                "there is no file, so the process runs on as if nothing had been asked",
            )
        })?;
        let new = record.closed(Life::Frozen(seal));
        let new = new.ok_or_else(|| Failure::refused("it is in its last epoch"))?;
        let swap = SwapBytes {
            process,
            expected: record.encode().map_err(Failure::refused)?,
            new: new.encode().map_err(Failure::refused)?,
            grant: None,
            ending: Some(How::Frozen { file }.bounded()),
        };
        match self.swap_bytes_until_known(swap).await? {
            Some(found) if found == new => Ok(After::Frozen),
            Some(found) if found.owner == self.id && found.life == Life::Alive => {
                Ok(After::RunsOn(found))
            }
            // Perhaps it was thawed out of this very file before the answer came.
            Some(found) => Ok(After::Elsewhere(found)),
            None => Err(Failure::refused("the registry has no record of it")),
        }
    }

    /// A user of this machine has a process thawed, here or by another node.
    pub(super) async fn thaw(
        &self,
        hosting: &Hosting,
        request: HostingRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<HostingReply, Failure> {
        match request {
            HostingRequest::ThawAt(_, on) if on != self.id => {
                self.thaw_at(on, request, descriptors).await
            }
            HostingRequest::Thaw(order) | HostingRequest::ThawAt(order, _) => {
                self.thaw_here(hosting, *order, descriptors, None).await
            }
            _ => Err(Failure::refused("not a request of this sort")),
        }
    }

    /// Goes on with a process from a file: as the one that it was, if its record says that it is in this very file.
    /// `asked_by`: the node that has the program, unless it is this one.
    pub(super) async fn thaw_here(
        &self,
        hosting: &Hosting,
        order: ThawOrder,
        descriptors: Vec<OwnedFd>,
        asked_by: Option<NodeId>,
    ) -> Result<HostingReply, Failure> {
        let mut opened = descriptors.into_iter();
        let copy = opened.next();
        let copy = copy.ok_or_else(|| Failure::refused("a copy belongs to this request"))?;
        let wanted = (&order.kind, order.program);
        match (hosting.has(wanted.0, wanted.1).await, asked_by) {
            (true, _) => {}
            (false, Some(node)) => self.fetch_program(hosting, node, wanted).await?,
            (false, None) => {
                return Err(Failure::new(
                    FailureKind::NotHere,
                    "the node does not find the program: does it use another cache (STERNA_CACHE_DIR)?",
                ));
            }
        }
        let (process, what, why_new) = match self.same(&order).await? {
            Ok((record, info)) => {
                let grant = order.grant;
                let what = As::Before {
                    record,
                    grant,
                    info,
                };
                (order.process, what, None)
            }
            Err(why) if order.is_bound => {
                return Err(Failure::refused(format!(
                    "{why}, so it would become another process, and as such it has no directories, which it uses: thaw it \
                     without a node, with --dir"
                )));
            }
            Err(why) => (
                ProcessId::random(),
                As::New(self.info_of(&order)),
                Some(why),
            ),
        };
        self.make_here(hosting, process, what, copy, opened.collect())
            .await?;
        hosting
            .news
            .event(process, EventSort::Started, "was thawed");
        Ok(HostingReply::Thawed {
            process,
            node: self.id,
            why_new,
        })
    }

    /// The record of the process that is in the file, and in no other place; or why it is another process.
    async fn same(
        &self,
        order: &ThawOrder,
    ) -> Result<Result<(Record, ProcessInfo), String>, Failure> {
        let Some(grant) = order.grant else {
            return Ok(Err("a new id was asked for".into()));
        };
        let entry = match self.entry(order.process).await {
            Ok(entry) => entry,
            Err(failure) if failure.kind == FailureKind::NotHere => {
                return Ok(Err("the cluster does not know the one in the file".into()));
            }
            Err(failure) => return Err(failure),
        };
        let record = entry.record().map_err(Failure::refused)?;
        Ok(match record.life {
            Life::Frozen(seal) if grant.seal() == seal => Ok((record, entry.info)),
            Life::Frozen(_) => Err("the one in the file was frozen into another file since".into()),
            Life::Alive => Err("the one in the file lives".into()),
            Life::Ended => Err("the one in the file has ended since".into()),
            Life::Lost => Err("the one in the file ran on since, and was lost".into()),
        })
    }

    fn info_of(&self, order: &ThawOrder) -> ProcessInfo {
        let belongings = Belongings {
            limits: order.limits.clone(),
            ..Belongings::default()
        };
        ProcessInfo {
            name: order.name.clone(),
            program: order.program,
            kind: order.kind.clone(),
            file: order.file.clone(),
            arguments: Vec::new(),
            started_ms: now_ms(),
            started_on: self.id,
            parent: None,
            extra: belongings.encode(),
        }
    }
}

/// The seal of the file; nothing if there is none, because whoever was to write it has failed or is gone.
fn wait_for_seal(mut socket: UnixStream) -> Option<GrantSeal> {
    socket.set_read_timeout(Some(FREEZE_WITHIN)).ok()?;
    let mut seal = [0; SEAL_BYTES];
    socket.read_exact(&mut seal).ok()?;
    Some(GrantSeal::from_bytes(seal))
}
