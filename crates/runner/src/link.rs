//! Messages with descriptors between a service and its runner, over a Unix stream socket.
//!
//! ```text
//! hello   │ "STRN" │ version u16 │                       both, once
//! message │ length u32 │ descriptors u8 │ body │         descriptors are attached to the first byte
//! ```
//!
//! The body is in [postcard](https://postcard.jamesmunns.com/wire-format). Both ends are the same machine's, mostly the
//! same program's: there is one version, and a runner of another is told to end by whoever upgrades a node.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sterna_sys::messages;

use crate::limits::{DESCRIPTORS_MAX, DESCRIPTORS_SPARE, MESSAGE_BYTES_MAX, MESSAGE_WITHIN};

/// Version of the messages.
pub const VERSION: u16 = 4;

const MAGIC: [u8; 4] = *b"STRN";
const HELLO_BYTES: usize = 6;
const HEAD_BYTES: usize = 5;

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The other end is gone.
    #[error("the other end is gone")]
    Gone,
    /// The other end is something else.
    #[error("the other end is no runner and no service of one")]
    Foreign,
    /// It is of another version.
    #[error(
        "the other end speaks version {theirs}, this one {VERSION}: move or end its processes with the version of \
         sterna that started it"
    )]
    Version {
        /// What it speaks.
        theirs: u16,
    },
    /// A message is longer than it may be.
    #[error("a message of {bytes} bytes, {MESSAGE_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A message makes no sense.
    #[error("a message is not understood")]
    Malformed,
    /// The socket failed.
    #[error("the link is broken")]
    Io(#[source] io::Error),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl From<messages::SendError> for LinkError {
    fn from(error: messages::SendError) -> Self {
        match error {
            messages::SendError::Os { source, .. } => source.into(),
            _ => Self::Malformed,
        }
    }
}

impl From<messages::ReceiveError> for LinkError {
    fn from(error: messages::ReceiveError) -> Self {
        match error {
            messages::ReceiveError::Os(source) => source.into(),
            _ => Self::Malformed,
        }
    }
}

/// Says hello and hears it.
///
/// # Errors
/// The other end is something else, of another version, or silent.
pub fn greet(stream: &mut UnixStream) -> Result<(), LinkError> {
    stream.set_write_timeout(Some(MESSAGE_WITHIN))?;
    let mut hello = [0; HELLO_BYTES];
    hello[..4].copy_from_slice(&MAGIC);
    hello[4..].copy_from_slice(&VERSION.to_le_bytes());
    stream.write_all(&hello)?;
    stream.read_exact(&mut hello)?;
    let [m0, m1, m2, m3, v0, v1] = hello;
    match ([m0, m1, m2, m3] == MAGIC, u16::from_le_bytes([v0, v1])) {
        (true, VERSION) => Ok(()),
        (true, theirs) => Err(LinkError::Version { theirs }),
        (false, _) => Err(LinkError::Foreign),
    }
}

/// Writes a message.
///
/// # Errors
/// It is too long, or the other end does not take it.
pub fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), LinkError> {
    let mut frame = vec![0; HEAD_BYTES];
    frame = postcard::to_extend(message, frame).map_err(|_| LinkError::Malformed)?;
    let bytes = frame.len() - HEAD_BYTES;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(LinkError::TooLong { bytes });
    }
    let count = u8::try_from(descriptors.len()).ok();
    let count = count.filter(|count| usize::from(*count) <= DESCRIPTORS_MAX);
    frame[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    frame[4] = count.ok_or(LinkError::Malformed)?;
    messages::send(stream, &frame, descriptors)?;
    Ok(())
}

/// Reads a message and the descriptors that came with it.
///
/// # Errors
/// The other end is gone, or sent something that is no message.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> Result<(T, Vec<OwnedFd>), LinkError> {
    let mut descriptors = Vec::new();
    let mut head = [0; HEAD_BYTES];
    fill(stream, &mut head, &mut descriptors)?;
    let [b0, b1, b2, b3, count] = head;
    let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(LinkError::TooLong { bytes });
    }
    let mut body = vec![0; bytes];
    fill(stream, &mut body, &mut descriptors)?;
    if descriptors.len() != usize::from(count) {
        return Err(LinkError::Malformed);
    }
    match postcard::take_from_bytes(&body) {
        Ok((message, [])) => Ok((message, descriptors)),
        _ => Err(LinkError::Malformed),
    }
}

fn fill(
    stream: &UnixStream,
    mut buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(), LinkError> {
    while !buffer.is_empty() {
        match messages::receive(stream, buffer, descriptors)? {
            0 => return Err(LinkError::Gone),
            got => buffer = &mut buffer[got..],
        }
    }
    Ok(())
}

/// Descriptors that came with a message, taken one after the other.
#[derive(Debug)]
pub(crate) struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    pub(crate) fn new(all: Vec<OwnedFd>) -> Self {
        Self(all.into_iter())
    }

    /// The next one.
    pub(crate) fn take(&mut self) -> Result<OwnedFd, LinkError> {
        self.0.next().ok_or(LinkError::Malformed)
    }
}

/// Whether enough descriptors are left for what goes on here anyhow. The newest one has the lowest number that was free:
/// open(2).
pub(crate) fn are_left(newest: &impl AsRawFd) -> Result<(), String> {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    match newest.as_raw_fd() as u64 + DESCRIPTORS_SPARE.min(most / 4) < most {
        true => Ok(()),
        false => Err(format!(
            "the node's runner may have {most} descriptors, and its processes and their clients use them up: end or move \
             some, or start the node with a higher limit (`ulimit -Hn`)"
        )),
    }
}

/// Borrows descriptors for [`send`].
pub(crate) fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}
