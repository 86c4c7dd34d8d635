//! Processes that were started before the first connection came, and share the listening socket.
//!
//! Each is a fresh program and no fork of this one, which has threads. It is given the socket, the root, its share in
//! the limit of connections and the log as descriptors over a Unix socket that is its standard input, and what to do as JSON. The end of that socket tells
//! either side that the other has ended, so no process outlives its server, however that dies.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs::File, io};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::room;
use super::{ServeError, Served};
use crate::files::gate::Gate;
use crate::files::log::{Ending, Log};
use crate::files::places::{self, Places};
use crate::files::settings::Settings;
use crate::files::site::Site;
use crate::files::stop::Stop;

/// Descriptors that a process is given.
const DESCRIPTORS_MAX: usize = 5;
/// Bytes of what a process is told.
const ORDERS_BYTES_MAX: usize = 64 * 1024;
/// A process that ends before this was not worth starting again.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// So many of those in a row end the server.
const SHORT_LIVES_MAX: usize = 8;
/// After the grace for connections, until a process that does not end is killed.
const END_TIME: Duration = Duration::from_secs(2);

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    settings: Settings,
    has_log: bool,
}

/// A process that serves.
struct Worker {
    child: Child,
    line: UnixStream,
    born: Instant,
    places: Places,
}

/// Keeps `count` processes running until the stop.
pub(super) fn run(
    listener: TcpListener,
    site: &Arc<Site>,
    count: usize,
    program: &(PathBuf, Vec<String>),
) -> Result<Served, ServeError> {
    let free = places::free(site.settings.limits.connections).map_err(ServeError::Begin)?;
    let start = || {
        let places = Places::of_one(&free);
        let worker = places.and_then(|places| Worker::start(&listener, site, places, program));
        worker.map_err(ServeError::Begin)
    };
    let mut workers = (0..count.max(1))
        .map(|_| start())
        .collect::<Result<Vec<_>, _>>()?;
    let (mut served, mut short_lives) = (Served::default(), 0);
    loop {
        let ended = wait(&site.stop, &workers).map_err(ServeError::Wait)?;
        if site.stop.is_requested() {
            break;
        }
        for index in ended {
            let dead = std::mem::replace(&mut workers[index], start()?);
            short_lives = if dead.born.elapsed() < LIFE_MIN {
                short_lives + 1
            } else {
                0
            };
            let status = dead.reap(Duration::ZERO, &mut served);
            if short_lives > SHORT_LIVES_MAX {
                return Err(ServeError::Processes(status));
            }
        }
    }
    // Whoever comes now is refused, also while a process that has it, too, is busy.
    let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Read);
    drop(listener);
    for worker in &workers {
        // The other side sees the end, and stops.
        let _ = worker.line.shutdown(Shutdown::Write);
    }
    let patience = site.settings.limits.grace + END_TIME;
    for worker in workers {
        worker.reap(patience, &mut served);
    }
    Ok(served)
}

/// Waits for the stop, or for processes that have ended: their indexes.
fn wait(stop: &Stop, workers: &[Worker]) -> io::Result<Vec<usize>> {
    let mut polled: Vec<_> = std::iter::once(stop.as_fd())
        .chain(workers.iter().map(|worker| worker.line.as_fd()))
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    match poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let lines = polled[1..].iter().enumerate();
    let ended = lines.filter(|(_, line)| !line.revents().is_empty());
    Ok(ended.map(|(index, _)| index).collect())
}

