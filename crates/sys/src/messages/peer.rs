//! [`PeerProcess`]: the process at the other end of a Unix socket, by descriptor.
//!
//! Which process that is, the kernel notes when the connection is made: whoever called `connect`, `socketpair`, or last
//! called `listen` on the listening socket. It does not follow descriptors that are handed on. So a process that gets
//! its listening socket from another calls `listen` on it once more, and is from then on the one that clients see.
#![allow(
    unsafe_code,
    reason = "asks for a socket option that libc and rustix do not know"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use thiserror::Error;

use crate::identity::{PeerError, peer_credentials};

/// `SO_PEERPIDFD` (Linux 6.5), of `include/uapi/asm-generic/socket.h`.
const SO_PEERPIDFD: libc::c_int = 77;

/// Why the process at the other end could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeerProcessError {
    /// It has ended already.
    #[error("the process at the other end of a socket has ended")]
    Ended,
    /// It belongs to a process namespace that is not seen from here.
    #[error("the process at the other end of a socket cannot be seen from here")]
    Hidden,
    /// Not connected.
    #[error(transparent)]
    Credentials(#[from] PeerError),
    /// The kernel refused.
    #[error("opening the process at the other end of a socket failed ({step})")]
    Os {
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A process, whoever's child it is. The descriptor becomes readable when it ends (pidfd_open(2)).
#[derive(Debug)]
pub struct PeerProcess {
    pidfd: OwnedFd,
}

/// The process at the other end of `stream`, in the sense of the module's head.
///
/// Before Linux 6.5 it is opened by number, and it is certain that it is the right one as long as the other end was closed
/// with the process: a socket that it had given to yet another process would hide its end.
///
/// # Errors
/// See [`PeerProcessError`].
pub fn peer_process(stream: &UnixStream) -> Result<PeerProcess, PeerProcessError> {
    match peer_pidfd(stream) {
        Ok(pidfd) => Ok(PeerProcess { pidfd }),
        Err(Errno::SRCH) => Err(PeerProcessError::Ended),
        // Older kernels; an emulator that does not know the option.
        Err(Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            by_number(stream)
        }
        Err(error) => Err(PeerProcessError::Os {
            step: "SO_PEERPIDFD",
            source: error.into(),
        }),
    }
}

fn peer_pidfd(stream: &UnixStream) -> rustix::io::Result<OwnedFd> {
    let mut number: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: 1. `number` and `length` are live, and the kernel writes no more than `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    if number < 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: 1. A new descriptor, made for this call: nobody else owns it. The kernel marks pidfds to be closed on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn by_number(stream: &UnixStream) -> Result<PeerProcess, PeerProcessError> {
    let credentials = peer_credentials(stream)?;
    let pid = i32::try_from(credentials.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(PeerProcessError::Hidden)?;
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Err(PeerProcessError::Ended),
        result => result.map_err(|error| PeerProcessError::Os {
            step: "pidfd_open",
            source: error.into(),
        })?,
    };
    // If its end of the socket is open still, it had not ended before the number was looked up.
    let mut open = [PollFd::new(stream, PollFlags::empty())];
    let now = Duration::ZERO.try_into().expect("nothing fits");
    rustix::event::poll(&mut open, Some(&now)).map_err(|error| PeerProcessError::Os {
        step: "poll",
        source: error.into(),
    })?;
    if open[0].revents().contains(PollFlags::HUP) {
        return Err(PeerProcessError::Ended);
    }
    Ok(PeerProcess { pidfd })
}

impl PeerProcess {
    /// Waits for its end, at most for `within` (`None`: without limit). Whether it has ended.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn wait(&self, within: Option<Duration>) -> io::Result<bool> {
        let deadline = within.and_then(|within| Instant::now().checked_add(within));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| left.try_into().ok());
            match rustix::event::poll(
                &mut [PollFd::new(&self.pidfd, PollFlags::IN)],
                left.as_ref(),
            ) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends `SIGKILL`: to this process or, if it has ended, to none; never to another of the same number. It is gone when
    /// [`wait`](PeerProcess::wait) says so.
    ///
    /// # Errors
    /// It is not this user's.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PeerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_number_finds_the_same_process_and_a_closed_end() {
        let (one, other) = UnixStream::pair().unwrap();
        let process = by_number(&one).unwrap();
        assert!(!process.wait(Some(Duration::ZERO)).unwrap());
        drop(other);
        assert!(matches!(by_number(&one), Err(PeerProcessError::Ended)));
    }
}
