//! A thread for each connection: the same program on threads of the kernel and on user threads.

use std::net::{Shutdown, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sterna_threads::io::{TcpListener, TcpStream};
use sterna_threads::{Builder, Implementation, Runtime, sleep};

use super::ServeError;
use crate::files::connection::Connection;
use crate::files::drive::{Drive, Driver, Until};
use crate::files::gate::{Failure, Gate, Pass};
use crate::files::site::Site;

/// Bytes of a thread's stack. Only what is used takes memory.
const STACK_BYTES: usize = 128 * 1024;
/// When there are no more descriptors, not even one to turn somebody away with.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A kernel thread for each connection. Returns how many connections were cut off.
pub(super) fn per_connection(
    listener: StdListener,
    site: &Arc<Site>,
    gate: &Arc<Gate>,
) -> Result<usize, ServeError> {
    let builder = Runtime::builder(Implementation::Kernel).stack_size(STACK_BYTES);
    run(
        &builder.build().map_err(ServeError::Begin)?,
        listener,
        site,
        gate,
    )
}

/// A user thread for each connection, on so many kernel threads.
pub(super) fn hybrid(
    listener: StdListener,
    site: &Arc<Site>,
    gate: &Arc<Gate>,
    workers: Option<usize>,
) -> Result<usize, ServeError> {
    let mut builder = Runtime::builder(Implementation::Hybrid).stack_size(STACK_BYTES);
    if let Some(count) = workers {
        builder = builder.workers(count.max(1));
    }
    run(
        &builder.build().map_err(ServeError::Begin)?,
        listener,
        site,
        gate,
    )
}

fn run(
    runtime: &Runtime,
    listener: StdListener,
    site: &Arc<Site>,
    gate: &Arc<Gate>,
) -> Result<usize, ServeError> {
    let listener = TcpListener::from_std(listener).map_err(ServeError::Begin)?;
    let hall = Arc::new(Hall::default());
    let acceptor = Acceptor {
        site: Arc::clone(site),
        gate: Arc::clone(gate),
        hall: Arc::clone(&hall),
        driver: match runtime.implementation() {
            Implementation::Kernel => Driver::KernelThread,
            Implementation::User | Implementation::Hybrid => Driver::UserThread,
        },
    };
    let accepting = runtime
        .spawn(Builder::new().name("accept"), move || {
            acceptor.run(&listener)
        })
        .map_err(ServeError::Begin)?;
    site.stop.wait().map_err(ServeError::Wait)?;
    accepting.cancel();
    // It ends by being cancelled, which is no failure. With it the listening socket is closed.
    let _ = accepting.join();
    Ok(hall.close(site.settings.limits.grace))
}

struct Acceptor {
    site: Arc<Site>,
    gate: Arc<Gate>,
    hall: Arc<Hall>,
    driver: Driver,
}

impl Acceptor {
    fn run(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    if let Some(pass) = self.gate.admit(&stream) {
                        self.begin(stream, peer.ip(), pass);
                    }
                }
                Err(error) => {
                    if self.gate.failed(&error, listener) == Failure::Exhausted {
                        sleep(EXHAUSTED_PAUSE);
                    }
                }
            }
        }
    }

    fn begin(&self, stream: TcpStream, peer: std::net::IpAddr, pass: Pass) {
        let site = Arc::clone(&self.site);
        let driver = self.driver;
        let guest = Arc::new(Guest {
            stream,
            may_end: AtomicBool::new(true),
        });
        let seat = Hall::enter(&self.hall, Arc::clone(&guest));
        // Without a thread the connection is closed: what was moved in is dropped.
        let _ = Builder::new().spawn(move || {
            let _leaves_at_the_end = (pass, seat);
            let mut connection = Connection::new(Arc::clone(&site), peer, Instant::now());
            let drive = Drive {
                site: &site,
                stream: &guest.stream,
                driver,
            };
            let may_end = &guest.may_end;
            drive.run(&mut connection, Until::Closed { may_end });
        });
    }
}

/// What the end of the server must know of a connection.
struct Guest {
    stream: TcpStream,
    /// It waits for its client, and nothing is lost if it ends.
    may_end: AtomicBool,
}

/// All guests, so that the end of the server reaches them.
#[derive(Default)]
struct Hall {
    seats: Mutex<Seats>,
    left: Condvar,
}

#[derive(Default)]
struct Seats {
    guests: Vec<Option<Arc<Guest>>>,
    free: Vec<usize>,
}

/// A place in the hall. Dropped, it is free.
struct Seat {
    hall: Arc<Hall>,
    number: usize,
}

impl Hall {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(hall: &Arc<Self>, guest: Arc<Guest>) -> Seat {
        let mut seats = hall.seats();
        let number = match seats.free.pop() {
            Some(number) => {
                seats.guests[number] = Some(guest);
                number
            }
            None => {
                seats.guests.push(Some(guest));
                seats.guests.len() - 1
            }
        };
        Seat {
            hall: Arc::clone(hall),
            number,
        }
    }

    /// Lets those that wait for a request see the end of it, waits for the others, and in the end cuts them off. Returns
    /// how many those were.
    fn close(&self, grace: Duration) -> usize {
        let deadline = Instant::now() + grace;
        let mut seats = self.seats();
        // What has arrived is still read; then there is an end.
        seats.shut_down(Shutdown::Read, |guest| guest.may_end.load(Ordering::SeqCst));
        while seats.taken() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                seats.shut_down(Shutdown::Both, |_| true);
                return seats.taken();
            }
            let woken = self.left.wait_timeout(seats, left);
            seats = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }
}

impl Seats {
    fn taken(&self) -> usize {
        self.guests.len() - self.free.len()
    }

    fn shut_down(&self, how: Shutdown, which: impl Fn(&Guest) -> bool) {
        for guest in self.guests.iter().flatten().filter(|guest| which(guest)) {
            // It fails if the client was faster.
            let _ = guest.stream.shutdown(how);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.hall.seats();
        let guest = seats.guests[self.number].take();
        seats.free.push(self.number);
        drop(seats);
        drop(guest);
        self.hall.left.notify_all();
    }
}
