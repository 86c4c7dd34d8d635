//! Host descriptors behind guest descriptors, and transfers on them that never block.
//!
//! The flags of an inherited descriptor belong to everyone who shares it, so they are left alone.
//! Instead a pipe or terminal is opened a second time through `/proc/self/fd`, which gives an open
//! file description of our own that may be non-blocking. Where that fails (no `/proc`, a pipe of
//! another user), `poll` goes before each transfer, and writes are so small that they fit: at most
//! `PIPE_BUF` bytes to a pipe. Sockets have `MSG_DONTWAIT`. Regular files and directories are
//! used directly; the kernel does not say for them when they would wait.

use crate::abi::{Errno, filetype};
use crate::step::{Halt, Interest, Outcome, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketType, recvmsg, sendmsg,
    sockopt,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use crate::memory::TRANSFER_MAX;

/// What a pipe with room for anything has room for: `PIPE_BUF` of `pipe(7)`.
const PIPE_WRITE_MAX: usize = 4096;
/// What is written at once to a terminal that says it has room, if it cannot be made non-blocking.
const TERMINAL_WRITE_MAX: usize = 256;
/// Descriptors that the kernel is asked about at once; it takes no more than a process may have open (poll(2)).
const POLLED_AT_ONCE: usize = 256;

fn wanted(interest: Interest) -> PollFlags {
    let mut wanted = PollFlags::empty();
    wanted.set(PollFlags::IN, interest.read);
    wanted.set(PollFlags::OUT, interest.write);
    wanted
}

/// What a host descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HostKind {
    Regular,
    Directory,
    Terminal,
    Character,
    Block,
    Pipe,
    SocketStream,
    SocketDatagram,
    Unknown,
}

impl HostKind {
    pub(crate) fn of(fd: BorrowedFd<'_>, stat: &Stat) -> HostKind {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => HostKind::Regular,
            FileType::Directory => HostKind::Directory,
            FileType::CharacterDevice if rustix::termios::isatty(fd) => HostKind::Terminal,
            FileType::CharacterDevice => HostKind::Character,
            FileType::BlockDevice => HostKind::Block,
            FileType::Fifo => HostKind::Pipe,
            FileType::Socket => match sockopt::socket_type(fd) {
                Ok(SocketType::DGRAM) => HostKind::SocketDatagram,
                _ => HostKind::SocketStream,
            },
            _ => HostKind::Unknown,
        }
    }

    /// The WASI `filetype`; it has none for pipes.
    pub(crate) fn file_type(self) -> u8 {
        match self {
            HostKind::Regular => filetype::REGULAR_FILE,
            HostKind::Directory => filetype::DIRECTORY,
            HostKind::Terminal | HostKind::Character => filetype::CHARACTER_DEVICE,
            HostKind::Block => filetype::BLOCK_DEVICE,
            HostKind::SocketStream => filetype::SOCKET_STREAM,
            HostKind::SocketDatagram => filetype::SOCKET_DGRAM,
            HostKind::Pipe | HostKind::Unknown => filetype::UNKNOWN,
        }
    }

    pub(crate) fn seeks(self) -> bool {
        matches!(
            self,
            HostKind::Regular | HostKind::Character | HostKind::Block | HostKind::Directory
        )
    }

    pub(crate) fn is_socket(self) -> bool {
        matches!(self, HostKind::SocketStream | HostKind::SocketDatagram)
    }

    /// Whether a transfer can block for an unbounded time.
    fn waits(self) -> bool {
        !matches!(
            self,
            HostKind::Regular | HostKind::Directory | HostKind::Block
        )
    }
}

/// An open host descriptor.
#[derive(Debug)]
pub(crate) struct HostFile {
    /// The descriptor as given: what readiness is asked of.
    fd: Arc<OwnedFd>,
    /// A non-blocking opening of the same pipe or terminal.
    reopened: Option<OwnedFd>,
    nonblocking: bool,
    kind: HostKind,
}

impl HostFile {
    /// A descriptor that may be shared with others.
    pub(crate) fn inherit(fd: OwnedFd) -> io::Result<HostFile> {
        let stat = fstat(&fd)?;
        let kind = HostKind::of(fd.as_fd(), &stat);
        let reopened = match kind {
            HostKind::Pipe | HostKind::Terminal => reopen(&fd, &stat),
            _ => None,
        };
        Ok(HostFile {
            nonblocking: reopened.is_some(),
            fd: Arc::new(fd),
            reopened,
            kind,
        })
    }

    /// Fails with `ENOTSOCK` unless it is a socket.
    pub(crate) fn into_socket(self) -> io::Result<HostFile> {
        match self.kind.is_socket() {
            true => Ok(self),
            false => Err(rustix::io::Errno::NOTSOCK.into()),
        }
    }

