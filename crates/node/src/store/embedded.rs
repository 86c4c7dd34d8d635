//! [`Embedded`]: a registry in one file, in [redb](https://www.redb.org).
//!
//! ```text
//! entries   key → │ revision u64 │ lease u64, or 0 │ value │
//! leases    id  → (valid for ms, ends at ms since 1970)
//! meta      "format", "revision", "lease"
//! ```

mod opened;
mod writer;

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::{CHANGES_MAX, Change, Dump, Entry, LeaseId, Listing, Store, StoreError, Swapped};
use crate::message::StoreStatus;
use opened::Opened;
use writer::{Answer, Job, Queue};

/// Version of what is in the file.
pub(super) const FORMAT: u64 = 1;
/// Changes that are remembered for those who watch; who is further behind is told that something may have changed.
const CHANGES_REMEMBERED_MAX: usize = 4096;
const HEAD_BYTES: usize = 16;

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
const LEASES: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The clock by which leases end.
type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// A store in a file of this node.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    /// Dropped first: it waits until the last changes are written.
    queue: Queue,
    shared: Arc<Shared>,
}

/// What those who read and the one who writes have in common.
struct Shared {
    path: PathBuf,
    file: Opened,
    clock: Clock,
    changes: Mutex<Changes>,
    newest: watch::Sender<u64>,
    figures: Mutex<Figures>,
}

/// What the file's writer has done since the file was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests for changes that were answered.
    pub requests: u64,
    /// Transactions that brought them to disk: those that wait at the same time share one.
    pub commits: u64,
    /// How long the last one took, `fsync` included.
    pub commit_last: Duration,
    /// How long the slowest took.
    pub commit_max: Duration,
}

/// The last changes, oldest first.
struct Changes {
    /// All later ones are here.
    complete_after: u64,
    last: VecDeque<(u64, Vec<u8>)>,
}

impl Embedded {
    /// Opens the file, which is made if it is not there, readable by its owner alone.
    ///
    /// # Errors
    /// It cannot be used, is damaged, or of another version.
    pub fn open(
        path: &Path,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let wrong = |error: redb::Error| opening(path, error);
        let (file, format, revision) = Opened::open(path).map_err(wrong)?;
        if format != FORMAT {
            let path = path.to_owned();
            return Err(StoreError::Version {
                path,
                found: format,
            });
        }
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            file,
            clock: Box::new(clock),
            changes: Mutex::new(Changes {
                complete_after: revision,
                last: VecDeque::new(),
            }),
            newest: watch::Sender::new(revision),
            figures: Mutex::default(),
        });
        let queue =
            Queue::start(Arc::clone(&shared)).map_err(|error| wrong(redb::Error::Io(error)))?;
        Ok(Self(Arc::new(Inner { queue, shared })))
    }

    /// Everything, as it is at one moment.
    ///
    /// # Errors
    /// The file could not be read.
    pub async fn dump(&self) -> Result<Dump, StoreError> {
        self.with(Shared::dump).await
    }

    /// Puts everything of a dump in the place of everything that is here. All who watch are told.
    ///
    /// # Errors
    /// The file could not be written. Nothing was changed then.
    pub async fn replace(&self, dump: Dump) -> Result<(), StoreError> {
        match self.0.queue.ask(Job::Replace(dump)).await? {
            Answer::Changed(_) => Ok(()),
            _ => Err(StoreError::Broken),
        }
    }

    /// What its writer has done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let figures = self.0.shared.figures.lock();
        *figures.unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the file on a thread that may wait for the disk.
    async fn with<T: Send + 'static>(
        &self,
        act: impl Fn(&Shared, &Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = spawn_blocking(move || {
            let shared = &inner.shared;
            shared.file.with(|database| act(shared, database))
        })
        .await;
        done.map_err(|error| match error.is_panic() {
            true => StoreError::Broken,
            false => StoreError::Closed,
        })?
        .map_err(|error| StoreError::Failed(Arc::new(error)))
    }
}

fn opening(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    let garbled = |error: &std::io::Error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
        )
    };
    let source = Box::new(error);
    match &*source {
        redb::Error::Io(error) if !garbled(error) => StoreError::Open { path, source },
        redb::Error::DatabaseAlreadyOpen => StoreError::Open { path, source },
        _ => StoreError::Damaged {
            path,
            source: Some(source),
        },
    }
}

fn read(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    Ok(meta.get(name)?.map_or(0, |value| value.value()))
}

/// The next number of a kind.
fn next(meta: &mut Table<'_, &'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    let next = read(meta, name)? + 1;
    meta.insert(name, next)?;
    Ok(next)
}

/// An entry of the file; `None` if its lease has ended.
fn entry(
    bytes: &[u8],
    leases: &impl ReadableTable<u64, (u64, u64)>,
    now_ms: u64,
) -> Result<Option<Entry>, redb::Error> {
    let corrupt = || redb::Error::Corrupted("an entry is too short".into());
    let (head, value) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(corrupt)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let (revision, lease) = (number(0), number(8));
    let ended = lease != 0
        && leases
            .get(lease)?
            .is_none_or(|lease| lease.value().1 <= now_ms);
    let value = value.to_vec();
    Ok((!ended).then_some(Entry { revision, value }))
}

/// The lease of an entry that was read, or 0.
fn lease_of(bytes: &[u8]) -> u64 {
    let lease = bytes
        .get(8..HEAD_BYTES)
        .and_then(|lease| lease.try_into().ok());
    lease.map_or(0, u64::from_le_bytes)
}

