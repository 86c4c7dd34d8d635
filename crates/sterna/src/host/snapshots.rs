//! A file of the process every so often: [`Snapshots`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sterna_process::{Plain, ProcessId};

use super::seat::Seat;
use crate::protocol::FreezeOrder;
use crate::show;

const NAME_LETTERS_MAX: usize = 64;

/// When and where snapshots are taken.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    every: Duration,
    file: PathBuf,
}

/// Snapshots being taken until this is dropped.
pub(super) struct Taking {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Snapshots {
    /// Snapshots of a process into a directory: one file, replaced each time.
    pub(crate) fn new(every: Duration, to: &Path, name: &str, id: ProcessId) -> Result<Self> {
        ensure!(
            !every.is_zero(),
            "snapshots cannot be taken every 0 seconds"
        );
        let shown = to.display();
        let directory = to.canonicalize().with_context(|| {
            format!("could not find the directory {shown} for snapshots (make it first)")
        })?;
        ensure!(
            directory.is_dir(),
            "{shown} is not a directory: snapshots need one"
        );
        // The name is a user's, or comes from an image: only what is harmless in a path is taken over.
        let safe = |letter: &char| letter.is_ascii_alphanumeric() || "-_".contains(*letter);
        let name: String = name.chars().filter(safe).take(NAME_LETTERS_MAX).collect();
        let file = directory.join(format!("{name}.{}.sterna", id.short()));
        Ok(Self { every, file })
    }

    /// Takes snapshots. One that fails is reported, and the next is tried.
    pub(super) fn start(self, seat: Arc<Seat>) -> Result<Taking> {
        let (stop, stopped) = mpsc::channel();
        let take = move || {
            while stopped.recv_timeout(self.every) == Err(RecvTimeoutError::Timeout) {
                self.take(&seat);
            }
        };
        let thread = thread::Builder::new().name("snapshots".into()).spawn(take);
        Ok(Taking {
            stop: Some(stop),
            thread: Some(thread.context("could not start the thread that takes snapshots")?),
        })
    }

    fn take(&self, seat: &Seat) {
        // A process that stands still or has just ended is as it was.
        if seat.is_paused() || seat.control().wait(Duration::ZERO).is_some() {
            return;
        }
        let order = FreezeOrder {
            file: self.file.clone(),
            keep: true,
            thin: false,
        };
        if let Err(error) = seat.freeze(&order, &mut |_, _| {}) {
            if seat.control().wait(Duration::ZERO).is_some() {
                return;
            }
            let error = format!("{error:#}");
            show::note(format_args!(
                "no snapshot was taken this time: {}",
                Plain(&error)
            ));
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
