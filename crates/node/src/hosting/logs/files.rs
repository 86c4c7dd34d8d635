//! The files of logs: [`LogFiles`].

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sterna_process::{Epoch, ProcessId};

use crate::hosting::runner::make_folder;

/// All of them in one folder, which is read once: to make another folder for each process would take longer than to begin its
/// log.
#[derive(Debug)]
pub(in crate::hosting) struct LogFiles {
    folder: PathBuf,
    begun: Mutex<HashMap<ProcessId, BTreeSet<Epoch>>>,
}

impl LogFiles {
    /// Those in a folder, if there is one.
    pub(in crate::hosting) fn in_folder(folder: PathBuf) -> Self {
        let mut begun: HashMap<_, BTreeSet<_>> = HashMap::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    "output of before is not shown: {}: {error}",
                    folder.display()
                );
                None
            }
        };
        for entry in entries.into_iter().flatten().flatten() {
            if let Some((process, epoch)) = parse(&entry.path()) {
                begun.entry(process).or_default().insert(epoch);
            }
        }
        Self {
            folder,
            begun: Mutex::new(begun),
        }
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<ProcessId, BTreeSet<Epoch>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, process: ProcessId, epoch: Epoch) -> PathBuf {
        self.folder.join(format!("{process}.{:020}", epoch.0))
    }

    /// An empty file for what a process writes from an epoch on. That of an attempt that did not come to anything is gone.
    pub(in crate::hosting) fn begin(&self, process: ProcessId, epoch: Epoch) -> io::Result<File> {
        let path = self.path(process, epoch);
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).mode(0o600);
        let opened = options.open(&path).or_else(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => fs::remove_file(&path)?,
                io::ErrorKind::NotFound => make_folder(&self.folder)?,
                _ => return Err(error),
            }
            options.open(&path)
        });
        let file = opened?;
        self.begun().entry(process).or_default().insert(epoch);
        Ok(file)
    }

    /// Those of a process, oldest first.
    pub(super) fn of(&self, process: ProcessId) -> Vec<PathBuf> {
        let begun = self.begun();
        let epochs = begun.get(&process).into_iter().flatten();
        epochs.map(|epoch| self.path(process, *epoch)).collect()
    }

    /// Removes what was written from one epoch on, into its file.
    pub(in crate::hosting) fn remove_one(&self, process: ProcessId, epoch: Epoch) {
        let mut begun = self.begun();
        if let Some(epochs) = begun.get_mut(&process) {
            epochs.remove(&epoch);
            if epochs.is_empty() {
                begun.remove(&process);
            }
        }
        drop(begun);
        let _ = fs::remove_file(self.path(process, epoch));
    }

    /// Removes all of a process that is forgotten. One that is about to start has nothing in its file.
    pub(in crate::hosting) fn forget(&self, process: ProcessId) {
        let is_empty = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.len() == 0);
        if !self.of(process).iter().any(is_empty) {
            self.remove(process);
        }
    }

    /// Removes all of a process.
    pub(in crate::hosting) fn remove(&self, process: ProcessId) {
        let epochs = self.begun().remove(&process);
        for epoch in epochs.into_iter().flatten() {
            let _ = fs::remove_file(self.path(process, epoch));
        }
    }

    /// Processes of which nothing was written for some time.
    pub(super) fn idle(&self, time: Duration) -> Vec<ProcessId> {
        let all: Vec<ProcessId> = self.begun().keys().copied().collect();
        let idle = all.into_iter().filter(|process| {
            let files = self.of(*process).into_iter();
            let times = files.filter_map(|path| fs::metadata(path).ok()?.modified().ok());
            let last = times.max().unwrap_or(SystemTime::UNIX_EPOCH);
            last.elapsed().unwrap_or_default() > time
        });
        idle.collect()
    }
}

/// Of which process a file is, and from which epoch on.
fn parse(path: &Path) -> Option<(ProcessId, Epoch)> {
    let process = path.file_stem()?.to_str()?.parse().ok()?;
    let epoch = path.extension()?.to_str()?.parse().ok()?;
    Some((process, Epoch(epoch)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn files_are_found_again_and_an_attempt_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = [1, 2].map(|number| ProcessId::from_bytes([number; 16]));
        let files = LogFiles::in_folder(folder.path().join("logs"));
        files
            .begin(one, Epoch(11))
            .unwrap()
            .write_all(b"x")
            .unwrap();
        files.begin(one, Epoch(9)).unwrap();
        files.begin(two, Epoch(1)).unwrap();
        let again = LogFiles::in_folder(folder.path().join("logs"));
        let paths = again.of(one);
        assert_eq!(paths, files.of(one));
        assert_eq!(fs::read(&paths[1]).unwrap(), b"x");
        again.begin(one, Epoch(11)).unwrap();
        assert_eq!(fs::read(&paths[1]).unwrap(), b"");
        assert_eq!(again.idle(Duration::from_secs(3600)), []);
        again.remove_one(one, Epoch(9));
        assert_eq!(again.of(one), paths[1..]);
        again.remove(one);
        assert_eq!(again.of(one), [] as [PathBuf; 0]);
        assert_eq!(
            LogFiles::in_folder(folder.path().join("logs"))
                .of(two)
                .len(),
            1
        );
    }
}