    /// A descriptor of our own, opened non-blocking.
    pub(crate) fn owned(fd: OwnedFd, kind: HostKind) -> HostFile {
        HostFile {
            fd: Arc::new(fd),
            reopened: None,
            nonblocking: true,
            kind,
        }
    }

    pub(crate) fn kind(&self) -> HostKind {
        self.kind
    }

    /// The descriptor that offsets, metadata and readiness belong to.
    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    fn io(&self) -> &OwnedFd {
        self.reopened.as_ref().unwrap_or(&self.fd)
    }

    /// Readiness now. What cannot be asked counts as ready: the transfer will tell.
    pub(crate) fn ready(&self, interest: Interest) -> PollFlags {
        let all = HostFile::all_ready(&[(self, interest)]);
        all.first().copied().unwrap_or(wanted(interest))
    }

    /// The same of many, in their order, with one call of the kernel for [`POLLED_AT_ONCE`].
    pub(crate) fn all_ready(all: &[(&HostFile, Interest)]) -> Vec<PollFlags> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut ready = Vec::with_capacity(all.len());
        for some in all.chunks(POLLED_AT_ONCE) {
            let polled = some.iter();
            let mut polled: Vec<_> = polled
                .map(|(file, interest)| PollFd::new(&file.fd, wanted(*interest)))
                .collect();
            match retry_on_intr(|| poll(&mut polled, Some(&now))) {
                Ok(_) => ready.extend(polled.iter().map(PollFd::revents)),
                Err(_) => ready.extend(some.iter().map(|(_, interest)| wanted(*interest))),
            }
        }
        ready
    }

    /// What one write may carry, in bytes.
    pub(crate) fn write_max(&self) -> usize {
        match self.kind {
            HostKind::Pipe if !self.nonblocking => PIPE_WRITE_MAX,
            HostKind::Terminal | HostKind::Character if !self.nonblocking => TERMINAL_WRITE_MAX,
            _ => TRANSFER_MAX,
        }
    }

    fn wait<T>(&self, interest: Interest) -> Outcome<T> {
        Err(Halt::Wait(Wait::on(&self.fd, interest)))
    }

    /// Whether `poll` has to go before a transfer.
    fn must_ask(&self) -> bool {
        !self.nonblocking && self.kind.waits() && !self.kind.is_socket()
    }

    pub(crate) fn read(&self, areas: &mut [IoSliceMut<'_>]) -> Outcome<usize> {
        if self.kind.is_socket() {
            return self
                .receive(areas, RecvFlags::empty())
                .map(|(bytes, _)| bytes);
        }
        if self.must_ask() && self.ready(Interest::READ).is_empty() {
            return self.wait(Interest::READ);
        }
        match retry_on_intr(|| rustix::io::readv(self.io(), areas)) {
            Err(rustix::io::Errno::AGAIN) => self.wait(Interest::READ),
            // A terminal whose other side is gone.
            Err(rustix::io::Errno::IO) if self.kind == HostKind::Terminal => Ok(0),
            other => Ok(other?),
        }
    }

    pub(crate) fn write(&self, areas: &[IoSlice<'_>]) -> Outcome<usize> {
        if self.kind.is_socket() {
            return self.send(areas);
        }
        if self.must_ask() && self.ready(Interest::WRITE).is_empty() {
            return self.wait(Interest::WRITE);
        }
        match retry_on_intr(|| rustix::io::writev(self.io(), areas)) {
            Err(rustix::io::Errno::AGAIN) => self.wait(Interest::WRITE),
            other => Ok(other?),
        }
    }

    /// Receives; the flag tells whether a datagram was cut short.
    pub(crate) fn receive(
        &self,
        areas: &mut [IoSliceMut<'_>],
        flags: RecvFlags,
    ) -> Outcome<(usize, bool)> {
        let mut control = RecvAncillaryBuffer::default();
        let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match retry_on_intr(|| recvmsg(&self.fd, areas, &mut control, flags)) {
            Err(rustix::io::Errno::AGAIN) => self.wait(Interest::READ),
            other => other
                .map(|got| (got.bytes, got.flags.bits() & MSG_TRUNC != 0))
                .map_err(Into::into),
        }
    }

    /// Sends, without a signal if the other side is gone.
    pub(crate) fn send(&self, areas: &[IoSlice<'_>]) -> Outcome<usize> {
        let mut control = SendAncillaryBuffer::default();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match retry_on_intr(|| sendmsg(&self.fd, areas, &mut control, flags)) {
            Err(rustix::io::Errno::AGAIN) => self.wait(Interest::WRITE),
            other => Ok(other?),
        }
    }

    /// Bytes that can be read without waiting, as far as the kernel tells.
    pub(crate) fn bytes_ready(&self) -> u64 {
        if self.kind == HostKind::Regular {
            let size = fstat(&self.fd).map_or(0, |stat| stat.st_size.max(0) as u64);
            return size.saturating_sub(rustix::fs::tell(&self.fd).unwrap_or(0));
        }
        rustix::io::ioctl_fionread(&self.fd).unwrap_or(0)
    }
}

/// `MSG_TRUNC` of `recvmsg(2)`, the same on every Linux.
const MSG_TRUNC: u32 = 0x20;

/// A non-blocking opening of the same pipe or terminal, with the same access.
fn reopen(fd: &OwnedFd, stat: &Stat) -> Option<OwnedFd> {
    // Opening the master of a pseudo-terminal makes a new pair.
    if (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    ) == (5, 2)
    {
        return None;
    }
    let access = rustix::fs::fcntl_getfl(fd).ok()? & OFlags::RWMODE;
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let same = fstat(&opened).ok()?;
    (same.st_ino == stat.st_ino && same.st_dev == stat.st_dev && same.st_rdev == stat.st_rdev)
        .then_some(opened)
}

/// What a standard stream reads from and writes to.
#[derive(Debug)]
pub(crate) enum Stream {
    Null,
    Input { bytes: Vec<u8>, position: usize },
    Output(Arc<Mutex<Vec<u8>>>),
    Host(HostFile),
}

impl Stream {
    pub(crate) fn host(&self) -> Option<&HostFile> {
        match self {
            Stream::Host(host) => Some(host),
            _ => None,
        }
    }

    /// What it looks like to the guest. In-memory streams look like pipes.
    pub(crate) fn kind(&self) -> HostKind {
        self.host().map_or(HostKind::Pipe, HostFile::kind)
    }

    pub(crate) fn read(&mut self, areas: &mut [IoSliceMut<'_>]) -> Outcome<usize> {
        match self {
            Stream::Null | Stream::Output(_) => Ok(0),
            Stream::Input { bytes, position } => {
                let before = *position;
                for area in areas {
                    let rest = &bytes[*position..];
                    let count = rest.len().min(area.len());
                    area[..count].copy_from_slice(&rest[..count]);
                    *position += count;
                }
                Ok(*position - before)
            }
            Stream::Host(host) => host.read(areas),
        }
    }

    pub(crate) fn write(&mut self, areas: &[IoSlice<'_>]) -> Outcome<usize> {
        let total = areas.iter().map(|area| area.len()).sum();
        match self {
            Stream::Null => Ok(total),
            Stream::Input { .. } => Err(Errno::BADF.into()),
            Stream::Output(output) => {
                let mut output = output
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                areas.iter().for_each(|area| output.extend_from_slice(area));
                Ok(total)
            }
            Stream::Host(host) => host.write(areas),
        }
    }

    pub(crate) fn write_max(&self) -> usize {
        self.host().map_or(TRANSFER_MAX, HostFile::write_max)
    }

    pub(crate) fn bytes_ready(&self) -> u64 {
        match self {
            Stream::Null | Stream::Output(_) => 0,
            Stream::Input { bytes, position } => (bytes.len() - position) as u64,
            Stream::Host(host) => host.bytes_ready(),
        }
    }
}

#[cfg(test)]
mod tests {
    //! The way of descriptors that could not be opened a second time.

    use super::*;

    fn shared(fd: OwnedFd) -> HostFile {
        let mut host = HostFile::inherit(fd).unwrap();
        host.reopened = None;
        host.nonblocking = false;
        host
    }

    #[test]
    fn a_blocking_pipe_is_asked_before_each_transfer() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (reader, writer) = (shared(reader), shared(writer));
        let mut buffer = [0; 10_000];
        let empty = reader.read(&mut [IoSliceMut::new(&mut buffer)]);
        assert!(matches!(empty, Err(Halt::Wait(_))));
        let data = [7; 10_000];
        let part = &data[..writer.write_max()];
        let (mut written, mut read) = (0, 0);
        loop {
            match writer.write(&[IoSlice::new(part)]) {
                Ok(count) => written += count,
                Err(Halt::Wait(wait)) => break assert_eq!(wait.descriptors[0].1, Interest::WRITE),
                Err(Halt::Errno(errno)) => panic!("{errno:?}"),
            }
        }
        assert!(written >= 32_768);
        while let Ok(count) = reader.read(&mut [IoSliceMut::new(&mut buffer)]) {
            read += count;
        }
        assert_eq!(read, written);
    }

    #[test]
    fn a_second_opening_is_of_the_same_pipe() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let host = HostFile::inherit(reader).unwrap();
        rustix::io::write(&writer, b"abc").unwrap();
        assert!(host.nonblocking && host.reopened.is_some());
        assert_eq!(host.bytes_ready(), 3);
    }

    #[test]
    fn the_master_of_a_terminal_is_not_opened_again() {
        use rustix::pty::{OpenptFlags, openpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        assert!(HostFile::inherit(master).unwrap().reopened.is_none());
    }
}
