//! [`Embedded`]: a registry in one file, in [redb](https://www.redb.org).
//!
//! ```text
//! entries   key → │ revision u64 │ lease u64, or 0 │ value │
//! leases    id  → (valid for ms, ends at ms since 1970)
//! meta      "format", "revision", "lease"
//! ```

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::{Change, Entry, LeaseId, Listing, Store, StoreError, Swapped};

/// Version of what is in the file.
pub(super) const FORMAT: u64 = 1;
/// Changes that are remembered for those who watch; who is further behind is told that something may have changed.
const CHANGES_MAX: usize = 4096;
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
    database: Database,
    clock: Clock,
    changes: Mutex<Changes>,
    newest: watch::Sender<u64>,
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| wrong(redb::Error::Io(error)))?;
        // redb panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| open_whole(file)));
        let (database, format, revision) = match opened {
            Ok(opened) => opened.map_err(wrong)?,
            Err(_) => {
                let path = path.to_owned();
                return Err(StoreError::Damaged { path, source: None });
            }
        };
        if format != FORMAT {
            let path = path.to_owned();
            return Err(StoreError::Version {
                path,
                found: format,
            });
        }
        Ok(Self(Arc::new(Inner {
            database,
            clock: Box::new(clock),
            changes: Mutex::new(Changes {
                complete_after: revision,
                last: VecDeque::new(),
            }),
            newest: watch::Sender::new(revision),
        })))
    }

    /// Does something with the file on a thread that may wait for the disk.
    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inner) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = spawn_blocking(move || act(&inner)).await;
        done.map_err(|error| match error.is_panic() {
            true => StoreError::Broken,
            false => StoreError::Closed,
        })?
        .map_err(|error| StoreError::Failed(Box::new(error)))
    }
}

/// Opens a file, looks at all its checksums, and gives format and newest revision beside it.
fn open_whole(file: File) -> Result<(Database, u64, u64), redb::Error> {
    let mut database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
    if !database.check_integrity()? {
        tracing::warn!("the registry was damaged; what could be read of it was kept");
    }
    let (format, revision) = prepare(&database)?;
    Ok((database, format, revision))
}

/// Makes what is not there, and gives format and newest revision.
fn prepare(database: &Database) -> Result<(u64, u64), redb::Error> {
    let write = database.begin_write()?;
    let (format, revision);
    {
        write.open_table(ENTRIES)?;
        write.open_table(LEASES)?;
        let mut meta = write.open_table(META)?;
        let found = meta.get("format")?.map(|found| found.value());
        if found.is_none() {
            meta.insert("format", FORMAT)?;
        }
        format = found.unwrap_or(FORMAT);
        revision = read(&meta, "revision")?;
    }
    write.commit()?;
    Ok((format, revision))
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

impl Inner {
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, redb::Error> {
        let read = self.database.begin_read()?;
        let leases = read.open_table(LEASES)?;
        match read.open_table(ENTRIES)?.get(key)? {
            Some(bytes) => entry(bytes.value(), &leases, (self.clock)()),
            None => Ok(None),
        }
    }

    fn page(&self, prefix: &[u8], after: &[u8], max: usize) -> Result<Listing, redb::Error> {
        let transaction = self.database.begin_read()?;
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

    fn swap(&self, change: &Change) -> Result<Swapped, redb::Error> {
        let changes = std::slice::from_ref(change);
        Ok(match self.change(changes)? {
            Ok(revision) => Swapped::Done(revision),
            Err(found) => Swapped::Other(found),
        })
    }

    fn swap_all(&self, changes: &[Change]) -> Result<Option<u64>, redb::Error> {
        Ok(self.change(changes)?.ok())
    }

    /// Makes all changes or none, and gives the revision, or the first entry that is not as expected.
    fn change(&self, changes: &[Change]) -> Result<Result<u64, Option<Entry>>, redb::Error> {
        let write = self.database.begin_write()?;
        let revision;
        {
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
            revision = next(&mut write.open_table(META)?, "revision")?;
            for change in changes {
                put(&mut entries, change, revision)?;
            }
        }
        write.commit()?;
        for change in changes {
            self.tell(revision, &change.key);
        }
        Ok(Ok(revision))
    }

    fn tell(&self, revision: u64, key: &[u8]) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.last.len() == CHANGES_MAX
            && let Some((forgotten, _)) = changes.last.pop_front()
        {
            changes.complete_after = forgotten;
        }
        changes.last.push_back((revision, key.to_vec()));
        drop(changes);
        self.newest
            .send_modify(|newest| *newest = (*newest).max(revision));
    }

    /// Adds a lease, and removes those that have ended with what was written under them.
    fn lease(&self, valid_ms: u64) -> Result<LeaseId, redb::Error> {
        let write = self.database.begin_write()?;
        let lease;
        {
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
            lease = next(&mut write.open_table(META)?, "lease")?;
            leases.insert(lease, (valid_ms, now_ms.saturating_add(valid_ms)))?;
        }
        write.commit()?;
        Ok(LeaseId(lease))
    }

    fn renew(&self, LeaseId(lease): LeaseId) -> Result<bool, redb::Error> {
        let write = self.database.begin_write()?;
        {
            let now_ms = (self.clock)();
            let mut leases = write.open_table(LEASES)?;
            let found = leases.get(lease)?.map(|found| found.value());
            let Some((valid_ms, ends_ms)) = found else {
                return Ok(false);
            };
            if ends_ms <= now_ms {
                return Ok(false);
            }
            leases.insert(lease, (valid_ms, now_ms.saturating_add(valid_ms)))?;
        }
        write.commit()?;
        Ok(true)
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
        self.with(move |inner| inner.get(&key)).await
    }

    async fn list(&self, prefix: &[u8]) -> Result<Listing, StoreError> {
        let prefix = prefix.to_vec();
        self.with(move |inner| inner.page(&prefix, &[], usize::MAX))
            .await
    }

    async fn page(
        &self,
        prefix: &[u8],
        after: &[u8],
        entries_max: usize,
    ) -> Result<Listing, StoreError> {
        let (prefix, after) = (prefix.to_vec(), after.to_vec());
        self.with(move |inner| inner.page(&prefix, &after, entries_max))
            .await
    }

    async fn swap(&self, change: Change) -> Result<Swapped, StoreError> {
        self.with(move |inner| inner.swap(&change)).await
    }

    async fn swap_all(&self, changes: Vec<Change>) -> Result<Option<u64>, StoreError> {
        self.with(move |inner| inner.swap_all(&changes)).await
    }

    async fn lease(&self, valid: Duration) -> Result<LeaseId, StoreError> {
        let valid_ms = valid.as_millis().try_into().unwrap_or(u64::MAX);
        self.with(move |inner| inner.lease(valid_ms)).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<bool, StoreError> {
        self.with(move |inner| inner.renew(lease)).await
    }

    async fn changed(&self, prefix: &[u8], after: u64) -> Result<(), StoreError> {
        let mut newest = self.0.newest.subscribe();
        loop {
            newest.borrow_and_update();
            if self.0.has_changed(prefix, after) {
                return Ok(());
            }
            newest.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    fn now_ms(&self) -> u64 {
        (self.0.clock)()
    }
}
