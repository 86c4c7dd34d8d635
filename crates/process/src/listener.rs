//! Connections of clients that somebody else accepts for a process: [`Listener`], [`Connection`].
//!
//! A process does not listen itself, or its port would stay behind when it moves. It is given one end of a pair of sockets
//! (`SOCK_SEQPACKET`, unix(7)) in place of a listening socket; each message on it is a connection's number, and beside it
//! the connection: one end of a pair of stream sockets. It is ready to read when a connection waits, as a listening socket
//! is. A process that has closed a connection [shuts it down](Connection) first, so that whoever has the other end
//! sees it even while others hold the descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// What stands for a listening socket. A process finds those that it is given from descriptor 3 on, and their names in
/// `LISTEN_FDNAMES`, as sd_listen_fds(3) says.
#[derive(Debug)]
pub struct Listener {
    /// What the process knows it by.
    pub name: String,
    /// Where its connections come.
    pub handle: OwnedFd,
}

/// A connection that a process has had before it came here.
#[derive(Debug)]
pub struct Connection {
    /// Which of its listeners it came by, in their order.
    pub listener: u32,
    /// Its number there.
    pub id: u64,
    /// The process's end.
    pub handle: OwnedFd,
}

/// Bytes that are under way to either end of a connection; the system takes twice as much for its own records (socket(7)).
const CONNECTION_BYTES: usize = 64 << 10;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The two ends of a listener; either is as good as the other.
///
/// # Errors
/// There are too many descriptors.
pub fn listener() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        FLAGS,
        None,
    )?)
}

/// The two ends of a connection; either is as good as the other. What is in it, and travels with the process, does not
/// depend on what the machine allows other sockets.
///
/// # Errors
/// There are too many descriptors.
pub fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    for end in [&one, &other] {
        set_socket_send_buffer_size(end, CONNECTION_BYTES)?;
    }
    Ok((one, other))
}

/// Hands a connection to a listener's other end. Whether there was room for it.
///
/// # Errors
/// The other end is closed.
pub fn hand_over(listener: BorrowedFd<'_>, id: u64, handle: BorrowedFd<'_>) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [handle];
    let fits = control.push(SendAncillaryMessage::ScmRights(&rights));
    debug_assert!(fits, "the space is for one");
    let bytes = id.to_le_bytes();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(listener, &[IoSlice::new(&bytes)], &mut control, flags)
    });
    match sent {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the next connection that was handed over, and its number; `None` if none waits.
///
/// # Errors
/// `ECONNABORTED`: it was handed over and could not be taken, and is lost. Otherwise the other end is closed.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(u64, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            listener,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )
    });
    match received {
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(received) if received.bytes == 0 => return Err(io::ErrorKind::NotConnected.into()),
        Ok(_) => {}
    }
    let handle = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    match handle {
        Some(handle) => Ok(Some((u64::from_le_bytes(bytes), handle))),
        // The kernel did not hand the descriptor over: there are too many here.
        None => Err(Errno::CONNABORTED.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_connection_is_taken_by_the_other_end_with_its_number() {
        let (ours, theirs) = listener().unwrap();
        assert!(accept(theirs.as_fd()).unwrap().is_none());
        let (client, handle) = connection().unwrap();
        assert!(hand_over(ours.as_fd(), 7, handle.as_fd()).unwrap());
        drop(handle);
        let (id, taken) = accept(theirs.as_fd()).unwrap().unwrap();
        File::from(client).write_all(b"abc").unwrap();
        let mut read = String::new();
        File::from(taken).read_to_string(&mut read).unwrap();
        assert_eq!((id, &*read), (7, "abc"));
        drop(ours);
        assert!(accept(theirs.as_fd()).is_err());
    }
}
