//! A file server: HTTP/1.1 (RFC 9110, 9112), static files, under six models of threads and processes.
//!
//! What a request means and how it is answered is written once, as a state machine without I/O: [`Connection`]. The
//! models differ only in who carries out its steps:
//!
//! | [`Model`] | who serves |
//! |---|---|
//! | iterative | one thread, one request after the other |
//! | thread-per-connection | a kernel thread for each connection |
//! | dispatcher | one thread looks who has sent something, a pool of kernel threads serves, with a bounded queue between |
//! | event-loop | one thread as a finite state machine that never waits for a client or a disk |
//! | processes | processes that were started before, each iterative, that share the listening socket |
//! | hybrid | a user thread for each connection, on few kernel threads |
//!
//! In the order in which a request meets them: `model` (with `gate`: who gets in, and `places`, which processes share), `drive` (steps, by calls that block),
//! `connection`, `request`, `target`, `site`, `condition`, `range`, `listing`, `media`, `answer`, `log`. Around them
//! `settings` and `stop`.

mod answer;
mod condition;
mod connection;
mod drive;
mod gate;
mod listing;
mod log;
mod media;
mod model;
mod places;
mod range;
mod request;
mod settings;
mod site;
mod status;
mod stop;
mod target;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub use log::{Ending, Log};
pub(crate) use model::worker;
pub use model::{Model, ServeError, Served, Workers, serve};
pub use settings::{Limits, Settings, Slowness};
pub use site::Site;
pub use stop::Stop;

#[cfg(doc)]
use connection::Connection;
