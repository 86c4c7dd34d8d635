//! Who writes: one thread that takes all requests which wait and brings them to disk together.
//!
//! ```text
//! requests ──► queue ──► │ one transaction: each is judged in its turn, by what those before it wrote │
//!                        │ commit: one fsync for all                                                   │ ──► answers
//! ```
//!
//! While one transaction is written, the next requests gather. Nobody hears anything before it is on disk, refusals
//! included: they may be due to a change that is not there yet. A failure fails all who share it, and nothing of it
//! is written.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::{CHANGES_REMEMBERED_MAX, ENTRIES, LEASES, META, Shared, entry, next};
use crate::store::{Change, Dump, Entry, LeaseId, StoreError};

/// Requests that wait for the writer; more wait to get there.
const QUEUE_MAX: usize = 1024;
/// Requests in one transaction.
const BATCH_MAX: usize = 512;

/// What is to be written.
pub(super) enum Job {
    /// All of these, or none.
    Change(Vec<Change>),
    /// Everything.
    Replace(Dump),
    /// A new lease.
    Lease { valid_ms: u64 },
    /// A lease that begins again.
    Renew(LeaseId),
}

/// What came of it.
pub(super) enum Answer {
    Changed(u64),
    /// Nothing was changed: this entry is not as expected.
    Other(Option<Entry>),
    Lease(LeaseId),
    Renewed(bool),
}

type Asked = (Job, oneshot::Sender<Result<Answer, StoreError>>);

/// The way to the writer, which ends with it.
pub(super) struct Queue {
    jobs: Option<mpsc::Sender<Asked>>,
    writer: Option<JoinHandle<()>>,
}

impl Queue {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("registry".into())
            .spawn(move || serve(&shared, waiting))?;
        Ok(Self {
            jobs: Some(jobs),
            writer: Some(writer),
        })
    }

    pub(super) async fn ask(&self, job: Job) -> Result<Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        let sent = jobs.send((job, answer)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn serve(shared: &Shared, mut waiting: mpsc::Receiver<Asked>) {
    let mut broken = false;
    let mut batch = Vec::new();
    while waiting.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let (jobs, askers): (Vec<Job>, Vec<_>) = batch.drain(..).unzip();
        // redb panics on some kinds of damage. What it holds then is not touched again.
        let written = match broken {
            true => Err(StoreError::Broken),
            false => catch_unwind(AssertUnwindSafe(|| shared.write(&jobs)))
                .map_err(|_| StoreError::Broken)
                .and_then(|written| written.map_err(|error| StoreError::Failed(Arc::new(error)))),
        };
        match written {
            Ok(answers) => {
                for (asker, answer) in askers.into_iter().zip(answers) {
                    let _ = asker.send(Ok(answer));
                }
            }
            Err(error) => {
                broken |= matches!(error, StoreError::Broken);
                for asker in askers {
                    let _ = asker.send(Err(match &error {
                        StoreError::Failed(why) => StoreError::Failed(Arc::clone(why)),
                        _ => StoreError::Broken,
                    }));
                }
            }
        }
    }
}

/// What was changed, at which revision.
type Told = Vec<(u64, Vec<u8>)>;

impl Shared {
    fn write(&self, jobs: &[Job]) -> Result<Vec<Answer>, redb::Error> {
        self.file.with(|database| self.write_all(database, jobs))
    }

