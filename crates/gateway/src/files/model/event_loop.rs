//! Event loop: one thread that never waits for a client or for the disk. What a connection would wait for is noted, and
//! the thread goes on with another one: a finite state machine for each, which here is the
//! [`Connection`] itself.
//!
//! Files are read with `preadv2(RWF_NOWAIT)`, which gives only what is in memory; the rest is left to
//! [`Aides`]. `sendfile` cannot be told not to wait for the disk, and is not used.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use sterna_threads::io::TcpStream;

use super::aides::{Aides, Client, Errand, Result as Done};
use super::{ServeError, wait};
use crate::files::answer::Outgoing;
use crate::files::connection::{Connection, Step};
use crate::files::drive;
use crate::files::gate::{Failure, Gate, Pass};
use crate::files::range::Part;
use crate::files::site::{BUFFER_BYTES, Site};

const EVENTS_MAX: usize = 256;
/// Steps of one connection before another has its turn.
const STEPS_MAX: usize = 12;
/// Connections taken at once.
const ACCEPTS_MAX: usize = 32;
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const AIDES: u64 = u64::MAX - 2;

/// Serves. Returns how many connections were cut off.
pub(super) fn run(
    listener: TcpListener,
    site: &Arc<Site>,
    gate: &Arc<Gate>,
    aides: usize,
) -> Result<usize, ServeError> {
    let machine = Machine::new(listener, site, gate, aides).map_err(ServeError::Begin)?;
    machine.run()
}

struct Machine {
    site: Arc<Site>,
    gate: Arc<Gate>,
    epoll: OwnedFd,
    listener: Option<TcpListener>,
    /// The listener is not looked at, since nothing could be taken.
    is_shut: bool,
    aides: Aides,
    places: Vec<Option<Guest>>,
    free: Vec<usize>,
    /// Those that have had their turn and are not done.
    ready: VecDeque<Client>,
    number_last: u64,
    buffer: Box<[u8]>,
}

struct Guest {
    client: Client,
    connection: Connection,
    stream: TcpStream,
    _pass: Pass,
    is_readable: bool,
    is_writable: bool,
    /// An aide has an errand of it.
    is_waiting: bool,
    /// What an aide has read, and its offset.
    loaded: Option<(u64, Vec<u8>)>,
}

/// Whether a guest can make another step.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Made,
    /// Not before something happens.
    None,
}

