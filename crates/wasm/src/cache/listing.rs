//! What the cache holds, for people: listing, finding by name, removing, pruning.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sterna_process::{Plain, ProgramId};

use super::error::{FindError, RemoveError};
use super::folder::{self, Folder, Lock, Writes, lock_of};
use super::shelf::{CODE_SUFFIX, CONTINUATION_PREFIX, META, Main};
use super::{INDEX, PROGRAMS, ProgramCache, files, index};

/// Beginning of the names of folders that are being removed.
const GOING: &str = ".going-";

/// A program in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// Its name everywhere.
    pub id: ProgramId,
    /// Name of the file that it was added from, made harmless for terminals.
    pub name: Option<String>,
    /// Size of the module, in bytes.
    pub module_bytes: u64,
    /// Size of the native code for all engines, in bytes, without continuations.
    pub artifact_bytes: u64,
    /// Size of the compiled continuations, in bytes.
    pub continuation_bytes: u64,
    /// When it was last started.
    pub last_used: Option<SystemTime>,
    /// What it was compiled by and for, one text for each.
    pub made_by: Vec<String>,
    /// Whether this program can use what is there; else it is built again when it is next started.
    pub usable: bool,
}

impl Entry {
    /// All that it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.module_bytes + self.artifact_bytes + self.continuation_bytes
    }
}

/// What is to be removed from the cache. Without any, only remains of interrupted work go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Programs that were not started for so long.
    pub unused_for: Option<Duration>,
    /// The longest unused ones, until the others take no more bytes than this.
    pub total_bytes_max: Option<u64>,
    /// What was compiled by other versions of Sterna. Modules stay.
    pub stale: bool,
}

/// What was removed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Whole programs.
    pub programs: Vec<ProgramId>,
    /// Bytes that were freed.
    pub bytes: u64,
    /// Programs that are being built and were therefore left alone.
    pub busy: usize,
}

