//! Clones: a copy of a process, as another one.
//!
//! The copy goes into a folder of the target that has the new process's name, as a snapshot does; of that the target
//! makes a process, and the folder goes. Until then there is no record: a clone that arrives by half leaves nothing.

use std::sync::Arc;

use sterna_migration::NodeId;
use sterna_process::ProcessId;
use sterna_snapshot::{Key, newest};

use super::making::As;
use super::snapshots::{chain, new_key};
use super::{Hosting, blocking};
use crate::message::{
    Belongings, Cloned, EventSort, Failure, HostingReply, HostingRequest, Keeper, Parent,
    ProcessInfo,
};
use crate::service::Service;
use crate::wire::now_ms;

impl Service {
    /// Makes a clone of a process of this node.
    pub(super) async fn clone_process(
        self: &Arc<Self>,
        hosting: &Hosting,
        parent: ProcessId,
        target: NodeId,
    ) -> Result<HostingReply, Failure> {
        if self.roster().member(target).is_none() {
            return Err(Failure::refused(
                "the cluster has no such node: see `sterna nodes`",
            ));
        }
        let entry = self.entry(parent).await?;
        let seen = hosting.seen(parent).await?;
        let belongings = Belongings::decode(&entry.info.extra).unwrap_or_default();
        belongings.none_is_copied("a clone")?;
        if target == self.id {
            if let Some(refusal) = hosting.objection(&seen.kind, &belongings.bindings, false) {
                return Err(Failure::refused(refusal));
            }
        } else {
            let request = HostingRequest::MayCome {
                kind: seen.kind,
                bindings: belongings.bindings,
                memory_bytes: seen.layout.bytes(),
            };
            self.may_be_asked(target, request).await?;
        }
        let (process, key) = (ProcessId::random(), new_key());
        let keeper = Keeper::Node(target);
        let kept = self
            .copy_to(hosting, parent, (&keeper, process), (key, 1))
            .await;
        let made = match kept {
            Ok(kept) => {
                let stood_us = kept.stood_us;
                let adopted = match target == self.id {
                    true => {
                        let from = (parent, self.id);
                        self.adopt_clone(hosting, process, &key, from).await
                    }
                    false => {
                        let request = HostingRequest::Adopt {
                            process,
                            key,
                            parent,
                        };
                        self.pass_on(target, request).await
                    }
                };
                adopted.map(|reply| (reply, stood_us))
            }
            Err(failure) => Err(failure),
        };
        match made {
            Ok((HostingReply::Cloned(cloned), stood_us)) => {
                Ok(HostingReply::Cloned(Cloned { stood_us, ..cloned }))
            }
            Ok(_) => Err(Failure::refused("the target answers another question")),
            Err(failure) => {
                self.clear_shelf(hosting, &keeper, process).await?;
                Err(failure)
            }
        }
    }

    /// Takes away what was put there for a clone that did not come about.
    async fn clear_shelf(
        self: &Arc<Self>,
        hosting: &Hosting,
        keeper: &Keeper,
        process: ProcessId,
    ) -> Result<(), Failure> {
        let shelf = self.shelf(hosting, keeper, process)?;
        let cleared = blocking(move || {
            let names = shelf.list()?;
            names.iter().try_for_each(|name| shelf.remove(name))
        });
        if let Ok(Err(error)) = cleared.await {
            tracing::debug!("a clone's copy is left for later: {}", chain(&error));
        }
        Ok(())
    }

    /// Makes a clone here of what another node, the owner of the original, has put into its folder.
    pub(super) async fn adopt_clone(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        key: &Key,
        (parent, from): (ProcessId, NodeId),
    ) -> Result<HostingReply, Failure> {
        let adopted = self
            .adopt_from(hosting, process, *key, (parent, from))
            .await;
        self.clear(process).await;
        adopted.map(HostingReply::Cloned)
    }

    async fn adopt_from(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        key: Key,
        (parent, from): (ProcessId, NodeId),
    ) -> Result<Cloned, Failure> {
        let original = self.entry(parent).await?;
        let record = original.record().map_err(Failure::refused)?;
        if record.owner != from {
            return Err(Failure::refused(
                "the original is not at the node that gave the copy, which it may just have left: try again",
            ));
        }
        let here = Keeper::Node(self.id);
        let shelf = self.shelf(hosting, &here, process)?;
        let found = blocking(move || newest(&*shelf, &key, None)).await?;
        let found = match found.map_err(|error| Failure::refused(chain(&error)))? {
            Ok(found) => found,
            Err(_) => return Err(Failure::refused("the copy of the process is not whole")),
        };
        let log_offset = found.manifest.output_bytes;
        let folder = (&here, process);
        self.has_program(hosting, folder, &original.info).await?;
        let mut belongings = Belongings::decode(&original.info.extra).unwrap_or_default();
        belongings.input = false;
        // Its clients are the original's.
        belongings.listens.clear();
        let info = ProcessInfo {
            name: None,
            started_ms: now_ms(),
            started_on: self.id,
            parent: Some(Parent {
                process: parent,
                log_offset,
            }),
            extra: belongings.encode(),
            ..original.info
        };
        self.make_from(hosting, folder, process, found, As::New(info))
            .await?;
        hosting.news.event(
            process,
            EventSort::Started,
            format!("is a clone of {}", parent.short()),
        );
        Ok(Cloned {
            process,
            node: self.id,
            log_offset,
            stood_us: 0,
        })
    }
}
