//! Iterative, and dispatcher: connections from which nothing has come wait in a room, and one thread looks at all of
//! them. Who has sent something is served: by that thread itself, or by one of a pool.
//!
//! Waiting for a request so costs no thread, but serving one does, however slow the client takes it or the disk gives
//! it. That is what these two models are about.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;
use rustix::net::{Shutdown, shutdown};
use sterna_threads::io::TcpStream;
use sterna_threads::sync::channel::{Receiver, SendTimeoutError, Sender, bounded};
use sterna_threads::{Builder, Runtime};

use super::{ServeError, wait};
use crate::files::connection::{Connection, unless_it_panics};
use crate::files::drive::{Drive, Driver, Until};
use crate::files::gate::{Failure, Gate, Pass};
use crate::files::site::Site;
use crate::files::stop::Stop;

/// Connections that have sent something and wait for a thread of the pool.
const QUEUE_MAX: usize = 256;
const EVENTS_MAX: usize = 256;
/// A room that is not held up by a client has ended so long after the time for that.
const END_SLACK: Duration = Duration::from_millis(100);
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const LEFT: u64 = u64::MAX - 2;

/// One thread, one request after the other. Returns how many connections were cut off.
pub(crate) fn iterative(
    listener: TcpListener,
    site: &Arc<Site>,
    gate: &Arc<Gate>,
) -> Result<usize, ServeError> {
    let room = Room::new(site, gate).map_err(ServeError::Begin)?;
    let runtime = Runtime::kernel().map_err(ServeError::Begin)?;
    let knocked_at = listener.try_clone().map_err(ServeError::Begin)?;
    let (ended, end) = mpsc::sync_channel(1);
    let thread = Builder::new().name("iterative");
    let stops = StopsAll(site.stop.clone());
    // A thread of its own, so that it can be cancelled while it waits for a client.
    let serving = runtime
        .spawn(thread, move || {
            let _stops = stops;
            ended.send(room.run(listener, |guest, room| room.serve(guest)))
        })
        .map_err(ServeError::Begin)?;
    site.stop.wait().map_err(ServeError::Wait)?;
    // Whoever comes now is refused, also while the thread is busy.
    let _ = shutdown(&knocked_at, Shutdown::Read);
    drop(knocked_at);
    let patience = site.settings.limits.grace + END_SLACK;
    match end.recv_timeout(patience) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            let cut_off = gate.inside();
            serving.cancel();
            Ok(cut_off)
        }
        Err(RecvTimeoutError::Disconnected) => Err(ServeError::Panicked),
    }
}

/// Nobody is left to serve when the thread that has this ends, however it does.
struct StopsAll(Stop);

