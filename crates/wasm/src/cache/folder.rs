//! The folder of one program, and the locks that those who write into it take.

use std::ffi::{OsStr, OsString};
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
/// How the names of locks for one engine end.
const OF_ENGINE: &str = "lock";
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

/// Held by who writes into a program's folder: what is for an engine one at a time, what is for different engines together.
/// Let go when dropped, and by the kernel if its process dies.
#[derive(Debug)]
pub(super) struct Lock {
    folder: Folder,
    /// Shared by all but who removes.
    all: File,
    #[expect(dead_code, reason = "held, not used")]
    of_engine: Option<File>,
}

/// What a lock is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writes<'a> {
    /// What is for one engine: into this folder of artifacts.
    Made(&'a Path),
    /// To remove what is there.
    Removes,
}

enum Attempt {
    Taken(Lock),
    Busy,
    /// The folder was removed since it was opened, and perhaps made anew.
    Gone,
}

impl Lock {
    /// Makes the folder if there is none, and waits until nobody else writes into it for the same engine. `None`: cancelled.
    pub(super) fn take(
        folder: &Folder,
        made: &Path,
        on_progress: OnProgress<'_>,
    ) -> io::Result<Option<Lock>> {
        loop {
            files::make_folder(&folder.0)?;
            match Self::attempt(folder, Writes::Made(made)) {
                Ok(Attempt::Taken(lock)) => return Ok(Some(lock)),
                Ok(Attempt::Busy) => {}
                Ok(Attempt::Gone) => continue,
                // Removed since it was made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            if let ControlFlow::Break(()) = on_progress(Progress::Waiting) {
                return Ok(None);
            }
            std::thread::sleep(WAIT_TICK);
        }
    }

    /// The lock of a folder that must be there; `None` if another has it for longer than `wait`.
    pub(super) fn existing(
        folder: &Folder,
        writes: Writes<'_>,
        wait: Duration,
    ) -> io::Result<Option<Lock>> {
        let until = Instant::now() + wait;
        loop {
            match Self::attempt(folder, writes)? {
                Attempt::Taken(lock) => return Ok(Some(lock)),
                Attempt::Gone => return Err(io::ErrorKind::NotFound.into()),
                Attempt::Busy if Instant::now() < until => std::thread::sleep(SHORT_TICK),
                Attempt::Busy => return Ok(None),
            }
        }
    }

    fn attempt(folder: &Folder, writes: Writes<'_>) -> io::Result<Attempt> {
        let path = folder.0.join(LOCK);
        let all = open(&path)?;
        let locked = match writes {
            Writes::Made(_) => all.try_lock_shared(),
            Writes::Removes => all.try_lock(),
        };
        if !is_taken(locked)? {
            return Ok(Attempt::Busy);
        }
        if !is_at(&all, &path) {
            return Ok(Attempt::Gone);
        }
        let of_engine = match writes {
            Writes::Made(made) => Some(open(&lock_of(made))?),
            Writes::Removes => None,
        };
        if let Some(file) = &of_engine
            && !is_taken(file.try_lock())?
        {
            return Ok(Attempt::Busy);
        }
        Ok(Attempt::Taken(Lock {
            folder: folder.clone(),
            all,
            of_engine,
        }))
    }

    /// Removes the folder if it holds nothing but locks, and nobody else has one.
    pub(super) fn remove_if_empty(self) {
        let is_lock = |name: &OsStr| {
            name == LOCK || Path::new(name).extension() == Some(OsStr::new(OF_ENGINE))
        };
        let entries = std::fs::read_dir(&self.folder.0).into_iter();
        let names: Vec<OsString> = entries
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        if self.all.try_lock().is_ok() && names.iter().all(|name| is_lock(name)) {
            // Whoever waits for it meanwhile finds it gone and makes another.
            for name in names {
                let _ = std::fs::remove_file(self.folder.0.join(name));
            }
            let _ = std::fs::remove_dir(&self.folder.0);
        }
    }
}

/// The lock of who writes into a folder of artifacts, beside that.
pub(super) fn lock_of(made: &Path) -> PathBuf {
    made.with_extension(OF_ENGINE)
}

fn is_taken(locked: Result<(), TryLockError>) -> io::Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}