impl ProgramCache {
    /// All programs, the last used first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = self.ids()?.iter().map(|id| self.entry(id)).collect();
        // What is being built has nothing to show yet.
        entries.retain(|entry| entry.bytes() > 0);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_used));
        Ok(entries)
    }

    /// The program whose id begins with `name`, or that was added from a file of that name.
    ///
    /// # Errors
    /// [`FindError`]: none, or several.
    pub fn find(&self, name: &str) -> Result<ProgramId, FindError> {
        let ids = self.ids().map_err(FindError::Io)?;
        let mut found: Vec<ProgramId> = ids
            .iter()
            .copied()
            .filter(|id| id.has_prefix(name))
            .collect();
        if found.is_empty() {
            let called = |id: &&ProgramId| self.folder(id).about().name.as_deref() == Some(name);
            found = ids.iter().filter(called).copied().collect();
        }
        match found[..] {
            [id] => Ok(id),
            [] => Err(FindError::Unknown { name: name.into() }),
            _ => Err(FindError::Ambiguous {
                name: name.into(),
                count: found.len(),
            }),
        }
    }

    /// Removes a program. Processes that run it are not disturbed. The answer: whether it was there.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn remove(&self, id: &ProgramId) -> Result<bool, RemoveError> {
        let folder = self.folder(id);
        let failed = |source| RemoveError {
            path: folder.path().to_owned(),
            source,
        };
        if !folder.path().exists() {
            return Ok(false);
        }
        match Lock::existing(&folder, Writes::Removes, Duration::ZERO) {
            Ok(Some(_lock)) => self.remove_locked(&folder).map_err(failed)?,
            Ok(None) => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "it is being built",
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        Ok(true)
    }

    /// Removes what `what` says.
    ///
    /// # Errors
    /// The cache cannot be read, or a folder cannot be removed.
    pub fn prune(&self, what: &Prune) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        self.remove_remains();
        let now = SystemTime::now();
        let mut kept = Vec::new();
        for entry in self.list()? {
            let unused = entry
                .last_used
                .and_then(|used| now.duration_since(used).ok());
            let old = what
                .unused_for
                .is_some_and(|limit| unused.is_none_or(|unused| unused >= limit));
            if !(old && self.prune_one(&entry, &mut pruned)?) {
                kept.push(entry);
            }
        }
        if what.stale {
            for entry in &mut kept {
                let before = entry.bytes();
                self.remove_stale(&entry.id);
                *entry = self.entry(&entry.id);
                pruned.bytes += before.saturating_sub(entry.bytes());
            }
        }
        if let Some(limit) = what.total_bytes_max {
            let mut total: u64 = kept.iter().map(Entry::bytes).sum();
            while total > limit
                && let Some(entry) = kept.pop()
            {
                if self.prune_one(&entry, &mut pruned)? {
                    total -= entry.bytes();
                }
            }
        }
        let ids = self.ids()?;
        index::prune(&self.directory.join(INDEX), |id| ids.contains(id));
        Ok(pruned)
    }

    fn prune_one(&self, entry: &Entry, pruned: &mut Pruned) -> io::Result<bool> {
        match self.remove(&entry.id) {
            Ok(true) => {
                pruned.programs.push(entry.id);
                pruned.bytes += entry.bytes();
                Ok(true)
            }
            Ok(false) => Ok(true),
            Err(error) if error.source.kind() == io::ErrorKind::ResourceBusy => {
                pruned.busy += 1;
                Ok(false)
            }
            Err(error) => Err(error.source),
        }
    }

    /// Removes a folder at once for everybody else, then its contents.
    fn remove_locked(&self, folder: &Folder) -> io::Result<()> {
        let name = folder.path().file_name().unwrap_or_default();
        let going = format!("{GOING}{}-{}", name.to_string_lossy(), std::process::id());
        let going = self.directory.join(PROGRAMS).join(going);
        std::fs::rename(folder.path(), &going)?;
        std::fs::remove_dir_all(&going)
    }

    /// Removes what others did not get to remove or to finish.
    fn remove_remains(&self) {
        let programs = self.directory.join(PROGRAMS);
        for entry in std::fs::read_dir(programs).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(GOING) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn remove_stale(&self, id: &ProgramId) {
        let folder = self.folder(id);
        let Ok(Some(_lock)) = Lock::existing(&folder, Writes::Removes, Duration::ZERO) else {
            return;
        };
        for made in subfolders(folder.path()) {
            let main = files::read_record::<Main>(&made.join(META));
            let ours = &self.builder.compatibility().release;
            if !main.is_ok_and(|main| main.made_by.release == *ours) {
                let _ = std::fs::remove_file(lock_of(&made));
                let _ = std::fs::remove_dir_all(made);
            }
        }
    }

    fn ids(&self) -> io::Result<Vec<ProgramId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(self.directory.join(PROGRAMS))? {
            let name = entry?.file_name();
            if let Ok(id) = format!("b3:{}", name.to_string_lossy()).parse() {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn entry(&self, id: &ProgramId) -> Entry {
        let folder = self.folder(id);
        let mut entry = Entry {
            id: *id,
            name: folder.about().name.map(|name| Plain(&name).to_string()),
            module_bytes: length(&folder.path().join(folder::MODULE)),
            artifact_bytes: 0,
            continuation_bytes: 0,
            last_used: folder.last_used(),
            made_by: Vec::new(),
            usable: false,
        };
        for made in subfolders(folder.path()) {
            for file in std::fs::read_dir(&made).into_iter().flatten().flatten() {
                let bytes = length(&file.path());
                let name = file.file_name();
                let name = name.to_string_lossy();
                if name.starts_with(CONTINUATION_PREFIX) && name.ends_with(CODE_SUFFIX) {
                    entry.continuation_bytes += bytes;
                } else {
                    entry.artifact_bytes += bytes;
                }
            }
            if let Ok(main) = files::read_record::<Main>(&made.join(META)) {
                entry.usable |= main.made_by == *self.builder.compatibility()
                    || self.portable() == Some(&main.made_by);
                entry.made_by.push(Plain(&main.made_by.text).to_string());
            }
        }
        entry
    }
}

fn subfolders(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|ty| ty.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn length(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}
