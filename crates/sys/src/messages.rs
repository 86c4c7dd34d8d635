//! Bytes *with descriptors* over a connected Unix socket, and certainty about the process at its other end: how a service
//! gives a process without rights what it may use, and learns that it has died.
//!
//! - [`send`] and [`receive`]: descriptors travel beside bytes (unix(7), `SCM_RIGHTS`). A stream has no messages: what is
//!   a message is for the bytes to say, and so is how many descriptors belong to it.
//! - [`PeerProcess`]: the other process by descriptor, never by number, to wait for its end or kill it, even if it is
//!   nobody's child here.
//!
//! ```text
//!  sender    [bytes of A + descriptor 1] [bytes of B] [bytes of C + descriptors 2, 3]
//!  receiver  one receive may take the bytes of A; or those of B and of C with 2 and 3; never those of A and C:
//!            descriptors come in order, not after the first byte they were sent with, those of one send at a time
//! ```

mod peer;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use thiserror::Error;

pub use peer::{PeerProcess, PeerProcessError, peer_process};

#[cfg(test)]
mod tests;

/// How many descriptors one [`send`] takes, and how many a receiver holds that it has not made use of yet. The kernel's
/// own limit for a message is 253.
pub const DESCRIPTORS_MAX: usize = 32;

/// Why bytes or descriptors could not be sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nothing was sent.
    #[error("{0} descriptors are too many for a message, at most {DESCRIPTORS_MAX} can go along")]
    TooManyDescriptors(usize),
    /// Nothing was sent: a stream carries descriptors beside bytes only.
    #[error("descriptors cannot be sent without a byte")]
    DescriptorsAlone,
    /// The other end has closed the socket, or it does not block and is full, or the kernel refused (too many descriptors
    /// under way). If `sent` is not 0, the descriptors have gone.
    #[error("sending to a local socket failed after {sent} bytes")]
    Os {
        /// How many bytes had been sent.
        sent: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why nothing could be received. Descriptors that came are closed; bytes that came with them are lost, so the stream is
/// of no further use, except after [`ReceiveError::Os`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The other end sends more descriptors than its messages can need.
    #[error("more than {DESCRIPTORS_MAX} descriptors came without being made use of")]
    TooManyDescriptors,
    /// The kernel did not hand over all descriptors: there were too many, or this process can have no more.
    #[error("descriptors were lost: too many were sent, or too many are open")]
    Truncated,
    /// Not connected, or it does not block (or has a limit of time) and nothing came.
    #[error("receiving from a local socket failed")]
    Os(#[source] io::Error),
}

/// Sends all `bytes`, and with the first of them `descriptors`, which stay open here. Waits while the socket is full. A
/// closed other end is an error and no signal.
///
/// # Errors
/// See [`SendError`].
pub fn send(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), SendError> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(SendError::TooManyDescriptors(descriptors.len()));
    }
    if bytes.is_empty() && !descriptors.is_empty() {
        return Err(SendError::DescriptorsAlone);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut sent = 0;
    while sent < bytes.len() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "the space is for the largest number");
        }
        let rest = [IoSlice::new(&bytes[sent..])];
        match rustix::net::sendmsg(stream, &rest, &mut control, SendFlags::NOSIGNAL) {
            Ok(more) => sent += more,
            Err(Errno::INTR) => {}
            Err(error) => {
                let source = error.into();
                return Err(SendError::Os { sent, source });
            }
        }
    }
    Ok(())
}

/// Receives bytes into `buffer` and appends descriptors that came with them, in the order they were sent, to `descriptors`,
/// marked to be closed on exec. Waits for the first byte. The answer is the number of bytes; 0: the other end has closed
/// the socket.
///
/// Not more than [`DESCRIPTORS_MAX`] may be in `descriptors`: take out those that belong to a message that is complete.
///
/// # Errors
/// See [`ReceiveError`].
///
/// # Panics
/// `buffer` is empty.
pub fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize, ReceiveError> {
    assert!(
        !buffer.is_empty(),
        "no bytes can be told from the stream's end"
    );
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffer = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(stream, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result.map_err(|error| ReceiveError::Os(error.into()))?,
        }
    };
    let mut came: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            came.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(ReceiveError::Truncated);
    }
    if descriptors.len() + came.len() > DESCRIPTORS_MAX {
        return Err(ReceiveError::TooManyDescriptors);
    }
    descriptors.append(&mut came);
    Ok(received.bytes)
}
