//! How the cache can fail: one enum per operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sterna_process::Plain;

use crate::builder::BuildError;
use crate::engine::EngineError;
use crate::installed::{InstallError, Installed};

/// Why the cache could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCacheError {
    /// It was written by a later version.
    #[error("the program cache {} was made by a newer Sterna (version {version}, this one knows {known}): use that one, or another folder", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// The folder holds something else.
    #[error("{} is not a program cache: name an empty folder, or one that does not exist yet", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Others could write native code into it.
    #[error("the program cache {} cannot be trusted: {why} (make it yours with `chown` and `chmod 700`, or name another folder)", path.display())]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A system call failed.
    #[error("opening the program cache {} failed ({step})", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a program is not in the cache and ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It was built and can run, but not be kept: it will be built again next time.
    #[error("the program is ready, but could not be kept for the next time")]
    NotKept {
        /// The program.
        program: Arc<Installed>,
        /// Why not.
        source: KeepError,
    },
    /// What was built could not be loaded.
    #[error("the program was built but could not be loaded")]
    Load(#[source] InstallError),
    /// The file could not be read.
    #[error("reading the program failed")]
    Read(#[source] io::Error),
}

/// Why a program is not ready for other machines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddForError {
    /// This program cannot compile for them.
    #[error(
        "cannot compile for {target} here: this Sterna was built without that compiler (feature `cross`)"
    )]
    Target {
        /// Their processor.
        target: &'static str,
        /// What the compiler said.
        source: EngineError,
    },
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It was built, but could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

/// Why something could not be written into the cache.
#[derive(Debug, thiserror::Error)]
#[error("writing {} failed{}", path.display(), hint(.source))]
pub struct KeepError {
    /// What was written.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (`sterna programs prune` makes room)"
        }
        _ => "",
    }
}

/// Why the bytes of a program could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadModuleError {
    /// The cache does not hold it.
    #[error("the program is not in the cache; add it with `sterna programs add`")]
    Missing,
    /// The file in the cache is not what it was.
    #[error("the module in the cache is damaged; add the program again")]
    Damaged,
    /// A system call failed.
    #[error("reading the module from the cache failed")]
    Io(#[source] io::Error),
}

/// Why no program, or no single one, has a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// None has it.
    #[error("no program in the cache is called {:?}; `sterna programs ls` lists them", Plain(.name).to_string())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Several have it.
    #[error("{:?} is the beginning of {count} programs' ids: give more digits", Plain(.name).to_string())]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many.
        count: usize,
    },
    /// The cache could not be listed.
    #[error("listing the program cache failed")]
    Io(#[source] io::Error),
}

/// Why a program could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("removing {} failed", path.display())]
pub struct RemoveError {
    /// What was removed.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}
