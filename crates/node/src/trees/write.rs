//! Makes entries beneath a directory: [`Writer`], and for contents [`Sink`].

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, mkdirat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::scan::paths;
use super::{Shown, TreeError, failed, open, open_parent};
use crate::message::{TreeEntry, TreeNode};

/// Zeros in a row that become a hole.
const HOLE_BYTES: usize = 64 << 10;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// Writes beneath a directory, and nowhere else.
#[derive(Debug)]
pub(crate) struct Writer(OwnedFd);

impl Writer {
    pub(crate) const fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes a directory, for now with permissions for this user alone.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<(), TreeError> {
        self.at(path, "make the directory", |parent, name| {
            mkdirat(parent, name, Mode::RWXU)
        })
    }

    pub(crate) fn link(&self, path: &[u8], to: &[u8]) -> Result<(), TreeError> {
        self.at(path, "make the link", |parent, name| {
            symlinkat(to, parent, name)
        })
    }

    /// Begins a new file.
    pub(crate) fn file(&self, path: &[u8]) -> Result<Sink, TreeError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = open(&self.0, path, flags, mode).map_err(failed("make the file", path))?;
        Ok(Sink {
            file: file.into(),
            path: path.to_vec(),
            offset: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Gives it its permissions and its time.
    pub(crate) fn finish(&self, entry: &TreeEntry) -> Result<(), TreeError> {
        let path = &*entry.path;
        let times = times(entry.modified_ns);
        if let TreeNode::Link { .. } = entry.what {
            return self.at(path, "set the time of", |parent, name| {
                utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            });
        }
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        open(&self.0, path, OFlags::RDONLY, Mode::empty())
            .and_then(|opened| {
                fchmod(&opened, mode)?;
                futimens(&opened, &times)
            })
            .map_err(failed("set permissions and time of", path))
    }

    /// Removes it, with all that is in it. What is not there is removed.
    pub(crate) fn remove(&self, path: &[u8]) -> Result<(), TreeError> {
        let one = |path: &[u8]| {
            let (parent, name) = open_parent(&self.0, path)?;
            match unlinkat(&parent, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => unlinkat(&parent, name, AtFlags::REMOVEDIR),
                other => other,
            }
        };
        match one(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed("remove", path)(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory =
            open(&self.0, path, flags, Mode::empty()).map_err(failed("remove", path))?;
        for inner in paths(directory.as_fd())?.iter().rev() {
            let inner = [path, b"/", inner].concat();
            one(&inner).map_err(failed("remove", &inner))?;
        }
        one(path).map_err(failed("remove", path))
    }

    fn at(
        &self,
        path: &[u8],
        doing: &'static str,
        act: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), TreeError> {
        let (parent, name) = open_parent(&self.0, path).map_err(failed(doing, path))?;
        act(parent.as_fd(), name).map_err(failed(doing, path))
    }
}

fn times(modified_ns: i64) -> Timestamps {
    const SECOND: i64 = 1_000_000_000;
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified_ns.div_euclid(SECOND),
            tv_nsec: modified_ns.rem_euclid(SECOND),
        },
    }
}

/// A file that is being written, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Sink {
    file: File,
    path: Vec<u8>,
    offset: u64,
    hasher: blake3::Hasher,
}

impl Sink {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        for piece in bytes.chunks(HOLE_BYTES) {
            if piece != &ZEROS[..piece.len()] {
                let written = self.file.write_all_at(piece, self.offset);
                written.map_err(self.failed())?;
            }
            self.offset += piece.len() as u64;
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Its length and the hash of what was written.
    pub(crate) fn end(self) -> Result<(u64, [u8; 32]), TreeError> {
        // A hole at the end was not written.
        self.file.set_len(self.offset).map_err(self.failed())?;
        Ok((self.offset, self.hasher.finalize().into()))
    }

    /// The same, if it is what was listed.
    pub(crate) fn end_as(self, what: &TreeNode) -> Result<(), TreeError> {
        let path = Shown::from(&*self.path);
        let (bytes, hash) = self.end()?;
        match *what == (TreeNode::File { bytes, hash }) {
            true => Ok(()),
            false => Err(TreeError::OtherContents { path }),
        }
    }

    fn failed(&self) -> impl FnOnce(std::io::Error) -> TreeError {
        let path = self.path.clone();
        move |error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            failed("write", &path)(errno)
        }
    }
}
