//! Sockets within the machine.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use super::source::{Direction, Source};
use super::{descriptor, read, socket, write};

/// A socket in the file system that connections come to.
#[derive(Debug)]
pub struct UnixListener {
    source: Source<std::os::unix::net::UnixListener>,
}

/// A connection. Threads may share it: references read and write, too.
#[derive(Debug)]
pub struct UnixStream {
    source: Source<std::os::unix::net::UnixStream>,
}

descriptor!(UnixListener, std::os::unix::net::UnixListener);
descriptor!(UnixStream, std::os::unix::net::UnixStream);
socket!(UnixStream);

impl UnixListener {
    /// Listens at a path that does not exist yet.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_std(std::os::unix::net::UnixListener::bind(path)?)
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (stream, address) = self
            .source
            .call(Direction::Read, std::os::unix::net::UnixListener::accept)?;
        Ok((UnixStream::from_std(stream)?, address))
    }
}

impl UnixStream {
    /// Connects. If the listener's queue is full, that blocks in the kernel, out of the way of other threads.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        Self::from_std(crate::blocking(|| {
            std::os::unix::net::UnixStream::connect(path)
        })?)
    }

    /// Two ends of one connection.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, two) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::from_std(one)?, Self::from_std(two)?))
    }

    /// Ends one direction or both.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.source.inner().shutdown(how)
    }
}
