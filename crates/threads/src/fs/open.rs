//! [`OpenOptions`]: how a file is to be opened.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{File, fifo};
use crate::{blocking, ring};

/// Permissions of a new file, less the process's mask.
const MODE_DEFAULT: u32 = 0o666;

/// How a file is to be opened, as in the standard library.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    mode: u32,
    flags: i32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Nothing is asked for yet.
    pub const fn new() -> Self {
        Self {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            mode: MODE_DEFAULT,
            flags: 0,
        }
    }

    /// To be read.
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// To be written.
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// To be written at its end, wherever that is at the time.
    pub fn append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// To be emptied; asks for writing.
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// To be made if there is none; asks for writing.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// To be made; it is an error if there is one. Asks for writing.
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Permissions if it is made, less the process's mask; otherwise 0o666.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Further flags of `open(2)`, such as `O_NOFOLLOW`.
    pub fn custom_flags(mut self, flags: i32) -> Self {
        self.flags = flags;
        self
    }

    /// Opens a file. A FIFO is waited for until it has another end, which can be cancelled everywhere.
    ///
    /// # Errors
    /// As the kernel says; or the options contradict each other.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let Some(flags) = self.to_flags() else {
            // The standard library says what is wrong.
            return self.to_std().open(path).map(File::from_std);
        };
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let waits = !flags.intersects(OFlags::NONBLOCK | OFlags::PATH);
        let opened = match ring::open(&name, flags, Mode::from_raw_mode(self.mode)) {
            Some(Ok(opened)) => opened,
            Some(Err(error)) if Errno::from_io_error(&error) != Some(Errno::NXIO) => {
                return Err(error);
            }
            // There is no ring, or perhaps nobody reads a FIFO yet.
            _ => {
                let is_fifo = || {
                    let about = std::fs::metadata(path);
                    about.is_ok_and(|about| about.file_type().is_fifo())
                };
                // A FIFO that is opened for both never waits, which does no harm.
                let opened = blocking(|| {
                    let is_short = !waits || !is_fifo();
                    is_short.then(|| self.to_std().open(path)).transpose()
                })?;
                return match opened {
                    Some(opened) => Ok(File::from_std(opened)),
                    None => fifo::open(&name, flags, Mode::from_raw_mode(self.mode)),
                };
            }
        };
        if waits && flags & OFlags::RWMODE == OFlags::RDONLY && fifo::is_one(&opened)? {
            // The ring did not wait for who writes.
            fifo::wait_for_writer(&opened)?;
        }
        Ok(File::from_std(opened.into()))
    }

    fn to_std(&self) -> std::fs::OpenOptions {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(self.read)
            .write(self.write)
            .append(self.append)
            .truncate(self.truncate)
            .create(self.create)
            .create_new(self.create_new)
            .mode(self.mode)
            .custom_flags(self.flags);
        options
    }

    /// `None` if the options contradict each other.
    fn to_flags(&self) -> Option<OFlags> {
        let access = match (self.read, self.write, self.append) {
            (true, false, false) => OFlags::RDONLY,
            (false, true, false) => OFlags::WRONLY,
            (true, true, false) => OFlags::RDWR,
            (false, _, true) => OFlags::WRONLY | OFlags::APPEND,
            (true, _, true) => OFlags::RDWR | OFlags::APPEND,
            (false, false, false) => return None,
        };
        let makes = self.truncate || self.create || self.create_new;
        let writes = self.write || self.append;
        if (makes && !writes) || (self.append && self.truncate && !self.create_new) {
            return None;
        }
        let making = match (self.create, self.truncate, self.create_new) {
            (_, _, true) => OFlags::CREATE | OFlags::EXCL,
            (true, true, false) => OFlags::CREATE | OFlags::TRUNC,
            (true, false, false) => OFlags::CREATE,
            (false, true, false) => OFlags::TRUNC,
            (false, false, false) => OFlags::empty(),
        };
        let access_bits = OFlags::RWMODE.bits();
        let further = OFlags::from_bits_retain(self.flags as u32 & !access_bits);
        Some(access | making | further | OFlags::CLOEXEC)
    }
}
