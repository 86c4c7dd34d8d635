//! Where the objects of a folder are kept: [`Shelf`], and [`Folder`], a directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest name of an object, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
const PARTIAL: &str = ".partial";

/// Why a shelf did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShelfError {
    /// A file system said no.
    #[error("{doing} {name}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The object.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A name that no object may have.
    #[error("{0:?} is no name of an object")]
    Name(String),
    /// The shelf is elsewhere, and cannot be used.
    #[error("{0}")]
    Elsewhere(String),
}

/// Keeps objects: bytes under names. An object appears whole or not at all, and is not changed later.
pub trait Shelf {
    /// Keeps an object, safe from a crash when this returns.
    ///
    /// # Errors
    /// It is not kept.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ShelfError>;

    /// An object; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ShelfError>;

    /// The names of all objects, in their order.
    ///
    /// # Errors
    /// They cannot be listed.
    fn list(&self) -> Result<Vec<String>, ShelfError>;

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// It is still there.
    fn remove(&self, name: &str) -> Result<(), ShelfError>;
}

/// Whether an object may be called so: letters, digits and `-`, so it is a file's name on any system and never a path.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|letter| plain(letter) || letter == b'-')
}

/// A directory of this machine, readable by its owner alone. It is made when something is put into it.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The one at this path.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> Result<PathBuf, ShelfError> {
        match is_name(name) {
            true => Ok(self.0.join(name)),
            false => Err(ShelfError::Name(name.to_owned())),
        }
    }

    fn write(&self, name: &str, path: &Path, bytes: &[u8]) -> io::Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.0)?;
        let partial = self.0.join(format!("{name}{PARTIAL}"));
        let written = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
        let placed = written.and_then(|()| {
            fs::rename(&partial, path)?;
            File::open(&self.0)?.sync_all()
        });
        if placed.is_err() {
            let _ = fs::remove_file(&partial);
        }
        placed
    }
}

impl Shelf for Folder {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ShelfError> {
        let path = self.file(name)?;
        self.write(name, &path, bytes)
            .map_err(|source| failed("could not write", name, source))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ShelfError> {
        match fs::read(self.file(name)?) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("could not read", name, error)),
        }
    }

    fn list(&self) -> Result<Vec<String>, ShelfError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                names.extend(entry?.file_name().into_string());
            }
            names.retain(|name| is_name(name));
            names.sort_unstable();
            Ok(names)
        };
        match list() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|error| failed("could not list", "the folder", error)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), ShelfError> {
        match fs::remove_file(self.file(name)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("could not remove", name, error))
            }
            _ => Ok(()),
        }
    }
}

fn failed(doing: &'static str, name: &str, source: io::Error) -> ShelfError {
    let name = name.to_owned();
    ShelfError::File {
        doing,
        name,
        source,
    }
}
