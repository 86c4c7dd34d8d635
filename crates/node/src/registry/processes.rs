//! Processes: who owns them, how they began and ended, and what they are called.
//!
//! ```text
//! record/ID   │ flags u8 │ changed at u64 │ Record │      as long as the process is known
//! info/ID     ProcessInfo                                      as long
//! ending/ID   Ending                                           while it runs nowhere
//! keeping/ID  how its snapshots are kept                       as long as the process is known
//! name/NAME   ID                                               while it lives and has that name
//! ```
//!
//! What belongs together changes in one step, so there is no name without its process, and no process with a name
//! that it does not have. Who runs nowhere has no name: another may take it.

use sterna_migration::{Life, NodeId, Record, Swap, Verdict};
use sterna_process::ProcessId;
use sterna_runner::fault;

use super::keepings::KEEPINGS;
use super::{Registry, TRIES_MAX, contended, damaged, read, write};
use crate::limits::{PROCESS_NAME_BYTES_MAX, PROCESSES_MAX};
use crate::message::{Ending, Failure, FailureKind, How, ProcessInfo, Reply, SwapBytes};
use crate::store::{Change, Entry, Store};

pub(super) const RECORDS: &[u8] = b"record/";
pub(super) const INFOS: &[u8] = b"info/";
pub(super) const ENDINGS: &[u8] = b"ending/";
pub(super) const NAMES: &[u8] = b"name/";
/// Why a process is lost that the registry knows from a backup, if its node says no more: it may never know of it.
const LOST_SINCE_BACKUP: &str = "it is not at its node any more: it ended after the backup from which the registry was restored, or was \
    lost with its runner";
const HEAD_BYTES: usize = 1 + 8;
const NAMED: u8 = 1;
const RESTORED: u8 = 2;

/// What is stored of who owns a process.
pub(super) struct Stored {
    /// Whether it has the name of its [`ProcessInfo`].
    pub(super) named: bool,
    /// Whether it comes from a backup, or from an announcement after one was restored.
    pub(super) restored: bool,
    pub(super) changed_ms: u64,
    /// The record, encoded.
    pub(super) record: Vec<u8>,
}

impl Stored {
    pub(super) fn write(&self) -> Vec<u8> {
        let flags = (u8::from(self.named) * NAMED) | (u8::from(self.restored) * RESTORED);
        let head = [&[flags], &self.changed_ms.to_le_bytes()[..]].concat();
        [head, self.record.clone()].concat()
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let (head, record) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or_else(damaged)?;
        let &[flags, ref at @ ..] = head;
        if flags & !(NAMED | RESTORED) != 0 {
            return Err(damaged());
        }
        Ok(Self {
            named: flags & NAMED != 0,
            restored: flags & RESTORED != 0,
            changed_ms: u64::from_le_bytes(*at),
            record: record.to_vec(),
        })
    }

    pub(super) fn decoded(&self) -> Result<Record, Failure> {
        Record::decode(&self.record)
            .map_err(|error| Failure::new(FailureKind::Internal, format!("a record: {error}")))
    }
}

/// What a swap means, for the points at which tests have nodes stand still.
#[derive(Debug)]
pub(crate) enum Deed {
    Declare,
    Commit,
    Settle,
    Close,
}

impl Deed {
    pub(crate) fn of(swap: &Swap) -> Self {
        match swap.new.life {
            Life::Alive if swap.new.intent.is_some() => Self::Declare,
            Life::Alive if swap.new.owner != swap.expected.owner => Self::Commit,
            Life::Alive => Self::Settle,
            Life::Ended | Life::Lost | Life::Frozen(_) => Self::Close,
        }
    }
}

impl<S: Store> Registry<S> {
    pub(super) async fn record(&self, process: ProcessId) -> Result<Reply, Failure> {
        let found = self.stored(process).await?;
        Ok(Reply::Record(found.map(|(_, stored)| stored.record)))
    }

