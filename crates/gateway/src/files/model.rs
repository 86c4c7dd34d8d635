//! [`Model`]: how a server is organised, and [`serve`], which runs one.
//!
//! | module | models |
//! |---|---|
//! | `threads` | thread-per-connection and hybrid: one program, on two kinds of threads |
//! | `room` | iterative and dispatcher: connections that have sent nothing wait in a room |
//! | `event_loop` | event-loop, with `aides`, who wait for the disk in its place |
//! | `processes` | processes |

mod aides;
mod event_loop;
mod processes;
mod room;
mod threads;

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::epoll;
use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::site::Site;

pub(crate) use processes::worker;

/// Threads of a dispatcher's pool, and aides of an event loop, if nothing is said.
const POOL_THREADS: usize = 32;
/// Connections that wait to be taken; the kernel may allow fewer.
const BACKLOG: i32 = 4096;
/// Processes, if nothing is said.
const PROCESSES: usize = 16;
/// Descriptors that are not connections' own, at least.
const DESCRIPTORS_BESIDE: u64 = 64;

/// How a server is organised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// One thread, one request after the other.
    Iterative,
    /// A kernel thread for each connection.
    ThreadPerConnection,
    /// A thread that looks who has sent something, and a pool of kernel threads.
    Dispatcher,
    /// One thread that never waits.
    EventLoop,
    /// Processes that were started before.
    Processes,
    /// A user thread for each connection.
    Hybrid,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Iterative,
        Self::ThreadPerConnection,
        Self::Dispatcher,
        Self::EventLoop,
        Self::Processes,
        Self::Hybrid,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iterative => "iterative",
            Self::ThreadPerConnection => "thread-per-connection",
            Self::Dispatcher => "dispatcher",
            Self::EventLoop => "event-loop",
            Self::Processes => "processes",
            Self::Hybrid => "hybrid",
        }
    }

    /// How many connections a process with so many descriptors has room for. A quarter of them, or [`DESCRIPTORS_BESIDE`], is left for
    /// the files that are being sent and for the server itself.
    pub fn connections_within(self, descriptors: u64) -> u64 {
        let for_each = match self {
            // The socket, and what a thread of the kernel waits at until it can go on or is cancelled.
            Self::ThreadPerConnection => 2,
            _ => 1,
        };
        let beside = (descriptors / 4).max(DESCRIPTORS_BESIDE);
        descriptors.saturating_sub(beside) / for_each
    }
}

/// How many serve.
#[derive(Debug, Clone, Default)]
pub struct Workers {
    /// Threads of the pool, aides, processes, or kernel threads under user threads; 0 counts as 1. `None`: as many as
    /// usually do.
    pub count: Option<usize>,
    /// For [`Model::Processes`]: the program that is started for each, with arguments; it calls
    /// [`role::run`](crate::role::run).
    pub program: Option<(PathBuf, Vec<String>)>,
}

/// What a server has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Served {
    /// Connections that were let in.
    pub connections: u64,
    /// Requests that were answered, whatever the answer.
    pub requests: u64,
    /// Connections for which there was no room or no descriptor.
    pub turned_away: u64,
    /// Connections that were cut off at the end, since the time for them was over.
    pub cut_off: u64,
}

/// Why a server has not run or has ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The kernel gives no thread, descriptor or socket.
    #[error("the server could not begin")]
    Begin(#[source] io::Error),
    /// Waiting for events failed.
    #[error("the server cannot wait for its clients")]
    Wait(#[source] io::Error),
    /// The thread that serves has ended, and said why on standard error.
    #[error("the thread that serves has panicked")]
    Panicked,
    /// No program was named to start processes from.
    #[error("this model needs a program to start")]
    NoProgram,
    /// Processes end as soon as they are started.
    #[error("the server's processes end again and again; the last: {0}")]
    Processes(String),
}

/// Serves until a stop is asked for and all connections have ended, or the time for that is over.
///
/// # Errors
/// See [`ServeError`]. What goes wrong on one connection ends that connection only.
pub fn serve(
    model: Model,
    workers: &Workers,
    listener: TcpListener,
    site: Site,
) -> Result<Served, ServeError> {
    let site = Arc::new(site);
    // The standard library's queue is short, and who finds it full tries again only after a second.
    rustix::net::listen(&listener, BACKLOG).map_err(|errno| ServeError::Begin(errno.into()))?;
    let gate = Gate::new(Arc::clone(&site)).map_err(ServeError::Begin)?;
    let pool = workers.count.unwrap_or(POOL_THREADS);
    let cut_off = match model {
        Model::Iterative => room::iterative(listener, &site, &gate)?,
        Model::Dispatcher => room::dispatcher(listener, &site, &gate, pool)?,
        Model::ThreadPerConnection => threads::per_connection(listener, &site, &gate)?,
        Model::Hybrid => threads::hybrid(listener, &site, &gate, workers.count)?,
        Model::EventLoop => event_loop::run(listener, &site, &gate, pool)?,
        Model::Processes => {
            let count = workers.count.unwrap_or(PROCESSES);
            let program = workers.program.as_ref().ok_or(ServeError::NoProgram)?;
            return processes::run(listener, &site, count, program);
        }
    };
    Ok(Served::of(&site, cut_off))
}

impl Served {
    fn of(site: &Site, cut_off: usize) -> Self {
        let counts = &site.counts;
        Self {
            connections: counts.connections.load(Ordering::Relaxed),
            requests: counts.requests.load(Ordering::Relaxed),
            turned_away: counts.turned_away.load(Ordering::Relaxed),
            cut_off: cut_off as u64,
        }
    }
}

/// Waits until something happens, or for so long, which is a time that the kernel can express.
fn wait(
    epoll: &OwnedFd,
    events: &mut Vec<epoll::Event>,
    timeout: Duration,
) -> Result<(), ServeError> {
    events.clear();
    let timeout = timeout.try_into().ok();
    match epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        timeout.as_ref(),
    ) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(ServeError::Wait(errno.into())),
    }
}
