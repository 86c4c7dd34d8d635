//! Clients of an echo server: many connections, each with one request on its way, driven by one thread with epoll.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::epoll;

/// Bytes of a request.
const REQUEST: [u8; 64] = [7; 64];
/// An answer that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Clients of one server.
pub(crate) struct Load {
    streams: Vec<TcpStream>,
    poll: std::os::fd::OwnedFd,
}

impl Load {
    /// Connects.
    pub(crate) fn new(port: u16, connections: usize) -> Result<Load> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut streams = Vec::with_capacity(connections);
        for number in 0..connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).context("the server is gone")?;
            stream.set_nodelay(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
            streams.push(stream);
        }
        Ok(Load { streams, poll })
    }

    /// Makes so many requests, on all connections in parallel.
    pub(crate) fn run(&mut self, requests: usize) -> Result<()> {
        let mut to_send = requests;
        let mut to_come = 0;
        for stream in &mut self.streams {
            if to_send > 0 {
                stream.write_all(&REQUEST)?;
                to_send -= 1;
                to_come += 1;
            }
        }
        let mut events = Vec::with_capacity(256);
        while to_come > 0 {
            events.clear();
            let timeout = TIMEOUT.try_into()?;
            let buffer = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&self.poll, buffer, Some(&timeout))?;
            ensure!(!events.is_empty(), "the server does not answer");
            for event in &events {
                let stream = &mut self.streams[event.data.u64() as usize];
                let mut answer = [0; REQUEST.len()];
                stream.read_exact(&mut answer)?;
                ensure!(answer == REQUEST, "the server answers something else");
                to_come -= 1;
                if to_send > 0 {
                    stream.write_all(&REQUEST)?;
                    to_send -= 1;
                    to_come += 1;
                }
            }
        }
        Ok(())
    }
}