    pub(super) async fn stored(
        &self,
        process: ProcessId,
    ) -> Result<Option<(u64, Stored)>, Failure> {
        let found = self.store.get(&key(RECORDS, process)).await?;
        let read = |entry: Entry| Ok((entry.revision, Stored::read(&entry.value)?));
        found.map(read).transpose()
    }

    /// The process that has a name.
    pub(super) async fn holder(&self, name: &str) -> Result<Option<(u64, ProcessId)>, Failure> {
        if name.len() > PROCESS_NAME_BYTES_MAX {
            return Ok(None);
        }
        let found = self.store.get(&name_key(name)).await?;
        let read = |entry: Entry| {
            let id = <[u8; 16]>::try_from(&*entry.value).map_err(|_| damaged())?;
            Ok((entry.revision, ProcessId::from_bytes(id)))
        };
        found.map(read).transpose()
    }

    pub(super) async fn create_record(
        &self,
        by: NodeId,
        process: ProcessId,
        info: ProcessInfo,
    ) -> Result<Reply, Failure> {
        if !info.is_plain() {
            return Err(Failure::refused(
                "the process's name has more than 200 bytes or is not plain text in one word, or its file, arguments \
                 or limits are too long",
            ));
        }
        if info.started_on != by {
            return Err(Failure::new(
                FailureKind::Forbidden,
                "a node makes records of processes that it has started itself",
            ));
        }
        self.has_room().await?;
        let first = encode(&Record::first(by))?;
        let stored = Stored {
            named: info.name.is_some(),
            restored: false,
            changed_ms: self.store.now_ms(),
            record: first.clone(),
        };
        let mut changes = vec![
            change(key(RECORDS, process), None, Some(stored.write())),
            change(key(INFOS, process), None, Some(write(&info))),
        ];
        if let Some(name) = &info.name {
            let id = process.as_bytes().to_vec();
            changes.push(change(name_key(name), None, Some(id)));
        }
        for _ in 0..TRIES_MAX {
            if self.store.swap_all(changes.clone()).await?.is_some() {
                return Ok(Reply::Record(Some(first)));
            }
            if let Some((_, stored)) = self.stored(process).await? {
                return Ok(Reply::Record(Some(stored.record)));
            }
            let name = info.name.as_deref().unwrap_or_default();
            if let Some((_, holder)) = self.holder(name).await? {
                return Err(self.taken(name, holder).await?);
            }
        }
        Err(contended())
    }

    async fn taken(&self, name: &str, holder: ProcessId) -> Result<Failure, Failure> {
        let stored = self.stored(holder).await?;
        let record = stored.map(|(_, stored)| stored.decoded()).transpose()?;
        let place = record.map_or_else(String::new, |record| format!(" of node {}", record.owner));
        Ok(Failure::new(
            FailureKind::Taken,
            format!(
                "the name {name} belongs to process {}{place}: choose another one, or end that process",
                holder.short()
            ),
        ))
    }

    async fn has_room(&self) -> Result<(), Failure> {
        match self.count().await? < PROCESSES_MAX {
            true => Ok(()),
            false => Err(Failure::new(
                FailureKind::Busy,
                format!(
                    "the registry has {PROCESSES_MAX} processes already, those that have ended included: remove some \
                     with `sterna rm`"
                ),
            )),
        }
    }

