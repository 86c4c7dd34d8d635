//! Files in the manner of `std::fs`, that stop only the thread that waits for them.
//!
//! A read or write is tried first: what is in the page cache is had at once (`preadv2` with `RWF_NOWAIT`). What is not
//! goes through io_uring where the kernel has it, and through [`blocking`] elsewhere. Calls on paths
//! go through `blocking`, except for opening. Threads of the kernel make all calls themselves.
//!
//! Reads and writes that io_uring carries out can be cancelled; a byte is then either transferred and reported or not
//! transferred. What may never come can be cancelled everywhere: the other end of a FIFO, and what is to be read from or
//! written to FIFOs, terminals and sockets. What else goes through `blocking`, and what threads of the kernel call
//! themselves, cannot be, and the end of the runtime waits for it; so does who writes more than there is room for to the master of a
//! terminal.

mod fifo;
mod file;
mod open;
mod transfer;

use std::fs::{DirEntry, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::blocking;

pub use file::File;
pub use open::OpenOptions;

/// Entries of a directory that are fetched at once.
const ENTRIES_AT_ONCE: usize = 128;

/// All bytes of a file.
///
/// # Errors
/// As the kernel says.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(file.rest()?);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of a file as text.
///
/// # Errors
/// As the kernel says, or it is not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    let bytes = read(path)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Makes a file have these bytes and no others.
///
/// # Errors
/// As the kernel says.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    File::create(path)?.write_all(bytes.as_ref())
}

/// What is known of a file, or of what a symbolic link points to.
///
/// # Errors
/// As the kernel says.
pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    blocking(|| std::fs::metadata(path))
}

/// What is known of a file or of a symbolic link itself.
///
/// # Errors
/// As the kernel says.
pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    blocking(|| std::fs::symlink_metadata(path))
}

/// Changes who may do what with a file.
///
/// # Errors
/// As the kernel says.
pub fn set_permissions(path: impl AsRef<Path>, permissions: Permissions) -> io::Result<()> {
    let path = path.as_ref();
    blocking(|| std::fs::set_permissions(path, permissions))
}

/// The absolute path without symbolic links.
///
/// # Errors
/// As the kernel says.
pub fn canonicalize(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    let path = path.as_ref();
    blocking(|| std::fs::canonicalize(path))
}

/// Makes a directory.
///
/// # Errors
/// As the kernel says.
pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    blocking(|| std::fs::create_dir(path))
}

/// Makes a directory and those above it that are missing.
///
/// # Errors
/// As the kernel says.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    blocking(|| std::fs::create_dir_all(path))
}

/// Removes an empty directory.
///
/// # Errors
/// As the kernel says.
pub fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    blocking(|| std::fs::remove_dir(path))
}

/// Removes a directory and all that is in it.
///
/// # Errors
/// As the kernel says.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    blocking(|| std::fs::remove_dir_all(path))
}

/// Removes a file.
///
/// # Errors
/// As the kernel says.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    blocking(|| std::fs::remove_file(path))
}

/// Gives a file another name, in place of what had it.
///
/// # Errors
/// As the kernel says.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    blocking(|| std::fs::rename(from, to))
}

/// Copies a file with its permissions; the bytes copied.
///
/// # Errors
/// As the kernel says.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    let (from, to) = (from.as_ref(), to.as_ref());
    blocking(|| std::fs::copy(from, to))
}

/// What is in a directory, in no order.
///
/// # Errors
/// As the kernel says.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    let path = path.as_ref();
    let entries = blocking(|| std::fs::read_dir(path))?;
    Ok(ReadDir {
        entries,
        fetched: Vec::new(),
    })
}

/// The entries of a directory.
#[derive(Debug)]
pub struct ReadDir {
    entries: std::fs::ReadDir,
    /// The next last.
    fetched: Vec<io::Result<DirEntry>>,
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty() {
            let entries = &mut self.entries;
            self.fetched = blocking(|| entries.take(ENTRIES_AT_ONCE).collect());
            self.fetched.reverse();
        }
        self.fetched.pop()
    }
}
