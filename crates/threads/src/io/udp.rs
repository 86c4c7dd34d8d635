//! UDP.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::descriptor;
use super::source::{Direction, Source};

/// A socket for datagrams.
#[derive(Debug)]
pub struct UdpSocket {
    source: Source<std::net::UdpSocket>,
}

descriptor!(UdpSocket, std::net::UdpSocket);

impl UdpSocket {
    /// Binds. A name in `address` is looked up by the calling kernel thread: give an address.
    ///
    /// # Errors
    /// As the kernel says, for example that the address is in use.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_std(std::net::UdpSocket::bind(address)?)
    }

    /// Sends to and receives from one address only, from now on. Does not wait.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn connect(&self, address: SocketAddr) -> io::Result<()> {
        self.source.inner().connect(address)
    }

    /// Its address.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.source.inner().local_addr()
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send_to(&self, bytes: &[u8], address: SocketAddr) -> io::Result<usize> {
        self.source
            .call(Direction::Write, |inner| inner.send_to(bytes, address))
    }

    /// Waits for a datagram; what does not fit is lost.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.source
            .call(Direction::Read, |inner| inner.recv_from(buffer))
    }

    /// Sends a datagram to the address it is connected to.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.source
            .call(Direction::Write, |inner| inner.send(bytes))
    }

    /// Waits for a datagram from the address it is connected to.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source
            .call(Direction::Read, |inner| inner.recv(buffer))
    }
}