impl Drop for StopsAll {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// One thread that looks, and a pool of `threads`. Returns how many connections were cut off.
pub(super) fn dispatcher(
    listener: TcpListener,
    site: &Arc<Site>,
    gate: &Arc<Gate>,
    threads: usize,
) -> Result<usize, ServeError> {
    let room = Arc::new(Room::new(site, gate).map_err(ServeError::Begin)?);
    let runtime = Runtime::kernel().map_err(ServeError::Begin)?;
    let (queue, work) = bounded(QUEUE_MAX);
    for number in 0..threads.max(1) {
        let (room, work): (_, Receiver<Guest>) = (Arc::clone(&room), work.clone());
        let worker = Builder::new().name(format!("worker-{number}"));
        runtime
            .spawn(worker, move || {
                for guest in work.iter() {
                    // The thread is there for others, too. The guest is gone with its connection.
                    unless_it_panics(|| room.serve(guest));
                }
            })
            .map_err(ServeError::Begin)?;
    }
    // Those that are still served are cut off when the runtime ends.
    room.run(listener, |guest, room| room.hand_over(&queue, guest))
}

struct Room {
    site: Arc<Site>,
    gate: Arc<Gate>,
    epoll: OwnedFd,
    /// Written to when somebody leaves after the stop, who may be the last one.
    left: OwnedFd,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    /// Empty while a guest is served.
    guests: Vec<Option<Guest>>,
    free: Vec<usize>,
}

/// A connection, with its seat in the room.
struct Guest {
    seat: usize,
    connection: Connection,
    stream: TcpStream,
    _pass: Pass,
}

impl Room {
    fn new(site: &Arc<Site>, gate: &Arc<Gate>) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let left = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &site.stop, EventData::new_u64(STOP), EventFlags::IN)?;
        // It is never read: each write is an edge.
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &left, EventData::new_u64(LEFT), edges)?;
        Ok(Self {
            site: Arc::clone(site),
            gate: Arc::clone(gate),
            epoll,
            left,
            seats: Mutex::default(),
        })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all until the stop and the end of what has begun before it.
    /// Returns how many are still inside then, and are cut off.
    fn run(
        &self,
        listener: TcpListener,
        serve: impl Fn(Guest, &Self),
    ) -> Result<usize, ServeError> {
        let mut door = Door::open(listener, &self.epoll).map_err(ServeError::Begin)?;
        let sweep = self.site.settings.limits.sweep();
        let mut next_sweep = Instant::now() + sweep;
        let mut end = None;
        let mut events = Vec::<epoll::Event>::with_capacity(EVENTS_MAX);
        loop {
            let now = Instant::now();
            if now >= next_sweep {
                self.sweep(now, &serve);
                door.reopen(&self.epoll);
                next_sweep = now + sweep;
            }
            let inside = self.gate.inside();
            if end.is_some_and(|end| now >= end || inside == 0) {
                return Ok(inside);
            }
            let next = end.map_or(next_sweep, |end: Instant| end.min(next_sweep));
            wait(
                &self.epoll,
                &mut events,
                next.saturating_duration_since(now),
            )?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(&mut door),
                    STOP if end.is_none() => {
                        end = Some(Instant::now() + self.site.settings.limits.grace);
                        let _ = epoll::delete(&self.epoll, &self.site.stop);
                        door.close(&self.epoll);
                        self.ask_all_to_leave(&serve);
                    }
                    STOP | LEFT => {}
                    seat => {
                        if let Some(guest) = self.call(seat as usize) {
                            serve(guest, self);
                        }
                    }
                }
            }
        }
    }

    fn accept(&self, door: &mut Door) {
        let Some(listener) = &door.listener else {
            return;
        };
        match listener.accept() {
            Ok((stream, peer)) => {
                door.go_to_the_end_of_the_line(&self.epoll);
                let Ok(stream) = TcpStream::from_std(stream) else {
                    return;
                };
                if let Some(pass) = self.gate.admit(&stream) {
                    let now = Instant::now();
                    let connection = Connection::new(Arc::clone(&self.site), peer.ip(), now);
                    self.seat_newcomer(connection, stream, pass);
                }
            }
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if self.gate.failed(&error, listener) == Failure::Exhausted {
                    door.shut(&self.epoll);
                }
            }
        }
    }

    fn seat_newcomer(&self, connection: Connection, stream: TcpStream, pass: Pass) {
        let mut seats = self.seats();
        let seat = match seats.free.pop() {
            Some(seat) => seat,
            None => {
                seats.guests.push(None);
                seats.guests.len() - 1
            }
        };
        let data = EventData::new_u64(seat as u64);
        if epoll::add(&self.epoll, &stream, data, waiting()).is_err() {
            // No memory for it: the connection is closed.
            seats.free.push(seat);
            return;
        }
        seats.guests[seat] = Some(Guest {
            seat,
            connection,
            stream,
            _pass: pass,
        });
    }

    /// Takes a guest out of the room.
    fn call(&self, seat: usize) -> Option<Guest> {
        self.seats().guests.get_mut(seat)?.take()
    }

    /// Serves as long as there is something to serve, and seats the guest again.
    fn serve(&self, mut guest: Guest) {
        let drive = Drive {
            site: &self.site,
            stream: &guest.stream,
            driver: Driver::KernelThread,
        };
        drive.run(&mut guest.connection, Until::Dry);
        let leaves = guest.connection.may_end() && self.site.stop.is_requested();
        let seat = guest.seat;
        let mut seats = self.seats();
        if !leaves && !guest.connection.is_closed() {
            let data = EventData::new_u64(seat as u64);
            if epoll::modify(&self.epoll, &guest.stream, data, waiting()).is_ok() {
                seats.guests[seat] = Some(guest);
                return;
            }
        }
        // Closed before the seat is free, so that no event of it reaches the next guest.
        drop(guest);
        seats.free.push(seat);
        if self.site.stop.is_requested() {
            let _ = write(&self.left, &1_u64.to_ne_bytes());
        }
    }

    /// Waits for room in the queue, but not beyond the end.
    fn hand_over(&self, queue: &Sender<Guest>, guest: Guest) {
        let mut guest = guest;
        let grace = self.site.settings.limits.grace;
        let mut end = None;
        loop {
            match queue.send_timeout(guest, self.site.settings.limits.sweep()) {
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
                Err(SendTimeoutError::Timeout(returned)) => guest = returned,
            }
            if self.site.stop.is_requested() {
                let end = *end.get_or_insert_with(|| Instant::now() + grace);
                if Instant::now() >= end {
                    return;
                }
            }
        }
    }

    /// Serves those whose time is over: they may have to be told.
    fn sweep(&self, now: Instant, serve: &impl Fn(Guest, &Self)) {
        let late: Vec<_> = {
            let mut seats = self.seats();
            let is_late = |guest: &mut Guest| guest.connection.deadline() <= now;
            let guests = seats.guests.iter_mut();
            guests.filter_map(|guest| guest.take_if(is_late)).collect()
        };
        for mut guest in late {
            guest.connection.timed_out(now);
            serve(guest, self);
        }
    }

    /// Serves all, so that those that have sent nothing are closed.
    fn ask_all_to_leave(&self, serve: &impl Fn(Guest, &Self)) {
        let all: Vec<_> = {
            let mut seats = self.seats();
            seats.guests.iter_mut().filter_map(Option::take).collect()
        };
        for guest in all {
            serve(guest, self);
        }
    }
}

