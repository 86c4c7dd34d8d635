//! Who may look at a process and end it, whoever owns it: [`Control`].
//!
//! Owning a process ([`Process`](crate::Process), [`Paused`](crate::Paused)) is one thing, watching it is
//! another: a `Control` can be cloned and used from any thread, while the process runs, while it is paused
//! and after it has ended.

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, ops};

use serde::{Deserialize, Serialize};

use crate::description::Description;
use crate::error::DescribeError;

/// What a kind implements for [`Control`].
pub trait Controls: Send + Sync {
    /// Ends the process soon: it executes no further instruction once [`Controls::wait`] says that it has
    /// ended. Returns at once. A process that is paused ends too: it can no longer be captured. Does nothing
    /// to one that has ended.
    fn kill(&self);

    /// What the process has used until now. Takes microseconds.
    fn stats(&self) -> Stats;

    /// Waits until the process has ended here, at most for `within`; `None` if it has not.
    fn wait(&self, within: Duration) -> Option<Exit>;

    /// What the process is doing, without owning it; it may be stopped for microseconds. Takes at most about
    /// `within`.
    ///
    /// # Errors
    /// If it has ended, or did not come to a point where it can be looked at.
    fn describe(&self, within: Duration) -> Result<Description, DescribeError>;
}

/// A handle by which a process can be watched and ended; cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<dyn Controls>);

impl Control {
    /// The handle for what a kind implements.
    #[must_use]
    pub fn new(controls: Arc<dyn Controls>) -> Self {
        Self(controls)
    }
}

impl ops::Deref for Control {
    type Target = dyn Controls;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Control").field(&self.stats().state).finish()
    }
}

/// What a process has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// What it is doing.
    pub state: State,
    /// When it was first started, on whatever machine, by that machine's clock.
    pub started: SystemTime,
    /// CPU time since then, on all machines.
    pub cpu_time: Duration,
    /// Length of its memory regions now, in bytes.
    pub memory_bytes: u64,
    /// The most that `memory_bytes` has been on this machine.
    pub memory_bytes_peak: u64,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It computes, or could.
    Running,
    /// It waits for something from its host: input, time, room for output.
    Waiting,
    /// It stands still and could be captured.
    Paused,
    /// It has ended or is no longer here.
    Ended,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It ended by itself with this code; 0 is success.
    Code(u32),
    /// It did something that its kind forbids.
    Trapped {
        /// What, e.g. `memory access out of bounds`.
        what: String,
        /// Where, one frame a line. May be empty.
        back_trace: String,
    },
    /// It was [killed](Controls::kill).
    Killed,
    /// It was [discarded](crate::Paused::discard) here, since it lives on elsewhere.
    Departed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Ended => "ended",
        })
    }
}

impl Exit {
    /// Longest [`what`](Exit::Trapped::what), in bytes.
    pub const WHAT_BYTES_MAX: usize = 512;
    /// Longest [`back_trace`](Exit::Trapped::back_trace), in bytes.
    pub const BACK_TRACE_BYTES_MAX: usize = 8 << 10;

    /// The same with texts, which may have come from a program, at most as long as they may be.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if let Self::Trapped { what, back_trace } = &mut self {
            what.truncate(what.floor_char_boundary(Self::WHAT_BYTES_MAX));
            back_trace.truncate(back_trace.floor_char_boundary(Self::BACK_TRACE_BYTES_MAX));
        }
        self
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(0) => f.write_str("ended"),
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Trapped { what, .. } => write!(f, "trapped: {}", crate::plain::Plain(what)),
            Self::Killed => f.write_str("killed"),
            Self::Departed => f.write_str("moved away"),
        }
    }
}