impl Machine {
    fn new(
        listener: TcpListener,
        site: &Arc<Site>,
        gate: &Arc<Gate>,
        aides: usize,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let aides = Aides::new(site, aides)?;
        let read = EventFlags::IN;
        epoll::add(&epoll, &site.stop, EventData::new_u64(STOP), read)?;
        epoll::add(&epoll, &aides, EventData::new_u64(AIDES), read)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), read)?;
        Ok(Self {
            site: Arc::clone(site),
            gate: Arc::clone(gate),
            epoll,
            listener: Some(listener),
            is_shut: false,
            aides,
            places: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            number_last: 0,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    /// Those who are still inside at the end are cut off.
    fn run(mut self) -> Result<usize, ServeError> {
        let sweep = self.site.settings.limits.sweep();
        let mut next_sweep = Instant::now() + sweep;
        let mut end: Option<Instant> = None;
        let mut events = Vec::<epoll::Event>::with_capacity(EVENTS_MAX);
        loop {
            let now = Instant::now();
            if now >= next_sweep {
                self.sweep(now);
                next_sweep = now + sweep;
            }
            if end.is_some_and(|end| now >= end || self.gate.inside() == 0) {
                return Ok(self.gate.inside());
            }
            let timeout = if self.ready.is_empty() {
                let next = end.map_or(next_sweep, |end| end.min(next_sweep));
                next.saturating_duration_since(now)
            } else {
                Duration::ZERO
            };
            wait(&self.epoll, &mut events, timeout)?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    AIDES => self.take_results(),
                    STOP if end.is_none() => {
                        end = Some(Instant::now() + self.site.settings.limits.grace);
                        self.begin_end();
                    }
                    STOP => {}
                    place => self.happened(place as usize, event.flags),
                }
            }
            for _ in 0..self.ready.len() {
                if let Some(client) = self.ready.pop_front() {
                    self.advance(client);
                }
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((stream, peer)) => self.begin(stream, peer.ip()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if self.gate.failed(&error, listener) == Failure::Exhausted {
                        self.is_shut = epoll::delete(&self.epoll, listener).is_ok();
                        return;
                    }
                }
            }
        }
    }

    fn begin(&mut self, stream: StdStream, peer: std::net::IpAddr) {
        let Ok(stream) = TcpStream::from_std(stream) else {
            return;
        };
        let Some(pass) = self.gate.admit(&stream) else {
            return;
        };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(None);
                self.places.len() - 1
            }
        };
        // Once and for all: an edge in either direction is noted, and calls are tried until they would wait.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(place as u64);
        if epoll::add(&self.epoll, &stream, data, flags).is_err() {
            // No memory for it: the connection is closed.
            self.free.push(place);
            return;
        }
        self.number_last += 1;
        let client = Client {
            place,
            number: self.number_last,
        };
        self.places[place] = Some(Guest {
            client,
            connection: Connection::new(Arc::clone(&self.site), peer, Instant::now()),
            stream,
            _pass: pass,
            is_readable: false,
            is_writable: true,
            is_waiting: false,
            loaded: None,
        });
    }

    fn happened(&mut self, place: usize, flags: EventFlags) {
        let Some(Some(guest)) = self.places.get_mut(place) else {
            return;
        };
        let failed = EventFlags::ERR | EventFlags::HUP;
        guest.is_readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | failed);
        guest.is_writable |= flags.intersects(EventFlags::OUT | failed);
        let client = guest.client;
        self.advance(client);
    }

    fn guest(&mut self, client: Client) -> Option<&mut Guest> {
        let guest = self.places.get_mut(client.place)?.as_mut()?;
        (guest.client == client).then_some(guest)
    }

    /// Lets a connection go on as far as it can without waiting.
    fn advance(&mut self, client: Client) {
        let Some(guest) = self.places.get_mut(client.place).and_then(Option::as_mut) else {
            return;
        };
        if guest.client != client || guest.is_waiting {
            return;
        }
        let mut progress = Progress::Made;
        for _ in 0..STEPS_MAX {
            progress = guest.step(&self.site, &self.aides, &mut self.buffer);
            if progress == Progress::None {
                break;
            }
        }
        let connection = &guest.connection;
        if connection.is_closed() || (connection.may_end() && self.site.stop.is_requested()) {
            // What still is in the socket's queue of events is of a place without a guest, or looks again for nothing.
            self.places[client.place] = None;
            self.free.push(client.place);
        } else if progress == Progress::Made {
            self.ready.push_back(client);
        }
    }

    fn take_results(&mut self) {
        for (client, result) in self.aides.take() {
            // It may be gone.
            let Some(guest) = self.guest(client) else {
                continue;
            };
            guest.is_waiting = false;
            match result {
                Done::Found(answer) => guest.connection.found(answer, Instant::now()),
                Done::Loaded(Ok(bytes)) if bytes.is_empty() => guest.connection.fell_short(),
                Done::Loaded(Ok(bytes)) => {
                    if let Some((offset, _)) = &mut guest.loaded {
                        guest.loaded = Some((*offset, bytes));
                    }
                }
                Done::Loaded(Err(_)) => guest.connection.break_off(),
            }
            self.advance(client);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let guests = self.places.iter_mut().flatten();
        let late = guests.filter(|guest| !guest.is_waiting && guest.connection.deadline() <= now);
        let late: Vec<_> = late
            .map(|guest| {
                guest.connection.timed_out(now);
                guest.client
            })
            .collect();
        for client in late {
            self.advance(client);
        }
        if let (true, Some(listener)) = (self.is_shut, &self.listener) {
            let data = EventData::new_u64(LISTENER);
            self.is_shut = epoll::add(&self.epoll, listener, data, EventFlags::IN).is_err();
        }
    }

    /// No more connections, and an end to those that have sent nothing.
    fn begin_end(&mut self) {
        let _ = epoll::delete(&self.epoll, &self.site.stop);
        if let Some(listener) = self.listener.take() {
            let _ = epoll::delete(&self.epoll, &listener);
        }
        let all: Vec<_> = self
            .places
            .iter()
            .flatten()
            .map(|guest| guest.client)
            .collect();
        for client in all {
            if let Some(guest) = self.guest(client) {
                guest.is_readable = true;
            }
            self.advance(client);
        }
    }
}

