//! Sockets and pipes in the manner of the standard library. A call is tried first; if it would block, only its thread
//! waits. Any thread may use them: user threads wait at their worker's [poller](crate), others in the kernel, each with a
//! descriptor of its own by which it can be interrupted.
//!
//! Reads and writes that wait can be cancelled; a byte is then either transferred and reported or not transferred.
//! A time-out is an error of kind [`TimedOut`](std::io::ErrorKind::TimedOut).

mod pipe;
mod source;
mod tcp;
mod udp;
mod unix;

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

pub(crate) use source::{Direction, Source};

pub use pipe::{PipeReader, PipeWriter, pipe};
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;
pub use unix::{UnixListener, UnixStream};

/// Connects to a host by name or address, to the first of its addresses that answers.
///
/// # Errors
/// As [`resolve`], or as the last try to connect.
pub fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::ErrorKind::NotFound.into();
    for address in resolve(host, port)? {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The addresses of a host. Names are looked up by [`blocking`](crate::blocking); an address is itself.
///
/// # Errors
/// As the system's look-up says.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    crate::blocking(|| (host, port).to_socket_addrs().map(Iterator::collect))
}

/// `Read` for a type with a `source`, by value and by reference, by a call of rustix.
macro_rules! read {
    ($name:ty, $call:expr) => {
        impl std::io::Read for &$name {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.source.read(buffer, $call)
            }
        }
        impl std::io::Read for $name {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                (&*self).read(buffer)
            }
        }
    };
}

/// The same for `Write`.
macro_rules! write {
    ($name:ty, $call:expr) => {
        impl std::io::Write for &$name {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let write = |inner: &_| Ok($call(inner, bytes)?);
                self.source
                    .call($crate::io::source::Direction::Write, write)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        impl std::io::Write for $name {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                (&*self).write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}

/// Both for a socket. The calls for sockets cost the kernel a twentieth of an answer less than those for any file.
macro_rules! socket {
    ($name:ty) => {
        read!($name, |inner, buffer| {
            let (length, _) = rustix::net::recv(inner, buffer, rustix::net::RecvFlags::empty())?;
            Ok(length)
        });
        write!($name, |inner, bytes| rustix::net::send(
            inner,
            bytes,
            rustix::net::SendFlags::NOSIGNAL
        ));
    };
}

/// What all types with a `source` have.
macro_rules! descriptor {
    ($name:ty, $std:ty) => {
        impl $name {
            /// Takes over a descriptor of the standard library, which becomes non-blocking.
            ///
            /// # Errors
            /// The kernel refuses.
            pub fn from_std(inner: $std) -> std::io::Result<Self> {
                Ok(Self {
                    source: $crate::io::source::Source::new(inner)?,
                })
            }

            /// Lets reads wait no longer than this; `None` is for ever.
            pub fn set_read_timeout(&self, timeout: Option<std::time::Duration>) {
                self.source.read_timeout.set(timeout);
            }

            /// Lets writes wait no longer than this; `None` is for ever.
            pub fn set_write_timeout(&self, timeout: Option<std::time::Duration>) {
                self.source.write_timeout.set(timeout);
            }

            /// Makes a call of one's own that reads from the descriptor, which is non-blocking: again and again, waiting
            /// like a read in between, until it does not fail with
            /// [`WouldBlock`](std::io::ErrorKind::WouldBlock).
            ///
            /// # Errors
            /// Those of the call, and the time-out.
            pub fn read_with<R>(
                &self,
                mut call: impl FnMut(std::os::fd::BorrowedFd<'_>) -> std::io::Result<R>,
            ) -> std::io::Result<R> {
                self.source
                    .call($crate::io::source::Direction::Read, |inner| {
                        call(std::os::fd::AsFd::as_fd(inner))
                    })
            }

            /// The same for a call that writes, such as `sendfile`.
            ///
            /// # Errors
            /// As [`read_with`](Self::read_with).
            pub fn write_with<R>(
                &self,
                mut call: impl FnMut(std::os::fd::BorrowedFd<'_>) -> std::io::Result<R>,
            ) -> std::io::Result<R> {
                self.source
                    .call($crate::io::source::Direction::Write, |inner| {
                        call(std::os::fd::AsFd::as_fd(inner))
                    })
            }
        }

        impl std::os::fd::AsFd for $name {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.source.inner().as_fd()
            }
        }
    };
}

use {descriptor, read, socket, write};
