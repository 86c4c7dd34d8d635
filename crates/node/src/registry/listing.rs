//! Lists of processes, in pieces; how long those that have ended are remembered.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use sterna_migration::{Life, NodeId};
use sterna_process::ProcessId;
use tokio::time::timeout;

use super::processes::{ENDINGS, INFOS, RECORDS, Stored, key, process_of};
use super::{Registry, read};
use crate::limits::{
    ENDINGS_KEPT, ENDINGS_MAX, LOST_KEPT, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, WATCH_WITHIN,
};
use crate::message::{
    Ending, Failure, How, ProcessEntry, ProcessInfo, ProcessPage, RecordPage, Reply,
};
use crate::store::{Listing, Store};

/// How often it is looked which processes are to be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Processes that are forgotten in one go.
const SWEEP_MAX: usize = 256;
/// For how long a number of processes is good enough.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What is done from time to time, by the registry's clock.
#[derive(Debug, Default)]
pub(super) struct Chores {
    swept_ms: u64,
    counted_ms: u64,
    count: usize,
}

impl<S: Store> Registry<S> {
    /// What is known of a process.
    pub(super) async fn process(&self, process: ProcessId) -> Result<Reply, Failure> {
        let entry = self.entry(process).await?;
        Ok(Reply::Process(entry.map(Box::new)))
    }

    /// The living process with a name.
    pub(super) async fn named(&self, name: &str) -> Result<Reply, Failure> {
        let entry = match self.holder(name).await? {
            Some((_, holder)) => self.entry(holder).await?,
            None => None,
        };
        Ok(Reply::Process(entry.map(Box::new)))
    }

    async fn entry(&self, process: ProcessId) -> Result<Option<ProcessEntry>, Failure> {
        let Some((_, stored)) = self.stored(process).await? else {
            return Ok(None);
        };
        let Some(info) = self.info(process).await? else {
            return Ok(None); // it was forgotten just now
        };
        let ending = self.store.get(&key(ENDINGS, process)).await?;
        let ending = ending.map(|entry| read(&entry.value)).transpose()?;
        Ok(self.joined(process, stored, info, ending))
    }

    /// An entry; `None` if it is to be forgotten.
    fn joined(
        &self,
        process: ProcessId,
        stored: Stored,
        info: ProcessInfo,
        ending: Option<Ending>,
    ) -> Option<ProcessEntry> {
        let now_ms = self.store.now_ms();
        if ending.as_ref().is_some_and(|ending| is_old(ending, now_ms)) {
            return None;
        }
        let shown = stored.named || ending.is_some();
        Some(ProcessEntry {
            process,
            name: info.name.clone().filter(|_| shown),
            record: stored.record,
            changed_ms: stored.changed_ms,
            info,
            ending,
        })
    }

    /// Some of all processes, those that have ended as well or not.
    pub(super) async fn processes(
        &self,
        ended: bool,
        after: Option<ProcessId>,
    ) -> Result<ProcessPage, Failure> {
        let records = self.page(RECORDS, after).await?;
        let revision = records.revision;
        let more = records.entries.len() == PAGE_ENTRIES_MAX;
        let mut infos: BTreeMap<ProcessId, ProcessInfo> = self.beside(INFOS, after).await?;
        let mut endings: BTreeMap<ProcessId, Ending> = self.beside(ENDINGS, after).await?;
        let mut page = ProcessPage {
            revision,
            ..ProcessPage::default()
        };
        let (mut last, mut bytes) = (None, 0);
        for (key, entry) in records.entries {
            let process = process_of(RECORDS, &key)?;
            let stored = Stored::read(&entry.value)?;
            let alive = stored.decoded()?.life == Life::Alive;
            last = Some(process);
            if !alive && !ended {
                continue;
            }
            let info = infos.remove(&process);
            let ending = endings.remove(&process);
            let entry = match (info, ending) {
                (Some(info), None) if alive => self.joined(process, stored, info, None),
                (Some(info), ending @ Some(_)) if !alive => {
                    self.joined(process, stored, info, ending)
                }
                // It has changed since the records were read.
                _ => self.entry(process).await?,
            };
            if let Some(entry) = entry {
                bytes += postcard::experimental::serialized_size(&entry).unwrap_or(PAGE_BYTES_MAX);
                page.entries.push(entry);
            }
            if bytes >= PAGE_BYTES_MAX {
                page.next = last;
                return Ok(page);
            }
        }
        page.next = last.filter(|_| more);
        Ok(page)
    }