    /// Carries out a swap; the answer is the record as it is afterwards.
    pub(super) async fn swap_record(&self, by: NodeId, bytes: SwapBytes) -> Result<Reply, Failure> {
        let swap = Swap {
            process: bytes.process,
            expected: decode(&bytes.expected)?,
            new: decode(&bytes.new)?,
            grant: bytes.grant,
        };
        let how = match bytes.ending {
            Some(how) if !how.fits(swap.new.life) => {
                return Err(Failure::refused(
                    "the ending is of another kind than the record",
                ));
            }
            how => how.or_else(|| How::of(swap.new.life)).map(How::bounded),
        };
        for _ in 0..TRIES_MAX {
            let Some((revision, stored)) = self.stored(swap.process).await? else {
                return Ok(Reply::Record(None));
            };
            self.settled(&stored).await?;
            let current = Self::as_owner_sees(&stored, stored.decoded()?, &swap.expected, by);
            let verdict = swap
                .judge(&current, by)
                .map_err(|error| Failure::new(FailureKind::Forbidden, error))?;
            if verdict == Verdict::Keep {
                return Ok(Reply::Record(Some(stored.record)));
            }
            let how = match &how {
                Some(How::Lost { reason }) if reason.is_empty() && stored.restored => {
                    Some(How::Lost {
                        reason: LOST_SINCE_BACKUP.to_owned(),
                    })
                }
                how => how.clone(),
            };
            let changes = self.changes(&swap, by, how.as_ref(), (revision, stored));
            fault::point("registry write", &Deed::of(&swap));
            if self.store.swap_all(changes.await?).await?.is_some() {
                fault::point("registry wrote", &Deed::of(&swap));
                if how.is_some() {
                    self.sweep().await?;
                }
                return Ok(Reply::Record(Some(bytes.new)));
            }
        }
        Err(contended())
    }