fn waiting() -> EventFlags {
    EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT
}

/// The listening socket, and whether it is being looked at.
struct Door {
    listener: Option<TcpListener>,
    is_shut: bool,
}

impl Door {
    /// Of several processes that share the socket, one is woken for each connection.
    fn open(listener: TcpListener, epoll: &OwnedFd) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let door = Self {
            listener: Some(listener),
            is_shut: false,
        };
        door.watch(epoll)?;
        Ok(door)
    }

    fn watch(&self, epoll: &OwnedFd) -> std::io::Result<()> {
        if let Some(listener) = &self.listener {
            let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
            epoll::add(epoll, listener.as_fd(), EventData::new_u64(LISTENER), flags)?;
        }
        Ok(())
    }

    /// Nothing can be taken now: whoever knocks waits.
    fn shut(&mut self, epoll: &OwnedFd) {
        if let Some(listener) = &self.listener {
            self.is_shut = epoll::delete(epoll, listener).is_ok();
        }
    }

    /// Of processes that share the socket the kernel wakes the one that has waited longest by its own list: who is not
    /// put at its end gets nearly all connections.
    fn go_to_the_end_of_the_line(&mut self, epoll: &OwnedFd) {
        self.shut(epoll);
        self.reopen(epoll);
    }

    fn reopen(&mut self, epoll: &OwnedFd) {
        if self.is_shut && self.watch(epoll).is_ok() {
            self.is_shut = false;
        }
    }

    fn close(&mut self, epoll: &OwnedFd) {
        self.shut(epoll);
        self.is_shut = false;
        self.listener = None;
    }
}
