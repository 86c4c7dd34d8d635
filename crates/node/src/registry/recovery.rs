//! After an old backup was put back: the nodes say what they run, and nothing runs twice.
//!
//! ```text
//! restore ──► recovery N is open ──► each member announces its processes, once ──► closed
//!             restored records change by announcements only     and those who were removed need not
//! ```
//!
//! A backup may be older than moves that were made since. Who owns a process now is known by the node that has it,
//! and by nobody else; so the registry asks all of them. An announcement lifts a record to the announced epoch and
//! node if that epoch is greater, and never lowers one: of two nodes that both believe to have a process, the later
//! owner is right, and the other one sees it in the record and lets go. No swap of a restored record is carried out
//! before all members have spoken: one that has not may be the owner.

use serde::{Deserialize, Serialize};
use sterna_migration::{NodeId, Record};

use super::processes::{ENDINGS, INFOS, RECORDS, Stored, change, key};
use super::{Registry, TRIES_MAX, contended, read, write};
use crate::identity;
use crate::message::{Announced, Failure, FailureKind, Reply};
use crate::store::{Entry, Store};

/// There while a recovery is open.
pub(super) const RECOVERY: &[u8] = b"recovery";

/// A recovery that is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Recovery {
    /// Which one, so that nobody answers to an earlier one.
    pub(super) number: u64,
    /// The members that have said all they have to say.
    pub(super) heard: Vec<NodeId>,
}

/// A registry was restored, and these nodes have not said yet what they run.
pub(crate) fn unsettled(nodes: &[String]) -> Failure {
    let some: Vec<&str> = nodes.iter().take(5).map(String::as_str).collect();
    Failure::new(
        FailureKind::Busy,
        format!(
            "the registry was restored from a backup, and not all nodes have said yet what they run: start {}, or \
             remove it from the cluster with `sterna nodes rm` if it never comes back",
            some.join(", ")
        ),
    )
}

impl<S: Store> Registry<S> {
    /// The recovery that is open, and the revision of its entry.
    pub(super) async fn recovery(&self) -> Result<Option<(u64, Recovery)>, Failure> {
        let found = self.store.get(RECOVERY).await?;
        let read = |entry: Entry| Ok((entry.revision, read(&entry.value)?));
        found.map(read).transpose()
    }

    /// Whether a restored record can be changed again.
    pub(super) async fn settled(&self, stored: &Stored) -> Result<(), Failure> {
        let open = match stored.restored {
            true => self.recovery().await?,
            false => None,
        };
        let Some((_, recovery)) = open else {
            return Ok(());
        };
        let roster = self.roster(0).await?;
        let silent = roster.members.iter();
        let silent = silent.filter(|member| !recovery.heard.contains(&member.id));
        let names: Vec<String> = silent.map(|member| member.about.name.clone()).collect();
        Err(unsettled(&names))
    }

    /// A member says what it has; with `last`, that this is all.
    pub(super) async fn announce_processes(
        &self,
        by: NodeId,
        number: u64,
        processes: Vec<Announced>,
        last: bool,
    ) -> Result<Reply, Failure> {
        match self.recovery().await? {
            Some((_, recovery)) if recovery.number == number => {
                if recovery.heard.contains(&by) {
                    return Err(Failure::new(
                        FailureKind::Forbidden,
                        "this node has said already what it runs: it may do so once after a restore",
                    ));
                }
            }
            _ => {
                return Err(Failure::refused(
                    "no such restore of the registry is going on",
                ));
            }
        }
        for announced in processes {
            if !announced.info.is_plain() {
                return Err(Failure::refused(
                    "a process's info is too long or not plain",
                ));
            }
            self.lift(by, &announced).await?;
        }
        if last {
            self.has_spoken(by).await?;
        }
        Ok(Reply::Done)
    }

    /// Lifts a record to what a node says that it has.
    async fn lift(&self, by: NodeId, announced: &Announced) -> Result<(), Failure> {
        let process = announced.process;
        for _ in 0..TRIES_MAX {
            let stored = self.stored(process).await?;
            let record = Record::owned(by, announced.epoch);
            let current = match &stored {
                Some((_, stored)) => Some(stored.decoded()?),
                None => None,
            };
            let restored = stored.as_ref().is_none_or(|(_, stored)| stored.restored);
            if !restored || current.is_some_and(|current| current.epoch >= announced.epoch) {
                return Ok(()); // whoever is behind sees it in the record
            }
            let mut changes = Vec::new();
            let ending = self.store.get(&key(ENDINGS, process)).await?;
            changes.extend(ending.map(|ending| {
                let revision = Some(ending.revision);
                change(key(ENDINGS, process), revision, None)
            }));
            let mut named = stored.as_ref().is_some_and(|(_, stored)| stored.named);
            if let Some(name) = announced.info.name.as_deref().filter(|_| !named) {
                let name = self.name_claim(process, name).await?;
                named = name.is_some();
                changes.extend(name);
            }
            if stored.is_none() {
                let info = write(&*announced.info);
                changes.push(change(key(INFOS, process), None, Some(info)));
            }
            let revision = stored.map(|(revision, _)| revision);
            let stored = Stored {
                named,
                restored: true,
                changed_ms: self.store.now_ms(),
                record: record.encode().map_err(Failure::refused)?,
            };
            let record = key(RECORDS, process);
            changes.push(change(record, revision, Some(stored.write())));
            if self.store.swap_all(changes).await?.is_some() {
                let node = identity::text(by);
                let short = process.short();
                tracing::info!("process {short} is at node {node}, later than the backup knew");
                return Ok(());
            }
        }
        Err(contended())
    }

    async fn has_spoken(&self, by: NodeId) -> Result<(), Failure> {
        for _ in 0..TRIES_MAX {
            let Some((revision, mut recovery)) = self.recovery().await? else {
                return Ok(());
            };
            recovery.heard.push(by);
            let heard = change(RECOVERY.to_vec(), Some(revision), Some(write(&recovery)));
            if self.store.swap_all(vec![heard]).await?.is_some() {
                return self.close_recovery().await;
            }
        }
        Err(contended())
    }

    /// Ends the recovery if all members have spoken.
    pub(super) async fn close_recovery(&self) -> Result<(), Failure> {
        let Some((revision, recovery)) = self.recovery().await? else {
            return Ok(());
        };
        let roster = self.roster(0).await?;
        let mut members = roster.members.iter();
        if members.all(|member| recovery.heard.contains(&member.id)) {
            let gone = change(RECOVERY.to_vec(), Some(revision), None);
            self.store.swap_all(vec![gone]).await?;
        }
        Ok(())
    }

    /// A record as its owner may take it to be. A backup can have been made before a move was declared: what the
    /// owner would have to declare again before it settles the doubt, it need not.
    pub(super) fn as_owner_sees(
        stored: &Stored,
        current: Record,
        expected: &Record,
        by: NodeId,
    ) -> Record {
        let declared = expected.intent.map(|intent| current.declared(intent));
        let own = stored.restored && by == current.owner && current.intent.is_none();
        match declared {
            Some(declared) if own && declared == *expected => declared,
            _ => current,
        }
    }
}
