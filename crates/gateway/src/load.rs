//! Clients that measure a server: so many connections, in a closed or in an open loop, with slow clients beside them
//! and connections that do nothing.
//!
//! In a closed loop each connection asks again as soon as it has its answer: that finds out how much a server can do. In
//! an open loop requests are due at a rate, whether the server keeps up or not, and their time counts from when they
//! were due: that finds out how long users wait. All of it is one thread on epoll; it belongs into a process of its own.

mod answer;
mod slow;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use answer::{Answer, Progress};
use slow::Slow;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(60);
/// Requests that are due and for which there is no free connection. With more the server has failed.
const DUE_MAX: usize = 1_000_000;
const EVENTS_MAX: usize = 256;
const BUFFER_BYTES: usize = 256 * 1024;
/// How often slow clients do something.
const TICK: Duration = Duration::from_millis(10);

/// What clients are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// The server.
    pub address: SocketAddr,
    /// What is asked for, in turn.
    pub targets: Vec<String>,
    /// Connections that ask.
    pub connections: usize,
    /// How fast.
    pub pace: Pace,
    /// Clients beside them that take a millisecond or more for each byte, and what they ask for.
    pub slow: usize,
    /// See `slow`.
    pub slow_target: String,
    /// Connections beside them that say nothing.
    pub idle: usize,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub duration: Duration,
}

/// How fast clients ask.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Pace {
    /// Each asks again when it has its answer.
    Closed,
    /// So many requests per second are due.
    Open(f64),
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Answers with a status of 200.
    pub requests: u64,
    /// Other answers, and connections that broke.
    pub errors: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// How long it was measured.
    pub seconds: f64,
    /// Microseconds from when a request was sent or was due to the end of its answer, for the half, 99 of 100, 999 of
    /// 1000, and all.
    pub latency_us: Latency,
}