impl Shared {
    fn get(&self, database: &Database, key: &[u8]) -> Result<Option<Entry>, redb::Error> {
        let read = database.begin_read()?;
        let leases = read.open_table(LEASES)?;
        match read.open_table(ENTRIES)?.get(key)? {
            Some(bytes) => entry(bytes.value(), &leases, (self.clock)()),
            None => Ok(None),
        }
    }

    fn page(
        &self,
        database: &Database,
        prefix: &[u8],
        after: &[u8],
        max: usize,
    ) -> Result<Listing, redb::Error> {
        let transaction = database.begin_read()?;
        let leases = transaction.open_table(LEASES)?;
        let now_ms = (self.clock)();
        let mut entries = Vec::new();
        let after = match after < prefix {
            true => Bound::Included(prefix),
            false => Bound::Excluded(after),
        };
        let range = transaction
            .open_table(ENTRIES)?
            .range::<&[u8]>((after, Bound::Unbounded))?;
        for found in range {
            let (key, bytes) = found?;
            if !key.value().starts_with(prefix) || entries.len() >= max {
                break;
            }
            if let Some(entry) = entry(bytes.value(), &leases, now_ms)? {
                entries.push((key.value().to_vec(), entry));
            }
        }
        let revision = read(&transaction.open_table(META)?, "revision")?;
        Ok(Listing { revision, entries })
    }

    fn dump(&self, database: &Database) -> Result<Dump, redb::Error> {
        let transaction = database.begin_read()?;
        let leases = transaction.open_table(LEASES)?;
        let now_ms = (self.clock)();
        let mut entries = Vec::new();
        for found in transaction.open_table(ENTRIES)?.iter()? {
            let (key, bytes) = found?;
            let Some(live) = entry(bytes.value(), &leases, now_ms)? else {
                continue;
            };
            let lease = lease_of(bytes.value());
            let ends_ms = leases.get(lease)?.map(|lease| lease.value().1);
            let left_ms = ends_ms.map(|ends_ms| ends_ms.saturating_sub(now_ms));
            entries.push((key.value().to_vec(), live.value, left_ms));
        }
        let revision = read(&transaction.open_table(META)?, "revision")?;
        Ok(Dump { revision, entries })
    }

    fn has_changed(&self, prefix: &[u8], after: u64) -> bool {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = *self.newest.borrow();
        // A revision from the future was given by a file that this one has replaced.
        after < changes.complete_after
            || after > newest.max(changes.complete_after)
            || changes
                .last
                .iter()
                .rev()
                .take_while(|(revision, _)| *revision > after)
                .any(|(_, key)| key.starts_with(prefix))
    }
}

impl Store for Embedded {
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let key = key.to_vec();
        self.with(move |inner, database| inner.get(database, &key))
            .await
    }

    async fn list(&self, prefix: &[u8]) -> Result<Listing, StoreError> {
        let prefix = prefix.to_vec();
        self.with(move |inner, database| inner.page(database, &prefix, &[], usize::MAX))
            .await
    }

    async fn page(
        &self,
        prefix: &[u8],
        after: &[u8],
        entries_max: usize,
    ) -> Result<Listing, StoreError> {
        let (prefix, after) = (prefix.to_vec(), after.to_vec());
        self.with(move |inner, database| inner.page(database, &prefix, &after, entries_max))
            .await
    }

    async fn swap(&self, change: Change) -> Result<Swapped, StoreError> {
        let answer = self.0.queue.ask(Job::Change(vec![change])).await?;
        match answer {
            Answer::Changed(revision) => Ok(Swapped::Done(revision)),
            Answer::Other(found) => Ok(Swapped::Other(found)),
            _ => Err(StoreError::Broken),
        }
    }

    async fn swap_all(&self, changes: Vec<Change>) -> Result<Option<u64>, StoreError> {
        assert!(changes.len() <= CHANGES_MAX, "{} changes", changes.len());
        match self.0.queue.ask(Job::Change(changes)).await? {
            Answer::Changed(revision) => Ok(Some(revision)),
            Answer::Other(_) => Ok(None),
            _ => Err(StoreError::Broken),
        }
    }

    async fn lease(&self, valid: Duration) -> Result<LeaseId, StoreError> {
        let valid_ms = valid.as_millis().try_into().unwrap_or(u64::MAX);
        match self.0.queue.ask(Job::Lease { valid_ms }).await? {
            Answer::Lease(lease) => Ok(lease),
            _ => Err(StoreError::Broken),
        }
    }

    async fn renew(&self, lease: LeaseId) -> Result<bool, StoreError> {
        match self.0.queue.ask(Job::Renew(lease)).await? {
            Answer::Renewed(renewed) => Ok(renewed),
            _ => Err(StoreError::Broken),
        }
    }

    async fn changed(&self, prefix: &[u8], after: u64) -> Result<(), StoreError> {
        let mut newest = self.0.shared.newest.subscribe();
        loop {
            newest.borrow_and_update();
            if self.0.shared.has_changed(prefix, after) {
                return Ok(());
            }
            newest.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    fn status(&self) -> StoreStatus {
        let figures = self.figures();
        let micros = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX);
        let path = &self.0.shared.path;
        StoreStatus::Embedded {
            path: path.display().to_string(),
            bytes: std::fs::metadata(path).map_or(0, |found| found.len()),
            requests: figures.requests,
            commits: figures.commits,
            commit_last_us: micros(figures.commit_last),
            commit_max_us: micros(figures.commit_max),
        }
    }

    fn address(&self) -> Option<String> {
        None
    }

    fn now_ms(&self) -> u64 {
        (self.0.shared.clock)()
    }
}
