//! TCP.

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::source::{Direction, Source};
use super::{descriptor, read, socket, write};

/// A socket that connections come to.
#[derive(Debug)]
pub struct TcpListener {
    source: Source<std::net::TcpListener>,
}

/// A connection. Threads may share it: references read and write, too.
#[derive(Debug)]
pub struct TcpStream {
    source: Source<std::net::TcpStream>,
}

descriptor!(TcpListener, std::net::TcpListener);
descriptor!(TcpStream, std::net::TcpStream);
socket!(TcpStream);

impl TcpListener {
    /// Listens. A name in `address` is looked up by the calling kernel thread: give an address.
    ///
    /// # Errors
    /// As the kernel says, for example that the address is in use.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_std(std::net::TcpListener::bind(address)?)
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// As the kernel says, for example that there are no more descriptors.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = self
            .source
            .call(Direction::Read, std::net::TcpListener::accept)?;
        Ok((TcpStream::from_std(stream)?, address))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.source.inner().local_addr()
    }
}

impl TcpStream {
    /// Connects. For names see [`resolve`](super::resolve).
    ///
    /// # Errors
    /// As the kernel says, for example that nobody listens there.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_until(address, None)
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    /// Also that the time is over.
    pub fn connect_timeout(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::connect_until(address, Instant::now().checked_add(timeout))
    }

    fn connect_until(address: SocketAddr, deadline: Option<Instant>) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
        let begun = connect(&socket, &address);
        let stream = Self::from_std(socket.into())?;
        match begun {
            Ok(()) => return Ok(stream),
            Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        loop {
            stream.source.wait(Direction::Write, deadline)?;
            sockopt::socket_error(&stream)??;
            match stream.peer_addr() {
                Ok(_) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.source.inner().peer_addr()
    }

    /// This end.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.source.inner().local_addr()
    }

    /// Ends one direction or both.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.source.inner().shutdown(how)
    }

    /// Whether small writes are sent at once.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.source.inner().set_nodelay(nodelay)
    }
}