    fn write_all(&self, database: &Database, jobs: &[Job]) -> Result<Vec<Answer>, redb::Error> {
        let begun = Instant::now();
        let write = database.begin_write()?;
        let mut told = Told::new();
        let mut writes = false;
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let answer = self.carry_out(&write, job, &mut told)?;
            writes |= !matches!(answer, Answer::Other(_) | Answer::Renewed(false));
            answers.push(answer);
        }
        if writes {
            write.commit()?;
        }
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.requests += jobs.len() as u64;
        if writes {
            figures.commits += 1;
            figures.commit_last = begun.elapsed();
            figures.commit_max = figures.commit_max.max(figures.commit_last);
        }
        drop(figures);
        self.tell(told);
        Ok(answers)
    }

    fn carry_out(
        &self,
        write: &WriteTransaction,
        job: &Job,
        told: &mut Told,
    ) -> Result<Answer, redb::Error> {
        match job {
            Job::Change(changes) => Ok(match self.change(write, changes)? {
                Ok(revision) => {
                    let keys = changes.iter().map(|change| (revision, change.key.clone()));
                    told.extend(keys);
                    Answer::Changed(revision)
                }
                Err(found) => Answer::Other(found),
            }),
            Job::Replace(dump) => {
                let revision = self.replace(write, dump)?;
                // Of everything that anybody watches, something may have changed.
                told.push((revision, Vec::new()));
                Ok(Answer::Changed(revision))
            }
            Job::Lease { valid_ms } => self.lease(write, *valid_ms).map(Answer::Lease),
            Job::Renew(lease) => self.renew(write, *lease).map(Answer::Renewed),
        }
    }

    /// Makes all changes or none, and gives the revision, or the first entry that is not as expected.
    fn change(
        &self,
        write: &WriteTransaction,
        changes: &[Change],
    ) -> Result<Result<u64, Option<Entry>>, redb::Error> {
        let mut entries = write.open_table(ENTRIES)?;
        let leases = write.open_table(LEASES)?;
        for change in changes {
            let found = match entries.get(&*change.key)? {
                Some(bytes) => entry(bytes.value(), &leases, (self.clock)())?,
                None => None,
            };
            if found.as_ref().map(|entry| entry.revision) != change.expected {
                return Ok(Err(found));
            }
        }
        let revision = next(&mut write.open_table(META)?, "revision")?;
        for change in changes {
            put(&mut entries, change, revision)?;
        }
        Ok(Ok(revision))
    }

    fn replace(&self, write: &WriteTransaction, dump: &Dump) -> Result<u64, redb::Error> {
        let now_ms = (self.clock)();
        let mut entries = write.open_table(ENTRIES)?;
        let mut leases = write.open_table(LEASES)?;
        let mut meta = write.open_table(META)?;
        entries.retain(|_, _| false)?;
        leases.retain(|_, _| false)?;
        let revision = next(&mut meta, "revision")?.max(dump.revision + 1);
        meta.insert("revision", revision)?;
        for (key, value, leased_ms) in &dump.entries {
            let lease = match leased_ms {
                Some(valid_ms) => {
                    let lease = next(&mut meta, "lease")?;
                    leases.insert(lease, (*valid_ms, now_ms.saturating_add(*valid_ms)))?;
                    Some(LeaseId(lease))
                }
                None => None,
            };
            let change = Change {
                key: key.clone(),
                expected: None,
                value: Some(value.clone()),
                lease,
            };
            put(&mut entries, &change, revision)?;
        }
        Ok(revision)
    }

    fn tell(&self, told: Told) {
        let Some(&(newest, _)) = told.last() else {
            return;
        };
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        for change in told {
            if change.1.is_empty() {
                // All of it was replaced.
                changes.last.clear();
                changes.complete_after = change.0;
                continue;
            }
            if changes.last.len() == CHANGES_REMEMBERED_MAX
                && let Some((forgotten, _)) = changes.last.pop_front()
            {
                changes.complete_after = forgotten;
            }
            changes.last.push_back(change);
        }
        drop(changes);
        self.newest.send_replace(newest);
    }

    /// Adds a lease, and removes those that have ended with what was written under them.
    fn lease(&self, write: &WriteTransaction, valid_ms: u64) -> Result<LeaseId, redb::Error> {
        let now_ms = (self.clock)();
        let mut leases = write.open_table(LEASES)?;
        leases.retain(|_, (_, ends_ms)| ends_ms > now_ms)?;
        let mut dead = Vec::new();
        let mut entries = write.open_table(ENTRIES)?;
        for found in entries.iter()? {
            let (key, bytes) = found?;
            if entry(bytes.value(), &leases, now_ms)?.is_none() {
                dead.push(key.value().to_vec());
            }
        }
        for key in dead {
            entries.remove(&*key)?;
        }
        let lease = next(&mut write.open_table(META)?, "lease")?;
        leases.insert(lease, (valid_ms, now_ms.saturating_add(valid_ms)))?;
        Ok(LeaseId(lease))
    }

    fn renew(
        &self,
        write: &WriteTransaction,
        LeaseId(lease): LeaseId,
    ) -> Result<bool, redb::Error> {
        let now_ms = (self.clock)();
        let mut leases = write.open_table(LEASES)?;
        let found = leases.get(lease)?.map(|found| found.value());
        let Some((valid_ms, _)) = found.filter(|(_, ends_ms)| *ends_ms > now_ms) else {
            return Ok(false);
        };
        leases.insert(lease, (valid_ms, now_ms.saturating_add(valid_ms)))?;
        Ok(true)
    }
}

/// Writes what an entry becomes.
fn put(
    entries: &mut Table<'_, &[u8], &[u8]>,
    change: &Change,
    revision: u64,
) -> Result<(), redb::Error> {
    match &change.value {
        Some(value) => {
            let lease = change.lease.map_or(0, |LeaseId(lease)| lease);
            let head = [revision.to_le_bytes(), lease.to_le_bytes()].concat();
            entries.insert(&*change.key, &*[&head, &value[..]].concat())?;
        }
        None => {
            entries.remove(&*change.key)?;
        }
    }
    Ok(())
}
