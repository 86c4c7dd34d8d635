//! Carrying out the steps of a [`Connection`] with calls that block: the same for threads of the kernel and for user
//! threads.
//!
//! A thread that waits for its client holds no buffer. Files are sent with `sendfile`, but for small ones, which go out
//! together with the head.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::sendfile;
use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_linger;
use sterna_threads::io::TcpStream;
use sterna_threads::{blocking, yield_now};

use super::answer::{Answer, Outgoing};
use super::connection::{Connection, Inquiry, Step};
use super::range::Part;
use super::site::{BUFFER_BYTES, Site};

/// Bytes of a file, or a part of one, up to which they go with the head, by copying.
const SMALL_BYTES: usize = 16 * 1024;
/// Bytes of a file that are sent at once: each further call wakes a client that has just begun to wait.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// Bytes of a file of whose presence in memory one of them tells.
const PROBE_BYTES: usize = 256 * 1024;

/// Takings of what a client has sent, before another has its turn.
const RECEIVES_MAX: usize = 4;

/// Sends of a user thread in a row, before others have their turn: a head and what follows it.
const SENDS_MAX: u32 = 2;

/// Who drives, and so what a wait for the disk would hold up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// A thread of the kernel, which may wait by itself.
    KernelThread,
    /// A user thread, whose siblings go on while a call that may wait is made elsewhere.
    UserThread,
}

/// When driving ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until<'a> {
    /// With the connection. While it waits for its client, this says whether it [may end](Connection::may_end).
    Closed { may_end: &'a AtomicBool },
    /// When the client has sent nothing more, or so much that others must have their turn.
    Dry,
}

/// A connection and what it comes through.
pub(crate) struct Drive<'a> {
    pub(crate) site: &'a Site,
    pub(crate) stream: &'a TcpStream,
    pub(crate) driver: Driver,
}

/// The file that is being sent fell short of its announced length.
struct Short;

