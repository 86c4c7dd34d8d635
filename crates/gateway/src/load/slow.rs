//! [`Slow`]: clients on bad lines. Half of them take a large file a kilobyte at a time, half send their request a byte at
//! a time.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::{Orders, request};

/// Bytes that such a client takes at once.
const TAKEN_BYTES: usize = 1024;
/// Bytes that the kernel takes for it meanwhile, as far as it can be told.
const SOCKET_BYTES: usize = 4096;

/// Slow clients.
pub(super) struct Slow {
    address: SocketAddr,
    request: Vec<u8>,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    /// Sends slowly; otherwise takes slowly.
    is_sender: bool,
    /// Bytes of the request that were sent.
    sent: usize,
}

impl Slow {
    pub(super) fn connect(orders: &Orders) -> io::Result<Self> {
        let mut slow = Self {
            address: orders.address,
            request: request(&orders.slow_target),
            clients: Vec::new(),
        };
        for number in 0..orders.slow {
            let client = slow.client(number % 2 == 1)?;
            slow.clients.push(client);
        }
        Ok(slow)
    }

    fn client(&self, is_sender: bool) -> io::Result<Client> {
        let mut stream = TcpStream::connect(self.address)?;
        set_socket_recv_buffer_size(&stream, SOCKET_BYTES)?;
        let mut sent = 0;
        if !is_sender {
            stream.write_all(&self.request)?;
            sent = self.request.len();
        }
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            is_sender,
            sent,
        })
    }

    /// Lets each do a little. One whose connection has ended begins anew, if the server lets it.
    pub(super) fn tick(&mut self, buffer: &mut [u8]) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if client.step(&self.request, buffer).is_none()
                && let Ok(client) = self.client(self.clients[index].is_sender)
            {
                self.clients[index] = client;
            }
        }
    }
}

impl Client {
    /// `None`: the connection has ended.
    fn step(&mut self, request: &[u8], buffer: &mut [u8]) -> Option<()> {
        if self.sent < request.len() {
            let byte = &request[self.sent..=self.sent];
            match rustix::io::write(&self.stream, byte) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => return None,
            }
            return Some(());
        }
        match rustix::io::read(&self.stream, &mut buffer[..TAKEN_BYTES]) {
            Ok(0) => None,
            // A sender has shown enough when it gets an answer.
            Ok(_) if self.is_sender => None,
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Some(()),
            Err(_) => None,
        }
    }
}
