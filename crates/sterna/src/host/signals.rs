//! Ctrl-C and its relatives: the first ends the program, the second ends this program at once. See [`Signals`].

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator;

use super::seat::{End, Seat};

/// How long the second signal waits for what is given up.
const HURRY_WITHIN: Duration = Duration::from_secs(2);

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
                // Half of an image is removed by who writes it.
                seat.hurry();
                seat.settle(HURRY_WITHIN);
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

    /// Does something, and does not wait for its end if a signal comes first.
    pub(crate) fn or_done<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<First<T>> {
        let (told, first) = mpsc::channel();
        let signalled = told.clone();
        self.each(move |signal| drop(signalled.send(First::Signal(signal))))?;
        thread::Builder::new()
            .name("work".into())
            .spawn(move || told.send(First::Done(work())))
            .context("could not start a thread")?;
        first.recv().map_err(|_| anyhow!("a thread failed"))
    }

    /// From now on the first signal ends what is read [through this](Interruptible::guard), and the second ends this program.
    pub(crate) fn interrupt_reading(self) -> Result<Interruptible> {
        let (hung_up, held) = io::pipe().context("could not make a pipe")?;
        let caught = Arc::new(AtomicI32::new(0));
        let interruptible = Interruptible {
            hung_up,
            caught: Arc::clone(&caught),
        };
        let mut held = Some(held);
        self.each(move |signal| {
            if caught.swap(signal, Ordering::SeqCst) != 0 {
                process::exit(128 + signal);
            }
            drop(held.take());
        })?;
        Ok(interruptible)
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

/// What came first.
pub(crate) enum First<T> {
    Done(T),
    Signal(i32),
}

/// What a signal interrupts.
pub(crate) struct Interruptible {
    /// Its other end is closed by the first signal.
    hung_up: PipeReader,
    caught: Arc<AtomicI32>,
}

impl Interruptible {
    /// The signal that came.
    pub(crate) fn signal(&self) -> Option<i32> {
        Some(self.caught.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// What is read from `from` until a signal comes; then reading fails, also if nothing arrives.
    pub(crate) const fn guard<R: Read + AsFd>(&self, from: R) -> Guarded<'_, R> {
        Guarded { from, by: self }
    }
}

/// See [`Interruptible::guard`].
pub(crate) struct Guarded<'a, R> {
    from: R,
    by: &'a Interruptible,
}

impl<R: Read + AsFd> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut both = [
                PollFd::new(&self.by.hung_up, PollFlags::empty()),
                PollFd::new(&self.from, PollFlags::IN),
            ];
            match poll(&mut both, None) {
                Ok(_) if !both[0].revents().is_empty() => {
                    // No `Interrupted`, after which it would be tried again.
                    return Err(io::Error::other("interrupted"));
                }
                Ok(_) => return self.from.read(buffer),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_guarded_is_read_until_a_signal_comes_also_if_nothing_arrives() {
        let (hung_up, held) = io::pipe().unwrap();
        let by = Interruptible {
            hung_up,
            caught: Arc::new(AtomicI32::new(0)),
        };
        let (reading, mut writing) = io::pipe().unwrap();
        let mut guarded = by.guard(reading);
        writing.write_all(b"ab").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(guarded.read(&mut buffer).unwrap(), 2);
        drop(held);
        // The other end is still open.
        assert!(guarded.read_exact(&mut buffer).is_err());
        drop(writing);
    }
}