impl Drive<'_> {
    /// Carries out steps until the connection is [closed](Connection::is_closed) or dry.
    pub(crate) fn run(&self, connection: &mut Connection, until: Until<'_>) {
        // Up to where the file that is being sent was seen to be in memory.
        let mut warm_to = 0;
        let (mut receives, mut sends) = (0, 0);
        loop {
            match connection.step() {
                Step::Receive => match until {
                    Until::Dry => {
                        receives += 1;
                        if receives > RECEIVES_MAX || !self.receive_now(connection) {
                            return;
                        }
                    }
                    Until::Closed { may_end } => self.receive(connection, may_end),
                },
                Step::Find(inquiry) => {
                    warm_to = 0;
                    let answer = self.find(&inquiry);
                    connection.found(answer, Instant::now());
                }
                Step::Send(outgoing) => {
                    let result = self.send(&outgoing, &mut warm_to, connection.deadline());
                    conclude(connection, result);
                    self.give_way(&mut sends);
                }
                Step::Finish => {
                    // If the client is gone already, that is seen next.
                    let _ = self.stream.shutdown(Shutdown::Write);
                    connection.finished();
                }
                Step::Reset => {
                    reset(self.stream);
                    connection.gave_up();
                }
                Step::Close => return,
            }
        }
    }

    /// After sending. A client that is as fast as the server would have it for itself.
    fn give_way(&self, sends: &mut u32) {
        *sends += 1;
        if self.driver == Driver::UserThread && sends.is_multiple_of(SENDS_MAX) {
            yield_now();
        }
    }

    fn receive(&self, connection: &mut Connection, may_end: &AtomicBool) {
        // In one order with the request to stop: whoever makes that sees this, or it is seen here.
        may_end.store(connection.may_end(), Ordering::SeqCst);
        if connection.may_end() && self.site.stop.is_requested() {
            return connection.break_off();
        }
        let left = if connection.is_idle() {
            self.site.settings.limits.idle_time
        } else {
            left(connection.deadline())
        };
        self.stream.set_read_timeout(Some(left));
        let result = self
            .stream
            .read_with(|socket| self.read(socket, connection));
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                connection.timed_out(Instant::now());
            }
            Err(_) => connection.break_off(),
        }
        may_end.store(false, Ordering::SeqCst);
    }

    /// Whether there was something.
    fn receive_now(&self, connection: &mut Connection) -> bool {
        loop {
            match self.read(self.stream.as_fd(), connection) {
                Ok(()) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    connection.break_off();
                    return true;
                }
            }
        }
    }

    fn read(&self, socket: BorrowedFd<'_>, connection: &mut Connection) -> io::Result<()> {
        self.site.with_buffer(|buffer| {
            match rustix::io::read(socket, &mut *buffer)? {
                0 => connection.ended(),
                count => connection.received(&buffer[..count], Instant::now()),
            }
            Ok(())
        })
    }

    fn find(&self, inquiry: &Inquiry<'_>) -> Answer {
        match self.driver {
            Driver::KernelThread => inquiry.make(),
            Driver::UserThread => match inquiry.try_make() {
                Some(answer) => answer,
                None => blocking(|| inquiry.make()),
            },
        }
    }

    /// Sends what can be sent at once, but waits until something can. Returns how many bytes.
    fn send(
        &self,
        outgoing: &Outgoing<'_>,
        warm_to: &mut u64,
        deadline: Instant,
    ) -> io::Result<Result<u64, Short>> {
        self.stream.set_write_timeout(Some(left(deadline)));
        let bytes = outgoing.bytes;
        self.stream.write_with(|socket| match outgoing.file {
            Some((file, part)) if bytes.is_empty() => self.send_file(socket, file, part, warm_to),
            Some((_, part)) if part.length > SMALL_BYTES as u64 => {
                Ok(Ok(rustix::net::send(socket, bytes, SendFlags::MORE)? as u64))
            }
            Some((file, part)) if bytes.len() <= BUFFER_BYTES - SMALL_BYTES => {
                self.site.with_buffer(|buffer| {
                    let Some(length) = self.begin(buffer, bytes, file, part)? else {
                        return Ok(Err(Short));
                    };
                    Ok(Ok(rustix::io::write(socket, &buffer[..length])? as u64))
                })
            }
            _ => Ok(Ok(rustix::io::write(socket, bytes)? as u64)),
        })
    }

    /// Bytes and a small file, or part of one, in one buffer: how much is in it.
    fn begin(
        &self,
        buffer: &mut [u8],
        bytes: &[u8],
        file: &File,
        part: Part,
    ) -> io::Result<Option<usize>> {
        let (head, rest) = buffer.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        let into = &mut rest[..part.length as usize];
        let cached = match self.driver {
            Driver::KernelThread => None,
            Driver::UserThread => self.site.read_cached(file, into, part.offset)?,
        };
        let count = match cached {
            Some(count) => count,
            None => blocking(|| self.site.read(file, into, part.offset))?,
        };
        Ok((count > 0).then_some(bytes.len() + count))
    }

    fn send_file(
        &self,
        socket: BorrowedFd<'_>,
        file: &File,
        part: Part,
        warm_to: &mut u64,
    ) -> io::Result<Result<u64, Short>> {
        let length = part.length.min(CHUNK_BYTES);
        let send = || {
            let mut offset = part.offset;
            sendfile(socket, file, Some(&mut offset), length as usize)
        };
        let is_warm = self.driver == Driver::UserThread
            && (part.offset < *warm_to || self.is_cached(file, part.offset, length)?);
        let count = if is_warm {
            *warm_to = (*warm_to).max(part.offset + length);
            send()?
        } else {
            blocking(|| {
                self.site.be_slow();
                send()
            })?
        };
        Ok(if count == 0 {
            Err(Short)
        } else {
            Ok(count as u64)
        })
    }

    /// Whether a run of a file is in memory, told by samples and its end.
    fn is_cached(&self, file: &File, offset: u64, length: u64) -> io::Result<bool> {
        let end = offset + length;
        for at in (offset..end).step_by(PROBE_BYTES).chain([end - 1]) {
            if self.site.read_cached(file, &mut [0], at)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn conclude(connection: &mut Connection, result: io::Result<Result<u64, Short>>) {
    match result {
        Ok(Ok(bytes)) => connection.sent(bytes, Instant::now()),
        Ok(Err(Short)) => connection.fell_short(),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            connection.timed_out(Instant::now());
        }
        Err(_) => connection.break_off(),
    }
}

/// Lets the end of a socket be a reset.
pub(crate) fn reset(socket: impl AsFd) {
    // If it fails the kernel keeps what was not taken for a while.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}

/// A time-out of nothing would be none.
fn left(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.max(Duration::from_millis(1))
}
