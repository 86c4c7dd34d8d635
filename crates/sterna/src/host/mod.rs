//! Hosts a process in the foreground: from the moment it runs until it has ended here. See [`host`].
//!
//! ```text
//!  signals ──┐
//!  control   ├──► Seat: who may move the process ──► freeze ──► file
//!  socket  ──┤      │
//!  snapshots ┘      └──► Control: kill, watch
//! ```
//!
//! - `seat`: the process and its owner; pause, resume, kill
//! - `freeze`: from a process to a file
//! - `server`: the control socket
//! - `signals`: Ctrl-C and its relatives
//! - `snapshots`: a file every so often

mod freeze;
mod seat;
mod server;
mod signals;
mod snapshots;

pub(crate) use seat::{Facts, Seat};
pub(crate) use signals::{First, Guarded, Signals};
pub(crate) use snapshots::Snapshots;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sterna_process::{Exit, Plain, Running};

use crate::rundir::Entry;
use crate::show::{self, Lines};
use seat::End;
use server::Server;

/// The code of a run whose program was frozen: it is not done, so what should follow a success must not follow.
/// `EX_TEMPFAIL` of sysexits(3): try again later.
pub(crate) const EXIT_FROZEN: u8 = 75;
/// As shells show a program that ended by SIGABRT.
pub(crate) const EXIT_TRAPPED: u8 = 134;
/// As shells show a program that ended by SIGKILL.
pub(crate) const EXIT_KILLED: u8 = 137;

/// How often the end is waited for anew.
const WAIT: Duration = Duration::from_secs(3600);
/// How long a request that is being carried out may hold up the end.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs a process until it has ended here. Returns the code with which to end.
pub(crate) fn host(
    entry: Entry,
    running: Running,
    facts: Facts,
    signals: Signals,
    snapshots: Option<Snapshots>,
) -> Result<u8> {
    let listener = entry.listener().try_clone()?;
    facts.program.prepare_moves();
    let seat = Arc::new(Seat::new(running, facts, entry));
    signals.start(Arc::clone(&seat))?;
    let server = Server::start(listener, Arc::clone(&seat))?;
    let snapshots = snapshots.map(|snapshots| snapshots.start(Arc::clone(&seat)));
    let _snapshots = snapshots.transpose()?;

    let exit = loop {
        if let Some(exit) = seat.control().wait(WAIT) {
            break exit;
        }
    };
    // Whoever is carrying something out removes what is half done, and answers.
    seat.settle(DRAIN);
    seat.leave(&exit);
    server.drain(DRAIN);
    Ok(code(&seat, exit))
}

/// Tells the user how the process ended, where the program itself does not, and gives the code that says it.
fn code(seat: &Seat, exit: Exit) -> u8 {
    let name = Plain(&seat.facts().local.name).to_string();
    match (exit, seat.end()) {
        (Exit::Code(code), _) => code.try_into().unwrap_or(u8::MAX),
        (Exit::Trapped { what, back_trace }, _) => {
            let mut message = format!("{name} trapped: {}", Plain(&what));
            if !back_trace.is_empty() {
                message.push('\n');
                message.push_str(&Lines(&back_trace).to_string());
            }
            show::note(message);
            EXIT_TRAPPED
        }
        (Exit::Killed, Some(End::Signal(signal))) => 128 + signal as u8,
        (Exit::Killed, _) => {
            show::note(format_args!("{name} was killed"));
            EXIT_KILLED
        }
        (Exit::Departed, Some(End::Frozen(file))) => {
            show::note(format_args!("{name} is frozen into {}", show::path(&file)));
            EXIT_FROZEN
        }
        (Exit::Departed, _) => {
            show::note(format_args!("{name} has left"));
            EXIT_FROZEN
        }
    }
}