impl Worker {
    fn start(
        listener: &TcpListener,
        site: &Site,
        places: Places,
        (program, arguments): &(PathBuf, Vec<String>),
    ) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // So that Ctrl-C at the terminal is for the server, which then lets them finish.
            .process_group(0)
            .spawn()?;
        let worker = Self {
            child,
            line,
            born: Instant::now(),
            places,
        };
        worker.instruct(listener, site)?;
        Ok(worker)
    }

    fn instruct(&self, listener: &TcpListener, site: &Site) -> io::Result<()> {
        let orders = serde_json::to_vec(&Orders {
            settings: site.settings.clone(),
            has_log: site.log.is_some(),
        })?;
        let places = [self.places.free.as_fd(), self.places.held.as_fd()];
        let mut descriptors = vec![listener.as_fd(), site.root().as_fd()];
        descriptors.extend(places);
        descriptors.extend(site.log.as_ref().map(|log| log.to().as_fd()));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no space for descriptors"));
        }
        let length = (orders.len() as u32).to_le_bytes();
        let sent = sendmsg(
            &self.line,
            &[IoSlice::new(&length)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        if sent != length.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (&self.line).write_all(&orders)
    }

    /// Waits for the end, for a while; then makes it. Adds what the process says it has done.
    fn reap(mut self, patience: Duration, served: &mut Served) -> String {
        let mut report = String::new();
        // A time-out of nothing would be none.
        let patience = patience.max(Duration::from_millis(1));
        let _ = self.line.set_read_timeout(Some(patience));
        if (&self.line)
            .take(ORDERS_BYTES_MAX as u64)
            .read_to_string(&mut report)
            .is_err()
        {
            let _ = self.child.kill();
        }
        if let Ok(own) = serde_json::from_str::<Served>(&report) {
            served.connections += own.connections;
            served.requests += own.requests;
            served.turned_away += own.turned_away;
            served.cut_off += own.cut_off;
        }
        let ended = self.child.wait();
        self.places.give_all_back();
        match ended {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

/// What a process does: takes its orders from `line`, serves until that ends, and reports.
pub(crate) fn worker(line: UnixStream) -> Result<(), ServeError> {
    let (orders, listener, root, places, log) = take_orders(&line).map_err(ServeError::Begin)?;
    let stop = Stop::new().map_err(ServeError::Begin)?;
    let failed = |error: &io::Error| eprintln!("The access log cannot be written: {error}");
    let log = log.map(|to| Log::new(to, failed)).transpose();
    let log = log.map_err(ServeError::Begin)?;
    let site =
        Site::beneath(root, orders.settings, log, stop.clone()).map_err(ServeError::Begin)?;
    let site = Arc::new(site);
    let gate = Gate::of_one(Arc::clone(&site), Some(places)).map_err(ServeError::Begin)?;
    let watched = line.try_clone().map_err(ServeError::Begin)?;
    let ending = site.log.as_ref().map(Log::ending);
    std::thread::spawn(move || {
        // Nothing more is said there: it returns at the end.
        let _ = (&watched).read(&mut [0]);
        stop.request();
        if wait_for_hangup(&watched).is_ok() {
            // The server is gone, and nobody waits for what is still sent.
            ending.iter().for_each(Ending::end);
            std::process::exit(1);
        }
    });
    let cut_off = room::iterative(listener, &site, &gate)?;
    let served = Served::of(&site, cut_off);
    drop(site);
    let report = serde_json::to_vec(&served).map_err(|error| ServeError::Begin(error.into()))?;
    // The server may be gone.
    let _ = (&line).write_all(&report);
    Ok(())
}

/// Waits until the other side is gone, and not only has said all.
fn wait_for_hangup(line: &UnixStream) -> io::Result<()> {
    loop {
        // A hang-up comes unasked: poll(2).
        let mut polled = [PollFd::new(line, PollFlags::empty())];
        match poll(&mut polled, None) {
            Ok(_) if polled[0].revents().contains(PollFlags::HUP) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

type Given = (Orders, TcpListener, OwnedFd, Places, Option<File>);

fn take_orders(line: &UnixStream) -> io::Result<Given> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut vectors = [IoSliceMut::new(&mut length)];
    recvmsg(line, &mut vectors, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > ORDERS_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut orders = vec![0; length];
    let mut line = line;
    line.read_exact(&mut orders)?;
    let orders: Orders = serde_json::from_slice(&orders)?;
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or(io::ErrorKind::InvalidData);
    let (listener, root) = (TcpListener::from(next()?), next()?);
    let places = Places {
        free: next()?,
        held: next()?,
    };
    let log = if orders.has_log {
        Some(File::from(next()?))
    } else {
        None
    };
    Ok((orders, listener, root, places, log))
}