impl Guest {
    fn step(&mut self, site: &Arc<Site>, aides: &Aides, buffer: &mut [u8]) -> Progress {
        let result = match self.connection.step() {
            Step::Receive if self.is_readable => match rustix::io::read(&self.stream, &mut *buffer)
            {
                Ok(0) => {
                    self.connection.ended();
                    Ok(())
                }
                Ok(count) => {
                    self.connection.received(&buffer[..count], Instant::now());
                    Ok(())
                }
                Err(rustix::io::Errno::AGAIN) => {
                    self.is_readable = false;
                    Ok(())
                }
                Err(errno) => Err(errno.into()),
            },
            Step::Find(inquiry) => {
                match inquiry.try_make() {
                    Some(answer) => self.connection.found(answer, Instant::now()),
                    None => {
                        self.is_waiting = true;
                        aides.send(self.client, Errand::Find(inquiry.into_owned()));
                        return Progress::None;
                    }
                }
                Ok(())
            }
            Step::Send(_) if self.is_writable => self.send(site, aides, buffer),
            Step::Finish => {
                let _ = self.stream.shutdown(Shutdown::Write);
                self.connection.finished();
                Ok(())
            }
            Step::Reset => {
                drive::reset(&self.stream);
                self.connection.gave_up();
                Ok(())
            }
            Step::Receive | Step::Send(_) | Step::Close => return Progress::None,
        };
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.connection.break_off(),
        }
        if self.is_waiting {
            Progress::None
        } else {
            Progress::Made
        }
    }

    /// Writes once, out of memory; asks an aide if there is nothing in memory.
    fn send(&mut self, site: &Site, aides: &Aides, buffer: &mut [u8]) -> io::Result<()> {
        let Step::Send(Outgoing { bytes, file }) = self.connection.step() else {
            return Ok(());
        };
        let mut length = 0;
        if let Some((file, part)) = file
            && bytes.len() <= buffer.len() / 2
        {
            let (head, rest) = buffer.split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            let wanted =
                usize::try_from(part.length).map_or(rest.len(), |most| most.min(rest.len()));
            let count = match copy_loaded(self.loaded.as_ref(), part, &mut rest[..wanted]) {
                Some(count) => count,
                None => match site.read_cached(file, &mut rest[..wanted], part.offset)? {
                    Some(0) => {
                        self.connection.fell_short();
                        return Ok(());
                    }
                    Some(count) => count,
                    None => {
                        let errand = Errand::Load(Arc::clone(file), part);
                        self.loaded = Some((part.offset, Vec::new()));
                        self.is_waiting = true;
                        aides.send(self.client, errand);
                        return Ok(());
                    }
                },
            };
            length = bytes.len() + count;
        }
        let written = if length > 0 {
            rustix::io::write(&self.stream, &buffer[..length])
        } else {
            rustix::io::write(&self.stream, bytes)
        };
        match written {
            Ok(count) => {
                self.connection.sent(count as u64, Instant::now());
                if !matches!(self.connection.step(), Step::Send(_)) {
                    self.loaded = None;
                }
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.is_writable = false;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What an aide has read of the beginning of a part. `None`: nothing.
fn copy_loaded(loaded: Option<&(u64, Vec<u8>)>, part: Part, into: &mut [u8]) -> Option<usize> {
    let (offset, bytes) = loaded?;
    let skip = usize::try_from(part.offset.checked_sub(*offset)?).ok()?;
    let bytes = bytes.get(skip..).filter(|bytes| !bytes.is_empty())?;
    let count = bytes.len().min(into.len());
    into[..count].copy_from_slice(&bytes[..count]);
    Some(count)
}