/// Percentiles, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// One of a hundred is slower.
    pub p99: f64,
    /// One of a thousand is slower.
    pub p999: f64,
    /// The slowest.
    pub most: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The server takes no connection.
    #[error("could not connect to the server: {0}")]
    Connect(#[source] io::Error),
    /// The kernel gives no descriptor or memory.
    #[error("could not wait for the server: {0}")]
    Wait(#[source] io::Error),
    /// The server does not keep up by far.
    #[error("{0} requests are due and not sent; ask for fewer per second")]
    Overrun(usize),
    /// An impossible order.
    #[error("{0}")]
    Order(&'static str),
}

struct Client {
    stream: TcpStream,
    answer: Answer,
    /// When the request that is being answered was sent or due. `None`: none is.
    since: Option<Instant>,
    target: usize,
}

struct Load<'a> {
    orders: &'a Orders,
    epoll: OwnedFd,
    clients: Vec<Client>,
    free: Vec<usize>,
    due: VecDeque<Instant>,
    requests: Vec<Vec<u8>>,
    histogram: Histogram<u64>,
    report: Report,
    measured_from: Instant,
    buffer: Vec<u8>,
}

/// Measures.
///
/// # Errors
/// See [`LoadError`].
pub fn run(orders: &Orders) -> Result<Report, LoadError> {
    if orders.targets.is_empty() {
        return Err(LoadError::Order("nothing is to be asked for"));
    }
    // Held until the end.
    let _idle = (0..orders.idle)
        .map(|_| TcpStream::connect(orders.address))
        .collect::<io::Result<Vec<_>>>()
        .map_err(LoadError::Connect)?;
    let slow = Slow::connect(orders).map_err(LoadError::Connect)?;
    let mut load = Load::new(orders)?;
    load.run(slow)?;
    Ok(load.finish())
}

impl<'a> Load<'a> {
    fn new(orders: &'a Orders) -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| LoadError::Wait(e.into()))?;
        let nanoseconds = LATENCY_MAX.as_nanos() as u64;
        let histogram = Histogram::new_with_bounds(1, nanoseconds, 3)
            .map_err(|_| LoadError::Order("no histogram"))?;
        let mut load = Self {
            orders,
            epoll,
            clients: Vec::new(),
            free: (0..orders.connections).rev().collect(),
            due: VecDeque::new(),
            requests: orders
                .targets
                .iter()
                .map(|target| request(target))
                .collect(),
            histogram,
            report: Report::default(),
            measured_from: Instant::now() + orders.warm_up,
            buffer: vec![0; BUFFER_BYTES],
        };
        for index in 0..orders.connections {
            let client = load.connect(index)?;
            load.clients.push(client);
        }
        Ok(load)
    }

    fn connect(&self, index: usize) -> Result<Client, LoadError> {
        let stream = TcpStream::connect(self.orders.address).map_err(LoadError::Connect)?;
        stream.set_nodelay(true).map_err(LoadError::Connect)?;
        stream.set_nonblocking(true).map_err(LoadError::Connect)?;
        let data = EventData::new_u64(index as u64);
        let added = epoll::add(
            &self.epoll,
            &stream,
            data,
            EventFlags::IN | EventFlags::RDHUP,
        );
        added.map_err(|errno| LoadError::Wait(errno.into()))?;
        Ok(Client {
            stream,
            answer: Answer::default(),
            since: None,
            target: index % self.requests.len(),
        })
    }

    fn run(&mut self, mut slow: Slow) -> Result<(), LoadError> {
        let begun = Instant::now();
        self.measured_from = begun + self.orders.warm_up;
        let end = self.measured_from + self.orders.duration;
        let (mut next_tick, mut sent_due) = (begun, 0_u64);
        let mut events = Vec::<epoll::Event>::with_capacity(EVENTS_MAX);
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now >= next_tick {
                slow.tick(&mut self.buffer);
                next_tick = now + TICK;
            }
            let mut wake = end.min(next_tick);
            match self.orders.pace {
                Pace::Closed => {
                    while let Some(index) = self.free.pop() {
                        self.ask(index, now)?;
                    }
                }
                Pace::Open(rate) => {
                    wake = wake.min(self.let_due(begun, rate, &mut sent_due, now)?)
                }
            }
            events.clear();
            let timeout = wake.saturating_duration_since(Instant::now());
            let timeout = timeout.try_into().ok();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(LoadError::Wait(errno.into())),
            }
            for event in &events {
                self.receive(event.data.u64() as usize)?;
            }
        }
    }

    /// Sends what is due by now, as far as there are free connections. Returns when the next is due.
    fn let_due(
        &mut self,
        begun: Instant,
        rate: f64,
        count: &mut u64,
        now: Instant,
    ) -> Result<Instant, LoadError> {
        let at = |number: u64| begun + Duration::from_secs_f64(number as f64 / rate);
        while at(*count) <= now {
            self.due.push_back(at(*count));
            *count += 1;
        }
        if self.due.len() > DUE_MAX {
            return Err(LoadError::Overrun(self.due.len()));
        }
        while let (Some(&index), Some(&since)) = (self.free.last(), self.due.front()) {
            self.free.pop();
            self.due.pop_front();
            self.ask(index, since)?;
        }
        Ok(at(*count))
    }

    fn ask(&mut self, index: usize, since: Instant) -> Result<(), LoadError> {
        let client = &mut self.clients[index];
        client.since = Some(since);
        client.answer = Answer::default();
        client.target = (client.target + 1) % self.requests.len();
        let request = &self.requests[client.target];
        // A request fits into an empty socket, or the connection is broken.
        match rustix::io::write(&client.stream, request) {
            Ok(count) if count == request.len() => Ok(()),
            _ => self.broke(index),
        }
    }

    /// The connection is replaced.
    fn broke(&mut self, index: usize) -> Result<(), LoadError> {
        self.report.errors += u64::from(Instant::now() >= self.measured_from);
        self.clients[index] = self.connect(index)?;
        self.free.push(index);
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<(), LoadError> {
        loop {
            let client = &mut self.clients[index];
            // Of a body only the length matters: the kernel throws it away.
            let left = client.answer.body_left().min(BUFFER_BYTES as u64) as usize;
            let received = if left > 0 {
                let buffer = &mut self.buffer[..left];
                rustix::net::recv(&client.stream, buffer, RecvFlags::TRUNC).map(|(_, count)| count)
            } else {
                rustix::io::read(&client.stream, &mut self.buffer[..])
            };
            let count = match received {
                Ok(0) => return self.broke(index),
                Ok(count) => count,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
                Err(_) => return self.broke(index),
            };
            let progress = if left > 0 {
                client.answer.skipped(count as u64)
            } else {
                client.answer.received(&self.buffer[..count])
            };
            match progress {
                Progress::More => {}
                Progress::Broken => return self.broke(index),
                Progress::Whole { status, bytes } => return self.completed(index, status, bytes),
            }
        }
    }

    fn completed(&mut self, index: usize, status: u16, bytes: u64) -> Result<(), LoadError> {
        let now = Instant::now();
        let client = &mut self.clients[index];
        let Some(since) = client.since.take() else {
            return self.broke(index);
        };
        if now >= self.measured_from {
            if status == 200 {
                self.report.requests += 1;
                self.report.bytes += bytes;
                let latency = now.saturating_duration_since(since).as_nanos() as u64;
                self.histogram.saturating_record(latency.max(1));
            } else {
                self.report.errors += 1;
            }
        }
        if self.clients[index].answer.closes() {
            self.clients[index] = self.connect(index)?;
        }
        if self.orders.pace == Pace::Closed {
            return self.ask(index, now);
        }
        self.free.push(index);
        Ok(())
    }

    fn finish(mut self) -> Report {
        // Requests without an answer have taken until now at least.
        let now = Instant::now();
        let waiting = self.clients.iter().filter_map(|client| client.since);
        for since in waiting.chain(self.due.iter().copied()) {
            let latency = now.saturating_duration_since(since);
            if latency > TICK {
                self.histogram.saturating_record(latency.as_nanos() as u64);
            }
        }
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        self.report.latency_us = Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            most: self.histogram.max() as f64 / 1000.0,
        };
        self.report.seconds = now.duration_since(self.measured_from).as_secs_f64();
        self.report
    }
}

fn request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: sterna\r\nUser-Agent: sterna-load\r\n\r\n").into_bytes()
}
