//! Who is at the other end of a local socket, and which boot of the machine this is.
#![allow(
    unsafe_code,
    reason = "asks for credentials in which a process id of 0 is possible"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use thiserror::Error;

/// Why the other end could not be identified.
#[derive(Debug, Error)]
#[error("asking for a peer's credentials failed")]
pub struct PeerError(#[source] pub io::Error);

/// Why the boot could not be identified.
#[derive(Debug, Error)]
#[error("reading /proc/sys/kernel/random/boot_id failed")]
pub struct BootError(#[source] pub io::Error);

/// The process that connected or listened, at that moment (unix(7), `SO_PEERCRED`), in the ids of our namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id; 0 if it is outside our process namespace.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Who is at the other end of a connected Unix socket.
///
/// # Errors
/// Not a Unix socket, or not connected.
pub fn peer_credentials(socket: impl AsFd) -> Result<PeerCredentials, PeerError> {
    // Not rustix's: its process ids are never 0, but the kernel's answer can hold a 0.
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: 1. `credentials` and `length` are live, and the kernel writes no more than `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(PeerError(io::Error::last_os_error()));
    }
    // Sockets that have no peer answer with an invalid user.
    if length as usize != size_of::<libc::ucred>() || credentials.uid == u32::MAX {
        return Err(PeerError(io::ErrorKind::NotConnected.into()));
    }
    Ok(PeerCredentials {
        pid: credentials.pid as u32,
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

/// A random id of this boot of the machine, as 32 hexadecimal digits with dashes: what was true before a restart
/// (process ids, leases of memory) is recognised by it (random(4)).
///
/// # Errors
/// There is no `/proc`.
pub fn boot_id() -> Result<String, BootError> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(BootError)?;
    Ok(id.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peer_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&one).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert!(peer_credentials(std::fs::File::open("/dev/null").unwrap()).is_err());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(peer_credentials(tcp).is_err());
    }

    #[test]
    fn boot_id_stays_the_same() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
