//! [`File`]: an open file.

use std::fs::{Metadata, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::OpenOptions;
use crate::ring::{self, Sync};
use crate::worker::Worker;
use crate::{blocking, here};

/// For the kernel: at the file's own position, and move that.
const AT_POSITION: u64 = u64::MAX;

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
    /// Whether reads and writes are worth a try that does not wait: not every file system has such.
    tries: Tries,
}

#[derive(Debug)]
struct Tries {
    read: AtomicBool,
    write: AtomicBool,
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
        let tries = Tries {
            read: AtomicBool::new(true),
            write: AtomicBool::new(true),
        };
        Self { inner, tries }
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
        let direct = |buffer: &mut [u8]| match offset {
            None => (&self.inner).read(buffer),
            Some(offset) => self.inner.read_at(buffer, offset),
        };
        if !is_user_thread() {
            return direct(buffer);
        }
        let tried = attempt(&self.tries.read, || {
            let mut buffers = [IoSliceMut::new(buffer)];
            let offset = offset.unwrap_or(AT_POSITION);
            preadv2(&self.inner, &mut buffers, offset, ReadWriteFlags::NOWAIT)
        });
        if let Some(result) = tried {
            return result;
        }
        match ring::read(self.as_fd(), buffer, offset) {
            Some(result) => result,
            None => blocking(|| direct(buffer)),
        }
    }

    fn write_at_or_on(&self, bytes: &[u8], offset: Option<u64>) -> io::Result<usize> {
        let direct = || match offset {
            None => (&self.inner).write(bytes),
            Some(offset) => self.inner.write_at(bytes, offset),
        };
        if !is_user_thread() {
            return direct();
        }
        let tried = attempt(&self.tries.write, || {
            let offset = offset.unwrap_or(AT_POSITION);
            let buffers = [IoSlice::new(bytes)];
            pwritev2(&self.inner, &buffers, offset, ReadWriteFlags::NOWAIT)
        });
        if let Some(result) = tried {
            return result;
        }
        match ring::write(self.as_fd(), bytes, offset) {
            Some(result) => result,
            None => blocking(direct),
        }
    }
}

fn is_user_thread() -> bool {
    here::with_worker(|worker| worker.is_some())
}

/// Makes a call that does not wait: its result, or `None` if it would have to, or nothing knows how to try.
fn attempt(
    worthwhile: &AtomicBool,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Option<io::Result<usize>> {
    if !worthwhile.load(Ordering::Relaxed) {
        return None;
    }
    match call() {
        Ok(length) => {
            here::with_worker(|worker| worker.map(Worker::count_call));
            Some(Ok(length))
        }
        Err(Errno::AGAIN | Errno::INTR) => None,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            worthwhile.store(false, Ordering::Relaxed);
            None
        }
        Err(errno) => Some(Err(errno.into())),
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
        self.write_at_or_on(bytes, None)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at_or_on(bytes, None)
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
        self.write_at_or_on(bytes, Some(offset))
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
