//! The folder of one program, and the lock that those who write into it take.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use sterna_process::ProgramId;

use super::Compatibility;
use super::files;
use crate::builder::{OnProgress, Progress};

/// Name of the original module in its folder.
pub(super) const MODULE: &str = "module.wasm";
const ABOUT: &str = "about";
const USED: &str = "used";
const LOCK: &str = "lock";
/// How often someone who waits for another process looks again, and says so.
const WAIT_TICK: Duration = Duration::from_millis(50);
/// The same for someone who waits for what takes others a moment, and whom a move waits for.
const SHORT_TICK: Duration = Duration::from_millis(1);

/// The folder of one program.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

/// What is known of a program besides its contents.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct About {
    /// Name of the file that it was added from: anything at all.
    pub(super) name: Option<String>,
}

impl Folder {
    pub(super) fn of(programs: &Path, id: &ProgramId) -> Folder {
        Folder(programs.join(id.hex()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the files for one engine lie.
    pub(super) fn made(&self, compatibility: &Compatibility) -> PathBuf {
        self.0.join(&compatibility.id)
    }

    pub(super) fn about(&self) -> About {
        files::read_record(&self.0.join(ABOUT)).unwrap_or_default()
    }

    /// Writes the program's name, unless it has one.
    pub(super) fn set_about(&self, about: &About) -> io::Result<()> {
        if self.about().name.is_some() || about.name.is_none() {
            return Ok(());
        }
        files::encode(about).and_then(|bytes| files::write(&self.0, ABOUT, &bytes))
    }

    /// Notes that the program is used now. A read-only cache does not know.
    pub(super) fn touch(&self) {
        let path = self.0.join(USED);
        let touched = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(folder = %self.0.display(), %error, "the use is not noted");
        }
    }

    pub(super) fn last_used(&self) -> Option<SystemTime> {
        let metadata = std::fs::metadata(self.0.join(USED)).ok()?;
        metadata.modified().ok()
    }

    /// Removes the folder if it holds nothing but its lock. The caller has it.
    pub(super) fn remove_if_empty(&self) {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        if entries
            .map(|entry| entry.file_name())
            .all(|name| name == LOCK)
        {
            // Whoever waits for it meanwhile finds it gone and makes another.
            let _ = std::fs::remove_file(self.0.join(LOCK));
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    /// Removes what lies in a folder of artifacts, and what others left unfinished. The caller holds the lock.
    pub(super) fn clear(&self, made: &Path) {
        let left = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in left(&self.0).filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(files::TEMPORARY)
        }) {
            let _ = std::fs::remove_file(entry.path());
        }
        for entry in left(made) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Held by who writes into a program's folder; let go when dropped, and by the kernel if its process dies.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Makes the folder if there is none, and waits until nobody else writes into it. `None`: cancelled.
    pub(super) fn take(folder: &Folder, on_progress: OnProgress<'_>) -> io::Result<Option<Lock>> {
        loop {
            files::make_folder(&folder.0)?;
            let file = match open(folder, true) {
                // Removed since it was made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &folder.0.join(LOCK)) => return Ok(Some(Lock(file))),
                // It was removed while we waited, and perhaps made anew.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if let ControlFlow::Break(()) = on_progress(Progress::Waiting) {
                return Ok(None);
            }
            std::thread::sleep(WAIT_TICK);
        }
    }

    /// The lock of a folder that must be there; `None` if another has it for longer than `wait`.
    pub(super) fn existing(folder: &Folder, wait: Duration) -> io::Result<Option<Lock>> {
        let until = Instant::now() + wait;
        let file = open(folder, true)?;
        loop {
            match file.try_lock() {
                Ok(()) if is_at(&file, &folder.0.join(LOCK)) => return Ok(Some(Lock(file))),
                Ok(()) => return Err(io::ErrorKind::NotFound.into()),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(SHORT_TICK);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

fn open(folder: &Folder, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(folder.0.join(LOCK))
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}
