//! The open file: [`Opened`].
//!
//! After an error of the disk redb refuses all that comes later, until the file is opened again. That is done here, so that
//! a registry whose disk was full goes on as soon as there is room.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Database, Error, ReadableDatabase, TableError};

use super::{ENTRIES, FORMAT, LEASES, META, read};

/// A file that is opened again when it has to be.
pub(super) struct Opened {
    path: PathBuf,
    held: RwLock<Held>,
}

struct Held {
    /// Absent if it could not be opened again; the next who wants it tries.
    database: Option<Database>,
    /// How often it was opened.
    openings: u64,
}

impl Opened {
    /// Opens a file, which is made if it is not there, looks at all its checksums, and gives format and newest revision
    /// beside it.
    pub(super) fn open(path: &Path) -> Result<(Self, u64, u64), Error> {
        let (database, format, revision) = open(path)?;
        let held = Held {
            database: Some(database),
            openings: 1,
        };
        let opened = Self {
            path: path.to_owned(),
            held: RwLock::new(held),
        };
        Ok((opened, format, revision))
    }

    /// Does something with it. After an error of the disk it is opened again; what did not even begin because of an
    /// earlier one is done once more.
    pub(super) fn with<T>(&self, act: impl Fn(&Database) -> Result<T, Error>) -> Result<T, Error> {
        match self.once(&act) {
            (Err(Error::PreviousIo), opening) => {
                self.open_again(opening)?;
                self.once(&act).0
            }
            (Err(error @ Error::Io(_)), opening) => {
                if let Err(error) = self.open_again(opening) {
                    tracing::warn!("the registry cannot be opened again yet: {error}");
                }
                Err(error)
            }
            (done, _) => done,
        }
    }

    fn once<T>(&self, act: impl Fn(&Database) -> Result<T, Error>) -> (Result<T, Error>, u64) {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let done = match &held.database {
            Some(database) => act(database),
            None => Err(Error::PreviousIo),
        };
        (done, held.openings)
    }

    /// Opens it again, unless somebody else has done so since.
    fn open_again(&self, opening: u64) -> Result<(), Error> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.openings == opening {
            // Its lock has to be given up first.
            held.database = None;
            let (database, ..) = open(&self.path)?;
            held.database = Some(database);
            held.openings += 1;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<(Database, u64, u64), Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Error::Io)?;
    let open_whole = || {
        let mut database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
        if !database.check_integrity()? {
            tracing::warn!("the registry was damaged; what could be read of it was kept");
        }
        let (format, revision) = prepare(&database)?;
        Ok((database, format, revision))
    };
    // redb panics on some kinds of damage.
    catch_unwind(AssertUnwindSafe(open_whole))
        .unwrap_or_else(|_| Err(Error::Corrupted("it cannot be made sense of".into())))
}

/// Makes what is not there, and gives format and newest revision.
fn prepare(database: &Database) -> Result<(u64, u64), Error> {
    if let Some(known) = known(database)? {
        return Ok(known);
    }
    let write = database.begin_write()?;
    {
        write.open_table(ENTRIES)?;
        write.open_table(LEASES)?;
        write.open_table(META)?.insert("format", FORMAT)?;
    }
    write.commit()?;
    Ok((FORMAT, 0))
}

/// Format and newest revision of a file that was prepared. Nothing is written: there may be no room.
fn known(database: &Database) -> Result<Option<(u64, u64)>, Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        meta => meta?,
    };
    let format = meta.get("format")?.map(|format| format.value());
    let revision = read(&meta, "revision")?;
    Ok(format.map(|format| (format, revision)))
}
