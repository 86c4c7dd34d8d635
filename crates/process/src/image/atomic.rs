//! A file that appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::id::ProcessId;

/// A file that is written under a temporary name beside its target, readable by its owner alone, and removed
/// again unless it is [completed](AtomicFile::complete).
pub(super) struct AtomicFile {
    pub(super) file: File,
    temporary: PathBuf,
    target: PathBuf,
    completed: bool,
}

impl AtomicFile {
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.partial", ProcessId::random().short()));
        let temporary = target.with_file_name(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(Self {
            file,
            temporary,
            target: target.to_owned(),
            completed: false,
        })
    }

    /// Makes the file appear under its name, in place of one that was there; after a crash of the machine it
    /// is there whole.
    pub(super) fn complete(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        self.completed = true;
        let directory = self
            .target
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.completed {
            // Nothing better can be done than leaving it behind if it cannot be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
