//! [`Transfer`]: one read or write of a file, made in the first of the ways in which it can be made: it holds up nobody
//! else and, if what it waits for may never come, can be cancelled.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, fcntl_getfl, makedev, open};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};
use rustix::pipe::PIPE_BUF;

use crate::io::{Direction, Source};
use crate::ring;
use crate::worker::Worker;
use crate::{blocking, here};

/// For the kernel: at the file's own position, and move that.
const AT_POSITION: u64 = u64::MAX;

pub(super) struct Transfer<'a> {
    pub(super) file: &'a File,
    pub(super) habits: &'a Habits,
    pub(super) bytes: Bytes<'a>,
    /// At the file's own position, if nothing is said.
    pub(super) offset: Option<u64>,
}

pub(super) enum Bytes<'a> {
    Into(&'a mut [u8]),
    From(&'a [u8]),
}

/// What is learned of a file while it is used.
#[derive(Debug, Default)]
pub(super) struct Habits {
    /// Tries that do not wait are not known to it: not every file system has such.
    reads_untried: AtomicBool,
    writes_untried: AtomicBool,
    /// It may have nothing for as long as it likes, unlike a disk: a FIFO, a terminal, a socket, an inotify(7).
    dallies: OnceLock<bool>,
    /// The same FIFO or terminal, opened once more so that calls do not wait: that is no property of a descriptor, and others
    /// may have this one, too.
    unwaiting: OnceLock<Option<File>>,
}

impl<'a> Transfer<'a> {
    pub(super) fn make(mut self) -> io::Result<usize> {
        let is_user_thread = here::with_worker(|worker| worker.is_some());
        // A thread of the kernel waits for a disk by itself.
        while is_user_thread || self.dallies() {
            if let Some(result) = self.attempt() {
                return result;
            }
            // The kernel's threads for io_uring would wait for such a file in the middle of a call.
            let may_ring = !self.dallies() || !self.untried().load(Ordering::Relaxed);
            if is_user_thread
                && may_ring
                && let Some(result) = self.by_ring()
            {
                return result;
            }
            if !self.dallies() || !self.wait()? {
                break;
            }
            if self.untried().load(Ordering::Relaxed) && self.unwaiting().is_none() {
                self.take_less();
                break;
            }
        }
        blocking(|| self.direct())
    }

    /// Makes the call if it need not wait. `None` if it would have to, or nothing knows how to try.
    fn attempt(&mut self) -> Option<io::Result<usize>> {
        if self.untried().load(Ordering::Relaxed) {
            return self.attempt_unwaiting();
        }
        let (offset, flags) = (self.offset.unwrap_or(AT_POSITION), ReadWriteFlags::NOWAIT);
        let result = match &mut self.bytes {
            Bytes::Into(buffer) => {
                preadv2(self.file, &mut [IoSliceMut::new(buffer)], offset, flags)
            }
            Bytes::From(bytes) => pwritev2(self.file, &[IoSlice::new(bytes)], offset, flags),
        };
        match result {
            Ok(length) => {
                here::with_worker(|worker| worker.map(Worker::count_call));
                Some(Ok(length))
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.untried().store(true, Ordering::Relaxed);
                self.attempt_unwaiting()
            }
            Err(errno) => Some(Err(errno.into())),
        }
    }

    /// The same for a FIFO or a terminal that knows no such tries.
    fn attempt_unwaiting(&mut self) -> Option<io::Result<usize>> {
        if !self.dallies() || self.offset.is_some() {
            return None;
        }
        let mut file = self.unwaiting()?;
        let result = match &mut self.bytes {
            Bytes::Into(buffer) => file.read(buffer),
            Bytes::From(bytes) => file.write(bytes),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            result => {
                here::with_worker(|worker| worker.map(Worker::count_call));
                Some(result)
            }
        }
    }

    fn unwaiting(&self) -> Option<&'a File> {
        let reopened = self
            .habits
            .unwaiting
            .get_or_init(|| reopen(self.file).ok().flatten());
        reopened.as_ref()
    }

    /// A FIFO has room for so much if it has any: pipe(7). To other things each write may mean something by itself.
    fn take_less(&mut self) {
        let is_fifo = || {
            let about = self.file.metadata();
            about.is_ok_and(|about| about.file_type().is_fifo())
        };
        if is_fifo()
            && let Bytes::From(bytes) = &mut self.bytes
        {
            *bytes = &bytes[..bytes.len().min(PIPE_BUF)];
        }
    }

    fn by_ring(&mut self) -> Option<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Into(buffer) => ring::read(self.file.as_fd(), buffer, self.offset),
            Bytes::From(bytes) => ring::write(self.file.as_fd(), bytes, self.offset),
        }
    }

    /// However long the kernel makes its caller wait.
    fn direct(&mut self) -> io::Result<usize> {
        let mut file = self.file;
        match (&mut self.bytes, self.offset) {
            (Bytes::Into(buffer), None) => file.read(buffer),
            (Bytes::Into(buffer), Some(offset)) => file.read_at(buffer, offset),
            (Bytes::From(bytes), None) => file.write(bytes),
            (Bytes::From(bytes), Some(offset)) => file.write_at(bytes, offset),
        }
    }

    /// Waits until it is worth another try, as a cancelled thread does not. Whether that can be waited for at all.
    fn wait(&self) -> io::Result<bool> {
        let direction = match self.bytes {
            Bytes::Into(_) => Direction::Read,
            Bytes::From(_) => Direction::Write,
        };
        // Of a duplicate: a poller knows each descriptor only once, and several threads may wait.
        let source = Source::to_wait_for(self.file.as_fd().try_clone_to_owned()?);
        match source.wait(direction, None) {
            Ok(()) => Ok(true),
            // It is always ready: EPERM, epoll_ctl(2).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn untried(&self) -> &AtomicBool {
        match self.bytes {
            Bytes::Into(_) => &self.habits.reads_untried,
            Bytes::From(_) => &self.habits.writes_untried,
        }
    }

    fn dallies(&self) -> bool {
        *self.habits.dallies.get_or_init(|| {
            self.file.metadata().is_ok_and(|about| {
                let kind = about.file_type();
                !(kind.is_file() || kind.is_dir() || kind.is_block_device())
            })
        })
    }
}

/// Opens a FIFO or a terminal once more. `None` of what it cannot be done with: opening a master (pts(4)) makes a new terminal.
fn reopen(file: &File) -> io::Result<Option<File>> {
    let about = file.metadata()?;
    let is_master = about.rdev() == makedev(5, 2);
    let is_terminal = about.file_type().is_char_device() && file.is_terminal() && !is_master;
    if !is_terminal && !about.file_type().is_fifo() {
        return Ok(None);
    }
    let mode = fcntl_getfl(file)? & OFlags::RWMODE;
    let flags = mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(Some(open(path, flags, Mode::empty())?.into()))
}