    /// The records in which a node is the owner, or the target of a move.
    pub(super) async fn processes_of(
        &self,
        node: NodeId,
        mut after: Option<ProcessId>,
    ) -> Result<RecordPage, Failure> {
        let mut page = RecordPage::default();
        loop {
            let found = self.page(RECORDS, after).await?;
            let more = found.entries.len() == PAGE_ENTRIES_MAX;
            for (key, entry) in found.entries {
                let process = process_of(RECORDS, &key)?;
                let stored = Stored::read(&entry.value)?;
                let record = stored.decoded()?;
                let target = record.intent.is_some_and(|intent| intent.target == node);
                if record.life != Life::Ended && (record.owner == node || target) {
                    page.records.push((process, stored.record));
                }
                after = Some(process);
            }
            if !more {
                return Ok(page);
            }
            if page.records.len() >= PAGE_ENTRIES_MAX {
                page.next = after;
                return Ok(page);
            }
        }
    }

    pub(super) async fn processes_changed(&self, after: u64) -> Result<Reply, Failure> {
        if after > 0 {
            let changed = timeout(WATCH_WITHIN, self.store.changed(RECORDS, after)).await;
            changed.unwrap_or(Ok(()))?;
        }
        let now = self.store.page(RECORDS, RECORDS, 1).await?;
        Ok(Reply::Revision(now.revision))
    }

    async fn page(&self, prefix: &[u8], after: Option<ProcessId>) -> Result<Listing, Failure> {
        let after = after.map_or_else(Vec::new, |after| key(prefix, after));
        Ok(self.store.page(prefix, &after, PAGE_ENTRIES_MAX).await?)
    }

    /// What else there is of the processes of a page. There is at most one entry for each record, so one page of
    /// as many entries has all of them.
    async fn beside<T: serde::de::DeserializeOwned>(
        &self,
        prefix: &[u8],
        after: Option<ProcessId>,
    ) -> Result<BTreeMap<ProcessId, T>, Failure> {
        let found = self.page(prefix, after).await?;
        let entries = found.entries.into_iter();
        entries
            .map(|(key, entry)| Ok((process_of(prefix, &key)?, read(&entry.value)?)))
            .collect()
    }

    /// After everything was replaced.
    pub(super) fn forget_chores(&self) {
        *self.chores.lock().unwrap_or_else(PoisonError::into_inner) = Chores::default();
    }

    /// About how many processes there are.
    pub(super) async fn count(&self) -> Result<usize, Failure> {
        let now_ms = self.store.now_ms();
        {
            let chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
            if is_recent(chores.counted_ms, now_ms, COUNT_EVERY) {
                return Ok(chores.count);
            }
        }
        let count = self.store.list(RECORDS).await?.entries.len();
        let mut chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
        (chores.counted_ms, chores.count) = (now_ms, count);
        Ok(count)
    }

    /// Forgets processes that ended long ago, and the oldest if there are too many. Not more often than is useful.
    pub(super) async fn sweep(&self) -> Result<(), Failure> {
        let now_ms = self.store.now_ms();
        {
            let mut chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
            if is_recent(chores.swept_ms, now_ms, SWEEP_EVERY) {
                return Ok(());
            }
            chores.swept_ms = now_ms;
        }
        let mut endings = Vec::new();
        for (key, entry) in self.store.list(ENDINGS).await?.entries {
            let ending: Ending = read(&entry.value)?;
            if !matches!(ending.how, How::Frozen { .. }) {
                let old = is_old(&ending, now_ms);
                endings.push((!old, ending.at_ms, process_of(ENDINGS, &key)?));
            }
        }
        endings.sort_unstable();
        let excess = endings.len().saturating_sub(ENDINGS_MAX);
        let old = endings.iter().take_while(|(kept, ..)| !kept).count();
        let dead = excess.max(old);
        for (_, _, process) in endings.iter().take(dead.min(SWEEP_MAX)) {
            let Some((revision, stored)) = self.stored(*process).await? else {
                continue;
            };
            // It may have been recovered meanwhile, or is about to be announced by whoever has it.
            if stored.decoded()?.life != Life::Alive && self.settled(&stored).await.is_ok() {
                let changes = self.removal(*process, revision).await?;
                self.store.swap_all(changes).await?;
            }
        }
        if dead > SWEEP_MAX {
            let mut chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
            chores.swept_ms = 0;
        }
        Ok(())
    }
}

fn is_recent(at_ms: u64, now_ms: u64, within: Duration) -> bool {
    let since = now_ms.checked_sub(at_ms);
    at_ms > 0 && since.is_some_and(|since| u128::from(since) < within.as_millis())
}

/// Whether a process that ended so is to be forgotten.
fn is_old(ending: &Ending, now_ms: u64) -> bool {
    let kept = match ending.how {
        How::Exited(_) | How::Unseen => ENDINGS_KEPT,
        How::Lost { .. } => LOST_KEPT,
        How::Frozen { .. } => return false,
    };
    u128::from(now_ms.saturating_sub(ending.at_ms)) >= kept.as_millis()
}
