//! Where the processes of this machine and user are found: a private directory with an entry for each.
//!
//! ```text
//! version        "1"
//! lock           held while entries are added or swept away
//! ID.run         a Record as JSON, locked (flock) by its host for as long as that lives
//! ID.sock        the host's control socket
//! ended          the last processes that ended, so that asking for one of them gets a good answer
//! ```
//!
//! A record whose lock nobody holds is of a host that died without cleaning up (`kill -9`, a crash of the
//! machine); whoever sees it sweeps it away. Process ids are not needed for that, so none can be confused.

mod ended;
mod find;
mod record;

pub(crate) use find::{Found, find};
pub(crate) use record::Record;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sterna_process::ProcessId;

use crate::private;
use ended::Ended;

const VERSION: &str = "1";
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Most entries that are read; more than a machine can run.
const ENTRIES_MAX: usize = 100_000;
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// The run directory, opened.
pub(crate) struct RunDirectory {
    path: PathBuf,
    /// Sockets are reached through it, since a socket's path has 107 bytes at most (unix(7)).
    handle: File,
}

/// The entry of a process that this program hosts. Dropping it removes it.
pub(crate) struct Entry {
    directory: RunDirectory,
    record: Record,
    listener: UnixListener,
    /// Keeps the lock.
    _file: File,
    outcome: String,
}

/// Why an entry could not be made.
pub(crate) enum Registered {
    Done(Entry),
    /// There is a process of this name.
    Taken(Box<Record>),
}

impl RunDirectory {
    /// Opens the directory, which is made if it is not there.
    pub(crate) fn open() -> Result<Self> {
        let path = private::run_directory();
        Self::open_at(path.clone()).with_context(|| {
            let shown = path.display();
            format!(
                "could not use the run directory {shown} (name another one with STERNA_RUN_DIR)"
            )
        })
    }

    fn open_at(path: PathBuf) -> Result<Self> {
        private::ensure_directory(&path)?;
        let handle = File::open(&path).context("could not open it")?;
        let directory = Self { path, handle };
        let _lock = directory.lock()?;
        directory.check_version()?;
        Ok(directory)
    }

    fn check_version(&self) -> Result<()> {
        let path = self.path.join("version");
        match read_short(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_whole(&path, VERSION.as_bytes()).context("could not write its version")
            }
            Err(error) => Err(error).context("could not read its version"),
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(found) if Ok(found) == VERSION.parse() => Ok(()),
                Ok(found) => bail!(
                    "it is of version {found}, this is a program for version {VERSION}: \
                     use the version of sterna that made it"
                ),
                Err(_) => {
                    bail!("its file `version` is damaged: remove the directory if nothing runs")
                }
            },
        }
    }

    fn lock(&self) -> Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("lock"))
            .context("could not open its lock")?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => bail!("another sterna keeps it locked: try again"),
                Err(TryLockError::Error(error)) => return Err(error).context("could not lock it"),
            }
        }
    }

    /// Makes an entry, under which the process is found from now on.
    pub(crate) fn register(self, record: Record) -> Result<Registered> {
        let lock = self.lock()?;
        let (live, _) = self.sweep()?;
        if let Some(other) = live.into_iter().find(|other| other.id == record.id) {
            return Ok(Registered::Taken(Box::new(other)));
        }
        let path = self.record_path(record.id);
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("could not make {}", path.display()))?;
        file.try_lock().context("could not lock a new entry")?;
        let written = serde_json::to_writer(&mut file, &record)
            .map_err(io::Error::from)
            .and_then(|()| UnixListener::bind(self.socket_path(record.id)));
        let listener = match written {
            Ok(listener) => listener,
            Err(error) => {
                let _ = fs::remove_file(&path);
                return Err(error).context("could not make an entry in the run directory");
            }
        };
        drop(lock);
        Ok(Registered::Done(Entry {
            directory: self,
            record,
            listener,
            _file: file,
            outcome: "ended".to_owned(),
        }))
    }

    /// All processes that run, oldest first, and those that ended lately.
    pub(crate) fn list(&self) -> Result<Vec<Record>> {
        let _lock = self.lock()?;
        let (mut live, _) = self.sweep()?;
        live.sort_by_key(|record| (record.hosted_ms, record.id));
        Ok(live)
    }

    /// Processes that ended lately, the last first.
    fn ended(&self) -> Vec<Ended> {
        ended::read(&self.path)
    }

    /// Connects to a process's host.
    pub(crate) fn connect(&self, record: &Record) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket_path(record.id))
    }

    /// Reads all entries and removes those of dead hosts. Only under the lock.
    fn sweep(&self) -> Result<(Vec<Record>, usize)> {
        let (mut live, mut swept) = (Vec::new(), 0);
        let listing = fs::read_dir(&self.path).context("could not list the run directory")?;
        for entry in listing.take(ENTRIES_MAX) {
            let path = entry.context("could not list the run directory")?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            match extension {
                Some("run") => match self.look_at(&path)? {
                    Some(record) => live.push(record),
                    None => swept += 1,
                },
                Some("sock") if !path.with_extension("run").exists() => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
        Ok((live, swept))
    }

    /// The record at `path` if its host lives; otherwise the entry is removed.
    fn look_at(&self, path: &Path) -> Result<Option<Record>> {
        let shown = path.display();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("could not open {shown}")),
        };
        let mut text = String::new();
        let read = (&mut file).take(RECORD_BYTES_MAX).read_to_string(&mut text);
        let record = read
            .map_err(anyhow::Error::from)
            .and_then(|_| Ok(serde_json::from_str::<Record>(&text)?));
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let record = record.with_context(|| format!("the entry {shown} is damaged"))?;
                Ok(Some(record))
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("could not lock {shown}"))
            }
            Ok(()) => {
                if let Ok(record) = record {
                    ended::note(&self.path, &record, "ended with its host, which was killed");
                }
                let _ = fs::remove_file(path.with_extension("sock"));
                let _ = fs::remove_file(path);
                Ok(None)
            }
        }
    }

    fn record_path(&self, id: ProcessId) -> PathBuf {
        self.path.join(format!("{id}.run"))
    }

    /// The socket's path by way of the open directory, see `handle`.
    fn socket_path(&self, id: ProcessId) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{id}.sock",
            self.handle.as_raw_fd()
        ))
    }
}

impl Entry {
    /// The socket on which others ask something of the process.
    pub(crate) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Says how the process ended, for those who ask for it afterwards.
    pub(crate) fn set_outcome(&mut self, outcome: String) {
        self.outcome = outcome;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Without the directory's lock only the note of the end is lost.
        let lock = self.directory.lock();
        if lock.is_ok() {
            ended::note(&self.directory.path, &self.record, &self.outcome);
        }
        let path = self.directory.record_path(self.record.id);
        let _ = fs::remove_file(path.with_extension("sock"));
        let _ = fs::remove_file(path);
    }
}

/// Reads a file that should be short.
fn read_short(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    ensure_regular(&file)?;
    file.take(RECORD_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn ensure_regular(file: &File) -> io::Result<()> {
    match file.metadata()?.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Writes a file of ours that appears whole or not at all.
fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Opens the run directory for those who look for a process, and lists what runs there.
pub(crate) fn look() -> Result<(RunDirectory, Vec<Record>)> {
    let directory = RunDirectory::open()?;
    let live = directory.list()?;
    ensure!(
        live.len() <= ENTRIES_MAX,
        "too many entries in the run directory"
    );
    Ok((directory, live))
}
