//! A process and who may do something with it: [`Seat`].
//!
//! ```text
//!               pause                     freeze
//!    Running ──────────► Paused ◄──► Busy ────────► Gone
//!       ▲ ◄────────────────┘           ▲
//!       │       resume                 │
//!       └──────────────────────────────┘
//! ```
//!
//! Whoever does something that takes time makes it `Busy`, so that nobody else begins something; what the
//! seat's [`Control`] can do can be done at any time.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use sterna_process::{
    Control, Exit, ImageKey, Memory, Paused, Pausing, Process, ProcessId, Running,
};

use crate::kinds::ProgramBytes;
use crate::local::Local;
use crate::protocol::{Described, Status, ThawReport};
use crate::rundir::Entry;

/// How long a process may take until it stands still. Programs stop within milliseconds; a system call that
/// cannot be interrupted may take longer.
pub(super) const PAUSE_WITHIN: Duration = Duration::from_secs(10);
const KILL_WITHIN: Duration = Duration::from_secs(10);
const DESCRIBE_WITHIN: Duration = Duration::from_secs(2);

/// What does not change while a process is hosted.
pub(crate) struct Facts {
    pub(crate) id: ProcessId,
    pub(crate) local: Local,
    pub(crate) program: ProgramBytes,
    pub(crate) key: ImageKey,
    /// How it came here, if it was thawed.
    pub(crate) thaw: Option<ThawReport>,
}

/// A process that is hosted.
pub(crate) struct Seat {
    facts: Facts,
    control: Control,
    memory: Arc<dyn Memory>,
    held: Mutex<Held>,
    /// Notified when `held` is no longer busy.
    freed: Condvar,
    end: Mutex<Option<End>>,
    /// Until the process is no longer found under this host.
    entry: Mutex<Option<Entry>>,
    /// Whether what takes time is to be given up.
    is_hurried: AtomicBool,
}

/// The process, as far as it is here.
pub(super) enum Held {
    Running(Box<dyn Process>),
    /// A user asked for it.
    Paused(Box<dyn Paused>),
    /// Someone has it, and what for.
    Busy(&'static str),
    Gone,
}

/// Why a process ended that did not end by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Signal(i32),
    Killed,
    Frozen(PathBuf),
}

impl Seat {
    pub(super) fn new(running: Running, facts: Facts, entry: Entry) -> Self {
        let Running { process, control } = running;
        Self {
            facts,
            control,
            memory: process.memory(),
            held: Mutex::new(Held::Running(process)),
            freed: Condvar::new(),
            end: Mutex::new(None),
            entry: Mutex::new(Some(entry)),
            is_hurried: AtomicBool::new(false),
        }
    }

    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) const fn control(&self) -> &Control {
        &self.control
    }

    /// The process, for someone who says what for.
    pub(super) fn take(&self, doing: &'static str) -> Result<Held> {
        let mut held = locked(&self.held);
        match *held {
            Held::Busy(other) => bail!("it is {other} already"),
            Held::Gone => bail!("it has just ended"),
            Held::Running(_) | Held::Paused(_) => Ok(mem::replace(&mut held, Held::Busy(doing))),
        }
    }

    /// Gives back what was taken.
    pub(super) fn put(&self, back: Held) {
        *locked(&self.held) = back;
        self.freed.notify_all();
    }

    /// Lets it stand still until it is resumed; nothing if it does already.
    pub(super) fn pause(&self) -> Result<()> {
        let process = match self.take("being paused")? {
            Held::Running(process) => process,
            other => {
                self.put(other);
                return Ok(());
            }
        };
        match process.pause(PAUSE_WITHIN) {
            Pausing::Paused(paused) => self.put(Held::Paused(paused)),
            Pausing::Exited(_) => {
                self.put(Held::Gone);
                bail!("it has just ended");
            }
            Pausing::Refused(process, why) => {
                self.put(Held::Running(process));
                return Err(why.into());
            }
        }
        Ok(())
    }

    /// Lets it run on; nothing if it does already.
    pub(super) fn resume(&self) -> Result<()> {
        let back = match self.take("being resumed")? {
            Held::Paused(paused) => Held::Running(paused.resume().process),
            other => other,
        };
        self.put(back);
        Ok(())
    }

    /// Ends it, and waits until it has ended.
    pub(super) fn kill(&self) -> Result<()> {
        self.end_by(End::Killed);
        match self.control.wait(KILL_WITHIN) {
            Some(exit) => {
                self.leave(&exit);
                Ok(())
            }
            None => bail!("it was told to end and has not within {KILL_WITHIN:?}"),
        }
    }

    /// Ends it soon, for a reason.
    pub(super) fn end_by(&self, end: End) {
        self.set_end(end);
        self.control.kill();
    }

    /// Notes why it ends, unless it was ended before.
    pub(super) fn set_end(&self, end: End) {
        locked(&self.end).get_or_insert(end);
    }

    pub(super) fn end(&self) -> Option<End> {
        locked(&self.end).clone()
    }

    /// Takes the process out of the run directory: from now on it is not found under this host.
    pub(super) fn leave(&self, exit: &Exit) {
        let Some(mut entry) = locked(&self.entry).take() else {
            return;
        };
        entry.set_outcome(match (exit, self.end()) {
            (Exit::Departed, Some(End::Frozen(file))) => {
                format!("was frozen into {}", file.display())
            }
            (Exit::Killed, _) => "was killed".to_owned(),
            (exit, _) => exit.to_string(),
        });
    }

    /// Has given up what takes time, so that nothing half done is left.
    pub(super) fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.is_hurried.load(Ordering::Relaxed)
    }

    /// Waits until nobody is doing anything with the process.
    pub(super) fn settle(&self, within: Duration) {
        let busy = |held: &mut Held| matches!(held, Held::Busy(_));
        let held = locked(&self.held);
        let _ = self.freed.wait_timeout_while(held, within, busy);
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(*locked(&self.held), Held::Paused(_))
    }

    pub(super) fn status(&self) -> Status {
        let doing = match *locked(&self.held) {
            Held::Busy(doing) => Some(doing.to_owned()),
            _ => None,
        };
        Status {
            stats: self.control.stats(),
            doing,
        }
    }

    pub(super) fn describe(&self) -> Result<Described> {
        let description = match &mut *locked(&self.held) {
            // It does not come to any point while it stands still; it is at one.
            Held::Paused(paused) => Some(paused.capture()?.description),
            _ => None,
        };
        let description = match description {
            Some(description) => description,
            None => self.control.describe(DESCRIBE_WITHIN)?,
        };
        Ok(Described {
            description,
            status: self.status(),
            layout: self.memory.layout(),
            processor: std::env::consts::ARCH.to_owned(),
            thaw: self.facts.thaw.clone(),
        })
    }
}

/// What the lock protects is whole also if a thread that held it has panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
