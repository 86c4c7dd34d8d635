//! Directories of one user's own: where they are, and that nobody else can write to them.
//!
//! | what | variable | otherwise |
//! |---|---|---|
//! | runs of this machine | `STERNA_RUN_DIR` | `$XDG_RUNTIME_DIR/sterna`, or `sterna-UID` in `$TMPDIR` or `/tmp` |
//! | the key of images | `STERNA_DATA_DIR` | `$XDG_DATA_HOME/sterna`, or `~/.local/share/sterna` |
//! | programs | `STERNA_CACHE_DIR` | `$XDG_CACHE_HOME/sterna`, or `~/.cache/sterna` |

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

/// The directory in which local runs are found.
pub(crate) fn run_directory() -> PathBuf {
    let named = absolute("STERNA_RUN_DIR");
    named
        .or_else(|| Some(absolute("XDG_RUNTIME_DIR")?.join("sterna")))
        .unwrap_or_else(|| env::temp_dir().join(format!("sterna-{}", geteuid().as_raw())))
}

/// The directory that holds the key.
pub(crate) fn data_directory() -> Result<PathBuf> {
    of_home("STERNA_DATA_DIR", "XDG_DATA_HOME", ".local/share")
}

/// The directory of programs.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    of_home("STERNA_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
}

fn of_home(own: &str, xdg: &str, below_home: &str) -> Result<PathBuf> {
    let beside = || Some(absolute(xdg)?.join("sterna"));
    let below = || Some(absolute("HOME")?.join(below_home).join("sterna"));
    absolute(own)
        .or_else(beside)
        .or_else(below)
        .with_context(|| format!("no home directory is known: set HOME or {own}"))
}

/// The path in a variable; a relative one would mean another directory in each working directory.
fn absolute(variable: &str) -> Option<PathBuf> {
    let path = env::var_os(variable).filter(|path| !path.is_empty())?;
    std::path::absolute(path).ok()
}

/// Makes a private directory if it is not there, and checks that it is one: ours, and nobody else's to enter.
pub(crate) fn ensure_directory(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("could not make the directory {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let what = format!("could not make the private directory {}", path.display());
            Err(error).context(what)
        }
        _ => check_directory(path),
    }
}

/// Fails unless the path is a directory of ours, closed to others. A link is none: someone else could have
/// made it.
fn check_directory(path: &Path) -> Result<()> {
    let shown = path.display();
    let found = fs::symlink_metadata(path).with_context(|| format!("could not look at {shown}"))?;
    ensure!(
        found.is_dir(),
        "{shown} is not a directory: remove it, or name another place"
    );
    check_owner(path, &found)
}

/// Fails unless a file or directory is ours and closed to others.
pub(crate) fn check_owner(path: &Path, found: &fs::Metadata) -> Result<()> {
    let (shown, us) = (path.display(), geteuid().as_raw());
    if found.uid() != us {
        bail!(
            "{shown} belongs to user {}, we are user {us}: it is not used",
            found.uid()
        );
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{shown} is open to other users (mode {mode:o}): close it with `chmod go= {shown}`");
    }
    Ok(())
}
