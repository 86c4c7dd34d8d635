//! [`File`]: an open file.

use std::fs::{Metadata, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::OpenOptions;
use super::transfer::{Bytes, Habits, Transfer};
use crate::blocking;
use crate::ring::{self, Sync};

/// An open file. Threads may share it: references read, write and seek, too. `FileExt` of the standard library reads
/// and writes at given places and leaves the position alone.
///
/// ```
/// use std::io::{Seek, Write};
/// use sterna_threads::fs::File;
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("birds");
/// let runtime = sterna_threads::Runtime::user()?;
/// let text = runtime.run(|| {
///     let mut file = File::create_new(&path)?;
///     file.write_all(b"tern")?;
///     file.rewind()?;
///     std::io::read_to_string(file)
/// })?;
/// assert_eq!(text, "tern");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct File {
    inner: std::fs::File,
    habits: Habits,
}

impl File {
    /// Opens a file to be read.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens a file to be written, empty, made if there is none.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let options = OpenOptions::new().write(true).create(true);
        options.truncate(true).open(path)
    }

    /// Opens a file to be read and written, which must not exist yet.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn create_new(path: impl AsRef<Path>) -> io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true);
        options.create_new(true).open(path)
    }

    /// More ways to open a file.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Takes over a file of the standard library.
    pub fn from_std(inner: std::fs::File) -> Self {
        Self {
            inner,
            habits: Habits::default(),
        }
    }

    /// The file of the standard library.
    pub fn into_std(self) -> std::fs::File {
        self.inner
    }

    /// What is known of it. That is in memory while it is open, unless the file system lies on another machine.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.inner.metadata()
    }

    /// Makes it so long: cuts it, or fills it up with zeros.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        blocking(|| self.inner.set_len(bytes))
    }

    /// Changes who may do what with it.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        blocking(|| self.inner.set_permissions(permissions))
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// As the kernel says. What was not written then may be lost: see `fsync(2)`.
    pub fn sync_all(&self) -> io::Result<()> {
        match ring::sync(self.as_fd(), Sync::All) {
            Some(result) => result,
            None => blocking(|| self.inner.sync_all()),
        }
    }

    /// The same without what is not needed to read it, such as times.
    ///
    /// # Errors
    /// As [`sync_all`](Self::sync_all).
    pub fn sync_data(&self) -> io::Result<()> {
        match ring::sync(self.as_fd(), Sync::Data) {
            Some(result) => result,
            None => blocking(|| self.inner.sync_data()),
        }
    }

    /// The same open file, with the same position.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.inner.try_clone().map(Self::from_std)
    }

    /// Bytes from the position to the end, as far as they are known; room for one more shows the end to who reads.
    pub(super) fn rest(&self) -> io::Result<usize> {
        let length = self.metadata()?.len();
        Ok(usize::try_from(length)
            .unwrap_or(0)
            .min(isize::MAX as usize / 2)
            + 1)
    }

    fn read_from(&self, buffer: &mut [u8], offset: Option<u64>) -> io::Result<usize> {
        self.transfer(Bytes::Into(buffer), offset)
    }

    fn write_from(&self, bytes: &[u8], offset: Option<u64>) -> io::Result<usize> {
        self.transfer(Bytes::From(bytes), offset)
    }

    fn transfer(&self, bytes: Bytes<'_>, offset: Option<u64>) -> io::Result<usize> {
        let transfer = Transfer {
            file: &self.inner,
            habits: &self.habits,
            bytes,
            offset,
        };
        transfer.make()
    }
}

impl Read for &File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_from(buffer, None)
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_from(buffer, None)
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_from(bytes, None)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_from(bytes, None)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&self.inner).seek(to)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&self.inner).seek(to)
    }
}

impl FileExt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_from(buffer, Some(offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write_from(bytes, Some(offset))
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl From<std::fs::File> for File {
    fn from(inner: std::fs::File) -> Self {
        Self::from_std(inner)
    }
}

impl From<File> for OwnedFd {
    fn from(file: File) -> Self {
        file.inner.into()
    }
}