    /// Says that a process is lost if a node that was removed has it.
    pub(super) async fn give_up(&self, process: ProcessId, node: NodeId) -> Result<(), Failure> {
        let how = How::Lost {
            reason: "its node was removed from the cluster".into(),
        };
        for _ in 0..TRIES_MAX {
            let Some((revision, stored)) = self.stored(process).await? else {
                return Ok(());
            };
            let expected = stored.decoded()?;
            let lost = expected.closed(Life::Lost);
            let Some(new) = lost.filter(|_| expected.owner == node && expected.life == Life::Alive)
            else {
                return Ok(());
            };
            let swap = Swap {
                process,
                expected,
                new,
                grant: None,
            };
            let changes = self.changes(&swap, node, Some(&how), (revision, stored));
            if self.store.swap_all(changes.await?).await?.is_some() {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// All that changes with a record.
    async fn changes(
        &self,
        swap: &Swap,
        by: NodeId,
        how: Option<&How>,
        (revision, stored): (u64, Stored),
    ) -> Result<Vec<Change>, Failure> {
        let process = swap.process;
        let mut changes = Vec::new();
        let mut named = stored.named;
        match (swap.expected.life, how) {
            (Life::Alive, Some(how)) => {
                let ending = Ending {
                    at_ms: self.store.now_ms(),
                    node: by,
                    how: how.clone(),
                };
                changes.push(change(key(ENDINGS, process), None, Some(write(&ending))));
                changes.extend(self.name_given_up(process, named).await?);
                named = false;
            }
            (Life::Alive, None) => {}
            _ => {
                let ending = self.store.get(&key(ENDINGS, process)).await?;
                let gone = |entry: Entry| change(key(ENDINGS, process), Some(entry.revision), None);
                changes.extend(ending.map(gone));
                let name = self.name_taken_again(process).await?;
                named = name.is_some();
                changes.extend(name);
            }
        }
        let new = Stored {
            named,
            restored: false,
            changed_ms: self.store.now_ms(),
            record: encode(&swap.new)?,
        };
        let record = change(key(RECORDS, process), Some(revision), Some(new.write()));
        changes.push(record);
        Ok(changes)
    }

    pub(super) async fn info(&self, process: ProcessId) -> Result<Option<ProcessInfo>, Failure> {
        let found = self.store.get(&key(INFOS, process)).await?;
        found.map(|entry| read(&entry.value)).transpose()
    }

    async fn name_given_up(
        &self,
        process: ProcessId,
        named: bool,
    ) -> Result<Option<Change>, Failure> {
        if !named {
            return Ok(None);
        }
        let info = self.info(process).await?;
        let Some(name) = info.and_then(|info| info.name) else {
            return Ok(None);
        };
        let held = self.holder(&name).await?;
        let own = held.filter(|(_, holder)| *holder == process);
        Ok(own.map(|(revision, _)| change(name_key(&name), Some(revision), None)))
    }

    async fn name_taken_again(&self, process: ProcessId) -> Result<Option<Change>, Failure> {
        let info = self.info(process).await?;
        let Some(name) = info.and_then(|info| info.name) else {
            return Ok(None);
        };
        self.name_claim(process, &name).await
    }

    pub(super) async fn name_claim(
        &self,
        process: ProcessId,
        name: &str,
    ) -> Result<Option<Change>, Failure> {
        let free = self.holder(name).await?.is_none();
        let id = process.as_bytes().to_vec();
        Ok(free.then(|| change(name_key(name), None, Some(id))))
    }

    /// What an owner keeps of its process is something else from now on.
    pub(super) async fn set_extra(
        &self,
        by: NodeId,
        process: ProcessId,
        (before, extra): (Vec<u8>, Vec<u8>),
    ) -> Result<Reply, Failure> {
        for _ in 0..TRIES_MAX {
            let Some((revision, stored)) = self.stored(process).await? else {
                return Err(Failure::new(FailureKind::NotHere, "no such process"));
            };
            self.settled(&stored).await?;
            let record = stored.decoded()?;
            if record.owner != by || record.life != Life::Alive {
                return Err(Failure::new(
                    FailureKind::Forbidden,
                    "only a process's owner says what it has, while it lives",
                ));
            }
            let found = self.store.get(&key(INFOS, process)).await?;
            let entry = found.ok_or_else(damaged)?;
            let mut info: ProcessInfo = read(&entry.value)?;
            if info.extra != before {
                return Err(contended());
            }
            info.extra.clone_from(&extra);
            if !info.is_plain() {
                return Err(Failure::refused("it has more than can be kept"));
            }
            let changes = vec![
                change(
                    key(INFOS, process),
                    Some(entry.revision),
                    Some(write(&info)),
                ),
                // Whose it is does not change meanwhile.
                change(key(RECORDS, process), Some(revision), Some(stored.write())),
            ];
            if self.store.swap_all(changes).await?.is_some() {
                return Ok(Reply::Done);
            }
        }
        Err(contended())
    }

    pub(super) async fn forget(&self, process: ProcessId) -> Result<Reply, Failure> {
        for _ in 0..TRIES_MAX {
            let Some((revision, stored)) = self.stored(process).await? else {
                return Ok(Reply::Done);
            };
            if stored.decoded()?.life == Life::Alive {
                return Err(Failure::refused(format!(
                    "process {} has not ended: end it with `sterna kill` first",
                    process.short()
                )));
            }
            self.settled(&stored).await?;
            let changes = self.removal(process, revision).await?;
            if self.store.swap_all(changes).await?.is_some() {
                return Ok(Reply::Done);
            }
        }
        Err(contended())
    }

    /// Everything of a process that runs nowhere, and so has no name.
    pub(super) async fn removal(
        &self,
        process: ProcessId,
        revision: u64,
    ) -> Result<Vec<Change>, Failure> {
        let mut changes = vec![change(key(RECORDS, process), Some(revision), None)];
        for prefix in [INFOS, ENDINGS, KEEPINGS] {
            let key = key(prefix, process);
            let found = self.store.get(&key).await?;
            changes.extend(found.map(|entry| change(key, Some(entry.revision), None)));
        }
        Ok(changes)
    }
}

pub(super) const fn change(key: Vec<u8>, expected: Option<u64>, value: Option<Vec<u8>>) -> Change {
    Change {
        key,
        expected,
        value,
        lease: None,
    }
}

pub(super) fn key(prefix: &[u8], process: ProcessId) -> Vec<u8> {
    [prefix, process.as_bytes()].concat()
}

/// The process of a key.
pub(super) fn process_of(prefix: &[u8], key: &[u8]) -> Result<ProcessId, Failure> {
    let id = key.get(prefix.len()..).and_then(|id| id.try_into().ok());
    id.map(ProcessId::from_bytes).ok_or_else(damaged)
}

fn name_key(name: &str) -> Vec<u8> {
    [NAMES, name.as_bytes()].concat()
}

fn encode(record: &Record) -> Result<Vec<u8>, Failure> {
    record.encode().map_err(Failure::refused)
}

fn decode(bytes: &[u8]) -> Result<Record, Failure> {
    Record::decode(bytes).map_err(Failure::refused)
}
