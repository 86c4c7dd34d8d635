//! Ctrl-C and its relatives: the first ends the program, the second ends this program at once. See [`Signals`].

use std::process;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator;

use super::seat::{End, Seat};

/// Signals that are kept from ending this program until somebody [starts](Signals::start) to read them.
pub(crate) struct Signals(iterator::Signals);

impl Signals {
    /// From now on signals wait to be read.
    pub(crate) fn catch() -> Result<Self> {
        iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
            .map(Self)
            .context("could not catch signals")
    }

    /// Ends the process on a signal.
    pub(super) fn start(self, seat: Arc<Seat>) -> Result<()> {
        let Self(mut signals) = self;
        let read = move || {
            let mut signals = signals.forever();
            if let Some(signal) = signals.next() {
                seat.end_by(End::Signal(signal));
            }
            if let Some(signal) = signals.next() {
                // What is left in the run directory is swept away by the next who looks there.
                process::exit(128 + signal);
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(read)
            .map(drop)
            .context("could not start the thread that reads signals")
    }

    /// Does something else on each signal.
    pub(crate) fn each(self, mut act: impl FnMut(i32) + Send + 'static) -> Result<()> {
        let Self(mut signals) = self;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().for_each(&mut act))
            .map(drop)
            .context("could not start the thread that reads signals")
    }
}
